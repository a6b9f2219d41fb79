//! Servers, reactors and clients, and what can be done with them.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use fastrand::Rng;
use socketserver::family::{Tcp, Udp, UnixDatagram, UnixStream};
use socketserver::{
    Address, Error, Handle, Limits, Overflow, Reactor, ReactorConfig, Result, Server, ServerId, ShutdownHandle, Unbound,
};

use super::LOG;
use super::common::{Directory, Kind, sock_addr};
use super::user::{Bomb, Handler, Ledger, Value, panic_quietly};

/// A server of whatever kind that is in no reactor but its own.
trait Owned: Send {
    fn bind(&mut self) -> Result<()>;
    fn adopt(&mut self);
    fn handle_request(&mut self, timeout: Duration) -> Result<()>;
    fn serve_forever(&mut self) -> Result<()>;
    fn close(&mut self);
    fn set_limits(&mut self, limits: Limits);
    fn set_config(&mut self, config: ReactorConfig);
    /// A server that was never activated has none.
    fn handle(&self) -> Option<Handle>;
    fn id(&self) -> Option<ServerId>;
    fn set_timer(&mut self, tag: u64, after: Duration);
    fn addresses(&self) -> Vec<Address>;
    fn add_to(self: Box<Self>, reactor: &mut Reactor) -> Result<ServerId>;
}

enum Stage<F: Kind> {
    Unbound(Box<Unbound<F, Value, Handler>>),
    Activated(Box<Server<F, Value, Handler>>),
    /// It could not be activated.
    Lost,
}

struct Own<F: Kind> {
    stage: Stage<F>,
    /// Of other families, now and then.
    rng: Rng,
    /// Where it is bound; the files go with it.
    places: Vec<Option<Directory>>,
}

impl<F: Kind> Own<F>
where
    F::Adopted: From<socket2::Socket>,
{
    fn new(ledger: &Arc<Ledger>, rng: &mut Rng, far: SocketAddr) -> Self {
        let bomb = Bomb::new(ledger, rng.u32(..6) == 0);
        let mut inner = rng.fork();
        let make = move |value: &mut Value, _: &Address| {
            let _kept = &bomb;
            if inner.u32(..30) == 0 {
                panic_quietly();
            }
            Handler::new(&value.ledger, &mut inner, far)
        };
        let mut unbound = Server::unbound_with_server(Value::new(ledger, rng, far), make);
        unbound.limits = limits(rng);
        Own { stage: Stage::Unbound(Box::new(unbound)), rng: rng.fork(), places: Vec::new() }
    }

    /// It may be bound, which one that was activated may not.
    fn unbound(&mut self) -> Option<&mut Unbound<F, Value, Handler>> {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Lost) {
            Stage::Activated(server) => Stage::Unbound(Box::new(server.into_unbound())),
            stage => stage,
        };
        match &mut self.stage {
            Stage::Unbound(unbound) => Some(unbound),
            _ => None,
        }
    }

    fn activated(&mut self) -> Result<&mut Server<F, Value, Handler>> {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Lost) {
            Stage::Unbound(unbound) if unbound.server_addresses().is_empty() => Stage::Unbound(unbound),
            Stage::Unbound(unbound) => Stage::Activated(Box::new(unbound.server_activate()?)),
            stage => stage,
        };
        match &mut self.stage {
            Stage::Activated(server) => Ok(server),
            _ => Err(Error::NotBound),
        }
    }

    fn bind_as<G: Kind>(&mut self) -> Result<()> {
        let (place, directory) = G::place();
        self.places.push(directory);
        let options = G::Options::default();
        self.unbound().map_or(Ok(()), |unbound| unbound.server_bind_as::<G>(place, options))
    }

    fn adopt_as<G: Kind>(&mut self)
    where
        G::Adopted: From<socket2::Socket>,
    {
        let (place, directory) = G::place();
        let place = sock_addr(&place.into());
        let is_stream = G::NAME == "TCP" || G::NAME == "Unix stream";
        let kind = if is_stream { socket2::Type::STREAM } else { socket2::Type::DGRAM };
        let socket = socket2::Socket::new(place.domain(), kind, None).unwrap();
        socket.bind(&place).unwrap();
        if is_stream {
            socket.listen(10).unwrap();
        }
        self.places.push(directory);
        let Some(unbound) = self.unbound() else { return };
        if unbound.adopt_as::<G>(socket.into(), G::Options::default()).is_ok() {
            unbound.server_mut().adopted();
        }
    }
}

