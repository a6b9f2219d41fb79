//! Python's own clients judge our servers: the two checks of CPython's `test_socketserver`, `stream_examine` and
//! `dgram_examine`, as `tests/data/judge.py` calls them.
//!
//! Skipped, with a reason, where there is no Python 3 or it comes without its tests (Debian's, for example). Every
//! Python from 3.8 on that is found judges the example; the first of them the other servers.
#![cfg(unix)]
#![allow(clippy::disallowed_methods, reason = "deadlines of tests are on the machine's clock")]

#[path = "common/mod.rs"]
mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use socketserver::family::{Family, ServerAddress, Tcp, Udp, UnixDatagram, UnixStream};
use socketserver::{
    Address, BaseServer, BlockingRequest, ForkingMixIn, Next, Request, RequestHandler, Result, Server,
    StreamRequestHandler, ThreadingMixIn,
};

use crate::common::PATIENCE;

/// A check that gets no answer gives up after 30 seconds itself.
const VERDICT: Duration = Duration::from_secs(60);

// ---- the example ----

#[test]
fn python_s_clients_are_content_with_the_example() {
    let pythons = pythons();
    for kind in [Kind::Tcp, Kind::Udp, Kind::Unix, Kind::UnixDatagram] {
        let here = kind.address();
        let (arguments, says) = match kind {
            Kind::Tcp => (vec![here.as_str()], "listening on "),
            Kind::Udp => (vec!["--udp", &here], "listening on udp "),
            Kind::Unix => (vec!["--unix", &here], "listening on unix stream "),
            Kind::UnixDatagram => (vec!["--unix-datagram", &here], "listening on unix datagram "),
        };
        let Some(echo) = Example::start(&arguments, says) else { return };
        for python in &pythons {
            judge(python, kind, &echo.address);
        }
    }
}

/// The example `echo` as a program, killed in the end.
struct Example {
    child: Child,
    address: String,
}

impl Example {
    /// Its first line of output, after what it says before the address, is where it listens.
    fn start(arguments: &[&str], says: &str) -> Option<Self> {
        // target/debug/deps/python_judges-1234: the examples are two steps up.
        let mut path = std::env::current_exe().unwrap();
        path.pop();
        path.pop();
        path.extend(["examples", "echo"]);
        if !path.exists() {
            eprintln!("skipped: {} is not there; cargo build --examples makes it", path.display());
            return None;
        }
        let mut command = Command::new(path);
        command.args(arguments).env_remove("RUST_LOG");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = child.stdout.take().unwrap();
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).unwrap();
        let address =
            line.strip_prefix(says).unwrap_or_else(|| panic!("{arguments:?}: {line:?}")).trim_end().to_owned();
        Some(Example { child, address })
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// ---- servers of each kind, by what serves their requests ----

/// Lets one Python judge a server of each kind; where there is none, it has said so.
macro_rules! check_each_kind {
    ($check:ident) => {
        let Some(python) = pythons().into_iter().next() else { return };
        $check::<Tcp>(&python, Kind::Tcp);
        $check::<Udp>(&python, Kind::Udp);
        $check::<UnixStream>(&python, Kind::Unix);
        $check::<UnixDatagram>(&python, Kind::UnixDatagram);
    };
}

#[test]
fn python_s_clients_are_content_with_the_reactor() {
    fn check<F: Family>(python: &Path, kind: Kind)
    where
        String: ServerAddress<F::Address>,
    {
        serve(python, kind, Server::<F, (), Line>::new(kind.address(), |_| Line).unwrap());
    }
    check_each_kind!(check);
}

#[test]
fn python_s_clients_are_content_with_threads() {
    fn check<F: Family>(python: &Path, kind: Kind)
    where
        String: ServerAddress<F::Address>,
    {
        let handler = |_: &Address| StreamRequestHandler::new(line);
        let server = ThreadingMixIn::<F>::new(kind.address(), handler).unwrap();
        serve(python, kind, server);
    }
    check_each_kind!(check);
}

#[test]
fn python_s_clients_are_content_with_programs() {
    fn check<F: Family>(python: &Path, kind: Kind)
    where
        String: ServerAddress<F::Address>,
    {
        let program = |_: &Address| {
            let mut head = Command::new("head");
            head.args(["-n", "1"]);
            head
        };
        let server = ForkingMixIn::<F>::new(kind.address(), program).unwrap();
        serve(python, kind, server);
    }
    check_each_kind!(check);
}

/// Answers each line with itself.
struct Line;

impl RequestHandler for Line {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        while let Some(line) = request.input.read_line()? {
            request.output.write_all(line)?;
        }
        Ok(Next::Wait)
    }
}

