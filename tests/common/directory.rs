//! A directory for a test.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory of the test's own, which goes with it.
#[derive(Debug)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("socketserver-{}-{count}", std::process::id()));
        std::fs::create_dir(&path).expect("a directory of this name is new");
        Directory(path)
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The same as text, for the arguments of a program.
    pub(crate) fn path(&self, name: &str) -> String {
        self.at(name).to_str().expect("a temporary path is text").to_owned()
    }

    /// Writes a file. Returns its path.
    pub(crate) fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> String {
        std::fs::write(self.at(name), contents).unwrap();
        self.path(name)
    }

    #[track_caller]
    pub(crate) fn assert_empty(&self) {
        let names: Vec<_> = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(names.is_empty(), "left behind: {names:?}");
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
