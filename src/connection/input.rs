//! Received bytes that have not been consumed yet. Like Python's `rfile`, but non-blocking.

use std::io::{self, BufRead, Read};

use super::budget::Budget;
use super::carry::Scan;
use crate::error::{Error, Result};
use crate::limits::Limits;

/// The bytes that a connection has received and its handler has not consumed, `request.input`.
///
/// The bytes are contiguous. Slices returned from the input are valid for the whole callback, not only while the input
/// is borrowed, so a handler can keep a line while it uses the request for something else. Input that is unconsumed
/// when the callback returns is kept, up to [`Limits::input_bytes_max`] bytes. At the next call it precedes the newly
/// arrived input.
///
/// Reading never waits. Where Python's `rfile` would block, the methods here return `None`, and [`Read`] and
/// [`BufRead`] fail with [`io::ErrorKind::WouldBlock`].
///
/// [`read_line`](Self::read_line), [`read_until`](Self::read_until), [`read_exact`](Self::read_exact),
/// [`read_part`](Self::read_part) and [`read_frame`](Self::read_frame) also return `None`, although more may be there,
/// in two cases: while the output is above [`Limits::output_high_water`], and when the callback has used its share of
/// the turn ([`ReactorConfig::turn_length`](crate::ReactorConfig::turn_length)). A loop that answers each message
/// therefore ends when the peer accepts no more answers or when other connections are waiting, and `handle` is called
/// again when the loop may continue. With [`set_full_duplex`](crate::Request::set_full_duplex) the output does not hold
/// the input back.
///
/// Source: `StreamRequestHandler.rfile`.
///
/// ```
/// use socketserver::{testing::Client, Next, Request, RequestHandler, Result};
/// use std::io::Write;
///
/// struct Upper;
/// impl RequestHandler for Upper {
///     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
///         while let Some(line) = request.input.read_line()? {
///             request.output.write_all(&line.to_ascii_uppercase())?;
///         }
///         Ok(Next::Wait)
///     }
/// }
/// let mut client = Client::new(Upper);
/// client.feed(b"one\ntw");
/// client.feed(b"o\n");
/// assert_eq!(client.sent(), b"ONE\nTWO\n");
/// ```
#[derive(Debug)]
pub struct Input<'a> {
    unread: &'a [u8],
    /// How many bytes before these were consumed in this callback.
    consumed: usize,
    /// Its offset counts from the first byte of this callback.
    pub(crate) scan: Scan,
    /// The limits, whether the output is full, and the callback's time budget.
    pub(crate) budget: &'a Budget,
    ended: bool,
    /// Set if a full output does not hold the input back.
    full_duplex: bool,
    /// Set if input was held back because the output was full or the time was used up.
    held_back: bool,
    /// Set if an empty block was read, and nothing has been consumed since.
    gave_empty: bool,
}

impl<'a> Input<'a> {
    #[inline(always)]
    pub(crate) fn new(unread: &'a [u8], scan: Scan, budget: &'a Budget, ended: bool, full_duplex: bool) -> Self {
        Input { unread, consumed: 0, scan, budget, ended, full_duplex, held_back: false, gave_empty: false }
    }

    /// Returns whether input was held back because the output is full or the time is used up.
    #[inline]
    pub(crate) fn was_held_back(&self) -> bool {
        self.held_back
    }

    /// Returns whether reading messages is currently suspended.
    pub(crate) fn is_held(&mut self) -> bool {
        let is_full = !self.full_duplex && self.budget.full.get();
        let held = !self.is_empty() && (is_full || self.has_had_its_share());
        self.held_back |= held;
        held
    }

    /// Each callback may read at least one message.
    fn has_had_its_share(&self) -> bool {
        self.consumed > 0 && self.budget.is_over()
    }

    pub(crate) fn consumed(&self) -> usize {
        self.consumed
    }

