//! Servers that serve while the workers drain, such as an admin page that shows why a stop takes long.
#![allow(clippy::disallowed_methods, reason = "a test has a deadline")]

#[path = "common/mod.rs"]
mod common;

use std::io::Write as _;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use common::{Call, PATIENCE, Peer, Probe, probe, usual};
use socketserver::{
    Address, InheritedSockets, Next, Request, Result, Spread, TcpServer, Worker, Workers, WorkersConfig, WorkersHandle,
};

/// Answers with the number of its worker, and stays during a drain if it was sent `stay`.
fn numbered(number: usize) -> Probe {
    let mut stays = false;
    probe(move |call, request: &mut Request<'_>| match call {
        Call::Handle => {
            stays |= request.input.take_all() == b"stay";
            writeln!(request.output, "{number}")?;
            Ok(Next::Wait)
        }
        Call::Drain if stays => Ok(Next::Wait),
        call => usual(&call, request),
    })
}

/// How a page is bound.
#[derive(Clone, Copy, Debug)]
enum Binding {
    /// By the reactor of one worker.
    Own,
    /// By the worker, so an acceptor hands its clients over.
    Handed,
    /// As [`Handed`](Self::Handed), with a socket that was there before.
    #[cfg(target_os = "linux")]
    Inherited,
}

const BINDINGS: &[Binding] = &[
    Binding::Own,
    Binding::Handed,
    #[cfg(target_os = "linux")]
    Binding::Inherited,
];

/// Two workers that are handed connections, and on some of them a page that serves while the others drain.
struct Crew {
    workers: WorkersHandle,
    serving: Receiver<Result<()>>,
    main: Address,
    page: Address,
}

impl Crew {
    fn start(binding: Binding, grace: Duration, has_page: fn(usize) -> bool) -> Self {
        let mut config = WorkersConfig::default();
        config.spread = Spread::Handed;
        config.reactor.drain_grace = grace;
        let (tell, hear) = channel();
        let mut sockets = InheritedSockets::default();
        #[cfg(target_os = "linux")]
        if let Binding::Inherited = binding {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            sockets = InheritedSockets::new([("page".to_owned(), listener.into())]);
        }
        let workers = Workers::with_config(2, config, move |worker: &mut Worker| {
            let number = worker.number();
            let mut server = TcpServer::unbound(move |_| numbered(number));
            worker.server_bind(&mut server, "127.0.0.1:0")?;
            worker.add(server)?;
            if !has_page(number) {
                return Ok(());
            }
            let mut page = TcpServer::unbound(move |_| numbered(number));
            match binding {
                Binding::Own => page.server_bind("127.0.0.1:0")?,
                Binding::Handed => worker.server_bind(&mut page, "127.0.0.1:0")?,
                #[cfg(target_os = "linux")]
                Binding::Inherited => worker.inherit_or_bind(&mut page, &mut sockets, "page", "127.0.0.1:0")?,
            }
            page.limits.serve_while_draining = true;
            tell.send(page.server_addresses()).unwrap();
            worker.add(page).map(drop)
        })
        .unwrap();
        let shared = workers.server_addresses();
        let own = hear.recv().unwrap();
        let page = shared.get(1).or(own.first()).unwrap().clone();
        let (handle, (tell, serving)) = (workers.handle(), channel());
        std::thread::spawn(move || tell.send(workers.serve_forever()));
        Crew { workers: handle, serving, main: shared[0].clone(), page }
    }

    /// A client that stays with worker 1 during the drain. Returns it when worker 0 has nothing left to drain.
    #[track_caller]
    fn stop_with_a_client_that_stays(&self) -> Peer {
        let mut clients: Vec<_> = (0..10).map(|_| Peer::connect(self.main.clone())).collect();
        let mut of_worker = |number| {
            let at = clients.iter_mut().position(|client| ask(client, "who") == number).unwrap();
            clients.swap_remove(at)
        };
        let (mut leaving, mut staying) = (of_worker(0), of_worker(1));
        ask(&mut staying, "stay");
        self.workers.shutdown();
        leaving.expect_eof();
        staying
    }

    #[track_caller]
    fn join(self) {
        self.serving.recv_timeout(PATIENCE).expect("the workers end").unwrap();
        Peer::wait_for_refusal(self.page);
    }
}

#[track_caller]
fn ask(peer: &mut Peer, what: &str) -> usize {
    peer.send(what);
    peer.line().parse().unwrap()
}

const NEVER: Duration = Duration::from_secs(3_600);

#[test]
fn a_page_of_one_worker_is_served_until_all_workers_have_drained() {
    for &binding in BINDINGS {
        let crew = Crew::start(binding, NEVER, |worker| worker == 0);
        let mut before = Peer::connect(crew.page.clone());
        assert_eq!(ask(&mut before, "who"), 0);
        let staying = crew.stop_with_a_client_that_stays();
        for _ in 0..50 {
            assert_eq!(ask(&mut Peer::connect(crew.page.clone()), "who"), 0, "{binding:?}");
        }
        assert_eq!(ask(&mut before, "who"), 0);
        for seen in crew.workers.inspect().unwrap() {
            assert_eq!(seen.servers[0].addresses, std::slice::from_ref(&crew.main), "which server drains?");
        }
        drop(staying);
        before.expect_eof();
        crew.join();
    }
}

#[test]
fn pages_of_all_workers_do_not_wait_for_one_another() {
    for &binding in BINDINGS {
        let crew = Crew::start(binding, NEVER, |_| true);
        let mut pages: Vec<_> = (0..4).map(|_| Peer::connect(crew.page.clone())).collect();
        pages.iter_mut().for_each(|page| _ = ask(page, "stay"));
        let staying = crew.stop_with_a_client_that_stays();
        for _ in 0..50 {
            ask(&mut Peer::connect(crew.page.clone()), "who");
        }
        pages.iter_mut().for_each(|page| _ = ask(page, "who"));
        drop(staying);
        pages.iter_mut().for_each(Peer::expect_eof);
        crew.join();
    }
}

#[test]
fn workers_with_nothing_to_drain_end_at_once_although_all_have_pages() {
    for &binding in BINDINGS {
        let crew = Crew::start(binding, NEVER, |_| true);
        let mut page = Peer::connect(crew.page.clone());
        ask(&mut page, "stay");
        crew.workers.shutdown();
        page.expect_eof();
        crew.join();
    }
}

#[test]
fn a_page_that_waits_for_other_workers_is_ended_by_the_grace_and_by_a_second_stop() {
    for &binding in BINDINGS {
        for cut_short in [true, false] {
            let grace = if cut_short { NEVER } else { Duration::from_millis(500) };
            let crew = Crew::start(binding, grace, |worker| worker == 0);
            let mut page = Peer::connect(crew.page.clone());
            ask(&mut page, "who");
            let begun = Instant::now();
            let mut staying = crew.stop_with_a_client_that_stays();
            if cut_short {
                ask(&mut page, "who");
                crew.workers.shutdown_now();
            }
            page.expect_reset();
            staying.expect_reset();
            assert!(cut_short || begun.elapsed() >= grace);
            crew.join();
        }
    }
}
