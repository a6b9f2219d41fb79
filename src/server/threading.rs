//! Servers whose requests are all served by threads, or all by programs: Python's mixins, ready-made.

use std::fmt;
use std::ops::{Deref, DerefMut};
#[cfg(all(unix, feature = "children"))]
use std::process::Command;

use super::Server;
use super::hooks::{BaseServer, Incoming};
use super::unbound::Unbound;
use crate::address::Address;
use crate::blocking::{BlockingHandler, Process};
use crate::error::Result;
use crate::handler::RequestHandler;
use crate::handler::request::Request;
use crate::lifecycle::Next;
use crate::net::family::{Family, ServerAddress, Tcp, Udp};
#[cfg(unix)]
use crate::net::family::{UnixDatagram, UnixStream};

/// A TCP server that serves every client on a thread, with a handler that may block: [`MixInServer`].
///
/// Source: `socketserver.ThreadingTCPServer`.
///
/// ```
/// use socketserver::{StreamRequestHandler, ThreadingTcpServer};
/// use std::io::{BufRead, Write};
///
/// let server = ThreadingTcpServer::new("127.0.0.1:0", |_client_address| {
///     StreamRequestHandler::new(|request| {
///         let mut line = String::new();
///         request.rfile.read_line(&mut line)?;
///         request.wfile.write_all(line.to_uppercase().as_bytes())?;
///         Ok(())
///     })
/// })?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub type ThreadingTcpServer = MixInServer<Tcp, ThreadingMixIn>;

/// A UDP server that serves every datagram on a thread: [`MixInServer`].
///
/// Source: `socketserver.ThreadingUDPServer`.
///
/// ```
/// use socketserver::{DatagramRequestHandler, ThreadingUdpServer};
/// use std::io::Write;
///
/// let server = ThreadingUdpServer::new("127.0.0.1:0", |_client_address| {
///     DatagramRequestHandler::new(|request| {
///         let packet = request.request().packet().to_ascii_uppercase();
///         request.wfile.write_all(&packet)?;
///         Ok(())
///     })
/// })?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub type ThreadingUdpServer = MixInServer<Udp, ThreadingMixIn>;

/// The same on Unix sockets with connections: [`ThreadingTcpServer`], [`UnixStreamServer`](crate::UnixStreamServer).
///
/// Source: `socketserver.ThreadingUnixStreamServer`.
///
/// ```
/// use socketserver::{StreamRequestHandler, ThreadingUnixStreamServer};
/// let path = std::env::temp_dir().join(format!("threads-{}.sock", std::process::id()));
/// let server = ThreadingUnixStreamServer::new(&path, |_| StreamRequestHandler::new(|_| Ok(())))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[cfg(unix)]
pub type ThreadingUnixStreamServer = MixInServer<UnixStream, ThreadingMixIn>;

/// The same on Unix datagram sockets: [`ThreadingUdpServer`], [`UnixDatagramServer`](crate::UnixDatagramServer).
///
/// Source: `socketserver.ThreadingUnixDatagramServer`.
///
/// ```
/// use socketserver::{DatagramRequestHandler, ThreadingUnixDatagramServer};
/// let path = std::env::temp_dir().join(format!("threaded-datagrams-{}.sock", std::process::id()));
/// let server = ThreadingUnixDatagramServer::new(&path, |_| DatagramRequestHandler::new(|_| Ok(())))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[cfg(unix)]
pub type ThreadingUnixDatagramServer = MixInServer<UnixDatagram, ThreadingMixIn>;

/// A TCP server that serves every client with a program, as inetd(8) does: [`MixInServer`]. Feature `children`.
///
/// Source: `socketserver.ForkingTCPServer`, which serves a client in a copy of itself.
///
/// ```
/// use socketserver::{ForkingTcpServer, Limits};
/// use std::process::Command;
///
/// let mut server = ForkingTcpServer::new("127.0.0.1:0", |_client_address| Command::new("cat"))?;
/// let mut limits = Limits::default();
/// limits.max_children = 10;
/// server.set_limits(limits)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[cfg(all(unix, feature = "children"))]
pub type ForkingTcpServer = MixInServer<Tcp, ForkingMixIn>;

/// A UDP server that serves every datagram with a program: the datagram is its input, its output the answer. Feature
/// `children`.
///
/// Source: `socketserver.ForkingUDPServer`.
///
/// ```
/// use socketserver::ForkingUdpServer;
/// use std::process::Command;
///
/// let server = ForkingUdpServer::new("127.0.0.1:0", |_client_address| Command::new("rev"))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[cfg(all(unix, feature = "children"))]
pub type ForkingUdpServer = MixInServer<Udp, ForkingMixIn>;

