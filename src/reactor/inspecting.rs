//! Looks at a reactor. All of it is computed on demand and costs a message nothing, except the lengths of turns, which
//! are counted once a turn.

use std::cmp::Reverse;
use std::time::Duration;

use super::Reactor;
use super::core::Core;
use super::served::{Asked, Life};
use super::shutdown::stop::Stop;
use super::slots::Contents;
use crate::address::Address;
use crate::ids::ServerId;
use crate::inspection::{ConnectionInspection, Inspection, ReactorPhase, ServerInspection, ServerPhase, TurnTimes};
use crate::threads::Pool;

/// How many connections are listed.
const LISTED: usize = 10;

impl Reactor {
    /// Returns what the reactor is doing now: its phase, its servers and their queues, and the connections that have
    /// moved no byte for the longest time, hold the most bytes or came first. It looks at every connection, about 20 ms for a
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
        // The generations count all slots that were ever taken.
        let oldest = first(&mut connections, |&(key, ..)| Reverse(self.slots.age(key)));
        let quietest = first(&mut connections, |&(_, _, activity, ..)| activity);
        connections.retain(|&(.., input, output)| input + output > 0);
        let fullest = first(&mut connections, |&(.., input, output)| Reverse(input + output));
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
        let oldest = oldest.into_iter().map(&mut listed).collect();
        let fullest = fullest.into_iter().map(&mut listed).collect();
        Inspection {
            worker: self.worker,
            phase: self.phase(),
            servers: self.served.iter().map(|(server, _)| self.inspect_server(server, now)).collect(),
            messages_waiting: self.shared.len(),
            input_bytes,
            output_bytes,
            quietest,
            fullest,
            oldest,
            #[cfg(all(unix, feature = "restart"))]
            failed_restart: self.failed_restart(),
            #[cfg(not(all(unix, feature = "restart")))]
            failed_restart: None,
        }
    }

    /// Another reactor accepts clients for a server at these addresses, too.
    pub(crate) fn accepts_elsewhere(&mut self, server: ServerId, addresses: &[Address]) {
        if let Some(server) = self.server(server) {
            self.served[usize::from(server)].addresses.extend_from_slice(addresses);
        }
    }

    #[cfg(all(unix, feature = "restart"))]
    fn failed_restart(&self) -> Option<crate::inspection::FailedRestart> {
        let failed = self.failed_restart.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (since, reason) = failed.as_ref()?;
        let ago = Duration::from_nanos(since.now());
        Some(crate::inspection::FailedRestart { ago, reason: reason.clone() })
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
        let (children, children_full_for) =
            (counts(&served.children), served.children.as_ref().and_then(Pool::full_for));
        #[cfg(not(all(unix, feature = "children")))]
        let (children, children_full_for) = ((0, 0), None);
        let ago = |since| Duration::from_nanos(now.saturating_sub(since));
        let since = [served.cap.since(), self.cap.since().filter(|_| served.shares_descriptors())];
        let since = since.into_iter().flatten().min();
        let mut addresses = Vec::new();
        for address in &served.addresses {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        ServerInspection {
            id: served.id,
            phase: match served.life {
                Life::Closing { .. } => ServerPhase::Closing,
                Life::Closed | Life::Open { stopped: true } => ServerPhase::Closed,
                Life::Open { .. } if served.asked == Asked::Nothing => ServerPhase::Serving,
                Life::Open { .. } | Life::Draining { .. } => ServerPhase::Draining,
            },
            addresses,
            connections: served.active - served.sessions,
            headers_awaited: served.headings,
            sessions: served.sessions,
            full_for: since.map(ago),
            sessions_full_for: served.sessions_full.map(ago),
            threads_busy: threads.0 as usize,
            threads_full_for: served.threads.as_ref().and_then(Pool::full_for),
            children_busy: children.0 as usize,
            children_full_for,
            requests_waiting: (threads.1 + children.1) as usize,
        }
    }
}

/// Returns those to list: the first by this key, in its order.
fn first<T: Copy, K: Ord>(all: &mut [T], key: impl Fn(&T) -> K) -> Vec<T> {
    if all.len() > LISTED {
        all.select_nth_unstable_by_key(LISTED, &key);
    }
    let mut listed = all[..all.len().min(LISTED)].to_vec();
    listed.sort_unstable_by_key(key);
    listed
}
