//! What a reactor shows of itself.

use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::time::Duration;

use socketserver::testing::Network;
use socketserver::{
    Address, Inspection, Limits, Next, Reactor, ReactorConfig, ReactorPhase, Request, ServerInspection,
    StreamRequestHandler, ThreadingTcpServer,
};

use crate::common::{Call, PATIENCE, Running, echo, limit, probe, serve as serve_on_a_thread};

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
    let serving = inspect(&mut network);
    assert_eq!((serving.phase, serving.servers[0].addresses.len()), (ReactorPhase::Serving, 1));
    network.shutdown_handle().shutdown();
    network.run_for(Duration::from_secs(1));
    assert_eq!(inspect(&mut network).phase, ReactorPhase::Delayed);
    network.run_for(Duration::from_secs(7));
    let draining = inspect(&mut network);
    assert_eq!(draining.phase, ReactorPhase::Draining);
    assert_eq!(draining.servers[0].addresses, serving.servers[0].addresses, "its listeners are closed");
    network.run_for(Duration::from_secs(20));
    assert!(network.is_stopped());
}

/// Asks a server on a thread, turn after turn, until its inspection is as wanted.
fn wait_for<S>(running: &Running<S>, what: &str, wanted: impl Fn(&ServerInspection) -> bool) -> ServerInspection {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let (tell, hear) = channel();
        running.handle.run(move |reactor: &mut Reactor| drop(tell.send(reactor.inspect()))).unwrap();
        let seen = hear.recv_timeout(PATIENCE).expect("the reactor runs a closure").servers.remove(0);
        if wanted(&seen) {
            return seen;
        }
        assert!(std::time::Instant::now() < deadline, "{what}: {seen:?}");
        std::thread::yield_now();
    }
}

#[test]
fn busy_threads_tell_since_when() {
    let (begin, begun) = channel();
    let (release, released) = channel::<()>();
    let released = std::sync::Arc::new(std::sync::Mutex::new(released));
    let mut server = ThreadingTcpServer::new("127.0.0.1:0", move |_: &Address| {
        let (begin, released) = (begin.clone(), released.clone());
        StreamRequestHandler::new(move |_| {
            begin.send(()).unwrap();
            let _ = released.lock().unwrap().recv_timeout(PATIENCE);
            Ok(())
        })
    })
    .unwrap();
    limit(&mut server, |limits| limits.max_threads = 1);
    let running = serve_on_a_thread(server);
    let mut first = running.connect();
    begun.recv_timeout(PATIENCE).unwrap();
    let seen = wait_for(&running, "one is served", |seen| seen.threads_busy == 1);
    assert_eq!(seen.threads_full_for, None, "it has its thread");
    let mut second = running.connect();
    let seen = wait_for(&running, "one waits", |seen| seen.requests_waiting == 1);
    let since = seen.threads_full_for.expect("no thread is free");
    assert_eq!((seen.children_full_for, seen.full_for), (None, None));
    release.send(()).unwrap();
    assert_eq!(first.rest(), b"");
    let seen = wait_for(&running, "it has the thread", |seen| (seen.threads_busy, seen.requests_waiting) == (1, 0));
    assert!(seen.threads_full_for.is_some_and(|time| time >= since), "the thread was never free: {seen:?}");
    release.send(()).unwrap();
    assert_eq!(second.rest(), b"");
    wait_for(&running, "the thread is free", |seen| seen.threads_busy == 0 && seen.threads_full_for.is_none());
    running.stop();
}

