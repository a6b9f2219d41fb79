//! Servers whose requests are all served by threads, or all by programs: Python's mixins, ready-made.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
#[cfg(all(unix, feature = "children"))]
use std::process::Command;

use super::Server;
use super::hooks::BaseServer;
use super::unbound::Unbound;
use crate::address::Address;
use crate::blocking::{BlockingHandler, ServeOn};
use crate::dispatch::Host;
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
pub type ThreadingTcpServer<S = ()> = MixInServer<Tcp, ThreadingMixIn, S>;

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
///         let packet = request.socket().packet().to_ascii_uppercase();
///         request.wfile.write_all(&packet)?;
///         Ok(())
///     })
/// })?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub type ThreadingUdpServer<S = ()> = MixInServer<Udp, ThreadingMixIn, S>;

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
pub type ThreadingUnixStreamServer<S = ()> = MixInServer<UnixStream, ThreadingMixIn, S>;

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
pub type ThreadingUnixDatagramServer<S = ()> = MixInServer<UnixDatagram, ThreadingMixIn, S>;

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
pub type ForkingTcpServer<S = ()> = MixInServer<Tcp, ForkingMixIn, S>;

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
pub type ForkingUdpServer<S = ()> = MixInServer<Udp, ForkingMixIn, S>;

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
pub type ForkingUnixStreamServer<S = ()> = MixInServer<UnixStream, ForkingMixIn, S>;

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
pub type ForkingUnixDatagramServer<S = ()> = MixInServer<UnixDatagram, ForkingMixIn, S>;

/// A [`Server`] whose requests are all served the way a mixin says: by threads ([`ThreadingMixIn`]) or by programs
/// (`ForkingMixIn`). Everything else is the server's it contains.
///
/// A request that is to be served in another way is one for which the hook
/// [`process_request`](BaseServer::process_request) of the server's value answers otherwise than [`ServeOn::Reactor`].
///
/// Source: `class ThreadingTCPServer(ThreadingMixIn, TCPServer)` and its siblings.
///
/// ```
/// use socketserver::{BaseServer, StreamRequestHandler, ThreadingTcpServer};
/// use std::io::Write as _;
///
/// struct Counter { clients: u32 }
/// impl BaseServer for Counter {}
///
/// let server = ThreadingTcpServer::with_server("127.0.0.1:0", Counter { clients: 0 }, |_counter, _client_address| {
///     StreamRequestHandler::new(|request| {
///         let number = request.server(|counter: &mut Counter| {
///             counter.clients += 1;
///             counter.clients
///         })?;
///         writeln!(request.wfile, "you are number {number}")?;
///         Ok(())
///     })
/// })?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub struct MixInServer<F: Family, M, S = ()> {
    server: Server<F, S, NoHandler>,
    mixin: PhantomData<fn() -> M>,
}

impl<F: Family, M, S: BaseServer> MixInServer<F, M, S> {
    fn bind(mut unbound: Unbound<F, S, NoHandler>, address: impl ServerAddress<F::Address>) -> Result<Self> {
        unbound.server_bind(address)?;
        unbound.server_activate().map(|server| MixInServer { server, mixin: PhantomData })
    }
}

/// The server it contains.
impl<F: Family, M, S> From<MixInServer<F, M, S>> for Server<F, S, NoHandler> {
    fn from(server: MixInServer<F, M, S>) -> Self {
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
        MixInServer::bind(Self::unbound(handler), address)
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
        mut handler: impl FnMut(&Address) -> B + Send + 'static,
    ) -> Unbound<F, (), NoHandler> {
        MixInServer::<F, ThreadingMixIn, ()>::unbound_with_server((), move |(), client_address| handler(client_address))
    }
}

impl<F: Family, S: BaseServer> MixInServer<F, ThreadingMixIn, S> {
    /// As [`new`](Self::new), with a value of your own, whose hooks are called. `handler` is given it, and a handler on a
    /// thread reaches it by [`BlockingRequest::server`](crate::BlockingRequest::server).
    ///
    /// # Errors
    /// As for [`Server::new`]. The value is dropped then.
    pub fn with_server<B: BlockingHandler<S>>(
        address: impl ServerAddress<F::Address>,
        server: S,
        handler: impl FnMut(&mut S, &Address) -> B + Send + 'static,
    ) -> Result<Self> {
        MixInServer::bind(Self::unbound_with_server(server, handler), address)
    }

