//! Speaks enough SMTP (RFC 5321) to start TLS with `STARTTLS` (RFC 3207), and throws mail away.
//!
//! ```text
//! cargo run --example starttls -- --self-signed
//! openssl s_client -starttls smtp -connect localhost:2525   # then: EHLO me, MAIL FROM:<me>, ...
//! ```
//!
//! Mail is accepted only under TLS. A client that sends more in the same packet as `STARTTLS` is disconnected, because
//! these commands came before TLS, perhaps from somebody else.

#[path = "common/mod.rs"]
mod common;
#[path = "common/tls.rs"]
mod tls;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use socketserver::{BaseServer, Error, Next, Request, RequestHandler, Result, TcpServer, TlsAcceptor};

/// The server's value.
struct Mail {
    acceptor: TlsAcceptor,
}

impl BaseServer for Mail {}

#[derive(Default)]
struct Session {
    has_greeted: bool,
    has_sender: bool,
    has_recipient: bool,
    /// The lines of a message arrive.
    is_message: bool,
}

impl RequestHandler<Mail> for Session {
    fn setup(&mut self, request: &mut Request<'_, Mail>) -> Result<Next> {
        request.output.write_all(b"220 localhost ESMTP\r\n")?;
        Ok(Next::Wait)
    }

    fn handle(&mut self, request: &mut Request<'_, Mail>) -> Result<Next> {
        while let Some(line) = request.input.read_line()? {
            let line = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
            if self.is_message {
                self.take_line(request, &line)?;
            } else if self.obey(request, &line)? == Next::Close {
                return Ok(Next::Close);
            }
        }
        Ok(Next::Wait)
    }
}

impl Session {
    fn obey(&mut self, request: &mut Request<'_, Mail>, line: &str) -> Result<Next> {
        let is_secure = request.tls().is_some();
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let verb = verb.to_ascii_uppercase();
        let is_from = rest.get(..5).is_some_and(|from| from.eq_ignore_ascii_case("FROM:"));
        let is_to = rest.get(..3).is_some_and(|to| to.eq_ignore_ascii_case("TO:"));
        let answer = match verb.as_str() {
            "HELO" | "EHLO" => {
                *self = Session { has_greeted: true, ..Session::default() };
                match verb == "EHLO" && !is_secure {
                    true => "250-localhost\r\n250 STARTTLS",
                    false => "250 localhost",
                }
            }
            "STARTTLS" if is_secure => "503 TLS is on already",
            "STARTTLS" => {
                request.output.write_all(b"220 go ahead\r\n")?;
                let acceptor = request.server.acceptor.clone();
                request.start_tls(&acceptor)?; // Fails if more was sent with it.
                *self = Session::default(); // What was said before is forgotten: RFC 3207, section 4.2.
                return Ok(Next::Wait);
            }
            "MAIL" | "RCPT" | "DATA" if !is_secure => "530 STARTTLS comes first",
            "MAIL" | "RCPT" | "DATA" if !self.has_greeted => "503 EHLO comes first",
            "MAIL" if is_from => {
                self.has_sender = true;
                "250 OK"
            }
            "RCPT" if self.has_sender && is_to => {
                self.has_recipient = true;
                "250 OK"
            }
            "DATA" if self.has_recipient => {
                self.is_message = true;
                request.set_message_deadline(Some(MESSAGE_TIME));
                "354 end with a dot on a line by itself"
            }
            "MAIL" | "RCPT" | "DATA" => "503 not now",
            "NOOP" | "RSET" => {
                (self.has_sender, self.has_recipient) = (false, false);
                "250 OK"
            }
            "QUIT" => {
                request.output.write_all(b"221 bye\r\n")?;
                return Ok(Next::Close);
            }
            _ => "500 what?",
        };
        write!(request.output, "{answer}\r\n")?;
        Ok(Next::Wait)
    }

    fn take_line(&mut self, request: &mut Request<'_, Mail>, line: &str) -> Result<()> {
        if line == "." {
            request.set_message_deadline(None);
            *self = Session { has_greeted: true, ..Session::default() };
            request.output.write_all(b"250 accepted, and thrown away\r\n")?;
        }
        Ok(())
    }
}

/// How long a whole message may take.
const MESSAGE_TIME: Duration = Duration::from_secs(300);

/// Accepts mail under TLS, and throws it away
#[derive(clap::Parser)]
struct Args {
    /// Where to listen; port 0 lets the system choose
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:2525")]
    address: String,
    #[command(flatten)]
    tls: tls::TlsOptions,
    #[command(flatten)]
    options: common::Options,
}

fn main() -> ExitCode {
    common::run(|args: Args| {
        let acceptor = args.tls.acceptor()?.ok_or_else(|| Error::from("--tls or --self-signed is needed"))?;
        args.options.serve(TcpServer::with_server(args.address, Mail { acceptor }, |_, _| Session::default())?)
    })
}
