//! `ServeOn`: the result of the hook `process_request`, and a request that is passed to the thread or program that
//! serves it.

use std::fmt;

use super::descriptor::SendTo;
use super::handler::BlockingHandler;
use crate::address::Address;
use crate::error::Result;
use crate::net::{Header, StdStream, Stream};
use crate::reactor::core::Core;

/// Where a request is served: the result of the hook `process_request`.
///
/// Source: `process_request` of `BaseServer`, `ThreadingMixIn` and `ForkingMixIn`. In Python one class decides for all
/// requests. Here the hook decides for each request.
///
/// ```
/// use socketserver::{ServeOn, StreamRequestHandler};
/// use std::io::{BufRead as _, Write as _};
///
/// fn shout<S: 'static>() -> ServeOn<S> {
///     ServeOn::thread(StreamRequestHandler::new(|request| {
///         let mut line = String::new();
///         request.rfile.read_line(&mut line)?; // waits, as in Python
///         request.wfile.write_all(line.to_uppercase().as_bytes())?;
///         Ok(())
///     }))
/// }
/// assert!(matches!(shout::<()>(), ServeOn::Thread(_)));
/// assert!(matches!(ServeOn::<()>::default(), ServeOn::Reactor));
/// ```
///
/// `S` is the type of the server's value.
#[derive(Default)]
#[non_exhaustive]
#[must_use]
pub enum ServeOn<S = ()> {
    /// The reactor, with callbacks that do not block. The default.
    #[default]
    Reactor,
    /// A thread, with a handler that may block.
    Thread(OnThread<S>),
    /// A program, as under inetd(8): the client is its standard input and output. The command defines its standard
    /// error, environment and working directory, which are the server's by default. No other descriptor of the server
    /// is open in it.
    ///
    /// A stream is passed to the program, and closed when the program and all processes that it has started have closed
    /// it. The request is over when the program itself has ended. A process that it leaves behind keeps the client, as
    /// under inetd, and is neither counted nor ended. For a datagram, the packet is the input. If the program ends with
    /// status 0, its output goes back to the client as one datagram, unless it is empty. Processes that it leaves
    /// behind cannot add to it. An output of more than 65,507 bytes is an error.
    ///
    /// Under TLS this is an error, because a program has only the socket.
    ///
    /// Another status is not an error of the server, and is logged at the level debug. Where SIGCHLD is ignored, the
    /// system returns no status, and that counts as 0. While descriptors, memory or processes have run out, the request
    /// waits within its time limit. A program that cannot be run for another reason is
    /// [`Error::Spawn`](crate::Error::Spawn). A program inherits our signal mask and our ignored signals, so that
    /// nohup(1) works. Only SIGPIPE has its default effect and ends it. Feature `children`.
    #[cfg(all(unix, feature = "children"))]
    Program(Box<std::process::Command>),
    /// Another reactor: that of a worker.
    #[doc(hidden)]
    Worker(HandOver<S>),
}

/// Passes a connection to another reactor. It is given the number of the server that has accepted the connection.
pub struct HandOver<S>(pub(crate) Pass, pub(crate) Sender<S>);

pub(crate) type Pass = Box<dyn FnOnce(&mut Core, u16, Stream, Address) + Send>;

impl<S> ServeOn<S> {
    /// Serves the request with a program. The standard input and output of the command are replaced when it runs. It is
    /// the head of a process group of its own. When the server stops or its time is over, the whole group is killed.
    /// Feature `children`.
    ///
    /// ```
    /// use socketserver::ServeOn;
    /// use std::process::Command;
    ///
    /// assert!(matches!(ServeOn::<()>::program(Command::new("cat")), ServeOn::Program(_)));
    /// ```
    #[cfg(all(unix, feature = "children"))]
    pub fn program(command: std::process::Command) -> Self {
        ServeOn::Program(Box::new(command))
    }
}

/// A handler that may block. It brings the function that starts its thread, so a program without such handlers does not
/// contain the threads.
pub struct OnThread<S> {
    pub(super) handler: Box<dyn BlockingHandler<S>>,
    pub(super) send: Sender<S>,
}

/// Sends a request to what serves it: [`job::send`](super::job).
pub(crate) type Sender<S> = fn(Work<S>, &mut Core, Taken) -> Result<()>;

/// A request that its server gives away.
pub(crate) struct Taken {
    /// The number of the server.
    pub(crate) server: u16,
    pub(crate) request: TakenRequest,
    pub(crate) client_address: Address,
    pub(crate) local_address: Option<Address>,
    pub(crate) header: Header,
}

pub(crate) enum TakenRequest {
    Stream(StdStream),
    /// A stream under TLS after its handshake, and plaintext that has arrived with it.
    #[cfg(feature = "tls")]
    Secured(StdStream, Box<crate::net::Detached>, Vec<u8>),
    /// A packet, and what sends a datagram from its socket.
    Datagram(Vec<u8>, SendTo),
}

/// The thread or program that serves a request instead of the reactor.
pub(crate) enum Work<S> {
    Handler(Box<dyn BlockingHandler<S>>),
    #[cfg(all(unix, feature = "children"))]
    Child(Box<std::process::Command>),
    HandOver(Pass),
}

impl<S> fmt::Debug for ServeOn<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeOn::Reactor => f.write_str("Reactor"),
            ServeOn::Thread(_) => f.write_str("Thread"),
            #[cfg(all(unix, feature = "children"))]
            ServeOn::Program(command) => f.debug_tuple("Program").field(command).finish(),
            ServeOn::Worker(_) => f.write_str("Worker"),
        }
    }
}
