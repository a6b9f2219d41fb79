//! One or more whole servers with any number of scripted clients.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mio::Token;

use super::backlog::{Backlog, BacklogListener};
use super::call::{Call, Outcome};
use super::clock::Clock;
use super::peer::Peer;
use super::rest::TURNS_MAX;
use super::watcher::{Outbound, Watcher};
use super::wire::{Wire, WireSocket};
use super::world::{World, lock, numbered_address, server_address};
use crate::address::Address;
use crate::dispatch::Host;
use crate::error::Result;
use crate::handler::RequestHandler;
use crate::ids::ServerId;
use crate::limits::{Limits, ReactorConfig};
use crate::net::Listener;
use crate::net::datagram::DatagramSocket;
use crate::net::family::Bound;
use crate::net::selector::Selector;
use crate::reactor::Reactor;
use crate::reactor::handle::{Handle, ShutdownHandle};
use crate::server::hooks::BaseServer;
use crate::server::parked::Parked;
use crate::stats::Stats;

/// A simulated network: the reactor that serves real clients, with simulated sockets and a simulated clock.
///
/// [`Client`](super::Client) tests one handler, and this tests servers: thousands of [peers](Peer), handlers that act
/// on each other's connections or connect out, descriptors that run out, calls that are interrupted. Nothing happens
/// unless the test does it, so a test that draws its actions from a seed can be repeated.
///
/// It has no threads. [`offload`](crate::Request::offload) still uses real ones, and `run` does not wait for their
/// results. Requests cannot be served by threads or programs.
///
/// After each turn the reactor's invariants are checked, and when it [rests](Self::run), that no client or connection
/// waits for nothing. Both checks panic: they would find errors of this crate, not of the handler.
///
/// ```
/// use socketserver::testing::Network;
/// use socketserver::{EndReason, Limits, Next, Request, RequestHandler, Result};
/// use std::io::Write;
///
/// /// Sends each message to all other members.
/// struct Chat;
/// impl RequestHandler for Chat {
///     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
///         while let Some(line) = request.input.read_line()? {
///             let line = line.to_vec();
///             request.others.broadcast(line, |_| true);
///         }
///         Ok(Next::Wait)
///     }
/// }
///
/// let mut network = Network::new();
/// let chat = network.serve((), |_, _| Chat, Limits::default())?;
/// let crowd: Vec<_> = (0..1_000).map(|_| network.connect(chat)).collect();
/// network.run();
/// crowd[7].send(b"hello\n");
/// network.run();
/// assert_eq!(crowd.iter().filter(|peer| peer.take_received() == b"hello\n").count(), 999);
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug)]
pub struct Network {
    pub(super) reactor: Reactor,
    world: Arc<World>,
    /// In the order in which the servers were added, including closed ones.
    pub(super) places: Vec<Place>,
    /// Peers whose sockets the server has probably not closed.
    pub(super) peers: Vec<Peer>,
    outbound: Outbound,
    connected: u32,
    checked: bool,
    pub(super) serving: bool,
}

/// Where the clients of one server arrive.
#[derive(Debug)]
pub(super) struct Place {
    server: ServerId,
    /// The second one, if there is one, is for Unix streams.
    backlogs: Vec<Arc<Mutex<Backlog>>>,
    wire: Option<Arc<Mutex<Wire>>>,
}

impl Place {
    /// The sockets at which something waits.
    pub(super) fn waited_for(&self) -> Vec<Token> {
        let clients = self.backlogs.iter().filter_map(|backlog| lock(backlog).waited_for());
        clients.chain(self.wire.iter().filter_map(|wire| lock(wire).waited_for())).collect()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.world.set_on_call(None); // It may hold peers, and with them this world.
    }
}

impl Default for Network {
    fn default() -> Self {
        Network::new()
    }
}

impl Network {
    /// Makes an empty network, and a reactor with the default [`ReactorConfig`].
    pub fn new() -> Self {
        Network::with_config(ReactorConfig::default())
    }

    /// Like `new`, but with settings of your own.
    pub fn with_config(config: ReactorConfig) -> Self {
        let world = World::new();
        let watcher = Watcher::new(Arc::clone(&world));
        let outbound = watcher.outbound();
        let mut reactor = Reactor::with_selector(Selector::scripted(watcher), config).expect("a script opens nothing");
        reactor.core.bound_buffers();
        world.watch(reactor.handle());
        let (places, peers) = (Vec::new(), Vec::new());
        Network { reactor, world, places, peers, outbound, connected: 0, checked: true, serving: true }
    }

