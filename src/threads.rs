//! Threads for blocking work: offloaded jobs, and requests that are served away from the reactor.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result, reason};
use crate::ids::ConnectionId;
use crate::logging::{note, note_fault};
use crate::panics::{catch, drop_caught, drop_each};
use crate::sync::{Condvar, Mutex, MutexGuard, thread};

/// A job to run once on a thread of the pool.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// A bounded queue and a bounded number of threads. A thread is started when a job finds none free, and ends when it
/// has been idle for [`IDLE`]. Dropping the pool lets the threads finish their current jobs, and drops waiting jobs.
pub(crate) struct Pool {
    /// The maximum number of threads; at least one is allowed. If it is lowered, a thread ends only when it is idle.
    threads_max: usize,
    /// Jobs that may wait because no thread is free.
    queue_max: usize,
    name: &'static str,
    /// The name of the setting behind `threads_max`.
    setting: &'static str,
    idle: Duration,
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    jobs: Mutex<Jobs>,
    work: Condvar,
    /// No job runs and none waits.
    done: Condvar,
}

#[derive(Default)]
pub(crate) struct Jobs {
    /// With the connection that needs its result, if it is useless without it.
    waiting: VecDeque<(Option<ConnectionId>, Job)>,
    pub(crate) threads: usize,
    /// Threads that run a job; the others are free.
    running: usize,
    /// When a job first had to wait, if there was never a tenth of the threads free since then.
    full_since: Option<Instant>,
    closed: bool,
}

impl Pool {
    /// Starts no thread yet. The name is for the queue in [`Error::Full`] and for the threads.
    pub(crate) fn new(name: &'static str, setting: &'static str, threads_max: usize, queue_max: usize) -> Self {
        let shared = Arc::new(Shared { jobs: Mutex::new(Jobs::default()), work: Condvar::new(), done: Condvar::new() });
        Pool { threads_max, queue_max, name, setting, idle: IDLE, shared }
    }

    /// Returns how many jobs run, and how many wait.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let jobs = self.shared.lock();
        (jobs.running as u64, jobs.waiting.len() as u64)
    }

    /// Returns how long jobs have had to wait, if there was never a tenth of the threads free meanwhile.
    pub(crate) fn full_for(&self) -> Option<Duration> {
        let mut jobs = self.shared.lock();
        jobs.note_free(self.threads_max.max(1));
        jobs.full_since.map(|since| since.elapsed())
    }

    /// Changes the limits of threads and of waiting jobs. Waiting jobs get the threads that are now allowed.
    pub(crate) fn resize(&mut self, threads_max: usize, queue_max: usize) {
        (self.threads_max, self.queue_max) = (threads_max, queue_max);
        let mut jobs = self.shared.lock();
        while jobs.waiting.len() > jobs.threads - jobs.running && jobs.threads < self.threads_max {
            if self.start_thread(&mut jobs).is_err() {
                break; // The existing threads will run it.
            }
        }
    }

    /// Passes a job to a thread. A panic in it is caught there.
    ///
    /// # Errors
    /// [`Error::Full`] if too many jobs wait, [`Error::Reactor`] if there is no thread and none can be started; the job
    /// is dropped.
    pub(crate) fn submit(&self, job: Job) -> Result<()> {
        self.submit_for(None, job)
    }

    /// Like `submit`, for a job that may be [taken back](Self::take_back).
    pub(crate) fn submit_for(&self, owner: Option<ConnectionId>, job: Job) -> Result<()> {
        let mut jobs = self.shared.lock();
        let admitted = self.admit(&mut jobs);
        if admitted.is_ok() {
            jobs.waiting.push_back((owner, job));
            drop(jobs);
            self.shared.work.notify_one();
        } else {
            drop(jobs);
            drop_caught(job); // It holds user values.
        }
        admitted
    }

    /// Takes the jobs of a connection that no thread has begun.
    pub(crate) fn take_back(&self, owner: ConnectionId) -> Vec<Job> {
        let mut jobs = self.shared.lock();
        let mut taken = Vec::new();
        for _ in 0..jobs.waiting.len() {
            match jobs.waiting.pop_front() {
                Some((of, job)) if of == Some(owner) => taken.push(job),
                other => jobs.waiting.extend(other), // In the end all are in their old order.
            }
        }
        taken
    }

    /// Waits until no job runs or waits, at most this long. Returns whether that is so.
    pub(crate) fn wait(&self, within: Duration) -> bool {
        let mut jobs = self.shared.lock();
        while jobs.are_left() {
            let (again, result) = self.shared.done.wait_timeout(jobs, within).unwrap_or_else(PoisonError::into_inner);
            jobs = again;
            if result.timed_out() {
                break;
            }
        }
        !jobs.are_left()
    }

    /// Returns whether there is room for another job, and starts a thread if necessary.
    fn admit(&self, jobs: &mut Jobs) -> Result<()> {
        let (name, setting, threads_max) = (self.name, self.setting, self.threads_max.max(1));
        jobs.note_free(threads_max);
        if jobs.waiting.len() >= self.queue_max.saturating_add(threads_max.saturating_sub(jobs.running)) {
            return Err(Error::Full { queue: self.name, max: self.queue_max });
        }
        let free = jobs.threads - jobs.running;
        if jobs.waiting.len() >= free && jobs.threads < threads_max {
            match self.start_thread(jobs) {
                Err(source) if jobs.threads == 0 => {
                    return Err(Error::Reactor { doing: "start a thread for a job that blocks", source });
                }
                Err(error) => note_fault!(Warn, "cannot start a thread for the {name} queue: {}", reason(&error)),
                Ok(()) => {}
            }
        }
        if jobs.waiting.len() >= jobs.threads - jobs.running && jobs.full_since.is_none() {
            #[expect(clippy::disallowed_methods, reason = "a pool does not know its reactor's clock")]
            let now = Instant::now();
            jobs.full_since = Some(now);
            note!(Warn, "{setting} ({threads_max}) is reached: more wait in the {name} queue");
        }
        Ok(())
    }

    fn start_thread(&self, jobs: &mut Jobs) -> std::io::Result<()> {
        let (shared, idle) = (Arc::clone(&self.shared), self.idle);
        let thread = thread::Builder::new().name(format!("socketserver-{}", self.name));
        thread.spawn(move || shared.run(idle))?;
        jobs.threads += 1;
        Ok(())
    }
}

