//! The logic of one connection. It uses neither a clock nor a selector: readiness, limits and `now` are inputs, and the
//! result is the next [`Step`].
//!
//! The state of a connection is its [`Phase`], which defines all transitions. Only the service step of a turn advances
//! it:
//!
//! ```text
//!  Connecting ──▶ Open ──────────▶ Closing ────────▶ Lingering ──▶ Dead   freed in reap
//!       │          │ setup, handle   │ flush, finish,   │ FIN sent    ▲
//!       │          │                 │ flush again      │             │
//!       └──────────┴─────────────────┴──────────────────┴▶ Aborting ──┘   finish, RST
//! ```
//!
//! A session of a datagram server is a connection without a stream of its own: it is never read, only given datagrams,
//! and it has nothing to flush and no reason to linger. A single datagram is such a session for one request.
//!
//! The following never happen: a callback before `setup` or after `finish`, a read while output is above the high-water
//! mark or reading is paused, or a FIN before the queued output is sent.

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
#[cfg(feature = "tls")]
mod layer;
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

/// This type is kept small, because there is one for every idle client. Buffers and rarely needed data are boxed and
/// exist only while they contain something.
///
/// It has three parts, which a callback borrows separately: the output borrows `io`, the input borrows `carry`, and the
/// request borrows `state`.
pub(crate) struct Connection {
    pub(crate) io: Io,
    pub(crate) carry: Option<Box<Carry>>,
    pub(crate) state: State,
}

/// The resources that a connection borrows while it advances.
pub(crate) struct Turn<'a> {
    /// The buffer for received bytes.
    pub(crate) buffer: &'a mut Box<[u8]>,
    pub(crate) budget: &'a mut Budget,
    pub(crate) stats: &'a mut Stats,
}

/// The next step that is due.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing is due until an event, a timer, or an action of another handler.
    Rest,
    /// There is more to do, but this turn's budget is used up.
    Again,
    Setup,
    ConnectFailed(std::io::Error),
    /// The handshake of TLS has failed.
    #[cfg(feature = "tls")]
    HandshakeFailed(std::io::Error),
    /// A record could not be opened.
    #[cfg(feature = "tls")]
    TlsFailed(std::io::Error),
    /// Input arrived: this number of new bytes is at the start of the read buffer, or, if it is 0, all input is in the
    /// carry.
    Handle(usize),
    Writable,
    /// A file that was to be sent could not be read.
    FileFailed(std::io::ErrorKind),
    Eof,
    Drain,
    Finish(EndReason),
    /// All output has been sent: end our direction and continue reading.
    Shutdown,
    /// All output has been sent and no further input needs to be read, so close(2) ends both directions. The slot must
    /// be reaped.
    Close,
    /// The connection has ended. Its slot must be reaped.
    Dead,
    /// Like `Dead`, for a connection that lingered until it reached a limit of lingering.
    Cut,
}

impl Connection {
    pub(crate) fn accepted(stream: Stream, address: Address, handler: u32, now: u64) -> Self {
        // A new socket is writable, and the client's first bytes have often arrived already. A connection that is over
        // by the end of its first service never waits for an event.
        Connection::new(stream, address, handler, now, Phase::ACCEPTED, WRITABLE | READABLE)
    }

    pub(crate) fn connecting(stream: Stream, address: Address, handler: u32, now: u64) -> Self {
        Connection::new(stream, address, handler, now, Phase::CONNECTING, BOXED | OUTBOUND)
    }

    /// Represents a peer of a datagram server for the lifetime of its handler.
    pub(crate) fn datagram(route: Route, address: Address, handler: u32, now: u64) -> Self {
        Connection::new(Stream::datagram(route), address, handler, now, Phase::DATAGRAMS, 0)
    }

    /// The session of an outbound datagram socket. `setup` is due.
    pub(crate) fn outbound_session(route: Route, address: Address, now: u64) -> Self {
        let stream = Stream::datagram(route);
        let mut this = Connection::new(stream, address, u32::MAX, now, Phase::DATAGRAMS, BOXED | OUTBOUND);
        this.state.phase.owe_setup();
        this
    }

