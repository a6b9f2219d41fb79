//! The TCP server: addresses, options, and Python's ways to run it.

use std::fmt;
use std::marker::PhantomData;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use super::{BaseServer, Host};
use crate::address::Address;
use crate::error::{Error, Result};
use crate::handler::RequestHandler;
use crate::limits::Limits;
use crate::net::{Listener, Socket, TcpOptions};
use crate::reactor::handle::{Handle, ShutdownHandle};
use crate::reactor::{Reactor, ServerId};

/// A TCP server: listening sockets, a value that its handlers share, and a handler for each connection.
///
/// It has a [`Reactor`] of its own, or is [added](Reactor::add) to one that hosts several. Dropping it closes it, as
/// leaving a `with` block does in Python.
///
/// Source: `socketserver.TCPServer`.
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
pub struct TcpServer<S, H> {
    /// Options of its sockets, read when it is bound and activated.
    pub options: TcpOptions,
    /// Limits of its connections, read when it starts to serve.
    pub limits: Limits,
    /// How long [`handle_request`](Self::handle_request) waits for a client. Default: `None`, for ever. Source:
    /// `BaseServer.timeout`.
    pub timeout: Option<Duration>,
    reactor: Reactor,
    id: ServerId,
    /// Bound, and not listening yet.
    bound: Vec<(Socket, SocketAddr)>,
    /// Listening, and not in a reactor yet.
    listeners: Vec<Listener>,
    /// Where it was bound, to be bound there again after a shutdown.
    addresses: Vec<SocketAddr>,
    kind: PhantomData<fn() -> (S, H)>,
}

impl<H: RequestHandler> TcpServer<(), H> {
    /// Binds `address`, listens, and makes a handler for each client with `handler`, which is told the client's
    /// address. Port 0 lets the system choose; see [`server_address`](Self::server_address).
    ///
    /// # Errors
    /// [`Error::Resolve`], [`Error::Bind`], [`Error::Listen`], each with the address in it; of several addresses that
    /// a name has, the first that can be bound is taken. [`Error::Reactor`] if the system is out of descriptors.
    ///
    /// Source: `TCPServer(server_address, RequestHandlerClass)`.
    pub fn new(
        address: impl ToSocketAddrs + fmt::Debug,
        mut handler: impl FnMut(&Address) -> H + Send + 'static,
    ) -> Result<Self> {
        TcpServer::with_server(address, (), move |(), client_address| handler(client_address))
    }
}

impl<S: BaseServer, H: RequestHandler<S>> TcpServer<S, H> {
    /// The same with a value of your own that all handlers share as `request.server`, and whose hooks are called.
    ///
    /// # Errors
    /// As for [`new`](TcpServer::new).
    pub fn with_server(
        address: impl ToSocketAddrs + fmt::Debug,
        server: S,
        handler: impl FnMut(&mut S, &Address) -> H + Send + 'static,
    ) -> Result<Self> {
        let mut this = TcpServer::unbound(server, handler)?;
        this.server_bind(address)?;
        this.server_activate()?;
        Ok(this)
    }

    /// A server that is not bound yet: set its [`options`](Self::options) first, then call
    /// [`server_bind`](Self::server_bind), once for each address it is to have, and
    /// [`server_activate`](Self::server_activate).
    ///
    /// # Errors
    /// [`Error::Reactor`] if the system is out of descriptors.
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
    /// server.server_bind(("localhost", 0))?;
    /// server.server_activate()?;
    /// assert_eq!(server.server_addresses().len(), 2);
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn unbound(server: S, handler: impl FnMut(&mut S, &Address) -> H + Send + 'static) -> Result<Self> {
        let mut reactor = Reactor::new()?;
        let id = reactor.host(Box::new(Host::new(server, Box::new(handler))), Limits::default())?;
        Ok(TcpServer {
            options: TcpOptions::default(),
            limits: Limits::default(),
            timeout: None,
            reactor,
            id,
            bound: Vec::new(),
            listeners: Vec::new(),
            addresses: Vec::new(),
            kind: PhantomData,
        })
    }

    /// Binds the first address of those that `address` stands for that can be bound.
    ///
    /// # Errors
    /// [`Error::Resolve`] if there is no such address, or none of the wanted family; [`Error::Bind`] with the last one
    /// tried.
    ///
    /// Source: `server_bind`; the hook of that name is called with the socket.
    pub fn server_bind(&mut self, address: impl ToSocketAddrs + fmt::Debug) -> Result<()> {
        let unresolved = |source| Error::Resolve { address: format!("{address:?}"), source };
        let mut failed = None;
        for candidate in address.to_socket_addrs().map_err(unresolved)? {
            if self.options.admits(&candidate) {
                match self.bind(candidate) {
                    Ok(()) => return Ok(()),
                    Err(source) => failed = Some(Error::Bind { address: candidate.into(), source }),
                }
            }
        }
        Err(failed.unwrap_or_else(|| unresolved(std::io::Error::other("no address of the wanted family"))))
    }

    fn bind(&mut self, address: SocketAddr) -> std::io::Result<()> {
        let socket = self.options.open(address)?;
        self.reactor.hosted(self.id).server_bind(&socket, address)?;
        let address = socket.local_address()?;
        self.bound.push((socket, address));
        Ok(())
    }

