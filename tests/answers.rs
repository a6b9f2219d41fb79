//! What a client gets of an answer whatever it sends meanwhile.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "deadlines of tests are on the machine's clock")]

mod common;

use std::io::{Read as _, Write as _};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use common::{Call, PATIENCE, probe, serve, server, usual};
use socketserver::family::Tcp;
use socketserver::{Next, Request};

/// The connection is closed with input unread, so the system resets it. It must have sent the answer before that: what it
/// still holds back then, for example because of `MSG_MORE`, is dropped.
#[test]
fn an_answer_arrives_although_further_input_comes_before_the_end() {
    [false, true].into_iter().for_each(answer_before_the_end);
}

/// `shuts`: the handler asks for the FIN, which the answer may wait for.
fn answer_before_the_end(shuts: bool) {
    const ANSWER: &[u8] = b"the whole answer";
    let (ask, asked) = channel();
    let (tell, told) = channel();
    let told = Arc::new(Mutex::new(told));
    let server = server::<Tcp, _>(move |_| {
        let (ask, told) = (ask.clone(), told.clone());
        probe(move |call: Call, request: &mut Request<'_>| match call {
            Call::Handle => {
                request.input.take_all();
                request.output.write_all(ANSWER)?;
                if shuts {
                    request.shutdown_write();
                }
                Ok(Next::Close)
            }
            Call::Finish(_) => {
                ask.send(()).unwrap();
                told.lock().unwrap().recv_timeout(PATIENCE).expect("the client sends more");
                Ok(Next::Wait)
            }
            _ => usual(&call, request),
        })
    });
    let running = serve(server);
    let mut client = running.connect();
    client.send("a request");
    asked.recv_timeout(PATIENCE).expect("the end is near");
    client.send("and more");
    tell.send(()).unwrap();
    let mut answer = vec![0; ANSWER.len()];
    client.socket.read_exact(&mut answer).expect("the answer comes before the reset");
    assert_eq!(answer, ANSWER);
    running.stop();
}
