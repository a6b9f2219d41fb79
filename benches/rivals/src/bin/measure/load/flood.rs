//! Connections that come and go.
//!
//! For each: socket, an option and bind for its source, connect, send, epoll_ctl, recv and close. The message is sent
//! right behind connect, since on this machine the connection is there by then; only if it is not, because the backlog
//! is full, the event that says so is waited for. Closing also ends the watching.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::connection::Connection;
use super::dialer::{Dialer, Dialled};
use super::pattern::SLICE_MAX;
use super::peers::BACKLOG_WAIT;
use super::poller::{Interest, Poller, Ready};
use super::quota::Quota;
use super::stages::{self, Clients, SILENCE};
use super::tally::{Fault, Tally};
use super::{Closes, Flood, Outcome, Watch, descriptors};

/// So many failures in a row, and one for each place, are the end: the server is gone, and trying on would only spin.
const FAILURES_MAX: u64 = 1000;

impl Flood {
    /// Makes connections for as long as asked.
    ///
    /// # Errors
    ///
    /// Too many connections in a row have failed. Fewer are part of the outcome.
    pub(crate) fn run(&self, watch: &mut dyn Watch) -> Result<Outcome, String> {
        if self.concurrency == 0 || self.message_bytes == 0 {
            return Err("a flood needs connections and a message of at least one byte".to_owned());
        }
        descriptors::check(self.concurrency)?;
        stages::run(&mut Visitors::new(self)?, &self.address, self.warm_up.into(), self.until.into(), watch)
    }
}

/// Places for connections, each of which is taken again as soon as it is free.
struct Visitors<'a> {
    flood: &'a Flood,
    dialer: Dialer,
    poller: Poller,
    buffer: Vec<u8>,
    places: Vec<Place>,
    /// Places that are free because the quota was used up.
    free: Vec<usize>,
    /// Places whose connection has to wait for room in the backlog of a Unix socket, the first one first.
    waiting: VecDeque<usize>,
    /// Connections so far, each of which sends bytes of its own.
    numbers: u64,
    under_way: u64,
    failures_in_a_row: u64,
}

/// One of the connections under way at a time.
struct Place {
    state: State,
    /// When connect(2) was called first.
    began: Instant,
    /// From then to the last byte of the echo, once that is there.
    latency: Option<Duration>,
}

enum State {
    Free,
    Waiting(OwnedFd),
    Visiting(Connection),
}

impl<'a> Visitors<'a> {
    fn new(flood: &'a Flood) -> Result<Self, String> {
        let now = Instant::now();
        Ok(Visitors {
            flood,
            dialer: Dialer::new(&flood.address)?,
            poller: Poller::new().map_err(|errno| format!("epoll: {errno}"))?,
            buffer: vec![0; SLICE_MAX],
            places: (0..flood.concurrency).map(|_| Place { state: State::Free, began: now, latency: None }).collect(),
            free: (0..flood.concurrency).rev().collect(),
            waiting: VecDeque::new(),
            numbers: 0,
            under_way: 0,
            failures_in_a_row: 0,
        })
    }

    /// Takes free places, as far as the quota allows.
    fn start(&mut self, quota: &mut Quota, tally: &mut Tally<'_>) -> Result<(), String> {
        // A place whose connection fails at once is free again, but only failures in a row make this long, and they
        // are counted.
        while let Some(&place) = self.free.last() {
            if quota.take(1) == 0 {
                break;
            }
            self.free.pop();
            self.under_way += 1;
            match self.dialer.socket() {
                Ok(socket) => {
                    self.places[place].began = Instant::now();
                    self.connect(place, socket, quota, tally)?;
                }
                Err(errno) => self.fail(place, Fault::Connect(errno), quota, tally)?,
            }
        }
        Ok(())
    }

    fn connect(
        &mut self,
        place: usize,
        socket: OwnedFd,
        quota: &mut Quota,
        tally: &mut Tally<'_>,
    ) -> Result<(), String> {
        let sent = match self.dialer.connect(&socket) {
            Ok(Dialled::UnderWay) => self.send(place, socket),
            Ok(Dialled::Full) => {
                self.places[place].state = State::Waiting(socket);
                self.waiting.push_back(place);
                Ok(())
            }
            Err(errno) => Err(Fault::Connect(errno)),
        };
        sent.or_else(|fault| self.fail(place, fault, quota, tally))
    }

