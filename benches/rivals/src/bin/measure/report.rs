//! What is shown in the end: tables, and plots.

mod numbers;
mod plots;
mod tables;

use crate::results::Results;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Finds out whether the files can be written, before minutes are spent on what is to be in them.
pub(crate) fn prepare(benchmark: &str, directory: &Path) -> Result<(), String> {
    std::fs::create_dir_all(directory).map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
    let file = json_file(benchmark, directory);
    let opened = OpenOptions::new().append(true).create(true).open(&file);
    opened.map(drop).map_err(|error| format!("cannot write {}: {error}", file.display()))
}

/// Prints the tables, and writes `BENCHMARK.json`, `BENCHMARK.md` and the plots to `directory`. Returns the files.
pub(crate) fn write(results: &Results, directory: &Path) -> Result<Vec<PathBuf>, String> {
    let sections = tables::sections(results);
    // Whoever reads no further, as `head` does, still gets the files.
    let _ = io::stdout().write_all(tables::for_terminal(&sections).as_bytes());

    let mut files = Vec::new();
    let json = json_file(&results.benchmark, directory);
    results.write(&json)?;
    files.push(json);
    let page = directory.join(format!("{}.md", results.benchmark));
    std::fs::write(&page, tables::as_markdown(&sections)).map_err(|error| format!("{}: {error}", page.display()))?;
    files.push(page);
    files.extend(plots::write(results, directory)?);
    Ok(files)
}

fn json_file(benchmark: &str, directory: &Path) -> PathBuf {
    directory.join(format!("{benchmark}.json"))
}
