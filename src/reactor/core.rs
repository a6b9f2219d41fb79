//! State that the loop and the running callback share: slots, queue, timers, counters. It contains no handler and no
//! server. Therefore a handler can reach every other connection while it is borrowed itself.

use std::sync::Arc;

use slab::Slab;

use super::entries::Alarm;
use super::handle::{Handle, Message, Shared};
use super::ready::Ready;
use super::served::{Asked, Cap, Served};
use super::shutdown::stop::{Hold, Stop};
use super::slots::{Contents, Slot, Slots, Spare};
use super::tally::Tally;
use crate::address::Address;
use crate::backoff::Backoff;
use crate::connection::{Connection, Delivery};
use crate::error::{Error, Result};
use crate::ids::{ConnectionId, NO_SLOT, ServerId, SlotId};
use crate::inspection::TurnTimes;
use crate::lifecycle::{EndReason, Timeout};
use crate::limits::ReactorConfig;
use crate::limits::descriptors::Descriptors;
use crate::net::packet::{Packet, Route};
use crate::net::selector::{Selector, Waker};
use crate::panics::{catch, drop_caught};
use crate::stats::Stats;
use crate::threads::Pool;
use crate::timers::nanos;
use crate::timers::{Deadlines, Timers};

pub(crate) struct Core {
    pub(crate) selector: Selector,
    pub(crate) slots: Slots,
    pub(crate) ready: Ready,
    pub(crate) timers: Timers<Alarm>,
    /// By slot: the guard, a timer for the limits of the slot's connection. It stays when the connection ends, and
    /// serves the next one in that slot, so a short connection sets and cancels no timer.
    pub(crate) guards: Deadlines,
    /// Connections that ended in this turn.
    pub(crate) dead: Vec<u32>,
    /// Boxes of connections that are over, for the next ones.
    #[expect(clippy::vec_box, reason = "the boxes are what is kept")]
    spare: Vec<Box<Contents>>,
    /// How many of them go on with a thread.
    #[cfg(feature = "tls")]
    handed_over: u64,
    /// The clock as last read, in nanoseconds.
    pub(crate) now: u64,
    pub(crate) stats: Stats,
    pub(crate) turn_times: TurnTimes,
    pub(crate) config: ReactorConfig,
    pub(crate) shared: Arc<Shared>,
    /// Shared with the handles, which may outlive the reactor and then have no descriptor.
    _waker: Arc<Waker>,
    /// By server number, which is reused when a server is gone.
    pub(crate) served: Slab<Served>,
    /// Closing servers that wait for their threads and programs.
    pub(super) closing: Vec<u16>,
    /// What the connections hold together, if that is bounded.
    pub(crate) tally: Option<Box<Tally>>,
    /// [`Core::count_again`], while there is a bound.
    pub(super) recount: Option<fn(&mut Core, &[SlotId], bool)>,
    /// Servers that drain by themselves.
    pub(super) draining: Vec<u16>,
    /// Connections the process may have, for servers that set no number of their own. 0 until the first client comes.
    pub(super) connections_max: usize,
    pub(super) cap: Cap,
    pub(crate) descriptors: Arc<Descriptors>,
    pub(crate) stop: Stop,
    pub(crate) hold: Hold,
    pub(super) pool: Option<Pool>,
    /// [`Core::take_back_jobs`], in a program that offloads jobs.
    forget_jobs: Option<fn(&mut Core, ConnectionId)>,
    /// [`Core::fired`], in a program whose handlers or servers set timers.
    pub(super) fired: Option<fn(&mut Core, Alarm)>,
    /// In a program that serves requests elsewhere.
    pub(super) elsewhere: Option<&'static CodeElsewhere>,
    /// The number of the worker that it serves.
    pub(crate) worker: Option<usize>,
    /// A successor was started and does not serve yet.
    #[cfg(all(unix, feature = "restart"))]
    pub(super) restarting: Option<super::served::Restarting>,
    /// A callback wants a restart. It begins in the next turn, because a callback may have borrowed a listener.
    #[cfg(all(unix, feature = "restart"))]
    pub(super) restart_requested: bool,
    #[cfg(all(unix, feature = "restart"))]
    pub(crate) failed_restart: super::served::LastFailure,
    /// A successor serves.
    #[cfg(all(unix, feature = "restart"))]
    pub(super) is_replaced: bool,
    /// A successor has caused the stop, so the first signal to stop is not the second request.
    #[cfg(all(unix, feature = "restart"))]
    pub(crate) awaits_first_signal: bool,
    #[cfg(all(unix, feature = "restart"))]
    pub(crate) kept_elsewhere: Option<Box<dyn super::served::KeptElsewhere>>,
    #[cfg(all(unix, feature = "sd-notify"))]
    pub(super) supervision: Option<Box<crate::supervisor::Supervision>>,
    /// The minimum length of the read buffer, for the datagrams of all servers.
    pub(crate) read_buffer_bytes_min: usize,
    /// The largest number of bytes that the read buffer has held.
    pub(super) read_bytes_max: usize,
    /// The datagram socket that is being read. Datagrams sent through it are written after reading.
    pub(crate) receiving: u32,
    /// Set with the first datagram socket.
    pub(crate) datagrams: Option<DatagramCode>,
    /// Connects again. Set with the first outbound connection that has to wait, so that a program without outbound
    /// connections does not contain the code.
    pub(super) redial: Option<Redial>,
    /// The error of a connection that could not be registered in this turn.
    pub(crate) not_registered: Option<std::io::Error>,
}

