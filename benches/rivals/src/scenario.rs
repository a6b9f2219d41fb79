//! The scenarios of each benchmark: what the load does, and which contenders are asked to take part.

use crate::contenders::Contender;
use crate::job::Job;
use crate::options::Benchmark;
use serde::Serialize;

/// One thing that is measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Scenario {
    /// Unique in a benchmark: `ping-pong-64`.
    pub(crate) key: String,
    /// Above its table.
    pub(crate) title: String,
    pub(crate) work: Work,
}

/// What the load does. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub(crate) enum Work {
    /// Each connection keeps `depth` messages under way: it sends the next one when one is back.
    Echo { connections: usize, depth: usize, message: usize },
    /// Connections that come, echo one message and go; `concurrency` of them at any time.
    Flood { concurrency: usize, message: usize, server_closes: bool },
    /// Each sender keeps `depth` datagrams under way.
    Datagrams { senders: usize, depth: usize, message: usize },
    /// So many silent connections, then one message under way on each.
    Idle { connections: usize },
}

/// Names of the contenders that the others are compared with, at streams and at datagrams. With one socket for datagrams
/// there is no choice of what to wait for, so a blocking loop is the least that can be done.
pub(crate) const REFERENCES: [&str; 2] = ["epoll", "recv_from"];

pub(crate) fn reference(job: Job) -> &'static str {
    REFERENCES[usize::from(job == Job::Datagrams)]
}

/// Clients in the scenarios that are not about their number.
pub(crate) const MANY: usize = 64;

/// Bytes of a message in the scenarios that are not about its size.
pub(crate) const MESSAGE: usize = 64;

/// Descriptors that a server may need for other things than connections.
const SERVERS_OWN: usize = 300;

/// Clients that a server with a thread for each is asked to serve, if it is interpreted and if it is not.
const THREADS_MAX: [usize; 2] = [1_000, 10_000];

/// All of a benchmark. `possible`: connections that the limit of descriptors allows.
pub(crate) fn scenarios(benchmark: Benchmark, possible: usize, quick: bool) -> Vec<Scenario> {
    let most = possible.saturating_sub(SERVERS_OWN).min(if quick { 1_000 } else { 10_000 });
    let levels = |levels: &[usize]| levels.iter().copied().filter(|&level| level <= most).collect::<Vec<_>>();
    match benchmark {
        Benchmark::ConnectionFlood => {
            let client_closes = levels(&[MANY, 1_000, 10_000]).into_iter().map(|level| flood(level, false));
            client_closes.chain([flood(MANY, true)]).collect()
        }
        Benchmark::Echo => {
            let ping_pong = levels(&[1, MANY, 1_000, 10_000]).into_iter().map(ping_pong);
            ping_pong.chain([bulk()]).collect()
        }
        Benchmark::Idle => levels(&[1_000, 10_000]).into_iter().map(idle).collect(),
        Benchmark::Datagrams => vec![datagrams(1, MANY), datagrams(MANY, 1)],
        Benchmark::Cores => vec![ping_pong(MANY), flood(MANY, false)],
    }
}

fn flood(concurrency: usize, server_closes: bool) -> Scenario {
    let closer = if server_closes { "server" } else { "client" };
    Scenario {
        key: format!("flood-{concurrency}-{closer}-closes"),
        title: format!("Flood, {concurrency} at a time, the {closer} closes first"),
        work: Work::Flood { concurrency, message: MESSAGE, server_closes },
    }
}

fn ping_pong(connections: usize) -> Scenario {
    Scenario {
        key: format!("ping-pong-{connections}"),
        title: format!("Ping-pong, connections: {connections}, {MESSAGE} B"),
        work: Work::Echo { connections, depth: 1, message: MESSAGE },
    }
}

fn bulk() -> Scenario {
    Scenario {
        key: "bulk".to_owned(),
        title: "Bulk, connections: 8, 16 messages of 64 KiB under way on each".to_owned(),
        work: Work::Echo { connections: 8, depth: 16, message: 64 << 10 },
    }
}

fn idle(connections: usize) -> Scenario {
    Scenario {
        key: format!("idle-{connections}"),
        title: format!("Idle connections: {connections}, then ping-pong over all of them"),
        work: Work::Idle { connections },
    }
}

/// No more bytes under way than a receiver's buffer holds by default, so that no server loses any for its size.
fn datagrams(senders: usize, depth: usize) -> Scenario {
    Scenario {
        key: format!("udp-{senders}x{depth}"),
        title: format!("UDP, senders: {senders}, under way for each: {depth}, {MESSAGE} B"),
        work: Work::Datagrams { senders, depth, message: MESSAGE },
    }
}

impl Scenario {
    pub(crate) fn job(&self) -> Job {
        match self.work {
            Work::Flood { server_closes: true, .. } => Job::EchoOnce,
            Work::Datagrams { .. } => Job::Datagrams,
            _ => Job::Echo,
        }
    }

    /// What its rate and its CPU time are counted in.
    pub(crate) fn item(&self) -> &'static str {
        match self.work {
            Work::Flood { .. } => "connection",
            Work::Datagrams { .. } => "datagram",
            Work::Echo { .. } | Work::Idle { .. } => "message",
        }
    }

    /// At the same time.
    pub(crate) fn connections(&self) -> usize {
        match self.work {
            Work::Echo { connections, .. } | Work::Idle { connections } => connections,
            Work::Flood { concurrency, .. } => concurrency,
            Work::Datagrams { senders, .. } => senders,
        }
    }

    /// Returns whether `contender` is asked to take part.
    pub(crate) fn is_for(&self, contender: &Contender) -> bool {
        let most = THREADS_MAX[usize::from(contender.native)];
        let too_many = contender.thread_per_client && self.connections() > most;
        contender.jobs.contains(&self.job()) && !too_many
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_stay_within_the_limit_of_descriptors() {
        for possible in [960, 2_000, 20_000] {
            for benchmark in [Benchmark::ConnectionFlood, Benchmark::Echo, Benchmark::Idle] {
                let scenarios = scenarios(benchmark, possible, false);
                assert!(scenarios.iter().all(|scenario| scenario.connections() <= possible - SERVERS_OWN));
                assert_eq!(scenarios.iter().any(|scenario| scenario.connections() == 10_000), possible == 20_000);
            }
        }
    }
}
