//! The server under test: what its address means, and whether it may be tried.

use std::cell::Cell;
use std::fmt::{self, Display};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::Path;
#[cfg(unix)]
use std::path::PathBuf;
use std::time::Duration;

use mio::net::{TcpStream, UdpSocket};
#[cfg(unix)]
use mio::net::{UnixDatagram, UnixStream};
use rustls::pki_types::ServerName;

use crate::authority::Authority;
use crate::datagram::{DATAGRAM_BYTES_MAX, DatagramSocket};
use crate::secured::Secured;
use crate::stream::Stream;

pub(crate) struct Target {
    name: String,
    address: Address,
    /// Which certificates are trusted, and the name that the server's has to be for.
    tls: Option<(Authority, ServerName<'static>)>,
    /// A longer datagram need not be answered.
    pub(crate) longest: usize,
}

enum Address {
    /// What a name stands for; the first of them is used.
    Tcp(Vec<SocketAddr>),
    Udp(Vec<SocketAddr>, Ports),
    #[cfg(unix)]
    Unix(PathBuf),
    #[cfg(unix)]
    UnixDatagram(PathBuf, Names),
}

/// A socket that begins to connect, or that sends datagrams to the server.
pub(crate) enum Socket {
    Stream(Stream),
    Datagram(DatagramSocket),
}

impl Target {
    /// Understands `HOST:PORT`, `udp:HOST:PORT`, `unix:PATH` and `unix-datagram:PATH`, and `tls:` before an address of
    /// connections. A server on another machine is refused unless it is allowed.
    pub(crate) fn parse(name: &str, allow_remote: bool, ca: Option<&Path>) -> Result<Target, String> {
        let secured = name.strip_prefix("tls:");
        let address = Address::parse(secured.unwrap_or(name), allow_remote)?;
        let mut target = Target { name: name.to_owned(), address, tls: None, longest: DATAGRAM_BYTES_MAX };
        match secured {
            Some(_) if target.is_for_datagrams() => return Err(format!("{name}: TLS is for connections")),
            Some(address) => target.tls = Some((Authority::new(ca)?, server_name(address)?)),
            None if ca.is_some() => return Err("--ca is for tls:ADDR".to_owned()),
            None => {}
        }
        Ok(target)
    }

    pub(crate) fn is_for_datagrams(&self) -> bool {
        match self.address {
            Address::Tcp(_) => false,
            Address::Udp(..) => true,
            #[cfg(unix)]
            Address::Unix(_) => false,
            #[cfg(unix)]
            Address::UnixDatagram(..) => true,
        }
    }

    /// Settles for the first address at which a server accepts connections. Whether a server takes datagrams is seen
    /// when one is answered.
    pub(crate) fn reach(&mut self, patience: Duration) -> Result<(), String> {
        let reached = match &mut self.address {
            Address::Tcp(addresses) => {
                let mut reached = Err(io::ErrorKind::AddrNotAvailable.into());
                for address in addresses.clone() {
                    reached = std::net::TcpStream::connect_timeout(&address, patience).map(drop);
                    if reached.is_ok() {
                        *addresses = vec![address];
                        break;
                    }
                }
                reached
            }
            #[cfg(unix)]
            Address::Unix(path) => std::os::unix::net::UnixStream::connect(path).map(drop),
            _ => self.connect().map(drop),
        };
        reached.map_err(|error| format!("cannot connect to {self}: {error}"))
    }

    /// Begins to connect.
    pub(crate) fn connect(&self) -> io::Result<Socket> {
        match (self.address.connect()?, &self.tls) {
            (Socket::Stream(stream), Some((authority, name))) => {
                let secured = Secured::new(stream, authority, name.clone())?;
                Ok(Socket::Stream(Stream::Tls(Box::new(secured))))
            }
            (socket, _) => Ok(socket),
        }
    }
}

/// The name that a certificate has to be for: the host's.
fn server_name(address: &str) -> Result<ServerName<'static>, String> {
    let host = match address.rsplit_once(':') {
        Some((host, _)) if !address.starts_with("unix:") => host.trim_matches(['[', ']']),
        _ => "localhost",
    };
    ServerName::try_from(host.to_owned()).map_err(|error| format!("{address:?}: {error}"))
}

