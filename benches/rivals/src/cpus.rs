//! Which CPU serves and which makes the load. They are two different ones, if there are two.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::fmt;
use std::fs;

/// The two CPUs. This thread runs on the load's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpus {
    server: usize,
    load: usize,
}

impl Cpus {
    /// Chooses two of those that this process may use, not of the same core if possible, and pins this thread.
    pub(crate) fn choose() -> Result<Cpus, String> {
        let allowed = sched_getaffinity(THIS_THREAD).map_err(|errno| format!("sched_getaffinity: {errno}"))?;
        let allowed: Vec<usize> = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu) == Ok(true)).collect();
        let (&server, others) = allowed.split_last().ok_or("no CPU is allowed")?;
        let load = others.iter().find(|&&cpu| core(cpu) != core(server)).or(others.first()).copied().unwrap_or(server);
        pin(load)?;
        Ok(Cpus { server, load })
    }

    /// Calls `start` with this thread on the server's CPU: a process started there stays there, with all its threads.
    pub(crate) fn on_server<T>(&self, start: impl FnOnce() -> T) -> Result<T, String> {
        pin(self.server)?;
        let started = start();
        pin(self.load)?;
        Ok(started)
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cpus { server, load } = *self;
        write!(f, "server on CPU {server}, load on CPU {load}")?;
        if server == load { f.write_str(", the only one: rates mean little, ratios of CPU time more") } else { Ok(()) }
    }
}

const THIS_THREAD: Pid = Pid::from_raw(0);

fn pin(cpu: usize) -> Result<(), String> {
    let mut set = CpuSet::new();
    let pinned = set.set(cpu).and_then(|()| sched_setaffinity(THIS_THREAD, &set));
    pinned.map_err(|errno| format!("cannot stay on CPU {cpu}: {errno}"))
}

/// The list of the CPUs on the same core, which is the same text for each of them. `None` if the kernel does not say.
fn core(cpu: usize) -> Option<String> {
    fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).ok()
}
