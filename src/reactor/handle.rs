//! The way into the reactor from other threads: a bounded queue, and a wake-up that is sent once however many
//! messages wait.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::{ConnectionId, Reactor, ServerId};
use crate::address::Address;
use crate::error::{Error, Result};
use crate::net::Route;
use crate::panics::drop_caught;

/// Submits work to a reactor from any thread: messages for a connection or a server, closures for the reactor.
///
/// Cheap to clone. What is submitted is handled in order, in the loop's next turn;
/// [`Config::messages_per_turn`](crate::Config) at a time, and at most [`Config::messages_max`](crate::Config) wait.
///
/// ```
/// use socketserver::{Reactor, Result};
///
/// let mut reactor = Reactor::new()?;
/// let handle = reactor.handle();
/// let thread = std::thread::spawn(move || -> Result<()> {
///     handle.run(|reactor| println!("{} connections", reactor.stats().active))?;
///     handle.shutdown_handle().shutdown();
///     Ok(())
/// });
/// reactor.serve_forever()?;
/// thread.join().unwrap()?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Handle { shared }
    }

    /// Delivers `value` to the [`message`](crate::RequestHandler::message) callback of a connection. If the
    /// connection is gone by then it is dropped and counted.
    ///
    /// # Errors
    /// [`Error::Full`] if the queue is full, [`Error::Gone`] if the reactor is gone.
    pub fn send(&self, connection: ConnectionId, value: impl Any + Send) -> Result<()> {
        self.shared.submit(Command::Message(connection, Message::new(value)), true)
    }

    /// Delivers `value` to the [`message`](crate::BaseServer::message) hook of a server.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn send_to_server(&self, server: ServerId, value: impl Any + Send) -> Result<()> {
        self.shared.submit(Command::ServerMessage(server, Message::new(value)), true)
    }

    /// Runs `job` on the reactor's thread, between two turns' worth of connections. It must not block.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn run(&self, job: impl FnOnce(&mut Reactor) + Send + 'static) -> Result<()> {
        self.shared.submit(Command::Run(Box::new(job)), true)
    }

    /// What stops the reactor.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        ShutdownHandle { shared: Arc::clone(&self.shared) }
    }

    /// A request that was served elsewhere is over. Not refused: there are no more of them than were admitted.
    pub(crate) fn over(&self, request: ConnectionId, result: Result<()>) {
        let _ = self.shared.submit(Command::Over(request, result), false); // Gone: nobody is left to tell.
    }

    /// Sends a datagram as the answer to one that came that way. The socket is named with its generation as well: by the
    /// time a thread answers, it may be closed, and its slot another's.
    pub(crate) fn send_datagram(&self, socket: ConnectionId, route: Route, to: Address, bytes: Vec<u8>) -> Result<()> {
        self.shared.submit(Command::Datagram(socket, route, to, bytes), true)
    }

    /// The result of an offloaded job. Not refused: there are no more of them than jobs were admitted.
    pub(crate) fn deliver(&self, connection: ConnectionId, result: Result<Message>) {
        let _ = self.shared.submit(Command::Offloaded(connection, result), false); // Gone: nobody is left to tell.
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle")
    }
}

/// Stops a reactor, from anywhere: another thread, a handler, a signal handler's thread; before, during or after
/// `serve_forever`. Never blocks and so cannot deadlock; takes effect at once.
///
/// Source: `BaseServer.shutdown`, which waits, and deadlocks when called from the serving thread.
///
/// ```
/// # use socketserver::{Next, Request, RequestHandler, Result, TcpServer};
/// # struct Echo;
/// # impl RequestHandler for Echo {
/// #     fn handle(&mut self, _: &mut Request<'_>) -> Result<Next> { Ok(Next::Wait) }
/// # }
/// let mut server = TcpServer::new("127.0.0.1:0", |_| Echo)?;
/// let stop = server.shutdown_handle();
/// let thread = std::thread::spawn(move || server.serve_forever());
/// stop.shutdown();
/// thread.join().unwrap()?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone)]
pub struct ShutdownHandle {
    shared: Arc<Shared>,
}

impl ShutdownHandle {
    /// Stops in good order: no more clients are accepted, every handler is told
    /// ([`drain`](crate::RequestHandler::drain)), output is flushed; after [`Config::drain_grace`](crate::Config)
    /// whoever is left is aborted. Then `serve_forever` returns. A call before it makes it return at once.
    pub fn shutdown(&self) {
        self.shared.request(REQUEST_DRAIN);
    }

    /// Whether a stop was asked for and has not been carried out.
    pub fn is_requested(&self) -> bool {
        self.shared.drain_requested()
    }

    /// Stops without waiting for anybody, also in the middle of a [`shutdown`](Self::shutdown), and of the wait for
    /// threads after it ([`Limits::block_on_close`](crate::Limits)). A thread that is busy goes on until its handler
    /// returns or the process ends.
    pub fn shutdown_now(&self) {
        self.shared.request(REQUEST_NOW);
    }
}

