//! HTTP/1.1 on the wire, RFC 9112: heads and bodies of requests. Whatever two programs could understand in two ways is
//! refused, so that nobody can smuggle a request past a proxy.

use std::fs::File;
use std::net::SocketAddrV6;
use std::ops::Range;
use std::sync::Arc;

use socketserver::{Input, SharedBytes};

/// The status line of an answer. More headers may follow it.
pub(crate) type Status = &'static str;

/// The head of a request.
pub(crate) struct Head<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// The connection ends after the answer.
    pub(crate) closes: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub(crate) waits: bool,
    pub(crate) body: Body,
    pub(crate) range: Option<&'a str>,
    pub(crate) if_range: Option<&'a str>,
    pub(crate) if_modified_since: Option<&'a str>,
}

impl<'a> Head<'a> {
    /// Consumes a head, or returns `None` until it is complete.
    pub(crate) fn read(input: &mut Input<'a>) -> Result<Option<Self>, Status> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut headers);
        let unread = &input.unread()[..input.len().min(HEAD_BYTES_MAX)];
        let length = match parsed.parse(unread) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(_) if unread.len() < HEAD_BYTES_MAX => return Ok(None),
            Ok(_) if parsed.version.is_none() => return Err("414 URI Too Long"),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err("431 Request Header Fields Too Large"),
            Err(httparse::Error::Version) => return Err("505 HTTP Version Not Supported"),
            Err(_) => return Err(BAD),
        };
        check(memchr::memchr_iter(b'\n', &unread[..length]).all(|at| unread[..at].ends_with(b"\r")), BAD)?;
        let (method, is_1_1) = (parsed.method.unwrap_or_default(), parsed.version == Some(1));
        // The values of a header. One that is no text is like none that is known.
        let all = |name: &'static str| {
            let named = parsed.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
            named.map(|header| std::str::from_utf8(header.value).unwrap_or("?"))
        };
        let one = |name| all(name).try_fold(None, |other, value| other.map_or(Ok(Some(value)), |_| Err(BAD)));
        let has = |name, value: &str| {
            all(name).flat_map(|all| all.split(',')).any(|one| one.trim().eq_ignore_ascii_case(value))
        };
        let body = match (one("content-length")?, one("transfer-encoding")?) {
            (None, None) => Body::Bytes(0),
            (Some(digits), None) => Body::Bytes(number(digits.as_bytes(), 10)?),
            (None, Some(coding)) if is_1_1 && coding.eq_ignore_ascii_case("chunked") => Body::Size,
            (None, Some(_)) if is_1_1 => return Err("501 Not Implemented"),
            _ => return Err(BAD),
        };
        check(one("host")?.map_or(!is_1_1, |host| host.is_empty() || is_host(host)), BAD)?;
        check(all("expect").all(|value| value.eq_ignore_ascii_case("100-continue")), "417 Expectation Failed")?;
        let path = path_of(method, parsed.path.unwrap_or_default())?;
        input.consume(length);
        Ok(Some(Head {
            method,
            path,
            closes: has("connection", "close") || !is_1_1 && !has("connection", "keep-alive"),
            waits: is_1_1 && all("expect").next().is_some(),
            body,
            // Only GET has ranges.
            range: all("range").next().filter(|_| method == "GET"),
            if_range: all("if-range").next(),
            // A condition on the entity tag comes first. No file has one, so it does not match.
            if_modified_since: all("if-modified-since").next().filter(|_| all("if-none-match").next().is_none()),
        }))
    }
}

/// The path of a target. This is `/path?query`, or the same after `http://host`.
fn path_of<'a>(method: &str, target: &'a str) -> Result<&'a str, Status> {
    let target = &target[..memchr::memchr2(b'?', b'#', target.as_bytes()).unwrap_or(target.len())];
    // OPTIONS can be about the whole server, `*`, and CONNECT is about another server. No path is equal to these.
    if target.starts_with('/') || matches!(method, "OPTIONS" | "CONNECT") {
        return Ok(target);
    }
    let (scheme, rest) = target.split_once("://").ok_or(BAD)?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    check(matches!(&*scheme.to_ascii_lowercase(), "http" | "https") && is_host(host), BAD)?;
    Ok(if path.is_empty() { "/" } else { path })
}

