//! Stopping, in phases: no more clients, every handler told, output sent, an end to the waiting. And closing one server
//! between turns.

use std::time::Duration;

use super::core::Life;
use super::handle::Command;
use super::{Hosted, Phase, Reactor};
use crate::error::{Error, Result};
use crate::ids::ServerId;
use crate::lifecycle::Finish;
use crate::logging::note;
use crate::machine::nanos;
use crate::net::family::Bound;

impl Reactor {
    /// Begins to serve, perhaps after a pause, perhaps after it was stopped.
    ///
    /// # Errors
    /// If it serves already, and a closure asks.
    pub(super) fn serve_again(&mut self) -> Result<()> {
        self.core.config.check()?;
        if self.turning {
            let source = std::io::Error::other("a closure that the loop runs cannot run the loop");
            return Err(Error::Reactor { doing: "serve", source });
        }
        self.core.now = self.core.selector.now();
        if self.phase == Phase::Stopped && self.reported {
            self.phase = Phase::Serving;
            (self.reported, self.hurried) = (false, false);
            self.close_stopped();
        }
        Ok(())
    }

    /// Whether it has stopped; then that is said now, and the stop is over.
    pub(super) fn report_stop(&mut self) -> bool {
        let stopped = self.phase == Phase::Stopped;
        if stopped {
            self.reported = true;
            self.core.shared.clear_request();
        }
        stopped
    }

    /// Whether a stop was carried out that nobody has heard of.
    pub(crate) fn has_stopped(&self) -> bool {
        self.phase == Phase::Stopped && !self.reported
    }

