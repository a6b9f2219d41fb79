//! What each side has sent, consumed, accepted and received: the books that must balance, and the rules of callbacks.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use socketserver::testing::Clock;
use socketserver::{Address, ConnectionId, EndReason, Limits, Timeout};

use crate::page::Visit;
use crate::plan::{Plan, Step, Temper};
use crate::records::{HEAD, Reader};

/// Every fourth connection is a Unix stream, whose reads end where they like.
pub(crate) fn unix_address(number: usize) -> Option<Address> {
    #[cfg(unix)]
    if number % 4 == 3 {
        return Some(socketserver::UnixAddress::from_abstract_name(number.to_string()).into());
    }
    let _ = number;
    None
}

/// The books of one simulation, shared by handlers, peers and the judge. Nothing of the reactor may be called while they
/// are open: it may call back.
#[derive(Clone)]
pub(crate) struct Books(Arc<Mutex<Ledger>>);

pub(crate) struct Ledger {
    pub(crate) rng: Rng,
    pub(crate) temper: Temper,
    /// By the number of the peer.
    pub(crate) accounts: Vec<Account>,
    numbers: HashMap<Address, usize>,
    addresses: Vec<Address>,
    record_bytes_max: usize,
    pub(crate) limits: Limits,
    pub(crate) listeners: usize,
    pub(crate) turn_length: Duration,
    pub(crate) buffered_bytes_max: Option<usize>,
    /// A handler may be told that its output is full because it has had its share of a turn.
    pub(crate) shares: bool,
    /// The write timeouts that were in force.
    pub(crate) write_timeouts: Vec<Option<Duration>>,
    /// Calls may fail so that a connection is broken.
    breaks: bool,
    /// Those with which something was done since the reactor last rested.
    pub(crate) stirred: BTreeSet<usize>,
    /// Of each callback, how often it was called.
    pub(crate) calls: BTreeMap<String, u64>,
    /// The turn, counted by its waits, and the accepts in it.
    pub(crate) turn: u64,
    pub(crate) accepts: usize,
    /// Callbacks in it that may take their time, and how much they took.
    pub(crate) slow_callbacks: u32,
    pub(crate) dawdled: Duration,
    pub(crate) messages_sent: u64,
    pub(crate) messages_received: u64,
    pub(crate) clock: Option<Clock>,
    pub(crate) handlers: usize,
    /// Those of the datagram server that are owed a finish.
    pub(crate) datagram_handlers: usize,
    /// Those whose `finish` was called since the last look.
    pub(crate) finishing: Vec<usize>,
    /// Why connections and datagram sessions have ended, as `finish` was told.
    pub(crate) ends: Vec<EndReason>,
    pub(crate) panics: u64,
    pub(crate) errors: u64,
    /// Accepted connections that the selector had no room for before their end.
    pub(crate) unwatched: u64,
    /// Calls of `handle_error`.
    pub(crate) errors_told: u64,
    /// Handlers have called so many peers.
    pub(crate) connects: u64,
    pub(crate) broadcasts: u64,
    /// Clients that handlers have named.
    pub(crate) named: u16,
    /// Timers of the server by tag: when each is due, and its period if it has one.
    pub(crate) server_timers: BTreeMap<u64, Timer>,
    /// Sessions of the datagram socket.
    pub(crate) sessions: HashSet<ConnectionId>,
    /// When the server was asked to end: the reactor was asked to stop, or the server drains.
    pub(crate) stopped_at: Option<Duration>,
    /// When the reactor was asked to stop, and whether before the end of the plan.
    pub(crate) shut_down_at: Option<Duration>,
    pub(crate) shut_down_early: bool,
    /// When the server had begun to drain, at the latest.
    pub(crate) drained_at: Option<Duration>,
    pub(crate) drain_grace: Duration,
    /// By address: those of the page.
    pub(crate) visits: HashMap<Address, Visit>,
    violations: Vec<String>,
}

/// When a timer is due, and its period if it has one.
pub(crate) type Timer = (Duration, Option<Duration>);

/// When a periodic timer that has fired now is due again: the ticks that were missed are left out.
pub(crate) fn next_tick((due, every): Timer, now: Duration) -> Option<Timer> {
    let missed = ((now - due).as_nanos() / every?.as_nanos()) as u32;
    Some((due + every? * (missed + 1), every))
}

