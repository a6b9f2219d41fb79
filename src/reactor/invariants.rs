//! What holds between any two turns, by the numbers of `docs/architecture.md`. Looked at after each turn of a debug build
//! with few connections, and of [`testing::Network`](crate::testing::Network).

use std::collections::{HashMap, HashSet};

use super::Reactor;
use super::accepting::has_room;
use super::books::Life;
use super::core::Core;
use super::entries::Alarm;
use super::slots::Kind;
use crate::timers::NO_TIMER;

impl Reactor {
    /// # Panics
    /// If an invariant is broken, with its number.
    pub(crate) fn check(&mut self) {
        let Core { slots, ready, timers, guards, served, stats, config, cap, stop, .. } = &mut self.core;
        let mut queued = HashSet::new();
        for &entry in ready.iter().filter(|&&entry| slots.entry(entry).is_some()) {
            assert!(queued.insert(entry.key), "2: slot {} is in the ready queue twice", entry.key);
        }
        let mut active = HashMap::new();
        let mut armed = served.iter().map(|(_, served)| served.timers.len()).sum::<usize>();
        for (key, slot) in slots.iter() {
            assert_eq!(
                slot.queued,
                queued.contains(&key),
                "2: slot {key} is marked as queued, or not, and is not, or is"
            );
            match &slot.kind {
                Kind::Connection(connection) => {
                    let limits = &served[usize::from(slot.server)].limits;
                    connection.check(slot.queued, limits, self.scratch.input.len());
                    let deadline = connection.deadline(limits, config.drain_quiet);
                    let watched = deadline.is_none_or(|(due, _)| guards.get(key).is_some_and(|guard| guard <= due));
                    assert!(watched || slot.queued, "11: nothing watches over {deadline:?} of slot {key}");
                    let asked = connection.state.phase.is_draining() || !stop.is_under_way();
                    assert!(asked, "12: slot {key} is not told of the stop");
                    *active.entry(usize::from(slot.server)).or_insert(0) += 1;
                    let extra = connection.state.extra.as_ref();
                    armed += extra.map_or(0, |extra| extra.timers.len() + usize::from(extra.redial.is_some()));
                }
                Kind::Listener(listening) => {
                    let served = &served[usize::from(slot.server)];
                    let capped =
                        if served.limits.connections_max.is_some() { served.cap.is_reached } else { cap.is_reached };
                    let waits = listening.pause.is_on() || capped || served.quota == 0 || slot.queued;
                    assert!(waits || !listening.ready || listening.listener.is_none(), "10: clients wait for nothing");
                }
                Kind::Elsewhere(_) => *active.entry(usize::from(slot.server)).or_insert(0) += 1,
                Kind::Lent => panic!("5: the connection in slot {key} is not back between turns"),
                _ => {}
            }
        }
        assert!(active.keys().all(|&server| served.contains(server)), "1: a connection outlives its server");
        for (server, served) in served.iter() {
            let active = active.get(&server).copied().unwrap_or(0);
            assert_eq!(served.active, active, "1: one slot for each open connection of a server");
            let room = served.limits.connections_max.is_some_and(|max| has_room(active, max));
            assert!(!served.cap.is_reached || !room, "10: clients wait for room that there is");
        }
        assert_eq!(stats.active, active.values().sum::<usize>() as u64, "1: one slot for each open connection");

        let ends = stop.timer(Alarm::DrainEnd).is_none_or(|end| *end != NO_TIMER);
        assert!(ends, "12: nothing ends the wait of a stop");
        let mut owned = 0;
        for (timer, alarm) in timers.iter() {
            let owner = match *alarm {
                Alarm::Handler { key, tag } => match slots.get(key).map(|slot| &slot.kind) {
                    Some(Kind::Connection(connection)) => {
                        connection.state.extra.as_ref().and_then(|extra| extra.timers.get(&tag)).map(|armed| armed.key)
                    }
                    _ => None,
                },
                Alarm::Redial { key, .. } => match slots.get(key).map(|slot| &slot.kind) {
                    Some(Kind::Connection(connection)) => {
                        connection.state.extra.as_ref().and_then(|extra| extra.redial)
                    }
                    _ => None,
                },
                Alarm::Server { server, tag } => served[usize::from(server)].timers.get(&tag).map(|armed| armed.key),
                Alarm::Resume(key) => slots.pause(key).map(|pause| pause.timer),
                Alarm::CloseLook(server) => match served[usize::from(server)].life {
                    Life::Closing { look, .. } if look == timer => continue,
                    _ => None,
                },
                Alarm::DrainLook | Alarm::DrainTell | Alarm::DrainEnd => match stop.timer(*alarm) {
                    Some(&mut its) if its == timer => continue,
                    _ => None,
                },
                Alarm::Resend(_) | Alarm::Child(_) => continue,
            };
            assert_eq!(owner, Some(timer), "7: {alarm:?} belongs to nobody");
            owned += usize::from(!matches!(alarm, Alarm::Resume(_)));
        }
        assert_eq!(armed, owned, "7: a timer that somebody owns is not armed");
    }
}
