//! Connects all at the same moment.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::connection::Connection;
use super::dialer::{Dialer, Dialled};
use super::pattern::SLICE_MAX;
use super::peers::BACKLOG_WAIT;
use super::poller::{Interest, Poller, Ready};
use super::quota::Quota;
use super::stages::{self, Clients, Stage};
use super::tally::{Fault, Tally};
use super::{Burst, Outcome, Until, Watch, descriptors};

impl Burst {
    /// Connects, and waits until all are served or the deadline is over. A latency counts from connect(2) to the last
    /// byte of the echo.
    ///
    /// # Errors
    ///
    /// There are not enough descriptors. Connections that fail are part of the outcome.
    pub(crate) fn run(&self, watch: &mut dyn Watch) -> Result<Outcome, String> {
        if self.connections == 0 || self.message_bytes == 0 {
            return Err("a burst needs connections and a message of at least one byte".to_owned());
        }
        descriptors::check(self.connections)?;
        let stage = |connections| Stage { until: Until::Count(connections), bound: self.deadline };
        stages::run(&mut Crush::new(self)?, &self.address, stage(0), stage(self.connections as u64), watch)
    }
}

/// All connections of a burst, which stay until it is over.
struct Crush<'a> {
    burst: &'a Burst,
    dialer: Dialer,
    poller: Poller,
    buffer: Vec<u8>,
    /// When the burst began.
    began: Instant,
    /// Sockets not connected yet. They are there before the first connect, so that nothing comes between the connects.
    outside: Vec<OwnedFd>,
    inside: Vec<Guest>,
    under_way: u64,
}

struct Guest {
    /// Until it fails.
    connection: Option<Connection>,
    /// When connect(2) was called, or the burst began if a full backlog refused it then.
    began: Instant,
}

impl<'a> Crush<'a> {
    fn new(burst: &'a Burst) -> Result<Self, String> {
        let mut dialer = Dialer::new(&burst.address)?;
        let outside = (0..burst.connections).map(|_| dialer.socket()).collect::<Result<_, _>>();
        Ok(Crush {
            burst,
            dialer,
            poller: Poller::new().map_err(|errno| format!("epoll: {errno}"))?,
            buffer: vec![0; SLICE_MAX],
            began: Instant::now(),
            outside: outside.map_err(|errno| format!("{}: {errno}", burst.address))?,
            inside: Vec::with_capacity(burst.connections),
            under_way: 0,
        })
    }

    /// Connects those outside, as long as the backlog lets them in, and only then sends their messages.
    fn connect(&mut self, now: impl Fn() -> Instant, quota: &mut Quota, tally: &mut Tally<'_>) {
        let first = self.inside.len();
        while let Some(socket) = self.outside.pop() {
            let began = now();
            match self.dialer.connect(&socket) {
                Ok(Dialled::UnderWay) => {
                    let connection = Some(Connection::new(socket, self.inside.len() as u64, began));
                    self.inside.push(Guest { connection, began });
                }
                Ok(Dialled::Full) => {
                    self.outside.push(socket);
                    break;
                }
                Err(errno) => self.lost(Fault::Connect(errno), quota, tally),
            }
        }
        for index in first..self.inside.len() {
            let Guest { connection: Some(connection), began } = &mut self.inside[index] else { continue };
            connection.extend(self.burst.message_bytes as u64, *began);
            let watched = self.poller.add(connection.socket(), index, Interest::Both).map_err(Fault::Connect);
            if let Err(fault) = watched.and_then(|()| connection.send()) {
                self.fail(index, fault, quota, tally);
            }
        }
    }

    fn serve(&mut self, index: usize, ready: Ready, quota: &mut Quota, tally: &mut Tally<'_>) {
        let Guest { connection: Some(connection), began } = &mut self.inside[index] else { return };
        let result = connection.receive(ready, &mut self.buffer).and_then(|received| {
            if received.bytes > 0 && connection.stream().is_back() {
                tally.echoed(self.burst.message_bytes, began.elapsed());
                quota.ended(1);
                self.under_way -= 1;
            }
            // Those that are served already should be let stay as well.
            if received.end { Err(Fault::Ended) } else { connection.send() }
        });
        if let Err(fault) = result {
            self.fail(index, fault, quota, tally);
        }
    }

