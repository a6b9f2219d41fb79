//! How many bytes the connections of a reactor hold together, if [`ReactorConfig::buffered_bytes_max`] bounds them.
//!
//! What a connection holds changes only while it is served, or when others send to it. It is counted again then, and a
//! total is kept. At the bound, the largest are closed until an eighth of it is free. So the next look at all connections
//! comes after at least so many more bytes, however many connections there are.
//!
//! [`ReactorConfig::buffered_bytes_max`]: crate::ReactorConfig::buffered_bytes_max

use super::core::Core;
use super::slots::{Contents, Slot};
use super::tally::Tally;
use crate::connection::Connection;
use crate::ids::SlotId;
use crate::lifecycle::EndReason;
use crate::logging::note_fault;

impl Core {
    /// The bound is new, has changed, or is gone.
    pub(crate) fn bound_buffers(&mut self) {
        self.recount = self.config.buffered_bytes_max.map(|_| Core::count_again as _);
        self.tally = self.config.buffered_bytes_max.map(|max| Box::new(Tally::new(max)));
        let Core { tally: Some(tally), slots, .. } = self else { return };
        for (key, slot) in slots.iter() {
            tally.set(key, buffered(slot));
        }
        self.relieve();
    }

    /// Counts again what these connections hold. No callback is under way, so some may be closed.
    #[cold]
    pub(crate) fn recount(&mut self, served: &[SlotId]) {
        // So that a program without a bound does not contain the rest.
        if let Some(recount) = self.recount {
            recount(self, served, true);
        }
    }

    /// Counts again what a connection holds, because others have sent to it.
    #[cold]
    pub(super) fn recount_target(&mut self, target: SlotId) {
        if let Some(recount) = self.recount {
            recount(self, &[target], false);
        }
    }

    fn count_again(&mut self, changed: &[SlotId], may_close: bool) {
        let Core { tally: Some(tally), slots, .. } = self else { return };
        for &entry in changed {
            if let Some(slot) = slots.entry(entry) {
                tally.set(entry.key, buffered(slot));
            }
        }
        if may_close {
            self.relieve();
        }
    }

    /// Closes the connections that hold the most, if all of them hold too much.
    fn relieve(&mut self) {
        let Some(mut tally) = self.tally.take_if(|tally| tally.is_passed()) else { return };
        let (total, mut closed) = (tally.total(), 0);
        let mut largest = tally.largest();
        while tally.total() > tally.target()
            && let Some((bytes, key)) = largest.pop()
        {
            let state = &mut self.slots.connection(key).state;
            if closed == 0 {
                note_fault!(
                    Warn,
                    "{total} bytes are unread or unsent (buffered_bytes_max = {}): the connections that hold the most are \
                     closed, first that of {} with {bytes} bytes",
                    tally.max(),
                    state.address,
                );
            }
            closed += 1;
            state.end(EndReason::BufferLimit, true);
            tally.forget(key);
            self.queue(key);
        }
        self.tally = Some(tally);
    }
}

/// How many bytes a connection holds. One that is aborted frees them as soon as it is served.
pub(super) fn buffered(slot: &mut Slot) -> usize {
    match slot.contents() {
        Some(Contents::Connection(connection)) => connection.buffered(),
        _ => 0,
    }
}

impl Connection {
    fn buffered(&self) -> usize {
        if self.state.phase.is_aborting() || self.state.phase.is_dead() {
            return 0;
        }
        self.carry.as_ref().map_or(0, |carry| carry.unread().len()) + self.held()
    }
}
