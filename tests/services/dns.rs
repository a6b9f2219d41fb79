//! The name server: `dig`, `dnsperf`, and hostile clients and servers.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::programs::{DEADLINE, Program, connected, start_with};
use crate::{Directory, Random, resets, rest, said_by, tool, trickle, write};

/// The example's zone, with a name whose records are too long for UDP.
fn dns(scratch: &Directory, arguments: &[&str]) -> Option<Program> {
    let mut zone = include_str!("../../examples/dns/example.zone").to_owned();
    (0..30).for_each(|n| zone += &format!("big IN TXT \"{n:03} {}\"\n", "x".repeat(100)));
    let zone = scratch.file("zone", zone);
    start_with("dns", &[&[&zone, "127.0.0.1:0"], arguments].concat(), 2)
}

/// The example, and a server that it asks over UDP about other names.
fn forwarding(scratch: &Directory) -> Option<(Program, UdpSocket)> {
    let upstream = UdpSocket::bind("127.0.0.1:0").unwrap();
    upstream.set_read_timeout(Some(DEADLINE)).unwrap();
    let at = upstream.local_addr().unwrap().to_string();
    Some((dns(scratch, &["--forward", &at])?, upstream))
}

fn client(dns: &Program) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(dns.address.unwrap()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = fastrand::u16(..);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn received(socket: &UdpSocket) -> Message {
    let mut buffer = [0; 65_535];
    let n = socket.recv(&mut buffer).expect("an answer");
    Message::from_vec(&buffer[..n]).unwrap()
}

#[track_caller]
fn ask(socket: &UdpSocket, query: &Message) -> Message {
    socket.send(&query.to_vec().unwrap()).unwrap();
    let answer = received(socket);
    assert_eq!((answer.metadata.id, &answer.queries), (query.metadata.id, &query.queries));
    assert_eq!(answer.metadata.message_type, MessageType::Response);
    answer
}

fn frame(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat()
}

#[track_caller]
fn framed(client: &mut TcpStream) -> Message {
    let mut length = [0; 2];
    client.read_exact(&mut length).expect("an answer");
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    client.read_exact(&mut message).unwrap();
    Message::from_vec(&message).unwrap()
}

#[test]
fn dns_answers_as_rfc_1034_says() {
    let scratch = Directory::new();
    let Some(mut dns) = dns(&scratch, &[]) else { return };
    let socket = client(&dns);
    let mut tcp = dns.connect();
    let none = ResponseCode::NoError;
    for (name, kind, code, authoritative, counts) in [
        ("www.example.com.", RecordType::A, none, true, [1, 0, 0]),
        ("WWW.eXample.com.", RecordType::AAAA, none, true, [1, 0, 0]),
        ("example.com.", RecordType::NS, none, true, [2, 0, 0]),
        ("example.com.", RecordType::MX, none, true, [1, 0, 0]),
        ("example.com.", RecordType::TXT, none, true, [1, 0, 0]),
        ("example.com.", RecordType::CAA, none, true, [1, 0, 0]),
        ("_sip._tcp.example.com.", RecordType::SRV, none, true, [1, 0, 0]),
        ("www.example.com.", RecordType::MX, none, true, [0, 1, 0]),
        ("_tcp.example.com.", RecordType::A, none, true, [0, 1, 0]),
        ("none.example.com.", RecordType::A, ResponseCode::NXDomain, true, [0, 1, 0]),
        ("a.www.example.com.", RecordType::A, ResponseCode::NXDomain, true, [0, 1, 0]),
        ("chain.example.com.", RecordType::A, none, true, [3, 0, 0]),
        ("chain.example.com.", RecordType::CNAME, none, true, [1, 0, 0]),
        ("chain.example.com.", RecordType::MX, none, true, [2, 1, 0]),
        ("loop.example.com.", RecordType::A, none, true, [8, 1, 0]),
        ("out.example.com.", RecordType::A, none, true, [1, 0, 0]),
        ("a.wild.example.com.", RecordType::A, none, true, [1, 0, 0]),
        ("a.b.wild.example.com.", RecordType::A, none, true, [1, 0, 0]),
        ("a.wild.example.com.", RecordType::MX, none, true, [0, 1, 0]),
        ("wild.example.com.", RecordType::A, none, true, [0, 1, 0]),
        ("sub.example.com.", RecordType::A, none, false, [0, 1, 1]),
        ("a.b.sub.example.com.", RecordType::MX, none, false, [0, 1, 1]),
        ("sub.example.com.", RecordType::DS, none, true, [0, 1, 0]),
        ("example.com.", RecordType::AXFR, ResponseCode::Refused, false, [0, 0, 0]),
        ("example.com.", RecordType::ANY, ResponseCode::Refused, false, [0, 0, 0]),
        ("example.net.", RecordType::A, ResponseCode::Refused, false, [0, 0, 0]),
        ("com.", RecordType::A, ResponseCode::Refused, false, [0, 0, 0]),
        (".", RecordType::NS, ResponseCode::Refused, false, [0, 0, 0]),
        ("notexample.com.", RecordType::A, ResponseCode::Refused, false, [0, 0, 0]),
    ] {
        let query = query(name, kind);
        write(&mut tcp, frame(&query.to_vec().unwrap()));
        // The second answer over UDP is one that the server remembers.
        for answer in [ask(&socket, &query), ask(&socket, &query), framed(&mut tcp)] {
            assert_eq!(answer.metadata.response_code, code, "{name} {kind}");
            assert_eq!(answer.metadata.authoritative, authoritative, "{name} {kind}");
            assert_eq!(
                [&answer.answers, &answer.authorities, &answer.additionals].map(Vec::len),
                counts,
                "{name} {kind}"
            );
            if let Some(first) = answer.answers.first() {
                assert_eq!(first.name.to_ascii(), name, "in the letters of the question");
            }
        }
    }
    // Negative answers are remembered for as long as the SOA says.
    assert_eq!(ask(&socket, &query("none.example.com.", RecordType::A)).authorities[0].ttl, 300);
    dns.stops_in_good_order();
}

#[test]
fn dns_cuts_what_is_too_long_for_udp() {
    let scratch = Directory::new();
    let Some(mut dns) = dns(&scratch, &[]) else { return };
    let socket = client(&dns);
    for (payload, room) in
        [(None, 512), (Some(100), 512), (Some(600), 600), (Some(1_232), 1_232), (Some(65_535), 1_232)]
    {
        let mut query = query("big.example.com.", RecordType::TXT);
        if let Some(payload) = payload {
            query.set_edns(Edns::new()).edns.as_mut().unwrap().set_max_payload(payload);
        }
        let answer = ask(&socket, &query);
        assert!(answer.metadata.truncation && answer.answers.is_empty(), "{payload:?}");
        assert!(answer.to_vec().unwrap().len() <= room);
        assert_eq!(answer.edns.is_some(), payload.is_some());
        let mut tcp = dns.connect();
        write(&mut tcp, frame(&query.to_vec().unwrap()));
        let answer = framed(&mut tcp);
        assert!(!answer.metadata.truncation && answer.answers.len() == 30);
    }
    dns.stops_in_good_order();
}

#[test]
fn dns_refuses_what_it_does_not_do() {
    let scratch = Directory::new();
    let Some(mut dns) = dns(&scratch, &[]) else { return };
    let socket = client(&dns);
    let good = query("www.example.com.", RecordType::A);
    let mut update = good.clone();
    update.metadata.op_code = OpCode::Update;
    let mut two = good.clone();
    two.add_query(Query::query(Name::from_ascii("example.com.").unwrap(), RecordType::A));
    let mut none = good.clone();
    none.queries.clear();
    let mut version = good.clone();
    version.set_edns(Edns::new()).edns.as_mut().unwrap().set_version(1);
    for (query, code) in [
        (update, ResponseCode::NotImp),
        (two, ResponseCode::FormErr),
        (none, ResponseCode::FormErr),
        (version, ResponseCode::BADVERS),
    ] {
        assert_eq!(u16::from(ask(&socket, &query).metadata.response_code), u16::from(code));
    }
    // A message that ends in the middle has an error for an answer, if it has a whole header.
    let bytes = good.to_vec().unwrap();
    for length in 12..bytes.len() {
        socket.send(&bytes[..length]).unwrap();
        let answer = received(&socket);
        assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
        assert_eq!(answer.metadata.id, good.metadata.id);
    }
    // Neither a response nor a fragment of a header is answered: the next answer is to the next question.
    let mut response = good.clone();
    response.metadata.message_type = MessageType::Response;
    socket.send(&response.to_vec().unwrap()).unwrap();
    (0..12).for_each(|length| _ = socket.send(&bytes[..length]).unwrap());
    socket.send(&[&bytes[..2], &[0x80; 10]].concat()).unwrap();
    assert_eq!(ask(&socket, &query("example.com.", RecordType::A)).answers.len(), 1);
    dns.stops_in_good_order();
}

// ---- forwarding ----

/// An answer with one address.
fn address_for(query: &Message) -> Message {
    let mut answer = Message::response(query.metadata.id, OpCode::Query);
    answer.queries.clone_from(&query.queries);
    answer.add_answer(Record::from_rdata(query.queries[0].name().clone(), 60, RData::A(A::new(192, 0, 2, 7))));
    answer
}

/// The next question that is forwarded, and where it comes from.
fn asked(upstream: &UdpSocket) -> (Message, SocketAddr) {
    let mut buffer = [0; 65_535];
    let (n, from) = upstream.recv_from(&mut buffer).expect("a question");
    (Message::from_vec(&buffer[..n]).unwrap(), from)
}

#[test]
fn dns_forwards_each_question_from_a_new_port_with_a_new_id() {
    let scratch = Directory::new();
    let Some((mut dns, upstream)) = forwarding(&scratch) else { return };
    let socket = client(&dns);
    let (mut ports, mut ids) = (HashSet::new(), HashSet::new());
    for n in 0..30 {
        let question = query(&format!("{n}.example.net."), RecordType::A);
        socket.send(&question.to_vec().unwrap()).unwrap();
        let (forwarded, from) = asked(&upstream);
        assert_eq!(forwarded.queries, question.queries);
        ports.insert(from.port());
        ids.insert(forwarded.metadata.id);
        // Answers with another id or to another question, and from another address, do not count.
        let mut wrong = address_for(&forwarded);
        wrong.answers.clear();
        wrong.metadata.id ^= 1;
        upstream.send_to(&wrong.to_vec().unwrap(), from).unwrap();
        let mut wrong = address_for(&query("forged.example.net.", RecordType::A));
        wrong.metadata.id = forwarded.metadata.id;
        upstream.send_to(&wrong.to_vec().unwrap(), from).unwrap();
        let mut wrong = address_for(&forwarded);
        wrong.answers.clear();
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&wrong.to_vec().unwrap(), from).unwrap();
        upstream.send_to(&address_for(&forwarded).to_vec().unwrap(), from).unwrap();
        let answer = received(&socket);
        assert_eq!((answer.metadata.id, answer.answers.len()), (question.metadata.id, 1));
    }
    assert!(ports.len() > 20 && ids.len() > 20, "{} ports, {} ids", ports.len(), ids.len());
    // What belongs to the zone, and what does not ask for recursion, is not forwarded.
    assert_eq!(ask(&socket, &query("none.example.com.", RecordType::A)).metadata.response_code, ResponseCode::NXDomain);
    let mut iterative = query("example.net.", RecordType::A);
    iterative.metadata.recursion_desired = false;
    assert_eq!(ask(&socket, &iterative).metadata.response_code, ResponseCode::Refused);
    dns.stops_in_good_order();
}

