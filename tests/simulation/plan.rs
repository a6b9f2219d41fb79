//! What happens in one simulation: everything is drawn from a seed, and can be taken away piece by piece.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;
use socketserver::{Limits, Linger, Overflow, ReactorConfig};

use crate::page::VISITORS;

/// One simulation.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) config: ReactorConfig,
    pub(crate) limits: Limits,
    /// The server has sockets of several families: the datagrams are its own, not those of another server.
    pub(crate) mixed: bool,
    /// There is a server that serves while the others drain.
    pub(crate) page: bool,
    /// Every second accepted connection is under TLS, whose peers send in pieces of so many bytes.
    pub(crate) tls: Option<usize>,
    pub(crate) faults: Faults,
    pub(crate) temper: Temper,
    /// The longest record that a handler writes, in bytes.
    pub(crate) record_bytes_max: usize,
    pub(crate) steps: Vec<Step>,
}

/// Something that a peer, another thread or time does. Peers have numbers; a step of one that is not there does nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Step {
    Connect,
    Send {
        peer: usize,
        bytes: usize,
    },
    Datagram {
        peer: usize,
        bytes: usize,
    },
    Eof(usize),
    Reset(usize),
    /// Takes what was sent, and has room for so much more; 0 stops reading.
    Read {
        peer: usize,
        window: usize,
    },
    SpuriousEvent(usize),
    /// The peers that handlers have called answer, refuse, or say nothing yet.
    Answer,
    Message(usize),
    Job,
    Turns(usize),
    Rest,
    /// The server gets other time limits, drawn from this number.
    Limits(u64),
    Advance(Duration),
    /// Time passes until the reactor would wake by itself, and a little more.
    Sleep(Duration),
    /// The server drains, and the others serve.
    Drain,
    Shutdown,
    /// Someone visits the page.
    Visit {
        visitor: usize,
        bytes: usize,
    },
}

