//! Datagrams: each is a request, answered by one or not at all; and their senders come, go, flood and do not read.

use std::io::{ErrorKind, IoSlice, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socketserver::family::{Tcp, Udp};
use socketserver::testing::Network;
use socketserver::{
    Address, BaseServer, ConnectionId, DatagramRequestHandler, Delivery, EndReason, Error, Handle, Incoming, Limits,
    Message, MulticastGroup, MulticastInterface, Next, NoHandler, Others, Overflow, Reactor, Request, RequestHandler,
    Server, ServerId, Stats, ThreadingUdpServer, Timeout, UdpOptions, UdpServer,
};

use crate::common::{
    self, Call, Journal, Kind, Mailbox, PATIENCE, Peer, Running, SCRIPTED, address_of, echo, echoing, limit,
    never_interrupt, options, probe, random, serve, server, server_with, silence_scripted_panics, usual,
};

over_datagrams! {
    an_empty_datagram_is_a_request_and_may_be_the_answer,
    nothing_written_is_no_answer,
    the_answer_is_one_datagram_of_all_that_setup_handle_and_finish_wrote,
    every_size_comes_back,
    an_answer_longer_than_any_datagram_is_an_error_of_the_handler,
    a_datagram_that_is_too_long_is_dropped_unless_the_hook_wants_it,
    a_longer_maximum_holds_for_a_server_that_has_served_already,
    a_maximum_without_bounds_costs_none,
    a_fault_ends_its_own_request_and_nothing_else,
    a_refused_datagram_has_no_handler_and_no_answer,
    abort_sends_nothing_and_close_does,
    what_is_left_unread_is_not_seen_again,
    many_peers_are_all_answered,
    peers_that_vanish_do_not_stop_the_server,
    a_datagram_from_the_server_itself_never_loops,
    one_request_can_write_to_others,
    a_connection_begun_for_a_datagram_can_answer_it,
    every_way_to_send_reaches_a_session,
    handle_request_serves_one_datagram_or_tells_of_the_timeout,
    after_a_shutdown_it_serves_again_at_the_same_address,
    datagrams_that_wait_when_the_server_stops_are_answered,
    sessions_are_told_to_stop_and_say_goodbye,
    a_session_closed_while_its_next_datagram_waits_begins_anew,
    sessions_are_bounded_for_all_sockets_of_a_server_together,
    closing_a_server_ends_its_sessions_whatever_the_budget,
    a_session_gets_messages_and_can_be_closed_from_elsewhere,
    an_idle_server_rests,
    random_traffic_keeps_the_order_of_each_peer,
}

/// Hooks that write down what they are called with, and do as told.
#[derive(Default)]
struct Noting {
    journal: Journal,
    /// The hook that panics, once.
    breaks: Option<&'static str>,
    /// Datagrams that are cut are served.
    serves_cut: bool,
}

/// What a server is asked to do from another thread.
type Act = Box<dyn FnOnce(&mut Others<'_, Noting>) + Send>;

impl Noting {
    fn hook(&mut self, name: &'static str) {
        if self.breaks == Some(name) {
            self.breaks = None;
            panic!("{}", SCRIPTED);
        }
    }
}

impl BaseServer for Noting {
    fn verify_request(&mut self, request: &Incoming<'_>, _: &Address) -> bool {
        self.hook("verify_request");
        !matches!(request, Incoming::Datagram { packet: b"refuse me", .. })
    }
    fn finish_request(&mut self, _: &Address) -> Option<Box<dyn RequestHandler<Self>>> {
        self.hook("finish_request");
        None
    }
    fn datagram_truncated(&mut self, packet: &[u8], _: &Address) -> bool {
        self.journal.note(format!("cut {}", packet.len()));
        self.hook("datagram_truncated");
        self.serves_cut
    }
    fn close_request(&mut self, _: &Address, why: EndReason) {
        self.journal.note(format!("close_request {why}"));
        self.hook("close_request");
    }
    fn handle_error(&mut self, _: &Address, error: &Error) {
        self.journal.note(format!("handle_error {error:#}"));
        self.hook("handle_error");
    }
    fn handle_timeout(&mut self) {
        self.journal.note("handle_timeout");
    }
    fn message(&mut self, others: &mut Others<'_, Self>, message: Message) {
        message.downcast::<Act>().expect("an act")(others);
    }
}

/// What echoes, with hooks that note.
fn noting<F: Kind>(journal: &Journal) -> Server<F, Noting, impl RequestHandler<Noting>> {
    let state = Noting { journal: journal.clone(), ..Noting::default() };
    server_with(state, |_, _| probe(|call, request: &mut Request<'_, Noting>| echo(&call, request)))
}

/// The journal's notes of all callbacks, then as `echo`.
fn noted_echo(journal: &Journal) -> impl Fn(Call, &mut Request<'_>) -> socketserver::Result<Next> + Clone + use<> {
    let journal = journal.clone();
    move |call, request| {
        journal.note(&call);
        echo(&call, request)
    }
}

fn with_sessions(max: usize) -> Limits {
    let mut limits = Limits::default();
    limits.sessions_max = Some(max);
    limits
}

/// Holds the loop up while `meanwhile` runs.
fn hold_up<S, F: Kind>(running: &Running<S, F>, meanwhile: impl FnOnce()) {
    let (tell, begun) = std::sync::mpsc::channel();
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let wait = move |_: &mut Reactor| {
        tell.send(()).unwrap();
        let _ = held.recv_timeout(PATIENCE);
    };
    running.handle.run(wait).unwrap();
    begun.recv_timeout(PATIENCE).unwrap();
    meanwhile();
    hold.send(()).unwrap();
}

/// A reactor that serves on a thread, until told to stop.
fn run(mut reactor: Reactor) -> (Handle, impl FnOnce() -> Stats) {
    let handle = reactor.handle();
    let stop = reactor.shutdown_handle();
    let (tell, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || drop(tell.send(reactor.serve_forever().map(|()| reactor.stats()))));
    (handle, move || {
        stop.shutdown();
        done.recv_timeout(PATIENCE + Duration::from_secs(10)).expect("it stops").unwrap()
    })
}

// ---- one datagram, one request ----

fn an_empty_datagram_is_a_request_and_may_be_the_answer<F: Kind>() {
    let running = serve(echoing::<F>());
    let client = running.mailbox();
    client.echo("");
    client.echo("not empty");
    client.echo("");
    let stats = running.stop();
    assert_eq!((stats.datagrams_in, stats.datagrams_out, stats.bytes_in, stats.bytes_out), (3, 3, 9, 9));
}

fn nothing_written_is_no_answer<F: Kind>() {
    let running = serve(server::<F, _>(|_| {
        probe(|call, request: &mut Request<'_>| match request.input.unread() {
            b"quiet" => usual(&call, request),
            _ => echo(&call, request),
        })
    }));
    let client = running.mailbox();
    client.send("quiet");
    client.echo("this is the next thing it says");
    assert_eq!(running.stop().datagrams_out, 1);
}

fn the_answer_is_one_datagram_of_all_that_setup_handle_and_finish_wrote<F: Kind>() {
    let running = serve(server::<F, _>(|_| {
        probe(|call, request: &mut Request<'_>| {
            write!(request.output, "{call} ")?;
            request.output.write_shared(&b"+ "[..])?;
            assert!(!request.output.is_empty());
            match call {
                Call::Handle => echo(&call, request),
                call => usual(&call, request),
            }
        })
    }));
    for _ in 0..2 {
        assert_eq!(running.mailbox().ask("<it> "), "setup + handle + <it> finish done + ");
    }
    assert_eq!(running.stop().datagrams_out, 2);
}

fn every_size_comes_back<F: Kind>() {
    sizes(serve({
        let mut server = echoing::<F>();
        limit(&mut server, |limits| limits.max_packet_size = 65_507);
        server
    }));
}

#[test]
fn every_size_comes_back_over_ipv6() {
    let mut server = UdpServer::new("[::1]:0", |_| probe(|call, request: &mut Request<'_>| echo(&call, request)));
    match &mut server {
        Ok(server) => limit(server, |limits| limits.max_packet_size = 65_507),
        Err(error) => return println!("skipped: {error}"),
    }
    sizes(serve(server.unwrap()));
}

fn sizes<F: Kind>(running: Running<(), F>) {
    let client = running.mailbox();
    let bytes: Vec<u8> = (0..65_507).map(|i: u32| (i % 251) as u8).collect();
    // 8,973 to 8,975 are about the largest that many networks pass in one piece.
    for n in (0..=65_507).step_by(97).chain([1, 1_472, 1_473, 8_191, 8_192, 8_193, 65_506, 65_507]) {
        client.echo(&bytes[..n]);
    }
    let stats = running.stop();
    assert_eq!((stats.datagrams_truncated, stats.datagrams_failed), (0, 0));
}

fn an_answer_longer_than_any_datagram_is_an_error_of_the_handler<F: Kind>() {
    let running = serve(server::<F, _>(|_| {
        probe(|call, request: &mut Request<'_>| {
            if let (Call::Handle, b"much") = (&call, request.input.unread()) {
                request.output.write_all(&[0; 65_507])?;
                request.output.write_all(b"!")?;
            }
            echo(&call, request)
        })
    }));
    let client = running.mailbox();
    client.send("much");
    client.echo("still here");
    assert_eq!(running.stop().handler_errors, 1);
}

fn a_datagram_that_is_too_long_is_dropped_unless_the_hook_wants_it<F: Kind>() {
    for (serves_cut, sessions) in [(false, false), (true, false), (false, true), (true, true)] {
        let journal = Journal::new();
        let mut server = noting::<F>(&journal);
        server.server_mut().serves_cut = serves_cut;
        limit(&mut server, |limits| {
            limits.max_packet_size = 10;
            limits.sessions_max = sessions.then_some(10);
        });
        let running = serve(server);
        let client = running.mailbox();
        client.echo("just right");
        client.send("one too many");
        client.send([b'x'; 50_000]);
        if serves_cut {
            client.expect("one too ma");
            client.expect("xxxxxxxxxx");
        }
        client.echo("after that");
        assert_eq!(journal.count("cut 10"), 2);
        let stats = running.stop();
        assert_eq!((stats.datagrams_in, stats.datagrams_truncated), (4, 2));
        assert_eq!(stats.datagrams_out, if serves_cut { 4 } else { 2 });
    }
}

fn a_longer_maximum_holds_for_a_server_that_has_served_already<F: Kind>() {
    let mut server = echoing::<F>();
    // Not a buffer that happens to be large enough.
    let mut config = server.config().clone();
    config.read_buffer_bytes = 1;
    server.set_config(config);
    server.timeout = Some(PATIENCE);
    let client = Mailbox::to(address_of(&server));
    for n in [8_192, 20_000, 65_507] {
        limit(&mut server, |limits| limits.max_packet_size = n);
        client.send(vec![b'x'; n]);
        server.handle_request().unwrap();
        assert_eq!(client.receive().len(), n);
    }
}

fn a_maximum_without_bounds_costs_none<F: Kind>() {
    let mut server = echoing::<F>();
    limit(&mut server, |limits| limits.max_packet_size = usize::MAX);
    let running = serve(server);
    let client = running.mailbox();
    client.echo([b'x'; 65_507]);
    assert_eq!(running.stop().datagrams_truncated, 0);
}

fn a_fault_ends_its_own_request_and_nothing_else<F: Kind>() {
    silence_scripted_panics();
    for sessions in [None, Some(10)] {
        for (place, panics) in [
            ("setup", false),
            ("setup", true),
            ("handle", false),
            ("handle", true),
            ("finish", true),
            ("factory", true),
            ("verify_request", true),
            ("finish_request", true),
            ("close_request", true),
        ] {
            let context = format!("{place}, panic: {panics}, sessions: {sessions:?}");
            let journal = Journal::new();
            let state = Noting { journal: journal.clone(), breaks: Some(place), serves_cut: false };
            let notes = journal.clone();
            let mut server = server_with::<F, _, _>(state, move |state: &mut Noting, _| {
                state.hook("factory");
                let notes = notes.clone();
                probe(move |call, request: &mut Request<'_, Noting>| {
                    if let Call::Finish(why) = &call {
                        notes.note(format!("finish {why}"));
                    }
                    // This must never arrive anywhere.
                    let is_bad = request.server.breaks.is_some_and(|place| call.to_string().starts_with(place));
                    if is_bad {
                        write!(request.output, "half an answer")?;
                    }
                    if is_bad && !panics {
                        request.server.breaks = None;
                        return Err(SCRIPTED.into());
                    }
                    for place in ["setup", "handle", "finish"] {
                        if call.to_string().starts_with(place) {
                            request.server.hook(place);
                        }
                    }
                    match call {
                        Call::Handle if request.input.unread() == b"bye" => {
                            echo(&call, request)?;
                            Ok(Next::Close)
                        }
                        call => echo(&call, request),
                    }
                })
            });
            limit(&mut server, |limits| limits.sessions_max = sessions);
            let running = serve(server);
            let (bad, bystander) = (running.mailbox(), running.mailbox());
            bad.send("bye");
            if place == "close_request" || (place == "finish" && sessions.is_some()) {
                bad.expect("bye"); // The answer was due before that.
            }
            bystander.echo("served");
            bad.echo("served again");
            let errors = usize::from(place != "close_request");
            assert_eq!(journal.count("handle_error"), errors, "{context}: {:?}", journal.lines());
            let why = match place {
                "close_request" => "done",
                "finish" => "done", // That it failed is known too late to be the reason.
                _ if panics => "panicked",
                _ => "handler error",
            };
            let first = journal.lines().into_iter().find(|line| line.starts_with("close_request")).unwrap();
            assert_eq!(first, format!("close_request {why}"), "{context}");
            let (stats, _) = running.stop_with_state();
            assert_eq!(journal.count("close_request"), 3, "{context}: {:?}", journal.lines());
            let finished = journal.count("finish ");
            let never_set_up = !matches!(place, "handle" | "finish" | "close_request");
            assert_eq!(finished, if never_set_up { 2 } else { 3 }, "{context}: {:?}", journal.lines());
            assert_eq!((stats.panics, stats.handler_errors), (u64::from(panics), u64::from(!panics)), "{context}");
            assert_eq!(stats.active, 0, "{context}");
        }
    }
}

#[test]
fn a_panic_in_datagram_truncated_drops_that_datagram_only() {
    silence_scripted_panics();
    let journal = Journal::new();
    let mut server = noting::<Udp>(&journal);
    (server.server_mut().serves_cut, server.server_mut().breaks) = (true, Some("datagram_truncated"));
    limit(&mut server, |limits| limits.max_packet_size = 4);
    let running = serve(server);
    let client = running.mailbox();
    client.send("too long");
    assert_eq!(client.ask("as long"), "as l");
    assert_eq!(running.stop().panics, 1);
}

fn a_refused_datagram_has_no_handler_and_no_answer<F: Kind>() {
    for sessions in [None, Some(10)] {
        let journal = Journal::new();
        let mut server = noting::<F>(&journal);
        limit(&mut server, |limits| limits.sessions_max = sessions);
        let running = serve(server);
        let client = running.mailbox();
        client.send("refuse me");
        client.echo("but not me");
        assert_eq!(journal.count("close_request refused"), 1);
        let stats = running.stop();
        assert_eq!((stats.refused, stats.datagrams_in), (1, 2));
    }
}

fn abort_sends_nothing_and_close_does<F: Kind>() {
    for sessions in [None, Some(10)] {
        let journal = Journal::new();
        let notes = journal.clone();
        let mut server = server::<F, _>(move |_| {
            let notes = notes.clone();
            probe(move |call, request: &mut Request<'_>| {
                let ends = request.input.unread().to_vec();
                if let Call::Finish(why) = &call {
                    notes.note(format!("finish {why}"));
                    request.output.write_all(b"!")?;
                }
                echo(&call, request)?;
                let id = request.id();
                match &ends[..] {
                    b"close" => return Ok(Next::Close),
                    b"abort" => return Ok(Next::Abort),
                    b"close itself" => request.close(),
                    b"abort itself" => request.abort(),
                    b"close by id" => request.others.close(id),
                    b"abort by id" => request.others.abort(id),
                    _ => {}
                }
                Ok(Next::Wait)
            })
        });
        limit(&mut server, |limits| limits.sessions_max = sessions);
        let running = serve(server);
        let client = running.mailbox();
        for ends in ["close", "abort", "close itself", "abort itself", "close by id", "abort by id", "close"] {
            client.send(ends);
            if ends.starts_with("abort") {
                continue;
            }
            // A session's answer leaves with each callback, that of a request at its end.
            if sessions.is_some() {
                client.expect(ends);
                client.expect("!");
            } else {
                client.expect(format!("{ends}!"));
            }
        }
        let stats = running.stop();
        assert_eq!(journal.count("finish done"), 7, "{:?}", journal.lines());
        assert_eq!(stats.datagrams_out, if sessions.is_some() { 8 } else { 4 });
    }
}

fn what_is_left_unread_is_not_seen_again<F: Kind>() {
    for sessions in [None, Some(10)] {
        let mut server = server::<F, _>(|_| {
            probe(|call, request: &mut Request<'_>| {
                if let Call::Handle = call {
                    // The end of the datagram is an end: what is there is all.
                    assert!(request.input.is_eof());
                    let line = request.input.read_line()?.map(<[u8]>::to_vec);
                    write!(request.output, "{}", String::from_utf8_lossy(&line.unwrap_or_default()).trim())?;
                    return Ok(Next::Wait);
                }
                usual(&call, request)
            })
        });
        limit(&mut server, |limits| {
            limits.sessions_max = sessions;
            limits.input_bytes_max = 4;
            limits.read_timeout = Some(Duration::from_nanos(1));
        });
        let running = serve(server);
        let client = running.mailbox();
        assert_eq!(client.ask("one\nand a rest that nobody reads"), "one");
        assert_eq!(client.ask("two"), "two");
        running.stop();
    }
}