#[test]
fn dns_cuts_a_forwarded_answer_that_is_too_long_for_its_client() {
    let scratch = Directory::new();
    let Some((mut dns, upstream)) = forwarding(&scratch) else { return };
    let socket = client(&dns);
    for (payload, room) in [(None, 512), (Some(100), 512), (Some(600), 600), (Some(65_535), 1_232)] {
        let mut question = query("example.net.", RecordType::A);
        if let Some(payload) = payload {
            question.set_edns(Edns::new()).edns.as_mut().unwrap().set_max_payload(payload);
        }
        for (records, is_cut) in [(1, false), (32, room < 600), (200, true)] {
            socket.send(&question.to_vec().unwrap()).unwrap();
            let (forwarded, from) = asked(&upstream);
            // The other server is asked for no more than the client takes.
            assert_eq!(forwarded.edns.as_ref().map(Edns::max_payload), payload.map(|_| room));
            let mut answer = address_for(&forwarded);
            (1..records).for_each(|_| _ = answer.add_answer(answer.answers[0].clone()));
            upstream.send_to(&answer.to_vec().unwrap(), from).unwrap();
            let answer = received(&socket);
            assert_eq!((answer.metadata.id, &answer.queries), (question.metadata.id, &question.queries));
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
            assert_eq!(answer.metadata.truncation, is_cut, "{records} records in {room} bytes");
            assert_eq!(answer.answers.len(), if is_cut { 0 } else { records });
            assert!(answer.to_vec().unwrap().len() <= usize::from(room));
        }
    }
    dns.stops_in_good_order();
}

