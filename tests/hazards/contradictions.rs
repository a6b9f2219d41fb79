//! Each limit works alone as its name says, whatever its value; those that contradict each other are refused by name; and
//! one that is changed holds for what is open.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socketserver::testing::{self, Client, Network, Outcome, Peer};
use socketserver::{
    Address, BaseServer, DropPolicy, EndReason, Error, Incoming, Limits, Next, NoHandler, Overflow, Prefix, Reactor,
    ReactorConfig, Request, RequestHandler, Result, ServeOn, ServerId, Stats, StreamRequestHandler, TcpServer, Timeout,
    UdpServer,
};

use crate::common::{Call, Journal, PATIENCE, echo, is_alone, limit, probe, serve, usual};

fn with(set: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    set(&mut limits);
    limits
}

/// The limits that are in force if these are set.
fn in_force(set: impl FnOnce(&mut Limits)) -> Limits {
    let mut server = TcpServer::new("127.0.0.1:0", |_| NoHandler).unwrap();
    server.set_limits(with(set)).unwrap();
    server.limits().clone()
}

/// Every way to begin with these limits is refused, with both names and values.
#[track_caller]
fn expect_refusal(set: impl Fn(&mut Limits), expected: [(&str, usize); 2]) {
    let server = || TcpServer::new("127.0.0.1:0", |_| NoHandler).unwrap();
    let mut serving = server();
    serving.timeout = Some(Duration::ZERO);
    serving.handle_request().unwrap();
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(server()).unwrap();
    let mut unbound = server().into_unbound();
    unbound.limits = with(&set);
    unbound.server_bind("127.0.0.1:0").unwrap();
    let mut network = Network::new();
    let attempts = [
        server().set_limits(with(&set)).err(),
        serving.set_limits(with(&set)).err(),
        reactor.set_limits(id, with(&set)).err(),
        unbound.server_activate().err(),
        network.serve((), |_, _| NoHandler, with(&set)).err(),
    ];
    for error in attempts {
        let text = error.as_ref().expect("a refusal").to_string();
        assert!(matches!(error, Some(Error::Setting { .. })), "{text}");
        assert!(!text.contains('\n'), "{text}");
        for (name, value) in expected {
            assert!(text.contains(&format!("{name} = {value}")), "{text}");
        }
    }
}

/// The guide's producer.
struct Numbers(u32);

impl Numbers {
    fn produce(&mut self, request: &mut Request<'_>) -> Result<Next> {
        while self.0 < 20_000 {
            if request.output.is_full() {
                return Ok(Next::Wait);
            }
            self.0 += 1;
            writeln!(request.output, "{}", self.0)?;
        }
        Ok(Next::Close)
    }
}

impl RequestHandler for Numbers {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        request.input.take_all();
        self.produce(request)
    }
    fn writable(&mut self, request: &mut Request<'_>) -> Result<Next> {
        self.produce(request)
    }
}

/// A producer, and a client that reads a little at a time: all of it arrives, and while the client does not read, nothing
/// turns.
#[track_caller]
fn check_producer(limits: Limits) {
    let context = format!("{limits:?}");
    let mut client = Client::with_limits((), Numbers(0), limits);
    client.set_window(0);
    client.feed(b"go");
    let expected: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    let mut received = Vec::new();
    while client.finished().is_none() {
        client.set_window(10_000);
        let bytes = client.take_sent();
        assert!(!bytes.is_empty(), "after {} bytes: {context}", received.len());
        received.extend(bytes);
    }
    client.set_window(usize::MAX);
    received.extend(client.take_sent());
    assert_eq!(client.finished(), Some(EndReason::Done), "{context}");
    assert!(received == expected.as_bytes(), "{context}");
}

#[test]
fn one_mark_of_the_output_alone_does_not_spin_or_kill_a_producer() {
    for value in [100, 4_096, 16_384, 32_768, 65_536, 1 << 20, 16 << 20, 64 << 20, usize::MAX] {
        check_producer(with(|limits| limits.output_high_water = value));
        check_producer(with(|limits| limits.output_low_water = value));
        check_producer(with(|limits| limits.output_bytes_max = value));
    }
    for value in [0, 1] {
        check_producer(with(|limits| limits.output_high_water = value));
        check_producer(with(|limits| limits.output_low_water = value));
    }
}