/// One connection.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) id: Option<ConnectionId>,
    // What the peer did.
    pub(crate) sent: u64,
    pub(crate) sent_eof: bool,
    /// It is under TLS.
    pub(crate) secured: bool,
    /// Its handshake was not complete in time.
    pub(crate) was_late: bool,
    /// It has ended its direction without the end of TLS.
    pub(crate) truncated: bool,
    pub(crate) sent_reset: bool,
    /// When a handler has called it.
    pub(crate) called_at: Option<Duration>,
    pub(crate) refused: bool,
    /// It takes whatever comes.
    pub(crate) unlimited: bool,
    /// When the reactor last rested after something was done with it.
    pub(crate) stirred_at: Duration,
    pub(crate) reader: Reader,
    /// When the server's socket was seen closed.
    pub(crate) closed_at: Option<Duration>,
    // What the handlers did.
    pub(crate) consumed: u64,
    /// `setup` succeeded, of the handler that has it now.
    pub(crate) open: bool,
    pub(crate) finished: Option<(EndReason, Duration)>,
    pub(crate) eof_told: bool,
    pub(crate) setup_called: bool,
    pub(crate) connect_failed: bool,
    /// Calls of `close_request`.
    pub(crate) closes: usize,
    /// A callback or its peer asked for its end, or an error caused it.
    pub(crate) ending: bool,
    /// Why it may end.
    pub(crate) reasons: Vec<EndReason>,
    /// A handler has named its successor, which is not set up.
    pub(crate) replaced: bool,
    /// A handler has seen its output full, and is owed `writable`.
    pub(crate) full: bool,
    /// A handler was told to stop while a message was there, and is owed `handle`.
    pub(crate) held: bool,
    pub(crate) paused: bool,
    pub(crate) full_duplex: bool,
    /// A handler has ended the server's direction.
    pub(crate) shut: bool,
    /// Bytes that were accepted for this peer, heads of records included.
    taken: usize,
    /// By source: payload bytes that were accepted for this peer.
    pub(crate) accepted: BTreeMap<u32, u64>,
    /// By tag.
    pub(crate) timers: BTreeMap<u64, Timer>,
    /// Input that was shown to a handler, consumed or not; when it last grew, and when the idle timeout began.
    pub(crate) shown: u64,
    pub(crate) shown_at: Duration,
    pub(crate) active_at: Duration,
    /// Since when input is left unread, at the earliest; none if nothing is left.
    pub(crate) unread_since: Option<Duration>,
    /// Since when output waits, at the earliest, if any does.
    pub(crate) unsent_since: Duration,
    /// How much it may hold, if that is not as the server has it: `input_bytes_max`, the marks, and `output_bytes_max`.
    pub(crate) own: Option<[usize; 4]>,
    /// When the deadline of a message was set, if there is one.
    pub(crate) message_since: Option<Duration>,
    /// Limits of its own, the last of each kind counts.
    pub(crate) timeouts: Vec<(Timeout, Option<Duration>)>,
    pub(crate) spent: Spent,
    /// Bytes of broadcasts that it was to have.
    pub(crate) broadcast: u64,
    /// It may end in a reset: a side asked for it, or something broke.
    pub(crate) may_reset: bool,
}

/// What a connection has had in one turn.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    turn: u64,
    pub(crate) bytes: usize,
    pub(crate) callbacks: usize,
}

impl Account {
    /// Nothing holds up what its peer sends.
    pub(crate) fn goes_on(&self) -> bool {
        self.unlimited && !self.paused
    }

    /// The server may hold so many bytes of it at most: unread input, and output that has been accepted.
    pub(crate) fn may_hold(&self) -> usize {
        (self.sent - self.consumed + self.broadcast) as usize + self.taken
    }

    fn is_open(&self) -> bool {
        let may_end = !self.reasons.is_empty() || self.shut || self.sent_reset;
        self.open && self.finished.is_none() && !self.replaced && !may_end
    }
}

impl Ledger {
    /// Returns whether all connections together may hold more than they are allowed.
    pub(crate) fn may_hold_too_much(&self) -> bool {
        let total: usize = self.accounts.iter().map(Account::may_hold).sum();
        self.buffered_bytes_max.is_some_and(|max| total > max)
    }
}

