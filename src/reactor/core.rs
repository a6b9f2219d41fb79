//! What the loop and the running callback share: slots, queue, timers, counters. No handler and no server is in it,
//! which is what lets a handler reach every other connection while it is borrowed itself.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use super::handle::{Handle, Message, Shared};
use super::pool::Pool;
use super::ready::Ready;
use super::slots::{Kind, Slots};
use super::stopping::LOOK;
use crate::address::Address;
use crate::backoff::Backoff;
use crate::error::{Error, Result};
use crate::ids::{ConnectionId, NO_SLOT, ServerId};
use crate::lifecycle::{Finish, Timeout};
use crate::limits::{Config, Limits, connections_from_descriptors};
use crate::machine::{Connection, Payload, Sent, State, nanos};
use crate::net::Stream;
use crate::net::selector::{Selector, Waker};
use crate::panics::{catch, drop_caught};
use crate::shared_bytes::SharedBytes;
use crate::stats::Stats;
use crate::timers::{Deadlines, NO_TIMER, TimerKey, Timers};

pub(crate) struct Core {
    pub(crate) selector: Selector,
    pub(crate) slots: Slots,
    pub(crate) ready: Ready,
    pub(crate) timers: Timers<Alarm>,
    /// By slot: the timer that watches over the limits of the connection in it. It stays when the connection goes, and
    /// serves the next one in that slot, so that a short-lived connection arms and cancels nothing.
    pub(crate) guards: Deadlines,
    /// Connections that ended in this turn.
    pub(crate) dead: Vec<u32>,
    /// The clock as last read, in nanoseconds.
    pub(crate) now: u64,
    pub(crate) stats: Stats,
    pub(crate) config: Config,
    pub(crate) shared: Arc<Shared>,
    /// Kept for the handles, which may outlive the reactor and then have no descriptor of it.
    _waker: Arc<Waker>,
    /// By server number. The number of a server that is gone is given out again, its id is not.
    pub(crate) served: Slab<Served>,
    /// Servers that had an id.
    servers_made: u32,
    /// Servers that are being closed and wait for their threads and programs.
    pub(super) closing: Vec<u16>,
    /// The reactor is being dropped, and takes no new work.
    pub(super) ends: bool,
    /// Connections the process may have, for servers that set no number of their own.
    pub(super) connections_max: usize,
    /// The reactor is stopping: new connections are asked to end like the others; no more are begun.
    pub(crate) draining: bool,
    pub(crate) aborting: bool,
    drain_look: TimerKey,
    drain_tell: TimerKey,
    drain_end: TimerKey,
    drain_begun: u64,
    pool: Option<Pool>,
    /// What the read buffer has to hold at least, for the datagrams of some server.
    pub(crate) read_buffer_bytes_min: usize,
    /// The datagram socket that is being received from: what is sent through it meanwhile leaves when that is done.
    pub(crate) receiving: u32,
    /// Why a connection could not be registered in this turn.
    pub(crate) not_registered: Option<std::io::Error>,
}

/// Where a server stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It may serve. Its sockets are gone if it was `stopped`.
    Open { stopped: bool },
    /// Its sockets and connections are gone; its threads and programs are waited for, and looked at with this timer.
    Closing { begun: u64, look: TimerKey },
    /// Its hook `server_close` was called, and no other is. Only a [`Server`](crate::Server)'s own server can come to
    /// be open again, when it is bound; others are gone.
    Closed,
}

/// What the reactor keeps of each server.
pub(crate) struct Served {
    pub(crate) id: ServerId,
    pub(crate) life: Life,
    /// It is the one that this reactor was made for, and stays when it is closed.
    pub(super) own: bool,
    pub(crate) limits: Arc<Limits>,
    /// Keys of its listeners and datagram sockets.
    pub(crate) listeners: Vec<u32>,
    pub(crate) active: usize,
    /// How many of those are sessions of a datagram server, which wait for no end.
    pub(crate) sessions: usize,
    /// How many of them are served by threads or programs, and their threads.
    pub(crate) elsewhere: usize,
    pub(crate) threads: Option<Pool>,
    #[cfg(all(unix, feature = "children"))]
    pub(crate) children: Option<Pool>,
    /// Accepting waits until connections have closed.
    pub(crate) capped: bool,
    /// Connections it may still accept; `handle_request` allows one.
    pub(crate) quota: usize,
    /// Open connections by client, kept only while there is a cap on them.
    per_client: HashMap<IpAddr, usize>,
    pub(super) timers: BTreeMap<u64, TimerKey>,
}

