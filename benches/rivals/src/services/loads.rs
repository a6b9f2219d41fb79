//! The work, and the load generators that make it.

use super::Service;
use super::programs::{LARGE, SMALL};
use crate::process::{Process, output};
use crate::server::Server;
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};

/// One kind of work.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Load {
    pub(super) service: Service,
    /// Unique: `set-16`.
    pub(super) key: &'static str,
    pub(super) title: String,
    #[serde(skip)]
    tool: Tool,
}

#[derive(Clone, Copy, Debug)]
enum Tool {
    RedisBenchmark { command: &'static str, pipeline: u32, bytes: u32 },
    Wrk { file: &'static str, pipeline: u32, closes: bool },
    Dnsperf { mode: &'static str },
}

/// One program under one load, once. Times in microseconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sample {
    pub(super) program: String,
    /// The load's key.
    pub(super) load: &'static str,
    /// From 1.
    pub(super) round: usize,
    pub(super) requests: f64,
    pub(super) elapsed_s: f64,
    pub(super) server_cpu_s: f64,
    /// 50, 99 and 99.9 % of the answers took at most this long.
    pub(super) latencies: [f64; 3],
}

pub(super) fn of(service: Service) -> Vec<Load> {
    let load = |key, title: String, tool| Load { service, key, title, tool };
    let redis = |key, command: &'static str, pipeline, bytes| {
        let how = if pipeline > 1 { format!("pipelined by {pipeline}") } else { "one request at a time".to_owned() };
        let title = format!("{} of {bytes} B, 50 clients, {how}", command.to_uppercase());
        load(key, title, Tool::RedisBenchmark { command, pipeline, bytes })
    };
    let wrk = |key, what: &str, file, pipeline, closes| {
        let bytes = if file == "small" { SMALL } else { LARGE };
        load(key, format!("GET of {bytes} B, 64 connections, {what}"), Tool::Wrk { file, pipeline, closes })
    };
    match service {
        Service::Kv => vec![
            redis("set", "set", 1, 3),
            redis("get", "get", 1, 3),
            redis("set-16", "set", 16, 3),
            redis("get-16", "get", 16, 3),
            redis("set-16-1k", "set", 16, 1024),
            redis("get-16-1k", "get", 16, 1024),
        ],
        Service::Web => vec![
            wrk("keep-alive", "one request at a time", "small", 1, false),
            wrk("pipelined", "pipelined by 16", "small", 16, false),
            wrk("close", "a connection for each request", "small", 1, true),
            wrk("4-mib", "one request at a time", "large", 1, false),
        ],
        Service::Dns => vec![
            load("udp", "queries over UDP, 100 outstanding".to_owned(), Tool::Dnsperf { mode: "udp" }),
            load("tcp", "queries over TCP, 100 outstanding".to_owned(), Tool::Dnsperf { mode: "tcp" }),
        ],
    }
}

impl Load {
    /// Loads the server for about this long, after a shorter warm-up.
    pub(super) fn run(&self, server: &Server, length: Duration, files: &Path) -> Result<Sample, String> {
        self.tool.run(server, length / 4, files)?;
        let (cpu, begun) = (server.cpu(), Instant::now());
        let report = self.tool.run(server, length, files)?;
        let elapsed_s = report.elapsed_s.unwrap_or_else(|| begun.elapsed().as_secs_f64());
        let server_cpu_s = server.cpu().saturating_sub(cpu).as_secs_f64();
        let latencies = match report.latencies {
            Some(latencies) => latencies,
            None => self.tool.latencies(server, length / 4, files)?,
        };
        let Report { requests, .. } = report;
        Ok(Sample { program: String::new(), load: self.key, round: 0, requests, elapsed_s, server_cpu_s, latencies })
    }
}

/// What a load generator says.
#[derive(Debug, PartialEq)]
struct Report {
    requests: f64,
    elapsed_s: Option<f64>,
    latencies: Option<[f64; 3]>,
}

impl Tool {
    fn run(self, server: &Server, length: Duration, files: &Path) -> Result<Report, String> {
        let (seconds, port) = (length.as_secs_f64(), server.address.port().to_string());
        match self {
            Tool::RedisBenchmark { command, pipeline, bytes } => {
                // It takes a number of requests, not a time. This is about what a server does here.
                let requests = (seconds * f64::from(if pipeline > 1 { 500_000 } else { 80_000 })).ceil();
                let [count, pipeline, bytes] = [requests as u32, pipeline, bytes].map(|number| number.to_string());
                let text = output(&[
                    "redis-benchmark",
                    "-p",
                    &port,
                    "-n",
                    &count,
                    "-P",
                    &pipeline,
                    "-d",
                    &bytes,
                    "-t",
                    command,
                ])
                .map_err(|error| format!("{error}; Debian: redis-tools"))?;
                of_redis_benchmark(&text, requests).ok_or_else(|| format!("redis-benchmark says {}", tail(&text)))
            }
            Tool::Wrk { file, pipeline, closes } => {
                let script = files.join("wrk.lua");
                let header = if closes { "Connection: close\\r\\n" } else { "" };
                let lua = WRK
                    .replace("{header}", header)
                    .replace("{pipeline}", &pipeline.to_string())
                    .replace("{file}", file);
                std::fs::write(&script, lua).map_err(|error| format!("cannot write {}: {error}", script.display()))?;
                let duration = format!("{}s", seconds.ceil().max(1.0));
                let (script, url) = (script.display().to_string(), format!("http://{}", server.address));
                let text = output(&["wrk", "-t1", "-c64", "-d", &duration, "--timeout", "20s", "-s", &script, &url])
                    .map_err(|error| format!("{error}; Debian: wrk"))?;
                of_wrk(&text).ok_or_else(|| format!("wrk says {}", tail(&text)))
            }
            Tool::Dnsperf { mode } => {
                let text = dnsperf(server, mode, seconds, files, &[])?;
                of_dnsperf(&text).ok_or_else(|| format!("dnsperf says {}", tail(&text)))
            }
        }
    }

