//! How many instructions of its own the README's server takes for a message and for a connection.
//!
//!     cargo install gungraun-runner --version 0.20.0 --locked
//!     cargo bench --bench dispatch
//!
//! The server and its clients are in one thread, over loopback. Valgrind's callgrind counts what runs within `turn`: the
//! loop, the handler, and the C library up to the system calls. What the kernel does is not in it, nor what the clients do.
//! Each figure is of 1,000 messages or connections, so its last three digits are the decimals of one.
//!
//! - `messages`: each client sends 64 bytes and reads them back.
//! - `client_closes`: each client connects, sends 64 bytes, reads them back and closes.
//! - `server_closes`: the same, but the server closes after its answer.
//! - `datagrams`: each client sends a datagram of 64 bytes and receives it back, with the feature `batch`.
//!
//! It fails if a figure is more than 5 % above its baseline below. The baselines are those of rustc 1.95 and glibc 2.36 on
//! x86-64, and of a release build (fat LTO, one codegen unit). To renew one, copy the figure that is printed.

#![allow(missing_docs, unreachable_pub, reason = "what gungraun's macros make is public and without a page")]

use gungraun::prelude::*;
use gungraun::{Callgrind, EntryPoint, EventKind};
use socketserver::family::Family;
use socketserver::{Next, Reactor, ReactorConfig, Request, RequestHandler, Result, TcpServer, UdpServer};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Instructions for 1,000 of them, with 64 clients at a time, and with one.
const MESSAGES: [u64; 2] = [319_000, 1_104_000];
const CLIENT_CLOSES: [u64; 2] = [1_909_000, 3_916_000];
const SERVER_CLOSES: [u64; 2] = [1_383_000, 2_633_000];
const DATAGRAMS: [u64; 2] = [540_000, 2_680_000];

#[library_benchmark]
#[bench::by_64(args = (64), config = at_most(MESSAGES[0]))]
#[bench::by_1(args = (1), config = at_most(MESSAGES[1]))]
fn messages(at_a_time: usize) {
    let mut server = Server::new::<false>();
    let mut clients: Vec<_> = (0..at_a_time).map(|_| server.connect()).collect();
    server.exchange(&mut clients, warm_up);
    in_groups_of(at_a_time, |number| server.exchange(&mut clients[..number], turn));
}

#[library_benchmark]
#[bench::by_64(args = (64), config = at_most(CLIENT_CLOSES[0]))]
#[bench::by_1(args = (1), config = at_most(CLIENT_CLOSES[1]))]
fn client_closes(at_a_time: usize) {
    visits::<false>(at_a_time);
}

#[library_benchmark]
#[bench::by_64(args = (64), config = at_most(SERVER_CLOSES[0]))]
#[bench::by_1(args = (1), config = at_most(SERVER_CLOSES[1]))]
fn server_closes(at_a_time: usize) {
    visits::<true>(at_a_time);
}

