//! The store of everything that the selector knows: a slab of slots, named by tokens that carry a generation.
//!
//! A slab reuses the key of a freed slot. Each slot gets a new generation. It keeps an event, an id or a message for
//! the old slot from reaching its successor.

use std::sync::atomic::{AtomicU32, Ordering};

use mio::Token;
use slab::Slab;

use super::entries::{Elsewhere, Listening, Pause};
use crate::address::Address;
use crate::connection::Connection;
use crate::datagrams::endpoint::Endpoint;
use crate::ids::{ConnectionId, GENERATION_MASK, KEY_MAX, NO_SLOT, SlotId, pack, unpack};
use crate::net::readiness::Readiness;

/// Everything registered with the selector, and the generations.
pub(crate) struct Slots {
    /// No other reactor of the process has this number (until 2³² were made). Every id contains it, so an id is not
    /// valid in another reactor.
    pub(crate) reactor: u32,
    slab: Slab<Slot>,
    pub(crate) generation: u32,
    /// The generations of requests without a slot, which are separate so that a flood of datagrams does not use up the
    /// other generations.
    passing: u32,
}

pub(crate) struct Slot {
    pub(crate) generation: u32,
    pub(crate) server: u16,
    /// It is in the ready queue. A slot is in there at most once.
    pub(crate) queued: bool,
    /// `None` while its server has borrowed the connection to serve it. Boxed, because a connection is moved out of the
    /// slot and back for each service.
    pub(crate) contents: Option<Box<Contents>>,
}

impl Slot {
    pub(crate) fn id(&self, key: u32) -> SlotId {
        SlotId { key, generation: self.generation }
    }

    /// The token of the slot with this key.
    pub(crate) fn token(&self, key: u32) -> Token {
        pack(self.generation, key)
    }

    #[inline(always)]
    pub(crate) fn contents(&mut self) -> Option<&mut Contents> {
        self.contents.as_deref_mut()
    }

    #[inline(always)]
    pub(crate) fn connection(&mut self) -> Option<&mut Connection> {
        match self.contents() {
            Some(Contents::Connection(connection)) => Some(connection),
            _ => None,
        }
    }

    pub(crate) fn elsewhere(&mut self) -> Option<&mut Elsewhere> {
        match self.contents() {
            Some(Contents::Elsewhere(elsewhere)) => Some(elsewhere),
            _ => None,
        }
    }

    /// Handles an event. Returns whether there may be something to do.
    #[inline(always)]
    pub(super) fn on_event(&mut self, readiness: Readiness) -> bool {
        match self.contents() {
            Some(Contents::Connection(connection)) => connection.on_event(readiness),
            other => on_other_event(other, readiness),
        }
    }
}

#[inline(never)]
fn on_other_event(contents: Option<&mut Contents>, readiness: Readiness) -> bool {
    match contents {
        Some(Contents::Listener(listening)) => {
            listening.ready = true;
            !listening.pause.is_on()
        }
        Some(Contents::Endpoint(endpoint)) => endpoint.on_event(readiness),
        #[cfg(all(unix, feature = "proxy-protocol"))]
        Some(Contents::Heading(heading)) => {
            heading.ended |= readiness.0 & (Readiness::READ_TO_END | Readiness::HUNG_UP) != 0;
            true
        }
        #[cfg(all(unix, feature = "signals"))]
        Some(Contents::Signals(_)) => true,
        // It is not registered, or is being served.
        Some(Contents::Connection(_) | Contents::Vacant | Contents::Elsewhere(_)) | None => false,
    }
}

/// What is in a slot. Only the connection is here itself, because all of them have the size of the largest.
pub(crate) enum Contents {
    Connection(Connection),
    /// The connection is over, and its box is kept for the next one.
    Vacant,
    Listener(Box<Listening>),
    Endpoint(Box<Endpoint>),
    Elsewhere(Box<Elsewhere>),
    #[cfg(all(unix, feature = "proxy-protocol"))]
    Heading(Box<super::entries::Heading>),
    #[cfg(all(unix, feature = "signals"))]
    Signals(Box<super::signals::Signals>),
}

/// An empty box for a connection.
pub(crate) struct Spare(pub(super) Box<Contents>);

impl Spare {
    #[inline(always)]
    pub(crate) fn holding(mut self, connection: Connection) -> Lent {
        let vacant = std::mem::replace(&mut *self.0, Contents::Connection(connection));
        debug_assert!(matches!(vacant, Contents::Vacant));
        std::mem::forget(vacant); // It has nothing to drop, and this saves the check.
        Lent(self.0)
    }
}

/// A connection that its server has borrowed.
pub(crate) struct Lent(pub(super) Box<Contents>);

impl Lent {
    #[inline(always)]
    pub(crate) fn connection(&mut self) -> &mut Connection {
        match &mut *self.0 {
            Contents::Connection(connection) => connection,
            _ => unreachable!("only a connection is lent"),
        }
    }
}

