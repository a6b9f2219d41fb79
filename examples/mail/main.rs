//! A mail server that takes every message and throws it away: for tests of programs that send mail.
//!
//! ```text
//! cargo run --release --example mail          # or: ... mail -- 127.0.0.1:2525 --tls CERT.pem KEY.pem
//! swaks --server 127.0.0.1:2525 --to somebody@example.com
//! openssl s_client -starttls smtp -connect 127.0.0.1:2525
//! ```
//!
//! The protocol is RFC 5321. The log tells of each message at the level `debug`. A line ends with CR and LF, and nothing
//! else does: a server that takes a lone LF for the end of a line can be made to see the end of a message where others
//! see none, and a forged message after it. What follows STARTTLS without waiting for TLS is refused for a similar reason.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/tls.rs"]
mod tls;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use socketserver::{BaseServer, Next, Request, RequestHandler, Result, TcpServer, Timeout, TlsAcceptor};

/// What all sessions share.
struct Mail {
    tls: Option<TlsAcceptor>,
    message_bytes_max: u64,
    message_timeout: Option<Duration>,
}

impl BaseServer for Mail {}

/// A session: whether the client has introduced itself, the message that it sends, and how often it was wrong.
#[derive(Default)]
struct Session {
    is_greeted: bool,
    has_sender: bool,
    recipients: usize,
    /// The number of bytes of the text so far, while it arrives.
    text: Option<u64>,
    errors: usize,
}

impl RequestHandler<Mail> for Session {
    fn setup(&mut self, request: &mut Request<'_, Mail>) -> Result<Next> {
        reply(request, "220 ESMTP ready")
    }

    fn handle(&mut self, request: &mut Request<'_, Mail>) -> Result<Next> {
        loop {
            let line = match request.input.read_line() {
                Ok(Some(line)) => {
                    line.strip_suffix(b"\r\n").filter(|line| !line.iter().any(|byte| b"\r\n".contains(byte)))
                }
                Ok(None) => return Ok(Next::Wait),
                Err(_) => return end(request, "500 5.5.2 the line is too long"),
            };
            let Some(line) = line else { return end(request, "521 5.5.2 a line ends with CR and LF") };
            let next = match self.text {
                Some(bytes) => self.take(request, line, bytes)?,
                None => self.obey(request, line)?,
            };
            if next != Next::Wait {
                return Ok(next);
            }
        }
    }

    fn timed_out(&mut self, request: &mut Request<'_, Mail>, timeout: Timeout) -> Result<Next> {
        if timeout == Timeout::Write { Ok(Next::Abort) } else { end(request, "421 4.4.2 that took too long") }
    }

    fn drain(&mut self, request: &mut Request<'_, Mail>) -> Result<Next> {
        end(request, "421 4.3.2 the server stops")
    }
}

impl Session {
    /// Runs a command.
    fn obey(&mut self, request: &mut Request<'_, Mail>, line: &[u8]) -> Result<Next> {
        let line = String::from_utf8_lossy(line);
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let said = match (&verb.to_ascii_uppercase()[..], rest.trim()) {
            ("EHLO", name) if !name.is_empty() => {
                *self = Session { is_greeted: true, errors: self.errors, ..Session::default() };
                let size = request.server.message_bytes_max;
                write!(request.output, "250-at your service\r\n250-PIPELINING\r\n250-SIZE {size}\r\n250-8BITMIME\r\n")?;
                if request.server.tls.is_some() && request.tls().is_none() {
                    request.output.write_all(b"250-STARTTLS\r\n")?;
                }
                "250 ENHANCEDSTATUSCODES"
            }
            ("HELO", name) if !name.is_empty() => {
                *self = Session { is_greeted: true, errors: self.errors, ..Session::default() };
                "250 at your service"
            }
            ("MAIL", rest) => self.mail(rest, request.server.message_bytes_max),
            ("RCPT", rest) => self.rcpt(rest),
            ("DATA", "") if self.recipients > 0 => {
                self.text = Some(0);
                request.set_message_deadline(request.server.message_timeout);
                "354 end with a line that is a dot"
            }
            ("DATA", "") => "503 5.5.1 MAIL and RCPT come first",
            ("RSET", "") => self.reset("250 2.0.0 forgotten"),
            ("NOOP", _) => "250 2.0.0 done",
            ("VRFY", _) => "252 2.5.0 every address is taken",
            ("QUIT", "") => return end(request, "221 2.0.0 goodbye"),
            ("STARTTLS", "") => return self.start_tls(request),
            ("EHLO" | "HELO" | "DATA" | "RSET" | "QUIT" | "STARTTLS", _) => "501 5.5.4 wrong arguments",
            _ => "500 5.5.1 no such command",
        };
        self.errors += usize::from(said.starts_with(['4', '5']));
        if self.errors > ERRORS_MAX { end(request, "421 4.7.0 too many errors") } else { reply(request, said) }
    }

