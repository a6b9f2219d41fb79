//! The machine that the figures belong to, in the words of the kernel and of the tools.

use crate::tools;
use nix::sys::resource::{Resource, getrlimit};
use serde::{Deserialize, Serialize};
use std::fs;
use std::process::Command;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Linux's release: `6.1.0`.
    pub(crate) kernel: String,
    pub(crate) cpu_model: String,
    /// CPUs that are on.
    pub(crate) cpus: usize,
    /// How its frequency is chosen, if the kernel chooses it.
    pub(crate) frequency_governor: Option<String>,
    pub(crate) memory_mib: u64,
    pub(crate) rustc: String,
    pub(crate) strace: String,
    pub(crate) valgrind: String,
    /// Descriptors of a process: soft limit, hard limit.
    pub(crate) nofile: (u64, u64),
    /// The accept queue of a listener holds at most so many.
    pub(crate) somaxconn: Option<u64>,
    pub(crate) tcp_max_syn_backlog: Option<u64>,
    /// Ports that connects choose from.
    pub(crate) ip_local_port_range: Option<String>,
}

impl Machine {
    pub(crate) fn describe() -> Machine {
        let cpu_info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory_kib =
            field(&memory, "MemTotal").and_then(|text| text.strip_suffix("kB")?.trim().parse::<u64>().ok());
        Machine {
            kernel: setting("/proc/sys/kernel/osrelease").unwrap_or_else(unknown),
            cpu_model: field(&cpu_info, "model name").map_or_else(unknown, str::to_owned),
            cpus: cpu_info.lines().filter(|line| line.starts_with("processor")).count(),
            frequency_governor: setting("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            memory_mib: memory_kib.unwrap_or(0) / 1024,
            rustc: version("rustc", "--version"),
            strace: version("strace", "--version"),
            valgrind: version("valgrind", "--version"),
            nofile: getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0)),
            somaxconn: number("/proc/sys/net/core/somaxconn"),
            tcp_max_syn_backlog: number("/proc/sys/net/ipv4/tcp_max_syn_backlog"),
            ip_local_port_range: setting("/proc/sys/net/ipv4/ip_local_port_range"),
        }
    }

    /// For below a plot.
    pub(crate) fn in_short(&self) -> String {
        format!("{}, Linux {}", self.cpu_model, self.kernel)
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn version(program: &str, option: &str) -> String {
    let mut command = Command::new(program);
    command.arg(option);
    tools::first_line(&command).unwrap_or_else(|reason| format!("absent: {reason}"))
}

/// What a file of one line says, with single blanks.
fn setting(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn number(path: &str) -> Option<u64> {
    setting(path)?.parse().ok()
}

/// The value of the first line `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn fields_of_cpuinfo() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nmodel\t\t: 2\n";
        assert_eq!(field(text, "model name"), Some("Some CPU @ 3 GHz"));
        assert_eq!(field(text, "model"), Some("2"));
        assert_eq!(field(text, "flags"), None);
    }
}
