//! The limits of a single connection.

use crate::error::Result;
use crate::limits::Limits;
use crate::limits::resolving::no_more;

/// Limits of a single connection instead of its server's: [`Request::set_limits`](crate::Request::set_limits). For
/// example, an event stream may hold little and a download much. A field that is `None` has the server's value.
///
/// Time limits are set with [`set_timeout`](crate::Request::set_timeout).
///
/// ```
/// use socketserver::{testing::Client, ConnectionLimits, Next, Request, RequestHandler, Result};
/// use std::io::Write;
///
/// /// Sends events. A client that does not take them is dropped early.
/// struct Events;
/// impl RequestHandler for Events {
///     fn setup(&mut self, request: &mut Request<'_>) -> Result<Next> {
///         let mut limits = ConnectionLimits::default();
///         limits.output_bytes_max = Some(64 * 1024);
///         request.set_limits(&limits)?;
///         Ok(Next::Wait)
///     }
///     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
///         request.input.take_all();
///         request.output.write_all(&[b'.'; 40 * 1024])?;
///         Ok(Next::Wait)
///     }
/// }
/// let mut client = Client::new(Events);
/// client.set_window(0);
/// client.feed(b"more");
/// client.feed(b"more"); // Not read: the high-water mark is a quarter of the maximum.
/// assert!(!client.is_closed());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionLimits {
    /// As [`Limits::input_bytes_max`]. Lines and frames keep the server's limits.
    pub input_bytes_max: Option<usize>,
    /// As [`Limits::output_high_water`]. `None`: the server's value, or a quarter of `output_bytes_max` if that is set
    /// and less.
    pub output_high_water: Option<usize>,
    /// As [`Limits::output_low_water`]. `None`: the server's value, or a quarter of the high-water mark if that differs
    /// from the server's.
    pub output_low_water: Option<usize>,
    /// As [`Limits::output_bytes_max`]. `None`: the server's value, or four times `output_high_water` if that is set
    /// and more.
    pub output_bytes_max: Option<usize>,
}

impl ConnectionLimits {
    /// Returns the limits as the connection uses them. Unset limits follow those that are set.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) if two limits contradict each other.
    pub(crate) fn resolved(&self, server: &Limits) -> Result<Bounds> {
        let (low, high, most) = (self.output_low_water, self.output_high_water, self.output_bytes_max);
        no_more(("output_low_water", low), ("output_high_water", high), "the low mark is above the high one", 0)?;
        no_more(("output_high_water", high), ("output_bytes_max", most), "the mark could never be reached", 0)?;
        no_more(("output_low_water", low), ("output_bytes_max", most), "the mark could never be reached", 0)?;
        let usual = server.output_high_water.min(most.map_or(usize::MAX, |most| most / 4));
        let output_high_water = high.unwrap_or(usual.max(low.unwrap_or(0)));
        let is_usual = output_high_water == server.output_high_water;
        let follows = if is_usual { server.output_low_water } else { output_high_water / 4 };
        let room = if is_usual { 0 } else { output_high_water.saturating_mul(4) };
        Ok(Bounds {
            input_bytes_max: self.input_bytes_max.unwrap_or(server.input_bytes_max),
            output_bytes_max: most.unwrap_or(server.output_bytes_max.max(room)),
            output_high_water,
            output_low_water: low.unwrap_or(follows),
        })
    }
}

/// How many bytes a connection may hold: its server's limits, or its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) input_bytes_max: usize,
    pub(crate) output_bytes_max: usize,
    pub(crate) output_high_water: usize,
    pub(crate) output_low_water: usize,
}

impl Bounds {
    #[inline]
    pub(crate) fn of(limits: &Limits) -> Self {
        Bounds {
            input_bytes_max: limits.input_bytes_max,
            output_bytes_max: limits.output_bytes_max,
            output_high_water: limits.output_high_water,
            output_low_water: limits.output_low_water,
        }
    }

    /// How much output is gathered without a look at these bounds, and at the size of each write.
    pub(crate) fn gathers(&self) -> usize {
        self.output_bytes_max.min(self.output_high_water).min(DIRECT_BYTES).saturating_sub(1)
    }
}

/// A write of this size gets a system call of its own, because copying it would cost more.
pub(crate) const DIRECT_BYTES: usize = 16 * 1024;
/// The most that is gathered before it is sent within a callback.
pub(crate) const GATHER_BYTES: usize = 64 * 1024;
