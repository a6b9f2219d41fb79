//! The servers: addresses, options, and Python's ways to run them. One type for all kinds of sockets.

mod adding;
mod binding;
pub(crate) mod hooks;
pub(crate) mod threading;

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use self::hooks::BaseServer;
use crate::address::Address;
use crate::dispatch::Host;
use crate::error::Result;
use crate::handler::RequestHandler;
use crate::ids::ServerId;
use crate::limits::Limits;
use crate::net::Socket;
use crate::net::family::{Bound, Family, ServerAddress, Tcp, Udp};
#[cfg(unix)]
use crate::net::family::{UnixDatagram, UnixStream};
use crate::reactor::Reactor;
use crate::reactor::handle::{Handle, ShutdownHandle};

/// A TCP server: [`Server`] over TCP. A handler for each connection.
///
/// Source: `socketserver.TCPServer`.
///
/// ```
/// use socketserver::{Next, Request, RequestHandler, Result, TcpServer};
/// # struct Echo;
/// # impl RequestHandler for Echo {
/// #     fn handle(&mut self, _: &mut Request<'_>) -> Result<Next> { Ok(Next::Wait) }
/// # }
/// let mut server = TcpServer::unbound((), |_, _| Echo)?;
/// server.options.request_queue_size = 128;
/// server.server_bind(("localhost", 0))?;
/// server.server_activate()?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub type TcpServer<S, H> = Server<Tcp, S, H>;

/// A UDP server: [`Server`] over UDP. Each datagram is a request with a handler of its own, from `setup` to `finish`,
/// and what that writes goes back as one datagram; or, with
/// [`Limits::sessions_max`](crate::Limits::sessions_max), a handler for each peer.
///
/// Source: `socketserver.UDPServer`, and `DatagramRequestHandler`.
///
/// ```
/// use socketserver::{Next, Request, RequestHandler, Result, UdpServer};
/// use std::io::Write;
///
/// struct Upper;
/// impl RequestHandler for Upper {
///     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
///         request.output.write_all(&request.input.take_all().to_ascii_uppercase())?;
///         Ok(Next::Wait)
///     }
/// }
/// let mut server = UdpServer::new("127.0.0.1:0", |_client_address| Upper)?;
/// let client = std::net::UdpSocket::bind("127.0.0.1:0")?;
/// client.send_to(b"hello", server.server_address().unwrap().as_inet().unwrap())?;
/// server.handle_request()?;
/// let mut reply = [0; 100];
/// let n = client.recv(&mut reply)?;
/// assert_eq!(&reply[..n], b"HELLO");
/// # Ok::<(), socketserver::Error>(())
/// ```
pub type UdpServer<S, H> = Server<Udp, S, H>;

/// A server on Unix sockets with connections: [`Server`] over a path or an abstract name.
///
/// The path is made as [`Socket::bind`](crate::Socket::bind) says, and removed when the server closes, if it is still
/// its own.
///
/// Source: `socketserver.UnixStreamServer`, which leaves the path behind.
///
/// ```
/// use socketserver::{Next, Request, RequestHandler, Result, UnixStreamServer};
/// # struct Echo;
/// # impl RequestHandler for Echo {
/// #     fn handle(&mut self, _: &mut Request<'_>) -> Result<Next> { Ok(Next::Wait) }
/// # }
/// let path = std::env::temp_dir().join(format!("echo-{}.sock", std::process::id()));
/// let mut server = UnixStreamServer::unbound((), |_, _| Echo)?;
/// server.options.mode = Some(0o600);
/// server.server_bind(&path)?;
/// server.server_activate()?;
/// assert!(path.exists());
/// drop(server);
/// assert!(!path.exists());
/// # Ok::<(), socketserver::Error>(())
/// ```
#[cfg(unix)]
pub type UnixStreamServer<S, H> = Server<UnixStream, S, H>;

