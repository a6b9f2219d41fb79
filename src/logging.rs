//! Log lines that cannot hurt the loop.
//!
//! Standard error may be closed, or a pipe that nobody reads: a logger then panics or blocks, and would take every
//! client with it. So a line is only formatted here, and handed over a bounded queue to a thread (started with the
//! first line) that calls the logger. A line that finds the queue full is dropped and counted.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};

/// A logger for programs whose loop must not wait for a terminal or a pipe: it wraps any other and calls it on a
/// thread of its own.
///
/// The crate's own lines go that way whatever logger is installed; wrap yours in this and the lines of your handlers
/// do too. At most 1,024 lines wait; more are dropped and counted by [`dropped`]. Characters that could steer a
/// terminal or forge a line (controls, bidirectional overrides) are escaped, and a line ends after 1,024 characters.
///
/// ```
/// use socketserver::logging::{flush, NonBlocking};
/// use std::time::Duration;
///
/// NonBlocking::new(simple_logger::SimpleLogger::new()).init(log::LevelFilter::Info)?;
/// log::info!("ready");
/// flush(Duration::from_secs(1)); // before the program ends
/// # Ok::<(), log::SetLoggerError>(())
/// ```
#[derive(Debug)]
pub struct NonBlocking<L> {
    inner: L,
}

impl<L: Log + 'static> NonBlocking<L> {
    /// Wraps `inner`, which from now on is called from one background thread only.
    pub fn new(inner: L) -> Self {
        NonBlocking { inner }
    }

    /// Installs this as the program's logger, for lines up to `max`.
    ///
    /// # Errors
    /// [`log::SetLoggerError`] if a logger is installed already.
    pub fn init(self, max: LevelFilter) -> Result<(), log::SetLoggerError> {
        log::set_boxed_logger(Box::new(self))?;
        log::set_max_level(max);
        Ok(())
    }
}

impl<L: Log> Log for NonBlocking<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.inner.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if ON_WORKER.get() {
            self.inner.log(record);
        } else if self.enabled(record.metadata()) {
            submit(record.level(), Cow::Owned(record.target().to_owned()), false, record.args());
        }
    }

    fn flush(&self) {
        if !ON_WORKER.get() {
            flush(Duration::from_secs(1));
        }
    }
}

/// Makes the message of every panic a line of the log, at the level `Error`, ten a second at most. The standard library
/// writes it, and with `RUST_BACKTRACE` a page more, to standard error on the thread that panicked: a pipe that nobody
/// reads then stops the loop, and a client that can make a handler panic can flood the log.
///
/// Replaces the panic hook of the program. Without a logger nothing of a panic is seen.
///
/// ```
/// socketserver::logging::log_panics();
/// let caught = std::panic::catch_unwind(|| panic!("seen in the log"));
/// assert!(caught.is_err());
/// ```
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        // The thread that writes the log panics if standard error takes nothing: there is nobody to tell.
        if !ON_WORKER.get() {
            submit(Level::Error, "panic".into(), true, &format_args!("{panic}"));
        }
    }));
}

/// Waits until the lines logged so far are written, at most `timeout`. Says whether they are.
pub fn flush(timeout: Duration) -> bool {
    let (done, wait) = sync_channel(1);
    match WORKER.get() {
        Some(Some(worker)) => worker.try_send(Job::Flush(done)).is_ok() && wait.recv_timeout(timeout).is_ok(),
        _ => true,
    }
}

/// How many lines were dropped in this process because the queue was full.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Logs one of the crate's own lines.
macro_rules! note {
    ($level:ident, $($text:tt)+) => {
        if $crate::logging::shows(log::Level::$level) {
            $crate::logging::submit(log::Level::$level, "socketserver".into(), false, &format_args!($($text)+));
        }
    };
}

/// The same for faults that a peer can repeat at will: shown ten times a second at most, the rest is counted.
macro_rules! note_fault {
    ($level:ident, $($text:tt)+) => {
        if $crate::logging::shows(log::Level::$level) {
            $crate::logging::submit(log::Level::$level, "socketserver".into(), true, &format_args!($($text)+));
        }
    };
}

pub(crate) use {note, note_fault};

/// Whether lines of this level are logged: a look at one number, whatever the logger.
#[inline]
pub(crate) fn shows(level: Level) -> bool {
    level <= log::max_level()
}

