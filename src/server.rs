//! The server type, which is used for all kinds of sockets: addresses, options, and Python's methods for running a
//! server.

mod adding;
mod binding;
pub(crate) mod hooks;
#[cfg(unix)]
pub(crate) mod inherited;
pub(crate) mod parked;
mod settings;
pub(crate) mod threading;
pub(crate) mod unbound;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use self::hooks::BaseServer;
use self::parked::{Kind, OwnReactor, Parked};
use self::unbound::Unbound;
use crate::address::Address;
use crate::dispatch::Host;
use crate::error::{Error, Result};
use crate::handler::RequestHandler;
use crate::ids::ServerId;
use crate::net::family::{Bound, Family, ServerAddress, Tcp, Udp};
#[cfg(unix)]
use crate::net::family::{UnixDatagram, UnixStream};
use crate::net::site::Site;
use crate::reactor::Reactor;
use crate::reactor::handle::{Handle, ShutdownHandle};
use crate::reactor::hosted::Hosted;

/// A TCP server: a [`Server`] over TCP, with one handler for each connection.
///
/// Source: `socketserver.TCPServer`.
///
/// ```
/// use socketserver::{Next, Request, RequestHandler, Result, TcpServer};
/// # struct Echo;
/// # impl RequestHandler for Echo {
/// #     fn handle(&mut self, _: &mut Request<'_>) -> Result<Next> { Ok(Next::Wait) }
/// # }
/// let server = TcpServer::new(("localhost", 0), |_client_address| Echo)?;
/// println!("listening on port {}", server.server_address().port());
/// # Ok::<(), socketserver::Error>(())
/// ```
pub type TcpServer<S, H> = Server<Tcp, S, H>;

/// A UDP server: a [`Server`] over UDP. Each datagram is a request with its own handler, from `setup` to `finish`, and
/// everything that this handler writes is sent back as one datagram. With
/// [`Limits::sessions_max`](crate::Limits::sessions_max), there is one handler for each peer instead.
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
/// client.send_to(b"hello", server.server_address())?;
/// server.handle_request()?;
/// let mut reply = [0; 100];
/// let n = client.recv(&mut reply)?;
/// assert_eq!(&reply[..n], b"HELLO");
/// # Ok::<(), socketserver::Error>(())
/// ```
pub type UdpServer<S, H> = Server<Udp, S, H>;

/// A server on Unix stream sockets: a [`Server`] over a path or an abstract name.
///
/// The socket file is created as described in [`Socket::bind`](crate::Socket::bind). It is removed when the server
/// closes, unless it has been replaced in the meantime.
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
/// let server = UnixStreamServer::new(&path, |_client_address| Echo)?;
/// assert!(path.exists());
/// drop(server);
/// assert!(!path.exists());
/// # Ok::<(), socketserver::Error>(())
/// ```
#[cfg(unix)]
pub type UnixStreamServer<S, H> = Server<UnixStream, S, H>;

/// A server on Unix datagram sockets. It works like [`UdpServer`], but over a path or an abstract name. To receive an
/// answer, a client must have bound its own socket.
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
/// assert_eq!(server.server_address().as_path(), Some(&*path));
/// # Ok::<(), socketserver::Error>(())
/// ```
#[cfg(unix)]
pub type UnixDatagramServer<S, H> = Server<UnixDatagram, S, H>;

/// A server, named after its first kind of socket ([`TcpServer`], [`UdpServer`], [`UnixStreamServer`],
/// [`UnixDatagramServer`]). It has bound sockets, a value that its handlers share, and a handler for each request.
/// Sockets of other kinds can share the same value and handlers: see [`Unbound::server_bind_as`].
///
/// A server can be [added](Reactor::add) to a [`Reactor`] that hosts several servers. Otherwise it creates its own
/// reactor when it starts to serve; until then its sockets are its only descriptors. Dropping the server closes it,
/// like leaving a `with` block in Python.
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
/// let address = server.server_address();
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
    /// How long [`handle_request`](Self::handle_request) waits for a client. Default: `None`, which means no limit.
    /// Source: `BaseServer.timeout`.
    pub timeout: Option<Duration>,
    parked: Parked,
    /// The server's own reactor, once it has been created.
    own: Option<OwnReactor>,
    /// The addresses to which the server is bound, or will be bound when it serves again.
    sites: Vec<Site>,
    /// Listening sockets that have not been given to a reactor yet.
    activated: Vec<Bound>,
    kind: Kind<F, S, H>,
}

