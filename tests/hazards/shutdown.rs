//! Stopping: at any moment, from anywhere, without losing what is under way and without waiting for ever.

use std::io::Write;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use socketserver::family::Tcp;
use socketserver::testing::{self, Client, Network};
use socketserver::{
    Address, BaseServer, EndReason, Limits, Message, Next, Reactor, Request, RequestHandler, Result, Server, TcpServer,
};

use crate::common::{
    Call, Journal, Kind, PATIENCE, Peer, SCRIPTED, address_of, connect_with_small_window, echo, echoing, is_alone,
    limit, probe, serve, server, server_with, silence_scripted_panics, usual,
};

over_streams! {
    before_serve_forever_it_returns_at_once_and_can_serve_again,
    twice_and_afterwards_from_several_threads,
    from_a_handler,
    a_client_in_the_backlog_is_served_before_the_listener_closes,
    all_clients_in_the_backlog_of_a_listener_without_events_are_served,
    data_in_flight_is_delivered,
    a_client_that_never_reads_is_aborted_when_the_grace_is_over,
    shutdown_now_cuts_a_drain_short,
    a_handler_that_connects_out_while_it_is_stopped_does_not_keep_the_loop_alive,
    dropping_a_server_ends_every_request_once,
    closing_a_server_ends_every_request_whatever_the_budget,
    handle_request_serves_one_client_or_tells_of_the_timeout,
}

/// It was added in the turn in which the stop begins. More clients wait than are accepted in one turn.
fn all_clients_in_the_backlog_of_a_listener_without_events_are_served<F: Kind>() {
    let mut reactor = Reactor::new().unwrap();
    let server = echoing::<F>();
    let address = address_of(&server);
    let mut clients: Vec<_> = (0..100).map(|_| Peer::connect(address.clone())).collect();
    clients.iter_mut().for_each(|client| client.send("here"));
    reactor.handle().run(|reactor| _ = reactor.add(server).unwrap()).unwrap();
    reactor.shutdown_handle().shutdown();
    let stopped = std::thread::spawn(move || reactor.serve_forever());
    for client in &mut clients {
        client.half_close();
        client.expect("here");
        client.expect_eof();
    }
    stopped.join().unwrap().unwrap();
}

fn before_serve_forever_it_returns_at_once_and_can_serve_again<F: Kind>() {
    if !is_alone() {
        return;
    }
    let mut server = echoing::<F>();
    let address = server.server_address();
    server.shutdown_handle().shutdown();
    server.serve_forever().unwrap();
    assert_eq!(server.server_address(), address, "the address is kept");
    let running = serve(server);
    running.stats(); // It is bound again by the time it answers.
    running.connect().echo("again");
    running.stop();
}

fn twice_and_afterwards_from_several_threads<F: Kind>() {
    let running = serve(echoing::<F>());
    running.connect().echo("here");
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let stop = running.stop.clone();
            std::thread::spawn(move || (0..100).for_each(|_| stop.shutdown()))
        })
        .collect();
    let stop = running.stop.clone();
    running.join();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    stop.shutdown(); // No reactor is left: nothing happens, and nothing waits.
    stop.shutdown_now();
}

fn from_a_handler<F: Kind>() {
    let server = server::<F, _>(|_| {
        probe(|call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                request.others.request_shutdown();
            }
            echo(&call, request)
        })
    });
    let running = serve(server);
    let mut client = running.connect();
    client.send("stop");
    assert_eq!(client.rest(), b"stop");
    running.join();
}

fn a_client_in_the_backlog_is_served_before_the_listener_closes<F: Kind>() {
    let mut server = echoing::<F>();
    limit(&mut server, |limits| limits.accepts_per_turn = 10);
    let address = address_of(&server);
    let mut clients: Vec<_> = (0..50).map(|_| Peer::connect(address.clone())).collect();
    clients.iter_mut().for_each(|client| client.send("in the backlog"));
    server.shutdown_handle().shutdown();
    let running = serve(server);
    for client in &mut clients {
        assert_eq!(client.rest(), b"in the backlog");
    }
    let (stats, ()) = running.join();
    assert_eq!(stats.accepted, 50);
}

