//! Carries a plan out: peers, faults and time in front of the reactor, and the judgement at the end.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use socketserver::testing::{Call, Clock, Network, Outcome};
use socketserver::{Address, EndReason, Error, Handle, Limits, Linger, ServerId, Timeout};

use crate::datagrams::{Correspondence, SESSIONS_MAX, limit_sessions};
use crate::handlers::{GoOn, Player, Site, meddle};
use crate::ledger::{Books, Ledger, unix_address};
use crate::page::Page;
use crate::plan::{Faults, Plan, Step, Temper, check_in_force, contradictions, times, without_dependent};
use crate::records::{BROADCAST, bytes_of};
use crate::wire::Wire;

/// What a simulation went through.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) connections: usize,
    pub(crate) turns: u64,
    pub(crate) bytes: u64,
    /// Of each callback, how often it was called.
    pub(crate) calls: BTreeMap<String, u64>,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Tally) {
        self.connections += other.connections;
        self.turns += other.turns;
        self.bytes += other.bytes;
        for (callback, count) in other.calls {
            *self.calls.entry(callback).or_default() += count;
        }
    }
}

/// Carries out a plan. The error says what went wrong.
pub(crate) fn play(plan: &Plan) -> Result<Tally, String> {
    let mut stage = None;
    let played = catch_unwind(AssertUnwindSafe(|| {
        let played = stage.insert(Stage::new(plan));
        for step in &plan.steps {
            played.step(step);
            played.look()?;
        }
        let tally = played.end()?;
        stage = None; // Closing the reactor is a part of it.
        Ok(tally)
    }));
    let played = played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned())
    });
    std::mem::forget(stage); // If it is there, it is broken, and closing its reactor could panic once more.
    played
}

type Peers = Arc<Mutex<Vec<Option<Wire>>>>;

struct Stage<'a> {
    plan: &'a Plan,
    network: Network,
    server: ServerId,
    datagrams: Correspondence,
    page: Page,
    books: Books,
    /// By number; none for a peer that was called and could not be reached.
    peers: Peers,
    faults: Arc<Mutex<Faults>>,
    rng: Rng,
    received: u64,
    /// Numbers of those whose handler has finished and whose socket is open.
    lingering: Vec<usize>,
}

impl<'a> Stage<'a> {
    fn new(plan: &'a Plan) -> Self {
        let books = Books::new(plan);
        let mut network = Network::with_config(plan.config.clone());
        let mut serve = |limits: &Limits| {
            let made = books.clone();
            let make = move |_: &mut Site, address: &_| {
                let number = made.open().number(address).expect("a peer that connects has a number");
                Player::new(&made, number)
            };
            match plan.mixed {
                true => network.serve_mixed(Site(books.clone()), make, limits.clone()),
                false => network.serve(Site(books.clone()), make, limits.clone()),
            }
        };
        let (contradictions, mut limits) = (contradictions(&plan.limits), plan.limits.clone());
        if plan.mixed && books.open().rng.bool() {
            limits.sessions_max = Some(SESSIONS_MAX);
            limit_sessions(&mut limits);
        }
        let wanted = limits.clone();
        let server = serve(&limits).or_else(|refused| {
            let text = refused.to_string();
            let Error::Setting { settings, .. } = refused else { panic!("no call fails yet: {text}") };
            let names: Vec<_> = settings.iter().map(|(name, _)| *name).collect();
            assert!(
                contradictions.iter().any(|pair| names == pair),
                "{text}, but these contradict: {contradictions:?}"
            );
            without_dependent(&mut limits);
            serve(&limits)
        });
        let server = server.expect("no call fails yet");
        let refused = limits != wanted;
        assert!(refused || contradictions.is_empty(), "these contradict each other and are served: {contradictions:?}");
        let in_force = network.limits(server).expect("it is served").clone();
        check_in_force(&limits, &in_force);
        books.open().limits = in_force.clone();
        let datagrams = Correspondence::new(&mut network, &books, &in_force, plan.mixed.then_some(server));
        let page = Page::new(plan, &mut network, &books);
        books.open().clock = Some(network.clock());
        let (peers, faults) = (Peers::default(), Arc::new(Mutex::new(plan.faults.clone())));
        let mut director = Director {
            faults: Arc::clone(&faults),
            rng: Rng::with_seed(plan.seed ^ 0x6661_756c_7473),
            books: books.clone(),
            peers: Arc::clone(&peers),
            clock: network.clock(),
            handle: network.handle(),
        };
        network.on_call(move |call, whose| director.decide(call, whose));
        let rng = Rng::with_seed(plan.seed ^ 0x7374_6167_6500);
        let lingering = Vec::new();
        Stage { plan, network, server, datagrams, page, books, peers, faults, rng, received: 0, lingering }
    }