pub(super) type Redial = fn(&mut Core, u32, Backoff) -> std::io::Result<()>;

/// The code that sends datagrams. A program without datagrams does not contain it.
#[derive(Clone, Copy)]
pub(crate) struct DatagramCode {
    /// [`Core::send_datagram`]
    pub(crate) send: fn(&mut Core, Route, &Address, &[u8]) -> Delivery,
    /// [`Core::flush_datagrams`]
    pub(crate) flush: fn(&mut Core, u32),
    /// [`Core::forget_session`]
    pub(crate) forget: fn(&mut Core, Route, &Address, u32),
    /// Receives datagrams by the outbound socket in this slot. Returns the slot of its session, and
    /// whether the peer is gone.
    pub(crate) receive: Receive,
}

type Receive = fn(&mut Core, &mut [u8], &mut Vec<Packet>, u32) -> Option<(u32, bool)>;

/// The code that a program contains only if it serves requests elsewhere.
pub(super) struct CodeElsewhere {
    pub(super) all: fn(&Slots, Option<u16>) -> Vec<ConnectionId>,
    pub(super) end_all: fn(&mut Core, Option<u16>),
    pub(super) drain: fn(&mut Core, Option<u16>, bool) -> bool,
    pub(super) awaits_earlier: fn(&mut Core, Option<u16>) -> bool,
}

impl Core {
    pub(crate) fn new(selector: Selector, waker: Arc<Waker>, config: ReactorConfig) -> Self {
        let now = selector.now();
        let slots = Slots::new();
        let shared = Shared::new(&waker, config.messages_max, slots.reactor);
        Core {
            selector,
            slots,
            ready: Ready::default(),
            timers: Timers::new(),
            guards: Deadlines::default(),
            dead: Vec::new(),
            #[cfg(feature = "tls")]
            handed_over: 0,
            spare: Vec::new(),
            now,
            stats: Stats::default(),
            turn_times: TurnTimes::default(),
            recount: None,
            tally: None, // See `bound_buffers`.
            config,
            shared,
            _waker: waker,
            served: Slab::new(),
            closing: Vec::new(),
            draining: Vec::new(),
            connections_max: 0,
            cap: Cap::default(),
            descriptors: Descriptors::of(1),
            stop: Stop::No,
            hold: Hold::Nothing,
            pool: None,
            forget_jobs: None,
            fired: None,
            elsewhere: None,
            worker: None,
            #[cfg(all(unix, feature = "restart"))]
            restarting: None,
            #[cfg(all(unix, feature = "restart"))]
            restart_requested: false,
            #[cfg(all(unix, feature = "restart"))]
            failed_restart: super::served::LastFailure::default(),
            #[cfg(all(unix, feature = "restart"))]
            is_replaced: false,
            #[cfg(all(unix, feature = "restart"))]
            awaits_first_signal: false,
            #[cfg(all(unix, feature = "restart"))]
            kept_elsewhere: None,
            #[cfg(all(unix, feature = "sd-notify"))]
            supervision: None,
            read_buffer_bytes_min: 0,
            read_bytes_max: 0,
            receiving: NO_SLOT,
            datagrams: None,
            redial: None,
            not_registered: None,
        }
    }

