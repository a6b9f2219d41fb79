//! HTTP/1.1 on the wire, RFC 9112: heads and bodies of requests. Whatever two programs could understand in two ways is
//! refused, so that nobody can smuggle a request past a proxy.

use socketserver::Input;

/// The status line of an error. The connection closes after it.
pub(crate) type Status = &'static str;

/// The head of a request.
#[derive(Default)]
pub(crate) struct Head<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// The client wants the connection to be kept.
    pub(crate) keeps: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub(crate) waits: bool,
    pub(crate) body: Body,
    pub(crate) range: Option<&'a str>,
    pub(crate) if_range: Option<&'a str>,
    pub(crate) if_modified_since: Option<&'a str>,
}

/// What is missing of a body.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Body {
    Bytes(u64),
    /// Chunked: a line with a size comes next, so many bytes, the end of their line, or so many bytes of trailers.
    Size,
    Chunk(u64),
    ChunkEnd,
    Trailers(usize),
}

impl Default for Body {
    fn default() -> Self {
        Body::Bytes(0)
    }
}

pub(crate) enum Part<'a> {
    Bytes(&'a [u8]),
    /// The rest has not arrived.
    Wait,
    End,
}

impl<'a> Head<'a> {
    /// Reads a head, or returns `None` until it is complete.
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
        if !memchr::memchr_iter(b'\n', unread).take_while(|at| *at < length).all(|at| at > 0 && unread[at - 1] == b'\r')
        {
            return Err(BAD);
        }
        let is_1_1 = parsed.version == Some(1);
        let method = parsed.method.unwrap_or_default();
        let mut head =
            Head { method, path: path_of(parsed.path.unwrap_or_default())?, keeps: is_1_1, ..Head::default() };
        let (mut hosts, mut length_of_body, mut is_chunked) = (0, None, false);
        for header in &*parsed.headers {
            let value = std::str::from_utf8(header.value);
            match &header.name.to_ascii_lowercase()[..] {
                "host" => hosts += 1,
                "content-length" => {
                    let digits = value.ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
                    let length = digits.and_then(|text| text.parse().ok()).ok_or(BAD)?;
                    if length_of_body.replace(length).is_some() {
                        return Err(BAD);
                    }
                }
                "transfer-encoding" if is_chunked || !is_1_1 => return Err(BAD),
                "transfer-encoding" if value.is_ok_and(|text| text.eq_ignore_ascii_case("chunked")) => {
                    is_chunked = true
                }
                "transfer-encoding" => return Err("501 Not Implemented"),
                "connection" => {
                    let has = |option| {
                        value.is_ok_and(|text| text.split(',').any(|word| word.trim().eq_ignore_ascii_case(option)))
                    };
                    head.keeps = (head.keeps || has("keep-alive")) && !has("close");
                }
                "expect" if value.is_ok_and(|text| text.eq_ignore_ascii_case("100-continue")) => head.waits = is_1_1,
                "expect" => return Err("417 Expectation Failed"),
                "range" => head.range = value.ok(),
                "if-range" => head.if_range = Some(value.unwrap_or_default()),
                "if-modified-since" => head.if_modified_since = value.ok(),
                _ => {}
            }
        }
        head.body = match (length_of_body, is_chunked) {
            _ if hosts > 1 || is_1_1 && hosts == 0 => return Err(BAD),
            (Some(_), true) => return Err(BAD),
            (_, true) => Body::Size,
            (length, false) => Body::Bytes(length.unwrap_or(0)),
        };
        input.consume(length);
        Ok(Some(head))
    }
}

/// The path of a request's target, without its query.
fn path_of(target: &str) -> Result<&str, Status> {
    let path = match target.strip_prefix("http://") {
        Some(rest) => &rest[rest.find('/').ok_or(BAD)?..],
        None => target,
    };
    let path = path.split(['?', '#']).next().unwrap_or_default();
    if path.starts_with('/') { Ok(path) } else { Err(BAD) }
}

impl Body {
    /// Consumes a part of the body.
    pub(crate) fn read<'a>(&mut self, input: &mut Input<'a>) -> Result<Part<'a>, Status> {
        loop {
            *self = match *self {
                Body::Bytes(0) => return Ok(Part::End),
                Body::Bytes(_) | Body::Chunk(_) if input.is_empty() => return Ok(Part::Wait),
                Body::Chunk(0) => Body::ChunkEnd,
                Body::Bytes(left) | Body::Chunk(left) => {
                    let part = &input.unread()[..input.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
                    input.consume(part.len());
                    let left = left - part.len() as u64;
                    *self = if let Body::Bytes(_) = self { Body::Bytes(left) } else { Body::Chunk(left) };
                    return Ok(Part::Bytes(part));
                }
                Body::Size | Body::ChunkEnd | Body::Trailers(_) => {
                    let Some(line) = line(input)? else { return Ok(Part::Wait) };
                    match *self {
                        Body::Size => size(line)?,
                        Body::ChunkEnd if line.is_empty() => Body::Size,
                        Body::Trailers(_) if line.is_empty() => Body::Bytes(0),
                        Body::Trailers(left) => Body::Trailers(left.checked_sub(line.len()).ok_or(BAD)?),
                        _ => return Err(BAD),
                    }
                }
            }
        }
    }
}

/// Consumes a line, and returns it without its end.
fn line<'a>(input: &mut Input<'a>) -> Result<Option<&'a [u8]>, Status> {
    let unread = &input.unread()[..input.len().min(LINE_BYTES_MAX)];
    match memchr::memchr(b'\n', unread) {
        None if unread.len() < LINE_BYTES_MAX => Ok(None),
        None => Err(BAD),
        Some(end) => {
            let line = unread[..end].strip_suffix(b"\r").filter(|line| !line.iter().any(u8::is_ascii_control));
            input.consume(end + 1);
            line.map(Some).ok_or(BAD)
        }
    }
}

/// Reads the size of a chunk. Extensions after it are ignored.
fn size(line: &[u8]) -> Result<Body, Status> {
    let digits = line.split(|byte| *byte == b';').next().filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
    match digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or(BAD)? {
        0 => Ok(Body::Trailers(LINE_BYTES_MAX)),
        size => Ok(Body::Chunk(size)),
    }
}

pub(crate) const BAD: Status = "400 Bad Request";
/// The only status whose answer has no length.
pub(crate) const NOT_MODIFIED: Status = "304 Not Modified";
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
const LINE_BYTES_MAX: usize = 4 * 1024;
