//! Servers and reactors, driven as programs drive them, in random order: made, bound, adopted, added to a reactor, given
//! limits, served (for ever, for one request, turn by turn), stopped, closed and dropped; with clients, sessions, threads,
//! programs, jobs, timers, messages and closures from other threads, and with panics in everything that is the user's.
//!
//! A seed decides the steps. After each round everything has to be gone: every value, handler, closure and message was
//! dropped, every `setup` had its `finish`, every server its `server_close`, and no descriptor is left. No panic leaves
//! the crate, and no call hangs: a watchdog ends the process after a minute without a step, with the seed and the last
//! steps.
//!
//! ```sh
//! cargo test --test lifecycle                                # a bounded number of rounds
//! LIFECYCLE_ROUNDS=20000 LIFECYCLE_SEED=1 cargo test --test lifecycle
//! ```
#![cfg(unix)]
#![allow(clippy::disallowed_methods, reason = "a watchdog has the machine's clock, and work takes time")]

#[path = "../common/mod.rs"]
mod common;
mod fleet;
mod user;

use std::collections::VecDeque;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fleet::Fleet;

/// Rounds of an ordinary run: some seconds.
const ROUNDS: u64 = 150;
const STEPS_MAX: usize = 40;
/// No step takes nearly as long as this.
const WATCH: Duration = Duration::from_secs(60);

/// What was done last, to explain a failure.
pub(crate) struct Log {
    seed: AtomicU64,
    count: AtomicU64,
    steps: Mutex<VecDeque<String>>,
}

static LOG: Log = Log { seed: AtomicU64::new(0), count: AtomicU64::new(0), steps: Mutex::new(VecDeque::new()) };

impl Log {
    fn begin(&self, seed: u64) {
        self.seed.store(seed, Ordering::Relaxed);
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn step(&self, step: String) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).push_back(step);
    }

    fn fail(&self, what: &str) -> ! {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let steps: String = steps.iter().map(|step| format!("  {step}\n")).collect();
        let seed = self.seed.load(Ordering::Relaxed);
        // Not by a panic: nothing may catch this, and the thread that hangs cannot be ended. Not by `eprintln!`: the test
        // harness keeps what that prints until the test is over, which it never is.
        let _ = writeln!(
            std::io::stderr(),
            "lifecycle: {what}\nsteps:\n{steps}again: LIFECYCLE_ROUNDS=1 LIFECYCLE_SEED={seed}"
        );
        std::process::exit(101);
    }
}

/// Ends the process if no step is done for a while.
fn watch() {
    std::thread::spawn(|| {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let count = LOG.count.load(Ordering::Relaxed);
            if count != last {
                (last, since) = (count, Instant::now());
            } else if since.elapsed() > WATCH {
                LOG.fail("the last step hangs");
            }
        }
    });
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[cfg(target_os = "linux")]
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[cfg(not(target_os = "linux"))]
fn descriptors() -> usize {
    0
}

/// Threads let go of what they have a moment after they have said that they are done.
fn eventually(what: impl Fn() -> String, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + WATCH / 2;
    while !holds() {
        if Instant::now() > until {
            LOG.fail(&what());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn round(seed: u64) {
    LOG.begin(seed);
    let before = descriptors();
    let ledger = Arc::new(user::Ledger::default());
    let mut fleet = Fleet::new(seed, Arc::clone(&ledger));
    for _ in 0..fleet.rng.usize(1..=STEPS_MAX) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| fleet.step())) {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            LOG.fail(&format!("a panic left the crate: {text}"));
        }
        ledger.check(|what| LOG.fail(what));
    }
    if catch_unwind(AssertUnwindSafe(|| fleet.end())).is_err() {
        LOG.fail("a panic left the crate in the end");
    }
    drop(fleet);
    LOG.step("all is dropped".to_owned());
    eventually(
        || format!("{} things of the user's are not dropped", Arc::strong_count(&ledger) - 1),
        || Arc::strong_count(&ledger) == 1,
    );
    ledger.check(|what| LOG.fail(what));
    ledger.check_end(|what| LOG.fail(what));
    eventually(|| format!("{} descriptors, {before} before", descriptors()), || descriptors() <= before);
}

#[test]
fn whatever_is_done_in_whatever_order_nothing_hangs_panics_or_is_lost() {
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default_hook(info);
        LOG.step(format!("{info}"));
        // A second panic while the first unwinds ends the process, and this is the last to be heard of it.
        eprintln!("lifecycle: seed {}", LOG.seed.load(Ordering::Relaxed));
    }));
    watch();
    let first = setting("LIFECYCLE_SEED").unwrap_or(1);
    let rounds = setting("LIFECYCLE_ROUNDS").unwrap_or(ROUNDS);
    let begun = Instant::now();
    for seed in first..first + rounds {
        round(seed);
    }
    eprintln!("{rounds} rounds, {} steps, {:.1?}", LOG.count.load(Ordering::Relaxed), begun.elapsed());
}
