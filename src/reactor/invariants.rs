//! Invariants between two turns, with the numbers of `docs/architecture.md`. Checked after each turn of a debug build
//! with few connections, and of `testing::Network`.

use std::collections::{HashMap, HashSet};

use super::Reactor;
use super::bounding::buffered;
use super::core::Core;
use super::entries::Alarm;
use super::pausing::has_room;
use super::served::Asked;
use super::slots::Contents;
#[cfg(feature = "tls")]
use super::slots::Slot;
use crate::connection::state::Extra;
use crate::timers::{NO_TIMER, TimerKey};

impl Reactor {
    /// # Panics
    /// If an invariant is broken, with its number.
    pub(crate) fn check(&mut self) {
        let Core { slots, ready, .. } = &mut self.core;
        let mut queued = HashSet::new();
        for &entry in ready.iter().filter(|&&entry| slots.entry(entry).is_some()) {
            assert!(queued.insert(entry.key), "2: slot {} is in the ready queue twice", entry.key);
        }
        for (key, slot) in slots.iter() {
            let (marked, queued) = (slot.queued, queued.contains(&key));
            assert_eq!(marked, queued, "2: slot {key} is marked as queued, or not, and is not, or is");
        }
        #[cfg(feature = "tls")]
        self.core.check_handshakes();
        self.core.check_slots();
        self.core.check_servers();
        self.core.check_timers();
    }
}

impl Core {
    /// Checks that each handshake is counted once, and in progress exactly while it is.
    #[cfg(feature = "tls")]
    fn check_handshakes(&mut self) {
        let in_progress = |slot: &Slot| match slot.contents.as_deref() {
            Some(Contents::Connection(connection)) => connection.state.phase.is_handshaking(),
            _ => false,
        };
        let count = self.slots.iter().filter(|(_, slot)| in_progress(slot)).count() as u64;
        assert_eq!(self.stats.handshakes_in_progress(), count, "1: handshakes in progress");
    }

    /// Checks each slot.
    fn check_slots(&mut self) {
        if let Some(tally) = &self.tally {
            let mut total = 0;
            for (key, slot) in self.slots.iter() {
                let counted = tally.of(key);
                total += counted;
                assert!(slot.queued || counted == buffered(slot), "13: slot {key} is counted with {counted} bytes");
            }
            assert!(!tally.is_passed(), "13: all connections hold {total} bytes");
            assert_eq!(tally.total(), total, "13: the bytes of all connections");
        }
        let Core { slots, guards, served, config, cap, read_bytes_max, .. } = self;
        for (key, slot) in slots.iter() {
            match slot.contents.as_deref() {
                Some(Contents::Connection(connection)) => {
                    let limits = &served[usize::from(slot.server)].limits;
                    connection.check(slot.queued, limits, *read_bytes_max);
                    let deadline = connection.deadline(limits, config.drain_quiet);
                    let watched = deadline.is_none_or(|(due, _)| guards.get(key).is_some_and(|guard| guard <= due));
                    assert!(watched || slot.queued, "11: nothing watches over {deadline:?} of slot {key}");
                    let asked = served[usize::from(slot.server)].asked;
                    let told = connection.state.phase.is_draining() || asked != Asked::Drain;
                    assert!(told, "12: slot {key} is not told of the drain");
                }
                Some(Contents::Listener(listening)) => {
                    let served = &served[usize::from(slot.server)];
                    let waits = listening.pause.is_on() || served.is_capped(cap) || served.quota == 0 || slot.queued;
                    assert!(waits || !listening.ready || listening.listener.is_none(), "10: clients wait for nothing");
                }
                None => panic!("5: the connection in slot {key} is not back between turns"),
                Some(_) => {}
            }
        }
    }

