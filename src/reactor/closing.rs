//! Closing one server between turns, and moving one to another reactor.

use std::sync::Arc;
use std::time::Duration;

use super::Reactor;
use super::books::Life;
use super::core::Core;
use super::entries::{Alarm, LOOK};
use super::hosted::Hosted;
use crate::error::Error;
use crate::ids::ServerId;
use crate::lifecycle::EndReason;
use crate::limits::Limits;
use crate::logging::note;
use crate::net::family::Bound;
use crate::timers::NO_TIMER;
use crate::timers::nanos;

impl Reactor {
    /// Serves the connections of a server until none is left, all of them being aborted.
    pub(super) fn abort_server(&mut self, server: u16) {
        for key in self.core.slots.connections(Some(server)) {
            self.core.slots.connection(key).state.end(EndReason::StopAborted, true);
            // The budget of one turn may not suffice for `setup`, `finish` and the end.
            let entry = self.core.slots.id(key).slot;
            while !self.core.slots.connection(key).state.phase.is_dead() {
                // What it leaves in the ready queue dies with its slot.
                self.servers[usize::from(server)].service(&mut self.core, &mut self.scratch, &[entry]);
            }
        }
        self.free_dead();
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
            self.turn_or_give_up();
        }
    }

    /// A server of our own was closed before it came here.
    pub(crate) fn set_closed(&mut self, id: ServerId) {
        self.set_life(id, Life::Closed);
    }

    /// A server of our own that was closed is to be bound again.
    pub(crate) fn reopen(&mut self, id: ServerId) {
        self.set_life(id, Life::Open { stopped: false });
    }

    fn set_life(&mut self, id: ServerId, life: Life) {
        if let Some(server) = self.core.server(id) {
            self.core.served[usize::from(server)].life = life;
        }
    }

    /// `block_on_close`: closes the servers whose threads and programs are done. They may want something of the reactor
    /// meanwhile, and their answers leave. Those that are not waited for are ended now.
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

    /// Threads and programs that are not waited for: their requests are over, whatever they still do.
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
        self.core.stats.panics += u64::from(self.servers[usize::from(server)].server_close());
        if !self.core.served[usize::from(server)].own {
            let hosted = self.remove(server);
            self.dissolve(hosted);
        }
    }

    /// Closes the servers whose sockets went with a stop. A [`Server`](crate::Server)'s own may be bound again.
    pub(super) fn close_stopped(&mut self) {
        for server in self.numbers() {
            // Closing one may close others that were about to be.
            let Some(served) = self.core.served.get(usize::from(server)) else { continue };
            if served.life == (Life::Open { stopped: true }) && !served.own {
                self.server_close(served.id);
            }
        }
    }

    /// Closes all servers but one that may leave: the reactor is given up. What has no more to wait for is gone then.
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

    /// A turn while something is waited for. If there can be none, nothing is waited for any more. Returns whether there
    /// was one.
    pub(super) fn turn_or_give_up(&mut self) -> bool {
        let turned = self.turn(None);
        if let Err(error) = &turned {
            note!(Error, "{error:#}");
            self.close_those_done(true);
        }
        turned.is_ok()
    }

    /// Takes a server out of a reactor that is given up. What it has open ends, as when it is closed; the sockets it
    /// serves by come with it.
    pub(crate) fn take_out(&mut self, id: ServerId) -> Option<Moving> {
        let server = self.core.server(id)?;
        self.core.stop.give_up(true, &mut self.core.timers); // A stop goes with it, and takes no socket away.
        self.allocate();
        self.await_closed(id);
        self.core.served[usize::from(server)].quota = 0;
        // One that is closed has nothing open, and no hooks in the turns that may follow.
        if !self.core.served[usize::from(server)].is_closed() {
            self.core.begin_closing(server);
            self.abort_server(server);
        }
        // The others that may be here are closed while there are turns: their threads report to this reactor.
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

    /// Gives up what other threads have left, and whatever comes, to the reactor that takes over.
    pub(crate) fn lead_to(&mut self, other: &Reactor) {
        for command in std::mem::take(&mut self.taken) {
            let _ = other.core.shared.submit(command, false);
        }
        self.core.shared.lead_to(&other.core.shared);
    }
}

impl Core {
    /// A server begins to be closed. Its threads and programs have as long as when the whole reactor stops, and what is left
    /// of that if it stops.
    pub(super) fn begin_closing(&mut self, server: u16) {
        let begun = self.stop.begun().unwrap_or_else(|| self.selector.now());
        self.served[usize::from(server)].life = Life::Closing { begun, look: NO_TIMER };
        self.look_closing(server);
    }

    /// Gives threads that wait for their client the end of their input, after half of the grace all of them, and ends them
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

    /// It is closed; none of its timers will fire.
    pub(super) fn end_closing(&mut self, server: u16) {
        let life = std::mem::replace(&mut self.served[usize::from(server)].life, Life::Closed);
        if let Life::Closing { look, .. } = life
            && look != NO_TIMER
        {
            self.timers.cancel(look);
        }
        self.cancel_server_timers(server);
    }
}

/// A timer of a server that moves: its tag, when it is due from now, and its period.
pub(crate) type ServerTimer = (u64, Duration, Option<u64>);

/// A server on its way to another reactor.
pub(crate) struct Moving {
    pub(crate) host: Box<dyn Hosted>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) sockets: Vec<Bound>,
    pub(crate) timers: Vec<ServerTimer>,
}