impl Served {
    /// Whether it has no sockets and no hooks.
    pub(crate) fn is_closed(&self) -> bool {
        self.life == Life::Closed
    }

    /// Whether closing it waits for its threads and programs.
    pub(super) fn waits(&self) -> bool {
        self.limits.block_on_close && !self.limits.daemon_threads
    }

    #[cold]
    fn forget_client(&mut self, address: &Address) {
        let Some(ip) = address.ip() else { return };
        if let Some(open) = self.per_client.get_mut(&ip) {
            *open -= 1;
            if *open == 0 {
                self.per_client.remove(&ip);
            }
        }
    }
}

/// Whom a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alarm {
    /// A handler's own timer.
    Handler {
        key: u32,
        tag: u64,
    },
    /// A server's own timer.
    Server {
        server: u16,
        tag: u64,
    },
    /// Try accepting or receiving again.
    Resume(u32),
    /// Try again to send the datagrams that wait.
    Resend(u32),
    /// Try again to connect, and how long to wait after that.
    Redial {
        key: u32,
        backoff: Backoff,
    },
    /// A program has had its time.
    Child(u32),
    /// Stopping: look for quiet threads; tell those who are still busy; wait no longer.
    DrainLook,
    DrainTell,
    DrainEnd,
    /// The same while a server is closed.
    CloseLook(u16),
}

impl Core {
    pub(crate) fn new(selector: Selector, waker: Arc<Waker>, config: Config) -> Self {
        let now = selector.now();
        let shared = Shared::new(&waker, config.messages_max);
        Core {
            selector,
            slots: Slots::new(),
            ready: Ready::default(),
            timers: Timers::new(),
            guards: Deadlines::default(),
            dead: Vec::new(),
            now,
            stats: Stats::default(),
            config,
            shared,
            _waker: waker,
            served: Slab::new(),
            servers_made: 0,
            closing: Vec::new(),
            ends: false,
            connections_max: connections_from_descriptors().unwrap_or(CONNECTIONS_MAX),
            draining: false,
            aborting: false,
            drain_begun: 0,
            drain_look: NO_TIMER,
            drain_tell: NO_TIMER,
            drain_end: NO_TIMER,
            pool: None,
            read_buffer_bytes_min: 0,
            receiving: NO_SLOT,
            not_registered: None,
        }
    }

