//! Handlers that do anything at any time, on the testing kit's clock: whatever they do, the rules hold.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socketserver::testing::{Client, Script};
use socketserver::{EndReason, Limits, Message, Next, Overflow, Request, RequestHandler, Result, Timeout};

use crate::common::{SCRIPTED, random, silence_scripted_panics};

/// What all handlers of one connection did together.
#[derive(Default)]
struct Log {
    /// Which handler (they replace each other), and what was called.
    calls: Vec<(usize, &'static str)>,
    failed_setups: Vec<usize>,
    written: Vec<u8>,
    /// Bytes that were seen and consumed, and that were seen and left.
    consumed: usize,
    left: usize,
    paused: bool,
    /// Reading was resumed over bytes that were left: `handle` is to come.
    owed: bool,
    /// A callback asked for an end, or an error caused it.
    ending: bool,
    shut: bool,
    panics: u64,
    handlers: usize,
}

struct Anything {
    number: usize,
    state: u64,
    /// One callback in so many ends it all.
    patience: u64,
    log: Arc<Mutex<Log>>,
    alive: Arc<AtomicUsize>,
}

impl Anything {
    fn new(seed: u64, log: &Arc<Mutex<Log>>, alive: &Arc<AtomicUsize>) -> Self {
        alive.fetch_add(1, Ordering::Relaxed);
        let number = {
            let mut log = lock(log);
            log.handlers += 1;
            log.handlers
        };
        Anything {
            number,
            state: seed | 1,
            patience: if seed.is_multiple_of(3) { 40 } else { 1_000 },
            log: log.clone(),
            alive: alive.clone(),
        }
    }

    fn pick(&mut self, choices: u64) -> u64 {
        random(&mut self.state) % choices
    }

