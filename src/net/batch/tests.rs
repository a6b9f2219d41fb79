//! A batch has no public face: how many calls it makes, and what it asks of the kernel, is seen only here.

use super::received::RUN_MIN;
use super::*;
use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::time::Duration;

/// The longest anything here takes; then the test fails.
const PATIENCE: Duration = Duration::from_secs(10);
const BUFFER: usize = 2 << 20;
const MAX: usize = 65_507;

/// A socket and its batch.
struct End {
    socket: UdpSocket,
    batch: Batch,
}

#[derive(Debug, PartialEq)]
struct Received {
    bytes: Vec<u8>,
    from: SocketAddr,
    to: Option<IpAddr>,
    truncated: bool,
}

impl End {
    fn new(socket: UdpSocket) -> End {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let batch = Batch::new(socket.as_fd(), socket.local_addr().unwrap().ip(), Shared::default());
        End { socket, batch }
    }

    /// Others may read it.
    fn sharing(socket: UdpSocket) -> End {
        let end = End::new(socket);
        end.batch.shared.begin();
        end
    }

    fn bind(address: &str) -> End {
        End::new(UdpSocket::bind(address).unwrap())
    }

    fn without_gro(mut self) -> End {
        self.batch.coalescing = Coalescing::Never;
        self
    }

    fn with_gro(mut self) -> End {
        self.batch.coalesce(self.socket.as_fd());
        assert_eq!(self.batch.coalescing, Coalescing::Now);
        self
    }

    fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// The address with another IP, to reach a wildcard socket.
    fn at(&self, ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().unwrap(), self.address().port())
    }

    fn send(&mut self, datagrams: &[(SocketAddr, Option<IpAddr>, Vec<u8>)]) -> (usize, io::Result<()>) {
        let (mut bytes, mut outgoing) = (Vec::new(), Vec::new());
        for &(to, from, ref datagram) in datagrams {
            let range = bytes.len()..bytes.len() + datagram.len();
            outgoing.push(Outgoing { range, to: to.into(), local: from });
            bytes.extend_from_slice(datagram);
        }
        self.batch.send(self.socket.as_fd(), &bytes, &outgoing)
    }

    fn send_all(&mut self, to: SocketAddr, datagrams: &[Vec<u8>]) {
        let datagrams: Vec<_> = datagrams.iter().map(|datagram| (to, None, datagram.clone())).collect();
        let (sent, result) = self.send(&datagrams);
        result.unwrap();
        assert_eq!(sent, datagrams.len());
    }

    fn receive_into(&mut self, buffer: &mut [u8], max: usize) -> io::Result<(bool, Vec<Received>)> {
        let mut packets = Vec::new();
        let more = self.batch.receive(self.socket.as_fd(), buffer, max, usize::MAX, &mut packets)?;
        let received = packets.iter().map(|packet| Received {
            bytes: buffer[packet.range.clone()].to_vec(),
            from: packet.from.as_inet().unwrap(),
            to: packet.local,
            truncated: packet.truncated,
        });
        Ok((more, received.collect()))
    }

    /// Waits for that many datagrams.
    fn receive(&mut self, count: usize, max: usize) -> Vec<Received> {
        let (mut received, mut buffer) = (Vec::new(), vec![0; BUFFER]);
        while received.len() < count {
            self.socket.peek(&mut [0]).expect("a datagram in time");
            received.extend(self.receive_into(&mut buffer, max).unwrap().1);
        }
        received
    }

    fn receive_bytes(&mut self, count: usize) -> Vec<Vec<u8>> {
        let received = self.receive(count, MAX);
        assert!(received.iter().all(|one| !one.truncated));
        received.into_iter().map(|one| one.bytes).collect()
    }

    /// Nothing waits.
    fn assert_empty(&mut self) {
        let error = self.receive_into(&mut vec![0; BUFFER], MAX).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}

fn no_ipv6() -> bool {
    let missing = UdpSocket::bind("[::1]:0").is_err();
    if missing {
        eprintln!("skipped: this system has no IPv6");
    }
    missing
}

fn loopbacks() -> Vec<&'static str> {
    if no_ipv6() { vec!["127.0.0.1:0"] } else { vec!["127.0.0.1:0", "[::1]:0"] }
}

fn dual_stack() -> End {
    let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::DGRAM, None).unwrap();
    socket.set_only_v6(false).unwrap();
    socket.bind(&"[::]:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    End::new(socket.into())
}

