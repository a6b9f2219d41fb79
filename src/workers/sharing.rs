//! The sockets of all workers at one address of the closure.
//!
//! They are kept here, and each worker serves duplicates. So the clients in a backlog outlive the worker, and its successor
//! serves them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::address::Address;
use crate::error::{Error, Result};
use crate::ids::ServerId;
use crate::logging::note;
use crate::net::Socket;
use crate::net::family::Bound;
use crate::net::site::Site;
use crate::reactor::handle::Handle;
#[cfg(all(unix, feature = "restart"))]
use crate::reactor::served::{Named, Passed};

/// Which call of the closure has bound them: the family, the given address, and how often it was given before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) family: &'static str,
    pub(super) name: String,
    pub(super) before: usize,
}

/// How the workers share an address.
pub(super) enum How {
    /// Each has a socket of its own.
    Each,
    /// All read one socket.
    Together,
    /// The acceptor of this number hands them connections. There is none until a worker is made.
    Handed(OnceLock<usize>),
}

pub(super) struct Sharing {
    pub(super) key: Key,
    pub(super) how: How,
    pub(super) addresses: Vec<Address>,
    /// The names under which the addresses were asked for.
    #[cfg(all(unix, feature = "restart"))]
    pub(super) named: Vec<Named>,
    state: Mutex<State>,
}

struct State {
    kept: Vec<Kept>,
    /// The server of each worker that serves them.
    servers: Vec<Option<(Handle, ServerId)>>,
    /// The workers that have failed with such a server, and may have one when they are made again.
    awaited: BTreeSet<usize>,
}

impl State {
    fn is_needed(&self) -> bool {
        !self.awaited.is_empty() || self.servers.iter().any(Option::is_some)
    }
}

/// A socket, with the number of the worker that serves it.
pub(super) struct Kept {
    socket: Socket,
    site: Site,
    owner: usize,
    /// Tells it from the others.
    id: Arc<()>,
}

impl Kept {
    /// Keeps a socket that has just been bound.
    pub(super) fn new((socket, site): (Socket, Site), owner: usize) -> Self {
        Kept { socket, site, owner, id: Arc::default() }
    }

    pub(super) fn listen(&self) -> Result<()> {
        let failed = |source| Error::Listen { address: self.site.address.clone(), source };
        self.socket.listen(self.site.options.request_queue_size()).map_err(failed)
    }

    /// The socket may share its port.
    pub(super) fn share_port(&self) -> Result<()> {
        let failed = |source| Error::Bind { address: self.site.address.clone(), source };
        self.socket.share_port().map_err(failed)
    }

    pub(super) fn address(&self) -> &Address {
        &self.site.address
    }

    /// It was made elsewhere, so there is only this one.
    pub(super) fn is_adopted(&self) -> bool {
        self.site.adopted
    }

    /// Several workers read it.
    pub(super) fn share(&self) {
        self.socket.share();
    }

    fn duplicate(&self) -> Result<Socket> {
        let failed = |source| Error::Reactor { doing: "duplicate the socket", source };
        self.socket.another().map_err(failed)
    }

    #[cfg(all(unix, feature = "restart"))]
    fn passed(&self, named: Named) -> std::io::Result<Passed> {
        let duplicate = self.socket.duplicate_for_another()?;
        Ok(Passed { named, server: None, duplicate, file: self.socket.file() })
    }

    /// A duplicate that is ready to serve.
    fn bound(&self) -> Result<Bound> {
        let failed = |source| Error::Listen { address: self.site.address.clone(), source };
        // It has the options already, because both are the same open file.
        self.socket.another().and_then(|socket| self.site.options.finish(socket)).map_err(failed)
    }

    /// The socket itself, ready to serve.
    pub(super) fn into_bound(self) -> Result<Bound> {
        let failed = |source| Error::Listen { address: self.site.address.clone(), source };
        self.site.options.finish(self.socket).map_err(failed)
    }
}

impl Sharing {
    pub(super) fn new(key: Key, how: How, addresses: Vec<Address>, kept: Vec<Kept>, workers: usize) -> Self {
        let state = State { kept, servers: vec![None; workers], awaited: BTreeSet::new() };
        Sharing {
            key,
            how,
            addresses,
            #[cfg(all(unix, feature = "restart"))]
            named: Vec::new(),
            state: Mutex::new(state),
        }
    }

    /// Takes the sockets that are kept.
    pub(super) fn take_kept(&self) -> Vec<Kept> {
        std::mem::take(&mut self.lock().kept)
    }

    /// Keeps more sockets.
    pub(super) fn keep(&self, kept: Vec<Kept>) {
        self.lock().kept.extend(kept);
    }

    /// Duplicates of the sockets that a worker serves.
    pub(super) fn duplicates(&self, worker: usize) -> Result<Vec<Socket>> {
        let state = self.lock();
        let is_own = |kept: &&Kept| match self.how {
            How::Each => kept.owner == worker,
            How::Together => true,
            How::Handed(_) => false,
        };
        state.kept.iter().filter(is_own).map(Kept::duplicate).collect()
    }

    /// A worker has this server for the sockets, or `None` any more.
    pub(super) fn set_server(&self, worker: usize, server: Option<(Handle, ServerId)>) {
        self.lock().servers[worker] = server;
    }

