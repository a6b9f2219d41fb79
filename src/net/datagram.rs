//! A bound datagram socket, UDP or Unix. Only the reactor receives from it and sends through it.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mio::net::UdpSocket;
#[cfg(unix)]
use mio::net::UnixDatagram;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, SockRef};

#[cfg(all(feature = "batch", target_os = "linux"))]
use super::batch::Batch;
use super::packet::{Outgoing, Packet};
use super::scripted::ScriptedDatagrams;
#[cfg(unix)]
use super::socket::sock_addr;
use super::socket::{Path, Socket};
use super::udp::MulticastGroup;
use super::watched::Watched;
use crate::address::Address;

/// A socket that receives and sends datagrams. It is public because [`Family`](super::family::Family) mentions it.
#[derive(Debug)]
pub struct DatagramSocket {
    /// Dropped before the socket.
    #[cfg_attr(not(unix), expect(dead_code, reason = "there are no files"))]
    path: Option<Path>,
    kind: Kind,
    /// For a UDP socket.
    #[cfg(all(feature = "batch", target_os = "linux"))]
    batch: Option<Box<Batch>>,
    address: Address,
    /// Datagrams that it has sent to its own port at any address, and that have not come back. The oldest is dropped
    /// first.
    away: VecDeque<Away>,
    hasher: RandomState,
}

/// A datagram that may come back to the socket that has sent it.
#[derive(Debug)]
struct Away {
    to: IpAddr,
    hash: u64,
}

#[derive(Debug)]
enum Kind {
    Udp(UdpSocket),
    /// Connected to its one peer.
    Connected(UdpSocket),
    #[cfg(unix)]
    Unix(UnixDatagram),
    Scripted(Box<dyn ScriptedDatagrams>),
}

impl DatagramSocket {
    pub(super) fn udp(socket: Socket) -> io::Result<Self> {
        DatagramSocket::new(socket, |socket| Kind::Udp(UdpSocket::from_std(socket.into())))
    }

    #[cfg(unix)]
    pub(super) fn unix(socket: Socket) -> io::Result<Self> {
        DatagramSocket::new(socket, |socket| Kind::Unix(UnixDatagram::from_std(socket.into())))
    }

    /// A UDP socket with a port that the system chooses, which receives only from this address.
    pub(super) fn connected(address: &Address) -> io::Result<Self> {
        let unsupported = || io::Error::new(io::ErrorKind::Unsupported, "only UDP has outbound datagrams");
        let to = address.as_inet().ok_or_else(unsupported)?;
        let socket = Socket::datagram(Domain::for_address(to), Some(Protocol::UDP))?;
        socket.options().connect(&to.into())?;
        let address = socket.local_address()?;
        let (socket, path) = socket.into_parts()?;
        Ok(DatagramSocket::of(Kind::Connected(UdpSocket::from_std(socket.into())), address, path))
    }

    fn new(socket: Socket, kind: impl FnOnce(socket2::Socket) -> Kind) -> io::Result<Self> {
        let address = socket.local_address()?;
        #[cfg(all(feature = "batch", target_os = "linux"))]
        let batch = address.ip().map(|ip| Batch::new(std::os::fd::AsFd::as_fd(&socket), ip, socket.shared.clone()));
        let (socket, path) = socket.into_parts()?;
        Ok(DatagramSocket {
            #[cfg(all(feature = "batch", target_os = "linux"))]
            batch: batch.map(Box::new),
            ..DatagramSocket::of(kind(socket), address, path)
        })
    }

    #[cfg_attr(not(feature = "simulation"), expect(dead_code, reason = "only a simulated network has some"))]
    pub(crate) fn scripted(socket: impl ScriptedDatagrams + 'static, address: Address) -> Self {
        DatagramSocket::of(Kind::Scripted(Box::new(socket)), address, None)
    }

