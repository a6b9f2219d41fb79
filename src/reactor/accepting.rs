//! Listening sockets, and the datagram sockets beside them, in the reactor: when one is accepted or received from, and
//! when that pauses.

use super::books::{EPISODE, Life};
use super::core::Core;
use super::entries::{Alarm, Listening, Pause};
use super::slots::Kind;
use crate::backoff::Backoff;
use crate::error::{Error, Result, reason};
use crate::limits::connections_from_descriptors;
use crate::logging::note;
use crate::net::Listener;
use crate::net::family::Bound;
use crate::panics::catch;
use crate::timers::NO_TIMER;
use crate::timers::nanos;

impl Core {
    /// Begins to accept or to receive.
    pub(crate) fn open(&mut self, server: u16, bound: Bound) -> Result<()> {
        self.served[usize::from(server)].life = Life::Open { stopped: false };
        match bound {
            Bound::Listener(listener) => self.listen(server, listener),
            Bound::Datagram(socket) => self.receive_from(server, socket),
        }
    }

    fn listen(&mut self, server: u16, listener: Listener) -> Result<()> {
        let address = listener.address().clone();
        let key = self.slots.insert(
            server,
            Kind::Listener(Box::new(Listening {
                listener: Some(Box::new(listener)),
                ready: false,
                pause: Pause::none(),
                invalid: 0,
                accepted: 0,
            })),
        );
        let token = self.slots.token(key);
        let listening = self.slots.listening(key).expect("just inserted");
        let listener = listening.listener.as_mut().expect("nobody has it on loan");
        if let Err(source) = self.selector.register(&mut **listener, token) {
            self.slots.remove(key);
            return Err(Error::Listen { address, source });
        }
        self.served[usize::from(server)].listeners.push(key);
        Ok(())
    }

    /// Closes a server's sockets. Whoever waits in a backlog is refused by the kernel; what waits to be sent is lost.
    pub(crate) fn unlisten(&mut self, server: u16) {
        for key in std::mem::take(&mut self.served[usize::from(server)].listeners) {
            self.unlisten_one(key);
        }
    }

    /// Takes a server's sockets out, to be registered elsewhere. What waits to be sent is tried once more.
    pub(super) fn take_sockets(&mut self, server: u16) -> Vec<Bound> {
        let mut sockets = Vec::new();
        for key in std::mem::take(&mut self.served[usize::from(server)].listeners) {
            self.flush_datagrams(key);
            self.end_pause(key);
            match self.slots.remove(key).kind {
                Kind::Listener(listening) => sockets.extend(listening.listener.map(|socket| Bound::Listener(*socket))),
                Kind::Endpoint(endpoint) => sockets.push(Bound::Datagram(self.forget_endpoint(*endpoint))),
                _ => unreachable!("listeners are of these kinds"),
            }
        }
        sockets.iter_mut().for_each(|socket| self.selector.deregister(socket));
        sockets
    }

    /// Closes those sockets of a server that clients connect to. Through the others what the handlers still say has to
    /// leave.
    pub(crate) fn unlisten_streams(&mut self, server: u16) {
        let mut listeners = std::mem::take(&mut self.served[usize::from(server)].listeners);
        listeners.retain(|&key| {
            let is_endpoint = self.slots.endpoint(key).is_some();
            if !is_endpoint {
                self.unlisten_one(key);
            }
            is_endpoint
        });
        self.served[usize::from(server)].listeners = listeners;
    }

    fn unlisten_one(&mut self, key: u32) {
        self.end_pause(key);
        if let Some(listening) = self.slots.listening(key) {
            listening.listener = None;
        }
        self.dead.push(key);
    }

    /// Says whether there was a pause.
    fn end_pause(&mut self, key: u32) -> bool {
        let Some(pause) = self.slots.pause(key) else { return false };
        let timer = std::mem::replace(&mut pause.timer, NO_TIMER);
        if timer != NO_TIMER {
            self.timers.cancel(timer);
        }
        timer != NO_TIMER
    }

    /// Connections that have a descriptor of their own: all but the sessions of datagram servers.
    fn descriptors(&self) -> usize {
        let sessions: usize = self.served.iter().map(|(_, served)| served.sessions).sum();
        self.stats.active as usize - sessions
    }

    /// Whether a server waits until connections have closed. Those that share the limit of the process wait together:
    /// otherwise one that did not wait yet would take each place that becomes free.
    pub(crate) fn is_capped(&self, server: u16) -> bool {
        self.served[usize::from(server)].is_capped(&self.cap)
    }

    /// Whether a server may accept one more connection. If not, its clients wait in the backlog.
    #[inline]
    pub(crate) fn may_accept(&mut self, server: u16) -> bool {
        let served = &self.served[usize::from(server)];
        let own = served.limits.connections_max.is_some_and(|max| served.connections() >= max);
        let process = served.shares_descriptors() && self.descriptors() >= self.connections_max;
        if own || process || self.slots.is_full() {
            self.reach_cap(server);
        }
        !self.is_capped(server) && self.served[usize::from(server)].quota > 0
    }

