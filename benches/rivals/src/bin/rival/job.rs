//! The words of the command line.

use clap::ValueEnum;
use std::fmt;

/// What is done for each client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Job {
    /// Send back whatever arrives, until the client ends
    Echo,
    /// Send back what the first read gave, then close
    EchoOnce,
}

/// Over which kind of socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    Tcp,
    Unix,
    /// Only echo: send each datagram back to its sender
    Udp,
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Job::Echo => "echo",
            Job::EchoOnce => "echo-once",
        })
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Tcp => "tcp",
            Transport::Unix => "unix",
            Transport::Udp => "udp",
        })
    }
}
