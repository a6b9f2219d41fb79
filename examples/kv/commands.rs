//! Commands on the data: words in, one reply out.

use std::collections::VecDeque;
use std::io::Write;

use socketserver::Result;

use super::data::{Data, Value, cost, matches};
use super::protocol::{Replies, number};

/// The value of a key, which must be of the given kind: if there is one, or a new one.
macro_rules! get {
    ($data:ident, $key:expr, $kind:ident) => {
        match $data.find($key).map(|at| &mut $data.entries[at].0) {
            Some(Value::$kind(value)) => Some(value),
            Some(_) => return Err(WRONG_KIND.into()),
            None => None,
        }
    };
    ($data:ident, $key:expr, new $kind:ident) => {
        match $data.find_or_insert($key, || Value::$kind(Default::default())) {
            Value::$kind(value) => value,
            _ => return Err(WRONG_KIND.into()),
        }
    };
}

/// Runs a command. Returns whether there is one of this name that takes so many words. An `Error::Other` is the text of
/// an error reply. Any other error means that the client cannot be written to.
pub(crate) fn run(data: &mut Data, out: &mut Replies<'_, impl Write>, name: &[u8], words: &[&[u8]]) -> Result<bool> {
    match (name, words) {
        (b"GET", [key]) => out.bulk_or_null(get!(data, key, Text).map(|text| &text[..]))?,
        (b"SET", [key, text, options @ ..]) => set(data, out, &[key, text], options)?,
        (b"MSET", pairs @ [_, ..]) if pairs.len() % 2 == 0 => put(data, out, pairs, None)?,
        (b"INCR", [key]) => add(data, out, key, Some(1))?,
        (b"DECR", [key]) => add(data, out, key, Some(-1))?,
        (b"INCRBY", [key, by]) => add(data, out, key, number(by))?,

        (b"FLUSHALL", []) => {
            data.entries.clear();
            data.used = 0;
            out.simple("OK")?;
        }
        (b"KEYS", [pattern]) => {
            let keys = data.entries.iter().filter(|(key, _)| matches(pattern, key)).map(|(key, _)| key.to_vec());
            let keys: Vec<_> = keys.collect();
            out.array(b'*', keys.iter().filter(|key| data.find(key).is_some()).map(|key| &key[..]))?;
        }
        (b"SCAN", [cursor, options @ ..]) => scan(data, out, cursor, options)?,
        (b"DBSIZE", []) => out.number(b':', data.entries.len())?,
        (b"EXISTS", keys @ [_, ..]) => out.number(b':', keys.iter().filter(|key| data.find(key).is_some()).count())?,
        (b"DEL", keys @ [_, ..]) => {
            let removed = keys.iter().filter(|key| data.find(key).is_some_and(|at| data.remove(at)));
            out.number(b':', removed.count())?;
        }
        (b"EXPIRE" | b"PEXPIRE", [key, time]) => {
            let expires = expiry(data, time, name == b"EXPIRE")?;
            let found = data.find(key).inspect(|&at| data.entries[at].1 = Some(expires));
            out.number(b':', u8::from(found.is_some()))?;
        }
        (b"TTL" | b"PTTL", [key]) => {
            let (unit, now) = (if name == b"TTL" { 1_000 } else { 1 }, data.now);
            let left = |expires: u64| (expires - now).div_ceil(unit) as i64;
            out.number(b':', data.find(key).map_or(-2, |at| data.entries[at].1.map_or(-1, left)))?;
        }

        (b"LPUSH" | b"RPUSH", [key, items @ ..]) if !items.is_empty() => {
            let list = get!(data, key, new List);
            let push = if name == b"LPUSH" { VecDeque::push_front } else { VecDeque::push_back };
            items.iter().for_each(|&item| push(list, item.into()));
            out.number(b':', list.len())?;
            data.used += costs(items);
        }
        (b"LPOP" | b"RPOP", [key]) => {
            let pop = if name == b"LPOP" { VecDeque::pop_front } else { VecDeque::pop_back };
            let item = get!(data, key, List).and_then(pop);
            data.used -= costs(&item);
            out.bulk_or_null(item.as_deref())?;
        }
        (b"LLEN", [key]) => out.number(b':', get!(data, key, List).map_or(0, |list| list.len()))?,
        (b"LRANGE", [key, first, last]) => {
            let (first, last) = number(first).zip(number(last)).ok_or(NOT_A_NUMBER)?;
            let list = get!(data, key, new List);
            let length = list.len() as i64;
            let [first, last] = [first, last].map(|at| if at < 0 { at + length } else { at });
            let to = last.saturating_add(1).clamp(0, length);
            out.array(b'*', list.range(first.clamp(0, to) as usize..to as usize).map(|item| &item[..]))?;
        }

        (b"HSET", [key, pairs @ ..]) if !pairs.is_empty() && pairs.len() % 2 == 0 => {
            let hash = get!(data, key, new Hash);
            let (mut new, mut old) = (Vec::new(), Vec::new());
            for pair in pairs.chunks_exact(2) {
                match hash.insert(pair[0].into(), pair[1].into()) {
                    None => new.push(pair[0]),
                    Some(item) => old.push(item),
                }
            }
            let items = pairs.iter().skip(1).step_by(2);
            data.used += costs(&new) + costs(items);
            data.used -= costs(&old);
            out.number(b':', new.len())?;
        }
        (b"HGET", [key, field]) => {
            out.bulk_or_null(get!(data, key, Hash).and_then(|hash| hash.get(*field)).map(|item| &item[..]))?;
        }
        (b"HDEL", [key, fields @ ..]) if !fields.is_empty() => {
            let hash = get!(data, key, new Hash);
            let gone: Vec<_> = fields.iter().filter_map(|&field| hash.swap_remove_entry(field)).collect();
            data.used -= gone.iter().map(|(field, item)| cost(field) + cost(item)).sum::<usize>();
            out.number(b':', gone.len())?;
        }
        (b"HGETALL", [key]) => {
            let hash = get!(data, key, new Hash);
            out.array(b'%', hash.iter().flat_map(|(field, item)| [&field[..], item]))?;
        }

        (b"SADD", [key, items @ ..]) if !items.is_empty() => {
            let set = get!(data, key, new Set);
            let new: Vec<_> = items.iter().filter(|&&item| set.insert(item.into())).collect();
            data.used += costs(new.iter().copied());
            out.number(b':', new.len())?;
        }
        (b"SREM", [key, items @ ..]) if !items.is_empty() => {
            let set = get!(data, key, new Set);
            let gone: Vec<_> = items.iter().filter(|&&item| set.swap_remove(item)).collect();
            data.used -= costs(gone.iter().copied());
            out.number(b':', gone.len())?;
        }
        (b"SMEMBERS", [key]) => out.array(b'~', get!(data, key, new Set).iter().map(|item| &item[..]))?,
        (b"SPOP", [key]) => {
            let set = get!(data, key, Set);
            let item = set.and_then(|set| set.swap_remove_index(fastrand::usize(..set.len())));
            data.used -= costs(&item);
            out.bulk_or_null(item.as_deref())?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// `SET` with options: when it expires, and whether the key must exist or must not.
fn set(data: &mut Data, out: &mut Replies<'_, impl Write>, pair: &[&[u8]], mut options: &[&[u8]]) -> Result<()> {
    let (mut expires, mut must_exist) = (None, None);
    while let [option, rest @ ..] = options {
        options = rest;
        match (&option.to_ascii_uppercase()[..], rest) {
            (b"NX", _) if must_exist.is_none() => must_exist = Some(false),
            (b"XX", _) if must_exist.is_none() => must_exist = Some(true),
            (unit @ (b"EX" | b"PX"), [time, rest @ ..]) if expires.is_none() => {
                let at = Some(expiry(data, time, unit == b"EX")?).filter(|&expires| expires > data.now);
                expires = Some(at.ok_or("ERR invalid expire time in 'set' command")?);
                options = rest;
            }
            _ => return Err(SYNTAX.into()),
        }
    }
    let exists = data.find(pair[0]).is_some();
    if must_exist.is_some_and(|must| must != exists) {
        return Ok(out.bulk_or_null(None)?);
    }
    put(data, out, pair, expires)
}

/// Some of the keys, from the last one to the first, because the last one takes the place of one that is removed: a key
/// may come twice, but none is missed.
fn scan(data: &mut Data, out: &mut Replies<'_, impl Write>, cursor: &[u8], mut options: &[&[u8]]) -> Result<()> {
    let cursor = number(cursor).and_then(|cursor| usize::try_from(cursor).ok()).ok_or("ERR invalid cursor")?;
    let (mut pattern, mut count) = (&b"*"[..], 10);
    while let [option, value, rest @ ..] = options {
        match &option.to_ascii_uppercase()[..] {
            b"MATCH" => pattern = value,
            b"COUNT" => count = number(value).and_then(|n| usize::try_from(n).ok()).ok_or(NOT_A_NUMBER)?.max(1),
            _ => return Err(SYNTAX.into()),
        }
        options = rest;
    }
    if !options.is_empty() {
        return Err(SYNTAX.into());
    }
    let to = if cursor == 0 { data.entries.len() } else { cursor.min(data.entries.len()) };
    let from = to.saturating_sub(count);
    let is_alive = |expires: Option<u64>| expires.is_none_or(|expires| expires > data.now);
    let range = data.entries.get_range(from..to).into_iter().flatten();
    let keys = range.filter(|(key, (_, expires))| is_alive(*expires) && matches(pattern, key));
    out.begin(b'*', 2)?;
    out.bulk(itoa::Buffer::new().format(from).as_bytes())?;
    Ok(out.array(b'*', keys.map(|(key, _)| &key[..]))?)
}

/// Sets keys and texts.
fn put(data: &mut Data, out: &mut Replies<'_, impl Write>, pairs: &[&[u8]], expires: Option<u64>) -> Result<()> {
    for pair in pairs.chunks_exact(2) {
        if let Some(at) = data.entries.get_index_of(pair[0]).filter(|&at| !matches!(data.entries[at].0, Value::Text(_)))
        {
            data.remove(at);
        }
        set_text(data, pair[0], pair[1]);
        data.entries[pair[0]].1 = expires;
    }
    Ok(out.simple("OK")?)
}

fn add(data: &mut Data, out: &mut Replies<'_, impl Write>, key: &[u8], by: Option<i64>) -> Result<()> {
    let old = get!(data, key, Text).map_or(Some(0), |text| number(text));
    let (old, by) = old.zip(by).ok_or(NOT_A_NUMBER)?;
    let new = old.checked_add(by).ok_or("ERR increment or decrement would overflow")?;
    set_text(data, key, itoa::Buffer::new().format(new).as_bytes());
    Ok(out.number(b':', new)?)
}

/// Makes a key a text, which it is, or nothing.
fn set_text(data: &mut Data, key: &[u8], text: &[u8]) {
    let is_new = data.find(key).is_none();
    if let Value::Text(old) = data.find_or_insert(key, || Value::Text(text.into())) {
        let before = if is_new { 0 } else { cost(old) };
        *old = text.into();
        data.used = data.used + cost(text) - before;
    }
}

fn costs<T: AsRef<[u8]>>(items: impl IntoIterator<Item = T>) -> usize {
    items.into_iter().map(|item| cost(item.as_ref())).sum()
}

/// When something expires that has so long to live.
fn expiry(data: &Data, time: &[u8], is_seconds: bool) -> Result<u64> {
    let time = number(time).and_then(|time| time.checked_mul(if is_seconds { 1_000 } else { 1 }));
    Ok(data.now.saturating_add_signed(time.ok_or(NOT_A_NUMBER)?))
}

const WRONG_KIND: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";
const SYNTAX: &str = "ERR syntax error";
const NOT_A_NUMBER: &str = "ERR value is not an integer or out of range";
