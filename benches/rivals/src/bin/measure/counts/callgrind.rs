//! Instructions in user space, counted by valgrind's callgrind, under which the server runs.

use super::{Amounts, drive, per_item_of};
use crate::contenders::Contender;
use crate::cpus::Cpus;
use crate::job::Job;
use crate::leftovers::Scratch;
use crate::scenario::Item;
use crate::server::Server;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// For starting, and for writing its file.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn per_item(contender: &Contender, item: Item, amounts: Amounts, cpus: Cpus) -> Result<f64, String> {
    let mut totals = [0.0; 2];
    let mut done = [0; 2];
    for (i, amount) in amounts.into_iter().enumerate() {
        let file = Scratch::new("callgrind")?;
        let wrap = |command| under_callgrind(&command, file.path());
        let server = Server::start_as(contender, Job::Echo, item.transport(), cpus, wrap, PATIENCE)?;
        let address = server.address.clone();
        let mut server = Some(server);
        let result = drive(item, &address, amount, || server.take().map_or(Ok(()), |server| server.end(PATIENCE)));
        done[i] = result.map_err(|error| match &mut server {
            Some(server) => server.explain(error),
            None => error,
        })?;
        totals[i] = parse(&file.read()?).ok_or("callgrind wrote no total")?;
    }
    Ok(per_item_of(totals, done))
}

fn under_callgrind(command: &Command, file: &Path) -> Command {
    let mut out = std::ffi::OsString::from("--callgrind-out-file=");
    out.push(file);
    let mut wrapped = Command::new("valgrind");
    // It stops at 500 threads by itself.
    wrapped
        .args(["--tool=callgrind", "--max-threads=5000"])
        .arg(out)
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped
}

/// Instructions of all threads.
fn parse(file: &str) -> Option<f64> {
    let total = |name| file.lines().rev().find_map(|line: &str| line.strip_prefix(name)?.trim().parse().ok());
    total("totals:").or_else(|| total("summary:"))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn totals_of_a_file() {
        let file =
            "# callgrind format\nversion: 1\nevents: Ir\nsummary: 1234567\n\nfn=(1) main\n16 3\n\ntotals: 1234567\n";
        assert_eq!(parse(file), Some(1_234_567.0));
        assert_eq!(parse("events: Ir\nsummary: 99\n"), Some(99.0));
        assert_eq!(parse("events: Ir\n"), None);
    }
}