fn data_in_flight_is_delivered<F: Kind>() {
    let mut server = echoing::<F>();
    let mut config = server.config().clone();
    config.drain_quiet = PATIENCE; // On a busy machine the client may be silent for longer than by default.
    config.drain_grace = PATIENCE;
    server.set_config(config);
    let running = serve(server);
    let payload: Vec<u8> = (0..4 << 20).map(|i: u32| (i % 251) as u8).collect();
    let mut client = running.connect();
    client.echo("begun");
    let mut sender = client.socket.try_clone().unwrap();
    let (sent, stop) = (payload.clone(), running.stop.clone());
    let thread = std::thread::spawn(move || {
        sender.write_all(&sent[..1 << 20]).unwrap();
        stop.shutdown();
        sender.write_all(&sent[1 << 20..]).unwrap();
        sender.shutdown(std::net::Shutdown::Write).unwrap();
    });
    assert!(client.rest() == payload);
    thread.join().unwrap();
    running.join();
}

/// A server whose handlers note how they end.
fn noting<F: Kind>(journal: &Journal, grace: Duration) -> Server<F, (), impl RequestHandler> {
    let journal = journal.clone();
    let mut server = server::<F, _>(move |_| {
        let journal = journal.clone();
        probe(move |call, request: &mut Request<'_>| {
            journal.note(&call);
            if let Call::Handle = call {
                request.input.take_all();
                request.output.write_all(&vec![7; 8 << 20])?;
                return Ok(Next::Wait);
            }
            usual(&call, request)
        })
    });
    let mut config = server.config().clone();
    config.drain_grace = grace;
    server.set_config(config);
    server
}

fn a_client_that_never_reads_is_aborted_when_the_grace_is_over<F: Kind>() {
    let journal = Journal::new();
    let running = serve(noting::<F>(&journal, Duration::from_secs(1)));
    let mut client = connect_with_small_window(running.address.clone());
    client.send("more than fits");
    journal.wait("handle");
    running.stop();
    journal.wait("drain");
    assert_eq!(
        journal.count("finish aborted by the stop") + journal.count("finish stopped"),
        1,
        "{:?}",
        journal.lines()
    );
    assert!(client.expect_abort::<F>().len() < 8 << 20, "it was cut off");
}

fn shutdown_now_cuts_a_drain_short<F: Kind>() {
    let journal = Journal::new();
    let running = serve(noting::<F>(&journal, Duration::from_secs(3_600)));
    let mut client = connect_with_small_window(running.address.clone());
    client.send("more than fits");
    journal.wait("handle");
    running.stop.shutdown();
    running.stop.shutdown_now();
    running.join();
    assert_eq!(journal.count("finish aborted by the stop"), 1, "{:?}", journal.lines());
}

