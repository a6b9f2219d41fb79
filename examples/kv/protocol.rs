//! The protocol, RESP: requests in, replies out.

use std::io::Write;

use socketserver::Result;

/// How much of a request has arrived, if it is an array. It is not read again from its beginning when more arrives.
#[derive(Default)]
pub(crate) struct Arrived {
    /// Where the next word begins.
    bytes: usize,
    words_missing: usize,
}

impl Arrived {
    /// Reads a request: an array of binary strings, or a line of words. Appends the words and returns how long the
    /// request is, or returns `None` until it is complete. An error is in the words of Redis, and the connection has to
    /// end.
    pub(crate) fn request<'a>(&mut self, bytes: &'a [u8], words: &mut Vec<&'a [u8]>) -> Result<Option<usize>, String> {
        if bytes.first() != Some(&b'*') {
            return match memchr::memchr(b'\n', bytes) {
                Some(end) => inline(&bytes[..end], words).map(|()| Some(end + 1)),
                None if bytes.len() > LINE_BYTES_MAX => Err("too big inline request".into()),
                None => Ok(None),
            };
        }
        let begun = (self.words_missing, &bytes[self.bytes..]);
        let begun = if self.bytes > 0 { Some(begun) } else { header(bytes, b'*', WORDS_MAX)? };
        let Some((mut missing, mut rest)) = begun else { return Ok(None) };
        while missing > 0 {
            let header = header(rest, b'$', WORD_BYTES_MAX)?;
            let word = header.and_then(|(length, text)| Some((length, text.split_at_checked(length + 2)?)));
            let Some((length, (word, after))) = word else {
                *self = Arrived { bytes: bytes.len() - rest.len(), words_missing: missing };
                return Ok(None);
            };
            words.push(&word[..length]);
            (missing, rest) = (missing - 1, after);
        }
        if std::mem::take(self).bytes > 0 {
            // It is complete, but here are only the words that came last. So it is read once more.
            words.clear();
            return self.request(bytes, words);
        }
        Ok(Some(bytes.len() - rest.len()))
    }
}

/// Reads the words of a line. One in quotes may contain spaces. Escapes in quotes are not known: a program can send the
/// same as an array.
fn inline<'a>(line: &'a [u8], words: &mut Vec<&'a [u8]>) -> Result<(), String> {
    let mut rest = line.trim_ascii();
    while let [first, after @ ..] = rest {
        let (word, next) = if let b'"' | b'\'' = first {
            let end = memchr::memchr(*first, after).ok_or(UNBALANCED)?;
            (&after[..end], &after[end + 1..])
        } else {
            rest.split_at(rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len()))
        };
        if next.first().is_some_and(|byte| !byte.is_ascii_whitespace()) {
            return Err(UNBALANCED.into());
        }
        words.push(word);
        rest = next.trim_ascii_start();
    }
    Ok(())
}

/// Reads a header, which is a line of a letter and a number. Returns the number, and the bytes after the line. There are
/// many, and most have a few digits, so these are read without a call.
#[inline(always)]
fn header(bytes: &[u8], kind: u8, max: usize) -> Result<Option<(usize, &[u8])>, String> {
    let digits = bytes.iter().skip(1).take(DIGITS_MAX).take_while(|byte| byte.is_ascii_digit());
    let (number, end) = digits.fold((0, 1), |(number, end), digit| (10 * number + usize::from(digit - b'0'), end + 1));
    match bytes {
        [first, b'1'..=b'9', ..] if *first == kind && number <= max && matches!(bytes[end..], [b'\r', _, ..]) => {
            Ok(Some((number, &bytes[end + 2..])))
        }
        _ => odd_header(bytes, kind),
    }
}

/// Reads a header that is zero, negative, incomplete or wrong.
#[cold]
fn odd_header(bytes: &[u8], kind: u8) -> Result<Option<(usize, &[u8])>, String> {
    let (what, line) = if kind == b'*' { ("multibulk", "mbulk") } else { ("bulk", "bulk") };
    match bytes.iter().take(HEADER_BYTES_MAX).position(|&byte| byte == b'\r') {
        None if bytes.len() >= HEADER_BYTES_MAX => Err(format!("too big {line} count string")),
        Some(_) if bytes[0] != kind => Err(format!("expected '{}', got '{}'", kind as char, bytes[0].escape_ascii())),
        Some(end) if end + 1 < bytes.len() => match number::<i64>(&bytes[1..end]) {
            Some(count) if count == 0 || count < 0 && kind == b'*' => Ok(Some((0, &bytes[end + 2..]))),
            _ => Err(format!("invalid {what} length")),
        },
        _ => Ok(None),
    }
}

/// Reads a whole number in the only way to write it: `05`, `+5` and `-0` are none.
pub(crate) fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    match text {
        [b'+', ..] | [b'0', _, ..] | [b'-', b'0', ..] => None,
        _ => std::str::from_utf8(text).ok()?.parse().ok(),
    }
}

/// Writes replies in version 2 or 3 of the protocol.
pub(crate) struct Replies<'a, W> {
    pub(crate) out: &'a mut W,
    pub(crate) is_resp3: bool,
}

impl<W: Write> Replies<'_, W> {
    /// Writes a complete line.
    pub(crate) fn line(&mut self, line: &str) -> Result<()> {
        Ok(self.out.write_all(line.as_bytes())?)
    }

    /// Writes a letter and a number: an integer (`:`), or the length of a text (`$`).
    #[inline(always)]
    pub(crate) fn number(&mut self, kind: u8, number: impl itoa::Integer) -> Result<()> {
        self.out.write_all(&[kind])?;
        self.out.write_all(itoa::Buffer::new().format(number).as_bytes())?;
        self.line("\r\n")
    }

    pub(crate) fn text(&mut self, text: impl AsRef<[u8]>) -> Result<()> {
        let text = text.as_ref();
        self.number(b'$', text.len())?;
        self.out.write_all(text)?;
        self.line("\r\n")
    }

    pub(crate) fn text_or_null(&mut self, text: Option<impl AsRef<[u8]>>) -> Result<()> {
        let Some(text) = text else { return self.line(if self.is_resp3 { "_\r\n" } else { "$-1\r\n" }) };
        self.text(text)
    }

    /// Begins an array (`*`). In version 3, it can also be a set (`~`), a map (`%`), or what nobody has asked for (`>`).
    pub(crate) fn array(&mut self, kind: u8, items: usize) -> Result<()> {
        let items = if self.is_resp3 && kind == b'%' { items / 2 } else { items };
        self.number(if self.is_resp3 { kind } else { b'*' }, items)
    }

    pub(crate) fn texts<T: AsRef<[u8]>>(&mut self, kind: u8, texts: impl IntoIterator<Item = T>) -> Result<()> {
        let texts: Vec<_> = texts.into_iter().collect();
        self.array(kind, texts.len())?;
        texts.into_iter().try_for_each(|text| self.text(text))
    }
}

pub(crate) const OK: &str = "+OK\r\n";
const UNBALANCED: &str = "unbalanced quotes in request";
const WORDS_MAX: usize = 1024 * 1024;
pub(crate) const WORD_BYTES_MAX: usize = 16 << 20;
const LINE_BYTES_MAX: usize = 64 * 1024;
const HEADER_BYTES_MAX: usize = 64;
const DIGITS_MAX: usize = 8;
