//! The loop.
//!
//! ```text
//!  poll ──▶ collect ──▶ service ──▶ timers ──▶ service_actions ──▶ reap
//!  sleep    note what   each ready   what is    the servers'        free what
//!           is ready    slot once    due        hook                ended
//! ```
//!
//! Collect only notes; service runs callbacks; reap alone frees slots. So within a turn no key is reused, and a
//! callback may close any connection, its own included, without anything moving under it.

mod accepting;
pub(crate) mod core;
mod elsewhere;
mod endpoint;
pub(crate) mod handle;
mod invariants;
pub(crate) mod mailbox;
pub(crate) mod pool;
mod ready;
#[cfg(feature = "signals")]
pub(crate) mod signals;
pub(crate) mod slots;
mod stopping;
mod sync;

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use slab::Slab;

use self::core::{Alarm, Core};
use self::handle::{Command, Handle, Message, ShutdownHandle};
use self::slots::Kind;
use crate::address::Address;
use crate::error::{Error, Result};
use crate::ids::{ConnectionId, SERVERS_MAX, ServerId, SlotId, WAKER};
use crate::lifecycle::Finish;
use crate::limits::{Config, Limits, READ_BUFFER_BYTES_MAX};
use crate::logging::{note, note_fault};
use crate::machine::{Allowance, Due, Slice, nanos};
use crate::net::family::Bound;
use crate::net::packet::Packet;
use crate::net::selector::Selector;
use crate::net::{Socket, Stream};
use crate::panics::{catch, drop_caught};
use crate::stats::Stats;

/// The event loop: one thread, any number of servers and connections.
///
/// [`TcpServer`](crate::TcpServer) brings its own; make one yourself to host several servers, or to be driven by
/// another loop with [`poll`](Self::poll).
///
/// Dropping it closes its servers: every handler gets its `finish`. Meanwhile no server is added and no connection begun.
///
/// ```
/// use socketserver::{Next, Reactor, Request, RequestHandler, Result, TcpServer};
/// use std::io::Write;
///
/// struct Echo;
/// impl RequestHandler for Echo {
///     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
///         request.output.write_all(request.input.take_all())?;
///         Ok(Next::Wait)
///     }
/// }
/// struct Discard;
/// impl RequestHandler for Discard {
///     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
///         request.input.take_all();
///         Ok(Next::Wait)
///     }
/// }
/// let mut reactor = Reactor::new()?;
/// reactor.add(TcpServer::new("127.0.0.1:0", |_| Echo)?)?;
/// reactor.add(TcpServer::new("127.0.0.1:0", |_| Discard)?)?;
/// reactor.shutdown_handle().shutdown(); // or a signal, a handler, another thread
/// reactor.serve_forever()?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub struct Reactor {
    pub(crate) core: Core,
    scratch: Scratch,
    /// By server number.
    servers: Slab<Box<dyn Hosted>>,
    /// The slots of this turn's service.
    batch: Vec<SlotId>,
    /// What other threads have submitted and this turn has taken. Here and not in its own hands, because a closure among
    /// them may drop this reactor, which turns on until threads are done, whose word may be among the rest.
    taken: VecDeque<Command>,
    /// A turn is under way: the one who asks is a closure, and cannot have another.
    turning: bool,
    /// When the events of this turn had been collected: limits that passed later wait for the next one, because bytes
    /// may have come meanwhile.
    collected: u64,
    /// From how many new bytes on the callbacks of the next turn are timed.
    timed_from: usize,
    phase: Phase,
    /// The stop is over: `serve_forever` or `poll` has returned because of it. It may have been carried out earlier, while
    /// a server was closed.
    reported: bool,
    /// A stop was cut short: nobody is waited for any more.
    hurried: bool,
}

/// The buffers that all connections share, so that an idle one owns none.
pub(crate) struct Scratch {
    /// What is read lands here.
    pub(crate) input: Box<[u8]>,
    /// What a callback writes is gathered here.
    pub(crate) output: Vec<u8>,
    /// Where in `input` the datagrams of the last receive lie.
    pub(crate) packets: Vec<Packet>,
    /// What the connection that is being served may still do.
    pub(crate) allowance: Allowance,
}

