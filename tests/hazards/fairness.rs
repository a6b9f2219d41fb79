//! Nothing that one client sends, and no way to write a handler, makes the others wait: on the testing kit's clock, which
//! the handlers here move on.

use std::io::Write;
use std::time::Duration;

use socketserver::testing::{Client, Clock, Network, Peer};
use socketserver::{
    Address, ConnectionId, Delivery, EndReason, Limits, Message, Next, Prefix, ReactorConfig, Request, RequestHandler,
    Result,
};

use crate::common::{Call, echo, probe, usual};

/// What each message, and each piece of output, takes.
const WORK: Duration = Duration::from_micros(20);
const TURN: Duration = Duration::from_millis(4);
/// What each has of a turn at least; and what it may take longer, because it is stopped between two messages only.
const SHARE: Duration = Duration::from_micros(50);
const OVERRUN: Duration = Duration::from_micros(100);

/// What is asked of a network in which each new client is served by a handler from `make`.
fn serve<H: RequestHandler>(make: impl Fn(Clock) -> H + Send + 'static) -> (Network, socketserver::ServerId) {
    let mut network = Network::new();
    let clock = network.clock();
    let mut limits = Limits::default();
    limits.connections_max = Some(1_000);
    let server = network.serve((), move |_: &mut (), _: &Address| make(clock.clone()), limits).unwrap();
    (network, server)
}

/// How long a client that asks now waits for its answer.
fn wait(network: &mut Network, polite: &Peer, question: &[u8]) -> Duration {
    let begun = network.now();
    polite.send(question);
    for _ in 0..10_000 {
        network.turn();
        if !polite.take_received().is_empty() {
            return network.now() - begun;
        }
    }
    panic!("it is never answered");
}

/// The longest that anything may wait beside so many that are greedy: the rest of a turn, and the next one.
fn bound(greedy: u32) -> Duration {
    2 * (TURN + greedy * (SHARE + OVERRUN))
}

/// A way to read a message.
type Read = fn(&mut Request<'_>) -> Result<bool>;

const WAYS: [(&str, &[u8], Read); 4] = [
    ("lines", b"\n", |request| Ok(request.input.read_line()?.is_some())),
    ("a delimiter", b"\r\n\r\n", |request| Ok(request.input.read_until(b"\r\n\r\n")?.is_some())),
    ("blocks of a length", b"1234", |request| Ok(request.input.read_exact(4)?.is_some())),
    ("frames", b"\x00\x01x", |request| Ok(request.input.read_frame(Prefix::U16Be)?.is_some())),
];

#[test]
fn many_small_messages_at_once_do_not_hold_the_loop() {
    for (name, message, read) in WAYS {
        for greedy in [1, 10, 50] {
            let (mut network, server) = serve(move |clock| {
                probe(move |call, request: &mut Request<'_>| {
                    if let Call::Handle = call {
                        while read(request)? {
                            clock.advance(WORK);
                            request.output.write_all(b"k")?;
                        }
                        return Ok(Next::Wait);
                    }
                    usual(&call, request)
                })
            });
            let crowd: Vec<_> = (0..greedy).map(|_| network.connect(server)).collect();
            let polite = network.connect(server);
            network.run();
            const MESSAGES: usize = 2_000;
            crowd.iter().for_each(|peer| peer.send(&message.repeat(MESSAGES)));
            for _ in 0..5 {
                network.turn();
                let waited = wait(&mut network, &polite, message);
                assert!(waited <= bound(greedy), "{name}: beside {greedy} it waits {waited:?}");
            }
            network.run();
            assert!(crowd.iter().all(|peer| peer.take_received() == vec![b'k'; MESSAGES]), "{name}: none is lost");
        }
    }
}