/// A server on Unix datagram sockets: [`Server`], as [`UdpServer`] over a path or an abstract name. A client that wants
/// an answer must have bound its own socket.
///
/// Source: `socketserver.UnixDatagramServer`.
///
/// ```
/// use socketserver::{Next, Request, RequestHandler, Result, UnixAddress, UnixDatagramServer};
/// # struct Echo;
/// # impl RequestHandler for Echo {
/// #     fn handle(&mut self, _: &mut Request<'_>) -> Result<Next> { Ok(Next::Wait) }
/// # }
/// let path = std::env::temp_dir().join(format!("datagrams-{}.sock", std::process::id()));
/// let server = UnixDatagramServer::new(&path, |_client_address| Echo)?;
/// assert_eq!(server.server_address().unwrap().as_unix().unwrap().as_path(), Some(&*path));
/// # Ok::<(), socketserver::Error>(())
/// ```
#[cfg(unix)]
pub type UnixDatagramServer<S, H> = Server<UnixDatagram, S, H>;

/// A server of one kind of socket ([`TcpServer`], [`UdpServer`], [`UnixStreamServer`], [`UnixDatagramServer`]): bound
/// sockets, a value that its handlers share, and a handler for each request.
///
/// It has a [`Reactor`] of its own, or is [added](Reactor::add) to one that hosts several. Dropping it closes it, as
/// leaving a `with` block does in Python.
///
/// Source: `socketserver.TCPServer` and its subclasses.
///
/// ```
/// use socketserver::{Next, Request, RequestHandler, Result, TcpServer};
/// use std::io::{Read, Write};
///
/// struct Echo;
/// impl RequestHandler for Echo {
///     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
///         request.output.write_all(request.input.take_all())?;
///         Ok(Next::Wait)
///     }
/// }
///
/// let mut server = TcpServer::new("127.0.0.1:0", |_client_address| Echo)?;
/// let address = server.server_address().unwrap().as_inet().unwrap();
/// let stop = server.shutdown_handle();
/// let thread = std::thread::spawn(move || server.serve_forever());
///
/// let mut client = std::net::TcpStream::connect(address)?;
/// client.write_all(b"hello")?;
/// client.shutdown(std::net::Shutdown::Write)?;
/// let mut reply = String::new();
/// client.read_to_string(&mut reply)?;
/// assert_eq!(reply, "hello");
///
/// stop.shutdown();
/// thread.join().unwrap()?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub struct Server<F: Family, S, H> {
    /// Options of its sockets, which count for each socket when it is bound; `request_queue_size`, when it is activated. A
    /// change that comes after the last socket was bound is [`Error::Setting`](crate::Error::Setting) when the server starts to serve.
    pub options: F::Options,
    /// Limits of its connections, read when it starts to serve. Those that contradict each other are then
    /// [`Error::Setting`](crate::Error::Setting). They can be changed between two requests, and while it serves with [`Reactor::set_limits`].
    pub limits: Limits,
    /// How long [`handle_request`](Self::handle_request) waits for a client. Default: `None`, for ever. Source:
    /// `BaseServer.timeout`.
    pub timeout: Option<Duration>,
    reactor: Reactor,
    id: ServerId,
    /// Bound, and not listening yet.
    bound: Vec<(Socket, Address)>,
    /// Activated, and not in a reactor yet.
    activated: Vec<Bound>,
    /// Where it was bound, to be bound there again after a shutdown.
    addresses: Vec<Address>,
    /// Those of them whose sockets were adopted.
    adopted: Vec<Address>,
    /// The options with which the last socket was bound.
    applied: F::Options,
    kind: PhantomData<fn() -> (S, H)>,
}

impl<F: Family, H: RequestHandler> Server<F, (), H> {
    /// Binds `address`, listens, and makes a handler for each request with `handler`, which is told the client's
    /// address. Port 0 lets the system choose; see [`server_address`](Self::server_address).
    ///
    /// # Errors
    /// [`Error::Resolve`](crate::Error::Resolve), [`Error::Bind`](crate::Error::Bind), [`Error::Listen`](crate::Error::Listen), each with the address in it; as for
    /// [`server_bind`](Self::server_bind), which binds all addresses of a name. [`Error::Reactor`](crate::Error::Reactor) if the system is out
    /// of descriptors.
    ///
    /// Source: `TCPServer(server_address, RequestHandlerClass)`.
    pub fn new(
        address: impl ServerAddress<F::Domain>,
        mut handler: impl FnMut(&Address) -> H + Send + 'static,
    ) -> Result<Self> {
        Server::with_server(address, (), move |(), client_address| handler(client_address))
    }
}

