//! Log lines of the crate. They go to the logger of the program through the crate `log`, on the thread that logs.
//!
//! A logger that panics loses its line and nothing else. A logger that blocks blocks the loop: [`NonBlocking`] wraps one
//! for programs whose standard error may be a pipe that nobody reads.

mod non_blocking;

use std::fmt::Arguments;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::{Level, Record};

pub use non_blocking::NonBlocking;

use crate::escape::printable;
use crate::panics::catch;

/// Where in the source a line is logged.
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

/// The same for faults that a peer can repeat at will: shown ten times a second at most, the rest is counted.
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

/// Whether lines of this level are logged: a look at one number, whatever the logger.
#[inline]
pub(crate) fn shows(level: Level) -> bool {
    level <= log::max_level()
}

/// Hands a line to the logger.
#[cold]
pub(crate) fn write(level: Level, place: &Place<'_>, text: Arguments<'_>) {
    let text = printable(text);
    // println! panics on a closed descriptor.
    let _ = catch(|| {
        let mut record = Record::builder();
        record.level(level).target(place.module).module_path(Some(place.module));
        record.file(Some(place.file)).line(Some(place.line));
        log::logger().log(&record.args(format_args!("{text}")).build());
    });
}

/// Hands a line about a fault to the logger, unless there were too many in this second.
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

/// Of each level.
static THROTTLES: Mutex<[Throttle; 5]> = Mutex::new([const { Throttle { second: None, seen: 0 } }; 5]);

/// Admits the first few faults of each second and counts the rest.
struct Throttle {
    /// When the running second began.
    second: Option<Instant>,
    seen: u64,
}

impl Throttle {
    /// Returns whether to show one more fault, and how many were not shown since the last that was.
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
