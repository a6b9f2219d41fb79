//! Several reactors on several threads: how clients are spread, stops, and what becomes of the clients when one ends.
#![allow(clippy::disallowed_methods, reason = "a test has a deadline")]

#[path = "common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

#[cfg(unix)]
use common::collector::Collector;
use common::{Call, Directory, Kind, Mailbox, PATIENCE, Peer, Probe, is_apart, probe, usual, wait_for_stats_of};
use socketserver::WorkersHandle;
use socketserver::family::{Family, Tcp, Udp};
#[cfg(unix)]
use socketserver::family::{UnixDatagram, UnixStream};
use socketserver::{
    BaseServer, Error, Message, Next, Others, Reactor, Request, RequestHandler, Result, Server, Spread, Stats,
    TcpServer, Worker, Workers, WorkersConfig,
};

/// Answers with the number of its worker.
fn numbered(number: usize) -> Probe {
    probe(move |call, request: &mut Request<'_>| {
        if let Call::Handle = call {
            request.input.take_all();
            writeln!(request.output, "{number}")?;
        }
        usual(&call, request)
    })
}

/// Workers that answer with their numbers, and where.
struct Crew<F: Family> {
    workers: Running,
    address: F::Address,
    _directory: Option<Directory>,
}

/// Workers that serve on another thread.
struct Running {
    handle: WorkersHandle,
    serving: Receiver<Result<()>>,
}

fn run(workers: Workers) -> Running {
    let (handle, (tell, serving)) = (workers.handle(), channel());
    std::thread::spawn(move || tell.send(workers.serve_forever()));
    Running { handle, serving }
}

impl Running {
    #[track_caller]
    fn join(self) -> Result<()> {
        self.serving.recv_timeout(PATIENCE).expect("the workers end")
    }
}

impl std::ops::Deref for Running {
    type Target = WorkersHandle;

    fn deref(&self) -> &WorkersHandle {
        &self.handle
    }
}

#[track_caller]
fn crew<F: Kind>(count: usize, config: WorkersConfig) -> Crew<F> {
    crew_with(count, config, |_, _| Ok(()))
}

#[track_caller]
fn crew_with<F: Kind>(
    count: usize,
    config: WorkersConfig,
    mut change: impl FnMut(&mut Worker, &mut socketserver::Limits) -> Result<()> + Send + 'static,
) -> Crew<F> {
    let (place, directory) = F::place();
    let workers = Workers::with_config(count, config, move |worker| {
        let number = worker.number();
        let mut server = Server::<F, (), _>::unbound(move |_| numbered(number));
        change(worker, &mut server.limits)?;
        worker.server_bind(&mut server, place.clone())?;
        worker.add(server)
    })
    .unwrap();
    let address = F::at(&workers.server_addresses()[0]);
    Crew { workers: run(workers), address, _directory: directory }
}

impl<F: Kind> Crew<F> {
    /// Connects, and learns which worker serves the connection.
    #[track_caller]
    fn connect(&self) -> (Peer, usize) {
        let mut peer = Peer::connect(self.address.clone());
        let number = ask(&mut peer);
        (peer, number)
    }

    #[track_caller]
    fn wait_for_stats(&self, wanted: impl Fn(&Stats) -> bool) -> Stats {
        wait_for_stats_of(&self.workers, wanted)
    }

    fn stop(self) {
        self.workers.shutdown();
        self.workers.join().unwrap();
    }
}

#[track_caller]
fn ask(peer: &mut Peer) -> usize {
    peer.send("who");
    peer.line().parse().unwrap()
}

/// Runs what must not hang.
#[track_caller]
fn within_patience<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, hear) = channel();
    std::thread::spawn(move || tell.send(run()));
    hear.recv_timeout(PATIENCE).expect("it returns")
}

fn handed() -> WorkersConfig {
    let mut config = WorkersConfig::default();
    config.spread = Spread::Handed;
    config
}

