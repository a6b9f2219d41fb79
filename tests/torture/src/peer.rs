//! One peer of a datagram server, which does what its exchange says.
//!
//! A datagram may be lost on its way, in either direction, and may be overtaken. So an answer belongs to any datagram
//! that was sent and has none yet, and it has to be that datagram, byte for byte. Of one that is longer
//! than the server takes, the beginning or nothing may come back.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use fastrand::Rng;
use mio::event::Source;

use crate::client::{Activity, Answers, BUDGET, Client, SEARCHED, SHOWN, Step};
use crate::datagram::DatagramSocket;
use crate::exchange::{Exchange, Expected};
use crate::failure::{Failure, Progress};
use crate::pattern::Pattern;
use crate::trials::any_magnitude;

pub(crate) struct Peer {
    socket: DatagramSocket,
    exchange: Exchange,
    /// A longer datagram need not be answered, nor in full.
    longest: usize,
    pattern: Pattern,
    /// Chooses how long each datagram is.
    random: Rng,
    /// Nothing may take longer to happen.
    patience: Duration,

    /// Sending again does not move it.
    activity: Activity,

    /// Datagrams that were begun.
    begun: u64,
    /// How often the newest one is still to be sent.
    unsent: u32,
    /// The newest one has to be answered first.
    awaited: bool,
    /// Those that were sent more often than answered, the newest one last.
    unanswered: VecDeque<Datagram>,
    /// Where in the pattern the next one begins.
    position: u64,
    bytes_answered: u64,
    /// Before this none is begun.
    next_datagram: Instant,
    /// When the newest one is sent again, if it is awaited.
    again: Instant,
    /// Before this nothing is read.
    deaf_until: Instant,
    /// When the newest one was sent for the first time.
    asked: Instant,
}

struct Datagram {
    position: u64,
    bytes: usize,
    /// How many answers there may still be.
    answers: u32,
}

impl Peer {
    pub(crate) fn new(
        socket: DatagramSocket,
        exchange: Exchange,
        longest: usize,
        mut random: Rng,
        patience: Duration,
        now: Instant,
    ) -> Self {
        Peer {
            socket,
            longest,
            pattern: Pattern::new(random.u64(..)),
            random,
            patience,
            activity: Activity::new(now),
            begun: 0,
            unsent: 0,
            awaited: false,
            unanswered: VecDeque::new(),
            position: 0,
            bytes_answered: 0,
            next_datagram: now,
            again: now,
            deaf_until: now + exchange.deaf,
            asked: now,
            exchange,
        }
    }

    fn can_send(&self, now: Instant) -> bool {
        self.activity.writable && (self.unsent > 0 || self.is_to_send_again(now) || self.may_begin(now))
    }

    fn is_to_send_again(&self, now: Instant) -> bool {
        self.awaited && now >= self.again
    }

    fn may_begin(&self, now: Instant) -> bool {
        !self.awaited && self.begun < self.exchange.datagrams && now >= self.next_datagram
    }

    fn can_receive(&self, now: Instant) -> bool {
        self.activity.readable && now >= self.deaf_until && self.exchange.answers != Expected::Unread
    }

