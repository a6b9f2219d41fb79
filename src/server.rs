//! What users configure: the server's own value with Python's hooks, and the servers themselves.

mod host;
mod tcp;

use std::io;
use std::net::SocketAddr;

pub(crate) use self::host::Host;
pub use self::tcp::TcpServer;
use crate::address::Address;
use crate::error::Error;
use crate::handler::RequestHandler;
use crate::lifecycle::Finish;
use crate::logging::note_fault;
use crate::net::{Listener, Socket, Stream};
use crate::reactor::handle::Message;
use crate::request::Control;

/// The server's own value: state that all its handlers share as `request.server`, and the hooks of Python's class of
/// this name. Every hook has a default, and it does what Python's does; `impl BaseServer for MyState {}` is enough.
///
/// `()` is the server with no state and all defaults.
///
/// Hooks run on the reactor's thread and must not block. A panic in one is caught, counted and logged; the request it
/// was about is closed. Only `server_bind` and `server_activate` run before there is a loop, in your own call, and
/// panic there.
///
/// Source: `socketserver.BaseServer` and `TCPServer`.
///
/// ```
/// use socketserver::{Address, BaseServer, Stream};
/// use std::net::IpAddr;
///
/// struct Local;
/// impl BaseServer for Local {
///     fn verify_request(&mut self, _request: &Stream, client_address: &Address) -> bool {
///         client_address.ip().is_some_and(|ip| ip.is_loopback())
///     }
/// }
/// ```
pub trait BaseServer: Sized + Send + 'static {
    /// Binds the socket to `address`; set further options on it before. Called once for each address tried.
    ///
    /// # Errors
    /// What bind(2) says. Reported as [`Error::Bind`].
    fn server_bind(&mut self, socket: &Socket, address: SocketAddr) -> io::Result<()> {
        socket.bind(address)
    }

    /// Makes a bound socket listen.
    ///
    /// # Errors
    /// What listen(2) says. Reported as [`Error::Listen`].
    fn server_activate(&mut self, socket: &Socket, request_queue_size: i32) -> io::Result<()> {
        socket.listen(request_queue_size)
    }

    /// Takes a waiting client from the listener. Called until it says
    /// [`WouldBlock`](io::ErrorKind::WouldBlock), or the turn's budget of accepts is used up.
    ///
    /// # Errors
    /// What accept(2) says. One that concerns a single client is counted; any other pauses accepting for a while.
    fn get_request(&mut self, listener: &mut Listener) -> io::Result<(Stream, Address)> {
        listener.accept()
    }

    /// Says whether a client is to be served; if not it is closed at once and counted as refused.
    fn verify_request(&mut self, request: &Stream, client_address: &Address) -> bool {
        let _ = (request, client_address);
        true
    }

    /// Says who serves a verified request: given back, the reactor does; kept (`None`), it is yours, to serve it on a
    /// thread for example, and the reactor forgets it.
    fn process_request(&mut self, request: Stream, client_address: &Address) -> Option<Stream> {
        let _ = client_address;
        Some(request)
    }

    /// Chooses the handler of one request. `None`: the one made by the function the server was given, Python's
    /// `RequestHandlerClass`.
    fn finish_request(&mut self, client_address: &Address) -> Option<Box<dyn RequestHandler<Self>>> {
        let _ = client_address;
        None
    }

    /// Ends our direction of a request that the server closes first, once everything is sent. Not called if the peer
    /// was first, because then closing does it, nor if the request is aborted.
    ///
    /// # Errors
    /// What shutdown(2) says. Not reported: the connection is closed next in any case.
    fn shutdown_request(&mut self, request: &Stream, client_address: &Address) -> io::Result<()> {
        let _ = client_address;
        request.shutdown(std::net::Shutdown::Write)
    }

    /// Called when a request is over, after its handler's `finish`; also for one that was refused, and for outbound
    /// connections.
    fn close_request(&mut self, client_address: &Address, why: Finish) {
        let _ = (client_address, why);
    }

    /// Called with the error that a callback or hook returned, or its panic, before the request is closed. Logs it, at
    /// most ten a second.
    ///
    /// Source: `handle_error`, which prints to standard error.
    fn handle_error(&mut self, client_address: &Address, error: &Error) {
        note_fault!(Error, "while serving {client_address}: {error}");
    }

    /// Called when [`handle_request`](TcpServer::handle_request) waited for [`timeout`](TcpServer::timeout) in vain.
    fn handle_timeout(&mut self) {}

    /// Called once in every turn of the loop. There is no tick: for something regular, set a timer.
    fn service_actions(&mut self, control: &mut Control<'_, Self>) {
        let _ = control;
    }

    /// Called when a timer set with [`Control::set_timer`] is due. It is then unset.
    fn timer(&mut self, control: &mut Control<'_, Self>, tag: u64) {
        let _ = (control, tag);
    }

    /// Called for a message from another thread: [`Handle::send_to_server`](crate::Handle::send_to_server).
    fn message(&mut self, control: &mut Control<'_, Self>, message: Message) {
        let _ = (control, message);
    }

    /// Called when the server was closed: its sockets are, and every handler had its `finish`.
    fn server_close(&mut self) {}
}

impl BaseServer for () {}