/// A handler that knows nothing of flow control: what spun was the mark, which was passed and undercut at once.
#[test]
fn a_low_mark_of_its_own_or_a_lower_high_mark_does_not_spin_when_a_client_does_not_read() {
    for set in [
        (|limits: &mut Limits| limits.output_high_water = 4_096) as fn(&mut Limits),
        |limits| limits.output_low_water = 1 << 20,
        |limits| limits.output_bytes_max = 20_000,
    ] {
        let echoing = probe(|call, request: &mut Request<'_>| echo(&call, request));
        let mut client = Client::with_limits((), echoing, with(set));
        client.set_window(0);
        for _ in 0..5 {
            client.feed(&[b'x'; 1_500]); // It comes to rest after each, or the kit panics.
        }
        client.set_window(usize::MAX);
        assert_eq!(client.sent().len(), 7_500);
    }
}

struct Messages(Option<Prefix>);

impl RequestHandler for Messages {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        loop {
            let message = match self.0 {
                None => request.input.read_line()?,
                Some(prefix) => request.input.read_frame(prefix)?,
            };
            let Some(message) = message else { return Ok(Next::Wait) };
            writeln!(request.output, "{}", message.len())?;
        }
    }
}

/// A message of so many bytes that trickles in is read, and one that is longer by a byte is not.
#[track_caller]
fn check_messages(limits: &Limits, prefix: Option<Prefix>, most: usize) {
    for (len, fits) in [(most, true), (most + 1, false)] {
        let mut client = Client::with_limits((), Messages(prefix), limits.clone());
        let head = match prefix {
            Some(_) => (len as u64).to_be_bytes().to_vec(),
            None => Vec::new(),
        };
        let body = if prefix.is_some() { len } else { len - 1 };
        let mut message = [head, vec![b'x'; body]].concat();
        message.extend(prefix.is_none().then_some(b'\n'));
        for piece in message.chunks(100_000) {
            if !client.is_closed() {
                client.feed(piece);
            }
        }
        let expected = if fits { format!("{len}\n") } else { String::new() };
        assert_eq!(String::from_utf8_lossy(&client.sent()), expected, "{len} bytes, {prefix:?}, {limits:?}");
        assert_eq!(client.finished(), (!fits).then_some(EndReason::InputLimit), "{len} bytes, {prefix:?}, {limits:?}");
    }
}

#[test]
fn a_line_or_a_frame_may_be_as_long_as_its_limit_says_if_that_alone_is_set() {
    for most in [1, 100, 100_000, 3 << 20] {
        check_messages(&with(|limits| limits.line_bytes_max = most), None, most);
        check_messages(&with(|limits| limits.frame_bytes_max = most), Some(Prefix::U64Be), most);
    }
}

#[test]
fn a_limit_of_unread_input_alone_bounds_lines_and_frames_with_their_own_errors() {
    let limits = with(|limits| limits.input_bytes_max = 1_000);
    check_messages(&limits, None, 1_000);
    check_messages(&limits, Some(Prefix::U64Be), 990);
}

#[test]
fn dependent_limits_follow_the_one_that_is_set() {
    let marks = |limits: &Limits| (limits.output_low_water, limits.output_high_water, limits.output_bytes_max);
    for (set, expected) in [
        ((None, None, None), (16_384, 65_536, 16 << 20)),
        ((None, Some(4_096), None), (1_024, 4_096, 16 << 20)),
        ((None, Some(0), None), (0, 0, 16 << 20)),
        ((None, Some(16 << 20), None), (4 << 20, 16 << 20, 64 << 20)),
        ((None, Some(usize::MAX), None), (usize::MAX / 4, usize::MAX, usize::MAX)),
        ((Some(0), None, None), (0, 65_536, 16 << 20)),
        ((Some(100_000), None, None), (100_000, 400_000, 16 << 20)),
        ((Some(usize::MAX), None, None), (usize::MAX, usize::MAX, usize::MAX)),
        ((None, None, Some(1_000)), (62, 250, 1_000)),
        ((None, None, Some(0)), (0, 0, 0)),
        ((None, None, Some(usize::MAX)), (16_384, 65_536, usize::MAX)),
        ((Some(900), None, Some(1_000)), (900, 900, 1_000)),
        ((Some(100), None, Some(1_000)), (100, 250, 1_000)),
        ((None, Some(1_000), Some(1_000)), (250, 1_000, 1_000)),
        ((Some(500), Some(500), None), (500, 500, 16 << 20)),
    ] {
        let (low, high, most) = set;
        let limits = in_force(|limits| {
            limits.output_low_water = low.unwrap_or(limits.output_low_water);
            limits.output_high_water = high.unwrap_or(limits.output_high_water);
            limits.output_bytes_max = most.unwrap_or(limits.output_bytes_max);
        });
        assert_eq!(marks(&limits), expected, "{set:?}");
    }
    let input = |limits: Limits| (limits.line_bytes_max, limits.frame_bytes_max, limits.input_bytes_max);
    assert_eq!(input(in_force(|limits| limits.input_bytes_max = 5)), (5, 0, 5));
    assert_eq!(input(in_force(|limits| limits.line_bytes_max = 3 << 20)), (3 << 20, 1 << 20, 3 << 20));
    assert_eq!(input(in_force(|limits| limits.frame_bytes_max = 3 << 20)), (65_536, 3 << 20, (3 << 20) + 10));
    assert_eq!(input(in_force(|limits| limits.frame_bytes_max = usize::MAX)), (65_536, usize::MAX, usize::MAX));
    let both = in_force(|limits| (limits.frame_bytes_max, limits.input_bytes_max) = (usize::MAX, usize::MAX));
    assert_eq!(input(both), (65_536, usize::MAX, usize::MAX), "what is set is in force");
}

