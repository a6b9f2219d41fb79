//! One contender in one scenario, once.

use crate::load::{Clients, Load, Outcome, Streams, Until, Visits};
use crate::results::Trial;
use crate::scenario::{MESSAGE, Scenario, Work};
use crate::server::Server;
use procfs::process::Process;
use std::thread;
use std::time::Duration;

/// A scenario that is done at a server.
pub(crate) struct Measurement<'a> {
    pub(crate) server: &'a Server,
    pub(crate) contender: &'a str,
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
        let before = self.server.cpu();
        let Outcome { done, elapsed, own_cpu } = load.run(Until::Elapsed(self.length))?;
        let server_cpu = self.server.cpu().saturating_sub(before);
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
            load_cpu_s: own_cpu.as_secs_f64(),
            failures: load.failures().clone(),
            bytes_per_idle_connection: None,
        })
    }
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
