//! The acceptors: they hand each connection to the worker with the fewest.
//!
//! Each is a server in the control reactor whose hook `process_request` lets another reactor serve the connection. A
//! worker reports after each turn how many connections it has and how many more it takes. While no worker takes more from
//! an acceptor, the quota of that acceptor is 0, so its clients wait in the backlog.
//!
//! All acceptors share one account of each worker. So an acceptor knows what the others have handed out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::loads::{Load, Report};
use crate::address::Address;
use crate::blocking::ServeOn;
use crate::blocking::{job::send_nowhere, serve_on::HandOver};
use crate::error::{Result, reason};
use crate::ids::ServerId;
use crate::logging::note_fault;
use crate::net::family::{Bound, Tcp};
use crate::net::{ExpectedHeader, Stream};
use crate::reactor::handle::Handle;
use crate::reactor::{Reactor, core::Core};
use crate::server::Server;
use crate::server::hooks::{BaseServer, Incoming};
use crate::server::threading::NoHandler;

/// All acceptors, and the connections on their way to the workers.
pub(super) struct Handing {
    control: Handle,
    state: Mutex<State>,
}

struct State {
    workers: Vec<Load>,
    acceptors: Vec<Acceptor>,
    /// The number of connections that were accepted.
    accepted: u64,
    /// The control reactor was told to distribute connections.
    is_awaited: bool,
    /// The workers drain. Only servers that serve meanwhile get further connections.
    is_closed: bool,
}

/// An acceptor, for the sockets of one call of the closure.
struct Acceptor {
    /// In the control reactor, once it accepts.
    id: Option<ServerId>,
    /// The server of each worker.
    servers: Vec<Option<ServerId>>,
    /// What the worker reads first.
    header: ExpectedHeader,
    /// Connections that no worker has taken: the worker has ended before, or a limit was lowered.
    waiting: VecDeque<Client>,
    /// No worker takes more.
    is_full: bool,
    /// The number of connections that all had accepted when it accepted its last one.
    accepted: u64,
}

type Client = (Stream, Address);

impl State {
    /// The worker with the fewest connections of those that take one from this acceptor, and its server.
    fn next(&self, acceptor: usize) -> Option<(usize, ServerId)> {
        let ends = self.ends(acceptor);
        let servers = self.acceptors[acceptor].servers.iter().enumerate();
        let able = servers.filter_map(|(worker, server)| Some((worker, (*server)?))).filter(|&(worker, server)| {
            let load = &self.workers[worker];
            if ends { load.has(server) } else { load.takes_more(server) }
        });
        able.min_by_key(|&(worker, _)| self.workers[worker].connections())
    }

    /// Returns whether a server of this acceptor serves while others drain.
    fn lasts(&self, acceptor: usize) -> bool {
        let mut servers = self.acceptors[acceptor].servers.iter().zip(&self.workers);
        servers.any(|(server, load)| server.is_some_and(|server| load.lasts(server)))
    }

    /// Returns whether this acceptor accepts nothing any more. What it has accepted is then served, whatever the limits
    /// are, because it cannot go back to the backlog.
    fn ends(&self, acceptor: usize) -> bool {
        self.is_closed && !self.lasts(acceptor)
    }

    /// Lets those acceptors accept whose clients a worker takes.
    fn set_quotas(&mut self, core: &mut Core) {
        let changes = |&number: &usize| {
            let acceptor = &self.acceptors[number];
            acceptor.id.is_some() && acceptor.is_full != self.next(number).is_none()
        };
        let mut changed: Vec<_> = (0..self.acceptors.len()).filter(changes).collect();
        // The first may take all the room, so it is the one that has accepted nothing for the longest time.
        changed.sort_by_key(|&number| self.acceptors[number].accepted);
        for number in changed {
            let acceptor = &mut self.acceptors[number];
            acceptor.is_full = !acceptor.is_full;
            if let Some(server) = acceptor.id.and_then(|id| core.open_server(id)) {
                core.set_quota(server, if acceptor.is_full { 0 } else { usize::MAX });
            }
        }
    }

