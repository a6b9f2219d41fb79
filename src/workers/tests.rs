//! What becomes of clients when a worker panics. User code cannot make a reactor panic, so these tests break one.
#![allow(clippy::disallowed_methods, reason = "a test has a deadline")]

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use self::ending::{is_refused, wait_until};
use super::Workers;
use super::handle::WorkersHandle;
use crate::error::{Error, Result};
use crate::handler::RequestHandler;
use crate::handler::request::Request;
use crate::lifecycle::Next;
use crate::limits::{Spread, WorkersConfig};
use crate::net::family::{Family, Tcp, Udp};
use crate::reactor::handle::Handle;
use crate::server::{Server, TcpServer};

const PATIENCE: Duration = Duration::from_secs(10);

/// Answers with the number of its worker, one byte.
struct Numbered(u8);

impl RequestHandler for Numbered {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        request.input.take_all();
        request.output.write_all(&[self.0])?;
        Ok(Next::Wait)
    }
}

fn config(spread: Spread, replace_failed: bool) -> WorkersConfig {
    WorkersConfig { spread, replace_failed, ..WorkersConfig::default() }
}

/// Workers that serve on another thread.
struct Running {
    handle: WorkersHandle,
    serving: Receiver<Result<()>>,
}

fn run(workers: Workers) -> (Running, SocketAddr) {
    let (handle, address) = (workers.handle(), workers.server_addresses()[0].as_inet().unwrap());
    let (tell, serving) = channel();
    std::thread::spawn(move || tell.send(workers.serve_forever()));
    (Running { handle, serving }, address)
}

impl std::ops::Deref for Running {
    type Target = WorkersHandle;

    fn deref(&self) -> &WorkersHandle {
        &self.handle
    }
}

fn start<F: Family<Address = SocketAddr>>(count: usize, config: WorkersConfig) -> (Running, SocketAddr) {
    let workers = Workers::with_config(count, config, |worker| {
        let number = worker.number() as u8;
        let mut server = Server::<F, (), _>::unbound(move |_| Numbered(number));
        worker.server_bind(&mut server, SocketAddr::from(([127, 0, 0, 1], 0)))?;
        worker.add(server)
    });
    run(workers.unwrap())
}

/// Makes its next turn panic.
fn break_worker(handle: &Handle) {
    handle.run(|reactor| reactor.core.served.clear()).unwrap();
}