    /// A server has as many connections as it may have, unless the limit of descriptors was raised meanwhile.
    #[cold]
    fn reach_cap(&mut self, server: u16) {
        let (now, is_full) = (self.now, self.slots.is_full());
        if self.served[usize::from(server)].shares_descriptors() {
            let (active, before) = (self.descriptors(), self.connections_max);
            if active >= before {
                // If it cannot be read, it is as it was.
                self.connections_max = connections_from_descriptors().unwrap_or(before);
            }
            if self.connections_max > before {
                self.resume_accepting();
            }
            if active >= self.connections_max || is_full {
                self.cap.reach(now, active, self.connections_max, "RLIMIT_NOFILE");
            }
        }
        let served = &mut self.served[usize::from(server)];
        let active = served.connections();
        if let Some(max) = served.limits.connections_max
            && (active >= max || is_full)
        {
            served.cap.reach(now, active, max, "connections_max");
        }
    }

    /// accept(2) said EINVAL for one more client in a row. Says whether that is still believed of the clients.
    pub(crate) fn believes_invalid(&mut self, key: u32) -> bool {
        let listening = self.slots.listening(key).expect("listeners are closed between turns");
        listening.invalid = (listening.invalid + 1) % INVALID_MAX;
        listening.invalid != 0
    }

    /// Accepting or receiving failed for want of something: pause, longer each time. Clients that wait bring no further
    /// event, so the next attempt is ours to make.
    pub(crate) fn pause(&mut self, key: u32, doing: &str, error: &std::io::Error) {
        let now = self.now;
        let address = self.slots.bound(key).map(ToString::to_string);
        let error = catch(|| reason(error)).unwrap_or_else(|panic| panic.to_string());
        let Some(pause) = self.slots.pause(key) else { return };
        let fresh = pause.failed_at == 0 || now - pause.failed_at > nanos(EPISODE);
        pause.failed_at = now;
        if fresh {
            pause.backoff = Backoff::default();
            let unlogged = std::mem::take(&mut pause.unlogged);
            note!(
                Error,
                "cannot {doing} on {}: {error}; trying again as connections close, or within {} s (failed {unlogged} \
                 more times before)",
                address.unwrap_or_default(),
                Backoff::MAX.as_secs(),
            );
        } else {
            pause.unlogged += 1;
        }
        if !pause.is_on() {
            pause.timer = self.timers.arm(now + nanos(pause.backoff.pause()), Alarm::Resume(key));
        }
        self.stats.accept_pauses += 1;
    }

    /// The same for all listeners, for want of what every connection needs.
    pub(super) fn pause_all(&mut self, error: &std::io::Error) {
        for server in 0..self.served.len() {
            for at in 0..self.served[server].listeners.len() {
                let key = self.served[server].listeners[at];
                if self.slots.listening(key).is_some() {
                    self.pause(key, "accept", error);
                }
            }
        }
    }

    /// Connections were closed, or more are allowed, so there is room again: listeners that wait for it try at once. The
    /// one that has accepted nothing for longest comes first, because the first may take all the room there is.
    pub(crate) fn resume_accepting(&mut self) {
        let now = self.now;
        let room = self.cap.is_reached && has_room(self.descriptors(), self.connections_max);
        let all_uncapped = self.cap.lift(room, now);
        let mut resumed: Vec<(u64, u32)> = Vec::new();
        for server in 0..self.served.capacity() {
            let Some(served) = self.served.get_mut(server) else { continue };
            let own = served.limits.connections_max.is_some_and(|max| has_room(served.connections(), max));
            let uncapped = served.cap.lift(own, now) || (all_uncapped && served.shares_descriptors());
            for i in 0..served.listeners.len() {
                let key = self.served[server].listeners[i];
                if self.end_pause(key) || (uncapped && self.slots.is_ready(key)) {
                    let accepted = self.slots.listening(key).map_or(0, |listening| listening.accepted);
                    let place = resumed.partition_point(|&(before, _)| before <= accepted);
                    resumed.insert(place, (accepted, key));
                }
            }
        }
        resumed.into_iter().for_each(|(_, key)| self.queue(key));
    }

    /// Lets a server accept `quota` connections, beginning with those that wait already.
    pub(crate) fn set_quota(&mut self, server: u16, quota: usize) {
        self.served[usize::from(server)].quota = quota;
        self.queue_listeners(server);
    }

    /// Lets a server look whether it may accept clients that wait already.
    pub(super) fn queue_listeners(&mut self, server: u16) {
        for i in 0..self.served[usize::from(server)].listeners.len() {
            let key = self.served[usize::from(server)].listeners[i];
            if self.slots.is_ready(key) {
                self.queue(key);
            }
        }
    }
}

/// Whether accepting goes on: some way below the cap, or each close would cost a turn of accepting.
pub(super) fn has_room(active: usize, max: usize) -> bool {
    active < max && active <= max.saturating_mul(9) / 10
}

/// So many clients in a row that have gone before they were accepted are a broken listener.
const INVALID_MAX: u32 = 1_024;