/// What a reactor hosts cannot say its kind any more, and need not.
impl<F: Kind> Owned for Own<F>
where
    F::Adopted: From<socket2::Socket>,
{
    fn bind(&mut self) -> Result<()> {
        self.bind_as::<F>()?;
        match self.rng.u32(..12) {
            0 => self.bind_as::<Tcp>(),
            1 => self.bind_as::<Udp>(),
            2 => self.bind_as::<UnixStream>(),
            3 => self.bind_as::<UnixDatagram>(),
            _ => Ok(()),
        }
    }

    fn adopt(&mut self) {
        self.adopt_as::<F>();
        match self.rng.u32(..6) {
            0 => self.adopt_as::<UnixStream>(),
            1 => self.adopt_as::<Udp>(),
            _ => {}
        }
    }

    fn handle_request(&mut self, timeout: Duration) -> Result<()> {
        let server = self.activated()?;
        server.timeout = Some(timeout);
        server.handle_request()
    }

    fn serve_forever(&mut self) -> Result<()> {
        self.activated()?.serve_forever()
    }

    fn close(&mut self) {
        match &mut self.stage {
            Stage::Activated(server) => server.server_close(),
            stage => *stage = Stage::Lost,
        }
    }

    fn set_limits(&mut self, limits: Limits) {
        match &mut self.stage {
            Stage::Unbound(unbound) => unbound.limits = limits,
            Stage::Activated(server) => server.set_limits(limits).expect("they do not contradict each other"),
            Stage::Lost => {}
        }
    }

    fn set_config(&mut self, config: ReactorConfig) {
        if let Ok(server) = self.activated() {
            server.set_config(config);
        }
    }

    fn handle(&self) -> Option<Handle> {
        match &self.stage {
            Stage::Activated(server) => Some(server.handle()),
            _ => None,
        }
    }

    fn id(&self) -> Option<ServerId> {
        match &self.stage {
            Stage::Activated(server) => Some(server.id()),
            _ => None,
        }
    }

    fn set_timer(&mut self, tag: u64, after: Duration) {
        if let Ok(server) = self.activated() {
            server.set_timer(tag, after);
        }
    }

    fn addresses(&self) -> Vec<Address> {
        match &self.stage {
            Stage::Unbound(unbound) => unbound.server_addresses(),
            Stage::Activated(server) => server.server_addresses(),
            Stage::Lost => Vec::new(),
        }
    }

    fn add_to(mut self: Box<Self>, reactor: &mut Reactor) -> Result<ServerId> {
        self.activated()?;
        match self.stage {
            Stage::Activated(server) => reactor.add(*server),
            _ => Err(Error::NotBound),
        }
    }
}

fn limits(rng: &mut Rng) -> Limits {
    let mut limits = Limits::default();
    limits.idle_timeout = Some(Duration::from_millis(rng.u64(2..40)));
    // Clients do not read: by default what is closed waits as long for them as the watchdog does.
    limits.write_timeout = Some(Duration::from_millis(40));
    limits.linger_timeout = Duration::from_millis(rng.u64(..3));
    limits.sessions_max = rng.bool().then(|| rng.usize(1..10));
    limits.daemon_threads = rng.u32(..8) == 0;
    limits.block_on_close = rng.u32(..8) > 0;
    if rng.u32(..3) == 0 {
        limits.callbacks_per_turn = 1;
    }
    if rng.u32(..4) == 0 {
        limits.connections_max = Some(rng.usize(..3));
    }
    if rng.u32(..4) == 0 {
        limits.connections_per_client_max = Some(rng.usize(1..3));
    }
    if rng.u32(..4) == 0 {
        limits.output_bytes_max = 200_000;
    }
    if rng.bool() {
        limits.output_overflow = Overflow::Refuse;
    }
    limits
}

