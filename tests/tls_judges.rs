//! Other implementations of TLS judge the examples: Python's ssl, openssl(1), curl, tlslite-ng. Those that are not there are
//! skipped, with a word about it.
#![cfg(all(unix, feature = "tls"))]
#![allow(clippy::disallowed_methods, reason = "deadlines of tests are real time")]

#[path = "common/mod.rs"]
mod common;
#[path = "common/programs.rs"]
mod programs;

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::process::{Command, Stdio};

use crate::common::Directory;
use crate::common::tls::{Identity, LOCALHOST, VERSIONS, authority_pem, client_config, identity};
use crate::programs::{Program, example, start, start_with};

/// Certificates in files.
struct Files {
    directory: Directory,
}

impl Files {
    fn new() -> Self {
        let files = Files { directory: Directory::new() };
        files.directory.file("ca.pem", authority_pem());
        files.put(&LOCALHOST);
        files
    }

    fn put(&self, identity: &Identity) {
        let (chain, key) = identity.pem();
        self.directory.file("chain.pem", chain);
        self.directory.file("key.pem", key);
    }

    fn path(&self, name: &str) -> String {
        self.directory.path(name)
    }

    /// An example with these certificates.
    #[track_caller]
    fn start(&self, name: &str) -> Option<Program> {
        start(name, &["127.0.0.1:0", "--tls", &self.path("chain.pem"), &self.path("key.pem")])
    }
}

/// Returns whether a program is there.
fn has(program: &str, argument: &str) -> bool {
    let found = Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let found = found.is_ok_and(|status| status.success());
    if !found {
        eprintln!("skipped: {program} {argument} does not run here");
    }
    found
}

/// Runs a client with a deadline, gives it its input line by line, each after an answer, and returns what it printed.
#[track_caller]
fn talk(command: &mut Command, dialogue: &[(&str, &str)]) -> String {
    let mut client = Program::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut said = String::new();
    let mut input = client.input.take().unwrap();
    for (sent, answer) in dialogue {
        input.write_all(sent.as_bytes()).unwrap();
        if !answer.is_empty() {
            said += &client.output.until(answer);
        }
    }
    drop(input);
    client.exit();
    said + &client.output.lines().collect::<Vec<_>>().join("\n") + &client.log.lines().collect::<Vec<_>>().join("\n")
}

/// Runs a judge with a deadline. It says by its status: 0 passed, 77 skipped, otherwise failed.
#[track_caller]
fn judge_by(judge: &[&str]) {
    let output = Command::new("timeout").arg("120").args(judge).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    match output.status.code() {
        Some(0) => println!("{said}"),
        Some(77) => eprintln!("{said}"),
        _ => panic!("{said}{}", String::from_utf8_lossy(&output.stderr)),
    }
}

#[test]
fn python_s_ssl_is_content_with_the_echo() {
    let files = Files::new();
    let Some(mut echo) = files.start("echo") else { return };
    if !has("python3", "--version") {
        return;
    }
    let address = echo.address.unwrap();
    let judge = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tls_judge.py");
    judge_by(&["python3", judge, &address.ip().to_string(), &address.port().to_string(), &files.path("ca.pem")]);
    echo.stops_in_good_order();
}

#[test]
fn fuzzed_conversations_end_at_once() {
    let files = Files::new();
    let Some(mut echo) = files.start("echo") else { return };
    // Where tlslite-ng is: a virtual environment, for example.
    let python = std::env::var("TLSLITE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    if !has(&python, "--version") {
        return;
    }
    let address = echo.address.unwrap();
    let judge = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tls_conversations.py");
    judge_by(&[&python, judge, &address.ip().to_string(), &address.port().to_string()]);
    echo.stops_in_good_order();
}

