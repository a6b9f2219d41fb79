//! What is shown in the end: tables, and plots.

pub(crate) mod plots;
pub(crate) mod tables;

use crate::results::Results;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Prints the tables, and writes them, the results and the plots to `directory`. Returns the files.
pub(crate) fn write(results: &Results, directory: &Path) -> Result<Vec<PathBuf>, String> {
    let text = tables::markdown(results);
    // The files are written even if the reader of standard output has ended, as `head` does.
    let _ = io::stdout().write_all(text.as_bytes());
    let file = |extension| directory.join(format!("{}.{extension}", results.benchmark.name()));
    let (json, page) = (file("json"), file("md"));
    results.write(&json)?;
    std::fs::write(&page, text).map_err(|error| format!("cannot write {}: {error}", page.display()))?;
    let plots = plots::write(results, directory)?;
    Ok([vec![json, page], plots].concat())
}
