//! A scripted client over TLS.

use super::Client;
use super::pipe::Arrival;
use super::tls::{Tls, TlsPeer};
use crate::handler::RequestHandler;
use crate::limits::Limits;
use crate::server::hooks::BaseServer;

impl Client<()> {
    /// Like [`new`](Client::new), over TLS. Feature `tls`.
    pub fn new_tls(handler: impl RequestHandler, tls: &Tls) -> Self {
        Client::with_tls((), handler, Limits::default(), tls)
    }
}

impl<S: BaseServer> Client<S> {
    /// Like [`with_limits`](Client::with_limits), over TLS: bytes that are fed are encrypted, those that were sent are
    /// decrypted, and the end of the client's direction is announced. The handshake is complete when this returns, unless
    /// it fails. Feature `tls`.
    pub fn with_tls(server: S, handler: impl RequestHandler<S>, limits: Limits, tls: &Tls) -> Self {
        let mut client = Client::connect(server, handler, limits, |stream| tls.acceptor.wrap_socket(stream));
        client.tls = Some(tls.over(&client.peer));
        client.run();
        client
    }

    /// Returns the client's end of TLS, if it has one. Feature `tls`.
    pub fn tls(&self) -> Option<&TlsPeer> {
        self.tls.as_ref()
    }

    /// Feeds bytes past TLS, as an attacker on the path could. Feature `tls`.
    pub fn feed_wire(&mut self, bytes: &[u8]) {
        self.peer.arrive(Arrival::Bytes(bytes.to_vec()));
        self.run();
    }

    /// Ends the socket's direction without the end of TLS. Feature `tls`.
    pub fn feed_truncation(&mut self) {
        self.peer.arrive(Arrival::Eof);
        self.run();
    }

    /// Encrypts what arrives. `None`: that was all.
    pub(super) fn seal(&mut self, arrival: Arrival) -> Option<Arrival> {
        match (&self.tls, arrival) {
            (Some(tls), Arrival::Bytes(bytes)) => {
                tls.send(&bytes);
                None
            }
            (Some(tls), Arrival::Eof) => {
                tls.send_close_notify();
                Some(Arrival::Eof)
            }
            (_, arrival) => Some(arrival),
        }
    }
}
