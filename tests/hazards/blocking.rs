//! Handlers that block, on threads and in programs of their own, and what they must not do to the reactor.

use std::io::{BufRead, Read, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use socketserver::family::Udp;
use socketserver::{
    Address, BaseServer, BlockingHandler, BlockingRequest, DatagramRequestHandler, Delivery, EndReason, Error,
    Incoming, Message, Next, NoHandler, Others, Reactor, Request, Result, ServeOn, Stats, StreamRequestHandler,
    TcpServer, ThreadingUdpServer, UdpServer,
};

use crate::common::loopback::loopback;
use crate::common::{
    Call, Journal, PATIENCE, Peer, Running, SCRIPTED, echo, is_alone, limit, probe, serve, silence_scripted_panics,
    usual,
};

/// What serves the next request.
type Decide = Box<dyn FnMut(&Address) -> ServeOn<Mixed> + Send>;

/// Serves what `process` says where it says, and the rest with an echo on the reactor. Notes what the hooks are told.
struct Mixed {
    process: Decide,
    journal: Journal,
    asked: u32,
}

impl Default for Mixed {
    fn default() -> Self {
        Mixed { process: Box::new(|_| ServeOn::Reactor), journal: Journal::new(), asked: 0 }
    }
}

impl BaseServer for Mixed {
    fn process_request(&mut self, _: &Incoming<'_>, client_address: &Address) -> ServeOn<Self> {
        (self.process)(client_address)
    }
    fn handle_error(&mut self, _: &Address, error: &Error) {
        self.journal.note(format!("error {error:#}"));
    }
    fn close_request(&mut self, _: &Address, why: EndReason) {
        self.journal.note(format!("closed {why}"));
    }
    fn message(&mut self, others: &mut Others<'_, Self>, message: Message) {
        // A message asks to end all requests.
        drop(message);
        others.connections().into_iter().for_each(|id| others.close(id));
    }
}

fn mixed(
    process: impl FnMut(&Address) -> ServeOn<Mixed> + Send + 'static,
    journal: &Journal,
) -> TcpServer<Mixed, impl socketserver::RequestHandler<Mixed>> {
    let state = Mixed { process: Box::new(process), journal: journal.clone(), asked: 0 };
    let handler = |_: &mut Mixed, _: &Address| probe(|call, request: &mut Request<'_, Mixed>| echo(&call, request));
    TcpServer::with_server("127.0.0.1:0", state, handler).unwrap()
}

/// Sends back each line, in capitals.
fn upper() -> ServeOn<Mixed> {
    ServeOn::thread(StreamRequestHandler::new(|request| {
        let mut line = String::new();
        while request.rfile.read_line(&mut line)? > 0 {
            request.wfile.write_all(line.to_uppercase().as_bytes())?;
            line.clear();
        }
        Ok(())
    }))
}

/// Threads that say that they run, wait until they are released, whatever becomes of their sockets, and say that they are
/// done.
fn held() -> (impl FnMut(&Address) -> ServeOn<Mixed> + Send + 'static, Receiver<()>, Sender<()>) {
    let (began, begun) = channel();
    let (release, released) = channel();
    let released = Arc::new(Mutex::new(released));
    let process = move |_: &Address| {
        let (began, released) = (began.clone(), Arc::clone(&released));
        ServeOn::thread(StreamRequestHandler::new(move |request| {
            let _ = began.send(());
            let _ = released.lock().unwrap().recv_timeout(PATIENCE);
            request.wfile.write_all(b"done")?;
            Ok(())
        }))
    };
    (process, begun, release)
}

#[test]
fn one_server_mixes_threads_and_the_reactor() {
    let journal = Journal::new();
    let mut turn = 0;
    let process = move |_: &Address| {
        turn += 1;
        if turn % 2 == 1 { upper() } else { ServeOn::Reactor }
    };
    let running = serve(mixed(process, &journal));
    let (mut threaded, mut here) = (running.connect(), running.connect());
    for _ in 0..3 {
        threaded.send("from a thread\n");
        here.echo("from the reactor\n");
        threaded.expect("FROM A THREAD\n");
    }
    assert_eq!(running.stats().active, 2, "both count");
    threaded.half_close();
    threaded.expect_eof();
    here.half_close();
    here.expect_eof();
    journal.wait_for("closed", 2);
    assert_eq!(running.stop().active, 0);
}

#[test]
fn a_thread_that_blocks_delays_no_other_client() {
    let (journal, (mut hold, begun, release)) = (Journal::new(), held());
    let mut first = true;
    let process = move |from: &Address| if std::mem::take(&mut first) { hold(from) } else { ServeOn::Reactor };
    let running = serve(mixed(process, &journal));
    let mut blocked = running.connect();
    begun.recv_timeout(PATIENCE).unwrap();
    for _ in 0..100 {
        running.connect().echo("meanwhile");
    }
    release.send(()).unwrap();
    assert_eq!(blocked.rest(), b"done");
    running.stop();
}

#[test]
fn when_the_pool_is_full_requests_are_refused_and_counted() {
    let (journal, (process, begun, release)) = (Journal::new(), held());
    let mut server = mixed(process, &journal);
    limit(&mut server, |limits| {
        limits.max_threads = 1;
        limits.thread_queue_max = 2;
    });
    let running = serve(server);
    let mut running_one = running.connect();
    begun.recv_timeout(PATIENCE).unwrap();
    let mut waiting: Vec<_> = (0..2).map(|_| running.connect()).collect();
    running.wait_for_stats("two wait", |stats| stats.active == 3);
    let mut refused: Vec<_> = (0..3).map(|_| running.connect()).collect();
    for client in &mut refused {
        let (bytes, _) = client.read_to_the_end();
        assert!(bytes.is_empty(), "it is closed at once");
    }
    journal.wait_for("closed refused", 3);
    assert_eq!(running.stats().refused, 3);
    for client in std::iter::once(&mut running_one).chain(&mut waiting) {
        release.send(()).unwrap();
        assert_eq!(client.rest(), b"done");
    }
    journal.wait_for("closed done", 3);
    // There is room again.
    let mut again = running.connect();
    release.send(()).unwrap();
    assert_eq!(again.rest(), b"done");
    running.stop();
}

#[test]
fn an_impossible_buffer_size_of_a_thread_is_an_error_of_the_request() {
    let journal = Journal::new();
    let mut turn = 0;
    let process = move |_: &Address| {
        turn += 1;
        let mut handler = StreamRequestHandler::new(|_| Ok(()));
        *(if turn == 1 { &mut handler.rbufsize } else { &mut handler.wbufsize }) = isize::MAX as usize;
        ServeOn::thread(handler)
    };
    let running = serve(mixed(process, &journal));
    for name in ["rbufsize", "wbufsize"] {
        running.connect().read_to_the_end().1.unwrap();
        journal.wait(&format!("error cannot use {name} = {}: it must be 1,073,741,824 (1 GiB) at most", isize::MAX));
    }
    running.stop();
}

#[test]
fn an_error_or_a_panic_on_a_thread_goes_to_handle_error_and_ends_that_request_only() {
    silence_scripted_panics();
    let journal = Journal::new();
    let mut turn = 0;
    let process = move |_: &Address| {
        turn += 1;
        match turn {
            1 => ServeOn::thread(StreamRequestHandler::new(|_| Err("it failed".into()))),
            2 => ServeOn::thread(StreamRequestHandler::new(|_| panic!("{}", SCRIPTED))),
            _ => upper(),
        }
    };
    let running = serve(mixed(process, &journal));
    running.connect().read_to_the_end().1.unwrap();
    journal.wait("error it failed");
    journal.wait("closed handler error");
    running.connect().read_to_the_end().1.unwrap();
    journal.wait("error panicked: scripted");
    journal.wait("closed panicked");
    let mut fine = running.connect();
    fine.send("fine\n");
    fine.expect("FINE\n");
    drop(fine);
    let stats = running.stop();
    assert_eq!((stats.handler_errors, stats.panics), (1, 1));
}

#[test]
fn a_panic_in_process_request_refuses_that_request_only() {
    silence_scripted_panics();
    let journal = Journal::new();
    let mut first = true;
    let process = move |_: &Address| if std::mem::take(&mut first) { panic!("{}", SCRIPTED) } else { upper() };
    let running = serve(mixed(process, &journal));
    running.connect().read_to_the_end().1.unwrap();
    journal.wait("closed panicked");
    let mut fine = running.connect();
    fine.send("fine\n");
    fine.expect("FINE\n");
    drop(fine);
    running.stop();
}

#[test]
fn a_thread_asks_the_server_for_something() {
    let journal = Journal::new();
    let count = |_: &Address| {
        ServeOn::thread(StreamRequestHandler::new(|request| {
            let asked = request.server(|server: &mut Mixed| {
                server.asked += 1;
                server.asked
            })?;
            write!(request.wfile, "{asked}")?;
            Ok(())
        }))
    };
    let running = serve(mixed(count, &journal));
    for expected in 1..=20 {
        assert_eq!(running.connect().rest(), expected.to_string().as_bytes());
    }
    journal.wait_for("closed done", 20);
    let (_, state) = running.stop_with_state();
    assert_eq!(state.asked, 20);
}

/// A server whose stop would take an hour if it waited for its clients.
fn patient(
    process: impl FnMut(&Address) -> ServeOn<Mixed> + Send + 'static,
    journal: &Journal,
    quiet: Duration,
) -> Running<Mixed> {
    let mut server = mixed(process, journal);
    let mut config = server.config().clone();
    (config.drain_grace, config.drain_quiet) = (Duration::from_secs(3_600), quiet);
    server.set_config(config);
    serve(server)
}

#[test]
fn a_stop_ends_the_input_of_quiet_clients_at_once_also_of_those_that_wait_for_a_thread() {
    for quiet in [Duration::ZERO, Duration::from_millis(200)] {
        let journal = Journal::new();
        let running = patient(|_| upper(), &journal, quiet);
        let mut clients: Vec<_> = (0..200).map(|_| running.connect()).collect();
        clients[0].send("hello\n");
        clients[0].expect("HELLO\n");
        clients[199].send("is served in the end\n"); // Its turn comes when the others are gone.
        running.wait_for_stats("all are admitted", |stats| stats.active == 200 && stats.threads_busy == 64);
        running.stop.shutdown();
        clients[..199].iter_mut().for_each(Peer::expect_eof);
        assert_eq!(clients[199].rest(), b"IS SERVED IN THE END\n");
        running.join();
        assert_eq!(journal.count("closed done"), 200, "each came to its end by itself");
    }
}

#[test]
fn a_stop_waits_for_a_thread_that_computes_an_answer() {
    let (journal, (mut hold, begun, release)) = (Journal::new(), held());
    let mut first = true;
    let process = move |from: &Address| if std::mem::take(&mut first) { hold(from) } else { upper() };
    let running = patient(process, &journal, Duration::ZERO);
    let (mut computing, mut quiet) = (running.connect(), running.connect());
    begun.recv_timeout(PATIENCE).unwrap();
    running.wait_for_stats("both have a thread", |stats| stats.threads_busy == 2);
    running.stop.shutdown();
    quiet.expect_eof();
    release.send(()).unwrap();
    assert_eq!(computing.rest(), b"done");
    running.join();
}

#[test]
fn a_stop_does_not_cut_a_message_that_a_thread_has_begun_to_read() {
    let read_block = || {
        ServeOn::thread(StreamRequestHandler::new(|request| {
            let mut block = [0; 4];
            while request.rfile.read_exact(&mut block).is_ok() {
                request.wfile.write_all(&block)?;
            }
            Ok(())
        }))
    };
    let journal = Journal::new();
    let mut count = 0;
    let process = move |_: &Address| {
        count += 1;
        if count == 1 { upper() } else { read_block() }
    };
    let running = patient(process, &journal, Duration::ZERO);
    let (mut line, mut block, mut quiet) = (running.connect(), running.connect(), running.connect());
    // What is whole is answered when the rest has been read as well.
    line.send("one\ntw");
    line.expect("ONE\n");
    block.send("1234ab");
    block.expect("1234");
    running.stop.shutdown();
    quiet.expect_eof();
    line.send("o\n");
    line.expect("TWO\n");
    line.expect_eof();
    block.send("cd");
    block.expect("abcd");
    block.expect_eof();
    running.join();
    assert_eq!(journal.count("closed done"), 3);
}

#[test]
fn after_half_of_the_grace_a_message_that_has_begun_finds_its_end_as_well() {
    let journal = Journal::new();
    let mut server = mixed(|_| upper(), &journal);
    let mut config = server.config().clone();
    config.drain_grace = Duration::from_secs(2);
    server.set_config(config);
    let running = serve(server);
    let mut client = running.connect();
    client.send("hello\nhalf");
    client.expect("HELLO\n");
    running.stop.shutdown();
    client.expect("HALF");
    client.expect_eof();
    running.join();
    assert_eq!(journal.count("closed done"), 1, "it came to its end by itself");
}

#[test]
fn a_line_without_an_end_on_a_thread_ends_with_the_input_limit() {
    let journal = Journal::new();
    let mut server = mixed(|_| upper(), &journal);
    limit(&mut server, |limits| limits.line_bytes_max = 1_000);
    let running = serve(server);
    let mut client = running.connect();
    client.send([b'x'; 1_001]);
    assert!(client.read_to_the_end().0.is_empty());
    journal.wait("closed input limit");
    let mut client = running.connect();
    client.send([b'x'; 1_000]);
    client.half_close();
    assert_eq!(client.rest(), [b'X'; 1_000]);
    let stats = running.stop();
    assert_eq!((stats.input_limits, stats.handler_errors, journal.count("error")), (1, 0, 0), "as on the reactor");
}

#[test]
fn a_full_pool_shows_in_the_counters() {
    let (journal, (process, begun, release)) = (Journal::new(), held());
    let mut server = mixed(process, &journal);
    limit(&mut server, |limits| limits.max_threads = 2);
    let running = serve(server);
    let clients: Vec<_> = (0..5).map(|_| running.connect()).collect();
    (0..2).for_each(|_| begun.recv_timeout(PATIENCE).unwrap());
    let is_full = |stats: &Stats| (stats.threads_busy, stats.requests_waiting, stats.children_busy) == (2, 3, 0);
    running.wait_for_stats("two are served and three wait", is_full);
    (0..5).for_each(|_| release.send(()).unwrap());
    clients.into_iter().for_each(|mut client| assert_eq!(client.rest(), b"done"));
    running.wait_for_stats("none is served", |stats| stats.threads_busy + stats.requests_waiting == 0);
    running.stop();
}

#[test]
fn bytes_for_a_request_on_a_thread_are_refused_and_not_gone() {
    let (tell, told) = channel();
    let mut first = true;
    let tell_thread = tell.clone();
    let process = move |_: &Address| {
        if !std::mem::take(&mut first) {
            return ServeOn::Reactor;
        }
        let tell = tell_thread.clone();
        ServeOn::thread(StreamRequestHandler::new(move |request| {
            tell.send(request.id()).unwrap();
            assert_eq!(request.rfile.read_line(&mut String::new())?, 0);
            Ok(())
        }))
    };
    let state = Mixed { process: Box::new(process), ..Mixed::default() };
    let handler = move |_: &mut Mixed, _: &Address| {
        let tell = tell.clone();
        probe(move |call, request: &mut Request<'_, Mixed>| {
            if let Call::Handle = call {
                request.input.take_all();
                let other = *request.others.connections().first().expect("the other is listed");
                tell.send(other).unwrap();
                assert_eq!(request.others.send(other, b"bytes"), Delivery::Refused);
                assert_eq!(request.others.broadcast(&b"to all\n"[..], |_| true), 0);
                request.others.handle().send(other, ())?;
                request.output.write_all(b"sent\n")?;
                return Ok(Next::Wait);
            }
            usual(&call, request)
        })
    };
    let running = serve(TcpServer::with_server("127.0.0.1:0", state, handler).unwrap());
    let mut threaded = running.connect();
    let own_name = told.recv_timeout(PATIENCE).unwrap();
    let mut here = running.connect();
    here.send("send it something");
    here.expect("sent\n");
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), own_name);
    running.wait_for_stats("the message is counted", |stats| stats.messages_dropped == 1);
    threaded.half_close();
    threaded.expect_eof();
    drop(here);
    running.stop();
}

