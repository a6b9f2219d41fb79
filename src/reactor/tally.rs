//! The bytes in the buffers of all connections, and which connections hold the most.

use std::collections::BinaryHeap;

/// The bytes in buffers.
pub(crate) struct Tally {
    max: usize,
    total: usize,
    /// By slot.
    held: Vec<usize>,
}

impl Tally {
    pub(super) fn new(max: usize) -> Self {
        Tally { max, total: 0, held: Vec::new() }
    }

    pub(super) fn set(&mut self, key: u32, bytes: usize) {
        let key = key as usize;
        if key >= self.held.len() {
            if bytes == 0 {
                return;
            }
            self.held.resize(key + 1, 0);
        }
        let before = std::mem::replace(&mut self.held[key], bytes);
        self.total = self.total - before + bytes;
    }

    /// A slot is freed.
    pub(super) fn forget(&mut self, key: u32) {
        self.set(key, 0);
    }

    /// What the connection in a slot held when it was counted.
    pub(super) fn of(&self, key: u32) -> usize {
        self.held.get(key as usize).copied().unwrap_or(0)
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    pub(super) fn total(&self) -> usize {
        self.total
    }

    pub(super) fn is_passed(&self) -> bool {
        self.total > self.max
    }

    /// What the total may be after the largest were closed.
    pub(super) fn target(&self) -> usize {
        self.max - self.max / 8
    }

    /// Those that hold something, the largest first.
    pub(super) fn largest(&self) -> BinaryHeap<(usize, u32)> {
        let holding = self.held.iter().enumerate().filter(|&(_, &bytes)| bytes > 0);
        holding.map(|(key, &bytes)| (bytes, key as u32)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_the_sum_and_the_largest_come_first() {
        let mut tally = Tally::new(800);
        for (key, bytes) in [(3, 100), (9, 700), (3, 50), (5, 60), (0, 0), (7, 1), (7, 0)] {
            tally.set(key, bytes);
        }
        assert_eq!((tally.total(), tally.of(3), tally.of(1_000)), (810, 50, 0));
        assert!(tally.is_passed());
        let order: Vec<_> = std::iter::from_fn({
            let mut largest = tally.largest();
            move || largest.pop()
        })
        .collect();
        assert_eq!(order, [(700, 9), (60, 5), (50, 3)]);
        tally.forget(9);
        tally.forget(2_000);
        assert_eq!((tally.total(), tally.target(), tally.is_passed()), (110, 700, false));
    }
}
