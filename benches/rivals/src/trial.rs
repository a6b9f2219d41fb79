//! One contender in one scenario, once.

use crate::load::{Clients, Load, Outcome, Streams, Until, Visits};
use crate::results::Trial;
use crate::scenario::{MESSAGE, Scenario, Work};
use crate::server::Server;
use procfs::process::Process;
use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

/// A scenario that is done at a server.
pub(crate) struct Measurement<'a> {
    pub(crate) server: &'a Server,
    pub(crate) contender: &'a str,
    /// Of the contender.
    pub(crate) threads: usize,
    pub(crate) scenario: &'a Scenario,
    pub(crate) round: usize,
    /// Before it, there is a warm-up of a quarter of this.
    pub(crate) length: Duration,
}

impl Measurement<'_> {
    pub(crate) fn run(&self) -> Result<Trial, String> {
        let address = self.server.address;
        match self.scenario.work {
            Work::Echo { connections, depth, message } => self.of(Load::echo(address, connections, depth, message)?),
            Work::Flood { concurrency, message, server_closes } => {
                let visits = if server_closes { Visits::ServerCloses } else { Visits::ClientCloses };
                self.of(Load::flood(address, concurrency, message, visits)?)
            }
            Work::Datagrams { senders, depth, message } => self.of(Load::datagrams(address, senders, depth, message)?),
            Work::Idle { connections } => {
                let (load, bytes) = gather(self.server, connections)?;
                Ok(Trial { bytes_per_idle_connection: Some(bytes), ..self.of(load)? })
            }
        }
    }

    fn of<C: Clients>(&self, mut load: Load<C>) -> Result<Trial, String> {
        load.run(Until::Elapsed(self.length / 4))?;
        let (before, threads_before) = (self.server.cpu(), self.server.threads_cpu());
        let Outcome { done, elapsed, own_cpu } = load.run(Until::Elapsed(self.length))?;
        let server_cpu = self.server.cpu().saturating_sub(before);
        let busiest = busiest(&threads_before, &self.server.threads_cpu(), self.threads);
        load.drain()?;
        if server_cpu.is_zero() && done > 0 {
            return Err("it served without using the CPU: a child of the command does (let that `exec` it)".to_owned());
        }
        Ok(Trial {
            contender: self.contender.to_owned(),
            scenario: self.scenario.key.clone(),
            round: self.round,
            done,
            elapsed_s: elapsed.as_secs_f64(),
            server_cpu_s: server_cpu.as_secs_f64(),
            busiest_thread: busiest,
            load_cpu_s: own_cpu.as_secs_f64(),
            failures: load.failures().clone(),
            bytes_per_idle_connection: None,
        })
    }
}

/// How much more the busiest of so many threads has done than their mean. The others do not serve clients.
fn busiest(before: &BTreeMap<i32, u64>, after: &BTreeMap<i32, u64>, threads: usize) -> Option<f64> {
    let mut took: Vec<u64> =
        after.iter().map(|(id, cpu)| cpu.saturating_sub(before.get(id).copied().unwrap_or(0))).collect();
    took.sort_unstable_by(|a, b| b.cmp(a));
    took.truncate(threads);
    let all: u64 = took.iter().sum();
    (threads > 1 && all > 0).then(|| took[0] as f64 * threads as f64 / all as f64)
}

/// Connections that come and go before memory is compared: what a server allocates once is no cost of an idle one.
const FIRST_CROWD: usize = 200;
/// In which a server does what it does in the background when connections came or went.
const SETTLE: Duration = Duration::from_millis(200);

/// Opens so many connections, and reads how much memory the server has for each.
fn gather(server: &Server, connections: usize) -> Result<(Load<Streams>, f64), String> {
    drop(Load::echo(server.address, FIRST_CROWD.min(connections), 1, MESSAGE)?);
    thread::sleep(SETTLE);
    let before = memory(server)?;
    let load = Load::echo(server.address, connections, 1, MESSAGE)?;
    thread::sleep(SETTLE);
    Ok((load, (memory(server)? - before) / connections as f64))
}

/// Bytes of the process that no file is behind: heap and stacks.
pub(crate) fn memory(server: &Server) -> Result<f64, String> {
    let rollup = Process::new(server.pid().as_raw()).and_then(|process| process.smaps_rollup());
    let maps = rollup.map_err(|error| format!("memory of the server: {error}"))?.memory_map_rollup.0;
    let bytes = maps.first().and_then(|map| map.extension.map.get("Anonymous"));
    bytes.map(|&bytes| bytes as f64).ok_or_else(|| "the kernel does not tell the memory of the server".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_thread_is_compared_with_the_mean_of_those_that_serve() {
        let (before, after) = (BTreeMap::from([(1, 5), (2, 0)]), BTreeMap::from([(1, 6), (2, 30), (3, 10)]));
        assert_eq!(busiest(&before, &after, 2), Some(1.5));
        assert_eq!([busiest(&before, &after, 1), busiest(&after, &after, 2)], [None; 2]);
    }
}