#[test]
fn close_with_threads_running_waits_for_them() {
    let (journal, (began, begun)) = (Journal::new(), channel());
    let (ended, end) = channel();
    let mut server = mixed(
        move |_| {
            let (began, ended) = (began.clone(), ended.clone());
            ServeOn::thread(StreamRequestHandler::new(move |request| {
                began.send(()).unwrap();
                // Blocks until the reactor ends the request.
                let _ = request.rfile.read(&mut [0]);
                let _ = request.server(|_: &mut Mixed| ()); // Answered or not, it does not wait for ever.
                ended.send(()).unwrap();
                Ok(())
            }))
        },
        &journal,
    );
    let mut config = server.config().clone();
    config.drain_grace = Duration::from_secs(2); // After half of it the input ends; the other half is the thread's.
    server.set_config(config);
    let address = server.server_address();
    let client = Peer::connect(address);
    server.handle_request().unwrap();
    begun.recv_timeout(PATIENCE).unwrap();
    server.server_close();
    // No waiting here: the thread was done before server_close returned.
    end.try_recv().expect("server_close waits");
    assert_eq!(journal.count("closed done"), 1, "it found the end of its input");
    drop(client);
}

/// Closes a server whose thread comes to its end while `server_close` waits, perhaps after a stop was requested.
fn close_lets_a_thread_finish(stop_is_requested: bool) {
    let (journal, (process, begun, release)) = (Journal::new(), held());
    let mut server = mixed(process, &journal);
    let mut client = Peer::connect(server.server_address());
    server.handle_request().unwrap();
    begun.recv_timeout(PATIENCE).unwrap();
    if stop_is_requested {
        server.shutdown_handle().shutdown();
    }
    let thread = std::thread::spawn(move || release.send(()));
    server.server_close();
    assert_eq!(client.rest(), b"done");
    assert_eq!(journal.count("closed done"), 1);
    thread.join().unwrap().unwrap();
}

