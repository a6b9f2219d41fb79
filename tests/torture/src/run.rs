//! Runs one trial to its end, with two canaries beside it: one client that asks all the time, and newcomers, one after
//! the other, that connect, ask once and end. Whatever the trial does to the server, they have to be answered.

use std::io;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::client::Client;
use crate::connection::Connection;
use crate::crowd::{Crowd, Name, Role};
use crate::datagram::DATAGRAM_BYTES_MAX;
use crate::exchange::Exchange;
use crate::figures::Figures;
use crate::peer::Peer;
use crate::plan::Plan;
use crate::target::{Socket, Target};
use crate::trials::{Extent, Trial};

/// One run of a trial.
pub(crate) struct Run<'a> {
    pub(crate) target: &'a Target,
    pub(crate) trial: Trial,
    pub(crate) extent: Extent,
    /// How long the server may take for anything.
    pub(crate) patience: Duration,
    /// Decides what each client does.
    pub(crate) seed: u64,
}

/// How far a run is.
pub(crate) struct Standing {
    pub(crate) done: usize,
    pub(crate) clients: usize,
    pub(crate) failures: u64,
}

impl Run<'_> {
    /// To its end, or until `go_on`, which is asked several times a second, says no.
    pub(crate) fn execute(&self, mut go_on: impl FnMut(&Standing) -> bool) -> io::Result<Figures> {
        let mut crowd = Crowd::new()?;
        let begun = Instant::now();
        let (mut started, mut newcomers) = (0, 0);
        let mut next_newcomer = begun;
        // Since when no client can begin, because there is no port or no room in the backlog.
        let mut stuck: Option<Instant> = None;
        let mut canary = false;
        loop {
            let now = Instant::now();
            let clients = self.extent.clients;
            let standing =
                Standing { done: started - crowd.count(Role::Trial), clients, failures: crowd.figures.failures };
            if !go_on(&standing) {
                break;
            }
            if let Some(why) = self.hopeless(&crowd, now - begun, stuck.map(|since| now - since)) {
                crowd.figures.fail(why);
                break;
            }
            if crowd.figures.failures >= FAILURES_MAX {
                break;
            }
            if !canary {
                canary = self.start(&mut crowd, Name { role: Role::Canary, number: 0 })?;
            }
            let room = self.extent.at_once - crowd.count(Role::Trial);
            for _ in 0..room.min(clients - started).min(STARTS_PER_TURN) {
                let name = Name { role: Role::Trial, number: started as u64 };
                if !self.start(&mut crowd, name)? {
                    stuck.get_or_insert(now);
                    break;
                }
                stuck = None;
                started += 1;
            }
            if started < clients || crowd.count(Role::Trial) > 0 {
                if crowd.count(Role::Newcomer) == 0 && now >= next_newcomer {
                    let name = Name { role: Role::Newcomer, number: newcomers };
                    self.start(&mut crowd, name)?;
                    newcomers += 1;
                    next_newcomer = now + CANARY_PAUSE;
                }
            } else if crowd.len() > 0 {
                crowd.retire(Role::Canary);
            } else {
                break;
            }
            crowd.turn(TICK)?;
        }
        Ok(crowd.figures)
    }

    /// Returns whether a client could begin. If not, it may be tried again.
    fn start(&self, crowd: &mut Crowd, name: Name) -> io::Result<bool> {
        let socket = match self.target.connect() {
            Ok(socket) => socket,
            Err(error) if is_passing(&error) => return Ok(false),
            Err(error) => {
                crowd.figures.fail(format!("{name}: expected to connect, seen: {error}"));
                return Ok(true);
            }
        };
        // What a client does depends on its number, and not on what happened to others before.
        let stream_of_numbers = (name.role as u64) << 32;
        let mut random = Rng::with_seed(self.seed.wrapping_add(stream_of_numbers + name.number));
        let (now, patience, longest) = (Instant::now(), self.patience, self.target.longest);
        let client: Box<dyn Client> = match socket {
            Socket::Stream(stream) => {
                let plan = match name.role {
                    Role::Trial => self.trial.plan(&mut random),
                    Role::Canary => Plan { bytes: u64::MAX, piece: 1..=1_000, pause: CANARY_PAUSE, ..Plan::ping() },
                    Role::Newcomer => Plan::ping(),
                };
                Box::new(Connection::new(stream, plan, random, patience, now))
            }
            Socket::Datagram(socket) => {
                let exchange = match name.role {
                    Role::Trial => self.trial.exchange(&mut random, longest),
                    Role::Canary => {
                        let bytes = 1..=longest.min(1_000);
                        Exchange { datagrams: u64::MAX, bytes, pause: CANARY_PAUSE, ..Exchange::ping() }
                    }
                    Role::Newcomer => Exchange::ping(),
                };
                Box::new(Peer::new(socket, exchange, longest, random, patience, now))
            }
        };
        crowd.add(name, client)?;
        Ok(true)
    }

    /// Why there is no use in going on.
    fn hopeless(&self, crowd: &Crowd, took: Duration, stuck: Option<Duration>) -> Option<String> {
        if took > TRIAL_MAX {
            let open = crowd.len();
            Some(format!("expected the end within {} s, seen: {open} clients that go on", TRIAL_MAX.as_secs()))
        } else if stuck.is_some_and(|time| time > self.patience) {
            Some(format!("expected to connect within {} s, seen: no room", self.patience.as_secs_f32()))
        } else {
            None
        }
    }
}

