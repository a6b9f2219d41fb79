//! Readiness and time: mio's poll and the system's clock, or those of a script.

use std::io;
use std::time::Duration;

use mio::{Events, Poll, Registry, Token};

use super::clock::Clock;
use super::datagram::DatagramSocket;
use super::readiness::Readiness;
use super::scripted::ScriptedSelector;
use super::stream::Stream;
use super::watched::Watched;
use crate::address::Address;

pub(crate) enum Selector {
    System { poll: Poll, events: Events, clock: Clock },
    Scripted(Box<dyn ScriptedSelector>),
}

/// Ends a wait from any thread.
pub(crate) enum Waker {
    System(mio::Waker),
    Scripted(Box<dyn Fn() + Send + Sync>),
}

impl Waker {
    pub(crate) fn wake(&self) -> io::Result<()> {
        match self {
            Waker::System(waker) => waker.wake(),
            Waker::Scripted(wake) => {
                wake();
                Ok(())
            }
        }
    }
}

impl Selector {
    pub(crate) fn system() -> io::Result<Self> {
        let (poll, events) = (Poll::new()?, Events::with_capacity(EVENTS));
        Ok(Selector::System { poll, events, clock: Clock::new() })
    }

    pub(crate) fn scripted(selector: impl ScriptedSelector + 'static) -> Self {
        Selector::Scripted(Box::new(selector))
    }

    /// Makes a waker that ends [`poll`](Self::poll) from any thread. mio allows one for each selector.
    pub(crate) fn waker(&self, token: Token) -> io::Result<Waker> {
        match self {
            Selector::System { poll, .. } => mio::Waker::new(poll.registry(), token).map(Waker::System),
            Selector::Scripted(selector) => Ok(Waker::Scripted(selector.waker())),
        }
    }

    /// Nanoseconds since the reactor was made; above zero.
    pub(crate) fn now(&self) -> u64 {
        match self {
            Selector::System { clock, .. } => clock.now(),
            Selector::Scripted(selector) => selector.now(),
        }
    }

    /// Returns the selector's clock.
    pub(crate) fn clock(&self) -> Clock {
        match self {
            Selector::System { clock, .. } => clock.clone(),
            Selector::Scripted(selector) => Clock::Scripted(selector.clock()),
        }
    }

    /// Waits for an event, at most `wait`. A signal that interrupts the wait ends it without an event.
    pub(crate) fn poll(&mut self, wait: Option<Duration>) -> io::Result<()> {
        match self {
            Selector::System { poll, events, .. } => match poll.poll(events, wait) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    events.clear();
                    Ok(())
                }
                result => result,
            },
            Selector::Scripted(selector) => selector.poll(wait),
        }
    }

    /// Calls a closure with each event of the last poll.
    #[inline(always)]
    pub(crate) fn each_event(&self, mut note: impl FnMut(Token, Readiness)) {
        match self {
            Selector::System { events, .. } => {
                events.iter().for_each(|event| note(event.token(), Readiness::of(event)))
            }
            Selector::Scripted(selector) => {
                selector.events().iter().for_each(|&(token, readiness)| note(token, readiness))
            }
        }
    }

    /// Starts to connect, as [`Stream::connect`].
    pub(crate) fn connect(&self, address: &Address) -> io::Result<Stream> {
        match self {
            Selector::System { .. } => Stream::connect(address),
            Selector::Scripted(selector) => selector.connect(address).map(Stream::from),
        }
    }

    /// Opens a datagram socket with a port of its own, which receives only from this address.
    pub(crate) fn connect_datagrams(&self, address: &Address) -> io::Result<DatagramSocket> {
        match self {
            Selector::System { .. } => DatagramSocket::connected(address),
            Selector::Scripted(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "a scripted network has none")),
        }
    }

    /// Registers a socket for edge-triggered events.
    pub(crate) fn register(&self, socket: &mut impl Watched, token: Token) -> io::Result<()> {
        socket.register(self.registry(), token)
    }

    /// Deregisters a socket that will be registered with another selector.
    pub(crate) fn deregister(&self, socket: &mut impl Watched) {
        if let Some(registry) = self.registry() {
            socket.deregister(registry);
        }
    }

    /// Deregisters a connection before it is closed, on systems where closing alone does not.
    pub(crate) fn forget(&self, stream: &mut Stream) {
        // epoll forgets a descriptor when its last copy is closed (epoll(7)). Ours have no copies: they are
        // close-on-exec and never duplicated. That saves a system call for each connection.
        if cfg!(not(any(target_os = "linux", target_os = "android"))) {
            self.deregister(stream);
        }
    }

    /// Sets whether events also report room in a datagram socket.
    pub(crate) fn watch_room(&self, socket: &mut DatagramSocket, token: Token, on: bool) -> io::Result<()> {
        socket.watch_room(self.registry(), token, on)
    }

    fn registry(&self) -> Option<&Registry> {
        match self {
            Selector::System { poll, .. } => Some(poll.registry()),
            Selector::Scripted(_) => None,
        }
    }

    #[cfg(all(unix, feature = "signals"))]
    pub(crate) fn register_source(&self, source: &mut dyn mio::event::Source, token: Token) -> io::Result<()> {
        match self {
            Selector::System { poll, .. } => source.register(poll.registry(), token, mio::Interest::READABLE),
            Selector::Scripted(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The descriptor that becomes readable when there are events; a scripted selector has none.
    #[cfg(unix)]
    pub(crate) fn as_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        use std::os::fd::AsFd as _;
        match self {
            Selector::System { poll, .. } => Some(poll.registry().as_fd()),
            Selector::Scripted(_) => None,
        }
    }
}

/// Events fetched by one wait. The rest comes with the next.
pub(crate) const EVENTS: usize = 1_024;
