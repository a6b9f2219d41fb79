//! The state of a connection: its phase, the reason of its end, readiness and stamps. Its own callback changes these,
//! and so do operations by its id. The other files of this folder use them.

use std::time::Duration;

use super::axes::{Drain, Inbound};
use super::bounds::Bounds;
use super::phase::Phase;
use crate::address::Address;
use crate::error::Passed;
use crate::lifecycle::{EndReason, Next, Timeout};
use crate::limits::Limits;
use crate::net::readiness::Readiness;
use crate::timers::{Armed, TimerKey};

/// The state of the connection.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) address: Address,
    pub(crate) phase: Phase,
    /// Readiness, and other flags without effect on the phase: see the constants below.
    pub(super) flags: u8,
    pub(super) why: EndReason,
    /// The size of a read, as a multiple of [`BITE_MIN`] bytes.
    bite: u16,
    /// The key of its handler, as long as it exists.
    pub(crate) handler: u32,
    /// When bytes last moved in either direction, or when connecting or lingering began.
    pub(crate) activity: u64,
    pub(crate) extra: Option<Box<Extra>>,
}

/// Data that most connections never need.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    /// The handler's timers by tag.
    pub(crate) timers: std::collections::BTreeMap<u64, Armed>,
    /// Timeouts that differ from the server's.
    pub(crate) idle_timeout: Option<Option<Duration>>,
    pub(crate) read_timeout: Option<Option<Duration>>,
    pub(crate) write_timeout: Option<Option<Duration>>,
    /// Its own limits.
    own: Option<Bounds>,
    /// When the current message began, and how long it may take.
    message: Option<(u64, Duration)>,
    /// The limit in the error of a callback; kept only if it will be logged.
    pub(crate) passed: Option<Passed>,
    /// Why a file could not be read, until the handler's server is told.
    file_fault: Option<std::io::ErrorKind>,
    /// When an outbound connection is tried again.
    pub(crate) redial: Option<TimerKey>,
    /// Offloaded jobs whose results have not been delivered.
    jobs: u32,
    /// How many microseconds a callback took before the read size was reduced, if the next read is compared with that.
    took: u16,
    /// How many bytes may still be discarded while lingering.
    linger_left: usize,
}

impl State {
    pub(super) fn new(address: Address, phase: Phase, flags: u8, handler: u32, now: u64) -> Self {
        let bite = (BITE_FIRST / BITE_MIN) as u16;
        State { address, phase, flags, why: EndReason::Done, bite, handler, activity: now, extra: None }
    }

    /// Begins again for another peer.
    #[inline]
    pub(super) fn renew(&mut self, address: &Address, phase: Phase, now: u64) {
        debug_assert!(self.extra.is_none());
        match (&mut self.address, address) {
            (Address::Inet(ours), Address::Inet(address)) => *ours = *address,
            #[cfg(unix)]
            (ours, address) => ours.clone_from(address),
        }
        (self.phase, self.flags, self.why, self.activity) = (phase, 0, EndReason::Done, now);
    }

    /// Returns whether it is in this phase, with exactly these flags.
    #[inline(always)]
    pub(super) fn is(&self, phase: Phase, flags: u8) -> bool {
        self.phase.is(phase) && self.flags == flags
    }

    /// Returns whether the socket takes output, with the own type of handlers and no unusual setting.
    #[inline(always)]
    pub(super) fn is_clear(&self) -> bool {
        self.phase.is_clear() && self.flags & (WRITABLE | BOXED | FULL_DUPLEX) == WRITABLE
    }

    #[inline]
    pub(crate) fn bite(&self) -> usize {
        usize::from(self.bite) * BITE_MIN
    }

    /// A callback took this many nanoseconds of a slice of `slice` for `came` new bytes, and consumed this many. Adapts
    /// the next read so that it can be handled in a slice. Then a handler that consumes everything does not delay other
    /// connections.
    pub(crate) fn learn(&mut self, came: usize, consumed: usize, stopped: bool, took: u64, slice: u64) {
        let micros = u16::try_from(took / 1_000).unwrap_or(u16::MAX);
        if stopped {
            // It was interrupted: twice the consumed bytes are enough.
            let enough = (2 * consumed).div_ceil(BITE_MIN).max(1);
            self.bite = self.bite.min(u16::try_from(enough).unwrap_or(u16::MAX));
        } else if took > slice && consumed > 0 {
            // If the time does not depend on the bytes, fewer bytes do not shorten it.
            let before = self.extra.as_ref().map_or(0, |extra| extra.took);
            let helps = before == 0 || micros < before / 4 * 3;
            if helps && self.bite > 1 {
                self.bite /= 2;
                self.extra.get_or_insert_default().took = micros;
            } else if !helps {
                self.read_more();
            }
        } else if came >= self.bite() && 2 * took <= slice {
            self.read_more();
        }
    }

