//! What a server is asked to do. All do the same, byte for byte.

use clap::ValueEnum;
use serde::Serialize;
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Job {
    /// Over TCP, sends back all that arrives, until the client ends.
    Echo,
    /// Over TCP, sends back what arrived first, then closes: the server has the `TIME_WAIT`.
    EchoOnce,
    /// Over UDP, sends each datagram back.
    Datagrams,
}

impl fmt::Display for Job {
    /// As it is written on a server's command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}