#[test]
fn limits_that_are_both_set_and_contradict_each_other_are_refused_by_name() {
    expect_refusal(
        |limits| (limits.output_low_water, limits.output_high_water) = (5_000, 4_096),
        [("output_low_water", 5_000), ("output_high_water", 4_096)],
    );
    expect_refusal(
        |limits| (limits.output_high_water, limits.output_bytes_max) = (2_000, 1_999),
        [("output_high_water", 2_000), ("output_bytes_max", 1_999)],
    );
    expect_refusal(
        |limits| (limits.output_low_water, limits.output_bytes_max) = (usize::MAX, 0),
        [("output_low_water", usize::MAX), ("output_bytes_max", 0)],
    );
    expect_refusal(
        |limits| (limits.line_bytes_max, limits.input_bytes_max) = (8 << 20, 4 << 20),
        [("line_bytes_max", 8 << 20), ("input_bytes_max", 4 << 20)],
    );
    expect_refusal(
        |limits| (limits.frame_bytes_max, limits.input_bytes_max) = (991, 1_000),
        [("frame_bytes_max", 991), ("input_bytes_max", 1_000)],
    );
    in_force(|limits| (limits.frame_bytes_max, limits.input_bytes_max) = (990, 1_000));
}

#[test]
fn limits_that_are_refused_while_a_server_runs_change_nothing() {
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(TcpServer::new("127.0.0.1:0", |_| NoHandler).unwrap()).unwrap();
    let before = reactor.limits(id).unwrap().clone();
    let wrong = with(|limits| (limits.output_low_water, limits.output_high_water) = (2, 1));
    assert!(matches!(reactor.set_limits(id, wrong), Err(Error::Setting { .. })));
    assert_eq!(reactor.limits(id), Some(&before));
}