impl<F: Family, S: BaseServer, H: RequestHandler<S>> Server<F, S, H> {
    /// The same with a value of your own that all handlers share as `request.server`, and whose hooks are called.
    ///
    /// # Errors
    /// As for [`new`](Server::new).
    pub fn with_server(
        address: impl ServerAddress<F::Domain>,
        server: S,
        handler: impl FnMut(&mut S, &Address) -> H + Send + 'static,
    ) -> Result<Self> {
        let mut this = Server::unbound(server, handler)?;
        this.server_bind(address)?;
        this.server_activate()?;
        Ok(this)
    }

    /// A server that is not bound yet: set its [`options`](Self::options) first, then call
    /// [`server_bind`](Self::server_bind), once for each address it is to have, and
    /// [`server_activate`](Self::server_activate).
    ///
    /// # Errors
    /// [`Error::Reactor`](crate::Error::Reactor) if the system is out of descriptors.
    ///
    /// Source: `TCPServer(..., bind_and_activate=False)`.
    ///
    /// ```
    /// # use socketserver::{Next, Request, RequestHandler, Result, TcpServer};
    /// # struct Echo;
    /// # impl RequestHandler for Echo {
    /// #     fn handle(&mut self, _: &mut Request<'_>) -> Result<Next> { Ok(Next::Wait) }
    /// # }
    /// let mut server = TcpServer::unbound((), |_, _| Echo)?;
    /// server.options.request_queue_size = 128;
    /// server.limits.connections_max = Some(1_000);
    /// server.server_bind("127.0.0.1:0")?;
    /// server.server_bind(("127.0.0.1", 0))?;
    /// server.server_activate()?;
    /// assert_eq!(server.server_addresses().len(), 2);
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn unbound(server: S, handler: impl FnMut(&mut S, &Address) -> H + Send + 'static) -> Result<Self> {
        let mut reactor = Reactor::new()?;
        let host = Host::new(server, Box::new(handler));
        let host = if F::DATAGRAMS { host.with_datagrams() } else { host };
        let id = reactor.host_own(Box::new(host), Limits::default())?;
        Ok(Server {
            options: F::Options::default(),
            limits: Limits::default(),
            timeout: None,
            reactor,
            id,
            bound: Vec::new(),
            activated: Vec::new(),
            addresses: Vec::new(),
            adopted: Vec::new(),
            applied: F::Options::default(),
            kind: PhantomData,
        })
    }

    /// The first address it is bound to, with the real port.
    ///
    /// Source: `server_address`.
    pub fn server_address(&self) -> Option<Address> {
        self.server_addresses().into_iter().next()
    }

    /// All addresses it is bound to.
    pub fn server_addresses(&self) -> Vec<Address> {
        self.addresses.iter().chain(self.bound.iter().map(|(_, address)| address)).cloned().collect()
    }

    /// Serves until [shut down](ShutdownHandle::shutdown). Binds and activates what is not yet; after a shutdown,
    /// binds the same addresses again.
    ///
    /// # Errors
    /// [`Error::NotBound`](crate::Error::NotBound), [`Error::Reactor`](crate::Error::Reactor), or those of [`server_bind`](Self::server_bind). [`Error::Setting`](crate::Error::Setting) if
    /// [`options`](Self::options) were changed too late. [`Error::Gone`](crate::Error::Gone) if another reactor was put in the place of its own
    /// (see [`reactor`](Self::reactor)).
    ///
    /// Source: `serve_forever`.
    pub fn serve_forever(&mut self) -> Result<()> {
        if !self.reactor.has_stopped() {
            self.start()?;
        }
        self.reactor.serve_forever()
    }

