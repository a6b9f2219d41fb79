//! One client of the server: a connection, or a peer that sends datagrams.
//!
//! Events only say what is possible; [`Client::advance`] does all the work, as much as its budget allows.

use std::time::{Duration, Instant};

use mio::event::Source;

use crate::failure::Failure;

pub(crate) trait Client {
    fn source(&mut self) -> &mut dyn Source;

    fn activity(&mut self) -> &mut Activity;

    fn advance(&mut self, now: Instant, buffer: &mut [u8], answers: &mut Answers) -> Result<Step, Failure>;

    /// Asks for nothing more, once it was answered at all. Returns whether that is news.
    fn retire(&mut self) -> bool;

    /// Returns where in what this client sent of late these bytes are.
    fn position_of(&self, bytes: &[u8]) -> Option<u64>;
}

/// What a client's socket may do, and when it last did something.
pub(crate) struct Activity {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// When something last moved.
    pub(crate) moved: Instant,
}

impl Activity {
    pub(crate) fn new(now: Instant) -> Self {
        Activity { readable: false, writable: false, moved: now }
    }

    /// Something may be read, or written, or both.
    pub(crate) fn on_event(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    /// Gives the server so much more time for what it is asked now.
    pub(crate) fn excuse(&mut self, late: Duration) {
        self.moved += late;
    }
}

/// What comes next.
pub(crate) enum Step {
    /// An event, or this time.
    Wait(Instant),
    /// More work, when others had their turn.
    Again,
    /// It is over.
    Done,
}

/// What came back in a turn.
#[derive(Default)]
pub(crate) struct Answers {
    pub(crate) bytes: u64,
    /// How long the last one took that is complete.
    pub(crate) took: Option<Duration>,
    /// Connections that are reset on purpose.
    pub(crate) resets: u64,
    /// Datagrams that had no answer when their sender was done.
    pub(crate) unanswered: u64,
}

/// System calls each way before others have their turn. They are what a turn's time is spent in: a small piece for a
/// full buffer costs the kernel as much as a large one, or more.
pub(crate) const BUDGET: usize = 16;

/// Bytes that came at the wrong place are looked for in so many before and after those that are awaited.
pub(crate) const SEARCHED: u64 = 1 << 20;

/// So many wrong bytes are looked for elsewhere.
pub(crate) const SHOWN: usize = 16;
