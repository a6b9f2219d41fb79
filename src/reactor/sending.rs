//! Operations of a callback on other connections: sending and ending.

use std::sync::Arc;

use super::Reactor;
use super::core::Core;
use super::slots::Contents;
use crate::connection::{Delivery, Payload};
use crate::ids::ConnectionId;
use crate::lifecycle::EndReason;
use crate::shared_bytes::SharedBytes;

impl Core {
    pub(crate) fn end(&mut self, id: ConnectionId, why: EndReason, at_once: bool) {
        if let Some((_, connection)) = self.slots.find(id) {
            connection.state.end(why, at_once);
            self.queue(id.slot.key);
        } else {
            self.end_elsewhere(id, why);
        }
    }

    pub(crate) fn send(&mut self, id: ConnectionId, bytes: Payload<'_>) -> Delivery {
        let now = self.now;
        let Some((server, connection)) = self.slots.find(id) else {
            let is_refused = self.slots.is_elsewhere(id) || self.slots.is_lent(id);
            return if is_refused { Delivery::Refused } else { Delivery::Gone };
        };
        if let Some(route) = connection.io.stream.route() {
            if connection.state.phase.is_ending() {
                return Delivery::Gone;
            }
            connection.state.activity = now;
            let to = connection.state.address.clone();
            return self.send_datagram(route, &to, bytes.as_slice());
        }
        let sent = connection.push(bytes, &self.served[usize::from(server)].limits, now, &mut self.stats);
        self.queue(id.slot.key);
        if self.tally.is_some() {
            self.recount_target(id.slot);
        }
        sent
    }

    /// The sender to a connection has used its share. It continues when that connection's `writable` is called.
    pub(crate) fn owe_writable(&mut self, id: ConnectionId) {
        if let Some((_, connection)) = self.slots.find(id) {
            connection.state.phase.fill();
            self.queue(id.slot.key);
        }
    }

    /// Sends the same payload to every connection of a server that `wanted` admits. Returns how many took it.
    pub(crate) fn broadcast(
        &mut self,
        server: u16,
        bytes: &SharedBytes,
        mut wanted: impl FnMut(ConnectionId) -> bool,
    ) -> usize {
        let limits = Arc::clone(&self.served[usize::from(server)].limits);
        let reactor = self.slots.reactor;
        let mut count = 0;
        let (mut datagrams, mut targets) = (Vec::new(), Vec::new());
        for (key, slot) in self.slots.iter().filter(|(_, slot)| slot.server == server) {
            let id = ConnectionId { slot: slot.id(key), reactor };
            let Some(Contents::Connection(connection)) = slot.contents.as_deref_mut() else {
                continue;
            };
            if !connection.state.phase.may_call() || !wanted(id) {
                continue;
            }
            if let Some(route) = connection.io.stream.route() {
                connection.state.activity = self.now;
                datagrams.push((route, connection.state.address.clone()));
                continue;
            }
            let sent = connection.push(Payload::Shared(bytes.clone()), &limits, self.now, &mut self.stats);
            count += usize::from(matches!(sent, Delivery::Queued | Delivery::Full));
            if !slot.queued {
                slot.queued = true;
                self.ready.push(slot.id(key));
            }
            if self.tally.is_some() {
                targets.push(slot.id(key));
            }
        }
        targets.into_iter().for_each(|target| self.recount_target(target));
        for (route, to) in datagrams {
            count += usize::from(self.send_datagram(route, &to, bytes) == Delivery::Queued);
        }
        count
    }
}

impl Reactor {
    /// Sends to every connection of every server.
    pub(crate) fn broadcast_to_all(&mut self, bytes: &SharedBytes) {
        for server in self.numbers() {
            self.core.broadcast(server, bytes, |_| true);
        }
    }
}
