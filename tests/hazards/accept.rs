//! Taking clients in when descriptors, memory or patience run out.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[cfg(all(unix, feature = "children"))]
use socketserver::ForkingTcpServer;
use socketserver::family::Tcp;
use socketserver::testing::{Call as Io, Network, Outcome};
use socketserver::{Address, BaseServer, EndReason, Limits, Listener, Next, Reactor, Request, Stream, TcpServer};

use crate::common::{
    self, Call, Kind, PATIENCE, Peer, SCRIPTED, address_of, echo, echoing, limit, probe, serve, silence_scripted_panics,
};

over_streams! {
    a_connection_cap_leaves_clients_in_the_backlog_and_takes_them_when_others_go,
    a_burst_beyond_the_accept_budget_needs_no_further_event,
    what_came_with_a_client_is_handled_in_the_turn_that_accepts_it,
    idle_means_idle,
}

/// This program again, for one test and with at most `limit` descriptors, which it may raise; it knows by the variable
/// `role`.
fn with_few_descriptors(limit: u32, test: &str, role: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -S -n {limit} && exec \"$0\" --exact --nocapture \"$1\"")]);
    command.arg(std::env::current_exe().unwrap()).arg(test).env(role, "1");
    command
}

#[test]
fn clients_queued_while_descriptors_were_exhausted_are_served_when_some_are_free() {
    if !cfg!(unix) {
        return println!("skipped: needs ulimit");
    }
    let test = "accept::clients_queued_while_descriptors_were_exhausted_are_served_when_some_are_free";
    if !common::is_apart(test, "ulimit -S -n 64") {
        return;
    }
    let mut server = echoing::<Tcp>();
    limit(&mut server, |limits| limits.connections_max = Some(1_000));
    // Both ends are in this process, so the clients come first and leave the server a few descriptors only.
    let address = server.server_address();
    let mut held = Vec::new();
    while let Ok(client) = TcpStream::connect_timeout(&address, PATIENCE) {
        held.push(client);
    }
    held.truncate(held.len() - 5);
    let running = serve(server);
    // The others wait in the backlog, and no event will come for them.
    let paused = running.wait_for_stats("accepting is paused", |stats| stats.accept_pauses > 0);
    assert!(held.len() as u64 > paused.active, "clients are queued");
    let freed: Vec<_> = held.drain(..held.len() / 2).collect();
    drop(freed);
    for client in held {
        Peer::of(client).echo("at last");
    }
    let stats = running.stop();
    // A spinning loop would have failed thousands of times.
    assert!(stats.accept_pauses < 100, "{stats:?}");
}

fn a_connection_cap_leaves_clients_in_the_backlog_and_takes_them_when_others_go<F: Kind>() {
    let mut server = echoing::<F>();
    limit(&mut server, |limits| limits.connections_max = Some(10));
    let running = serve(server);
    let mut clients: Vec<_> = (0..15).map(|_| running.connect()).collect();
    for client in &mut clients[..10] {
        client.echo("in");
    }
    for client in &mut clients[10..] {
        client.send("waiting");
    }
    assert_eq!(running.stats().active, 10);
    clients.drain(..5);
    for client in &mut clients[5..] {
        client.expect("waiting");
    }
    let stats = running.wait_for_stats("all are in", |stats| stats.accepted == 15);
    assert_eq!(stats.active_max, 10);
    drop(clients);
    running.stop();
}

#[test]
fn listeners_of_a_server_at_its_cap_are_given_the_free_places_in_turn() {
    let mut server = echoing::<Tcp>().into_unbound();
    server.server_bind("127.0.0.1:0").unwrap();
    server.server_bind("127.0.0.1:0").unwrap();
    server.limits.connections_max = Some(10);
    let server = server.server_activate().unwrap();
    let listening: Vec<_> = server.server_addresses();
    let running = serve(server);
    let mut inside: Vec<_> = (0..10).map(|_| Peer::connect(listening[0].clone())).collect();
    inside.iter_mut().for_each(|client| client.echo("in"));
    let mut crowd: Vec<_> = (0..20).map(|_| Peer::connect(listening[0].clone())).collect();
    crowd.iter_mut().for_each(|client| client.send("waiting"));
    let mut others: Vec<_> = (0..3).map(|_| Peer::connect(listening[1].clone())).collect();
    others.iter_mut().for_each(|client| client.send("waiting"));
    for (round, client) in others.iter_mut().enumerate() {
        // One place for each listener; or, if both are free at once, for the one whose turn it is.
        inside.drain(..2).for_each(drop);
        running.wait_for_stats("they are taken", |stats| stats.accepted == 12 + 2 * round as u64);
        client.expect("waiting");
    }
    drop((inside, crowd, others));
    running.stop();
}

