//! Addresses: one type for every kind of socket.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

#[cfg(unix)]
pub use self::unix::UnixAddress;

/// The address of a socket: a client's, a listener's, or that of our own end of a connection.
///
/// An IPv4 client of a dual-stack listener is shown as an IPv4 address, not as `::ffff:a.b.c.d`.
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
    /// The address of a Unix socket.
    #[cfg(unix)]
    Unix(UnixAddress),
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

    /// The address with this port, if it has none.
    pub(crate) fn with_port(mut self, port: u16) -> Self {
        if let Address::Inet(address) = &mut self
            && address.port() == 0
        {
            address.set_port(port);
        }
        self
    }

    /// The address with another IP address, if it has one.
    pub(crate) fn with_ip(&self, ip: IpAddr) -> Self {
        match self {
            Address::Inet(address) => Address::Inet(SocketAddr::new(ip, address.port())),
            #[cfg(unix)]
            Address::Unix(_) => self.clone(),
        }
    }

    /// The address as the standard library's type, if the socket is an internet socket.
    pub fn as_inet(&self) -> Option<SocketAddr> {
        match self {
            Address::Inet(address) => Some(*address),
            #[cfg(unix)]
            Address::Unix(_) => None,
        }
    }

    /// Like [`as_inet`](Self::as_inet), without a copy.
    #[inline]
    pub(crate) fn inet(&self) -> Option<&SocketAddr> {
        match self {
            Address::Inet(address) => Some(address),
            #[cfg(unix)]
            Address::Unix(_) => None,
        }
    }

    /// The address as a Unix address, if the socket is a Unix socket.
    #[cfg(unix)]
    pub fn as_unix(&self) -> Option<&UnixAddress> {
        match self {
            Address::Inet(_) => None,
            Address::Unix(address) => Some(address),
        }
    }

    /// Returns whether the address can be written to. A Unix socket may have no name.
    pub(crate) fn is_unnamed(&self) -> bool {
        match self {
            Address::Inet(_) => false,
            #[cfg(unix)]
            Address::Unix(address) => address.is_unnamed(),
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
            #[cfg(unix)]
            Address::Unix(address) => address.fmt(f),
        }
    }
}

#[cfg(unix)]
mod unix {
    use std::ffi::OsStr;
    use std::fmt;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::sync::Arc;

    use super::Address;

    /// The address of a Unix socket: a path, an abstract name (Linux), or none at all. See unix(7).
    ///
    /// A client that did not bind its socket has no name. It can be answered over a stream, but not with a datagram.
    ///
    /// Cheap to clone. It is displayed and parsed as a path, or as `@name` for an abstract name. A path that begins
    /// with `@` is written `./@...`. A peer chooses its own name, so bytes in it that are not plainly visible
    /// (controls, bidirectional overrides, invalid text) are escaped.
    ///
    /// Source: Python's `AF_UNIX` addresses: a string, bytes that begin with a NUL, or an empty string.
    ///
    /// ```
    /// use socketserver::UnixAddress;
    /// use std::path::Path;
    ///
    /// let path = UnixAddress::from_path("/run/echo.sock");
    /// assert_eq!(path.as_path(), Some(Path::new("/run/echo.sock")));
    /// let name = UnixAddress::from_abstract_name("echo");
    /// assert_eq!(name.to_string(), "@echo");
    /// assert_eq!("@echo".parse(), Ok(name));
    /// assert!(UnixAddress::unnamed().is_unnamed());
    /// ```
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    pub struct UnixAddress {
        name: Name,
    }

    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    enum Name {
        Unnamed,
        Path(Arc<Path>),
        Abstract(Arc<[u8]>),
    }

    impl UnixAddress {
        /// The address of a socket in the file system. An unsuitable path is an error when it is bound.
        pub fn from_path(path: impl AsRef<Path>) -> Self {
            UnixAddress { name: Name::Path(path.as_ref().into()) }
        }

        /// A name in Linux's abstract namespace, which has no file: any bytes, at most 107.
        pub fn from_abstract_name(name: impl AsRef<[u8]>) -> Self {
            UnixAddress { name: Name::Abstract(name.as_ref().into()) }
        }

        /// The address of a socket that is not bound.
        pub fn unnamed() -> Self {
            UnixAddress { name: Name::Unnamed }
        }

        /// The path, if the address is one.
        pub fn as_path(&self) -> Option<&Path> {
            match &self.name {
                Name::Path(path) => Some(path),
                _ => None,
            }
        }

        /// The abstract name, without its leading NUL, if the address is one.
        pub fn as_abstract_name(&self) -> Option<&[u8]> {
            match &self.name {
                Name::Abstract(name) => Some(name),
                _ => None,
            }
        }

        /// Returns whether the socket has no name.
        pub fn is_unnamed(&self) -> bool {
            matches!(self.name, Name::Unnamed)
        }

        /// The bytes of the address as in sockaddr_un(7): an abstract name begins with a NUL.
        pub(crate) fn to_path_bytes(&self) -> std::borrow::Cow<'_, Path> {
            match &self.name {
                Name::Unnamed => Path::new("").into(),
                Name::Path(path) => (&**path).into(),
                Name::Abstract(name) => {
                    let bytes = [b"\0", &name[..]].concat();
                    Path::new(OsStr::from_bytes(&bytes)).to_path_buf().into()
                }
            }
        }
    }

    impl From<std::os::unix::net::SocketAddr> for UnixAddress {
        fn from(address: std::os::unix::net::SocketAddr) -> Self {
            #[cfg(any(target_os = "linux", target_os = "android"))]
            {
                use std::os::linux::net::SocketAddrExt;
                if let Some(name) = address.as_abstract_name() {
                    return UnixAddress::from_abstract_name(name);
                }
            }
            address.as_pathname().map_or_else(UnixAddress::unnamed, UnixAddress::from_path)
        }
    }

    impl From<std::os::unix::net::SocketAddr> for Address {
        fn from(address: std::os::unix::net::SocketAddr) -> Self {
            Address::Unix(address.into())
        }
    }

    impl From<UnixAddress> for Address {
        fn from(address: UnixAddress) -> Self {
            Address::Unix(address)
        }
    }

    impl std::str::FromStr for UnixAddress {
        type Err = std::convert::Infallible;

        fn from_str(text: &str) -> Result<Self, Self::Err> {
            Ok(match text.strip_prefix('@') {
                Some(name) => UnixAddress::from_abstract_name(name),
                None => UnixAddress::from_path(text),
            })
        }
    }

    impl fmt::Display for UnixAddress {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match &self.name {
                Name::Unnamed => f.pad("unnamed"),
                Name::Path(path) if path.as_os_str().is_empty() => f.pad("an empty path"),
                Name::Path(path) => {
                    let bytes = path.as_os_str().as_bytes();
                    f.pad(&visible(if bytes.starts_with(b"@") { "./" } else { "" }, bytes))
                }
                Name::Abstract(name) => f.pad(&visible("@", name)),
            }
        }
    }

    /// A name as text that shows all bytes and cannot control a terminal.
    fn visible(prefix: &str, name: &[u8]) -> String {
        let mut text = String::from(prefix);
        for chunk in name.utf8_chunks() {
            text.extend(chunk.valid().chars().flat_map(crate::escape::visible));
            chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_costs_a_connection_no_more_than_a_socket_address() {
        assert_eq!(size_of::<Address>(), size_of::<SocketAddr>());
    }
}
