//! The tool as a judge: servers that are broken, each in its own way, have to fail, and those that are not have to pass.

#![cfg(unix)]
#![allow(clippy::disallowed_methods, reason = "deadlines of tests are real time")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

#[path = "../../common/programs.rs"]
mod programs;

/// Long enough for a busy machine. Nothing waits for it to pass unless the test fails.
const DEADLINE: Duration = Duration::from_secs(120);

// ---- servers that are not broken ----

#[test]
fn its_own_server_passes_every_trial() {
    let verdict = torture(&["--clients", "3", "--skip", "mixture"]);
    verdict.passes();
    for trial in ["integrity", "half-close", "resets", "slow-readers", "slowloris", "churn", "flood", "idle-crowd"] {
        assert!(verdict.row(trial).ends_with("passed |"), "{verdict:?}");
    }
    assert!(!verdict.output.contains("mixture"), "{verdict:?}");
    // The server's process was watched.
    assert!(!cfg!(target_os = "linux") || verdict.output.contains("RSS"), "{verdict:?}");
}

#[test]
fn its_own_server_under_tls_passes_every_trial() {
    let verdict = torture(&["--serve", "tls", "--clients", "3", "--skip", "mixture"]);
    verdict.passes();
    assert!(verdict.output.starts_with("torturing tls:127.0.0.1:"), "{verdict:?}");
    for trial in ["integrity", "half-close", "resets", "slow-readers", "slowloris", "churn", "flood", "idle-crowd"] {
        assert!(verdict.row(trial).ends_with("passed |"), "{verdict:?}");
    }
}

#[test]
fn its_own_server_of_datagrams_passes_every_trial() {
    // With ten times as many clients as usual, a crowd has more than there are sessions.
    let verdict = torture(&["--serve", "udp", "--clients", "5", "--skip", "datagram-mixture"]);
    verdict.passes();
    for trial in ["datagrams", "long-datagrams", "repeats", "datagram-flood", "deaf-peers", "peer-churn", "peer-crowd"]
    {
        assert!(verdict.row(trial).ends_with("passed |"), "{verdict:?}");
    }
    assert!(!verdict.output.contains("| integrity "), "{verdict:?}");
}

