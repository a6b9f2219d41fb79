//! The invariants that one connection can check.

use super::Connection;
use super::axes::{Inbound, Stage};
use super::state::*;
use crate::limits::Limits;

impl Connection {
    /// Checks the invariants that concern one connection. The numbers are those of `docs/architecture.md`.
    pub(crate) fn check(&self, queued: bool, limits: &Limits, read_bytes: usize) {
        let (phase, has) = (&self.state.phase, |flags| self.state.has(flags));
        let (unread, unsent) = (self.carry.as_ref().map(|carry| carry.unread().len()), self.unsent());
        assert!(phase.stage() != Stage::Dead, "5: the dead outlive the turn");
        phase.check();
        assert!(!self.has_output() || !has(WRITABLE) || queued, "6: output waits for nothing");
        assert!(unread != Some(0) && (self.io.queue.is_none() || unsent > 0), "8: an empty buffer is kept");
        let bounds = self.state.bounds(limits);
        let unread_max = bounds.input_bytes_max.saturating_add(read_bytes);
        assert!(unread.unwrap_or(0) <= unread_max || phase.is_ending(), "9: too much is unread");
        assert!(self.held() <= bounds.output_bytes_max, "9: too much is unsent");
        assert!(!self.takes_input() || !has(READABLE) || queued, "10: input waits for nothing");
        assert!(phase.is_registered() || queued, "10: no event will wake it, and it waits");
        let goes_on = phase.is_handle_due() && phase.stage() == Stage::Open && !self.state.is_read_paused();
        #[cfg(feature = "tls")]
        let goes_on = goes_on && !phase.is_handshaking(); // It goes on afterwards.
        assert!(!goes_on || queued, "10: input that was held back waits for nothing");
        let ends = matches!(phase.stage(), Stage::Closing | Stage::Aborting) && self.io.queue.is_none();
        #[cfg(feature = "tls")]
        let ends = ends && (has(WRITABLE) || !self.has_sealed());
        assert!(!ends || queued, "10: the end waits for nothing");
        let is_open = phase.stage() == Stage::Open && !phase.is_handshaking();
        let relieved = phase.is_full() && is_open && unsent <= bounds.output_low_water;
        assert!(!relieved || queued, "10: `writable` waits for nothing");
    }

    /// Returns whether it should read what the socket has: it is not held up by a pause, by unsent output, or by its
    /// end.
    pub(crate) fn takes_input(&self) -> bool {
        let reads = match self.state.phase.stage() {
            Stage::Open => !self.state.is_read_paused(),
            Stage::Lingering => true,
            Stage::Connecting | Stage::Closing | Stage::Aborting | Stage::Dead => false,
        };
        #[cfg(feature = "tls")]
        let reads = reads && !self.is_bare();
        reads && self.state.phase.inbound() == Inbound::Open
    }

    /// Returns whether it has bytes that wait only for the socket.
    pub(crate) fn has_output(&self) -> bool {
        #[cfg(feature = "tls")]
        if self.has_sealed() || self.awaits_handshake() {
            return self.has_sealed();
        }
        self.io.queue.is_some() && !self.state.phase.is_connecting()
    }
}
