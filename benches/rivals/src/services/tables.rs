//! The tables, in Markdown.

use super::Figures;
use super::loads::{Load, Sample};
use super::programs::reference;
use crate::figures::{Summary, summary};
use crate::report::tables::{NOTHING, section, three_digits};

pub(super) fn markdown(figures: &Figures) -> String {
    let mut text = how_it_was_measured(figures);
    for load in &figures.loads {
        text += &of_load(figures, load);
    }
    text + &memory(figures) + &waits(figures)
}

fn strings<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

fn how_it_was_measured(figures: &Figures) -> String {
    let mut notes = figures.machine.clone();
    notes.push(format!("rounds: {}; figures: median over the rounds; ×: ratio in the same round", figures.rounds));
    notes.extend(figures.absent.iter().map(|(name, reason)| format!("absent: {name}: {reason}")));
    notes.extend(figures.failed.iter().map(|reason| format!("failed: {reason}")));
    let rows: Vec<_> = figures.programs.iter().map(|(a, b, c)| vec![b.clone(), a.clone(), c.clone()]).collect();
    section("services: how they were measured", &strings(["contender", "service", "version"]), &rows, &notes)
}

fn of_load(figures: &Figures, load: &Load) -> String {
    let rows = names_of(figures, load).map(|name| {
        let median = |of: &dyn Fn(&Sample) -> f64| {
            let values = trials(figures, load, name).map(of).collect();
            summary(values).map_or(NOTHING.to_owned(), |summary| three_digits(summary.median))
        };
        let ratio = ratio(figures, load, name)
            .map_or(NOTHING.to_owned(), |ratio| format!("{:.2} ±{:.2}", ratio.median, ratio.spread));
        let [p50, p99, p999] = [0, 1, 2].map(|at| median(&move |sample: &Sample| sample.latencies[at]));
        vec![name.clone(), median(&cpu), ratio, median(&|sample| sample.requests / sample.elapsed_s), p50, p99, p999]
    });
    let header = strings(["contender", "server CPU/request, µs", "×", "requests/s", "p50, µs", "p99, µs", "p99.9, µs"]);
    section(&load.title, &header, &rows.collect::<Vec<_>>(), &[])
}

/// The CPU of a program for each request, as a multiple of the reference's in the same round.
pub(super) fn ratio(figures: &Figures, load: &Load, name: &str) -> Option<Summary> {
    let ratios = (1..=figures.rounds).filter_map(|round| {
        let of = |name: &str| trials(figures, load, name).find(|sample| sample.round == round).map(cpu);
        Some(of(name)? / of(reference(load.service))?)
    });
    summary(ratios.collect())
}

/// Programs that were measured.
fn names_of<'a>(figures: &'a Figures, load: &'a Load) -> impl Iterator<Item = &'a String> {
    let of_service = figures.programs.iter().filter(|program| program.0 == load.service.to_string());
    of_service.map(|(_, name, _)| name).filter(|name| trials(figures, load, name).next().is_some())
}

fn trials<'a>(figures: &'a Figures, load: &'a Load, name: &'a str) -> impl Iterator<Item = &'a Sample> {
    figures.samples.iter().filter(move |sample| sample.load == load.key && sample.program == name)
}

fn cpu(sample: &Sample) -> f64 {
    sample.server_cpu_s * 1e6 / sample.requests
}

fn memory(figures: &Figures) -> String {
    let rows: Vec<_> = figures
        .idle
        .iter()
        .map(|idle| {
            let each = idle.each.map_or(NOTHING.to_owned(), |bytes| format!("{bytes:.0}"));
            vec![idle.program.clone(), idle.service.to_string(), format!("{:.0}", idle.at_start / 1024.0), each]
        })
        .collect();
    let header = strings(["contender", "service", "at start, KiB", "for each idle client, B"]);
    section("Memory: heap and stacks", &header, &rows, &[])
}

fn waits(figures: &Figures) -> String {
    let rows: Vec<_> = figures
        .waits
        .iter()
        .map(|wait| {
            let mut row = vec![wait.program.clone(), wait.service.to_string(), wait.beside.to_string()];
            row.extend(wait.latencies.map(|time| three_digits(time / 1_000.0)));
            row
        })
        .collect();
    let header = strings(["contender", "service", "greedy clients", "p50, ms", "p99, ms", "p99.9, ms"]);
    section(
        "What a polite client waits, beside clients that pipeline as much as they can over TCP",
        &header,
        &rows,
        &[],
    )
}
