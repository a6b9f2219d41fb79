//! Outbound sessions of datagrams: forged answers, peers that are gone or silent, and ends from all sides.

use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use socketserver::{EndReason, Error, Limits, Next, Request, RequestHandler, TcpServer, Timeout, UdpServer};

use crate::common::{
    Call, Journal, PATIENCE, Running, SCRIPTED, is_alone, probe, serve, silence_scripted_panics, usual,
};

/// A socket at the other end.
fn far() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn receive(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = [0; 100];
    let (n, from) = socket.recv_from(&mut buffer).expect("a datagram in time");
    (String::from_utf8_lossy(&buffer[..n]).into_owned(), from)
}

/// A TCP server, each of whose messages is an address that it asks. The session notes its calls.
fn asking(
    journal: &Journal,
    act: impl Fn(&Call, &mut Request<'_>) -> socketserver::Result<Option<Next>> + Clone + Send + 'static,
) -> Running<()> {
    let journal = journal.clone();
    serve(
        TcpServer::new("127.0.0.1:0", move |_| {
            let (journal, act) = (journal.clone(), act.clone());
            probe(move |call, request: &mut Request<'_>| {
                let Call::Handle = call else { return usual(&call, request) };
                let to: SocketAddr = String::from_utf8_lossy(request.input.take_all()).parse().expect("an address");
                let (journal, act) = (journal.clone(), act.clone());
                let handler = probe(move |call, request: &mut Request<'_>| {
                    let input = String::from_utf8_lossy(request.input.unread()).into_owned();
                    journal.note(format!("{call} {input}"));
                    if let Call::Setup = call {
                        request.output.write_all(b"what?")?;
                    }
                    match act(&call, request)? {
                        Some(next) => Ok(next),
                        None => usual(&call, request),
                    }
                });
                request.others.connect_datagram(to, handler)?;
                Ok(Next::Wait)
            })
        })
        .unwrap(),
    )
}

fn closing_after_the_answer(call: &Call, request: &mut Request<'_>) -> socketserver::Result<Option<Next>> {
    Ok(matches!(call, Call::Handle).then(|| {
        request.input.take_all();
        Next::Close
    }))
}

#[test]
fn only_the_address_that_was_asked_can_answer() {
    let ((far, to), (forger, _), journal) = (far(), far(), Journal::new());
    let running = asking(&journal, closing_after_the_answer);
    running.connect().send(to.to_string());
    let (question, port) = receive(&far);
    assert_eq!(question, "what?");
    forger.send_to(b"forged", port).unwrap();
    far.send_to(b"true", port).unwrap();
    journal.wait("handle true");
    journal.wait("finish");
    assert_eq!(journal.count("forged"), 0, "{:?}", journal.lines());
    running.stop();
}

#[test]
fn each_question_has_a_port_of_its_own_that_is_closed_after_the_answer() {
    if !is_alone() {
        return;
    }
    let ((far, to), journal) = (far(), Journal::new());
    let running = asking(&journal, closing_after_the_answer);
    let mut client = running.connect();
    let mut ports = Vec::new();
    for number in 1..=20 {
        client.send(to.to_string());
        ports.push(receive(&far).1);
        if number % 2 == 0 {
            for port in &ports[number - 2..] {
                far.send_to(b"true", port).unwrap();
            }
            journal.wait_for("finish", number);
        }
    }
    let mut distinct = ports.clone();
    distinct.sort();
    distinct.dedup();
    assert!(distinct.len() > 10, "{ports:?}");
    running.wait_for_stats("the sessions are gone", |stats| stats.active == 1);
    // Another process may have one of them by now.
    let is_free = |port: &&SocketAddr| UdpSocket::bind(SocketAddr::new([127, 0, 0, 1].into(), port.port())).is_ok();
    assert!(ports.iter().filter(is_free).count() > 10, "{ports:?} are still open");
    running.stop();
}

#[test]
fn a_peer_that_is_gone_resets_the_session() {
    let journal = Journal::new();
    let to = far().1;
    let running = asking(&journal, |_, _| Ok(None));
    running.connect().send(to.to_string());
    let line = journal.wait("finish");
    assert_eq!(line.trim(), format!("finish {}", EndReason::Reset));
    running.stop();
}

#[test]
fn a_peer_that_is_silent_runs_into_the_limit() {
    let ((_far, to), journal) = (far(), Journal::new());
    let running = asking(&journal, |call, request| {
        if let Call::Setup = call {
            request.set_timeout(Timeout::Idle, Some(Duration::from_millis(20)));
        }
        Ok(None)
    });
    running.connect().send(to.to_string());
    journal.wait("timeout Idle");
    assert_eq!(journal.wait("finish").trim(), format!("finish {}", EndReason::Timeout(Timeout::Idle)));
    running.wait_for_stats("it is gone", |stats| stats.active <= 1);
    running.stop();
}

