//! Outbound connections: established, refused, late, gone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
#[cfg(unix)]
use socketserver::UnixAddress;
use socketserver::testing::{self, Network, Outcome};
use socketserver::{
    Address, ConnectionId, Delivery, Limits, Next, Request, RequestHandler, Result, TcpServer, Timeout,
};

use crate::common::{
    Call, Directory, Journal, PATIENCE, Peer, Running, echo, limit, never_interrupt, probe, serve, usual,
};

/// Serves clients that each make it call `to` as soon as they say something; both ends are noted. What the client says
/// is sent on at once, while the call is being established.
fn calling(to: SocketAddr, journal: &Journal, close: bool) -> Running<()> {
    let mut server = calling_server(to, journal, close);
    limit(&mut server, |limits| limits.connect_timeout = Some(Duration::from_millis(50)));
    serve(server)
}

fn calling_server(to: impl Into<Address>, journal: &Journal, close: bool) -> TcpServer<(), impl RequestHandler> {
    let (journal, to) = (journal.clone(), to.into());
    let mut server = TcpServer::new("127.0.0.1:0", move |_| {
        let (journal, to) = (journal.clone(), to.clone());
        probe(move |call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                let called = request.others.connect(to.clone(), callee(&journal, request.id()))?;
                let bytes = request.input.take_all();
                journal.note(format!("sent early {:?}", request.others.send(called, bytes)));
                if close {
                    request.others.close(called);
                }
                return Ok(Next::Wait);
            }
            usual(&call, request)
        })
    })
    .unwrap();
    never_interrupt(&mut server);
    server
}

fn callee(journal: &Journal, client: ConnectionId) -> impl RequestHandler + use<> {
    let journal = journal.clone();
    probe(move |call, request: &mut Request<'_>| {
        journal.note(format!("callee {call}"));
        match call {
            Call::ConnectFailed(_) => request.others.close(client),
            Call::Handle => {
                let bytes = request.input.take_all();
                assert_eq!(request.others.send(client, bytes), Delivery::Queued);
                return Ok(Next::Wait);
            }
            _ => {}
        }
        usual(&call, request)
    })
}

/// An address where nothing listens, and which no other test is given.
fn nowhere() -> SocketAddr {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    std::mem::forget(socket);
    address
}

#[test]
fn refused_calls_connect_failed_and_nothing_else() {
    let (journal, to) = (Journal::new(), nowhere());
    let running = calling(to, &journal, false);
    let mut client = running.connect();
    client.send("call");
    client.expect_eof();
    let stats = running.stop();
    let lines = journal.lines();
    assert_eq!((lines.len(), lines[0].as_str()), (2, "sent early Queued"));
    // The rest of the words is the system's.
    let failed = format!("callee connect_failed cannot connect to {to}: ");
    assert!(lines[1].starts_with(&failed) && lines[1].contains("refused"), "{lines:?}");
    assert_eq!((stats.connects, stats.connects_failed, stats.resets), (1, 1, 0));
}

#[test]
#[cfg(target_os = "linux")]
fn a_call_that_is_not_answered_times_out() {
    // A listener whose queue is full leaves further calls unanswered.
    let silent = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    silent.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    silent.listen(0).unwrap();
    let to = silent.local_addr().unwrap().as_socket().unwrap();
    let mut fill = Vec::new();
    while let Ok(client) = std::net::TcpStream::connect_timeout(&to, Duration::from_millis(100)) {
        fill.push(client);
        assert!(fill.len() < 100, "the queue of length 0 never fills");
    }
    let journal = Journal::new();
    let running = calling(to, &journal, false);
    let mut client = running.connect();
    client.send("call");
    client.expect_eof();
    let failed = journal.wait("callee connect_failed");
    assert_eq!(failed, format!("callee connect_failed cannot connect to {to}: timed out"));
    running.stop();
}