pub(crate) fn submit(level: Level, target: Cow<'static, str>, repeats: bool, text: &fmt::Arguments<'_>) {
    let worker = WORKER.get_or_init(|| {
        let (lines, work) = sync_channel(LINES_MAX);
        let thread = std::thread::Builder::new().name("socketserver-log".into());
        thread.spawn(move || run(&work)).ok().map(|_| lines)
    });
    let line = Job::Line { level, target, repeats, text: printable(text) };
    if worker.as_ref().is_none_or(|worker| worker.try_send(line).is_err()) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

enum Job {
    Line { level: Level, target: Cow<'static, str>, repeats: bool, text: String },
    Flush(SyncSender<()>),
}

const LINES_MAX: usize = 1_024;
const LINE_CHARS_MAX: usize = 1_024;
const REPEATS_PER_SECOND: u32 = 10;

static WORKER: OnceLock<Option<SyncSender<Job>>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Set on the thread that may call loggers.
    static ON_WORKER: Cell<bool> = const { Cell::new(false) };
}

fn run(work: &Receiver<Job>) {
    ON_WORKER.set(true);
    let mut throttle = Throttle::default();
    loop {
        let job = match throttle.wait() {
            None => work.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(wait) => work.recv_timeout(wait),
        };
        match job {
            Ok(Job::Line { level, target, repeats, text }) => {
                if !repeats || throttle.admits(level) {
                    write(level, &target, &text);
                }
            }
            Ok(Job::Flush(done)) => drop(done.try_send(())),
            Err(RecvTimeoutError::Timeout) => throttle.report(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// A logger that panics (println! on a closed descriptor) loses its line and nothing else.
fn write(level: Level, target: &str, text: &str) {
    drop(catch_unwind(AssertUnwindSafe(|| {
        log::logger().log(&Record::builder().level(level).target(target).args(format_args!("{text}")).build());
    })));
}

/// Lets through the first few repeated faults of a level in each second and counts the rest.
#[derive(Default)]
struct Throttle {
    second: Option<Instant>,
    seen: HashMap<Level, u32>,
}

impl Throttle {
    fn admits(&mut self, level: Level) -> bool {
        if self.wait().is_none_or(|wait| wait.is_zero()) {
            self.report();
            self.second = Some(now());
        }
        let seen = self.seen.entry(level).or_default();
        *seen += 1;
        *seen <= REPEATS_PER_SECOND
    }

    /// How long the running second still takes; `None` when none runs, so that an idle logger sleeps for good.
    fn wait(&self) -> Option<Duration> {
        self.second.map(|begun| Duration::from_secs(1).saturating_sub(now().duration_since(begun)))
    }

    fn report(&mut self) {
        self.second = None;
        for (level, seen) in self.seen.drain() {
            if seen > REPEATS_PER_SECOND {
                write(
                    level,
                    "socketserver",
                    &format!("{} more of this kind were not shown", seen - REPEATS_PER_SECOND),
                );
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the logging thread is no part of the reactor and its clock")]
fn now() -> Instant {
    Instant::now()
}

/// The letter, escaped if it is not plainly visible.
pub(crate) fn visible(letter: char) -> impl Iterator<Item = char> {
    let is_visible = matches!(letter, '"' | '\'' | '\\'); // Rust escapes them all the same.
    letter.escape_debug().skip(usize::from(is_visible))
}

/// The text with everything escaped that is not plainly visible, cut at [`LINE_CHARS_MAX`].
fn printable(text: &fmt::Arguments<'_>) -> String {
    struct Escape(String, usize);
    impl fmt::Write for Escape {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for letter in text.chars() {
                if self.1 == LINE_CHARS_MAX {
                    self.0.push('…');
                    self.1 += 1;
                }
                if self.1 > LINE_CHARS_MAX {
                    return Err(fmt::Error);
                }
                self.0.extend(visible(letter));
                self.1 += 1;
            }
            Ok(())
        }
    }
    let mut escape = Escape(String::new(), 0);
    let _ = escape.write_fmt(*text); // An error only says that the line was cut.
    escape.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_sent_cannot_forge_a_line_or_steer_a_terminal() {
        assert_eq!(printable(&format_args!("a\nb\x1b[2J \u{202e}c 'é'")), "a\\nb\\u{1b}[2J \\u{202e}c 'é'");
    }

    #[test]
    fn a_line_is_cut() {
        assert_eq!(printable(&format_args!("{}", "x".repeat(5_000))).chars().count(), LINE_CHARS_MAX + 1);
    }

    #[test]
    fn repeated_faults_are_throttled_by_level() {
        let mut throttle = Throttle::default();
        let admitted = (0..1_000).filter(|_| throttle.admits(Level::Error)).count();
        // A slow machine may see a new second begin meanwhile.
        assert!((10..1_000).contains(&admitted), "{admitted}");
        assert!(throttle.admits(Level::Warn));
    }
}
