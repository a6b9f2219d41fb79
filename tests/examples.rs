//! The examples as users meet them: started as programs, talked to over sockets, stopped with signals.
//!
//! `cargo test` builds the examples first; `cargo test --test examples` alone does not, and then the tests are skipped.

#![cfg(unix)]
#![allow(clippy::disallowed_methods, reason = "deadlines of tests are real time")]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, PipeReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Long enough for a busy machine. Nothing waits for it to pass unless the test fails.
const DEADLINE: Duration = Duration::from_secs(30);

// ---- echo ----

#[test]
fn echo_returns_any_number_of_bytes_and_the_end() {
    let Some(mut echo) = start("echo", &["127.0.0.1:0"]) else { return };
    for size in [0, 1, 2, 1_000, 65_535, 65_536, 65_537, 1 << 20, 8 << 20] {
        assert_same(&exchange(echo.connect(), &noise(size)), &noise(size));
    }
    echo.stops_in_good_order();
}

#[test]
fn echo_serves_many_at_once() {
    let Some(mut echo) = start("echo", &["127.0.0.1:0"]) else { return };
    let mut clients: Vec<_> = (0..200).map(|_| echo.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.write_all(format!("{number:03}").as_bytes()).unwrap();
    }
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(read_exact(client, 3), format!("{number:03}").as_bytes());
    }
    drop(clients);
    echo.stops_in_good_order();
}

#[test]
fn echo_closes_an_idle_connection() {
    let Some(echo) = start("echo", &["127.0.0.1:0", "--timeout", "0.2"]) else { return };
    let begun = Instant::now();
    assert_eq!(read_to_end(echo.connect()), b"");
    assert!(begun.elapsed() >= Duration::from_millis(200));
}

#[test]
fn echo_makes_clients_wait_above_the_maximum() {
    let Some(echo) = start("echo", &["127.0.0.1:0", "--max-connections", "1"]) else { return };
    let mut first = echo.connect();
    first.write_all(b"a").unwrap();
    assert_eq!(read_exact(&mut first, 1), b"a");
    let mut second = echo.connect();
    second.write_all(b"b").unwrap();
    second.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(second.read(&mut [0]).is_err(), "it is not its turn");
    drop(first);
    second.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(read_exact(&mut second, 1), b"b");
}

// ---- starting ----

#[test]
fn an_address_that_cannot_be_had_is_one_line_and_status_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for name in ["echo", "timestamp", "chat"] {
        for address in [&taken, "127.0.0.1:99999", "nonsense", "", "no-such-host.invalid:1"] {
            refuses(name, &[address], address);
        }
    }
    for bad in [&taken, "127.0.0.1:99999", "nonsense"] {
        refuses("proxy", &[bad, "127.0.0.1:1"], bad);
    }
    for bad in ["127.0.0.1:99999", "nonsense", "no-such-host.invalid:1"] {
        refuses("proxy", &["127.0.0.1:0", bad], bad);
        refuses("client", &[bad], bad);
    }
}

#[track_caller]
fn refuses(name: &str, arguments: &[&str], names: &str) {
    let Some(mut command) = example(name) else { return };
    let mut program = Program::spawn(command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()));
    assert_eq!(program.exit().code(), Some(1), "{name} {arguments:?}");
    let lines: Vec<String> = program.log.lines().collect();
    assert_eq!(lines.len(), 1, "{name} {arguments:?}: {lines:?}");
    assert!(lines[0].contains(names), "{name} {arguments:?}: {lines:?}");
    assert_eq!(program.output.lines().count(), 0);
}

#[test]
fn usage_is_status_2_and_help_status_0() {
    for name in ["echo", "timestamp", "chat", "proxy", "client"] {
        for (argument, status) in [("--no-such-option", 2), ("--help", 0)] {
            let Some(mut command) = example(name) else { return };
            let mut program = Program::spawn(command.arg(argument).stdout(Stdio::piped()).stderr(Stdio::piped()));
            assert_eq!(program.exit().code(), Some(status), "{name} {argument}");
            let said = if status == 0 { &program.output } else { &program.log };
            assert!(said.lines().any(|line| line.contains("Usage: ")), "{name} {argument}");
        }
    }
    for wrong in [["--timeout", "soon"], ["--timeout", "-1"], ["--grace", "nan"], ["--max-connections", "0"]] {
        let Some(mut command) = example("echo") else { return };
        let mut program = Program::spawn(command.args(wrong).stderr(Stdio::piped()));
        assert_eq!(program.exit().code(), Some(2), "{wrong:?}");
    }
}