    fn send(&mut self, now: Instant, buffer: &mut [u8]) -> Result<(), Failure> {
        for _ in 0..BUDGET {
            if !self.can_send(now) {
                break;
            }
            if self.unsent == 0 && self.awaited {
                self.unsent = 1;
            } else if self.unsent == 0 {
                self.begin(now);
            }
            let newest = self.unanswered.back_mut().expect("it is there until all of it is sent and answered");
            let bytes = &mut buffer[..newest.bytes];
            self.pattern.fill(newest.position, bytes);
            match self.socket.send(bytes) {
                Ok(_) => {
                    newest.answers += 1;
                    self.unsent -= 1;
                    self.again = now + AGAIN;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.activity.writable = false,
                Err(error) => return Err(self.broken(error)),
            }
        }
        Ok(())
    }

    fn begin(&mut self, now: Instant) {
        let (shortest, longest) = (*self.exchange.bytes.start(), *self.exchange.bytes.end());
        let bytes = shortest + any_magnitude(&mut self.random, (longest - shortest + 1) as u64) as usize - 1;
        self.unanswered.push_back(Datagram { position: self.position, bytes, answers: 0 });
        self.position += bytes as u64;
        self.begun += 1;
        self.unsent = self.exchange.copies;
        self.awaited = self.exchange.answers == Expected::Each && bytes <= self.longest;
        self.next_datagram = now + self.exchange.pause;
        self.asked = now;
        self.activity.moved = now;
    }

    fn receive(&mut self, now: Instant, buffer: &mut [u8], answers: &mut Answers) -> Result<(), Failure> {
        for _ in 0..BUDGET {
            if !self.can_receive(now) {
                break;
            }
            match self.socket.receive(buffer) {
                Ok(n) => {
                    let index = self.compare(&buffer[..n])?;
                    self.bytes_answered += n as u64;
                    answers.bytes += n as u64;
                    self.activity.moved = now;
                    self.answered(index, now, answers);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.activity.readable = false,
                Err(error) => return Err(self.broken(error)),
            }
        }
        Ok(())
    }

    /// Returns which of the unanswered datagrams these bytes are.
    fn compare(&self, bytes: &[u8]) -> Result<usize, Failure> {
        let is_this = |datagram: &Datagram| {
            let returned = (datagram.bytes.min(self.longest)..=datagram.bytes).contains(&bytes.len());
            datagram.answers > 0 && returned && self.pattern.mismatch(datagram.position, bytes).is_none()
        };
        self.unanswered.iter().position(is_this).ok_or_else(|| Failure::Foreign {
            unanswered: self.unanswered.len(),
            bytes: bytes.len(),
            seen: bytes[..bytes.len().min(SHOWN)].to_vec(),
        })
    }

    fn answered(&mut self, index: usize, now: Instant, answers: &mut Answers) {
        let is_newest = index + 1 == self.unanswered.len();
        if is_newest && self.awaited {
            self.awaited = false;
            answers.took = Some(now - self.asked);
        }
        let datagram = &mut self.unanswered[index];
        datagram.answers -= 1;
        if datagram.answers == 0 && !(is_newest && self.unsent > 0) {
            self.unanswered.remove(index);
        }
    }

    fn is_done(&self, now: Instant) -> bool {
        let sent = self.begun == self.exchange.datagrams && self.unsent == 0 && !self.awaited;
        sent && match self.exchange.answers {
            Expected::Unread => now >= self.deaf_until,
            _ => self.unanswered.is_empty() || now >= self.quiet_at(),
        }
    }

    /// Returns when it can be taken for lost what has not come.
    fn quiet_at(&self) -> Instant {
        self.activity.moved.max(self.deaf_until) + QUIET
    }

    /// Returns when there is something to do, or to complain about, if nothing happens before.
    fn wake(&self, now: Instant) -> Instant {
        let own = [self.deaf_until, self.next_datagram, self.again, self.quiet_at()];
        let own = own.into_iter().filter(|time| *time > now);
        // What it does not do by itself is not the server's fault.
        let quiet_until = self.activity.moved.max(self.deaf_until).max(self.next_datagram);
        own.fold(quiet_until + self.patience, Instant::min)
    }

    fn stalled(&self) -> Failure {
        let awaited = if self.unsent > 0 { "room to send" } else { "an answer" };
        Failure::Stalled { waited: self.patience, awaited, progress: self.progress() }
    }

    fn broken(&self, error: io::Error) -> Failure {
        Failure::Broken { error, progress: self.progress() }
    }

    fn progress(&self) -> Progress {
        Progress { sent: self.position, answered: self.bytes_answered.min(self.position) }
    }
}

impl Client for Peer {
    fn source(&mut self) -> &mut dyn Source {
        self.socket.source()
    }

    fn activity(&mut self) -> &mut Activity {
        &mut self.activity
    }

    fn advance(&mut self, now: Instant, buffer: &mut [u8], answers: &mut Answers) -> Result<Step, Failure> {
        self.receive(now, buffer, answers)?;
        self.send(now, buffer)?;
        if self.is_done(now) {
            if self.exchange.answers != Expected::Unread {
                answers.unanswered += self.unanswered.iter().map(|datagram| u64::from(datagram.answers)).sum::<u64>();
            }
            return Ok(Step::Done);
        }
        if self.can_send(now) || self.can_receive(now) {
            return Ok(Step::Again);
        }
        let wake = self.wake(now);
        if wake <= now { Err(self.stalled()) } else { Ok(Step::Wait(wake)) }
    }

    fn retire(&mut self) -> bool {
        let datagrams = self.begun.max(1);
        std::mem::replace(&mut self.exchange.datagrams, datagrams) != datagrams
    }

    fn position_of(&self, bytes: &[u8]) -> Option<u64> {
        self.pattern.find(bytes, self.position.saturating_sub(SEARCHED)..self.position)
    }
}

/// After this a datagram without an answer is sent again, if it has to have one.
const AGAIN: Duration = Duration::from_millis(200);

/// If nothing came for so long when all was sent, nothing more will come.
const QUIET: Duration = Duration::from_millis(500);