#[test]
fn a_handler_that_takes_all_there_is_does_not_hold_the_loop() {
    for greedy in [1, 10, 50] {
        let (mut network, server) = serve(|clock| {
            probe(move |call, request: &mut Request<'_>| {
                if let Call::Handle = call {
                    let bytes = request.input.take_all();
                    clock.advance(WORK * bytes.len().div_ceil(64) as u32);
                    request.output.write_all(bytes)?;
                    return Ok(Next::Wait);
                }
                usual(&call, request)
            })
        });
        let crowd: Vec<_> = (0..greedy).map(|_| network.connect(server)).collect();
        let polite = network.connect(server);
        network.run();
        const BYTES: usize = 100_000;
        crowd.iter().for_each(|peer| peer.send(&[b'x'; BYTES]));
        // How much is too much is found out in the first turns.
        (0..10).for_each(|_| _ = network.turn());
        for _ in 0..10 {
            let waited = wait(&mut network, &polite, b"?");
            assert!(waited <= bound(greedy), "beside {greedy} it waits {waited:?}");
        }
        network.run();
        assert!(crowd.iter().all(|peer| peer.take_received().len() == BYTES));
    }
}

#[test]
fn time_that_is_not_in_the_bytes_does_not_cut_the_input_into_crumbs() {
    let (mut network, server) = serve(|clock| {
        probe(move |call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                request.input.take_all();
                clock.advance(Duration::from_millis(10)); // However much it is.
                request.output.write_all(b"k")?;
                return Ok(Next::Wait);
            }
            usual(&call, request)
        })
    });
    let client = network.connect(server);
    network.run();
    client.send(&[b'x'; 1 << 20]);
    network.run();
    let calls = client.take_received().len();
    assert!(calls <= (1 << 20) / (8 * 1024), "{calls} callbacks for 1 MiB");
}

#[test]
fn large_input_is_soon_read_in_large_pieces() {
    let (mut network, server) = serve(|_| {
        probe(move |call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                request.input.take_all();
                request.output.write_all(b"k")?;
                return Ok(Next::Wait);
            }
            usual(&call, request)
        })
    });
    let client = network.connect(server);
    network.run();
    client.send(&vec![b'x'; 8 << 20]);
    network.run();
    let calls = client.take_received().len();
    assert!(calls <= 5 + 8 * 4, "{calls} callbacks for 8 MiB");
}

/// Writes pieces, each after a while, until it has written all.
fn producer(clock: Clock, pieces: usize, work: Duration, bytes: usize) -> impl RequestHandler {
    let (mut left, mut begun) = (pieces, false);
    probe(move |call, request: &mut Request<'_>| {
        match call {
            Call::Handle if request.input.take_all() != b"go" => request.output.write_all(b"k")?,
            Call::Handle | Call::Writable => {
                begun |= matches!(call, Call::Handle);
                while begun && left > 0 && !request.output.is_full() {
                    clock.advance(work);
                    request.output.write_all(&vec![b'x'; bytes])?;
                    left -= 1;
                }
            }
            call => return usual(&call, request),
        }
        Ok(Next::Wait)
    })
}

#[test]
fn a_producer_does_not_hold_the_loop_and_continues_without_an_event() {
    for greedy in [1, 10, 50] {
        let (mut network, server) = serve(|clock| producer(clock, 5_000, WORK, 100));
        let crowd: Vec<_> = (0..greedy).map(|_| network.connect(server)).collect();
        let polite = network.connect(server);
        network.run();
        crowd.iter().for_each(|peer| peer.send(b"go"));
        for _ in 0..20 {
            network.turn();
            let waited = wait(&mut network, &polite, b"?");
            assert!(waited <= bound(greedy), "beside {greedy} it waits {waited:?}");
        }
        network.run();
        assert!(crowd.iter().all(|peer| peer.take_received().len() == 500_000), "none stops for good");
    }
}

#[test]
fn direct_writes_of_a_callback_count_against_the_budget() {
    let (mut network, server) = serve(|clock| producer(clock, 100, Duration::ZERO, 64 * 1024));
    let client = network.connect(server);
    network.run();
    client.send(b"go");
    network.turn();
    assert_eq!(client.take_received().len(), 256 * 1024, "the client takes everything, and the turn is over");
    network.run();
    assert_eq!(client.take_received().len(), 96 * 64 * 1024);
}

