//! One certificate and one choice of algorithms for every server, and the files in which a program gets them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// A directory with the files.
#[derive(Clone)]
pub(crate) struct Certificate(PathBuf);

impl Certificate {
    /// Makes one, with a key for ECDSA on P-256, that signs itself.
    pub(crate) fn make(directory: &Path) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("ring can make one");
        let certificate = Certificate(directory.to_owned());
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        for (path, text) in
            [(certificate.chain(), &chain), (certificate.key(), &key), (certificate.both(), &format!("{chain}{key}"))]
        {
            fs::write(path, text).expect("the directory is ours");
        }
        certificate
    }

    pub(crate) fn of(directory: &Path) -> Self {
        Certificate(directory.to_owned())
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.0
    }

    pub(crate) fn chain(&self) -> PathBuf {
        self.0.join("cert.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.0.join("key.pem")
    }

    pub(crate) fn both(&self) -> PathBuf {
        self.0.join("both.pem")
    }

    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::from_pem_file(self.key()).expect("it was made");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_protocol_versions(&[&TLS13]).expect("ring has it").with_no_client_auth();
        Arc::new(config.with_single_cert(vec![self.certificate()], key).expect("they belong together"))
    }

    /// TLS 1.3 with AES-256-GCM and X25519, whatever the server would prefer, and no resumption.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        let provider = CryptoProvider {
            cipher_suites: vec![ring::cipher_suite::TLS13_AES_256_GCM_SHA384],
            kx_groups: vec![ring::kx_group::X25519],
            ..ring::default_provider()
        };
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate()).expect("it can be a root");
        let config = ClientConfig::builder_with_provider(Arc::new(provider));
        let config = config.with_protocol_versions(&[&TLS13]).expect("ring has it");
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.resumption = Resumption::disabled();
        Arc::new(config)
    }

    fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.chain()).expect("it was made")
    }
}
