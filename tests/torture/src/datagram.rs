//! A socket that sends datagrams to the server and takes its answers, and never blocks.

use std::io;
#[cfg(unix)]
use std::path::PathBuf;

use mio::event::Source;
use mio::net::UdpSocket;
#[cfg(unix)]
use mio::net::UnixDatagram;

/// The socket is connected: the kernel lets nothing in that does not come from the server's address.
pub(crate) enum DatagramSocket {
    Udp(UdpSocket),
    /// With the file that the server answers to.
    #[cfg(unix)]
    Unix(UnixDatagram, PathBuf),
}

impl DatagramSocket {
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            DatagramSocket::Udp(socket) => socket.send(bytes),
            #[cfg(unix)]
            DatagramSocket::Unix(socket, _) => socket.send(bytes),
        }
    }

    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            DatagramSocket::Udp(socket) => socket.recv(buffer),
            #[cfg(unix)]
            DatagramSocket::Unix(socket, _) => socket.recv(buffer),
        }
    }

    pub(crate) fn source(&mut self) -> &mut dyn Source {
        match self {
            DatagramSocket::Udp(socket) => socket,
            #[cfg(unix)]
            DatagramSocket::Unix(socket, _) => socket,
        }
    }
}

#[cfg(unix)]
impl Drop for DatagramSocket {
    fn drop(&mut self) {
        if let DatagramSocket::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The longest datagram that is sent: the most that UDP over IPv4 can carry.
pub(crate) const DATAGRAM_BYTES_MAX: usize = 65_507;
