//! The corpora of the fuzzer as tests.

use std::path::Path;

/// Runs a target on each file of its corpus; the last one printed is the one that failed.
///
/// # Panics
/// If there is no such file. A published package, which has no corpora, says so and passes.
pub(crate) fn corpus(target: &str, run: impl Fn(&[u8])) {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    if !fuzz.join("Cargo.toml").exists() {
        println!("skipped: there are no corpora in {}", fuzz.display());
        return;
    }
    let corpus = fuzz.join("corpus").join(target);
    let entries = corpus.read_dir().unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a directory entry").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", corpus.display());
    for file in files {
        println!("{}", file.display());
        run(&std::fs::read(&file).expect("a file of the corpus"));
    }
}
