//! A server before it is bound. It gets sockets of any family, and is then activated.

use std::fmt;
use std::io;
use std::marker::PhantomData;

use super::binding;
use super::hooks::BaseServer;
use super::parked::{Kind, Parked};
use crate::address::Address;
use crate::dispatch::Host;
use crate::error::{Error, Result};
use crate::handler::RequestHandler;
use crate::ids::ServerId;
use crate::limits::Limits;
use crate::net::Socket;
use crate::net::family::{Bound, Family, ServerAddress};
use crate::net::site::{Of, Site};

/// A server that is not activated yet: its value, its handlers, its limits, and its bound sockets so far.
/// [`Server::unbound`](crate::Server::unbound) makes it, and [`server_activate`](Self::server_activate) turns it into a
/// [`Server`](crate::Server).
///
/// This is the place to set options of sockets, and to bind one server to sockets of several families. All of them
/// share its value and its handlers, on one thread and without a lock. Dropping it closes the sockets.
///
/// Source: `TCPServer(..., bind_and_activate=False)`.
///
/// ```
/// use socketserver::{Next, Request, RequestHandler, Result, TcpOptions, TcpServer};
/// use std::io::Write;
///
/// struct Echo;
/// impl RequestHandler for Echo {
///     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
///         request.output.write_all(request.input.take_all())?;
///         Ok(Next::Wait)
///     }
/// }
///
/// let mut server = TcpServer::unbound(|_client_address| Echo);
/// server.limits.connections_max = Some(1_000);
/// let mut options = TcpOptions::default();
/// options.request_queue_size = 128;
/// server.server_bind_with("127.0.0.1:0", options)?;
///
/// // The same service on a Unix socket, for this user only.
/// # #[cfg(unix)] {
/// use socketserver::{UnixOptions, family::UnixStream};
/// let mut options = UnixOptions::default();
/// options.mode = Some(0o600);
/// # let directory = std::env::temp_dir().join(format!("unbound-{}", std::process::id()));
/// # std::fs::create_dir(&directory).unwrap();
/// let path = directory.join("echo.sock");
/// server.server_bind_as::<UnixStream>(&path, options)?;
/// # }
///
/// let server = server.server_activate()?;
/// println!("listening on {:?}", server.server_addresses());
/// # drop(server);
/// # #[cfg(unix)]
/// # std::fs::remove_dir(std::env::temp_dir().join(format!("unbound-{}", std::process::id()))).unwrap();
/// # Ok::<(), socketserver::Error>(())
/// ```
pub struct Unbound<F: Family, S, H> {
    /// Limits of its connections, which [`server_activate`](Self::server_activate) checks and applies.
    pub limits: Limits,
    parked: Parked,
    bound: Vec<(Socket, Site)>,
    kind: Kind<F, S, H>,
}

impl<F: Family, S: BaseServer, H: RequestHandler<S>> Unbound<F, S, H> {
    pub(super) fn hosting(host: Host<S, H>) -> Self {
        Unbound::new(Parked::new(Box::new(host)))
    }

    pub(super) fn new(parked: Parked) -> Self {
        Unbound { limits: Limits::clone(&parked.limits), parked, bound: Vec::new(), kind: PhantomData }
    }

    /// Binds a socket with default options to each address of `address`. For example, `localhost` often has one IPv6
    /// and one IPv4 address. If the port is 0, all get the same one. An address that this machine does not have is
    /// skipped, with a warning in the log, as long as another can be bound. Call it once for each address of the
    /// server.
    ///
    /// # Errors
    /// [`Error::Resolve`] if there is no such address, or none of the wanted family; [`Error::Setting`] if an option
    /// cannot be used; [`Error::Bind`] with the address that cannot be bound. Then this call has bound none, and you
    /// can try another.
    ///
    /// Source: `server_bind`, which binds only the first IPv4 address. The hook `server_bind` is called for each
    /// socket.
    pub fn server_bind(&mut self, address: impl ServerAddress<F::Address>) -> Result<()> {
        self.server_bind_with(address, F::Options::default())
    }