/// Datagrams that differ from each other in their bytes.
fn datagrams(sizes: impl IntoIterator<Item = usize>) -> Vec<Vec<u8>> {
    let bytes = |(n, size)| (0..size).map(|at| (n * 31 + at * 7) as u8).collect();
    sizes.into_iter().enumerate().map(bytes).collect()
}

#[test]
fn every_size_makes_the_round_trip() {
    for address in loopbacks() {
        for gro in [true, false] {
            let (mut client, mut server) = (End::bind(address), End::bind(address));
            if gro {
                (client, server) = (client.with_gro(), server.with_gro());
            }
            for datagram in datagrams([0, 1, 2, 1_000, 1_472, 8_192, 65_507, 0]) {
                client.send_all(server.address(), std::slice::from_ref(&datagram));
                let received = server.receive(1, MAX);
                // The destination can only be the address of the socket, so it is not asked for.
                let (from, to) = (client.address(), Some(server.address().ip()));
                assert_eq!(received, [Received { bytes: datagram.clone(), from, to: None, truncated: false }]);

                let (sent, result) = server.send(&[(from, to, datagram.clone())]);
                assert_eq!((sent, result.unwrap()), (1, ()));
                assert_eq!(client.receive_bytes(1), [datagram]);
            }
            server.assert_empty();
        }
    }
}

#[test]
fn a_run_is_cut_and_put_together_again() {
    for address in loopbacks() {
        let (mut client, mut server) = (End::bind(address), End::bind(address).with_gro());
        let mut plain = End::bind(address).without_gro();
        // Up to the 64 segments, the last one shorter, beyond 64 segments, beyond 65,507 bytes.
        for sizes in [vec![1; 64], vec![1_000; 20], vec![1, 1], vec![100, 99], vec![10; 70], vec![9_000; 8]] {
            let datagrams = datagrams(sizes.iter().copied());
            for receiver in [&mut server, &mut plain] {
                let before = client.batch.calls;
                client.send_all(receiver.address(), &datagrams);
                assert_eq!(client.batch.calls - before, 1, "{sizes:?}");
                let before = receiver.batch.calls;
                assert_eq!(receiver.receive_bytes(datagrams.len()), datagrams);
                let calls = receiver.batch.calls - before;
                assert!(receiver.batch.coalescing == Coalescing::Never || calls <= 2, "{calls} calls for {sizes:?}");
            }
        }
        assert_eq!(client.batch.segment_max, PAYLOAD_MAX, "the kernel refused");
    }
}

#[test]
fn runs_of_unequal_datagrams_keep_their_bounds() {
    for address in loopbacks() {
        let (mut client, mut server) = (End::bind(address), End::bind(address).with_gro());
        let sizes = [
            [5, 5, 0, 5, 5].as_slice(),
            &[0, 0, 0],
            &[5, 6, 7, 8],
            &[8, 7, 6, 5],
            &[5, 5, 3, 5, 5, 5, 2, 2, 4, 6, 6, 6],
            &[300, 300, 100, 300, 301, 301, 1, 0],
        ];
        for sizes in sizes {
            let datagrams = datagrams(sizes.iter().copied());
            client.send_all(server.address(), &datagrams);
            assert_eq!(server.receive_bytes(datagrams.len()), datagrams);
        }
    }
}

#[test]
fn the_kernel_joins_datagrams_when_one_peer_sends_many() {
    for address in loopbacks() {
        let (mut one, mut other, mut server) = (End::bind(address), End::bind(address), End::bind(address));
        let datagrams = datagrams([10; 2 * RUN_MIN]);
        for datagram in datagrams.chunks(1) {
            one.send_all(server.address(), datagram);
            other.send_all(server.address(), datagram);
        }
        server.receive(2 * datagrams.len(), MAX);
        one.send_all(server.address(), &datagrams[1..RUN_MIN]);
        server.receive(RUN_MIN - 1, MAX);
        assert_eq!(server.batch.coalescing, Coalescing::Later);

        one.send_all(server.address(), &datagrams);
        assert_eq!(server.receive_bytes(datagrams.len()), datagrams);
        assert_eq!(server.batch.coalescing, Coalescing::Now);
        let mut next = End::new(server.socket.try_clone().unwrap());
        assert_eq!(next.batch.coalescing, Coalescing::Now, "the process that inherits the socket is told");
        for receiver in [&mut server, &mut next] {
            one.send_all(receiver.address(), &datagrams);
            let before = receiver.batch.calls;
            assert_eq!(receiver.receive_bytes(datagrams.len()), datagrams);
            assert_eq!(receiver.batch.calls - before, 1);
            other.send_all(receiver.address(), &datagrams[..1]);
            assert_eq!(receiver.receive_bytes(1), datagrams[..1]);
        }
    }
}

