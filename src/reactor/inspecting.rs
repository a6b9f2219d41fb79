//! Looks at a reactor. All of it is computed on demand and costs a message nothing, except the lengths of turns, which
//! are counted once a turn.

use std::cmp::Reverse;
use std::time::Duration;

use super::Reactor;
use super::core::Core;
use super::shutdown::stop::Stop;
use super::slots::Contents;
use crate::inspection::{ConnectionInspection, Inspection, ReactorPhase, ServerInspection, TurnTimes};
use crate::threads::Pool;

/// How many connections are listed.
const LISTED: usize = 10;

impl Reactor {
    /// Returns what the reactor is doing now: its phase, its servers and their queues, and the connections that have
    /// moved no byte for the longest time or hold the most bytes. It looks at every connection, about 20 ms for a
    /// million. Handlers and hooks have [`Others::inspect`](crate::Others::inspect), other threads
    /// [`Handle::run`](crate::Handle::run).
    pub fn inspect(&mut self) -> Inspection {
        let waiting = self.taken.len();
        let mut inspection = self.core.inspect();
        inspection.messages_waiting += waiting;
        inspection
    }

    /// Returns the histogram of the lengths of turns since the last call, and begins a new one.
    pub fn take_turn_times(&mut self) -> TurnTimes {
        std::mem::take(&mut self.core.turn_times)
    }
}

impl Core {
    pub(crate) fn inspect(&mut self) -> Inspection {
        let now = self.selector.now();
        let (mut input_bytes, mut output_bytes) = (0, 0);
        let mut connections = Vec::new();
        for (key, slot) in self.slots.iter() {
            let server = slot.server;
            let Some(Contents::Connection(connection)) = slot.contents() else { continue };
            let input = connection.carry.as_ref().map_or(0, |carry| carry.unread().len());
            let output = connection.unsent();
            input_bytes += input;
            output_bytes += output;
            connections.push((key, server, connection.state.activity, input, output));
        }
        connections.sort_unstable_by_key(|&(_, _, activity, ..)| activity);
        let quietest: Vec<_> = connections.iter().take(LISTED).copied().collect();
        connections.retain(|&(.., input, output)| input + output > 0);
        connections.sort_unstable_by_key(|&(.., input, output)| Reverse(input + output));
        connections.truncate(LISTED);
        let mut listed =
            |(key, server, activity, input_bytes, output_bytes): (u32, u16, u64, usize, usize)| ConnectionInspection {
                id: self.slots.id(key),
                server: self.served[usize::from(server)].id,
                client_address: self.slots.connection(key).state.address.clone(),
                quiet_for: Duration::from_nanos(now.saturating_sub(activity)),
                input_bytes,
                output_bytes,
            };
        let quietest = quietest.into_iter().map(&mut listed).collect();
        let fullest = connections.into_iter().map(&mut listed).collect();
        Inspection {
            phase: self.phase(),
            servers: self.served.iter().map(|(server, _)| self.inspect_server(server, now)).collect(),
            messages_waiting: self.shared.len(),
            input_bytes,
            output_bytes,
            quietest,
            fullest,
        }
    }

    fn phase(&self) -> ReactorPhase {
        match self.stop {
            Stop::No | Stop::GivenUp { .. } => ReactorPhase::Serving,
            Stop::Delayed { .. } => ReactorPhase::Delayed,
            Stop::Draining { .. } => ReactorPhase::Draining,
            Stop::Aborting { .. } => ReactorPhase::Aborting,
            Stop::Stopped | Stop::Reported { .. } => ReactorPhase::Stopped,
        }
    }

    fn inspect_server(&self, server: usize, now: u64) -> ServerInspection {
        let served = &self.served[server];
        let counts = |pool: &Option<Pool>| pool.as_ref().map_or((0, 0), Pool::counts);
        let threads = counts(&served.threads);
        #[cfg(all(unix, feature = "children"))]
        let children = counts(&served.children);
        #[cfg(not(all(unix, feature = "children")))]
        let children = (0, 0);
        let since = [served.cap.since(), self.cap.since().filter(|_| served.shares_descriptors())];
        let since = since.into_iter().flatten().min();
        ServerInspection {
            id: served.id,
            addresses: served.listeners.iter().filter_map(|&key| self.slots.bound(key).cloned()).collect(),
            connections: served.active - served.sessions,
            sessions: served.sessions,
            full_for: since.map(|since| Duration::from_nanos(now.saturating_sub(since))),
            threads_busy: threads.0 as usize,
            children_busy: children.0 as usize,
            requests_waiting: (threads.1 + children.1) as usize,
        }
    }
}
