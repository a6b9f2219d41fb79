//! The keys with their values.

use std::alloc::System;
use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeBounds;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use indexmap::{IndexMap, IndexSet};

/// All memory of the process, counted.
#[global_allocator]
pub(crate) static MEMORY: cap::Cap<System> = cap::Cap::new(System, usize::MAX);

pub(crate) type Bytes = Vec<u8>;

pub(crate) enum Value {
    Text(Bytes),
    List(VecDeque<Bytes>),
    Hash(Box<IndexMap<Bytes, Bytes>>),
    Set(Box<IndexSet<Bytes>>),
}

/// A value, and when it expires, in milliseconds like `Data::now`.
type Entry = (Value, Option<u64>);

#[derive(Default)]
pub(crate) struct Data {
    pub(crate) entries: IndexMap<Bytes, Entry>,
    pub(crate) now: u64,
    /// For each worker: how many bytes its clients have not sent completely, or not read yet.
    pub(crate) buffered: BTreeMap<usize, usize>,
}

/// Locks the data, which every worker uses, and looks at the time.
pub(crate) fn lock(data: &Mutex<Data>) -> MutexGuard<'_, Data> {
    // A command that panicked has at most done a part of its work.
    let mut data = data.lock().unwrap_or_else(PoisonError::into_inner);
    data.now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis() as u64;
    data
}

impl Data {
    /// Whether the process needs more memory than it may, besides what is buffered.
    pub(crate) fn is_above(&self, max: usize) -> bool {
        let above = MEMORY.allocated().saturating_sub(max);
        above > 0 && above > self.buffered.values().sum()
    }

    /// The place of a key, if it has a value that has not expired.
    pub(crate) fn find(&mut self, key: &[u8]) -> Option<usize> {
        let at = self.entries.get_index_of(key)?;
        (!self.remove_if_over(at)).then_some(at)
    }

    /// The value of a key. Makes one if there is none.
    pub(crate) fn find_or_insert(&mut self, key: &[u8], new: impl FnOnce() -> Value) -> &mut Value {
        let at = self.find(key).unwrap_or_else(|| self.entries.insert_full(key.into(), (new(), None)).0);
        &mut self.entries[at].0
    }

    /// Makes a key a text, whatever its value was.
    pub(crate) fn set(&mut self, key: &[u8], text: &[u8], expires: Option<u64>) {
        match self.entries.get_mut(key) {
            Some((Value::Text(old), at)) if old.len() == text.len() => {
                old.copy_from_slice(text);
                *at = expires;
            }
            Some(entry) => *entry = (Value::Text(text.into()), expires),
            None => _ = self.entries.insert(key.into(), (Value::Text(text.into()), expires)),
        }
    }

    /// Those of the keys at some places that have a value.
    pub(crate) fn keys(&self, places: impl RangeBounds<usize>) -> impl Iterator<Item = &Bytes> {
        let entries = self.entries.get_range(places).into_iter().flatten();
        entries.filter(|(_, entry)| !self.is_over(entry)).map(|(key, _)| key)
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> bool {
        self.find(key).is_some_and(|at| self.entries.swap_remove_index(at).is_some())
    }

    fn is_over(&self, (_, expires): &Entry) -> bool {
        expires.is_some_and(|expires| expires <= self.now)
    }

    fn remove_if_over(&mut self, at: usize) -> bool {
        self.is_over(&self.entries[at]) && self.entries.swap_remove_index(at).is_some()
    }

    /// Removes what is over among some entries, for keys that nobody asks for. As in Redis, they are chosen at random,
    /// again while a quarter of them is over, but not too often, because all clients wait. Returns whether to go on soon.
    pub(crate) fn sweep(&mut self) -> bool {
        let more = (0..ROUNDS_MAX).all(|_| {
            let count = SWEPT.min(self.entries.len());
            let over = (0..count).filter(|_| self.remove_if_over(fastrand::usize(..self.entries.len()))).count();
            over >= SWEPT / 4
        });
        // This moves all entries, so it is done when few are left.
        if !more && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.capacity() / 2);
        }
        more
    }
}

/// How many entries are examined at a time.
const SWEPT: usize = 20;
/// So a sweep takes about a millisecond at most.
const ROUNDS_MAX: usize = 50;
