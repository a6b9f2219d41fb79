//! The kernel joins datagrams of one peer (GRO) for all who read one open socket, and some of them may not expect that.

use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use socketserver::family::Udp;
use socketserver::{Address, Reactor, Request, ServerId, UdpServer, Unbound};

use crate::common::{Call, PATIENCE, Probe, probe, usual};

/// A reactor with a UDP server, which the test drives.
struct Reader {
    reactor: Reactor,
    id: ServerId,
    lengths: Receiver<usize>,
}

impl Reader {
    fn new(bind: impl FnOnce(&mut Unbound<Udp, (), Probe>)) -> Reader {
        let (tell, lengths) = channel();
        let mut server: Unbound<Udp, (), Probe> = UdpServer::unbound(move |_| {
            let tell = tell.clone();
            probe(move |call, request: &mut Request<'_>| {
                if let Call::Handle = call {
                    tell.send(request.input.take_all().len()).unwrap();
                }
                usual(&call, request)
            })
        });
        bind(&mut server);
        let mut reactor = Reactor::new().unwrap();
        let id = reactor.add_unbound(server).unwrap();
        Reader { reactor, id, lengths }
    }

    fn bound() -> Reader {
        Reader::new(|server| server.server_bind("127.0.0.1:0").unwrap())
    }

    fn adopting(socket: UdpSocket) -> Reader {
        Reader::new(|server| server.adopt(socket).unwrap())
    }

    fn address(&mut self) -> Address {
        self.reactor.server_addresses(self.id).remove(0)
    }

    fn duplicate(&mut self) -> UdpSocket {
        let address = self.address();
        self.reactor.duplicate_socket(self.id, &address).unwrap().into()
    }

    /// The lengths of the datagrams that it is given, until they are so many bytes.
    #[track_caller]
    fn receive(&mut self, bytes: usize) -> Vec<usize> {
        let (deadline, mut received) = (Instant::now() + PATIENCE, Vec::new());
        while received.iter().sum::<usize>() < bytes {
            assert!(Instant::now() < deadline, "only {received:?} came");
            self.reactor.poll(Some(Duration::from_millis(10))).unwrap();
            received.extend(self.lengths.try_iter());
        }
        received
    }
}

const DATAGRAMS: [usize; 32] = [100; 32];
const BYTES: usize = 3_200;

/// A peer that sends many datagrams at a time.
struct Sender(UdpSocket);

impl Sender {
    fn to(address: SocketAddr) -> Sender {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(address).unwrap();
        setsockopt(&socket, sockopt::UdpGsoSegment, &100).unwrap();
        Sender(socket)
    }

    /// One packet, which the kernel divides unless the receiver wants it joined.
    fn send(&self) {
        self.0.send(&[7; BYTES]).unwrap();
    }
}

#[test]
fn a_program_with_a_duplicate_of_a_udp_socket_gets_no_joined_datagrams() {
    let mut server = Reader::bound();
    let other = server.duplicate();
    let peer = Sender::to(other.local_addr().unwrap());
    peer.send();
    assert_eq!(server.receive(BYTES), DATAGRAMS);
    peer.send();
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(DATAGRAMS.map(|_| other.recv(&mut [0; BYTES]).unwrap()), DATAGRAMS);
}

#[test]
fn servers_that_adopt_one_udp_socket_get_no_joined_datagrams() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let peer = Sender::to(socket.local_addr().unwrap());
    let mut servers = [(); 2].map(|()| Reader::adopting(socket.try_clone().unwrap()));
    for server in [0, 1, 0, 1] {
        peer.send();
        assert_eq!(servers[server].receive(BYTES), DATAGRAMS);
    }
}

#[test]
fn a_successor_divides_datagrams_that_the_kernel_joins_since_its_predecessor() {
    let mut predecessor = Reader::bound();
    let peer = Sender::to(predecessor.address().as_inet().unwrap());
    for _ in 0..10 {
        // It may read some before all have arrived, but hardly each time.
        peer.send();
        assert_eq!(predecessor.receive(BYTES), DATAGRAMS);
    }
    let socket = predecessor.duplicate();
    assert!(getsockopt(&socket, sockopt::UdpGroSegment).unwrap(), "one peer has sent many");
    let mut successor = Reader::adopting(socket);
    for server in [&mut successor, &mut predecessor] {
        peer.send();
        assert_eq!(server.receive(BYTES), DATAGRAMS);
    }
}
