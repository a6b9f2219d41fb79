//! Ends a connection: flush, `finish`, FIN, linger; or close immediately.

use super::axes::{Drain, Inbound, Outbound, Stage};
use super::state::*;
use super::{Connection, Step, Turn};
use crate::lifecycle::EndReason;
use crate::limits::{Limits, Linger};

impl Connection {
    /// Closes the connection, after a flush or immediately.
    pub(super) fn close(&mut self, turn: &mut Turn<'_>) -> Step {
        if self.state.phase.stage() == Stage::Closing && self.is_flushed_in_part(turn) {
            return Step::Again;
        }
        if let Some(kind) = self.state.take_file_fault() {
            return Step::FileFailed(kind);
        }
        // A replacement handler gets `setup` even if the end has come, so that it can get `finish`.
        if self.state.phase.begin_setup() {
            return Step::Setup;
        }
        self.wind_down(turn)
    }

    /// Ends the connection: flush, `finish`, flush again, then FIN and linger, or close immediately.
    #[inline(always)]
    fn wind_down(&mut self, turn: &mut Turn<'_>) -> Step {
        let (aborts, is_broken) = (self.state.phase.is_aborting(), self.state.phase.is_broken());
        if aborts || is_broken {
            self.io.queue = None;
            #[cfg(feature = "tls")]
            self.abandon_handshake(turn);
        }
        if self.io.queue.is_some() {
            return Step::Rest; // The write timeout limits this.
        }
        if !self.state.phase.is_finished() {
            return Step::Finish(self.state.why);
        }
        #[cfg(feature = "tls")]
        if self.state.phase.is_secured() && !self.is_layer_removed(turn.budget.now) {
            return Step::Rest; // The write timeout limits this, too.
        }
        let is_broken = self.state.phase.is_broken();
        if aborts && !is_broken {
            self.io.stream.reset_on_close();
        }
        if aborts || is_broken || self.state.phase.inbound() != Inbound::Open {
            return self.die(Step::Dead);
        }
        self.linger(turn)
    }

    /// All is sent. Lingers if the peer may still send.
    fn linger(&mut self, turn: &mut Turn<'_>) -> Step {
        let Limits { linger, linger_timeout, linger_bytes_max, .. } = *turn.budget.limits;
        let mut most = if linger_timeout.is_zero() { 0 } else { linger_bytes_max };
        match linger {
            Linger::Always => {}
            Linger::Never => most = 0,
            // Unread input means that there may be more, and so does a read that was not short; the next read detects
            // it.
            Linger::WhenNeeded if self.carry.is_some() => {}
            // The server's stop has come between two requests, and the next one may be on its way.
            Linger::WhenNeeded if self.state.phase.drain() == Drain::ToldBusy => {}
            #[cfg(feature = "tls")]
            Linger::WhenNeeded if self.state.phase.awaits_close_notify() => {}
            Linger::WhenNeeded if !self.state.has(READABLE) => most = 0,
            Linger::WhenNeeded if turn.budget.read_left() == 0 => return Step::Again,
            Linger::WhenNeeded => match self.read_away(turn) {
                Some(n @ 1..) => most = most.saturating_sub(n),
                None if self.state.has(READABLE) => return Step::Again, // The read was interrupted.
                Some(_) | None => most = 0,
            },
        }
        let is_shut = self.state.phase.outbound() == Outbound::Shut;
        if most == 0 {
            if self.state.phase.outbound() == Outbound::ShutDue {
                return Step::Shutdown; // Closing with unread input would drop what the FIN should take along.
            }
            // Closing ends both directions, unless they have ended.
            let over = is_shut || self.state.phase.inbound() != Inbound::Open;
            return self.die(if over { Step::Dead } else { Step::Close });
        }
        self.carry = None;
        self.state.linger(most, turn.budget.now);
        if is_shut { Step::Again } else { Step::Shutdown }
    }

    /// Lingers: reads further input until the peer ends its direction or has sent too much.
    pub(super) fn discard(&mut self, turn: &mut Turn<'_>) -> Step {
        while *self.state.linger_left() > 0 {
            if !self.state.has(READABLE) {
                return Step::Rest;
            }
            if turn.budget.read_left() == 0 {
                return Step::Again;
            }
            match self.read_away(turn) {
                Some(0) => return self.die(Step::Dead),
                Some(n) => {
                    let left = self.state.linger_left();
                    *left = left.saturating_sub(n);
                }
                None => {}
            }
        }
        self.die(Step::Cut)
    }

    pub(super) fn die(&mut self, how: Step) -> Step {
        self.state.phase.die();
        if !self.holds_nothing() {
            (self.carry, self.io.queue) = (None, None);
        }
        how
    }

    /// The limits have changed: ends the connection if it holds more than they allow. While its input waits, it may
    /// hold one read more than allowed, so only a lowered limit ends it.
    pub(crate) fn hold_to(&mut self, limits: &Limits, before: &Limits) {
        let lowered = self.state.bounds(limits).input_bytes_max < self.state.bounds(before).input_bytes_max;
        self.hold(limits, lowered);
    }

    /// Like `hold_to`, for the connection's own limits. `lowered` tells whether the limit of unread input was lowered.
    pub(crate) fn hold(&mut self, limits: &Limits, lowered: bool) {
        let unread = self.carry.as_ref().map_or(0, |carry| carry.unread().len());
        let bounds = self.state.bounds(limits);
        if self.held() > bounds.output_bytes_max {
            self.io.queue = None;
            self.state.end(EndReason::OutputLimit, true);
        } else if lowered && unread > bounds.input_bytes_max {
            // Unread input stays until the end, because there may be more to linger over.
            self.state.end(EndReason::InputLimit, false);
        }
        self.mark_full(limits);
    }
}
