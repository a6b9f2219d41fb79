//! The state of a connection on each [axis](super::axes), and all transitions. The fields are private, and each method
//! that changes one asserts its starting value.
//!
//! A connection only moves forward on an axis, with three exceptions: a replacement handler gets `setup` and the end of
//! the input like the first one, a quiet connection may become busy again, and a timer that has fired must be set
//! again. Besides the axes there are three bits, which come and go: reading is paused, output is full, `handle` is due.
//! [`Phase::check`] says which values can occur together.

mod check;
#[cfg(feature = "tls")]
mod secured;
mod single;

use super::axes::{Drain, Inbound, Outbound, Owed, Stage, Wake};

/// The state of a connection on each axis.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(crate) struct Phase {
    stage: Stage,
    owed: Owed,
    inbound: Inbound,
    outbound: Outbound,
    drain: Drain,
    wake: Wake,
    /// Reasons not to read, `PAUSED` and `FULL`, and what TLS requires: `HANDSHAKING`, `SECURED`.
    hold: u8,
    /// `handle` must be called although nothing arrived.
    handle_due: bool,
}

/// A handler has paused it.
const PAUSED: u8 = 1 << 0;
/// Output went above the high-water mark, and has not fallen to the low-water mark yet.
const FULL: u8 = 1 << 1;
/// The handshake of TLS must be completed first.
const HANDSHAKING: u8 = 1 << 2;
/// The stream is under TLS.
const SECURED: u8 = 1 << 3;
/// TLS was removed before the peer has ended its direction.
#[cfg(feature = "tls")]
const LAST_RECORD: u8 = 1 << 4;
/// The handshake has failed.
#[cfg(feature = "tls")]
const NO_SESSION: u8 = 1 << 5;

impl Phase {
    /// The connection only has to read, handle and write, and its timer needs no check: all values are 0.
    pub(crate) const PLAIN: Phase = Phase {
        stage: Stage::Open,
        owed: Owed::Finish,
        inbound: Inbound::Open,
        outbound: Outbound::Open,
        drain: Drain::No,
        wake: Wake::Set,
        hold: 0,
        handle_due: false,
    };

    pub(super) const ACCEPTED: Phase = Phase { owed: Owed::Setup, wake: Wake::Unregistered, ..Phase::PLAIN };
    pub(super) const CONNECTING: Phase =
        Phase { stage: Stage::Connecting, owed: Owed::Nothing, wake: Wake::Unwatched, ..Phase::PLAIN };
    /// For a session, or for a single datagram, whose `setup` is not waited for.
    pub(super) const DATAGRAMS: Phase =
        Phase { owed: Owed::Nothing, inbound: Inbound::Datagrams, wake: Wake::Unwatched, ..Phase::PLAIN };

    /// Like `PLAIN`, for a connection that has never rested.
    pub(crate) const FRESH: Phase = Phase { wake: Wake::Unregistered, ..Phase::PLAIN };
    /// Like `PLAIN`, for a session, which is not read but given its datagrams.
    const PLAIN_SESSION: Phase = Phase { inbound: Inbound::Datagrams, ..Phase::PLAIN };
    /// Like `PLAIN`, under TLS.
    const PLAIN_SECURED: Phase = Phase { hold: SECURED, ..Phase::PLAIN };

    /// Returns all axes in one word. It compiles to a single load.
    #[inline(always)]
    const fn word(self) -> u64 {
        let Phase { stage, owed, inbound, outbound, drain, wake, hold, handle_due } = self;
        let [stage, owed, drain, wake] = [stage as u8, owed as u8, drain as u8, wake as u8];
        u64::from_ne_bytes([stage, owed, inbound as u8, outbound as u8, drain, wake, hold, handle_due as u8])
    }

    /// Returns whether this is the other phase. It is one comparison, and made for every message.
    #[inline(always)]
    pub(super) fn is(&self, other: Phase) -> bool {
        self.word() == other.word()
    }

    /// See [`Phase::PLAIN`].
    #[inline(always)]
    pub(super) fn is_plain(&self) -> bool {
        self.is(Phase::PLAIN)
    }

    /// Returns whether output of a callback can be sent, to a stream without TLS.
    #[inline(always)]
    pub(super) fn is_clear(&self) -> bool {
        self.outbound == Outbound::Open
            && self.hold == 0
            && self.inbound != Inbound::Datagrams
            && self.stage != Stage::Aborting
    }

    /// Only input, or a datagram, makes anything due.
    #[inline(always)]
    pub(crate) fn is_settled(&self) -> bool {
        self.is_plain() || self.is(Phase::PLAIN_SESSION) || cfg!(feature = "tls") && self.is(Phase::PLAIN_SECURED)
    }

    #[inline]
    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    #[inline]
    pub(super) fn inbound(&self) -> Inbound {
        self.inbound
    }

    #[inline]
    pub(super) fn outbound(&self) -> Outbound {
        self.outbound
    }

    #[inline]
    pub(super) fn drain(&self) -> Drain {
        self.drain
    }

