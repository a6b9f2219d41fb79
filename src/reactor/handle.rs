//! Access to the reactor from other threads: the commands and the handles that submit them.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use super::mailbox::Mailbox;
use crate::address::Address;
use crate::error::{Error, Result};
use crate::ids::{ConnectionId, ServerId};
use crate::net::packet::Route;
use crate::net::selector::Waker;
use crate::panics::drop_each;

/// Submits work to a reactor from any thread: messages for a connection or a server, closures for the reactor.
///
/// A handle of a [`Server`](crate::Server) refers to the reactor that has the server. Anything submitted through it
/// before the server has a reactor is kept until then.
///
/// A handle is cheap to clone. Submitted work is handled in order, in the loop's next turn:
/// [`ReactorConfig::messages_per_turn`](crate::ReactorConfig) at a time. At most
/// [`ReactorConfig::messages_max`](crate::ReactorConfig) wait.
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
    pub(super) shared: Arc<Shared>,
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Handle { shared }
    }

    /// Delivers `value` to the [`message`](crate::RequestHandler::message) callback of a connection. If the connection
    /// is gone by then, the message is dropped and counted. So is a message for a request on a thread or of a program,
    /// which has no such callback. Use a channel for a thread.
    ///
    /// # Errors
    /// [`Error::Full`] if the queue is full, [`Error::Gone`] if the reactor is gone or the id belongs to another
    /// reactor.
    pub fn send(&self, connection: ConnectionId, value: impl Any + Send) -> Result<()> {
        self.reactor_of(connection)?.submit(Command::Message(connection, Message::new(value)), true)
    }

    /// Delivers `value` to the [`message`](crate::BaseServer::message) hook of a server. If the server is closed by
    /// then, or in another reactor, the message is dropped and counted.
    ///
    /// # Errors
    /// [`Error::Full`] if the queue is full, [`Error::Gone`] if the reactor is gone.
    pub fn send_to_server(&self, server: ServerId, value: impl Any + Send) -> Result<()> {
        self.shared.submit(Command::ServerMessage(server, Message::new(value)), true)
    }

    /// The mailbox, if the id belongs to the reactor of this handle.
    fn reactor_of(&self, id: ConnectionId) -> Result<Arc<Shared>> {
        let end = self.shared.end();
        if end.owner() == Some(id.reactor) { Ok(end) } else { Err(Error::Gone) }
    }

    /// Returns a handle that stops the reactor.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        ShutdownHandle::new(Arc::clone(&self.shared))
    }

    /// Refuses all later work, and drops what waits: for a reactor that has panicked while it was dropped.
    pub(crate) fn close(&self) {
        drop_each(self.shared.close());
    }

    /// Returns whether something was submitted that the next turn will see.
    pub(crate) fn is_pending(&self) -> bool {
        self.shared.is_pending()
    }

    /// Returns whether something was submitted that no turn would see.
    pub(crate) fn waits_unmarked(&self) -> bool {
        self.shared.waits_unmarked()
    }

    /// Reports the end of a request that was served elsewhere. It is never refused: there are no more reports than
    /// admitted requests.
    pub(crate) fn over(&self, request: ConnectionId, result: Result<()>) {
        let _ = self.shared.submit(Command::Over(request, result), false); // A reactor that is gone needs none.
    }

    /// Sends a datagram as the answer to a received one. The socket is named with its generation as well: when a thread
    /// answers, the socket may be closed and its slot reused.
    pub(crate) fn send_datagram(&self, socket: ConnectionId, route: Route, to: Address, bytes: Vec<u8>) -> Result<()> {
        self.reactor_of(socket)?.submit(Command::Datagram(socket, route, to, bytes), true)
    }

    /// Delivers the result of an offloaded job. It is never refused: there are no more results than admitted jobs.
    pub(crate) fn deliver(&self, connection: ConnectionId, result: Result<Message>) {
        let _ = self.shared.submit(Command::Offloaded(connection, result), false); // A reactor that is gone needs none.
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle")
    }
}

/// Stops a reactor from anywhere: from another thread, a handler, or the thread of a signal handler; before, during or
/// after `serve_forever`. It never blocks, so it cannot deadlock. It takes effect immediately.
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
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        ShutdownHandle { shared }
    }

    /// Stops gracefully: no more clients are accepted, [`drain`](crate::RequestHandler::drain) is called for every
    /// handler, and output is flushed. After [`ReactorConfig::drain_grace`](crate::ReactorConfig) the remaining
    /// connections are aborted. Then `serve_forever` returns. If it is called before `serve_forever`, `serve_forever`
    /// returns immediately.
    pub fn shutdown(&self) {
        self.shared.request_drain();
    }

    /// Returns whether a stop was requested, and neither `serve_forever` nor [`Reactor::poll`](crate::Reactor::poll)
    /// has returned because of it. A loop of [`handle_request`](crate::Server::handle_request) can check it.
    pub fn is_requested(&self) -> bool {
        self.shared.end().drain_requested()
    }

    /// Stops without waiting, even during a [`shutdown`](Self::shutdown) and during the wait for threads after it
    /// ([`Limits::block_on_close`](crate::Limits)). A busy thread continues until its handler returns or the process
    /// ends.
    pub fn shutdown_now(&self) {
        self.shared.request_now();
    }
}

impl fmt::Debug for ShutdownHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShutdownHandle")
    }
}

/// A value of any type on its way to a callback.
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

    /// Returns whether the value is a `T`.
    pub fn is<T: Any>(&self) -> bool {
        self.0.is::<T>()
    }

    /// Takes the value out.
    ///
    /// # Errors
    /// The message itself if the value is not a `T`.
    pub fn downcast<T: Any>(self) -> Result<T, Message> {
        self.0.downcast().map(|value| *value).map_err(Message)
    }
}

/// State that the handles and the reactor share.
pub(crate) type Shared = Mailbox<Command, Waker>;

/// A closure that is given the reactor.
pub(super) type Closure = Box<dyn FnOnce(&mut dyn Any) + Send>;

pub(crate) enum Command {
    Message(ConnectionId, Message),
    ServerMessage(ServerId, Message),
    Offloaded(ConnectionId, Result<Message>),
    /// A request that was served elsewhere is over.
    Over(ConnectionId, Result<()>),
    /// A datagram of a thread, to send by the socket in this slot if it is still there.
    Datagram(ConnectionId, Route, Address, Vec<u8>),
    Run(Closure),
}