#[test]
fn nothing_is_joined_at_a_socket_that_others_may_read_but_what_is_joined_is_divided() {
    for address in ["127.0.0.1:0", "0.0.0.0:0"] {
        let mut peer = End::bind("127.0.0.1:0");
        let mut one = End::bind(address);
        one.batch.share();
        let mut other = End::new(one.socket.try_clone().unwrap());
        let (to, datagrams) = (one.at("127.0.0.1"), datagrams([100; 2 * RUN_MIN]));
        for number in 0..20 {
            peer.send_all(to, &datagrams);
            let receiver = if number < 10 { &mut one } else { &mut other };
            assert_eq!(receiver.receive_bytes(datagrams.len()), datagrams);
        }
        assert_eq!(one.batch.coalescing, Coalescing::Never);
        assert_eq!(other.batch.coalescing, Coalescing::Now, "this one takes itself for the only one");
        let mut next = End::sharing(one.socket.try_clone().unwrap());
        for receiver in [&mut other, &mut next] {
            peer.send_all(to, &datagrams);
            assert_eq!(receiver.receive_bytes(datagrams.len()), datagrams);
        }
    }
}

#[test]
fn many_destinations_take_few_calls() {
    let mut server = End::bind("127.0.0.1:0");
    let mut clients: Vec<_> = (0..100).map(|_| End::bind("127.0.0.1:0")).collect();
    // One datagram for each, then a run for each.
    for count in [1, 3] {
        let mut outgoing = Vec::new();
        for (n, client) in clients.iter().enumerate() {
            outgoing.extend((0..count).map(|_| (client.address(), None, vec![n as u8; 100])));
        }
        let before = server.batch.calls;
        let (sent, result) = server.send(&outgoing);
        assert_eq!((sent, result.unwrap()), (100 * count, ()));
        assert_eq!(server.batch.calls - before, 2, "64 and 36 messages");
        for (n, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.receive_bytes(count), vec![vec![n as u8; 100]; count]);
        }
    }
    // And back: they wait for the server all at once.
    for client in &mut clients {
        client.send_all(server.address(), &[vec![1; 10], vec![2; 20]]);
    }
    let before = server.batch.calls;
    let received = server.receive(200, MAX);
    assert!(server.batch.calls - before <= 10);
    for client in clients {
        assert_eq!(received.iter().filter(|one| one.from == client.address()).count(), 2);
    }
}

#[test]
fn a_datagram_that_is_too_long_is_marked() {
    for address in loopbacks() {
        let mut client = End::bind(address);
        for mut server in [End::bind(address).with_gro(), End::bind(address)] {
            let datagrams = datagrams([99, 100, 101, 5_000, 0, 200, 200, 200, 100]);
            client.send_all(server.address(), &datagrams);
            let received = server.receive(datagrams.len(), 100);
            for (received, sent) in received.iter().zip(&datagrams) {
                assert_eq!(received.truncated, sent.len() > 100);
                assert_eq!(received.bytes, sent[..sent.len().min(100)]);
            }
            server.assert_empty();

            // A buffer that is too small even for one.
            client.send_all(server.address(), &[vec![7; 60]]);
            server.socket.peek(&mut [0]).unwrap();
            let (more, received) = server.receive_into(&mut [0; 50], 100).unwrap();
            assert!(more && received[0].truncated && received[0].bytes == [7; 50]);
        }
    }
}

