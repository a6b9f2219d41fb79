//! Handlers that block: the roles of Python's `ThreadingMixIn` and `ForkingMixIn`.
//!
//! ```text
//!  reactor's thread                                a thread of a pool
//!  process_request ─▶ ServeOn ─▶ Work ───────────▶ run: setup, handle, finish, or a program
//!                                 │                 │      server(closure) ─▶ back to the reactor, and wait
//!                     end ◀───── Stop ─────────────▶│      a blocked read or wait returns
//!                     over ◀────── Result ──────────┘
//! ```
//!
//! The reactor never waits for any of this. It is given a closure that calls [`run`](job::run), keeps the
//! [`Stop`](stop::Stop) of the request, and gets a command when the request is over. The threads are those of a
//! [`Pool`](crate::threads::Pool).

#[cfg(all(unix, feature = "children"))]
mod child;
mod descriptor;
mod files;
mod handler;
mod handlers;
pub(crate) mod job;
mod raw;
mod request;
#[cfg(feature = "tls")]
mod secure;
pub(crate) mod serve_on;
mod socket;
pub(crate) mod stop;
#[cfg(test)]
mod tests;
mod text;

pub use self::files::{BlockingReader, BlockingWriter};
pub use self::handler::BlockingHandler;
pub use self::handlers::{DatagramRequestHandler, StreamRequestHandler};
pub use self::request::BlockingRequest;
pub use self::serve_on::ServeOn;
pub use self::socket::BlockingSocket;