#[test]
fn no_value_of_a_limit_is_too_large_or_too_small_unless_nothing_could_be_served() {
    type Set = fn(&mut Limits, usize, Duration);
    let each: [(&str, Set); 26] = [
        ("connections_max", |limits, n, _| limits.connections_max = Some(n)),
        ("connections_per_client_max", |limits, n, _| limits.connections_per_client_max = Some(n)),
        ("input_bytes_max", |limits, n, _| limits.input_bytes_max = n),
        ("line_bytes_max", |limits, n, _| limits.line_bytes_max = n),
        ("frame_bytes_max", |limits, n, _| limits.frame_bytes_max = n),
        ("max_packet_size", |limits, n, _| limits.max_packet_size = n),
        ("sessions_max", |limits, n, _| limits.sessions_max = Some(n)),
        ("datagram_queue_bytes_max", |limits, n, _| limits.datagram_queue_bytes_max = n),
        ("output_high_water", |limits, n, _| limits.output_high_water = n),
        ("output_low_water", |limits, n, _| limits.output_low_water = n),
        ("output_bytes_max", |limits, n, _| limits.output_bytes_max = n),
        ("max_threads", |limits, n, _| limits.max_threads = n),
        ("max_children", |limits, n, _| limits.max_children = n),
        ("thread_queue_max", |limits, n, _| limits.thread_queue_max = n),
        ("child_timeout", |limits, _, time| limits.child_timeout = Some(time)),
        ("idle_timeout", |limits, _, time| limits.idle_timeout = Some(time)),
        ("read_timeout", |limits, _, time| limits.read_timeout = Some(time)),
        ("write_timeout", |limits, _, time| limits.write_timeout = Some(time)),
        ("connect_timeout", |limits, _, time| limits.connect_timeout = Some(time)),
        ("linger_timeout", |limits, _, time| limits.linger_timeout = time),
        ("linger_bytes_max", |limits, n, _| limits.linger_bytes_max = n),
        ("accepts_per_turn", |limits, n, _| limits.accepts_per_turn = n),
        ("read_bytes_per_turn", |limits, n, _| limits.read_bytes_per_turn = n),
        ("write_bytes_per_turn", |limits, n, _| limits.write_bytes_per_turn = n),
        ("callbacks_per_turn", |limits, n, _| limits.callbacks_per_turn = n),
        ("datagrams_per_turn", |limits, n, _| limits.datagrams_per_turn = n),
    ];
    let values = [(0, Duration::ZERO), (1, Duration::from_nanos(1)), (usize::MAX, Duration::MAX)];
    for (name, set) in each {
        for (n, time) in values {
            let limits = with(|limits| set(limits, n, time));
            let serves_nothing = name.ends_with("_timeout") && name != "linger_timeout"
                || ["connections_per_client_max", "max_packet_size"].contains(&name);
            if n == 0 && serves_nothing {
                let refused = TcpServer::new("127.0.0.1:0", |_| NoHandler).unwrap().set_limits(limits);
                let text = refused.unwrap_err().to_string();
                assert!(text.starts_with(&format!("cannot use {name} = ")) && text.contains('0'), "{text}");
                continue;
            }
            // A stream: a message is answered, or its connection is ended or not taken, but nothing panics or spins.
            let echoing = || probe(|call, request: &mut Request<'_>| echo(&call, request));
            let mut network = Network::new();
            let server = network.serve((), move |_, _| echoing(), limits.clone()).unwrap();
            let peer = network.connect(server);
            network.run();
            peer.set_window(3);
            peer.send(b"hello, world\n");
            network.run();
            network.advance(Duration::from_millis(20));
            network.run();
            peer.set_window(usize::MAX);
            network.run();
            let cut =
                ["connections_max", "connections_per_client_max", "output_bytes_max", "idle_timeout", "write_timeout"];
            if n > 1 || !cut.contains(&name) {
                assert_eq!(peer.take_received(), b"hello, world\n", "{name} = {n}, {time:?}");
            }
            // Datagrams, over a socket of the system's: its buffer is allocated.
            let mut server = UdpServer::new("127.0.0.1:0", move |_| echoing()).unwrap();
            server.set_limits(limits).unwrap();
            server.timeout = Some(Duration::ZERO);
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(b"hello", server.server_address()).unwrap();
            server.handle_request().unwrap();
            if name == "max_packet_size" && n > 1 {
                client.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut reply = [0; 10];
                assert_eq!(client.recv(&mut reply).unwrap(), 5);
            }
        }
    }
}

#[test]
fn a_handler_that_forgives_the_shortest_time_limit_does_not_spin() {
    for which in [Timeout::Idle, Timeout::Read, Timeout::Write] {
        let journal = Journal::new();
        let noted = journal.clone();
        let handler = probe(move |call, request: &mut Request<'_>| match call {
            Call::Timeout(_) => {
                noted.note("timeout");
                Ok(Next::Wait)
            }
            Call::Handle => {
                request.output.write_all(b"hello")?;
                Ok(Next::Wait)
            }
            call => usual(&call, request),
        });
        let shortest = Some(Duration::from_nanos(1));
        let limits = with(|limits| match which {
            Timeout::Idle => limits.idle_timeout = shortest,
            Timeout::Read => limits.read_timeout = shortest,
            _ => limits.write_timeout = shortest,
        });
        let mut client = Client::with_limits((), handler, limits);
        client.set_window(0);
        client.feed(b"hello");
        let before = journal.lines().len();
        client.advance(Duration::from_millis(10));
        let times = journal.lines().len() - before;
        assert!((1..=11).contains(&times), "{which:?}: {times} times in 10 ms");
    }
}

