//! Several servers, foreign loops, other threads, and many clients at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use socketserver::testing::Network;
use socketserver::{
    Address, BaseServer, Error, Limits, Message, Next, Others, Reactor, ReactorConfig, Request, RequestHandler, Result,
    TcpOptions, TcpServer,
};

use crate::common::{
    Call, Journal, PATIENCE, Peer, Running, SCRIPTED, echo, limit, options, probe, serve, silence_scripted_panics,
    usual,
};

fn echoing() -> TcpServer<(), impl RequestHandler> {
    TcpServer::new("127.0.0.1:0", |_| probe(|call, request: &mut Request<'_>| echo(&call, request))).unwrap()
}

struct Upper;

impl<S: 'static> RequestHandler<S> for Upper {
    fn handle(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        use std::io::Write;
        request.output.write_all(&request.input.take_all().to_ascii_uppercase())?;
        Ok(Next::Wait)
    }
}

#[test]
fn servers_of_different_kinds_share_one_reactor() {
    let mut reactor = Reactor::new().unwrap();
    let plain = reactor.add(echoing()).unwrap();
    let upper = reactor.add(TcpServer::new("127.0.0.1:0", |_| Upper).unwrap()).unwrap();
    let address = |addresses: Vec<Address>| addresses[0].as_inet().unwrap();
    let (plain, upper) = (address(reactor.server_addresses(plain)), address(reactor.server_addresses(upper)));
    let stop = reactor.shutdown_handle();
    let thread = std::thread::spawn(move || reactor.serve_forever());
    let (mut one, mut two) = (Peer::connect(plain), Peer::connect(upper));
    one.echo("as it is");
    two.send("raised");
    two.expect("RAISED");
    stop.shutdown();
    one.expect_eof();
    two.expect_eof();
    thread.join().unwrap().unwrap();
}

#[test]
#[cfg(unix)]
fn a_foreign_loop_can_wait_on_the_descriptor() {
    use std::os::fd::AsRawFd;
    let mut server = echoing();
    let address = server.server_address();
    let mut reactor = Reactor::new().unwrap();
    limit(&mut server, |limits| limits.idle_timeout = Some(Duration::from_secs(5)));
    reactor.add(server).unwrap();
    let mut foreign = mio::Poll::new().unwrap();
    let mut events = mio::Events::with_capacity(8);
    let descriptor = reactor.as_raw_fd();
    let mut source = mio::unix::SourceFd(&descriptor);
    foreign.registry().register(&mut source, mio::Token(0), mio::Interest::READABLE).unwrap();
    let stop = reactor.shutdown_handle();
    let client = std::thread::spawn(move || {
        let mut client = Peer::connect(address);
        client.echo("through a foreign loop");
        stop.shutdown();
        client.expect_eof();
    });
    let deadline = Instant::now() + PATIENCE;
    while reactor.poll(Some(Duration::ZERO)).unwrap() {
        assert!(Instant::now() < deadline);
        let wait = reactor.next_timeout().map_or(PATIENCE, |wait| wait.min(PATIENCE));
        foreign.poll(&mut events, Some(wait)).unwrap();
    }
    client.join().unwrap();
}

#[test]
fn messages_from_threads_arrive_in_order_or_are_counted_as_dropped() {
    let journal = Journal::new();
    let theirs = journal.clone();
    let server = TcpServer::new("127.0.0.1:0", move |_| {
        let journal = theirs.clone();
        probe(move |call, request: &mut Request<'_>| {
            match call {
                Call::Setup => {
                    let (handle, id) = (request.others.handle(), request.id());
                    std::thread::spawn(move || (0..1_000u32).for_each(|i| handle.send(id, i).unwrap()));
                    return Ok(Next::Wait);
                }
                Call::Message(message) => journal.note(message.downcast::<u32>().unwrap()),
                Call::Handle => return Ok(Next::Close),
                call => return usual(&call, request),
            }
            Ok(Next::Wait)
        })
    });
    let running = serve(server.unwrap());
    let mut client = running.connect();
    journal.wait_for("", 1_000);
    assert_eq!(journal.lines(), (0..1_000).map(|i| i.to_string()).collect::<Vec<_>>());
    let (tell, hear) = channel();
    running.handle.run(move |reactor| tell.send(reactor.stats().messages_dropped).unwrap()).unwrap();
    assert_eq!(hear.recv_timeout(PATIENCE).unwrap(), 0);
    client.send("close");
    client.expect_eof();
    running.stop();
}