    fn of(kind: Kind, address: Address, path: Option<Path>) -> Self {
        DatagramSocket {
            path,
            kind,
            #[cfg(all(feature = "batch", target_os = "linux"))]
            batch: None,
            address,
            away: VecDeque::new(),
            hasher: RandomState::new(),
        }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
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

    /// A duplicate for another process.
    ///
    /// # Errors
    /// Errors of dup(2); [`io::ErrorKind::Unsupported`] for a scripted one.
    #[cfg(unix)]
    pub(crate) fn duplicate(&self) -> io::Result<std::os::fd::OwnedFd> {
        use std::os::fd::AsFd as _;
        #[cfg(all(feature = "batch", target_os = "linux"))]
        self.batch.iter().for_each(|batch| batch.share());
        match &self.kind {
            Kind::Udp(socket) | Kind::Connected(socket) => socket.as_fd().try_clone_to_owned(),
            Kind::Unix(socket) => socket.as_fd().try_clone_to_owned(),
            Kind::Scripted(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Returns whether it is of the address's family. An IPv6 socket may be of both.
    pub(crate) fn reaches(&self, to: &Address) -> bool {
        match (self.address.as_inet(), to.as_inet()) {
            (Some(bound), Some(to)) if bound.is_ipv4() == to.is_ipv4() => true,
            (Some(bound), Some(to)) => to.is_ipv4() && bound.ip().is_unspecified() && self.is_dual_stack(),
            (bound, to) => bound.is_none() && to.is_none(),
        }
    }

    fn is_dual_stack(&self) -> bool {
        self.options().is_some_and(|socket| socket.only_v6().is_ok_and(|only| !only))
    }

    /// The size of a buffer for receiving datagrams of up to `max` bytes.
    pub(crate) fn buffer_bytes(&self, max: usize) -> usize {
        let max = max.min(LONGEST);
        #[cfg(all(feature = "batch", target_os = "linux"))]
        if let Some(batch) = &self.batch {
            return batch.room_max(max) * BATCH_MESSAGES;
        }
        room(max)
    }

    /// Returns whether a full socket means that one peer does not read. Each peer of a Unix socket has its own queue,
    /// and no event reports room in it.
    pub(crate) fn blocks_by_peer(&self) -> bool {
        #[cfg(unix)]
        return matches!(self.kind, Kind::Unix(_));
        #[cfg(not(unix))]
        false
    }

    /// Receives several datagrams, if the system has a call for that with one call, and adds them to `packets`. A datagram
    /// longer than `max` bytes is cut and marked. Receives at most `most`, or as many as the system has combined into
    /// one. Returns whether more may wait.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if no more waits; otherwise errors of recvmsg(2), which may concern one peer. Some
    /// may have been received before the error.
    pub(crate) fn receive(
        &mut self,
        buffer: &mut [u8],
        max: usize,
        most: usize,
        packets: &mut Vec<Packet>,
    ) -> io::Result<bool> {
        #[cfg(all(feature = "batch", target_os = "linux"))]
        if let (Kind::Udp(socket), Some(batch)) = (&self.kind, &mut self.batch) {
            return batch.receive(std::os::fd::AsFd::as_fd(socket), buffer, max, most, packets);
        }
        let room = buffer.len().min(room(max));
        let mut start = 0;
        for slice in buffer.chunks_exact_mut(room).take(most.min(AT_ONCE_MAX)) {
            let (n, from) = match &mut self.kind {
                Kind::Udp(socket) | Kind::Connected(socket) => {
                    let (n, from) = socket.recv_from(slice)?;
                    (n, from.into())
                }
                #[cfg(unix)]
                Kind::Unix(socket) => {
                    let (n, from) = socket.recv_from(slice)?;
                    (n, from.into())
                }
                Kind::Scripted(script) => script.receive(slice)?,
            };
            packets.push(Packet { range: start..start + n.min(max), from, local: None, truncated: n > max });
            start += room;
        }
        Ok(true)
    }

    /// Sends datagrams in order, until all are sent or one fails. Returns how many the system accepted. The error
    /// concerns the next one.
    pub(crate) fn send(&mut self, bytes: &[u8], datagrams: &[Outgoing]) -> (usize, io::Result<()>) {
        let (sent, result) = self.send_some(bytes, datagrams);
        if let Some(bound) = self.address.inet().copied() {
            let to_us = |datagram: &&Outgoing| datagram.to.inet().is_some_and(|to| to.port() == bound.port());
            for datagram in datagrams[..sent].iter().filter(to_us) {
                self.remember(&datagram.to, &bytes[datagram.range.clone()]);
            }
        }
        (sent, result)
    }

    /// Returns whether it may send several datagrams with one system call.
    pub(crate) fn sends_several(&self) -> bool {
        #[cfg(all(feature = "batch", target_os = "linux"))]
        return self.batch.is_some();
        #[cfg(not(all(feature = "batch", target_os = "linux")))]
        false
    }

    /// Sends one datagram, from the address that the system chooses.
    pub(crate) fn send_now(&mut self, bytes: &[u8], to: &Address) -> io::Result<()> {
        self.send_one(bytes, to)?;
        self.remember(to, bytes);
        Ok(())
    }

    fn send_some(&mut self, bytes: &[u8], datagrams: &[Outgoing]) -> (usize, io::Result<()>) {
        #[cfg(all(feature = "batch", target_os = "linux"))]
        if let (Kind::Udp(socket), Some(batch)) = (&self.kind, &mut self.batch)
            && !matches!(datagrams, [Outgoing { local: None, .. }])
        {
            return batch.send(std::os::fd::AsFd::as_fd(socket), bytes, datagrams);
        }
        for (count, datagram) in datagrams.iter().enumerate() {
            if let Err(error) = self.send_one(&bytes[datagram.range.clone()], &datagram.to) {
                return (count, Err(error));
            }
        }
        (datagrams.len(), Ok(()))
    }

    #[inline(always)]
    fn send_one(&mut self, bytes: &[u8], to: &Address) -> io::Result<()> {
        match self.try_send(bytes, to) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.send_one(bytes, to),
            sent => sent.map(drop),
        }
    }

    #[inline(always)]
    fn try_send(&mut self, bytes: &[u8], to: &Address) -> io::Result<usize> {
        match &mut self.kind {
            Kind::Udp(socket) => socket.send_to(bytes, inet(to, &self.address)?),
            Kind::Connected(socket) => socket.send(bytes),
            #[cfg(unix)]
            Kind::Unix(socket) => send_unix(socket, bytes, to),
            Kind::Scripted(script) => script.send(bytes, to),
        }
    }

    /// Remembers datagrams that may come back, which are only those to our own port.
    #[inline(always)]
    fn remember(&mut self, to: &Address, bytes: &[u8]) {
        let (Some(to), Some(bound)) = (to.inet(), self.address.inet()) else { return };
        if to.port() == bound.port() {
            if self.away.len() == AWAY_MAX {
                self.away.pop_front();
            }
            self.away.push_back(Away { to: to.ip().to_canonical(), hash: self.hasher.hash_one(bytes) });
        }
    }

    /// Returns whether this socket itself has sent a received datagram. An answer to it would come back again, forever.
    /// A datagram of another socket is a request, even if that socket has our port or our address. The bytes
    /// distinguish the two. If a peer repeats bytes that were just sent to it, our address in the datagram, or the
    /// address that we would have sent from, decides.
    pub(crate) fn is_own<'a>(
        &mut self,
        from: &Address,
        local: Option<IpAddr>,
        bytes: impl FnOnce() -> &'a [u8],
    ) -> bool {
        !self.gets_no_own() && self.may_be_own(from, local, bytes())
    }

    /// Returns whether no received datagram can be one that this socket itself has sent.
    pub(crate) fn gets_no_own(&self) -> bool {
        self.away.is_empty() && self.address.inet().is_some()
    }

    #[inline(never)]
    fn may_be_own(&mut self, from: &Address, local: Option<IpAddr>, bytes: &[u8]) -> bool {
        let (Some(from), Some(bound)) = (from.inet(), self.address.inet()) else {
            return *from == self.address && !from.is_unnamed();
        };
        if from.port() != bound.port() {
            return false;
        }
        let hash = self.hasher.hash_one(bytes);
        let came_back = |away: &Away| {
            let address = || local.map_or_else(|| self.source_to(away.to), |local| Some(local.to_canonical()));
            away.hash == hash && (from.ip() != away.to || address().is_none_or(|address| address == away.to))
        };
        let Some(at) = self.away.iter().position(came_back) else { return false };
        let own = self.has(*from);
        if own {
            self.away.remove(at);
        }
        own
    }

    /// Returns whether an address is, or may be, one of this socket.
    fn has(&self, mut address: SocketAddr) -> bool {
        match self.bound_to() {
            Some(ip) => address.ip() == ip,
            None => {
                // An address can be bound if and only if it is ours. A link-local address needs its scope.
                address.set_port(0);
                let bound = std::net::UdpSocket::bind(address);
                bound.map_or_else(|error| error.kind() != io::ErrorKind::AddrNotAvailable, |_| true)
            }
        }
    }

    /// The address from which a datagram to `to` is sent, if the system reports it.
    fn source_to(&self, to: IpAddr) -> Option<IpAddr> {
        self.bound_to().or_else(|| {
            let any = if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = std::net::UdpSocket::bind((any, 0)).ok()?;
            socket.connect((to, 9)).and_then(|()| socket.local_addr()).ok().map(|address| address.ip())
        })
    }

    /// The one address from which it sends. A wildcard socket, or one that is bound to a group, sends from the address
    /// of the route.
    fn bound_to(&self) -> Option<IpAddr> {
        self.address.ip().filter(|ip| !ip.is_unspecified() && !ip.is_multicast())
    }

    pub(crate) fn join_multicast(&self, group: &MulticastGroup) -> io::Result<()> {
        self.options().map_or(Err(io::ErrorKind::Unsupported.into()), |socket| group.join(&socket))
    }

    pub(crate) fn leave_multicast(&self, group: &MulticastGroup) -> io::Result<()> {
        self.options().map_or(Err(io::ErrorKind::Unsupported.into()), |socket| group.leave(&socket))
    }

    fn options(&self) -> Option<SockRef<'_>> {
        match &self.kind {
            Kind::Udp(socket) | Kind::Connected(socket) => Some(SockRef::from(socket)),
            _ => None,
        }
    }

    /// Starts or stops events about room.
    pub(super) fn watch_room(&mut self, registry: Option<&Registry>, token: Token, on: bool) -> io::Result<()> {
        let interest = if on { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        match (&mut self.kind, registry) {
            (Kind::Scripted(script), _) => script.watch_room(on),
            (_, None) => {}
            (Kind::Udp(socket) | Kind::Connected(socket), Some(registry)) => {
                registry.reregister(socket, token, interest)?
            }
            #[cfg(unix)]
            (Kind::Unix(socket), Some(registry)) => registry.reregister(socket, token, interest)?,
        }
        Ok(())
    }
}

impl Watched for DatagramSocket {
    fn register(&mut self, registry: Option<&Registry>, token: Token) -> io::Result<()> {
        match (&mut self.kind, registry) {
            (Kind::Scripted(script), _) => script.register(token),
            (_, None) => {}
            (Kind::Udp(socket) | Kind::Connected(socket), Some(registry)) => {
                registry.register(socket, token, Interest::READABLE)?
            }
            #[cfg(unix)]
            (Kind::Unix(socket), Some(registry)) => registry.register(socket, token, Interest::READABLE)?,
        }
        Ok(())
    }

    fn deregister(&mut self, registry: &Registry) {
        let _ = match &mut self.kind {
            Kind::Udp(socket) | Kind::Connected(socket) => registry.deregister(socket),
            #[cfg(unix)]
            Kind::Unix(socket) => registry.deregister(socket),
            Kind::Scripted(_) => Ok(()),
        };
    }
}

/// One byte more than the maximum, so a datagram that fills the buffer is too long. If a datagram does not fit, Windows
/// reports neither its sender nor its beginning, so there the buffer has room for the longest UDP datagram.
fn room(max: usize) -> usize {
    let longest = if cfg!(windows) { 65_535 } else { 0 };
    max.max(longest).saturating_add(1)
}

/// No datagram is longer than the send buffer of its socket, and systems allow less than this for that.
const LONGEST: usize = 16 << 20;

/// The most datagrams that are received before the first is handled, if each needs a system call.
const AT_ONCE_MAX: usize = 16;

/// More small datagrams than a receive buffer of the usual size can hold.
const AWAY_MAX: usize = 1_024;

/// The standard library's send_to takes only a path, but most clients with a name have an abstract one.
#[cfg(unix)]
#[inline(never)] // Its buffers would cost a UDP socket something too.
fn send_unix(socket: &UnixDatagram, bytes: &[u8], to: &Address) -> io::Result<usize> {
    SockRef::from(socket).send_to(bytes, &sock_addr(to)?)
}

/// The address in the form of the socket: a dual-stack socket has mapped addresses for IPv4 clients.
fn inet(to: &Address, bound: &Address) -> io::Result<SocketAddr> {
    match (to, bound) {
        (Address::Inet(SocketAddr::V4(to)), Address::Inet(SocketAddr::V6(_))) => {
            Ok(SocketAddr::new(to.ip().to_ipv6_mapped().into(), to.port()))
        }
        (Address::Inet(to), _) => Ok(*to),
        #[cfg(unix)]
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "the address is not of the socket's family")),
    }
}

/// The number of messages for which the buffer should have room. With GRO this makes 2 MiB, which exist once and only
/// if there is a UDP server.
#[cfg(all(feature = "batch", target_os = "linux"))]
const BATCH_MESSAGES: usize = 32;
