//! All that was measured, as it is written to a file of JSON: the figures of each round, nothing averaged.

use crate::contenders::target_directory;
use crate::counts::Item;
use crate::load::Failures;
use crate::options::{Benchmark, Options};
use crate::process::output;
use crate::scenario::Scenario;
use procfs::Current;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The whole file.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Results {
    pub(crate) benchmark: Benchmark,
    pub(crate) command_line: Vec<String>,
    /// Seconds since 1970, UTC.
    pub(crate) started: u64,
    pub(crate) took_s: f64,
    /// What the figures belong to, in words.
    pub(crate) machine: Vec<String>,
    pub(crate) rounds: usize,
    /// Of each trial.
    pub(crate) measured_s: f64,
    /// Names and versions, in the order of the tables.
    pub(crate) contenders: Vec<(String, String)>,
    /// Names, and why they are absent.
    pub(crate) absent: Vec<(String, String)>,
    pub(crate) scenarios: Vec<Scenario>,
    /// In the order in which they were made.
    pub(crate) trials: Vec<Trial>,
    pub(crate) gaps: Vec<Gap>,
    pub(crate) counts: Vec<Count>,
}

/// One contender in one scenario in one round. The reference has two in each round, the first and the last.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Trial {
    pub(crate) contender: String,
    /// The scenario's key.
    pub(crate) scenario: String,
    /// From 1.
    pub(crate) round: usize,
    /// Messages, connections or datagrams that were echoed in full and correctly.
    pub(crate) done: u64,
    pub(crate) elapsed_s: f64,
    /// CPU time of the server's process meanwhile, all threads, user and kernel.
    pub(crate) server_cpu_s: f64,
    /// CPU time of the busiest of the server's threads that serve clients, divided by their mean.
    pub(crate) busiest_thread: Option<f64>,
    /// CPU time of the load meanwhile.
    pub(crate) load_cpu_s: f64,
    pub(crate) failures: Failures,
    /// Only of idle connections: bytes of heap and stacks for each, beyond those that the same process had when a first
    /// crowd had come and gone.
    pub(crate) bytes_per_idle_connection: Option<f64>,
}

/// What was tried and failed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Gap {
    pub(crate) contender: String,
    /// The scenario's key.
    pub(crate) scenario: String,
    pub(crate) reason: String,
}

/// For each item. The reason instead, if it could not be counted.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Count {
    pub(crate) contender: String,
    pub(crate) item: Item,
    pub(crate) system_calls: Result<SystemCalls, String>,
    pub(crate) instructions: Result<f64, String>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct SystemCalls {
    pub(crate) total: f64,
    pub(crate) by_name: BTreeMap<String, f64>,
}

impl Results {
    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string());
        let written = text.and_then(|text| std::fs::write(path, text + "\n").map_err(|error| error.to_string()));
        written.map_err(|error| format!("cannot write {}: {error}", path.display()))
    }

    /// Contenders of which there is no trial.
    pub(crate) fn without_trials(&self) -> Vec<&str> {
        let names = self.contenders.iter().map(|(name, _)| name.as_str());
        names.filter(|name| self.trials.iter().all(|trial| trial.contender != *name)).collect()
    }

    /// All rounds of one contender in one scenario.
    pub(crate) fn trials<'a>(&'a self, contender: &'a str, scenario: &'a Scenario) -> impl Iterator<Item = &'a Trial> {
        self.trials.iter().filter(move |trial| trial.contender == contender && trial.scenario == scenario.key)
    }
}

/// The directory for the results. Made before minutes are spent on what is to be in it.
pub(crate) fn make_directory(options: &Options) -> Result<PathBuf, String> {
    let directory = match &options.out {
        Some(directory) => directory.clone(),
        None => target_directory()?.join("benchmarks"),
    };
    std::fs::create_dir_all(&directory).map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
    Ok(directory)
}

/// The machine in the words of the kernel, and the tools in their own.
pub(crate) fn describe_machine(connections_possible: usize) -> Vec<String> {
    let cpus = procfs::CpuInfo::current().ok();
    let model = cpus.as_ref().and_then(|cpus| cpus.model_name(0)).unwrap_or("unknown CPU");
    let count = cpus.as_ref().map_or(0, |cpus| cpus.num_cores());
    let memory = procfs::Meminfo::current().map_or(0, |memory| memory.mem_total >> 20);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let hardware = format!("{model}, {count} CPUs, {memory} MiB of memory, Linux {}", kernel.trim());
    let tools = ["rustc", "strace", "valgrind"].map(|program| match output(&[program, "--version"]) {
        Ok(text) => text.lines().next().unwrap_or_default().to_owned(),
        Err(reason) => format!("{program} is absent: {reason}"),
    });
    let limit = format!("room for {connections_possible} connections");
    [vec![hardware, limit], tools.to_vec()].concat()
}
