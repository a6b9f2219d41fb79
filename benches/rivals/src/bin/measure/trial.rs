//! One contender in one scenario, once.

use crate::load::{Burst, Closes, Crowd, Datagrams, Echo, Flood, Outcome, Pace, Until, Watch};
use crate::procfs::{self, Drops, Memory};
use crate::progress::Progress;
use crate::results::{Failed, Idle, Latency, Trial};
use crate::scenario::{Scenario, Work};
use crate::server::Server;
use std::thread;
use std::time::Duration;

/// How long each trial is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Length {
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// At one server, scenarios one after the other.
pub(crate) struct Visit<'a> {
    server: &'a Server,
    length: Length,
    progress: &'a mut Progress,
    idle: Option<Gathered>,
}

/// Idle connections so far, and the memory that the server had before them.
struct Gathered {
    crowd: Crowd,
    size: usize,
    before: Memory,
}

/// Connections that come and go before memory is compared: what a server allocates once is no cost of an idle one.
const WARM_UP_CROWD: usize = 200;
/// In which a server does what it does behind the scenes when connections came or went.
const SETTLE: Duration = Duration::from_millis(200);
/// How long idle connections are watched.
const WATCH_IDLE: Duration = Duration::from_secs(1);
/// When connects of a burst count as failed. A SYN that was dropped is sent again after 1, 3 and 7 seconds.
const BURST_DEADLINE: Duration = Duration::from_secs(10);

impl<'a> Visit<'a> {
    pub(crate) fn new(server: &'a Server, length: Length, progress: &'a mut Progress) -> Visit<'a> {
        Visit { server, length, progress, idle: None }
    }

    /// Does the scenario, and says what it cost.
    pub(crate) fn trial(&mut self, contender: &str, scenario: &Scenario, round: usize) -> Result<Trial, String> {
        let address = self.server.address.clone();
        let warm_up = Until::Elapsed(self.length.warm_up);
        let until = Until::Elapsed(self.length.measured);
        let echo = |connections, message_bytes, pace| Echo {
            address: address.clone(),
            connections,
            message_bytes,
            pace,
            warm_up,
            until,
        };
        let mut idle = None;
        let mut meter = Meter { server: self.server, progress: self.progress, begun: None, used: None };
        let outcome = match scenario.work {
            Work::PingPong { connections, message } => {
                echo(connections, message, Pace::Closed { depth: 1 }).run(&mut meter)
            }
            Work::Pipelined { connections, depth, message } => {
                echo(connections, message, Pace::Closed { depth }).run(&mut meter)
            }
            Work::Bulk { connections, message, window } => {
                echo(connections, message, Pace::Bulk { window }).run(&mut meter)
            }
            Work::FixedRate { connections, message, per_second } => {
                echo(connections, message, Pace::Rate(per_second)).run(&mut meter)
            }
            Work::Flood { concurrency, message, server_closes } => {
                let closes = if server_closes { Closes::Server } else { Closes::Client };
                Flood { address, concurrency, message_bytes: message, closes, warm_up, until }.run(&mut meter)
            }
            Work::Burst { connections, message } => {
                Burst { address, connections, message_bytes: message, deadline: BURST_DEADLINE }.run(&mut meter)
            }
            Work::Datagrams { senders, depth, message } => {
                Datagrams { address, senders, depth, message_bytes: message, warm_up, until }.run(&mut meter)
            }
            Work::Idle { connections, active } => {
                let gathered = gather(&mut self.idle, meter.server, connections, meter.progress)?;
                idle = Some(watch_idle(meter.server, gathered)?);
                gathered.crowd.echo(active, until, &mut meter)
            }
        }?;
        let (server_cpu, drops) = meter.used.ok_or("the load did not say when it ended")?;
        if server_cpu.is_zero() && outcome.done > 0 {
            return Err("it served without using the CPU: a child of the command does (let that `exec` it)".to_owned());
        }
        Ok(Trial {
            contender: contender.to_owned(),
            scenario: scenario.key.clone(),
            round,
            done: outcome.done,
            bytes: outcome.bytes,
            elapsed_s: outcome.elapsed.as_secs_f64(),
            server_cpu_s: server_cpu.as_secs_f64(),
            load_cpu_s: outcome.own_cpu.as_secs_f64(),
            latency: latency(&outcome),
            late: outcome.late,
            failures: Failed {
                connects: outcome.failures.connects,
                broken: outcome.failures.broken,
                silent: outcome.failures.silent,
                wrong_bytes: outcome.failures.wrong_bytes,
                first: outcome.failures.first,
            },
            drops,
            idle,
        })
    }
}

/// Lets the crowd at `server` grow to `connections`.
fn gather<'a>(
    idle: &'a mut Option<Gathered>,
    server: &Server,
    connections: usize,
    progress: &mut Progress,
) -> Result<&'a mut Gathered, String> {
    let mut show = |share| progress.within(share);
    let gathered = match idle {
        Some(gathered) => {
            gathered.crowd.grow(connections - gathered.size, &mut show)?;
            gathered.size = connections;
            gathered
        }
        None => {
            drop(Crowd::gather(&server.address, WARM_UP_CROWD.min(connections), &mut show)?);
            thread::sleep(SETTLE);
            let before = procfs::memory(server.pid())?;
            let crowd = Crowd::gather(&server.address, connections, &mut show)?;
            idle.insert(Gathered { crowd, size: connections, before })
        }
    };
    thread::sleep(SETTLE);
    Ok(gathered)
}

fn watch_idle(server: &Server, gathered: &Gathered) -> Result<Idle, String> {
    let memory = procfs::memory(server.pid())?;
    let cpu_before = server.cpu();
    thread::sleep(WATCH_IDLE);
    let cpu = server.cpu().saturating_sub(cpu_before);
    let connections = gathered.size as f64;
    Ok(Idle {
        pss_per_connection: (memory.pss - gathered.before.pss) / connections,
        anonymous_per_connection: (memory.anonymous - gathered.before.anonymous) / connections,
        threads: procfs::threads(server.pid())?,
        cpu_s_per_second: cpu.as_secs_f64() / WATCH_IDLE.as_secs_f64(),
    })
}

fn latency(outcome: &Outcome) -> Option<Latency> {
    let at = |quantile| outcome.latency.value_at_quantile(quantile) as f64 / 1e3;
    (!outcome.latency.is_empty()).then(|| Latency {
        p50: at(0.5),
        p99: at(0.99),
        p999: at(0.999),
        max: outcome.latency.max() as f64 / 1e3,
    })
}

/// Reads the server's clock and the kernel's counters just when the load begins and ends.
struct Meter<'a> {
    server: &'a Server,
    progress: &'a mut Progress,
    begun: Option<(Duration, Drops)>,
    used: Option<(Duration, Drops)>,
}

impl Watch for Meter<'_> {
    fn begun(&mut self) {
        let drops = Drops::now();
        self.begun = Some((self.server.cpu(), drops));
    }

    fn progress(&mut self, share: f64) {
        self.progress.within(share);
    }

    fn ended(&mut self) {
        let cpu = self.server.cpu();
        self.used = self
            .begun
            .as_ref()
            .map(|(cpu_before, before)| (cpu.saturating_sub(*cpu_before), Drops::now().since(before)));
    }
}
