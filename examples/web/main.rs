//! A web server: files, JSON, uploads, and a page that shows the reactor at work.
//!
//! ```text
//! cargo run --release --example web           # or: ... web -- 127.0.0.1:8443 --root DIRECTORY --self-signed
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

use std::hash::Hasher as _;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use common::metrics;
use files::Files;
use fnv::FnvHasher;
use http::{BAD, Body, Content, Head, Reply, Status, check};
use live::{Live, Viewer};
use socketserver::{
    Address, BaseServer, EndReason, Error, Next, Others, Request, RequestHandler, Result, TcpOptions, TcpServer,
    Timeout,
};

/// What all connections share.
struct Web {
    files: Files,
    upload_bytes_max: u64,
    message_timeout: Option<Duration>,
    live: Live,
    /// The value of the header `Date`.
    date: String,
}

impl BaseServer for Web {
    fn timer(&mut self, others: &mut Others<'_, Self>, _: u64) {
        self.date = httpdate::fmt_http_date(SystemTime::now());
        self.files.kept.clear();
        self.live.sample(others);
    }

    fn close_request(&mut self, _: &Address, why: EndReason) {
        *self.live.ends.entry(why).or_default() += 1;
    }
}

/// A connection.
#[derive(Default)]
struct Http {
    closes: bool,
    /// The answer has no body.
    is_head: bool,
    upload: Option<Upload>,
}

impl RequestHandler<Web> for Http {
    fn handle(&mut self, request: &mut Request<'_, Web>) -> Result<Next> {
        let mut next = Next::Wait;
        while next == Next::Wait && !request.output.is_full() {
            next = match self.reply(request) {
                Ok(Some(reply)) => self.send(request, reply)?,
                Ok(None) => break,
                Err(status) => self.refuse(request, status)?,
            };
        }
        Ok(next)
    }

    fn drain(&mut self, _: &mut Request<'_, Web>) -> Result<Next> {
        Ok(if self.upload.is_some() { Next::Wait } else { Next::Close })
    }

    fn timed_out(&mut self, request: &mut Request<'_, Web>, timeout: Timeout) -> Result<Next> {
        match timeout {
            Timeout::Read | Timeout::Message => self.refuse(request, "408 Request Timeout"),
            Timeout::Write => Ok(Next::Abort),
            _ => Ok(Next::Close),
        }
    }
}

impl Http {
    /// Returns the next answer, or `None` until more has arrived.
    fn reply(&mut self, request: &mut Request<'_, Web>) -> Result<Option<Reply>, Status> {
        if let Some(upload) = &mut self.upload {
            return upload.read(request);
        }
        // Known before the head is, which may be refused.
        self.is_head = request.input.unread().trim_ascii_start().starts_with(b"HEAD ");
        let Some(head) = Head::read(&mut request.input)? else { return Ok(None) };
        self.answer(request, &head)
    }

    fn answer(&mut self, request: &mut Request<'_, Web>, head: &Head<'_>) -> Result<Option<Reply>, Status> {
        self.closes = head.closes;
        request.server.live.requests += 1;
        Ok(Some(match (head.method, head.path) {
            ("POST" | "PUT", "/upload") => return self.begin_upload(request, head),
            (_, "/upload") => return Err(WRITE_ONLY),
            ("GET" | "HEAD", _) if head.body != Body::Bytes(0) => return Err(BAD),
            ("GET" | "HEAD", "/ready" | "/events") if request.is_stopping() => return Err("503 Service Unavailable"),
            ("GET", "/events") => return show_live(request),
            ("GET" | "HEAD", "/") => Reply::new("200 OK", HTML, include_bytes!("page.html")),
            ("GET" | "HEAD", "/page.css") => Reply::new("200 OK", "text/css", include_bytes!("page.css")),
            ("GET" | "HEAD", "/page.js") => Reply::new("200 OK", "text/javascript", include_bytes!("page.js")),
            ("GET" | "HEAD", "/stats") => Reply::new("200 OK", JSON, request.server.live.history()),
            ("GET" | "HEAD", "/metrics") => {
                Reply::new("200 OK", metrics::TEXT_FORMAT, request.server.live.metrics(&request.others.stats()))
            }
            ("GET" | "HEAD", "/ready") => Reply::new("200 OK", "text/plain", "ready\n"),
            ("GET" | "HEAD", path) => match path.strip_prefix("/files/") {
                Some(name) => request.server.files.find(name, head).unwrap_or_else(Reply::error),
                None => Reply::error("404 Not Found"),
            },
            ("POST" | "PUT" | "DELETE" | "OPTIONS" | "PATCH", _) => return Err(READ_ONLY),
            _ => return Err("501 Not Implemented"),
        }))
    }

    fn begin_upload(&mut self, request: &mut Request<'_, Web>, head: &Head<'_>) -> Result<Option<Reply>, Status> {
        check(!matches!(head.body, Body::Bytes(length) if length > request.server.upload_bytes_max), TOO_LARGE)?;
        if head.waits {
            request.output.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").map_err(|_| BAD)?;
        }
        request.set_message_deadline(request.server.message_timeout);
        self.upload = Some(Upload { rest: head.body, bytes: 0, hash: FnvHasher::default() });
        self.reply(request)
    }

