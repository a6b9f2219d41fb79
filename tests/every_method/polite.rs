//! A server that echoes, on sockets of every kind, and clients that behave well: they must get back every byte.

use std::io::{ErrorKind, Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socketserver::family::{Tcp, Udp, UnixDatagram, UnixStream};
use socketserver::{
    Address, BaseServer, EndReason, Next, Reactor, Request, RequestHandler, Result, Server, ServerId, TcpServer,
    UdpOptions, UnixOptions,
};

use crate::common::{Directory, Kind as _, PATIENCE, sock_addr};
use crate::ledger::Ledger;

/// The value of the echo server.
struct Polite {
    ledger: Arc<Ledger>,
}

impl BaseServer for Polite {
    fn close_request(&mut self, _: &Address, why: EndReason) {
        let usual = matches!(why, EndReason::PeerClosed | EndReason::Done | EndReason::Reset);
        let stopped = matches!(why, EndReason::Stopped | EndReason::StopAborted);
        self.ledger.expect(usual || stopped, "a polite client is not ended for another reason");
    }
}

struct Echo;

impl RequestHandler<Polite> for Echo {
    fn setup(&mut self, request: &mut Request<'_, Polite>) -> Result<Next> {
        request.server.ledger.protect(request.id());
        Ok(Next::Wait)
    }

    fn handle(&mut self, request: &mut Request<'_, Polite>) -> Result<Next> {
        request.output.write_all(request.input.take_all())?;
        Ok(Next::Wait)
    }
}

/// The clients of one echo server.
pub(crate) struct Clients {
    pub(crate) server: ServerId,
    streams: Vec<Stream>,
    datagrams: Vec<(socket2::Socket, Address)>,
    _directories: Vec<Directory>,
}

struct Stream {
    socket: socket2::Socket,
    number: usize,
    sent: usize,
    received: usize,
}

impl Clients {
    /// Adds an echo server to the reactor, and connects clients to it.
    pub(crate) fn new(ledger: &Arc<Ledger>, reactor: &mut Reactor) -> Self {
        let value = Polite { ledger: Arc::clone(ledger) };
        let mut unbound = TcpServer::unbound_with_server(value, |_, _| Echo);
        let mut directories = Vec::new();
        let ((tcp, _), (udp, _)) = (Tcp::place(), Udp::place());
        let ((stream, one), (datagram, other)) = (UnixStream::place(), UnixDatagram::place());
        directories.extend(one.into_iter().chain(other));
        unbound.server_bind(tcp).expect("there is room");
        unbound.server_bind_as::<Udp>(udp, UdpOptions::default()).expect("there is room");
        unbound.server_bind_as::<UnixStream>(stream, UnixOptions::default()).expect("there is room");
        unbound.server_bind_as::<UnixDatagram>(datagram, UnixOptions::default()).expect("there is room");
        let server: Server<Tcp, _, _> = unbound.server_activate().expect("the sockets are bound");
        let addresses = server.server_addresses();
        addresses.iter().for_each(|address| ledger.add_target(address.clone()));
        let server = reactor.add(server).expect("there is room");
        let mut this = Clients { server, streams: Vec::new(), datagrams: Vec::new(), _directories: directories };
        for number in 0..4 {
            let address = &addresses[if number % 2 == 0 { 0 } else { 2 }];
            let socket = socket(address, socket2::Type::STREAM);
            socket.connect(&sock_addr(address)).expect("the backlog has room");
            socket.set_nonblocking(true).unwrap();
            this.streams.push(Stream { socket, number, sent: 0, received: 0 });
        }
        for address in [&addresses[1], &addresses[3]] {
            let ((udp, _), (unix, directory)) = (Udp::place(), UnixDatagram::place());
            let own = if address.ip().is_some() { Address::from(udp) } else { Address::from(unix) };
            let socket = socket(address, socket2::Type::DGRAM);
            socket.bind(&sock_addr(&own)).expect("there is room");
            socket.set_nonblocking(true).unwrap();
            this.datagrams.push((socket, address.clone()));
            this._directories.extend(directory);
        }
        this
    }

    /// Says something, and hears what has come so far.
    pub(crate) fn talk(&mut self, ledger: &Ledger, length: usize) {
        for stream in &mut self.streams {
            let bytes: Vec<u8> = (stream.sent..stream.sent + length).map(|at| byte(stream.number, at)).collect();
            match stream.socket.write(&bytes) {
                Ok(n) => stream.sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => ledger.violation(format!("a polite client cannot write: {error}")),
            }
            stream.hear(ledger);
        }
    }

    /// Turns the reactor until everything has come back. Returns false if the reactor has stopped.
    pub(crate) fn settle(&mut self, ledger: &Ledger, reactor: &mut Reactor) -> bool {
        let deadline = Instant::now() + PATIENCE;
        for (at, (socket, to)) in self.datagrams.iter().enumerate() {
            socket.send_to(&[at as u8, 1, 2, 3], &sock_addr(to)).expect("the server has room for a datagram");
        }
        let mut unanswered: Vec<_> = (0..self.datagrams.len()).collect();
        loop {
            self.streams.iter_mut().for_each(|stream| stream.hear(ledger));
            unanswered.retain(|&at| {
                let mut packet = [0; 10];
                let n = (&self.datagrams[at].0).read(&mut packet).unwrap_or(0);
                n == 0 || packet[..n] != [at as u8, 1, 2, 3]
            });
            let owed: usize = self.streams.iter().map(|stream| stream.sent - stream.received).sum();
            if owed == 0 && unanswered.is_empty() {
                return true;
            }
            if Instant::now() > deadline {
                ledger.violation(format!("polite clients wait for {owed} bytes, and for datagrams: {unanswered:?}"));
                return true;
            }
            if !reactor.poll(Some(Duration::from_millis(1))).expect("the loop goes on") {
                return false;
            }
        }
    }

    /// The reactor has stopped. `gracefully`: it has waited for every answer.
    pub(crate) fn end(mut self, ledger: &Ledger, gracefully: bool) {
        for stream in &mut self.streams {
            stream.socket.set_nonblocking(false).unwrap();
            stream.socket.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.hear(ledger);
            if gracefully && stream.received < stream.sent {
                let Stream { number, sent, received, .. } = stream;
                ledger.violation(format!("a stop loses answers of client {number}: {received} of {sent} bytes"));
            }
        }
    }
}

impl Stream {
    /// Reads what has come; to the end if the socket blocks.
    fn hear(&mut self, ledger: &Ledger) {
        let mut buffer = [0; 4_096];
        while let Ok(n @ 1..) = self.socket.read(&mut buffer) {
            let expected: Vec<u8> = (self.received..self.received + n).map(|at| byte(self.number, at)).collect();
            self.received += n;
            ledger.expect(buffer[..n] == expected, "a polite client gets back what it has sent");
            ledger.expect(self.received <= self.sent, "a polite client gets back no more than it has sent");
        }
    }
}

/// Says whose byte it is, and the how manieth.
fn byte(number: usize, at: usize) -> u8 {
    (at * 7 + number * 50) as u8
}

pub(crate) fn socket(address: &Address, kind: socket2::Type) -> socket2::Socket {
    socket2::Socket::new(sock_addr(address).domain(), kind, None).expect("a descriptor is left")
}
