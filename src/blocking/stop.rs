//! Ends a request that is served elsewhere, from the reactor's thread and at any time.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use crate::reactor::entries::{Ended, Stopper};

/// A wait of a thread, which another thread can end. Must not block.
pub(super) trait End: Send + Sync {
    fn end(&self);
    /// The server is stopping, so the wait should end soon.
    fn drain(&self) {}
    /// Since when it has only waited for a message of its client, on the reactor's clock. `None`: it is busy, or this
    /// is unknown.
    fn quiet_since(&self) -> Option<u64> {
        None
    }
}

/// The [`Stopper`] of a request. Cheap to clone.
///
/// It keeps nothing alive. The socket is closed when the request is over, although the reactor still has its `Stop`.
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
    /// Makes the `Stop` of a request whose thread waits for this.
    pub(super) fn new(target: &Arc<dyn End>) -> Self {
        let state = Mutex::new(State { ended: None, target: Arc::downgrade(target) });
        Stop { shared: Arc::new(Shared { state, changed: Condvar::new() }) }
    }

    /// Why the request was ended, if it was.
    pub(super) fn ended(&self) -> Option<Ended> {
        self.lock().ended
    }

    /// Records that the thread now waits for something else. If the request was ended in between, that wait ends
    /// immediately.
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

    /// Waits until `ready` returns something, which [`wake`](Self::wake) announces. `None`: the request was ended.
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

    /// Waits for this long, unless the request is ended before. Returns whether it was ended.
    #[cfg(all(unix, feature = "children"))]
    pub(super) fn ended_within(&self, time: std::time::Duration) -> bool {
        let waiting = self.shared.changed.wait_timeout_while(self.lock(), time, |state| state.ended.is_none());
        waiting.unwrap_or_else(PoisonError::into_inner).0.ended.is_some()
    }

    /// Announces a change that [`wait`](Self::wait) waits for.
    pub(super) fn wake(&self) {
        // A thread that is about to wait has checked already, but holds the lock until it waits.
        drop(self.lock());
        self.shared.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stopper for Stop {
    /// A waiting read or write returns, and a program is killed.
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
