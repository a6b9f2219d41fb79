//! Servers whose requests are all served by threads, or all by programs: Python's mixins.

use std::marker::PhantomData;
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

/// A [`TcpServer`](crate::TcpServer) that serves every client on a thread, with a handler that may block: [`ThreadingMixIn`].
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
pub type ThreadingTcpServer = ThreadingMixIn<Tcp>;

/// A [`UdpServer`](crate::UdpServer) that serves every datagram on a thread: [`ThreadingMixIn`].
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
pub type ThreadingUdpServer = ThreadingMixIn<Udp>;

/// Like [`ThreadingTcpServer`], but on Unix stream sockets, as [`UnixStreamServer`](crate::UnixStreamServer).
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
pub type ThreadingUnixStreamServer = ThreadingMixIn<UnixStream>;

/// Like [`ThreadingUdpServer`], but on Unix datagram sockets, as [`UnixDatagramServer`](crate::UnixDatagramServer).
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
pub type ThreadingUnixDatagramServer = ThreadingMixIn<UnixDatagram>;

/// A [`TcpServer`](crate::TcpServer) that serves every client with a program, like inetd(8): [`ForkingMixIn`]. Feature
/// `children`.
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
pub type ForkingTcpServer = ForkingMixIn<Tcp>;

/// A [`UdpServer`](crate::UdpServer) that serves every datagram with a program. The datagram is its input, and its
/// output is the answer. Feature `children`.
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
pub type ForkingUdpServer = ForkingMixIn<Udp>;

/// Like [`ForkingTcpServer`], but on Unix stream sockets. Feature `children`.
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
pub type ForkingUnixStreamServer = ForkingMixIn<UnixStream>;

/// Like [`ForkingUdpServer`], but on Unix datagram sockets. Feature `children`.
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
pub type ForkingUnixDatagramServer = ForkingMixIn<UnixDatagram>;

/// Serves requests on threads, with handlers that may block. This type has no value. Its functions make a [`Server`]
/// that needs no handler on the reactor. If the hook [`process_request`](BaseServer::process_request) returns something
/// else than [`ServeOn::Reactor`] for a request, that takes precedence.
///
/// Its settings are [`Limits::max_threads`](crate::Limits), [`thread_queue_max`](crate::Limits::thread_queue_max),
/// [`daemon_threads`](crate::Limits::daemon_threads) and [`block_on_close`](crate::Limits::block_on_close).
///
/// Source: `socketserver.ThreadingMixIn`; `class ThreadingTCPServer(ThreadingMixIn, TCPServer)` and its siblings.
///
/// ```
/// use socketserver::{BaseServer, StreamRequestHandler, TcpServer, NoHandler, ThreadingTcpServer};
/// use std::io::Write as _;
///
/// struct Counter { clients: u32 }
/// impl BaseServer for Counter {}
///
/// let handler = |_counter: &mut Counter, _client_address: &_| {
///     StreamRequestHandler::new(|request| {
///         let number = request.server(|counter: &mut Counter| {
///             counter.clients += 1;
///             counter.clients
///         })?;
///         writeln!(request.wfile, "you are number {number}")?;
///         Ok(())
///     })
/// };
/// let server: TcpServer<Counter, NoHandler> =
///     ThreadingTcpServer::with_server("127.0.0.1:0", Counter { clients: 0 }, handler)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug)]
pub struct ThreadingMixIn<F: Family>(PhantomData<F>);

impl<F: Family> ThreadingMixIn<F> {
    /// Binds `address`, listens, and makes a handler for each request with `handler`, which is given the client's
    /// address and runs on the reactor's thread.
    ///
    /// # Errors
    /// The same as for [`Server::new`].
    #[expect(clippy::new_ret_no_self, reason = "Python's names for servers that differ in how they are made")]
    pub fn new<B: BlockingHandler>(
        address: impl ServerAddress<F::Address>,
        handler: impl FnMut(&Address) -> B + Send + 'static,
    ) -> Result<Server<F, (), NoHandler>> {
        bind(Self::unbound(handler), address)
    }

    /// Creates a server that is not bound yet, so that you can set options and limits, and bind sockets of several
    /// families.
    pub fn unbound<B: BlockingHandler>(
        mut handler: impl FnMut(&Address) -> B + Send + 'static,
    ) -> Unbound<F, (), NoHandler> {
        Self::unbound_with_server((), move |(), client_address| handler(client_address))
    }

