//! Where a byte is written: by the callback of another handler, by a flush, or by its own callback, whose output is
//! taken in here.

use std::io::{self, Write};

use super::axes::Outbound;
use super::io::{DIRECT_BYTES, OutputState};
use super::queue::{Flush, Queue};
use super::state::*;
use super::{Connection, Delivery, Payload, Turn};
use crate::lifecycle::EndReason;
use crate::limits::{Limits, Overflow};
use crate::stats::Stats;

impl Connection {
    /// Output from somewhere else than its own running callback. A large block that nothing waits before spares itself
    /// the copy.
    pub(crate) fn push(&mut self, bytes: Payload<'_>, limits: &Limits, now: u64, stats: &mut Stats) -> Delivery {
        if !self.state.phase.accepts_output() {
            return Delivery::Gone;
        }
        if self.unsent() + bytes.len() > self.state.bounds(limits).output_bytes_max {
            if limits.output_overflow == Overflow::Refuse {
                return Delivery::Refused;
            }
            self.state.end(EndReason::OutputLimit, true);
            return Delivery::Gone;
        }
        match bytes {
            Payload::Copied(bytes) if bytes.len() >= DIRECT_BYTES && self.takes_output_now() => {
                let sent = self.write_directly(bytes, now, stats);
                if self.state.phase.is_broken() {
                    return Delivery::Gone;
                }
                Queue::of(&mut self.io.queue, now).push(&bytes[sent..]);
            }
            Payload::Copied(bytes) => Queue::of(&mut self.io.queue, now).push(bytes),
            Payload::Shared(bytes) => Queue::of(&mut self.io.queue, now).push_shared(bytes),
        }
        if self.unsent() == 0 {
            self.io.queue = None;
        }
        self.mark_full(limits);
        if self.state.phase.is_full() { Delivery::Full } else { Delivery::Queued }
    }

    fn takes_output_now(&self) -> bool {
        self.io.queue.is_none() && self.state.has(WRITABLE) && !self.state.phase.is_connecting()
    }

    /// One write, past the queue. Returns how much the socket took.
    fn write_directly(&mut self, bytes: &[u8], now: u64, stats: &mut Stats) -> usize {
        match self.io.stream.write(bytes) {
            Ok(sent) => {
                // Unix: a short write means that the socket's buffer is full. Elsewhere the next flush finds out.
                self.state.put(WRITABLE, cfg!(not(unix)) || sent == bytes.len());
                self.state.activity = now;
                stats.bytes_out += sent as u64;
                return sent;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.state.put(WRITABLE, false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.broken(),
        }
        0
    }

    #[inline]
    pub(super) fn mark_full(&mut self, limits: &Limits) {
        if self.unsent() > self.state.bounds(limits).output_high_water {
            self.state.phase.fill();
        }
    }

    /// Flushes what waits, as far as the socket takes it. Returns whether more could be sent in another turn.
    #[inline]
    pub(super) fn is_flushed_in_part(&mut self, turn: &mut Turn<'_>) -> bool {
        if self.io.queue.is_none() || !self.state.has(WRITABLE) {
            return false;
        }
        self.flush(turn);
        self.io.queue.is_some() && self.state.has(WRITABLE)
    }

    #[inline(never)]
    fn flush(&mut self, turn: &mut Turn<'_>) {
        let Some(queue) = &mut self.io.queue else { return };
        let (sent, result) = queue.write_to(&mut self.io.stream, turn.budget.write);
        turn.budget.write -= sent;
        turn.stats.bytes_out += sent as u64;
        if sent > 0 {
            queue.progress = turn.now;
            self.state.activity = turn.now;
        }
        match result {
            Ok(Flush::Empty) => self.io.queue = None,
            Ok(Flush::Blocked) => self.state.put(WRITABLE, false),
            Ok(Flush::Budget) => {}
            // What arrived before the connection broke is still read and handled.
            Err(_) => self.broken(),
        }
    }

    /// Whether the socket takes output as far as we know, and whether output is refused, as it is not if the connection
    /// `is_plain`.
    #[inline]
    pub(crate) fn output_state(&self, is_plain: bool) -> OutputState {
        let writable = if self.state.has(WRITABLE) { OutputState::WRITABLE } else { 0 };
        let phase = &self.state.phase;
        let is_shut = !is_plain && (phase.outbound() != Outbound::Open || phase.is_aborting());
        OutputState(if is_shut { writable | OutputState::SHUT } else { writable })
    }

    /// Takes in what became of the output during a callback: how much was sent, and how things stand.
    #[inline]
    pub(crate) fn after_output(
        &mut self,
        (sent, left): (usize, OutputState),
        limits: &Limits,
        now: u64,
        stats: &mut Stats,
    ) {
        if sent > 0 {
            self.state.activity = now;
            stats.bytes_out += sent as u64;
        }
        if left.0 != OutputState::WRITABLE || self.io.queue.is_some() {
            self.after_unusual_output(left, limits, now);
        }
    }

    fn after_unusual_output(&mut self, left: OutputState, limits: &Limits, now: u64) {
        if !left.has(OutputState::WRITABLE) {
            self.state.flags &= !WRITABLE;
        }
        if left.has(OutputState::REPLIED) {
            self.state.activity = now;
            self.state.flags |= REPLY;
        }
        if left.has(OutputState::WAS_FULL) {
            self.state.phase.fill(); // A handler that stops to write because of that is owed a `writable`.
        }
        if left.has(OutputState::BROKEN) {
            self.broken();
        } else if left.has(OutputState::OVERFLOWN) {
            self.state.end(EndReason::OutputLimit, true);
        } else if self.io.queue.is_some() {
            self.mark_full(limits);
        }
    }

    /// The peer or the network broke it: nothing can be sent any more.
    pub(super) fn broken(&mut self) {
        self.state.phase.broke();
        self.state.flags |= READABLE | READ_TO_END;
        if self.io.queue.take().is_some() && self.state.phase.is_ending() {
            self.state.why = EndReason::Reset; // It would have been a quiet end, but the last bytes did not get through.
        }
    }
}
