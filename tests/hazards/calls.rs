//! System calls are what a server's time is spent on: a message costs so many, and none is tried that can only fail.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[cfg(unix)]
use socketserver::UnixAddress;
use socketserver::testing::{Call as Io, Network, Outcome, Peer};
use socketserver::{
    Address, BaseServer, Delivery, EndReason, Error, Limits, Linger, Next, ReactorConfig, Request, RequestHandler,
    Result, ServerId,
};

use crate::common::{Call, echo, probe, usual};

/// The calls that were made, but for waits; each as `outcome` says.
fn noting(network: &mut Network, mut outcome: impl FnMut(Io) -> Outcome + Send + 'static) -> Arc<Mutex<Vec<Io>>> {
    let calls = Arc::<Mutex<Vec<Io>>>::default();
    let noted = Arc::clone(&calls);
    network.on_call(move |call, _| {
        if call != Io::Wait {
            noted.lock().unwrap().push(call);
        }
        outcome(call)
    });
    calls
}

fn taken(calls: &Mutex<Vec<Io>>) -> Vec<Io> {
    std::mem::take(&mut calls.lock().unwrap())
}

/// The first write ends like this.
fn once(kind: ErrorKind) -> impl FnMut(Io) -> Outcome {
    let mut once = Some(kind);
    move |call| match once.take_if(|_| call == Io::Write) {
        Some(ErrorKind::Interrupted) => Outcome::Interrupted,
        Some(ErrorKind::WouldBlock) => Outcome::WouldBlock,
        Some(kind) => Outcome::Fail(kind.into()),
        None => Outcome::Proceed,
    }
}

/// A client whose connection is set up, and has nothing to do.
fn served(network: &mut Network, handler: impl Fn() -> Box<dyn RequestHandler> + Send + 'static) -> Peer {
    let server = network.serve((), move |_: &mut (), _: &Address| handler(), Limits::default()).unwrap();
    let client = network.connect(server);
    network.run();
    client
}

/// Where a short read does not say that nothing more waits, one more read does.
const AND_FOUND_EMPTY: &[Io] = if cfg!(unix) { &[] } else { &[Io::Read] };

/// Writes `pieces` of `bytes` each for whatever comes.
fn writing(pieces: usize, bytes: usize) -> Box<dyn RequestHandler> {
    Box::new(probe(move |call, request: &mut Request<'_>| {
        if let Call::Handle = call {
            request.input.take_all();
            (0..pieces).try_for_each(|_| request.output.write_all(&vec![b'x'; bytes]))?;
        }
        usual(&call, request)
    }))
}

#[test]
fn a_message_costs_one_read_and_one_write() {
    for (pieces, bytes) in [(1, 5), (1_000, 1), (3, 5_000), (1, 16_384), (1, 100_000)] {
        let mut network = Network::new();
        let client = served(&mut network, move || writing(pieces, bytes));
        let calls = noting(&mut network, |_| Outcome::Proceed);
        for _ in 0..3 {
            client.send(b"go");
            network.run();
            let expected = [&[Io::Read, Io::Write], AND_FOUND_EMPTY].concat();
            assert_eq!(taken(&calls), expected, "{pieces} of {bytes} bytes");
            assert_eq!(client.take_received().len(), pieces * bytes);
        }
    }
}

/// Where a read can end although more waits, the one that finds nothing cannot be spared.
#[test]
#[cfg(unix)]
fn a_message_of_a_unix_stream_costs_one_read_more() {
    let mut network = Network::new();
    let server = network.serve((), |_: &mut (), _: &Address| writing(1, 5), Limits::default()).unwrap();
    let client = network.connect_from(server, UnixAddress::unnamed());
    network.run();
    let calls = noting(&mut network, |_| Outcome::Proceed);
    client.send(b"go");
    network.run();
    assert_eq!(taken(&calls), [Io::Read, Io::Write, Io::Read]);
    (0..3).for_each(|_| client.send(b"go"));
    network.run();
    assert_eq!(taken(&calls), [Io::Read, Io::Write, Io::Read, Io::Write, Io::Read, Io::Write, Io::Read]);
}

