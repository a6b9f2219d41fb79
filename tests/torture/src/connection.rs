//! One connection to the server, which does what its plan says.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use fastrand::Rng;
use mio::event::Source;

use crate::client::{Activity, Answers, BUDGET, Client, SEARCHED, SHOWN, Step};
use crate::failure::{Failure, Progress};
use crate::pattern::Pattern;
use crate::plan::{After, End, Plan};
use crate::stream::Stream;

pub(crate) struct Connection {
    stream: Stream,
    plan: Plan,
    pattern: Pattern,
    /// Chooses the length of each piece.
    random: Rng,
    /// Nothing may take longer to happen.
    patience: Duration,

    activity: Activity,
    connected: bool,
    half_closed: bool,

    sent: u64,
    answered: u64,
    /// Bytes of the piece under way that are not sent yet.
    piece_left: usize,
    /// Before this no further piece is begun.
    next_piece: Instant,
    /// Before this nothing is read.
    deaf_until: Instant,
    /// Since when an answer is awaited, from its connection on.
    asked: Instant,
}

impl Client for Connection {
    fn source(&mut self) -> &mut dyn Source {
        self.stream.source()
    }

    fn activity(&mut self) -> &mut Activity {
        &mut self.activity
    }

    fn advance(&mut self, now: Instant, buffer: &mut [u8], answers: &mut Answers) -> Result<Step, Failure> {
        if !self.connected && self.activity.writable {
            self.connected = self.stream.is_connected().map_err(Failure::Connect)?;
            if self.connected {
                self.activity.moved = now;
            }
        }
        if self.connected {
            self.send(now, buffer)?;
            let ended = self.receive(now, buffer, answers)?;
            if ended {
                let complete = self.half_closed && self.answered == self.plan.bytes;
                return if complete { Ok(Step::Done) } else { Err(self.ended()) };
            }
            let reached = match self.plan.after {
                After::Sent => self.sent,
                After::Answered => self.answered,
            };
            if reached == self.plan.bytes && !self.half_closed {
                if self.plan.end == End::Reset {
                    self.stream.reset_when_closed().map_err(|error| self.broken(error))?;
                    answers.resets += 1;
                }
                if self.plan.end != End::HalfClose {
                    return Ok(Step::Done);
                }
                self.half_close(now)?;
            }
            if self.can_send(now) || self.can_receive(now) {
                return Ok(Step::Again);
            }
        }
        let wake = self.wake(now);
        if wake <= now { Err(self.stalled()) } else { Ok(Step::Wait(wake)) }
    }

    fn retire(&mut self) -> bool {
        let bytes = (self.sent + self.piece_left as u64).max(1);
        std::mem::replace(&mut self.plan.bytes, bytes) != bytes
    }

    fn position_of(&self, bytes: &[u8]) -> Option<u64> {
        let part = self.answered.saturating_sub(SEARCHED)..self.sent.min(self.answered + SEARCHED);
        self.pattern.find(bytes, part)
    }
}

impl Connection {
    pub(crate) fn new(stream: Stream, plan: Plan, mut random: Rng, patience: Duration, now: Instant) -> Self {
        Connection {
            stream,
            pattern: Pattern::new(random.u64(..)),
            random,
            patience,
            activity: Activity::new(now),
            connected: false,
            half_closed: false,
            sent: 0,
            answered: 0,
            piece_left: 0,
            next_piece: now,
            deaf_until: now + plan.deaf,
            asked: now,
            plan,
        }
    }

    fn can_send(&self, now: Instant) -> bool {
        let answered = !self.plan.ping_pong || self.sent == self.answered;
        let may_begin = self.sent < self.plan.bytes && now >= self.next_piece && answered;
        self.activity.writable && (self.piece_left > 0 || may_begin)
    }

    fn can_receive(&self, now: Instant) -> bool {
        self.activity.readable && now >= self.deaf_until
    }

