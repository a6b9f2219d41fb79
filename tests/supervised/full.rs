//! A service that has as many connections as it may, with many more clients in its backlog.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::programs::connected;
use crate::restart::Fleet;
use crate::service::Client;

const WAITING: usize = 200;

#[test]
fn clients_of_a_full_service_are_served_by_its_next_version() {
    replaced_while_full(Fleet::client);
}

#[test]
fn unix_clients_of_a_full_service_are_served_by_its_next_version() {
    replaced_while_full(Fleet::unix_client);
}

/// The process has many files open when it begins to serve, which are not there for connections.
#[test]
fn a_service_at_its_limit_of_descriptors_answers_on_its_admin_page_and_is_replaced() {
    let mut fleet = Fleet::start(&[("PAGE", ""), ("LIMIT", "80"), ("FILES", "30")]);
    let page = fleet.first.log.until("listening on 127.0.0.1:").rsplit(' ').next().unwrap().parse().unwrap();
    let ask = |page: SocketAddr| Client::new(connected(TcpStream::connect(page).unwrap())).ask("pid");
    let mut clients: Vec<_> = (0..24).map(|_| fleet.client()).collect();
    let full = fleet.first.log.until("that may be (RLIMIT_NOFILE)");
    assert!(clients[0].ask("hold") == "done", "{full}");
    assert_eq!(ask(page), fleet.pid.to_string());
    fleet.restart();
    assert_eq!(ask(page), fleet.pid.to_string());
    assert_eq!(clients[0].ask("it is still served"), "it is still served");
    assert_eq!(clients[23].ask("pid"), fleet.pid.to_string(), "it has waited in the backlog");
    drop(clients);
    fleet.stop();
}

fn replaced_while_full<S: Read + Write>(connect: fn(&Fleet) -> Client<S>) {
    let mut fleet = Fleet::start(&[("CONNECTIONS_MAX", "1")]);
    let mut served = connect(&fleet);
    served.ask("hold");
    let mut waiting: Vec<_> = (0..WAITING).map(|_| connect(&fleet)).collect();
    for client in &mut waiting[..WAITING / 2] {
        client.0.get_mut().write_all(b"early\n").unwrap();
    }
    fleet.restart();
    let new = fleet.pid.to_string();
    for (number, mut client) in waiting.into_iter().enumerate() {
        if number < WAITING / 2 {
            assert_eq!(client.answer(), "early");
        }
        assert_eq!(client.ask("pid"), new);
    }
    assert_eq!(served.ask("it is still served"), "it is still served");
    drop(served);
    fleet.stop();
}
