//! The axes of a connection's phase. They are independent, because they change side by side: the peer's direction may
//! be over while ours is open, and either may be over while the server stops. [`Phase`](super::phase::Phase) has one
//! value of each.
//!
//! | axis | values, in the usual order |
//! |---|---|
//! | [`Stage`], of the connection | `Connecting`, `Open`, `Closing`, `Lingering`, `Aborting`, `Dead` |
//! | [`Owed`], the call that the handler must still get | `Setup`, `Nothing`, `Finish`, `Gone` |
//! | [`Inbound`], the peer's direction | `Open`, `Ended`, `Shown`, `Told`; or `Datagrams` |
//! | [`Outbound`], ours | `Open`, `ShutDue`, `Shut`, `Broken` |
//! | [`Drain`], of the server's stop | `No`, `Asked`, `Quiet`, `Due`, `Told`, `ToldBusy` |
//! | [`Wake`], what wakes a resting connection | `Unregistered`, `Unwatched`, `Set` |

/// The stage of the connection. Most stages are steps on the way out, and compare in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
#[repr(u8)]
pub(crate) enum Stage {
    /// The connection is read, handled and written.
    Open,
    /// It is outbound and not established.
    Connecting,
    /// The queue is sent, then `finish` is called, then the output of `finish` is sent.
    Closing,
    /// Our FIN is sent, and further input is discarded.
    Lingering,
    /// `finish` is called, and then the connection is reset.
    Aborting,
    /// It will be reaped at the end of the turn.
    Dead,
}

/// The call that the handler must still get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Owed {
    /// `setup` succeeded: `finish`, once.
    Finish,
    /// `setup`: a new connection, or a replacement handler.
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
    /// The handler has received the unread input.
    Shown,
    /// `eof` was called.
    Told,
    /// A session of a datagram server, which has no stream that could end.
    Datagrams,
}

/// Our direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Outbound {
    Open,
    /// It ends when the output is sent.
    ShutDue,
    /// Our FIN is sent.
    Shut,
    /// The socket accepts no more output.
    Broken,
}

/// The progress of the server's stop for this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Drain {
    No,
    /// `drain` is called when the connection is quiet.
    Asked,
    /// No byte has moved for a while: `drain` is called if nothing waits.
    Quiet,
    /// `drain` is called now, after running jobs.
    Due,
    Told,
    /// `drain` was called although the connection was busy, so the peer may send more.
    ToldBusy,
}

/// What wakes a resting connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Wake {
    /// Events, and a timer that fires no later than the first of its limits, if it has one.
    Set,
    /// Events; its timer must be checked.
    Unwatched,
    /// Nothing: it is not registered with the selector, because it has never rested.
    Unregistered,
}
