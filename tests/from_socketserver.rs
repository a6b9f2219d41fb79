//! The page for users of `socketserver` of Python, `docs/from-socketserver.md`, against the names of that module.
//!
//! Mirrors `MiscTestCase.test_all` of CPython: nothing public is forgotten. The names are data,
//! `tests/data/socketserver-names.txt`; `tests/data/names.py` makes them, and where there is a Python it is asked whether
//! they are right.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A row of the data: since when, and until when.
struct Name {
    first: (u32, u32),
    last: (u32, u32),
    kind: String,
}

#[test]
fn every_name_of_python_s_has_a_row_on_the_page() {
    let (names, rows) = (names(), rows());
    let missing: Vec<_> = names.keys().filter(|name| !rows.contains_key(*name)).collect();
    assert!(missing.is_empty(), "the page has no row for {missing:#?}");
}

#[test]
fn the_page_has_no_row_for_a_name_that_python_does_not_have() {
    let (names, rows) = (names(), rows());
    let invented: Vec<_> = rows.keys().filter(|name| !names.contains_key(*name)).collect();
    assert!(invented.is_empty(), "Python has no {invented:#?}");
    let twice: Vec<_> = rows.iter().filter(|(_, count)| **count > 1).map(|(name, _)| name).collect();
    assert!(twice.is_empty(), "more than one row for {twice:#?}");
}

/// In the text, too, a class of Python's is not said to have what it does not have.
#[test]
fn the_page_mentions_no_attribute_that_python_does_not_have() {
    let names = names();
    let page = std::fs::read_to_string(path("docs/from-socketserver.md")).unwrap();
    let mentioned = page.lines().filter(|line| !line.starts_with("```")).flat_map(codes);
    let wrong: BTreeSet<_> = mentioned
        .filter(|code| {
            let class = code.split_once('.').map_or("", |(class, _)| class);
            names.get(class).is_some_and(|name| name.kind == "class") && !names.contains_key(*code)
        })
        .map(str::to_owned)
        .collect();
    assert!(wrong.is_empty(), "Python has no {wrong:#?}");
}

/// `test_all`: the classes are those that the versions had.
#[test]
fn the_data_is_whole() {
    let names = names();
    let classes = |version| {
        names.values().filter(|name| name.kind == "class" && name.first <= version && version <= name.last).count()
    };
    assert_eq!([8, 11, 12, 14].map(|minor| classes((3, minor))), [16, 16, 18, 18]);
    for name in names.keys().filter(|name| !name.starts_with("__")) {
        let class = name.split('.').next().unwrap();
        assert!(names.contains_key(class), "{name} is of no class");
    }
}

/// The Pythons that are here have the names that the data has for their version.
#[test]
fn python_agrees() {
    let names = names();
    let mut asked = BTreeSet::new();
    let pythons = std::iter::once("python3".to_owned()).chain((8..=14).map(|minor| format!("python3.{minor}")));
    for python in pythons {
        let Some(version) = ask(&python, &["-c", "import sys; print(*sys.version_info[:2])"]) else { continue };
        let (major, minor) = version.trim().split_once(' ').unwrap();
        let version = (major.parse().unwrap(), minor.parse().unwrap());
        if !asked.insert(version) {
            continue;
        }
        if !((3, 8)..=(3, 14)).contains(&version) || cfg!(windows) {
            eprintln!("skipped: the data is not about {python} {version:?} on this system");
            continue;
        }
        let script = path("tests/data/names.py");
        let output = ask(&python, &[script.to_str().unwrap()]).expect("names.py runs wherever Python does");
        let live: BTreeSet<_> = output.lines().map(|line| line.split_once('\t').unwrap()).collect();
        let ours = names.iter().filter(|(_, name)| (name.first..=name.last).contains(&version));
        let ours: BTreeSet<_> = ours.map(|(name, row)| (name.as_str(), row.kind.as_str())).collect();
        let differ: Vec<_> = live.symmetric_difference(&ours).collect();
        assert!(differ.is_empty(), "{python} {version:?} and the data differ in {differ:#?}");
    }
    if asked.is_empty() {
        eprintln!("skipped: no python3");
    }
}

/// What a program prints, if there is one and it ends well.
fn ask(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    String::from_utf8(output.stdout).ok().filter(|_| output.status.success())
}

fn names() -> BTreeMap<String, Name> {
    let data = std::fs::read_to_string(path("tests/data/socketserver-names.txt")).unwrap();
    let version = |text: &str| {
        let (major, minor) = text.split_once('.').unwrap();
        (major.parse().unwrap(), minor.parse().unwrap())
    };
    let rows = data.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let fields: Vec<_> = line.split('\t').collect();
        let [name, first, last, kind] = fields[..] else { panic!("no row: {line:?}") };
        (name.to_owned(), Name { first: version(first), last: version(last), kind: kind.to_owned() })
    });
    rows.collect()
}

/// The names in the first column of the tables of "Every name", and how often each is there.
fn rows() -> BTreeMap<String, u32> {
    let page = std::fs::read_to_string(path("docs/from-socketserver.md")).unwrap();
    let (_, chapter) = page.split_once("\n## Every name\n").expect("the page has this chapter");
    let (chapter, _) = chapter.split_once("\n## ").unwrap_or((chapter, ""));
    let mut rows = BTreeMap::new();
    for line in chapter.lines().filter(|line| line.starts_with("| `")) {
        let cell = line.split(" | ").next().unwrap();
        codes(cell).for_each(|code| *rows.entry(code.to_owned()).or_default() += 1);
    }
    rows
}

/// What stands between backticks.
fn codes(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}
