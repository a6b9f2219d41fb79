//! A name server: answers for one zone, and asks another server about everything else.
//!
//! ```text
//! cargo run --release --example dns -- examples/dns/example.zone 127.0.0.1:5353 --forward 9.9.9.9:53
//! dig @127.0.0.1 -p 5353 www.example.com
//! dnsperf -s 127.0.0.1 -p 5353 -d queries
//! ```
//!
//! `zone.rs` has the zone. UDP and TCP have the same address and the same handlers. An answer that is too long for UDP is
//! cut, and the client asks again over TCP. A question for the other server is asked from a new port and with a new id
//! each time, so that nobody can guess what a forged answer would need.

#[path = "../common/mod.rs"]
mod common;
mod zone;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, LowerName, RecordType};
use socketserver::{
    Address, BaseServer, ConnectionId, EndReason, Error, Next, Prefix, Request, RequestHandler, Result, TcpServer,
};

/// What all clients share.
struct Names {
    zone: Arc<zone::Zone>,
    forward: Option<SocketAddr>,
    /// Answers for UDP, by the question without its id. Everybody asks for the same few names.
    known: HashMap<Vec<u8>, Vec<u8>>,
    /// Questions that the other server has not answered yet.
    asking: usize,
}

/// What to do with a message: send this, which may be nothing, or ask this server.
enum Reply {
    Now(Vec<u8>),
    Forward(SocketAddr),
}

impl BaseServer for Names {}

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
            let packet = request.input.take_all();
            match request.server.reply(packet, true) {
                Reply::Now(answer) if answer.is_empty() => {}
                Reply::Now(answer) => request.output.write_all(&answer)?,
                Reply::Forward(server) if Question::ask(request, server, packet).is_ok() => {}
                Reply::Forward(_) => request.output.write_all(&failure(packet, ResponseCode::ServFail))?,
            }
            return Ok(Next::Close);
        }
        while let Some(packet) = request.input.read_frame(Prefix::U16Be)? {
            match request.server.reply(packet, false) {
                Reply::Now(answer) if answer.is_empty() => return Ok(Next::Close),
                Reply::Now(answer) => request.output.write_frame(Prefix::U16Be, &answer)?,
                Reply::Forward(server) if Question::ask(request, server, packet).is_ok() => {
                    request.pause_reading(); // One question at a time.
                    break;
                }
                Reply::Forward(_) => {
                    request.output.write_frame(Prefix::U16Be, &failure(packet, ResponseCode::ServFail))?;
                }
            }
        }
        Ok(Next::Wait)
    }
}

/// A question to the other server, over UDP or TCP as it came.
struct Question {
    /// The client, and its query.
    client: Address,
    stream: Option<ConnectionId>,
    packet: Vec<u8>,
    /// The same with another id. `None`: it is answered.
    query: Option<Vec<u8>>,
    forged: usize,
}

impl Question {
    fn ask(request: &mut Request<'_, Names>, server: SocketAddr, packet: &[u8]) -> Result<()> {
        let stream = (!request.is_datagram()).then(|| request.id());
        // The hasher of a new `RandomState` has a key that nobody knows.
        let id = RandomState::new().hash_one(()).to_be_bytes();
        let query = Some([&id[..2], &packet[2..]].concat());
        let question = Question { client: request.client_address(), stream, packet: packet.to_vec(), query, forged: 0 };
        match stream {
            _ if request.server.asking >= ASKING_MAX => Err(std::io::Error::other("too many questions"))?,
            None => request.others.connect_datagram(server, question)?,
            Some(_) => request.others.connect(server, question)?,
        };
        request.server.asking += 1;
        Ok(())
    }

    fn answer(&mut self, request: &mut Request<'_, Names>, answer: &[u8]) {
        self.query = None;
        let _ = match self.stream {
            None => request.others.send_to(&self.client, answer),
            Some(id) => {
                request.others.resume_reading(id);
                request.others.send(id, &[&(answer.len() as u16).to_be_bytes(), answer].concat())
            }
        };
    }

    /// Nobody has answered.
    fn fail(&mut self, request: &mut Request<'_, Names>) {
        request.server.asking -= 1;
        if self.query.is_some() {
            self.answer(request, &failure(&self.packet, ResponseCode::ServFail));
        }
    }
}

impl RequestHandler<Names> for Question {
    fn setup(&mut self, request: &mut Request<'_, Names>) -> Result<Next> {
        request.set_message_deadline(Some(WAIT));
        let query = self.query.as_deref().unwrap_or_default();
        match self.stream {
            None => request.output.write_all(query)?,
            Some(_) => request.output.write_frame(Prefix::U16Be, query)?,
        }
        Ok(Next::Wait)
    }

    fn handle(&mut self, request: &mut Request<'_, Names>) -> Result<Next> {
        let answer = match self.stream {
            None => request.input.take_all(),
            Some(_) => match request.input.read_frame(Prefix::U16Be)? {
                Some(answer) => answer,
                None => return Ok(Next::Wait),
            },
        };
        if self.query.as_ref().is_some_and(|query| is_answer(answer, query)) {
            self.answer(request, &[&self.packet[..2], &answer[2..]].concat());
            return Ok(Next::Close);
        }
        self.forged += 1;
        Ok(if self.forged < FORGED_MAX { Next::Wait } else { Next::Close })
    }

    /// The stop waits for the answer.
    fn drain(&mut self, _: &mut Request<'_, Names>) -> Result<Next> {
        Ok(Next::Wait)
    }

    fn finish(&mut self, request: &mut Request<'_, Names>, why: EndReason) {
        if self.query.is_some() {
            log::debug!("no answer from {}: {why}", request.client_address());
        }
        self.fail(request);
    }

    fn connect_failed(&mut self, request: &mut Request<'_, Names>, _: &Error) {
        self.fail(request);
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
            let names = Names { zone: Arc::clone(&zone), forward: args.forward, known: HashMap::new(), asking: 0 };
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
/// The most questions that wait for an answer, each with a descriptor.
const ASKING_MAX: usize = 1_000;
