//! Where a connection stands: its phase, the reason of its end, readiness and stamps. Its own callback changes these, and
//! so does what has only the id of a connection; the other files of this folder act on them.

use std::time::Duration;

use super::axes::{Drain, Inbound};
use super::bounds::Bounds;
use super::phase::Phase;
use crate::address::Address;
use crate::error::Passed;
use crate::lifecycle::{EndReason, Timeout};
use crate::limits::Limits;
use crate::net::readiness::Readiness;
use crate::timers::{Armed, TimerKey};

/// Where the connection stands.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) address: Address,
    pub(crate) phase: Phase,
    /// Readiness, and what does not change how a connection moves on: see the constants below.
    pub(super) flags: u8,
    pub(super) why: EndReason,
    /// How much one read brings, at most: so many times [`BITE_MIN`] bytes.
    bite: u16,
    /// Which handler of the server, as long as it is there.
    pub(crate) handler: u32,
    /// When bytes last moved in either direction. Also when connecting or lingering began.
    pub(crate) activity: u64,
    pub(crate) extra: Option<Box<Extra>>,
}

/// What most connections never need.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    /// The handler's timers by tag.
    pub(crate) timers: std::collections::BTreeMap<u64, Armed>,
    /// Timeouts that differ from the server's.
    pub(crate) idle_timeout: Option<Option<Duration>>,
    pub(crate) read_timeout: Option<Option<Duration>>,
    pub(crate) write_timeout: Option<Option<Duration>>,
    /// Limits of its own.
    own: Option<Bounds>,
    /// When the message began that is under way, and how long it may take.
    message: Option<(u64, Duration)>,
    /// The limit that the error named with which a callback failed; kept only if it is going to be logged.
    pub(crate) passed: Option<Passed>,
    /// An outbound connection is tried again then.
    pub(crate) redial: Option<TimerKey>,
    /// Offloaded jobs whose results have not been delivered.
    jobs: u32,
    /// How many microseconds a callback took before less was read, if that is to be held against the next.
    took: u16,
    /// How many bytes may still be discarded while lingering.
    linger_left: usize,
}

impl State {
    pub(super) fn new(address: Address, phase: Phase, flags: u8, handler: u32, now: u64) -> Self {
        let bite = (BITE_FIRST / BITE_MIN) as u16;
        State { address, phase, flags, why: EndReason::Done, bite, handler, activity: now, extra: None }
    }

    #[inline]
    pub(crate) fn bite(&self) -> usize {
        usize::from(self.bite) * BITE_MIN
    }