    pub(crate) fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.shared))
    }

    /// Returns whether a stop was requested, until the reactor serves again, or this server drains.
    pub(crate) fn is_stopping(&self, server: u16) -> bool {
        let requested = self.shared.drain_requested() || self.shared.now_requested();
        let asked = |served: &Served| served.asked != Asked::Nothing || served.is_draining();
        !matches!(self.stop, Stop::No) || requested || self.served.get(usize::from(server)).is_some_and(asked)
    }

    /// The number of a server, if it is here. There are few servers, and few calls of this.
    pub(crate) fn server(&self, id: ServerId) -> Option<u16> {
        self.served.iter().find(|(_, served)| served.id == id).map(|(number, _)| number as u16)
    }

    /// Like [`server`](Self::server), but only for a server that is not closed.
    pub(crate) fn open_server(&self, id: ServerId) -> Option<u16> {
        self.server(id).filter(|&server| !self.served[usize::from(server)].is_closed())
    }

    /// Puts a slot into the ready queue, unless it is in there.
    #[inline]
    pub(crate) fn queue(&mut self, key: u32) {
        if let Some(slot) = self.slots.get(key).filter(|slot| !slot.queued) {
            slot.queued = true;
            self.ready.push(slot.id(key));
        }
    }

    /// Like [`queue`](Self::queue), for a slot that has had its share: it is queued behind all slots that become ready
    /// until the next turn.
    pub(crate) fn queue_again(&mut self, key: u32) {
        if let Some(slot) = self.slots.get(key).filter(|slot| !slot.queued) {
            slot.queued = true;
            self.ready.push_again(slot.id(key));
        }
    }

    /// Makes a slot for a connection.
    pub(crate) fn insert(&mut self, server: u16, mut connection: Connection) -> u32 {
        self.inserted(server, &mut connection);
        let connection = self.spare().holding(connection);
        let key = self.slots.insert_lent(server).key;
        self.slots.give_back(key, connection);
        key
    }

    /// Returns an empty box for a connection. To allocate and free a box costs more than anything else in the short life
    /// of a connection.
    #[inline]
    pub(crate) fn spare(&mut self) -> Spare {
        Spare(self.spare.pop().unwrap_or_else(|| Box::new(Contents::Vacant)))
    }

    /// Like `insert`, for a connection that is served immediately. [`Slots::give_back`] puts it there.
    pub(crate) fn insert_lent(&mut self, server: u16, connection: &mut Connection) -> SlotId {
        self.inserted(server, connection);
        self.slots.insert_lent(server)
    }

    #[inline]
    pub(super) fn inserted(&mut self, server: u16, connection: &mut Connection) {
        if self.served[usize::from(server)].asked != Asked::Nothing {
            connection.state.drain(self.now, nanos(self.config.drain_quiet));
        }
        let state = &connection.state;
        self.count_in(server, state.counted_client(), state.is_inbound_datagram());
    }

    /// Registers a connection with the selector when it waits for the first time. The registration reports any
    /// readiness that exists already.
    ///
    /// # Errors
    /// The error from epoll_ctl(2). Nothing would wake the connection then.
    #[inline(always)]
    pub(crate) fn register(&mut self, key: u32, connection: &mut Connection) -> std::io::Result<()> {
        self.selector.register(&mut connection.io.stream, self.slots.token(key))?;
        connection.state.phase.registered();
        Ok(())
    }

    /// Counts an additional open connection: as a session if it is one, and otherwise for its client if there is one. The
    /// address of a session may be forged.
    #[inline]
    pub(crate) fn count_in(&mut self, server: u16, client: Option<&Address>, is_session: bool) {
        let served = &mut self.served[usize::from(server)];
        served.active += 1;
        served.sessions += usize::from(is_session);
        if served.limits.connections_per_client_max.is_some()
            && !is_session
            && let Some(ip) = client.and_then(Address::ip)
        {
            *served.per_client.entry(ip).or_default() += 1;
        }
        self.stats.active += 1;
        self.stats.active_max = self.stats.active_max.max(self.stats.active);
    }

    /// Counts the end of an open connection.
    #[inline]
    pub(crate) fn count_out(&mut self, server: u16, client: Option<&Address>, is_session: bool) {
        let served = &mut self.served[usize::from(server)];
        served.active -= 1;
        served.sessions -= usize::from(is_session);
        if !served.per_client.is_empty()
            && !is_session
            && let Some(client) = client
        {
            served.forget_client(client);
        }
        self.stats.active -= 1;
        self.stats.closed += 1;
    }

    /// Returns whether this client may have one more connection.
    #[inline(always)]
    pub(crate) fn admits_client(&self, server: u16, address: &Address) -> bool {
        let served = &self.served[usize::from(server)];
        let Some(max) = served.limits.connections_per_client_max else { return true };
        address.ip().is_none_or(|ip| served.per_client.get(&ip).copied().unwrap_or(0) < max)
    }

    /// Counts a connection for another client than before.
    ///
    /// # Errors
    /// [`Error::ClientLimit`] if that client has reached its limit. The connection still counts.
    pub(crate) fn recount_client(&mut self, server: u16, before: &Address, client: &Address) -> Result<()> {
        let admitted = self.admits_client(server, client);
        let served = &mut self.served[usize::from(server)];
        let Some(max) = served.limits.connections_per_client_max else { return Ok(()) };
        served.forget_client(before);
        if let Some(ip) = client.ip() {
            *served.per_client.entry(ip).or_default() += 1;
        }
        if admitted || before.ip() == client.ip() { Ok(()) } else { Err(Error::ClientLimit { max }) }
    }

    /// Frees a dead slot. Only this method closes a connection's socket.
    pub(crate) fn reap(&mut self, key: u32) {
        let Slot { generation, server, contents, .. } = self.slots.remove(key);
        let Some(mut contents) = contents else { return };
        let connection = match &mut *contents {
            Contents::Connection(connection) => connection,
            _ => match *contents {
                Contents::Elsewhere(elsewhere) => return self.forget_elsewhere(server, *elsewhere),
                #[cfg(all(unix, feature = "proxy-protocol"))]
                Contents::Heading(_) => return self.forget_heading(server),
                Contents::Endpoint(endpoint) => return drop(self.forget_endpoint(*endpoint)),
                _ => return,
            },
        };
        if connection.state.phase.is_registered() {
            self.selector.forget(&mut connection.io.stream);
        }
        if connection.state.has_jobs() {
            let id = self.slots.id_of(SlotId { key, generation });
            self.forget_jobs.into_iter().for_each(|forget| forget(self, id));
        }
        self.cancel_handler_timers(&mut connection.state);
        if let Some(route) = connection.io.stream.route() {
            self.forget_session(route, &connection.state.address, key);
        }
        let state = &connection.state;
        self.count_out(server, state.counted_client(), state.is_inbound_datagram());
        *contents = Contents::Vacant;
        if self.spare.len() < SPARE_MAX {
            self.spare.push(contents);
        }
    }

    /// A connection goes on with a thread, in another slot. Neither its end here nor both slots count.
    #[cfg(feature = "tls")]
    pub(crate) fn hand_over(&mut self, key: u32, begin: impl FnOnce(&mut Self)) {
        self.dead.push(key);
        self.handed_over += 1;
        self.stats.active -= 1;
        begin(self);
        self.stats.active += 1;
    }

    #[cfg(feature = "tls")]
    pub(super) fn forget_handed_over(&mut self) {
        self.stats.closed -= std::mem::take(&mut self.handed_over);
    }

    /// Returns the counters, including those that are computed only here.
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
    pub(crate) fn count(&mut self, why: EndReason) {
        let stats = &mut self.stats;
        *match why {
            EndReason::Reset => &mut stats.resets,
            EndReason::Timeout(Timeout::Idle) => &mut stats.timeouts_idle,
            EndReason::Timeout(Timeout::Read) => &mut stats.timeouts_read,
            EndReason::Timeout(Timeout::Write) => &mut stats.timeouts_write,
            EndReason::Timeout(Timeout::Message) => &mut stats.timeouts_message,
            EndReason::InputLimit => &mut stats.input_limits,
            EndReason::OutputLimit => &mut stats.output_limits,
            EndReason::BufferLimit => &mut stats.buffer_limits,
            EndReason::Truncated => &mut stats.tls_truncated,
            EndReason::TlsFailed => &mut stats.tls_failed,
            _ => return,
        } += 1;
    }

    /// Counts a message without a receiver.
    pub(crate) fn refuse<T>(&mut self, message: T) {
        self.stats.messages_dropped += 1;
        self.stats.panics += u64::from(!drop_caught(message));
    }

    pub(crate) fn offload(&mut self, connection: ConnectionId, job: Box<dyn FnOnce() -> Message + Send>) -> Result<()> {
        let (threads_max, queue_max) = (self.config.offload_threads, self.config.offload_queue_max);
        let handle = self.handle();
        let pool = self.pool.get_or_insert_with(|| Pool::new("offload", "offload_threads", threads_max, queue_max));
        self.forget_jobs = Some(Core::take_back_jobs);
        pool.submit_for(Some(connection), Box::new(move || handle.deliver(connection, catch(job))))
    }

    /// Drops the jobs of a connection that have not begun, so that a client that has gone does not keep the threads
    /// busy.
    #[cold]
    fn take_back_jobs(&mut self, connection: ConnectionId) {
        let Some(pool) = &self.pool else { return };
        for job in pool.take_back(connection) {
            self.refuse(job);
        }
    }

    /// Waits until no offloaded job is left, at most this long. Returns whether none is left.
    pub(crate) fn await_jobs(&self, within: std::time::Duration) -> bool {
        self.pool.as_ref().is_none_or(|pool| pool.wait(within))
    }
}

/// Boxes that are kept: as many as connections are often over in one turn.
const SPARE_MAX: usize = 64;
