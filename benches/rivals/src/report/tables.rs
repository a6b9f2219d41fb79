//! The tables, in Markdown: one for each scenario, the contenders its rows; then what they have in common, and what was
//! counted.

use crate::counts;
use crate::figures::Figure;
use crate::options::Benchmark;
use crate::results::{Count, Results, SystemCalls};
use crate::scenario::{Scenario, Work, reference};
use comfy_table::{CellAlignment, Table, presets};
use std::fmt::Write;

pub(super) fn markdown(results: &Results) -> String {
    let mut text = how_it_was_measured(results);
    for scenario in &results.scenarios {
        text += &of_scenario(results, scenario);
    }
    text += &ratios(results);
    for &item in counts::items(results.benchmark) {
        text += &of_counts(results, item);
    }
    text
}

pub(crate) const NOTHING: &str = "–";

/// Above this share of its CPU the load may be what limits the rate.
const LOAD_LIMITED: f64 = 0.9;

/// A heading, a table unless it has no rows, and lines below it.
pub(crate) fn section(title: &str, header: &[String], rows: &[Vec<String>], notes: &[String]) -> String {
    let mut text = format!("## {title}\n\n");
    if !rows.is_empty() {
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN).set_header(header).add_rows(rows);
        for (column, heading) in table.column_iter_mut().zip(header) {
            if ![CONTENDER, VERSION, BY_NAME].contains(&heading.as_str()) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let _ = writeln!(text, "{table}\n");
    }
    if !notes.is_empty() {
        let _ = writeln!(text, "- {}\n", notes.join("\n- "));
    }
    text
}

const CONTENDER: &str = "contender";
const VERSION: &str = "version";
const BY_NAME: &str = "system calls by name";

fn how_it_was_measured(results: &Results) -> String {
    let mut notes = results.machine.clone();
    notes
        .push(format!("rounds: {}, each of {} s; it took {:.0} s", results.rounds, results.measured_s, results.took_s));
    notes.push(
        "figures: median over the rounds; ×: ratio to the reference's in the same round, ± half of its range".into(),
    );
    notes.extend(results.absent.iter().map(|(name, reason)| format!("absent: {name}: {reason}")));
    let header = [CONTENDER, VERSION].map(str::to_owned);
    let rows: Vec<_> = results.contenders.iter().map(|(name, version)| vec![name.clone(), version.clone()]).collect();
    section(&format!("{}: how it was measured", results.benchmark.name()), &header, &rows, &notes)
}

fn of_scenario(results: &Results, scenario: &Scenario) -> String {
    let item = scenario.item();
    let is_idle = matches!(scenario.work, Work::Idle { .. });
    let mut header = vec![CONTENDER.to_owned()];
    header.extend(is_idle.then(|| "heap, stacks/connection, B".to_owned()));
    header.extend([format!("server CPU/{item}, µs"), "×".to_owned(), format!("{item}s/s")]);
    let is_threaded = results.benchmark == Benchmark::Cores;
    header.extend(is_threaded.then(|| "busiest thread/mean".to_owned()));
    header.extend(["load CPU", "failed"].map(str::to_owned));
    let mut rows = Vec::new();
    for (name, _) in results.contenders.iter().filter(|(name, _)| results.trials(name, scenario).next().is_some()) {
        let median = |figure: Figure| figure.summary(results, name, scenario).map(|summary| summary.median);
        let show = |figure| median(figure).map_or(NOTHING.to_owned(), three_digits);
        let load = median(Figure::LoadShare).unwrap_or(0.0);
        let mut row = vec![name.clone()];
        row.extend(is_idle.then(|| show(Figure::Memory)));
        row.push(show(Figure::ServerCpu));
        let ratio = Figure::ServerCpu.ratio(results, name, scenario);
        row.push(ratio.map_or(NOTHING.to_owned(), |ratio| format!("{:.2} ±{:.2}", ratio.median, ratio.spread)));
        row.push(show(Figure::Rate) + if load > LOAD_LIMITED { "*" } else { "" });
        row.extend(is_threaded.then(|| show(Figure::Busiest)));
        row.extend([percent(load), show(Figure::Failures)]);
        rows.push(row);
    }
    section(&scenario.title, &header, &rows, &notes(results, scenario))
}

fn notes(results: &Results, scenario: &Scenario) -> Vec<String> {
    let mut notes = Vec::new();
    let apart = |figure: Figure| figure.unsteadiness(results, scenario);
    if let (Some(rate), Some(cpu)) = (apart(Figure::Rate), apart(Figure::ServerCpu)) {
        notes.push(format!(
            "{} before and after the others: rates up to {} apart, CPU times up to {}",
            reference(scenario.job()),
            percent(rate),
            percent(cpu)
        ));
    }
    notes.push("*: the load was busy more than 90 % of the time: the server may do more".to_owned());
    for (name, _) in &results.contenders {
        if let Some(first) = results.trials(name, scenario).find_map(|trial| trial.failures.first.as_ref()) {
            notes.push(format!("{name}: the first failure: {first}"));
        }
    }
    let gaps = results.gaps.iter().filter(|gap| gap.scenario == scenario.key);
    notes.extend(gaps.map(|gap| format!("failed: {}: {}", gap.contender, gap.reason)));
    notes
}