macro_rules! rates {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident up to $most:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub(crate) struct $name {
            $($(#[$field_doc])* pub(crate) $field: f64,)*
        }

        impl $name {
            /// Each probability is zero in half of all simulations, so that what it hides shows.
            fn draw(rng: &mut Rng) -> Self {
                $name { $($field: if rng.bool() { rng.f64() * $most } else { 0.0 },)* }
            }

            /// By name and value, without the zeros.
            pub(crate) fn names(&self) -> Vec<(&'static str, f64)> {
                let all = [$((stringify!($field), self.$field)),*];
                all.into_iter().filter(|(_, rate)| *rate != 0.0).collect()
            }

            /// Sets one to zero by its name. Returns whether there is one.
            fn clear(&mut self, name: &str) -> bool {
                match name {
                    $(stringify!($field) => self.$field = 0.0,)*
                    _ => return false,
                }
                true
            }
        }
    };
}

rates! {
    /// How likely each call of the reactor ends otherwise than it should.
    Faults {
        interrupted up to 0.2,
        would_block up to 0.2,
        /// Of reads and writes that take a part.
        short up to 0.5,
        /// Of reads and writes that fail: the connection is broken.
        broken up to 0.02,
        /// EMFILE, ENFILE, ENOBUFS, ENOMEM.
        out_of_descriptors up to 0.3,
        aborted_in_backlog up to 0.2,
        /// Another error of accept that concerns one client.
        accept_error up to 0.2,
        not_registered up to 0.05,
        not_connected up to 0.3,
        /// Of waits that tell of a part of the events.
        few_events up to 0.5,
        /// Of calls in the middle of which a peer or another thread does something.
        meddled up to 0.2,
        /// Of calls that take their time.
        slow up to 0.1,
    }
}

rates! {
    /// How likely a handler does this or that in a callback.
    Temper {
        leaves_input up to 0.6,
        writes up to 0.9,
        writes_much up to 0.2,
        writes_shared up to 0.3,
        sends up to 0.3,
        broadcasts up to 0.05,
        closes up to 0.05,
        aborts up to 0.03,
        errs up to 0.03,
        panics up to 0.03,
        closes_others up to 0.05,
        aborts_others up to 0.03,
        shuts_write up to 0.05,
        pauses up to 0.1,
        resumes up to 0.5,
        full_duplex up to 0.1,
        sets_timers up to 0.6,
        sets_server_timers up to 0.1,
        /// Names another client, as a proxy's header does.
        names_clients up to 0.1,
        sets_timeouts up to 0.1,
        sets_limits up to 0.05,
        connects up to 0.1,
        replaces up to 0.2,
        messages up to 0.2,
        stays_after_eof up to 0.5,
        /// Takes its time for each message, or for each write.
        dawdles up to 0.5,
    }
}

impl Plan {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let rng = &mut rng;
        let length = if rng.u8(..8) == 0 { 1_500 } else { rng.usize(50..400) };
        // In one of twenty a crowd; in the others a few, which meet again and again.
        let crowd = if rng.u8(..20) == 0 { rng.usize(500..3_000) } else { rng.usize(1..40) };
        let mut steps: Vec<Step> = (0..crowd.min(8)).map(|_| Step::Connect).collect();
        let mut connected = steps.len();
        if crowd > 40 {
            steps.extend((connected..crowd).map(|_| Step::Connect));
            connected = crowd;
        }
        let size = *rng.choice(&[20, 300, 5_000, 60_000]).unwrap_or(&20);
        let stop = (rng.u8(..6) == 0).then(|| rng.usize(length / 2..length));
        for at in 0..length {
            let peer = rng.usize(..connected.max(1));
            steps.push(match rng.u8(..100) {
                0..8 if connected < crowd * 3 => {
                    connected += 1;
                    Step::Connect
                }
                8..14 => Step::Datagram { peer, bytes: rng.usize(..size) },
                0..35 => Step::Send { peer, bytes: 1 + rng.usize(..size) },
                35..38 => Step::Eof(peer),
                38..40 => Step::Reset(peer),
                40..55 => {
                    let windows = [0, 1, 100, 5_000, 100_000, usize::MAX];
                    Step::Read { peer, window: *rng.choice(&windows).unwrap_or(&0) }
                }
                55..58 => Step::SpuriousEvent(peer),
                58..61 => Step::Answer,
                61..65 => Step::Message(peer),
                65..67 => Step::Job,
                67..85 => Step::Turns(rng.usize(1..4)),
                85..91 => Step::Rest,
                91 => Step::Limits(rng.u64(..)),
                92..97 => Step::Advance(Duration::from_micros(rng.u64(..20_000))),
                97..99 => Step::Sleep(Duration::from_millis(rng.u64(..50))),
                _ => Step::Advance(Duration::from_secs(rng.u64(..4_000))),
            });
            if Some(at) == stop {
                steps.push(Step::Shutdown);
            }
        }
        let (faults, mut temper) = (Faults::draw(rng), Temper::draw(rng));
        if crowd > 40 {
            temper.broadcasts = 0.0; // Each would be thousands of records.
        }
        let limits = limits(rng, size);
        let mut config = config(rng, size);
        config.buffered_bytes_max = (seed % 3 == 1).then(|| [size / 2 + 1, 5 * size][(seed / 3 % 2) as usize]);
        let mixed = rng.bool();
        // A handshake costs much more than a connection.
        let has_tls = cfg!(feature = "tls") && crowd <= 40 && seed % 8 == 6;
        let tls = has_tls.then(|| [10, 300, 1_448, usize::MAX][(seed / 8 % 4) as usize]);
        let page = seed % 3 == 2;
        let mut plan =
            Plan { seed, config, limits, mixed, page, tls, faults, temper, record_bytes_max: size + 10, steps };
        plan.insert_drain(size);
        plan
    }

    /// In some plans the server drains, in others its page is visited. The rest is as without it.
    fn insert_drain(&mut self, size: usize) {
        let mut rng = Rng::with_seed(self.seed ^ 0x6472_6169_6e00);
        let mut insert = |steps: &mut Vec<Step>, step| steps.insert(rng.usize(steps.len() / 4..=steps.len()), step);
        if self.seed % 4 == 3 {
            insert(&mut self.steps, Step::Drain);
        }
        if self.page {
            if self.seed.is_multiple_of(2) && !self.steps.contains(&Step::Shutdown) {
                insert(&mut self.steps, Step::Shutdown);
            }
            for _ in 0..self.steps.len() / 4 {
                // One of sixteen ends.
                let (visitor, bytes) =
                    (rng.usize(..VISITORS), rng.usize(..size.min(1_000)) * usize::from(rng.u8(..16) > 0));
                self.steps.insert(rng.usize(..=self.steps.len()), Step::Visit { visitor, bytes });
            }
        }
    }

    /// What can be taken away, by name.
    pub(crate) fn names(&self) -> Vec<(&'static str, f64)> {
        let tls = self.tls.map(|_| ("tls", 1.0));
        let bound = self.config.buffered_bytes_max.map(|max| ("bound", max as f64));
        let page = self.page.then_some(("page", 1.0));
        [self.faults.names(), self.temper.names(), tls.into_iter().chain(bound).chain(page).collect()].concat()
    }

    /// Takes a fault or a habit away. Returns whether there is one of this name.
    pub(crate) fn clear(&mut self, name: &str) -> bool {
        if name == "tls" {
            self.tls = None;
            return true;
        }
        if name == "bound" {
            self.config.buffered_bytes_max = None;
            return true;
        }
        if name == "page" {
            self.page = false;
            return true;
        }
        self.faults.clear(name) || self.temper.clear(name)
    }
}

