//! A logger that keeps what the crate logs. A process has one logger, so a test with it is run in a process of its own.

use std::sync::{Mutex, MutexGuard};
use std::thread::{self, ThreadId};

use log::{Level, LevelFilter, Log, Metadata, Record};

/// One line.
#[derive(Debug)]
pub(crate) struct Logged {
    pub(crate) thread: ThreadId,
    pub(crate) level: Level,
    pub(crate) target: String,
    /// The file and the line.
    pub(crate) place: String,
    pub(crate) text: String,
}

pub(crate) struct Collector(Mutex<Vec<Logged>>);

impl Collector {
    pub(crate) const fn new() -> Self {
        Collector(Mutex::new(Vec::new()))
    }

    /// Makes it the logger of this process.
    pub(crate) fn install(&'static self) {
        log::set_logger(self).unwrap();
        log::set_max_level(LevelFilter::Debug);
    }

    pub(crate) fn lines(&self) -> MutexGuard<'_, Vec<Logged>> {
        self.0.lock().unwrap()
    }
}

impl Log for Collector {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        self.lines().push(Logged {
            thread: thread::current().id(),
            level: record.level(),
            target: record.target().to_owned(),
            place: format!("{}:{}", record.file().unwrap_or_default().replace('\\', "/"), record.line().unwrap_or(0)),
            text: record.args().to_string(),
        });
    }

    fn flush(&self) {}
}
