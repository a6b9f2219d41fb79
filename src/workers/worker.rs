//! One worker: a reactor, and the sockets that it shares with the other workers.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use super::binding::AnyUnbound;
use super::crew::Crew;
use super::handle::WorkersHandle;
use super::sharing::{How, Kept, Key, Sharing};
use crate::error::{Error, Result};
use crate::handler::RequestHandler;
use crate::ids::ServerId;
use crate::limits::Spread;
use crate::logging::{LinesOf, note};
use crate::net::ExpectedHeader;
use crate::net::family::{Bound, Family, ServerAddress};
use crate::reactor::Reactor;
use crate::reactor::handle::Handle;
use crate::reactor::shutdown::stop::Hold;
use crate::server::hooks::BaseServer;
#[cfg(unix)]
use crate::server::inherited::{InheritedSockets, SocketName};
use crate::server::unbound::Unbound;
use crate::stats::Stats;

/// A worker that is being made: the argument of the closure of [`Workers::new`](crate::Workers::new).
///
/// ```
/// use socketserver::{NoHandler, TcpServer, UdpOptions, Workers, family::Udp};
///
/// let workers = Workers::new(2, |worker| {
///     let mut server = TcpServer::unbound(|_client_address| NoHandler);
///     worker.server_bind(&mut server, "127.0.0.1:0")?;
///     worker.server_bind_as::<Udp>(&mut server, "127.0.0.1:0", UdpOptions::default())?;
///     worker.add(server)?;
///     if worker.number() == 0 {
///         // A server that only one worker has.
///         let admin = TcpServer::new("127.0.0.1:0", |_client_address| NoHandler)?;
///         worker.reactor().add(admin)?;
///     }
///     Ok(())
/// })?;
/// assert_eq!(workers.server_addresses().len(), 2);
/// # Ok::<(), socketserver::Error>(())
/// ```
pub struct Worker {
    number: usize,
    reactor: Reactor,
    crew: Arc<Crew>,
    /// The servers, and the sockets that each was bound to.
    bound: Vec<(ServerId, Arc<Sharing>)>,
    /// New sockets, which are kept when the worker has been made. If that fails, they are closed with it.
    new: Vec<(Arc<Sharing>, Vec<Kept>)>,
    /// How many connections had closed at its last report.
    closed: u64,
}

/// Makes the servers of a worker.
pub(super) type Make = Box<dyn FnMut(&mut Worker) -> Result<()> + Send>;

impl Worker {
    /// Makes a worker, with its servers.
    pub(super) fn make(crew: &Arc<Crew>, number: usize, make: &mut Make) -> Result<Self> {
        let _lines = LinesOf::worker(number);
        let mut reactor = Reactor::with_config(crew.config.reactor.clone())?;
        reactor.core.worker = Some(number);
        reactor.core.descriptors = Arc::clone(&crew.descriptors);
        #[cfg(all(unix, feature = "restart"))]
        (reactor.core.failed_restart = Arc::clone(&crew.failed_restart));
        reactor.core.hold = Hold::Clients;
        let mut worker =
            Worker { number, reactor, crew: Arc::clone(crew), bound: Vec::new(), new: Vec::new(), closed: 0 };
        make(&mut worker)?;
        if worker.bound.iter().any(|(server, _)| worker.reactor.core.server(*server).is_none()) {
            let source = io::Error::other("a server was bound, but not added: its clients would wait forever");
            return Err(Error::Reactor { doing: "make a worker", source });
        }
        worker.accept()?;
        worker.new.drain(..).for_each(|(sharing, kept)| sharing.keep(kept));
        for (server, sharing) in &worker.bound {
            let handle = worker.reactor.handle();
            if let How::Handed(acceptor) = &sharing.how {
                let acceptor = *acceptor.get().expect("it accepts");
                crew.handing.set_server(acceptor, number, handle.clone(), *server);
                worker.reactor.core.accepts_elsewhere(*server, &sharing.addresses);
            }
            sharing.set_server(number, Some((handle, *server)));
        }
        worker.report();
        Ok(worker)
    }

