//! The deadlines of a connection's limits.

use super::Connection;
use super::axes::{Drain, Stage};
use crate::lifecycle::Timeout;
use crate::limits::Limits;
use crate::timers::nanos;

/// The limit for which a connection's timer is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Limit(Timeout),
    Connect,
    #[cfg(feature = "tls")]
    Handshake,
    Lingered,
    Quiet,
}

impl Connection {
    /// Returns whether the connection can rest without a check of its timer: the timer is set, and nothing is due
    /// earlier.
    #[inline]
    pub(crate) fn timer_stands(&self) -> bool {
        self.state.phase.is_settled() && self.holds_nothing()
    }

    /// Returns the next time at which a limit could expire, and that limit. A paused limit does not advance.
    pub(crate) fn deadline(&self, limits: &Limits, drain_quiet: std::time::Duration) -> Option<(u64, Due)> {
        let mut next = (u64::MAX, None);
        let mut consider = |since: u64, time: Option<std::time::Duration>, due| {
            if let Some(time) = time {
                // A handler that continues after a limit of zero would be called without end.
                let time =
                    if !matches!(due, Due::Lingered | Due::Quiet) { nanos(time).max(LIMIT_MIN) } else { nanos(time) };
                let deadline = since.saturating_add(time);
                if deadline < next.0 {
                    next = (deadline, Some(due));
                }
            }
        };
        let state = &self.state;
        let (stage, drain) = (state.phase.stage(), state.phase.drain());
        match stage {
            Stage::Dead | Stage::Aborting => return None,
            Stage::Lingering => consider(state.activity, Some(limits.linger_timeout), Due::Lingered),
            Stage::Connecting => consider(state.activity, limits.connect_timeout, Due::Connect),
            Stage::Open | Stage::Closing => {
                if let Some(queue) = &self.io.queue
                    && !state.phase.is_handshaking()
                {
                    let timeout = state.time_limit(Timeout::Write, limits);
                    consider(queue.progress, timeout, Due::Limit(Timeout::Write));
                }
            }
        }
        #[cfg(feature = "tls")]
        if let Some((since, time, due)) =
            self.layer_deadline(limits).filter(|_| matches!(stage, Stage::Open | Stage::Closing))
        {
            consider(since, time, due);
        }
        if stage == Stage::Open {
            if let Some(carry) = &self.carry
                && !state.is_read_paused()
            {
                let timeout = state.time_limit(Timeout::Read, limits);
                consider(carry.since, timeout, Due::Limit(Timeout::Read));
            }
            if let Some(since) = state.message_since() {
                consider(since, state.time_limit(Timeout::Message, limits), Due::Limit(Timeout::Message));
            }
            if drain == Drain::Asked && !state.has_jobs() {
                consider(state.activity, Some(drain_quiet), Due::Quiet);
            }
            let timeout = state.time_limit(Timeout::Idle, limits);
            consider(state.activity, timeout, Due::Limit(Timeout::Idle));
        }
        next.1.map(|due| (next.0, due))
    }

    /// Corrects the stamps that a batch has set, which ran from `begun` until `now`.
    pub(crate) fn restamp(&mut self, begun: u64, now: u64) {
        let renew = |stamp: &mut u64| {
            if *stamp == begun {
                *stamp = now;
            }
        };
        renew(&mut self.state.activity);
        #[cfg(feature = "tls")]
        self.io.stream.secured_mut().into_iter().for_each(|secured| renew(&mut secured.since));
        self.carry.iter_mut().for_each(|carry| renew(&mut carry.since));
        self.io.queue.iter_mut().for_each(|queue| renew(&mut queue.progress));
    }

    /// The read timeout starts again, because it has expired or because reading was paused.
    pub(super) fn restart_read_limit(&mut self, now: u64) {
        self.carry.iter_mut().for_each(|carry| carry.since = now);
        #[cfg(feature = "tls")]
        self.restart_record(now);
    }

    /// The handler continues after a timeout: starts its clock again.
    pub(crate) fn forgive(&mut self, timeout: Timeout, now: u64) {
        match timeout {
            Timeout::Read => self.restart_read_limit(now),
            Timeout::Write => self.io.queue.iter_mut().for_each(|queue| queue.progress = now),
            Timeout::Message => self.state.forgive_message(now),
            Timeout::Idle => self.state.activity = now,
        }
    }
}

/// The shortest time limit: the shortest wait of a selector.
const LIMIT_MIN: u64 = 1_000_000;
