//! The servers under test: handlers that do anything at any time, and write down what they did.

use std::io::Write;
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::time::Duration;

use socketserver::{
    Address, BaseServer, ConnectionId, ConnectionLimits, Delivery, EndReason, Error, Handle, Message, Next, Others,
    Request, RequestHandler, Result, Timeout,
};

use crate::datagrams::{Answer, is_correspondent};
use crate::ledger::{Books, DAWDLE_MAX, Ledger, next_tick, unix_address};
use crate::plan::Temper;
use crate::records::{BROADCAST, byte_of, record};

pub(crate) const SCRIPTED: &str = "scripted";
const BROADCAST_BYTES: u64 = 100;
/// The longest message of a handler that dawdles, and how many writes are enough for it.
const MESSAGE_BYTES_MAX: usize = 32;
const WRITES_MAX: usize = 50;
/// How many connections handlers open in all. Those that they open call out as well: without a bound there may be more and
/// more of them.
const CALLS_OUT_MAX: u64 = 2_000;

/// The value of a server: the way to the books.
pub(crate) struct Site(pub(crate) Books);

/// A message for a connection.
pub(crate) struct For(pub(crate) ConnectionId);

/// A message for the server: paused connections go on, and those that stay although their peer has ended close.
pub(crate) struct GoOn;

impl BaseServer for Site {
    #[cfg(feature = "tls")]
    fn get_request(
        &mut self,
        listener: &mut socketserver::Listener,
    ) -> std::io::Result<(socketserver::Stream, Address)> {
        let (stream, from) = listener.accept()?;
        let ledger = self.0.open();
        let secured = ledger.number(&from).is_some_and(|number| ledger.accounts[number].secured);
        Ok((if secured { crate::wire::acceptor().wrap_socket(stream) } else { stream }, from))
    }

    fn close_request(&mut self, client: &Address, why: EndReason) {
        let mut ledger = self.0.open();
        if let Some(number) = ledger.number(client) {
            let account = &mut ledger.accounts[number];
            account.closes += 1;
            account.was_late |= account.secured && matches!(why, EndReason::HandshakeTimeout | EndReason::Timeout(_));
        }
    }

    fn handle_error(&mut self, client: &Address, error: &Error) {
        self.0.open().errors_told += 1;
        self.0.expect(!matches!(error, Error::Panicked { message } if message != SCRIPTED), || {
            format!("panicked while serving {client}: {error:#}")
        });
    }

    fn finish_request(&mut self, client: &Address) -> Option<Box<dyn RequestHandler<Self>>> {
        is_correspondent(client).then(|| Answer::new(&self.0) as _)
    }

    fn timer(&mut self, others: &mut Others<'_, Self>, tag: u64) {
        let now = others.now();
        let (set, goes_on) = {
            let mut ledger = self.0.open();
            *ledger.calls.entry("server timer".to_owned()).or_default() += 1;
            let set = ledger.server_timers.remove(&tag);
            let next = set.and_then(|timer| next_tick(timer, ledger.now()));
            ledger.server_timers.extend(next.map(|next| (tag, next)));
            (set, ledger.temper.sets_server_timers > 0.0 && ledger.rng.bool())
        };
        self.0.expect(set.is_some_and(|(due, _)| due <= now), || {
            format!("timer {tag} of the server fires at {now:?} and was due at {set:?}")
        });
        match set {
            _ if goes_on => set_server_timer(&self.0, others),
            Some((_, Some(_))) => cancel_server_timer(&self.0, others, tag),
            _ => {}
        }
    }

    fn message(&mut self, others: &mut Others<'_, Self>, message: Message) {
        if message.is::<GoOn>() {
            for id in others.connections() {
                others.resume_reading(id);
                let mut ledger = self.0.open();
                let number = others.client_address(id).and_then(|address| ledger.number(&address));
                let Some(number) = number else { continue };
                ledger.accounts[number].paused = false;
                ledger.stirred.insert(number);
                if ledger.accounts[number].eof_told {
                    ledger.end(number, EndReason::Evicted);
                    others.close(id);
                }
            }
        }
    }
}

