//! Access for hooks and callbacks to the reactor and to connections other than the one being served.

use std::sync::Arc;
use std::time::Duration;

use super::RequestHandler;
use crate::address::Address;
use crate::connection::budget::Budget;
use crate::connection::{Delivery, Payload};
use crate::error::Result;
use crate::ids::{ConnectionId, ServerId};
use crate::inspection::Inspection;
use crate::lifecycle::EndReason;
use crate::limits::Limits;
use crate::net::MulticastGroup;
use crate::net::datagram::DatagramSocket;
use crate::reactor::core::Core;
use crate::reactor::handle::Handle;
use crate::shared_bytes::SharedBytes;
use crate::stats::Stats;
use crate::timers::period;

/// All connections except the one whose callback is running, and the reactor: `request.others`. The hooks of a
/// [`BaseServer`](crate::BaseServer) receive the same type; in a hook, no connection is being served.
///
/// A connection is identified by its [`ConnectionId`], and may belong to any server of the reactor. An id of a
/// connection that is gone, or of another reactor, is ignored.
///
/// For its own connection, a handler uses the methods of [`Request`](crate::Request) that take no id. If the handler's
/// own id is passed here anyway, the connection is [closed](Self::close), [aborted](Self::abort), [shut
/// down](Self::shutdown_write), [paused](Self::pause_reading) or [resumed](Self::resume_reading) when the callback
/// returns, as if the corresponding method of `Request` had been called last. [`broadcast`](Self::broadcast) and
/// [`connections`](Self::connections) skip it, [`send`](Self::send) returns [`Delivery::Refused`], and
/// [`client_address`](Self::client_address) returns `None`.
///
/// ```
/// use socketserver::{BaseServer, Others};
/// use std::time::Duration;
///
/// struct Ticker;
/// impl BaseServer for Ticker {
///     fn timer(&mut self, others: &mut Others<'_, Self>, tag: u64) {
///         others.broadcast("tick\n", |_| true);
///         others.set_server_timer(tag, Duration::from_secs(1)); // Periodic: set_server_interval.
///     }
/// }
/// ```
pub struct Others<'a, S = ()> {
    pub(crate) core: &'a mut Core,
    pub(crate) pending: &'a mut Pending<S>,
    /// The time budget of the callback. Hooks have no such limit.
    pub(crate) budget: Option<&'a Budget>,
}

/// The work that a server must still do when the running callback returns.
pub(crate) struct Pending<S> {
    /// Its number in the reactor.
    pub(crate) server: u16,
    /// Orders by slot. [`NO_SLOT`](crate::ids::NO_SLOT) stands for a single datagram.
    pub(crate) orders: Vec<(u32, Order<S>)>,
}

/// An operation to apply to one connection.
pub(crate) enum Order<S> {
    /// Use this handler for the connection, either because it is a new outbound connection or because its handler is
    /// being replaced.
    Serve(Box<dyn RequestHandler<S>>),
    End {
        at_once: bool,
    },
    ShutdownWrite,
    /// Start TLS after so many bytes of the queue.
    #[cfg(feature = "tls")]
    StartTls {
        start: crate::net::tls::Start,
        bare: usize,
    },
    /// The handshake is complete, and a thread serves the connection: with this work.
    #[cfg(feature = "tls")]
    HandOver(crate::reactor::handle::Message),
    PauseReading,
    ResumeReading,
    /// The connection's limits have changed. `lowered` tells whether the limit of unread input was lowered.
    Hold {
        lowered: bool,
    },
}

