//! What a server is asked to do, and where: the words that servers and loads share.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What a server does for each client. Every rival does the same, byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Job {
    /// Sends back whatever arrives, until the client ends.
    Echo,
    /// Sends back what arrived first, then closes: the server has the `TIME_WAIT`.
    EchoOnce,
}

/// Over which kind of socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Transport {
    Tcp,
    Unix,
    Udp,
}

/// Where a server listens: always this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
    Udp(SocketAddr),
}

impl Job {
    /// As it stands on a server's command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Job::Echo => "echo",
            Job::EchoOnce => "echo-once",
        }
    }
}

impl Transport {
    /// As it stands on a server's command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Unix => "unix",
            Transport::Udp => "udp",
        }
    }
}

impl Address {
    pub(crate) fn transport(&self) -> Transport {
        match self {
            Address::Tcp(_) => Transport::Tcp,
            Address::Unix(_) => Transport::Unix,
            Address::Udp(_) => Transport::Udp,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) | Address::Udp(address) => address.fmt(f),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}
