//! Where a connection stands: flags, the reason of its end, and stamps. Its own callback changes these, and so does what
//! has only the id of a connection; the other files of this folder act on them.

use std::time::Duration;

use crate::address::Address;
use crate::error::Passed;
use crate::lifecycle::{Finish, Timeout};
use crate::limits::Limits;
use crate::net::readiness::Readiness;
use crate::timers::{Armed, TimerKey};

/// Where the connection stands.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) address: Address,
    pub(super) flags: u32,
    /// Which handler of the server; once that is gone, how many bytes may still be discarded while lingering.
    pub(crate) handler: u32,
    pub(super) why: Finish,
    /// When bytes last moved in either direction. Also when connecting or lingering began.
    pub(crate) activity: u64,
    pub(crate) extra: Option<Box<Extra>>,
    /// How much one read brings, at most: so many times [`BITE_MIN`] bytes.
    bite: u16,
    /// How many microseconds a callback took before less was read, if that is to be held against the next.
    took: u16,
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
    /// The limit that the error named with which a callback failed; kept only if it is going to be logged.
    pub(crate) passed: Option<Passed>,
    /// An outbound connection is tried again then.
    pub(crate) redial: Option<TimerKey>,
    /// Offloaded jobs whose results have not been delivered.
    jobs: u32,
}

