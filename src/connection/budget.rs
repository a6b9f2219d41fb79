//! How much a connection may do before the others get their turn: bytes, callbacks, and a slice of the turn's time.

use std::cell::Cell;
use std::sync::Arc;

use super::bounds::Bounds;
use crate::limits::Limits;
use crate::net::clock::Clock;

/// One connection's budget in this turn, what it has used of it, and the bounds of its running callback.
#[derive(Debug)]
pub(crate) struct Budget {
    /// The limits of the connection's server.
    pub(crate) limits: Arc<Limits>,
    /// The time of the service: what moves in it is stamped with this.
    pub(crate) now: u64,
    /// Bytes that were read, and that were sent from its callbacks or its queue, and the number of its callbacks.
    pub(crate) read: usize,
    pub(crate) written: usize,
    pub(crate) callbacks: usize,
    /// Bytes that may be read, and sent.
    read_max: usize,
    write_max: usize,
    /// Bytes that the last read appended to unread input.
    pub(crate) appended: usize,
    pub(crate) slice: Slice,
    pub(crate) turn: TurnTime,
    #[cfg(feature = "tls")]
    pub(crate) handshakes: Handshakes,
    /// How many bytes the connection with the running callback may hold, and whether that is a limit of its own.
    bounds: Cell<Bounds>,
    is_bound: Cell<bool>,
    /// How many bytes it may write without checking these bounds.
    gathers: Cell<usize>,
    /// Whether the output of the running callback is full, for its input to see.
    pub(crate) full: Cell<bool>,
}

/// How many handshakes of TLS all connections of the reactor have had in a turn.
#[cfg(feature = "tls")]
#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    pub(crate) max: usize,
    /// The turn to which the number belongs.
    turn: u64,
    had: usize,
}

#[cfg(feature = "tls")]
impl Handshakes {
    /// Returns whether there may be one more in this turn.
    pub(crate) fn admit(&mut self, turn: u64) -> bool {
        if self.turn != turn {
            (self.turn, self.had) = (turn, 0);
        }
        self.had < self.max.max(1)
    }

    pub(crate) fn count(&mut self) {
        self.had += 1;
    }
}

/// The rest of the time for all ready connections.
#[derive(Debug)]
pub(crate) struct TurnTime {
    clock: Clock,
    half: u64,
    ends: u64,
    /// How many connections must be served until then, including the current one.
    pub(crate) waiting: usize,
    /// A callback with at least this many new bytes is timed.
    pub(crate) timed_from: usize,
}

/// One connection's part of a turn. It begins when the clock is read first, and most connections are done before that:
/// their actions count as steps, and only some steps read the clock.
#[derive(Debug, Default)]
pub(crate) struct Slice {
    /// Zero before it has begun.
    ends: Cell<u64>,
    length: Cell<u64>,
    looked: Cell<u64>,
    /// Steps until the next reading of the clock, and between two readings.
    left: Cell<u32>,
    every: Cell<u32>,
}

impl Budget {
    pub(crate) fn new(clock: Clock) -> Self {
        let turn = TurnTime { clock, half: 0, ends: 0, waiting: 1, timed_from: 0 };
        let limits = Arc::<Limits>::default();
        let bounds = Bounds::of(&limits);
        Budget {
            read: 0,
            written: 0,
            callbacks: 0,
            read_max: limits.read_bytes_per_turn,
            write_max: limits.write_bytes_per_turn,
            appended: 0,
            slice: Slice::default(),
            turn,
            #[cfg(feature = "tls")]
            handshakes: Handshakes::default(),
            limits,
            now: 0,
            bounds: Cell::new(bounds),
            is_bound: Cell::new(false),
            gathers: Cell::new(bounds.gathers()),
            full: Cell::new(false),
        }
    }

