//! What users implement: one value per connection, called when there is something to do.

pub(crate) mod others;
pub(crate) mod request;

use self::request::Request;
use crate::error::{Error, Result};
use crate::lifecycle::{EndReason, Next, Timeout};
use crate::reactor::handle::Message;

/// Serves one connection: a state machine that the reactor calls when something happened. No callback may block.
///
/// `S` is the type of the server's own value, `request.server`; a handler that does not use it can be generic over it.
///
/// An error returned by any callback goes to [`handle_error`](crate::BaseServer::handle_error) and ends this
/// connection only: what was queued is sent, then it is closed. A panic does the same and resets it (unless the
/// program is built with `panic = "abort"`). Of a datagram, what was written as its answer is dropped then; what `finish`
/// writes is sent.
///
/// Source: `BaseRequestHandler` and `StreamRequestHandler`; `self.request`, `self.client_address`, `self.server`,
/// `self.rfile` and `self.wfile` are reached through the [`Request`].
///
/// ```
/// use socketserver::{testing::Client, EndReason, Next, Request, RequestHandler, Result};
/// use std::io::Write;
///
/// /// Adds up the numbers it is sent, one a line.
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
    /// Called once, before anything else: the connection was accepted, or an outbound one is established. If it
    /// fails, nothing else is called.
    fn setup(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        let _ = request;
        Ok(Next::Wait)
    }

    /// Called each time input arrived, with everything unread in `request.input`. Returning [`Next::Wait`] means
    /// "call again when there is more"; what is not consumed is kept, so consume whole messages until none is left.
    ///
    /// Called once more at the end of the stream if anything is unread, with
    /// [`is_eof`](crate::Input::is_eof) true.
    fn handle(&mut self, request: &mut Request<'_, S>) -> Result<Next>;

    /// Called exactly once for every connection whose `setup` succeeded, after the last other callback, when
    /// everything queued was sent or cannot be. What it writes is still sent if the connection stands.
    fn finish(&mut self, request: &mut Request<'_, S>, why: EndReason) {
        let _ = (request, why);
    }

    /// Called when the unsent output, once above the high-water mark, has fallen to the low one; the connection is
    /// read again from now on. By default calls [`handle`](Self::handle) if it left input unread.
    fn writable(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        if request.input.is_empty() { Ok(Next::Wait) } else { self.handle(request) }
    }

    /// Called once when the peer has ended its side and everything before that was handled. By default the connection
    /// is closed once the reply is sent; with [`Next::Wait`] it stays half-open and the handler can go on writing.
    fn eof(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        let _ = request;
        Ok(Next::Close)
    }

    /// Called when one of the connection's time limits has passed. By default it ends: after a flush, or at once if it
    /// is the peer that does not read. With [`Next::Wait`] the time starts anew.
    ///
    /// Source: `StreamRequestHandler.timeout`.
    fn timed_out(&mut self, request: &mut Request<'_, S>, timeout: Timeout) -> Result<Next> {
        let _ = request;
        Ok(if timeout == Timeout::Write { Next::Abort } else { Next::Close })
    }

    /// Called when a timer set with [`set_timer`](Request::set_timer) is due. It is then unset, unless it
    /// is [periodic](Request::set_interval).
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

    /// Called at most once, when the server is stopping and the connection is quiet, or half of the grace is over. It is
    /// quiet when [`handle`](Self::handle) was called for all that has arrived, nothing is unsent, and no byte has moved for
    /// [`ReactorConfig::drain_quiet`](crate::ReactorConfig::drain_quiet); half a message that was left unread does not change that. In
    /// either case it comes not before the results of all [offloaded](Request::offload) jobs are delivered, which may be as
    /// late as the grace ends. By default the connection is closed; with [`Next::Wait`] it may go on until the grace
    /// ends.
    ///
    /// Timers, paused reading, an outbound connection that has not answered and a message that another thread is going
    /// to send do not keep a connection from being quiet: a handler that owes an answer for one of these returns
    /// [`Next::Wait`], and closes when it has given it.
    fn drain(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        let _ = request;
        Ok(Next::Close)
    }

    /// Called instead of `setup`, and instead of everything else, when an outbound connection could not be
    /// established. There is nobody to write to; `request` still leads to the server and to other connections.
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
