//! What TLS costs: memory of an idle connection, instructions, and CPU as a ratio to a raw loop over rustls.
//!
//! ```text
//! cargo bench --bench tls              10,000 connections; a few minutes
//! cargo bench --bench tls -- --quick   1,000 connections
//! ```
//!
//! The clients are in a process of their own, so that the memory is the server's alone: what its private pages have grown
//! by, divided by the number of connections. Instructions are counted by callgrind within the turns of the loop. The raw
//! loop calls rustls' unbuffered API with buffers that it keeps, and does nothing else.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::hint::black_box;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, InsufficientSizeError, UnbufferedStatus};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};
use socketserver::{
    Limits, Next, Reactor, ReactorConfig, Request, RequestHandler, Result, TcpOptions, TcpServer, TlsAcceptor,
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["clients", address, number, what] => clients(address.parse().unwrap(), number.parse().unwrap(), what),
        ["memory", number, what] => println!("{}", memory(number.parse().unwrap(), what)),
        ["count", what, number] => count(what, number.parse().unwrap()),
        [] => report(10_000),
        ["--quick" | "--test"] => report(1_000),
        _ => panic!("the only option is --quick"),
    }
}

fn report(connections: usize) {
    println!("memory of the server for each of {connections} connections, TLS 1.3, bytes:");
    for what in ["plain", "silent", "handshake", "message", "mebibyte", "hello"] {
        configs();
        // In a process of its own, so that nothing is left of the one before.
        let output =
            again().args(["memory", &connections.to_string(), what]).stderr(Stdio::inherit()).output().unwrap();
        let bytes: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number of bytes");
        println!("  {bytes:>6.0}  {}", describe(what));
    }
    println!("instructions of the server, by callgrind:");
    for what in ["messages, 64 at a time", "plain messages, 64 at a time"] {
        if let Some(each) = instructions_of(what, 640) {
            println!("  {each:>10.0}  {what}, each");
        }
    }
    for (what, number) in [("messages", 100), ("plain messages", 100), ("handshakes", 20), ("mebibytes", 2)] {
        match instructions(what, number) {
            Some((ours, raw)) => println!("  {ours:>10.0}  {what}, each; a raw loop {raw:.0}, ratio {:.3}", ours / raw),
            None => println!("  skipped: there is no valgrind"),
        }
    }
    println!("CPU as a ratio to a raw loop in the same run:");
    for (what, number) in [("handshakes", 1_000), ("mebibytes", 500)] {
        println!("  {:>6.3}  {what}", cpu(what, number));
    }
}

fn describe(what: &str) -> &'static str {
    match what {
        "plain" => "without TLS, silent",
        "silent" => "silent from the beginning",
        "handshake" => "after its handshake",
        "message" => "after a message of 64 bytes and its echo",
        "mebibyte" => "after 1 MiB in each direction",
        _ => "whose client stopped after its hello",
    }
}

// The server.

struct Echo;

impl RequestHandler for Echo {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        request.output.write_all(request.input.take_all())?;
        Ok(Next::Wait)
    }
}

struct Configs {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// The certificate is made once, and passed to the other processes in their environment.
fn configs() -> Configs {
    let text = CERTIFICATE.get_or_init(|| {
        std::env::var(ENVIRONMENT).unwrap_or_else(|_| {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            format!("{} {}", hex(made.cert.der()), hex(&made.signing_key.serialize_der()))
        })
    });
    let parts: Vec<Vec<u8>> = text.split(' ').map(unhex).collect();
    let certificate = CertificateDer::from(parts[0].clone());
    let key = PrivateKeyDer::try_from(parts[1].clone()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let server = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let mut client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    client.resumption = Resumption::disabled();
    Configs { server: Arc::new(server), client: Arc::new(client) }
}

static CERTIFICATE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
const ENVIRONMENT: &str = "BENCH_TLS_DER";

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

fn serve(reactor: &mut Reactor, tls: Option<Arc<ServerConfig>>) -> SocketAddr {
    let mut options = TcpOptions::default();
    options.tls = tls.map(TlsAcceptor::new);
    let mut unbound = TcpServer::unbound(|_| Echo);
    unbound.server_bind_with("127.0.0.1:0", options).unwrap();
    let mut limits = Limits::default();
    limits.handshake_timeout = None;
    limits.idle_timeout = None;
    unbound.limits = limits;
    let id = reactor.add(unbound.server_activate().unwrap()).unwrap();
    reactor.server_addresses(id)[0].as_inet().unwrap()
}

fn again() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(ENVIRONMENT, CERTIFICATE.get().unwrap());
    command
}

// Memory.

fn memory(connections: usize, what: &str) -> f64 {
    let Configs { server, .. } = configs();
    let mut reactor = Reactor::new().unwrap();
    let address = serve(&mut reactor, (what != "plain").then_some(server));
    let stop = reactor.shutdown_handle();
    let thread = std::thread::spawn(move || reactor.serve_forever().unwrap());
    // A few that come and go, for everything that is made only once.
    run_clients(address, 50, what, || ());
    let before = private_bytes();
    let mut after = 0;
    run_clients(address, connections, what, || after = private_bytes());
    stop.shutdown_now();
    thread.join().unwrap();
    (after as f64 - before as f64) / connections as f64
}

/// Starts clients, and calls a closure when they are all at rest.
fn run_clients(address: SocketAddr, number: usize, what: &str, at_rest: impl FnOnce()) {
    let arguments = ["clients", &address.to_string(), &number.to_string(), what].map(str::to_owned);
    let mut child =
        again().args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it is this program");
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "at rest\n");
    at_rest();
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

/// The private pages of this process, from proc(5).
fn private_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").expect("this benchmark is Linux's");
    let kib = |name: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    1_024 * (kib("Private_Dirty:") + kib("Private_Clean:"))
}