    /// Turns off the checks after each turn, which look at every connection. For measuring.
    #[must_use]
    pub fn without_checks(mut self) -> Self {
        self.checked = false;
        self
    }

    /// Adds a server: its value, the closure that makes a handler for each client, and its limits. The first listens on
    /// 192.0.2.1, port 9999, the next on port 10000, and so on.
    ///
    /// With [`Limits::connections_max`] of `None` the descriptors of this process set the limit, as for a real server.
    ///
    /// # Errors
    /// [`Error::Full`](crate::Error::Full) if there are too many servers; [`Error::Listen`](crate::Error::Listen) if
    /// [`on_call`](Self::on_call) makes [`Call::Register`] fail.
    pub fn serve<S: BaseServer, H: RequestHandler<S>>(
        &mut self,
        server: S,
        make_handler: impl FnMut(&mut S, &Address) -> H + Send + 'static,
        limits: Limits,
    ) -> Result<ServerId> {
        self.add(Host::new(server, Box::new(make_handler)), limits, 1, false)
    }

    /// Adds a datagram server. Its address is as for [`serve`](Self::serve).
    ///
    /// ```
    /// use socketserver::testing::Network;
    /// use socketserver::{Address, Limits};
    /// # use socketserver::{Next, Request, RequestHandler, Result};
    /// # struct Echo;
    /// # impl RequestHandler for Echo {
    /// #     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
    /// #         std::io::Write::write_all(&mut request.output, request.input.take_all())?;
    /// #         Ok(Next::Wait)
    /// #     }
    /// # }
    /// let mut network = Network::new();
    /// let echo = network.serve_datagrams((), |_, _| Echo, Limits::default())?;
    /// let peer: Address = std::net::SocketAddr::from(([198, 18, 0, 1], 1000)).into();
    /// network.send_datagram(echo, &peer, b"hello");
    /// network.run();
    /// assert_eq!(network.received_datagrams(echo), [(peer, b"hello".to_vec())]);
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    ///
    /// # Errors
    /// The same as for [`serve`](Self::serve).
    pub fn serve_datagrams<S: BaseServer, H: RequestHandler<S>>(
        &mut self,
        server: S,
        make_handler: impl FnMut(&mut S, &Address) -> H + Send + 'static,
        limits: Limits,
    ) -> Result<ServerId> {
        self.add(Host::new(server, Box::new(make_handler)), limits, 0, true)
    }

    /// Adds a server with sockets of several families, as [`Unbound::server_bind_as`](crate::Unbound::server_bind_as)
    /// binds them: two listeners, of which the second is for clients with a Unix address, and a datagram socket. Its
    /// address is as for [`serve`](Self::serve).
    ///
    /// ```
    /// use socketserver::testing::Network;
    /// use socketserver::{Address, Limits};
    /// # use socketserver::{Next, Request, RequestHandler, Result};
    /// # struct Echo;
    /// # impl RequestHandler for Echo {
    /// #     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
    /// #         std::io::Write::write_all(&mut request.output, request.input.take_all())?;
    /// #         Ok(Next::Wait)
    /// #     }
    /// # }
    /// let mut network = Network::new();
    /// let echo = network.serve_mixed((), |_, _| Echo, Limits::default())?;
    /// let client = network.connect(echo);
    /// client.send(b"one");
    /// let peer: Address = std::net::SocketAddr::from(([198, 18, 0, 1], 1000)).into();
    /// network.send_datagram(echo, &peer, b"two");
    /// network.run();
    /// assert_eq!(client.take_received(), b"one");
    /// assert_eq!(network.received_datagrams(echo), [(peer, b"two".to_vec())]);
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    ///
    /// # Errors
    /// The same as for [`serve`](Self::serve).
    pub fn serve_mixed<S: BaseServer, H: RequestHandler<S>>(
        &mut self,
        server: S,
        make_handler: impl FnMut(&mut S, &Address) -> H + Send + 'static,
        limits: Limits,
    ) -> Result<ServerId> {
        self.add(Host::new(server, Box::new(make_handler)), limits, 2, true)
    }