/// A server as the loop sees it, whatever its state and handler types: one dynamic call for all that is ready, none
/// for each byte.
pub(crate) trait Hosted: Send {
    /// Lets each of its connections at the head of `batch` do what is due, within its budget. Returns how many it were:
    /// the first that is something else, or somebody else's, ends it.
    fn service(&mut self, core: &mut Core, scratch: &mut Scratch, batch: &[SlotId]) -> usize;
    /// Accepts what waits at a listener, within its budget.
    fn accept(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32);
    /// Receives what waits at a datagram socket, within its budget, and sends what there is to send.
    fn receive(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32);
    /// Takes a connection in: verified, given a handler, set up.
    fn admit(&mut self, core: &mut Core, scratch: &mut Scratch, stream: Stream, from: Address) -> io::Result<()>;
    /// A limit of a connection has passed.
    fn on_due(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, due: Due);
    /// An outbound connection could not be established.
    fn on_connect_failed(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, error: io::Error);
    fn on_timer(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, tag: u64);
    fn on_message(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, message: Result<Message>);
    /// A request of this client that was served elsewhere is over, perhaps because it was ended.
    fn on_over(&mut self, core: &mut Core, client: &Address, ended: Option<Finish>, result: Result<()>);
    fn on_server_timer(&mut self, core: &mut Core, tag: u64);
    fn on_server_message(&mut self, core: &mut Core, message: Message);
    fn service_actions(&mut self, core: &mut Core);
    fn handle_timeout(&mut self, core: &mut Core);
    /// Fails with [`Error::Panicked`] if the hook panics.
    fn server_bind(&mut self, socket: &Socket, address: &Address) -> Result<io::Result<()>>;
    fn server_activate(&mut self, socket: &Socket, request_queue_size: i32) -> Result<io::Result<()>>;
    fn server_close(&mut self, core: &mut Core);
    /// Drops what is the user's, each by itself. Returns how many panics that cost.
    fn dissolve(self: Box<Self>) -> u64;
    fn set_number(&mut self, number: u16);
    fn set_limits(&mut self, limits: Arc<Limits>);
    /// The user's server value.
    fn state(&mut self) -> &mut dyn Any;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Stopping; connections are let go as they fall quiet.
    Draining,
    /// Stopping; nobody is waited for any more.
    Aborting,
    /// Stopped: `serve_forever` returns.
    Stopped,
}

impl Reactor {
    /// Makes a reactor with the default [`Config`].
    ///
    /// # Errors
    /// [`Error::Reactor`] if the system has no descriptors or memory left.
    pub fn new() -> Result<Self> {
        Reactor::with_config(Config::default())
    }

    /// Makes a reactor with settings of your own.
    ///
    /// # Errors
    /// As for [`new`](Self::new); [`Error::Setting`] if a setting cannot be honoured.
    pub fn with_config(config: Config) -> Result<Self> {
        config.check()?;
        let failed = |source| Error::Reactor { doing: "create the selector", source };
        let selector = Selector::system().map_err(failed)?;
        Reactor::with_selector(selector, config).map_err(failed)
    }

    pub(crate) fn with_selector(selector: Selector, config: Config) -> io::Result<Self> {
        let waker = Arc::new(selector.waker(WAKER)?);
        let allowance = Allowance::new(selector.clock());
        Ok(Reactor {
            core: Core::new(selector, waker, config),
            scratch: Scratch { input: Box::default(), output: Vec::new(), packets: Vec::new(), allowance },
            servers: Slab::new(),
            batch: Vec::new(),
            taken: VecDeque::new(),
            collected: 0,
            timed_from: TIMED_BYTES,
            turning: false,
            phase: Phase::Serving,
            reported: false,
            hurried: false,
        })
    }

    /// Changes the settings, also of what is open and of a stop that is under way. `read_buffer_bytes` counts only before
    /// the first turn.
    pub fn set_config(&mut self, config: Config) {
        self.core.shared.set_max(config.messages_max);
        self.core.set_config(config);
    }

    /// The settings in force.
    pub fn config(&self) -> &Config {
        &self.core.config
    }

