//! The descriptors of a process are shared: what one worker closes, others can accept.

use super::ending::{of, wait_until};
use super::*;
use crate::reactor::Reactor;
use crate::reactor::entries::Alarm;

const HOUR: u64 = 3_600_000_000_000;

/// As if the process had no descriptor left, and had been trying to accept for long.
fn pause_for_long(reactor: &mut Reactor) {
    let core = &mut reactor.core;
    let keys: Vec<_> = core.served.iter().flat_map(|(_, served)| served.listeners.clone()).collect();
    for key in keys {
        core.pause(key, "accept", &io::ErrorKind::Other.into());
        let timer = core.timers.arm(core.now + HOUR, Alarm::Resume(key));
        let before = std::mem::replace(&mut core.slots.pause(key).unwrap().timer, timer);
        core.timers.cancel(before);
    }
}

#[test]
fn workers_without_descriptors_accept_at_once_when_another_closes_a_connection() {
    for spread in [Spread::Kernel, Spread::Handed] {
        let (workers, address) = start::<Tcp>(2, config(spread, true));
        let mut first = connect(address);
        let number = ask(&mut first).unwrap();
        let paused = match spread {
            Spread::Kernel => workers.handles()[1 - usize::from(number)].clone(),
            _ => workers.crew().control.clone(),
        };
        of(&paused, pause_for_long);
        let mut waiting: Vec<_> = (0..16).map(|_| connect(address)).collect();
        drop(first);
        wait_until(|| workers.stats().unwrap().accepted == 17);
        assert!(waiting.iter_mut().all(|client| ask(client).is_some()));
        workers.shutdown();
        join(workers).unwrap();
    }
}
