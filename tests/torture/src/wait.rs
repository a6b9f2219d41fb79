//! Waiting for what sends no events.

use std::time::{Duration, Instant};

/// Looks again and again until there is an answer, at most so long.
pub(crate) fn wait_for<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        let found = look();
        if found.is_some() || begun.elapsed() > patience {
            return found;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
