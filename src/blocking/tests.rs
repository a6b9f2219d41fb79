//! Helpers of the tests of blocking handlers: requests on real sockets and threads, without a server.

use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::job::{Origin, run};
use super::serve_on::Work;
use super::stop::Stop;
use super::*;
use crate::address::Address;
use crate::error::{Error, Result};
use crate::ids::ServerId;
use crate::ids::{ConnectionId, SlotId};
use crate::reactor::Reactor;
use crate::reactor::handle::Handle;

pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough to be sure that nothing happens.
pub(super) const MOMENT: Duration = Duration::from_millis(50);

pub(super) fn client() -> Address {
    Address::from(std::net::SocketAddr::from(([192, 0, 2, 7], 4_000)))
}

/// A handle of a reactor that is gone.
fn nowhere() -> Handle {
    Reactor::new().unwrap().handle()
}

pub(super) fn origin(socket: impl Into<BlockingSocket>) -> Origin {
    let id = ConnectionId { slot: SlotId { key: 0, generation: 0 }, reactor: 0 };
    let socket = socket.into();
    let server = ServerId::new();
    Origin { id, socket, client_address: client(), local_address: None, header: None, handle: nowhere(), server }
}

/// A request that is being served, and its stop.
pub(super) fn job<S: 'static>(work: Work<S>, origin: Origin) -> (impl FnOnce() -> Result<()> + Send + 'static, Stop) {
    let stop = origin.socket.stop();
    let its_stop = stop.clone();
    (move || run(work, origin, &its_stop), stop)
}

/// Both ends of a connection; the first is the server's.
pub(super) fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    (listener.accept().unwrap().0, peer)
}

/// A request on a thread.
pub(super) struct Served {
    pub(super) stop: Stop,
    result: Receiver<Result<()>>,
}

impl Served {
    pub(super) fn begin<S: 'static>(work: Work<S>, origin: Origin) -> Self {
        let (job, stop) = job(work, origin);
        let (done, result) = channel();
        std::thread::spawn(move || done.send(job()));
        Served { stop, result }
    }

    pub(super) fn result(&self) -> Result<()> {
        self.result.recv_timeout(PATIENCE).expect("it ends, and without a panic")
    }

    pub(super) fn is_running(&self) -> bool {
        self.result.recv_timeout(MOMENT).is_err()
    }
}

/// Serves one end of a connection. Returns the other end.
pub(super) fn serve(handler: impl BlockingHandler) -> (Served, TcpStream) {
    let (socket, peer) = pair();
    socket.set_nonblocking(true).unwrap(); // Like a socket of the reactor.
    (Served::begin(Work::Handler(Box::new(handler)), origin(socket)), peer)
}

pub(super) fn rest(peer: &mut TcpStream) -> String {
    let mut text = String::new();
    peer.read_to_string(&mut text).unwrap();
    text
}

pub(super) fn is_timed_out(result: &Result<()>) -> bool {
    matches!(result, Err(Error::TimeLimit { max: MOMENT, .. }))
}

/// A datagram, and the answers to it.
pub(super) fn datagram(packet: &[u8]) -> (BlockingSocket, Receiver<(Address, Vec<u8>)>) {
    let (sent, replies) = channel();
    let send = move |to: &Address, bytes: &[u8]| {
        sent.send((to.clone(), bytes.to_vec())).unwrap();
        Ok(())
    };
    (BlockingSocket::datagram(packet.to_vec(), client(), Arc::default(), Box::new(send)), replies)
}

/// The datagrams that a handler sends.
pub(super) fn answer(handle: impl FnMut(&mut BlockingRequest) -> Result<()> + Send + 'static) -> Vec<Vec<u8>> {
    let (socket, replies) = datagram(b"one\ntwo\n");
    let handler = DatagramRequestHandler::new(handle);
    Served::begin(Work::Handler(Box::new(handler)), origin(socket)).result().unwrap();
    replies.iter().inspect(|(to, _)| assert_eq!(*to, client())).map(|(_, bytes)| bytes).collect()
}