#[test]
fn a_full_message_queue_says_so_and_a_gone_reactor_too() {
    let mut config = ReactorConfig::default();
    config.messages_max = 3;
    let reactor = Reactor::with_config(config).unwrap();
    let handle = reactor.handle();
    (0..3).for_each(|_| handle.run(|_| ()).unwrap());
    assert!(matches!(handle.run(|_| ()), Err(Error::Full { max: 3, .. })));
    drop(reactor);
    assert!(matches!(handle.run(|_| ()), Err(Error::Gone)));
}

/// Offloads what each line names, and notes what comes back.
fn offloading(
    journal: &Journal,
    config: impl FnOnce(&mut ReactorConfig),
) -> (Running<()>, std::sync::mpsc::Sender<()>) {
    silence_scripted_panics();
    let (release, held) = channel::<()>();
    let held = std::sync::Arc::new(std::sync::Mutex::new(held));
    let journal = journal.clone();
    let mut server = TcpServer::new("127.0.0.1:0", move |_| {
        let (journal, held) = (journal.clone(), held.clone());
        probe(move |call, request: &mut Request<'_>| {
            match call {
                Call::Handle => {
                    while let Some(line) = request.input.read_line()? {
                        let held = held.clone();
                        match line {
                            b"panic\n" => request.offload(|| -> u32 { panic!("{SCRIPTED}") })?,
                            b"hold\n" => {
                                let queued = request.offload(move || _ = held.lock().unwrap().recv_timeout(PATIENCE));
                                journal.note(if queued.is_ok() { "queued" } else { "full" });
                            }
                            _ => request.offload(|| 42u32)?,
                        }
                    }
                    return Ok(Next::Wait);
                }
                Call::Message(ref message) => journal.note(format!("message {}", message.is::<u32>())),
                Call::Finish(why) => journal.note(format!("finish {why}")),
                _ => {}
            }
            usual(&call, request)
        })
    })
    .unwrap();
    let mut settings = server.config().clone();
    config(&mut settings);
    server.set_config(settings);
    (serve(server), release)
}

#[test]
fn an_offloaded_result_comes_back_and_a_panic_ends_its_connection_only() {
    let journal = Journal::new();
    let (running, _release) = offloading(&journal, |_| ());
    let (mut one, mut two) = (running.connect(), running.connect());
    one.send("work\n");
    journal.wait("message true");
    two.send("panic\n");
    journal.wait("finish panicked");
    two.expect_reset();
    one.send("work\n");
    journal.wait_for("message true", 2);
    drop(one);
    running.stop();
}

#[test]
fn an_offload_queue_is_bounded_and_a_late_result_is_dropped() {
    let journal = Journal::new();
    let (running, release) = offloading(&journal, |config| {
        config.offload_threads = 1;
        config.offload_queue_max = 1;
    });
    let mut client = running.connect();
    // One is taken by the thread sooner or later, one waits, and then there is no room.
    for _ in 0..3 {
        client.send("hold\n");
    }
    journal.wait("full");
    client.half_close();
    client.expect_eof();
    running.wait_for_stats("it is gone", |stats| stats.active == 0);
    release.send(()).unwrap();
    release.send(()).unwrap();
    running.wait_for_stats("the late result is dropped", |stats| stats.messages_dropped >= 1);
    running.stop();
}

#[test]
fn jobs_that_have_not_begun_are_dropped_with_their_connection() {
    let journal = Journal::new();
    let (running, release) = offloading(&journal, |config| {
        config.offload_threads = 1;
        config.offload_queue_max = 3;
    });
    let (mut greedy, mut other) = (running.connect(), running.connect());
    greedy.send("hold\n");
    running.wait_for_stats("one is run", |stats| stats.offload_busy == 1);
    greedy.send("hold\n".repeat(3));
    running.wait_for_stats("the queue is full", |stats| stats.offload_waiting == 3);
    greedy.reset();
    running.wait_for_stats("they are dropped", |stats| stats.messages_dropped == 3 && stats.offload_waiting == 0);
    other.send("work\n");
    running.wait_for_stats("there is room for the other", |stats| stats.offload_waiting == 1);
    release.send(()).unwrap();
    journal.wait("message true");
    let stats = running.wait_for_stats("the job that was run is dropped late", |stats| stats.messages_dropped == 4);
    assert_eq!(stats.panics, 0);
    running.stop();
}

