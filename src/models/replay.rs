//! The corpora of the fuzzer as tests.

use std::path::Path;

/// Runs a target on each file of its corpus. The last printed file is the one that failed.
///
/// # Panics
/// If the corpus is empty. A published package has no corpora, so there the function prints that and returns.
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
