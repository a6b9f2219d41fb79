//! What is left when a worker is made again, or cannot be: each socket is served, or closed.

use super::ending::{all_are_served, is_refused, of, wait_until};
use super::*;
use crate::address::Address;
use crate::net::Listener;
use crate::net::Socket;
use crate::net::family::Bound;
use crate::net::scripted::{ScriptedListener, ScriptedStream};
use crate::net::site::{Options, Site};
use crate::workers::sharing::Kept;

#[test]
fn attempts_that_fail_leave_no_sockets_to_the_others() {
    let (made, may_make) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, may) = (Arc::clone(&made), Arc::clone(&may_make));
    let workers = Workers::with_config(2, config(Spread::Kernel, true), move |worker| {
        let number = worker.number() as u8;
        let mut server = TcpServer::unbound(move |_| Numbered(number));
        worker.server_bind(&mut server, "127.0.0.1:0")?;
        if count.fetch_add(1, Ordering::SeqCst) < 2 || may.load(Ordering::SeqCst) {
            worker.add(server).map(drop)
        } else {
            Err(Error::from("the configuration is broken"))
        }
    });
    let (workers, address) = run(workers.unwrap());
    let handles = workers.handles();
    break_worker(&handles[0]);
    wait_until(|| made.load(Ordering::SeqCst) >= 7); // Four attempts have failed, and a fifth has begun.
    let listeners = of(&handles[1], |reactor| {
        let server = reactor.inspect().servers[0].id;
        reactor.server_addresses(server).len()
    });
    assert_eq!(listeners, 2, "its own, and the first one of the other worker");
    all_are_served(address);
    may_make.store(true, Ordering::SeqCst);
    wait_until(|| ask(&mut connect(address)) == Some(0));
    stop_after_panic(workers);
}

#[test]
fn an_address_that_only_a_failed_attempt_has_bound_is_closed() {
    for spread in [Spread::Kernel, Spread::Handed] {
        let (may_make, mut made) = (Arc::new(AtomicBool::new(false)), 0);
        let (may, (tell, hear)) = (Arc::clone(&may_make), channel());
        let workers = Workers::with_config(1, config(spread, true), move |worker| {
            made += 1;
            let mut server = TcpServer::unbound(|_| Numbered(0));
            worker.server_bind(&mut server, "127.0.0.1:0")?;
            if made == 2 {
                worker.server_bind(&mut server, "127.0.0.1:0")?;
                tell.send(worker.workers().server_addresses()[1].as_inet().unwrap()).unwrap();
            }
            if made > 1 && !may.load(Ordering::SeqCst) {
                return Err(Error::from("the configuration is broken"));
            }
            worker.add(server).map(drop)
        });
        let (workers, address) = run(workers.unwrap());
        break_worker(&workers.handles()[0]);
        let other = hear.recv_timeout(PATIENCE).unwrap();
        wait_until(|| is_refused(other));
        assert_eq!(workers.server_addresses(), [address.into()]);
        let mut client = connect(address); // It waits.
        may_make.store(true, Ordering::SeqCst);
        assert_eq!(ask(&mut client), Some(0));
        stop_after_panic(workers);
    }
}

/// The last worker that serves closes its server while another one is made again.
#[test]
fn an_address_stays_for_a_worker_that_is_being_made_again() {
    for (spread, is_bound) in [Spread::Kernel, Spread::Handed].into_iter().flat_map(|it| [(it, false), (it, true)]) {
        let ((tell, making), (go, wait)) = (channel(), channel::<()>());
        let mut made = 0;
        let workers = Workers::with_config(2, config(spread, true), move |worker| {
            made += 1;
            let number = worker.number() as u8;
            let pause = || {
                let _ = tell.send(());
                let _ = wait.recv_timeout(PATIENCE);
            };
            let mut server = TcpServer::unbound(move |_| Numbered(number));
            if made > 2 && !is_bound {
                pause();
            }
            worker.server_bind(&mut server, "127.0.0.1:0")?;
            if made > 2 && is_bound {
                pause();
            }
            worker.add(server)
        });
        let (workers, address) = run(workers.unwrap());
        let handles = workers.handles();
        break_worker(&handles[0]);
        making.recv_timeout(PATIENCE).unwrap();
        of(&handles[1], |reactor| {
            let server = reactor.inspect().servers[0].id;
            reactor.server_close(server);
        });
        of(&handles[1], |_| ()); // It has left the server by now.
        go.send(()).unwrap();
        wait_until(|| workers.handles().len() == 2);
        // A program that another test starts may have the old socket for a moment.
        wait_until(|| {
            let client = TcpStream::connect(address);
            client
                .is_ok_and(|mut client| client.set_read_timeout(Some(PATIENCE)).is_ok() && ask(&mut client) == Some(0))
        });
        assert_eq!(workers.server_addresses(), [address.into()]);
        stop_after_panic(workers);
    }
}

/// It cannot be bound again.
#[test]
#[cfg(unix)]
fn an_inherited_socket_that_a_failed_attempt_has_taken_is_served_by_the_next() {
    use crate::server::inherited::InheritedSockets;

    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let inherited = socket.local_addr().unwrap();
    let mut sockets = InheritedSockets::new([("late".to_owned(), socket.into())]);
    let mut made = 0;
    let workers = Workers::new(1, move |worker| {
        made += 1;
        let mut server = TcpServer::unbound(|_| Numbered(0));
        worker.server_bind(&mut server, "127.0.0.1:0")?;
        if made > 1 {
            worker.inherit_or_bind(&mut server, &mut sockets, "late", "127.0.0.1:0")?;
        }
        if made == 2 {
            return Err(Error::from("the rest is missing"));
        }
        worker.add(server)
    });
    let (workers, _) = run(workers.unwrap());
    let mut client = connect(inherited);
    break_worker(&workers.handles()[0]);
    assert_eq!(ask(&mut client), Some(0));
    stop_after_panic(workers);
}

