//! What is read off the trials: one figure of one contender in one scenario over all rounds, and its ratio to the
//! reference's.

use crate::results::{Results, Trial};
use crate::scenario::{Scenario, reference};

/// Shares of one, times in microseconds, sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    /// Items a second.
    Rate,
    /// CPU time of the server for each item.
    ServerCpu,
    /// How busy the load was.
    LoadShare,
    Failures,
    /// Bytes for each idle connection.
    Memory,
    /// The busiest thread as a multiple of the mean.
    Busiest,
}

/// Of the same figure in all rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    /// Half the way from the lowest to the highest.
    pub(crate) spread: f64,
}

impl Figure {
    /// `None` if this trial has none.
    pub(crate) fn of(self, trial: &Trial) -> Option<f64> {
        match self {
            Figure::Rate => Some(trial.done as f64 / trial.elapsed_s),
            Figure::ServerCpu => (trial.done > 0).then(|| trial.server_cpu_s * 1e6 / trial.done as f64),
            Figure::LoadShare => Some(trial.load_cpu_s / trial.elapsed_s),
            Figure::Failures => {
                let failures = &trial.failures;
                Some((failures.connects + failures.broken + failures.silent + failures.wrong_bytes) as f64)
            }
            Figure::Memory => trial.bytes_per_idle_connection,
            Figure::Busiest => trial.busiest_thread,
        }
    }

    pub(crate) fn summary(self, results: &Results, contender: &str, scenario: &Scenario) -> Option<Summary> {
        summary(results.trials(contender, scenario).filter_map(|trial| self.of(trial)).collect())
    }

    /// Of each round the ratio to the reference's mean in that round.
    pub(crate) fn ratio(self, results: &Results, contender: &str, scenario: &Scenario) -> Option<Summary> {
        let ratios = (1..=results.rounds).filter_map(|round| {
            let mean = |contender| {
                let values = self.in_round(results, contender, scenario, round);
                values.iter().sum::<f64>() / values.len() as f64
            };
            let ratio = mean(contender) / mean(reference(scenario.job()));
            ratio.is_finite().then_some(ratio)
        });
        summary(ratios.collect())
    }

    /// How far the two figures of the reference in one round were apart, at most: (larger - smaller) / smaller.
    pub(crate) fn unsteadiness(self, results: &Results, scenario: &Scenario) -> Option<f64> {
        let apart = (1..=results.rounds).filter_map(|round| {
            match self.in_round(results, reference(scenario.job()), scenario, round)[..] {
                [first, last] => Some(first.max(last) / first.min(last) - 1.0),
                _ => None,
            }
        });
        apart.max_by(f64::total_cmp)
    }

    fn in_round(self, results: &Results, contender: &str, scenario: &Scenario, round: usize) -> Vec<f64> {
        let trials = results.trials(contender, scenario).filter(|trial| trial.round == round);
        trials.filter_map(|trial| self.of(trial)).collect()
    }
}

/// `None` if there are no values.
pub(crate) fn summary(mut values: Vec<f64>) -> Option<Summary> {
    values.sort_by(f64::total_cmp);
    let spread = (values.last()? - values.first()?) / 2.0;
    let median = (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
    Some(Summary { median, spread })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::load::Failures;
    use crate::options::Benchmark;
    use crate::results::{Count, SystemCalls};
    use crate::scenario::Work;
    use std::collections::BTreeMap;

    /// Two rounds of one scenario, with the reference and one contender that has half its rate.
    pub(crate) fn sample() -> Results {
        let trial = |contender: &str, round, done| Trial {
            contender: contender.to_owned(),
            scenario: "ping".to_owned(),
            round,
            done,
            elapsed_s: 1.0,
            server_cpu_s: 0.5,
            busiest_thread: None,
            load_cpu_s: 0.95,
            failures: Failures::default(),
            bytes_per_idle_connection: None,
        };
        Results {
            benchmark: Benchmark::Echo,
            command_line: vec!["echo".to_owned()],
            started: 0,
            took_s: 3.0,
            machine: vec!["a machine".to_owned()],
            rounds: 2,
            measured_s: 1.0,
            contenders: ["epoll", "other"].map(|name| (name.to_owned(), "1".to_owned())).to_vec(),
            absent: vec![("node".to_owned(), "not found".to_owned())],
            scenarios: vec![Scenario {
                key: "ping".to_owned(),
                title: "Ping-pong".to_owned(),
                work: Work::Echo { connections: 64, depth: 1, message: 64 },
            }],
            trials: vec![
                trial("epoll", 1, 1_000),
                trial("other", 1, 500),
                trial("epoll", 1, 1_000),
                trial("epoll", 2, 500),
                trial("other", 2, 500),
                trial("epoll", 2, 1_500),
            ],
            gaps: Vec::new(),
            counts: vec![Count {
                contender: "epoll".to_owned(),
                item: crate::counts::Item::Message,
                system_calls: Ok(SystemCalls { total: 2.02, by_name: BTreeMap::from([("read".to_owned(), 1.0)]) }),
                instructions: Err("valgrind is absent".to_owned()),
            }],
        }
    }

    #[test]
    fn figures_of_a_trial() {
        let results = sample();
        let trial = &results.trials[1];
        assert_eq!(Figure::Rate.of(trial), Some(500.0));
        assert_eq!(Figure::ServerCpu.of(trial), Some(1_000.0));
        assert_eq!(Figure::Memory.of(trial), None);
    }

    #[test]
    fn medians_and_spreads() {
        assert_eq!(summary(vec![]), None);
        assert_eq!(summary(vec![3.0]), Some(Summary { median: 3.0, spread: 0.0 }));
        assert_eq!(summary(vec![9.0, 1.0, 2.0]), Some(Summary { median: 2.0, spread: 4.0 }));
    }

    #[test]
    fn ratios_are_those_of_each_round() {
        let results = sample();
        let ratio = |contender| Figure::Rate.ratio(&results, contender, &results.scenarios[0]);
        assert_eq!(ratio("other"), Some(Summary { median: 0.5, spread: 0.0 }));
        assert_eq!(ratio("epoll"), Some(Summary { median: 1.0, spread: 0.0 }));
        assert_eq!(ratio("nobody"), None);
    }

    #[test]
    fn the_reference_shows_how_steady_the_machine_was() {
        let results = sample();
        assert_eq!(Figure::Rate.unsteadiness(&results, &results.scenarios[0]), Some(2.0));
    }
}