    /// Takes in the clients that are connected already, closes the listeners, and asks every connection to end.
    pub(super) fn begin_drain(&mut self) {
        self.phase = Phase::Draining;
        note!(Info, "stopping: {} connections to finish", self.core.stats.active);
        self.take_in();
        for server in self.numbers() {
            self.core.unlisten_streams(server);
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
        for server in self.numbers().into_iter().map(usize::from) {
            for key in self.core.served[server].listeners.clone() {
                for _ in 0..BACKLOG_ROUNDS_MAX {
                    let length = nanos(self.core.config.turn_length);
                    self.scratch.allowance.turn.begin(self.core.selector.now(), length);
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
        for server in self.numbers() {
            self.core.unlisten(server);
            let served = &mut self.core.served[usize::from(server)];
            if let Life::Open { stopped } = &mut served.life {
                *stopped = true;
            }
        }
        self.free_dead();
        self.core.cancel_drain();
    }

    /// The servers there are.
    fn numbers(&self) -> Vec<u16> {
        self.servers.iter().map(|(number, _)| number as u16).collect()
    }

    /// Serves the connections of a server until none is left, all of them being aborted.
    pub(super) fn abort_server(&mut self, server: u16) {
        for key in self.core.slots.connections(Some(server)) {
            self.core.slots.connection(key).state.end(Finish::ShutDown, true);
            // The budget of one turn may not suffice for `setup`, `finish` and the end.
            let entry = self.core.slots.id(key).slot;
            while !self.core.slots.connection(key).state.is_dead() {
                // What it leaves in the ready queue dies with its slot.
                self.servers[usize::from(server)].service(&mut self.core, &mut self.scratch, &[entry]);
            }
        }
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
        // What other threads had submitted before this turn, and it had no time for, comes first.
        if here > 0 || !self.taken.is_empty() || self.core.awaits_earlier() || self.core.is_sending() {
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

    /// Begins to close a server: its listeners and connections go. Whatever it connects to from now on is refused, or a
    /// `finish` that connects out again would go on for ever.
    pub(super) fn close(&mut self, server: u16) {
        if matches!(self.core.served[usize::from(server)].life, Life::Open { .. }) {
            self.allocate();
            self.core.begin_closing(server);
            self.core.unlisten_streams(server);
            self.core.each_endpoint(Some(server), |endpoint| endpoint.closing = true);
            self.abort_server(server);
            self.core.closing.push(server);
            self.go_on_closing();
        }
    }

    /// Waits until a server that is being closed is closed. A closure, which the loop has to get back, does not.
    pub(crate) fn await_closed(&mut self, id: ServerId) {
        while !self.turning && self.core.server(id).is_some_and(|server| self.core.closing.contains(&server)) {
            self.turn_or_hurry();
        }
    }

    /// Whether a server was closed and not bound again.
    pub(crate) fn is_closed(&self, id: ServerId) -> bool {
        self.core.server(id).is_some_and(|server| self.core.served[usize::from(server)].is_closed())
    }

    /// A server of our own that was closed is bound again.
    pub(crate) fn reopen(&mut self, id: ServerId) {
        self.await_closed(id);
        if let Some(server) = self.core.server(id) {
            self.core.served[usize::from(server)].life = Life::Open { stopped: false };
        }
    }

    /// `block_on_close`: closes the servers whose threads and programs are done. They may want something of the reactor
    /// meanwhile, and their answers leave. Those that are not waited for are ended now.
    pub(super) fn go_on_closing(&mut self) {
        // A signal, or whoever else asks for a stop that is over already, means this wait.
        let again = self.phase == Phase::Stopped && self.reported && self.core.shared.drain_requested();
        self.hurried |= again || self.core.shared.now_requested();
        for server in std::mem::take(&mut self.core.closing) {
            if self.hurried || !self.core.served[usize::from(server)].waits() {
                self.give_up_elsewhere(server);
            }
            match self.core.served[usize::from(server)].active {
                0 => self.closed(server),
                _ => self.core.closing.push(server),
            }
        }
    }

    /// Threads and programs that are not waited for. Of their end nobody will hear.
    fn give_up_elsewhere(&mut self, server: u16) {
        self.core.end_all_elsewhere(Some(server));
        for id in self.core.slots.all_elsewhere(Some(server)) {
            self.over(id, Err(Error::Gone));
        }
        self.free_dead();
    }

    /// Nothing of a server is left but its datagram sockets and its value.
    fn closed(&mut self, server: u16) {
        self.core.unlisten(server);
        self.free_dead();
        self.core.end_closing(server);
        self.servers[usize::from(server)].server_close(&mut self.core);
        if !self.core.served[usize::from(server)].own {
            let hosted = self.remove(server);
            self.dissolve(hosted);
        }
    }

    /// Closes the servers whose sockets went with a stop. A [`Server`](crate::Server)'s own may be bound again.
    pub(super) fn close_stopped(&mut self) {
        for server in self.numbers() {
            let served = &self.core.served[usize::from(server)];
            if served.life == (Life::Open { stopped: true }) && !served.own {
                self.server_close(served.id);
            }
        }
    }

    /// Closes all servers but one that may leave: the reactor is given up. What has no more to wait for is gone then.
    pub(super) fn close_all(&mut self, except: Option<u16>) {
        for server in self.numbers().into_iter().filter(|&server| Some(server) != except) {
            self.core.served[usize::from(server)].own = false;
            if self.core.served[usize::from(server)].is_closed() {
                let hosted = self.remove(server);
                self.dissolve(hosted);
            } else {
                self.close(server);
            }
        }
    }

    /// A turn while something is waited for. If there can be none, nothing is waited for any more.
    pub(super) fn turn_or_hurry(&mut self) {
        if let Err(error) = self.turn(None) {
            note!(Error, "{error}");
            self.hurried = true;
            self.go_on_closing();
        }
    }
}

/// A server on its way to another reactor.
pub(crate) struct Moving {
    pub(crate) host: Box<dyn Hosted>,
    pub(crate) sockets: Vec<Bound>,
    /// Tags of its timers, and when they are due from now.
    pub(crate) timers: Vec<(u64, Duration)>,
}

impl Reactor {
    /// Takes a server out of a reactor that is given up. What it has open ends, as when it is closed; the sockets it
    /// serves by come with it.
    pub(crate) fn take_out(&mut self, id: ServerId) -> Option<Moving> {
        let server = self.core.server(id)?;
        (self.phase, self.reported) = (Phase::Stopped, false); // A stop goes with it, and takes no socket away.
        self.core.ends = true;
        self.allocate();
        self.await_closed(id);
        self.core.served[usize::from(server)].quota = 0;
        self.core.begin_closing(server);
        self.abort_server(server);
        // The others that may be here are closed while there are turns: their threads report to this reactor.
        loop {
            self.close_all(Some(server));
            self.hurried |= self.core.shared.now_requested();
            if self.hurried || !self.core.served[usize::from(server)].waits() {
                self.give_up_elsewhere(server);
            }
            if self.core.served[usize::from(server)].active == 0 && self.servers.len() == 1 {
                break;
            }
            self.turn_or_hurry();
        }
        let sockets = self.core.take_sockets(server);
        let timers = self.core.take_server_timers(server);
        self.core.end_closing(server);
        Some(Moving { host: self.remove(server), sockets, timers })
    }

    /// What other threads have left for a reactor that is given up.
    pub(crate) fn take_commands(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.taken).into_iter().chain(self.core.shared.close()).collect()
    }
}

/// Rounds of accepting before a listener is closed: enough for any backlog, and an end for a flood.
const BACKLOG_ROUNDS_MAX: usize = 256;
/// How long a stop waits before it looks again which threads wait for their clients, in nanoseconds: long enough to cost
/// nothing, short enough that the requests that wait for a thread follow each other soon.
pub(super) const LOOK: u64 = 20_000_000;
