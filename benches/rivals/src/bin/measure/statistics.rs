//! Of several rounds one figure, and how far they were apart.

/// Of the same figure in all rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) lowest: f64,
    pub(crate) highest: f64,
    pub(crate) rounds: usize,
}

impl Summary {
    /// `None` without any value.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Summary> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&lowest, &highest) = (values.first()?, values.last()?);
        let rounds = values.len();
        let median = (values[(rounds - 1) / 2] + values[rounds / 2]) / 2.0;
        Some(Summary { median, lowest, highest, rounds })
    }

    /// Half the way from the lowest to the highest. `None` after a single round, which has no spread.
    pub(crate) fn spread(&self) -> Option<f64> {
        (self.rounds > 1).then_some((self.highest - self.lowest) / 2.0)
    }
}

pub(crate) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_or_between_two() {
        assert_eq!(Summary::of([]), None);
        let median = |values: &[f64]| Summary::of(values.iter().copied()).map(|summary| summary.median);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn the_spread_needs_two_rounds() {
        let spread = |values: &[f64]| Summary::of(values.iter().copied()).and_then(|summary| summary.spread());
        assert_eq!(spread(&[3.0]), None);
        assert_eq!(spread(&[3.0, 5.0, 4.0]), Some(1.0));
    }
}
