//! The trait that users implement. Each connection has one handler, whose callbacks run when there is something to do.

pub(crate) mod messages;
pub(crate) mod others;
pub(crate) mod request;
#[cfg(feature = "tls")]
mod tls;

use self::request::Request;
use crate::error::{Error, Result};
use crate::lifecycle::{EndReason, Next, Timeout};
use crate::reactor::handle::Message;

/// Serves one connection: a state machine that the reactor calls when something happens. No callback may block.
///
/// `S` is the type of the server's value, `request.server`. A handler that does not use it can be generic over it.
///
/// An error from any callback is passed to [`handle_error`](crate::BaseServer::handle_error) and ends only this
/// connection: queued output is sent, and then the connection is closed. A panic is treated the same, but resets the
/// connection (unless the program is built with `panic = "abort"`). For a datagram, the answer written so far is then
/// discarded, but output from `finish` is still sent.
///
/// Source: `BaseRequestHandler` and `StreamRequestHandler`. The [`Request`] has `self.request`, `self.client_address`,
/// `self.server`, `self.rfile` and `self.wfile`.
///
/// ```
/// use socketserver::{testing::Client, EndReason, Next, Request, RequestHandler, Result};
/// use std::io::Write;
///
/// /// Adds up the numbers that it receives, one per line.
/// #[derive(Default)]
/// struct Sum { total: i64 }
///
/// impl RequestHandler for Sum {
///     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
///         while let Some(line) = request.input.read_line()? {
///             self.total += std::str::from_utf8(line)?.trim().parse::<i64>()?;
///         }
///         Ok(Next::Wait)
///     }
///     fn eof(&mut self, request: &mut Request<'_>) -> Result<Next> {
///         writeln!(request.output, "{}", self.total)?;
///         Ok(Next::Close)
///     }
/// }
///
/// let mut client = Client::new(Sum::default());
/// client.feed(b"20\n2");
/// client.feed(b"2\n");
/// client.feed_eof();
/// assert_eq!(client.sent(), b"42\n");
/// assert_eq!(client.finished(), Some(EndReason::PeerClosed));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a reactor handler for a server with a value of type `{S}`",
    label = "`RequestHandler<{S}>` is not implemented",
    note = "a `StreamRequestHandler`, like any other `BlockingHandler`, may block and needs a thread: give it to a \
            `ThreadingTcpServer` or its siblings, or return `ServeOn::thread(handler)` from the hook `process_request`",
    note = "to write a handler with callbacks that do not block, use `impl RequestHandler<{S}>`"
)]
pub trait RequestHandler<S = ()>: Send + 'static {
    /// Called once, before any other callback, when a connection has been accepted or an outbound connection has been
    /// established. If `setup` fails, no other callback is called.
    fn setup(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        let _ = request;
        Ok(Next::Wait)
    }

    /// Called each time input arrives. `request.input` contains all unread input. Return [`Next::Wait`] to be called
    /// again when more arrives. Unconsumed input is kept, so consume messages until no complete one is left.
    ///
    /// If input is unread at the end of the stream, the callback is called once more, and
    /// [`is_eof`](crate::Input::is_eof) then returns true.
    fn handle(&mut self, request: &mut Request<'_, S>) -> Result<Next>;

    /// Called exactly once for every connection whose `setup` succeeded, after all other callbacks, when all queued
    /// output has been sent or can no longer be sent. Anything that `finish` writes is still sent if the connection is
    /// intact.
    fn finish(&mut self, request: &mut Request<'_, S>, why: EndReason) {
        let _ = (request, why);
    }

    /// Called when the unsent output has fallen to the low-water mark after exceeding the high-water mark, or in the
    /// next turn if [`is_full`](crate::Output::is_full) or [`Delivery::Full`](crate::Delivery::Full) reported that a
    /// share of the turn was used up. From then on the connection is read again. The default implementation calls
    /// [`handle`](Self::handle) if input is unread.
    fn writable(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        if request.input.is_empty() { Ok(Next::Wait) } else { self.handle(request) }
    }

    /// Called once, when the peer has closed its side and all earlier input has been handled. By default the connection
    /// is closed after its output has been sent. With [`Next::Wait`] it stays half-open, and the handler can continue
    /// to write.
    fn eof(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        let _ = request;
        Ok(Next::Close)
    }

    /// Called when one of the connection's time limits expires. By default the connection ends: after a flush, or
    /// immediately if the limit is the write timeout. If the callback returns [`Next::Wait`], the limit starts again.
    ///
    /// Source: `StreamRequestHandler.timeout`.
    fn timed_out(&mut self, request: &mut Request<'_, S>, timeout: Timeout) -> Result<Next> {
        let _ = request;
        Ok(if timeout == Timeout::Write { Next::Abort } else { Next::Close })
    }

    /// Called when a timer set with [`set_timer`](Request::set_timer) is due. The timer is then removed, unless it is
    /// [periodic](Request::set_interval).
    fn timer(&mut self, request: &mut Request<'_, S>, tag: u64) -> Result<Next> {
        let _ = (request, tag);
        Ok(Next::Wait)
    }

    /// Called for a message from another thread ([`Handle::send`](crate::Handle::send)) or the result of an offloaded
    /// job ([`Request::offload`]).
    fn message(&mut self, request: &mut Request<'_, S>, message: Message) -> Result<Next> {
        let _ = (request, message);
        Ok(Next::Wait)
    }

    /// Called at most once, while the server is stopping: when the connection is quiet, or when half of the grace
    /// period is over. A connection is quiet when [`handle`](Self::handle) was called for all input, nothing is unsent,
    /// and no byte has moved for [`ReactorConfig::drain_quiet`](crate::ReactorConfig::drain_quiet). An incomplete
    /// message that was left unread does not prevent this. In either case `drain` is not called until the results of
    /// all [offloaded](Request::offload) jobs have been delivered, or until the grace period ends. By default the
    /// connection is closed. With [`Next::Wait`] it may continue until the grace period ends.
    ///
    /// Timers, paused reading, an outbound connection that has not answered, and a message that another thread is going
    /// to send do not prevent a connection from being quiet. A handler that still owes an answer because of one of
    /// these must return [`Next::Wait`], and close the connection after sending the answer.
    fn drain(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        let _ = request;
        Ok(Next::Close)
    }

    /// Called instead of `setup` and all other callbacks when an outbound connection could not be established. There is
    /// no peer to write to, but `request` still gives access to the server and to other connections.
    fn connect_failed(&mut self, request: &mut Request<'_, S>, error: &Error) {
        let _ = (request, error);
    }
}

/// A boxed handler is a handler, so that one server can have handlers of several types.
impl<S: 'static> RequestHandler<S> for Box<dyn RequestHandler<S>> {
    fn setup(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        (**self).setup(request)
    }
    fn handle(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        (**self).handle(request)
    }
    fn finish(&mut self, request: &mut Request<'_, S>, why: EndReason) {
        (**self).finish(request, why);
    }
    fn writable(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        (**self).writable(request)
    }
    fn eof(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        (**self).eof(request)
    }
    fn timed_out(&mut self, request: &mut Request<'_, S>, timeout: Timeout) -> Result<Next> {
        (**self).timed_out(request, timeout)
    }
    fn timer(&mut self, request: &mut Request<'_, S>, tag: u64) -> Result<Next> {
        (**self).timer(request, tag)
    }
    fn message(&mut self, request: &mut Request<'_, S>, message: Message) -> Result<Next> {
        (**self).message(request, message)
    }
    fn drain(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        (**self).drain(request)
    }
    fn connect_failed(&mut self, request: &mut Request<'_, S>, error: &Error) {
        (**self).connect_failed(request, error);
    }
}
