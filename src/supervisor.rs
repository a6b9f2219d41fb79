//! What a supervisor such as systemd is told: sd_notify(3).

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sd_notify::NotifyState;

use crate::error::reason;
use crate::escape::printable;
use crate::logging::note_fault;
use crate::timers::TimerKey;

/// The supervisor that has started this process, such as systemd with `Type=notify`:
/// [`Reactor::notify_supervisor`](crate::Reactor::notify_supervisor) returns it. Cheap to clone; for any thread.
///
/// The reactor tells it when the service is ready, reloads and stops. The methods of this type tell it more. They do
/// nothing without a supervisor, which is a process without `NOTIFY_SOCKET` in its environment. They never block: if
/// the supervisor does not read, the message is dropped, with a warning in the log.
///
/// On Unix. Feature `sd-notify`. Source: sd_notify(3).
///
/// ```
/// use socketserver::{BaseServer, Others, Reactor, Supervisor};
///
/// struct Service { supervisor: Supervisor }
/// impl BaseServer for Service {
///     fn timer(&mut self, others: &mut Others<'_, Self>, _tag: u64) {
///         self.supervisor.status(&format!("{} connections", others.stats().active));
///     }
/// }
/// let mut reactor = Reactor::new()?;
/// let service = Service { supervisor: reactor.notify_supervisor()? };
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Supervisor {
    /// `None`: there is no supervisor.
    socket: Option<Arc<NotifySocket>>,
}

impl Supervisor {
    /// The one that `NOTIFY_SOCKET` names.
    ///
    /// # Errors
    /// If its socket cannot be reached.
    pub(crate) fn from_env() -> io::Result<Self> {
        let socket = match env::var_os("NOTIFY_SOCKET") {
            Some(name) if !name.is_empty() => {
                Some(Arc::new(NotifySocket::open(&name).map_err(|error| named(&name, &error))?))
            }
            _ => None,
        };
        Ok(Supervisor { socket })
    }

    /// Tells it that the service loads its configuration again: `RELOADING=1` with the time. Call
    /// [`ready`](Self::ready) afterwards. Around the hooks of a [reload](crate::Reactor::reload) the reactor sends both
    /// itself, so this is needed only for a reload that goes on after the hooks. Call it when they have ended.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => note_fault!(Warn, "the supervisor is not told of a reload: {error}"),
        }
    }

    /// Tells it that the service is ready: `READY=1`. The reactor does this when it begins to serve and after the hooks
    /// of a reload, so it is needed only after [`reloading`](Self::reloading).
    pub fn ready(&self) {
        self.set_stopping(false);
        self.tell(&[NotifyState::Ready]);
    }

    /// Tells it what the service is doing, for people who read `systemctl status`: `STATUS=`. Line breaks and control
    /// characters are escaped, and the text is cut after 1,024 characters.
    pub fn status(&self, text: &str) {
        self.tell(&[NotifyState::Status(&printable(format_args!("{text}")))]);
    }

    pub(crate) fn stopping(&self) {
        self.set_stopping(true);
        self.tell(&[NotifyState::Stopping]);
    }

    fn set_stopping(&self, is_stopping: bool) {
        self.socket.iter().for_each(|socket| socket.is_stopping.store(is_stopping, Ordering::Relaxed));
    }

    /// Another process is the main one from now on.
    ///
    /// # Errors
    /// If it cannot be told.
    #[cfg(feature = "restart")]
    pub(crate) fn main_process(&self, id: u32) -> io::Result<()> {
        self.try_tell(&[NotifyState::MainPid(id)])
    }

    /// Tells it nothing more. Another process does.
    #[cfg(feature = "restart")]
    pub(crate) fn fall_silent(&self) {
        self.socket.iter().for_each(|socket| socket.is_silent.store(true, Ordering::Relaxed));
    }

    pub(crate) fn keep_alive(&self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    pub(crate) fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        if let Err(error) = self.try_tell(states) {
            note_fault!(Warn, "the supervisor is not told {}: {error}", states[0]);
        }
    }

    fn try_tell(&self, states: &[NotifyState<'_>]) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        if socket.is_silent.load(Ordering::Relaxed) {
            return Ok(());
        }
        let lines: String = states.iter().map(|state| format!("{state}\n")).collect();
        socket.send(lines.as_bytes())
    }
}

/// A reactor's supervisor, and what it was told.
pub(crate) struct Supervision {
    pub(crate) supervisor: Supervisor,
    /// It knows that the service is ready, and of no stop.
    pub(crate) is_ready: bool,
    pub(crate) reload: Option<Arc<Reload>>,
    /// The time between two signs of life, in nanoseconds, if it waits for them.
    pub(crate) period: Option<u64>,
    pub(crate) timer: TimerKey,
}

/// A reload. The supervisor is told of its end when this is dropped, unless the service stops by then.
pub(crate) struct Reload(Supervisor);

impl Reload {
    pub(crate) fn begin(supervisor: &Supervisor) -> Self {
        supervisor.reloading();
        Reload(supervisor.clone())
    }
}

impl Drop for Reload {
    fn drop(&mut self) {
        if self.0.socket.as_ref().is_some_and(|socket| !socket.is_stopping.load(Ordering::Relaxed)) {
            self.0.ready();
        }
    }
}

/// sd-notify opens a socket for each message, and blocks while the supervisor does not read. This one stays open, so that
/// it still works in a chroot(2), and does not block.
#[derive(Debug)]
struct NotifySocket {
    socket: UnixDatagram,
    address: SocketAddr,
    /// What `NOTIFY_SOCKET` says.
    name: OsString,
    is_stopping: AtomicBool,
    /// Another process speaks for the service.
    is_silent: AtomicBool,
}

impl NotifySocket {
    fn open(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            #[cfg(any(target_os = "linux", target_os = "android"))]
            [b'@', name @ ..] => {
                use std::os::linux::net::SocketAddrExt;
                SocketAddr::from_abstract_name(name)?
            }
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path nor an abstract name")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect_addr(&address)?;
        let (is_stopping, is_silent) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(NotifySocket { socket, address, name: name.to_owned(), is_stopping, is_silent })
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        match self.socket.send(message) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            Err(_) => {
                // The supervisor was started again, and has another socket of this name.
                self.socket.connect_addr(&self.address).and_then(|()| self.socket.send(message))
            }
            sent => sent,
        }
        .map(drop)
        .map_err(|error| named(&self.name, &error))
    }
}

/// The error with the name of the socket.
fn named(name: &OsStr, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("NOTIFY_SOCKET={}: {}", name.display(), reason(error)))
}