    /// Serves one request: waits for a client, at most [`timeout`](Self::timeout), and returns when its connection is
    /// over, or the server is closed by a closure. Further clients wait in the backlog. After a timeout the hook
    /// `handle_timeout` is called.
    ///
    /// Returns at once when shut down, and does so until [`serve_forever`](Self::serve_forever) or [`Reactor::poll`] has
    /// returned because of that as well. So a loop asks [`is_requested`](ShutdownHandle::is_requested):
    ///
    /// ```
    /// # use socketserver::{NoHandler, TcpServer};
    /// let mut server = TcpServer::new("127.0.0.1:0", |_| NoHandler)?;
    /// let stop = server.shutdown_handle();
    /// std::thread::spawn({ let stop = stop.clone(); move || stop.shutdown() });
    /// while !stop.is_requested() {
    ///     server.handle_request()?;
    /// }
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`serve_forever`](Self::serve_forever).
    ///
    /// Source: `handle_request`.
    pub fn handle_request(&mut self) -> Result<()> {
        if self.reactor.has_stopped() {
            return Ok(());
        }
        self.start()?;
        self.reactor.handle_request(self.id, self.timeout)
    }

    /// Closes its sockets and aborts its connections. It can be bound again.
    ///
    /// Source: `server_close`, and leaving the `with` block.
    pub fn server_close(&mut self) {
        self.bound.clear();
        self.activated.clear();
        self.addresses.clear();
        self.adopted.clear();
        self.reactor.server_close(self.id);
    }

    /// Sets a timer of the server before anything has happened that would give its hooks a
    /// [`Others`](crate::Others). It calls [`BaseServer::timer`] once. Of a server that is
    /// to be added to a reactor, use [`Reactor::set_timer`].
    ///
    /// Source: none; Python's `service_actions` is called every half second.
    ///
    /// ```
    /// use socketserver::{BaseServer, Others, NoHandler, TcpServer};
    /// use std::time::Duration;
    ///
    /// #[derive(Default)]
    /// struct Ticking { ticks: u32 }
    /// impl BaseServer for Ticking {
    ///     fn timer(&mut self, others: &mut Others<'_, Self>, tag: u64) {
    ///         self.ticks += 1;
    ///         match self.ticks {
    ///             3 => others.request_shutdown(),
    ///             _ => others.set_server_timer(tag, Duration::from_millis(1)),
    ///         }
    ///     }
    /// }
    ///
    /// let mut server = TcpServer::with_server("127.0.0.1:0", Ticking::default(), |_, _| NoHandler)?;
    /// server.set_timer(1, Duration::from_millis(1));
    /// server.serve_forever()?;
    /// assert_eq!(server.server_mut().ticks, 3);
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn set_timer(&mut self, tag: u64, after: Duration) {
        self.reactor.set_timer(self.id, tag, after);
    }

    /// The same for a periodic timer: see [`Others::set_server_interval`](crate::Others::set_server_interval). Of a server
    /// that is to be added to a reactor, use [`Reactor::set_interval`].
    pub fn set_interval(&mut self, tag: u64, every: Duration) {
        self.reactor.set_interval(self.id, tag, every);
    }

    /// What stops it. Of a server that is to be added to a reactor, take the reactor's.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.reactor.shutdown_handle()
    }

    /// A way in for other threads.
    pub fn handle(&self) -> Handle {
        self.reactor.handle()
    }

    /// Makes SIGINT and SIGTERM stop it: see [`Reactor::shutdown_on_signals`].
    ///
    /// # Errors
    /// [`Error::Reactor`](crate::Error::Reactor) if they cannot be watched.
    #[cfg(feature = "signals")]
    pub fn shutdown_on_signals(&mut self) -> Result<()> {
        self.reactor.shutdown_on_signals()
    }

    /// Its number in its reactor.
    pub fn id(&self) -> ServerId {
        self.id
    }

    /// Its reactor: for settings, statistics, and a foreign loop. It is the server's: if another is put in its place
    /// (`std::mem::swap`), this server has nothing to serve with, and its methods say [`Error::Gone`](crate::Error::Gone).
    pub fn reactor(&mut self) -> &mut Reactor {
        &mut self.reactor
    }

    /// Its own value: what handlers see as `request.server`.
    ///
    /// # Panics
    /// If another reactor was put in the place of its own (see [`reactor`](Self::reactor)): the value is in that.
    pub fn server_mut(&mut self) -> &mut S {
        self.reactor.server_mut(self.id).expect("the value is in the reactor that the server was made with")
    }

    /// Gets ready to serve with the limits as they are set now.
    fn start(&mut self) -> Result<()> {
        self.reactor.hosted(self.id)?;
        self.reactor.set_limits(self.id, self.limits.clone())?;
        self.get_sockets()?;
        for bound in std::mem::take(&mut self.activated) {
            self.reactor.open(self.id, bound)?;
        }
        Ok(())
    }
}

impl<F: Family, S, H> fmt::Debug for Server<F, S, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("family", &F::NAME).field("addresses", &self.addresses).finish_non_exhaustive()
    }
}