impl fmt::Debug for ShutdownHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShutdownHandle")
    }
}

/// A value on its way to a callback: whatever the sender put in.
///
/// ```
/// use socketserver::Message;
///
/// let message = Message::new(42u32);
/// let message = message.downcast::<String>().unwrap_err(); // another type: given back
/// assert_eq!(message.downcast::<u32>().unwrap(), 42);
/// ```
#[derive(Debug)]
pub struct Message(Box<dyn Any + Send>);

impl Message {
    /// Wraps a value.
    pub fn new(value: impl Any + Send) -> Self {
        Message(Box::new(value))
    }

    /// Whether the value is a `T`.
    pub fn is<T: Any>(&self) -> bool {
        self.0.is::<T>()
    }

    /// Takes the value out.
    ///
    /// # Errors
    /// The message itself if the value is no `T`.
    pub fn downcast<T: Any>(self) -> Result<T, Message> {
        self.0.downcast().map(|value| *value).map_err(Message)
    }
}

/// What both sides of the queue hold.
pub(crate) struct Shared {
    queue: Mutex<Commands>,
    /// Set by the first of many submissions, which alone wakes the loop; cleared before the queue is read.
    pending: AtomicBool,
    request: AtomicU8,
    max: AtomicUsize,
    waker: OnceLock<mio::Waker>,
}

#[derive(Default)]
struct Commands {
    waiting: VecDeque<Command>,
    /// The reactor is gone.
    closed: bool,
}

pub(crate) enum Command {
    Message(ConnectionId, Message),
    ServerMessage(ServerId, Message),
    Offloaded(ConnectionId, Result<Message>),
    /// A request that was served elsewhere is over.
    Over(ConnectionId, Result<()>),
    /// A datagram from a thread, to leave by the socket in this slot if that is still there.
    Datagram(ConnectionId, Route, Address, Vec<u8>),
    Run(Box<dyn FnOnce(&mut Reactor) + Send>),
}

const REQUEST_DRAIN: u8 = 1;
const REQUEST_NOW: u8 = 2;

impl Shared {
    pub(crate) fn new(waker: Option<mio::Waker>, max: usize) -> Arc<Self> {
        Arc::new(Shared {
            queue: Mutex::default(),
            pending: AtomicBool::new(false),
            request: AtomicU8::new(0),
            max: AtomicUsize::new(max),
            waker: waker.map(OnceLock::from).unwrap_or_default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Commands> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    fn submit(&self, command: Command, bounded: bool) -> Result<()> {
        let mut queue = self.lock();
        let max = self.max.load(Ordering::Relaxed);
        if queue.closed {
            return Err(Error::Gone);
        }
        if bounded && queue.waiting.len() >= max {
            return Err(Error::Full { queue: "message", max });
        }
        queue.waiting.push_back(command);
        drop(queue);
        self.wake();
        Ok(())
    }

    fn request(&self, what: u8) {
        self.request.fetch_max(what, Ordering::AcqRel);
        self.wake();
    }

    fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel)
            && let Some(waker) = self.waker.get()
        {
            // It fails only if the eventfd is broken; the command is then handled with the next event.
            let _ = waker.wake();
        }
    }

    /// Whether anything was submitted since the last [`take`](Self::take).
    #[inline]
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    /// Takes up to `most` commands. The mark is cleared first, so that what comes meanwhile wakes the loop again, and
    /// set again if some are left.
    pub(crate) fn take(&self, most: usize) -> Vec<Command> {
        // A swap, not a store: whatever was submitted or requested before the mark was set is seen after it.
        self.pending.swap(false, Ordering::AcqRel);
        let mut queue = self.lock();
        let count = queue.waiting.len().min(most.max(1));
        let commands = queue.waiting.drain(..count).collect();
        if !queue.waiting.is_empty() {
            self.pending.store(true, Ordering::Release);
        }
        commands
    }

    pub(crate) fn drain_requested(&self) -> bool {
        self.request.load(Ordering::Acquire) >= REQUEST_DRAIN
    }

    pub(crate) fn now_requested(&self) -> bool {
        self.request.load(Ordering::Acquire) >= REQUEST_NOW
    }

    /// The request was carried out: `serve_forever` may be called again.
    pub(crate) fn clear_request(&self) {
        self.request.store(0, Ordering::Release);
    }

    /// The reactor goes: what waits is dropped, what comes is refused.
    pub(crate) fn close(&self) {
        let waiting = {
            let mut queue = self.lock();
            queue.closed = true;
            std::mem::take(&mut queue.waiting)
        };
        // Outside the lock, and one by one: dropping a message may run anything.
        waiting.into_iter().for_each(|command| _ = drop_caught(command));
    }
}
