//! The one clock.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

/// The clock of a reactor, for places without access to its selector, and for the threads that serve its requests.
#[derive(Clone)]
pub(crate) enum Clock {
    System(Instant),
    Scripted(Arc<dyn Fn() -> u64 + Send + Sync>),
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the one clock")]
    pub(crate) fn new() -> Self {
        Clock::System(Instant::now())
    }

    /// Returns nanoseconds since it was made. The first value is above zero, so that zero can mean "never".
    #[inline(never)] // It is called in many places, and not for each message.
    pub(crate) fn now(&self) -> u64 {
        match self {
            #[expect(clippy::disallowed_methods, reason = "the one clock")]
            Clock::System(epoch) => Instant::now().duration_since(*epoch).as_nanos() as u64 + 1,
            Clock::Scripted(now) => now(),
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}
