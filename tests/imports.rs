//! Each file of `src` imports only from files below it in the map of `docs/architecture.md`. The one exception is the trait
//! that users implement and the request that it is given, which know each other. And what else the sources have to keep to.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 450;

#[test]
fn files_import_one_way() {
    let page = fs::read_to_string("docs/architecture.md").unwrap();
    let map = page.split("```text\n").find(|block| block.starts_with("lib.rs")).expect("the map of the files");
    let names = map.split("```").next().unwrap().lines().filter_map(|line| line.split_whitespace().next());
    let modules: Vec<String> = names.map(|name| name.trim_end_matches(".rs").replace('/', "::")).collect();
    let place: HashMap<&str, usize> = modules.iter().enumerate().map(|(place, module)| (&**module, place)).collect();
    let mut wrong = Vec::new();
    let mut files = Vec::new();
    list(Path::new("src"), &mut files);
    for file in &files {
        let name = file.strip_prefix("src").unwrap().with_extension("");
        let module = name.to_str().unwrap().replace(['/', '\\'], "::");
        if module == "lib" || module.split("::").any(|part| part == "tests") {
            continue;
        }
        let Some(&own) = place.get(&*module) else {
            wrong.push(format!("{module} is not in the map"));
            continue;
        };
        let text = fs::read_to_string(file).unwrap();
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        if code.lines().count() > FILE_LINES_MAX {
            wrong.push(format!("{module} has more than {FILE_LINES_MAX} lines"));
        }
        for path in paths(code, &module) {
            let used =
                (1..=path.len()).rev().map(|n| path[..n].join("::")).find(|module| place.contains_key(&**module));
            if let Some(used) = used
                && place[&*used] < own
                && !(module.starts_with("handler") && used.starts_with("handler"))
            {
                wrong.push(format!("{module} imports {used}, which is above it"));
            }
        }
    }
    for module in modules.iter().filter(|module| *module != "lib") {
        let file = PathBuf::from("src").join(format!("{}.rs", module.replace("::", "/")));
        if !file.exists() {
            wrong.push(format!("{module} is in the map, and there is no such file"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The numbers differ from one system, and one processor, to the next.
#[test]
fn errors_of_the_system_are_compared_by_name() {
    let mut files = Vec::new();
    list(Path::new("src"), &mut files);
    let mut wrong = Vec::new();
    for file in files.iter().filter(|file| !file.ends_with("tests.rs")) {
        let text = fs::read_to_string(file).unwrap();
        let code = text.split("mod tests {").next().unwrap();
        if !code.contains("raw_os_error()") {
            continue;
        }
        for (line, text) in code.lines().enumerate() {
            let numbered =
                text.split("Some(").skip(1).any(|value| value.starts_with(|c: char| ('1'..='9').contains(&c)));
            if numbered || text.trim_start().starts_with("const E") {
                wrong.push(format!("{}:{}: {}", file.display(), line + 1, text.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { list(&path, files) } else { files.push(path) }
    }
}

/// The paths that a module names, from the root of the crate, a list of imports taken apart.
fn paths(code: &str, module: &str) -> Vec<Vec<String>> {
    let code: String = code.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n");
    let code = code.replace("pub(super)", "").replace("pub(crate)", "");
    let mut paths = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            if code[..at].ends_with([':', '_']) || code[..at].ends_with(char::is_alphanumeric) {
                continue;
            }
            let mut base: Vec<&str> = if start == "crate::" { Vec::new() } else { module.split("::").collect() };
            let mut rest = &code[at..];
            if let Some(after) = rest.strip_prefix("crate::").or(rest.strip_prefix("self::")) {
                rest = after;
            }
            while let Some(after) = rest.strip_prefix("super::") {
                base.pop();
                rest = after;
            }
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(rest.len());
            let stem = rest[..end].trim_end_matches(':');
            let listed =
                rest[end..].strip_prefix('{').filter(|_| rest[..end].is_empty() || rest[..end].ends_with("::"));
            let items = listed.map_or("", |list| list.split("};").next().unwrap());
            for item in items.split(',') {
                let item = item.trim_matches(|c: char| c.is_whitespace() || c == '{' || c == '}');
                let parts = stem.split("::").chain(item.split("::")).filter(|part| !part.is_empty());
                paths.push(base.iter().copied().chain(parts).map(str::to_owned).collect());
            }
        }
    }
    paths
}
