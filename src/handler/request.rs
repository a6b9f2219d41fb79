//! The argument of callbacks: the handler's own connection, and access to everything else in the reactor.

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

/// One connection during one callback: its input, its output, the server it belongs to, and all other connections.
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
    /// The received bytes (Python's `rfile`).
    pub input: Input<'a>,
    /// The bytes to send (Python's `wfile`).
    pub output: Output<'a>,
    /// The server's value, which all its connections share (Python's `self.server`).
    pub server: &'a mut S,
    /// All other connections, and the reactor.
    pub others: Others<'a, S>,
    pub(crate) state: &'a mut State,
    pub(crate) slot: SlotId,
}

impl<'a, S> Request<'a, S> {
    /// Returns the id of this connection.
    pub fn id(&self) -> ConnectionId {
        self.others.core.slots.id_of(self.slot)
    }

    /// Returns the peer's address.
    pub fn client_address(&self) -> Address {
        self.state.address.clone()
    }

    /// Sets the client address of this connection, overriding the address of its socket. Use this if a proxy in front
    /// of the server passes the client's address in a header (`X-Forwarded-For`, or the PROXY protocol). Trust such a
    /// header only if it comes from a proxy that you know, because any client can send one.
    ///
    /// From then on, [`client_address`](Self::client_address) returns the new address. It is also used in
    /// [`Others::client_address`], in `handle_error`, `shutdown_request`, `close_request` and the log. For
    /// [`Limits::connections_per_client_max`](crate::Limits) the connection counts as one of that client, and no longer
    /// as one of the proxy. That limit is also checked when a connection is accepted, at which time the proxy's address
    /// counts, so set it high enough for the proxy.
    ///
    /// # Errors
    /// [`Error::ClientLimit`](crate::Error::ClientLimit) if the client now has too many connections. If the callback
    /// returns the error, this connection ends as refused. [`Error::Setting`](crate::Error::Setting) for a datagram,
    /// because the answer is sent to its address.
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

    /// Returns the local address of the connection. For a datagram, this is the address to which it was sent if the
    /// system reports it (on Linux with the feature `batch`), and otherwise the address to which the socket is bound.
    /// Returns `None` if the connection is already broken or closed.
    pub fn local_address(&self) -> Option<Address> {
        match self.output.route() {
            None => self.output.local_address(),
            Some(route) => self.others.core.local_address(route),
        }
    }

    /// Returns the header with which a proxy has begun the connection: see
    /// [`ProxyProtocol`](crate::ProxyProtocol). `None` if there was none. Feature `proxy-protocol`.
    #[cfg(all(unix, feature = "proxy-protocol"))]
    pub fn proxy_header(&self) -> Option<&crate::net::ProxyHeader> {
        self.output.proxy_header()
    }

    /// Returns whether this request is a datagram or a datagram session rather than a stream connection. Useful for a
    /// server that has both kinds of sockets ([`Unbound::server_bind_as`](crate::Unbound::server_bind_as)).
    pub fn is_datagram(&self) -> bool {
        self.state.is_datagram()
    }

    /// Sends a datagram to any address, through the socket of this request. Bytes written to [`output`](Self::output)
    /// are still sent as the answer. The datagram is sent when the callbacks for the datagrams just received have
    /// returned. [`Delivery`] reports the result. A datagram that is longer than the system allows is dropped and
    /// counted.
    ///
    /// A connection started by a handler of a datagram server sends through the first socket of that server whose
    /// family matches the address, like [`Others::send_to`].
    ///
    /// Source: `self.request[1].sendto` of Python's datagram handlers.
    pub fn send_to(&mut self, to: &Address, bytes: &[u8]) -> Delivery {
        let Some(route) = self.output.route() else { return self.others.send_to(to, bytes) };
        if *to == self.state.address {
            self.state.activity = self.others.core.now;
        }
        self.others.core.send_datagram(route, to, bytes)
    }

    /// Closes this connection after all queued output has been sent, like [`Next::Close`](crate::Next::Close). `finish`
    /// receives [`EndReason::Done`].
    pub fn close(&mut self) {
        self.state.end(EndReason::Done, false);
    }

    /// Resets this connection, like [`Next::Abort`](crate::Next::Abort). Queued output is discarded.
    pub fn abort(&mut self) {
        self.state.end(EndReason::Done, true);
    }

    /// Ends our direction of this connection (FIN) after all queued output has been sent (half-close). The connection
    /// is still read. On Linux the FIN of a TCP connection leaves in one segment with what the callback has written
    /// (`MSG_MORE` of send(2)). So a server of one request for each connection is cheaper, by a quarter of the CPU, with
    /// this before [`Next::Close`](crate::Next::Close): the peer wakes up once.
    pub fn shutdown_write(&mut self) {
        self.output.shut();
        self.state.phase.shut_down();
    }

    /// Stops reading this connection, so that the peer must wait. Costs no system call. The read timeout is suspended
    /// while reading is paused. The reactor notices that the peer is gone only when reading resumes (because earlier
    /// input is handled first), when something is sent to the peer, or when the idle timeout expires.
    ///
    /// Other handlers can resume reading with [`Others::resume_reading`].
    pub fn pause_reading(&mut self) {
        self.state.phase.pause();
    }

    /// Reads this connection again. Unread input is passed to `handle` again.
    pub fn resume_reading(&mut self) {
        self.state.phase.resume();
        self.reading_goes_on();
    }

    /// A read timeout that stood still starts again.
    fn reading_goes_on(&mut self) {
        self.state.phase.unwatched();
        #[cfg(feature = "tls")]
        self.output.restart_record();
    }

    /// Returns whether a stop was requested: see [`Others::is_stopping`].
    pub fn is_stopping(&self) -> bool {
        self.others.is_stopping()
    }