/// Lets a worker do nothing until the sender is dropped.
fn block_worker(handle: &Handle) -> Sender<()> {
    let (go, wait) = channel();
    let (tell, begun) = channel();
    handle
        .run(move |_| {
            let _ = tell.send(());
            let _: Result<(), _> = wait.recv_timeout(PATIENCE);
        })
        .unwrap();
    begun.recv_timeout(PATIENCE).unwrap();
    go
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("no client is refused");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The worker that serves it. `None` if the connection has ended.
fn ask(stream: &mut TcpStream) -> Option<u8> {
    let mut number = [0];
    match stream.write_all(b"?").and_then(|()| stream.read(&mut number)) {
        Ok(0) => None,
        Ok(_) => Some(number[0]),
        Err(error) => {
            use std::io::ErrorKind as Kind;
            assert!(matches!(error.kind(), Kind::ConnectionReset | Kind::BrokenPipe), "{error}");
            None
        }
    }
}

#[track_caller]
fn join(workers: Running) -> Result<()> {
    workers.serving.recv_timeout(PATIENCE).expect("the workers end")
}

#[track_caller]
fn stop_after_panic(workers: Running) {
    workers.shutdown();
    assert!(matches!(join(workers), Err(Error::Panicked { .. })));
}

/// Breaks a worker while clients come and go. Each client gets an answer or sees the end of its connection, and none
/// that comes later misses the worker.
fn no_client_is_lost_silently(spread: Spread, replace_failed: bool) {
    const CLIENTS: usize = 8;
    let (workers, address) = start::<Tcp>(4, config(spread, replace_failed));
    let over = Arc::new(AtomicBool::new(false));
    let (answered, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (over, answered, ended) = (Arc::clone(&over), Arc::clone(&answered), Arc::clone(&ended));
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let counter = if ask(&mut connect(address)).is_some() { &answered } else { &ended };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let wait_for = |count: usize| {
        let (deadline, wanted) = (Instant::now() + PATIENCE, answered.load(Ordering::Relaxed) + count);
        while answered.load(Ordering::Relaxed) < wanted {
            assert!(Instant::now() < deadline, "clients get no answer");
            std::thread::yield_now();
        }
    };
    wait_for(100);
    let mut connected: Vec<_> = (0..32).map(|_| connect(address)).collect();
    let before: Vec<_> = connected.iter_mut().map(ask).collect();
    break_worker(&workers.handles()[1]);
    for (client, before) in connected.iter_mut().zip(before) {
        // It was served by a worker that lives on, or it ends.
        match before {
            Some(1) => {
                let deadline = Instant::now() + PATIENCE;
                while ask(client).is_some() {
                    assert!(Instant::now() < deadline, "the broken worker serves on");
                }
            }
            before => assert_eq!(ask(client), before),
        }
    }
    wait_for(500);
    over.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert!(ended.load(Ordering::Relaxed) <= CLIENTS, "only those that the worker had");
    let numbers = |_| ask(&mut connect(address)).unwrap();
    let serving: std::collections::BTreeSet<u8> = (0..200).map(numbers).collect();
    assert_eq!(serving.contains(&1), replace_failed);
    assert_eq!(workers.handles().len(), if replace_failed { 4 } else { 3 });
    stop_after_panic(workers);
}

#[test]
fn a_new_worker_serves_the_socket_of_one_that_panics() {
    no_client_is_lost_silently(Spread::Kernel, true);
}

#[test]
fn another_worker_serves_the_socket_of_one_that_panics() {
    no_client_is_lost_silently(Spread::Kernel, false);
}

#[test]
fn a_new_worker_is_handed_connections() {
    no_client_is_lost_silently(Spread::Handed, true);
}

#[test]
fn a_worker_that_panicked_is_handed_no_connections() {
    no_client_is_lost_silently(Spread::Handed, false);
}

/// They are in the backlog of the worker, or in its mailbox.
fn clients_that_wait_for_a_worker_that_panics_are_served(spread: Spread, replace_failed: bool) {
    let mut config = config(spread, replace_failed);
    config.reactor.messages_per_turn = 1; // It panics before it takes them.
    let (workers, address) = start::<Tcp>(2, config);
    let handle = workers.handles()[0].clone();
    let blocked = block_worker(&handle);
    break_worker(&handle);
    let mut clients: Vec<_> = (0..40).map(|_| connect(address)).collect();
    let answers = clients.iter_mut().map(|client| {
        client.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        client.write_all(b"?").and_then(|()| client.read(&mut [0]))
    });
    assert!(answers.filter(io::Result::is_err).count() > 0, "some wait for the worker");
    drop(blocked);
    for client in &mut clients {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(ask(client).is_some(), "a client is lost");
    }
    stop_after_panic(workers);
}

#[test]
fn clients_in_the_backlog_of_a_worker_that_panics_are_served_by_a_new_one() {
    clients_that_wait_for_a_worker_that_panics_are_served(Spread::Kernel, true);
}

#[test]
fn clients_in_the_backlog_of_a_worker_that_panics_are_served_by_another() {
    clients_that_wait_for_a_worker_that_panics_are_served(Spread::Kernel, false);
}

#[test]
fn clients_that_were_handed_to_a_worker_that_panics_are_handed_to_another() {
    clients_that_wait_for_a_worker_that_panics_are_served(Spread::Handed, true);
    clients_that_wait_for_a_worker_that_panics_are_served(Spread::Handed, false);
}

#[test]
fn datagrams_that_wait_for_a_worker_that_panics_are_answered() {
    for replace_failed in [true, false] {
        let (workers, address) = start::<Udp>(2, config(Spread::Kernel, replace_failed));
        let blocked = block_worker(&workers.handles()[0]);
        let clients: Vec<_> = (0..40).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        clients.iter().for_each(|client| _ = client.send_to(b"?", address).unwrap());
        break_worker(&workers.handles()[0]);
        drop(blocked);
        for client in clients {
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.recv(&mut [0]).expect("an answer");
        }
        stop_after_panic(workers);
    }
}

#[test]
fn when_the_last_worker_has_panicked_clients_are_refused() {
    for spread in [Spread::Kernel, Spread::Handed] {
        let (workers, address) = start::<Tcp>(3, config(spread, false));
        workers.handles().iter().for_each(break_worker);
        assert!(matches!(join(workers), Err(Error::Panicked { .. })));
        wait_until(|| is_refused(address));
    }
}

/// What all tests log.
struct Lines(Mutex<Vec<String>>);

static LINES: Lines = Lines(Mutex::new(Vec::new()));

type Hears = Arc<dyn Fn(&str) + Send + Sync>;

/// Those that hear each line.
static HEAR: Mutex<Vec<Hears>> = Mutex::new(Vec::new());

fn listen_to_log(hears: impl Fn(&str) + Send + Sync + 'static) {
    HEAR.lock().unwrap().push(Arc::new(hears));
    let _ = log::set_logger(&LINES); // Another test may have done so.
    log::set_max_level(log::LevelFilter::Info);
}

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        let line = record.args().to_string();
        let hear = HEAR.lock().unwrap().clone();
        hear.iter().for_each(|hears| hears(&line));
        self.0.lock().unwrap().push(line);
    }
    fn flush(&self) {}
}