#[test]
fn close_lets_a_thread_finish_its_request() {
    close_lets_a_thread_finish(false);
}

#[test]
fn close_waits_for_a_thread_also_if_a_stop_is_about_to_begin() {
    close_lets_a_thread_finish(true);
}

#[test]
fn close_ends_a_thread_that_takes_too_long() {
    let (journal, (began, begun)) = (Journal::new(), channel());
    let process = move |_: &Address| {
        let began = began.clone();
        ServeOn::thread(StreamRequestHandler::new(move |request| {
            began.send(()).unwrap();
            // Its client does not read, and the end of the input means nothing to it.
            while request.wfile.write_all(&[0; 65_536]).is_ok() {}
            Ok(())
        }))
    };
    let mut server = mixed(process, &journal);
    let mut config = server.config().clone();
    config.drain_grace = Duration::from_millis(100);
    server.set_config(config);
    let client = Peer::connect(server.server_address());
    server.handle_request().unwrap();
    begun.recv_timeout(PATIENCE).unwrap();
    server.server_close();
    assert_eq!(journal.count("closed aborted by the stop"), 1);
    drop(client);
}

#[test]
fn close_does_not_wait_for_daemon_threads() {
    for daemon in [false, true] {
        let (journal, (process, begun, release)) = (Journal::new(), held());
        let mut server = mixed(process, &journal);
        limit(&mut server, |limits| {
            limits.daemon_threads = daemon;
            limits.block_on_close = daemon;
        });
        let running = serve(server);
        let mut client = running.connect();
        begun.recv_timeout(PATIENCE).unwrap();
        if daemon {
            running.stop.shutdown();
        } else {
            // Not daemons: a stop in good order would wait for them.
            running.stop.shutdown_now();
        }
        // The handler is still at it: it looks at nothing that could be ended.
        running.join();
        let (bytes, _) = client.read_to_the_end();
        assert!(bytes.is_empty());
        release.send(()).unwrap();
    }
}

