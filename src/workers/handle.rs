//! Access to all workers at once.

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::channel;

use super::crew::Crew;
use crate::address::Address;
use crate::error::{Error, Result};
use crate::ids::ServerId;
use crate::inspection::Inspection;
use crate::reactor::Reactor;
use crate::reactor::handle::Handle;
use crate::shared_bytes::SharedBytes;
use crate::stats::Stats;

/// Acts on all workers, from any thread and from handlers. [`Workers`](crate::Workers) has these methods too, and
/// [`Worker::workers`](crate::Worker::workers) returns one for the servers that are being made.
///
/// ```
/// use socketserver::{Next, Request, RequestHandler, Result, TcpServer, Workers, WorkersHandle};
///
/// /// A chat: what one client sends, all clients of all workers get.
/// struct Chat { workers: WorkersHandle }
/// impl RequestHandler for Chat {
///     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
///         self.workers.broadcast(request.input.take_all())?;
///         Ok(Next::Wait)
///     }
/// }
///
/// let workers = Workers::new(2, |worker| {
///     let workers = worker.workers();
///     let mut server = TcpServer::unbound(move |_client_address| Chat { workers: workers.clone() });
///     worker.server_bind(&mut server, "127.0.0.1:0")?;
///     worker.add(server)
/// })?;
/// let handle = workers.handle();
/// let serving = std::thread::spawn(move || workers.serve_forever());
/// assert_eq!(handle.stats()?.active, 0);
/// handle.shutdown();
/// serving.join().unwrap()?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone)]
pub struct WorkersHandle(Arc<Crew>);

impl WorkersHandle {
    pub(super) fn new(crew: Arc<Crew>) -> Self {
        WorkersHandle(crew)
    }

    pub(super) fn crew(&self) -> &Arc<Crew> {
        &self.0
    }

    /// Stops all workers gracefully, as [`ShutdownHandle::shutdown`](crate::ShutdownHandle::shutdown) stops one reactor. A
    /// second call changes nothing.
    pub fn shutdown(&self) {
        if !self.0.is_stopping() {
            self.0.control.shutdown_handle().shutdown();
        }
    }

    /// Stops all workers without waiting for clients or for threads of requests, even during a
    /// [`shutdown`](Self::shutdown). A callback that runs is waited for.
    pub fn shutdown_now(&self) {
        self.0.stop_now();
        self.0.control.shutdown_handle().shutdown_now();
    }

    /// Sends the same bytes to every client of every server of all workers, as
    /// [`Others::broadcast`](crate::Others::broadcast) does for one server. For some clients only, use
    /// [`send_to_counterparts`](Self::send_to_counterparts). They are sent in the next turn of each worker. A client that
    /// connects meanwhile may get them too.
    ///
    /// # Errors
    /// [`Error::Full`] if the queue of a worker is full; the others send them.
    pub fn broadcast(&self, bytes: impl AsRef<[u8]>) -> Result<()> {
        let bytes = SharedBytes::from(bytes.as_ref().to_vec());
        self.run(move |reactor| reactor.broadcast_to_all(&bytes))
    }