    /// Like [`server_bind`](Self::server_bind), but with options for the sockets. The server keeps the options for
    /// binding the address again after a stop.
    ///
    /// # Errors
    /// The same as for [`server_bind`](Self::server_bind).
    pub fn server_bind_with(&mut self, address: impl ServerAddress<F::Address>, options: F::Options) -> Result<()> {
        self.server_bind_as::<F>(address, options)
    }

    /// Like [`server_bind_with`](Self::server_bind_with), but for a socket of another family, `G`: for example TCP and
    /// Unix sockets of one service, or TCP and UDP. [`UdpServer`](crate::UdpServer) describes requests over datagrams.
    /// A handler can distinguish requests by [`client_address`](crate::Request::client_address) and
    /// [`local_address`](crate::Request::local_address), and the hook [`verify_request`](BaseServer::verify_request) by
    /// its argument.
    ///
    /// # Errors
    /// The same as for [`server_bind`](Self::server_bind).
    ///
    /// ```
    /// # use socketserver::{Next, Request, RequestHandler, Result};
    /// # struct Answer;
    /// # impl RequestHandler for Answer {
    /// #     fn handle(&mut self, _: &mut Request<'_>) -> Result<Next> { Ok(Next::Wait) }
    /// # }
    /// use socketserver::{TcpServer, UdpOptions, family::Udp};
    ///
    /// let mut server = TcpServer::unbound(|_client_address| Answer);
    /// server.server_bind("127.0.0.1:0")?;
    /// server.server_bind_as::<Udp>("127.0.0.1:0", UdpOptions::default())?;
    /// let server = server.server_activate()?;
    /// assert_eq!(server.server_addresses().len(), 2);
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn server_bind_as<G: Family>(
        &mut self,
        address: impl ServerAddress<G::Address>,
        options: G::Options,
    ) -> Result<()> {
        let unresolved = |source| Error::Resolve { address: address.text(), source };
        let mut addresses = Vec::new();
        for found in address.to_addresses().map_err(unresolved)? {
            let found = G::untyped(found);
            // A hosts file may contain an address twice.
            if G::admits(&options, &found) && !addresses.contains(&found) {
                addresses.push(found);
            }
        }
        if addresses.is_empty() {
            return Err(unresolved(io::Error::other("no address of the wanted family")));
        }
        self.prepare::<G>();
        self.bound.extend(binding::bind_all(self.parked.hosted(), &Of::<G>::shared(options), &addresses)?);
        Ok(())
    }

    /// Uses a socket that was bound, and made to listen, elsewhere: an inherited one, for example. Call this instead of
    /// [`server_bind`](Self::server_bind); the hook of that name is not called. A path in the file system is not
    /// removed at the end.
    ///
    /// When the server serves again after a stop, it binds the address itself. This fails if another process still has
    /// the socket open.
    ///
    /// # Errors
    /// [`Error::Reactor`] if it is not a listening socket of the family; for datagrams, not a bound one.
    pub fn adopt(&mut self, socket: F::Adopted) -> Result<()> {
        self.adopt_with(socket, F::Options::default())
    }

    /// Like [`adopt`](Self::adopt), but with options. Options that can still be set on a bound socket are set,
    /// including the backlog. The socket keeps its `SO_REUSEADDR`, `SO_REUSEPORT` and `IPV6_V6ONLY`.
    ///
    /// # Errors
    /// The same as for [`adopt`](Self::adopt); [`Error::Setting`] if an option cannot be used.
    pub fn adopt_with(&mut self, socket: F::Adopted, options: F::Options) -> Result<()> {
        self.adopt_as::<F>(socket, options)
    }

