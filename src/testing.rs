//! Tools for testing handlers without a socket. You provide the input bytes, inspect the output bytes, and control the
//! time.
//!
//! A [`Client`] is the other end of one scripted connection. Behind it is the reactor that serves real clients, with
//! its limits, its timers and its edge-triggered readiness. Only the socket and the clock are simulated. Tests never
//! wait and are deterministic, so a test that passes once always passes.
//!
//! ```
//! use socketserver::testing::{check_chunking, Client};
//! use socketserver::{EndReason, Next, Request, RequestHandler, Result, Timeout};
//! use std::io::Write;
//! use std::time::Duration;
//!
//! struct Upper;
//! impl RequestHandler for Upper {
//!     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
//!         while let Some(line) = request.input.read_line()? {
//!             request.output.write_all(&line.to_ascii_uppercase())?;
//!         }
//!         Ok(Next::Wait)
//!     }
//! }
//!
//! let mut client = Client::new(Upper);
//! client.feed(b"hel");
//! assert_eq!(client.sent(), b"");
//! client.feed(b"lo\n");
//! assert_eq!(client.sent(), b"HELLO\n");
//! client.advance(Duration::from_secs(601));
//! assert_eq!(client.finished(), Some(EndReason::Timeout(Timeout::Idle)));
//! assert_eq!(client.transcript(), ["setup", "handle 3", "handle 6", "timeout Idle", "finish idle timeout"]);
//! // The answer is the same no matter how the bytes are split.
//! check_chunking(b"one\ntwo\nthree", || Client::new(Upper));
//! ```
//!
//! With the feature `simulation` there is also `Network`, which does the same for whole servers of streams and
//! datagrams. It supports any number of peers, handlers that act on each other's connections or make outbound
//! connections, and a closure that determines the result of each system call.

#![cfg_attr(
    not(feature = "simulation"),
    allow(dead_code, unreachable_pub, reason = "a client uses only a part of what a network consists of")
)]

#[cfg(feature = "simulation")]
mod backlog;
mod call;
#[cfg(feature = "simulation")]
mod checks;
#[cfg(feature = "simulation")]
mod clock;
#[cfg(feature = "simulation")]
mod network;
mod peer;
mod pipe;
mod record;
mod rest;
mod script;
#[cfg(feature = "tls")]
mod secured;
#[cfg(feature = "tls")]
mod tls;
mod watcher;
#[cfg(feature = "simulation")]
mod wire;
mod world;

use std::any::Any;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[cfg(feature = "simulation")]
pub use self::call::{Call, Outcome};
#[cfg(feature = "simulation")]
pub use self::clock::Clock;
#[cfg(feature = "simulation")]
pub use self::network::Network;
#[cfg(not(feature = "simulation"))]
use self::peer::Peer;
#[cfg(feature = "simulation")]
pub use self::peer::Peer;
use self::record::{Record, Recorder};
use self::rest::{TURNS_MAX, run};
pub use self::script::Script;
#[cfg(feature = "tls")]
pub use self::tls::{Tls, TlsPeer};
use self::watcher::Watcher;
use self::world::{World, client_address, lock};
use crate::dispatch::Host;
use crate::error::{Error, Result};
use crate::handler::RequestHandler;
use crate::ids::ConnectionId;
use crate::ids::ServerId;
use crate::lifecycle::EndReason;
use crate::limits::{Limits, ReactorConfig};
use crate::net::selector::Selector;
use crate::net::{ExpectedHeader, Stream};
use crate::reactor::Reactor;
use crate::reactor::handle::Handle;
use crate::server::hooks::BaseServer;
use crate::server::parked::Parked;

/// The client's end of one scripted connection, and the reactor that serves it.
///
/// Every method that causes an event runs the reactor until it is idle. If a handler never lets the reactor become
/// idle, the method panics. The client's address is 192.0.2.2:50000.
///
/// ```
/// use socketserver::testing::Client;
/// # use socketserver::{Next, Request, RequestHandler, Result};
/// # struct Echo;
/// # impl RequestHandler for Echo {
/// #     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
/// #         std::io::Write::write_all(&mut request.output, request.input.take_all())?;
/// #         Ok(Next::Wait)
/// #     }
/// # }
/// let mut client = Client::new(Echo);
/// client.set_window(3); // the client reads no more than three bytes
/// client.feed(b"hello");
/// assert_eq!(client.sent(), b"hel");
/// client.set_window(100);
/// assert_eq!(client.take_sent(), b"hello");
/// client.feed_eof();
/// assert!(client.is_closed());
/// ```
#[derive(Debug)]
pub struct Client<S = ()> {
    reactor: Reactor,
    server: ServerId,
    id: Option<ConnectionId>,
    world: Arc<World>,
    peer: Peer,
    record: Arc<Mutex<Record>>,
    #[cfg(feature = "tls")]
    tls: Option<TlsPeer>,
    kind: std::marker::PhantomData<fn() -> S>,
}

impl Client<()> {
    /// Creates a client that is connected to a server with no state and default limits. `handler` serves the
    /// connection.
    pub fn new(handler: impl RequestHandler) -> Self {
        Client::with_server((), handler)
    }
}

