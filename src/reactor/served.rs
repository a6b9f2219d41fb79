//! The reactor's record of each server.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::ids::ServerId;
use crate::limits::Limits;
use crate::logging::note;
use crate::threads::Pool;
use crate::timers::{Armed, TimerKey, nanos};

/// Where a server stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It may serve. Its sockets are closed if it was `stopped`.
    Open { stopped: bool },
    /// [`Reactor::drain_server`](crate::Reactor::drain_server): its listeners are closed, and its connections end when
    /// they are quiet. The timer checks its threads, drains busy connections, and ends the wait.
    Draining { begun: u64, look: TimerKey },
    /// Its sockets and connections are closed. The reactor waits for its threads and programs, and checks them with
    /// this timer.
    Closing { begun: u64, look: TimerKey },
    /// Its hook `server_close` was called, and no other hook will be. Only a [`Server`](crate::Server) with this
    /// reactor of its own can be opened again, when it is bound.
    Closed,
}

impl Life {
    /// The timer of what is in progress.
    pub(super) fn look(&mut self) -> Option<&mut TimerKey> {
        match self {
            Life::Draining { look, .. } | Life::Closing { look, .. } => Some(look),
            Life::Open { .. } | Life::Closed => None,
        }
    }
}

/// What the connections of a server are asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Nothing,
    /// To end when they are quiet, because the reactor stops or the server drains.
    Drain,
    /// To end now, because all other servers have drained: [`Limits::serve_while_draining`].
    End,
}

/// The state of a limit on connections.
#[derive(Debug, Default)]
pub(crate) struct Cap {
    /// Accepting waits until connections have closed.
    pub(super) is_reached: bool,
    /// When it was reached.
    reached_at: u64,
    /// When accepting last resumed after that.
    lifted_at: Option<u64>,
}

impl Cap {
    /// Accepting must wait because of this limit.
    pub(super) fn reach(&mut self, now: u64, active: usize, max: usize, limit: &str) {
        let again = std::mem::replace(&mut self.is_reached, true);
        if !again {
            self.reached_at = now;
        }
        // When connections come and go around the limit, it is reached repeatedly.
        if !again && self.lifted_at.is_none_or(|since| now.saturating_sub(since) > nanos(EPISODE)) {
            note!(Warn, "{active} connections are open, of {max} that may be ({limit}): more clients wait");
        }
    }

    /// Since when accepting has waited because of this limit.
    pub(super) fn since(&self) -> Option<u64> {
        self.is_reached.then_some(self.reached_at)
    }

    /// Resumes accepting if there is room. Returns whether it resumed after a wait.
    pub(super) fn lift(&mut self, has_room: bool, now: u64) -> bool {
        let lifted = self.is_reached && has_room;
        if lifted {
            (self.is_reached, self.lifted_at) = (false, Some(now));
        }
        lifted
    }
}

/// The reactor's record of one server.
pub(crate) struct Served {
    pub(crate) id: ServerId,
    pub(crate) life: Life,
    pub(crate) asked: Asked,
    /// This reactor was made for this server, which stays when it is closed.
    pub(super) own: bool,
    pub(crate) limits: Arc<Limits>,
    /// Keys of its listeners and datagram sockets.
    pub(crate) listeners: Vec<u32>,
    /// The addresses of its sockets, open or closed, and those at which another reactor accepts clients for it.
    pub(crate) addresses: Vec<Address>,
    pub(crate) active: usize,
    /// The number of active ones that are sessions of a datagram server, whose peers need not end them.
    pub(crate) sessions: usize,
    /// When a session was first refused because of `sessions_max`, if since then no session has begun while a tenth of
    /// them was free.
    pub(crate) sessions_full: Option<u64>,
    /// The number of active ones whose header has not arrived.
    pub(crate) headings: usize,
    /// The number of active ones that threads or programs serve, and those threads.
    pub(crate) elsewhere: usize,
    pub(crate) threads: Option<Pool>,
    #[cfg(all(unix, feature = "children"))]
    pub(crate) children: Option<Pool>,
    /// Its own limit on connections.
    pub(super) cap: Cap,
    /// Connections it may still accept; `handle_request` allows one.
    pub(crate) quota: usize,
    /// Open connections by client, kept only while there is a cap on them.
    pub(super) per_client: HashMap<IpAddr, usize>,
    pub(super) timers: BTreeMap<u64, Armed>,
    /// The names of its sockets.
    #[cfg(all(unix, feature = "restart"))]
    pub(crate) named: Vec<Named>,
}

