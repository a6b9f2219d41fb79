//! The argument of a callback: its own connection, and access to everything else in the reactor.

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
use crate::ids::{ConnectionId, SlotId};
use crate::lifecycle::{EndReason, Timeout};
use crate::reactor::handle::Message;
use crate::timers::period;

/// One connection during one callback: its input, its output, its server, and all other connections.
///
/// `input`, `output`, `server` and `others` are fields, so one expression can use all four: the filter of
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
    /// The input: Python's `rfile`.
    pub input: Input<'a>,
    /// The output: Python's `wfile`.
    pub output: Output<'a>,
    /// The server's value, which all its connections share: Python's `self.server`.
    pub server: &'a mut S,
    /// All other connections, and the reactor.
    pub others: Others<'a, S>,
    pub(crate) state: &'a mut State,
    pub(crate) slot: SlotId,
}

impl<'a, S> Request<'a, S> {
    /// Returns this connection's id.
    pub fn id(&self) -> ConnectionId {
        self.others.core.slots.id_of(self.slot)
    }

    /// Returns the peer's address.
    pub fn client_address(&self) -> Address {
        self.state.address.clone()
    }

    /// Sets the client of this connection to another address than that of its socket, for example from a header of a
    /// proxy (`X-Forwarded-For`, or the PROXY protocol). Trust such a header only from a proxy that you know, because
    /// any client can write it.
    ///
    /// From now on this is the [`client_address`](Self::client_address) of this connection, here and in
    /// [`Others::client_address`], in `handle_error`, `shutdown_request`, `close_request` and the log. For
    /// [`Limits::connections_per_client_max`](crate::Limits) it counts as a connection of that client, and no longer as
    /// one of the proxy. That limit is checked when a connection is accepted, so make it high enough for the proxy.
    ///
    /// # Errors
    /// [`Error::ClientLimit`](crate::Error::ClientLimit) if the client now has too many connections. If the callback
    /// returns the error, this connection ends as refused. [`Error::Setting`](crate::Error::Setting) for a datagram,
    /// because its answer goes to its address.
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

    /// Returns the address of our end. For a datagram, it is the address to which it was sent, if the system reports it
    /// (Linux with the feature `batch`), and otherwise the address of its socket. `None` if the connection is broken or
    /// closed already.
    pub fn local_address(&self) -> Option<Address> {
        match self.output.route() {
            None => self.output.local_address(),
            Some(route) => self.others.core.local_address(route),
        }
    }

    /// Returns whether it is a datagram or a session of datagrams, for a server with sockets of both kinds
    /// ([`Unbound::server_bind_as`](crate::Unbound::server_bind_as)).
    pub fn is_datagram(&self) -> bool {
        self.state.is_datagram()
    }

    /// Sends a datagram to any address, through the socket of this request. The bytes written to
    /// [`output`](Self::output) still leave as the answer. It leaves when the callbacks for all just received datagrams
    /// are done. [`Delivery`] says what happens to it. A datagram that is longer than the system allows is dropped and
    /// counted.
    ///
    /// An outbound connection of a datagram server sends through the first socket of that server that is of the
    /// address's family, as [`Others::send_to`] does.
    ///
    /// Source: `self.request[1].sendto` of Python's datagram handlers.
    pub fn send_to(&mut self, to: &Address, bytes: &[u8]) -> Delivery {
        let Some(route) = self.output.route() else { return self.others.send_to(to, bytes) };
        if *to == self.state.address {
            self.state.activity = self.others.core.now;
        }
        self.others.core.send_datagram(route, to, bytes)
    }

    /// Closes this connection after its queued output was sent, as [`Next::Close`](crate::Next::Close) does. `finish`
    /// gets [`EndReason::Done`].
    pub fn close(&mut self) {
        self.state.end(EndReason::Done, false);
    }

    /// Resets this connection and drops its queued output, as [`Next::Abort`](crate::Next::Abort) does.
    pub fn abort(&mut self) {
        self.state.end(EndReason::Done, true);
    }

    /// Ends our direction of this connection (FIN) once its queued output was sent. It is still read: half-close.
    pub fn shutdown_write(&mut self) {
        self.output.shut();
        self.state.phase.shut_down();
    }

    /// Stops reading this connection, so that the peer must wait. Costs no system call. The read timeout stands still
    /// during the pause. If the peer closes, this is noticed when reading resumes, because earlier input is handled
    /// first, or when something is sent to it, or by the idle timeout.
    ///
    /// Another handler can resume it with [`Others::resume_reading`].
    pub fn pause_reading(&mut self) {
        self.state.phase.pause();
    }

    /// Reads this connection again. `handle` is called with unread input.
    pub fn resume_reading(&mut self) {
        self.state.phase.resume();
    }

    /// Returns whether a stop was requested: see [`Others::is_stopping`].
    pub fn is_stopping(&self) -> bool {
        self.others.is_stopping()
    }

    /// Reads this connection even while its output is above
    /// [`Limits::output_high_water`](crate::Limits::output_high_water). Off by default, because input usually causes
    /// output, so a peer that does not take its answers is not asked for more questions. Turn it on for a relay, whose
    /// two directions are independent and have flow control of their own.
    pub fn set_full_duplex(&mut self, on: bool) {
        self.state.set_full_duplex(on);
    }