    /// Returns all unread bytes without consuming them (a peek).
    pub fn unread(&self) -> &'a [u8] {
        self.unread
    }

    /// Returns the number of unread bytes.
    pub fn len(&self) -> usize {
        self.unread.len()
    }

    /// Returns whether nothing is unread.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether the peer has closed its side and nothing comes after the unread bytes. Returns false while input
    /// is held back because the output is full or the time is used up; `handle` is then called again for the remaining
    /// input.
    pub fn is_eof(&self) -> bool {
        self.ended && !self.held_back
    }

    /// Consumes the first `n` unread bytes, or all of them if there are fewer.
    pub fn consume(&mut self, n: usize) {
        self.take(n.min(self.len()));
    }

    /// Consumes and returns all unread bytes. Source: `socket.recv`.
    pub fn take_all(&mut self) -> &'a [u8] {
        self.take(self.len())
    }

    /// Consumes and returns the next line, including its `\n`. Returns `None` until the line is complete. At the end of
    /// the stream the rest is returned as the last line, as in Python.
    ///
    /// # Errors
    /// [`Error::InputLimit`] if the line is longer than [`Limits::line_bytes_max`].
    ///
    /// Source: `rfile.readline()`, and `for line in rfile`.
    pub fn read_line(&mut self) -> Result<Option<&'a [u8]>> {
        self.read_delimited(b"\n", "line")
    }

    /// Consumes and returns all bytes up to and including `delimiter`, or `None` until it has arrived. At the end of
    /// the stream the rest is returned. Each byte is searched only once, no matter how the input is split.
    ///
    /// # Errors
    /// [`Error::InputLimit`] if the text is longer than [`Limits::line_bytes_max`]; [`Error::Other`] if `delimiter` is
    /// empty.
    pub fn read_until(&mut self, delimiter: &[u8]) -> Result<Option<&'a [u8]>> {
        if delimiter.is_empty() {
            return Err("read_until needs a delimiter of at least one byte".into());
        }
        self.read_delimited(delimiter, "text up to the delimiter")
    }

    /// Consumes and returns exactly `n` bytes, or `None` until they have arrived. If fewer than `n` bytes are left at
    /// the end of the stream, they stay unread and the method keeps returning `None`. An empty block (`n` is 0) is
    /// returned only once. Until other input has been consumed, the method then returns `None`, so that a loop ends.
    ///
    /// # Errors
    /// [`Error::InputLimit`] immediately if `n` is greater than [`Limits::input_bytes_max`], because so many bytes
    /// could never arrive.
    ///
    /// Source: `rfile.read(n)`.
    pub fn read_exact(&mut self, n: usize) -> Result<Option<&'a [u8]>> {
        let max = self.budget.bounds().input_bytes_max;
        if n > max {
            return Err(Error::InputLimit { what: "block", max });
        }
        if n == 0 {
            let again = std::mem::replace(&mut self.gave_empty, true);
            return Ok((!again).then_some(&[]));
        }
        Ok((n <= self.len() && !self.is_held()).then(|| self.take(n)))
    }

    /// Consumes and returns what has arrived of a message of `left` bytes, and subtracts its length from `left`. So a
    /// message that is longer than [`Limits::input_bytes_max`] can be read in parts, for example an upload whose length
    /// was announced. Returns `None` until more has arrived, and when nothing is left.
    ///
    /// Source: `rfile.read1(n)`.
    ///
    /// ```
    /// use socketserver::{testing::Client, Next, Request, RequestHandler, Result};
    /// use std::io::Write;
    ///
    /// struct Upload { left: u64, sum: u64 }
    /// impl RequestHandler for Upload {
    ///     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
    ///         while let Some(part) = request.input.read_part(&mut self.left) {
    ///             self.sum += part.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    ///         }
    ///         if self.left > 0 {
    ///             return Ok(Next::Wait);
    ///         }
    ///         write!(request.output, "{}", self.sum)?;
    ///         Ok(Next::Close)
    ///     }
    /// }
    /// let mut client = Client::new(Upload { left: 5, sum: 0 });
    /// client.feed(&[1, 2]);
    /// client.feed(&[3, 4, 5, 6]); // The last byte is not of this message.
    /// assert_eq!(client.sent(), b"15");
    /// ```
    pub fn read_part(&mut self, left: &mut u64) -> Option<&'a [u8]> {
        let n = self.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        if n == 0 || self.is_held() {
            return None;
        }
        *left -= n as u64;
        Some(self.take(n))
    }

    pub(crate) fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, unread) = self.unread.split_at(n);
        (self.unread, self.consumed) = (unread, self.consumed + n);
        self.gave_empty &= n == 0;
        taken
    }

    fn read_delimited(&mut self, delimiter: &[u8], what: &'static str) -> Result<Option<&'a [u8]>> {
        if self.is_held() {
            return Ok(None);
        }
        let Limits { line_bytes_max: max, .. } = *self.budget.limits;
        let unread = self.unread();
        let needle = hash(delimiter);
        let from = if self.scan.needle == needle { self.scan.after(self.consumed).from } else { 0 };
        let end = match find(&unread[from..], delimiter) {
            Some(at) => from + at + delimiter.len(),
            None => {
                let from = unread.len().saturating_sub(delimiter.len() - 1);
                self.scan = Scan { needle, from: self.consumed + from };
                if !self.ended || unread.is_empty() {
                    return if unread.len() <= max { Ok(None) } else { Err(Error::InputLimit { what, max }) };
                }
                unread.len()
            }
        };
        if end > max {
            return Err(Error::InputLimit { what, max });
        }
        Ok(Some(self.take(end)))
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.len().min(buffer.len());
        buffer[..n].copy_from_slice(self.take(n));
        Ok(n)
    }
}