    /// Makes what is bound listen: from now on clients can connect, and wait in the backlog until the server serves.
    ///
    /// # Errors
    /// [`Error::Listen`], [`Error::NotBound`].
    ///
    /// Source: `server_activate`; the hook of that name is called with each socket.
    pub fn server_activate(&mut self) -> Result<()> {
        if self.bound.is_empty() {
            return Err(Error::NotBound);
        }
        for (socket, address) in std::mem::take(&mut self.bound) {
            let failed = |source| Error::Listen { address: address.into(), source };
            let queue = self.options.request_queue_size;
            self.reactor.hosted(self.id).server_activate(&socket, queue).map_err(failed)?;
            self.adopt(socket.into_listener())?;
        }
        Ok(())
    }

    /// Serves the clients of a listener that was made elsewhere: inherited, for example. Its backlog and options are
    /// left as they are.
    ///
    /// # Errors
    /// [`Error::Reactor`] if it cannot be used.
    pub fn adopt(&mut self, listener: TcpListener) -> Result<()> {
        let failed = |source| Error::Reactor { doing: "adopt the listener", source };
        self.addresses.push(listener.local_addr().map_err(failed)?);
        self.listeners.push(Listener::from_std(listener, &self.options).map_err(failed)?);
        Ok(())
    }

    /// The first address it is bound to, with the real port.
    ///
    /// Source: `server_address`.
    pub fn server_address(&self) -> Option<Address> {
        self.server_addresses().into_iter().next()
    }

    /// All addresses it is bound to.
    pub fn server_addresses(&self) -> Vec<Address> {
        self.addresses.iter().chain(self.bound.iter().map(|(_, address)| address)).map(|&a| a.into()).collect()
    }

    /// Serves until [shut down](ShutdownHandle::shutdown). Binds and activates what is not yet; after a shutdown,
    /// binds the same addresses again.
    ///
    /// # Errors
    /// [`Error::NotBound`], [`Error::Reactor`], or those of [`server_bind`](Self::server_bind).
    ///
    /// Source: `serve_forever`.
    pub fn serve_forever(&mut self) -> Result<()> {
        self.start()?;
        self.reactor.serve_forever()
    }

    /// Serves one request: waits for a client, at most [`timeout`](Self::timeout), and returns when its connection is
    /// over. Further clients wait in the backlog. After a timeout the hook `handle_timeout` is called. Returns at once
    /// when shut down.
    ///
    /// # Errors
    /// As for [`serve_forever`](Self::serve_forever).
    ///
    /// Source: `handle_request`.
    pub fn handle_request(&mut self) -> Result<()> {
        self.start()?;
        self.reactor.handle_request(self.id, self.timeout)
    }

    /// Closes its sockets and aborts its connections. It can be bound again.
    ///
    /// Source: `server_close`, and leaving the `with` block.
    pub fn server_close(&mut self) {
        self.bound.clear();
        self.listeners.clear();
        self.addresses.clear();
        self.reactor.server_close(self.id);
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
    /// [`Error::Reactor`] if they cannot be watched.
    #[cfg(feature = "signals")]
    pub fn shutdown_on_signals(&mut self) -> Result<()> {
        self.reactor.shutdown_on_signals()
    }

    /// Its number in its reactor.
    pub fn id(&self) -> ServerId {
        self.id
    }

    /// Its reactor: for settings, statistics, and a foreign loop.
    pub fn reactor(&mut self) -> &mut Reactor {
        &mut self.reactor
    }

    /// Its own value: what handlers see as `request.server`.
    pub fn server_mut(&mut self) -> &mut S {
        self.reactor.server_mut(self.id).expect("the type is the one it was made with")
    }

    /// Gets ready to serve with the limits as they are set now.
    fn start(&mut self) -> Result<()> {
        if !self.bound.is_empty() {
            self.server_activate()?;
        }
        if self.listeners.is_empty() && self.reactor.server_addresses(self.id).is_empty() {
            for address in self.addresses.clone() {
                self.server_bind(address).inspect_err(|_| self.bound.clear())?;
            }
            self.addresses.clear(); // Activation adds them again.
            self.server_activate()?;
        }
        for listener in std::mem::take(&mut self.listeners) {
            self.reactor.listen(self.id, listener)?;
        }
        self.reactor.set_limits(self.id, Arc::new(self.limits.clone()));
        Ok(())
    }
}

impl Reactor {
    /// Takes a server in. Its own reactor is given up, so handles must be taken from this one.
    ///
    /// # Errors
    /// [`Error::Full`] beyond 256 servers (16 where pointers have 32 bits), [`Error::NotBound`], [`Error::Listen`].
    pub fn add<S: BaseServer, H: RequestHandler<S>>(&mut self, mut server: TcpServer<S, H>) -> Result<ServerId> {
        if !server.bound.is_empty() {
            server.server_activate()?;
        }
        if server.listeners.is_empty() {
            return Err(Error::NotBound);
        }
        let host = server.reactor.unhost().expect("a server's own reactor hosts it");
        let id = self.host(host, server.limits)?;
        for listener in server.listeners {
            self.listen(id, listener)?;
        }
        Ok(id)
    }
}

impl<S, H> fmt::Debug for TcpServer<S, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpServer").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}
