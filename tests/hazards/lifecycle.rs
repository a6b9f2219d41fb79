//! The life of servers and reactors: what is closed, moved, dropped or given other settings while something goes on.
//! `tests/lifecycle` does the same in random order.

use std::io::{self, Write};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socketserver::family::Udp;
use socketserver::testing::{Client, Network};
use socketserver::{
    Address, BaseServer, ConnectionId, Delivery, EndReason, Error, Incoming, Limits, Listener, Message, Next,
    NoHandler, Others, Reactor, ReactorConfig, Request, RequestHandler, Result, ServeOn, Server, ServerId, Socket,
    Stream, StreamRequestHandler, TcpServer, ThreadingTcpServer,
};

use crate::common::loopback::loopback;
use crate::common::{
    Call, Journal, Mailbox, PATIENCE, Peer, address_of, echo, echoing, is_alone, is_apart, limit, probe, server, usual,
};

/// A server whose threads stay until they are released, and what tells that one has begun.
fn holding() -> (TcpServer<(), NoHandler>, Receiver<()>, Sender<()>) {
    let (begun, began) = channel();
    let (release, released) = channel::<()>();
    let released = Arc::new(std::sync::Mutex::new(released));
    let server = ThreadingTcpServer::new("127.0.0.1:0", move |_| {
        let (begun, released) = (begun.clone(), Arc::clone(&released));
        StreamRequestHandler::new(move |_| {
            begun.send(()).unwrap();
            let _ = released.lock().unwrap().recv_timeout(PATIENCE);
            Ok(())
        })
    });
    (server.unwrap(), began, release)
}

/// A reactor with such a server, one of whose threads is busy.
fn busy() -> (Reactor, ServerId, Peer, Sender<()>) {
    let (server, began, release) = holding();
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(server).unwrap();
    let client = Peer::connect(reactor.server_addresses(id)[0].clone());
    while began.try_recv().is_err() {
        reactor.poll(Some(Duration::from_millis(1))).unwrap();
    }
    (reactor, id, client, release)
}

fn tcp(journal: &Journal) -> TcpServer<(), impl RequestHandler> {
    let journal = journal.clone();
    server(move |_| {
        let journal = journal.clone();
        probe(move |call, request: &mut Request<'_>| {
            journal.note(&call);
            echo(&call, request)
        })
    })
}

#[test]
fn a_stop_that_comes_while_a_server_is_closed_is_not_lost() {
    for by_poll in [false, true] {
        let (mut reactor, id, _client, release) = busy();
        let other = reactor.add(echoing::<socketserver::family::Tcp>()).unwrap();
        let (stop, handle) = (reactor.shutdown_handle(), reactor.handle());
        stop.shutdown();
        // When this is run, the stop has begun, in the turns of `server_close`.
        handle.run(move |_| release.send(()).unwrap()).unwrap();
        reactor.server_close(id);
        match by_poll {
            false => reactor.serve_forever().unwrap(),
            true => while reactor.poll(None).unwrap() {},
        }
        assert_eq!(reactor.server_addresses(other), []);
        assert!(!stop.is_requested());
    }
}

#[test]
fn a_closure_cannot_run_the_loop_that_runs_it() {
    let mut reactor = Reactor::new().unwrap();
    let (tell, hear) = channel();
    for _ in 0..5_000 {
        let tell = tell.clone();
        let job = move |reactor: &mut Reactor| {
            tell.send((reactor.poll(Some(Duration::ZERO)).is_err(), reactor.serve_forever().is_err())).unwrap();
        };
        reactor.handle().run(job).unwrap();
    }
    reactor.handle().run(|reactor| reactor.shutdown_handle().shutdown()).unwrap();
    reactor.serve_forever().unwrap();
    assert!(hear.try_iter().all(|refused| refused == (true, true)));
    reactor.poll(Some(Duration::ZERO)).unwrap();
}

#[test]
fn closures_that_close_a_server_that_is_being_closed_return_at_once() {
    let (mut reactor, id, _client, release) = busy();
    let (stop, handle) = (reactor.shutdown_handle(), reactor.handle());
    for _ in 0..5_000 {
        handle.run(move |reactor| reactor.server_close(id)).unwrap();
    }
    handle.run(move |_| release.send(()).unwrap()).unwrap();
    stop.shutdown();
    reactor.serve_forever().unwrap();
    assert!(reactor.server_mut::<()>(id).is_none());
}

#[derive(Clone)]
struct Told {
    journal: Journal,
    far: std::net::SocketAddr,
    /// Calls out in its next `service_actions`.
    calls: Arc<AtomicU32>,
}

impl BaseServer for Told {
    fn service_actions(&mut self, others: &mut Others<'_, Self>) {
        if self.calls.swap(0, Ordering::SeqCst) > 0 {
            let handler = probe(|call, request: &mut Request<'_, Told>| {
                request.server.journal.note(&call);
                Ok(Next::Wait)
            });
            self.journal.note(format!("connects: {}", others.connect(self.far, handler).is_ok()));
        }
    }
    fn message(&mut self, _: &mut Others<'_, Self>, _: Message) {
        self.journal.note("message");
    }
    fn timer(&mut self, _: &mut Others<'_, Self>, tag: u64) {
        self.journal.note(format!("timer {tag}"));
    }
    fn server_close(&mut self) {
        self.journal.note("server_close");
    }
}

