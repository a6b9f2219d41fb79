//! A socket that a selector can watch.

use std::io;

use mio::{Registry, Token};

/// A socket of the system, or a scripted one.
pub(crate) trait Watched {
    /// Registers it once with a registry of the system. `None`: the selector is scripted, and so is this.
    fn register(&mut self, registry: Option<&Registry>, token: Token) -> io::Result<()>;
    /// Deregisters it. This fails only if it was not registered.
    fn deregister(&mut self, registry: &Registry);
}
