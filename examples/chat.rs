//! A chat room. A client first enters a name; after that, its lines are sent to all other members.
//!
//! ```text
//! cargo run --example chat
//! nc 127.0.0.1 9999                            # in two terminals or more; /help lists the commands
//!
//! cargo run --example chat -- --unix /tmp/chat # the same room for this user's programs
//! nc -U /tmp/chat
//! ```
//!
//! The room is the server's value, `request.server`, and every member's handler works on it directly. A member that
//! does not read is dropped when 256 KiB wait for it. The other members are not delayed.
//!
//! Known weakness: a member that writes fast enough can cause slow readers to be dropped, because there is no limit on
//! how much one member may write.

mod common;

use std::collections::HashMap;
use std::io::Write;
use std::process::ExitCode;

use socketserver::{BaseServer, ConnectionId, EndReason, Next, Overflow, Request, RequestHandler, Result, TcpServer};
#[cfg(unix)]
use socketserver::{UnixAddress, UnixOptions, family};

/// The room: its members with their names.
#[derive(Default)]
struct Chat {
    members: HashMap<ConnectionId, String>,
}

impl BaseServer for Chat {}

/// A visitor, who becomes a member after entering a name.
struct Member;

impl RequestHandler<Chat> for Member {
    fn setup(&mut self, request: &mut Request<'_, Chat>) -> Result<Next> {
        request.output.write_all(b"* what is your name?\n")?;
        Ok(Next::Wait)
    }

    fn handle(&mut self, request: &mut Request<'_, Chat>) -> Result<Next> {
        while let Some(line) = request.input.read_line()? {
            let line = String::from_utf8_lossy(line);
            let line = line.trim();
            let Some(name) = request.server.members.get(&request.id()) else {
                enter(request, line)?;
                continue;
            };
            match line {
                "" => {}
                "/quit" => return Ok(Next::Close),
                "/who" => {
                    let mut names: Vec<_> = request.server.members.values().map(String::as_str).collect();
                    names.sort_unstable();
                    writeln!(request.output, "* here: {}", names.join(", "))?;
                }
                "/help" => request.output.write_all(b"* /who: who is here; /quit: leave\n")?,
                command if command.starts_with('/') => request.output.write_all(b"* no such command: try /help\n")?,
                text => {
                    // A member must not control the terminals of others.
                    let text = format!("{name}: {}\n", common::printable(text));
                    tell_others(request, text);
                }
            }
        }
        Ok(Next::Wait)
    }

    fn drain(&mut self, request: &mut Request<'_, Chat>) -> Result<Next> {
        request.output.write_all(b"* the room closes\n")?;
        Ok(Next::Close)
    }

    fn finish(&mut self, request: &mut Request<'_, Chat>, why: EndReason) {
        let Some(name) = request.server.members.remove(&request.id()) else {
            return;
        };
        log::debug!("{name} left: {why}");
        match why {
            EndReason::Stopped | EndReason::StopAborted => {} // All members leave.
            EndReason::OutputLimit => tell_others(request, format!("* {name} left (too slow)\n")),
            EndReason::Timeout(_) => tell_others(request, format!("* {name} left (timed out)\n")),
            _ => tell_others(request, format!("* {name} left\n")),
        }
    }
}

/// Makes a visitor a member, if the name is acceptable.
fn enter(request: &mut Request<'_, Chat>, name: &str) -> Result<()> {
    let taken = |other: &String| other.to_lowercase() == name.to_lowercase();
    let wrong = if name.is_empty() {
        "a name has at least one letter"
    } else if name.chars().count() > NAME_CHARS_MAX {
        "that name is too long"
    } else if common::printable(name) != name || name.contains(':') || name.starts_with(['*', '/']) {
        "that name could be mistaken for something else"
    } else if request.server.members.values().any(taken) {
        "that name is taken"
    } else {
        log::debug!("{name} joined from {}", request.client_address());
        request.server.members.insert(request.id(), name.to_owned());
        writeln!(request.output, "* welcome, {name}; {} here", request.server.members.len())?;
        tell_others(request, format!("* {name} joined\n"));
        return Ok(());
    };
    writeln!(request.output, "* {wrong}; what is your name?")?;
    Ok(())
}

/// Sends a line to all other members, but not to visitors without a name.
fn tell_others(request: &mut Request<'_, Chat>, text: String) {
    request.others.broadcast(text, |id| request.server.members.contains_key(&id));
}

const NAME_CHARS_MAX: usize = 32;

/// A chat room for nc and telnet
#[derive(clap::Parser)]
struct Args {
    /// Where to listen; port 0 lets the system choose
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:9999")]
    address: String,
    /// An additional address to listen on, for this user only: a path, or @NAME for an abstract name
    #[cfg(unix)]
    #[arg(long, value_name = "PATH")]
    unix: Option<UnixAddress>,
    #[command(flatten)]
    options: common::Options,
}

fn main() -> ExitCode {
    common::run(|args: Args| {
        let mut server = TcpServer::unbound_with_server(Chat::default(), |_, _| Member);
        server.limits.output_bytes_max = 256 * 1024;
        server.limits.output_overflow = Overflow::Close;
        server.limits.line_bytes_max = 4 * 1024;
        // Each line causes work for every member, so little is read from each connection per turn.
        server.limits.read_bytes_per_turn = 4 * 1024;
        server.server_bind(args.address)?;
        #[cfg(unix)]
        if let Some(path) = args.unix {
            let mut options = UnixOptions::default();
            options.mode = path.as_path().map(|_| 0o600); // An abstract name has no mode.
            server.server_bind_as::<family::UnixStream>(path, options)?;
        }
        args.options.serve(server.server_activate()?)
    })
}
