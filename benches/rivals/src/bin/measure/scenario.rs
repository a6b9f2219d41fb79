//! One thing that is measured: which server, which load, and who is not asked to take part.

use crate::benchmarks::grouped;
use crate::contenders::{Contender, REFERENCE, Threads};
use crate::job::{Job, Transport};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Scenario {
    /// In files: `ping-pong-64x64B`. Unique in a benchmark.
    pub(crate) key: String,
    /// Above its table: `Ping-pong, 64 connections, 64 B`.
    pub(crate) title: String,
    pub(crate) transport: Transport,
    pub(crate) work: Work,
}

/// What the load does. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub(crate) enum Work {
    /// Each connection sends its next message when the last one is back.
    PingPong { connections: usize, message: usize },
    /// Each connection keeps `depth` messages under way.
    Pipelined { connections: usize, depth: usize, message: usize },
    /// Each connection writes blocks as fast as it can, with at most `window` bytes under way.
    Bulk { connections: usize, message: usize, window: usize },
    /// So many messages a second over all connections, answered or not.
    FixedRate { connections: usize, message: usize, per_second: f64 },
    /// Connections that come, echo one message and go; `concurrency` of them at any time.
    Flood { concurrency: usize, message: usize, server_closes: bool },
    /// So many connects at once, each of which echoes one message.
    Burst { connections: usize, message: usize },
    /// Each sender keeps `depth` datagrams under way.
    Datagrams { senders: usize, depth: usize, message: usize },
    /// So many silent connections, then messages over `active` of them. The scenarios before it at the same server have
    /// opened a part of them.
    Idle { connections: usize, active: usize },
}

/// What is counted in a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Item {
    Message,
    Connection,
    IdleConnection,
    Datagram,
}

impl Item {
    /// `per message`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Item::Message => "message",
            Item::Connection => "connection",
            Item::IdleConnection => "idle connection",
            Item::Datagram => "datagram",
        }
    }
}

/// A thread for each client in a program that is interpreted: at 1,000 it is far behind already, and the waiting only
/// makes the run long.
const THREADS_INTERPRETED: usize = 1_000;
/// As many threads as most systems let a process have.
const THREADS_NATIVE: usize = 10_000;

impl Scenario {
    pub(crate) fn job(&self) -> Job {
        match self.work {
            Work::Flood { server_closes: true, .. } => Job::EchoOnce,
            _ => Job::Echo,
        }
    }

    /// What its rate and its CPU time are counted in.
    pub(crate) fn item(&self) -> Item {
        match self.work {
            Work::Flood { .. } | Work::Burst { .. } => Item::Connection,
            Work::Datagrams { .. } => Item::Datagram,
            _ => Item::Message,
        }
    }

    /// At the same time.
    pub(crate) fn connections(&self) -> usize {
        match self.work {
            Work::PingPong { connections, .. }
            | Work::Pipelined { connections, .. }
            | Work::Bulk { connections, .. }
            | Work::FixedRate { connections, .. }
            | Work::Burst { connections, .. }
            | Work::Idle { connections, .. } => connections,
            Work::Flood { concurrency, .. } => concurrency,
            Work::Datagrams { senders, .. } => senders,
        }
    }

    /// Why `contender` is not measured here, if it is not.
    pub(crate) fn refusal(&self, contender: &Contender) -> Option<String> {
        let (transport, job) = (self.transport, self.job());
        if !contender.serves.contains(&(transport, job)) {
            return Some(format!("does not serve {} over {}", job.word(), transport.word()));
        }
        let most = if contender.native { THREADS_NATIVE } else { THREADS_INTERPRETED };
        let too_many =
            contender.threads == Threads::PerClient && transport != Transport::Udp && self.connections() > most;
        too_many.then(|| format!("it has a thread for each client, and is asked for {} at most", grouped(most)))
    }
}

/// Name of the contender that the others are held against over `transport`.
pub(crate) fn reference(transport: Transport) -> &'static str {
    match transport {
        // With one socket there is nothing to wait for but its datagrams: a blocking loop is the least that can be done.
        Transport::Udp => "recv_from",
        Transport::Tcp | Transport::Unix => REFERENCE,
    }
}
