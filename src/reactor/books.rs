//! What the reactor keeps of each server.

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
    /// It may serve. Its sockets are gone if it was `stopped`.
    Open { stopped: bool },
    /// Its sockets and connections are gone; its threads and programs are waited for, and looked at with this timer.
    Closing { begun: u64, look: TimerKey },
    /// Its hook `server_close` was called, and no other is. Only a [`Server`](crate::Server)'s own server can come to
    /// be open again, when it is bound; others are gone.
    Closed,
}

/// How a limit on connections stands.
#[derive(Debug, Default)]
pub(crate) struct Cap {
    /// Accepting waits until connections have closed.
    pub(super) is_reached: bool,
    /// When it last went on after that.
    lifted_at: Option<u64>,
}

impl Cap {
    /// Accepting is to wait, because of this limit.
    pub(super) fn reach(&mut self, now: u64, active: usize, max: usize, limit: &str) {
        let again = std::mem::replace(&mut self.is_reached, true);
        // Where connections come and go around the limit, it is reached again and again.
        if !again && self.lifted_at.is_none_or(|since| now.saturating_sub(since) > nanos(EPISODE)) {
            note!(Warn, "{active} connections are open, of {max} that may be ({limit}): more clients wait");
        }
    }

    /// Accepting goes on if there is room. Returns whether it does, and had to wait until now.
    pub(super) fn lift(&mut self, has_room: bool, now: u64) -> bool {
        let lifted = self.is_reached && has_room;
        if lifted {
            (self.is_reached, self.lifted_at) = (false, Some(now));
        }
        lifted
    }
}

/// What the reactor keeps of each server.
pub(crate) struct Served {
    pub(crate) id: ServerId,
    pub(crate) life: Life,
    /// It is the one that this reactor was made for, and stays when it is closed.
    pub(super) own: bool,
    pub(crate) limits: Arc<Limits>,
    /// Keys of its listeners and datagram sockets.
    pub(crate) listeners: Vec<u32>,
    pub(crate) active: usize,
    /// How many of those are sessions of a datagram server, which wait for no end.
    pub(crate) sessions: usize,
    /// How many of them are served by threads or programs, and their threads.
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
}

impl Served {
    /// Whether it has no sockets and no hooks.
    pub(crate) fn is_closed(&self) -> bool {
        self.life == Life::Closed
    }

    /// What counts for its limit on connections: not the peers of its datagram sockets.
    pub(super) fn connections(&self) -> usize {
        self.active - self.sessions
    }

    /// Whether its connections count for what the descriptors of the process allow: if it sets no number of its own, or
    /// if programs serve its requests. Those need descriptors to start, and requests that wait for them must not hold all.
    pub(super) fn shares_descriptors(&self) -> bool {
        #[cfg(all(unix, feature = "children"))]
        let has_programs = self.children.is_some();
        #[cfg(not(all(unix, feature = "children")))]
        let has_programs = false;
        has_programs || self.limits.connections_max.is_none()
    }

    /// Whether it waits until connections have closed, given the limit of the process.
    pub(super) fn is_capped(&self, process: &Cap) -> bool {
        self.cap.is_reached || (self.shares_descriptors() && process.is_reached)
    }

    /// Whether closing it waits for its threads and programs.
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

/// Failures to accept less than this apart are one episode, and one line in the log. So is reaching a limit on connections.
pub(super) const EPISODE: Duration = Duration::from_secs(10);
