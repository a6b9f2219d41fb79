//! Threads for what blocks: offloaded jobs run here, their results come back as messages.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::ConnectionId;
use super::handle::{Handle, Message};
use crate::error::{Error, Result};
use crate::limits::Config;
use crate::panics::{catch, drop_caught};

/// A bounded queue and a bounded number of threads, started as they are needed. Dropping it lets the threads finish
/// the job they are at; jobs that wait are dropped.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    handle: Handle,
}

struct Shared {
    jobs: Mutex<Jobs>,
    work: Condvar,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

struct Job {
    connection: ConnectionId,
    work: Box<dyn FnOnce() -> Message + Send>,
}

impl Pool {
    pub(crate) fn new(handle: Handle) -> Self {
        Pool { shared: Arc::new(Shared { jobs: Mutex::default(), work: Condvar::new() }), handle }
    }

    pub(crate) fn submit(
        &self,
        connection: ConnectionId,
        work: Box<dyn FnOnce() -> Message + Send>,
        config: &Config,
    ) -> Result<()> {
        let mut jobs = self.shared.lock();
        let max = config.offload_queue_max;
        if jobs.waiting.len() >= max {
            return Err(Error::Full { queue: "offload", max });
        }
        if jobs.idle <= jobs.waiting.len() && jobs.threads < config.offload_threads.max(1) {
            let (shared, handle) = (Arc::clone(&self.shared), self.handle.clone());
            let thread = std::thread::Builder::new().name("socketserver-offload".into());
            match thread.spawn(move || shared.run(&handle)) {
                Ok(_) => jobs.threads += 1,
                Err(source) if jobs.threads == 0 => {
                    return Err(Error::Reactor { doing: "start a thread for an offloaded job", source });
                }
                Err(_) => {} // The threads there are will get to it.
            }
        }
        jobs.waiting.push_back(Job { connection, work });
        drop(jobs);
        self.shared.work.notify_one();
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, handle: &Handle) {
        while let Some(job) = self.next() {
            let result = catch(job.work);
            handle.deliver(job.connection, result);
        }
    }

    fn next(&self) -> Option<Job> {
        let mut jobs = self.lock();
        jobs.idle += 1;
        let job = loop {
            if jobs.closed {
                break None;
            }
            if let Some(job) = jobs.waiting.pop_front() {
                break Some(job);
            }
            jobs = self.work.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        };
        jobs.idle -= 1;
        job
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let waiting = {
            let mut jobs = self.shared.lock();
            jobs.closed = true;
            std::mem::take(&mut jobs.waiting)
        };
        waiting.into_iter().for_each(|job| _ = drop_caught(job));
        self.shared.work.notify_all();
    }
}
