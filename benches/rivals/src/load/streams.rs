//! Clients over connections: some that stay, and some that come and go.

use super::connection::Connection;
use super::pattern::SLICE_MAX;
use super::socket::Dialer;
use super::tally::{Fault, Tally};
use super::{Clients, Load, Until};
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::Type;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// How connections end that echo one message and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visits {
    ClientCloses,
    ServerCloses,
}

/// So many clients, each of which has a place.
pub(crate) struct Streams {
    dialer: Dialer,
    places: Vec<Place>,
    message_bytes: usize,
    /// Messages that each client keeps under way.
    depth: u64,
    /// `None` for connections that stay.
    visits: Option<Visits>,
    /// Places of those that stay whose connections have been made, or tried.
    dialled: usize,
    /// Connections so far, each of which sends bytes of its own.
    numbers: u64,
    under_way: u64,
    failures_in_a_row: usize,
    buffer: Vec<u8>,
}

#[derive(Default)]
struct Place {
    /// `None` before it is made, between two visits, and after a failure.
    connection: Option<Connection>,
    /// Of a visit: the message is back, and the server has still to end the connection.
    is_answered: bool,
}

/// Connections that are opened at the same time: enough to keep the server busy, and fewer than a backlog holds.
const DIALLED_MAX: u64 = 512;

/// Failures in a row, and one more for each place, after which the server is taken for gone.
const FAILURES_MAX: usize = 1_000;

impl Load<Streams> {
    /// Connections that stay. Each keeps `depth` messages under way, and sends the next one when one is back.
    ///
    /// # Errors
    ///
    /// Not all connections could be made and have echoed one message.
    pub(crate) fn echo(address: SocketAddr, connections: usize, depth: usize, bytes: usize) -> Result<Self, String> {
        let mut load = Load::new(address, Streams::new(address, connections, depth, bytes, None)?)?;
        load.run(Until::Count(connections as u64))?;
        match &load.failures().first {
            None => Ok(load),
            Some(first) => Err(format!("{first}, while {connections} connections were opened")),
        }
    }

    /// Connections that come, echo one message and go as fast as possible, `concurrency` of them at any time.
    pub(crate) fn flood(address: SocketAddr, concurrency: usize, bytes: usize, visits: Visits) -> Result<Self, String> {
        Load::new(address, Streams::new(address, concurrency, 1, bytes, Some(visits))?)
    }
}

impl Streams {
    fn new(
        address: SocketAddr,
        places: usize,
        depth: usize,
        message_bytes: usize,
        visits: Option<Visits>,
    ) -> Result<Streams, String> {
        Ok(Streams {
            dialer: Dialer::new(address, Type::STREAM)?,
            places: (0..places).map(|_| Place::default()).collect(),
            message_bytes,
            depth: depth as u64,
            visits,
            dialled: 0,
            numbers: 0,
            under_way: 0,
            failures_in_a_row: 0,
            buffer: vec![0; SLICE_MAX],
        })
    }

    /// Returns whether there are connections to be made before messages are sent over those that stay.
    fn is_opening(&self) -> bool {
        self.visits.is_none() && self.dialled < self.places.len()
    }

    /// Dials the places of those that stay that have no connection yet, and sends one message over each.
    fn open_more(&mut self, registry: &Registry, tally: &mut Tally) -> Result<(), String> {
        while self.is_opening() && self.under_way < DIALLED_MAX {
            tally.take(1);
            self.dialled += 1;
            self.dial(self.dialled - 1, registry).or_else(|fault| self.fail(self.dialled - 1, &fault, tally))?;
        }
        Ok(())
    }

    /// Starts messages at `place`, as far as it has room and the run allows.
    fn start(&mut self, place: usize, registry: &Registry, tally: &mut Tally) -> Result<(), String> {
        // A visit that fails at once leaves its place free for the next one. Failures in a row are counted.
        while let Err(fault) = self.try_start(place, registry, tally) {
            self.fail(place, &fault, tally)?;
        }
        Ok(())
    }

    fn try_start(&mut self, place: usize, registry: &Registry, tally: &mut Tally) -> Result<(), Fault> {
        let is_opening = self.is_opening();
        match (&mut self.places[place].connection, self.visits) {
            (Some(connection), None) => {
                let room = if is_opening { 0 } else { self.depth - connection.under_way() };
                let messages = tally.take(room);
                self.under_way += messages;
                connection.add(messages);
                connection.send()
            }
            (Some(connection), Some(_)) => connection.send(),
            (None, Some(_)) if tally.take(1) == 1 => self.dial(place, registry),
            (None, _) => Ok(()),
        }
    }

