//! Log lines of the crate. The thread that logs passes them to the program's logger through the crate `log`.
//!
//! A logger that panics only loses its line. A logger that blocks also blocks the loop. For programs whose standard
//! error may be a pipe that nothing reads, [`NonBlocking`] wraps it.

mod non_blocking;

use std::cell::Cell;
use std::fmt::Arguments;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::{Level, Record};

pub use non_blocking::NonBlocking;

use crate::escape::printable;
use crate::panics::catch;

/// The place in the source where a line is logged.
pub(crate) struct Place<'a> {
    pub(crate) module: &'a str,
    pub(crate) file: &'a str,
    pub(crate) line: u32,
}

/// Logs one of the crate's own lines.
macro_rules! note {
    ($level:ident, $($text:tt)+) => {
        $crate::logging::at_this_place!(write, $level, $($text)+)
    };
}

/// Like `note`, but for faults that a peer can repeat: at most ten a second are logged, and the rest are counted.
macro_rules! note_fault {
    ($level:ident, $($text:tt)+) => {
        $crate::logging::at_this_place!(write_fault, $level, $($text)+)
    };
}

macro_rules! at_this_place {
    ($write:ident, $level:ident, $($text:tt)+) => {
        if $crate::logging::shows(log::Level::$level) {
            const PLACE: &$crate::logging::Place<'_> =
                &$crate::logging::Place { module: module_path!(), file: file!(), line: line!() };
            $crate::logging::$write(log::Level::$level, PLACE, format_args!($($text)+));
        }
    };
}

pub(crate) use {at_this_place, note, note_fault};

/// Returns whether lines of this level are logged. It only reads a number, regardless of the logger.
#[inline]
pub(crate) fn shows(level: Level) -> bool {
    level <= log::max_level()
}

/// Passes a line to the logger.
#[cold]
pub(crate) fn write(level: Level, place: &Place<'_>, text: Arguments<'_>) {
    let text = match WORKER.get() {
        Some(number) => printable(format_args!("worker {number}: {text}")),
        None => printable(text),
    };
    // println! panics on a closed descriptor.
    let _ = catch(|| {
        let mut record = Record::builder();
        record.level(level).target(place.module).module_path(Some(place.module));
        record.file(Some(place.file)).line(Some(place.line));
        log::logger().log(&record.args(format_args!("{text}")).build());
    });
}

thread_local! {
    /// The worker to which the lines of this thread belong.
    static WORKER: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Until this is dropped, the lines of this thread begin with the number of a worker.
pub(crate) struct LinesOf(Option<usize>);

impl LinesOf {
    pub(crate) fn worker(number: usize) -> Self {
        LinesOf(WORKER.replace(Some(number)))
    }
}

impl Drop for LinesOf {
    fn drop(&mut self) {
        WORKER.set(self.0);
    }
}

/// Passes a line about a fault to the logger, unless there were too many in this second.
#[cold]
pub(crate) fn write_fault(level: Level, place: &Place<'_>, text: Arguments<'_>) {
    let admitted = {
        let mut throttles = THROTTLES.lock().unwrap_or_else(PoisonError::into_inner);
        throttles[level as usize - 1].admit(now())
    };
    if let Some(not_shown) = admitted {
        if not_shown > 0 {
            write(level, place, format_args!("{not_shown} more faults of this level were not shown"));
        }
        write(level, place, text);
    }
}

/// For each level.
static THROTTLES: Mutex<[Throttle; 5]> = Mutex::new([const { Throttle { second: None, seen: 0 } }; 5]);

/// Admits the first few faults of each second and counts the rest.
struct Throttle {
    /// The start of the current second.
    second: Option<Instant>,
    seen: u64,
}

impl Throttle {
    /// Returns whether to log another fault, and how many were not logged since the last one.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let mut not_shown = 0;
        if self.second.is_none_or(|begun| now.duration_since(begun) >= Duration::from_secs(1)) {
            not_shown = self.seen.saturating_sub(FAULTS_PER_SECOND);
            *self = Throttle { second: Some(now), seen: 0 };
        }
        self.seen += 1;
        (self.seen <= FAULTS_PER_SECOND).then_some(not_shown)
    }
}

const FAULTS_PER_SECOND: u64 = 10;

#[expect(clippy::disallowed_methods, reason = "the log is no part of a reactor and its clock")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_faults_are_throttled_and_counted() {
        let mut throttle = Throttle { second: None, seen: 0 };
        let begun = now();
        let admitted: Vec<_> = (0..1_000).filter_map(|_| throttle.admit(begun)).collect();
        assert_eq!(admitted, [0; 10]);
        let next = begun + Duration::from_secs(1);
        assert_eq!([throttle.admit(next), throttle.admit(next)], [Some(990), Some(0)]);
    }
}
