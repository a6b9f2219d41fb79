//! From figures to places on the canvas.

/// How figures become lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// From 0.
    Linear,
    /// From a power of ten.
    Log,
}

/// A scale between two places, in pixels. Figures beyond its ends are shown at its ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    from: i32,
    to: i32,
}

impl Axis {
    /// Has room for all `values`, and ends at round figures.
    pub(super) fn new(scale: Scale, values: impl IntoIterator<Item = f64>, from: i32, to: i32) -> Axis {
        let positive = values.into_iter().filter(|value| *value > 0.0);
        let (low, high) =
            positive.fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), value| (low.min(value), high.max(value)));
        let (low, high) = if high > 0.0 { (low, high) } else { (1.0, 1.0) };
        match scale {
            Scale::Linear => Axis { scale, low: 0.0, high: high * 1.02, from, to },
            Scale::Log => {
                let low = floor_1_2_5(low * 0.9);
                Axis { scale, low, high: (high * 1.1).max(low * 10.0), from, to }
            }
        }
    }

    pub(super) fn place(&self, value: f64) -> i32 {
        let value = value.clamp(self.low, self.high);
        let share = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        self.from + (f64::from(self.to - self.from) * share).round() as i32
    }

    /// Round figures along the axis, not more than about eight.
    pub(super) fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let mut step = floor_1_2_5(self.high / 5.0);
                if self.high / step > 8.0 {
                    step *= 2.0;
                }
                (0..).map(|i| f64::from(i) * step).take_while(|tick| *tick <= self.high).collect()
            }
            Scale::Log => {
                let decades = (self.high / self.low).log10();
                // 1, 2, 5 where there is room, else powers of ten, else every second one.
                let factors: &[f64] = if decades <= 2.8 { &[1.0, 2.0, 5.0] } else { &[1.0] };
                let every = if decades > 8.0 { 2 } else { 1 };
                let first = self.low.log10().floor() as i32;
                let last = self.high.log10().ceil() as i32;
                let ticks = (first..=last)
                    .step_by(every)
                    .flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)));
                ticks.filter(|tick| (self.low * 0.999..=self.high).contains(tick)).collect()
            }
        }
    }
}

/// The largest of 1, 2, 5, 10, 20, ... that is not above `value`.
fn floor_1_2_5(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let factor = [5.0, 2.0, 1.0].into_iter().find(|factor| factor * power <= value * 1.000_001);
    factor.unwrap_or(1.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_axis_begins_at_zero() {
        let axis = Axis::new(Scale::Linear, [3.0, 10.0], 100, 200);
        assert_eq!(axis.place(0.0), 100);
        assert_eq!(axis.place(10.0), 198);
        assert_eq!(axis.place(99.0), 200);
        assert_eq!(axis.ticks(), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
    }

    #[test]
    fn a_log_axis_has_equal_steps_for_equal_ratios() {
        let axis = Axis::new(Scale::Log, [2.5, 900.0], 0, 1_000);
        assert_eq!(axis.place(0.0), 0, "nothing is at the low end");
        let steps = [axis.place(20.0) - axis.place(2.0), axis.place(200.0) - axis.place(20.0)];
        assert!((steps[0] - steps[1]).abs() <= 1, "{steps:?}");
        assert_eq!(axis.ticks(), [2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0]);
    }

    #[test]
    fn without_figures_there_still_is_an_axis() {
        for scale in [Scale::Linear, Scale::Log] {
            let axis = Axis::new(scale, [], 0, 10);
            assert!((0..=10).contains(&axis.place(5.0)));
            assert!(axis.ticks().len() < 12);
        }
    }
}
