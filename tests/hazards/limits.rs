//! Limits and budgets at their last byte: so much and no more, and no less either.

use std::io::{IoSlice, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socketserver::testing::{Client, Network};
use socketserver::{
    Address, BaseServer, ConnectionLimits, Delivery, EndReason, Error, Limits, Linger, Next, Overflow, Request,
    RequestHandler, Result,
};

use crate::common::{Call, Journal, probe, usual};

/// What a test wants done with a request.
type Act = Box<dyn FnOnce(&mut Request<'_>) + Send>;

/// Writes so many bytes in some way. Returns whether they were taken.
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
                    assert_eq!(client.finished(), Some(EndReason::OutputLimit), "{context}");
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
fn output_that_the_socket_takes_at_once_does_not_wait() {
    for (way, write) in [("small", small as Way), ("as one", as_one), ("in pieces", in_pieces)] {
        for max in [100, 20_000, 100_000] {
            let mut limits = Limits::default();
            (limits.output_bytes_max, limits.output_high_water, limits.output_low_water) = (max, max / 2, 10);
            let mut client = Client::with_limits((), willing(), limits);
            client.set_window(1);
            let wrote = ask(&mut client, move |request| write(request, max + 1));
            assert!(wrote && client.finished().is_none(), "{way}, {max}");
            let wrote = ask(&mut client, move |request| write(request, 2));
            assert!(!wrote && client.finished() == Some(EndReason::OutputLimit), "{way}, {max}");
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
    for (policy, beyond) in [(Overflow::Close, Delivery::Gone), (Overflow::Refuse, Delivery::Refused)] {
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
            assert_eq!(ask(max - 1), format!("{:?}", Delivery::Queued), "at the high-water mark, not above it");
            assert_eq!(ask(1), format!("{:?}", Delivery::Full));
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
    for (n, ended) in [(100, None), (101, Some(EndReason::InputLimit))] {
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
    let mut config = socketserver::ReactorConfig::default();
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
        let mut config = socketserver::ReactorConfig::default();
        config.read_buffer_bytes = bytes;
        network.handle().run(move |reactor| reactor.set_config(config)).unwrap();
        network.run();
        client.send(&[b'x'; 25]);
        network.run();
        assert_eq!(std::mem::take(&mut *reads.lock().unwrap()), expected);
    }
}

/// A client that never reads, of a server whose connections may hold 100,000 bytes. It is sent so many, after `act`.
fn holding(bytes: usize, mut act: impl FnMut(&mut Request<'_>) -> Result<()> + Send + 'static) -> Client {
    let mut limits = Limits::default();
    limits.output_bytes_max = 100_000;
    let handler = probe(move |call, request: &mut Request<'_>| {
        let Call::Handle = call else { return usual(&call, request) };
        act(request)?;
        request.input.take_all();
        request.output.write_all(&vec![b'x'; bytes])?;
        Ok(Next::Wait)
    });
    let mut client = Client::with_limits((), handler, limits);
    client.set_window(0);
    client.feed(b"send it");
    client
}

fn own_limits(set: impl Fn(&mut ConnectionLimits)) -> ConnectionLimits {
    let mut limits = ConnectionLimits::default();
    set(&mut limits);
    limits
}

#[test]
fn a_connection_may_hold_more_output_than_its_server_says_and_at_once() {
    assert_eq!(holding(100_001, |_| Ok(())).finished(), Some(EndReason::OutputLimit));
    let more = own_limits(|limits| limits.output_bytes_max = Some(200_000));
    assert_eq!(holding(200_000, move |request| request.set_limits(&more)).finished(), None);
    assert_eq!(holding(200_001, move |request| request.set_limits(&more)).finished(), Some(EndReason::OutputLimit));
}

#[test]
fn a_connection_may_hold_less_output_than_its_server_says() {
    let less = own_limits(|limits| limits.output_bytes_max = Some(1_000));
    assert_eq!(holding(1_000, move |request| request.set_limits(&less)).finished(), None);
    assert_eq!(holding(1_001, move |request| request.set_limits(&less)).finished(), Some(EndReason::OutputLimit));
    // What waits already counts, and so does what others send.
    let late = move |request: &mut Request<'_>| {
        request.output.write_all(&[b'x'; 2_000])?;
        request.set_limits(&less)
    };
    assert_eq!(holding(0, late).finished(), Some(EndReason::OutputLimit));
}

#[test]
fn the_marks_of_a_connection_follow_its_own_maximum() {
    let less = own_limits(|limits| limits.output_bytes_max = Some(1_600));
    let full = |bytes| {
        let seen = Arc::new(AtomicBool::new(false));
        let note = Arc::clone(&seen);
        holding(0, move |request| {
            request.set_limits(&less)?;
            request.output.write_all(&vec![b'x'; bytes])?;
            note.store(request.output.is_full(), Ordering::Relaxed);
            Ok(())
        });
        seen.load(Ordering::Relaxed)
    };
    assert_eq!((full(400), full(401)), (false, true));
}

#[test]
fn a_connection_is_called_when_its_own_low_mark_is_reached() {
    let own = own_limits(|limits| (limits.output_high_water, limits.output_low_water) = (Some(1_000), Some(900)));
    let mut client = holding(1_500, move |request| request.set_limits(&own));
    client.set_window(599);
    assert!(!client.transcript().contains(&"writable".to_owned()));
    client.set_window(1);
    assert!(client.transcript().contains(&"writable".to_owned()), "{:?}", client.transcript());
}

#[test]
fn a_connection_may_leave_more_or_less_unread_than_its_server_says() {
    let mut limits = Limits::default();
    limits.input_bytes_max = 1_000;
    let run = |own: Option<usize>, bytes: usize| {
        let handler = probe(move |call, request: &mut Request<'_>| match call {
            Call::Setup => {
                request.set_limits(&own_limits(|limits| limits.input_bytes_max = own))?;
                Ok(Next::Wait)
            }
            Call::Handle => {
                assert!(request.input.read_exact(own.unwrap_or(1_000)).is_ok());
                assert!(request.input.read_exact(own.unwrap_or(1_000) + 1).is_err());
                Ok(Next::Wait)
            }
            call => usual(&call, request),
        });
        let mut client = Client::with_limits((), handler, limits.clone());
        client.feed(&vec![b'x'; bytes]);
        client.finished()
    };
    assert_eq!((run(None, 999), run(Some(2_000), 1_999), run(Some(10), 9)), (None, None, None));
    let mut client = Client::with_limits(
        (),
        probe(|call, request: &mut Request<'_>| match call {
            Call::Setup => {
                request.set_limits(&own_limits(|limits| limits.input_bytes_max = Some(10))).map(|()| Next::Wait)
            }
            _ => Ok(Next::Wait),
        }),
        limits,
    );
    client.feed(b"eleven byte");
    assert_eq!(client.finished(), Some(EndReason::InputLimit));
}

#[test]
fn own_limits_that_contradict_each_other_are_refused_and_change_nothing() {
    let wrong = own_limits(|limits| (limits.output_high_water, limits.output_bytes_max) = (Some(10), Some(9)));
    let client = holding(100_000, move |request| {
        let error = request.set_limits(&wrong).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot use output_high_water = 10 with output_bytes_max = 9: the mark could never be reached"
        );
        Ok(())
    });
    assert_eq!(client.finished(), None);
}

/// Notes the address under which a request ends.
struct Behind(Journal);

impl BaseServer for Behind {
    fn close_request(&mut self, client_address: &Address, why: EndReason) {
        self.0.note(format!("{client_address} {why}"));
    }
    fn handle_error(&mut self, client_address: &Address, error: &Error) {
        panic!("{client_address}: {error}");
    }
}

#[test]
fn the_clients_of_a_proxy_are_counted_and_named_by_their_own_addresses() {
    let journal = Journal::new();
    let mut network = Network::new();
    let mut limits = Limits::default();
    limits.connections_per_client_max = Some(2);
    let handler = |_: &mut Behind, _: &Address| {
        probe(|call, request: &mut Request<'_, Behind>| {
            let Call::Handle = call else { return usual(&call, request) };
            let line = std::str::from_utf8(request.input.take_all())?;
            if let Ok(client) = line.parse::<SocketAddr>() {
                request.set_client_address(client)?;
                assert_eq!(request.client_address(), Address::from(client));
            }
            let others = request.others.connections();
            let mut others: Vec<_> =
                others.iter().filter_map(|&id| request.others.client_address(id)?.port()).collect();
            others.sort_unstable();
            write!(request.output, "{others:?}")?;
            Ok(Next::Wait)
        })
    };
    let server = network.serve(Behind(journal.clone()), handler, limits).unwrap();
    let come = |network: &mut Network, address: &str| {
        let peer = network.connect(server);
        peer.send(address.as_bytes());
        network.run();
        (String::from_utf8(peer.take_received()).unwrap(), peer)
    };
    let (_, first) = come(&mut network, "203.0.113.7:1");
    let (seen, _second) = come(&mut network, "203.0.113.7:2");
    assert_eq!(seen, "[1]");
    let (_, third) = come(&mut network, "203.0.113.7:3");
    assert!(third.is_closed());
    let (seen, _other) = come(&mut network, "203.0.113.8:4");
    assert_eq!(seen, "[1, 2]");
    // There is room for one more when one has gone.
    first.send_eof();
    network.run();
    let (seen, fourth) = come(&mut network, "203.0.113.7:5");
    assert!(!fourth.is_closed());
    assert_eq!(seen, "[2, 4]");
    assert_eq!(journal.lines(), ["203.0.113.7:3 refused", "203.0.113.7:1 peer closed"]);
    assert_eq!(network.stats().refused, 1);
}