    fn fail(&mut self, index: usize, fault: Fault, quota: &mut Quota, tally: &mut Tally<'_>) {
        let Some(connection) = self.inside[index].connection.take() else { return };
        if connection.stream().is_back() {
            tally.failed(fault, 1);
        } else {
            self.lost(fault, quota, tally);
        }
    }

    /// A connection will not be served.
    fn lost(&mut self, fault: Fault, quota: &mut Quota, tally: &mut Tally<'_>) {
        tally.failed(fault, 1);
        quota.ended(1);
        self.under_way -= 1;
    }
}

impl Clients for Crush<'_> {
    fn fill(&mut self, quota: &mut Quota, tally: &mut Tally<'_>) -> Result<(), String> {
        // None in the warm-up, all in what follows.
        self.under_way = quota.take(self.outside.len() as u64);
        if self.under_way > 0 {
            self.began = Instant::now();
            self.connect(Instant::now, quota, tally);
        }
        Ok(())
    }

    fn turn(&mut self, timeout: Duration, quota: &mut Quota, tally: &mut Tally<'_>) -> Result<(), String> {
        let timeout = if self.outside.is_empty() { timeout } else { timeout.min(BACKLOG_WAIT) };
        self.poller.wait(timeout).map_err(|errno| format!("epoll: {errno}"))?;
        for index in 0..self.poller.len() {
            let (guest, ready) = self.poller.event(index);
            self.serve(guest, ready, quota, tally);
        }
        let began = self.began;
        self.connect(|| began, quota, tally);
        Ok(())
    }

    fn sweep(&mut self, _now: Instant, _quota: &mut Quota, _tally: &mut Tally<'_>) -> Result<(), String> {
        // There is one deadline for all.
        Ok(())
    }

    fn give_up(&mut self, tally: &mut Tally<'_>) {
        let mut quota = Quota::none(Instant::now());
        for _ in std::mem::take(&mut self.outside) {
            self.lost(Fault::Connect(Errno::AGAIN), &mut quota, tally);
        }
        for index in 0..self.inside.len() {
            let silence = match &self.inside[index].connection {
                Some(connection) if !connection.stream().is_back() => connection.silence(),
                _ => continue,
            };
            self.fail(index, silence, &mut quota, tally);
        }
    }

    fn under_way(&self) -> u64 {
        self.under_way
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Behaviour, Seen, Server};
    use super::*;
    use crate::job::{Address, Transport};

    fn burst(address: &Address) -> Burst {
        Burst { address: address.clone(), connections: 100, message_bytes: 64, deadline: Duration::from_secs(20) }
    }

    #[test]
    fn all_are_served() {
        for transport in [Transport::Tcp, Transport::Unix] {
            let server = Server::start(transport, Behaviour::Echo);
            let mut seen = Seen::default();
            let outcome = burst(server.address()).run(&mut seen).unwrap();
            assert_eq!((outcome.done, outcome.failures.first), (100, None));
            assert_eq!((seen.begun, seen.ended), (1, 1));
        }
    }

    #[test]
    fn each_fault_is_counted_as_what_it_is() {
        let refused = burst(&Server::nobody()).run(&mut Seen::default()).unwrap();
        assert_eq!((refused.done, refused.failures.connects), (0, 100));

        let server = Server::start(Transport::Tcp, Behaviour::MuteAfter { bytes: 63 });
        let half_a_second = Burst { deadline: Duration::from_millis(500), ..burst(server.address()) };
        let silent = half_a_second.run(&mut Seen::default()).unwrap();
        assert_eq!((silent.done, silent.failures.silent), (0, 100));
    }
}
