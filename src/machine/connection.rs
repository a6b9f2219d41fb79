//! One connection: its socket, what waits in either direction, and what is due next.

use std::io::{self, Read};
use std::sync::Arc;

use super::Output;
use crate::address::Address;
use crate::buffer::{Carry, Flush, Queue, Scan};
use crate::lifecycle::{Finish, Timeout};
use crate::limits::{Limits, Overflow};
use crate::machine::output::OutputFault;
use crate::net::Stream;
use crate::net::selector::Readiness;
use crate::stats::Stats;
use crate::timers::TimerKey;

/// Kept small, because ten thousand idle clients cost ten thousand of these: buffers, and whatever few connections
/// need, are boxed and exist only while they hold something.
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    pub(crate) address: Address,
    flags: u32,
    /// Which handler of the server; once that is gone, how many bytes may still be discarded while lingering.
    pub(crate) handler: u32,
    why: Finish,
    /// When bytes last moved in either direction. Also when connecting or lingering began.
    pub(crate) activity: u64,
    carry: Option<Box<Carry>>,
    queue: Option<Box<Queue>>,
    pub(crate) extra: Option<Box<Extra>>,
}

/// What most connections never need.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    /// The handler's timers by tag.
    pub(crate) timers: std::collections::BTreeMap<u64, TimerKey>,
    /// Timeouts that differ from the server's.
    pub(crate) idle_timeout: Option<Option<std::time::Duration>>,
    pub(crate) read_timeout: Option<Option<std::time::Duration>>,
    pub(crate) write_timeout: Option<Option<std::time::Duration>>,
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
    /// All is sent: end our direction. Then linger.
    Shutdown,
    /// Over. To be reaped.
    Dead,
}

/// What one connection may still do in this turn.
#[derive(Debug)]
pub(crate) struct Allowance {
    pub(crate) read: usize,
    pub(crate) write: usize,
}

/// The socket may have input, as far as we know; it may take output. Cleared by the attempt that finds otherwise.
const READABLE: u32 = Readiness::READABLE;
const WRITABLE: u32 = Readiness::WRITABLE;
/// A short read does not mean drained.
const READ_TO_END: u32 = Readiness::READ_TO_END;
const HUNG_UP: u32 = Readiness::HUNG_UP;
/// An outbound connection that is not established.
const CONNECTING: u32 = 1 << 4;
/// `setup` is due: a fresh connection, or a replaced handler.
const SETUP_DUE: u32 = 1 << 5;
/// `setup` succeeded: `finish` is owed.
const OPEN: u32 = 1 << 6;
/// The peer ended its direction; the rest of the input was handled; `eof` was called.
const EOF: u32 = 1 << 7;
const EOF_HANDLED: u32 = 1 << 8;
const EOF_TOLD: u32 = 1 << 9;
/// Reading is paused by a handler.
const PAUSED: u32 = 1 << 10;
/// Output went above the high-water mark and has not yet fallen to the low one.
const FULL: u32 = 1 << 11;
/// `handle` is due although nothing arrived: reading was resumed, or the handler replaced, over unread input.
const HANDLE_DUE: u32 = 1 << 12;
/// Our direction ends once the output is sent; has ended.
const SHUT_DUE: u32 = 1 << 13;
const SHUT: u32 = 1 << 14;
/// The socket takes no more output, ever.
const BROKEN: u32 = 1 << 15;
/// On the way out, for the reason in `why`: after a flush, or at once.
const ENDING: u32 = 1 << 16;
const ABORTING: u32 = 1 << 17;
/// `finish` was called, or is not owed. The handler is gone.
const FINISHED: u32 = 1 << 18;
/// FIN is sent, what still comes is discarded.
const LINGERING: u32 = 1 << 19;
const DEAD: u32 = 1 << 20;
/// The server is stopping: tell the handler when quiet; now; it is told.
const DRAINING: u32 = 1 << 21;
const DRAIN_DUE: u32 = 1 << 22;
const DRAIN_TOLD: u32 = 1 << 23;
/// The handler is one of the boxed ones.
const BOXED: u32 = 1 << 24;
/// Nothing moved for a while, by the timer's word.
const DRAIN_QUIET: u32 = 1 << 25;
/// We called the peer.
const OUTBOUND: u32 = 1 << 26;
/// A timer watches over the limits of this connection.
const WATCHED: u32 = 1 << 27;

