//! A store of keys and values that speaks the protocol of Redis, in both of its versions.
//!
//! ```text
//! cargo run --release --example kv             # or: ... kv -- 127.0.0.1:0 --unix /tmp/kv --self-signed
//! redis-cli -p 6380 set greeting hello ex 60
//! redis-benchmark -p 6380 -q -P 16 -t ping,set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,lrange,mset
//! ```
//!
//! `protocol.rs` has the protocol, `data.rs` the data, `commands.rs` the commands on data, and this file the clients.
//! The data is the server's value, so commands need no lock. It is only in memory.

mod commands;
#[path = "../common/mod.rs"]
mod common;
mod data;
mod protocol;
#[path = "../common/tls.rs"]
mod tls;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use data::matches;
use protocol::Replies;
use socketserver::{BaseServer, ConnectionId, ConnectionLimits, EndReason, Error, Keepalive, Next, Others, Request};
use socketserver::{RequestHandler, Result, TcpOptions, TcpServer, Timeout};
#[cfg(unix)]
use socketserver::{UnixOptions, family};

/// What all clients share.
#[derive(Default)]
struct Store {
    data: data::Data,
    data_bytes_max: usize,
    /// The clients of each channel and of each pattern of channels, and whether they speak version 3.
    channels: [HashMap<data::Bytes, BTreeMap<ConnectionId, bool>>; 2],
    /// How many bytes may wait for a client, and for one that has subscribed to channels.
    outputs: [usize; 2],
}

impl BaseServer for Store {
    fn timer(&mut self, others: &mut Others<'_, Self>, _: u64) {
        self.data.now = others.now().as_millis() as u64;
        self.data.sweep();
    }
}

/// A channel, or a pattern of channels.
type Channel = (bool, data::Bytes);

/// A client: whether it speaks version 3 of the protocol, and its channels.
#[derive(Default)]
struct Client {
    is_resp3: bool,
    channels: BTreeSet<Channel>,
}

impl RequestHandler<Store> for Client {
    fn handle(&mut self, request: &mut Request<'_, Store>) -> Result<Next> {
        request.server.data.now = request.others.now().as_millis() as u64;
        let mut words = Vec::new();
        while !request.output.is_full() {
            match protocol::request(request.input.unread(), &mut words) {
                Ok(Some(length)) => request.input.consume(length),
                Ok(None) => break,
                Err(error) => {
                    write!(request.output, "-ERR Protocol error: {error}\r\n")?;
                    return Ok(Next::Close);
                }
            }
            if let [name, words @ ..] = &words[..] {
                match self.run(request, &name.to_ascii_uppercase(), words) {
                    Ok(Next::Wait) => {}
                    Err(Error::Other(text)) => write!(request.output, "-{text}\r\n")?,
                    end => return end,
                }
            }
            words.clear();
        }
        Ok(Next::Wait)
    }

    fn finish(&mut self, request: &mut Request<'_, Store>, _: EndReason) {
        std::mem::take(&mut self.channels).iter().for_each(|channel| leave(request, channel));
    }
}

