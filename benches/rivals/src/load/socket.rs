//! Sockets that do not block, on their way to the server.

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

/// Makes sockets that are connected, or about to be.
pub(super) struct Dialer {
    target: SocketAddr,
    kind: Type,
    sockets: u32,
}

impl Dialer {
    /// # Errors
    ///
    /// The target is not this machine.
    pub(super) fn new(target: SocketAddr, kind: Type) -> Result<Dialer, String> {
        match target.ip() {
            ip if ip.is_ipv4() && ip.is_loopback() => Ok(Dialer { target, kind, sockets: 0 }),
            _ => Err(format!("{target} is not in 127.0.0.0/8, and no other address gets this load")),
        }
    }

    /// On this machine a TCP connection exists when connect returns, unless the backlog was full, but for a socket that
    /// does not block it returns `EINPROGRESS` in any case.
    pub(super) fn dial(&mut self) -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, self.kind.nonblocking(), None)?;
        // With this option connect chooses the port, and it knows both ends: only the four numbers together have to be
        // new. Without it bind would look for a port that no other socket has on that address.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddrV4::new(source(self.sockets), 0).into())?;
        self.sockets = self.sockets.wrapping_add(1);
        if self.kind == Type::STREAM {
            socket.set_tcp_nodelay(true)?;
        }
        match socket.connect(&self.target.into()) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => Ok(socket),
            result => result.map(|()| socket),
        }
    }
}

/// Where the socket of that number comes from: 127.x.y.1, 65,024 of them. Each has ports of its own, so that they do not
/// run out while those of earlier connections are in `TIME_WAIT`.
fn source(number: u32) -> Ipv4Addr {
    Ipv4Addr::new(127, (number % 254 + 1) as u8, (number / 254 % 256) as u8, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn sources_are_loopback_addresses_that_differ() {
        let sources: HashSet<Ipv4Addr> = (0..254 * 256).map(source).collect();
        assert_eq!(sources.len(), 254 * 256);
        assert!(sources.iter().all(Ipv4Addr::is_loopback));
    }

    #[test]
    fn another_machine_gets_no_load() {
        let refused = Dialer::new("192.0.2.1:80".parse().unwrap(), Type::STREAM);
        assert!(refused.is_err_and(|text| text.contains("192.0.2.1:80")));
    }
}
