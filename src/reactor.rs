//! The reactor: what its owner does with it. The loop itself is in `event_loop.rs`.

mod admitting;
mod alarms;
mod bounding;
pub(crate) mod closing;
mod commands;
mod connecting;
pub(crate) mod core;
mod draining;
mod due;
pub(crate) mod elsewhere;
mod end_log;
pub(crate) mod entries;
mod event_loop;
#[cfg(unix)]
mod handing_over;
pub(crate) mod handle;
#[cfg(all(unix, feature = "proxy-protocol"))]
mod headings;
pub(crate) mod hosted;
mod inspecting;
mod invariants;
pub(crate) mod mailbox;
mod pausing;
mod ready;
#[cfg(all(unix, feature = "restart"))]
mod restarting;
mod sending;
pub(crate) mod served;
mod servers;
pub(crate) mod shutdown;
#[cfg(all(unix, feature = "signals"))]
mod signals;
pub(crate) mod slots;
#[cfg(all(unix, feature = "sd-notify"))]
mod supervising;
mod tally;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use slab::Slab;

use self::core::Core;
use self::handle::{Command, Handle, ShutdownHandle};
use self::hosted::{Hosted, Scratch};
use crate::connection::budget::Budget;
use crate::error::{Error, Result};
use crate::ids::{SlotId, WAKER};
use crate::limits::ReactorConfig;
use crate::net::selector::Selector;
use crate::panics::drop_each;
use crate::stats::Stats;

/// The event loop: one thread, any number of servers and connections.
///
/// A [`TcpServer`](crate::TcpServer) creates its own reactor. Create a reactor yourself to run several servers, or to
/// drive the reactor from your own loop with [`poll`](Self::poll).
///
/// Dropping the reactor closes its servers, and `finish` is called for every handler. While it is being dropped, no
/// servers can be added and no connections started.
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
    /// Set while a turn is running. Any caller is then a closure, which must not start another turn.
    turning: bool,
    /// The time at which the events of this turn were collected. Limits that expired later wait for the next turn,
    /// because bytes may have arrived.
    collected: u64,
    /// Callbacks of the next turn with at least this many new bytes are timed.
    timed_from: usize,
}

impl Reactor {
    /// Creates a reactor with the default [`ReactorConfig`].
    ///
    /// # Errors
    /// [`Error::Reactor`] if the system has no descriptors or memory left.
    pub fn new() -> Result<Self> {
        Reactor::with_config(ReactorConfig::default())
    }

    /// Creates a reactor with settings of your own.
    ///
    /// # Errors
    /// The same as for [`new`](Self::new); [`Error::Setting`] if a setting cannot be used.
    pub fn with_config(config: ReactorConfig) -> Result<Self> {
        let mut reactor = Reactor::unbounded(config)?;
        reactor.core.bound_buffers();
        Ok(reactor)
    }

    /// Without [`Core::bound_buffers`].
    pub(crate) fn unbounded(config: ReactorConfig) -> Result<Self> {
        config.check()?;
        let failed = |source| Error::Reactor { doing: "create the selector", source };
        let selector = Selector::system().map_err(failed)?;
        Reactor::with_selector(selector, config).map_err(failed)
    }

    pub(crate) fn with_selector(selector: Selector, config: ReactorConfig) -> io::Result<Self> {
        let waker = Arc::new(selector.waker(WAKER)?);
        let mut budget = Budget::new(selector.clock());
        budget.set_handshakes(config.handshakes_per_turn);
        Ok(Reactor {
            core: Core::new(selector, waker, config),
            scratch: Scratch { input: Box::default(), output: Vec::new(), packets: Vec::new(), single: None, budget },
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
        self.scratch.budget.set_handshakes(config.handshakes_per_turn);
        self.core.set_config(config);
    }

    /// Returns the settings in force.
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

    /// Serves until the reactor is [shut down](ShutdownHandle::shutdown). Returns immediately if a stop was carried out
    /// while the reactor was not serving, for example during [`server_close`](Self::server_close). This method may be
    /// called again. The sockets of [added](Self::add) servers are closed by then. Their values can still be read, and
    /// are dropped when the reactor serves again or another server is added. When called again, it serves newly added
    /// servers, or waits if there are none. (A [`TcpServer`](crate::TcpServer) with a reactor of its own binds its
    /// addresses again.)
    ///
    /// # Errors
    /// [`Error::Reactor`] if the selector fails, or if a closure that the loop runs ([`Handle::run`]) calls this
    /// method, because the loop cannot be nested. Neither a client nor a handler can end the loop.
    ///
    /// Source: `BaseServer.serve_forever`, without its `poll_interval`, because nothing is polled.
    pub fn serve_forever(&mut self) -> Result<()> {
        self.serve_again()?;
        while !self.report_stop() {
            self.turn(None)?;
        }
        Ok(())
    }

    /// Runs one turn, for a loop of your own: waits for events for at most `wait` (with `None`, until one occurs) and
    /// handles them. Returns false once the reactor has stopped. If it is called again, the reactor serves again, like
    /// [`serve_forever`](Self::serve_forever).
    ///
    /// Your loop should wait until the reactor's descriptor is readable, for at most
    /// [`next_timeout`](Self::next_timeout), and then call this method with a `wait` of zero.
    ///
    /// # Errors
    /// The same as for [`serve_forever`](Self::serve_forever).
    pub fn poll(&mut self, wait: Option<Duration>) -> Result<bool> {
        self.serve_again()?;
        if !self.core.stop.is_over() {
            self.turn(wait)?;
        }
        Ok(!self.report_stop())
    }

    /// Returns how long the reactor can go without a turn: zero if there is work to do now, `None` if only an event can
    /// cause more work.
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
        self.taken.append(&mut self.core.shared.close());
        drop_each(std::mem::take(&mut self.taken));
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

/// A callback with at least this many new bytes is timed.
const TIMED_BYTES: usize = 16 * 1024;