impl State {
    pub(super) fn new(address: Address, flags: u32, handler: u32, now: u64) -> Self {
        let bite = (BITE_FIRST / BITE_MIN) as u16;
        State { address, flags, handler, why: Finish::Done, activity: now, extra: None, bite, took: 0 }
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
            let helps = self.took == 0 || micros < self.took / 4 * 3;
            if helps && self.bite > 1 {
                (self.bite, self.took) = (self.bite / 2, micros);
            } else if !helps {
                (self.bite, self.took) = (self.bite.saturating_mul(2), 0);
            }
        } else if came >= self.bite() && 2 * took <= slice {
            (self.bite, self.took) = (self.bite.saturating_mul(2), 0);
        }
    }

    #[inline]
    pub(super) fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    #[inline]
    pub(super) fn put(&mut self, flag: u32, on: bool) {
        if on { self.flags |= flag } else { self.flags &= !flag }
    }

    /// Takes a flag off and returns whether it was there.
    pub(super) fn take(&mut self, flag: u32) -> bool {
        let was = self.has(flag);
        self.flags &= !flag;
        was
    }

    pub(crate) fn is_boxed(&self) -> bool {
        self.has(BOXED)
    }

    /// Takes no more output from its own handler or another.
    pub(crate) fn is_ending(&self) -> bool {
        self.has(ENDING | SHUT_DUE | SHUT | BROKEN)
    }

    pub(crate) fn set_boxed(&mut self) {
        self.flags |= BOXED;
    }

    pub(crate) fn set_setup_due(&mut self) {
        self.flags |= SETUP_DUE;
    }

    /// To be reset: nothing is to be sent any more.
    pub(crate) fn is_aborting(&self) -> bool {
        self.has(ABORTING)
    }

    /// The handler has had its `finish`, or was not owed one, and is gone.
    pub(crate) fn is_finished(&self) -> bool {
        self.has(FINISHED)
    }

    /// It lingers, and that has come to its limit.
    pub(crate) fn has_lingered(&self) -> bool {
        self.has(LINGERING) && !self.has(ABORTING | EOF) && self.handler == 0
    }

    /// How long a time limit is for this connection.
    #[inline]
    pub(crate) fn time_limit(&self, which: Timeout, limits: &Limits) -> Option<Duration> {
        let extra = self.extra.as_deref();
        match which {
            Timeout::Idle => extra.and_then(|extra| extra.idle_timeout).unwrap_or(limits.idle_timeout),
            Timeout::Read => extra.and_then(|extra| extra.read_timeout).unwrap_or(limits.read_timeout),
            Timeout::Write => extra.and_then(|extra| extra.write_timeout).unwrap_or(limits.write_timeout),
            Timeout::Connect => limits.connect_timeout,
            Timeout::Child => limits.child_timeout,
        }
    }

    /// Why it ends.
    pub(crate) fn why(&self) -> Finish {
        self.why
    }

    pub(crate) fn is_connecting(&self) -> bool {
        self.has(CONNECTING)
    }

    pub(crate) fn is_outbound(&self) -> bool {
        self.has(OUTBOUND)
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.has(DEAD)
    }

    /// On the way out: no handler takes over any more.
    pub(crate) fn is_closing(&self) -> bool {
        self.has(ENDING)
    }

    /// `setup` is due, of a fresh handler or of one that takes over.
    pub(crate) fn is_setup_due(&self) -> bool {
        self.has(SETUP_DUE) && !self.has(CONNECTING)
    }

    /// Returns whether `setup` is due. If so, it is called now, and not due any more.
    pub(crate) fn take_setup_due(&mut self) -> bool {
        self.is_setup_due() && self.take(SETUP_DUE)
    }

    /// The handler may be called: `setup` succeeded and the end has not come.
    pub(crate) fn is_open(&self) -> bool {
        self.has(OPEN) && !self.has(SETUP_DUE | ENDING)
    }

    /// `setup` succeeded, and `finish` has not been called.
    pub(crate) fn owes_finish(&self) -> bool {
        self.has(OPEN) && !self.has(FINISHED)
    }

    /// Ends a connection that was lost during a callback, whose error then only repeats that. Returns whether it was.
    pub(crate) fn end_if_lost(&mut self) -> bool {
        if self.has(BROKEN) {
            self.end(Finish::Reset, false);
        }
        self.has(BROKEN | ABORTING)
    }

    /// Ends the connection: after a flush, or at once. The first reason counts, unless what was a quiet end fails on
    /// the way.
    pub(crate) fn end(&mut self, why: Finish, mut at_once: bool) {
        // Not established: there is nothing to flush to.
        at_once |= self.take(CONNECTING);
        if self.has(FINISHED) {
            // No handler is left to tell. An abort still cuts a flush or a linger short.
            self.put(ABORTING, at_once || self.has(ABORTING));
            return;
        }
        if !self.has(ENDING) || (at_once && !self.has(ABORTING)) {
            self.why = why;
        }
        self.flags |= ENDING | if at_once { ABORTING } else { 0 };
    }

    /// Not read for now: at a handler's wish, or because the peer does not take what it was sent.
    #[inline]
    pub(super) fn is_read_paused(&self) -> bool {
        self.has(PAUSED) || self.flags & (FULL | FULL_DUPLEX) == FULL || self.is_told_after_jobs()
    }

    /// Half of the grace is over, and the handler is told as soon as its jobs are answered: no more input until then, which
    /// could begin others.
    fn is_told_after_jobs(&self) -> bool {
        self.flags & (DRAIN_DUE | DRAIN_TOLD) == DRAIN_DUE
    }

    /// Its handler waits for the result of a job.
    pub(crate) fn has_jobs(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.jobs > 0)
    }

    /// A job was taken on. The connection is quiet no earlier than after its answer.
    pub(crate) fn add_job(&mut self) {
        self.extra.get_or_insert_default().jobs += 1;
        self.flags &= !DRAIN_QUIET;
    }

    /// The result of a job is about to be delivered.
    pub(crate) fn end_job(&mut self) {
        self.extra.iter_mut().for_each(|extra| extra.jobs -= 1);
    }

    pub(crate) fn set_full_duplex(&mut self, on: bool) {
        self.put(FULL_DUPLEX, on);
    }

    /// Whether unsent output holds up what is to be read.
    #[inline]
    pub(crate) fn is_full_duplex(&self) -> bool {
        self.has(FULL_DUPLEX)
    }

    /// There is input that waits for nothing but room in the output, or time.
    pub(crate) fn set_handle_due(&mut self) {
        self.flags |= HANDLE_DUE;
    }

    /// Something else has stopped to write to it for now.
    pub(crate) fn owe_writable(&mut self) {
        self.flags |= FULL;
    }

    pub(crate) fn pause_reading(&mut self) {
        self.flags |= PAUSED;
    }

    /// What was left unread is handed to the handler again. Returns whether reading was paused.
    pub(crate) fn resume_reading(&mut self) -> bool {
        let resumed = self.take(PAUSED);
        self.put(HANDLE_DUE, resumed || self.has(HANDLE_DUE));
        resumed
    }

    pub(crate) fn shutdown_write(&mut self) {
        if !self.has(DATAGRAM) {
            self.flags |= SHUT_DUE;
        }
    }

    pub(crate) fn is_datagram(&self) -> bool {
        self.has(DATAGRAM)
    }

    /// Whether an answer was written that is to leave as one datagram. Asked once.
    pub(crate) fn take_reply(&mut self) -> bool {
        self.take(REPLY)
    }

    /// The server is stopping: the handler is told once the connection is quiet.
    pub(crate) fn drain(&mut self, now: u64, quiet: u64) {
        let is_quiet = now.saturating_sub(self.activity) >= quiet && !self.has_jobs();
        self.flags |= DRAINING | if is_quiet { DRAIN_QUIET } else { 0 };
    }

    /// Whether its handler is told, or will be, that the server is stopping.
    pub(crate) fn is_draining(&self) -> bool {
        self.has(DRAINING)
    }

    /// Busy or not, the handler is told now; after the jobs that are under way.
    pub(crate) fn drain_now(&mut self) {
        self.flags |= DRAINING | DRAIN_DUE;
    }

    /// Enough time has passed since the last byte.
    pub(crate) fn on_quiet(&mut self) {
        self.flags |= DRAIN_QUIET;
    }

    /// The linger is over.
    pub(crate) fn lingered(&mut self) {
        self.handler = 0;
    }

    /// Our FIN is sent.
    pub(crate) fn set_shut(&mut self) {
        self.flags |= SHUT;
    }

    pub(crate) fn is_registered(&self) -> bool {
        !self.has(UNREGISTERED)
    }

    /// Whether the selector has to be told of it before it waits.
    pub(crate) fn must_register(&self) -> bool {
        self.flags & (UNREGISTERED | DEAD) == UNREGISTERED
    }

    pub(crate) fn set_registered(&mut self) {
        self.flags &= !UNREGISTERED;
    }

    /// A timer is armed, or is not any more.
    pub(crate) fn set_watched(&mut self, watched: bool) {
        self.put(WATCHED, watched);
    }
}