#[test]
fn a_large_payload_is_sent_as_long_as_there_is_time_and_shared_or_copied_alike() {
    for shared in [false, true] {
        let (mut network, server) = serve(move |_| {
            probe(move |call, request: &mut Request<'_>| {
                if let Call::Handle = call {
                    request.input.take_all();
                    match shared {
                        true => request.output.write_shared(vec![b'x'; 4 << 20])?,
                        false => request.output.write_all(&vec![b'x'; 4 << 20])?,
                    }
                    assert!(request.output.is_full(), "it was more than a turn sends");
                }
                usual(&call, request)
            })
        });
        let client = network.connect(server);
        network.run();
        client.send(b"go");
        network.turn();
        assert_eq!(client.take_received().len(), 4 << 20, "shared: {shared}");
        // Each system call takes a while: what there is no time for leaves later.
        let clock = network.clock();
        network.on_call(move |call, _| {
            let time =
                if call == socketserver::testing::Call::Write { Duration::from_millis(1) } else { Duration::ZERO };
            clock.advance(time);
            socketserver::testing::Outcome::Proceed
        });
        client.send(b"go");
        network.turn();
        let sent = client.take_received().len();
        assert!((1 << 20..4 << 20).contains(&sent), "shared: {shared}: {sent} bytes in a turn");
        network.run();
        assert_eq!(client.take_received().len(), (4 << 20) - sent);
    }
}

#[test]
fn a_handler_that_sends_to_another_without_end_is_interrupted() {
    struct Pump {
        clock: Clock,
        to: Option<ConnectionId>,
        left: usize,
    }
    impl RequestHandler for Pump {
        fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
            if request.input.take_all() == b"go" {
                self.to = request.others.connections().first().copied();
                self.pump(request);
            }
            Ok(Next::Wait)
        }
        fn writable(&mut self, request: &mut Request<'_>) -> Result<Next> {
            // Of the one that is sent to.
            for id in request.others.connections() {
                request.others.handle().send(id, ())?;
            }
            Ok(Next::Wait)
        }
        fn message(&mut self, request: &mut Request<'_>, _: Message) -> Result<Next> {
            self.pump(request);
            Ok(Next::Wait)
        }
    }
    impl Pump {
        fn pump(&mut self, request: &mut Request<'_>) {
            let Some(to) = self.to else { return };
            while self.left > 0 {
                self.clock.advance(Duration::from_micros(100));
                self.left -= 1;
                if request.others.send(to, &[b'x'; 20_000]) != Delivery::Queued {
                    break;
                }
            }
        }
    }
    let (mut network, server) = serve(|clock| Pump { clock, to: None, left: 1_000 });
    let (from, to) = (network.connect(server), network.connect(server));
    network.run();
    from.send(b"go");
    let begun = network.now();
    network.turn();
    let took = network.now() - begun;
    assert!(took <= 2 * TURN, "a turn takes {took:?}");
    network.run();
    assert_eq!(to.take_received().len(), 20_000_000);
}

#[test]
fn timers_and_messages_leave_connections_their_turn() {
    for how in ["timers", "messages"] {
        let (tell, told) = std::sync::mpsc::channel();
        let (mut network, server) = serve(move |clock| {
            let tell = tell.clone();
            probe(move |call, request: &mut Request<'_>| {
                match call {
                    Call::Timer(_) | Call::Message(_) => {
                        clock.advance(Duration::from_micros(200));
                        request.output.write_all(b"t")?;
                    }
                    Call::Handle => match request.input.take_all() {
                        b"set" => (0..500).for_each(|tag| request.set_timer(tag, Duration::from_millis(10))),
                        b"id" => tell.send(request.id()).unwrap(),
                        _ => request.output.write_all(b"k")?,
                    },
                    call => return usual(&call, request),
                }
                Ok(Next::Wait)
            })
        });
        let (busy, polite) = (network.connect(server), network.connect(server));
        network.run();
        if how == "timers" {
            busy.send(b"set");
            network.run();
            network.advance(Duration::from_millis(10));
        } else {
            busy.send(b"id");
            network.run();
            let (handle, id) = (network.handle(), told.recv().unwrap());
            (0..500).for_each(|n| handle.send(id, n).unwrap());
        }
        for _ in 0..5 {
            let waited = wait(&mut network, &polite, b"?");
            assert!(waited <= bound(1), "beside {how} it waits {waited:?}");
        }
        network.run();
        assert_eq!(busy.take_received().len() + polite.take_received().len(), 500, "none is lost");
    }
}