    fn half_close(&mut self, now: Instant) -> Result<(), Failure> {
        match self.stream.half_close() {
            Ok(()) => (self.half_closed, self.activity.moved) = (true, now),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.activity.writable = false,
            Err(error) => return Err(self.broken(error)),
        }
        Ok(())
    }

    fn send(&mut self, now: Instant, buffer: &mut [u8]) -> Result<(), Failure> {
        if self.activity.writable {
            match self.stream.flush() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.activity.writable = false,
                flushed => flushed.map_err(|error| self.broken(error))?,
            }
        }
        for _ in 0..BUDGET {
            if !self.can_send(now) {
                break;
            }
            if self.piece_left == 0 {
                let left = usize::try_from(self.plan.bytes - self.sent).unwrap_or(usize::MAX);
                self.piece_left = self.random.usize(self.plan.piece.clone()).min(left);
                if self.sent > 0 && self.sent == self.answered {
                    self.asked = now;
                }
            }
            let piece_left = self.piece_left.min(buffer.len());
            let piece = &mut buffer[..piece_left];
            self.pattern.fill(self.sent, piece);
            match self.stream.write(piece) {
                Ok(n) => {
                    self.sent += n as u64;
                    self.piece_left -= n;
                    self.activity.moved = now;
                    if self.piece_left == 0 {
                        self.next_piece = now + self.plan.pause;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.activity.writable = false,
                Err(error) => return Err(self.broken(error)),
            }
        }
        Ok(())
    }

    /// Returns whether the end was read.
    fn receive(&mut self, now: Instant, buffer: &mut [u8], answers: &mut Answers) -> Result<bool, Failure> {
        for _ in 0..BUDGET {
            if !self.can_receive(now) {
                break;
            }
            match self.stream.read(buffer) {
                Ok(0) => return Ok(true),
                Ok(n) => {
                    self.compare(&buffer[..n])?;
                    self.answered += n as u64;
                    answers.bytes += n as u64;
                    self.activity.moved = now;
                    if self.answered == self.sent {
                        answers.took = Some(now - self.asked);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.activity.readable = false,
                Err(error) => return Err(self.broken(error)),
            }
        }
        Ok(false)
    }

    fn compare(&self, bytes: &[u8]) -> Result<(), Failure> {
        let asked = bytes.len().min(usize::try_from(self.sent - self.answered).unwrap_or(usize::MAX));
        if let Some(at) = self.pattern.mismatch(self.answered, &bytes[..asked]) {
            let position = self.answered + at as u64;
            let mut expected = [0];
            self.pattern.fill(position, &mut expected);
            let seen = bytes[at..].iter().copied().take(SHOWN).collect();
            return Err(Failure::Wrong { position, expected: expected[0], seen });
        }
        if asked < bytes.len() {
            let seen = bytes[asked..].iter().copied().take(SHOWN).collect();
            return Err(Failure::Unasked { sent: self.sent, seen });
        }
        Ok(())
    }

    /// When there is something to do, or to complain about, if nothing happens before.
    fn wake(&self, now: Instant) -> Instant {
        // What it does not do by itself is not the server's fault.
        let quiet_until = self.activity.moved.max(self.deaf_until).max(self.next_piece);
        let own = [self.deaf_until, self.next_piece].into_iter().filter(|time| *time > now);
        own.fold(quiet_until + self.patience, Instant::min)
    }

    fn progress(&self) -> Progress {
        Progress { sent: self.sent, answered: self.answered }
    }

    fn ended(&self) -> Failure {
        Failure::Ended(self.progress())
    }

    fn broken(&self, error: io::Error) -> Failure {
        Failure::Broken { error, progress: self.progress() }
    }

    fn stalled(&self) -> Failure {
        let awaited = if !self.connected {
            "a connection"
        } else if self.answered < self.sent {
            "an answer"
        } else if self.half_closed {
            "the end"
        } else {
            "room to send"
        };
        Failure::Stalled { waited: self.patience, awaited, progress: self.progress() }
    }
}
