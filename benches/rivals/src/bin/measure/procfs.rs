//! What the kernel says about a process and about the network, read from /proc.

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Memory {
    /// Its pages, shared ones divided by the number of their users.
    pub(crate) pss: f64,
    /// Of these, the ones that no file is behind: heap and stacks.
    pub(crate) anonymous: f64,
}

/// Of the process alone, not of its children.
pub(crate) fn memory(pid: Pid) -> Result<Memory, String> {
    parse_memory(&read(&format!("/proc/{pid}/smaps_rollup"))?)
        .ok_or_else(|| format!("no Pss in /proc/{pid}/smaps_rollup"))
}

pub(crate) fn threads(pid: Pid) -> Result<u64, String> {
    let status = read(&format!("/proc/{pid}/status"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("Threads:")?.trim().parse().ok())
        .ok_or_else(|| format!("no Threads in /proc/{pid}/status"))
}

/// How often the kernel dropped something for want of room, in this network namespace since it was made. Counters it
/// does not have are missing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Drops(BTreeMap<String, u64>);

/// `ListenOverflows`: the accept queue was full. `ListenDrops`: a connect was dropped, for this or another reason.
/// `RcvbufErrors`: a datagram found its receiver's buffer full.
const DROPS: [(&str, &str, &str); 3] = [
    ("/proc/net/netstat", "TcpExt", "ListenOverflows"),
    ("/proc/net/netstat", "TcpExt", "ListenDrops"),
    ("/proc/net/snmp", "Udp", "RcvbufErrors"),
];

impl Drops {
    pub(crate) fn now() -> Drops {
        let value = |&(path, table, name): &(&str, &str, &str)| {
            Some((name.to_owned(), parse_counter(&fs::read_to_string(path).ok()?, table, name)?))
        };
        Drops(DROPS.iter().filter_map(value).collect())
    }

    /// What was added from `before` to `self`.
    pub(crate) fn since(&self, before: &Drops) -> Drops {
        let added = |(name, now): (&String, &u64)| Some((name.clone(), now.saturating_sub(*before.0.get(name)?)));
        Drops(self.0.iter().filter_map(added).collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}

fn parse_memory(rollup: &str) -> Option<Memory> {
    let bytes = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? * 1024.0)
    };
    // Kernels before 5.9 do not divide Pss; nothing anonymous is shared there but after fork.
    Some(Memory { pss: bytes("Pss:")?, anonymous: bytes("Pss_Anon:").or_else(|| bytes("Anonymous:"))? })
}

/// These files have pairs of lines: a table's names, then its values.
fn parse_counter(text: &str, table: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(table)?.strip_prefix(':'));
    let (names, values) = (lines.next()?, lines.next()?);
    names.split_whitespace().zip(values.split_whitespace()).find(|(known, _)| *known == name)?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_a_rollup() {
        let rollup = "557e87e8c000-7ffe8c799000 ---p 00000000 00:00 0    [rollup]\n\
                      Rss:                1736 kB\nPss:                 341 kB\nPss_Dirty:           112 kB\n\
                      Pss_Anon:            112 kB\nPss_File:            229 kB\n";
        assert_eq!(parse_memory(rollup), Some(Memory { pss: 341.0 * 1024.0, anonymous: 112.0 * 1024.0 }));
        assert_eq!(parse_memory("Rss: 4 kB\n"), None);
    }

    #[test]
    fn counters_stand_below_their_names() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 22 333\nIpExt: InBytes\nIpExt: 4\n";
        assert_eq!(parse_counter(text, "TcpExt", "ListenOverflows"), Some(22));
        assert_eq!(parse_counter(text, "TcpExt", "ListenDrops"), Some(333));
        assert_eq!(parse_counter(text, "IpExt", "ListenDrops"), None);
        assert_eq!(parse_counter(text, "Udp", "InErrors"), None);
    }

    #[test]
    fn this_process_has_memory_and_threads() {
        let memory = memory(Pid::this()).expect("smaps_rollup");
        assert!(memory.pss >= memory.anonymous && memory.anonymous > 0.0);
        assert!(threads(Pid::this()).expect("status") >= 1);
    }

    #[test]
    fn drops_are_differences() {
        let drops = |overflows| Drops(BTreeMap::from([("ListenOverflows".to_owned(), overflows)]));
        assert_eq!(drops(7).since(&drops(5)), drops(2));
        assert_eq!(drops(7).since(&drops(5)).get("ListenOverflows"), Some(2));
        assert_eq!(drops(7).since(&Drops::default()), Drops::default());
    }
}
