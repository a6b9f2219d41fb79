//! THE LOOP.
//!
//! ```text
//!  poll ──▶ collect ──▶ service ──▶ timers ──▶ service_actions ──▶ reap
//!  sleep    note what   each ready   what is    the servers'        free what
//!           is ready    slot once    due        hook                ended
//! ```
//!
//! Collect only notes readiness, service runs callbacks, and only reap frees slots. Therefore no key is reused within a
//! turn, and a callback may close any connection, including its own, while no other connection moves.

use std::time::Duration;

use super::core::Core;
use super::shutdown::stop::Stop;
use super::slots::{Contents, Slot};
use super::{Reactor, TIMED_BYTES};
use crate::error::{Error, Result};
use crate::ids::{SlotId, WAKER};
use crate::limits::READ_BUFFER_BYTES_MAX;
use crate::net::selector::EVENTS;
use crate::timers::nanos;

impl Reactor {
    /// One turn.
    pub(super) fn turn(&mut self, wait: Option<Duration>) -> Result<()> {
        self.sleep(wait)?;
        self.turning = true;
        self.service();
        self.timers();
        self.service_actions();
        self.reap();
        self.turning = false;
        Ok(())
    }

    /// Poll and collect: waits for events, reads the clock, and notes in each slot what it is ready for.
    fn sleep(&mut self, wait: Option<Duration>) -> Result<()> {
        self.allocate();
        // The clock was read at the end of the last service. If it is slightly old, timers are slightly late, but never
        // early.
        let wait = match (wait, self.timeout_from(self.core.now)) {
            (Some(wait), Some(timeout)) => Some(wait.min(timeout)),
            (wait, timeout) => wait.or(timeout),
        };
        let failed = |source| Error::Reactor { doing: "wait for events", source };
        self.core.selector.poll(wait).map_err(failed)?;
        let mut more = self.collect();
        self.core.now = self.core.selector.now();
        self.collected = self.core.now;
        self.core.stats.turns += 1;
        // Deadlines have passed. Before they apply, fetch events once more: after the process has been stopped
        // (SIGSTOP, a suspended machine), poll may return late and without events although bytes are waiting.
        more |= self.core.next_deadline().is_some_and(|next| next <= self.core.now);
        for _ in 0..POLLS_MAX {
            if !more {
                break;
            }
            self.core.selector.poll(Some(Duration::ZERO)).map_err(failed)?;
            more = self.collect();
        }
        Ok(())
    }

    /// Only sets readiness flags. Returns whether there may be more events to fetch.
    fn collect(&mut self) -> bool {
        let Core { selector, slots, ready, stats, .. } = &mut self.core;
        let mut count = 0;
        selector.each_event(|token, readiness| {
            count += 1;
            let Some((key, slot)) = slots.live(token) else {
                stats.stale_events += u64::from(token != WAKER);
                return;
            };
            if slot.on_event(readiness) && !slot.queued {
                slot.queued = true;
                ready.push(slot.id(key));
            }
        });
        count == EVENTS
    }

    /// Serves each slot of the ready queue once, within its budget and its share of the turn. Slots that become ready
    /// during this wait for the next turn.
    fn service(&mut self) {
        if self.has_commands() {
            self.commands();
            self.core.now = self.core.selector.now(); // The callbacks took time.
        }
        let begun = self.core.now;
        let turn = &mut self.scratch.budget.turn;
        turn.begin(begun, nanos(self.core.config.turn_length));
        turn.timed_from = if self.core.config.slow_callback.is_some() { 0 } else { self.timed_from };
        let mut batch = std::mem::take(&mut self.batch);
        self.core.ready.take(&mut batch);
        let mut rest = &batch[..];
        while let Some((&entry, after)) = rest.split_first() {
            let Some(slot) = self.core.slots.entry(entry) else {
                rest = after;
                continue;
            };
            let key = entry.key;
            let server = usize::from(slot.server);
            if slot.connection().is_some() {
                let served = self.servers[server].service(&mut self.core, &mut self.scratch, rest);
                debug_assert!(served > 0, "the batch begins with a connection of this server");
                let (served, after) = rest.split_at(served);
                rest = after;
                self.read_clock(served);
                continue;
            }
            rest = after;
            slot.queued = false;
            self.scratch.budget.turn.waiting = rest.len() + 1;
            match slot.contents() {
                Some(Contents::Connection(_) | Contents::Vacant | Contents::Elsewhere(_)) | None => {}
                Some(Contents::Listener(_)) => {
                    self.servers[server].accept(&mut self.core, &mut self.scratch, key);
                }
                Some(Contents::Endpoint(endpoint)) if endpoint.outbound.is_none() => {
                    self.servers[server].receive(&mut self.core, &mut self.scratch, key);
                }
                Some(Contents::Endpoint(_)) => self.receive_outbound(server, key),
                #[cfg(all(unix, feature = "proxy-protocol"))]
                Some(Contents::Heading(_)) => {
                    self.servers[server].on_header(&mut self.core, &mut self.scratch, key);
                }
                #[cfg(all(unix, feature = "signals"))]
                Some(Contents::Signals(_)) => self.core.hear_signals(),
            }
            self.read_clock(&[]);
        }
        self.batch = batch;
        self.core.turn_times.add(self.core.now - begun);
        let took = Duration::from_nanos(self.core.now - begun);
        let stats = &mut self.core.stats;
        stats.turns_took += took;
        stats.longest_turn = stats.longest_turn.max(took);
        // Callbacks that are usually too short to be timed may have filled the turn.
        self.timed_from = if self.scratch.budget.turn.is_long(self.core.now) { 0 } else { TIMED_BYTES };
    }

