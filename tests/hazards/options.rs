//! Options of sockets: one that cannot be honoured is refused by its name, and each socket keeps its own.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use socketserver::{
    BaseServer, Error, Keepalive, MulticastGroup, NoHandler, Request, Socket, TcpOptions, TcpServer, UdpOptions,
    UdpServer, Unbound, family,
};

use crate::common::loopback::loopback;
use crate::common::{Call, Journal, Peer, is_alone, options, probe, serve, usual};

fn tcp() -> Unbound<family::Tcp, (), NoHandler> {
    TcpServer::unbound(|_| NoHandler)
}

/// The error is a refusal of exactly these settings, and its text names each with its value.
#[track_caller]
fn expect_refusal<T>(result: Result<T, Error>, expected: &[(&str, &str)]) {
    let error = result.err().expect("a refusal");
    let text = error.to_string();
    let Error::Setting { settings, .. } = error else { panic!("not a refusal of settings: {text}") };
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(settings, expected);
    for (name, value) in expected {
        assert!(text.contains(&format!("{name} = {value}")), "{text}");
    }
}

#[track_caller]
fn tcp_refuses(set: impl FnOnce(&mut TcpOptions), expected: (&str, &str)) {
    let (mut server, options) = (tcp(), options(set));
    expect_refusal(server.server_bind_with("127.0.0.1:0", options.clone()), &[expected]);
    let inherited = TcpListener::bind("127.0.0.1:0").unwrap();
    expect_refusal(server.adopt_with(inherited, options), &[expected]);
    assert!(server.server_addresses().is_empty());
}

#[track_caller]
fn udp_refuses(set: impl FnOnce(&mut UdpOptions), expected: (&str, &str)) {
    let mut server = UdpServer::unbound(|_| NoHandler);
    expect_refusal(server.server_bind_with("127.0.0.1:0", options(set)), &[expected]);
}