/// The same for one line of a request that a thread serves, stream or datagram.
fn line(request: &mut BlockingRequest) -> Result<()> {
    let mut line = Vec::new();
    request.rfile.read_until(b'\n', &mut line)?;
    Ok(request.wfile.write_all(&line)?)
}

/// Has a server judged while it serves on a thread.
fn serve<F: Family, S: BaseServer, H: RequestHandler<S>>(python: &Path, kind: Kind, mut server: Server<F, S, H>) {
    let address = server.server_address().to_string();
    let stop = server.shutdown_handle();
    let (tell, done) = channel();
    std::thread::spawn(move || tell.send(server.serve_forever()));
    judge(python, kind, &address);
    stop.shutdown();
    done.recv_timeout(PATIENCE).expect("serve_forever returns").unwrap();
}

// ---- the judges ----

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Udp,
    Unix,
    UnixDatagram,
}

impl Kind {
    /// An address that is free.
    fn address(self) -> String {
        match self {
            Kind::Tcp | Kind::Udp => "127.0.0.1:0".to_owned(),
            Kind::Unix | Kind::UnixDatagram => {
                static NUMBER: AtomicU32 = AtomicU32::new(0);
                let number = NUMBER.fetch_add(1, Ordering::Relaxed);
                let name = format!("judged-{}-{number}.sock", std::process::id());
                std::env::temp_dir().join(name).display().to_string()
            }
        }
    }
}

/// Runs judge.py, which prints one line and says by its status: 0 passed, 1 failed, 77 skipped.
#[track_caller]
fn judge(python: &Path, kind: Kind, address: &str) {
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/judge.py"));
    match kind {
        Kind::Tcp | Kind::Udp => {
            let (host, port) = address.rsplit_once(':').unwrap();
            command.args([if kind == Kind::Tcp { "tcp" } else { "udp" }, host, port]);
        }
        Kind::Unix => _ = command.args(["unix", address]),
        Kind::UnixDatagram => _ = command.args(["unix-datagram", address]),
    }
    let (tell, told) = channel();
    std::thread::spawn(move || tell.send(command.output().unwrap()));
    let verdict = told.recv_timeout(VERDICT).expect("a verdict in time");
    let text = String::from_utf8_lossy(&verdict.stdout);
    match verdict.status.code() {
        Some(0) => {}
        Some(77) => eprint!("{text}"),
        _ => panic!("{text}{}", String::from_utf8_lossy(&verdict.stderr)),
    }
}

/// The Pythons that are installed and have `test.test_socketserver`, one of each version.
fn pythons() -> Vec<PathBuf> {
    let mut versions = Vec::new();
    let names = (8..=14).map(|minor| format!("python3.{minor}"));
    let found = std::iter::once("python3".to_owned()).chain(names).filter_map(|name| {
        let ask =
            "import test.test_socketserver as t, sys; print('%d.%d' % sys.version_info[:2]); print(sys.executable)";
        let output = Command::new(&name).args(["-c", ask]).stderr(Stdio::null()).output().ok()?;
        let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
        let (version, path) = text.trim_end().split_once('\n')?;
        let fresh = !versions.iter().any(|known| known == version);
        versions.push(version.to_owned());
        fresh.then(|| PathBuf::from(path))
    });
    let found: Vec<_> = found.collect();
    if found.is_empty() {
        eprintln!("skipped: no python3 with test.test_socketserver");
    }
    found
}
