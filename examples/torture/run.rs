//! Runs one trial to its end, with two canaries beside it: one connection that asks all the time, and newcomers, one
//! after the other, that connect, ask once and end. Whatever the trial does to the server, they have to be answered.

use std::io;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::client::Client;
use crate::crowd::{Crowd, Name, Role};
use crate::figures::Figures;
use crate::plan::Plan;
use crate::target::Target;
use crate::trials::{Extent, Trial};

/// One run of a trial.
pub(crate) struct Run<'a> {
    pub(crate) target: &'a Target,
    pub(crate) trial: Trial,
    pub(crate) extent: Extent,
    /// How long the server may take for anything.
    pub(crate) patience: Duration,
    /// Decides what each connection does.
    pub(crate) seed: u64,
}

/// How far a run is.
pub(crate) struct Standing {
    pub(crate) done: usize,
    pub(crate) connections: usize,
    pub(crate) failures: u64,
}

impl Run<'_> {
    /// To its end, or until `go_on`, which is asked several times a second, says no.
    pub(crate) fn execute(&self, mut go_on: impl FnMut(&Standing) -> bool) -> io::Result<Figures> {
        let mut crowd = Crowd::new()?;
        let begun = Instant::now();
        let (mut started, mut newcomers) = (0, 0);
        let mut next_newcomer = begun;
        // Since when no connection can be begun, for want of a port or of room in the backlog.
        let mut stuck: Option<Instant> = None;
        let mut canary = false;
        loop {
            let now = Instant::now();
            let connections = self.extent.connections;
            let standing =
                Standing { done: started - crowd.count(Role::Trial), connections, failures: crowd.figures.failures };
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
                canary = self.start(&mut crowd, Name { role: Role::Canary, number: 0 }, |_| steady())?;
            }
            let room = self.extent.at_once - crowd.count(Role::Trial);
            for _ in 0..room.min(connections - started).min(STARTS_PER_TURN) {
                let name = Name { role: Role::Trial, number: started as u64 };
                if !self.start(&mut crowd, name, |random| self.trial.plan(random))? {
                    stuck.get_or_insert(now);
                    break;
                }
                stuck = None;
                started += 1;
            }
            if started < connections || crowd.count(Role::Trial) > 0 {
                if crowd.count(Role::Newcomer) == 0 && now >= next_newcomer {
                    let name = Name { role: Role::Newcomer, number: newcomers };
                    self.start(&mut crowd, name, |_| Plan::ping())?;
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

    /// Whether a connection could be begun. If not, it may be tried again.
    fn start(&self, crowd: &mut Crowd, name: Name, plan: impl FnOnce(&mut Rng) -> Plan) -> io::Result<bool> {
        let stream = match self.target.connect() {
            Ok(stream) => stream,
            Err(error) if is_passing(&error) => return Ok(false),
            Err(error) => {
                crowd.figures.fail(format!("{name}: expected to connect, seen: {error}"));
                return Ok(true);
            }
        };
        // What a connection does depends on its number, and not on what happened to others before.
        let stream_of_numbers = (name.role as u64) << 32;
        let mut random = Rng::with_seed(self.seed.wrapping_add(stream_of_numbers + name.number));
        let plan = plan(&mut random);
        crowd.add(name, Client::new(stream, plan, random, self.patience, Instant::now()))?;
        Ok(true)
    }

    /// Why there is no use in going on.
    fn hopeless(&self, crowd: &Crowd, took: Duration, stuck: Option<Duration>) -> Option<String> {
        if took > TRIAL_MAX {
            let open = crowd.len();
            Some(format!("expected the end within {} s, seen: {open} connections that go on", TRIAL_MAX.as_secs()))
        } else if stuck.is_some_and(|time| time > self.patience) {
            Some(format!("expected to connect within {} s, seen: no room", self.patience.as_secs_f32()))
        } else {
            None
        }
    }
}

/// Whether the server echoes at all.
pub(crate) fn probe(target: &Target, patience: Duration) -> Result<(), String> {
    let failed = |error: io::Error| error.to_string();
    let mut crowd = Crowd::new().map_err(failed)?;
    let plan = Plan { bytes: 1_000, piece: 1_000..=1_000, ..Plan::ping() };
    let client = Client::new(target.connect().map_err(failed)?, plan, Rng::with_seed(0), patience, Instant::now());
    crowd.add(Name { role: Role::Newcomer, number: 0 }, client).map_err(failed)?;
    while crowd.len() > 0 {
        crowd.turn(TICK).map_err(failed)?;
    }
    crowd.figures.complaints.pop().map_or(Ok(()), Err)
}

/// Asks until it is told to stop.
fn steady() -> Plan {
    Plan { bytes: u64::MAX, piece: 1..=1_000, pause: CANARY_PAUSE, ..Plan::ping() }
}

/// Whether it is only for now that a connection cannot be begun: there is no free port, all are in TIME_WAIT, or no
/// room in the backlog of a Unix socket.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::WouldBlock)
}

/// Between the questions of a canary.
const CANARY_PAUSE: Duration = Duration::from_millis(10);

/// A server that fails so often does so every time.
const FAILURES_MAX: u64 = 20;

/// No trial takes so long, unless the server dribbles.
const TRIAL_MAX: Duration = Duration::from_secs(300);

/// So many connections are begun before those that are there have their turn.
const STARTS_PER_TURN: usize = 128;

/// So often, at least, it is looked whether to go on.
const TICK: Duration = Duration::from_millis(100);
