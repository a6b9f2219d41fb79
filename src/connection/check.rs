//! What one connection can check of itself.

use super::Connection;
use super::state::*;
use crate::limits::Limits;

impl Connection {
    /// The invariants that one connection can check by itself; the numbers are those of `docs/architecture.md`.
    pub(crate) fn check(&self, queued: bool, limits: &Limits, read_bytes: usize) {
        let has = |flags| self.state.has(flags);
        let (unread, unsent) = (self.carry.as_ref().map(|carry| carry.unread().len()), self.unsent());
        assert!(!(has(FINISHED) && has(OPEN)), "3: a finished connection has a handler to call");
        assert!(has(ENDING) || !has(FINISHED), "3: a finished connection goes on");
        assert!(!has(DEAD), "5: the dead outlive the turn");
        assert!(!self.has_output() || !has(WRITABLE) || queued, "6: output waits for nothing");
        assert!(unread != Some(0) && (self.io.queue.is_none() || unsent > 0), "8: an empty buffer is kept");
        let unread_max = limits.input_bytes_max.saturating_add(read_bytes);
        assert!(unread.unwrap_or(0) <= unread_max || has(ENDING), "9: too much is unread");
        assert!(unsent <= limits.output_bytes_max, "9: too much is unsent");
        assert!(!self.takes_input() || !has(READABLE) || queued, "10: input waits for nothing");
        assert!(!has(UNREGISTERED) || queued, "10: no event will wake it, and it waits");
        let goes_on = has(HANDLE_DUE) && !has(ENDING | CONNECTING) && !self.state.is_read_paused();
        assert!(!goes_on || queued, "10: input that was held back waits for nothing");
        let ends = has(ENDING) && !has(LINGERING) && self.io.queue.is_none();
        assert!(!ends || queued, "10: the end waits for nothing");
        assert!(
            !has(FULL) || unsent > limits.output_low_water || has(ENDING | CONNECTING) || queued,
            "10: `writable` waits for nothing"
        );
    }

    /// Whether what the socket has is for it to read, and not held up by a pause, by output that waits, or by the end.
    pub(crate) fn takes_input(&self) -> bool {
        let reads = self.state.has(LINGERING) || !self.state.has(ENDING) && !self.state.is_read_paused();
        reads && !self.state.has(CONNECTING | DATAGRAM | EOF | DEAD)
    }

    /// Whether it has bytes that only the socket holds up.
    pub(crate) fn has_output(&self) -> bool {
        self.io.queue.is_some() && !self.state.has(CONNECTING)
    }
}
