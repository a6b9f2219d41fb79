//! Sockets on their way to the server, from many addresses of this machine.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use rustix::io::{Errno, Result};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::job::Address;

/// What connect(2) has come to. On this machine a TCP connection has been made when connect returns, unless the backlog
/// was full, but a socket that does not block says `EINPROGRESS` all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialled {
    UnderWay,
    /// The backlog of a Unix socket is full, and nobody says when it is not: to be tried again.
    Full,
}

/// Makes sockets that are connected, or about to be.
pub(super) struct Dialer {
    target: Target,
    sockets: u32,
}

enum Target {
    /// The kind is that of TCP or UDP.
    Internet(SocketAddr, SocketType),
    Unix(SocketAddrUnix),
}

impl Dialer {
    /// # Errors
    ///
    /// The address is not one of this machine, or too long for a path of a socket.
    pub(super) fn new(address: &Address) -> std::result::Result<Self, String> {
        let target = match address {
            Address::Tcp(target) => Target::Internet(*target, SocketType::STREAM),
            Address::Udp(target) => Target::Internet(*target, SocketType::DGRAM),
            Address::Unix(path) => {
                Target::Unix(SocketAddrUnix::new(path).map_err(|errno| format!("{address}: {errno}"))?)
            }
        };
        match target {
            Target::Internet(target, _) if !target.ip().is_loopback() => {
                Err(format!("{target} is not a loopback address, and this load is for nobody else's machine"))
            }
            _ => Ok(Dialer { target, sockets: 0 }),
        }
    }

    /// A socket that does not block, bound to an address of its own if there are such.
    pub(super) fn socket(&mut self) -> Result<OwnedFd> {
        let (family, kind) = match &self.target {
            Target::Internet(SocketAddr::V4(_), kind) => (AddressFamily::INET, *kind),
            Target::Internet(SocketAddr::V6(_), kind) => (AddressFamily::INET6, *kind),
            Target::Unix(_) => (AddressFamily::UNIX, SocketType::STREAM),
        };
        let socket = net::socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
        if family == AddressFamily::INET {
            // The port is chosen by connect, which knows both ends: only the four numbers together have to be new. bind
            // would look for a port that nobody else has on that address.
            setsockopt(&socket, IpBindAddressNoPort, &true).map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
            net::bind(&socket, &SocketAddrV4::new(source(self.sockets), 0))?;
            self.sockets = self.sockets.wrapping_add(1);
        }
        Ok(socket)
    }

    pub(super) fn connect(&self, socket: &OwnedFd) -> Result<Dialled> {
        let result = match &self.target {
            Target::Internet(target, _) => net::connect(socket, target),
            Target::Unix(target) => net::connect(socket, target),
        };
        match result {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(Dialled::UnderWay),
            Err(Errno::AGAIN) if matches!(self.target, Target::Unix(_)) => Ok(Dialled::Full),
            Err(errno) => Err(errno),
        }
    }

    /// No waiting for a full segment: for connections over which more than one message is under way.
    pub(super) fn send_at_once(&self, socket: &OwnedFd) -> Result<()> {
        match self.target {
            Target::Internet(_, SocketType::STREAM) => sockopt::set_tcp_nodelay(socket, true),
            _ => Ok(()),
        }
    }
}

/// Where the socket of that number comes from: 127.x.y.1, 65,024 of them. Each has its own ports, so that they do not
/// run out while those of connections gone are in `TIME_WAIT`.
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
        let refused = Dialer::new(&Address::Tcp("192.0.2.1:80".parse().unwrap()));
        assert!(refused.is_err_and(|text| text.contains("192.0.2.1:80")));
    }
}