impl Books {
    pub(crate) fn new(plan: &Plan) -> Self {
        Books(Arc::new(Mutex::new(Ledger {
            rng: Rng::with_seed(plan.seed ^ 0x6c65_6467_6572),
            temper: plan.temper.clone(),
            accounts: Vec::new(),
            numbers: HashMap::new(),
            addresses: Vec::new(),
            record_bytes_max: plan.record_bytes_max,
            limits: plan.limits.clone(),
            listeners: 1 + usize::from(plan.mixed) + usize::from(plan.page),
            turn_length: plan.config.turn_length,
            buffered_bytes_max: plan.config.buffered_bytes_max,
            shares: plan.temper.dawdles + plan.faults.slow > 0.0
                || plan.limits.write_bytes_per_turn < WRITES_PER_TURN * plan.record_bytes_max,
            write_timeouts: vec![plan.limits.write_timeout],
            breaks: plan.faults.broken > 0.0,
            stirred: BTreeSet::new(),
            calls: BTreeMap::new(),
            turn: 0,
            accepts: 0,
            slow_callbacks: 0,
            dawdled: Duration::ZERO,
            messages_sent: 0,
            messages_received: 0,
            clock: None,
            handlers: 0,
            datagram_handlers: 0,
            finishing: Vec::new(),
            ends: Vec::new(),
            panics: 0,
            errors: 0,
            unwatched: 0,
            errors_told: 0,
            connects: 0,
            broadcasts: 0,
            named: 0,
            server_timers: BTreeMap::new(),
            sessions: HashSet::new(),
            stopped_at: None,
            shut_down_at: None,
            shut_down_early: plan.steps.contains(&Step::Shutdown),
            drained_at: None,
            drain_grace: plan.config.drain_grace,
            visits: HashMap::new(),
            violations: Vec::new(),
        })))
    }

    pub(crate) fn open(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn gives a connection no more than its budget. When the reactor is asked to stop, it also serves the clients
    /// in the backlog, within one turn.
    pub(crate) fn spend(&self, number: usize, bytes: usize, callbacks: usize) {
        let mut ledger = self.open();
        let spent = ledger.spend(number, bytes, callbacks);
        let (bytes_max, callbacks_max) = (ledger.limits.read_bytes_per_turn, ledger.limits.callbacks_per_turn);
        // Under TLS, the end of a record brings all of it.
        let record = if ledger.accounts[number].secured { TLS_RECORD_BYTES_MAX } else { 0 };
        let within = spent.bytes <= bytes_max + record && spent.callbacks <= callbacks_max;
        let stops = ledger.stopped_at.is_some();
        drop(ledger);
        self.expect(within || stops, || format!("{number} has had {spent:?}, of {bytes_max} and {callbacks_max}"));
    }

    /// A turn is over, in which each connection has had its share of the time, and others wait no longer than all of them
    /// together. Not so when the reactor is asked to stop and takes in the backlog.
    pub(crate) fn end_turn(&self) {
        let mut ledger = self.open();
        let dawdled = std::mem::take(&mut ledger.dawdled);
        let callbacks = std::mem::take(&mut ledger.slow_callbacks);
        (ledger.turn, ledger.accepts) = (ledger.turn + 1, 0);
        // What is ready, and messages, limits and timers, have a turn and three quarters; a callback cannot be stopped
        // between two looks at the clock, which are no more than 16 messages apart.
        let most = 2 * ledger.turn_length + callbacks * (SLICE_MIN + 20 * DAWDLE_MAX);
        let stops = ledger.stopped_at.is_some();
        drop(ledger);
        self.expect(dawdled <= most || stops, || {
            format!("{callbacks} callbacks have taken {dawdled:?} in a turn, and may take {most:?}")
        });
    }

    /// Notes a violation unless the condition holds. A handler may not panic over it: the reactor would catch that.
    pub(crate) fn expect(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.open().violations.push(what());
        }
    }
}

/// The longest that a handler dawdles at once.
pub(crate) const DAWDLE_MAX: Duration = Duration::from_micros(100);
/// The plaintext of a record.
const TLS_RECORD_BYTES_MAX: usize = 16 * 1024;
/// A handler makes no more writes in a turn.
const WRITES_PER_TURN: usize = 100;
/// What each has of a turn, however many are ready.
const SLICE_MIN: Duration = Duration::from_micros(50);

impl Ledger {
    pub(crate) fn add(&mut self, address: &Address) -> usize {
        self.accounts.push(Account::default());
        self.addresses.push(address.clone());
        self.numbers.insert(address.clone(), self.accounts.len() - 1);
        self.accounts.len() - 1
    }

    /// From now on a connection counts as this client's, besides being known by its peer's address.
    pub(crate) fn rename(&mut self, number: usize, client: &Address) {
        self.addresses[number] = client.clone();
        self.numbers.insert(client.clone(), number);
    }