fn config(rng: &mut Rng) -> ReactorConfig {
    let mut config = ReactorConfig::default();
    config.drain_grace = Duration::from_millis(rng.u64(..60));
    config.drain_quiet = Duration::from_millis(rng.u64(..10));
    config.offload_threads = 1;
    config
}

/// What clients say; see `Handler::handle`.
const BYTES: [char; 16] = ['h', 'h', 'h', 'p', 'e', 'c', 'a', 'r', 'm', 'm', 'o', 'r', 'x', 't', 's', 'B'];

type Job = Box<dyn FnOnce(&mut Reactor) + Send>;

struct Hosting {
    reactor: Reactor,
    ids: Vec<ServerId>,
}

pub(crate) struct Fleet {
    pub(crate) rng: Rng,
    ledger: Arc<Ledger>,
    owned: Vec<Box<dyn Owned>>,
    hosting: Vec<Hosting>,
    clients: Vec<socket2::Socket>,
    /// Handles of reactors that may be gone.
    handles: Vec<Handle>,
    ids: Vec<ServerId>,
    threads: Vec<JoinHandle<()>>,
    /// Takes outbound connections in, and leaves them alone.
    far: TcpListener,
}

impl Fleet {
    pub(crate) fn new(seed: u64, ledger: Arc<Ledger>) -> Self {
        Fleet {
            rng: Rng::with_seed(seed),
            ledger,
            owned: Vec::new(),
            hosting: Vec::new(),
            clients: Vec::new(),
            handles: Vec::new(),
            ids: Vec::new(),
            threads: Vec::new(),
            far: TcpListener::bind("127.0.0.1:0").unwrap(),
        }
    }

    pub(crate) fn step(&mut self) {
        match self.rng.u32(..100) {
            _ if self.owned.is_empty() && self.hosting.is_empty() => self.make_server(),
            0..8 => self.make_server(),
            8..12 => self.make_reactor(),
            12..20 => self.add(),
            20..30 => self.connect(),
            30..42 => self.send(),
            42..52 => self.handle_request(),
            52..62 => self.poll(),
            62..68 => self.serve_forever(),
            68..74 => self.close(),
            74..84 => self.submit(),
            84..88 => self.change_settings(),
            88..90 => self.timers_and_messages(),
            90..92 => self.hang_up(),
            92..94 => self.bind_or_adopt(),
            94..95 => self.stop_alone(),
            95..96 => self.swap(),
            _ => self.drop_one(),
        }
    }

    /// All is dropped, in whatever order.
    pub(crate) fn end(&mut self) {
        LOG.step("the end".to_owned());
        self.rng.shuffle(&mut self.owned);
        if self.rng.bool() {
            self.clients.clear();
        }
        while !self.owned.is_empty() || !self.hosting.is_empty() {
            match self.rng.bool() {
                true => drop(self.owned.pop()),
                false => drop(self.hosting.pop()),
            }
        }
        self.clients.clear();
        self.handles.clear();
        for thread in self.threads.drain(..) {
            thread.join().expect("threads of the test do not panic");
        }
    }