#[test]
fn no_connections_at_all_are_no_reason_to_spin_and_they_may_be_allowed_later() {
    let mut network = Network::new();
    let echoing = |_: &mut (), _: &_| probe(|call, request: &mut Request<'_>| echo(&call, request));
    let server = network.serve((), echoing, with(|limits| limits.connections_max = Some(0))).unwrap();
    let peer = network.connect(server);
    peer.send(b"hello");
    network.run();
    assert_eq!((network.stats().accepted, network.next_timeout()), (0, None));
    change(&mut network, server, |limits| limits.connections_max = Some(1));
    assert_eq!(peer.take_received(), b"hello");
    change(&mut network, server, |limits| limits.connections_max = Some(0));
    peer.send(b"again");
    network.run();
    assert_eq!(peer.take_received(), b"again", "what is open stays so");
}

/// The default limits, but for what is changed, hold from now on.
fn change(network: &mut Network, server: ServerId, set: impl FnOnce(&mut Limits)) {
    let limits = with(set);
    network.handle().run(move |reactor| reactor.set_limits(server, limits).unwrap()).unwrap();
    network.run();
}

/// Leaves its input, or answers with so much; says why it ended.
fn keeping(journal: &Journal, answer: usize) -> impl RequestHandler + use<> {
    let journal = journal.clone();
    probe(move |call, request: &mut Request<'_>| {
        match call {
            Call::Handle if answer > 0 => {
                request.input.take_all();
                request.output.write_all(&vec![b'x'; answer])?;
                return Ok(Next::Wait);
            }
            Call::Handle => return Ok(Next::Wait),
            Call::Writable => journal.note("writable"),
            Call::Finish(why) => journal.note(why),
            _ => {}
        }
        usual(&call, request)
    })
}

/// An open connection of a server with the default limits, whose handler [keeps](keeping) what it is sent.
fn opened(answer: usize) -> (Network, ServerId, Peer, Journal) {
    let (mut network, journal) = (Network::new(), Journal::new());
    let noted = journal.clone();
    let server = network.serve((), move |_: &mut (), _| keeping(&noted, answer), Limits::default()).unwrap();
    let peer = network.connect(server);
    network.run();
    peer.set_window(0);
    (network, server, peer, journal)
}

#[test]
fn a_shortened_time_limit_applies_to_open_connections() {
    type Set = fn(&mut Limits, Option<Duration>);
    let each: [(usize, Set, &str); 3] = [
        (0, |limits, time| limits.idle_timeout = time, "idle timeout"),
        (0, |limits, time| limits.read_timeout = time, "read timeout"),
        (9, |limits, time| limits.write_timeout = time, "write timeout"),
    ];
    for (answer, set, expected) in each {
        let (mut network, server, peer, journal) = opened(answer);
        peer.send(b"hello");
        network.run();
        change(&mut network, server, |limits| set(limits, Some(Duration::from_secs(1))));
        network.advance(Duration::from_millis(999));
        network.run();
        assert!(journal.lines().is_empty());
        // And the other way round.
        change(&mut network, server, |limits| set(limits, Some(Duration::from_secs(5))));
        network.advance(Duration::from_millis(4_000));
        network.run();
        assert!(journal.lines().is_empty());
        network.advance(Duration::from_millis(2));
        network.run();
        assert_eq!(journal.lines(), [expected]);
    }
}

#[test]
fn a_session_is_held_to_an_idle_timeout_that_is_shortened_between_two_requests() {
    let journal = Journal::new();
    let noted = journal.clone();
    let mut server = UdpServer::new("127.0.0.1:0", move |_| keeping(&noted, 0)).unwrap();
    limit(&mut server, |limits| limits.sessions_max = Some(10));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"hello", server.server_address()).unwrap();
    server.handle_request().unwrap();
    limit(&mut server, |limits| limits.idle_timeout = Some(Duration::from_millis(10)));
    server.timeout = Some(Duration::from_millis(10));
    while journal.lines().is_empty() {
        server.handle_request().unwrap();
    }
    assert_eq!(journal.lines(), ["idle timeout"]);
}