    /// A callback took so many nanoseconds, of a slice of `slice`, for `came` new bytes, and consumed so many. The next
    /// read is to bring what can be handled in a slice, so that a handler that takes all there is does not make the others
    /// wait either.
    pub(crate) fn learn(&mut self, came: usize, consumed: usize, stopped: bool, took: u64, slice: u64) {
        let micros = u16::try_from(took / 1_000).unwrap_or(u16::MAX);
        if stopped {
            // It would have gone on: twice what it got through is enough.
            let enough = (2 * consumed).div_ceil(BITE_MIN).max(1);
            self.bite = self.bite.min(u16::try_from(enough).unwrap_or(u16::MAX));
        } else if took > slice && consumed > 0 {
            // Time that is not in the bytes does not get shorter with them.
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

    #[inline]
    pub(crate) fn is_datagram(&self) -> bool {
        self.phase.inbound() == Inbound::Datagrams
    }

    /// How long a time limit is for this connection.
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

    /// Limits of its own, if it has any.
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

    /// A message begins now that may take so long, or none is under way.
    pub(crate) fn set_message_deadline(&mut self, now: u64, within: Option<Duration>) {
        self.extra.get_or_insert_default().message = within.map(|within| (now, within));
        self.phase.unwatched(); // The next deadline is worked out anew.
    }

    /// When the message began that is under way and has a deadline.
    #[inline]
    pub(super) fn message_since(&self) -> Option<u64> {
        self.extra.as_deref().and_then(|extra| extra.message).map(|(since, _)| since)
    }

    /// The handler forgives that a message is late: its time starts anew.
    pub(super) fn forgive_message(&mut self, now: u64) {
        self.extra.iter_mut().flat_map(|extra| &mut extra.message).for_each(|(since, _)| *since = now);
    }

    /// Ends the connection: after a flush, or at once. The first reason counts, unless what was a quiet end fails on
    /// the way.
    pub(crate) fn end(&mut self, why: EndReason, at_once: bool) {
        if self.phase.end(at_once) {
            self.why = why;
        }
    }

    /// Ends a connection that was lost during a callback, whose error then only repeats that. Returns whether it was.
    pub(crate) fn end_if_lost(&mut self) -> bool {
        if self.phase.is_broken() {
            self.end(EndReason::Reset, false);
        }
        self.phase.is_broken() || self.phase.is_aborting()
    }

    /// Why it ends.
    pub(crate) fn why(&self) -> EndReason {
        self.why
    }

    /// Lingers for so many bytes.
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

    /// Not read for now: at a handler's wish, or because the peer does not take what it was sent, or because half of the
    /// grace of a stop is over and the handler is told as soon as its jobs are answered: more input could begin others.
    #[inline]
    pub(super) fn is_read_paused(&self) -> bool {
        let phase = &self.phase;
        phase.is_paused() || phase.is_full() && !self.is_full_duplex() || phase.drain() == Drain::Due
    }

    pub(crate) fn set_full_duplex(&mut self, on: bool) {
        self.put(FULL_DUPLEX, on);
    }

    /// Whether unsent output holds up what is to be read.
    #[inline]
    pub(crate) fn is_full_duplex(&self) -> bool {
        self.has(FULL_DUPLEX)
    }

    /// Whether an answer was written that is to leave as one datagram. Asked once.
    pub(crate) fn take_reply(&mut self) -> bool {
        let replied = self.has(REPLY);
        self.flags &= !REPLY;
        replied
    }

    /// The server is stopping: the handler is told once the connection is quiet.
    pub(crate) fn drain(&mut self, now: u64, quiet: u64) {
        self.phase.ask_to_drain(now.saturating_sub(self.activity) >= quiet && !self.has_jobs());
    }

    /// Its handler waits for the result of a job.
    pub(crate) fn has_jobs(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.jobs > 0)
    }

    /// A job was taken on. The connection is quiet no earlier than after its answer.
    pub(crate) fn add_job(&mut self) {
        self.extra.get_or_insert_default().jobs += 1;
        self.phase.stir();
    }

    /// The result of a job is about to be delivered.
    pub(crate) fn end_job(&mut self) {
        self.extra.iter_mut().for_each(|extra| extra.jobs -= 1);
    }
}

/// The socket may have input, as far as we know; it may take output. Cleared by the attempt that finds otherwise.
pub(super) const READABLE: u8 = Readiness::READABLE;
pub(super) const WRITABLE: u8 = Readiness::WRITABLE;
/// A short read does not mean drained.
pub(super) const READ_TO_END: u8 = Readiness::READ_TO_END;
pub(super) const HUNG_UP: u8 = Readiness::HUNG_UP;
/// We called the peer.
pub(super) const OUTBOUND: u8 = 1 << 4;
/// The handler is one of the boxed ones.
pub(super) const BOXED: u8 = 1 << 5;
/// Read even while the output is above the high-water mark.
pub(super) const FULL_DUPLEX: u8 = 1 << 6;
/// The handler wrote an answer, which is to leave as one datagram.
pub(super) const REPLY: u8 = 1 << 7;

/// The least that one read asks for, and what the first of a connection does: little enough for a handler that takes
/// its time for each byte.
const BITE_MIN: usize = 64;
const BITE_FIRST: usize = 16 * 1024;
