//! What a server does about TLS: a handshake comes before `setup`, and a failed one instead of it.

use std::io;

use super::call_handler::Callback;
use super::{Calls, Service, drop_error};
use crate::error::{Error, HANDSHAKE};
use crate::handler::RequestHandler;
use crate::lifecycle::EndReason;
use crate::logging::note_fault;
use crate::server::hooks::BaseServer;

impl Service<'_> {
    /// An accepted connection under TLS begins with its handshake. Returns whether it is under TLS.
    #[inline]
    pub(super) fn begin_securely(&mut self) -> bool {
        let is_secured = self.connection.io.stream.secured().is_some();
        if is_secured {
            self.core.begin_handshake();
            self.connection.await_handshake(self.core.now);
        }
        is_secured
    }
}

impl<S: BaseServer, H: RequestHandler<S>> Calls<S, H> {
    /// Plaintext has arrived. Usually it is all that is done in the service.
    #[inline(never)]
    pub(super) fn handle_plaintext(&mut self, at: &mut Service<'_>, fresh: usize) {
        self.call_own::<false>(at, 0..fresh, || Callback::Handle);
    }

    /// A handshake has failed, or its time is over. The peer is told, and then the connection ends.
    #[cold]
    pub(super) fn handshake_failed(&mut self, at: &mut Service<'_>, source: io::Error, why: EndReason) {
        let state = &at.connection.state;
        let is_connect = state.is_outbound() && !state.phase.may_call();
        let stats = &mut at.core.stats;
        match why {
            EndReason::HandshakeTimeout => stats.handshakes_timed_out += 1,
            _ => stats.handshakes_failed += 1,
        }
        at.connection.handshake_failed(why);
        let address = &at.connection.state.address;
        if is_connect {
            let error = Error::Connect { address: address.clone(), source };
            at.core.stats.connects_failed += 1;
            note_fault!(Warn, "{error:#}");
            self.call(at, Callback::ConnectFailed(&error));
            return;
        }
        let error = Error::Tls { doing: HANDSHAKE, source };
        note_fault!(Debug, "{address}: {error:#}");
        self.hook(at.core, |server| server.handshake_failed(address, &error));
        drop_error(at.core, error);
    }

    /// The peer has violated TLS, which is no error of a handler. It was told, and then the connection ends.
    #[cold]
    pub(super) fn tls_failed(&mut self, at: &mut Service<'_>, source: io::Error) {
        let error = Error::Tls { doing: "open a TLS record", source };
        let state = &mut at.connection.state;
        state.end(EndReason::TlsFailed, false);
        note_fault!(Debug, "{}: {error:#}", state.address);
        drop_error(at.core, error);
    }
}