    /// Delivers a copy of a value to the hook [`message`](crate::BaseServer::message) of the servers that the other workers
    /// have at the addresses of this one, in the next turn of each. For example what was published by a client of this
    /// worker, for those clients of the others who want it.
    ///
    /// # Errors
    /// [`Error::Full`] if the queue of a worker is full; the others get it. A worker that has failed and is not replaced yet
    /// does not get it, which is no error.
    ///
    /// ```
    /// use socketserver::{BaseServer, Message, Next, Others, Request, RequestHandler, Result, WorkersHandle};
    ///
    /// /// What one worker counts, all know.
    /// struct Visits { count: u64, workers: WorkersHandle }
    /// impl BaseServer for Visits {
    ///     fn message(&mut self, _: &mut Others<'_, Self>, message: Message) {
    ///         self.count += message.downcast::<u64>().unwrap_or(0);
    ///     }
    /// }
    /// struct Visit;
    /// impl RequestHandler<Visits> for Visit {
    ///     fn handle(&mut self, request: &mut Request<'_, Visits>) -> Result<Next> {
    ///         request.server.count += 1;
    ///         request.server.workers.send_to_counterparts(request.others.server_id(), 1_u64)?;
    ///         Ok(Next::Close)
    ///     }
    /// }
    /// ```
    pub fn send_to_counterparts(&self, server: ServerId, message: impl Any + Send + Clone) -> Result<()> {
        let sharings = self.0.sharings().clone();
        let mut counterparts: Vec<_> = sharings.iter().flat_map(|sharing| sharing.counterparts(server)).collect();
        counterparts.sort_by_key(|(_, id)| *id);
        counterparts.dedup_by_key(|(_, id)| *id); // A server may have several addresses.
        let mut result = Ok(());
        for (handle, id) in counterparts {
            match handle.send_to_server(id, message.clone()) {
                Ok(()) | Err(Error::Gone) => {}
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// Runs a closure on every worker's thread, in its next turn: see [`Handle::run`]. For example to change limits. Two
    /// closures are run in the order in which they were given. A worker that is made later has not run it.
    ///
    /// # Errors
    /// [`Error::Full`] if the queue of a worker is full; the others run it. A worker that has failed and is not replaced
    /// yet does not run it, which is no error.
    pub fn run(&self, job: impl Fn(&mut Reactor) + Send + Sync + 'static) -> Result<()> {
        let job = Arc::new(job);
        let mut result = Ok(());
        for handle in self.0.handles() {
            let job = Arc::clone(&job);
            match handle.run(move |reactor| job(reactor)) {
                Ok(()) | Err(Error::Gone) => {}
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// Returns the sum of the [`Stats`] of all workers, including those that have failed. Waits until each worker serves
    /// and has finished its turn, so it must not be called in the closure that makes the workers, or on the thread that is
    /// going to call [`serve_forever`](crate::Workers::serve_forever). In a handler use
    /// [`offload`](crate::Request::offload) for this, because a worker cannot wait for itself.
    ///
    /// # Errors
    /// [`Error::Reactor`] on the thread of a worker; [`Error::Full`] if the queue of a worker is full.
    pub fn stats(&self) -> Result<Stats> {
        let (tell, hear) = channel();
        let _ = self.0.control.run(move |reactor| drop(tell.send(of_acceptors(&reactor.stats()))));
        let acceptors: Stats = hear.iter().sum();
        loop {
            let (past, ended) = self.0.past();
            let workers: Stats = self.ask(|reactor| reactor.stats())?.into_iter().sum();
            // A worker that has ended meanwhile may be in neither.
            if self.0.past().1 == ended {
                return Ok(past + workers + acceptors);
            }
        }
    }

    /// Returns what each worker is doing now, in the order of their numbers: see [`Reactor::inspect`]. One that has failed
    /// and is not replaced yet is missing. Waits like [`stats`](Self::stats), so use
    /// [`offload`](crate::Request::offload) in a handler, for example of an admin page.
    ///
    /// # Errors
    /// The same as for [`stats`](Self::stats).
    pub fn inspect(&self) -> Result<Vec<Inspection>> {
        let mut inspections = self.ask(Reactor::inspect)?;
        inspections.sort_by_key(|inspection| inspection.worker);
        Ok(inspections)
    }

    /// Asks all workers, and waits for the answers. A worker that has failed gives none.
    fn ask<T: Send + 'static>(&self, ask: impl Fn(&mut Reactor) -> T + Send + Sync + 'static) -> Result<Vec<T>> {
        if self.0.is_this_thread() {
            let source = io::Error::new(io::ErrorKind::Deadlock, "a worker would wait for itself");
            return Err(Error::Reactor { doing: "ask all workers", source });
        }
        let (tell, hear) = channel();
        self.run(move |reactor| drop(tell.send(ask(reactor))))?;
        Ok(hear.iter().collect())
    }

    /// Returns a handle for each worker, in the order of their numbers. One that has failed and is not replaced yet is
    /// missing. If one of them stops its worker, all workers stop.
    pub fn handles(&self) -> Vec<Handle> {
        self.0.handles()
    }

    /// Returns the addresses that the workers share, with the real ports, in the order in which they were bound.
    pub fn server_addresses(&self) -> Vec<Address> {
        self.0.sharings().iter().flat_map(|sharing| sharing.addresses.clone()).collect()
    }
}

impl fmt::Debug for WorkersHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorkersHandle")
    }
}

/// What no worker counts.
fn of_acceptors(stats: &Stats) -> Stats {
    let &Stats { accept_errors, accept_pauses, .. } = stats;
    Stats { accept_errors, accept_pauses, ..Stats::default() }
}
