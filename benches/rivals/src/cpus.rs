//! Which CPU serves and which makes the load. They are two different ones, if there are two.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::fmt;
use std::fs;

/// The CPUs of both. This thread runs on the load's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpus {
    server: CpuSet,
    load: CpuSet,
}

impl Cpus {
    /// Chooses two of those that this process may use, not of the same core if possible, and pins this thread.
    pub(crate) fn choose() -> Result<Cpus, String> {
        let allowed = numbers(&allowed()?);
        let (&server, others) = allowed.split_last().ok_or("no CPU is allowed")?;
        let load = others.iter().find(|&&cpu| core(cpu) != core(server)).or(others.first()).copied().unwrap_or(server);
        Cpus { server: only(server)?, load: only(load)? }.begin()
    }

    /// A server with several threads has all that this process may use, and the load one of them.
    pub(crate) fn all() -> Result<Cpus, String> {
        let server = allowed()?;
        let load = *numbers(&server).first().ok_or("no CPU is allowed")?;
        Cpus { server, load: only(load)? }.begin()
    }

    fn begin(self) -> Result<Cpus, String> {
        pin(&self.load)?;
        Ok(self)
    }

    /// Calls `start` with this thread on the server's CPU: a process started there stays there, with all its threads.
    pub(crate) fn on_server<T>(&self, start: impl FnOnce() -> T) -> Result<T, String> {
        pin(&self.server)?;
        let started = start();
        pin(&self.load)?;
        Ok(started)
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |set| numbers(set).iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        write!(f, "server on CPU {}, load on CPU {}", show(&self.server), show(&self.load))?;
        let shares = numbers(&self.load).iter().any(|&cpu| self.server.is_set(cpu) == Ok(true));
        if shares { f.write_str(", which is shared: rates mean little, ratios of CPU time more") } else { Ok(()) }
    }
}

const THIS_THREAD: Pid = Pid::from_raw(0);

fn allowed() -> Result<CpuSet, String> {
    sched_getaffinity(THIS_THREAD).map_err(|errno| format!("sched_getaffinity: {errno}"))
}

fn numbers(set: &CpuSet) -> Vec<usize> {
    (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu) == Ok(true)).collect()
}

fn only(cpu: usize) -> Result<CpuSet, String> {
    let mut set = CpuSet::new();
    set.set(cpu).map_err(|errno| format!("CPU {cpu}: {errno}"))?;
    Ok(set)
}

fn pin(set: &CpuSet) -> Result<(), String> {
    sched_setaffinity(THIS_THREAD, set).map_err(|errno| format!("cannot stay on CPUs {:?}: {errno}", numbers(set)))
}

/// The list of the CPUs on the same core, which is the same text for each of them. `None` if the kernel does not say.
fn core(cpu: usize) -> Option<String> {
    fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).ok()
}