    /// Adds a server with so many listeners, and perhaps a datagram socket.
    fn add<S: BaseServer, H: RequestHandler<S>>(
        &mut self,
        mut host: Host<S, H>,
        limits: Limits,
        listeners: usize,
        datagrams: bool,
    ) -> Result<ServerId> {
        if datagrams {
            host.serve_datagrams();
        }
        let server = Parked::take_in(&mut self.reactor, Box::new(host), limits, false)?;
        let (world, address) = (&self.world, server_address(self.places.len() as u16));
        let mut place = Place { server, backlogs: Vec::new(), wire: None };
        let mut sockets = Vec::new();
        for _ in 0..listeners {
            let backlog = Arc::<Mutex<Backlog>>::default();
            let listener = BacklogListener::new(Arc::clone(world), Arc::clone(&backlog), address.clone());
            place.backlogs.push(backlog);
            sockets.push(Bound::Listener(Listener::scripted(listener, address.clone())));
        }
        if datagrams {
            let socket = WireSocket::new(Arc::clone(world), Arc::clone(place.wire.insert(Arc::default())));
            sockets.push(Bound::Datagram(DatagramSocket::scripted(socket, address)));
        }
        self.places.push(place);
        self.reactor.open(server, sockets)?;
        Ok(server)
    }

    /// A datagram arrives at a server.
    ///
    /// # Panics
    /// If there is no such server, or it has no datagrams.
    pub fn send_datagram(&mut self, server: ServerId, from: &Address, packet: &[u8]) {
        lock(self.wire(server)).arrive(&self.world, from.clone(), packet.to_vec());
    }

    /// Returns the datagrams that a server has sent since the last call of this, with their receivers.
    ///
    /// # Panics
    /// The same as for [`send_datagram`](Self::send_datagram).
    pub fn received_datagrams(&mut self, server: ServerId) -> Vec<(Address, Vec<u8>)> {
        std::mem::take(&mut lock(self.wire(server)).sent)
    }

    fn place(&self, server: ServerId) -> usize {
        self.places.iter().position(|place| place.server == server).expect("a server of this network")
    }

    fn wire(&self, server: ServerId) -> &Mutex<Wire> {
        self.places[self.place(server)].wire.as_ref().expect("the server has a datagram socket")
    }

    /// Sets a closure that decides how each system call of the reactor ends. Without it, all calls proceed. The closure
    /// gets the call and the address that it concerns: the peer's for a connection or a datagram to send, the server's
    /// for a listener, and none for a wait or before a datagram is received.
    ///
    /// The closure may use [`Peer`]s and [`Handle`]s, so it can act in the middle of a turn. It is called once for each
    /// call, with nothing borrowed. A fault must end at some time: if a call never succeeds, the reactor always has
    /// more to do.
    pub fn on_call(&mut self, on_call: impl FnMut(Call, Option<&Address>) -> Outcome + Send + 'static) {
        self.world.set_on_call(Some(Box::new(on_call)));
    }

    /// Connects a client, which waits in the backlog until the server accepts it. Its address is from 198.18.0.0/15 and
    /// unique.
    ///
    /// # Panics
    /// If there is no such server, or it is a datagram server.
    pub fn connect(&mut self, server: ServerId) -> Peer {
        let address = numbered_address(self.connected);
        self.connected += 1;
        self.connect_from(server, address)
    }

    /// Like [`connect`](Self::connect), but from an address of your choice. With a Unix address the connection is a
    /// Unix stream at its worst: each piece that a peer [sends](Peer::send) ends a read, like a message that carries
    /// descriptors, and no event reports the next one.
    ///
    /// # Panics
    /// The same as for [`connect`](Self::connect).
    pub fn connect_from(&mut self, server: ServerId, address: impl Into<Address>) -> Peer {
        let (place, address) = (self.place(server), address.into());
        let backlogs = &self.places[place].backlogs;
        let backlog = if address.ip().is_some() { backlogs.first() } else { backlogs.last() };
        let backlog = Arc::clone(backlog.expect("the server has a listener"));
        let (peer, stream) = Peer::client(&self.world, place as u16, address);
        lock(&backlog).arrive(&self.world, stream, peer.clone());
        self.peers.push(peer.clone());
        peer
    }

    /// Returns the outbound connections that handlers have [started](crate::Others::connect) since the last call of
    /// this, to any address, including that of a server of this network. They are not answered yet; a test does that
    /// with [`Peer::establish`] or [`Peer::refuse`].
    pub fn called(&mut self) -> Vec<Peer> {
        let called = std::mem::take(&mut *lock(&self.outbound));
        self.peers.extend_from_slice(&called);
        called
    }

