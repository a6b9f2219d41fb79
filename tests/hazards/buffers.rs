//! The bound on what all connections of a reactor hold together.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use socketserver::testing::{Network, Peer};
use socketserver::{
    Address, BaseServer, EndReason, Limits, Next, Reactor, ReactorConfig, Request, ServerId, Stats, TcpServer,
};

use crate::common::{Call, Journal, connect_with_small_window, echo, is_apart, probe, serve as serve_on_a_thread};

const KILO: usize = 1_000;

fn bounded(max: Option<usize>) -> ReactorConfig {
    let mut config = ReactorConfig::default();
    config.buffered_bytes_max = max;
    config
}

/// Notes how its requests end.
#[derive(Default)]
struct Site(Option<Journal>);

impl BaseServer for Site {
    fn close_request(&mut self, _: &Address, why: EndReason) {
        self.0.iter().for_each(|journal| journal.note(format!("{why:?}")));
    }
}

/// Sends back what comes. `keep` stays unread with all that follows, `give N` is answered with N bytes, and `tell N` sends N
/// bytes to all others.
fn handler() -> impl socketserver::RequestHandler<Site> {
    probe(move |call, request: &mut Request<'_, Site>| match call {
        Call::Handle if request.input.unread().starts_with(b"keep") => Ok(Next::Wait),
        Call::Handle if request.input.unread().starts_with(b"give ") => {
            let wanted = number(request.input.take_all());
            request.output.write_all(&vec![b'x'; wanted])?;
            Ok(Next::Wait)
        }
        Call::Handle if request.input.unread().starts_with(b"tell ") => {
            let wanted = number(request.input.take_all());
            request.others.broadcast(vec![b'x'; wanted], |_| true);
            Ok(Next::Wait)
        }
        call => echo(&call, request),
    })
}

fn number(command: &[u8]) -> usize {
    std::str::from_utf8(&command[5..]).unwrap().trim().parse().unwrap()
}

fn simulated(max: Option<usize>) -> (Network, ServerId, Journal) {
    let (mut network, journal) = (Network::with_config(bounded(max)), Journal::new());
    let id = network.serve(Site(Some(journal.clone())), |_, _| handler(), Limits::default()).unwrap();
    (network, id, journal)
}

/// A client that never reads.
fn deaf(network: &mut Network, id: ServerId) -> Peer {
    let client = network.connect(id);
    client.set_window(0);
    client
}

/// What all connections hold.
fn held(network: &mut Network) -> usize {
    let (tell, hear) = std::sync::mpsc::channel();
    let ask = move |reactor: &mut Reactor| {
        let inspection = reactor.inspect();
        tell.send(inspection.input_bytes + inspection.output_bytes).unwrap();
    };
    network.handle().run(ask).unwrap();
    network.turn();
    hear.try_recv().unwrap()
}

#[track_caller]
fn expect_served(network: &mut Network, client: &Peer) {
    client.send(b"polite");
    network.run();
    assert_eq!(client.take_received(), b"polite");
}

#[test]
fn without_a_bound_all_connections_together_hold_any_amount() {
    let (mut network, id, _) = simulated(None);
    let clients: Vec<_> = (0..10).map(|_| deaf(&mut network, id)).collect();
    clients.iter().for_each(|client| client.send(b"give 1000000"));
    network.run();
    assert_eq!(held(&mut network), 10_000 * KILO);
    assert!(clients.iter().all(|client| !client.is_closed()));
}

#[test]
fn clients_that_never_read_are_closed_and_others_are_served() {
    let (mut network, id, journal) = simulated(Some(1_000 * KILO));
    let polite = network.connect(id);
    let mut clients = Vec::new();
    for _ in 0..50 {
        let client = deaf(&mut network, id);
        client.send(b"give 300000");
        network.run();
        assert!(held(&mut network) <= 1_000 * KILO);
        expect_served(&mut network, &polite);
        clients.push(client);
    }
    let closed = clients.iter().filter(|client| client.is_reset()).count();
    assert!((46..50).contains(&closed), "{closed}: some of them stay");
    assert_eq!(journal.count("BufferLimit"), closed);
    assert_eq!(network.stats().buffer_limits, closed as u64);
}

