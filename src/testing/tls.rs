//! TLS at the other end of a scripted connection: rustls' own client, which shares no code with the tested layer.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex};

use rustls::ClientConfig;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::peer::Peer;
use super::pipe::Arrival;
use super::world::lock;
use crate::error::{Error, Result};
use crate::net::TlsAcceptor;

/// How clients of a test use TLS. Feature `tls`.
///
/// The same test then runs over TLS, because the [`Client`](super::Client) encrypts what it is fed and decrypts what was sent:
///
/// ```
/// use socketserver::testing::{Client, Tls, check_chunking};
/// use socketserver::{Limits, Next, Request, RequestHandler, Result, TlsAcceptor};
/// use std::io::Write;
/// use std::sync::Arc;
///
/// struct Upper;
/// impl RequestHandler for Upper {
///     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
///         while let Some(line) = request.input.read_line()? {
///             request.output.write_all(&line.to_ascii_uppercase())?;
///         }
///         Ok(Next::Wait)
///     }
/// }
///
/// let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
/// let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
/// let mut roots = rustls::RootCertStore::empty();
/// roots.add(made.cert.der().clone()).unwrap();
/// let server = rustls::ServerConfig::builder().with_no_client_auth();
/// let server = server.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
/// let client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
///
/// let acceptor = TlsAcceptor::new(Arc::new(server));
/// let tls = Tls::new(&acceptor, Arc::new(client), "localhost")?;
/// let mut client = Client::new_tls(Upper, &tls);
/// client.feed(b"hel");
/// client.feed(b"lo\n");
/// assert_eq!(client.sent(), b"HELLO\n");
/// check_chunking(b"one\ntwo\n", || Client::new_tls(Upper, &tls.clone().pieces(7))); // pieces of the wire
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone)]
pub struct Tls {
    pub(super) acceptor: TlsAcceptor,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    piece: usize,
}

impl Tls {
    /// Takes the server's end, and the client's configuration with the name that it checks.
    ///
    /// # Errors
    /// [`Error::Setting`] if `server_name` is not a name.
    pub fn new(acceptor: &TlsAcceptor, config: Arc<ClientConfig>, server_name: &str) -> Result<Self> {
        let name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| Error::setting("server_name", server_name, "it is neither a DNS name nor an IP address"))?;
        Ok(Tls { acceptor: acceptor.clone(), config, name, piece: usize::MAX })
    }

    /// Lets the encrypted bytes arrive in pieces of this size.
    #[must_use]
    pub fn pieces(self, bytes: usize) -> Self {
        Tls { piece: bytes.max(1), ..self }
    }

    /// Puts TLS on a peer of a [`Network`](super::Network) whose server wraps its connections in the hook
    /// [`get_request`](crate::BaseServer::get_request).
    #[cfg(feature = "simulation")]
    pub fn peer(&self, peer: &Peer) -> TlsPeer {
        self.over(peer)
    }

    pub(super) fn over(&self, peer: &Peer) -> TlsPeer {
        let mut session = ClientConnection::new(Arc::clone(&self.config), self.name.clone()).expect("a valid config");
        session.set_buffer_limit(None);
        let end = End { session, received: Vec::new(), taken: 0, piece: self.piece, failed: None, is_closed: false };
        TlsPeer { end: Arc::new(Mutex::new(end)), peer: peer.clone() }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).field("piece", &self.piece).finish_non_exhaustive()
    }
}

/// The client's end of TLS over a peer. A copy is the same end. Feature `tls`.
///
/// Nothing moves unless [`exchange`](Self::exchange) is called, between two runs of the network.
#[derive(Clone)]
pub struct TlsPeer {
    end: Arc<Mutex<End>>,
    peer: Peer,
}

struct End {
    session: ClientConnection,
    /// Everything that was received. The first `taken` bytes were taken.
    received: Vec<u8>,
    taken: usize,
    piece: usize,
    failed: Option<rustls::Error>,
    is_closed: bool,
}

impl TlsPeer {
    /// Takes the bytes that have arrived, and sends the bytes that TLS wants to send. Returns whether anything was sent,
    /// so that the server has something to do.
    pub fn exchange(&self) -> bool {
        let mut end = lock(&self.end);
        let bytes = self.peer.take_received();
        let mut rest = &bytes[..];
        while !rest.is_empty() && end.failed.is_none() {
            if end.session.read_tls(&mut rest).is_err() {
                break;
            }
            end.open();
        }
        end.send(&self.peer)
    }

    /// Sends bytes under TLS. Before the end of the handshake they wait for it. After TLS has [failed](Self::failed),
    /// nothing is sent.
    pub fn send(&self, bytes: &[u8]) {
        let mut end = lock(&self.end);
        let _ = end.session.writer().write_all(bytes); // Its buffer has no limit, so this fails only after TLS.
        end.send(&self.peer);
    }

    /// Sends early data (0-RTT), if the configuration allows it and an earlier session can be resumed. Returns whether it
    /// was sent. The server may still refuse it.
    pub fn send_early(&self, bytes: &[u8]) -> bool {
        let mut end = lock(&self.end);
        let is_sent = end.session.early_data().is_some_and(|mut early| early.write_all(bytes).is_ok());
        end.send(&self.peer);
        is_sent
    }

    /// Ends this direction: `close_notify`. The socket's direction stays open.
    pub fn send_close_notify(&self) {
        let mut end = lock(&self.end);
        end.session.send_close_notify();
        end.send(&self.peer);
    }

    /// Asks for new keys in both directions.
    pub fn refresh_keys(&self) {
        let mut end = lock(&self.end);
        end.session.refresh_traffic_keys().expect("the handshake is complete, and the version is TLS 1.3");
        end.send(&self.peer);
    }

    /// Returns all bytes that the server has sent.
    pub fn received(&self) -> Vec<u8> {
        lock(&self.end).received.clone()
    }

    /// Returns the bytes that the server has sent since the last call of this.
    pub fn take_received(&self) -> Vec<u8> {
        let mut end = lock(&self.end);
        let all = end.received.len();
        let from = std::mem::replace(&mut end.taken, all);
        end.received[from..].to_vec()
    }

    /// Returns the bytes that `take_received` would take.
    pub(super) fn untaken(&self) -> Vec<u8> {
        let end = lock(&self.end);
        end.received[end.taken..].to_vec()
    }

    /// Returns whether the server has ended its direction by `close_notify`.
    pub fn is_closed(&self) -> bool {
        lock(&self.end).is_closed
    }

    /// Returns whether the handshake is complete.
    pub fn is_established(&self) -> bool {
        !lock(&self.end).session.is_handshaking()
    }

    /// Returns why TLS has failed at this end, for example because of an alert.
    pub fn failed(&self) -> Option<rustls::Error> {
        lock(&self.end).failed.clone()
    }
}

impl fmt::Debug for TlsPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsPeer").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl End {
    fn open(&mut self) {
        match self.session.process_new_packets() {
            Ok(state) => {
                let mut plain = vec![0; state.plaintext_bytes_to_read()];
                if self.session.reader().read_exact(&mut plain).is_ok() {
                    self.received.extend(plain);
                }
                self.is_closed |= state.peer_has_closed();
            }
            Err(error) => self.failed = Some(error),
        }
    }

    fn send(&mut self, peer: &Peer) -> bool {
        let mut wire = Vec::new();
        while self.session.wants_write() {
            self.session.write_tls(&mut wire).expect("a vector takes everything");
        }
        wire.chunks(self.piece).for_each(|piece| peer.arrive(Arrival::Bytes(piece.to_vec())));
        !wire.is_empty()
    }
}
