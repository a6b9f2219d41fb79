//! Outbound connections: established, refused, late, gone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socketserver::{ConnectionId, Next, Request, RequestHandler, Result, Sent, TcpServer, Timeout};

use crate::common::{Call, Journal, PATIENCE, Running, echo, probe, serve, usual};

/// Serves clients that each make it call `to` as soon as they say something; both ends are noted. What the client says
/// is sent on at once, while the call is being established.
fn calling(to: SocketAddr, journal: &Journal, close: bool) -> Running<()> {
    let journal = journal.clone();
    let mut server = TcpServer::new("127.0.0.1:0", move |_| {
        let journal = journal.clone();
        probe(move |call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                let called = request.connect(to, callee(&journal, request.id()))?;
                let bytes = request.input.take_all();
                journal.note(format!("sent early {:?}", request.send(called, bytes)));
                if close {
                    request.close(called);
                }
                return Ok(Next::Wait);
            }
            usual(&call, request)
        })
    })
    .unwrap();
    server.limits.connect_timeout = Some(Duration::from_millis(50));
    serve(server)
}

fn callee(journal: &Journal, client: ConnectionId) -> impl RequestHandler + use<> {
    let journal = journal.clone();
    probe(move |call, request: &mut Request<'_>| {
        journal.note(format!("callee {call}"));
        match call {
            Call::ConnectFailed(_) => request.close(client),
            Call::Handle => {
                let bytes = request.input.take_all();
                assert_eq!(request.send(client, bytes), Sent::Queued);
                return Ok(Next::Wait);
            }
            _ => {}
        }
        usual(&call, request)
    })
}

/// An address where nobody listens.
fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
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
    let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
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
fn what_is_sent_while_connecting_arrives() {
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
            self.peer = Some(request.connect(to, Relay { to: None, peer: Some(me) })?);
        }
        Ok(Next::Wait)
    }
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        let (me, peer) = (request.id(), self.peer.expect("set in setup"));
        let bytes = request.input.take_all();
        match request.send(peer, bytes) {
            Sent::Queued => Ok(Next::Wait),
            Sent::Full => {
                request.pause_reading(me);
                Ok(Next::Wait)
            }
            _ => Ok(Next::Close),
        }
    }
    fn writable(&mut self, request: &mut Request<'_>) -> Result<Next> {
        request.resume_reading(self.peer.expect("set in setup"));
        Ok(Next::Wait)
    }
    fn eof(&mut self, request: &mut Request<'_>) -> Result<Next> {
        request.shutdown_write(self.peer.expect("set in setup"));
        Ok(Next::Wait)
    }
    fn timeout(&mut self, _: &mut Request<'_>, _: Timeout) -> Result<Next> {
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