impl Jobs {
    /// It is no longer full if no job waits and a tenth of the threads is free.
    fn note_free(&mut self, threads_max: usize) {
        if self.waiting.is_empty() && self.running <= threads_max.saturating_mul(9) / 10 {
            self.full_since = None;
        }
    }

    fn are_left(&self) -> bool {
        self.running > 0 || !self.waiting.is_empty()
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The main function of a thread.
    fn run(&self, idle: Duration) {
        while let Some(job) = self.next(idle) {
            // A job that must report a panic has caught it already.
            let _ = catch(job);
            let mut jobs = self.lock();
            jobs.running -= 1;
            if !jobs.are_left() {
                self.done.notify_all();
            }
        }
    }

    /// Returns the next job, which then counts as running, or the end of the thread, which is then counted.
    fn next(&self, idle: Duration) -> Option<Job> {
        let mut jobs = self.lock();
        let mut waited = false;
        loop {
            if let Some((_, job)) = jobs.waiting.pop_front() {
                jobs.running += 1;
                return Some(job);
            }
            if jobs.closed || waited {
                jobs.threads -= 1;
                return None;
            }
            let (again, result) = self.work.wait_timeout(jobs, idle).unwrap_or_else(PoisonError::into_inner);
            (jobs, waited) = (again, result.timed_out());
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let waiting = {
            let mut jobs = self.shared.lock();
            jobs.closed = true;
            std::mem::take(&mut jobs.waiting)
        };
        drop_each(waiting);
        self.shared.work.notify_all();
    }
}

/// How long an idle thread stays: longer than the pauses of a busy server, and shorter than those of a quiet one.
const IDLE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A job that says when it has begun and then runs until it is released.
    fn held(pool: &Pool) -> (Result<()>, Receiver<()>, Sender<()>) {
        let (begun, began) = channel();
        let (release, released) = channel::<()>();
        let submitted = pool.submit(Box::new(move || {
            let _ = begun.send(());
            let _ = released.recv_timeout(PATIENCE);
        }));
        (submitted, began, release)
    }

    /// Runs a job to its end, as far as the caller can see.
    fn run(pool: &Pool) {
        let (done, wait) = channel();
        pool.submit(Box::new(move || done.send(()).unwrap())).unwrap();
        wait.recv_timeout(PATIENCE).unwrap();
    }

    /// Until the threads are free: a job says that it is done a moment before.
    fn settle(pool: &Pool) {
        assert!(pool.wait(PATIENCE));
    }

    #[test]
    fn as_many_wait_as_the_queue_holds_and_one_more_is_refused() {
        let pool = Pool::new("test", "test_threads", 2, 1);
        let running = [held(&pool), held(&pool)];
        for (submitted, began, _) in &running {
            assert!(submitted.is_ok());
            began.recv_timeout(PATIENCE).unwrap();
        }
        let (submitted, began, _release) = held(&pool);
        submitted.unwrap();
        assert!(matches!(held(&pool).0, Err(Error::Full { queue: "test", max: 1 })));
        drop(running); // Releases them.
        began.recv_timeout(PATIENCE).unwrap();
    }

    #[test]
    fn it_is_full_from_the_first_job_that_waits_until_threads_are_free() {
        let pool = Pool::new("test", "test_threads", 10, 10);
        let is_full = || pool.full_for().is_some();
        let hold = || {
            let (submitted, began, release) = held(&pool);
            submitted.unwrap();
            (began, release)
        };
        for _ in 0..2 {
            let mut running: Vec<_> = (0..10).map(|_| hold()).collect();
            running.iter().for_each(|(began, _)| began.recv_timeout(PATIENCE).unwrap());
            assert!(!is_full(), "each has a thread");
            running.push(hold());
            assert_eq!((is_full(), pool.counts()), (true, (10, 1)));
            // One job ends and another takes its place: the episode continues.
            running.remove(0);
            running[9].0.recv_timeout(PATIENCE).unwrap();
            running.push(hold());
            assert_eq!((is_full(), pool.counts()), (true, (10, 1)));
            drop(running);
            settle(&pool);
            drop(hold());
            assert!(!is_full());
            settle(&pool);
        }
    }

    #[test]
    fn without_a_queue_there_is_one_job_for_each_thread() {
        let pool = Pool::new("test", "test_threads", 1, 0);
        let (submitted, _began, _release) = held(&pool);
        submitted.unwrap();
        assert!(matches!(held(&pool).0, Err(Error::Full { .. })));
    }

    #[test]
    fn a_job_that_panics_costs_no_thread() {
        let pool = Pool::new("test", "test_threads", 1, 10);
        for _ in 0..5 {
            pool.submit(Box::new(|| std::panic::resume_unwind(Box::new("scripted")))).unwrap();
        }
        run(&pool);
        assert_eq!(pool.shared.lock().threads, 1);
    }

    thread_local! {
        static UNTIL_THE_THREAD_ENDS: RefCell<Option<Sender<()>>> = const { RefCell::new(None) };
    }

    /// Reports, by being disconnected, that its thread has ended.
    fn thread_of(pool: &Pool) -> Receiver<()> {
        let (keep, ended) = channel();
        pool.submit(Box::new(move || UNTIL_THE_THREAD_ENDS.set(Some(keep)))).unwrap();
        ended
    }

    #[test]
    fn a_thread_ends_when_it_was_idle_and_another_is_started_when_needed() {
        let mut pool = Pool::new("test", "test_threads", 1, 10);
        pool.idle = Duration::from_millis(20);
        for _ in 0..3 {
            assert_eq!(thread_of(&pool).recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
            assert_eq!(pool.shared.lock().threads, 0);
        }
        run(&pool);
    }

    #[test]
    fn a_free_thread_is_used_before_another_is_started() {
        let mut pool = Pool::new("test", "test_threads", 8, 10);
        pool.idle = PATIENCE;
        let ended = thread_of(&pool);
        settle(&pool);
        for _ in 0..20 {
            run(&pool);
            settle(&pool);
        }
        assert_eq!(pool.shared.lock().threads, 1);
        drop(pool);
        assert_eq!(ended.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
    }

    #[test]
    fn dropping_a_pool_drops_waiting_jobs_and_lets_the_rest_finish() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                std::panic::resume_unwind(Box::new("scripted"));
            }
        }
        let pool = Pool::new("test", "test_threads", 1, 10);
        let (submitted, began, release) = held(&pool);
        submitted.unwrap();
        began.recv_timeout(PATIENCE).unwrap();
        let bomb = Bomb;
        pool.submit(Box::new(move || drop(bomb))).unwrap();
        let (_, never, _) = held(&pool);
        let ended = Arc::downgrade(&pool.shared);
        drop(pool);
        assert_eq!(never.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
        assert!(ended.upgrade().is_some(), "the running job is still at it");
        release.send(()).unwrap();
    }
}
