//! Acceptors and the workers to which they hand connections: limits, headers of proxies, and stops.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "a test has a deadline")]

#[path = "common/mod.rs"]
mod common;

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use common::{Call, Directory, PATIENCE, Peer, Probe, probe, usual, wait_for_stats_of};
use socketserver::family::UnixStream;
use socketserver::{
    Address, InheritedSockets, Limits, Next, ProxyProtocol, Reactor, Request, Result, Spread, Stats, TcpOptions,
    TcpServer, UnixAddress, UnixOptions, Workers, WorkersConfig, WorkersHandle,
};

/// Answers with what the client has sent, and stays.
fn echoing() -> Probe {
    probe(move |call, request: &mut Request<'_>| match call {
        Call::Handle => {
            request.output.write_all(request.input.take_all())?;
            Ok(Next::Wait)
        }
        call => usual(&call, request),
    })
}

/// Two workers with inherited sockets of two kinds, of which the test has duplicates.
struct Crew {
    workers: WorkersHandle,
    serving: Receiver<Result<()>>,
    tcp: TcpListener,
    unix: UnixListener,
    path: UnixAddress,
    _directory: Directory,
}

impl Crew {
    fn start(limits: Limits, spread: Spread, protocol: Option<ProxyProtocol>) -> Self {
        let directory = Directory::new();
        let path = UnixAddress::from_path(directory.at("socket"));
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let unix = UnixListener::bind(directory.at("socket")).unwrap();
        let named = [
            ("tcp".to_owned(), tcp.try_clone().unwrap().into()),
            ("unix".to_owned(), unix.try_clone().unwrap().into()),
        ];
        let mut sockets = InheritedSockets::new(named);
        let mut config = WorkersConfig::default();
        config.spread = spread;
        let workers = Workers::with_config(2, config, move |worker| {
            let mut server = TcpServer::unbound(move |_| echoing());
            server.limits = limits.clone();
            let (mut tcp, mut unix) = (TcpOptions::default(), UnixOptions::default());
            tcp.proxy_protocol = protocol.clone();
            unix.proxy_protocol = protocol.clone();
            worker.inherit_or_bind_as::<socketserver::family::Tcp>(
                &mut server,
                &mut sockets,
                "tcp",
                "127.0.0.1:0",
                tcp,
            )?;
            worker.inherit_or_bind_as::<UnixStream>(&mut server, &mut sockets, "unix", "@none", unix)?;
            worker.add(server)
        })
        .unwrap();
        let (handle, (tell, serving)) = (workers.handle(), channel());
        std::thread::spawn(move || tell.send(workers.serve_forever()));
        Crew { workers: handle, serving, tcp, unix, path, _directory: directory }
    }

    /// Clients of both sockets in turn.
    fn clients(&self) -> impl Iterator<Item = Peer> {
        let addresses = [Address::from(self.tcp.local_addr().unwrap()), self.path.clone().into()];
        addresses.into_iter().cycle().map(Peer::connect)
    }

    #[track_caller]
    fn wait_for_stats(&self, wanted: impl Fn(&Stats) -> bool) -> Stats {
        wait_for_stats_of(&self.workers, wanted)
    }

    #[track_caller]
    fn join(&self) {
        self.serving.recv_timeout(PATIENCE).expect("the workers end").unwrap();
    }

    /// Waits until both backlogs are empty.
    #[track_caller]
    fn wait_for_acceptors(&self) {
        use mio::{Events, Interest, Poll, Token, unix::SourceFd};
        use std::os::fd::AsRawFd as _;
        let deadline = Instant::now() + PATIENCE;
        let (mut poll, mut events) = (Poll::new().unwrap(), Events::with_capacity(2));
        for socket in [self.tcp.as_raw_fd(), self.unix.as_raw_fd()] {
            loop {
                poll.registry().register(&mut SourceFd(&socket), Token(0), Interest::READABLE).unwrap();
                poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
                poll.registry().deregister(&mut SourceFd(&socket)).unwrap();
                if events.is_empty() {
                    break;
                }
                assert!(Instant::now() < deadline, "clients are not accepted");
                std::thread::yield_now();
            }
        }
    }

    /// The number of clients in both backlogs.
    fn waiting(&self) -> usize {
        self.tcp.set_nonblocking(true).unwrap();
        self.unix.set_nonblocking(true).unwrap();
        std::iter::from_fn(|| self.tcp.accept().ok()).count() + std::iter::from_fn(|| self.unix.accept().ok()).count()
    }
}

fn limits(connections_max: usize) -> Limits {
    let mut limits = Limits::default();
    limits.connections_max = Some(connections_max);
    limits
}