    #[inline]
    pub(crate) fn is_connecting(&self) -> bool {
        self.stage == Stage::Connecting
    }

    /// Returns whether room in the socket matters even if nothing is queued: an attempt to connect has a result, or TLS
    /// has a message of its own.
    #[inline]
    pub(super) fn awaits_room(&self) -> bool {
        self.is_connecting() || cfg!(feature = "tls") && self.is_secured()
    }

    #[inline]
    pub(crate) fn is_secured(&self) -> bool {
        self.hold & SECURED != 0
    }

    #[inline]
    pub(crate) fn is_handshaking(&self) -> bool {
        self.hold & HANDSHAKING != 0
    }

    /// The connection is ending: its handler can no longer be replaced.
    #[inline]
    pub(crate) fn is_ending(&self) -> bool {
        self.stage >= Stage::Closing
    }

    /// The connection is being aborted; pending output is dropped.
    pub(crate) fn is_aborting(&self) -> bool {
        self.stage == Stage::Aborting
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.stage == Stage::Dead
    }

    /// `setup` is due, for a new handler or a replacement.
    pub(crate) fn is_setup_due(&self) -> bool {
        self.owed == Owed::Setup
    }

    /// `setup` succeeded, and `finish` has not been called.
    pub(crate) fn owes_finish(&self) -> bool {
        self.owed == Owed::Finish
    }

    /// The handler has had its `finish`, or did not need one, and is gone.
    pub(crate) fn is_finished(&self) -> bool {
        self.owed == Owed::Gone
    }

    /// The handler may be called: `setup` succeeded and the end has not come.
    pub(crate) fn may_call(&self) -> bool {
        self.stage == Stage::Open && self.owed == Owed::Finish
    }

    /// Returns whether its own handler, or another, may queue output.
    pub(super) fn accepts_output(&self) -> bool {
        self.stage <= Stage::Connecting && self.outbound == Outbound::Open
    }

    pub(super) fn is_broken(&self) -> bool {
        self.outbound == Outbound::Broken
    }

    /// No more input follows the current one: the peer has ended its direction, or it is a datagram.
    #[cold]
    pub(super) fn has_input_ended(&self) -> bool {
        self.inbound != Inbound::Open && !self.is_broken()
    }

    /// Returns whether `drain` was called or will be.
    pub(crate) fn is_draining(&self) -> bool {
        self.drain != Drain::No
    }

    #[inline]
    pub(super) fn is_paused(&self) -> bool {
        self.hold & PAUSED != 0
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.hold & FULL != 0
    }

    pub(super) fn is_handle_due(&self) -> bool {
        self.handle_due
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.wake != Wake::Unregistered
    }

    /// Returns whether it must be registered with the selector before it waits.
    pub(crate) fn must_register(&self) -> bool {
        !self.is_registered() && !self.is_dead()
    }

    // The connection.

    /// An outbound connection is established. The timer for connecting may be later than the limits that now apply.
    pub(super) fn established(&mut self) {
        debug_assert_eq!(self.stage, Stage::Connecting);
        self.stage = Stage::Open;
        self.unwatched();
    }

    /// The connection must end, after a flush or immediately. A connection that is not established has nothing to
    /// flush. Returns whether this reason counts: it is the first one, or a normal end has failed and the handler has
    /// not had its `finish`.
    pub(super) fn end(&mut self, at_once: bool) -> bool {
        let is_open = self.stage != Stage::Connecting && !self.is_handshaking();
        let next = if at_once || !is_open { Stage::Aborting } else { Stage::Closing };
        let moves = self.stage < next;
        if moves {
            self.stage = next;
        }
        moves && self.owed != Owed::Gone
    }

    /// Everything is sent, and further input is discarded for a while.
    pub(super) fn linger(&mut self) {
        debug_assert_eq!((self.stage, self.owed), (Stage::Closing, Owed::Gone));
        self.stage = Stage::Lingering;
    }

    pub(super) fn die(&mut self) {
        debug_assert!(self.is_ending() && self.stage != Stage::Dead);
        debug_assert_eq!(self.owed, Owed::Gone);
        self.stage = Stage::Dead;
    }

    // The handler.

    /// A session has a slot, so its `setup` is waited for.
    pub(crate) fn owe_setup(&mut self) {
        debug_assert_eq!(self.owed, Owed::Nothing);
        self.owed = Owed::Setup;
    }

    /// Returns whether `setup` is due. If so, it counts as called.
    #[inline]
    pub(crate) fn begin_setup(&mut self) -> bool {
        let is_due = self.owed == Owed::Setup;
        if is_due {
            self.owed = Owed::Nothing;
        }
        is_due
    }

    /// `setup` returned without error.
    pub(super) fn set_up(&mut self) {
        debug_assert_eq!(self.owed, Owed::Nothing);
        debug_assert_ne!(self.stage, Stage::Connecting);
        self.owed = Owed::Finish;
    }