/// The same on Unix sockets with connections: [`ForkingTcpServer`]. Feature `children`.
///
/// Source: `socketserver.ForkingUnixStreamServer`.
///
/// ```
/// use socketserver::ForkingUnixStreamServer;
/// use std::process::Command;
/// let path = std::env::temp_dir().join(format!("programs-{}.sock", std::process::id()));
/// let server = ForkingUnixStreamServer::new(&path, |_| Command::new("cat"))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[cfg(all(unix, feature = "children"))]
pub type ForkingUnixStreamServer = MixInServer<UnixStream, ForkingMixIn>;

/// The same on Unix datagram sockets: [`ForkingUdpServer`]. Feature `children`.
///
/// Source: `socketserver.ForkingUnixDatagramServer`.
///
/// ```
/// use socketserver::ForkingUnixDatagramServer;
/// use std::process::Command;
/// let path = std::env::temp_dir().join(format!("program-datagrams-{}.sock", std::process::id()));
/// let server = ForkingUnixDatagramServer::new(&path, |_| Command::new("cat"))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[cfg(all(unix, feature = "children"))]
pub type ForkingUnixDatagramServer = MixInServer<UnixDatagram, ForkingMixIn>;

/// A [`Server`] whose requests are all served the way a mixin says: by threads ([`ThreadingMixIn`]) or by programs
/// (`ForkingMixIn`). Everything else is the server's it contains.
///
/// A server that decides for each request, or has a value and hooks of its own, is a [`Server`] whose
/// [`process_request`](BaseServer::process_request) says so.
///
/// Source: `class ThreadingTCPServer(ThreadingMixIn, TCPServer)` and its siblings.
///
/// ```
/// use socketserver::{Reactor, StreamRequestHandler, ThreadingTcpServer};
///
/// let server = ThreadingTcpServer::new("127.0.0.1:0", |_| StreamRequestHandler::new(|_| Ok(())))?;
/// let mut reactor = Reactor::new()?;
/// reactor.add(server)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug)]
pub struct MixInServer<F: Family, M> {
    server: Server<F, M, NoHandler>,
}

impl<F: Family, M: BaseServer> MixInServer<F, M> {
    fn with(address: impl ServerAddress<F::Address>, mixin: M) -> Result<Self> {
        let mut unbound = MixInServer::unbound_with(mixin);
        unbound.server_bind(address)?;
        unbound.server_activate().map(|server| MixInServer { server })
    }

    fn unbound_with(mixin: M) -> Unbound<F, M, NoHandler> {
        // It is never asked for a handler: every request goes elsewhere.
        Server::unbound_with_server(mixin, |_, _| NoHandler)
    }
}

/// The server it contains.
impl<F: Family, M> From<MixInServer<F, M>> for Server<F, M, NoHandler> {
    fn from(server: MixInServer<F, M>) -> Self {
        server.server
    }
}

impl<F: Family> MixInServer<F, ThreadingMixIn> {
    /// Binds `address`, listens, and makes a handler for each request with `handler`, which is told the client's
    /// address and runs on the reactor's thread.
    ///
    /// # Errors
    /// As for [`Server::new`].
    pub fn new<B: BlockingHandler>(
        address: impl ServerAddress<F::Address>,
        handler: impl FnMut(&Address) -> B + Send + 'static,
    ) -> Result<Self> {
        MixInServer::with(address, ThreadingMixIn::new(handler))
    }

    /// The same before it is bound: for options, limits and sockets of several families. It becomes the [`Server`] that
    /// this type contains.
    ///
    /// ```
    /// use socketserver::{StreamRequestHandler, TcpOptions, ThreadingTcpServer};
    ///
    /// let mut server = ThreadingTcpServer::unbound(|_client_address| StreamRequestHandler::new(|_| Ok(())));
    /// server.limits.max_threads = 8;
    /// let mut options = TcpOptions::default();
    /// options.request_queue_size = 16;
    /// server.server_bind_with("127.0.0.1:0", options)?;
    /// let server = server.server_activate()?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn unbound<B: BlockingHandler>(
        handler: impl FnMut(&Address) -> B + Send + 'static,
    ) -> Unbound<F, ThreadingMixIn, NoHandler> {
        MixInServer::unbound_with(ThreadingMixIn::new(handler))
    }
}

