//! Connections most of which are silent.

use std::ops::Range;

use super::echo::Closed;
use super::peers::Peers;
use super::{Outcome, Until, Watch, stages};
use crate::job::Address;

/// The length of all messages.
const MESSAGE_BYTES: usize = 64;

/// Connections that have each sent and received one message and now are silent.
pub(crate) struct Crowd {
    peers: Peers,
}

impl Crowd {
    /// Opens `connections`, echoes a message of 64 bytes over each, and holds them.
    ///
    /// # Errors
    ///
    /// Not all of them could be made, or not all were served.
    pub(crate) fn gather(address: &Address, connections: usize, progress: &mut dyn FnMut(f64)) -> Result<Self, String> {
        let mut crowd = Crowd { peers: Peers::new(address)? };
        crowd.grow(connections, progress)?;
        Ok(crowd)
    }

    /// More of them.
    ///
    /// # Errors
    ///
    /// As [`gather`](Self::gather), or one of those that were there has been closed.
    pub(crate) fn grow(&mut self, connections: usize, progress: &mut dyn FnMut(f64)) -> Result<(), String> {
        let first = self.peers.len();
        self.peers.open(connections, progress)?;
        let each_one = Until::Count(connections as u64);
        let outcome = self.talk(first..first + connections, Until::Count(0), each_one, &mut Nobody)?;
        match outcome.failures.first {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// Ping-pong of 64 bytes over the first `active` of them, while the others stay silent. The warm-up is one message
    /// over each.
    ///
    /// # Errors
    ///
    /// There are not so many, or all of them have failed.
    pub(crate) fn echo(&mut self, active: usize, until: Until, watch: &mut dyn Watch) -> Result<Outcome, String> {
        if active == 0 || active > self.peers.len() {
            return Err(format!("{active} of {} connections cannot be active", self.peers.len()));
        }
        self.talk(0..active, Until::Count(active as u64), until, watch)
    }

    fn talk(
        &mut self,
        numbers: Range<usize>,
        warm_up: Until,
        until: Until,
        watch: &mut dyn Watch,
    ) -> Result<Outcome, String> {
        let address = self.peers.address().clone();
        let mut clients = Closed::new(&mut self.peers, numbers, MESSAGE_BYTES, 1);
        stages::run(&mut clients, &address, warm_up.into(), until.into(), watch)
    }
}

/// Watches what nobody measures.
struct Nobody;

impl Watch for Nobody {
    fn begun(&mut self) {}
    fn progress(&mut self, _share: f64) {}
    fn ended(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Behaviour, Seen, Server};
    use super::*;
    use crate::job::Transport;

    #[test]
    fn a_crowd_grows_and_some_of_it_talk() {
        for transport in [Transport::Tcp, Transport::Unix] {
            let server = Server::start(transport, Behaviour::Echo);
            let mut shares = Vec::new();
            let mut crowd = Crowd::gather(server.address(), 20, &mut |share| shares.push(share)).unwrap();
            assert_eq!(shares.last(), Some(&1.0));
            crowd.grow(20, &mut |_| {}).unwrap();
            for _ in 0..2 {
                let outcome = crowd.echo(5, Until::Count(100), &mut Seen::default()).unwrap();
                assert_eq!((outcome.done, outcome.failures.first), (100, None));
            }
            assert!(crowd.echo(41, Until::Count(1), &mut Seen::default()).is_err());
        }
    }

    #[test]
    fn a_server_that_is_not_up_to_the_crowd_is_an_error() {
        let server = Server::start(Transport::Tcp, Behaviour::CloseAfter { bytes: 0 });
        assert!(Crowd::gather(server.address(), 3, &mut |_| {}).is_err());
    }
}
