//! The keys with their values.

use std::collections::VecDeque;

use indexmap::{IndexMap, IndexSet};

pub(crate) type Bytes = Box<[u8]>;

pub(crate) enum Value {
    Text(Bytes),
    List(VecDeque<Bytes>),
    Hash(Box<IndexMap<Bytes, Bytes>>),
    Set(Box<IndexSet<Bytes>>),
}

#[derive(Default)]
pub(crate) struct Data {
    /// The values, and when they expire, in milliseconds like `now`.
    pub(crate) entries: IndexMap<Bytes, (Value, Option<u64>)>,
    pub(crate) now: u64,
    /// The bytes of all keys and items, with what each needs besides.
    pub(crate) used: usize,
}

impl Data {
    /// The place of a key, if it has a value that has not expired and is not empty.
    pub(crate) fn find(&mut self, key: &[u8]) -> Option<usize> {
        let at = self.entries.get_index_of(key)?;
        (!self.remove_if_over(at)).then_some(at)
    }

    /// The value of a key. Makes one if there is none.
    pub(crate) fn find_or_insert(&mut self, key: &[u8], new: impl FnOnce() -> Value) -> &mut Value {
        let at = self.find(key).unwrap_or_else(|| {
            self.used += KEY_BYTES + cost(key);
            self.entries.insert_full(key.into(), (new(), None)).0
        });
        &mut self.entries[at].0
    }

    /// Removes an entry.
    pub(crate) fn remove(&mut self, at: usize) -> bool {
        let Some((key, (value, _))) = self.entries.swap_remove_index(at) else { return false };
        let items = match &value {
            Value::Text(text) => cost(text),
            Value::List(list) => list.iter().map(|item| cost(item)).sum(),
            Value::Hash(hash) => hash.iter().map(|(field, item)| cost(field) + cost(item)).sum(),
            Value::Set(set) => set.iter().map(|item| cost(item)).sum(),
        };
        self.used -= KEY_BYTES + cost(&key) + items;
        true
    }

    fn remove_if_over(&mut self, at: usize) -> bool {
        let (value, expires) = &self.entries[at];
        let is_empty = match value {
            Value::Text(_) => false,
            Value::List(list) => list.is_empty(),
            Value::Hash(hash) => hash.is_empty(),
            Value::Set(set) => set.is_empty(),
        };
        let is_over = is_empty || expires.is_some_and(|expires| expires <= self.now);
        is_over && self.remove(at)
    }

    /// Removes what is over among some entries, for keys that nobody asks for. As in Redis, they are chosen at random,
    /// again while a quarter of them is over.
    pub(crate) fn sweep(&mut self) {
        let mut over = SWEPT;
        while over >= SWEPT / 4 {
            let count = SWEPT.min(self.entries.len());
            over = (0..count).filter(|_| self.remove_if_over(fastrand::usize(..self.entries.len()))).count();
        }
    }
}

/// What an item costs.
pub(crate) fn cost(bytes: &[u8]) -> usize {
    bytes.len() + ITEM_BYTES
}

/// Returns whether a text matches a pattern of `*`, `?`, `[abc]`, `[^a-c]` and `\\`, as in Redis.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern_at, mut text_at) = (0, 0);
    // Where the last star is, and how far its match reaches. Only the last one has to be tried again.
    let mut star = None;
    loop {
        match pattern.get(pattern_at) {
            None if text_at == text.len() => return true,
            Some(b'*') => {
                pattern_at += 1;
                star = Some((pattern_at, text_at));
                continue;
            }
            Some(_) if text_at < text.len() => {
                let (is_same, length) = one(&pattern[pattern_at..], text[text_at]);
                if is_same {
                    (pattern_at, text_at) = (pattern_at + length, text_at + 1);
                    continue;
                }
            }
            _ => {}
        }
        match &mut star {
            Some((after, reaches)) if *reaches < text.len() => {
                *reaches += 1;
                (pattern_at, text_at) = (*after, *reaches);
            }
            _ => return false,
        }
    }
}

/// Whether a byte matches the first element of a pattern, and how long that is.
fn one(pattern: &[u8], byte: u8) -> (bool, usize) {
    match pattern {
        [b'?', ..] => (true, 1),
        [b'\\', escaped, ..] => (*escaped == byte, 2),
        [b'[', set @ ..] => {
            let end = set.iter().skip(1).position(|&byte| byte == b']').map_or(set.len(), |at| at + 1);
            let is_not = set.first() == Some(&b'^');
            let mut set = &set[usize::from(is_not)..end];
            let mut is_in = false;
            while let [first, rest @ ..] = set {
                let (last, rest) = if let [b'-', last, rest @ ..] = rest { (last, rest) } else { (first, rest) };
                is_in |= (*first.min(last)..=*first.max(last)).contains(&byte);
                set = rest;
            }
            (is_in != is_not, (end + 2).min(pattern.len()))
        }
        _ => (pattern[0] == byte, 1),
    }
}

/// What a key, and what an item, needs besides its bytes: about what the tables and the allocator take.
const KEY_BYTES: usize = 64;
const ITEM_BYTES: usize = 32;
/// How many entries are examined at a time.
const SWEPT: usize = 20;