#[test]
fn bytes_that_are_sent_while_connecting_arrive() {
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let journal = Journal::new();
    let running = calling(target.local_addr().unwrap(), &journal, false);
    let mut client = running.connect();
    client.send("early");
    let (mut called, _) = target.accept().unwrap();
    called.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut got = [0; 5];
    called.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"early");
    called.write_all(b"answer").unwrap();
    client.expect("answer");
    drop(called);
    journal.wait("callee finish peer closed");
    running.stop();
}

#[test]
fn a_reset_after_connecting_ends_that_connection_only() {
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let journal = Journal::new();
    let running = calling(target.local_addr().unwrap(), &journal, false);
    let mut client = running.connect();
    client.send("early");
    let mut called = crate::common::Peer::of(target.accept().unwrap().0);
    called.expect("early"); // Before that, a reset is a call that failed.
    called.reset();
    journal.wait("callee finish reset");
    assert_eq!(running.stats().active, 1, "the client is still there");
    running.stop();
}

#[test]
fn a_connection_closed_while_connecting_calls_nothing() {
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let journal = Journal::new();
    let running = calling(target.local_addr().unwrap(), &journal, true);
    let mut client = running.connect();
    client.send("early");
    let stats = running.wait_for_stats("it is reaped", |stats| stats.closed == 1);
    assert_eq!((stats.connects, stats.panics), (1, 0));
    assert_eq!(journal.count("callee"), 0, "{:?}", journal.lines());
    running.stop();
}

/// One side of a relay.
struct Relay {
    to: Option<SocketAddr>,
    peer: Option<ConnectionId>,
}

impl RequestHandler for Relay {
    fn setup(&mut self, request: &mut Request<'_>) -> Result<Next> {
        request.set_full_duplex(true);
        if let Some(to) = self.to {
            let me = request.id();
            self.peer = Some(request.others.connect(to, Relay { to: None, peer: Some(me) })?);
        }
        Ok(Next::Wait)
    }
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        let peer = self.peer.expect("set in setup");
        let bytes = request.input.take_all();
        match request.others.send(peer, bytes) {
            Delivery::Queued => Ok(Next::Wait),
            Delivery::Full => {
                request.pause_reading();
                Ok(Next::Wait)
            }
            _ => Ok(Next::Close),
        }
    }
    fn writable(&mut self, request: &mut Request<'_>) -> Result<Next> {
        request.others.resume_reading(self.peer.expect("set in setup"));
        Ok(Next::Wait)
    }
    fn eof(&mut self, request: &mut Request<'_>) -> Result<Next> {
        request.others.shutdown_write(self.peer.expect("set in setup"));
        Ok(Next::Wait)
    }
    fn timed_out(&mut self, _: &mut Request<'_>, _: Timeout) -> Result<Next> {
        Ok(Next::Abort)
    }
}