fn keepalive(idle: Duration, interval: Duration) -> Option<Keepalive> {
    Some(Keepalive { idle, interval })
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_keepalive_that_the_system_cannot_keep_is_refused_by_its_name() {
    for (time, text) in [
        (Duration::ZERO, "0ns"),
        (Duration::from_millis(999), "999ms"),
        (Duration::from_millis(1_500), "1.5s"),
        (Duration::from_secs(32_768), "32768s"),
        (Duration::MAX, "18446744073709551615.999999999s"),
    ] {
        tcp_refuses(|options| options.keepalive = keepalive(time, SECOND), ("keepalive.idle", text));
        tcp_refuses(|options| options.keepalive = keepalive(SECOND, time), ("keepalive.interval", text));
    }
    for time in [SECOND, Duration::from_secs(32_767)] {
        let options = options(|options: &mut TcpOptions| options.keepalive = keepalive(time, time));
        tcp().server_bind_with("127.0.0.1:0", options).unwrap();
    }
}

#[test]
fn a_number_of_probes_that_cannot_be_kept_is_refused_by_its_name() {
    for (probes, text) in [(0, "0"), (128, "128"), (u32::MAX, "4294967295")] {
        let set = |options: &mut TcpOptions| {
            (options.keepalive, options.keepalive_probes) = (keepalive(SECOND, SECOND), Some(probes));
        };
        tcp_refuses(set, ("keepalive_probes", text));
    }
    // Without keepalive there are no probes to count.
    tcp_refuses(|options| options.keepalive_probes = Some(3), ("keepalive_probes", "3"));
}

#[test]
fn a_user_timeout_that_the_system_would_take_for_another_is_refused_by_its_name() {
    for (time, text) in [
        (Duration::ZERO, "0ns"),
        (Duration::from_micros(999), "999µs"),
        (Duration::from_millis(1 << 31), "2147483.648s"),
        (Duration::MAX, "18446744073709551615.999999999s"),
    ] {
        tcp_refuses(|options| options.user_timeout = Some(time), ("user_timeout", text));
    }
}

#[test]
#[cfg(target_pointer_width = "64")]
fn a_buffer_size_that_the_system_would_cut_is_refused_by_its_name() {
    for (bytes, text) in
        [(1 << 31, "2147483648"), ((1 << 32) + 5_000, "4294972296"), (usize::MAX, "18446744073709551615")]
    {
        tcp_refuses(|options| options.receive_buffer_bytes = Some(bytes), ("receive_buffer_bytes", text));
        tcp_refuses(|options| options.send_buffer_bytes = Some(bytes), ("send_buffer_bytes", text));
        udp_refuses(|options| options.receive_buffer_bytes = Some(bytes), ("receive_buffer_bytes", text));
        udp_refuses(|options| options.send_buffer_bytes = Some(bytes), ("send_buffer_bytes", text));
        #[cfg(unix)]
        {
            let mut server = socketserver::UnixStreamServer::unbound(|_| NoHandler);
            let options = options(|options: &mut socketserver::UnixOptions| options.send_buffer_bytes = Some(bytes));
            expect_refusal(server.server_bind_with("/nowhere/socket", options), &[("send_buffer_bytes", text)]);
        }
    }
    for bytes in [0, 1, (1 << 31) - 1] {
        let options = options(|options: &mut TcpOptions| {
            (options.receive_buffer_bytes, options.send_buffer_bytes) = (Some(bytes), Some(bytes));
        });
        tcp().server_bind_with("127.0.0.1:0", options).expect("the system has bounds of its own");
    }
}

#[test]
fn multicast_options_that_make_no_sense_are_refused_by_their_names() {
    // As an int, which is what the kernel is given, the last one means "the default".
    for (ttl, text) in [(256, "256"), (u32::MAX, "4294967295")] {
        udp_refuses(|options| options.multicast_ttl = ttl, ("multicast_ttl", text));
    }
    let nobody = MulticastGroup::new(Ipv4Addr::new(10, 0, 0, 1));
    udp_refuses(|options| options.multicast_groups.push(nobody), ("multicast_groups", "10.0.0.1"));
}

/// A backlog of its own for each address, and other options too.
#[test]
fn each_socket_keeps_its_options_when_the_server_is_bound_again() {
    if !is_alone() {
        return;
    }
    #[derive(Default)]
    struct Noting(Vec<(bool, i32)>);
    impl BaseServer for Noting {
        fn server_activate(&mut self, socket: &Socket, request_queue_size: i32) -> std::io::Result<()> {
            let options = socket2::SockRef::from(socket);
            self.0.push((options.tcp_nodelay()?, request_queue_size));
            socket.listen(request_queue_size)
        }
    }
    let mut server = TcpServer::unbound_with_server(Noting::default(), |_, _| NoHandler);
    for (nodelay, request_queue_size) in [(false, 7), (true, 9)] {
        let options = options(|options: &mut TcpOptions| {
            (options.nodelay, options.request_queue_size) = (nodelay, request_queue_size);
        });
        server.server_bind_with((loopback(), 0), options).unwrap();
    }
    let mut server = server.server_activate().unwrap();
    let addresses = server.server_addresses();
    server.shutdown_handle().shutdown();
    server.serve_forever().unwrap();
    server.timeout = Some(Duration::ZERO);
    server.handle_request().unwrap();
    server.server_close();
    server.handle_request().unwrap();
    assert_eq!(server.server_addresses(), addresses);
    assert_eq!(server.server_mut().0, [(false, 7), (true, 9)].repeat(3));
}

#[test]
#[cfg(target_os = "linux")]
fn accepted_connections_have_the_probes_and_the_user_timeout_of_their_server() {
    use socketserver::{Address, Listener, Stream};

    #[derive(Default)]
    struct Looking(Option<(u32, Option<Duration>)>);
    impl BaseServer for Looking {
        fn get_request(&mut self, listener: &mut Listener) -> std::io::Result<(Stream, Address)> {
            let (stream, address) = listener.accept()?;
            let socket = stream.as_fd().expect("a socket");
            let options = socket2::SockRef::from(&socket);
            self.0 = Some((options.tcp_keepalive_retries()?, options.tcp_user_timeout()?));
            Ok((stream, address))
        }
    }
    let mut server = TcpServer::unbound_with_server(Looking::default(), |_, _| NoHandler);
    let options = options(|options: &mut TcpOptions| {
        (options.keepalive, options.keepalive_probes) = (keepalive(SECOND, SECOND), Some(3));
        options.user_timeout = Some(Duration::from_millis(1_234));
    });
    server.server_bind_with("127.0.0.1:0", options).unwrap();
    let mut server = server.server_activate().unwrap();
    let _client = Peer::connect(server.server_address());
    server.handle_request().unwrap();
    assert_eq!(server.server_mut().0, Some((3, Some(Duration::from_millis(1_234)))));
}

/// A peer that acknowledges nothing needs a network that is down. A peer that keeps its window closed is the other case
/// of the same timeout in the kernel.
#[test]
#[cfg(target_os = "linux")]
fn a_peer_that_takes_nothing_is_given_up_after_the_user_timeout() {
    let journal = Journal::new();
    let told = journal.clone();
    let mut server = TcpServer::unbound(move |_| {
        let told = told.clone();
        probe(move |call, request: &mut Request<'_>| {
            match call {
                Call::Handle => request.output.write_all(&[b'x'; 12 << 20])?,
                Call::Finish(why) => told.note(why),
                _ => {}
            }
            usual(&call, request)
        })
    });
    let options = options(|options: &mut TcpOptions| options.user_timeout = Some(Duration::from_millis(500)));
    (server.limits.write_timeout, server.limits.idle_timeout) = (None, None);
    server.server_bind_with("127.0.0.1:0", options).unwrap();
    let server = server.server_activate().unwrap();
    let address = server.server_address();
    let running = serve(server);
    let mut client = Peer::connect(address);
    client.send("go");
    journal.wait("reset");
    running.stop();
}

#[test]
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn a_user_timeout_is_an_error_where_the_system_has_none() {
    let options = options(|options: &mut TcpOptions| options.user_timeout = Some(SECOND));
    assert!(matches!(tcp().server_bind_with("127.0.0.1:0", options), Err(Error::Bind { .. })));
}
