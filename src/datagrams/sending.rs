//! Sends datagrams by a socket of the reactor.

use super::endpoint::Endpoint;
use crate::address::Address;
use crate::backoff::Backoff;
use crate::connection::Delivery;
use crate::error::{Error, Result};
use crate::net::MulticastGroup;
use crate::net::datagram::DatagramSocket;
use crate::net::packet::{Packet, Route};
use crate::reactor::core::{Core, DatagramCode};
use crate::reactor::entries::Alarm;
use crate::reactor::served::Served;
use crate::reactor::slots::Contents;
use crate::timers::{NO_TIMER, nanos};

impl Core {
    /// The read buffer must hold the longest datagram that a server's sockets may receive.
    pub(crate) fn fit_read_buffer(&mut self, server: u16) {
        let served = &self.served[usize::from(server)];
        let max = served.limits.max_packet_size;
        for &key in &served.listeners {
            if let Some(endpoint) = self.slots.endpoint(key) {
                self.read_buffer_bytes_min = self.read_buffer_bytes_min.max(endpoint.socket.buffer_bytes(max));
            }
        }
    }

    /// There may now be less room for waiting datagrams.
    pub(crate) fn fit_outboxes(&mut self, server: u16) {
        let Served { limits, listeners, .. } = &self.served[usize::from(server)];
        for &key in listeners {
            if let Some(endpoint) = self.slots.endpoint(key) {
                endpoint.outbox.make_room(0, limits, &mut self.stats);
            }
        }
    }

    /// Sends a datagram by the route of a received one.
    pub(crate) fn send_datagram(&mut self, route: Route, to: &Address, bytes: &[u8]) -> Delivery {
        match self.datagrams {
            Some(DatagramCode { send, .. }) => send(self, route, to, bytes),
            None => Delivery::Gone,
        }
    }

    /// Our address in the route of a received datagram.
    pub(crate) fn local_address(&self, route: Route) -> Option<Address> {
        let bound = self.slots.bound(route.endpoint)?;
        Some(route.local.map_or_else(|| bound.clone(), |ip| bound.with_ip(ip)))
    }

    /// Joins or leaves a group with each socket of a server that is of the group's family.
    pub(crate) fn each_member(
        &mut self,
        server: u16,
        group: &MulticastGroup,
        act: impl Fn(&DatagramSocket, &MulticastGroup) -> std::io::Result<()>,
    ) -> Result<()> {
        let mut sockets = 0;
        for &key in &self.served[usize::from(server)].listeners {
            let Some(endpoint) = self.slots.endpoint(key) else { continue };
            if endpoint.socket.address().ip().is_some_and(|ip| ip.is_ipv4() == group.address.is_ipv4()) {
                act(&endpoint.socket, group)?;
                sockets += 1;
            }
        }
        if sockets == 0 { Err(Error::NotBound) } else { Ok(()) }
    }

    /// The socket of a server that can send to an address, if there is one.
    pub(crate) fn route_to(&mut self, server: u16, to: &Address) -> Option<Route> {
        let keys = &self.served[usize::from(server)].listeners;
        let slots = &mut self.slots;
        let endpoint = keys.iter().copied().find(|&key| slots.endpoint(key).is_some_and(|at| at.socket.reaches(to)))?;
        Some(Route { endpoint, local: None })
    }

    /// Sends gathered datagrams, and waiting ones if there is room.
    pub(crate) fn flush_datagrams(&mut self, key: u32) {
        if let Some(DatagramCode { flush, .. }) = self.datagrams {
            flush(self, key);
        }
    }

    /// The timer fired: tries again to send waiting datagrams.
    pub(crate) fn resend(&mut self, key: u32) {
        if let Some(endpoint) = self.slots.endpoint(key) {
            endpoint.retry = NO_TIMER;
            endpoint.room = true;
            self.queue(key);
        }
    }

    /// Calls a closure with each datagram socket of one server or of all.
    pub(crate) fn each_endpoint(&mut self, server: Option<u16>, mut act: impl FnMut(&mut Endpoint)) {
        let of_server = |(number, _): &(usize, _)| server.is_none_or(|server| usize::from(server) == *number);
        for (_, served) in self.served.iter().filter(of_server) {
            served.listeners.iter().for_each(|&key| self.slots.endpoint(key).into_iter().for_each(&mut act));
        }
    }

    /// Returns whether a server, or any, has datagrams to send.
    pub(crate) fn is_sending(&mut self, server: Option<u16>) -> bool {
        let mut sends = false;
        self.each_endpoint(server, |endpoint| sends |= endpoint.is_sending());
        sends
    }

