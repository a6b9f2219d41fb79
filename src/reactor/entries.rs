//! The contents of slots and timers.

use std::time::Duration;

use crate::address::Address;
use crate::backoff::Backoff;
use crate::lifecycle::EndReason;
use crate::net::Listener;
#[cfg(all(unix, feature = "proxy-protocol"))]
use crate::net::{ProxyProtocol, Stream};
use crate::timers::{NO_TIMER, TimerKey};

/// A listener and the state of its accepting.
pub(crate) struct Listening {
    /// `None` while a hook has borrowed it to accept.
    pub(crate) listener: Option<Box<Listener>>,
    /// Clients may be waiting.
    pub(crate) ready: bool,
    /// Accepting is paused because accept(2) failed.
    pub(crate) pause: Pause,
    /// [`Stats::accepted`](crate::Stats) when it last accepted a client.
    pub(crate) accepted: u64,
}

/// Back-off after a call failed because resources had run out. No event tells when to retry, so a timer does.
#[derive(Debug)]
pub(crate) struct Pause {
    /// It ends with this timer.
    pub(crate) timer: TimerKey,
    pub(crate) backoff: Backoff,
    /// When the call last failed in this way, and how often since that was last logged.
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

/// A connection from a proxy, whose header has not arrived completely.
#[cfg(all(unix, feature = "proxy-protocol"))]
pub(crate) struct Heading {
    /// `None` when the header was read, or has failed.
    pub(crate) stream: Option<Stream>,
    pub(crate) proxy: Address,
    pub(crate) protocol: ProxyProtocol,
    /// Ends the wait.
    pub(crate) timer: TimerKey,
    /// The proxy sends nothing more.
    pub(crate) ended: bool,
}

/// A request that is served elsewhere, by a thread or a program.
pub(crate) struct Elsewhere {
    pub(crate) address: Address,
    pub(super) is_datagram: bool,
    /// It came while the reactor was stopping.
    pub(super) late: bool,
    pub(super) stop: Box<dyn Stopper>,
    /// The server is stopping, and the input of the request was ended.
    pub(super) is_told: bool,
    /// For a program: when it was given the request, and the timer that ends it if it takes too long.
    pub(super) begun: Option<u64>,
    pub(super) timer: TimerKey,
    /// Why the reactor ended it, if it did.
    pub(crate) ended: Option<EndReason>,
}

impl Elsewhere {
    /// The client for which the request counts as a connection.
    pub(super) fn counted_client(&self) -> Option<&Address> {
        (!self.is_datagram).then_some(&self.address)
    }
}

/// Ends a request that is served elsewhere, before or while it is served. Afterwards it does nothing. Must not block.
pub(crate) trait Stopper: Send {
    /// Ends the request. The first reason counts.
    fn end(&self, why: Ended);
    /// Ends its input, so that it ends by itself.
    fn drain(&self);
    /// Since when it has only waited for its client, on the reactor's clock. `None`: it is busy, or this is unknown.
    fn quiet_since(&self) -> Option<u64>;
}

/// Why a request was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The server closes it.
    Closed,
    /// Its time limit has expired. The value names the limit.
    TimedOut(Duration),
}

/// The purpose of a timer.
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
    /// Try again to send waiting datagrams.
    Resend(u32),
    /// Try again to connect. The value is the pause after that.
    Redial {
        key: u32,
        backoff: Backoff,
    },
    /// The time limit of a program has expired.
    Child(u32),
    /// The header of a proxy is late.
    #[cfg(all(unix, feature = "proxy-protocol"))]
    Header(u32),
    /// The supervisor waits for a sign of life.
    #[cfg(all(unix, feature = "sd-notify"))]
    Watchdog,
    /// During a stop: begin the drain; check for quiet threads; drain busy connections; end the wait.
    DrainStart,
    DrainLook,
    DrainTell,
    DrainEnd,
    /// Like the last three, while a server drains by itself or is being closed.
    CloseLook(u16),
}

/// How often a stop checks which threads wait for their clients, in nanoseconds: seldom enough to cost nothing, and
/// often enough that requests that wait for a thread follow each other quickly.
pub(crate) const LOOK: u64 = 20_000_000;