    /// Connects, and sends the first message. It is sent right behind connect, since on this machine the connection exists
    /// by then. If it does not, because the backlog was full, an event says when it does.
    fn dial(&mut self, place: usize, registry: &Registry) -> Result<(), Fault> {
        self.under_way += 1;
        let Place { connection, is_answered } = &mut self.places[place];
        let socket = self.dialer.dial().map_err(Fault::Connect)?;
        let connection = connection.insert(Connection::new(socket, self.numbers, self.message_bytes));
        *is_answered = false;
        self.numbers += 1;
        connection.add(1);
        connection.send()?;
        let fd = connection.socket.as_raw_fd();
        // Edge-triggered: what is ready already is an event too. Closing also ends the watching.
        registry
            .register(&mut SourceFd(&fd), Token(place), Interest::READABLE | Interest::WRITABLE)
            .map_err(Fault::Connect)
    }

    /// Takes what has come.
    fn receive(&mut self, place: usize, event: &Event, tally: &mut Tally) -> Result<(), Fault> {
        let Place { connection: Some(connection), is_answered } = &mut self.places[place] else { return Ok(()) };
        let before = connection.under_way();
        let received = connection.receive(event, &mut self.buffer);
        let finished = before - connection.under_way();
        if self.visits.is_none() {
            self.under_way -= finished;
            tally.echoed(finished);
        }
        let ended = received?;
        let Some(visits) = self.visits else { return if ended { Err(Fault::Ended) } else { Ok(()) } };
        *is_answered |= finished > 0;
        if *is_answered && (ended || visits == Visits::ClientCloses) {
            self.places[place].connection = None;
            self.under_way -= 1;
            self.failures_in_a_row = 0;
            tally.echoed(1);
        } else if ended {
            return Err(Fault::Ended);
        }
        Ok(())
    }

    /// Gives up the connection of a place, and all that is under way on it.
    fn fail(&mut self, place: usize, fault: &Fault, tally: &mut Tally) -> Result<(), String> {
        let connection = self.places[place].connection.take();
        let messages = match (self.visits, &connection) {
            (None, Some(connection)) => connection.under_way(),
            // A visit is one message until the server has ended it.
            _ => 1,
        };
        self.under_way -= messages;
        tally.failed(fault, messages);
        self.failures_in_a_row += 1;
        let too_many = match self.visits {
            // Each of those that stay fails once.
            None => self.failures_in_a_row >= self.dialled,
            Some(_) => self.failures_in_a_row >= FAILURES_MAX + self.places.len(),
        };
        if too_many { Err(tally.describe(&format!("{} failures in a row", self.failures_in_a_row))) } else { Ok(()) }
    }
}

impl Clients for Streams {
    const SWEEP_EVERY: Duration = Duration::from_secs(1);

    fn fill(&mut self, registry: &Registry, tally: &mut Tally) -> Result<(), String> {
        if self.is_opening() {
            return self.open_more(registry, tally);
        }
        (0..self.places.len()).try_for_each(|place| self.start(place, registry, tally))
    }

    fn ready(&mut self, event: &Event, registry: &Registry, tally: &mut Tally) -> Result<(), String> {
        let place = event.token().0;
        self.receive(place, event, tally).or_else(|fault| self.fail(place, &fault, tally))?;
        if self.is_opening() {
            self.open_more(registry, tally)?;
        }
        self.start(place, registry, tally)
    }

    fn sweep(&mut self, now: Instant, registry: &Registry, tally: &mut Tally) -> Result<(), String> {
        for place in 0..self.places.len() {
            let Place { connection: Some(connection), is_answered } = &self.places[place] else { continue };
            let is_awaited = connection.under_way() > 0 || *is_answered;
            if let Some(fault) = connection.silence(now).filter(|_| is_awaited) {
                self.fail(place, &fault, tally)?;
                self.start(place, registry, tally)?;
            }
        }
        Ok(())
    }

    fn under_way(&self) -> u64 {
        self.under_way
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Behaviour, nobody, server};
    use super::super::{Failures, Outcome};
    use super::*;

    /// 20 messages to warm up, then 1,000.
    fn run(mut load: Load<Streams>) -> Result<(Outcome, Failures), String> {
        load.run(Until::Count(20))?;
        let outcome = load.run(Until::Count(1_000))?;
        load.drain()?;
        Ok((outcome, load.failures().clone()))
    }