impl<S: BaseServer> Client<S> {
    /// Like [`new`](Client::new), but with a value of your own for the server.
    pub fn with_server(server: S, handler: impl RequestHandler<S>) -> Self {
        Client::with_limits(server, handler, Limits::default())
    }

    /// Like [`with_server`](Self::with_server), but with custom limits.
    pub fn with_limits(server: S, handler: impl RequestHandler<S>, limits: Limits) -> Self {
        let mut client = Client::connect(server, handler, limits, |stream| stream);
        client.run();
        client
    }

    /// Like `with_limits`, for a stream that is changed before the server accepts it.
    fn connect(
        server: S,
        handler: impl RequestHandler<S>,
        limits: Limits,
        wrap: impl FnOnce(Stream) -> Stream,
    ) -> Self {
        let world = World::new();
        let selector = Selector::scripted(Watcher::new(Arc::clone(&world)));
        let mut reactor = Reactor::with_selector(selector, ReactorConfig::default()).expect("a script opens nothing");
        let record = Arc::new(Mutex::new(Record::default()));
        let mut handler = Some(Recorder { handler, record: Arc::clone(&record) });
        let host = Host::new(server, Box::new(move |_, _| handler.take().expect("one client, one handler")));
        let server = Parked::take_in(&mut reactor, Box::new(host), limits, true).expect("the first server");
        let (peer, stream) = Peer::client(&world, 0, client_address());
        reactor
            .admit_any(server, wrap(stream.into()), client_address(), &ExpectedHeader::default())
            .expect("a script registers always");
        let id = reactor.core.slots.connections(None).first().map(|&key| reactor.core.slots.id(key));
        let kind = std::marker::PhantomData;
        Client {
            reactor,
            server,
            id,
            world,
            peer,
            record,
            #[cfg(feature = "tls")]
            tls: None,
            kind,
        }
    }

