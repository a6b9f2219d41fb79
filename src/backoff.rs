//! The pauses between attempts.

use std::time::Duration;

/// How long to wait before retrying an operation for which resources had run out: 10 ms, then twice as long each time,
/// up to 1 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) const MAX: Duration = Duration::from_secs(1);

    /// Returns the pause before the next attempt. The one after that is longer.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(Backoff::MAX);
        pause
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { next: Duration::from_millis(10) }
    }
}