#[test]
fn the_echo_example_passes_over_all_kinds_of_sockets() {
    let path = std::env::temp_dir().join(format!("torture-echo-{}", std::process::id()));
    let (path, datagram_path) = (path.to_str().unwrap(), path.with_extension("datagram"));
    let datagram_path = datagram_path.to_str().unwrap();
    let Some(mut command) = programs::example("echo") else { return };
    command.args(["127.0.0.1:0", "--udp", "127.0.0.1:0", "--unix", path, "--unix-datagram", datagram_path]);
    let mut echo = Process(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut said = BufReader::new(echo.0.stdout.take().unwrap()).lines();
    let mut address = |kind: &str| said.next().unwrap().unwrap().replace(&format!("listening on {kind}"), "");
    let streams = [address(""), address("udp "), address("unix stream "), address("unix datagram ")];
    let [tcp, udp, unix, unix_datagram] = &streams;
    assert_eq!((&unix[..], &unix_datagram[..]), (path, datagram_path));
    let connections = ["integrity", "half-close", "resets", "churn", "flood"];
    let datagrams = ["datagrams", "long-datagrams", "repeats", "datagram-flood", "peer-churn"];
    for (address, trials) in [
        (tcp.clone(), connections),
        (format!("udp:{udp}"), datagrams),
        (format!("unix:{unix}"), connections),
        (format!("unix-datagram:{unix_datagram}"), datagrams),
    ] {
        let mut arguments = vec![&address, "--clients", "5"];
        let pid = echo.0.id().to_string();
        if cfg!(target_os = "linux") {
            arguments.extend(["--pid", &pid]);
        }
        for trial in trials {
            arguments.extend(["--only", trial]);
        }
        torture(&arguments).passes();
    }
    drop(echo);
    let _ = (std::fs::remove_file(path), std::fs::remove_file(datagram_path));
}

#[test]
fn a_seed_repeats_a_run() {
    let resets = |seed| {
        let verdict = torture(&["--only", "churn", "--clients", "5", "--seed", seed]);
        verdict.passes();
        verdict.row("churn").split('|').nth(4).unwrap().trim().to_owned()
    };
    let first = resets("7");
    assert_eq!(first, resets("7"));
    let others = ["8", "9", "10"].map(resets);
    assert!(others.iter().any(|other| *other != first), "{first} {others:?}");
}

#[test]
fn rounds_go_on_while_there_is_time() {
    let arguments = ["--only", "flood", "--clients", "1", "--duration", "300ms"];
    let verdict = torture(&arguments);
    verdict.passes();
    assert!(!verdict.output.contains("passed, rounds: 1,"), "{verdict:?}");
}

// ---- broken servers ----

#[test]
fn lost_bytes_are_seen() {
    let server = serve(|_, mut client| {
        let mut position = 0;
        each_chunk(&mut client, |client, chunk| {
            let lost = position <= 10_000 && 10_000 < position + chunk.len();
            position += chunk.len();
            client.write_all(&chunk[if lost { 3.min(chunk.len()) } else { 0 }..])
        });
    });
    let verdict = torture(&[&server, "--only", "integrity", "--clients", "5", "--patience", "2s"]);
    verdict.fails("integrity");
}

#[test]
fn a_changed_byte_is_seen() {
    let server = serve(|_, mut client| change_a_byte(&mut client));
    let verdict = torture(&[&server, "--only", "integrity", "--clients", "5"]);
    verdict.fails("integrity");
    assert!(verdict.output.contains("as byte 5000, seen: 0x"), "{verdict:?}");
}

#[test]
fn bytes_of_another_connection_are_seen_and_named() {
    // The first two connections ask whether there is an echo server. The third is a canary, whose bytes others get.
    let canary = Arc::new(Mutex::new(Vec::new()));
    let server = serve(move |number, mut client| {
        each_chunk(&mut client, |client, chunk| {
            let mut canary = canary.lock().unwrap();
            let mut chunk = chunk.to_vec();
            if number == 2 && chunk.len() >= 100 {
                canary.clone_from(&chunk);
            } else if number > 2 && chunk.len() >= canary.len() {
                chunk[..canary.len()].copy_from_slice(&canary);
            }
            client.write_all(&chunk)
        });
    });
    let verdict = torture(&[&server, "--only", "slow-readers", "--clients", "5"]);
    verdict.fails("slow-readers");
    assert!(verdict.output.contains("which is that of canary, byte "), "{verdict:?}");
}

#[test]
fn invented_bytes_are_detected() {
    let server = serve(|number, mut client| {
        each_chunk(&mut client, |client, chunk| {
            client.write_all(chunk)?;
            if number > 2 { client.write_all(b"!") } else { Ok(()) }
        });
    });
    let verdict = torture(&[&server, "--only", "half-close", "--clients", "5"]);
    verdict.fails("half-close");
}

#[test]
fn a_tail_dropped_at_the_half_close_is_seen() {
    let server = serve(|_, mut client| {
        // The last chunk waits a little for another one, and is forgotten if the end comes instead.
        client.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (mut buffer, mut held) = ([0; 4096], Vec::new());
        loop {
            let read = client.read(&mut buffer);
            match read {
                Ok(0) => return,
                Ok(_) | Err(_) if client.write_all(&held).is_err() => return,
                Ok(n) => held = buffer[..n].to_vec(),
                Err(_) => held.clear(),
            }
        }
    });
    let verdict = torture(&[&server, "--only", "half-close", "--clients", "5"]);
    verdict.fails("half-close");
    assert!(verdict.output.contains("seen: the end"), "{verdict:?}");
}

#[test]
fn an_end_that_never_comes_is_seen() {
    let kept = Mutex::new(Vec::new());
    let server = serve(move |_, mut client| {
        each_chunk(&mut client, |client, chunk| client.write_all(chunk));
        kept.lock().unwrap().push(client);
    });
    let arguments = [&server, "--only", "half-close", "--clients", "5", "--patience", "500ms"];
    let verdict = torture(&arguments);
    verdict.fails("half-close");
    assert!(verdict.output.contains("expected the end within 0.5 s"), "{verdict:?}");
}

#[test]
fn a_server_that_stops_accepting_is_seen() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for _ in 0..20 {
            echo_on_a_thread(listener.accept().unwrap().0);
        }
        loop {
            std::thread::park(); // with the listener open
        }
    });
    let verdict = torture(&[&server, "--only", "churn", "--clients", "5", "--patience", "1s"]);
    verdict.fails("churn");
    assert!(verdict.output.contains("expected an answer within 1 s and "), "{verdict:?}");
}

