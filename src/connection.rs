//! The rules of one connection. No clock and no selector: readiness, limits and `now` come in, and what to do next
//! comes out as a [`Step`].
//!
//! A connection moves through these states; only the reactor's service phase moves it:
//!
//! ```text
//!  connecting ──▶ setup ──▶ open ──▶ ending ──▶ finish ──▶ lingering ──▶ dead
//!       │           │         │        │ flush     │ once     │ FIN sent,   │ freed in reap
//!       └───────────┴─────────┴────────┴───────────┴──────────┴─────────────┘ abort, reset
//! ```
//!
//! A session of a datagram server is a connection without a stream of its own: it is never read, only handed datagrams,
//! and there is nothing to flush or to linger for. A single datagram is such a session for one request.
//!
//! What never happens: a callback before `setup` or after `finish`, a read while output is above the high-water mark
//! or reading is paused, FIN before the queued output is sent.

pub(crate) mod budget;
pub(crate) mod carry;
mod check;
pub(crate) mod deadlines;
mod ending;
mod flow;
pub(crate) mod frames;
pub(crate) mod input;
pub(crate) mod io;
pub(crate) mod output;
pub(crate) mod queue;
mod reading;
pub(crate) mod state;
mod writing;

use self::budget::Budget;
use self::carry::Carry;
use self::io::Io;
use self::state::*;
use crate::address::Address;
use crate::lifecycle::Finish;
use crate::limits::Limits;
use crate::net::Stream;
use crate::net::packet::Route;
use crate::net::readiness::Readiness;
use crate::shared_bytes::SharedBytes;
use crate::stats::Stats;

/// Kept small, because ten thousand idle clients cost ten thousand of these: buffers, and whatever few connections
/// need, are boxed and exist only while they hold something.
///
/// In three parts, which a callback borrows apart: the output has `io`, the input `carry`, the request `state`.
pub(crate) struct Connection {
    pub(crate) io: Io,
    pub(crate) carry: Option<Box<Carry>>,
    pub(crate) state: State,
}

/// What a connection is lent while it moves on.
pub(crate) struct Turn<'a> {
    /// What is read lands here.
    pub(crate) buffer: &'a mut [u8],
    pub(crate) limits: &'a Limits,
    pub(crate) now: u64,
    pub(crate) budget: &'a mut Budget,
    pub(crate) stats: &'a mut Stats,
}

/// What is due next.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing until an event, a timer or another handler's doing.
    Rest,
    /// More to do, but this turn's budget is used up.
    Again,
    Setup,
    ConnectFailed(std::io::Error),
    /// Input arrived: so many fresh bytes at the start of the read buffer, or all of it is in the carry (0).
    Handle(usize),
    Writable,
    Eof,
    Drain,
    Finish(Finish),
    /// All is sent: end our direction, and go on reading.
    Shutdown,
    /// All is sent, and nothing that the peer sends would be read: closing ends both directions. To be reaped.
    Close,
    /// Over. To be reaped.
    Dead,
}

impl Connection {
    pub(crate) fn accepted(stream: Stream, address: Address, handler: u32, now: u64) -> Self {
        // A fresh socket takes output, and what a client has to say has often come with it.
        // A connection that is over by the end of its first service never waits for an event.
        Connection::new(stream, address, handler, now, SETUP_DUE | WRITABLE | READABLE | UNREGISTERED)
    }

    pub(crate) fn connecting(stream: Stream, address: Address, handler: u32, now: u64) -> Self {
        Connection::new(stream, address, handler, now, CONNECTING | BOXED | OUTBOUND)
    }

    /// The peer of a datagram server, for as long as its handler lives.
    pub(crate) fn datagram(route: Route, address: Address, handler: u32, now: u64) -> Self {
        Connection::new(Stream::datagram(route), address, handler, now, DATAGRAM)
    }

    fn new(stream: Stream, address: Address, handler: u32, now: u64, mut flags: u32) -> Self {
        if stream.cuts_reads_short() {
            flags |= READ_TO_END;
        }
        Connection { io: Io { stream, queue: None }, carry: None, state: State::new(address, flags, handler, now) }
    }