fn told(journal: &Journal, calls: &Arc<AtomicU32>) -> TcpServer<Told, NoHandler> {
    let (journal, calls) = (journal.clone(), Arc::clone(calls));
    let far = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
    TcpServer::with_server("127.0.0.1:0", Told { journal, far, calls }, |_, _| NoHandler).unwrap()
}

#[test]
fn nothing_begins_while_a_reactor_is_dropped() {
    let (mut reactor, _, _client, release) = busy();
    let (journal, calls) = (Journal::new(), Arc::new(AtomicU32::new(0)));
    reactor.add(told(&journal, &calls)).unwrap();
    let late = Journal::new();
    let (late_server, note) = (told(&late, &Arc::default()), journal.clone());
    calls.store(1, Ordering::SeqCst);
    let handle = reactor.handle();
    let again = handle.clone();
    handle
        .run(move |reactor| {
            note.note(format!("added: {:?}", reactor.add(late_server).map_err(|error| error.to_string())));
            // In a later turn, so that the hook has had its chance.
            again.run(move |_| release.send(()).unwrap()).unwrap();
        })
        .unwrap();
    drop(reactor);
    assert_eq!(journal.count("added: Err"), 1, "{:?}", journal.lines());
    assert_eq!((journal.count("connects: true"), journal.count("server_close")), (0, 1), "{:?}", journal.lines());
    assert_eq!(late.lines(), ["server_close"]);
}

fn until(mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "it does not come to that");
    }
}

fn poll_until(reactor: &mut Reactor, mut holds: impl FnMut() -> bool) {
    until(|| {
        reactor.poll(Some(Duration::from_millis(1))).unwrap();
        holds()
    });
}

/// Serves on another thread while `act` is at it.
fn while_serving<R>(mut reactor: Reactor, act: impl FnOnce() -> R) -> R {
    let stop = reactor.shutdown_handle();
    let thread = std::thread::spawn(move || reactor.serve_forever());
    let result = act();
    stop.shutdown();
    thread.join().unwrap().unwrap();
    result
}

#[test]
fn a_server_that_has_served_brings_its_socket_and_the_clients_that_wait() {
    let mut server = echoing::<socketserver::family::Tcp>();
    server.timeout = Some(Duration::ZERO);
    server.handle_request().unwrap();
    let mut waiting = Peer::connect(address_of(&server));
    waiting.send("in the backlog");
    let mut reactor = Reactor::new().unwrap();
    reactor.add(server).unwrap();
    while_serving(reactor, || waiting.expect("in the backlog"));
}

#[test]
fn a_server_that_was_stopped_is_added_at_its_addresses() {
    if !is_alone() {
        return;
    }
    let mut server = echoing::<socketserver::family::Tcp>();
    let address = address_of(&server);
    server.shutdown_handle().shutdown();
    server.serve_forever().unwrap();
    let mut reactor = Reactor::new().unwrap();
    reactor.add(server).unwrap();
    while_serving(reactor, || Peer::connect(address).echo("at the same place"));
}

#[test]
fn open_connections_of_a_server_end_when_it_is_added() {
    let journal = Journal::new();
    let note = journal.clone();
    let mut sessions: Server<Udp, _, _> = server(move |_| {
        let note = note.clone();
        probe(move |call, request: &mut Request<'_>| {
            note.note(&call);
            echo(&call, request)
        })
    });
    limit(&mut sessions, |limits| limits.sessions_max = Some(10));
    let client = Mailbox::to(address_of(&sessions));
    client.send("hello");
    sessions.handle_request().unwrap();
    client.expect("hello");
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(sessions).unwrap();
    assert_eq!(journal.count("finish"), 1, "{:?}", journal.lines());
    assert_eq!(reactor.server_addresses(id).len(), 1);
    while_serving(reactor, || client.echo("another session"));
    assert_eq!((journal.count("setup"), journal.count("finish")), (2, 2));
}

#[test]
fn a_server_with_a_busy_thread_is_added_when_that_is_done() {
    let (mut server, began, release) = holding();
    let address = server.server_address();
    let _client = Peer::connect(address);
    server.handle_request().unwrap();
    began.recv_timeout(PATIENCE).unwrap();
    let handle = server.handle();
    handle.run(move |_| release.send(()).unwrap()).unwrap();
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(server).unwrap();
    assert_eq!(reactor.server_addresses(id), [address.into()]);
}

/// Gives the server's own reactor a second server, with a thread that is busy until the next turn. Returns its client.
fn add_busy_neighbour<S: BaseServer, H: RequestHandler<S>>(server: &mut TcpServer<S, H>) -> Peer {
    let (neighbour, began, release) = holding();
    let client = Peer::connect(address_of(&neighbour));
    server.handle().run(move |reactor| _ = reactor.add(neighbour).unwrap()).unwrap();
    server.timeout = Some(Duration::ZERO);
    until(|| {
        server.handle_request().unwrap();
        began.try_recv().is_ok()
    });
    server.handle().run(move |_| release.send(()).unwrap()).unwrap();
    client
}

