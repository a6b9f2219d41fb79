//! Plain values: addresses, shared bytes, options, messages.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use log::{LevelFilter, Log};
use socketserver::family::ServerAddress;
use socketserver::logging::NonBlocking;
use socketserver::{
    Address, Credentials, MulticastGroup, MulticastInterface, ProxyHeader, ProxyProtocol, SharedBytes, TcpOptions,
    UdpOptions, UnixAddress, UnixOptions,
};

use crate::methods::{call, note};
use crate::secure::acceptor;

/// The same bytes in one of the ways in which they can be shared.
pub(crate) fn shared_bytes(rng: &mut Rng, bytes: Vec<u8>) -> SharedBytes {
    let text = String::from_utf8(bytes.clone()).expect("the tests send text");
    let whole: SharedBytes = match rng.u32(..6) {
        0 => text.into(),
        1 => bytes.into_boxed_slice().into(),
        2 => Arc::<[u8]>::from(bytes).into(),
        3 => Arc::<str>::from(text).into(),
        4 => Arc::new(bytes).into(),
        _ => bytes.into(),
    };
    let from = rng.usize(..=whole.len());
    call!(SharedBytes::slice(&whole, from..whole.len()))
}

/// Addresses of both kinds, taken apart.
pub(crate) fn addresses(rng: &mut Rng) {
    let (octets, port) = ([127, 0, 0, rng.u8(..)], rng.u16(..));
    let inet = Address::from(SocketAddr::from((octets, port)));
    assert_eq!(call!(Address::ip(&inet)), Some(IpAddr::from(octets)));
    assert_eq!(call!(Address::port(&inet)), Some(port));
    assert_eq!(call!(Address::as_inet(&inet)), Some((octets, port).into()));
    assert_eq!(call!(Address::as_unix(&inet)), None);
    let header = call!(ProxyHeader::new(inet.clone(), inet.clone()));
    assert!(call!(ProxyHeader::to_v1(&header)).unwrap().ends_with(b"\r\n"));
    let header = call!(ProxyHeader::with_tlv(header, 5, b"id"));
    assert!(call!(ProxyHeader::to_v2(&header)).unwrap().ends_with(b"id"));
    assert_eq!(call!(ProxyHeader::client_address(&header)), Some(&inet));
    assert_eq!(call!(ProxyHeader::destination(&header)), Some(&inet));
    assert_eq!((call!(ProxyHeader::unique_id(&header)), call!(ProxyHeader::tlv(&header, 6))), (Some(&b"id"[..]), None));
    assert_eq!((call!(ProxyHeader::alpn(&header)), call!(ProxyHeader::server_name(&header))), (None, None));
    let local = call!(ProxyHeader::local());
    assert_eq!(call!(ProxyHeader::proxy_address(&local)), None);

    let path = call!(UnixAddress::from_path(format!("/run/{port}")));
    assert_eq!(call!(UnixAddress::as_path(&path)), Some(Path::new(&format!("/run/{port}"))));
    let name = call!(UnixAddress::from_abstract_name(octets));
    assert_eq!(call!(UnixAddress::as_abstract_name(&name)), Some(&octets[..]));
    let unnamed = call!(UnixAddress::unnamed());
    assert!(call!(UnixAddress::is_unnamed(&unnamed)) && !call!(UnixAddress::is_unnamed(&name)));
    let unix = Address::from(name);
    assert_eq!((unix.ip(), unix.port(), unix.as_inet(), unix.as_unix().is_some()), (None, None, None, true));

    note("ServerAddress::to_addresses");
    note("ServerAddress::text");
    let found = ServerAddress::<SocketAddr>::to_addresses(&("127.0.0.1", port)).expect("an address");
    assert_eq!(found, [SocketAddr::from(([127, 0, 0, 1], port))]);
    assert_eq!(ServerAddress::<SocketAddr>::text(&"localhost:80"), "localhost:80");
    assert!(ServerAddress::<UnixAddress>::to_addresses("@odd").is_err());
    assert_eq!(ServerAddress::<UnixAddress>::text("/run/x"), "/run/x");

    let own = call!(Credentials::own());
    assert_eq!(own.pid, i32::try_from(std::process::id()).ok());
    let mut group = call!(MulticastGroup::new(Ipv6Addr::from([0xff02, 0, 0, 0, 0, 0, 0, 0xfb])));
    group.interface = MulticastInterface::Index(1);
    assert!(std::io::stdin().as_fd().try_clone_to_owned().is_ok() && group.address.is_ipv6());
}

/// Options of sockets of every kind.
pub(crate) trait RandomOptions: Default {
    fn random(rng: &mut Rng) -> Self;
}

impl RandomOptions for TcpOptions {
    fn random(rng: &mut Rng) -> Self {
        let mut options = TcpOptions::default();
        options.request_queue_size = rng.i32(1..200);
        options.nodelay = rng.bool();
        options.allow_reuse_port = rng.bool();
        options.tls = (rng.u32(..4) == 0).then(|| acceptor(rng));
        options.send_buffer_bytes = rng.bool().then(|| rng.usize(4_000..100_000));
        options.proxy_protocol = (rng.u32(..3) == 0).then(|| proxies(rng));
        options
    }
}

/// Some clients are trusted proxies. They send no header, or something that begins like one.
fn proxies(rng: &mut Rng) -> ProxyProtocol {
    let mut trusted = rng.fork();
    let trusts = std::sync::Mutex::new(move || trusted.bool());
    let mut protocol = match rng.bool() {
        true => call!(ProxyProtocol::new(move |_| trusts.lock().unwrap()())),
        false => call!(ProxyProtocol::trusting([std::net::Ipv4Addr::LOCALHOST.into()])),
    };
    protocol.required = rng.u32(..4) == 0;
    protocol.timeout = Duration::from_millis(rng.u64(1..20));
    protocol
}

impl RandomOptions for UdpOptions {
    fn random(rng: &mut Rng) -> Self {
        let mut options = UdpOptions::default();
        options.broadcast = rng.bool();
        options.multicast_loop = rng.bool();
        options.allow_reuse_port = rng.bool();
        options
    }
}

impl RandomOptions for UnixOptions {
    fn random(rng: &mut Rng) -> Self {
        let mut options = UnixOptions::default();
        options.tls = (rng.u32(..4) == 0).then(|| acceptor(rng));
        options.mode = rng.bool().then_some(0o600);
        options.request_queue_size = rng.i32(1..200);
        options
    }
}

/// Discards every line, on the thread of a logger that does not block. It can be installed once.
pub(crate) fn install_logger() {
    struct Discard;
    impl Log for Discard {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            let _ = record.args().to_string();
        }
        fn flush(&self) {}
    }
    let hook = std::panic::take_hook();
    let logger = call!(NonBlocking::new(Discard)).expect("a thread");
    call!(NonBlocking::init(logger, LevelFilter::Debug)).expect("the first logger");
    assert!(NonBlocking::new(Discard).expect("a thread").init(LevelFilter::Debug).is_err(), "a second logger");
    std::panic::set_hook(hook);
}
