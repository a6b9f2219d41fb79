//! The hooks of a server: the methods of Python's `BaseServer` that a subclass overrides.

use std::io;

use crate::address::Address;
use crate::blocking::ServeOn;
use crate::error::Error;
use crate::handler::RequestHandler;
use crate::handler::others::Others;
use crate::lifecycle::EndReason;
use crate::logging::note_fault;
use crate::net::{Listener, Socket, Stream};
use crate::reactor::handle::Message;

/// The server's value: state that all its handlers share as `request.server`, and the hooks of Python's class of this
/// name. Every hook has a default, which does the same as Python's. `impl BaseServer for MyState {}` is enough.
///
/// `()` is the value without state and with all defaults.
///
/// Hooks run on the reactor's thread and must not block. A panic in a hook is caught, counted and logged, and its
/// request is closed. `server_bind` and `server_activate` run in your own call, which then returns [`Error::Panicked`].
///
/// Source: `socketserver.BaseServer` and `TCPServer`.
///
/// ```
/// use socketserver::{Address, BaseServer, Incoming};
///
/// struct Local;
/// impl BaseServer for Local {
///     fn verify_request(&mut self, _request: &Incoming<'_>, client_address: &Address) -> bool {
///         client_address.ip().is_some_and(|ip| ip.is_loopback())
///     }
/// }
/// ```
///
/// A value without hooks needs `impl BaseServer for Chat {}` as well. The compiler reports it if that is missing:
///
/// ```compile_fail,E0277
/// # use socketserver::{NoHandler, TcpServer};
/// struct Chat;
/// let server = TcpServer::with_server("127.0.0.1:0", Chat, |_, _| NoHandler)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the value of a server",
    label = "`BaseServer` is not implemented",
    note = "add `impl BaseServer for {Self} {{}}`: it has Python's hooks, and all of them have defaults"
)]
pub trait BaseServer: Sized + Send + 'static {
    /// Binds the socket to `address`. Set further options on it before. Called once for each address.
    ///
    /// # Errors
    /// Errors of bind(2). Reported as [`Error::Bind`].
    fn server_bind(&mut self, socket: &Socket, address: &Address) -> io::Result<()> {
        socket.bind(address)
    }

    /// Makes a bound socket listen. For a datagram socket, it does nothing.
    ///
    /// # Errors
    /// Errors of listen(2). Reported as [`Error::Listen`].
    fn server_activate(&mut self, socket: &Socket, request_queue_size: i32) -> io::Result<()> {
        socket.listen(request_queue_size)
    }

    /// Accepts a waiting client. Called until it returns [`WouldBlock`](io::ErrorKind::WouldBlock), or until the turn's
    /// budget of accepts is used up. Not called for datagrams, because several come at once.
    ///
    /// # Errors
    /// Errors of accept(2). An error that concerns a single client is counted, and any other pauses accepting for a
    /// while. An error after [`Listener::accept`] has returned a client concerns that client: it is dropped and counted
    /// in [`Stats::accept_errors`](crate::Stats).
    fn get_request(&mut self, listener: &mut Listener) -> io::Result<(Stream, Address)> {
        listener.accept()
    }

    /// Returns whether to serve a request. If not, it is closed at once, or the datagram dropped, and counted as
    /// refused. Called once for each connection, and for each datagram that belongs to no session.
    fn verify_request(&mut self, request: &Incoming<'_>, client_address: &Address) -> bool {
        let _ = (request, client_address);
        true
    }

    /// Returns where to serve a verified request: on the reactor, with the handler of
    /// [`finish_request`](Self::finish_request), or where it may block.
    ///
    /// Source: `process_request`, which `ThreadingMixIn` and `ForkingMixIn` override.
    fn process_request(&mut self, request: &Incoming<'_>, client_address: &Address) -> ServeOn<Self> {
        let _ = (request, client_address);
        ServeOn::Reactor
    }

    /// Chooses the handler of one request. `None`: the one made by the server's closure, Python's
    /// `RequestHandlerClass`.
    fn finish_request(&mut self, client_address: &Address) -> Option<Box<dyn RequestHandler<Self>>> {
        let _ = client_address;
        None
    }

    /// Called before our direction of a connection ends, if the server closes first and everything is sent. The reactor
    /// ends it, by shutdown(2) or close(2); this hook does nothing. If you have copies of the descriptor, call
    /// shutdown(2) here, because closing has no effect as long as they are open. Not called if the peer closed first,
    /// nor if the request is aborted, refused or served elsewhere, nor for datagrams.
    ///
    /// # Errors
    /// Not reported: the connection ends in any case.
    fn shutdown_request(&mut self, request: &Stream, client_address: &Address) -> io::Result<()> {
        let _ = (request, client_address);
        Ok(())
    }

    /// Called when a request is over, after its handler's `finish`; also for a refused request, and for outbound
    /// connections. The crate has logged the end by then, at level `Debug`, with the limit that caused it. For a
    /// session of a datagram server it is called once, at its end.
    fn close_request(&mut self, client_address: &Address, why: EndReason) {
        let _ = (client_address, why);
    }

    /// Called with a datagram longer than [`Limits::max_packet_size`](crate::Limits), cut to that. It is counted.
    /// Return true to serve the cut datagram. By default it is logged and dropped.
    ///
    /// Source: none; Python's servers serve it silently.
    fn datagram_truncated(&mut self, packet: &[u8], client_address: &Address) -> bool {
        note_fault!(Warn, "a datagram from {client_address} is longer than {} bytes and is dropped", packet.len());
        false
    }

    /// Called before a request is closed because of an error: with the error that a callback or hook returned, with its
    /// panic, or with the system's error if it cannot watch the connection. Logs it, at most ten a second.
    ///
    /// Source: `handle_error`, which prints to standard error.
    fn handle_error(&mut self, client_address: &Address, error: &Error) {
        note_fault!(Error, "while serving {client_address}: {error:#}");
    }

    /// Called when [`handle_request`](crate::TcpServer::handle_request) waited for
    /// [`timeout`](crate::TcpServer::timeout) and no client came.
    fn handle_timeout(&mut self) {}

    /// Called once in every turn of the loop. There is no tick. For regular work, set a [periodic
    /// timer](Others::set_server_interval).
    fn service_actions(&mut self, others: &mut Others<'_, Self>) {
        let _ = others;
    }

    /// Called when a timer set with [`Others::set_server_timer`] is due. It is then unset, unless it is
    /// [periodic](Others::set_server_interval).
    fn timer(&mut self, others: &mut Others<'_, Self>, tag: u64) {
        let _ = (others, tag);
    }

    /// Called for a message from another thread: [`Handle::send_to_server`](crate::Handle::send_to_server).
    fn message(&mut self, others: &mut Others<'_, Self>, message: Message) {
        let _ = (others, message);
    }

    /// Called when the server was closed: its sockets are closed, and every handler had its `finish`.
    fn server_close(&mut self) {}
}