#[test]
fn a_job_that_was_refused_holds_up_no_stop() {
    let journal = Journal::new();
    let (running, release) = offloading(&journal, |config| {
        config.offload_threads = 1;
        config.offload_queue_max = 0;
        config.drain_grace = Duration::from_secs(3_600);
    });
    let (mut one, mut two) = (running.connect(), running.connect());
    one.send("hold\n");
    journal.wait("queued");
    two.send("hold\n");
    journal.wait("full");
    running.stop.shutdown();
    two.expect_eof();
    assert_eq!(journal.count("message"), 0);
    release.send(()).unwrap();
    one.expect_eof();
    assert_eq!(journal.count("message"), 1, "the other one's job was waited for");
    running.join();
}

#[test]
fn ten_thousand_connections_or_as_many_as_descriptors_allow() {
    // Wine has a /proc as well, and needs a minute for so many.
    let limits = if cfg!(unix) { std::fs::read_to_string("/proc/self/limits").ok() } else { None }.unwrap_or_default();
    let most: usize = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(256);
    // Both ends are in this process, which also runs other tests.
    let count = (most / 2).saturating_sub(1_000).min(10_000).max(most / 4);
    println!("{count} connections");
    let mut server = echoing();
    limit(&mut server, |limits| limits.connections_max = Some(count));
    let running = serve(server);
    let mut clients: Vec<_> = (0..count).map(|_| running.connect()).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        client.send(format!("I am number {i}"));
    }
    for (i, client) in clients.iter_mut().enumerate() {
        client.expect(format!("I am number {i}"));
    }
    assert_eq!(running.stats().active, count as u64);
    drop(clients);
    running.wait_for_stats("all are gone", |stats| stats.active == 0);
    running.stop();
}

#[test]
fn ipv6_is_served_alone_and_with_ipv4_only_on_purpose() {
    let handler = |client: &Address| {
        let client = client.to_string();
        probe(move |call, request: &mut Request<'_>| {
            if let Call::Setup = call {
                use std::io::Write;
                writeln!(request.output, "{client}")?;
            }
            echo(&call, request)
        })
    };
    let mut server = TcpServer::unbound(handler);
    if let Err(error) = server.server_bind("[::1]:0") {
        return println!("skipped: {error}");
    }
    let running = serve(server.server_activate().unwrap());
    assert!(running.connect().line().starts_with("[::1]:"));
    running.stop();

    for ipv6_only in [true, false] {
        let mut server = TcpServer::unbound(handler);
        let options = options(|options: &mut TcpOptions| options.ipv6_only = ipv6_only);
        server.server_bind_with("[::]:0", options).unwrap();
        let server = server.server_activate().unwrap();
        let port = server.server_address().port();
        let running = serve(server);
        let v4 = std::net::TcpStream::connect(("127.0.0.1", port));
        match v4 {
            Ok(client) if !ipv6_only => assert!(Peer::of(client).line().starts_with("127.0.0.1:")),
            Err(_) if ipv6_only => {}
            other => panic!("ipv6_only {ipv6_only}: {other:?}"),
        }
        running.stop();
    }
}

#[test]
fn a_slow_callback_is_counted() {
    let mut server = echoing();
    let mut config = server.config().clone();
    config.slow_callback = Some(Duration::ZERO);
    server.set_config(config);
    let running = serve(server);
    running.connect().echo("not that slow");
    let stats = running.stop();
    assert!(stats.slow_callbacks >= 2 && !stats.longest_callback.is_zero(), "{stats:?}");
}

#[test]
fn the_counters_add_up() {
    let running = serve(echoing());
    for _ in 0..10 {
        let mut client = running.connect();
        client.echo([7; 1_000]);
        client.half_close();
        client.expect_eof();
    }
    let stats = running.stop();
    assert_eq!((stats.accepted, stats.closed, stats.active), (10, 10, 0));
    assert_eq!((stats.bytes_in, stats.bytes_out), (10_000, 10_000));
    assert!(stats.turns > 0 && stats.active_max >= 1);
}

/// Notes what becomes of it.
#[derive(Default)]
struct Noted {
    closed: Arc<AtomicUsize>,
    errors: usize,
    timeouts: usize,
    ticks: usize,
    told: Option<Sender<()>>,
}