/// Sets one of the server's timers, even if it is set already, or cancels it.
fn set_server_timer(books: &Books, others: &mut Others<'_, Site>) {
    let (tag, after, periodic, cancel) = {
        let mut ledger = books.open();
        let after = Duration::from_micros(1_000 + ledger.rng.u64(..20_000));
        (ledger.rng.u64(..3), after, ledger.rng.u8(..3) == 0, ledger.rng.u8(..4) == 0)
    };
    if cancel {
        return cancel_server_timer(books, others, tag);
    }
    match periodic {
        true => others.set_server_interval(tag, after),
        false => others.set_server_timer(tag, after),
    }
    let mut ledger = books.open();
    let due = ledger.now() + after;
    ledger.server_timers.insert(tag, (due, periodic.then_some(after)));
}

fn cancel_server_timer(books: &Books, others: &mut Others<'_, Site>, tag: u64) {
    let was = books.open().server_timers.remove(&tag).is_some();
    let cancelled = others.cancel_server_timer(tag);
    books.expect(was == cancelled, || format!("timer {tag} of the server was set: {was}, and cancelled: {cancelled}"));
}

/// A handler of one connection, from the beginning or in place of another.
pub(crate) struct Player {
    books: Books,
    number: usize,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    New,
    SetUp,
    Over,
}

impl Player {
    pub(crate) fn new(books: &Books, number: usize) -> Self {
        books.open().handlers += 1;
        Player { books: books.clone(), number, stage: Stage::New }
    }

    fn chance(&self, rate: impl Fn(&Temper) -> f64) -> bool {
        let mut ledger = self.books.open();
        let rate = rate(&ledger.temper);
        ledger.chance(rate)
    }

    /// What holds whenever a callback is called.
    fn enter(&mut self, request: &Request<'_, Site>, callback: &str, stage: Stage) {
        let number = self.number;
        self.books
            .expect(self.stage == stage, || format!("{callback} of {number} when its handler was {:?}", self.stage));
        let mut ledger = self.books.open();
        let finished = ledger.accounts[number].finished;
        ledger.accounts[number].id = Some(request.id());
        if request.output.is_empty() {
            ledger.accounts[number].unsent_since = request.others.now();
        }
        ledger.stirred.insert(number);
        *ledger.calls.entry(callback.to_owned()).or_default() += 1;
        let own = ledger.address(number) == request.client_address();
        drop(ledger);
        self.books.expect(own, || format!("{callback} of {number} on the connection of {}", request.client_address()));
        self.books.expect(finished.is_none(), || format!("{callback} of {number} after its finish"));
    }

    /// Consumes what there is, or a part, and compares it with what the peer has sent.
    fn consume(&mut self, request: &mut Request<'_, Site>, may_dawdle: bool) {
        let (bytes, unread) = (request.input.unread(), request.input.len());
        let take =
            if self.chance(|temper| temper.leaves_input) { self.books.open().rng.usize(..=unread) } else { unread };
        let dawdles = may_dawdle && self.chance(|temper| temper.dawdles);
        let (take, held) = if dawdles { self.read_slowly(request, take) } else { (take, false) };
        let number = self.number;
        let mut ledger = self.books.open();
        if unread - take > ledger.bounds(number)[0] {
            ledger.end(number, EndReason::InputLimit);
        }
        let account = &mut ledger.accounts[number];
        let (from, sent) = (account.consumed, account.sent);
        let ended = account.sent_eof || !request.input.is_eof();
        let right = (from..).zip(bytes).all(|(n, &byte)| byte_of(number, n) == byte);
        account.consumed += take as u64;
        let fresh = (from + unread as u64).saturating_sub(account.shown) as usize;
        let paused = account.paused || (account.full && !account.full_duplex);
        if fresh > 0 {
            (account.shown, account.shown_at) = (from + unread as u64, request.others.now());
            account.active_at = account.shown_at;
        }
        account.held = held || (account.held && take < unread);
        account.unread_since = match account.unread_since {
            _ if take == unread => None,
            Some(since) if take == 0 => Some(since),
            _ => Some(request.others.now()),
        };
        drop(ledger);
        self.books.spend(number, fresh, 0);
        self.books.expect(fresh == 0 || !paused, || {
            format!("{number} is paused, or its output full, and it is shown what comes")
        });
        self.books.expect(ended, || format!("{number} is told of an end that has not come"));
        self.books.expect(right, || format!("{number} is shown other bytes than its peer's after {from}"));
        self.books.expect(from + unread as u64 <= sent, || format!("{number} is shown more than its peer has sent"));
        if !dawdles {
            request.input.consume(take);
        }
    }

