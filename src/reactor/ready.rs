//! The queue of slots that need service. Each slot is in it at most once.
//!
//! Readiness is edge-triggered: the kernel sends no further event for bytes that stay unread at the end of a budget. So
//! a slot with more to do is queued again behind all others, and the next wait does not sleep. Slots that become ready
//! until then are before it. So a connection with a small request is served in the next turn, whatever the others do.

use crate::ids::SlotId;

/// Slots for the next turn, in the order in which they came. An entry ends with its slot.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    next: Vec<SlotId>,
    /// Slots that were interrupted.
    again: Vec<SlotId>,
}

impl Ready {
    pub(crate) fn is_empty(&self) -> bool {
        self.next.is_empty() && self.again.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &SlotId> {
        self.next.iter().chain(&self.again)
    }

    #[inline]
    pub(crate) fn push(&mut self, slot: SlotId) {
        self.next.push(slot);
    }

    pub(crate) fn push_again(&mut self, slot: SlotId) {
        self.again.push(slot);
    }

    /// Swaps the queue with `batch`, which is finished. Slots that are queued now wait for the next turn.
    pub(crate) fn take(&mut self, batch: &mut Vec<SlotId>) {
        batch.clear();
        std::mem::swap(&mut self.next, batch);
        batch.append(&mut self.again);
    }
}