impl Client {
    /// Runs a command. Those on data are in `commands.rs`.
    fn run(&mut self, request: &mut Request<'_, Store>, name: &[u8], words: &[&[u8]]) -> Result<Next> {
        let (me, is_resp3, is_subscribed) = (request.id(), self.is_resp3, !self.channels.is_empty());
        let mut out = Replies { out: &mut request.output, is_resp3 };
        match (name, words) {
            (b"QUIT", []) => {
                out.simple("OK")?;
                return Ok(Next::Close);
            }
            (b"SUBSCRIBE" | b"PSUBSCRIBE", [_, ..]) if self.channels.len() + words.len() > CHANNELS_MAX => {
                return Err("ERR too many channels".into());
            }
            (b"SUBSCRIBE" | b"PSUBSCRIBE", [_, ..]) => {
                let mut limits = ConnectionLimits::default();
                limits.output_bytes_max = Some(request.server.outputs[1]);
                request.set_limits(&limits)?;
                request.set_timeout(Timeout::Idle, None);
                for &word in words {
                    let channel = (name[0] == b'P', word.into());
                    self.channels.insert(channel.clone());
                    let clients = request.server.channels[usize::from(channel.0)].entry(channel.1).or_default();
                    clients.insert(me, is_resp3);
                    self.confirm(request, name, Some(word))?;
                }
            }
            (b"UNSUBSCRIBE" | b"PUNSUBSCRIBE", _) => {
                let is_pattern = name[0] == b'P';
                let mut left: Vec<Channel> = words.iter().map(|&word| (is_pattern, word.into())).collect();
                if words.is_empty() {
                    left.extend(self.channels.iter().filter(|channel| channel.0 == is_pattern).cloned());
                }
                for channel in &left {
                    self.channels.remove(channel);
                    leave(request, channel);
                    self.confirm(request, name, Some(&channel.1))?;
                }
                if left.is_empty() {
                    self.confirm(request, name, None)?;
                }
            }
            (b"PING", []) if is_subscribed && !is_resp3 => out.array(b'*', [&b"pong"[..], b""])?,
            _ if is_subscribed && !is_resp3 => return Err(NOT_SUBSCRIBED.into()),
            (b"PING", []) => out.simple("PONG")?,
            (b"PING" | b"ECHO", [text]) => out.bulk(text)?,
            (b"SELECT", [b"0"]) => out.simple("OK")?,
            (b"HELLO", [] | [b"2" | b"3"]) => {
                self.is_resp3 = words.first().map_or(is_resp3, |version| *version == b"3");
                out.is_resp3 = self.is_resp3;
                out.begin(b'%', 6)?;
                [&b"server"[..], b"redis", b"version", VERSION, b"proto"].iter().try_for_each(|word| out.bulk(word))?;
                out.number(b':', if self.is_resp3 { 3 } else { 2 })?;
            }
            (b"PUBLISH", [channel, text]) => {
                let [channels, patterns] = &request.server.channels;
                let exact = channels.get_key_value(*channel).map(|(_, clients)| (None, clients));
                let patterns = patterns.iter().filter(|(pattern, _)| matches(pattern, channel));
                let mut count = 0;
                let patterns = patterns.map(|(pattern, clients)| (Some(&pattern[..]), clients));
                for (pattern, clients) in exact.into_iter().chain(patterns) {
                    let kind = if pattern.is_some() { &b"pmessage"[..] } else { b"message" };
                    let words: Vec<_> = [kind].into_iter().chain(pattern).chain([*channel, *text]).collect();
                    let mut messages = [Vec::new(), Vec::new()];
                    for (is_resp3, out) in [false, true].into_iter().zip(&mut messages) {
                        Replies { out, is_resp3 }.array(b'>', words.iter().copied())?;
                    }
                    for (&id, &is_resp3) in clients {
                        let message = &messages[usize::from(is_resp3)];
                        if id == me { out.out.write_all(message)? } else { _ = request.others.send(id, message) }
                    }
                    count += clients.len();
                }
                out.number(b':', count)?;
            }
            (b"CLIENT", [what, words @ ..]) => client(request, is_resp3, &what.to_ascii_uppercase(), words)?,
            (b"CONFIG", [b"GET" | b"get", names @ ..]) => {
                let [normal, subscriber] = request.server.outputs;
                let maxmemory = request.server.data_bytes_max.to_string();
                let output = format!("normal {normal} 0 0 pubsub {subscriber} 0 0");
                let all = [
                    ("appendonly", "no"),
                    ("maxmemory", &maxmemory),
                    ("save", ""),
                    ("client-output-buffer-limit", &output),
                ];
                let wanted = all.iter().filter(|(name, _)| names.contains(&name.as_bytes()) || names == [b"*"]);
                out.array(b'%', wanted.flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]))?;
            }
            (b"INFO", _) => {
                let (stats, uptime) = (request.others.stats(), request.others.now().as_secs());
                let (channels, keys) = (request.server.channels[0].len(), request.server.data.entries.len());
                let text = format!(
                    "# Server\r\nredis_version:{}\r\nuptime_in_seconds:{uptime}\r\n\r\n\
                     # Clients\r\nconnected_clients:{}\r\npubsub_channels:{channels}\r\n\r\n\
                     # Memory\r\nused_memory:{}\r\n\r\n# Stats\r\ntotal_connections_received:{}\r\ntotal_net_input_bytes:{}\r\n\
                     total_net_output_bytes:{}\r\n\r\n# Keyspace\r\ndb0:keys={keys}\r\n",
                    VERSION.escape_ascii(),
                    stats.active,
                    request.server.data.used,
                    stats.accepted,
                    stats.bytes_in,
                    stats.bytes_out
                );
                out.bulk(text.as_bytes())?;
            }
            _ if request.server.data.used > request.server.data_bytes_max && GROWING.contains(&name) => {
                return Err("OOM command not allowed when used memory > 'maxmemory'.".into());
            }
            _ if commands::run(&mut request.server.data, &mut out, name, words)? => {}
            (b"HELLO", _) => return Err("NOPROTO unsupported protocol version".into()),
            _ => {
                let text = String::from_utf8_lossy(name).to_lowercase();
                if COMMANDS.split_ascii_whitespace().any(|command| command == text) {
                    return Err(format!("ERR wrong number of arguments for '{text}' command").into());
                }
                let words: String = words.iter().take(20).map(|word| format!("'{}' ", word.escape_ascii())).collect();
                let name = name.escape_ascii();
                return Err(format!("ERR unknown command '{name}', with args beginning with: {words}").into());
            }
        }
        Ok(Next::Wait)
    }

    fn confirm(&self, request: &mut Request<'_, Store>, what: &[u8], channel: Option<&[u8]>) -> Result<()> {
        let mut out = Replies { out: &mut request.output, is_resp3: self.is_resp3 };
        out.begin(b'>', 3)?;
        out.bulk(&what.to_ascii_lowercase())?;
        out.bulk_or_null(channel)?;
        Ok(out.number(b':', self.channels.len())?)
    }
}

