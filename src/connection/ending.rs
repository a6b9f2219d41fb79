//! The way out: flush, `finish`, FIN, linger; or closed at once.

use super::state::*;
use super::{Connection, Step, Turn};
use crate::lifecycle::Finish;
use crate::limits::{Limits, Linger};

impl Connection {
    /// The way out: flush, `finish`, whatever that wrote, then FIN and linger, or close at once.
    pub(super) fn wind_down(&mut self, turn: &mut Turn<'_>) -> Step {
        if self.state.has(ABORTING | BROKEN) {
            self.io.queue = None;
        }
        if self.io.queue.is_some() {
            return Step::Rest; // The write timeout watches over it.
        }
        if !self.state.has(FINISHED) {
            return Step::Finish(self.state.why);
        }
        if self.state.has(ABORTING) && !self.state.has(BROKEN) {
            self.io.stream.reset_on_close();
        }
        if self.state.has(ABORTING | BROKEN | EOF | DATAGRAM) {
            return self.die();
        }
        let limits = turn.limits;
        let mut most = if limits.linger_timeout.is_zero() { 0 } else { limits.linger_bytes_max };
        match limits.linger {
            Linger::Always => {}
            Linger::Never => most = 0,
            // What the handler has left says that there may be more. So does a read that was not short; the next one tells.
            Linger::WhenNeeded if self.carry.is_some() => {}
            Linger::WhenNeeded if !self.state.has(READABLE) => most = 0,
            Linger::WhenNeeded if turn.budget.read == 0 => return Step::Again,
            Linger::WhenNeeded => match self.read_away(turn) {
                Some(n @ 1..) => most = most.saturating_sub(n),
                None if self.state.has(READABLE) => return Step::Again, // It was interrupted.
                Some(_) | None => most = 0,
            },
        }
        if most == 0 {
            return self.die();
        }
        self.carry = None;
        self.state.flags |= LINGERING;
        self.state.activity = turn.now;
        self.state.handler = u32::try_from(most).unwrap_or(u32::MAX);
        if self.state.has(SHUT) { Step::Again } else { Step::Shutdown }
    }

    /// Lingers: reads what the peer still sends, until it ends its direction or has sent too much.
    pub(super) fn discard(&mut self, turn: &mut Turn<'_>) -> Step {
        while self.state.handler > 0 {
            if !self.state.has(READABLE) {
                return Step::Rest;
            }
            if turn.budget.read == 0 {
                return Step::Again;
            }
            match self.read_away(turn) {
                Some(0) => break,
                Some(n) => self.state.handler = self.state.handler.saturating_sub(n as u32),
                None => {}
            }
        }
        self.die()
    }

    fn die(&mut self) -> Step {
        self.state.flags |= DEAD;
        self.carry = None;
        self.io.queue = None;
        if self.state.has(SHUT | ABORTING | BROKEN | EOF | DATAGRAM) { Step::Dead } else { Step::Close }
    }

    /// The handler is gone; what it wrote in `finish` is still sent.
    pub(crate) fn set_finished(&mut self) {
        self.state.flags = self.state.flags & !(OPEN | SETUP_DUE) | FINISHED | ENDING;
    }

    /// The limits have changed: it ends if it holds more than they allow. While its input waits, it may hold one read more
    /// than it is allowed; so it is held only to a limit that was lowered.
    pub(crate) fn hold_to(&mut self, limits: &Limits, before: &Limits) {
        let unread = self.carry.as_ref().map_or(0, |carry| carry.unread().len());
        if self.unsent() > limits.output_bytes_max {
            self.state.end(Finish::OutputLimit, true);
        } else if limits.input_bytes_max < before.input_bytes_max && unread > limits.input_bytes_max {
            self.carry = None;
            self.state.end(Finish::InputLimit, false);
        }
        self.mark_full(limits);
    }
}
