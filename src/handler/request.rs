//! What a callback works with: its own connection, and the way to everything else in the reactor.

use std::any::Any;
use std::time::Duration;

use crate::address::Address;
use crate::connection::Delivery;
use crate::connection::bounds::ConnectionLimits;
use crate::connection::input::Input;
use crate::connection::output::Output;
use crate::connection::state::State;
use crate::error::{Error, Result};
use crate::handler::RequestHandler;
use crate::handler::others::{Order, Others};
use crate::ids::ConnectionId;
use crate::lifecycle::{EndReason, Timeout};
use crate::reactor::handle::Message;
use crate::timers::period;

/// One connection during one callback: what arrived, what goes out, the server it belongs to, and all other
/// connections.
///
/// `input`, `output`, `server` and `others` are fields, so that all four can be used in one expression: the filter of
/// [`others.broadcast`](Others::broadcast) can read `request.server`. The methods act on this connection.
///
/// Source: `self` of a Python request handler, with its `request`, `rfile`, `wfile`, `client_address` and `server`.
///
/// ```
/// use socketserver::{testing::Client, Next, Request, RequestHandler, Result};
/// use std::io::Write;
///
/// struct Counter { lines: u64 }
/// struct Handler;
/// impl RequestHandler<Counter> for Handler {
///     fn handle(&mut self, request: &mut Request<'_, Counter>) -> Result<Next> {
///         while let Some(line) = request.input.read_line()? {
///             request.server.lines += 1;
///             write!(request.output, "{} ", request.server.lines)?;
///             request.output.write_all(line)?;
///         }
///         Ok(Next::Wait)
///     }
/// }
/// # impl socketserver::BaseServer for Counter {}
/// let mut client = Client::with_server(Counter { lines: 9 }, Handler);
/// client.feed(b"hello\n");
/// assert_eq!(client.sent(), b"10 hello\n");
/// ```
pub struct Request<'a, S = ()> {
    /// What arrived: Python's `rfile`.
    pub input: Input<'a>,
    /// What goes out: Python's `wfile`.
    pub output: Output<'a>,
    /// The server's own value, shared by all its connections: Python's `self.server`.
    pub server: &'a mut S,
    /// All other connections, and the reactor.
    pub others: Others<'a, S>,
    pub(crate) state: &'a mut State,
    pub(crate) id: ConnectionId,
}

impl<'a, S> Request<'a, S> {
    /// This connection's name.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// The peer's address.
    pub fn client_address(&self) -> Address {
        self.state.address.clone()
    }

    /// Tells that the client of this connection is another one than its socket says, as a proxy in front of the server does
    /// in a header (`X-Forwarded-For`, or the PROXY protocol). Believe it only of a proxy that you know: anybody can write
    /// such a header.
    ///
    /// From now on that is the [`client_address`](Self::client_address) of this connection, here and in
    /// [`Others::client_address`], in `handle_error`, `shutdown_request`, `close_request` and the log. It counts among the
    /// connections of that client for [`Limits::connections_per_client_max`](crate::Limits), and no longer among the
    /// proxy's. That limit is looked at when a connection is accepted, so let it be high enough for the proxy.
    ///
    /// # Errors
    /// [`Error::ClientLimit`](crate::Error::ClientLimit) if the client has more connections than it may have, this one
    /// included. If the callback returns the error, this connection ends as refused.
    /// [`Error::Setting`](crate::Error::Setting) for a datagram: its address is where the answer goes.
    pub fn set_client_address(&mut self, address: impl Into<Address>) -> Result<()> {
        let address = address.into();
        if self.state.is_datagram() {
            return Err(Error::setting(
                "client_address",
                address,
                "a datagram is answered to the address that it came from",
            ));
        }
        let before = std::mem::replace(&mut self.state.address, address);
        if self.state.is_outbound() {
            return Ok(());
        }
        self.others.core.recount_client(self.others.pending.server, &before, &self.state.address)
    }

    /// Our end of the connection; of a datagram, the address it was sent to, as far as the system tells (Linux with the
    /// feature `batch`), otherwise the one its socket is bound to. `None` if it is broken or closed already.
    pub fn local_address(&self) -> Option<Address> {
        match self.output.route() {
            None => self.output.local_address(),
            Some(route) => self.others.core.local_address(route),
        }
    }