#[test]
fn many_small_writes_leave_in_few_large_ones() {
    // What is gathered is at most 64 KiB, and with it goes the write that does not fit any more.
    for (pieces, bytes, writes) in [(400, 1_000, 7), (65, 1_024, 1), (130, 1_024, 2), (66_000, 1, 2)] {
        let mut network = Network::new();
        let client = served(&mut network, move || writing(pieces, bytes));
        let calls = noting(&mut network, |_| Outcome::Proceed);
        client.send(b"go");
        network.run();
        let expected = [&vec![Io::Write; writes], AND_FOUND_EMPTY].concat();
        assert_eq!(taken(&calls)[1..], expected, "{pieces} of {bytes} bytes");
        assert_eq!(client.take_received().len(), pieces * bytes);
    }
}

#[test]
fn a_full_socket_is_not_tried_until_there_is_room() {
    for (window, bytes) in [(0, 10), (1, 10), (9, 10), (0, 20_000), (5, 20_000), (19_999, 20_000)] {
        let mut network = Network::new();
        let client = served(&mut network, move || writing(1, bytes));
        let calls = noting(&mut network, |_| Outcome::Proceed);
        client.set_window(window);
        client.send(b"go");
        network.run();
        // Where a short write does not say that there is no room, one more write does.
        let writes = if cfg!(unix) || window == 0 { 1 } else { 2 };
        let expected = [&[Io::Read], &vec![Io::Write; writes][..], AND_FOUND_EMPTY].concat();
        assert_eq!(taken(&calls), expected, "{window} of {bytes} bytes");
        client.send(b"and more");
        network.run();
        let expected = [&[Io::Read], AND_FOUND_EMPTY].concat();
        assert_eq!(taken(&calls), expected, "{window} of {bytes} bytes: what waits goes first");
        client.set_window(usize::MAX);
        network.run();
        assert_eq!(client.take_received().len(), 2 * bytes);
    }
}

/// A server that lingers as it is told, and closes when it has done what `act` does in `call`.
fn closing(
    network: &mut Network,
    linger: Linger,
    when: &'static str,
    act: fn(&mut Request<'_>) -> Result<Next>,
) -> ServerId {
    let handler = move |_: &mut (), _: &Address| {
        probe(move |call: Call, request: &mut Request<'_>| match call.to_string().starts_with(when) {
            true => act(request),
            false => Ok(Next::Wait),
        })
    };
    let mut limits = Limits::default();
    limits.linger = linger;
    network.serve((), handler, limits).unwrap()
}

fn answer(request: &mut Request<'_>) -> Result<Next> {
    request.input.take_all();
    request.output.write_all(b"answer")?;
    Ok(Next::Close)
}

#[test]
fn a_connection_that_is_answered_and_closed_costs_four_calls_and_is_never_registered() {
    let (handle, setup) = ([Io::Accept, Io::Read, Io::Write], [Io::Accept, Io::Write, Io::Read]);
    for (when, made, found) in [("handle", handle, AND_FOUND_EMPTY), ("setup", setup, &[])] {
        let mut network = Network::new();
        let server = closing(&mut network, Linger::WhenNeeded, when, answer);
        network.run();
        let calls = noting(&mut network, |_| Outcome::Proceed);
        let client = network.connect(server);
        if when == "handle" {
            client.send(b"request");
        }
        network.run();
        // The fourth is close(2). The last accept finds that no other client waits.
        assert_eq!(taken(&calls), [&made[..], found, &[Io::Accept]].concat(), "{when}");
        assert!(client.is_socket_closed() && !client.is_reset());
        assert_eq!(client.take_received(), b"answer");
    }
}

#[test]
fn a_waiting_connection_is_registered_once() {
    let mut network = Network::new();
    let server = closing(&mut network, Linger::WhenNeeded, "handle", answer);
    network.run();
    let calls = noting(&mut network, |_| Outcome::Proceed);
    let client = network.connect(server);
    network.run();
    assert_eq!(taken(&calls), [Io::Accept, Io::Read, Io::Register, Io::Accept]);
    client.send(b"request");
    network.run();
    assert_eq!(taken(&calls), [&[Io::Read, Io::Write], AND_FOUND_EMPTY].concat());
    assert!(client.is_socket_closed());
}