/// The name or position under which a server has asked for an inherited socket, whether there was one or not.
#[cfg(all(unix, feature = "restart"))]
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) address: Address,
    pub(crate) is_datagrams: bool,
    pub(crate) name: String,
    pub(crate) position: Option<usize>,
}

#[cfg(all(unix, feature = "restart"))]
impl Named {
    /// Returns whether it is the socket of this address and kind.
    pub(crate) fn is_of(&self, address: &Address, is_datagrams: bool) -> bool {
        self.address == *address && self.is_datagrams == is_datagrams
    }
}

/// A socket for the successor.
#[cfg(all(unix, feature = "restart"))]
pub(crate) struct Passed {
    pub(crate) named: Named,
    /// The server of the reactor that has it.
    pub(crate) server: Option<ServerId>,
    pub(crate) duplicate: std::os::fd::OwnedFd,
    /// The file of it that this process removes.
    pub(crate) file: Option<crate::net::owned_file::FileId>,
}

/// Further sockets for the successor, which no server of this reactor has.
#[cfg(all(unix, feature = "restart"))]
pub(crate) trait KeptElsewhere: Send {
    /// # Errors
    /// Errors of dup(2).
    fn sockets(&self) -> std::io::Result<Vec<Passed>>;

    /// Their files belong to the successor.
    fn hand_over(&self);

    /// The restart has failed.
    fn note_failure(&self);
}

/// When a restart has failed last, and why. The reactors of `Workers` share it, also those that are made later.
#[cfg(all(unix, feature = "restart"))]
pub(crate) type LastFailure = Arc<std::sync::Mutex<Option<(crate::net::clock::Clock, String)>>>;

/// A restart that has begun: the successor's link, and the sockets that it was given. Dropping this takes it back.
#[cfg(all(unix, feature = "restart"))]
pub(crate) struct Restarting {
    pub(crate) successor: Arc<crate::restart::link::Successor>,
    pub(crate) sockets: Vec<(ServerId, Address)>,
    /// A stop was requested.
    pub(crate) is_given_up: bool,
}

#[cfg(all(unix, feature = "restart"))]
impl Drop for Restarting {
    fn drop(&mut self) {
        self.successor.take_back();
    }
}

impl Served {
    /// Returns whether it drains by itself.
    pub(super) fn is_draining(&self) -> bool {
        matches!(self.life, Life::Draining { .. })
    }

    /// Returns whether it has no sockets and calls no hooks.
    pub(crate) fn is_closed(&self) -> bool {
        self.life == Life::Closed
    }

    /// The number of connections that count for its limit: not the peers of its datagram sockets.
    pub(super) fn connections(&self) -> usize {
        self.active - self.sessions
    }

    /// Returns whether its connections count for the descriptor limit of the process: if it sets no number of its own,
    /// or if programs serve its requests. Programs need descriptors to start, and requests that wait for them must not
    /// hold all descriptors.
    pub(super) fn shares_descriptors(&self) -> bool {
        #[cfg(all(unix, feature = "children"))]
        let has_programs = self.children.is_some();
        #[cfg(not(all(unix, feature = "children")))]
        let has_programs = false;
        has_programs || self.limits.connections_max.is_none()
    }

    /// Returns whether it waits until connections have closed, given the limit of the process. Servers that share that
    /// limit wait together. Otherwise a server that does not wait yet would take each free place.
    pub(super) fn is_capped(&self, process: &Cap) -> bool {
        self.cap.is_reached || (self.shares_descriptors() && process.is_reached)
    }

    /// Returns whether it accepts clients, given the limit of the process.
    pub(super) fn accepts(&self, process: &Cap) -> bool {
        !self.is_capped(process) && self.quota > 0
    }

    /// Returns whether the wait for its threads and programs is part of a drain.
    pub(super) fn is_awaited(&self) -> bool {
        self.asked == Asked::Drain && !self.limits.daemon_threads
    }

    /// Returns whether closing it waits for its threads and programs.
    pub(super) fn waits(&self) -> bool {
        self.limits.block_on_close && !self.limits.daemon_threads
    }

    #[cold]
    pub(super) fn forget_client(&mut self, address: &Address) {
        let Some(ip) = address.ip() else { return };
        if let Some(open) = self.per_client.get_mut(&ip) {
            *open -= 1;
            if *open == 0 {
                self.per_client.remove(&ip);
            }
        }
    }
}

/// Accept failures within this time are one episode, and one line in the log. The same holds for reaching a limit on
/// connections.
pub(super) const EPISODE: Duration = Duration::from_secs(10);