    fn read_more(&mut self) {
        self.bite = self.bite.saturating_mul(2);
        self.extra.iter_mut().for_each(|extra| extra.took = 0);
    }

    #[inline]
    pub(super) fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    #[inline]
    pub(super) fn put(&mut self, flag: u8, on: bool) {
        if on { self.flags |= flag } else { self.flags &= !flag }
    }

    #[inline]
    pub(crate) fn is_boxed(&self) -> bool {
        self.has(BOXED)
    }

    pub(crate) fn set_boxed(&mut self) {
        self.flags |= BOXED;
    }

    pub(crate) fn is_outbound(&self) -> bool {
        self.has(OUTBOUND)
    }

    /// The client for which the connection counts, if it is no session. An outbound connection has none.
    #[inline]
    pub(crate) fn counted_client(&self) -> Option<&Address> {
        (!self.is_outbound()).then_some(&self.address)
    }

    #[inline]
    pub(crate) fn is_datagram(&self) -> bool {
        self.phase.inbound() == Inbound::Datagrams
    }

    /// Returns whether it is a session without a socket of its own.
    #[inline]
    pub(crate) fn is_inbound_datagram(&self) -> bool {
        self.is_datagram() && !self.is_outbound()
    }

    /// The value of a time limit for this connection.
    #[inline]
    pub(crate) fn time_limit(&self, which: Timeout, limits: &Limits) -> Option<Duration> {
        let extra = self.extra.as_deref();
        match which {
            Timeout::Idle => extra.and_then(|extra| extra.idle_timeout).unwrap_or(limits.idle_timeout),
            Timeout::Read => extra.and_then(|extra| extra.read_timeout).unwrap_or(limits.read_timeout),
            Timeout::Write => extra.and_then(|extra| extra.write_timeout).unwrap_or(limits.write_timeout),
            Timeout::Message => extra.and_then(|extra| extra.message).map(|(_, within)| within),
        }
    }

    /// Its own limits, if it has any.
    #[inline]
    pub(crate) fn own_bounds(&self) -> Option<Bounds> {
        self.extra.as_deref().and_then(|extra| extra.own)
    }

    pub(crate) fn set_own_bounds(&mut self, own: Option<Bounds>) {
        self.extra.get_or_insert_default().own = own;
    }

    /// How many bytes it may hold.
    pub(crate) fn bounds(&self, limits: &Limits) -> Bounds {
        self.own_bounds().unwrap_or_else(|| Bounds::of(limits))
    }

    /// A message that may take this long begins now, or none is running.
    pub(crate) fn set_message_deadline(&mut self, now: u64, within: Option<Duration>) {
        self.extra.get_or_insert_default().message = within.map(|within| (now, within));
        self.phase.unwatched(); // The next deadline is computed again.
    }

    /// When the current message with a deadline began.
    #[inline]
    pub(super) fn message_since(&self) -> Option<u64> {
        self.extra.as_deref().and_then(|extra| extra.message).map(|(since, _)| since)
    }

    /// The handler continues although a message is late: its time starts again.
    pub(super) fn forgive_message(&mut self, now: u64) {
        self.extra.iter_mut().flat_map(|extra| &mut extra.message).for_each(|(since, _)| *since = now);
    }

    /// Ends the connection, after a flush or immediately. The first reason counts, unless a normal end fails.
    pub(crate) fn end(&mut self, why: EndReason, at_once: bool) {
        if self.phase.end(at_once) {
            self.why = why;
        }
    }

    /// Ends a single datagram, unless it has ended already. Returns whether it ends in the usual way: nothing has happened
    /// to it, and `finish` is owed.
    #[inline(always)]
    pub(crate) fn end_single(&mut self) -> bool {
        let is_usual = self.phase.end_single();
        if !is_usual {
            self.end(EndReason::Done, false);
        }
        is_usual
    }

    /// Does what a callback wants next. `reason`: why the connection ends then.
    #[inline]
    pub(crate) fn go_on(&mut self, next: Next, reason: EndReason) {
        match next {
            Next::Wait => {}
            Next::Close => self.end(reason, false),
            Next::Abort => self.end(reason, true),
        }
    }

