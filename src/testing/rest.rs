//! Runs a reactor until nothing is left to do.

use std::time::Duration;

use super::world::World;
use crate::reactor::Reactor;

/// Runs turns until nothing is left to do before time passes or something arrives.
pub(crate) fn run(reactor: &mut Reactor, world: &World, so_far: impl FnOnce() -> String) {
    for _ in 0..TURNS_MAX {
        reactor.poll(Some(Duration::ZERO)).expect("a script does not fail");
        let busy = reactor.next_timeout() == Some(Duration::ZERO) || world.is_ready();
        if !busy {
            return;
        }
    }
    panic!("the handler does not come to rest in {TURNS_MAX} turns{}", so_far());
}

/// A handler that keeps the reactor busy for so many turns without new input never stops.
pub(crate) const TURNS_MAX: usize = 100_000;
