//! One or more whole servers with any number of scripted clients.

use std::sync::{Arc, Mutex};
use std::time::Duration;

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
use crate::reactor::slots::Kind;
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
    reactor: Reactor,
    world: Arc<World>,
    /// The listening or datagram sockets of the servers, by server number.
    sockets: Vec<(ServerId, Socket)>,
    /// Peers whose sockets the server has probably not closed.
    peers: Vec<Peer>,
    outbound: Outbound,
    connected: u32,
    checked: bool,
    serving: bool,
}

/// The socket of a server.
#[derive(Debug)]
enum Socket {
    Listener(Arc<Mutex<Backlog>>),
    Datagrams(Arc<Mutex<Wire>>),
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
        let reactor = Reactor::with_selector(Selector::scripted(watcher), config).expect("a script opens nothing");
        world.watch(reactor.handle());
        let (sockets, peers) = (Vec::new(), Vec::new());
        Network { reactor, world, sockets, peers, outbound, connected: 0, checked: true, serving: true }
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
        let host = Host::new(server, Box::new(make_handler));
        let id = Parked::take_in(&mut self.reactor, Box::new(host), limits, false)?;
        let backlog = Arc::<Mutex<Backlog>>::default();
        let (world, address) = (Arc::clone(&self.world), server_address(self.sockets.len() as u16));
        let listener = BacklogListener::new(world, Arc::clone(&backlog), address.clone());
        self.sockets.push((id, Socket::Listener(backlog)));
        let listener = Listener::scripted(listener, address);
        self.reactor.open(id, [Bound::Listener(listener)])?;
        Ok(id)
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
        let mut host = Host::new(server, Box::new(make_handler));
        host.serve_datagrams();
        let id = Parked::take_in(&mut self.reactor, Box::new(host), limits, false)?;
        let wire = Arc::<Mutex<Wire>>::default();
        let socket = WireSocket::new(Arc::clone(&self.world), Arc::clone(&wire));
        let socket = DatagramSocket::scripted(socket, server_address(self.sockets.len() as u16));
        self.sockets.push((id, Socket::Datagrams(wire)));
        self.reactor.open(id, [Bound::Datagram(socket)])?;
        Ok(id)
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
        self.sockets.iter().position(|(id, _)| *id == server).expect("a server of this network")
    }

    fn wire(&self, server: ServerId) -> &Mutex<Wire> {
        match &self.sockets[self.place(server)].1 {
            Socket::Datagrams(wire) => wire,
            Socket::Listener(_) => panic!("the server has connections, not datagrams"),
        }
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
        let place = self.place(server);
        let Socket::Listener(backlog) = &self.sockets[place].1 else { panic!("a datagram server has no connections") };
        let (peer, stream) = Peer::client(&self.world, place as u16, address.into());
        lock(backlog).arrive(&self.world, stream, peer.clone());
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

    /// Checks that nothing is left, at the end of a test in which all peers have gone and every server is closed.
    ///
    /// # Panics
    /// If there is a connection, a timer, an entry of the ready queue, or an open socket.
    pub fn check_nothing_left(&mut self) {
        let core = &mut self.reactor.core;
        assert_eq!(core.stats.active, 0, "connections are left");
        let queued = core.ready.iter().filter(|&&entry| core.slots.entry(entry).is_some()).count();
        assert_eq!(queued, 0, "entries of the ready queue are left");
        assert_eq!(core.guards.len(), 0, "guards of connections are left");
        let left: Vec<_> = core.timers.iter().map(|(_, alarm)| format!("{alarm:?}")).collect();
        assert!(left.is_empty(), "timers are left: {left:?}");
        self.peers.retain(|peer| !peer.is_socket_closed());
        assert!(self.peers.is_empty(), "sockets are left open: {:?}", self.peers);
    }

    fn check_nobody_waits(&mut self) {
        self.peers.retain(|peer| !peer.is_socket_closed());
        if !self.serving {
            return assert!(self.peers.is_empty(), "a stopped reactor has sockets open: {:?}", self.peers);
        }
        let core = &mut self.reactor.core;
        for (_, socket) in &self.sockets {
            let waited_for = match socket {
                Socket::Listener(backlog) => lock(backlog).waited_for(),
                Socket::Datagrams(wire) => lock(wire).waited_for(),
            };
            let Some((key, slot)) = waited_for.and_then(|token| core.slots.live(token)) else { continue };
            let (server, slots) = (slot.server, &mut core.slots);
            let held_up = core.served[usize::from(server)].quota == 0
                || slots.pause(key).is_some_and(|pause| pause.is_on())
                || slots.endpoint(key).is_some_and(|endpoint| endpoint.closing)
                || core.is_capped(server);
            assert!(held_up, "clients or datagrams wait for nothing at {key}");
        }
        for peer in &self.peers {
            let pipe = lock(&peer.pipe);
            let Some(token) = pipe.token() else { continue }; // In the backlog, or queued because it is not registered.
            let Some((_, slot)) = core.slots.live(token) else {
                panic!("the socket of {peer:?} is open, its slot gone")
            };
            let Kind::Connection(connection) = &slot.kind else { panic!("the slot of {peer:?} is no connection") };
            let state = &connection.state;
            assert!(
                !(connection.takes_input() && pipe.is_readable()),
                "{peer:?} has sent bytes that will not be read: {state:?}"
            );
            assert!(!(connection.has_output() && pipe.is_writable()), "{peer:?} has room that is not used: {state:?}");
            assert!(
                pipe.is_connecting() || !state.phase.is_connecting(),
                "the answer of {peer:?} was not seen: {state:?}"
            );
        }
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