    /// Returns its number, from 0. A worker that replaces another has the same.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Returns its reactor, for servers that bind their own addresses, and for settings. A worker is stopped with the
    /// others, not by signals of its own reactor.
    pub fn reactor(&mut self) -> &mut Reactor {
        &mut self.reactor
    }

    /// Returns a handle for all workers, for the servers and handlers of this one.
    pub fn workers(&self) -> WorkersHandle {
        WorkersHandle::new(Arc::clone(&self.crew))
    }

    /// Binds a server to an address that all workers share: see [`Unbound::server_bind`]. The first worker binds it, and
    /// the others serve the same address, with the same port.
    ///
    /// # Errors
    /// The same as for [`Unbound::server_bind`]; [`Error::Listen`]; [`Error::Reactor`] if the process has no descriptors
    /// left.
    pub fn server_bind<F: Family, S: BaseServer, H: RequestHandler<S>>(
        &mut self,
        server: &mut Unbound<F, S, H>,
        address: impl ServerAddress<F::Address>,
    ) -> Result<()> {
        self.server_bind_with(server, address, F::Options::default())
    }

    /// Like [`server_bind`](Self::server_bind), but with options for the sockets: see [`Unbound::server_bind_with`].
    ///
    /// # Errors
    /// The same as for [`server_bind`](Self::server_bind).
    pub fn server_bind_with<F: Family, S: BaseServer, H: RequestHandler<S>>(
        &mut self,
        server: &mut Unbound<F, S, H>,
        address: impl ServerAddress<F::Address>,
        options: F::Options,
    ) -> Result<()> {
        self.server_bind_as::<F>(server, address, options)
    }

    /// Like [`server_bind_with`](Self::server_bind_with), but for a socket of another family, `G`: see
    /// [`Unbound::server_bind_as`].
    ///
    /// # Errors
    /// The same as for [`server_bind`](Self::server_bind).
    pub fn server_bind_as<G: Family>(
        &mut self,
        server: &mut impl AnyUnbound,
        address: impl ServerAddress<G::Address>,
        options: G::Options,
    ) -> Result<()> {
        let (name, given) = (address.text(), options.clone());
        self.share::<G, _>(server, name, options, |server| server.bind::<G>(address, given))
    }

