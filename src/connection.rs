//! The rules of one connection. No clock and no selector: readiness, limits and `now` come in, and what to do next
//! comes out as a [`Step`].
//!
//! Where it stands is its [`Phase`], which has all transitions. Only the reactor's service phase moves it on:
//!
//! ```text
//!  Connecting ──▶ Open ──────────▶ Closing ────────▶ Lingering ──▶ Dead   freed in reap
//!       │          │ setup, handle   │ flush, finish,   │ FIN sent    ▲
//!       │          │                 │ flush again      │             │
//!       └──────────┴─────────────────┴──────────────────┴▶ Aborting ──┘   finish, RST
//! ```
//!
//! A session of a datagram server is a connection without a stream of its own: it is never read, only handed datagrams,
//! and there is nothing to flush or to linger for. A single datagram is such a session for one request.
//!
//! What never happens: a callback before `setup` or after `finish`, a read while output is above the high-water mark
//! or reading is paused, FIN before the queued output is sent.

mod axes;
pub(crate) mod bounds;
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
pub(crate) mod phase;
pub(crate) mod queue;
mod reading;
pub(crate) mod state;
mod writing;

use self::axes::Stage;
use self::budget::Budget;
use self::carry::Carry;
use self::io::Io;
use self::phase::Phase;
use self::state::*;
use crate::address::Address;
use crate::lifecycle::EndReason;
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
    Finish(EndReason),
    /// All is sent: end our direction, and go on reading.
    Shutdown,
    /// All is sent, and nothing that the peer sends would be read: closing ends both directions. To be reaped.
    Close,
    /// Over. To be reaped.
    Dead,
    /// The same for one that lingered, and has come to a limit of that.
    Cut,
}

impl Connection {
    pub(crate) fn accepted(stream: Stream, address: Address, handler: u32, now: u64) -> Self {
        // A fresh socket takes output, and what a client has to say has often come with it.
        // A connection that is over by the end of its first service never waits for an event.
        Connection::new(stream, address, handler, now, Phase::ACCEPTED, WRITABLE | READABLE)
    }

    pub(crate) fn connecting(stream: Stream, address: Address, handler: u32, now: u64) -> Self {
        Connection::new(stream, address, handler, now, Phase::CONNECTING, BOXED | OUTBOUND)
    }

    /// The peer of a datagram server, for as long as its handler lives.
    pub(crate) fn datagram(route: Route, address: Address, handler: u32, now: u64) -> Self {
        Connection::new(Stream::datagram(route), address, handler, now, Phase::DATAGRAMS, 0)
    }

    fn new(stream: Stream, address: Address, handler: u32, now: u64, phase: Phase, mut flags: u8) -> Self {
        if stream.cuts_reads_short() {
            flags |= READ_TO_END;
        }
        Connection {
            io: Io { stream, queue: None },
            carry: None,
            state: State::new(address, phase, flags, handler, now),
        }
    }

    pub(crate) fn unsent(&self) -> usize {
        self.io.queue.as_ref().map_or(0, |queue| queue.len())
    }

    /// Takes an event in. Returns whether there may be something to do.
    #[inline]
    pub(crate) fn on_event(&mut self, ready: Readiness) -> bool {
        self.state.flags |= ready.0;
        ready.0 & (READABLE | HUNG_UP) != 0 || self.io.queue.is_some() || self.state.phase.is_connecting()
    }

    pub(crate) fn replaced_handler(&mut self, handler: u32) {
        self.state.handler = handler;
        self.state.set_boxed();
        self.state.phase.replaced();
    }

    /// `setup` returned without error.
    pub(crate) fn set_up(&mut self) {
        self.state.phase.set_up();
        if self.carry.is_some() {
            self.state.phase.owe_handle(); // A new handler is shown what its predecessor left.
        }
    }

    /// Whether to read is all there is to do, and what arrives all that there will be unread.
    #[inline]
    pub(crate) fn only_reads(&self) -> bool {
        let is_plain = self.state.phase.is_plain_but_for_wake();
        is_plain && self.state.has(READABLE) && self.carry.is_none() && self.io.queue.is_none()
    }

    /// Whether nothing is due, and its timer needs no look.
    #[inline]
    pub(crate) fn rests(&self) -> bool {
        self.state.phase.is_plain() && !self.state.has(READABLE) && self.carry.is_none() && self.io.queue.is_none()
    }

    /// Moves the connection on by itself as far as it goes: sends, reads, discards, ends. Returns what needs the
    /// handler, the server or another turn.
    #[inline(always)]
    pub(crate) fn advance(&mut self, turn: &mut Turn<'_>) -> Step {
        match self.state.phase.stage() {
            Stage::Open => self.flow(turn),
            Stage::Connecting => self.connect(turn),
            Stage::Closing | Stage::Aborting => self.close(turn),
            Stage::Lingering => self.discard(turn),
            Stage::Dead => Step::Rest,
        }
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

/// The result of sending bytes to another connection, or a datagram.
///
/// ```
/// # use socketserver::{ConnectionId, Request, Delivery};
/// // A relay: output that waits in one direction does not stop the other (set_full_duplex, in `setup`).
/// # fn relay(request: &mut Request<'_>, other: ConnectionId) {
/// let bytes = request.input.take_all();
/// match request.others.send(other, bytes) {
///     Delivery::Queued => {}
///     Delivery::Full => request.pause_reading(), // until its handler's `writable`
///     Delivery::Refused | Delivery::Gone => request.close(),
///     _ => {}
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Delivery {
    /// Queued. A datagram may still be lost: on the way, because it has no receiver, or because newer ones need its
    /// place.
    Queued,
    /// Queued, and the output is above [`Limits::output_high_water`](crate::Limits). Send no more until the receiving
    /// connection's `writable` is called.
    Full,
    /// Not queued, because it would exceed [`Limits::output_bytes_max`](crate::Limits) and the policy is
    /// [`Overflow::Refuse`](crate::Overflow::Refuse). A datagram: too many wait and the policy is
    /// [`DropPolicy::Newest`](crate::DropPolicy::Newest), or it is too long to wait. A request on a thread or of a
    /// program: only its thread or program writes to its client. The connection whose callback is running: write to its
    /// [`output`](crate::Request::output).
    Refused,
    /// Not queued, because that connection is gone or ending, or was lost by this send
    /// ([`Overflow::Close`](crate::Overflow::Close)). A datagram: the peer has no name, or there is no socket for it.
    Gone,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn an_idle_connection_is_small() {
        let most = if cfg!(windows) { 112 } else { 104 };
        assert!(size_of::<Connection>() <= most, "{} bytes", size_of::<Connection>());
    }
}
