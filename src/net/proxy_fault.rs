//! What is wrong with a header of the PROXY protocol, for the log. The library only tells that something is.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::{FromStr, from_utf8};

/// Names the first part that is wrong in version 1: `PROXY`, the protocol, the addresses of the client and of the server,
/// and their ports.
pub(super) fn fault_of_line(line: &[u8]) -> &'static str {
    let Some(Ok(line)) = line.strip_suffix(b"\r\n").map(from_utf8) else { return "it is no text" };
    let words: Vec<_> = line.split(' ').skip(1).collect();
    let is_address = match words[..] {
        ["TCP4", ..] => is::<Ipv4Addr>,
        ["TCP6", ..] => is::<Ipv6Addr>,
        _ => return "its protocol is none of TCP4, TCP6 and UNKNOWN",
    };
    let [_, client, server, client_port, server_port] = words[..] else { return "it does not have six words" };
    let parts = [
        (is_address(client), "the client's address is no address of its protocol"),
        (is_address(server), "the server's address is no address of its protocol"),
        (is::<u16>(client_port), "the client's port is no port"),
        (is::<u16>(server_port), "the server's port is no port"),
    ];
    parts.iter().find(|(is_right, _)| !is_right).map_or(UNKNOWN, |(_, fault)| fault)
}

fn is<T: FromStr>(word: &str) -> bool {
    word.parse::<T>().is_ok()
}

/// Names the first part that is wrong in version 2. `rest`: what follows the signature.
pub(super) fn fault_of_v2(rest: &[u8]) -> &'static str {
    match *rest {
        [command, ..] if command >> 4 != 2 => "its version is neither 1 nor 2",
        [command, ..] if command & 0xF > 1 => "its command is neither LOCAL nor PROXY",
        [_, 0x11 | 0x21 | 0x31, ..] => "it is too short for its addresses",
        [_, _, ..] => "its address family or its protocol is unknown",
        _ => UNKNOWN,
    }
}

const UNKNOWN: &str = "it is not valid";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_that_is_wrong_is_named() {
        for (line, named) in [
            ("PROXY TCP5 203.0.113.7 192.0.2.1 50000 80\r\n", "its protocol"),
            ("PROXY \r\n", "its protocol"),
            ("PROXY TCP4 203.0.113.7 192.0.2.1 50000\r\n", "six words"),
            ("PROXY TCP4 a 192.0.2.1 50000 80\r\n", "client's address"),
            ("PROXY TCP6 2001:db8::1 192.0.2.1 50000 80\r\n", "server's address"),
            ("PROXY TCP4 203.0.113.7 192.0.2.1 -1 80\r\n", "client's port"),
            ("PROXY TCP4 203.0.113.7 192.0.2.1 50000 80\rx\r\n", "server's port"),
        ] {
            let fault = fault_of_line(line.as_bytes());
            assert!(fault.contains(named), "{line:?}: {fault}");
        }
        assert_eq!(fault_of_line(b"PROXY \xff\r\n"), "it is no text");
        for (rest, named) in [
            (&[0x31, 0x11, 0, 0][..], "its version"),
            (&[0x22, 0x11, 0, 0], "its command"),
            (&[0x21, 0x11, 0, 1, 0], "too short"),
            (&[0x21, 0x41, 0, 0], "its address family"),
        ] {
            let fault = fault_of_v2(rest);
            assert!(fault.contains(named), "{rest:?}: {fault}");
        }
    }
}
