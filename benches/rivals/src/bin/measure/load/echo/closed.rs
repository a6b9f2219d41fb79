//! The closed loop: the next message is sent when one is back.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::super::peers::Peers;
use super::super::poller::Ready;
use super::super::quota::Quota;
use super::super::stages::Clients;
use super::super::tally::{Fault, Tally};

/// Clients with up to so many messages under way each.
pub(in super::super) struct Closed<'a> {
    peers: &'a mut Peers,
    /// Which of the peers these are.
    numbers: Range<usize>,
    message_bytes: usize,
    depth: usize,
    /// Messages of each so far.
    counts: Vec<Count>,
    /// When each of the messages under way was sent: `depth` places for each client, used in turn.
    sent_at: Vec<Instant>,
    under_way: u64,
    /// Clients that have not failed.
    alive: usize,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    started: u64,
    finished: u64,
    /// Bytes that came back before these clients were made, when the connection was others'.
    bytes_before: u64,
}

impl<'a> Closed<'a> {
    pub(in super::super) fn new(
        peers: &'a mut Peers,
        numbers: Range<usize>,
        message_bytes: usize,
        depth: usize,
    ) -> Self {
        let counts: Vec<Count> = numbers
            .clone()
            .map(|number| Count {
                started: 0,
                finished: 0,
                bytes_before: peers.get(number).map_or(0, |connection| connection.stream().received()),
            })
            .collect();
        let alive = numbers.clone().filter(|&number| peers.get(number).is_some()).count();
        let sent_at = vec![Instant::now(); counts.len() * depth];
        Closed { peers, numbers, message_bytes, depth, counts, sent_at, under_way: 0, alive }
    }

    /// Sends as many messages as the client has room for and the quota allows, in one write.
    fn start(&mut self, number: usize, now: Instant, quota: &mut Quota) -> Result<(), Fault> {
        let Some(connection) = self.peers.get_mut(number) else { return Ok(()) };
        let client = number - self.numbers.start;
        let count = &mut self.counts[client];
        let room = self.depth as u64 - (count.started - count.finished);
        let messages = quota.take(room);
        if messages > 0 {
            for message in count.started..count.started + messages {
                self.sent_at[client * self.depth + (message % self.depth as u64) as usize] = now;
            }
            count.started += messages;
            self.under_way += messages;
            connection.extend(messages * self.message_bytes as u64, now);
        }
        connection.send()
    }

    /// Something happened to a connection.
    fn serve(&mut self, number: usize, ready: Ready, quota: &mut Quota, tally: &mut Tally<'_>) {
        let result = self.peers.receive(number, ready).and_then(|received| {
            if received.bytes > 0 {
                let now = Instant::now();
                self.heard(number, now, quota, tally);
                if !received.end {
                    return self.start(number, now, quota);
                }
            } else if ready.writable && !received.end && self.numbers.contains(&number) {
                return self.start(number, Instant::now(), quota);
            }
            if received.end { Err(Fault::Ended) } else { Ok(()) }
        });
        if let Err(fault) = result {
            self.fail(number, fault, quota, tally);
        }
    }

    /// Bytes have come: tells which messages are back.
    fn heard(&mut self, number: usize, now: Instant, quota: &mut Quota, tally: &mut Tally<'_>) {
        let Some(connection) = self.peers.get_mut(number) else { return };
        connection.heard(now);
        let client = number - self.numbers.start;
        let count = &mut self.counts[client];
        let finished = (connection.stream().received() - count.bytes_before) / self.message_bytes as u64;
        for message in count.finished..finished {
            let sent_at = self.sent_at[client * self.depth + (message % self.depth as u64) as usize];
            tally.echoed(self.message_bytes, now - sent_at);
        }
        quota.ended(finished - count.finished);
        self.under_way -= finished - count.finished;
        count.finished = finished;
    }

    /// A client is lost, and whatever it had under way.
    fn fail(&mut self, number: usize, fault: Fault, quota: &mut Quota, tally: &mut Tally<'_>) {
        if self.peers.get(number).is_none() {
            return;
        }
        self.peers.close(number);
        let mut messages = 0;
        if self.numbers.contains(&number) {
            let count = &mut self.counts[number - self.numbers.start];
            messages = count.started - count.finished;
            count.finished = count.started;
            self.under_way -= messages;
            self.alive -= 1;
            quota.ended(messages);
        }
        tally.failed(fault, messages.max(1));
    }
}

impl Clients for Closed<'_> {
    fn fill(&mut self, quota: &mut Quota, tally: &mut Tally<'_>) -> Result<(), String> {
        for number in self.numbers.clone() {
            if let Err(fault) = self.start(number, Instant::now(), quota) {
                self.fail(number, fault, quota, tally);
            }
        }
        Ok(())
    }

    fn turn(&mut self, timeout: Duration, quota: &mut Quota, tally: &mut Tally<'_>) -> Result<(), String> {
        self.peers.wait(timeout)?;
        for index in 0..self.peers.events() {
            let (number, ready) = self.peers.event(index);
            self.serve(number, ready, quota, tally);
        }
        Ok(())
    }

    fn sweep(&mut self, now: Instant, quota: &mut Quota, tally: &mut Tally<'_>) -> Result<(), String> {
        for number in self.numbers.clone() {
            if let Some(fault) = self.peers.silence(number, now) {
                self.fail(number, fault, quota, tally);
            }
        }
        Ok(())
    }

    fn give_up(&mut self, tally: &mut Tally<'_>) {
        let mut quota = Quota::none(Instant::now());
        for number in self.numbers.clone() {
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
