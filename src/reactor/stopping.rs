//! Stopping, in phases: no more clients, every handler told, output sent, an end to the waiting. And closing one server
//! between turns.

use super::slots::ConnectionId;
use super::{Phase, Reactor, ServerId};
use crate::lifecycle::Finish;
use crate::logging::note;
use crate::machine::nanos;

impl Reactor {
    /// Begins to serve, perhaps after a pause, perhaps after it was stopped.
    pub(super) fn serve_again(&mut self) {
        self.core.now = self.core.selector.now();
        if self.phase == Phase::Stopped {
            self.phase = Phase::Serving;
            self.hurried = false;
        }
    }

    /// Takes in the clients that are connected already, closes the listeners, and asks every connection to end.
    pub(super) fn begin_drain(&mut self) {
        self.phase = Phase::Draining;
        note!(Info, "stopping: {} connections to finish", self.core.stats.active);
        self.take_in();
        for server in 0..self.servers.len() {
            self.core.unlisten_streams(server as u16);
        }
        let quiet = nanos(self.core.config.drain_quiet);
        for key in self.core.slots.connections(None) {
            self.core.slots.connection(key).state.drain(self.core.now, quiet);
            self.core.queue(key);
        }
        self.core.arm_drain();
        self.look_elsewhere();
    }

    /// Gives the quiet among the requests that are served elsewhere the end of their input, and looks again later for the
    /// others: nothing tells when a thread has begun to wait.
    pub(super) fn look_elsewhere(&mut self) {
        if self.core.drain_elsewhere(None, true) {
            self.core.arm_look();
        }
    }

    /// Serves what waits at the sockets of all servers: a client in the backlog has its connection and may have sent its
    /// request; a datagram that has arrived is one.
    fn take_in(&mut self) {
        for server in 0..self.servers.len() {
            for key in self.core.served[server].listeners.clone() {
                for _ in 0..BACKLOG_ROUNDS_MAX {
                    let server = &mut self.servers[server];
                    match self.core.slots.endpoint(key).is_some() {
                        true => server.receive(&mut self.core, &mut self.scratch, key),
                        false => server.accept(&mut self.core, &mut self.scratch, key),
                    }
                    let paused = self.core.slots.pause(key).is_none_or(|pause| pause.is_on());
                    if paused || !self.core.slots.is_ready(key) {
                        break;
                    }
                }
            }
        }
    }

    pub(super) fn tell_all(&mut self) {
        self.core.drain_elsewhere(None, false);
        for key in self.core.slots.connections(None) {
            self.core.slots.connection(key).state.drain_now();
            self.core.queue(key);
        }
    }

    pub(super) fn abort_all(&mut self) {
        self.core.aborting = true;
        self.core.end_all_elsewhere(None);
        for key in self.core.slots.connections(None) {
            self.core.slots.connection(key).state.end(Finish::ShutDown, true);
            self.core.queue(key);
        }
    }

    pub(super) fn stopped(&mut self) {
        self.phase = Phase::Stopped;
        for server in 0..self.servers.len() {
            self.core.unlisten(server as u16);
        }
        self.free_dead();
        self.core.cancel_drain();
        self.core.shared.clear_request();
    }

    /// Serves the connections of a server until none is left, all of them being aborted.
    pub(super) fn abort_server(&mut self, server: u16) {
        // A `finish` that connects out again would go on for ever.
        let aborting = std::mem::replace(&mut self.core.aborting, true);
        for key in self.core.slots.connections(Some(server)) {
            self.core.slots.connection(key).state.end(Finish::ShutDown, true);
            // The budget of one turn may not suffice for `setup`, `finish` and the end.
            let ConnectionId { key, generation } = self.core.slots.id(key);
            while !self.core.slots.connection(key).state.is_dead() {
                // What it leaves in the ready queue dies with its slot.
                self.servers[usize::from(server)].service(&mut self.core, &mut self.scratch, &[(key, generation)]);
            }
        }
        self.core.aborting = aborting;
        self.free_dead();
    }

    /// Whether a stop has nothing left to wait for. Until then datagrams are served like before. Those that come during
    /// the stop do not prolong it, or it would never end: when all else is over there is one last look at the sockets,
    /// and only what was begun by then is waited for.
    pub(super) fn is_over(&mut self) -> bool {
        let (elsewhere, awaited) = self.core.elsewhere();
        let here = self.core.stats.active - elsewhere;
        if self.phase != Phase::Draining {
            return here == 0;
        }
        if here > 0 || self.core.awaits_earlier() || self.core.is_sending() {
            return false;
        }
        let mut receives = false;
        self.core.each_endpoint(None, |endpoint| {
            receives |= !endpoint.closing;
            endpoint.ready = true;
        });
        if receives {
            self.take_in();
            self.core.each_endpoint(None, |endpoint| endpoint.closing = true);
            return self.is_over();
        }
        awaited == 0
    }

    /// `block_on_close`: turns on until the threads and programs of a server are done, which may want something of the
    /// reactor meanwhile. They may take as long as when the whole reactor stops; then they are ended. Without it they
    /// are ended now, and nobody waits.
    pub(super) fn wait_elsewhere(&mut self, ServerId(server): ServerId) {
        let begun = self.core.selector.now();
        let grace = nanos(self.core.config.drain_grace);
        let (tell, end) = (begun.saturating_add(grace / 2), begun.saturating_add(grace));
        let (mut look, mut ended) = (begun, false);
        while self.core.served[usize::from(server)].elsewhere > 0 {
            let limits = &self.core.served[usize::from(server)].limits;
            // A signal, or whoever else asks for a stop that has been carried out already, means this wait.
            let again = self.phase == Phase::Stopped && self.core.shared.drain_requested();
            self.hurried |= again || self.core.shared.now_requested();
            let waits = limits.block_on_close && !limits.daemon_threads && !self.hurried;
            let now = self.core.selector.now();
            if waits && now >= look {
                let others = self.core.drain_elsewhere(Some(server), now < tell);
                look = if others { now.saturating_add(LOOK).min(tell) } else { u64::MAX };
            }
            if !ended && (now >= end || !waits) {
                ended = true;
                self.core.end_all_elsewhere(Some(server));
            }
            let wait = (!ended).then(|| std::time::Duration::from_nanos(look.min(end).saturating_sub(now)));
            if !waits || self.turn(wait).is_err() {
                break;
            }
        }
    }
}

/// Rounds of accepting before a listener is closed: enough for any backlog, and an end for a flood.
const BACKLOG_ROUNDS_MAX: usize = 256;
/// How long a stop waits before it looks again which threads wait for their clients, in nanoseconds: long enough to cost
/// nothing, short enough that the requests that wait for a thread follow each other soon.
pub(super) const LOOK: u64 = 20_000_000;
