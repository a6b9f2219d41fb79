//! A socket that becomes a listener or a datagram socket: opened, given its options, bound.

use std::cell::OnceCell;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use socket2::{Domain, Protocol, SockAddr, Type};

use super::owned_file::OwnedFile;
#[cfg(unix)]
use super::path::{BoundPath, bind_path};
use crate::address::Address;

/// A socket that is not in use yet. [`server_bind`](crate::BaseServer::server_bind) and
/// [`server_activate`](crate::BaseServer::server_activate) are given it, and can set more options.
///
/// ```
/// use socketserver::{Address, BaseServer, Socket};
/// use std::io;
///
/// struct Tuned;
/// impl BaseServer for Tuned {
///     fn server_bind(&mut self, socket: &Socket, address: &Address) -> io::Result<()> {
///         // Any option: socket2::SockRef::from(socket).set_tos_v4(0x10)?;
///         socket.bind(address)
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Socket {
    /// Dropped before the socket. While the socket lives, the inode of the file is not reused.
    path: OnceCell<Path>,
    #[cfg(unix)]
    mode: Option<u32>,
    /// How it is bound. Only a program that opens Unix sockets contains the code for their files.
    bind: fn(&Socket, &Address) -> io::Result<()>,
    socket: socket2::Socket,
    listens: bool,
    pub(super) shared: Shared,
}

/// Whether others may read the same open socket: another process or another worker, which has a duplicate of the
/// descriptor. Then all of them have its options. It does not become false again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared(Arc<Mutex<bool>>);

impl Shared {
    /// From now on it may be so.
    pub(crate) fn begin(&self) {
        *self.lock() = true;
    }

    /// Calls `change` if it is not so, and lets it begin only afterwards.
    #[cfg(all(feature = "batch", target_os = "linux"))]
    pub(super) fn unless<T>(&self, change: impl FnOnce() -> T) -> Option<T> {
        let shared = self.lock();
        (!*shared).then(change)
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Socket {
    pub(super) fn stream(domain: Domain, protocol: Option<Protocol>) -> io::Result<Self> {
        Socket::new(domain, Type::STREAM, protocol)
    }

    pub(super) fn datagram(domain: Domain, protocol: Option<Protocol>) -> io::Result<Self> {
        Socket::new(domain, Type::DGRAM, protocol)
    }

    fn new(domain: Domain, kind: Type, protocol: Option<Protocol>) -> io::Result<Self> {
        let mut this = Socket::from(socket2::Socket::new(domain, kind, protocol)?);
        this.listens = kind == Type::STREAM;
        Ok(this)
    }

    /// A socket that was made elsewhere. It must be of this kind, bound, and listening if its kind listens. Its file is
    /// not ours.
    pub(super) fn adopted(socket: socket2::Socket, kind: Type) -> io::Result<Self> {
        let refused = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        let mut this = Socket::from(socket);
        this.listens = kind == Type::STREAM;
        this.shared.begin();
        if this.socket.r#type()? != kind {
            return refused(if this.listens { "it is no stream socket" } else { "it is no datagram socket" });
        }
        let address = this.local_address()?;
        if this.listens {
            // Not every system reports whether a socket listens, but a connected socket does not.
            #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
            let listens = this.socket.is_listener()?;
            #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
            let listens = true;
            if !listens || this.socket.peer_addr().is_ok() {
                return refused("it does not listen");
            }
        } else if address.port() == Some(0) || address.is_unnamed() {
            return refused("it is not bound");
        }
        Ok(this)
    }

    /// Makes it a Unix socket, with this mode for its file.
    #[cfg(unix)]
    pub(super) fn with_mode(mut self, mode: Option<u32>) -> Self {
        (self.mode, self.bind) = (mode, Socket::bind_unix);
        self
    }

    /// Takes over the file of an adopted Unix socket.
    ///
    /// # Errors
    /// If there is none.
    #[cfg(unix)]
    pub(super) fn adopt_path(&self) -> io::Result<()> {
        let address = self.local_address()?;
        let path = address.as_unix().and_then(|address| address.as_path());
        let no_path = || io::Error::new(io::ErrorKind::InvalidInput, "`adopt_path` is for a socket with a path");
        let bound = BoundPath::adopted(path.ok_or_else(no_path)?)?;
        let _ = self.path.set(Box::new(bound)); // It has none yet.
        Ok(())
    }

    pub(super) fn options(&self) -> socket2::SockRef<'_> {
        socket2::SockRef::from(&self.socket)
    }