// ---- stopping ----

#[test]
fn a_signal_lets_data_in_flight_arrive() {
    for signal in ["TERM", "INT"] {
        let Some(mut echo) = start("echo", &["127.0.0.1:0"]) else { return };
        let mut client = echo.connect();
        // As much as the kernel takes while nobody reads, so that all of it is on the way when the signal comes.
        let data = noise(1 << 20);
        client.write_all(&data).unwrap();
        echo.signal(signal);
        echo.log.until("stopping");
        assert_same(&read_to_end(client), &data);
        assert_eq!(echo.exit().code(), Some(0));
    }
}

#[test]
fn a_second_signal_cuts_it_short() {
    let Some(mut echo) = start("echo", &["127.0.0.1:0", "--grace", "600"]) else { return };
    let mut client = echo.connect();
    // It writes until nobody takes more: the server then holds bytes that it cannot get rid of.
    client.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    while client.write_all(&[0; 65_536]).is_ok() {}
    echo.signal("TERM");
    echo.log.until("stopping");
    echo.signal("TERM");
    assert_eq!(echo.exit().code(), Some(0));
}

#[test]
fn a_grace_ends() {
    let Some(mut echo) = start("echo", &["127.0.0.1:0", "--grace", "0.2"]) else { return };
    let mut client = echo.connect();
    client.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    while client.write_all(&[0; 65_536]).is_ok() {}
    echo.signal("INT");
    assert_eq!(echo.exit().code(), Some(0));
}

#[test]
fn a_stopped_and_continued_server_goes_on() {
    let Some(mut echo) = start("echo", &["127.0.0.1:0", "--timeout", "0.5"]) else { return };
    let mut client = echo.connect();
    client.write_all(b"before").unwrap();
    assert_eq!(read_exact(&mut client, 6), b"before");
    echo.signal("STOP");
    client.write_all(b"meanwhile").unwrap();
    client.set_read_timeout(Some(Duration::from_millis(800))).unwrap();
    assert!(client.read(&mut [0]).is_err(), "nobody answers while it is stopped");
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    echo.signal("CONT");
    // Longer than the idle timeout has passed, but what came meanwhile counts first.
    assert_eq!(read_exact(&mut client, 9), b"meanwhile");
    drop(client);
    echo.stops_in_good_order();
}

// ---- standard output and error ----

#[test]
fn echo_does_without_standard_output_and_error() {
    let Some(echo) = example("echo") else { return };
    for redirection in [">&- 2>&-", ">/dev/full 2>/dev/full", "<&- >&- 2>&-"] {
        let address = free_address();
        let mut shell = Command::new("sh");
        let script = format!("exec '{}' {address} --log-level trace {redirection}", echo.get_program().display());
        let mut program = Program::spawn(shell.args(["-c", &script]));
        program.address = Some(address);
        assert_eq!(exchange(program.connect_when_up(), b"hello"), b"hello", "{redirection}");
        program.stops_in_good_order();
    }
}

#[test]
fn echo_does_with_a_pipe_that_is_full_and_never_read() {
    let Some(mut echo) = example("echo") else { return };
    let (unread, full) = full_pipe();
    let address = free_address();
    let command = echo.args([&address.to_string(), "--log-level", "trace"]);
    let mut program = Program::spawn(command.stdout(full.try_clone().unwrap()).stderr(full));
    program.address = Some(address);
    assert_eq!(exchange(program.connect_when_up(), b"hello"), b"hello");
    let begun = Instant::now();
    program.stops_in_good_order();
    assert!(begun.elapsed() < Duration::from_secs(5), "it does not wait for its last words to be read");
    drop(unread);
}

#[test]
fn an_error_nobody_reads_does_not_block() {
    let Some(mut echo) = example("echo") else { return };
    let (unread, full) = full_pipe();
    let mut program = Program::spawn(echo.arg("nonsense").stderr(full.try_clone().unwrap()));
    assert_eq!(program.exit().code(), Some(1));
    let Some(mut echo) = example("echo") else { return };
    let mut program = Program::spawn(echo.arg("--help").stdout(full));
    assert_eq!(program.exit().code(), Some(0));
    drop(unread);
}

