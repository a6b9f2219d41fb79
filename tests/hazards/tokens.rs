//! Keys are reused, ids and events are not: nothing meant for one connection reaches its successor.

use std::io::Write;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::time::Duration;

use socketserver::testing::Client;
use socketserver::{Address, BaseServer, ConnectionId, Delivery, Incoming, Next, Reactor, Request, Stream, TcpServer};

use crate::common::{Call, Journal, Peer, echo, limit, probe, serve, usual};

/// The server's value knows all connections there ever were, in their order.
#[derive(Default)]
struct Guests {
    ids: Vec<ConnectionId>,
    keep_copies: bool,
    copies: Vec<OwnedFd>,
}

impl BaseServer for Guests {
    fn verify_request(&mut self, request: &Incoming<'_>, _: &Address) -> bool {
        if self.keep_copies
            && let Incoming::Stream(request) = request
        {
            let socket = request.as_fd().expect("a socket");
            self.copies.push(socket.try_clone_to_owned().expect("dup"));
        }
        true
    }
    fn shutdown_request(&mut self, request: &Stream, _: &Address) -> std::io::Result<()> {
        request.shutdown(Shutdown::Write) // The copies would hold up the end.
    }
}

/// A server whose clients give orders about other clients: `send 0 text`, `close 0`, `abort 0`, `pause 0`, ...
fn obedient(keep_copies: bool, journal: &Journal) -> TcpServer<Guests, impl socketserver::RequestHandler<Guests>> {
    let notes = journal.clone();
    let mut came = 0;
    let guests = Guests { keep_copies, ..Guests::default() };
    let mut server = TcpServer::with_server("127.0.0.1:0", guests, move |_: &mut Guests, _| {
        let (me, notes) = (came, notes.clone());
        came += 1;
        probe(move |call, request: &mut Request<'_, Guests>| {
            notes.note(format!("{me} {call}"));
            match call {
                Call::Setup => request.server.ids.push(request.id()),
                Call::Handle => {
                    while let Some(line) = request.input.read_line()? {
                        let line = std::str::from_utf8(line)?.trim_end();
                        let mut words = line.splitn(3, ' ');
                        let order = words.next().unwrap_or_default();
                        if order == "bye" {
                            return Ok(Next::Close);
                        }
                        let to: usize = words.next().unwrap_or_default().parse()?;
                        let to = request.server.ids[to];
                        match order {
                            "send" => {
                                let sent = request.others.send(to, words.next().unwrap_or_default().as_bytes());
                                writeln!(request.output, "{sent:?}")?;
                            }
                            "message" => {
                                request.others.handle().send(to, "for you")?;
                                writeln!(request.output, "done")?;
                            }
                            "act" => {
                                request.others.pause_reading(to);
                                request.others.resume_reading(to);
                                request.others.pause_reading(to);
                                request.others.shutdown_write(to);
                                request.others.close(to);
                                request.others.abort(to);
                                writeln!(request.output, "done")?;
                            }
                            _ => return Err("what?".into()),
                        }
                    }
                    return Ok(Next::Wait);
                }
                _ => {}
            }
            usual(&call, request)
        })
    })
    .unwrap();
    limit(&mut server, |limits| limits.linger_timeout = Duration::ZERO);
    server
}

/// The key part of an id, which only its debug form shows.
fn key(id: ConnectionId) -> String {
    let text = format!("{id:?}");
    text.split([',', '{', '}']).map(str::trim).find(|part| part.starts_with("key:")).expect("a key").to_owned()
}

#[test]
fn a_stale_id_returns_gone_and_reaches_no_connection() {
    let journal = Journal::new();
    let running = serve(obedient(false, &journal));
    let mut commander = running.connect();
    commander.send("send 0 hello\n");
    commander.expect("Refused\n"); // It is itself.

    let mut first = running.connect();
    journal.wait("1 setup");
    first.send("bye\n");
    first.expect_eof();
    drop(first);
    running.wait_for_stats("the first is reaped", |stats| stats.active == 1);
    let mut successor = running.connect();
    journal.wait("2 setup");

    for order in ["send 1 ghost\n", "act 1\n", "message 1\n"] {
        commander.send(order);
        assert_eq!(commander.line(), if order.starts_with("send") { "Gone" } else { "done" });
    }
    running.wait_for_stats("the message is dropped", |stats| stats.messages_dropped == 1);
    successor.send("send 2 me\n");
    successor.expect("Refused\n");
    assert_eq!(journal.count("2 message"), 0);
    let (_, guests) = running.stop_with_state();
    assert_eq!(key(guests.ids[1]), key(guests.ids[2]), "the test is about a key that is reused");
    assert_ne!(guests.ids[1], guests.ids[2]);
    assert_ne!(guests.ids[1].to_string(), guests.ids[2].to_string());
}

