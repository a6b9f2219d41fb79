//! HAProxy, configured as in docs/production.md, with two replicas that are replaced one after the other under load: no
//! request fails.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::loopback::loopback;
use crate::programs::{DEADLINE, Program, connected, start_with};
use crate::{Directory, End, tool};

#[test]
fn haproxy_loses_no_request_of_kv_while_replicas_are_replaced() {
    let service = Service { mode: "tcp", port: 6380, request: b"ECHO hello\r\n", reply: b"$5\r\nhello\r\n" };
    replaced_under_load(&service, |address, _| {
        let [main, admin] = [6380, 8081].map(|port| format!("{address}:{port}"));
        start_with("kv", &[&main, "--admin", &admin, "--proxy", "127.0.0.1", "--drain-delay", "2", "--grace", "4"], 2)
    });
}

#[test]
fn haproxy_loses_no_request_of_web_while_replicas_are_replaced() {
    let request = b"GET /files/hello HTTP/1.1\r\nHost: web\r\n\r\n";
    let service = Service { mode: "http", port: 80, request, reply: b"\r\n\r\nhello" };
    replaced_under_load(&service, |address, scratch| {
        scratch.file("hello", "hello");
        let main = format!("{address}:8080");
        start_with("web", &[&main, "--root", &scratch.path(""), "--drain-delay", "2", "--grace", "4"], 1)
    });
}

/// How HAProxy forwards it, and at which port; a request, and what its reply ends with.
struct Service {
    mode: &'static str,
    port: u16,
    request: &'static [u8],
    reply: &'static [u8],
}