    /// Whether it is a datagram, or a session of datagrams, and not a connection: for a server with sockets of both kinds
    /// ([`Unbound::server_bind_as`](crate::Unbound::server_bind_as)).
    pub fn is_datagram(&self) -> bool {
        self.state.is_datagram()
    }

    /// Sends a datagram to any address, through the socket that this request came by. Besides it what is written to
    /// [`output`](Self::output) still leaves as the answer. It goes out when the callbacks for what was just received are
    /// done; see [`Delivery`] for what becomes of it. A longer one than the system allows is dropped and counted.
    ///
    /// A connection that a handler of a datagram server has begun sends through the first socket of that server that is
    /// of the address's kind, as [`Others::send_to`] does.
    ///
    /// Source: `self.request[1].sendto` of Python's datagram handlers.
    pub fn send_to(&mut self, to: &Address, bytes: &[u8]) -> Delivery {
        let Some(route) = self.output.route() else { return self.others.send_to(to, bytes) };
        if *to == self.state.address {
            self.state.activity = self.others.core.now;
        }
        self.others.core.send_datagram(route, to, bytes)
    }

    /// Closes this connection after what is queued was sent, as [`Next::Close`](crate::Next::Close) does. `finish` gets
    /// [`EndReason::Done`].
    pub fn close(&mut self) {
        self.state.end(EndReason::Done, false);
    }

    /// Resets this connection, as [`Next::Abort`](crate::Next::Abort) does: what is queued is dropped.
    pub fn abort(&mut self) {
        self.state.end(EndReason::Done, true);
    }

    /// Ends our direction of this connection (FIN) once what is queued was sent. It is read on: half-close.
    pub fn shutdown_write(&mut self) {
        self.output.shut();
        self.state.phase.shut_down();
    }

    /// Stops reading this connection, so that the peer has to wait. Costs no system call. The read timeout stands still
    /// meanwhile. That the peer is gone is noticed when reading goes on, because what it sent before is handled first, or
    /// when something is sent to it, or by the idle timeout.
    ///
    /// Another handler reads it again with [`Others::resume_reading`].
    pub fn pause_reading(&mut self) {
        self.state.phase.pause();
    }

    /// Reads this connection again. What is left unread is handed to `handle` again.
    pub fn resume_reading(&mut self) {
        self.state.phase.resume();
    }

    /// Whether the reactor was asked to stop: see [`Others::is_stopping`].
    pub fn is_stopping(&self) -> bool {
        self.others.is_stopping()
    }

    /// Reads this connection even while its output is above
    /// [`Limits::output_high_water`](crate::Limits::output_high_water). Off by default: what a handler reads is what
    /// makes it write, so a peer that does not take its answers is not asked for more questions. On for a relay, where
    /// the two directions have nothing to do with each other and each has the flow control of its own.
    pub fn set_full_duplex(&mut self, on: bool) {
        self.state.set_full_duplex(on);
    }

    /// Sets a timer of this connection, or sets it anew if there is one of this tag. It calls
    /// [`timer`](RequestHandler::timer) once, never early. Those of the server are set with
    /// [`others.set_server_timer`](Others::set_server_timer).
    pub fn set_timer(&mut self, tag: u64, after: Duration) {
        self.others.core.set_handler_timer(self.id.slot.key, self.state, tag, after, None);
    }

    /// Sets a periodic timer of this connection, in place of any other of this tag. It calls
    /// [`timer`](RequestHandler::timer) first when the time `every` has passed, and then again and again, until it is
    /// [cancelled](Self::cancel_timer), set anew, or the connection ends. It does not drift, and ticks that were missed are
    /// not made up for: see [`Others::set_server_interval`].
    pub fn set_interval(&mut self, tag: u64, every: Duration) {
        let every_nanos = Some(period(every));
        self.others.core.set_handler_timer(self.id.slot.key, self.state, tag, every, every_nanos);
    }

    /// Unsets a timer of this connection, periodic or not. Returns whether it was set.
    pub fn cancel_timer(&mut self, tag: u64) -> bool {
        self.others.core.cancel_handler_timer(self.state, tag)
    }

