//! The clients, and the commands about them.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socketserver::{BaseServer, ConnectionLimits, EndReason, Error, Message, Next, Others, Request, RequestHandler};
use socketserver::{Result, Timeout, WorkersHandle};

use super::channels::{Channel, Channels, join, leave, publish};
use super::commands;
use super::data::{self, Bytes, Data, MEMORY};
use super::protocol::{Arrived, OK, Replies};
use super::sockets::Args;

/// What the clients of a worker share.
pub(crate) struct Store {
    pub(crate) workers: WorkersHandle,
    /// The number of the worker.
    pub(crate) worker: usize,
    pub(crate) data: Arc<Mutex<Data>>,
    pub(crate) channels: Channels,
    pub(crate) args: Arc<Args>,
}

impl BaseServer for Store {
    fn timer(&mut self, others: &mut Others<'_, Self>, _: u64) {
        // This looks at all connections, so it is done only when it matters. Buffers have up to twice the room they need.
        let seen = (MEMORY.allocated() > self.args.data).then(|| others.inspect());
        let mut data = data::lock(&self.data);
        data.buffered.insert(self.worker, seen.map_or(0, |seen| 2 * (seen.input_bytes + seen.output_bytes)));
        others.set_server_interval(0, Duration::from_millis(if data.sweep() { 10 } else { 100 }));
    }

    /// A client of another worker has published something.
    fn message(&mut self, others: &mut Others<'_, Self>, message: Message) {
        if let Ok((channel, text)) = message.downcast::<(Bytes, Bytes)>() {
            let _ = publish(&self.channels, &channel, &text, |client, message| _ = others.send(client, message));
        }
    }

    fn reload(&mut self, others: &mut Others<'_, Self>) {
        let applied = Args::read().and_then(|mut args| {
            // As many workers as before share the buffers.
            args.workers = self.args.workers;
            let config = args.config();
            others.set_limits(others.server_id(), args.limits())?;
            others.handle().run(move |reactor| reactor.set_config(config))?;
            self.args = Arc::new(args);
            Ok(())
        });
        if let Err(error) = applied {
            // These may have been changed before the error.
            let _ = others.set_limits(others.server_id(), self.args.limits());
            return log::error!("the limits stay as they were: {error:#}");
        }
        log::info!("a worker has read its limits again; other options stay as they are until a restart");
    }
}

/// A client: its incomplete request, whether it speaks version 3 of the protocol, and its channels.
#[derive(Default)]
pub(crate) struct Client {
    arrived: Arrived,
    is_resp3: bool,
    channels: BTreeSet<Channel>,
}

impl RequestHandler<Store> for Client {
    fn handle(&mut self, request: &mut Request<'_, Store>) -> Result<Next> {
        let data = Arc::clone(&request.server.data);
        let (mut data, mut words) = (data::lock(&data), Vec::new());
        while !request.output.is_full() {
            match self.arrived.request(request.input.unread(), &mut words) {
                Ok(Some(length)) => request.input.consume(length),
                Ok(None) => break,
                Err(error) => {
                    write!(request.output, "-ERR Protocol error: {error}\r\n")?;
                    return Ok(Next::Close);
                }
            }
            if let [name, words @ ..] = &words[..] {
                // Most clients send capital letters.
                let upper = name.iter().any(u8::is_ascii_lowercase).then(|| name.to_ascii_uppercase());
                let name = upper.as_deref().unwrap_or(name);
                match self.run(request, &mut data, name, words) {
                    Ok(Next::Wait) => {}
                    Ok(next) => return Ok(next),
                    Err(Error::Other(text)) => write!(request.output, "-{text}\r\n")?,
                    Err(error) => return Err(error),
                }
            }
            words.clear();
        }
        Ok(Next::Wait)
    }

    fn finish(&mut self, request: &mut Request<'_, Store>, _: EndReason) {
        let me = request.id();
        self.channels.iter().for_each(|channel| leave(&mut request.server.channels, channel, me));
    }
}