#[test]
fn a_reader_that_goes_away_does_no_harm() {
    let Some(mut echo) = start("echo", &["127.0.0.1:0", "--log-level", "trace"]) else { return };
    // From here on its output and its log are broken pipes.
    echo.output = Lines::none();
    echo.log = Lines::none();
    for _ in 0..3 {
        assert_eq!(exchange(echo.connect(), b"hello"), b"hello");
    }
    echo.stops_in_good_order();
}

// ---- timestamp and its clients ----

#[test]
fn timestamp_answers_with_the_time_of_day() {
    let Some(mut timestamp) = start("timestamp", &["127.0.0.1:0", "--log-level", "debug"]) else { return };
    assert_is_timestamp(&text(exchange(timestamp.connect(), b"hello")), "hello");
    assert_is_timestamp(&text(exchange(timestamp.connect(), b"\x1b[2J\n")), "\x1b[2J\n");
    assert!(timestamp.log.until("\\u{1b}[2J\\n").is_ascii(), "what a peer sends is not logged raw");
    timestamp.stops_in_good_order();
}

#[test]
fn client_prints_an_answer_to_each_line() {
    let Some(mut timestamp) = start("timestamp", &["127.0.0.1:0"]) else { return };
    for input in ["hello\n grüezi \n\nnot sent\n", "hello\r\n grüezi\r\n", "hello\n grüezi"] {
        let Some(mut command) = example("client") else { return };
        let lines = talk(command.arg(timestamp.address.unwrap().to_string()), input);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert_is_timestamp(lines[0].strip_prefix("server: ").unwrap(), "hello");
        assert_is_timestamp(lines[1].strip_prefix("server: ").unwrap(), " grüezi");
    }
    timestamp.stops_in_good_order();
}

#[test]
fn client_tells_that_the_server_is_gone() {
    let Some(mut command) = example("client") else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let command = command.arg(&address).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program = Program::spawn(command);
    let (mut server, _) = listener.accept().unwrap();
    program.input.take().unwrap().write_all(b"hello\n").unwrap();
    assert_eq!(read_exact(&mut server, 5), b"hello");
    drop(server);
    assert_eq!(program.exit().code(), Some(1));
    assert!(program.log.until("closed the connection").contains(&address));
}

/// As a tutorial on Python's socketserver writes it.
const PYTHON_CLIENT: &str = "
import socket
client = socket.socket()
client.connect(('localhost', 9999))
while True:
    data = input()
    if not data:
        break
    client.send(data.encode('utf-8'))
    server_data = client.recv(1024)
    print('server:', server_data.decode())
client.close()
";

#[test]
fn a_client_in_python_is_answered() {
    let Some(mut timestamp) = start("timestamp", &["127.0.0.1:0"]) else { return };
    if Command::new("python3").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return eprintln!("skipped: there is no python3");
    }
    let script = PYTHON_CLIENT.replace("9999", &timestamp.address.unwrap().port().to_string());
    let lines = talk(Command::new("python3").args(["-c", &script]), "hello\nworld\n\n");
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_is_timestamp(lines[0].strip_prefix("server: ").unwrap(), "hello");
    assert_is_timestamp(lines[1].strip_prefix("server: ").unwrap(), "world");
    timestamp.stops_in_good_order();
}

/// Runs a client, gives it its input, and returns what it printed.
#[track_caller]
fn talk(command: &mut Command, input: &str) -> Vec<String> {
    let mut client = Program::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    client.input.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert_eq!(client.exit().code(), Some(0));
    client.output.lines().collect()
}

