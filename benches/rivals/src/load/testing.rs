//! Servers on threads that echo, or do one thing wrong, for the tests of loads and of the check.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

/// What a server does for each client.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Behaviour {
    Echo,
    /// Sends back what came first, and closes.
    EchoOnce,
    /// As `EchoOnce`, with a byte too many.
    EchoOnceAndMore,
    /// Changes the byte at this place.
    Corrupt(usize),
    /// Sends back so many bytes and closes when it has read them.
    CloseAfter(usize),
    /// Sends back so many bytes, and then only reads.
    MuteAfter(usize),
}

/// A server, whose threads last as long as the tests.
pub(crate) fn server(behaviour: Behaviour) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || behaviour.serve(client));
        }
    });
    address
}

/// Sends what `answers` makes of each datagram.
pub(crate) fn datagram_server(mut answers: impl FnMut(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 65_536];
        while let Ok((length, sender)) = socket.recv_from(&mut buffer) {
            for answer in answers(&buffer[..length]) {
                // The load may have ended.
                let _ = socket.send_to(&answer, sender);
            }
        }
    });
    address
}

/// An address where nothing listens.
pub(crate) fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Behaviour {
    fn serve(self, mut client: TcpStream) {
        let _ = client.set_nodelay(true);
        let mut buffer = vec![0; 65_536];
        let mut position = 0;
        loop {
            let length = match client.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            let bytes = &mut buffer[..length];
            let (answer, close) = match self {
                Behaviour::Echo => (bytes.to_vec(), false),
                Behaviour::EchoOnce => (bytes.to_vec(), true),
                Behaviour::EchoOnceAndMore => ([&*bytes, b"!"].concat(), true),
                Behaviour::Corrupt(at) => {
                    if (position..position + length).contains(&at) {
                        bytes[at - position] ^= 1;
                    }
                    (bytes.to_vec(), false)
                }
                Behaviour::CloseAfter(at) | Behaviour::MuteAfter(at) => {
                    let before = at.saturating_sub(position).min(length);
                    let close = matches!(self, Behaviour::CloseAfter(_)) && position + length >= at;
                    (bytes[..before].to_vec(), close)
                }
            };
            position += length;
            if client.write_all(&answer).is_err() || close {
                return;
            }
        }
    }
}