    fn peer(&self, number: usize) -> Option<Wire> {
        lock(&self.peers).get(number)?.clone()
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Connect => {
                let next = self.books.open().accounts.len();
                // Each has a host of its own: only handlers say that two connections are of one client.
                let [_, b, c, d] = (next as u32).to_be_bytes();
                let inet = || SocketAddr::from(([198, 18 | b, c, d], 50_000)).into();
                let address = unix_address(next).unwrap_or_else(inet);
                let peer = self.network.connect_from(self.server, address);
                let number = self.books.open().add(peer.address());
                let wire = match self.plan.tls {
                    #[cfg(feature = "tls")]
                    Some(piece) if number.is_multiple_of(2) => {
                        self.books.open().accounts[number].secured = true;
                        Wire::secured(peer, number, piece)
                    }
                    _ => Wire::plain(peer),
                };
                self.place(number, wire);
            }
            Step::Send { peer, bytes } => {
                self.with(peer, |stage, peer, number| send(&stage.books, peer, number, bytes))
            }
            Step::Datagram { peer, bytes } => self.datagrams.send(&mut self.network, peer, bytes),
            Step::Eof(peer) => self.with(peer, |stage, peer, number| send_eof(&stage.books, peer, number)),
            Step::Reset(peer) => self.with(peer, |stage, peer, number| send_reset(&stage.books, peer, number)),
            Step::Read { peer, window } => self.with(peer, |stage, peer, number| stage.read(peer, number, window)),
            Step::SpuriousEvent(peer) => self.with(peer, |_, peer, _| peer.spurious_event()),
            Step::Answer => self.answer(),
            Step::Message(number) => {
                let id = self.books.open().accounts.get(number).and_then(|account| account.id);
                if let Some(id) = id {
                    self.books.message(&self.network.handle(), id);
                }
            }
            Step::Job => {
                let books = self.books.clone();
                let _ = self.network.handle().run(move |reactor| meddle(&books, &reactor.handle()));
            }
            Step::Turns(count) => (0..count).for_each(|_| _ = self.turn()),
            Step::Rest => self.rest(),
            Step::Limits(seed) => {
                let now = self.network.now();
                let limits = {
                    let mut ledger = self.books.open();
                    // The reactor looks at all of them again. A turn that begins at the moment of a stamp and takes long
                    // renews that stamp.
                    let fresh = ledger.accounts.iter().enumerate().filter(|(_, account)| account.stirred_at == now);
                    let fresh: Vec<usize> = fresh.map(|(number, _)| number).collect();
                    ledger.stirred.extend(fresh);
                    times(&mut Rng::with_seed(seed), &mut ledger.limits);
                    if ledger.limits.sessions_max.is_some() {
                        limit_sessions(&mut ledger.limits);
                    }
                    let write_timeout = ledger.limits.write_timeout;
                    ledger.write_timeouts.push(write_timeout);
                    ledger.limits.clone()
                };
                let set = self.network.set_limits(self.server, limits);
                assert!(set.is_ok() || self.books.open().drained_at.is_some(), "they were in force before");
            }
            Step::Advance(time) => self.network.advance(time),
            Step::Sleep(late) => self.sleep(late),
            Step::Drain => {
                let (books, server, asked_at) = (self.books.clone(), self.server, self.network.now());
                let _ = self.network.handle().run(move |reactor| {
                    if reactor.limits(server).is_some() {
                        let mut ledger = books.open();
                        *ledger.calls.entry("drain_server".to_owned()).or_default() += 1;
                        ledger.drained_at = Some(ledger.now());
                        ledger.stopped_at.get_or_insert(asked_at);
                    }
                    reactor.drain_server(server);
                });
            }
            Step::Shutdown => {
                let now = self.network.now();
                let mut ledger = self.books.open();
                ledger.stopped_at.get_or_insert(now);
                ledger.shut_down_at.get_or_insert(now);
                drop(ledger);
                self.network.shutdown_handle().shutdown();
            }
            Step::Visit { visitor, bytes } => self.page.visit(&mut self.network, visitor, bytes),
        }
    }

    fn with(&mut self, number: usize, act: impl FnOnce(&mut Self, &Wire, usize)) {
        if let Some(peer) = self.peer(number) {
            self.books.open().stirred.insert(number);
            act(self, &peer, number);
        }
    }

    fn place(&mut self, number: usize, peer: Wire) {
        let windows = [usize::MAX, usize::MAX, 5_000, 100];
        let window = *self.rng.choice(&windows).unwrap_or(&0);
        peer.set_window(window);
        self.books.open().accounts[number].unlimited = window == usize::MAX;
        self.books.open().stirred.insert(number);
        let mut peers = lock(&self.peers);
        let count = peers.len().max(number + 1);
        peers.resize(count, None);
        peers[number] = Some(peer);
    }

    /// Those that are called now have a place, and some of them an answer.
    fn answer(&mut self) {
        for peer in self.network.called() {
            let number = self.books.open().number(peer.address()).expect("a peer that is called has a number");
            self.place(number, Wire::plain(peer));
        }
        let waiting: Vec<_> = lock(&self.peers).iter().flatten().filter(|peer| peer.is_connecting()).cloned().collect();
        for peer in waiting {
            match self.rng.u8(..3) {
                0 => {
                    let number = self.books.open().number(peer.address());
                    self.books.open().stirred.extend(number);
                    peer.establish();
                }
                1 => refuse(&self.books, &peer),
                _ => {}
            }
        }
    }

    fn turn(&mut self) -> bool {
        let more = self.network.turn();
        let moved = self.exchange();
        self.note_closed();
        more || moved
    }

    /// Moves what TLS has to move. Returns whether the server has something to do.
    fn exchange(&mut self) -> bool {
        let mut any = false;
        for (number, peer) in lock(&self.peers).iter().enumerate() {
            if peer.as_ref().is_some_and(Wire::exchange) {
                any = true;
                self.books.open().stirred.insert(number);
            }
        }
        any
    }

    fn rest(&mut self) {
        let (slow, dawdles) = (lock(&self.faults).slow, self.books.open().temper.dawdles);
        let mut turns = 0;
        while self.turn() {
            turns += 1;
            if turns == TURNS_MAX / 10 {
                self.stop_time();
            }
            assert!(turns < TURNS_MAX, "the reactor does not come to rest in {turns} turns");
        }
        self.stop_time();
        loop {
            self.network.run();
            if !self.exchange() {
                break;
            }
        }
        lock(&self.faults).slow = slow;
        self.books.open().temper.dawdles = dawdles;
        self.check_nothing_is_owed();
    }

    /// Periodic timers may come faster than they are served. Without time they come no more.
    fn stop_time(&mut self) {
        lock(&self.faults).slow = 0.0;
        self.books.open().temper.dawdles = 0.0;
    }

    /// The reactor rests: what had to happen by now has happened.
    fn check_nothing_is_owed(&mut self) {
        self.page.check_nobody_waits(&self.books);
        let (now, next) = (self.network.now(), self.network.next_timeout());
        let stopped = self.network.is_stopped();
        let mut ledger = self.books.open();
        let drains = self.network.limits(self.server).is_some() && !stopped;
        let late = ledger.drained_at.filter(|since| drains && now > *since + ledger.drain_grace);
        assert!(late.is_none(), "the server drains since {late:?}, and it is {now:?}");
        let awaited = ledger.drained_at.is_none() || self.network.stats().active > 0;
        assert!(!drains || awaited, "nothing is left of a server that drains, and it is not closed");
        if let Some(&(due, _)) = ledger.server_timers.values().min().filter(|_| ledger.stopped_at.is_none()) {
            assert!(due > now, "a timer of the server was due at {due:?}, and it is {now:?}");
            assert!(next.is_some_and(|next| now + next <= due), "the reactor sleeps for {next:?}, beyond {due:?}");
        }
        for number in std::mem::take(&mut ledger.stirred) {
            if let Some(account) = ledger.accounts.get_mut(number) {
                account.stirred_at = now;
            }
        }
        let peers = lock(&self.peers);
        for (number, account) in ledger.accounts.iter().enumerate() {
            let Some(peer) = peers.get(number).and_then(Option::as_ref) else { continue };
            if peer.is_broken() || account.sent_reset || account.may_reset || stopped {
                continue;
            }
            let kept = |why: EndReason, limit: Option<Duration>, since: Option<Duration>| {
                let Some((since, limit)) = since.zip(limit) else { return };
                assert!(now <= since + limit, "{why} of {number} was due {limit:?} after {since:?}");
            };
            let watched = |which, since| kept(EndReason::Timeout(which), ledger.timeout(number, which), since);
            let stirred = Some(account.stirred_at);
            let connecting = stirred.filter(|_| peer.is_connecting() && !peer.is_socket_closed());
            kept(EndReason::ConnectTimeout, ledger.limits.connect_timeout, connecting);
            if account.unlimited && (account.finished.is_some() || (account.shut && account.open)) {
                assert!(peer.is_closed(), "the server's direction of {number} is over, and its peer has no FIN");
            }
            if account.ending || account.finished.is_some() || !account.open || ledger.stopped_at.is_some() {
                continue;
            }
            assert!(!(account.full && account.unlimited), "{number} has seen its output full, and is owed writable");
            assert!(!(account.held && account.goes_on()), "{number} was told to stop reading, and is owed handle");
            if let Some(&(due, _)) = account.timers.values().min() {
                assert!(due > now, "a timer of {number} was due at {due:?}, and it is {now:?}");
                let wakes = next.is_some_and(|next| now + next <= due);
                assert!(wakes, "a timer of {number} is due at {due:?}, and the reactor sleeps for {next:?} at {now:?}");
            }
            watched(Timeout::Idle, stirred);
            watched(Timeout::Read, stirred.filter(|_| account.unread_since.is_some() && account.goes_on()));
            watched(Timeout::Write, stirred.filter(|_| account.full));
            watched(Timeout::Message, account.message_since);
        }
    }

    /// Until the reactor would wake by itself.
    fn sleep(&mut self, late: Duration) {
        self.rest();
        if let Some(time) = self.network.next_timeout() {
            self.network.advance(time + late);
        }
        self.turn();
    }

    fn note_closed(&mut self) {
        let now = self.network.now();
        let mut ledger = self.books.open();
        self.lingering.extend(std::mem::take(&mut ledger.finishing));
        let peers = lock(&self.peers);
        self.lingering.retain(|&number| {
            let open = peers.get(number).and_then(Option::as_ref).is_some_and(|peer| !peer.is_socket_closed());
            if !open {
                ledger.accounts[number].closed_at = Some(now);
            }
            open
        });
    }

    fn read(&mut self, peer: &Wire, number: usize, window: usize) {
        let bytes = peer.take_received();
        self.received += bytes.len() as u64;
        let read = self.books.open().accounts[number].reader.read(&bytes);
        self.books.expect(read.is_ok(), || format!("{number} receives what it should not: {}", read.unwrap_err()));
        let complaint = peer.complaint(false);
        self.books.expect(complaint.is_none(), || format!("{number} {}", complaint.unwrap_or_default()));
        self.books.open().accounts[number].unlimited = window == usize::MAX;
        peer.set_window(window);
    }

    fn look(&mut self) -> Result<(), String> {
        self.datagrams.look(&mut self.network)?;
        self.page.look()?;
        let stats = self.network.stats();
        if stats.resets_idle > stats.resets {
            return Err(format!("{} resets were of idle connections, of {}", stats.resets_idle, stats.resets));
        }
        // Outbound connections are not capped, and sessions of the datagram server not by this.
        let max = self.plan.limits.connections_max.unwrap_or(usize::MAX).saturating_add(self.page.count());
        let capped = self.plan.temper.connects == 0.0 && !self.datagrams.sessions;
        if capped && stats.active > max as u64 {
            return Err(format!("{} connections are open, of {max} that may be", stats.active));
        }
        self.books.open().take_violation().map_or(Ok(()), Err)
    }

    /// Faults cease, handlers calm down, peers read everything and end: so must everything else, and the books balance.
    fn end(&mut self) -> Result<Tally, String> {
        *lock(&self.faults) = Faults::default();
        self.books.open().temper = Temper::default();
        self.rest(); // There may be no room for another message before.
        let _ = self.network.handle().send_to_server(self.server, GoOn); // It may have stopped.
        for _ in 0..ROUNDS {
            self.answer();
            self.end_peers();
            self.page.end_visits(&mut self.network);
            // Pauses of accepting, lingering, timers of handlers: nothing of that lasts.
            self.sleep(Duration::ZERO);
            self.look()?;
        }
        // Sessions of the datagram server last longest. Meanwhile each slot may wake the reactor once more.
        let mut slots = self.network.stats().active_max;
        while self.network.stats().active > 0 && !self.network.is_stopped() && slots > 0 {
            slots -= 1;
            if self.plan.tls.is_some() {
                self.end_peers(); // Some handshakes have just been completed.
            }
            self.sleep(Duration::ZERO);
        }
        if !self.network.is_stopped() {
            let active = self.network.stats().active;
            if active > 0 {
                return Err(format!("{active} connections stay open, whose peers have ended: {:?}", self.unfinished()));
            }
            if self.books.open().drained_at.is_some() && self.network.limits(self.server).is_some() {
                return Err("a server with nothing left to drain does not close".to_owned());
            }
            self.step(&Step::Shutdown);
            self.rest();
        }
        if !self.network.is_stopped() {
            return Err("a reactor with nothing to wait for does not stop".to_owned());
        }
        self.network.server_close(self.server); // A server's own timers outlast a stop.
        self.network.server_close(self.datagrams.server());
        self.network.check_nothing_left();
        self.look()?;
        self.judge()
    }

    /// All peers read everything and end. Those under TLS complete their handshake first, unless the server has ended.
    fn end_peers(&mut self) {
        let count = lock(&self.peers).len();
        for number in 0..count {
            self.with(number, |stage, peer, number| {
                if peer.is_connecting() {
                    refuse(&stage.books, peer);
                }
                stage.read(peer, number, usize::MAX);
                send_eof(&stage.books, peer, number);
                if !peer.is_established() && peer.is_closed() {
                    peer.truncate();
                }
            });
        }
    }

    fn unfinished(&self) -> Vec<usize> {
        let ledger = self.books.open();
        let accounts = ledger.accounts.iter().enumerate();
        accounts.filter(|(_, account)| account.open && account.finished.is_none()).map(|(number, _)| number).collect()
    }

    fn judge(&mut self) -> Result<Tally, String> {
        let peers: Vec<_> = lock(&self.peers).clone();
        for (number, peer) in peers.iter().enumerate() {
            if let Some(peer) = peer {
                self.read(peer, number, 0);
            }
        }
        self.look()?;
        let stats = self.network.stats();
        let ledger = self.books.open();
        let equal = |what: &str, a: u64, b: u64| if a == b { Ok(()) } else { Err(format!("{what}: {a} and {b}")) };
        let stopped_early = ledger.shut_down_early || ledger.drained_at.is_some();
        if !stopped_early {
            let delivered = ledger.messages_received + stats.messages_dropped;
            equal("messages sent, and delivered or dropped", ledger.messages_sent, delivered)?;
            if self.plan.faults.broken == 0.0 {
                equal("datagrams left without an answer", self.datagrams.unanswered(), 0)?;
            }
        }
        equal("handlers left", ledger.handlers as u64, 0)?;
        equal("handlers of datagrams left", ledger.datagram_handlers as u64, 0)?;
        if stats.datagrams_in > self.datagrams.sent {
            return Err(format!("{} datagrams came of {}", stats.datagrams_in, self.datagrams.sent));
        }
        equal("panics counted, and scripted", stats.panics, ledger.panics)?;
        equal("errors counted, and scripted", stats.handler_errors, ledger.errors)?;
        let faults = ledger.errors + ledger.panics + ledger.unwatched;
        equal("faults told to the server, and scripted", ledger.errors_told, faults)?;
        equal("calls counted, and made", stats.connects, ledger.connects)?;
        for (why, counted) in [
            (EndReason::Reset, stats.resets),
            (EndReason::Timeout(Timeout::Idle), stats.timeouts_idle),
            (EndReason::Timeout(Timeout::Read), stats.timeouts_read),
            (EndReason::Timeout(Timeout::Write), stats.timeouts_write),
            (EndReason::Timeout(Timeout::Message), stats.timeouts_message),
            (EndReason::InputLimit, stats.input_limits),
            (EndReason::OutputLimit, stats.output_limits),
            (EndReason::BufferLimit, stats.buffer_limits),
            (EndReason::Truncated, stats.tls_truncated),
            (EndReason::TlsFailed, stats.tls_failed),
        ] {
            let told = ledger.ends.iter().filter(|end| **end == why).count();
            equal(&format!("ends counted, and told of, with {why:?}"), counted, told as u64)?;
        }
        equal("handshakes in progress", stats.handshakes_in_progress(), 0)?;
        self.page.judge(&ledger, &self.plan.faults)?;
        let received = self.received + self.datagrams.bytes_answered + self.page.bytes_received;
        if self.plan.tls.is_none() {
            // A record that was sent in part counts as that part, so the number is not exact if the rest is dropped.
            equal("bytes sent by the server, and received", stats.bytes_out, received)?;
        }
        let (mut sent, mut consumed) = (self.datagrams.bytes_sent + self.page.bytes_sent, 0);
        for (number, account) in ledger.accounts.iter().enumerate() {
            (sent, consumed) = (sent + account.sent, consumed + account.consumed);
            if account.open != account.finished.is_some() {
                return Err(format!("{number} was set up: {}; its finish: {:?}", account.open, account.finished));
            }
            let Some(peer) = peers.get(number).and_then(Option::as_ref) else { continue };
            for (source, &received) in &account.reader.received {
                let accepted = account.accepted.get(source).copied().unwrap_or(0);
                if *source == BROADCAST && received > account.broadcast {
                    return Err(format!("{number} has a broadcast that it was not to have"));
                }
                if *source != BROADCAST && received > accepted {
                    return Err(format!("{number} has {received} bytes of the {accepted} from {source}"));
                }
            }
            let broken = peer.is_broken() || account.sent_reset;
            let faults = &self.plan.faults;
            let lost = faults.aborted_in_backlog + faults.not_registered > 0.0 || stopped_early;
            let has_no_session = account.was_late || !peer.is_established();
            if !(account.called_at.is_some() || account.setup_called || broken || lost || has_no_session) {
                return Err(format!("{number} has connected and was never served"));
            }
            if account.refused && !(account.connect_failed || account.ending || lost) {
                return Err(format!("{number} has refused, and its handler was not told"));
            }
            if account.closes > 1 || (account.finished.is_some() && account.closes == 0) {
                return Err(format!("close_request was called {} times for {number}", account.closes));
            }
            if matches!(account.finished, Some((EndReason::PeerClosed, _))) && !account.eof_told {
                return Err(format!("{number} ended because its peer had, and eof was not called"));
            }
            if !broken && matches!(account.finished, Some((EndReason::Reset, _))) {
                return Err(format!("{number} ended with a reset that was not sent"));
            }
            if broken || account.may_reset {
                continue;
            }
            if peer.is_reset() {
                self.may_be_reset(&ledger, number)?;
                continue;
            }
            if let Some(complaint) = peer.complaint(account.finished.is_some()) {
                return Err(format!("{number} {complaint}"));
            }
            if account.reader.partial() > 0 {
                return Err(format!("{number} was closed in good order and lacks the end of a record"));
            }
            for (&source, &accepted) in account.accepted.iter().filter(|(_, accepted)| **accepted > 0) {
                let received = account.reader.received.get(&source).copied().unwrap_or(0);
                if received != accepted {
                    return Err(format!("{number} was closed in good order and lacks bytes: {received} of {accepted}"));
                }
            }
        }
        if !(consumed..=sent).contains(&stats.bytes_in) {
            return Err(format!("{} bytes read, {sent} sent, {consumed} consumed", stats.bytes_in));
        }
        Ok(Tally {
            connections: ledger.accounts.len(),
            turns: stats.turns,
            bytes: stats.bytes_in + stats.bytes_out,
            calls: ledger.calls.clone(),
        })
    }

    /// A connection that was to end in good order may end in a reset only when the reactor's patience is exhausted.
    fn may_be_reset(&self, ledger: &Ledger, number: usize) -> Result<(), String> {
        let (limits, account) = (&self.plan.limits, &ledger.accounts[number]);
        let (Some((why, finished)), Some(closed)) = (account.finished, account.closed_at) else { return Ok(()) };
        // What `finish` wrote has to be taken in time, and what the peer still sends is read for a while.
        let write_timeout = ledger.shortest_write_timeout(number).unwrap_or(Duration::MAX);
        let patience = write_timeout.min(limits.linger_timeout);
        let stopped = ledger.stopped_at.is_some_and(|stopped| closed >= stopped + self.plan.config.drain_grace);
        let on_the_wire = if account.secured { 32 * account.sent + 1_000 } else { account.sent }; // At most.
        let flooded = on_the_wire >= limits.linger_bytes_max as u64;
        let lingers = match limits.linger {
            Linger::Always => true,
            Linger::WhenNeeded => account.unread_since.is_some(),
            _ => false,
        };
        let cut_for_others = ledger.may_hold_too_much();
        if !lingers || stopped || flooded || cut_for_others || closed >= finished.saturating_add(patience) {
            return Ok(());
        }
        Err(format!("{number} ended with {why:?} at {finished:?}, and was reset at {closed:?}"))
    }
}

