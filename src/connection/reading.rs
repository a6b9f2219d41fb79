//! Reads bytes, and keeps unconsumed input.

use std::io::{self, Read};

use super::axes::Inbound;
use super::budget::Budget;
use super::carry::{Carry, Scan};
use super::state::*;
use super::{Connection, Step, Turn};
use crate::lifecycle::EndReason;
use crate::limits::Limits;
use crate::stats::Stats;

impl Connection {
    /// One read, for the handler. `None`: nothing for it, the flags say the rest.
    #[inline]
    pub(super) fn read(&mut self, turn: &mut Turn<'_>) -> Option<Step> {
        #[cfg(feature = "tls")]
        if self.state.phase.is_secured() {
            return self.read_secured(turn);
        }
        match self.receive(turn) {
            0 if self.is_readable() => Some(Step::Again), // The read was interrupted, or the budget is used up.
            0 => None,
            n if self.carry.is_none() => Some(Step::Handle(n)),
            n => Some(Step::Handle(self.carry_on(&turn.buffer[..n], turn.budget))),
        }
    }

    /// Returns whether more input may be there.
    #[inline]
    pub(super) fn is_readable(&self) -> bool {
        self.state.has(READABLE) && self.state.phase.inbound() == Inbound::Open && !self.state.phase.is_ending()
    }

    /// Reads once. Returns the number of bytes that have arrived.
    #[inline(always)]
    pub(crate) fn receive(&mut self, turn: &mut Turn<'_>) -> usize {
        let most = turn.buffer.len().min(turn.budget.read_left()).min(self.state.bite());
        if most == 0 {
            return 0;
        }
        let flags = self.state.flags; // Before the call the compiler may know them.
        let n = match self.io.stream.read(&mut turn.buffer[..most]) {
            Ok(0) => {
                self.state.phase.input_ended();
                return 0;
            }
            Ok(n) => n,
            Err(error) => {
                self.read_failed(&error, turn.stats);
                return 0;
            }
        };
        self.state.flags = after_read(flags, n < most);
        turn.budget.read += n;
        self.state.activity = turn.budget.now;
        turn.stats.bytes_in += n as u64;
        n
    }

    /// Appends new input to unread input. None of it counts as fresh then.
    #[inline(never)]
    pub(super) fn carry_on(&mut self, bytes: &[u8], budget: &mut Budget) -> usize {
        self.carry.iter_mut().for_each(|carry| carry.extend(bytes));
        budget.appended = bytes.len();
        0
    }

    /// A read has failed, or has found nothing.
    #[inline(never)]
    pub(super) fn read_failed(&mut self, error: &io::Error, stats: &mut Stats) {
        match error.kind() {
            io::ErrorKind::WouldBlock => {
                self.state.put(READABLE, false);
                if self.state.phase.is_broken() {
                    self.state.end(EndReason::Reset, false); // Earlier input is handled.
                }
            }
            io::ErrorKind::Interrupted => {}
            _ => {
                stats.resets_idle += u64::from(self.is_idle());
                self.broken();
                self.state.end(EndReason::Reset, false);
            }
        }
    }

    /// Returns whether it has nothing to do: no unread input, no unsent output and no job, and it has not ended.
    fn is_idle(&self) -> bool {
        let has_ended = self.state.phase.is_broken() || self.state.phase.is_ending();
        self.carry.is_none() && self.io.queue.is_none() && !self.state.has_jobs() && !has_ended
    }

    /// Reads and discards input. `Some(0)`: nothing more will come. `None`: nothing is there now, or, if it is still
    /// readable, the read was interrupted.
    pub(super) fn read_away(&mut self, turn: &mut Turn<'_>) -> Option<usize> {
        let most = turn.buffer.len().min(turn.budget.read_left());
        match self.io.stream.read(&mut turn.buffer[..most]) {
            Ok(n @ 1..) => {
                turn.budget.read += n;
                self.state.flags = after_read(self.state.flags, n < most);
                Some(n)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.state.put(READABLE, false);
                None
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
            Ok(_) | Err(_) => {
                self.state.phase.input_ended();
                Some(0)
            }
        }
    }

    /// Keeps the unread input of a callback: the tail of the carry, or of the fresh bytes.
    pub(crate) fn keep(&mut self, fresh: &[u8], consumed: usize, scan: Scan, now: u64) {
        let scan = scan.after(consumed);
        let renewed = consumed > 0 || self.state.phase.is_handle_due();
        match &mut self.carry {
            None => self.carry = Some(Box::new(Carry::new(&fresh[consumed..], scan, now))),
            Some(carry) if consumed == carry.unread().len() => self.carry = None,
            Some(carry) => {
                if renewed {
                    carry.since = now;
                }
                carry.consume(consumed);
                carry.scan = scan;
            }
        }
    }

    /// Returns whether the handler leaves too much input unread. Input that waits because reading is paused is bounded
    /// by the pause, and held-back input must still be shown to the handler.
    pub(crate) fn input_overflows(&self, limits: &Limits) -> bool {
        let unread = self.carry.as_ref().map_or(0, |carry| carry.unread().len());
        let is_shown = !self.state.is_read_paused() && !self.state.phase.is_handle_due();
        unread > self.state.bounds(limits).input_bytes_max && is_shown && !self.state.phase.is_ending()
    }

    #[inline]
    pub(crate) fn input_ended(&self) -> bool {
        !self.state.phase.is_plain() && self.state.phase.has_input_ended()
    }

    /// Returns whether anything is due now.
    pub(crate) fn resume_reading(&mut self, now: u64) -> bool {
        let resumed = self.state.phase.resume();
        if resumed {
            self.restart_read_limit(now);
        }
        resumed
    }
}

/// The flags after a read. A short read means that the socket is drained, and more will cause an event, unless this stream
/// cuts reads short.
#[inline]
pub(super) fn after_read(flags: u8, short: bool) -> u8 {
    if short && flags & READ_TO_END == 0 { flags & !READABLE } else { flags }
}
