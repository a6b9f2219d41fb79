//! The values of a phase that occur together.

use super::Phase;
use crate::connection::axes::{Inbound, Outbound, Owed, Stage};

impl Phase {
    /// Checks which values occur together between two turns. The numbers are those of `docs/architecture.md`.
    pub(crate) fn check(&self) {
        let Phase { stage, owed, inbound, outbound, .. } = *self;
        let owes = match stage {
            Stage::Connecting => owed == Owed::Nothing,
            Stage::Open => matches!(owed, Owed::Setup | Owed::Finish) || self.is_handshaking(),
            Stage::Closing | Stage::Aborting => true,
            Stage::Lingering => owed == Owed::Gone,
            Stage::Dead => false,
        };
        assert!(owes, "3: a handler is owed {owed:?} at the stage {stage:?}");
        let read = stage != Stage::Connecting || inbound == Inbound::Open;
        assert!(read, "3: {inbound:?} of a connection that is not established");
        let written = match stage {
            Stage::Connecting => matches!(outbound, Outbound::Open | Outbound::ShutDue),
            Stage::Lingering => matches!(outbound, Outbound::Shut | Outbound::Broken),
            _ => inbound != Inbound::Datagrams || outbound == Outbound::Open,
        };
        assert!(written, "3: {outbound:?} at the stage {stage:?}, with {inbound:?}");
    }
}
