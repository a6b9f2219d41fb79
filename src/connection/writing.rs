//! Where bytes are written to the socket: by the running callback through its [`Output`], by callbacks of other handlers, and
//! by flushes.

use std::io::{self, IoSlice, Write};

use super::axes::Outbound;
use super::bounds::DIRECT_BYTES;
use super::budget::Budget;
use super::io::OutputState;
use super::output::Output;
use super::queue::{Flush, Queue};
use super::state::*;
use super::{Connection, Delivery, Payload, Turn};
use crate::lifecycle::EndReason;
use crate::limits::{Limits, Overflow};
use crate::net::file::Sink as _;
use crate::stats::Stats;

impl Output<'_> {
    /// Writes the gathered bytes and `more` to the socket immediately if nothing is queued before them. They are
    /// written in one call, unless there are so many bytes that the clock must be checked in between. Gathered bytes
    /// that are not accepted are queued. Returns how many bytes of `more` were written.
    pub(super) fn send(&mut self, more: &[u8]) -> usize {
        let mut from = 0;
        while self.io.queue.is_none() && self.state.get().has(OutputState::WRITABLE) {
            let piece = &more[from..more.len().min(from + PIECE_BYTES)];
            let result = match (self.gathered.is_empty(), piece.is_empty()) {
                (true, true) => return from,
                (true, false) => self.io.stream.write(piece),
                (false, true) => self.io.stream.write(self.gathered),
                (false, false) => self.io.stream.write_vectored(&[IoSlice::new(self.gathered), IoSlice::new(piece)]),
            };
            let taken = self.sent(result, piece.len());
            from += taken;
            if taken < piece.len() || from == more.len() || self.budget.is_over() {
                return from;
            }
        }
        self.queue_gathered(0); // Queued bytes must be sent first.
        from
    }

    /// Writes the gathered bytes if nothing is queued before them. Those that are not accepted are queued. A part of a
    /// file, or the FIN, follows them at once.
    pub(super) fn send_before_more(&mut self) {
        let takes_output = self.io.queue.is_none() && self.state.get().has(OutputState::WRITABLE);
        if takes_output && !self.gathered.is_empty() {
            let result = self.io.stream.write_before_more(self.gathered);
            self.sent(result, 0);
        }
        self.queue_gathered(0);
    }

    /// Records how many bytes the socket accepted from the gathered bytes and the piece after them. Returns how many
    /// bytes of the piece were accepted.
    fn sent(&mut self, result: io::Result<usize>, piece: usize) -> usize {
        let taken = match result {
            Ok(n) => {
                // Unix: a short write means that the socket's buffer is full. On other systems, the next flush detects
                // this.
                if cfg!(unix) && n < self.gathered.len() + piece {
                    self.is_not_writable();
                }
                n
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_not_writable();
                0
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0, // The next flush tries again.
            Err(_) => {
                self.mark(OutputState::BROKEN);
                self.refuse();
                self.gathered.clear();
                return 0;
            }
        };
        self.taken += taken;
        let from_gathered = taken.min(self.gathered.len());
        self.queue_gathered(from_gathered);
        taken - from_gathered
    }

    pub(super) fn is_not_writable(&mut self) {
        self.state.set(OutputState(self.state.get().0 & !OutputState::WRITABLE));
        self.room = 0;
    }

    /// Queues the gathered bytes except for those that were accepted.
    fn queue_gathered(&mut self, taken: usize) {
        if taken < self.gathered.len() {
            Queue::of(&mut self.io.queue, self.budget.now).push(&self.gathered[taken..]);
            self.room = 0;
        }
        self.gathered.clear();
    }

    /// Queues the rest of a block after `sent` bytes of it have been sent.
    pub(super) fn queue_after(&mut self, sent: usize, bytes: &[u8], push: impl FnOnce(&mut Queue)) {
        if sent < bytes.len() && !self.is_lost() {
            push(Queue::of(&mut self.io.queue, self.budget.now));
            self.room = 0;
        }
    }

    /// Called when the callback has returned. Sends the gathered bytes unless the connection is lost. Returns the total
    /// number of bytes that the socket accepted, and the state of the output.
    #[inline(always)]
    pub(crate) fn settle(&mut self) -> (usize, OutputState) {
        let gathered = self.gathered.len();
        if gathered > 0 {
            if gathered > self.room {
                self.settle_slowly();
            } else {
                match self.io.stream.write(self.gathered) {
                    Ok(n) if n == gathered => {
                        self.taken += n;
                        self.gathered.clear();
                    }
                    result => _ = self.sent(result, 0),
                }
            }
        }
        (self.taken, self.state.get())
    }

    /// The slow path of [`settle`](Self::settle), for cases that need further checks.
    #[cold]
    fn settle_slowly(&mut self) {
        if self.is_datagram() {
            return;
        }
        if self.len() > self.bounds().output_high_water {
            self.mark(OutputState::WAS_FULL);
        }
        if !self.is_lost() {
            if self.state.get().has(OutputState::SHUT) { self.send_before_more() } else { _ = self.send(&[]) }
        }
        self.gathered.clear();
    }
}