    /// Does a few things, and says what is next.
    fn act(&mut self, call: &'static str, request: &mut Request<'_>) -> Result<Next> {
        let was_paused = {
            let mut log = lock(&self.log);
            log.calls.push((self.number, call));
            log.owed &= call != "handle";
            log.paused
        };
        let before = request.input.len();
        for _ in 0..self.pick(4) {
            match self.pick(16) {
                0..4 => {
                    let (n, byte) = (1 + self.pick(40) as usize, self.pick(256) as u8);
                    let bytes = vec![byte; n];
                    let taken = match self.pick(2) {
                        0 => request.output.write_all(&bytes).is_ok(),
                        _ => request.output.write_shared(bytes.clone()).is_ok(),
                    };
                    if taken {
                        lock(&self.log).written.extend_from_slice(&bytes);
                    }
                }
                4 | 5 => request.input.consume(1 + self.state as usize % 30),
                6 => drop(request.input.take_all()),
                7 => {
                    request.pause_reading();
                    lock(&self.log).paused = true;
                }
                8 | 9 => {
                    request.resume_reading();
                    lock(&self.log).paused = false;
                }
                10 => {
                    let (tag, after) = (self.pick(4), 1 + self.pick(2_000));
                    request.set_timer(tag, Duration::from_millis(after));
                }
                11 => drop(request.cancel_timer(self.state % 4)),
                12 => {
                    let which = [Timeout::Idle, Timeout::Read, Timeout::Write][self.pick(3) as usize];
                    let time = Duration::from_millis(1 + self.pick(5_000));
                    request.set_timeout(which, Some(time));
                }
                13 if self.pick(4) == 0 => {
                    request.shutdown_write();
                    lock(&self.log).shut = true;
                }
                14 if self.pick(3) == 0 => {
                    let seed = random(&mut self.state);
                    request.replace_handler(Anything::new(seed, &self.log, &self.alive));
                }
                15 => drop(request.output.is_full()),
                _ => {}
            }
        }
        let next = match self.pick(self.patience) {
            0 => Ok(Next::Close),
            1 => Ok(Next::Abort),
            2 => Err(SCRIPTED.into()),
            3 if self.pick(4) == 0 => {
                lock(&self.log).ending = true;
                lock(&self.log).panics += 1;
                panic!("{}", SCRIPTED);
            }
            4 => {
                request.close();
                lock(&self.log).ending = true;
                Ok(Next::Wait)
            }
            5 => {
                request.abort();
                lock(&self.log).ending = true;
                Ok(Next::Wait)
            }
            _ => Ok(Next::Wait),
        };
        let mut log = lock(&self.log);
        log.consumed += before - request.input.len();
        log.left = request.input.len();
        log.owed = !log.paused && log.left > 0 && (log.owed || was_paused);
        log.ending |= !matches!(next, Ok(Next::Wait));
        next
    }
}

impl Drop for Anything {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

impl RequestHandler for Anything {
    fn setup(&mut self, request: &mut Request<'_>) -> Result<Next> {
        // A panic is noted before it happens.
        lock(&self.log).failed_setups.push(self.number);
        let next = self.act("setup", request);
        let mut log = lock(&self.log);
        log.failed_setups.retain(|&number| number != self.number);
        if next.is_err() {
            log.failed_setups.push(self.number);
        }
        next
    }
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        self.act("handle", request)
    }
    fn finish(&mut self, request: &mut Request<'_>, _: EndReason) {
        let _ = self.act("finish", request);
    }
    fn writable(&mut self, request: &mut Request<'_>) -> Result<Next> {
        self.act("writable", request)
    }
    fn eof(&mut self, request: &mut Request<'_>) -> Result<Next> {
        self.act("eof", request)
    }
    fn timed_out(&mut self, request: &mut Request<'_>, _: Timeout) -> Result<Next> {
        self.act("timeout", request)
    }
    fn timer(&mut self, request: &mut Request<'_>, _: u64) -> Result<Next> {
        self.act("timer", request)
    }
    fn message(&mut self, request: &mut Request<'_>, _: Message) -> Result<Next> {
        self.act("message", request)
    }
    fn drain(&mut self, request: &mut Request<'_>) -> Result<Next> {
        self.act("drain", request)
    }
}

fn lock(log: &Mutex<Log>) -> std::sync::MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn handlers_that_do_anything_break_no_rule() {
    silence_scripted_panics();
    let mut seen = BTreeMap::new();
    let fresh = u64::from(std::process::id());
    for seed in (1..=3_000).chain(fresh * 10_000..fresh * 10_000 + 500) {
        println!("seed {seed}");
        one_life(seed, &mut seen);
    }
    // The test is worth its name only if it gets everywhere.
    for call in ["setup", "handle", "finish", "writable", "eof", "timeout", "timer", "message", "drain"] {
        assert!(seen.get(call).is_some_and(|&times| times > 20), "{call} in {seen:?}");
    }
}

/// One connection from its begin to its end, among random events.
fn one_life(seed: u64, seen: &mut BTreeMap<&'static str, usize>) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let (log, alive) = (Arc::new(Mutex::new(Log::default())), Arc::new(AtomicUsize::new(0)));
    let mut limits = Limits::default();
    limits.output_high_water = 60;
    limits.output_low_water = 20;
    limits.output_bytes_max = 2_000;
    limits.output_overflow = if seed.is_multiple_of(2) { Overflow::Refuse } else { Overflow::Close };
    limits.read_bytes_per_turn = 1 + random(&mut state) as usize % 50;
    limits.write_bytes_per_turn = 1 + random(&mut state) as usize % 50;
    limits.callbacks_per_turn = 1 + random(&mut state) as usize % 5;
    limits.input_bytes_max = 400;
    let mut client = Client::with_limits((), Anything::new(random(&mut state), &log, &alive), limits);
    let (mut fed, mut ended) = (0, false);
    for _ in 0..60 {
        match random(&mut state) % 12 {
            0..4 if !ended => {
                let bytes = vec![b'i'; 1 + random(&mut state) as usize % 60];
                fed += bytes.len();
                client.play(Script::new().short_write(random(&mut state) as usize % 9).read(&bytes));
            }
            4 => client.set_window(random(&mut state) as usize % 200),
            5 | 6 => client.advance(Duration::from_millis(random(&mut state) % 1_500)),
            7 | 8 => drop(client.message(())),
            9 if !ended && random(&mut state).is_multiple_of(4) => {
                ended = true;
                client.feed_eof();
            }
            10 if random(&mut state).is_multiple_of(20) => client.shutdown(),
            _ => {}
        }
        // Whenever the client takes everything, nothing is left behind; whatever it sends is shown to the handler.
        if random(&mut state).is_multiple_of(3) {
            client.set_window(usize::MAX / 2);
        } else {
            continue;
        }
        let (log, sent) = (lock(&log), client.sent());
        assert!(log.written.starts_with(&sent), "seed {seed}: what arrives is what was written");
        if !log.ending && client.finished().is_none() && !client.is_closed() {
            assert_eq!(sent.len(), log.written.len(), "seed {seed}: stranded output, {:?}", log.calls);
            assert!(!log.owed, "seed {seed}: input was not handed over again, {:?}", log.calls);
            if !log.paused {
                assert_eq!(log.consumed + log.left, fed, "seed {seed}: stranded input, {:?}", log.calls);
            }
        }
        if log.shut && !log.ending {
            assert!(client.is_closed(), "seed {seed}: no FIN, {:?}", log.calls);
        }
    }
    // The end: the peer is gone, and time passes.
    client.set_window(usize::MAX / 2);
    client.feed_reset();
    for _ in 0..10 {
        client.advance(Duration::from_secs(3_600));
    }
    client.shutdown();
    client.advance(Duration::from_secs(3_600));
    let stats = client.stats();
    assert_eq!(stats.active, 0, "seed {seed}: {:?}", client.transcript());
    assert_eq!(alive.load(Ordering::Relaxed), 0, "seed {seed}: a handler was not dropped");

    let log = lock(&log);
    assert_eq!(stats.panics, log.panics, "seed {seed}: a panic that is not the handler's");
    let calls = &log.calls;
    calls.iter().for_each(|call| *seen.entry(call.1).or_default() += 1);
    let context = format!("seed {seed}: {calls:?}, failed setups {:?}", log.failed_setups);
    let mut last = 0;
    for number in 1..=log.handlers {
        let mine: Vec<_> = calls.iter().filter(|call| call.0 == number).map(|call| call.1).collect();
        let Some(&first) = mine.first() else { continue };
        last = number;
        assert_eq!(first, "setup", "{context}");
        assert_eq!(mine.iter().filter(|&&call| call == "setup").count(), 1, "{context}");
        if log.failed_setups.contains(&number) {
            assert_eq!(mine.len(), 1, "nothing is called after a setup that failed: {context}");
        }
    }
    let finishes: Vec<_> = calls.iter().enumerate().filter(|(_, call)| call.1 == "finish").collect();
    match log.failed_setups.contains(&last) {
        true => assert!(finishes.is_empty(), "{context}"),
        false => {
            assert_eq!(finishes.len(), 1, "{context}");
            assert_eq!(finishes[0].0, calls.len() - 1, "nothing after finish: {context}");
            assert_eq!(finishes[0].1.0, last, "{context}");
        }
    }
}
