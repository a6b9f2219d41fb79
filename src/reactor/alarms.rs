//! Timers of handlers and servers, and the guards of connection limits.

use std::collections::BTreeMap;
use std::time::Duration;

use super::core::Core;
use super::entries::Alarm;
use super::slots::Slot;
use crate::connection::Connection;
use crate::connection::state::State;
use crate::limits::Limits;
use crate::timers::{Armed, NO_TIMER, Timers, nanos};

impl Core {
    /// Makes sure that a timer fires no later than the next of the connection's limits.
    pub(crate) fn watch(&mut self, key: u32, connection: &mut Connection, limits: &Limits) {
        connection.state.phase.watched();
        let deadline = connection.deadline(limits, self.config.drain_quiet);
        let Some((deadline, _)) = deadline else { return };
        if self.guards.get(key).is_none_or(|armed| deadline < armed) {
            self.guards.set(key, deadline);
        }
    }

    /// A guard has fired. Returns whether its slot has a connection.
    pub(crate) fn guard_fired(&mut self, key: u32) -> bool {
        match self.slots.get(key).and_then(Slot::connection) {
            Some(connection) => {
                connection.state.phase.unwatched();
                true
            }
            _ => false,
        }
    }

    /// The time at which the next timer of any kind is due.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        // A guard may have stayed, and does not wake a reactor without connections.
        let guard = self.guards.next().filter(|_| self.stats.active > 0);
        match (guard, self.timers.next()) {
            (Some(guard), Some(timer)) => Some(guard.min(timer)),
            (guard, timer) => guard.or(timer),
        }
    }

    /// Sets a timer of a handler. It is due `after` from now and, if it is periodic, again every `every` nanoseconds.
    pub(crate) fn set_handler_timer(
        &mut self,
        key: u32,
        state: &mut State,
        tag: u64,
        after: Duration,
        every: Option<u64>,
    ) {
        let due = self.selector.now().saturating_add(nanos(after));
        let timers = &mut state.extra.get_or_insert_default().timers;
        self.fired = Some(Core::fired);
        arm(&mut self.timers, timers, (due, every), Alarm::Handler { key, tag }, tag);
    }

    pub(crate) fn cancel_handler_timer(&mut self, state: &mut State, tag: u64) -> bool {
        match state.extra.as_mut().and_then(|extra| extra.timers.remove(&tag)) {
            Some(armed) => {
                self.timers.cancel(armed.key);
                true
            }
            None => false,
        }
    }

    /// A connection ends: cancels its handler's timers.
    pub(crate) fn cancel_handler_timers(&mut self, state: &mut State) {
        if let Some(extra) = state.extra.take() {
            cancel_all(&mut self.timers, extra.timers);
            extra.redial.into_iter().for_each(|timer| _ = self.timers.cancel(timer));
        }
    }

    /// Like `set_handler_timer`, but for a server.
    pub(crate) fn set_server_timer(&mut self, server: u16, tag: u64, after: Duration, every: Option<u64>) {
        let due = self.selector.now().saturating_add(nanos(after));
        let timers = &mut self.served[usize::from(server)].timers;
        self.fired = Some(Core::fired);
        arm(&mut self.timers, timers, (due, every), Alarm::Server { server, tag }, tag);
    }

    pub(crate) fn cancel_server_timer(&mut self, server: u16, tag: u64) -> bool {
        match self.served[usize::from(server)].timers.remove(&tag) {
            Some(armed) => self.timers.cancel(armed.key) == Alarm::Server { server, tag },
            None => false,
        }
    }

    /// Returns whether this is a timer of a replaced handler whose successor is not set up. The successor may want to
    /// cancel it or set it again.
    pub(crate) fn awaits_setup(&mut self, alarm: Alarm) -> bool {
        matches!(alarm, Alarm::Handler { key, .. } if self.slots.connection(key).state.phase.is_setup_due())
    }

    /// Sets a handler's timer again that has fired without a callback.
    pub(crate) fn postpone(&mut self, alarm: Alarm, until: u64) {
        let Alarm::Handler { key, tag } = alarm else { return };
        let timers = self.slots.connection(key).state.extra.as_mut().map(|extra| &mut extra.timers);
        if let Some(armed) = timers.and_then(|timers| timers.get_mut(&tag)) {
            armed.key = self.timers.arm(until, alarm);
        }
    }

    /// A timer has fired. Its owner forgets it, and may set it again in the callback.
    pub(crate) fn forget_timer(&mut self, alarm: Alarm) {
        match alarm {
            Alarm::Handler { .. } | Alarm::Server { .. } => self.fired.into_iter().for_each(|fired| fired(self, alarm)),
            Alarm::Resume(key) => self.slots.pause(key).expect("timers go with listeners").timer = NO_TIMER,
            Alarm::Redial { key, .. } => {
                self.slots.connection(key).state.extra.as_mut().map(|extra| extra.redial.take());
            }
            Alarm::Resend(_) | Alarm::Child(_) => {} // Its owner forgets it.
            #[cfg(all(unix, feature = "proxy-protocol"))]
            Alarm::Header(key) => self.slots.heading(key).expect("timers go with headers").timer = NO_TIMER,
            #[cfg(all(unix, feature = "sd-notify"))]
            Alarm::Watchdog => self.supervision.as_mut().expect("the timer goes with it").timer = NO_TIMER,
            Alarm::DrainStart | Alarm::DrainLook | Alarm::DrainTell | Alarm::DrainEnd => {
                *self.stop.timer(alarm).expect("it is cancelled with its stage") = NO_TIMER;
            }
            Alarm::CloseLook(server) => {
                if let Some(look) = self.served[usize::from(server)].life.look() {
                    *look = NO_TIMER;
                }
            }
        }
    }

    /// A timer of a handler or a server has fired. A periodic one is set for its next tick.
    fn fired(&mut self, alarm: Alarm) {
        let (timers, tag) = match alarm {
            Alarm::Handler { key, tag } => {
                (self.slots.connection(key).state.extra.as_mut().map(|extra| &mut extra.timers), tag)
            }
            Alarm::Server { server, tag } => (Some(&mut self.served[usize::from(server)].timers), tag),
            _ => return,
        };
        let Some(timers) = timers else { return };
        let Some(armed) = timers.get_mut(&tag) else { return };
        match armed.every.and_then(|_| armed.next(self.selector.now())) {
            Some(due) => (armed.key, armed.due) = (self.timers.arm(due, alarm), due),
            None => _ = timers.remove(&tag),
        }
    }

    pub(crate) fn cancel_server_timers(&mut self, server: u16) {
        cancel_all(&mut self.timers, std::mem::take(&mut self.served[usize::from(server)].timers));
    }

    /// Removes a server's timers. Returns their tags, when they are due from now, and their periods.
    pub(super) fn take_server_timers(&mut self, server: u16) -> Vec<(u64, Duration, Option<u64>)> {
        let now = self.selector.now();
        let timers = std::mem::take(&mut self.served[usize::from(server)].timers);
        let taken = timers.into_iter().map(|(tag, armed)| {
            self.timers.cancel(armed.key);
            (tag, Duration::from_nanos(armed.due.saturating_sub(now)), armed.every)
        });
        taken.collect()
    }
}

fn arm(
    timers: &mut Timers<Alarm>,
    all: &mut BTreeMap<u64, Armed>,
    (due, every): (u64, Option<u64>),
    alarm: Alarm,
    tag: u64,
) {
    let key = match all.get(&tag) {
        Some(armed) => {
            timers.rearm(armed.key, due);
            armed.key
        }
        None => timers.arm(due, alarm),
    };
    all.insert(tag, Armed { key, due, every });
}

#[inline(never)] // Connections rarely have timers.
fn cancel_all(timers: &mut Timers<Alarm>, all: BTreeMap<u64, Armed>) {
    for armed in all.into_values() {
        timers.cancel(armed.key);
    }
}
