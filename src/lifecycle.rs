//! Types that handlers and the reactor exchange: what to do next, why a connection ended, which time limit expired.

use std::fmt;

/// The result of a callback: what to do next.
///
/// Source: none. In Python, returning from `handle` ends the request.
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
    /// Keep the connection, and call again when there is something to do.
    Wait,
    /// Send the queued output, then FIN, then close. Nothing more is read.
    Close,
    /// Discard the queued output and send RST (`SO_LINGER` of 0 seconds, socket(7)).
    Abort,
}

/// Why a request ended: the last argument of [`finish`](crate::RequestHandler::finish) and of
/// [`close_request`](crate::BaseServer::close_request).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// The handler returned [`Next::Close`] or [`Next::Abort`].
    Done,
    /// The peer closed its side (FIN), and the handler did not continue.
    PeerClosed,
    /// The peer or the network broke the connection (RST, a timeout of the kernel, ...).
    Reset,
    /// A time limit of a connection, or of a handler on a thread, expired.
    Timeout(Timeout),
    /// An outbound connection was not established within `connect_timeout`.
    ConnectTimeout,
    /// The handshake of TLS failed. `setup` was not called, unless the handler has started TLS itself.
    HandshakeFailed,
    /// The handshake of TLS was not complete within [`Limits::handshake_timeout`](crate::Limits::handshake_timeout).
    HandshakeTimeout,
    /// The peer's side ended without the end of TLS (`close_notify`), so the last message may be incomplete. See
    /// `TlsAcceptor::suppress_ragged_eofs`.
    Truncated,
    /// The peer has violated TLS after the handshake or has sent a fatal alert, or the bytes were changed on the path. Also
    /// the reason if it had sent input before TLS, and the handler has passed on the error of
    /// `Request::start_tls`.
    TlsFailed,
    /// A program was not done within `child_timeout`.
    ChildTimeout,
    /// There was more unsent output than [`Limits::output_bytes_max`](crate::Limits): a slow consumer.
    OutputLimit,
    /// All connections of the reactor together held more than
    /// [`ReactorConfig::buffered_bytes_max`](crate::ReactorConfig), and this one was among those that held the most.
    BufferLimit,
    /// A line, a frame or the unread input exceeded its limit.
    InputLimit,
    /// A callback returned an error, or the system had no memory to watch the connection.
    /// [`handle_error`](crate::BaseServer::handle_error) was called.
    Error,
    /// A callback panicked. [`handle_error`](crate::BaseServer::handle_error) was called.
    Panicked,
    /// The request was never served: [`verify_request`](crate::BaseServer::verify_request) returned false, or a cap was
    /// reached. This is also the reason if a client behind a proxy has too many connections
    /// ([`Error::ClientLimit`](crate::Error::ClientLimit)).
    Refused,
    /// Closed by another handler, by the server or by another thread.
    Evicted,
    /// The server was stopping, and the handler closed the connection (see [`drain`](crate::RequestHandler::drain)), or
    /// its handshake of TLS was not complete.
    Stopped,
    /// The server stopped without waiting any longer for this request.
    StopAborted,
}

/// A time limit of a connection. The handler is called when the limit expires. It can
/// [change](crate::Request::set_timeout) the limit for its connection. [`Limits`](crate::Limits) has the limits for all
/// connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Timeout {
    /// Nothing was received or sent for `idle_timeout`.
    Idle,
    /// Input stayed unconsumed for `read_timeout`, so a message was not complete in time. On a thread, a read waited
    /// longer than the handler allows.
    Read,
    /// The peer accepted none of the waiting output for `write_timeout`. On a thread, a write waited longer than the
    /// handler allows.
    Write,
    /// A message was not complete within the time of [`set_message_deadline`](crate::Request::set_message_deadline).
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
            EndReason::HandshakeFailed => "handshake failed",
            EndReason::HandshakeTimeout => "handshake timeout",
            EndReason::Truncated => "truncated",
            EndReason::TlsFailed => "TLS failed",
            EndReason::ChildTimeout => "child timeout",
            EndReason::OutputLimit => "output limit",
            EndReason::BufferLimit => "buffer limit",
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
