//! The least that a UDP server can do: one blocking socket, one datagram at a time. It is the reference for datagrams.

use super::Served;
use std::net::UdpSocket;

pub(crate) fn datagrams(socket: &UdpSocket) -> Served {
    socket.set_nonblocking(false)?;
    let mut buffer = [0; 64 << 10];
    loop {
        // An error is about one peer, such as one that has closed its port since an earlier answer.
        if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], peer);
        }
    }
}
