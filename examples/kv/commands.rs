//! Commands on the data: words in, one reply out.

use std::collections::VecDeque;
use std::io::Write;

use simplematch::{DoWild, Options};
use socketserver::{Error, Result};

use super::data::{Data, Value};
use super::protocol::{OK, Replies, number};

/// The value of a key, which must be of the given kind: if there is one, or a new one.
macro_rules! get {
    ($data:ident, $key:expr, $kind:ident) => {
        match $data.find($key).and_then(|at| $data.entries.get_index_mut(at)) {
            Some((_, (Value::$kind(value), _))) => Some(value),
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

/// What is taken out of the value of a key, which is removed when nothing is left in it.
macro_rules! take {
    ($data:ident, $key:expr, $kind:ident, $value:ident => $taken:expr) => {
        match get!($data, $key, $kind) {
            Some($value) => {
                let taken = $taken;
                let _ = $value.is_empty() && $data.remove($key);
                taken
            }
            None => Default::default(),
        }
    };
}

/// Runs a command. An `Error::Other` is the text of an error reply.
pub(crate) fn run(data: &mut Data, out: &mut Replies<'_, impl Write>, name: &[u8], words: &[&[u8]]) -> Result<()> {
    match (name, words) {
        (b"GET", [key]) => out.text_or_null(get!(data, key, Text)),
        (b"SET", [key, text, options @ ..]) => set(data, out, key, text, options),
        (b"MSET", pairs @ [_, ..]) if pairs.len() % 2 == 0 => {
            pairs.chunks_exact(2).for_each(|pair| data.set(pair[0], pair[1], None));
            out.line(OK)
        }
        (b"INCR", [key]) => add(data, out, key, Some(1)),
        (b"DECR", [key]) => add(data, out, key, Some(-1)),
        (b"INCRBY", [key, by]) => add(data, out, key, number(by)),

        (b"FLUSHALL", []) => {
            data.entries = Default::default();
            out.line(OK)
        }
        (b"KEYS", [pattern]) => out.texts(b'*', data.keys(..).filter(|key| matches(pattern, key))),
        (b"SCAN", [cursor, options @ ..]) => scan(data, out, cursor, options),
        (b"DBSIZE", []) => out.number(b':', data.entries.len()),
        (b"EXISTS", keys @ [_, ..]) => out.number(b':', keys.iter().filter(|key| data.find(key).is_some()).count()),
        (b"DEL", keys @ [_, ..]) => out.number(b':', keys.iter().filter(|key| data.remove(key)).count()),
        (b"EXPIRE" | b"PEXPIRE", [key, time]) => {
            let expires = expiry(data, time, name == b"EXPIRE", name)?;
            let found = data.find(key).map(|at| data.entries[at].1 = Some(expires));
            out.number(b':', u8::from(found.is_some()))
        }
        (b"TTL" | b"PTTL", [key]) => {
            let (unit, now) = (if name == b"TTL" { 1_000 } else { 1 }, data.now);
            let left = |expires: u64| (expires - now).div_ceil(unit) as i64;
            out.number(b':', data.find(key).map_or(-2, |at| data.entries[at].1.map_or(-1, left)))
        }

        (b"LPUSH" | b"RPUSH", [key, items @ ..]) if !items.is_empty() => {
            let push = if name == b"LPUSH" { VecDeque::push_front } else { VecDeque::push_back };
            let list = get!(data, key, new List);
            items.iter().for_each(|item| push(list, item.to_vec()));
            out.number(b':', list.len())
        }
        (b"LPOP" | b"RPOP", [key]) => {
            let pop = if name == b"LPOP" { VecDeque::pop_front } else { VecDeque::pop_back };
            out.text_or_null(take!(data, key, List, list => pop(list)))
        }
        (b"LLEN", [key]) => out.number(b':', get!(data, key, List).map_or(0, |list| list.len())),
        (b"LRANGE", [key, first, last]) => {
            let (first, last) = number::<i64>(first).zip(number(last)).ok_or(NOT_A_NUMBER)?;
            let Some(list) = get!(data, key, List) else { return out.array(b'*', 0) };
            let length = list.len() as i64;
            let [first, last] = [first, last].map(|at| if at < 0 { at + length } else { at });
            let to = last.saturating_add(1).clamp(0, length);
            out.texts(b'*', list.range(first.clamp(0, to) as usize..to as usize))
        }

        (b"HSET", [key, pairs @ ..]) if !pairs.is_empty() && pairs.len() % 2 == 0 => {
            let hash = get!(data, key, new Hash);
            let insert = |pair: &&[&[u8]]| hash.insert(pair[0].to_vec(), pair[1].to_vec()).is_none();
            out.number(b':', pairs.chunks_exact(2).filter(insert).count())
        }
        (b"HGET", [key, field]) => out.text_or_null(get!(data, key, Hash).and_then(|hash| hash.get(*field))),
        (b"HDEL", [key, fields @ ..]) if !fields.is_empty() => {
            let fields = fields.iter();
            let count =
                take!(data, key, Hash, hash => fields.filter(|&&field| hash.swap_remove(field).is_some()).count());
            out.number(b':', count)
        }
        (b"HGETALL", [key]) => {
            let pairs = get!(data, key, Hash).into_iter().flat_map(|hash| hash.iter());
            out.texts(b'%', pairs.flat_map(|(field, item)| [field, item]))
        }

        (b"SADD", [key, items @ ..]) if !items.is_empty() => {
            let set = get!(data, key, new Set);
            out.number(b':', items.iter().filter(|item| set.insert(item.to_vec())).count())
        }
        (b"SREM", [key, items @ ..]) if !items.is_empty() => {
            let count = take!(data, key, Set, set => items.iter().filter(|&&item| set.swap_remove(item)).count());
            out.number(b':', count)
        }
        (b"SMEMBERS", [key]) => out.texts(b'~', get!(data, key, Set).into_iter().flat_map(|set| set.iter())),
        (b"SPOP", [key]) => {
            out.text_or_null(take!(data, key, Set, set => set.swap_remove_index(fastrand::usize(..set.len()))))
        }
        _ => Err(unknown(name, words)),
    }
}

/// `SET` with options: when it expires, and whether the key must exist or must not.
fn set(data: &mut Data, out: &mut Replies<'_, impl Write>, key: &[u8], text: &[u8], options: &[&[u8]]) -> Result<()> {
    let (mut expires, mut must_exist, mut options) = (None, None, options.iter());
    while let Some(option) = options.next() {
        match &option.to_ascii_uppercase()[..] {
            b"NX" if must_exist.is_none() => must_exist = Some(false),
            b"XX" if must_exist.is_none() => must_exist = Some(true),
            unit @ (b"EX" | b"PX") if expires.is_none() => {
                expires = Some(expiry(data, options.next().ok_or(SYNTAX)?, unit == b"EX", b"SET")?);
            }
            _ => return Err(SYNTAX.into()),
        }
    }
    if must_exist.is_some_and(|must| must != data.find(key).is_some()) {
        return out.text_or_null(None::<&[u8]>);
    }
    data.set(key, text, expires);
    out.line(OK)
}

/// Some of the keys, from the last one to the first, because the last one takes the place of one that is removed: a key
/// may come twice, but none is missed.
fn scan(data: &Data, out: &mut Replies<'_, impl Write>, cursor: &[u8], options: &[&[u8]]) -> Result<()> {
    let (mut pattern, mut count) = (&b"*"[..], 10_usize);
    for option in options.chunks(2) {
        match (&option[0].to_ascii_uppercase()[..], option.get(1)) {
            (b"MATCH", Some(value)) => pattern = value,
            (b"COUNT", Some(value)) => count = number(value).ok_or(NOT_A_NUMBER)?,
            _ => return Err(SYNTAX.into()),
        }
    }
    let to = number(cursor).ok_or("ERR invalid cursor")?;
    let to = if to == 0 { data.entries.len() } else { data.entries.len().min(to) };
    let from = to.saturating_sub(count.max(1));
    out.array(b'*', 2)?;
    out.text(from.to_string())?;
    out.texts(b'*', data.keys(from..to).filter(|key| matches(pattern, key)))
}

fn add(data: &mut Data, out: &mut Replies<'_, impl Write>, key: &[u8], by: Option<i64>) -> Result<()> {
    let by = by.ok_or(NOT_A_NUMBER)?;
    let new_key = || Value::Text(b"0".to_vec());
    let Value::Text(text) = data.find_or_insert(key, new_key) else { return Err(WRONG_KIND.into()) };
    let new = number::<i64>(text).ok_or(NOT_A_NUMBER)?.checked_add(by);
    let new = new.ok_or("ERR increment or decrement would overflow")?;
    *text = new.to_string().into_bytes();
    out.number(b':', new)
}

/// When something expires that has so long to live. `SET` does not store what has expired already.
fn expiry(data: &Data, time: &[u8], is_seconds: bool, command: &[u8]) -> Result<u64> {
    let time = number::<i64>(time).ok_or(NOT_A_NUMBER)?;
    let at = time.checked_mul(if is_seconds { 1_000 } else { 1 }).and_then(|time| time.checked_add(data.now as i64));
    let at = at.filter(|_| time > 0 || command != b"SET");
    let error = || format!("ERR invalid expire time in '{}' command", command.to_ascii_lowercase().escape_ascii());
    Ok(at.ok_or_else(error)?.max(0) as u64)
}

fn unknown(name: &[u8], words: &[&[u8]]) -> Error {
    if let Some(known) = COMMANDS.split(' ').find(|known| known.as_bytes().eq_ignore_ascii_case(name)) {
        return format!("ERR wrong number of arguments for '{known}' command").into();
    }
    let shown = |word: &[u8]| word[..word.len().min(SHOWN_MAX)].escape_ascii().to_string();
    let mut args: String = words.iter().take(SHOWN_MAX).map(|word| format!("'{}' ", shown(word))).collect();
    args.truncate(SHOWN_MAX);
    format!("ERR unknown command '{}', with args beginning with: {args}", shown(name)).into()
}

/// Whether a command may need more memory.
pub(crate) fn is_growing(name: &[u8]) -> bool {
    let is_number = matches!(name, b"INCR" | b"DECR" | b"INCRBY");
    is_number
        || matches!(name, b"SET" | b"MSET" | b"LPUSH" | b"RPUSH" | b"HSET" | b"SADD" | b"SUBSCRIBE" | b"PSUBSCRIBE")
}

pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    pattern.dowild_with(text, PATTERNS)
}

/// What patterns have besides `*` and `?`: `[abc]`, `[^a-c]` and `\\`.
const PATTERNS: Options<u8> = Options::<u8>::new().enable_classes_with(b'^').enable_escape(true);
const WRONG_KIND: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";
const SYNTAX: &str = "ERR syntax error";
const NOT_A_NUMBER: &str = "ERR value is not an integer or out of range";
/// How many bytes an error shows of the name of an unknown command, and of its arguments, as in Redis.
const SHOWN_MAX: usize = 128;
/// The commands that need another number of words if they come here.
const COMMANDS: &str = "client config dbsize decr del echo exists expire flushall get hdel hget hgetall hset incr incrby keys \
    llen lpop lpush lrange mset pexpire ping psubscribe pttl publish quit rpop rpush sadd scan select set smembers spop srem \
    subscribe ttl";
