//! The scenarios of each benchmark.
//!
//! They come in lists: those of one list are done one after the other at the same server, those of different lists each
//! at a server that was just started.

use crate::job::Transport;
use crate::scenario::{Scenario, Work};

/// Sizes of messages.
const SMALL: usize = 64;
const LARGE: usize = 4 * 1024;

/// Clients in the scenarios that are about something else than their number.
pub(crate) const MANY: usize = 64;

/// Descriptors that a server may want for other things than connections. Some keep a few hundred back, to be able to
/// say no.
const SERVERS_OWN: usize = 300;

/// How far the scenarios go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// Connections at the same time.
    most: usize,
    /// Only what shows that everything works.
    quick: bool,
}

impl Extent {
    /// `possible`: connections that the load may have, by its limit of descriptors. Servers inherit the same limit.
    pub(crate) fn new(possible: usize, quick: bool) -> Extent {
        let most = possible.saturating_sub(SERVERS_OWN);
        Extent { most: if most > 1_000 { most / 100 * 100 } else { most }, quick }
    }

    /// Those of `levels` that are possible.
    fn up_to(self, levels: &[usize]) -> Vec<usize> {
        let most = if self.quick { self.most.min(1_000) } else { self.most };
        levels.iter().copied().filter(|&level| level <= most).collect()
    }

    /// The same, and as many as possible; of these at least one.
    fn and_most(self, levels: &[usize]) -> Vec<usize> {
        let mut levels = self.up_to(levels);
        if levels.is_empty() || (!self.quick && levels.last() != Some(&self.most)) {
            levels.push(self.most);
        }
        levels
    }
}

pub(crate) fn connection_flood(extent: Extent) -> Vec<Vec<Scenario>> {
    let flood = |transport, concurrency, server_closes| {
        let closer = if server_closes { "server" } else { "client" };
        Scenario {
            key: format!("flood-{concurrency}-{closer}-closes"),
            title: format!("Flood, {} at a time, the {closer} closes first", grouped(concurrency)),
            transport,
            work: Work::Flood { concurrency, message: SMALL, server_closes },
        }
    };
    let mut scenarios: Vec<Scenario> = extent
        .up_to(&[1, MANY, 1_000, 10_000])
        .into_iter()
        .map(|concurrency| flood(Transport::Tcp, concurrency, false))
        .collect();
    scenarios.push(flood(Transport::Tcp, MANY, true));
    scenarios.extend(extent.and_most(&[1_000, 4_000]).into_iter().map(|connections| Scenario {
        key: format!("burst-{connections}"),
        title: format!("Burst, {} connects at once", grouped(connections)),
        transport: Transport::Tcp,
        work: Work::Burst { connections, message: SMALL },
    }));
    each_alone(scenarios)
}

/// `per_second`: the fixed rate.
pub(crate) fn echo(extent: Extent, per_second: f64) -> Vec<Vec<Scenario>> {
    let mut scenarios = Vec::new();
    for message in if extent.quick { vec![SMALL] } else { vec![SMALL, LARGE] } {
        let levels = extent.up_to(&[1, MANY, 1_000, 10_000]);
        scenarios.extend(levels.into_iter().map(|connections| ping_pong(Transport::Tcp, connections, message)));
    }
    let tcp = |key: &str, title: String, work| Scenario { key: key.to_owned(), title, transport: Transport::Tcp, work };
    scenarios.push(tcp(
        "pipelined",
        format!("Pipelined, {MANY} connections, 16 messages under way on each, {SMALL} B"),
        Work::Pipelined { connections: MANY, depth: 16, message: SMALL },
    ));
    scenarios.push(tcp(
        "bulk",
        "Bulk, 8 connections, blocks of 64 KiB, at most 1 MiB under way on each".to_owned(),
        Work::Bulk { connections: 8, message: 64 * 1024, window: 1024 * 1024 },
    ));
    scenarios.push(tcp(
        "fixed-rate",
        format!("Fixed rate, {} messages a second over {MANY} connections, {SMALL} B", grouped(per_second as usize)),
        Work::FixedRate { connections: MANY, message: SMALL, per_second },
    ));
    each_alone(scenarios)
}