/// The process with the clients.
fn clients(address: SocketAddr, number: usize, what: &str) {
    let Configs { client, .. } = configs();
    let mut open = Vec::new();
    for _ in 0..number {
        let mut socket = TcpStream::connect(address).unwrap();
        let mut tls = new_client(&client);
        match what {
            "plain" | "silent" => {}
            "hello" => {
                tls.write_tls(&mut socket).unwrap();
                // Until the server has answered.
                while socket.peek(&mut [0; 2_000]).unwrap() < 500 {}
            }
            _ => {
                while tls.is_handshaking() {
                    tls.complete_io(&mut socket).unwrap();
                }
                let mut stream = rustls::Stream::new(&mut tls, &mut socket);
                match what {
                    "message" => exchange(&mut stream, 64),
                    "mebibyte" => (0..16).for_each(|_| exchange(&mut stream, 64 * 1024)),
                    _ => {}
                }
            }
        }
        // Only the socket is kept: the client has nothing more to say.
        open.push(socket);
    }
    // An echo through another connection: the server has done everything before it.
    println!("at rest");
    let _ = std::io::stdin().read(&mut [0]);
}

fn new_client(config: &Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(Arc::clone(config), ServerName::try_from("localhost").unwrap()).unwrap()
}

fn exchange(stream: &mut (impl Read + Write), bytes: usize) {
    let bytes = vec![b'x'; bytes];
    stream.write_all(&bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).unwrap();
}

// Instructions and CPU: a server and a client in one thread.

/// Runs a part of this program under callgrind, for our loop and for the raw one. `None`: there is none.
fn instructions(what: &str, number: usize) -> Option<(f64, f64)> {
    Some((instructions_of(what, number)?, instructions_of(&format!("raw {what}"), number)?))
}

fn instructions_of(what: &str, number: usize) -> Option<f64> {
    configs();
    let counted = |what: &str, number: usize| -> Option<f64> {
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*tls::turn*"]);
        valgrind.args(["--toggle-collect=*tls::raw_turn*"]);
        // callgrind counts each byte of `rep movsb` as an instruction.
        valgrind.env(
            "GLIBC_TUNABLES",
            "glibc.cpu.x86_rep_movsb_threshold=1073741824:glibc.cpu.x86_rep_stosb_threshold=1073741824",
        );
        valgrind.env(ENVIRONMENT, CERTIFICATE.get().unwrap());
        valgrind.arg(std::env::current_exe().unwrap()).args(["count", what, &number.to_string()]);
        let output = valgrind.stdout(Stdio::null()).stderr(Stdio::piped()).output().ok()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        let line = said.lines().find(|line| line.contains("Collected"))?;
        line.rsplit(' ').next()?.parse().ok()
    };
    // The difference of two runs, so that what happens once does not count.
    Some((counted(what, 2 * number)? - counted(what, number)?) / number as f64)
}

fn count(what: &str, number: usize) {
    match what.strip_prefix("raw ") {
        Some(what) => raw(what, number),
        None => ours(what, number),
    }
}

fn cpu(what: &str, number: usize) -> f64 {
    let mut best = [Duration::MAX; 2];
    for _ in 0..5 {
        for (best, run) in best.iter_mut().zip([ours as fn(&str, usize), raw]) {
            let begun = Instant::now();
            run(what, number);
            *best = (*best).min(begun.elapsed());
        }
    }
    best[0].as_secs_f64() / best[1].as_secs_f64()
}

#[inline(never)]
fn turn(reactor: &mut Reactor) {
    reactor.poll(Some(Duration::ZERO)).unwrap();
}

struct Client {
    tls: Option<ClientConnection>,
    socket: TcpStream,
}

impl Client {
    fn connect(address: SocketAddr, config: Option<&Arc<ClientConfig>>) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.set_nodelay(true).unwrap();
        Client { tls: config.map(new_client), socket }
    }

    /// Sends and receives what is there. Returns the number of bytes of plaintext that have come.
    fn go_on(&mut self, bytes: &[u8]) -> usize {
        let mut buffer = [0; 64 * 1024];
        let read = |result: std::io::Result<usize>| match result {
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            result => result.unwrap(),
        };
        let Some(tls) = &mut self.tls else {
            self.socket.write_all(bytes).unwrap();
            return read(self.socket.read(&mut buffer));
        };
        tls.writer().write_all(bytes).unwrap();
        let mut came = 0;
        loop {
            while tls.wants_write() && read(tls.write_tls(&mut self.socket)) > 0 {}
            if read(tls.read_tls(&mut self.socket)) == 0 {
                return came;
            }
            tls.process_new_packets().unwrap();
            came += read(tls.reader().read(&mut buffer));
        }
    }
}

