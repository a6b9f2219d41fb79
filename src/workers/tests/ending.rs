//! What is left when a worker, a server, or all workers end: nothing listens that nobody serves, and nothing waits.

use super::*;
use crate::blocking::{BlockingHandler, BlockingRequest};
use crate::handler::others::Others;
use crate::inspection::ReactorPhase;
use crate::reactor::Reactor;
use crate::reactor::shutdown::stop::Hold;
use crate::server::UdpServer;
use crate::server::hooks::BaseServer;
use crate::server::threading::{NoHandler, ThreadingTcpServer};

/// Calls it until it returns true.
#[track_caller]
pub(super) fn wait_until(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it never is so");
        std::thread::yield_now();
    }
}

/// What a reactor answers.
pub(super) fn of<T: Send + 'static>(handle: &Handle, ask: impl FnOnce(&mut Reactor) -> T + Send + 'static) -> T {
    let (tell, hear) = channel();
    handle.run(move |reactor| drop(tell.send(ask(reactor)))).unwrap();
    hear.recv_timeout(PATIENCE).unwrap()
}

/// A program that another test starts may have the socket for a moment.
pub(super) fn is_refused(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// All of some clients get an answer.
#[track_caller]
pub(super) fn all_are_served(address: SocketAddr) {
    assert_eq!((0..20).filter(|_| ask(&mut connect(address)).is_none()).count(), 0);
}

#[test]
fn a_worker_that_is_stopped_at_once_stops_the_others() {
    let (workers, address) = start::<Tcp>(2, WorkersConfig::default());
    assert!(ask(&mut connect(address)).is_some());
    workers.handles()[0].shutdown_handle().shutdown_now();
    join(workers).unwrap();
}

#[test]
fn a_second_stop_does_not_wait_for_threads_as_with_one_reactor() {
    struct Waits(Arc<Mutex<Receiver<()>>>);
    impl BlockingHandler for Waits {
        fn handle(&mut self, _: &mut BlockingRequest) -> Result<()> {
            let _ = self.0.lock().unwrap().recv_timeout(2 * PATIENCE);
            Ok(())
        }
    }
    let (release, wait) = channel();
    let wait = Arc::new(Mutex::new(wait));
    let mut config = WorkersConfig::default();
    config.reactor.drain_grace = Duration::from_millis(500);
    let workers = Workers::with_config(1, config, move |worker| {
        let wait = Arc::clone(&wait);
        let mut server = ThreadingTcpServer::unbound(move |_| Waits(Arc::clone(&wait)));
        server.limits.block_on_close = true;
        worker.server_bind(&mut server, "127.0.0.1:0")?;
        worker.add(server)
    });
    let (workers, address) = run(workers.unwrap());
    let _client = connect(address);
    wait_until(|| workers.stats().unwrap().active == 1);
    workers.shutdown();
    wait_until(|| workers.handles().is_empty()); // Now it waits for the thread.
    workers.shutdown_now();
    join(workers).unwrap();
    drop(release);
}

#[test]
fn the_control_reactor_waits_for_workers_with_more_grace() {
    let mut config = config(Spread::Kernel, true);
    config.reactor.drain_grace = Duration::ZERO;
    let workers = Workers::with_config(1, config, |worker| {
        let mut config = worker.reactor().config().clone();
        config.drain_grace = Duration::from_secs(3_600);
        worker.reactor().set_config(config);
        let mut server = TcpServer::unbound(|_| Stays(Numbered(0)));
        worker.server_bind(&mut server, "127.0.0.1:0")?;
        worker.add(server)
    });
    let (workers, address) = run(workers.unwrap());
    let mut client = connect(address);
    assert_eq!(ask(&mut client), Some(0));
    workers.shutdown();
    wait_until(|| workers.inspect().unwrap()[0].phase == ReactorPhase::Draining);
    for _ in 0..3 {
        assert_eq!(of(&workers.crew().control, |reactor| reactor.inspect().phase), ReactorPhase::Draining);
    }
    assert_eq!(ask(&mut client), Some(0));
    drop(client);
    join(workers).unwrap();
}

#[test]
fn clients_that_no_worker_has_taken_see_the_end() {
    let (workers, address) = start::<Tcp>(1, config(Spread::Handed, false));
    let mut clients = vec![connect(address)];
    assert_eq!(ask(&mut clients[0]), Some(0));
    let go = block_worker(&workers.handles()[0]);
    break_worker(&workers.handles()[0]);
    clients.extend((0..100).map(|_| connect(address)));
    // After some turns of the acceptor they are on their way to the worker.
    (0..20).for_each(|_| drop(of(&workers.crew().control, |reactor| reactor.inspect())));
    let handle = workers.handle.clone();
    workers.shutdown_now();
    wait_until(|| workers.crew().control.run(|_| ()).is_err()); // The acceptor has ended.
    drop(go);
    assert!(matches!(join(workers), Err(Error::Panicked { .. })));
    assert!(clients.iter_mut().all(|client| ask(client).is_none()));
    drop(handle);
}

#[test]
fn a_server_that_one_worker_drains_is_served_by_the_others() {
    for spread in [Spread::Kernel, Spread::Handed] {
        let (workers, address) = start::<Tcp>(2, config(spread, true));
        all_are_served(address);
        let drain = |reactor: &mut Reactor| {
            let server = reactor.inspect().servers[0].id;
            reactor.drain_server(server);
        };
        let handles = workers.handles();
        handles[0].run(drain).unwrap();
        workers.stats().unwrap(); // The drain has begun since.
        all_are_served(address);
        handles[1].run(drain).unwrap();
        wait_until(|| is_refused(address));
        assert!(workers.server_addresses().is_empty());
        workers.shutdown();
        join(workers).unwrap();
    }
}

#[test]
fn datagrams_are_answered_while_a_page_waits_for_other_workers() {
    let workers = Workers::new(2, |worker| {
        let number = worker.number() as u8;
        let mut server = TcpServer::unbound(move |_| Stays(Numbered(number)));
        worker.server_bind(&mut server, "127.0.0.1:0")?;
        worker.server_bind_as::<Udp>(&mut server, "127.0.0.1:0", Default::default())?;
        worker.add(server)?;
        if number == 0 {
            let mut page = UdpServer::unbound(|_| Numbered(0));
            page.limits.serve_while_draining = true;
            worker.server_bind(&mut page, "127.0.0.1:0")?;
            worker.add(page)?;
        }
        Ok(())
    });
    let (workers, address) = run(workers.unwrap());
    let mut clients: Vec<_> = (0..64).map(|_| connect(address)).collect();
    clients.retain_mut(|client| ask(client) == Some(1));
    assert!(!clients.is_empty());
    let [udp, page] = [1, 2].map(|at| workers.server_addresses()[at].as_inet().unwrap());
    let handles = workers.handles();
    workers.shutdown();
    // The first worker has time to drain, and nothing wakes it.
    (0..100).for_each(|_| drop(of(&handles[1], |reactor| reactor.inspect())));
    let answer = |address| {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut answer = [9];
        // A program that another test starts may have the first worker's socket for a moment, and reads nothing.
        wait_until(|| {
            client.send_to(b"?", address).unwrap();
            client.recv(&mut answer).is_ok()
        });
        answer[0]
    };
    (0..20).for_each(|_| _ = answer(udp));
    wait_until(|| of(&handles[0], |reactor| reactor.core.hold) == Hold::OthersOnly);
    for _ in 0..20 {
        assert_eq!((answer(udp), answer(page)), (1, 0));
    }
    drop(clients);
    join(workers).unwrap();
}

#[test]
fn a_socket_is_taken_over_although_the_queue_is_full() {
    let mut config = config(Spread::Kernel, false);
    config.reactor.messages_max = 2;
    let (workers, address) = start::<Tcp>(2, config);
    let handles = workers.handles();
    let go = block_worker(&handles[1]);
    while handles[1].run(|_| ()).is_ok() {}
    let owners = Arc::strong_count(workers.crew());
    break_worker(&handles[0]);
    wait_until(|| Arc::strong_count(workers.crew()) == owners - 2); // The worker and its place.
    drop(go);
    wait_until(|| workers.stats().is_ok());
    all_are_served(address);
    stop_after_panic(workers);
}

#[test]
fn others_serve_the_sockets_of_a_worker_that_cannot_be_made_again() {
    let may_make = Arc::new(AtomicBool::new(true));
    let may = Arc::clone(&may_make);
    let workers = Workers::with_config(2, config(Spread::Kernel, true), move |worker| {
        if !may.load(Ordering::Relaxed) {
            return Err(Error::other("the configuration is broken"));
        }
        let number = worker.number() as u8;
        let mut server = Server::<Tcp, (), _>::unbound(move |_| Numbered(number));
        worker.server_bind(&mut server, "127.0.0.1:0")?;
        worker.add(server)
    });
    let (workers, address) = run(workers.unwrap());
    may_make.store(false, Ordering::Relaxed);
    break_worker(&workers.handles()[0]);
    wait_until(|| workers.handles().len() == 1);
    all_are_served(address);
    may_make.store(true, Ordering::Relaxed);
    wait_until(|| ask(&mut connect(address)) == Some(0));
    stop_after_panic(workers);
}

#[test]
fn a_reload_is_not_lost_although_the_queue_is_full() {
    struct Counts(Arc<AtomicUsize>);
    impl BaseServer for Counts {
        fn reload(&mut self, _: &mut Others<'_, Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let (counted, mut config) = (Arc::new(AtomicUsize::new(0)), WorkersConfig::default());
    config.reactor.messages_max = 2;
    let count = Arc::clone(&counted);
    let workers = Workers::with_config(1, config, move |worker| {
        let mut server = TcpServer::unbound_with_server(Counts(Arc::clone(&count)), |_, _| NoHandler);
        worker.server_bind(&mut server, "127.0.0.1:0")?;
        worker.add(server)
    });
    let (workers, _) = run(workers.unwrap());
    let handle = workers.handles().remove(0);
    let go = block_worker(&handle);
    while handle.run(|_| ()).is_ok() {}
    of(&workers.crew().control, |reactor| reactor.reload());
    drop(go);
    wait_until(|| counted.load(Ordering::Relaxed) == 1);
    workers.shutdown();
    join(workers).unwrap();
}

#[test]
fn nothing_listens_if_a_stop_comes_while_a_worker_is_replaced() {
    let (tell, making) = channel();
    let (go, wait) = channel::<()>();
    let mut made = 0;
    let workers = Workers::with_config(1, config(Spread::Kernel, true), move |worker| {
        made += 1;
        if made > 1 {
            tell.send(()).unwrap();
            let _ = wait.recv_timeout(PATIENCE);
        }
        let mut server = Server::<Tcp, (), _>::unbound(|_| Numbered(0));
        worker.server_bind(&mut server, "127.0.0.1:0")?;
        worker.add(server)
    });
    let (workers, address) = run(workers.unwrap());
    break_worker(&workers.handles()[0]);
    making.recv_timeout(PATIENCE).unwrap();
    workers.shutdown();
    wait_until(|| workers.crew().is_stopping());
    let handle = workers.handle.clone();
    drop(go);
    assert!(matches!(join(workers), Err(Error::Panicked { .. })));
    wait_until(|| is_refused(address));
    drop(handle);
}

#[test]
fn workers_that_are_dropped_listen_no_more_and_have_not_failed() {
    let workers = Workers::new(2, |worker| {
        let mut server = TcpServer::unbound(|_| Numbered(0));
        worker.server_bind(&mut server, "127.0.0.1:0")?;
        worker.add(server)
    });
    let workers = workers.unwrap();
    let (handle, address) = (workers.handle(), workers.server_addresses()[0].as_inet().unwrap());
    drop(connect(address));
    drop(workers);
    wait_until(|| is_refused(address));
    assert!(handle.crew().is_stopping(), "otherwise an error is logged");
}

#[test]
fn the_file_of_a_datagram_socket_goes_with_the_workers() {
    let path = std::env::temp_dir().join(format!("workers-ending-{}", std::process::id()));
    let at = path.clone();
    let workers = Workers::new(2, move |worker| {
        let mut server = crate::server::UnixDatagramServer::unbound(|_| NoHandler);
        worker.server_bind(&mut server, &at)?;
        worker.add(server)
    });
    let workers = workers.unwrap();
    let handle = workers.handle();
    assert!(path.exists());
    workers.shutdown();
    workers.serve_forever().unwrap();
    assert!(!path.exists());
    drop(handle);
}

#[test]
#[cfg(all(unix, feature = "restart"))]
fn a_socket_at_a_position_is_one_for_all_workers() {
    use crate::reactor::served::KeptElsewhere as _;

    for datagrams in [false, true] {
        let mut sockets = crate::server::inherited::InheritedSockets::default();
        let workers = Workers::new(3, move |worker| {
            let mut server = TcpServer::unbound(|_| Numbered(0));
            if datagrams {
                worker.inherit_or_bind_as::<Udp>(&mut server, &mut sockets, 0, "127.0.0.1:0", Default::default())?;
            } else {
                worker.inherit_or_bind(&mut server, &mut sockets, 0, "127.0.0.1:0")?;
            }
            worker.add(server)
        });
        let (workers, address) = run(workers.unwrap());
        if !datagrams {
            all_are_served(address);
        }
        let named = of(&workers.crew().control, |reactor| {
            reactor.core.served.iter().map(|(_, served)| served.named.len()).sum::<usize>()
        });
        assert_eq!(named + workers.crew().sockets().unwrap().len(), 1);
        workers.shutdown();
        join(workers).unwrap();
    }
}

#[test]
fn a_client_that_the_acceptor_accepts_too_late_sees_the_end() {
    let (workers, address) = start::<Tcp>(1, config(Spread::Handed, true));
    let go = block_worker(&workers.crew().control);
    let mut client = connect(address);
    let handle = workers.handles().remove(0);
    of(&handle, |reactor| {
        let server = reactor.inspect().servers[0].id;
        reactor.drain_server(server);
    });
    of(&handle, |_| ()); // The worker has left the socket since.
    drop(go);
    assert_eq!(ask(&mut client), None);
    workers.shutdown();
    join(workers).unwrap();
}

#[test]
fn the_sockets_of_a_server_that_no_worker_has_any_more_are_closed() {
    for spread in [Spread::Handed, Spread::Kernel] {
        let workers = Workers::with_config(2, config(spread, false), |worker| {
            if worker.number() == 0 {
                let mut server = TcpServer::unbound(|_| Numbered(0));
                worker.server_bind(&mut server, "127.0.0.1:0")?;
                worker.add(server)?;
            }
            Ok(())
        });
        let (workers, address) = run(workers.unwrap());
        all_are_served(address);
        break_worker(&workers.handles()[0]);
        wait_until(|| is_refused(address));
        assert!(workers.server_addresses().is_empty());
        stop_after_panic(workers);
    }
}

#[test]
fn nobody_listens_during_a_drain_for_a_worker_that_is_not_replaced_because_of_it() {
    for fails in [false, true] {
        let (tell, making) = channel();
        let (go, wait) = channel::<()>();
        let mut made = 0;
        let mut config = config(Spread::Kernel, true);
        config.reactor.drain_grace = Duration::from_secs(3_600);
        let workers = Workers::with_config(2, config, move |worker| {
            let number = worker.number() as u8;
            made += 1;
            if made > 2 {
                tell.send(()).unwrap();
                let _ = wait.recv_timeout(PATIENCE);
            }
            let mut server = TcpServer::unbound(move |_| Stays(Numbered(number)));
            worker.server_bind(&mut server, "127.0.0.1:0")?;
            if made > 2 && fails {
                return Err(Error::from("it fails when it has bound its server"));
            }
            worker.add(server)
        });
        let (workers, address) = run(workers.unwrap());
        let mut clients: Vec<_> = (0..64).map(|_| connect(address)).collect();
        clients.retain_mut(|client| ask(client) == Some(1));
        break_worker(&workers.handles()[0]);
        making.recv_timeout(PATIENCE).unwrap();
        workers.shutdown();
        wait_until(|| is_refused(address));
        let owners = Arc::strong_count(workers.crew());
        drop(go);
        wait_until(|| Arc::strong_count(workers.crew()) == owners - 2); // The worker and its place.
        wait_until(|| is_refused(address));
        assert_eq!(ask(&mut clients[0]), Some(1));
        drop(clients);
        stop_after_panic(workers);
    }
}

#[test]
fn the_queue_for_messages_does_not_bound_the_number_of_addresses() {
    let mut config = config(Spread::Handed, true);
    config.reactor.messages_max = 1;
    let workers = Workers::with_config(1, config, |worker| {
        let mut server = TcpServer::unbound(|_| Numbered(0));
        (0..3).try_for_each(|_| worker.server_bind(&mut server, "127.0.0.1:0"))?;
        worker.add(server)
    });
    let (workers, _) = run(workers.unwrap());
    workers.server_addresses().iter().for_each(|address| all_are_served(address.as_inet().unwrap()));
    workers.shutdown();
    join(workers).unwrap();
}

#[test]
fn others_serve_the_socket_of_a_worker_whose_replacement_does_not_bind_it() {
    let mut made = 0;
    let workers = Workers::with_config(2, config(Spread::Kernel, true), move |worker| {
        made += 1;
        if made <= 2 {
            let mut server = TcpServer::unbound(|_| Numbered(0));
            worker.server_bind(&mut server, "127.0.0.1:0")?;
            worker.add(server)?;
        }
        Ok(())
    });
    let (workers, address) = run(workers.unwrap());
    let handle = workers.handles().remove(0);
    break_worker(&handle);
    wait_until(|| handle.run(|_| ()).is_err());
    all_are_served(address);
    stop_after_panic(workers);
}