    /// Ends a connection that was lost during a callback, whose error only repeats that. Returns whether it was lost.
    pub(crate) fn end_if_lost(&mut self) -> bool {
        if self.phase.is_broken() {
            self.end(EndReason::Reset, false);
        }
        self.phase.is_broken() || self.phase.is_aborting()
    }

    /// A file that was to be sent could not be read. The peer must not take what it has got for the whole.
    #[cold]
    pub(super) fn file_failed(&mut self, kind: std::io::ErrorKind) {
        self.extra.get_or_insert_default().file_fault = Some(kind);
        self.end(EndReason::Error, true);
    }

    #[inline]
    pub(super) fn take_file_fault(&mut self) -> Option<std::io::ErrorKind> {
        self.extra.as_deref_mut().and_then(|extra| extra.file_fault.take())
    }

    /// The reason of its end.
    pub(crate) fn why(&self) -> EndReason {
        self.why
    }

    /// Starts lingering for this many bytes.
    pub(super) fn linger(&mut self, most: usize, now: u64) {
        self.phase.linger();
        self.activity = now;
        self.extra.get_or_insert_default().linger_left = most;
    }

    /// How many bytes may still be discarded.
    pub(super) fn linger_left(&mut self) -> &mut usize {
        &mut self.extra.get_or_insert_default().linger_left
    }

    /// The linger is over.
    pub(crate) fn lingered(&mut self) {
        *self.linger_left() = 0;
    }

    /// The connection is not read for now: a handler has paused it, or the peer does not take its output, or half of
    /// the grace of a stop is over and `drain` waits only for jobs, of which more input could start others.
    #[inline]
    pub(super) fn is_read_paused(&self) -> bool {
        let phase = &self.phase;
        phase.is_paused() || phase.is_full() && !self.is_full_duplex() || phase.drain() == Drain::Due
    }

    pub(crate) fn set_full_duplex(&mut self, on: bool) {
        self.put(FULL_DUPLEX, on);
    }

    /// Returns whether unsent output stops reading.
    #[inline]
    pub(crate) fn is_full_duplex(&self) -> bool {
        self.has(FULL_DUPLEX)
    }

    /// An answer was written that must be sent as one datagram.
    #[inline]
    pub(crate) fn replied(&mut self, now: u64) {
        self.activity = now;
        self.flags |= REPLY;
    }

    /// Returns whether an answer was written that must be sent as one datagram.
    pub(crate) fn has_replied(&self) -> bool {
        self.has(REPLY)
    }

    /// Like [`has_replied`](Self::has_replied), but returns true once for each answer.
    pub(crate) fn take_reply(&mut self) -> bool {
        let replied = self.has_replied();
        self.flags &= !REPLY;
        replied
    }

    /// The server is stopping: `drain` is called when the connection is quiet.
    pub(crate) fn drain(&mut self, now: u64, quiet: u64) {
        self.phase.ask_to_drain(now.saturating_sub(self.activity) >= quiet && !self.has_jobs());
    }

    /// Returns whether its handler waits for the result of a job.
    pub(crate) fn has_jobs(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.jobs > 0)
    }

    /// A job was accepted. The connection is not quiet before its result is handled.
    pub(crate) fn add_job(&mut self) {
        self.extra.get_or_insert_default().jobs += 1;
        self.phase.stir();
    }

    /// The result of a job is about to be delivered.
    pub(crate) fn end_job(&mut self) {
        self.extra.iter_mut().for_each(|extra| extra.jobs -= 1);
    }
}

/// The socket may have input; it may take output. Cleared by an attempt that finds the opposite.
pub(super) const READABLE: u8 = Readiness::READABLE;
pub(super) const WRITABLE: u8 = Readiness::WRITABLE;
/// A short read does not mean drained.
pub(super) const READ_TO_END: u8 = Readiness::READ_TO_END;
pub(super) const HUNG_UP: u8 = Readiness::HUNG_UP;
/// It is an outbound connection.
pub(super) const OUTBOUND: u8 = 1 << 4;
/// The handler is boxed.
pub(super) const BOXED: u8 = 1 << 5;
/// Read even while the output is above the high-water mark.
pub(super) const FULL_DUPLEX: u8 = 1 << 6;
/// The handler wrote an answer, which must be sent as one datagram.
pub(super) const REPLY: u8 = 1 << 7;

/// The smallest size of a read, and the size of a connection's first: small enough for a handler that needs long for
/// each byte.
const BITE_MIN: usize = 64;
const BITE_FIRST: usize = 16 * 1024;
