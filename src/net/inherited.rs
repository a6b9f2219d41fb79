//! A socket that another process has opened for this one, until a server takes it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use socket2::{Socket, Type};

use super::family::{Family, Tcp, Udp, UnixDatagram, UnixStream};
use super::owned_file::FileId;
use super::socket::address;
use crate::logging::note;

/// The sockets that were given up before a reactor has begun to serve. A program that ends before has another error, which
/// a warning about its sockets would hide.
static GIVEN_UP: Mutex<Vec<String>> = Mutex::new(Vec::new());
static SERVES: AtomicBool = AtomicBool::new(false);
/// [`warn_of_given_up`], once a socket was given up. So only programs with inherited sockets contain it.
static WARN: OnceLock<fn()> = OnceLock::new();

/// A reactor begins to serve.
#[inline]
pub(crate) fn begin_to_serve() {
    SERVES.swap(true, Ordering::AcqRel);
    if let Some(warn) = WARN.get() {
        warn();
    }
}

/// No server takes this socket.
pub(crate) fn give_up(socket: String) {
    GIVEN_UP.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
    let warn = WARN.get_or_init(|| warn_of_given_up);
    // In the order of all changes of the flag, either this sees the other one, or the other one sees `WARN`.
    if SERVES.fetch_or(false, Ordering::AcqRel) {
        warn();
    }
}

fn warn_of_given_up() {
    let given_up = std::mem::take(&mut *GIVEN_UP.lock().unwrap_or_else(PoisonError::into_inner));
    for socket in given_up {
        note!(Warn, "no server takes the inherited {socket}: its clients wait forever");
    }
}

/// An inherited descriptor with its name.
#[derive(Debug)]
pub(crate) struct Inherited {
    pub(crate) name: String,
    /// What it is, for messages: `TCP 127.0.0.1:80`.
    kind: String,
    /// The file of it that its process has left to this one.
    pub(crate) file: Option<FileId>,
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
        Inherited { name, kind: kind_of(&socket), file: None, state: State::Left(socket) }
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
                None => Inherited { name, kind: "no socket".to_owned(), file: None, state: State::Foreign },
            }
        });
        #[cfg_attr(not(feature = "restart"), expect(unused_mut, reason = "there is no predecessor"))]
        let mut inherited: Vec<_> = inherited.collect();
        #[cfg(feature = "restart")]
        Self::meet_predecessor(&mut inherited)?;
        Ok(inherited)
    }

    /// If another version of this program has started this process, the last socket leads to it.
    #[cfg(feature = "restart")]
    fn meet_predecessor(inherited: &mut Vec<Self>) -> io::Result<()> {
        let is_link = |socket: &mut Inherited| socket.name == crate::restart::link::NAME && socket.is_connected();
        let Some(mut link) = inherited.pop_if(is_link) else { return Ok(()) };
        let heritage = crate::restart::link::meet_predecessor(link.take()?.into())?;
        super::path::leave_to_predecessor(true);
        for (position, file) in heritage.files {
            inherited.get_mut(position).into_iter().for_each(|socket| socket.file = Some(file));
        }
        std::env::set_current_dir(heritage.directory)
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

    /// Gives it up if its process has left it a file that is not at its path any more: clients find a server only at a
    /// new one. Returns whether this is so.
    #[cfg(feature = "restart")]
    pub(crate) fn drop_lost(&mut self) -> bool {
        let State::Left(socket) = &self.state else { return false };
        let (Some(file), Ok(address)) = (self.file, socket.local_addr()) else { return false };
        let is_lost = address.as_pathname().is_some_and(|path| !super::path::has(path, file));
        if is_lost {
            self.state = State::Taken;
        }
        is_lost
    }

    /// Returns whether it is or was of this family.
    pub(crate) fn was_of<F: Family>(&self) -> bool {
        self.kind.strip_prefix(F::NAME).is_some_and(|address| address.starts_with(' '))
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
            State::Taken => Err(io::Error::other("it was taken before")),
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
