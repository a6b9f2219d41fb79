//! What a server did wrong to a connection: what was expected, and what was seen.

use std::fmt::{self, Display};
use std::io;
use std::time::Duration;

#[derive(Debug)]
pub(crate) enum Failure {
    /// It could not be made.
    Connect(io::Error),
    /// It broke.
    Broken { error: io::Error, progress: Progress },
    /// It ended too early.
    Ended(Progress),
    /// Nothing moved for too long.
    Stalled { waited: Duration, awaited: &'static str, progress: Progress },
    /// A byte is not the one that was sent.
    Wrong { position: u64, expected: u8, seen: Vec<u8> },
    /// There came more than was sent.
    Unasked { sent: u64, seen: Vec<u8> },
    /// A datagram is none of those that were sent and have no answer.
    Foreign { unanswered: usize, bytes: usize, seen: Vec<u8> },
}

/// How far a connection had got.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) sent: u64,
    pub(crate) answered: u64,
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Connect(error) => write!(f, "expected to connect, seen: {error}"),
            Failure::Broken { error, progress } => write!(f, "expected {progress}, seen: {error}"),
            Failure::Ended(progress) => write!(f, "expected {progress}, seen: the end"),
            Failure::Stalled { waited, awaited, progress } => {
                write!(f, "expected {awaited} within {} s and {progress}, seen: nothing", waited.as_secs_f32())
            }
            Failure::Wrong { position, expected, seen } => {
                write!(f, "expected {expected:#04x} as byte {position}, seen: {:#04x}", seen[0])
            }
            Failure::Unasked { sent, seen } => {
                write!(f, "expected nothing after the {sent} bytes that were sent, seen: {:#04x}", seen[0])
            }
            Failure::Foreign { unanswered, bytes, .. } => {
                write!(f, "expected one of {unanswered} datagrams without an answer, seen: {bytes} other bytes")
            }
        }
    }
}

impl Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} more bytes after the {} of {} that came back",
            self.sent - self.answered,
            self.answered,
            self.sent
        )
    }
}