    /// How many others have this client's IP address at least, and at most: one that is over counts until it is freed.
    pub(crate) fn others_of(&self, number: usize, client: &Address) -> (usize, usize) {
        let is_other = |&other: &usize| {
            other != number
                && self.addresses[other].ip() == client.ip()
                && self.accounts[other].called_at.is_none()
                && self.accounts[other].setup_called
        };
        let others: Vec<_> = (0..self.accounts.len()).filter(is_other).map(|other| &self.accounts[other]).collect();
        let least = others.iter().filter(|account| account.closes == 0).count();
        (least, others.iter().filter(|account| account.closed_at.is_none()).count())
    }

    pub(crate) fn number(&self, address: &Address) -> Option<usize> {
        self.numbers.get(address).copied()
    }

    pub(crate) fn record_bytes(&mut self) -> usize {
        self.rng.usize(..self.record_bytes_max)
    }

    /// The moment, not as of the turn but now.
    pub(crate) fn now(&self) -> Duration {
        self.clock.as_ref().map_or(Duration::ZERO, Clock::now)
    }

    /// Its end is requested, or it is broken.
    pub(crate) fn end(&mut self, number: usize, why: EndReason) {
        self.accounts[number].ending = true;
        self.accounts[number].reasons.push(why);
    }

    /// A connection is shown so many bytes that are new, or called back, in this turn.
    fn spend(&mut self, number: usize, bytes: usize, callbacks: usize) -> Spent {
        let (turn, spent) = (self.turn, &mut self.accounts[number].spent);
        if spent.turn != turn {
            *spent = Spent { turn, ..Spent::default() };
        }
        (spent.bytes, spent.callbacks) = (spent.bytes + bytes, spent.callbacks + callbacks);
        *spent
    }

    /// How much this connection may hold: `input_bytes_max`, the low and the high mark, and `output_bytes_max`.
    pub(crate) fn bounds(&self, number: usize) -> [usize; 4] {
        let Limits { input_bytes_max, output_low_water, output_high_water, output_bytes_max, .. } = self.limits;
        self.accounts[number].own.unwrap_or([input_bytes_max, output_low_water, output_high_water, output_bytes_max])
    }

    /// A limit as it is for this connection now.
    pub(crate) fn timeout(&self, number: usize, which: Timeout) -> Option<Duration> {
        let of_all = match which {
            Timeout::Idle => self.limits.idle_timeout,
            Timeout::Read => self.limits.read_timeout,
            Timeout::Message => None,
            _ => self.limits.write_timeout,
        };
        let own = self.accounts[number].timeouts.iter().rfind(|(changed, _)| *changed == which);
        own.map_or(of_all, |(_, time)| *time)
    }

    /// The shortest write timeout that this connection may have had.
    pub(crate) fn shortest_write_timeout(&self, number: usize) -> Option<Duration> {
        let own = self.timeout(number, Timeout::Write);
        self.write_timeouts.iter().copied().flatten().chain(own).min()
    }

    /// Those that are open for certain.
    pub(crate) fn open(&self) -> Vec<ConnectionId> {
        let open = self.accounts.iter().filter(|account| self.sure() && account.is_open());
        open.filter_map(|account| account.id).collect()
    }

    pub(crate) fn address(&self, number: usize) -> Address {
        self.addresses[number].clone()
    }

    pub(crate) fn chance(&mut self, rate: f64) -> bool {
        rate > 0.0 && self.rng.f64() < rate
    }

    /// Any connection there is or was.
    pub(crate) fn any(&mut self) -> Option<(usize, ConnectionId)> {
        let number = self.rng.usize(..self.accounts.len().max(1));
        Some((number, self.accounts.get(number)?.id?))
    }

    pub(crate) fn take_violation(&mut self) -> Option<String> {
        if self.violations.is_empty() { None } else { Some(self.violations.remove(0)) }
    }

    pub(crate) fn accept(&mut self, number: usize, source: u32, bytes: usize) {
        *self.accounts[number].accepted.entry(source).or_default() += bytes as u64;
        self.accounts[number].taken += HEAD + bytes;
    }

    /// It is open for certain, and cannot have so much waiting that there is no room for a record of this length.
    pub(crate) fn has_room(&self, number: usize, bytes: usize) -> bool {
        let account = &self.accounts[number];
        let broadcast = 2 * self.broadcasts as usize; // The heads are no longer than the bytes.
        self.sure() && account.is_open() && account.taken + broadcast + HEAD + bytes <= self.bounds(number)[3]
    }

    /// Nothing ends a connection that the books do not know of.
    fn sure(&self) -> bool {
        !self.breaks && self.stopped_at.is_none() && self.buffered_bytes_max.is_none()
    }
}