    pub(crate) fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.shared), self.slots.reactor)
    }

    /// The number of a server, if the id is ours and it is still there.
    pub(crate) fn server(&self, id: ServerId) -> Option<u16> {
        self.served.get(usize::from(id.number)).is_some_and(|served| served.id == id).then_some(id.number)
    }

    /// The same of a server that is not closed.
    pub(crate) fn open_server(&self, id: ServerId) -> Option<u16> {
        self.server(id).filter(|&server| !self.served[usize::from(server)].is_closed())
    }

    /// Puts a slot in the ready queue, unless it is there.
    #[inline]
    pub(crate) fn queue(&mut self, key: u32) {
        if let Some(slot) = self.slots.get(key).filter(|slot| !slot.queued) {
            slot.queued = true;
            self.ready.push(slot.id(key));
        }
    }

    /// The same for one that has had its share and is to go on: behind all that becomes ready until the next turn.
    pub(crate) fn queue_again(&mut self, key: u32) {
        if let Some(slot) = self.slots.get(key).filter(|slot| !slot.queued) {
            slot.queued = true;
            self.ready.push_again(slot.id(key));
        }
    }

    // Connections.

    /// Makes a slot for a connection.
    pub(crate) fn insert(&mut self, server: u16, connection: Connection) -> u32 {
        let key = self.slots.insert(server, Kind::Connection(connection));
        self.inserted(server, key);
        key
    }

    fn inserted(&mut self, server: u16, key: u32) {
        let served = &mut self.served[usize::from(server)];
        let connection = self.slots.connection(key);
        served.sessions += usize::from(connection.state.is_datagram());
        let counted = served.limits.connections_per_client_max.is_some() && !connection.state.is_outbound();
        let address = counted.then(|| connection.state.address.clone());
        if self.draining {
            connection.state.drain(self.now, nanos(self.config.drain_quiet));
        }
        self.count_in(server, address.as_ref());
    }

    /// Makes a connection that is to wait for the first time known to the selector, once and for all. The registration
    /// reports what is ready already. If it fails, nothing would wake the connection: it ends, and since the system has no
    /// room for more, accepting pauses. Returns whether it succeeded.
    #[inline(never)]
    pub(crate) fn register(&mut self, key: u32, connection: &mut Connection) -> bool {
        match self.selector.register(&mut connection.io.stream, self.slots.token(key)) {
            Ok(()) => connection.state.set_registered(),
            Err(error) => {
                connection.state.end(Finish::Error, true);
                self.not_registered = Some(error);
            }
        }
        connection.state.is_registered()
    }

    /// One more is open, of a client that is counted if its address is given.
    #[inline]
    pub(crate) fn count_in(&mut self, server: u16, address: Option<&Address>) {
        let served = &mut self.served[usize::from(server)];
        served.active += 1;
        if served.limits.connections_per_client_max.is_some()
            && let Some(ip) = address.and_then(Address::ip)
        {
            *served.per_client.entry(ip).or_default() += 1;
        }
        self.stats.active += 1;
        self.stats.active_max = self.stats.active_max.max(self.stats.active);
    }

    /// One less.
    #[inline]
    pub(crate) fn count_out(&mut self, server: u16, address: &Address, is_outbound: bool) {
        let served = &mut self.served[usize::from(server)];
        served.active -= 1;
        if !served.per_client.is_empty() && !is_outbound {
            served.forget_client(address);
        }
        self.stats.active -= 1;
        self.stats.closed += 1;
        if self.stats.active == 0 {
            // Nothing is left to watch over: an idle reactor has no timer of its own to wake it.
            self.guards.clear_all();
        }
    }

    /// Whether this client may have one connection more.
    pub(crate) fn admits_client(&self, server: u16, address: &Address) -> bool {
        let served = &self.served[usize::from(server)];
        match (served.limits.connections_per_client_max, address.ip()) {
            (Some(max), Some(ip)) => served.per_client.get(&ip).copied().unwrap_or(0) < max,
            _ => true,
        }
    }

    /// Makes sure that a timer fires no later than the next of the connection's limits.
    pub(crate) fn watch(&mut self, key: u32, connection: &mut Connection, limits: &Limits) {
        let deadline = connection.deadline(limits, self.config.drain_quiet);
        let Some((deadline, _)) = deadline else { return };
        connection.state.set_watched(true);
        if self.guards.get(key).is_none_or(|armed| deadline < armed) {
            self.guards.set(key, deadline);
        }
    }

    /// A guard has fired. Says whether there is a connection for it to watch over.
    pub(crate) fn guard_fired(&mut self, key: u32) -> bool {
        match self.slots.get(key).map(|slot| &mut slot.kind) {
            Some(Kind::Connection(connection)) => {
                connection.state.set_watched(false);
                true
            }
            _ => false,
        }
    }

    /// When the next timer of whatever kind is due.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        match (self.guards.next(), self.timers.next()) {
            (Some(guard), Some(timer)) => Some(guard.min(timer)),
            (guard, timer) => guard.or(timer),
        }
    }

    /// Frees a dead slot: a connection's socket is closed here, and only here.
    pub(crate) fn reap(&mut self, key: u32) {
        let slot = self.slots.remove(key);
        let mut connection = match slot.kind {
            Kind::Connection(connection) => connection,
            Kind::Elsewhere(elsewhere) => return self.forget_elsewhere(slot.server, *elsewhere),
            Kind::Endpoint(endpoint) => return drop(self.forget_endpoint(*endpoint)),
            _ => return,
        };
        if connection.state.is_registered() {
            self.selector.forget(&mut connection.io.stream);
        }
        self.cancel_handler_timers(&mut connection.state);
        if let Some(route) = connection.io.stream.route() {
            self.forget_session(route, &connection.state.address, key);
        }
        let served = &mut self.served[usize::from(slot.server)];
        served.sessions -= usize::from(connection.state.is_datagram());
        self.count_out(slot.server, &connection.state.address, connection.state.is_outbound());
    }

    /// The counters, and what is counted only when they are asked for.
    pub(crate) fn stats(&self) -> Stats {
        let mut stats = self.stats.clone();
        let add = |pool: &Option<Pool>, busy: &mut u64, waiting: &mut u64| {
            let (running, queued) = pool.as_ref().map_or((0, 0), Pool::counts);
            (*busy, *waiting) = (*busy + running, *waiting + queued);
        };
        add(&self.pool, &mut stats.offload_busy, &mut stats.offload_waiting);
        for (_, served) in &self.served {
            add(&served.threads, &mut stats.threads_busy, &mut stats.requests_waiting);
            #[cfg(all(unix, feature = "children"))]
            add(&served.children, &mut stats.children_busy, &mut stats.requests_waiting);
        }
        stats
    }

    /// Counts why a connection ended.
    pub(crate) fn count(&mut self, why: Finish) {
        let stats = &mut self.stats;
        *match why {
            Finish::Reset => &mut stats.resets,
            Finish::Timeout(Timeout::Idle) => &mut stats.timeouts_idle,
            Finish::Timeout(Timeout::Read) => &mut stats.timeouts_read,
            Finish::Timeout(Timeout::Write) => &mut stats.timeouts_write,
            Finish::InputLimit => &mut stats.input_limits,
            Finish::OutputLimit => &mut stats.output_limits,
            _ => return,
        } += 1;
    }

    /// A message for which nobody is there.
    pub(crate) fn refuse<T>(&mut self, message: T) {
        self.stats.messages_dropped += 1;
        self.stats.panics += u64::from(!drop_caught(message));
    }

    pub(crate) fn end(&mut self, id: ConnectionId, why: Finish, at_once: bool) {
        if let Some((_, connection)) = self.slots.find(id) {
            connection.state.end(why, at_once);
            self.queue(id.slot.key);
        } else {
            self.end_elsewhere(id, why);
        }
    }

    pub(crate) fn send(&mut self, id: ConnectionId, bytes: Payload<'_>) -> Sent {
        let now = self.now;
        let Some((server, connection)) = self.slots.find(id) else {
            return if self.slots.is_elsewhere(id) { Sent::Refused } else { Sent::Gone };
        };
        if let Some(route) = connection.io.stream.route() {
            if connection.state.is_closing() {
                return Sent::Gone;
            }
            connection.state.activity = now;
            let to = connection.state.address.clone();
            return self.send_datagram(route, &to, bytes.as_slice());
        }
        let sent = connection.push(bytes, &self.served[usize::from(server)].limits, now, &mut self.stats);
        self.queue(id.slot.key);
        sent
    }

    /// Who sent to a connection has had its share: it goes on when that connection's `writable` is called.
    pub(crate) fn owe_writable(&mut self, id: ConnectionId) {
        if let Some((_, connection)) = self.slots.find(id) {
            connection.state.owe_writable();
            self.queue(id.slot.key);
        }
    }

    /// The same payload for every connection of a server that `wanted` admits. Returns how many took it.
    pub(crate) fn broadcast(
        &mut self,
        server: u16,
        bytes: &SharedBytes,
        mut wanted: impl FnMut(ConnectionId) -> bool,
    ) -> usize {
        let limits = Arc::clone(&self.served[usize::from(server)].limits);
        let reactor = self.slots.reactor;
        let mut count = 0;
        let mut datagrams = Vec::new();
        for (key, slot) in self.slots.iter().filter(|(_, slot)| slot.server == server) {
            let id = ConnectionId { slot: slot.id(key), reactor };
            let Kind::Connection(connection) = &mut slot.kind else {
                continue;
            };
            if !connection.state.is_open() || !wanted(id) {
                continue;
            }
            if let Some(route) = connection.io.stream.route() {
                connection.state.activity = self.now;
                datagrams.push((route, connection.state.address.clone()));
                continue;
            }
            let sent = connection.push(Payload::Shared(bytes.clone()), &limits, self.now, &mut self.stats);
            count += usize::from(matches!(sent, Sent::Queued | Sent::Full));
            if !slot.queued {
                slot.queued = true;
                self.ready.push(slot.id(key));
            }
        }
        for (route, to) in datagrams {
            count += usize::from(self.send_datagram(route, &to, bytes) == Sent::Queued);
        }
        count
    }

    pub(crate) fn connect(&mut self, server: u16, address: Address) -> Result<ConnectionId> {
        let failed = |source| Error::Connect { address: address.clone(), source };
        if self.aborting || self.ends {
            return Err(failed(std::io::Error::other("the reactor has stopped")));
        }
        if !matches!(self.served[usize::from(server)].life, Life::Open { .. }) {
            return Err(failed(std::io::Error::other("the server is closed")));
        }
        if self.slots.is_full() {
            return Err(failed(std::io::Error::other("too many connections")));
        }
        let (stream, is_pending) = match self.selector.connect(&address) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => (Stream::pending(), true),
            connected => (connected.map_err(failed)?, false),
        };
        let connection = Connection::connecting(stream, address.clone(), u32::MAX, self.selector.now());
        // Nothing but an event tells how that ends.
        let key = self.slots.insert(server, Kind::Connection(connection));
        let token = self.slots.token(key);
        if let Err(error) = self.selector.register(&mut self.slots.connection(key).io.stream, token) {
            self.slots.remove(key);
            return Err(failed(error));
        }
        self.inserted(server, key);
        self.stats.connects += 1;
        if is_pending {
            self.arm_redial(key, Backoff::default());
        }
        let limits = Arc::clone(&self.served[usize::from(server)].limits);
        let mut lent = self.slots.lend(key);
        self.watch(key, lent.connection(), &limits);
        self.slots.give_back(key, lent);
        Ok(self.slots.id(key))
    }

    fn arm_redial(&mut self, key: u32, mut backoff: Backoff) {
        let next = self.selector.now().saturating_add(nanos(backoff.pause()));
        let timer = self.timers.arm(next, Alarm::Redial { key, backoff });
        self.slots.connection(key).state.extra.get_or_insert_default().redial = Some(timer);
    }

    /// Connects once more, for a connection that is still wanted.
    ///
    /// # Errors
    /// What connect(2) says, except that there is no room: then it is tried again later.
    pub(crate) fn redial(&mut self, key: u32, backoff: Backoff) -> std::io::Result<()> {
        let token = self.slots.token(key);
        let connection = self.slots.connection(key);
        if !connection.state.is_connecting() {
            return Ok(());
        }
        match self.selector.connect(&connection.state.address) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.arm_redial(key, backoff);
                Ok(())
            }
            connected => {
                connection.io.stream = connected?;
                self.selector.register(&mut connection.io.stream, token)
            }
        }
    }

    pub(crate) fn offload(&mut self, connection: ConnectionId, job: Box<dyn FnOnce() -> Message + Send>) -> Result<()> {
        let (threads_max, queue_max) = (self.config.offload_threads, self.config.offload_queue_max);
        let handle = self.handle();
        let pool = self.pool.get_or_insert_with(|| Pool::new("offload", "offload_threads", threads_max, queue_max));
        pool.submit(Box::new(move || handle.deliver(connection, catch(job))))
    }

    // Timers of handlers and servers. They count from the moment they are set, so the clock is read anew.

    pub(crate) fn set_handler_timer(&mut self, key: u32, state: &mut State, tag: u64, after: Duration) {
        let deadline = self.selector.now().saturating_add(nanos(after));
        let timers = &mut state.extra.get_or_insert_default().timers;
        arm(&mut self.timers, timers, tag, deadline, Alarm::Handler { key, tag });
    }

    pub(crate) fn cancel_handler_timer(&mut self, state: &mut State, tag: u64) -> bool {
        match state.extra.as_mut().and_then(|extra| extra.timers.remove(&tag)) {
            Some(timer) => {
                self.timers.cancel(timer);
                true
            }
            None => false,
        }
    }

    /// A connection goes, and its handler's timers with it.
    pub(crate) fn cancel_handler_timers(&mut self, state: &mut State) {
        if let Some(extra) = state.extra.take() {
            for timer in extra.timers.into_values().chain(extra.redial) {
                self.timers.cancel(timer);
            }
        }
    }

    pub(crate) fn set_server_timer(&mut self, server: u16, tag: u64, after: Duration) {
        let deadline = self.selector.now().saturating_add(nanos(after));
        let timers = &mut self.served[usize::from(server)].timers;
        arm(&mut self.timers, timers, tag, deadline, Alarm::Server { server, tag });
    }

    pub(crate) fn cancel_server_timer(&mut self, server: u16, tag: u64) -> bool {
        match self.served[usize::from(server)].timers.remove(&tag) {
            Some(timer) => self.timers.cancel(timer) == Alarm::Server { server, tag },
            None => false,
        }
    }

    /// Whether this is a timer of a handler that was replaced, and whose successor is not set up: that may want to cancel
    /// it or set it anew.
    pub(crate) fn awaits_setup(&mut self, alarm: Alarm) -> bool {
        matches!(alarm, Alarm::Handler { key, .. } if self.slots.connection(key).state.is_setup_due())
    }

    /// Arms a handler's timer again that has fired and was not told of.
    pub(crate) fn postpone(&mut self, alarm: Alarm, until: u64) {
        let Alarm::Handler { key, tag } = alarm else { return };
        let timer = self.timers.arm(until, alarm);
        self.slots.connection(key).state.extra.get_or_insert_default().timers.insert(tag, timer);
    }

    /// A timer has fired: its owner forgets it, and may set it again in the callback.
    pub(crate) fn forget_timer(&mut self, alarm: Alarm) {
        match alarm {
            Alarm::Handler { key, tag } => {
                self.slots.connection(key).state.extra.as_mut().map(|extra| extra.timers.remove(&tag));
            }
            Alarm::Server { server, tag } => _ = self.served[usize::from(server)].timers.remove(&tag),
            Alarm::Resume(key) => self.slots.pause(key).expect("timers go with listeners").timer = NO_TIMER,
            Alarm::Redial { key, .. } => {
                self.slots.connection(key).state.extra.as_mut().map(|extra| extra.redial.take());
            }
            Alarm::Resend(_) | Alarm::Child(_) => {} // Forgotten by what it is for.
            Alarm::DrainLook => self.drain_look = NO_TIMER,
            Alarm::DrainTell => self.drain_tell = NO_TIMER,
            Alarm::DrainEnd => self.drain_end = NO_TIMER,
            Alarm::CloseLook(server) => {
                if let Life::Closing { look, .. } = &mut self.served[usize::from(server)].life {
                    *look = NO_TIMER;
                }
            }
        }
    }

    pub(crate) fn cancel_server_timers(&mut self, server: u16) {
        for (_, timer) in std::mem::take(&mut self.served[usize::from(server)].timers) {
            self.timers.cancel(timer);
        }
    }

    /// The tags of a server's timers, and when they are due from now. They are unset.
    pub(super) fn take_server_timers(&mut self, server: u16) -> Vec<(u64, Duration)> {
        let now = self.selector.now();
        let timers = std::mem::take(&mut self.served[usize::from(server)].timers);
        let due = |timer| {
            let due = self.timers.deadline(timer);
            self.timers.cancel(timer);
            Duration::from_nanos(due.saturating_sub(now))
        };
        let mut due = due;
        timers.into_iter().map(|(tag, timer)| (tag, due(timer))).collect()
    }

    // Servers.

    pub(super) fn serve(&mut self, limits: Arc<Limits>, own: bool) -> ServerId {
        self.servers_made = self.servers_made.wrapping_add(1);
        let number = self.served.vacant_key() as u16;
        let id = ServerId { number, generation: self.servers_made, reactor: self.slots.reactor };
        self.served.insert(Served {
            id,
            life: Life::Open { stopped: false },
            own,
            limits,
            listeners: Vec::new(),
            active: 0,
            sessions: 0,
            elsewhere: 0,
            threads: None,
            #[cfg(all(unix, feature = "children"))]
            children: None,
            capped: false,
            quota: usize::MAX,
            per_client: HashMap::new(),
            timers: BTreeMap::new(),
        });
        id
    }

    pub(crate) fn set_limits(&mut self, server: u16, limits: Arc<Limits>) {
        self.served[usize::from(server)].limits = limits;
        self.fit_read_buffer(server);
        self.fit_outboxes(server);
        self.refit_elsewhere(server);
        self.count_clients(server);
        self.reconsider(Some(server));
        self.resume_accepting(); // There may be room now.
    }

    /// Settings have changed: every connection, of one server or of all, is held to them, and its next deadline is worked
    /// out anew.
    pub(crate) fn reconsider(&mut self, server: Option<u16>) {
        for key in self.slots.connections(server) {
            let Some(slot) = self.slots.get(key) else { continue };
            let limits = &self.served[usize::from(slot.server)].limits;
            let connection = slot.kind.connection();
            connection.hold_to(limits);
            connection.state.set_watched(false);
            self.queue(key);
        }
    }

    /// Counts the clients of a server anew, because there is a cap on them now that was none before.
    fn count_clients(&mut self, server: u16) {
        let served = &mut self.served[usize::from(server)];
        served.per_client.clear();
        if served.limits.connections_per_client_max.is_none() {
            return;
        }
        for (_, slot) in self.slots.iter().filter(|(_, slot)| slot.server == server) {
            let address = match &slot.kind {
                Kind::Connection(connection) if !connection.state.is_outbound() => &connection.state.address,
                Kind::Elsewhere(elsewhere) => &elsewhere.address,
                _ => continue,
            };
            if let Some(ip) = address.ip() {
                *served.per_client.entry(ip).or_default() += 1;
            }
        }
    }

    pub(crate) fn set_config(&mut self, config: Config) {
        self.config = config;
        if let Some(pool) = &mut self.pool {
            pool.resize(self.config.offload_threads, self.config.offload_queue_max);
        }
        self.rearm_drain();
        self.reconsider(None);
    }

    // Stopping.

    /// A server begins to be closed. Its threads and programs have as long as when the whole reactor stops.
    pub(super) fn begin_closing(&mut self, server: u16) {
        let begun = self.selector.now();
        self.served[usize::from(server)].life = Life::Closing { begun, look: NO_TIMER };
        self.look_closing(server);
    }

    /// Gives threads that wait for their client the end of their input, after half of the grace all of them, and ends them
    /// after all of it.
    pub(super) fn look_closing(&mut self, server: u16) {
        let Life::Closing { begun, .. } = self.served[usize::from(server)].life else { return };
        let (now, grace) = (self.selector.now(), nanos(self.config.drain_grace));
        let (tell, end) = (begun.saturating_add(grace / 2), begun.saturating_add(grace));
        if now >= end {
            return self.end_all_elsewhere(Some(server));
        }
        let others = self.drain_elsewhere(Some(server), now < tell);
        let next = if others { now.saturating_add(LOOK).min(tell) } else { end };
        let look = self.timers.arm(next, Alarm::CloseLook(server));
        self.served[usize::from(server)].life = Life::Closing { begun, look };
    }

    /// It is closed; none of its timers will fire.
    pub(super) fn end_closing(&mut self, server: u16) {
        let life = std::mem::replace(&mut self.served[usize::from(server)].life, Life::Closed);
        if let Life::Closing { look, .. } = life
            && look != NO_TIMER
        {
            self.timers.cancel(look);
        }
        self.cancel_server_timers(server);
    }

    pub(crate) fn arm_drain(&mut self) {
        self.cancel_drain();
        self.draining = true;
        self.drain_begun = self.now;
        self.drain_tell = self.timers.arm(self.now, Alarm::DrainTell);
        self.drain_end = self.timers.arm(self.now, Alarm::DrainEnd);
        self.rearm_drain();
    }

    /// Sets the timers of a stop that have not fired to what the settings say now.
    pub(crate) fn rearm_drain(&mut self) {
        let (begun, grace) = (self.drain_begun, nanos(self.config.drain_grace));
        for (timer, after) in [(self.drain_tell, grace / 2), (self.drain_end, grace)] {
            if timer != NO_TIMER {
                self.timers.rearm(timer, begun.saturating_add(after));
            }
        }
    }

    pub(crate) fn arm_look(&mut self) {
        self.drain_look = self.timers.arm(self.now.saturating_add(LOOK), Alarm::DrainLook);
    }

    pub(crate) fn cancel_drain(&mut self) {
        (self.draining, self.aborting) = (false, false);
        for timer in [&mut self.drain_look, &mut self.drain_tell, &mut self.drain_end] {
            let armed = std::mem::replace(timer, NO_TIMER);
            if armed != NO_TIMER {
                self.timers.cancel(armed);
            }
        }
    }
}

fn arm(timers: &mut Timers<Alarm>, armed: &mut BTreeMap<u64, TimerKey>, tag: u64, deadline: u64, alarm: Alarm) {
    match armed.get(&tag) {
        Some(&timer) => timers.rearm(timer, deadline),
        None => drop(armed.insert(tag, timers.arm(deadline, alarm))),
    }
}

/// For a process whose limit of descriptors cannot be read.
const CONNECTIONS_MAX: usize = 10_000;
