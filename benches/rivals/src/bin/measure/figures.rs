//! What is read off the trials: one figure of one contender in one scenario over all rounds, and its ratio to the
//! reference's.

use crate::results::{Results, Trial};
use crate::scenario::{Scenario, reference};
use crate::statistics::{Summary, mean};

/// Shares of one, times in microseconds, sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    /// Items a second.
    Rate,
    /// Until the last one was done.
    Elapsed,
    /// Bytes a second, one way.
    Throughput,
    /// CPU time of the server for each item.
    ServerCpu,
    /// How busy the load was.
    LoadShare,
    P50,
    P99,
    P999,
    Max,
    Failures,
    Late,
    ListenOverflows,
    ListenDrops,
    RcvbufErrors,
    Pss,
    Anonymous,
    Threads,
    /// CPU time of the server in a second of silence.
    IdleCpu,
}

/// Above this share of its CPU the load may be what limits the rate.
pub(crate) const LOAD_LIMITED: f64 = 0.9;

impl Figure {
    /// `None` if this trial has none.
    pub(crate) fn of(self, trial: &Trial) -> Option<f64> {
        let rate = |amount: u64| (trial.elapsed_s > 0.0).then(|| amount as f64 / trial.elapsed_s);
        match self {
            Figure::Rate => rate(trial.done),
            Figure::Elapsed => Some(trial.elapsed_s * 1e6),
            Figure::Throughput => rate(trial.bytes),
            Figure::ServerCpu => (trial.done > 0).then(|| trial.server_cpu_s * 1e6 / trial.done as f64),
            Figure::LoadShare => (trial.elapsed_s > 0.0).then(|| trial.load_cpu_s / trial.elapsed_s),
            Figure::P50 => trial.latency.map(|latency| latency.p50),
            Figure::P99 => trial.latency.map(|latency| latency.p99),
            Figure::P999 => trial.latency.map(|latency| latency.p999),
            Figure::Max => trial.latency.map(|latency| latency.max),
            Figure::Failures => Some(trial.failures.total() as f64),
            Figure::Late => Some(trial.late as f64),
            Figure::ListenOverflows => trial.drops.get("ListenOverflows").map(|drops| drops as f64),
            Figure::ListenDrops => trial.drops.get("ListenDrops").map(|drops| drops as f64),
            Figure::RcvbufErrors => trial.drops.get("RcvbufErrors").map(|drops| drops as f64),
            Figure::Pss => trial.idle.map(|idle| idle.pss_per_connection),
            Figure::Anonymous => trial.idle.map(|idle| idle.anonymous_per_connection),
            Figure::Threads => trial.idle.map(|idle| idle.threads as f64),
            Figure::IdleCpu => trial.idle.map(|idle| idle.cpu_s_per_second),
        }
    }

    /// Median and spread over the rounds.
    pub(crate) fn summary(self, results: &Results, contender: &str, scenario: &Scenario) -> Option<Summary> {
        Summary::of(results.trials(contender, scenario).filter_map(|trial| self.of(trial)))
    }

    /// Of each round the ratio to the reference's mean in that round.
    pub(crate) fn ratio(self, results: &Results, contender: &str, scenario: &Scenario) -> Option<Summary> {
        let ratios = (1..=results.method.rounds).filter_map(|round| {
            let in_round = |contender| {
                let trials = results.trials(contender, scenario).filter(|trial| trial.round == round);
                mean(&trials.filter_map(|trial| self.of(trial)).collect::<Vec<_>>())
            };
            let limit = in_round(reference(scenario.transport))?;
            (limit > 0.0).then_some(in_round(contender)? / limit)
        });
        Summary::of(ratios)
    }
}

/// How far the two figures of the reference in one round were apart, at most: (larger - smaller) / smaller.
pub(crate) fn unsteadiness(figure: Figure, results: &Results, scenario: &Scenario) -> Option<f64> {
    let apart = (1..=results.method.rounds).filter_map(|round| {
        let trials = results.trials(reference(scenario.transport), scenario).filter(|trial| trial.round == round);
        let figures = Summary::of(trials.filter_map(|trial| figure.of(trial)))?;
        (figures.rounds > 1 && figures.lowest > 0.0).then(|| figures.highest / figures.lowest - 1.0)
    });
    apart.max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::sample;

    #[test]
    fn a_figure_of_a_trial() {
        let results = sample();
        let trial = &results.trials[1];
        assert_eq!(Figure::Rate.of(trial), Some(500.0));
        assert_eq!(Figure::Throughput.of(trial), Some(32_000.0));
        assert_eq!(Figure::ServerCpu.of(trial), Some(1_000.0));
        assert_eq!(Figure::LoadShare.of(trial), Some(0.5));
        assert_eq!(Figure::Pss.of(trial), None);
    }

    #[test]
    fn ratios_are_those_of_each_round() {
        let results = sample();
        let ratio = Figure::Rate.ratio(&results, "other", &results.scenarios[0]).expect("two rounds");
        assert_eq!((ratio.median, ratio.rounds), (0.5, 2));
        let own = Figure::Rate.ratio(&results, "epoll", &results.scenarios[0]).expect("two rounds");
        assert_eq!((own.lowest, own.highest), (1.0, 1.0));
        assert_eq!(Figure::Rate.ratio(&results, "nobody", &results.scenarios[0]), None);
    }

    #[test]
    fn the_reference_shows_how_steady_the_machine_was() {
        let results = sample();
        assert_eq!(unsteadiness(Figure::Rate, &results, &results.scenarios[0]), Some(2.0));
    }
}