impl BaseServer for Noted {
    fn server_close(&mut self) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }
    fn handle_error(&mut self, _: &Address, _: &Error) {
        self.errors += 1;
    }
    fn handle_timeout(&mut self) {
        self.timeouts += 1;
    }
    fn message(&mut self, _: &mut Others<'_, Self>, _: Message) {
        self.told.as_ref().unwrap().send(()).unwrap();
    }
    fn timer(&mut self, others: &mut Others<'_, Self>, _: u64) {
        self.ticks += 1;
        others.request_shutdown();
    }
}

fn noted() -> TcpServer<Noted, impl RequestHandler<Noted>> {
    let handler = |_: &mut Noted, _: &Address| probe(|call, request: &mut Request<'_, Noted>| echo(&call, request));
    TcpServer::with_server("127.0.0.1:0", Noted::default(), handler).unwrap()
}

#[test]
fn a_server_that_is_added_is_that_one_and_not_another_of_its_reactor() {
    let mut server = echoing();
    let address = server.server_address();
    let mut other = noted();
    let closed = Arc::clone(&other.server_mut().closed);
    server.handle().run(move |reactor| _ = reactor.add(other).unwrap()).unwrap();
    server.timeout = Some(Duration::ZERO);
    server.handle_request().unwrap();
    let mut reactor = Reactor::new().unwrap();
    reactor.add(server).unwrap();
    assert_eq!(closed.load(Ordering::Relaxed), 1, "the other one is closed");
    let stop = reactor.shutdown_handle();
    let thread = std::thread::spawn(move || reactor.serve_forever());
    Peer::connect(address).echo("it answers");
    stop.shutdown();
    thread.join().unwrap().unwrap();
}

#[test]
fn settings_that_are_changed_are_those_in_force() {
    let mut reactor = Reactor::new().unwrap();
    let mut config = reactor.config().clone();
    config.drain_grace = Duration::from_secs(77);
    config.messages_max = 2;
    reactor.set_config(config);
    assert_eq!(reactor.config().drain_grace, Duration::from_secs(77));
    let handle = reactor.handle();
    (0..2).for_each(|_| handle.run(|_| ()).unwrap());
    assert!(matches!(handle.run(|_| ()), Err(Error::Full { max: 2, .. })));
}

#[test]
fn a_server_that_is_closed_twice_gets_server_close_once() {
    let mut server = noted();
    let closed = Arc::clone(&server.server_mut().closed);
    for _ in 0..2 {
        server.server_close();
        assert_eq!(closed.load(Ordering::Relaxed), 1);
    }
    drop(server);
    assert_eq!(closed.load(Ordering::Relaxed), 1);
}

#[test]
fn handle_request_waits_for_its_client_during_other_events() {
    let mut server = noted();
    let (told, hear) = channel();
    server.server_mut().told = Some(told);
    server.timeout = Some(PATIENCE);
    let address = server.server_address();
    server.handle().send_to_server(server.id(), ()).unwrap();
    let thread = std::thread::spawn(move || {
        hear.recv_timeout(PATIENCE).unwrap();
        let mut client = Peer::connect(address);
        client.echo("after a message");
        client.half_close();
        client.expect_eof();
    });
    server.handle_request().unwrap();
    thread.join().unwrap();
    assert_eq!((server.stats().accepted, server.server_mut().timeouts), (1, 0));
}

#[test]
fn handle_request_without_time_to_wait_serves_waiting_clients() {
    let mut server = noted();
    server.timeout = Some(Duration::ZERO);
    let mut client = Peer::connect(server.server_address());
    client.send("in the backlog");
    client.half_close();
    server.handle_request().unwrap();
    assert_eq!(client.rest(), b"in the backlog");
    assert_eq!((server.stats().accepted, server.server_mut().timeouts), (1, 0));
}

#[test]
fn a_timer_of_a_server_can_be_set_from_outside_and_of_no_server_is_none() {
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(noted()).unwrap();
    reactor.set_timer(id, 1, Duration::ZERO);
    assert!((0..3).any(|_| !reactor.poll(Some(PATIENCE)).unwrap()), "it stops");
    assert_eq!(reactor.server_mut::<Noted>(id).unwrap().ticks, 1);
    let mut empty = Reactor::new().unwrap();
    empty.set_timer(id, 1, Duration::ZERO);
    empty.server_close(id);
    assert_eq!(empty.next_timeout(), None);
}

#[test]
fn a_closure_that_panics_is_counted_and_a_wake_up_is_no_stale_event() {
    silence_scripted_panics();
    let running = serve(echoing());
    let mut client = running.connect();
    for turn in 1..=3 {
        running.handle.run(|_| panic!("{SCRIPTED}")).unwrap();
        client.echo("alive");
        let stats = running.stats();
        assert_eq!((stats.panics, stats.stale_events), (turn, 0));
    }
    running.stop();
}

#[test]
fn a_job_that_fails_when_its_connection_is_ending_already_is_dropped() {
    silence_scripted_panics();
    let (release, held) = channel::<()>();
    let mut held = Some(held);
    let handler = move |_: &mut Noted, _: &Address| {
        let mut held = held.take();
        probe(move |call, request: &mut Request<'_, Noted>| {
            if let Call::Handle = call {
                let held = held.take().unwrap();
                request.offload(move || {
                    held.recv_timeout(PATIENCE).unwrap();
                    panic!("{SCRIPTED}")
                })?;
                return Ok(Next::Close);
            }
            usual(&call, request)
        })
    };
    let running = serve(TcpServer::with_server("127.0.0.1:0", Noted::default(), handler).unwrap());
    let mut client = running.connect();
    client.send("go");
    client.expect_eof(); // It lingers: we have not ended our side.
    release.send(()).unwrap();
    running.wait_for_stats("the result is dropped", |stats| stats.messages_dropped == 1);
    drop(client);
    let (stats, state) = running.stop_with_state();
    assert_eq!((stats.handler_errors, stats.panics, state.errors), (0, 0, 0));
}