#[test]
fn the_threads_of_a_neighbour_do_not_hold_up_a_server_that_is_added() {
    let mut server = echoing::<socketserver::family::Tcp>();
    let _client = add_busy_neighbour(&mut server);
    Reactor::new().unwrap().add(server).unwrap();
}

/// A neighbour with a busy thread makes turns necessary while the server leaves its reactor.
#[test]
fn a_server_that_is_closed_has_no_hooks_while_it_is_made_unbound() {
    let (journal, calls) = (Journal::new(), Arc::new(AtomicU32::new(0)));
    let mut server = told(&journal, &calls);
    let _client = add_busy_neighbour(&mut server);
    server.server_close();
    calls.store(1, Ordering::SeqCst);
    drop(server.into_unbound());
    assert_eq!(journal.lines(), ["server_close"]);
}

/// A second request to stop ends the wait for its thread, while its stopped neighbour is closed.
#[test]
fn a_server_that_is_being_closed_may_go_while_those_that_a_stop_left_are_closed() {
    let (neighbour, began, release) = holding();
    let address = address_of(&neighbour);
    let mut config = ReactorConfig::default();
    config.drain_grace = Duration::from_millis(10);
    let mut reactor = Reactor::with_config(config).unwrap();
    reactor.add(echoing::<socketserver::family::Tcp>()).unwrap();
    let neighbour = reactor.add(neighbour).unwrap();
    let _client = Peer::connect(address);
    poll_until(&mut reactor, || began.try_recv().is_ok());
    let stop = reactor.shutdown_handle();
    reactor.handle().run(move |reactor| reactor.server_close(neighbour)).unwrap();
    stop.shutdown();
    reactor.serve_forever().unwrap();
    stop.shutdown();
    reactor.add(echoing::<socketserver::family::Tcp>()).unwrap();
    drop(release);
}

/// The last look at the sockets of datagrams comes after the dead of the turn were freed, and serves the client as well.
#[test]
fn a_client_of_a_server_that_is_added_during_a_stop_may_come_and_go_in_its_last_moment() {
    let late = TcpServer::new("127.0.0.1:0", |_| NoHandler).unwrap();
    let mut client = Peer::connect(address_of(&late));
    let mut config = ReactorConfig::default();
    (config.drain_quiet, config.drain_grace) = (PATIENCE, PATIENCE);
    let mut reactor = Reactor::with_config(config).unwrap();
    reactor.add(echoing::<Udp>()).unwrap();
    let server = echoing::<socketserver::family::Tcp>();
    let _keeping = Peer::connect(address_of(&server));
    let keeping = reactor.add(server).unwrap();
    until(|| reactor.poll(Some(Duration::from_millis(1))).unwrap() && reactor.stats().active == 1);
    reactor.shutdown_handle().shutdown();
    assert!(reactor.poll(Some(Duration::ZERO)).unwrap(), "the stop waits for a connection");
    reactor
        .handle()
        .run(move |reactor| {
            reactor.server_close(keeping);
            reactor.add(late).unwrap();
        })
        .unwrap();
    reactor.serve_forever().unwrap();
    client.expect_eof();
    assert_eq!(reactor.stats().closed, 2);
}

#[test]
fn work_given_to_a_server_before_it_is_added_comes_with_it() {
    let journal = Journal::new();
    let mut server = told(&journal, &Arc::default());
    server.set_timer(7, Duration::ZERO);
    let (handle, stop, note) = (server.handle(), server.shutdown_handle(), journal.clone());
    handle.send_to_server(server.id(), ()).unwrap();
    handle.run(move |_| note.note("closure")).unwrap();
    stop.shutdown();
    let mut reactor = Reactor::new().unwrap();
    reactor.add(server).unwrap();
    reactor.serve_forever().unwrap();
    assert_eq!(journal.lines(), ["message", "closure", "timer 7"]);
}

/// It leads to the reactor of its server, whichever that is.
#[test]
fn a_handle_that_is_taken_early_works_wherever_its_server_goes() {
    let journal = Journal::new();
    let mut server = told(&journal, &Arc::default());
    server.timeout = Some(Duration::ZERO);
    let (handle, stop, id) = (server.handle(), server.shutdown_handle(), server.id());
    let ask = |journal: &Journal| {
        let note = journal.clone();
        handle.send_to_server(id, ()).unwrap();
        handle.run(move |_| note.note("closure")).unwrap();
    };
    ask(&journal);
    server.handle_request().unwrap(); // It has a reactor of its own.
    ask(&journal);
    server.handle_request().unwrap();
    ask(&journal);
    let mut reactor = Reactor::new().unwrap();
    assert_eq!(reactor.add(server).unwrap(), id);
    reactor.poll(Some(Duration::ZERO)).unwrap();
    ask(&journal);
    reactor.poll(Some(Duration::ZERO)).unwrap();
    assert_eq!(journal.lines(), ["message", "closure"].repeat(4));
    stop.shutdown();
    assert!(stop.is_requested());
    reactor.serve_forever().unwrap();
    assert!(!stop.is_requested());
    drop(reactor);
    assert!(matches!(handle.run(|_| ()), Err(Error::Gone)));
}