#[test]
fn servers_that_share_the_limit_of_descriptors_are_given_the_free_places_in_turn() {
    if std::env::var_os(SHARED).is_some() {
        return shared();
    }
    if !cfg!(unix) {
        return println!("skipped: needs ulimit");
    }
    let test = "accept::servers_that_share_the_limit_of_descriptors_are_given_the_free_places_in_turn";
    let mut child = with_few_descriptors(64, test, SHARED).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut address = || lines.find_map(|line| line.strip_prefix("listening on ")?.parse::<SocketAddr>().ok()).unwrap();
    let (first, second) = (address(), address());
    let mut inside: Vec<_> = (0..68).map(|_| Peer::connect(first)).collect();
    let served = served_when_full(&mut inside[0]);
    let mut crowd = inside.split_off(served);
    inside.iter_mut().for_each(|client| client.echo("in"));
    crowd.iter_mut().for_each(|client| client.send("waiting"));
    let mut other = Peer::connect(second);
    other.send("waiting");
    inside.drain(..served.div_ceil(10));
    other.expect("waiting");
    other.echo("stop");
    drop((inside, crowd, other));
    let rest: Vec<_> = lines.collect();
    assert!(child.wait().unwrap().success(), "{rest:?}");
}

/// In the child process: two servers with no cap but their descriptors.
const SHARED: &str = "SOCKETSERVER_SHARED_DESCRIPTORS";

fn shared() {
    let mut reactor = Reactor::new().unwrap();
    for _ in 0..2 {
        let id = reactor.add(TcpServer::new("127.0.0.1:0", |_| probe(told)).unwrap()).unwrap();
        println!("\nlistening on {}", reactor.server_addresses(id)[0]);
    }
    reactor.serve_forever().unwrap();
}

#[test]
fn a_cap_per_client_refuses_the_next_one_and_forgets_those_that_left() {
    let mut server = echoing::<Tcp>();
    limit(&mut server, |limits| limits.connections_per_client_max = Some(2));
    let running = serve(server);
    let (mut first, mut second) = (running.connect(), running.connect());
    first.echo("one");
    second.echo("two");
    running.connect().expect_eof();
    drop(first);
    running.wait_for_stats("the first is gone", |stats| stats.active == 1);
    running.connect().echo("room again");
    drop(second);
    assert_eq!(running.stop().refused, 1);
}

/// Fails to accept with each of these errors once, in turn with successes.
#[derive(Default)]
struct Faulty {
    calls: usize,
    closed: Vec<EndReason>,
}

/// ECONNABORTED, EPROTO, EPERM, EINTR, EINVAL concern one client; EMFILE, ENFILE, ENOBUFS, ENOMEM ask for a pause.
#[cfg(target_os = "linux")]
const FAULTS: [i32; 9] = [103, 71, 1, 4, 22, 24, 23, 105, 12];