fn a_handler_that_connects_out_while_it_is_stopped_does_not_keep_the_loop_alive<F: Kind>() {
    let target = echoing::<F>();
    let to: Address = address_of(&target).into();
    let server = server::<F, _>(move |_| {
        let to = to.clone();
        probe(move |call, request: &mut Request<'_>| {
            if let Call::Finish(_) = call {
                let _ =
                    request.others.connect(to.clone(), probe(|call, request: &mut Request<'_>| usual(&call, request)));
            }
            echo(&call, request)
        })
    });
    let running = serve(server);
    let mut client = running.connect();
    client.echo("here");
    running.stop.shutdown();
    client.expect_eof();
    running.stop.shutdown_now();
    running.join();
}

#[test]
fn the_same_port_can_be_bound_again_at_once() {
    if !is_alone() {
        return;
    }
    let running = serve(echoing::<Tcp>());
    let address = running.address;
    let mut client = running.connect();
    client.echo("before");
    running.stop(); // The server closes first: its end lingers in TIME_WAIT.
    client.expect_eof();
    drop(client);
    let handler = |_: &Address| probe(|call, request: &mut Request<'_>| echo(&call, request));
    let running = serve(TcpServer::new(address, handler).unwrap());
    running.connect().echo("after");
    running.stop();
}

fn dropping_a_server_ends_every_request_once<F: Kind>() {
    let reasons: Arc<Mutex<Vec<EndReason>>> = Arc::default();
    let theirs = Arc::clone(&reasons);
    let mut server = server::<F, _>(move |_| {
        let reasons = Arc::clone(&theirs);
        probe(move |call, request: &mut Request<'_>| {
            if let Call::Finish(why) = call {
                reasons.lock().unwrap().push(why);
            }
            echo(&call, request)
        })
    });
    let address = address_of(&server);
    let mut clients: Vec<_> = (0..3).map(|_| Peer::connect(address.clone())).collect();
    let stop = server.shutdown_handle();
    let thread = std::thread::spawn(move || {
        server.serve_forever().unwrap();
        server
    });
    clients.iter_mut().for_each(|client| client.echo("here"));
    stop.shutdown_now();
    drop(thread.join().unwrap());
    assert_eq!(*reasons.lock().unwrap(), [EndReason::StopAborted; 3]);
}

fn closing_a_server_ends_every_request_whatever_the_budget<F: Kind>() {
    let mut server = echoing::<F>();
    limit(&mut server, |limits| limits.callbacks_per_turn = 1);
    let id = server.id();
    let running = serve(server);
    let mut clients: Vec<_> = (0..3).map(|_| running.connect()).collect();
    clients.iter_mut().for_each(|client| client.echo("here"));
    let (tell, hear) = channel();
    let close = move |reactor: &mut Reactor| {
        reactor.server_close(id);
        tell.send(reactor.stats().active).unwrap();
    };
    running.handle.run(close).unwrap();
    assert_eq!(hear.recv_timeout(PATIENCE), Ok(0));
    clients.iter_mut().for_each(|client| drop(client.expect_abort::<F>()));
    running.stop();
}

#[derive(Default)]
struct Timed {
    timeouts: Arc<AtomicUsize>,
}

impl BaseServer for Timed {
    fn handle_timeout(&mut self) {
        self.timeouts.fetch_add(1, Ordering::Relaxed);
    }
}

fn handle_request_serves_one_client_or_tells_of_the_timeout<F: Kind>() {
    let handler = |_: &mut Timed, _: &Address| probe(|call, request: &mut Request<'_, Timed>| echo(&call, request));
    let mut server = server_with::<F, _, _>(Timed::default(), handler);
    let timeouts = Arc::clone(&server.server_mut().timeouts);
    let address = address_of(&server);
    server.timeout = Some(Duration::ZERO);
    server.handle_request().unwrap();
    assert_eq!(timeouts.load(Ordering::Relaxed), 1);

    server.timeout = Some(PATIENCE);
    let thread = std::thread::spawn(move || {
        let (mut first, mut second) = (Peer::connect(address.clone()), Peer::connect(address));
        first.echo("one");
        second.send("two"); // Not served yet.
        first.half_close();
        first.expect_eof();
        second
    });
    server.handle_request().unwrap();
    assert_eq!(server.stats().accepted, 1);
    let mut second = thread.join().unwrap();
    let thread = std::thread::spawn(move || {
        second.expect("two");
        second.half_close();
        second.expect_eof();
    });
    server.handle_request().unwrap();
    thread.join().unwrap();
    assert_eq!(timeouts.load(Ordering::Relaxed), 1);
}

/// A client of a server that notes its calls, and the server's stop requested.
fn stopping(act: impl Fn(&Call, &mut Request<'_>) + Clone + Send + 'static) -> (Journal, Network, testing::Peer) {
    let journal = Journal::new();
    let notes = journal.clone();
    let mut network = Network::new();
    let handler = move |_: &mut (), _: &Address| {
        let (notes, act) = (notes.clone(), act.clone());
        probe(move |call, request: &mut Request<'_>| {
            notes.note(&call);
            act(&call, request);
            usual(&call, request)
        })
    };
    let server = network.serve((), handler, Limits::default()).unwrap();
    let client = network.connect(server);
    network.run();
    network.shutdown_handle().shutdown();
    network.run();
    assert_eq!(journal.lines(), ["setup"]);
    (journal, network, client)
}

#[test]
fn input_that_arrives_just_before_drain_is_handled_first() {
    let (journal, mut network, client) = stopping(|_, _| ());
    network.advance(Duration::from_millis(500));
    network.turn(); // It was quiet for long enough.
    client.send(b"just in time");
    network.run();
    assert_eq!(journal.lines(), ["setup", "handle"], "it is quiet no more");
    network.run_for(Duration::from_millis(500));
    assert_eq!(journal.lines(), ["setup", "handle", "drain", "finish stopped"]);
}

#[test]
fn a_paused_connection_drains_as_soon_as_it_is_quiet() {
    let (journal, mut network, client) = stopping(|call, request| {
        if let Call::Setup = call {
            request.pause_reading();
        }
    });
    client.send(b"unread");
    network.run();
    network.run_for(Duration::from_millis(500));
    assert_eq!(journal.lines(), ["setup", "drain", "finish stopped"]);
}

/// For each line a job, which ends when the test sends something; its result is the answer.
#[derive(Clone)]
struct Asking {
    results: Arc<Mutex<Receiver<String>>>,
    /// What `drain` says.
    next: Next,
}

impl RequestHandler for Asking {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        while let Some(line) = request.input.read_line()? {
            if line == b"replace\n" {
                request.replace_handler(self.clone());
                break;
            }
            let results = Arc::clone(&self.results);
            request.offload(move || match results.lock().unwrap().recv_timeout(PATIENCE).unwrap().as_str() {
                "panic" => resume_unwind(Box::new(SCRIPTED)),
                result => result.to_owned(),
            })?;
        }
        Ok(Next::Wait)
    }

    fn message(&mut self, request: &mut Request<'_>, message: Message) -> Result<Next> {
        request.output.write_all(message.downcast::<String>().expect("a job's result").as_bytes())?;
        Ok(Next::Wait)
    }

    fn drain(&mut self, _: &mut Request<'_>) -> Result<Next> {
        Ok(self.next)
    }
}

fn asking() -> (testing::Client, Sender<String>) {
    asking_and(Next::Close)
}

fn asking_and(next: Next) -> (testing::Client, Sender<String>) {
    let (tell, results) = channel();
    let results = Arc::new(Mutex::new(results));
    (testing::Client::new(Asking { results, next }), tell)
}

/// Runs until it is so. Only jobs, on their threads, take real time.
#[track_caller]
fn run_until(client: &mut testing::Client, is_so: impl Fn(&testing::Client) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so(client) {
        assert!(Instant::now() < deadline, "it never is so: {:?}", client.transcript());
        std::thread::yield_now();
        client.run();
    }
}

#[test]
fn a_stop_waits_for_the_answer_of_a_job() {
    let (mut client, tell) = asking();
    client.feed(b"one\n");
    client.advance(Duration::from_secs(60)); // It is quiet.
    client.shutdown();
    client.advance(Duration::from_secs(9)); // Most of the grace.
    assert_eq!(client.transcript(), ["setup", "handle 4"]);
    tell.send("answer".to_owned()).unwrap();
    run_until(&mut client, |client| !client.sent().is_empty());
    client.advance(Duration::from_millis(500));
    assert_eq!(client.transcript(), ["setup", "handle 4", "message", "drain", "finish stopped"]);
    assert_eq!(client.sent(), b"answer");
}

#[test]
fn a_stop_waits_for_all_jobs_including_new_ones() {
    let (mut client, tell) = asking();
    client.feed(b"one\n");
    client.shutdown();
    client.feed(b"two\n");
    client.advance(Duration::from_secs(1));
    for (times, result) in [(1, "a"), (2, "b")] {
        assert_eq!(client.finished(), None);
        tell.send(result.to_owned()).unwrap();
        run_until(&mut client, |client| client.sent().len() == times);
    }
    client.advance(Duration::from_millis(500));
    assert_eq!((client.sent(), client.finished()), (b"ab".to_vec(), Some(EndReason::Stopped)));
}

#[test]
fn a_job_that_outlasts_the_grace_is_not_waited_for() {
    let (mut client, _tell) = asking();
    client.feed(b"one\n");
    client.shutdown();
    client.advance(Duration::from_secs(10));
    assert_eq!(client.finished(), Some(EndReason::StopAborted));
}

#[test]
fn a_successor_gets_the_answer_that_a_stop_waits_for() {
    let (mut client, tell) = asking();
    client.feed(b"one\nreplace\n");
    client.shutdown();
    client.advance(Duration::from_secs(1));
    assert!(!client.is_closed());
    tell.send("answer".to_owned()).unwrap();
    run_until(&mut client, |client| client.sent() == b"answer"); // The transcript is its predecessor's.
    client.advance(Duration::from_millis(500));
    assert!(client.is_closed());
}

#[test]
fn a_connection_that_always_has_a_job_drains_after_half_of_the_grace() {
    for (next, after) in [(Next::Close, "finish stopped"), (Next::Wait, "handle 4")] {
        let (mut client, tell) = asking_and(next);
        client.feed(b"one\n");
        client.shutdown();
        client.advance(Duration::from_secs(5));
        client.feed(b"two\n"); // It would begin another job.
        assert_eq!(client.transcript(), ["setup", "handle 4"]);
        tell.send("answer".to_owned()).unwrap();
        run_until(&mut client, |client| !client.sent().is_empty());
        assert_eq!(client.transcript(), ["setup", "handle 4", "message", "drain", after]);
    }
}

#[test]
fn a_job_that_panics_is_over() {
    silence_scripted_panics();
    let (mut client, tell) = asking();
    client.feed(b"one\n");
    tell.send("panic".to_owned()).unwrap();
    run_until(&mut client, |client| client.finished() == Some(EndReason::Panicked));
}

/// An echo server and clients that are all served before it stops.
fn at_rest(clients: usize) -> (Network, Vec<testing::Peer>) {
    let mut network = Network::new();
    let handler = |_: &mut (), _: &Address| probe(|call, request: &mut Request<'_>| echo(&call, request));
    let server = network.serve((), handler, Limits::default()).unwrap();
    let clients = (0..clients).map(|_| network.connect(server)).collect();
    network.run();
    (network, clients)
}

/// The next request arrives a round trip after the answer has left.
#[test]
fn a_stop_loses_no_request_of_a_client_with_a_long_round_trip() {
    const ROUND_TRIP: Duration = Duration::from_millis(300);
    for stop_after in [0, 1, 150, 299].map(Duration::from_millis) {
        let (mut network, clients) = at_rest(1);
        let client = &clients[0];
        for request in 0..5 {
            if request == 1 {
                network.run_for(stop_after);
                network.shutdown_handle().shutdown();
                network.run_for(ROUND_TRIP - stop_after);
            } else {
                network.run_for(ROUND_TRIP);
            }
            client.send(b"request");
            network.run();
            assert_eq!(client.take_received(), b"request", "{request}, stopped after {stop_after:?}");
        }
        network.run_for(Duration::from_secs(1));
        assert!(client.is_closed() && !client.is_reset());
        assert!(network.is_stopped());
    }
}

/// Its next request is on its way when the server closes. Closing the socket would answer that request with a reset.
#[test]
fn a_client_that_is_busy_for_half_of_the_grace_sees_the_end_and_no_reset() {
    for ends in [true, false] {
        let (mut network, clients) = at_rest(1);
        let client = &clients[0];
        network.shutdown_handle().shutdown();
        while !client.is_closed() {
            assert!(!network.is_stopped());
            client.take_received();
            client.send(b"request");
            network.run_for(Duration::from_millis(100));
        }
        client.send(b"the next one");
        network.run();
        assert!(!client.is_reset() && !client.is_socket_closed());
        if ends {
            client.send_eof();
            network.run();
            assert!(!client.is_reset());
        } else {
            let linger_timeout = Limits::default().linger_timeout;
            network.run_for(linger_timeout - Duration::from_millis(200));
            assert!(!network.is_stopped());
            network.run_for(Duration::from_millis(200));
        }
        assert!(network.is_stopped());
    }
}

/// It has been quiet when the stop begins, and then it speaks: from there on it is as busy as any other.
#[test]
fn a_request_that_comes_with_the_stop_makes_its_connection_busy() {
    let (mut network, clients) = at_rest(1);
    network.run_for(Duration::from_secs(60));
    clients[0].send(b"first");
    network.shutdown_handle().shutdown();
    network.run();
    assert_eq!(clients[0].take_received(), b"first");
    network.run_for(Duration::from_millis(300));
    clients[0].send(b"second");
    network.run();
    assert_eq!(clients[0].take_received(), b"second");
    network.run_for(Duration::from_secs(1));
    assert!(network.is_stopped());
}

#[test]
fn a_client_that_has_been_silent_since_it_connected_is_not_cut() {
    let (mut network, clients) = at_rest(1);
    network.run_for(Duration::from_millis(150));
    network.shutdown_handle().shutdown();
    network.run_for(Duration::from_millis(300));
    clients[0].send(b"at last");
    network.run();
    assert_eq!(clients[0].take_received(), b"at last");
}

/// They neither send nor close. Some have just connected, others have been there for long.
#[test]
fn quiet_clients_hold_up_a_stop_for_less_than_a_second_and_see_the_end() {
    for been_there in [Duration::ZERO, Duration::from_millis(300), Duration::from_secs(60)] {
        let (mut network, clients) = at_rest(200);
        network.run_for(been_there);
        network.shutdown_handle().shutdown();
        network.run_for(Duration::from_millis(999));
        assert!(network.is_stopped(), "{been_there:?}");
        assert!(clients.iter().all(|client| client.is_closed() && !client.is_reset()));
    }
}

#[test]
fn a_handler_knows_of_a_stop_from_the_request_on() {
    let mut client = Client::new(probe(|call, request: &mut Request<'_>| {
        if let Call::Drain = call {
            assert!(request.is_stopping());
            return Ok(Next::Wait);
        }
        if request.input.take_all() == b"stop" {
            request.others.request_shutdown();
        }
        write!(request.output, "{} ", request.is_stopping())?;
        if let Call::Finish(_) = call { usual(&call, request) } else { Ok(Next::Wait) }
    }));
    client.feed(b"before");
    client.feed(b"stop");
    client.feed(b"after");
    assert_eq!(client.sent(), b"false false true true ");
}

/// Such clients are never quiet: without the word, the stop would wait for half of the grace.
#[test]
fn clients_that_know_of_the_last_answer_do_not_delay_a_stop() {
    let mut network = Network::new();
    let handler = |_: &mut (), _: &Address| {
        probe(|call, request: &mut Request<'_>| match call {
            Call::Handle => {
                request.output.write_all(request.input.take_all())?;
                Ok(if request.is_stopping() { Next::Close } else { Next::Wait })
            }
            call => usual(&call, request),
        })
    };
    let server = network.serve((), handler, Limits::default()).unwrap();
    let clients: Vec<_> = (0..20).map(|_| network.connect(server)).collect();
    let ask = |network: &mut Network| {
        clients.iter().for_each(|client| client.send(b"more"));
        network.run_for(Duration::from_millis(100));
    };
    (0..10).for_each(|_| ask(&mut network));
    network.shutdown_handle().shutdown();
    ask(&mut network);
    assert!(network.is_stopped());
    assert!(clients.iter().all(|client| client.is_closed() && !client.is_reset()));
}

