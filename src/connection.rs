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
pub(crate) mod frames;
pub(crate) mod input;
pub(crate) mod output;
pub(crate) mod queue;
pub(crate) mod state;

use std::io::{self, Read, Write};

use self::budget::Budget;
use self::output::{DIRECT_BYTES, OutputState};
use self::queue::{Carry, Flush, Queue, Scan};
use self::state::*;
use crate::address::Address;
use crate::lifecycle::{Finish, Timeout};
use crate::limits::{Limits, Linger, Overflow};
use crate::net::Stream;
use crate::net::packet::Route;
use crate::net::readiness::Readiness;
use crate::shared_bytes::SharedBytes;
use crate::stats::Stats;
use crate::timers::nanos;

/// Kept small, because ten thousand idle clients cost ten thousand of these: buffers, and whatever few connections
/// need, are boxed and exist only while they hold something.
///
/// In three parts, which a callback borrows apart: the output has `io`, the input `carry`, the request `state`.
pub(crate) struct Connection {
    pub(crate) io: Io,
    pub(crate) carry: Option<Box<Carry>>,
    pub(crate) state: State,
}

/// The socket, and what waits to be sent through it.
#[derive(Debug)]
pub(crate) struct Io {
    pub(crate) stream: Stream,
    pub(crate) queue: Option<Box<Queue>>,
}

