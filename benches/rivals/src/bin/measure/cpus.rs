//! Which CPU serves and which makes the load: never the same one, if there are two.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::fs;

/// The two CPUs. This thread has the load's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpus {
    pub(crate) server: usize,
    pub(crate) load: usize,
}

impl Cpus {
    /// Chooses among those this process may use, two that do not share a core if possible, and pins this thread.
    pub(crate) fn choose() -> Result<Cpus, String> {
        let allowed = sched_getaffinity(THIS_THREAD).map_err(|errno| format!("sched_getaffinity: {errno}"))?;
        let allowed: Vec<usize> = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu) == Ok(true)).collect();
        let (&server, others) = allowed.split_last().ok_or("no CPU is allowed")?;
        let siblings = siblings(server);
        let load = others.iter().find(|cpu| !siblings.contains(cpu)).or(others.first()).copied().unwrap_or(server);
        pin(load)?;
        Ok(Cpus { server, load })
    }

    /// Calls `start` with this thread on the server's CPU: a process started there stays there, with all its threads.
    pub(crate) fn as_server<T>(&self, start: impl FnOnce() -> T) -> Result<T, String> {
        pin(self.server)?;
        let started = start();
        pin(self.load)?;
        Ok(started)
    }

    /// For the reader of the report.
    pub(crate) fn describe(&self) -> String {
        let Cpus { server, load } = self;
        if server == load {
            format!("server and load share CPU {server}, the only one: rates say little, CPU times and ratios more")
        } else if siblings(*server).contains(load) {
            format!("server on CPU {server}, load on CPU {load}, which are two threads of one core")
        } else {
            format!("server on CPU {server}, load on CPU {load}")
        }
    }
}

const THIS_THREAD: Pid = Pid::from_raw(0);

fn pin(cpu: usize) -> Result<(), String> {
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(THIS_THREAD, &set))
        .map_err(|errno| format!("cannot stay on CPU {cpu}: {errno}"))
}

/// The CPUs on the same core as `cpu`, itself among them. None if the kernel does not say.
fn siblings(cpu: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    fs::read_to_string(path).map(|list| parse_list(&list)).unwrap_or_default()
}

/// A list as the kernel writes it: `0-2,7`.
fn parse_list(list: &str) -> Vec<usize> {
    let mut cpus = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        if let (Ok(first), Ok(last)) = (first.parse(), last.parse::<usize>()) {
            cpus.extend(first..=last);
        }
    }
    cpus
}

#[cfg(test)]
mod tests {
    use super::parse_list;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(parse_list("0\n"), [0]);
        assert_eq!(parse_list("0,64\n"), [0, 64]);
        assert_eq!(parse_list("0-2,7"), [0, 1, 2, 7]);
        assert!(parse_list("").is_empty());
    }
}
