//! What came of it all.

use std::fmt::{self, Display};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{BinaryBytes, HumanCount};

use crate::figures::Figures;
use crate::trials::Trial;
use crate::watch::Watch;

pub(crate) struct Report {
    /// Those that were begun, in their order.
    trials: Vec<(Trial, Figures)>,
    /// What is wrong with the server as a whole.
    pub(crate) complaints: Vec<String>,
    pub(crate) rounds: u64,
    pub(crate) watch: Option<Watch>,
}

impl Report {
    pub(crate) fn new(watch: Option<Watch>) -> Self {
        Report { trials: Vec::new(), complaints: Vec::new(), rounds: 0, watch }
    }

    pub(crate) fn add(&mut self, trial: Trial, figures: Figures) {
        match self.trials.iter_mut().find(|(known, _)| *known == trial) {
            Some((_, sum)) => sum.add(&figures),
            None => self.trials.push((trial, figures)),
        }
    }

    pub(crate) fn passed(&self) -> bool {
        self.complaints.is_empty() && self.trials.iter().all(|(_, figures)| figures.failures == 0)
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN);
        let header =
            ["trial", "clients", "answered", "resets", "unanswered", "failures", "p50", "p99", "slowest", "verdict"];
        table.set_header(header);
        for (trial, figures) in &self.trials {
            let quantile = |quantile| figures.answered_within(quantile).map_or("-".to_owned(), milliseconds);
            table.add_row([
                trial.to_string(),
                HumanCount(figures.clients).to_string(),
                BinaryBytes(figures.answered).to_string(),
                HumanCount(figures.resets).to_string(),
                HumanCount(figures.unanswered).to_string(),
                HumanCount(figures.failures).to_string(),
                quantile(0.5),
                quantile(0.99),
                quantile(1.0),
                if figures.failures == 0 { "passed" } else { "FAILED" }.to_owned(),
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(watch) = &self.watch {
            writeln!(f, "{}\n", watch.table())?;
        }
        writeln!(f, "{}", self.table())?;
        writeln!(f, "p50, p99, slowest: how long the canaries waited for answers, in ms, our own delay included")?;
        for (trial, figures) in &self.trials {
            for complaint in &figures.complaints {
                writeln!(f, "{trial}: {complaint}")?;
            }
            let more = figures.failures - figures.complaints.len() as u64;
            if more > 0 {
                writeln!(f, "{trial}: {more} more failures")?;
            }
        }
        for complaint in &self.complaints {
            writeln!(f, "server: {complaint}")?;
        }
        Ok(())
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1e3)
}