    fn make_server(&mut self) {
        let far = self.far.local_addr().unwrap();
        let (ledger, rng) = (&self.ledger, &mut self.rng);
        let kind = rng.u32(..4);
        let mut server: Box<dyn Owned> = match kind {
            0 => Box::new(Own::<Udp>::new(ledger, rng, far)),
            1 => Box::new(Own::<UnixStream>::new(ledger, rng, far)),
            2 => Box::new(Own::<UnixDatagram>::new(ledger, rng, far)),
            _ => Box::new(Own::<Tcp>::new(ledger, rng, far)),
        };
        let how = rng.u32(..10);
        match how {
            0 => {}
            1 => server.adopt(),
            _ => (0..rng.u32(1..3)).for_each(|_| drop(server.bind())),
        }
        LOG.step(format!("server {} of kind {kind} is made, in way {how}", self.owned.len()));
        let config = config(&mut self.rng);
        server.set_config(config);
        self.handles.extend(server.handle());
        self.owned.push(server);
    }

    fn make_reactor(&mut self) {
        LOG.step(format!("reactor {} is made", self.hosting.len()));
        let reactor = Reactor::with_config(config(&mut self.rng)).unwrap();
        self.handles.push(reactor.handle());
        self.hosting.push(Hosting { reactor, ids: Vec::new() });
    }

    fn add(&mut self) {
        if self.owned.is_empty() {
            return;
        }
        let server = self.owned.swap_remove(self.rng.usize(..self.owned.len()));
        if self.rng.u32(..5) == 0 && !self.owned.is_empty() {
            LOG.step("a server is added to another's reactor".to_owned());
            let other = self.rng.usize(..self.owned.len());
            let add = move |reactor: &mut Reactor| drop(server.add_to(reactor));
            if let Some(handle) = self.owned[other].handle() {
                let _ = catch_unwind(AssertUnwindSafe(|| handle.run(add)));
            }
            return;
        }
        if self.hosting.is_empty() {
            self.make_reactor();
        }
        let at = self.rng.usize(..self.hosting.len());
        let result = server.add_to(&mut self.hosting[at].reactor);
        LOG.step(format!("a server is added to reactor {at}: {result:?}"));
        if let Ok(id) = result {
            self.hosting[at].ids.push(id);
            self.ids.push(id);
        }
    }

    fn addresses(&mut self) -> Vec<Address> {
        let mut addresses: Vec<_> = self.owned.iter().flat_map(|server| server.addresses()).collect();
        for Hosting { reactor, ids } in &mut self.hosting {
            addresses.extend(ids.iter().flat_map(|id| reactor.server_addresses(*id)));
        }
        addresses
    }

