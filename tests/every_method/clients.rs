//! Clients that do anything.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::time::Duration;

use fastrand::Rng;
use socketserver::Address;

use crate::common::sock_addr;
use crate::polite::socket;

/// The sockets of clients, which never block.
#[derive(Default)]
pub(crate) struct Crowd {
    streams: Vec<socket2::Socket>,
}

impl Crowd {
    /// A client of this server: a connection, or a datagram, as its socket wants it.
    pub(crate) fn come(&mut self, rng: &mut Rng, address: &Address) {
        let stream = socket(address, socket2::Type::STREAM);
        stream.set_nonblocking(true).unwrap();
        if let Err(error) = stream.connect(&sock_addr(address))
            && error.raw_os_error() != Some(libc::EINPROGRESS)
        {
            // The address is one of datagrams, or nobody listens.
            let datagram = socket(address, socket2::Type::DGRAM);
            datagram.set_nonblocking(true).unwrap();
            let _ = datagram.send_to(&words(rng), &sock_addr(address));
            return;
        }
        self.streams.push(stream);
    }

    /// A datagram for a server that may have none.
    pub(crate) fn send_datagram(rng: &mut Rng, address: &Address) {
        let datagram = socket(address, socket2::Type::DGRAM);
        datagram.set_nonblocking(true).unwrap();
        let _ = datagram.send_to(&words(rng), &sock_addr(address));
    }

    pub(crate) fn act(&mut self, rng: &mut Rng) {
        if self.streams.is_empty() {
            return;
        }
        let at = rng.usize(..self.streams.len());
        let mut stream = &self.streams[at];
        match rng.u32(..12) {
            0..5 => drop(stream.write(&words(rng))),
            5..8 => drop(stream.read(&mut [0; 100_000])),
            8 | 9 => drop(stream.shutdown(Shutdown::Write)),
            10 => drop(self.streams.swap_remove(at)),
            _ => {
                let _ = stream.set_linger(Some(Duration::ZERO));
                self.streams.swap_remove(at);
            }
        }
    }
}

/// Lines, frames, and what is neither.
pub(crate) fn words(rng: &mut Rng) -> Vec<u8> {
    let length = if rng.u32(..6) == 0 { rng.usize(..9_500) } else { rng.usize(..60) };
    (0..length).map(|_| *rng.choice(b"abc\n\x00\x01\x05").unwrap()).collect()
}