    /// Sets a timer of this connection, or moves the one of this tag. It calls [`timer`](RequestHandler::timer) once,
    /// never early. For timers of the server, use [`others.set_server_timer`](Others::set_server_timer).
    pub fn set_timer(&mut self, tag: u64, after: Duration) {
        self.others.core.set_handler_timer(self.slot.key, self.state, tag, after, None);
    }

    /// Sets a periodic timer of this connection, and replaces any other of this tag. It calls
    /// [`timer`](RequestHandler::timer) first after the time `every`, and then repeatedly, until it is
    /// [cancelled](Self::cancel_timer), set again, or the connection ends. It does not drift, and missed ticks are not
    /// made up for: see [`Others::set_server_interval`].
    pub fn set_interval(&mut self, tag: u64, every: Duration) {
        let every_nanos = Some(period(every));
        self.others.core.set_handler_timer(self.slot.key, self.state, tag, every, every_nanos);
    }

    /// Unsets a timer of this connection, periodic or not. Returns whether it was set.
    pub fn cancel_timer(&mut self, tag: u64) -> bool {
        self.others.core.cancel_handler_timer(self.state, tag)
    }

    /// Gives this connection its own time limit instead of the server's; `None` for no limit. With [`Timeout::Message`]
    /// it is the same as [`set_message_deadline`](Self::set_message_deadline).
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
        self.state.phase.unwatched(); // The next deadline is computed again.
    }

    /// Gives this connection its own limits instead of the server's, at once and as long as it lives, also under
    /// another handler. They replace those of an earlier call; `ConnectionLimits::default()` removes all. Changes of
    /// the server's limits do not affect a connection with its own limits. If it holds more than the new limits allow
    /// when the callback returns, it ends with [`EndReason::OutputLimit`] or [`EndReason::InputLimit`].
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) if two of them contradict each other; then nothing changes.
    pub fn set_limits(&mut self, limits: &ConnectionLimits) -> Result<()> {
        let server = self.output.server_limits();
        let before = self.state.bounds(server).input_bytes_max;
        let own = self.output.set_limits(limits)?;
        self.state.set_own_bounds(own);
        let lowered = self.state.bounds(server).input_bytes_max < before;
        self.others.pending.orders.push((self.slot.key, Order::Hold { lowered }));
        Ok(())
    }

    /// Starts a deadline for the message that begins now, or moves it; `None` ends it when the message is complete. The
    /// handler defines what a message is: everything from this call to the one with `None`. For HTTP, call it when the
    /// first byte of a request has arrived, and again for its body; for SMTP, with the answer to `DATA`.
    ///
    /// When the time is over, [`timed_out`](RequestHandler::timed_out) is called with [`Timeout::Message`], which by
    /// default ends the connection after a flush. A peer cannot avoid it by sending a byte now and then, as it can
    /// avoid `read_timeout` if the handler consumes each byte. The time also runs while reading is paused. A message
    /// costs no timer operation. To demand a rate, call it again whenever a number of bytes has arrived.
    pub fn set_message_deadline(&mut self, within: Option<Duration>) {
        self.state.set_message_deadline(self.others.core.selector.now(), within);
    }

    /// Runs a blocking job on the reactor's thread pool and delivers its result to this connection's
    /// [`message`](RequestHandler::message). If the connection is gone by then, the result is dropped; a job that no
    /// thread has begun is dropped as well. Nothing limits the jobs of one connection: [pause
    /// reading](Self::pause_reading) while one runs. A job that panics ends the connection like a callback that panics.
    /// A stop waits for it, within its grace. Other ends of a connection (the end of the stream, the idle timeout) do
    /// not.
    ///
    /// # Errors
    /// [`Error::Full`](crate::Error::Full) if [`ReactorConfig::offload_queue_max`](crate::ReactorConfig) jobs wait;
    /// [`Error::Reactor`](crate::Error::Reactor) if no thread could be started.
    pub fn offload<T: Any + Send>(&mut self, job: impl FnOnce() -> T + Send + 'static) -> Result<()> {
        self.others.core.offload(self.id(), Box::new(|| Message::new(job())))?;
        self.state.add_job();
        Ok(())
    }

    /// Replaces this handler by another when the callback returns: a protocol upgrade. The new handler's `setup` is
    /// called, and then `handle` if input is unread. Only the new handler gets `finish`; the old one is dropped. If
    /// that `setup` fails, neither gets `finish`. Put cleanup that must always happen into
    /// [`close_request`](crate::BaseServer::close_request), or into the handler's `Drop`. The request of a single
    /// datagram is over with its callback, so it cannot have another handler and ends with [`EndReason::Error`].
    pub fn replace_handler(&mut self, handler: impl RequestHandler<S>) {
        self.others.pending.orders.push((self.slot.key, Order::Serve(Box::new(handler))));
    }
}

impl<S> std::fmt::Debug for Request<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("id", &self.id()).field("state", &self.state).finish_non_exhaustive()
    }
}
