//! Timers of handlers and servers, and the guards that watch over the limits of connections.

use std::collections::BTreeMap;
use std::time::Duration;

use super::books::Life;
use super::core::Core;
use super::entries::Alarm;
use super::slots::Kind;
use crate::connection::Connection;
use crate::connection::state::State;
use crate::limits::Limits;
use crate::timers::nanos;
use crate::timers::{NO_TIMER, TimerKey, Timers};

impl Core {
    /// Makes sure that a timer fires no later than the next of the connection's limits.
    pub(crate) fn watch(&mut self, key: u32, connection: &mut Connection, limits: &Limits) {
        let deadline = connection.deadline(limits, self.config.drain_quiet);
        let Some((deadline, _)) = deadline else { return };
        connection.state.set_watched(true);
        if self.guards.get(key).is_none_or(|armed| deadline < armed) {
            self.guards.set(key, deadline);
        }
    }

    /// A guard has fired. Says whether there is a connection for it to watch over.
    pub(crate) fn guard_fired(&mut self, key: u32) -> bool {
        match self.slots.get(key).map(|slot| &mut slot.kind) {
            Some(Kind::Connection(connection)) => {
                connection.state.set_watched(false);
                true
            }
            _ => false,
        }
    }

    /// When the next timer of whatever kind is due.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        match (self.guards.next(), self.timers.next()) {
            (Some(guard), Some(timer)) => Some(guard.min(timer)),
            (guard, timer) => guard.or(timer),
        }
    }

    pub(crate) fn set_handler_timer(&mut self, key: u32, state: &mut State, tag: u64, after: Duration) {
        let deadline = self.selector.now().saturating_add(nanos(after));
        let timers = &mut state.extra.get_or_insert_default().timers;
        arm(&mut self.timers, timers, tag, deadline, Alarm::Handler { key, tag });
    }

    pub(crate) fn cancel_handler_timer(&mut self, state: &mut State, tag: u64) -> bool {
        match state.extra.as_mut().and_then(|extra| extra.timers.remove(&tag)) {
            Some(timer) => {
                self.timers.cancel(timer);
                true
            }
            None => false,
        }
    }

    /// A connection goes, and its handler's timers with it.
    pub(crate) fn cancel_handler_timers(&mut self, state: &mut State) {
        if let Some(extra) = state.extra.take() {
            for timer in extra.timers.into_values().chain(extra.redial) {
                self.timers.cancel(timer);
            }
        }
    }

    pub(crate) fn set_server_timer(&mut self, server: u16, tag: u64, after: Duration) {
        let deadline = self.selector.now().saturating_add(nanos(after));
        let timers = &mut self.served[usize::from(server)].timers;
        arm(&mut self.timers, timers, tag, deadline, Alarm::Server { server, tag });
    }

    pub(crate) fn cancel_server_timer(&mut self, server: u16, tag: u64) -> bool {
        match self.served[usize::from(server)].timers.remove(&tag) {
            Some(timer) => self.timers.cancel(timer) == Alarm::Server { server, tag },
            None => false,
        }
    }

    /// Whether this is a timer of a handler that was replaced, and whose successor is not set up: that may want to cancel
    /// it or set it anew.
    pub(crate) fn awaits_setup(&mut self, alarm: Alarm) -> bool {
        matches!(alarm, Alarm::Handler { key, .. } if self.slots.connection(key).state.is_setup_due())
    }

    /// Arms a handler's timer again that has fired and was not told of.
    pub(crate) fn postpone(&mut self, alarm: Alarm, until: u64) {
        let Alarm::Handler { key, tag } = alarm else { return };
        let timer = self.timers.arm(until, alarm);
        self.slots.connection(key).state.extra.get_or_insert_default().timers.insert(tag, timer);
    }

    /// A timer has fired: its owner forgets it, and may set it again in the callback.
    pub(crate) fn forget_timer(&mut self, alarm: Alarm) {
        match alarm {
            Alarm::Handler { key, tag } => {
                self.slots.connection(key).state.extra.as_mut().map(|extra| extra.timers.remove(&tag));
            }
            Alarm::Server { server, tag } => _ = self.served[usize::from(server)].timers.remove(&tag),
            Alarm::Resume(key) => self.slots.pause(key).expect("timers go with listeners").timer = NO_TIMER,
            Alarm::Redial { key, .. } => {
                self.slots.connection(key).state.extra.as_mut().map(|extra| extra.redial.take());
            }
            Alarm::Resend(_) | Alarm::Child(_) => {} // Forgotten by what it is for.
            Alarm::DrainLook | Alarm::DrainTell | Alarm::DrainEnd => {
                *self.stop.timer(alarm).expect("it is cancelled with its stage") = NO_TIMER;
            }
            Alarm::CloseLook(server) => {
                if let Life::Closing { look, .. } = &mut self.served[usize::from(server)].life {
                    *look = NO_TIMER;
                }
            }
        }
    }

    pub(crate) fn cancel_server_timers(&mut self, server: u16) {
        for (_, timer) in std::mem::take(&mut self.served[usize::from(server)].timers) {
            self.timers.cancel(timer);
        }
    }

    /// The tags of a server's timers, and when they are due from now. They are unset.
    pub(super) fn take_server_timers(&mut self, server: u16) -> Vec<(u64, Duration)> {
        let now = self.selector.now();
        let timers = std::mem::take(&mut self.served[usize::from(server)].timers);
        let due = |timer| {
            let due = self.timers.deadline(timer);
            self.timers.cancel(timer);
            Duration::from_nanos(due.saturating_sub(now))
        };
        let mut due = due;
        timers.into_iter().map(|(tag, timer)| (tag, due(timer))).collect()
    }
}

fn arm(timers: &mut Timers<Alarm>, armed: &mut BTreeMap<u64, TimerKey>, tag: u64, deadline: u64, alarm: Alarm) {
    match armed.get(&tag) {
        Some(&timer) => timers.rearm(timer, deadline),
        None => drop(armed.insert(tag, timers.arm(deadline, alarm))),
    }
}