#[test]
fn a_second_request_to_stop_ends_the_wait_for_threads() {
    for at_once in [true, false] {
        let (journal, (process, begun, release)) = (Journal::new(), held());
        let mut server = mixed(process, &journal);
        let mut config = server.config().clone();
        config.drain_grace = if at_once { PATIENCE } else { Duration::ZERO };
        server.set_config(config);
        let running = serve(server);
        let _client = running.connect();
        begun.recv_timeout(PATIENCE).unwrap();
        running.stop.shutdown();
        if at_once {
            running.stop.shutdown_now();
        } else {
            // The grace is over, the loop has ended, and dropping the server waits.
            let deadline = Instant::now() + PATIENCE;
            while running.stop.is_requested() && Instant::now() < deadline {
                std::thread::yield_now();
            }
            running.stop.shutdown();
        }
        running.join();
        release.send(()).expect("the thread is still at it");
    }
}

#[test]
fn close_sees_a_request_that_ends_in_the_same_turn() {
    let (journal, (process, begun, release)) = (Journal::new(), held());
    let mut server = mixed(process, &journal);
    let id = server.id();
    let mut client = Peer::connect(server.server_address());
    server.handle_request().unwrap();
    begun.recv_timeout(PATIENCE).unwrap();
    // Both wait when the loop goes on: the wish to close, and after it the word that the thread is done.
    server.handle().run(move |reactor| reactor.server_close(id)).unwrap();
    release.send(()).unwrap();
    assert_eq!(client.rest(), b"done");
    // The test cannot see when the second has come. If it comes later, the test passes without having tried anything.
    std::thread::park_timeout(Duration::from_millis(100));
    let (closed, done) = channel();
    let heard = journal.clone();
    std::thread::spawn(move || {
        server.timeout = Some(Duration::ZERO);
        while heard.count("closed done") == 0 {
            server.handle_request().unwrap(); // A turn may have no time for both.
        }
        closed.send(()).unwrap();
    });
    done.recv_timeout(PATIENCE).expect("the reactor goes on");
    assert_eq!(journal.count("closed done"), 1);
}

