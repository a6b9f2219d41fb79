//! Messages over streams and datagrams, and answers that are given after the callback for the request has returned.

use std::net::SocketAddr;

use socketserver::family::Udp;
use socketserver::{
    BaseServer, Delivery, Next, Origin, Prefix, Request, RequestHandler, Result, TcpServer, UdpOptions,
};

use crate::common::{Mailbox, Peer, Running, serve};

/// Those who wait for an answer, and what became of their answers.
#[derive(Default)]
struct Desk {
    waiting: Vec<Origin>,
    answered: Vec<Delivery>,
}
impl BaseServer for Desk {}

/// A message `wait` is answered when somebody says `now`. Any other comes back at once.
struct Visitor;
impl RequestHandler<Desk> for Visitor {
    fn handle(&mut self, request: &mut Request<'_, Desk>) -> Result<Next> {
        while let Some(message) = request.read_message(Prefix::U8)? {
            let (origin, desk) = (request.origin(), &mut *request.server);
            match message {
                b"wait" => desk.waiting.push(origin),
                b"now" => {
                    for client in std::mem::take(&mut desk.waiting) {
                        desk.answered.push(request.others.answer_message(&client, Prefix::U8, b"late"));
                        // Too long for the prefix of a stream.
                        let _ = request.others.answer_message(&client, Prefix::U8, &[b'x'; 300]);
                    }
                    request.write_message(Prefix::U8, b"told")?;
                }
                other => request.write_message(Prefix::U8, other)?,
            }
        }
        Ok(Next::Wait)
    }
}

/// A server at one address of TCP and two of UDP.
fn desk() -> (Running<Desk>, Vec<SocketAddr>) {
    let mut server = TcpServer::unbound_with_server(Desk::default(), |_, _| Visitor);
    server.server_bind("127.0.0.1:0").unwrap();
    server.server_bind_as::<Udp>("127.0.0.1:0", UdpOptions::default()).unwrap();
    server.server_bind_as::<Udp>("127.0.0.1:0", UdpOptions::default()).unwrap();
    let server = server.server_activate().unwrap();
    let addresses = server.server_addresses_as::<Udp>();
    (serve(server), addresses)
}

#[test]
fn a_late_answer_comes_from_the_socket_that_was_asked() {
    let (running, addresses) = desk();
    // A mailbox hears only the address that it has asked.
    let mailboxes: Vec<_> = addresses.into_iter().map(Mailbox::to).collect();
    for mailbox in &mailboxes {
        mailbox.send("wait");
        mailbox.echo("still there?");
    }
    let mut stream = running.connect();
    stream.send("\x04wait\x01x");
    stream.expect("\x01x");
    assert_eq!(mailboxes[0].ask("now"), "late"); // Its own, before the answer to this message.
    for mailbox in &mailboxes[1..] {
        mailbox.expect("late");
        mailbox.expect([b'x'; 300]);
    }
    stream.expect("\x04late");
    stream.send("\x01x");
    stream.expect("\x01x"); // And nothing was sent of what does not fit its prefix.
    let (_, desk) = running.stop_with_state();
    assert_eq!(desk.answered, [Delivery::Queued; 3]);
}

#[test]
fn an_answer_for_a_client_that_has_gone_is_not_sent_to_its_successor() {
    let (running, _) = desk();
    let mut gone = running.connect();
    gone.send("\x04wait\x01x");
    gone.expect("\x01x");
    drop(gone);
    running.wait_for_stats("it has gone", |stats| stats.active == 0);
    let mut next = running.connect();
    next.send("\x03now");
    next.expect("\x04told");
    let (_, desk) = running.stop_with_state();
    assert_eq!(desk.answered, [Delivery::Gone]);
}

#[test]
fn a_message_over_a_stream_may_come_in_parts() {
    let (running, _) = desk();
    let mut stream: Peer = running.connect();
    for part in ["\x03", "a", "bc\x02d"] {
        stream.send(part);
    }
    stream.expect("\x03abc");
    stream.send("e\x00");
    stream.expect("\x02de\x00");
    running.stop();
}