impl<F: Family, H: RequestHandler> Server<F, (), H> {
    /// Binds `address`, listens, and calls `handler` with the client's address to create a handler for each request.
    /// Port 0 lets the system choose; see [`server_address`](Self::server_address).
    ///
    /// # Errors
    /// [`Error::Resolve`](crate::Error::Resolve), [`Error::Bind`](crate::Error::Bind) and
    /// [`Error::Listen`](crate::Error::Listen), each of which contains the address. As with [`Unbound::server_bind`],
    /// all addresses of a name are bound.
    ///
    /// Source: `TCPServer(server_address, RequestHandlerClass)`.
    pub fn new(
        address: impl ServerAddress<F::Address>,
        handler: impl FnMut(&Address) -> H + Send + 'static,
    ) -> Result<Self> {
        let mut unbound = Server::unbound(handler);
        unbound.server_bind(address)?;
        unbound.server_activate()
    }

    /// Creates a server that is not bound yet. You can then bind it to several addresses, of one family or several,
    /// each with its own options.
    ///
    /// Source: `TCPServer(..., bind_and_activate=False)`.
    pub fn unbound(mut handler: impl FnMut(&Address) -> H + Send + 'static) -> Unbound<F, (), H> {
        Server::unbound_with_server((), move |(), client_address| handler(client_address))
    }
}

impl<F: Family, S: BaseServer, H: RequestHandler<S>> Server<F, S, H> {
    /// Like [`new`](Server::new), but with a value of your own. All handlers share it as `request.server`, and its
    /// hooks are called.
    ///
    /// # Errors
    /// The same as for [`new`](Server::new). On an error the value is dropped.
    pub fn with_server(
        address: impl ServerAddress<F::Address>,
        server: S,
        handler: impl FnMut(&mut S, &Address) -> H + Send + 'static,
    ) -> Result<Self> {
        let mut unbound = Server::unbound_with_server(server, handler);
        unbound.server_bind(address)?;
        unbound.server_activate()
    }

    /// Like [`unbound`](Server::unbound), but with a value of your own.
    pub fn unbound_with_server(
        server: S,
        handler: impl FnMut(&mut S, &Address) -> H + Send + 'static,
    ) -> Unbound<F, S, H> {
        Unbound::hosting(Host::new(server, Box::new(handler)))
    }

    /// Returns the first address of the server's own family to which it is bound, with the actual port. The address
    /// remains valid after the server is closed, because the server is bound to it again when it serves again.
    ///
    /// Source: `server_address`.
    pub fn server_address(&self) -> F::Address {
        self.server_addresses_as::<F>().into_iter().next().expect("a server is bound before it is constructed")
    }

    /// Returns all addresses to which the server is bound, in the order in which they were bound.
    pub fn server_addresses(&self) -> Vec<Address> {
        self.sites.iter().map(|site| site.address.clone()).collect()
    }

    /// Returns the addresses of the sockets of one family.
    pub fn server_addresses_as<G: Family>(&self) -> Vec<G::Address> {
        let sites = self.sites.iter().filter(|site| site.options.family() == G::NAME);
        sites.filter_map(|site| G::typed(&site.address)).collect()
    }