/// What comes between the first service and the registration is reported by that.
#[test]
fn input_that_comes_just_before_the_registration_is_handled() {
    let mut network = Network::new();
    let server = closing(&mut network, Linger::WhenNeeded, "handle", answer);
    network.run();
    let client = network.connect(server);
    let early = client.clone();
    network.on_call(move |call, _| {
        if call == Io::Register {
            early.send(b"request");
        }
        Outcome::Proceed
    });
    network.run();
    assert_eq!(client.take_received(), b"answer");
}

#[test]
fn a_connection_that_cannot_be_registered_gets_finish_and_accepting_pauses() {
    let mut network = Network::new();
    struct Noting(Arc<Mutex<Vec<String>>>);
    impl BaseServer for Noting {
        fn handle_error(&mut self, _: &Address, error: &Error) {
            self.0.lock().unwrap().push(format!("{error:#}"));
        }
        fn close_request(&mut self, _: &Address, why: EndReason) {
            self.0.lock().unwrap().push(format!("closed {why}"));
        }
    }
    let ends = Arc::<Mutex<Vec<String>>>::default();
    let handler = |server: &mut Noting, _: &Address| {
        let notes = Arc::clone(&server.0);
        probe(move |call, request: &mut Request<'_, Noting>| {
            if let Call::Finish(_) = call {
                notes.lock().unwrap().push(call.to_string());
            }
            echo(&call, request)
        })
    };
    let server = network.serve(Noting(Arc::clone(&ends)), handler, Limits::default()).unwrap();
    network.run();
    let clients = [network.connect(server), network.connect(server)];
    clients.iter().for_each(|client| client.send(b"hello"));
    let mut fails = true;
    let calls = noting(&mut network, move |call| match call {
        Io::Register if std::mem::take(&mut fails) => Outcome::Fail(std::io::Error::other("no memory")),
        _ => Outcome::Proceed,
    });
    network.run();
    let made = [&[Io::Accept, Io::Read, Io::Write], AND_FOUND_EMPTY, &[Io::Register]].concat();
    assert_eq!(taken(&calls), made, "the second waits in the backlog");
    assert!(clients[0].is_reset());
    let told = ["cannot watch the connection: no memory", "finish handler error", "closed handler error"];
    assert_eq!(*ends.lock().unwrap(), told);
    assert_eq!(network.stats().accept_pauses, 1);
    network.run_for(Duration::from_secs(1));
    assert_eq!(clients[1].take_received(), b"hello");
    assert_eq!(network.stats().active, 1);
}

#[test]
fn a_lingering_connection_is_read_once_for_each_event() {
    let mut network = Network::new();
    let server = closing(&mut network, Linger::Always, "setup", |_| Ok(Next::Close));
    let client = network.connect(server);
    network.run();
    assert!(client.is_closed() && !client.is_socket_closed());
    let calls = noting(&mut network, |_| Outcome::Proceed);
    client.send(b"too late");
    network.run();
    assert_eq!(taken(&calls), [&[Io::Read], AND_FOUND_EMPTY].concat());
    client.send_eof();
    network.run();
    assert_eq!(taken(&calls), [Io::Read]);
    assert!(client.is_socket_closed());
}

/// Closing over input that is unread, or on its way, makes the kernel send RST, which can destroy the answer.
#[test]
fn a_close_lingers_if_that_protects_the_answer() {
    let part = |request: &mut Request<'_>| {
        request.input.consume(1);
        request.output.write_all(b"answer")?;
        Ok(Next::Close)
    };
    let unread = |request: &mut Request<'_>| {
        request.output.write_all(b"answer")?;
        Ok(Next::Close)
    };
    type Act = fn(&mut Request<'_>) -> Result<Next>;
    let whole = 16 * 1024; // What the first read of a connection brings.
    let cases: [(&str, Act, usize, bool); 5] = [
        ("handle", answer, 10, false),
        ("handle", part, 10, true),
        ("setup", unread, 10, true),
        // The read was not short: more may be on its way, or not, which the next read tells.
        ("handle", answer, whole, false),
        ("handle", answer, whole + 1, true),
    ];
    for (when, act, bytes, lingers) in cases {
        for linger in [Linger::WhenNeeded, Linger::Always, Linger::Never] {
            let mut network = Network::new();
            let server = closing(&mut network, linger, when, act);
            let client = network.connect(server);
            client.send(&vec![b'x'; bytes]);
            network.run();
            assert!(client.is_closed());
            let lingers = linger == Linger::Always || lingers && linger == Linger::WhenNeeded;
            assert_eq!(!client.is_socket_closed(), lingers, "{when}, {bytes} bytes, {linger:?}");
            if lingers {
                client.send(b"more");
                network.run();
                assert!(!client.is_reset());
                network.run_for(Limits::default().linger_timeout);
                assert!(client.is_socket_closed());
            }
            assert_eq!(client.take_received(), b"answer");
        }
    }
}