    /// Creates a budget for use without a reactor. No time passes.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn of(limits: Limits) -> Self {
        let mut budget = Budget::new(Clock::Scripted(Arc::new(|| 1)));
        budget.begin(&Arc::new(limits), 1);
        budget
    }

    /// Sets how many handshakes of TLS there may be in a turn.
    pub(crate) fn set_handshakes(&mut self, max: usize) {
        #[cfg(feature = "tls")]
        (self.handshakes.max = max);
        let _ = max;
    }

    /// Prepares for serving connections of this server. Limits that change in the meantime apply to later connections.
    #[inline]
    pub(crate) fn begin(&mut self, limits: &Arc<Limits>, now: u64) {
        self.now = now;
        if !Arc::ptr_eq(&self.limits, limits) {
            self.limits = Arc::clone(limits);
            (self.read_max, self.write_max) = (limits.read_bytes_per_turn, limits.write_bytes_per_turn);
            self.bind(None);
        }
    }

    /// Starts the turn of another connection.
    #[inline]
    pub(crate) fn renew(&mut self) {
        (self.read, self.written, self.callbacks) = (0, 0, 0);
        self.slice.ends.set(0);
        self.slice.left.set(0);
    }

    /// The number of bytes that may still be read.
    #[inline]
    pub(crate) fn read_left(&self) -> usize {
        self.read_max.saturating_sub(self.read)
    }

    /// The number of bytes that may still be sent.
    #[inline]
    pub(crate) fn write_left(&self) -> usize {
        self.write_max.saturating_sub(self.written)
    }

    /// Returns whether the connection may have another callback in this turn.
    #[inline]
    pub(crate) fn admits_callback(&self) -> bool {
        self.callbacks < self.limits.callbacks_per_turn && !self.has_run_out()
    }

    /// Returns how many bytes the connection with the running callback may hold.
    #[inline]
    pub(crate) fn bounds(&self) -> Bounds {
        self.bounds.get()
    }

    /// Returns how many bytes the connection may write without checking these bounds, if nothing is queued.
    #[inline]
    pub(crate) fn gathers(&self) -> usize {
        self.gathers.get()
    }

    /// Returns whether the bounds are those of one connection, and not the server's.
    #[inline]
    pub(crate) fn is_bound(&self) -> bool {
        self.is_bound.get()
    }

    /// Sets the limits of the connection whose callback runs: its own, or `None` for those of the server, which apply
    /// between callbacks.
    #[inline(never)]
    pub(crate) fn bind(&self, own: Option<Bounds>) {
        let bounds = own.unwrap_or_else(|| Bounds::of(&self.limits));
        self.bounds.set(bounds);
        self.is_bound.set(own.is_some());
        self.gathers.set(bounds.gathers());
    }

    /// Counts a step. Returns whether the slice is over.
    #[inline]
    pub(crate) fn is_over(&self) -> bool {
        self.slice.is_over(&self.turn)
    }

    /// Like `is_over`, if the slice has begun.
    #[inline]
    pub(crate) fn has_run_out(&self) -> bool {
        self.slice.ends.get() != 0 && self.is_over()
    }

    /// Reads the clock.
    pub(crate) fn look(&self) -> u64 {
        self.slice.look(&self.turn);
        self.slice.looked.get()
    }

    /// Lets neither time nor bytes interrupt the next callback, because no later one could continue. Returns the normal
    /// limit of bytes.
    pub(crate) fn lift(&mut self) -> usize {
        self.slice.left.set(u32::MAX);
        std::mem::replace(&mut self.write_max, usize::MAX)
    }

    /// The next callback has its limits again.
    pub(crate) fn restore(&mut self, write_max: usize) {
        self.slice.left.set(0);
        self.write_max = write_max;
    }
}

impl TurnTime {
    pub(crate) fn begin(&mut self, now: u64, length: u64) {
        (self.half, self.ends) = (now.saturating_add(length / 2), now.saturating_add(length));
        self.waiting = 1;
    }

    /// Returns whether more than half of it has passed.
    pub(crate) fn is_long(&self, now: u64) -> bool {
        now > self.half
    }
}

impl Slice {
    /// The rest of the turn.
    pub(crate) fn rest_of(turn: &TurnTime, now: u64) -> Self {
        let slice = Slice::default();
        slice.ends.set(turn.ends);
        slice.looked.set(now);
        slice
    }

    #[inline]
    pub(crate) fn is_over(&self, turn: &TurnTime) -> bool {
        match self.left.get() {
            0 => self.look(turn),
            left => {
                self.left.set(left - 1);
                false
            }
        }
    }

    /// Short steps read the clock less often.
    #[cold]
    fn look(&self, turn: &TurnTime) -> bool {
        let now = turn.clock.now();
        let mut every = 0;
        if self.ends.get() == 0 {
            self.length.set((turn.ends.saturating_sub(now) / turn.waiting as u64).max(SLICE_MIN));
            self.ends.set(now.saturating_add(self.length.get()));
        } else if now.saturating_sub(self.looked.get()) < LOOK_NANOS {
            every = (4 * self.every.get() + 3).min(STEPS_MAX - 1);
        }
        let over = now >= self.ends.get();
        self.every.set(every);
        self.left.set(if over { 0 } else { every });
        self.looked.set(now);
        over
    }

    pub(crate) fn length(&self) -> u64 {
        self.length.get()
    }
}

/// The shortest slice, however many connections are ready. With less, a turn would only switch from one to the next.
const SLICE_MIN: u64 = 50_000;
/// The most messages between two readings of the clock, as long as they take no longer than this together.
const STEPS_MAX: u32 = 16;
const LOOK_NANOS: u64 = 16_000;
