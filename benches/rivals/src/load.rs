//! The load: clients that drive a server as hard as asked, check every byte, and report what they saw.
//!
//! It runs on the calling thread, which its caller has pinned. All waits are bounded, whatever the server does.

mod connection;
mod datagrams;
mod pattern;
mod socket;
mod streams;
mod tally;
#[cfg(test)]
pub(crate) mod testing;

use crate::process::check_interrupt;
use mio::{Events, Poll, Registry, event::Event};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub(crate) use streams::{Streams, Visits};
use tally::Tally;
pub(crate) use tally::{Failures, Outcome};

/// When a run ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// In full swing. All that comes back between its beginning and its end is counted. What was under way when it began
    /// is counted in return for what is under way when it ends.
    Elapsed(Duration),
    /// Exactly so many messages (connections, for a flood): none is under way when it begins and when it ends. So all
    /// that the server does meanwhile is for these messages.
    Count(u64),
}

/// Clients of one kind, and the selector that they are registered with.
pub(crate) struct Load<C> {
    clients: C,
    poll: Poll,
    events: Events,
    tally: Tally,
}

/// What a kind of clients does. Messages are started as far as [`Tally::take`] allows.
pub(crate) trait Clients {
    /// How often [`sweep`](Self::sweep) is called.
    const SWEEP_EVERY: Duration;

    /// Starts as many messages as there is room for: the beginning of a run.
    fn fill(&mut self, registry: &Registry, tally: &mut Tally) -> Result<(), String>;

    /// Does what an event of one client asks for, and starts messages where there is room again.
    fn ready(&mut self, event: &Event, registry: &Registry, tally: &mut Tally) -> Result<(), String>;

    /// Counts as failed what has been silent for too long.
    fn sweep(&mut self, now: Instant, registry: &Registry, tally: &mut Tally) -> Result<(), String>;

    /// Messages that are not back yet.
    fn under_way(&self) -> u64;
}

/// A run is given up when it takes this much longer than asked, or if a count takes so long.
const OVERDUE: Duration = Duration::from_secs(120);

/// A wait is no longer than this, so that a signal is noticed.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// Events taken from the kernel at a time. Many, so that the system call is shared by many messages.
const EVENTS_MAX: usize = 1024;

impl<C: Clients> Load<C> {
    fn new(address: SocketAddr, clients: C) -> Result<Load<C>, String> {
        let poll = Poll::new().map_err(|error| format!("epoll: {error}"))?;
        Ok(Load { clients, poll, events: Events::with_capacity(EVENTS_MAX), tally: Tally::new(address) })
    }

    /// Has the clients send messages for as long as asked.
    ///
    /// # Errors
    ///
    /// What makes it pointless to go on. Failures of single messages are counted instead.
    pub(crate) fn run(&mut self, until: Until) -> Result<Outcome, String> {
        if let Until::Count(_) = until {
            self.drain()?;
        }
        self.tally.begin(until);
        self.clients.fill(self.poll.registry(), &mut self.tally)?;
        self.turn_until(|load, now| load.tally.is_over(now))?;
        Ok(self.tally.end())
    }

    /// Waits until all that is under way is back or has failed, and starts nothing.
    pub(crate) fn drain(&mut self) -> Result<(), String> {
        self.tally.begin(Until::Count(0));
        self.turn_until(|load, _| load.clients.under_way() == 0)
    }

    /// All failures so far.
    pub(crate) fn failures(&self) -> &Failures {
        self.tally.failures()
    }

    fn turn_until(&mut self, is_over: impl Fn(&Self, Instant) -> bool) -> Result<(), String> {
        let began = Instant::now();
        let mut now = began;
        let mut swept = began;
        while !is_over(self, now) {
            check_interrupt()?;
            self.poll.poll(&mut self.events, Some(self.tally.rest(now).min(WAIT_MAX))).or_else(ignore_interruption)?;
            for event in &self.events {
                self.clients.ready(event, self.poll.registry(), &mut self.tally)?;
            }
            now = Instant::now();
            if now - swept >= C::SWEEP_EVERY {
                swept = now;
                self.clients.sweep(now, self.poll.registry(), &mut self.tally)?;
            }
            if now - began >= OVERDUE {
                return Err(self.tally.describe(&format!("not done within {} s", OVERDUE.as_secs())));
            }
        }
        Ok(())
    }
}

/// A signal to this program is noticed by [`check_interrupt`].
fn ignore_interruption(error: std::io::Error) -> Result<(), String> {
    if error.kind() == std::io::ErrorKind::Interrupted { Ok(()) } else { Err(format!("epoll: {error}")) }
}

/// How many connections the limit of descriptors allows, after raising it as far as it goes. Programs that are started
/// later inherit the raised limit.
pub(crate) fn connections_possible() -> Result<usize, String> {
    let limit = rlimit::increase_nofile_limit(u64::MAX).map_err(|error| format!("limit of descriptors: {error}"))?;
    // Some are for what is no connection: standard streams, epoll, files.
    Ok(limit.saturating_sub(64) as usize)
}