/// Somebody who sends wrong answers to all questions does not fill the log.
#[test]
fn dns_gives_up_a_question_after_a_few_wrong_answers_without_flooding_the_log() {
    let scratch = Directory::new();
    let Some((mut dns, upstream)) = forwarding(&scratch) else { return };
    let socket = client(&dns);
    for n in 0..20 {
        socket.send(&query(&format!("{n}.example.net."), RecordType::A).to_vec().unwrap()).unwrap();
        let (forwarded, from) = asked(&upstream);
        let mut wrong = address_for(&forwarded);
        wrong.metadata.id ^= 1;
        (0..8).for_each(|_| _ = upstream.send_to(&wrong.to_vec().unwrap(), from).unwrap());
        assert_eq!(received(&socket).metadata.response_code, ResponseCode::ServFail);
    }
    dns.signal("TERM");
    assert_eq!(dns.exit().code(), Some(0));
    let lines: Vec<_> = dns.log.lines().collect();
    assert!(lines.iter().all(|line| !line.contains("ERROR")), "{lines:#?}");
    assert_eq!(lines.iter().filter(|line| line.contains("wrong answers")).count(), 5, "{lines:#?}");
}

#[test]
fn dns_forwards_over_tcp_what_came_over_tcp() {
    let scratch = Directory::new();
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = upstream.local_addr().unwrap().to_string();
    let Some(mut dns) = dns(&scratch, &["--forward", &at]) else { return };
    let serving = std::thread::spawn(move || {
        for _ in 0..2 {
            let mut client = connected(upstream.accept().unwrap().0);
            let question = framed(&mut client);
            write(&mut client, frame(&address_for(&question).to_vec().unwrap()));
        }
    });
    let mut tcp = dns.connect();
    // Three questions at once are answered in order, although two of them take longer.
    let questions = ["a.example.net.", "www.example.com.", "b.example.net."].map(|name| query(name, RecordType::A));
    write(&mut tcp, questions.each_ref().map(|question| frame(&question.to_vec().unwrap())).concat());
    for question in &questions {
        let answer = framed(&mut tcp);
        assert_eq!((answer.metadata.id, answer.answers.len()), (question.metadata.id, 1));
    }
    serving.join().unwrap();
    dns.stops_in_good_order();
}

