//! The examples as programs: found, started, watched line by line, and stopped with signals.
//!
//! `cargo test` builds the examples first; `cargo test --test NAME` alone does not, and then the tests are skipped.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Long enough for a busy machine. Nothing waits for it to pass unless the test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A running program, killed when the test is done with it.
pub(crate) struct Program {
    pub(crate) pid: u32,
    pub(crate) exited: Receiver<ExitStatus>,
    pub(crate) status: Option<ExitStatus>,
    pub(crate) input: Option<std::process::ChildStdin>,
    pub(crate) output: Lines,
    pub(crate) log: Lines,
    /// Where it says that it listens: what it says, and the first if that is an address.
    pub(crate) listening: Vec<String>,
    pub(crate) address: Option<SocketAddr>,
}

/// An example, or `None` and a word about it if it was not built.
pub(crate) fn example(name: &str) -> Option<Command> {
    // target/debug/deps/examples-1234: the examples are two steps up.
    let mut path: PathBuf = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.extend(["examples", name]);
    if !path.exists() {
        eprintln!("skipped: {} is not there; cargo build --examples makes it", path.display());
        return None;
    }
    let mut command = match std::env::var("EXAMPLES_UNDER") {
        Ok(checker) => under(&checker, &path),
        Err(_) => Command::new(path),
    };
    command.env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Some(command)
}

/// The program under another that watches it: valgrind and its options, for example.
fn under(checker: &str, program: &Path) -> Command {
    let mut words = checker.split_whitespace();
    let mut command = Command::new(words.next().expect("EXAMPLES_UNDER names a program"));
    command.args(words).arg(program);
    command
}

/// Starts a server and waits until it listens.
#[track_caller]
pub(crate) fn start(name: &str, arguments: &[&str]) -> Option<Program> {
    start_with(name, arguments, 1)
}

/// The same with so many sockets.
#[track_caller]
pub(crate) fn start_with(name: &str, arguments: &[&str], sockets: usize) -> Option<Program> {
    let mut command = example(name)?;
    let mut program = Program::spawn(command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()));
    program.listens(sockets);
    Some(program)
}

impl Program {
    #[track_caller]
    pub(crate) fn spawn(command: &mut Command) -> Self {
        Program::of(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    pub(crate) fn of(mut child: Child) -> Self {
        let (exit, exited) = channel();
        let (pid, input) = (child.id(), child.stdin.take());
        let output = child.stdout.take().map_or_else(Lines::none, Lines::of);
        let log = child.stderr.take().map_or_else(Lines::none, Lines::of);
        std::thread::spawn(move || exit.send(child.wait().unwrap()));
        Program { pid, exited, status: None, input, output, log, listening: Vec::new(), address: None }
    }

    #[track_caller]
    pub(crate) fn listens(&mut self, sockets: usize) {
        let line = |_| self.output.until("").strip_prefix("listening on ").expect("nothing else is said").to_owned();
        self.listening = (0..sockets).map(line).collect();
        self.address = self.listening[0].parse().ok();
    }

    /// The address of the other socket, which is listened on after `kind`.
    #[track_caller]
    pub(crate) fn other(&self, kind: &str) -> &str {
        let mut addresses = self.listening.iter().skip(1).filter_map(|line| line.strip_prefix(kind));
        addresses.next().unwrap_or_else(|| panic!("{kind:?} in {:?}", self.listening))
    }

    #[track_caller]
    pub(crate) fn connect(&self) -> TcpStream {
        connected(TcpStream::connect(self.address.unwrap()).unwrap())
    }

    /// For a program that cannot say when it listens.
    #[track_caller]
    pub(crate) fn connect_when_up(&mut self) -> TcpStream {
        let begun = Instant::now();
        loop {
            match TcpStream::connect(self.address.unwrap()) {
                Ok(client) => return connected(client),
                Err(error) => assert!(begun.elapsed() < DEADLINE, "{error}"),
            }
            // Either it ends, or it is worth another try.
            if let Ok(status) = self.exited.recv_timeout(Duration::from_millis(5)) {
                self.status = Some(status);
                panic!("it ended: {status}");
            }
        }
    }

    #[track_caller]
    pub(crate) fn signal(&self, signal: &str) {
        assert!(kill(signal, self.pid), "kill -{signal} {}", self.pid);
    }

    #[track_caller]
    pub(crate) fn exit(&mut self) -> ExitStatus {
        let status = self.exited.recv_timeout(DEADLINE).expect("the program ends");
        self.status = Some(status);
        status
    }

    #[track_caller]
    pub(crate) fn stops_in_good_order(&mut self) {
        self.signal("TERM");
        assert_eq!(self.exit().code(), Some(0));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.status.is_none() && self.exited.try_recv().is_err() {
            kill("KILL", self.pid);
            let _ = self.exited.recv_timeout(DEADLINE);
        }
    }
}

pub(crate) fn kill(signal: &str, pid: u32) -> bool {
    Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status().is_ok_and(|status| status.success())
}

/// What a program writes, line by line, without waiting for ever.
pub(crate) struct Lines(Receiver<String>);

impl Lines {
    pub(crate) fn of(stream: impl Read + Send + 'static) -> Self {
        let (line, lines) = channel();
        std::thread::spawn(move || {
            // Ends when the receiver is gone: the program then has a broken pipe.
            BufReader::new(stream).lines().map_while(Result::ok).try_for_each(|text| line.send(text))
        });
        Lines(lines)
    }

    pub(crate) fn none() -> Self {
        Lines(channel().1)
    }

    /// The first line from here on that contains `part`.
    #[track_caller]
    pub(crate) fn until(&self, part: &str) -> String {
        let mut seen = VecDeque::new();
        loop {
            match self.0.recv_timeout(DEADLINE) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => seen.push_back(line),
                Err(error) => panic!("no line contains {part:?} ({error}): {seen:?}"),
            }
        }
    }

    /// The rest of the lines of a program that has ended.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        std::iter::from_fn(|| self.0.recv_timeout(DEADLINE).ok())
    }
}

#[track_caller]
pub(crate) fn connected(client: TcpStream) -> TcpStream {
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.set_write_timeout(Some(DEADLINE)).unwrap();
    client
}
