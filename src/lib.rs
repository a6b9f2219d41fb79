//! A port of Python's `socketserver`, built as a reactor on [mio](https://docs.rs/mio): one thread serves thousands of
//! clients, without an async runtime.
//!
//! You write a handler, a state machine with three non-blocking callbacks: `setup`, `handle` and `finish`. The reactor
//! keeps one handler for each connection, and calls it when there is something to do.
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
//! Where to find things:
//!
//! | for | see |
//! |---|---|
//! | a server, its sockets, options and limits | [`TcpServer`], [`UdpServer`], `UnixStreamServer`, `UnixDatagramServer`; [`Server`], [`Unbound`], [`Limits`] |
//! | a handler, its arguments and its result | [`RequestHandler`], [`Request`], [`Input`], [`Output`], [`Next`] |
//! | state shared by all handlers, Python's hooks | [`BaseServer`] |
//! | a handler that blocks, on a thread | [`BlockingHandler`], [`StreamRequestHandler`], [`ThreadingTcpServer`], [`ServeOn`] |
//! | several servers, a loop of your own, statistics | [`Reactor`], [`ReactorConfig`], [`Stats`], [`Inspection`] |
//! | other threads, stopping | [`Handle`], [`ShutdownHandle`] |
//! | several cores | [`Workers`], [`Worker`] |
//! | tests without sockets | [`testing`] |
//!
//! Each module imports only from modules listed below it:
//!
//! ```text
//! workers/     several reactors, each on a thread of its own
//! models/      compares parts of the crate with models; for tests and fuzzers only
//! testing      a client without a socket, for tests
//! server/      Server, TcpServer and the other kinds, their addresses, the hooks of BaseServer
//! dispatch/    one server in the reactor: accepts clients and calls handlers
//! blocking/    handlers on threads, and programs
//! handler/     the trait that users implement, and the Request that its callbacks receive
//! reactor/     THE LOOP, its slots, ready queue and stop; access from other threads
//! datagrams/   the path of a datagram
//! connection/  one connection, without clock or selector: buffers, frames, the next step
//! net/         sockets, the selector, the clock: the only folder that names mio's sockets
//! threads      THE THREADS: for offloaded jobs and handlers that block      sync  supervisor  restart
//! ids backoff timers limits stats inspection logging panics error lifecycle address escape      leaves
//! ```
//!
//! # Features
//! All features are off by default. If a feature is missing, the compiler error names it.
//! - `signals`: lets SIGINT and SIGTERM shut a server down (`Server::shutdown_on_signals`), and SIGHUP reload its
//!   configuration (`Server::reload_on_signal`), through signal-hook.
//! - `descriptor-limit`: on Unix, the descriptor limit is read with getrlimit(2) (through nix) instead of from `/proc`.
//!   `batch`, `sendfile`, `credentials`, `children`, `proxy-protocol` and `restart` include it.
//! - `batch`: on Linux, transfers many datagrams per system call and sends answers from the address to which the client
//!   sent, through nix.
//! - `sendfile`: on Linux, sends parts of files with sendfile(2) (`Output::write_file`) instead of copying them, through
//!   nix.
//! - `credentials`: on Unix, identifies the process at the other end of a Unix socket (`Stream::peer_credentials`),
//!   through nix.
//! - `children`: on Unix, lets programs serve requests (`ServeOn::Program`, `ForkingTcpServer`), through shared_child.
//! - `inherit`: on Unix, takes the sockets that a supervisor such as systemd has opened (`InheritedSockets::from_env`),
//!   through listenfd.
//! - `restart`: on Unix, replaces the process by its next version without losing a client (`Reactor::restart`), through
//!   nix; includes `inherit`.
//! - `sd-notify`: on Unix, tells a supervisor such as systemd that the service is ready, stopping and alive
//!   (`Reactor::notify_supervisor`), through sd-notify.
//! - `proxy-protocol`: on Unix, reads the client's address from the header of a trusted proxy (`ProxyProtocol`), through
//!   proxy-header and nix.
//! - `simulation`: allows tests of whole servers without sockets (`testing::Network`).
//! - `tls`: allows TLS for servers, single connections and outbound calls (`TlsAcceptor`, `TlsConnector`), through
//!   rustls. The program chooses the crypto provider.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod address;
mod backoff;
mod blocking;
mod connection;
mod datagrams;
mod dispatch;
mod error;
mod escape;
mod handler;
mod ids;
mod inspection;
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
#[cfg(all(unix, feature = "restart"))]
mod restart;
mod server;
mod shared_bytes;
mod stats;
#[cfg(all(unix, feature = "sd-notify"))]
mod supervisor;
mod sync;
pub mod testing;
mod threads;
mod timers;
mod workers;

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
pub use handler::messages::Origin;
pub use handler::others::Others;
pub use handler::request::Request;
pub use ids::{ConnectionId, ServerId};
pub use inspection::{
    ConnectionInspection, FailedRestart, Inspection, ReactorPhase, ServerInspection, ServerPhase, TurnTimes,
};
pub use lifecycle::{EndReason, Next, Timeout};
pub use limits::{DropPolicy, Limits, Linger, Overflow, ReactorConfig, Spread, WorkersConfig};
#[cfg(all(feature = "credentials", unix))]
pub use net::Credentials;
#[cfg(unix)]
pub use net::UnixOptions;
pub use net::family;
pub use net::{
    AddressFamily, Keepalive, Listener, MulticastGroup, MulticastInterface, Socket, Stream, TcpOptions, UdpOptions,
};
#[cfg(all(unix, feature = "proxy-protocol"))]
pub use net::{ProxyHeader, ProxyProtocol};
#[cfg(feature = "tls")]
pub use net::{TlsAcceptor, TlsConnector, TlsSession};
pub use reactor::Reactor;
pub use reactor::handle::{Handle, Message, ShutdownHandle};
pub use server::hooks::{BaseServer, Incoming};
#[cfg(unix)]
pub use server::inherited::{InheritedSockets, SocketName};
#[cfg(all(unix, feature = "children"))]
pub use server::threading::{
    ForkingMixIn, ForkingTcpServer, ForkingUdpServer, ForkingUnixDatagramServer, ForkingUnixStreamServer,
};
pub use server::threading::{NoHandler, ThreadingMixIn, ThreadingTcpServer, ThreadingUdpServer};
#[cfg(unix)]
pub use server::threading::{ThreadingUnixDatagramServer, ThreadingUnixStreamServer};
pub use server::unbound::Unbound;
pub use server::{Server, TcpServer, UdpServer};
#[cfg(unix)]
pub use server::{UnixDatagramServer, UnixStreamServer};
pub use shared_bytes::SharedBytes;
pub use stats::Stats;
#[cfg(all(unix, feature = "sd-notify"))]
pub use supervisor::Supervisor;
pub use workers::Workers;
pub use workers::binding::AnyUnbound;
pub use workers::handle::WorkersHandle;
pub use workers::worker::Worker;

/// The code in `docs/` and in the README is compiled and run with the tests.
#[cfg(doctest)]
mod doc_tests {
    #[doc = include_str!("../README.md")]
    mod readme {}
    #[doc = include_str!("../docs/guide.md")]
    mod guide {}
    #[doc = include_str!("../docs/production.md")]
    mod production {}
    #[doc = include_str!("../docs/from-socketserver.md")]
    mod from_socketserver {}
    #[doc = include_str!("../docs/architecture.md")]
    mod architecture {}
    #[doc = include_str!("../docs/decisions.md")]
    mod decisions {}
}