#[test]
fn a_relay_carries_everything_and_the_half_close_both_ways() {
    let upstream = serve(
        TcpServer::new("127.0.0.1:0", |_| probe(|call, request: &mut Request<'_>| echo(&call, request))).unwrap(),
    );
    let to = Some(upstream.address);
    let running = serve(TcpServer::new("127.0.0.1:0", move |_| Relay { to, peer: None }).unwrap());
    let payload: Vec<u8> = (0..8u32 << 20).map(|i| (i % 253) as u8).collect();
    let mut client = running.connect();
    let (mut sender, sent) = (client.socket.try_clone().unwrap(), payload.clone());
    let thread = std::thread::spawn(move || {
        sender.write_all(&sent).unwrap();
        sender.shutdown(std::net::Shutdown::Write).unwrap();
    });
    assert!(client.rest() == payload);
    thread.join().unwrap();
    let stats = running.wait_for_stats("both sides are over", |stats| stats.active == 0);
    assert_eq!((stats.resets, stats.handler_errors), (0, 0));
    running.stop();
    upstream.stop();
}

/// A path to call where the backlog is full, and the clients that fill it.
#[cfg(unix)]
fn full_backlog(directory: &Directory) -> (Socket, Address, Vec<Socket>) {
    let socket = || Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    let (listener, path) = (socket(), directory.at("full"));
    let name = socket2::SockAddr::unix(&path).unwrap();
    listener.bind(&name).unwrap();
    listener.listen(0).unwrap();
    let mut clients = Vec::new();
    loop {
        let client = socket();
        client.set_nonblocking(true).unwrap();
        if client.connect(&name).is_err() {
            return (listener, UnixAddress::from_path(path).into(), clients);
        }
        clients.push(client);
        assert!(clients.len() < 100, "the queue of length 0 never fills");
    }
}

#[test]
#[cfg(target_os = "linux")] // Others refuse the connection.
fn connecting_to_a_unix_socket_with_a_full_backlog_is_retried_until_there_is_room() {
    let directory = Directory::new();
    let (listener, to, clients) = full_backlog(&directory);
    let journal = Journal::new();
    let running = serve(calling_server(to, &journal, false));
    let mut client = running.connect();
    client.send("early");
    assert_eq!(journal.wait("sent early"), "sent early Queued");
    for _ in clients {
        listener.accept().unwrap();
    }
    let mut called = Peer::of(listener.accept().unwrap().0);
    called.expect("early");
    called.send("answer");
    client.expect("answer");
    running.stop();
}

#[test]
#[cfg(target_os = "linux")]
fn connecting_to_a_unix_socket_with_a_full_backlog_fails_in_time() {
    let directory = Directory::new();
    let (_listener, to, _clients) = full_backlog(&directory);
    let journal = Journal::new();
    let mut server = calling_server(to.clone(), &journal, false);
    limit(&mut server, |limits| limits.connect_timeout = Some(Duration::from_millis(50)));
    let running = serve(server);
    let mut client = running.connect();
    client.send("early");
    client.expect_eof();
    let failed = journal.wait("callee connect_failed");
    assert_eq!(failed, format!("callee connect_failed cannot connect to {to}: timed out"));
    running.stop();
}

/// A network whose first client has made its handler call an address, and how the attempts end.
fn attempts(mut outcome: impl FnMut(usize) -> Outcome + Send + 'static, journal: &Journal) -> Network {
    let mut network = Network::new();
    let mut count = 0;
    network.on_call(move |call, _| match call {
        testing::Call::Connect => {
            count += 1;
            outcome(count)
        }
        _ => Outcome::Proceed,
    });
    let journal = journal.clone();
    let handler = move |_: &mut (), _: &Address| {
        let journal = journal.clone();
        probe(move |call, request: &mut Request<'_>| {
            if let Call::Setup = call {
                let to = SocketAddr::from(([192, 0, 2, 9], 9));
                request.others.connect(to, callee(&journal, request.id()))?;
            }
            usual(&call, request)
        })
    };
    let server = network.serve((), handler, Limits::default()).unwrap();
    network.connect(server);
    network.run();
    network
}

#[test]
fn another_error_ends_the_attempts_to_connect() {
    let journal = Journal::new();
    let outcome = |count| match count {
        ..=2 => Outcome::WouldBlock,
        _ => Outcome::Fail(std::io::ErrorKind::ConnectionRefused.into()),
    };
    let mut network = attempts(outcome, &journal);
    network.run_for(Duration::from_millis(29));
    assert!(journal.lines().is_empty());
    network.run_for(Duration::from_millis(1)); // 10, and twice that.
    assert_eq!(journal.lines(), ["callee connect_failed cannot connect to 192.0.2.9:9: connection refused"]);
}

#[test]
fn a_call_that_is_not_wanted_any_more_is_not_tried_again() {
    let journal = Journal::new();
    let mut network = attempts(|_| Outcome::WouldBlock, &journal);
    network.run_for(Duration::from_secs(1));
    network.shutdown_handle().shutdown_now();
    network.run();
    assert!(network.is_stopped() && journal.lines().is_empty());
    network.check_nothing_left();
}
