//! Ending a request that is served elsewhere, from the reactor's thread and at any time.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use crate::reactor::entries::{Ended, Stopper};

/// What a thread may be waiting for: it can be ended by another. Must not block.
pub(super) trait End: Send + Sync {
    fn end(&self);
    /// The server is stopping: what it waits for should come to its end soon.
    fn drain(&self) {}
    /// Since when it has only waited for a message of its client, on the reactor's clock. `None`: it is at something, or
    /// that is not known.
    fn quiet_since(&self) -> Option<u64> {
        None
    }
}

/// The [`Stopper`] of a request. Cheap to clone.
///
/// It keeps nothing alive: the socket is closed when the request is over, although the reactor still has its `Stop`.
#[derive(Clone)]
pub(crate) struct Stop {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    ended: Option<Ended>,
    target: Weak<dyn End>,
}

impl Stop {
    /// What ends a request whose thread waits for this.
    pub(super) fn new(target: &Arc<dyn End>) -> Self {
        let state = Mutex::new(State { ended: None, target: Arc::downgrade(target) });
        Stop { shared: Arc::new(Shared { state, changed: Condvar::new() }) }
    }

    /// Why the request was ended, if it was.
    pub(super) fn ended(&self) -> Option<Ended> {
        self.lock().ended
    }

    /// From now on the thread waits for something else. If the request was ended meanwhile, that is ended at once.
    #[cfg(all(unix, feature = "children"))]
    pub(super) fn aim(&self, target: &Arc<dyn End>) {
        let ended = {
            let mut state = self.lock();
            state.target = Arc::downgrade(target);
            state.ended.is_some()
        };
        if ended {
            target.end();
        }
    }

    /// Waits until `ready` has something, which [`wake`](Self::wake) announces, or the request was ended: `None`.
    pub(super) fn wait<T>(&self, mut ready: impl FnMut() -> Option<T>) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(value) = ready() {
                return Some(value);
            }
            if state.ended.is_some() {
                return None;
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for so long, unless the request is ended before. Returns whether it is.
    #[cfg(all(unix, feature = "children"))]
    pub(super) fn ended_within(&self, time: std::time::Duration) -> bool {
        let waiting = self.shared.changed.wait_timeout_while(self.lock(), time, |state| state.ended.is_none());
        waiting.unwrap_or_else(PoisonError::into_inner).0.ended.is_some()
    }

    /// Something changed that [`wait`](Self::wait) waits for.
    pub(super) fn wake(&self) {
        // A thread that is about to wait has looked already but holds the lock until it waits.
        drop(self.lock());
        self.shared.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stopper for Stop {
    /// A read or write that waits returns, a program is killed.
    fn end(&self, why: Ended) {
        let target = {
            let mut state = self.lock();
            state.ended.get_or_insert(why);
            state.target.upgrade()
        };
        self.shared.changed.notify_all();
        if let Some(target) = target {
            target.end();
        }
    }

    fn drain(&self) {
        let target = self.lock().target.upgrade();
        if let Some(target) = target {
            target.drain();
        }
    }

    fn quiet_since(&self) -> Option<u64> {
        let target = self.lock().target.upgrade();
        target?.quiet_since()
    }
}
