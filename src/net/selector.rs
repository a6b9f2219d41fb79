//! What is ready, and what time it is: mio's poll and the system's clock, or a script's.

use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io};

use mio::{Events, Interest, Poll, Token};

use super::datagram::DatagramSocket;
use super::family::Bound;
use super::scripted::ScriptedSelector;
use super::{Listener, Stream};
use crate::address::Address;

pub(crate) enum Selector {
    System { poll: Poll, events: Events, clock: Clock },
    Scripted(Box<dyn ScriptedSelector>),
}

/// The clock of a reactor, to be read where its selector is out of reach, and by the threads that serve its requests.
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

    /// Nanoseconds since it was made. Starts above zero so that zero can mean "never".
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

/// What ends a wait from any thread.
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

/// What the kernel says of one socket. May be spurious; never taken for more than a reason to try.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness(pub(crate) u32);

impl Readiness {
    pub(crate) const READABLE: u32 = 1 << 0;
    pub(crate) const WRITABLE: u32 = 1 << 1;
    /// A short read is not to be trusted: the end of the stream, or a byte out of band (which cuts a read short,
    /// tcp(7)), may follow without another event. Of a stream that [cuts reads short](super::Stream::cuts_reads_short) no
    /// short read is.
    pub(crate) const READ_TO_END: u32 = 1 << 2;
    /// Both directions are over.
    pub(crate) const HUNG_UP: u32 = 1 << 3;

    #[inline]
    fn of(event: &mio::event::Event) -> Self {
        let mut bits = 0;
        if event.is_readable() {
            bits |= Readiness::READABLE;
        }
        if event.is_writable() {
            bits |= Readiness::WRITABLE;
        }
        if event.is_priority() {
            bits |= Readiness::READ_TO_END;
        }
        // Hang-up and error alone are a reason to try both ways: the attempt then says what is wrong.
        if event.is_read_closed() || event.is_error() {
            bits |= Readiness::READABLE | Readiness::READ_TO_END;
        }
        if event.is_write_closed() {
            bits |= Readiness::WRITABLE | Readiness::HUNG_UP;
        }
        Readiness(bits)
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

    /// A waker that ends [`poll`](Self::poll) from any thread. mio allows one for each selector.
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

    /// The same clock.
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

    /// Calls `on_event` for each event of the last poll. Says whether there may be more than it could hold.
    #[inline(always)]
    pub(crate) fn each(&self, mut on_event: impl FnMut(Token, Readiness)) -> bool {
        match self {
            Selector::System { events, .. } => {
                let mut count = 0;
                for event in events {
                    on_event(event.token(), Readiness::of(event));
                    count += 1;
                }
                count == EVENTS
            }
            Selector::Scripted(selector) => {
                selector.events().iter().for_each(|&(token, readiness)| on_event(token, readiness));
                false
            }
        }
    }

    /// Begins to connect, as [`Stream::connect`].
    pub(crate) fn connect(&self, address: &Address) -> io::Result<Stream> {
        match self {
            Selector::System { .. } => Stream::connect(address),
            Selector::Scripted(selector) => selector.connect(address),
        }
    }

    /// Registers a connection once and for all, for both directions.
    pub(crate) fn register_stream(&self, stream: &mut Stream, token: Token) -> io::Result<()> {
        match self {
            Selector::System { poll, .. } => stream.register(poll.registry(), token, STREAM_INTEREST),
            Selector::Scripted(_) => stream.register_scripted(token),
        }
    }

    pub(crate) fn register_listener(&self, listener: &mut Listener, token: Token) -> io::Result<()> {
        match self {
            Selector::System { poll, .. } => listener.register(poll.registry(), token),
            Selector::Scripted(_) => listener.register_scripted(token),
        }
    }

    /// Takes a connection out before it is closed, where closing alone does not.
    pub(crate) fn deregister(&self, stream: &mut Stream) {
        // epoll forgets a descriptor when its last copy is closed (epoll(7)). Ours have no copies: they are
        // close-on-exec and never duplicated. That saves a system call for each connection.
        if cfg!(not(any(target_os = "linux", target_os = "android")))
            && let Selector::System { poll, .. } = self
        {
            stream.deregister(poll.registry());
        }
    }

    pub(crate) fn register_datagram(&self, socket: &mut DatagramSocket, token: Token) -> io::Result<()> {
        match self {
            Selector::System { poll, .. } => socket.register(poll.registry(), token),
            Selector::Scripted(_) => {
                socket.register_scripted(token);
                Ok(())
            }
        }
    }

    /// Takes a socket out that a server serves by, to be registered with another selector.
    pub(crate) fn deregister_bound(&self, socket: &mut Bound) {
        if let Selector::System { poll, .. } = self {
            match socket {
                Bound::Listener(listener) => listener.deregister(poll.registry()),
                Bound::Datagram(socket) => socket.deregister(poll.registry()),
            }
        }
    }

    /// Whether events shall also tell when a datagram socket has room.
    pub(crate) fn watch_room(&self, socket: &mut DatagramSocket, token: Token, on: bool) -> io::Result<()> {
        match self {
            Selector::System { poll, .. } => socket.reregister(poll.registry(), token, on),
            Selector::Scripted(_) => {
                socket.watch_room_scripted(on);
                Ok(())
            }
        }
    }

    #[cfg(all(unix, feature = "signals"))]
    pub(crate) fn register_source(&self, source: &mut dyn mio::event::Source, token: Token) -> io::Result<()> {
        match self {
            Selector::System { poll, .. } => source.register(poll.registry(), token, Interest::READABLE),
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

/// Events fetched by one wait; what is left comes with the next.
const EVENTS: usize = 1_024;

/// Where the platform tells of out-of-band bytes, we want to know: they cut a read short.
#[cfg(any(target_os = "linux", target_os = "android"))]
const STREAM_INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE).add(Interest::PRIORITY);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const STREAM_INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE);