    pub(crate) fn unsent(&self) -> usize {
        self.io.queue.as_ref().map_or(0, |queue| queue.len())
    }

    /// Takes an event in. Returns whether there may be something to do.
    #[inline]
    pub(crate) fn on_event(&mut self, ready: Readiness) -> bool {
        self.state.flags |= ready.0;
        ready.0 & (READABLE | HUNG_UP) != 0 || self.io.queue.is_some() || self.state.has(CONNECTING)
    }

    pub(crate) fn replaced_handler(&mut self, handler: u32) {
        self.state.handler = handler;
        self.state.flags = self.state.flags & !(OPEN | EOF_HANDLED | EOF_TOLD) | BOXED | SETUP_DUE;
    }

    /// `setup` returned without error.
    pub(crate) fn set_open(&mut self) {
        // A new handler is shown what its predecessor left.
        self.state.flags |= OPEN | if self.carry.is_some() { HANDLE_DUE } else { 0 };
    }

    /// Whether to read is all there is to do.
    #[inline]
    pub(crate) fn only_reads(&self) -> bool {
        self.state.flags & (UNUSUAL | EOF | READABLE) == READABLE && self.io.queue.is_none()
    }

    /// Whether nothing is due, and its timer needs no look.
    #[inline]
    pub(crate) fn rests(&self) -> bool {
        !self.state.has(READABLE | EOF) && self.timer_stands()
    }

    /// Moves the connection on by itself as far as it goes: sends, reads, discards, ends. Returns what needs the
    /// handler, the server or another turn.
    pub(crate) fn advance(&mut self, turn: &mut Turn<'_>) -> Step {
        if (self.io.queue.is_some() || self.state.has(UNUSUAL))
            && let Some(step) = self.advance_unusual(turn)
        {
            return step;
        }
        if self.state.has(READABLE) && !self.state.has(EOF) {
            match self.read(turn) {
                Some(step) => return step,
                None if self.state.has(ENDING) => return self.wind_down(turn),
                None => {}
            }
        }
        if self.state.has(EOF) {
            return self.after_eof(turn);
        }
        // The read may have found out that nothing waits.
        if self.state.has(DRAINING) && self.drain_is_due(turn.now) { Step::Drain } else { Step::Rest }
    }
}

/// Output that comes from elsewhere.
pub(crate) enum Payload<'a> {
    Copied(&'a [u8]),
    Shared(SharedBytes),
}

impl Payload<'_> {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Payload::Copied(bytes) => bytes,
            Payload::Shared(bytes) => bytes,
        }
    }

    fn len(&self) -> usize {
        self.as_slice().len()
    }
}

/// What became of bytes sent to another connection, or of a datagram.
///
/// ```
/// # use socketserver::{ConnectionId, Request, Sent};
/// // A relay: what waits in one direction is no reason not to read the other (set_full_duplex, in `setup`).
/// # fn relay(request: &mut Request<'_>, other: ConnectionId) {
/// let bytes = request.input.take_all();
/// match request.others.send(other, bytes) {
///     Sent::Queued => {}
///     Sent::Full => request.pause_reading(), // until its handler's `writable`
///     Sent::Refused | Sent::Gone => request.close(),
///     _ => {}
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Sent {
    /// Queued. A datagram may still be lost: on the way, because nothing receives there, or to make room for newer ones.
    Queued,
    /// Queued, and the output is above [`Limits::output_high_water`]: send no more until the receiving connection's
    /// `writable` is called.
    Full,
    /// Not queued: it would pass [`Limits::output_bytes_max`] and the policy is
    /// [`Overflow::Refuse`](crate::Overflow::Refuse). A datagram: too many wait, and the policy is
    /// [`DropPolicy::Newest`](crate::DropPolicy::Newest), or it is too long to wait at all. A request on a thread or with
    /// a program: only that writes to its client. The connection whose callback is running: that writes to its
    /// [`output`](crate::Request::output).
    Refused,
    /// Not queued: that connection is gone or on its way out, or was lost over this
    /// ([`Overflow::Close`](crate::Overflow::Close)). A datagram: the peer has no name to send to, or there is no socket
    /// to send by.
    Gone,
}
