//! A name server: answers for one zone, and asks another server about everything else.
//!
//! ```text
//! cargo run --release --example dns -- examples/dns/example.zone 127.0.0.1:5353 --forward 9.9.9.9:53
//! dig @127.0.0.1 -p 5353 www.example.com
//! dnsperf -s 127.0.0.1 -p 5353 -d queries
//! ```
//!
//! `zone.rs` has the zone. UDP and TCP have the same address and the same handlers. An answer that is too long for UDP is
//! cut, and the client asks again over TCP. A question for the other server is asked on a thread, from a new port and with
//! a new id each time, so that nobody can guess what a forged answer would need.

#[path = "../common/mod.rs"]
mod common;
mod zone;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, LowerName, RecordType};
use socketserver::{
    Address, BaseServer, DatagramRequestHandler, Error, Incoming, Message as Done, Next, Prefix, Request,
    RequestHandler, Result, ServeOn, TcpServer,
};

/// What all clients share.
struct Names {
    zone: Arc<zone::Zone>,
    forward: Option<SocketAddr>,
    /// Answers for UDP, by the question without its id. Everybody asks for the same few names.
    known: HashMap<Vec<u8>, Vec<u8>>,
}

/// What to do with a message: send this, which may be nothing, or ask this server.
enum Reply {
    Now(Vec<u8>),
    Forward(SocketAddr),
}

impl BaseServer for Names {
    /// A datagram that another server has to answer is served by a thread.
    fn process_request(&mut self, request: &Incoming<'_>, _: &Address) -> ServeOn<Self> {
        match request {
            Incoming::Datagram { packet, .. } if self.forward.is_some() => match self.reply(packet, true) {
                Reply::Now(_) => ServeOn::Reactor, // It is known from now on.
                Reply::Forward(server) => ServeOn::thread(DatagramRequestHandler::new(move |request| {
                    let answer = ask(server, request.socket().packet(), true);
                    Ok(request.wfile.write_all(&answer)?)
                })),
            },
            _ => ServeOn::Reactor,
        }
    }
}

impl Names {
    fn reply(&mut self, packet: &[u8], is_udp: bool) -> Reply {
        let known = packet.get(2..).and_then(|question| self.known.get(question)).filter(|_| is_udp);
        if let Some(known) = known {
            return Reply::Now([&packet[..2], &known[2..]].concat());
        }
        let Some(query) = understood(packet) else { return Reply::Now(failure(packet, ResponseCode::FormErr)) };
        let mut response = response_to(&query);
        response.metadata.recursion_available = self.forward.is_some();
        let refusal = match &query.queries[..] {
            _ if query.edns.as_ref().is_some_and(|edns| edns.version() > 0) => Some(ResponseCode::BADVERS),
            _ if query.metadata.op_code != OpCode::Query => Some(ResponseCode::NotImp),
            [asked] if asked.query_class() != DNSClass::IN || NOT_SERVED.contains(&asked.query_type()) => {
                Some(ResponseCode::Refused)
            }
            [asked] if self.zone.has(&LowerName::new(asked.name())) => {
                self.zone.answer(&mut response);
                None
            }
            [_] => match self.forward.filter(|_| query.metadata.recursion_desired) {
                Some(server) => return Reply::Forward(server),
                None => Some(ResponseCode::Refused),
            },
            _ => Some(ResponseCode::FormErr),
        };
        if let Some(code) = refusal {
            response.metadata.response_code = code;
            // The low four bits are in the header, the others in the record OPT.
            response.edns.iter_mut().for_each(|edns| _ = edns.set_rcode_high(code.high()));
        }
        let room = if is_udp { query.max_payload().clamp(512, PAYLOAD_MAX) } else { u16::MAX };
        let bytes = response.to_vec().ok().filter(|bytes| bytes.len() <= usize::from(room));
        let bytes = bytes.or_else(|| response.truncate().to_vec().ok()).unwrap_or_default();
        if is_udp {
            if self.known.len() >= KNOWN_MAX {
                self.known.clear();
            }
            self.known.insert(packet[2..].to_vec(), bytes.clone());
        }
        Reply::Now(bytes)
    }
}

/// Reads a query. Whatever else arrives is no question.
fn understood(packet: &[u8]) -> Option<Message> {
    Message::from_vec(packet).ok().filter(|query| query.metadata.message_type == MessageType::Query)
}

/// An empty response to a query.
fn response_to(query: &Message) -> Message {
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata = Metadata::response_from_request(&query.metadata);
    response.queries.clone_from(&query.queries);
    if query.edns.is_some() {
        response.set_edns(Edns::new()).edns.iter_mut().for_each(|edns| _ = edns.set_max_payload(PAYLOAD_MAX));
    }
    response
}