    fn send(&mut self, request: &mut Request<'_, Web>, reply: Reply) -> Result<Next> {
        self.upload = None;
        self.closes |= request.is_stopping();
        // Clients of HTTP/1.0 wait for the end of the connection unless they are told that it is kept.
        let end = if self.closes { "Connection: close\r\n\r\n" } else { "Connection: keep-alive\r\n\r\n" };
        let (status, headers, date) = (reply.status, reply.headers, &request.server.date);
        write!(request.output, "HTTP/1.1 {status}\r\nDate: {date}\r\n{headers}{end}")?;
        match reply.body {
            _ if self.is_head => {}
            Content::Bytes(bytes) => request.output.write_shared(bytes)?,
            Content::File(file, part) => request.output.write_file(file, part)?,
        }
        if !self.closes {
            return Ok(Next::Wait);
        }
        request.shutdown_write(); // The FIN leaves with the answer, in one segment.
        Ok(Next::Close)
    }

    /// Answers with an error, after which nothing that the client sends can be trusted to be a request.
    fn refuse(&mut self, request: &mut Request<'_, Web>, status: Status) -> Result<Next> {
        self.closes = true;
        self.send(request, Reply::error(status))
    }
}

/// Begins a stream of events, with the samples so far. A [`Viewer`] takes over the connection.
fn show_live(request: &mut Request<'_, Web>) -> Result<Option<Reply>, Status> {
    let (date, samples) = (&request.server.date, request.server.live.history());
    let head = format!("HTTP/1.1 200 OK\r\nDate: {date}\r\n{EVENTS}Connection: close\r\n\r\n");
    write!(request.output, "{head}event: history\ndata: {samples}\n\n").map_err(|_| BAD)?;
    request.server.live.viewers.insert(request.id());
    request.set_timeout(Timeout::Idle, None);
    request.replace_handler(Viewer);
    Ok(None)
}

/// The body of a request, of which a part has arrived.
struct Upload {
    rest: Body,
    bytes: u64,
    /// FNV-1a.
    hash: FnvHasher,
}

impl Upload {
    /// Reads what has arrived. Returns the answer at the end of the body, and `None` before it.
    fn read(&mut self, request: &mut Request<'_, Web>) -> Result<Option<Reply>, Status> {
        while let Some(part) = self.rest.read(&mut request.input)? {
            if part.is_empty() {
                request.set_message_deadline(None);
                let json = format!("{{\"bytes\":{},\"fnv1a\":\"{:016x}\"}}\n", self.bytes, self.hash.finish());
                return Ok(Some(Reply::new("200 OK", JSON, json)));
            }
            self.hash.write(part);
            let steps = self.bytes / RATE_BYTES;
            self.bytes += part.len() as u64;
            check(self.bytes <= request.server.upload_bytes_max, TOO_LARGE)?;
            if self.bytes / RATE_BYTES > steps {
                request.set_message_deadline(request.server.message_timeout);
            }
        }
        Ok(None)
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
    tls: common::tls::TlsOptions,
    #[command(flatten)]
    options: common::Options,
}

fn main() -> ExitCode {
    common::run(|args: Args| {
        let failed = |error| format!("cannot open {}: {:#}", args.root.display(), Error::from(error));
        // Only a folder has a `.` in it.
        let root = args.root.join(".").metadata().and_then(|_| args.root.canonicalize()).map_err(failed)?;
        let files = Files { root, kept: Default::default() };
        let (upload_bytes_max, message_timeout) = (args.upload_bytes_max, args.options.message_timeout());
        let (live, date) = (Live::default(), httpdate::fmt_http_date(SystemTime::now()));
        let web = Web { files, upload_bytes_max, message_timeout, live, date };
        let mut server = TcpServer::unbound_with_server(web, |_, _| Http::default());
        server.limits.write_bytes_per_turn = 1024 * 1024; // A large file is sent in steps of this size.
        let mut tcp = TcpOptions::default();
        tcp.tls = args.tls.acceptor()?;
        server.server_bind_with(args.address, tcp)?;
        let mut server = server.server_activate()?;
        server.set_interval(0, Duration::from_secs(1));
        args.options.serve(server)
    })
}

const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8\r\nContent-Security-Policy: default-src 'self'; img-src data:";
const EVENTS: &str = "Content-Type: text/event-stream\r\nCache-Control: no-store\r\n";
const READ_ONLY: Status = "405 Method Not Allowed\r\nAllow: GET, HEAD";
const WRITE_ONLY: Status = "405 Method Not Allowed\r\nAllow: POST, PUT";
const TOO_LARGE: Status = "413 Content Too Large";
/// A client gets the time for a message again after each so many bytes of an upload.
const RATE_BYTES: u64 = 64 * 1024;
