//! Commands for the reactor from other threads: a bounded queue, requests to stop, and one wake-up for any number of
//! waiting commands.
//!
//! A server has a mailbox before it has a reactor, and its handles use that. When a reactor takes the server, the
//! server's mailbox hands over its commands and then forwards to the reactor's mailbox.
//!
//! A submitter puts its command into the queue and sets the mark, both under the lock. If the mark was not set before,
//! it then wakes the loop. The loop sleeps only while the mark is not set, and clears it before it reads the queue.
//! Therefore a command that comes too late for that read finds the mark cleared, and wakes the loop again.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, PoisonError, Weak};

use crate::error::{Error, Result};
use crate::net::selector::Waker;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};

pub(crate) struct Mailbox<C, W> {
    queue: Mutex<Queue<C, W>>,
    /// The mark. The first of many submissions sets it and wakes the loop. The loop clears it before it reads the
    /// queue.
    pending: AtomicBool,
    request: AtomicU8,
    max: AtomicUsize,
    /// The reactor's waker. A handle that outlives the reactor has no descriptor.
    waker: Weak<W>,
    /// The number of the reactor. The mailbox of a server has none.
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
    /// Into the mailbox of the reactor that has taken over.
    On(Arc<Mailbox<C, W>>),
    /// Nowhere: the reactor, or the server, is gone.
    Closed,
}

/// Ends the loop's sleep from any thread, even if the sleep begins only afterwards.
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
    /// Makes the mailbox of the reactor with this number. At most `max` bounded commands wait.
    pub(crate) fn new(waker: &Arc<W>, max: usize, owner: u32) -> Arc<Self> {
        Mailbox::with(Arc::downgrade(waker), max, Some(owner))
    }

    /// Makes the mailbox of a server without a reactor. It wakes nothing, and keeps commands.
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

    /// Submits a command. One that is not `bounded` is accepted even if the queue is full.
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
        let is_first = self.mark();
        drop(queue);
        if is_first {
            self.ring();
        }
        Ok(())
    }

    pub(crate) fn request_drain(&self) {
        self.request(REQUEST_DRAIN);
    }

    pub(crate) fn request_now(&self) {
        self.request(REQUEST_NOW);
    }

    fn request(&self, what: u8) {
        let queue = self.lock(); // Otherwise the request could come just after all requests were handed over.
        if let Way::On(to) = &queue.way {
            let to = Arc::clone(to);
            drop(queue);
            return to.request(what);
        }
        self.request.fetch_max(what, Ordering::AcqRel);
        drop(queue);
        self.wake();
    }

    /// Makes the next turn not sleep.
    pub(crate) fn wake(&self) {
        if self.mark() {
            self.ring();
        }
    }

    /// Sets the mark. Returns whether the loop must be woken for it.
    fn mark(&self) -> bool {
        !self.pending.swap(true, Ordering::AcqRel)
    }

    fn ring(&self) {
        if let Some(waker) = self.waker.upgrade() {
            // This fails only if the eventfd is broken. The command is then handled with the next event.
            let _ = waker.wake();
        }
    }

    /// Hands over waiting commands, in their order, and a request to stop to another mailbox, and forwards all later
    /// ones.
    pub(crate) fn lead_to(&self, to: &Arc<Self>) {
        let mut queue = self.lock();
        while let Some(command) = queue.waiting.pop_front() {
            let _ = to.submit(command, false); // The reactor that takes over is alive.
        }
        match self.request.swap(0, Ordering::AcqRel) {
            0 => {}
            what => to.request(what),
        }
        queue.way = Way::On(Arc::clone(to));
    }

    /// The mailbox that gets the commands of this one.
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

    /// Returns whether anything was submitted since the last [`take`](Self::take).
    #[inline]
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    /// The number of commands that wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Returns whether a command waits that the loop would not see: an error. For the loop's thread.
    pub(crate) fn waits_unmarked(&self) -> bool {
        let queue = self.lock();
        !queue.waiting.is_empty() && !self.is_pending()
    }

    /// Takes up to `most` commands. The mark is cleared first, so that commands that come during this wake the loop
    /// again. It is set again if some are left.
    pub(crate) fn take(&self, most: usize) -> Vec<C> {
        // Swaps, not stores: a submitter that finds the mark set does not wake the loop. It relies on the loop to see
        // its command after the next swap. A store would not guarantee that.
        self.pending.swap(false, Ordering::AcqRel);
        let mut queue = self.lock();
        let count = queue.waiting.len().min(most.max(1));
        let commands = (0..count).filter_map(|_| queue.waiting.pop_front()).collect();
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

    /// The stop was carried out and reported: `serve_forever` may be called again.
    pub(crate) fn clear_request(&self) {
        self.request.store(0, Ordering::Release);
    }

    /// The reactor, or a server without one, is dropped: commands are refused, unless another mailbox has taken over.
    /// Returns the waiting ones. Dropping them may run any code.
    pub(crate) fn close(&self) -> VecDeque<C> {
        let mut queue = self.lock();
        if let Way::Here = queue.way {
            queue.way = Way::Closed;
        }
        std::mem::take(&mut queue.waiting)
    }
}