    /// Reads messages of so many bytes in all, each of which takes time, until it is told to stop. Returns how many, and
    /// whether it was told.
    fn read_slowly(&mut self, request: &mut Request<'_, Site>, bytes: usize) -> (usize, bool) {
        let mut read = 0;
        while read < bytes {
            let n = self.books.open().rng.usize(1..=MESSAGE_BYTES_MAX).min(bytes - read);
            match request.input.read_exact(n) {
                Ok(Some(message)) => read += message.len(),
                Ok(None) => return (read, true), // All of it is there.
                Err(_) => break,
            }
            self.books.dawdle();
        }
        (read, false)
    }

    /// Writes as long as there is room, each time after a while.
    fn write_slowly(&mut self, request: &mut Request<'_, Site>) {
        for _ in 0..WRITES_MAX {
            if request.output.is_full() {
                break;
            }
            self.books.dawdle();
            self.write(request, |ledger| 1 + ledger.rng.usize(..200), false);
        }
    }

    /// Does a few things.
    fn act(&mut self, request: &mut Request<'_, Site>) {
        let (me, number) = (request.id(), self.number);
        if self.chance(|temper| temper.writes) {
            self.write(request, |ledger| 1 + ledger.rng.usize(..200), false);
        }
        if self.chance(|temper| temper.writes_much) {
            self.write(request, |ledger| ledger.record_bytes(), false);
        }
        if self.chance(|temper| temper.writes_shared) {
            self.write(request, |ledger| ledger.record_bytes(), true);
        }
        if self.chance(|temper| temper.sends) {
            self.send(request);
        }
        if self.chance(|temper| temper.broadcasts) {
            self.broadcast(request);
        }
        let other = self.books.open().any();
        if let Some((victim, id)) = other {
            self.books.open().stirred.insert(victim);
            let own = id == me;
            // Half of the players act on themselves by their ids.
            let own_method = own && number.is_multiple_of(2);
            let reason = if own { EndReason::Done } else { EndReason::Evicted };
            if self.chance(|temper| temper.closes_others) {
                self.books.open().end(victim, reason);
                if own_method { request.close() } else { request.others.close(id) }
            }
            if self.chance(|temper| temper.aborts_others) {
                self.books.open().accounts[victim].may_reset = true;
                self.books.open().end(victim, reason);
                if own_method { request.abort() } else { request.others.abort(id) }
            }
            if self.chance(|temper| temper.shuts_write) {
                self.books.open().accounts[victim].shut |= true;
                if own_method { request.shutdown_write() } else { request.others.shutdown_write(id) }
            }
            if self.chance(|temper| temper.pauses) {
                self.books.open().accounts[victim].paused = true;
                if own_method { request.pause_reading() } else { request.others.pause_reading(id) }
            }
            if self.chance(|temper| temper.resumes) {
                self.books.open().accounts[victim].paused = false;
                if own_method { request.resume_reading() } else { request.others.resume_reading(id) }
            }
            if self.chance(|temper| temper.messages) {
                self.books.message(&request.others.handle(), id);
            }
        }
        if self.chance(|temper| temper.resumes) {
            self.books.open().accounts[number].paused = false;
            if number.is_multiple_of(2) { request.resume_reading() } else { request.others.resume_reading(me) }
        }
        if self.chance(|temper| temper.full_duplex) {
            let on = self.books.open().rng.bool();
            self.books.open().accounts[number].full_duplex = on;
            request.set_full_duplex(on);
        }
        if self.chance(|temper| temper.sets_timers) {
            self.set_timer(request);
        }
        if self.chance(|temper| temper.sets_server_timers) {
            set_server_timer(&self.books, &mut request.others);
        }
        if self.chance(|temper| temper.sets_timeouts) {
            let mut ledger = self.books.open();
            let time = ledger.rng.bool().then_some(Duration::from_millis(20));
            let limits = [Timeout::Idle, Timeout::Read, Timeout::Write, Timeout::Message];
            let which = *ledger.rng.choice(&limits).unwrap_or(&Timeout::Idle);
            if which == Timeout::Message {
                ledger.accounts[number].message_since = time.is_some().then(|| ledger.now());
            }
            ledger.accounts[number].timeouts.push((which, time));
            drop(ledger);
            request.set_timeout(which, time);
        }
        if self.chance(|temper| temper.names_clients) {
            self.name_client(request);
        }
        if self.chance(|temper| temper.sets_limits) {
            self.set_limits(request);
        }
        if self.chance(|temper| temper.connects) && self.books.open().connects < CALLS_OUT_MAX {
            self.connect(request);
        }
        if self.chance(|temper| temper.replaces) {
            request.replace_handler(Player::new(&self.books, number));
            self.books.open().accounts[number].replaced = true;
        }
        self.books.open().accounts[number].full = request.output.is_full(); // It goes on with `writable`.
    }