    /// For a load generator that says how long each answer took only if it may say nothing else.
    fn latencies(self, server: &Server, length: Duration, files: &Path) -> Result<[f64; 3], String> {
        let Tool::Dnsperf { mode } = self else { return Err("no latencies".to_owned()) };
        let text = dnsperf(server, mode, length.as_secs_f64(), files, &["-v"])?;
        let last = |line: &str| line.split_whitespace().last()?.parse::<f64>().ok();
        let mut times: Vec<f64> = text.lines().filter(|line| line.starts_with("> ")).filter_map(last).collect();
        percentiles(&mut times).map(|times| times.map(|time| time * 1e6)).ok_or_else(|| "no latencies".to_owned())
    }
}

/// `times` need not be sorted.
pub(super) fn percentiles(times: &mut [f64]) -> Option<[f64; 3]> {
    times.sort_by(f64::total_cmp);
    let last = times.len().checked_sub(1)?;
    Some([0.5, 0.99, 0.999].map(|share| times[(last as f64 * share).round() as usize]))
}

fn dnsperf(server: &Server, mode: &str, seconds: f64, files: &Path, options: &[&str]) -> Result<String, String> {
    let (port, queries) = (server.address.port().to_string(), files.join("queries").display().to_string());
    let seconds = seconds.ceil().max(1.0).to_string();
    let words = ["dnsperf", "-s", "127.0.0.1", "-p", &port, "-d", &queries, "-m", mode, "-l", &seconds, "-q", "100"];
    // What it says can be long.
    let words: Vec<String> = words.iter().chain(options).map(|&word| word.to_owned()).collect();
    let mut process = Process::start("dnsperf", &words).map_err(|error| format!("{error}; Debian: dnsperf"))?;
    match process.wait(Duration::from_secs(120))? {
        Some(status) if status.success() => Ok(process.output()),
        _ => Err(format!("dnsperf fails: {}; Debian: dnsperf", tail(&process.output()))),
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(6)..].join(" | ")
}

fn of_redis_benchmark(text: &str, requests: f64) -> Option<Report> {
    // Lines of the distribution: "99.902% <= 28.031 milliseconds (cumulative count 19984)", each percentile once.
    let distribution = text.lines().skip_while(|line| !line.starts_with("Latency by percentile"));
    let points: Vec<(f64, f64)> = distribution
        .take_while(|line| !line.starts_with("Cumulative"))
        .filter_map(|line| {
            let (share, rest) = line.split_once("% <= ")?;
            Some((share.trim().parse().ok()?, rest.split(' ').next()?.parse::<f64>().ok()? * 1_000.0))
        })
        .collect();
    let at = |share: f64| points.iter().find(|point| point.0 >= share).map(|point| point.1);
    let rate: f64 = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("throughput summary: ")?.split(' ').next()?.parse().ok())?;
    Some(Report { requests, elapsed_s: Some(requests / rate), latencies: Some([at(50.0)?, at(99.0)?, at(99.9)?]) })
}