    /// Checks the counts of each server and of all.
    fn check_servers(&mut self) {
        let Core { slots, served, stats, .. } = self;
        let mut active = HashMap::new();
        #[cfg_attr(not(all(unix, feature = "proxy-protocol")), expect(unused_mut, reason = "there are none"))]
        let mut headings = HashMap::<usize, usize>::new();
        for (_, slot) in slots.iter() {
            let server = usize::from(slot.server);
            match slot.contents.as_deref() {
                Some(Contents::Connection(_) | Contents::Elsewhere(_)) => {}
                #[cfg(all(unix, feature = "proxy-protocol"))]
                Some(Contents::Heading(heading)) => {
                    *headings.entry(server).or_insert(0) += usize::from(heading.stream.is_some());
                }
                _ => continue,
            }
            *active.entry(server).or_insert(0) += 1;
        }
        assert!(active.keys().all(|&server| served.contains(server)), "1: a connection outlives its server");
        for (server, served) in served.iter() {
            let active = active.get(&server).copied().unwrap_or(0);
            assert_eq!(served.active, active, "1: one slot for each open connection of a server");
            let headings = headings.get(&server).copied().unwrap_or(0);
            assert_eq!(served.headings, headings, "1: one slot for each header that is awaited");
            let room = served.limits.connections_max.is_some_and(|max| has_room(served.connections(), max));
            assert!(!served.cap.is_reached || !room, "10: clients wait for room that there is");
        }
        assert_eq!(stats.active, active.values().sum::<usize>() as u64, "1: one slot for each open connection");
    }

    /// Checks that each timer has an owner, and that each owner's timer is armed.
    fn check_timers(&mut self) {
        let ends = self.stop.timer(Alarm::DrainEnd).is_none_or(|end| *end != NO_TIMER);
        assert!(ends, "12: nothing ends the wait of a stop");
        let mut owned = 0;
        let timers: Vec<_> = self.timers.iter().map(|(timer, alarm)| (timer, *alarm)).collect();
        for (timer, alarm) in timers {
            match alarm {
                Alarm::Resend(_) | Alarm::Child(_) => continue, // These are found by their owners.
                _ => assert_eq!(self.owned_timer(alarm), Some(timer), "7: {alarm:?} has no owner"),
            }
            owned += usize::from(matches!(alarm, Alarm::Handler { .. } | Alarm::Redial { .. } | Alarm::Server { .. }));
        }
        let mut armed = self.served.iter().map(|(_, served)| served.timers.len()).sum::<usize>();
        for (_, slot) in self.slots.iter() {
            if let Some(connection) = slot.connection()
                && let Some(extra) = &connection.state.extra
            {
                armed += extra.timers.len() + usize::from(extra.redial.is_some());
            }
        }
        assert_eq!(armed, owned, "7: the timer of an owner is not armed");
    }

    /// The key that the owner of a timer stores.
    fn owned_timer(&mut self, alarm: Alarm) -> Option<TimerKey> {
        match alarm {
            Alarm::Handler { key, tag } => self.extra(key)?.timers.get(&tag).map(|armed| armed.key),
            Alarm::Redial { key, .. } => self.extra(key)?.redial,
            Alarm::Server { server, tag } => self.served[usize::from(server)].timers.get(&tag).map(|armed| armed.key),
            Alarm::Resume(key) => self.slots.pause(key).map(|pause| pause.timer),
            #[cfg(all(unix, feature = "proxy-protocol"))]
            Alarm::Header(key) => self.slots.heading(key).map(|heading| heading.timer),
            Alarm::CloseLook(server) => self.served[usize::from(server)].life.look().copied(),
            #[cfg(all(unix, feature = "sd-notify"))]
            Alarm::Watchdog => self.supervision.as_ref().map(|supervision| supervision.timer),
            Alarm::DrainStart | Alarm::DrainLook | Alarm::DrainTell | Alarm::DrainEnd => {
                self.stop.timer(alarm).copied()
            }
            Alarm::Resend(_) | Alarm::Child(_) => None,
        }
    }

    fn extra(&mut self, key: u32) -> Option<&Extra> {
        self.slots.get(key)?.connection()?.state.extra.as_deref()
    }
}
