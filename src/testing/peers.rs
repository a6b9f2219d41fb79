//! The same for datagrams: one socket, and everybody who writes to it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::rest::run;
use super::watcher::Watcher;
use super::wire::{Wire, WireSocket};
use super::world::{World, lock, server_address};
use crate::address::Address;
use crate::dispatch::Host;
use crate::handler::RequestHandler;
use crate::ids::ServerId;
use crate::limits::{Limits, ReactorConfig};
use crate::net::datagram::DatagramSocket;
use crate::net::family::Bound;
use crate::net::selector::Selector;
use crate::reactor::Reactor;
use crate::reactor::handle::Handle;
use crate::server::hooks::BaseServer;
use crate::server::parked::Parked;
use crate::stats::Stats;

/// The peers of one scripted datagram server, and the reactor that serves them: what [`Client`](super::Client) is for
/// streams. Without sessions the server makes a handler for each datagram, with them for each peer.
///
/// Every method that makes something happen runs the reactor until it rests. The server's address is 192.0.2.1:9999.
///
/// ```
/// use socketserver::testing::Peers;
/// use socketserver::{Limits, Next, Request, RequestHandler, Result};
/// use std::io::Write;
/// use std::time::Duration;
///
/// /// Numbers what its peer sends.
/// #[derive(Default)]
/// struct Counter { count: u32 }
/// impl RequestHandler for Counter {
///     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
///         self.count += 1;
///         write!(request.output, "{} {}", self.count, String::from_utf8_lossy(request.input.take_all()))?;
///         Ok(Next::Wait)
///     }
/// }
///
/// let mut limits = Limits::default();
/// limits.sessions_max = Some(100);
/// let mut peers = Peers::with_limits((), |_, _| Counter::default(), limits);
/// let (ann, bob) = ("192.0.2.2:1000", "192.0.2.3:1000");
/// assert_eq!(peers.ask(ann, b"a"), [b"1 a"]);
/// assert_eq!(peers.ask(ann, b"b"), [b"2 b"]);
/// assert_eq!(peers.ask(bob, b"c"), [b"1 c"]);
/// peers.advance(Duration::from_secs(601)); // the idle timeout: both sessions end
/// assert_eq!(peers.ask(ann, b"d"), [b"1 d"]);
/// ```
#[derive(Debug)]
pub struct Peers<S = ()> {
    reactor: Reactor,
    server: ServerId,
    world: Arc<World>,
    wire: Arc<Mutex<Wire>>,
    kind: std::marker::PhantomData<fn() -> S>,
}

impl Peers<()> {
    /// The peers of a server with no state and the default limits, whose handlers `handler` makes.
    pub fn new<H: RequestHandler>(mut handler: impl FnMut(&Address) -> H + Send + 'static) -> Self {
        Peers::with_limits((), move |(), peer| handler(peer), Limits::default())
    }
}

impl<S: BaseServer> Peers<S> {
    /// The same with a server's own value, and limits.
    pub fn with_limits<H: RequestHandler<S>>(
        server: S,
        handler: impl FnMut(&mut S, &Address) -> H + Send + 'static,
        limits: Limits,
    ) -> Self {
        let world = World::new();
        let selector = Selector::scripted(Watcher::new(Arc::clone(&world)));
        let mut reactor = Reactor::with_selector(selector, ReactorConfig::default()).expect("a script opens nothing");
        let mut host = Host::new(server, Box::new(handler));
        host.serve_datagrams();
        let server = Parked::take_in(&mut reactor, Box::new(host), limits, true).expect("the first server");
        let wire = Arc::<Mutex<Wire>>::default();
        let socket = WireSocket::new(Arc::clone(&world), Arc::clone(&wire));
        let socket = DatagramSocket::scripted(socket, server_address(0));
        reactor.open(server, [Bound::Datagram(socket)]).expect("a script registers always");
        Peers { reactor, server, world, wire, kind: std::marker::PhantomData }
    }

