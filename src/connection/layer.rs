//! A connection under TLS. Its handshake comes before `setup`, its input is decrypted before it is handled, and its end
//! is announced to the peer by `close_notify`. A connection without TLS uses nothing of this file.
//!
//! The handshake pauses everything else. It is not a stage, because a handler can start TLS at any time. Output that is
//! written in the meantime waits in the queue. After `close_notify` is sent, the layer is removed, and the socket ends like
//! any other.

use std::io;

use super::axes::{Drain, Inbound};
use super::carry::{Carry, Scan};
use super::deadlines::Due;
use super::output::Output;
use super::reading::after_read;
use super::state::*;
use super::{Connection, Step, Turn};
use crate::lifecycle::{EndReason, Timeout};
use crate::limits::Limits;
use crate::net::layered::{BUFFER_BYTES_MIN, Received, WIRE_MAX};
use crate::net::tls::{Start, suppresses_ragged_eofs};
use crate::net::{Secured, Stream};

impl Connection {
    /// An accepted connection has its handshake before its `setup`.
    pub(crate) fn await_handshake(&mut self, now: u64) {
        self.state.phase.begin_setup();
        self.state.phase.secure();
        self.begin_handshake(now);
    }

    /// Starts TLS after the first `bare` bytes of the queue. Returns `false` if the connection is ending or has TLS.
    pub(crate) fn start_tls(&mut self, start: Start, bare: usize, now: u64) -> bool {
        let starts = !self.state.phase.is_secured() && !self.state.phase.is_ending();
        if starts {
            self.io.stream.secure(start, bare, now);
            self.state.phase.secure();
            self.state.put(WRITABLE, !self.state.phase.is_connecting());
            self.state.phase.unwatched();
        }
        starts
    }

    /// TLS does not start, because the callback has ended the connection. Drops the output after the first `bare` bytes of
    /// the queue, because it was meant to be encrypted.
    pub(crate) fn stay_bare(&mut self, bare: usize) {
        self.io.queue.take_if(|queue| {
            queue.truncate(bare);
            queue.len() == 0
        });
        self.state.put(WRITABLE, true); // Output was only held back.
    }

    /// The socket is connected, and the time for the handshake begins.
    pub(super) fn begin_handshake(&mut self, now: u64) {
        self.io.stream.secured_mut().into_iter().for_each(|secured| secured.since = now);
    }

    /// The steps of TLS, which come before all others. `None`: the others follow.
    #[cold]
    pub(super) fn before_others(&mut self, turn: &mut Turn<'_>) -> Option<Step> {
        if self.state.phase.is_handshaking() {
            return self.handshake(turn);
        }
        self.flush_layer();
        None
    }