#[test]
fn a_stale_event_after_the_key_was_reused_never_reaches_the_successor() {
    // A copy of the descriptor keeps the registration alive when the connection is closed (epoll(7)): the kernel goes
    // on reporting the old token.
    let journal = Journal::new();
    let running = serve(obedient(true, &journal));
    let mut commander = running.connect();
    journal.wait("0 setup");
    let mut first = running.connect();
    journal.wait("1 setup");
    running.stats(); // The turn is over: it waits for an event.
    first.send("bye\n");
    first.expect_eof();
    running.wait_for_stats("the first is reaped", |stats| stats.active == 1);
    let mut successor = running.connect();
    journal.wait("2 setup");

    first.send("a voice from beyond\n");
    let stats = running.wait_for_stats("the stale event", |stats| stats.stale_events > 0);
    assert_eq!(stats.active, 2);
    successor.send("send 2 me\n");
    successor.expect("Refused\n");
    assert_eq!(journal.count("2 handle"), 1, "{:?}", journal.lines());
    commander.send("send 2 still\n");
    assert_eq!(commander.line(), "Queued");
    successor.expect("still");
    let (_, guests) = running.stop_with_state();
    assert_eq!(key(guests.ids[1]), key(guests.ids[2]), "the test is about a key that is reused");
}

#[test]
fn a_key_is_not_reused_within_the_turn_that_freed_it() {
    let journal = Journal::new();
    let mut reactor = Reactor::new().unwrap();
    let server = obedient(false, &journal);
    let address = server.server_address();
    let id = reactor.add(server).unwrap();
    let turn = |reactor: &mut Reactor| reactor.poll(Some(Duration::from_secs(5))).unwrap();

    let mut first = Peer::connect(address);
    while reactor.stats().active == 0 {
        turn(&mut reactor);
    }
    // In one turn: the first ends, and more come. Whatever the order of the events, no key changes hands.
    first.send("bye\n");
    let newcomers: Vec<_> = (0..5).map(|_| Peer::connect(address)).collect();
    while reactor.stats().accepted < 6 || reactor.stats().closed < 1 {
        turn(&mut reactor);
    }
    let guests: &mut Guests = reactor.server_mut(id).unwrap();
    let keys: Vec<_> = guests.ids.iter().map(|&id| key(id)).collect();
    assert!(!keys[1..].contains(&keys[0]), "{keys:?}");
    // In a later turn it does.
    let last = Peer::connect(address);
    while reactor.stats().accepted < 7 {
        turn(&mut reactor);
    }
    let guests: &mut Guests = reactor.server_mut(id).unwrap();
    assert_eq!(key(guests.ids[6]), keys[0]);
    drop((newcomers, last));
}

#[test]
fn a_timer_of_a_closed_connection_never_fires_for_its_successor() {
    let journal = Journal::new();
    let notes = journal.clone();
    let mut came = 0;
    let mut server = TcpServer::new("127.0.0.1:0", move |_| {
        let (me, notes) = (came, notes.clone());
        came += 1;
        probe(move |call, request: &mut Request<'_>| {
            notes.note(format!("{me} {call}"));
            match call {
                // Due when the successor has taken the key.
                Call::Setup if me == 0 => (0..100).for_each(|tag| request.set_timer(tag, Duration::from_millis(50))),
                Call::Setup => request.set_timer(1_000, Duration::from_millis(100)),
                _ => {}
            }
            echo(&call, request)
        })
    })
    .unwrap();
    limit(&mut server, |limits| limits.linger_timeout = Duration::ZERO);
    let running = serve(server);
    running.connect().reset();
    journal.wait("0 finish");
    let mut successor = running.connect();
    journal.wait("1 timer 1000");
    successor.echo("alive");
    assert_eq!(journal.count("1 timer"), 1, "{:?}", journal.lines());
    running.stop();
}