    fn write(&mut self, request: &mut Request<'_, Site>, count: impl Fn(&mut Ledger) -> usize, shared: bool) {
        let source = self.number as u32;
        let (count, before) = {
            let mut ledger = self.books.open();
            let count = count(&mut ledger);
            (count, ledger.accounts[self.number].accepted.get(&source).copied().unwrap_or(0))
        };
        let record = record(source, before, count);
        let accepted = match shared {
            true => request.output.write_shared(record).is_ok(),
            false => request.output.write_all(&record).is_ok(),
        };
        let mut ledger = self.books.open();
        match accepted {
            true => ledger.accept(self.number, source, count),
            false => {
                ledger.end(self.number, EndReason::OutputLimit); // If it is not over already, this was too much.
                ledger.accounts[self.number].may_reset |= self.stage == Stage::Over;
            }
        }
        let (high, shares) = (ledger.bounds(self.number)[2], ledger.shares);
        drop(ledger);
        let (len, full) = (request.output.len(), request.output.is_full());
        self.books.expect(full == (len > high) || full && shares, || {
            format!("is_full is {full} at {len} bytes, the high water is {high}")
        });
    }

    fn send(&mut self, request: &mut Request<'_, Site>) {
        let Some((to, id)) = self.books.open().any() else { return };
        if id == request.id() {
            let sent = request.others.send(id, b"to itself");
            return self.books.expect(sent == Delivery::Refused, || format!("a send of {to} to itself says {sent:?}"));
        }
        let source = self.number as u32;
        let (count, before, over, has_room) = {
            let mut ledger = self.books.open();
            ledger.stirred.insert(to);
            let count = ledger.record_bytes();
            let account = &ledger.accounts[to];
            let before = account.accepted.get(&source).copied().unwrap_or(0);
            (count, before, account.finished.is_some(), ledger.has_room(to, count))
        };
        let sent = request.others.send(id, &record(source, before, count));
        match sent {
            Delivery::Queued | Delivery::Full => self.books.open().accept(to, source, count),
            Delivery::Gone => self.books.open().end(to, EndReason::OutputLimit), // If it is not over already, this was too much.
            _ => {}
        }
        let taken = matches!(sent, Delivery::Queued | Delivery::Full);
        self.books.expect(taken || !has_room, || format!("a send to {to}, which is open, says {sent:?}"));
        self.books
            .expect(!over || sent == Delivery::Gone, || format!("a send to {to}, which is finished, says {sent:?}"));
    }

    /// Sends something to all others that are open.
    fn broadcast(&mut self, request: &mut Request<'_, Site>) {
        let (before, open) = {
            let mut ledger = self.books.open();
            let everybody = ledger.accounts.len();
            ledger.stirred.extend(0..everybody);
            ledger.broadcasts += BROADCAST_BYTES;
            (ledger.broadcasts - BROADCAST_BYTES, ledger.open())
        };
        let sessions = self.books.open().sessions.clone();
        let mut asked = Vec::new();
        let took = request.others.broadcast(record(BROADCAST, before, BROADCAST_BYTES as usize), |id| {
            let is_stream = !sessions.contains(&id);
            asked.extend(is_stream.then_some(id));
            is_stream
        });
        self.books.expect(took <= asked.len(), || format!("{took} took a broadcast, {} were asked", asked.len()));
        let me = request.id();
        self.books.expect(!asked.contains(&me), || format!("a broadcast of {me:?} asks for itself"));
        for id in open.into_iter().filter(|&id| id != me) {
            self.books.expect(asked.contains(&id), || format!("a broadcast leaves out {id:?}, which is open"));
        }
        let mut ledger = self.books.open();
        for account in ledger.accounts.iter_mut().filter(|account| account.id.is_some_and(|id| asked.contains(&id))) {
            account.broadcast = before + BROADCAST_BYTES;
            if took < asked.len() {
                account.reasons.push(EndReason::OutputLimit); // Of one of them it was too much.
            }
        }
    }