    /// Reads the clock after a few connections were served. Its last time became their stamp. If they took long, the
    /// stamps are too old and a limit could pass early, so they are corrected.
    fn read_clock(&mut self, served: &[SlotId]) {
        if self.core.tally.is_some() {
            self.core.recount(served);
        }
        let begun = self.core.now;
        self.core.now = self.core.selector.now();
        if self.core.now - begun > STAMP_ERROR_MAX {
            for &entry in served {
                if let Some(connection) = self.core.slots.entry(entry).and_then(Slot::connection) {
                    connection.restamp(begun, self.core.now);
                }
            }
        }
    }

    fn service_actions(&mut self) {
        if matches!(self.core.stop, Stop::No) && self.core.shared.drain_requested() {
            self.begin_stop();
        }
        if self.core.stop.is_delayed() && self.core.shared.now_requested() {
            self.begin_drain();
        }
        if self.core.stop.is_draining() && self.core.shared.now_requested() {
            self.abort();
        }
        if self.core.stop.is_aborting() {
            self.abort_all();
        }
        for (number, server) in &mut self.servers {
            if !self.core.served[number].is_closed() {
                server.service_actions(&mut self.core);
            }
        }
    }

    /// Frees dead connections after the last event of the turn. Connections are not freed anywhere else.
    pub(super) fn reap(&mut self) {
        if self.core.tally.is_some() {
            self.core.recount(&[]); // Timers and other threads have sent, too.
        }
        if !self.core.dead.is_empty() {
            self.free_dead();
        }
        if let Some(error) = self.core.not_registered.take() {
            self.core.pause_all(&error);
        }
        if !self.core.draining.is_empty() {
            self.go_on_draining();
        }
        if self.core.stop.is_under_way() && self.is_over() {
            self.stopped();
        }
        if !self.core.closing.is_empty() {
            self.go_on_closing();
        }
        if cfg!(debug_assertions) && self.core.slots.len() < CHECKED_SLOTS_MAX {
            self.check();
        }
    }

    pub(super) fn free_dead(&mut self) {
        let mut dead = std::mem::take(&mut self.core.dead);
        if let Some(tally) = &mut self.core.tally {
            dead.iter().for_each(|&key| tally.forget(key));
        }
        dead.drain(..).for_each(|key| self.core.reap(key));
        self.core.dead = dead; // The vector's memory is reused.
        #[cfg(feature = "tls")]
        self.core.forget_handed_over();
        self.core.resume_accepting();
    }

    /// Allocates the shared buffer in the first turn, so a reactor that has not served yet has none. Its length follows
    /// the settings.
    pub(super) fn allocate(&mut self) {
        let wanted = self.core.config.read_buffer_bytes.min(READ_BUFFER_BYTES_MAX);
        let wanted = wanted.max(self.core.read_buffer_bytes_min).max(1);
        if self.scratch.input.len() != wanted {
            self.scratch.input = vec![0; wanted].into();
            self.core.read_bytes_max = self.core.read_bytes_max.max(wanted);
        }
    }
}

/// The largest lag of a stamp behind the clock.
const STAMP_ERROR_MAX: u64 = 1_000_000;
/// With more slots, checking all of them after each turn would make debug builds useless.
const CHECKED_SLOTS_MAX: usize = 256;
/// The maximum number of additional polls per turn to drain the kernel's event list (65,536 events).
const POLLS_MAX: u32 = 64;
