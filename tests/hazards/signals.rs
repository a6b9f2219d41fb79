//! Stopping by a signal, in a process of its own: this test binary once more, told by its environment what to be.
#![cfg(unix)]

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use socketserver::{Address, BaseServer, Next, NoHandler, Others, Reactor, Request, TcpServer};

use crate::common::{Call, PATIENCE, Peer, echo, probe, usual};

const ROLE: &str = "SOCKETSERVER_HAZARD_SIGNALS";
const PLAINLY: &str = r#"exec "$0" "$@""#;

/// Not a test of its own: the server that the tests below start as a process.
#[test]
fn the_server_that_signals_stop() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let mut say: Box<dyn FnMut(String)> = match role.as_str() {
        "gone" => return when_the_reactors_are_gone(),
        "without standard streams" => {
            let mut output = OpenOptions::new().write(true).open("/dev/fd/3").unwrap();
            // Rust's runtime puts something harmless where a client's socket would be otherwise.
            if cfg!(target_os = "linux") {
                (0..3).for_each(|fd| {
                    assert_eq!(std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap().to_str(), Some("/dev/null"));
                });
            }
            Box::new(move |line| writeln!(output, "{line}").unwrap())
        }
        _ => Box::new(|line| println!("\n{line}")),
    };
    let mut server = TcpServer::new("127.0.0.1:0", move |_| {
        let stubborn = role == "stubborn";
        probe(move |call, request: &mut Request<'_>| match call {
            Call::Handle => {
                request.output.write_all(request.input.take_all())?;
                Ok(Next::Wait)
            }
            Call::Drain => {
                request.output.write_all(b"going\n")?;
                Ok(if stubborn { Next::Wait } else { Next::Close })
            }
            call => usual(&call, request),
        })
    })
    .unwrap();
    let mut config = server.config().clone();
    config.drain_grace = Duration::from_secs(3_600);
    config.drain_quiet = Duration::from_millis(1);
    server.set_config(config);
    server.shutdown_on_signals().unwrap();
    say(format!("port {}", server.server_address().port()));
    server.serve_forever().unwrap();
    say("stopped".to_owned());
}

/// SIGTERM while reactors that watch it come and go, and after the last.
fn when_the_reactors_are_gone() {
    let taken = |reactor: &mut Reactor| {
        let deadline = Instant::now() + PATIENCE;
        while reactor.poll(Some(PATIENCE)).unwrap() {
            assert!(Instant::now() < deadline, "the signal stops it");
        }
    };
    let watching = || {
        let mut reactor = Reactor::new().unwrap();
        reactor.shutdown_on_signals().unwrap();
        reactor.shutdown_on_signals().expect("once more is no more");
        reactor
    };
    let (first, mut second) = (watching(), watching());
    drop(first);
    signal_hook::low_level::raise(SIGTERM).unwrap();
    taken(&mut second);
    drop(second);
    let mut third = watching();
    signal_hook::low_level::raise(SIGTERM).unwrap();
    taken(&mut third);
    drop((third, Reactor::new().unwrap()));
    // A server brings its wish along.
    let mut server = TcpServer::new("127.0.0.1:0", |_| NoHandler).unwrap();
    server.shutdown_on_signals().unwrap();
    let mut fourth = Reactor::new().unwrap();
    fourth.add(server).unwrap();
    signal_hook::low_level::raise(SIGTERM).unwrap();
    taken(&mut fourth);
    drop(fourth);
    println!("\nport 0");
    signal_hook::low_level::raise(SIGTERM).unwrap();
    println!("\nstopped");
}

#[test]
fn a_previous_signal_handler_of_the_program_remains_when_the_reactor_is_gone() {
    if std::env::var(ROLE).as_deref() != Ok("own handler") {
        let process = Process::start_test(
            "signals::a_previous_signal_handler_of_the_program_remains_when_the_reactor_is_gone",
            "own handler",
            PLAINLY,
        );
        let (status, output) = process.exit();
        return assert!(status.success() && output.contains("stopped"), "{status} {output}");
    }
    let seen = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGINT, Arc::clone(&seen)).unwrap();
    let mut reactor = Reactor::new().unwrap();
    reactor.shutdown_on_signals().unwrap();
    drop(reactor);
    println!("\nport 0");
    signal_hook::low_level::raise(SIGINT).unwrap();
    assert!(seen.load(Ordering::SeqCst));
    println!("\nstopped");
}

