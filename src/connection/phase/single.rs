//! The usual end of a single datagram.

use super::{Owed, Phase, Stage};

impl Phase {
    /// `setup` of a single datagram has succeeded.
    const SINGLE: Phase = Phase { owed: Owed::Finish, ..Phase::DATAGRAMS };

    /// Ends a single datagram if nothing has happened to it since its `setup`. Returns whether it did.
    #[inline(always)]
    pub(crate) fn end_single(&mut self) -> bool {
        let is_usual = self.is(Phase::SINGLE);
        if is_usual {
            *self = Phase { stage: Stage::Closing, ..Phase::SINGLE };
        }
        is_usual
    }
}