#[test]
fn only_the_largest_is_closed_if_that_is_enough() {
    let (mut network, id, journal) = simulated(Some(1_000 * KILO));
    let sizes = [100, 500, 300, 99, 2];
    let clients: Vec<_> = sizes
        .into_iter()
        .map(|kilo| {
            let client = deaf(&mut network, id);
            client.send(format!("give {}", kilo * KILO).as_bytes());
            network.run();
            client
        })
        .collect();
    let closed: Vec<_> = clients.iter().map(Peer::is_reset).collect();
    assert_eq!(closed, [false, true, false, false, false]);
    assert_eq!((journal.lines(), held(&mut network)), (vec!["BufferLimit".to_owned()], 501 * KILO));
    // The bound is for what is held, so it does not matter how much goes through.
    for client in [&clients[0], &clients[2]] {
        client.set_window(usize::MAX);
    }
    network.run();
    assert_eq!(held(&mut network), 101 * KILO);
    for _ in 0..20 {
        clients[0].send(b"give 900000");
        network.run();
    }
    assert_eq!(clients[0].take_received().len(), (100 + 20 * 900) * KILO);
}

#[test]
fn many_small_parts_of_messages_are_bounded() {
    let (mut network, id, journal) = simulated(Some(100 * KILO));
    let polite = network.connect(id);
    polite.send(b"keep");
    let clients: Vec<_> = (0..200).map(|_| network.connect(id)).collect();
    for _ in 0..5 {
        for client in clients.iter().filter(|client| !client.is_closed()) {
            client.send(b"keep");
            client.send(&[b'k'; KILO]);
        }
        network.run();
        assert!(held(&mut network) <= 100 * KILO);
    }
    let closed = journal.count("BufferLimit");
    assert!((150..200).contains(&closed), "{closed}");
    assert!(!polite.is_closed(), "it holds the least");
}

#[test]
fn what_others_send_to_a_connection_counts() {
    let (mut network, id, journal) = simulated(Some(1_000 * KILO));
    let teller = network.connect(id);
    let clients: Vec<_> = (0..3).map(|_| deaf(&mut network, id)).collect();
    network.run();
    teller.send(b"tell 300000");
    network.run();
    assert_eq!(journal.count("BufferLimit"), 0);
    teller.send(b"tell 100000");
    network.run();
    assert_eq!(clients.iter().filter(|client| client.is_reset()).count(), 1);
    expect_served(&mut network, &teller);
}

/// The bound is looked at between callbacks, and not only when those that others have sent to are served.
#[test]
fn what_many_send_to_others_in_one_turn_is_bounded() {
    let (mut network, most) = (Network::with_config(bounded(Some(1_000 * KILO))), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    let targets = Arc::new(Mutex::new(Vec::new()));
    let handler = move |_: &mut Site, _: &Address| {
        let (most, targets) = (Arc::clone(&most), Arc::clone(&targets));
        probe(move |call, request: &mut Request<'_, Site>| match call {
            Call::Setup => {
                targets.lock().unwrap().push(request.id());
                Ok(Next::Wait)
            }
            Call::Handle => {
                request.input.take_all();
                let _ = request.others.send(targets.lock().unwrap()[0], &[b'x'; 100 * KILO]);
                most.fetch_max(request.others.inspect().output_bytes, Ordering::Relaxed);
                Ok(Next::Wait)
            }
            call => echo(&call, request),
        })
    };
    let id = network.serve(Site(None), handler, Limits::default()).unwrap();
    let target = deaf(&mut network, id);
    network.run();
    let senders: Vec<_> = (0..100).map(|_| network.connect(id)).collect();
    network.run();
    senders.iter().for_each(|client| client.send(b"?"));
    network.run();
    assert!(target.is_reset());
    let most = seen.load(Ordering::Relaxed);
    assert!(most <= (1_000 + 32 * 100) * KILO, "{most} bytes at once");
}

