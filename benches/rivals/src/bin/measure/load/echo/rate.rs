//! The open loop: messages are due at fixed moments, whether or not the server keeps up.
//!
//! Message `k` of a stage is due `k / rate` seconds after its beginning, over connection `k` modulo their number. If the
//! server stalls, messages go on being sent as long as the sockets take them, and what they do not take is sent as soon
//! as they do. In any case a message's latency counts from the moment it was due, so that a stall is seen by everything
//! that would have been served meanwhile. No list of messages is needed for that: the place of a byte in its stream
//! tells the message, and the message when it was due.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use rustix::thread::{current_timer_slack, set_current_timer_slack};

use super::super::peers::Peers;
use super::super::poller::Ready;
use super::super::quota::Quota;
use super::super::stages::{self, Clients, DRAIN_BOUND, Stage};
use super::super::tally::{Fault, Tally};
use super::super::{Echo, Outcome, Until, Watch};

/// A message sent so long after it was due is late by the load's own fault: its turn came when the load was not awake
/// or busy with other messages.
const LATE: Duration = Duration::from_micros(200);

/// Clients that share one timetable.
pub(super) struct Rate {
    peers: Peers,
    message_bytes: usize,
    /// Messages per second.
    rate: f64,
    /// When the messages of this stage began to be due.
    began: Instant,
    /// Messages of this stage that have been sent, or handed to their sockets at least.
    started: u64,
    /// Messages of this stage that are back, for each connection.
    finished: Vec<u64>,
    /// Bytes received over each connection before this stage.
    bytes_before: Vec<u64>,
    under_way: u64,
    alive: usize,
}

impl Rate {
    pub(super) fn new(peers: Peers, message_bytes: usize, rate: f64) -> Result<Self, String> {
        if !(rate.is_finite() && rate > 0.0) {
            return Err(format!("{rate} is not a rate"));
        }
        let connections = peers.len();
        Ok(Rate {
            peers,
            message_bytes,
            rate,
            began: Instant::now(),
            started: 0,
            finished: vec![0; connections],
            bytes_before: vec![0; connections],
            under_way: 0,
            alive: connections,
        })
    }

    fn due(&self, message: u64) -> Instant {
        self.began + Duration::from_secs_f64(message as f64 / self.rate)
    }

    /// Sends what is due.
    fn start(&mut self, quota: &mut Quota, tally: &mut Tally<'_>) {
        let now = Instant::now();
        let due = ((now - self.began).as_secs_f64() * self.rate) as u64 + 1;
        let messages = quota.take(due.saturating_sub(self.started));
        if messages == 0 {
            return;
        }
        let first = self.started;
        self.started += messages;
        let late = now.checked_sub(LATE).map_or(0, |late| {
            let due_by_then = (late.saturating_duration_since(self.began).as_secs_f64() * self.rate) as u64;
            due_by_then.clamp(first, self.started) - first
        });
        tally.late(late);
        // One write for each connection, however many messages are due on it.
        let connections = self.finished.len() as u64;
        for message in first..first + messages.min(connections) {
            let several = (self.started - message).div_ceil(connections);
            let number = (message % connections) as usize;
            if let Some(connection) = self.peers.get_mut(number) {
                connection.extend(several * self.message_bytes as u64, now);
                self.under_way += several;
                if let Err(fault) = connection.send() {
                    self.fail(number, fault, quota, tally);
                }
            } else {
                // The failure of the connection has been counted; its later messages have nowhere to go.
                quota.ended(several);
            }
        }
    }

    fn serve(&mut self, number: usize, ready: Ready, quota: &mut Quota, tally: &mut Tally<'_>) {
        let result = self.peers.receive(number, ready).and_then(|received| {
            if received.bytes > 0 {
                self.heard(number, quota, tally);
            }
            match self.peers.get_mut(number) {
                _ if received.end => Err(Fault::Ended),
                Some(connection) if ready.writable => connection.send(),
                _ => Ok(()),
            }
        });
        if let Err(fault) = result {
            self.fail(number, fault, quota, tally);
        }
    }