/// An answer with an error. There is none to a response, so that two servers cannot go on answering each other.
fn failure(packet: &[u8], code: ResponseCode) -> Vec<u8> {
    let mut response = match understood(packet) {
        Some(query) => response_to(&query),
        None if packet.len() >= 12 && packet[2] & 0x80 == 0 => {
            Message::response(u16::from_be_bytes([packet[0], packet[1]]), OpCode::Query)
        }
        None => return Vec::new(),
    };
    response.metadata.response_code = code;
    response.to_vec().unwrap_or_default()
}

/// Asks another server, and waits for its answer.
fn ask(server: SocketAddr, packet: &[u8], is_udp: bool) -> Vec<u8> {
    // The hasher of a new `RandomState` has a key that nobody knows.
    let id = RandomState::new().hash_one(()).to_be_bytes();
    let query = [&id[..2], &packet[2..]].concat();
    match if is_udp { ask_over_udp(server, &query) } else { ask_over_tcp(server, &query) } {
        Ok(answer) => [&packet[..2], &answer[2..]].concat(),
        Err(error) => {
            log::debug!("no answer from {server}: {:#}", Error::from(error));
            failure(packet, ResponseCode::ServFail)
        }
    }
}

fn ask_over_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any = if server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    // The system chooses the port, and accepts only what comes from the server's address.
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(WAIT))?;
    socket.send(query)?;
    let mut answer = vec![0; usize::from(u16::MAX)];
    for _ in 0..FORGED_MAX {
        let length = socket.recv(&mut answer)?;
        if is_answer(&answer[..length], query) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

fn ask_over_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, WAIT)?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.write_all(&[&(query.len() as u16).to_be_bytes(), query].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    if is_answer(&answer, query) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Returns whether a message has the id and the question of a query.
fn is_answer(answer: &[u8], query: &[u8]) -> bool {
    let parsed = Message::from_vec(answer).ok().zip(Message::from_vec(query).ok());
    parsed.is_some_and(|(answer, query)| {
        let is_response = answer.metadata.message_type == MessageType::Response;
        is_response && answer.metadata.id == query.metadata.id && answer.queries == query.queries
    })
}

/// A connection, or one datagram.
struct Client;

impl RequestHandler<Names> for Client {
    fn handle(&mut self, request: &mut Request<'_, Names>) -> Result<Next> {
        if request.is_datagram() {
            if let Reply::Now(answer) = request.server.reply(request.input.take_all(), true)
                && !answer.is_empty()
            {
                request.output.write_all(&answer)?;
            }
            return Ok(Next::Close);
        }
        while let Some(packet) = request.input.read_frame(Prefix::U16Be)? {
            match request.server.reply(packet, false) {
                Reply::Now(answer) if answer.is_empty() => return Ok(Next::Close),
                Reply::Now(answer) => request.output.write_frame(Prefix::U16Be, &answer)?,
                Reply::Forward(server) => {
                    let packet = packet.to_vec();
                    request.offload(move || ask(server, &packet, false))?;
                    request.pause_reading(); // One question at a time.
                    break;
                }
            }
        }
        Ok(Next::Wait)
    }

    fn message(&mut self, request: &mut Request<'_, Names>, answer: Done) -> Result<Next> {
        if let Ok(answer) = answer.downcast::<Vec<u8>>() {
            request.output.write_frame(Prefix::U16Be, &answer)?;
        }
        request.resume_reading();
        Ok(Next::Wait)
    }
}

/// Answers for a zone, and asks another server about everything else
///
/// Standard output gets two lines, "listening on ADDRESS" for TCP and "listening on udp ADDRESS".
#[derive(clap::Parser)]
struct Args {
    /// The zone file, with its name in a line "$ORIGIN example.com."
    zone: PathBuf,
    /// Where to listen; port 0 lets the system choose one that is free for both
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:5353")]
    address: String,
    /// The server to ask about other names; without it, they are refused
    #[arg(long, value_name = "ADDR")]
    forward: Option<SocketAddr>,
    #[command(flatten)]
    options: common::Options,
}

fn main() -> ExitCode {
    common::run(|args: Args| {
        let failed = |why| format!("cannot read the zone {}: {why}", args.zone.display());
        let zone = Arc::new(zone::Zone::read(&args.zone).map_err(failed)?);
        args.options.serve(common::bind_both(&args.address, || {
            let names = Names { zone: Arc::clone(&zone), forward: args.forward, known: HashMap::new() };
            TcpServer::unbound_with_server(names, |_, _| Client)
        })?)
    })
}

/// Transfers of zones, and questions for everything, which only help to attack others with long answers.
const NOT_SERVED: [RecordType; 3] = [RecordType::AXFR, RecordType::IXFR, RecordType::ANY];
/// The longest answer over UDP that is not cut into fragments on its way.
const PAYLOAD_MAX: u16 = 1_232;
const KNOWN_MAX: usize = 10_000;
/// How long another server has to answer, and how many wrong answers there may be.
const WAIT: Duration = Duration::from_secs(2);
const FORGED_MAX: usize = 8;
