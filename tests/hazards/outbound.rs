//! More of outbound connections: what is sent before they stand, faults in their handlers, and which limits count them.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};

use socketserver::{
    Address, BaseServer, Delivery, EndReason, Error, Message, Next, Others, Request, RequestHandler, Result, TcpServer,
};

use crate::common::{Call, Journal, Peer, SCRIPTED, echo, limit, probe, serve, silence_scripted_panics, usual};

#[derive(Default)]
struct Book(Journal);

impl BaseServer for Book {
    fn close_request(&mut self, address: &Address, why: EndReason) {
        self.0.note(format!("close_request {address} {why}"));
    }
    fn handle_error(&mut self, _: &Address, error: &Error) {
        self.0.note(format!("handle_error {error:#}"));
    }
    fn message(&mut self, others: &mut Others<'_, Self>, message: Message) {
        let to: SocketAddr = message.downcast().expect("a message is an address to call");
        let id = others.connect(to, probe(|call, request: &mut Request<'_, Book>| echo(&call, request)));
        assert_eq!(others.send(id.expect("the address has a listener"), b"hello"), Delivery::Queued);
    }
}

/// A server whose clients' `go` runs `act`; anything else comes back.
fn on_demand(
    journal: &Journal,
    act: impl Fn(&mut Request<'_, Book>) -> Result<()> + Send + Clone + 'static,
) -> TcpServer<Book, impl RequestHandler<Book>> {
    TcpServer::with_server("127.0.0.1:0", Book(journal.clone()), move |_: &mut Book, _| {
        let act = act.clone();
        probe(move |call, request: &mut Request<'_, Book>| match call {
            Call::Handle if request.input.unread() == b"go" => {
                request.input.take_all();
                act(request)?;
                Ok(Next::Wait)
            }
            call => echo(&call, request),
        })
    })
    .unwrap()
}

/// An address where nothing listens: a listener had it a moment ago.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn output_of_setup_follows_bytes_sent_before_the_connection_was_established() {
    let far = TcpListener::bind("127.0.0.1:0").unwrap();
    let (to, journal) = (far.local_addr().unwrap(), Journal::new());
    let running = serve(on_demand(&journal, move |request| {
        let greeter = probe(|call, request: &mut Request<'_, Book>| {
            if let Call::Setup = call {
                request.output.write_all(b"and from setup")?;
            }
            usual(&call, request)
        });
        let id = request.others.connect(to, greeter)?;
        // Full: the callback has had its time, on a slow machine.
        assert!(matches!(request.others.send(id, b"sent "), Delivery::Queued | Delivery::Full));
        assert!(matches!(request.others.send(id, b"before "), Delivery::Queued | Delivery::Full));
        Ok(())
    }));
    let mut client = running.connect();
    client.send("go");
    let mut other = Peer::of(far.accept().unwrap().0);
    other.expect("sent before and from setup");
    other.half_close();
    other.expect_eof();
    client.echo("alive");
    running.stop();
}

#[test]
fn a_panic_in_connect_failed_ends_that_connection_only() {
    silence_scripted_panics();
    let (to, journal) = (nobody(), Journal::new());
    let running = serve(on_demand(&journal, move |request| {
        let fragile = probe(|call, request: &mut Request<'_, Book>| match call {
            Call::ConnectFailed(_) => panic!("{}", SCRIPTED),
            call => usual(&call, request),
        });
        request.others.connect(to, fragile).map(drop)
    }));
    let mut client = running.connect();
    client.send("go");
    journal.wait("handle_error panicked");
    running.wait_for_stats("it is gone", |stats| stats.active == 1 && stats.panics == 1);
    client.echo("alive");
    running.stop();
}

#[test]
fn a_handler_put_in_place_by_connect_failed_is_never_called() {
    let (to, journal) = (nobody(), Journal::new());
    let notes = journal.clone();
    let running = serve(on_demand(&journal, move |request| {
        let notes = notes.clone();
        let failing = probe(move |call, request: &mut Request<'_, Book>| {
            if let Call::ConnectFailed(_) = call {
                let notes = notes.clone();
                request.replace_handler(probe(move |call, request: &mut Request<'_, Book>| {
                    notes.note(format!("successor {call}"));
                    usual(&call, request)
                }));
            }
            usual(&call, request)
        });
        request.others.connect(to, failing).map(drop)
    }));
    let mut client = running.connect();
    client.send("go");
    journal.wait(&format!("close_request {to}"));
    client.echo("alive");
    assert_eq!(journal.count("successor"), 0, "{:?}", journal.lines());
    running.stop();
}

#[test]
fn a_chain_of_calls_from_connect_failed_does_not_hold_the_loop() {
    struct Stubborn(SocketAddr, usize, Journal);
    impl RequestHandler<Book> for Stubborn {
        fn handle(&mut self, _: &mut Request<'_, Book>) -> Result<Next> {
            Ok(Next::Wait)
        }
        fn connect_failed(&mut self, request: &mut Request<'_, Book>, _: &Error) {
            self.2.note("failed");
            if self.1 > 0 {
                request.others.connect(self.0, Stubborn(self.0, self.1 - 1, self.2.clone())).unwrap();
            }
        }
    }
    let (to, journal) = (nobody(), Journal::new());
    let notes = journal.clone();
    let running = serve(on_demand(&journal, move |request| {
        request.others.connect(to, Stubborn(to, 99, notes.clone())).map(drop)
    }));
    let mut client = running.connect();
    client.send("go");
    journal.wait_for("failed", 100);
    running.wait_for_stats("all are gone", |stats| stats.active == 1 && stats.connects_failed == 100);
    client.echo("alive");
    running.stop();
}

#[test]
fn the_cap_per_client_counts_accepted_connections_only() {
    let far = TcpListener::bind("127.0.0.1:0").unwrap();
    let (to, journal) = (far.local_addr().unwrap(), Journal::new());
    let mut server = on_demand(&journal, move |request| {
        for _ in 0..3 {
            request.others.connect(to, probe(|call, request: &mut Request<'_, Book>| usual(&call, request)))?;
        }
        Ok(())
    });
    limit(&mut server, |limits| limits.connections_per_client_max = Some(2));
    let running = serve(server);
    let mut client = running.connect();
    client.send("go");
    let others: Vec<_> = (0..3).map(|_| far.accept().unwrap()).collect();
    let mut second = running.connect();
    second.echo("within the cap");
    running.connect().expect_eof();
    assert_eq!(running.stats().refused, 1);
    // Those that were called end, and make no room for those that come from the same address.
    drop(others);
    running.wait_for_stats("the calls are over", |stats| stats.active == 2);
    running.connect().expect_eof();
    assert_eq!(running.stats().refused, 2);
    client.echo("alive");
    drop((client, second));
    running.stop();
}

#[test]
fn a_server_s_hook_can_call_out() {
    let far = TcpListener::bind("127.0.0.1:0").unwrap();
    let journal = Journal::new();
    let server = on_demand(&journal, |_| Ok(()));
    let id = server.id();
    let running = serve(server);
    running.handle.send_to_server(id, far.local_addr().unwrap()).unwrap();
    let mut other = Peer::of(far.accept().unwrap().0);
    other.expect("hello");
    other.echo("and back");
    drop(other);
    journal.wait(&format!("close_request {} peer closed", far.local_addr().unwrap()));
    running.stop();
}