#[test]
fn openssl_is_content_with_the_echo_over_both_versions() {
    let files = Files::new();
    let Some(mut echo) = files.start("echo") else { return };
    if !has("openssl", "version") {
        return;
    }
    let address = echo.address.unwrap().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-quiet", "-no_ign_eof", "-connect", &address, "-servername", "localhost", version]);
        openssl.args(["-verify_return_error", "-verify_hostname", "localhost", "-CAfile", &files.path("ca.pem")]);
        let said = talk(&mut openssl, &[("hello\n", "hello"), ("and bye\n", "and bye")]);
        assert!(said.contains("hello"), "{said}");
    }
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-connect", &address, "-tls1_2", "-reconnect"]);
    let said = talk(&mut openssl, &[]);
    assert_eq!(said.matches("Reused, TLSv1.2").count(), 5, "{said}");
    echo.stops_in_good_order();
}

#[test]
fn openssl_is_content_with_an_rsa_certificate() {
    if !has("openssl", "version") {
        return;
    }
    let files = Files { directory: Directory::new() };
    let (chain, key) = (files.path("chain.pem"), files.path("key.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]);
    let made = openssl.args(["-keyout", &key, "-out", &chain]).stderr(Stdio::null()).status().unwrap();
    assert!(made.success());
    let Some(mut echo) = files.start("echo") else { return };
    let address = echo.address.unwrap().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-quiet", "-no_ign_eof", "-verify_return_error", "-CAfile", &chain]);
        let said = talk(openssl.args(["-connect", &address, version]), &[("hello\n", "hello")]);
        assert!(said.contains("hello"), "{said}");
    }
    echo.stops_in_good_order();
}

#[test]
fn openssl_starts_tls_as_a_mail_client() {
    let files = Files::new();
    let (chain, key) = (files.path("chain.pem"), files.path("key.pem"));
    let Some(mut server) = start("mail", &["127.0.0.1:0", "--tls", &chain, &key]) else { return };
    if !has("openssl", "version") {
        return;
    }
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-quiet", "-starttls", "smtp", "-connect", &server.address.unwrap().to_string()]);
    openssl.args(["-verify_return_error", "-CAfile", &files.path("ca.pem")]);
    let dialogue = [
        ("EHLO me\r\n", "250 "),
        ("MAIL FROM:<me@localhost>\r\n", "250"),
        ("RCPT TO:<you@localhost>\r\n", "250"),
        ("DATA\r\n", "354"),
        ("Subject: nothing\r\n\r\nhello\r\n.\r\n", "250"),
        ("QUIT\r\n", "221"),
    ];
    talk(&mut openssl, &dialogue);
    server.stops_in_good_order();
}

#[test]
fn curl_is_answered_over_https() {
    let files = Files::new();
    let Some(mut timestamp) = files.start("timestamp") else { return };
    if !has("curl", "--version") {
        return;
    }
    let port = timestamp.address.unwrap().port();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--http0.9", "--max-time", "2", "--cacert", &files.path("ca.pem")]);
    curl.args(["--resolve", &format!("localhost:{port}:127.0.0.1"), &format!("https://localhost:{port}/there")]);
    // The server does not end the connection, so curl's time does.
    let output = curl.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("[GET /there HTTP/1.1"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    timestamp.stops_in_good_order();
}

#[test]
fn a_self_signed_echo_needs_one_command() {
    let Some(mut echo) = start("echo", &["127.0.0.1:0", "--self-signed"]) else { return };
    if !has("openssl", "version") {
        return;
    }
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-quiet", "-no_ign_eof", "-connect", &echo.address.unwrap().to_string()]);
    assert!(talk(&mut openssl, &[("hello\n", "hello")]).contains("hello"));
    echo.stops_in_good_order();
}

/// A client of rustls, which is no part of the library.
fn rustls_client(socket: std::net::TcpStream) -> rustls::StreamOwned<rustls::ClientConnection, std::net::TcpStream> {
    let name = "localhost".try_into().unwrap();
    rustls::StreamOwned::new(rustls::ClientConnection::new(client_config(&VERSIONS), name).unwrap(), socket)
}

#[test]
fn new_certificates_come_with_sighup() {
    let files = Files::new();
    let Some(mut echo) = files.start("echo") else { return };
    let certificate = |echo: &Program| {
        let mut client = rustls_client(echo.connect());
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        client.conn.peer_certificates().unwrap()[0].clone().into_owned()
    };
    assert_eq!(certificate(&echo), LOCALHOST.chain[0]);
    let new = identity("localhost", |_| {});
    files.put(&new);
    echo.signal("HUP");
    echo.log.until("the certificates were replaced");
    assert_eq!(certificate(&echo), new.chain[0]);
    std::fs::write(files.directory.at("key.pem"), "nonsense").unwrap();
    echo.signal("HUP");
    echo.log.until("the certificates were not replaced: cannot use ");
    assert_eq!(certificate(&echo), new.chain[0]);
    echo.stops_in_good_order();
}

#[test]
fn the_proxy_terminates_and_starts_tls() {
    let files = Files::new();
    let much: Vec<u8> = (0..400_000u32).map(|byte| (byte >> 3) as u8).collect();
    // A client that speaks TLS, and a server that does not.
    let Some(mut plain) = start("echo", &["127.0.0.1:0"]) else { return };
    let (chain, key) = (files.path("chain.pem"), files.path("key.pem"));
    let upstream = plain.address.unwrap().to_string();
    let Some(mut proxy) = start("proxy", &["127.0.0.1:0", &upstream, "--tls", &chain, &key]) else { return };
    let mut client = rustls_client(proxy.connect());
    client.write_all(&much[..200_000]).unwrap();
    let mut back = vec![0; 200_000];
    client.read_exact(&mut back).unwrap();
    assert!(back == much[..200_000]);
    client.conn.send_close_notify();
    client.flush().unwrap();
    assert_eq!(client.read(&mut back).unwrap(), 0, "the end comes back as one of TLS");
    proxy.stops_in_good_order();
    plain.stops_in_good_order();
    // The other way round.
    let Some(mut secure) = files.start("echo") else { return };
    let upstream = secure.address.unwrap().to_string();
    let authorities = files.path("ca.pem");
    let names = ["--upstream-tls", "localhost", "--upstream-ca", &authorities];
    let Some(mut proxy) = start("proxy", &[&["127.0.0.1:0", &upstream], &names[..]].concat()) else { return };
    let mut client = proxy.connect();
    let writing = client.try_clone().unwrap();
    let all = much.clone();
    let writer = std::thread::spawn(move || {
        { &writing }.write_all(&all).unwrap();
        writing.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    client.read_to_end(&mut back).unwrap();
    writer.join().unwrap();
    assert!(back == much);
    proxy.stops_in_good_order();
    // A name that the certificate does not have.
    let names = ["--upstream-tls", "example.org", "--upstream-ca", &authorities];
    let Some(mut proxy) = start("proxy", &[&["127.0.0.1:0", &upstream], &names[..]].concat()) else { return };
    assert_eq!(proxy.connect().read(&mut [0]).unwrap_or(0), 0);
    proxy.log.until("not valid for name");
    proxy.stops_in_good_order();
    secure.stops_in_good_order();
}

#[test]
fn the_echo_serves_tls_over_unix_sockets() {
    let files = Files::new();
    let path = files.path("socket");
    let arguments = ["--unix", &path, "--tls", &files.path("chain.pem"), &files.path("key.pem")];
    let Some(mut echo) = start_with("echo", &arguments, 1) else { return };
    let name = "localhost".try_into().unwrap();
    let client = rustls::ClientConnection::new(client_config(&VERSIONS), name).unwrap();
    let mut client = rustls::StreamOwned::new(client, std::os::unix::net::UnixStream::connect(&path).unwrap());
    client.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    client.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
    drop(client);
    echo.stops_in_good_order();
}

#[test]
fn unusable_certificates_are_one_line_and_status_1() {
    let files = Files::new();
    std::fs::write(files.directory.at("nonsense"), "nonsense").unwrap();
    let (good, bad) = (files.path("chain.pem"), files.path("nonsense"));
    let (key, missing) = (files.path("key.pem"), files.path("missing"));
    for (chain, key, why) in
        [(&bad, &key, "it has no certificate"), (&good, &bad, "no items found"), (&good, &missing, "No such file")]
    {
        let Some(mut echo) = example("echo") else { return };
        let output = echo.args(["127.0.0.1:0", "--tls", chain, key]).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.starts_with("error: cannot use "), "{said}");
        assert!(said.contains(why), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}
