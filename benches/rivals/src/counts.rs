//! System calls and instructions for each item: figures that hardly depend on how busy the machine is.
//!
//! Each is the difference between two amounts of the same work. What comes once, such as the start of the server and the
//! attaching of the tool, is in both and vanishes. There are 64 clients, and under such a tool the server is always the
//! slower side, so that it is busy all the time.

use crate::contenders::Contender;
use crate::cpus::Cpus;
use crate::job::Job;
use crate::load::{Clients, Load, Until, Visits};
use crate::options::Benchmark;
use crate::process::{Process, ask_until};
use crate::results::{Count, SystemCalls};
use crate::scenario::{MANY, MESSAGE};
use crate::server::Server;
use nix::sys::signal::Signal;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;
use tempfile::NamedTempFile;

/// What is counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Item {
    Message,
    /// The client closes first.
    Connection,
    /// The server answers and closes first.
    ClosedConnection,
    Datagram,
}

/// The two amounts whose difference is taken.
type Amounts = [u64; 2];

/// For attaching, and for writing a summary.
const PATIENCE: Duration = Duration::from_secs(30);

/// In which a server does what is left of an item after its answer, such as closing the connection.
const SETTLE: Duration = Duration::from_millis(100);

/// What is counted in a benchmark, and for which contenders.
pub(crate) fn plan(benchmark: Benchmark, contenders: &[Contender]) -> Vec<(Item, &Contender)> {
    let pairs = items(benchmark).iter().flat_map(|&item| contenders.iter().map(move |contender| (item, contender)));
    pairs.filter(|(item, contender)| contender.jobs.contains(&item.job())).collect()
}

pub(crate) fn items(benchmark: Benchmark) -> &'static [Item] {
    match benchmark {
        Benchmark::ConnectionFlood => &[Item::Connection, Item::ClosedConnection],
        Benchmark::Echo => &[Item::Message],
        Benchmark::Idle | Benchmark::Cores => &[],
        Benchmark::Datagrams => &[Item::Datagram],
    }
}

impl Item {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Item::Message => "message",
            Item::Connection => "connection, the client closes first",
            Item::ClosedConnection => "connection, the server answers and closes first",
            Item::Datagram => "datagram",
        }
    }

    pub(crate) fn job(self) -> Job {
        match self {
            Item::Message | Item::Connection => Job::Echo,
            Item::ClosedConnection => Job::EchoOnce,
            Item::Datagram => Job::Datagrams,
        }
    }

    /// Has the server at `address` do `amount` items, then calls `end` while the connections that stay are still open:
    /// their end would be counted, or not, by chance.
    fn drive(self, address: SocketAddr, amount: u64, end: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
        match self {
            Item::Message => drive(Load::echo(address, MANY, 1, MESSAGE)?, amount, end),
            Item::Connection => drive(Load::flood(address, MANY, MESSAGE, Visits::ClientCloses)?, amount, end),
            Item::ClosedConnection => drive(Load::flood(address, MANY, MESSAGE, Visits::ServerCloses)?, amount, end),
            Item::Datagram => drive(Load::datagrams(address, 1, MANY, MESSAGE)?, amount, end),
        }
    }
}

fn drive<C: Clients>(mut load: Load<C>, amount: u64, end: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    // The same before both amounts.
    load.run(Until::Count(4 * MANY as u64))?;
    load.run(Until::Count(amount))?;
    thread::sleep(SETTLE);
    end()?;
    load.failures().first.clone().map_or(Ok(()), Err)
}

/// Runs strace and callgrind.
pub(crate) fn count(contender: &Contender, item: Item, quick: bool, cpus: Cpus) -> Count {
    let amounts = if quick { [500, 1_500] } else { [1_000, 5_000] };
    let instructions = if contender.native {
        instructions(contender, item, amounts, cpus)
    } else {
        Err("only native programs are fast enough under callgrind".to_owned())
    };
    let system_calls = system_calls(contender, item, amounts, cpus);
    Count { contender: contender.name.clone(), item, system_calls, instructions }
}

