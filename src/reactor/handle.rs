//! The way into the reactor from other threads: what can be submitted, and by whom.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use super::mailbox::Mailbox;
use crate::address::Address;
use crate::error::{Error, Result};
use crate::ids::{ConnectionId, ServerId};
use crate::net::packet::Route;
use crate::net::selector::Waker;

/// Submits work to a reactor from any thread: messages for a connection or a server, closures for the reactor.
///
/// One that is taken from a [`Server`](crate::Server) leads to the reactor that has the server, and what it is given before
/// there is one waits.
///
/// Cheap to clone. What is submitted is handled in order, in the loop's next turn;
/// [`ReactorConfig::messages_per_turn`](crate::ReactorConfig) at a time, and at most [`ReactorConfig::messages_max`](crate::ReactorConfig) wait.
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

    /// Delivers `value` to the [`message`](crate::RequestHandler::message) callback of a connection. If the
    /// connection is gone by then it is dropped and counted. So is one for a request on a thread or with a program, which
    /// has no such callback: give a thread a channel of its own.
    ///
    /// # Errors
    /// [`Error::Full`] if the queue is full, [`Error::Gone`] if the reactor is gone, or the id is another reactor's.
    pub fn send(&self, connection: ConnectionId, value: impl Any + Send) -> Result<()> {
        self.reactor_of(connection)?.submit(Command::Message(connection, Message::new(value)), true)
    }

    /// Delivers `value` to the [`message`](crate::BaseServer::message) hook of a server. If the server is closed by then,
    /// or in another reactor, it is dropped and counted.
    ///
    /// # Errors
    /// [`Error::Full`] if the queue is full, [`Error::Gone`] if the reactor is gone.
    pub fn send_to_server(&self, server: ServerId, value: impl Any + Send) -> Result<()> {
        self.shared.submit(Command::ServerMessage(server, Message::new(value)), true)
    }

    /// Its mailbox, if the id is of the reactor that this leads to.
    fn reactor_of(&self, id: ConnectionId) -> Result<Arc<Shared>> {
        let end = self.shared.end();
        if end.owner() == Some(id.reactor) { Ok(end) } else { Err(Error::Gone) }
    }

    /// What stops the reactor.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        ShutdownHandle::new(Arc::clone(&self.shared))
    }

    /// Whether something was submitted that the loop has not taken.
    pub(crate) fn has_waiting(&self) -> bool {
        self.shared.has_waiting()
    }

    /// A request that was served elsewhere is over. Not refused: there are no more of them than were admitted.
    pub(crate) fn over(&self, request: ConnectionId, result: Result<()>) {
        let _ = self.shared.submit(Command::Over(request, result), false); // Gone: nobody is left to tell.
    }

    /// Sends a datagram as the answer to one that came that way. The socket is named with its generation as well: by the
    /// time a thread answers, it may be closed, and its slot another's.
    pub(crate) fn send_datagram(&self, socket: ConnectionId, route: Route, to: Address, bytes: Vec<u8>) -> Result<()> {
        self.reactor_of(socket)?.submit(Command::Datagram(socket, route, to, bytes), true)
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
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        ShutdownHandle { shared }
    }

    /// Stops in good order: no more clients are accepted, every handler is told
    /// ([`drain`](crate::RequestHandler::drain)), output is flushed; after [`ReactorConfig::drain_grace`](crate::ReactorConfig)
    /// whoever is left is aborted. Then `serve_forever` returns. A call before it makes it return at once.
    pub fn shutdown(&self) {
        self.shared.request_drain();
    }

    /// Whether a stop was asked for, and neither `serve_forever` nor [`Reactor::poll`](crate::Reactor::poll) has
    /// returned because of it: so a loop of [`handle_request`](crate::Server::handle_request) sees it, too.
    pub fn is_requested(&self) -> bool {
        self.shared.end().drain_requested()
    }

    /// Stops without waiting for anybody, also in the middle of a [`shutdown`](Self::shutdown), and of the wait for
    /// threads after it ([`Limits::block_on_close`](crate::Limits)). A thread that is busy goes on until its handler
    /// returns or the process ends.
    pub fn shutdown_now(&self) {
        self.shared.request_now();
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

/// What the handles and the reactor share.
pub(crate) type Shared = Mailbox<Command, Waker>;

/// A closure for the reactor, which is what it is given.
pub(super) type Closure = Box<dyn FnOnce(&mut dyn Any) + Send>;

pub(crate) enum Command {
    Message(ConnectionId, Message),
    ServerMessage(ServerId, Message),
    Offloaded(ConnectionId, Result<Message>),
    /// A request that was served elsewhere is over.
    Over(ConnectionId, Result<()>),
    /// A datagram from a thread, to leave by the socket in this slot if that is still there.
    Datagram(ConnectionId, Route, Address, Vec<u8>),
    Run(Closure),
}