impl BufRead for Input<'_> {
    /// Returns the unread bytes. The result is empty only at the end of the stream. If nothing is unread before that,
    /// the method fails with [`io::ErrorKind::WouldBlock`].
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.is_empty() && !self.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(self.unread())
    }

    fn consume(&mut self, n: usize) {
        Input::consume(self, n);
    }
}

/// Returns the position of the first occurrence of `needle`. The time is linear in the length of `bytes`, regardless of
/// their content.
fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let mut from = 0;
    for _ in 0..CANDIDATES {
        let at = from + memchr::memchr(needle[0], &bytes[from..])?;
        if bytes[at..].starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
    Some(from + memchr::memmem::find(&bytes[from..], needle)?)
}

/// The number of occurrences of the needle's first byte that are checked individually before `memmem` is used.
/// Preparing `memmem` takes 30 ns, which is more than the search for the end of most messages.
const CANDIDATES: usize = 8;

/// FNV-1a: tells one handler's few needles apart. The needles come from the program, not from a peer.
fn hash(needle: &[u8]) -> u64 {
    needle.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Budget {
        Budget::of(Limits { line_bytes_max: 10, input_bytes_max: 20, ..Limits::default() })
    }

    fn input<'a>(budget: &'a Budget, bytes: &'a [u8], ended: bool) -> Input<'a> {
        Input::new(bytes, Scan::default(), budget, ended, false)
    }

    #[test]
    fn lines_as_python_reads_them() {
        let budget = budget();
        let mut lines = input(&budget, b"a\r\n\nrest", true);
        assert_eq!(lines.read_line().unwrap(), Some(&b"a\r\n"[..]));
        assert_eq!(lines.read_line().unwrap(), Some(&b"\n"[..]));
        assert_eq!(lines.read_line().unwrap(), Some(&b"rest"[..]));
        assert_eq!(lines.read_line().unwrap(), None);
    }

    #[test]
    fn a_line_of_exactly_the_maximum_is_read_and_one_more_is_refused() {
        assert_eq!(input(&budget(), b"123456789\n", false).read_line().unwrap().unwrap().len(), 10);
        assert!(matches!(input(&budget(), b"1234567890\n", false).read_line(), Err(Error::InputLimit { max: 10, .. })));
        assert!(matches!(input(&budget(), b"12345678901", false).read_line(), Err(Error::InputLimit { .. })));
        // It may be the last line, which has no `\n`.
        assert_eq!(input(&budget(), b"1234567890", false).read_line().unwrap(), None);
        assert_eq!(input(&budget(), b"1234567890", true).read_line().unwrap().unwrap().len(), 10);
    }

    #[test]
    fn a_delimiter_may_be_cut_anywhere() {
        let whole = b"ab\r\r\n\r\ncd";
        let mut scan = Scan::default();
        for end in 0..=whole.len() {
            let budget = budget();
            let mut input = input(&budget, &whole[..end], false);
            input.scan = scan;
            let found = input.read_until(b"\r\n\r\n").unwrap();
            assert_eq!(found.is_some(), end >= 7, "{end}");
            scan = input.scan.after(input.consumed);
            if end >= 7 {
                break;
            }
            assert_eq!(scan.from, end.saturating_sub(3), "no byte is searched twice");
        }
    }

    #[test]
    fn a_needle_is_found_behind_any_number_of_false_beginnings() {
        for count in 0..40 {
            let bytes = [b"\r\n".repeat(count).as_slice(), b"\r\r\n\r\nrest"].concat();
            assert_eq!(find(&bytes, b"\r\n\r\nrest"), Some(2 * count + 1), "{count}");
            assert_eq!(find(&bytes, b"\r\n\r\nmore"), None);
        }
    }

    #[test]
    fn another_needle_starts_from_the_beginning() {
        let budget = budget();
        let mut input = input(&budget, b"a;b,c", false);
        assert_eq!(input.read_line().unwrap(), None);
        assert_eq!(input.read_until(b";").unwrap(), Some(&b"a;"[..]));
        assert_eq!(input.read_until(b",").unwrap(), Some(&b"b,"[..]));
        assert!(input.read_until(b"").is_err());
    }

    #[test]
    fn no_needle_is_taken_for_another() {
        for sought in 0..=u8::MAX {
            for other in (0..=u8::MAX).filter(|&other| other != sought) {
                let bytes = [other];
                let budget = budget();
                let mut input = input(&budget, &bytes, false);
                assert_eq!(input.read_until(&[sought]).unwrap(), None);
                assert_eq!(input.read_until(&[other]).unwrap(), Some(&bytes[..]), "after {sought}, {other}");
            }
        }
    }

    #[test]
    fn an_exact_block_waits_or_is_refused() {
        let budget = budget();
        let mut input = input(&budget, b"12345", false);
        assert_eq!(input.read_exact(6).unwrap(), None);
        assert_eq!(input.read_exact(20).unwrap(), None);
        assert!(matches!(input.read_exact(21), Err(Error::InputLimit { max: 20, .. })));
        assert_eq!(input.read_exact(5).unwrap(), Some(&b"12345"[..]));
        assert_eq!(input.read_exact(0).unwrap(), Some(&b""[..]));
    }

    #[test]
    fn a_part_is_what_has_arrived_of_a_message() {
        let budget = budget();
        let mut left = 7;
        let mut first = input(&budget, b"12345", false);
        assert_eq!((first.read_part(&mut left), left), (Some(&b"12345"[..]), 2));
        assert_eq!((first.read_part(&mut left), left), (None, 2));
        let mut second = input(&budget, b"67next", false);
        assert_eq!((second.read_part(&mut left), left), (Some(&b"67"[..]), 0));
        assert_eq!((second.read_part(&mut left), second.unread()), (None, &b"next"[..]));
        // It does not come while the peer does not take its output.
        budget.full.set(true);
        left = u64::MAX;
        assert_eq!((second.read_part(&mut left), left), (None, u64::MAX));
        budget.full.set(false);
        assert_eq!((second.read_part(&mut left), left), (Some(&b"next"[..]), u64::MAX - 4));
    }

    #[test]
    fn std_readers_are_told_to_wait() {
        let budget = budget();
        let mut open = input(&budget, b"", false);
        assert_eq!(open.fill_buf().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let mut ended = input(&budget, b"xy", true);
        let mut text = String::new();
        Read::read_to_string(&mut ended, &mut text).unwrap();
        assert_eq!(text, "xy");
        let mut lines = input(&budget, b"one\ntwo", true);
        let read: Vec<_> = BufRead::lines(&mut lines).map(|line| line.unwrap()).collect();
        assert_eq!(read, ["one", "two"]);
        assert!(lines.is_empty());
    }
}
