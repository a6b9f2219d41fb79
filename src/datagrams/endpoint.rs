//! A datagram socket in the reactor.
//!
//! Registered for reading only: a UDP socket reports room after every datagram it has sent, which would wake the loop
//! for nothing. When it takes no more, the interest is widened until it does.

use std::collections::HashMap;

use super::outbox::Outbox;
use crate::address::Address;
use crate::backoff::Backoff;
use crate::net::datagram::DatagramSocket;
use crate::net::readiness::Readiness;
use crate::reactor::entries::Pause;
use crate::timers::{NO_TIMER, TimerKey};

pub(crate) struct Endpoint {
    pub(crate) socket: DatagramSocket,
    /// Datagrams may wait, as far as we know.
    pub(crate) ready: bool,
    /// The socket has said that it has room again.
    pub(crate) room: bool,
    /// Datagrams that are received with one call, at most: as many as were handled in time.
    pub(crate) at_once: usize,
    /// Receiving is paused, because it failed.
    pub(crate) pause: Pause,
    pub(crate) outbox: Outbox,
    /// What waits to be sent is tried again at the latest then, and how long after that.
    pub(crate) retry: TimerKey,
    pub(crate) backoff: Backoff,
    /// The interest includes writing.
    pub(crate) watches_room: bool,
    /// By peer: the slot of its session, if the server keeps sessions.
    pub(crate) sessions: HashMap<Address, u32>,
    /// Nothing is received any more: the server is about to be closed.
    pub(crate) closing: bool,
}

impl Endpoint {
    pub(crate) fn new(socket: DatagramSocket) -> Self {
        Endpoint {
            socket,
            ready: false,
            room: false,
            at_once: usize::MAX,
            pause: Pause::none(),
            outbox: Outbox::default(),
            retry: NO_TIMER,
            backoff: Backoff::default(),
            watches_room: false,
            sessions: HashMap::new(),
            closing: false,
        }
    }

    /// Takes an event in. Says whether there may be something to do. Not inlined: there are few sockets of this kind, and
    /// it would be in the way of connections.
    #[inline(never)]
    pub(crate) fn on_event(&mut self, readiness: Readiness) -> bool {
        self.ready |= readiness.0 & Readiness::READABLE != 0;
        self.room |= readiness.0 & Readiness::WRITABLE != 0 && self.outbox.is_waiting();
        self.ready && !self.pause.is_on() || self.room
    }

    /// Whether something may be received now.
    pub(crate) fn receives(&self) -> bool {
        self.ready && !self.closing && !self.pause.is_on()
    }

    pub(crate) fn is_sending(&self) -> bool {
        !self.outbox.is_empty()
    }
}