#[test]
fn a_close_lingers_over_input_that_came_during_a_long_answer() {
    let long = |request: &mut Request<'_>| {
        request.input.take_all();
        request.output.write_all(&[b'a'; 1 << 20])?;
        Ok(Next::Close)
    };
    let mut network = Network::new();
    let clock = network.clock();
    network.on_call(move |call, _| {
        if call == Io::Write {
            clock.advance(ReactorConfig::default().turn_length);
        }
        Outcome::Proceed
    });
    let server = closing(&mut network, Linger::WhenNeeded, "handle", long);
    let client = network.connect(server);
    client.send(b"ask");
    network.turn();
    let begun = client.take_received().len();
    assert!(begun > 0 && begun < 1 << 20, "it takes several turns: {begun}");
    client.send(b"more");
    network.run();
    assert_eq!(begun + client.take_received().len(), 1 << 20);
    assert!(!client.is_socket_closed(), "it lingers");
}

#[test]
fn the_end_of_a_client_costs_one_read() {
    let mut network = Network::new();
    let client = served(&mut network, || writing(1, 1));
    let calls = noting(&mut network, |_| Outcome::Proceed);
    client.send_eof();
    network.run();
    assert_eq!(taken(&calls), [Io::Read]);
    assert!(client.is_socket_closed());
}

#[test]
fn each_client_costs_one_accept_and_the_last_one_more() {
    let mut network = Network::new();
    let server = network.serve((), |_: &mut (), _: &Address| writing(1, 1), Limits::default()).unwrap();
    let calls = noting(&mut network, |_| Outcome::Proceed);
    let accepts = || taken(&calls).into_iter().filter(|call| *call == Io::Accept).count();
    let _clients: Vec<_> = (0..3).map(|_| network.connect(server)).collect();
    network.run();
    assert_eq!(accepts(), 4);
    network.shutdown_handle().shutdown();
    network.run();
    assert_eq!(accepts(), 1, "a last look at the backlog");
}

#[test]
fn a_large_write_leaves_within_its_callback() {
    let mut network = Network::new();
    let (tell, told) = std::sync::mpsc::channel();
    let client = served(&mut network, move || {
        let tell = tell.clone();
        Box::new(probe(move |call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                request.output.write_all(b"small, ")?;
                let small = request.output.len();
                request.output.write_all(&[b'x'; 20_000])?;
                tell.send((small, request.output.len())).unwrap();
            }
            usual(&call, request)
        }))
    });
    client.send(b"go");
    network.run();
    assert_eq!(told.try_recv().unwrap(), (7, 0));
}

#[test]
fn a_write_that_fails_is_an_error_of_that_write_and_one_that_is_interrupted_is_none() {
    for (kind, fails) in
        [(ErrorKind::BrokenPipe, true), (ErrorKind::Interrupted, false), (ErrorKind::WouldBlock, false)]
    {
        let mut network = Network::new();
        let (tell, told) = std::sync::mpsc::channel();
        let client = served(&mut network, move || {
            let tell = tell.clone();
            Box::new(probe(move |call, request: &mut Request<'_>| {
                if let Call::Handle = call {
                    tell.send(request.output.write_all(&[b'x'; 20_000]).is_err()).unwrap();
                }
                usual(&call, request)
            }))
        });
        let _calls = noting(&mut network, once(kind));
        client.send(b"go");
        network.run();
        assert_eq!(told.try_recv().unwrap(), fails, "{kind}");
        assert_eq!(client.take_received().len(), if fails { 0 } else { 20_000 }, "{kind}");
        assert_eq!(client.is_socket_closed(), fails, "{kind}");
    }
}

