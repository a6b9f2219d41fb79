//! The counters of a reactor, in the text format of Prometheus.

use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, TextEncoder};
use socketserver::Stats;

/// What every server has.
pub(crate) fn of(stats: &Stats) -> Vec<MetricFamily> {
    let waiting = stats.requests_waiting + stats.offload_waiting;
    let busy = stats.threads_busy + stats.children_busy + stats.offload_busy;
    let timeouts = stats.timeouts_idle + stats.timeouts_read + stats.timeouts_write + stats.timeouts_message;
    let counters = [
        ("accepted_total", "Accepted connections", stats.accepted as f64),
        ("refused_total", "Connections and datagrams that were refused", stats.refused as f64),
        ("closed_total", "Connections that have ended", stats.closed as f64),
        ("resets_total", "Connections that the peer or the network has broken", stats.resets as f64),
        ("resets_idle_total", "Those of them without a request", stats.resets_idle as f64),
        ("timeouts_total", "Connections that a time limit has ended", timeouts as f64),
        ("output_limits_total", "Connections that did not read their output", stats.output_limits as f64),
        ("input_limits_total", "Connections whose input was too long", stats.input_limits as f64),
        ("buffer_limits_total", "Connections that held the most when all held too much", stats.buffer_limits as f64),
        ("proxy_headers_failed_total", "Wrong headers of the PROXY protocol", stats.proxy_headers_failed as f64),
        ("handshakes_failed_total", "Failed handshakes of TLS", stats.handshakes_failed as f64),
        ("accept_pauses_total", "Pauses because descriptors had run out", stats.accept_pauses as f64),
        ("restarts_failed_total", "Restarts after which this process continued", stats.restarts_failed as f64),
        ("received_bytes_total", "Received bytes", stats.bytes_in as f64),
        ("sent_bytes_total", "Sent bytes", stats.bytes_out as f64),
        ("turns_total", "Turns of the loop", stats.turns as f64),
        ("turn_seconds_total", "The time spent in turns", stats.turns_took.as_secs_f64()),
    ];
    let gauges = [
        ("connections", "Open connections", stats.active as f64),
        ("busy", "Requests and jobs that a thread or a program serves", busy as f64),
        ("waiting", "Requests that wait for a thread", waiting as f64),
        ("longest_turn_seconds", "The longest turn of the loop", stats.longest_turn.as_secs_f64()),
    ];
    let mut families = Vec::new();
    for (name, help, value) in counters {
        let counter = Counter::new(format!("socketserver_{name}"), help).expect("it is a valid name");
        counter.inc_by(value);
        families.extend(counter.collect());
    }
    for (name, help, value) in gauges {
        let gauge = Gauge::new(format!("socketserver_{name}"), help).expect("it is a valid name");
        gauge.set(value);
        families.extend(gauge.collect());
    }
    families
}

/// Leaves out what has no values yet.
pub(crate) fn text(mut families: Vec<MetricFamily>) -> String {
    families.retain(|family| !family.get_metric().is_empty());
    TextEncoder::new().encode_to_string(&families).expect("each family has a value")
}

pub(crate) const TEXT_FORMAT: &str = prometheus::TEXT_FORMAT;
