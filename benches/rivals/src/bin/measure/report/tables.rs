//! One table for each scenario, the contenders its rows; then what they have in common, and what was counted.

use super::numbers::{amount, bytes, percent, three_digits, time};
use crate::figures::{Figure, LOAD_LIMITED, unsteadiness};
use crate::results::{Count, Results};
use crate::scenario::{Item, Scenario, Work, reference};
use crate::statistics::Summary;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use std::fmt::Write;
use std::io::{IsTerminal, stdout};

/// A heading, a table unless it has no rows, and lines below it.
pub(super) struct Section {
    title: String,
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
}

pub(super) fn sections(results: &Results) -> Vec<Section> {
    let mut sections = vec![machine(results), contenders(results)];
    sections.extend(results.scenarios.iter().map(|scenario| of_scenario(results, scenario)));
    sections.extend(overview(results));
    sections.extend(counts(results));
    sections
}

pub(super) fn for_terminal(sections: &[Section]) -> String {
    let mut text = String::new();
    for section in sections {
        let _ = writeln!(text, "\n{}", section.title);
        if !section.rows.is_empty() {
            let mut table = section.table(presets::UTF8_FULL_CONDENSED);
            if stdout().is_terminal() {
                table.set_content_arrangement(ContentArrangement::Dynamic);
            }
            let _ = writeln!(text, "{table}");
        }
        for note in &section.notes {
            let _ = writeln!(text, "  {note}");
        }
    }
    text
}

pub(super) fn as_markdown(sections: &[Section]) -> String {
    let mut text = String::new();
    for section in sections {
        let _ = writeln!(text, "## {}\n", section.title);
        if !section.rows.is_empty() {
            let _ = writeln!(text, "{}\n", section.table(presets::ASCII_MARKDOWN));
        }
        for note in &section.notes {
            let _ = writeln!(text, "- {note}");
        }
        if !section.notes.is_empty() {
            text.push('\n');
        }
    }
    text
}