#[test]
#[cfg(target_os = "linux")]
fn a_server_opens_nothing_but_its_sockets_before_it_serves() {
    // Other tests open descriptors as well.
    if !is_apart("lifecycle::a_server_opens_nothing_but_its_sockets_before_it_serves", "") {
        return;
    }
    let opened = || {
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
        let links = descriptors.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        links.filter(|link| link.to_string_lossy().starts_with("anon_inode:")).count()
    };
    let before = opened();
    let mut server = echoing::<socketserver::family::Tcp>();
    (server.timeout, _) = (Some(Duration::ZERO), (server.handle(), server.shutdown_handle()));
    server.set_timer(1, Duration::ZERO);
    server.set_limits(Limits::default()).unwrap();
    assert_eq!(opened(), before);
    server.handle_request().unwrap();
    assert!(opened() > before);
}

/// Replaces itself in its `setup` by the next of its kind, down to the last.
struct Chain(u32, Journal);

impl RequestHandler for Chain {
    fn setup(&mut self, request: &mut Request<'_>) -> Result<Next> {
        if let Some(next) = self.0.checked_sub(1) {
            request.replace_handler(Chain(next, self.1.clone()));
        }
        Ok(Next::Wait)
    }
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        let text = String::from_utf8_lossy(request.input.take_all()).into_owned();
        self.1.note(format!("{} handles {text}", self.0));
        request.replace_handler(Chain(3, self.1.clone()));
        Ok(Next::Wait)
    }
    fn message(&mut self, request: &mut Request<'_>, message: Message) -> Result<Next> {
        self.1.note(format!("{} has message {}", self.0, message.downcast::<u32>().unwrap()));
        request.replace_handler(Chain(3, self.1.clone()));
        Ok(Next::Wait)
    }
    fn finish(&mut self, _: &mut Request<'_>, why: EndReason) {
        self.1.note(format!("{} finish {why}", self.0));
    }
}

#[test]
fn a_chain_of_successors_loses_no_message() {
    let journal = Journal::new();
    let mut client = Client::new(Chain(0, journal.clone()));
    let id = client.id().unwrap();
    (1..=3u32).for_each(|n| client.handle().send(id, n).unwrap());
    client.run();
    assert_eq!(journal.lines(), ["0 has message 1", "0 has message 2", "0 has message 3"]);
    assert_eq!(client.stats().messages_dropped, 0);
}

#[test]
fn a_chain_of_successors_loses_no_datagram() {
    let journal = Journal::new();
    let (note, mut limits) = (journal.clone(), Limits::default());
    limits.sessions_max = Some(10);
    limits.callbacks_per_turn = 1;
    let mut server: Server<Udp, _, _> = server(move |_| Chain(0, note.clone()));
    server.set_limits(limits).unwrap();
    let client = Mailbox::to(address_of(&server));
    ["one", "two", "three"].into_iter().for_each(|packet| client.send(packet));
    (0..3).for_each(|_| server.handle_request().unwrap());
    assert_eq!(journal.lines(), ["0 handles one", "0 handles two", "0 handles three"]);
}

#[test]
fn a_chain_of_successors_hears_of_a_job_that_panicked() {
    struct First(Journal);
    impl RequestHandler for First {
        fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
            request.input.take_all();
            request.offload(|| resume_unwind(Box::new("scripted")) as ())?;
            request.replace_handler(Chain(3, self.0.clone()));
            Ok(Next::Wait)
        }
    }
    let journal = Journal::new();
    let mut client = Client::new(First(journal.clone()));
    client.feed(b"go");
    until(|| {
        client.run();
        journal.lines() == ["0 finish panicked"]
    });
}

#[test]
fn a_chain_of_successors_without_end_ends_its_connection() {
    struct Endless;
    impl RequestHandler for Endless {
        fn setup(&mut self, request: &mut Request<'_>) -> Result<Next> {
            request.replace_handler(Endless);
            Ok(Next::Wait)
        }
        fn handle(&mut self, _: &mut Request<'_>) -> Result<Next> {
            Ok(Next::Wait)
        }
    }
    let mut client = Client::new(probe(|call, request: &mut Request<'_>| {
        if let Call::Message(_) = call {
            request.replace_handler(Endless);
        }
        Ok(Next::Wait)
    }));
    let id = client.id().unwrap();
    (1..=2u32).for_each(|n| client.handle().send(id, n).unwrap());
    client.run();
    assert!(client.is_closed());
}

#[test]
fn changed_limits_apply_to_open_connections() {
    let journal = Journal::new();
    let note = journal.clone();
    let mut server: Server<Udp, _, _> = server(move |_| {
        let note = note.clone();
        probe(move |call, request: &mut Request<'_>| {
            note.note(&call);
            usual(&call, request)
        })
    });
    limit(&mut server, |limits| limits.sessions_max = Some(10));
    let client = Mailbox::to(address_of(&server));
    client.send("hello");
    server.handle_request().unwrap();
    limit(&mut server, |limits| limits.idle_timeout = Some(Duration::from_millis(1)));
    server.timeout = Some(Duration::from_millis(1));
    while journal.count("finish") == 0 {
        server.handle_request().unwrap();
    }
    assert_eq!(journal.count("finish idle timeout"), 1, "{:?}", journal.lines());
}