#[test]
fn dns_reports_a_server_that_does_not_answer_and_serves_its_zone_meanwhile() {
    let scratch = Directory::new();
    let upstream = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = upstream.local_addr().unwrap().to_string();
    let Some(mut dns) = dns(&scratch, &["--forward", &at]) else { return };
    let (waiting, other) = (client(&dns), client(&dns));
    let question = query("example.net.", RecordType::A);
    let begun = Instant::now();
    waiting.send(&question.to_vec().unwrap()).unwrap();
    for _ in 0..100 {
        assert_eq!(ask(&other, &query("www.example.com.", RecordType::A)).answers.len(), 1);
    }
    let answer = received(&waiting);
    assert_eq!((answer.metadata.id, answer.metadata.response_code), (question.metadata.id, ResponseCode::ServFail));
    assert!(begun.elapsed() >= Duration::from_secs(2));
    drop(upstream);
    // A port where nobody listens is noticed at once.
    assert_eq!(ask(&waiting, &query("example.net.", RecordType::A)).metadata.response_code, ResponseCode::ServFail);
    dns.stops_in_good_order();
}

// ---- hostile clients ----

#[test]
fn dns_survives_garbage() {
    let scratch = Directory::new();
    let Some(mut dns) = dns(&scratch, &[]) else { return };
    let mut random = Random::new();
    let socket = client(&dns);
    let mut question = query("www.example.com.", RecordType::A);
    question.set_edns(Edns::new());
    let good = question.to_vec().unwrap();
    for round in 0..3_000 {
        let garbage = match round % 3 {
            0 => (0..random.below(100)).map(|_| random.below(256) as u8).collect(),
            // Names of pointers, which may lead in a circle.
            1 => [&good[..12], &(0..40).map(|_| [0xc0, random.below(60) as u8][random.below(2)]).collect::<Vec<_>>()]
                .concat(),
            _ => random.spoil(&good),
        };
        socket.send(&garbage).unwrap();
        if round % 10 == 0 {
            let mut client = dns.connect();
            let _ = client.write_all(&frame(&garbage)).and_then(|()| client.write_all(&garbage));
            let _ = client.shutdown(std::net::Shutdown::Write);
            rest(&mut client);
        }
    }
    still_serves(&mut dns);
}