impl Connection {
    /// Output from elsewhere than its own running callback. A large block is not copied if nothing waits before it.
    pub(crate) fn push(&mut self, bytes: Payload<'_>, limits: &Limits, now: u64, stats: &mut Stats) -> Delivery {
        if !self.state.phase.accepts_output() {
            return Delivery::Gone;
        }
        if self.held() + bytes.len() > self.state.bounds(limits).output_bytes_max {
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

    /// Writes once, past the queue. Returns the number of bytes that the socket accepted.
    fn write_directly(&mut self, bytes: &[u8], now: u64, stats: &mut Stats) -> usize {
        match self.io.stream.write(bytes) {
            Ok(sent) => {
                // Unix: a short write means that the socket's buffer is full. On other systems the next flush detects
                // this.
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

    /// Flushes the queue, as far as the socket accepts it. Returns whether more could be sent in another turn.
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
        let (sent, result) = queue.write_to(&mut self.io.stream, turn.budget.write_left());
        turn.budget.written += sent;
        turn.stats.bytes_out += sent as u64;
        if sent > 0 {
            queue.progress = turn.budget.now;
            self.state.activity = turn.budget.now;
        }
        match result {
            Ok(Flush::Empty) => self.io.queue = None,
            Ok(Flush::Blocked) => self.state.put(WRITABLE, false),
            Ok(Flush::Budget) => {}
            Ok(Flush::File(kind)) => {
                self.io.queue = None;
                self.state.file_failed(kind);
            }
            // Input from before the connection broke is still read and handled.
            Err(_) => self.broken(),
        }
    }

    /// Returns whether the socket may take output, and whether output is refused.
    pub(crate) fn output_state(&self) -> OutputState {
        let writable = self.state.flags & WRITABLE;
        OutputState(if self.refuses_output() { writable | OutputState::SHUT } else { writable })
    }

    fn refuses_output(&self) -> bool {
        #[cfg(feature = "tls")]
        if self.state.phase.has_no_session() {
            return true;
        }
        self.state.phase.outbound() != Outbound::Open || self.state.phase.is_aborting()
    }

    /// Applies the effects of a callback on the output: how much was sent, and the state. Returns whether all of it was
    /// sent and more could be.
    #[inline]
    pub(crate) fn after_output(
        &mut self,
        (sent, left): (usize, OutputState),
        budget: &Budget,
        stats: &mut Stats,
    ) -> bool {
        if sent > 0 {
            self.state.activity = budget.now;
            stats.bytes_out += sent as u64;
        }
        let is_usual = left.0 == OutputState::WRITABLE && self.io.queue.is_none();
        if !is_usual {
            self.after_unusual_output(left, &budget.limits, budget.now);
        }
        is_usual
    }

    fn after_unusual_output(&mut self, left: OutputState, limits: &Limits, now: u64) {
        if !left.has(OutputState::WRITABLE) {
            self.state.flags &= !WRITABLE;
        }
        if left.has(OutputState::REPLIED) {
            self.state.replied(now);
        }
        if left.has(OutputState::WAS_FULL) {
            self.state.phase.fill(); // A handler that stops writing because of this is owed a `writable`.
        }
        if left.has(OutputState::BROKEN) {
            self.broken();
        } else if left.has(OutputState::OVERFLOWN) {
            self.state.end(EndReason::OutputLimit, true);
        } else if self.io.queue.is_some() {
            self.mark_full(limits);
        }
    }

    /// The peer or the network broke it, so nothing more can be sent.
    pub(super) fn broken(&mut self) {
        self.state.phase.broke();
        self.state.flags |= READABLE | READ_TO_END;
        if self.io.queue.take().is_some() && self.state.phase.is_ending() {
            self.state.why = EndReason::Reset; // The end was a normal one, but the last bytes were not delivered.
        }
    }
}

/// The number of bytes sent between two clock checks while a large block is written: about 50 µs.
const PIECE_BYTES: usize = 256 * 1024;