#[cfg(all(unix, feature = "children"))]
impl<F: Family> MixInServer<F, ForkingMixIn> {
    /// Binds `address`, listens, and serves each request with the program that `command` says.
    ///
    /// # Errors
    /// As for [`Server::new`].
    pub fn new(
        address: impl ServerAddress<F::Address>,
        command: impl FnMut(&Address) -> Command + Send + 'static,
    ) -> Result<Self> {
        MixInServer::with(address, ForkingMixIn::new(command))
    }

    /// The same before it is bound: for options, limits and sockets of several families. It becomes the [`Server`] that
    /// this type contains.
    pub fn unbound(command: impl FnMut(&Address) -> Command + Send + 'static) -> Unbound<F, ForkingMixIn, NoHandler> {
        MixInServer::unbound_with(ForkingMixIn::new(command))
    }
}

impl<F: Family, M> Deref for MixInServer<F, M> {
    type Target = Server<F, M, NoHandler>;

    fn deref(&self) -> &Self::Target {
        &self.server
    }
}

impl<F: Family, M> DerefMut for MixInServer<F, M> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.server
    }
}

/// The value of a server whose requests are served by threads.
///
/// Its settings are [`Limits::max_threads`](crate::Limits), [`thread_queue_max`](crate::Limits::thread_queue_max),
/// [`daemon_threads`](crate::Limits::daemon_threads) and [`block_on_close`](crate::Limits::block_on_close).
///
/// Source: `socketserver.ThreadingMixIn`.
///
/// ```
/// use socketserver::{Server, StreamRequestHandler, ThreadingMixIn, ThreadingTcpServer};
///
/// let mixin = ThreadingMixIn::new(|_client_address| StreamRequestHandler::new(|_request| Ok(())));
/// ```
pub struct ThreadingMixIn {
    #[expect(clippy::type_complexity, reason = "a function that makes handlers")]
    handler: Box<dyn FnMut(&Address) -> Box<dyn BlockingHandler> + Send>,
}

impl ThreadingMixIn {
    /// Makes a handler for each request with `handler`.
    pub fn new<B: BlockingHandler>(mut handler: impl FnMut(&Address) -> B + Send + 'static) -> Self {
        ThreadingMixIn { handler: Box::new(move |client_address| Box::new(handler(client_address))) }
    }
}

impl BaseServer for ThreadingMixIn {
    fn process_request(&mut self, _: &Incoming<'_>, client_address: &Address) -> Process {
        Process::Thread((self.handler)(client_address))
    }
}

impl fmt::Debug for ThreadingMixIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ThreadingMixIn")
    }
}

/// The value of a server whose requests are served by programs. Feature `children`.
///
/// Its settings are [`Limits::max_children`](crate::Limits), [`thread_queue_max`](crate::Limits::thread_queue_max),
/// [`child_timeout`](crate::Limits::child_timeout) and [`block_on_close`](crate::Limits::block_on_close).
///
/// Source: `socketserver.ForkingMixIn`.
///
/// ```
/// use socketserver::ForkingMixIn;
/// use std::process::Command;
///
/// let mixin = ForkingMixIn::new(|client_address| {
///     let mut command = Command::new("sh");
///     command.args(["-c", "echo hello $CLIENT"]).env("CLIENT", client_address.to_string());
///     command
/// });
/// ```
#[cfg(all(unix, feature = "children"))]
pub struct ForkingMixIn {
    command: Box<dyn FnMut(&Address) -> Command + Send>,
}

#[cfg(all(unix, feature = "children"))]
impl ForkingMixIn {
    /// Serves each request with the program that `command` says.
    pub fn new(command: impl FnMut(&Address) -> Command + Send + 'static) -> Self {
        ForkingMixIn { command: Box::new(command) }
    }
}

#[cfg(all(unix, feature = "children"))]
impl BaseServer for ForkingMixIn {
    fn process_request(&mut self, _: &Incoming<'_>, client_address: &Address) -> Process {
        Process::child((self.command)(client_address))
    }
}

#[cfg(all(unix, feature = "children"))]
impl fmt::Debug for ForkingMixIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ForkingMixIn")
    }
}

/// The handler of a server that serves nothing on the reactor: closes what should come nevertheless.
///
/// ```
/// use socketserver::{NoHandler, testing::Client};
/// assert!(Client::new(NoHandler).is_closed());
/// ```
#[derive(Debug)]
pub struct NoHandler;

impl<S> RequestHandler<S> for NoHandler {
    fn setup(&mut self, _: &mut Request<'_, S>) -> Result<Next> {
        Ok(Next::Close)
    }

    fn handle(&mut self, _: &mut Request<'_, S>) -> Result<Next> {
        Ok(Next::Close)
    }
}
