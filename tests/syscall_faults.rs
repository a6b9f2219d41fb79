//! System calls that fail as they do once in a year: strace makes them fail on purpose in the echo example, one fault a
//! row, while clients talk to it.
//!
//! A call that is made to fail is not made at all. So an error that says nothing false is injected anywhere, but EAGAIN
//! is not: told of a socket on which something waits, it uses up an event that an edge-triggered selector does not
//! repeat, and no kernel does that. It is injected where the client then sends more.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "deadlines of tests are on the machine's clock")]

mod common;
#[path = "common/programs.rs"]
mod programs;

use std::io::{ErrorKind, Read as _, Write as _};
use std::process::{Command, Stdio};

use common::{Directory, Mailbox, Peer};
use programs::{Program, example};
use socketserver::{Address, UnixAddress};

/// What a fault does to the clients of the server.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// No client notices.
    Unnoticed,
    /// No client notices more than a pause, and the log reports it.
    Paused,
    /// Served as soon as more comes.
    Delayed,
    /// One connection ends, and only that one.
    EndsOne,
    /// One answer is lost, and only that one.
    LosesOne,
}
use Outcome::*;

/// The system calls, strace's `when=` (which of them fail: `3`, `3..6`, `1..19+2` for every second of the first), the errors to try, and
/// what follows.
type Row = (&'static str, &'static str, &'static [&'static str], Outcome);

/// Whichever of them the C library has.
const WAITS: &str = "?epoll_wait,?epoll_pwait,?epoll_pwait2";

const OF_STREAMS: &[Row] = &[
    (WAITS, "1", &["EINTR"], Unnoticed),
    (WAITS, "1..19+2", &["EINTR"], Unnoticed),
    (WAITS, "2..40", &["EINTR"], Unnoticed),
    ("accept4", "1..19+2", &["EINTR", "ECONNABORTED", "EPROTO", "EPERM"], Unnoticed),
    ("accept4", "2..9", &["EINTR", "ECONNABORTED", "EPROTO", "EPERM"], Unnoticed),
    ("accept4", "2..5", &["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"], Paused),
    ("accept4", "1", &["EAGAIN"], Delayed),
    // Those before are the reactor's own and the bystander's.
    ("epoll_ctl", "6", &["ENOMEM", "ENOSPC"], EndsOne),
    ("recvfrom", "1..19+2", &["EINTR"], Unnoticed),
    ("recvfrom", "1", &["EAGAIN"], Delayed),
    ("recvfrom", "10", &["ECONNRESET", "ETIMEDOUT", "EPIPE", "EHOSTUNREACH", "ENOMEM"], EndsOne),
    ("sendto", "1..19+2", &["EINTR"], Unnoticed),
    ("sendto", "1", &["EAGAIN"], Delayed),
    ("sendto", "10", &["ECONNRESET", "ETIMEDOUT", "EPIPE", "EHOSTUNREACH", "ENOMEM"], EndsOne),
];

/// One answer, or several at once.
const SENDS: &str = "sendto,sendmmsg";

const OF_UDP: &[Row] = &[
    (WAITS, "1..19+2", &["EINTR"], Unnoticed),
    // A kernel without IP_PKTINFO, UDP_GRO, UDP_SEGMENT and IP_MULTICAST_ALL.
    ("setsockopt", "1", &["ENOPROTOOPT"], Unnoticed),
    ("setsockopt", "6..7", &["ENOPROTOOPT"], Unnoticed),
    ("getsockopt", "1..2", &["ENOPROTOOPT"], Unnoticed),
    ("recvmmsg", "1..19+2", &["EINTR", "ECONNREFUSED", "ENETUNREACH", "EHOSTUNREACH", "EMSGSIZE"], Unnoticed),
    ("recvmmsg", "2..5", &["ENOBUFS", "ENOMEM"], Paused),
    ("recvmmsg", "1", &["EAGAIN"], Delayed),
    (SENDS, "1..19+2", &["EINTR"], Unnoticed),
    (SENDS, "2..5", &["EAGAIN", "ENOBUFS", "ENOMEM"], Unnoticed),
    (SENDS, "3", &["ECONNREFUSED", "ENETUNREACH", "EHOSTUNREACH", "EPERM", "EMSGSIZE"], LosesOne),
];

