//! Frames, lines and other messages as a handler reads them, whatever the bytes and wherever they are cut: the same as
//! those of a parser that has all the bytes at once.

use std::sync::{Arc, Mutex};

use arbitrary::{Arbitrary, Unstructured};
use socketserver::testing::Client;
use socketserver::{EndReason, Error, Limits, Next, Prefix, Request, RequestHandler, Result};

#[derive(Debug, Arbitrary)]
struct Case {
    message: Message,
    max: u8,
    /// Where to cut: how many bytes arrive at a time.
    cuts: Vec<u8>,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug, Arbitrary)]
enum Message {
    Frame(u8),
    Line,
    Until(u8, Option<u8>),
    Block(u8),
}

/// Keeps what it reads.
struct Reader {
    message: Message,
    read: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl RequestHandler for Reader {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        let input = &mut request.input;
        while let Some(message) = match self.message {
            Message::Frame(prefix) => input.read_frame(PREFIXES[usize::from(prefix) % PREFIXES.len()])?,
            Message::Line => input.read_line()?,
            Message::Until(first, second) => input.read_until(&delimiter(first, second))?,
            Message::Block(n) => input.read_exact(usize::from(n).max(1))?,
        } {
            self.read.lock().unwrap().push(message.to_vec());
        }
        Ok(Next::Wait)
    }
}

pub(crate) fn framing(data: &[u8]) {
    let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let mut limits = Limits::default();
    limits.frame_bytes_max = case.max.into();
    limits.line_bytes_max = usize::from(case.max).max(1);
    let read = Arc::new(Mutex::new(Vec::new()));
    let reader = Reader { message: case.message.clone(), read: Arc::clone(&read) };
    let mut client = Client::with_limits((), reader, limits);
    let mut rest = &case.bytes[..];
    for &cut in case.cuts.iter().cycle().take_while(|&&cut| cut > 0) {
        let Some((bytes, behind)) = rest.split_at_checked(cut.into()) else { break };
        client.feed(bytes);
        rest = behind;
    }
    client.feed(rest);
    client.feed_eof();
    let (expected, end) = parse(&case.message, usize::from(case.max), &case.bytes);
    assert_eq!(*read.lock().unwrap(), expected);
    assert_eq!(client.finished(), Some(end));
}

/// All the messages in the bytes, and how the connection then ends.
fn parse(message: &Message, max: usize, mut bytes: &[u8]) -> (Vec<Vec<u8>>, EndReason) {
    let mut messages = Vec::new();
    loop {
        let (begin, end) = match *message {
            Message::Line => (0, delimited(bytes, b"\n")),
            Message::Until(first, second) => (0, delimited(bytes, &delimiter(first, second))),
            Message::Block(n) => (0, Some(usize::from(n).max(1))),
            Message::Frame(prefix) => match stated(bytes, PREFIXES[usize::from(prefix) % PREFIXES.len()]) {
                Ok(Some((_, length))) if length > max as u128 => return (messages, EndReason::InputLimit),
                Ok(stated) => stated.map_or((0, None), |(width, length)| (width, Some(width + length as usize))),
                Err(_) => return (messages, EndReason::InputLimit),
            },
        };
        let is_text = matches!(message, Message::Line | Message::Until(..));
        if is_text && end.is_some_and(|end| end > max.max(1)) {
            return (messages, EndReason::InputLimit);
        }
        let Some(whole) = end.and_then(|end| bytes.get(..end)) else { return (messages, EndReason::PeerClosed) };
        messages.push(whole[begin..].to_vec());
        bytes = &bytes[whole.len()..];
    }
}

/// Where text ends: behind the delimiter, or with the last of the bytes.
fn delimited(bytes: &[u8], delimiter: &[u8]) -> Option<usize> {
    let found = (0..bytes.len()).find(|&at| bytes[at..].starts_with(delimiter)).map(|at| at + delimiter.len());
    found.or(Some(bytes.len())).filter(|&end| end > 0)
}

/// The width of a prefix and the length it states.
fn stated(bytes: &[u8], prefix: Prefix) -> Result<Option<(usize, u128)>> {
    let (width, big_endian) = match prefix {
        Prefix::U8 => (1, true),
        Prefix::U16Be => (2, true),
        Prefix::U16Le => (2, false),
        Prefix::U32Be => (4, true),
        Prefix::U32Le => (4, false),
        Prefix::U64Be => (8, true),
        Prefix::U64Le => (8, false),
        Prefix::Varint => {
            let Some(last) = bytes.iter().take(10).position(|&byte| byte < 0x80) else {
                return if bytes.len() < 10 { Ok(None) } else { Err(Error::Gone) };
            };
            let length = (0..=last).map(|digit| u128::from(bytes[digit] & 0x7f) << (7 * digit)).sum();
            return if length > u64::MAX.into() { Err(Error::Gone) } else { Ok(Some((last + 1, length))) };
        }
    };
    let Some(digits) = bytes.get(..width) else { return Ok(None) };
    let place = |digit: usize| if big_endian { width - 1 - digit } else { digit };
    Ok(Some((width, (0..width).map(|digit| u128::from(digits[digit]) << (8 * place(digit))).sum())))
}

fn delimiter(first: u8, second: Option<u8>) -> Vec<u8> {
    [Some(first), second].into_iter().flatten().collect()
}

const PREFIXES: [Prefix; 8] = [
    Prefix::U8,
    Prefix::U16Be,
    Prefix::U16Le,
    Prefix::U32Be,
    Prefix::U32Le,
    Prefix::U64Be,
    Prefix::U64Le,
    Prefix::Varint,
];