#[test]
fn output_beyond_a_limit_that_was_lowered_ends_the_connection() {
    let journal = Journal::new();
    let note = journal.clone();
    let server: Server<socketserver::family::Tcp, _, _> = server(move |_| {
        let note = note.clone();
        probe(move |call, request: &mut Request<'_>| {
            note.note(&call);
            if let Call::Handle = call {
                request.input.take_all();
                request.output.write_all(&vec![1; 12 << 20])?;
            }
            Ok(Next::Wait)
        })
    });
    let mut client = Peer::connect(address_of(&server));
    client.send("x");
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(server).unwrap();
    poll_until(&mut reactor, || journal.count("handle") > 0);
    let mut limits = Limits::default();
    limits.output_bytes_max = 1_000;
    reactor.set_limits(id, limits).unwrap();
    poll_until(&mut reactor, || journal.count("finish") > 0);
    assert_eq!(journal.count("finish output limit"), 1, "{:?}", journal.lines());
}

#[test]
fn a_server_that_may_have_no_connection_waits_until_it_may() {
    let mut server = echoing::<socketserver::family::Tcp>();
    let mut client = Peer::connect(address_of(&server));
    client.send("patience");
    client.half_close();
    limit(&mut server, |limits| limits.connections_max = Some(0));
    server.timeout = Some(Duration::from_millis(1));
    server.handle_request().unwrap();
    assert_eq!(server.stats().accepted, 0);
    limit(&mut server, |limits| limits.connections_max = Some(1));
    server.timeout = Some(PATIENCE);
    server.handle_request().unwrap();
    client.expect("patience");
}

#[test]
fn a_cap_for_each_client_counts_those_that_are_there() {
    let journal = Journal::new();
    let server = tcp(&journal);
    let address = address_of(&server);
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(server).unwrap();
    let mut first = Peer::connect(address);
    first.send("one");
    poll_until(&mut reactor, || journal.count("handle") > 0);
    let mut limits = Limits::default();
    limits.connections_per_client_max = Some(1);
    reactor.set_limits(id, limits).unwrap();
    let mut second = Peer::connect(address);
    second.send("two");
    let stop = reactor.shutdown_handle();
    until(|| {
        reactor.poll(Some(Duration::from_millis(1))).unwrap();
        reactor.stats().refused == 1
    });
    stop.shutdown();
}

#[test]
fn settings_that_are_changed_hold_for_a_stop_that_is_under_way() {
    let mut server = echoing::<socketserver::family::Tcp>();
    let mut config = server.config().clone();
    (config.drain_quiet, config.drain_grace) = (PATIENCE * 10, PATIENCE * 10);
    server.set_config(config.clone());
    let (address, stop, handle) = (address_of(&server), server.shutdown_handle(), server.handle());
    let (done, wait) = channel();
    std::thread::spawn(move || done.send(server.serve_forever()).unwrap());
    let mut client = Peer::connect(address);
    client.echo("busy");
    stop.shutdown();
    (config.drain_quiet, config.drain_grace) = (Duration::ZERO, PATIENCE / 2);
    handle.run(move |reactor| reactor.set_config(config)).unwrap();
    wait.recv_timeout(PATIENCE * 2).unwrap().unwrap();
}

/// Panics when it is dropped, and counts that.
struct Bomb(Arc<AtomicU32>);

impl Drop for Bomb {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
        resume_unwind(Box::new("scripted"));
    }
}

impl BaseServer for Bomb {}

#[test]
fn values_of_a_server_may_panic_when_they_are_dropped() {
    let count = Arc::new(AtomicU32::new(0));
    let bomb = || Bomb(Arc::clone(&count));
    let armed = || {
        let captured = bomb();
        let make = move |_: &mut Bomb, _: &Address| {
            let _ = &captured;
            NoHandler
        };
        TcpServer::with_server("127.0.0.1:0", bomb(), make).unwrap()
    };
    drop(armed());
    assert_eq!(count.swap(0, Ordering::SeqCst), 2, "alone");
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(armed()).unwrap();
    reactor.add(armed()).unwrap();
    reactor.server_close(id);
    assert_eq!((count.load(Ordering::SeqCst), reactor.stats().panics), (2, 2), "closed");
    reactor.handle().send_to_server(id, bomb()).unwrap();
    drop(reactor);
    assert_eq!(count.swap(0, Ordering::SeqCst), 5, "with its reactor");
    let mut closed = armed();
    closed.server_close();
    let mut reactor = Reactor::new().unwrap();
    reactor.add(closed).unwrap();
    drop(reactor);
    assert_eq!(count.swap(0, Ordering::SeqCst), 2, "closed, and added");
    let unbound = armed().into_unbound();
    assert!(matches!(unbound.server_activate(), Err(Error::NotBound)));
    assert_eq!(count.load(Ordering::SeqCst), 2, "not activated");
}

