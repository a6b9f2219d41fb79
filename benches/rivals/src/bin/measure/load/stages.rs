//! The course of every load: warm-up, what is measured, farewell.
//!
//! ```text
//!   warm-up ──▶ [drained, before a count] ──▶ begun ── measured ── ended ──▶ drained
//! ```
//!
//! What is measured for a time begins and ends in full swing: whatever comes back in between is counted, including what
//! was under way when it began, in return for what still is when it ends. A count is exact instead: nothing else is
//! under way when it begins, and it ends when the last of so many messages is back. So whatever the server does in
//! between, system calls and instructions included, is for those messages.

use std::time::{Duration, Instant};

use super::quota::Quota;
use super::tally::Tally;
use super::{Outcome, Until, Watch};
use crate::job::Address;

/// A message on whose connection nothing has come for so long will not come. Tests have less patience.
pub(super) const SILENCE: Duration = if cfg!(test) { Duration::from_secs(2) } else { Duration::from_secs(10) };

/// A count that has not been reached by then is not waited for.
const COUNT_BOUND: Duration = Duration::from_secs(120);

/// The end of draining, even if bytes still trickle in.
pub(super) const DRAIN_BOUND: Duration = Duration::from_secs(15);

/// A wait is no longer than this, so that progress is shown.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// Clients of one kind.
pub(super) trait Clients {
    /// How often [`sweep`](Self::sweep) is called.
    const SWEEP_EVERY: Duration = Duration::from_secs(1);

    /// Starts as many messages as the clients have room for and the quota allows: the beginning of a stage.
    fn fill(&mut self, quota: &mut Quota, tally: &mut Tally<'_>) -> Result<(), String>;

    /// Waits, not longer than `timeout`, and does what there is to do.
    fn turn(&mut self, timeout: Duration, quota: &mut Quota, tally: &mut Tally<'_>) -> Result<(), String>;

    /// Gives up on what has been silent for too long.
    fn sweep(&mut self, now: Instant, quota: &mut Quota, tally: &mut Tally<'_>) -> Result<(), String>;

    /// Gives up on all that is under way.
    fn give_up(&mut self, tally: &mut Tally<'_>);

    /// Messages not back yet.
    fn under_way(&self) -> u64;

    /// Whether nothing more can happen, since every connection has failed.
    fn are_gone(&self) -> bool {
        false
    }
}

/// How long a count may take, and a time takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stage {
    pub(super) until: Until,
    pub(super) bound: Duration,
}

impl From<Until> for Stage {
    fn from(until: Until) -> Self {
        Stage { until, bound: COUNT_BOUND }
    }
}

/// Leads `clients` through all stages.
///
/// # Errors
///
/// What makes going on pointless, in words and with the address.
pub(super) fn run(
    clients: &mut impl Clients,
    address: &Address,
    warm_up: Stage,
    measured: Stage,
    watch: &mut dyn Watch,
) -> Result<Outcome, String> {
    let mut tally = Tally::new(address, watch);
    stage(clients, warm_up, &mut tally)?;
    if matches!(measured.until, Until::Count(_)) {
        drain(clients, &mut tally)?;
    }
    if clients.are_gone() {
        return Err(tally.first_failure());
    }
    tally.begin();
    let result = stage(clients, measured, &mut tally);
    // The watch is told of the end even if it is a bad one.
    tally.end();
    result?;
    drain(clients, &mut tally)?;
    Ok(tally.outcome())
}

fn stage<C: Clients>(clients: &mut C, stage: Stage, tally: &mut Tally<'_>) -> Result<(), String> {
    let mut now = Instant::now();
    let mut swept = now;
    let mut quota = Quota::new(stage.until, stage.bound, now);
    clients.fill(&mut quota, tally)?;
    while !quota.is_over(now) && !clients.are_gone() {
        if quota.is_overdue(now) {
            clients.give_up(tally);
            break;
        }
        clients.turn(quota.rest(now).min(WAIT_MAX), &mut quota, tally)?;
        now = Instant::now();
        if now - swept >= C::SWEEP_EVERY {
            swept = now;
            clients.sweep(now, &mut quota, tally)?;
        }
        tally.progress(quota.share(now), now);
    }
    Ok(())
}

/// Waits until all that is under way is back or given up, and starts nothing.
fn drain<C: Clients>(clients: &mut C, tally: &mut Tally<'_>) -> Result<(), String> {
    let began = Instant::now();
    let mut quota = Quota::none(began);
    while clients.under_way() > 0 && !clients.are_gone() {
        clients.turn(WAIT_MAX, &mut quota, tally)?;
        let now = Instant::now();
        clients.sweep(now, &mut quota, tally)?;
        if now - began >= DRAIN_BOUND {
            clients.give_up(tally);
            break;
        }
    }
    Ok(())
}
