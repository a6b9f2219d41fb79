//! The services among the examples, with the clients that people use, and with hostile ones.
//!
//! `cargo test` builds the examples first; `cargo test --test services` alone does not, and then the tests are skipped.
//! So is a test whose client is not installed; `.ci/run` installs them.

#![cfg(unix)]
#![allow(clippy::disallowed_methods, reason = "deadlines of tests are real time")]

mod browser;
#[path = "../common/directory.rs"]
mod directory;
mod dns;
#[cfg(target_os = "linux")]
mod haproxy;
mod kv;
#[cfg(target_os = "linux")]
#[path = "../common/loopback.rs"]
mod loopback;
mod mail;
#[path = "../common/programs.rs"]
mod programs;
mod restart;
mod web;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use directory::Directory;
use programs::{DEADLINE, Program, connected};

/// A client program, or `None` and a word about it if it is not installed.
fn tool(name: &str, arguments: &[&str]) -> Option<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|directory| directory.join(name).is_file()) {
        eprintln!("skipped: there is no {name}");
        return None;
    }
    let mut command = Command::new(name);
    command.args(arguments).stdin(Stdio::null());
    Some(command)
}

/// Runs a client program. Returns what it says, and requires that it succeeds.
#[track_caller]
fn said_by(command: &mut Command) -> String {
    let mut program = Program::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let said: Vec<_> = program.output.lines().collect();
    let complained: Vec<_> = program.log.lines().collect();
    let status = program.exit();
    let said = said.join("\n");
    assert!(status.success(), "{command:?}: {status}\n{said}\n{}", complained.join("\n"));
    said
}

/// A Python script with a module that may not be installed.
#[track_caller]
fn said_by_python(module: &str, script: &str, arguments: &[&str]) -> Option<String> {
    let found = tool("python3", &["-c", &format!("import {module}")])?.stderr(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        eprintln!("skipped: Python has no {module}");
        return None;
    }
    let mut arguments = arguments.to_vec();
    arguments.splice(0..0, ["-c", script]);
    Some(said_by(&mut tool("python3", &arguments)?))
}

#[track_caller]
fn write(client: &mut TcpStream, bytes: impl AsRef<[u8]>) {
    client.write_all(bytes.as_ref()).expect("the server takes it");
}

/// Requires that exactly this comes next.
#[track_caller]
fn expect(client: &mut TcpStream, expected: impl AsRef<[u8]>) {
    let expected = expected.as_ref();
    let mut got = Vec::new();
    let read = client.take(expected.len() as u64).read_to_end(&mut got);
    let (got, wanted) = (String::from_utf8_lossy(&got), String::from_utf8_lossy(expected));
    assert!(got == wanted, "{read:?}: expected {wanted:?}, got {got:?}");
}

/// Reads until the server closes or resets the connection.
#[track_caller]
fn rest(client: &mut TcpStream) -> Vec<u8> {
    let mut got = Vec::new();
    match client.read_to_end(&mut got) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        read => _ = read.expect("the server closes it"),
    }
    got
}

/// Sends a message byte by byte, with a pause before each, until the server has had enough. Returns what it said.
#[track_caller]
fn trickle(client: &mut TcpStream, message: &[u8]) -> Vec<u8> {
    let (begun, mut got) = (Instant::now(), Vec::new());
    client.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    for byte in message.iter().cycle() {
        assert!(begun.elapsed() < DEADLINE, "the server waits for ever");
        let mut buffer = [0; 1_000];
        let is_over = match client.read(&mut buffer) {
            Ok(0) => true,
            Ok(n) => {
                got.extend_from_slice(&buffer[..n]);
                false
            }
            Err(error) => !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
        };
        if is_over || client.write_all(&[*byte]).is_err() {
            break;
        }
    }
    got
}

/// xorshift64: a test that uses it prints its seed.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = std::env::var("SERVICES_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_else(|| fastrand::u64(1..));
        eprintln!("SERVICES_SEED={seed}");
        Random(seed)
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    /// Changes, removes, doubles or inserts a few bytes.
    fn spoil(&mut self, message: &[u8]) -> Vec<u8> {
        let mut message = message.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(message.len() + 1).min(message.len());
            let to = (at + self.below(8)).min(message.len());
            match self.below(4) {
                0 => _ = message.drain(at..to),
                1 => message[at..to].iter_mut().for_each(|byte| *byte = self.below(256) as u8),
                2 => message.splice(at..at, message[at..to].to_vec()).for_each(drop),
                _ => message.splice(at..at, *b"\r\n").for_each(drop),
            }
        }
        message
    }
}

/// The paths of a certificate for localhost and of its key.
fn certificate(scratch: &Directory) -> [String; 2] {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    [scratch.file("cert.pem", made.cert.pem()), scratch.file("key.pem", made.signing_key.serialize_pem())]
}

/// Ends a load when the test ends, also if it fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Connections that are reset with bytes on the way, in both directions.
#[track_caller]
fn resets(server: &Program, message: &[u8]) {
    for _ in 0..50 {
        let mut client = connected(server.connect());
        write(&mut client, message);
        // Closed with unread input, or with a linger time of zero: a reset either way.
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    }
}
