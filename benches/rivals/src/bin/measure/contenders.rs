//! Who is measured: which servers are here, how each is started, and why the others are absent.

mod c;
mod interpreted;
mod lock_file;
mod outside;
mod rust;

use crate::job::{Address, Job, Transport};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Everybody, in the order of the tables.
const NAMES: [&str; 19] = [
    REFERENCE,
    "epoll-64k",
    "mio",
    "socketserver",
    rust::WITH_BATCH,
    "calloop",
    "tokio",
    "tokio-mt",
    "message-io",
    "mill-net",
    "threads",
    "libuv",
    "libevent",
    "python-threading",
    "asyncio",
    "uvloop",
    "gevent",
    "node",
    "recv_from",
];

/// Name of the limit that the others are held against.
pub(crate) const REFERENCE: &str = "epoll";

/// How many threads serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    One,
    /// A fixed number.
    Several,
    PerClient,
}

/// A server that can be started.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    /// As in `--only` and in the tables: `socketserver`, `epoll`, `tokio`, ...
    pub(crate) name: String,
    /// Of the rival and what it runs on: `tokio 1.54.1`, `uvloop 0.22.1, Python 3.11.7`.
    pub(crate) version: String,
    pub(crate) threads: Threads,
    /// Machine code, whose instructions can be counted by callgrind in reasonable time.
    pub(crate) native: bool,
    /// What it can do.
    pub(crate) serves: Vec<(Transport, Job)>,
    /// A client that ends its side before it has everything still gets the rest.
    pub(crate) half_close: bool,
    program: Program,
}

#[derive(Clone, Debug)]
enum Program {
    /// One of this package: these words, then `JOB TRANSPORT ADDRESS`.
    Ours(Vec<String>),
    /// From `--server NAME='CMD {addr}'`.
    Outside(outside::Template),
}

/// A server that cannot be started here.
#[derive(Clone, Debug)]
pub(crate) struct Absent {
    pub(crate) name: String,
    /// For the reader of the report: what is missing, and what brings it.
    pub(crate) reason: String,
}

impl Absent {
    fn new(name: &str, reason: impl Into<String>) -> Absent {
        Absent { name: name.to_owned(), reason: reason.into() }
    }
}

/// Which of the [`NAMES`] are looked for.
struct Wanted<'a> {
    /// All, if empty.
    only: &'a [String],
    transports: &'a [Transport],
}

impl Wanted<'_> {
    fn name(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == name)
    }
}

/// Everybody of `only` (all, if empty) plus the `outside` ones, built if need be, in the order of the tables. One that
/// takes long to build and serves none of `transports` is left out.
///
/// # Errors
///
/// A name in `only` that nobody has; one in `outside` that somebody has; a template without `{addr}`; no program `rival`.
pub(crate) fn find(
    only: &[String],
    outside: &[(String, String)],
    transports: &[Transport],
) -> Result<(Vec<Contender>, Vec<Absent>), String> {
    let mut guests = outside::contenders(outside)?;
    let known = |name: &str| NAMES.contains(&name) || guests.iter().any(|guest| guest.name == name);
    if let Some(name) = only.iter().find(|name| !known(name)) {
        return Err(format!("nobody is called {name}; there are {}", NAMES.join(", ")));
    }

    let wanted = Wanted { only, transports };
    let mut found = rust::find(&wanted)?;
    found.extend(c::find(&wanted));
    found.extend(interpreted::find(&wanted));

    let place = |name: &str| NAMES.iter().position(|&other| other == name);
    let (mut contenders, mut absent) = (Vec::new(), Vec::new());
    for result in found {
        match result {
            Ok(contender) => contenders.push(contender),
            Err(missing) => absent.push(missing),
        }
    }
    contenders.sort_by_key(|contender: &Contender| place(&contender.name));
    absent.sort_by_key(|absent: &Absent| place(&absent.name));
    contenders.append(&mut guests);
    Ok((contenders, absent))
}

impl Contender {
    /// The command that serves `job` at `address`. Its standard output and error are the caller's to direct.
    pub(crate) fn command(&self, job: Job, address: &Address) -> Command {
        match &self.program {
            Program::Ours(words) => {
                let mut command = Command::new(words.first().map_or("", String::as_str));
                command.args(words.iter().skip(1));
                command.args([job.word(), address.transport().word(), &address.to_string()]);
                command
            }
            Program::Outside(template) => template.command(job, address),
        }
    }
}

/// A server in another language than Rust, in this package's sources.
fn source(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("servers").join(file)
}

/// What a server does that does everything.
fn everything() -> Vec<(Transport, Job)> {
    vec![
        (Transport::Tcp, Job::Echo),
        (Transport::Tcp, Job::EchoOnce),
        (Transport::Unix, Job::Echo),
        (Transport::Unix, Job::EchoOnce),
        (Transport::Udp, Job::Echo),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn a_command_ends_with_job_transport_and_address() {
        let contender = Contender {
            name: "asyncio".to_owned(),
            version: "Python 3.11.7".to_owned(),
            threads: Threads::One,
            native: false,
            serves: everything(),
            half_close: true,
            program: Program::Ours(["python3", "asyncio_echo.py"].map(str::to_owned).to_vec()),
        };
        let command = contender.command(Job::EchoOnce, &Address::Unix("/tmp/a socket".into()));
        assert_eq!(command.get_program(), "python3");
        let words: Vec<&OsStr> = command.get_args().collect();
        assert_eq!(words, ["asyncio_echo.py", "echo-once", "unix", "/tmp/a socket"]);
    }

    #[test]
    fn nobody_has_an_unknown_name() {
        let error = find(&["epol".to_owned()], &[], &[]).expect_err("a wrong name");
        assert!(error.contains("epol;") && error.contains("socketserver-batch"), "{error}");
    }

    #[test]
    fn sources_are_there() {
        for file in ["uv.c", "event.c", "threading_tcp.py", "asyncio_echo.py", "gevent_echo.py", "node_echo.js"] {
            assert!(source(file).is_file(), "{file}");
        }
    }
}
