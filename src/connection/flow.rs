//! What is due on a connection besides reading, and in which order.

use super::state::*;
use super::{Connection, Step, Turn};
use crate::lifecycle::Finish;

impl Connection {
    /// What comes before reading, or instead of it.
    pub(super) fn advance_unusual(&mut self, turn: &mut Turn<'_>) -> Option<Step> {
        if self.io.queue.is_some() && self.state.has(WRITABLE) && !self.state.has(CONNECTING | ABORTING) {
            self.flush(turn);
            if self.io.queue.is_some() && self.state.has(WRITABLE) {
                return Some(Step::Again);
            }
        }
        if self.state.has(DEAD) {
            return Some(Step::Rest);
        }
        if self.state.has(LINGERING) && !self.state.has(ABORTING) {
            return Some(self.discard(turn));
        }
        // A handler that took over is set up even if the end has come meanwhile, so that `finish` finds one that was.
        if self.state.take_setup_due() {
            return Some(Step::Setup);
        }
        if self.state.has(ENDING) {
            return Some(self.wind_down(turn));
        }
        if self.state.has(CONNECTING) {
            if !self.state.has(WRITABLE) {
                return Some(Step::Rest);
            }
            match self.io.stream.connected() {
                Ok(true) => {
                    // What watched over connecting may be later than what holds from now on.
                    self.state.flags &= !(CONNECTING | WATCHED);
                    self.state.activity = turn.now;
                    if let Some(queue) = &mut self.io.queue {
                        queue.progress = turn.now;
                    }
                    return Some(Step::Setup);
                }
                Ok(false) => {
                    self.state.put(WRITABLE, false);
                    return Some(Step::Rest);
                }
                Err(error) => return Some(Step::ConnectFailed(error)),
            }
        }
        if self.state.has(DRAINING) && self.drain_is_due(turn.now) {
            return Some(Step::Drain);
        }
        if self.state.has(SHUT_DUE) && self.io.queue.is_none() {
            self.state.flags &= !SHUT_DUE;
            return Some(Step::Shutdown);
        }
        if self.state.has(FULL) && self.unsent() <= turn.limits.output_low_water {
            self.state.put(FULL, false);
            if let Some(carry) = &mut self.carry {
                carry.since = turn.now;
            }
            return Some(Step::Writable);
        }
        if self.state.is_read_paused() {
            return Some(Step::Rest);
        }
        (self.state.take(HANDLE_DUE) && self.carry.is_some()).then_some(Step::Handle(0))
    }

    /// Whether the handler is to be told now that the server stops: nothing moved for a while and nothing waits in
    /// either direction, or there is no more time to wait for that; and no job is under way. It is told once.
    pub(super) fn drain_is_due(&mut self, now: u64) -> bool {
        let input_waits = self.state.has(READABLE) && !self.state.has(PAUSED | EOF);
        // While reading is paused it stays there, and the time would be over again at once.
        if input_waits && !self.state.is_read_paused() {
            self.state.flags &= !DRAIN_QUIET; // If it is input, and no event that means nothing, the time begins anew.
        }
        // Its handler was interrupted, and is to go on.
        let goes_on = self.state.has(HANDLE_DUE | FULL) && !self.state.has(PAUSED);
        let quiet = self.state.has(DRAIN_QUIET) && self.io.queue.is_none() && !input_waits && !goes_on;
        let due = !self.state.has(DRAIN_TOLD) && (self.state.has(DRAIN_DUE) || quiet) && !self.state.has_jobs();
        if due {
            self.state.flags |= DRAIN_TOLD;
            self.carry.iter_mut().for_each(|carry| carry.since = now); // Jobs may have held up what completes it.
        }
        due
    }

    /// The end of the input is reached, and what came before it was read.
    pub(super) fn after_eof(&mut self, turn: &mut Turn<'_>) -> Step {
        if !self.state.has(EOF_HANDLED) {
            self.state.flags |= EOF_HANDLED;
            if self.carry.is_some() {
                return Step::Handle(0);
            }
        }
        if self.state.has(BROKEN) {
            self.state.end(Finish::Reset, false);
            return self.wind_down(turn);
        }
        if !self.state.has(EOF_TOLD) {
            self.state.flags |= EOF_TOLD;
            return Step::Eof;
        }
        // Both directions are over: nothing can happen here any more.
        if self.state.has(SHUT) {
            self.state.end(Finish::PeerClosed, false);
            return self.wind_down(turn);
        }
        if self.state.has(HUNG_UP) {
            self.state.end(Finish::Reset, true);
            return self.wind_down(turn);
        }
        Step::Rest
    }
}
