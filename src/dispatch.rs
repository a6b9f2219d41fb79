//! The dispatch of callbacks: one server in the reactor, and which of its handlers is called when.

mod callbacks;
mod events;

pub(crate) use self::events::Host;
