//! The trait that users implement: one value for each connection, called when there is something to do.

pub(crate) mod others;
pub(crate) mod request;

use self::request::Request;
use crate::error::{Error, Result};
use crate::lifecycle::{EndReason, Next, Timeout};
use crate::reactor::handle::Message;

/// Serves one connection. It is a state machine that the reactor calls when something has happened. No callback may
/// block.
///
/// `S` is the type of the server's value, `request.server`. A handler that does not use it can be generic over it.
///
/// An error of any callback goes to [`handle_error`](crate::BaseServer::handle_error) and ends this connection only:
/// queued output is sent, and then it is closed. A panic does the same but resets the connection (unless the program is
/// built with `panic = "abort"`). For a datagram, the answer is dropped then, but output of `finish` is sent.
///
/// Source: `BaseRequestHandler` and `StreamRequestHandler`. The [`Request`] has `self.request`, `self.client_address`,
/// `self.server`, `self.rfile` and `self.wfile`.
///
/// ```
/// use socketserver::{testing::Client, EndReason, Next, Request, RequestHandler, Result};
/// use std::io::Write;
///
/// /// Adds up numbers, one per line.
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
    message = "`{Self}` is no handler on the reactor of a server whose value is `{S}`",
    label = "`RequestHandler<{S}>` is not implemented",
    note = "a `StreamRequestHandler`, and any other `BlockingHandler`, may wait and needs a thread: give it to a \
            `ThreadingTcpServer` or its siblings, or return `ServeOn::thread(handler)` from the hook `process_request`",
    note = "a handler whose callbacks do not wait is made by `impl RequestHandler<{S}>`"
)]
pub trait RequestHandler<S = ()>: Send + 'static {
    /// Called once, before anything else, when the connection was accepted or an outbound one is established. If it
    /// fails, nothing else is called.
    fn setup(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        let _ = request;
        Ok(Next::Wait)
    }

    /// Called each time that input has arrived, with all unread input in `request.input`. Return [`Next::Wait`] to be
    /// called again when more arrives. Unconsumed input is kept. Consume whole messages until none is left.
    ///
    /// Called once more at the end of the stream if anything is unread, with
    /// [`is_eof`](crate::Input::is_eof) true.
    fn handle(&mut self, request: &mut Request<'_, S>) -> Result<Next>;

    /// Called exactly once for every connection whose `setup` succeeded, after all other callbacks, when all queued
    /// output was sent or cannot be sent. Its own output is still sent if the connection is intact.
    fn finish(&mut self, request: &mut Request<'_, S>, why: EndReason) {
        let _ = (request, why);
    }

    /// Called when the unsent output was above the high-water mark and has fallen to the low-water mark. From now on
    /// the connection is read again. By default calls [`handle`](Self::handle) if input is unread.
    fn writable(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        if request.input.is_empty() { Ok(Next::Wait) } else { self.handle(request) }
    }

    /// Called once when the peer has ended its side and all earlier input was handled. By default the connection is
    /// closed once its output is sent. With [`Next::Wait`] it stays half-open, and the handler can continue to write.
    fn eof(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        let _ = request;
        Ok(Next::Close)
    }

    /// Called when one of the connection's time limits has passed. By default the connection ends: after a flush, or at
    /// once if the peer does not read. With [`Next::Wait`] the time starts again.
    ///
    /// Source: `StreamRequestHandler.timeout`.
    fn timed_out(&mut self, request: &mut Request<'_, S>, timeout: Timeout) -> Result<Next> {
        let _ = request;
        Ok(if timeout == Timeout::Write { Next::Abort } else { Next::Close })
    }

    /// Called when a timer of [`set_timer`](Request::set_timer) is due. It is then unset, unless it is
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

    /// Called at most once, when the server is stopping and the connection is quiet, or when half of the grace is over.
    /// A connection is quiet when [`handle`](Self::handle) was called for all input, nothing is unsent, and no byte has
    /// moved for [`ReactorConfig::drain_quiet`](crate::ReactorConfig::drain_quiet). Half a message that was left unread
    /// does not matter. In either case it comes after the results of all [offloaded](Request::offload) jobs are
    /// delivered, or when the grace ends. By default the connection is closed. With [`Next::Wait`] it may continue
    /// until the grace ends.
    ///
    /// A connection can be quiet although it has timers, paused reading, an outbound connection that has not answered,
    /// or a message that another thread is going to send. A handler that owes an answer for one of these returns
    /// [`Next::Wait`], and closes when it has answered.
    fn drain(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        let _ = request;
        Ok(Next::Close)
    }

    /// Called instead of `setup` and all other callbacks when an outbound connection could not be established. Output
    /// has no receiver. `request` still gives access to the server and to other connections.
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
