//! How the calls of a simulated network end: as they should, or otherwise.

use std::io;

/// A system call that the reactor makes, for [`Network::on_call`](super::Network::on_call) to decide about.
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
    /// Waiting for events: epoll_wait(2) and its like.
    Wait,
    /// Taking a connection from a listener: accept(2).
    Accept,
    /// Beginning an outbound connection: connect(2).
    Connect,
    /// Making a socket known to the selector: epoll_ctl(2) and its like.
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
/// Whatever is chosen, the selector keeps to the edge-triggered contract: what was held back here is announced by an
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
    /// As the state of things has it.
    #[default]
    Proceed,
    /// A signal came: EINTR. A wait returns with no event.
    Interrupted,
    /// Nothing is there yet, or no room: EAGAIN. A wait returns with no event. A connection is tried again later, as to
    /// a Unix socket whose backlog is full. Registering a socket cannot end like this, and proceeds.
    WouldBlock,
    /// No more than so many: bytes of a read or write, events of a wait. Zero is as [`WouldBlock`](Self::WouldBlock).
    /// Other calls proceed.
    AtMost(usize),
    /// It fails. A connection that could not be read or written is broken from then on; one that could not be accepted
    /// is still there for the next attempt, unless it was aborted
    /// ([`ConnectionAborted`](io::ErrorKind::ConnectionAborted)). An error of the kind `WouldBlock` or `Interrupted` is as
    /// those above.
    Fail(io::Error),
}

impl Outcome {
    /// For calls that cannot be interrupted, made to wait or cut short.
    pub(crate) fn into_result(self) -> io::Result<()> {
        match self {
            Outcome::Fail(error) => Err(error),
            _ => Ok(()),
        }
    }
}