#[test]
fn a_handler_that_is_refused_may_panic_when_it_is_dropped() {
    silence_scripted_panics();
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("{SCRIPTED}");
        }
    }
    let (journal, (mut process, begun, release)) = (Journal::new(), held());
    let mut first = true;
    let process = move |client: &Address| match std::mem::take(&mut first) {
        true => process(client),
        false => {
            let bomb = Bomb;
            ServeOn::thread(StreamRequestHandler::new(move |_| Ok(_ = &bomb)))
        }
    };
    let mut server = mixed(process, &journal);
    limit(&mut server, |limits| (limits.max_threads, limits.thread_queue_max) = (1, 0));
    let running = serve(server);
    let mut client = running.connect();
    begun.recv_timeout(PATIENCE).unwrap();
    assert!(running.connect().read_to_the_end().0.is_empty());
    journal.wait("closed refused");
    release.send(()).unwrap();
    assert_eq!(client.rest(), b"done");
    running.wait_for_stats("both are over", |stats| stats.active == 0 && stats.refused == 1);
    running.stop();
}

#[test]
fn a_handler_on_a_thread_that_panics_when_it_is_dropped_has_panicked() {
    silence_scripted_panics();
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("{SCRIPTED}");
        }
    }
    let journal = Journal::new();
    let process = |_: &Address| {
        let bomb = Bomb;
        ServeOn::thread(StreamRequestHandler::new(move |request| {
            let _ = &bomb;
            Ok(request.wfile.write_all(b"done")?)
        }))
    };
    let running = serve(mixed(process, &journal));
    assert_eq!(running.connect().rest(), b"done", "its answer leaves before");
    journal.wait("closed panicked");
    assert_eq!(journal.count(&format!("error panicked: {SCRIPTED}")), 1, "{:?}", journal.lines());
    let stats = running.stop();
    assert_eq!((stats.panics, stats.handler_errors), (1, 0));
}

#[test]
fn a_request_that_a_stop_has_not_waited_for_counts_until_the_reactor_hears_of_its_end() {
    let (journal, (process, begun, release)) = (Journal::new(), held());
    let mut server = mixed(process, &journal);
    let client = Peer::connect(server.server_address());
    let stop = server.shutdown_handle();
    let stopping = std::thread::spawn(move || {
        begun.recv_timeout(PATIENCE).unwrap();
        stop.shutdown_now();
    });
    server.serve_forever().unwrap();
    stopping.join().unwrap();
    let stats = server.stats();
    assert_eq!((stats.active, stats.threads_busy), (1, 1));
    release.send(()).unwrap();
    // The thread is free by itself.
    let deadline = Instant::now() + PATIENCE;
    while server.stats().threads_busy > 0 {
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::yield_now();
    }
    assert_eq!((server.stats().active, journal.count("closed aborted by the stop")), (1, 0));
    server.server_close();
    assert_eq!((server.stats().active, journal.count("closed aborted by the stop")), (0, 1));
    drop(client);
}

#[test]
fn a_request_on_a_thread_can_be_ended_by_its_id() {
    let (journal, (began, begun)) = (Journal::new(), channel());
    let process = move |_: &Address| {
        let began = began.clone();
        ServeOn::thread(StreamRequestHandler::new(move |request| {
            began.send(()).unwrap();
            request.rfile.read_to_end(&mut Vec::new())?;
            Ok(())
        }))
    };
    let server = mixed(process, &journal);
    let id = server.id();
    let running = serve(server);
    let mut client = running.connect();
    begun.recv_timeout(PATIENCE).unwrap();
    running.handle.send_to_server(id, ()).unwrap();
    client.expect_eof();
    journal.wait("closed evicted");
    running.stop();
}

#[test]
fn handle_request_does_not_wait_for_the_thread() {
    let (journal, (process, begun, release)) = (Journal::new(), held());
    let mut server = mixed(process, &journal);
    let mut client = Peer::connect(server.server_address());
    server.handle_request().unwrap();
    begun.recv_timeout(PATIENCE).unwrap();
    release.send(()).unwrap();
    assert_eq!(client.rest(), b"done");
}

#[test]
fn threads_count_towards_the_caps_on_connections() {
    let (journal, (process, begun, release)) = (Journal::new(), held());
    let mut server = mixed(process, &journal);
    limit(&mut server, |limits| limits.connections_per_client_max = Some(1));
    let running = serve(server);
    let mut first = running.connect();
    begun.recv_timeout(PATIENCE).unwrap();
    assert!(running.connect().read_to_the_end().0.is_empty(), "one more is refused");
    release.send(()).unwrap();
    assert_eq!(first.rest(), b"done");
    journal.wait("closed done");
    running.wait_for_stats("it is forgotten", |stats| stats.active == 0);
    let mut next = running.connect();
    release.send(()).unwrap();
    assert_eq!(next.rest(), b"done");
    running.stop();
}

#[test]
fn a_limit_of_connections_per_client_is_none_of_datagrams_on_threads() {
    let (began, begun) = channel();
    let (release, released) = channel();
    let released = Arc::new(Mutex::new(released));
    let mut server = ThreadingUdpServer::new((loopback(), 0), move |_| {
        let (began, released) = (began.clone(), Arc::clone(&released));
        DatagramRequestHandler::new(move |_| {
            let _ = began.send(());
            let _ = released.lock().unwrap().recv_timeout(PATIENCE);
            Ok(())
        })
    })
    .unwrap();
    limit(&mut server, |limits| limits.connections_per_client_max = Some(1));
    let running = serve(server);
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..2 {
        client.send_to(b"x", running.address).unwrap();
        begun.recv_timeout(PATIENCE).expect("both are served at a time");
    }
    (0..2).for_each(|_| release.send(()).unwrap());
    assert_eq!(running.stop().refused, 0);
}

#[test]
fn a_cap_that_is_raised_between_two_requests_holds_at_once() {
    let (journal, (process, begun, release)) = (Journal::new(), held());
    let mut server = mixed(process, &journal);
    limit(&mut server, |limits| limits.connections_max = Some(1));
    server.timeout = Some(Duration::from_millis(20));
    let address = server.server_address();
    let (_first, _second) = (Peer::connect(address), Peer::connect(address));
    server.handle_request().unwrap();
    begun.recv_timeout(PATIENCE).unwrap();
    server.handle_request().unwrap(); // The thread is still at it: the second client waits.
    assert_eq!(server.stats().accepted, 1);
    limit(&mut server, |limits| limits.connections_max = Some(10));
    server.timeout = Some(Duration::from_secs(1));
    server.handle_request().unwrap();
    assert_eq!(server.stats().accepted, 2);
    (0..2).for_each(|_| release.send(()).unwrap());
}