    /// Bytes have come: tells which messages are back.
    fn heard(&mut self, number: usize, quota: &mut Quota, tally: &mut Tally<'_>) {
        let Some(connection) = self.peers.get_mut(number) else { return };
        let now = Instant::now();
        connection.heard(now);
        let received = connection.stream().received() - self.bytes_before[number];
        let before = self.finished[number];
        let finished = received / self.message_bytes as u64;
        for turn in before..finished {
            let due = self.due(turn * self.finished.len() as u64 + number as u64);
            tally.echoed(self.message_bytes, now.saturating_duration_since(due));
        }
        self.finished[number] = finished;
        self.under_way -= finished - before;
        quota.ended(finished - before);
    }

    /// Messages of this stage handed to a connection so far.
    fn started_over(&self, number: usize) -> u64 {
        (self.started + self.finished.len() as u64 - 1 - number as u64) / self.finished.len() as u64
    }

    fn fail(&mut self, number: usize, fault: Fault, quota: &mut Quota, tally: &mut Tally<'_>) {
        if self.peers.get(number).is_none() {
            return;
        }
        self.peers.close(number);
        let messages = self.started_over(number) - self.finished[number];
        self.under_way -= messages;
        self.alive -= 1;
        quota.ended(messages);
        tally.failed(fault, messages.max(1));
    }
}

impl Clients for Rate {
    fn fill(&mut self, quota: &mut Quota, tally: &mut Tally<'_>) -> Result<(), String> {
        // Nothing is under way: what this stage measures is a count, and so is the warm-up.
        self.began = quota.began();
        self.started = 0;
        for number in 0..self.finished.len() {
            self.finished[number] = 0;
            self.bytes_before[number] = self.peers.get(number).map_or(0, |connection| connection.stream().received());
        }
        self.start(quota, tally);
        Ok(())
    }

    fn turn(&mut self, timeout: Duration, quota: &mut Quota, tally: &mut Tally<'_>) -> Result<(), String> {
        let timeout = if quota.left() > 0 {
            timeout.min(self.due(self.started).saturating_duration_since(Instant::now()))
        } else {
            timeout
        };
        self.peers.wait_precisely(timeout)?;
        for index in 0..self.peers.events() {
            let (number, ready) = self.peers.event(index);
            self.serve(number, ready, quota, tally);
        }
        self.start(quota, tally);
        Ok(())
    }

    fn sweep(&mut self, now: Instant, quota: &mut Quota, tally: &mut Tally<'_>) -> Result<(), String> {
        for number in 0..self.finished.len() {
            if let Some(fault) = self.peers.silence(number, now) {
                self.fail(number, fault, quota, tally);
            }
        }
        Ok(())
    }

    fn give_up(&mut self, tally: &mut Tally<'_>) {
        let mut quota = Quota::none(Instant::now());
        for number in 0..self.finished.len() {
            if self.peers.get(number).is_some_and(|connection| !connection.stream().is_back()) {
                self.fail(number, Fault::Silent, &mut quota, tally);
            }
        }
    }

    fn under_way(&self) -> u64 {
        self.under_way
    }

    fn are_gone(&self) -> bool {
        self.alive == 0
    }
}

/// Drives the timetable. A time is as many messages as are due in it, so that the end waits for all of them: the ones
/// that a stall at the end holds up belong to what was measured.
pub(super) fn run(mut clients: Rate, echo: &Echo, watch: &mut dyn Watch) -> Result<Outcome, String> {
    let rate = clients.rate;
    let stage = |until| match until {
        Until::Elapsed(duration) => {
            Stage { until: Until::Count((duration.as_secs_f64() * rate) as u64), bound: duration + DRAIN_BOUND }
        }
        count => count.into(),
    };
    let slack = current_timer_slack().ok().and_then(NonZeroU64::new);
    // The kernel may be up to 50 µs late by default, to save power. If it does not let us choose, it shows as lateness.
    let _ = set_current_timer_slack(NonZeroU64::new(1));
    let outcome = stages::run(&mut clients, &echo.address, stage(echo.warm_up), stage(echo.until), watch);
    let _ = set_current_timer_slack(slack);
    outcome
}