/// If none of these is set, a connection only reads, handles and writes.
const UNUSUAL: u32 = CONNECTING | SETUP_DUE | SHUT_DUE | BROKEN | ENDING | FINISHED | LINGERING | DEAD | DRAINING;

impl Connection {
    pub(crate) fn accepted(stream: Stream, address: Address, handler: u32, now: u64) -> Self {
        // A fresh socket takes output; whether it has input, the first event will say.
        Connection::new(stream, address, handler, now, SETUP_DUE | WRITABLE)
    }

    pub(crate) fn connecting(stream: Stream, address: Address, handler: u32, now: u64) -> Self {
        Connection::new(stream, address, handler, now, CONNECTING | BOXED | OUTBOUND)
    }

    fn new(stream: Stream, address: Address, handler: u32, now: u64, flags: u32) -> Self {
        Connection {
            stream,
            address,
            flags,
            handler,
            why: Finish::Done,
            activity: now,
            carry: None,
            queue: None,
            extra: None,
        }
    }

    #[inline]
    fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    #[inline]
    fn put(&mut self, flag: u32, on: bool) {
        if on { self.flags |= flag } else { self.flags &= !flag }
    }

    /// Takes a flag off and says whether it was there.
    fn take(&mut self, flag: u32) -> bool {
        let was = self.has(flag);
        self.flags &= !flag;
        was
    }

    // What others ask.

    pub(crate) fn is_boxed(&self) -> bool {
        self.has(BOXED)
    }

    /// Takes no more output from its own handler or another.
    pub(crate) fn is_ending(&self) -> bool {
        self.has(ENDING | SHUT_DUE | SHUT | BROKEN)
    }

    pub(crate) fn is_outbound(&self) -> bool {
        self.has(OUTBOUND)
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.has(DEAD)
    }

    /// Over for its handler: whatever is left is between the kernel and us.
    pub(crate) fn is_finished(&self) -> bool {
        self.has(FINISHED | DEAD)
    }

    /// The handler may be called: `setup` succeeded and the end has not come.
    pub(crate) fn is_open(&self) -> bool {
        self.has(OPEN) && !self.has(SETUP_DUE | ENDING | FINISHED | DEAD)
    }

    /// `setup` succeeded, and `finish` has not been called.
    pub(crate) fn owes_finish(&self) -> bool {
        self.has(OPEN) && !self.has(FINISHED)
    }

    /// Ends a connection that was lost during a callback, whose error then only repeats that. Says whether it was.
    pub(crate) fn end_if_lost(&mut self) -> bool {
        if self.has(BROKEN) {
            self.end(Finish::Reset, false);
        }
        self.has(BROKEN | ABORTING)
    }

