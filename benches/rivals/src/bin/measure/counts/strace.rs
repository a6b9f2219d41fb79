//! System calls, counted by `strace -c` from outside while the server works.

use super::{Amounts, drive, per_item_of};
use crate::contenders::Contender;
use crate::cpus::Cpus;
use crate::job::Job;
use crate::leftovers::{Process, Scratch};
use crate::results::SystemCalls;
use crate::scenario::Item;
use crate::server::Server;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// For attaching, and for writing its summary.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn per_item(contender: &Contender, item: Item, amounts: Amounts, cpus: Cpus) -> Result<SystemCalls, String> {
    let mut counted = Vec::new();
    for amount in amounts {
        let mut server = Server::start(contender, Job::Echo, item.transport(), cpus)?;
        let strace = Strace::attach(&server)?;
        let mut calls = BTreeMap::new();
        let done = drive(item, &server.address, amount, || {
            calls = strace.summary()?;
            Ok(())
        });
        let done = done.map_err(|error| server.explain(error))?;
        counted.push((calls, done));
    }
    let [(fewer, less), (calls, more)] = &counted[..] else { return Err("not counted twice".to_owned()) };
    let by_name: BTreeMap<String, f64> = calls
        .iter()
        .map(|(name, &calls)| {
            let before = fewer.get(name).copied().unwrap_or(0);
            (name.clone(), per_item_of([before as f64, calls as f64], [*less, *more]))
        })
        .collect();
    Ok(SystemCalls { total: by_name.values().sum(), by_name })
}

struct Strace {
    process: Process,
    summary: Scratch,
}

impl Strace {
    fn attach(server: &Server) -> Result<Strace, String> {
        let summary = Scratch::new("strace")?;
        let messages = Scratch::new("strace-stderr")?;
        let mut command = Command::new("strace");
        command.args(["-f", "-c", "-o"]).arg(summary.path()).args(["-p", &server.pid().to_string()]);
        let mut process = Process::start(&command, Stdio::null(), messages.create()?.into())
            .map_err(|error| format!("strace cannot be started: {error}"))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = messages.read()?;
            if said.contains(" attached") {
                break;
            }
            if process.status().is_some() || Instant::now() >= deadline {
                return Err(format!("strace cannot attach: {}", said.trim()));
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(Strace { process, summary })
    }

    /// Lets go of the server.
    fn summary(mut self) -> Result<BTreeMap<String, u64>, String> {
        // SIGINT makes it detach and write; it then ends with a signal of its own.
        self.process.end(Signal::SIGINT, PATIENCE).ok_or("strace does not end")?;
        parse(&self.summary.read()?).ok_or_else(|| "strace wrote no summary".to_owned())
    }
}

/// Calls by name. The columns: share of time, seconds, microseconds a call, calls, errors or nothing, name.
fn parse(summary: &str) -> Option<BTreeMap<String, u64>> {
    let mut lines = summary.lines().skip_while(|line| !line.starts_with("---")).skip(1);
    let mut calls = BTreeMap::new();
    for line in lines.by_ref().take_while(|line| !line.starts_with("---")) {
        let columns: Vec<&str> = line.split_whitespace().collect();
        calls.insert((*columns.last()?).to_owned(), columns.get(3)?.parse().ok()?);
    }
    (!calls.is_empty()).then_some(calls)
}

#[cfg(test)]
mod tests {
    use super::parse;

    const SUMMARY: &str = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 52.10    0.012345           6      2001           sendto
 47.80    0.011000           5      2010         9 recvfrom
  0.10    0.000010           0        32           epoll_wait
------ ----------- ----------- --------- --------- ----------------
100.00    0.023355           5      4043         9 total
";

    #[test]
    fn a_summary_with_and_without_errors() {
        let calls = parse(SUMMARY).expect("a summary");
        assert_eq!(calls.len(), 3);
        assert_eq!((calls["sendto"], calls["recvfrom"], calls["epoll_wait"]), (2001, 2010, 32));
    }

    #[test]
    fn no_summary() {
        assert_eq!(parse(""), None);
        assert_eq!(parse("strace: Process 7 attached\n"), None);
    }
}
