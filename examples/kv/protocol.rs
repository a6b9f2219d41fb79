//! The protocol, RESP: requests in, replies out.

use std::io::{self, Write};

/// Reads a request: an array of binary strings, or a line of words. Appends the words and returns how long the request
/// is, or returns `None` until it is complete. An error is in the words of Redis, and the connection has to end.
pub(crate) fn request<'a>(bytes: &'a [u8], words: &mut Vec<&'a [u8]>) -> Result<Option<usize>, String> {
    if bytes.first() != Some(&b'*') {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            return if bytes.len() > LINE_BYTES_MAX { Err("too big inline request".into()) } else { Ok(None) };
        };
        inline(&bytes[..end], words)?;
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

/// Reads the words of a line. One in quotes may contain spaces. Escapes in quotes are not known: a program can send the
/// same as an array.
fn inline<'a>(mut line: &'a [u8], words: &mut Vec<&'a [u8]>) -> Result<(), String> {
    loop {
        line = line.trim_ascii_start();
        let (from, end) = match line {
            [] => return Ok(()),
            [quote @ (b'"' | b'\''), rest @ ..] => (1, memchr::memchr(*quote, rest).map(|at| at + 1)),
            _ => (0, Some(line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len()))),
        };
        let end = end.ok_or("unbalanced quotes in request")?;
        words.push(&line[from..end]);
        line = &line[end + from..];
        if from > 0 && line.first().is_some_and(|byte| !byte.is_ascii_whitespace()) {
            return Err("unbalanced quotes in request".into());
        }
    }
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

/// Writes replies in version 2 or 3 of the protocol.
pub(crate) struct Replies<'a, W> {
    pub(crate) out: &'a mut W,
    pub(crate) is_resp3: bool,
}

impl<W: Write> Replies<'_, W> {
    /// Writes a letter and a number: an integer (`:`), or the length of a string (`$`) or of an array (`*`).
    pub(crate) fn number(&mut self, kind: u8, number: impl itoa::Integer) -> io::Result<()> {
        self.out.write_all(&[kind])?;
        self.out.write_all(itoa::Buffer::new().format(number).as_bytes())?;
        self.out.write_all(b"\r\n")
    }

    pub(crate) fn simple(&mut self, text: &str) -> io::Result<()> {
        write!(self.out, "+{text}\r\n")
    }

    pub(crate) fn bulk(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.number(b'$', bytes.len())?;
        self.out.write_all(bytes)?;
        self.out.write_all(b"\r\n")
    }

    pub(crate) fn bulk_or_null(&mut self, bytes: Option<&[u8]>) -> io::Result<()> {
        let Some(bytes) = bytes else { return self.out.write_all(if self.is_resp3 { b"_\r\n" } else { b"$-1\r\n" }) };
        self.bulk(bytes)
    }

    /// Begins an array (`*`). In version 3, it can also be a set (`~`), a map (`%`), or what nobody has asked for (`>`).
    pub(crate) fn begin(&mut self, kind: u8, items: usize) -> io::Result<()> {
        match kind {
            _ if !self.is_resp3 => self.number(b'*', items),
            b'%' => self.number(kind, items / 2),
            _ => self.number(kind, items),
        }
    }

    pub(crate) fn array<'i>(&mut self, kind: u8, items: impl IntoIterator<Item = &'i [u8]>) -> io::Result<()> {
        let items: Vec<_> = items.into_iter().collect();
        self.begin(kind, items.len())?;
        items.into_iter().try_for_each(|item| self.bulk(item))
    }
}

/// A request is examined from its beginning each time that a part of it arrives, so it has not too many words.
const WORDS_MAX: usize = 8_192;
pub(crate) const WORD_BYTES_MAX: usize = 16 << 20;
const LINE_BYTES_MAX: usize = 64 * 1024;
const HEADER_BYTES_MAX: usize = 64;
