//! What hooks and callbacks do with the reactor beyond one connection.

use std::sync::Arc;
use std::time::Duration;

use super::RequestHandler;
use super::request::Control;
use crate::address::Address;
use crate::connection::{Payload, Sent};
use crate::error::Result;
use crate::ids::{ConnectionId, ServerId};
use crate::lifecycle::Finish;
use crate::net::MulticastGroup;
use crate::net::datagram::DatagramSocket;
use crate::reactor::handle::Handle;
use crate::shared_bytes::SharedBytes;
use crate::stats::Stats;

impl<S> Control<'_, S> {
    /// Queues bytes for a connection; see [`Request::send`](crate::Request::send).
    pub fn send(&mut self, to: ConnectionId, bytes: &[u8]) -> Sent {
        self.core.send(to, Payload::Copied(bytes))
    }

    /// Queues one payload for all connections of this server that `wanted` admits; see [`Request::broadcast`](crate::Request::broadcast).
    pub fn broadcast(&mut self, bytes: impl Into<Arc<[u8]>>, wanted: impl FnMut(ConnectionId) -> bool) -> usize {
        self.broadcast_shared(bytes.into(), wanted)
    }

    /// The same for bytes that are not even copied once; see [`Request::broadcast_shared`](crate::Request::broadcast_shared).
    pub fn broadcast_shared(
        &mut self,
        bytes: impl Into<SharedBytes>,
        wanted: impl FnMut(ConnectionId) -> bool,
    ) -> usize {
        self.core.broadcast(self.server, &bytes.into(), wanted)
    }

    /// Sends a datagram to anybody, through the first socket of this server that is of the address's kind.
    /// [`Sent::Gone`] if it has none.
    pub fn send_to(&mut self, to: &Address, bytes: &[u8]) -> Sent {
        match self.core.route_to(self.server, to) {
            Some(route) => self.core.send_datagram(route, to, bytes),
            None => Sent::Gone,
        }
    }

    /// Joins a multicast group with the datagram sockets of this server that are of its family.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) with what setsockopt(2) says: no such interface, a member already;
    /// [`Error::NotBound`](crate::Error::NotBound) if there is no such socket.
    pub fn join_multicast(&mut self, group: &MulticastGroup) -> Result<()> {
        self.core.each_member(self.server, group, DatagramSocket::join_multicast)
    }

    /// Leaves a multicast group that was joined at the start or later.
    ///
    /// # Errors
    /// As for [`join_multicast`](Self::join_multicast).
    pub fn leave_multicast(&mut self, group: &MulticastGroup) -> Result<()> {
        self.core.each_member(self.server, group, DatagramSocket::leave_multicast)
    }

    /// Closes a connection after what is queued for it was sent. Its handler gets [`Finish::Evicted`].
    pub fn close(&mut self, id: ConnectionId) {
        self.core.end(id, Finish::Evicted, false);
    }

    /// Resets a connection: what is queued for it is dropped.
    pub fn abort(&mut self, id: ConnectionId) {
        self.core.end(id, Finish::Evicted, true);
    }

    /// Ends our direction of a connection; see [`Request::shutdown_write`](crate::Request::shutdown_write).
    pub fn shutdown_write(&mut self, id: ConnectionId) {
        if let Some((_, connection)) = self.core.slots.find(id) {
            connection.state.shutdown_write();
            self.core.queue(id.slot.key);
        }
    }

    /// Stops reading a connection; see [`Request::pause_reading`](crate::Request::pause_reading).
    pub fn pause_reading(&mut self, id: ConnectionId) {
        if let Some((_, connection)) = self.core.slots.find(id) {
            connection.state.pause_reading();
        }
    }

    /// Reads a paused connection again; see [`Request::resume_reading`](crate::Request::resume_reading).
    pub fn resume_reading(&mut self, id: ConnectionId) {
        let now = self.core.now;
        if let Some((_, connection)) = self.core.slots.find(id)
            && connection.resume_reading(now)
        {
            self.core.queue(id.slot.key);
        }
    }

    /// Begins an outbound connection; see [`Request::connect`](crate::Request::connect).
    ///
    /// # Errors
    /// As there.
    pub fn connect(&mut self, to: impl Into<Address>, handler: impl RequestHandler<S>) -> Result<ConnectionId> {
        let id = self.core.connect(self.server, to.into())?;
        self.newcomers.push((id.slot.key, Box::new(handler)));
        Ok(id)
    }

    /// The open connections of this server, its sessions, and its requests on threads and with programs. One that is
    /// closed is among them until everything is sent, and while it [lingers](crate::Limits::linger); one that was aborted is not.
    ///
    /// A request on a thread or with a program can be [closed](Self::close) and [aborted](Self::abort), which end it at
    /// once. Its client hears nothing but what that writes: bytes that are sent to it are [`Sent::Refused`], a broadcast
    /// passes it by, and a message for it is dropped, counted and logged.
    pub fn connections(&self) -> Vec<ConnectionId> {
        self.core.slots.open(self.server)
    }

    /// The same of another server of the reactor. None if there is no such server.
    pub fn connections_of(&self, server: ServerId) -> Vec<ConnectionId> {
        self.core.server(server).map(|server| self.core.slots.open(server)).unwrap_or_default()
    }

    /// The address of a connection's peer, if it is still there.
    pub fn client_address(&self, id: ConnectionId) -> Option<Address> {
        self.core.slots.address(id)
    }

    /// Sets a timer of the server, or sets it anew if there is one of this tag. It calls
    /// [`BaseServer::timer`](crate::BaseServer::timer) once, never early. It is the server's value's, not a connection's:
    /// it outlasts a stop, until the server is closed with [`Reactor::server_close`](crate::Reactor::server_close) or
    /// dropped.
    pub fn set_timer(&mut self, tag: u64, after: Duration) {
        self.core.set_server_timer(self.server, tag, after);
    }

    /// Unsets a timer of the server. Says whether it was set.
    pub fn cancel_timer(&mut self, tag: u64) -> bool {
        self.core.cancel_server_timer(self.server, tag)
    }

    /// Stops the reactor: see [`ShutdownHandle::shutdown`](crate::ShutdownHandle::shutdown).
    pub fn request_shutdown(&mut self) {
        self.handle().shutdown_handle().shutdown();
    }

    /// What has happened in this reactor so far.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// A way back in for other threads.
    pub fn handle(&self) -> Handle {
        self.core.handle()
    }

    /// Time on the reactor's clock, since it was made. Virtual in tests.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.core.now)
    }
}

impl<S> std::fmt::Debug for Control<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("server", &self.server).finish_non_exhaustive()
    }
}