#[test]
fn a_server_with_time_for_one_client_only_starves_the_canary() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            each_chunk(&mut client, |client, chunk| client.write_all(chunk));
        }
    });
    let verdict = torture(&[&server, "--only", "flood", "--clients", "1", "--patience", "1s"]);
    verdict.fails("flood");
}

#[test]
fn resets_by_the_server_are_seen() {
    let server = serve(|number, mut client| {
        let mut left = if number > 2 { 1_000 } else { usize::MAX };
        each_chunk(&mut client, |client, chunk| {
            left = left.saturating_sub(chunk.len());
            if left == 0 { Err(std::io::ErrorKind::Other.into()) } else { client.write_all(chunk) }
        });
        if left == 0 {
            // With bytes unread, or without: both are too early.
            let _ = client.shutdown(Shutdown::Both);
        }
    });
    let verdict = torture(&[&server, "--only", "integrity", "--clients", "5"]);
    verdict.fails("integrity");
}

// ---- broken servers under TLS ----

#[test]
fn an_end_without_close_notify_is_seen() {
    for is_clean in [true, false] {
        let (server, _) = serve_tls(move |_, mut client| {
            each_chunk(&mut client, |client, chunk| client.write_all(chunk));
            if is_clean {
                client.conn.send_close_notify();
                let _ = client.conn.complete_io(&mut client.sock);
            }
        });
        let verdict = torture(&[&server, "--only", "half-close", "--clients", "5"]);
        if is_clean {
            verdict.passes();
        } else {
            verdict.fails("half-close");
            assert!(verdict.output.contains("close_notify"), "{verdict:?}");
        }
    }
}

#[test]
fn a_changed_byte_is_seen_under_tls() {
    let (server, _) = serve_tls(|_, mut client| change_a_byte(&mut client));
    let verdict = torture(&[&server, "--only", "integrity", "--clients", "5"]);
    verdict.fails("integrity");
    assert!(verdict.output.contains("as byte 5000, seen: 0x"), "{verdict:?}");
}

#[test]
fn a_handshake_that_never_ends_is_seen() {
    let begun = Mutex::new(Vec::new());
    let (server, _) = serve_tls(move |number, mut client| {
        // The first connection shows that it listens, and the second that it is an echo server.
        if number < 2 {
            each_chunk(&mut client, |client, chunk| client.write_all(chunk));
        } else {
            begun.lock().unwrap().push(client);
        }
    });
    let verdict = torture(&[&server, "--only", "churn", "--clients", "5", "--patience", "500ms"]);
    verdict.fails("churn");
    assert!(verdict.output.contains("expected a connection within 0.5 s"), "{verdict:?}");
}

#[test]
fn a_server_without_tls_is_reported_in_one_line() {
    let server = serve(|_, client| echo_on_a_thread(client));
    refuses(&[&format!("tls:{server}")], 1, &format!("tls:{server} is no echo server: "));
}

#[test]
fn a_certificate_counts_only_with_an_authority() {
    let echo = |_, mut client: Secured| each_chunk(&mut client, |client, chunk| client.write_all(chunk));
    let ((server, own), (_, others)) = (serve_tls(echo), serve_tls(echo));
    let named = server.replace("127.0.0.1", "localhost");
    let [own, others] = [("own", own), ("others", others)].map(|(name, pem)| {
        let path = std::env::temp_dir().join(format!("torture-ca-{name}-{}", std::process::id()));
        std::fs::write(&path, pem).unwrap();
        path.into_os_string().into_string().unwrap()
    });
    torture(&[&server, "--only", "churn", "--clients", "5"]).passes();
    torture(&[&named, "--ca", &own, "--only", "churn", "--clients", "5"]).passes();
    refuses(&[&named, "--ca", &others], 1, "invalid peer certificate");
    // It is for localhost, and not for this address.
    refuses(&[&server, "--ca", &own], 1, "invalid peer certificate");
    refuses(&[&server, "--ca", "/nonexistent"], 2, "/nonexistent: ");
    refuses(&[server.trim_start_matches("tls:"), "--ca", &own], 2, "--ca is for tls:ADDR");
    refuses(&["tls:udp:127.0.0.1:1"], 2, "TLS is for connections");
    for path in [own, others] {
        std::fs::remove_file(path).unwrap();
    }
}

