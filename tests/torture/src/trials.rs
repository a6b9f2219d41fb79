//! The trials: how many clients each has, and what they do.

use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::time::Duration;

use clap::ValueEnum;
use fastrand::Rng;

use crate::datagram::DATAGRAM_BYTES_MAX;
use crate::exchange::{Exchange, Expected};
use crate::plan::{After, End, Plan};

/// One way to try a server. The text of each is what `--help` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Trial {
    /// Streams of 1 B to 4 MiB in pieces of any size; every byte has to come back at its place
    Integrity,
    /// FIN after the last byte; everything has to come back, and then the end
    HalfClose,
    /// Reset in the middle of it, with bytes on their way in both directions
    Resets,
    /// Megabytes are sent and nothing is read for a while, then all of it
    SlowReaders,
    /// One byte at a time on many connections
    Slowloris,
    /// Connections that end as soon as they begin, or with their answer unread
    Churn,
    /// All connections at once, and each has to be served
    Flood,
    /// Connections that do nothing for a while, and then have to be served
    IdleCrowd,
    /// All of the above, for connections, at the same time
    Mixture,
    /// Datagrams of any length, the empty ones among them; each has to be answered with its own bytes
    Datagrams,
    /// As before, and some of them are longer than the server takes
    LongDatagrams,
    /// The same datagram again and again, as in a replay
    Repeats,
    /// Small, large or empty datagrams as fast as they go; some may be lost
    DatagramFlood,
    /// Clients that send and do not read, never or for a while
    DeafPeers,
    /// Clients that are gone when their answers come
    PeerChurn,
    /// Many clients at once, and each has to be answered twice
    PeerCrowd,
    /// All of these, for datagrams, at the same time
    DatagramMixture,
}

/// How much a trial may do.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    /// Usual number of clients at once.
    pub(crate) clients: usize,
    /// More than these cannot be open at once.
    pub(crate) clients_max: usize,
}

/// How many clients there are.
pub(crate) struct Extent {
    pub(crate) clients: usize,
    pub(crate) at_once: usize,
}

impl Trial {
    pub(crate) fn extent(self, scale: Scale) -> Extent {
        let (clients, at_once) = match self {
            Trial::Integrity | Trial::HalfClose | Trial::Resets | Trial::Mixture => (4, 1),
            Trial::Datagrams | Trial::LongDatagrams | Trial::Repeats | Trial::DatagramMixture => (4, 1),
            Trial::SlowReaders | Trial::DatagramFlood | Trial::DeafPeers => (1, 1),
            Trial::Slowloris => (4, 4),
            Trial::Churn | Trial::PeerChurn => (20, 1),
            Trial::Flood | Trial::IdleCrowd | Trial::PeerCrowd => (10, 10),
        };
        let at_once = scale.clients.saturating_mul(at_once).min(scale.clients_max);
        let clients = scale.clients.saturating_mul(clients);
        // Those that are meant to be there together all are.
        let together = matches!(self, Trial::Slowloris | Trial::Flood | Trial::IdleCrowd | Trial::PeerCrowd);
        Extent { clients: if together { at_once } else { clients }, at_once }
    }

    pub(crate) fn plan(self, random: &mut Rng) -> Plan {
        match self {
            Trial::Integrity => stream(random, 4 << 20),
            Trial::HalfClose => Plan {
                end: End::HalfClose,
                after: if random.u8(..4) == 0 { After::Answered } else { After::Sent },
                deaf: if random.bool() { milliseconds(random, 0..=300) } else { Duration::ZERO },
                ..stream(random, 8 << 20)
            },
            Trial::Resets => Plan {
                end: End::Reset,
                after: if random.bool() { After::Answered } else { After::Sent },
                deaf: if random.bool() { milliseconds(random, 0..=300) } else { Duration::ZERO },
                ..stream(random, 1 << 20)
            },
            Trial::SlowReaders if random.bool() => {
                // Not in small pieces: for a full buffer those keep the kernel busy, and tell nothing about the server.
                let (bytes, deaf) = (random.u64(1 << 20..=4 << 20), milliseconds(random, 1_000..=2_000));
                Plan { bytes, piece: 1_000..=64_000, deaf, ping_pong: false, ..Plan::ping() }
            }
            // The others, which should not notice.
            Trial::SlowReaders => Plan { piece: 1..=1_000, ping_pong: true, ..stream(random, 64 << 10) },
            Trial::Slowloris => Plan {
                bytes: random.u64(20..=40),
                piece: 1..=1,
                pause: milliseconds(random, 20..=100),
                end: End::HalfClose,
                ..Plan::ping()
            },
            Trial::Churn => Plan {
                bytes: if random.u8(..3) == 0 { 0 } else { random.u64(1..=1_000) },
                piece: 1_000..=1_000,
                end: if random.u8(..4) == 0 { End::Reset } else { End::Close },
                after: if random.bool() { After::Answered } else { After::Sent },
                ..Plan::ping()
            },
            Trial::Flood => Plan { bytes: random.u64(1..=1_000), piece: 1..=1_000, ..Plan::ping() },
            Trial::IdleCrowd => Plan { bytes: 2, piece: 1..=1, pause: Duration::from_secs(3), ..Plan::ping() },
            Trial::Mixture => {
                let others = [
                    Trial::Integrity,
                    Trial::HalfClose,
                    Trial::Resets,
                    Trial::SlowReaders,
                    Trial::Slowloris,
                    Trial::Churn,
                    Trial::Flood,
                    Trial::IdleCrowd,
                ];
                others[random.usize(..others.len())].plan(random)
            }
            _ => unreachable!("{self} is for datagrams"),
        }
    }

