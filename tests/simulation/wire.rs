//! A peer, plain or under TLS: faults hit the ciphertext, and the books are about the plaintext.

use std::ops::Deref;

use socketserver::testing::Peer;

/// A peer, and its end of TLS if it has one. What is not here concerns the wire.
#[derive(Clone)]
pub(crate) struct Wire {
    peer: Peer,
    tls: Option<TlsPeer>,
}

impl Wire {
    pub(crate) fn plain(peer: Peer) -> Self {
        Wire { peer, tls: None }
    }

    pub(crate) fn send(&self, bytes: &[u8]) {
        match &self.tls {
            Some(tls) => tls.send(bytes),
            None => self.peer.send(bytes),
        }
    }

    pub(crate) fn send_eof(&self) {
        if let Some(tls) = &self.tls {
            tls.send_close_notify();
        }
        self.peer.send_eof();
    }

    /// Ends the socket's direction without the end of TLS.
    pub(crate) fn truncate(&self) {
        self.peer.send_eof();
    }

    pub(crate) fn take_received(&self) -> Vec<u8> {
        match &self.tls {
            Some(tls) => {
                tls.exchange();
                tls.take_received()
            }
            None => self.peer.take_received(),
        }
    }

    /// Moves what TLS has to move. Returns whether the server has something to do.
    pub(crate) fn exchange(&self) -> bool {
        self.tls.as_ref().is_some_and(TlsPeer::exchange)
    }

    /// Bytes can pass: there is no TLS, or its handshake is complete.
    pub(crate) fn is_established(&self) -> bool {
        self.tls.as_ref().is_none_or(TlsPeer::is_established)
    }

    /// What is wrong with TLS, if anything is. `has_ended`: the server has closed the connection in good order.
    pub(crate) fn complaint(&self, has_ended: bool) -> Option<String> {
        let tls = self.tls.as_ref()?;
        match tls.failed() {
            Some(error) => Some(format!("finds fault with TLS: {error}")),
            None if has_ended && !tls.is_closed() => Some("was closed in good order without close_notify".to_owned()),
            None => None,
        }
    }
}

impl Deref for Wire {
    type Target = Peer;

    fn deref(&self) -> &Peer {
        &self.peer
    }
}

#[cfg(feature = "tls")]
pub(crate) use secured::{TlsPeer, acceptor};

/// Everything has the same length in each run: the signatures, the certificate and its number. No session is resumed,
/// because a seed is to be played alone, too.
#[cfg(feature = "tls")]
mod secured {
    use std::sync::{Arc, LazyLock};

    use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
    use rustls::client::Resumption;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ClientConfig, RootCertStore, ServerConfig};
    use socketserver::TlsAcceptor;
    pub(crate) use socketserver::testing::TlsPeer;
    use socketserver::testing::{Peer, Tls};

    use super::Wire;
    use crate::certificates::{TLS12, TLS13};

    impl Wire {
        /// Every second peer uses TLS 1.2. The ciphertext arrives in pieces.
        pub(crate) fn secured(peer: Peer, number: usize, piece: usize) -> Self {
            let tls = Tls::new(&ENDS.0, Arc::clone(&ENDS.1[number / 2 % 2]), "localhost").expect("it is a name");
            let tls = tls.pieces(piece).peer(&peer);
            Wire { peer, tls: Some(tls) }
        }
    }

    pub(crate) fn acceptor() -> &'static TlsAcceptor {
        &ENDS.0
    }

    static ENDS: LazyLock<(TlsAcceptor, [Arc<ClientConfig>; 2])> = LazyLock::new(|| {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.serial_number = Some(1u64.into());
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let server = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
        let client = |version| {
            let client = ClientConfig::builder_with_protocol_versions(&[version]);
            let mut client = client.with_root_certificates(roots.clone()).with_no_client_auth();
            client.resumption = Resumption::disabled();
            Arc::new(client)
        };
        (TlsAcceptor::new(Arc::new(server)), [&TLS13, &TLS12].map(client))
    });
}

/// No peer has TLS without the feature.
#[cfg(not(feature = "tls"))]
#[derive(Clone)]
pub(crate) enum TlsPeer {}

#[cfg(not(feature = "tls"))]
#[rustfmt::skip]
impl TlsPeer {
    fn send(&self, _: &[u8]) { match *self {} }
    fn send_close_notify(&self) { match *self {} }
    fn take_received(&self) -> Vec<u8> { match *self {} }
    fn exchange(&self) -> bool { match *self {} }
    fn is_established(&self) -> bool { match *self {} }
    fn is_closed(&self) -> bool { match *self {} }
    fn failed(&self) -> Option<String> { match *self {} }
}