/// Everything Python's `StreamRequestHandler` has, overridden.
struct Attributes;

impl BlockingHandler<Mixed> for Attributes {
    fn setup(&mut self, request: &mut BlockingRequest<Mixed>) -> Result<()> {
        Ok(request.wfile.write_all(b"setup ")?)
    }
    fn handle(&mut self, request: &mut BlockingRequest<Mixed>) -> Result<()> {
        let error = request.rfile.read(&mut [0]).expect_err("nothing comes in time");
        Ok(write!(request.wfile, "{:?} ", error.kind())?)
    }
    fn finish(&mut self, request: &mut BlockingRequest<Mixed>) {
        request.wfile.write_all(b"finish").expect("it is buffered");
    }
    fn rbufsize(&self) -> usize {
        0
    }
    fn wbufsize(&self) -> usize {
        1_000
    }
    fn timeout(&self) -> Option<Duration> {
        Some(Duration::from_millis(50))
    }
    fn disable_nagle_algorithm(&self) -> bool {
        true
    }
}

#[test]
fn a_handler_has_its_attributes() {
    let journal = Journal::new();
    let running = serve(mixed(|_| ServeOn::thread(Attributes), &journal));
    assert_eq!(running.connect().rest(), b"setup TimedOut finish");
    running.stop();
}

/// A UDP server of that kind, and a client of it.
fn datagrams(
    process: impl FnMut(&Address) -> ServeOn<Mixed> + Send + 'static,
) -> (Running<Mixed, Udp>, std::net::UdpSocket) {
    let state = Mixed { process: Box::new(process), ..Mixed::default() };
    let server = UdpServer::with_server("127.0.0.1:0", state, |_: &mut Mixed, _: &Address| NoHandler).unwrap();
    let running = serve(server);
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.connect(running.address).unwrap();
    (running, client)
}

#[track_caller]
fn ask(client: &std::net::UdpSocket, packet: &[u8]) -> Vec<u8> {
    client.send(packet).unwrap();
    let mut reply = vec![0; 70_000];
    let n = client.recv(&mut reply).expect("an answer");
    reply.truncate(n);
    reply
}

#[test]
fn close_lets_the_answer_to_a_datagram_leave_that_it_waits_for() {
    if !is_alone() {
        return;
    }
    let (began, begun) = channel();
    let (release, released) = channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let mut server = ThreadingUdpServer::new((loopback(), 0), move |_| {
        let (began, released) = (began.clone(), Arc::clone(&released));
        DatagramRequestHandler::new(move |request| {
            began.send(()).unwrap();
            released.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            Ok(request.wfile.write_all(b"done")?)
        })
    })
    .unwrap();
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    client.send_to(b"ask", server.server_address()).unwrap();
    server.handle_request().unwrap();
    begun.recv_timeout(PATIENCE).unwrap();
    let thread = std::thread::spawn(move || release.send(()));
    server.server_close();
    thread.join().unwrap().unwrap();
    let mut answer = [0; 10];
    assert_eq!(client.recv(&mut answer).expect("an answer"), 4);
    std::net::UdpSocket::bind(server.server_address()).expect("its socket is closed");
}

#[test]
fn an_answer_does_not_leave_by_a_socket_that_has_taken_the_place_of_its_own() {
    let (began, begun) = channel();
    let (release, released) = channel::<()>();
    let mut released = Some(released);
    let (ended, end) = channel();
    let process = move |_: &Address| {
        let (began, ended, released) = (began.clone(), ended.clone(), released.take().expect("one datagram"));
        ServeOn::thread(DatagramRequestHandler::new(move |request| {
            began.send(()).unwrap();
            released.recv_timeout(PATIENCE).unwrap();
            { request.socket() }.write_all(b"late")?;
            ended.send(()).unwrap();
            Ok(())
        }))
    };
    let udp = |state| UdpServer::with_server("127.0.0.1:0", state, |_: &mut Mixed, _: &Address| NoHandler).unwrap();
    let mut first = udp(Mixed { process: Box::new(process), ..Mixed::default() });
    limit(&mut first, |limits| limits.block_on_close = false);
    let at = first.server_address();
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(first).unwrap();
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    client.send_to(b"ask", at).unwrap();
    while begun.try_recv().is_err() {
        reactor.poll(Some(Duration::from_millis(10))).unwrap();
    }
    reactor.server_close(id);
    reactor.add(udp(Mixed::default())).unwrap();
    release.send(()).unwrap();
    end.recv_timeout(PATIENCE).unwrap();
    reactor.poll(Some(Duration::ZERO)).unwrap();
    assert!(client.recv_from(&mut [0; 10]).is_err(), "the other server received no request");
    assert_eq!(reactor.stats().datagrams_failed, 1);
}

#[test]
fn a_datagram_is_served_by_a_thread() {
    let (running, client) = datagrams(|_| {
        ServeOn::thread(DatagramRequestHandler::new(|request| {
            let mut line = String::new();
            request.rfile.read_line(&mut line)?;
            if line == "more" {
                request.socket().send_to(b"first", &request.client_address())?;
            }
            request.wfile.write_all(line.to_uppercase().as_bytes())?;
            Ok(())
        }))
    });
    assert_eq!(ask(&client, b"hello\nworld"), b"HELLO\n");
    assert_eq!(ask(&client, b""), b"");
    assert_eq!(ask(&client, b"more"), b"first");
    let mut reply = [0; 10];
    assert_eq!(client.recv(&mut reply).unwrap(), 4);
    assert_eq!(&reply[..4], b"MORE");
    running.stop();
}