/// Replaces both replicas twice, and requires that every request is answered. `start` starts the one at an address.
fn replaced_under_load(service: &Service, start: impl Fn(&str, &Directory) -> Option<Program>) {
    if tool("haproxy", &[]).is_none() {
        return;
    }
    let scratch = Directory::new();
    let (replicas, front) = ([0; 2].map(|_| loopback().to_string()), SocketAddr::from((loopback(), service.port)));
    let mut running = Vec::new();
    for replica in &replicas {
        let Some(program) = start(replica, &scratch) else { return };
        running.push(program);
    }

    let documented = include_str!("../../docs/production.md").split("```");
    let mode = format!("mode {}\n", service.mode);
    let mut configurations = documented.filter_map(|block| block.strip_prefix("haproxy\n"));
    let config = configurations.find(|config| config.contains(&mode)).expect("it is in the page");
    let control = scratch.path("control");
    let config = [("192.0.2.20", &replicas[0]), ("192.0.2.21", &replicas[1]), ("/run/haproxy/control", &control)]
        .into_iter()
        .fold(config.to_owned(), |config, (documented, here)| config.replace(documented, here))
        .replace(&format!("bind :{}\n", service.port), &format!("bind {front}\n"));
    let config = scratch.file("haproxy.cfg", config);
    let mut command = tool("haproxy", &["-db", "-f", &config]).expect("it was there before");
    let haproxy = Program::spawn(command.stdout(Stdio::null()).stderr(Stdio::piped()));
    await_up(Path::new(&control), &["a", "b"], &haproxy);

    let (is_over, counts) = (AtomicBool::new(false), Counts::default());
    std::thread::scope(|scope| {
        let over = End(&is_over);
        let connectors = (0..CONNECTORS).map(|_| scope.spawn(|| new_connections(service, front, &is_over, &counts)));
        let mut clients: Vec<_> = connectors.collect();
        clients.extend((0..LONG_LIVED).map(|_| scope.spawn(|| long_lived(service, front, &is_over, &counts))));
        for (replica, name) in [0, 1, 0, 1].into_iter().zip(["a", "b"].into_iter().cycle()) {
            let before = counts.answered.load(Ordering::Relaxed);
            running[replica].stops_in_good_order();
            running[replica] = start(&replicas[replica], &scratch).expect("it was there before");
            await_up(Path::new(&control), &[name], &haproxy);
            assert!(counts.answered.load(Ordering::Relaxed) > before, "there was no load");
        }
        drop(over);
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
    let [answered, again] = [&counts.answered, &counts.again].map(|count| count.load(Ordering::Relaxed));
    eprintln!("mode {}: {answered} requests, {again} connections that were opened again", service.mode);
    running.iter_mut().for_each(Program::stops_in_good_order);
}

/// Requests on new connections, each of which must be answered at the first attempt.
fn new_connections(service: &Service, front: SocketAddr, is_over: &AtomicBool, counts: &Counts) {
    let begun = Instant::now();
    for turn in 0.. {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        let mut client = connect(front);
        ask(service, &mut client).unwrap_or_else(|error| panic!("after {:?}: {error}", begun.elapsed()));
        counts.answered.fetch_add(1, Ordering::Relaxed);
        // An open loop: a late answer does not make the next request late.
        std::thread::sleep((INTERVAL * turn).saturating_sub(begun.elapsed()));
    }
}

/// Requests on a connection that is kept. If it has ended before a byte of the reply, there is one more attempt on a new
/// one, as HTTP allows and as pools of connections do: the service cannot know that a request is on its way.
fn long_lived(service: &Service, front: SocketAddr, is_over: &AtomicBool, counts: &Counts) {
    let mut client = connect(front);
    let mut is_new = true;
    while !is_over.load(Ordering::Relaxed) {
        match ask(service, &mut client) {
            Ok(()) => {
                counts.answered.fetch_add(1, Ordering::Relaxed);
                is_new = false;
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(Failure::Unanswered(_)) if !is_new => {
                counts.again.fetch_add(1, Ordering::Relaxed);
                (client, is_new) = (connect(front), true);
            }
            Err(failure) => panic!("{failure}"),
        }
    }
}

fn connect(front: SocketAddr) -> TcpStream {
    connected(TcpStream::connect(front).unwrap_or_else(|error| panic!("cannot connect to {front}: {error}")))
}

/// Sends a request and reads the reply.
fn ask(service: &Service, client: &mut TcpStream) -> Result<(), Failure> {
    client.write_all(service.request).map_err(|error| Failure::Unanswered(error.to_string()))?;
    let (mut reply, mut buffer) = (Vec::new(), [0; 1024]);
    while !reply.ends_with(service.reply) {
        match client.read(&mut buffer) {
            Ok(length @ 1..) => reply.extend_from_slice(&buffer[..length]),
            end => {
                let failure = if reply.is_empty() { Failure::Unanswered } else { Failure::Truncated };
                return Err(failure(format!("{end:?} after {:?}", String::from_utf8_lossy(&reply))));
            }
        }
    }
    Ok(())
}

#[derive(Debug)]
enum Failure {
    Unanswered(String),
    Truncated(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Failure::Unanswered(text) | Failure::Truncated(text)) = self;
        write!(f, "no whole reply: {text}")
    }
}

#[derive(Default)]
struct Counts {
    answered: AtomicUsize,
    again: AtomicUsize,
}

/// Waits until HAProxy sends clients to these servers.
#[track_caller]
fn await_up(control: &Path, names: &[&str], haproxy: &Program) {
    let begun = Instant::now();
    loop {
        let mut said = String::new();
        if let Ok(mut control) = UnixStream::connect(control) {
            let _ = control.write_all(b"show stat\n").and_then(|()| control.read_to_string(&mut said));
        }
        let is_up = |name: &&str| {
            let start = format!("replicas,{name},");
            said.lines().any(|line| line.starts_with(&start) && line.split(',').nth(17) == Some("UP"))
        };
        if names.iter().all(is_up) {
            return;
        }
        assert!(haproxy.exited.try_recv().is_err(), "it ended: {:?}", haproxy.log.lines().collect::<Vec<_>>());
        assert!(begun.elapsed() < DEADLINE, "{names:?} are not up: {said}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Threads that make new connections, and the interval of each: 500 connections a second together.
const CONNECTORS: usize = 10;
const INTERVAL: Duration = Duration::from_millis(20);
const LONG_LIVED: usize = 50;
