//! The server's process as /proc shows it: its memory, and how many descriptors it has.

use std::fs;
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{BinaryBytes, FormattedDuration};

use crate::growth::Growth;
use crate::wait::wait_for;

pub(crate) struct Watch {
    pid: u32,
    begun: Instant,
    next_sample: Instant,
    /// Before a client connected.
    start: Sample,
    minutes: Vec<Minute>,
}

#[derive(Clone, Copy)]
struct Sample {
    rss: u64,
    descriptors: usize,
}

/// What was seen in a minute.
struct Minute {
    begun: Instant,
    rss_lowest: u64,
    rss_highest: u64,
    descriptors_highest: usize,
}

impl Watch {
    /// Before the server has any client.
    pub(crate) fn start(pid: u32) -> Result<Self, String> {
        let now = Instant::now();
        Ok(Watch { pid, begun: now, next_sample: now, start: Sample::of(pid)?, minutes: Vec::new() })
    }

    /// Samples if it is time for it.
    pub(crate) fn tick(&mut self, now: Instant) -> Result<(), String> {
        if now < self.next_sample {
            return Ok(());
        }
        self.next_sample = now + SAMPLED_EVERY;
        let sample = Sample::of(self.pid)?;
        match self.minutes.last_mut() {
            Some(minute) if now - minute.begun < MINUTE => minute.add(sample),
            _ => self.minutes.push(Minute::new(now, sample)),
        }
        Ok(())
    }

    /// When all clients are gone: waits for the server to notice, and tells what is wrong.
    pub(crate) fn finish(&mut self, patience: Duration) -> Result<Vec<String>, String> {
        let mut complaints = Vec::new();
        let before = self.start.descriptors;
        let settled = wait_for(patience, || Sample::of(self.pid).ok().filter(|sample| sample.descriptors == before));
        let end = settled.map_or_else(|| Sample::of(self.pid), Ok)?;
        if end.descriptors != before {
            let now = end.descriptors;
            complaints.push(format!("expected {before} descriptors as at the start, seen: {now}"));
        }
        // The last minute is not a whole one.
        let whole = self.minutes.len().saturating_sub(1);
        let lowest: Vec<u64> = self.minutes[..whole].iter().map(|minute| minute.rss_lowest).collect();
        complaints.extend(Growth::of(&lowest).map(|growth| growth.to_string()));
        self.minutes.push(Minute::new(Instant::now(), end));
        Ok(complaints)
    }

    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN);
        table.set_header(["process after", "RSS, lowest", "RSS, highest", "descriptors, most"]);
        let start = Minute::new(self.begun, self.start);
        for minute in std::iter::once(&start).chain(&self.minutes) {
            let after = FormattedDuration(minute.begun - self.begun).to_string();
            let rss = [minute.rss_lowest, minute.rss_highest].map(|bytes| BinaryBytes(bytes).to_string());
            let descriptors = minute.descriptors_highest.to_string();
            table.add_row([after, rss[0].clone(), rss[1].clone(), descriptors]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

impl Minute {
    fn new(begun: Instant, Sample { rss, descriptors }: Sample) -> Self {
        Minute { begun, rss_lowest: rss, rss_highest: rss, descriptors_highest: descriptors }
    }

    fn add(&mut self, Sample { rss, descriptors }: Sample) {
        self.rss_lowest = self.rss_lowest.min(rss);
        self.rss_highest = self.rss_highest.max(rss);
        self.descriptors_highest = self.descriptors_highest.max(descriptors);
    }
}

impl Sample {
    fn of(pid: u32) -> Result<Self, String> {
        let cannot = |error| format!("cannot watch process {pid}: {error}");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(cannot)?;
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_err(cannot)?.count();
        // A process that has ended and was not waited for has no memory.
        let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"));
        let kilobytes: u64 = kilobytes
            .and_then(|number| number.trim().parse().ok())
            .ok_or_else(|| format!("cannot watch process {pid}: it has no VmRSS"))?;
        Ok(Sample { rss: kilobytes << 10, descriptors })
    }
}

const SAMPLED_EVERY: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