#[test]
fn an_error_of_get_request_may_panic_when_it_is_shown_or_dropped() {
    #[derive(Debug)]
    struct Loud(Droppy);
    #[derive(Debug)]
    struct Droppy;
    impl Drop for Droppy {
        fn drop(&mut self) {
            resume_unwind(Box::new("scripted"));
        }
    }
    impl std::fmt::Display for Loud {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            resume_unwind(Box::new("scripted"))
        }
    }
    impl std::error::Error for Loud {}
    struct Failing;
    impl BaseServer for Failing {
        fn get_request(&mut self, listener: &mut Listener) -> io::Result<(Stream, Address)> {
            listener.accept()?;
            Err(io::Error::other(Loud(Droppy)))
        }
    }
    let mut server = TcpServer::with_server("127.0.0.1:0", Failing, |_, _| NoHandler).unwrap();
    let _client = Peer::connect(address_of(&server));
    server.timeout = Some(Duration::from_millis(1));
    server.handle_request().unwrap();
    server.handle_request().unwrap();
}

#[test]
fn a_panic_in_server_bind_is_an_error_and_the_address_is_kept() {
    if !is_alone() {
        return;
    }
    struct Fragile(u32);
    impl BaseServer for Fragile {
        fn server_bind(&mut self, socket: &Socket, address: &Address) -> io::Result<()> {
            self.0 += 1;
            if self.0 == 2 {
                resume_unwind(Box::new("scripted"));
            }
            socket.bind(address)
        }
    }
    let mut server = TcpServer::with_server("127.0.0.1:0", Fragile(0), |_, _| NoHandler).unwrap();
    let addresses = server.server_addresses();
    let stop = server.shutdown_handle();
    stop.shutdown();
    server.serve_forever().unwrap();
    stop.shutdown();
    assert!(matches!(server.serve_forever(), Err(Error::Panicked { .. })));
    assert_eq!(server.server_addresses(), addresses);
    server.serve_forever().unwrap();
}

#[test]
fn handle_request_returns_when_its_server_is_closed() {
    let mut server = echoing::<socketserver::family::Tcp>();
    let (id, address) = (server.id(), address_of(&server));
    server.handle().run(move |reactor| reactor.server_close(id)).unwrap();
    server.handle_request().unwrap();
    Peer::wait_for_refusal(address);
}

#[test]
fn a_loop_of_handle_request_sees_a_stop() {
    if !is_alone() {
        return;
    }
    let mut server = echoing::<socketserver::family::Tcp>();
    let stop = server.shutdown_handle();
    let asked = stop.clone();
    server.handle().run(move |_| asked.shutdown()).unwrap();
    while !stop.is_requested() {
        server.handle_request().unwrap();
    }
    server.handle_request().unwrap(); // Still stopped.
    server.serve_forever().unwrap(); // Says so; then it is over.
    assert!(!stop.is_requested());
    server.timeout = Some(Duration::ZERO);
    server.handle_request().unwrap();
    Peer::connect(address_of(&server));
}

#[test]
fn a_server_with_another_reactor_says_that_its_own_is_gone() {
    let mut server = echoing::<socketserver::family::Tcp>();
    server.timeout = Some(Duration::ZERO);
    let mut other = Reactor::new().unwrap();
    server.handle().run(move |reactor| std::mem::swap(reactor, &mut other)).unwrap();
    server.handle_request().unwrap();
    assert!(matches!(server.handle_request(), Err(Error::Gone)));
    assert!(matches!(server.serve_forever(), Err(Error::Gone)));
    assert!(matches!(server.set_limits(Limits::default()), Err(Error::Gone)));
    assert!(matches!(server.handle().run(|_| ()), Err(Error::Gone)));
    server.server_close();
    assert!(matches!(Reactor::new().unwrap().add(server), Err(Error::Gone)));
}

