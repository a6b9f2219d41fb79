//! The selector of scripted sockets.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mio::Token;

use super::call::{Call, Outcome};
use super::peer::Peer;
use super::world::{World, lock};
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
        let missed = state.slept && self.world.handle.get().is_some_and(Handle::has_waiting);
        assert!(!missed, "something was submitted, and the loop sleeps because nothing woke it");
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