/// Decides how calls end.
struct Director {
    faults: Arc<Mutex<Faults>>,
    rng: Rng,
    books: Books,
    peers: Peers,
    clock: Clock,
    handle: Handle,
}

impl Director {
    fn decide(&mut self, call: Call, whose: Option<&Address>) -> Outcome {
        self.count(call);
        let faults = lock(&self.faults).clone();
        if self.chance(faults.slow) {
            self.clock.advance(Duration::from_micros(self.rng.u64(..5_000)));
        }
        if self.chance(faults.meddled) {
            self.meddle();
        }
        if !matches!(call, Call::Register | Call::Connect) && self.chance(faults.interrupted) {
            return Outcome::Interrupted;
        }
        if call != Call::Register && self.chance(faults.would_block) {
            return Outcome::WouldBlock;
        }
        match call {
            Call::Wait if self.chance(faults.few_events) => Outcome::AtMost(self.rng.usize(1..4)),
            Call::Accept if self.chance(faults.aborted_in_backlog) => {
                Outcome::Fail(io::ErrorKind::ConnectionAborted.into())
            }
            Call::Accept if self.chance(faults.accept_error) => {
                // The second is how macOS and the BSDs say that a client has gone.
                let kinds = [io::Error::from_raw_os_error(EPROTO), io::ErrorKind::InvalidInput.into()];
                Outcome::Fail(kinds.into_iter().nth(self.rng.usize(..2)).expect("one of two"))
            }
            Call::Accept if self.chance(faults.out_of_descriptors) => {
                let numbers = [EMFILE, ENFILE, ENOBUFS, ENOMEM];
                Outcome::Fail(io::Error::from_raw_os_error(*self.rng.choice(&numbers).unwrap_or(&EMFILE)))
            }
            Call::Register if self.chance(faults.not_registered) => {
                self.expect_end(whose);
                self.expect_to_be_told(whose);
                Outcome::Fail(io::Error::from_raw_os_error(ENOMEM))
            }
            Call::Connect if self.chance(faults.not_connected) => {
                Outcome::Fail(io::ErrorKind::NetworkUnreachable.into())
            }
            Call::Receive | Call::Send if self.chance(faults.broken) => {
                Outcome::Fail(io::ErrorKind::ConnectionRefused.into())
            }
            Call::Read | Call::Write if self.chance(faults.broken) => {
                Outcome::Fail(io::ErrorKind::ConnectionReset.into())
            }
            Call::Read | Call::Write if self.chance(faults.short) => Outcome::AtMost(self.rng.usize(1..100)),
            _ => Outcome::Proceed,
        }
    }