#[test]
fn an_offloaded_result_of_a_closed_connection_never_reaches_its_successor() {
    let journal = Journal::new();
    let notes = journal.clone();
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let mut gate = Some(gate);
    let mut came = 0;
    let server = TcpServer::new("127.0.0.1:0", move |_| {
        let (me, notes, mut gate) = (came, notes.clone(), gate.take());
        came += 1;
        probe(move |call, request: &mut Request<'_>| {
            notes.note(format!("{me} {call}"));
            if let (Call::Setup, Some(gate)) = (&call, gate.take()) {
                let notes = notes.clone();
                request.offload(move || {
                    notes.note("the job has begun");
                    gate.recv_timeout(crate::common::PATIENCE).is_ok()
                })?;
            }
            echo(&call, request)
        })
    })
    .unwrap();
    let running = serve(server);
    let first = running.connect();
    journal.wait("the job has begun");
    first.reset();
    journal.wait("0 finish reset");
    let mut successor = running.connect();
    successor.echo("here");
    release.send(()).unwrap();
    running.wait_for_stats("the result is dropped", |stats| stats.messages_dropped == 1);
    successor.echo("alive");
    assert_eq!(journal.count("1 message"), 0);
    running.stop();
}

#[test]
fn every_delivery_is_distinguished() {
    // Queued and Gone are above; here the two that concern a slow consumer.
    for overflow in [socketserver::Overflow::Refuse, socketserver::Overflow::Close] {
        let journal = Journal::new();
        let mut server = obedient(false, &journal);
        limit(&mut server, |limits| {
            limits.output_overflow = overflow;
            limits.output_high_water = 1 << 20;
            limits.output_bytes_max = 2 << 20;
            limits.line_bytes_max = 1 << 20;
        });
        let running = serve(server);
        let mut slow = running.connect();
        journal.wait("0 setup");
        let mut commander = running.connect();
        let load = format!("send 0 {}\n", "x".repeat(512 << 10));
        let mut seen = Vec::new();
        for _ in 0..100 {
            commander.send(&load);
            let sent = commander.line();
            // It is also full for now when it has had its share of a turn.
            seen.retain(|before| *before != sent);
            seen.push(sent);
            if seen.last().is_some_and(|last| last == "Refused" || last == "Gone") {
                break;
            }
        }
        let last = if overflow == socketserver::Overflow::Refuse { "Refused" } else { "Gone" };
        assert_eq!(seen.pop().as_deref(), Some(last));
        seen.sort_unstable();
        assert_eq!(seen, ["Full", "Queued"]);
        if last == "Gone" {
            assert_eq!(journal.wait("0 finish"), "0 finish output limit");
            slow.expect_reset();
        } else {
            slow.send("bye\n");
            let got = slow.rest().len();
            assert!(got > 1 << 20 && got.is_multiple_of(512 << 10), "whole messages only, not {got} bytes");
        }
        running.stop();
    }
}

#[test]
fn others_with_the_own_id_has_the_effect_of_the_own_method() {
    let mut client = Client::new(probe(|call, request: &mut Request<'_>| {
        let me = request.id();
        match call {
            Call::Handle => match request.input.take_all() {
                b"pause" => request.others.pause_reading(me),
                b"pause and resume" => {
                    request.others.pause_reading(me);
                    request.others.resume_reading(me);
                }
                b"shut" => request.others.shutdown_write(me),
                b"who" => {
                    assert_eq!(request.others.connections(), []);
                    assert_eq!(request.others.client_address(me), None);
                    assert_eq!(request.others.send(me, b"lost"), Delivery::Refused);
                    assert_eq!(request.others.broadcast(&b"lost"[..], |id| panic!("{id} is asked")), 0);
                }
                _ => {}
            },
            Call::Message(_) => request.others.resume_reading(me),
            call => return usual(&call, request),
        }
        request.output.write_all(b".")?;
        Ok(Next::Wait)
    }));
    client.feed(b"who");
    client.feed(b"pause and resume");
    client.feed(b"pause");
    client.feed(b"this waits");
    assert_eq!(client.take_sent(), b"...");
    client.message(()).unwrap();
    assert_eq!(client.take_sent(), b"..");
    client.feed(b"shut");
    client.feed(b"more");
    assert_eq!(client.finished(), Some(socketserver::EndReason::Error), "{:?}", client.transcript());
    assert_eq!(client.take_sent(), b".", "what is written after the end of our direction fails");
}
