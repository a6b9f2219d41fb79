//! One server that drains while others serve, and one that serves while others drain.

use std::io::{BufRead, Read, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socketserver::testing::{Call as HowCalled, Network, Outcome};
use socketserver::{
    Address, BaseServer, EndReason, Inspection, Limits, Message, Next, Others, Reactor, ReactorConfig, Request,
    ServeOn, ServerId, ServerPhase, StreamRequestHandler, TcpServer, UdpServer,
};

use crate::common::{Call, Journal, Mailbox, PATIENCE, Peer, echo, probe, serve as serve_on_a_thread};

const GRACE: Duration = Duration::from_secs(20);
const MOMENT: Duration = Duration::from_secs(1);

fn network() -> Network {
    let mut config = ReactorConfig::default();
    config.drain_grace = GRACE;
    Network::with_config(config)
}

/// Notes what its hooks are told, and drains the server whose id it is sent.
struct Service(Journal);

impl BaseServer for Service {
    fn stopping(&mut self, _: &mut Others<'_, Self>) {
        self.0.note("stopping");
    }

    fn close_request(&mut self, _: &Address, why: EndReason) {
        self.0.note(format!("{why:?}"));
    }

    fn message(&mut self, others: &mut Others<'_, Self>, message: Message) {
        others.drain_server(message.downcast().unwrap());
    }

    fn server_close(&mut self) {
        self.0.note("closed");
    }
}

/// Sends back what comes. A client that sends `stay` is not willing to end, and one that sends `much` is sent more than it
/// takes.
fn handler() -> impl socketserver::RequestHandler<Service> {
    let mut stays = false;
    probe(move |call, request: &mut Request<'_, Service>| match call {
        Call::Handle if request.input.unread() == b"much" => {
            request.input.take_all();
            request.output.write_all(&[b'x'; 10_000])?;
            Ok(Next::Wait)
        }
        Call::Handle => {
            stays |= request.input.unread() == b"stay";
            echo(&call, request)
        }
        Call::Drain if stays => Ok(Next::Wait),
        call => echo(&call, request),
    })
}

fn serve(network: &mut Network, limits: Limits) -> (ServerId, Journal) {
    let journal = Journal::new();
    (network.serve(Service(journal.clone()), |_, _| handler(), limits).unwrap(), journal)
}

fn lasting() -> Limits {
    let mut limits = Limits::default();
    limits.serve_while_draining = true;
    limits
}

/// Runs a closure with the reactor, in its next turn.
fn run<T: Send + 'static>(network: &mut Network, act: impl FnOnce(&mut Reactor) -> T + Send + 'static) -> T {
    let (tell, hear) = channel();
    network.handle().run(move |reactor| drop(tell.send(act(reactor)))).unwrap();
    network.turn();
    hear.try_recv().expect("the next turn runs the closure")
}

fn phase(network: &mut Network, server: ServerId) -> Option<ServerPhase> {
    let inspection: Inspection = run(network, Reactor::inspect);
    inspection.servers.iter().find(|it| it.id == server).map(|it| it.phase)
}

#[test]
fn one_server_drains_and_the_others_serve() {
    let mut network = network();
    let ((old, journal), (new, _)) = (serve(&mut network, Limits::default()), serve(&mut network, Limits::default()));
    let (quiet, staying, other) = (network.connect(old), network.connect(old), network.connect(new));
    staying.send(b"stay");
    network.run_for(MOMENT);
    let late = network.connect(old); // It waits in the backlog when the drain begins.
    late.send(b"late");
    run(&mut network, move |reactor| reactor.drain_server(old));
    network.run_for(Duration::from_millis(400));
    assert_eq!(late.take_received(), b"late");
    assert!(quiet.is_closed() && !late.is_closed() && !staying.is_closed());
    network.run_for(Duration::from_millis(200));
    assert!(late.is_closed(), "it was quiet for drain_quiet");
    assert_eq!(phase(&mut network, old), Some(ServerPhase::Draining));
    assert_eq!(phase(&mut network, new), Some(ServerPhase::Serving));
    staying.take_received();
    for _ in 0..3 {
        network.run_for(Duration::from_secs(4));
        staying.send(b"still");
        other.send(b"served");
        network.run_for(MOMENT);
        assert_eq!((staying.take_received(), other.take_received()), (b"still".to_vec(), b"served".to_vec()));
    }
    assert_eq!(journal.count("closed"), 0);
    network.run_for(GRACE);
    assert!(staying.is_reset() && !other.is_closed());
    assert_eq!(phase(&mut network, old), None, "it is removed");
    assert_eq!(journal.lines(), ["Stopped", "Stopped", "StopAborted", "closed"]);
    assert!(!network.is_stopped());
}

