//! What is being done, and how long the rest will take: a bar on a terminal, else a line for each step. It goes to
//! standard error.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, stderr};

pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    steps: usize,
    begun: usize,
}

impl Progress {
    pub(crate) fn new(steps: usize) -> Progress {
        let bar = stderr().is_terminal().then(|| {
            // Drawn when a step begins, without a thread that would take time from the load.
            let style = ProgressStyle::with_template("{bar:24} {percent:>3} %, {eta} left: {wide_msg}");
            ProgressBar::new(steps as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Progress { bar, steps, begun: 0 }
    }

    /// The step before is done; this one begins.
    pub(crate) fn step(&mut self, what: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(self.begun as u64);
                bar.set_message(what.to_owned());
            }
            None => eprintln!("[{}/{}] {what}", self.begun + 1, self.steps),
        }
        self.begun += 1;
    }

    /// A line that stays, above the bar.
    pub(crate) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
