//! Other programs, run to their end within a time limit.

use crate::leftovers::{Process, Scratch};
use std::process::{Command, ExitStatus};
use std::time::Duration;

/// Runs it, and returns what it wrote to its standard output.
pub(crate) fn output(command: &Command, patience: Duration) -> Result<String, String> {
    let name = command.get_program().display();
    let output = Scratch::new("output")?;
    let file = output.create()?;
    let errors = file.try_clone().map_err(|error| format!("{name}: {error}"))?;
    let mut process =
        Process::start(command, file.into(), errors.into()).map_err(|error| format!("{name}: {error}"))?;
    let status = process.wait(patience);
    let text = output.read()?;
    match status {
        Some(status) if status.success() => Ok(text),
        Some(status) => Err(describe(&name.to_string(), status, &text)),
        None => Err(format!("{name} did not end within {} s", patience.as_secs())),
    }
}

/// The first line that it writes.
pub(crate) fn first_line(command: &Command) -> Result<String, String> {
    let text = output(command, Duration::from_secs(10))?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// How a process ended, with the last lines that it wrote.
pub(crate) fn describe(name: &str, status: ExitStatus, text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(3)..];
    if last.is_empty() {
        format!("{name} ended with {status}")
    } else {
        format!("{name} ended with {status}: {}", last.join(" | "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn first_line_of_many() {
        assert_eq!(first_line(&shell("echo ' one'; echo two")), Ok("one".to_owned()));
    }

    #[test]
    fn a_failure_says_what_was_written_last() {
        let error = first_line(&shell("echo it broke >&2; exit 3")).expect_err("status 3");
        assert!(error.contains("exit status: 3") && error.ends_with("it broke"), "{error}");
        assert!(first_line(&Command::new("/nonexistent/program")).is_err());
    }

    #[test]
    fn waiting_ends() {
        assert!(output(&shell("sleep 600"), Duration::from_millis(20)).is_err());
    }
}
