//! Connections that stay: made many at a time, then served by their events.

use std::time::{Duration, Instant};

use rustix::net::sockopt;

use super::connection::{Connection, Received};
use super::descriptors;
use super::dialer::{Dialer, Dialled};
use super::pattern::SLICE_MAX;
use super::poller::{Interest, Poller, Ready};
use super::tally::Fault;
use crate::job::Address;

/// So many connections are being made at any time: enough to keep the server busy, and no more than a backlog holds.
const CONNECTS_MAX: usize = 512;

/// All connections have to be made by then.
const CONNECT_BOUND: Duration = if cfg!(test) { Duration::from_secs(5) } else { Duration::from_secs(30) };

/// How long to wait for room in the backlog of a Unix socket, which nothing announces.
pub(super) const BACKLOG_WAIT: Duration = Duration::from_millis(1);

/// The connections, by number, which is the token of their events and that of their streams. A connection that has
/// failed leaves a gap.
pub(super) struct Peers {
    address: Address,
    dialer: Dialer,
    poller: Poller,
    connections: Vec<Option<Connection>>,
    /// For all reads, so that it stays in the cache.
    buffer: Vec<u8>,
}

impl Peers {
    pub(super) fn new(address: &Address) -> Result<Self, String> {
        Ok(Peers {
            address: address.clone(),
            dialer: Dialer::new(address)?,
            poller: Poller::new().map_err(|errno| format!("epoll: {errno}"))?,
            connections: Vec::new(),
            buffer: vec![0; SLICE_MAX],
        })
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Makes so many more connections.
    ///
    /// # Errors
    ///
    /// One of them failed, or not all were made in time; one made earlier has been closed.
    pub(super) fn open(&mut self, count: usize, progress: &mut dyn FnMut(f64)) -> Result<(), String> {
        let began = Instant::now();
        let before = self.len();
        let all = before + count;
        descriptors::check(all)?;
        // Those from `made` on may still be under way, in any order.
        let mut made = before;
        let mut connected = vec![false; count];
        while made < all {
            let mut timeout = CONNECT_BOUND.saturating_sub(began.elapsed());
            while self.len() < all && self.len() - made < CONNECTS_MAX {
                match self.dial() {
                    Ok(Dialled::UnderWay) => {}
                    Ok(Dialled::Full) => {
                        timeout = timeout.min(BACKLOG_WAIT);
                        break;
                    }
                    Err(errno) => return Err(self.not_made(made - before, count, &errno)),
                }
            }
            self.wait(timeout)?;
            for index in 0..self.events() {
                let (token, ready) = self.event(index);
                let Some(connection) = &self.connections[token] else { continue };
                if ready.hung_up || ready.end {
                    let error = sockopt::socket_error(connection.socket()).map(Result::err).ok().flatten();
                    let error = error.map_or_else(|| "closed by the server".to_owned(), |errno| errno.to_string());
                    return Err(self.not_made(made - before, count, &error));
                }
                if token >= before {
                    connected[token - before] = true;
                }
            }
            while made < self.len() && connected[made - before] {
                made += 1;
            }
            if made < all && began.elapsed() >= CONNECT_BOUND {
                return Err(self.not_made(made - before, count, &"took too long"));
            }
            progress((made - before) as f64 / count as f64);
        }
        Ok(())
    }

    fn dial(&mut self) -> rustix::io::Result<Dialled> {
        let socket = self.dialer.socket()?;
        self.dialer.send_at_once(&socket)?;
        let dialled = self.dialer.connect(&socket)?;
        if dialled == Dialled::UnderWay {
            let number = self.connections.len();
            self.poller.add(&socket, number, Interest::Both)?;
            self.connections.push(Some(Connection::new(socket, number as u64, Instant::now())));
        }
        Ok(dialled)
    }

    fn not_made(&self, made: usize, count: usize, why: &dyn std::fmt::Display) -> String {
        format!("{}: {why}, after {made} of {count} connections", self.address)
    }

    /// Waits for events.
    pub(super) fn wait(&mut self, timeout: Duration) -> Result<(), String> {
        self.poller.wait(timeout).map_err(|errno| format!("epoll: {errno}"))
    }

    /// The same, for those who have something to do at a moment between two milliseconds.
    pub(super) fn wait_precisely(&mut self, timeout: Duration) -> Result<(), String> {
        self.poller.wait_precisely(timeout).map_err(|errno| format!("epoll: {errno}"))
    }

    /// How many events there are.
    pub(super) fn events(&self) -> usize {
        self.poller.len()
    }

    /// Number of the connection, and what happened to it.
    pub(super) fn event(&self, index: usize) -> (usize, Ready) {
        self.poller.event(index)
    }

    pub(super) fn get(&self, number: usize) -> Option<&Connection> {
        self.connections[number].as_ref()
    }

    pub(super) fn get_mut(&mut self, number: usize) -> Option<&mut Connection> {
        self.connections[number].as_mut()
    }

    /// Reads what an event announced.
    pub(super) fn receive(&mut self, number: usize, ready: Ready) -> Result<Received, Fault> {
        match &mut self.connections[number] {
            Some(connection) => connection.receive(ready, &mut self.buffer),
            None => Ok(Received::default()),
        }
    }

    /// What it is, if bytes have been awaited in vain for too long.
    pub(super) fn silence(&self, number: usize, now: Instant) -> Option<Fault> {
        let connection = self.get(number)?;
        (!connection.stream().is_back() && connection.is_silent(now)).then(|| connection.silence())
    }

    /// Closes a connection that is of no more use.
    pub(super) fn close(&mut self, number: usize) {
        self.connections[number] = None;
    }
}