    /// Changes the limits of a server, also while it serves. What is open is held to the new ones: time limits are those
    /// from now on, and a connection that holds more than a lowered limit allows ends, with
    /// [`Finish::InputLimit`] or [`Finish::OutputLimit`]. A lowered number of connections, sessions, threads or programs
    /// ends none; there are no new ones until there are few enough.
    ///
    /// A [`Server`](crate::Server) with a reactor of its own calls this when it starts to serve, with its own
    /// [`limits`](crate::Server::limits).
    ///
    /// # Errors
    /// [`Error::Setting`] for limits that contradict each other, and then nothing is changed. [`Error::Gone`] if there is
    /// no such server.
    ///
    /// ```
    /// # use socketserver::{Limits, NoHandler, Reactor, TcpServer};
    /// let mut reactor = Reactor::new()?;
    /// let id = reactor.add(TcpServer::new("127.0.0.1:0", |_| NoHandler)?)?;
    /// // From another thread, while the reactor serves:
    /// reactor.handle().run(move |reactor| {
    ///     let mut limits = Limits::default();
    ///     limits.connections_max = Some(100);
    ///     reactor.set_limits(id, limits).expect("they do not contradict each other");
    /// })?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn set_limits(&mut self, id: ServerId, limits: Limits) -> Result<()> {
        let limits = Arc::new(limits.resolved()?);
        let server = self.core.server(id).ok_or(Error::Gone)?;
        if self.core.served[usize::from(server)].limits != limits {
            self.core.set_limits(server, Arc::clone(&limits));
            self.servers[usize::from(server)].set_limits(limits);
        }
        Ok(())
    }

    /// The limits of a server as they are in force: what was not set follows what was. `None` if there is no such server.
    pub fn limits(&self, id: ServerId) -> Option<&Limits> {
        let server = self.core.server(id)?;
        Some(&*self.core.served[usize::from(server)].limits)
    }

    /// What has happened so far.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// A way in for other threads.
    pub fn handle(&self) -> Handle {
        self.core.handle()
    }

    /// What stops this reactor.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.handle().shutdown_handle()
    }

    /// Serves until [shut down](ShutdownHandle::shutdown), then returns; at once if a stop was carried out while it did
    /// not serve, as in the middle of [`server_close`](Self::server_close). May be called again afterwards; but the sockets
    /// of the servers that were [added](Self::add) are closed by then. Their values can still be read; they are
    /// [closed](Self::server_close) and dropped when it serves again or another server is added. So it serves what is
    /// added anew, and waits if there is nothing. (A [`TcpServer`](crate::TcpServer) with a reactor of its own binds its
    /// addresses again.)
    ///
    /// # Errors
    /// [`Error::Reactor`] if the selector fails, or if a closure that the loop runs ([`Handle::run`]) calls this: the loop
    /// cannot run inside of itself. Nothing that a client or a handler does ends it.
    ///
    /// Source: `BaseServer.serve_forever`, without its `poll_interval`: nothing here is polled.
    pub fn serve_forever(&mut self) -> Result<()> {
        self.serve_again()?;
        while !self.report_stop() {
            self.turn(None)?;
        }
        Ok(())
    }

    /// One turn, for a foreign loop: waits for events at most `wait` (`None`: until there is one), and serves them.
    /// Returns false once the reactor has stopped; called again, it serves again, like
    /// [`serve_forever`](Self::serve_forever).
    ///
    /// A foreign loop waits until the reactor's descriptor is readable, at most
    /// [`next_timeout`](Self::next_timeout), then calls this with a `wait` of zero.
    ///
    /// # Errors
    /// As for [`serve_forever`](Self::serve_forever).
    pub fn poll(&mut self, wait: Option<Duration>) -> Result<bool> {
        self.serve_again()?;
        if self.phase != Phase::Stopped {
            self.turn(wait)?;
        }
        Ok(!self.report_stop())
    }

    /// How long the reactor can be left alone: zero if it has work now, `None` if only an event can bring some.
    pub fn next_timeout(&self) -> Option<Duration> {
        self.timeout_from(self.core.selector.now())
    }

    fn timeout_from(&self, now: u64) -> Option<Duration> {
        if !self.core.ready.is_empty() || self.has_commands() {
            return Some(Duration::ZERO);
        }
        let next = self.core.next_deadline()?;
        Some(Duration::from_nanos(next.saturating_sub(now)))
    }

    // ---- one turn ----

    fn turn(&mut self, wait: Option<Duration>) -> Result<()> {
        self.sleep(wait)?;
        self.turning = true;
        self.service();
        self.timers();
        self.service_actions();
        self.reap();
        self.turning = false;
        Ok(())
    }

    /// Poll and collect: waits for events, reads the clock, and notes in each slot what it is ready for.
    fn sleep(&mut self, wait: Option<Duration>) -> Result<()> {
        self.allocate();
        // The clock was read at the end of the last service: a little stale is a little late, never early.
        let wait = match (wait, self.timeout_from(self.core.now)) {
            (Some(wait), Some(timeout)) => Some(wait.min(timeout)),
            (wait, timeout) => wait.or(timeout),
        };
        let failed = |source| Error::Reactor { doing: "wait for events", source };
        self.core.selector.poll(wait).map_err(failed)?;
        let mut more = self.collect();
        self.core.now = self.core.selector.now();
        self.collected = self.core.now;
        self.core.stats.turns += 1;
        // Deadlines have passed: before anyone is held to them, look once more for bytes that wait. After a stop
        // (SIGSTOP, a suspended machine) poll may come back late and empty.
        more |= self.core.next_deadline().is_some_and(|next| next <= self.core.now);
        for _ in 0..POLLS_MAX {
            if !more {
                break;
            }
            self.core.selector.poll(Some(Duration::ZERO)).map_err(failed)?;
            more = self.collect();
        }
        Ok(())
    }

    /// Sets marks and nothing else. Says whether there may be more events to fetch.
    fn collect(&mut self) -> bool {
        let core = &mut self.core;
        let (slots, ready, stats) = (&mut core.slots, &mut core.ready, &mut core.stats);
        core.selector.each(|token, readiness| match slots.live(token) {
            Some((key, slot)) => {
                if slot.kind.on_event(readiness) && !slot.queued {
                    slot.queued = true;
                    ready.push(slot.id(key));
                }
            }
            None => stats.stale_events += u64::from(token != WAKER),
        })
    }

    /// Serves each slot of the ready queue once, within its budget and its share of the turn. What becomes ready meanwhile
    /// waits its turn.
    fn service(&mut self) {
        if self.has_commands() {
            self.commands();
            self.core.now = self.core.selector.now(); // They took their time.
        }
        let turn = &mut self.scratch.allowance.turn;
        turn.begin(self.core.now, nanos(self.core.config.turn_length));
        turn.timed_from = if self.core.config.slow_callback.is_some() { 0 } else { self.timed_from };
        let mut batch = std::mem::take(&mut self.batch);
        self.core.ready.take(&mut batch);
        let mut rest = &batch[..];
        while let Some((&entry, after)) = rest.split_first() {
            let Some(slot) = self.core.slots.entry(entry) else {
                rest = after;
                continue;
            };
            let key = entry.key;
            let server = usize::from(slot.server);
            if matches!(slot.kind, Kind::Connection(_)) {
                let served = self.servers[server].service(&mut self.core, &mut self.scratch, rest);
                debug_assert!(served > 0, "the first of them is one of its connections");
                rest = &rest[served..];
                continue;
            }
            rest = after;
            slot.queued = false;
            self.scratch.allowance.turn.waiting = rest.len() + 1;
            match &mut slot.kind {
                Kind::Connection(_) | Kind::Lent | Kind::Elsewhere(_) => {}
                Kind::Listener(_) => {
                    self.servers[server].accept(&mut self.core, &mut self.scratch, key);
                }
                Kind::Endpoint(_) => {
                    self.servers[server].receive(&mut self.core, &mut self.scratch, key);
                }
                #[cfg(all(unix, feature = "signals"))]
                Kind::Signals(signals) => {
                    let stop = ShutdownHandle::new(Arc::clone(&self.core.shared));
                    signals.deliver(&stop);
                }
            }
        }
        if !batch.is_empty() {
            self.correct_stamps(&batch);
        }
        self.batch = batch;
    }

    /// The clock is read once before a batch, and connections are stamped with that. If the batch took long, the
    /// stamps are too old by as much, and a limit could seem to pass early: then they are set right.
    fn correct_stamps(&mut self, batch: &[SlotId]) {
        let begun = self.core.now;
        self.core.now = self.core.selector.now();
        if self.core.now - begun > STAMP_ERROR_MAX {
            for &entry in batch {
                if let Some(Kind::Connection(connection)) = self.core.slots.entry(entry).map(|slot| &mut slot.kind) {
                    connection.restamp(begun, self.core.now);
                }
            }
        }
        let took = self.core.now - begun;
        let longest = &mut self.core.stats.longest_turn;
        *longest = (*longest).max(Duration::from_nanos(took));
        // What is usually too little to be worth a look at the clock may be what the turn is made of.
        self.timed_from = if self.scratch.allowance.turn.is_long(self.core.now) { 0 } else { TIMED_BYTES };
    }

    fn has_commands(&self) -> bool {
        self.core.shared.is_pending() || !self.taken.is_empty()
    }

    /// Messages, closures and stop requests from other threads.
    fn commands(&mut self) {
        if self.taken.is_empty() {
            self.taken.extend(self.core.shared.take(self.core.config.messages_per_turn));
        }
        let slice = self.part_of_turn();
        while let Some(command) = self.taken.pop_front() {
            self.scratch.allowance.turn.waiting = self.taken.len() + 1;
            match command {
                Command::Message(id, message) => self.deliver(id, Ok(message)),
                Command::Offloaded(id, result) => {
                    self.core.slots.find(id).into_iter().for_each(|(_, connection)| connection.state.end_job());
                    self.deliver(id, result);
                }
                Command::Over(id, result) => self.over(id, result),
                Command::Datagram(socket, route, to, bytes) => match self.core.slots.named(socket).is_some() {
                    true => _ = self.core.send_datagram(route, &to, &bytes),
                    false => self.core.stats.datagrams_failed += 1,
                },
                Command::ServerMessage(id, message) => match self.core.open_server(id) {
                    Some(server) => self.servers[usize::from(server)].on_server_message(&mut self.core, message),
                    None => self.core.refuse(message),
                },
                Command::Run(job) => {
                    if let Err(panic) = catch(|| job(self)) {
                        self.core.stats.panics += 1;
                        note_fault!(Error, "a closure submitted to the reactor {panic}");
                    }
                }
            }
            if slice.is_over(&self.scratch.allowance.turn) {
                break;
            }
        }
    }

    /// Begins what is done besides the service of what is ready: a quarter of a turn each for messages, limits and
    /// timers. What is left then comes in the next turn, and at least one of each in every turn.
    fn part_of_turn(&mut self) -> Slice {
        let now = self.core.selector.now();
        let turn = &mut self.scratch.allowance.turn;
        turn.begin(now, nanos(self.core.config.turn_length) / 4);
        Slice::rest_of(turn, now)
    }

    fn deliver(&mut self, id: ConnectionId, message: Result<Message>) {
        match self.core.slots.find(id) {
            Some((server, _)) => {
                self.servers[usize::from(server)].on_message(&mut self.core, &mut self.scratch, id.slot.key, message);
            }
            None => {
                if self.core.slots.is_elsewhere(id) {
                    note_fault!(Warn, "a message for connection {id} is dropped: a request on a thread takes none");
                }
                self.core.refuse(message);
            }
        }
    }

    /// A request that was served elsewhere is over.
    fn over(&mut self, id: ConnectionId, result: Result<()>) {
        let Some(slot) = self.core.slots.named(id) else { return };
        let server = usize::from(slot.server);
        if let Some(elsewhere) = slot.kind.elsewhere() {
            let (address, ended) = (elsewhere.address.clone(), elsewhere.ended);
            self.servers[server].on_over(&mut self.core, &address, ended, result);
            self.core.dead.push(id.slot.key);
        }
    }

    /// What is due. What a callback arms meanwhile waits for the next turn, even with a deadline of now.
    fn timers(&mut self) {
        if self.core.next_deadline().is_none_or(|next| next > self.collected) {
            return;
        }
        let slice = self.part_of_turn();
        for _ in 0..self.core.guards.len() {
            let Some(key) = self.core.guards.pop(self.collected) else { break };
            self.on_deadline(key);
            if slice.is_over(&self.scratch.allowance.turn) {
                break;
            }
        }
        let slice = self.part_of_turn();
        let mut postponed = Vec::new();
        for _ in 0..self.core.timers.len() {
            let Some(alarm) = self.core.timers.pop(self.collected) else {
                break;
            };
            if self.core.awaits_setup(alarm) {
                postponed.push(alarm);
                continue;
            }
            self.core.forget_timer(alarm);
            match alarm {
                Alarm::Handler { key, tag } => {
                    let server = self.core.slots.get(key).expect("timers go with their connection").server;
                    self.servers[usize::from(server)].on_timer(&mut self.core, &mut self.scratch, key, tag);
                }
                Alarm::Server { server, tag } => self.servers[usize::from(server)].on_server_timer(&mut self.core, tag),
                Alarm::Resume(key) => self.core.queue(key),
                Alarm::Resend(key) => self.core.resend(key),
                Alarm::Redial { key, backoff } => {
                    if let Err(error) = self.core.redial(key, backoff) {
                        let server = self.core.slots.get(key).expect("timers go with their connection").server;
                        let server = &mut self.servers[usize::from(server)];
                        server.on_connect_failed(&mut self.core, &mut self.scratch, key, error);
                    }
                }
                Alarm::Child(key) => self.core.child_timed_out(key),
                Alarm::DrainLook => self.look_elsewhere(),
                Alarm::DrainTell => self.tell_all(),
                Alarm::DrainEnd => self.phase = Phase::Aborting,
                Alarm::CloseLook(server) => self.core.look_closing(server),
            }
            if slice.is_over(&self.scratch.allowance.turn) {
                break;
            }
        }
        postponed.into_iter().for_each(|alarm| self.core.postpone(alarm, self.collected));
        self.core.now = self.core.selector.now(); // Callbacks took their time, and the next wait counts from here.
    }

    /// A connection's timer fired. It was armed for the earliest limit there was; the stamps say what holds now.
    fn on_deadline(&mut self, key: u32) {
        if !self.core.guard_fired(key) {
            return;
        }
        let server = usize::from(self.core.slots.get(key).expect("it has a connection").server);
        let quiet = self.core.config.drain_quiet;
        match self.core.slots.connection(key).deadline(&self.core.served[server].limits, quiet) {
            Some((deadline, due)) if deadline <= self.core.now => {
                self.servers[server].on_due(&mut self.core, &mut self.scratch, key, due);
            }
            // Not due after all: bytes have moved since.
            _ => {
                let limits = Arc::clone(&self.core.served[server].limits);
                let mut lent = self.core.slots.lend(key);
                self.core.watch(key, lent.connection(), &limits);
                self.core.slots.give_back(key, lent);
            }
        }
    }

    fn service_actions(&mut self) {
        if self.phase == Phase::Serving && self.core.shared.drain_requested() {
            self.begin_drain();
        }
        if self.phase == Phase::Draining && self.core.shared.now_requested() {
            self.phase = Phase::Aborting;
            self.hurried = true;
        }
        if self.phase == Phase::Aborting {
            self.abort_all();
        }
        for (number, server) in &mut self.servers {
            if !self.core.served[number].is_closed() {
                server.service_actions(&mut self.core);
            }
        }
    }

    /// The only place where connections are freed, after the last event of the turn.
    fn reap(&mut self) {
        if !self.core.dead.is_empty() {
            self.free_dead();
        }
        if let Some(error) = self.core.not_registered.take() {
            self.core.pause_all(&error);
        }
        if matches!(self.phase, Phase::Draining | Phase::Aborting) && self.is_over() {
            self.stopped();
        }
        if !self.core.closing.is_empty() {
            self.go_on_closing();
        }
        if cfg!(debug_assertions) && self.core.slots.len() < CHECKED_SLOTS_MAX {
            self.check();
        }
    }

    /// Accepts one client of one server and serves until its connection is over.
    pub(crate) fn handle_request(&mut self, id: ServerId, timeout: Option<Duration>) -> Result<()> {
        self.serve_again()?;
        let server = self.core.server(id).ok_or(Error::Gone)?;
        self.core.set_quota(server, 1);
        let deadline = timeout.map(|timeout| self.core.selector.now().saturating_add(nanos(timeout)));
        while self.phase != Phase::Stopped {
            // A closure may have closed it, or put another reactor in the place of this one.
            let Some(served) = self.core.open_server(id).map(|server| &self.core.served[usize::from(server)]) else {
                break;
            };
            let accepted = served.quota == 0;
            if accepted && served.active == served.sessions + served.elsewhere {
                break;
            }
            let left = deadline.map(|deadline| deadline.saturating_sub(self.core.selector.now()));
            self.turn(left.filter(|_| !accepted).map(Duration::from_nanos))?;
            let waits = |server: u16| self.core.served[usize::from(server)].quota > 0;
            if left == Some(0) && !accepted && self.core.open_server(id).is_some_and(waits) {
                self.servers[usize::from(server)].handle_timeout(&mut self.core);
                break;
            }
        }
        if self.core.server(id).is_some() {
            self.core.set_quota(server, usize::MAX);
        }
        Ok(())
    }

    fn free_dead(&mut self) {
        let mut dead = std::mem::take(&mut self.core.dead);
        dead.drain(..).for_each(|key| self.core.reap(key));
        self.core.dead = dead; // For its memory.
        self.core.resume_accepting();
    }

    // ---- servers ----

    /// Takes a server in.
    pub(crate) fn host(&mut self, server: Box<dyn Hosted>, limits: Limits) -> Result<ServerId> {
        self.host_as(server, limits, false)
    }

    /// The same for the one that this reactor is made for: it stays when it is closed, and may be bound again.
    pub(crate) fn host_own(&mut self, server: Box<dyn Hosted>, limits: Limits) -> Result<ServerId> {
        self.host_as(server, limits, true)
    }

    fn host_as(&mut self, mut server: Box<dyn Hosted>, limits: Limits, own: bool) -> Result<ServerId> {
        if let Err(error) = self.admits_server() {
            self.dissolve(server);
            return Err(error);
        }
        let limits = match limits.resolved() {
            Ok(limits) => Arc::new(limits),
            Err(error) => {
                self.dissolve(server);
                return Err(error);
            }
        };
        let id = self.core.serve(Arc::clone(&limits), own);
        server.set_number(id.number);
        server.set_limits(limits);
        let key = self.servers.insert(server);
        debug_assert_eq!(key, usize::from(id.number), "the two tables go together");
        Ok(id)
    }

    /// Whether there is room for one server more. Those whose sockets a stop has closed make room.
    pub(crate) fn admits_server(&mut self) -> Result<()> {
        if self.core.ends {
            return Err(Error::Gone);
        }
        self.close_stopped();
        if self.servers.len() == SERVERS_MAX {
            return Err(Error::Full { queue: "server", max: SERVERS_MAX });
        }
        Ok(())
    }

    /// What is the user's goes, and may panic.
    fn dissolve(&mut self, server: Box<dyn Hosted>) {
        let panics = server.dissolve();
        self.core.stats.panics += panics;
        if panics > 0 {
            note_fault!(Error, "a server, or what it holds, panicked while it was dropped");
        }
    }

    /// Its number is another's from now on.
    fn remove(&mut self, server: u16) -> Box<dyn Hosted> {
        self.core.served.remove(usize::from(server));
        self.servers.remove(usize::from(server))
    }

    pub(crate) fn open(&mut self, id: ServerId, bound: Bound) -> Result<()> {
        note!(Info, "listening on {}", bound.address());
        let server = self.core.server(id).ok_or(Error::Gone)?;
        self.core.open(server, bound)
    }

    /// # Errors
    /// [`Error::Gone`] if there is no such server: another reactor was put in the place of its own.
    pub(crate) fn hosted(&mut self, id: ServerId) -> Result<&mut dyn Hosted> {
        let server = self.core.server(id).ok_or(Error::Gone)?;
        Ok(&mut *self.servers[usize::from(server)])
    }

    /// Takes in a connection that did not come from a listener of ours.
    pub(crate) fn admit(&mut self, id: ServerId, stream: Stream, from: Address) -> io::Result<()> {
        self.allocate();
        self.servers[usize::from(id.number)].admit(&mut self.core, &mut self.scratch, stream, from)
    }

    /// The addresses a server listens on, with the real ports. Empty once it is closed.
    pub fn server_addresses(&mut self, id: ServerId) -> Vec<Address> {
        let server = self.core.server(id);
        let keys = server.map(|server| self.core.served[usize::from(server)].listeners.clone()).unwrap_or_default();
        keys.into_iter().filter_map(|key| self.core.slots.bound(key).cloned()).collect()
    }

    /// Closes a server: its listeners at once, its connections by abort; every handler gets its `finish`, with
    /// [`Finish::ShutDown`]. Then its value and the closure that makes its handlers are dropped, and its id names nothing
    /// any more. (A [`Server`](crate::Server) that has this reactor of its own keeps them, and can be bound again.)
    /// Nothing happens if there is no such server, or it is being closed already.
    ///
    /// For requests that threads or programs serve it waits, as [`Limits::block_on_close`] says, and their datagrams are
    /// still sent; the other servers are served meanwhile. If a stop comes in that time, it is carried out, and
    /// [`serve_forever`](Self::serve_forever) returns at once. Called by a closure ([`Handle::run`]), which the loop has to
    /// get back, it does not wait: the turns that follow do the rest. Not to be called from a callback, which has
    /// [`request_shutdown`](crate::Request::request_shutdown).
    ///
    /// Source: `BaseServer.server_close`.
    pub fn server_close(&mut self, id: ServerId) {
        if let Some(server) = self.core.server(id) {
            self.close(server);
            self.await_closed(id);
        }
    }

    /// The server's own value, if it is an `S`: what handlers see as `request.server`. `None` if there is no such server,
    /// or not any more.
    pub fn server_mut<S: 'static>(&mut self, id: ServerId) -> Option<&mut S> {
        self.hosted(id).ok()?.state().downcast_mut()
    }

    /// Sets a timer of a server, as [`Control::set_timer`](crate::Control::set_timer) does, from outside its hooks.
    /// Nothing happens if there is no such server, or it is closed.
    pub fn set_timer(&mut self, id: ServerId, tag: u64, after: Duration) {
        if let Some(server) = self.core.open_server(id) {
            self.core.set_server_timer(server, tag, after);
        }
    }

    /// Makes SIGINT and SIGTERM [shut the reactor down](ShutdownHandle::shutdown), and a second one
    /// [cut it short](ShutdownHandle::shutdown_now), as long as the reactor lives. When no reactor is left that watches for
    /// them, they do again what they do by default, or what handlers did that the program had before: install your own
    /// before you call this.
    ///
    /// A signal that is ignored when this is first called stays ignored, as nohup(1) and background jobs of shells expect.
    /// That is read from `/proc`, so on Linux only. One that is blocked stays blocked, with a warning in the log.
    /// On Windows, which has neither signal, this does nothing.
    ///
    /// Source: Python's `signal`, which leaves an ignored SIGINT alone as well.
    ///
    /// # Errors
    /// [`Error::Reactor`] if they cannot be installed.
    #[cfg(feature = "signals")]
    pub fn shutdown_on_signals(&mut self) -> Result<()> {
        let failed = |source| Error::Reactor { doing: "watch for signals", source };
        signals::watch(&mut self.core).map_err(failed)
    }

    #[cfg(feature = "signals")]
    pub(crate) fn watches_signals(&mut self) -> bool {
        signals::is_watching(&mut self.core)
    }

    /// The shared buffers come with the first turn: a reactor that only waits to be moved has none.
    fn allocate(&mut self) {
        let (has, needed) = (self.scratch.input.len(), self.core.read_buffer_bytes_min);
        if has == 0 || has < needed {
            self.scratch.input =
                vec![0; self.core.config.read_buffer_bytes.min(READ_BUFFER_BYTES_MAX).max(needed).max(1)].into();
        }
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.core.ends = true;
        self.turning = false; // A closure may have put another in its place, in the middle of a turn.
        loop {
            self.close_all(None);
            if self.servers.is_empty() {
                break;
            }
            self.turn_or_hurry();
        }
        let waiting = std::mem::take(&mut self.taken).into_iter().chain(self.core.shared.close());
        // One by one: dropping a message may run anything.
        waiting.for_each(|command| _ = drop_caught(command));
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").field("servers", &self.servers.len()).field("stats", &self.core.stats).finish()
    }
}

/// The selector's descriptor (epoll or kqueue): readable when the reactor has events.
#[cfg(unix)]
impl std::os::fd::AsFd for Reactor {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.core.selector.as_fd().expect("only the testing kit's reactor has no descriptor, and it is not handed out")
    }
}

#[cfg(unix)]
impl std::os::fd::AsRawFd for Reactor {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsFd::as_fd(self).as_raw_fd()
    }
}

/// How far a connection's stamp may lag behind the clock: a turn shorter than this is not corrected.
const STAMP_ERROR_MAX: u64 = 1_000_000;
/// A callback that is shown so many new bytes is timed.
const TIMED_BYTES: usize = 16 * 1024;
/// With more slots than these, looking at all of them after each turn would make debug builds useless.
const CHECKED_SLOTS_MAX: usize = 256;
/// Polls to empty the kernel's list of events in one turn: 65,536 events.
const POLLS_MAX: u32 = 64;