    /// Represents another peer, after a single datagram is over.
    #[inline]
    pub(crate) fn renew(&mut self, route: Route, address: &Address, now: u64) {
        debug_assert!(self.holds_nothing());
        self.io.stream.set_route(route);
        self.state.renew(address, Phase::DATAGRAMS, now);
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

    /// How many unsent bytes are in memory.
    pub(crate) fn held(&self) -> usize {
        self.io.queue.as_ref().map_or(0, |queue| queue.held())
    }

    /// Records an event. Returns whether there may be something to do.
    #[inline]
    pub(crate) fn on_event(&mut self, ready: Readiness) -> bool {
        self.state.flags |= ready.0;
        ready.0 & (READABLE | HUNG_UP) != 0 || self.io.queue.is_some() || self.state.phase.awaits_room()
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
            self.state.phase.owe_handle(); // A new handler is given the input that its predecessor left unread.
        }
    }

    /// Returns whether reading is the only thing left to do for a connection in this phase, with no unread input from
    /// before, and whether it has nothing that is unusual.
    #[inline(always)]
    pub(crate) fn only_reads(&self, phase: Phase) -> bool {
        self.state.is(phase, READABLE | WRITABLE) && self.holds_nothing() && self.state.own_bounds().is_none()
    }

    /// Returns whether a callback without input needs nothing that is unusual: nothing is unread, nothing is unsent, and
    /// output is possible.
    #[inline(always)]
    pub(crate) fn is_clear(&self) -> bool {
        self.state.is_clear() && self.holds_nothing() && self.state.own_bounds().is_none()
    }

    /// Returns whether nothing is unread and nothing is unsent.
    #[inline(always)]
    pub(crate) fn holds_nothing(&self) -> bool {
        self.carry.is_none() && self.io.queue.is_none()
    }

    /// Returns whether nothing is due for a connection in this phase that holds nothing.
    #[inline(always)]
    pub(crate) fn rests(&self, phase: Phase) -> bool {
        self.state.is(phase, WRITABLE)
    }

    /// Advances the connection as far as possible without the handler: sends, reads, discards and ends. Returns the
    /// next step that requires the handler, the server or another turn.
    #[inline(always)]
    pub(crate) fn advance(&mut self, turn: &mut Turn<'_>) -> Step {
        loop {
            let step = match self.state.phase.stage() {
                Stage::Open => self.flow(turn),
                Stage::Connecting => self.connect(turn),
                Stage::Closing | Stage::Aborting => return self.close(turn),
                Stage::Lingering => return self.discard(turn),
                Stage::Dead => return Step::Rest,
            };
            if let Some(step) = step {
                return step;
            } // Otherwise it is in another stage now.
        }
    }
}

/// Output that does not come from the connection's own callback.
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
/// // A relay: output that waits in one direction must not stop reading in the other (`set_full_duplex` in `setup`).
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
    /// Queued. A datagram may still be lost: in transit, because no socket receives it, or because it is dropped to
    /// make room for newer ones.
    Queued,
    /// Queued, and the output is above [`Limits::output_high_water`](crate::Limits), or the sending callback has used
    /// its share of the turn ([`ReactorConfig::turn_length`](crate::ReactorConfig::turn_length)). Send no more until
    /// the receiving connection's `writable` is called.
    Full,
    /// Not queued, because it would exceed [`Limits::output_bytes_max`](crate::Limits) and the policy is
    /// [`Overflow::Refuse`](crate::Overflow::Refuse). For a datagram: too many are queued and the policy is
    /// [`DropPolicy::Newest`](crate::DropPolicy::Newest), or it is too long to be queued. Also returned for a request
    /// on a thread or of a program, because only the thread or program writes to its client; and for the connection
    /// whose callback is running, because the callback should write to its [`output`](crate::Request::output).
    Refused,
    /// Not queued, because the connection has ended or is ending, or was aborted because of this write
    /// ([`Overflow::Close`](crate::Overflow::Close)). For a datagram, the peer has no name to which it could be sent,
    /// or there is no socket through which to send it.
    Gone,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn an_idle_connection_is_small() {
        // The header of a proxy is boxed.
        let header = if cfg!(all(unix, feature = "proxy-protocol")) { 8 } else { 0 };
        let most = header + if cfg!(windows) { 112 } else { 104 };
        assert!(size_of::<Connection>() <= most, "{} bytes", size_of::<Connection>());
    }
}
