//! The system calls of a server, as strace sees them. A test runs itself under strace, in a process of its own, and then
//! reads what strace has written.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "deadlines of tests are on the machine's clock")]

mod common;

use std::io::Write as _;

use common::{Call, Directory, is_apart, probe, serve, server, usual};
use socketserver::family::Tcp;
use socketserver::{Next, Request};

#[test]
fn an_answer_leaves_in_one_segment_with_the_fin_that_its_handler_asks_for() {
    const ANSWER: &str = "the whole answer";
    let (directory, test) =
        (Directory::new(), "an_answer_leaves_in_one_segment_with_the_fin_that_its_handler_asks_for");
    let trace = directory.path("trace");
    let options = "-f -y -qqq -e trace=sendto,sendmsg,setsockopt,shutdown,close";
    // Without strace the server runs all the same, and leaves no trace.
    let prepare = format!(r#"strace {options} true >/dev/null 2>&1 && exec strace {options} -o {trace} "$0" "$@""#);
    if is_apart(test, &prepare) {
        let running = serve(server::<Tcp, _>(|_| {
            probe(|call: Call, request: &mut Request<'_>| {
                let Call::Handle = call else { return usual(&call, request) };
                request.input.take_all();
                request.output.write_all(ANSWER.as_bytes())?;
                request.shutdown_write();
                Ok(Next::Close)
            })
        }));
        let mut client = running.connect();
        client.send("?");
        assert_eq!(client.rest(), ANSWER.as_bytes());
        running.stop();
        return;
    }
    let Ok(trace) = std::fs::read_to_string(trace) else {
        return eprintln!("skipped: there is no strace, it is too old, or it may not trace");
    };
    let sent = trace.lines().position(|line| line.contains(ANSWER)).expect("the answer was sent");
    let lines: Vec<_> = trace.lines().skip(sent).collect();
    // 1234 sendto(9<socket:[56789]>, ...
    let (from, to) = (lines[0].find('<').expect("a socket"), lines[0].find('>').expect("its end"));
    let calls: Vec<_> = lines.iter().filter(|line| line.contains(&lines[0][from..=to])).collect();
    assert_eq!(calls.len(), 3, "{calls:#?}");
    for (call, text) in calls.iter().zip(["MSG_MORE", "shutdown(", "close("]) {
        assert!(call.contains(text), "{calls:#?}");
    }
}
