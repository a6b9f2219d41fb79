//! The server name that a client asks for. rustls' unbuffered sessions do not return it, but they pass it to the resolver
//! of certificates, which notes it here.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// A server name. Successive sessions with the same name share it.
pub(super) type Name = Arc<Box<str>>;

thread_local! {
    static NOTED: Cell<Option<Name>> = const { Cell::new(None) };
    static LAST: RefCell<Option<Name>> = const { RefCell::new(None) };
}

pub(super) fn shared(name: &str) -> Name {
    LAST.with_borrow_mut(|last| match last {
        Some(last) if ***last == *name => Arc::clone(last),
        _ => Arc::clone(last.insert(Arc::new(name.into()))),
    })
}

/// Notes the name, and lets another resolver choose the certificate.
#[derive(Debug)]
struct Noting(Arc<dyn ResolvesServerCert>);

impl ResolvesServerCert for Noting {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        NOTED.set(hello.server_name().map(shared));
        self.0.resolve(hello)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.0.only_raw_public_keys()
    }
}

/// Returns the same configuration with a resolver that notes names. Its sessions share the tickets and the stored sessions
/// of the original.
pub(super) fn noting(config: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.cert_resolver = Arc::new(Noting(config.cert_resolver));
    Arc::new(config)
}

/// Runs a step of a handshake. Also returns the name, if this step has found it.
pub(super) fn noted<T>(run: impl FnOnce() -> T) -> (T, Option<Name>) {
    NOTED.set(None);
    let result = run();
    (result, NOTED.take())
}
