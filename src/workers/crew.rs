//! What all workers, the control thread and the handles share.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

use super::handing::Handing;
use super::sharing::{How, Key, Sharing};
use crate::error::Error;
use crate::limits::WorkersConfig;
use crate::limits::descriptors::Descriptors;
use crate::logging::note;
#[cfg(all(unix, feature = "restart"))]
use crate::reactor::Reactor;
use crate::reactor::core::Core;
use crate::reactor::handle::{Handle, ShutdownHandle};
#[cfg(all(unix, feature = "restart"))]
use crate::reactor::served::LastFailure;
use crate::reactor::shutdown::stop::Hold;
use crate::stats::Stats;

pub(crate) struct Crew {
    pub(super) config: WorkersConfig,
    /// Of the control reactor.
    pub(super) control: Handle,
    pub(super) count: usize,
    pub(super) descriptors: Arc<Descriptors>,
    pub(super) handing: Arc<Handing>,
    #[cfg(all(unix, feature = "restart"))]
    pub(super) failed_restart: LastFailure,
    sharings: Mutex<Vec<Arc<Sharing>>>,
    state: Mutex<State>,
    /// A stop was requested.
    stopping: Condvar,
}

struct State {
    members: Vec<Member>,
    is_stopping: bool,
    /// A successor serves.
    #[cfg(all(unix, feature = "restart"))]
    is_replaced: bool,
    restarts_failed: u64,
    /// The number of reactors that have ended.
    ended: u64,
    /// The first error with which a worker has ended.
    failure: Option<Error>,
}

#[derive(Default)]
struct Member {
    /// While a reactor serves.
    handle: Option<Handle>,
    /// Of its last reactor, which may still wait for its threads.
    stop: Option<ShutdownHandle>,
    thread: Option<ThreadId>,
    /// The counters of its former reactors.
    past: Stats,
    /// It has nothing left to drain, except servers that serve while others drain.
    has_drained: bool,
    has_left: bool,
}

impl Member {
    /// A reactor is made.
    fn begin(&mut self, handle: Handle) {
        self.stop = Some(handle.shutdown_handle());
        self.handle = Some(handle);
    }
}