#[test]
#[cfg(all(unix, feature = "proxy-protocol"))]
fn connections_without_their_headers_are_counted() {
    let mut protocol = socketserver::ProxyProtocol::new(|_| true);
    protocol.timeout = PATIENCE * 100;
    let mut options = socketserver::TcpOptions::default();
    options.proxy_protocol = Some(protocol);
    let handler = |_: &Address| probe(|call, request: &mut Request<'_>| echo(&call, request));
    let mut server = socketserver::TcpServer::unbound(handler);
    server.limits.connections_max = Some(2);
    server.server_bind_with("127.0.0.1:0", options).unwrap();
    let running = serve_on_a_thread(server.server_activate().unwrap());
    let (mut first, second) = (running.connect(), running.connect());
    let seen = wait_for(&running, "both wait", |seen| seen.headers_awaited == 2 && seen.full_for.is_some());
    assert_eq!((seen.connections, running.stats().accepted), (2, 2));
    assert!(seen.to_string().ends_with(", 2 PROXY headers awaited"), "{seen}");
    first.send("PROXY UNKNOWN\r\n");
    first.echo("hello");
    let seen = wait_for(&running, "one waits", |seen| (seen.connections, seen.headers_awaited) == (2, 1));
    assert_eq!(seen.to_string().matches("awaited").count(), 1);
    drop((first, second));
    let stats = running.wait_for_stats("both are gone", |stats| stats.active == 0);
    assert_eq!((stats.accepted, stats.refused), (2, 1));
    running.stop();
}

#[test]
#[cfg(all(unix, feature = "children"))]
fn busy_programs_tell_since_when() {
    let cat = |_: &Address| std::process::Command::new("cat");
    let mut server = socketserver::ForkingTcpServer::new("127.0.0.1:0", cat).unwrap();
    limit(&mut server, |limits| limits.max_children = 1);
    let running = serve_on_a_thread(server);
    let mut clients = [running.connect(), running.connect()];
    let seen = wait_for(&running, "one waits", |seen| (seen.children_busy, seen.requests_waiting) == (1, 1));
    assert!(seen.children_full_for.is_some() && seen.threads_full_for.is_none(), "{seen:?}");
    for client in &mut clients {
        client.half_close();
        assert_eq!(client.rest(), b"");
    }
    wait_for(&running, "none is served", |seen| seen.children_busy == 0 && seen.children_full_for.is_none());
    running.stop();
}

#[test]
fn a_server_with_too_many_sessions_tells_since_when() {
    let mut network = Network::new();
    let mut limits = Limits::default();
    limits.sessions_max = Some(20);
    let handler = |_: &mut (), _: &Address| {
        probe(|call, request: &mut Request<'_>| match call {
            Call::Handle if request.input.unread() == b"bye" => Ok(Next::Close),
            Call::Handle => {
                request.input.take_all();
                Ok(Next::Wait)
            }
            call => echo(&call, request),
        })
    };
    let id = network.serve_datagrams((), handler, limits).unwrap();
    let send = |network: &mut Network, peer: u16, packet: &[u8]| {
        network.send_datagram(id, &SocketAddr::from(([198, 18, 0, 1], peer)).into(), packet);
        network.run_for(Duration::from_secs(1));
        let server = inspect(network).servers.remove(0);
        (server.sessions, server.sessions_full_for)
    };
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    for peer in 1..=20 {
        assert_eq!(send(&mut network, peer, b"hello"), (peer.into(), None), "nobody is refused yet");
    }
    assert_eq!(send(&mut network, 21, b"hello"), (20, seconds(1)));
    assert_eq!(send(&mut network, 22, b"hello"), (20, seconds(2)));
    assert_eq!(send(&mut network, 1, b"bye"), (19, seconds(3)), "nobody has come since");
    assert_eq!(send(&mut network, 21, b"hello"), (20, seconds(4)), "less than a tenth was free");
    assert_eq!(send(&mut network, 2, b"bye"), (19, seconds(5)));
    assert_eq!(send(&mut network, 3, b"bye"), (18, seconds(6)));
    assert_eq!(send(&mut network, 22, b"hello"), (19, None), "a tenth was free");
    assert_eq!(network.stats().sessions_refused, 2);
}

#[test]
fn resets_of_idle_connections_are_told_from_those_during_a_request() {
    let mut network = Network::new();
    let id = serve(&mut network, Limits::default());
    let mut reset = |begin: &dyn Fn(&socketserver::testing::Peer)| {
        let client = network.connect(id);
        begin(&client);
        network.run_for(Duration::from_secs(1));
        client.send_reset();
        network.run_for(Duration::from_secs(1));
        (network.stats().resets, network.stats().resets_idle)
    };
    assert_eq!(reset(&|_| ()), (1, 1), "it has sent nothing");
    assert_eq!(reset(&|client| client.send(b"an echo")), (2, 2), "its request is answered");
    assert_eq!(reset(&|client| client.send(b"wait")), (3, 2), "its input is unread");
    let deaf = |client: &socketserver::testing::Peer| {
        client.set_window(0);
        client.send(b"an echo");
    };
    assert_eq!(reset(&deaf), (4, 2), "its output is unsent");
}

#[test]
fn a_reset_while_a_job_runs_is_not_idle() {
    let mut network = Network::new();
    let (release, released) = channel::<()>();
    let mut released = Some(released);
    let handler = move |_: &mut (), _: &Address| {
        let mut released = released.take();
        probe(move |call, request: &mut Request<'_>| match call {
            Call::Handle => {
                request.input.take_all();
                let released = released.take().expect("one job");
                request.offload(move || released.recv_timeout(PATIENCE).is_ok())?;
                Ok(Next::Wait)
            }
            call => echo(&call, request),
        })
    };
    let id = network.serve((), handler, Limits::default()).unwrap();
    let client = network.connect(id);
    client.send(b"compute");
    network.run();
    client.send_reset();
    network.run();
    assert_eq!((network.stats().resets, network.stats().resets_idle), (1, 0));
    drop(release);
}

#[test]
fn the_oldest_connections_come_first_whatever_slot_they_have() {
    let mut network = Network::new();
    let id = serve(&mut network, Limits::default());
    let mut clients: Vec<_> = (0..12).map(|_| network.connect(id)).collect();
    network.run();
    for client in clients.drain(..3) {
        client.send_eof(); // Its slot is free, and is taken by one that comes later.
        network.run();
    }
    clients.extend((0..3).map(|_| network.connect(id)));
    network.run();
    clients[0].send(b"not quiet");
    network.run();
    let seen: Vec<_> = inspect(&mut network).oldest.into_iter().map(|one| one.client_address).collect();
    let wanted: Vec<_> = clients[..10].iter().map(|client| client.address().clone()).collect();
    assert_eq!(seen, wanted);
}