#[test]
fn a_server_that_is_closed_has_no_hooks() {
    let (journal, calls) = (Journal::new(), Arc::new(AtomicU32::new(0)));
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(told(&journal, &calls)).unwrap();
    reactor.server_close(id);
    calls.store(1, Ordering::SeqCst);
    reactor.set_timer(id, 1, Duration::ZERO);
    reactor.handle().send_to_server(id, ()).unwrap();
    (0..3).for_each(|_| assert!(reactor.poll(Some(Duration::from_millis(1))).unwrap()));
    assert_eq!(reactor.stats().messages_dropped, 1);
    assert_eq!(journal.lines(), ["server_close"]);
    let mut own = told(&journal, &calls);
    own.server_close();
    own.set_timer(1, Duration::ZERO);
    own.server_close();
    drop(own);
    assert_eq!(journal.lines(), ["server_close", "server_close"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_handle_keeps_no_descriptor_of_a_reactor_that_is_gone() {
    use std::os::fd::AsRawFd;
    let reactor = Reactor::new().unwrap();
    let epoll = reactor.as_raw_fd();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{epoll}")).unwrap();
    let waker = info.lines().find_map(|line| line.strip_prefix("tfd:")).unwrap();
    let waker = waker.split_whitespace().next().unwrap();
    let path = format!("/proc/self/fd/{waker}");
    assert!(std::fs::read_link(&path).unwrap().to_string_lossy().contains("eventfd"));
    let identity = std::fs::read_to_string(format!("/proc/self/fdinfo/{waker}")).unwrap();
    let handle = reactor.handle();
    drop(reactor);
    // Its number may be another's by now, with another eventfd at most.
    let same = std::fs::read_to_string(format!("/proc/self/fdinfo/{waker}")).is_ok_and(|info| info == identity);
    assert!(!same, "{identity}");
    assert!(matches!(handle.run(|_| ()), Err(Error::Gone)));
}

#[test]
fn a_request_on_a_thread_is_listed_and_takes_nothing_from_others() {
    struct Threads(Sender<(Delivery, usize)>, Arc<std::sync::Mutex<Receiver<()>>>);
    impl BaseServer for Threads {
        fn process_request(&mut self, _: &Incoming<'_>, _: &Address) -> ServeOn<Self> {
            let released = Arc::clone(&self.1);
            ServeOn::thread(StreamRequestHandler::new(move |_| {
                let _ = released.lock().unwrap().recv_timeout(PATIENCE);
                Ok(())
            }))
        }
        fn service_actions(&mut self, others: &mut Others<'_, Self>) {
            if let Some(&id) = others.connections().first() {
                let sent = (others.send(id, b"x"), others.connections().len());
                others.handle().send(id, ()).unwrap();
                let _ = self.0.send(sent);
            }
        }
    }
    let ((tell, hear), (release, released)) = (channel(), channel());
    let value = Threads(tell, Arc::new(std::sync::Mutex::new(released)));
    let mut server = TcpServer::with_server((loopback(), 0), value, |_, _| NoHandler).unwrap();
    let _client = Peer::connect(address_of(&server));
    server.handle_request().unwrap();
    server.timeout = Some(Duration::ZERO);
    until(|| {
        server.handle_request().unwrap();
        hear.try_recv() == Ok((Delivery::Refused, 1))
    });
    server.handle_request().unwrap();
    assert!(server.stats().messages_dropped > 0);
    drop(release);
}

#[test]
fn the_place_of_a_server_that_is_closed_is_given_out_again() {
    struct Value(Arc<()>);
    impl BaseServer for Value {}
    let (kept, mut ids) = (Arc::new(()), std::collections::HashSet::new());
    let mut reactor = Reactor::new().unwrap();
    for round in 0..600 {
        let (value, captured) = (Value(Arc::clone(&kept)), Arc::clone(&kept));
        let make = move |value: &mut Value, _: &Address| {
            let _ = (&captured, &value.0);
            NoHandler
        };
        let id = reactor.add(TcpServer::with_server("127.0.0.1:0", value, make).unwrap()).unwrap();
        assert!(ids.insert(id), "an id is another's");
        if round % 2 == 0 {
            reactor.server_close(id);
            assert_eq!(Arc::strong_count(&kept), 1);
            assert!(reactor.server_mut::<Value>(id).is_none());
        } else {
            reactor.shutdown_handle().shutdown();
            reactor.serve_forever().unwrap();
            assert!(reactor.server_mut::<Value>(id).is_some(), "until it serves again");
        }
    }
    let full = |_| reactor.add(echoing::<socketserver::family::Tcp>()).err();
    assert!(matches!((0..300).find_map(full), Some(Error::Full { queue: "server", .. })));
}

#[test]
fn an_id_names_nothing_in_another_reactor() {
    let (tell, hear) = channel::<ConnectionId>();
    let make = || {
        let tell = tell.clone();
        probe(move |call, request: &mut Request<'_>| match call {
            Call::Setup => Ok(tell.send(request.id()).map(|()| Next::Wait).unwrap()),
            Call::Message(_) => Ok(Next::Close),
            _ => Ok(Next::Wait),
        })
    };
    let (first, mut second) = (Client::new(make()), Client::new(make()));
    let (a, b) = (hear.recv().unwrap(), hear.recv().unwrap());
    assert_ne!(a, b);
    assert!(matches!(second.handle().send(a, ()), Err(Error::Gone)));
    second.handle().send_to_server(first.server_id(), ()).unwrap();
    second.run();
    assert!(!second.is_closed());
    assert_eq!(second.stats().messages_dropped, 1);
    let mut network = Network::new();
    let make = move |_: &mut (), _: &Address| {
        probe(move |_, request: &mut Request<'_>| {
            assert_eq!(request.others.send(a, b"x"), Delivery::Gone);
            request.others.close(b);
            Ok(Next::Wait)
        })
    };
    let datagrams = network.serve_datagrams((), make, Limits::default()).unwrap();
    network.send_datagram(datagrams, &std::net::SocketAddr::from(([192, 0, 2, 7], 7)).into(), b"go");
    network.run();
    assert_eq!(network.stats().panics, 0);
    second.handle().send(b, ()).unwrap();
    second.run();
    assert!(second.is_closed());
}

/// What is left of a close is waited for before a server serves again, by turns that carry no stop out.
#[test]
fn a_stop_before_serve_forever_is_not_lost_while_an_earlier_close_is_waited_for() {
    if !is_alone() {
        return;
    }
    let (mut server, began, release) = holding();
    let mut config = ReactorConfig::default();
    config.drain_grace = Duration::ZERO;
    server.set_config(config);
    let _client = Peer::connect(server.server_addresses()[0].clone());
    let (id, handle, stop) = (server.id(), server.handle(), server.shutdown_handle());
    let first = stop.clone();
    std::thread::spawn(move || {
        began.recv_timeout(PATIENCE).unwrap();
        handle.run(move |reactor| reactor.server_close(id)).unwrap();
        first.shutdown();
    });
    server.serve_forever().unwrap();
    stop.shutdown();
    let (done, is_done) = channel();
    std::thread::spawn(move || done.send(server.serve_forever().is_ok()));
    assert!(is_done.recv_timeout(PATIENCE).expect("it is stopped"));
    drop(release);
}

/// The value of a server whose thread asks it something when it is released, and what tells of that.
struct Asked {
    begun: Sender<()>,
    released: Arc<Mutex<Receiver<()>>>,
    /// Whether the thread was told that the server is gone.
    told: Sender<bool>,
    reached: bool,
}

impl BaseServer for Asked {
    fn process_request(&mut self, _: &Incoming<'_>, _: &Address) -> ServeOn<Self> {
        let (begun, released, told) = (self.begun.clone(), Arc::clone(&self.released), self.told.clone());
        ServeOn::thread(StreamRequestHandler::new(move |request| {
            begun.send(()).unwrap();
            released.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            let asked = request.server(|value: &mut Asked| value.reached = true);
            told.send(matches!(asked, Err(Error::Gone))).unwrap();
            Ok(())
        }))
    }
}

fn asked() -> (TcpServer<Asked, NoHandler>, Receiver<()>, Sender<()>, Receiver<bool>) {
    let ((begun, began), (release, released), (told, hears)) = (channel(), channel(), channel());
    let value = Asked { begun, released: Arc::new(Mutex::new(released)), told, reached: false };
    let mut server = TcpServer::with_server((loopback(), 0), value, |_, _| NoHandler).unwrap();
    limit(&mut server, |limits| limits.daemon_threads = true);
    (server, began, release, hears)
}

#[test]
fn a_thread_that_outlives_its_server_does_not_reach_the_value_of_it() {
    let (mut server, began, release, hears) = asked();
    let _client = Peer::connect(server.server_address());
    let (id, handle, stop) = (server.id(), server.handle(), server.shutdown_handle());
    let thread = std::thread::spawn(move || server.serve_forever().map(|()| server));
    began.recv_timeout(PATIENCE).unwrap();
    handle.run(move |reactor| reactor.server_close(id)).unwrap();
    handle.run(move |_| release.send(()).unwrap()).unwrap();
    assert!(hears.recv_timeout(PATIENCE).unwrap());
    stop.shutdown();
    let mut server = thread.join().unwrap().unwrap();
    assert!(!server.server_mut().reached);
}

/// What it has asked waits until the server serves again.
#[test]
fn a_thread_that_was_told_that_its_server_is_gone_does_not_reach_it_when_it_is_bound_again() {
    if !is_alone() {
        return;
    }
    let (mut server, began, release, hears) = asked();
    server.timeout = Some(Duration::ZERO);
    server.handle_request().unwrap();
    let _client = Peer::connect(server.server_address());
    while began.try_recv().is_err() {
        server.handle_request().unwrap();
    }
    server.server_close();
    release.send(()).unwrap();
    assert!(hears.recv_timeout(PATIENCE).unwrap());
    server.handle_request().unwrap();
    assert!(!server.server_mut().reached);
}

/// Its thread is waited for, and the hooks of the close come before those of the next start.
#[test]
fn a_server_that_is_bound_while_it_is_being_closed_is_closed_first() {
    if !is_alone() {
        return;
    }
    struct Value(Vec<&'static str>, Sender<()>, Arc<Mutex<Receiver<()>>>);
    impl BaseServer for Value {
        fn server_bind(&mut self, socket: &Socket, address: &Address) -> io::Result<()> {
            self.0.push("bind");
            socket.bind(address)
        }
        fn server_close(&mut self) {
            self.0.push("close");
        }
        fn process_request(&mut self, _: &Incoming<'_>, _: &Address) -> ServeOn<Self> {
            let (begun, released) = (self.1.clone(), Arc::clone(&self.2));
            ServeOn::thread(StreamRequestHandler::new(move |_| {
                begun.send(()).unwrap();
                let _ = released.lock().unwrap().recv_timeout(PATIENCE);
                Ok(())
            }))
        }
    }
    let (begun, began) = channel();
    let (release, released) = channel();
    let value = Value(Vec::new(), begun, Arc::new(Mutex::new(released)));
    let mut server = TcpServer::with_server((loopback(), 0), value, |_, _| NoHandler).unwrap();
    server.timeout = Some(Duration::ZERO);
    server.handle_request().unwrap();
    let _client = Peer::connect(server.server_addresses()[0].clone());
    while began.try_recv().is_err() {
        server.handle_request().unwrap();
    }
    let (id, handle) = (server.id(), server.handle());
    handle.run(move |reactor| reactor.server_close(id)).unwrap(); // A closure does not wait.
    server.handle_request().unwrap();
    release.send(()).unwrap();
    server.handle_request().unwrap();
    assert_eq!(server.server_mut().0, ["bind", "close", "bind"]);
}
