//! Handlers that are one function, with Python's names and attributes.

use std::fmt;
use std::time::Duration;

use super::handler::{BlockingHandler, RBUFSIZE};
use super::request::BlockingRequest;
use crate::error::Result;

/// A handler of streams made of one function: Python's class of this name, with its attributes as fields.
///
/// Change fields before you pass the handler on. [`BlockingHandler`] says when the function is called.
///
/// Source: `socketserver.StreamRequestHandler`.
///
/// ```
/// use socketserver::{ServeOn, StreamRequestHandler};
/// use std::io::{BufRead as _, Write as _};
/// use std::time::Duration;
///
/// let mut handler = StreamRequestHandler::new(|request| {
///     let mut line = String::new();
///     while request.rfile.read_line(&mut line)? > 0 {
///         request.wfile.write_all(line.to_uppercase().as_bytes())?;
///         line.clear();
///     }
///     Ok(())
/// });
/// handler.timeout = Some(Duration::from_secs(60));
/// let process: ServeOn = ServeOn::thread(handler);
/// ```
///
/// It may wait, so it needs a server with threads. A [`TcpServer`](crate::TcpServer) calls its handlers on the reactor.
/// The compiler refuses this handler there, and suggests a remedy:
///
/// ```compile_fail,E0277
/// # use socketserver::{StreamRequestHandler, TcpServer};
/// let server = TcpServer::new("127.0.0.1:0", |_| StreamRequestHandler::new(|_| Ok(())))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub struct StreamRequestHandler<F> {
    /// Bytes that `rfile` reads ahead: [`BlockingHandler::rbufsize`]. Default: 8,192.
    pub rbufsize: usize,
    /// Bytes that `wfile` gathers: [`BlockingHandler::wbufsize`]. Default: 0.
    pub wbufsize: usize,
    /// The longest time that a read or a write waits: [`BlockingHandler::timeout`]. Default: `None`.
    pub timeout: Option<Duration>,
    /// The longest time that a read waits: [`BlockingHandler::read_timeout`]. Default: `None`, the same as `timeout`.
    pub read_timeout: Option<Duration>,
    /// The longest time that a write waits: [`BlockingHandler::write_timeout`]. Default: `None`, the same as `timeout`.
    pub write_timeout: Option<Duration>,
    /// Whether to set `TCP_NODELAY`: [`BlockingHandler::disable_nagle_algorithm`]. Default: false.
    pub disable_nagle_algorithm: bool,
    handle: F,
}

impl<F> StreamRequestHandler<F> {
    /// Makes a handler whose `handle` is this function, with Python's defaults.
    pub fn new<S>(handle: F) -> Self
    where
        F: FnMut(&mut BlockingRequest<S>) -> Result<()> + Send + 'static,
    {
        StreamRequestHandler {
            rbufsize: RBUFSIZE,
            wbufsize: 0,
            timeout: None,
            read_timeout: None,
            write_timeout: None,
            disable_nagle_algorithm: false,
            handle,
        }
    }
}

impl<S: 'static, F: FnMut(&mut BlockingRequest<S>) -> Result<()> + Send + 'static> BlockingHandler<S>
    for StreamRequestHandler<F>
{
    fn handle(&mut self, request: &mut BlockingRequest<S>) -> Result<()> {
        (self.handle)(request)
    }
    fn rbufsize(&self) -> usize {
        self.rbufsize
    }
    fn wbufsize(&self) -> usize {
        self.wbufsize
    }
    fn timeout(&self) -> Option<Duration> {
        self.timeout
    }
    fn read_timeout(&self) -> Option<Duration> {
        self.read_timeout.or(self.timeout)
    }
    fn write_timeout(&self) -> Option<Duration> {
        self.write_timeout.or(self.timeout)
    }
    fn disable_nagle_algorithm(&self) -> bool {
        self.disable_nagle_algorithm
    }
}

impl<F> fmt::Debug for StreamRequestHandler<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamRequestHandler")
            .field("rbufsize", &self.rbufsize)
            .field("wbufsize", &self.wbufsize)
            .field("timeout", &self.timeout)
            .field("read_timeout", &self.read_timeout)
            .field("write_timeout", &self.write_timeout)
            .field("disable_nagle_algorithm", &self.disable_nagle_algorithm)
            .finish_non_exhaustive()
    }
}

/// A handler of datagrams made of one function: Python's class of this name. `rfile` is the packet. The bytes written
/// to `wfile` go back to the client as one datagram.
///
/// If nothing was written, nothing is sent; Python sends an empty datagram. An empty write sends an empty datagram.
///
/// Source: `socketserver.DatagramRequestHandler`.
///
/// ```
/// use socketserver::{DatagramRequestHandler, ServeOn};
/// use std::io::Write as _;
///
/// let process: ServeOn = ServeOn::thread(DatagramRequestHandler::new(|request| {
///     let packet = request.socket().packet().to_ascii_uppercase();
///     request.wfile.write_all(&packet)?;
///     Ok(())
/// }));
/// ```
pub struct DatagramRequestHandler<F> {
    handle: F,
}

impl<F> DatagramRequestHandler<F> {
    /// Makes a handler whose `handle` is this function.
    pub fn new<S>(handle: F) -> Self
    where
        F: FnMut(&mut BlockingRequest<S>) -> Result<()> + Send + 'static,
    {
        DatagramRequestHandler { handle }
    }
}

impl<S: 'static, F: FnMut(&mut BlockingRequest<S>) -> Result<()> + Send + 'static> BlockingHandler<S>
    for DatagramRequestHandler<F>
{
    fn handle(&mut self, request: &mut BlockingRequest<S>) -> Result<()> {
        (self.handle)(request)
    }
}

impl<F> fmt::Debug for DatagramRequestHandler<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatagramRequestHandler")
    }
}
