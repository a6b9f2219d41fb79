//! TLS: where servers and connections get it, and what can be asked about it.

use std::sync::{Arc, LazyLock};

use fastrand::Rng;
use rustls::{ClientConfig, ServerConfig};
use socketserver::testing::{Peer, Tls, TlsPeer};
use socketserver::{
    Address, BaseServer, ConnectionId, Error, Others, Request, Result, TlsAcceptor, TlsConnector, TlsSession,
};

use crate::chaos::Chaos;
use crate::common::tls::{LOCALHOST, VERSIONS, client_config, server_config};
use crate::ledger::Ledger;
use crate::methods::call;

static SERVER: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| Arc::new(server_config(&LOCALHOST)));
static CLIENT: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| client_config(&VERSIONS));

pub(crate) fn acceptor(rng: &mut Rng) -> TlsAcceptor {
    let acceptor = call!(TlsAcceptor::new(Arc::clone(&SERVER)));
    if rng.bool() {
        call!(TlsAcceptor::replace(&acceptor, Arc::clone(&SERVER)));
    }
    call!(TlsAcceptor::suppress_ragged_eofs(acceptor, rng.bool()))
}

fn connector(rng: &mut Rng) -> TlsConnector {
    // Its certificate is that of `localhost`.
    let name = if rng.u32(..4) == 0 { "elsewhere" } else { "localhost" };
    call!(TlsConnector::new(Arc::clone(&CLIENT), name)).expect("both are names")
}

/// Connects out under TLS, perhaps to a server that has none.
pub(crate) fn connect<S: BaseServer>(
    rng: &mut Rng,
    ledger: &Arc<Ledger>,
    others: &mut Others<'_, S>,
    to: Address,
) -> Result<ConnectionId> {
    let (connector, handler) = (connector(rng), Chaos::new(ledger, rng));
    call!(Others::connect_tls(others, to, &connector, handler))
}

/// Starts TLS on the connection of a handler. Returns whether it was started.
pub(crate) fn start<S: BaseServer>(rng: &mut Rng, ledger: &Ledger, request: &mut Request<'_, S>) {
    let (has_input, is_datagram) = (!request.input.is_empty(), request.is_datagram());
    let started = match rng.bool() {
        true => call!(Request::start_tls(request, &acceptor(rng))),
        false => call!(Request::start_tls_client(request, &connector(rng))),
    };
    ledger.expect(started.is_err() || !(has_input || is_datagram), "TLS is not started after other input");
    ledger.only("start_tls", started, |error| matches!(error, Error::Tls { .. } | Error::Gone));
}

pub(crate) fn ask<S: BaseServer>(ledger: &Ledger, request: &Request<'_, S>) {
    if let Some(session) = call!(Request::tls(request)) {
        ask_session(ledger, session);
    }
}

pub(crate) fn ask_session(ledger: &Ledger, session: TlsSession<'_>) {
    ledger.expect(call!(TlsSession::protocol_version(&session)).is_some(), "a session has a version");
    ledger.expect(call!(TlsSession::cipher_suite(&session)).is_some(), "a session has a cipher suite");
    ledger.expect(call!(TlsSession::alpn_protocol(&session)).is_none(), "no protocol was offered");
    let name = call!(TlsSession::server_name(&session));
    ledger.expect(name.is_none_or(|name| name == "localhost"), "the name is the one that was asked for");
    let _ = (call!(TlsSession::peer_certificates(&session)), call!(TlsSession::is_resumed(&session)));
}

/// What clients of a scripted connection have.
pub(crate) fn tls(rng: &mut Rng) -> Tls {
    let tls = call!(Tls::new(&acceptor(rng), Arc::clone(&CLIENT), "localhost")).expect("a name");
    call!(Tls::pieces(tls, rng.usize(1..3_000)))
}

/// A peer of a simulated network that speaks TLS and behaves well.
pub(crate) struct Secure {
    wire: Peer,
    tls: TlsPeer,
    sent: Vec<u8>,
    received: Vec<u8>,
}

impl Secure {
    pub(crate) fn new(rng: &mut Rng, wire: Peer) -> Self {
        let tls = call!(Tls::peer(&tls(rng), &wire));
        Secure { wire, tls, sent: Vec::new(), received: Vec::new() }
    }

    /// Moves what is under way. Returns whether the server has something to do.
    pub(crate) fn exchange(&mut self) -> bool {
        let _ = call!(Peer::has_received(&self.wire));
        let moved = call!(TlsPeer::exchange(&self.tls));
        self.received.extend(call!(TlsPeer::take_received(&self.tls)));
        moved
    }

    /// Says something, if that leaves at once.
    pub(crate) fn talk(&mut self, rng: &mut Rng, bytes: Vec<u8>) {
        if !call!(TlsPeer::is_established(&self.tls)) || call!(TlsPeer::is_closed(&self.tls)) {
            return;
        }
        if rng.u32(..10) == 0 {
            call!(TlsPeer::refresh_keys(&self.tls));
        }
        call!(TlsPeer::send(&self.tls, &bytes));
        self.sent.extend(bytes);
    }

    /// Checks that everything has come back.
    pub(crate) fn check(&mut self, ledger: &Ledger, all: bool) {
        self.exchange();
        let failed = call!(TlsPeer::failed(&self.tls));
        let whole = !all || self.received.len() == self.sent.len();
        if failed.is_some() || !whole || !self.sent.starts_with(&self.received) {
            let (got, all) = (self.received.len(), self.sent.len());
            ledger.violation(format!("a polite peer over TLS gets back {got} of {all} bytes; {failed:?}"));
        }
        ledger.expect(call!(TlsPeer::received(&self.tls)).len() == self.received.len(), "received has it all");
    }

    pub(crate) fn end(&self) {
        call!(TlsPeer::send_close_notify(&self.tls));
        self.wire.send_eof();
    }
}