    /// As [`unbound`](Self::unbound), with a value of your own.
    pub fn unbound_with_server<B: BlockingHandler<S>>(
        server: S,
        mut handler: impl FnMut(&mut S, &Address) -> B + Send + 'static,
    ) -> Unbound<F, S, NoHandler> {
        mixed(server, move |server, client_address| ServeOn::thread(handler(server, client_address)))
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
        MixInServer::bind(Self::unbound(command), address)
    }

    /// The same before it is bound: for options, limits and sockets of several families. It becomes the [`Server`] that
    /// this type contains.
    pub fn unbound(mut command: impl FnMut(&Address) -> Command + Send + 'static) -> Unbound<F, (), NoHandler> {
        MixInServer::<F, ForkingMixIn, ()>::unbound_with_server((), move |(), client_address| command(client_address))
    }
}

#[cfg(all(unix, feature = "children"))]
impl<F: Family, S: BaseServer> MixInServer<F, ForkingMixIn, S> {
    /// As [`new`](Self::new), with a value of your own, whose hooks are called. `command` is given it.
    ///
    /// # Errors
    /// As for [`Server::new`]. The value is dropped then.
    pub fn with_server(
        address: impl ServerAddress<F::Address>,
        server: S,
        command: impl FnMut(&mut S, &Address) -> Command + Send + 'static,
    ) -> Result<Self> {
        MixInServer::bind(Self::unbound_with_server(server, command), address)
    }

    /// As [`unbound`](Self::unbound), with a value of your own.
    pub fn unbound_with_server(
        server: S,
        mut command: impl FnMut(&mut S, &Address) -> Command + Send + 'static,
    ) -> Unbound<F, S, NoHandler> {
        mixed(server, move |server, client_address| ServeOn::program(command(server, client_address)))
    }
}

/// A server that the mixin leaves no request. It is never asked for a handler.
fn mixed<F: Family, S: BaseServer>(
    server: S,
    mixin: impl FnMut(&mut S, &Address) -> ServeOn<S> + Send + 'static,
) -> Unbound<F, S, NoHandler> {
    Unbound::hosting(Host::new(server, Box::new(|_, _| NoHandler)).with_mixin(Box::new(mixin)))
}

impl<F: Family, M, S> Deref for MixInServer<F, M, S> {
    type Target = Server<F, S, NoHandler>;

    fn deref(&self) -> &Self::Target {
        &self.server
    }
}

impl<F: Family, M, S> DerefMut for MixInServer<F, M, S> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.server
    }
}

impl<F: Family, M, S> fmt::Debug for MixInServer<F, M, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MixInServer").field("server", &self.server).finish()
    }
}

/// Serves requests on threads: what distinguishes a [`ThreadingTcpServer`] and its siblings. Has no value.
///
/// Its settings are [`Limits::max_threads`](crate::Limits), [`thread_queue_max`](crate::Limits::thread_queue_max),
/// [`daemon_threads`](crate::Limits::daemon_threads) and [`block_on_close`](crate::Limits::block_on_close).
///
/// Source: `socketserver.ThreadingMixIn`.
///
/// ```
/// use socketserver::family::{Family, ServerAddress};
/// use socketserver::{MixInServer, Result, StreamRequestHandler, ThreadingMixIn};
/// use std::io::Write as _;
///
/// /// Greets, over TCP or Unix sockets.
/// fn greeter<F: Family>(address: impl ServerAddress<F::Address>) -> Result<MixInServer<F, ThreadingMixIn>> {
///     MixInServer::<F, ThreadingMixIn>::new(address, |_| {
///         StreamRequestHandler::new(|request| Ok(request.wfile.write_all(b"hello\n")?))
///     })
/// }
/// greeter::<socketserver::family::Tcp>("127.0.0.1:0")?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug)]
pub enum ThreadingMixIn {}

/// Serves requests with programs: what distinguishes a [`ForkingTcpServer`] and its siblings. Has no value. Feature
/// `children`.
///
/// Its settings are [`Limits::max_children`](crate::Limits), [`thread_queue_max`](crate::Limits::thread_queue_max),
/// [`child_timeout`](crate::Limits::child_timeout) and [`block_on_close`](crate::Limits::block_on_close).
///
/// Source: `socketserver.ForkingMixIn`.
///
/// ```
/// use socketserver::family::Tcp;
/// use socketserver::{ForkingMixIn, MixInServer};
/// use std::process::Command;
///
/// let server = MixInServer::<Tcp, ForkingMixIn>::new("127.0.0.1:0", |client_address| {
///     let mut command = Command::new("sh");
///     command.args(["-c", "echo hello $CLIENT"]).env("CLIENT", client_address.to_string());
///     command
/// })?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[cfg(all(unix, feature = "children"))]
#[derive(Debug)]
pub enum ForkingMixIn {}

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
