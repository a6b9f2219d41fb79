//! The reactor at work: one sample each second, as events for browsers and as metrics for Prometheus.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use prometheus::core::Collector as _;
use prometheus::{IntCounter, IntCounterVec, Opts};
use serde_json::{Value, json};
use socketserver::{ConnectionId, EndReason, Next, Others, Request, RequestHandler, Result, Stats};

use super::metrics;

#[derive(Default)]
pub(crate) struct Live {
    pub(crate) viewers: BTreeSet<ConnectionId>,
    pub(crate) requests: u64,
    /// How many connections have ended, by reason.
    pub(crate) ends: HashMap<EndReason, u64>,
    /// The counters of the last minutes, for pages that are opened or loaded again.
    samples: VecDeque<Value>,
}

impl Live {
    /// Takes a sample, and sends it to all pages.
    pub(crate) fn sample<S>(&mut self, others: &mut Others<'_, S>) {
        self.viewers.retain(|viewer| others.client_address(*viewer).is_some());
        let stats = others.stats();
        let unsent: usize = others.connections().into_iter().filter_map(|id| others.output_len(id)).sum();
        let ends: BTreeMap<_, _> = self.ends.iter().map(|(why, count)| (why.to_string(), count)).collect();
        let sample = json!({
            "uptime": others.now().as_secs_f64(), "busy": stats.turns_took.as_secs_f64(), "turns": stats.turns,
            "connections": stats.active, "requests": self.requests, "ends": ends,
            "received": stats.bytes_in, "sent": stats.bytes_out, "unsent": unsent,
            "waiting": stats.requests_waiting + stats.offload_waiting,
        });
        others.broadcast(format!("event: sample\ndata: {sample}\n\n"), |id| self.viewers.contains(&id));
        self.samples.push_back(sample);
        self.samples.drain(..self.samples.len().saturating_sub(SAMPLES_MAX));
    }

    /// All samples, oldest first, as a JSON array.
    pub(crate) fn history(&self) -> String {
        json!(self.samples).to_string()
    }

    /// The counters for Prometheus.
    pub(crate) fn metrics(&self, stats: &Stats) -> String {
        let requests = IntCounter::new("socketserver_requests_total", "Requests").expect("it is a valid name");
        requests.inc_by(self.requests);
        let ends = Opts::new("socketserver_ends_total", "Connections that have ended, by reason");
        let ends = IntCounterVec::new(ends, &["reason"]).expect("these are valid names");
        self.ends.iter().for_each(|(why, count)| ends.with_label_values(&[why.to_string()]).inc_by(*count));
        metrics::text([metrics::of(stats), requests.collect(), ends.collect()].concat())
    }
}

/// A connection that gets the samples. What it sends is ignored.
pub(crate) struct Viewer;

impl<S> RequestHandler<S> for Viewer {
    fn handle(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        request.input.take_all();
        Ok(Next::Wait)
    }
}

const SAMPLES_MAX: usize = 300;
