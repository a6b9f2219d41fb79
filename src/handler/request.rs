//! What a callback works with: its own connection, and the way to everything else in the reactor.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::connection::Sent;
use crate::connection::input::Input;
use crate::connection::output::Output;
use crate::connection::state::State;
use crate::error::Result;
use crate::handler::RequestHandler;
use crate::ids::ConnectionId;
use crate::lifecycle::{Finish, Timeout};
use crate::reactor::core::Core;
use crate::reactor::handle::{Handle, Message};
use crate::shared_bytes::SharedBytes;
use crate::stats::Stats;

/// One connection during one callback: what arrived, what goes out, the server it belongs to, and the reactor.
///
/// `input`, `output` and `server` are fields, so that all three can be used in one expression. Other connections are
/// reached by [`ConnectionId`], of whatever server of the reactor.
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
    pub(crate) state: &'a mut State,
    pub(crate) control: Control<'a, S>,
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

    /// Our end of the connection; of a datagram, the address it was sent to, as far as the system tells (Linux with the
    /// feature `batch`), otherwise the one its socket is bound to. `None` if it is broken or closed already.
    pub fn local_address(&self) -> Option<Address> {
        match self.output.route() {
            None => self.output.local_address(),
            Some(route) => self.control.core.local_address(route),
        }
    }

    /// Queues bytes for any connection, this one included. Copies them; a block of 16 KiB or more that finds nothing
    /// waiting before it goes to the socket at once. See [`Sent`].
    pub fn send(&mut self, to: ConnectionId, bytes: &[u8]) -> Sent {
        if to != self.id {
            let sent = self.control.send(to, bytes);
            if sent == Sent::Queued && self.output.has_had_its_time() {
                self.control.core.owe_writable(to);
                return Sent::Full;
            }
            return sent;
        }
        if self.output.route().is_some() {
            return self.send_to(&self.client_address(), bytes);
        }
        match std::io::Write::write_all(&mut self.output, bytes) {
            Ok(()) if self.output.is_full() => Sent::Full,
            Ok(()) => Sent::Queued,
            Err(_) if !self.output.is_lost() && !self.output.is_shut() => Sent::Refused,
            Err(_) => Sent::Gone,
        }
    }

    /// Sends a datagram to anybody, through the socket that this request came by. Besides it what is written to
    /// [`output`](Self::output) still leaves as the answer. It goes out when the callbacks for what was just received are
    /// done; see [`Sent`] for what becomes of it. A longer one than the system allows is dropped and counted.
    ///
    /// A connection that a handler of a datagram server has begun sends through the first socket of that server that is
    /// of the address's kind, as [`Control::send_to`] does.
    ///
    /// Source: `self.request[1].sendto` of Python's datagram handlers.
    pub fn send_to(&mut self, to: &Address, bytes: &[u8]) -> Sent {
        let Some(route) = self.output.route() else { return self.control.send_to(to, bytes) };
        if *to == self.state.address {
            self.state.activity = self.control.core.now;
        }
        self.control.core.send_datagram(route, to, bytes)
    }

    /// The reactor beyond this connection: other servers' connections, multicast groups, the server's timers. It does
    /// not know this connection itself, which is in the hands of its handler until the callback returns.
    pub fn control(&mut self) -> &mut Control<'a, S> {
        &mut self.control
    }

    /// Queues one payload for every connection of this server that `wanted` admits, without copying it for each.
    /// Returns how many took it. Connections that have too much waiting are treated as
    /// [`Limits::output_overflow`](crate::Limits::output_overflow) says.
    pub fn broadcast(&mut self, bytes: impl Into<Arc<[u8]>>, wanted: impl FnMut(ConnectionId) -> bool) -> usize {
        self.broadcast_shared(bytes.into(), wanted)
    }

    /// The same for bytes that are not even copied once.
    pub fn broadcast_shared(
        &mut self,
        bytes: impl Into<SharedBytes>,
        mut wanted: impl FnMut(ConnectionId) -> bool,
    ) -> usize {
        let (bytes, me) = (bytes.into(), self.id);
        let others = self.control.core.broadcast(self.control.server, &bytes, |id| id != me && wanted(id));
        let took = wanted(me) && self.output.write_shared(bytes).is_ok();
        others + usize::from(took)
    }

    /// Closes a connection after what is queued for it was sent. Its handler gets
    /// [`Finish::Evicted`], or [`Finish::Done`] if it closed itself.
    pub fn close(&mut self, id: ConnectionId) {
        if id == self.id { self.state.end(Finish::Done, false) } else { self.control.close(id) }
    }

    /// Resets a connection: what is queued for it is dropped.
    pub fn abort(&mut self, id: ConnectionId) {
        if id == self.id { self.state.end(Finish::Done, true) } else { self.control.abort(id) }
    }

    /// Ends our direction of a connection (FIN) once what is queued for it was sent. It is read on: half-close.
    pub fn shutdown_write(&mut self, id: ConnectionId) {
        if id == self.id {
            self.output.shut();
            self.state.shutdown_write();
        } else {
            self.control.shutdown_write(id);
        }
    }

    /// Stops reading a connection, so that the peer has to wait. Costs no system call. The read timeout stands still
    /// meanwhile. That the peer is gone is noticed when reading goes on, because what it sent before is handled first, or
    /// when something is sent to it, or by the idle timeout.
    pub fn pause_reading(&mut self, id: ConnectionId) {
        if id == self.id { self.state.pause_reading() } else { self.control.pause_reading(id) }
    }

    /// Reads a paused connection again. What its handler left unread is handed to it again.
    pub fn resume_reading(&mut self, id: ConnectionId) {
        if id == self.id {
            self.state.resume_reading();
        } else {
            self.control.resume_reading(id);
        }
    }

    /// Reads this connection even while its output is above
    /// [`Limits::output_high_water`](crate::Limits::output_high_water). Off by default: what a handler reads is what
    /// makes it write, so a peer that does not take its answers is not asked for more questions. On for a relay, where
    /// the two directions have nothing to do with each other and each has the flow control of its own.
    pub fn set_full_duplex(&mut self, on: bool) {
        self.state.set_full_duplex(on);
    }

    /// Begins an outbound connection, to be served by `handler`. Its `setup` is called when it is established, its
    /// `connect_failed` otherwise; what is sent to the id meanwhile waits. To a Unix socket whose backlog is full it is
    /// tried again (after 10 ms, then twice as long each time, up to 1 s) until there is room or
    /// [`Limits::connect_timeout`](crate::Limits) is over. A TCP connection that turns out to be connected to itself, as
    /// can happen where nobody listens, is refused. Takes an address, because resolving a name blocks:
    /// [`offload`](Self::offload) that.
    ///
    /// # Errors
    /// [`Error::Connect`](crate::Error::Connect) if it fails at once, for want of descriptors or of a route; then
    /// `handler` is dropped and nothing of it is called.
    pub fn connect(&mut self, to: impl Into<Address>, handler: impl RequestHandler<S>) -> Result<ConnectionId> {
        self.control.connect(to, handler)
    }

    /// Sets a timer of this connection, or sets it anew if there is one of this tag. It calls
    /// [`timer`](RequestHandler::timer) once, never early.
    pub fn set_timer(&mut self, tag: u64, after: Duration) {
        self.control.core.set_handler_timer(self.id.slot.key, self.state, tag, after);
    }

    /// Unsets a timer of this connection. Says whether it was set.
    pub fn cancel_timer(&mut self, tag: u64) -> bool {
        self.control.core.cancel_handler_timer(self.state, tag)
    }

    /// Sets a timer of the server, which outlives this connection: see [`Control::set_timer`].
    pub fn set_server_timer(&mut self, tag: u64, after: Duration) {
        self.control.set_timer(tag, after);
    }

    /// Unsets a timer of the server. Says whether it was set.
    pub fn cancel_server_timer(&mut self, tag: u64) -> bool {
        self.control.cancel_timer(tag)
    }

    /// Gives this connection a limit of its own instead of the server's; `None` for no limit.
    ///
    /// Source: `StreamRequestHandler.timeout`.
    pub fn set_timeout(&mut self, which: Timeout, time: Option<Duration>) {
        let extra = self.state.extra.get_or_insert_default();
        match which {
            Timeout::Idle => extra.idle_timeout = Some(time),
            Timeout::Read => extra.read_timeout = Some(time),
            Timeout::Write => extra.write_timeout = Some(time),
            Timeout::Connect | Timeout::Child => {} // The one is over by the time there is a request, the other not ours.
        }
        self.state.set_watched(false); // The next deadline is worked out anew.
    }

    /// Runs a blocking job on the reactor's thread pool and delivers what it returns to this connection's
    /// [`message`](RequestHandler::message); if the connection is gone by then, it is dropped, and a job that no thread has
    /// begun is dropped without being run. Nothing limits the jobs of one connection:
    /// [pause reading](Self::pause_reading) while one is at work. A job that panics ends the connection as a panicking callback would. A stop waits for it, within its grace; what else ends a connection
    /// (the end of the stream, the idle timeout) does not.
    ///
    /// # Errors
    /// [`Error::Full`](crate::Error::Full) beyond [`Config::offload_queue_max`](crate::Config) waiting jobs;
    /// [`Error::Reactor`](crate::Error::Reactor) if no thread could be started.
    pub fn offload<T: Any + Send>(&mut self, job: impl FnOnce() -> T + Send + 'static) -> Result<()> {
        self.control.core.offload(self.id, Box::new(|| Message::new(job())))?;
        self.state.add_job();
        Ok(())
    }

    /// Puts another handler in the place of this one when the callback returns: a protocol upgrade. Its `setup` is
    /// called, then `handle` if input is unread. `finish` is called on it alone; the old handler is dropped. So if that
    /// `setup` fails, nobody has a `finish`: what has to be undone in any case belongs into
    /// [`close_request`](crate::BaseServer::close_request), or into the handler's `Drop`. A request of a single datagram
    /// keeps the handler it has.
    pub fn replace_handler(&mut self, handler: impl RequestHandler<S>) {
        self.control.newcomers.push((self.id.slot.key, Box::new(handler)));
    }

    /// Stops the reactor: see [`ShutdownHandle::shutdown`](crate::ShutdownHandle::shutdown).
    pub fn request_shutdown(&mut self) {
        self.control.request_shutdown();
    }

    /// The open connections of this server, this one included; see [`Control::connections`].
    pub fn connections(&self) -> Vec<ConnectionId> {
        self.control.connections()
    }

    /// What has happened in this reactor so far.
    pub fn stats(&self) -> Stats {
        self.control.stats()
    }

    /// A way back in for other threads.
    pub fn handle(&self) -> Handle {
        self.control.handle()
    }

    /// Time on the reactor's clock, since it was made. Virtual in tests.
    pub fn now(&self) -> Duration {
        self.control.now()
    }
}

impl<S> std::fmt::Debug for Request<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("id", &self.id).field("state", &self.state).finish_non_exhaustive()
    }
}

/// The reactor as the hooks of a server see it, outside any connection: [`BaseServer`](crate::BaseServer).
///
/// ```
/// use socketserver::{BaseServer, Control};
/// use std::time::Duration;
///
/// struct Ticker;
/// impl BaseServer for Ticker {
///     fn timer(&mut self, control: &mut Control<'_, Self>, tag: u64) {
///         control.broadcast(&b"tick\n"[..], |_| true);
///         control.set_timer(tag, Duration::from_secs(1));
///     }
/// }
/// ```
pub struct Control<'a, S = ()> {
    pub(crate) core: &'a mut Core,
    pub(crate) server: u16,
    /// Handlers of outbound connections begun during this callback, and of this one if it is replaced: they move in when
    /// the callback returns.
    pub(crate) newcomers: &'a mut Newcomers<S>,
}

/// Handlers on their way to the slots they are for.
pub(crate) type Newcomers<S> = Vec<(u32, Box<dyn RequestHandler<S>>)>;
