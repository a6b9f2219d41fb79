//! All contenders in all scenarios, round by round.
//!
//! In each round and scenario the reference is measured first and last, and the others between, each round beginning
//! with another one of them: what changes on the machine while time goes by meets all alike, and shows in the two
//! figures of the reference. Each contender is started anew for each list of scenarios.

use crate::check;
use crate::contenders::Contender;
use crate::cpus::Cpus;
use crate::progress::Progress;
use crate::results::{Gap, Trial};
use crate::scenario::{Scenario, reference};
use crate::server::Server;
use crate::trial::{Length, Visit};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) struct Rounds<'a> {
    pub(crate) contenders: &'a [Contender],
    pub(crate) cpus: Cpus,
    pub(crate) length: Length,
}

/// A contender at one list of scenarios, in one round.
pub(crate) struct Turn<'a> {
    round: usize,
    contender: &'a Contender,
    scenarios: Vec<&'a Scenario>,
}

/// What came of it.
#[derive(Default)]
pub(crate) struct Outcomes {
    pub(crate) trials: Vec<Trial>,
    pub(crate) gaps: Vec<Gap>,
}

impl<'a> Rounds<'a> {
    /// All turns in their order, and who is not asked for what.
    pub(crate) fn plan(&self, lists: &'a [Vec<Scenario>], rounds: usize) -> (Vec<Turn<'a>>, Vec<Gap>) {
        let mut turns = Vec::new();
        for round in 1..=rounds {
            for list in lists {
                let limit = list.first().map(|scenario| reference(scenario.transport)).unwrap_or_default();
                for contender in order(self.contenders, |contender| contender.name == limit, round) {
                    let scenarios: Vec<_> =
                        list.iter().filter(|scenario| scenario.refusal(contender).is_none()).collect();
                    if !scenarios.is_empty() {
                        turns.push(Turn { round, contender, scenarios });
                    }
                }
            }
        }
        let mut gaps = Vec::new();
        for scenario in lists.iter().flatten() {
            for contender in self.contenders {
                let reason = scenario.refusal(contender);
                gaps.extend(reason.map(|reason| gap(contender, scenario, reason, false)));
            }
        }
        (turns, gaps)
    }

    /// Takes the turns. What failed once is not tried in later rounds.
    pub(crate) fn run(&self, turns: &[Turn<'_>], progress: &mut Progress) -> Outcomes {
        let mut outcomes = Outcomes::default();
        let mut failed = BTreeSet::new();
        let mut checked = BTreeMap::new();
        for turn in turns {
            let Turn { round, contender, scenarios } = turn;
            let name = &contender.name;
            progress.step(&format!("round {round}: {name}: {}", scenarios[0].title));
            let mut left: Vec<_> =
                scenarios.iter().filter(|scenario| !failed.contains(&(name, &scenario.key))).collect();
            if left.is_empty() {
                continue;
            }
            let result = self.take_turn(turn, &left, &mut checked, &mut outcomes.trials, progress);
            if let Err((done, reason)) = result {
                for scenario in left.drain(..).skip(done) {
                    progress.say(&format!("failed: {name}: {}: {reason}", scenario.title));
                    failed.insert((name, &scenario.key));
                    outcomes.gaps.push(gap(contender, scenario, reason.clone(), true));
                }
            }
        }
        outcomes
    }

    /// An error comes with the number of scenarios that were done before it.
    fn take_turn(
        &self,
        turn: &Turn<'_>,
        scenarios: &[&&Scenario],
        checked: &mut BTreeMap<(String, &'static str, &'static str), Result<(), String>>,
        trials: &mut Vec<Trial>,
        progress: &mut Progress,
    ) -> Result<(), (usize, String)> {
        let Some(first) = scenarios.first() else { return Ok(()) };
        let (contender, job, transport) = (turn.contender, first.job(), first.transport);
        let start = || Server::start(contender, job, transport, self.cpus);
        // The check is made at a server of its own: it must not warm up what is measured.
        checked
            .entry((contender.name.clone(), job.word(), transport.word()))
            .or_insert_with(|| {
                let server = start()?;
                check::conforms(&server.address, job, contender.half_close)
                    .map_err(|reason| format!("does not do the job: {reason}"))
            })
            .clone()
            .map_err(|reason| (0, reason))?;

        let mut server = start().map_err(|reason| (0, reason))?;
        let before = trials.len();
        let mut visit = Visit::new(&server, self.length, progress);
        let mut result = Ok(());
        for scenario in scenarios {
            match visit.trial(&contender.name, scenario, turn.round) {
                Ok(trial) => trials.push(trial),
                Err(reason) => {
                    result = Err(reason);
                    break;
                }
            }
        }
        drop(visit);
        result.map_err(|reason| (trials.len() - before, server.explain(reason)))
    }

    /// One trial of `contender` that is not part of the rounds.
    pub(crate) fn single(
        &self,
        contender: &Contender,
        scenario: &Scenario,
        progress: &mut Progress,
    ) -> Result<Trial, String> {
        let server = Server::start(contender, scenario.job(), scenario.transport, self.cpus)?;
        Visit::new(&server, self.length, progress).trial(&contender.name, scenario, 0)
    }
}

/// The reference, the others, the reference. Each round begins with another one of the others.
fn order<T>(contenders: &[T], is_reference: impl Fn(&T) -> bool, round: usize) -> Vec<&T> {
    let (references, mut others): (Vec<&T>, Vec<&T>) =
        contenders.iter().partition(|&contender| is_reference(contender));
    if !others.is_empty() {
        let first = (round - 1) % others.len();
        others.rotate_left(first);
    }
    [&references[..], &others[..], &references[..]].concat()
}

fn gap(contender: &Contender, scenario: &Scenario, reason: String, failed: bool) -> Gap {
    Gap { contender: contender.name.clone(), scenario: scenario.key.clone(), reason, failed }
}

#[cfg(test)]
mod tests {
    use super::order;

    #[test]
    fn the_reference_is_first_and_last_and_the_others_take_turns() {
        let order = |round| order(&["a", "limit", "b", "c"], |name| *name == "limit", round);
        assert_eq!(order(1), [&"limit", &"a", &"b", &"c", &"limit"]);
        assert_eq!(order(2), [&"limit", &"b", &"c", &"a", &"limit"]);
        assert_eq!(order(4), order(1));
    }

    #[test]
    fn without_a_reference_there_are_the_others() {
        assert_eq!(order(&["a"], |_| false, 3), [&"a"]);
    }
}