/// Notes what it is told, and whether clients can come then.
struct Leaving(Journal);

impl BaseServer for Leaving {
    fn stopping(&mut self, others: &mut socketserver::Others<'_, Self>) {
        self.0.note(format!("stopping {}", others.is_stopping()));
    }

    fn verify_request(&mut self, _: &socketserver::Incoming<'_>, _: &Address) -> bool {
        self.0.note("verify");
        true
    }
}

/// A simulated server with this delay.
fn leaving(delay: Duration) -> (Network, socketserver::ServerId, Journal) {
    let (mut config, journal) = (socketserver::ReactorConfig::default(), Journal::new());
    config.drain_delay = delay;
    let mut network = Network::with_config(config);
    let handler = |_: &mut Leaving, _: &Address| {
        probe(|call, request: &mut Request<'_, Leaving>| match call {
            Call::Drain => {
                request.server.0.note("drain");
                Ok(Next::Close)
            }
            call => echo(&call, request),
        })
    };
    let id = network.serve(Leaving(journal.clone()), handler, Limits::default()).unwrap();
    (network, id, journal)
}

#[test]
fn a_server_is_told_of_a_stop_once_and_before_its_connections() {
    let (mut network, id, journal) = leaving(Duration::ZERO);
    let client = network.connect(id);
    client.send(b"here");
    network.run_for(Duration::from_secs(1));
    network.shutdown_handle().shutdown();
    network.shutdown_handle().shutdown();
    network.run_for(Duration::from_secs(3));
    assert!(network.is_stopped());
    assert_eq!(journal.lines(), ["verify", "stopping true", "drain"]);
}

