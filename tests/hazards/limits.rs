//! Limits and budgets at their last byte: so much and no more, and no less either.

use std::io::{IoSlice, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use socketserver::testing::{Client, Network};
use socketserver::{Address, Finish, Limits, Linger, Next, Overflow, Request, RequestHandler, Sent};

use crate::common::{Call, probe, usual};

/// What a test wants done with a request.
type Act = Box<dyn FnOnce(&mut Request<'_>) + Send>;

/// Writes so many bytes in some way. Says whether they were taken.
type Way = fn(&mut Request<'_>, usize) -> bool;

/// Does what it is sent.
fn willing() -> impl RequestHandler {
    probe(|call, request: &mut Request<'_>| match call {
        Call::Message(message) => {
            (message.downcast::<Act>().expect("something to do"))(request);
            Ok(Next::Wait)
        }
        call => usual(&call, request),
    })
}

/// Lets the handler do something, and returns what came of it.
fn ask<T: Send + 'static>(client: &mut Client<()>, act: impl FnOnce(&mut Request<'_>) -> T + Send + 'static) -> T {
    let (tell, told) = std::sync::mpsc::channel();
    let act: Act = Box::new(move |request| tell.send(act(request)).unwrap());
    client.message(act).unwrap();
    told.try_recv().expect("the handler was called")
}

fn small(request: &mut Request<'_>, n: usize) -> bool {
    (0..n).all(|_| request.output.write_all(b"x").is_ok())
}

fn as_one(request: &mut Request<'_>, n: usize) -> bool {
    request.output.write_all(&vec![b'x'; n]).is_ok()
}

fn shared(request: &mut Request<'_>, n: usize) -> bool {
    request.output.write_shared(vec![b'x'; n]).is_ok()
}

fn in_pieces(request: &mut Request<'_>, n: usize) -> bool {
    let bytes = vec![b'x'; n];
    let (one, other) = bytes.split_at(n / 2);
    request.output.write_vectored(&[IoSlice::new(one), IoSlice::new(other)]).is_ok()
}

#[test]
fn a_handlers_output_may_wait_up_to_its_maximum_and_no_further() {
    let ways: [(&str, Way); 4] = [("small", small), ("as one", as_one), ("shared", shared), ("in pieces", in_pieces)];
    for (way, write) in ways {
        for policy in [Overflow::Close, Overflow::Refuse] {
            for (max, high_water) in [(100, 50), (100, 100), (20_000, 10_000), (100_000, 65_536)] {
                let context = format!("{way}, {policy:?}, {max}");
                let mut limits = Limits::default();
                (limits.output_bytes_max, limits.output_overflow) = (max, policy);
                (limits.output_high_water, limits.output_low_water) = (high_water, 10);
                let mut client = Client::with_limits((), willing(), limits);
                client.set_window(0);
                let (empty, wrote, len, full) = ask(&mut client, move |request| {
                    let empty = request.output.is_empty();
                    (empty, write(request, max), request.output.len(), request.output.is_full())
                });
                assert!(empty && wrote, "{context}");
                assert_eq!((len, full), (max, max > high_water), "{context}");
                let (empty, more, len) = ask(&mut client, move |request| {
                    (request.output.is_empty(), write(request, 1), request.output.len())
                });
                assert!(!empty && !more, "{context}");
                if policy == Overflow::Close {
                    assert_eq!(client.finished(), Some(Finish::OutputLimit), "{context}");
                    continue;
                }
                assert_eq!((client.finished(), len), (None, max), "{context}");
                client.set_window(usize::MAX);
                assert_eq!(client.sent().len(), max, "{context}");
            }
        }
    }
}

