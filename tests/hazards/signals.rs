//! Stopping by a signal, in a process of its own: this test binary once more, told by its environment what to be.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use socketserver::{Next, Request, TcpServer};

use crate::common::{Call, PATIENCE, Peer, probe, usual};

const ROLE: &str = "SOCKETSERVER_HAZARD_SIGNALS";

/// Not a test of its own: the server that the tests below start as a process.
#[test]
fn the_server_that_signals_stop() {
    let Ok(role) = std::env::var(ROLE) else { return };
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
    let mut config = server.reactor().config().clone();
    config.drain_grace = Duration::from_secs(3_600);
    config.drain_quiet = Duration::from_millis(1);
    server.reactor().set_config(config);
    server.shutdown_on_signals().unwrap();
    println!("\nport {}", server.server_address().unwrap().port().unwrap());
    server.serve_forever().unwrap();
    println!("\nstopped");
}

/// A server in a process of its own, killed when dropped.
struct Process {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    port: u16,
}

impl Process {
    fn start(role: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "signals::the_server_that_signals_stop", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
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