    pub(crate) fn is_for_datagrams(self) -> bool {
        DATAGRAM_TRIALS.contains(&self) || self == Trial::DatagramMixture
    }

    /// What a peer does in a trial for datagrams; the server answers those of up to `longest` bytes.
    pub(crate) fn exchange(self, random: &mut Rng, longest: usize) -> Exchange {
        match self {
            Trial::Datagrams => Exchange { datagrams: random.u64(1..=50), bytes: 0..=longest, ..Exchange::ping() },
            Trial::LongDatagrams => Exchange { bytes: 0..=DATAGRAM_BYTES_MAX, ..Trial::Datagrams.exchange(random, 0) },
            Trial::Repeats => Exchange {
                datagrams: random.u64(1..=20),
                bytes: 0..=longest.min(1_000),
                copies: random.u32(2..=20),
                ..Exchange::ping()
            },
            Trial::DatagramFlood => {
                let (datagrams, bytes) = match random.u8(..3) {
                    0 => (500, 0..=longest.min(100)),
                    1 => (50, longest / 2..=longest),
                    _ => (300, 0..=0),
                };
                Exchange { datagrams, bytes, answers: Expected::Some, ..Exchange::ping() }
            }
            Trial::DeafPeers if random.bool() => Exchange {
                datagrams: 200,
                bytes: 0..=longest,
                deaf: milliseconds(random, 1_000..=2_000),
                answers: if random.bool() { Expected::Some } else { Expected::Unread },
                ..Exchange::ping()
            },
            // The others, which should not notice.
            Trial::DeafPeers => Exchange { datagrams: 50, bytes: 0..=longest.min(1_000), ..Exchange::ping() },
            Trial::PeerChurn => {
                Exchange { datagrams: random.u64(1..=3), answers: Expected::Unread, ..Exchange::ping() }
            }
            Trial::PeerCrowd => Exchange { datagrams: 2, pause: Duration::from_secs(3), ..Exchange::ping() },
            Trial::DatagramMixture => DATAGRAM_TRIALS[random.usize(..DATAGRAM_TRIALS.len())].exchange(random, longest),
            _ => unreachable!("{self} is for connections"),
        }
    }
}

/// Those of which the mixture consists.
const DATAGRAM_TRIALS: [Trial; 7] = [
    Trial::Datagrams,
    Trial::LongDatagrams,
    Trial::Repeats,
    Trial::DatagramFlood,
    Trial::DeafPeers,
    Trial::PeerChurn,
    Trial::PeerCrowd,
];

impl Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().expect("all of them are possible").get_name())
    }
}

impl Plan {
    /// A byte there and back.
    pub(crate) fn ping() -> Plan {
        Plan {
            bytes: 1,
            piece: 1..=1,
            pause: Duration::ZERO,
            ping_pong: true,
            deaf: Duration::ZERO,
            end: End::Close,
            after: After::Answered,
        }
    }
}

/// So many bytes at most, as fast as they go, in pieces of up to a random size.
fn stream(random: &mut Rng, bytes_max: u64) -> Plan {
    let bytes = any_magnitude(random, bytes_max);
    // Single bytes are for the short ones: nothing is learnt from a million system calls.
    let piece_max = any_magnitude(random, 64 << 10).max(bytes / 1_000);
    Plan { bytes, piece: 1..=piece_max as usize, ping_pong: false, ..Plan::ping() }
}

/// From 1 to `max`, and each order of magnitude as often as any other.
pub(crate) fn any_magnitude(random: &mut Rng, max: u64) -> u64 {
    let smaller_by = random.u32(..=max.ilog2());
    random.u64(1..=max >> smaller_by)
}

fn milliseconds(random: &mut Rng, range: RangeInclusive<u64>) -> Duration {
    Duration::from_millis(random.u64(range))
}
