//! Deadlines: a four-ary heap in which every timer knows its place, so a cancelled one is gone at once.
//!
//! Arm, re-arm and cancel are O(log n). A connection has one timer for all its limits and re-arms it only when it
//! fires: a message costs a stamp in the connection and nothing here.

use std::time::Duration;

use slab::Slab;

/// Names a timer while it is armed. Reused afterwards, so the owner forgets it when the timer fires.
pub(crate) type TimerKey = u32;

/// The key of no timer.
pub(crate) const NO_TIMER: TimerKey = TimerKey::MAX;

/// A timer of a handler or a server: when it is due, and how often from then on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Armed {
    pub(crate) key: TimerKey,
    pub(crate) due: u64,
    /// The time from one tick to the next, if it is periodic.
    pub(crate) every: Option<u64>,
}

impl Armed {
    /// The tick that follows the one that is due now. It is in the future, and a whole number of periods away from the
    /// first: what was missed is left out, and no delay adds up.
    pub(crate) fn next(&self, now: u64) -> Option<u64> {
        let every = self.every?;
        let missed = now.saturating_sub(self.due) / every;
        Some(self.due.saturating_add(every.saturating_mul(missed + 1)))
    }
}

/// The shortest period of a timer: what a selector can wait for.
const PERIOD_MIN: Duration = Duration::from_millis(1);

/// A period as the clock counts it.
pub(crate) fn period(time: Duration) -> u64 {
    nanos(time.max(PERIOD_MIN))
}

/// One deadline for each of some small numbers. Twenty bytes for each that is set.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    /// Each entry is due no earlier than its parent at (index - 1) / 4.
    pub(crate) heap: Vec<Due>,
    /// By key: the index into the heap.
    places: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
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

    /// The deadline of a key, if it has one.
    pub(crate) fn get(&self, key: u32) -> Option<u64> {
        let place = self.places.get(key as usize).filter(|&&place| place != NOWHERE)?;
        Some(self.heap[*place as usize].deadline)
    }

    /// Gives a key its deadline, or another one.
    pub(crate) fn set(&mut self, key: u32, deadline: u64) {
        if self.places.len() <= key as usize {
            self.places.resize(key as usize + 1, NOWHERE);
        }
        let place = match self.places[key as usize] {
            NOWHERE => {
                self.heap.push(Due { deadline, key });
                self.heap.len() - 1
            }
            place => {
                self.heap[place as usize].deadline = deadline;
                place as usize
            }
        };
        self.settle(place);
    }

    pub(crate) fn clear(&mut self, key: u32) {
        let place = std::mem::replace(&mut self.places[key as usize], NOWHERE) as usize;
        self.heap.swap_remove(place);
        if place < self.heap.len() {
            self.settle(place);
        }
    }

    pub(crate) fn clear_all(&mut self) {
        self.heap.clear();
        self.places.clear();
    }

    /// Takes the key with the earliest deadline, if that has been reached.
    pub(crate) fn pop(&mut self, now: u64) -> Option<u32> {
        let key = self.heap.first().filter(|due| due.deadline <= now)?.key;
        self.clear(key);
        Some(key)
    }

    /// Moves an entry up or down to where it belongs.
    fn settle(&mut self, mut place: usize) {
        let due = self.heap[place];
        while place > 0 && due.deadline < self.heap[(place - 1) / 4].deadline {
            self.put(place, self.heap[(place - 1) / 4]);
            place = (place - 1) / 4;
        }
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

    fn put(&mut self, place: usize, due: Due) {
        self.heap[place] = due;
        self.places[due.key as usize] = place as u32;
    }
}

/// Timers that carry what they are for.
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

    /// All that are armed, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (TimerKey, &T)> {
        self.alarms.iter().map(|(key, alarm)| (key as TimerKey, alarm))
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<u64> {
        self.deadlines.next()
    }

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

/// A time as the clock counts it.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
