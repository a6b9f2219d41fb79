//! What came of a trial, in numbers and in words.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Of one run of a trial, or of all its runs.
pub(crate) struct Figures {
    /// Connections that were made, or sockets that sent datagrams, the canaries' among them.
    pub(crate) clients: u64,
    /// Bytes that came back.
    pub(crate) answered: u64,
    /// Connections that were reset on purpose.
    pub(crate) resets: u64,
    /// Datagrams that had no answer when their sender was done.
    pub(crate) unanswered: u64,
    /// How long the canaries waited for their answers, in microseconds.
    answers: Histogram<u64>,
    pub(crate) failures: u64,
    /// Of the first failures, what they were.
    pub(crate) complaints: Vec<String>,
}

impl Figures {
    pub(crate) fn new() -> Self {
        Figures {
            clients: 0,
            answered: 0,
            resets: 0,
            unanswered: 0,
            answers: Histogram::new_with_bounds(1, ANSWER_MICROS_MAX, 3).expect("it can have these bounds"),
            failures: 0,
            complaints: Vec::new(),
        }
    }

    pub(crate) fn answer(&mut self, took: Duration) {
        self.answers.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn fail(&mut self, complaint: String) {
        self.failures += 1;
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(complaint);
        }
    }

    pub(crate) fn add(&mut self, other: &Figures) {
        self.clients += other.clients;
        self.answered += other.answered;
        self.resets += other.resets;
        self.unanswered += other.unanswered;
        self.answers.add(&other.answers).expect("all have the same bounds");
        self.failures += other.failures;
        let room = COMPLAINTS_MAX - self.complaints.len();
        self.complaints.extend(other.complaints.iter().take(room).cloned());
    }

    /// The time within which this share of the answers came, or `None` if there were none.
    pub(crate) fn answered_within(&self, quantile: f64) -> Option<Duration> {
        let micros = self.answers.value_at_quantile(quantile);
        (!self.answers.is_empty()).then(|| Duration::from_micros(micros))
    }
}

/// A server that is broken is so in the same way again and again.
const COMPLAINTS_MAX: usize = 5;

/// An hour. No answer takes so long.
const ANSWER_MICROS_MAX: u64 = 3_600_000_000;