    fn flood(behaviour: Behaviour, visits: Visits) -> Result<(Outcome, Failures), String> {
        run(Load::flood(server(behaviour), 16, 64, visits)?)
    }

    #[test]
    fn exactly_as_many_messages_as_asked_are_echoed() {
        for (connections, depth, bytes) in [(4, 1, 64), (600, 7, 64), (4, 3, 300_000)] {
            let load = Load::echo(server(Behaviour::Echo), connections, depth, bytes).unwrap();
            let (outcome, failures) = run(load).unwrap();
            assert_eq!(failures, Failures::default());
            assert_eq!(outcome.done, 1_000);
        }
    }

    #[test]
    fn exactly_as_many_connections_as_asked_come_and_go() {
        let pairs = [(Behaviour::Echo, Visits::ClientCloses), (Behaviour::EchoOnce, Visits::ServerCloses)];
        for (behaviour, visits) in pairs {
            let (outcome, failures) = flood(behaviour, visits).unwrap();
            assert_eq!(failures, Failures::default());
            assert_eq!(outcome.done, 1_000);
        }
    }

    #[test]
    fn a_time_ends_in_full_swing() {
        let server = server(Behaviour::Echo);
        let tenth = Duration::from_millis(100);
        let echo = Load::echo(server, 4, 2, 64).unwrap();
        let flood = Load::flood(server, 4, 64, Visits::ClientCloses).unwrap();
        for mut load in [echo, flood] {
            load.run(Until::Elapsed(tenth)).unwrap();
            let outcome = load.run(Until::Elapsed(tenth)).unwrap();
            assert!(outcome.done > 0 && outcome.elapsed >= tenth && outcome.own_cpu > Duration::ZERO);
            assert!(load.clients.under_way() > 0);
            load.drain().unwrap();
            assert_eq!((load.clients.under_way(), load.failures()), (0, &Failures::default()));
        }
    }

    #[test]
    fn each_fault_of_connections_that_stay_is_counted_as_what_it_is() {
        // In the middle of the measured messages. Each of the connections fails, and then all have.
        let at = 64 * 100 + 3;
        let faults = [
            (Behaviour::Corrupt(at), "1 bytes that are not those sent"),
            (Behaviour::CloseAfter(at), "closed by the server"),
            (Behaviour::MuteAfter(at), "no answer"),
        ];
        for (behaviour, what) in faults {
            let error = run(Load::echo(server(behaviour), 4, 2, 64).unwrap()).unwrap_err();
            assert!(error.contains(what) && error.contains("4 failures"), "{error}");
        }
    }

    #[test]
    fn each_fault_of_a_visit_is_counted_as_what_it_is() {
        let failures = |behaviour, visits| {
            let mut load = Load::flood(server(behaviour), 16, 64, visits).unwrap();
            assert_eq!(load.run(Until::Count(10)).unwrap().done, 0);
            let Failures { connects, broken, silent, wrong_bytes, .. } = *load.failures();
            (connects, broken, silent, wrong_bytes)
        };
        assert_eq!(failures(Behaviour::Corrupt(63), Visits::ClientCloses), (0, 0, 0, 10));
        assert_eq!(failures(Behaviour::CloseAfter(63), Visits::ClientCloses), (0, 10, 0, 0));
        assert_eq!(failures(Behaviour::EchoOnceAndMore, Visits::ServerCloses), (0, 0, 0, 10));
        assert_eq!(failures(Behaviour::MuteAfter(63), Visits::ClientCloses), (0, 0, 10, 0));
        // It echoes, and does not close when it should.
        assert_eq!(failures(Behaviour::Echo, Visits::ServerCloses), (0, 0, 10, 0));
    }

    #[test]
    fn nobody_there_is_an_error_with_the_address() {
        let address = nobody();
        let echo = Load::echo(address, 4, 1, 64).err();
        let hour = Until::Elapsed(Duration::from_secs(3_600));
        let flood = Load::flood(address, 4, 64, Visits::ClientCloses).unwrap().run(hour).err();
        for error in [echo, flood].map(Option::unwrap) {
            assert!(error.contains("refused") && error.contains(&address.to_string()), "{error}");
        }
    }

    #[test]
    fn a_server_that_is_not_up_to_the_connections_is_an_error() {
        assert!(Load::echo(server(Behaviour::CloseAfter(0)), 3, 1, 64).is_err());
        assert!(Load::echo(server(Behaviour::MuteAfter(0)), 3, 1, 64).is_err());
    }
}