#[test]
fn a_drained_server_is_closed_as_soon_as_its_last_client_has_gone() {
    let mut network = network();
    let (id, journal) = serve(&mut network, Limits::default());
    let staying = network.connect(id);
    staying.send(b"stay");
    network.run_for(MOMENT);
    network.handle().send_to_server(id, id).unwrap(); // From a hook.
    network.run_for(MOMENT);
    run(&mut network, move |reactor| reactor.drain_server(id)); // Once more changes nothing.
    network.run_for(Duration::from_secs(3));
    assert_eq!(journal.lines(), Vec::<String>::new());
    staying.send_eof();
    network.run();
    assert_eq!(journal.lines(), ["PeerClosed", "closed"]);
    assert!(staying.is_closed() && network.limits(id).is_none());
}

#[test]
fn a_client_of_the_backlog_is_told_of_the_drain() {
    let mut network = network();
    let handler = |_: &mut (), _: &Address| {
        probe(|call, request: &mut Request<'_>| match call {
            Call::Handle => {
                request.input.take_all();
                write!(request.output, "{}", request.is_stopping())?;
                Ok(Next::Wait)
            }
            call => echo(&call, request),
        })
    };
    let id = network.serve((), handler, Limits::default()).unwrap();
    network.run();
    network.handle().run(move |reactor| reactor.drain_server(id)).unwrap();
    let late = network.connect(id);
    late.send(b"late");
    network.run();
    assert_eq!(late.take_received(), b"true");
}

/// Its number is free, and another has a higher one.
#[test]
fn a_selector_without_room_does_not_end_a_reactor_that_a_server_has_left() {
    let mut network = network();
    let ((old, _), (new, _)) = (serve(&mut network, Limits::default()), serve(&mut network, Limits::default()));
    run(&mut network, move |reactor| reactor.drain_server(old));
    network.run();
    assert!(network.limits(old).is_none());
    let mut refused = false;
    network.on_call(move |call, _| match call {
        HowCalled::Register if !std::mem::replace(&mut refused, true) => {
            Outcome::Fail(std::io::ErrorKind::OutOfMemory.into())
        }
        _ => Outcome::Proceed,
    });
    let (first, second) = (network.connect(new), network.connect(new));
    network.run_for(MOMENT);
    second.send(b"served");
    network.run_for(MOMENT);
    assert!(first.is_closed());
    assert_eq!(second.take_received(), b"served");
    assert_eq!(network.stats().accept_pauses, 1);
}

#[test]
fn a_server_without_clients_is_drained_at_once() {
    let mut reactor = Reactor::new().unwrap();
    let (journal, other) = (Journal::new(), Journal::new());
    let add = |reactor: &mut Reactor, journal: &Journal| {
        let server = TcpServer::with_server("127.0.0.1:0", Service(journal.clone()), |_, _| handler()).unwrap();
        reactor.add(server).unwrap()
    };
    let (id, stays) = (add(&mut reactor, &journal), add(&mut reactor, &other));
    let address = reactor.server_addresses(id)[0].clone();
    reactor.drain_server(id);
    reactor.drain_server(id);
    assert_eq!((journal.lines(), other.lines()), (vec!["closed".to_owned()], Vec::new()));
    Peer::wait_for_refusal(address);
    assert_eq!(reactor.server_addresses(stays).len(), 1);
}

#[test]
fn a_stop_and_a_close_end_the_drain_of_one_server() {
    for closes in [false, true] {
        let mut network = network();
        let (id, journal) = serve(&mut network, Limits::default());
        let staying = network.connect(id);
        staying.send(b"stay");
        network.run_for(MOMENT);
        run(&mut network, move |reactor| reactor.drain_server(id));
        network.run_for(MOMENT);
        if closes {
            network.server_close(id);
            assert_eq!(journal.lines(), ["StopAborted", "closed"]);
            continue;
        }
        network.shutdown_handle().shutdown();
        network.run_for(GRACE - 2 * MOMENT);
        assert!(!staying.is_closed());
        network.run_for(2 * MOMENT);
        assert!(staying.is_reset() && network.is_stopped());
        assert_eq!(journal.lines(), ["stopping", "StopAborted", "closed"]);
    }
}

#[test]
fn a_changed_grace_applies_to_the_drain_of_one_server() {
    let mut network = network();
    let (id, journal) = serve(&mut network, Limits::default());
    let staying = network.connect(id);
    staying.send(b"stay");
    network.run_for(MOMENT);
    run(&mut network, move |reactor| reactor.drain_server(id));
    network.run_for(MOMENT);
    run(&mut network, |reactor| {
        let mut config = reactor.config().clone();
        config.drain_grace = 3 * MOMENT;
        reactor.set_config(config);
    });
    network.run_for(MOMENT);
    assert!(!staying.is_closed());
    network.run_for(2 * MOMENT);
    assert!(staying.is_reset());
    assert_eq!(journal.lines(), ["StopAborted", "closed"]);
}