fn many_peers_are_all_answered<F: Kind>() {
    for sessions in [None, Some(300)] {
        let mut server = echoing::<F>();
        limit(&mut server, |limits| {
            limits.sessions_max = sessions;
            limits.datagrams_per_turn = 7; // So that they have to wait for their turn.
        });
        let running = serve(server);
        let clients: Vec<_> = (0..300).map(|_| running.mailbox()).collect();
        for round in 0..3 {
            // A few at a time: how many may wait in a socket is the system's to say.
            for some in clients.chunks(8) {
                some.iter().enumerate().for_each(|(n, client)| client.send(format!("{round} {n}")));
                some.iter().enumerate().for_each(|(n, client)| client.expect(format!("{round} {n}")));
            }
        }
        assert_eq!(running.stats().active, sessions.map_or(0, |max| max as u64));
        let stats = running.stop();
        assert_eq!((stats.datagrams_in, stats.datagrams_out), (900, 900));
    }
}

fn peers_that_vanish_do_not_stop_the_server<F: Kind>() {
    const GONE: usize = 2_000;
    let running = serve(echoing::<F>());
    let bystander = running.mailbox();
    // No more than wait in a Unix socket.
    for n in 1..=GONE / 5 {
        hold_up(&running, || {
            let gone: Vec<_> = (0..5).map(|_| running.mailbox()).collect();
            gone.iter().for_each(|client| client.send("are you there?"));
        });
        running.wait_for_stats("none waits", |stats| stats.datagrams_in >= (5 * n + (n - 1) / 40) as u64);
        if n % 40 == 0 {
            bystander.echo("and now");
        }
    }
    bystander.echo("and in the end");
    let stats = running.stop();
    assert_eq!(stats.datagrams_in, GONE as u64 + 11);
    // UDP does not report whether the peer exists, or only later.
    assert_eq!(stats.datagrams_out + stats.datagrams_failed, stats.datagrams_in);
    assert!(F::NAME == "UDP" || stats.datagrams_failed == GONE as u64, "{stats:?}");
}