#[test]
fn a_session_goes_on_for_several_answers_and_can_ask_again() {
    let ((far, to), journal) = (far(), Journal::new());
    let running = asking(&journal, |call, request| {
        if let Call::Handle = call {
            let next = if request.input.unread() == b"last" { Next::Close } else { Next::Wait };
            request.output.write_all(request.input.take_all())?;
            return Ok(Some(next));
        }
        Ok(None)
    });
    running.connect().send(to.to_string());
    let (_, port) = receive(&far);
    for answer in ["one", "", "two", "last"] {
        far.send_to(answer.as_bytes(), port).unwrap();
        assert_eq!(receive(&far), (answer.to_owned(), port), "an empty datagram is one, too");
    }
    journal.wait("finish");
    running.stop();
}

#[test]
fn a_fault_of_its_handler_ends_that_session_only() {
    silence_scripted_panics();
    let ((far, to), journal) = (far(), Journal::new());
    let running = asking(&journal, |call, _| match call {
        Call::Handle => panic!("{}", SCRIPTED),
        _ => Ok(None),
    });
    let mut client = running.connect();
    for number in 1..=2 {
        client.send(to.to_string());
        let (_, port) = receive(&far);
        far.send_to(b"boom", port).unwrap();
        journal.wait_for(&format!("finish {}", EndReason::Panicked), number);
    }
    running.wait_for_stats("both are gone", |stats| stats.active == 1 && stats.panics == 2);
    running.stop();
}

#[test]
fn a_stop_and_a_close_end_it() {
    let ((far, to), journal) = (far(), Journal::new());
    let running = asking(&journal, |_, _| Ok(None));
    let mut client = running.connect();
    client.send(to.to_string());
    receive(&far);
    let stats = running.stop();
    journal.wait("finish");
    assert_eq!(stats.active, 0);
}

#[test]
fn an_answer_that_is_too_long_is_dropped_and_counted() {
    let ((far, to), journal) = (far(), Journal::new());
    let running = asking(&journal, closing_after_the_answer);
    running.connect().send(to.to_string());
    let (_, port) = receive(&far);
    far.send_to(&vec![b'x'; Limits::default().max_packet_size + 1], port).unwrap();
    far.send_to(b"short", port).unwrap();
    journal.wait("handle short");
    let stats = running.stop();
    assert_eq!((stats.datagrams_truncated, journal.count("xxx")), (1, 0));
}

#[test]
fn what_is_no_udp_address_is_refused_with_a_reason() {
    let journal = Journal::new();
    let notes = journal.clone();
    let running = serve(
        UdpServer::new("127.0.0.1:0", move |_| {
            let notes = notes.clone();
            probe(move |call, request: &mut Request<'_>| {
                if let Call::Handle = call {
                    #[cfg(unix)]
                    let to: socketserver::Address = socketserver::UnixAddress::from_path("/nowhere").into();
                    #[cfg(not(unix))]
                    let to: SocketAddr = ([255, 255, 255, 255], 0).into();
                    let refused = request.others.connect_datagram(to, socketserver::NoHandler);
                    assert!(matches!(&refused, Err(Error::Connect { .. })), "{refused:?}");
                    notes.note(format!("{:#}", refused.unwrap_err()));
                }
                usual(&call, request)
            })
        })
        .unwrap(),
    );
    crate::common::Mailbox::to(running.address).send("go");
    journal.wait("cannot connect to");
    running.stop();
}

/// It shares its path with datagrams of the server itself.
#[test]
fn a_datagram_server_relays_through_its_own_socket() {
    struct Question(socketserver::Address);
    impl RequestHandler for Question {
        fn setup(&mut self, request: &mut Request<'_>) -> socketserver::Result<Next> {
            request.output.write_all(b"what?")?;
            Ok(Next::Wait)
        }
        fn handle(&mut self, request: &mut Request<'_>) -> socketserver::Result<Next> {
            let _ = request.others.send_to(&self.0, request.input.take_all());
            Ok(Next::Close)
        }
    }
    let (far, to) = far();
    let running = serve(
        UdpServer::new("127.0.0.1:0", move |_| {
            probe(move |call, request: &mut Request<'_>| {
                if let Call::Handle = call {
                    let client = request.client_address();
                    request.others.connect_datagram(to, Question(client))?;
                }
                usual(&call, request)
            })
        })
        .unwrap(),
    );
    let clients: Vec<_> = (0..50).map(|_| crate::common::Mailbox::to(running.address)).collect();
    for client in &clients {
        client.send("?");
        let (_, port) = receive(&far);
        far.send_to(b"that", port).unwrap();
    }
    clients.iter().for_each(|client| client.expect("that"));
    let stats = running.stop();
    assert_eq!((stats.active, stats.connects), (0, 50));
}