    /// Sends the message, if the connection is there already, and waits for events.
    fn send(&mut self, place: usize, socket: OwnedFd) -> Result<(), Fault> {
        let Place { state, began, latency } = &mut self.places[place];
        let mut connection = Connection::new(socket, self.numbers, *began);
        self.numbers += 1;
        connection.extend(self.flood.message_bytes as u64, *began);
        connection.send()?;
        let interest = if connection.stream().is_sent() { Interest::Reading } else { Interest::Both };
        self.poller.add(connection.socket(), place, interest).map_err(Fault::Connect)?;
        *state = State::Visiting(connection);
        *latency = None;
        Ok(())
    }

    /// Tries again for those that wait for room in the backlog, until there is none.
    fn retry(&mut self, quota: &mut Quota, tally: &mut Tally<'_>) -> Result<(), String> {
        for _ in 0..self.waiting.len() {
            let Some(place) = self.waiting.pop_front() else { break };
            let State::Waiting(socket) = std::mem::replace(&mut self.places[place].state, State::Free) else {
                continue;
            };
            self.connect(place, socket, quota, tally)?;
            if self.waiting.back() == Some(&place) {
                // Still full. It keeps its turn.
                self.waiting.rotate_right(1);
                break;
            }
        }
        Ok(())
    }

    /// Something happened to the connection of a place.
    fn serve(&mut self, place: usize, ready: Ready, quota: &mut Quota, tally: &mut Tally<'_>) -> Result<(), String> {
        let Place { state: State::Visiting(connection), began, latency } = &mut self.places[place] else {
            return Ok(());
        };
        let received = match connection.receive(ready, &mut self.buffer) {
            Ok(received) => received,
            Err(fault) => return self.fail(place, fault, quota, tally),
        };
        if received.bytes > 0 {
            let now = Instant::now();
            connection.heard(now);
            if connection.stream().is_back() {
                *latency = Some(now - *began);
            }
        }
        match *latency {
            Some(latency) if self.flood.closes == Closes::Client || received.end => {
                tally.echoed(self.flood.message_bytes, latency);
                self.failures_in_a_row = 0;
                self.leave(place, quota);
                Ok(())
            }
            None if received.end => self.fail(place, Fault::Ended, quota, tally),
            _ if ready.writable => match connection.send() {
                Ok(()) => Ok(()),
                Err(fault) => self.fail(place, fault, quota, tally),
            },
            _ => Ok(()),
        }
    }

    /// Closes the connection of a place.
    fn leave(&mut self, place: usize, quota: &mut Quota) {
        self.places[place].state = State::Free;
        self.free.push(place);
        self.under_way -= 1;
        quota.ended(1);
    }

    fn fail(&mut self, place: usize, fault: Fault, quota: &mut Quota, tally: &mut Tally<'_>) -> Result<(), String> {
        tally.failed(fault, 1);
        self.leave(place, quota);
        self.failures_in_a_row += 1;
        if self.failures_in_a_row < FAILURES_MAX + self.places.len() as u64 {
            return Ok(());
        }
        Err(format!("{}, and {} more in a row", tally.first_failure(), self.failures_in_a_row - 1))
    }
}

impl Clients for Visitors<'_> {
    fn fill(&mut self, quota: &mut Quota, tally: &mut Tally<'_>) -> Result<(), String> {
        self.start(quota, tally)
    }

    fn turn(&mut self, timeout: Duration, quota: &mut Quota, tally: &mut Tally<'_>) -> Result<(), String> {
        let timeout = if self.waiting.is_empty() { timeout } else { timeout.min(BACKLOG_WAIT) };
        self.poller.wait(timeout).map_err(|errno| format!("epoll: {errno}"))?;
        for index in 0..self.poller.len() {
            let (place, ready) = self.poller.event(index);
            self.serve(place, ready, quota, tally)?;
            self.start(quota, tally)?;
        }
        self.retry(quota, tally)?;
        self.start(quota, tally)
    }

    fn sweep(&mut self, now: Instant, quota: &mut Quota, tally: &mut Tally<'_>) -> Result<(), String> {
        for place in 0..self.places.len() {
            let fault = match &self.places[place] {
                Place { state: State::Visiting(connection), .. } if connection.is_silent(now) => connection.silence(),
                Place { state: State::Waiting(_), began, .. } if now - *began >= SILENCE => {
                    self.waiting.retain(|waiting| *waiting != place);
                    Fault::Connect(Errno::AGAIN)
                }
                _ => continue,
            };
            self.fail(place, fault, quota, tally)?;
        }
        self.start(quota, tally)
    }

    fn give_up(&mut self, tally: &mut Tally<'_>) {
        self.waiting.clear();
        let mut quota = Quota::none(Instant::now());
        for place in 0..self.places.len() {
            let fault = match &self.places[place].state {
                State::Free => continue,
                State::Waiting(_) => Fault::Connect(Errno::AGAIN),
                State::Visiting(connection) => connection.silence(),
            };
            tally.failed(fault, 1);
            self.leave(place, &mut quota);
        }
    }

    fn under_way(&self) -> u64 {
        self.under_way
    }
}

