//! Handlers that block: the roles of Python's `ThreadingMixIn` and `ForkingMixIn`.
//!
//! ```text
//!  reactor's thread                                a thread of a pool
//!  process_request ─▶ Process ─▶ Job ────────────▶ run: setup, handle, finish, or a program
//!                                 │                 │      server(closure) ─▶ back to the reactor, and wait
//!                     end ◀───── Stop ─────────────▶│      a blocked read or wait returns
//!                     over ◀────── Result ──────────┘
//! ```
//!
//! The reactor never waits for any of it: it hands over a [`Job`](job::Job), keeps its [`Stop`](stop::Stop), and is
//! told when it is over.

#[cfg(all(unix, feature = "children"))]
mod child;
mod files;
mod handlers;
pub(crate) mod job;
mod request;
mod socket;
pub(crate) mod stop;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

pub use self::files::{BlockingReader, BlockingWriter};
pub use self::handlers::{DatagramRequestHandler, StreamRequestHandler};
pub use self::request::BlockingRequest;
pub use self::socket::BlockingSocket;
use crate::error::Result;

/// Who serves a request: what the hook `process_request` answers.
///
/// Source: `process_request` of `BaseServer`, `ThreadingMixIn` and `ForkingMixIn`. In Python one class decides for all
/// requests; here each can be decided for itself.
///
/// ```
/// use socketserver::{Process, StreamRequestHandler};
/// use std::io::{BufRead as _, Write as _};
///
/// let shout = || {
///     Process::thread(StreamRequestHandler::new(|request| {
///         let mut line = String::new();
///         request.rfile.read_line(&mut line)?; // waits, as in Python
///         request.wfile.write_all(line.to_uppercase().as_bytes())?;
///         Ok(())
///     }))
/// };
/// assert!(matches!(shout(), Process::Thread(_)));
/// assert!(matches!(Process::default(), Process::Reactor));
/// ```
#[derive(Default)]
#[non_exhaustive]
#[must_use]
pub enum Process {
    /// The reactor, with callbacks that do not block. The default.
    #[default]
    Reactor,
    /// A thread, with a handler that may block.
    Thread(Box<dyn BlockingHandler>),
    /// A program, as inetd(8) runs one: the client is its standard input and output. Its standard error, environment
    /// and working directory are as the command says, by default ours; no other descriptor of ours is open in it.
    ///
    /// A stream is handed over as it is, and closed when the program and whatever it has started have closed it. The
    /// request is over when the program itself has ended: what it leaves behind keeps the client, as with inetd, and is
    /// neither counted nor ended any more. Of a datagram the packet is the input, up to its end. What the program has
    /// written when it ends goes back to the client as one datagram, if its status is 0 and that is not empty; nothing
    /// that it leaves behind can add to it. An output of more than 65,507 bytes is an error.
    ///
    /// Another status is not an error of the server, and is logged at the level debug. Where SIGCHLD is ignored the
    /// system tells no status, and none counts as 0. While descriptors, memory or processes have run out, the request
    /// waits, as long as its time allows. A program that cannot be run for another reason is
    /// [`Error::Spawn`](crate::Error::Spawn). Of our signals it has what the standard library gives it: the mask and the
    /// ignored ones as we have them, so that nohup(1) works, but for SIGPIPE, which ends it.
    #[cfg(all(unix, feature = "children"))]
    Child(Box<std::process::Command>),
}

impl Process {
    /// Serves the request on a thread, with a handler that may block.
    pub fn thread(handler: impl BlockingHandler) -> Self {
        Process::Thread(Box::new(handler))
    }

    /// Serves the request with a program. Standard input and output of the command are set when it is run, whatever
    /// they were. It is the head of a process group of its own; when the server stops or the time for it is over, the whole
    /// group is killed.
    ///
    /// ```
    /// use socketserver::Process;
    /// use std::process::Command;
    ///
    /// assert!(matches!(Process::child(Command::new("cat")), Process::Child(_)));
    /// ```
    #[cfg(all(unix, feature = "children"))]
    pub fn child(command: std::process::Command) -> Self {
        Process::Child(Box::new(command))
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Process::Reactor => f.write_str("Reactor"),
            Process::Thread(_) => f.write_str("Thread"),
            #[cfg(all(unix, feature = "children"))]
            Process::Child(command) => f.debug_tuple("Child").field(command).finish(),
        }
    }
}

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
/// function there are [`StreamRequestHandler`] and [`DatagramRequestHandler`].
///
/// ```
/// use socketserver::{BlockingHandler, BlockingRequest, Process, Result};
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
/// let process = Process::thread(Greeter { greeting: "Hello" });
/// ```
pub trait BlockingHandler: Send + 'static {
    /// Called once, before `handle`. If it fails, neither `handle` nor `finish` is called.
    fn setup(&mut self, request: &mut BlockingRequest) -> Result<()> {
        let _ = request;
        Ok(())
    }

    /// Called once: serves the whole request. The request is over when it returns.
    fn handle(&mut self, request: &mut BlockingRequest) -> Result<()>;

    /// Called once after `handle`, also if that failed or panicked. What it writes is still sent.
    fn finish(&mut self, request: &mut BlockingRequest) {
        let _ = request;
    }

    /// Bytes that `rfile` reads ahead. 0: none, so that nothing of what the handler leaves is taken from the socket.
    /// Default: 8,192, Python's -1 (`io.DEFAULT_BUFFER_SIZE`). Of no use for a datagram.
    fn rbufsize(&self) -> usize {
        RBUFSIZE
    }

    /// Bytes that `wfile` gathers before it sends them. Default: 0, each write is sent whole before it returns. Of no
    /// use for a datagram.
    fn wbufsize(&self) -> usize {
        0
    }

    /// The longest that a read of a stream waits for a byte, and a write until the client takes one; then it fails with
    /// [`TimedOut`](std::io::ErrorKind::TimedOut). Zero is an error. Default: `None`, no limit. The two methods below tell
    /// the two apart.
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

    /// Whether to set `TCP_NODELAY`. Default: false, it stays as [`TcpOptions::nodelay`](crate::TcpOptions::nodelay)
    /// says, which is on.
    fn disable_nagle_algorithm(&self) -> bool {
        false
    }
}

/// A boxed handler is a handler.
impl BlockingHandler for Box<dyn BlockingHandler> {
    fn setup(&mut self, request: &mut BlockingRequest) -> Result<()> {
        (**self).setup(request)
    }
    fn handle(&mut self, request: &mut BlockingRequest) -> Result<()> {
        (**self).handle(request)
    }
    fn finish(&mut self, request: &mut BlockingRequest) {
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
const RBUFSIZE: usize = 8_192;
