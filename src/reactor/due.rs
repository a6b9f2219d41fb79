//! Expired limits and due timers.

use std::sync::Arc;

use super::Reactor;
use super::entries::Alarm;
use crate::connection::budget::Slice;
use crate::timers::nanos;

impl Reactor {
    /// Handles everything that is due. Timers that a callback sets now wait for the next turn, even with a deadline of
    /// now.
    pub(super) fn timers(&mut self) {
        if self.core.next_deadline().is_none_or(|next| next > self.collected) {
            return;
        }
        let slice = self.part_of_turn();
        for _ in 0..self.core.guards.len() {
            let Some(key) = self.core.guards.pop(self.collected) else { break };
            self.on_deadline(key);
            if slice.is_over(&self.scratch.budget.turn) {
                break;
            }
        }
        let slice = self.part_of_turn();
        let mut postponed = Vec::new();
        for _ in 0..self.core.timers.len() {
            let Some(alarm) = self.core.timers.pop(self.collected) else {
                break;
            };
            if self.core.awaits_setup(alarm) {
                postponed.push(alarm);
                continue;
            }
            self.core.forget_timer(alarm);
            match alarm {
                Alarm::Handler { key, tag } => {
                    let server = self.core.slots.get(key).expect("timers go with their connection").server;
                    self.servers[usize::from(server)].on_timer(&mut self.core, &mut self.scratch, key, tag);
                }
                Alarm::Server { server, tag } => self.servers[usize::from(server)].on_server_timer(&mut self.core, tag),
                Alarm::Resume(key) => self.core.queue(key),
                Alarm::Resend(key) => self.core.resend(key),
                Alarm::Redial { key, backoff } => {
                    let redial = self.core.redial.expect("it is set with this timer");
                    if let Err(error) = redial(&mut self.core, key, backoff) {
                        let server = self.core.slots.get(key).expect("timers go with their connection").server;
                        let server = &mut self.servers[usize::from(server)];
                        server.on_connect_failed(&mut self.core, &mut self.scratch, key, error);
                    }
                }
                Alarm::Child(key) => self.core.child_timed_out(key),
                #[cfg(all(unix, feature = "proxy-protocol"))]
                Alarm::Header(key) => {
                    let server = self.core.slots.get(key).expect("timers go with headers").server;
                    let server = &mut self.servers[usize::from(server)];
                    server.on_header_late(&mut self.core, &mut self.scratch, key);
                }
                #[cfg(all(unix, feature = "sd-notify"))]
                Alarm::Watchdog => self.core.keep_alive(),
                Alarm::DrainStart => self.begin_drain(),
                Alarm::DrainLook => self.look_elsewhere(),
                Alarm::DrainTell => self.tell_all(),
                Alarm::DrainEnd => self.abort(),
                Alarm::CloseLook(server) => self.look(server),
            }
            if slice.is_over(&self.scratch.budget.turn) {
                break;
            }
        }
        postponed.into_iter().for_each(|alarm| self.core.postpone(alarm, self.collected));
        self.core.now = self.core.selector.now(); // Callbacks took time, and the next wait starts now.
    }

    /// Starts the work besides the service of ready slots: a quarter of a turn each for messages, limits and timers.
    /// The rest waits for the next turn, but at least one of each is done in every turn.
    pub(super) fn part_of_turn(&mut self) -> Slice {
        let now = self.core.selector.now();
        let turn = &mut self.scratch.budget.turn;
        turn.begin(now, nanos(self.core.config.turn_length) / 4);
        Slice::rest_of(turn, now)
    }

    /// A connection's guard fired. It was set for the earliest limit at that time. The stamps show the current state.
    pub(super) fn on_deadline(&mut self, key: u32) {
        if !self.core.guard_fired(key) {
            return;
        }
        if self.core.slots.connection(key).state.phase.is_setup_due() {
            // A successor may set other limits. Afterwards the guard is set again.
            return self.core.queue(key);
        }
        let server = usize::from(self.core.slots.get(key).expect("it has a connection").server);
        let quiet = self.core.config.drain_quiet;
        match self.core.slots.connection(key).deadline(&self.core.served[server].limits, quiet) {
            Some((deadline, due)) if deadline <= self.core.now => {
                self.servers[server].on_due(&mut self.core, &mut self.scratch, key, due);
            }
            // No limit has expired, because bytes have moved since.
            _ => {
                let limits = Arc::clone(&self.core.served[server].limits);
                let mut lent = self.core.slots.lend(key);
                self.core.watch(key, lent.connection(), &limits);
                self.core.slots.give_back(key, lent);
            }
        }
    }
}
