//! The trait that users implement for a request on a thread.

use std::time::Duration;

use super::request::BlockingRequest;
use crate::error::Result;

/// Serves one request like a handler in Python: `handle` is called once, on a thread, and may block.
///
/// An error or a panic is passed to `handle_error` and ends only this request. When the server stops, or the request is
/// ended in another way, the socket is shut down: a waiting read returns 0 bytes, a write fails, and a call of
/// [`server`](BlockingRequest::server) returns. Other blocking calls in a handler are not interrupted.
///
/// At the end the output is flushed, our direction of a stream is ended (FIN), and the socket is closed. A datagram is
/// answered with the bytes written to `wfile`. This also happens after an error or a panic. If input is unread by then,
/// the system resets the connection, except under TLS, where the thread discards input for up to
/// [`Limits::linger_timeout`](crate::Limits). Without TLS, read the input to its end if it is important that the client
/// receives the last answer.
///
/// The other methods are Python's class attributes. They are called once, before `setup`.
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
/// `S` is the type of the server's value, which [`BlockingRequest::server`] reaches. A handler for servers with any
/// value is `impl<S> BlockingHandler<S>`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a blocking handler for a server with a value of type `{S}`",
    label = "`BlockingHandler<{S}>` is not implemented",
    note = "a `RequestHandler` is called by the reactor, not by a thread: give it to a `TcpServer` or its siblings",
    note = "a handler that may wait is made by `impl BlockingHandler<{S}>`, or of a function or closure by \
            `StreamRequestHandler::new(function)`, for datagrams `DatagramRequestHandler::new(function)`"
)]
pub trait BlockingHandler<S = ()>: Send + 'static {
    /// Called once, before `handle`. If it fails, neither `handle` nor `finish` is called.
    fn setup(&mut self, request: &mut BlockingRequest<S>) -> Result<()> {
        let _ = request;
        Ok(())
    }

    /// Called once, and serves the whole request. The request is over when it returns.
    fn handle(&mut self, request: &mut BlockingRequest<S>) -> Result<()>;

    /// Called once after `handle`, even if `handle` failed or panicked. Its output is still sent.
    fn finish(&mut self, request: &mut BlockingRequest<S>) {
        let _ = request;
    }

    /// Bytes that `rfile` reads ahead. With 0, the socket keeps all bytes that the handler does not read. Default:
    /// 8,192, which corresponds to Python's -1 (`io.DEFAULT_BUFFER_SIZE`). Not used for a datagram. More than 1 GiB is
    /// an error of the request ([`Error::Setting`](crate::Error::Setting)), here and in `wbufsize`.
    fn rbufsize(&self) -> usize {
        RBUFSIZE
    }

    /// Bytes that `wfile` gathers before it sends them. Default: 0, which means that each write is sent completely
    /// before it returns. Not used for a datagram.
    fn wbufsize(&self) -> usize {
        0
    }

    /// The longest time that a read of a stream waits for a byte, and that a write waits until the client accepts one.
    /// Then it fails with [`TimedOut`](std::io::ErrorKind::TimedOut), which `?` turns into an
    /// [`Error::TimeLimit`](crate::Error::TimeLimit). A limit of zero is an error. Any limit for a datagram is also an
    /// error, because reading a datagram never waits ([`Error::Setting`](crate::Error::Setting)). Default: `None`, no
    /// limit. The next two methods set the limit only for reads or only for writes.
    fn timeout(&self) -> Option<Duration> {
        None
    }

    /// Like [`timeout`](Self::timeout), but only for reads, for example instead of `select([self.request], [], [],
    /// time)`. Default: [`timeout`](Self::timeout). Source: none; Python has one time for both.
    fn read_timeout(&self) -> Option<Duration> {
        self.timeout()
    }

    /// Like [`timeout`](Self::timeout), but only for writes. Default: [`timeout`](Self::timeout). Source: none.
    fn write_timeout(&self) -> Option<Duration> {
        self.timeout()
    }

    /// Whether to set `TCP_NODELAY`. True is an error for a socket of another kind. Default: false, which keeps the
    /// value of [`TcpOptions::nodelay`](crate::TcpOptions::nodelay), on by default.
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