#[cfg(all(unix, feature = "children"))]
mod programs {
    use std::process::Command;

    use super::*;

    fn shell(script: &str) -> ServeOn<Mixed> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        ServeOn::program(command)
    }

    #[test]
    fn a_program_serves_many_clients_at_once() {
        let journal = Journal::new();
        let running = serve(mixed(|_| ServeOn::program(Command::new("cat")), &journal));
        let mut clients: Vec<_> = (0..30).map(|_| running.connect()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(format!("I am number {number}"));
        }
        for (number, client) in clients.iter_mut().enumerate() {
            client.half_close();
            assert_eq!(client.rest(), format!("I am number {number}").as_bytes());
        }
        journal.wait_for("closed done", 30);
        running.stop();
    }

    #[test]
    fn a_child_that_never_exits_is_killed_when_its_time_is_over() {
        let journal = Journal::new();
        let mut server = mixed(|_| shell("exec sleep 1000"), &journal);
        limit(&mut server, |limits| limits.child_timeout = Some(Duration::from_millis(100)));
        let running = serve(server);
        running.connect().expect_eof();
        journal.wait("closed child timeout");
        assert_eq!(journal.count("error"), 1);
        running.stop();
    }

    #[test]
    fn a_child_that_never_exits_does_not_hold_up_a_stop_for_ever() {
        let journal = Journal::new();
        let mut server = mixed(|_| shell("echo here; exec sleep 1000"), &journal);
        let mut config = server.config().clone();
        config.drain_grace = Duration::from_millis(50);
        server.set_config(config);
        let running = serve(server);
        let mut client = running.connect();
        client.expect("here\n");
        running.stop.shutdown();
        client.expect_eof();
        running.join();
    }

    #[test]
    fn max_children_is_kept_and_the_others_wait() {
        let journal = Journal::new();
        let mut server = mixed(|_| shell("echo here; cat"), &journal);
        limit(&mut server, |limits| limits.max_children = 2);
        let running = serve(server);
        let mut clients: Vec<_> = (0..5).map(|_| running.connect()).collect();
        running.wait_for_stats("all are admitted", |stats| stats.active == 5);
        for i in 0..clients.len() {
            clients[i].expect("here\n");
            if let Some(second_next) = clients.get(i + 2) {
                let socket = &second_next.socket;
                socket.set_nonblocking(true).unwrap();
                assert!({ socket }.read(&mut [0]).is_err(), "it is not its turn");
                socket.set_nonblocking(false).unwrap();
            }
            clients[i].half_close();
            assert_eq!(clients[i].rest(), b"");
        }
        running.stop();
    }

    #[test]
    fn a_program_that_cannot_be_run_is_an_error_with_its_name() {
        let journal = Journal::new();
        let running = serve(mixed(|_| ServeOn::program(Command::new("/no/such/program")), &journal));
        running.connect().expect_eof();
        journal.wait("error cannot run /no/such/program: no such file or directory");
        running.stop();
    }

    #[test]
    fn a_datagram_is_the_input_of_a_program_and_its_output_the_answer() {
        let (running, client) = datagrams(|_| shell("tr a-z A-Z"));
        assert_eq!(ask(&client, b"hello"), b"HELLO");
        let large = vec![b'x'; 8_192];
        assert_eq!(ask(&client, &large), large.to_ascii_uppercase());
        running.stop();
    }

    /// A parent that ignores SIGCHLD leaves that to us, and the system then tells nothing of how a program ended.
    #[test]
    fn a_status_that_the_system_does_not_tell_is_no_failure() {
        let test = "blocking::programs::a_status_that_the_system_does_not_tell_is_no_failure";
        if !crate::common::is_apart(test, "trap '' CHLD") {
            return;
        }
        let (running, client) = datagrams(|_| shell("cat; echo done"));
        assert_eq!(ask(&client, b"hello "), b"hello done\n");
        running.stop();

        let journal = Journal::new();
        let mut server = mixed(|_| shell("read what; [ $what = stay ] && exec sleep 1000; echo $what"), &journal);
        limit(&mut server, |limits| limits.child_timeout = Some(Duration::from_secs(2)));
        let running = serve(server);
        let (mut brief, mut stubborn) = (running.connect(), running.connect());
        brief.send("hello\n");
        assert_eq!(brief.rest(), b"hello\n");
        journal.wait("closed done");
        stubborn.send("stay\n");
        assert_eq!(stubborn.rest(), b"");
        journal.wait("closed child timeout");
        running.stop();
        assert_eq!(journal.count("error"), 1, "{:?}", journal.lines());
    }

    #[test]
    fn a_program_waits_for_descriptors_when_there_are_none() {
        let test = "blocking::programs::a_program_waits_for_descriptors_when_there_are_none";
        if !crate::common::is_apart(test, "ulimit -n 64") {
            return;
        }
        let (running, client) = datagrams(|_| shell("cat"));
        let stream = serve(mixed(|_| shell("cat"), &Journal::new()));
        let mut peer = stream.connect();
        assert_eq!(ask(&client, b"hello"), b"hello");
        peer.echo("hello");
        // One of them is left for the next connection.
        let mut taken: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
        taken.truncate(taken.len() - 2);
        let mut late = stream.connect();
        late.send("late");
        client.send(b"later").unwrap();
        running.wait_for_stats("it has a thread", |stats| stats.children_busy == 1);
        stream.wait_for_stats("both have a thread", |stats| stats.children_busy == 2);
        client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(client.recv(&mut [0; 10]).is_err(), "there is nothing to run it with");
        drop(taken);
        late.expect("late");
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = [0; 10];
        assert_eq!(client.recv(&mut answer).unwrap(), 5);
        // Nor do those that wait hold what the others wait for.
        (0..100).for_each(|number| assert_eq!(client.send(&[number]).unwrap(), 1));
        let mut answers: Vec<_> = (0..100)
            .map(|_| {
                client.recv(&mut answer).unwrap();
                answer[0]
            })
            .collect();
        answers.sort();
        assert!(answers.into_iter().eq(0..100));
        running.stop();
        peer.half_close();
        late.half_close();
        stream.stop();
    }

    /// As the standard library gives them: what we were started with, but for SIGPIPE, which Rust ignores for itself.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_program_has_the_signals_that_we_were_started_with() {
        let (running, client) = datagrams(|_| shell("grep -E '^Sig(Blk|Ign)' /proc/self/status"));
        let signals = |text: &str| {
            let word = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap();
            // Above 31 are those of the C library.
            ["SigBlk:", "SigIgn:"].map(|name| u64::from_str_radix(word(name), 16).unwrap() & 0x7fff_ffff)
        };
        let [ours, ignored] = signals(&std::fs::read_to_string("/proc/thread-self/status").unwrap());
        let sigpipe = 1 << (13 - 1);
        assert_eq!(ignored & sigpipe, sigpipe);
        let reply = String::from_utf8(ask(&client, b"")).unwrap();
        assert_eq!(signals(&reply), [ours, ignored & !sigpipe]);
        running.stop();
    }

    #[test]
    fn descriptors_and_processes_are_given_back() {
        let open = || std::fs::read_dir("/proc/self/fd").map(|entries| entries.count()).unwrap_or(0);
        let journal = Journal::new();
        let running = serve(mixed(|_| shell("read line; echo $line"), &journal));
        let talk = |times: usize| {
            for _ in 0..times {
                let mut client = running.connect();
                client.send("hello\n");
                assert_eq!(client.rest(), b"hello\n");
            }
        };
        talk(2);
        journal.wait_for("closed done", 2);
        let before = open();
        talk(50);
        journal.wait_for("closed done", 52);
        // Other tests run in this process as well: theirs come and go, and what leaks is at least one for each client.
        running.wait_for_stats("descriptors are given back", |stats| stats.active == 0 && open() < before + 50);
        running.stop();
    }
}