    /// A connection that no event can reach has to end.
    fn expect_end(&self, whose: Option<&Address>) {
        let mut ledger = self.books.open();
        if let Some(number) = whose.and_then(|address| ledger.number(address)) {
            ledger.end(number, EndReason::Error);
            ledger.accounts[number].may_reset = true;
        }
    }

    /// The server is told that nothing watches this client, unless that is over. If we have called it, the caller is
    /// told.
    fn expect_to_be_told(&self, whose: Option<&Address>) {
        let mut ledger = self.books.open();
        if let Some(number) = whose.and_then(|address| ledger.number(address)) {
            let account = &ledger.accounts[number];
            ledger.unwatched += u64::from(account.closes == 0 && account.called_at.is_none());
        }
    }

    /// Each turn waits first, perhaps twice, and accepts no more than its budget; to stop it accepts all.
    fn count(&self, call: Call) {
        match call {
            Call::Wait => self.books.end_turn(),
            Call::Accept => self.books.open().accepts += 1,
            _ => {}
        }
        let ledger = self.books.open();
        let most = ledger.limits.accepts_per_turn * ledger.listeners; // Each has its own budget.
        let (accepts, stops) = (ledger.accepts, ledger.stopped_at.is_some());
        drop(ledger);
        self.books.expect(accepts <= most || stops, || format!("{accepts} accepts in a turn, of {most}"));
    }

