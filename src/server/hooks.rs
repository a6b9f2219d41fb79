//! The hooks of a server: the methods that a subclass of Python's `BaseServer` can override.

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

/// The server's value. It contains the state that all handlers share as `request.server`, and implements the hooks of
/// Python's class of the same name. Every hook has a default that behaves like Python's, so `impl BaseServer for
/// MyState {}` is enough.
///
/// `()` is the value without state and with all defaults.
///
/// Hooks run on the reactor's thread and must not block. A panic in a hook is caught, counted and logged, and the
/// affected request is closed. `server_bind` and `server_activate` run inside a call that you make. If they panic, that
/// call returns [`Error::Panicked`].
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
/// A value that overrides no hooks also needs an implementation, `impl BaseServer for Chat {}`. The compiler reports an
/// error if it is missing:
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
    /// Binds the socket to `address`. An override can set further options on the socket first. Called once for each
    /// address.
    ///
    /// # Errors
    /// The error from bind(2). It is reported as [`Error::Bind`].
    fn server_bind(&mut self, socket: &Socket, address: &Address) -> io::Result<()> {
        socket.bind(address)
    }

    /// Makes a bound socket listen. Does nothing for a datagram socket.
    ///
    /// # Errors
    /// The error from listen(2). It is reported as [`Error::Listen`].
    fn server_activate(&mut self, socket: &Socket, request_queue_size: i32) -> io::Result<()> {
        socket.listen(request_queue_size)
    }

    /// Accepts a waiting client. Called repeatedly until it returns [`WouldBlock`](io::ErrorKind::WouldBlock) or the
    /// turn's accept budget is used up. Not called for datagrams, because several are received at a time.
    ///
    /// # Errors
    /// The error from accept(2). An error that affects only one client is counted. Any other error pauses accepting for
    /// a while. An error that occurs after [`Listener::accept`] has returned a client affects only that client, which
    /// is dropped and counted in [`Stats::accept_errors`](crate::Stats).
    fn get_request(&mut self, listener: &mut Listener) -> io::Result<(Stream, Address)> {
        listener.accept()
    }

    /// Returns whether a request should be served. If not, the connection is closed immediately or the datagram is
    /// dropped, and the request is counted as refused. Called once for each connection and for each datagram that does
    /// not belong to a session.
    fn verify_request(&mut self, request: &Incoming<'_>, client_address: &Address) -> bool {
        let _ = (request, client_address);
        true
    }

    /// Returns where a verified request is served: on the reactor, with the handler from
    /// [`finish_request`](Self::finish_request), or in a place that may block.
    ///
    /// Source: `process_request`, which `ThreadingMixIn` and `ForkingMixIn` override.
    fn process_request(&mut self, request: &Incoming<'_>, client_address: &Address) -> ServeOn<Self> {
        let _ = (request, client_address);
        ServeOn::Reactor
    }

    /// Returns the handler for one request. With `None`, the closure that was passed to the server creates the handler,
    /// like Python's `RequestHandlerClass`.
    fn finish_request(&mut self, client_address: &Address) -> Option<Box<dyn RequestHandler<Self>>> {
        let _ = client_address;
        None
    }

    /// Called for a request that the server closes first, when all output has been sent and just before our direction
    /// is ended. The reactor ends the direction with shutdown(2) or close(2). The default implementation does nothing.
    /// If your program holds duplicates of the descriptor, call shutdown(2) here, because close(2) does not end the
    /// connection while duplicates are open. Not called if the peer closed first, if the request is aborted, refused or
    /// served elsewhere, or for datagrams.
    ///
    /// # Errors
    /// Errors are not reported. The connection always ends.
    fn shutdown_request(&mut self, request: &Stream, client_address: &Address) -> io::Result<()> {
        let _ = (request, client_address);
        Ok(())
    }

    /// Called when a request has ended, after its handler's `finish`. Also called for refused requests and for outbound
    /// connections. By then the crate has logged the end at level `Debug`, including the limit that caused it, if any.
    /// For a session of a datagram server, the hook is called once, when the session ends.
    fn close_request(&mut self, client_address: &Address, why: EndReason) {
        let _ = (client_address, why);
    }

    /// Called for a datagram longer than [`Limits::max_packet_size`](crate::Limits). `packet` is truncated to that
    /// size. The datagram is counted. If the hook returns true, the truncated datagram is served. By default, the
    /// datagram is logged and dropped.
    ///
    /// Source: none; Python's servers serve it silently.
    fn datagram_truncated(&mut self, packet: &[u8], client_address: &Address) -> bool {
        note_fault!(Warn, "a datagram from {client_address} is longer than {} bytes and is dropped", packet.len());
        false
    }

    /// Called before a request is closed because of an error: one that a callback or hook returned, its panic, or a
    /// system error if the connection could not be watched. The default implementation logs the error, at most ten
    /// times a second.
    ///
    /// Source: `handle_error`, which prints to standard error.
    fn handle_error(&mut self, client_address: &Address, error: &Error) {
        note_fault!(Error, "while serving {client_address}: {error:#}");
    }

    /// Called when the handshake of TLS has failed, or was not complete in time. The peer has been sent an alert, except
    /// after a timeout. The crate has logged the reason at level `Debug`, at most ten times a second. This hook is called
    /// each time. Not called if the client has closed the connection before its first byte, as health checks do; nor for
    /// outbound connections, whose handler gets [`connect_failed`](RequestHandler::connect_failed). The error is an
    /// [`Error::Tls`].
    ///
    /// Source: none; in Python, `do_handshake` raises `ssl.SSLError`.
    fn handshake_failed(&mut self, client_address: &Address, error: &Error) {
        let _ = (client_address, error);
    }

    /// Called when [`handle_request`](crate::TcpServer::handle_request) has waited for
    /// [`timeout`](crate::TcpServer::timeout) and no client has arrived.
    fn handle_timeout(&mut self) {}

    /// Called once when a stop was requested ([`ShutdownHandle::shutdown`](crate::ShutdownHandle::shutdown), a signal, a
    /// handler), before anything else happens: the listeners are open, and no connection was asked to end. The drain
    /// begins after [`ReactorConfig::drain_delay`](crate::ReactorConfig). Use it to report that the service is not ready
    /// any more, or that it stops: `STOPPING=1` for systemd. A server that is added during a stop is not told. The
    /// default implementation does nothing.
    fn stopping(&mut self, others: &mut Others<'_, Self>) {
        let _ = others;
    }

    /// Called when the server should read its configuration again: after SIGHUP, if
    /// [`Reactor::reload_on_signal`](crate::Reactor::reload_on_signal) was called, and by
    /// [`Reactor::reload`](crate::Reactor::reload). Limits are replaced with [`Others::set_limits`], and certificates with
    /// `TlsAcceptor::replace`. Open connections go on. A file that takes long to read should be read on another thread,
    /// which sends the result to the hook [`message`](Self::message). The default implementation does nothing.
    ///
    /// ```
    /// use socketserver::{BaseServer, Limits, Others};
    ///
    /// struct Service;
    /// impl BaseServer for Service {
    ///     fn reload(&mut self, others: &mut Others<'_, Self>) {
    ///         let mut limits = Limits::default();
    ///         limits.connections_max = std::env::var("CONNECTIONS_MAX").ok().and_then(|max| max.parse().ok());
    ///         if let Err(error) = others.set_limits(others.server_id(), limits) {
    ///             eprintln!("{error}; the limits stay as they were");
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// Source: none; daemons read their configuration again on SIGHUP, daemon(7).
    fn reload(&mut self, others: &mut Others<'_, Self>) {
        let _ = others;
    }

    /// Called once in every turn of the loop. Turns do not occur at regular intervals. For regular work, set a
    /// [periodic timer](Others::set_server_interval).
    fn service_actions(&mut self, others: &mut Others<'_, Self>) {
        let _ = others;
    }

    /// Called when a timer set with [`Others::set_server_timer`] is due. The timer is then removed, unless it is
    /// [periodic](Others::set_server_interval).
    fn timer(&mut self, others: &mut Others<'_, Self>, tag: u64) {
        let _ = (others, tag);
    }

    /// Called for a message from another thread: [`Handle::send_to_server`](crate::Handle::send_to_server).
    fn message(&mut self, others: &mut Others<'_, Self>, message: Message) {
        let _ = (others, message);
    }

    /// Called after the server has been closed: its sockets are closed, and `finish` has been called for every handler.
    fn server_close(&mut self) {}
}

impl BaseServer for () {}

/// A request that is not being served yet. It is passed to [`verify_request`](BaseServer::verify_request) and
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
        /// The contents of the datagram. They are incomplete only if
        /// [`datagram_truncated`](BaseServer::datagram_truncated) returned true.
        packet: &'a [u8],
        /// The address that [`local_address`](Incoming::local_address) returns.
        local_address: Option<&'a Address>,
    },
}

impl Incoming<'_> {
    /// Returns the local address, which distinguishes requests to different addresses of the server. For a datagram,
    /// see [`Request::local_address`](crate::Request::local_address). Returns `None` if the connection is already
    /// broken.
    pub fn local_address(&self) -> Option<Address> {
        match self {
            Incoming::Stream(stream) => stream.local_address(),
            Incoming::Datagram { local_address, .. } => local_address.cloned(),
        }
    }
}
