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