fn a_datagram_from_the_server_itself_never_loops<F: Kind>() {
    for sessions in [None, Some(10)] {
        let journal = Journal::new();
        let notes = journal.clone();
        let mut server = server::<F, _>(move |_| {
            let notes = notes.clone();
            probe(move |call, request: &mut Request<'_>| {
                if let Call::Handle = call {
                    notes.note("handle");
                    let me = request.local_address().expect("a bound socket has one");
                    assert_eq!(request.send_to(&me, request.input.unread()), Delivery::Queued);
                }
                echo(&call, request)
            })
        });
        limit(&mut server, |limits| limits.sessions_max = sessions);
        let running = serve(server);
        let client = running.mailbox();
        client.echo("once");
        client.echo("twice");
        running.wait_for_stats("both came back", |stats| stats.datagrams_reflected == 2);
        assert_eq!(journal.count("handle"), 2);
        running.stop();
    }
}

#[test]
fn a_datagram_from_the_server_itself_is_known_by_whatever_address_it_has() {
    for bound in [SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))] {
        let mut server = UdpServer::unbound(|_| {
            probe(|call, request: &mut Request<'_>| {
                if let (Call::Handle, Ok(to)) = (&call, std::str::from_utf8(request.input.unread())) {
                    let to: SocketAddr = to.parse()?;
                    assert_eq!(request.send_to(&to.into(), b"to myself"), Delivery::Queued);
                }
                echo(&call, request)
            })
        });
        let options = options(|options: &mut UdpOptions| options.ipv6_only = false);
        if let Err(error) = server.server_bind_with(bound, options) {
            println!("skipped: {error}");
            continue;
        }
        let server = server.server_activate().unwrap();
        let port = server.server_address().port();
        let mut own = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from(([127, 0, 0, 9], port))];
        if bound.is_ipv6() {
            own.push((Ipv6Addr::LOCALHOST, port).into());
        }
        // The address that the routing table would send from to a documentation address; nothing is sent there.
        let probing = UdpSocket::bind("0.0.0.0:0").unwrap();
        match probing.connect("198.51.100.1:9").and_then(|()| probing.local_addr()) {
            Ok(address) => own.push((address.ip(), port).into()),
            Err(error) => println!("no other address: {error}"),
        }
        let running = serve(server);
        let client = Mailbox::to(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        for (n, address) in own.into_iter().enumerate() {
            client.echo(address.to_string());
            running.wait_for_stats(&format!("{bound}: {address}"), |stats| {
                stats.datagrams_reflected + stats.datagrams_failed == n as u64 + 1
            });
        }
        running.stop();
    }
}

#[test]
#[cfg(target_os = "linux")] // The others have to be given more than one address of the loopback first.
fn a_peer_that_has_the_server_s_port_elsewhere_is_served() {
    let running = serve(echoing::<Udp>());
    let twin = SocketAddr::from(([127, 0, 0, 2], running.address.port()));
    Mailbox::named(&twin.into(), &running.address.into()).echo("not you");
    assert_eq!(running.stop().datagrams_reflected, 0);
}

#[test]
#[cfg(target_os = "linux")]
fn a_neighbour_that_shares_the_server_s_port_is_served_also_if_it_repeats_the_answer() {
    let mut server = UdpServer::unbound(|_| probe(|call, request: &mut Request<'_>| echo(&call, request)));
    let options = options(|options: &mut UdpOptions| options.allow_reuse_address = true);
    server.server_bind_with("0.0.0.0:0", options).unwrap();
    let server = server.server_activate().unwrap();
    let port = server.server_address().port();
    let running = serve(server);
    let neighbour = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    neighbour.set_reuse_address(true).unwrap();
    neighbour.bind(&SocketAddr::from(([127, 0, 0, 9], port)).into()).unwrap();
    let neighbour = UdpSocket::from(neighbour);
    neighbour.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..3 {
        neighbour.send_to(b"not you", (Ipv4Addr::LOCALHOST, port)).unwrap();
        assert_eq!(neighbour.recv(&mut [0; 8]).unwrap(), 7);
    }
    assert_eq!(running.stop().datagrams_reflected, 0);
}

#[test]
fn a_forged_datagram_with_the_server_s_own_address_starts_no_loop() {
    for limits in [Limits::default(), with_sessions(10)] {
        let mut peers = peers(&Journal::new(), limits, |call, request| echo(&call, request));
        let me = "192.0.2.1:9999";
        assert_eq!(peers.ask(me, b"forged"), [b"forged"]);
        assert!(peers.ask(me, b"forged").is_empty(), "its answer comes back");
        assert_eq!(peers.stats().datagrams_reflected, 1);
    }
}

#[test]
#[cfg(all(feature = "batch", target_os = "linux"))] // Others have to be given more than one address of the loopback first.
fn a_session_is_answered_from_the_address_that_its_peer_wrote_to_last() {
    let mut server = UdpServer::new("0.0.0.0:0", |_| {
        probe(|call, request: &mut Request<'_>| {
            match call {
                Call::Handle => request.set_timer(0, Duration::ZERO),
                Call::Timer(_) => write!(request.output, "later, {}", request.local_address().unwrap())?,
                _ => {}
            }
            echo(&call, request)
        })
    })
    .unwrap();
    server.set_limits(with_sessions(10)).unwrap();
    let port = server.server_address().port();
    let running = serve(server);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    for last in [2, 3, 2] {
        let asked = SocketAddr::from(([127, 0, 0, last], port));
        client.send_to(b"here", asked).unwrap();
        for answer in ["here".to_owned(), format!("later, {asked}")] {
            let mut packet = [0; 100];
            let (n, from) = client.recv_from(&mut packet).unwrap();
            assert_eq!((from, &packet[..n]), (asked, answer.as_bytes()));
        }
    }
    assert_eq!(running.stats().active, 1);
    running.stop();
}

#[test]
fn a_dual_stack_server_reaches_clients_of_both_kinds_in_every_way() {
    let journal = Journal::new();
    let state = Noting { journal: journal.clone(), ..Noting::default() };
    let mut server = UdpServer::unbound_with_server(state, |_, _| {
        probe(|call, request: &mut Request<'_, Noting>| {
            if let Call::Handle = call {
                assert_eq!(request.send_to(&request.client_address(), b"send_to"), Delivery::Queued);
            }
            echo(&call, request)
        })
    });
    let options = options(|options: &mut UdpOptions| options.ipv6_only = false);
    if let Err(error) = server.server_bind_with("[::]:0", options) {
        return println!("skipped: {error}");
    }
    let server = server.server_activate().unwrap();
    let (id, port) = (server.id(), server.server_address().port());
    let running = serve(server);
    for ip in [Ipv4Addr::LOCALHOST.into(), IpAddr::from(Ipv6Addr::LOCALHOST)] {
        let client = Mailbox::to(SocketAddr::new(ip, port));
        client.send("answer");
        client.expect("send_to");
        client.expect("answer");
        let to = client.address.clone();
        let act: Act = Box::new(move |others| assert_eq!(others.send_to(&to, b"from the hook"), Delivery::Queued));
        running.handle.send_to_server(id, act).unwrap();
        client.expect("from the hook");
    }
    assert_eq!(running.stop().panics, 0);
}

fn one_request_can_write_to_others<F: Kind>() {
    let others: Arc<Mutex<Vec<Address>>> = Arc::default();
    let theirs = Arc::clone(&others);
    let running = serve(server::<F, _>(move |_| {
        let others = Arc::clone(&theirs);
        probe(move |call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                for to in others.lock().unwrap().iter() {
                    for text in ["first", "", "last"] {
                        assert_eq!(request.send_to(to, text.as_bytes()), Delivery::Queued);
                    }
                }
                // What is sent to itself is the answer, and written.
                assert_eq!(request.others.send(request.id(), b"sent"), Delivery::Refused);
            }
            echo(&call, request)
        })
    }));
    let (client, listeners) = (running.mailbox(), [running.mailbox(), running.mailbox(), running.mailbox()]);
    *others.lock().unwrap() = listeners.iter().map(|listener| listener.address.clone()).collect();
    client.send("answered");
    for listener in &listeners {
        ["first", "", "last"].iter().for_each(|text| listener.expect(text));
    }
    client.expect("answered");
    assert_eq!(running.stop().datagrams_out, 10);
}