/// What has the sockets next serves them.
#[test]
fn a_full_crew_with_several_addresses_leaves_clients_in_the_backlogs() {
    const WAITING: usize = 94;
    let crew = Crew::start(limits(3), Spread::Kernel, None);
    let mut served: Vec<_> = crew.clients().take(6).collect();
    served.iter_mut().for_each(|client| client.echo("served"));
    let mut waiting: Vec<_> = crew.clients().take(WAITING).collect();
    waiting.iter_mut().for_each(|client| client.send("waits"));
    // Each that leaves makes room for one other.
    for (before, client) in served.into_iter().enumerate() {
        drop(client);
        crew.wait_for_stats(|stats| stats.accepted == before as u64 + 7 && stats.active == 6);
    }
    crew.workers.shutdown();
    crew.join();
    let backlogs = crew.waiting();
    // Those of each address that were answered.
    let mut answered = [0, 0];
    for (number, client) in waiting.iter_mut().enumerate() {
        let (bytes, end) = client.read_to_the_end();
        answered[number % 2] += usize::from(end.is_ok() && bytes == b"waits");
    }
    assert_eq!((answered[0] + answered[1], backlogs), (6, WAITING - 6), "none was reset");
    assert!(!answered.contains(&0), "one address had all the room: {answered:?}");
}

#[test]
fn a_crew_that_takes_nobody_at_first_leaves_clients_in_the_backlogs() {
    const WAITING: usize = 40;
    let crew = Crew::start(limits(0), Spread::Kernel, None);
    let clients: Vec<_> = crew.clients().take(WAITING).collect();
    let raise = |reactor: &mut Reactor| {
        let server = reactor.inspect().servers[0].id;
        reactor.set_limits(server, limits(1)).unwrap();
    };
    crew.workers.run(raise).unwrap();
    crew.wait_for_stats(|stats| stats.active == 2);
    crew.workers.shutdown();
    crew.join();
    assert_eq!(crew.waiting(), WAITING - 2);
    drop(clients);
}

/// A header that has not come needs a descriptor, as a connection does.
#[test]
fn connections_without_a_whole_header_count_for_the_limit() {
    for half in ["", "PROXY TCP4 192.0.2.1"] {
        let crew = Crew::start(limits(3), Spread::Kernel, Some(ProxyProtocol::new(|_| true)));
        let mut silent: Vec<_> = crew.clients().take(6).collect();
        silent.iter_mut().for_each(|client| client.send(half));
        crew.wait_for_stats(|stats| stats.active == 6);
        let waiting: Vec<_> = crew.clients().take(20).collect();
        let inspections = crew.workers.inspect().unwrap();
        assert!(inspections.iter().all(|inspection| inspection.servers[0].connections == 3));
        crew.workers.shutdown_now();
        crew.join();
        assert_eq!(crew.waiting(), waiting.len());
    }
}

#[test]
fn a_header_that_comes_after_a_stop_was_requested_is_read() {
    for spread in [Spread::Kernel, Spread::Handed] {
        let crew = Crew::start(limits(100), spread, Some(ProxyProtocol::new(|_| true)));
        let mut clients: Vec<_> = crew.clients().take(8).collect();
        clients.iter_mut().for_each(|client| client.send("PROXY TCP4 192.0.2.1 "));
        crew.wait_for_stats(|stats| stats.active == 8);
        crew.workers.shutdown();
        clients.iter_mut().for_each(|client| client.send("192.0.2.2 50000 80\r\nhello"));
        clients.iter_mut().for_each(|client| assert_eq!(client.rest(), b"hello"));
        crew.join();
    }
}

/// There were places when they were accepted, and there are none when they arrive at the worker.
#[test]
fn clients_that_wait_for_a_place_after_a_limit_was_lowered_are_served_by_a_stop() {
    let crew = Crew::start(limits(10), Spread::Kernel, None);
    let (mut gates, mut begun) = (Vec::new(), Vec::new());
    for handle in crew.workers.handles() {
        let ((tell, hear), (open, gate)) = (channel(), channel::<()>());
        handle
            .run(move |reactor| {
                tell.send(()).unwrap();
                let _ = gate.recv_timeout(PATIENCE);
                let server = reactor.inspect().servers[0].id;
                reactor.set_limits(server, limits(1)).unwrap();
            })
            .unwrap();
        gates.push(open);
        begun.push(hear);
    }
    begun.into_iter().for_each(|begun| begun.recv_timeout(PATIENCE).unwrap());
    let mut clients: Vec<_> = crew.clients().take(8).collect();
    clients.iter_mut().for_each(|client| client.send("hello"));
    crew.wait_for_acceptors();
    drop(gates);
    crew.wait_for_stats(|stats| stats.active == 2);
    crew.workers.shutdown();
    for mut client in clients {
        assert_eq!(client.rest(), b"hello");
    }
    crew.join();
}