    /// Like [`new`](Self::new), but with a value of your own, whose hooks are called. `handler` receives the value, and
    /// a handler on a thread reaches it by [`BlockingRequest::server`](crate::BlockingRequest::server).
    ///
    /// # Errors
    /// The same as for [`Server::new`]. On an error the value is dropped.
    pub fn with_server<S: BaseServer, B: BlockingHandler<S>>(
        address: impl ServerAddress<F::Address>,
        server: S,
        handler: impl FnMut(&mut S, &Address) -> B + Send + 'static,
    ) -> Result<Server<F, S, NoHandler>> {
        bind(Self::unbound_with_server(server, handler), address)
    }

    /// Like [`unbound`](Self::unbound), but with a value of your own.
    pub fn unbound_with_server<S: BaseServer, B: BlockingHandler<S>>(
        server: S,
        mut handler: impl FnMut(&mut S, &Address) -> B + Send + 'static,
    ) -> Unbound<F, S, NoHandler> {
        mixed(server, move |server, client_address| ServeOn::thread(handler(server, client_address)))
    }
}

/// Serves requests with programs. This type has no value. Its functions make a [`Server`], like those of
/// [`ThreadingMixIn`]. Feature `children`.
///
/// Its settings are [`Limits::max_children`](crate::Limits), [`thread_queue_max`](crate::Limits::thread_queue_max),
/// [`child_timeout`](crate::Limits::child_timeout) and [`block_on_close`](crate::Limits::block_on_close).
///
/// Source: `socketserver.ForkingMixIn`.
///
/// ```
/// use socketserver::ForkingMixIn;
/// use socketserver::family::Tcp;
/// use std::process::Command;
///
/// let server = ForkingMixIn::<Tcp>::new("127.0.0.1:0", |client_address| {
///     let mut command = Command::new("sh");
///     command.args(["-c", "echo hello $CLIENT"]).env("CLIENT", client_address.to_string());
///     command
/// })?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[cfg(all(unix, feature = "children"))]
#[derive(Debug)]
pub struct ForkingMixIn<F: Family>(PhantomData<F>);

#[cfg(all(unix, feature = "children"))]
impl<F: Family> ForkingMixIn<F> {
    /// Binds `address`, listens, and serves each request with the program of `command`.
    ///
    /// # Errors
    /// The same as for [`Server::new`].
    #[expect(clippy::new_ret_no_self, reason = "Python's names for servers that differ in how they are made")]
    pub fn new(
        address: impl ServerAddress<F::Address>,
        command: impl FnMut(&Address) -> Command + Send + 'static,
    ) -> Result<Server<F, (), NoHandler>> {
        bind(Self::unbound(command), address)
    }

    /// Creates a server that is not bound yet, so that you can set options and limits, and bind sockets of several
    /// families.
    pub fn unbound(mut command: impl FnMut(&Address) -> Command + Send + 'static) -> Unbound<F, (), NoHandler> {
        Self::unbound_with_server((), move |(), client_address| command(client_address))
    }

    /// Like [`new`](Self::new), but with a value of your own, whose hooks are called. `command` receives the value.
    ///
    /// # Errors
    /// The same as for [`Server::new`]. On an error the value is dropped.
    pub fn with_server<S: BaseServer>(
        address: impl ServerAddress<F::Address>,
        server: S,
        command: impl FnMut(&mut S, &Address) -> Command + Send + 'static,
    ) -> Result<Server<F, S, NoHandler>> {
        bind(Self::unbound_with_server(server, command), address)
    }

    /// Like [`unbound`](Self::unbound), but with a value of your own.
    pub fn unbound_with_server<S: BaseServer>(
        server: S,
        mut command: impl FnMut(&mut S, &Address) -> Command + Send + 'static,
    ) -> Unbound<F, S, NoHandler> {
        mixed(server, move |server, client_address| ServeOn::program(command(server, client_address)))
    }
}

/// A server whose mixin serves all requests. It needs no handler.
fn mixed<F: Family, S: BaseServer>(
    server: S,
    mixin: impl FnMut(&mut S, &Address) -> ServeOn<S> + Send + 'static,
) -> Unbound<F, S, NoHandler> {
    Unbound::hosting(Host::new(server, Box::new(|_, _| NoHandler)).with_mixin(Box::new(mixin)))
}

fn bind<F: Family, S: BaseServer>(
    mut unbound: Unbound<F, S, NoHandler>,
    address: impl ServerAddress<F::Address>,
) -> Result<Server<F, S, NoHandler>> {
    unbound.server_bind(address)?;
    unbound.server_activate()
}

/// The handler of a server that serves nothing on the reactor. It closes any connection that it gets.
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