#[test]
fn a_greeting_that_is_not_read_counts() {
    let mut network = Network::with_config(bounded(Some(100 * KILO)));
    let handler = |_: &mut Site, _: &Address| {
        probe(|call, request: &mut Request<'_, Site>| match call {
            Call::Setup => {
                request.output.write_all(&[b'x'; 30 * KILO])?;
                Ok(Next::Wait)
            }
            call => echo(&call, request),
        })
    };
    let id = network.serve(Site(None), handler, Limits::default()).unwrap();
    let clients: Vec<_> = (0..4).map(|_| deaf(&mut network, id)).collect();
    network.run();
    assert_eq!(clients.iter().filter(|client| client.is_reset()).count(), 2, "until an eighth is free");
    assert_eq!(held(&mut network), 60 * KILO);
}

#[test]
fn a_bound_that_is_set_later_applies_to_what_is_held() {
    let (mut network, id, journal) = simulated(None);
    let sizes = [400, 100, 300];
    let clients: Vec<_> = sizes
        .into_iter()
        .map(|kilo| {
            let client = deaf(&mut network, id);
            client.send(format!("give {}", kilo * KILO).as_bytes());
            client
        })
        .collect();
    network.run();
    let set = |network: &mut Network, max| {
        network.handle().run(move |reactor: &mut Reactor| reactor.set_config(bounded(max))).unwrap();
        network.run();
        held(network)
    };
    assert_eq!(set(&mut network, Some(800 * KILO)), 800 * KILO);
    assert_eq!(set(&mut network, Some(500 * KILO)), 400 * KILO);
    assert!(clients[0].is_reset());
    assert_eq!(set(&mut network, None), 400 * KILO);
    clients[1].send(b"give 1000000"); // It is not read, because its output is full.
    network.run();
    assert_eq!(journal.lines(), ["BufferLimit"]);
}

#[test]
fn a_connection_that_ends_leaves_the_count() {
    let (mut network, id, journal) = simulated(Some(1_000 * KILO));
    for turn in 0..20 {
        let client = deaf(&mut network, id);
        client.send(b"give 600000");
        network.run();
        match turn % 2 {
            0 => client.send_reset(),
            _ => client.send_eof(),
        }
        client.set_window(usize::MAX);
        network.run();
        assert!(client.is_closed());
    }
    assert_eq!(journal.count("BufferLimit"), 0);
    assert_eq!(held(&mut network), 0);
}

/// Without the bound these clients would make the process abort.
#[test]
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
fn clients_that_never_read_do_not_exhaust_a_limited_address_space() {
    let test = "buffers::clients_that_never_read_do_not_exhaust_a_limited_address_space";
    if !is_apart(test, "ulimit -v 500000; export MALLOC_ARENA_MAX=2") {
        return;
    }
    let mut server = TcpServer::with_server("127.0.0.1:0", Site::default(), |_, _| handler()).unwrap();
    server.set_config(bounded(Some(50_000 * KILO)));
    let mut limits = Limits::default();
    limits.output_bytes_max = 100_000 * KILO;
    server.set_limits(limits).unwrap();
    let running = serve_on_a_thread(server);
    let mut polite = running.connect();
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = connect_with_small_window(running.address);
        client.send("give 30000000\n");
        clients.push(client);
        polite.echo("polite");
    }
    let stats: Stats = running.wait_for_stats("most are closed", |stats| stats.buffer_limits >= 39);
    assert_eq!(stats.panics, 0);
    polite.echo("polite");
    drop(clients);
    running.stop();
}

/// The look at all connections comes after an eighth of the bound.
#[test]
fn at_the_bound_a_message_costs_no_look_at_all_connections() {
    let (mut network, id, journal) = simulated(Some(800 * KILO));
    let clients: Vec<_> = (0..100).map(|_| deaf(&mut network, id)).collect();
    let mut closed = Vec::new();
    for _ in 0..10 {
        for client in clients.iter().filter(|client| !client.is_closed()) {
            client.send(format!("give {KILO}").as_bytes());
            network.run();
            closed.push(journal.count("BufferLimit"));
        }
    }
    // Nearly every message finds the same number of closed connections as the one before.
    let looks = closed.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(looks * 100 <= closed.len() && *closed.last().unwrap() > 0, "{looks} of {}", closed.len());
}