impl Crew {
    pub(super) fn new(count: usize, config: WorkersConfig, control: Handle) -> Self {
        let members = (0..count).map(|_| Member::default()).collect();
        let state = State {
            members,
            is_stopping: false,
            #[cfg(all(unix, feature = "restart"))]
            is_replaced: false,
            restarts_failed: 0,
            ended: 0,
            failure: None,
        };
        Crew {
            config,
            handing: Handing::new(&control, count),
            control,
            count,
            descriptors: Descriptors::of(count),
            #[cfg(all(unix, feature = "restart"))]
            failed_restart: LastFailure::default(),
            sharings: Mutex::default(),
            state: Mutex::new(state),
            stopping: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sharings(&self) -> MutexGuard<'_, Vec<Arc<Sharing>>> {
        self.sharings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sharing(&self, key: &Key) -> Option<Arc<Sharing>> {
        self.sharings().iter().find(|sharing| sharing.key == *key).cloned()
    }

    /// The place of a worker, whose reactor is made.
    pub(super) fn place(self: &Arc<Self>, number: usize, handle: Handle) -> Place {
        self.lock().members[number].begin(handle);
        Place { crew: Arc::clone(self), number }
    }

    /// The handles of the reactors that serve.
    pub(super) fn handles(&self) -> Vec<Handle> {
        self.lock().members.iter().filter_map(|member| member.handle.clone()).collect()
    }

    /// A connection of one has closed: those that have paused accepting try again. The acceptors are in the control reactor.
    pub(super) fn resume_accepting(&self) {
        for handle in self.handles().iter().chain([&self.control]) {
            handle.run_next(|reactor| reactor.core.resume_accepting());
        }
    }

    /// The counters of all former reactors, and what no reactor of a worker counts. Also the number of the former reactors.
    pub(super) fn past(&self) -> (Stats, u64) {
        let state = self.lock();
        let own = Stats { restarts_failed: state.restarts_failed, ..Stats::default() };
        (state.members.iter().map(|member| member.past.clone()).sum::<Stats>() + own, state.ended)
    }

    /// Returns whether the calling thread is one of the crew.
    pub(super) fn is_this_thread(&self) -> bool {
        let own = std::thread::current().id();
        self.lock().members.iter().any(|member| member.thread == Some(own))
    }

    /// Stops all workers. A worker that is not ready yet ends too.
    pub(super) fn stop(&self) {
        if !std::mem::replace(&mut self.lock().is_stopping, true) {
            self.let_go();
            self.stopping.notify_all();
        }
        #[cfg(all(unix, feature = "restart"))]
        if self.lock().is_replaced {
            return self.leave();
        }
        self.handles().iter().for_each(|handle| handle.shutdown_handle().shutdown());
    }

    /// Closes the sockets of which each worker has a duplicate.
    fn let_go(&self) {
        self.sharings().iter().for_each(|sharing| sharing.let_go());
    }

    /// A successor serves: the next stop leaves the sockets with names to it.
    #[cfg(all(unix, feature = "restart"))]
    pub(super) fn set_replaced(&self) {
        self.lock().is_replaced = true;
    }

    #[cfg(all(unix, feature = "restart"))]
    pub(super) fn note_failed_restart(&self) {
        self.lock().restarts_failed += 1;
    }

    /// Stops the workers because a successor serves. Each must know that before it stops.
    #[cfg(all(unix, feature = "restart"))]
    fn leave(&self) {
        self.sharings().iter().for_each(|sharing| sharing.tell_names());
        self.handles().iter().for_each(|handle| handle.run_next(Reactor::leave));
    }

    /// Ends all workers.
    pub(super) fn stop_now(&self) {
        self.stop();
        let stops: Vec<_> = self.lock().members.iter().filter_map(|member| member.stop.clone()).collect();
        stops.iter().for_each(ShutdownHandle::shutdown_now);
    }

    /// Closes the sockets of a server that no worker has any more.
    pub(super) fn close(&self, sharing: &Arc<Sharing>) {
        self.sharings().retain(|other| !Arc::ptr_eq(other, sharing));
        sharing.close();
        if let How::Handed(acceptor) = &sharing.how {
            acceptor.get().into_iter().for_each(|acceptor| self.handing.close_acceptor(*acceptor));
        }
    }

    /// Closes the sockets of all workers, which have ended, and the clients that none has taken. There may still be
    /// handles.
    fn end(&self) {
        self.lock().is_stopping = true;
        self.sharings().iter().for_each(|sharing| sharing.close());
        self.handing.end();
    }

    /// The acceptors have handed out all clients: the drains of the workers may end.
    pub(super) fn release(&self, core: &mut Core) {
        self.handing.close(core);
        for handle in self.handles() {
            handle.run_next(|reactor| {
                if reactor.core.hold == Hold::Clients {
                    reactor.core.hold = Hold::Others;
                }
            });
        }
    }

    /// A worker has drained, except servers that serve while others drain. They end when all workers are as far.
    pub(super) fn note_drained(&self, number: usize) {
        let before = std::mem::replace(&mut self.lock().members[number].has_drained, true);
        if !before {
            self.end_last();
        }
    }

    /// Ends the servers that serve while others drain, if no worker drains any more.
    fn end_last(&self) {
        if self.lock().members.iter().all(|member| member.has_drained || member.has_left || member.handle.is_none()) {
            self.handles().iter().for_each(|handle| handle.run_next(|reactor| reactor.core.hold = Hold::Nothing));
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.lock().is_stopping
    }

    /// Returns whether all workers have ended.
    pub(super) fn is_over(&self) -> bool {
        self.lock().members.iter().all(|member| member.has_left)
    }

    /// The workers that have not ended, except those that only wait for others.
    pub(super) fn awaited(&self) -> Vec<usize> {
        let members = &self.lock().members;
        (0..self.count).filter(|&number| !members[number].has_left && !members[number].has_drained).collect()
    }

    pub(super) fn note_failure(&self, error: Error) {
        self.lock().failure.get_or_insert(error);
    }

    pub(super) fn take_failure(&self) -> Option<Error> {
        self.lock().failure.take()
    }
}

/// The [`Workers`](crate::Workers) own the crew. When they are dropped or have ended, its sockets are closed.
pub(super) struct Owned(pub(super) Arc<Crew>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The place of one worker among the others. Dropping it means that the worker has ended for good.
pub(super) struct Place {
    pub(super) crew: Arc<Crew>,
    pub(super) number: usize,
}

impl Place {
    /// This thread is that of the worker.
    pub(super) fn begin(&self) {
        self.crew.lock().members[self.number].thread = Some(std::thread::current().id());
    }

    /// A new reactor has taken the place. Returns false if all stop.
    pub(super) fn fill(&self, handle: Handle) -> bool {
        let mut state = self.crew.lock();
        state.members[self.number].begin(handle);
        !state.is_stopping
    }

    /// The reactor has ended.
    pub(super) fn vacate(&self, stats: Stats) {
        self.crew.handing.forget(self.number);
        for sharing in self.crew.sharings().iter() {
            sharing.lose(self.number);
        }
        let mut state = self.crew.lock();
        state.ended += 1;
        let member = &mut state.members[self.number];
        member.handle = None;
        member.past += stats.of_the_past();
        drop(state);
        self.crew.end_last(); // The others may have waited for it.
    }

    /// An attempt to fill the place is over. Closes the sockets that no worker needs: clients are refused, and do not wait
    /// forever.
    pub(super) fn settle(&self, was_made: bool) {
        let sharings = self.crew.sharings().clone();
        let unneeded = sharings.iter().filter(|sharing| !sharing.is_needed_after(self.number, was_made));
        unneeded.for_each(|sharing| self.crew.close(sharing));
    }

    /// Lets the others serve the sockets of servers that they have and this one has not. While they drain, they accept
    /// nobody.
    pub(super) fn lend(&self) {
        if !self.crew.is_stopping() {
            let sharings = self.crew.sharings().clone();
            let lent = sharings.iter().filter(|it| it.is_served() && !it.is_served_by(self.number));
            lent.for_each(|sharing| sharing.reassign(self.number));
        }
    }

    /// Lets the others serve the sockets. Those that none serves are closed: clients are refused, and do not wait forever.
    pub(super) fn give_away(&self) {
        let sharings = self.crew.sharings().clone();
        for sharing in sharings.iter().filter(|_| !self.crew.is_stopping()) {
            sharing.give_up(self.number);
            if sharing.is_served() {
                sharing.reassign(self.number);
            } else {
                sharing.addresses.iter().for_each(|address| note!(Error, "no worker is left that serves {address}"));
                self.crew.close(sharing);
            }
        }
    }

    /// Waits before the next reactor is made. Returns false if all stop.
    pub(super) fn pause(&self, pause: Duration) -> bool {
        let state = self.crew.lock();
        let waited = self.crew.stopping.wait_timeout_while(state, pause, |state| !state.is_stopping);
        !waited.unwrap_or_else(PoisonError::into_inner).0.is_stopping
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crew.lock().members[self.number].has_left = true;
        if self.crew.is_stopping() {
            self.crew.let_go(); // A worker that was being made when the stop came has bound sockets since.
        }
        self.crew.end_last();
        if self.crew.is_over() {
            if !self.crew.is_stopping() {
                let state = self.crew.lock();
                let why =
                    state.failure.as_ref().map_or(String::new(), |error| format!("; the first failure: {error:#}"));
                drop(state); // A logger may ask the workers for something.
                note!(Error, "no worker is left{why}");
                self.crew.control.shutdown_handle().shutdown_now();
            }
            self.crew.control.run_next(|reactor| reactor.core.hold = Hold::Nothing);
        }
    }
}
