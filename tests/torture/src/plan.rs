//! What one connection does, from its start to its end.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Sends so many bytes, compares what comes back, and ends.
pub(crate) struct Plan {
    /// How many bytes are sent.
    pub(crate) bytes: u64,
    /// How many of them in one write.
    pub(crate) piece: RangeInclusive<usize>,
    /// The time between one piece and the next.
    pub(crate) pause: Duration,
    /// Whether a piece has to be back before the next one is sent.
    pub(crate) ping_pong: bool,
    /// How long nothing is read, from the start of the connection.
    pub(crate) deaf: Duration,
    /// How it ends.
    pub(crate) end: End,
    /// When it ends.
    pub(crate) after: After,
}

/// The way a connection is ended.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum End {
    /// close(2); what has not been read by then is lost, which makes a reset of it.
    Close,
    /// A FIN, and then everything that is still on its way back has to come, and the end after it.
    HalfClose,
    /// A reset. Unix sockets have none: closed.
    Reset,
}

/// What the end waits for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum After {
    /// The last byte was sent.
    Sent,
    /// The last byte came back.
    Answered,
}
