//! What is being done: a bar on a terminal, else a line now and then.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use indicatif::{FormattedDuration, ProgressBar, ProgressStyle};

use crate::run::Standing;
use crate::trials::Trial;

/// Writes to standard error only.
pub(crate) struct Progress {
    begun: Instant,
    bar: Option<ProgressBar>,
    next_line: Instant,
}

impl Progress {
    pub(crate) fn new(now: Instant) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{elapsed_precise} {bar:24} {pos}/{len} {wide_msg}");
            ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Progress { begun: now, bar, next_line: now }
    }

    pub(crate) fn show(&mut self, now: Instant, round: u64, trial: Trial, standing: &Standing) {
        let Standing { done, clients, failures } = standing;
        let what = format!("round {round}, {trial}, {failures} failures");
        if let Some(bar) = &self.bar {
            bar.set_length(*clients as u64);
            bar.set_position(*done as u64);
            bar.set_message(what);
        } else if now >= self.next_line {
            let elapsed = now - self.begun;
            self.next_line = now + if elapsed < MINUTE { LINE_EVERY } else { MINUTE };
            // It does not matter whether it is read.
            let _ = writeln!(stderr(), "{}: {what}, {done} of {clients} clients done", FormattedDuration(elapsed));
        }
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// At first; each minute afterwards.
const LINE_EVERY: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);