impl Client {
    /// Runs a command. Those on data are in `commands.rs`. An `Error::Other` is the text of an error reply.
    fn run(&mut self, request: &mut Request<'_, Store>, data: &mut Data, name: &[u8], words: &[&[u8]]) -> Result<Next> {
        if commands::is_growing(name) && data.is_above(request.server.args.data) {
            return Err("OOM command not allowed when used memory > 'maxmemory'.".into());
        }
        let is_limited = !self.is_resp3 && !self.channels.is_empty();
        let mut out = Replies { out: &mut request.output, is_resp3: self.is_resp3 };
        match (name, words) {
            (b"POST" | b"HOST:", _) => return Err(io::Error::other(HTTP).into()),
            (b"QUIT", _) => return out.line(OK).map(|()| Next::Close),
            (b"SUBSCRIBE" | b"PSUBSCRIBE", [_, ..]) => self.subscribe(request, name, words),
            (b"UNSUBSCRIBE" | b"PUNSUBSCRIBE", _) => self.subscribe(request, name, words),
            (b"PING", [] | [_]) if is_limited => out.texts(b'*', [&b"pong"[..], words.first().unwrap_or(&&b""[..])]),
            _ if is_limited => Err(NOT_SUBSCRIBED.into()),
            (b"PING", []) => out.line("+PONG\r\n"),
            (b"PING" | b"ECHO", [text]) => out.text(text),
            (b"SELECT", [b"0"]) => out.line(OK),
            (b"SELECT", [_]) => Err("ERR DB index is out of range".into()),
            (b"HELLO", _) => self.hello(request, words),
            (b"PUBLISH", [channel, text]) => self.publish(request, channel, text),
            (b"CLIENT", [what, words @ ..]) => return self.client(request, &what.to_ascii_uppercase(), words),
            (b"CONFIG", [what, names @ ..]) if what.eq_ignore_ascii_case(b"GET") => {
                out.texts(b'%', config(&request.server.args, names))
            }
            (b"INFO", _) => out.text(info(&request.others, data)),
            _ => commands::run(data, &mut out, name, words),
        }?;
        Ok(Next::Wait)
    }

    /// Joins or leaves channels: these, or all of this kind. Each is confirmed.
    fn subscribe(&mut self, request: &mut Request<'_, Store>, name: &[u8], words: &[&[u8]]) -> Result<()> {
        let (me, is_pattern, leaves) = (request.id(), name[0] == b'P', name.ends_with(b"UNSUBSCRIBE"));
        if !leaves && self.channels.len() + words.len() > CHANNELS_MAX {
            return Err("ERR too many channels".into());
        }
        let all = self.channels.iter().filter(|channel| words.is_empty() && channel.0 == is_pattern).cloned();
        let channels: Vec<Channel> = words.iter().map(|word| (is_pattern, word.to_vec())).chain(all).collect();
        let mut out = Replies { out: &mut request.output, is_resp3: self.is_resp3 };
        let mut confirm = |channel: Option<&Bytes>, count| {
            out.array(b'>', 3)?;
            out.text(name.to_ascii_lowercase())?;
            out.text_or_null(channel)?;
            out.number(b':', count)
        };
        if channels.is_empty() {
            confirm(None, self.channels.len())?;
        }
        for channel in channels {
            if leaves {
                self.channels.remove(&channel);
                leave(&mut request.server.channels, &channel, me);
            } else {
                join(&mut request.server.channels, &channel, me, self.is_resp3);
                self.channels.insert(channel.clone());
            }
            confirm(Some(&channel.1), self.channels.len())?;
        }
        let (args, subscribes) = (&request.server.args, !self.channels.is_empty());
        let (mut limits, timeout) = (ConnectionLimits::default(), args.limits().idle_timeout);
        limits.output_bytes_max = subscribes.then_some(args.subscriber_output);
        request.set_timeout(Timeout::Idle, timeout.filter(|_| !subscribes));
        request.set_limits(&limits)
    }

    /// Chooses the version of the protocol, also for the messages of its channels.
    fn hello(&mut self, request: &mut Request<'_, Store>, words: &[&[u8]]) -> Result<()> {
        match words {
            [] => {}
            [version @ (b"2" | b"3")] => self.is_resp3 = *version == b"3",
            [b"2" | b"3", ..] => return Err("ERR Syntax error in HELLO option".into()),
            _ => return Err("NOPROTO unsupported protocol version".into()),
        }
        let (me, is_resp3) = (request.id(), self.is_resp3);
        self.channels.iter().for_each(|channel| join(&mut request.server.channels, channel, me, is_resp3));
        let mut out = Replies { out: &mut request.output, is_resp3 };
        out.array(b'%', 6)?;
        ["server", "redis", "version", VERSION, "proto"].iter().try_for_each(|word| out.text(word))?;
        out.number(b':', if is_resp3 { 3 } else { 2 })
    }

