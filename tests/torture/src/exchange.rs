//! What one peer does, from its first datagram to its last.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Sends so many datagrams, compares what comes back, and ends.
pub(crate) struct Exchange {
    /// How many different datagrams are sent.
    pub(crate) datagrams: u64,
    /// How long each is.
    pub(crate) bytes: RangeInclusive<usize>,
    /// How many times each is sent.
    pub(crate) copies: u32,
    /// The time between one datagram and the next.
    pub(crate) pause: Duration,
    /// How long nothing is read, from the start.
    pub(crate) deaf: Duration,
    pub(crate) answers: Expected,
}

/// What is expected of the answers, besides that none is wrong.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Expected {
    /// Each datagram has to be answered before the next one is sent. It is sent again while it is not.
    Each,
    /// Some may be lost.
    Some,
    /// None is read.
    Unread,
}

impl Exchange {
    /// A byte there and back.
    pub(crate) fn ping() -> Exchange {
        Exchange {
            datagrams: 1,
            bytes: 1..=1,
            copies: 1,
            pause: Duration::ZERO,
            deaf: Duration::ZERO,
            answers: Expected::Each,
        }
    }
}
