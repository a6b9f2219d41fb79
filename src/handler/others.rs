//! Access of hooks and callbacks to the reactor and to other connections.

use std::sync::Arc;
use std::time::Duration;

use super::RequestHandler;
use crate::address::Address;
use crate::connection::budget::Budget;
use crate::connection::{Delivery, Payload};
use crate::error::Result;
use crate::ids::{ConnectionId, ServerId};
use crate::lifecycle::EndReason;
use crate::net::MulticastGroup;
use crate::net::datagram::DatagramSocket;
use crate::reactor::core::Core;
use crate::reactor::handle::Handle;
use crate::shared_bytes::SharedBytes;
use crate::stats::Stats;
use crate::timers::period;

/// All connections except the one whose callback is running, and the reactor: `request.others`. The hooks of a
/// [`BaseServer`](crate::BaseServer) get the same, outside any connection.
///
/// A [`ConnectionId`] names a connection, which may belong to any server of the reactor. An id of a connection that is
/// gone, or of another reactor, is ignored.
///
/// For its own connection a handler calls methods of [`Request`](crate::Request), without an id. With its own id here,
/// the connection is [closed](Self::close), [aborted](Self::abort), [shut down](Self::shutdown_write),
/// [paused](Self::pause_reading) or [resumed](Self::resume_reading) when the callback returns, as if the handler had
/// called that method last. [`broadcast`](Self::broadcast) and [`connections`](Self::connections) leave it out,
/// [`send`](Self::send) returns [`Delivery::Refused`], and [`client_address`](Self::client_address) returns `None`.
///
/// ```
/// use socketserver::{BaseServer, Others};
/// use std::time::Duration;
///
/// struct Ticker;
/// impl BaseServer for Ticker {
///     fn timer(&mut self, others: &mut Others<'_, Self>, tag: u64) {
///         others.broadcast(&b"tick\n"[..], |_| true);
///         others.set_server_timer(tag, Duration::from_secs(1)); // Periodic: set_server_interval.
///     }
/// }
/// ```
pub struct Others<'a, S = ()> {
    pub(crate) core: &'a mut Core,
    pub(crate) pending: &'a mut Pending<S>,
    /// How long the callback may continue. A hook has no such limit.
    pub(crate) budget: Option<&'a Budget>,
}

/// Work of a server for after the running callback.
pub(crate) struct Pending<S> {
    /// Its number in the reactor.
    pub(crate) server: u16,
    /// By slot; [`NO_SLOT`](crate::ids::NO_SLOT) is the one of a single datagram.
    pub(crate) orders: Vec<(u32, Order<S>)>,
}

/// Work for one connection.
pub(crate) enum Order<S> {
    /// Gives it this handler: it is a new outbound connection, or its handler is replaced.
    Serve(Box<dyn RequestHandler<S>>),
    End {
        at_once: bool,
    },
    ShutdownWrite,
    PauseReading,
    ResumeReading,
    /// Its limits have changed; whether that of unread input is lower now.
    Hold {
        lowered: bool,
    },
}