macro_rules! over_handed {
    ($($test:ident,)*) => {
        mod handed_tcp { $(#[test] fn $test() { super::$test::<super::Tcp>(); })* }
        #[cfg(unix)]
        mod unix { $(#[test] fn $test() { super::$test::<super::UnixStream>(); })* }
    };
}

over_handed! {
    each_worker_gets_the_same_number_of_clients,
    the_worker_with_the_fewest_gets_the_next_client,
    clients_wait_in_the_backlog_while_all_workers_are_full,
    clients_in_the_backlog_are_served_during_a_stop,
}

fn counts(numbers: impl Iterator<Item = usize>) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    numbers.for_each(|number| *counts.entry(number).or_default() += 1);
    counts
}

fn each_worker_gets_the_same_number_of_clients<F: Kind>() {
    let crew = crew::<F>(4, handed());
    let clients: Vec<_> = (0..64).map(|_| crew.connect()).collect();
    assert_eq!(counts(clients.iter().map(|(_, number)| *number)), (0..4).map(|number| (number, 16)).collect());
    // Also when they come at once.
    let mut more: Vec<_> = (0..64).map(|_| Peer::connect(crew.address.clone())).collect();
    assert_eq!(counts(more.iter_mut().map(ask)), (0..4).map(|number| (number, 16)).collect());
    assert_eq!(crew.workers.stats().unwrap().active, 128);
    drop((clients, more));
    crew.stop();
}

fn the_worker_with_the_fewest_gets_the_next_client<F: Kind>() {
    let crew = crew::<F>(3, handed());
    let mut clients: Vec<_> = (0..9).map(|_| crew.connect()).collect();
    clients.retain(|(_, number)| *number != 1);
    crew.wait_for_stats(|stats| stats.active == 6);
    for _ in 0..3 {
        let (peer, number) = crew.connect();
        assert_eq!(number, 1);
        clients.push((peer, number));
    }
    drop(clients);
    crew.stop();
}

fn clients_wait_in_the_backlog_while_all_workers_are_full<F: Kind>() {
    let crew = crew_with::<F>(2, handed(), |_, limits| {
        limits.connections_max = Some(3);
        Ok(())
    });
    let served: Vec<_> = (0..6).map(|_| crew.connect()).collect();
    let mut waiting: Vec<_> = (0..20).map(|_| Peer::connect(crew.address.clone())).collect();
    waiting.iter_mut().for_each(|peer| peer.send("who"));
    // All six are still served, and no more.
    let stats = crew.workers.stats().unwrap();
    assert_eq!((stats.active, stats.accepted), (6, 6));
    drop(served);
    // Each of those that are served makes room for the next.
    for mut peer in waiting {
        peer.line();
    }
    let stats = crew.wait_for_stats(|stats| stats.active == 0);
    assert_eq!((stats.accepted, stats.accept_errors, stats.active_max), (26, 0, 3));
    crew.stop();
}

fn clients_in_the_backlog_are_served_during_a_stop<F: Kind>() {
    let crew = crew::<F>(2, handed());
    let mut clients: Vec<_> = (0..100).map(|_| Peer::connect(crew.address.clone())).collect();
    clients.iter_mut().for_each(|peer| peer.send("who"));
    let address = crew.address.clone();
    crew.stop();
    for mut peer in clients {
        peer.line();
        peer.expect_eof();
    }
    Peer::wait_for_refusal(address);
}

#[test]
fn the_kernel_spreads_clients_over_sockets_with_one_port() {
    let crew = crew::<Tcp>(4, WorkersConfig::default());
    let clients: Vec<_> = (0..64).map(|_| crew.connect()).collect();
    // That one of four gets none of 64 at random happens once in 25 million runs.
    assert_eq!(counts(clients.iter().map(|(_, number)| *number)).len(), 4);
    assert_eq!(crew.workers.server_addresses(), [crew.address.into()]);
    assert_eq!(crew.workers.stats().unwrap().accepted, 64);
    drop(clients);
    crew.stop();
}

#[test]
fn the_address_of_workers_is_not_shared_with_another_server() {
    let crew = crew::<Tcp>(2, WorkersConfig::default());
    let address = crew.address;
    let again = Workers::new(2, move |worker| {
        let mut server = TcpServer::unbound(|_| numbered(0));
        worker.server_bind(&mut server, address)?;
        worker.add(server)
    });
    assert!(matches!(again.unwrap_err(), Error::Bind { .. }));
    crew.stop();
}

#[test]
fn all_addresses_of_a_name_are_shared_and_one_address_can_be_bound_twice() {
    let workers = Workers::new(3, |worker| {
        let number = worker.number();
        let mut server = TcpServer::unbound(move |_| numbered(number));
        worker.server_bind(&mut server, "localhost:0")?;
        worker.server_bind(&mut server, "127.0.0.1:0")?;
        worker.server_bind(&mut server, "127.0.0.1:0")?;
        worker.add(server)
    })
    .unwrap();
    let workers = run(workers);
    let addresses = workers.server_addresses();
    assert!(addresses.len() >= 3);
    for address in addresses {
        let mut clients: Vec<_> = (0..64).map(|_| Peer::connect(address.clone())).collect();
        assert_eq!(counts(clients.iter_mut().map(ask)).len(), 3);
    }
    workers.shutdown();
    workers.join().unwrap();
}

macro_rules! over_datagrams {
    ($($test:ident,)*) => {
        mod udp { $(#[test] fn $test() { super::$test::<super::Udp>(); })* }
        #[cfg(unix)]
        mod unix_datagram { $(#[test] fn $test() { super::$test::<super::UnixDatagram>(); })* }
    };
}

over_datagrams! {
    datagrams_are_answered_by_workers,
}

fn datagrams_are_answered_by_workers<F: Kind>() {
    let crew = crew::<F>(3, WorkersConfig::default());
    let clients: Vec<_> = (0..64).map(|_| Mailbox::to(crew.address.clone())).collect();
    let numbers: Vec<usize> = clients.iter().map(|client| client.ask("who").trim().parse().unwrap()).collect();
    if F::NAME == Udp::NAME && cfg!(target_os = "linux") {
        assert_eq!(counts(numbers.iter().copied()).len(), 3);
        let again: Vec<usize> = clients.iter().map(|client| client.ask("who").trim().parse().unwrap()).collect();
        assert_eq!(numbers, again, "a client keeps its worker");
    }
    assert_eq!(
        crew.workers.stats().unwrap().datagrams_in as usize,
        clients.len() * (1 + numbers_were_asked_twice::<F>())
    );
    let path = crew._directory.as_ref().map(|directory| directory.at("s"));
    let Crew { workers, _directory, .. } = crew;
    workers.shutdown();
    workers.join().unwrap();
    assert!(path.is_none_or(|path| !path.exists()), "the file is removed");
}

fn numbers_were_asked_twice<F: Kind>() -> usize {
    usize::from(F::NAME == Udp::NAME && cfg!(target_os = "linux"))
}

#[test]
#[cfg(target_os = "linux")]
fn a_closure_that_fails_leaves_no_thread_and_no_socket() {
    if !is_apart("a_closure_that_fails_leaves_no_thread_and_no_socket", "") {
        return;
    }
    let before = threads();
    let (tell, hear) = channel();
    let failed = Workers::new(4, move |worker| {
        let mut server = TcpServer::unbound(|_| numbered(0));
        worker.server_bind(&mut server, "127.0.0.1:0")?;
        let address = server.server_addresses()[0].clone();
        let _ = tell.send(address);
        worker.add(server)?;
        if worker.number() == 2 { Err(Error::from("not this one")) } else { Ok(()) }
    });
    assert_eq!(failed.unwrap_err().to_string(), "not this one");
    let address = hear.recv().unwrap();
    Peer::wait_for_refusal(address);
    assert_eq!(threads(), before);
}

#[test]
fn a_server_that_was_bound_and_not_added_is_an_error() {
    let failed = Workers::new(1, |worker| worker.server_bind(&mut TcpServer::unbound(|_| numbered(0)), "127.0.0.1:0"));
    let text = format!("{:#}", failed.unwrap_err());
    assert_eq!(text, "cannot make a worker: a server was bound, but not added: its clients would wait forever");
    assert!(matches!(Workers::new(0, |_| Ok(())).unwrap_err(), Error::Setting { .. }));
}

#[test]
fn a_stop_of_one_worker_stops_all() {
    for config in [WorkersConfig::default(), handed()] {
        let crew = crew::<Tcp>(3, config);
        let mut clients: Vec<_> = (0..6).map(|_| crew.connect()).collect();
        crew.workers.handles()[1].shutdown_handle().shutdown();
        crew.workers.join().unwrap();
        clients.iter_mut().for_each(|(peer, _)| peer.expect_eof());
        Peer::wait_for_refusal(crew.address);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn no_thread_is_left_when_workers_have_ended() {
    if !is_apart("no_thread_is_left_when_workers_have_ended", "") {
        return;
    }
    let before = threads();
    let crew = crew::<Tcp>(3, WorkersConfig::default());
    let (mut peer, _) = crew.connect();
    // With the thread that waits here. A worker may have served before the last one was started.
    within_patience(move || while threads() < before + 5 {});
    crew.workers.shutdown_now();
    crew.workers.join().unwrap();
    let _ = peer.read_to_the_end();
    // The thread that served has told its result, but need not have ended.
    within_patience(move || while threads() > before + 1 {});
}

#[test]
fn a_broadcast_reaches_the_clients_of_all_workers() {
    let crew = crew::<Tcp>(4, handed());
    let mut clients: Vec<_> = (0..8).map(|_| crew.connect().0).collect();
    crew.workers.broadcast("for all").unwrap();
    clients.iter_mut().for_each(|peer| peer.expect("for all"));
    crew.stop();
}

#[test]
fn the_statistics_are_summed_but_not_by_a_worker_that_would_wait_for_itself() {
    let crew = crew::<Tcp>(2, handed());
    let clients: Vec<_> = (0..4).map(|_| crew.connect()).collect();
    let stats = crew.workers.stats().unwrap();
    assert_eq!((stats.accepted, stats.active, stats.active_max), (4, 4, 2));
    assert_eq!((stats.bytes_in, stats.bytes_out), (12, 8));
    let (tell, hear) = channel();
    let workers = crew.workers.handle.clone();
    crew.workers.run(move |_| drop(tell.send(workers.stats().unwrap_err().to_string()))).unwrap();
    for _ in 0..2 {
        assert_eq!(hear.recv_timeout(PATIENCE).unwrap(), "cannot ask all workers");
    }
    drop(clients);
    crew.stop();
}

#[test]
#[cfg(all(unix, target_os = "linux"))]
fn an_inherited_socket_is_served_by_all_workers() {
    use socketserver::InheritedSockets;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut sockets = InheritedSockets::new([("echo".to_owned(), listener.into())]);
    let workers = Workers::new(4, move |worker| {
        let number = worker.number();
        let mut server = TcpServer::unbound(move |_| numbered(number));
        worker.inherit_or_bind(&mut server, &mut sockets, "echo", "127.0.0.1:0")?;
        worker.add(server)
    })
    .unwrap();
    let workers = run(workers);
    assert_eq!(workers.server_addresses(), [address.into()]);
    assert_eq!(inspected_addresses(&workers), vec![vec![address.into()]; 4]);
    let mut clients: Vec<_> = (0..8).map(|_| Peer::connect(address)).collect();
    assert_eq!(counts(clients.iter_mut().map(ask)), (0..4).map(|number| (number, 2)).collect());
    drop(clients);
    workers.shutdown();
    workers.join().unwrap();
}

/// The addresses of the only server of each worker, as it shows them.
#[cfg(all(unix, target_os = "linux"))]
fn inspected_addresses(workers: &WorkersHandle) -> Vec<Vec<socketserver::Address>> {
    let (tell, hear) = channel();
    workers.run(move |reactor| _ = tell.send(reactor.inspect().servers.remove(0).addresses)).unwrap();
    hear.iter().collect()
}

/// A predecessor passes on one socket for each of its workers.
#[test]
#[cfg(all(unix, target_os = "linux"))]
fn an_address_of_several_inherited_sockets_is_shown_once() {
    use socketserver::{InheritedSockets, UdpServer};
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let inherited = (0..3).map(|_| ("echo".to_owned(), socket.try_clone().unwrap().into()));
    let mut sockets = InheritedSockets::new(inherited);
    let workers = Workers::new(2, move |worker| {
        let number = worker.number();
        let mut server = UdpServer::unbound(move |_| numbered(number));
        worker.inherit_or_bind(&mut server, &mut sockets, "echo", "127.0.0.1:0")?;
        worker.add(server)
    });
    let workers = run(workers.unwrap());
    assert_eq!(inspected_addresses(&workers), vec![vec![address.into()]; 2]);
    workers.shutdown();
    workers.join().unwrap();
}

/// The system refuses to let a socket join a group twice.
#[test]
#[cfg(all(unix, target_os = "linux"))]
fn workers_are_members_of_a_multicast_group_and_so_are_their_successors() {
    use socketserver::{InheritedSockets, MulticastGroup, MulticastInterface, UdpOptions, UdpServer};
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.join_multicast_v4(&[239, 1, 2, 3].into(), &[127, 0, 0, 1].into()).unwrap();
    let mut sockets = InheritedSockets::new([("room".to_owned(), socket.into())]);
    let workers = Workers::new(2, move |worker| {
        let number = worker.number();
        let mut group = MulticastGroup::new([239, 1, 2, 3]);
        group.interface = MulticastInterface::Address([127, 0, 0, 1].into());
        let mut options = UdpOptions::default();
        options.multicast_groups.push(group);
        let mut server = UdpServer::unbound(move |_| numbered(number));
        worker.server_bind_with(&mut server, "127.0.0.1:0", options.clone())?;
        worker.inherit_or_bind_with(&mut server, &mut sockets, "room", "192.0.2.1:0", options)?;
        worker.add(server)
    });
    let workers = run(workers.unwrap());
    assert_eq!(workers.server_addresses().len(), 2);
    workers.shutdown();
    workers.join().unwrap();
}

/// What a shell's kill(1) does to this process.
#[cfg(unix)]
fn signal_this_process(name: &str) {
    let pid = std::process::id().to_string();
    assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
}

#[test]
#[cfg(unix)]
fn one_signal_stops_all_workers_and_a_second_one_ends_them() {
    if !is_apart("one_signal_stops_all_workers_and_a_second_one_ends_them", "") {
        return;
    }
    for mut config in [WorkersConfig::default(), handed()] {
        config.reactor.drain_grace = std::time::Duration::from_secs(3_600);
        let mut workers = Workers::with_config(3, config, |worker| {
            let stays = |call, request: &mut Request<'_>| match call {
                Call::Drain => Ok(Next::Wait),
                call => common::echo(&call, request),
            };
            let mut server = TcpServer::unbound(move |_| probe(stays));
            worker.server_bind(&mut server, "127.0.0.1:0")?;
            worker.add(server)
        })
        .unwrap();
        workers.shutdown_on_signals().unwrap();
        let workers = run(workers);
        let address = workers.server_addresses()[0].clone();
        let mut clients: Vec<_> = (0..12).map(|_| Peer::connect(address.clone())).collect();
        clients.iter_mut().for_each(|client| client.echo("before"));
        signal_this_process("-TERM");
        Peer::wait_for_refusal(address);
        clients.iter_mut().for_each(|client| client.echo("during the drain"));
        signal_this_process("-INT");
        workers.join().unwrap();
        clients.iter_mut().for_each(|client| _ = client.expect_abort::<Tcp>());
    }
}

/// The threads of this process.
#[cfg(target_os = "linux")]
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
#[cfg(unix)]
fn each_reactor_logs_a_stop_once_with_the_number_of_its_worker() {
    static LINES: Collector = Collector::new();
    if !is_apart("each_reactor_logs_a_stop_once_with_the_number_of_its_worker", "") {
        return;
    }
    LINES.install();
    let mut config = WorkersConfig::default();
    config.reactor.drain_delay = std::time::Duration::from_millis(1);
    let crew = crew_with::<Tcp>(2, config, |_, _| Ok(()));
    let mut clients: Vec<_> = (0..4).map(|_| crew.connect().0).collect();
    crew.workers.shutdown();
    clients.iter_mut().for_each(|client| client.expect_eof());
    crew.workers.join().unwrap();
    let lines = LINES.lines();
    let count = |beginning: &str| lines.iter().filter(|line| line.text.starts_with(beginning)).count();
    for whose in ["worker 0: ", "worker 1: "] {
        for what in ["listening on", "stopping in", "stopping, connections to finish", "it has stopped"] {
            assert_eq!(count(&format!("{whose}{what}")), 1, "{whose}{what}: {lines:?}");
        }
    }
    assert_eq!(count("stopping"), 0, "the control thread has no connections to finish: {lines:?}");
    assert!(!lines.iter().any(|line| line.text.contains("has not stopped")), "{lines:?}");
}

#[test]
#[cfg(unix)]
fn a_worker_that_does_not_stop_is_named_once_in_the_log() {
    static LINES: Collector = Collector::new();
    if !is_apart("a_worker_that_does_not_stop_is_named_once_in_the_log", "") {
        return;
    }
    LINES.install();
    let mut config = WorkersConfig::default();
    config.reactor.drain_grace = std::time::Duration::from_millis(100);
    let crew = crew_with::<Tcp>(2, config, |_, _| Ok(()));
    let ((release, wait), (tell, begun)) = (channel(), channel());
    let blocks = move |_: &mut Reactor| {
        tell.send(()).unwrap();
        let _: std::result::Result<(), _> = wait.recv_timeout(PATIENCE);
    };
    crew.workers.handles()[1].run(blocks).unwrap();
    begun.recv_timeout(PATIENCE).unwrap();
    crew.workers.shutdown();
    let named = || LINES.lines().iter().filter(|line| line.text.starts_with("worker 1 has not stopped")).count();
    let deadline = Instant::now() + PATIENCE / 2;
    while named() == 0 {
        assert!(Instant::now() < deadline, "no line tells which worker has not stopped");
        std::thread::yield_now();
    }
    drop(release);
    crew.workers.join().unwrap();
    let text = "worker 1 has not stopped after 600ms: a callback or a thread may be running";
    assert!(LINES.lines().iter().any(|line| line.level == log::Level::Warn && line.text == text));
    assert_eq!(named(), 1);
}

/// Tells the test which server has got a message.
struct Told {
    number: usize,
    tell: Sender<usize>,
    workers: WorkersHandle,
}

impl BaseServer for Told {
    fn message(&mut self, _: &mut Others<'_, Self>, message: Message) {
        message.downcast::<&str>().expect("the value that was sent");
        self.tell.send(self.number).unwrap();
    }
}

/// Tells the counterparts of its server.
struct Telling;

impl RequestHandler<Told> for Telling {
    fn handle(&mut self, request: &mut Request<'_, Told>) -> Result<Next> {
        request.input.take_all();
        request.server.workers.send_to_counterparts(request.others.server_id(), "hello")?;
        writeln!(request.output, "{}", request.server.number)?;
        Ok(Next::Wait)
    }
}

#[test]
fn a_value_for_counterparts_reaches_the_same_server_of_each_other_worker_once() {
    let (tell, told) = channel();
    let workers = Workers::new(3, move |worker| {
        // Two servers: the first has two addresses.
        for (number, addresses) in [(worker.number(), 2), (worker.number() + 10, 1)] {
            let value = Told { number, tell: tell.clone(), workers: worker.workers() };
            let mut server = TcpServer::unbound_with_server(value, |_, _| Telling);
            for _ in 0..addresses {
                worker.server_bind(&mut server, "127.0.0.1:0")?;
            }
            worker.add(server)?;
        }
        Ok(())
    });
    let workers = run(workers.unwrap());
    for (address, wanted) in workers.server_addresses().into_iter().zip([0..3, 0..3, 10..13]) {
        let mut client = Peer::connect(address);
        client.send("x");
        let own: usize = client.line().trim().parse().unwrap();
        let mut others = [(); 2].map(|()| told.recv_timeout(PATIENCE).expect("the others are told"));
        others.sort();
        assert_eq!(others.to_vec(), wanted.filter(|number| *number != own).collect::<Vec<_>>());
    }
    let inspected = workers.inspect().unwrap();
    assert_eq!(inspected.iter().map(|worker| worker.worker).collect::<Vec<_>>(), [Some(0), Some(1), Some(2)]);
    assert!(inspected[2].to_string().starts_with("worker 2: Serving: "), "{}", inspected[2]);
    workers.shutdown();
    workers.join().unwrap();
    assert_eq!(told.iter().count(), 0, "more were told");
}

#[cfg(unix)]
#[test]
fn connections_that_are_refused_because_of_their_header_are_in_the_statistics_of_the_workers() {
    let mut config = WorkersConfig::default();
    config.spread = Spread::Handed;
    let workers = Workers::with_config(2, config, |worker| {
        let mut options = socketserver::TcpOptions::default();
        options.proxy_protocol = Some(socketserver::ProxyProtocol::trusting(["127.0.0.1".parse().unwrap()]));
        let mut server = TcpServer::unbound(|_| numbered(0));
        worker.server_bind_as::<Tcp>(&mut server, "127.0.0.1:0", options)?;
        worker.add(server)
    })
    .unwrap();
    let address = Tcp::at(&workers.server_addresses()[0]);
    let crew = Crew::<Tcp> { workers: run(workers), address, _directory: None };
    let mut served = Peer::connect(address);
    served.send("PROXY TCP4 192.0.2.1 192.0.2.2 50000 80\r\n");
    assert_eq!(ask(&mut served), 0);
    let mut refused = Peer::connect(address);
    refused.send("no header\r\n");
    let _ = refused.read_to_the_end();
    let stats = crew.wait_for_stats(|stats| stats.refused == 1);
    assert_eq!((stats.accepted, stats.proxy_headers_failed, stats.active), (2, 1, 1));
    crew.workers.shutdown_now();
    crew.workers.join().unwrap();
}