    /// Gives the connection limits of its own, or takes them back.
    fn set_limits(&mut self, request: &mut Request<'_, Site>) {
        let mut limits = ConnectionLimits::default();
        let (bounds, before) = {
            let mut ledger = self.books.open();
            let before = ledger.bounds(self.number);
            let high = 1 + ledger.rng.usize(..3_000);
            let most = high * (1 + ledger.rng.usize(..4));
            let own = [1 + ledger.rng.usize(..3_000), ledger.rng.usize(..=high), high, most];
            ledger.accounts[self.number].own = ledger.rng.bool().then_some(own);
            (ledger.accounts[self.number].own, before)
        };
        if let Some([input, low, high, most]) = bounds {
            limits.input_bytes_max = Some(input);
            (limits.output_low_water, limits.output_high_water, limits.output_bytes_max) =
                (Some(low), Some(high), Some(most));
        }
        let result = request.set_limits(&limits);
        self.books.expect(result.is_ok(), || format!("{limits:?}: {result:?}"));
        let mut ledger = self.books.open();
        let [input, .., most] = ledger.bounds(self.number);
        if request.output.len() > most {
            ledger.end(self.number, EndReason::OutputLimit); // Unless the socket takes it when the callback returns.
            ledger.accounts[self.number].may_reset = true;
        }
        if input < before[0] && request.input.len() > input {
            ledger.end(self.number, EndReason::InputLimit);
        }
    }

    /// Says that the connection is another client's, one of a few hosts.
    fn name_client(&mut self, request: &mut Request<'_, Site>) {
        let number = self.number;
        let (client, max, (least, most), called, same) = {
            let mut ledger = self.books.open();
            if ledger.named == u16::MAX {
                return; // There are no more ports.
            }
            ledger.named += 1;
            let (host, port) = (ledger.rng.u8(1..4), ledger.named);
            let client = Address::from(SocketAddr::from(([203, 0, 113, host], port)));
            let same = ledger.address(number).ip() == client.ip();
            let (max, others) = (ledger.limits.connections_per_client_max, ledger.others_of(number, &client));
            ledger.rename(number, &client);
            (client, max.unwrap_or(usize::MAX), others, ledger.accounts[number].called_at.is_some(), same)
        };
        let named = request.set_client_address(client.clone());
        let told = if named.is_ok() { "set_client_address" } else { "client limit" };
        *self.books.open().calls.entry(told.to_owned()).or_default() += 1;
        let right = match &named {
            Ok(()) => called || same || least < max,
            Err(Error::ClientLimit { .. }) => !called && !same && most >= max,
            Err(_) => false,
        };
        self.books.expect(right, || {
            format!("{number} is said to be of {client}, of which there are {least} to {most}, of {max}: {named:?}")
        });
    }

    fn set_timer(&mut self, request: &mut Request<'_, Site>) {
        let now = self.books.open().now();
        let (tag, after, cancel) = {
            let mut ledger = self.books.open();
            let micros = [0, 1_000, 10_000, ledger.rng.u64(..100_000)]; // Some are due together.
            let after = Duration::from_micros(*ledger.rng.choice(&micros).unwrap_or(&0));
            (ledger.rng.u64(..3), after, ledger.rng.u8(..4) == 0)
        };
        if cancel {
            let was = self.books.open().accounts[self.number].timers.remove(&tag).is_some();
            let cancelled = request.cancel_timer(tag);
            // A successor may be set up on a connection that is on its way out, whose timers have fired for no handler.
            let holds = was == cancelled || (was && self.stage != Stage::SetUp);
            self.books.expect(holds, || format!("timer {tag} of {} was set: {was}", self.number));
        } else {
            let every = after.max(Duration::from_millis(1));
            let periodic = self.books.open().rng.u8(..8) == 0;
            let set = match periodic {
                true => (now + after, Some(every)),
                false => (now + after, None),
            };
            if periodic {
                request.set_interval(tag, after)
            } else {
                request.set_timer(tag, after)
            }
            self.books.open().accounts[self.number].timers.insert(tag, set);
        }
    }