    pub(crate) fn unsent(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.len())
    }

    // What the reactor tells.

    /// Takes an event in. Says whether there may be something to do.
    #[inline]
    pub(crate) fn on_event(&mut self, ready: Readiness) -> bool {
        self.flags |= ready.0;
        ready.0 & (READABLE | HUNG_UP) != 0 || self.queue.is_some() || self.has(CONNECTING)
    }

    /// Ends the connection: after a flush, or at once. The first reason counts, unless what was a quiet end fails on
    /// the way.
    pub(crate) fn end(&mut self, why: Finish, mut at_once: bool) {
        // Not established: there is nothing to flush to.
        at_once |= self.take(CONNECTING);
        if self.has(FINISHED | DEAD) {
            // Nobody is left to tell. An abort still cuts a flush or a linger short.
            self.put(ABORTING, at_once || self.has(ABORTING));
            return;
        }
        if !self.has(ENDING) || (at_once && !self.has(ABORTING)) {
            self.why = why;
        }
        self.flags |= ENDING | if at_once { ABORTING } else { 0 };
    }

    /// The peer or the network broke it: nothing can be sent any more.
    fn broken(&mut self) {
        self.flags |= BROKEN | READABLE | READ_TO_END;
        if self.queue.take().is_some() && self.has(ENDING) && !self.has(FINISHED | ABORTING) {
            self.why = Finish::Reset; // It would have been a quiet end, but the last bytes did not get through.
        }
    }

    pub(crate) fn replaced_handler(&mut self, handler: u32) {
        self.handler = handler;
        self.flags = self.flags & !(OPEN | EOF_HANDLED | EOF_TOLD) | BOXED | SETUP_DUE;
    }

    /// `setup` returned without error.
    pub(crate) fn set_open(&mut self) {
        // A new handler is shown what its predecessor left.
        self.flags |= OPEN | if self.carry.is_some() { HANDLE_DUE } else { 0 };
    }

    pub(crate) fn pause_reading(&mut self) {
        self.flags |= PAUSED;
    }

    /// Says whether anything is due now.
    pub(crate) fn resume_reading(&mut self, now: u64) -> bool {
        if !self.take(PAUSED) {
            return false;
        }
        // If this is called in the connection's own callback, the carry is lent to that; the flag is enough then.
        self.flags |= HANDLE_DUE;
        self.carry.iter_mut().for_each(|carry| carry.since = now);
        true
    }

    pub(crate) fn shutdown_write(&mut self) {
        self.flags |= SHUT_DUE;
    }

    /// The server is stopping: the handler is told once the connection is quiet.
    pub(crate) fn drain(&mut self, now: u64, quiet: u64) {
        self.flags |= DRAINING | if now.saturating_sub(self.activity) >= quiet { DRAIN_QUIET } else { 0 };
    }

    /// Busy or not, the handler is told now.
    pub(crate) fn drain_now(&mut self) {
        self.flags |= DRAINING | DRAIN_DUE;
    }

    /// Output from somewhere else than its own running callback. `Err`: the connection is lost over it.
    pub(crate) fn push(&mut self, bytes: Payload<'_>, limits: &Limits, now: u64) -> Sent {
        if self.is_ending() || self.has(DEAD) {
            return Sent::Gone;
        }
        if self.unsent() + bytes.len() > limits.output_bytes_max {
            if limits.output_overflow == Overflow::Refuse {
                return Sent::Refused;
            }
            self.end(Finish::OutputLimit, true);
            return Sent::Gone;
        }
        match bytes {
            Payload::Copied(bytes) => Queue::of(&mut self.queue, now).push(bytes),
            Payload::Shared(bytes) => Queue::of(&mut self.queue, now).push_shared(bytes),
        }
        if self.unsent() == 0 {
            self.queue = None;
        }
        self.mark_full(limits);
        if self.has(FULL) { Sent::Full } else { Sent::Queued }
    }

    #[inline]
    fn mark_full(&mut self, limits: &Limits) {
        if self.unsent() > limits.output_high_water {
            self.flags |= FULL;
        }
    }

    // What is due.

    /// Moves the connection on by itself as far as it goes: sends, reads, discards, ends. Returns what needs the
    /// handler, the server or another turn.
    #[inline]
    pub(crate) fn advance(
        &mut self,
        buffer: &mut [u8],
        limits: &Limits,
        now: u64,
        allowance: &mut Allowance,
        stats: &mut Stats,
    ) -> Step {
        if self.queue.is_some() && self.has(WRITABLE) && !self.has(CONNECTING | ABORTING) {
            self.flush(now, allowance, stats);
            if self.queue.is_some() && self.has(WRITABLE) {
                return Step::Again;
            }
        }
        if self.has(UNUSUAL) {
            if let Some(step) = self.advance_unusual(buffer, limits, now, allowance) {
                return step;
            }
        }
        if self.has(FULL) {
            if self.unsent() > limits.output_low_water {
                return Step::Rest;
            }
            self.put(FULL, false);
            if let Some(carry) = &mut self.carry {
                carry.since = now;
            }
            return Step::Writable;
        }
        if self.has(PAUSED) {
            return Step::Rest;
        }
        if self.has(HANDLE_DUE) && self.take(HANDLE_DUE) && self.carry.is_some() {
            return Step::Handle(0);
        }
        if self.has(READABLE) && !self.has(EOF) {
            match self.read(buffer, now, allowance, stats) {
                Some(step) => return step,
                None if self.has(ENDING) => return self.wind_down(limits, now),
                None => {}
            }
        }
        if self.has(EOF) {
            return self.after_eof(limits, now);
        }
        // The read may have found out that nothing waits.
        if self.has(DRAINING) && self.drain_is_due() { Step::Drain } else { Step::Rest }
    }

    /// Everything but reading, handling and writing.
    #[cold]
    fn advance_unusual(
        &mut self,
        buffer: &mut [u8],
        limits: &Limits,
        now: u64,
        allowance: &mut Allowance,
    ) -> Option<Step> {
        if self.has(DEAD) {
            return Some(Step::Rest);
        }
        if self.has(LINGERING) && !self.has(ABORTING) {
            return Some(self.discard(buffer, allowance));
        }
        // A handler that took over is set up even if the end has come meanwhile, so that `finish` finds one that was.
        if !self.has(CONNECTING) && self.take(SETUP_DUE) {
            return Some(Step::Setup);
        }
        if self.has(ENDING) {
            return Some(self.wind_down(limits, now));
        }
        if self.has(CONNECTING) {
            if !self.has(WRITABLE) {
                return Some(Step::Rest);
            }
            match self.stream.connected() {
                Ok(true) => {
                    self.flags &= !CONNECTING;
                    self.activity = now;
                    if let Some(queue) = &mut self.queue {
                        queue.progress = now;
                    }
                    return Some(Step::Setup);
                }
                Ok(false) => {
                    self.put(WRITABLE, false);
                    return Some(Step::Rest);
                }
                Err(error) => return Some(Step::ConnectFailed(error)),
            }
        }
        if self.has(DRAINING) && self.drain_is_due() {
            return Some(Step::Drain);
        }
        if self.has(SHUT_DUE) && self.queue.is_none() {
            self.flags = self.flags & !SHUT_DUE | SHUT;
            return Some(Step::Shutdown);
        }
        None
    }

    /// Whether the handler is to be told now that the server stops: nothing moved for a while and nothing waits in
    /// either direction, or there is no more time to wait for that. It is told once.
    fn drain_is_due(&mut self) -> bool {
        let input_waits = self.has(READABLE) && !self.has(PAUSED | EOF);
        let quiet = self.has(DRAIN_QUIET) && self.queue.is_none() && !input_waits;
        let due = !self.has(DRAIN_TOLD) && (self.has(DRAIN_DUE) || quiet);
        self.put(DRAIN_TOLD, due || self.has(DRAIN_TOLD));
        due
    }

    /// Enough time has passed since the last byte.
    pub(crate) fn on_quiet(&mut self) {
        self.flags |= DRAIN_QUIET;
    }

    /// The end of the input is reached, and what came before it was read.
    fn after_eof(&mut self, limits: &Limits, now: u64) -> Step {
        if !self.has(EOF_HANDLED) {
            self.flags |= EOF_HANDLED;
            if self.carry.is_some() {
                return Step::Handle(0);
            }
        }
        if self.has(BROKEN) {
            self.end(Finish::Reset, false);
            return self.wind_down(limits, now);
        }
        if !self.has(EOF_TOLD) {
            self.flags |= EOF_TOLD;
            return Step::Eof;
        }
        // Both directions are over: nothing can happen here any more.
        if self.has(SHUT) {
            self.end(Finish::PeerClosed, false);
            return self.wind_down(limits, now);
        }
        if self.has(HUNG_UP) {
            self.end(Finish::Reset, true);
            return self.wind_down(limits, now);
        }
        Step::Rest
    }

    /// The way out: flush, `finish`, whatever that wrote, FIN, linger.
    fn wind_down(&mut self, limits: &Limits, now: u64) -> Step {
        if self.has(ABORTING | BROKEN) {
            self.queue = None;
        }
        if self.queue.is_some() {
            return Step::Rest; // The write timeout watches over it.
        }
        if !self.has(FINISHED) {
            return Step::Finish(self.why);
        }
        if self.has(ABORTING) && !self.has(BROKEN) {
            self.stream.reset_on_close();
        }
        if self.has(ABORTING | BROKEN | EOF) {
            return self.die();
        }
        self.flags |= LINGERING;
        self.activity = now;
        self.handler = u32::try_from(limits.linger_bytes_max).unwrap_or(u32::MAX);
        if limits.linger_timeout.is_zero() {
            self.handler = 0;
        }
        if self.has(SHUT) { Step::Again } else { Step::Shutdown }
    }

    fn die(&mut self) -> Step {
        self.flags |= DEAD;
        self.carry = None;
        self.queue = None;
        Step::Dead
    }

    /// The handler is gone; what it wrote in `finish` is still sent.
    pub(crate) fn set_finished(&mut self) {
        self.flags = self.flags & !OPEN | FINISHED | ENDING;
        self.carry = None;
    }

    /// Lingers: reads what the peer still sends and forgets it.
    fn discard(&mut self, buffer: &mut [u8], allowance: &mut Allowance) -> Step {
        loop {
            if self.handler == 0 {
                return self.die();
            }
            if !self.has(READABLE) {
                return Step::Rest;
            }
            if allowance.read == 0 {
                return Step::Again;
            }
            let most = buffer.len().min(allowance.read);
            match self.stream.read(&mut buffer[..most]) {
                Ok(0) => return self.die(),
                Ok(n) => {
                    allowance.read -= n;
                    self.handler = self.handler.saturating_sub(n as u32);
                    self.after_read(n < most);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.put(READABLE, false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.die(),
            }
        }
    }

    /// Unix: a short read means that the socket is drained, and more will bring an event.
    #[inline]
    fn after_read(&mut self, short: bool) {
        if cfg!(unix) && short && !self.has(READ_TO_END) {
            self.flags &= !READABLE;
        }
    }

    /// One read. `None`: nothing for the handler, the flags say the rest.
    #[inline]
    fn read(&mut self, buffer: &mut [u8], now: u64, allowance: &mut Allowance, stats: &mut Stats) -> Option<Step> {
        if allowance.read == 0 {
            return Some(Step::Again);
        }
        let most = buffer.len().min(allowance.read);
        loop {
            match self.stream.read(&mut buffer[..most]) {
                Ok(0) => {
                    self.flags |= EOF;
                    return None;
                }
                Ok(n) => {
                    self.after_read(n < most);
                    allowance.read -= n;
                    self.activity = now;
                    stats.bytes_in += n as u64;
                    return Some(Step::Handle(match &mut self.carry {
                        None => n,
                        Some(carry) => {
                            carry.bytes.extend_from_slice(&buffer[..n]);
                            0
                        }
                    }));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.put(READABLE, false);
                    return None;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.broken();
                    self.end(Finish::Reset, false);
                    return None;
                }
            }
        }
    }

    fn flush(&mut self, now: u64, allowance: &mut Allowance, stats: &mut Stats) {
        let Some(queue) = &mut self.queue else { return };
        let (sent, result) = queue.write_to(&mut self.stream, allowance.write);
        allowance.write -= sent;
        stats.bytes_out += sent as u64;
        if sent > 0 {
            queue.progress = now;
            self.activity = now;
        }
        match result {
            Ok(Flush::Empty) => self.queue = None,
            Ok(Flush::Blocked) => self.put(WRITABLE, false),
            Ok(Flush::Budget) => {}
            // What arrived before the connection broke is still read and handled.
            Err(_) => self.broken(),
        }
    }

    // Around a callback.

    /// Lends the output's parts to the callback that is about to run.
    #[inline]
    pub(crate) fn lend(&mut self) -> (Stream, Option<Box<Queue>>) {
        (std::mem::replace(&mut self.stream, Stream::LENT), self.queue.take())
    }

    #[inline]
    pub(crate) fn lend_carry(&mut self) -> Option<Box<Carry>> {
        self.carry.take()
    }

    #[inline]
    pub(crate) fn output_state(&self) -> (bool, bool) {
        let shut = self.has(SHUT_DUE | SHUT | BROKEN | ABORTING | FINISHED);
        (self.has(WRITABLE) && !self.has(CONNECTING), shut)
    }

    #[inline]
    pub(crate) fn input_ended(&self) -> bool {
        self.has(EOF) && !self.has(BROKEN)
    }

    /// Takes the output's parts back after a callback.
    #[inline]
    pub(crate) fn restore(&mut self, output: &mut Output<'_>, now: u64, stats: &mut Stats) {
        output.settle();
        // Swapped, not assigned: there is nothing to drop.
        std::mem::swap(&mut self.stream, &mut output.stream);
        std::mem::swap(&mut self.queue, &mut output.queue);
        if !output.writable {
            self.flags &= !WRITABLE;
        }
        if output.sent > 0 {
            self.activity = now;
            stats.bytes_out += output.sent as u64;
        }
        match output.fault {
            None => self.mark_full(output.limits),
            Some(OutputFault::Broken) => self.broken(),
            Some(OutputFault::Overflow) => self.end(Finish::OutputLimit, true),
        }
    }

    /// Keeps what a callback left of the input: the tail of the carry it was lent, or of the fresh bytes.
    pub(crate) fn keep(&mut self, carry: Option<Box<Carry>>, fresh: &[u8], consumed: usize, scan: Scan, now: u64) {
        if self.has(FINISHED | DEAD) {
            return;
        }
        let resumed = self.has(HANDLE_DUE);
        self.carry = Some(match carry {
            None => Box::new(Carry { bytes: fresh[consumed..].to_vec(), scan, since: now }),
            Some(mut carry) => {
                if consumed > 0 || resumed {
                    carry.since = now;
                }
                carry.bytes.drain(..consumed);
                carry.scan = scan;
                carry
            }
        });
    }

    /// Whether the handler leaves more unread than it may. Input that waits because reading is paused is bounded by
    /// that.
    pub(crate) fn input_overflows(&self, limits: &Limits) -> bool {
        let unread = self.carry.as_ref().map_or(0, |carry| carry.bytes.len());
        unread > limits.input_bytes_max && !self.has(PAUSED | FULL | ENDING)
    }

    // Deadlines.

    /// Whether the connection can rest without looking at its timer: one is armed, and nothing came up that is due
    /// earlier.
    #[inline]
    pub(crate) fn timer_stands(&self) -> bool {
        self.flags & (WATCHED | UNUSUAL) == WATCHED && self.carry.is_none() && self.queue.is_none()
    }

    /// A timer is armed, or is not any more.
    pub(crate) fn set_watched(&mut self, watched: bool) {
        self.put(WATCHED, watched);
    }

    /// The next moment at which a limit could pass, and which. What is paused stands still.
    pub(crate) fn deadline(&self, limits: &Limits, drain_quiet: std::time::Duration) -> Option<(u64, Due)> {
        let extra = self.extra.as_deref();
        let mut next: Option<(u64, Due)> = None;
        let mut consider = |since: u64, time: Option<std::time::Duration>, due| {
            if let Some(time) = time {
                let deadline = since.saturating_add(nanos(time));
                if next.is_none_or(|(earliest, _)| deadline < earliest) {
                    next = Some((deadline, due));
                }
            }
        };
        if self.has(DEAD | ABORTING) {
            return None;
        }
        if self.has(LINGERING) {
            consider(self.activity, Some(limits.linger_timeout), Due::Lingered);
            return next;
        }
        if self.has(CONNECTING) {
            consider(self.activity, limits.connect_timeout, Due::Limit(Timeout::Connect));
            return next;
        }
        if let Some(queue) = &self.queue {
            let timeout = extra.and_then(|extra| extra.write_timeout).unwrap_or(limits.write_timeout);
            consider(queue.progress, timeout, Due::Limit(Timeout::Write));
        }
        if self.has(ENDING) {
            return next;
        }
        if let Some(carry) = self.carry.as_ref().filter(|_| !self.has(PAUSED | FULL)) {
            let timeout = extra.and_then(|extra| extra.read_timeout).unwrap_or(limits.read_timeout);
            consider(carry.since, timeout, Due::Limit(Timeout::Read));
        }
        if self.has(DRAINING) && !self.has(DRAIN_TOLD | DRAIN_QUIET) {
            consider(self.activity, Some(drain_quiet), Due::Quiet);
        }
        let timeout = extra.and_then(|extra| extra.idle_timeout).unwrap_or(limits.idle_timeout);
        consider(self.activity, timeout, Due::Limit(Timeout::Idle));
        next
    }

    /// A batch that began at `begun` took until `now`: so did what was stamped in it.
    pub(crate) fn restamp(&mut self, begun: u64, now: u64) {
        let stamps = [
            Some(&mut self.activity),
            self.carry.as_mut().map(|carry| &mut carry.since),
            self.queue.as_mut().map(|queue| &mut queue.progress),
        ];
        for stamp in stamps.into_iter().flatten().filter(|stamp| **stamp == begun) {
            *stamp = now;
        }
    }

    /// The handler wants to go on in spite of a timeout: its clock starts anew.
    pub(crate) fn forgive(&mut self, timeout: Timeout, now: u64) {
        match timeout {
            Timeout::Read => self.carry.iter_mut().for_each(|carry| carry.since = now),
            Timeout::Write => self.queue.iter_mut().for_each(|queue| queue.progress = now),
            Timeout::Idle | Timeout::Connect => self.activity = now,
        }
    }

    /// The linger is over.
    pub(crate) fn lingered(&mut self) {
        self.handler = 0;
    }

    /// Our FIN is sent.
    pub(crate) fn set_shut(&mut self) {
        self.flags |= SHUT;
    }

    /// The invariants that one connection can check by itself; the numbers are those of `docs/architecture.md`.
    pub(crate) fn check(&self, queued: bool) {
        if cfg!(debug_assertions) && !self.has(DEAD) {
            // 6: output waits only for the socket or for its turn.
            assert!(self.queue.is_none() || !self.has(WRITABLE) || queued || self.has(CONNECTING));
            // 8: no empty buffers.
            assert!(self.carry.as_ref().is_none_or(|carry| !carry.bytes.is_empty()));
            assert!(self.queue.as_ref().is_none_or(|queue| queue.len() > 0));
            // 3: a finished connection has no handler to call.
            assert!(!(self.has(FINISHED) && self.has(OPEN)));
        }
    }
}

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
    Shared(Arc<[u8]>),
}

impl Payload<'_> {
    fn len(&self) -> usize {
        match self {
            Payload::Copied(bytes) => bytes.len(),
            Payload::Shared(bytes) => bytes.len(),
        }
    }
}

/// What became of bytes sent to another connection.
///
/// ```
/// # use socketserver::{ConnectionId, Request, Sent};
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
    /// Queued.
    Queued,
    /// Queued, and the output is above [`Limits::output_high_water`]: send no more until the receiving connection's
    /// `writable` is called.
    Full,
    /// Not queued: it would pass [`Limits::output_bytes_max`] and the policy is [`Overflow::Refuse`].
    Refused,
    /// Not queued: that connection is gone or on its way out, or was lost over this
    /// ([`Overflow::Close`]).
    Gone,
}

pub(crate) fn nanos(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
