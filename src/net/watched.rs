//! What a selector can watch.

use std::io;

use mio::{Registry, Token};

/// A socket of the system's, or its scripted twin.
pub(crate) trait Watched {
    /// Registers it, once and for all, with a registry of the system's. `None`: the selector is scripted, and so is this.
    fn register(&mut self, registry: Option<&Registry>, token: Token) -> io::Result<()>;
    /// Takes it out. That fails only if it was not registered.
    fn deregister(&mut self, registry: &Registry);
}