#[test]
fn what_the_socket_takes_at_once_does_not_wait() {
    for (way, write) in [("small", small as Way), ("as one", as_one), ("in pieces", in_pieces)] {
        for max in [100, 20_000, 100_000] {
            let mut limits = Limits::default();
            (limits.output_bytes_max, limits.output_high_water, limits.output_low_water) = (max, max / 2, 10);
            let mut client = Client::with_limits((), willing(), limits);
            client.set_window(1);
            let wrote = ask(&mut client, move |request| write(request, max + 1));
            assert!(wrote && client.finished().is_none(), "{way}, {max}");
            let wrote = ask(&mut client, move |request| write(request, 2));
            assert!(!wrote && client.finished() == Some(Finish::OutputLimit), "{way}, {max}");
        }
    }
}

/// Sends as many bytes as it is told to the other client, and says what became of them.
fn forwarding() -> impl RequestHandler {
    probe(|call, request: &mut Request<'_>| {
        let Call::Handle = call else { return usual(&call, request) };
        let n = std::str::from_utf8(request.input.take_all()).unwrap().parse().unwrap();
        let other = *request.others.connections().first().expect("the other client");
        let sent = request.others.send(other, &vec![b'x'; n]);
        write!(request.output, "{sent:?}")?;
        Ok(Next::Wait)
    })
}

#[test]
fn output_from_others_may_wait_up_to_its_maximum_and_no_further() {
    for (policy, beyond) in [(Overflow::Close, Sent::Gone), (Overflow::Refuse, Sent::Refused)] {
        for max in [100, 15_000, 100_000] {
            let mut limits = Limits::default();
            (limits.output_bytes_max, limits.output_overflow) = (max, policy);
            (limits.output_high_water, limits.output_low_water) = (max - 1, 10);
            let mut network = Network::new();
            let server = network.serve((), |_: &mut (), _: &Address| forwarding(), limits).unwrap();
            let (one, other) = (network.connect(server), network.connect(server));
            other.set_window(0);
            network.run();
            let mut ask = |n: usize| {
                one.send(n.to_string().as_bytes());
                network.run();
                String::from_utf8(one.take_received()).unwrap()
            };
            assert_eq!(ask(max - 1), format!("{:?}", Sent::Queued), "at the high-water mark, not above it");
            assert_eq!(ask(1), format!("{:?}", Sent::Full));
            assert_eq!(ask(1), format!("{beyond:?}"));
            if policy == Overflow::Refuse {
                other.set_window(usize::MAX);
                network.run();
                assert_eq!(other.take_received().len(), max);
            }
            assert_eq!(network.stats().output_limits, u64::from(policy == Overflow::Close));
        }
    }
}

#[test]
fn a_large_block_from_another_goes_to_the_socket_as_far_as_that_takes_it() {
    for window in [0, 1, 20_000, 50_000, usize::MAX] {
        let mut network = Network::new();
        let server = network.serve((), |_: &mut (), _: &Address| forwarding(), Limits::default()).unwrap();
        let (one, other) = (network.connect(server), network.connect(server));
        other.set_window(window);
        network.run();
        one.send(b"50000");
        network.run();
        assert_eq!(other.take_received().len(), window.min(50_000));
        other.set_window(usize::MAX);
        network.run();
        assert_eq!(other.take_received().len(), 50_000_usize.saturating_sub(window));
    }
}

#[test]
fn so_much_may_be_left_unread_and_no_more() {
    for (n, ended) in [(100, None), (101, Some(Finish::InputLimit))] {
        let mut limits = Limits::default();
        limits.input_bytes_max = 100;
        let leaving = probe(|call, request: &mut Request<'_>| match call {
            Call::Handle => Ok(Next::Wait),
            call => usual(&call, request),
        });
        let mut client = Client::with_limits((), leaving, limits);
        client.feed(&vec![b'x'; n]);
        assert_eq!(client.finished(), ended, "{n} bytes");
    }
}

/// Takes turns until nothing is left to do. What a counter grew by in each turn in which it did.
fn in_each_turn(network: &mut Network, counter: impl Fn(&Network) -> usize) -> Vec<usize> {
    let (mut steps, mut before) = (Vec::new(), counter(network));
    let mut more = true;
    while more {
        more = network.turn();
        let now = counter(network);
        steps.extend((now > before).then(|| now - before));
        before = now;
    }
    steps
}

