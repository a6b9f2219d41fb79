//! State that a connection and the output of its running callback share.

use super::queue::Queue;
use crate::net::Stream;
use crate::net::readiness::Readiness;

/// The socket and its queue.
#[derive(Debug)]
pub(crate) struct Io {
    pub(crate) stream: Stream,
    pub(crate) queue: Option<Box<Queue>>,
}

/// The state of the output: some of the flags below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutputState(pub(crate) u8);

impl OutputState {
    /// The socket has accepted everything so far.
    pub(crate) const WRITABLE: u8 = Readiness::WRITABLE;
    /// Nothing more can be written.
    pub(crate) const SHUT: u8 = 1 << 0;
    /// The handler has seen that the output was full, even if the socket has accepted everything since.
    pub(crate) const WAS_FULL: u8 = 1 << 2;
    /// The gathered bytes form a datagram, which may be empty.
    pub(crate) const REPLIED: u8 = 1 << 3;
    /// The connection was lost: the peer or the network broke it, or too much output is unsent.
    pub(crate) const BROKEN: u8 = 1 << 4;
    pub(crate) const OVERFLOWN: u8 = 1 << 5;

    #[inline]
    pub(crate) fn has(self, flags: u8) -> bool {
        self.0 & flags != 0
    }
}