    fn connect(&mut self, request: &mut Request<'_, Site>) {
        let number = {
            let mut ledger = self.books.open();
            let n = ledger.accounts.len();
            let [_, b, c, d] = (n as u32).to_be_bytes();
            let inet = || SocketAddr::from(([100, 64 | b, c, d], 80)).into();
            let number = ledger.add(&unix_address(n).unwrap_or_else(inet));
            ledger.accounts[number].called_at = Some(ledger.now());
            number
        };
        let address = self.books.open().address(number);
        match request.others.connect(address, Player::new(&self.books, number)) {
            Ok(id) => {
                let mut ledger = self.books.open();
                ledger.accounts[number].id = Some(id);
                ledger.connects += 1;
                ledger.stirred.insert(number);
            }
            Err(error) => {
                let error = matches!(error, Error::Connect { .. });
                self.books.expect(error, || "connect fails with another error than Connect".to_owned());
            }
        }
    }

    /// How a callback ends.
    fn leave(&mut self, reason: EndReason) -> Result<Next> {
        if self.chance(|temper| temper.panics) {
            let mut ledger = self.books.open();
            ledger.panics += 1;
            ledger.accounts[self.number].may_reset = true;
            ledger.end(self.number, EndReason::Panicked);
            drop(ledger);
            resume_unwind(Box::new(SCRIPTED));
        }
        if self.chance(|temper| temper.errs) {
            let mut ledger = self.books.open();
            ledger.errors += 1;
            ledger.end(self.number, EndReason::Error);
            return Err(Error::other(SCRIPTED));
        }
        if self.chance(|temper| temper.aborts) {
            return Ok(self.abort(reason));
        }
        let closes = self.chance(|temper| temper.closes);
        Ok(if closes { self.close(reason) } else { Next::Wait })
    }

    fn close(&mut self, reason: EndReason) -> Next {
        self.books.open().end(self.number, reason);
        Next::Close
    }

    fn abort(&mut self, reason: EndReason) -> Next {
        let mut ledger = self.books.open();
        ledger.accounts[self.number].may_reset = true;
        ledger.end(self.number, reason);
        Next::Abort
    }

    fn called(&mut self, request: &mut Request<'_, Site>, callback: &str, reason: EndReason) -> Result<Next> {
        self.enter(request, callback, Stage::SetUp);
        let (stopping, asked) = (request.is_stopping(), self.books.open().stopped_at.is_some());
        self.books
            .expect(stopping == asked, || format!("is_stopping is {stopping}, and a stop was requested: {asked}"));
        if matches!(callback, "handle" | "writable" | "eof" | "drain") {
            self.books.spend(self.number, 0, 1); // Others come with their own occasion.
        }
        let may_dawdle = matches!(callback, "handle" | "writable" | "timer" | "message"); // Others are not to be stopped.
        self.books.open().slow_callbacks += u32::from(may_dawdle);
        self.consume(request, may_dawdle);
        if may_dawdle && self.chance(|temper| temper.dawdles) {
            self.write_slowly(request);
        }
        self.act(request);
        self.leave(reason)
    }

    /// Something has happened that ends a connection like this.
    fn expect_reason(&self, why: EndReason, now: Duration) {
        let ledger = self.books.open();
        let account = &ledger.accounts[self.number];
        let right = match why {
            EndReason::Reset => true, // Judged in the end.
            EndReason::PeerClosed => account.eof_told && (account.shut || account.reasons.contains(&why)),
            EndReason::StopAborted => ledger.stopped_at.is_some(),
            EndReason::BufferLimit => account.may_hold() > 0 && ledger.may_hold_too_much(),
            // Also of one that was on its way out and whose peer did not take the rest.
            EndReason::Timeout(Timeout::Write) => account.ending,
            _ => account.reasons.contains(&why),
        };
        let (reasons, since) = (account.reasons.clone(), account.unsent_since);
        drop(ledger);
        self.books.expect(right, || format!("{} ends with {why:?}, and it may with {reasons:?}", self.number));
        if why == EndReason::Timeout(Timeout::Write) && !reasons.contains(&why) {
            let limit = self.books.open().shortest_write_timeout(self.number); // It may have passed a while ago.
            self.expect_due(why, limit, Some(since), now);
        }
    }

