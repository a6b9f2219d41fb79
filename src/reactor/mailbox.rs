//! Where other threads leave what the reactor is to do: a bounded queue, requests to stop, and a wake-up that is sent
//! once however many commands wait.
//!
//! A server has one before it has a reactor, and its handles keep to that. When a reactor takes the server in, the
//! server's mailbox hands over what it holds and leads to the reactor's from then on.
//!
//! A submitter puts its command in the queue, then sets the mark; if it was not set before, it wakes the loop. The loop
//! sleeps only while the mark is not set, and clears it before it reads the queue. So a command that comes too late to be
//! taken finds the mark cleared, and wakes the loop again.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, PoisonError, Weak};

use crate::error::{Error, Result};
use crate::net::selector::Waker;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};

pub(crate) struct Mailbox<C, W> {
    queue: Mutex<Queue<C, W>>,
    /// The mark. Set by the first of many submissions, which alone wakes the loop; cleared before the queue is read.
    pending: AtomicBool,
    request: AtomicU8,
    max: AtomicUsize,
    /// The reactor's: a handle that outlives it has no descriptor.
    waker: Weak<W>,
    /// The number of that reactor. A mailbox without one is a server's.
    owner: Option<u32>,
}

pub(crate) struct Queue<C, W> {
    pub(crate) waiting: VecDeque<C>,
    way: Way<C, W>,
}

/// Where a command goes.
enum Way<C, W> {
    /// Into this queue.
    Here,
    /// Into that of the reactor that has taken over.
    On(Arc<Mailbox<C, W>>),
    /// Nowhere: the reactor, or the server, is gone.
    Closed,
}

/// What ends the loop's sleep, from any thread: also one that begins only afterwards.
pub(crate) trait Wake {
    fn wake(&self) -> io::Result<()>;
}

impl Wake for Waker {
    fn wake(&self) -> io::Result<()> {
        Waker::wake(self)
    }
}

const REQUEST_DRAIN: u8 = 1;
const REQUEST_NOW: u8 = 2;

impl<C, W: Wake> Mailbox<C, W> {
    /// That of the reactor with this number. At most `max` bounded commands wait.
    pub(crate) fn new(waker: &Arc<W>, max: usize, owner: u32) -> Arc<Self> {
        Mailbox::with(Arc::downgrade(waker), max, Some(owner))
    }

    /// That of a server without a reactor: it wakes nobody, and holds what comes.
    pub(crate) fn of_server(max: usize) -> Arc<Self> {
        Mailbox::with(Weak::new(), max, None)
    }

    fn with(waker: Weak<W>, max: usize, owner: Option<u32>) -> Arc<Self> {
        Arc::new(Mailbox {
            queue: Mutex::new(Queue { waiting: VecDeque::new(), way: Way::Here }),
            pending: AtomicBool::new(false),
            request: AtomicU8::new(0),
            max: AtomicUsize::new(max),
            waker,
            owner,
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Queue<C, W>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// Leaves a command. One that is not `bounded` finds room in a full queue, too.
    ///
    /// # Errors
    /// [`Error::Full`] if the queue is full, [`Error::Gone`] if the reactor is gone; the command is dropped.
    pub(crate) fn submit(&self, command: C, bounded: bool) -> Result<()> {
        let mut queue = self.lock();
        match &queue.way {
            Way::Here => {}
            Way::On(to) => {
                let to = Arc::clone(to);
                drop(queue);
                return to.submit(command, bounded);
            }
            Way::Closed => return Err(Error::Gone),
        }
        let max = self.max.load(Ordering::Relaxed);
        if bounded && queue.waiting.len() >= max {
            return Err(Error::Full { queue: "message", max });
        }
        queue.waiting.push_back(command);
        drop(queue);
        self.wake();
        Ok(())
    }

    pub(crate) fn request_drain(&self) {
        self.request(REQUEST_DRAIN);
    }

    pub(crate) fn request_now(&self) {
        self.request(REQUEST_NOW);
    }

    fn request(&self, what: u8) {
        let queue = self.lock(); // Otherwise it could come just after all requests were handed over.
        if let Way::On(to) = &queue.way {
            let to = Arc::clone(to);
            drop(queue);
            return to.request(what);
        }
        self.request.fetch_max(what, Ordering::AcqRel);
        drop(queue);
        self.wake();
    }

    /// The next turn is not to sleep.
    pub(crate) fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel)
            && let Some(waker) = self.waker.upgrade()
        {
            // It fails only if the eventfd is broken; the command is then handled with the next event.
            let _ = waker.wake();
        }
    }

    /// Hands over to another mailbox what waits here, in its order, and a request to stop; and from now on whatever comes.
    pub(crate) fn lead_to(&self, to: &Arc<Self>) {
        let mut queue = self.lock();
        for command in std::mem::take(&mut queue.waiting) {
            let _ = to.submit(command, false); // The reactor that takes over is alive.
        }
        match self.request.swap(0, Ordering::AcqRel) {
            0 => {}
            what => to.request(what),
        }
        queue.way = Way::On(Arc::clone(to));
    }

    /// The mailbox that takes what is left in this one.
    pub(crate) fn end(self: &Arc<Self>) -> Arc<Self> {
        let mut end = Arc::clone(self);
        loop {
            let next = match &end.lock().way {
                Way::On(to) => Arc::clone(to),
                _ => break,
            };
            end = next;
        }
        end
    }

    pub(crate) fn owner(&self) -> Option<u32> {
        self.owner
    }

    /// Whether anything was submitted since the last [`take`](Self::take).
    #[inline]
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    /// Whether anything waits for the loop, marked as pending or not.
    pub(crate) fn has_waiting(&self) -> bool {
        self.is_pending() || !self.lock().waiting.is_empty()
    }

    /// Takes up to `most` commands. The mark is cleared first, so that what comes meanwhile wakes the loop again, and
    /// set again if some are left.
    pub(crate) fn take(&self, most: usize) -> Vec<C> {
        // Swaps, not stores: who finds the mark set wakes nobody, and relies on the loop to see, after the next swap, what
        // was done before. A store would hide that.
        self.pending.swap(false, Ordering::AcqRel);
        let mut queue = self.lock();
        let count = queue.waiting.len().min(most.max(1));
        let commands = queue.waiting.drain(..count).collect();
        if !queue.waiting.is_empty() {
            self.pending.swap(true, Ordering::AcqRel);
        }
        commands
    }

    pub(crate) fn drain_requested(&self) -> bool {
        self.request.load(Ordering::Acquire) >= REQUEST_DRAIN
    }

    pub(crate) fn now_requested(&self) -> bool {
        self.request.load(Ordering::Acquire) >= REQUEST_NOW
    }

    /// The request was carried out, and that was reported: `serve_forever` may be called again.
    pub(crate) fn clear_request(&self) {
        self.request.store(0, Ordering::Release);
    }

    /// The reactor goes, or a server without one: what comes is refused, unless another has taken over. Returns what
    /// waits; dropping that may run anything.
    pub(crate) fn close(&self) -> VecDeque<C> {
        let mut queue = self.lock();
        if let Way::Here = queue.way {
            queue.way = Way::Closed;
        }
        std::mem::take(&mut queue.waiting)
    }
}