#[test]
fn a_drained_datagram_server_answers_what_has_arrived() {
    let mut reactor = Reactor::new().unwrap();
    let handler = |_: &Address| probe(|call, request: &mut Request<'_>| echo(&call, request));
    let id = reactor.add(UdpServer::new("127.0.0.1:0", handler).unwrap()).unwrap();
    let client = Mailbox::to(reactor.server_addresses(id)[0].clone());
    client.send("asked before");
    reactor.drain_server(id);
    client.expect("asked before");
    assert!(reactor.limits(id).is_none());
}

#[test]
fn a_drain_waits_for_the_threads_of_its_server() {
    #[derive(Default)]
    struct Threaded;
    impl BaseServer for Threaded {
        fn process_request(&mut self, _: &socketserver::Incoming<'_>, _: &Address) -> ServeOn<Self> {
            ServeOn::thread(StreamRequestHandler::new(|request| {
                let mut line = String::new();
                request.rfile.read_line(&mut line)?;
                request.rfile.read_line(&mut line)?;
                request.wfile.write_all(line.to_uppercase().as_bytes())?;
                Ok(())
            }))
        }
    }
    let server = TcpServer::with_server("127.0.0.1:0", Threaded, |_, _| socketserver::NoHandler).unwrap();
    let running = serve_on_a_thread(server);
    let mut client = running.connect();
    client.send("one\n");
    running.wait_for_stats("the thread runs", |stats| stats.threads_busy == 1);
    let id = running.id;
    running.handle.run(move |reactor| reactor.drain_server(id)).unwrap();
    // It is quiet, so that its input ends.
    assert_eq!(client.rest(), b"ONE\n");
    running.wait_for_stats("it is over", |stats| stats.active == 0);
    running.stop();
}

#[test]
fn a_changed_grace_applies_to_the_threads_of_a_server_that_is_being_closed() {
    struct Threaded;
    impl BaseServer for Threaded {
        fn process_request(&mut self, _: &socketserver::Incoming<'_>, _: &Address) -> ServeOn<Self> {
            ServeOn::thread(StreamRequestHandler::new(|request| {
                request.rfile.read_line(&mut String::new())?;
                loop {
                    request.wfile.write_all(&[0; 65_536])?; // More than the client takes.
                }
            }))
        }
    }
    let mut config = ReactorConfig::default();
    (config.drain_grace, config.drain_quiet) = (Duration::from_secs(3_600), Duration::ZERO);
    let mut reactor = Reactor::with_config(config.clone()).unwrap();
    let server = TcpServer::with_server("127.0.0.1:0", Threaded, |_, _| socketserver::NoHandler).unwrap();
    let id = reactor.add(server).unwrap();
    let mut client = std::net::TcpStream::connect(reactor.server_addresses(id)[0].as_inet().unwrap()).unwrap();
    client.set_nonblocking(true).unwrap();
    let begun = std::time::Instant::now();
    let poll_until = |reactor: &mut Reactor, is_so: &mut dyn FnMut(&mut Reactor) -> bool| {
        while !is_so(reactor) {
            assert!(begun.elapsed() < PATIENCE);
            reactor.poll(Some(Duration::from_millis(10))).unwrap();
        }
    };
    poll_until(&mut reactor, &mut |reactor| reactor.stats().threads_busy == 1);
    reactor.handle().run(move |reactor| reactor.server_close(id)).unwrap();
    poll_until(&mut reactor, &mut |_| client.read(&mut [0]).is_ok()); // Its input has ended.
    config.drain_grace = MOMENT / 1_000;
    reactor.set_config(config);
    poll_until(&mut reactor, &mut |reactor| reactor.limits(id).is_none());
}

#[test]
fn a_server_may_serve_while_others_drain() {
    let mut network = network();
    let ((main, _), (admin, journal)) = (serve(&mut network, Limits::default()), serve(&mut network, lasting()));
    let (staying, before) = (network.connect(main), network.connect(admin));
    staying.send(b"stay");
    network.run_for(MOMENT);
    network.shutdown_handle().shutdown();
    network.run_for(4 * MOMENT);
    let during = network.connect(admin);
    for client in [&before, &during] {
        client.send(b"why");
        network.run_for(MOMENT);
        assert_eq!(client.take_received(), b"why");
    }
    assert_eq!(phase(&mut network, admin), Some(ServerPhase::Serving));
    assert_eq!(phase(&mut network, main), Some(ServerPhase::Draining));
    network.run_for(GRACE / 2); // Half of the grace is over.
    assert!(!before.is_closed() && !during.is_closed() && !network.is_stopped());
    staying.send_eof();
    network.run();
    assert!(network.is_stopped(), "nothing else is waited for");
    assert!(before.is_closed() && during.is_closed() && !before.is_reset() && !during.is_reset());
    assert_eq!(journal.lines(), ["stopping", "Stopped", "Stopped"]);
}

#[test]
fn a_client_of_the_last_server_does_not_hold_up_the_stop() {
    let mut network = network();
    let (admin, journal) = serve(&mut network, lasting());
    let (slow, fast) = (network.connect(admin), network.connect(admin));
    slow.set_window(10);
    [&slow, &fast].into_iter().for_each(|client| client.send(b"much"));
    network.run_for(MOMENT);
    network.shutdown_handle().shutdown();
    network.run();
    assert!(network.is_stopped());
    assert!(slow.is_reset() && !fast.is_reset() && fast.is_closed());
    assert_eq!(fast.take_received().len(), 10_000);
    let mut ends = journal.lines();
    ends[1..].sort();
    assert_eq!(ends, ["stopping", "StopAborted", "Stopped"]);
}

#[test]
fn the_last_server_is_aborted_when_the_grace_is_over_or_cut_short() {
    for cut_short in [false, true] {
        let mut network = network();
        let ((main, _), (admin, journal)) = (serve(&mut network, Limits::default()), serve(&mut network, lasting()));
        let (staying, client) = (network.connect(main), network.connect(admin));
        staying.send(b"stay");
        network.run_for(MOMENT);
        network.shutdown_handle().shutdown();
        network.run_for(MOMENT);
        let late = network.connect(admin);
        network.run_for(MOMENT);
        match cut_short {
            true => network.shutdown_handle().shutdown_now(),
            false => network.run_for(GRACE),
        }
        network.run();
        assert!(network.is_stopped());
        assert!(staying.is_reset() && client.is_reset() && late.is_reset());
        assert_eq!(journal.lines(), ["stopping", "StopAborted", "StopAborted"]);
    }
}

#[test]
fn a_busy_thread_of_the_last_server_does_not_hold_up_the_stop() {
    /// Its threads say that they have begun, and wait until they are released.
    struct Threaded(Arc<(Sender<()>, Mutex<Receiver<()>>)>);
    impl BaseServer for Threaded {
        fn process_request(&mut self, _: &socketserver::Incoming<'_>, _: &Address) -> ServeOn<Self> {
            let held = Arc::clone(&self.0);
            ServeOn::thread(StreamRequestHandler::new(move |_| {
                held.0.send(()).unwrap();
                let _ = held.1.lock().unwrap().recv_timeout(PATIENCE);
                Ok(())
            }))
        }
    }
    let ((begin, begun), (release, released)) = (channel(), channel::<()>());
    let held = Arc::new((begin, Mutex::new(released)));
    let mut config = ReactorConfig::default();
    config.drain_grace = Duration::from_secs(3_600);
    let mut reactor = Reactor::with_config(config).unwrap();
    let server = TcpServer::with_server("127.0.0.1:0", Threaded(held), |_, _| socketserver::NoHandler).unwrap();
    let id = reactor.add(server).unwrap();
    reactor.set_limits(id, lasting()).unwrap();
    let _client = Peer::connect(reactor.server_addresses(id)[0].clone());
    while begun.try_recv().is_err() {
        reactor.poll(Some(Duration::from_millis(10))).unwrap();
    }
    reactor.shutdown_handle().shutdown();
    reactor.serve_forever().unwrap(); // It returns, although the thread does not.
    assert_eq!(reactor.stats().threads_busy, 1);
    drop(release);
}

#[test]
fn limits_are_replaced_while_serving() {
    struct Reloading(usize);
    impl BaseServer for Reloading {
        fn reload(&mut self, others: &mut Others<'_, Self>) {
            self.0 += 1;
            let mut limits = Limits::default();
            limits.input_bytes_max = 10;
            others.set_limits(others.server_id(), limits).unwrap();
            let mut wrong = Limits::default();
            (wrong.output_low_water, wrong.output_high_water) = (2, 1);
            assert!(others.set_limits(others.server_id(), wrong).is_err());
        }
    }
    let mut network = network();
    let handler = |_: &mut Reloading, _: &Address| {
        probe(|call, request: &mut Request<'_, Reloading>| match call {
            Call::Handle => Ok(Next::Wait),
            call => echo(&call, request),
        })
    };
    let id = network.serve(Reloading(0), handler, Limits::default()).unwrap();
    let client = network.connect(id);
    client.send(&[b'x'; 11]);
    network.run_for(MOMENT);
    assert!(!client.is_closed());
    run(&mut network, Reactor::reload);
    network.run();
    assert_eq!(network.limits(id).unwrap().input_bytes_max, 10);
    assert!(client.is_closed(), "it holds more than it may now");
    assert_eq!(network.server_mut::<Reloading>(id).unwrap().0, 1);
}
