//! Closes one server between turns, and moves one to another reactor.

use std::sync::Arc;
use std::time::Duration;

use super::Reactor;
use super::core::Core;
use super::entries::{Alarm, LOOK};
use super::hosted::Hosted;
use super::served::{Asked, Life};
use crate::error::Error;
use crate::ids::ServerId;
use crate::lifecycle::EndReason;
use crate::limits::Limits;
use crate::logging::note;
use crate::net::family::Bound;
use crate::timers::NO_TIMER;
use crate::timers::nanos;

impl Reactor {
    /// Aborts the connections of a server, and serves them until none is left.
    pub(super) fn abort_server(&mut self, server: u16) {
        #[cfg(all(unix, feature = "proxy-protocol"))]
        self.core.end_headings(Some(server));
        for key in self.core.slots.connections(Some(server)) {
            self.core.slots.connection(key).state.end(EndReason::StopAborted, true);
            // The budget of one turn may not suffice for `setup`, `finish` and the end.
            let entry = self.core.slots.id(key).slot;
            while !self.core.slots.connection(key).state.phase.is_dead() {
                // Its entries in the ready queue end with its slot.
                self.servers[usize::from(server)].service(&mut self.core, &mut self.scratch, &[entry]);
            }
        }
        self.free_dead();
    }

    /// Starts closing a server: ends its listeners and connections. New outbound connections are refused, or a `finish`
    /// that connects would prolong this forever.
    pub(super) fn close(&mut self, server: u16) {
        if matches!(self.core.served[usize::from(server)].life, Life::Open { .. } | Life::Draining { .. }) {
            self.allocate();
            self.core.begin_closing(server);
            self.core.unlisten_streams(server);
            self.core.each_endpoint(Some(server), |endpoint| endpoint.receives_no_more = true);
            self.abort_server(server);
            self.core.closing.push(server);
            self.go_on_closing();
        }
    }

    /// Waits until a closing server is closed. A closure does not wait, because the loop must continue.
    pub(crate) fn await_closed(&mut self, id: ServerId) {
        while !self.turning && self.core.server(id).is_some_and(|server| self.core.closing.contains(&server)) {
            self.turn_or_give_up();
        }
    }

    /// The reactor's own server was closed before it came here.
    pub(crate) fn set_closed(&mut self, id: ServerId) {
        self.set_life(id, Life::Closed);
    }

    /// The reactor's own server was closed and will be bound again.
    pub(crate) fn reopen(&mut self, id: ServerId) {
        self.set_life(id, Life::Open { stopped: false });
        if let Some(server) = self.core.server(id) {
            let served = &mut self.core.served[usize::from(server)];
            served.asked = Asked::Nothing;
            served.addresses.clear();
        }
    }

    fn set_life(&mut self, id: ServerId, life: Life) {
        if let Some(server) = self.core.server(id) {
            self.core.served[usize::from(server)].life = life;
        }
    }

    /// `block_on_close`: closes the servers whose threads and programs are done. Until then these may use the reactor,
    /// and their answers are sent. Those that are not waited for are ended now.
    pub(super) fn go_on_closing(&mut self) {
        self.close_those_done(self.is_hurried());
    }

    fn is_hurried(&self) -> bool {
        self.core.stop.is_hurried(self.core.shared.drain_requested(), self.core.shared.now_requested())
    }

    fn close_those_done(&mut self, hurried: bool) {
        for server in std::mem::take(&mut self.core.closing) {
            if hurried || !self.core.served[usize::from(server)].waits() {
                self.give_up_elsewhere(server);
            }
            match self.core.served[usize::from(server)].active {
                0 => self.closed(server),
                _ => self.core.closing.push(server),
            }
        }
    }

    /// For threads and programs that are not waited for: their requests are over, whatever they still do.
    fn give_up_elsewhere(&mut self, server: u16) {
        self.core.end_all_elsewhere(Some(server));
        for id in self.core.elsewhere.map_or_else(Vec::new, |code| (code.all)(&self.core.slots, Some(server))) {
            self.over(id, Err(Error::Gone));
        }
        self.free_dead();
    }

    /// Only the datagram sockets and the value of a server are left.
    fn closed(&mut self, server: u16) {
        self.core.unlisten(server);
        self.free_dead();
        self.core.end_closing(server);
        self.core.stats.panics += u64::from(self.servers[usize::from(server)].server_close());
        if !self.core.served[usize::from(server)].own {
            let hosted = self.remove(server);
            self.dissolve(hosted);
        }
    }

    /// Closes the servers whose sockets a stop has closed. A [`Server`](crate::Server) with this reactor of its own may
    /// be bound again.
    pub(super) fn close_stopped(&mut self) {
        for server in self.numbers() {
            // Closing one server may close others.
            let Some(served) = self.core.served.get(usize::from(server)) else { continue };
            if served.life == (Life::Open { stopped: true }) && !served.own {
                self.server_close(served.id);
            }
        }
    }

