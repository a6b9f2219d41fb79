//! Sockets that another process has opened: a supervisor, or the predecessor of this process.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use super::hooks::BaseServer;
use super::unbound::Unbound;
use crate::error::{Error, Result};
use crate::handler::RequestHandler;
#[cfg(feature = "restart")]
use crate::logging::note;
use crate::net::family::{Family, ServerAddress};
use crate::net::inherited::{Inherited, give_up};

/// The sockets that another process has opened for this one: a supervisor such as systemd, or the predecessor of this
/// process. Clients can connect while no process serves, and none is lost when one process replaces another, because
/// they wait in the backlog of the socket, which stays.
///
/// [`from_env`](Self::from_env) takes those of a supervisor. Then each server takes its own with
/// [`Unbound::inherit_or_bind`], by name or by position, or binds an address if there are none. At the end call
/// [`all_taken`](Self::all_taken). A socket that no server takes is a mistake in the configuration, because clients
/// connect to it and hang. When this is dropped, it closes such sockets. A warning for each of them is in the log when a
/// reactor serves.
///
/// On Unix. Source: sd_listen_fds(3); Python has `socket.socket(fileno=3)`.
///
/// ```
/// use socketserver::{InheritedSockets, Next, Request, RequestHandler, Result, TcpServer};
/// # struct Echo;
/// # impl RequestHandler for Echo {
/// #     fn handle(&mut self, _: &mut Request<'_>) -> Result<Next> { Ok(Next::Wait) }
/// # }
/// # use std::os::fd::OwnedFd;
/// # let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// # let (address, given) = (listener.local_addr()?, [("echo".to_owned(), OwnedFd::from(listener))]);
/// let mut sockets = InheritedSockets::new(given); // or from_env()
/// let mut server = TcpServer::unbound(|_client_address| Echo);
/// server.inherit_or_bind(&mut sockets, "echo", "127.0.0.1:9999")?;
/// let server = server.server_activate()?;
/// sockets.all_taken()?;
/// # assert_eq!(server.server_address(), address);
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct InheritedSockets {
    /// In the order of their positions.
    sockets: Vec<Inherited>,
}

/// One of the inherited sockets, or several of one name: `"http"` or `0`.
///
/// ```
/// use socketserver::SocketName;
///
/// assert_eq!(SocketName::from("http").to_string(), "\"http\"");
/// assert_eq!(SocketName::from(0).to_string(), "0");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketName<'a> {
    /// All sockets of this name that are of the wanted kind. systemd gives all sockets of a unit the same name:
    /// `FileDescriptorName=`, or the name of the unit.
    Name(&'a str),
    /// The socket at this position, which counts from 0: the descriptor 3 of the process.
    Position(usize),
}

impl InheritedSockets {
    /// Takes sockets and their names from anywhere: from a message with descriptors, or from a predecessor.
    pub fn new(sockets: impl IntoIterator<Item = (String, OwnedFd)>) -> Self {
        InheritedSockets { sockets: sockets.into_iter().map(|(name, fd)| Inherited::new(name, fd)).collect() }
    }

    /// Takes the sockets that a supervisor has passed to this process: `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES`,
    /// as systemd and systemd-socket-activate(1) set them. Empty if there are none, or if they are for another process.
    /// `LISTEN_PID` may be missing. Without `LISTEN_FDNAMES` the name of each is `unknown`.
    ///
    /// The sockets become close-on-exec, and `LISTEN_FDS` and `LISTEN_PID` are removed from the environment, so that
    /// programs which this process starts do not get them. `LISTEN_FDNAMES` stays in the environment. A descriptor that is
    /// no internet or Unix socket, or neither of streams nor of datagrams, stays open. Programs that this process starts
    /// get it too. [`all_taken`](Self::all_taken) reports it.
    ///
    /// In a process that replaces another one ([`Reactor::restart`](crate::Reactor::restart)), this changes the working
    /// directory to the one in which the first process called `from_env`.
    ///
    /// Call this once, at the start of `main`, because no other thread may use the environment at this time. A second call
    /// finds none. Feature `inherit`.
    ///
    /// # Errors
    /// [`Error::Inherit`] if the number of names is not that of the descriptors. In a process that replaces another one
    /// also if that is of a version of this crate that cannot be understood, if it has started this process through a
    /// shell, or if the working directory cannot be entered.
    #[cfg(feature = "inherit")]
    pub fn from_env() -> Result<Self> {
        let failed = |source| Error::Inherit { socket: "sockets".to_owned(), source };
        let sockets = Inherited::from_env().map_err(failed)?;
        // In the directory of the first process. A restart reports what is wrong with it.
        #[cfg(feature = "restart")]
        let _ = crate::restart::origin::origin();
        Ok(InheritedSockets { sockets })
    }