#[test]
fn datagrams_leave_connections_their_turn() {
    let (mut network, server) = serve(|_| probe(|call, request: &mut Request<'_>| echo(&call, request)));
    let clock = network.clock();
    let handler = move |_: &mut (), _: &Address| {
        let clock = clock.clone();
        probe(move |call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                // Its messages are read to the end: what is left of a datagram is lost.
                while request.input.read_line()?.is_some() {
                    clock.advance(WORK);
                    request.output.write_all(b"k")?;
                }
            }
            usual(&call, request)
        })
    };
    let datagrams = network.serve_datagrams((), handler, Limits::default()).unwrap();
    let polite = network.connect(server);
    network.run();
    let from: Address = std::net::SocketAddr::from(([198, 18, 0, 1], 1000)).into();
    (0..500).for_each(|_| network.send_datagram(datagrams, &from, &[b'\n'; 20]));
    for _ in 0..10 {
        let waited = wait(&mut network, &polite, b"?");
        assert!(waited <= bound(1), "it waits {waited:?}");
    }
    network.run();
    let answers = network.received_datagrams(datagrams);
    assert_eq!(answers.len(), 500);
    assert!(answers.iter().all(|(_, bytes)| *bytes == [b'k'; 20]), "each is whole");
}

#[test]
fn a_flood_of_clients_that_take_long_to_set_up_leaves_the_others_their_turn() {
    let (mut network, server) = serve(|clock| {
        probe(move |call, request: &mut Request<'_>| {
            if let Call::Setup = call {
                clock.advance(Duration::from_millis(1));
            }
            echo(&call, request)
        })
    });
    let polite = network.connect(server);
    network.run();
    let flood: Vec<_> = (0..100).map(|_| network.connect(server)).collect();
    network.turn();
    let waited = wait(&mut network, &polite, b"?");
    assert!(waited <= bound(1) + Duration::from_millis(8), "it waits {waited:?}");
    network.run();
    assert_eq!(network.stats().accepted, 1 + flood.len() as u64);
}

/// Reads lines, slowly and without an answer, and counts them when it is over.
fn counter(clock: Clock) -> impl RequestHandler {
    let mut lines = 0;
    probe(move |call, request: &mut Request<'_>| {
        match call {
            Call::Handle => {
                while request.input.read_line()?.is_some() {
                    clock.advance(WORK);
                    lines += 1;
                }
                return Ok(if request.input.is_eof() { Next::Close } else { Next::Wait });
            }
            Call::Finish(_) => write!(request.output, "{lines}")?,
            _ => {}
        }
        usual(&call, request)
    })
}

#[test]
fn a_stop_waits_for_input_that_was_held_back() {
    let (mut network, server) = serve(counter);
    let client = network.connect(server);
    network.run();
    client.send(&[b'\n'; 20_000]);
    network.turn();
    network.shutdown_handle().shutdown();
    network.run();
    for _ in 0..20 {
        network.advance(network.next_timeout().unwrap_or_default());
        network.run();
    }
    assert_eq!(client.take_received(), b"20000");
}

#[test]
fn the_end_of_the_input_comes_after_held_back_input() {
    let (mut network, server) = serve(counter);
    let client = network.connect(server);
    network.run();
    client.send(&[b'\n'; 20_000]);
    client.send_eof();
    network.run();
    assert_eq!(client.take_received(), b"20000");
}