#[test]
fn a_connection_that_lowers_its_limits_ends_if_it_holds_more_paused_or_not_and_in_any_callback() {
    let less = own_limits(|limits| (limits.input_bytes_max, limits.output_bytes_max) = (Some(10), Some(1_000)));
    let run = |unsent: usize, unread: &[u8]| {
        let handler = probe(move |call, request: &mut Request<'_>| match call {
            Call::Handle => {
                request.pause_reading();
                request.output.write_all(&vec![b'x'; unsent])?;
                request.set_timer(1, Duration::from_secs(1));
                Ok(Next::Wait)
            }
            Call::Timer(_) => request.set_limits(&less).map(|()| Next::Wait),
            call => usual(&call, request),
        });
        let mut client = Client::new(handler);
        client.set_window(0);
        client.feed(unread);
        client.advance(Duration::from_secs(1));
        client.set_window(10_000);
        client.finished()
    };
    assert_eq!(run(1_000, b"0123456789"), None);
    assert_eq!(run(1_001, b"0123456789"), Some(EndReason::OutputLimit));
    assert_eq!(run(1_000, b"0123456789a"), Some(EndReason::InputLimit));
}

#[test]
fn a_connection_that_a_lowered_limit_ends_lingers_over_unread_input() {
    let less = own_limits(|limits| limits.input_bytes_max = Some(10));
    for own in [true, false] {
        let handler = move |_: &mut (), _: &Address| {
            probe(move |call, request: &mut Request<'_>| match call {
                Call::Handle => {
                    request.set_timer(1, Duration::from_secs(1));
                    Ok(Next::Wait)
                }
                Call::Timer(_) if own => request.set_limits(&less).map(|()| Next::Wait),
                Call::Finish(_) => request.output.write_all(b"too long").map(|()| Next::Wait).map_err(Error::from),
                call => usual(&call, request),
            })
        };
        let mut network = Network::new();
        let server = network.serve((), handler, Limits::default()).unwrap();
        let client = network.connect(server);
        client.send(b"more than ten bytes");
        network.run();
        if !own {
            let mut limits = network.limits(server).unwrap().clone();
            limits.input_bytes_max = 10;
            (limits.line_bytes_max, limits.frame_bytes_max) = (10, 0);
            network.set_limits(server, limits).unwrap();
        }
        network.run_for(Duration::from_secs(1));
        assert_eq!(client.take_received(), b"too long");
        assert!(!client.is_socket_closed(), "a reset could destroy the answer");
        client.send_eof();
        network.run();
        assert!(client.is_socket_closed());
    }
}
