//! The listening socket, and the classification of errors from accept(2).

use std::io;

use mio::net::TcpListener;
#[cfg(unix)]
use mio::net::UnixListener;
use mio::{Interest, Registry, Token};

use super::options::is_of_one_peer;
use super::scripted::ScriptedListener;
use super::socket::{Path, Socket};
use super::stream::Stream;
use super::tcp::TcpOptions;
use super::watched::Watched;
use crate::address::Address;

/// A bound, listening, non-blocking socket: Python's `server.socket`.
///
/// ```
/// use socketserver::{Address, BaseServer, Listener, Stream};
/// use std::io;
///
/// #[derive(Default)]
/// struct Counting { accepted: u64 }
/// impl BaseServer for Counting {
///     fn get_request(&mut self, listener: &mut Listener) -> io::Result<(Stream, Address)> {
///         let request = listener.accept()?;
///         self.accepted += 1;
///         Ok(request)
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Listener {
    /// Declared before the socket so that it is dropped first.
    #[cfg_attr(not(unix), expect(dead_code, reason = "there are no files"))]
    path: Option<Path>,
    kind: Kind,
    address: Address,
    /// How to treat an error from the hook, determined by the result of accept(2). `None` if the hook has not called
    /// `accept`.
    fault: Option<AcceptFault>,
    /// How often in a row accept(2) has returned EINVAL.
    pub(crate) invalid: u32,
    #[cfg_attr(any(target_os = "linux", target_os = "android"), expect(dead_code, reason = "inherited on Linux"))]
    options: Option<TcpOptions>,
    /// What accepted connections are put under.
    #[cfg(feature = "tls")]
    tls: Option<super::tls::TlsAcceptor>,
    header: ExpectedHeader,
}

/// Whether connections begin with the header of a proxy.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExpectedHeader {
    #[cfg(all(unix, feature = "proxy-protocol"))]
    pub(crate) protocol: Option<super::proxy_protocol::ProxyProtocol>,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
    Scripted(Box<dyn ScriptedListener>),
}

impl Listener {
    pub(super) fn tcp(socket: Socket, options: &TcpOptions) -> io::Result<Self> {
        let address = socket.local_address()?;
        let (socket, path) = socket.into_parts()?;
        let kind = Kind::Tcp(TcpListener::from_std(socket.into()));
        Ok(Listener {
            path,
            kind,
            address,
            fault: None,
            invalid: 0,
            options: Some(options.clone()),
            #[cfg(feature = "tls")]
            tls: options.tls.clone(),
            header: ExpectedHeader {
                #[cfg(all(unix, feature = "proxy-protocol"))]
                protocol: options.proxy_protocol.clone(),
            },
        })
    }

    #[cfg(unix)]
    pub(super) fn unix(socket: Socket, options: &super::unix::UnixOptions) -> io::Result<Self> {
        let address = socket.local_address()?;
        let (socket, path) = socket.into_parts()?;
        let kind = Kind::Unix(UnixListener::from_std(socket.into()));
        #[cfg(not(any(feature = "tls", feature = "proxy-protocol")))]
        let _ = options;
        Ok(Listener {
            path,
            kind,
            address,
            fault: None,
            invalid: 0,
            options: None,
            #[cfg(feature = "tls")]
            tls: options.tls.clone(),
            header: ExpectedHeader {
                #[cfg(all(unix, feature = "proxy-protocol"))]
                protocol: options.proxy_protocol.clone(),
            },
        })
    }

    #[cfg_attr(not(feature = "simulation"), expect(dead_code, reason = "only a simulated network has some"))]
    pub(crate) fn scripted(listener: impl ScriptedListener + 'static, address: Address) -> Self {
        let kind = Kind::Scripted(Box::new(listener));
        Listener {
            path: None,
            kind,
            address,
            fault: None,
            invalid: 0,
            options: None,
            #[cfg(feature = "tls")]
            tls: None,
            header: ExpectedHeader::default(),
        }
    }

    /// Returns the address to which the listener is bound, with the actual port.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What is read from accepted connections first.
    pub(crate) fn header(&self) -> &ExpectedHeader {
        &self.header
    }

    /// Lets something else read it.
    pub(crate) fn take_header(&mut self) -> ExpectedHeader {
        std::mem::take(&mut self.header)
    }