    /// Not before its time, counted from when that may have begun at the earliest.
    fn expect_due(&self, why: EndReason, limit: Option<Duration>, since: Option<Duration>, now: Duration) {
        let number = self.number;
        let due = since.zip(limit).is_some_and(|(since, limit)| now >= since + limit);
        self.books.expect(due, || format!("{why} of {number} at {now:?}, {limit:?} after {since:?}"));
    }
}

impl RequestHandler<Site> for Player {
    fn setup(&mut self, request: &mut Request<'_, Site>) -> Result<Next> {
        self.enter(request, "setup", Stage::New);
        {
            let mut ledger = self.books.open();
            let account = &mut ledger.accounts[self.number];
            account.setup_called = true;
            // What has come with the end of the handshake.
            account.shown = account.shown.max(account.consumed + request.input.len() as u64);
            (account.open, account.eof_told, account.replaced) = (false, false, false); // A successor starts fresh.
            if account.active_at.is_zero() {
                account.active_at = request.others.now();
            }
        }
        self.stage = Stage::Over; // Unless it succeeds.
        self.act(request);
        let next = self.leave(EndReason::Done)?;
        self.stage = Stage::SetUp;
        self.books.open().accounts[self.number].open = true;
        Ok(next)
    }

    fn handle(&mut self, request: &mut Request<'_, Site>) -> Result<Next> {
        let (number, empty) = (self.number, request.input.is_empty());
        self.books.open().accounts[number].held = false;
        self.books.expect(!empty, || format!("handle of {number} without input"));
        self.called(request, "handle", EndReason::Done)
    }

    fn writable(&mut self, request: &mut Request<'_, Site>) -> Result<Next> {
        let (number, len, low) = (self.number, request.output.len(), self.books.open().bounds(self.number)[1]);
        self.books.open().accounts[number].full = false;
        self.books.expect(len <= low, || format!("writable of {number} at {len} bytes, the low water is {low}"));
        self.called(request, "writable", EndReason::Done)
    }

    fn eof(&mut self, request: &mut Request<'_, Site>) -> Result<Next> {
        let number = self.number;
        let (shown, sent, told, ended) = {
            let mut ledger = self.books.open();
            let account = &mut ledger.accounts[number];
            let told = std::mem::replace(&mut account.eof_told, true);
            (account.consumed + request.input.len() as u64, account.sent, told, account.sent_eof)
        };
        self.books.expect(request.input.is_eof(), || format!("eof of {number}, and its input says otherwise"));
        self.books.expect(!told, || format!("eof of {number} is called twice"));
        self.books.expect(ended, || format!("eof of {number}, whose peer has not ended"));
        self.books.expect(shown == sent, || format!("eof of {number} after {shown} of {sent} bytes"));
        let next = self.called(request, "eof", EndReason::PeerClosed)?;
        let stays = self.chance(|temper| temper.stays_after_eof);
        Ok(if next == Next::Wait && !stays { self.close(EndReason::PeerClosed) } else { next })
    }

    fn timed_out(&mut self, request: &mut Request<'_, Site>, timeout: Timeout) -> Result<Next> {
        self.enter(request, &format!("timeout {timeout:?}"), Stage::SetUp);
        let (now, reason) = (request.others.now(), EndReason::Timeout(timeout));
        let mut ledger = self.books.open();
        let account = &mut ledger.accounts[self.number];
        // Its time starts again, unless it closes.
        let since = match timeout {
            Timeout::Idle => Some(std::mem::replace(&mut account.active_at, now)),
            // Perhaps a record of TLS is incomplete, which began after the last input had come.
            Timeout::Read if account.secured => {
                let since = account.shown_at.min(account.unread_since.unwrap_or(account.shown_at));
                account.unread_since = account.unread_since.map(|_| now);
                Some(since)
            }
            Timeout::Read => account.unread_since.replace(now),
            Timeout::Message => account.message_since.replace(now),
            _ => Some(std::mem::replace(&mut account.unsent_since, now)),
        };
        let (gives_up, aborts) = (ledger.rng.bool(), timeout == Timeout::Write);
        drop(ledger);
        let limit = self.books.open().timeout(self.number, timeout);
        self.expect_due(reason, limit, since, now);
        if gives_up && aborts {
            return Ok(self.abort(reason));
        }
        self.act(request);
        Ok(if gives_up { self.close(reason) } else { Next::Wait })
    }