impl BaseServer for Faulty {
    #[cfg(target_os = "linux")]
    fn get_request(&mut self, listener: &mut Listener) -> io::Result<(Stream, Address)> {
        self.calls += 1;
        match self.calls.checked_sub(1).filter(|call| call % 2 == 0).and_then(|call| FAULTS.get(call / 2)) {
            Some(&fault) => Err(io::Error::from_raw_os_error(fault)),
            None => listener.accept(),
        }
    }
    fn close_request(&mut self, _: &Address, why: EndReason) {
        self.closed.push(why);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn errors_of_accept_are_counted_and_everybody_is_served() {
    let handler = |_: &mut Faulty, _: &Address| probe(|call, request: &mut Request<'_, Faulty>| echo(&call, request));
    let running = serve(TcpServer::with_server("127.0.0.1:0", Faulty::default(), handler).unwrap());
    for _ in 0..20 {
        let mut client = running.connect();
        client.echo("served");
        client.half_close();
        client.expect_eof();
    }
    let (stats, state) = running.stop_with_state();
    assert_eq!((stats.accept_errors, stats.accept_pauses), (5, 4), "{stats:?}");
    assert_eq!(state.closed, [EndReason::PeerClosed; 20]);
}

/// Takes a client, and then fails in one way or another for each of the first.
struct Picky(u32);

impl Picky {
    const WAYS: [fn() -> io::Error; 5] = [
        || io::Error::other("no credentials"),
        || io::ErrorKind::WouldBlock.into(),
        || io::ErrorKind::OutOfMemory.into(),
        || io::ErrorKind::InvalidInput.into(),
        || panic!("{}", SCRIPTED),
    ];
}

impl BaseServer for Picky {
    fn get_request(&mut self, listener: &mut Listener) -> io::Result<(Stream, Address)> {
        let taken = listener.accept()?;
        self.0 += 1;
        Picky::WAYS.get(self.0 as usize - 1).map_or(Ok(taken), |way| Err(way()))
    }
}

#[test]
fn a_get_request_that_fails_for_a_client_it_has_taken_loses_that_client_only() {
    silence_scripted_panics();
    let mut network = Network::new();
    let handler = |_: &mut Picky, _: &Address| probe(|call, request: &mut Request<'_, Picky>| echo(&call, request));
    let server = network.serve(Picky(0), handler, Limits::default()).unwrap();
    let clients: Vec<_> = (0..10).map(|_| network.connect(server)).collect();
    clients.iter().for_each(|client| client.send(b"hello"));
    network.run();
    let served = clients.iter().map(|client| client.take_received() == b"hello");
    assert_eq!(served.collect::<Vec<_>>(), [[false; 5], [true; 5]].concat());
    let stats = network.stats();
    assert_eq!((stats.accept_errors, stats.accept_pauses, stats.panics), (5, 0, 1), "{stats:?}");
}

#[test]
fn get_request_may_reword_the_error_of_accept() {
    struct Wordy;
    impl BaseServer for Wordy {
        fn get_request(&mut self, listener: &mut Listener) -> io::Result<(Stream, Address)> {
            listener.accept().map_err(|error| io::Error::other(format!("accepting: {error}")))
        }
    }
    let mut network = Network::new();
    let handler = |_: &mut Wordy, _: &Address| probe(|call, request: &mut Request<'_, Wordy>| echo(&call, request));
    let server = network.serve(Wordy, handler, Limits::default()).unwrap();
    let mut accepts = 0;
    network.on_call(move |call, _| match call {
        Io::Accept
            if {
                accepts += 1;
                accepts == 1
            } =>
        {
            Outcome::Fail(io::ErrorKind::ConnectionAborted.into())
        }
        _ => Outcome::Proceed,
    });
    let clients = [network.connect(server), network.connect(server)];
    network.run();
    let stats = network.stats();
    // That no client waits any more is no reason for a pause.
    assert_eq!((stats.accepted, stats.accept_errors, stats.accept_pauses), (1, 1, 0), "{stats:?}");
    drop(clients);
}

/// macOS and the BSDs: accept(2) gives no address, or setsockopt(2) says EINVAL, because the client has gone already.
#[test]
fn a_client_that_has_gone_before_it_is_accepted_delays_no_other() {
    let gone: [fn() -> io::Error; 2] =
        [|| io::ErrorKind::InvalidInput.into(), || io::Error::new(io::ErrorKind::InvalidInput, "invalid argument")];
    for gone in gone {
        for accepts_per_turn in [1, 32] {
            let mut limits = Limits::default();
            limits.accepts_per_turn = accepts_per_turn;
            let mut network = Network::new();
            let handler = |_: &mut (), _: &Address| probe(|call, request: &mut Request<'_>| echo(&call, request));
            let server = network.serve((), handler, limits).unwrap();
            let mut accepts = 0;
            network.on_call(move |call, _| match call {
                Io::Accept
                    if {
                        accepts += 1;
                        accepts <= 100
                    } =>
                {
                    Outcome::Fail(gone())
                }
                _ => Outcome::Proceed,
            });
            let client = network.connect(server);
            client.send(b"hello");
            network.run();
            assert_eq!(client.take_received(), b"hello", "at once");
            assert_eq!((network.stats().accept_errors, network.stats().accept_pauses), (100, 0));
        }
    }
}

/// Another process that has the listener as well may have called shutdown(2) on it.
#[test]
#[cfg(target_os = "linux")]
fn a_listener_that_was_shut_down_by_another_process_does_not_make_the_loop_spin() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = echoing::<Tcp>().into_unbound();
    server.server_bind("127.0.0.1:0").unwrap();
    server.adopt(listener.try_clone().unwrap()).unwrap();
    let running = serve(server.server_activate().unwrap());
    Peer::connect(address).echo("it listens");
    socket2::SockRef::from(&listener).shutdown(std::net::Shutdown::Both).unwrap();
    let stats = running.wait_for_stats("accepting is paused", |stats| stats.accept_pauses >= 3);
    assert!(stats.accept_errors <= 1_024 * (stats.accept_pauses + 1), "it is not tried in between: {stats:?}");
    running.connect().echo("the other listener goes on");
    running.stop();
}

fn a_burst_beyond_the_accept_budget_needs_no_further_event<F: Kind>() {
    let mut server = echoing::<F>();
    limit(&mut server, |limits| limits.accepts_per_turn = 1);
    let address = address_of(&server);
    let mut clients: Vec<_> = (0..50).map(|_| Peer::connect(address.clone())).collect();
    let running = serve(server);
    for client in &mut clients {
        client.echo("in turn");
    }
    drop(clients);
    running.stop();
}

/// Most clients speak first, and what they say is there when they are accepted: no event needs to be waited for.
fn what_came_with_a_client_is_handled_in_the_turn_that_accepts_it<F: Kind>() {
    let server = echoing::<F>();
    let mut client = Peer::connect(address_of(&server));
    client.send("hello");
    let mut reactor = Reactor::new().unwrap();
    reactor.add(server).unwrap();
    reactor.poll(Some(PATIENCE)).unwrap();
    let stats = reactor.stats();
    assert_eq!((stats.turns, stats.accepted, stats.bytes_in, stats.bytes_out), (1, 1, 5, 5));
    client.expect("hello");
}

fn idle_means_idle<F: Kind>() {
    let mut server = echoing::<F>();
    limit(&mut server, |limits| limits.idle_timeout = None);
    let running = serve(server);
    let mut client = running.connect();
    client.echo("awake");
    running.expect_rest(Duration::from_millis(50));
    drop(client);
    running.stop();
}

#[test]
fn failing_accepts_and_receives_back_off_and_start_again_after_an_episode() {
    let ms = Duration::from_millis;
    for datagrams in [false, true] {
        let mut network = Network::new();
        let handler = |_: &mut (), _: &Address| probe(|call, request: &mut Request<'_>| echo(&call, request));
        let server = match datagrams {
            true => network.serve_datagrams((), handler, Limits::default()),
            false => network.serve((), handler, Limits::default()),
        }
        .unwrap();
        let fails = Arc::new(AtomicBool::new(true));
        let failing = Arc::clone(&fails);
        network.on_call(move |call, _| match call {
            Io::Accept | Io::Receive if failing.load(Ordering::Relaxed) => {
                Outcome::Fail(io::ErrorKind::OutOfMemory.into())
            }
            _ => Outcome::Proceed,
        });
        let arrive = |network: &mut Network| match datagrams {
            true => network.send_datagram(server, &SocketAddr::from(([192, 0, 2, 1], 9)).into(), b"x"),
            false => drop(network.connect(server)),
        };
        let taken = |network: &Network| network.stats().accepted + network.stats().datagrams_in;
        arrive(&mut network);
        network.run();
        let pauses = [10, 20, 40, 80, 160, 320, 640, 1_000, 1_000].map(ms);
        for pause in pauses {
            assert_eq!(network.next_timeout(), Some(pause), "datagrams: {datagrams}");
            network.run_for(pause);
        }
        assert_eq!(network.stats().accept_pauses, 1 + pauses.len() as u64);
        assert_eq!(taken(&network), 0);

        // The last failure was now. Within ten seconds it is still the same episode.
        for (later, pause) in [(ms(10_000), ms(1_000)), (ms(10_001), ms(10))] {
            fails.store(false, Ordering::Relaxed);
            let before = taken(&network);
            network.advance(later);
            network.run();
            assert_eq!(taken(&network), before + 1);
            fails.store(true, Ordering::Relaxed);
            arrive(&mut network);
            network.run();
            assert_eq!(network.next_timeout(), Some(pause), "datagrams: {datagrams}, {later:?} later");
        }
    }
}

#[test]
fn a_server_that_was_full_accepts_again_when_a_tenth_is_free() {
    let mut limits = Limits::default();
    limits.connections_max = Some(20);
    let mut network = Network::new();
    let handler = |_: &mut (), _: &Address| probe(|call, request: &mut Request<'_>| echo(&call, request));
    let server = network.serve((), handler, limits).unwrap();
    let clients: Vec<_> = (0..25).map(|_| network.connect(server)).collect();
    network.run();
    for (client, accepted) in clients.iter().zip([20, 22, 22, 24]) {
        client.send_eof();
        network.run();
        assert_eq!(network.stats().accepted, accepted);
    }
}

/// In the child process: a server with no cap but its descriptors.
const CROWDED: &str = "SOCKETSERVER_CROWDED";

#[test]
fn a_server_without_a_cap_leaves_those_in_the_backlog_that_it_has_no_descriptors_for() {
    if std::env::var_os(CROWDED).is_some() {
        return crowded();
    }
    if !cfg!(unix) {
        return println!("skipped: needs ulimit");
    }
    let test = "accept::a_server_without_a_cap_leaves_those_in_the_backlog_that_it_has_no_descriptors_for";
    let mut child = with_few_descriptors(64, test, CROWDED).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let address = lines.find_map(|line| line.strip_prefix("listening on ")?.parse::<SocketAddr>().ok()).unwrap();
    let mut clients: Vec<_> = (0..80).map(|_| Peer::connect(address)).collect();
    let served = served_when_full(&mut clients[0]);
    clients[served - 1].echo("the last that it has a descriptor for");
    let mut last = clients.pop().unwrap();
    drop(clients);
    last.echo("at last");
    last.send("stop");
    let rest: Vec<_> = lines.collect();
    assert!(child.wait().unwrap().success(), "{rest:?}");
    let report = format!("accepted 80, at most {served} at once");
    assert!(rest.contains(&report), "{report}: {rest:?}");
}

#[test]
#[cfg(unix)]
fn a_limit_of_descriptors_that_is_raised_takes_effect() {
    if std::env::var_os(CROWDED).is_some() {
        return crowded();
    }
    let test = "accept::a_limit_of_descriptors_that_is_raised_takes_effect";
    let mut child = with_few_descriptors(64, test, CROWDED).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let address = lines.find_map(|line| line.strip_prefix("listening on ")?.parse::<SocketAddr>().ok()).unwrap();
    let mut clients: Vec<_> = (0..80).map(|_| Peer::connect(address)).collect();
    clients[79].send("is anybody there?");
    clients[0].echo("raise");
    clients.push(Peer::connect(address));
    clients[80].echo("at last");
    clients[79].expect("is anybody there?");
    clients[0].send("stop");
    drop(clients);
    let rest: Vec<_> = lines.collect();
    assert!(child.wait().unwrap().success(), "{rest:?}");
}

#[test]
#[cfg(all(unix, feature = "children"))]
fn requests_that_wait_for_programs_leave_the_descriptors_to_start_them() {
    const PROGRAMS: &str = "SOCKETSERVER_PROGRAMS";
    if std::env::var_os(PROGRAMS).is_some() {
        let mut server = ForkingTcpServer::new("127.0.0.1:0", |_: &Address| Command::new("cat")).unwrap();
        limit(&mut server, |limits| {
            limits.connections_max = Some(1_000);
            limits.max_children = 2;
        });
        println!("\nlistening on {}", server.server_address());
        return server.serve_forever().unwrap();
    }
    let test = "accept::requests_that_wait_for_programs_leave_the_descriptors_to_start_them";
    let child = with_few_descriptors(64, test, PROGRAMS).stdout(Stdio::piped()).spawn().unwrap();
    let mut child = Killed(child);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let address = lines.find_map(|line| line.strip_prefix("listening on ")?.parse::<SocketAddr>().ok()).unwrap();
    let mut clients: Vec<_> = (0..100).map(|_| Peer::connect(address)).collect();
    for client in &mut clients {
        client.echo("at last");
        client.half_close();
        client.expect_eof();
    }
}

/// A process that ends with the test.
#[cfg(all(unix, feature = "children"))]
struct Killed(std::process::Child);

#[cfg(all(unix, feature = "children"))]
impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[cfg(unix)]
fn a_server_with_hardly_a_descriptor_serves_or_says_why_not() {
    const SCARCE: &str = "SOCKETSERVER_SCARCE_DESCRIPTORS";
    let test = "accept::a_server_with_hardly_a_descriptor_serves_or_says_why_not";
    if std::env::var_os(SCARCE).is_some() {
        return match std::panic::catch_unwind(crowded) {
            Ok(()) => println!("\nserved"),
            Err(panic) => println!("\nrefused: {}", panic.downcast_ref::<String>().expect("a text")),
        };
    }
    let mut served = 0;
    // With six it has a listener and nothing for a client, which waits.
    for limit in [3, 4, 5, 7, 8, 12, 16, 17, 20] {
        let mut child = with_few_descriptors(limit, test, SCARCE)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap) {
            if let Some(address) = line.strip_prefix("listening on ") {
                // It listens, and may have no descriptor left for what it serves with.
                let address: SocketAddr = address.parse().unwrap();
                let clients: io::Result<Vec<_>> = (0..20).map(|_| Peer::try_connect(address)).collect();
                let Ok(mut clients) = clients else { continue };
                let mut first = &clients[0].socket;
                if first.write_all(b"first").and_then(|()| first.read_exact(&mut [0; 5])).is_err() {
                    continue;
                }
                let mut last = clients.pop().unwrap();
                drop(clients);
                last.echo("last");
                last.send("stop");
                served += 1;
            }
            said.push(line);
        }
        child.wait().unwrap();
        // EMFILE.
        let is_refused = said.iter().any(|line| line.contains("refused: ") && line.contains("code: 24"));
        let is_served = said.iter().any(|line| line == "served");
        // With three not even the test harness may start.
        assert!(is_served || is_refused || limit == 3, "with {limit} descriptors: {said:?}");
    }
    assert!(served > 0);
}

/// Waits until the servers of a child with 64 descriptors accept no further client. Returns how many they serve then.
fn served_when_full(client: &mut Peer) -> usize {
    let deadline = Instant::now() + PATIENCE;
    loop {
        client.send("full?");
        let line = client.line();
        if let Some((served, open)) = line.split_once(" with ") {
            // A reserve of 16 is kept, and one more for each socket if a restart is possible.
            let open: usize = open.parse().unwrap();
            assert!(!cfg!(target_os = "linux") || (44..=48).contains(&open), "{open} of 64 are open");
            return served.parse().unwrap();
        }
        assert!(Instant::now() < deadline, "it accepts more and more");
    }
}

/// In a child process: an echo that does what it is told.
fn told(call: Call, request: &mut Request<'_>) -> socketserver::Result<Next> {
    if let Call::Handle = call {
        match request.input.unread() {
            b"stop" => request.others.request_shutdown(),
            #[cfg(unix)]
            b"raise" => {
                use nix::sys::resource::{Resource, getrlimit, setrlimit};
                let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
                setrlimit(Resource::RLIMIT_NOFILE, hard.min(1_024), hard).unwrap();
            }
            b"full?" => {
                request.input.take_all();
                let servers = request.others.inspect().servers;
                let served: usize = servers.iter().map(|server| server.connections).sum();
                // It counts its own as well.
                let open = std::fs::read_dir("/proc/self/fd").map_or(0, |open| open.count() - 1);
                match servers[0].full_for {
                    Some(_) => writeln!(request.output, "{served} with {open}")?,
                    None => writeln!(request.output, "not yet")?,
                }
                return Ok(Next::Wait);
            }
            _ => {}
        }
    }
    echo(&call, request)
}

fn crowded() {
    let mut server = TcpServer::new("127.0.0.1:0", |_| probe(told)).unwrap();
    println!("\nlistening on {}", server.server_address());
    server.serve_forever().unwrap();
    let stats = server.stats();
    assert_eq!(stats.accept_pauses, 0, "it never ran out of descriptors");
    println!("\naccepted {}, at most {} at once", stats.accepted, stats.active_max);
}