#[test]
fn a_turn_gives_each_connection_its_budgets_and_no_more() {
    let mut limits = Limits::default();
    (limits.accepts_per_turn, limits.read_bytes_per_turn, limits.write_bytes_per_turn) = (3, 100, 60);
    (limits.linger, limits.linger_bytes_max, limits.callbacks_per_turn) = (Linger::Always, 1_000, 16);
    let handler = |_: &mut (), _: &Address| {
        probe(|call, request: &mut Request<'_>| {
            if let Call::Handle = call
                && request.input.take_all().ends_with(b"!")
            {
                request.output.write_shared(vec![b'x'; 150])?;
                return Ok(Next::Close);
            }
            usual(&call, request)
        })
    };
    let mut network = Network::new();
    let server = network.serve((), handler, limits).unwrap();
    let clients: Vec<_> = (0..8).map(|_| network.connect(server)).collect();
    assert_eq!(in_each_turn(&mut network, |network| network.stats().accepted as usize), [3, 3, 2]);

    let client = &clients[0];
    client.send(&[&[b'x'; 249][..], b"!"].concat());
    assert_eq!(in_each_turn(&mut network, |network| network.stats().bytes_in as usize), [100, 100, 50]);
    assert_eq!(client.take_received().len(), 150);

    let client = &clients[1];
    client.set_window(0);
    client.send(b"!");
    network.run();
    client.set_window(1_000);
    assert_eq!(in_each_turn(&mut network, |network| network.stats().bytes_out as usize), [60, 60, 30]);
    assert_eq!(client.take_received().len(), 150);

    // What comes after the close is read and forgotten, within the same budget, and up to its limit.
    client.send(&[b'x'; 950]);
    let turns = in_each_turn(&mut network, |network| network.stats().turns as usize);
    assert!(turns.len() >= 10, "950 bytes take ten turns, not {}", turns.len());
    assert!(!client.is_socket_closed());
    client.send(&[b'x'; 49]);
    network.run();
    assert!(!client.is_socket_closed());
    client.send(b"x");
    network.run();
    assert!(client.is_socket_closed());
}

#[test]
fn a_turn_calls_each_connection_back_so_often_and_no_more() {
    let mut limits = Limits::default();
    (limits.callbacks_per_turn, limits.read_bytes_per_turn) = (4, 1_000);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let handler = move |_: &mut (), _: &Address| {
        let counted = Arc::clone(&counted);
        probe(move |call, request: &mut Request<'_>| {
            counted.fetch_add(1, Ordering::Relaxed);
            usual(&call, request)
        })
    };
    let mut config = socketserver::Config::default();
    config.read_buffer_bytes = 10;
    let mut network = Network::with_config(config);
    let server = network.serve((), handler, limits).unwrap();
    let client = network.connect(server);
    network.run();
    client.send(&[b'x'; 95]);
    let count = |_: &Network| calls.load(Ordering::Relaxed);
    assert_eq!(in_each_turn(&mut network, count), [4, 4, 2]);
}

#[test]
fn a_read_buffer_is_changed_with_the_settings() {
    let mut network = Network::new();
    let reads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&reads);
    let handler = move |_: &mut (), _: &Address| {
        let seen = Arc::clone(&seen);
        probe(move |call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                seen.lock().unwrap().push(request.input.len());
            }
            usual(&call, request)
        })
    };
    let server = network.serve((), handler, Limits::default()).unwrap();
    let client = network.connect(server);
    for (bytes, expected) in [(10, &[10, 10, 5][..]), (100, &[25]), (20, &[20, 5])] {
        let mut config = socketserver::Config::default();
        config.read_buffer_bytes = bytes;
        network.handle().run(move |reactor| reactor.set_config(config)).unwrap();
        network.run();
        client.send(&[b'x'; 25]);
        network.run();
        assert_eq!(std::mem::take(&mut *reads.lock().unwrap()), expected);
    }
}
