//! Deadlines: a four-ary heap in which every timer knows its place, so a cancelled one is gone at once.
//!
//! Arm, re-arm and cancel are O(log n). A connection has one timer for all its limits and re-arms it only when it
//! fires: a message costs a stamp in the connection and nothing here.

use slab::Slab;

/// Names a timer while it is armed. Reused afterwards, so the owner forgets it when the timer fires.
pub(crate) type TimerKey = u32;

/// The key of no timer.
pub(crate) const NO_TIMER: TimerKey = TimerKey::MAX;

#[derive(Debug)]
pub(crate) struct Timers<T> {
    /// Each entry is due no earlier than its parent at (index - 1) / 4.
    heap: Vec<Due>,
    timers: Slab<Timer<T>>,
}

#[derive(Clone, Copy, Debug)]
struct Due {
    /// Nanoseconds on the reactor's clock.
    deadline: u64,
    key: TimerKey,
}

#[derive(Debug)]
struct Timer<T> {
    place: u32,
    alarm: T,
}

impl<T> Timers<T> {
    pub(crate) fn new() -> Self {
        Timers { heap: Vec::new(), timers: Slab::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<u64> {
        self.heap.first().map(|due| due.deadline)
    }

    pub(crate) fn deadline(&self, key: TimerKey) -> u64 {
        self.heap[self.timers[key as usize].place as usize].deadline
    }

    pub(crate) fn arm(&mut self, deadline: u64, alarm: T) -> TimerKey {
        let place = self.heap.len();
        let key = self.timers.insert(Timer { place: place as u32, alarm }) as TimerKey;
        self.heap.push(Due { deadline, key });
        self.rise(place);
        key
    }

    /// Moves an armed timer to another deadline.
    pub(crate) fn rearm(&mut self, key: TimerKey, deadline: u64) {
        let place = self.timers[key as usize].place as usize;
        self.heap[place].deadline = deadline;
        self.rise(place);
        self.sink(self.timers[key as usize].place as usize);
    }

    pub(crate) fn cancel(&mut self, key: TimerKey) -> T {
        let Timer { place, alarm } = self.timers.remove(key as usize);
        let place = place as usize;
        self.heap.swap_remove(place);
        if let Some(moved) = self.heap.get(place) {
            self.timers[moved.key as usize].place = place as u32;
            self.rise(place);
            self.sink(self.timers[self.heap[place].key as usize].place as usize);
        }
        alarm
    }

    /// Takes the earliest timer whose deadline has been reached.
    pub(crate) fn pop(&mut self, now: u64) -> Option<T> {
        let due = self.heap.first().filter(|due| due.deadline <= now)?;
        Some(self.cancel(due.key))
    }

    fn rise(&mut self, mut place: usize) {
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
    }

    fn sink(&mut self, mut place: usize) {
        let due = self.heap[place];
        loop {
            let children = (place * 4 + 1)..(place * 4 + 5).min(self.heap.len());
            let Some(least) = children.min_by_key(|&child| self.heap[child].deadline) else {
                break;
            };
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
        self.timers[due.key as usize].place = place as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// xorshift64: a fixed seed, printed by the assertion that fails.
    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn agrees_with_a_sorted_list_over_random_operations() {
        for seed in 1..50u64 {
            let mut state = seed;
            let mut timers = Timers::new();
            let mut model: Vec<(u64, TimerKey, u64)> = Vec::new(); // deadline, key, alarm
            let mut now = 0;
            for alarm in 0..2_000 {
                match random(&mut state) % 5 {
                    0 | 1 => {
                        let deadline = now + random(&mut state) % 100;
                        model.push((deadline, timers.arm(deadline, alarm), alarm));
                    }
                    2 if !model.is_empty() => {
                        let at = random(&mut state) as usize % model.len();
                        let (_, key, alarm) = model.swap_remove(at);
                        assert_eq!(timers.cancel(key), alarm, "seed {seed}");
                    }
                    3 if !model.is_empty() => {
                        let at = random(&mut state) as usize % model.len();
                        model[at].0 = now + random(&mut state) % 100;
                        timers.rearm(model[at].1, model[at].0);
                        assert_eq!(timers.deadline(model[at].1), model[at].0, "seed {seed}");
                    }
                    _ => {
                        now += random(&mut state) % 20;
                        while let Some(alarm) = timers.pop(now) {
                            let at = model.iter().position(|entry| entry.2 == alarm).expect("armed");
                            assert!(model[at].0 <= now, "seed {seed}: fired early");
                            assert_eq!(model[at].0, model.iter().map(|entry| entry.0).min().unwrap(), "seed {seed}");
                            model.swap_remove(at);
                        }
                        assert!(model.iter().all(|entry| entry.0 > now), "seed {seed}: fired late");
                    }
                }
                assert_eq!(timers.next(), model.iter().map(|entry| entry.0).min(), "seed {seed}");
                assert_eq!(timers.len(), model.len(), "seed {seed}");
            }
        }
    }

    #[test]
    fn a_hundred_thousand_timers_leave_nothing_behind() {
        let mut timers = Timers::new();
        let keys: Vec<_> = (0..100_000u64).map(|i| timers.arm(i * 7_919 % 100_003, i)).collect();
        for round in 0..10 {
            for &key in &keys {
                timers.rearm(key, (u64::from(key) * 31 + round) % 100_003);
            }
        }
        assert_eq!(timers.len(), 100_000);
        for key in keys {
            timers.cancel(key);
        }
        assert_eq!(timers.len(), 0);
        assert!(timers.timers.is_empty());
        assert!(timers.heap.capacity() <= 131_072, "re-arming must not make entries pile up");
    }
}
