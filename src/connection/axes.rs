//! The axes along which a connection moves. They are independent, because they run side by side: the peer's direction may
//! be over while ours is open, and either may be while the server stops. [`Phase`](super::phase::Phase) has one value of each.
//!
//! | axis | from the first value to the last |
//! |---|---|
//! | [`Stage`], of the connection | `Connecting`, `Open`, `Closing`, `Lingering`, `Aborting`, `Dead` |
//! | [`Owed`], what the handler has a right to | `Setup`, `Nothing`, `EndReason`, `Gone` |
//! | [`Inbound`], the peer's direction | `Open`, `Ended`, `Shown`, `Told`; or `Datagrams` |
//! | [`Outbound`], ours | `Open`, `ShutDue`, `Shut`, `Broken` |
//! | [`Drain`], of the server's stop | `No`, `Asked`, `Quiet`, `Due`, `Told` |
//! | [`Wake`], what wakes it when it rests | `Unregistered`, `Unwatched`, `Set` |

/// The stage of the connection. Most of them are steps on the way out, and those compare as they follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
#[repr(u8)]
pub(crate) enum Stage {
    /// It is read, handled and written.
    Open,
    /// Outbound, and not established.
    Connecting,
    /// What is queued is sent, then `finish` is called, then what that wrote is sent.
    Closing,
    /// Our FIN is sent, what still comes is discarded.
    Lingering,
    /// `finish` is called, then it is reset.
    Aborting,
    /// To be reaped at the end of the turn.
    Dead,
}

/// What the handler has a right to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Owed {
    /// `setup` succeeded: `finish`, once.
    Finish,
    /// `setup`: a fresh connection, or a handler that has taken over.
    Setup,
    /// `setup` is running or has failed, or the connection is not established.
    Nothing,
    /// The handler was dropped.
    Gone,
}

/// The peer's direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Inbound {
    Open,
    /// The peer has ended it.
    Ended,
    /// What was unread then has been shown to the handler.
    Shown,
    /// `eof` was called.
    Told,
    /// A session of a datagram server: there is no stream, and no end of it.
    Datagrams,
}

/// Our direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Outbound {
    Open,
    /// It ends once the output is sent.
    ShutDue,
    /// Our FIN is sent.
    Shut,
    /// The socket takes no more, ever.
    Broken,
}

/// How far the handler knows that the server is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Drain {
    No,
    /// It is told once the connection is quiet.
    Asked,
    /// Nothing has moved for a while: it is told if nothing waits.
    Quiet,
    /// It is told now; after the jobs that are under way.
    Due,
    Told,
}

/// What wakes the connection when it rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Wake {
    /// Events, and a timer that fires no later than the first of its limits, if it has one.
    Set,
    /// Events: its timer is to be looked at.
    Unwatched,
    /// Nothing: the selector has not been told of it, because it has never come to rest.
    Unregistered,
}
