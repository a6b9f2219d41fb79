//! The kinds of sockets that a [`Server`](crate::Server) can have, as types. All differences between TCP, UDP and Unix
//! sockets are here.

use std::fmt::{Debug, Display};
use std::io;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};

use mio::{Registry, Token};
use socket2::Type;

use super::datagram::DatagramSocket;
use super::listener::Listener;
use super::socket::Socket;
use super::tcp::TcpOptions;
use super::udp::UdpOptions;
#[cfg(unix)]
use super::unix::UnixOptions;
use super::watched::Watched;
use crate::address::Address;
#[cfg(unix)]
use crate::address::UnixAddress;
use crate::error::Result;

/// One kind of socket: TCP, UDP, Unix stream or Unix datagram. Implemented here only.
///
/// Source: the pair of `address_family` and `socket_type` of Python's server classes.
///
/// ```
/// use socketserver::family::{Family, Tcp};
/// use socketserver::{BaseServer, RequestHandler, Server};
///
/// /// Works for a server of any kind.
/// fn describe<F: Family, S: BaseServer, H: RequestHandler<S>>(server: &Server<F, S, H>) -> String {
///     format!("{} on {:?}", F::NAME, server.server_address())
/// }
/// assert_eq!(Tcp::NAME, "TCP");
/// ```
pub trait Family: sealed::Sealed + Debug + Send + 'static {
    /// The options of its sockets.
    type Options: Clone + Debug + Default + Send + Sync;
    /// The addresses of its sockets: a [`SocketAddr`], or a `UnixAddress`.
    type Address: ServerAddress<Self::Address> + Into<Address> + Clone + Eq + Debug + Display + Send + Sync + 'static;
    /// The standard library's type of an open socket of this kind, the argument of [`adopt`](crate::Unbound::adopt).
    type Adopted: Into<socket2::Socket> + From<socket2::Socket>;
    /// Its name in messages: `"TCP"`, `"Unix datagram"`, ...
    const NAME: &'static str;

    /// Whether its requests are datagrams.
    #[doc(hidden)]
    const DATAGRAMS: bool;
    /// Converts an address to this kind, if it is of this kind.
    #[doc(hidden)]
    fn typed(address: &Address) -> Option<Self::Address>;
    /// Converts an address without changing it: `From` turns an IPv4-mapped one into one of IPv4.
    #[doc(hidden)]
    fn untyped(address: Self::Address) -> Address;
    /// Refuses options that cannot be used.
    #[doc(hidden)]
    fn check(options: &Self::Options) -> Result<()>;
    /// Opens a socket that can be bound to `address`.
    #[doc(hidden)]
    fn open(options: &Self::Options, address: &Address) -> io::Result<Socket>;
    /// Checks a socket that was made elsewhere, and sets the options that can still be set.
    #[doc(hidden)]
    fn adopt(options: &Self::Options, socket: Self::Adopted) -> io::Result<Socket>;
    /// The options for a socket that another process has bound: without those that are only for one that the server
    /// binds itself. `owns_file`: the other process leaves the file of the socket to this one.
    #[doc(hidden)]
    fn for_adopted(options: Self::Options, owns_file: bool) -> Self::Options {
        let _ = owns_file;
        options
    }
    /// The options for a duplicate of a socket, whose file the original keeps.
    #[doc(hidden)]
    fn for_duplicate(options: Self::Options) -> Self::Options {
        options
    }
    /// Lets several sockets be bound to one address, between which the kernel distributes what comes. Returns whether
    /// the family and the system can do that.
    #[doc(hidden)]
    fn share_port(_: &mut Self::Options) -> bool {
        false
    }
    /// Returns whether an address of a name may be used.
    #[doc(hidden)]
    fn admits(options: &Self::Options, address: &Address) -> bool;
    /// `request_queue_size`, if it has one.
    #[doc(hidden)]
    fn backlog(options: &Self::Options) -> i32;
    /// Turns a bound, activated socket into its final form.
    #[doc(hidden)]
    fn finish(socket: Socket, options: &Self::Options) -> io::Result<Bound>;
}

/// TCP: [`TcpServer`](crate::TcpServer).
///
/// ```
/// use socketserver::family::{Family, Tcp};
/// assert_eq!(<Tcp as Family>::Options::default().request_queue_size, 4_096);
/// ```
#[derive(Debug)]
pub enum Tcp {}