#[test]
fn a_large_block_for_a_broken_connection_is_not_taken() {
    for (kind, expected) in [
        (ErrorKind::BrokenPipe, Delivery::Gone),
        (ErrorKind::Interrupted, Delivery::Queued),
        (ErrorKind::WouldBlock, Delivery::Queued),
    ] {
        let mut network = Network::new();
        let (tell, told) = std::sync::mpsc::channel();
        let handler = move |_: &mut (), _: &Address| {
            let tell = tell.clone();
            probe(move |call, request: &mut Request<'_>| {
                if let Call::Handle = call {
                    let other = *request.others.connections().first().expect("the other");
                    tell.send(request.others.send(other, &[b'x'; 20_000])).unwrap();
                }
                usual(&call, request)
            })
        };
        let server = network.serve((), handler, Limits::default()).unwrap();
        let (one, other) = (network.connect(server), network.connect(server));
        network.run();
        let calls = noting(&mut network, once(kind));
        one.send(b"go");
        network.run();
        assert_eq!(told.try_recv().unwrap(), expected, "{kind}");
        let broke = expected == Delivery::Gone;
        assert_eq!(other.take_received().len(), if broke { 0 } else { 20_000 }, "{kind}");
        assert_eq!(other.is_socket_closed(), broke, "{kind}");
        let writes = taken(&calls).into_iter().filter(|call| *call == Io::Write).count();
        assert_eq!(writes, if broke { 1 } else { 2 }, "{kind}");
    }
}

fn datagrams(network: &mut Network, limits: Limits) -> (ServerId, Address) {
    let handler = |_: &mut (), _: &Address| probe(|call, request: &mut Request<'_>| echo(&call, request));
    let server = network.serve_datagrams((), handler, limits).unwrap();
    (server, SocketAddr::from(([192, 0, 2, 1], 9)).into())
}

#[test]
fn datagrams_that_cannot_be_received_are_counted_and_hold_no_turn() {
    let mut limits = Limits::default();
    limits.datagrams_per_turn = 10;
    let mut network = Network::new();
    let (server, peer) = datagrams(&mut network, limits);
    let mut errors = 25;
    let calls = noting(&mut network, move |call| match call {
        Io::Receive if errors > 0 => {
            errors -= 1;
            Outcome::Fail(ErrorKind::ConnectionRefused.into())
        }
        _ => Outcome::Proceed,
    });
    network.send_datagram(server, &peer, b"x");
    let mut turns = Vec::new();
    while network.turn() {
        turns.push(taken(&calls).into_iter().filter(|call| *call == Io::Receive).count());
    }
    assert_eq!(turns[..2], [10, 10]);
    assert_eq!((network.stats().receive_errors, network.stats().datagrams_in), (25, 1));
}

#[test]
fn waiting_datagrams_are_dropped_with_their_socket() {
    let mut network = Network::new();
    let (server, peer) = datagrams(&mut network, Limits::default());
    let _calls = noting(&mut network, |call| match call {
        Io::Send => Outcome::Fail(ErrorKind::OutOfMemory.into()),
        _ => Outcome::Proceed,
    });
    network.send_datagram(server, &peer, b"x");
    network.run();
    assert!(network.next_timeout().is_some(), "it is tried again");
    network.server_close(server);
    assert_eq!(network.next_timeout(), None);
}

#[test]
fn a_stop_ends_although_accepting_fails() {
    let mut network = Network::new();
    let server = network.serve((), |_: &mut (), _: &Address| writing(1, 1), Limits::default()).unwrap();
    let calls = noting(&mut network, |call| match call {
        Io::Accept => Outcome::Fail(ErrorKind::OutOfMemory.into()),
        _ => Outcome::Proceed,
    });
    network.connect(server);
    network.run();
    assert_eq!(taken(&calls), [Io::Accept]);
    network.shutdown_handle().shutdown();
    network.run();
    assert!(network.is_stopped());
    assert_eq!(taken(&calls), [Io::Accept]);
}