impl<S> Others<'_, S> {
    /// Queues bytes for another connection. The bytes are copied. A block of 16 KiB or more is written to the socket
    /// immediately if nothing is queued before it. See [`Delivery`].
    pub fn send(&mut self, to: ConnectionId, bytes: &[u8]) -> Delivery {
        let sent = self.core.send(to, Payload::Copied(bytes));
        if sent == Delivery::Queued && self.budget.is_some_and(Budget::is_over) {
            self.core.owe_writable(to);
            return Delivery::Full;
        }
        sent
    }

    /// Queues one payload for every other connection of this server for which `wanted` returns true: text or bytes, which
    /// are copied once for all of them. Returns the number of connections for which it was queued. Connections with too much queued
    /// output are handled according to [`Limits::output_overflow`](crate::Limits::output_overflow).
    ///
    /// `wanted` can read `request.server`, which is borrowed separately. To write the same payload to the handler's own
    /// connection, use [`write_shared`](crate::Output::write_shared).
    pub fn broadcast(&mut self, bytes: impl AsRef<[u8]>, wanted: impl FnMut(ConnectionId) -> bool) -> usize {
        self.broadcast_shared(Arc::<[u8]>::from(bytes.as_ref()), wanted)
    }

    /// Like [`broadcast`](Self::broadcast), but for bytes that need not be copied at all.
    pub fn broadcast_shared(
        &mut self,
        bytes: impl Into<SharedBytes>,
        wanted: impl FnMut(ConnectionId) -> bool,
    ) -> usize {
        self.core.broadcast(self.pending.server, &bytes.into(), wanted)
    }

    /// Sends a datagram to any address, through the first socket of this server whose family matches the address.
    /// Returns [`Delivery::Gone`] if there is none. To send through the socket on which a request arrived, use
    /// [`Request::send_to`](crate::Request::send_to) in its callback, and [`answer`](Self::answer) later.
    pub fn send_to(&mut self, to: &Address, bytes: &[u8]) -> Delivery {
        match self.core.route_to(self.pending.server, to) {
            Some(route) => self.core.send_datagram(route, to, bytes),
            None => Delivery::Gone,
        }
    }

    /// Joins a multicast group with the datagram sockets of this server that are of the group's family.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) with the error from setsockopt(2), for example if there is no such interface or
    /// the socket is already a member; [`Error::NotBound`](crate::Error::NotBound) if there is no such socket.
    pub fn join_multicast(&mut self, group: &MulticastGroup) -> Result<()> {
        self.core.each_member(self.pending.server, group, DatagramSocket::join_multicast)
    }

    /// Leaves a multicast group that was joined at the start or later.
    ///
    /// # Errors
    /// The same as for [`join_multicast`](Self::join_multicast).
    pub fn leave_multicast(&mut self, group: &MulticastGroup) -> Result<()> {
        self.core.each_member(self.pending.server, group, DatagramSocket::leave_multicast)
    }

    /// Closes a connection after its queued output has been sent. Its handler receives [`EndReason::Evicted`].
    pub fn close(&mut self, id: ConnectionId) {
        if !self.defer(id, Order::End { at_once: false }) {
            self.core.end(id, EndReason::Evicted, false);
        }
    }

    /// Resets a connection. Its queued output is discarded. Its handler receives [`EndReason::Evicted`].
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

    /// The connection whose callback is running is borrowed by that callback, so operations on it are deferred until
    /// the callback returns. Returns whether `id` identifies that connection.
    fn defer(&mut self, id: ConnectionId, order: Order<S>) -> bool {
        let is_own = self.core.slots.is_lent(id);
        if is_own {
            self.pending.orders.push((id.slot.key, order));
        }
        is_own
    }

    /// Starts an outbound connection with `handler`. The handler's `setup` is called when the connection is
    /// established, and `connect_failed` is called if it cannot be. Bytes sent to the id in the meantime are queued. If
    /// the backlog of a Unix socket is full, the attempt is repeated (after 10 ms, then twice as long each time, up to
    /// 1 s) until there is room or [`Limits::connect_timeout`](crate::Limits) expires. A TCP connection that turns out
    /// to be connected to itself, which can happen if no socket is listening on the port, is refused. This method takes
    /// an address, because name resolution blocks; use [`offload`](crate::Request::offload) to resolve names.
    ///
    /// # Errors
    /// [`Error::Connect`](crate::Error::Connect) if it fails immediately, for example because there are no descriptors
    /// or no route. In this case `handler` is dropped and none of its methods is called.
    pub fn connect(&mut self, to: impl Into<Address>, handler: impl RequestHandler<S>) -> Result<ConnectionId> {
        let id = self.core.connect(self.pending.server, to.into())?;
        self.pending.orders.push((id.slot.key, Order::Serve(Box::new(handler))));
        Ok(id)
    }

    /// Opens a UDP socket with a port of its own, which the system chooses, and a session with `handler` for it. The
    /// session sends to `to` and receives only from there. `setup` is called in the next turn of the loop, and `handle`
    /// for each datagram. What a callback writes to [`output`](crate::Request::output) is one datagram. The socket is
    /// closed with the session: when a callback returns [`Next::Close`](crate::Next::Close), and after
    /// [`Limits::idle_timeout`](crate::Limits) or what [`set_timeout`](crate::Request::set_timeout) has set instead, so
    /// set that to the time for an answer. If `to` is known to have no receiver (`ECONNREFUSED`), the session ends with
    /// [`EndReason::Reset`]. Datagrams longer than [`Limits::max_packet_size`](crate::Limits) are counted and dropped.
    ///
    /// The port is hard to guess for someone who wants to forge an answer. A protocol should also have an id in each
    /// question, and compare the question in the answer (RFC 5452).
    ///
    /// # Errors
    /// [`Error::Connect`](crate::Error::Connect) if it fails, for example because there are no descriptors or no route,
    /// for an address that is not of UDP, and in a scripted network. In this case `handler` is dropped and none of its
    /// methods is called.
    ///
    /// Source: connect(2) of a datagram socket, udp(7). Python's module has nothing for it.
    pub fn connect_datagram(
        &mut self,
        to: impl Into<Address>,
        handler: impl RequestHandler<S>,
    ) -> Result<ConnectionId> {
        let id = self.core.connect_datagram(self.pending.server, to.into())?;
        self.pending.orders.push((id.slot.key, Order::Serve(Box::new(handler))));
        Ok(id)
    }

    /// Returns the other open connections of this server, its sessions, and its requests on threads and of programs. A
    /// closed connection is included until its output has been sent and while it [lingers](crate::Limits::linger); an
    /// aborted connection is not included.
    ///
    /// [Closing](Self::close) or [aborting](Self::abort) a request on a thread or of a program ends it immediately.
    /// Only the thread or program can write to the client: [`send`](Self::send) returns [`Delivery::Refused`],
    /// broadcasts skip it, and a message for it is dropped, counted and logged.
    pub fn connections(&self) -> Vec<ConnectionId> {
        self.core.slots.open(self.pending.server)
    }

    /// Like [`connections`](Self::connections), but for any server of the reactor. Returns an empty list if there is no
    /// such server.
    pub fn connections_of(&self, server: ServerId) -> Vec<ConnectionId> {
        self.core.server(server).map(|server| self.core.slots.open(server)).unwrap_or_default()
    }

    /// Returns the address of a connection's peer, if it is still there.
    pub fn client_address(&self, id: ConnectionId) -> Option<Address> {
        self.core.slots.address(id)
    }

    /// Sets a timer for the server. If a timer with this tag exists, it is reset. The timer calls
    /// [`BaseServer::timer`](crate::BaseServer::timer) once, and never early. It is independent of the connection that
    /// sets it and survives a stop. It is cancelled when the server is closed with
    /// [`Reactor::server_close`](crate::Reactor::server_close) or dropped.
    pub fn set_server_timer(&mut self, tag: u64, after: Duration) {
        self.core.set_server_timer(self.pending.server, tag, after, None);
    }

    /// Sets a periodic timer for the server. If a timer with this tag exists, it is replaced. The timer calls
    /// [`BaseServer::timer`](crate::BaseServer::timer) once in each period of `every`, for the first time after one
    /// period, until it is [cancelled](Self::cancel_server_timer) or reset. The minimum period is 1 ms; a shorter one
    /// is treated as 1 ms.
    ///
    /// The ticks are whole multiples of `every` after the moment at which it was set, so it does not drift. A tick may
    /// come late, but never early. Ticks that were missed, because a callback took longer or the process was stopped,
    /// are skipped: one tick is delivered as soon as possible, and the next one at the next multiple.
    pub fn set_server_interval(&mut self, tag: u64, every: Duration) {
        self.core.set_server_timer(self.pending.server, tag, every, Some(period(every)));
    }

    /// Cancels a timer of the server, whether periodic or not. Returns whether it was set.
    pub fn cancel_server_timer(&mut self, tag: u64) -> bool {
        self.core.cancel_server_timer(self.pending.server, tag)
    }

    /// Returns the number of bytes queued for a connection, that is, bytes that were written to it but not yet accepted
    /// by the kernel. 0 for a session of a datagram server. `None` if the connection is gone, or if a thread or a
    /// program serves it. For the handler's own connection, use [`output.len()`](crate::Output::len).
    pub fn output_len(&mut self, id: ConnectionId) -> Option<usize> {
        self.core.slots.find(id).map(|(_, connection)| connection.unsent())
    }

    /// Returns whether a stop of the reactor was requested, by any means, or this server
    /// [drains](Self::drain_server). It returns true from the request until the reactor serves again. During this time, a handler's answers can tell the client to send no more requests:
    /// `Connection: close` in HTTP (RFC 9112, section 9.6). The connection then ends as soon as the client has closed
    /// it, and the stop does not wait until it is quiet.
    pub fn is_stopping(&self) -> bool {
        self.core.is_stopping(self.pending.server)
    }

    /// Drains one server of the reactor from the next turn on, and then closes it: see
    /// [`Reactor::drain_server`](crate::Reactor::drain_server).
    pub fn drain_server(&mut self, server: ServerId) {
        self.handle().run_next(move |reactor| reactor.drain_server(server));
    }

    /// Changes the limits of a server of the reactor, from the next turn on: see
    /// [`Reactor::set_limits`](crate::Reactor::set_limits). Nothing happens if there is no such server.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) for contradictory limits; then nothing changes.
    pub fn set_limits(&mut self, server: ServerId, limits: Limits) -> Result<()> {
        limits.clone().resolved()?;
        self.handle().run_next(move |reactor| _ = reactor.set_limits(server, limits));
        Ok(())
    }

    /// Returns the id of this server.
    pub fn server_id(&self) -> ServerId {
        self.core.served[usize::from(self.pending.server)].id
    }

    /// Stops the reactor: see [`ShutdownHandle::shutdown`](crate::ShutdownHandle::shutdown).
    pub fn request_shutdown(&mut self) {
        self.handle().shutdown_handle().shutdown();
    }

    /// Replaces this process by the next version of its program: see [`Reactor::restart`](crate::Reactor::restart). It
    /// begins in the next turn. On Unix. Feature `restart`.
    ///
    /// A handler of [`Workers`](crate::Workers) calls [`WorkersHandle::restart`](crate::WorkersHandle::restart) instead,
    /// because the sockets do not belong to a worker. Here it would get `Ok`, and the restart would fail afterwards.
    ///
    /// # Errors
    /// [`Error::Reactor`](crate::Error::Reactor) if a restart or a stop is under way. Later failures are logged only.
    #[cfg(all(unix, feature = "restart"))]
    pub fn restart(&mut self) -> Result<()> {
        self.core.request_restart()
    }

    /// Returns the counters of this reactor.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// Returns what the reactor is doing now: see [`Reactor::inspect`](crate::Reactor::inspect). For a page that shows why
    /// a server is slow or does not stop. The connection whose callback is running is counted, but not listed.
    pub fn inspect(&mut self) -> Inspection {
        self.core.inspect()
    }

    /// Returns a handle through which other threads can reach the reactor.
    pub fn handle(&self) -> Handle {
        self.core.handle()
    }

    /// Returns the time on the reactor's clock since the reactor was created. In tests this is virtual time.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.core.now)
    }
}

impl<S> std::fmt::Debug for Others<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Others").field("server", &self.pending.server).finish_non_exhaustive()
    }
}
