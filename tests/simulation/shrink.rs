//! Makes a plan that fails smaller, as long as it still fails.

#![allow(clippy::disallowed_methods, reason = "the time for this is real time")]

use std::time::{Duration, Instant};

use crate::plan::Plan;
use crate::stage::play;

/// What is left of a plan, and how it fails.
pub(crate) struct Shrunk {
    pub(crate) plan: Plan,
    /// Of the steps of the whole plan.
    pub(crate) steps: Vec<usize>,
    pub(crate) error: String,
}

/// Takes away faults and habits one by one, then steps in runs that get shorter, until nothing more can go, or after so
/// many attempts or so much time: an attempt that waits for another thread in vain takes seconds.
pub(crate) fn shrink(plan: &Plan, error: String) -> Shrunk {
    let mut shrunk = Shrunk { plan: plan.clone(), steps: (0..plan.steps.len()).collect(), error };
    let wanted = kind(&shrunk.error);
    let begun = Instant::now();
    let mut attempts = 0;
    let mut still_fails = |candidate: &Plan| {
        attempts += 1;
        if attempts > ATTEMPTS_MAX || begun.elapsed() > TIME_MAX {
            return None;
        }
        play(candidate).err().filter(|error| kind(error) == wanted)
    };
    let mut run = shrunk.plan.steps.len() / 2;
    while run > 0 {
        shrunk.simplify(&mut still_fails);
        let mut from = 0;
        while from < shrunk.plan.steps.len() {
            let to = (from + run).min(shrunk.plan.steps.len());
            let mut candidate = shrunk.plan.clone();
            candidate.steps.drain(from..to);
            match still_fails(&candidate) {
                Some(error) => {
                    (shrunk.plan, shrunk.error) = (candidate, error);
                    shrunk.steps.drain(from..to);
                }
                None => from = to,
            }
        }
        run /= 2;
    }
    shrunk
}

/// What an error says, without its numbers: another error is another story.
fn kind(error: &str) -> String {
    error.chars().filter(|c| c.is_alphabetic()).take(KIND_LETTERS).collect()
}

impl Shrunk {
    /// One pass over the faults and habits: what can go goes.
    fn simplify(&mut self, still_fails: &mut impl FnMut(&Plan) -> Option<String>) {
        for (name, _) in self.plan.names() {
            let mut candidate = self.plan.clone();
            candidate.clear(name);
            if let Some(error) = still_fails(&candidate) {
                (self.plan, self.error) = (candidate, error);
            }
        }
    }
}

const KIND_LETTERS: usize = 30;
const ATTEMPTS_MAX: usize = 500;
const TIME_MAX: Duration = Duration::from_secs(20);
