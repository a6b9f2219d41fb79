//! What slots and timers hold.

use std::time::Duration;

use crate::address::Address;
use crate::backoff::Backoff;
use crate::lifecycle::EndReason;
use crate::net::Listener;
use crate::timers::{NO_TIMER, TimerKey};

/// A listener and how accepting from it goes.
pub(crate) struct Listening {
    /// On loan while a hook accepts from it.
    pub(crate) listener: Option<Box<Listener>>,
    /// Clients may wait, as far as we know.
    pub(crate) ready: bool,
    /// Accepting is paused, because accept(2) failed.
    pub(crate) pause: Pause,
    /// How often in a row accept(2) has said EINVAL.
    pub(crate) invalid: u32,
    /// [`Stats::accepted`](crate::Stats) when it last accepted a client.
    pub(crate) accepted: u64,
}

/// A pause after a system call failed for want of something: nothing but time mends that, and no event tells.
#[derive(Debug)]
pub(crate) struct Pause {
    /// It ends with this timer.
    pub(crate) timer: TimerKey,
    pub(crate) backoff: Backoff,
    /// When the call last failed so, and how often since that was last logged.
    pub(crate) failed_at: u64,
    pub(crate) unlogged: u32,
}

impl Pause {
    pub(crate) fn none() -> Self {
        Pause { timer: NO_TIMER, backoff: Backoff::default(), failed_at: 0, unlogged: 0 }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.timer != NO_TIMER
    }
}

/// A request that is served elsewhere, by a thread or a program.
pub(crate) struct Elsewhere {
    pub(crate) address: Address,
    /// It came while the reactor was stopping.
    pub(super) late: bool,
    pub(super) stop: Box<dyn Stopper>,
    /// The server is stopping, and its input is at its end.
    pub(super) is_told: bool,
    /// A program's: when it was given the request, and what ends it if it takes too long.
    pub(super) begun: Option<u64>,
    pub(super) timer: TimerKey,
    /// Why it was ended by us, if it was.
    pub(crate) ended: Option<EndReason>,
}

/// What ends a request that is served elsewhere: before it begins, while it is served, or after: then nothing happens.
/// Must not block.
pub(crate) trait Stopper: Send {
    /// The first reason counts.
    fn end(&self, why: Ended);
    /// There is no more input for it, so that it comes to its end by itself.
    fn drain(&self);
    /// Since when it has only waited for its client, on the reactor's clock. `None`: it is at something, or that is not
    /// known.
    fn quiet_since(&self) -> Option<u64>;
}

/// Why a request was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The server closes it.
    Closed,
    /// Its time is over, which was so long.
    TimedOut(Duration),
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alarm {
    /// A handler's own timer.
    Handler {
        key: u32,
        tag: u64,
    },
    /// A server's own timer.
    Server {
        server: u16,
        tag: u64,
    },
    /// Try accepting or receiving again.
    Resume(u32),
    /// Try again to send the datagrams that wait.
    Resend(u32),
    /// Try again to connect, and how long to wait after that.
    Redial {
        key: u32,
        backoff: Backoff,
    },
    /// A program has had its time.
    Child(u32),
    /// Stopping: look for quiet threads; tell those that are still busy; wait no longer.
    DrainLook,
    DrainTell,
    DrainEnd,
    /// The same while a server is closed.
    CloseLook(u16),
}

/// How long a stop waits before it looks again which threads wait for their clients, in nanoseconds: long enough to cost
/// nothing, short enough that the requests that wait for a thread follow each other soon.
pub(crate) const LOOK: u64 = 20_000_000;
