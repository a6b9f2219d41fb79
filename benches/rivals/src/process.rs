//! Other programs: started, waited for, and ended with all that they have started, however this program ends.
//!
//! Each runs in a process group of its own. The group is killed when its [`Process`] is dropped. A signal to this
//! program only sets a mark, which every loop that waits looks at, so that the owners of all processes are dropped as
//! after any other error. If this program itself is killed, the kernel kills the first process of each group, which
//! `setpriv` of util-linux has asked it to do.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From now on SIGINT, SIGTERM and SIGHUP make [`check_interrupt`] fail, and do nothing else.
pub(crate) fn catch_signals() -> io::Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, INTERRUPTED.clone())?;
    }
    Ok(())
}

/// Fails once a signal has asked this program to end. Called in every loop that may take long.
pub(crate) fn check_interrupt() -> Result<(), String> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err("interrupted".to_owned()) } else { Ok(()) }
}

/// Asks until there is an answer. `None` if there is none within `patience`.
pub(crate) fn ask_until<T>(
    patience: Duration,
    mut ask: impl FnMut() -> Result<Option<T>, String>,
) -> Result<Option<T>, String> {
    let deadline = Instant::now() + patience;
    loop {
        check_interrupt()?;
        let answer = ask()?;
        if answer.is_some() || Instant::now() >= deadline {
            return Ok(answer);
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// A program that ends with its owner.
pub(crate) struct Process {
    name: String,
    child: Child,
    output: std::fs::File,
}

impl Process {
    /// `words`: the program and its arguments. It has nothing to read, and what it writes is kept.
    pub(crate) fn start(name: &str, words: &[String]) -> Result<Process, String> {
        let start = || {
            let output = tempfile::tempfile()?;
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL"]).args(words).process_group(0);
            command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
            io::Result::Ok(Process { name: name.to_owned(), child: command.spawn()?, output })
        };
        start().map_err(|error| format!("cannot start {name} with setpriv: {error}"))
    }

    /// `setpriv` becomes the program, so this is the program's own.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// What it has written to standard output and standard error so far.
    pub(crate) fn output(&self) -> String {
        let read = || {
            let mut bytes = vec![0; self.output.metadata()?.len() as usize];
            // The position in the file is shared with the program, so it is not moved here.
            self.output.read_exact_at(&mut bytes, 0)?;
            io::Result::Ok(bytes)
        };
        let bytes = read().unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Fails with its last words if it has ended.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        match self.status() {
            None => Ok(()),
            Some(status) => Err(self.describe(status)),
        }
    }

    /// Waits for its end. `None` if it has not ended in time.
    pub(crate) fn wait(&mut self, patience: Duration) -> Result<Option<ExitStatus>, String> {
        ask_until(patience, || Ok(self.status()))
    }

    /// Asks the whole group to end, and waits until the program has.
    pub(crate) fn end(&mut self, signal: Signal, patience: Duration) -> Result<(), String> {
        let _ = killpg(self.pid(), signal);
        match self.wait(patience)? {
            Some(_) => Ok(()),
            None => Err(format!("{} did not end within {} s of {signal}", self.name, patience.as_secs())),
        }
    }

    fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    fn describe(&self, status: ExitStatus) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = lines[lines.len().saturating_sub(3)..].join(" | ");
        format!("{} ended with {status}: {last}", self.name)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = killpg(self.pid(), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Runs a program to its end, and returns what it wrote.
pub(crate) fn output(words: &[&str]) -> Result<String, String> {
    let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    let mut process = Process::start(words.first().map_or("", String::as_str), &words)?;
    match process.wait(Duration::from_secs(60))? {
        Some(status) if status.success() => Ok(process.output()),
        Some(status) => Err(process.describe(status)),
        None => Err(format!("{} does not end", process.name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_ends_with_its_owner() {
        let process = Process::start("sleep", &["sleep", "600"].map(str::to_owned)).expect("sleep");
        let pid = process.pid();
        assert_eq!(killpg(pid, None), Ok(()), "it is the first of its group");
        drop(process);
        assert!(killpg(pid, None).is_err());
    }

    #[test]
    fn waiting_ends() {
        let mut process = Process::start("sleep", &["sleep", "600"].map(str::to_owned)).expect("sleep");
        assert_eq!(process.wait(Duration::from_millis(10)), Ok(None));
        assert_eq!(process.end(Signal::SIGTERM, Duration::from_secs(10)), Ok(()));
    }

    #[test]
    fn a_failure_comes_with_the_last_words() {
        let error = output(&["sh", "-c", "echo it broke >&2; exit 3"]).expect_err("status 3");
        assert!(error.contains("exit status: 3") && error.ends_with("it broke"), "{error}");
        let error = output(&["/nonexistent/program"]).expect_err("no program");
        assert!(error.contains("/nonexistent/program"), "{error}");
    }
}