/// What is due next.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing until an event, a timer or another handler's doing.
    Rest,
    /// More to do, but this turn's budget is used up.
    Again,
    Setup,
    ConnectFailed(io::Error),
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

    // What others ask.

    pub(crate) fn unsent(&self) -> usize {
        self.io.queue.as_ref().map_or(0, |queue| queue.len())
    }

    // What the reactor tells.

    /// Takes an event in. Says whether there may be something to do.
    #[inline]
    pub(crate) fn on_event(&mut self, ready: Readiness) -> bool {
        self.state.flags |= ready.0;
        ready.0 & (READABLE | HUNG_UP) != 0 || self.io.queue.is_some() || self.state.has(CONNECTING)
    }

    /// The peer or the network broke it: nothing can be sent any more.
    fn broken(&mut self) {
        self.state.flags |= BROKEN | READABLE | READ_TO_END;
        if self.io.queue.take().is_some() && self.state.has(ENDING) {
            self.state.why = Finish::Reset; // It would have been a quiet end, but the last bytes did not get through.
        }
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

    /// Says whether anything is due now.
    pub(crate) fn resume_reading(&mut self, now: u64) -> bool {
        let resumed = self.state.resume_reading();
        if resumed {
            self.carry.iter_mut().for_each(|carry| carry.since = now);
        }
        resumed
    }

    /// Output from somewhere else than its own running callback. A large block that nothing waits before spares itself
    /// the copy.
    pub(crate) fn push(&mut self, bytes: Payload<'_>, limits: &Limits, now: u64, stats: &mut Stats) -> Sent {
        if self.state.is_ending() {
            return Sent::Gone;
        }
        if self.unsent() + bytes.len() > limits.output_bytes_max {
            if limits.output_overflow == Overflow::Refuse {
                return Sent::Refused;
            }
            self.state.end(Finish::OutputLimit, true);
            return Sent::Gone;
        }
        match bytes {
            Payload::Copied(bytes) if bytes.len() >= DIRECT_BYTES && self.takes_output_now() => {
                let sent = self.write_directly(bytes, now, stats);
                if self.state.has(BROKEN) {
                    return Sent::Gone;
                }
                Queue::of(&mut self.io.queue, now).push(&bytes[sent..]);
            }
            Payload::Copied(bytes) => Queue::of(&mut self.io.queue, now).push(bytes),
            Payload::Shared(bytes) => Queue::of(&mut self.io.queue, now).push_shared(bytes),
        }
        if self.unsent() == 0 {
            self.io.queue = None;
        }
        self.mark_full(limits);
        if self.state.has(FULL) { Sent::Full } else { Sent::Queued }
    }

    fn takes_output_now(&self) -> bool {
        self.io.queue.is_none() && self.state.has(WRITABLE) && !self.state.has(CONNECTING)
    }

    /// One write, past the queue. Returns how much the socket took.
    fn write_directly(&mut self, bytes: &[u8], now: u64, stats: &mut Stats) -> usize {
        match self.io.stream.write(bytes) {
            Ok(sent) => {
                // Unix: a short write means that the socket's buffer is full. Elsewhere the next flush finds out.
                self.state.put(WRITABLE, cfg!(not(unix)) || sent == bytes.len());
                self.state.activity = now;
                stats.bytes_out += sent as u64;
                return sent;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.state.put(WRITABLE, false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.broken(),
        }
        0
    }

    #[inline]
    fn mark_full(&mut self, limits: &Limits) {
        if self.unsent() > limits.output_high_water {
            self.state.flags |= FULL;
        }
    }

    // What is due.

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
    pub(crate) fn advance(
        &mut self,
        buffer: &mut [u8],
        limits: &Limits,
        now: u64,
        allowance: &mut Budget,
        stats: &mut Stats,
    ) -> Step {
        if (self.io.queue.is_some() || self.state.has(UNUSUAL))
            && let Some(step) = self.advance_unusual(buffer, limits, now, allowance, stats)
        {
            return step;
        }
        if self.state.has(READABLE) && !self.state.has(EOF) {
            match self.read(buffer, now, allowance, stats) {
                Some(step) => return step,
                None if self.state.has(ENDING) => return self.wind_down(buffer, limits, now, allowance),
                None => {}
            }
        }
        if self.state.has(EOF) {
            return self.after_eof(buffer, limits, now, allowance);
        }
        // The read may have found out that nothing waits.
        if self.state.has(DRAINING) && self.drain_is_due(now) { Step::Drain } else { Step::Rest }
    }

    /// What comes before reading, or instead of it.
    fn advance_unusual(
        &mut self,
        buffer: &mut [u8],
        limits: &Limits,
        now: u64,
        allowance: &mut Budget,
        stats: &mut Stats,
    ) -> Option<Step> {
        if self.io.queue.is_some() && self.state.has(WRITABLE) && !self.state.has(CONNECTING | ABORTING) {
            self.flush(now, allowance, stats);
            if self.io.queue.is_some() && self.state.has(WRITABLE) {
                return Some(Step::Again);
            }
        }
        if self.state.has(DEAD) {
            return Some(Step::Rest);
        }
        if self.state.has(LINGERING) && !self.state.has(ABORTING) {
            return Some(self.discard(buffer, allowance));
        }
        // A handler that took over is set up even if the end has come meanwhile, so that `finish` finds one that was.
        if self.state.take_setup_due() {
            return Some(Step::Setup);
        }
        if self.state.has(ENDING) {
            return Some(self.wind_down(buffer, limits, now, allowance));
        }
        if self.state.has(CONNECTING) {
            if !self.state.has(WRITABLE) {
                return Some(Step::Rest);
            }
            match self.io.stream.connected() {
                Ok(true) => {
                    // What watched over connecting may be later than what holds from now on.
                    self.state.flags &= !(CONNECTING | WATCHED);
                    self.state.activity = now;
                    if let Some(queue) = &mut self.io.queue {
                        queue.progress = now;
                    }
                    return Some(Step::Setup);
                }
                Ok(false) => {
                    self.state.put(WRITABLE, false);
                    return Some(Step::Rest);
                }
                Err(error) => return Some(Step::ConnectFailed(error)),
            }
        }
        if self.state.has(DRAINING) && self.drain_is_due(now) {
            return Some(Step::Drain);
        }
        if self.state.has(SHUT_DUE) && self.io.queue.is_none() {
            self.state.flags &= !SHUT_DUE;
            return Some(Step::Shutdown);
        }
        if self.state.has(FULL) && self.unsent() <= limits.output_low_water {
            self.state.put(FULL, false);
            if let Some(carry) = &mut self.carry {
                carry.since = now;
            }
            return Some(Step::Writable);
        }
        if self.state.is_read_paused() {
            return Some(Step::Rest);
        }
        (self.state.take(HANDLE_DUE) && self.carry.is_some()).then_some(Step::Handle(0))
    }

    /// Whether the handler is to be told now that the server stops: nothing moved for a while and nothing waits in
    /// either direction, or there is no more time to wait for that; and no job is under way. It is told once.
    fn drain_is_due(&mut self, now: u64) -> bool {
        let input_waits = self.state.has(READABLE) && !self.state.has(PAUSED | EOF);
        // While reading is paused it stays there, and the time would be over again at once.
        if input_waits && !self.state.is_read_paused() {
            self.state.flags &= !DRAIN_QUIET; // If it is input, and no event that means nothing, the time begins anew.
        }
        // Its handler was interrupted, and is to go on.
        let goes_on = self.state.has(HANDLE_DUE | FULL) && !self.state.has(PAUSED);
        let quiet = self.state.has(DRAIN_QUIET) && self.io.queue.is_none() && !input_waits && !goes_on;
        let due = !self.state.has(DRAIN_TOLD) && (self.state.has(DRAIN_DUE) || quiet) && !self.state.has_jobs();
        if due {
            self.state.flags |= DRAIN_TOLD;
            self.carry.iter_mut().for_each(|carry| carry.since = now); // Jobs may have held up what completes it.
        }
        due
    }

    /// The end of the input is reached, and what came before it was read.
    fn after_eof(&mut self, buffer: &mut [u8], limits: &Limits, now: u64, allowance: &mut Budget) -> Step {
        if !self.state.has(EOF_HANDLED) {
            self.state.flags |= EOF_HANDLED;
            if self.carry.is_some() {
                return Step::Handle(0);
            }
        }
        if self.state.has(BROKEN) {
            self.state.end(Finish::Reset, false);
            return self.wind_down(buffer, limits, now, allowance);
        }
        if !self.state.has(EOF_TOLD) {
            self.state.flags |= EOF_TOLD;
            return Step::Eof;
        }
        // Both directions are over: nothing can happen here any more.
        if self.state.has(SHUT) {
            self.state.end(Finish::PeerClosed, false);
            return self.wind_down(buffer, limits, now, allowance);
        }
        if self.state.has(HUNG_UP) {
            self.state.end(Finish::Reset, true);
            return self.wind_down(buffer, limits, now, allowance);
        }
        Step::Rest
    }

    /// The way out: flush, `finish`, whatever that wrote, then FIN and linger, or close at once.
    fn wind_down(&mut self, buffer: &mut [u8], limits: &Limits, now: u64, allowance: &mut Budget) -> Step {
        if self.state.has(ABORTING | BROKEN) {
            self.io.queue = None;
        }
        if self.io.queue.is_some() {
            return Step::Rest; // The write timeout watches over it.
        }
        if !self.state.has(FINISHED) {
            return Step::Finish(self.state.why);
        }
        if self.state.has(ABORTING) && !self.state.has(BROKEN) {
            self.io.stream.reset_on_close();
        }
        if self.state.has(ABORTING | BROKEN | EOF | DATAGRAM) {
            return self.die();
        }
        let mut most = if limits.linger_timeout.is_zero() { 0 } else { limits.linger_bytes_max };
        match limits.linger {
            Linger::Always => {}
            Linger::Never => most = 0,
            // What the handler has left says that there may be more. So does a read that was not short; the next one tells.
            Linger::WhenNeeded if self.carry.is_some() => {}
            Linger::WhenNeeded if !self.state.has(READABLE) => most = 0,
            Linger::WhenNeeded if allowance.read == 0 => return Step::Again,
            Linger::WhenNeeded => match self.read_away(buffer, allowance) {
                Some(n @ 1..) => most = most.saturating_sub(n),
                None if self.state.has(READABLE) => return Step::Again, // It was interrupted.
                Some(_) | None => most = 0,
            },
        }
        if most == 0 {
            return self.die();
        }
        self.carry = None;
        self.state.flags |= LINGERING;
        self.state.activity = now;
        self.state.handler = u32::try_from(most).unwrap_or(u32::MAX);
        if self.state.has(SHUT) { Step::Again } else { Step::Shutdown }
    }

    fn die(&mut self) -> Step {
        self.state.flags |= DEAD;
        self.carry = None;
        self.io.queue = None;
        if self.state.has(SHUT | ABORTING | BROKEN | EOF | DATAGRAM) { Step::Dead } else { Step::Close }
    }

    /// The handler is gone; what it wrote in `finish` is still sent.
    pub(crate) fn set_finished(&mut self) {
        self.state.flags = self.state.flags & !(OPEN | SETUP_DUE) | FINISHED | ENDING;
    }

    /// Lingers: reads what the peer still sends, until it ends its direction or has sent too much.
    fn discard(&mut self, buffer: &mut [u8], allowance: &mut Budget) -> Step {
        while self.state.handler > 0 {
            if !self.state.has(READABLE) {
                return Step::Rest;
            }
            if allowance.read == 0 {
                return Step::Again;
            }
            match self.read_away(buffer, allowance) {
                Some(0) => break,
                Some(n) => self.state.handler = self.state.handler.saturating_sub(n as u32),
                None => {}
            }
        }
        self.die()
    }

    /// Reads what nothing is to be done with. `Some(0)`: nothing more will come. `None`: nothing is there now, or, if it is
    /// still readable, the read was interrupted.
    fn read_away(&mut self, buffer: &mut [u8], allowance: &mut Budget) -> Option<usize> {
        let most = buffer.len().min(allowance.read);
        match self.io.stream.read(&mut buffer[..most]) {
            Ok(n @ 1..) => {
                allowance.read -= n;
                self.after_read(n < most);
                Some(n)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.state.put(READABLE, false);
                None
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
            Ok(_) | Err(_) => {
                self.state.flags |= EOF;
                Some(0)
            }
        }
    }

    /// A short read means that the socket is drained, and more will bring an event, unless this stream cuts reads short.
    #[inline]
    fn after_read(&mut self, short: bool) {
        if short && !self.state.has(READ_TO_END) {
            self.state.flags &= !READABLE;
        }
    }

    /// One read. `None`: nothing for the handler, the flags say the rest.
    #[inline(always)]
    pub(crate) fn read(
        &mut self,
        buffer: &mut [u8],
        now: u64,
        allowance: &mut Budget,
        stats: &mut Stats,
    ) -> Option<Step> {
        let most = buffer.len().min(allowance.read).min(self.state.bite());
        if most == 0 {
            return Some(Step::Again);
        }
        let n = match self.io.stream.read(&mut buffer[..most]) {
            Ok(n @ 1..) => n,
            result => return self.read_nothing(result),
        };
        self.after_read(n < most);
        allowance.read -= n;
        self.state.activity = now;
        stats.bytes_in += n as u64;
        Some(Step::Handle(if self.carry.is_none() { n } else { self.carry_on(&buffer[..n], allowance) }))
    }

    /// Appends what arrived to what was left; nothing of it is fresh then.
    #[inline(never)]
    fn carry_on(&mut self, bytes: &[u8], allowance: &mut Budget) -> usize {
        self.carry.iter_mut().for_each(|carry| carry.extend(bytes));
        allowance.appended = bytes.len();
        0
    }

    /// The end of the input, or a read that failed.
    #[inline(never)]
    fn read_nothing(&mut self, result: io::Result<usize>) -> Option<Step> {
        match result {
            Ok(_) => self.state.flags |= EOF,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.state.put(READABLE, false);
                if self.state.has(BROKEN) {
                    self.state.end(Finish::Reset, false); // What had arrived before that is handled.
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Some(Step::Again),
            Err(_) => {
                self.broken();
                self.state.end(Finish::Reset, false);
            }
        }
        None
    }

    fn flush(&mut self, now: u64, allowance: &mut Budget, stats: &mut Stats) {
        let Some(queue) = &mut self.io.queue else { return };
        let (sent, result) = queue.write_to(&mut self.io.stream, allowance.write);
        allowance.write -= sent;
        stats.bytes_out += sent as u64;
        if sent > 0 {
            queue.progress = now;
            self.state.activity = now;
        }
        match result {
            Ok(Flush::Empty) => self.io.queue = None,
            Ok(Flush::Blocked) => self.state.put(WRITABLE, false),
            Ok(Flush::Budget) => {}
            // What arrived before the connection broke is still read and handled.
            Err(_) => self.broken(),
        }
    }

    // Around a callback.

    /// Whether the socket takes output as far as we know, and whether output is refused.
    #[inline]
    pub(crate) fn output_state(&self) -> OutputState {
        let mut state = 0;
        if self.state.flags & (WRITABLE | CONNECTING) == WRITABLE {
            state |= OutputState::WRITABLE;
        }
        if self.state.has(SHUT_DUE | SHUT | BROKEN | ABORTING | FINISHED) {
            state |= OutputState::SHUT;
        }
        OutputState(state)
    }

    #[inline]
    pub(crate) fn input_ended(&self) -> bool {
        self.state.has(EOF | DATAGRAM) && !self.state.has(BROKEN)
    }

    /// Takes in what became of the output during a callback: how much was sent, and how things stand.
    #[inline]
    pub(crate) fn after_output(
        &mut self,
        (sent, left): (usize, OutputState),
        limits: &Limits,
        now: u64,
        stats: &mut Stats,
    ) {
        if sent > 0 {
            self.state.activity = now;
            stats.bytes_out += sent as u64;
        }
        if left.0 != OutputState::WRITABLE || self.io.queue.is_some() {
            self.after_unusual_output(left, limits, now);
        }
    }

    fn after_unusual_output(&mut self, left: OutputState, limits: &Limits, now: u64) {
        if !left.has(OutputState::WRITABLE) {
            self.state.flags &= !WRITABLE;
        }
        if left.has(OutputState::REPLIED) {
            self.state.activity = now;
            self.state.flags |= REPLY;
        }
        if left.has(OutputState::WAS_FULL) {
            self.state.flags |= FULL; // Whoever stopped writing because it was full is owed a `writable`.
        }
        if left.has(OutputState::BROKEN) {
            self.broken();
        } else if left.has(OutputState::OVERFLOWN) {
            self.state.end(Finish::OutputLimit, true);
        } else if self.io.queue.is_some() {
            self.mark_full(limits);
        }
    }

    /// Keeps what a callback left of the input: the tail of the carry, or of the fresh bytes.
    pub(crate) fn keep(&mut self, fresh: &[u8], consumed: usize, scan: Scan, now: u64) {
        let renewed = consumed > 0 || self.state.has(HANDLE_DUE);
        match &mut self.carry {
            None => self.carry = Some(Box::new(Carry::new(&fresh[consumed..], scan, now))),
            Some(carry) if consumed == carry.unread().len() => self.carry = None,
            Some(carry) => {
                if renewed {
                    carry.since = now;
                }
                carry.consume(consumed);
                carry.scan = scan;
            }
        }
    }

    /// Whether the handler leaves more unread than it may. Input that waits because reading is paused is bounded by
    /// that, and what was held back is still to be shown to the handler.
    pub(crate) fn input_overflows(&self, limits: &Limits) -> bool {
        let unread = self.carry.as_ref().map_or(0, |carry| carry.unread().len());
        unread > limits.input_bytes_max && !self.state.is_read_paused() && !self.state.has(ENDING | HANDLE_DUE)
    }

    /// The limits have changed: it ends if it holds more than they allow. While its input waits, it may hold one read more
    /// than it is allowed; so it is held only to a limit that was lowered.
    pub(crate) fn hold_to(&mut self, limits: &Limits, before: &Limits) {
        let unread = self.carry.as_ref().map_or(0, |carry| carry.unread().len());
        if self.unsent() > limits.output_bytes_max {
            self.state.end(Finish::OutputLimit, true);
        } else if limits.input_bytes_max < before.input_bytes_max && unread > limits.input_bytes_max {
            self.carry = None;
            self.state.end(Finish::InputLimit, false);
        }
        self.mark_full(limits);
    }

    // Deadlines.

    /// Whether the connection can rest without looking at its timer: one is armed, and nothing came up that is due
    /// earlier.
    #[inline]
    pub(crate) fn timer_stands(&self) -> bool {
        self.state.flags & (WATCHED | UNUSUAL) == WATCHED && self.carry.is_none() && self.io.queue.is_none()
    }

    /// The next moment at which a limit could pass, and which. What is paused stands still.
    pub(crate) fn deadline(&self, limits: &Limits, drain_quiet: std::time::Duration) -> Option<(u64, Due)> {
        let mut next: Option<(u64, Due)> = None;
        let mut consider = |since: u64, time: Option<std::time::Duration>, due| {
            if let Some(time) = time {
                // A handler that forgives a limit of nothing would be called again and again.
                let time = if matches!(due, Due::Limit(_)) { nanos(time).max(LIMIT_MIN) } else { nanos(time) };
                let deadline = since.saturating_add(time);
                if next.is_none_or(|(earliest, _)| deadline < earliest) {
                    next = Some((deadline, due));
                }
            }
        };
        if self.state.has(DEAD | ABORTING) {
            return None;
        }
        if self.state.has(LINGERING) {
            consider(self.state.activity, Some(limits.linger_timeout), Due::Lingered);
            return next;
        }
        if self.state.has(CONNECTING) {
            let timeout = self.state.time_limit(Timeout::Connect, limits);
            consider(self.state.activity, timeout, Due::Limit(Timeout::Connect));
            return next;
        }
        if let Some(queue) = &self.io.queue {
            let timeout = self.state.time_limit(Timeout::Write, limits);
            consider(queue.progress, timeout, Due::Limit(Timeout::Write));
        }
        if self.state.has(ENDING) {
            return next;
        }
        if let Some(carry) = self.carry.as_ref().filter(|_| !self.state.is_read_paused()) {
            let timeout = self.state.time_limit(Timeout::Read, limits);
            consider(carry.since, timeout, Due::Limit(Timeout::Read));
        }
        if self.state.has(DRAINING) && !self.state.has(DRAIN_TOLD | DRAIN_QUIET) && !self.state.has_jobs() {
            consider(self.state.activity, Some(drain_quiet), Due::Quiet);
        }
        let timeout = self.state.time_limit(Timeout::Idle, limits);
        consider(self.state.activity, timeout, Due::Limit(Timeout::Idle));
        next
    }

    /// A batch that began at `begun` took until `now`: so did what was stamped in it.
    pub(crate) fn restamp(&mut self, begun: u64, now: u64) {
        let stamps = [
            Some(&mut self.state.activity),
            self.carry.as_mut().map(|carry| &mut carry.since),
            self.io.queue.as_mut().map(|queue| &mut queue.progress),
        ];
        for stamp in stamps.into_iter().flatten().filter(|stamp| **stamp == begun) {
            *stamp = now;
        }
    }

    /// The handler wants to go on in spite of a timeout: its clock starts anew.
    pub(crate) fn forgive(&mut self, timeout: Timeout, now: u64) {
        match timeout {
            Timeout::Read => self.carry.iter_mut().for_each(|carry| carry.since = now),
            Timeout::Write => self.io.queue.iter_mut().for_each(|queue| queue.progress = now),
            Timeout::Idle | Timeout::Connect | Timeout::Child => self.state.activity = now,
        }
    }

    // What can be checked.

    /// Whether what the socket has is for it to read, and not held up by a pause, by output that waits, or by the end.
    pub(crate) fn takes_input(&self) -> bool {
        let reads = self.state.has(LINGERING) || !self.state.has(ENDING) && !self.state.is_read_paused();
        reads && !self.state.has(CONNECTING | DATAGRAM | EOF | DEAD)
    }

    /// Whether it has bytes that only the socket holds up.
    pub(crate) fn has_output(&self) -> bool {
        self.io.queue.is_some() && !self.state.has(CONNECTING)
    }

    /// The invariants that one connection can check by itself; the numbers are those of `docs/architecture.md`.
    pub(crate) fn check(&self, queued: bool, limits: &Limits, read_bytes: usize) {
        let has = |flags| self.state.has(flags);
        let (unread, unsent) = (self.carry.as_ref().map(|carry| carry.unread().len()), self.unsent());
        assert!(!(has(FINISHED) && has(OPEN)), "3: a finished connection has a handler to call");
        assert!(has(ENDING) || !has(FINISHED), "3: a finished connection goes on");
        assert!(!has(DEAD), "5: the dead outlive the turn");
        assert!(!self.has_output() || !has(WRITABLE) || queued, "6: output waits for nothing");
        assert!(unread != Some(0) && (self.io.queue.is_none() || unsent > 0), "8: an empty buffer is kept");
        let unread_max = limits.input_bytes_max.saturating_add(read_bytes);
        assert!(unread.unwrap_or(0) <= unread_max || has(ENDING), "9: too much is unread");
        assert!(unsent <= limits.output_bytes_max, "9: too much is unsent");
        assert!(!self.takes_input() || !has(READABLE) || queued, "10: input waits for nothing");
        assert!(!has(UNREGISTERED) || queued, "10: no event will wake it, and it waits");
        let goes_on = has(HANDLE_DUE) && !has(ENDING | CONNECTING) && !self.state.is_read_paused();
        assert!(!goes_on || queued, "10: input that was held back waits for nothing");
        let ends = has(ENDING) && !has(LINGERING) && self.io.queue.is_none();
        assert!(!ends || queued, "10: the end waits for nothing");
        assert!(
            !has(FULL) || unsent > limits.output_low_water || has(ENDING | CONNECTING) || queued,
            "10: `writable` waits for nothing"
        );
    }
}

/// The shortest time limit that is kept: what a selector can wait for.
const LIMIT_MIN: u64 = 1_000_000;

/// What a connection's timer was armed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Limit(Timeout),
    Lingered,
    Quiet,
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
/// match request.send(other, bytes) {
///     Sent::Queued => {}
///     Sent::Full => request.pause_reading(request.id()), // until its handler's `writable`
///     Sent::Refused | Sent::Gone => request.close(request.id()),
///     _ => {}
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Sent {
    /// Queued. A datagram may still be lost: on the way, because nobody is there, or to make room for newer ones.
    Queued,
    /// Queued, and the output is above [`Limits::output_high_water`]: send no more until the receiving connection's
    /// `writable` is called.
    Full,
    /// Not queued: it would pass [`Limits::output_bytes_max`] and the policy is [`Overflow::Refuse`]. A datagram: too
    /// many wait, and the policy is [`DropPolicy::Newest`](crate::DropPolicy::Newest), or it is too long to wait at all. A
    /// request on a thread or with a program: only that writes to its client.
    Refused,
    /// Not queued: that connection is gone or on its way out, or was lost over this
    /// ([`Overflow::Close`]). A datagram: the peer has no name to send to, or there is no socket to send by.
    Gone,
}