// ---- broken servers of datagrams ----

#[test]
fn a_changed_byte_of_a_datagram_is_seen() {
    let server = serve_datagrams(|socket, number, datagram, peer| {
        let mut datagram = datagram.to_vec();
        if let [.., last] = &mut datagram[..]
            && number > 100
        {
            *last ^= 0x10;
        }
        socket.send_to(&datagram, peer).is_ok()
    });
    let verdict = torture(&[&server, "--only", "datagrams", "--clients", "5"]);
    verdict.fails("datagrams");
    assert!(verdict.output.contains(" datagrams without an answer, seen: "), "{verdict:?}");
}

#[test]
fn a_datagram_that_is_cut_off_is_seen() {
    let server = serve_datagrams(|socket, number, datagram, peer| {
        let cut_off = if number > 100 { datagram.len().saturating_sub(1) } else { datagram.len() };
        socket.send_to(&datagram[..cut_off], peer).is_ok()
    });
    let verdict = torture(&[&server, "--only", "datagrams", "--clients", "5"]);
    verdict.fails("datagrams");
}

#[test]
fn a_datagram_of_another_client_is_seen_and_named() {
    let mut previous: Option<Vec<u8>> = None;
    let server = serve_datagrams(move |socket, number, datagram, peer| {
        let alien = previous.replace(datagram.to_vec()).filter(|alien| number > 100 && alien.len() >= 100);
        socket.send_to(&alien.unwrap_or(datagram.to_vec()), peer).is_ok()
    });
    let verdict = torture(&[&server, "--only", "datagrams", "--clients", "5"]);
    verdict.fails("datagrams");
    assert!(verdict.output.contains(", which is that of c"), "of a client or the canary: {verdict:?}");
}

#[test]
fn an_answer_that_comes_twice_is_seen() {
    let server = serve_datagrams(|socket, number, datagram, peer| {
        let again = number > 100 && datagram.len() > 100;
        socket.send_to(datagram, peer).is_ok() && (!again || socket.send_to(datagram, peer).is_ok())
    });
    let verdict = torture(&[&server, "--only", "repeats", "--clients", "5"]);
    verdict.fails("repeats");
    assert!(verdict.output.contains("which is its own, byte "), "{verdict:?}");
}

#[test]
fn a_server_that_falls_silent_is_seen_and_one_that_loses_datagrams_passes() {
    let silent =
        serve_datagrams(|socket, number, datagram, peer| number > 100 || socket.send_to(datagram, peer).is_ok());
    let arguments = [&silent, "--only", "datagrams", "--clients", "5", "--patience", "1s"];
    let verdict = torture(&arguments);
    verdict.fails("datagrams");
    assert!(verdict.output.contains("expected an answer within 1 s"), "{verdict:?}");

    let losing =
        serve_datagrams(|socket, number, datagram, peer| number % 10 == 9 || socket.send_to(datagram, peer).is_ok());
    let verdict = torture(&[&losing, "--only", "datagrams", "--clients", "5"]);
    verdict.passes();
    let unanswered = verdict.row("datagrams").split('|').nth(5).unwrap().trim();
    assert_ne!(unanswered, "0", "{verdict:?}");
}

#[test]
fn late_answers_to_clients_that_have_gone_blame_no_other() {
    let (answer, answers) = channel::<(Instant, Vec<u8>, UdpSocket, SocketAddr)>();
    std::thread::spawn(move || {
        for (due, datagram, socket, peer) in answers {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let _ = socket.send_to(&datagram, peer);
        }
    });
    let server = serve_datagrams(move |socket, _, datagram, peer| {
        let due = Instant::now() + Duration::from_millis(100);
        answer.send((due, datagram.to_vec(), socket.try_clone().unwrap(), peer)).is_ok()
    });
    torture(&[&server, "--only", "peer-churn", "--only", "peer-crowd", "--clients", "40"]).passes();
}

// ---- the process ----