/// `[sent] Mon Nov 23 03:16:05 2026`
#[track_caller]
fn assert_is_timestamp(reply: &str, sent: &str) {
    let time = reply.strip_prefix(&format!("[{sent}] ")).unwrap_or_else(|| panic!("{reply:?}"));
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    assert_eq!(time.len(), 24, "{reply:?}");
    assert!(["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].contains(&&time[..3]), "{reply:?}");
    assert!(shape[7..].replace("  9 ", " 99 ") == " 99 99:99:99 9999", "{reply:?}");
}

// ---- chat ----

#[test]
fn chat_tells_the_others() {
    let Some(mut chat) = start("chat", &["127.0.0.1:0"]) else { return };
    let mut ann = Chatter::enter(&chat, "ann");
    let mut bob = Chatter::enter(&chat, "  Bob \r");
    ann.hears("* Bob joined");
    let mut visitor = Chatter::connect(&chat);

    ann.says("hello");
    bob.hears("ann: hello");
    bob.says("\x1b[2Jgr\u{fc}ezi\u{7}\u{202e}");
    ann.hears("Bob: \\u{1b}[2Jgr\u{fc}ezi\\u{7}\\u{202e}");
    bob.says("/who");
    bob.hears("* here: Bob, ann");
    bob.says("/no");
    bob.hears("* no such command: try /help");

    for name in ["", "bob", "a\x1b[2J", "a: b", "* a", "/quit", &"x".repeat(33)] {
        visitor.says(name);
        assert!(visitor.line().ends_with("; what is your name?"), "{name:?}");
    }
    visitor.says("claire");
    // The first line for it: what was said before it had a name was not for it.
    visitor.hears("* welcome, claire; 3 here");
    ann.hears("* claire joined");
    bob.hears("* claire joined");

    bob.says("/quit");
    bob.hears_the_end();
    ann.hears("* Bob left");
    visitor.hears("* Bob left");
    drop(visitor);
    ann.hears("* claire left");

    chat.signal("TERM");
    ann.hears("* the room closes");
    ann.hears_the_end();
    assert_eq!(chat.exit().code(), Some(0));
}

#[test]
fn chat_drops_a_slow_member_and_no_other() {
    let Some(mut chat) = start("chat", &["127.0.0.1:0"]) else { return };
    let mut ann = Chatter::enter(&chat, "ann");
    let mut bob = Chatter::enter(&chat, "bob");
    ann.hears("* bob joined");
    let slow = Chatter::enter(&chat, "slow");
    ann.hears("* slow joined");
    bob.hears("* slow joined");
    // Ann talks no faster than Bob listens. The kernel holds some megabytes for the slow one, the room 256 KiB.
    let text = "x".repeat(4_000);
    let dropped = (0..20_000).any(|_| {
        ann.says(&text);
        match bob.line() {
            line if line == format!("ann: {text}") => false,
            line => line == "* slow left (too slow)" || panic!("{line:?}"),
        }
    });
    assert!(dropped, "80 MB did not fill the buffers of one who does not read");
    ann.hears("* slow left (too slow)");
    drop(slow);
    drop((ann, bob));
    chat.stops_in_good_order();
}

struct Chatter(BufReader<TcpStream>);

impl Chatter {
    #[track_caller]
    fn connect(chat: &Program) -> Self {
        let mut chatter = Chatter(BufReader::new(chat.connect()));
        chatter.hears("* what is your name?");
        chatter
    }

    #[track_caller]
    fn enter(chat: &Program, name: &str) -> Self {
        let mut chatter = Chatter::connect(chat);
        chatter.says(name);
        assert!(chatter.line().starts_with(&format!("* welcome, {}; ", name.trim())));
        chatter
    }

    #[track_caller]
    fn says(&mut self, text: &str) {
        self.0.get_mut().write_all(format!("{text}\n").as_bytes()).unwrap();
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.strip_suffix('\n').expect("a whole line").to_owned()
    }

    #[track_caller]
    fn hears(&mut self, line: &str) {
        assert_eq!(self.line(), line);
    }

    #[track_caller]
    fn hears_the_end(&mut self) {
        assert_eq!(self.0.read(&mut [0]).unwrap(), 0);
    }
}

// ---- proxy ----

#[test]
fn proxy_carries_both_directions_and_their_ends() {
    let Some((mut echo, mut proxy)) = echo_behind_proxy(&[]) else { return };
    for size in [0, 1, 100_000, 4 << 20] {
        assert_same(&exchange(proxy.connect(), &noise(size)), &noise(size));
    }
    proxy.stops_in_good_order();
    echo.stops_in_good_order();
}

#[test]
fn proxy_tries_every_address_of_a_name() {
    let Some(echo) = start("echo", &["127.0.0.1:0"]) else { return };
    // localhost may be ::1 first, where nobody listens.
    let upstream = format!("localhost:{}", echo.address.unwrap().port());
    let Some(proxy) = start("proxy", &["127.0.0.1:0", &upstream]) else { return };
    assert_eq!(exchange(proxy.connect(), b"hello"), b"hello");
}

#[test]
fn proxy_carries_half_closes() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap().to_string();
    let Some(mut proxy) = start("proxy", &["127.0.0.1:0", &address]) else { return };

    // The upstream server ends first, and still gets what the client sends after that.
    let mut client = proxy.connect();
    let mut server = accept(&upstream);
    server.write_all(b"bye").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(client.try_clone().unwrap()), b"bye");
    client.write_all(b"after the end").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(server), b"after the end");
    drop(client);
    proxy.stops_in_good_order();
}

