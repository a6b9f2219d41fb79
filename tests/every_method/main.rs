//! Every public method of the crate, called in random order: by handlers, hooks, threads and programs, and by the owner
//! of reactors and servers of every kind, with clients that do anything, on real sockets and on simulated ones. A stop
//! may come at any time, and everything is bound, moved, closed and dropped at any time.
//!
//! The list of methods is read from the sources, and the test fails if one was never called. A method that is added
//! must be called here. Beside the random ones there are clients of an echo server, which must get back every byte.
//!
//! In every round:
//! - nothing panics but what was meant to, and no call hangs;
//! - an error is one that the documentation of the method names;
//! - `setup` comes first, `finish` last and exactly once, and every handler is dropped;
//! - the reactor's invariants hold after each turn (a debug build, or a simulated network);
//! - the counters add up, and no descriptor is left.
//!
//! ```sh
//! cargo test --test every_method
//! EVERY_METHOD_ROUNDS=20000 EVERY_METHOD_SEED=1 cargo test --test every_method
//! ```
#![cfg(unix)]
#![allow(clippy::disallowed_methods, reason = "a watchdog has the machine's clock, and a round has deadlines")]

#[path = "../common/mod.rs"]
mod common;

mod chaos;
mod clients;
mod crew;
mod foreign;
mod ledger;
mod making;
mod meddling;
mod methods;
mod owned;
mod polite;
mod round;
mod secure;
mod simulated;
mod value;
mod values;
mod waiting;
mod watchdog;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ledger::Ledger;
use round::Round;
use simulated::Simulated;
use watchdog::{begin, step, story};

/// Enough to call every method.
const ROUNDS: u64 = 150;
const STEPS_MAX: u64 = 120;
/// Something panicked that was not meant to.
static UNMEANT: AtomicBool = AtomicBool::new(false);

#[test]
fn every_method_in_random_order_breaks_no_promise() {
    std::panic::set_hook(Box::new(|panic| {
        // A panic in a callback is caught by the crate. Those that are meant do not come here.
        UNMEANT.store(true, Ordering::SeqCst);
        eprintln!("{panic}\n{}", story());
    }));
    values::install_logger();
    watchdog::watch();
    simulated::chunking();
    let setting = |name| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let first: u64 = setting("EVERY_METHOD_SEED").unwrap_or(1);
    let rounds = setting("EVERY_METHOD_ROUNDS").unwrap_or(ROUNDS);
    let (begun, mut totals) = (Instant::now(), [0; 4]);
    for seed in first..first + rounds {
        begin(seed);
        for (total, count) in totals.iter_mut().zip(play(seed)) {
            *total += count;
        }
    }
    println!("{rounds} rounds in {:.1?}: {totals:?} requests and turns, real and simulated", begun.elapsed());
    if rounds >= ROUNDS {
        methods::check_all_were_called();
    }
}

/// One round of each sort. Returns what happened in them.
fn play(seed: u64) -> [u64; 4] {
    let before = descriptors();
    let steps = 1 + seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) % STEPS_MAX;
    let ledger = Arc::new(Ledger::default());
    let mut round = Round::new(seed, Arc::clone(&ledger));
    for _ in 0..steps {
        round.step();
        check(&ledger);
    }
    let real = round.end();
    let mut simulated = Simulated::new(seed, Arc::clone(&ledger));
    for _ in 0..steps * 2 {
        simulated.step();
        check(&ledger);
    }
    let scripted = simulated.end();
    simulated::one_client(seed, &ledger);
    if seed.is_multiple_of(8) {
        crew::play(&mut fastrand::Rng::with_seed(seed), &ledger);
    }
    step("all is dropped");
    // A thread lets go of what it has a moment after it has said that it is done.
    let deadline = Instant::now() + common::PATIENCE;
    while Arc::strong_count(&ledger) > 1 || descriptors() > before {
        let (held, open) = (Arc::strong_count(&ledger) - 1, descriptors());
        assert!(Instant::now() < deadline, "{held} things are not dropped, {open} descriptors, {before} before");
        std::thread::sleep(Duration::from_millis(1));
    }
    check(&ledger);
    [real.closed, real.turns, scripted.closed, scripted.turns]
}

fn check(ledger: &Ledger) {
    assert!(!UNMEANT.load(Ordering::SeqCst), "something panicked");
    if let Some(broken) = ledger.broken() {
        panic!("{broken}");
    }
}

#[cfg(target_os = "linux")]
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[cfg(not(target_os = "linux"))]
fn descriptors() -> usize {
    0
}
