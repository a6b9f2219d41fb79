//! The crate's error type. Each error names the operation that failed and its object.

use std::error::Error as _;
use std::time::Duration;
use std::{fmt, io};

use crate::address::Address;
use crate::lifecycle::EndReason;

/// The result type that every callback and every fallible call in the crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
///
/// `{error}` names the operation and its object. The cause is [`source`](std::error::Error::source), and `{error:#}`
/// also shows the cause, followed by its own causes. The crate logs errors in this form, and programs should show this
/// form to users. `{error:?}` shows the fields. This form is also printed if `main` returns the error.
///
/// A callback may return any error with `?`: [`io::Error`], the usual parsing errors, a string, a boxed error, or
/// anything else through [`Error::other`]. An error returned by a callback ends only its connection.
///
/// ```
/// use socketserver::TcpServer;
/// # use socketserver::{Next, Request, RequestHandler, Result};
/// # struct Echo;
/// # impl RequestHandler for Echo {
/// #     fn handle(&mut self, _: &mut Request<'_>) -> Result<Next> { Ok(Next::Wait) }
/// # }
/// let taken = TcpServer::new("127.0.0.1:0", |_| Echo).unwrap();
/// let address = taken.server_address().to_string();
/// let error = TcpServer::new(address.as_str(), |_| Echo).err().unwrap();
/// assert_eq!(format!("{error}"), format!("cannot bind {address}"));
/// assert!(format!("{error:#}").starts_with(&format!("cannot bind {address}: "))); // address already in use
/// assert!(format!("{error:?}").starts_with(&format!("Bind {{ address: Inet({address}), source: ")));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The name could not be resolved or is not a valid address.
    Resolve {
        /// The given address.
        address: String,
        /// The error from the resolver.
        source: io::Error,
    },
    /// A listening socket could not be opened or bound.
    Bind {
        /// The address to bind.
        address: Address,
        /// The error from socket(2), setsockopt(2) or bind(2).
        source: io::Error,
    },
    /// An inherited socket cannot be served, or is served by no server.
    Inherit {
        /// Its position, name and kind: `socket 0 "http" (TCP 127.0.0.1:80)`.
        socket: String,
        /// The reason.
        source: io::Error,
    },
    /// A bound socket could not listen.
    Listen {
        /// The address to which the socket is bound.
        address: Address,
        /// The error from listen(2).
        source: io::Error,
    },
    /// An outbound connection failed or timed out.
    Connect {
        /// The address to which a connection was attempted.
        address: Address,
        /// The error from connect(2), or [`io::ErrorKind::TimedOut`] if the connect timeout expired.
        source: io::Error,
    },
    /// A handshake of TLS failed, TLS failed after it, or it could not be started.
    Tls {
        /// The operation that failed.
        doing: &'static str,
        /// The reason, which contains the error of rustls if there is one.
        source: io::Error,
    },
    /// A program that should serve a request could not be started.
    Spawn {
        /// The given program.
        program: String,
        /// The error from fork(2) or execve(2).
        source: io::Error,
    },
    /// The reactor could not do its own work (create or wait on the selector, register a socket, ...).
    Reactor {
        /// The operation that failed.
        doing: &'static str,
        /// The error from the operating system.
        source: io::Error,
    },
    /// A setting cannot be used, either by itself or in combination with another one. The call that uses it fails and
    /// changes nothing.
    Setting {
        /// The setting, or two contradictory settings: name and value.
        settings: Vec<(&'static str, String)>,
        /// The reason why the setting cannot be used.
        reason: &'static str,
    },
    /// The server is not bound to an address.
    NotBound,
    /// The peer sent more than a limit allows. Ends the connection with [`EndReason::InputLimit`](crate::EndReason).
    InputLimit {
        /// The item that was too long: `"line"`, `"frame"`, `"unread input"`, ...
        what: &'static str,
        /// The limit that was exceeded, in bytes.
        max: usize,
    },
    /// A time limit of a request on a thread or of a program expired. `rfile`, `wfile` and the socket return this error
    /// inside an [`io::Error`] of kind [`TimedOut`](io::ErrorKind::TimedOut).
    TimeLimit {
        /// The reason with which the request ends: [`EndReason::Timeout`] for a read or a write, or
        /// [`EndReason::ChildTimeout`] for a program.
        why: EndReason,
        /// The name of the setting that contains the limit: `"timeout"`, `"read_timeout"` or `"write_timeout"` of the
        /// handler, the method `"set_timeout"`, `"set_read_timeout"` or `"set_write_timeout"` of the socket, or
        /// `"child_timeout"`.
        setting: &'static str,
        /// The limit.
        max: Duration,
    },
    /// The amount of unsent output would exceed [`Limits::output_bytes_max`](crate::Limits).
    OutputLimit {
        /// The limit, in bytes.
        max: usize,
    },
    /// A client has more connections than [`Limits::connections_per_client_max`](crate::Limits), under the address that
    /// [`set_client_address`](crate::Request::set_client_address) gave it. Ends the connection with
    /// [`EndReason::Refused`](crate::EndReason).
    ClientLimit {
        /// The limit, in connections.
        max: usize,
    },
    /// A bounded queue (messages from other threads, jobs for the thread pool) has no room.
    Full {
        /// The queue.
        queue: &'static str,
        /// Its limit, in items.
        max: usize,
    },
    /// The addressed connection, server or reactor no longer exists.
    Gone,
    /// A callback, hook or offloaded job panicked.
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// An I/O error that occurred in a callback.
    Io(io::Error),
    /// Any other error that a callback returned.
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Wraps an error of any other type, for use with `map_err(Error::other)`.
    pub fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Error::Other(error.into())
    }

    /// Creates an error for a setting with an unacceptable value.
    #[inline]
    pub(crate) fn setting(name: &'static str, value: impl fmt::Debug, reason: &'static str) -> Self {
        Self::setting_of(name, &value, reason)
    }

    /// It is compiled once for all types of values.
    #[cold]
    #[inline(never)]
    fn setting_of(name: &'static str, value: &dyn fmt::Debug, reason: &'static str) -> Self {
        Error::Setting { settings: vec![(name, format!("{value:?}"))], reason }
    }

    /// Returns the limit that this error names.
    pub(crate) fn limit(&self) -> Option<Passed> {
        let (name, max) = match *self {
            Error::InputLimit { what: "line" | "text up to the delimiter", max } => ("line_bytes_max", max),
            Error::InputLimit { what: "frame", max } => ("frame_bytes_max", max),
            Error::InputLimit { what: "block" | "unread input", max } => ("input_bytes_max", max),
            Error::InputLimit { what, max } => (what, max),
            Error::TimeLimit { setting, max, .. } => return Some(Passed::Time(setting, max)),
            Error::OutputLimit { max } => ("output_bytes_max", max),
            Error::ClientLimit { max } => ("connections_per_client_max", max),
            Error::Full { queue: "request", max } => ("thread_queue_max", max),
            Error::Full { queue: "offload", max } => ("offload_queue_max", max),
            Error::Full { queue: "message", max } => ("messages_max", max),
            _ => return None,
        };
        Some(Passed::Count(name, max))
    }

    /// Creates an error from a panic payload. If the payload is text, it becomes the message.
    pub(crate) fn from_panic(payload: &(dyn std::any::Any + Send)) -> Self {
        let message = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
            (Some(text), _) => (*text).to_owned(),
            (_, Some(text)) => text.clone(),
            _ => "a value that is not text".to_owned(),
        };
        Error::Panicked { message }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Resolve { address, .. } => write!(f, "cannot resolve {address}")?,
            Error::Bind { address, .. } => write!(f, "cannot bind {address}")?,
            Error::Inherit { socket, .. } => write!(f, "cannot inherit {socket}")?,
            Error::Listen { address, .. } => write!(f, "cannot listen on {address}")?,
            Error::Connect { address, .. } => write!(f, "cannot connect to {address}")?,
            Error::Tls { doing, .. } => write!(f, "cannot {doing}")?,
            Error::Spawn { program, .. } => write!(f, "cannot run {program}")?,
            Error::Reactor { doing, .. } => write!(f, "cannot {doing}")?,
            Error::Setting { settings, reason } => {
                let mut before = "cannot use ";
                for (name, value) in settings {
                    write!(f, "{before}{name} = {value}")?;
                    before = " with ";
                }
                write!(f, ": {reason}")?;
            }
            Error::NotBound => f.write_str("the server is bound to no address")?,
            Error::InputLimit { what, max } => write!(f, "{what} longer than {max} bytes")?,
            Error::TimeLimit { why, setting, max } => write!(f, "{why} ({})", Passed::Time(setting, *max))?,
            Error::OutputLimit { max } => write!(f, "more than {max} bytes of unsent output")?,
            Error::ClientLimit { max } => write!(f, "the client has more than {max} connections")?,
            Error::Full { queue, max } => write!(f, "the {queue} queue is full ({max} items)")?,
            Error::Gone => f.write_str("the connection is gone")?,
            Error::Panicked { message } => write!(f, "panicked: {message}")?,
            Error::Io(source) => f.write_str(&reason(source))?,
            Error::Other(source) => write!(f, "{source}")?,
        }
        let mut cause = if f.alternate() { self.source() } else { None };
        while let Some(error) = cause {
            match error.downcast_ref::<io::Error>() {
                Some(error) => write!(f, ": {}", reason(error))?,
                None => write!(f, ": {error}")?,
            }
            cause = error.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Resolve { source, .. }
            | Error::Bind { source, .. }
            | Error::Inherit { source, .. }
            | Error::Listen { source, .. }
            | Error::Connect { source, .. }
            | Error::Tls { source, .. }
            | Error::Spawn { source, .. }
            | Error::Reactor { source, .. } => Some(source),
            // These already display the error that they contain, so the source is that error's source.
            Error::Io(source) => source.source(),
            Error::Other(source) => source.source(),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    /// An [`Error`] that was wrapped in an [`io::Error`] (by `io::Write`) is unwrapped again.
    #[cold]
    fn from(error: io::Error) -> Self {
        match error.downcast::<Error>() {
            Ok(inner) => inner,
            Err(error) => Error::Io(error),
        }
    }
}