/// No smaller than so that a message of `size` takes some dozens of turns.
fn config(rng: &mut Rng, size: usize) -> ReactorConfig {
    let mut config = ReactorConfig::default();
    config.read_buffer_bytes = *rng.choice(&[7 + size / 50, 1_000 + size / 50, 65_536]).unwrap_or(&7);
    config.turn_length = Duration::from_micros(*rng.choice(&[0, 1_000, 4_000]).unwrap_or(&0));
    config.messages_per_turn = *rng.choice(&[1, 3, 256]).unwrap_or(&1);
    config.messages_max = *rng.choice(&[2, 65_536]).unwrap_or(&2);
    config
}

fn limits(rng: &mut Rng, size: usize) -> Limits {
    let mut limits = Limits::default();
    // Of those that depend on each other in one of two plans one alone, several or none, in whatever proportion.
    let mut each = [
        &mut limits.input_bytes_max,
        &mut limits.line_bytes_max,
        &mut limits.frame_bytes_max,
        &mut limits.output_low_water,
        &mut limits.output_high_water,
        &mut limits.output_bytes_max,
    ];
    let depends = rng.bool();
    for _ in 0..if depends { rng.usize(..4) } else { 0 } {
        let sizes = [0, 1, 17, 700, 4_096, 16_384, 65_536, 1 << 20, usize::MAX];
        **rng.choice(&mut each).expect("there are six") = *rng.choice(&sizes).unwrap_or(&1);
    }
    let mut pick = |sizes: &[usize]| *rng.choice(sizes).unwrap_or(&1);
    limits.accepts_per_turn = pick(&[1, 2, 32]);
    limits.read_bytes_per_turn = pick(&[3 + size / 50, 50 + size / 20, 262_144]);
    limits.write_bytes_per_turn = pick(&[7 + size / 50, 50 + size / 20, 262_144]);
    limits.callbacks_per_turn = pick(&[1, 2, 16]);
    if !depends {
        limits.input_bytes_max = pick(&[2_000, 2_097_152]);
        limits.output_low_water = pick(&[0, 17, 700, 16_384]);
        limits.output_high_water = limits.output_low_water + pick(&[0, 17, 700, 49_152]);
        limits.output_bytes_max = limits.output_high_water + pick(&[1_000, 16_777_216]);
    }
    limits.connections_max = Some(pick(&[3, 100_000, 100_000]));
    limits.linger_bytes_max = pick(&[0, 500, 1_048_576]);
    limits.linger = [Linger::Always, Linger::WhenNeeded, Linger::Never][pick(&[0, 1, 2])];
    if rng.u8(..4) == 0 {
        limits.output_overflow = Overflow::Refuse;
    }
    times(rng, &mut limits);
    limits
}