#[test]
fn the_log_tells_which_worker_has_failed_and_why_none_is_left() {
    listen_to_log(|_| ());
    let (workers, _) = start::<Tcp>(3, config(Spread::Handed, false));
    workers.handles().iter().for_each(break_worker);
    join(workers).unwrap_err();
    let (workers, address) = failing(|made| if made == 1 { Err(Error::from("not logged by others")) } else { Ok(()) });
    break_worker(&workers.handles()[0]);
    assert_eq!(ask(&mut connect(address)), Some(0));
    stop_after_panic(workers);
    let lines = LINES.0.lock().unwrap();
    let has = |wanted: &str| assert!(lines.iter().any(|line| line.starts_with(wanted)), "{wanted}: {lines:?}");
    (0..3).for_each(|number| has(&format!("worker {number}: it has failed: ")));
    has("no worker is left; the first failure: panicked: ");
    has("worker 0: it cannot be made again: not logged by others");
    has("worker 0: it serves again");
}

/// A worker of which the first reactor panics, and `later` makes the others.
fn failing(later: impl Fn(usize) -> Result<()> + Send + 'static) -> (Running, SocketAddr) {
    let made = AtomicUsize::new(0);
    let workers = Workers::new(1, move |worker| {
        let made = made.fetch_add(1, Ordering::Relaxed);
        if made > 0 {
            later(made)?;
        }
        let mut server = TcpServer::unbound(|_| Numbered(0));
        worker.server_bind(&mut server, "127.0.0.1:0")?;
        worker.add(server)
    });
    run(workers.unwrap())
}

#[test]
fn attempts_to_replace_a_worker_do_not_spin_and_clients_wait() {
    let (workers, address) = failing(|made| match made {
        1 | 3 => Err(Error::from("not yet")),
        2 | 4 => panic!("not yet"),
        _ => Ok(()),
    });
    let begun = Instant::now();
    break_worker(&workers.handles()[0]);
    let mut client = connect(address);
    assert_eq!(ask(&mut client), Some(0));
    // 10 + 20 + 40 + 80 + 160 ms
    assert!(begun.elapsed() >= Duration::from_millis(300), "the pauses are kept");
    stop_after_panic(workers);
}

#[test]
fn a_stop_does_not_wait_for_a_worker_that_cannot_be_replaced() {
    let attempted = Arc::new(Barrier::new(2));
    let attempts = Arc::clone(&attempted);
    let (workers, _) = failing(move |made| {
        if made == 1 {
            attempts.wait();
        }
        Err(Error::from("never"))
    });
    break_worker(&workers.handles()[0]);
    attempted.wait();
    assert!(workers.stats().is_ok());
    stop_after_panic(workers);
}