impl From<Error> for io::Error {
    // Inlined, and boxed here: then only the user's crate contains the code that prints an error. It often has it anyway,
    // for the result of `main`.
    #[cold]
    #[inline]
    fn from(error: Error) -> Self {
        let kind = match error {
            Error::Io(error) => return error,
            Error::Gone => io::ErrorKind::BrokenPipe,
            Error::TimeLimit { .. } => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::Other,
        };
        let boxed: Box<dyn std::error::Error + Send + Sync> = Box::new(error);
        io::Error::new(kind, boxed)
    }
}

impl From<&str> for Error {
    fn from(text: &str) -> Self {
        Error::Other(text.into())
    }
}

impl From<String> for Error {
    fn from(text: String) -> Self {
        Error::Other(text.into())
    }
}

macro_rules! from_error {
    ($($type:ty),*) => {$(
        impl From<$type> for Error {
            fn from(error: $type) -> Self {
                Error::Other(error.into())
            }
        }
    )*};
}

from_error!(
    Box<dyn std::error::Error + Send + Sync>,
    fmt::Error,
    std::str::Utf8Error,
    std::string::FromUtf8Error,
    std::num::ParseIntError,
    std::num::TryFromIntError,
    std::array::TryFromSliceError,
    std::str::ParseBoolError,
    std::time::TryFromFloatSecsError,
    std::num::ParseFloatError,
    std::net::AddrParseError
);

