//! Messages over connections that stay.

mod closed;
mod rate;

pub(super) use closed::Closed;

use self::rate::Rate;
use super::peers::Peers;
use super::{Echo, Outcome, Pace, Watch, stages};

impl Echo {
    /// Connects, and drives the connections for as long as asked.
    ///
    /// # Errors
    ///
    /// Not all connections could be made, or all have failed before anything was measured. What fails later is part of
    /// the outcome.
    pub(crate) fn run(&self, watch: &mut dyn Watch) -> Result<Outcome, String> {
        if self.connections == 0 || self.message_bytes == 0 {
            return Err("an echo needs connections and messages of at least one byte".to_owned());
        }
        let mut peers = Peers::new(&self.address)?;
        peers.open(self.connections, &mut |_| {})?;
        let depth = match self.pace {
            Pace::Closed { depth } => depth,
            Pace::Bulk { window } => window / self.message_bytes,
            Pace::Rate(rate) => return rate::run(Rate::new(peers, self.message_bytes, rate)?, self, watch),
        };
        let mut clients = Closed::new(&mut peers, 0..self.connections, self.message_bytes, depth.max(1));
        stages::run(&mut clients, &self.address, self.warm_up.into(), self.until.into(), watch)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Behaviour, Seen, Server};
    use super::super::{Echo, Outcome, Pace, Until};
    use crate::job::Transport;
    use std::time::Duration;

    /// 64 bytes over four connections, 20 messages to warm up and then 1,000.
    fn echo(server: &Server, pace: Pace) -> Echo {
        Echo {
            address: server.address().clone(),
            connections: 4,
            message_bytes: 64,
            pace,
            warm_up: Until::Count(20),
            until: Until::Count(1000),
        }
    }

    fn assert_all_is_well(outcome: &Outcome, messages: u64, message_bytes: u64) {
        assert_eq!(outcome.failures.first, None);
        assert_eq!(outcome.done, messages);
        assert_eq!(outcome.bytes, messages * message_bytes);
        assert_eq!(outcome.latency.len(), messages);
        assert!(outcome.latency.max() > 0);
    }

    #[test]
    fn every_pace_echoes_exactly_as_many_messages_as_asked() {
        for transport in [Transport::Tcp, Transport::Unix] {
            let server = Server::start(transport, Behaviour::Echo);
            for pace in [Pace::Closed { depth: 1 }, Pace::Closed { depth: 7 }, Pace::Rate(20_000.0)] {
                let mut seen = Seen::default();
                let outcome = echo(&server, pace).run(&mut seen).unwrap();
                assert_all_is_well(&outcome, 1000, 64);
                assert_eq!((seen.begun, seen.ended), (1, 1));
            }
        }
    }

    #[test]
    fn bulk_is_more_than_any_buffer_holds() {
        let server = Server::start(Transport::Tcp, Behaviour::Echo);
        let pace = Pace::Bulk { window: 8 << 20 };
        let bulk = Echo { message_bytes: 300_000, until: Until::Count(200), connections: 2, ..echo(&server, pace) };
        assert_all_is_well(&bulk.run(&mut Seen::default()).unwrap(), 200, 300_000);
    }

    #[test]
    fn a_time_ends_in_full_swing() {
        let server = Server::start(Transport::Tcp, Behaviour::Echo);
        let tenth = Until::Elapsed(Duration::from_millis(100));
        let timed = Echo { warm_up: tenth, until: tenth, ..echo(&server, Pace::Closed { depth: 2 }) };
        let mut seen = Seen::default();
        let outcome = timed.run(&mut seen).unwrap();
        assert_eq!(outcome.failures.first, None);
        assert!(outcome.done > 0 && outcome.latency.len() == outcome.done);
        assert!(outcome.elapsed >= Duration::from_millis(100));
        assert!(outcome.own_cpu > Duration::ZERO);
        assert!(seen.shares.iter().all(|share| (0.0..=1.0).contains(share)));
    }

    #[test]
    fn each_fault_is_counted_as_what_it_is() {
        for pace in [Pace::Closed { depth: 2 }, Pace::Rate(10_000.0)] {
            // In the middle of the measured messages, so that the load begins well. Four connections, which all fail.
            let at = 64 * 100 + 3;
            let run = |behaviour| echo(&Server::start(Transport::Tcp, behaviour), pace).run(&mut Seen::default());

            let corrupted = run(Behaviour::Corrupt { at }).unwrap().failures;
            assert_eq!((corrupted.wrong_bytes, corrupted.broken, corrupted.silent), (4, 0, 0), "{corrupted:?}");

            let closed = run(Behaviour::CloseAfter { bytes: at }).unwrap().failures;
            assert!(closed.broken >= 4 && closed.wrong_bytes == 0 && closed.silent == 0, "{closed:?}");

            let silent = run(Behaviour::MuteAfter { bytes: at }).unwrap().failures;
            assert!(silent.silent >= 4 && silent.wrong_bytes == 0 && silent.broken == 0, "{silent:?}");
            assert!(silent.first.unwrap().contains("no answer"));
        }
    }

    #[test]
    fn a_server_that_never_answers_is_an_error() {
        let server = Server::start(Transport::Tcp, Behaviour::MuteAfter { bytes: 0 });
        let Err(error) = echo(&server, Pace::Closed { depth: 1 }).run(&mut Seen::default()) else {
            panic!("nobody has served this")
        };
        assert!(error.contains("no answer") && error.contains(&server.address().to_string()), "{error}");
    }

    #[test]
    fn nobody_there_is_an_error_with_the_address() {
        let address = Server::nobody();
        let server = Server::start(Transport::Tcp, Behaviour::Echo);
        let nobody = Echo { address: address.clone(), ..echo(&server, Pace::Closed { depth: 1 }) };
        let Err(error) = nobody.run(&mut Seen::default()) else { panic!("nobody has served this") };
        assert!(error.contains("refused") && error.contains(&address.to_string()), "{error}");
        assert!(error.contains("0 of 4"), "{error}");
    }

    /// Coordinated omission: a closed loop sends nothing while the server stalls, so that one message per connection
    /// has seen it. A fixed rate goes on, and whatever was due meanwhile has waited.
    #[test]
    fn a_stall_shows_in_every_message_that_was_due_during_it() {
        let server = Server::start(Transport::Tcp, Behaviour::Stall { at: 64 * 5 });
        let stalled = Echo { until: Until::Elapsed(Duration::from_secs(1)), ..echo(&server, Pace::Rate(1000.0)) };
        // Warm-up is 20 messages over 4 connections: the first measured one meets the stall.
        let mut seen = Seen::releasing(&server, 0.5);
        let outcome = stalled.run(&mut seen).unwrap();
        assert_eq!(outcome.failures.first, None);
        assert_eq!(outcome.done, 1000);
        let waited = outcome.latency.count_between(Duration::from_millis(100).as_nanos() as u64, u64::MAX);
        assert!(waited >= 350, "{waited} messages have waited");
    }
}