/// The line of the script below. It is no report if there was an error, or no answer.
fn of_wrk(text: &str) -> Option<Report> {
    let line = text.lines().find_map(|line| line.strip_prefix("done: "))?;
    let numbers: Vec<f64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [requests, microseconds, p50, p99, p999, errors] = numbers[..] else { return None };
    (errors == 0.0 && requests > 0.0).then_some(Report {
        requests,
        elapsed_s: Some(microseconds / 1e6),
        latencies: Some([p50, p99, p999]),
    })
}

/// A query that was not answered makes it no report.
fn of_dnsperf(text: &str) -> Option<Report> {
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    let (requests, lost, elapsed) = (of("Queries completed:")?, of("Queries lost:")?, of("Run time (s):")?);
    let right = text.lines().any(|line| {
        line.trim().starts_with("Response codes:") && line.contains("NOERROR") && line.contains("(100.00%)")
    });
    (lost == 0.0 && right).then_some(Report { requests, elapsed_s: Some(elapsed), latencies: None })
}

const WRK: &str = r#"local one = "GET /files/{file} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n"
local all = string.rep(one, {pipeline})
request = function() return all end
done = function(summary, latency)
    local errors = summary.errors
    print(string.format("done: %d %d %d %d %d %d", summary.requests, summary.duration, latency:percentile(50),
        latency:percentile(99), latency:percentile(99.9),
        errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_benchmark_says() {
        let text = "Latency by percentile distribution:\n0.000% <= 0.103 milliseconds (cumulative count 1)\n\
            50.000% <= 0.863 milliseconds (cumulative count 9)\n99.219% <= 27.967 milliseconds (cumulative count 19)\n\
            100.000% <= 28.047 milliseconds (cumulative count 20)\n\nCumulative distribution of latencies:\n\
            Summary:\n  throughput summary: 200.00 requests per second\n";
        let report = of_redis_benchmark(text, 20.0).expect("a report");
        assert_eq!(report.elapsed_s, Some(0.1));
        assert_eq!(report.latencies.map(|times| times.map(f64::round)), Some([863.0, 27_967.0, 28_047.0]));
        assert_eq!(of_redis_benchmark("ERR", 20.0), None);
    }

    #[test]
    fn what_wrk_says_counts_without_errors_only() {
        let report = Report { requests: 1_000.0, elapsed_s: Some(2.0), latencies: Some([1.0, 2.0, 3.0]) };
        assert_eq!(of_wrk("Running\ndone: 1000 2000000 1 2 3 0\n"), Some(report));
        assert_eq!(of_wrk("done: 1000 2000000 1 2 3 4"), None);
    }

    #[test]
    fn what_dnsperf_says_counts_if_all_was_answered() {
        let text = |lost| {
            format!(
                "  Queries sent:         20\n  Queries completed:    20 (100.00%)\n  Queries lost:         {lost} (0.00%)\n\n  \
                 Response codes:       NOERROR 20 (100.00%)\n  Run time (s):         0.5\n"
            )
        };
        assert_eq!(of_dnsperf(&text(0)), Some(Report { requests: 20.0, elapsed_s: Some(0.5), latencies: None }));
        assert_eq!(of_dnsperf(&text(1)), None);
    }
}