#[test]
fn a_callback_is_slow_when_it_takes_longer_than_it_may() {
    const SECOND: Duration = Duration::from_secs(1);
    let mut config = ReactorConfig::default();
    config.slow_callback = Some(SECOND);
    let mut network = Network::with_config(config);
    let clock = network.clock();
    let handler = move |_: &mut (), _: &Address| {
        let clock = clock.clone();
        probe(move |call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                clock.advance(SECOND + Duration::from_nanos(request.input.len() as u64 - 1));
            }
            usual(&call, request)
        })
    };
    let server = network.serve((), handler, Limits::default()).unwrap();
    let client = network.connect(server);
    for (sent, slow) in [("1", 0), ("22", 1), ("1", 1), ("22", 2)] {
        client.send(sent.as_bytes());
        network.run();
        assert_eq!(network.stats().slow_callbacks, slow);
    }
    assert_eq!(network.stats().longest_callback, SECOND + Duration::from_nanos(1));
}

/// Serves each client with a handler of its own.
struct Choosing;

impl BaseServer for Choosing {
    fn finish_request(&mut self, _: &Address) -> Option<Box<dyn RequestHandler<Self>>> {
        Some(Box::new(Upper))
    }
}

#[test]
fn a_server_can_choose_the_handler_of_each_request() {
    let mut network = Network::new();
    let handler = |_: &mut Choosing, _: &Address| -> Upper { panic!("not this one") };
    let streams = network.serve(Choosing, handler, Limits::default()).unwrap();
    let mut limits = Limits::default();
    let datagrams = network.serve_datagrams(Choosing, handler, limits.clone()).unwrap();
    limits.sessions_max = Some(1);
    let sessions = network.serve_datagrams(Choosing, handler, limits).unwrap();
    let client = network.connect(streams);
    client.send(b"raised");
    let peer = Address::from(SocketAddr::from(([192, 0, 2, 1], 9)));
    network.send_datagram(datagrams, &peer, b"raised");
    network.send_datagram(sessions, &peer, b"raised");
    network.run();
    assert_eq!(client.take_received(), b"RAISED");
    for server in [datagrams, sessions] {
        assert_eq!(network.received_datagrams(server), [(peer.clone(), b"RAISED".to_vec())]);
    }
    client.send_eof();
    [streams, datagrams, sessions].into_iter().for_each(|server| network.server_close(server));
    network.check_nothing_left();
}

#[test]
fn a_request_knows_the_address_it_came_to() {
    use std::io::Write;
    let handler = |_: &Address| {
        probe(|call, request: &mut Request<'_>| {
            if let Call::Setup = call {
                write!(request.output, "{}", request.local_address().expect("it has one"))?;
                return Ok(Next::Close);
            }
            usual(&call, request)
        })
    };
    let server = TcpServer::new("127.0.0.1:0", handler).unwrap();
    let address = server.server_address().to_string();
    let running = serve(server);
    assert_eq!(running.connect().rest(), address.as_bytes());
    running.stop();
}