    /// Returns whether there was none: the process was not started by a supervisor that opens its sockets.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// Takes the first socket that is a connection and not a listener: of a socket unit with `Accept=yes`, for which
    /// systemd starts the process once for each client. [`Unbound::serve_connection`] serves it.
    pub fn take_connection(&mut self) -> Option<OwnedFd> {
        self.sockets.iter_mut().find(|socket| socket.is_connected())?.take().ok().map(OwnedFd::from)
    }

    /// Checks that each socket was taken. The other sockets are closed. A descriptor of another kind stays open.
    ///
    /// # Errors
    /// [`Error::Inherit`] with the first that was not.
    pub fn all_taken(mut self) -> Result<()> {
        let sockets = std::mem::take(&mut self.sockets);
        match sockets.iter().position(Inherited::is_left) {
            Some(position) => Err(Error::Inherit {
                socket: sockets[position].describe(position),
                source: io::Error::other("no server takes it, so its clients would wait forever"),
            }),
            None => Ok(()),
        }
    }

    /// The positions of the sockets to take: those of the name, of which one of the family is left, or the position.
    fn find<F: Family>(&self, which: SocketName<'_>) -> Vec<usize> {
        let name = match which {
            SocketName::Position(position) => {
                return Vec::from_iter(Some(position).filter(|&at| at < self.sockets.len()));
            }
            SocketName::Name(name) => name,
        };
        let named = |at: &usize| self.sockets[*at].name == name;
        let all: Vec<usize> = (0..self.sockets.len()).filter(named).collect();
        let fitting: Vec<usize> = all.iter().copied().filter(|&at| self.sockets[at].is_of::<F>()).collect();
        if !fitting.is_empty() {
            return fitting;
        }
        // The first tells why none fits. If servers of other kinds have taken all, there is none to inherit.
        let may_be_meant = |&at: &usize| self.sockets[at].is_left() || self.sockets[at].was_of::<F>();
        let first = all.iter().any(may_be_meant).then(|| all[0]);
        first.into_iter().collect()
    }
}

impl Drop for InheritedSockets {
    fn drop(&mut self) {
        for (position, socket) in self.sockets.iter().enumerate().filter(|(_, socket)| socket.is_left()) {
            give_up(socket.describe(position));
        }
    }
}