impl Section {
    fn table(&self, preset: &str) -> Table {
        let mut table = Table::new();
        table.load_preset(preset).set_header(&self.header).add_rows(&self.rows);
        let words = self.header.iter().map(|heading| WORDS.contains(&heading.as_str()));
        for (column, words) in table.column_iter_mut().zip(words) {
            if !words {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }
}

/// Headings of columns that are no numbers.
const WORDS: [&str; 4] = [CONTENDER, "version", SERVING, BY_NAME];
const CONTENDER: &str = "contender";
const SERVING: &str = "threads that serve";
const BY_NAME: &str = "system calls by name";

fn machine(results: &Results) -> Section {
    let machine = &results.machine;
    let limit = |limit: Option<u64>| limit.map_or("unknown".to_owned(), |limit| limit.to_string());
    let method = &results.method;
    let mut cpu = format!(
        "{}, {} CPUs, {} MiB of memory, Linux {}",
        machine.cpu_model, machine.cpus, machine.memory_mib, machine.kernel
    );
    if let Some(governor) = &machine.frequency_governor {
        let _ = write!(cpu, ", frequency governor {governor}");
    }
    let plural = if method.rounds == 1 { "" } else { "s" };
    let notes = vec![
        cpu,
        format!("{}; {}; {}", machine.rustc, machine.strace, machine.valgrind),
        format!(
            "limits: {} descriptors, somaxconn {}, tcp_max_syn_backlog {}, ports {}",
            machine.nofile.0,
            limit(machine.somaxconn),
            limit(machine.tcp_max_syn_backlog),
            machine.ip_local_port_range.as_deref().unwrap_or("unknown")
        ),
        format!(
            "{}; {} round{plural} of {} s after {} s of warm-up; it took {:.0} s",
            method.cpus, method.rounds, method.measured_s, method.warm_up_s, results.took_s
        ),
        "every server has its one CPU, also those with several threads".to_owned(),
        "figures: median over the rounds ± half of the range; `×`: ratio to the reference's in the same round"
            .to_owned(),
    ];
    Section {
        title: format!("{}: how it was measured", results.benchmark),
        header: Vec::new(),
        rows: Vec::new(),
        notes,
    }
}

fn contenders(results: &Results) -> Section {
    let rows =
        results.contenders.iter().map(|entry| vec![entry.name.clone(), entry.version.clone(), entry.threads.clone()]);
    Section {
        title: "Contenders".to_owned(),
        header: [CONTENDER, "version", SERVING].map(str::to_owned).to_vec(),
        rows: rows.collect(),
        notes: results.absent.iter().map(|absent| format!("absent: {}: {}", absent.name, absent.reason)).collect(),
    }
}

/// A figure, and whether it stands beside its ratio to the reference's.
type Column = (Figure, bool);

fn columns(work: Work) -> Vec<Column> {
    use Figure::*;
    let latency = [(P50, false), (P99, false), (P999, false), (Max, false)];
    let (first, last) = match work {
        Work::Bulk { .. } => (vec![(Throughput, true), (ServerCpu, true)], vec![(LoadShare, false), (Failures, false)]),
        // Not the load's own share: it stays awake to be on time.
        Work::FixedRate { .. } => (vec![(Rate, false), (ServerCpu, true)], vec![(Late, false), (Failures, false)]),
        Work::Burst { .. } => (
            vec![(Elapsed, true), (ServerCpu, true)],
            vec![(ListenOverflows, false), (ListenDrops, false), (Failures, false)],
        ),
        Work::Idle { .. } => (
            vec![(Pss, false), (Anonymous, false), (Threads, false), (IdleCpu, false), (ServerCpu, true)],
            vec![(LoadShare, false), (Failures, false)],
        ),
        Work::Datagrams { .. } => {
            (vec![(Rate, true), (ServerCpu, true)], vec![(LoadShare, false), (RcvbufErrors, false), (Failures, false)])
        }
        Work::PingPong { .. } | Work::Pipelined { .. } | Work::Flood { .. } => {
            (vec![(Rate, true), (ServerCpu, true)], vec![(LoadShare, false), (Failures, false)])
        }
    };
    first.into_iter().chain(latency).chain(last).collect()
}

fn heading(figure: Figure, scenario: &Scenario) -> String {
    let item = match scenario.work {
        Work::Bulk { .. } => "block",
        _ => scenario.item().name(),
    };
    match figure {
        Figure::Rate => format!("{item}s/s"),
        Figure::Elapsed => "all served after".to_owned(),
        Figure::Throughput => "bytes/s".to_owned(),
        Figure::ServerCpu => format!("server CPU/{item}"),
        Figure::LoadShare => "load CPU".to_owned(),
        Figure::P50 => "p50".to_owned(),
        Figure::P99 => "p99".to_owned(),
        Figure::P999 => "p99.9".to_owned(),
        Figure::Max => "max".to_owned(),
        Figure::Failures if item == Item::Datagram.name() => "lost".to_owned(),
        Figure::Failures => "failed".to_owned(),
        Figure::Late => "sent late".to_owned(),
        Figure::ListenOverflows => "ListenOverflows".to_owned(),
        Figure::ListenDrops => "ListenDrops".to_owned(),
        Figure::RcvbufErrors => "RcvbufErrors".to_owned(),
        Figure::Pss => "Pss/connection".to_owned(),
        Figure::Anonymous => "heap, stacks/connection".to_owned(),
        Figure::Threads => "threads".to_owned(),
        Figure::IdleCpu => "CPU when idle".to_owned(),
    }
}

pub(super) fn show(figure: Figure, value: f64) -> String {
    match figure {
        Figure::Rate => amount(value),
        Figure::Throughput | Figure::Pss | Figure::Anonymous => bytes(value),
        Figure::Elapsed | Figure::ServerCpu | Figure::P50 | Figure::P99 | Figure::P999 | Figure::Max => time(value),
        Figure::LoadShare => percent(value),
        Figure::IdleCpu => format!("{:.2} %", value * 100.0),
        Figure::Failures
        | Figure::Late
        | Figure::ListenOverflows
        | Figure::ListenDrops
        | Figure::RcvbufErrors
        | Figure::Threads => format!("{value:.0}"),
    }
}

/// The median with its spread, as a share of it.
fn with_spread(figure: Figure, summary: &Summary) -> String {
    let mut text = show(figure, summary.median);
    let relative =
        matches!(figure, Figure::Rate | Figure::Elapsed | Figure::Throughput | Figure::ServerCpu | Figure::Pss);
    if let (true, Some(spread)) = (relative && summary.median > 0.0, summary.spread()) {
        let _ = write!(text, " ±{:.0} %", spread / summary.median * 100.0);
    }
    text
}

fn ratio(summary: &Summary) -> String {
    let mut text = format!("{:.2}", summary.median);
    if let Some(spread) = summary.spread() {
        let _ = write!(text, " ±{spread:.2}");
    }
    text
}

const NOTHING: &str = "–";

fn of_scenario(results: &Results, scenario: &Scenario) -> Section {
    let columns = columns(scenario.work);
    let mut header = vec![CONTENDER.to_owned()];
    for &(figure, compared) in &columns {
        header.push(heading(figure, scenario));
        if compared {
            header.push("×".to_owned());
        }
    }
    let mut limited = false;
    let mut rows = Vec::new();
    for entry in &results.contenders {
        if results.trials(&entry.name, scenario).next().is_none() {
            continue;
        }
        let busy = Figure::LoadShare.summary(results, &entry.name, scenario);
        let paced = matches!(scenario.work, Work::FixedRate { .. });
        let load_limited = !paced && busy.is_some_and(|busy| busy.median > LOAD_LIMITED);
        limited |= load_limited;
        let mut row = vec![entry.name.clone()];
        for &(figure, compared) in &columns {
            let summary = figure.summary(results, &entry.name, scenario);
            let mut cell = summary.map_or(NOTHING.to_owned(), |summary| with_spread(figure, &summary));
            if load_limited && matches!(figure, Figure::Rate | Figure::Throughput) {
                cell.push('*');
            }
            row.push(cell);
            if compared {
                let summary = figure.ratio(results, &entry.name, scenario);
                row.push(summary.map_or(NOTHING.to_owned(), |summary| ratio(&summary)));
            }
        }
        rows.push(row);
    }
    Section { title: scenario.title.clone(), header, rows, notes: notes(results, scenario, limited) }
}

fn notes(results: &Results, scenario: &Scenario, limited: bool) -> Vec<String> {
    let mut notes = Vec::new();
    let apart = |figure| unsteadiness(figure, results, scenario);
    if let (Some(rate), Some(cpu)) = (apart(Figure::Rate), apart(Figure::ServerCpu)) {
        notes.push(format!(
            "{} before and after the others: rates up to {} apart, CPU times up to {}",
            reference(scenario.transport),
            percent(rate),
            percent(cpu)
        ));
    }
    if limited {
        notes.push("* the load was busy more than 90 % of the time: the server may do more".to_owned());
    }
    if let Work::FixedRate { per_second, .. } = scenario.work {
        let behind = results.contenders.iter().filter_map(|entry| {
            let rate = Figure::Rate.summary(results, &entry.name, scenario)?.median;
            (rate < per_second * 0.98).then(|| format!("{} ({})", entry.name, percent(rate / per_second)))
        });
        let behind: Vec<String> = behind.collect();
        if !behind.is_empty() {
            notes.push(format!("did not keep up, so that messages waited ever longer: {}", behind.join(", ")));
        }
    }
    for entry in &results.contenders {
        if let Some(first) = results.trials(&entry.name, scenario).find_map(|trial| trial.failures.first.as_ref()) {
            notes.push(format!("{}: the first failure: {first}", entry.name));
        }
    }
    for (failed, what) in [(true, "failed"), (false, "not measured")] {
        let gaps = results.gaps.iter().filter(|gap| gap.scenario == scenario.key && gap.failed == failed);
        notes.extend(by_reason(what, gaps.map(|gap| (gap.contender.as_str(), gap.reason.as_str()))));
    }
    notes
}

/// `WHAT: NAME, NAME: REASON`, a line for each reason.
fn by_reason<'a>(what: &str, reasons: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let mut names: Vec<(&str, Vec<&str>)> = Vec::new();
    for (name, reason) in reasons {
        match names.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, names)) => names.push(name),
            None => names.push((reason, vec![name])),
        }
    }
    names.iter().map(|(reason, names)| format!("{what}: {}: {reason}", names.join(", "))).collect()
}