    fn handshake(&mut self, turn: &mut Turn<'_>) -> Option<Step> {
        loop {
            let Some(secured) = self.io.stream.secured_mut().filter(|secured| !secured.is_bare()) else {
                return Some(self.stall(turn));
            };
            match secured.speak().and_then(|()| secured.flush()) {
                Ok(all) => self.state.put(WRITABLE, all),
                Err(error) => return Some(Step::HandshakeFailed(error)),
            }
            if !secured.is_handshaking() {
                return self.complete_handshake(turn);
            }
            if !self.state.has(READABLE) {
                return Some(self.stall(turn));
            }
            let most = turn.budget.read_left().min(WIRE_MAX);
            if most == 0 || turn.buffer.len() < BUFFER_BYTES_MIN || !turn.budget.handshakes.admit(turn.stats.turns) {
                return Some(Step::Again);
            }
            let has_begun = secured.layer().is_some();
            match secured.read(turn.buffer, most, turn.budget.now) {
                Ok(Received::Bytes { wire, plain, is_drained, .. }) => {
                    if secured.has_sealed() {
                        turn.budget.handshakes.count();
                    }
                    turn.budget.read += wire;
                    self.state.flags = after_read(self.state.flags, is_drained);
                    self.state.activity = turn.budget.now;
                    if plain > 0 {
                        turn.stats.bytes_in += plain as u64;
                        self.hold_early(&turn.buffer[..plain], turn.budget.now);
                    }
                }
                Ok(Received::Failed(error)) => {
                    let _ = secured.flush(); // The alert. The rest of it is sent before the end.
                    return Some(Step::HandshakeFailed(error));
                }
                Ok(Received::Closed | Received::Truncated) if !has_begun => {
                    return Some(self.has_left(EndReason::PeerClosed, turn));
                }
                Ok(Received::Closed | Received::Truncated) => {
                    let source = io::Error::new(io::ErrorKind::UnexpectedEof, "the peer has closed the connection");
                    return Some(Step::HandshakeFailed(source));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.state.put(READABLE, false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Some(Step::Again),
                Err(error) => {
                    self.broken();
                    return Some(match has_begun {
                        true => Step::HandshakeFailed(error),
                        false => self.has_left(EndReason::Reset, turn),
                    });
                }
            }
        }
    }

    /// The client has left before its first byte, as health checks do.
    fn has_left(&mut self, why: EndReason, turn: &mut Turn<'_>) -> Step {
        self.abandon_handshake(turn);
        self.handshake_failed(why);
        self.close(turn)
    }

    /// The connection ends, and its handshake with it, if there is one.
    #[cold]
    pub(super) fn abandon_handshake(&mut self, turn: &mut Turn<'_>) {
        if self.state.phase.is_handshaking() {
            self.state.phase.give_up_handshake();
            turn.stats.handshakes_abandoned += 1;
        }
    }

    /// Plaintext that came with the end of the handshake waits for `setup`.
    fn hold_early(&mut self, plain: &[u8], now: u64) {
        match &mut self.carry {
            Some(carry) => carry.extend(plain),
            None => self.carry = Some(Box::new(Carry::new(plain, Scan::default(), now))),
        }
    }

    /// The handshake waits for the peer. A stop does not wait for a peer that is silent, unless output from before the
    /// handshake is still to be sent.
    fn stall(&mut self, turn: &mut Turn<'_>) -> Step {
        if self.is_bare() || !matches!(self.state.phase.drain(), Drain::Quiet | Drain::Due) {
            return Step::Rest;
        }
        self.state.end(EndReason::Stopped, true);
        self.close(turn)
    }

    /// The handshake is complete: `setup` follows, or, if the handler has started TLS, `writable`.
    fn complete_handshake(&mut self, turn: &mut Turn<'_>) -> Option<Step> {
        let is_resumed = self.io.stream.secured().is_some_and(|secured| secured.is_resumed());
        turn.stats.handshakes_completed += 1;
        turn.stats.handshakes_resumed += u64::from(is_resumed);
        self.state.activity = turn.budget.now;
        self.state.put(WRITABLE, true);
        self.io.queue.iter_mut().for_each(|queue| queue.progress = turn.budget.now);
        self.state.phase.unwatched();
        if let Some(carry) = &mut self.carry {
            carry.since = turn.budget.now;
            self.state.phase.owe_handle(); // After `setup`, or after `writable`.
        }
        if self.state.phase.complete_handshake() { None } else { Some(Step::Writable) }
    }

    /// The connection leaves the reactor after its handshake. Returns the socket, and plaintext that has come with the
    /// end of the handshake.
    pub(crate) fn leave(&mut self) -> (Stream, Vec<u8>) {
        let stream = std::mem::replace(&mut self.io.stream, Stream::pending());
        let plain = self.carry.as_ref().map_or_else(Vec::new, |carry| carry.unread().to_vec());
        self.state.end(EndReason::Done, true);
        self.state.phase.finished();
        self.die(Step::Dead);
        (stream, plain)
    }

    /// The handshake will not be completed. Nothing that waits for it is sent.
    pub(crate) fn handshake_failed(&mut self, why: EndReason) {
        self.state.phase.give_up_handshake();
        self.io.queue = None;
        self.carry = None;
        self.state.end(why, false);
    }

    /// Reads records for the handler. `None`: there is nothing for it, and the flags are up to date.
    #[cold]
    pub(super) fn read_secured(&mut self, turn: &mut Turn<'_>) -> Option<Step> {
        loop {
            // A record is opened as a whole, even if the handler prefers less at once.
            let most = turn.budget.read_left().min(self.state.bite().max(READ_MIN)).min(WIRE_MAX);
            if most == 0 || turn.buffer.len() < BUFFER_BYTES_MIN {
                return Some(Step::Again);
            }
            let secured = self.io.stream.secured_mut()?;
            match secured.read(turn.buffer, most, turn.budget.now) {
                Ok(Received::Bytes { wire, plain, records, is_drained }) => {
                    turn.budget.read += wire + records * RECORD_COST;
                    if secured.has_carried() {
                        self.state.phase.unwatched(); // It has the read timeout.
                        self.state.activity = turn.budget.now; // A stop does not find the connection quiet.
                    }
                    self.state.flags = after_read(self.state.flags, is_drained);
                    if plain > 0 {
                        self.state.activity = turn.budget.now;
                        turn.stats.bytes_in += plain as u64;
                        return Some(Step::Handle(match self.carry {
                            None => plain,
                            Some(_) => self.carry_on(&turn.buffer[..plain], turn.budget),
                        }));
                    }
                    if !self.state.has(READABLE) {
                        self.flush_layer();
                        return None;
                    }
                }
                Ok(Received::Closed) => self.state.phase.input_ended(),
                Ok(Received::Truncated) if suppresses_ragged_eofs(secured.start()) => self.state.phase.input_ended(),
                Ok(Received::Truncated) => self.state.end(EndReason::Truncated, false),
                Ok(Received::Failed(error)) => {
                    self.io.queue = None;
                    let _ = secured.flush(); // The alert, before `finish` can write. The rest of it is sent at the end.
                    return Some(Step::TlsFailed(error));
                }
                Err(error) => {
                    self.read_failed(&error, turn.stats);
                    return self.is_readable().then_some(Step::Again);
                }
            }
            if self.state.phase.is_ending() || self.state.phase.inbound() != Inbound::Open {
                return None;
            }
        }
    }

    /// The read timeout of an incomplete record starts again.
    pub(super) fn restart_record(&mut self, now: u64) {
        if self.io.stream.secured_mut().is_some_and(|secured| secured.restart_record(now)) {
            self.state.phase.unwatched();
        }
    }

    /// Sends the messages that TLS has produced itself, such as tickets and answers to key updates.
    fn flush_layer(&mut self) {
        if !self.state.has(WRITABLE) || !self.has_sealed() {
            return;
        }
        match self.io.stream.secured_mut().map_or(Ok(true), Secured::flush) {
            Ok(all) => self.state.put(WRITABLE, all),
            Err(_) => self.broken(),
        }
    }

    /// Like [`rests`](Self::rests), under TLS.
    #[inline]
    pub(crate) fn rests_under_tls(&self) -> bool {
        self.state.phase.is_plain_under_tls()
            && !self.state.has(READABLE)
            && self.holds_nothing()
            && self.io.stream.secured().is_some_and(|secured| !secured.keeps())
    }

    /// Sends `close_notify`, after all output. Returns whether the socket has accepted it.
    pub(super) fn is_close_notify_sent(&mut self, now: u64) -> bool {
        let Some(secured) = self.io.stream.secured_mut() else { return true };
        match secured.close(now) {
            Ok(all) => {
                self.state.put(WRITABLE, all);
                all
            }
            Err(_) => {
                self.broken();
                false
            }
        }
    }

    /// Ends TLS, and removes the layer. Returns whether that is done, or the connection is broken.
    #[cold]
    pub(super) fn is_layer_removed(&mut self, now: u64) -> bool {
        if self.state.phase.is_aborting() || self.state.phase.is_broken() {
            return true;
        }
        if !self.is_close_notify_sent(now) {
            return self.state.phase.is_broken();
        }
        let is_at_end = self.io.stream.secured().is_none_or(Secured::is_at_end);
        self.io.stream = std::mem::replace(&mut self.io.stream, Stream::pending()).bare();
        self.state.phase.remove_layer(is_at_end);
        true
    }

    /// Returns whether sealed bytes wait for the socket. A broken connection sends nothing more.
    pub(super) fn has_sealed(&self) -> bool {
        self.io.stream.secured().is_some_and(Secured::has_sealed) && !self.state.phase.is_broken()
    }

    /// Returns whether output waits for the handshake.
    pub(super) fn awaits_handshake(&self) -> bool {
        self.state.phase.is_handshaking() && !self.io.stream.secured().is_some_and(Secured::is_bare)
    }

    /// Returns whether the handshake waits for output from before it.
    pub(super) fn is_bare(&self) -> bool {
        self.state.phase.is_handshaking() && !self.awaits_handshake()
    }

    /// The deadline of TLS itself.
    pub(super) fn layer_deadline(&self, limits: &Limits) -> Option<(u64, Option<std::time::Duration>, Due)> {
        let (state, secured) = (&self.state, self.io.stream.secured()?);
        if state.phase.is_handshaking() {
            return Some((secured.since, limits.handshake_timeout, Due::Handshake));
        }
        let which = match state.phase.is_ending() {
            true if secured.has_sealed() && self.io.queue.is_none() => Timeout::Write,
            false if secured.has_carried() && !state.is_read_paused() => Timeout::Read,
            _ => return None,
        };
        Some((secured.since, state.time_limit(which, limits), Due::Limit(which)))
    }
}

impl Output<'_> {
    pub(crate) fn secured(&self) -> Option<&Secured> {
        self.io.stream.secured()
    }

    /// Reading goes on: the read timeout of an incomplete record starts again.
    pub(crate) fn restart_record(&mut self) {
        if let Some(secured) = self.io.stream.secured_mut() {
            secured.restart_record(self.budget.now);
        }
    }

    /// Output that is written from now on waits for the handshake, or for [`Connection::stay_bare`]. Returns how many bytes
    /// of the earlier output are unsent.
    pub(crate) fn hold(&mut self) -> usize {
        self.send(&[]);
        self.is_not_writable();
        self.io.queue.as_ref().map_or(0, |queue| queue.len())
    }
}

/// The minimum that is read for a slow handler: some records of a few bytes.
const READ_MIN: usize = 4 * 1024;
/// The cost of opening a record, in addition to its bytes and in bytes.
const RECORD_COST: usize = 330;
