//! The descriptors of a process are shared: what one worker closes, others can accept.

use std::net::Shutdown;

use super::ending::{of, wait_until};
use super::*;
use crate::address::Address;
use crate::net::Listener;
use crate::net::family::Bound;
use crate::net::scripted::{ScriptedListener, ScriptedStream};
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
    core.descriptors.note_pause();
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

/// A listener whose clients cannot be registered, because the selector is full. It counts them.
#[derive(Debug)]
struct Unwatched(Arc<AtomicUsize>);

impl ScriptedListener for Unwatched {
    fn register(&mut self, _: mio::Token) -> io::Result<()> {
        Ok(())
    }

    fn accept(&mut self) -> io::Result<(Box<dyn ScriptedStream>, Address)> {
        let count = Arc::clone(&self.0);
        count.fetch_add(1, Ordering::SeqCst);
        Ok((Box::new(Unwatched(count)), SocketAddr::from(([127, 0, 0, 1], 9)).into()))
    }
}

impl ScriptedStream for Unwatched {
    fn register(&mut self, _: mio::Token) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn cuts_reads_short(&self) -> bool {
        true
    }

    fn write(&mut self, _: &[io::IoSlice<'_>]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn connected(&self) -> io::Result<bool> {
        Ok(true)
    }

    fn local_address(&self) -> Address {
        SocketAddr::from(([127, 0, 0, 1], 8)).into()
    }

    fn shutdown(&self, _: Shutdown) {}

    fn reset_on_close(&self) {}
}

#[test]
fn a_worker_whose_connections_cannot_be_registered_pauses() {
    let (workers, _) = start::<Tcp>(2, config(Spread::Kernel, true));
    let handle = workers.handles().remove(0);
    let accepted = Arc::new(AtomicUsize::new(0));
    let listener = Unwatched(Arc::clone(&accepted));
    of(&handle, |reactor| {
        let server = reactor.inspect().servers[0].id;
        let address = SocketAddr::from(([127, 0, 0, 1], 7)).into();
        reactor.open(server, [Bound::Listener(Listener::scripted(listener, address))]).unwrap();
        let key = reactor.core.served.iter().find_map(|(_, served)| served.listeners.last().copied()).unwrap();
        reactor.core.listening(key).ready = true;
        reactor.core.queue(key);
    });
    (0..1_000).for_each(|_| of(&handle, |_| ()));
    let accepted = accepted.load(Ordering::SeqCst);
    assert!((1..100).contains(&accepted), "{accepted} in 1,000 turns");
    workers.shutdown_now();
    join(workers).unwrap();
}