/// CPU time for each item in all scenarios at once. `None` if there is but one, and for idle connections, which are
/// about memory.
fn overview(results: &Results) -> Option<Section> {
    let compared: Vec<&Scenario> =
        results.scenarios.iter().filter(|scenario| !matches!(scenario.work, Work::Idle { .. })).collect();
    if compared.len() < 2 {
        return None;
    }
    let mut header = vec![CONTENDER.to_owned()];
    // With blanks, so that narrow terminals can break it.
    header.extend(compared.iter().map(|scenario| scenario.key.replace('-', " ")));
    let mut rows = Vec::new();
    for entry in &results.contenders {
        let cells = compared.iter().map(|scenario| {
            let ratio = Figure::ServerCpu.ratio(results, &entry.name, scenario);
            ratio.map_or(NOTHING.to_owned(), |ratio| format!("{:.2}", ratio.median))
        });
        rows.push([entry.name.clone()].into_iter().chain(cells).collect());
    }
    let notes = vec!["1 is the reference: epoll, for UDP recv_from".to_owned()];
    Some(Section {
        title: "Server CPU time for each item, as a multiple of the reference's".to_owned(),
        header,
        rows,
        notes,
    })
}

fn counts(results: &Results) -> Option<Section> {
    let item = results.counts.first()?.item;
    let limit = match item {
        Item::Datagram => reference(crate::job::Transport::Udp),
        _ => reference(crate::job::Transport::Tcp),
    };
    let limit = results.counts.iter().find(|count| count.contender == limit);
    let calls_of = |count: &Count| count.system_calls.as_ref().ok().map(|calls| calls.total);
    let instructions_of = |count: &Count| count.instructions.as_ref().ok().copied();
    let rows = results.counts.iter().map(|count| {
        let mut row = vec![count.contender.clone()];
        for figure in [&calls_of as &dyn Fn(&Count) -> Option<f64>, &instructions_of] {
            let value = figure(count);
            let ratio = value.zip(limit.and_then(figure)).map(|(value, limit)| value / limit);
            row.push(value.map_or(NOTHING.to_owned(), three_digits));
            row.push(ratio.map_or(NOTHING.to_owned(), |ratio| format!("{ratio:.2}")));
        }
        row.push(count.system_calls.as_ref().map(by_name).unwrap_or_default());
        row
    });
    let no_calls = results
        .counts
        .iter()
        .filter_map(|count| Some((count.contender.as_str(), count.system_calls.as_ref().err()?.as_str())));
    let mut notes = by_reason("no system calls", no_calls);
    let no_instructions = results
        .counts
        .iter()
        .filter_map(|count| Some((count.contender.as_str(), count.instructions.as_ref().err()?.as_str())));
    notes.extend(by_reason("no instructions", no_instructions));
    let item = item.name();
    Some(Section {
        title: format!("System calls (strace) and instructions in user space (callgrind) for each {item}"),
        header: [CONTENDER, "system calls", "×", "instructions", "×", BY_NAME].map(str::to_owned).to_vec(),
        rows: rows.collect(),
        notes,
    })
}

