//! All that was measured, as it is written to a file of JSON: every round's own figures, nothing averaged.

use crate::machine::Machine;
use crate::procfs::Drops;
use crate::scenario::{Item, Scenario};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results {
    /// Of this structure. Fields may be added under the same number.
    pub(crate) schema: u32,
    pub(crate) benchmark: String,
    pub(crate) command_line: Vec<String>,
    /// Seconds since 1970, UTC.
    pub(crate) started: u64,
    pub(crate) took_s: f64,
    pub(crate) machine: Machine,
    pub(crate) method: Method,
    /// In the order of the tables.
    pub(crate) contenders: Vec<Entry>,
    pub(crate) absent: Vec<AbsentEntry>,
    pub(crate) scenarios: Vec<Scenario>,
    /// In the order in which they were made.
    pub(crate) trials: Vec<Trial>,
    pub(crate) gaps: Vec<Gap>,
    pub(crate) counts: Vec<Count>,
}

pub(crate) const SCHEMA: u32 = 1;

/// How it was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Method {
    pub(crate) rounds: usize,
    /// Of each trial.
    pub(crate) measured_s: f64,
    /// Before it.
    pub(crate) warm_up_s: f64,
    pub(crate) server_cpu: usize,
    pub(crate) load_cpu: usize,
    /// In words.
    pub(crate) cpus: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) version: String,
    /// `one`, `several`, `per client`.
    pub(crate) threads: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AbsentEntry {
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// One contender in one scenario in one round. The reference has two in each round, the first and the last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Trial {
    pub(crate) contender: String,
    /// The scenario's key.
    pub(crate) scenario: String,
    /// From 1.
    pub(crate) round: usize,
    /// Messages, connections or datagrams that were echoed in full and rightly.
    pub(crate) done: u64,
    /// Of these, one way.
    pub(crate) bytes: u64,
    pub(crate) elapsed_s: f64,
    /// CPU time of the server's process meanwhile, all threads, user and kernel.
    pub(crate) server_cpu_s: f64,
    /// CPU time of the load meanwhile.
    pub(crate) load_cpu_s: f64,
    /// `None` if nothing was done.
    pub(crate) latency: Option<Latency>,
    pub(crate) failures: Failed,
    /// Messages that the load itself sent too late, at a fixed rate.
    pub(crate) late: u64,
    /// What the kernel dropped meanwhile, by its own names.
    pub(crate) drops: Drops,
    /// Only of idle connections.
    pub(crate) idle: Option<Idle>,
}

/// In microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Failed {
    pub(crate) connects: u64,
    pub(crate) broken: u64,
    /// No answer in time. Of datagrams: lost.
    pub(crate) silent: u64,
    pub(crate) wrong_bytes: u64,
    /// The first one in words.
    pub(crate) first: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Idle {
    /// Bytes of memory beyond those of the same process before, when a first crowd had come and gone; for each
    /// connection. Shared pages divided by their users.
    pub(crate) pss_per_connection: f64,
    /// The same of heap and stacks alone.
    pub(crate) anonymous_per_connection: f64,
    pub(crate) threads: u64,
    /// CPU time in a second in which nothing happened.
    pub(crate) cpu_s_per_second: f64,
}

/// What was not measured, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Gap {
    pub(crate) contender: String,
    /// The scenario's key.
    pub(crate) scenario: String,
    pub(crate) reason: String,
    /// It was tried, and did not do it.
    pub(crate) failed: bool,
}

/// What does not depend on the clock, for each item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Count {
    pub(crate) contender: String,
    pub(crate) item: Item,
    pub(crate) system_calls: Result<SystemCalls, String>,
    /// In user space, of the whole process.
    pub(crate) instructions: Result<f64, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SystemCalls {
    pub(crate) total: f64,
    pub(crate) by_name: BTreeMap<String, f64>,
}

impl Failed {
    pub(crate) fn total(&self) -> u64 {
        self.connects + self.broken + self.silent + self.wrong_bytes
    }
}

