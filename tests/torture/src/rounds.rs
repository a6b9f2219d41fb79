//! Round after round of trials.

use std::io;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::report::Report;
use crate::run::Run;
use crate::target::Target;
use crate::trials::{Scale, Trial};

pub(crate) struct Rounds<'a> {
    pub(crate) target: &'a Target,
    pub(crate) trials: Vec<Trial>,
    pub(crate) scale: Scale,
    /// How long to go on. One round if not at all.
    pub(crate) duration: Option<Duration>,
    pub(crate) patience: Duration,
    pub(crate) seed: u64,
    pub(crate) interrupt: &'a Interrupt,
}

impl Rounds<'_> {
    /// The first one to its end; the others while there is time, and while there is a server.
    pub(crate) fn execute(&self, report: &mut Report) -> io::Result<()> {
        let begun = Instant::now();
        let mut progress = Progress::new(begun);
        let over = || self.duration.is_none_or(|duration| begun.elapsed() > duration);
        'rounds: loop {
            report.rounds += 1;
            for &trial in &self.trials {
                self.execute_trial(trial, report, &mut progress)?;
                let out_of_time = report.rounds > 1 && over();
                if self.interrupt.is_requested() || !report.complaints.is_empty() || out_of_time {
                    break 'rounds;
                }
            }
            if over() {
                break;
            }
        }
        progress.finish();
        Ok(())
    }

    fn execute_trial(&self, trial: Trial, report: &mut Report, progress: &mut Progress) -> io::Result<()> {
        // Each run of each trial is another one, and none depends on those before.
        let seed = Rng::with_seed(self.seed ^ (report.rounds << 8 | trial as u64)).u64(..);
        let extent = trial.extent(self.scale);
        let run = Run { target: self.target, trial, extent, patience: self.patience, seed };
        let mut gone = None;
        let figures = run.execute(|standing| {
            let now = Instant::now();
            progress.show(now, report.rounds, trial, standing);
            gone = report.watch.as_mut().and_then(|watch| watch.tick(now).err());
            gone.is_none() && !self.interrupt.is_requested()
        })?;
        if figures.answered == 0 && !self.interrupt.is_requested() {
            gone.get_or_insert_with(|| "expected an answer at least to a canary, seen: none".to_owned());
        }
        report.complaints.extend(gone);
        report.add(trial, figures);
        Ok(())
    }
}
