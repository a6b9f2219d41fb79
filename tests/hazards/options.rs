//! Options of sockets: one that cannot be honoured is refused by its name, and so is one that is set too late.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use socketserver::{
    Error, Keepalive, MulticastGroup, NoHandler, Reactor, Request, RequestHandler, Server, TcpOptions, TcpServer,
    UdpOptions, UdpServer, family,
};

use crate::common::{Call, Journal, Kind, Peer, echoing, probe, serve, server, usual};

fn tcp() -> TcpServer<(), NoHandler> {
    TcpServer::unbound((), |_, _| NoHandler).unwrap()
}

fn udp() -> UdpServer<(), NoHandler> {
    UdpServer::unbound((), |_, _| NoHandler).unwrap()
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
    let mut server = tcp();
    set(&mut server.options);
    expect_refusal(server.server_bind("127.0.0.1:0"), &[expected]);
    assert!(server.server_addresses().is_empty());
    let inherited = TcpListener::bind("127.0.0.1:0").unwrap();
    expect_refusal(server.adopt(inherited), &[expected]);
}

#[track_caller]
fn udp_refuses(set: impl FnOnce(&mut UdpOptions), expected: (&str, &str)) {
    let mut server = udp();
    set(&mut server.options);
    expect_refusal(server.server_bind("127.0.0.1:0"), &[expected]);
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
        let mut server = tcp();
        server.options.keepalive = keepalive(time, time);
        server.server_bind("127.0.0.1:0").unwrap();
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
            let mut server = socketserver::UnixStreamServer::unbound((), |_, _| NoHandler).unwrap();
            server.options.send_buffer_bytes = Some(bytes);
            expect_refusal(server.server_bind("/nowhere/socket"), &[("send_buffer_bytes", text)]);
        }
    }
    for bytes in [0, 1, (1 << 31) - 1] {
        let mut server = tcp();
        (server.options.receive_buffer_bytes, server.options.send_buffer_bytes) = (Some(bytes), Some(bytes));
        server.server_bind("127.0.0.1:0").expect("the system has bounds of its own");
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

/// Every way to begin to serve.
#[track_caller]
fn expect_too_late<F, H>(make: impl Fn() -> Server<F, (), H>, expected: &[(&str, &str)])
where
    F: family::Family,
    H: RequestHandler,
{
    expect_refusal(make().handle_request(), expected);
    expect_refusal(make().serve_forever(), expected);
    expect_refusal(Reactor::new().unwrap().add(make()), expected);
}

#[test]
fn an_option_that_is_set_after_the_socket_is_bound_is_no_longer_ignored() {
    type Change = fn(&mut TcpOptions);
    let changes: [(Change, (&str, &str)); 4] = [
        (|options| options.nodelay = false, ("nodelay", "false")),
        (|options| options.allow_reuse_port = true, ("allow_reuse_port", "true")),
        (|options| options.send_buffer_bytes = Some(9_000), ("send_buffer_bytes", "Some(9000)")),
        (|options| options.request_queue_size = 5, ("request_queue_size", "5")),
    ];
    for (change, expected) in changes {
        let bound = || {
            let mut server = TcpServer::new("127.0.0.1:0", |_| NoHandler).unwrap();
            change(&mut server.options);
            server
        };
        expect_too_late(bound, &[expected]);
        if expected.0 == "request_queue_size" {
            continue; // It counts until the socket is activated.
        }
        let adopted = || {
            let mut server = tcp();
            server.adopt(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
            change(&mut server.options);
            server
        };
        expect_too_late(adopted, &[expected]);
    }
    let datagrams = || {
        let mut server = UdpServer::new("127.0.0.1:0", |_| NoHandler).unwrap();
        server.options.broadcast = true;
        server
    };
    expect_too_late(datagrams, &[("broadcast", "true")]);
    #[cfg(unix)]
    {
        let directory = crate::common::Directory::new();
        let mut server = socketserver::UnixStreamServer::new(directory.at("socket"), |_| NoHandler).unwrap();
        server.options.mode = Some(0o600);
        expect_refusal(server.handle_request(), &[("mode", "Some(384)")]);
    }
}

#[test]
fn an_option_that_is_set_between_two_requests_is_no_longer_ignored() {
    let mut server = TcpServer::new("127.0.0.1:0", |_| NoHandler).unwrap();
    server.timeout = Some(Duration::ZERO);
    server.handle_request().unwrap();
    server.options.nodelay = false;
    expect_refusal(server.handle_request(), &[("nodelay", "false")]);
    server.options.nodelay = true;
    server.handle_request().unwrap();
}

#[test]
fn a_backlog_may_be_set_until_the_server_is_activated_and_the_rest_until_it_is_bound() {
    let mut server = tcp();
    server.server_bind("127.0.0.1:0").unwrap();
    server.options.nodelay = false;
    expect_refusal(server.server_activate(), &[("nodelay", "false")]);
    server.options.nodelay = true;
    server.options.request_queue_size = 7;
    server.server_activate().unwrap();
    server.timeout = Some(Duration::ZERO);
    server.handle_request().unwrap();
}

#[test]
fn options_that_are_set_after_a_stop_count_when_the_server_is_bound_again() {
    let mut server = TcpServer::new("127.0.0.1:0", |_| NoHandler).unwrap();
    server.shutdown_handle().shutdown();
    server.serve_forever().unwrap();
    server.options.nodelay = false;
    server.timeout = Some(Duration::ZERO);
    server.handle_request().unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn what_is_accepted_has_the_probes_and_the_user_timeout_of_its_server() {
    use socketserver::{Address, BaseServer, Listener, Stream};

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
    let mut server = TcpServer::unbound(Looking::default(), |_, _| NoHandler).unwrap();
    (server.options.keepalive, server.options.keepalive_probes) = (keepalive(SECOND, SECOND), Some(3));
    server.options.user_timeout = Some(Duration::from_millis(1_234));
    server.server_bind("127.0.0.1:0").unwrap();
    server.server_activate().unwrap();
    let _client = Peer::connect(server.server_address().unwrap());
    server.handle_request().unwrap();
    assert_eq!(server.server_mut().0, Some((3, Some(Duration::from_millis(1_234)))));
}

/// A peer that acknowledges nothing cannot be had without taking the network down; one that keeps its window closed is
/// the kernel's other case of the same timeout.
#[test]
#[cfg(target_os = "linux")]
fn a_peer_that_takes_nothing_is_given_up_after_the_user_timeout() {
    let journal = Journal::new();
    let told = journal.clone();
    let mut server = TcpServer::unbound((), move |_, _| {
        let told = told.clone();
        probe(move |call, request: &mut Request<'_>| {
            match call {
                Call::Handle => request.output.write_all(&[b'x'; 12 << 20])?,
                Call::Finish(why) => told.note(why),
                _ => {}
            }
            usual(&call, request)
        })
    })
    .unwrap();
    server.options.user_timeout = Some(Duration::from_millis(500));
    (server.limits.write_timeout, server.limits.idle_timeout) = (None, None);
    server.server_bind("127.0.0.1:0").unwrap();
    server.server_activate().unwrap();
    let address = server.server_address().unwrap();
    let running = serve(server);
    let mut client = Peer::connect(address);
    client.send("go");
    journal.wait("reset");
    running.stop();
}

#[test]
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn a_user_timeout_is_an_error_where_the_system_has_none() {
    let mut server = tcp();
    server.options.user_timeout = Some(SECOND);
    assert!(matches!(server.server_bind("127.0.0.1:0"), Err(Error::Bind { .. })));
}

fn options_that_are_not_changed_are_no_hindrance<F: Kind>() {
    let running = serve(echoing::<F>());
    running.connect().echo("hello");
    running.stop();
    let mut server = server::<F, _>(|_| NoHandler);
    server.options = server.options.clone();
    server.timeout = Some(Duration::ZERO);
    server.handle_request().unwrap();
}

over_streams![options_that_are_not_changed_are_no_hindrance,];
