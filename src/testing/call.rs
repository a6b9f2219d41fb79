//! The system calls of a simulated network, and how they end.

use std::io;

/// A system call of the reactor, about which [`Network::on_call`](super::Network::on_call) decides.
///
/// ```
/// use socketserver::testing::{Call, Network, Outcome};
///
/// let mut network = Network::new();
/// network.on_call(|call, _| match call {
///     Call::Read => Outcome::AtMost(1), // bytes trickle in, however they were sent
///     _ => Outcome::Proceed,
/// });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// Waiting for events: epoll_wait(2) or similar.
    Wait,
    /// Taking a connection from a listener: accept(2).
    Accept,
    /// Starting an outbound connection: connect(2).
    Connect,
    /// Registering a socket with the selector: epoll_ctl(2) or similar.
    Register,
    /// Reading from a connection.
    Read,
    /// Writing to a connection.
    Write,
    /// Receiving a datagram.
    Receive,
    /// Sending a datagram.
    Send,
}

/// How a [`Call`] ends.
///
/// In each case the selector keeps to the edge-triggered contract: input or room that was held back here causes an
/// event afterwards.
///
/// ```
/// use socketserver::testing::{Call, Network, Outcome};
/// use std::io;
///
/// let mut network = Network::new();
/// let mut out_of_descriptors = 3;
/// network.on_call(move |call, _| {
///     if call == Call::Accept && out_of_descriptors > 0 {
///         out_of_descriptors -= 1;
///         return Outcome::Fail(io::Error::from_raw_os_error(24)); // EMFILE
///     }
///     Outcome::Proceed
/// });
/// ```
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum Outcome {
    /// As the state of the network requires.
    #[default]
    Proceed,
    /// A signal came: EINTR. A wait returns without an event.
    Interrupted,
    /// There is no input or no room: EAGAIN. A wait returns without an event. A connect is tried again later, as to a
    /// Unix socket whose backlog is full. Registering a socket cannot end like this, and proceeds.
    WouldBlock,
    /// At most this many bytes of a read or write, or events of a wait. Zero is the same as
    /// [`WouldBlock`](Self::WouldBlock). Other calls proceed.
    AtMost(usize),
    /// The call fails. A connection that could not be read or written is broken from then on. One that could not be
    /// accepted is still there for the next attempt, unless it was aborted
    /// ([`ConnectionAborted`](io::ErrorKind::ConnectionAborted)). An error of the kind `WouldBlock` or `Interrupted` is
    /// the same as the variants above.
    Fail(io::Error),
}

impl Outcome {
    /// For calls that cannot be interrupted, cannot wait and cannot be cut short.
    pub(crate) fn into_result(self) -> io::Result<()> {
        match self {
            Outcome::Fail(error) => Err(error),
            _ => Ok(()),
        }
    }
}