fn a_connection_begun_for_a_datagram_can_answer_it<F: Kind>() {
    let upstream = serve(echoing::<Tcp>());
    let far = upstream.address;
    let running = serve(server::<F, _>(move |_| {
        probe(move |call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                let (client, question) = (request.client_address(), request.input.take_all().to_vec());
                let relay = probe(move |call, request: &mut Request<'_>| match call {
                    Call::Setup => {
                        request.output.write_all(&question)?;
                        Ok(Next::Wait)
                    }
                    Call::Handle => {
                        assert_eq!(request.send_to(&client, request.input.unread()), Delivery::Queued);
                        Ok(Next::Close)
                    }
                    call => usual(&call, request),
                });
                request.others.connect(far, relay)?;
            }
            usual(&call, request)
        })
    }));
    let clients = [running.mailbox(), running.mailbox()];
    clients.iter().enumerate().for_each(|(n, client)| client.send(format!("question {n}")));
    clients.iter().enumerate().for_each(|(n, client)| client.expect(format!("question {n}")));
    running.wait_for_stats("the connections are over", |stats| stats.active == 0);
    assert_eq!(running.stop().panics, 0);
    upstream.stop();
}

fn every_way_to_send_reaches_a_session<F: Kind>() {
    let ids: Arc<Mutex<Vec<ConnectionId>>> = Arc::default();
    let theirs = Arc::clone(&ids);
    let state = Noting::default();
    let mut server = server_with::<F, _, _>(state, move |_, _| {
        let ids = Arc::clone(&theirs);
        probe(move |call, request: &mut Request<'_, Noting>| {
            if let Call::Setup = call {
                ids.lock().unwrap().push(request.id());
            }
            if let (Call::Handle, b"tell") = (&call, request.input.unread()) {
                let first = ids.lock().unwrap()[0];
                assert_eq!(request.others.connections(), [first]);
                assert_eq!(request.others.send(first, b"send"), Delivery::Queued);
                assert_eq!(request.others.broadcast(&b"broadcast"[..], |_| true), 1);
            }
            echo(&call, request)
        })
    });
    limit(&mut server, |limits| limits.sessions_max = Some(2));
    never_interrupt(&mut server);
    let id = server.id();
    let running = serve(server);
    let (first, second) = (running.mailbox(), running.mailbox());
    first.echo("one");
    second.echo("two");
    second.send("tell");
    second.expect("tell");
    first.expect("send");
    first.expect("broadcast");
    let (session, to) = (ids.lock().unwrap()[0], first.address.clone());
    let act: Act = Box::new(move |others| {
        assert_eq!(others.send(session, b"control"), Delivery::Queued);
        assert_eq!(others.send_to(&to, b""), Delivery::Queued);
        assert_eq!(others.broadcast(&b"to all"[..], |_| true), 2);
        others.close(session);
        assert_eq!(others.send(session, b"too late"), Delivery::Gone);
        assert_eq!(others.broadcast(&b"without it"[..], |_| true), 1);
        // No client has a socket of that kind.
        let of_no_family = Address::from(SocketAddr::from((Ipv6Addr::LOCALHOST, 9)));
        assert_eq!(others.send_to(&of_no_family, b""), Delivery::Gone);
    });
    running.handle.send_to_server(id, act).unwrap();
    ["control", "", "to all"].iter().for_each(|text| first.expect(text));
    second.expect("to all");
    second.expect("without it");
    assert_eq!(running.stop().panics, 0);
}

// ---- the server's life ----

fn handle_request_serves_one_datagram_or_tells_of_the_timeout<F: Kind>() {
    for sessions in [None, Some(10)] {
        let journal = Journal::new();
        let mut server = noting::<F>(&journal);
        limit(&mut server, |limits| limits.sessions_max = sessions);
        server.timeout = Some(Duration::ZERO);
        server.handle_request().unwrap();
        assert_eq!(journal.lines(), ["handle_timeout"]);
        let (one, two) = (Mailbox::to(address_of(&server)), Mailbox::to(address_of(&server)));
        server.timeout = Some(PATIENCE);
        one.send("one");
        two.send("two");
        for (n, client) in [(1, &one), (2, &two)] {
            server.handle_request().unwrap();
            assert_eq!(server.stats().datagrams_in, n);
            client.expect(["one", "two"][n as usize - 1]);
        }
        // A session outlives the request; it is ended with the server.
        assert_eq!(server.stats().active, sessions.map_or(0, |_| 2));
        drop(server);
        assert_eq!(journal.count("handle_timeout"), 1);
        assert_eq!(journal.count("close_request"), 2);
    }
}

fn after_a_shutdown_it_serves_again_at_the_same_address<F: Kind>() {
    let mut server = echoing::<F>();
    let address = server.server_address();
    for round in 0..3 {
        let (stop, handle) = (server.shutdown_handle(), server.handle());
        let thread = std::thread::spawn(move || server.serve_forever().map(|()| server));
        let (tell, hear) = std::sync::mpsc::channel();
        handle.run(move |_| tell.send(()).unwrap()).unwrap();
        if hear.recv_timeout(PATIENCE).is_err() {
            let error = thread.join().unwrap().map(drop).expect_err("it is bound again by the time it answers");
            assert!(matches!(&error, Error::Bind { source, .. } if source.kind() == ErrorKind::AddrInUse), "{error}");
            return println!("skipped: another program was given the port meanwhile");
        }
        Mailbox::to(address.clone()).echo(format!("round {round}"));
        stop.shutdown();
        server = thread.join().unwrap().unwrap();
        assert_eq!(server.server_address(), address);
    }
}

fn datagrams_that_wait_when_the_server_stops_are_answered<F: Kind>() {
    for sessions in [None, Some(10)] {
        let mut server = echoing::<F>();
        limit(&mut server, |limits| limits.sessions_max = sessions);
        let clients: Vec<_> = (0..8).map(|_| Mailbox::to(address_of(&server))).collect();
        clients.iter().for_each(|client| client.send("in time"));
        server.shutdown_handle().shutdown();
        let running = serve(server);
        clients.iter().for_each(|client| client.expect("in time"));
        let (stats, ()) = running.join();
        assert_eq!((stats.datagrams_in, stats.datagrams_out, stats.active), (8, 8, 0));
    }
}

fn sessions_are_told_to_stop_and_say_goodbye<F: Kind>() {
    let journal = Journal::new();
    let notes = journal.clone();
    let mut server = server::<F, _>(move |_| {
        let notes = notes.clone();
        probe(move |call, request: &mut Request<'_>| {
            notes.note(&call);
            match &call {
                Call::Drain => request.output.write_all(b"goodbye")?,
                Call::Finish(_) => request.output.write_all(b"really")?,
                _ => {}
            }
            echo(&call, request)
        })
    });
    limit(&mut server, |limits| limits.sessions_max = Some(100));
    let running = serve(server);
    let clients: Vec<_> = (0..100).map(|_| running.mailbox()).collect();
    clients.iter().for_each(|client| client.echo("hello"));
    let stats = running.stop();
    for client in &clients {
        client.expect("goodbye");
        client.expect("really");
    }
    assert_eq!((journal.count("drain"), journal.count("finish stopped")), (100, 100));
    assert_eq!((stats.active, stats.closed, stats.datagrams_out), (0, 100, 300));
}

fn a_session_closed_while_its_next_datagram_waits_begins_anew<F: Kind>() {
    // Also when there is room for one session only: it is its own that it takes.
    for max in [10, 1] {
        let journal = Journal::new();
        let act = noted_echo(&journal);
        let mut server = server::<F, _>(move |_| {
            let (act, mut count) = (act.clone(), 0);
            probe(move |call, request: &mut Request<'_>| {
                if let Call::Handle = call {
                    count += 1;
                    write!(request.output, "{count}")?;
                    request.input.take_all();
                    return Ok(Next::Close);
                }
                act(call, request)
            })
        });
        limit(&mut server, |limits| limits.sessions_max = Some(max));
        let running = serve(server);
        let client = running.mailbox();
        hold_up(&running, || (0..5).for_each(|_| client.send("x")));
        (0..5).for_each(|_| client.expect("1"));
        let stats = running.wait_for_stats("all are over", |stats| stats.active == 0);
        assert_eq!((stats.sessions_refused, stats.closed), (0, 5), "room for {max}");
        running.stop();
        assert_eq!((journal.count("setup"), journal.count("finish done")), (5, 5));
    }
}

