//! All contenders in all scenarios, round by round.
//!
//! In each round and scenario the reference is measured first and last, and the others between, each round beginning
//! with another one of them. What changes on the machine over time affects all of them alike, and shows in the two
//! figures of the reference. Each contender is started again for each scenario and round.

use crate::check;
use crate::contenders::Contender;
use crate::cpus::Cpus;
use crate::job::Job;
use crate::process::check_interrupt;
use crate::progress::Progress;
use crate::results::{Gap, Trial};
use crate::scenario::{Scenario, reference};
use crate::server::Server;
use crate::trial::Measurement;
use std::collections::BTreeMap;
use std::time::Duration;

/// A contender in one scenario and round.
pub(crate) struct Turn<'a> {
    round: usize,
    contender: &'a Contender,
    scenario: &'a Scenario,
}

/// All turns in their order.
pub(crate) fn plan<'a>(contenders: &'a [Contender], scenarios: &'a [Scenario], rounds: usize) -> Vec<Turn<'a>> {
    let mut turns = Vec::new();
    for round in 1..=rounds {
        for scenario in scenarios {
            let able: Vec<_> = contenders.iter().filter(|contender| scenario.is_for(contender)).collect();
            let order = order(&able, |contender| contender.name == reference(scenario.job()), round);
            turns.extend(order.into_iter().map(|contender| Turn { round, contender, scenario }));
        }
    }
    turns
}

/// Takes the turns one after the other.
pub(crate) struct Rounds {
    cpus: Cpus,
    length: Duration,
    /// Whether a contender does a job.
    checked: BTreeMap<(String, Job), Result<(), String>>,
    pub(crate) trials: Vec<Trial>,
    pub(crate) gaps: Vec<Gap>,
}

impl Rounds {
    /// `length`: of each trial.
    pub(crate) fn new(cpus: Cpus, length: Duration) -> Rounds {
        Rounds { cpus, length, checked: BTreeMap::new(), trials: Vec::new(), gaps: Vec::new() }
    }

    /// # Errors
    ///
    /// A signal has asked this program to end. Any other failure becomes a gap.
    pub(crate) fn run(&mut self, turns: &[Turn<'_>], progress: &mut Progress) -> Result<(), String> {
        for turn in turns {
            let Turn { round, contender, scenario } = turn;
            progress.step(&format!("round {round}: {}: {}", contender.name, scenario.title));
            // What failed once is not tried in later rounds.
            if self.gaps.iter().any(|gap| gap.contender == contender.name && gap.scenario == scenario.key) {
                continue;
            }
            let result = self.take(turn);
            check_interrupt()?;
            match result {
                Ok(trial) => self.trials.push(trial),
                Err(reason) => {
                    progress.say(&format!("failed: {}: {}: {reason}", contender.name, scenario.title));
                    self.gaps.push(Gap { contender: contender.name.clone(), scenario: scenario.key.clone(), reason });
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, turn: &Turn<'_>) -> Result<Trial, String> {
        let Turn { round, contender, scenario } = *turn;
        let (job, cpus) = (scenario.job(), self.cpus);
        // The check has a server of its own: it must not warm up the one that is measured.
        let check = || check::conforms(Server::start(&[], contender, job, cpus)?.address, job);
        self.checked.entry((contender.name.clone(), job)).or_insert_with(check).clone()?;
        let mut server = Server::start(&[], contender, job, cpus)?;
        let name = &contender.name;
        let threads = contender.threads;
        let measurement =
            Measurement { server: &server, contender: name, threads, scenario, round, length: self.length };
        measurement.run().map_err(|reason| server.explain(reason))
    }
}

/// The reference, the others, the reference. Each round begins with another one of the others.
fn order<T: Copy>(contenders: &[T], is_reference: impl Fn(T) -> bool, round: usize) -> Vec<T> {
    let (references, mut others): (Vec<T>, Vec<T>) = contenders.iter().partition(|&&contender| is_reference(contender));
    if !others.is_empty() {
        let first = (round - 1) % others.len();
        others.rotate_left(first);
    }
    [&references[..], &others[..], &references[..]].concat()
}

#[cfg(test)]
mod tests {
    use super::order;

    #[test]
    fn the_reference_is_first_and_last_and_the_others_take_turns() {
        let order = |round| order(&["a", "reference", "b", "c"], |name| name == "reference", round);
        assert_eq!(order(1), ["reference", "a", "b", "c", "reference"]);
        assert_eq!(order(2), ["reference", "b", "c", "a", "reference"]);
        assert_eq!(order(4), order(1));
    }
}
