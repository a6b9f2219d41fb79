//! The kernel joins datagrams of one peer (GRO) for all workers that read one open socket, or for none.

use nix::sys::socket::{getsockopt, setsockopt, sockopt};

use super::ending::{of, wait_until};
use super::*;
use crate::reactor::Reactor;
use crate::server::UdpServer;
use crate::server::inherited::InheritedSockets;
use crate::server::unbound::Unbound;
use crate::workers::worker::Worker;

/// Tells its worker and the length of each datagram.
struct Lengths(usize, Sender<(usize, usize)>);

impl RequestHandler for Lengths {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        let _ = self.1.send((self.0, request.input.take_all().len()));
        Ok(Next::Wait)
    }
}

/// Two workers with one UDP server, and a peer.
struct Crew {
    workers: Running,
    lengths: Receiver<(usize, usize)>,
    peer: UdpSocket,
}

const DATAGRAMS: usize = 32;
/// A worker may read some datagrams before all have arrived, but hardly each time.
const ROUNDS: usize = 10;

impl Crew {
    fn new(bind: impl FnMut(&mut Worker, &mut Unbound<Udp, (), Lengths>) -> Result<()> + Send + 'static) -> Crew {
        let ((tell, lengths), mut bind) = (channel(), bind);
        let workers = Workers::new(2, move |worker| {
            let (tell, number) = (Mutex::new(tell.clone()), worker.number());
            let mut server = UdpServer::unbound(move |_| Lengths(number, tell.lock().unwrap().clone()));
            bind(worker, &mut server)?;
            worker.add(server)
        });
        let (workers, address) = run(workers.unwrap());
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.connect(address).unwrap();
        setsockopt(&peer, sockopt::UdpGsoSegment, &100).unwrap();
        Crew { workers, lengths, peer }
    }

    fn inheriting(mut sockets: InheritedSockets, position: Option<usize>) -> Crew {
        Crew::new(move |worker, server| match position {
            Some(position) => worker.inherit_or_bind(server, &mut sockets, position, "127.0.0.1:0"),
            None => worker.inherit_or_bind(server, &mut sockets, "dns", "127.0.0.1:0"),
        })
    }

    /// The kernel gets many datagrams at a time, and then one of these workers reads them.
    #[track_caller]
    fn receive(&self, able: &[usize]) {
        let handles = self.workers.handles();
        let mut blocked: Vec<_> = handles.iter().map(|handle| Some(block_worker(handle))).collect();
        self.peer.send(&[7; 100 * DATAGRAMS]).unwrap();
        able.iter().for_each(|&number| blocked[number] = None);
        let mut bytes = 0;
        while bytes < 100 * DATAGRAMS {
            let (number, length) = self.lengths.recv_timeout(PATIENCE).expect("a datagram");
            assert_eq!((able.contains(&number), length), (true, 100));
            bytes += length;
        }
    }

    /// Returns how many workers have a socket for which the kernel joins datagrams.
    fn joining(&self) -> usize {
        let (tell, hear) = channel();
        let ask = move |reactor: &mut Reactor| {
            let id = reactor.inspect().servers[0].id;
            let address = reactor.server_addresses(id).remove(0);
            let socket = reactor.duplicate_socket(id, &address).unwrap();
            let _ = tell.send(getsockopt(&socket, sockopt::UdpGroSegment).unwrap());
        };
        self.workers.run(ask).unwrap();
        hear.iter().filter(|is_on| *is_on).count()
    }

    fn stop(self) {
        self.workers.shutdown();
        self.workers.serving.recv_timeout(PATIENCE).unwrap().unwrap();
    }
}

#[test]
fn workers_that_share_a_udp_socket_see_each_datagram() {
    let inherited = UdpSocket::bind("127.0.0.1:0").unwrap();
    let inherited = InheritedSockets::new([("dns".to_owned(), inherited.into())]);
    for crew in [Crew::inheriting(inherited, None), Crew::inheriting(InheritedSockets::default(), Some(0))] {
        for number in [0, 1, 0, 1] {
            crew.receive(&[number]);
        }
        crew.stop();
    }
}

#[test]
fn the_kernel_joins_datagrams_for_a_worker_that_has_its_own_socket() {
    for is_named in [false, true] {
        let crew = match is_named {
            true => Crew::inheriting(InheritedSockets::default(), None),
            false => Crew::new(|worker, server| worker.server_bind(server, "127.0.0.1:0")),
        };
        for _ in 0..ROUNDS {
            crew.receive(&[0, 1]);
        }
        assert_eq!(crew.joining(), 1);
        crew.stop();
    }
}

#[test]
#[cfg(feature = "restart")]
fn datagrams_are_not_joined_from_the_moment_that_a_successor_has_the_socket() {
    use crate::reactor::served::KeptElsewhere as _;
    let crew = Crew::inheriting(InheritedSockets::default(), None);
    let passed = crew.workers.crew().sockets().unwrap();
    for _ in 0..ROUNDS {
        crew.receive(&[0, 1]);
    }
    assert_eq!((passed.len(), crew.joining()), (2, 0));
    crew.stop();
}

/// The other worker reads the socket of one that has closed its server and drains.
#[test]
fn datagrams_are_not_joined_for_a_worker_that_drains_beside_another() {
    let crew = Crew::new(|worker, server| {
        server.limits.sessions_max = Some(10);
        worker.server_bind(server, "127.0.0.1:0")
    });
    crew.peer.send(&[7]).unwrap();
    let (drains, _) = crew.lengths.recv_timeout(PATIENCE).unwrap();
    let handles = crew.workers.handles();
    let id = |reactor: &mut Reactor| reactor.inspect().servers[0].id;
    of(&handles[drains], move |reactor| {
        let mut config = reactor.config().clone();
        config.drain_quiet = PATIENCE; // The session stays.
        reactor.set_config(config);
        let id = id(reactor);
        reactor.drain_server(id);
    });
    let sockets = move |reactor: &mut Reactor| {
        let id = id(reactor);
        reactor.server_addresses(id).len()
    };
    wait_until(|| of(&handles[1 - drains], sockets) == 2);
    for _ in 0..ROUNDS {
        crew.receive(&[drains]);
        crew.receive(&[1 - drains]);
    }
    crew.workers.shutdown_now();
    join(crew.workers).unwrap();
}