/// Finds out whether the server echoes at all, and how long a datagram it answers in full.
pub(crate) fn probe(target: &mut Target, patience: Duration) -> Result<(), String> {
    if !target.is_for_datagrams() {
        return probe_with(target, patience, 1_000);
    }
    for bytes in [DATAGRAM_BYTES_MAX, 8_192, 1_472, 512] {
        if probe_with(target, patience.min(PROBE_PATIENCE), bytes).is_ok() {
            target.longest = bytes;
            return Ok(());
        }
    }
    target.longest = 1;
    probe_with(target, patience, 1)
}

fn probe_with(target: &Target, patience: Duration, bytes: usize) -> Result<(), String> {
    let failed = |error: io::Error| error.to_string();
    let (random, now) = (Rng::with_seed(0), Instant::now());
    let mut crowd = Crowd::new().map_err(failed)?;
    let client: Box<dyn Client> = match target.connect().map_err(failed)? {
        Socket::Stream(stream) => {
            let plan = Plan { bytes: bytes as u64, piece: bytes..=bytes, ..Plan::ping() };
            Box::new(Connection::new(stream, plan, random, patience, now))
        }
        Socket::Datagram(socket) => {
            let exchange = Exchange { bytes: bytes..=bytes, ..Exchange::ping() };
            Box::new(Peer::new(socket, exchange, bytes, random, patience, now))
        }
    };
    crowd.add(Name { role: Role::Newcomer, number: 0 }, client).map_err(failed)?;
    while crowd.len() > 0 {
        crowd.turn(TICK).map_err(failed)?;
    }
    crowd.figures.complaints.pop().map_or(Ok(()), Err)
}

/// Returns whether it is only for now that a client cannot begin: there is no free port, all are in TIME_WAIT, or no
/// room in the backlog of a Unix socket.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::WouldBlock)
}

/// Between the questions of a canary.
const CANARY_PAUSE: Duration = Duration::from_millis(10);

/// How long an answer to a long datagram is awaited before a shorter one is tried.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// A server that fails so often does so every time.
const FAILURES_MAX: u64 = 20;

/// No trial takes so long, unless the server dribbles.
const TRIAL_MAX: Duration = Duration::from_secs(300);

/// So many clients begin before those that are there have their turn.
const STARTS_PER_TURN: usize = 128;

/// So often, at least, it is looked whether to go on.
const TICK: Duration = Duration::from_millis(100);