fn sessions_are_bounded_for_all_sockets_of_a_server_together<F: Kind>() {
    let mut server = Server::<F, _, _>::unbound(|_| probe(|call, request: &mut Request<'_>| echo(&call, request)));
    let places = [F::place(), F::place()];
    places.iter().for_each(|(place, _)| server.server_bind(place.clone()).unwrap());
    server.limits.sessions_max = Some(1);
    let server = server.server_activate().unwrap();
    let other = F::at(&server.server_addresses()[1]);
    let running = serve(server);
    let (first, second) = (running.mailbox(), Mailbox::to(other));
    first.echo("I was first");
    second.send("no room");
    running.wait_for_stats("it is refused", |stats| stats.sessions_refused == 1);
    first.echo("still there");
    running.stop();
}

fn closing_a_server_ends_its_sessions_whatever_the_budget<F: Kind>() {
    let journal = Journal::new();
    let mut server = noting::<F>(&journal);
    limit(&mut server, |limits| {
        limits.sessions_max = Some(10);
        limits.callbacks_per_turn = 1;
    });
    server.timeout = Some(PATIENCE);
    let clients = [(); 3].map(|()| Mailbox::to(address_of(&server)));
    clients.iter().for_each(|client| client.send("hello"));
    clients.iter().for_each(|client| {
        server.handle_request().unwrap();
        client.expect("hello");
    });
    server.server_close();
    assert_eq!(server.stats().active, 0);
    assert_eq!(journal.count("close_request aborted by the stop"), 3);
}

fn a_session_gets_messages_and_can_be_closed_from_elsewhere<F: Kind>() {
    let (tell, hear) = std::sync::mpsc::channel();
    let journal = Journal::new();
    let notes = journal.clone();
    let mut server = server::<F, _>(move |_| {
        let (tell, notes) = (tell.clone(), notes.clone());
        probe(move |call, request: &mut Request<'_>| {
            match call {
                Call::Setup => tell.send(request.id()).unwrap(),
                Call::Finish(why) => notes.note(format!("finish {why}")),
                Call::Message(message) => {
                    match message.downcast::<ConnectionId>() {
                        Ok(other) => request.others.close(other),
                        Err(message) => request.output.write_all(message.downcast::<&str>().unwrap().as_bytes())?,
                    }
                    return Ok(Next::Wait);
                }
                _ => {}
            }
            echo(&call, request)
        })
    });
    limit(&mut server, |limits| limits.sessions_max = Some(2));
    let running = serve(server);
    let (one, two) = (running.mailbox(), running.mailbox());
    one.echo("one");
    two.echo("two");
    let ids = [hear.recv_timeout(PATIENCE).unwrap(), hear.recv_timeout(PATIENCE).unwrap()];
    running.handle.send(ids[0], "a message").unwrap();
    one.expect("a message");
    running.handle.send(ids[0], ids[1]).unwrap();
    journal.wait("finish evicted");
    two.echo("once more, in a new one");
    assert_ne!(hear.recv_timeout(PATIENCE).unwrap(), ids[1]);
    running.handle.send(ids[1], "nobody").unwrap();
    running.wait_for_stats("it is dropped", |stats| stats.messages_dropped == 1);
    one.echo("still there");
    running.stop();
}

fn an_idle_server_rests<F: Kind>() {
    for sessions in [None, Some(10)] {
        let mut server = echoing::<F>();
        limit(&mut server, |limits| limits.sessions_max = sessions);
        let running = serve(server);
        let client = running.mailbox();
        client.echo("awake");
        running.expect_rest(Duration::from_millis(30));
        running.stop();
    }
}

/// Every peer sends numbers, each of which comes back once or twice; it reads in fits and starts.
fn random_traffic_keeps_the_order_of_each_peer<F: Kind>() {
    let seed = u64::from(std::process::id()) << 20 | 0xda7a;
    println!("seed {seed}");
    let mut server = server::<F, _>(|_| {
        probe(|call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                let packet = request.input.take_all();
                for _ in 0..packet[0] {
                    let _ = request.send_to(&request.client_address(), packet);
                }
            }
            usual(&call, request)
        })
    });
    // What UDP has no room for is lost, so there is never so much; to a Unix socket it waits.
    let window = if F::NAME == "UDP" { 8 } else { 100 };
    let mut state = seed;
    limit(&mut server, |limits| {
        limits.datagrams_per_turn = 1 + (random(&mut state) % 20) as usize;
        limits.sessions_max = random(&mut state).is_multiple_of(2).then_some(8);
    });
    let running = serve(server);
    let clients: Vec<_> = (1..=8u64)
        .map(|n| {
            let (client, mut state) = (running.mailbox(), seed ^ n.wrapping_mul(0x9e37_79b9));
            std::thread::spawn(move || {
                let mut due = std::collections::VecDeque::new();
                for number in 0..1_000u32 {
                    let times = 1 + (random(&mut state) % 2) as u8;
                    let mut packet = vec![times; 1 + (random(&mut state) % 1_000) as usize];
                    packet.extend_from_slice(&number.to_le_bytes());
                    client.send(&packet);
                    (0..times).for_each(|_| due.push_back(packet.clone()));
                    while due.len() > window || (!due.is_empty() && random(&mut state).is_multiple_of(3)) {
                        assert!(client.receive() == due.pop_front().unwrap(), "seed {seed}, client {n}, {number}");
                    }
                }
                due.iter().for_each(|packet| client.expect(packet));
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    let stats = running.stop();
    assert_eq!((stats.datagrams_in, stats.datagrams_dropped, stats.datagrams_failed), (8_000, 0, 0), "seed {seed}");
}

#[test]
fn a_flood_of_datagrams_does_not_starve_the_clients_of_a_stream_server() {
    let mut reactor = Reactor::new().unwrap();
    let (tcp, udp) = (echoing::<Tcp>(), echoing::<Udp>());
    let (to, flooded) = (address_of(&tcp), address_of(&udp));
    reactor.add(tcp).unwrap();
    reactor.add(udp).unwrap();
    let (_handle, stop) = run(reactor);
    let done = Arc::new(AtomicBool::new(false));
    let (tell, begun) = std::sync::mpsc::channel();
    let floods: Vec<_> = (0..2)
        .map(|_| {
            let (done, client, tell) = (Arc::clone(&done), Mailbox::to(flooded), tell.clone());
            std::thread::spawn(move || {
                (0..100).for_each(|_| client.send("flood"));
                tell.send(()).unwrap();
                let most = 5_000_000;
                let sent = (0..most).take_while(|_| !done.load(Ordering::Relaxed)).map(|_| client.send("flood"));
                assert!(sent.count() < most, "the others had to wait for its end");
            })
        })
        .collect();
    floods.iter().for_each(|_| begun.recv_timeout(PATIENCE).unwrap());
    let mut clients: Vec<_> = (0..20).map(|_| Peer::connect(to)).collect();
    for round in 0..20 {
        clients.iter_mut().for_each(|client| client.echo(format!("round {round}")));
    }
    done.store(true, Ordering::Relaxed);
    floods.into_iter().for_each(|flood| flood.join().unwrap());
    drop(clients);
    let stats = stop();
    assert!(stats.datagrams_in > 0, "there was a flood: {stats:?}");
}

#[test]
#[cfg(unix)]
fn all_kinds_of_servers_share_a_reactor() {
    use socketserver::family::{UnixDatagram, UnixStream};
    let mut reactor = Reactor::new().unwrap();
    let (tcp, udp, stream, datagram) =
        (echoing::<Tcp>(), echoing::<Udp>(), echoing::<UnixStream>(), echoing::<UnixDatagram>());
    let mut streams = [address_of(&tcp).into(), Address::from(address_of(&stream))].map(Peer::connect);
    let mailboxes = [address_of(&udp).into(), Address::from(address_of(&datagram))].map(Mailbox::to);
    let ids = [reactor.add(tcp), reactor.add(udp), reactor.add(stream), reactor.add(datagram)].map(|id| id.unwrap());
    let kinds = ids.map(|id| reactor.server_addresses(id)[0].as_inet().is_some());
    assert_eq!(kinds, [true, true, false, false]);
    let (_handle, stop) = run(reactor);
    for round in 0..3 {
        streams.iter_mut().for_each(|client| client.echo(format!("round {round}")));
        mailboxes.iter().for_each(|client| client.echo(format!("round {round}")));
    }
    drop(streams);
    let stats = stop();
    assert_eq!((stats.accepted, stats.datagrams_in, stats.datagrams_out), (2, 6, 6));
}

#[test]
#[cfg(unix)]
fn sessions_take_no_descriptors_from_stream_clients() {
    // Fewer descriptors than sessions.
    if !common::is_apart("datagram::sessions_take_no_descriptors_from_stream_clients", "ulimit -n 64") {
        return;
    }
    let mut reactor = Reactor::new().unwrap();
    let (tcp, mut udp) = (echoing::<Tcp>(), echoing::<Udp>());
    limit(&mut udp, |limits| limits.sessions_max = Some(1_000));
    let (to, at) = (address_of(&tcp), address_of(&udp));
    reactor.add(tcp).unwrap();
    reactor.add(udp).unwrap();
    let (_handle, stop) = run(reactor);
    // One port after the other: no two clients are open at once, and yet each has its session.
    let mut ports = std::collections::HashSet::new();
    while ports.len() < 100 {
        let client = Mailbox::to(at);
        client.echo("hello");
        ports.insert(client.address.port());
    }
    Peer::connect(to).echo("there is room for me");
    let stats = stop();
    assert!(stats.active_max > 100);
}

// ---- sessions, on a clock of their own ----

/// Two peers, and the default idle timeout.
const ANN: &str = "192.0.2.2:1000";
const BOB: &str = "192.0.2.3:1000";
const IDLE: Duration = Duration::from_secs(600);
const MOMENT: Duration = Duration::from_millis(1);

/// A simulated datagram server, and its peers by their addresses as text.
struct Peers {
    network: Network,
    server: ServerId,
    /// What the server has sent and no peer was asked about.
    sent: Vec<(Address, Vec<u8>)>,
}

impl Peers {
    fn new<S: BaseServer, H: RequestHandler<S>>(
        value: S,
        make: impl FnMut(&mut S, &Address) -> H + Send + 'static,
        limits: Limits,
    ) -> Self {
        let mut network = Network::new();
        let server = network.serve_datagrams(value, make, limits).unwrap();
        Peers { network, server, sent: Vec::new() }
    }

    fn feed(&mut self, from: &str, packet: &[u8]) {
        self.network.send_datagram(self.server, &address(from), packet);
        self.network.run();
    }

    /// A peer sends a datagram. Returns what the server has sent to that peer.
    fn ask(&mut self, from: &str, packet: &[u8]) -> Vec<Vec<u8>> {
        self.feed(from, packet);
        self.sent_to(from)
    }

    /// Takes out what the server has sent to a peer.
    fn sent_to(&mut self, peer: &str) -> Vec<Vec<u8>> {
        self.sent.extend(self.network.received_datagrams(self.server));
        let peer = address(peer);
        self.sent.extract_if(.., |(to, _)| *to == peer).map(|(_, packet)| packet).collect()
    }

    fn advance(&mut self, time: Duration) {
        self.network.advance(time);
        self.network.run();
    }

    fn stats(&self) -> Stats {
        self.network.stats()
    }
}

fn address(text: &str) -> Address {
    text.parse::<SocketAddr>().unwrap().into()
}

/// Peers of a server whose handlers write down what is called, with the peer's port, and then do as `act` says.
fn peers<A>(journal: &Journal, limits: Limits, act: A) -> Peers
where
    A: Fn(Call, &mut Request<'_, Noting>) -> socketserver::Result<Next> + Clone + Send + 'static,
{
    let state = Noting { journal: journal.clone(), ..Noting::default() };
    let notes = journal.clone();
    let make = move |_: &mut Noting, _: &Address| {
        let (act, notes) = (act.clone(), notes.clone());
        probe(move |call, request: &mut Request<'_, Noting>| {
            notes.note(&call);
            act(call, request)
        })
    };
    Peers::new(state, make, limits)
}

#[test]
fn a_session_is_idle_only_while_nothing_moves_and_ends_once() {
    let journal = Journal::new();
    let mut peers = peers(&journal, with_sessions(10), |call, request| echo(&call, request));
    assert_eq!(peers.ask(ANN, b"one"), [b"one"]);
    peers.advance(IDLE - MOMENT);
    assert_eq!(peers.ask(ANN, b"two"), [b"two"]);
    peers.advance(IDLE - MOMENT);
    assert_eq!(peers.stats().active, 1);
    peers.advance(MOMENT);
    assert_eq!((peers.stats().active, peers.stats().timeouts_idle), (0, 1));
    assert_eq!(peers.ask(ANN, b"three"), [b"three"]);
    let expected = [
        "setup",
        "handle",
        "handle",
        "timeout Idle",
        "finish idle timeout",
        "close_request idle timeout",
        "setup",
        "handle",
    ];
    assert_eq!(journal.lines(), expected);
}

#[test]
fn whatever_is_sent_to_a_session_counts_as_activity() {
    let ways: [fn(&mut Request<'_, Noting>); 2] = [
        |request| request.output.write_all(b"tick").unwrap(),
        |request| _ = request.send_to(&request.client_address(), b"tick"),
    ];
    for (n, way) in ways.into_iter().enumerate() {
        let journal = Journal::new();
        let mut peers = peers(&journal, with_sessions(10), move |call, request| {
            match call {
                Call::Timer(_) => way(request),
                _ => request.set_timer(1, IDLE - MOMENT),
            }
            usual(&call, request)
        });
        peers.feed(ANN, b"hello");
        peers.advance(IDLE - MOMENT);
        assert_eq!(peers.sent_to(ANN), [b"tick"]);
        peers.advance(IDLE - MOMENT);
        assert_eq!(journal.count("timeout"), 0, "way {n}");
        peers.advance(MOMENT);
        assert_eq!(journal.count("timeout"), 1, "way {n}");
    }
    // And from elsewhere.
    let acts: [fn(&mut Others<'_, Noting>); 2] = [
        |others| _ = others.broadcast(&b"tick"[..], |_| true),
        |others| _ = others.send(others.connections()[0], b"tick"),
    ];
    for (n, act) in acts.into_iter().enumerate() {
        let journal = Journal::new();
        let mut peers = peers(&journal, with_sessions(10), |call, request| usual(&call, request));
        peers.feed(ANN, b"hello");
        peers.advance(IDLE - MOMENT);
        peers.network.handle().send_to_server(peers.server, Box::new(act) as Act).unwrap();
        peers.network.run();
        assert_eq!(peers.sent_to(ANN), [b"tick"]);
        peers.advance(IDLE - MOMENT);
        assert_eq!(journal.count("timeout"), 0, "act {n}");
    }
}

#[test]
fn a_timeout_that_waits_prolongs_the_session() {
    let journal = Journal::new();
    let mut peers = peers(&journal, with_sessions(10), |call, request| match call {
        Call::Timeout(Timeout::Idle) => {
            request.output.write_all(b"are you there?")?;
            Ok(Next::Wait)
        }
        call => echo(&call, request),
    });
    peers.ask(ANN, b"hello");
    for n in 1..=3 {
        peers.advance(IDLE);
        assert_eq!(peers.sent_to(ANN), [b"are you there?"]);
        assert_eq!(journal.count("timeout Idle"), n);
    }
    assert_eq!((peers.stats().active, journal.count("finish")), (1, 0));
}

#[test]
fn sessions_are_bounded_and_there_is_room_again_when_some_are_over() {
    let journal = Journal::new();
    let mut peers = peers(&journal, with_sessions(2), |call, request| match call {
        Call::Handle if request.input.unread() == b"bye" => Ok(Next::Close),
        call => echo(&call, request),
    });
    let third = "192.0.2.4:1000";
    assert_eq!(peers.ask(ANN, b"a"), [b"a"]);
    peers.advance(IDLE / 2);
    assert_eq!(peers.ask(BOB, b"b"), [b"b"]);
    for n in 1..=3 {
        assert_eq!(peers.ask(third, b"c").len(), 0);
        assert_eq!(peers.stats().sessions_refused, n);
    }
    // Those that have one are served on.
    assert_eq!(peers.ask(BOB, b"b"), [b"b"]);
    peers.advance(IDLE / 2);
    assert_eq!(peers.ask(third, b"c"), [b"c"]);
    peers.feed(BOB, b"bye");
    assert_eq!(peers.ask(ANN, b"a"), [b"a"]);
    let stats = peers.stats();
    assert_eq!((stats.active, stats.active_max, stats.sessions_refused), (2, 2, 3));
    assert_eq!((journal.count("setup"), journal.count("finish")), (4, 2));
}

#[test]
fn a_limit_of_connections_per_client_is_none_of_sessions() {
    let journal = Journal::new();
    let mut limits = with_sessions(10);
    limits.connections_per_client_max = Some(1);
    let mut peers = peers(&journal, limits, |call, request| echo(&call, request));
    for peer in [ANN, "192.0.2.2:2000", "192.0.2.2:2001"] {
        assert_eq!(peers.ask(peer, b"a"), [b"a"]);
    }
    assert_eq!((peers.stats().refused, peers.stats().active), (0, 3));
}

#[test]
fn timers_of_a_session_fire_for_it_and_go_with_it() {
    let journal = Journal::new();
    let mut peers = peers(&journal, with_sessions(10), |call, request| match call {
        Call::Handle => {
            let packet = request.input.take_all();
            request.set_timer(7, Duration::from_secs(5));
            Ok(if packet == b"bye" { Next::Close } else { Next::Wait })
        }
        Call::Timer(tag) => {
            write!(request.output, "{tag}")?;
            request.set_timer(tag + 1, Duration::from_secs(5));
            Ok(Next::Wait)
        }
        call => usual(&call, request),
    });
    peers.feed(ANN, b"hello");
    peers.feed(BOB, b"bye");
    for tag in ["7", "8", "9"] {
        peers.advance(Duration::from_secs(5));
        assert_eq!(peers.sent_to(ANN), [tag.as_bytes()]);
        assert_eq!(peers.sent_to(BOB).len(), 0);
    }
}

#[test]
fn a_single_datagram_leaves_neither_timer_nor_slot_behind() {
    let journal = Journal::new();
    let mut peers = peers(&journal, Limits::default(), |call, request| {
        request.set_timer(1, MOMENT);
        request.set_timer(2, Duration::ZERO);
        request.set_timeout(Timeout::Idle, Some(MOMENT));
        assert!(request.cancel_timer(2));
        assert_eq!(request.others.connections(), []);
        // What comes back later finds no session.
        request.others.handle().send(request.id(), "anybody?")?;
        echo(&call, request)
    });
    for n in 1..=100 {
        assert_eq!(peers.ask(ANN, b"x"), [b"x"]);
        peers.advance(Duration::from_secs(1));
        assert_eq!(peers.stats().messages_dropped, 3 * n);
    }
    assert_eq!((peers.stats().active_max, peers.stats().panics), (0, 0));
    assert_eq!(journal.lines().len(), 400, "setup, handle, finish, close_request and nothing else");
}

#[test]
fn no_two_requests_have_the_same_name() {
    let seen: Arc<Mutex<std::collections::HashSet<ConnectionId>>> = Arc::default();
    let names = Arc::clone(&seen);
    let make = move |_: &mut (), _: &Address| {
        let names = Arc::clone(&names);
        probe(move |call, request: &mut Request<'_>| {
            if let Call::Setup = call {
                assert!(names.lock().unwrap().insert(request.id()), "another had it before");
            }
            usual(&call, request)
        })
    };
    let mut peers = Peers::new((), make, Limits::default());
    (0..100).for_each(|_| peers.feed(ANN, b"x"));
    assert_eq!((seen.lock().unwrap().len(), peers.stats().panics), (100, 0));
}

#[test]
fn a_single_datagram_cannot_get_another_handler() {
    let journal = Journal::new();
    let mut peers = peers(&journal, Limits::default(), |call, request| {
        if let Call::Handle = call {
            request.replace_handler(probe(|_, _: &mut Request<'_, Noting>| unreachable!()));
        }
        echo(&call, request)
    });
    assert_eq!(peers.ask(ANN, b"one"), [b"one"], "the answer leaves");
    let expected = [
        "setup",
        "handle",
        "handle_error cannot replace the handler of a datagram: only that of a session can be replaced",
        "finish handler error",
        "close_request handler error",
    ];
    assert_eq!(journal.lines(), expected);
}

#[test]
fn a_session_can_get_another_handler() {
    let journal = Journal::new();
    let second = journal.clone();
    let mut peers = peers(&journal, with_sessions(10), move |call, request| {
        if let Call::Handle = call {
            let second = second.clone();
            request.replace_handler(probe(move |call, request: &mut Request<'_, Noting>| {
                second.note(format!("second {call}"));
                if let Call::Setup = call {
                    request.output.write_all(b"welcome")?;
                }
                echo(&call, request)
            }));
        }
        echo(&call, request)
    });
    assert_eq!(peers.ask(ANN, b"one"), [&b"one"[..], b"welcome"]);
    assert_eq!(peers.ask(ANN, b"two"), [b"two"]);
    peers.advance(IDLE);
    let expected = [
        "setup",
        "handle",
        "second setup",
        "second handle",
        "second timeout Idle",
        "second finish idle timeout",
        "close_request idle timeout",
    ];
    assert_eq!(journal.lines(), expected);
}

#[test]
fn sessions_of_a_server_that_stops_go_on_until_they_let_go() {
    let journal = Journal::new();
    let mut peers = peers(&journal, with_sessions(10), |call, request| match call {
        Call::Drain => {
            request.output.write_all(b"one moment")?;
            request.set_timer(1, Duration::from_secs(3));
            Ok(Next::Wait)
        }
        Call::Timer(_) => {
            request.output.write_all(b"goodbye")?;
            Ok(Next::Close)
        }
        call => echo(&call, request),
    });
    peers.ask(ANN, b"hello");
    peers.network.shutdown_handle().shutdown();
    peers.network.run();
    assert_eq!(peers.sent_to(ANN).len(), 0, "it is not quiet yet");
    peers.advance(Duration::from_millis(500));
    assert_eq!(peers.sent_to(ANN), [b"one moment"]);
    assert_eq!(peers.ask(ANN, b"are you there?"), [b"are you there?"]);
    assert!(peers.ask(BOB, b"a new one").is_empty());
    assert_eq!(peers.stats().sessions_refused, 1);
    peers.advance(Duration::from_secs(3));
    assert_eq!(peers.sent_to(ANN), [b"goodbye"]);
    let expected = ["setup", "handle", "drain", "handle", "timer 1", "finish done", "close_request done"];
    assert_eq!(journal.lines(), expected);
    assert!(peers.network.is_stopped());
}

#[test]
fn single_datagrams_are_answered_until_the_last_connection_is_gone() {
    let stays = |_: &mut (), _: &Address| {
        probe(|call, request: &mut Request<'_>| match call {
            Call::Drain => Ok(Next::Wait),
            call => echo(&call, request),
        })
    };
    let mut network = Network::new();
    let tcp = network.serve((), stays, Limits::default()).unwrap();
    let udp = network.serve_datagrams((), stays, Limits::default()).unwrap();
    let (client, peer) = (network.connect(tcp), Address::from(BOB.parse::<SocketAddr>().unwrap()));
    network.run();
    network.shutdown_handle().shutdown();
    for _ in 0..8 {
        network.run_for(Duration::from_secs(1));
        network.send_datagram(udp, &peer, b"hello");
        network.run();
        assert_eq!(network.received_datagrams(udp), [(peer.clone(), b"hello".to_vec())]);
    }
    client.send_eof();
    network.run();
    assert!(network.is_stopped());
}

/// Also if no event has told of it.
#[test]
fn a_datagram_that_comes_while_the_last_connection_goes_is_answered() {
    let mut reactor = Reactor::new().unwrap();
    let udp = echoing::<Udp>();
    let (asking, at) = (UdpSocket::bind("127.0.0.1:0").unwrap(), address_of(&udp));
    asking.set_read_timeout(Some(PATIENCE)).unwrap();
    let asks = asking.try_clone().unwrap();
    let (told, draining) = std::sync::mpsc::channel();
    let tcp = server::<Tcp, _>(move |_| {
        let (asks, told) = (asks.try_clone().unwrap(), told.clone());
        probe(move |call, request: &mut Request<'_>| match call {
            Call::Drain => {
                told.send(()).unwrap();
                Ok(Next::Wait)
            }
            Call::Finish(_) => {
                asks.send_to(b"in time", at)?;
                Ok(Next::Wait)
            }
            call => echo(&call, request),
        })
    });
    let to = address_of(&tcp);
    reactor.add(tcp).unwrap();
    reactor.add(udp).unwrap();
    let stopping = reactor.shutdown_handle();
    let (_handle, stop) = run(reactor);
    let mut client = Peer::connect(to);
    client.echo("here");
    stopping.shutdown();
    draining.recv_timeout(PATIENCE).unwrap();
    client.half_close();
    let stats = stop();
    assert_eq!((stats.datagrams_in, stats.datagrams_out), (1, 1));
    assert_eq!(asking.recv(&mut [0; 8]).unwrap(), 7);
}

#[test]
fn a_flow_of_datagrams_holds_up_no_stop() {
    let threads = |_: &Address| {
        DatagramRequestHandler::new(|request| {
            std::thread::park_timeout(Duration::from_millis(2)); // Others come meanwhile.
            request.socket().send_to(b"here", &request.client_address())?;
            Ok(())
        })
    };
    let mut reactor = Reactor::new().unwrap();
    let (here, elsewhere) = (echoing::<Udp>(), ThreadingUdpServer::new("127.0.0.1:0", threads).unwrap());
    let to = [address_of(&here), elsewhere.server_address()];
    let mut config = reactor.config().clone();
    config.drain_grace = Duration::from_secs(3_600);
    reactor.set_config(config);
    reactor.add(here).unwrap();
    reactor.add(elsewhere).unwrap();
    let (_handle, stop) = run(reactor);
    let done = Arc::new(AtomicBool::new(false));
    let flows = to.map(|to| {
        let (done, client) = (Arc::clone(&done), UdpSocket::bind("127.0.0.1:0").unwrap());
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.send_to(b"hello", to).unwrap();
        client.recv(&mut [0; 8]).unwrap(); // It is served.
        std::thread::spawn(move || {
            let most = 5_000_000;
            let sent = (0..most).take_while(|_| !done.load(Ordering::Relaxed) && client.send_to(b"hello", to).is_ok());
            assert!(sent.count() < most, "the stop had to wait for its end");
        })
    });
    stop();
    done.store(true, Ordering::Relaxed);
    flows.into_iter().for_each(|flow| flow.join().unwrap());
}

#[test]
fn sessions_that_do_not_let_go_are_ended_when_the_grace_is_over() {
    let journal = Journal::new();
    let mut peers = peers(&journal, with_sessions(10), |call, request| match call {
        Call::Drain => Ok(Next::Wait),
        call => echo(&call, request),
    });
    peers.ask(ANN, b"hello");
    peers.network.shutdown_handle().shutdown();
    peers.network.run();
    peers.advance(Duration::from_millis(500));
    peers.advance(Duration::from_secs(10));
    assert_eq!(journal.lines()[2..], ["drain", "finish aborted by the stop", "close_request aborted by the stop"]);
}

// ---- broadcast and multicast ----

#[test]
fn broadcast_is_an_option() {
    for allowed in [false, true] {
        let receiver = UdpSocket::bind("0.0.0.0:0").unwrap();
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        let to = SocketAddr::from(([127, 255, 255, 255], receiver.local_addr().unwrap().port()));
        let mut server = UdpServer::unbound(move |_| {
            probe(move |call, request: &mut Request<'_>| {
                if let Call::Handle = call {
                    assert_eq!(request.send_to(&to.into(), b"to everybody"), Delivery::Queued);
                }
                echo(&call, request)
            })
        });
        let options = options(|options: &mut UdpOptions| options.broadcast = allowed);
        server.server_bind_with("127.0.0.1:0", options).unwrap();
        let running = serve(server.server_activate().unwrap());
        running.mailbox().echo("go");
        let stats = running.stats();
        if allowed && stats.datagrams_failed > 0 {
            return println!("skipped: this system has no broadcast on the loopback");
        }
        assert_eq!(stats.datagrams_failed, u64::from(!allowed));
        let mut packet = [0; 100];
        if allowed {
            assert_eq!(receiver.recv(&mut packet).unwrap(), 12);
        }
        running.stop();
    }
}

/// A group, on the loopback. No other process has the same: Linux gives a socket what is for any group that a socket of
/// the machine is a member of (ip(7), `IP_MULTICAST_ALL`).
fn group(last: u8) -> MulticastGroup {
    let [.., high, low] = std::process::id().to_be_bytes();
    let mut group = MulticastGroup::new([239, high, low, last]);
    group.interface = MulticastInterface::Address(Ipv4Addr::LOCALHOST);
    group
}

/// A client that sends to a group on the loopback; `None`, with the reason, where that does not work.
fn group_client() -> Option<UdpSocket> {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let works = || {
        socket2::SockRef::from(&client).set_multicast_if_v4(&Ipv4Addr::LOCALHOST)?;
        let member = UdpSocket::bind("0.0.0.0:0")?;
        let MulticastGroup { address: IpAddr::V4(address), .. } = group(1) else { unreachable!("a group of IPv4") };
        member.join_multicast_v4(&address, &Ipv4Addr::LOCALHOST)?;
        member.set_read_timeout(Some(Duration::from_secs(1)))?;
        client.send_to(b"?", (address, member.local_addr()?.port()))?;
        member.recv(&mut [0; 8])
    };
    match works() {
        Ok(_) => Some(client),
        Err(error) => {
            println!("skipped: no multicast on the loopback: {error}");
            None
        }
    }
}

#[test]
fn a_multicast_group_is_heard_while_the_server_is_a_member() {
    let Some(client) = group_client() else { return };
    let ask = |group: &MulticastGroup, port: u16, text: &str| client.send_to(text.as_bytes(), (group.address, port));
    let hear = |text: &str| {
        let mut packet = [0; 100];
        let n = client.recv(&mut packet).unwrap();
        assert_eq!(&packet[..n], text.as_bytes());
    };
    let mut server = UdpServer::unbound_with_server(Noting::default(), |_, _| {
        probe(|call, request: &mut Request<'_, Noting>| echo(&call, request))
    });
    let options = options(|options: &mut UdpOptions| {
        options.multicast_groups.push(group(2));
        options.multicast_interface = MulticastInterface::Address(Ipv4Addr::LOCALHOST);
        options.multicast_ttl = 3;
        options.multicast_loop = false;
    });
    server.server_bind_with("0.0.0.0:0", options).unwrap();
    let server = server.server_activate().unwrap();
    let (id, port) = (server.id(), server.server_address().port());
    let running = serve(server);
    // Joined by option.
    ask(&group(2), port, "one").unwrap();
    hear("one");
    // Joined, and left, by a hook.
    let (tell, heard) = std::sync::mpsc::channel();
    let act = |act: fn(&mut Others<'_, Noting>, &MulticastGroup) -> socketserver::Result<()>| {
        let tell = tell.clone();
        let act: Act =
            Box::new(move |others| tell.send(act(others, &group(3)).map_err(|error| format!("{error:#}"))).unwrap());
        running.handle.send_to_server(id, act).unwrap();
        heard.recv_timeout(PATIENCE).unwrap()
    };
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    ask(&group(3), port, "not a member").unwrap();
    act(|others, group| others.join_multicast(group)).unwrap();
    ask(&group(3), port, "two").unwrap();
    hear("two");
    act(|others, group| others.join_multicast(group)).expect_err("a member already");
    act(|others, group| others.leave_multicast(group)).unwrap();
    ask(&group(3), port, "a member no more").unwrap();
    client.send_to(b"three", here).unwrap();
    hear("three");
    act(|others, group| others.leave_multicast(group)).expect_err("no member");
    let of_ipv6: Act = Box::new(|others| {
        let other = MulticastGroup::new([0xff02, 0, 0, 0, 0, 0, 0, 0x77]);
        assert!(matches!(others.join_multicast(&other), Err(Error::NotBound)));
        let mut other = group(4);
        other.interface = MulticastInterface::Index(1);
        assert!(matches!(others.join_multicast(&other), Err(Error::Io(_))));
    });
    running.handle.send_to_server(id, of_ipv6).unwrap();
    assert_eq!(running.stop().panics, 0);
}

#[test]
fn datagrams_of_a_server_to_its_own_group_do_not_come_back_as_requests() {
    if group_client().is_none() {
        return;
    }
    // A socket that is bound to the group sends from another address.
    for bound in [Ipv4Addr::UNSPECIFIED.into(), group(5).address] {
        let calls = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&calls);
        let mut server = UdpServer::unbound(move |_| {
            let count = Arc::clone(&count);
            probe(move |call, request: &mut Request<'_>| {
                if let Call::Handle = call
                    && count.fetch_add(1, Ordering::Relaxed) < 10
                {
                    let port = request.local_address().unwrap().port().unwrap();
                    let to = SocketAddr::new(group(5).address, port);
                    assert_eq!(request.send_to(&to.into(), b"to the group"), Delivery::Queued);
                }
                echo(&call, request)
            })
        });
        let options = options(|options: &mut UdpOptions| {
            options.multicast_groups.push(group(5));
            options.multicast_interface = MulticastInterface::Address(Ipv4Addr::LOCALHOST);
        });
        if let Err(error) = server.server_bind_with((bound, 0), options) {
            println!("skipped: {error}");
            continue;
        }
        let server = server.server_activate().unwrap();
        let port = server.server_address().port();
        let running = serve(server);
        let client = group_client().unwrap();
        client.send_to(b"go", (group(5).address, port)).unwrap();
        let mut packet = [0; 8];
        assert_eq!(client.recv(&mut packet).unwrap(), 2);
        running.wait_for_stats(&format!("bound to {bound}: it came back"), |stats| stats.datagrams_in >= 2);
        let stats = running.stop();
        assert_eq!((calls.load(Ordering::Relaxed), stats.datagrams_reflected), (1, 1), "bound to {bound}");
    }
}

#[test]
#[cfg(unix)] // Two sockets share an address, for which Windows has another option.
fn members_of_a_group_on_one_machine_hear_each_other_and_not_themselves() {
    let Some(client) = group_client() else { return };
    let journals = [Journal::new(), Journal::new()];
    let mut port = 0;
    let members = journals.each_ref().map(|journal| {
        let notes = journal.clone();
        let mut server = UdpServer::unbound(move |_| {
            let notes = notes.clone();
            probe(move |call, request: &mut Request<'_>| {
                if let Call::Handle = call {
                    let text = String::from_utf8_lossy(request.input.unread()).into_owned();
                    if text == "speak" {
                        let port = request.local_address().unwrap().port().unwrap();
                        let to = SocketAddr::new(group(6).address, port);
                        assert_eq!(request.send_to(&to.into(), b"all say the same"), Delivery::Queued);
                    }
                    notes.note(text);
                }
                usual(&call, request)
            })
        });
        let options = options(|options: &mut UdpOptions| {
            options.multicast_groups.push(group(6));
            options.multicast_interface = MulticastInterface::Address(Ipv4Addr::LOCALHOST);
            options.allow_reuse_address = true;
        });
        server.server_bind_with((Ipv4Addr::UNSPECIFIED, port), options).unwrap();
        let server = server.server_activate().unwrap();
        port = server.server_address().port();
        serve(server)
    });
    for round in 1..=3 {
        client.send_to(b"speak", (group(6).address, port)).unwrap();
        for (journal, running) in journals.iter().zip(&members) {
            journal.wait_for("all say the same", round);
            running.wait_for_stats("its own came back", |stats| stats.datagrams_reflected == round as u64);
        }
    }
    for (journal, running) in journals.iter().zip(members) {
        assert_eq!(running.stop().datagrams_in, 9);
        assert_eq!((journal.count("speak"), journal.count("all say the same")), (3, 3));
    }
}

