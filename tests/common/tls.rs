//! Certificates and configurations for tests of TLS.
#![cfg(feature = "tls")]

use std::sync::{Arc, LazyLock};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use socketserver::TlsAcceptor;

pub(crate) use rustls::version::{TLS12, TLS13};

/// A certificate with its issuers, and its key.
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    /// The same in PEM.
    pem: (String, String),
}

impl Identity {
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    /// The chain and the key in PEM.
    pub(crate) fn pem(&self) -> (String, String) {
        self.pem.clone()
    }
}

/// The certificate that the tests trust.
pub(crate) fn authority_pem() -> String {
    AUTHORITY.pem()
}

/// The authority whose certificates the tests trust.
static AUTHORITY: LazyLock<CertifiedIssuer<'static, KeyPair>> = LazyLock::new(|| authority("the tests"));

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate of the authority, changed in some way.
pub(crate) fn identity(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
    signed(&AUTHORITY, name, change)
}

fn signed(
    issuer: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
    change: impl FnOnce(&mut CertificateParams),
) -> Identity {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    let pem = (certificate.pem(), key.serialize_pem());
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    Identity { chain: vec![certificate.der().clone()], key, pem }
}

/// A certificate of another authority, which the tests do not trust.
pub(crate) fn stranger(name: &str) -> Identity {
    signed(&authority("another one"), name, |_| {})
}

/// A certificate with two issuers between it and the authority.
pub(crate) fn long_chain(name: &str) -> Identity {
    let between = |name: &str, issuer: &CertifiedIssuer<'static, KeyPair>| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), issuer).unwrap()
    };
    let first = between("the first", &AUTHORITY);
    let second = between("the second", &first);
    let mut identity = signed(&second, name, |_| {});
    identity.chain.extend([second.der().clone(), first.der().clone()]);
    identity.pem.0 += &(second.pem() + &first.pem());
    identity
}

pub(crate) fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(AUTHORITY.der().clone()).unwrap();
    roots
}

/// A server without client certificates.
pub(crate) fn server_config(identity: &Identity) -> ServerConfig {
    let config = ServerConfig::builder().with_no_client_auth();
    config.with_single_cert(identity.chain.clone(), identity.key()).unwrap()
}

/// A server that asks clients for a certificate.
pub(crate) fn mutual_config(identity: &Identity, is_required: bool) -> ServerConfig {
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots()));
    let verifier = if is_required { verifier } else { verifier.allow_unauthenticated() };
    let config = ServerConfig::builder().with_client_cert_verifier(verifier.build().unwrap());
    config.with_single_cert(identity.chain.clone(), identity.key()).unwrap()
}

/// The certificate of `localhost`, and the acceptor with it.
pub(crate) static LOCALHOST: LazyLock<Identity> = LazyLock::new(|| identity("localhost", |_| {}));

pub(crate) fn acceptor() -> TlsAcceptor {
    static ACCEPTOR: LazyLock<TlsAcceptor> = LazyLock::new(|| TlsAcceptor::new(Arc::new(server_config(&LOCALHOST))));
    ACCEPTOR.clone()
}

/// A client of these versions.
pub(crate) fn client_config(versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_protocol_versions(versions);
    Arc::new(config.with_root_certificates(roots()).with_no_client_auth())
}

/// A client with a certificate.
pub(crate) fn known_client(versions: &[&'static SupportedProtocolVersion], identity: &Identity) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_protocol_versions(versions).with_root_certificates(roots());
    Arc::new(config.with_client_auth_cert(identity.chain.clone(), identity.key()).unwrap())
}

/// Both versions.
pub(crate) const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