#[test]
fn the_counters_of_a_worker_that_panicked_stay() {
    let (workers, address) = start::<Tcp>(1, WorkersConfig::default());
    let mut client = connect(address);
    assert_eq!(ask(&mut client), Some(0));
    break_worker(&workers.handles()[0]);
    while ask(&mut client).is_some() {}
    let mut client = connect(address);
    assert_eq!(ask(&mut client), Some(0));
    let stats = workers.stats().unwrap();
    assert_eq!((stats.accepted, stats.active, stats.closed), (2, 1, 1));
    stop_after_panic(workers);
}

#[test]
#[cfg(all(unix, feature = "restart"))]
fn a_worker_that_is_made_after_a_failed_restart_knows_it() {
    let (workers, address) = start::<Tcp>(1, WorkersConfig::default());
    let mut client = connect(address);
    assert_eq!(ask(&mut client), Some(0));
    let (tell, failed) = channel();
    let fail = move |reactor: &mut crate::reactor::Reactor| {
        reactor.restart_failed("it has ended".to_owned());
        let _ = tell.send(());
    };
    workers.crew().control.run(fail).unwrap();
    failed.recv_timeout(PATIENCE).unwrap();
    let reason = || workers.inspect().unwrap().remove(0).failed_restart.map(|failed| failed.reason);
    assert_eq!(reason().as_deref(), Some("it has ended"));
    break_worker(&workers.handles()[0]);
    while ask(&mut client).is_some() {}
    assert_eq!(ask(&mut connect(address)), Some(0));
    assert_eq!(reason().as_deref(), Some("it has ended"));
    stop_after_panic(workers);
}

/// A page that serves while others drain waits for a worker until that worker has panicked.
#[test]
fn a_worker_that_panics_during_a_stop_does_not_hold_the_others() {
    for replace_failed in [true, false] {
        let mut config = config(Spread::Handed, replace_failed);
        config.reactor.drain_grace = Duration::from_secs(3_600);
        let (tell, page) = channel();
        let workers = Workers::with_config(2, config, move |worker| {
            let number = worker.number() as u8;
            let mut server = TcpServer::unbound(move |_| Stays(Numbered(number)));
            worker.server_bind(&mut server, "127.0.0.1:0")?;
            worker.add(server)?;
            if worker.number() == 0 {
                let mut page = TcpServer::unbound(|_| Numbered(0));
                page.limits.serve_while_draining = true;
                page.server_bind("127.0.0.1:0")?;
                let _ = tell.send(page.server_addresses()[0].as_inet().unwrap());
                worker.add(page)?;
            }
            Ok(())
        });
        let (workers, address) = run(workers.unwrap());
        let handles = workers.handles();
        let mut page = connect(page.recv().unwrap());
        assert_eq!(ask(&mut page), Some(0));
        // The page may have counted already. Then the first of them is of worker 1, and otherwise the second.
        let mut clients = [(); 2].map(|()| connect(address));
        let client = clients.iter_mut().find_map(|client| (ask(client) == Some(1)).then_some(client));
        let client = client.expect("each worker has clients");
        workers.shutdown();
        assert_eq!(ask(&mut page), Some(0));
        break_worker(&handles[1]);
        assert_eq!(ask(client), None);
        drop(clients);
        assert!(matches!(join(workers), Err(Error::Panicked { .. })));
        assert_eq!(ask(&mut page), None);
    }
}

/// Its clients stay during a drain.
struct Stays(Numbered);

impl RequestHandler for Stays {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        self.0.handle(request)
    }

    fn drain(&mut self, _: &mut Request<'_>) -> Result<Next> {
        Ok(Next::Wait)
    }
}

mod closing;
mod ending;
#[cfg(all(feature = "batch", target_os = "linux"))]
mod joining;
mod remaking;
mod shortage;