#[test]
fn a_wildcard_socket_answers_from_the_address_that_was_asked() {
    let mut wildcards = vec![(End::bind("0.0.0.0:0"), "127.0.0.1:0", "127.0.0.2")];
    if !no_ipv6() {
        wildcards.push((End::bind("[::]:0"), "[::1]:0", "::1"));
        wildcards.push((dual_stack(), "127.0.0.1:0", "127.0.0.2"));
        wildcards.push((dual_stack(), "[::1]:0", "::1"));
    }
    for (mut server, client, asked) in wildcards {
        let mut client = End::bind(client);
        let address = server.at(asked);
        // A connected socket takes answers from that address only.
        client.socket.connect(address).unwrap();
        // One datagram and a run, so the answer goes both ways; several times, so the batch is used again.
        for sizes in [vec![10], vec![20, 20, 20], vec![0], vec![30, 30]] {
            let datagrams = datagrams(sizes);
            client.send_all(address, &datagrams);
            let received = server.receive(datagrams.len(), MAX);
            assert!(received.iter().all(|one| one.to == Some(asked.parse().unwrap())), "{received:?}");
            assert!(received.iter().all(|one| one.from.ip().to_canonical() == client.address().ip()));
            let answers: Vec<_> = received.into_iter().map(|one| (one.from, one.to, one.bytes)).collect();
            server.send(&answers).1.unwrap();
            assert_eq!(client.receive_bytes(datagrams.len()), datagrams);
        }
    }
}

#[test]
fn an_impossible_source_address_is_not_requested() {
    let source = |to: &str, from: &str| {
        let (to, from) = (to.parse::<SocketAddr>().unwrap(), from.parse::<IpAddr>().unwrap());
        let to = Address::Inet(to);
        Outgoing { range: 0..0, to, local: Some(from) }.source() == Some(from.to_canonical())
    };
    assert!(source("127.0.0.1:9", "127.0.0.2"));
    assert!(source("127.0.0.1:9", "::ffff:127.0.0.2"));
    assert!(source("[::ffff:127.0.0.1]:9", "127.0.0.2"));
    assert!(source("[2001:db8::1]:9", "2001:db8::2"));
    assert!(source("[fe80::1%2]:9", "fe80::2"));
    assert!(!source("127.0.0.1:9", "::1"));
    assert!(!source("[::ffff:127.0.0.1]:9", "::1"));
    assert!(!source("[::1]:9", "127.0.0.1"));
    assert!(!source("[2001:db8::1]:9", "fe80::2"));
}

#[test]
fn sources_may_change_within_one_call() {
    let mut server = End::bind("0.0.0.0:0");
    let mut client = End::bind("127.0.0.1:0");
    let sources = ["127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.2", "127.0.0.4", "127.0.0.4"];
    let sources = sources.map(|source| source.parse::<IpAddr>().unwrap());
    let to = client.address();
    let outgoing: Vec<_> = sources.iter().map(|&source| (to, Some(source), vec![1; 8])).collect();
    for _ in 0..3 {
        server.send(&outgoing).1.unwrap();
        let from: Vec<_> = client.receive(sources.len(), MAX).iter().map(|one| one.from.ip()).collect();
        assert_eq!(from, sources);
    }
}

#[test]
fn a_batch_is_as_good_after_many_calls() {
    let (mut client, mut server) = (End::bind("127.0.0.1:0"), End::bind("0.0.0.0:0"));
    for round in 0..300 {
        let ip = format!("127.0.0.{}", 1 + round % 200);
        let datagrams = datagrams(std::iter::repeat_n(1 + round, 1 + round % 40));
        client.send_all(server.at(&ip), &datagrams);
        let received = server.receive(datagrams.len(), MAX);
        for (received, sent) in received.iter().zip(&datagrams) {
            assert_eq!(received.from, client.address());
            assert_eq!((received.to, received.truncated), (Some(ip.parse().unwrap()), false));
            assert_eq!(&received.bytes, sent);
        }
    }
}

#[test]
fn an_error_concerns_the_first_datagram_not_taken() {
    let (mut client, mut server) = (End::bind("127.0.0.1:0"), End::bind("127.0.0.1:0"));
    let (to, elsewhere) = (server.address(), Some("224.0.0.1".parse().unwrap()));
    for (bad, errno) in [
        ((to, None, vec![0; 65_508]), Errno::EMSGSIZE),
        (("127.0.0.1:0".parse().unwrap(), None, vec![0; 9]), Errno::EINVAL),
        ((to, elsewhere, vec![0; 9]), Errno::EINVAL),
    ] {
        // Among singles, and at the front of what would be a run.
        for good in [[vec![1; 9], vec![2; 99]], [vec![1; 9], vec![2; 9]]] {
            let [first, second] = good.clone().map(|bytes| (to, None, bytes));
            let outgoing = [first.clone(), second, bad.clone(), bad.clone(), first];
            let (sent, result) = client.send(&outgoing);
            assert_eq!((sent, result.unwrap_err().raw_os_error()), (2, Some(errno as i32)));
            let (sent, result) = client.send(&outgoing[3..]);
            assert_eq!((sent, result.unwrap_err().raw_os_error()), (0, Some(errno as i32)));
            let (sent, result) = client.send(&outgoing[4..]);
            assert_eq!((sent, result.unwrap()), (1, ()));
            assert_eq!(server.receive_bytes(3), [&good[0], &good[1], &good[0]].map(Vec::clone));
        }
    }
    assert_eq!(client.batch.segment_max, PAYLOAD_MAX, "it had nothing to do with segments");
}

