//! TLS by rustls: what users configure and what they can ask. Everything else sees a [`Layer`](super::layer::Layer).

mod server_name;
pub(crate) mod session;
pub(crate) mod words;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, ServerConfig, SupportedCipherSuite};

use self::session::{ClientStart, ServerStart, Side};
pub(crate) use self::session::{Session, Start, suppresses_ragged_eofs};
use crate::error::{Error, Result};

/// Accepts TLS connections: the server's end. Feature `tls`.
///
/// Put it into [`TcpOptions::tls`](crate::TcpOptions::tls) or `UnixOptions::tls`, wrap an accepted socket in the hook
/// [`get_request`](crate::BaseServer::get_request), or pass it to [`Request::start_tls`](crate::Request::start_tls).
///
/// Clones share the configuration, so a clone that the program keeps can [replace](Self::replace) it while the server
/// runs. The memory of a silent connection does not depend on TLS: its session is made when its first byte arrives.
///
/// Source: `ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)`.
#[derive(Clone)]
pub struct TlsAcceptor {
    start: Arc<RwLock<Start>>,
}

impl TlsAcceptor {
    /// Creates one with a configuration, which also brings the crypto provider.
    pub fn new(config: Arc<ServerConfig>) -> Self {
        TlsAcceptor::with(server_name::noting(&config), false)
    }

    fn with(config: Arc<ServerConfig>, suppress_ragged_eofs: bool) -> Self {
        TlsAcceptor { start: Arc::new(RwLock::new(server(config, suppress_ragged_eofs))) }
    }

    /// Replaces the configuration of this acceptor and its clones, for example by one with new certificates. It applies
    /// to connections that are accepted, or that start TLS, from now on. They cannot resume sessions of the old one.
    pub fn replace(&self, config: Arc<ServerConfig>) {
        let mut start = self.start.write().unwrap_or_else(PoisonError::into_inner);
        *start = server(server_name::noting(&config), session::suppresses_ragged_eofs(&start));
    }

    /// Returns a separate acceptor with the same configuration, for peers that end the connection without
    /// `close_notify`. By default this ends the connection with
    /// [`EndReason::Truncated`](crate::EndReason::Truncated), because an attacker on the path can cause it, and the
    /// handler could mistake a part of a message for all of it. With `true`, it counts as the end of the input.
    ///
    /// Source: `suppress_ragged_eofs` of `ssl.SSLContext.wrap_socket`, true in Python.
    #[must_use]
    pub fn suppress_ragged_eofs(self, on: bool) -> Self {
        let Side::Server(start) = &*self.start() else { unreachable!("it accepts") };
        TlsAcceptor::with(Arc::clone(&start.config), on)
    }

    pub(crate) fn start(&self) -> Start {
        Arc::clone(&self.start.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn server(config: Arc<ServerConfig>, suppress_ragged_eofs: bool) -> Start {
    Arc::new(Side::Server(ServerStart { config, suppress_ragged_eofs }))
}

impl fmt::Debug for TlsAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsAcceptor").finish_non_exhaustive()
    }
}

/// Makes TLS connections to one server: the client's end. Feature `tls`.
///
/// Pass it to [`Others::connect_tls`](crate::Others::connect_tls) or to
/// [`Request::start_tls_client`](crate::Request::start_tls_client).
///
/// Source: `ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)` with `server_hostname`.
#[derive(Clone)]
pub struct TlsConnector {
    start: Start,
}

impl TlsConnector {
    /// Creates one with a configuration, and with the name or IP address that the server's certificate must have.
    ///
    /// # Errors
    /// [`Error::Setting`] if it is neither a name nor an address.
    pub fn new(config: Arc<ClientConfig>, server_name: &str) -> Result<Self> {
        match ServerName::try_from(server_name.to_owned()) {
            Ok(name) => Ok(TlsConnector { start: Arc::new(Side::Client(ClientStart { config, name })) }),
            Err(_) => Err(Error::setting("server_name", server_name, "it is neither a DNS name nor an IP address")),
        }
    }

    pub(crate) fn start(&self) -> Start {
        Arc::clone(&self.start)
    }
}

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConnector").finish_non_exhaustive()
    }
}

/// What the two ends of a TLS connection have agreed on: [`Request::tls`](crate::Request::tls). Feature `tls`.
///
/// Source: the methods of `ssl.SSLSocket`.
#[derive(Clone, Copy, Debug)]
pub struct TlsSession<'a> {
    session: &'a Session,
}

impl<'a> TlsSession<'a> {
    pub(crate) fn new(session: &'a Session) -> Self {
        TlsSession { session }
    }

    /// Returns the protocol version. Source: `version`.
    pub fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.session.state().protocol_version()
    }

    /// Returns the cipher suite. Source: `cipher`.
    pub fn cipher_suite(&self) -> Option<SupportedCipherSuite> {
        self.session.state().negotiated_cipher_suite()
    }

    /// Returns the name of the server that the client has asked for (SNI), or, at the client's end, has checked. Source:
    /// `server_hostname`, `sni_callback`.
    pub fn server_name(&self) -> Option<&'a str> {
        self.session.server_name()
    }

    /// Returns the protocol that both ends speak above TLS (ALPN). Source: `selected_alpn_protocol`.
    pub fn alpn_protocol(&self) -> Option<&'a [u8]> {
        self.session.state().alpn_protocol()
    }

    /// Returns the certificates of the peer, its own first. They were verified. `None`: it has none, as clients usually
    /// have. Source: `getpeercert`.
    pub fn peer_certificates(&self) -> Option<&'a [CertificateDer<'static>]> {
        self.session.state().peer_certificates()
    }

    /// Returns whether the session continues an earlier one. Source: `session_reused`.
    pub fn is_resumed(&self) -> bool {
        self.session.state().handshake_kind() == Some(HandshakeKind::Resumed)
    }
}