    /// Runs for this long: whenever nothing is left to do, time passes until the reactor would wake by itself.
    ///
    /// # Panics
    /// The same as for [`run`](Self::run).
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now() + time;
        self.run();
        while let Some(wait) = self.next_timeout().filter(|_| self.serving && self.now() < end) {
            self.advance(wait.min(end - self.now()));
            self.run();
        }
        self.advance(end.saturating_sub(self.now()));
        self.run();
    }

    /// Lets time pass. The reactor sees this when it next reads the clock.
    pub fn advance(&mut self, time: Duration) {
        self.world.advance(time);
    }

    /// Returns the time since the network was made.
    pub fn now(&self) -> Duration {
        self.clock().now()
    }

    /// Returns the clock, which [`on_call`](Self::on_call) can read and move.
    pub fn clock(&self) -> Clock {
        Clock(Arc::clone(&self.world))
    }

    /// Returns how long the reactor would sleep if nothing happened: [`Reactor::next_timeout`].
    pub fn next_timeout(&self) -> Option<Duration> {
        self.reactor.next_timeout()
    }

    /// Runs one turn of the reactor. Returns whether it may have more to do. If not, it would have slept, or has
    /// stopped.
    ///
    /// # Panics
    /// If an invariant of the reactor is broken, or [`on_call`](Self::on_call) makes a wait fail, which ends the loop.
    pub fn turn(&mut self) -> bool {
        if !self.serving {
            return false;
        }
        self.serving = self.reactor.poll(None).expect("only a wait that fails ends the loop");
        if self.checked {
            self.reactor.check();
        }
        let rests = self.world.has_slept() && !self.world.is_ready();
        self.serving && !(rests && self.reactor.next_timeout() != Some(Duration::ZERO))
    }

    /// Runs turns until nothing is left to do before time passes or a peer acts, or until the reactor has stopped.
    ///
    /// # Panics
    /// If the reactor never becomes idle, or if it is idle although something waits for it: a client in a backlog, a
    /// connection with input, room for output, or an end.
    pub fn run(&mut self) {
        let mut turns = 0;
        while self.turn() {
            turns += 1;
            assert!(turns < TURNS_MAX, "the reactor does not come to rest in {turns} turns");
        }
        self.check_nobody_waits();
    }

    /// Returns whether the reactor was stopped.
    pub fn is_stopped(&self) -> bool {
        !self.serving
    }

    /// Returns the limits of a server in force: [`Reactor::limits`].
    pub fn limits(&self, server: ServerId) -> Option<&Limits> {
        self.reactor.limits(server)
    }

    /// Changes the limits of a server: [`Reactor::set_limits`].
    ///
    /// # Errors
    /// The same as for [`Reactor::set_limits`].
    pub fn set_limits(&mut self, server: ServerId, limits: Limits) -> Result<()> {
        self.reactor.set_limits(server, limits)
    }

    /// Closes one server: [`Reactor::server_close`].
    pub fn server_close(&mut self, server: ServerId) {
        self.reactor.server_close(server);
    }

    /// Returns a server's value, if it is an `S`.
    pub fn server_mut<S: 'static>(&mut self, server: ServerId) -> Option<&mut S> {
        self.reactor.server_mut(server)
    }

    /// Returns a handle as other threads have it.
    pub fn handle(&self) -> Handle {
        self.reactor.handle()
    }

    /// Returns a handle that stops the reactor.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.reactor.shutdown_handle()
    }

    /// Returns the reactor's counters.
    pub fn stats(&self) -> Stats {
        self.reactor.stats()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handler::request::Request;
    use crate::lifecycle::Next;

    struct Echo;
    impl RequestHandler for Echo {
        fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
            std::io::Write::write_all(&mut request.output, request.input.take_all())?;
            Ok(Next::Wait)
        }
    }

    #[test]
    fn room_is_watched_for_while_something_waits_and_no_longer() {
        let mut network = Network::new();
        let echo = network.serve_datagrams((), |(), _| Echo, Limits::default()).unwrap();
        let peer = Address::from(std::net::SocketAddr::from(([192, 0, 2, 2], 1000)));
        for _ in 0..2 {
            network.send_datagram(echo, &peer, b"a");
            network.run();
            assert_eq!(network.received_datagrams(echo), [(peer.clone(), b"a".to_vec())]);
            assert!(!lock(network.wire(echo)).watches_room);
            lock(network.wire(echo)).set_full(&network.world, true);
            network.send_datagram(echo, &peer, b"b");
            network.run();
            assert_eq!(network.received_datagrams(echo), []);
            assert!(lock(network.wire(echo)).watches_room);
            lock(network.wire(echo)).set_full(&network.world, false);
            network.run();
            assert_eq!(network.received_datagrams(echo), [(peer.clone(), b"b".to_vec())]);
        }
    }
}
