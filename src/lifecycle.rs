//! The words in which a handler and the reactor tell each other what happens to a connection.

use std::fmt;

/// What a callback asks for by returning.
///
/// Source: in Python returning from `handle` ends the request; here it says what comes next.
///
/// ```
/// use socketserver::{testing::Client, EndReason, Next, Request, RequestHandler, Result};
///
/// struct Once;
/// impl RequestHandler for Once {
///     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
///         Ok(if request.input.take_all() == b"bye\n" { Next::Close } else { Next::Wait })
///     }
/// }
/// let mut client = Client::new(Once);
/// client.feed(b"hello\n");
/// assert!(!client.is_closed());
/// client.feed(b"bye\n");
/// assert_eq!(client.finished(), Some(EndReason::Done));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// More later: call again when there is something to do.
    Wait,
    /// Send what is queued, then FIN, then close. Nothing more is read.
    Close,
    /// Drop what is queued and send RST (`SO_LINGER` of 0 seconds, socket(7)).
    Abort,
}

/// Why a request ended: the last argument of [`finish`](crate::RequestHandler::finish) and of
/// [`close_request`](crate::BaseServer::close_request).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// The handler returned [`Next::Close`] or [`Next::Abort`].
    Done,
    /// The peer ended its side (FIN) and the handler had nothing more to say.
    PeerClosed,
    /// The peer or the network broke the connection (RST, time-out of the kernel, ...).
    Reset,
    /// A time limit passed, of a connection or of a handler on a thread.
    Timeout(Timeout),
    /// An outbound connection was not established within `connect_timeout`.
    ConnectTimeout,
    /// A program was not done within `child_timeout`.
    ChildTimeout,
    /// More unsent output than [`Limits::output_bytes_max`](crate::Limits): a slow consumer.
    OutputLimit,
    /// A line, a frame or the unread input grew over its limit.
    InputLimit,
    /// A callback returned an error, or the system had no memory left to watch the connection;
    /// [`handle_error`](crate::BaseServer::handle_error) has seen it.
    Error,
    /// A callback panicked; [`handle_error`](crate::BaseServer::handle_error) has seen it.
    Panicked,
    /// Never served: [`verify_request`](crate::BaseServer::verify_request) said no, or a cap was reached. Also if a
    /// proxy's client turned out to have too many connections ([`Error::ClientLimit`](crate::Error::ClientLimit)).
    Refused,
    /// Closed by somebody else: another handler, the server or another thread.
    Evicted,
    /// The server is stopping and the handler let go (see [`drain`](crate::RequestHandler::drain)).
    Stopped,
    /// The server stopped and did not wait any longer.
    StopAborted,
}

/// A time limit that a handler is told of when it has passed, and that it can [set](crate::Request::set_timeout) for its
/// connection. What holds for all connections is in [`Limits`](crate::Limits).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Timeout {
    /// Nothing was received and nothing sent for `idle_timeout`.
    Idle,
    /// A message was begun but not complete within `read_timeout`: input stayed unconsumed that long. On a thread, a read
    /// waited for longer than the handler allows.
    Read,
    /// The peer took none of the waiting output for `write_timeout`. On a thread, for longer than the handler allows.
    Write,
    /// A message was not complete within the time that its handler gave it:
    /// [`set_message_deadline`](crate::Request::set_message_deadline).
    Message,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EndReason::Done => "done",
            EndReason::PeerClosed => "peer closed",
            EndReason::Reset => "reset",
            EndReason::Timeout(Timeout::Idle) => "idle timeout",
            EndReason::Timeout(Timeout::Read) => "read timeout",
            EndReason::Timeout(Timeout::Write) => "write timeout",
            EndReason::Timeout(Timeout::Message) => "message timeout",
            EndReason::ConnectTimeout => "connect timeout",
            EndReason::ChildTimeout => "child timeout",
            EndReason::OutputLimit => "output limit",
            EndReason::InputLimit => "input limit",
            EndReason::Error => "handler error",
            EndReason::Panicked => "panicked",
            EndReason::Refused => "refused",
            EndReason::Evicted => "evicted",
            EndReason::Stopped => "stopped",
            EndReason::StopAborted => "aborted by the stop",
        })
    }
}