    /// Like [`adopt_with`](Self::adopt_with), but for a socket of another family, `G`: see
    /// [`server_bind_as`](Self::server_bind_as).
    ///
    /// # Errors
    /// The same as for [`adopt_with`](Self::adopt_with).
    pub fn adopt_as<G: Family>(&mut self, socket: G::Adopted, options: G::Options) -> Result<()> {
        G::check(&options)?;
        let socket = G::adopt(&options, socket).map_err(not_adopted)?;
        self.adopt_socket::<G>(socket, options)
    }

    /// The socket has its options.
    pub(crate) fn adopt_socket<G: Family>(&mut self, socket: Socket, options: G::Options) -> Result<()> {
        let address = socket.local_address().map_err(not_adopted)?;
        if !G::admits(&options, &address) {
            let why = "its address is not of the wanted family";
            return Err(not_adopted(io::Error::new(io::ErrorKind::InvalidInput, why)));
        }
        self.prepare::<G>();
        self.parked.hosted().set_open();
        self.bound.push((socket, Site { address, options: Of::<G>::shared(options), adopted: true }));
        Ok(())
    }

    /// Remembers under which name the sockets from this one on were asked for.
    #[cfg(all(unix, feature = "restart"))]
    pub(super) fn name_sockets(&mut self, from: usize, is_datagrams: bool, name: &str, position: Option<usize>) {
        let named = self.bound[from..].iter().map(|(_, site)| crate::reactor::served::Named {
            address: site.address.clone(),
            is_datagrams,
            name: name.to_owned(),
            position,
        });
        self.parked.named.extend(named);
    }

    /// Forgets these names.
    #[cfg(all(unix, feature = "restart"))]
    pub(crate) fn take_names(&mut self) -> Vec<crate::reactor::served::Named> {
        std::mem::take(&mut self.parked.named)
    }

    /// Removes the sockets after the first `count`.
    pub(crate) fn take_bound(&mut self, count: usize) -> Vec<(Socket, Site)> {
        self.bound.split_off(count)
    }

    /// Duplicates of the sockets after the first `count`.
    pub(crate) fn duplicates(&self, count: usize) -> Result<Vec<(Socket, Site)>> {
        let failed = |source| Error::Reactor { doing: "duplicate the socket", source };
        let duplicate = |(socket, site): &(Socket, Site)| Ok((socket.another().map_err(failed)?, site.clone()));
        self.bound[count..].iter().map(duplicate).collect()
    }

    /// The id of the future server.
    pub(crate) fn id(&self) -> ServerId {
        self.parked.id
    }

    /// Its value can get requests of this family from now on.
    fn prepare<G: Family>(&mut self) {
        if G::DATAGRAMS {
            let host = self.parked.hosted().host().downcast_mut::<Host<S, H>>();
            host.expect("a server has one type of value and of handlers").serve_datagrams();
        }
    }

    /// Returns whether it has a socket of its own family.
    pub(super) fn is_bound(&self) -> bool {
        self.bound.iter().any(|(_, site)| site.options.family() == F::NAME)
    }

    /// Makes the sockets listen. Returns the parts of a server.
    pub(super) fn activate(self) -> Result<(Parked, Vec<Bound>, Vec<Site>)> {
        let Unbound { limits, mut parked, bound, .. } = self;
        parked.set_limits(limits)?;
        let (activated, sites) = binding::activate(parked.hosted(), bound)?;
        Ok((parked, activated, sites))
    }

    /// Returns its addresses, with the real ports, in the order in which they were bound.
    pub fn server_addresses(&self) -> Vec<Address> {
        self.bound.iter().map(|(_, site)| site.address.clone()).collect()
    }

    /// Returns its value.
    pub fn server_mut(&mut self) -> &mut S {
        self.parked.hosted().state().downcast_mut().expect("the value is of this type")
    }
}

fn not_adopted(source: io::Error) -> Error {
    Error::Reactor { doing: "adopt the socket", source }
}

impl<F: Family, S, H> fmt::Debug for Unbound<F, S, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<_> = self.bound.iter().map(|(_, site)| &site.address).collect();
        f.debug_struct("Unbound").field("family", &F::NAME).field("addresses", &addresses).finish_non_exhaustive()
    }
}
