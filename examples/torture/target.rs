//! The server under test: what its address means, and whether it may be tried.

use std::fmt::{self, Display};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
#[cfg(unix)]
use std::path::PathBuf;
use std::time::Duration;

use mio::net::TcpStream;
#[cfg(unix)]
use mio::net::UnixStream;

use crate::stream::Stream;

pub(crate) struct Target {
    name: String,
    address: Address,
}

enum Address {
    /// What a name stands for; the first of them is used.
    Tcp(Vec<SocketAddr>),
    #[cfg(unix)]
    Unix(PathBuf),
}

impl Target {
    /// Understands `HOST:PORT` and `unix:PATH`. A server on another machine is refused unless it is allowed.
    pub(crate) fn parse(name: &str, allow_remote: bool) -> Result<Target, String> {
        #[cfg(unix)]
        if let Some(path) = name.strip_prefix("unix:") {
            return Ok(Target { name: name.to_owned(), address: Address::Unix(path.into()) });
        }
        let addresses = name.to_socket_addrs().map_err(|error| format!("{name:?} is not an address: {error}"))?;
        let addresses: Vec<_> = addresses.collect();
        if addresses.is_empty() {
            return Err(format!("{name:?} has no address"));
        }
        if let Some(remote) = addresses.iter().find(|address| !address.ip().to_canonical().is_loopback())
            && !allow_remote
        {
            return Err(format!("{remote} may be another machine; --allow-remote if its owner agrees to this"));
        }
        Ok(Target { name: name.to_owned(), address: Address::Tcp(addresses) })
    }

    /// Settles for the first address at which somebody accepts connections.
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
        };
        reached.map_err(|error| format!("cannot connect to {self}: {error}"))
    }

    /// Begins to connect.
    pub(crate) fn connect(&self) -> io::Result<Stream> {
        match &self.address {
            Address::Tcp(addresses) => {
                let stream = TcpStream::connect(addresses[0])?;
                // Each piece is to be on its way at once, and by itself.
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            #[cfg(unix)]
            Address::Unix(path) => UnixStream::connect(path).map(Stream::Unix),
        }
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