impl Results {
    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        let failed = |error: &dyn std::fmt::Display| format!("cannot write {}: {error}", path.display());
        let mut text = serde_json::to_string_pretty(self).map_err(|error| failed(&error))?;
        text.push('\n');
        std::fs::write(path, text).map_err(|error| failed(&error))
    }

    /// Those who were asked for something and did nothing of it.
    pub(crate) fn those_that_failed(&self) -> Vec<&str> {
        let names = self.contenders.iter().map(|entry| entry.name.as_str());
        names.filter(|name| self.trials.iter().all(|trial| trial.contender != *name)).collect()
    }

    /// All rounds of one contender in one scenario.
    pub(crate) fn trials<'a>(&'a self, contender: &'a str, scenario: &'a Scenario) -> impl Iterator<Item = &'a Trial> {
        self.trials.iter().filter(move |trial| trial.contender == contender && trial.scenario == scenario.key)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::job::Transport;
    use crate::scenario::Work;

    /// One scenario with the reference and one contender that needs twice its CPU time.
    pub(crate) fn sample() -> Results {
        let trial = |contender: &str, round, done, server_cpu_s| Trial {
            contender: contender.to_owned(),
            scenario: "ping".to_owned(),
            round,
            done,
            bytes: done * 64,
            elapsed_s: 1.0,
            server_cpu_s,
            load_cpu_s: 0.5,
            latency: Some(Latency { p50: 10.0, p99: 20.0, p999: 30.0, max: 40.0 }),
            failures: Failed::default(),
            late: 0,
            drops: Drops::default(),
            idle: None,
        };
        Results {
            schema: SCHEMA,
            benchmark: "echo".to_owned(),
            command_line: vec!["measure".to_owned(), "echo".to_owned()],
            started: 0,
            took_s: 3.0,
            machine: Machine {
                kernel: "6.1".to_owned(),
                cpu_model: "a CPU".to_owned(),
                cpus: 2,
                frequency_governor: None,
                memory_mib: 1024,
                rustc: "rustc".to_owned(),
                strace: "absent".to_owned(),
                valgrind: "absent".to_owned(),
                nofile: (1024, 20_000),
                somaxconn: Some(4096),
                tcp_max_syn_backlog: None,
                ip_local_port_range: None,
            },
            method: Method {
                rounds: 2,
                measured_s: 1.0,
                warm_up_s: 0.25,
                server_cpu: 1,
                load_cpu: 0,
                cpus: "two".to_owned(),
            },
            contenders: ["epoll", "other"]
                .map(|name| Entry { name: name.to_owned(), version: "1".to_owned(), threads: "one".to_owned() })
                .to_vec(),
            absent: vec![AbsentEntry { name: "node".to_owned(), reason: "not found".to_owned() }],
            scenarios: vec![Scenario {
                key: "ping".to_owned(),
                title: "Ping-pong".to_owned(),
                transport: Transport::Tcp,
                work: Work::PingPong { connections: 1, message: 64 },
            }],
            trials: vec![
                trial("epoll", 1, 1_000, 0.5),
                trial("other", 1, 500, 0.5),
                trial("epoll", 1, 1_000, 0.5),
                trial("epoll", 2, 500, 0.5),
                trial("other", 2, 500, 0.9),
                trial("epoll", 2, 1_500, 0.5),
            ],
            gaps: Vec::new(),
            counts: vec![Count {
                contender: "epoll".to_owned(),
                item: Item::Message,
                system_calls: Ok(SystemCalls { total: 2.02, by_name: BTreeMap::from([("read".to_owned(), 1.0)]) }),
                instructions: Err("valgrind is absent".to_owned()),
            }],
        }
    }

    #[test]
    fn who_did_nothing_failed() {
        let mut results = sample();
        assert!(results.those_that_failed().is_empty());
        results.trials.retain(|trial| trial.contender != "other");
        assert_eq!(results.those_that_failed(), ["other"]);
    }

    #[test]
    fn what_is_written_can_be_read() {
        let text = serde_json::to_string(&sample()).expect("JSON");
        assert_eq!(serde_json::from_str::<Results>(&text).expect("the same"), sample());
    }
}