    /// Returns whether connections can be handed out, or accepted, that could not be before.
    fn has_news(&self) -> bool {
        self.acceptors.iter().enumerate().any(|(number, acceptor)| {
            let waits = !acceptor.waiting.is_empty();
            (waits || acceptor.is_full) && self.next(number).is_some() || waits && self.ends(number)
        })
    }
}

impl Handing {
    pub(super) fn new(control: &Handle, workers: usize) -> Arc<Self> {
        let workers = (0..workers).map(|_| Load::default()).collect();
        let state = State { workers, acceptors: Vec::new(), accepted: 0, is_awaited: false, is_closed: false };
        Arc::new(Handing { control: control.clone(), state: Mutex::new(state) })
    }

    /// No worker has a server for these connections any more.
    pub(super) fn close_acceptor(self: &Arc<Self>, number: usize) {
        let this = Arc::clone(self);
        // In the control reactor, which may not have begun to accept yet.
        self.control.run_next(move |reactor| {
            let mut state = this.lock();
            let acceptor = &mut state.acceptors[number];
            let (id, waiting) = (acceptor.id.take(), std::mem::take(&mut acceptor.waiting));
            drop((state, waiting));
            id.into_iter().for_each(|id| reactor.drain_server(id));
        });
    }

    /// All workers have ended. Closes the connections that none has taken.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        let waiting: Vec<_> =
            state.acceptors.iter_mut().map(|acceptor| std::mem::take(&mut acceptor.waiting)).collect();
        drop((state, waiting));
    }

    /// Makes an acceptor. Returns its number.
    pub(super) fn add_acceptor(&self, header: ExpectedHeader) -> usize {
        let mut state = self.lock();
        let servers = vec![None; state.workers.len()];
        let waiting = VecDeque::new();
        state.acceptors.push(Acceptor { id: None, servers, header, waiting, is_full: false, accepted: 0 });
        state.acceptors.len() - 1
    }

    /// Accepts the clients of these listeners, in the control reactor.
    pub(super) fn accept(
        self: &Arc<Self>,
        number: usize,
        reactor: &mut Reactor,
        listeners: Vec<Bound>,
    ) -> Result<ServerId> {
        let value = Accepting { handing: Arc::clone(self), number };
        let id = reactor.add_unbound(Server::<Tcp, _, _>::unbound_with_server(value, |_, _| NoHandler))?;
        self.lock().acceptors[number].id = Some(id);
        reactor.open(id, listeners)?;
        self.lock().set_quotas(&mut reactor.core);
        Ok(id)
    }

    /// A worker has this server for the connections of an acceptor.
    pub(super) fn set_server(&self, acceptor: usize, worker: usize, handle: Handle, server: ServerId) {
        let mut state = self.lock();
        state.workers[worker].add(handle, server);
        state.acceptors[acceptor].servers[worker] = Some(server);
    }

    /// A worker has ended.
    pub(super) fn forget(&self, worker: usize) {
        let mut state = self.lock();
        state.workers[worker] = Load::default();
        state.acceptors.iter_mut().for_each(|acceptor| acceptor.servers[worker] = None);
    }

    /// The workers are about to drain: clients are accepted meanwhile for a server that serves until the others have
    /// drained.
    pub(super) fn prepare_drain(&self, core: &mut Core) {
        let state = self.lock();
        for (number, acceptor) in state.acceptors.iter().enumerate() {
            if let Some(server) = acceptor.id.and_then(|id| core.open_server(id)) {
                let limits = &mut core.served[usize::from(server)].limits;
                Arc::make_mut(limits).serve_while_draining = state.lasts(number);
            }
        }
    }

    /// A worker reports its numbers.
    pub(super) fn report(self: &Arc<Self>, worker: usize, server: ServerId, reactor: &mut Reactor) {
        let report = Report::of(reactor, server);
        let mut state = self.lock();
        state.workers[worker].update(server, report);
        self.distribute_soon(state);
    }

    /// The workers drain. What was accepted is handed out before they end.
    pub(super) fn close(self: &Arc<Self>, core: &mut Core) {
        self.lock().is_closed = true;
        self.distribute(core);
    }

    /// Lets the control reactor distribute connections, if that changes something.
    fn distribute_soon(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if !state.is_awaited && state.has_news() {
            state.is_awaited = true;
            drop(state);
            let this = Arc::clone(self);
            self.control.run_next(move |reactor| this.distribute(&mut reactor.core));
        }
    }

    /// Hands out what waits, and lets those acceptors accept whose clients a worker takes.
    fn distribute(self: &Arc<Self>, core: &mut Core) {
        let mut state = self.lock();
        state.is_awaited = false;
        let acceptors = state.acceptors.len();
        drop(state);
        for number in 0..acceptors {
            while self.hand_out_one(number) {}
        }
        self.lock().set_quotas(core);
    }

    /// Hands out a connection that waits. Returns false if none waits, or no worker takes it.
    fn hand_out_one(self: &Arc<Self>, number: usize) -> bool {
        let mut state = self.lock();
        let Some(client) = state.acceptors[number].waiting.pop_front() else { return false };
        let next = state.next(number);
        if next.is_none() && !state.ends(number) {
            state.acceptors[number].waiting.push_front(client);
            return false;
        }
        let header = state.acceptors[number].header.clone();
        let Some((worker, server)) = next else { return true }; // No worker is left.
        let handle = state.workers[worker].begin(server).expect("it takes connections");
        drop(state);
        let delivery =
            Delivery { handing: Arc::clone(self), acceptor: number, worker, server, header, client: Some(client) };
        if handle.submit(move |reactor| delivery.arrive(reactor), false).is_err() {
            self.lock().workers[worker].remove(server); // Its reactor is gone.
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in the mailbox of a worker. If the worker does not take it, because it ends or is full, another gets it.
struct Delivery {
    handing: Arc<Handing>,
    acceptor: usize,
    worker: usize,
    server: ServerId,
    header: ExpectedHeader,
    client: Option<Client>,
}

impl Delivery {
    fn arrive(mut self, reactor: &mut Reactor) {
        let report = Report::of(reactor, self.server);
        let has_room = report.as_ref().is_some_and(Report::has_room);
        let mut state = self.handing.lock();
        state.workers[self.worker].update(self.server, report);
        let takes = state.workers[self.worker].has(self.server) && (has_room || state.ends(self.acceptor));
        drop(state);
        if !takes {
            return;
        }
        let Some((stream, from)) = self.client.take() else { return };
        let client = from.clone();
        if let Err(error) = reactor.admit_any(self.server, stream, from, &self.header) {
            reactor.core.stats.accept_errors += 1;
            note_fault!(Warn, "{client} is not served: {}", reason(&error));
        }
        let report = Report::of(reactor, self.server);
        let mut state = self.handing.lock();
        state.workers[self.worker].end(self.server);
        state.workers[self.worker].update(self.server, report);
        self.handing.distribute_soon(state);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            let mut state = self.handing.lock();
            state.workers[self.worker].end(self.server);
            // Without an id, nothing is accepted for these servers any more.
            if state.acceptors[self.acceptor].id.is_some() {
                state.acceptors[self.acceptor].waiting.push_front(client);
            }
            self.handing.distribute_soon(state);
        }
    }
}

/// The acceptor's value.
struct Accepting {
    handing: Arc<Handing>,
    number: usize,
}

impl BaseServer for Accepting {
    fn process_request(&mut self, _: &Incoming<'_>, _: &Address) -> ServeOn<Self> {
        let (handing, number) = (Arc::clone(&self.handing), self.number);
        let pass = Box::new(move |core: &mut Core, _, stream, from| {
            let mut state = handing.lock();
            state.accepted += 1;
            let accepted = state.accepted;
            let acceptor = &mut state.acceptors[number];
            if acceptor.id.is_none() {
                return; // No worker has a server for it any more, so nothing would end its wait.
            }
            acceptor.accepted = accepted;
            acceptor.waiting.push_back((stream, from));
            drop(state);
            handing.distribute(core);
        });
        ServeOn::Worker(HandOver(pass, send_nowhere))
    }
}