fn leave(request: &mut Request<'_, Store>, channel: &Channel) {
    let me = request.id();
    let channels = &mut request.server.channels[usize::from(channel.0)];
    if let Some(clients) = channels.get_mut(&channel.1) {
        clients.remove(&me);
        if clients.is_empty() {
            channels.remove(&channel.1);
        }
    }
}

/// Commands about clients.
fn client(request: &mut Request<'_, Store>, is_resp3: bool, what: &[u8], words: &[&[u8]]) -> Result<()> {
    let me = request.id();
    let mut all = vec![(me, request.client_address())];
    let others = request.others.connections().into_iter();
    all.extend(others.filter_map(|id| Some((id, request.others.client_address(id)?))));
    let mut out = Replies { out: &mut request.output, is_resp3 };
    match (what, words) {
        (b"ID", []) => write!(out.out, ":{me}\r\n")?,
        (b"LIST", []) => {
            let mut text = String::new();
            for (id, address) in all {
                let unsent = request.others.output_len(id).unwrap_or(0);
                writeln!(text, "id={id} addr={address} omem={unsent}")?;
            }
            out.bulk(text.as_bytes())?;
        }
        (b"KILL", [wanted]) | (b"KILL", [b"ID" | b"id" | b"ADDR" | b"addr", wanted]) => {
            let is_wanted = |text: String| text.as_bytes() == *wanted;
            all.retain(|(id, address)| is_wanted(address.to_string()) || words.len() == 2 && is_wanted(id.to_string()));
            all.iter().for_each(|(id, _)| request.others.close(*id));
            match words.len() {
                1 if all.is_empty() => return Err("ERR No such client".into()),
                1 => out.simple("OK")?,
                _ => out.number(b':', all.len())?,
            }
        }
        _ => return Err("ERR unknown subcommand of CLIENT".into()),
    }
    Ok(())
}

/// Keys and values, for redis-cli and other clients of Redis
#[derive(clap::Parser)]
struct Args {
    /// Where to listen; port 0 lets the system choose
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:6380")]
    address: String,
    /// An additional path to listen on, or @NAME for an abstract name
    #[cfg(unix)]
    #[arg(long, value_name = "PATH")]
    unix: Option<socketserver::UnixAddress>,
    /// With --tls or --self-signed: the additional address to listen on for TLS
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6390", requires = "TlsOptions")]
    tls_address: String,
    #[command(flatten)]
    tls: tls::TlsOptions,
    /// How many bytes may wait for a client before it is dropped
    #[arg(long, value_name = "BYTES", default_value = "67108864")]
    output: usize,
    /// The same for a client that has subscribed to channels
    #[arg(long, value_name = "BYTES", default_value = "8388608")]
    subscriber_output: usize,
    /// About how many bytes all keys and values may need; then nothing more is stored
    #[arg(long, value_name = "BYTES", default_value = "1073741824")]
    data: usize,
    #[command(flatten)]
    options: common::Options,
}

fn main() -> ExitCode {
    common::run(|args: Args| {
        let store =
            Store { outputs: [args.output, args.subscriber_output], data_bytes_max: args.data, ..Store::default() };
        let mut server = TcpServer::unbound_with_server(store, |_, _| Client::default());
        server.limits.output_bytes_max = args.output;
        server.limits.input_bytes_max = 2 * protocol::WORD_BYTES_MAX;
        let mut tcp = TcpOptions::default();
        tcp.keepalive = Some(Keepalive { idle: Duration::from_secs(300), interval: Duration::from_secs(60) });
        server.server_bind_with(args.address, tcp.clone())?;
        tcp.tls = args.tls.acceptor()?;
        if tcp.tls.is_some() {
            server.server_bind_with(args.tls_address, tcp)?;
        }
        #[cfg(unix)]
        if let Some(path) = args.unix {
            server.server_bind_as::<family::UnixStream>(path, UnixOptions::default())?;
        }
        let mut server = server.server_activate()?;
        server.set_interval(0, Duration::from_millis(100));
        args.options.serve(server)
    })
}

/// The version of Redis whose commands these are, as far as they go.
const VERSION: &[u8] = b"7.0.0";
const NOT_SUBSCRIBED: &str = "ERR only (P|UN|PUN)SUBSCRIBE, PING and QUIT are allowed here";
/// The commands that need another number of words if they come here.
const COMMANDS: &str = "client config dbsize decr del echo exists expire flushall get hdel hget hgetall hset incr incrby keys \
    llen lpop lpush lrange mset pexpire ping psubscribe pttl publish quit rpop rpush sadd scan set smembers spop srem \
    subscribe ttl";
/// Commands that may need more memory.
const GROWING: [&[u8]; 9] = [b"SET", b"MSET", b"INCR", b"DECR", b"INCRBY", b"LPUSH", b"RPUSH", b"HSET", b"SADD"];
const CHANNELS_MAX: usize = 10_000;
