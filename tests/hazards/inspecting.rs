//! What a reactor shows of itself.

use std::time::Duration;

use socketserver::testing::Network;
use socketserver::{Address, Inspection, Limits, Next, Reactor, ReactorConfig, ReactorPhase, Request};

use crate::common::{Call, echo, probe};

/// Asks a simulated reactor between two turns.
fn inspect(network: &mut Network) -> Inspection {
    let (tell, hear) = std::sync::mpsc::channel();
    network.handle().run(move |reactor: &mut Reactor| drop(tell.send(reactor.inspect()))).unwrap();
    network.turn();
    hear.try_recv().expect("the next turn runs the closure")
}

fn serve(network: &mut Network, limits: Limits) -> socketserver::ServerId {
    let handler = |_: &mut (), _: &Address| {
        probe(|call, request: &mut Request<'_>| match call {
            Call::Handle if request.input.unread() == b"wait" => Ok(Next::Wait),
            call => echo(&call, request),
        })
    };
    network.serve((), handler, limits).unwrap()
}

#[test]
fn a_full_server_tells_since_when() {
    let mut network = Network::new();
    let mut limits = Limits::default();
    limits.connections_max = Some(1);
    let id = serve(&mut network, limits);
    network.run_for(Duration::from_secs(5));
    assert_eq!(inspect(&mut network).servers[0].full_for, None);
    let first = network.connect(id);
    network.run_for(Duration::from_secs(5));
    let second = network.connect(id);
    network.run_for(Duration::from_secs(5));
    let server = inspect(&mut network).servers.remove(0);
    assert_eq!(server.full_for, Some(Duration::from_secs(10)));
    assert_eq!((server.id, server.connections), (id, 1));
    first.send_eof();
    network.run_for(Duration::from_secs(1));
    assert_eq!(inspect(&mut network).servers[0].full_for, Some(Duration::from_secs(1)), "the next has its place");
    second.send_eof();
    network.run_for(Duration::from_secs(1));
    assert_eq!(inspect(&mut network).servers[0].full_for, None);
}

#[test]
fn the_quietest_and_the_fullest_connections_come_first() {
    let mut network = Network::new();
    let id = serve(&mut network, Limits::default());
    let clients: Vec<_> = (0..12)
        .map(|number| {
            let client = network.connect(id);
            client.set_window(0);
            client.send(&vec![b'x'; 100 * (number % 4)]);
            network.run_for(Duration::from_secs(1));
            client
        })
        .collect();
    clients[11].send(b"wait");
    network.run_for(Duration::from_secs(1));
    let seen = inspect(&mut network);
    assert_eq!((seen.quietest.len(), seen.fullest.len()), (10, 9));
    assert_eq!(seen.quietest[0].client_address, *clients[0].address());
    assert!(seen.quietest.is_sorted_by(|one, next| one.quiet_for >= next.quiet_for));
    let held: Vec<_> = seen.fullest.iter().map(|connection| connection.input_bytes + connection.output_bytes).collect();
    assert!(held.is_sorted_by(|one, next| one >= next) && held[0] >= 300, "{held:?}");
    assert_eq!(seen.output_bytes, 3 * (100 + 200 + 300));
    assert!(seen.quietest.iter().all(|connection| connection.server == id));
}

#[test]
fn the_phases_of_a_stop_are_seen() {
    let mut config = ReactorConfig::default();
    (config.drain_delay, config.drain_grace) = (Duration::from_secs(5), Duration::from_secs(10));
    let mut network = Network::with_config(config);
    let id = serve(&mut network, Limits::default());
    let client = network.connect(id);
    client.set_window(0);
    client.send(b"never read");
    network.run_for(Duration::from_secs(1));
    assert_eq!(inspect(&mut network).phase, ReactorPhase::Serving);
    network.shutdown_handle().shutdown();
    network.run_for(Duration::from_secs(1));
    assert_eq!(inspect(&mut network).phase, ReactorPhase::Delayed);
    network.run_for(Duration::from_secs(7));
    assert_eq!(inspect(&mut network).phase, ReactorPhase::Draining);
    network.run_for(Duration::from_secs(20));
    assert!(network.is_stopped());
}
