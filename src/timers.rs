//! Deadlines: a four-ary heap in which every timer knows its place, so a cancelled timer is removed immediately.
//!
//! Setting, moving and cancelling are O(log n). A connection has one timer for all its limits, and moves it only when
//! it fires. A message costs a stamp in the connection and nothing here.
//!
//! What the timers are for is elsewhere: `reactor/alarms.rs` sets those of handlers and servers, `reactor/due.rs` handles
//! those that have fired, and `connection/deadlines.rs` computes when a limit of a connection expires.

use std::time::Duration;

use slab::Slab;

/// Names a timer while it is armed. Keys are reused, so the owner forgets the key when the timer fires.
pub(crate) type TimerKey = u32;

/// The key of no timer.
pub(crate) const NO_TIMER: TimerKey = TimerKey::MAX;

/// A timer of a handler or a server: when it is due, and its period.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Armed {
    pub(crate) key: TimerKey,
    pub(crate) due: u64,
    /// The period, if it is periodic.
    pub(crate) every: Option<u64>,
}

impl Armed {
    /// The tick after the one that is due now. It is in the future, and a whole number of periods after the first.
    /// Missed ticks are skipped, and delays do not add up.
    pub(crate) fn next(&self, now: u64) -> Option<u64> {
        let every = self.every?;
        let missed = now.saturating_sub(self.due) / every;
        Some(self.due.saturating_add(every.saturating_mul(missed + 1)))
    }
}

/// The shortest period of a timer: the shortest wait of a selector.
const PERIOD_MIN: Duration = Duration::from_millis(1);

/// A period in nanoseconds.
pub(crate) fn period(time: Duration) -> u64 {
    nanos(time.max(PERIOD_MIN))
}

/// One deadline for each of some small keys. Each takes sixteen bytes.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    /// Each entry is due no earlier than its parent at (index - 1) / 4.
    pub(crate) heap: Vec<Due>,
    /// By key: the index into the heap.
    places: Vec<u32>,
}

/// Packed, because there is one for each connection, and it would be a third larger otherwise.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed(4))]
pub(crate) struct Due {
    /// Nanoseconds on the reactor's clock.
    deadline: u64,
    key: u32,
}

const NOWHERE: u32 = u32::MAX;

impl Deadlines {
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<u64> {
        self.heap.first().map(|due| due.deadline)
    }

    /// The deadline of a key, if there is one.
    pub(crate) fn get(&self, key: u32) -> Option<u64> {
        let place = self.places.get(key as usize).filter(|&&place| place != NOWHERE)?;
        Some(self.heap[*place as usize].deadline)
    }

    /// Sets or moves the deadline of a key.
    pub(crate) fn set(&mut self, key: u32, deadline: u64) {
        if self.places.len() <= key as usize {
            self.places.resize(key as usize + 1, NOWHERE);
        }
        match self.places[key as usize] {
            NOWHERE => {
                self.heap.push(Due { deadline, key });
                self.rise(self.heap.len() - 1);
            }
            place => {
                self.heap[place as usize].deadline = deadline;
                self.settle(place as usize);
            }
        }
    }

    pub(crate) fn clear(&mut self, key: u32) {
        let place = std::mem::replace(&mut self.places[key as usize], NOWHERE) as usize;
        self.heap.swap_remove(place);
        if place < self.heap.len() {
            self.settle(place);
        }
    }

    /// Takes the key with the earliest deadline, if it has been reached.
    pub(crate) fn pop(&mut self, now: u64) -> Option<u32> {
        let key = self.heap.first().filter(|due| due.deadline <= now)?.key;
        self.clear(key);
        Some(key)
    }

    /// Moves an entry up or down to its place.
    fn settle(&mut self, place: usize) {
        let mut place = self.rise(place);
        let due = self.heap[place];
        loop {
            let children = (place * 4 + 1)..(place * 4 + 5).min(self.heap.len());
            let Some(least) = children.min_by_key(|&child| self.heap[child].deadline) else { break };
            if due.deadline <= self.heap[least].deadline {
                break;
            }
            self.put(place, self.heap[least]);
            place = least;
        }
        self.put(place, due);
    }

    /// Moves an entry up, as far as it is due earlier. Returns where it is then.
    fn rise(&mut self, mut place: usize) -> usize {
        let due = self.heap[place];
        while place > 0 {
            let parent = (place - 1) / 4;
            if self.heap[parent].deadline <= due.deadline {
                break;
            }
            self.put(place, self.heap[parent]);
            place = parent;
        }
        self.put(place, due);
        place
    }

    fn put(&mut self, place: usize, due: Due) {
        self.heap[place] = due;
        self.places[due.key as usize] = place as u32;
    }
}

/// Timers that carry their purpose.
#[derive(Debug)]
pub(crate) struct Timers<T> {
    pub(crate) deadlines: Deadlines,
    pub(crate) alarms: Slab<T>,
}

impl<T> Timers<T> {
    pub(crate) fn new() -> Self {
        Timers { deadlines: Deadlines::default(), alarms: Slab::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.deadlines.len()
    }

    /// All armed timers, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (TimerKey, &T)> {
        self.alarms.iter().map(|(key, alarm)| (key as TimerKey, alarm))
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<u64> {
        self.deadlines.next()
    }

    #[inline(never)] // It is called in many places, and rarely.
    pub(crate) fn arm(&mut self, deadline: u64, alarm: T) -> TimerKey {
        let key = self.alarms.insert(alarm) as TimerKey;
        self.deadlines.set(key, deadline);
        key
    }

    /// Moves an armed timer to another deadline.
    pub(crate) fn rearm(&mut self, key: TimerKey, deadline: u64) {
        self.deadlines.set(key, deadline);
    }

    pub(crate) fn cancel(&mut self, key: TimerKey) -> T {
        self.deadlines.clear(key);
        self.alarms.remove(key as usize)
    }

    /// Takes the earliest timer whose deadline has been reached.
    pub(crate) fn pop(&mut self, now: u64) -> Option<T> {
        let key = self.deadlines.pop(now)?;
        Some(self.alarms.remove(key as usize))
    }
}

/// A time in nanoseconds.
pub(crate) fn nanos(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000_000).saturating_add(time.subsec_nanos().into())
}