    /// Takes the inherited sockets of this name, or the one at this position, for all workers. If there is none, binds
    /// `address` instead, as [`server_bind`](Self::server_bind) does. See [`Unbound::inherit_or_bind`]. An inherited
    /// socket exists once, and so does, with the feature `restart`, one that has a position: connections are
    /// [handed](Spread::Handed) to the workers, and datagrams go to any of them. On Unix.
    ///
    /// # Errors
    /// The same as for [`Unbound::inherit_or_bind`] and [`server_bind`](Self::server_bind).
    ///
    /// ```
    /// # use socketserver::NoHandler;
    /// use socketserver::{InheritedSockets, TcpServer, Workers};
    ///
    /// let mut sockets = InheritedSockets::default(); // or from_env()
    /// let workers = Workers::new(2, move |worker| {
    ///     let mut server = TcpServer::unbound(|_client_address| NoHandler);
    ///     worker.inherit_or_bind(&mut server, &mut sockets, "echo", "127.0.0.1:0")?;
    ///     worker.add(server)
    /// })?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    #[cfg(unix)]
    pub fn inherit_or_bind<'a, F: Family, S: BaseServer, H: RequestHandler<S>>(
        &mut self,
        server: &mut Unbound<F, S, H>,
        sockets: &mut InheritedSockets,
        which: impl Into<SocketName<'a>>,
        address: impl ServerAddress<F::Address>,
    ) -> Result<()> {
        self.inherit_or_bind_with(server, sockets, which, address, F::Options::default())
    }

    /// Like [`inherit_or_bind`](Self::inherit_or_bind), but with options for the sockets: see
    /// [`Unbound::inherit_or_bind_with`].
    ///
    /// # Errors
    /// The same as for [`inherit_or_bind`](Self::inherit_or_bind).
    #[cfg(unix)]
    pub fn inherit_or_bind_with<'a, F: Family, S: BaseServer, H: RequestHandler<S>>(
        &mut self,
        server: &mut Unbound<F, S, H>,
        sockets: &mut InheritedSockets,
        which: impl Into<SocketName<'a>>,
        address: impl ServerAddress<F::Address>,
        options: F::Options,
    ) -> Result<()> {
        self.inherit_or_bind_as::<F>(server, sockets, which, address, options)
    }

    /// Like [`inherit_or_bind_with`](Self::inherit_or_bind_with), but for a socket of another family, `G`: see
    /// [`Unbound::inherit_or_bind_as`].
    ///
    /// # Errors
    /// The same as for [`inherit_or_bind`](Self::inherit_or_bind).
    #[cfg(unix)]
    pub fn inherit_or_bind_as<'a, G: Family>(
        &mut self,
        server: &mut impl AnyUnbound,
        sockets: &mut InheritedSockets,
        which: impl Into<SocketName<'a>>,
        address: impl ServerAddress<G::Address>,
        options: G::Options,
    ) -> Result<()> {
        let (which, given) = (which.into(), options.clone());
        let name = format!("{which} or {}", address.text());
        self.share::<G, _>(server, name, options, |server| server.inherit::<G>(sockets, which, address, given))
    }

    /// Binds a server to the sockets of this name. `bind`: what the first worker does.
    fn share<G: Family, U: AnyUnbound>(
        &mut self,
        server: &mut U,
        name: String,
        mut options: G::Options,
        bind: impl FnOnce(&mut U) -> Result<()>,
    ) -> Result<()> {
        let same = |(_, sharing): &&(_, Arc<Sharing>)| sharing.key.family == G::NAME && sharing.key.name == name;
        let key = Key { family: G::NAME, before: self.bound.iter().filter(same).count(), name };
        let sharing = match self.crew.sharing(&key) {
            Some(sharing) => sharing,
            None => self.bind_first::<G, U>(server, key, &mut options, bind)?,
        };
        let own = sharing.duplicates(self.number)?;
        if let How::Each = sharing.how
            && own.is_empty()
        {
            G::share_port(&mut options);
            let already = server.count();
            for address in sharing.addresses.iter().filter_map(G::typed) {
                server.bind::<G>(address, options.clone())?;
            }
            let new = server.duplicates(already)?.0.into_iter().map(|bound| Kept::new(bound, self.number));
            self.new.push((Arc::clone(&sharing), new.collect()));
        }
        for socket in own {
            server.adopt_socket::<G>(socket, G::for_duplicate(options.clone()))?;
        }
        self.bound.push((server.server_id(), sharing));
        Ok(())
    }

    /// Binds the address, and decides how the workers share it.
    fn bind_first<G: Family, U: AnyUnbound>(
        &mut self,
        server: &mut U,
        key: Key,
        options: &mut G::Options,
        bind: impl FnOnce(&mut U) -> Result<()>,
    ) -> Result<Arc<Sharing>> {
        let already = server.count();
        bind(server)?;
        let kept: Vec<_> = server.take(already).0.into_iter().map(|bound| Kept::new(bound, self.number)).collect();
        kept.iter().try_for_each(Kept::listen)?;
        #[cfg(all(unix, feature = "restart"))]
        let named = server.take_names().0;
        let mut addresses: Vec<_> = kept.iter().map(|kept| kept.address().clone()).collect();
        addresses.dedup(); // A predecessor passes on one socket for each of its workers.
        #[cfg_attr(not(all(unix, feature = "restart")), expect(unused_mut, reason = "no successor gets it"))]
        let mut is_single = kept.iter().any(Kept::is_adopted);
        #[cfg(all(unix, feature = "restart"))]
        (is_single |= named.iter().any(|named| named.position.is_some()));
        let by_kernel = G::DATAGRAMS || self.crew.config.spread == Spread::Kernel;
        let how = if by_kernel && !is_single && G::share_port(options) {
            kept.iter().try_for_each(Kept::share_port)?;
            How::Each
        } else if G::DATAGRAMS {
            kept.iter().for_each(Kept::share);
            How::Together
        } else {
            How::Handed(OnceLock::new())
        };
        #[cfg_attr(not(all(unix, feature = "restart")), expect(unused_mut, reason = "it has no names"))]
        let mut sharing = Sharing::new(key, how, addresses, kept, self.crew.count);
        #[cfg(all(unix, feature = "restart"))]
        sharing.named.extend(named);
        let sharing = Arc::new(sharing);
        self.crew.sharings().push(Arc::clone(&sharing));
        Ok(sharing)
    }

    /// Lets the control reactor accept the clients that the workers are handed.
    fn accept(&self) -> Result<()> {
        for (_, sharing) in &self.bound {
            let How::Handed(number) = &sharing.how else { continue };
            if number.get().is_some() {
                continue;
            }
            let listeners = sharing.take_kept().into_iter().map(Kept::into_bound);
            let mut listeners = listeners.collect::<Result<Vec<_>>>()?;
            let headers = listeners.iter_mut().map(|bound| match bound {
                Bound::Listener(listener) => listener.take_header(),
                Bound::Datagram(_) => ExpectedHeader::default(),
            });
            let handing = Arc::clone(&self.crew.handing);
            let acceptor = *number.get_or_init(|| handing.add_acceptor(headers.last().unwrap_or_default()));
            #[cfg(all(unix, feature = "restart"))]
            let named = sharing.named.clone();
            let accept = move |reactor: &mut Reactor| {
                let accepting = handing.accept(acceptor, reactor, listeners);
                #[cfg(all(unix, feature = "restart"))]
                accepting.iter().for_each(|server| reactor.core.name_sockets(*server, &named));
                if let Err(error) = accepting {
                    note!(Error, "no clients are accepted for the workers: {error:#}");
                }
            };
            self.crew.control.submit(accept, false)?; // It is no message.
        }
        Ok(())
    }

    /// Adds a server to its reactor: see [`Reactor::add_unbound`].
    ///
    /// # Errors
    /// The same as for [`Reactor::add_unbound`].
    pub fn add<F: Family, S: BaseServer, H: RequestHandler<S>>(
        &mut self,
        server: Unbound<F, S, H>,
    ) -> Result<ServerId> {
        self.reactor.add_unbound(server)
    }

    pub(super) fn handle(&self) -> Handle {
        self.reactor.handle()
    }

    pub(super) fn stats(&self) -> Stats {
        self.reactor.stats()
    }

    /// Serves until all workers stop.
    pub(super) fn serve(&mut self) -> Result<()> {
        while self.reactor.poll(None)? {
            self.report();
        }
        self.workers().shutdown(); // If only this one was stopped, and at once.
        Ok(())
    }

    /// Tells the acceptors how many connections it has, and the others that it stops or has drained, or that a descriptor is
    /// free.
    fn report(&mut self) {
        for (server, sharing) in &self.bound {
            if let How::Handed(_) = sharing.how {
                self.crew.handing.report(self.number, *server, &mut self.reactor);
            }
        }
        if self.reactor.core.shared.drain_requested() {
            self.workers().shutdown();
        } else if !self.crew.is_stopping() {
            self.leave_closed();
        }
        if self.reactor.core.hold == Hold::OthersOnly {
            self.crew.note_drained(self.number);
        }
        let closed = std::mem::replace(&mut self.closed, self.reactor.core.stats.closed);
        if closed != self.closed && self.crew.descriptors.take_pause() {
            self.crew.resume_accepting();
        }
    }

    /// Leaves the sockets of servers that the program has closed to the other workers. If none has such a server any more, or
    /// is to have one, the sockets are closed.
    fn leave_closed(&mut self) {
        for (_, sharing) in self.bound.extract_if(.., |(server, _)| !self.reactor.is_open(*server)) {
            sharing.set_server(self.number, None);
            if sharing.is_needed() {
                sharing.reassign(self.number);
            } else {
                self.crew.close(&sharing);
            }
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("number", &self.number).finish_non_exhaustive()
    }
}
