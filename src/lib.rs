//! Python's `socketserver`, rebuilt as a reactor on [mio](https://docs.rs/mio): one thread serves thousands of
//! clients, without an async runtime.
//!
//! You write a handler, a state machine with three callbacks that never wait: `setup`, `handle`, `finish`. The reactor
//! keeps one for each connection and calls it when there is something to do.
//!
//! ```no_run
//! use socketserver::{Next, Request, RequestHandler, Result, TcpServer};
//! use std::io::Write;
//!
//! struct Echo;
//! impl RequestHandler for Echo {
//!     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
//!         request.output.write_all(request.input.take_all())?;
//!         Ok(Next::Wait)
//!     }
//! }
//! fn main() -> Result<()> { TcpServer::new("127.0.0.1:9999", |_| Echo)?.serve_forever() }
//! ```
//!
//! Where to look:
//!
//! | for | see |
//! |---|---|
//! | a server, its sockets, options and limits | [`TcpServer`], [`UdpServer`], `UnixStreamServer`, `UnixDatagramServer`; [`Server`], [`Unbound`], [`Limits`] |
//! | a handler, what it is given and returns | [`RequestHandler`], [`Request`], [`Input`], [`Output`], [`Next`] |
//! | state shared by all handlers, Python's hooks | [`BaseServer`] |
//! | a handler that blocks, on a thread | [`BlockingHandler`], [`StreamRequestHandler`], [`ThreadingTcpServer`], [`ServeOn`] |
//! | several servers, a foreign loop, statistics | [`Reactor`], [`ReactorConfig`], [`Stats`] |
//! | other threads, stopping | [`Handle`], [`ShutdownHandle`] |
//! | tests without sockets | [`testing`] |
//!
//! The files, each importing only from those below it:
//!
//! ```text
//! models/      for tests and fuzzers only: parts of the crate held against models of them
//! testing      a client without a socket, for tests
//! server/      Server, TcpServer and the other kinds, what they are bound to, the hooks of BaseServer
//! dispatch/    one server in the reactor: clients are accepted, handlers are called
//! blocking/    handlers that block, on threads, and programs
//! handler/     what users implement, and the request that they are given
//! reactor/     THE LOOP, its slots, ready queue and stop; the way in for other threads
//! datagrams/   the path of a datagram
//! connection/  one connection's rules, without clock or selector: buffers, frames, what is due
//! net/         sockets, the selector, the clock: the only place that names mio's
//! threads      THE THREADS: for offloaded jobs and handlers that block      sync
//! ids backoff timers limits stats logging panics error lifecycle address      leaves
//! ```
//!
//! # Features
//! All are off by default. The compiler names the one that is missing.
//! - `signals`: SIGINT and SIGTERM shut a server down (`Server::shutdown_on_signals`), through signal-hook.
//! - `descriptor-limit`: on Unix, the limit of descriptors comes from getrlimit(2) instead of `/proc`, through nix. The next
//!   three bring it.
//! - `batch`: on Linux, many datagrams in one system call, and answers from the address that was asked, through nix.
//! - `credentials`: on Unix, which process is at the other end of a Unix socket (`Stream::peer_credentials`), through nix.
//! - `children`: on Unix, requests served by programs (`ServeOn::Program`, `ForkingTcpServer`), through shared_child.
//! - `simulation`: tests of whole servers without sockets (`testing::Network`).

#![cfg_attr(docsrs, feature(doc_cfg))]

mod address;
mod backoff;
mod blocking;
mod connection;
mod datagrams;
mod dispatch;
mod error;
mod handler;
mod ids;
mod lifecycle;
mod limits;
pub mod logging;
mod missing;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod models;
mod net;
mod panics;
mod reactor;
mod server;
mod shared_bytes;
mod stats;
mod sync;
pub mod testing;
mod threads;
mod timers;

pub use address::Address;
#[cfg(unix)]
pub use address::UnixAddress;
pub use blocking::{
    BlockingHandler, BlockingReader, BlockingRequest, BlockingSocket, BlockingWriter, DatagramRequestHandler, ServeOn,
    StreamRequestHandler,
};
pub use connection::Delivery;
pub use connection::bounds::ConnectionLimits;
pub use connection::frames::Prefix;
pub use connection::input::Input;
pub use connection::output::Output;
pub use error::{Error, Result};
pub use handler::RequestHandler;
pub use handler::others::Others;
pub use handler::request::Request;
pub use ids::{ConnectionId, ServerId};
pub use lifecycle::{EndReason, Next, Timeout};
pub use limits::{DropPolicy, Limits, Linger, Overflow, ReactorConfig};
#[cfg(all(feature = "credentials", unix))]
pub use net::Credentials;
#[cfg(unix)]
pub use net::UnixOptions;
pub use net::family;
pub use net::{
    AddressFamily, Keepalive, Listener, MulticastGroup, MulticastInterface, Socket, Stream, TcpOptions, UdpOptions,
};
pub use reactor::Reactor;
pub use reactor::handle::{Handle, Message, ShutdownHandle};
pub use server::hooks::{BaseServer, Incoming};
#[cfg(all(unix, feature = "children"))]
pub use server::threading::{
    ForkingMixIn, ForkingTcpServer, ForkingUdpServer, ForkingUnixDatagramServer, ForkingUnixStreamServer,
};
pub use server::threading::{MixInServer, NoHandler, ThreadingMixIn, ThreadingTcpServer, ThreadingUdpServer};
#[cfg(unix)]
pub use server::threading::{ThreadingUnixDatagramServer, ThreadingUnixStreamServer};
pub use server::unbound::Unbound;
pub use server::{Server, TcpServer, UdpServer};
#[cfg(unix)]
pub use server::{UnixDatagramServer, UnixStreamServer};
pub use shared_bytes::SharedBytes;
pub use stats::Stats;

/// The pages in `docs/` and the README hold code; it is compiled and run with the tests.
#[cfg(doctest)]
mod doc_tests {
    #[doc = include_str!("../README.md")]
    mod readme {}
    #[doc = include_str!("../docs/guide.md")]
    mod guide {}
    #[doc = include_str!("../docs/from-socketserver.md")]
    mod from_socketserver {}
    #[doc = include_str!("../docs/architecture.md")]
    mod architecture {}
    #[doc = include_str!("../docs/decisions.md")]
    mod decisions {}
}
