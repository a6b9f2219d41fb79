//! TLS for the examples that have it.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use socketserver::{Result, TlsAcceptor};

use crate::common::printable;

/// A certificate and its key.
#[derive(clap::Args)]
pub(crate) struct Tls {
    /// The certificate for TLS, followed by those that lead to a known authority, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of the certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl Tls {
    /// Reads the files, if there are any.
    ///
    /// # Errors
    /// An error of one line with the path of the file.
    pub(crate) fn acceptor(&self) -> Result<Option<TlsAcceptor>> {
        let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) else { return Ok(None) };
        let certs = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect);
        let certs: Vec<_> = certs.map_err(|error| unusable(cert, &error))?;
        let private_key = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error))?;
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(certs, private_key))
            .map_err(|error| unusable(cert, &error))?;
        Ok(Some(TlsAcceptor::new(Arc::new(config))))
    }
}

fn unusable(path: &Path, why: &dyn Display) -> String {
    format!("cannot use {}: {why}", printable(&path.to_string_lossy()))
}
