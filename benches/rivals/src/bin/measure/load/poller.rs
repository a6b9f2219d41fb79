//! epoll, edge-triggered: a socket is registered once, and only what was not ready before is reported.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::{Errno, Result};

/// Events taken from the kernel at a time. Many, so that the call is shared by many messages.
const EVENTS_MAX: usize = 1024;

/// What a socket is to be watched for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Interest {
    Reading,
    /// Also for room to write, or for the connection to be made.
    Both,
}

/// What the kernel says of a socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    /// Bytes, the end or an error can be read.
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The peer has sent its end; it lies behind whatever can be read.
    pub(super) end: bool,
    /// Broken, or closed in both directions: only reading tells which.
    pub(super) hung_up: bool,
}

/// The sockets watched, and the events of the last [`wait`](Self::wait).
pub(super) struct Poller {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poller {
    pub(super) fn new() -> Result<Self> {
        Ok(Poller { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, events: Vec::with_capacity(EVENTS_MAX) })
    }

    /// Watches `socket` until it is closed.
    pub(super) fn add(&self, socket: impl AsFd, token: usize, interest: Interest) -> Result<()> {
        let reading = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        let flags = match interest {
            Interest::Reading => reading,
            Interest::Both => reading | epoll::EventFlags::OUT,
        };
        epoll::add(&self.epoll, socket, epoll::EventData::new_u64(token as u64), flags)
    }

    /// Waits for events, at most as long as `timeout`, rounded up to whole milliseconds as epoll has it.
    pub(super) fn wait(&mut self, timeout: Duration) -> Result<()> {
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timespec(timeout))) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// The same with one more system call, to the nanosecond as far as the kernel's timers go.
    pub(super) fn wait_precisely(&mut self, timeout: Duration) -> Result<()> {
        if !timeout.is_zero() {
            let mut readable = [PollFd::new(&self.epoll, PollFlags::IN)];
            match poll(&mut readable, Some(&timespec(timeout))) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        self.wait(Duration::ZERO)
    }

    /// How many events there are.
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// One of them. They are taken one by one, so that sockets can be added in between.
    pub(super) fn event(&self, index: usize) -> (usize, Ready) {
        let epoll::Event { flags, data, .. } = self.events[index];
        let hung_up = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
        let end = flags.contains(epoll::EventFlags::RDHUP);
        let ready = Ready {
            readable: flags.contains(epoll::EventFlags::IN) || end || hung_up,
            writable: flags.contains(epoll::EventFlags::OUT),
            end,
            hung_up,
        };
        (data.u64() as usize, ready)
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: duration.subsec_nanos().into() }
}