/// Whether it is a name or an address, perhaps with a port.
fn is_host(text: &str) -> bool {
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte);
    let is_port = |port: &str| port.is_empty() || number(port.as_bytes(), 10).is_ok_and(|port| port <= 65_535);
    let (name, port) = text.split_once(':').unwrap_or((text, ""));
    let is_named = !name.is_empty() && name.bytes().all(in_name) && is_port(port);
    is_named || [text, &format!("{text}:0")].iter().any(|address| address.parse::<SocketAddrV6>().is_ok())
}

/// What is missing of a body.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Body {
    /// So many bytes, and nothing after them.
    Bytes(u64),
    /// In chunks: the line with the size of the next one.
    Size,
    /// So many bytes of a chunk, and the end of its line.
    Chunk(u64),
    /// The headers after the last chunk, of so many bytes at most, and an empty line.
    Trailers(usize),
}

impl Body {
    /// Consumes a part of the body, which is empty at its end. Returns `None` until more has arrived.
    pub(crate) fn read<'a>(&mut self, input: &mut Input<'a>) -> Result<Option<&'a [u8]>, Status> {
        loop {
            match self {
                Body::Bytes(0) => return Ok(Some(&[])),
                Body::Bytes(left) | Body::Chunk(left @ 1..) => return Ok(input.read_part(left)),
                Body::Size | Body::Chunk(_) | Body::Trailers(_) => {}
            }
            let Some(line) = input.read_line().map_err(|_| BAD)? else { return Ok(None) };
            *self = self.after_line(line)?;
        }
    }

    /// What is missing after the next line that is no part of the content.
    fn after_line(&self, line: &[u8]) -> Result<Self, Status> {
        let is_text = |byte: &u8| *byte == b'\t' || !byte.is_ascii_control();
        let text = line.strip_suffix(b"\r\n").filter(|text| text.iter().all(is_text)).ok_or(BAD)?;
        match self {
            // The size ends where extensions begin.
            Body::Size => match number(text.split(|byte| *byte == b';').next().unwrap_or_default(), 16)? {
                0 => Ok(Body::Trailers(TRAILERS_BYTES_MAX)),
                size => Ok(Body::Chunk(size)),
            },
            Body::Chunk(_) if text.is_empty() => Ok(Body::Size),
            Body::Trailers(_) if text.is_empty() => Ok(Body::Bytes(0)),
            Body::Trailers(left) if httparse::parse_headers(line, &mut [httparse::EMPTY_HEADER]).is_ok() => {
                Ok(Body::Trailers(left.checked_sub(line.len()).ok_or(BAD)?))
            }
            _ => Err(BAD),
        }
    }
}

/// An answer. Its headers are those that describe the body. A copy costs nothing.
#[derive(Clone)]
pub(crate) struct Reply {
    pub(crate) status: Status,
    pub(crate) headers: Arc<str>,
    pub(crate) body: Content,
}

#[derive(Clone)]
pub(crate) enum Content {
    Bytes(SharedBytes),
    File(Arc<File>, Range<u64>),
}

impl Reply {
    pub(crate) fn new(status: Status, kind: &str, body: impl Into<SharedBytes>) -> Self {
        let body = body.into();
        let headers = format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len()).into();
        Reply { status, headers, body: Content::Bytes(body) }
    }

    pub(crate) fn error(status: Status) -> Self {
        Reply::new(status, "text/plain", status.lines().next().unwrap_or_default())
    }
}

/// Fails with a status unless all is right.
pub(crate) fn check(is_right: bool, otherwise: Status) -> Result<(), Status> {
    if is_right { Ok(()) } else { Err(otherwise) }
}

/// Reads a number of bytes, which has no sign.
fn number(digits: &[u8], radix: u32) -> Result<u64, Status> {
    let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+')).ok_or(BAD)?;
    u64::from_str_radix(digits, radix).map_err(|_| BAD)
}

pub(crate) const BAD: Status = "400 Bad Request";
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
const TRAILERS_BYTES_MAX: usize = 4 * 1024;