#[test]
fn proxy_carries_each_direction_by_itself() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap().to_string();
    let Some(mut proxy) = start("proxy", &["127.0.0.1:0", &address]) else { return };
    let mut client = proxy.connect();
    let server = accept(&upstream);
    let down = noise(16 << 20);
    let up: Vec<u8> = down.iter().rev().copied().collect();
    // The upstream server reads and writes at once; the client sends everything before it reads.
    let expected = down.clone();
    let serving = std::thread::spawn(move || exchange(server, &down));
    client.write_all(&up).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_same(&read_to_end(client), &expected);
    assert_same(&serving.join().unwrap(), &up);
    proxy.stops_in_good_order();
}

#[test]
fn proxy_carries_a_reset() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap().to_string();
    let Some(mut proxy) = start("proxy", &["127.0.0.1:0", &address]) else { return };
    let mut client = proxy.connect();
    client.write_all(b"unread").unwrap();
    let server = accept(&upstream);
    server.peek(&mut [0]).unwrap();
    drop(server); // With unread input: that is a reset.
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    proxy.stops_in_good_order();
}

#[test]
fn proxy_tells_that_the_upstream_server_is_unreachable() {
    let nobody = free_address().to_string();
    let Some(mut proxy) = start("proxy", &["127.0.0.1:0", &nobody]) else { return };
    let mut client = proxy.connect();
    // It may be closed before this arrives, but never by a reset that hides the end.
    let _ = client.write_all(b"hello");
    assert_eq!(read_to_end(client), b"");
    assert!(proxy.log.until("cannot connect").contains(&nobody));
    proxy.stops_in_good_order();
}

#[test]
fn proxy_finishes_a_transfer_when_told_to_stop() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap().to_string();
    let Some(mut proxy) = start("proxy", &["127.0.0.1:0", &address]) else { return };
    let mut client = proxy.connect();
    let mut server = accept(&upstream);
    client.write_all(b"request").unwrap();
    assert_eq!(read_exact(&mut server, 7), b"request");
    proxy.signal("TERM");
    proxy.log.until("stopping");
    // The reply takes longer than a connection may be silent before it is asked to end.
    client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    assert!(client.read(&mut [0]).is_err(), "there is no reply yet, and no end");
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let reply = noise(4 << 20);
    let expected = reply.clone();
    let writer = std::thread::spawn(move || server.write_all(&reply).unwrap());
    client.shutdown(Shutdown::Write).unwrap();
    assert_same(&read_to_end(client), &expected);
    writer.join().unwrap();
    assert_eq!(proxy.exit().code(), Some(0));
}

#[test]
fn proxy_lets_idle_pairs_go_when_told_to_stop() {
    let Some((_echo, mut proxy)) = echo_behind_proxy(&["--grace", "600"]) else { return };
    let mut client = proxy.connect();
    client.write_all(b"hello").unwrap();
    assert_eq!(read_exact(&mut client, 5), b"hello");
    proxy.signal("TERM");
    assert_eq!(read_to_end(client), b"");
    assert_eq!(proxy.exit().code(), Some(0));
}

fn echo_behind_proxy(options: &[&str]) -> Option<(Program, Program)> {
    let echo = start("echo", &["127.0.0.1:0"])?;
    let upstream = echo.address?.to_string();
    let proxy = start("proxy", &[&["127.0.0.1:0", &upstream], options].concat())?;
    Some((echo, proxy))
}

// ---- programs ----

/// A running program, killed when the test is done with it.
struct Program {
    pid: u32,
    exited: Receiver<ExitStatus>,
    status: Option<ExitStatus>,
    input: Option<std::process::ChildStdin>,
    output: Lines,
    log: Lines,
    /// Where it says that it listens.
    address: Option<SocketAddr>,
}

/// An example, or `None` and a word about it if it was not built.
fn example(name: &str) -> Option<Command> {
    // target/debug/deps/examples-1234: the examples are two steps up.
    let mut path: PathBuf = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.extend(["examples", name]);
    if !path.exists() {
        eprintln!("skipped: {} is not there; cargo build --examples makes it", path.display());
        return None;
    }
    let mut command = Command::new(path);
    command.env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Some(command)
}