    fn connect(&mut self) {
        let addresses = self.addresses();
        let Some(address) = self.rng.choice(&addresses) else { return };
        let to = sock_addr(address);
        for kind in [socket2::Type::STREAM, socket2::Type::DGRAM] {
            let socket = socket2::Socket::new(to.domain(), kind, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            // Which of the two it is only the server knows: both are tried.
            let connected = socket.connect(&to);
            let _ = socket.set_nonblocking(true);
            LOG.step(format!("a client calls {address}: {connected:?}"));
            self.clients.push(socket);
        }
    }

    fn send(&mut self) {
        for _ in 0..self.rng.usize(1..4) {
            if self.clients.is_empty() {
                return;
            }
            let client = self.rng.usize(..self.clients.len());
            let bytes: String = (0..self.rng.usize(1..4)).map(|_| self.rng.choice(BYTES).unwrap()).collect();
            LOG.step(format!("client {client} sends {bytes:?}"));
            let _ = (&self.clients[client]).write(bytes.as_bytes());
        }
    }

    fn hang_up(&mut self) {
        if !self.clients.is_empty() {
            let client = self.clients.swap_remove(self.rng.usize(..self.clients.len()));
            if self.rng.bool() {
                let _ = client.set_linger(Some(Duration::ZERO));
            }
            LOG.step("a client goes".to_owned());
        }
    }

    fn pick(&mut self) -> Option<usize> {
        (!self.owned.is_empty()).then(|| self.rng.usize(..self.owned.len()))
    }

    fn handle_request(&mut self) {
        let Some(at) = self.pick() else { return };
        let timeout = Duration::from_millis(self.rng.u64(..5));
        LOG.step(format!("server {at}: handle_request, {timeout:?}"));
        let _ = self.owned[at].handle_request(timeout);
    }

    /// Some reactor that hosts several.
    fn reactor(&mut self) -> Option<(String, &mut Reactor)> {
        let at = (!self.hosting.is_empty()).then(|| self.rng.usize(..self.hosting.len()))?;
        Some((format!("reactor {at}"), &mut self.hosting[at].reactor))
    }

    fn poll(&mut self) {
        let (times, wait) = (self.rng.u32(1..5), Duration::from_micros(self.rng.u64(..3_000)));
        let Some((name, reactor)) = self.reactor() else { return };
        LOG.step(format!("{name}: poll, {wait:?}, {times} times"));
        for _ in 0..times {
            let _ = reactor.poll(Some(wait));
        }
    }

    /// Stops it a little later: once. If that is lost, the watchdog barks.
    fn stop_later(&mut self, stop: ShutdownHandle) {
        let (after, now) = (Duration::from_micros(self.rng.u64(..4_000)), self.rng.u32(..3) == 0);
        let wait = self.rng.bool();
        let thread = std::thread::spawn(move || {
            if wait {
                std::thread::sleep(after);
            }
            if now { stop.shutdown_now() } else { stop.shutdown() }
        });
        self.threads.push(thread);
    }

    fn serve_forever(&mut self) {
        let poll = self.rng.bool();
        if !self.owned.is_empty() && self.rng.bool() {
            let at = self.rng.usize(..self.owned.len());
            let Some(handle) = self.owned[at].handle() else { return };
            self.stop_later(handle.shutdown_handle());
            LOG.step(format!("server {at}: serve_forever"));
            // If it cannot serve, the stop is for later.
            let _ = self.owned[at].serve_forever();
            return;
        }
        let close = self.rng.bool();
        if self.hosting.is_empty() {
            return;
        }
        let at = self.rng.usize(..self.hosting.len());
        let (name, stop) = (format!("reactor {at}"), self.hosting[at].reactor.shutdown_handle());
        self.stop_later(stop);
        let id = self.rng.choice(self.ids.clone());
        let reactor = &mut self.hosting[at].reactor;
        LOG.step(format!("{name}: serves until stopped, by poll: {poll}, closes {id:?}: {close}"));
        if close && let Some(id) = id {
            reactor.server_close(id);
        }
        match poll {
            false => reactor.serve_forever().unwrap(),
            true => while reactor.poll(Some(Duration::from_millis(20))).unwrap() {},
        }
    }

    fn close(&mut self) {
        match self.rng.u32(..3) {
            0 => {
                let Some(at) = self.pick() else { return };
                LOG.step(format!("server {at}: server_close"));
                self.owned[at].close();
            }
            1 => {
                let Some(at) = self.pick() else { return };
                LOG.step(format!("server {at}: closed by a closure"));
                if let Some((handle, id)) = self.owned[at].handle().zip(self.owned[at].id()) {
                    let _ = handle.run(move |reactor| reactor.server_close(id));
                }
            }
            _ => {
                // Whichever server that names, or none.
                let Some(id) = self.rng.choice(self.ids.clone()) else { return };
                let Some((name, reactor)) = self.reactor() else { return };
                LOG.step(format!("{name}: server_close({id:?})"));
                reactor.server_close(id);
            }
        }
    }

    fn closure(&mut self) -> (String, Job) {
        let bomb = Bomb::new(&self.ledger, self.rng.u32(..10) == 0);
        let id = self.rng.choice(self.ids.clone()).or_else(|| self.owned.first().and_then(|server| server.id()));
        let mut rng = self.rng.fork();
        let what = self.rng.u32(..8);
        let far = self.far.local_addr().unwrap();
        let job = move |reactor: &mut Reactor| {
            let bomb = bomb;
            match what {
                0 => id.into_iter().for_each(|id| reactor.server_close(id)),
                1 => drop(reactor.poll(Some(Duration::from_millis(1)))),
                2 => reactor.shutdown_handle().shutdown(),
                3 => reactor.set_config(config(&mut rng)),
                4 => panic_quietly(),
                5 => {
                    let mut server = Box::new(Own::<Tcp>::new(&bomb.ledger, &mut rng, far));
                    let _ = server.bind();
                    if let Ok(id) = server.add_to(reactor) {
                        for address in reactor.server_addresses(id) {
                            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
                            let _ = socket.unwrap().connect(&sock_addr(&address));
                        }
                    }
                }
                6 => {
                    let handle = reactor.handle();
                    let _ = handle.run(move |_| drop(bomb));
                }
                _ => id.into_iter().for_each(|id| reactor.set_timer(id, 0, Duration::ZERO)),
            }
        };
        (format!("closure {what} with {id:?}"), Box::new(job))
    }

    fn submit(&mut self) {
        for _ in 0..self.rng.u32(1..4) {
            let Some(handle) = self.rng.choice(self.handles.clone()) else { return };
            let (name, job) = self.closure();
            let after = self.rng.bool().then(|| Duration::from_micros(self.rng.u64(..2_000)));
            LOG.step(format!("{name} from another thread"));
            self.threads.push(std::thread::spawn(move || {
                after.into_iter().for_each(std::thread::sleep);
                let submit = AssertUnwindSafe(|| drop(handle.run(job)));
                let _ = catch_unwind(submit); // A closure that is refused is the caller's to drop.
            }));
        }
    }

    fn change_settings(&mut self) {
        if let Some(at) = self.pick() {
            LOG.step(format!("server {at}: other limits"));
            self.owned[at].set_limits(limits(&mut self.rng));
            self.owned[at].set_config(config(&mut self.rng));
        }
        let config = config(&mut self.rng);
        if let Some((name, reactor)) = self.reactor() {
            LOG.step(format!("{name}: other settings"));
            reactor.set_config(config);
        }
    }

    fn timers_and_messages(&mut self) {
        let (tag, after) = (self.rng.u64(..3), Duration::from_micros(self.rng.u64(..2_000)));
        let Some(at) = self.pick() else { return };
        LOG.step(format!("server {at}: timer {tag}, and a message"));
        self.owned[at].set_timer(tag, after);
        if let Some((handle, id)) = self.owned[at].handle().zip(self.owned[at].id()) {
            let _ = handle.send_to_server(id, Bomb::new(&self.ledger, self.rng.bool()));
        }
    }

    fn bind_or_adopt(&mut self) {
        let Some(at) = self.pick() else { return };
        LOG.step(format!("server {at}: bind or adopt"));
        match self.rng.bool() {
            true => self.owned[at].adopt(),
            false => _ = self.owned[at].bind(),
        }
    }

    fn stop_alone(&mut self) {
        let Some((name, reactor)) = self.reactor() else { return };
        let stop = reactor.shutdown_handle();
        LOG.step(format!("{name}: stop"));
        stop.shutdown();
    }

    /// Two reactors change places. No program needs that, and it must not break anything.
    fn swap(&mut self) {
        if self.hosting.len() < 2 {
            return;
        }
        LOG.step("two reactors change places".to_owned());
        let (mut a, mut b) = (self.hosting.pop().unwrap(), self.hosting.pop().unwrap());
        std::mem::swap(&mut a.reactor, &mut b.reactor);
        for Hosting { reactor, ids } in [&mut a, &mut b] {
            let _ = reactor.poll(Some(Duration::ZERO));
            ids.iter().for_each(|id| reactor.server_close(*id));
        }
        self.hosting.extend([a, b]);
    }

    fn drop_one(&mut self) {
        if self.rng.bool() && !self.hosting.is_empty() {
            LOG.step("a reactor is dropped".to_owned());
            drop(self.hosting.swap_remove(self.rng.usize(..self.hosting.len())));
        } else if let Some(at) = self.pick() {
            LOG.step(format!("server {at} is dropped"));
            drop(self.owned.swap_remove(at));
        }
    }
}