/// A shell, with SIGHUP, SIGINT and SIGTERM at their default actions even if they are ignored here: a shell without job control
/// ignores SIGINT for what it starts in the background. Needs env(1) of GNU.
fn shell() -> Command {
    let by_env = |program| {
        let mut env = Command::new("env");
        env.args(["--default-signal=HUP,INT,TERM", program]);
        env
    };
    let works = by_env("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if works { by_env("sh") } else { Command::new("sh") }
}

/// A server in a process of its own, killed when dropped.
struct Process {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    port: u16,
}

impl Process {
    fn start(role: &str) -> Self {
        Process::start_under(role, PLAINLY)
    }

    /// Starts the server by a shell that is told how.
    fn start_under(role: &str, how: &str) -> Self {
        Process::start_test("signals::the_server_that_signals_stop", role, how)
    }

    fn start_test(test: &str, role: &str, how: &str) -> Self {
        let mut child = shell()
            .args(["-c", how])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let port = loop {
            let mut line = String::new();
            assert!(output.read_line(&mut line).unwrap() > 0, "the server did not start");
            if let Some(port) = line.trim().strip_prefix("port ") {
                break port.parse().unwrap();
            }
        };
        Process { child, output, port }
    }

    fn connect(&self) -> Peer {
        Peer::connect(SocketAddr::from(([127, 0, 0, 1], self.port)))
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits until it says this.
    fn await_line(&mut self, expected: &str) {
        let mut line = String::new();
        while line.trim() != expected {
            line.clear();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the process has ended");
        }
    }

    /// Waits until it is over: everything it printed is read first, and the end of that is its end.
    fn exit(mut self) -> (ExitStatus, String) {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, rest);
            }
            assert!(Instant::now() < deadline, "the process does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_signal_stops_in_good_order() {
    for signal in ["TERM", "INT"] {
        let process = Process::start("willing");
        let mut client = process.connect();
        client.echo("before\n");
        client.send("in flight\n");
        process.signal(signal);
        // What was under way is answered, the handler is told, and the end is a FIN.
        assert_eq!(String::from_utf8(client.rest()).unwrap(), "in flight\ngoing\n", "SIG{signal}");
        let (status, output) = process.exit();
        assert!(status.success(), "SIG{signal}: {status}");
        assert!(output.contains("stopped"), "SIG{signal}: serve_forever returned: {output}");
    }
}

/// Says when it reads its configuration again.
struct Reloading;

impl BaseServer for Reloading {
    fn reload(&mut self, _: &mut Others<'_, Self>) {
        println!("\nreloaded");
    }
}

/// Not a test of its own: a server that two tests below start as a process.
#[test]
fn the_server_that_reloads() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let handler =
        |_: &mut Reloading, _: &Address| probe(|call, request: &mut Request<'_, Reloading>| echo(&call, request));
    let mut server = TcpServer::with_server("127.0.0.1:0", Reloading, handler).unwrap();
    server.reload_on_signal().unwrap();
    server.shutdown_on_signals().unwrap();
    server.reload_on_signal().expect("once more is no more");
    let port = server.server_address().port();
    if role == "moved" {
        // A server brings its wish along.
        let mut reactor = Reactor::new().unwrap();
        reactor.add(server).unwrap();
        println!("\nport {port}");
        return reactor.serve_forever().unwrap();
    }
    println!("\nport {port}");
    server.serve_forever().unwrap();
    drop(server);
    signal_hook::low_level::raise(SIGHUP).unwrap();
    println!("\nsurvived");
}

#[test]
fn a_hangup_reloads_and_costs_no_connection() {
    for role in ["stays", "moved"] {
        let mut process = Process::start_test("signals::the_server_that_reloads", role, PLAINLY);
        let mut client = process.connect();
        client.echo("before");
        for _ in 0..3 {
            process.signal("HUP");
            process.await_line("reloaded");
            client.echo("after");
        }
        process.signal("TERM");
        client.expect_eof();
        let (status, output) = process.exit();
        match role {
            "moved" => assert!(status.success(), "{status} {output}"),
            _ => assert_eq!(status.signal(), Some(SIGHUP), "without a reactor it ends the process: {output}"),
        }
        assert!(!output.contains("reloaded") && !output.contains("survived"), "{output}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_hangup_that_was_ignored_at_start_stays_ignored() {
    let how = format!("trap '' HUP; {PLAINLY}");
    let process = Process::start_test("signals::the_server_that_reloads", "moved", &how);
    let mut client = process.connect();
    process.signal("HUP");
    (0..10).for_each(|_| client.echo("after"));
    process.signal("TERM");
    client.expect_eof();
    let (status, output) = process.exit();
    assert!(status.success() && !output.contains("reloaded"), "{status} {output}");
}

#[test]
fn a_second_signal_cuts_the_stop_short() {
    let process = Process::start("stubborn");
    let mut client = process.connect();
    client.echo("before\n");
    process.signal("TERM");
    client.expect("going\n"); // It drains, and would for an hour.
    client.echo("still served\n");
    process.signal("INT");
    client.expect_reset();
    let (status, output) = process.exit();
    assert!(status.success(), "{status}");
    assert!(output.contains("stopped"), "{output}");
}

#[test]
fn a_stopped_and_continued_process_keeps_its_clients() {
    let process = Process::start("willing");
    let mut clients: Vec<_> = (0..10).map(|_| process.connect()).collect();
    clients.iter_mut().for_each(|client| client.echo("before\n"));
    process.signal("STOP");
    clients.iter_mut().for_each(|client| client.send("meanwhile\n"));
    process.signal("CONT");
    clients.iter_mut().for_each(|client| client.expect("meanwhile\n"));
    drop(clients);
    process.signal("TERM");
    assert!(process.exit().0.success());
}

#[test]
fn a_signal_has_its_default_effect_when_no_reactor_is_left() {
    let (status, output) = Process::start("gone").exit();
    assert_eq!(status.signal(), Some(SIGTERM), "{status} {output}");
    assert!(!output.contains("stopped"), "{output}");
}

/// Sends the process a signal that is not to reach it; the other one stops it as ever.
#[track_caller]
fn expect_to_survive(process: Process, signal: &str, other: &str) {
    let mut client = process.connect();
    client.echo("before\n");
    process.signal(signal);
    process.signal(signal);
    for _ in 0..10 {
        client.echo("after\n");
    }
    process.signal(other);
    assert_eq!(String::from_utf8(client.rest()).unwrap(), "going\n", "SIG{signal}");
    let (status, output) = process.exit();
    assert!(status.success() && output.contains("stopped"), "SIG{signal}: {status} {output}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_signal_that_was_ignored_at_start_stays_ignored() {
    for (signal, other) in [("INT", "TERM"), ("TERM", "INT")] {
        let how = format!("trap '' {signal}; {PLAINLY}");
        expect_to_survive(Process::start_under("willing", &how), signal, other);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_signal_that_was_blocked_at_start_stays_blocked() {
    let how = |signal: &str| format!("exec env --block-signal={signal} \"$0\" \"$@\"");
    if !Command::new("env").args(["--block-signal=TERM", "true"]).status().is_ok_and(|status| status.success()) {
        return println!("skipped: needs env --block-signal");
    }
    for (signal, other) in [("INT", "TERM"), ("TERM", "INT")] {
        expect_to_survive(Process::start_under("willing", &how(signal)), signal, other);
    }
}

#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn a_server_without_standard_streams_serves_and_stops() {
    let process = Process::start_under("without standard streams", r#"exec "$0" "$@" 3>&1 <&- >&- 2>&-"#);
    let mut client = process.connect();
    client.echo("before\n");
    process.signal("TERM");
    assert_eq!(String::from_utf8(client.rest()).unwrap(), "going\n");
    let (status, output) = process.exit();
    assert!(status.success() && output.contains("stopped"), "{status} {output}");
}