impl<F: Family, S: BaseServer, H: RequestHandler<S>> Unbound<F, S, H> {
    /// Takes the inherited sockets of this name, or the one at this position. If there is none, binds `address` instead,
    /// as [`server_bind`](Self::server_bind) does. So the same program runs under a supervisor and without one.
    ///
    /// # Errors
    /// [`Error::Inherit`] if sockets of the name are left, but none of the server's kind; if it was taken before; if it does
    /// not listen. Otherwise the same as for [`server_bind`](Self::server_bind).
    ///
    /// [`InheritedSockets`] has an example.
    pub fn inherit_or_bind<'a>(
        &mut self,
        sockets: &mut InheritedSockets,
        which: impl Into<SocketName<'a>>,
        address: impl ServerAddress<F::Address>,
    ) -> Result<()> {
        self.inherit_or_bind_with(sockets, which, address, F::Options::default())
    }

    /// Like [`inherit_or_bind`](Self::inherit_or_bind), but with options for the sockets: see
    /// [`server_bind_with`](Self::server_bind_with) and [`adopt_with`](Self::adopt_with). The `mode` of
    /// [`UnixOptions`](crate::UnixOptions) applies only to a file that is created here.
    ///
    /// # Errors
    /// The same as for [`inherit_or_bind`](Self::inherit_or_bind).
    pub fn inherit_or_bind_with<'a>(
        &mut self,
        sockets: &mut InheritedSockets,
        which: impl Into<SocketName<'a>>,
        address: impl ServerAddress<F::Address>,
        options: F::Options,
    ) -> Result<()> {
        self.inherit_or_bind_as::<F>(sockets, which, address, options)
    }

    /// Like [`inherit_or_bind_with`](Self::inherit_or_bind_with), but for a socket of another family, `G`: see
    /// [`server_bind_as`](Self::server_bind_as).
    ///
    /// # Errors
    /// The same as for [`inherit_or_bind`](Self::inherit_or_bind).
    ///
    /// ```
    /// # use socketserver::{NoHandler, TcpServer};
    /// use socketserver::{InheritedSockets, UdpOptions, family::Udp};
    ///
    /// let mut sockets = InheritedSockets::default(); // or from_env()
    /// let mut server = TcpServer::unbound(|_client_address| NoHandler);
    /// server.inherit_or_bind(&mut sockets, 0, "127.0.0.1:0")?;
    /// server.inherit_or_bind_as::<Udp>(&mut sockets, 1, "127.0.0.1:0", UdpOptions::default())?;
    /// assert_eq!(server.server_addresses().len(), 2);
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn inherit_or_bind_as<'a, G: Family>(
        &mut self,
        sockets: &mut InheritedSockets,
        which: impl Into<SocketName<'a>>,
        address: impl ServerAddress<G::Address>,
        options: G::Options,
    ) -> Result<()> {
        let which = which.into();
        #[cfg_attr(not(feature = "restart"), expect(unused_mut, reason = "there is no predecessor"))]
        let mut positions = sockets.find::<G>(which);
        #[cfg(feature = "restart")]
        positions.retain(|&position| {
            let is_lost = sockets.sockets[position].drop_lost();
            if is_lost {
                let socket = sockets.sockets[position].describe(position);
                note!(Warn, "the file of {socket} is gone, or replaced by another: it is bound again");
            }
            !is_lost
        });
        #[cfg(feature = "restart")]
        let before = self.server_addresses().len();
        if positions.is_empty() {
            self.server_bind_as::<G>(address, options)?;
        } else {
            self.inherit::<G>(sockets, positions, options)?;
        }
        #[cfg(feature = "restart")]
        match which {
            SocketName::Name(name) => self.name_sockets(before, G::DATAGRAMS, name, None),
            SocketName::Position(position) => self.name_sockets(before, G::DATAGRAMS, "unknown", Some(position)),
        }
        Ok(())
    }

    fn inherit<G: Family>(
        &mut self,
        sockets: &mut InheritedSockets,
        positions: Vec<usize>,
        options: G::Options,
    ) -> Result<()> {
        for position in positions {
            let socket = &mut sockets.sockets[position];
            let described = socket.describe(position);
            let options = G::for_adopted(options.clone(), socket.file.is_some());
            let failed = |source| Error::Inherit { socket: described, source };
            let adopted = match socket.take() {
                Ok(taken) => self.adopt_as::<G>(taken.into(), options),
                Err(source) => return Err(failed(source)),
            };
            match adopted {
                Err(Error::Reactor { source, .. }) => return Err(failed(source)),
                adopted => adopted?,
            }
        }
        Ok(())
    }
}

impl<'a> From<&'a str> for SocketName<'a> {
    fn from(name: &'a str) -> Self {
        SocketName::Name(name)
    }
}

impl From<usize> for SocketName<'_> {
    fn from(position: usize) -> Self {
        SocketName::Position(position)
    }
}

impl fmt::Display for SocketName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketName::Name(name) => write!(f, "{name:?}"),
            SocketName::Position(position) => write!(f, "{position}"),
        }
    }
}