    /// Binds the socket: bind(2). For a path it also does the following. A file without a bound socket is removed
    /// first. A file of a bound socket, or another kind of file, is not touched. The file never has more permissions
    /// than its mode.
    ///
    /// # Errors
    /// Errors of bind(2); [`AddrInUse`](io::ErrorKind::AddrInUse) for a path to which another socket is bound;
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists) for a file that is not a socket;
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a path that does not fit an address, and for an abstract name
    /// with a mode.
    pub fn bind(&self, address: &Address) -> io::Result<()> {
        (self.bind)(self, address)
    }

    #[cfg(unix)]
    fn bind_unix(&self, address: &Address) -> io::Result<()> {
        if let Some(path) = address.as_unix().and_then(|address| address.as_path()) {
            use std::os::fd::AsFd as _;
            let bind = || self.socket.bind(&SockAddr::unix(path)?);
            let bound = bind_path(path, self.mode, self.socket.as_fd(), bind)?;
            let bound = self.path.set(Box::new(bound));
            return bound.map_err(|_| io::Error::other("the socket is bound already"));
        }
        if self.mode.is_some() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an abstract name has no mode"));
        }
        self.socket.bind(&sock_addr(address)?)
    }

    fn bind_inet(&self, address: &Address) -> io::Result<()> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "the address is not of the socket's family");
        self.socket.bind(&address.as_inet().ok_or_else(wrong)?.into())
    }

    /// Makes it listen, with room for `request_queue_size` waiting connections: listen(2). For a datagram socket this
    /// does nothing.
    ///
    /// # Errors
    /// Errors of listen(2).
    pub fn listen(&self, request_queue_size: i32) -> io::Result<()> {
        if self.listens { self.socket.listen(request_queue_size) } else { Ok(()) }
    }

    /// The file that it removes.
    #[cfg(all(unix, feature = "restart"))]
    pub(crate) fn file(&self) -> Option<super::owned_file::FileId> {
        self.path.get().map(|path| path.id())
    }

    /// Lets the file be, which belongs to another process now.
    #[cfg(all(unix, feature = "restart"))]
    pub(crate) fn leave_file(&mut self) {
        self.path.take().into_iter().for_each(|mut file| file.leave());
    }

    /// A duplicate without the file.
    pub(crate) fn another(&self) -> io::Result<Self> {
        let mut another = Socket::from(self.duplicate()?);
        (another.listens, another.shared) = (self.listens, self.shared.clone());
        Ok(another)
    }

    fn duplicate(&self) -> io::Result<socket2::Socket> {
        self.socket.try_clone()
    }

    /// A duplicate for another process.
    #[cfg(all(unix, feature = "restart"))]
    pub(crate) fn duplicate_for_another(&self) -> io::Result<std::os::fd::OwnedFd> {
        self.share();
        Ok(self.duplicate()?.into())
    }

    /// From now on others may read the same open socket.
    pub(crate) fn share(&self) {
        self.shared.begin();
    }

    /// Lets other sockets be bound to its address as well, if they have the option too. Before it is bound, the option
    /// would let it share the port of any server of this user.
    pub(crate) fn share_port(&self) -> io::Result<()> {
        set_reuse_port(&self.options())
    }

    /// Returns the address to which the socket is bound, with the actual port.
    pub(crate) fn local_address(&self) -> io::Result<Address> {
        address(&self.socket.local_addr()?)
    }

    /// The bare non-blocking socket, and the path that is removed when it is closed.
    pub(super) fn into_parts(self) -> io::Result<(socket2::Socket, Option<Path>)> {
        self.socket.set_nonblocking(true)?;
        Ok((self.socket, self.path.into_inner()))
    }
}

/// `SO_REUSEPORT`.
pub(super) fn set_reuse_port(socket: &socket2::SockRef<'_>) -> io::Result<()> {
    #[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
    return socket.set_reuse_port(true);
    #[cfg(not(all(unix, not(any(target_os = "solaris", target_os = "illumos")))))]
    {
        let _ = socket;
        Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no SO_REUSEPORT"))
    }
}

/// A socket that was made elsewhere. Its file is not ours.
impl From<socket2::Socket> for Socket {
    fn from(socket: socket2::Socket) -> Self {
        Socket {
            path: OnceCell::new(),
            #[cfg(unix)]
            mode: None,
            bind: Socket::bind_inet,
            socket,
            listens: false,
            shared: Shared::default(),
        }
    }
}

/// The file of a bound socket, removed when this is dropped: a `BoundPath`.
pub(super) type Path = Box<dyn OwnedFile>;

/// The address in the form for system calls of a Unix socket.
#[cfg(unix)]
pub(super) fn sock_addr(address: &Address) -> io::Result<SockAddr> {
    match address {
        Address::Inet(address) => Ok((*address).into()),
        Address::Unix(address) => SockAddr::unix(address.to_path_bytes()),
    }
}

/// The address from the form of system calls.
pub(super) fn address(address: &SockAddr) -> io::Result<Address> {
    if let Some(address) = address.as_socket() {
        return Ok(address.into());
    }
    #[cfg(unix)]
    if address.is_unix() {
        use crate::address::UnixAddress;
        let path = address.as_pathname().map(UnixAddress::from_path);
        let name = || address.as_abstract_namespace().map(UnixAddress::from_abstract_name);
        return Ok(Address::Unix(path.or_else(name).unwrap_or_else(UnixAddress::unnamed)));
    }
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(unix)]
impl std::os::fd::AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(windows)]
impl std::os::windows::io::AsSocket for Socket {
    fn as_socket(&self) -> std::os::windows::io::BorrowedSocket<'_> {
        self.socket.as_socket()
    }
}
