//! Ends the process if a step hangs, and says what was done last.

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::ledger::lock;

static SEED: AtomicU64 = AtomicU64::new(0);
static COUNT: AtomicU64 = AtomicU64::new(0);
static STEPS: Mutex<VecDeque<&str>> = Mutex::new(VecDeque::new());

/// No step takes nearly as long as this.
const PATIENCE: Duration = Duration::from_secs(60);
const SHOWN: usize = 40;

pub(crate) fn begin(seed: u64) {
    SEED.store(seed, Ordering::Relaxed);
    lock(&STEPS).clear();
}

pub(crate) fn step(what: &'static str) {
    COUNT.fetch_add(1, Ordering::Relaxed);
    let mut steps = lock(&STEPS);
    if steps.len() == SHOWN {
        steps.pop_front();
    }
    steps.push_back(what);
}

/// How to repeat the round, and its last steps.
pub(crate) fn story() -> String {
    let seed = SEED.load(Ordering::Relaxed);
    format!("EVERY_METHOD_SEED={seed} EVERY_METHOD_ROUNDS=1\nlast steps: {:?}", lock(&STEPS))
}

pub(crate) fn watch() {
    std::thread::spawn(|| {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let count = COUNT.load(Ordering::Relaxed);
            if count != last {
                (last, since) = (count, Instant::now());
            } else if since.elapsed() > PATIENCE {
                // Not by a panic, which would wait for the thread that hangs. Not by `eprintln!`, which the harness keeps.
                let _ = writeln!(std::io::stderr(), "the last step hangs: {}", story());
                std::process::exit(101);
            }
        }
    });
}