#[test]
fn a_callback_for_an_end_is_not_stopped() {
    let (mut network, server) = serve(|clock| {
        probe(move |call, request: &mut Request<'_>| {
            match call {
                Call::Eof => {
                    let mut lines = 0;
                    while request.input.read_line()?.is_some() {
                        clock.advance(WORK);
                        lines += 1;
                    }
                    writeln!(request.output, "{lines}")?;
                }
                Call::Finish(_) => {
                    for _ in 0..1_000 {
                        clock.advance(WORK);
                        assert!(!request.output.is_full());
                        request.output.write_all(b"x")?;
                    }
                }
                Call::Handle => return Ok(Next::Wait), // All in the end.
                _ => {}
            }
            usual(&call, request)
        })
    });
    let client = network.connect(server);
    network.run();
    client.send(&[b'\n'; 1_000]);
    client.send_eof();
    network.run();
    assert_eq!(client.take_received(), [b"1000\n".to_vec(), vec![b'x'; 1_000]].concat());
}

#[test]
fn a_turn_is_as_long_as_it_is_set() {
    for millis in [1, 10, 100] {
        let mut config = ReactorConfig::default();
        config.turn_length = Duration::from_millis(millis);
        let mut network = Network::with_config(config);
        let clock = network.clock();
        let make = move |_: &mut (), _: &Address| counter(clock.clone());
        let server = network.serve((), make, Limits::default()).unwrap();
        let client = network.connect(server);
        network.run();
        client.send(&[b'\n'; 16_000]);
        let begun = network.now();
        network.turn();
        let took = network.now() - begun;
        let length = Duration::from_millis(millis);
        assert!((length / 2..=length + OVERRUN).contains(&took), "{took:?} of {length:?}");
        client.send_eof();
        network.run();
        assert_eq!(client.take_received(), b"16000");
    }
}

/// `finish` of one that was stopped in the middle is told how it really ended.
#[test]
fn a_client_that_resets_while_its_input_is_held_back_is_done_with() {
    let (tell, told) = std::sync::mpsc::channel();
    let (mut network, server) = serve(move |clock| {
        let tell = tell.clone();
        probe(move |call, request: &mut Request<'_>| {
            match call {
                Call::Handle => {
                    while request.input.read_line()?.is_some() {
                        clock.advance(WORK);
                    }
                    return Ok(Next::Wait);
                }
                Call::Finish(why) => tell.send(why).unwrap(),
                _ => {}
            }
            usual(&call, request)
        })
    });
    let client = network.connect(server);
    network.run();
    client.send(&[b'\n'; 5_000]);
    network.turn();
    client.send_reset();
    network.run();
    assert_eq!(told.try_recv(), Ok(EndReason::Reset));
    assert_eq!(network.stats().active, 0);
}

#[test]
fn a_loop_over_blocks_of_no_bytes_ends() {
    #[derive(Default)]
    struct Blocks {
        size: Option<usize>,
        empty: usize,
    }
    impl RequestHandler for Blocks {
        fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
            let size = match self.size {
                Some(size) => size,
                None => {
                    let Some(line) = request.input.read_line()? else { return Ok(Next::Wait) };
                    *self.size.insert(std::str::from_utf8(line).unwrap().trim().parse().unwrap())
                }
            };
            while let Some(block) = request.input.read_exact(size)? {
                self.empty += usize::from(block.is_empty());
                assert!(self.empty < 10, "it goes on and on");
                request.output.write_all(b"block")?;
            }
            Ok(Next::Wait)
        }
    }
    let mut client = Client::new(Blocks::default());
    client.feed(b"0\n");
    assert_eq!(client.sent(), b"block");
    client.feed(b"more");
    assert_eq!(client.sent(), b"blockblock");
    assert!(!client.is_closed());

    // Each is read where bytes come in between.
    let mut client = Client::new(probe(|call, request: &mut Request<'_>| {
        while matches!(call, Call::Handle) && request.input.read_line()?.is_some() {
            assert_eq!(request.input.read_exact(0)?, Some(&b""[..]));
            request.output.write_all(b".")?;
        }
        Ok(Next::Wait)
    }));
    client.feed(b"a\nb\nc\n");
    assert_eq!(client.sent(), b"...");
}