impl Address {
    fn parse(name: &str, allow_remote: bool) -> Result<Address, String> {
        #[cfg(unix)]
        if let Some(path) = name.strip_prefix("unix:") {
            return Ok(Address::Unix(path.into()));
        }
        #[cfg(unix)]
        if let Some(path) = name.strip_prefix("unix-datagram:") {
            let names = Names::new().map_err(|error| format!("cannot make a directory for sockets: {error}"))?;
            return Ok(Address::UnixDatagram(path.into(), names));
        }
        let udp = name.strip_prefix("udp:");
        let host = udp.unwrap_or(name);
        let addresses = host.to_socket_addrs().map_err(|error| format!("{name:?} is not an address: {error}"))?;
        let addresses: Vec<_> = addresses.collect();
        if addresses.is_empty() {
            return Err(format!("{name:?} has no address"));
        }
        if let Some(remote) = addresses.iter().find(|address| !address.ip().to_canonical().is_loopback())
            && !allow_remote
        {
            return Err(format!("{remote} may be another machine; --allow-remote if its owner agrees to this"));
        }
        Ok(if udp.is_some() { Address::Udp(addresses, Ports::new()) } else { Address::Tcp(addresses) })
    }

    fn connect(&self) -> io::Result<Socket> {
        match self {
            Address::Tcp(addresses) => {
                let stream = TcpStream::connect(addresses[0])?;
                // Each piece is to be on its way at once, and by itself.
                stream.set_nodelay(true)?;
                Ok(Socket::Stream(Stream::Tcp(stream)))
            }
            Address::Udp(addresses, ports) => {
                let socket = ports.bind(match addresses[0] {
                    SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                })?;
                socket.connect(addresses[0])?;
                Ok(Socket::Datagram(DatagramSocket::Udp(socket)))
            }
            #[cfg(unix)]
            Address::Unix(path) => UnixStream::connect(path).map(|stream| Socket::Stream(Stream::Unix(stream))),
            #[cfg(unix)]
            Address::UnixDatagram(path, names) => {
                let own = names.next();
                let socket = UnixDatagram::bind(&own)?;
                let connected = socket.connect(path);
                // Even if that failed: from here on its file is removed with it.
                let socket = DatagramSocket::Unix(socket, own);
                connected.map(|()| Socket::Datagram(socket))
            }
        }
    }
}

/// UDP ports for clients. Each is used again after all others, so that a late answer to a client that has gone reaches no
/// other client.
struct Ports {
    next: Cell<u16>,
}

impl Ports {
    fn new() -> Ports {
        Ports { next: Cell::new(fastrand::u16(DYNAMIC_PORTS)) }
    }

    fn bind(&self, ip: IpAddr) -> io::Result<UdpSocket> {
        for _ in DYNAMIC_PORTS {
            let port = self.next.get();
            self.next.set(port.checked_add(1).unwrap_or(*DYNAMIC_PORTS.start()));
            match UdpSocket::bind((ip, port).into()) {
                // Windows reserves some ports, and refuses them so.
                Err(error) if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) => {}
                bound => return bound,
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }
}

/// RFC 6335, section 6.
const DYNAMIC_PORTS: RangeInclusive<u16> = 49_152..=65_535;

/// Paths for sockets that have to have one to be answered.
#[cfg(unix)]
struct Names {
    directory: PathBuf,
    given: Cell<u64>,
}

#[cfg(unix)]
impl Names {
    fn new() -> io::Result<Names> {
        let directory = std::env::temp_dir().join(format!("torture-{}", std::process::id()));
        std::fs::create_dir(&directory)?;
        Ok(Names { directory, given: Cell::new(0) })
    }

    fn next(&self) -> PathBuf {
        self.directory.join(self.given.replace(self.given.get() + 1).to_string())
    }
}

#[cfg(unix)]
impl Drop for Names {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.directory);
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
