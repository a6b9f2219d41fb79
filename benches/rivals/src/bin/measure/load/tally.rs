//! What a load has seen.

use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::time::{ClockId, clock_gettime};
use rustix::io::Errno;

use super::{Failures, Outcome, Watch};
use crate::job::Address;

/// The watch is told of progress no more often than this.
const PROGRESS_EVERY: Duration = Duration::from_millis(50);

/// Latencies beyond are recorded as this: nothing is waited for any longer.
const LATENCY_MAX: Duration = Duration::from_secs(200);

/// Why a message did not come back, or a connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Connect(Errno),
    Broken(Errno),
    /// The server ended the connection, with messages of ours still under way or when it was not its turn.
    Ended,
    Silent,
    WrongBytes(u64),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Connect(errno) => write!(f, "cannot connect: {errno}"),
            Fault::Broken(errno) => write!(f, "connection broken: {errno}"),
            Fault::Ended => f.write_str("closed by the server too early"),
            Fault::Silent => f.write_str("no answer"),
            Fault::WrongBytes(bytes) => write!(f, "{bytes} bytes that are not those sent"),
        }
    }
}

/// Counts what happens between [`begin`](Self::begin) and [`end`](Self::end), and failures at any time.
pub(super) struct Tally<'w> {
    address: Address,
    watch: &'w mut dyn Watch,
    outcome: Outcome,
    /// When it began, and this process's CPU time then.
    measuring: Option<(Instant, Duration)>,
    reported: Instant,
}

impl<'w> Tally<'w> {
    pub(super) fn new(address: &Address, watch: &'w mut dyn Watch) -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX.as_nanos() as u64, 3).expect("constant bounds");
        let outcome = Outcome {
            done: 0,
            bytes: 0,
            elapsed: Duration::ZERO,
            failures: Failures::default(),
            latency,
            own_cpu: Duration::ZERO,
            late: 0,
        };
        Tally { address: address.clone(), watch, outcome, measuring: None, reported: Instant::now() }
    }

    pub(super) fn begin(&mut self) {
        self.watch.begun();
        self.measuring = Some((Instant::now(), own_cpu()));
    }

    pub(super) fn end(&mut self) {
        if let Some((began, cpu)) = self.measuring.take() {
            self.outcome.elapsed = began.elapsed();
            self.outcome.own_cpu = own_cpu().saturating_sub(cpu);
            self.watch.ended();
        }
    }

    pub(super) fn is_measuring(&self) -> bool {
        self.measuring.is_some()
    }

    /// A message is back, in full and rightly.
    pub(super) fn echoed(&mut self, bytes: usize, latency: Duration) {
        if self.is_measuring() {
            self.outcome.done += 1;
            self.outcome.bytes += bytes as u64;
            self.outcome.latency.saturating_record(latency.as_nanos() as u64);
        }
    }

    /// So many messages could have been sent earlier.
    pub(super) fn late(&mut self, messages: u64) {
        if self.is_measuring() {
            self.outcome.late += messages;
        }
    }

    /// So many messages are lost.
    pub(super) fn failed(&mut self, fault: Fault, messages: u64) {
        let failures = &mut self.outcome.failures;
        match fault {
            Fault::Connect(_) => failures.connects += messages,
            Fault::Broken(_) | Fault::Ended => failures.broken += messages,
            Fault::Silent => failures.silent += messages,
            Fault::WrongBytes(bytes) => failures.wrong_bytes += bytes,
        }
        if failures.first.is_none() {
            failures.first = Some(format!("{}: {fault}", self.address));
        }
    }

    /// The first failure in words.
    pub(super) fn first_failure(&self) -> String {
        self.outcome.failures.first.clone().unwrap_or_else(|| format!("{}: no connection left", self.address))
    }

    pub(super) fn progress(&mut self, share: f64, now: Instant) {
        if self.is_measuring() && now - self.reported >= PROGRESS_EVERY {
            self.reported = now;
            self.watch.progress(share);
        }
    }

    pub(super) fn outcome(self) -> Outcome {
        self.outcome
    }
}

/// CPU time that this process has used so far.
fn own_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
