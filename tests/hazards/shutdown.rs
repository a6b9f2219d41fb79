//! Stopping: at any moment, from anywhere, without losing what is under way and without waiting for ever.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socketserver::{Address, BaseServer, Finish, Next, Request, TcpServer};

use crate::common::{Call, Journal, PATIENCE, Peer, connect_with_small_window, echo, probe, serve, usual};

fn echoing() -> TcpServer<(), impl socketserver::RequestHandler> {
    TcpServer::new("127.0.0.1:0", |_| probe(|call, request: &mut Request<'_>| echo(&call, request))).unwrap()
}

#[test]
fn before_serve_forever_it_returns_at_once_and_can_serve_again() {
    let mut server = echoing();
    let address = server.server_address();
    server.shutdown_handle().shutdown();
    server.serve_forever().unwrap();
    assert_eq!(server.server_address(), address, "the address is kept");
    let running = serve(server);
    running.stats(); // It is bound again by the time it answers.
    running.connect().echo("again");
    running.stop();
}

#[test]
fn twice_and_afterwards_from_several_threads() {
    let running = serve(echoing());
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
    stop.shutdown(); // Nobody is there; nothing happens, and nothing waits.
    stop.shutdown_now();
}

#[test]
fn from_a_handler() {
    let server = TcpServer::new("127.0.0.1:0", |_| {
        probe(|call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                request.request_shutdown();
            }
            echo(&call, request)
        })
    });
    let running = serve(server.unwrap());
    let mut client = running.connect();
    client.send("stop");
    assert_eq!(client.rest(), b"stop");
    running.join();
}

#[test]
fn a_client_in_the_backlog_is_served_before_the_listener_closes() {
    let server = echoing();
    let address = server.server_address().unwrap().as_inet().unwrap();
    let mut clients: Vec<_> = (0..50).map(|_| Peer::connect(address)).collect();
    clients.iter_mut().for_each(|client| client.send("in the backlog"));
    server.shutdown_handle().shutdown();
    let running = serve(server);
    for client in &mut clients {
        assert_eq!(client.rest(), b"in the backlog");
    }
    let (stats, ()) = running.join();
    assert_eq!(stats.accepted, 50);
}

#[test]
fn data_in_flight_is_delivered() {
    let running = serve(echoing());
    let payload: Vec<u8> = (0..4 << 20).map(|i: u32| (i % 251) as u8).collect();
    let mut client = running.connect();
    client.echo("begun");
    let mut sender = client.socket.try_clone().unwrap();
    let (sent, stop) = (payload.clone(), running.stop.clone());
    let thread = std::thread::spawn(move || {
        use std::io::Write;
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
fn noting(journal: &Journal, grace: Duration) -> TcpServer<(), impl socketserver::RequestHandler> {
    let journal = journal.clone();
    let mut server = TcpServer::new("127.0.0.1:0", move |_| {
        let journal = journal.clone();
        probe(move |call, request: &mut Request<'_>| {
            journal.note(&call);
            if let Call::Handle = call {
                use std::io::Write;
                request.input.take_all();
                request.output.write_all(&vec![7; 8 << 20])?;
                return Ok(Next::Wait);
            }
            usual(&call, request)
        })
    })
    .unwrap();
    let mut config = server.reactor().config().clone();
    config.drain_grace = grace;
    server.reactor().set_config(config);
    server
}

#[test]
fn a_client_that_never_reads_is_aborted_when_the_grace_is_over() {
    let journal = Journal::new();
    let running = serve(noting(&journal, Duration::from_millis(200)));
    let mut client = connect_with_small_window(running.address);
    client.send("more than fits");
    journal.wait("handle");
    running.stop();
    journal.wait("drain");
    assert_eq!(journal.count("finish shut down") + journal.count("finish draining"), 1, "{:?}", journal.lines());
    let (_, end) = client.read_to_the_end();
    assert!(end.is_err(), "it was cut off");
}

#[test]
fn shutdown_now_cuts_a_drain_short() {
    let journal = Journal::new();
    let running = serve(noting(&journal, Duration::from_secs(3_600)));
    let mut client = connect_with_small_window(running.address);
    client.send("more than fits");
    journal.wait("handle");
    running.stop.shutdown();
    running.stop.shutdown_now();
    running.join();
    assert_eq!(journal.count("finish shut down"), 1, "{:?}", journal.lines());
}

#[test]
fn a_handler_that_connects_out_while_it_is_stopped_does_not_keep_the_loop_alive() {
    let target = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = target.local_addr().unwrap();
    let server = TcpServer::new("127.0.0.1:0", move |_| {
        probe(move |call, request: &mut Request<'_>| {
            if let Call::Finish(_) = call {
                let _ = request.connect(to, probe(|call, request: &mut Request<'_>| usual(&call, request)));
            }
            echo(&call, request)
        })
    });
    let running = serve(server.unwrap());
    let mut client = running.connect();
    client.echo("here");
    running.stop.shutdown();
    client.expect_eof();
    running.stop.shutdown_now();
    running.join();
}

#[test]
fn the_same_port_can_be_bound_again_at_once() {
    let running = serve(echoing());
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

#[test]
fn dropping_a_server_ends_every_request_once() {
    let reasons: Arc<Mutex<Vec<Finish>>> = Arc::default();
    let theirs = Arc::clone(&reasons);
    let mut server = TcpServer::new("127.0.0.1:0", move |_| {
        let reasons = Arc::clone(&theirs);
        probe(move |call, request: &mut Request<'_>| {
            if let Call::Finish(why) = call {
                reasons.lock().unwrap().push(why);
            }
            echo(&call, request)
        })
    })
    .unwrap();
    let address = server.server_address().unwrap().as_inet().unwrap();
    let mut clients: Vec<_> = (0..3).map(|_| Peer::connect(address)).collect();
    let stop = server.shutdown_handle();
    let thread = std::thread::spawn(move || {
        server.serve_forever().unwrap();
        server
    });
    clients.iter_mut().for_each(|client| client.echo("here"));
    stop.shutdown_now();
    drop(thread.join().unwrap());
    assert_eq!(*reasons.lock().unwrap(), [Finish::ShutDown; 3]);
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

#[test]
fn handle_request_serves_one_client_or_tells_of_the_timeout() {
    let handler = |_: &mut Timed, _: &Address| probe(|call, request: &mut Request<'_, Timed>| echo(&call, request));
    let mut server = TcpServer::with_server("127.0.0.1:0", Timed::default(), handler).unwrap();
    let timeouts = Arc::clone(&server.server_mut().timeouts);
    let address = server.server_address().unwrap().as_inet().unwrap();
    server.timeout = Some(Duration::ZERO);
    server.handle_request().unwrap();
    assert_eq!(timeouts.load(Ordering::Relaxed), 1);

    server.timeout = Some(PATIENCE);
    let thread = std::thread::spawn(move || {
        let (mut first, mut second) = (Peer::connect(address), Peer::connect(address));
        first.echo("one");
        second.send("two"); // Not served yet.
        first.half_close();
        first.expect_eof();
        second
    });
    server.handle_request().unwrap();
    assert_eq!(server.reactor().stats().accepted, 1);
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