    /// Gives this connection a limit of its own instead of the server's; `None` for no limit. With [`Timeout::Message`] the
    /// same as [`set_message_deadline`](Self::set_message_deadline).
    ///
    /// Source: `StreamRequestHandler.timeout`.
    pub fn set_timeout(&mut self, which: Timeout, time: Option<Duration>) {
        let extra = self.state.extra.get_or_insert_default();
        match which {
            Timeout::Idle => extra.idle_timeout = Some(time),
            Timeout::Read => extra.read_timeout = Some(time),
            Timeout::Write => extra.write_timeout = Some(time),
            Timeout::Message => return self.set_message_deadline(time),
        }
        self.state.phase.unwatched(); // The next deadline is worked out anew.
    }

    /// Gives this connection limits of its own instead of the server's, at once and for as long as it lives, also under
    /// another handler. They replace those of an earlier call; `ConnectionLimits::default()` takes all back. Changes of the
    /// server's limits do not concern a connection with limits of its own. If it holds more than it may now when the callback
    /// returns, it ends, with [`EndReason::OutputLimit`] or [`EndReason::InputLimit`].
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) if two of them contradict each other; then nothing is changed.
    pub fn set_limits(&mut self, limits: &ConnectionLimits) -> Result<()> {
        let server = self.output.server_limits();
        let before = self.state.bounds(server).input_bytes_max;
        let own = self.output.set_limits(limits)?;
        self.state.set_own_bounds(own);
        let lowered = self.state.bounds(server).input_bytes_max < before;
        self.others.pending.orders.push((self.id.slot.key, Order::Hold { lowered }));
        Ok(())
    }

    /// Gives the message that begins now so much time, or anew if one is under way; `None` when it is complete. What a
    /// message is, the handler says: from this call to the one with `None`, whatever arrives and is consumed meanwhile. For
    /// HTTP call it when the first byte of a request has come, and again for its body; for SMTP with the answer to `DATA`.
    ///
    /// When the time is over, [`timeout`](RequestHandler::timed_out) is called with [`Timeout::Message`], which by default
    /// ends the connection after a flush. A peer that sends one byte now and then does not escape it, as it escapes
    /// `read_timeout` if the handler consumes what comes. The time goes on while reading is paused. Costs no timer for each
    /// message. To demand a rate instead of a time for all, call it again whenever so many bytes have arrived.
    pub fn set_message_deadline(&mut self, within: Option<Duration>) {
        self.state.set_message_deadline(self.others.core.selector.now(), within);
    }

    /// Runs a blocking job on the reactor's thread pool and delivers what it returns to this connection's
    /// [`message`](RequestHandler::message); if the connection is gone by then, it is dropped, and a job that no thread has
    /// begun is dropped without being run. Nothing limits the jobs of one connection:
    /// [pause reading](Self::pause_reading) while one is at work. A job that panics ends the connection as a panicking callback would. A stop waits for it, within its grace; what else ends a connection
    /// (the end of the stream, the idle timeout) does not.
    ///
    /// # Errors
    /// [`Error::Full`](crate::Error::Full) beyond [`ReactorConfig::offload_queue_max`](crate::ReactorConfig) waiting jobs;
    /// [`Error::Reactor`](crate::Error::Reactor) if no thread could be started.
    pub fn offload<T: Any + Send>(&mut self, job: impl FnOnce() -> T + Send + 'static) -> Result<()> {
        self.others.core.offload(self.id, Box::new(|| Message::new(job())))?;
        self.state.add_job();
        Ok(())
    }

    /// Puts another handler in the place of this one when the callback returns: a protocol upgrade. Its `setup` is
    /// called, then `handle` if input is unread. `finish` is called on it alone; the old handler is dropped. So if that
    /// `setup` fails, nobody has a `finish`: what has to be undone in any case belongs into
    /// [`close_request`](crate::BaseServer::close_request), or into the handler's `Drop`. The request of a
    /// single datagram, which is over with its callback, cannot have another handler and ends with [`EndReason::Error`].
    pub fn replace_handler(&mut self, handler: impl RequestHandler<S>) {
        self.others.pending.orders.push((self.id.slot.key, Order::Serve(Box::new(handler))));
    }
}

impl<S> std::fmt::Debug for Request<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("id", &self.id).field("state", &self.state).finish_non_exhaustive()
    }
}