/// Starts a server and waits until it listens.
#[track_caller]
fn start(name: &str, arguments: &[&str]) -> Option<Program> {
    let mut command = example(name)?;
    let mut program = Program::spawn(command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()));
    let line = program.output.until("listening on ");
    program.address = Some(line.strip_prefix("listening on ").unwrap().parse().unwrap());
    Some(program)
}

impl Program {
    #[track_caller]
    fn spawn(command: &mut Command) -> Self {
        let mut child: Child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (exit, exited) = channel();
        let (pid, input) = (child.id(), child.stdin.take());
        let output = child.stdout.take().map_or_else(Lines::none, Lines::of);
        let log = child.stderr.take().map_or_else(Lines::none, Lines::of);
        std::thread::spawn(move || exit.send(child.wait().unwrap()));
        Program { pid, exited, status: None, input, output, log, address: None }
    }

    #[track_caller]
    fn connect(&self) -> TcpStream {
        connected(TcpStream::connect(self.address.unwrap()).unwrap())
    }

    /// For a program that cannot say when it listens.
    #[track_caller]
    fn connect_when_up(&mut self) -> TcpStream {
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
    fn signal(&self, signal: &str) {
        assert!(kill(signal, self.pid), "kill -{signal} {}", self.pid);
    }

    #[track_caller]
    fn exit(&mut self) -> ExitStatus {
        let status = self.exited.recv_timeout(DEADLINE).expect("the program ends");
        self.status = Some(status);
        status
    }

    #[track_caller]
    fn stops_in_good_order(&mut self) {
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

fn kill(signal: &str, pid: u32) -> bool {
    Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status().is_ok_and(|status| status.success())
}

/// What a program writes, line by line, without waiting for ever.
struct Lines(Receiver<String>);

impl Lines {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let (line, lines) = channel();
        std::thread::spawn(move || {
            // Ends when nobody listens: the program then has a broken pipe.
            BufReader::new(stream).lines().map_while(Result::ok).try_for_each(|text| line.send(text))
        });
        Lines(lines)
    }

    fn none() -> Self {
        Lines(channel().1)
    }

    /// The first line from here on that contains `part`.
    #[track_caller]
    fn until(&self, part: &str) -> String {
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
    fn lines(&self) -> impl Iterator<Item = String> {
        std::iter::from_fn(|| self.0.recv_timeout(DEADLINE).ok())
    }
}

/// A pipe whose writing end takes nothing more, as long as the reading end is kept.
fn full_pipe() -> (PipeReader, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut filler = writer.try_clone().unwrap();
    let (progress, filling) = channel();
    std::thread::spawn(move || while filler.write_all(&[b'.'; 512]).is_ok() && progress.send(()).is_ok() {});
    while filling.recv_timeout(Duration::from_millis(300)) != Err(RecvTimeoutError::Timeout) {}
    (reader, writer)
}

// ---- clients ----

#[track_caller]
fn connected(client: TcpStream) -> TcpStream {
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.set_write_timeout(Some(DEADLINE)).unwrap();
    client
}

#[track_caller]
fn accept(listener: &TcpListener) -> TcpStream {
    let listener = listener.try_clone().unwrap();
    let (accepted, client) = channel();
    std::thread::spawn(move || accepted.send(listener.accept().unwrap().0));
    connected(client.recv_timeout(DEADLINE).expect("a connection comes"))
}

/// Sends everything and the end while it receives everything until the end.
#[track_caller]
fn exchange(client: TcpStream, data: &[u8]) -> Vec<u8> {
    let (mut writer, data) = (client.try_clone().unwrap(), data.to_vec());
    let writing = std::thread::spawn(move || {
        writer.write_all(&data).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let received = read_to_end(client);
    writing.join().unwrap();
    received
}

#[track_caller]
fn read_to_end(mut client: TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    received
}

#[track_caller]
fn read_exact(client: &mut TcpStream, n: usize) -> Vec<u8> {
    let mut received = vec![0; n];
    client.read_exact(&mut received).unwrap();
    received
}

/// An address that nobody listens on, as far as one can tell.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Bytes without a pattern that a lost or doubled block could hide in.
fn noise(n: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..n).map(step).collect()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// As `assert_eq`, without printing megabytes.
#[track_caller]
fn assert_same(one: &[u8], other: &[u8]) {
    assert_eq!(one.len(), other.len());
    assert!(one == other, "same length, other bytes");
}
