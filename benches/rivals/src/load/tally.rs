//! What a load may still start, and what it has seen.

use super::Until;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What went wrong, by kind, warm-up and end included. Each kind counts the messages lost, and a connection that fails
/// without any under way as one.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Failures {
    /// connect(2) failed, or took too long.
    pub(crate) connects: u64,
    /// Reset, or closed before the whole echo was there.
    pub(crate) broken: u64,
    /// No answer in time. Of datagrams: lost.
    pub(crate) silent: u64,
    /// Bytes that are not the ones sent, or too many. The rest of their connection is not looked at.
    pub(crate) wrong_bytes: u64,
    /// The first of them in words, with the address.
    pub(crate) first: Option<String>,
}

/// What a run saw between its beginning and its end.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// Messages (connections, for a flood) that were echoed in full and correctly.
    pub(crate) done: u64,
    pub(crate) elapsed: Duration,
    /// CPU time of this process meanwhile.
    pub(crate) own_cpu: Duration,
}

/// Why a message did not come back, or a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("connection broken: {0}")]
    Broken(io::Error),
    /// The server ended the connection before it should have.
    #[error("closed by the server too early")]
    Ended,
    #[error("no answer")]
    Silent,
    #[error("{0} bytes that are not those sent")]
    WrongBytes(u64),
}

/// Counts one run after the other.
pub(crate) struct Tally {
    address: SocketAddr,
    until: Until,
    began: Instant,
    own_cpu: Duration,
    started: u64,
    /// Messages that are back or have failed.
    ended: u64,
    done: u64,
    failures: Failures,
}

impl Tally {
    pub(super) fn new(address: SocketAddr) -> Tally {
        Tally {
            address,
            until: Until::Count(0),
            began: Instant::now(),
            own_cpu: Duration::ZERO,
            started: 0,
            ended: 0,
            done: 0,
            failures: Failures::default(),
        }
    }

    /// A new run begins; failures of those before it are kept.
    pub(super) fn begin(&mut self, until: Until) {
        self.until = until;
        (self.started, self.ended, self.done) = (0, 0, 0);
        self.own_cpu = own_cpu();
        self.began = Instant::now();
    }

    pub(super) fn end(&self) -> Outcome {
        Outcome { done: self.done, elapsed: self.began.elapsed(), own_cpu: own_cpu().saturating_sub(self.own_cpu) }
    }

    /// How many of the `wanted` messages may be started. They count as started.
    pub(super) fn take(&mut self, wanted: u64) -> u64 {
        let taken = match self.until {
            Until::Elapsed(_) => wanted,
            Until::Count(count) => wanted.min(count - self.started),
        };
        self.started += taken;
        taken
    }

    /// So many messages will not be started after all.
    pub(super) fn put_back(&mut self, messages: u64) {
        self.started -= messages;
    }

    /// So many messages are back, in full and correctly.
    pub(super) fn echoed(&mut self, messages: u64) {
        self.ended += messages;
        self.done += messages;
    }

    /// A fault that has cost so many messages.
    pub(super) fn failed(&mut self, fault: &Fault, messages: u64) {
        self.ended += messages;
        let failures = &mut self.failures;
        match fault {
            Fault::Connect(_) => failures.connects += messages.max(1),
            Fault::Broken(_) | Fault::Ended => failures.broken += messages.max(1),
            Fault::Silent => failures.silent += messages.max(1),
            Fault::WrongBytes(bytes) => failures.wrong_bytes += bytes,
        }
        if failures.first.is_none() {
            failures.first = Some(format!("{}: {fault}", self.address));
        }
    }

    pub(super) fn failures(&self) -> &Failures {
        &self.failures
    }

    /// For an error: the first failure, and what came of it.
    pub(super) fn describe(&self, what: &str) -> String {
        let first = self.failures.first.as_ref();
        first.map_or_else(|| format!("{}: {what}", self.address), |first| format!("{first}; {what}"))
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        match self.until {
            Until::Elapsed(duration) => now - self.began >= duration,
            Until::Count(count) => self.ended >= count,
        }
    }

    /// How long it may still take, if that is known.
    pub(super) fn rest(&self, now: Instant) -> Duration {
        match self.until {
            Until::Elapsed(duration) => duration.saturating_sub(now - self.began),
            Until::Count(_) => Duration::MAX,
        }
    }
}

/// CPU time that this process has used so far.
fn own_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
