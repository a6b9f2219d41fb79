//! State that all scripted sockets of a reactor share: the time, the ready sockets, and the closure that decides how
//! calls end.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use mio::Token;

use super::call::{Call, Outcome};
use crate::address::Address;
use crate::net::readiness::Readiness;
use crate::reactor::handle::Handle;

/// Shared by the sockets, the selector and the test.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) state: Mutex<State>,
    /// Notified when the loop is woken.
    pub(crate) woken: Condvar,
    /// Separate from the state, so that it may use the sockets like a test.
    on_call: Mutex<Option<OnCall>>,
    /// The reactor's mailbox, if it is an error to sleep while something is submitted.
    pub(crate) handle: OnceLock<Handle>,
}

pub(crate) type OnCall = Box<dyn FnMut(Call, Option<&Address>) -> Outcome + Send>;

#[derive(Default)]
pub(crate) struct State {
    now: u64,
    pub(crate) ready: Vec<(Token, Readiness)>,
    pub(crate) woken: bool,
    /// The last poll found nothing and would have slept.
    pub(crate) slept: bool,
}

impl World {
    pub(crate) fn new() -> Arc<Self> {
        let world = World::default();
        lock(&world.state).now = 1;
        Arc::new(world)
    }

    pub(crate) fn now(&self) -> u64 {
        lock(&self.state).now
    }

    pub(crate) fn advance(&self, time: Duration) {
        let mut state = lock(&self.state);
        state.now = state.now.saturating_add(crate::timers::nanos(time));
    }

    pub(crate) fn set_on_call(&self, on_call: Option<OnCall>) {
        // Dropping it may run any code, which must not find this locked.
        let _before = std::mem::replace(&mut *lock(&self.on_call), on_call);
    }

    /// From now on it is an error to sleep while something submitted waits.
    pub(crate) fn watch(&self, handle: Handle) {
        self.handle.get_or_init(|| handle);
    }

    /// Asks how a call ends. Nothing that the closure could use may be locked.
    pub(crate) fn call(&self, call: Call, whose: Option<&Address>) -> Outcome {
        match lock(&self.on_call).as_mut().map_or(Outcome::Proceed, |on_call| on_call(call, whose)) {
            Outcome::Fail(error) if error.kind() == io::ErrorKind::WouldBlock => Outcome::WouldBlock,
            Outcome::Fail(error) if error.kind() == io::ErrorKind::Interrupted => Outcome::Interrupted,
            outcome => outcome,
        }
    }

    pub(crate) fn event(&self, token: Token, readiness: u8) {
        lock(&self.state).ready.push((token, Readiness(readiness)));
    }

    /// Returns whether the next poll has events.
    pub(crate) fn is_ready(&self) -> bool {
        let state = lock(&self.state);
        !state.ready.is_empty() || state.woken
    }

    pub(crate) fn has_slept(&self) -> bool {
        lock(&self.state).slept
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("now", &self.now()).finish_non_exhaustive()
    }
}

/// The addresses of scripted connections are from the ranges for documentation (RFC 5737) and for benchmarks (RFC
/// 2544).
pub(crate) fn server_address(server: u16) -> Address {
    SocketAddr::from(([192, 0, 2, 1], 9999 + server)).into()
}

/// The client of a [`Client`](super::Client).
pub(crate) fn client_address() -> Address {
    SocketAddr::from(([192, 0, 2, 2], 50_000)).into()
}

/// The n-th client of a [`Network`](super::Network): all are different.
pub(crate) fn numbered_address(n: u32) -> Address {
    let (host, port) = (n >> 15, 0x8000 | (n & 0x7fff) as u16);
    SocketAddr::from(([198, 18 | (host >> 16) as u8, (host >> 8) as u8, host as u8], port)).into()
}

/// A panic elsewhere should not cause another one here.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
