//! The loop.
//!
//! ```text
//!  poll ──▶ collect ──▶ service ──▶ timers ──▶ service_actions ──▶ reap
//!  sleep    note what   each ready   what is    the servers'        free what
//!           is ready    slot once    due        hook                ended
//! ```
//!
//! Collect only notes readiness, service runs callbacks, and only reap frees slots. So no key is reused within a turn,
//! and a callback may close any connection, including its own, while no other connection moves.

mod accepting;
mod alarms;
pub(crate) mod books;
pub(crate) mod closing;
mod commands;
mod connecting;
pub(crate) mod core;
mod due;
pub(crate) mod elsewhere;
mod ends;
pub(crate) mod entries;
pub(crate) mod handle;
pub(crate) mod hosted;
mod invariants;
pub(crate) mod mailbox;
mod ready;
mod sending;
mod servers;
#[cfg(all(unix, feature = "signals"))]
mod signals;
pub(crate) mod slots;
mod stop;
mod stopping;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use slab::Slab;

use self::core::Core;
use self::handle::{Command, Handle, ShutdownHandle};
use self::hosted::{Hosted, Scratch};
use self::slots::Kind;
use self::stop::Stop;
use crate::connection::budget::Budget;
use crate::error::{Error, Result};
use crate::ids::{SlotId, WAKER};
use crate::limits::{READ_BUFFER_BYTES_MAX, ReactorConfig};
use crate::net::selector::Selector;
use crate::panics::drop_caught;
use crate::stats::Stats;
use crate::timers::nanos;

/// The event loop: one thread, any number of servers and connections.
///
/// A [`TcpServer`](crate::TcpServer) makes its own. Make one yourself to run several servers, or to drive it from your
/// own loop with [`poll`](Self::poll).
///
/// Dropping it closes its servers, and every handler gets its `finish`. During that, no server is added and no
/// connection is started.
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
    /// Commands of other threads that this turn has taken. They are a field, because a closure among them may drop this
    /// reactor. It then turns until its threads are done, and their messages may be among the rest.
    taken: VecDeque<Command>,
    /// A turn is running, so a caller is a closure and cannot start another turn.
    turning: bool,
    /// The time at which the events of this turn were collected. Limits that passed later wait for the next turn,
    /// because bytes may have arrived.
    collected: u64,
    /// Callbacks of the next turn with at least this many new bytes are timed.
    timed_from: usize,
}

impl Reactor {
    /// Makes a reactor with the default [`ReactorConfig`].
    ///
    /// # Errors
    /// [`Error::Reactor`] if the system has no descriptors or memory left.
    pub fn new() -> Result<Self> {
        Reactor::with_config(ReactorConfig::default())
    }

    /// Makes a reactor with settings of your own.
    ///
    /// # Errors
    /// As for [`new`](Self::new); [`Error::Setting`] if a setting cannot be honoured.
    pub fn with_config(config: ReactorConfig) -> Result<Self> {
        config.check()?;
        let failed = |source| Error::Reactor { doing: "create the selector", source };
        let selector = Selector::system().map_err(failed)?;
        Reactor::with_selector(selector, config).map_err(failed)
    }

    pub(crate) fn with_selector(selector: Selector, config: ReactorConfig) -> io::Result<Self> {
        let waker = Arc::new(selector.waker(WAKER)?);
        let budget = Budget::new(selector.clock());
        Ok(Reactor {
            core: Core::new(selector, waker, config),
            scratch: Scratch { input: Box::default(), output: Vec::new(), packets: Vec::new(), budget },
            servers: Slab::new(),
            batch: Vec::new(),
            taken: VecDeque::new(),
            collected: 0,
            timed_from: TIMED_BYTES,
            turning: false,
        })
    }

    /// Changes the settings. They also apply to open connections and to a running stop.
    pub fn set_config(&mut self, config: ReactorConfig) {
        self.core.shared.set_max(config.messages_max);
        self.core.set_config(config);
    }

    /// The settings in force.
    pub fn config(&self) -> &ReactorConfig {
        &self.core.config
    }

    /// Returns the counters.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// Returns a handle for other threads.
    pub fn handle(&self) -> Handle {
        self.core.handle()
    }

