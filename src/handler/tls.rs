//! TLS for handlers: what was agreed on, starting it on an open connection, and outbound connections with it.

use std::io;

use super::RequestHandler;
use super::others::{Order, Others};
use super::request::Request;
use crate::address::Address;
use crate::error::{Error, Result};
use crate::ids::ConnectionId;
use crate::logging::note_fault;
use crate::net::tls::words::Ends;
use crate::net::tls::{Start, TlsAcceptor, TlsConnector, TlsSession};

impl<S> Request<'_, S> {
    /// Returns what this connection's TLS has agreed on. `None` without TLS, and before its handshake is complete. Feature
    /// `tls`.
    ///
    /// Source: `self.request` of a Python handler, if it is an `ssl.SSLSocket`.
    pub fn tls(&self) -> Option<TlsSession<'_>> {
        let secured = self.output.secured().filter(|secured| !secured.is_handshaking())?;
        secured.layer().map(TlsSession::new)
    }

    /// Starts TLS on this connection as the server, for protocols with a command such as `STARTTLS`. Output that was
    /// written before this call leaves unencrypted, and the handshake follows it. Output that is written after it waits
    /// until the handshake is complete, and is encrypted. Then [`writable`](RequestHandler::writable) is called, and
    /// [`tls`](Self::tls) has an answer. If the handshake fails, the connection ends with
    /// [`EndReason::HandshakeFailed`](crate::EndReason::HandshakeFailed). If the peer closes the connection before its first
    /// byte of TLS, it ends with [`EndReason::PeerClosed`](crate::EndReason::PeerClosed), without a call of
    /// [`eof`](RequestHandler::eof). If the callback ends the connection after this call, TLS does not start, and output
    /// that was written after this call is dropped. Feature `tls`.
    ///
    /// # Errors
    /// [`Error::Tls`] if input is unread. It was sent before TLS, perhaps by an attacker on the path, and must not be taken
    /// for what was sent under TLS (command injection: CVE-2011-0411). If the callback propagates this error with `?`, the
    /// connection ends with [`EndReason::TlsFailed`](crate::EndReason::TlsFailed), and `handle_error` is not called. The
    /// same error, but of the handler, if the connection has TLS already or is a datagram. [`Error::Gone`] if nothing more
    /// can be sent.
    ///
    /// Source: `ssl.SSLContext.wrap_socket` in `handle`.
    pub fn start_tls(&mut self, acceptor: &TlsAcceptor) -> Result<()> {
        self.start(acceptor.start())
    }

    /// Like [`start_tls`](Self::start_tls), as the client of an outbound connection. Feature `tls`.
    ///
    /// # Errors
    /// The same as for [`start_tls`](Self::start_tls).
    pub fn start_tls_client(&mut self, connector: &TlsConnector) -> Result<()> {
        self.start(connector.start())
    }

    fn start(&mut self, start: Start) -> Result<()> {
        let is_ordered =
            |(key, order): &(u32, Order<S>)| *key == self.slot.key && matches!(order, Order::StartTls { .. });
        if !self.input.is_empty() {
            let source = io::Error::new(io::ErrorKind::InvalidData, "the peer has sent more before TLS");
            let ends = Ends(&self.state.address, self.local_address());
            note_fault!(Debug, "{ends}: cannot start TLS: {source}");
            return Err(Error::Tls { doing: START, source });
        }
        let why = if self.state.is_datagram() {
            "a datagram has no stream"
        } else if self.output.secured().is_some() || self.others.pending.orders.iter().any(is_ordered) {
            "the connection has TLS already"
        } else if self.output.is_shut() {
            return Err(Error::Gone);
        } else {
            let bare = self.output.hold();
            u32::try_from(bare)?;
            self.others.pending.orders.push((self.slot.key, Order::StartTls { start, bare }));
            return Ok(());
        };
        Err(Error::Tls { doing: START, source: io::Error::new(io::ErrorKind::InvalidInput, why) })
    }
}

impl<S> Others<'_, S> {
    /// Starts an outbound connection under TLS. Otherwise like [`connect`](Self::connect): the handler's `setup` is
    /// called when the handshake is complete, and `connect_failed`, with the reason of rustls, if it fails or takes longer
    /// than [`Limits::handshake_timeout`](crate::Limits::handshake_timeout). Bytes sent to the id in the meantime are
    /// queued. Feature `tls`.
    ///
    /// # Errors
    /// The same as for [`connect`](Self::connect).
    pub fn connect_tls(
        &mut self,
        to: impl Into<Address>,
        connector: &TlsConnector,
        handler: impl RequestHandler<S>,
    ) -> Result<ConnectionId> {
        let id = self.connect(to, handler)?;
        self.core.begin_handshake();
        let now = self.core.now;
        let _started = self.core.slots.connection(id.slot.key).start_tls(connector.start(), 0, now);
        Ok(id)
    }
}

/// The operation of [`Error::Tls`] when TLS cannot be started.
const START: &str = "start TLS";
