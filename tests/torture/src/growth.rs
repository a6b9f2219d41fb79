//! Whether a server needs more and more memory.

use std::fmt::{self, Display};

/// Memory that grew from the second quarter of a run to the last one, and did so to the end. The first quarter is for
/// what a server takes once, its pools and caches. A step after which it stays as it is comes of an allocator that does
/// not give back what it has; a leak goes on.
#[derive(Debug, PartialEq)]
pub(crate) struct Growth {
    before: u64,
    after: u64,
}

impl Growth {
    /// Looks at what was needed at the least in each of several equal times. `None` if it did not grow by more than a
    /// tenth and by more than a MiB; or if less than a quarter of that came from the third to the last quarter, where
    /// even growth has half of it; or if there is too little to tell.
    pub(crate) fn of(lowest: &[u64]) -> Option<Growth> {
        let quarter = lowest.len() / 4;
        if quarter < QUARTER_MIN {
            return None;
        }
        let mean = |samples: &[u64]| samples.iter().sum::<u64>() / samples.len() as u64;
        let before = mean(&lowest[quarter..2 * quarter]);
        let third = mean(&lowest[lowest.len() - 2 * quarter..lowest.len() - quarter]);
        let after = mean(&lowest[lowest.len() - quarter..]);
        let (grew, grew_last) = (after.saturating_sub(before), after.saturating_sub(third));
        (grew > before / 10 && grew > 1 << 20 && grew_last >= grew / 4).then_some(Growth { before, after })
    }
}

impl Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Growth { before, after } = self;
        write!(f, "expected memory to stay as it was, seen: {before} bytes in the second quarter, {after} in the last")
    }
}

/// Fewer samples in a quarter say nothing.
const QUARTER_MIN: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn steady_memory_has_not_grown() {
        assert_eq!(Growth::of(&[5 * MIB; 20]), None);
    }

    #[test]
    fn a_leak_is_seen() {
        let leaking: Vec<u64> = (0..20).map(|minute| (5 + minute) * MIB).collect();
        assert_eq!(Growth::of(&leaking), Some(Growth { before: 12 * MIB, after: 22 * MIB }));
    }

    #[test]
    fn memory_that_is_taken_once_is_not_a_leak() {
        let mut warmed_up = [20 * MIB; 20];
        warmed_up[..5].fill(2 * MIB);
        assert_eq!(Growth::of(&warmed_up), None);
    }

    #[test]
    fn a_step_is_not_a_leak() {
        let mut step = [10 * MIB; 12];
        step[..5].fill(5 * MIB);
        assert_eq!(Growth::of(&step), None);
    }

    #[test]
    fn a_little_more_is_not_a_leak() {
        let mut little = [MIB; 8];
        little[6..].fill(2 * MIB);
        assert_eq!(Growth::of(&little), None, "not more than a MiB");
        little = [100 * MIB; 8];
        little[6..].fill(110 * MIB);
        assert_eq!(Growth::of(&little), None, "not more than a tenth");
        little[6..].fill(112 * MIB);
        assert!(Growth::of(&little).is_some());
    }

    #[test]
    fn a_short_run_says_nothing() {
        assert_eq!(Growth::of(&[MIB, 5 * MIB, 9 * MIB, 13 * MIB, 17 * MIB, 21 * MIB, 25 * MIB]), None);
        assert_eq!(Growth::of(&[]), None);
    }
}
