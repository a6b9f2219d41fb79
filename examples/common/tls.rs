//! The options of examples that serve under TLS.

#![allow(dead_code, reason = "each example uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use socketserver::{Error, Result, TlsAcceptor, TlsConnector};

#[derive(clap::Args)]
pub(crate) struct TlsOptions {
    /// Serve under TLS, with the certificates and the private key in these files (PEM); SIGHUP reads them again, for new
    /// connections
    #[arg(long, num_args = 2, value_names = ["CERT", "KEY"])]
    tls: Option<Vec<PathBuf>>,
    /// Serve under TLS, with a new certificate for localhost that no client trusts; SIGHUP makes another one, for new
    /// connections
    #[arg(long, conflicts_with = "tls")]
    self_signed: bool,
}

impl TlsOptions {
    /// Returns `None` without these options.
    pub(crate) fn acceptor(&self) -> Result<Option<TlsAcceptor>> {
        match self.tls.as_deref() {
            Some([chain, key]) => {
                let (chain, key) = (chain.clone(), key.clone());
                reloading(move || from_files(&chain, &key)).map(Some)
            }
            _ if self.self_signed => reloading(self_signed).map(Some),
            _ => Ok(None),
        }
    }
}

/// An acceptor whose configuration is made again after each SIGHUP.
fn reloading(config: impl Fn() -> Result<Arc<ServerConfig>> + Send + 'static) -> Result<TlsAcceptor> {
    let acceptor = TlsAcceptor::new(config()?);
    #[cfg(unix)]
    reload_on_sighup(acceptor.clone(), config)?;
    Ok(acceptor)
}

/// The configuration of a client that trusts the certificates in a file, and no others.
pub(crate) fn connector(authorities: &Path, server_name: &str) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authorities)? {
        roots.add(certificate).map_err(|error| in_file(authorities, error))?;
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    TlsConnector::new(Arc::new(config), server_name)
}

fn from_files(chain: &Path, key: &Path) -> Result<Arc<ServerConfig>> {
    let certificates = certificates(chain)?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| in_file(key, error))?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(certificates, secret);
    let mut config = config.map_err(|error| in_file(chain, error))?;
    config.ignore_client_order = true;
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates: Vec<_> = read.map_err(|error| in_file(path, error))?;
    if certificates.is_empty() {
        return Err(in_file(path, "it has no certificate"));
    }
    Ok(certificates)
}

fn self_signed() -> Result<Arc<ServerConfig>> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).map_err(Error::other)?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
    let config = ServerConfig::builder().with_no_client_auth();
    config.with_single_cert(vec![made.cert.der().clone()], key).map(Arc::new).map_err(Error::other)
}

/// Makes the configuration again after each SIGHUP, on a separate thread. If this fails, the old certificates stay.
#[cfg(unix)]
fn reload_on_sighup(
    acceptor: TlsAcceptor,
    config: impl Fn() -> Result<Arc<ServerConfig>> + Send + 'static,
) -> Result<()> {
    use std::io::Read as _;

    let (mut signals, caught) = std::os::unix::net::UnixStream::pair()?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGHUP, caught)?;
    let reload = move || {
        while signals.read(&mut [0]).is_ok_and(|bytes| bytes > 0) {
            match config() {
                Ok(config) => {
                    acceptor.replace(config);
                    log::info!("the certificates were replaced");
                }
                Err(error) => log::error!("the certificates were not replaced: {error:#}"),
            }
        }
    };
    std::thread::Builder::new().name("certificates".to_owned()).spawn(reload)?;
    Ok(())
}

fn in_file(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::from(format!("cannot use {}: {error}", crate::common::printable(&path.display().to_string())))
}