const OF_UNIX_DATAGRAMS: &[Row] = &[
    (WAITS, "1..19+2", &["EINTR"], Unnoticed),
    ("recvfrom", "1..19+2", &["EINTR", "ECONNREFUSED"], Unnoticed),
    ("recvfrom", "2..5", &["ENOBUFS", "ENOMEM"], Paused),
    ("recvfrom", "1", &["EAGAIN"], Delayed),
    ("sendto", "1..19+2", &["EINTR"], Unnoticed),
    ("sendto", "2..5", &["EAGAIN", "ENOBUFS", "ENOMEM"], Unnoticed),
    ("sendto", "3", &["ECONNREFUSED", "ENOENT", "EACCES"], LosesOne),
];

/// What keeps a server of all kinds from starting.
const OF_STARTING: &[(&str, &str)] = &[
    ("epoll_create1", "EMFILE"),
    ("eventfd2", "EMFILE"),
    ("epoll_ctl", "ENOMEM"),
    ("socketpair", "EMFILE"),
    ("socket", "EMFILE"),
    ("socket", "ENOBUFS"),
    ("bind", "EADDRINUSE"),
    ("bind", "EACCES"),
    ("listen", "EADDRINUSE"),
];

#[test]
fn faults_of_tcp() {
    each(OF_STREAMS, &["127.0.0.1:0"], talk);
}

#[test]
fn faults_of_unix_streams() {
    let directory = Directory::new();
    each(OF_STREAMS, &["--unix", directory.at("s").to_str().unwrap()], talk);
}

#[test]
fn faults_of_udp() {
    each(OF_UDP, &["--udp", "127.0.0.1:0"], correspond);
}

#[test]
fn faults_of_unix_datagrams() {
    let directory = Directory::new();
    each(OF_UNIX_DATAGRAMS, &["--unix-datagram", directory.at("s").to_str().unwrap()], correspond);
}

#[test]
fn faults_of_starting() {
    let directory = Directory::new();
    let (stream, datagram) = (directory.at("s"), directory.at("d"));
    let (stream, datagram) = (stream.to_str().unwrap(), datagram.to_str().unwrap());
    let arguments = ["127.0.0.1:0", "--udp", "127.0.0.1:0", "--unix", stream, "--unix-datagram", datagram];
    for (calls, error) in OF_STARTING {
        // All that can fail with it, one after the other, until there are no more.
        for occurrence in 1.. {
            let row = format!("{calls} number {occurrence}: {error}");
            let Some(mut command) = strace(calls, error, &occurrence.to_string()) else { return };
            let mut echo = Program::spawn(command.args(arguments));
            if echo.output.lines().next().is_some() {
                echo.stops_in_good_order();
                assert!(occurrence > 1, "{row}: not injected");
                break;
            }
            println!("{row}");
            assert_eq!(echo.exit().code(), Some(1), "{row}");
            // The other lines are strace's.
            let said: Vec<_> = echo.log.lines().filter(|line| !line.contains(" = ")).collect();
            assert!(said.len() == 1 && said[0].starts_with("error: "), "{row}: {said:?}");
            directory.assert_empty();
        }
    }
}

/// Runs a server for each fault and lets clients talk to it.
fn each(rows: &[Row], arguments: &[&str], talk: fn(Outcome, &Address, &Program)) {
    for (calls, when, errors, outcome) in rows {
        for error in *errors {
            println!("{calls} number {when}: {error}: {outcome:?}");
            let Some(mut command) = strace(calls, error, when) else { return };
            let mut echo = Program::spawn(command.args(arguments));
            echo.listens(1);
            talk(*outcome, &address(&echo.listening[0]), &echo);
            echo.stops_in_good_order();
            let log: Vec<String> = echo.log.lines().collect();
            let said = |word: &str| log.iter().any(|line| line.contains(word));
            let cannot = said("cannot accept on") || said("cannot receive on");
            match outcome {
                Unnoticed => assert!(said(INJECTED) && !cannot, "{log:#?}"),
                Paused => assert!(said(INJECTED) && cannot, "{log:#?}"),
                EndsOne => assert!(said(INJECTED), "{log:#?}"),
                Delayed | LosesOne => {} // The clients have waited for it.
            }
        }
    }
}