#[test]
fn a_connection_that_holds_more_than_a_lowered_limit_ends() {
    for (overflow, answer) in [(Overflow::Close, 10_000), (Overflow::Refuse, 10_000)] {
        let (mut network, server, peer, journal) = opened(answer);
        peer.send(b"hello");
        network.run();
        change(&mut network, server, |limits| {
            (limits.output_bytes_max, limits.output_overflow) = (10_000, overflow);
        });
        assert_eq!(journal.lines(), Vec::<String>::new());
        change(&mut network, server, |limits| {
            (limits.output_bytes_max, limits.output_overflow) = (9_999, overflow);
        });
        assert_eq!(journal.lines(), ["output limit"]);
    }
    let (mut network, server, peer, journal) = opened(0);
    peer.send(&[b'x'; 1_000]);
    network.run();
    change(&mut network, server, |limits| limits.input_bytes_max = 1_000);
    assert_eq!(journal.lines(), Vec::<String>::new());
    change(&mut network, server, |limits| limits.input_bytes_max = 999);
    assert_eq!(journal.lines(), ["input limit"]);
}

#[test]
fn a_paused_connection_at_its_limit_survives_unrelated_settings() {
    // The limit can be overshot by one read.
    let (mut network, journal) = (Network::new(), Journal::new());
    let noted = journal.clone();
    let handler = move |_: &mut (), _: &Address| {
        let noted = noted.clone();
        probe(move |call, request: &mut Request<'_>| {
            if let Call::Finish(why) = call {
                noted.note(why);
            }
            if let Call::Handle = call {
                request.pause_reading();
            }
            Ok(Next::Wait)
        })
    };
    let server = network.serve((), handler, with(|limits| limits.input_bytes_max = 1_000)).unwrap();
    let peer = network.connect(server);
    peer.send(&[b'x'; 1_500]);
    network.run();
    assert_eq!(network.stats().bytes_in, 1_500);
    network.handle().run(|reactor| reactor.set_config(ReactorConfig::default())).unwrap();
    network.run();
    change(&mut network, server, |limits| (limits.input_bytes_max, limits.idle_timeout) = (1_000, None));
    assert_eq!(journal.lines(), Vec::<String>::new());
    change(&mut network, server, |limits| limits.input_bytes_max = 999);
    assert_eq!(journal.lines(), ["input limit"]);
}

#[test]
fn changed_marks_apply_to_waiting_output() {
    let (mut network, server, peer, journal) = opened(5_000);
    peer.send(b"one");
    network.run();
    change(&mut network, server, |limits| limits.output_high_water = 4_000);
    peer.send(b"two");
    network.run();
    assert_eq!(network.stats().bytes_in, 3, "it is above the mark, and not read");
    change(&mut network, server, |limits| limits.output_low_water = 5_000);
    assert_eq!(journal.lines(), ["writable"]);
    assert_eq!(network.stats().bytes_in, 6, "and now it is below the other");
}

#[test]
fn a_cap_on_the_connections_of_a_client_counts_those_that_are_open() {
    let server = TcpServer::new("127.0.0.1:0", |_| Messages(None)).unwrap();
    let address = server.server_address();
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(server).unwrap();
    let mut clients: Vec<TcpStream> = Vec::new();
    let mut connect = |reactor: &mut Reactor, until: fn(&Stats) -> bool| {
        clients.push(TcpStream::connect(address).unwrap());
        while !until(&reactor.stats()) {
            reactor.poll(Some(PATIENCE)).unwrap();
        }
    };
    connect(&mut reactor, |stats| stats.active == 1);
    connect(&mut reactor, |stats| stats.active == 2);
    reactor.set_limits(id, with(|limits| limits.connections_per_client_max = Some(3))).unwrap();
    connect(&mut reactor, |stats| stats.active == 3);
    connect(&mut reactor, |stats| stats.refused == 1);
    reactor.set_limits(id, Limits::default()).unwrap();
    connect(&mut reactor, |stats| stats.active == 4);
}

#[test]
#[cfg(target_os = "linux")]
fn datagrams_that_wait_go_when_their_queue_is_made_shorter() {
    const ENOBUFS: i32 = 105;
    for (policy, kept) in [(DropPolicy::Oldest, b'3'), (DropPolicy::Newest, b'1')] {
        let mut network = Network::new();
        let echoing = |_: &mut (), _: &_| probe(|call, request: &mut Request<'_>| echo(&call, request));
        let server = network.serve_datagrams((), echoing, Limits::default()).unwrap();
        let blocked = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&blocked);
        network.on_call(move |call, _| match call {
            testing::Call::Send if asked.load(Ordering::Relaxed) => {
                Outcome::Fail(std::io::Error::from_raw_os_error(ENOBUFS))
            }
            _ => Outcome::Proceed,
        });
        let peer = std::net::SocketAddr::from(([198, 51, 100, 1], 1)).into();
        for packet in b"123" {
            network.send_datagram(server, &peer, &[*packet; 1000]);
        }
        network.run();
        change(&mut network, server, |limits| {
            (limits.datagram_queue_bytes_max, limits.datagram_queue_overflow) = (1500, policy);
        });
        assert_eq!(network.stats().datagrams_dropped, 2);
        blocked.store(false, Ordering::Relaxed);
        network.advance(Duration::from_secs(2));
        network.run();
        let received: Vec<_> = network.received_datagrams(server).into_iter().map(|(_, packet)| packet).collect();
        assert_eq!(received, [[kept; 1000]]);
    }
}

