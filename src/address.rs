//! Who is at the other end, or where we listen: one type for every kind of socket.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The address of a socket: a client's, a listener's or our own end of a connection.
///
/// An IPv4 client of a dual-stack listener is shown as the IPv4 address it is, not as `::ffff:a.b.c.d`.
///
/// Source: `client_address` and `server_address` of Python's `socketserver`.
///
/// ```
/// use socketserver::Address;
///
/// let address = Address::from("[::ffff:192.0.2.7]:80".parse::<std::net::SocketAddr>().unwrap());
/// assert_eq!(address.to_string(), "192.0.2.7:80");
/// assert_eq!(address.port(), Some(80));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// An IPv4 or IPv6 address with its port.
    Inet(SocketAddr),
}

impl Address {
    /// The IP address, if the socket has one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.as_inet().map(|address| address.ip())
    }

    /// The port, if the socket has one.
    pub fn port(&self) -> Option<u16> {
        self.as_inet().map(|address| address.port())
    }

    /// The address as the standard library's type, if the socket is an internet socket.
    pub fn as_inet(&self) -> Option<SocketAddr> {
        match self {
            Address::Inet(address) => Some(*address),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        // SocketAddr::new would drop the scope of a link-local IPv6 address, so it is only for mapped ones.
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => Address::Inet(SocketAddr::new(ip.into(), address.port())),
            IpAddr::V6(_) => Address::Inet(address),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet(address) => address.fmt(f),
        }
    }
}