pub(crate) fn idle(extent: Extent) -> Vec<Vec<Scenario>> {
    let levels = extent.and_most(&[1_000, 5_000, 10_000]);
    let scenario = |connections| {
        let active = 100.min(connections);
        Scenario {
            key: format!("idle-{connections}"),
            title: format!("{} idle connections, then messages over {active} of them", grouped(connections)),
            transport: Transport::Tcp,
            work: Work::Idle { connections, active },
        }
    };
    vec![levels.into_iter().map(scenario).collect()]
}

pub(crate) fn datagrams(_: Extent) -> Vec<Vec<Scenario>> {
    let mut scenarios = Vec::new();
    for message in [SMALL, 1_400] {
        // Not more than a receiver's buffer holds as systems come, so that no server loses any for its size: 64 of the
        // larger ones.
        for (senders, depth) in [(1, 64), (MANY, 1)] {
            let plural = if senders == 1 { "" } else { "s" };
            scenarios.push(Scenario {
                key: format!("udp-{senders}x{depth}x{message}B"),
                title: format!("UDP, {senders} sender{plural}, {depth} under way for each, {} B", grouped(message)),
                transport: Transport::Udp,
                work: Work::Datagrams { senders, depth, message },
            });
        }
    }
    scenarios.push(ping_pong(Transport::Unix, MANY, SMALL));
    scenarios.push(Scenario {
        key: format!("unix-flood-{MANY}"),
        title: format!("Unix stream: flood, {MANY} at a time, the client closes first"),
        transport: Transport::Unix,
        work: Work::Flood { concurrency: MANY, message: SMALL, server_closes: false },
    });
    each_alone(scenarios)
}

/// The one whose rate at the reference the fixed rate is half of.
pub(crate) fn calibration() -> Scenario {
    ping_pong(Transport::Tcp, MANY, SMALL)
}

fn ping_pong(transport: Transport, connections: usize, message: usize) -> Scenario {
    let (key, title) = match transport {
        Transport::Unix => ("unix-ping-pong", "Unix stream: ping-pong"),
        _ => ("ping-pong", "Ping-pong"),
    };
    let plural = if connections == 1 { "" } else { "s" };
    Scenario {
        key: format!("{key}-{connections}x{message}B"),
        title: format!("{title}, {} connection{plural}, {} B", grouped(connections), grouped(message)),
        transport,
        work: Work::PingPong { connections, message },
    }
}

fn each_alone(scenarios: Vec<Scenario>) -> Vec<Vec<Scenario>> {
    scenarios.into_iter().map(|scenario| vec![scenario]).collect()
}

/// `10,000`.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn keys_are_unique() {
        let extent = Extent::new(20_000, false);
        for lists in [connection_flood(extent), echo(extent, 50_000.0), idle(extent), datagrams(extent)] {
            let keys: Vec<String> = lists.into_iter().flatten().map(|scenario| scenario.key).collect();
            assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "{keys:?}");
        }
    }

    #[test]
    fn nothing_is_asked_beyond_the_limit() {
        for most in [900, 2_000, 19_000] {
            let extent = Extent { most, quick: false };
            for scenario in [connection_flood(extent), echo(extent, 1.0), idle(extent)].into_iter().flatten().flatten()
            {
                assert!(scenario.connections() <= most, "{}", scenario.title);
            }
        }
        let levels = |most| Extent { most, quick: false }.and_most(&[1_000, 5_000]);
        assert_eq!(levels(19_000), [1_000, 5_000, 19_000]);
        assert_eq!(levels(5_000), [1_000, 5_000]);
        assert_eq!(levels(900), [900]);
        assert_eq!(Extent { most: 900, quick: true }.and_most(&[1_000]), [900]);
        assert_eq!(Extent::new(19_936, false).most, 19_600);
        assert_eq!(Extent::new(960, false).most, 660);
    }

    #[test]
    fn digits_in_groups() {
        assert_eq!(grouped(1), "1");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }
}
