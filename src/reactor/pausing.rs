//! Listening sockets and datagram sockets in the reactor: when they accept or receive, and when that pauses.

use super::core::Core;
use super::entries::{Alarm, Listening, Pause};
use super::served::EPISODE;
use super::slots::Contents;
use crate::backoff::Backoff;
use crate::error::{Error, Result, reason};
use crate::logging::note;
use crate::net::Listener;
use crate::net::family::Bound;
use crate::panics::catch;
use crate::timers::NO_TIMER;
use crate::timers::nanos;

impl Core {
    /// Starts accepting.
    pub(super) fn listen(&mut self, server: u16, listener: Listener) -> Result<()> {
        let address = listener.address().clone();
        let key = self.slots.insert(
            server,
            Contents::Listener(Box::new(Listening {
                listener: Some(Box::new(listener)),
                ready: false,
                pause: Pause::none(),
                accepted: 0,
            })),
        );
        let token = self.slots.token(key);
        let listening = self.slots.listening(key).expect("just inserted");
        let listener = listening.listener.as_mut().expect("no hook has borrowed it");
        if let Err(source) = self.selector.register(&mut **listener, token) {
            self.slots.remove(key);
            return Err(Error::Listen { address, source });
        }
        self.served[usize::from(server)].listeners.push(key);
        Ok(())
    }

    /// Closes a server's sockets. The kernel refuses clients in the backlog, and waiting datagrams are lost.
    pub(crate) fn unlisten(&mut self, server: u16) {
        for key in std::mem::take(&mut self.served[usize::from(server)].listeners) {
            self.unlisten_one(key);
        }
    }

    /// Removes a server's sockets, to be registered elsewhere. Waiting datagrams are tried once more.
    pub(super) fn take_sockets(&mut self, server: u16) -> Vec<Bound> {
        let mut sockets = Vec::new();
        for key in std::mem::take(&mut self.served[usize::from(server)].listeners) {
            self.flush_datagrams(key);
            self.end_pause(key);
            match self.slots.remove(key).contents.map(|contents| *contents) {
                Some(Contents::Listener(listening)) => sockets.extend(listening.listener.map(|mut socket| {
                    self.selector.deregister(&mut *socket);
                    Bound::Listener(*socket)
                })),
                Some(Contents::Endpoint(endpoint)) => sockets.push(Bound::Datagram(self.forget_endpoint(*endpoint))),
                _ => unreachable!("listeners are of these kinds"),
            }
        }
        sockets
    }

    /// Closes the listeners of a server. Its datagram sockets stay, because handlers still send through them.
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

    pub(super) fn unlisten_one(&mut self, key: u32) {
        self.end_pause(key);
        if let Some(mut listener) = self.slots.listening(key).and_then(|listening| listening.listener.take()) {
            // epoll does not forget a socket of which a successor or another worker has a duplicate.
            self.selector.deregister(&mut *listener);
        }
        self.dead.push(key);
    }

    /// Returns whether there was a pause.
    fn end_pause(&mut self, key: u32) -> bool {
        let Some(pause) = self.slots.pause(key) else { return false };
        let timer = std::mem::replace(&mut pause.timer, NO_TIMER);
        if timer != NO_TIMER {
            self.timers.cancel(timer);
        }
        timer != NO_TIMER
    }

    /// Returns the number of connections that have their own descriptor: all except the sessions of datagram servers.
    fn connections(&self) -> usize {
        let sessions: usize = self.served.iter().map(|(_, served)| served.sessions).sum();
        self.stats.active as usize - sessions
    }

    /// Returns whether a server waits until connections have closed.
    pub(crate) fn is_capped(&self, server: u16) -> bool {
        self.served[usize::from(server)].is_capped(&self.cap)
    }

    /// Returns whether a server may accept another connection. If not, its clients wait in the backlog.
    #[inline]
    pub(crate) fn may_accept(&mut self, server: u16) -> bool {
        let served = &self.served[usize::from(server)];
        let own = served.limits.connections_max.is_some_and(|max| served.connections() >= max);
        // Sessions have none, but they are seldom worth the sum.
        let process = self.stats.active as usize >= self.connections_max
            && served.shares_descriptors()
            && self.connections() >= self.connections_max;
        if own || process || self.slots.is_full() {
            self.reach_cap(server);
            return self.served[usize::from(server)].accepts(&self.cap);
        }
        served.accepts(&self.cap)
    }

    /// How many more connections a server may have now.
    pub(super) fn room(&mut self, server: u16) -> usize {
        if !self.may_accept(server) {
            return 0;
        }
        let served = &self.served[usize::from(server)];
        let own = served.limits.connections_max.map_or(usize::MAX, |max| max.saturating_sub(served.connections()));
        match served.shares_descriptors() {
            true => own.min(self.connections_max.saturating_sub(self.connections())),
            false => own,
        }
    }

    /// A server has reached its limit of connections, unless the limit of descriptors was raised.
    #[cold]
    fn reach_cap(&mut self, server: u16) {
        let (now, is_full) = (self.now, self.slots.is_full());
        if self.served[usize::from(server)].shares_descriptors() {
            let (active, before) = (self.connections(), self.connections_max);
            if active >= before {
                // If it cannot be read, the last value stays.
                let sockets = self.served.iter().map(|(_, served)| served.listeners.len()).sum();
                let max = self.descriptors.for_connections(self.connections(), sockets);
                self.connections_max = max.unwrap_or_else(|| self.descriptors.known_or_default(before));
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

    /// A listener that clients are accepted from now.
    #[inline]
    pub(crate) fn listening(&mut self, key: u32) -> &mut Listening {
        self.slots.listening(key).expect("listeners are closed between turns")
    }

    /// Accepting or receiving failed because resources have run out. Pauses it, longer each time. Waiting clients bring
    /// no further event, so a timer retries.
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

    /// Pauses all listeners, because a resource that every connection needs has run out.
    pub(super) fn pause_all(&mut self, error: &std::io::Error) {
        let keys: Vec<_> = self.served.iter().flat_map(|(_, served)| served.listeners.clone()).collect();
        for key in keys {
            if self.slots.listening(key).is_some() {
                self.pause(key, "accept", error);
            }
        }
    }

    /// Connections were closed, or more are allowed, so there is room. Listeners that wait for room try immediately.
    /// The one that has accepted nothing for the longest time is first, because the first may take all the room.
    pub(crate) fn resume_accepting(&mut self) {
        let now = self.now;
        let room = self.cap.is_reached && has_room(self.connections(), self.connections_max);
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

    /// Lets a server accept `quota` connections, starting with those that wait already.
    pub(crate) fn set_quota(&mut self, server: u16, quota: usize) {
        self.served[usize::from(server)].quota = quota;
        self.queue_listeners(server);
    }

    /// Lets a server check whether it may accept waiting clients.
    pub(super) fn queue_listeners(&mut self, server: u16) {
        for i in 0..self.served[usize::from(server)].listeners.len() {
            let key = self.served[usize::from(server)].listeners[i];
            if self.slots.is_ready(key) {
                self.queue(key);
            }
        }
    }
}

/// Returns whether accepting resumes: somewhat below the cap, because otherwise each close would cost a turn of
/// accepting.
pub(super) fn has_room(active: usize, max: usize) -> bool {
    active < max && active <= max.saturating_mul(9) / 10
}