/// UDP: [`UdpServer`](crate::UdpServer).
///
/// ```
/// use socketserver::family::{Family, Udp};
/// assert!(!<Udp as Family>::Options::default().allow_reuse_address);
/// ```
#[derive(Debug)]
pub enum Udp {}

/// Unix sockets with connections: [`UnixStreamServer`](crate::UnixStreamServer).
///
/// ```
/// use socketserver::family::{Family, UnixStream};
/// assert_eq!(<UnixStream as Family>::Options::default().mode, None);
/// ```
#[cfg(unix)]
#[derive(Debug)]
pub enum UnixStream {}

/// Unix sockets with datagrams: [`UnixDatagramServer`](crate::UnixDatagramServer).
///
/// ```
/// use socketserver::family::{Family, UnixDatagram};
/// assert_eq!(UnixDatagram::NAME, "Unix datagram");
/// ```
#[cfg(unix)]
#[derive(Debug)]
pub enum UnixDatagram {}

/// A value that a server can be bound to, for addresses of type `A`. For a [`SocketAddr`] it is anything that the
/// standard library resolves: `"localhost:80"`, `("::1", 80)`, a [`SocketAddr`] itself. For a `UnixAddress` it is a
/// path, or a `UnixAddress` for an abstract name. A path that begins with `@`, as abstract names are often written, is
/// an error: write `./@...`, or use a `UnixAddress`.
///
/// Source: `server_address`, the first argument of Python's servers.
///
/// ```
/// # #[cfg(unix)] {
/// use socketserver::UnixAddress;
/// use socketserver::family::ServerAddress;
/// use std::net::SocketAddr;
///
/// let addresses = ServerAddress::<SocketAddr>::to_addresses(&"127.0.0.1:80").unwrap();
/// assert_eq!(addresses, [SocketAddr::from(([127, 0, 0, 1], 80))]);
/// let name = UnixAddress::from_abstract_name("echo");
/// assert_eq!(ServerAddress::<UnixAddress>::to_addresses(&name).unwrap(), [name]);
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no address for a server whose addresses are a `{A}`",
    note = "for TCP and UDP it is a text such as `\"localhost:80\"`, a pair such as `(\"localhost\", 80)` or a `SocketAddr`; for \
            Unix sockets a path or a `UnixAddress`"
)]
pub trait ServerAddress<A> {
    /// Returns the addresses, to all of which the server is bound.
    ///
    /// # Errors
    /// Errors of the resolver; [`InvalidInput`](io::ErrorKind::InvalidInput) for text without a host or a port, for an
    /// IPv6 address without brackets, and for a path that begins with `@`.
    fn to_addresses(&self) -> io::Result<Vec<A>>;

    /// The given address, for messages.
    fn text(&self) -> String;
}

impl<T: ToSocketAddrs + Debug> ServerAddress<SocketAddr> for T {
    fn to_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        if let Some(mistake) = mistake(&format!("{self:?}")) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, mistake));
        }
        Ok(self.to_socket_addrs()?.collect())
    }

    fn text(&self) -> String {
        let text = format!("{self:?}");
        // The `Debug` output of a string.
        text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(&text).to_owned()
    }
}

/// The error of an address with this `Debug` output, if the resolver would not report it, or would misread the address:
/// `::1:80` is an address, or another one and a port.
fn mistake(shown: &str) -> Option<&'static str> {
    const NO_HOST: &str = "no host was given; 0.0.0.0 is every IPv4 address of this machine, [::] every one there is";
    if shown.starts_with("(\"\",") {
        return Some(NO_HOST);
    }
    let text = shown.strip_prefix('"')?.strip_suffix('"')?;
    if text.parse::<Ipv6Addr>().is_ok() {
        return Some("an IPv6 address is written in brackets before its port, as in [::1]:80");
    }
    let (host, port) = match text.rsplit_once(':') {
        Some(parts) if !text.ends_with(']') => parts,
        _ => (text, ""),
    };
    match port.parse::<u16>() {
        _ if host.is_empty() => Some(NO_HOST),
        Ok(_) => None,
        Err(_) if port.is_empty() => Some("no port was given, as in localhost:80; with 0 the system chooses one"),
        Err(_) => Some("its port is not a number from 0 to 65535"),
    }
}