#[cfg(test)]
mod tests {
    use super::super::Until;
    use super::super::testing::{Behaviour, Seen, Server};
    use super::*;
    use crate::job::Transport;

    fn flood(server: &Server, closes: Closes) -> Flood {
        Flood {
            address: server.address().clone(),
            concurrency: 16,
            message_bytes: 64,
            closes,
            warm_up: Until::Count(20),
            until: Until::Count(200),
        }
    }

    #[test]
    fn as_many_connections_as_asked_come_and_go() {
        for transport in [Transport::Tcp, Transport::Unix] {
            for (closes, behaviour) in [(Closes::Client, Behaviour::Echo), (Closes::Server, Behaviour::EchoOnce)] {
                let server = Server::start(transport, behaviour);
                let mut seen = Seen::default();
                let outcome = flood(&server, closes).run(&mut seen).unwrap();
                assert_eq!(outcome.failures.first, None);
                assert_eq!((outcome.done, outcome.bytes, outcome.latency.len()), (200, 200 * 64, 200));
                assert_eq!((seen.begun, seen.ended), (1, 1));
            }
        }
    }

    #[test]
    fn a_time_ends_in_full_swing() {
        let server = Server::start(Transport::Tcp, Behaviour::Echo);
        let tenth = Until::Elapsed(Duration::from_millis(100));
        let outcome = Flood { warm_up: tenth, until: tenth, ..flood(&server, Closes::Client) };
        let outcome = outcome.run(&mut Seen::default()).unwrap();
        assert_eq!(outcome.failures.first, None);
        assert!(outcome.done > 0);
    }

    #[test]
    fn each_fault_is_counted_as_what_it_is() {
        let run = |behaviour, closes, connections| {
            let server = Server::start(Transport::Tcp, behaviour);
            let flood = Flood { warm_up: Until::Count(0), until: Until::Count(connections), ..flood(&server, closes) };
            let outcome = flood.run(&mut Seen::default()).unwrap();
            assert_eq!(outcome.done, 0);
            outcome.failures
        };
        let corrupted = run(Behaviour::Corrupt { at: 63 }, Closes::Client, 100);
        assert_eq!((corrupted.wrong_bytes, corrupted.broken), (100, 0), "{corrupted:?}");
        let short = run(Behaviour::CloseAfter { bytes: 63 }, Closes::Client, 100);
        assert_eq!((short.wrong_bytes, short.broken), (0, 100), "{short:?}");
        let more = run(Behaviour::EchoOnceAndMore, Closes::Server, 100);
        assert_eq!((more.wrong_bytes, more.broken), (100, 0), "{more:?}");
        let silent = run(Behaviour::MuteAfter { bytes: 63 }, Closes::Client, 10);
        assert_eq!((silent.silent, silent.broken), (10, 0), "{silent:?}");
        // It echoes, and does not close when it should.
        let open = run(Behaviour::Echo, Closes::Server, 10);
        assert_eq!((open.silent, open.broken), (10, 0), "{open:?}");
    }

    #[test]
    fn nobody_there_is_an_error_after_some_attempts() {
        let server = Server::start(Transport::Tcp, Behaviour::Echo);
        let address = Server::nobody();
        let hour = Until::Elapsed(Duration::from_secs(3600));
        let nobody = Flood { address: address.clone(), warm_up: hour, ..flood(&server, Closes::Client) };
        let Err(error) = nobody.run(&mut Seen::default()) else { panic!("nobody has served this") };
        assert!(error.contains("refused") && error.contains(&address.to_string()), "{error}");
    }
}