#[test]
#[cfg(target_os = "linux")]
fn leaked_descriptors_are_seen() {
    let leaking = "import os, socketserver
class Leaking(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
        os.dup(0)
socketserver.ThreadingTCPServer.request_queue_size = 100
with socketserver.ThreadingTCPServer(('127.0.0.1', 0), Leaking) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()";
    let mut python = Command::new("python3");
    python.args(["-c", leaking]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let Ok(server) = python.spawn() else { return eprintln!("skipped: there is no python3") };
    let mut server = Process(server);
    let mut port = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let (address, pid) = (format!("127.0.0.1:{}", port.trim()), server.0.id().to_string());
    let arguments = [&address, "--pid", &pid, "--only", "churn", "--clients", "2", "--patience", "2s"];
    let verdict = torture(&arguments);
    assert_eq!(verdict.code, Some(1), "{verdict:?}");
    assert!(verdict.output.contains(" descriptors as at the start, seen: "), "{verdict:?}");
}

// ---- nothing to try ----

#[test]
fn a_server_that_does_not_echo_is_reported_in_one_line() {
    let greets = serve(|_, mut client| drop(client.write_all(b"welcome\n")));
    let ends = serve(|_, client| drop(client));
    let (silence, silent) = channel();
    let silent_one = serve(move |_, client| drop(silence.send(client)));
    for (server, code) in [(&greets, 1), (&ends, 1), (&silent_one, 1)] {
        refuses(&[server, "--patience", "500ms"], code, &format!("{server} is no echo server: "));
    }
    drop(silent);
}

#[test]
fn a_closed_port_is_reported_in_one_line() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    refuses(&[&closed], 1, &format!("cannot connect to {closed}: "));
    refuses(&["unix:/nonexistent/socket"], 1, "cannot connect to unix:/nonexistent/socket: ");
    refuses(&["unix-datagram:/nonexistent/socket"], 1, "cannot connect to unix-datagram:/nonexistent/socket: ");
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    refuses(&[&format!("udp:{closed}")], 1, &format!("udp:{closed} is no echo server: "));
}

#[test]
fn an_invalid_or_remote_address_is_reported_in_one_line() {
    for nonsense in ["nonsense", "127.0.0.1:99999", "no-such-host.invalid:1", "udp:nonsense"] {
        refuses(&[nonsense], 2, nonsense);
    }
    for remote in ["192.0.2.1:7", "[2001:db8::1]:7", "0.0.0.0:7"] {
        refuses(&[remote], 2, "--allow-remote");
        refuses(&[remote], 2, remote);
        refuses(&[&format!("udp:{remote}")], 2, remote);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_missing_process_is_reported_in_one_line() {
    let server = serve(|_, client| echo_on_a_thread(client));
    refuses(&[&server, "--pid", "4194305"], 2, "cannot watch process 4194305");
}

#[test]
fn wrong_usage_is_status_2() {
    for wrong in [
        &["--only", "nothing"][..],
        &["--clients", "0"],
        &["--duration", "soon"],
        &["--no-such-option"],
        &["--serve", "nothing"],
        &["udp:127.0.0.1:1", "--only", "churn"],
    ] {
        let verdict = torture(wrong);
        assert_eq!(verdict.code, Some(2), "{verdict:?}");
    }
}

#[track_caller]
fn refuses(arguments: &[&str], code: i32, says: &str) {
    let verdict = torture(arguments);
    assert_eq!(verdict.code, Some(code), "{verdict:?}");
    assert_eq!(verdict.log.lines().count(), 1, "{verdict:?}");
    assert!(verdict.log.contains(says), "{verdict:?}");
    assert_eq!(verdict.output, "", "{verdict:?}");
}

#[test]
fn ctrl_c_reports_the_findings_so_far_and_leaves_no_server() {
    let mut child = program().args(["--clients", "3", "--duration", "1h"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut torture = Process(child);
    let mut first = String::new();
    output.read_line(&mut first).unwrap();
    let address: SocketAddr = first.split([' ', ',']).nth(1).unwrap().parse().unwrap();
    assert!(TcpStream::connect(address).is_ok());

    assert!(signal("INT", torture.0.id()));
    let rest = read_all(output).recv_timeout(DEADLINE).expect("it ends");
    assert!(rest.contains("interrupted, rounds: 1, --seed "), "{rest}");
    assert!(rest.contains("| integrity "), "{rest}");
    assert_eq!(torture.0.wait().unwrap().code(), Some(130));
    assert!(TcpStream::connect(address).is_err(), "the server has ended as well");
}

// ---- the program ----

/// How a run ended.
#[derive(Debug)]
struct Verdict {
    code: Option<i32>,
    output: String,
    log: String,
}

impl Verdict {
    #[track_caller]
    fn passes(&self) {
        assert_eq!(self.code, Some(0), "{self:?}");
    }

    /// Not only is the status right, but the trial is named, with what was expected.
    #[track_caller]
    fn fails(&self, trial: &str) {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert!(self.row(trial).ends_with("FAILED |"), "{self:?}");
        assert!(self.output.contains(&format!("\n{trial}: ")) && self.output.contains("expected "), "{self:?}");
    }

    /// The line of the table about a trial.
    #[track_caller]
    fn row(&self, trial: &str) -> &str {
        let mut lines = self.output.lines();
        lines.find(|line| line.starts_with(&format!("| {trial} "))).unwrap_or_else(|| panic!("{trial}: {self:?}"))
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_torture"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Runs it to its end.
#[track_caller]
fn torture(arguments: &[&str]) -> Verdict {
    let mut child = program().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (output, log) = (read_all(child.stdout.take().unwrap()), read_all(child.stderr.take().unwrap()));
    let mut process = Process(child);
    let output = output.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("{arguments:?} does not end"));
    let log = log.recv_timeout(DEADLINE).expect("it has ended");
    Verdict { code: process.0.wait().unwrap().code(), output, log }
}

/// A running program, killed when the test is done with it.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn signal(name: &str, pid: u32) -> bool {
    Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().is_ok_and(|status| status.success())
}

/// Everything up to the end of the stream, which is when the program ends.
fn read_all(mut stream: impl Read + Send + 'static) -> Receiver<String> {
    let (end, ended) = channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        end.send(text)
    });
    ended
}

// ---- parts of servers ----

/// Serves every connection, with its number, on a thread of its own.
fn serve(handle: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let handle = Arc::new(handle);
    std::thread::spawn(move || {
        for (number, client) in listener.incoming().enumerate() {
            let (client, handle) = (client.unwrap(), handle.clone());
            std::thread::spawn(move || handle(number, client));
        }
    });
    address
}

type Secured = StreamOwned<ServerConnection, TcpStream>;

/// The same under TLS. Returns its certificate as well, in PEM.
fn serve_tls(handle: impl Fn(usize, Secured) + Send + Sync + 'static) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = made.cert.pem();
    let key = PrivateKeyDer::from(made.signing_key);
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.into()], key);
    let config = Arc::new(config.unwrap());
    let address = serve(move |number, client| {
        handle(number, StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), client));
    });
    (format!("tls:{address}"), certificate)
}

