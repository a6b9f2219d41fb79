//! Every order in which a pool's threads and a submitting thread can run. These models have no time, so an idle thread
//! waits until it is called, and does not end.

use std::sync::Arc;

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::mpsc::channel;
use loom::thread;

use super::orders::model;
use crate::threads::{Job, Pool};

/// Counts of what jobs have done.
#[derive(Default)]
struct Tally {
    run: AtomicUsize,
    dropped: AtomicUsize,
}

/// Records that a job is dropped, whether it ran or not.
struct Mark(Arc<Tally>);

impl Drop for Mark {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

fn job(tally: &Arc<Tally>) -> Job {
    let mark = Mark(Arc::clone(tally));
    Box::new(move || _ = mark.0.run.fetch_add(1, Ordering::SeqCst))
}

#[test]
fn each_job_finds_a_thread() {
    for threads_max in [1, 2] {
        model(move || {
            let pool = Pool::new("model", "threads", threads_max, 10);
            let (done, wait) = channel();
            for _ in 0..2 {
                let done = done.clone();
                pool.submit(Box::new(move || done.send(()).unwrap())).unwrap();
            }
            // Nothing else wakes the threads.
            wait.recv().unwrap();
            wait.recv().unwrap();
        });
    }
}

#[test]
fn each_job_is_run_once_or_dropped_with_the_pool() {
    for threads_max in [1, 2] {
        model(move || {
            let tally = Arc::new(Tally::default());
            let pool = Pool::new("model", "threads", threads_max, 10);
            for _ in 0..2 {
                pool.submit(job(&tally)).unwrap();
            }
            let shared = Arc::clone(&pool.shared);
            drop(pool);
            while shared.lock().threads > 0 {
                thread::yield_now();
            }
            assert_eq!(tally.dropped.load(Ordering::SeqCst), 2);
            assert!(tally.run.load(Ordering::SeqCst) <= 2);
        });
    }
}
