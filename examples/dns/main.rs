//! A name server: answers for one zone, and asks another server about everything else.
//!
//! ```text
//! cargo run --release --example dns -- examples/dns/example.zone 127.0.0.1:5353 --forward 9.9.9.9:53
//! dig @127.0.0.1 -p 5353 www.example.com
//! dnsperf -s 127.0.0.1 -p 5353 -d queries
//! ```
//!
//! `zone.rs` has the zone. UDP and TCP have the same address and the same handlers. An answer that is too long for UDP is
//! sent without its records, and the client asks again over TCP. That applies to answers of the other server, too. A question for the other server is asked from a new port and with a new id
//! each time, so that nobody can guess what a forged answer would need.

#[path = "../common/mod.rs"]
mod common;
mod zone;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, LowerName, RecordType};
use socketserver::{BaseServer, EndReason, Error, Next, Origin, Prefix, Request, RequestHandler, Result, TcpServer};

/// What all clients share.
struct Names {
    zone: Arc<zone::Zone>,
    forward: Option<SocketAddr>,
    /// Answers for UDP, by the question without its id. Everybody asks for the same few names.
    known: HashMap<Vec<u8>, Vec<u8>>,
    /// Questions that the other server has not answered yet.
    asking: usize,
    /// Questions that were given up because of wrong answers.
    forged: u64,
}

impl BaseServer for Names {}

/// What becomes of a message.
enum Reply {
    Answer(Vec<u8>),
    /// Another server is asked this query. If it does not answer, the client gets these bytes.
    Forward(Message, Vec<u8>),
    Nothing,
}

impl Names {
    fn reply(&mut self, packet: &[u8], is_udp: bool) -> Reply {
        let known = packet.get(2..).and_then(|question| self.known.get(question)).filter(|_| is_udp);
        if let Some(known) = known {
            return Reply::Answer([&packet[..2], &known[2..]].concat());
        }
        let query = match Message::from_vec(packet) {
            Ok(query) if query.metadata.message_type == MessageType::Query => query,
            Err(_) if packet.len() >= 12 && packet[2] & 0x80 == 0 => {
                let id = u16::from_be_bytes([packet[0], packet[1]]);
                let error = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
                return Reply::Answer(error.to_vec().unwrap_or_default());
            }
            // Neither a fragment nor a response is answered, so that two servers cannot go on answering each other.
            _ => return Reply::Nothing,
        };
        let mut response = query.truncate(); // Without records, but with the question and EDNS as in the query.
        response.metadata = Metadata::response_from_request(&query.metadata);
        response.metadata.recursion_available = self.forward.is_some();
        response.edns.iter_mut().for_each(|edns| *edns = Edns::new().set_max_payload(PAYLOAD_MAX).clone());
        let mut forwards = false;
        response.metadata.response_code = match &query.queries[..] {
            _ if query.version() > 0 => ResponseCode::BADVERS,
            _ if query.metadata.op_code != OpCode::Query => ResponseCode::NotImp,
            [asked] if asked.query_class() != DNSClass::IN || NOT_SERVED.contains(&asked.query_type()) => {
                ResponseCode::Refused
            }
            [asked] if self.zone.has(&LowerName::new(asked.name())) => self.zone.answer(&mut response),
            [_] if query.metadata.recursion_desired && self.forward.is_some() => {
                forwards = true;
                ResponseCode::ServFail // For the case that the other server does not answer.
            }
            [_] => ResponseCode::Refused,
            _ => ResponseCode::FormErr,
        };
        let answer = fitting(&response, room(&query, is_udp));
        if forwards {
            return Reply::Forward(query, answer);
        }
        if is_udp {
            if self.known.len() >= KNOWN_MAX {
                self.known.clear();
            }
            self.known.insert(packet[2..].to_vec(), answer.clone());
        }
        Reply::Answer(answer)
    }
}

/// The longest answer to this query that the client takes.
fn room(query: &Message, is_udp: bool) -> u16 {
    if is_udp { query.max_payload().clamp(512, PAYLOAD_MAX) } else { u16::MAX }
}

/// A response in bytes. If it is longer than the client takes, it has no records but the flag TC, so that the client asks
/// again over TCP.
fn fitting(response: &Message, room: u16) -> Vec<u8> {
    let whole = response.to_vec().ok().filter(|bytes| bytes.len() <= usize::from(room));
    whole.or_else(|| response.truncate().to_vec().ok()).unwrap_or_default()
}

/// A connection, or one datagram.
struct Client;

impl RequestHandler<Names> for Client {
    fn handle(&mut self, request: &mut Request<'_, Names>) -> Result<Next> {
        let is_udp = request.is_datagram();
        while let Some(packet) = request.read_message(Prefix::U16Be)? {
            let answer = match request.server.reply(packet, is_udp) {
                Reply::Answer(answer) => answer,
                Reply::Forward(query, failure) => {
                    if Question::ask(request, query, &failure).is_ok() {
                        // The next question of a connection waits for this answer. A datagram has only one question.
                        request.pause_reading();
                        break;
                    }
                    failure
                }
                Reply::Nothing => return Ok(Next::Close),
            };
            request.write_message(Prefix::U16Be, &answer)?;
        }
        Ok(Next::Wait)
    }
}

