//! A web server: files, JSON, uploads, and a page that shows the reactor at work.
//!
//! ```text
//! cargo run --release --example web           # or: ... web -- 127.0.0.1:0 --root DIRECTORY --log-level debug
//! curl -i http://127.0.0.1:8080/stats         # counters as JSON; /metrics for Prometheus
//! curl -i -r 0-99 http://127.0.0.1:8080/files/README.md
//! curl -T README.md http://127.0.0.1:8080/upload
//! ```
//!
//! and <http://127.0.0.1:8080/> in a browser. `http.rs` has the protocol, `files.rs` the files, `live.rs` the figures.
//!
//! Files are read on the reactor's thread, which is right for files that are in memory or on a fast disk. A server of
//! files on a network should open and read them with `offload`.

#[path = "../common/mod.rs"]
mod common;
mod files;
mod http;
mod live;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{BAD, Body, Head, NOT_MODIFIED, Part, Status};
use socketserver::{
    Address, BaseServer, ConnectionLimits, EndReason, Error, Next, Others, Request, RequestHandler, Result,
    SharedBytes, TcpServer, Timeout,
};

/// What all connections share.
struct Web {
    root: PathBuf,
    upload_bytes_max: u64,
    message_timeout: Option<Duration>,
    live: live::Live,
    /// The value of the header `Date`.
    date: String,
    /// Small files with their headers, for at most a second.
    cached: HashMap<String, (Arc<str>, SharedBytes)>,
}

impl BaseServer for Web {
    fn timer(&mut self, others: &mut Others<'_, Self>, _: u64) {
        self.date = httpdate::fmt_http_date(SystemTime::now());
        self.cached.clear();
        self.live.sample(others);
    }

    fn close_request(&mut self, _: &Address, why: EndReason) {
        *self.live.ends.entry(why).or_default() += 1;
    }
}

/// A connection: whether it is kept after this answer, whether the answer has no body, and what is going on.
struct Http {
    keeps: bool,
    is_head: bool,
    doing: Doing,
}

enum Doing {
    Requests,
    /// The rest of a body, and how many bytes of it have arrived, with their FNV-1a hash.
    Upload(Body, u64, u64),
    Events,
}

impl RequestHandler<Web> for Http {
    fn handle(&mut self, request: &mut Request<'_, Web>) -> Result<Next> {
        while !request.output.is_full() {
            match &mut self.doing {
                Doing::Requests if !self.keeps => return Ok(Next::Close),
                Doing::Requests => match Head::read(&mut request.input) {
                    Ok(None) => break,
                    Ok(Some(head)) => self.answer(request, &head)?,
                    Err(status) => self.refuse(request, status)?,
                },
                Doing::Upload(body, bytes, hash) => match body.read(&mut request.input) {
                    Ok(Part::Wait) => break,
                    Ok(Part::Bytes(part)) => {
                        let before = *bytes;
                        *bytes += part.len() as u64;
                        *hash = part.iter().fold(*hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME));
                        if *bytes > request.server.upload_bytes_max {
                            self.refuse(request, TOO_LARGE)?;
                        } else if before / RATE_BYTES != *bytes / RATE_BYTES {
                            request.set_message_deadline(request.server.message_timeout);
                        }
                    }
                    Ok(Part::End) => {
                        let json = format!("{{\"bytes\":{bytes},\"fnv1a\":\"{hash:016x}\"}}\n");
                        request.set_message_deadline(None);
                        self.doing = Doing::Requests;
                        self.reply(request, "200 OK", JSON, json.as_bytes())?;
                    }
                    Err(status) => self.refuse(request, status)?,
                },
                Doing::Events => {
                    request.input.take_all();
                    break;
                }
            }
        }
        Ok(Next::Wait)
    }

    fn writable(&mut self, request: &mut Request<'_, Web>) -> Result<Next> {
        self.handle(request)
    }

    fn eof(&mut self, _: &mut Request<'_, Web>) -> Result<Next> {
        Ok(Next::Close)
    }

    fn drain(&mut self, _: &mut Request<'_, Web>) -> Result<Next> {
        self.keeps = false;
        Ok(if let Doing::Upload(..) = self.doing { Next::Wait } else { Next::Close })
    }

    fn timed_out(&mut self, request: &mut Request<'_, Web>, timeout: Timeout) -> Result<Next> {
        match timeout {
            Timeout::Write => return Ok(Next::Abort),
            // The next request waits for a file that a slow client still reads.
            Timeout::Read if !request.output.is_empty() => return Ok(Next::Wait),
            Timeout::Read | Timeout::Message => self.refuse(request, "408 Request Timeout")?,
            _ => {}
        }
        Ok(Next::Close)
    }

    fn finish(&mut self, request: &mut Request<'_, Web>, _: EndReason) {
        let id = request.id();
        request.server.live.viewers.remove(&id);
    }
}