    /// Serves until the server is [shut down](ShutdownHandle::shutdown). If the server was stopped or closed with
    /// [`server_close`](Self::server_close), it is first bound to its addresses again, each with its original options.
    ///
    /// # Errors
    /// [`Error::Reactor`](crate::Error::Reactor); [`Error::Bind`](crate::Error::Bind) and
    /// [`Error::Listen`](crate::Error::Listen) if the server cannot be bound again. In this case it has no sockets, and
    /// you can call this method again. [`Error::Setting`](crate::Error::Setting) if the [`config`](Self::set_config)
    /// cannot be used. [`Error::Gone`](crate::Error::Gone) if a closure has replaced the server's own reactor with
    /// another one.
    ///
    /// Source: `serve_forever`.
    pub fn serve_forever(&mut self) -> Result<()> {
        self.start()?.serve_forever()
    }

    /// Serves one request: waits at most [`timeout`](Self::timeout) for a client, and returns when the client's
    /// connection has ended or a closure has closed the server. Further clients wait in the backlog. After a timeout
    /// the hook `handle_timeout` is called.
    ///
    /// Returns immediately if a shutdown was requested, and continues to do so until
    /// [`serve_forever`](Self::serve_forever) or [`Reactor::poll`] has also returned because of that request. A loop
    /// should therefore check [`is_requested`](ShutdownHandle::is_requested):
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
    /// The same as for [`serve_forever`](Self::serve_forever).
    ///
    /// Source: `handle_request`.
    pub fn handle_request(&mut self) -> Result<()> {
        let (id, timeout) = (self.parked.id, self.timeout);
        let reactor = self.start()?;
        if reactor.has_stopped() {
            return Ok(());
        }
        reactor.handle_request(id, timeout)
    }

    /// Closes the server's sockets and aborts its connections: see [`Reactor::server_close`]. When the server serves
    /// again, it is bound to its addresses again.
    ///
    /// Source: `server_close`, and leaving the `with` block. A server in Python cannot serve again after this.
    pub fn server_close(&mut self) {
        self.activated.clear();
        match &mut self.own {
            Some(reactor) => reactor.server_close(self.parked.id),
            None => self.parked.close(),
        }
    }

