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

use std::collections::HashSet;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use socketserver::{BaseServer, Next, Request, RequestHandler, Result, TcpServer, Timeout, TlsAcceptor};

/// What all sessions share.
struct Mail {
    /// The host name that replies begin with.
    name: String,
    tls: Option<TlsAcceptor>,
    message_bytes_max: u64,
    message_timeout: Option<Duration>,
}

impl BaseServer for Mail {}

/// A session: whether the client has introduced itself, the message that it sends, how often it was wrong, and how many
/// commands it has sent since its last message.
#[derive(Default)]
struct Session {
    is_greeted: bool,
    has_sender: bool,
    recipients: usize,
    /// The number of bytes of the text so far, while it arrives.
    text: Option<u64>,
    errors: usize,
    commands: usize,
}

impl RequestHandler<Mail> for Session {
    fn setup(&mut self, request: &mut Request<'_, Mail>) -> Result<Next> {
        let greeting = format!("220 {} ESMTP ready", request.server.name);
        reply(request, &greeting)
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
        self.commands += usize::from(!verb.eq_ignore_ascii_case("RCPT"));
        if self.commands > COMMANDS_MAX {
            return end(request, "421 4.7.0 too many commands without a message");
        }
        let said = match (&verb.to_ascii_uppercase()[..], rest.trim()) {
            ("EHLO", name) if !name.is_empty() => {
                self.is_greeted = true;
                let Mail { name, message_bytes_max: size, .. } = &*request.server;
                write!(request.output, "250-{name}\r\n250-PIPELINING\r\n250-SIZE {size}\r\n250-8BITMIME\r\n")?;
                if request.server.tls.is_some() && request.tls().is_none() {
                    request.output.write_all(b"250-STARTTLS\r\n")?;
                }
                self.reset("250 ENHANCEDSTATUSCODES")
            }
            ("HELO", name) if !name.is_empty() => {
                self.is_greeted = true;
                self.reset("");
                let hello = format!("250 {}", request.server.name);
                return reply(request, &hello);
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
        let parameters = match path(rest, "FROM:") {
            None => return "501 5.1.7 not FROM:<address>",
            Some(_) if !self.is_greeted || self.has_sender => return "503 5.5.1 EHLO comes first, then one MAIL",
            Some((address, _)) if !address.is_ascii() => return NOT_ASCII,
            Some((_, parameters)) => parameters.to_ascii_uppercase(),
        };
        let mut names = HashSet::new();
        for parameter in parameters.split_ascii_whitespace() {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match (name, value) {
                _ if !names.insert(name) => return "501 5.5.4 the same parameter twice",
                ("SIZE", "") => return NO_SIZE,
                ("SIZE", size) if !size.bytes().all(|byte| byte.is_ascii_digit()) => return NO_SIZE,
                ("SIZE", size) if size.parse().is_ok_and(|size: u64| size <= message_bytes_max) => {}
                ("SIZE", _) => return TOO_LARGE,
                ("BODY", "7BIT" | "8BITMIME") => {}
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
            Some((address, _)) if !address.is_ascii() => NOT_ASCII,
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
        self.commands = 0;
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
        (self.has_sender, self.recipients, self.text) = (false, 0, None);
        said
    }
}

/// The address in `FROM:<address> parameters`, and the parameters.
fn path<'a>(text: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let (start, rest) = text.split_at_checked(keyword.len())?;
    let rest = rest.trim_start().strip_prefix('<')?;
    // In quotes the address may contain these characters: <"a>b"@example.com>.
    let (mut is_quoted, mut is_escaped) = (false, false);
    let end = rest.find(|letter| {
        is_quoted ^= letter == '"' && !is_escaped;
        is_escaped = letter == '\\' && !is_escaped;
        ['<', '>'].contains(&letter) && !is_quoted
    })?;
    let (address, rest) = rest.split_at(end);
    let parameters = rest.strip_prefix('>').filter(|rest| rest.is_empty() || rest.starts_with(' '))?;
    let is_plain = address.len() <= PATH_BYTES_MAX && !address.contains(char::is_control);
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
// Three minutes for each part of a message: RFC 5321 section 4.5.3.2.
#[command(mut_arg("message_timeout", |arg| arg.default_value("180")))]
struct Args {
    /// Where to listen; port 0 lets the system choose
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:2525")]
    address: String,
    /// The host name in the greeting
    #[arg(long, default_value = "localhost", value_parser = host_name)]
    name: String,
    /// The longest message
    #[arg(long, value_name = "BYTES", default_value = "26214400")]
    message_bytes_max: u64,
    #[command(flatten)]
    tls: common::tls::TlsOptions,
    #[command(flatten)]
    options: common::Options,
}

fn main() -> ExitCode {
    common::run(|args: Args| {
        let mail = Mail {
            name: args.name,
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

/// Parses a host name, which must not contain the end of a line.
fn host_name(text: &str) -> Result<String, &'static str> {
    let is_name = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_name { Ok(text.to_owned()) } else { Err("not a host name") }
}

const TOO_LARGE: &str = "552 5.3.4 the message is too large";
const NO_SIZE: &str = "501 5.5.4 SIZE is no number";
const NOT_ASCII: &str = "553 5.6.7 an address is ASCII, because SMTPUTF8 is not offered";
const PATH_BYTES_MAX: usize = 256;
const RECIPIENTS_MAX: usize = 100;
const ERRORS_MAX: usize = 20;
/// The most commands before a message, or after it, besides RCPT. Otherwise NOOP would keep a session for ever.
const COMMANDS_MAX: usize = 100;
/// A message is given time again for each so many bytes.
const RATE_BYTES: u64 = 64 * 1024;