#[test]
fn a_multicast_interface_of_the_wrong_kind_is_refused_when_the_server_is_bound() {
    let mut server = UdpServer::unbound(|_| NoHandler);
    let options = options(|options: &mut UdpOptions| options.multicast_interface = MulticastInterface::Index(1));
    let error = server.server_bind_with("127.0.0.1:0", options).unwrap_err();
    assert_eq!(format!("{error:#}"), "cannot bind 127.0.0.1:0: for IPv4 an interface is named by an address it has");
}

#[test]
fn several_slices_are_one_answer_also_if_they_are_none() {
    let make = |_: &mut (), _: &Address| {
        probe(|call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                let words: Vec<_> = request.input.take_all().split(|byte| *byte == b' ').map(IoSlice::new).collect();
                let _all = request.output.write_vectored(&words[1..])?;
            }
            usual(&call, request)
        })
    };
    let mut peers = Peers::new((), make, Limits::default());
    assert_eq!(peers.ask("192.0.2.1:9", b"two of them"), [b"ofthem"]);
    assert_eq!(peers.ask("192.0.2.1:9", b"none"), [b""]);
}

#[test]
fn several_slices_are_an_answer_whole_or_not_at_all() {
    let make = |_: &mut (), _: &Address| {
        probe(|call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                let block = vec![b'x'; request.input.take_all().len() * 20_000];
                // What does not fit is given up, and nothing is sent in its place.
                let _ = request.output.write_vectored(&[IoSlice::new(&block), IoSlice::new(&block)]);
            }
            usual(&call, request)
        })
    };
    let mut limits = Limits::default();
    // These are for streams.
    (limits.output_bytes_max, limits.output_overflow) = (1, Overflow::Refuse);
    let mut peers = Peers::new((), make, limits);
    assert_eq!(peers.ask(ANN, b"1").iter().map(Vec::len).collect::<Vec<_>>(), [40_000]);
    assert!(peers.ask(ANN, b"two").is_empty());
}

#[test]
fn the_address_of_a_datagram_is_where_its_answer_goes_and_is_not_replaced() {
    let journal = Journal::new();
    let mut peers = peers(&journal, with_sessions(10), |call, request| {
        if let Call::Handle = call {
            let other = SocketAddr::from(([203, 0, 113, 7], 1));
            assert!(matches!(request.set_client_address(other), Err(Error::Setting { .. })));
        }
        echo(&call, request)
    });
    peers.feed(ANN, b"hello");
    assert_eq!(peers.sent_to(ANN), [b"hello"]);
}