impl<S> Others<'_, S> {
    /// Queues bytes for another connection and copies them. A block of 16 KiB or more goes to the socket at once if
    /// nothing waits before it. See [`Delivery`].
    pub fn send(&mut self, to: ConnectionId, bytes: &[u8]) -> Delivery {
        let sent = self.core.send(to, Payload::Copied(bytes));
        if sent == Delivery::Queued && self.budget.is_some_and(Budget::is_over) {
            self.core.owe_writable(to);
            return Delivery::Full;
        }
        sent
    }

    /// Queues one payload for every other connection of this server that `wanted` admits, with one copy for all.
    /// Returns how many took it. [`Limits::output_overflow`](crate::Limits::output_overflow) applies to connections
    /// with too much unsent output.
    ///
    /// `wanted` can read `request.server`, which is borrowed separately. Write the same payload to the own connection
    /// with [`write_shared`](crate::Output::write_shared).
    pub fn broadcast(&mut self, bytes: impl Into<Arc<[u8]>>, wanted: impl FnMut(ConnectionId) -> bool) -> usize {
        self.broadcast_shared(bytes.into(), wanted)
    }

    /// The same without any copy.
    pub fn broadcast_shared(
        &mut self,
        bytes: impl Into<SharedBytes>,
        wanted: impl FnMut(ConnectionId) -> bool,
    ) -> usize {
        self.core.broadcast(self.pending.server, &bytes.into(), wanted)
    }

    /// Sends a datagram to any address, through the first socket of this server that is of the address's family.
    /// [`Delivery::Gone`] if there is none. To send through the socket of a request, use
    /// [`Request::send_to`](crate::Request::send_to).
    pub fn send_to(&mut self, to: &Address, bytes: &[u8]) -> Delivery {
        match self.core.route_to(self.pending.server, to) {
            Some(route) => self.core.send_datagram(route, to, bytes),
            None => Delivery::Gone,
        }
    }

    /// Joins a multicast group with the datagram sockets of this server that are of the group's family.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) with errors of setsockopt(2), such as no such interface, or already a member;
    /// [`Error::NotBound`](crate::Error::NotBound) if there is no such socket.
    pub fn join_multicast(&mut self, group: &MulticastGroup) -> Result<()> {
        self.core.each_member(self.pending.server, group, DatagramSocket::join_multicast)
    }

    /// Leaves a multicast group that was joined at the start or later.
    ///
    /// # Errors
    /// As for [`join_multicast`](Self::join_multicast).
    pub fn leave_multicast(&mut self, group: &MulticastGroup) -> Result<()> {
        self.core.each_member(self.pending.server, group, DatagramSocket::leave_multicast)
    }

    /// Closes a connection after its queued output was sent. Its handler gets [`EndReason::Evicted`].
    pub fn close(&mut self, id: ConnectionId) {
        if !self.defer(id, Order::End { at_once: false }) {
            self.core.end(id, EndReason::Evicted, false);
        }
    }

    /// Resets a connection and drops its queued output. Its handler gets [`EndReason::Evicted`].
    pub fn abort(&mut self, id: ConnectionId) {
        if !self.defer(id, Order::End { at_once: true }) {
            self.core.end(id, EndReason::Evicted, true);
        }
    }

    /// Ends our direction of a connection; see [`Request::shutdown_write`](crate::Request::shutdown_write).
    pub fn shutdown_write(&mut self, id: ConnectionId) {
        if let Some((_, connection)) = self.core.slots.find(id) {
            connection.state.phase.shut_down();
            self.core.queue(id.slot.key);
        } else {
            self.defer(id, Order::ShutdownWrite);
        }
    }

    /// Stops reading a connection; see [`Request::pause_reading`](crate::Request::pause_reading).
    pub fn pause_reading(&mut self, id: ConnectionId) {
        match self.core.slots.find(id) {
            Some((_, connection)) => connection.state.phase.pause(),
            None => _ = self.defer(id, Order::PauseReading),
        }
    }

    /// Reads a paused connection again; see [`Request::resume_reading`](crate::Request::resume_reading).
    pub fn resume_reading(&mut self, id: ConnectionId) {
        let now = self.core.now;
        if let Some((_, connection)) = self.core.slots.find(id) {
            if connection.resume_reading(now) {
                self.core.queue(id.slot.key);
            }
        } else {
            self.defer(id, Order::ResumeReading);
        }
    }

    /// The connection whose callback is running is borrowed by it, so work for it waits until the callback returns.
    /// Returns whether the id names that connection.
    fn defer(&mut self, id: ConnectionId, order: Order<S>) -> bool {
        let is_own = self.core.slots.is_lent(id);
        if is_own {
            self.pending.orders.push((id.slot.key, order));
        }
        is_own
    }

    /// Starts an outbound connection with `handler`. Its `setup` is called when it is established, and otherwise its
    /// `connect_failed`. Bytes that are sent to the id before that wait. A Unix socket with a full backlog is tried
    /// again (after 10 ms, then twice as long each time, up to 1 s) until there is room or
    /// [`Limits::connect_timeout`](crate::Limits) is over. A TCP connection that is connected to itself, which can
    /// happen where no server listens, is refused. Takes an address, because resolving a name blocks:
    /// [`offload`](crate::Request::offload) that.
    ///
    /// # Errors
    /// [`Error::Connect`](crate::Error::Connect) if it fails at once, because there is no descriptor or no route. Then
    /// `handler` is dropped and none of its methods is called.
    pub fn connect(&mut self, to: impl Into<Address>, handler: impl RequestHandler<S>) -> Result<ConnectionId> {
        let id = self.core.connect(self.pending.server, to.into())?;
        self.pending.orders.push((id.slot.key, Order::Serve(Box::new(handler))));
        Ok(id)
    }

    /// Returns the other open connections of this server, its sessions, and its requests on threads and of programs. A
    /// connection that is being closed is included until everything is sent, and while it
    /// [lingers](crate::Limits::linger). An aborted one is not.
    ///
    /// [Closing](Self::close) or [aborting](Self::abort) a request on a thread or of a program ends it at once. Only
    /// its thread or program writes to its client: bytes for it are [`Delivery::Refused`], a broadcast leaves it out,
    /// and a message for it is dropped, counted and logged.
    pub fn connections(&self) -> Vec<ConnectionId> {
        self.core.slots.open(self.pending.server)
    }

    /// The same for any server of the reactor. Empty if there is no such server.
    pub fn connections_of(&self, server: ServerId) -> Vec<ConnectionId> {
        self.core.server(server).map(|server| self.core.slots.open(server)).unwrap_or_default()
    }

    /// Returns the address of a connection's peer, if it is still there.
    pub fn client_address(&self, id: ConnectionId) -> Option<Address> {
        self.core.slots.address(id)
    }

    /// Sets a timer of the server, or moves the one of this tag. It calls
    /// [`BaseServer::timer`](crate::BaseServer::timer) once, never early. It outlives the connection that sets it, and
    /// a stop, until the server is closed with [`Reactor::server_close`](crate::Reactor::server_close) or dropped.
    pub fn set_server_timer(&mut self, tag: u64, after: Duration) {
        self.core.set_server_timer(self.pending.server, tag, after, None);
    }

    /// Sets a periodic timer of the server, and replaces any other of this tag. It calls
    /// [`BaseServer::timer`](crate::BaseServer::timer) first after the time `every`, and then repeatedly, until it is
    /// [cancelled](Self::cancel_server_timer) or set again. The shortest period is 1 ms.
    ///
    /// The ticks are whole multiples of `every` after the moment at which it was set, so it does not drift. A tick may
    /// come late, but never early. Missed ticks, because a callback took longer or the process was stopped, are not
    /// made up for: one comes as soon as possible, and the next at the next multiple.
    pub fn set_server_interval(&mut self, tag: u64, every: Duration) {
        self.core.set_server_timer(self.pending.server, tag, every, Some(period(every)));
    }

    /// Unsets a timer of the server, periodic or not. Returns whether it was set.
    pub fn cancel_server_timer(&mut self, tag: u64) -> bool {
        self.core.cancel_server_timer(self.pending.server, tag)
    }

    /// Returns how many unsent bytes a connection has queued. 0 for a session of a datagram server. `None` if it is
    /// gone, or if a thread or a program serves it. For the own connection, use [`output.len()`](crate::Output::len).
    pub fn output_len(&mut self, id: ConnectionId) -> Option<usize> {
        self.core.slots.find(id).map(|(_, connection)| connection.unsent())
    }

    /// Returns whether a stop of the reactor was requested in any way, until it serves again. After that a handler can
    /// tell the client to send no more: `Connection: close` in HTTP (RFC 9112, section 9.6). The connection then ends
    /// as soon as the client has closed, and the stop does not wait until it is quiet.
    pub fn is_stopping(&self) -> bool {
        self.core.is_stopping()
    }

    /// Stops the reactor: see [`ShutdownHandle::shutdown`](crate::ShutdownHandle::shutdown).
    pub fn request_shutdown(&mut self) {
        self.handle().shutdown_handle().shutdown();
    }

    /// Returns the reactor's counters.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// Returns a handle for other threads.
    pub fn handle(&self) -> Handle {
        self.core.handle()
    }

    /// Returns the time on the reactor's clock, since it was made. Virtual in tests.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.core.now)
    }
}

impl<S> std::fmt::Debug for Others<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Others").field("server", &self.pending.server).finish_non_exhaustive()
    }
}
