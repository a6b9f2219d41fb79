//! How much of a stage is still to be done.

use std::time::{Duration, Instant};

use super::Until;

/// What one stage of a load may start, and how far it has come.
#[derive(Clone, Debug)]
pub(super) struct Quota {
    until: Until,
    /// When it is over even if messages of a [`Until::Count`] are missing.
    bound: Duration,
    began: Instant,
    started: u64,
    ended: u64,
}

impl Quota {
    pub(super) fn new(until: Until, bound: Duration, now: Instant) -> Self {
        Quota { until, bound, began: now, started: 0, ended: 0 }
    }

    /// One that lets nothing start.
    pub(super) fn none(now: Instant) -> Self {
        Quota::new(Until::Count(0), Duration::ZERO, now)
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// How many more messages than the `wanted` ones may not be started.
    pub(super) fn left(&self) -> u64 {
        match self.until {
            Until::Elapsed(_) => u64::MAX,
            Until::Count(count) => count - self.started,
        }
    }

    /// How many messages are allowed of those wanted. They have to be started.
    pub(super) fn take(&mut self, wanted: u64) -> u64 {
        let taken = wanted.min(self.left());
        self.started += taken;
        taken
    }

    /// So many messages will not be started after all.
    pub(super) fn put_back(&mut self, messages: u64) {
        self.started -= messages;
    }

    /// So many messages are back, or will never be.
    pub(super) fn ended(&mut self, messages: u64) {
        self.ended += messages;
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        match self.until {
            Until::Elapsed(duration) => now - self.began >= duration,
            Until::Count(count) => self.ended >= count,
        }
    }

    /// Whether a count has taken longer than anyone waits.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        matches!(self.until, Until::Count(_)) && now - self.began >= self.bound
    }

    /// How long at most until this is over.
    pub(super) fn rest(&self, now: Instant) -> Duration {
        let whole = match self.until {
            Until::Elapsed(duration) => duration,
            Until::Count(_) => self.bound,
        };
        whole.saturating_sub(now - self.began)
    }

    /// How much of it is done, from 0 to 1.
    pub(super) fn share(&self, now: Instant) -> f64 {
        let share = match self.until {
            Until::Elapsed(duration) => (now - self.began).as_secs_f64() / duration.as_secs_f64(),
            Until::Count(count) => self.started as f64 / count as f64,
        };
        share.clamp(0.0, 1.0)
    }
}
