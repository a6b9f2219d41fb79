//! The protocol, RESP2: requests in, replies out.

use std::io::{self, Write};

/// Reads a request: an array of binary strings, or a line of words. Appends the words and returns how long the request
/// is, or returns `None` until it is complete. An error is in the words of Redis, and the connection has to end.
pub(crate) fn request<'a>(bytes: &'a [u8], words: &mut Vec<&'a [u8]>) -> Result<Option<usize>, String> {
    if bytes.first() != Some(&b'*') {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            return if bytes.len() > LINE_BYTES_MAX { Err("too big inline request".into()) } else { Ok(None) };
        };
        words.extend(bytes[..end].split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()));
        return Ok(Some(end + 1));
    }
    let Some((count, mut at)) = header(bytes, b'*', WORDS_MAX, "multibulk", "mbulk")? else { return Ok(None) };
    for _ in 0..count {
        let Some((length, from)) = header(&bytes[at..], b'$', WORD_BYTES_MAX, "bulk", "bulk")? else { return Ok(None) };
        let Some(word) = bytes[at + from..].get(..length + 2) else { return Ok(None) };
        words.push(&word[..length]);
        at += from + length + 2;
    }
    Ok(Some(at))
}

/// Reads a line of a letter and a number. Returns the number, and where the next line begins.
fn header(bytes: &[u8], kind: u8, max: usize, what: &str, line: &str) -> Result<Option<(usize, usize)>, String> {
    match bytes.iter().take(HEADER_BYTES_MAX).position(|&byte| byte == b'\r') {
        Some(_) if bytes[0] != kind => Err(format!("expected '{}', got '{}'", kind as char, bytes[0].escape_ascii())),
        Some(end) if end + 1 < bytes.len() => {
            let number = number(&bytes[1..end]).map(|number| if kind == b'*' { number.max(0) } else { number });
            let number = number.and_then(|number| usize::try_from(number).ok()).filter(|&number| number <= max);
            Ok(Some((number.ok_or_else(|| format!("invalid {what} length"))?, end + 2)))
        }
        None if bytes.len() >= HEADER_BYTES_MAX => Err(format!("too big {line} count string")),
        _ => Ok(None),
    }
}

/// Reads a whole number. A plus sign is not allowed.
pub(crate) fn number(text: &[u8]) -> Option<i64> {
    if text.starts_with(b"+") { None } else { std::str::from_utf8(text).ok()?.parse().ok() }
}

/// Replies, for anything that bytes can be written to.
pub(crate) trait Reply: Write {
    /// Writes a letter and a number: an integer (`:`), or the length of a string (`$`) or of an array (`*`).
    fn number(&mut self, kind: u8, number: impl itoa::Integer) -> io::Result<()> {
        self.write_all(&[kind])?;
        self.write_all(itoa::Buffer::new().format(number).as_bytes())?;
        self.write_all(b"\r\n")
    }
    fn bulk(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.number(b'$', bytes.len())?;
        self.write_all(bytes)?;
        self.write_all(b"\r\n")
    }
    fn bulk_or_null(&mut self, bytes: Option<&[u8]>) -> io::Result<()> {
        if let Some(bytes) = bytes { self.bulk(bytes) } else { self.write_all(b"$-1\r\n") }
    }
    fn array<'a>(&mut self, mut items: impl ExactSizeIterator<Item = &'a [u8]>) -> io::Result<()> {
        self.number(b'*', items.len())?;
        items.try_for_each(|item| self.bulk(item))
    }
}

impl<W: Write> Reply for W {}

/// A request is examined from its beginning each time that a part of it arrives, so it has not too many words.
const WORDS_MAX: usize = 8_192;
pub(crate) const WORD_BYTES_MAX: usize = 16 << 20;
const LINE_BYTES_MAX: usize = 64 * 1024;
const HEADER_BYTES_MAX: usize = 64;
