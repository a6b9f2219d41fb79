//! A server in a process of its own, which ends with this one however this one ends, and what proc(5) tells about it.

use std::fs;
use std::io;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The process, and those that it has started.
pub(crate) struct Process {
    shell: Child,
    lifeline: Option<ChildStdin>,
}

impl Process {
    /// Starts a program. What it says on standard error goes to a file.
    pub(crate) fn start(words: &[String], log: fs::File) -> io::Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", LIFELINE, "sh"]).args(words);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        let mut shell = command.spawn()?;
        let lifeline = shell.stdin.take();
        Ok(Process { shell, lifeline })
    }

    /// Returns the status of a program that has ended by itself.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.shell.try_wait()
    }

    /// The bytes in private pages, once they do not change any more.
    pub(crate) fn private_bytes(&self) -> u64 {
        let mut last = self.sum(private_bytes);
        loop {
            std::thread::sleep(SETTLED);
            let now = self.sum(private_bytes);
            if now == last {
                return now;
            }
            last = now;
        }
    }

    /// The time that it has spent on CPUs, in user space and in the kernel.
    pub(crate) fn cpu(&self) -> Duration {
        self.sum(cpu)
    }

    /// The shell does nothing, so it does not count.
    fn sum<T: std::iter::Sum>(&self, of_one: fn(u32) -> Option<T>) -> T {
        let mut pids = vec![self.shell.id()];
        let mut next = 0;
        while let Some(pid) = pids.get(next) {
            let path = format!("/proc/{pid}/task/{pid}/children");
            let children = fs::read_to_string(path).unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
            next += 1;
        }
        pids.into_iter().filter_map(of_one).sum()
    }
}

/// Ends the program, and waits for its end.
impl Drop for Process {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        let begun = Instant::now();
        while !matches!(self.shell.try_wait(), Ok(Some(_)) | Err(_)) {
            if begun.elapsed() > PATIENCE {
                eprintln!("a server does not end");
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn private_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kib = |name| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix(" kB")?.parse().ok()
    };
    Some(1_024 * (kib("Private_Dirty:")? + kib("Private_Clean:")?))
}

/// Of its first thread, which serves. It is utime + stime of proc(5), but stat rounds these to 10 ms.
fn cpu(pid: u32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// Kills the program when standard input ends, which is when this process closes it, or has ended. Ctrl-C, which a
/// terminal sends to all of them, is for this process alone.
const LIFELINE: &str = r#"trap '' INT; exec 3<&0; "$@" 3<&- & pid=$!; { cat <&3 >/dev/null; kill $pid; } & wait $pid"#;

/// A server on a busy machine accepts its clients with pauses.
const SETTLED: Duration = Duration::from_secs(1);

const PATIENCE: Duration = Duration::from_secs(30);
