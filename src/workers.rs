//! Workers: several reactors, each on a thread of its own, made by one closure.
//!
//! ```text
//!  calling thread                                   worker threads
//!  ─────────────                                    ──────────────
//!  signals, the stop  ── stop all ────────────────▶ a reactor with servers
//!  acceptor           ── each connection to the ──▶ a reactor with servers
//!                        worker with the fewest
//! ```
//!
//! The crew keeps the sockets of all workers, so a backlog outlives its worker.

pub(crate) mod binding;
mod control;
mod crew;
mod handing;
pub(crate) mod handle;
mod loads;
#[cfg(all(unix, feature = "restart"))]
mod restarting;
mod running;
mod sharing;
#[cfg(all(test, target_os = "linux"))]
mod tests;
pub(crate) mod worker;

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex};
use std::thread::Builder;
use std::time::Duration;

use self::crew::{Crew, Owned, Place};
use self::handle::WorkersHandle;
use self::worker::{Make, Worker};
use crate::error::{Error, Result};
use crate::limits::WorkersConfig;
use crate::reactor::Reactor;

/// Several [`Reactor`]s, each on a thread of its own: one service on several cores.
///
/// One closure makes the servers of each worker. It is called for one worker after the other, and again for a worker that
/// replaces another. It binds addresses through the [`Worker`], so that all workers serve the same ones. Everything else
/// is as with one reactor. The workers share no state: each has its own server value, its own limits, such as
/// [`connections_max`](crate::Limits::connections_max), and its own statistics.
///
/// - Of a TCP or UDP address, each worker has a socket of its own, and the kernel distributes the clients
///   (`SO_REUSEPORT`, on Linux and Android). With port 0 all get the same port. No other server can be bound to the
///   address, unless its options allow that.
/// - A listening Unix socket exists once. The thread that has called `serve_forever` accepts the clients and hands each to
///   the worker with the fewest connections. While all workers are full, the clients wait in the backlog.
///   [`Spread::Handed`](crate::Spread::Handed) does this for TCP as well. So does a listening socket that was
///   [inherited](Worker::inherit_or_bind). The hook `get_request` is not called for these.
/// - A Unix datagram socket, and an inherited datagram socket, is read by all workers. Any of them gets the next datagram,
///   so such a server should have no [sessions](crate::Limits::sessions_max).
///
/// A panic in a handler or a hook ends a connection, as always. If a reactor itself fails or panics, its worker ends and
/// its connections are closed. The error is logged, and [`serve_forever`](Self::serve_forever) returns it. A new worker
/// takes the place after 10 ms. If it fails within 10 s, the pause before the next one is twice as long, up to 1 s. If the
/// closure fails, the others serve its sockets until it succeeds. With
/// [`replace_failed`](WorkersConfig::replace_failed) off, they do so from the beginning. Either way the clients in the
/// backlogs are served.
///
/// A worker with a server that [serves while others drain](crate::Limits::serve_while_draining) ends when all workers have
/// drained. If one worker is stopped, for example by [`request_shutdown`](crate::Others::request_shutdown), all are. If one
/// worker drains or closes a server, the others serve its addresses. They are closed when no worker has such a server any
/// more. Methods that need no owner are those of [`WorkersHandle`].
///
/// When [`serve_forever`](Self::serve_forever) has returned, or the `Workers` are dropped, all sockets are closed, even if
/// there are handles left.
///
/// Source: none; the pre-forked processes of other servers.
///
/// ```
/// use socketserver::{Next, Request, RequestHandler, Result, TcpServer, Workers};
/// use std::io::Write;
///
/// struct Echo;
/// impl RequestHandler for Echo {
///     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
///         request.output.write_all(request.input.take_all())?;
///         Ok(Next::Wait)
///     }
/// }
///
/// let mut workers = Workers::new(4, |worker| {
///     let mut server = TcpServer::unbound(|_client_address| Echo);
///     worker.server_bind(&mut server, "127.0.0.1:0")?;
///     worker.add(server)
/// })?;
/// println!("listening on {:?}", workers.server_addresses());
/// # #[cfg(feature = "signals")]
/// workers.shutdown_on_signals()?;
/// # workers.shutdown();
/// workers.serve_forever()?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub struct Workers {
    /// The first, because it is dropped before the workers.
    owned: Owned,
    handle: WorkersHandle,
    /// The control reactor.
    reactor: Reactor,
    made: Vec<(Place, Worker)>,
    make: Make,
}