#[test]
fn an_address_that_every_worker_has_left_out_is_closed() {
    for (spread, count) in [(Spread::Kernel, 1), (Spread::Kernel, 2), (Spread::Handed, 1), (Spread::Handed, 2)] {
        let mut made = 0;
        let workers = Workers::with_config(count, config(spread, true), move |worker| {
            made += 1;
            let mut server = TcpServer::unbound(|_| Numbered(0));
            worker.server_bind(&mut server, "127.0.0.1:0")?;
            if made <= count {
                worker.server_bind(&mut server, "127.0.0.1:0")?;
            }
            worker.add(server)
        });
        let (workers, address) = run(workers.unwrap());
        let other = workers.server_addresses()[1].as_inet().unwrap();
        let handles = workers.handles();
        let (last, others) = handles.split_last().unwrap();
        for handle in others {
            break_worker(handle);
            wait_until(|| handle.run(|_| ()).is_err());
            wait_until(|| workers.handles().len() == count);
            all_are_served(other);
        }
        break_worker(last);
        wait_until(|| is_refused(other));
        assert_eq!(workers.server_addresses(), [address.into()]);
        all_are_served(address);
        stop_after_panic(workers);
    }
}

#[test]
fn an_address_of_a_worker_that_is_still_to_be_made_again_stays() {
    let may_make = Arc::new(AtomicBool::new(true));
    let may = Arc::clone(&may_make);
    let workers = Workers::with_config(2, config(Spread::Kernel, true), move |worker| {
        let mut server = TcpServer::unbound(|_| Numbered(0));
        worker.server_bind(&mut server, "127.0.0.1:0")?;
        if worker.number() == 1 {
            if !may.load(Ordering::SeqCst) {
                return Err(Error::from("not yet"));
            }
            worker.server_bind(&mut server, "127.0.0.1:0")?;
        }
        worker.add(server).map(drop)
    });
    let (workers, address) = run(workers.unwrap());
    let other = workers.server_addresses()[1].as_inet().unwrap();
    may_make.store(false, Ordering::SeqCst);
    let handles = workers.handles();
    break_worker(&handles[1]);
    wait_until(|| workers.handles().len() == 1);
    break_worker(&handles[0]);
    wait_until(|| handles[0].run(|_| ()).is_err());
    wait_until(|| workers.handles().len() == 1);
    all_are_served(address);
    let mut client = connect(other);
    may_make.store(true, Ordering::SeqCst);
    assert_eq!(ask(&mut client), Some(0));
    stop_after_panic(workers);
}

/// Makes a listener of a duplicate in this way.
struct Finish(fn(&Address) -> io::Result<Bound>);

impl Options for Finish {
    fn family(&self) -> &'static str {
        Tcp::NAME
    }
    fn check(&self) -> Result<()> {
        Ok(())
    }
    fn open(&self, _: &Address) -> io::Result<Socket> {
        unreachable!("it is open")
    }
    fn request_queue_size(&self) -> i32 {
        1
    }
    fn finish(&self, socket: Socket) -> io::Result<Bound> {
        (self.0)(&socket.local_address()?)
    }
}

/// No selector watches it.
#[derive(Debug)]
struct Unwatched;

impl ScriptedListener for Unwatched {
    fn register(&mut self, _: mio::Token) -> io::Result<()> {
        Err(io::ErrorKind::OutOfMemory.into())
    }
    fn accept(&mut self) -> io::Result<(Box<dyn ScriptedStream>, Address)> {
        unreachable!("no event comes")
    }
}

/// A worker fails, and another cannot take over one of its sockets.
#[track_caller]
fn is_closed_if_nobody_can_take_it_over(finish: fn(&Address) -> io::Result<Bound>) {
    let (workers, address) = start::<Tcp>(2, config(Spread::Kernel, false));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = listener.local_addr().unwrap();
    let site = Site { address: other.into(), options: Arc::new(Finish(finish)), adopted: false };
    let kept = Kept::new((Socket::from(socket2::Socket::from(listener)), site), 0);
    let handle = workers.handle.clone();
    let server = of(&workers.handles()[1], |reactor| reactor.inspect().servers[0].id);
    // A logger may send what it is given to clients.
    listen_to_log(move |line| {
        if line.contains(&other.to_string()) {
            let _ = handle.send_to_counterparts(server, line.to_owned());
        }
    });
    workers.crew().sharings()[0].keep(vec![kept]);
    break_worker(&workers.handles()[0]);
    wait_until(|| is_refused(other));
    all_are_served(address);
    assert_eq!(of(&workers.handles()[0], move |reactor| reactor.inspect().servers[0].addresses.len()), 1);
    stop_after_panic(workers);
}

#[test]
fn a_socket_that_cannot_be_duplicated_for_another_worker_is_closed() {
    is_closed_if_nobody_can_take_it_over(|_| Err(io::Error::other("no descriptors are left")));
}

#[test]
fn a_socket_that_another_worker_cannot_watch_is_closed_and_the_others_stay() {
    is_closed_if_nobody_can_take_it_over(|address| Ok(Bound::Listener(Listener::scripted(Unwatched, address.clone()))));
}