    fn timer(&mut self, request: &mut Request<'_, Site>, tag: u64) -> Result<Next> {
        let (number, now) = (self.number, request.others.now());
        let set = self.books.open().accounts[number].timers.remove(&tag);
        self.books.expect(set.is_some_and(|(due, _)| due <= now), || {
            format!("timer {tag} of {number} fires at {now:?} and was due at {set:?}")
        });
        {
            let mut ledger = self.books.open();
            let next = set.and_then(|timer| next_tick(timer, ledger.now()));
            ledger.accounts[number].timers.extend(next.map(|next| (tag, next)));
        }
        self.called(request, "timer", EndReason::Done)
    }

    fn message(&mut self, request: &mut Request<'_, Site>, message: Message) -> Result<Next> {
        let (number, id) = (self.number, request.id());
        self.books.open().messages_received += 1;
        let right = message.downcast::<For>().is_ok_and(|For(to)| to == id);
        self.books.expect(right, || format!("{number} has a message that is for another connection"));
        self.called(request, "message", EndReason::Done)
    }

    fn drain(&mut self, request: &mut Request<'_, Site>) -> Result<Next> {
        let (number, stopping) = (self.number, self.books.open().stopped_at.is_some());
        self.books.expect(stopping, || format!("drain of {number}, and nothing stops"));
        let next = self.called(request, "drain", EndReason::Stopped)?;
        let closes = next == Next::Wait && self.books.open().rng.bool();
        Ok(if closes { self.close(EndReason::Stopped) } else { next })
    }

    fn finish(&mut self, request: &mut Request<'_, Site>, why: EndReason) {
        self.expect_reason(why, request.others.now()); // What waited to be sent is gone by now.
        self.enter(request, "finish", Stage::SetUp);
        self.stage = Stage::Over;
        let abortive = matches!(
            why,
            EndReason::Reset
                | EndReason::OutputLimit
                | EndReason::BufferLimit
                | EndReason::Panicked
                | EndReason::StopAborted
                | EndReason::Timeout(Timeout::Write)
        );
        {
            let mut ledger = self.books.open();
            let account = &mut ledger.accounts[self.number];
            account.finished = Some((why, request.others.now()));
            account.may_reset |= abortive;
            account.timers.clear();
            ledger.finishing.push(self.number);
            ledger.ends.push(why);
        }
        if self.chance(|temper| temper.writes) {
            self.write(request, |ledger| 1 + ledger.rng.usize(..200), false);
        }
    }

    fn connect_failed(&mut self, request: &mut Request<'_, Site>, error: &Error) {
        self.enter(request, "connect_failed", Stage::New);
        self.stage = Stage::Over;
        let Error::Connect { source, .. } = error else {
            return self.books.expect(false, || format!("connect_failed of {}: {error:#}", self.number));
        };
        if source.kind() == std::io::ErrorKind::TimedOut {
            let since = self.books.open().accounts[self.number].called_at;
            let limit = self.books.open().limits.connect_timeout;
            self.expect_due(EndReason::ConnectTimeout, limit, since, request.others.now());
        }
        let mut ledger = self.books.open();
        let account = &mut ledger.accounts[self.number];
        (account.may_reset, account.connect_failed) = (true, true);
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.books.open().handlers -= 1;
    }
}

impl Books {
    /// Time passes in a callback.
    fn dawdle(&self) {
        let mut ledger = self.open();
        let time = Duration::from_nanos(ledger.rng.u64(..=DAWDLE_MAX.as_nanos() as u64));
        ledger.dawdled += time;
        if let Some(clock) = &ledger.clock {
            clock.advance(time);
        }
    }

    /// Sends a message to a connection, and counts it if there was room.
    pub(crate) fn message(&self, handle: &Handle, id: ConnectionId) {
        if handle.send(id, For(id)).is_ok() {
            self.open().messages_sent += 1;
        }
    }
}

/// What another thread may submit at any time.
pub(crate) fn meddle(books: &Books, handle: &Handle) {
    let Some((_, id)) = books.open().any() else { return };
    books.message(handle, id);
}
