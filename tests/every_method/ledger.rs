//! What a round did, and whether the crate kept its promises.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;
use socketserver::{Address, ConnectionId, Error, Origin, ServerId};

/// What everything of one round shares.
#[derive(Default)]
pub(crate) struct Ledger {
    violations: Mutex<Vec<String>>,
    /// Panics that handlers and hooks meant.
    pub(crate) panics: AtomicU64,
    /// Calls of the hook `close_request`.
    pub(crate) closed: AtomicU64,
    /// Of these, requests that were never served.
    pub(crate) refused: AtomicU64,
    /// Connections that were seen, including those that are gone.
    seen: Mutex<Vec<ConnectionId>>,
    /// Requests that wait for an answer, which may be over.
    waiting: Mutex<Vec<Origin>>,
    servers: Mutex<Vec<ServerId>>,
    /// Connections that nothing may harm.
    polite: Mutex<BTreeSet<ConnectionId>>,
    /// Where outbound connections go.
    targets: Mutex<Vec<Address>>,
}

impl Ledger {
    pub(crate) fn violation(&self, what: impl Into<String>) {
        lock(&self.violations).push(what.into());
    }

    /// A promise that the documentation makes.
    pub(crate) fn expect(&self, holds: bool, promise: &str) {
        if !holds {
            self.violation(promise);
        }
    }

    /// The first promise that was broken.
    pub(crate) fn broken(&self) -> Option<String> {
        lock(&self.violations).first().cloned()
    }

    /// Returns the value; an error has to be one of those that the documentation names.
    pub(crate) fn only<T>(&self, call: &str, result: Result<T, Error>, documented: fn(&Error) -> bool) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                if !documented(&error) {
                    self.violation(format!("{call} fails with {error:?}"));
                }
                None
            }
        }
    }

    pub(crate) fn panic(&self) -> ! {
        self.panics.fetch_add(1, Ordering::SeqCst);
        // Without the hook, which is for panics that nobody meant.
        std::panic::resume_unwind(Box::new("scripted"))
    }

    pub(crate) fn saw(&self, id: ConnectionId) {
        lock(&self.seen).push(id);
    }

    pub(crate) fn protect(&self, id: ConnectionId) {
        lock(&self.polite).insert(id);
    }

    /// A connection that may be harmed: a recent one, or one that is long gone.
    pub(crate) fn victim(&self, rng: &mut Rng) -> Option<ConnectionId> {
        let seen = lock(&self.seen);
        let oldest = if rng.bool() { 0 } else { seen.len().saturating_sub(10) };
        let id = (oldest < seen.len()).then(|| seen[rng.usize(oldest..seen.len())])?;
        (!lock(&self.polite).contains(&id)).then_some(id)
    }

    /// One waits, and another is answered.
    pub(crate) fn exchange(&self, waits: Origin, rng: &mut Rng) -> Option<Origin> {
        let mut waiting = lock(&self.waiting);
        waiting.push(waits);
        let at = rng.usize(..waiting.len());
        (waiting.len() > 1).then(|| waiting.swap_remove(at))
    }

    pub(crate) fn add_server(&self, id: ServerId) {
        lock(&self.servers).push(id);
    }

    /// Some server, perhaps a closed one.
    pub(crate) fn server(&self, rng: &mut Rng) -> Option<ServerId> {
        rng.choice(lock(&self.servers).iter().copied())
    }

    pub(crate) fn add_target(&self, address: Address) {
        lock(&self.targets).push(address);
    }

    pub(crate) fn target(&self, rng: &mut Rng) -> Option<Address> {
        rng.choice(lock(&self.targets).iter().cloned())
    }
}

/// What the handlers of one connection share: they replace each other, and one of them is told of the end.
pub(crate) struct Life {
    ledger: Arc<Ledger>,
    owes_finish: AtomicBool,
}

impl Life {
    pub(crate) fn new(ledger: &Arc<Ledger>) -> Arc<Self> {
        Arc::new(Life { ledger: Arc::clone(ledger), owes_finish: AtomicBool::new(false) })
    }

    pub(crate) fn set_up(&self) {
        self.owes_finish.store(true, Ordering::SeqCst);
    }

    /// After a `setup` that fails, `finish` is called on neither handler.
    pub(crate) fn setup_fails(&self) {
        self.owes_finish.store(false, Ordering::SeqCst);
    }

    pub(crate) fn finished(&self) {
        if !self.owes_finish.swap(false, Ordering::SeqCst) {
            self.ledger.violation("finish is called without a setup, or twice");
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.ledger.expect(!*self.owes_finish.get_mut(), "finish is missing");
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
