//! The rivals written in Rust: the program `rival`, which cargo has built beside this one.

use super::{Absent, Contender, NAMES, Program, Threads, Wanted, lock_file};
use crate::job::{Job, Transport};
use crate::leftovers::Process;
use crate::tools;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// This crate with its feature `batch`, in a `rival` of its own: see the feature in this package's `Cargo.toml`.
pub(super) const WITH_BATCH: &str = "socketserver-batch";

/// For a build from nothing, optimised as a release, on a slow machine.
const BUILD: Duration = Duration::from_secs(30 * 60);

pub(super) fn find(wanted: &Wanted<'_>) -> Result<Vec<Result<Contender, Absent>>, String> {
    let this = std::env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
    let program = this.with_file_name("rival");
    if !program.is_file() {
        return Err(format!("no {}; cargo build --release -p rivals --bins makes it", program.display()));
    }
    let mut found: Vec<_> = contenders(&program)?.into_iter().filter(|one| wanted.name(&one.name)).map(Ok).collect();
    if wanted.name(WITH_BATCH) && wanted.transports.contains(&Transport::Udp) {
        found.push(with_batch().map_err(|reason| Absent::new(WITH_BATCH, reason)));
    }
    Ok(found)
}

/// Builds it, unless it is up to date; cargo shows how far it is.
fn with_batch() -> Result<Contender, String> {
    let directory = crate::target_directory()?.join("batch");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--release", "--bin", "rival", "--features", "batch", "--manifest-path"]);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    command.arg("--target-dir").arg(&directory);
    let mut build = Process::start(&command, Stdio::null(), Stdio::inherit())
        .map_err(|error| format!("cannot run cargo to build it: {error}"))?;
    match build.wait(BUILD) {
        Some(status) if status.success() => {}
        Some(status) => return Err(format!("cargo could not build it: {status}")),
        None => return Err(format!("cargo did not build it within {} min", BUILD.as_secs() / 60)),
    }
    let program = directory.join("release/rival");
    let contender = contenders(&program)?.into_iter().find(|contender| contender.name == WITH_BATCH);
    let mut contender = contender.ok_or_else(|| format!("{} does not list it", program.display()))?;
    contender.version.push_str(", feature batch");
    Ok(contender)
}

/// All that `program` lists.
fn contenders(program: &Path) -> Result<Vec<Contender>, String> {
    let listed = tools::output(Command::new(program).arg("--list"), Duration::from_secs(10))?;
    let parse = |line| parse(program, line).ok_or_else(|| format!("{} --list: {line:?}", program.display()));
    listed.lines().map(parse).collect()
}

/// A line of it: name, crate (`-` is the standard library) and what it serves as `TRANSPORT:JOB`s, with tabs between.
fn parse(program: &Path, line: &str) -> Option<Contender> {
    let mut columns = line.split('\t');
    let (name, made_with, serves) = (columns.next()?, columns.next()?, columns.next()?);
    if !NAMES.contains(&name) {
        return None;
    }
    Some(Contender {
        name: name.to_owned(),
        version: if made_with == "-" { standard_library() } else { lock_file::version(made_with) },
        threads: threads(name),
        native: true,
        serves: serves.split_whitespace().map(pair).collect::<Option<_>>()?,
        half_close: keeps_the_rest(name),
        program: Program::Ours(vec![program.to_str()?.to_owned(), name.to_owned()]),
    })
}

fn pair(text: &str) -> Option<(Transport, Job)> {
    super::everything()
        .into_iter()
        .find(|(transport, job)| text.split_once(':').is_some_and(|words| words == (transport.word(), job.word())))
}

fn threads(name: &str) -> Threads {
    match name {
        "threads" => Threads::PerClient,
        "tokio-mt" => Threads::Several,
        _ => Threads::One,
    }
}

/// mill-net closes when a client ends its side, and drops what the socket has not taken until then.
fn keeps_the_rest(name: &str) -> bool {
    name != "mill-net"
}

/// It has the compiler's version.
fn standard_library() -> String {
    let version = tools::first_line(Command::new("rustc").arg("--version"));
    // `rustc 1.89.0 (29483883e 2025-08-04)`
    let number = version.ok().and_then(|text| text.split(' ').nth(1).map(str::to_owned));
    number.map_or_else(|| "std".to_owned(), |number| format!("std {number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_list() {
        let contender =
            parse(Path::new("/bin/rival"), "tokio-mt\ttokio\ttcp:echo unix:echo-once").expect("a contender");
        assert_eq!(contender.name, "tokio-mt");
        assert!(contender.version.starts_with("tokio 1."), "{}", contender.version);
        assert_eq!(contender.threads, Threads::Several);
        assert_eq!(contender.serves, [(Transport::Tcp, Job::Echo), (Transport::Unix, Job::EchoOnce)]);
        assert!(matches!(contender.program, Program::Ours(words) if words == ["/bin/rival", "tokio-mt"]));
    }

    #[test]
    fn other_lines() {
        let program = Path::new("/bin/rival");
        for line in ["", "mio", "mio\tmio", "mio\tmio\ttcp", "mio\tmio\ttcp:shout", "stranger\tmio\ttcp:echo"] {
            assert!(parse(program, line).is_none(), "{line:?}");
        }
    }
}