impl Http {
    fn answer(&mut self, request: &mut Request<'_, Web>, head: &Head<'_>) -> Result<()> {
        request.server.live.messages += 1;
        self.keeps = head.keeps;
        self.is_head = head.method == "HEAD";
        match (head.method, head.path) {
            ("POST" | "PUT", "/upload") => {
                if matches!(head.body, Body::Bytes(length) if length > request.server.upload_bytes_max) {
                    return self.refuse(request, TOO_LARGE);
                }
                if head.waits {
                    request.output.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
                }
                request.set_message_deadline(request.server.message_timeout);
                self.doing = Doing::Upload(head.body, 0, FNV_BASIS);
                Ok(())
            }
            _ if head.body != Body::Bytes(0) => self.refuse(request, BAD),
            ("GET" | "HEAD", "/") => self.reply(request, "200 OK", HTML, include_bytes!("page.html")),
            ("GET" | "HEAD", "/page.css") => self.reply(request, "200 OK", CSS, include_bytes!("page.css")),
            ("GET" | "HEAD", "/page.js") => self.reply(request, "200 OK", JS, include_bytes!("page.js")),
            ("GET" | "HEAD", "/stats") => {
                let json = request.server.live.history();
                self.reply(request, "200 OK", JSON, json.as_bytes())
            }
            ("GET" | "HEAD", "/metrics") => {
                let text = request.server.live.metrics(&request.others.stats());
                self.reply(request, "200 OK", "Content-Type: text/plain; version=0.0.4\r\n", text.as_bytes())
            }
            ("GET", "/events") => self.show(request),
            ("GET" | "HEAD", path) if path.starts_with("/files/") => self.file(request, path, head),
            ("GET" | "HEAD", _) => self.reply(request, "404 Not Found", TEXT, b"404 Not Found\n"),
            ("POST" | "PUT" | "DELETE" | "OPTIONS" | "PATCH", _) => self.refuse(request, "405 Method Not Allowed"),
            _ => self.refuse(request, "501 Not Implemented"),
        }
    }
}

impl Http {
    /// Writes the head of an answer.
    fn head(&mut self, request: &mut Request<'_, Web>, status: Status, headers: &str, length: u64) -> Result<()> {
        self.keeps &= !request.is_stopping();
        let (date, close) = (&request.server.date, if self.keeps { "" } else { "Connection: close\r\n" });
        write!(request.output, "HTTP/1.1 {status}\r\nDate: {date}\r\n{headers}{close}")?;
        match status {
            NOT_MODIFIED => Ok(request.output.write_all(b"\r\n")?),
            _ => Ok(write!(request.output, "Content-Length: {length}\r\n\r\n")?),
        }
    }

    fn reply(&mut self, request: &mut Request<'_, Web>, status: Status, headers: &str, body: &[u8]) -> Result<()> {
        self.head(request, status, headers, body.len() as u64)?;
        if !self.is_head {
            request.output.write_all(body)?;
        }
        Ok(())
    }

    /// Answers with an error, after which nothing that the client sends can be trusted to be a request.
    fn refuse(&mut self, request: &mut Request<'_, Web>, status: Status) -> Result<()> {
        (self.keeps, self.is_head, self.doing) = (false, false, Doing::Requests);
        self.reply(request, status, TEXT, status.as_bytes())
    }

