//! The transitions of TLS: a handshake comes before everything else, and the layer is removed at the end.

use super::{HANDSHAKING, LAST_RECORD, NO_SESSION, Phase, SECURED};
use crate::connection::axes::{Inbound, Owed, Stage};

impl Phase {
    /// Like [`is_plain`](Self::is_plain), under TLS.
    #[inline]
    pub(crate) fn is_plain_under_tls(&self) -> bool {
        self.word() == Phase::PLAIN_SECURED.word()
    }

    /// TLS starts, and the handshake comes before anything else.
    pub(crate) fn secure(&mut self) {
        debug_assert!(!self.is_secured() && !self.is_ending());
        self.hold |= HANDSHAKING | SECURED;
    }

    /// The handshake is complete. Returns whether `setup` is due now.
    pub(crate) fn complete_handshake(&mut self) -> bool {
        debug_assert!(self.is_handshaking() && self.stage == Stage::Open);
        self.hold &= !HANDSHAKING;
        if self.owed == Owed::Nothing {
            self.owed = Owed::Setup;
        }
        self.owed == Owed::Setup
    }

    /// The handshake has failed. The end can be sent.
    pub(crate) fn give_up_handshake(&mut self) {
        self.hold = self.hold & !HANDSHAKING | NO_SESSION;
    }

    /// Returns whether the handshake has failed, so that the handler can send nothing.
    #[inline]
    pub(crate) fn has_no_session(&self) -> bool {
        self.hold & NO_SESSION != 0
    }

    /// The layer is removed. Unless the socket is at its end, the peer can still send.
    pub(crate) fn remove_layer(&mut self, is_at_end: bool) {
        debug_assert_eq!((self.stage, self.owed), (Stage::Closing, Owed::Gone));
        self.hold &= !(SECURED | HANDSHAKING);
        if self.inbound == Inbound::Open && !is_at_end {
            self.hold |= LAST_RECORD;
        }
        self.inbound = if is_at_end { Inbound::Told } else { Inbound::Open };
    }

    /// Returns whether the peer's `close_notify` may still arrive. Unlike a FIN, it is data. If it arrives at a closed
    /// socket, the system answers with a reset, which destroys output that the peer has not read.
    pub(crate) fn awaits_close_notify(&self) -> bool {
        self.hold & LAST_RECORD != 0
    }
}