impl Workers {
    /// Calls `make` for each of `count` workers. They serve when [`serve_forever`](Self::serve_forever) is called, and
    /// clients wait until then. The closure returns what [`Worker::add`] returns, or anything else, which is not used.
    ///
    /// # Errors
    /// The error of the closure; [`Error::Reactor`] if the system has no descriptors left, or if the closure has bound a
    /// server and not added it; [`Error::Setting`] if `count` is 0. Then all sockets are closed.
    pub fn new<T>(count: usize, make: impl FnMut(&mut Worker) -> Result<T> + Send + 'static) -> Result<Self> {
        Workers::with_config(count, WorkersConfig::default(), make)
    }

    /// Like [`new`](Self::new), but with settings of your own.
    ///
    /// # Errors
    /// The same as for [`new`](Self::new); [`Error::Setting`] if a setting cannot be used.
    ///
    /// ```
    /// use socketserver::{NoHandler, Spread, TcpServer, Workers, WorkersConfig};
    ///
    /// let mut config = WorkersConfig::default();
    /// config.spread = Spread::Handed;
    /// let workers = Workers::with_config(2, config, |worker| {
    ///     let mut server = TcpServer::unbound(|_client_address| NoHandler);
    ///     worker.server_bind(&mut server, "127.0.0.1:0")?;
    ///     worker.add(server)
    /// })?;
    /// # workers.shutdown();
    /// workers.serve_forever()?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn with_config<T>(
        count: usize,
        config: WorkersConfig,
        mut make: impl FnMut(&mut Worker) -> Result<T> + Send + 'static,
    ) -> Result<Self> {
        if count == 0 {
            return Err(Error::setting("count", count, "nobody would serve"));
        }
        let mut control = config.reactor.clone();
        control.drain_grace = Duration::MAX; // It waits for the workers, which have their own.
        let mut reactor = Reactor::with_config(control)?;
        let crew = Arc::new(Crew::new(count, config, reactor.handle()));
        let owned = Owned(Arc::clone(&crew));
        reactor.core.descriptors = Arc::clone(&crew.descriptors);
        control::relay_stop(&mut reactor, &crew)?;
        #[cfg(all(unix, feature = "restart"))]
        {
            reactor.core.kept_elsewhere = Some(Box::new(Arc::clone(&crew)));
            reactor.core.failed_restart = Arc::clone(&crew.failed_restart);
        }
        let mut make: Make = Box::new(move |worker| make(worker).map(drop));
        let made = (0..count).map(|number| Worker::make(&crew, number, &mut make)).collect::<Result<Vec<_>>>()?;
        let made = made.into_iter().map(|worker| (crew.place(worker.number(), worker.handle()), worker)).collect();
        Ok(Workers { owned, handle: WorkersHandle::new(crew), reactor, made, make })
    }

    /// Makes SIGINT and SIGTERM stop all workers, and a second one end them at once: see
    /// [`Reactor::shutdown_on_signals`]. Feature `signals`.
    ///
    /// # Errors
    /// [`Error::Reactor`] if the signals cannot be watched.
    #[cfg(feature = "signals")]
    pub fn shutdown_on_signals(&mut self) -> Result<()> {
        self.reactor.shutdown_on_signals()
    }

    /// Calls the hook [`reload`](crate::BaseServer::reload) of every server of all workers for each SIGHUP: see
    /// [`Reactor::reload_on_signal`]. Feature `signals`.
    ///
    /// # Errors
    /// [`Error::Reactor`] if the signal cannot be watched.
    #[cfg(feature = "signals")]
    pub fn reload_on_signal(&mut self) -> Result<()> {
        self.reactor.reload_on_signal()
    }

    /// Tells the supervisor that has started this process, such as systemd with `Type=notify`, that all workers are ready
    /// or stop: see [`Reactor::notify_supervisor`](crate::Reactor::notify_supervisor). The watchdog watches the thread
    /// that has called `serve_forever`, which notices when a worker ends, but not when a handler blocks one. On Unix.
    /// Feature `sd-notify`.
    ///
    /// # Errors
    /// [`Error::Reactor`](crate::Error::Reactor) if `NOTIFY_SOCKET` cannot be reached.
    ///
    /// ```
    /// # let mut workers = socketserver::Workers::new(1, |_| Ok(()))?;
    /// workers.notify_supervisor()?;
    /// # workers.shutdown();
    /// workers.serve_forever()?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    #[cfg(all(unix, feature = "sd-notify"))]
    pub fn notify_supervisor(&mut self) -> Result<crate::supervisor::Supervisor> {
        self.reactor.notify_supervisor()
    }

    /// Lets SIGUSR2 [restart](WorkersHandle::restart) the program: see
    /// [`Reactor::restart_on_signal`](crate::Reactor::restart_on_signal). Features `restart` and `signals`.
    ///
    /// # Errors
    /// [`Error::Reactor`](crate::Error::Reactor) if the signal cannot be watched.
    ///
    /// ```
    /// # let mut workers = socketserver::Workers::new(1, |_| Ok(()))?;
    /// workers.restart_on_signal()?;
    /// # workers.shutdown();
    /// workers.serve_forever()?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    #[cfg(all(unix, feature = "restart", feature = "signals"))]
    pub fn restart_on_signal(&mut self) -> Result<()> {
        self.reactor.restart_on_signal()
    }

    /// Returns a handle, for other threads and for handlers.
    pub fn handle(&self) -> WorkersHandle {
        self.handle.clone()
    }

    /// Starts a thread for each worker, and returns when all have stopped. The calling thread accepts clients that are
    /// handed to workers, and handles signals.
    ///
    /// # Errors
    /// [`Error::Reactor`] if a thread cannot be started; then all have ended. Otherwise the first error with which a
    /// worker or the calling thread's reactor has ended: [`Error::Panicked`] for a panic, [`Error::Reactor`] for a failed
    /// selector. This is also the case if a new worker has taken the place, and all have then stopped as they should. The
    /// log has all of them. In a process that a [restart](WorkersHandle::restart) has started, [`Error::Reactor`] if the
    /// old process has given the restart up.
    pub fn serve_forever(self) -> Result<()> {
        #[cfg_attr(not(all(unix, feature = "restart")), expect(unused_mut, reason = "it takes nothing over"))]
        let Workers { handle, mut reactor, made, make, owned } = self; // The last of these is dropped first.
        #[cfg(all(unix, feature = "restart"))]
        reactor.take_over()?; // Before the workers, because it hears the signals.
        let (crew, make) = (handle.crew(), Arc::new(Mutex::new(make)));
        let (mut threads, mut started) = (Vec::new(), Ok(()));
        for (place, worker) in made {
            let (name, make) = (format!("worker {}", worker.number()), Arc::clone(&make));
            match Builder::new().name(name).spawn(move || running::run(place, worker, &make)) {
                Ok(thread) => threads.push(thread),
                Err(source) => started = Err(Error::Reactor { doing: "start a thread", source }),
            }
        }
        if started.is_err() {
            handle.shutdown_now();
        }
        control::run(crew, reactor);
        for thread in threads {
            let _ = thread.join(); // What a worker panics with is caught before.
        }
        drop(owned);
        started.and(crew.take_failure().map_or(Ok(()), Err))
    }
}

impl Deref for Workers {
    type Target = WorkersHandle;

    fn deref(&self) -> &WorkersHandle {
        &self.handle
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("addresses", &self.server_addresses()).finish_non_exhaustive()
    }
}
