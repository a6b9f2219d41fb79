//! A datagram socket in the reactor.
//!
//! It is registered for reading only, because a UDP socket reports room after every datagram that it has sent, which
//! would wake the loop for nothing. When the socket is full, it is also registered for writing until it is not.

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
    /// Datagrams may be waiting.
    pub(crate) ready: bool,
    /// The socket has reported room.
    pub(crate) room: bool,
    /// The most datagrams that are received before the first of them is handled, as far as the system tells them apart.
    pub(crate) at_once: usize,
    /// Receiving is paused because it failed.
    pub(crate) pause: Pause,
    pub(crate) outbox: Outbox,
    /// When to try sending again at the latest, and the pause after that.
    pub(crate) retry: TimerKey,
    pub(crate) backoff: Backoff,
    /// The interest includes writing.
    pub(crate) watches_room: bool,
    /// The slot of the one session of an outbound socket. They end together.
    pub(crate) outbound: Option<u32>,
    /// The slot of each peer's session, if the server keeps sessions.
    pub(crate) sessions: HashMap<Address, u32>,
    /// The server is about to be closed, or a successor receives what comes.
    pub(crate) receives_no_more: bool,
}

impl Endpoint {
    pub(crate) fn new(socket: DatagramSocket) -> Self {
        Endpoint {
            socket,
            ready: false,
            room: false,
            at_once: 1,
            pause: Pause::none(),
            outbox: Outbox::default(),
            retry: NO_TIMER,
            backoff: Backoff::default(),
            watches_room: false,
            outbound: None,
            sessions: HashMap::new(),
            receives_no_more: false,
        }
    }

    /// Handles an event. Returns whether there may be something to do. Not inlined, because there are few sockets of
    /// this kind, and the code would slow down connections.
    #[inline(never)]
    pub(crate) fn on_event(&mut self, readiness: Readiness) -> bool {
        self.ready |= readiness.0 & Readiness::READABLE != 0;
        self.room |= readiness.0 & Readiness::WRITABLE != 0 && self.outbox.is_waiting();
        self.ready && !self.pause.is_on() || self.room
    }

    /// Returns whether something may be received now.
    pub(crate) fn receives(&self) -> bool {
        self.ready && !self.receives_no_more && !self.pause.is_on()
    }

    /// Returns whether there is nothing to send, and nothing is prepared for sending again.
    pub(crate) fn is_idle(&self) -> bool {
        self.outbox.is_empty() && self.retry == NO_TIMER && !self.room && !self.watches_room
    }

    pub(crate) fn is_sending(&self) -> bool {
        !self.outbox.is_empty()
    }
}
