//! Clients of all kinds of sockets while the service is replaced again and again: none may notice.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::restart::Fleet;
use crate::service::Client;

/// Clients of each kind at a time.
const CLIENTS: usize = 2;

#[test]
fn no_client_notices_that_the_service_is_replaced() {
    let restarts = std::env::var("RESTARTS").map_or(20, |restarts| restarts.parse().unwrap());
    let mut fleet = Fleet::start(&[]);
    let (done, served) = (AtomicBool::new(false), [const { AtomicUsize::new(0) }; 4]);
    let (address, path) = (fleet.first.address.unwrap(), fleet.directory.at("stream"));
    let goes_on = |kind: usize| {
        served[kind].fetch_add(1, Ordering::Relaxed);
        !done.load(Ordering::Relaxed)
    };
    let failed = thread::scope(|scope| {
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            let (path, goes_on) = (&path, &goes_on);
            clients.push(scope.spawn(move || {
                while goes_on(0) {
                    let client = std::net::TcpStream::connect(address).map_err(at("TCP: connect"))?;
                    Client::new(client).try_ask("hello").and_then(is_hello).map_err(at("TCP"))?;
                }
                Ok(())
            }));
            clients.push(scope.spawn(move || {
                while goes_on(1) {
                    let client = std::os::unix::net::UnixStream::connect(path).map_err(at("Unix: connect"))?;
                    Client::new(client).try_ask("hello").and_then(is_hello).map_err(at("Unix"))?;
                }
                Ok(())
            }));
            let mut ask = fleet.datagram_client();
            clients.push(scope.spawn(move || {
                while goes_on(2) {
                    ask("hello\n").and_then(is_hello).map_err(at("UDP"))?;
                }
                Ok(())
            }));
            let mut ask = fleet.unix_datagram_client(&format!("client-{number}"));
            clients.push(scope.spawn(move || {
                while goes_on(3) {
                    ask("hello\n").and_then(is_hello).map_err(at("Unix datagram"))?;
                }
                Ok::<_, String>(())
            }));
        }
        let end = AtTheEnd(&done); // Also if this panics.
        for restart in 0..restarts {
            // Each version serves some clients of each kind.
            let before = served.each_ref().map(|count| count.load(Ordering::Relaxed));
            let is_idle = || (0..4).any(|kind| served[kind].load(Ordering::Relaxed) < before[kind] + 20);
            while is_idle() && clients.iter().all(|client| !client.is_finished()) {
                thread::yield_now();
            }
            fleet.restart();
            println!("{restart}: process {} serves", fleet.pid);
        }
        drop(end);
        clients.into_iter().filter_map(|client| client.join().unwrap().err()).collect::<Vec<_>>()
    });
    assert!(failed.is_empty(), "{failed:?}");
    println!("requests over TCP, Unix, UDP and Unix datagrams: {served:?}");
    fleet.stop();
}

/// Sets a mark when it is dropped.
struct AtTheEnd<'a>(&'a AtomicBool);

impl Drop for AtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn at(what: &str) -> impl Fn(io::Error) -> String {
    move |error| format!("{what}: {error}")
}

fn is_hello(answer: String) -> io::Result<()> {
    if answer == "hello" { Ok(()) } else { Err(io::Error::other(format!("cut short: {answer:?}"))) }
}