/// Clients of a stream server.
fn talk(outcome: Outcome, server: &Address, echo: &Program) {
    let mut bystander = None;
    match outcome {
        Delayed => {
            let mut client = Peer::connect(server.clone());
            client.send("what is late, ");
            echo.log.until(INJECTED);
            client.send("and what brings it");
            bystander = Some(Peer::connect(server.clone()));
            client.expect("what is late, and what brings it");
        }
        _ => {
            let bystander = bystander.insert(Peer::connect(server.clone()));
            bystander.echo("before");
            // They stay: one that has gone would not notice if it was hit.
            let mut clients = Vec::new();
            let mut ended = 0;
            for _ in 0..ROUNDS {
                clients.push(Peer::connect(server.clone()));
                let before = clients.len();
                clients.retain_mut(is_served);
                ended += before - clients.len();
            }
            assert_eq!(ended, usize::from(matches!(outcome, EndsOne)), "connections that were ended");
        }
    }
    bystander.expect("it came").echo("after");
    Peer::connect(server.clone()).echo("newcomer");
}

/// Returns whether it gets its bytes back; if not, its connection has ended.
fn is_served(client: &mut Peer) -> bool {
    let mut back = [0; 5];
    let served = client.socket.write_all(b"hello").and_then(|()| client.socket.read_exact(&mut back));
    match served {
        Ok(()) => assert_eq!(&back, b"hello"),
        Err(ref error) => {
            let ends = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
            assert!(ends.contains(&error.kind()), "{error}");
        }
    }
    served.is_ok()
}

/// Clients of a datagram server.
fn correspond(outcome: Outcome, server: &Address, echo: &Program) {
    let (client, bystander) = (Mailbox::to(server.clone()), Mailbox::to(server.clone()));
    match outcome {
        Delayed => {
            client.send("what is late");
            echo.log.until(INJECTED);
            bystander.echo("what brings it");
            client.expect("what is late");
        }
        LosesOne => {
            client.echo("first");
            bystander.echo("second");
            client.send("whose answer is lost");
            echo.log.until(INJECTED);
            client.echo("fourth");
        }
        _ => {
            for _ in 0..ROUNDS {
                client.echo("hello");
                bystander.echo("hello");
            }
        }
    }
    bystander.echo("after");
    Mailbox::to(server.clone()).echo("newcomer");
}

/// Enough for each of the calls that a row counts to.
const ROUNDS: usize = 12;

/// The echo example, of whose system calls some fail; or `None` and a word about it.
///
/// Only its first thread is traced, which is that of the loop. `-D` makes strace the grandchild: the process that is
/// signalled, and whose status is seen, is that of the example.
fn strace(calls: &str, error: &str, when: &str) -> Option<Command> {
    let example = example("echo")?;
    let options =
        ["-Dqqq".to_owned(), format!("-etrace={calls}"), format!("-einject={calls}:error={error}:when={when}")];
    let mut probe = Command::new("strace");
    probe.args(&options).arg("true").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: there is no strace, it is too old, or it may not trace");
        return None;
    }
    let mut command = Command::new("strace");
    command.args(&options).arg(example.get_program()).env_remove("RUST_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Some(command)
}

/// How strace marks a call that it made fail.
const INJECTED: &str = "(INJECTED)";

/// As the example says where it listens.
fn address(said: &str) -> Address {
    let path = said.strip_prefix("unix stream ").or_else(|| said.strip_prefix("unix datagram "));
    match path {
        Some(path) => UnixAddress::from_path(path).into(),
        None => Address::Inet(said.strip_prefix("udp ").unwrap_or(said).parse().expect("an address")),
    }
}
