//! The reactor at work: one sample each second, as events for browsers and as metrics for Prometheus.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use socketserver::{ConnectionId, EndReason, Others, Stats};

#[derive(Default)]
pub(crate) struct Live {
    pub(crate) viewers: BTreeSet<ConnectionId>,
    pub(crate) messages: u64,
    pub(crate) ends: HashMap<EndReason, u64>,
    /// The samples of the last minutes, for pages that are opened or loaded again.
    samples: VecDeque<String>,
    /// When the last sample was taken, and the counters at that time.
    before: (Duration, u64, Stats),
}

impl Live {
    /// Takes a sample, and sends it to all pages.
    pub(crate) fn sample<S>(&mut self, others: &mut Others<'_, S>) {
        let (now, stats) = (others.now(), others.stats());
        let (then, messages, before) = std::mem::replace(&mut self.before, (now, self.messages, stats.clone()));
        let passed = (now - then).as_secs_f64().max(1e-3);
        let rate = |now: u64, then: u64| ((now - then) as f64 / passed).round();
        let turns = (stats.turns - before.turns).max(1) as f64;
        let busy = (stats.turns_took - before.turns_took).as_secs_f64();
        let unsent: usize = others.connections().into_iter().filter_map(|id| others.output_len(id)).sum();
        let ends = self.ends.iter().map(|(why, count)| format!("\"{why}\":{count}")).collect::<Vec<_>>().join(",");
        let time = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
        let sample = format!(
            "{{\"time\":{time},\"connections\":{},\"messages\":{},\"received\":{},\"sent\":{},\"turn\":{:.1},\
             \"busy\":{:.2},\"unsent\":{unsent},\"waiting\":{},\"ends\":{{{ends}}}}}",
            stats.active,
            rate(self.messages, messages),
            rate(stats.bytes_in, before.bytes_in),
            rate(stats.bytes_out, before.bytes_out),
            busy / turns * 1e6,
            busy / passed * 100.0,
            stats.requests_waiting + stats.offload_waiting,
        );
        others.broadcast(format!("event: sample\ndata: {sample}\n\n").into_bytes(), |id| self.viewers.contains(&id));
        self.samples.truncate(SAMPLES_MAX - 1);
        self.samples.push_front(sample);
    }

    /// All samples, oldest first, as a JSON array.
    pub(crate) fn history(&self) -> String {
        let samples: Vec<_> = self.samples.iter().rev().map(|sample| &sample[..]).collect();
        format!("[{}]", samples.join(","))
    }

    /// The text format of Prometheus.
    pub(crate) fn metrics(&self, stats: &Stats) -> String {
        let mut text = String::new();
        for (name, kind, value) in [
            ("connections", "gauge", stats.active as f64),
            ("accepted_total", "counter", stats.accepted as f64),
            ("requests_total", "counter", self.messages as f64),
            ("received_bytes_total", "counter", stats.bytes_in as f64),
            ("sent_bytes_total", "counter", stats.bytes_out as f64),
            ("turns_total", "counter", stats.turns as f64),
            ("turn_seconds_total", "counter", stats.turns_took.as_secs_f64()),
            ("longest_turn_seconds", "gauge", stats.longest_turn.as_secs_f64()),
            ("waiting", "gauge", (stats.requests_waiting + stats.offload_waiting) as f64),
        ] {
            let _ = write!(text, "# TYPE socketserver_{name} {kind}\nsocketserver_{name} {value}\n");
        }
        text += "# TYPE socketserver_ends_total counter\n";
        for (why, count) in &self.ends {
            let _ = writeln!(text, "socketserver_ends_total{{reason=\"{why}\"}} {count}");
        }
        text
    }
}

const SAMPLES_MAX: usize = 300;
