//! Logs the end of each request at level `Debug`, with the limit that has ended it, and how many a stop aborts.

use std::fmt::Display;

use super::core::Core;
use super::served::{Asked, Life};
use super::slots::Contents;
use crate::address::Address;
use crate::connection::bounds::Bounds;
use crate::connection::state::State;
use crate::error::Passed;
use crate::lifecycle::{EndReason, Timeout};
use crate::logging::{note, shows};
use crate::timers::nanos;

impl Core {
    /// A request is over. `state` belongs to a request that the reactor has served. `named` is the limit in an error
    /// that ended it.
    pub(crate) fn note_end(
        &self,
        server: u16,
        client: &Address,
        why: EndReason,
        state: Option<&State>,
        named: Option<Passed>,
    ) {
        if !shows(log::Level::Debug) {
            return;
        }
        let limit = match why {
            EndReason::InputLimit
            | EndReason::Timeout(_)
            | EndReason::ChildTimeout
            | EndReason::Refused
            | EndReason::Error
                if named.is_some() =>
            {
                named
            }
            _ => self.limit_behind(server, why, state),
        };
        match limit {
            Some(limit) => note!(Debug, "{client} is closed: {why} ({limit})"),
            None => note!(Debug, "{client} is closed: {why}"),
        }
    }

    /// A limit can also cut off a connection after its end, during its last output or while it lingers.
    #[cold]
    pub(crate) fn note_cut(&self, server: u16, state: &State, passed: Option<Timeout>) {
        if !shows(log::Level::Debug) {
            return;
        }
        let limits = &self.served[usize::from(server)].limits;
        let limit = match passed {
            Some(timeout) => self.limit_behind(server, EndReason::Timeout(timeout), Some(state)),
            None if self.now.saturating_sub(state.activity) >= nanos(limits.linger_timeout) => {
                Some(Passed::Time("linger_timeout", limits.linger_timeout))
            }
            None => Some(Passed::Count("linger_bytes_max", limits.linger_bytes_max)),
        };
        match limit {
            Some(limit) => note!(Debug, "the rest of {} is cut off ({limit})", state.address),
            None => note!(Debug, "the rest of {} is cut off", state.address),
        }
    }

    /// A stop is about to abort what is left, of one server or of all. Requests that threads and programs serve count, and
    /// so do sessions. What is over already only waits for the end of the turn.
    #[cold]
    pub(super) fn note_aborted(&mut self, only: Option<u16>) {
        let slots = self.slots.iter().filter(|(_, slot)| only.is_none_or(|server| slot.server == server));
        let open = slots.map(|(_, slot)| match slot.contents() {
            Some(Contents::Connection(connection)) => {
                !connection.state.phase.is_aborting() && !connection.state.phase.is_dead()
            }
            Some(Contents::Elsewhere(request)) => request.ended.is_none(),
            #[cfg(all(unix, feature = "proxy-protocol"))]
            Some(Contents::Heading(heading)) => heading.stream.is_some(),
            _ => false,
        });
        let count = open.filter(|&is_open| is_open).count();
        let grace = Passed::Time("drain_grace", self.config.drain_grace);
        let is_asked = self.shared.now_requested();
        let why: &dyn Display = if is_asked { &"shutdown_now, or a second signal" } else { &grace };
        if count > 0 {
            note!(Warn, "connections aborted: {count} ({why})");
        }
    }

    /// The limit that has caused a reason, if there is one.
    fn limit_behind(&self, server: u16, why: EndReason, state: Option<&State>) -> Option<Passed> {
        let served = &self.served[usize::from(server)];
        let limits = &served.limits;
        let bounds = || state.map_or_else(|| Bounds::of(limits), |state| state.bounds(limits));
        match why {
            EndReason::Timeout(which) => {
                let name = match which {
                    Timeout::Idle => "idle_timeout",
                    Timeout::Read => "read_timeout",
                    Timeout::Write => "write_timeout",
                    Timeout::Message => "set_message_deadline",
                };
                state?.time_limit(which, limits).map(|time| Passed::Time(name, time))
            }
            EndReason::ConnectTimeout => limits.connect_timeout.map(|time| Passed::Time("connect_timeout", time)),
            EndReason::HandshakeTimeout => limits.handshake_timeout.map(|time| Passed::Time("handshake_timeout", time)),
            EndReason::ChildTimeout => limits.child_timeout.map(|time| Passed::Time("child_timeout", time)),
            EndReason::InputLimit => Some(Passed::Count("input_bytes_max", bounds().input_bytes_max)),
            EndReason::BufferLimit => {
                self.config.buffered_bytes_max.map(|max| Passed::Count("buffered_bytes_max", max))
            }
            EndReason::OutputLimit => Some(Passed::Count("output_bytes_max", bounds().output_bytes_max)),
            EndReason::StopAborted => {
                let begun = match served.life {
                    // Closing its server ends a connection immediately. Threads and programs have the grace period.
                    Life::Closing { begun, .. } => (state.is_none() || served.asked == Asked::Drain).then_some(begun),
                    _ => self.stop.begun().filter(|_| self.stop.is_aborting()),
                };
                let grace = self.config.drain_grace;
                let over = begun.is_some_and(|begun| self.now.saturating_sub(begun) >= nanos(grace));
                over.then_some(Passed::Time("drain_grace", grace))
            }
            _ => None,
        }
    }
}