#[test]
fn a_stop_that_is_under_way_is_held_to_a_changed_configuration() {
    for (set, expected) in [
        (
            (|config: &mut ReactorConfig| config.drain_quiet = Duration::from_millis(10)) as fn(&mut ReactorConfig),
            "stopped",
        ),
        (|config| config.drain_grace = Duration::from_millis(10), "aborted by the stop"),
    ] {
        let mut long = ReactorConfig::default();
        (long.drain_quiet, long.drain_grace) = (Duration::from_secs(100), Duration::from_secs(1_000));
        let (mut network, journal) = (Network::with_config(long.clone()), Journal::new());
        let noted = journal.clone();
        let stays = expected == "aborted by the stop";
        let make = move |_: &mut (), _: &_| {
            let noted = noted.clone();
            probe(move |call, request: &mut Request<'_>| match call {
                Call::Drain if stays => Ok(Next::Wait),
                Call::Finish(why) => {
                    noted.note(why);
                    Ok(Next::Wait)
                }
                call => usual(&call, request),
            })
        };
        let server = network.serve((), make, Limits::default()).unwrap();
        let peer = network.connect(server);
        peer.send(b"hello");
        network.run();
        network.shutdown_handle().shutdown();
        network.run();
        set(&mut long);
        network.handle().run(move |reactor| reactor.set_config(long)).unwrap();
        network.run();
        assert!(journal.lines().is_empty());
        network.advance(Duration::from_millis(11));
        network.run();
        assert_eq!(journal.lines(), [expected]);
    }
}

#[test]
fn an_impossible_read_buffer_is_refused_without_a_panic() {
    if !is_alone() {
        return;
    }
    for bytes in [usize::MAX, usize::MAX / 2, (1 << 30) + 1] {
        let mut config = ReactorConfig::default();
        config.read_buffer_bytes = bytes;
        let expected = format!("read_buffer_bytes = {bytes}");
        let refused = |error: Option<Error>| {
            let error = error.expect("a refusal").to_string();
            assert!(error.contains(&expected), "{error}");
        };
        refused(Reactor::with_config(config.clone()).err());
        let mut server = TcpServer::new("127.0.0.1:0", |_| NoHandler).unwrap();
        server.timeout = Some(Duration::ZERO);
        server.set_config(config.clone());
        refused(server.handle_request().err());
        refused(server.serve_forever().err());
        let mut reactor = Reactor::new().unwrap();
        reactor.set_config(config.clone());
        refused(reactor.poll(Some(Duration::ZERO)).err());
        server.set_config(ReactorConfig::default());
        server.handle_request().unwrap();
        server.set_config(config);
        server.server_close();
    }
}

#[test]
fn requests_that_wait_get_the_threads_that_are_allowed_later() {
    #[derive(Default)]
    struct Threads;
    impl BaseServer for Threads {
        fn process_request(&mut self, _: &Incoming<'_>, _: &Address) -> ServeOn<Self> {
            ServeOn::thread(StreamRequestHandler::new(|request| {
                request.wfile.write_all(b"here")?;
                request.rfile.read_to_end(&mut Vec::new())?;
                Ok(())
            }))
        }
    }
    let mut server = TcpServer::with_server("127.0.0.1:0", Threads, |_, _| NoHandler).unwrap();
    limit(&mut server, |limits| limits.max_threads = 1);
    let id = server.id();
    let running = serve(server);
    let mut clients: Vec<_> = (0..3).map(|_| running.connect()).collect();
    clients[0].expect("here");
    running.wait_for_stats("three requests", |stats| stats.active == 3);
    running.handle.run(move |reactor| reactor.set_limits(id, Limits::default()).unwrap()).unwrap();
    for client in &mut clients[1..] {
        client.expect("here");
    }
    drop(clients);
    running.stop();
}