#[test]
fn a_client_that_resets_is_no_error_of_its_thread() {
    let (journal, (began, begun)) = (Journal::new(), channel());
    let process = move |_: &Address| {
        let began = began.clone();
        ServeOn::thread(StreamRequestHandler::new(move |request| {
            let mut asked = [0];
            request.rfile.read_exact(&mut asked)?;
            if &asked == b"e" {
                return Err(std::io::Error::other("the disk is full").into());
            }
            began.send(()).unwrap();
            request.rfile.read_exact(&mut asked)?;
            Ok(())
        }))
    };
    let running = serve(mixed(process, &journal));
    let mut client = running.connect();
    client.send("x");
    begun.recv_timeout(PATIENCE).unwrap();
    client.reset();
    journal.wait("closed reset");
    let stats = running.stats();
    assert_eq!((stats.resets, stats.handler_errors, journal.count("error")), (1, 0, 0), "{:?}", journal.lines());
    let mut client = running.connect();
    client.send("e");
    journal.wait("closed handler error");
    drop(client);
    let stats = running.stop();
    assert_eq!((stats.resets, stats.handler_errors), (1, 1));
    assert_eq!(journal.count("error the disk is full"), 1, "{:?}", journal.lines());
}

#[test]
fn close_leaves_threads_their_input_for_half_of_the_grace() {
    let (journal, (waits, waiting)) = (Journal::new(), channel());
    let process = move |_: &Address| {
        let waits = waits.clone();
        ServeOn::thread(StreamRequestHandler::new(move |request| {
            // Answered by turns that server_close takes.
            for _ in 0..3 {
                request.server(|_: &mut Mixed| ())?;
            }
            waits.send(()).unwrap();
            let mut line = String::new();
            request.rfile.read_line(&mut line)?;
            request.wfile.write_all(line.to_uppercase().as_bytes())?;
            Ok(())
        }))
    };
    let mut server = mixed(process, &journal);
    let mut client = Peer::connect(server.server_address());
    server.handle_request().unwrap();
    let thread = std::thread::spawn(move || {
        waiting.recv_timeout(PATIENCE).unwrap();
        client.send("in time\n");
        client.rest()
    });
    server.server_close();
    assert_eq!(thread.join().unwrap(), b"IN TIME\n");
    assert_eq!(journal.count("closed done"), 1);
}

#[test]
fn requests_on_threads_are_among_the_connections_and_have_an_address() {
    let (journal, mut first) = (Journal::new(), true);
    let state = Mixed {
        process: Box::new(move |_| if std::mem::take(&mut first) { upper() } else { ServeOn::Reactor }),
        journal: journal.clone(),
        asked: 0,
    };
    let handler = |_: &mut Mixed, _: &Address| {
        probe(|call, request: &mut Request<'_, Mixed>| {
            if let Call::Handle = call {
                for id in request.others.connections() {
                    let address = request.others.client_address(id).expect("it is there");
                    writeln!(request.output, "{address}")?;
                }
                request.input.take_all();
                return Ok(Next::Close);
            }
            usual(&call, request)
        })
    };
    let running = serve(TcpServer::with_server("127.0.0.1:0", state, handler).unwrap());
    let mut threaded = running.connect();
    threaded.send("x\n");
    threaded.expect("X\n");
    let mut here = running.connect();
    here.send("who is there?");
    assert_eq!(here.rest(), format!("127.0.0.1:{}\n", threaded.port()).as_bytes());
    drop((threaded, here));
    running.stop();
}