#[library_benchmark]
#[bench::by_64(args = (64), config = at_most(DATAGRAMS[0]))]
#[bench::by_1(args = (1), config = at_most(DATAGRAMS[1]))]
fn datagrams(at_a_time: usize) {
    let mut server = Server::of(UdpServer::new("127.0.0.1:0", |_| Echo::<false>).unwrap());
    let connect = || {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(server.address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client
    };
    let clients: Vec<_> = (0..at_a_time).map(|_| connect()).collect();
    let mut exchange = |number: usize, turn: Turn| {
        clients[..number].iter().for_each(|client| assert_eq!(client.send(&[b'x'; 64]).unwrap(), 64));
        server.serve(turn);
        clients[..number].iter().for_each(|client| assert_eq!(client.recv(&mut [0; 65]).unwrap(), 64));
    };
    (0..8).for_each(|_| exchange(at_a_time, warm_up));
    in_groups_of(at_a_time, |number| exchange(number, turn));
}

library_benchmark_group!(name = loopback, benchmarks = [messages, client_closes, server_closes, datagrams]);

fn at_most(baseline: u64) -> LibraryBenchmarkConfig {
    let mut callgrind = Callgrind::with_args(["cache-sim=no"]);
    callgrind.entry_point(EntryPoint::Custom("dispatch::turn".to_owned()));
    callgrind.format([EventKind::Ir]);
    callgrind.hard_limits([(EventKind::Ir, baseline * 105 / 100)]);
    LibraryBenchmarkConfig::default().tool(callgrind).clone()
}

/// A thousand, so many at a time.
fn in_groups_of(at_a_time: usize, mut serve: impl FnMut(usize)) {
    let mut left = 1_000;
    while left > 0 {
        let number = at_a_time.min(left);
        serve(number);
        left -= number;
    }
}

/// A thousand clients that each exchange one message, then see the server close or close themselves.
fn visits<const SERVER_CLOSES: bool>(at_a_time: usize) {
    let mut server = Server::new::<SERVER_CLOSES>();
    let mut visit = |number: usize, turn: Turn| {
        let mut clients: Vec<_> = (0..number).map(|_| server.connect()).collect();
        server.exchange(&mut clients, turn);
        if SERVER_CLOSES {
            clients.iter_mut().for_each(|client| assert_eq!(client.read(&mut [0]).unwrap(), 0, "it is closed"));
        } else {
            drop(clients);
            server.serve(turn);
        }
    };
    visit(at_a_time, warm_up);
    in_groups_of(at_a_time, |number| visit(number, turn));
}

/// One turn of the loop that is counted, or that is not.
type Turn = fn(&mut Reactor);

#[inline(never)]
fn turn(reactor: &mut Reactor) {
    reactor.poll(Some(Duration::ZERO)).unwrap();
}

#[inline(never)]
fn warm_up(reactor: &mut Reactor) {
    reactor.poll(Some(Duration::ZERO)).unwrap();
}

struct Echo<const CLOSES: bool>;

impl<const CLOSES: bool> RequestHandler for Echo<CLOSES> {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        request.output.write_all(request.input.take_all())?;
        Ok(if CLOSES { Next::Close } else { Next::Wait })
    }
}

struct Server {
    reactor: Reactor,
    address: SocketAddr,
}

impl Server {
    fn new<const CLOSES: bool>() -> Self {
        Server::of(TcpServer::new("127.0.0.1:0", |_| Echo::<CLOSES>).unwrap())
    }

    fn of<F: Family>(server: socketserver::Server<F, (), impl RequestHandler>) -> Self {
        // Under callgrind a turn takes so long that its callbacks would be timed.
        let mut config = ReactorConfig::default();
        config.turn_length = Duration::from_secs(10);
        let mut reactor = Reactor::with_config(config).unwrap();
        let id = reactor.add(server).unwrap();
        let address = reactor.server_addresses(id)[0].as_inet().unwrap();
        Server { reactor, address }
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client
    }

    /// Until it waits.
    fn serve(&mut self, turn: Turn) {
        turn(&mut self.reactor);
        while self.reactor.next_timeout() == Some(Duration::ZERO) {
            turn(&mut self.reactor);
        }
    }

    /// Each client sends 64 bytes and reads them back.
    fn exchange(&mut self, clients: &mut [TcpStream], turn: Turn) {
        clients.iter_mut().for_each(|client| client.write_all(&[b'x'; 64]).unwrap());
        self.serve(turn);
        clients.iter_mut().for_each(|client| client.read_exact(&mut [0; 64]).unwrap());
    }
}

mod instructions {
    use super::loopback;

    gungraun::main!(library_benchmark_groups = loopback);

    pub(super) fn run() {
        main();
    }
}

fn main() {
    for tool in ["valgrind", "gungraun-runner"] {
        let found = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if found.is_err() {
            return println!("skipped: there is no {tool}");
        }
    }
    instructions::run();
}