/// The most frequent first, without those that hardly occur.
fn by_name(calls: &crate::results::SystemCalls) -> String {
    let mut calls: Vec<_> = calls.by_name.iter().filter(|(_, calls)| **calls >= 0.005).collect();
    calls.sort_by(|a, b| b.1.total_cmp(a.1));
    calls.iter().take(8).map(|(name, calls)| format!("{name} {calls:.2}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::sample;

    #[test]
    fn each_contender_has_a_row_with_its_ratio() {
        let results = sample();
        let section = of_scenario(&results, &results.scenarios[0]);
        assert_eq!(section.rows.len(), 2);
        assert!(section.rows.iter().all(|row| row.len() == section.header.len()));
        assert_eq!(section.rows[1][..3], ["other", "500 ±0 %", "0.50 ±0.00"]);
        assert!(section.notes[0].contains("up to 200 % apart"), "{:?}", section.notes);
    }

    #[test]
    fn what_could_not_be_counted_is_said() {
        let section = counts(&sample()).expect("counts");
        assert_eq!(section.rows, [["epoll", "2.02", "1.00", "–", "–", "read 1.00"]]);
        assert_eq!(section.notes, ["no instructions: epoll: valgrind is absent"]);
    }

    #[test]
    fn both_renderings_have_all_sections() {
        let sections = sections(&sample());
        for text in [for_terminal(&sections), as_markdown(&sections)] {
            for part in ["Contenders", "Ping-pong", "absent: node", "2.02"] {
                assert!(text.contains(part), "{part} in {text}");
            }
        }
    }
}
