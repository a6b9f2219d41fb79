//! What users implement for a request on a thread.

use std::time::Duration;

use super::request::BlockingRequest;
use crate::error::Result;

/// Serves one request as a handler of Python's does: `handle` is called once, on a thread of its own, and may block.
///
/// An error or a panic goes to `handle_error` and ends this request only. When the server stops for good, or the
/// request is ended in another way, the socket is shut down: a read that waits returns 0 bytes, a write fails, and a
/// call of [`server`](BlockingRequest::server) returns. A handler that waits for something else is not interrupted.
///
/// When it is over, the output is flushed, our direction of a stream is ended (FIN), and the socket is closed; a
/// datagram is answered with what was written to `wfile`. That also happens after an error or a panic. Input that is
/// unread by then makes the system reset the connection, so read it to its end if the last answer matters.
///
/// The other methods are Python's class attributes, asked for once, before `setup`.
///
/// Source: `BaseRequestHandler`, `StreamRequestHandler` and `DatagramRequestHandler`. For a handler that is one
/// function there are [`StreamRequestHandler`](crate::StreamRequestHandler) and
/// [`DatagramRequestHandler`](crate::DatagramRequestHandler).
///
/// ```
/// use socketserver::{BlockingHandler, BlockingRequest, ServeOn, Result};
/// use std::io::{BufRead as _, Write as _};
/// use std::time::Duration;
///
/// /// Asks for a name and greets.
/// struct Greeter { greeting: &'static str }
/// impl BlockingHandler for Greeter {
///     fn handle(&mut self, request: &mut BlockingRequest) -> Result<()> {
///         request.wfile.write_all(b"name? ")?;
///         let mut name = String::new();
///         request.rfile.read_line(&mut name)?;
///         write!(request.wfile, "{}, {}!\n", self.greeting, name.trim_end())?;
///         Ok(())
///     }
///     fn timeout(&self) -> Option<Duration> { Some(Duration::from_secs(30)) }
/// }
/// let process = ServeOn::thread(Greeter { greeting: "Hello" });
/// ```
///
/// `S` is the type of the server's value, which is reached by [`BlockingRequest::server`]. A handler for servers with any
/// value is `impl<S> BlockingHandler<S>`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no handler on a thread of a server whose value is `{S}`",
    label = "`BlockingHandler<{S}>` is not implemented",
    note = "a `RequestHandler` is called by the reactor, not by a thread: give it to a `TcpServer` or its siblings",
    note = "a handler that may wait is made by `impl BlockingHandler<{S}>`, or by a `StreamRequestHandler`"
)]
pub trait BlockingHandler<S = ()>: Send + 'static {
    /// Called once, before `handle`. If it fails, neither `handle` nor `finish` is called.
    fn setup(&mut self, request: &mut BlockingRequest<S>) -> Result<()> {
        let _ = request;
        Ok(())
    }

    /// Called once: serves the whole request. The request is over when it returns.
    fn handle(&mut self, request: &mut BlockingRequest<S>) -> Result<()>;

    /// Called once after `handle`, also if that failed or panicked. What it writes is still sent.
    fn finish(&mut self, request: &mut BlockingRequest<S>) {
        let _ = request;
    }

    /// Bytes that `rfile` reads ahead. 0: none, so that nothing of what the handler leaves is taken from the socket.
    /// Default: 8,192, Python's -1 (`io.DEFAULT_BUFFER_SIZE`). Of no use for a datagram.
    /// More than 1 GiB is an error of the request ([`Error::Setting`](crate::Error::Setting)), here and in `wbufsize`.
    fn rbufsize(&self) -> usize {
        RBUFSIZE
    }

    /// Bytes that `wfile` gathers before it sends them. Default: 0, each write is sent whole before it returns. Of no
    /// use for a datagram.
    fn wbufsize(&self) -> usize {
        0
    }

    /// The longest that a read of a stream waits for a byte, and a write until the client takes one; then it fails with
    /// [`TimedOut`](std::io::ErrorKind::TimedOut), of which `?` makes an [`Error::TimeLimit`](crate::Error::TimeLimit).
    /// Zero is an error, and so is a limit for a datagram, which is not waited for
    /// ([`Error::Setting`](crate::Error::Setting)). Default: `None`, no limit. The two methods below tell the two apart.
    fn timeout(&self) -> Option<Duration> {
        None
    }

    /// The same for reads alone: in the place of `select([self.request], [], [], time)`, for example. Default:
    /// [`timeout`](Self::timeout). Source: none; Python has one time for both.
    fn read_timeout(&self) -> Option<Duration> {
        self.timeout()
    }

    /// The same for writes alone. Default: [`timeout`](Self::timeout). Source: none.
    fn write_timeout(&self) -> Option<Duration> {
        self.timeout()
    }

    /// Whether to set `TCP_NODELAY`; an error for a socket of another kind. Default: false, it stays as [`TcpOptions::nodelay`](crate::TcpOptions::nodelay)
    /// says, which is on.
    fn disable_nagle_algorithm(&self) -> bool {
        false
    }
}

/// A boxed handler is a handler.
impl<S: 'static> BlockingHandler<S> for Box<dyn BlockingHandler<S>> {
    fn setup(&mut self, request: &mut BlockingRequest<S>) -> Result<()> {
        (**self).setup(request)
    }
    fn handle(&mut self, request: &mut BlockingRequest<S>) -> Result<()> {
        (**self).handle(request)
    }
    fn finish(&mut self, request: &mut BlockingRequest<S>) {
        (**self).finish(request);
    }
    fn rbufsize(&self) -> usize {
        (**self).rbufsize()
    }
    fn wbufsize(&self) -> usize {
        (**self).wbufsize()
    }
    fn timeout(&self) -> Option<Duration> {
        (**self).timeout()
    }
    fn read_timeout(&self) -> Option<Duration> {
        (**self).read_timeout()
    }
    fn write_timeout(&self) -> Option<Duration> {
        (**self).write_timeout()
    }
    fn disable_nagle_algorithm(&self) -> bool {
        (**self).disable_nagle_algorithm()
    }
}

/// Python's `io.DEFAULT_BUFFER_SIZE`.
pub(super) const RBUFSIZE: usize = 8_192;