impl BaseServer for () {}

/// A request that is not served yet, the argument of [`verify_request`](BaseServer::verify_request) and
/// [`process_request`](BaseServer::process_request).
///
/// Source: the `request` of those methods in Python: a socket, or for datagrams a pair of data and socket.
///
/// ```
/// use socketserver::{Address, BaseServer, Incoming};
///
/// struct Server;
/// impl BaseServer for Server {
///     fn verify_request(&mut self, request: &Incoming<'_>, _client_address: &Address) -> bool {
///         match request {
///             Incoming::Stream(_) => true,
///             Incoming::Datagram { packet, .. } => packet.starts_with(b"v1 "),
///             _ => false,
///         }
///     }
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Incoming<'a> {
    /// A connection.
    Stream(&'a Stream),
    /// A datagram.
    #[non_exhaustive]
    Datagram {
        /// Its bytes: all of them, or a part if [`datagram_truncated`](BaseServer::datagram_truncated) returned true.
        packet: &'a [u8],
        /// See [`local_address`](Incoming::local_address).
        local_address: Option<&'a Address>,
    },
}

impl Incoming<'_> {
    /// The address of our end, to distinguish requests of several addresses. For a datagram, see
    /// [`Request::local_address`](crate::Request::local_address). `None` if the connection is broken already.
    pub fn local_address(&self) -> Option<Address> {
        match self {
            Incoming::Stream(stream) => stream.local_address(),
            Incoming::Datagram { local_address, .. } => local_address.cloned(),
        }
    }
}
