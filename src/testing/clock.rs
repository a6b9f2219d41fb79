//! Lets time pass in the middle of a turn.

use std::sync::Arc;
use std::time::Duration;

use super::world::World;

/// The clock of a [`Network`](super::Network), which [`on_call`](super::Network::on_call) can move: for calls that take
/// time.
///
/// ```
/// use socketserver::testing::{Call, Network, Outcome};
/// use std::time::Duration;
///
/// let mut network = Network::new();
/// let clock = network.clock();
/// network.on_call(move |call, _| {
///     if call == Call::Write {
///         clock.advance(Duration::from_millis(3));
///     }
///     Outcome::Proceed
/// });
/// ```
#[derive(Clone, Debug)]
pub struct Clock(pub(crate) Arc<World>);

impl Clock {
    /// Time since the network was made.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.0.now())
    }

    /// Lets time pass.
    pub fn advance(&self, time: Duration) {
        self.0.advance(time);
    }
}
