//! What is being done, and how long the rest will take: a bar on a terminal, else a line for each step.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, stderr};

/// Writes to standard error only.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    steps: usize,
    begun: usize,
}

/// A step is so many units of the bar.
const UNITS: f64 = 1000.0;

impl Progress {
    pub(crate) fn new(steps: usize) -> Progress {
        let bar = stderr().is_terminal().then(|| {
            // Drawn when something happens, without a thread that would take time from the load.
            let style = ProgressStyle::with_template("{bar:24} {percent:>3} %, {eta} left: {wide_msg}");
            ProgressBar::new(steps as u64 * UNITS as u64)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Progress { bar, steps, begun: 0 }
    }

    /// The step before is done; this one begins.
    pub(crate) fn step(&mut self, what: &str) {
        self.share(0.0, self.begun);
        self.begun += 1;
        match &self.bar {
            Some(bar) => bar.set_message(what.to_owned()),
            None => eprintln!("[{}/{}] {what}", self.begun, self.steps),
        }
    }

    /// So much of this step is done, from 0 to 1.
    pub(crate) fn within(&mut self, share: f64) {
        self.share(share, self.begun.saturating_sub(1));
    }

    fn share(&self, share: f64, steps_before: usize) {
        if let Some(bar) = &self.bar {
            bar.set_position(((steps_before as f64 + share.clamp(0.0, 1.0)) * UNITS) as u64);
        }
    }

    /// A line that stays, above the bar.
    pub(crate) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