/// A limit that was exceeded, with the name of its setting.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Passed {
    Count(&'static str, usize),
    Time(&'static str, Duration),
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Passed::Count(name, max) => write!(f, "{name} = {max}"),
            Passed::Time(name, max) => write!(f, "{name} = {max:?}"),
        }
    }
}

/// Returns the operating system's error message without the error number, so that it fits into a sentence.
pub(crate) fn reason(error: &io::Error) -> String {
    let mut text = error.to_string();
    if let Some((text_before, number)) = text.rsplit_once('(')
        && number.starts_with("os error ")
        && let Some(text_before) = text_before.strip_suffix(' ')
    {
        text.truncate(text_before.len());
    }
    // "Address already in use", but not "I/O" or "TLS".
    if let [b'A'..=b'Z', b'a'..=b'z' | b' ', ..] = text.as_bytes() {
        text[..1].make_ascii_lowercase();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_chain_is_shown_on_request_and_nothing_twice() {
        #[derive(Debug)]
        struct Outer(io::Error);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(if f.alternate() { "all of it" } else { "no upgrade" })
            }
        }
        impl std::error::Error for Outer {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&self.0)
            }
        }
        let bind = || {
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], 9_999)).into();
            Error::Bind { address, source: io::Error::other("in use") }
        };
        let travelled = || Error::Io(io::Error::other(Outer(bind().into())));
        for (error, expected, all) in [
            (bind(), "cannot bind 127.0.0.1:9999", "cannot bind 127.0.0.1:9999: in use"),
            (travelled(), "no upgrade", "no upgrade: cannot bind 127.0.0.1:9999: in use"),
            (
                Error::other(Outer(travelled().into())),
                "no upgrade",
                "no upgrade: no upgrade: cannot bind 127.0.0.1:9999: in use",
            ),
            (Error::from("scripted"), "scripted", "scripted"),
        ] {
            assert_eq!((format!("{error}").as_str(), format!("{error:#}").as_str()), (expected, all));
        }
    }

    #[test]
    fn the_system_s_words_read_as_part_of_a_sentence() {
        // The wording is what is tested here, and it is glibc's.
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        assert_eq!(reason(&io::Error::from_raw_os_error(libc::EADDRINUSE)), "address already in use");
        assert_eq!(reason(&io::Error::other("I/O lost")), "I/O lost");
        assert_eq!(reason(&io::Error::other("disk (first) lost (os error 5)")), "disk (first) lost");
        assert_eq!(reason(&io::Error::other("lost (twice)")), "lost (twice)");
    }
}