/// Server CPU of all contenders in all scenarios.
fn ratios(results: &Results) -> String {
    let keys = results.scenarios.iter().map(|scenario| scenario.key.clone());
    let header: Vec<_> = [CONTENDER.to_owned()].into_iter().chain(keys).collect();
    let row = |contender: &str| {
        let ratio = |scenario| Figure::ServerCpu.ratio(results, contender, scenario);
        let cells = results
            .scenarios
            .iter()
            .map(|scenario| ratio(scenario).map_or(NOTHING.to_owned(), |ratio| format!("{:.2}", ratio.median)));
        [contender.to_owned()].into_iter().chain(cells).collect()
    };
    let rows: Vec<_> = results.contenders.iter().map(|(name, _)| row(name)).collect();
    let notes = ["1 is the reference: epoll, for UDP recv_from".to_owned()];
    section("Server CPU time for each item, as a multiple of the reference's", &header, &rows, &notes)
}

fn of_counts(results: &Results, item: counts::Item) -> String {
    let of_item = || results.counts.iter().filter(|count| count.item == item);
    let limit = of_item().find(|count| count.contender == reference(item.job()));
    let calls = |count: &Count| count.system_calls.as_ref().ok().map(|calls| calls.total);
    let instructions = |count: &Count| count.instructions.as_ref().ok().copied();
    let pair = |value: Option<f64>, limit: Option<f64>| {
        let ratio = value.zip(limit).map(|(value, limit)| value / limit);
        let show = |value: Option<f64>| value.map_or(NOTHING.to_owned(), three_digits);
        [show(value), show(ratio)]
    };
    let rows: Vec<_> = of_item()
        .map(|count| {
            let mut row = vec![count.contender.clone()];
            row.extend(pair(calls(count), limit.and_then(calls)));
            row.extend(pair(instructions(count), limit.and_then(instructions)));
            row.push(count.system_calls.as_ref().map(by_name).unwrap_or_default());
            row
        })
        .collect();
    let failures = of_item().filter_map(|count| {
        let reason = count.system_calls.as_ref().err().or(count.instructions.as_ref().err())?;
        Some(format!("not counted: {}: {reason}", count.contender))
    });
    let header = [CONTENDER, "system calls", "×", "instructions", "×", BY_NAME].map(str::to_owned);
    let title = format!("System calls (strace) and instructions in user space (callgrind) for each {}", item.name());
    section(&title, &header, &rows, &failures.collect::<Vec<_>>())
}

/// The most frequent first, without those that hardly occur.
fn by_name(calls: &SystemCalls) -> String {
    let mut calls: Vec<_> = calls.by_name.iter().filter(|(_, calls)| **calls >= 0.005).collect();
    calls.sort_by(|a, b| b.1.total_cmp(a.1));
    calls.iter().take(8).map(|(name, calls)| format!("{name} {calls:.2}")).collect::<Vec<_>>().join(", ")
}

/// `0.0123`, `1.23`, `123`, `12300`.
pub(crate) fn three_digits(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    // What is rounded to 1000 is shown as such.
    let magnitude: i32 = format!("{value:.2e}").split('e').nth(1).and_then(|power| power.parse().ok()).unwrap_or(0);
    let step = 10f64.powi(magnitude - 2);
    format!("{:.*}", (2 - magnitude).clamp(0, 4) as usize, (value / step).round() * step)
}

/// Of a share: `97 %`.
fn percent(share: f64) -> String {
    format!("{} %", if share < 0.095 { format!("{:.1}", share * 100.0) } else { format!("{:.0}", share * 100.0) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::sample;

    #[test]
    fn each_contender_has_a_row_with_its_ratios() {
        let text = markdown(&sample());
        let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        let row = text.lines().filter(|line| line.starts_with("| other")).nth(1).expect("a row of the scenario");
        assert_eq!(cells(row)[2..6], ["1000", "1.75 ±0.25", "500*", "95 %"].map(str::to_owned));
        for part in ["up to 200 % apart", "absent: node: not found", "2.02", "not counted: epoll: valgrind is absent"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn three_digits_of_any_size() {
        let shown: Vec<String> = [0.0, 0.01234, 0.5, 1.234, 12.34, 999.9, 1234.0].map(three_digits).to_vec();
        assert_eq!(shown, ["0", "0.0123", "0.500", "1.23", "12.3", "1000", "1230"]);
        assert_eq!([0.97, 0.001, 0.0].map(percent), ["97 %", "0.1 %", "0.0 %"]);
    }
}