    fn chance(&mut self, rate: f64) -> bool {
        rate > 0.0 && self.rng.f64() < rate
    }

    /// A peer or another thread does something in the middle of a call.
    fn meddle(&mut self) {
        let peers = lock(&self.peers);
        let number = self.rng.usize(..peers.len().max(1));
        let Some(peer) = peers.get(number).cloned().flatten() else { return };
        drop(peers);
        self.books.open().stirred.insert(number);
        match self.rng.u8(..10) {
            0..5 => send(&self.books, &peer, number, 1 + self.rng.usize(..300)),
            5 => send_eof(&self.books, &peer, number),
            6 => peer.spurious_event(),
            7 => {
                self.books.open().accounts[number].unlimited = false;
                peer.set_window(self.rng.usize(..3_000));
            }
            _ => meddle(&self.books, &self.handle),
        }
    }
}

fn refuse(books: &Books, peer: &Wire) {
    let mut ledger = books.open();
    if let Some(number) = ledger.number(peer.address()) {
        ledger.accounts[number].refused |= !peer.is_socket_closed();
        ledger.stirred.insert(number);
    }
    drop(ledger);
    peer.refuse();
}

fn send(books: &Books, peer: &Wire, number: usize, count: usize) {
    let mut ledger = books.open();
    let account = &mut ledger.accounts[number];
    let has_ended = account.sent_eof || account.truncated || account.sent_reset;
    if !has_ended && !peer.is_socket_closed() && !peer.is_connecting() {
        account.sent += count as u64;
        let bytes = bytes_of(number, account.sent - count as u64, count);
        drop(ledger);
        peer.send(&bytes);
    }
}

/// Under TLS, every fourth peer ends without the end of TLS, which is an end of another kind.
fn send_eof(books: &Books, peer: &Wire, number: usize) {
    let mut ledger = books.open();
    let account = &mut ledger.accounts[number];
    let has_ended = account.sent_eof || account.truncated || account.sent_reset;
    if has_ended || peer.is_connecting() || !peer.is_established() {
        return;
    }
    if account.secured && number % 8 == 4 {
        account.truncated = true;
        ledger.end(number, EndReason::Truncated);
        peer.truncate();
    } else {
        account.sent_eof = true;
        peer.send_eof();
    }
}

fn send_reset(books: &Books, peer: &Wire, number: usize) {
    let account = &mut books.open().accounts[number];
    if !account.sent_reset && !peer.is_connecting() {
        account.sent_reset = true;
        peer.send_reset();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const TURNS_MAX: usize = 100_000;
/// In which everything that was begun comes to its end: more than there are reasons to wait one after the other.
const ROUNDS: usize = 40;

// Linux's numbers; where they mean something else the reactor does something else, and must not fail either.
const ENOMEM: i32 = 12;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const EPROTO: i32 = 71;
const ENOBUFS: i32 = 105;
