//! `ServeOn`: what the hook `process_request` answers.

use std::fmt;

use super::handler::BlockingHandler;

/// What serves a request: what the hook `process_request` answers.
///
/// Source: `process_request` of `BaseServer`, `ThreadingMixIn` and `ForkingMixIn`. In Python one class decides for all
/// requests; here each can be decided for itself.
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
    Thread(Box<dyn BlockingHandler<S>>),
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
    /// ignored ones as we have them, so that nohup(1) works, but for SIGPIPE, which ends it. Feature `children`.
    #[cfg(all(unix, feature = "children"))]
    Program(Box<std::process::Command>),
}

impl<S> ServeOn<S> {
    /// Serves the request on a thread, with a handler that may block.
    pub fn thread(handler: impl BlockingHandler<S>) -> Self {
        ServeOn::Thread(Box::new(handler))
    }

    /// Serves the request with a program. Standard input and output of the command are set when it is run, whatever
    /// they were. It is the head of a process group of its own; when the server stops or the time for it is over, the whole
    /// group is killed. Feature `children`.
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

impl<S> fmt::Debug for ServeOn<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeOn::Reactor => f.write_str("Reactor"),
            ServeOn::Thread(_) => f.write_str("Thread"),
            #[cfg(all(unix, feature = "children"))]
            ServeOn::Program(command) => f.debug_tuple("Program").field(command).finish(),
        }
    }
}