    /// Answers with a file, or a part of it.
    fn file(&mut self, request: &mut Request<'_, Web>, path: &str, head: &Head<'_>) -> Result<()> {
        let is_whole = head.range.or(head.if_modified_since).is_none();
        if let Some((headers, body)) = request.server.cached.get(path).cloned().filter(|_| is_whole) {
            return self.reply(request, "200 OK", &headers, &body);
        }
        let mut found = match files::open(&request.server.root, &path["/files/".len()..], head) {
            Ok(found) => found,
            Err(status) => return self.reply(request, status, TEXT, status.as_bytes()),
        };
        let (mut body, length) = (Vec::new(), found.part.end - found.part.start);
        let is_small = is_whole && length <= CACHED_BYTES_MAX && request.server.cached.len() < CACHED_MAX;
        if is_small && found.file.read_to_end(&mut body).is_ok_and(|read| read as u64 == length) {
            self.reply(request, found.status, &found.headers, &body)?;
            request.server.cached.insert(path.to_owned(), (found.headers.into(), body.into()));
            return Ok(());
        }
        self.head(request, found.status, &found.headers, length)?;
        if self.is_head { Ok(()) } else { request.output.write_file(found.file, found.part) }
    }

    /// Begins a stream of events, with the samples so far. A page that does not read them is dropped early.
    fn show(&mut self, request: &mut Request<'_, Web>) -> Result<()> {
        let mut limits = ConnectionLimits::default();
        limits.output_bytes_max = Some(EVENT_BYTES_MAX);
        request.set_limits(&limits)?;
        request.set_timeout(Timeout::Idle, None);
        let id = request.id();
        request.server.live.viewers.insert(id);
        self.doing = Doing::Events;
        let (date, samples) = (&request.server.date, request.server.live.history());
        write!(request.output, "HTTP/1.1 200 OK\r\nDate: {date}\r\n{EVENTS}\r\nevent: history\ndata: {samples}\n\n")?;
        Ok(())
    }
}

/// Serves files, uploads, and a page about itself
#[derive(clap::Parser)]
struct Args {
    /// Where to listen; port 0 lets the system choose
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:8080")]
    address: String,
    /// The folder whose files are served as /files/NAME
    #[arg(long, value_name = "DIRECTORY", default_value = ".")]
    root: PathBuf,
    /// The longest body of an upload
    #[arg(long, value_name = "BYTES", default_value = "1073741824")]
    upload_bytes_max: u64,
    #[command(flatten)]
    options: common::Options,
}

fn main() -> ExitCode {
    common::run(|args: Args| {
        let failed = |error| format!("cannot open {}: {:#}", args.root.display(), Error::from(error));
        let root = args.root.canonicalize().map_err(failed)?;
        let web = Web {
            root,
            upload_bytes_max: args.upload_bytes_max,
            message_timeout: args.options.message_timeout(),
            live: live::Live::default(),
            date: httpdate::fmt_http_date(SystemTime::now()),
            cached: HashMap::new(),
        };
        let new = |_: &mut Web, _: &Address| Http { keeps: true, is_head: false, doing: Doing::Requests };
        let mut server = TcpServer::with_server(args.address, web, new)?;
        server.set_interval(0, Duration::from_secs(1));
        args.options.serve(server)
    })
}

const TEXT: &str = "Content-Type: text/plain\r\n";
const JSON: &str = "Content-Type: application/json\r\n";
const EVENTS: &str = "Content-Type: text/event-stream\r\nCache-Control: no-store\r\n";
const HTML: &str =
    "Content-Type: text/html; charset=utf-8\r\nContent-Security-Policy: default-src 'self'; img-src data:\r\n";
const CSS: &str = "Content-Type: text/css\r\n";
const JS: &str = "Content-Type: text/javascript\r\n";
const TOO_LARGE: Status = "413 Content Too Large";
const CACHED_MAX: usize = 1_000;
const CACHED_BYTES_MAX: u64 = 16 * 1024;
/// An upload is given time again for each so many bytes.
const RATE_BYTES: u64 = 64 * 1024;
const EVENT_BYTES_MAX: usize = 256 * 1024;
const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x100_0000_01b3;
