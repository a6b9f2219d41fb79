//! Limits as the reactor uses them: unset limits follow set ones, and contradictions are refused.

use std::time::Duration;

use super::{Limits, PREFIX_BYTES_MAX};
use crate::error::{Error, Result};

impl Limits {
    /// Returns the limits as the reactor uses them: unset limits follow set ones, and a budget of zero becomes one.
    ///
    /// # Errors
    /// [`Error::Setting`] for two contradictory limits, and for a zero with which no client could be served.
    pub(crate) fn resolved(&self) -> Result<Self> {
        let (mut limits, usual) = (self.clone(), Limits::default());
        let budgets = [
            &mut limits.accepts_per_turn,
            &mut limits.read_bytes_per_turn,
            &mut limits.write_bytes_per_turn,
            &mut limits.callbacks_per_turn,
            &mut limits.datagrams_per_turn,
        ];
        budgets.into_iter().for_each(|budget| *budget = (*budget).max(1));

        self.check_zeros()?;
        limits.settle_output(&usual)?;
        limits.settle_input(&usual)?;
        Ok(limits)
    }

    /// Refuses zeros with which no client could be served.
    fn check_zeros(&self) -> Result<()> {
        let times = [
            ("child_timeout", self.child_timeout),
            ("idle_timeout", self.idle_timeout),
            ("read_timeout", self.read_timeout),
            ("write_timeout", self.write_timeout),
            ("connect_timeout", self.connect_timeout),
        ];
        if let Some((name, _)) = times.into_iter().find(|(_, time)| *time == Some(Duration::ZERO)) {
            return Err(Error::setting(name, format_args!("Some(0ns)"), "it would pass at once; None is no limit"));
        }
        if self.connections_per_client_max == Some(0) {
            let reason = "no client could be served; None is no limit";
            return Err(Error::setting("connections_per_client_max", format_args!("Some(0)"), reason));
        }
        if self.max_packet_size == 0 {
            return Err(Error::setting("max_packet_size", 0, "each datagram would be too long"));
        }
        Ok(())
    }

    /// The marks of the output and its maximum. Unset ones follow set ones.
    fn settle_output(&mut self, usual: &Limits) -> Result<()> {
        let low = set(self.output_low_water, usual.output_low_water);
        let high = set(self.output_high_water, usual.output_high_water);
        let most = set(self.output_bytes_max, usual.output_bytes_max);
        no_more(("output_low_water", low), ("output_high_water", high), "the low mark is above the high one", 0)?;
        no_more(("output_high_water", high), ("output_bytes_max", most), "the mark could never be reached", 0)?;
        no_more(("output_low_water", low), ("output_bytes_max", most), "the mark could never be reached", 0)?;
        if high.is_none() {
            let (wanted, room) = (low.map_or(0, |low| low.saturating_mul(4)), most.map_or(usize::MAX, |most| most / 4));
            self.output_high_water = usual.output_high_water.max(wanted).min(room.max(low.unwrap_or(0)));
        }
        if low.is_none() {
            self.output_low_water = self.output_high_water / 4;
        }
        if most.is_none() {
            self.output_bytes_max = usual.output_bytes_max.max(self.output_high_water.saturating_mul(4));
        }
        Ok(())
    }

    /// Resolves the limits for a line, a frame, and the unread input, which must have room for either.
    fn settle_input(&mut self, usual: &Limits) -> Result<()> {
        let line = set(self.line_bytes_max, usual.line_bytes_max);
        let frame = set(self.frame_bytes_max, usual.frame_bytes_max);
        let unread = set(self.input_bytes_max, usual.input_bytes_max);
        no_more(("line_bytes_max", line), ("input_bytes_max", unread), "there is no room for such a line", 0)?;
        let reason = "there is no room for such a frame and its prefix of up to 10 bytes";
        no_more(("frame_bytes_max", frame), ("input_bytes_max", unread), reason, PREFIX_BYTES_MAX)?;
        match unread {
            Some(unread) => {
                let framed = unread.saturating_sub(PREFIX_BYTES_MAX);
                self.line_bytes_max = line.unwrap_or(usual.line_bytes_max.min(unread));
                self.frame_bytes_max = frame.unwrap_or(usual.frame_bytes_max.min(framed));
            }
            None => {
                let framed = self.frame_bytes_max.saturating_add(PREFIX_BYTES_MAX);
                self.input_bytes_max = usual.input_bytes_max.max(self.line_bytes_max).max(framed);
            }
        }
        Ok(())
    }
}

/// The value, if it differs from the default.
fn set(value: usize, usual: usize) -> Option<usize> {
    (value != usual).then_some(value)
}

/// Checks two limits that are both set: the first plus `beside` bytes is at most the second.
pub(crate) fn no_more(
    (name, value): (&'static str, Option<usize>),
    (other, max): (&'static str, Option<usize>),
    reason: &'static str,
    beside: usize,
) -> Result<()> {
    match value.zip(max) {
        Some((value, max)) if value.saturating_add(beside) > max.max(beside) => {
            Err(Error::Setting { settings: vec![(name, value.to_string()), (other, max.to_string())], reason })
        }
        _ => Ok(()),
    }
}