    /// The number of sessions of a server, at all of its sockets.
    pub(crate) fn sessions(&mut self, server: u16) -> usize {
        let slots = &mut self.slots;
        let sessions = |&key: &u32| slots.endpoint(key).map_or(0, |endpoint| endpoint.sessions.len());
        self.served[usize::from(server)].listeners.iter().map(sessions).sum()
    }

    /// A session is over. The next datagram of this peer begins another, unless one has begun already.
    pub(crate) fn forget_session(&mut self, route: Route, peer: &Address, key: u32) {
        if let Some(DatagramCode { forget, .. }) = self.datagrams {
            forget(self, route, peer, key);
        }
    }

    /// The slot of the socket is freed. Its timer is cancelled only now, because a last `finish` may have sent a
    /// datagram that waits.
    pub(crate) fn forget_endpoint(&mut self, mut endpoint: Endpoint) -> DatagramSocket {
        if endpoint.retry != NO_TIMER {
            self.timers.cancel(endpoint.retry);
        }
        self.selector.deregister(&mut endpoint.socket);
        endpoint.socket
    }
}

/// [`Core::send_datagram`] if there are datagram sockets.
#[inline(never)]
pub(super) fn send(core: &mut Core, route: Route, to: &Address, bytes: &[u8]) -> Delivery {
    let Route { endpoint: key, local } = route;
    let Some(slot) = core.slots.get(key) else { return Delivery::Gone };
    let Some(Contents::Endpoint(endpoint)) = slot.contents.as_deref_mut() else { return Delivery::Gone };
    if to.is_unnamed() {
        core.stats.datagrams_failed += 1;
        return Delivery::Gone;
    }
    let Endpoint { socket, outbox, .. } = &mut **endpoint;
    if outbox.send_now(socket, to, bytes, &mut core.stats) {
        return Delivery::Queued;
    }
    let limits = &core.served[usize::from(slot.server)].limits;
    let kept = outbox.push(to, local, bytes, limits, &mut core.stats);
    if endpoint.outbox.is_ripe() {
        core.flush_datagrams(key);
    }
    if core.receiving != key {
        core.queue(key);
    }
    if kept { Delivery::Queued } else { Delivery::Refused }
}

/// Like [`send`], for the answer to a single datagram, by the socket that is being read. A datagram that cannot be sent is
/// counted, and nothing waits for the result.
#[inline(always)]
pub(super) fn answer(core: &mut Core, socket: u32, packet: &Packet, bytes: &[u8]) {
    if let Some(endpoint) = core.slots.endpoint(socket)
        && endpoint.socket.sends_several()
        && endpoint.outbox.gather(&packet.from, packet.local, bytes)
    {
        if endpoint.outbox.is_ripe() {
            core.flush_datagrams(socket);
        }
    } else {
        let _ = send(core, Route { endpoint: socket, local: packet.local }, &packet.from, bytes);
    }
}

/// [`Core::flush_datagrams`] if there are datagram sockets.
pub(super) fn flush(core: &mut Core, key: u32) {
    let Some(slot) = core.slots.get(key) else { return };
    let token = slot.token(key);
    let Some(Contents::Endpoint(endpoint)) = slot.contents.as_deref_mut() else { return };
    if endpoint.is_idle() {
        return;
    }
    let limits = &core.served[usize::from(slot.server)].limits;
    let Endpoint { socket, outbox, room, retry, backoff, watches_room, .. } = &mut **endpoint;
    if std::mem::take(room) && outbox.retry(socket, &mut core.stats) {
        *backoff = Backoff::default();
    }
    outbox.flush(socket, limits, &mut core.stats);
    let waits = outbox.is_waiting();
    if waits && *retry == NO_TIMER {
        *retry = core.timers.arm(core.now.saturating_add(nanos(backoff.pause())), Alarm::Resend(key));
    } else if !waits && *retry != NO_TIMER {
        core.timers.cancel(std::mem::replace(retry, NO_TIMER));
        *backoff = Backoff::default();
    }
    let watch = waits && !socket.blocks_by_peer();
    // If this fails, the timer retries.
    if watch != *watches_room && core.selector.watch_room(socket, token, watch).is_ok() {
        *watches_room = watch;
    }
}

/// [`Core::forget_session`] if there are datagram sockets.
pub(super) fn forget(core: &mut Core, route: Route, peer: &Address, key: u32) {
    let Some(endpoint) = core.slots.endpoint(route.endpoint) else { return };
    if endpoint.outbound == Some(key) {
        core.disconnect(route.endpoint);
    } else if endpoint.sessions.get(peer) == Some(&key) {
        endpoint.sessions.remove(peer);
    }
}