    /// A worker has failed.
    pub(super) fn lose(&self, worker: usize) {
        let mut state = self.lock();
        if state.servers[worker].take().is_some() {
            state.awaited.insert(worker);
        }
    }

    /// An attempt to make a worker again is over. Returns whether the sockets are still needed. Inherited ones cannot be bound
    /// again, so they stay until an attempt succeeds.
    pub(super) fn is_needed_after(&self, worker: usize, was_made: bool) -> bool {
        let mut state = self.lock();
        if was_made {
            state.awaited.remove(&worker);
        }
        let stays = !was_made && state.kept.iter().any(Kept::is_adopted);
        stays || state.is_needed()
    }

    /// The servers of the other workers, if one of them has this server.
    pub(super) fn counterparts(&self, own: ServerId) -> Vec<(Handle, ServerId)> {
        let state = self.lock();
        let servers = || state.servers.iter().flatten();
        let is_here = servers().any(|(_, server)| *server == own);
        servers().filter(|(_, server)| is_here && *server != own).cloned().collect()
    }

    /// Returns whether a worker has a server for the sockets.
    pub(super) fn is_served(&self) -> bool {
        self.lock().servers.iter().any(Option::is_some)
    }

    /// Returns whether a worker serves them, or may do so when it is made again.
    pub(super) fn is_needed(&self) -> bool {
        self.lock().is_needed()
    }

    /// A worker will not be made again.
    pub(super) fn give_up(&self, worker: usize) {
        self.lock().awaited.remove(&worker);
    }

    /// Returns whether this worker has a server for the sockets.
    pub(super) fn is_served_by(&self, worker: usize) -> bool {
        self.lock().servers[worker].is_some()
    }

    /// Other workers serve the sockets of one that has ended, or has closed its server.
    pub(super) fn reassign(self: &Arc<Self>, former: usize) {
        if !matches!(self.how, How::Each) {
            return;
        }
        let mut failed = Vec::new();
        let mut state = self.lock();
        let State { kept, servers, .. } = &mut *state;
        for at in (0..kept.len()).rev() {
            if kept[at].owner != former {
                continue;
            }
            let sockets = |worker: usize| kept.iter().filter(|kept| kept.owner == worker).count();
            let able = servers.iter().enumerate().filter_map(|(worker, server)| Some((worker, server.clone()?)));
            let Some((worker, (handle, server))) = able.min_by_key(|&(worker, _)| sockets(worker)) else {
                failed.push((format!("no worker is left that serves {}", kept[at].address()), kept.swap_remove(at)));
                continue;
            };
            kept[at].share(); // The former worker may still drain, and receive datagrams.
            match kept[at].bound() {
                Ok(bound) => {
                    kept[at].owner = worker;
                    let (this, id) = (Arc::clone(self), Arc::clone(&kept[at].id));
                    handle.run_next(move |reactor| {
                        // If its server was closed meanwhile, it leaves the socket to others in turn.
                        if reactor.is_open(server)
                            && let Some(server) = reactor.core.open_server(server)
                            && let Err(error) = reactor.open_another(server, bound)
                        {
                            this.lock().kept.retain(|kept| !Arc::ptr_eq(&kept.id, &id));
                            note!(Error, "it cannot take over a socket: {error:#}");
                        }
                    });
                }
                Err(error) => {
                    let why = format!("worker {worker} cannot take over {}: {error:#}", kept[at].address());
                    failed.push((why, kept.swap_remove(at)));
                }
            }
        }
        drop(state); // A logger may ask the workers for something.
        for (why, kept) in failed {
            drop(kept); // Clients are refused, and do not wait forever.
            note!(Error, "{why}");
        }
    }

    /// Closes the sockets that are kept.
    pub(super) fn close(&self) {
        drop(self.take_kept());
    }

    /// All workers stop. When they have closed their listeners, none is open. A datagram socket that they read together is
    /// kept, because its file must stay until they have ended.
    pub(super) fn let_go(&self) {
        if let How::Each = self.how {
            self.close();
        }
    }

    /// The sockets that have names, for the next version of the program.
    #[cfg(all(unix, feature = "restart"))]
    pub(super) fn passed(&self) -> std::io::Result<Vec<Passed>> {
        let state = self.lock();
        let named = |kept: &&Kept| self.named.iter().find(|named| named.address == kept.site.address).cloned();
        let passed = state.kept.iter().filter_map(|kept| Some((kept, named(&kept)?)));
        passed.map(|(kept, named)| kept.passed(named)).collect()
    }

    /// Tells the reactors of the workers which sockets the next version of the program has.
    #[cfg(all(unix, feature = "restart"))]
    pub(super) fn tell_names(&self) {
        for (handle, server) in self.lock().servers.iter().flatten().cloned() {
            let named = self.named.clone();
            handle.run_next(move |reactor| reactor.core.name_sockets(server, &named));
        }
    }

    /// The files of these sockets belong to the next version of the program.
    #[cfg(all(unix, feature = "restart"))]
    pub(super) fn hand_over(&self) {
        self.lock().kept.iter_mut().for_each(|kept| kept.socket.leave_file());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