/// In user space, of the whole process, which runs under callgrind.
fn instructions(contender: &Contender, item: Item, amounts: Amounts, cpus: Cpus) -> Result<f64, String> {
    let mut totals = [0.0; 2];
    for (total, amount) in totals.iter_mut().zip(amounts) {
        let file = scratch_file()?;
        let out = format!("--callgrind-out-file={}", file.path().display());
        // It stops at 500 threads by itself.
        let tool = ["valgrind", "--tool=callgrind", "--max-threads=5000", &out].map(str::to_owned);
        let mut server = Server::start(&tool, contender, item.job(), cpus)?;
        item.drive(server.address, amount, || server.end()).map_err(|error| server.explain(error))?;
        *total = parse_callgrind(&read(file.path())?).ok_or("callgrind wrote no total")?;
    }
    Ok(per_item(totals, amounts))
}

/// Counted from outside while the server works.
fn system_calls(contender: &Contender, item: Item, amounts: Amounts, cpus: Cpus) -> Result<SystemCalls, String> {
    let mut counted = Vec::new();
    for amount in amounts {
        let mut server = Server::start(&[], contender, item.job(), cpus)?;
        let file = scratch_file()?;
        let words = ["strace", "-f", "-c", "-o", &file.path().display().to_string(), "-p", &server.pid().to_string()];
        let mut strace = Process::start("strace", &words.map(str::to_owned))?;
        let attached = ask_until(PATIENCE, || {
            strace.check()?;
            Ok(strace.output().contains(" attached").then_some(()))
        });
        attached?.ok_or("strace does not attach")?;
        // Its end makes it detach, and write its summary.
        let end = || strace.end(Signal::SIGINT, PATIENCE);
        item.drive(server.address, amount, end).map_err(|error| server.explain(error))?;
        counted.push(parse_strace(&read(file.path())?).ok_or("strace wrote no summary")?);
    }
    let by_name: BTreeMap<String, f64> = counted[1]
        .iter()
        .map(|(name, &more)| (name.clone(), per_item([counted[0].get(name).copied().unwrap_or(0.0), more], amounts)))
        .collect();
    Ok(SystemCalls { total: by_name.values().sum(), by_name })
}

fn per_item(totals: [f64; 2], amounts: Amounts) -> f64 {
    (totals[1] - totals[0]) / (amounts[1] - amounts[0]) as f64
}

fn scratch_file() -> Result<NamedTempFile, String> {
    NamedTempFile::new().map_err(|error| format!("no temporary file: {error}"))
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Instructions of all threads.
fn parse_callgrind(file: &str) -> Option<f64> {
    let total = |name| file.lines().rev().find_map(|line: &str| line.strip_prefix(name)?.trim().parse().ok());
    total("totals:").or_else(|| total("summary:"))
}

/// Calls by name. The columns: share of time, seconds, microseconds a call, calls, errors or nothing, name.
fn parse_strace(summary: &str) -> Option<BTreeMap<String, f64>> {
    let lines = summary.lines().skip_while(|line| !line.starts_with("---")).skip(1);
    let mut calls = BTreeMap::new();
    for line in lines.take_while(|line| !line.starts_with("---")) {
        let columns: Vec<&str> = line.split_whitespace().collect();
        calls.insert((*columns.last()?).to_owned(), columns.get(3)?.parse().ok()?);
    }
    (!calls.is_empty()).then_some(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_once_vanishes() {
        assert_eq!(per_item([7_000.0 + 2.0 * 100.0, 7_000.0 + 2.0 * 500.0], [100, 500]), 2.0);
    }

    #[test]
    fn totals_of_callgrind() {
        assert_eq!(
            parse_callgrind("events: Ir\nsummary: 1\n\nfn=(1) main\n16 3\n\ntotals: 1234567\n"),
            Some(1_234_567.0)
        );
        assert_eq!(parse_callgrind("events: Ir\nsummary: 99\n"), Some(99.0));
        assert_eq!(parse_callgrind("events: Ir\n"), None);
    }

    #[test]
    fn a_summary_of_strace_with_and_without_errors() {
        let summary = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 52.10    0.012345           6      2001           sendto
 47.80    0.011000           5      2010         9 recvfrom
------ ----------- ----------- --------- --------- ----------------
100.00    0.023355           5      4043         9 total
";
        let calls = parse_strace(summary).expect("a summary");
        assert_eq!(calls, BTreeMap::from([("recvfrom".to_owned(), 2010.0), ("sendto".to_owned(), 2001.0)]));
        assert_eq!(parse_strace("strace: Process 7 attached\n"), None);
    }
}
