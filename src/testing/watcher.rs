//! The selector of scripted sockets.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mio::Token;

use super::call::{Call, Outcome};
use super::peer::Peer;
use super::world::{State, World, lock};
use crate::address::Address;
use crate::net::readiness::Readiness;
use crate::net::scripted::{ScriptedSelector, ScriptedStream};
use crate::reactor::handle::Handle;

/// The selector of a world.
pub(crate) struct Watcher {
    world: Arc<World>,
    events: Vec<(Token, Readiness)>,
    outbound: Outbound,
}

/// Outbound connections of the reactor that the test has not seen.
pub(crate) type Outbound = Arc<Mutex<Vec<Peer>>>;

impl Watcher {
    pub(crate) fn new(world: Arc<World>) -> Self {
        Watcher { world, events: Vec::new(), outbound: Outbound::default() }
    }

    pub(crate) fn outbound(&self) -> Outbound {
        Arc::clone(&self.outbound)
    }
}

impl Watcher {
    /// The loop would sleep now. Checks that it would be woken for everything that was submitted.
    fn check_sleep(&self, mut state: MutexGuard<'_, State>, handle: &Handle) {
        assert!(!handle.waits_unmarked(), "something was submitted, and the loop sleeps because it does not see it");
        if handle.is_pending() {
            // Another thread has just submitted something. It wakes the loop next.
            let woken = self.world.woken.wait_timeout_while(state, WAKE_MAX, |state| !state.woken);
            let (woken, time) = woken.unwrap_or_else(PoisonError::into_inner);
            assert!(!time.timed_out(), "something was submitted, and the loop sleeps because nothing woke it");
            state = woken;
            (state.slept, state.woken) = (false, false);
        }
    }
}

impl ScriptedSelector for Watcher {
    fn now(&self) -> u64 {
        self.world.now()
    }

    fn clock(&self) -> Arc<dyn Fn() -> u64 + Send + Sync> {
        let world = Arc::clone(&self.world);
        Arc::new(move || world.now())
    }

    fn poll(&mut self, wait: Option<Duration>) -> io::Result<()> {
        self.events.clear();
        let outcome = self.world.call(Call::Wait, None);
        let mut state = lock(&self.world.state);
        state.slept = false;
        match outcome {
            // The wait ends early, and the events are reported next time.
            Outcome::Interrupted | Outcome::WouldBlock => return Ok(()),
            Outcome::Fail(error) => return Err(error),
            Outcome::AtMost(count) => {
                let count = count.min(state.ready.len());
                self.events.extend(state.ready.drain(..count));
            }
            Outcome::Proceed => self.events.append(&mut state.ready),
        }
        state.slept = self.events.is_empty() && !state.woken && wait != Some(Duration::ZERO);
        state.woken = false;
        if let Some(handle) = self.world.handle.get().filter(|_| state.slept) {
            self.check_sleep(state, handle);
        }
        Ok(())
    }

    fn events(&self) -> &[(Token, Readiness)] {
        &self.events
    }

    fn waker(&self) -> Box<dyn Fn() + Send + Sync> {
        let world = Arc::downgrade(&self.world); // The world may hold a handle, and with it this.
        Box::new(move || {
            if let Some(world) = world.upgrade() {
                lock(&world.state).woken = true;
                world.woken.notify_one();
            }
        })
    }

    fn connect(&self, address: &Address) -> io::Result<Box<dyn ScriptedStream>> {
        match self.world.call(Call::Connect, Some(address)) {
            Outcome::WouldBlock => return Err(io::ErrorKind::WouldBlock.into()),
            outcome => outcome.into_result()?,
        }
        let (peer, stream) = Peer::connecting(&self.world, address.clone());
        lock(&self.outbound).push(peer);
        Ok(stream)
    }
}

/// A thread that has submitted something wakes the loop much sooner, even on a busy machine.
const WAKE_MAX: Duration = Duration::from_secs(10);