    /// Returns a handle that stops this reactor.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.handle().shutdown_handle()
    }

    /// Serves until it is [shut down](ShutdownHandle::shutdown). Returns at once if a stop was carried out while it did
    /// not serve, for example during [`server_close`](Self::server_close). It may be called again. The sockets of
    /// [added](Self::add) servers are closed by then. Their values can still be read, and are dropped when it serves
    /// again or another server is added. So it then serves newly added servers, and waits if there are none. (A
    /// [`TcpServer`](crate::TcpServer) with a reactor of its own binds its addresses again.)
    ///
    /// # Errors
    /// [`Error::Reactor`] if the selector fails, or if a closure that the loop runs ([`Handle::run`]) calls this,
    /// because the loop cannot run inside itself. No client and no handler can end it.
    ///
    /// Source: `BaseServer.serve_forever`, without its `poll_interval`, because nothing is polled.
    pub fn serve_forever(&mut self) -> Result<()> {
        self.serve_again()?;
        while !self.report_stop() {
            self.turn(None)?;
        }
        Ok(())
    }

    /// Runs one turn, for a loop of your own: waits for events at most `wait` (`None`: until there is one), and serves
    /// them. Returns false once the reactor has stopped. Called again, it serves again, like
    /// [`serve_forever`](Self::serve_forever).
    ///
    /// Your loop waits until the reactor's descriptor is readable, at most [`next_timeout`](Self::next_timeout), and
    /// then calls this with a `wait` of zero.
    ///
    /// # Errors
    /// As for [`serve_forever`](Self::serve_forever).
    pub fn poll(&mut self, wait: Option<Duration>) -> Result<bool> {
        self.serve_again()?;
        if !self.core.stop.is_over() {
            self.turn(wait)?;
        }
        Ok(!self.report_stop())
    }

    /// Returns how long the reactor needs no turn: zero if it has work now, `None` if only an event can bring work.
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
        // The clock was read at the end of the last service. If it is slightly old, timers are slightly late, but never
        // early.
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
        // Deadlines have passed. Before they apply, fetch events once more: after a stop of the process (SIGSTOP, a
        // suspended machine) poll may return late and empty while bytes wait.
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

    /// Only sets marks. Returns whether there may be more events to fetch.
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

    /// Serves each slot of the ready queue once, within its budget and its share of the turn. Slots that become ready
    /// during this wait for the next turn.
    fn service(&mut self) {
        if self.has_commands() {
            self.commands();
            self.core.now = self.core.selector.now(); // The callbacks took time.
        }
        let turn = &mut self.scratch.budget.turn;
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
                debug_assert!(served > 0, "the batch begins with a connection of this server");
                rest = &rest[served..];
                continue;
            }
            rest = after;
            slot.queued = false;
            self.scratch.budget.turn.waiting = rest.len() + 1;
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

    /// The clock is read once before a batch, and its time becomes the stamp of connections. If the batch took long,
    /// the stamps are too old and a limit could pass early, so they are corrected.
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
        // Callbacks that are usually too short to be timed may have filled the turn.
        self.timed_from = if self.scratch.budget.turn.is_long(self.core.now) { 0 } else { TIMED_BYTES };
    }

    fn service_actions(&mut self) {
        if matches!(self.core.stop, Stop::No) && self.core.shared.drain_requested() {
            self.begin_drain();
        }
        if self.core.stop.is_draining() && self.core.shared.now_requested() {
            self.core.stop.abort(&mut self.core.timers);
        }
        if self.core.stop.is_aborting() {
            self.abort_all();
        }
        for (number, server) in &mut self.servers {
            if !self.core.served[number].is_closed() {
                server.service_actions(&mut self.core);
            }
        }
    }

    /// Frees dead connections, after the last event of the turn. No other place does.
    fn reap(&mut self) {
        if !self.core.dead.is_empty() {
            self.free_dead();
        }
        if let Some(error) = self.core.not_registered.take() {
            self.core.pause_all(&error);
        }
        if self.core.stop.is_under_way() && self.is_over() {
            self.stopped();
        }
        if !self.core.closing.is_empty() {
            self.go_on_closing();
        }
        if cfg!(debug_assertions) && self.core.slots.len() < CHECKED_SLOTS_MAX {
            self.check();
        }
    }

    fn free_dead(&mut self) {
        let mut dead = std::mem::take(&mut self.core.dead);
        dead.drain(..).for_each(|key| self.core.reap(key));
        self.core.dead = dead; // This keeps its memory.
        self.core.resume_accepting();
    }

    // ---- servers ----

    /// Makes the shared buffer in the first turn, so a reactor that only waits to be moved has none. Its length follows
    /// the settings.
    fn allocate(&mut self) {
        let wanted = self.core.config.read_buffer_bytes.min(READ_BUFFER_BYTES_MAX);
        let wanted = wanted.max(self.core.read_buffer_bytes_min).max(1);
        if self.scratch.input.len() != wanted {
            self.scratch.input = vec![0; wanted].into();
            self.core.read_bytes_max = self.core.read_bytes_max.max(wanted);
        }
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.core.stop.give_up(false, &mut self.core.timers);
        self.turning = false; // A closure may have replaced the reactor during a turn.
        loop {
            self.close_all(None);
            if self.servers.is_empty() {
                break;
            }
            self.turn_or_give_up();
        }
        let waiting = std::mem::take(&mut self.taken).into_iter().chain(self.core.shared.close());
        // One by one, because dropping a message may run any code.
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

/// The largest lag of a stamp behind the clock. A shorter turn is not corrected.
const STAMP_ERROR_MAX: u64 = 1_000_000;
/// A callback with at least this many new bytes is timed.
const TIMED_BYTES: usize = 16 * 1024;
/// With more slots, checking all of them after each turn would make debug builds useless.
const CHECKED_SLOTS_MAX: usize = 256;
/// Polls to empty the kernel's list of events in one turn: 65,536 events.
const POLLS_MAX: u32 = 64;
