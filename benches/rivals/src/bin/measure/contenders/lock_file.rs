//! Which version of a crate is in these programs: as the workspace's `Cargo.lock` says.

/// As it was when this program was built, and `rival` with it.
const LOCK_FILE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock"));

/// `tokio 1.54.1`; the bare name, if this package does not depend on such a crate.
pub(super) fn version(name: &str) -> String {
    match find(LOCK_FILE, name) {
        Some(version) => format!("{name} {version}"),
        None => name.to_owned(),
    }
}

/// Several versions of a crate may be there, for others: the one that counts is the one this package depends on. Its
/// version stands beside its name only if there are others.
fn find<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let dependency = dependencies(text, env!("CARGO_PKG_NAME")).find(|entry| entry.split(' ').next() == Some(name))?;
    match dependency.split(' ').nth(1) {
        Some(version) => Some(version),
        None => packages(text, name).find_map(|package| value(package, "version")),
    }
}

fn packages<'a>(text: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    text.split("[[package]]").filter(move |package| value(package, "name") == Some(name))
}

fn dependencies<'a>(text: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    packages(text, name)
        .flat_map(|package| package.lines().skip_while(|line| *line != "dependencies = ["))
        .filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\","))
}

/// Of `key = "value"`.
fn value<'a>(package: &'a str, key: &str) -> Option<&'a str> {
    package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"version = 4

[[package]]
name = "mio"
version = "0.8.11"

[[package]]
name = "mio"
version = "1.2.0"
dependencies = [
 "libc",
]

[[package]]
name = "rivals"
version = "0.0.0"
dependencies = [
 "mio 1.2.0",
 "tokio",
]

[[package]]
name = "tokio"
version = "1.54.1"
source = "elsewhere"
"#;

    #[test]
    fn the_version_that_this_package_depends_on() {
        assert_eq!(find(SAMPLE, "mio"), Some("1.2.0"));
        assert_eq!(find(SAMPLE, "tokio"), Some("1.54.1"));
        assert_eq!(find(SAMPLE, "libc"), None, "not a dependency of this package");
    }

    #[test]
    fn the_workspace_has_one() {
        assert!(version("tokio").starts_with("tokio 1."));
        assert_eq!(version("nobody"), "nobody");
    }
}