    /// The handler was replaced. The new one gets the end of the input like the first one.
    pub(super) fn replaced(&mut self) {
        debug_assert_eq!(self.stage, Stage::Open);
        debug_assert!(matches!(self.owed, Owed::Finish | Owed::Setup));
        self.owed = Owed::Setup;
        if matches!(self.inbound, Inbound::Shown | Inbound::Told) {
            self.inbound = Inbound::Ended;
        }
    }

    /// `finish` was called, or is not owed, and the handler was dropped. Its output is still sent.
    pub(crate) fn finished(&mut self) {
        debug_assert!(self.is_ending() && self.stage != Stage::Dead);
        debug_assert_ne!(self.owed, Owed::Gone);
        self.owed = Owed::Gone;
    }

    // The peer's direction.

    pub(super) fn input_ended(&mut self) {
        debug_assert_eq!(self.inbound, Inbound::Open);
        self.inbound = Inbound::Ended;
    }

    /// Returns whether the handler must be shown the unread input at the end. If so, this counts as done.
    pub(super) fn begin_tail(&mut self) -> bool {
        let is_due = self.inbound == Inbound::Ended;
        if is_due {
            self.inbound = Inbound::Shown;
        }
        is_due
    }

    /// Returns whether `eof` is due. If so, it counts as called.
    pub(super) fn begin_eof(&mut self) -> bool {
        let is_due = self.inbound == Inbound::Shown;
        if is_due {
            self.inbound = Inbound::Told;
        }
        is_due
    }

    // Our direction.

    /// Our direction ends after the queue. A session has none.
    pub(crate) fn shut_down(&mut self) {
        if self.outbound == Outbound::Open && self.inbound != Inbound::Datagrams {
            self.outbound = Outbound::ShutDue;
        }
    }

    /// Our FIN is sent.
    pub(crate) fn shut(&mut self) {
        debug_assert!(matches!(self.outbound, Outbound::Open | Outbound::ShutDue));
        self.outbound = Outbound::Shut;
    }

    /// The peer or the network broke it.
    pub(super) fn broke(&mut self) {
        debug_assert!(self.stage != Stage::Connecting && self.inbound != Inbound::Datagrams);
        self.outbound = Outbound::Broken;
    }

    // The server's stop.

    /// The server is stopping. `is_quiet`: nothing has moved for long enough.
    pub(super) fn ask_to_drain(&mut self, is_quiet: bool) {
        if self.drain == Drain::No {
            self.drain = Drain::Asked;
        }
        if is_quiet {
            self.quiet();
        }
    }

    /// Nothing has moved for long enough.
    pub(crate) fn quiet(&mut self) {
        if self.drain == Drain::Asked {
            self.drain = Drain::Quiet;
        }
    }

    /// Bytes have moved: the time starts again.
    pub(super) fn stir(&mut self) {
        if self.drain == Drain::Quiet {
            self.drain = Drain::Asked;
        }
    }

    /// `drain` is called now even if the connection is busy, after running jobs.
    pub(crate) fn drain_now(&mut self) {
        if !matches!(self.drain, Drain::Told | Drain::ToldBusy) {
            self.drain = Drain::Due;
        }
    }

    pub(super) fn drain_told(&mut self) {
        debug_assert!(matches!(self.drain, Drain::Quiet | Drain::Due));
        self.drain = if self.drain == Drain::Due { Drain::ToldBusy } else { Drain::Told };
    }

    // The events that wake it.

    /// It is registered with the selector.
    pub(crate) fn registered(&mut self) {
        debug_assert_eq!(self.wake, Wake::Unregistered);
        self.wake = Wake::Unwatched;
    }

    /// Its timer fires no later than the first of its limits, or it has none.
    pub(crate) fn watched(&mut self) {
        if self.is_registered() {
            self.wake = Wake::Set;
        }
    }

    /// Its timer must be checked, because it has fired or a limit has changed.
    pub(crate) fn unwatched(&mut self) {
        if self.is_registered() {
            self.wake = Wake::Unwatched;
        }
    }

    // Reasons not to read.

    /// A handler has paused reading.
    pub(crate) fn pause(&mut self) {
        self.hold |= PAUSED;
    }

    /// Reading resumes, and unread input is handled again. Returns whether reading was paused.
    pub(crate) fn resume(&mut self) -> bool {
        let resumed = self.is_paused();
        self.hold &= !PAUSED;
        self.handle_due |= resumed;
        resumed
    }

    /// Output is above the high-water mark, or a sender has stopped for now. A `writable` is owed.
    pub(crate) fn fill(&mut self) {
        self.hold |= FULL;
    }

    /// Output has fallen to the low-water mark: `writable` is called now.
    pub(super) fn relieve(&mut self) {
        debug_assert!(self.is_full());
        self.hold &= !FULL;
    }

    /// There is input that waits only for room in the output, or for time.
    pub(crate) fn owe_handle(&mut self) {
        self.handle_due = true;
    }

    /// Returns whether `handle` is due. If so, it counts as called.
    pub(super) fn begin_handle(&mut self) -> bool {
        std::mem::take(&mut self.handle_due)
    }
}