/// Those that may change while the server serves.
pub(crate) fn times(rng: &mut Rng, limits: &mut Limits) {
    let mut time =
        || *rng.choice(&[None, Some(Duration::from_millis(30)), Some(Duration::from_secs(60))]).unwrap_or(&None);
    (limits.idle_timeout, limits.read_timeout, limits.write_timeout) = (time(), time(), time());
    limits.connect_timeout = time();
    limits.connections_per_client_max = *rng.choice(&[None, Some(2), Some(5)]).unwrap_or(&None);
}

type Dependent = (&'static str, fn(&Limits) -> usize);

/// Pairs of which the first must not be more than the second, and what has to fit in beside the first.
const DEPENDENT: [(Dependent, Dependent, usize); 5] = [
    (LOW, HIGH, 0),
    (HIGH, ("output_bytes_max", |limits| limits.output_bytes_max), 0),
    (LOW, ("output_bytes_max", |limits| limits.output_bytes_max), 0),
    (("line_bytes_max", |limits| limits.line_bytes_max), UNREAD, 0),
    (("frame_bytes_max", |limits| limits.frame_bytes_max), UNREAD, 10),
];
const LOW: Dependent = ("output_low_water", |limits| limits.output_low_water);
const HIGH: Dependent = ("output_high_water", |limits| limits.output_high_water);
const UNREAD: Dependent = ("input_bytes_max", |limits| limits.input_bytes_max);

/// The names of those that are both set and contradict each other.
pub(crate) fn contradictions(limits: &Limits) -> Vec<[&'static str; 2]> {
    let usual = Limits::default();
    let is_set = |(_, of): Dependent| of(limits) != of(&usual);
    let wrong = DEPENDENT.into_iter().filter(|&(less, more, beside)| {
        is_set(less) && is_set(more) && less.1(limits).saturating_add(beside) > more.1(limits).max(beside)
    });
    wrong.map(|(less, more, _)| [less.0, more.0]).collect()
}

/// The defaults of those that depend on each other.
pub(crate) fn without_dependent(limits: &mut Limits) {
    let usual = Limits::default();
    (limits.input_bytes_max, limits.line_bytes_max) = (usual.input_bytes_max, usual.line_bytes_max);
    limits.frame_bytes_max = usual.frame_bytes_max;
    (limits.output_low_water, limits.output_high_water) = (usual.output_low_water, usual.output_high_water);
    limits.output_bytes_max = usual.output_bytes_max;
}

/// What is set is in force, and the rest has followed.
pub(crate) fn check_in_force(limits: &Limits, in_force: &Limits) {
    let usual = Limits::default();
    for (less, more, beside) in DEPENDENT {
        for (name, of) in [less, more] {
            assert!(of(limits) == of(&usual) || of(limits) == of(in_force), "{name} of {limits:?} is not in force");
        }
        let fits = less.1(in_force).saturating_add(beside) <= more.1(in_force).max(beside);
        assert!(fits, "{} does not fit {} of {in_force:?}", less.0, more.0);
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rates = |rates: Vec<(&str, f64)>| {
            let rates: Vec<_> = rates.iter().map(|(name, rate)| format!("{name} {rate:.3}")).collect();
            if rates.is_empty() { "none".to_owned() } else { rates.join(", ") }
        };
        writeln!(f, "  faults: {}", rates(self.faults.names()))?;
        writeln!(f, "  handlers: {}", rates(self.temper.names()))?;
        writeln!(f, "  {:?}", self.config)?;
        writeln!(f, "  {:?}", self.limits)?;
        writeln!(f, "  mixed: {}, a page: {}, TLS in pieces: {:?}", self.mixed, self.page, self.tls)?;
        for step in self.steps.iter().take(STEPS_SHOWN) {
            writeln!(f, "  {step:?}")?;
        }
        match self.steps.len().saturating_sub(STEPS_SHOWN) {
            0 => Ok(()),
            more => writeln!(f, "  ... and {more} steps more"),
        }
    }
}

const STEPS_SHOWN: usize = 60;
