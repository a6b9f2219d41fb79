//! A socket that another process has opened for this one, until a server takes it.

use std::io;
use std::os::fd::OwnedFd;

use socket2::{Socket, Type};

use super::family::{Family, Tcp, Udp, UnixDatagram, UnixStream};
use super::socket::address;

/// An inherited descriptor with its name.
#[derive(Debug)]
pub(crate) struct Inherited {
    pub(crate) name: String,
    /// What it is, for messages: `TCP 127.0.0.1:80`.
    kind: String,
    state: State,
}

#[derive(Debug)]
enum State {
    Left(Socket),
    Taken,
    /// It is open, and not of a kind that can be served.
    #[cfg_attr(not(feature = "inherit"), expect(dead_code, reason = "only an environment can name one"))]
    Foreign,
}

impl Inherited {
    pub(crate) fn new(name: String, descriptor: OwnedFd) -> Self {
        let socket = Socket::from(descriptor);
        Inherited { name, kind: kind_of(&socket), state: State::Left(socket) }
    }

    /// Takes all descriptors that the environment names for this process.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if there are more or fewer names.
    #[cfg(feature = "inherit")]
    pub(crate) fn from_env() -> io::Result<Vec<Self>> {
        let names = std::env::var_os("LISTEN_FDNAMES");
        let mut descriptors = listenfd::ListenFd::from_env();
        let count = descriptors.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        let names = names.map(|names| names.to_string_lossy().split(':').map(str::to_owned).collect());
        let names: Vec<String> = names.unwrap_or_else(|| vec!["unknown".to_owned(); count]);
        if names.len() != count {
            let text = format!("LISTEN_FDNAMES has {} names, and LISTEN_FDS is {count}", names.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let inherited = names.into_iter().enumerate().map(|(at, name)| {
            let socket = KINDS.iter().find_map(|&(family, kind)| {
                // An error means that it is of another kind. It stays there then.
                descriptors.take_custom::<OwnedFd>(at, family, kind, "socket").ok().flatten()
            });
            match socket {
                Some(socket) => Inherited::new(name, socket),
                None => Inherited { name, kind: "no socket".to_owned(), state: State::Foreign },
            }
        });
        Ok(inherited.collect())
    }

    /// The name and the position in a message.
    pub(crate) fn describe(&self, position: usize) -> String {
        format!("socket {position} {:?} ({})", self.name, self.kind)
    }

    pub(crate) fn is_left(&self) -> bool {
        !matches!(self.state, State::Taken)
    }

    /// Returns whether it is left, and of this family, whatever else may be wrong with it.
    pub(crate) fn is_of<F: Family>(&self) -> bool {
        let State::Left(socket) = &self.state else { return false };
        let kind = if F::DATAGRAMS { Type::DGRAM } else { Type::STREAM };
        let local = socket.local_addr().and_then(|local| address(&local));
        socket.r#type().is_ok_and(|found| found == kind) && local.is_ok_and(|local| F::typed(&local).is_some())
    }

    /// Returns whether it is left, and is a connection.
    pub(crate) fn is_connected(&self) -> bool {
        matches!(&self.state, State::Left(socket)
            if socket.peer_addr().is_ok() && socket.r#type().is_ok_and(|kind| kind == Type::STREAM))
    }

    /// # Errors
    /// If it was taken already, or is no socket.
    pub(crate) fn take(&mut self) -> io::Result<Socket> {
        match std::mem::replace(&mut self.state, State::Taken) {
            State::Left(socket) => Ok(socket),
            State::Taken => Err(io::Error::other("another server has it")),
            State::Foreign => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no socket that can be served")),
        }
    }
}

fn kind_of(socket: &Socket) -> String {
    let Ok(local) = socket.local_addr().and_then(|local| address(&local)) else {
        return "no internet socket and no Unix socket".to_owned();
    };
    let is_stream = socket.r#type().is_ok_and(|kind| kind == Type::STREAM);
    let name = match (is_stream, local.as_unix()) {
        (true, None) => Tcp::NAME,
        (false, None) => Udp::NAME,
        (true, Some(_)) => UnixStream::NAME,
        (false, Some(_)) => UnixDatagram::NAME,
    };
    match socket.peer_addr().is_ok() {
        true => format!("a connection, {name} {local}"),
        false => format!("{name} {local}"),
    }
}

/// The domains and types of sockets that are taken from the environment. `AF_INET` includes IPv6.
#[cfg(feature = "inherit")]
const KINDS: [(libc::c_int, libc::c_int); 4] = [
    (libc::AF_INET, libc::SOCK_STREAM),
    (libc::AF_INET, libc::SOCK_DGRAM),
    (libc::AF_UNIX, libc::SOCK_STREAM),
    (libc::AF_UNIX, libc::SOCK_DGRAM),
];