/// A question to the other server, over UDP or TCP as it came.
struct Question {
    client: Origin,
    /// The client's query with another id. Its EDNS allows no longer answer than the client gets.
    query: Message,
    /// What the client gets: an error, until the answer has arrived.
    answer: Vec<u8>,
    /// The longest answer that the client takes.
    room: u16,
    /// How many wrong answers have come.
    wrong: u32,
}

impl Question {
    fn ask(request: &mut Request<'_, Names>, mut query: Message, failure: &[u8]) -> Result<()> {
        let is_free = request.server.asking < ASKING_MAX;
        let server = request.server.forward.filter(|_| is_free).ok_or("too many questions")?;
        // The hasher of a new `RandomState` has a key that nobody knows.
        query.metadata.id = RandomState::new().hash_one(()) as u16;
        let (client, room) = (request.origin(), room(&query, request.is_datagram()));
        query.edns.iter_mut().for_each(|edns| _ = edns.set_max_payload(room));
        let question = Question { client, query, answer: failure.to_vec(), room, wrong: 0 };
        match request.is_datagram() {
            true => request.others.connect_datagram(server, question)?,
            false => request.others.connect(server, question)?,
        };
        request.server.asking += 1;
        Ok(())
    }

    /// Takes a message as the answer if it has the id and the question of the query. Returns whether it does.
    fn take(&mut self, message: &[u8]) -> bool {
        let Ok(answer) = Message::from_vec(message) else { return false };
        let is_response = answer.metadata.message_type == MessageType::Response;
        if !is_response || answer.metadata.id != self.query.metadata.id || answer.queries != self.query.queries {
            return false;
        }
        let answer =
            if message.len() <= usize::from(self.room) { message.to_vec() } else { fitting(&answer, self.room) };
        self.answer.truncate(2); // The client's id.
        self.answer.extend(answer.into_iter().skip(2));
        true
    }

    fn end(&self, request: &mut Request<'_, Names>) {
        request.server.asking -= 1;
        request.others.resume_reading(self.client.id());
        let _ = request.others.answer_message(&self.client, Prefix::U16Be, &self.answer); // The client may have gone.
    }
}

impl RequestHandler<Names> for Question {
    fn setup(&mut self, request: &mut Request<'_, Names>) -> Result<Next> {
        request.set_message_deadline(Some(WAIT));
        request.write_message(Prefix::U16Be, &self.query.to_vec().map_err(Error::other)?)?;
        Ok(Next::Wait)
    }

    fn handle(&mut self, request: &mut Request<'_, Names>) -> Result<Next> {
        while let Some(message) = request.read_message(Prefix::U16Be)? {
            if self.take(message) {
                return Ok(Next::Close);
            }
            self.wrong += 1;
            if self.wrong == WRONG_MAX {
                request.server.forged += 1;
                let forged = request.server.forged;
                // Not a line for each question: somebody may send wrong answers to all of them.
                if forged.is_power_of_two() {
                    log::warn!("questions given up after {WRONG_MAX} wrong answers each: {forged}");
                }
                return Ok(Next::Close);
            }
        }
        Ok(Next::Wait)
    }

    /// The stop waits for the answer.
    fn drain(&mut self, _: &mut Request<'_, Names>) -> Result<Next> {
        Ok(Next::Wait)
    }

    fn finish(&mut self, request: &mut Request<'_, Names>, _: EndReason) {
        self.end(request);
    }

    fn connect_failed(&mut self, request: &mut Request<'_, Names>, _: &Error) {
        self.end(request);
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
            let (zone, forward) = (Arc::clone(&zone), args.forward);
            let names = Names { zone, forward, known: HashMap::new(), asking: 0, forged: 0 };
            let mut server = TcpServer::unbound_with_server(names, |_, _| Client);
            server.limits.read_bytes_per_turn = READ_BYTES;
            server
        })?)
    })
}

/// Transfers of zones, and questions for everything, which only help to attack others with long answers.
const NOT_SERVED: [RecordType; 3] = [RecordType::AXFR, RecordType::IXFR, RecordType::ANY];
/// Over TCP, a few queries of each client are answered in a turn. So a client waits little beside others that send many.
const READ_BYTES: usize = 128;
/// The longest answer over UDP that is not cut into fragments on its way.
const PAYLOAD_MAX: u16 = 1_232;
const KNOWN_MAX: usize = 10_000;
/// How long another server has to answer.
const WAIT: Duration = Duration::from_secs(2);
/// After so many wrong answers somebody is guessing the id.
const WRONG_MAX: u32 = 8;
/// The most questions that wait for an answer, each with a descriptor.
const ASKING_MAX: usize = 1_000;