/// A client that does so many of these, and a server that goes on whenever the client waits.
fn drive(what: &str, number: usize, address: SocketAddr, config: Option<&Arc<ClientConfig>>, mut go_on: impl FnMut()) {
    let exchange = |client: &mut Client, bytes: &[u8], go_on: &mut dyn FnMut()| {
        let mut came = client.go_on(bytes);
        while came < bytes.len() || client.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            go_on();
            came += client.go_on(&[]);
        }
    };
    if what == "handshakes" {
        for _ in 0..number {
            exchange(&mut Client::connect(address, config), b"x", &mut go_on); // The server has then had all of it.
        }
        return;
    }
    if what == "messages, 64 at a time" {
        let mut clients: Vec<_> = (0..64).map(|_| Client::connect(address, config)).collect();
        clients.iter_mut().for_each(|client| exchange(client, b"first", &mut go_on));
        for _ in 0..number / 64 {
            let mut came: usize = clients.iter_mut().map(|client| client.go_on(&[b'x'; 64])).sum();
            while came < 64 * 64 {
                go_on();
                came += clients.iter_mut().map(|client| client.go_on(&[])).sum::<usize>();
            }
        }
        return;
    }
    let size = if what == "mebibytes" { 64 * 1024 } else { 64 };
    let bytes = vec![b'x'; size];
    let mut client = Client::connect(address, config);
    exchange(&mut client, b"", &mut go_on);
    for _ in 0..number * if what == "mebibytes" { 16 } else { 1 } {
        exchange(&mut client, &bytes, &mut go_on);
    }
}

fn ours(what: &str, number: usize) {
    let Configs { server, client } = configs();
    let mut config = ReactorConfig::default();
    config.turn_length = Duration::from_secs(10);
    let mut reactor = Reactor::with_config(config).unwrap();
    let (is_plain, what) = what.strip_prefix("plain ").map_or((false, what), |what| (true, what));
    let address = serve(&mut reactor, (!is_plain).then_some(server));
    drive(what, number, address, (!is_plain).then_some(&client), || turn(&mut reactor));
}

/// The same server without anything but rustls' unbuffered API and sockets.
fn raw(what: &str, number: usize) {
    let Configs { server, client } = configs();
    let what = what.strip_prefix("plain ").unwrap_or(what);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut raw = Raw { incoming: vec![0; 256 * 1024], outgoing: vec![0; 256 * 1024], ..Raw::default() };
    let mut current: Option<(TcpStream, UnbufferedServerConnection)> = None;
    drive(what, number, listener.local_addr().unwrap(), Some(&client), || {
        raw_turn(&listener, &server, &mut current, &mut raw);
    });
}

/// The buffers of the raw loop.
#[derive(Default)]
struct Raw {
    incoming: Vec<u8>,
    filled: usize,
    plain: Vec<u8>,
    outgoing: Vec<u8>,
}

#[inline(never)]
fn raw_turn(
    listener: &std::net::TcpListener,
    config: &Arc<ServerConfig>,
    current: &mut Option<(TcpStream, UnbufferedServerConnection)>,
    raw: &mut Raw,
) {
    if let Ok((socket, _)) = listener.accept() {
        socket.set_nonblocking(true).unwrap();
        socket.set_nodelay(true).unwrap();
        *current = Some((socket, UnbufferedServerConnection::new(Arc::clone(config)).unwrap()));
        raw.filled = 0;
    }
    let Some((socket, connection)) = current else { return };
    let Raw { incoming, filled, plain, outgoing } = raw;
    match socket.read(&mut incoming[*filled..*filled + 64 * 1024]) {
        Ok(n) => *filled += n,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return,
        Err(error) => panic!("{error}"),
    }
    let (mut used, mut sealed) = (0, 0);
    plain.clear();
    loop {
        let UnbufferedStatus { discard, state } = connection.process_tls_records(&mut incoming[used..*filled]);
        let mut is_done = false;
        match state.unwrap() {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    plain.extend_from_slice(record.unwrap().payload);
                }
            }
            ConnectionState::EncodeTlsData(mut data) => loop {
                match data.encode(&mut outgoing[sealed..]) {
                    Ok(n) => break sealed += n,
                    Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
                        outgoing.resize(sealed + required_size, 0);
                    }
                    Err(error) => panic!("{error}"),
                }
            },
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::WriteTraffic(mut traffic) => {
                if !plain.is_empty() {
                    sealed += traffic.encrypt(plain, &mut outgoing[sealed..]).unwrap();
                }
                is_done = true;
            }
            _ => is_done = true,
        }
        used += discard;
        if is_done {
            break;
        }
    }
    incoming.copy_within(used..*filled, 0);
    *filled -= used;
    let mut rest = black_box(&outgoing[..sealed]);
    while !rest.is_empty() {
        match socket.write(rest) {
            Ok(n) => rest = &rest[n..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
    }
}
