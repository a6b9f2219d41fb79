//! A logger on a thread of its own.

use std::cell::Cell;
use std::io;
use std::panic::set_hook;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::{Place, shows, write_fault};
use crate::escape::printable;
use crate::panics::catch;

/// A logger for programs whose loop must not wait for a terminal or a pipe: it wraps any other and calls it on a
/// thread of its own.
///
/// At most 1,024 lines wait. More are dropped, and a line before the next one says how many. Characters that could
/// control a terminal or forge a line (controls, bidirectional overrides) are escaped, and a line ends after 1,024
/// characters.
///
/// Before the program ends, [`Log::flush`] waits until the lines logged so far are written, at most 200 ms.
///
/// ```
/// use log::{LevelFilter, Log};
/// use socketserver::logging::NonBlocking;
///
/// NonBlocking::new(simple_logger::SimpleLogger::new())?.init(LevelFilter::Info)?;
/// log::info!("ready");
/// log::logger().flush(); // before the program ends
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct NonBlocking<L> {
    inner: Arc<L>,
    jobs: SyncSender<Job>,
    dropped: Arc<AtomicU64>,
}

impl<L: Log + 'static> NonBlocking<L> {
    /// Wraps `inner` and starts the thread that calls it. The thread ends when this is dropped.
    ///
    /// # Errors
    /// If the system starts no thread.
    pub fn new(inner: L) -> io::Result<Self> {
        let (jobs, work) = sync_channel(LINES_MAX);
        let logger = NonBlocking { inner: Arc::new(inner), jobs, dropped: Arc::default() };
        let (inner, dropped) = (Arc::clone(&logger.inner), Arc::clone(&logger.dropped));
        std::thread::Builder::new().name("log".into()).spawn(move || run(&*inner, &work, &dropped))?;
        Ok(logger)
    }

    /// Installs this as the program's logger, for lines up to `max`, and makes the message of every panic one of its lines:
    /// of the level `Error` and the target `panic`, ten a second at most.
    ///
    /// It replaces the panic hook of the program. The standard library's hook writes the message, and with
    /// `RUST_BACKTRACE` a page more, to standard error on the thread that panicked. If that is a pipe that nothing
    /// reads, it stops the loop, and a client that can make a handler panic can flood the log. To keep the hook,
    /// install this with `log::set_boxed_logger`.
    ///
    /// # Errors
    /// [`log::SetLoggerError`] if a logger is installed already. Then the panic hook stays.
    pub fn init(self, max: LevelFilter) -> Result<(), log::SetLoggerError> {
        log::set_boxed_logger(Box::new(self))?;
        log::set_max_level(max);
        set_hook(Box::new(|panic| {
            // The thread that calls the logger panics if standard error is closed. Its message could not be shown.
            if !CALLS_THE_LOGGER.get() && shows(Level::Error) {
                let (file, line) = panic.location().map_or(("", 0), |location| (location.file(), location.line()));
                write_fault(Level::Error, &Place { module: "panic", file, line }, format_args!("{panic}"));
            }
        }));
        Ok(())
    }
}

impl<L: Log> Log for NonBlocking<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.inner.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) && self.jobs.try_send(Job::Line(Line::of(record))).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if !CALLS_THE_LOGGER.get() && self.jobs.try_send(Job::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(FLUSH_WAIT);
        }
    }
}

#[derive(Debug)]
enum Job {
    Line(Line),
    Flush(SyncSender<()>),
}

/// A record that another thread can hold.
#[derive(Debug)]
struct Line {
    level: Level,
    target: String,
    module: Option<String>,
    file: Option<String>,
    line: Option<u32>,
    text: String,
}

impl Line {
    fn of(record: &Record<'_>) -> Self {
        Line {
            level: record.level(),
            target: record.target().to_owned(),
            module: record.module_path().map(str::to_owned),
            file: record.file().map(str::to_owned),
            line: record.line(),
            text: printable(*record.args()),
        }
    }

    fn write(&self, to: &dyn Log, text: &str) {
        let mut record = Record::builder();
        record.level(self.level).target(&self.target).module_path(self.module.as_deref());
        record.file(self.file.as_deref()).line(self.line);
        to.log(&record.args(format_args!("{text}")).build());
    }
}

const LINES_MAX: usize = 1_024;
const FLUSH_WAIT: Duration = Duration::from_millis(200);

thread_local! {
    static CALLS_THE_LOGGER: Cell<bool> = const { Cell::new(false) };
}

/// The main function of the thread. A logger that panics (println! on a closed descriptor) only loses its line.
fn run(to: &dyn Log, work: &Receiver<Job>, dropped: &AtomicU64) {
    CALLS_THE_LOGGER.set(true);
    for job in work {
        let _ = catch(|| match job {
            Job::Line(line) => {
                let dropped = dropped.swap(0, Ordering::Relaxed);
                if dropped > 0 {
                    line.write(to, &format!("{dropped} lines were dropped: they came faster than they were written"));
                }
                line.write(to, &line.text);
            }
            Job::Flush(done) => {
                to.flush();
                let _ = done.try_send(());
            }
        });
    }
}