    /// Returns a handle that stops the server's reactor: its own, or the one to which it is added.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.handle().shutdown_handle()
    }

    /// Returns a handle for other threads. You can obtain it at any time. Anything submitted through it before the
    /// server has a reactor is kept until then. If the server is [added](Reactor::add) to another reactor, the handle
    /// refers to that reactor.
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.parked.shared))
    }

    /// Makes SIGINT and SIGTERM stop the server: see [`Reactor::shutdown_on_signals`]. This call creates the server's
    /// own reactor if there is none. Feature `signals`.
    ///
    /// # Errors
    /// [`Error::Reactor`](crate::Error::Reactor) if the signals cannot be watched or the system has no descriptors
    /// left.
    #[cfg(feature = "signals")]
    pub fn shutdown_on_signals(&mut self) -> Result<()> {
        self.reactor()?.shutdown_on_signals()
    }

    /// Lets SIGUSR2 restart the program: see [`Reactor::restart_on_signal`]. This call creates the server's own reactor if
    /// there is none. Features `restart` and `signals`.
    ///
    /// # Errors
    /// The same as for [`Reactor::restart_on_signal`].
    #[cfg(all(unix, feature = "signals", feature = "restart"))]
    pub fn restart_on_signal(&mut self) -> Result<()> {
        self.reactor()?.restart_on_signal()
    }

    /// Tells the supervisor when the server is ready and when it stops: see [`Reactor::notify_supervisor`]. This call
    /// creates the server's own reactor if there is none. Feature `sd-notify`.
    ///
    /// # Errors
    /// The same as for [`Reactor::notify_supervisor`].
    #[cfg(all(unix, feature = "sd-notify"))]
    pub fn notify_supervisor(&mut self) -> Result<crate::supervisor::Supervisor> {
        self.reactor()?.notify_supervisor()
    }

    /// Calls the hook [`reload`](BaseServer::reload) for each SIGHUP: see [`Reactor::reload_on_signal`]. This call creates
    /// the server's own reactor if there is none. Feature `signals`.
    ///
    /// # Errors
    /// The same as for [`shutdown_on_signals`](Self::shutdown_on_signals).
    #[cfg(feature = "signals")]
    pub fn reload_on_signal(&mut self) -> Result<()> {
        self.reactor()?.reload_on_signal()
    }

    /// Returns the server's id, which is the same in every reactor.
    pub fn id(&self) -> ServerId {
        self.parked.id
    }

    /// Returns the server's value, which handlers access as `request.server`.
    ///
    /// # Panics
    /// If a closure ([`Handle::run`]) has replaced the server's own reactor with another one, because the value is in
    /// the original reactor.
    pub fn server_mut(&mut self) -> &mut S {
        self.hosted().expect(SWAPPED).state().downcast_mut().expect("the value is of this type")
    }

    fn hosted(&mut self) -> Result<&mut dyn Hosted> {
        match &mut self.own {
            Some(reactor) => reactor.hosted(self.parked.id),
            None => Ok(self.parked.hosted()),
        }
    }

    /// Returns the server's own reactor, and creates it if there is none.
    fn reactor(&mut self) -> Result<&mut Reactor> {
        if self.own.is_none() {
            self.own = Some(self.parked.make_reactor()?);
        }
        Ok(self.own.as_mut().expect("just made"))
    }

    /// Gets ready to serve, unless it has just been stopped.
    fn start(&mut self) -> Result<&mut Reactor> {
        if !self.own.as_ref().is_some_and(|own| own.has_stopped()) {
            self.get_sockets()?;
            let (id, activated) = (self.parked.id, std::mem::take(&mut self.activated));
            self.reactor()?.open(id, activated)?;
        }
        self.reactor()
    }

    /// Ensures that the server has sockets: the existing ones, or new ones that are bound to its addresses.
    fn get_sockets(&mut self) -> Result<()> {
        let id = self.parked.id;
        let is_open = self.own.as_mut().is_some_and(|reactor| {
            reactor.await_closed(id); // If a close is in progress, its hooks run first.
            !reactor.server_addresses(id).is_empty()
        });
        if !is_open && self.activated.is_empty() {
            let sites = self.sites.clone();
            let hosted = self.hosted()?;
            let bound = binding::bind_again(hosted, &sites);
            let is_closed = hosted.is_closed();
            if let Some(reactor) = self.own.as_mut().filter(|_| !is_closed) {
                reactor.reopen(id);
            }
            (self.activated, self.sites) = bound?;
        }
        Ok(())
    }
}

/// The assumption that must hold for a server to find its value.
const SWAPPED: &str = "no closure has replaced the server's own reactor with another one";

impl<F: Family, S: BaseServer, H: RequestHandler<S>> Unbound<F, S, H> {
    /// Makes the sockets listen. From then on, clients can connect; they wait in the backlog until the server serves.
    ///
    /// # Errors
    /// [`Error::NotBound`](crate::Error::NotBound) if there is no socket of the server's own family;
    /// [`Error::Setting`](crate::Error::Setting) if [`limits`](Self::limits) contradict each other;
    /// [`Error::Listen`](crate::Error::Listen). On an error, the server is closed and its value is dropped.
    ///
    /// Source: `server_activate`; the hook `server_activate` is called for each socket.
    pub fn server_activate(self) -> Result<Server<F, S, H>> {
        if !self.is_bound() {
            return Err(Error::NotBound);
        }
        let (parked, activated, sites) = self.activate()?;
        Ok(Server { timeout: None, parked, own: None, sites, activated, kind: PhantomData })
    }
}

impl<F: Family, S, H> fmt::Debug for Server<F, S, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<_> = self.sites.iter().map(|site| &site.address).collect();
        f.debug_struct("Server").field("family", &F::NAME).field("addresses", &addresses).finish_non_exhaustive()
    }
}
