//! What must not outlive this program, however it ends: the processes it started, and its scratch directory.
//!
//! Each process is the head of a group of its own, which is killed as a whole when its [`Process`] is dropped and when
//! a signal ends this program. Should this program be killed outright, `setpriv` of util-linux, where it is installed,
//! has asked the kernel to kill each head as well.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

struct Leftovers {
    groups: BTreeSet<i32>,
    scratch: Option<PathBuf>,
    scratch_names: u64,
}

static LEFTOVERS: Mutex<Leftovers> = Mutex::new(Leftovers { groups: BTreeSet::new(), scratch: None, scratch_names: 0 });

fn leftovers() -> MutexGuard<'static, Leftovers> {
    LEFTOVERS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Leftovers {
    fn clear(&mut self) {
        for &group in &self.groups {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        if let Some(scratch) = self.scratch.take() {
            let _ = fs::remove_dir_all(scratch);
        }
    }
}

/// From now on SIGINT, SIGTERM and SIGHUP clear up, and end this process with 128 and the signal's number.
pub(crate) fn clear_on_signals() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            // Held until the end: nothing can be started after this.
            let mut leftovers = leftovers();
            leftovers.clear();
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// At the end of `main`.
pub(crate) fn clear() {
    leftovers().clear();
}

/// A file or socket that is removed when this is dropped, or at the end.
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A name that nobody uses, short enough for a Unix socket. Nothing is there yet.
    pub(crate) fn new(suffix: &str) -> Result<Scratch, String> {
        let mut leftovers = leftovers();
        let directory = std::env::temp_dir().join(format!("measure-{}", std::process::id()));
        if leftovers.scratch.is_none() {
            fs::create_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
            leftovers.scratch = Some(directory.clone());
        }
        leftovers.scratch_names += 1;
        Ok(Scratch { path: directory.join(format!("{}.{suffix}", leftovers.scratch_names)) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn create(&self) -> Result<File, String> {
        File::create(&self.path).map_err(|error| format!("{}: {error}", self.path.display()))
    }

    pub(crate) fn read(&self) -> Result<String, String> {
        let bytes = fs::read(&self.path).map_err(|error| format!("{}: {error}", self.path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut leftovers = leftovers();
        let _ = fs::remove_file(&self.path);
        // The last one takes the directory along.
        if leftovers.scratch.as_ref().is_some_and(|directory| fs::remove_dir(directory).is_ok()) {
            leftovers.scratch = None;
        }
    }
}

/// A process that ends with its owner.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts it in a group of its own, with nothing to read.
    pub(crate) fn start(command: &Command, stdout: Stdio, stderr: Stdio) -> io::Result<Process> {
        let mut command = die_with_parent(command);
        command.process_group(0).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let mut leftovers = leftovers();
        let child = command.spawn()?;
        leftovers.groups.insert(child.id() as i32);
        Ok(Process { child })
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// `None` while it runs.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks the whole group to end with `signal`, and waits. `None` if it has not ended in time.
    pub(crate) fn end(&mut self, signal: Signal, patience: Duration) -> Option<ExitStatus> {
        let _ = killpg(self.pid(), signal);
        self.wait(patience)
    }

    /// Its status, if it ends in time.
    pub(crate) fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.status() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut leftovers = leftovers();
        let _ = killpg(self.pid(), Signal::SIGKILL);
        let _ = self.child.wait();
        leftovers.groups.remove(&self.pid().as_raw());
    }
}

/// A copy of the command, to be killed by the kernel when this thread dies. Without `setpriv`: only a copy.
fn die_with_parent(command: &Command) -> Command {
    static SETPRIV: LazyLock<bool> = LazyLock::new(|| {
        let test = Command::new("setpriv").args(["--pdeathsig", "KILL", "true"]).output();
        test.is_ok_and(|output| output.status.success())
    });
    let mut copy;
    if *SETPRIV {
        copy = Command::new("setpriv");
        copy.args(["--pdeathsig", "KILL"]).arg(command.get_program());
    } else {
        copy = Command::new(command.get_program());
    }
    copy.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => copy.env(name, value),
            None => copy.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        copy.current_dir(directory);
    }
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_ends_with_its_owner() {
        let mut command = Command::new("sleep");
        command.arg("600");
        let process = Process::start(&command, Stdio::null(), Stdio::null()).expect("sleep");
        let pid = process.pid();
        assert_eq!(killpg(pid, None), Ok(()), "it is the head of a group");
        drop(process);
        assert!(killpg(pid, None).is_err());
        assert!(!leftovers().groups.contains(&pid.as_raw()));
    }

    #[test]
    fn patience_ends() {
        let mut command = Command::new("sleep");
        command.arg("600");
        let mut process = Process::start(&command, Stdio::null(), Stdio::null()).expect("sleep");
        assert!(process.wait(Duration::from_millis(10)).is_none());
        assert!(process.end(Signal::SIGTERM, Duration::from_secs(10)).is_some());
    }
}