    /// Closes all servers except one that may leave, because the reactor is given up. Servers with nothing to wait for
    /// are closed afterwards.
    pub(super) fn close_all(&mut self, except: Option<u16>) {
        for server in self.numbers().into_iter().filter(|&server| Some(server) != except) {
            let Some(served) = self.core.served.get_mut(usize::from(server)) else { continue };
            served.own = false;
            if served.is_closed() {
                let hosted = self.remove(server);
                self.dissolve(hosted);
            } else {
                self.close(server);
            }
        }
    }

    /// Runs a turn while the reactor waits for something. If no turn is possible, it waits for nothing any more.
    /// Returns whether there was a turn.
    pub(super) fn turn_or_give_up(&mut self) -> bool {
        let turned = self.turn(None);
        if let Err(error) = &turned {
            note!(Error, "{error:#}");
            self.close_those_done(true);
        }
        turned.is_ok()
    }

    /// Removes a server from a reactor that is given up. Its open connections end, as when it is closed. Its sockets go
    /// with it.
    pub(crate) fn take_out(&mut self, id: ServerId) -> Option<Moving> {
        let server = self.core.server(id)?;
        self.core.stop.give_up(true, &mut self.core.timers); // A stop moves with it, and closes no socket.
        self.allocate();
        self.await_closed(id);
        self.core.served[usize::from(server)].quota = 0;
        // A closed server has nothing open, and no hooks are called in the turns that may follow.
        if !self.core.served[usize::from(server)].is_closed() {
            self.core.begin_closing(server);
            self.abort_server(server);
        }
        // Other servers are closed while there are turns, because their threads report to this reactor.
        let mut turned = true;
        loop {
            self.close_all(Some(server));
            if !turned || self.is_hurried() || !self.core.served[usize::from(server)].waits() {
                self.give_up_elsewhere(server);
            }
            if self.core.served[usize::from(server)].active == 0 && self.servers.len() == 1 {
                break;
            }
            turned = self.turn_or_give_up();
        }
        let sockets = self.core.take_sockets(server);
        let timers = self.core.take_server_timers(server);
        self.core.end_closing(server);
        let limits = Arc::clone(&self.core.served[usize::from(server)].limits);
        Some(Moving { host: self.remove(server), limits, sockets, timers })
    }

    /// Forwards the commands of other threads, and all later ones, to the reactor that takes over.
    pub(crate) fn lead_to(&mut self, other: &Reactor) {
        for command in std::mem::take(&mut self.taken) {
            let _ = other.core.shared.submit(command, false);
        }
        self.core.shared.lead_to(&other.core.shared);
    }
}

impl Core {
    /// A server starts closing. Its threads and programs have as long as when the whole reactor stops, or the rest of
    /// that time if it stops.
    pub(super) fn begin_closing(&mut self, server: u16) {
        let begun = match self.served[usize::from(server)].life {
            Life::Draining { begun, .. } => Some(begun),
            _ => self.stop.begun(),
        };
        let begun = begun.unwrap_or_else(|| self.selector.now());
        self.go_on_to(server, Life::Closing { begun, look: NO_TIMER });
        self.draining.retain(|&draining| draining != server);
        self.look_closing(server);
    }

    /// Ends the input of threads that wait for their client, after half of the grace of all threads, and ends them
    /// after all of it.
    pub(super) fn look_closing(&mut self, server: u16) {
        let Life::Closing { begun, .. } = self.served[usize::from(server)].life else { return };
        let (now, grace) = (self.selector.now(), nanos(self.config.drain_grace));
        let (tell, end) = (begun.saturating_add(grace / 2), begun.saturating_add(grace));
        if now >= end {
            return self.end_all_elsewhere(Some(server));
        }
        let others = self.drain_elsewhere(Some(server), now < tell);
        let next = if others { now.saturating_add(LOOK).min(tell) } else { end };
        let look = self.timers.arm(next, Alarm::CloseLook(server));
        self.served[usize::from(server)].life = Life::Closing { begun, look };
    }

    /// The server is closed, so none of its timers will fire.
    pub(super) fn end_closing(&mut self, server: u16) {
        self.go_on_to(server, Life::Closed);
        self.cancel_server_timers(server);
    }

    /// Cancels the timer of what is over.
    fn go_on_to(&mut self, server: u16, next: Life) {
        let mut before = std::mem::replace(&mut self.served[usize::from(server)].life, next);
        if let Some(&mut look) = before.look()
            && look != NO_TIMER
        {
            self.timers.cancel(look);
        }
    }
}

/// A timer of a moving server: its tag, when it is due from now, and its period.
pub(crate) type ServerTimer = (u64, Duration, Option<u64>);

/// A server that moves to another reactor.
pub(crate) struct Moving {
    pub(crate) host: Box<dyn Hosted>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) sockets: Vec<Bound>,
    pub(crate) timers: Vec<ServerTimer>,
}