impl Slots {
    pub(crate) fn new() -> Self {
        static REACTORS: AtomicU32 = AtomicU32::new(0);
        let reactor = REACTORS.fetch_add(1, Ordering::Relaxed);
        Slots { reactor, slab: Slab::new(), generation: 0, passing: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    /// Returns whether there is room for another slot. The token has a limited number of bits for the key.
    pub(crate) fn is_full(&self) -> bool {
        self.slab.vacant_key() > KEY_MAX
    }

    pub(crate) fn insert(&mut self, server: u16, contents: Contents) -> u32 {
        let key = self.insert_lent(server).key;
        self.slab[key as usize].contents = Some(Box::new(contents));
        key
    }

    /// Makes a slot for a connection that is [given back](Self::give_back) later.
    pub(crate) fn insert_lent(&mut self, server: u16) -> SlotId {
        self.generation = self.generation.wrapping_add(1);
        let slot = Slot { generation: self.generation, server, queued: false, contents: None };
        SlotId { key: self.slab.insert(slot) as u32, generation: self.generation }
    }

    pub(crate) fn remove(&mut self, key: u32) -> Slot {
        self.slab.remove(key as usize)
    }

    pub(crate) fn get(&mut self, key: u32) -> Option<&mut Slot> {
        self.slab.get_mut(key as usize)
    }

    /// The slot of an entry of the ready queue, if it is still there.
    #[inline]
    pub(crate) fn entry(&mut self, SlotId { key, generation }: SlotId) -> Option<&mut Slot> {
        self.slab.get_mut(key as usize).filter(|slot| slot.generation == generation)
    }

    /// The slot a token was made for, if it is still there.
    #[inline]
    pub(crate) fn live(&mut self, token: Token) -> Option<(u32, &mut Slot)> {
        let (generation, key) = unpack(token);
        let slot = self.slab.get_mut(key as usize)?;
        (slot.generation & GENERATION_MASK == generation).then_some((key, slot))
    }

    pub(crate) fn token(&self, key: u32) -> Token {
        self.slab[key as usize].token(key)
    }

    #[inline]
    pub(crate) fn id_of(&self, slot: SlotId) -> ConnectionId {
        ConnectionId { slot, reactor: self.reactor }
    }

    pub(crate) fn id(&self, key: u32) -> ConnectionId {
        self.id_of(self.slab[key as usize].id(key))
    }

    /// Returns how many slots were taken after this one, modulo 2³².
    pub(super) fn age(&self, key: u32) -> u32 {
        self.generation.wrapping_sub(self.slab[key as usize].generation)
    }

    /// The slot of an id, if it is of this reactor and still there.
    pub(crate) fn named(&mut self, id: ConnectionId) -> Option<&mut Slot> {
        if id.reactor != self.reactor {
            return None;
        }
        self.entry(id.slot)
    }

    /// A connection that must exist.
    #[inline]
    pub(crate) fn connection(&mut self, key: u32) -> &mut Connection {
        match self.slab[key as usize].connection() {
            Some(connection) => connection,
            None => unreachable!("slot {key} is a connection until it is reaped"),
        }
    }

    /// The connection of an id, if it is still there, with its server.
    pub(crate) fn find(&mut self, id: ConnectionId) -> Option<(u16, &mut Connection)> {
        let slot = self.named(id)?;
        let server = slot.server;
        slot.connection().map(|connection| (server, connection))
    }

    /// Takes an entry out of the ready queue and [lends](Self::lend) its connection, if it belongs to this server and
    /// is still there.
    #[inline(always)]
    pub(crate) fn claim(&mut self, id: SlotId, server: u16) -> Option<Lent> {
        let slot = self.slab.get_mut(id.key as usize)?;
        if slot.generation != id.generation || slot.server != server {
            return None;
        }
        slot.queued = false;
        let contents = slot.contents.take()?;
        if !matches!(*contents, Contents::Connection(_)) {
            (slot.queued, slot.contents) = (true, Some(contents));
            return None;
        }
        Some(Lent(contents))
    }

    /// Takes a connection out of its slot while it is served. Its parts are borrowed separately then, and no other code
    /// can reach it.
    #[inline(always)]
    pub(crate) fn lend(&mut self, key: u32) -> Lent {
        let contents = self.slab[key as usize].contents.take();
        Lent(contents.expect("only one at a time serves a connection"))
    }

    #[inline(always)]
    pub(crate) fn give_back(&mut self, key: u32, Lent(contents): Lent) {
        let lent = self.slab[key as usize].contents.replace(contents);
        debug_assert!(lent.is_none());
        std::mem::forget(lent); // It has nothing to drop, and this saves the check.
    }

    /// Returns whether an id names the connection, or the single datagram, whose callback is running.
    pub(crate) fn is_lent(&mut self, id: ConnectionId) -> bool {
        match id.slot.key {
            NO_SLOT => id == self.id_of(SlotId { key: NO_SLOT, generation: self.passing }),
            _ => self.named(id).is_some_and(|slot| slot.contents.is_none()),
        }
    }

    /// The peer's address of the connection with this id, if it is still there.
    pub(crate) fn address(&self, id: ConnectionId) -> Option<Address> {
        let ours = id.reactor == self.reactor;
        let slot = self.slab.get(id.slot.key as usize).filter(|slot| ours && slot.generation == id.slot.generation)?;
        match slot.contents.as_deref()? {
            Contents::Connection(connection) => Some(connection.state.address.clone()),
            Contents::Elsewhere(elsewhere) => Some(elsewhere.address.clone()),
            _ => None,
        }
    }

    pub(crate) fn listening(&mut self, key: u32) -> Option<&mut Listening> {
        match self.slab.get_mut(key as usize)?.contents()? {
            Contents::Listener(listening) => Some(listening),
            _ => None,
        }
    }

    pub(crate) fn endpoint(&mut self, key: u32) -> Option<&mut Endpoint> {
        match self.slab.get_mut(key as usize)?.contents()? {
            Contents::Endpoint(endpoint) => Some(endpoint),
            _ => None,
        }
    }

    /// Returns whether an id names a request that a thread or a program serves.
    #[cfg(all(unix, feature = "proxy-protocol"))]
    pub(crate) fn heading(&mut self, key: u32) -> Option<&mut super::entries::Heading> {
        match self.get(key)?.contents() {
            Some(Contents::Heading(heading)) => Some(heading),
            _ => None,
        }
    }

    pub(crate) fn is_elsewhere(&mut self, id: ConnectionId) -> bool {
        self.named(id).is_some_and(|slot| slot.elsewhere().is_some())
    }

    pub(crate) fn elsewhere(&mut self, key: u32) -> Option<&mut Elsewhere> {
        self.slab.get_mut(key as usize)?.elsewhere()
    }

    /// The requests that are served elsewhere, of one server or of all.
    pub(crate) fn all_elsewhere(&self, server: Option<u16>) -> Vec<ConnectionId> {
        self.ids(server, |contents| matches!(contents, Contents::Elsewhere(_)))
    }

    /// The keys of connections whose header has not arrived, of one server or of all.
    #[cfg(all(unix, feature = "proxy-protocol"))]
    pub(crate) fn headings(&self, server: Option<u16>) -> Vec<u32> {
        let ids = self.ids(server, |contents| matches!(contents, Contents::Heading(_)));
        ids.into_iter().map(|id| id.slot.key).collect()
    }

    /// The open requests of a server, wherever they are served, except the one whose callback is running.
    pub(crate) fn open(&self, server: u16) -> Vec<ConnectionId> {
        self.ids(Some(server), |contents| match contents {
            // A connection that was reset or is over only waits for the end of the turn.
            Contents::Connection(connection) => {
                !connection.state.phase.is_aborting() && !connection.state.phase.is_dead()
            }
            Contents::Elsewhere(_) => true,
            _ => false,
        })
    }

    fn ids(&self, server: Option<u16>, wanted: impl Fn(&Contents) -> bool) -> Vec<ConnectionId> {
        let of_server = self.slab.iter().filter(|(_, slot)| server.is_none_or(|server| slot.server == server));
        let ids = of_server.filter(|(_, slot)| slot.contents.as_deref().is_some_and(&wanted));
        ids.map(|(key, slot)| self.id_of(slot.id(key as u32))).collect()
    }

    /// The pause of a listener or an endpoint.
    pub(crate) fn pause(&mut self, key: u32) -> Option<&mut Pause> {
        match self.slab.get_mut(key as usize)?.contents()? {
            Contents::Listener(listening) => Some(&mut listening.pause),
            Contents::Endpoint(endpoint) => Some(&mut endpoint.pause),
            _ => None,
        }
    }

    /// Returns whether clients of a listener, or datagrams, may be waiting.
    pub(crate) fn is_ready(&mut self, key: u32) -> bool {
        match self.slab.get(key as usize).and_then(|slot| slot.contents.as_deref()) {
            Some(Contents::Listener(listening)) => listening.ready,
            Some(Contents::Endpoint(endpoint)) => endpoint.ready,
            _ => false,
        }
    }

    /// The address of a listener or an endpoint.
    pub(crate) fn bound(&self, key: u32) -> Option<&Address> {
        match self.slab.get(key as usize)?.contents.as_deref()? {
            Contents::Listener(listening) => listening.listener.as_ref().map(|listener| listener.address()),
            Contents::Endpoint(endpoint) => Some(endpoint.socket.address()),
            _ => None,
        }
    }

    /// A new id for a request without a slot, which is over before other code could refer to it.
    pub(crate) fn passing_id(&mut self) -> ConnectionId {
        self.passing = self.passing.wrapping_add(1);
        self.id_of(SlotId { key: NO_SLOT, generation: self.passing })
    }

    pub(crate) fn iter(&mut self) -> impl Iterator<Item = (u32, &mut Slot)> {
        self.slab.iter_mut().map(|(key, slot)| (key as u32, slot))
    }

    /// The keys of all connections that the reactor serves, of one server or of all.
    pub(crate) fn connections(&self, server: Option<u16>) -> Vec<u32> {
        self.ids(server, |contents| matches!(contents, Contents::Connection(_)))
            .into_iter()
            .map(|id| id.slot.key)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn a_slot_is_small() {
        assert_eq!(size_of::<Option<Slot>>(), 16);
        assert_eq!(size_of::<Contents>(), size_of::<Connection>());
    }
}
