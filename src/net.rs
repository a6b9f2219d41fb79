//! Sockets: the only place that names mio's types and socket options.
//!
//! The rest of the crate sees a [`Stream`] that reads and writes, a [`Listener`] that accepts, and a
//! [`Selector`](selector::Selector) that says what is ready and what time it is. Each has a scripted twin with no
//! operating system behind it, so that handlers are tested on the same loop that serves real clients.

mod listener;
pub(crate) mod scripted;
pub(crate) mod selector;
mod stream;
mod tcp;

pub(crate) use listener::AcceptFault;
pub use listener::Listener;
pub use stream::Stream;
pub use tcp::{AddressFamily, Keepalive, Socket, TcpOptions};
