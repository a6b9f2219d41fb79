//! The port for whatever watches a server: `/ready` for load balancers, `/metrics` for Prometheus, and `/` for people.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::mpsc::channel;
use std::time::Duration;

use socketserver::family::Tcp;
use socketserver::{Address, BaseServer, ConnectionId, EndReason, Error, Handle, Inspection, Linger, Message, Next};
use socketserver::{Request, RequestHandler, Result, Stats, TcpServer, Unbound};

use super::metrics;

/// What all reactors have done, and what each is doing.
type Seen = (Stats, Vec<Inspection>);

/// The clients that have not sent a whole request yet, the oldest first.
#[derive(Default)]
pub(crate) struct Silent(VecDeque<ConnectionId>);

impl BaseServer for Silent {}

/// A server of these pages, which answers during a stop as well. It calls `look` on another thread, so that this may wait
/// for the reactors.
pub(crate) fn server<L>(look: L) -> Unbound<Tcp, Silent, impl RequestHandler<Silent>>
where
    L: Fn() -> Result<Seen> + Clone + Send + 'static,
{
    let handler = move |_: &mut Silent, _: &Address| Page { look: look.clone(), path: None };
    let mut server = TcpServer::unbound_with_server(Silent::default(), handler);
    server.limits.serve_while_draining = true;
    server.limits.connections_max = Some(CONNECTIONS_MAX);
    server.limits.line_bytes_max = LINE_BYTES_MAX;
    server.limits.linger = Linger::Never; // Nothing follows a request.
    server.limits.idle_timeout = Some(WAIT);
    server.limits.write_timeout = Some(WAIT);
    server
}

/// Looks at one reactor from another thread.
pub(crate) fn look_at(reactor: &Handle) -> Result<Seen> {
    let (tell, hear) = channel();
    reactor.run(move |reactor| drop(tell.send((reactor.stats(), vec![reactor.inspect()]))))?;
    hear.recv().map_err(Error::other)
}

/// Answers one request in HTTP.
struct Page<L> {
    look: L,
    /// From the first line of the request, when that has arrived.
    path: Option<String>,
}

impl<L: Fn() -> Result<Seen> + Clone + Send + 'static> RequestHandler<Silent> for Page<L> {
    /// Clients that only connect must not keep others out, so the oldest of them has to leave if there are many.
    fn setup(&mut self, request: &mut Request<'_, Silent>) -> Result<Next> {
        request.set_message_deadline(Some(REQUEST_WAIT));
        request.server.0.push_back(request.id());
        if request.server.0.len() > SILENT_MAX
            && let Some(oldest) = request.server.0.pop_front()
        {
            request.others.abort(oldest);
        }
        Ok(Next::Wait)
    }

    fn handle(&mut self, request: &mut Request<'_, Silent>) -> Result<Next> {
        while let Some(line) = request.input.read_line()? {
            let line = String::from_utf8_lossy(line.trim_ascii_end());
            let path = self.path.get_or_insert_with(|| line.split(' ').nth(1).unwrap_or_default().to_owned());
            if !line.is_empty() {
                continue;
            }
            let me = request.id();
            request.server.0.retain(|id| *id != me);
            request.set_message_deadline(None);
            let look = self.look.clone();
            return match &path[..] {
                "/ready" if request.is_stopping() => answer(request, "503 Service Unavailable", "stopping\n"),
                "/ready" => answer(request, "200 OK", "ready\n"),
                "/metrics" => later(request, move || Ok(metrics::text(metrics::of(&look()?.0)))),
                "/" => later(request, move || Ok(look()?.1.iter().map(ToString::to_string).collect())),
                path if path.starts_with('/') => answer(request, "404 Not Found", "/, /metrics or /ready\n"),
                _ => answer(request, "400 Bad Request", "this is not HTTP\n"),
            };
        }
        Ok(Next::Wait)
    }

    fn message(&mut self, request: &mut Request<'_, Silent>, text: Message) -> Result<Next> {
        let text = text.downcast::<Result<String>>().map_err(|_| "not a text")??;
        answer(request, "200 OK", &text)
    }

    fn finish(&mut self, request: &mut Request<'_, Silent>, _: EndReason) {
        let me = request.id();
        request.server.0.retain(|id| *id != me);
    }
}

/// Makes the text of a page on another thread.
fn later(request: &mut Request<'_, Silent>, text: impl FnOnce() -> Result<String> + Send + 'static) -> Result<Next> {
    request.pause_reading();
    request.offload(text)?;
    Ok(Next::Wait)
}

fn answer(request: &mut Request<'_, Silent>, status: &str, text: &str) -> Result<Next> {
    let (kind, length) = (metrics::TEXT_FORMAT, text.len());
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close");
    write!(request.output, "{head}\r\n\r\n{text}")?;
    Ok(Next::Close)
}

/// Few enough that the reserve of descriptors is there for them.
const CONNECTIONS_MAX: usize = 12;
/// The most connections without a request. Some more can always come, and be answered.
const SILENT_MAX: usize = 8;
const LINE_BYTES_MAX: usize = 8 << 10;
/// How long a client may take to send its request.
const REQUEST_WAIT: Duration = Duration::from_secs(2);
/// How long a client may take to read the page.
const WAIT: Duration = Duration::from_secs(10);
