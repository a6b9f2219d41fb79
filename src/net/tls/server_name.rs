//! The name that a client asks for. rustls' unbuffered sessions do not tell it, but they pass it to what chooses the
//! certificate.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// A name, which all sessions with the same name share if they began one after another.
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

/// Notes the name, and leaves the choice to another.
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

/// The same configuration, of which sessions note the names. They share its tickets and its stored sessions.
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