/// Lets `answer` answer every datagram, with its number, until it says no.
fn serve_datagrams(mut answer: impl FnMut(&UdpSocket, usize, &[u8], SocketAddr) -> bool + Send + 'static) -> String {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = format!("udp:{}", socket.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 65_535];
        for number in 0.. {
            match socket.recv_from(&mut buffer) {
                Ok((n, peer)) if !answer(&socket, number, &buffer[..n], peer) => break,
                // ECONNREFUSED: a client has gone.
                _ => {}
            }
        }
    });
    address
}

fn echo_on_a_thread(mut client: TcpStream) {
    std::thread::spawn(move || each_chunk(&mut client, |client, chunk| client.write_all(chunk)));
}

/// Until the end, or an error.
/// Echoes, with another byte at 5,000.
fn change_a_byte(client: &mut (impl Read + Write)) {
    let mut position = 0;
    each_chunk(client, |client, chunk| {
        let mut chunk = chunk.to_vec();
        if (position..position + chunk.len()).contains(&5_000) {
            chunk[5_000 - position] ^= 0x10;
        }
        position += chunk.len();
        client.write_all(&chunk)
    });
}

fn each_chunk<S: Read>(client: &mut S, mut act: impl FnMut(&mut S, &[u8]) -> std::io::Result<()>) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = client.read(&mut buffer) {
        if act(client, &buffer[..n]).is_err() {
            break;
        }
    }
}