    /// Accepts one waiting connection, non-blocking and close-on-exec: accept(2).
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if no connection is waiting; otherwise the error from accept(2).
    pub fn accept(&mut self) -> io::Result<(Stream, Address)> {
        let (stream, from) = self.accept_bare()?;
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return Ok((tls.wrap_socket(stream), from));
        }
        Ok((stream, from))
    }

    #[inline]
    fn accept_bare(&mut self) -> io::Result<(Stream, Address)> {
        // Any error after a client has been accepted affects only that client.
        let fault = self.fault.insert(AcceptFault::Skip);
        let failed = |error: &io::Error| *fault = error.into();
        match &mut self.kind {
            Kind::Tcp(socket) => {
                let (stream, address) = socket.accept().inspect_err(failed)?;
                // On Linux, accepted sockets inherit the listener's options. On other systems the options are set
                // again.
                #[cfg(not(any(target_os = "linux", target_os = "android")))]
                if let Some(options) = &self.options {
                    options.apply(&socket2::SockRef::from(&stream))?;
                }
                Ok((Stream::from(stream), address.into()))
            }
            #[cfg(unix)]
            Kind::Unix(socket) => {
                // Do not use mio's `accept`: it treats an abstract name as no name, and panics if a path fills the
                // whole address.
                let (stream, from) = socket2::SockRef::from(&*socket).accept().inspect_err(failed)?;
                stream.set_nonblocking(true)?;
                let stream = mio::net::UnixStream::from_std(stream.into());
                Ok((stream.into(), super::socket::address(&from)?))
            }
            Kind::Scripted(listener) => {
                let (stream, from) = listener.accept().inspect_err(failed)?;
                Ok((stream.into(), from))
            }
        }
    }

    /// Another process removes the file.
    #[cfg(unix)]
    pub(crate) fn leave_file(&mut self) {
        self.path.iter_mut().for_each(|path| path.leave());
    }

    /// The file that it removes.
    #[cfg(all(unix, feature = "restart"))]
    pub(crate) fn file(&self) -> Option<super::owned_file::FileId> {
        self.path.as_ref().map(|path| path.id())
    }

    /// # Errors
    /// Errors of dup(2); [`io::ErrorKind::Unsupported`] for a scripted one.
    #[cfg(unix)]
    pub(crate) fn duplicate(&self) -> io::Result<std::os::fd::OwnedFd> {
        use std::os::fd::AsFd as _;
        match &self.kind {
            Kind::Scripted(_) => Err(io::ErrorKind::Unsupported.into()),
            _ => self.as_fd().try_clone_to_owned(),
        }
    }

    /// Returns how to treat an error from the hook, or `None` if the hook has not called `accept` since the last call
    /// of this method.
    pub(crate) fn take_fault(&mut self) -> Option<AcceptFault> {
        self.fault.take()
    }

    /// accept(2) returned EINVAL for another client in a row. Returns whether the clients still count as the cause.
    pub(crate) fn believes_invalid(&mut self) -> bool {
        self.invalid = (self.invalid + 1) % INVALID_MAX;
        self.invalid != 0
    }
}

/// If so many clients in a row have gone before they were accepted, the listener is broken.
const INVALID_MAX: u32 = 1_024;

impl Watched for Listener {
    fn register(&mut self, registry: Option<&Registry>, token: Token) -> io::Result<()> {
        match (&mut self.kind, registry) {
            (Kind::Scripted(listener), _) => listener.register(token),
            (_, None) => Ok(()),
            (Kind::Tcp(socket), Some(registry)) => registry.register(socket, token, Interest::READABLE),
            #[cfg(unix)]
            (Kind::Unix(socket), Some(registry)) => registry.register(socket, token, Interest::READABLE),
        }
    }

    fn deregister(&mut self, registry: &Registry) {
        let _ = match &mut self.kind {
            Kind::Tcp(socket) => registry.deregister(socket),
            #[cfg(unix)]
            Kind::Unix(socket) => registry.deregister(socket),
            Kind::Scripted(_) => Ok(()),
        };
    }
}

/// The descriptor, for socket options. A listener of `testing::Network` has no descriptor, so this method panics for
/// it.
#[cfg(unix)]
impl std::os::fd::AsFd for Listener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match &self.kind {
            Kind::Tcp(socket) => socket.as_fd(),
            Kind::Unix(socket) => socket.as_fd(),
            Kind::Scripted(_) => panic!("a scripted listener has no descriptor"),
        }
    }
}

/// How to react to an error of accept(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AcceptFault {
    /// No connection is waiting. The next one will cause an event.
    Empty,
    /// The error affects only this client, or the call was interrupted. Try the next client.
    Skip,
    /// EINVAL, or no address of the client. On macOS and the BSDs this means that the client has gone in the meantime,
    /// as in [`Skip`](Self::Skip). However, a listener that is no longer listening (because another process that shares
    /// it has called shutdown(2)) returns this error every time.
    Invalid,
    /// The process or the system is out of descriptors or memory, or the error may go away after some time. Pause and
    /// retry by a timer, because clients that are already waiting cause no further events.
    Pause,
}

impl From<&io::Error> for AcceptFault {
    fn from(error: &io::Error) -> Self {
        match error.raw_os_error() {
            _ if error.kind() == io::ErrorKind::WouldBlock => AcceptFault::Empty,
            _ if is_of_one_peer(error) => AcceptFault::Skip,
            _ if error.kind() == io::ErrorKind::InvalidInput => AcceptFault::Invalid,
            // This is another network error that affects only one client.
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Some(libc::EOPNOTSUPP) => AcceptFault::Skip,
            _ => AcceptFault::Pause,
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn errors_of_accept_are_distinguished() {
        let fault = |number| AcceptFault::from(&io::Error::from_raw_os_error(number));
        assert_eq!(fault(libc::EAGAIN), AcceptFault::Empty);
        for number in [libc::EINTR, libc::ECONNABORTED, libc::EPROTO, libc::EPERM, libc::ENETDOWN, libc::EOPNOTSUPP] {
            assert_eq!(fault(number), AcceptFault::Skip, "{number}");
        }
        for number in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            assert_eq!(fault(number), AcceptFault::Pause, "{number}");
        }
        assert_eq!(fault(libc::EINVAL), AcceptFault::Invalid);
        let no_address = io::Error::new(io::ErrorKind::InvalidInput, "invalid argument");
        assert_eq!(AcceptFault::from(&no_address), AcceptFault::Invalid);
    }
}