    /// Reads this connection even while its output is above
    /// [`Limits::output_high_water`](crate::Limits::output_high_water). Off by default, because a handler usually
    /// writes in response to what it reads, so the server should not read further requests from a peer that does not
    /// take its answers. Turn it on for a relay, in which the two directions are independent and each has its own flow
    /// control.
    pub fn set_full_duplex(&mut self, on: bool) {
        self.state.set_full_duplex(on);
        self.reading_goes_on();
    }

    /// Sets a timer for this connection. If a timer with this tag exists, it is reset. The timer calls
    /// [`timer`](RequestHandler::timer) once, and never early. To set a timer for the server, use
    /// [`others.set_server_timer`](Others::set_server_timer).
    pub fn set_timer(&mut self, tag: u64, after: Duration) {
        self.others.core.set_handler_timer(self.slot.key, self.state, tag, after, None);
    }

    /// Sets a periodic timer for this connection. If a timer with this tag exists, it is replaced. The timer calls
    /// [`timer`](RequestHandler::timer) once in each period of `every`, for the first time after one period, until it
    /// is [cancelled](Self::cancel_timer) or reset, or the connection ends. It does not drift, and missed ticks are
    /// skipped: see [`Others::set_server_interval`].
    pub fn set_interval(&mut self, tag: u64, every: Duration) {
        let every_nanos = Some(period(every));
        self.others.core.set_handler_timer(self.slot.key, self.state, tag, every, every_nanos);
    }

    /// Cancels a timer of this connection, whether periodic or not. Returns whether it was set.
    pub fn cancel_timer(&mut self, tag: u64) -> bool {
        self.others.core.cancel_handler_timer(self.state, tag)
    }

    /// Gives this connection its own time limit instead of the server's. `None` means no limit. For
    /// [`Timeout::Message`], this is the same as [`set_message_deadline`](Self::set_message_deadline).
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
        self.state.phase.unwatched(); // The next deadline is recomputed.
    }

    /// Gives this connection its own limits instead of the server's. They apply immediately and for the lifetime of the
    /// connection, even if its handler is replaced. They replace the limits set by an earlier call;
    /// `ConnectionLimits::default()` restores the server's limits. Changes to the server's limits do not affect a
    /// connection that has its own. If the connection exceeds the new limits when the callback returns, it ends with
    /// [`EndReason::OutputLimit`] or [`EndReason::InputLimit`].
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) if two limits contradict each other. In this case nothing changes.
    pub fn set_limits(&mut self, limits: &ConnectionLimits) -> Result<()> {
        let server = self.output.server_limits();
        let before = self.state.bounds(server).input_bytes_max;
        let own = self.output.set_limits(limits)?;
        self.state.set_own_bounds(own);
        let lowered = self.state.bounds(server).input_bytes_max < before;
        self.others.pending.orders.push((self.slot.key, Order::Hold { lowered }));
        Ok(())
    }

    /// Sets a time limit for the message that begins now, or restarts the limit if a message is in progress. Pass
    /// `None` when the message is complete. The handler defines what a message is: everything that arrives between this
    /// call and the call with `None`, whether or not it is consumed in the meantime. For HTTP, call this method when
    /// the first byte of a request has arrived, and again for its body; for SMTP, with the answer to `DATA`.
    ///
    /// When the time expires, [`timed_out`](RequestHandler::timed_out) is called with [`Timeout::Message`], which by
    /// default ends the connection after a flush. A peer cannot avoid this limit by sending a byte now and then,
    /// whereas it can avoid `read_timeout` if the handler consumes each byte. The time continues to run while reading
    /// is paused. The limit does not cost a timer operation for each message. To require a minimum rate instead of a
    /// total time, call this method again each time a certain number of bytes has arrived.
    pub fn set_message_deadline(&mut self, within: Option<Duration>) {
        self.state.set_message_deadline(self.others.core.selector.now(), within);
    }

    /// Runs a blocking job on the reactor's thread pool and delivers the job's result to this connection's
    /// [`message`](RequestHandler::message) callback. If the connection has ended by then, the result is dropped; a job
    /// that has not started yet is dropped without being run. The number of jobs per connection is not limited, so
    /// [pause reading](Self::pause_reading) while a job is running. A job that panics ends the connection like a
    /// callback that panics. A stop waits for the job until the grace period ends. Other events that end a connection
    /// (the end of the stream, the idle timeout) do not wait for it.
    ///
    /// # Errors
    /// [`Error::Full`](crate::Error::Full) if [`ReactorConfig::offload_queue_max`](crate::ReactorConfig) jobs wait;
    /// [`Error::Reactor`](crate::Error::Reactor) if no thread could be started.
    pub fn offload<T: Any + Send>(&mut self, job: impl FnOnce() -> T + Send + 'static) -> Result<()> {
        self.others.core.offload(self.id(), Box::new(|| Message::new(job())))?;
        self.state.add_job();
        Ok(())
    }

    /// Replaces this handler with another one when the callback returns, for example for a protocol upgrade. The new
    /// handler's `setup` is called, and then `handle` if input is unread. `finish` is called only on the new handler;
    /// the old one is dropped. If the new handler's `setup` fails, `finish` is called on neither handler. Put cleanup
    /// that must always happen into [`close_request`](crate::BaseServer::close_request) or into the handler's `Drop`.
    /// The request of a single datagram is over when its callback returns, so it cannot have another handler and ends
    /// with [`EndReason::Error`].
    pub fn replace_handler(&mut self, handler: impl RequestHandler<S>) {
        self.others.pending.orders.push((self.slot.key, Order::Serve(Box::new(handler))));
    }
}

impl<S> std::fmt::Debug for Request<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("id", &self.id()).field("state", &self.state).finish_non_exhaustive()
    }
}
