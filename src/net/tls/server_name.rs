//! The name that a client asks for. rustls' unbuffered sessions do not tell it, but they pass it to what chooses the
//! certificate.

use std::cell::Cell;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

thread_local! {
    static NOTED: Cell<Option<Box<str>>> = const { Cell::new(None) };
}

/// Notes the name, and leaves the choice to another.
#[derive(Debug)]
struct Noting(Arc<dyn ResolvesServerCert>);

impl ResolvesServerCert for Noting {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        NOTED.set(hello.server_name().map(Box::from));
        self.0.resolve(hello)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.0.only_raw_public_keys()
    }
}

/// The same configuration, of which sessions note the names. They share its tickets and its stored sessions.
pub(super) fn noting(config: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.cert_resolver = Arc::new(Noting(config.cert_resolver));
    Arc::new(config)
}

/// Runs a step of a handshake. Also returns the name, if this step has found it.
pub(super) fn noted<T>(run: impl FnOnce() -> T) -> (T, Option<Box<str>>) {
    NOTED.set(None);
    let result = run();
    (result, NOTED.take())
}