#[test]
fn dns_closes_connections_that_trickle_and_survives_resets() {
    let scratch = Directory::new();
    let Some(mut dns) = dns(&scratch, &["--message-timeout", "0.3"]) else { return };
    let begun = Instant::now();
    assert_eq!(trickle(&mut dns.connect(), b"\xff"), b"");
    assert!(begun.elapsed() >= Duration::from_millis(300));
    let mut empty = dns.connect();
    write(&mut empty, [0, 0]);
    assert_eq!(rest(&mut empty), b"");
    resets(&dns, &frame(&query("big.example.com.", RecordType::TXT).to_vec().unwrap()).repeat(100));
    still_serves(&mut dns);
}

#[test]
fn dns_does_not_read_on_from_a_client_that_never_reads() {
    let scratch = Directory::new();
    let Some(mut dns) = dns(&scratch, &[]) else { return };
    let mut deaf = dns.connect();
    deaf.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let question = frame(&query("big.example.com.", RecordType::TXT).to_vec().unwrap()).repeat(100);
    let mut sent = 0;
    while deaf.write_all(&question).is_ok() {
        sent += 1;
        assert!(sent < 100_000, "the server reads on");
    }
    still_serves(&mut dns);
}

#[track_caller]
fn still_serves(dns: &mut Program) {
    assert_eq!(ask(&client(dns), &query("www.example.com.", RecordType::A)).answers.len(), 1);
    let mut tcp = dns.connect();
    write(&mut tcp, frame(&query("www.example.com.", RecordType::A).to_vec().unwrap()));
    assert_eq!(framed(&mut tcp).answers.len(), 1);
    dns.stops_in_good_order();
}

// ---- the clients that people use ----

#[test]
fn dns_serves_dig() {
    let scratch = Directory::new();
    let Some(mut dns) = dns(&scratch, &[]) else { return };
    let port = dns.address.unwrap().port().to_string();
    for (arguments, wanted) in [
        (&["+short", "www.example.com"][..], "192.0.2.80"),
        (&["+short", "www.example.com", "AAAA"], "2001:db8::80"),
        (&["+short", "chain.example.com"], "alias.example.com.\nwww.example.com.\n192.0.2.80"),
        (&["+short", "+tcp", "example.com", "MX"], "10 mail.example.com."),
        (&["none.example.com"], "status: NXDOMAIN"),
        (&["example.net"], "status: REFUSED"),
        (&["example.com", "CH", "TXT"], "status: REFUSED"),
        (&["big.example.com", "TXT"], ";; Truncated, retrying in TCP mode."),
        (&["big.example.com", "TXT"], "ANSWER: 30"),
        (&["+ignore", "big.example.com", "TXT"], "flags: qr aa tc"),
        (&["+bufsize=4096", "+noall", "+comments", "www.example.com"], "udp: 1232"),
        (&["+edns=9", "+noednsneg", "www.example.com"], "status: BADVERS"),
        (&["+norecurse", "x.sub.example.com"], "ns.sub.example.com.\t3600\tIN\tA\t192.0.2.54"),
    ] {
        let Some(mut dig) = tool("dig", &["@127.0.0.1", "-p", &port]) else { return };
        let said = said_by(dig.args(arguments));
        assert!(said.contains(wanted), "{arguments:?}: {said}");
    }
    dns.stops_in_good_order();
}

#[test]
fn dns_serves_dnsperf() {
    let scratch = Directory::new();
    let Some(mut dns) = dns(&scratch, &[]) else { return };
    let port = dns.address.unwrap().port().to_string();
    let questions = scratch.file("questions", "www.example.com A\nexample.com MX\nnone.example.com A\n");
    for mode in ["udp", "tcp"] {
        let arguments = ["-s", "127.0.0.1", "-p", &port, "-m", mode, "-d", &questions, "-n", "2000", "-q", "100"];
        let Some(mut dnsperf) = tool("dnsperf", &arguments) else { return };
        let said = said_by(&mut dnsperf);
        let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("Queries completed: 6000 (100.00%)"), "{said}");
        assert!(words.contains("NOERROR 4000") && words.contains("NXDOMAIN 2000"), "{said}");
    }
    dns.stops_in_good_order();
}