    /// A peer sends a datagram.
    ///
    /// # Panics
    /// If `from` is no address with a port, as text.
    pub fn feed(&mut self, from: &str, packet: &[u8]) {
        lock(&self.wire).arrive(&self.world, address(from), packet.to_vec());
        self.run();
    }

    /// A peer sends a datagram; what the server has sent it since anybody asked.
    ///
    /// # Panics
    /// As for [`feed`](Self::feed).
    pub fn ask(&mut self, from: &str, packet: &[u8]) -> Vec<Vec<u8>> {
        self.feed(from, packet);
        self.sent_to(from)
    }

    /// What the server has sent to a peer since this was last asked.
    ///
    /// # Panics
    /// As for [`feed`](Self::feed).
    pub fn sent_to(&mut self, peer: &str) -> Vec<Vec<u8>> {
        let peer = address(peer);
        let sent = lock(&self.wire).sent.extract_if(.., |(to, _)| *to == peer).collect::<Vec<_>>();
        sent.into_iter().map(|(_, packet)| packet).collect()
    }

    /// Lets time pass.
    pub fn advance(&mut self, time: Duration) {
        self.world.advance(time);
        self.run();
    }

    /// Stops the server in good order.
    pub fn shutdown(&mut self) {
        self.reactor.shutdown_handle().shutdown();
        self.run();
    }

    /// The server's own value.
    pub fn server_mut(&mut self) -> &mut S {
        self.reactor.server_mut(self.server).expect("the type is the one it was made with")
    }

    /// What the server is called in its reactor: for [`Handle::send_to_server`].
    pub fn server_id(&self) -> ServerId {
        self.server
    }

    /// A way in as other threads have it; call [`run`](Self::run) after using it.
    pub fn handle(&self) -> Handle {
        self.reactor.handle()
    }

    /// The reactor's counters.
    pub fn stats(&self) -> Stats {
        self.reactor.stats()
    }

    /// Runs the reactor until it rests.
    pub fn run(&mut self) {
        run(&mut self.reactor, &self.world, String::new);
    }
}

fn address(text: &str) -> Address {
    text.parse::<SocketAddr>().expect("an address with a port").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Result;
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
    fn several_slices_are_an_answer_whole_or_not_at_all() {
        struct Sliced;
        impl RequestHandler for Sliced {
            fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
                let block = vec![b'x'; request.input.take_all().len() * 20_000];
                let slices = [std::io::IoSlice::new(&block), std::io::IoSlice::new(&block)];
                // What does not fit is given up, and nothing is sent in its place.
                let _ = std::io::Write::write_vectored(&mut request.output, &slices);
                Ok(Next::Wait)
            }
        }
        let mut limits = Limits::default();
        // These are for streams.
        (limits.output_bytes_max, limits.output_overflow) = (1, crate::limits::Overflow::Refuse);
        let mut peers = Peers::with_limits((), |(), _| Sliced, limits);
        assert_eq!(peers.ask("192.0.2.2:1000", b"1").iter().map(Vec::len).collect::<Vec<_>>(), [40_000]);
        assert!(peers.ask("192.0.2.2:1000", b"two").is_empty());
    }

    #[test]
    fn room_is_watched_for_while_something_waits_and_no_longer() {
        let mut peers = Peers::new(|_| Echo);
        let peer = "192.0.2.2:1000";
        for _ in 0..2 {
            assert_eq!(peers.ask(peer, b"a"), [b"a"]);
            assert!(!lock(&peers.wire).watches_room);
            lock(&peers.wire).set_full(&peers.world, true);
            assert!(peers.ask(peer, b"b").is_empty());
            assert!(lock(&peers.wire).watches_room);
            lock(&peers.wire).set_full(&peers.world, false);
            peers.run();
            assert_eq!(peers.sent_to(peer), [b"b"]);
        }
    }
}
