//! Who is owed service: a queue of slots, each in it once at most.
//!
//! Readiness is edge-triggered: for bytes left unread at the end of a budget the kernel sends no further event. So
//! whoever has more to do is put back here, behind everybody else, and the next wait does not sleep. Who becomes ready
//! until then is before it: a connection that asks for a little has it in the next turn, whatever the others want.

use crate::ids::SlotId;

/// Slots to be served in the next turn, in the order in which they came. An entry dies with its slot.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    next: Vec<SlotId>,
    /// Those that were interrupted.
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

    /// Swaps the queue against `batch`, which is done with: what comes meanwhile waits for the next turn.
    pub(crate) fn take(&mut self, batch: &mut Vec<SlotId>) {
        batch.clear();
        std::mem::swap(&mut self.next, batch);
        batch.append(&mut self.again);
    }
}