/// The socket may have input, as far as we know; it may take output. Cleared by the attempt that finds otherwise.
pub(super) const READABLE: u32 = Readiness::READABLE;
pub(super) const WRITABLE: u32 = Readiness::WRITABLE;
/// A short read does not mean drained.
pub(super) const READ_TO_END: u32 = Readiness::READ_TO_END;
pub(super) const HUNG_UP: u32 = Readiness::HUNG_UP;
/// An outbound connection that is not established.
pub(super) const CONNECTING: u32 = 1 << 4;
/// `setup` is due: a fresh connection, or a replaced handler.
pub(super) const SETUP_DUE: u32 = 1 << 5;
/// `setup` succeeded: `finish` is owed.
pub(super) const OPEN: u32 = 1 << 6;
/// The peer ended its direction; the rest of the input was handled; `eof` was called.
pub(super) const EOF: u32 = 1 << 7;
pub(super) const EOF_HANDLED: u32 = 1 << 8;
pub(super) const EOF_TOLD: u32 = 1 << 9;
/// Reading is paused by a handler.
pub(super) const PAUSED: u32 = 1 << 10;
/// Output went above the high-water mark and has not yet fallen to the low one.
pub(super) const FULL: u32 = 1 << 11;
/// `handle` is due although nothing arrived: reading was resumed, or the handler replaced, over unread input.
pub(super) const HANDLE_DUE: u32 = 1 << 12;
/// Our direction ends once the output is sent; has ended.
pub(super) const SHUT_DUE: u32 = 1 << 13;
pub(super) const SHUT: u32 = 1 << 14;
/// The socket takes no more output, ever.
pub(super) const BROKEN: u32 = 1 << 15;
/// On the way out, for the reason in `why`: after a flush, or at once.
pub(super) const ENDING: u32 = 1 << 16;
pub(super) const ABORTING: u32 = 1 << 17;
/// `finish` was called, or is not owed. The handler is gone.
pub(super) const FINISHED: u32 = 1 << 18;
/// FIN is sent, what still comes is discarded.
pub(super) const LINGERING: u32 = 1 << 19;
pub(super) const DEAD: u32 = 1 << 20;
/// The server is stopping: tell the handler when quiet; now; it is told.
pub(super) const DRAINING: u32 = 1 << 21;
pub(super) const DRAIN_DUE: u32 = 1 << 22;
pub(super) const DRAIN_TOLD: u32 = 1 << 23;
/// The handler is one of the boxed ones.
pub(super) const BOXED: u32 = 1 << 24;
/// Nothing moved for a while, by the timer's word.
pub(super) const DRAIN_QUIET: u32 = 1 << 25;
/// We called the peer.
pub(super) const OUTBOUND: u32 = 1 << 26;
/// A timer watches over the limits of this connection.
pub(super) const WATCHED: u32 = 1 << 27;

/// Read even while the output is above the high-water mark.
pub(super) const FULL_DUPLEX: u32 = 1 << 28;
/// A session of a datagram server: no stream, no end of it.
pub(super) const DATAGRAM: u32 = 1 << 29;
/// The handler wrote an answer, which is to leave as one datagram.
pub(super) const REPLY: u32 = 1 << 30;

/// The selector does not know it yet, because it has never come to rest: nothing would wake it.
pub(super) const UNREGISTERED: u32 = 1 << 31;

/// The least that one read asks for, and what the first of a connection does: little enough for a handler that takes
/// its time for each byte.
const BITE_MIN: usize = 64;
const BITE_FIRST: usize = 16 * 1024;

/// If none of these is set and no output waits, a connection only reads, handles and writes. Whatever is finished,
/// lingering or dead is ending.
pub(super) const UNUSUAL: u32 =
    CONNECTING | SETUP_DUE | SHUT_DUE | BROKEN | ENDING | DRAINING | FULL | PAUSED | HANDLE_DUE | UNREGISTERED;