    /// Sends a message to the clients of this worker, which are counted, and of the others.
    fn publish(&self, request: &mut Request<'_, Store>, channel: &[u8], text: &[u8]) -> Result<()> {
        let me = request.id();
        let count = publish(&request.server.channels, channel, text, |client, message| {
            if client == me {
                let _ = request.output.write_all(message);
            } else {
                let _ = request.others.send(client, message);
            }
        })?;
        let published: (Bytes, Bytes) = (channel.to_vec(), text.to_vec());
        let sent = request.server.workers.send_to_counterparts(request.others.server_id(), published);
        sent.map_err(|_| "ERR a worker is too busy for more messages")?;
        Replies { out: &mut request.output, is_resp3: self.is_resp3 }.number(b':', count)
    }

    /// Commands about clients.
    fn client(&self, request: &mut Request<'_, Store>, what: &[u8], words: &[&[u8]]) -> Result<Next> {
        let me = request.id();
        let mut all = vec![(me, request.client_address())];
        let others = request.others.connections().into_iter();
        all.extend(others.filter_map(|id| Some((id, request.others.client_address(id)?))));
        let is_filter = matches!(words, [kind, _] if matches!(&kind.to_ascii_uppercase()[..], b"ID" | b"ADDR"));
        let mut out = Replies { out: &mut request.output, is_resp3: self.is_resp3 };
        match (what, words) {
            (b"ID", []) => out.line(&format!(":{me}\r\n"))?,
            (b"LIST", []) => {
                let mut unsent = |id| request.others.output_len(id).unwrap_or(0);
                let lines = all.iter().map(|(id, address)| format!("id={id} addr={address} omem={}\n", unsent(*id)));
                out.text(lines.collect::<String>())?;
            }
            (b"KILL", [.., wanted]) if is_filter || words.len() == 1 => {
                let is_wanted = |text: String| text.as_bytes() == *wanted;
                all.retain(|(id, address)| is_wanted(address.to_string()) || is_filter && is_wanted(id.to_string()));
                all.iter().for_each(|(id, _)| request.others.close(*id));
                match all.len() {
                    count if is_filter => out.number(b':', count)?,
                    0 => return Err("ERR No such client".into()),
                    _ => out.line(OK)?,
                }
                return Ok(if all.iter().any(|(id, _)| *id == me) { Next::Close } else { Next::Wait });
            }
            _ => return Err("ERR unknown subcommand of CLIENT".into()),
        }
        Ok(Next::Wait)
    }
}

/// The settings with these names, each followed by its value.
fn config(args: &Args, names: &[&[u8]]) -> Vec<String> {
    let all = [("appendonly", "no"), ("save", ""), ("maxmemory", &args.data.to_string())];
    let wanted = all.into_iter().filter(|(name, _)| names.contains(&name.as_bytes()) || names == [b"*"]);
    wanted.flat_map(|(name, value)| [name.into(), value.into()]).collect()
}

fn info(others: &Others<'_, Store>, data: &Data) -> String {
    let (uptime, clients) = (others.now().as_secs(), others.stats().active);
    let (memory, keys) = (MEMORY.allocated(), data.entries.len());
    format!(
        "# Server\r\nredis_version:{VERSION}\r\nuptime_in_seconds:{uptime}\r\n\r\n\
         # Clients\r\nconnected_clients:{clients}\r\n\r\n\
         # Memory\r\nused_memory:{memory}\r\n\r\n# Keyspace\r\ndb0:keys={keys}\r\n"
    )
}

/// The version of Redis whose commands these are, as far as they go.
const VERSION: &str = "7.0.0";
const NOT_SUBSCRIBED: &str = "ERR only (P|UN|PUN)SUBSCRIBE, PING and QUIT are allowed here";
/// A page in a browser can send requests in HTTP to any port, with commands in their bodies.
const HTTP: &str = "this is HTTP: a browser may have been made to send it";
const CHANNELS_MAX: usize = 10_000;
