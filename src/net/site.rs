//! The address and the options of a server's socket: enough to open it again after a stop.

use std::io;
use std::sync::Arc;

use super::family::{Bound, Family};
use super::socket::Socket;
use crate::address::Address;
use crate::error::{Error, Result, reason};

/// An address that a server is bound to, with its options.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) address: Address,
    pub(crate) options: Arc<dyn Options>,
    /// Its socket was made elsewhere.
    pub(crate) adopted: bool,
}

impl Site {
    /// The reason why its address cannot be bound again.
    pub(crate) fn explain(&self, error: Error) -> Error {
        match error {
            Error::Bind { address, source } if self.adopted => {
                let text = format!("{}; its socket was adopted and may be open elsewhere", reason(&source));
                Error::Bind { address, source: io::Error::new(source.kind(), text) }
            }
            error => error,
        }
    }
}

/// The options of a socket of any family.
pub(crate) trait Options: Send + Sync {
    /// [`Family::NAME`].
    fn family(&self) -> &'static str;
    fn check(&self) -> Result<()>;
    fn open(&self, address: &Address) -> io::Result<Socket>;
    fn request_queue_size(&self) -> i32;
    fn finish(&self, socket: Socket) -> io::Result<Bound>;
}

/// The options of a family.
pub(crate) struct Of<F: Family>(F::Options);

impl<F: Family> Of<F> {
    pub(crate) fn shared(options: F::Options) -> Arc<dyn Options> {
        Arc::new(Of::<F>(options))
    }
}

impl<F: Family> Options for Of<F> {
    fn family(&self) -> &'static str {
        F::NAME
    }

    fn check(&self) -> Result<()> {
        F::check(&self.0)
    }

    fn open(&self, address: &Address) -> io::Result<Socket> {
        F::open(&self.0, address)
    }

    fn request_queue_size(&self) -> i32 {
        F::backlog(&self.0)
    }

    fn finish(&self, socket: Socket) -> io::Result<Bound> {
        F::finish(socket, &self.0)
    }
}
