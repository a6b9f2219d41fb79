//! What is shown in the end: tables, and plots.

mod numbers;
mod plots;
mod tables;

use crate::results::Results;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Prints the tables, and writes `BENCHMARK.json`, `BENCHMARK.md` and the plots to `directory`. Returns the files.
pub(crate) fn write(results: &Results, directory: &Path) -> Result<Vec<PathBuf>, String> {
    std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let sections = tables::sections(results);
    // Whoever reads no further, as `head` does, still gets the files.
    let _ = io::stdout().write_all(tables::for_terminal(&sections).as_bytes());

    let mut files = Vec::new();
    let json = directory.join(format!("{}.json", results.benchmark));
    results.write(&json)?;
    files.push(json);
    let page = directory.join(format!("{}.md", results.benchmark));
    std::fs::write(&page, tables::as_markdown(&sections)).map_err(|error| format!("{}: {error}", page.display()))?;
    files.push(page);
    files.extend(plots::write(results, directory)?);
    Ok(files)
}
