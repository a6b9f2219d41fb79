//! The due steps of an open connection, in their order.

use super::axes::{Drain, Inbound, Outbound};
use super::state::*;
use super::{Connection, Step, Turn};
use crate::lifecycle::EndReason;

impl Connection {
    /// Checks whether an outbound connection is established now. `None`: it is, and its handshake follows.
    pub(super) fn connect(&mut self, turn: &mut Turn<'_>) -> Option<Step> {
        if !self.state.has(WRITABLE) {
            return Some(Step::Rest);
        }
        Some(match self.io.stream.connected() {
            Ok(true) => {
                self.state.phase.established();
                self.state.activity = turn.budget.now;
                if let Some(queue) = &mut self.io.queue {
                    queue.progress = turn.budget.now;
                }
                #[cfg(feature = "tls")]
                if self.state.phase.is_handshaking() {
                    self.begin_handshake(turn.budget.now);
                    return None;
                }
                Step::Setup
            }
            Ok(false) => {
                self.state.put(WRITABLE, false);
                Step::Rest
            }
            Err(error) => Step::ConnectFailed(error),
        })
    }

    /// Serves an open connection: sends, reads, and returns the due step. `None`: it is ending now.
    pub(super) fn flow(&mut self, turn: &mut Turn<'_>) -> Option<Step> {
        if (self.io.queue.is_some() || !self.state.phase.is_plain())
            && let Some(step) = self.before_reading(turn)
        {
            return Some(step);
        }
        if self.is_readable() {
            let step = self.read(turn);
            if step.is_some() || self.state.phase.is_ending() {
                return step;
            }
        }
        if !matches!(self.state.phase.inbound(), Inbound::Open | Inbound::Datagrams) {
            return self.after_eof();
        }
        // The read may have found that nothing waits.
        Some(if self.drain_is_due(turn.budget.now) { Step::Drain } else { Step::Rest })
    }

    /// The steps before reading, or instead of it.
    fn before_reading(&mut self, turn: &mut Turn<'_>) -> Option<Step> {
        if self.is_flushed_in_part(turn) {
            return Some(Step::Again);
        }
        if let Some(kind) = self.state.take_file_fault() {
            return Some(Step::FileFailed(kind));
        }
        #[cfg(feature = "tls")]
        if self.state.phase.is_secured()
            && let Some(step) = self.before_others(turn)
        {
            return Some(step);
        }
        if self.state.phase.begin_setup() {
            return Some(Step::Setup);
        }
        if self.drain_is_due(turn.budget.now) {
            return Some(Step::Drain);
        }
        if self.state.phase.outbound() == Outbound::ShutDue && self.io.queue.is_none() && self.may_shut(turn.budget.now)
        {
            return Some(Step::Shutdown);
        }
        if self.state.phase.is_full() && self.unsent() <= self.state.bounds(&turn.budget.limits).output_low_water {
            self.state.phase.relieve();
            self.restart_read_limit(turn.budget.now);
            return Some(Step::Writable);
        }
        if self.state.is_read_paused() {
            return Some(Step::Rest);
        }
        (self.state.phase.begin_handle() && self.carry.is_some()).then_some(Step::Handle(0))
    }

    /// Returns whether the socket can be told that all output is sent. TLS tells the peer first.
    fn may_shut(&mut self, now: u64) -> bool {
        #[cfg(feature = "tls")]
        if self.state.phase.is_secured() {
            return self.is_close_notify_sent(now);
        }
        let _ = now;
        true
    }

    /// Returns whether `drain` is due: no byte has moved for a while and nothing waits in either direction, or the time
    /// for that is over; and no job is running. True only once.
    fn drain_is_due(&mut self, now: u64) -> bool {
        if matches!(self.state.phase.drain(), Drain::No | Drain::Told | Drain::ToldBusy) {
            return false;
        }
        let is_paused = self.state.phase.is_paused();
        let input_waits = self.state.has(READABLE) && !is_paused && self.state.phase.inbound() == Inbound::Open;
        // While reading is paused the input stays there, and the time would be over again immediately.
        if input_waits && !self.state.is_read_paused() {
            self.state.phase.stir(); // Unless the event is spurious, the time starts again.
        }
        // Its handler was interrupted, and must continue.
        let goes_on = (self.state.phase.is_handle_due() || self.state.phase.is_full()) && !is_paused;
        let waits = self.io.queue.is_some() || input_waits || goes_on;
        let due = match self.state.phase.drain() {
            Drain::Due => true,
            Drain::Quiet => !waits,
            Drain::No | Drain::Asked | Drain::Told | Drain::ToldBusy => false,
        };
        let due = due && !self.state.has_jobs();
        if due {
            self.state.phase.drain_told();
            self.carry.iter_mut().for_each(|carry| carry.since = now); // Jobs may have delayed the rest of the message.
        }
        due
    }

    /// The end of the input is reached, and everything before it was read. `None`: the connection is ending now.
    fn after_eof(&mut self) -> Option<Step> {
        if self.state.phase.begin_tail() && self.carry.is_some() {
            return Some(Step::Handle(0));
        }
        let is_broken = self.state.phase.is_broken();
        if !is_broken && self.state.phase.begin_eof() {
            return Some(Step::Eof);
        }
        let (why, at_once) = match self.state.phase.outbound() {
            Outbound::Broken => (EndReason::Reset, false),
            // Both directions are over, so nothing more can happen.
            Outbound::Shut => (EndReason::PeerClosed, false),
            _ if self.state.has(HUNG_UP) => (EndReason::Reset, true),
            _ => return Some(Step::Rest),
        };
        self.state.end(why, at_once);
        None
    }
}