#[cfg(unix)]
impl<T: AsRef<std::path::Path> + ?Sized> ServerAddress<UnixAddress> for T {
    fn to_addresses(&self) -> io::Result<Vec<UnixAddress>> {
        use std::os::unix::ffi::OsStrExt;
        let path = self.as_ref();
        if let Some(name) = path.as_os_str().as_bytes().strip_prefix(b"@") {
            // Other programs use this for an abstract name, and a file of that name would not be noticed.
            let name = std::ffi::OsStr::from_bytes(name);
            let text = format!(
                "it may mean a path, which is UnixAddress::from_path(\"./@...\"), or an abstract name, which is \
                 UnixAddress::from_abstract_name({name:?})"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(vec![UnixAddress::from_path(path)])
    }

    fn text(&self) -> String {
        self.as_ref().display().to_string()
    }
}

#[cfg(unix)]
impl ServerAddress<UnixAddress> for UnixAddress {
    fn to_addresses(&self) -> io::Result<Vec<UnixAddress>> {
        Ok(vec![self.clone()])
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// A socket that is ready to serve.
#[derive(Debug)]
pub enum Bound {
    #[doc(hidden)]
    Listener(Listener),
    #[doc(hidden)]
    Datagram(DatagramSocket),
}

impl Bound {
    pub(crate) fn address(&self) -> &Address {
        match self {
            Bound::Listener(listener) => listener.address(),
            Bound::Datagram(socket) => socket.address(),
        }
    }
}

impl Watched for Bound {
    fn register(&mut self, registry: Option<&Registry>, token: Token) -> io::Result<()> {
        match self {
            Bound::Listener(listener) => listener.register(registry, token),
            Bound::Datagram(socket) => socket.register(registry, token),
        }
    }

    fn deregister(&mut self, registry: &Registry) {
        match self {
            Bound::Listener(listener) => listener.deregister(registry),
            Bound::Datagram(socket) => socket.deregister(registry),
        }
    }
}

impl Family for Tcp {
    type Options = TcpOptions;
    type Address = SocketAddr;
    type Adopted = std::net::TcpListener;
    const NAME: &'static str = "TCP";
    const DATAGRAMS: bool = false;

    fn typed(address: &Address) -> Option<SocketAddr> {
        address.as_inet()
    }
    fn untyped(address: SocketAddr) -> Address {
        Address::Inet(address)
    }
    fn check(options: &TcpOptions) -> Result<()> {
        options.check()
    }
    fn open(options: &TcpOptions, address: &Address) -> io::Result<Socket> {
        options.open(inet(address)?)
    }
    fn adopt(options: &TcpOptions, socket: std::net::TcpListener) -> io::Result<Socket> {
        let socket = Socket::adopted(socket.into(), Type::STREAM)?;
        inet(&socket.local_address()?)?;
        options.apply(&socket.options())?;
        Ok(socket)
    }
    fn share_port(options: &mut TcpOptions) -> bool {
        options.allow_reuse_port |= DISTRIBUTES;
        DISTRIBUTES
    }
    fn admits(options: &TcpOptions, address: &Address) -> bool {
        options.address_family.admits(address)
    }
    fn backlog(options: &TcpOptions) -> i32 {
        options.request_queue_size
    }
    fn finish(socket: Socket, options: &TcpOptions) -> io::Result<Bound> {
        Listener::tcp(socket, options).map(Bound::Listener)
    }
}

impl Family for Udp {
    type Options = UdpOptions;
    type Address = SocketAddr;
    type Adopted = std::net::UdpSocket;
    const NAME: &'static str = "UDP";
    const DATAGRAMS: bool = true;

    fn typed(address: &Address) -> Option<SocketAddr> {
        address.as_inet()
    }
    fn untyped(address: SocketAddr) -> Address {
        Address::Inet(address)
    }
    fn check(options: &UdpOptions) -> Result<()> {
        options.check()
    }
    fn open(options: &UdpOptions, address: &Address) -> io::Result<Socket> {
        options.open(inet(address)?)
    }
    fn adopt(options: &UdpOptions, socket: std::net::UdpSocket) -> io::Result<Socket> {
        let socket = Socket::adopted(socket.into(), Type::DGRAM)?;
        options.apply(&socket.options(), inet(&socket.local_address()?)?.is_ipv6())?;
        Ok(socket)
    }
    fn share_port(options: &mut UdpOptions) -> bool {
        options.allow_reuse_port |= DISTRIBUTES;
        DISTRIBUTES
    }
    fn admits(options: &UdpOptions, address: &Address) -> bool {
        options.address_family.admits(address)
    }
    fn backlog(_: &UdpOptions) -> i32 {
        0
    }
    fn finish(socket: Socket, _: &UdpOptions) -> io::Result<Bound> {
        DatagramSocket::udp(socket).map(Bound::Datagram)
    }
}

#[cfg(unix)]
impl Family for UnixStream {
    type Options = UnixOptions;
    type Address = UnixAddress;
    type Adopted = std::os::unix::net::UnixListener;
    const NAME: &'static str = "Unix stream";
    const DATAGRAMS: bool = false;

    fn typed(address: &Address) -> Option<UnixAddress> {
        address.as_unix().cloned()
    }
    fn untyped(address: UnixAddress) -> Address {
        Address::Unix(address)
    }
    fn check(options: &UnixOptions) -> Result<()> {
        options.check()
    }
    fn open(options: &UnixOptions, _: &Address) -> io::Result<Socket> {
        options.open_stream()
    }
    fn adopt(options: &UnixOptions, socket: std::os::unix::net::UnixListener) -> io::Result<Socket> {
        options.adopt(Socket::adopted(socket.into(), Type::STREAM)?)
    }
    fn for_adopted(options: UnixOptions, owns_file: bool) -> UnixOptions {
        UnixOptions { mode: None, adopt_path: options.adopt_path || owns_file, ..options }
    }
    fn for_duplicate(options: UnixOptions) -> UnixOptions {
        UnixOptions { mode: None, adopt_path: false, ..options }
    }
    fn admits(_: &UnixOptions, _: &Address) -> bool {
        true
    }
    fn backlog(options: &UnixOptions) -> i32 {
        options.request_queue_size
    }
    fn finish(socket: Socket, options: &UnixOptions) -> io::Result<Bound> {
        Listener::unix(socket, options).map(Bound::Listener)
    }
}

#[cfg(unix)]
impl Family for UnixDatagram {
    type Options = UnixOptions;
    type Address = UnixAddress;
    type Adopted = std::os::unix::net::UnixDatagram;
    const NAME: &'static str = "Unix datagram";
    const DATAGRAMS: bool = true;

    fn typed(address: &Address) -> Option<UnixAddress> {
        address.as_unix().cloned()
    }
    fn untyped(address: UnixAddress) -> Address {
        Address::Unix(address)
    }
    fn check(options: &UnixOptions) -> Result<()> {
        options.check_datagram()
    }
    fn open(options: &UnixOptions, _: &Address) -> io::Result<Socket> {
        options.open_datagram()
    }
    fn adopt(options: &UnixOptions, socket: std::os::unix::net::UnixDatagram) -> io::Result<Socket> {
        options.adopt(Socket::adopted(socket.into(), Type::DGRAM)?)
    }
    fn for_adopted(options: UnixOptions, owns_file: bool) -> UnixOptions {
        UnixOptions { mode: None, adopt_path: options.adopt_path || owns_file, ..options }
    }
    fn for_duplicate(options: UnixOptions) -> UnixOptions {
        UnixOptions { mode: None, adopt_path: false, ..options }
    }
    fn admits(_: &UnixOptions, _: &Address) -> bool {
        true
    }
    fn backlog(_: &UnixOptions) -> i32 {
        0
    }
    fn finish(socket: Socket, _: &UnixOptions) -> io::Result<Bound> {
        DatagramSocket::unix(socket).map(Bound::Datagram)
    }
}

/// Whether sockets with `SO_REUSEPORT` each get a part of what comes. Other systems have the option, but give everything to
/// one socket.
const DISTRIBUTES: bool = cfg!(any(target_os = "linux", target_os = "android"));

fn inet(address: &Address) -> io::Result<SocketAddr> {
    address.as_inet().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it is no internet socket"))
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Tcp {}
    impl Sealed for super::Udp {}
    #[cfg(unix)]
    impl Sealed for super::UnixStream {}
    #[cfg(unix)]
    impl Sealed for super::UnixDatagram {}
}