#[test]
fn segments_beyond_the_mtu_are_sent_without() {
    if no_ipv6() {
        return;
    }
    // Loopback has an MTU of 65,536; with 48 bytes of headers 65,490 is just beyond it.
    let (mut client, mut server) = (End::bind("[::1]:0"), End::bind("[::1]:0"));
    let long = datagrams([65_490, 10]);
    for calls in [2, 1] {
        let before = client.batch.calls;
        client.send_all(server.address(), &long);
        assert_eq!(client.batch.calls - before, calls, "the refusal is remembered");
        assert_eq!(server.receive_bytes(2), long);
    }
    assert_eq!(client.batch.segment_max, 65_489);
}

#[test]
fn an_empty_queue_would_block_and_a_full_batch_says_so() {
    let mut client = End::bind("127.0.0.1:0");
    let mut server = End::bind("127.0.0.1:0").without_gro();
    server.assert_empty();
    client.send_all(server.address(), &datagrams(100..105));
    // Room for two messages and a rest, which is not used.
    let mut buffer = [0; 2_100];
    let (mut count, mut calls) = (0, 0);
    while count < 5 {
        match server.receive_into(&mut buffer, 1_000) {
            Ok((more, received)) => {
                assert!(received.len() <= 2 && more == (received.len() == 2));
                (count, calls) = (count + received.len(), calls + 1);
            }
            Err(_) => drop(server.socket.peek(&mut [0]).unwrap()),
        }
    }
    assert!(calls >= 3);
    server.assert_empty();
}

#[test]
fn control_messages_of_others_are_passed_over() {
    for address in loopbacks() {
        let (mut client, mut server) = (End::bind(address), End::bind(address).with_gro());
        setsockopt(&server.socket, sockopt::ReceiveTimestampns, &true).unwrap();
        setsockopt(&server.socket, sockopt::RxqOvfl, &1).unwrap();
        let socket = socket2::SockRef::from(&server.socket);
        let ipv6 = server.address().is_ipv6();
        if ipv6 { socket.set_recv_tclass_v6(true) } else { socket.set_recv_tos_v4(true) }.unwrap();
        for _ in 0..3 {
            let datagrams = datagrams([100, 100, 100, 7]);
            client.send_all(server.address(), &datagrams);
            let received = server.receive(4, MAX);
            assert!(received.iter().all(|one| !one.truncated));
            assert!(received.iter().map(|one| &one.bytes).eq(&datagrams));
        }
    }
}

#[test]
fn control_messages_that_someone_asks_for_later_cost_one_batch() {
    let (mut client, mut server) = (End::bind("127.0.0.1:0"), End::bind("127.0.0.1:0").with_gro());
    client.send_all(server.address(), &datagrams([10]));
    server.receive(1, MAX);
    setsockopt(&server.socket, sockopt::ReceiveTimestampns, &true).unwrap();
    let socket = socket2::SockRef::from(&server.socket);
    socket.set_recv_tos_v4(true).unwrap();
    client.send_all(server.address(), &datagrams([10, 10, 10]));
    server.receive(1, MAX);
    for _ in 0..3 {
        let datagrams = datagrams([100, 100, 100, 7]);
        client.send_all(server.address(), &datagrams);
        assert_eq!(server.receive_bytes(4), datagrams);
    }
}

#[test]
fn without_the_offloads_it_works_as_well() {
    let (mut client, mut server) = (End::bind("127.0.0.1:0"), End::bind("127.0.0.1:0").without_gro());
    client.batch.segment_max = 0;
    let datagrams = datagrams([100; 60]);
    client.send_all(server.address(), &datagrams);
    assert_eq!(client.batch.calls, 1);
    assert_eq!(server.receive_bytes(60), datagrams);
}
