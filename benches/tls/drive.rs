//! A client that never waits, so that it can take turns with a server in one thread.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection};

use crate::client;

/// What the client does, so many times.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Work {
    /// A message of 64 bytes, for 64 clients at a time.
    Crowd,
    /// The same for one client.
    Messages,
    Handshakes,
    Mebibytes,
}

impl Work {
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Work::Crowd => "a message of 64 bytes and its echo, 64 clients at a time",
            Work::Messages => "the same, one client at a time",
            Work::Handshakes => "a handshake, with a message of one byte",
            Work::Mebibytes => "1 MiB in each direction",
        }
    }
}

/// Lets the server go on whenever the clients wait.
pub(crate) fn drive(
    work: Work,
    number: usize,
    address: SocketAddr,
    config: Option<&Arc<ClientConfig>>,
    go_on: &mut dyn FnMut(),
) {
    let connect = || Client::connect(address, config);
    match work {
        Work::Crowd => {
            let mut clients: Vec<_> = (0..64).map(|_| connect()).collect();
            clients.iter_mut().for_each(|client| client.exchange(b"first", go_on));
            for _ in 0..number / clients.len() {
                let mut came: usize = clients.iter_mut().map(|client| client.advance(&[b'x'; 64])).sum();
                while came < 64 * clients.len() {
                    go_on();
                    came += clients.iter_mut().map(|client| client.advance(&[])).sum::<usize>();
                }
            }
        }
        // The server has done the handshake when it has echoed a byte.
        Work::Handshakes => (0..number).for_each(|_| connect().exchange(b"x", go_on)),
        Work::Messages | Work::Mebibytes => {
            let (times, bytes) = if work == Work::Messages { (number, 64) } else { (16 * number, 64 << 10) };
            let (mut client, bytes) = (connect(), vec![b'x'; bytes]);
            client.exchange(b"first", go_on);
            (0..times).for_each(|_| client.exchange(&bytes, go_on));
        }
    }
}

struct Client {
    tls: Option<ClientConnection>,
    socket: TcpStream,
}

impl Client {
    fn connect(address: SocketAddr, config: Option<&Arc<ClientConfig>>) -> Self {
        let socket = client::socket(address).expect("the server listens");
        socket.set_nonblocking(true).expect("it is a socket");
        Client { tls: config.map(client::session), socket }
    }

    fn exchange(&mut self, bytes: &[u8], go_on: &mut dyn FnMut()) {
        let mut came = self.advance(bytes);
        while came < bytes.len() {
            go_on();
            came += self.advance(&[]);
        }
    }

    /// Sends bytes, and receives what is there. Returns the number of bytes of plaintext that have come.
    fn advance(&mut self, bytes: &[u8]) -> usize {
        let mut buffer = [0; 64 << 10];
        let Some(tls) = &mut self.tls else {
            self.socket.write_all(bytes).expect("there is room");
            return or_none(self.socket.read(&mut buffer));
        };
        tls.writer().write_all(bytes).expect("there is room");
        let mut came = 0;
        loop {
            while tls.wants_write() && or_none(tls.write_tls(&mut self.socket)) > 0 {}
            if or_none(tls.read_tls(&mut self.socket)) == 0 {
                return came;
            }
            tls.process_new_packets().expect("the server keeps to the protocol");
            came += or_none(tls.reader().read(&mut buffer));
        }
    }
}

fn or_none(result: io::Result<usize>) -> usize {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        result => result.expect("the server lets the connection live"),
    }
}