    /// Sends bytes to the handler, which arrive in one piece.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.play(Script::new().read(bytes));
    }

    /// Ends the client's direction (FIN).
    pub fn feed_eof(&mut self) {
        self.play(Script::new().eof());
    }

    /// Breaks the connection (RST).
    pub fn feed_reset(&mut self) {
        self.play(Script::new().reset());
    }

    /// Plays a script to its end.
    pub fn play(&mut self, script: Script) {
        script.short_writes.into_iter().for_each(|bytes| self.peer.short_write(bytes));
        for arrival in script.arrivals {
            #[cfg(feature = "tls")]
            let Some(arrival) = self.seal(arrival) else { continue };
            self.peer.arrive(arrival);
        }
        self.run();
    }

    /// Sets how many more bytes the client accepts before the server must wait. At first there is no limit.
    pub fn set_window(&mut self, bytes: usize) {
        self.peer.set_window(bytes);
        self.run();
    }

    /// Lets time pass.
    pub fn advance(&mut self, time: Duration) {
        self.world.advance(time);
        self.run();
    }

    /// Advances the time and then delivers bytes. The reactor sees both at the same time, as after the process was
    /// stopped for a while.
    pub fn feed_after(&mut self, time: Duration, bytes: &[u8]) {
        self.world.advance(time);
        self.feed(bytes);
    }

    /// Delivers a message to the handler, as [`Handle::send`] does.
    ///
    /// # Errors
    /// [`Error::Gone`] if the connection is over.
    pub fn message(&mut self, value: impl Any + Send) -> Result<()> {
        let id = self.id.filter(|_| !self.peer.is_socket_closed()).ok_or(Error::Gone)?;
        self.handle().send(id, value)?;
        self.run();
        Ok(())
    }

    /// Stops the server gracefully, as [`ShutdownHandle::shutdown`](crate::ShutdownHandle::shutdown) does.
    pub fn shutdown(&mut self) {
        self.reactor.shutdown_handle().shutdown();
        self.run();
    }

    /// Returns everything that the server has sent and that [`take_sent`](Self::take_sent) has not taken.
    pub fn sent(&self) -> Vec<u8> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.untaken();
        }
        lock(&self.peer.pipe).sent.clone()
    }

    /// Returns everything that the server has sent since the last call of `take_sent`.
    pub fn take_sent(&mut self) -> Vec<u8> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.take_received();
        }
        self.peer.take_received()
    }

    /// Returns whether the server has ended its direction: by FIN, RST or close.
    pub fn is_closed(&self) -> bool {
        self.peer.is_closed()
    }

    /// Returns whether the server has reset the connection.
    pub fn is_reset(&self) -> bool {
        self.peer.is_reset()
    }

    /// Returns the reason why the request ended, once `finish` has been called on the handler passed to the client or
    /// on the handler that [replaced](crate::Request::replace_handler) it.
    pub fn finished(&self) -> Option<EndReason> {
        lock(&self.record).finished
    }

    /// Returns the callbacks so far, one line for each: the name, followed by the number of unread bytes for `handle`
    /// and by the argument for other callbacks. For a handler that replaces another, the list continues with `setup`.
    /// The callbacks of a handler from the hook [`finish_request`](crate::BaseServer::finish_request) are not recorded.
    pub fn transcript(&self) -> Vec<String> {
        lock(&self.record).lines.clone()
    }

    /// Returns the connection's id, which is valid while the connection exists.
    pub fn id(&self) -> Option<ConnectionId> {
        self.id
    }

    /// Returns the server's value.
    pub fn server_mut(&mut self) -> &mut S {
        self.reactor.server_mut(self.server).expect("the type is the one it was made with")
    }

    /// Returns the server's id, for example for [`Handle::send_to_server`].
    pub fn server_id(&self) -> ServerId {
        self.server
    }

    /// Returns a handle like the ones that other threads use. Call [`run`](Self::run) after using it.
    pub fn handle(&self) -> Handle {
        self.reactor.handle()
    }

    /// Returns the reactor's counters.
    pub fn stats(&self) -> crate::Stats {
        self.reactor.stats()
    }

    /// Runs the reactor until it is idle and no [offloaded](crate::Request::offload) jobs are left, including jobs that
    /// are started when results are delivered. The jobs run on threads in real time, and the other methods do not wait
    /// for them.
    ///
    /// # Panics
    /// If jobs are still running after `within`.
    ///
    /// ```
    /// use socketserver::testing::Client;
    /// use socketserver::{Message, Next, Request, RequestHandler, Result};
    /// use std::io::Write;
    /// use std::time::Duration;
    ///
    /// struct Summing;
    /// impl RequestHandler for Summing {
    ///     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
    ///         let bytes = request.input.take_all().to_vec();
    ///         request.offload(move || bytes.into_iter().map(u64::from).sum::<u64>())?; // as if it took long
    ///         Ok(Next::Wait)
    ///     }
    ///     fn message(&mut self, request: &mut Request<'_>, message: Message) -> Result<Next> {
    ///         let sum = message.downcast::<u64>().expect("the job's result");
    ///         write!(request.output, "{sum}")?;
    ///         Ok(Next::Wait)
    ///     }
    /// }
    ///
    /// let mut client = Client::new(Summing);
    /// client.feed(&[1, 2, 3]);
    /// client.run_jobs(Duration::from_secs(10));
    /// assert_eq!(client.sent(), b"6");
    /// ```
    pub fn run_jobs(&mut self, within: Duration) {
        for _ in 0..TURNS_MAX {
            self.run();
            assert!(self.reactor.core.await_jobs(within), "jobs still run after {within:?}");
            // Their results have been delivered or are waiting to be delivered.
            if self.reactor.next_timeout() != Some(Duration::ZERO) {
                return;
            }
        }
        panic!("the handler keeps starting new jobs");
    }

    /// Runs the reactor until it is idle.
    pub fn run(&mut self) {
        self.run_once();
        #[cfg(feature = "tls")]
        while self.tls.as_ref().is_some_and(TlsPeer::exchange) {
            self.run_once();
        }
    }

    fn run_once(&mut self) {
        let record = &self.record;
        run(&mut self.reactor, &self.world, || {
            let lines = &lock(record).lines;
            format!("; the last of them: {:?}", &lines[lines.len().saturating_sub(20)..])
        });
    }
}

/// Feeds `input` to a new client in one piece, then cut in two at every boundary, then byte by byte, then cut at
/// random. Each run is followed by the end of the stream. Panics, with the positions of the cuts in its message, unless
/// the server sends the same bytes and ends for the same reason every time.
///
/// An input of more than 2,048 bytes is cut in two at 2,048 evenly spread positions instead of at every position.
pub fn check_chunking<S: BaseServer>(input: &[u8], mut connect: impl FnMut() -> Client<S>) {
    let mut run = |cuts: &[usize]| {
        let mut client = connect();
        let mut from = 0;
        for &cut in cuts.iter().chain([&input.len()]) {
            client.feed(&input[from..cut]);
            from = cut;
        }
        client.feed_eof();
        (client.sent(), client.finished())
    };
    let whole = run(&[]);
    let mut check = |cuts: &[usize], how: &str| {
        let cut = run(cuts);
        assert!(
            cut == whole,
            "cut {how} at {cuts:?} the input gives another result:\n  {:?}, {:?}\nin one piece:\n  {:?}, {:?}",
            String::from_utf8_lossy(&cut.0),
            cut.1,
            String::from_utf8_lossy(&whole.0),
            whole.1,
        );
    };
    let step = input.len().div_ceil(2_048).max(1);
    for cut in (1..input.len()).step_by(step) {
        check(&[cut], "in two");
    }
    check(&(1..input.len()).collect::<Vec<_>>(), "into single bytes");
    for seed in 1..=64u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut cuts: Vec<_> = (0..1 + seed as usize % 7).map(|_| random(&mut state, input.len())).collect();
        cuts.sort_unstable();
        cuts.dedup();
        check(&cuts, &format!("with seed {seed}"));
    }
}

/// xorshift64, which is enough to choose the cuts.
fn random(state: &mut u64, below: usize) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state % (below as u64 + 1)) as usize
}
