//! The least that a UDP server can do: one blocking socket, one datagram at a time. The limit for datagrams that are
//! exchanged one by one.

use crate::{Served, listen};
use std::net::SocketAddr;

pub(crate) fn udp(at: SocketAddr) -> Served {
    let socket = listen::udp(at)?;
    let mut buffer = [0; 64 << 10];
    loop {
        // An error is about one peer (it may have closed its port since an earlier answer), not about the socket.
        if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], peer);
        }
    }
}
