//! Which plots a benchmark has, each with what a table says in numbers.

mod axis;
mod canvas;
mod charts;

use super::numbers::{three_digits, time};
use super::tables::show;
use crate::figures::Figure;
use crate::results::{Count, Results};
use crate::scenario::{Scenario, Work, reference};
use axis::Scale;
use canvas::{Caption, Role};
use charts::{Bar, Line, Range};
use std::path::{Path, PathBuf};

/// Writes those that there are figures for, and returns their files.
pub(super) fn write(results: &Results, directory: &Path) -> Result<Vec<PathBuf>, String> {
    let plots = Plots { results, directory, written: Vec::new() };
    match results.benchmark.as_str() {
        "connection_flood" => plots.connection_flood(),
        "echo" => plots.echo(),
        "idle" => plots.idle(),
        _ => plots.datagrams(),
    }
}

struct Plots<'a> {
    results: &'a Results,
    directory: &'a Path,
    written: Vec<PathBuf>,
}

impl Plots<'_> {
    fn connection_flood(mut self) -> Result<Vec<PathBuf>, String> {
        let client_closes = |work| match work {
            Work::Flood { concurrency, server_closes: false, .. } => Some(concurrency),
            _ => None,
        };
        let x = "connections at a time";
        self.lines("cpu", "Server CPU time for each connection", x, Figure::ServerCpu, client_closes)?;
        self.lines("rate", "Connections a second", x, Figure::Rate, client_closes)?;
        let flood = self.largest(|work| client_closes(work).filter(|&concurrency| concurrency <= 1_000));
        self.latencies("latency", "Latency from connect to echo", flood.as_ref())?;
        let burst = self.largest(|work| match work {
            Work::Burst { connections, .. } => Some(connections),
            _ => None,
        });
        self.latencies("burst-latency", "Latency from connect to echo", burst.as_ref())?;
        self.counts("connection")
    }

    fn echo(mut self) -> Result<Vec<PathBuf>, String> {
        let small = |work| match work {
            Work::PingPong { connections, message: 64 } => Some(connections),
            _ => None,
        };
        let title = "Server CPU time for each message of 64 bytes, ping-pong";
        self.lines("cpu", title, "connections", Figure::ServerCpu, small)?;
        let many = self.largest(|work| small(work).filter(|&connections| connections <= 1_000));
        self.bars(
            "cpu-per-message",
            "Server CPU time for each message",
            many.as_ref(),
            Figure::ServerCpu,
            Scale::Linear,
        )?;
        let bulk = self.largest(|work| matches!(work, Work::Bulk { .. }).then_some(0));
        self.bars("bulk", "Bytes a second, one way", bulk.as_ref(), Figure::Throughput, Scale::Linear)?;
        let fixed = self.largest(|work| matches!(work, Work::FixedRate { .. }).then_some(0));
        self.latencies("latency", "Latency from the moment a message was due", fixed.as_ref())?;
        self.counts("message")
    }

    fn idle(mut self) -> Result<Vec<PathBuf>, String> {
        // Not more than those with a thread for each client can take.
        let many = self.largest(|work| match work {
            Work::Idle { connections, .. } if connections <= 10_000 => Some(connections),
            _ => None,
        });
        self.bars("memory", "Memory (Pss) for each idle connection", many.as_ref(), Figure::Pss, Scale::Log)?;
        self.bars("cpu", "Server CPU time for each message", many.as_ref(), Figure::ServerCpu, Scale::Linear)?;
        self.counts("idle connection")
    }

    fn datagrams(mut self) -> Result<Vec<PathBuf>, String> {
        let small = self.largest(|work| match work {
            Work::Datagrams { senders, message: 64, .. } => Some(senders),
            _ => None,
        });
        self.bars("udp-cpu", "Server CPU time for each datagram", small.as_ref(), Figure::ServerCpu, Scale::Linear)?;
        let unix = self.largest(|work| matches!(work, Work::PingPong { .. }).then_some(0));
        self.bars("unix-cpu", "Server CPU time for each message", unix.as_ref(), Figure::ServerCpu, Scale::Linear)?;
        self.counts("datagram")
    }

    /// The scenario that `size` gives the largest number for.
    fn largest(&self, size: impl Fn(Work) -> Option<usize>) -> Option<Scenario> {
        let sized = self.results.scenarios.iter().filter_map(|scenario| Some((size(scenario.work)?, scenario)));
        sized.max_by_key(|(size, _)| *size).map(|(_, scenario)| scenario.clone())
    }

    fn role(&self, contender: &str, reference: &str) -> Role {
        if contender.starts_with("socketserver") {
            Role::Ours
        } else if contender == reference {
            Role::Reference
        } else {
            let place = self.results.contenders.iter().position(|entry| entry.name == contender);
            Role::Rival(place.unwrap_or(0))
        }
    }

    fn caption(&self, title: &str, below: &str) -> Caption {
        let Results { machine, method, .. } = self.results;
        let plural = if method.rounds == 1 { "" } else { "s" };
        Caption {
            title: title.to_owned(),
            below: below.to_owned(),
            machine: format!("{}; median of {} round{plural}", machine.in_short(), method.rounds),
        }
    }

    fn file(&mut self, name: &str) -> PathBuf {
        let path = self.directory.join(format!("{}-{name}.svg", self.results.benchmark));
        self.written.push(path.clone());
        path
    }

    /// A figure over the number that `x` takes from the scenarios it is about.
    fn lines(
        &mut self,
        name: &str,
        title: &str,
        x_label: &str,
        figure: Figure,
        x: impl Fn(Work) -> Option<usize>,
    ) -> Result<(), String> {
        let mut lines = Vec::new();
        for entry in &self.results.contenders {
            let points: Vec<(f64, f64)> = self
                .results
                .scenarios
                .iter()
                .filter_map(|scenario| {
                    let x = x(scenario.work)? as f64;
                    Some((x, figure.summary(self.results, &entry.name, scenario)?.median))
                })
                .collect();
            if points.len() > 1 {
                let role = self.role(&entry.name, reference(crate::job::Transport::Tcp));
                lines.push(Line { name: entry.name.clone(), role, points });
            }
        }
        if lines.is_empty() {
            return Ok(());
        }
        let caption = self.caption(title, x_label);
        charts::lines(&self.file(name), &caption, &lines, &|value| show(figure, value))
    }

    fn bars(
        &mut self,
        name: &str,
        title: &str,
        scenario: Option<&Scenario>,
        figure: Figure,
        scale: Scale,
    ) -> Result<(), String> {
        let Some(scenario) = scenario else { return Ok(()) };
        let bars: Vec<Bar> = self
            .results
            .contenders
            .iter()
            .filter_map(|entry| {
                let value = figure.summary(self.results, &entry.name, scenario)?.median;
                let role = self.role(&entry.name, reference(scenario.transport));
                Some(Bar { name: entry.name.clone(), role, value })
            })
            .collect();
        if bars.is_empty() {
            return Ok(());
        }
        let caption = self.caption(title, &with_scale(&scenario.title, scale));
        charts::bars(&self.file(name), &caption, &bars, scale, &|value| show(figure, value))
    }

    fn latencies(&mut self, name: &str, title: &str, scenario: Option<&Scenario>) -> Result<(), String> {
        let Some(scenario) = scenario else { return Ok(()) };
        let ranges: Vec<Range> = self
            .results
            .contenders
            .iter()
            .filter_map(|entry| {
                let at = |figure: Figure| Some(figure.summary(self.results, &entry.name, scenario)?.median);
                let marks = [at(Figure::P50)?, at(Figure::P99)?, at(Figure::P999)?, at(Figure::Max)?];
                let role = self.role(&entry.name, reference(scenario.transport));
                Some(Range { name: entry.name.clone(), role, marks })
            })
            .collect();
        if ranges.is_empty() {
            return Ok(());
        }
        let caption = self.caption(title, &scenario.title);
        charts::ranges(&self.file(name), &caption, &ranges, &time)
    }

    /// The last two plots of each benchmark.
    fn counts(mut self, item: &str) -> Result<Vec<PathBuf>, String> {
        let calls = |count: &Count| Some(count.system_calls.as_ref().ok()?.total);
        let instructions = |count: &Count| count.instructions.as_ref().ok().copied();
        self.count("system-calls", &format!("System calls for each {item}"), Scale::Linear, calls)?;
        self.count("instructions", &format!("Instructions in user space for each {item}"), Scale::Log, instructions)?;
        Ok(self.written)
    }

    fn count(
        &mut self,
        name: &str,
        title: &str,
        scale: Scale,
        value: impl Fn(&Count) -> Option<f64>,
    ) -> Result<(), String> {
        let transport = match self.results.benchmark.as_str() {
            "datagrams" => crate::job::Transport::Udp,
            _ => crate::job::Transport::Tcp,
        };
        let bars: Vec<Bar> = self
            .results
            .counts
            .iter()
            .filter_map(|count| {
                let role = self.role(&count.contender, reference(transport));
                Some(Bar { name: count.contender.clone(), role, value: value(count)? })
            })
            .collect();
        if bars.is_empty() {
            return Ok(());
        }
        let tool = if name == "instructions" { "counted by callgrind" } else { "counted by strace" };
        let machine = self.results.machine.in_short();
        let caption = Caption { title: title.to_owned(), below: with_scale(tool, scale), machine };
        charts::bars(&self.file(name), &caption, &bars, scale, &three_digits)
    }
}

/// So that nobody compares lengths that cannot be compared.
fn with_scale(below: &str, scale: Scale) -> String {
    match scale {
        Scale::Linear => below.to_owned(),
        Scale::Log => format!("{below}; logarithmic axis"),
    }
}

#[cfg(test)]
mod tests {
    use crate::leftovers::Scratch;
    use crate::results::tests::sample;
    use crate::scenario::Work;

    #[test]
    fn each_plot_names_its_contenders() {
        let directory = Scratch::new("plots").expect("a directory");
        std::fs::create_dir(directory.path()).expect("a directory");
        let mut results = sample();
        results.scenarios[0].work = Work::PingPong { connections: 64, message: 64 };
        let files = super::write(&results, directory.path()).expect("plots");
        let names: Vec<_> = files.iter().filter_map(|file| file.file_name()?.to_str()).collect();
        assert_eq!(names, ["echo-cpu-per-message.svg", "echo-system-calls.svg"]);
        for file in &files {
            let text = std::fs::read_to_string(file).expect("SVG");
            assert!(text.starts_with("<svg") && text.contains("epoll"), "{text}");
        }
        std::fs::remove_dir_all(directory.path()).expect("the directory");
    }
}
