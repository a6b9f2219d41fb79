//! The rivals in Python and JavaScript, run by the interpreters that this machine has.

use super::{Absent, Contender, Program, Threads, Wanted};
use crate::tools;
use std::process::Command;
use std::time::Duration;

/// For an interpreter to start, import a module and print a line.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server in Python.
struct Script {
    name: &'static str,
    file: &'static str,
    flags: &'static [&'static str],
    /// What it needs beside the standard library.
    module: Option<&'static str>,
    threads: Threads,
}

const SCRIPTS: [Script; 4] = [
    Script {
        name: "python-threading",
        file: "threading_tcp.py",
        flags: &[],
        module: None,
        threads: Threads::PerClient,
    },
    Script { name: "asyncio", file: "asyncio_echo.py", flags: &[], module: None, threads: Threads::One },
    Script {
        name: "uvloop",
        file: "asyncio_echo.py",
        flags: &["--uvloop"],
        module: Some("uvloop"),
        threads: Threads::One,
    },
    Script { name: "gevent", file: "gevent_echo.py", flags: &[], module: Some("gevent"), threads: Threads::One },
];

/// The interpreter itself rather than what may stand in for it in the search path, and its version.
struct Python {
    program: String,
    version: String,
}

pub(super) fn find(wanted: &Wanted<'_>) -> Vec<Result<Contender, Absent>> {
    let scripts: Vec<&Script> = SCRIPTS.iter().filter(|script| wanted.name(script.name)).collect();
    let mut found = Vec::new();
    if !scripts.is_empty() {
        let python = Python::find();
        found.extend(scripts.into_iter().map(|script| {
            let contender = python.as_ref().map_err(String::clone).and_then(|python| script.contender(python));
            contender.map_err(|reason| Absent::new(script.name, reason))
        }));
    }
    if wanted.name("node") {
        found.push(node().map_err(|reason| Absent::new("node", reason)));
    }
    found
}

impl Python {
    fn find() -> Result<Python, String> {
        let script = "import platform, sys; print(platform.python_version(), sys.executable)";
        let line = last_line(Command::new("python3").args(["-c", script]))
            .map_err(|error| format!("{error}; Debian: python3"))?;
        match line.split_once(' ') {
            Some((version, program)) if !program.is_empty() => {
                Ok(Python { program: program.to_owned(), version: format!("Python {version}") })
            }
            _ => Err("python3 does not know where it is itself".to_owned()),
        }
    }
}

impl Script {
    fn contender(&self, python: &Python) -> Result<Contender, String> {
        let version = match self.module {
            None => python.version.clone(),
            Some(module) => {
                let script = format!("import {module}; print({module}.__version__)");
                let version = last_line(Command::new(&python.program).args(["-c", &script])).map_err(|_| {
                    format!(
                        "{} cannot import {module}; python3 -m pip install {module}, or Debian: python3-{module}",
                        python.version
                    )
                })?;
                format!("{module} {version}, {}", python.version)
            }
        };
        let mut words = vec![python.program.clone(), path(self.file)?];
        words.extend(self.flags.iter().map(|&flag| flag.to_owned()));
        Ok(interpreted(self.name, version, self.threads, words))
    }
}

fn node() -> Result<Contender, String> {
    let version =
        last_line(Command::new("node").arg("--version")).map_err(|error| format!("{error}; Debian: nodejs"))?;
    let version = format!("Node.js {}", version.trim_start_matches('v'));
    Ok(interpreted("node", version, Threads::One, vec!["node".to_owned(), path("node_echo.js")?]))
}

fn interpreted(name: &str, version: String, threads: Threads, words: Vec<String>) -> Contender {
    Contender {
        name: name.to_owned(),
        version,
        threads,
        native: false,
        serves: super::everything(),
        half_close: true,
        program: Program::Ours(words),
    }
}

fn path(file: &str) -> Result<String, String> {
    let path = super::source(file);
    path.into_os_string().into_string().map_err(|path| format!("{} is no text", path.display()))
}

/// Warnings may come before it.
fn last_line(command: &Command) -> Result<String, String> {
    let text = tools::output(command, PATIENCE)?;
    Ok(text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_is_not_there() {
        let script = Script { module: Some("no_such_module"), ..SCRIPTS[2] };
        let python = Python { program: "python3".to_owned(), version: "Python 3.11.7".to_owned() };
        let reason = script.contender(&python).expect_err("no such module");
        assert!(reason.starts_with("Python 3.11.7 cannot import no_such_module"), "{reason}");
    }

    #[test]
    fn warnings_are_not_versions() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo careful >&2; echo v1.2; echo"]);
        assert_eq!(last_line(&command), Ok("v1.2".to_owned()));
    }
}