    fn mail(&mut self, rest: &str, message_bytes_max: u64) -> &'static str {
        let Some(parameters) = path(rest, "FROM:").map(|(_, parameters)| parameters) else {
            return "501 5.1.7 not FROM:<address>";
        };
        if !self.is_greeted || self.has_sender {
            return "503 5.5.1 EHLO comes first, then one MAIL";
        }
        for parameter in parameters.split_ascii_whitespace() {
            match parameter.to_ascii_uppercase().split_once('=') {
                Some(("SIZE", size)) if size.parse().is_ok_and(|size: u64| size <= message_bytes_max) => {}
                Some(("SIZE", size)) if size.bytes().all(|byte| byte.is_ascii_digit()) => return TOO_LARGE,
                Some(("BODY", "7BIT" | "8BITMIME")) => {}
                _ => return "555 5.5.4 no such parameter",
            }
        }
        self.has_sender = true;
        "250 2.1.0 sender taken"
    }

    fn rcpt(&mut self, rest: &str) -> &'static str {
        match path(rest, "TO:") {
            _ if !self.has_sender => "503 5.5.1 MAIL comes first",
            None | Some(("", _)) => "501 5.1.3 not TO:<address>",
            Some((_, parameters)) if !parameters.trim().is_empty() => "555 5.5.4 no such parameter",
            Some(_) if self.recipients >= RECIPIENTS_MAX => "452 4.5.3 too many recipients",
            Some(_) => {
                self.recipients += 1;
                "250 2.1.5 recipient taken"
            }
        }
    }

    /// Takes a line of the text, of which there were so many bytes before. A dot in front of a dot is removed.
    fn take(&mut self, request: &mut Request<'_, Mail>, line: &[u8], before: u64) -> Result<Next> {
        let max = request.server.message_bytes_max;
        if line != b"." {
            let bytes = before + line.strip_prefix(b".").unwrap_or(line).len() as u64 + 2;
            self.text = Some(bytes);
            if before / RATE_BYTES != bytes / RATE_BYTES {
                request.set_message_deadline(request.server.message_timeout);
            }
            // The rest of a message that is too large is read, unless there is no end to it.
            return if bytes > max.saturating_mul(2) { end(request, TOO_LARGE) } else { Ok(Next::Wait) };
        }
        request.set_message_deadline(None);
        let recipients = self.recipients;
        self.reset("");
        if before > max {
            return reply(request, TOO_LARGE);
        }
        log::debug!("{}: {before} bytes for {recipients}", request.client_address());
        reply(request, &format!("250 2.0.0 thrown away: {before} bytes for {recipients}"))
    }

    fn start_tls(&mut self, request: &mut Request<'_, Mail>) -> Result<Next> {
        let Some(tls) = request.server.tls.clone().filter(|_| request.tls().is_none()) else {
            return reply(request, "502 5.5.1 there is no TLS to start");
        };
        if !request.input.is_empty() {
            return end(request, "554 5.5.1 nothing may follow STARTTLS");
        }
        reply(request, "220 2.0.0 go on")?;
        request.start_tls(&tls)?;
        // What was said without TLS does not count.
        *self = Session::default();
        Ok(Next::Wait)
    }

    /// Forgets the message, but not the client.
    fn reset(&mut self, said: &'static str) -> &'static str {
        *self = Session { is_greeted: self.is_greeted, errors: self.errors, ..Session::default() };
        said
    }
}

/// The address in `FROM:<address> parameters`, and the parameters.
fn path<'a>(text: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let (start, rest) = text.split_at_checked(keyword.len())?;
    let (address, parameters) = rest.trim_start().strip_prefix('<')?.rsplit_once('>')?;
    let is_plain =
        address.len() <= PATH_BYTES_MAX && !address.contains(['<', '>']) && !address.contains(char::is_control);
    (start.eq_ignore_ascii_case(keyword) && is_plain).then_some((address, parameters))
}

fn reply(request: &mut Request<'_, Mail>, text: &str) -> Result<Next> {
    write!(request.output, "{text}\r\n")?;
    Ok(Next::Wait)
}

fn end(request: &mut Request<'_, Mail>, text: &str) -> Result<Next> {
    reply(request, text)?;
    Ok(Next::Close)
}

/// Takes mail and throws it away; with a certificate, STARTTLS is offered
#[derive(clap::Parser)]
struct Args {
    /// Where to listen; port 0 lets the system choose
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:2525")]
    address: String,
    /// The longest message
    #[arg(long, value_name = "BYTES", default_value = "26214400")]
    message_bytes_max: u64,
    #[command(flatten)]
    tls: tls::TlsOptions,
    #[command(flatten)]
    options: common::Options,
}

fn main() -> ExitCode {
    common::run(|args: Args| {
        let mail = Mail {
            tls: args.tls.acceptor()?,
            message_bytes_max: args.message_bytes_max,
            message_timeout: args.options.message_timeout(),
        };
        let mut server = TcpServer::unbound_with_server(mail, |_, _| Session::default());
        server.limits.line_bytes_max = 8 * 1024;
        server.server_bind(args.address)?;
        args.options.serve(server.server_activate()?)
    })
}

const TOO_LARGE: &str = "552 5.3.4 the message is too large";
const PATH_BYTES_MAX: usize = 256;
const RECIPIENTS_MAX: usize = 100;
const ERRORS_MAX: usize = 20;
/// A message is given time again for each so many bytes.
const RATE_BYTES: u64 = 64 * 1024;