#[test]
fn a_load_balancer_sends_clients_until_it_notices_the_stop() {
    let (mut network, id, journal) = leaving(Duration::from_secs(5));
    let old = network.connect(id);
    network.run();
    network.shutdown_handle().shutdown();
    network.run_for(Duration::from_secs(4));
    let late = network.connect(id);
    late.send(b"late");
    network.run_for(Duration::from_millis(900));
    assert_eq!(late.take_received(), b"late");
    assert!(!network.is_stopped() && !old.is_closed());
    assert_eq!(journal.lines(), ["verify", "stopping true", "verify"]);
    network.run_for(Duration::from_secs(3));
    assert!(network.is_stopped() && old.is_closed());
    assert_eq!(journal.count("drain"), 2);
}

#[test]
fn a_second_request_cuts_the_delay_of_a_stop_short() {
    let (mut network, id, journal) = leaving(Duration::from_secs(3_600));
    let client = network.connect(id);
    client.send(b"here");
    network.run_for(Duration::from_secs(1));
    network.shutdown_handle().shutdown();
    network.run_for(Duration::from_secs(1));
    assert!(!network.is_stopped());
    network.shutdown_handle().shutdown_now();
    network.run_for(Duration::from_secs(1));
    assert!(network.is_stopped());
    assert_eq!(journal.count("drain"), 0, "it is aborted");
}

#[test]
fn the_delay_of_a_stop_can_be_changed_while_it_passes() {
    let (mut network, id, journal) = leaving(Duration::from_secs(3_600));
    let _client = network.connect(id);
    network.run();
    network.shutdown_handle().shutdown();
    network.run_for(Duration::from_secs(2));
    let shorten = |reactor: &mut Reactor| {
        let mut config = reactor.config().clone();
        config.drain_delay = Duration::from_secs(3);
        reactor.set_config(config);
    };
    network.handle().run(shorten).unwrap();
    network.run_for(Duration::from_millis(500));
    assert_eq!(journal.count("drain"), 0);
    network.run_for(Duration::from_secs(5));
    assert!(network.is_stopped() && journal.count("drain") == 1);
}
