//! Unix sockets: names of every kind, files that must come and go, and peers that do not read.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram as StdDatagram, UnixListener};
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use socketserver::family::{Family, UnixDatagram, UnixStream};
use socketserver::{
    Address, BaseServer, Delivery, DropPolicy, Error, Incoming, Next, Request, RequestHandler, Result, ServeOn, Server,
    StreamRequestHandler, Unbound, UnixAddress, UnixOptions, UnixStreamServer,
};

use crate::common::{
    Call, Directory, Journal, Kind, Mailbox, Peer, Running, address_of, echo, echoing, is_alone, limit,
    never_interrupt, options, probe, serve, server, server_with, usual,
};

/// Makes a test of each function, once for streams and once for datagrams.
macro_rules! over_both {
    ($($test:ident,)*) => {
        mod stream {
            $(#[test] fn $test() { super::$test::<socketserver::family::UnixStream>(); })*
        }
        mod datagram {
            $(#[test] fn $test() { super::$test::<socketserver::family::UnixDatagram>(); })*
        }
    };
}

over_both! {
    a_path_that_a_dead_server_left_is_taken_over,
    a_path_that_a_live_server_has_is_refused_and_left_alone,
    what_is_no_socket_is_refused_and_left_alone,
    a_path_that_fits_no_address_is_refused,
    a_path_has_the_mode_it_is_given_and_a_server_that_fails_leaves_none,
    a_path_goes_with_its_server_however_that_ends,
    a_path_that_was_replaced_is_left_alone,
    of_servers_that_race_for_a_path_one_wins,
    a_path_that_was_adopted_is_left_alone,
    an_abstract_name_needs_no_file_and_is_free_again,
}

trait Local: Kind + Family<Options = UnixOptions, Address = UnixAddress, Adopted: From<std::os::fd::OwnedFd>> {}
impl Local for UnixStream {}
impl Local for UnixDatagram {}

/// An echo server at a path.
fn at<F: Local>(path: &Path) -> socketserver::Result<Server<F, (), impl RequestHandler + use<F>>> {
    Server::new(path, |_| probe(|call, request: &mut Request<'_>| echo(&call, request)))
}

/// Checks that a server answers at an address.
#[track_caller]
fn assert_served<F: Local>(address: impl Into<Address>) {
    let address = address.into();
    match F::NAME == UnixStream::NAME {
        true => Peer::connect(address).echo("is it you?"),
        false => Mailbox::to(address).echo("is it you?"),
    }
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Refused because a live socket has the address. The words for it are each C library's own.
fn assert_in_use<T>(refused: Result<T>, name: &dyn std::fmt::Display) {
    match refused.err() {
        Some(Error::Bind { address, source }) if source.kind() == std::io::ErrorKind::AddrInUse => {
            assert_eq!(address.to_string(), name.to_string());
        }
        other => panic!("{name} is in use, and not {other:?}"),
    }
}

// ---- the name ----

#[test]
fn the_text_of_an_address_distinguishes_paths_and_abstract_names() {
    for address in [UnixAddress::from_path("@x"), UnixAddress::from_abstract_name("x"), UnixAddress::from_path("x")] {
        let parsed: UnixAddress = address.to_string().parse().unwrap();
        assert_eq!(parsed.as_abstract_name(), address.as_abstract_name(), "{address}");
        assert_eq!(parsed.as_path().is_some(), address.as_path().is_some(), "{address}");
    }
    assert_eq!(UnixAddress::from_path("@x").to_string(), "./@x");
    assert_eq!(format!("{:>6}|", UnixAddress::from_abstract_name("x")), "    @x|");
}

#[test]
fn a_name_that_a_peer_chose_is_shown_escaped() {
    let name = b"a\n\x1b[2J\xff\0\xe2\x80\xae 'q' \\ \xc3\xa9";
    let shown = "a\\n\\u{1b}[2J\\xff\\0\\u{202e} 'q' \\ é";
    assert_eq!(UnixAddress::from_abstract_name(name).to_string(), format!("@{shown}"));
    let path: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(name);
    assert_eq!(Address::from(UnixAddress::from_path(path)).to_string(), shown);
}

#[test]
fn a_text_that_may_mean_a_path_or_an_abstract_name_is_refused() {
    let directory = Directory::new();
    for error in [at::<UnixStream>(Path::new("@echo")).err(), at::<UnixDatagram>(Path::new("@echo")).err()] {
        let text = format!("{:#}", error.expect("it may mean either"));
        let ways = ["@echo", "UnixAddress::from_path(\"./@...\")", "UnixAddress::from_abstract_name(\"echo\")"];
        assert!(ways.iter().all(|way| text.contains(way)), "{text}");
        assert!(!exists(Path::new("@echo")));
    }
    // In a directory it is a path and nothing else.
    let running = serve(at::<UnixStream>(&directory.at("@echo")).unwrap());
    assert_served::<UnixStream>(UnixAddress::from_path(directory.at("@echo")));
    running.stop();
}

// ---- the file ----

fn a_path_that_a_dead_server_left_is_taken_over<F: Local>() {
    if !is_alone() {
        return;
    }
    let directory = Directory::new();
    for (n, leave) in [|path: &Path| drop(UnixListener::bind(path)), |path: &Path| drop(StdDatagram::bind(path))]
        .into_iter()
        .enumerate()
    {
        let path = directory.at(&n.to_string());
        leave(&path);
        let left = fs::symlink_metadata(&path).unwrap().ino();
        let held = fs::File::open(directory.at(".")).unwrap(); // What others do to the directory does not matter.
        let running = serve(at::<F>(&path).unwrap());
        assert_served::<F>(UnixAddress::from_path(&path));
        assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
        running.stop();
        drop((held, left));
    }
    directory.assert_empty();
}

fn a_path_that_a_live_server_has_is_refused_and_left_alone<F: Local>() {
    let directory = Directory::new();
    let path = directory.at("s");
    let running = serve(at::<F>(&path).unwrap());
    let before = fs::symlink_metadata(&path).unwrap().ino();
    for _ in 0..3 {
        assert_in_use(at::<UnixStream>(&path), &path.display());
        assert_in_use(at::<UnixDatagram>(&path), &path.display());
    }
    assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), before);
    assert_served::<F>(UnixAddress::from_path(&path));
    let stats = running.stop();
    assert!(stats.accepted <= 1, "no more than one connection was accepted to find out: {stats:?}");
    directory.assert_empty();
    // A bound socket is in use, even if it does not listen or receive yet.
    let mut bound = echoing_unbound::<F>();
    bound.server_bind(&path).unwrap();
    assert_in_use(at::<F>(&path), &path.display());
    drop(bound);
    directory.assert_empty();
}

fn what_is_no_socket_is_refused_and_left_alone<F: Local>() {
    let directory = Directory::new();
    let (file, folder, link) = (directory.at("file"), directory.at("folder"), directory.at("link"));
    fs::write(&file, "precious").unwrap();
    fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    for (path, what) in [(&file, "a regular file"), (&folder, "a directory"), (&link, "a symbolic link")] {
        let error = format!("{:#}", at::<F>(path).err().unwrap());
        assert_eq!(error, format!("cannot bind {}: it exists and is {what}, not a socket", path.display()));
        assert!(exists(path));
    }
    assert_eq!(fs::read_to_string(&link).unwrap(), "precious");
    let nowhere = directory.at("nowhere/s");
    let error = format!("{:#}", at::<F>(&nowhere).err().unwrap());
    assert_eq!(error, format!("cannot bind {}: no such file or directory", nowhere.display()));
}

fn a_path_that_fits_no_address_is_refused<F: Local>() {
    let directory = Directory::new();
    let long = directory.at(&"x".repeat(150));
    let error = format!("{:#}", at::<F>(&long).err().unwrap());
    let bytes = long.as_os_str().len();
    assert!(error.contains(&format!("the path is {bytes} bytes long, at most ")), "{error}");
    assert!(format!("{:#}", at::<F>(Path::new("")).err().unwrap()).ends_with("the path is empty"));
    assert!(format!("{:#}", at::<F>(Path::new("a\0b")).err().unwrap()).ends_with("the path contains a NUL byte"));
    directory.assert_empty();
}

fn a_path_has_the_mode_it_is_given_and_a_server_that_fails_leaves_none<F: Local>() {
    let directory = Directory::new();
    let with = |mode| options(|options: &mut UnixOptions| options.mode = Some(mode));
    for mode in [0o600, 0o666, 0o660, 0o777] {
        let path = directory.at("s");
        let mut server = echoing_unbound::<F>();
        server.server_bind_with(&path, with(mode)).unwrap();
        let server = server.server_activate().unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o7777, mode);
        let running = serve(server);
        assert_served::<F>(UnixAddress::from_path(&path));
        running.stop();
    }
    let mut server = echoing_unbound::<F>();
    let error = format!("{:#}", server.server_bind_with(directory.at("s"), with(660)).unwrap_err());
    assert!(error.ends_with("the mode 0o1224 is more than 0o777"), "{error}");
    directory.assert_empty();
}

/// Binds, and then fails.
#[derive(Default)]
struct Failing;

impl BaseServer for Failing {
    fn server_bind(&mut self, socket: &socketserver::Socket, address: &Address) -> std::io::Result<()> {
        socket.bind(address)?;
        Err(std::io::Error::other("second thoughts"))
    }
}

fn a_path_goes_with_its_server_however_that_ends<F: Local>() {
    let directory = Directory::new();
    let path = directory.at("s");
    // Dropped before it ever served.
    drop(at::<F>(&path).unwrap());
    directory.assert_empty();
    // Closed, and bound again.
    let mut server = at::<F>(&path).unwrap();
    server.server_close();
    directory.assert_empty();
    server.timeout = Some(Duration::ZERO);
    server.handle_request().unwrap();
    assert!(exists(&path));
    // Served and shut down; it comes back when served again.
    for _ in 0..2 {
        server.shutdown_handle().shutdown();
        server.serve_forever().unwrap();
        directory.assert_empty();
    }
    server.handle_request().unwrap();
    assert!(exists(&path), "between two requests it stays bound");
    drop(server);
    directory.assert_empty();
    // Stopped at once, with a client connected.
    let running = serve(at::<F>(&path).unwrap());
    assert_served::<F>(UnixAddress::from_path(&path));
    running.stop.shutdown_now();
    running.join();
    directory.assert_empty();
    // A hook that fails after it has bound the socket.
    let handler = |_: &mut Failing, _: &Address| probe(|call, request: &mut Request<'_, Failing>| echo(&call, request));
    let failed = format!("{:#}", Server::<F, _, _>::with_server(&path, Failing, handler).err().unwrap());
    assert_eq!(failed, format!("cannot bind {}: second thoughts", path.display()));
    directory.assert_empty();
    // In a reactor that the server does not own.
    let mut reactor = socketserver::Reactor::new().unwrap();
    let id = reactor.add(at::<F>(&path).unwrap()).unwrap();
    assert_eq!(reactor.server_addresses(id), [UnixAddress::from_path(&path).into()]);
    reactor.server_close(id);
    directory.assert_empty();
}

fn a_path_that_was_replaced_is_left_alone<F: Local>() {
    let directory = Directory::new();
    let (path, aside) = (directory.at("s"), directory.at("aside"));
    let first = serve(at::<F>(&path).unwrap());
    fs::rename(&path, &aside).unwrap();
    let second = serve(at::<F>(&path).unwrap());
    first.stop();
    assert_served::<F>(UnixAddress::from_path(&path));
    second.stop();
    assert!(!exists(&path));
    let third = serve(at::<F>(&path).unwrap());
    fs::remove_file(&path).unwrap();
    fs::write(&path, "not a socket any more").unwrap();
    third.stop();
    assert_eq!(fs::read_to_string(&path).unwrap(), "not a socket any more");
}

fn of_servers_that_race_for_a_path_one_wins<F: Local>() {
    if !is_alone() {
        return;
    }
    const RACERS: usize = 8;
    let directory = Directory::new();
    for round in 0..20 {
        let path = directory.at("s");
        if round % 2 == 0 {
            drop(UnixListener::bind(&path).unwrap()); // A stale one to be taken over.
        }
        let barrier = Arc::new(Barrier::new(RACERS));
        let racers: Vec<_> = (0..RACERS)
            .map(|_| {
                let (barrier, path) = (Arc::clone(&barrier), path.clone());
                std::thread::spawn(move || {
                    barrier.wait();
                    at::<F>(&path)
                })
            })
            .collect();
        let (won, lost): (Vec<_>, Vec<_>) =
            racers.into_iter().map(|racer| racer.join().unwrap()).partition(|result| result.is_ok());
        assert_eq!((won.len(), lost.len()), (1, RACERS - 1), "round {round}");
        for error in lost {
            assert_in_use(error, &path.display());
        }
        let running = serve(won.into_iter().next().unwrap().unwrap());
        assert_served::<F>(UnixAddress::from_path(&path));
        running.stop();
        directory.assert_empty();
    }
}

fn a_path_that_was_adopted_is_left_alone<F: Local>() {
    let directory = Directory::new();
    let path = directory.at("s");
    let kind = if F::NAME == UnixStream::NAME { socket2::Type::STREAM } else { socket2::Type::DGRAM };
    let socket = socket2::Socket::new(socket2::Domain::UNIX, kind, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    if kind == socket2::Type::STREAM {
        socket.listen(8).unwrap();
    }
    let mut server = echoing_unbound::<F>();
    server.adopt(F::Adopted::from(std::os::fd::OwnedFd::from(socket))).unwrap();
    let server = server.server_activate().unwrap();
    assert_eq!(server.server_address(), UnixAddress::from_path(&path));
    let running = serve(server);
    assert_served::<F>(UnixAddress::from_path(&path));
    running.stop();
    assert!(exists(&path), "the process that made it removes it");
}

fn echoing_unbound<F: Local>() -> Unbound<F, (), impl RequestHandler + use<F>> {
    Server::unbound(|_| probe(|call, request: &mut Request<'_>| echo(&call, request)))
}

// ---- names ----

const NO_ABSTRACT_NAMES: bool = cfg!(not(any(target_os = "linux", target_os = "android")));

/// An abstract name that is not in use elsewhere.
fn abstract_name() -> UnixAddress {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    UnixAddress::from_abstract_name(format!("socketserver-test-{}-{count}", std::process::id()))
}

fn an_abstract_name_needs_no_file_and_is_free_again<F: Local>() {
    if !is_alone() {
        return;
    }
    if NO_ABSTRACT_NAMES {
        return println!("skipped: only Linux has abstract names");
    }
    let name = abstract_name();
    let make = |name: &UnixAddress| {
        Server::<F, (), _>::new(name.clone(), |_| probe(|call, request: &mut Request<'_>| echo(&call, request)))
    };
    for _ in 0..3 {
        let server = make(&name).unwrap();
        assert_eq!(server.server_address(), name);
        assert_in_use(make(&name), &name);
        let running = serve(server);
        assert_served::<F>(name.clone());
        running.stop();
    }
}

#[test]
fn a_backlog_for_datagrams_is_refused_not_ignored() {
    let directory = Directory::new();
    let mut server = socketserver::UnixDatagramServer::unbound(|_| socketserver::NoHandler);
    let mut options = UnixOptions::default();
    options.request_queue_size = 5;
    let error = server.server_bind_with(directory.at("s"), options).unwrap_err();
    assert_eq!(error.to_string(), "cannot use request_queue_size = 5: datagrams are not accepted");
}

#[test]
fn a_mode_for_an_abstract_name_is_refused_not_ignored() {
    let mut server = UnixStreamServer::unbound(|_| socketserver::NoHandler);
    let mut options = UnixOptions::default();
    options.mode = Some(0o600);
    let error = server.server_bind_with(abstract_name(), options).unwrap_err();
    assert!(format!("{error:#}").ends_with(": an abstract name has no mode"), "{error:#}");
}

/// Answers with the client's address.
fn introducing<F: Kind>() -> Running<(), F> {
    serve(server::<F, _>(|_| {
        probe(|call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                let Address::Unix(client) = request.client_address() else { panic!("a Unix socket") };
                request.input.take_all();
                writeln!(request.output, "{client} {}", client.is_unnamed())?;
            }
            usual(&call, request)
        })
    }))
}

fn bound_to(address: Option<&Address>, kind: socket2::Type) -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, kind, None).unwrap();
    if let Some(address) = address {
        socket.bind(&crate::common::sock_addr(address)).unwrap();
    }
    socket
}

#[test]
fn a_stream_client_is_known_by_the_name_it_has() {
    if NO_ABSTRACT_NAMES {
        return println!("skipped: only Linux has abstract names");
    }
    let running = introducing::<UnixStream>();
    let directory = Directory::new();
    let path = UnixAddress::from_path(directory.at("client"));
    let name = abstract_name();
    for (address, expected) in [
        (None, "unnamed true".to_owned()),
        (Some(path.clone().into()), format!("{path} false")),
        (Some(name.clone().into()), format!("{name} false")),
    ] {
        let socket = bound_to(address.as_ref(), socket2::Type::STREAM);
        socket.connect(&crate::common::sock_addr(&running.address.clone().into())).unwrap();
        let mut client = Peer::of(socket);
        client.send("who am I?");
        assert_eq!(client.line(), expected);
    }
    running.stop();
}

/// The address then has no room for the NUL at its end; neither Rust nor Python makes such a one.
#[test]
#[cfg(target_os = "linux")]
fn a_stream_client_with_a_path_of_full_length_is_served() {
    let running = introducing::<UnixStream>();
    let directory = Directory::new();
    let stem = directory.at("");
    let path = directory.at(&"x".repeat(108 - stem.as_os_str().len()));
    let script =
        "use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0) or die; bind(S, pack('S a108', 1, $ARGV[0])) or die $!;
        connect(S, pack_sockaddr_un($ARGV[1])) or die $!; syswrite(S, 'who am I?'); alarm 10; print scalar <S>";
    let mut perl = std::process::Command::new("perl");
    match perl.args(["-e", script]).arg(&path).arg(running.address.as_path().unwrap()).output() {
        Ok(output) if output.status.success() => {
            assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{} false\n", path.display()));
        }
        other => println!("skipped: no perl to bind such a path: {other:?}"),
    }
    assert_eq!(running.stop().panics, 0);
}

#[test]
fn a_datagram_client_is_answered_by_whatever_name_it_has_and_not_without() {
    if NO_ABSTRACT_NAMES {
        return println!("skipped: only Linux has abstract names");
    }
    let running = introducing::<UnixDatagram>();
    let unnamed = StdDatagram::unbound().unwrap();
    unnamed.send_to(b"who am I?", running.address.as_path().unwrap()).unwrap();
    running.wait_for_stats("it has no name to write to", |stats| stats.datagrams_failed == 1);
    let name = abstract_name();
    let client = Mailbox::named(&name.clone().into(), &running.address.clone().into());
    assert_eq!(client.ask("who am I?"), format!("{name} false\n"));
    assert!(running.mailbox().ask("who am I?").ends_with("/s false\n"));
    let stats = running.stop();
    assert_eq!((stats.datagrams_out, stats.datagrams_failed), (2, 1));
}

#[test]
fn writing_to_a_client_without_a_name_returns_gone() {
    let journal = Journal::new();
    let notes = journal.clone();
    let running = serve(server::<UnixDatagram, _>(move |_| {
        let notes = notes.clone();
        probe(move |call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                notes.note(format!("{:?}", request.send_to(&request.client_address(), b"?")));
                notes.note(format!("{:?}", request.others.send(request.id(), b"?")));
                let of_another_family = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
                assert_eq!(request.send_to(&of_another_family.into(), b"?"), Delivery::Queued);
            }
            usual(&call, request)
        })
    }));
    StdDatagram::unbound().unwrap().send_to(b"!", running.address.as_path().unwrap()).unwrap();
    running.wait_for_stats("all of it failed", |stats| stats.datagrams_failed == 2);
    assert_eq!(journal.lines(), ["Gone", "Refused"]);
    running.stop();
}

// ---- outbound ----

/// Connects to an address for each client, and says how that went.
fn calling(to: UnixAddress, journal: &Journal) -> Running<(), UnixStream> {
    let journal = journal.clone();
    let mut server = server::<UnixStream, _>(move |_| {
        let (to, journal) = (to.clone(), journal.clone());
        probe(move |call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                let (from, journal) = (request.id(), journal.clone());
                let noting = journal.clone();
                let far = probe(move |call, request: &mut Request<'_>| {
                    noting.note(&call);
                    match call {
                        Call::Setup => request.output.write_all(b"from afar")?,
                        Call::Handle => {
                            let bytes = request.input.take_all();
                            assert_eq!(request.others.send(from, bytes), Delivery::Queued);
                        }
                        _ => {}
                    }
                    usual(&call, request)
                });
                if let Err(error) = request.others.connect(to.clone(), far) {
                    journal.note(format!("{error:#}"));
                }
            }
            usual(&call, request)
        })
    });
    never_interrupt(&mut server);
    serve(server)
}

#[test]
fn a_handler_connects_to_a_path_and_to_an_abstract_name() {
    if NO_ABSTRACT_NAMES {
        return println!("skipped: only Linux has abstract names");
    }
    let abstracted =
        UnixStreamServer::new(abstract_name(), |_| probe(|call, request: &mut Request<'_>| echo(&call, request)));
    for upstream in [serve(echoing::<UnixStream>()), serve(abstracted.unwrap())] {
        let journal = Journal::new();
        let running = calling(upstream.address.clone(), &journal);
        let mut client = running.connect();
        client.send("go");
        client.expect("from afar");
        drop(client);
        running.stop();
        upstream.stop();
        assert_eq!(journal.lines()[..2], ["setup", "handle"]);
    }
}

#[test]
fn connecting_to_a_path_without_a_listener_fails_at_once() {
    let directory = Directory::new();
    let (missing, stale) = (directory.at("missing"), directory.at("stale"));
    drop(UnixListener::bind(&stale).unwrap());
    for (to, why) in [(missing, "no such file or directory"), (stale, "connection refused")] {
        let journal = Journal::new();
        let running = calling(UnixAddress::from_path(&to), &journal);
        let mut client = running.connect();
        client.send("go");
        journal.wait(&format!("cannot connect to {}: {why}", to.display()));
        client.half_close();
        client.expect_eof();
        let stats = running.stop();
        assert_eq!((stats.connects, journal.lines().len()), (0, 1));
    }
    let journal = Journal::new();
    let running = calling(UnixAddress::unnamed(), &journal);
    running.connect().send("go");
    journal.wait("cannot connect to unnamed: the address is no name of a socket");
    running.stop();
}

// ---- peers that do not read ----

#[test]
fn a_client_that_goes_without_reading_ends_its_connection_only() {
    let journal = Journal::new();
    let notes = journal.clone();
    let running = serve(server::<UnixStream, _>(move |_| {
        let notes = notes.clone();
        probe(move |call, request: &mut Request<'_>| {
            if let Call::Finish(why) = &call {
                notes.note(format!("finish {why}"));
            }
            echo(&call, request)
        })
    }));
    let mut bystander = running.connect();
    bystander.echo("here");
    let mut client = running.connect();
    client.send("an answer that nobody reads");
    running.wait_for_stats("it is answered", |stats| stats.bytes_out == 31);
    drop(client);
    journal.wait("finish reset");
    bystander.echo("still here");
    running.stop();
}

/// A server that answers `N` with the numbers below N, each in a datagram of its own, and echoes the rest.
fn counting(limits: impl FnOnce(&mut socketserver::Limits)) -> Running<(), UnixDatagram> {
    let mut server = server::<UnixDatagram, _>(|_| {
        probe(|call, request: &mut Request<'_>| {
            let to = request.client_address();
            let number = std::str::from_utf8(request.input.unread()).unwrap().parse::<u32>();
            match (&call, number) {
                (Call::Handle, Ok(most)) => {
                    for number in 0..most {
                        let _ = request.send_to(&to, &number.to_le_bytes());
                    }
                    usual(&call, request)
                }
                _ => echo(&call, request),
            }
        })
    });
    limit(&mut server, limits);
    serve(server)
}

#[track_caller]
fn number(client: &Mailbox) -> u32 {
    u32::from_le_bytes(client.receive().try_into().expect("a number"))
}

#[test]
fn a_peer_that_never_reads_costs_a_bounded_amount_and_delays_no_other() {
    const FLOOD: u32 = 5_000;
    for policy in [DropPolicy::Oldest, DropPolicy::Newest] {
        let running = counting(|limits| {
            limits.datagram_queue_bytes_max = 10_000;
            limits.datagram_queue_overflow = policy;
        });
        let (slow, other) = (running.mailbox(), running.mailbox());
        slow.send(FLOOD.to_string());
        other.echo("me too");
        let dropped = running.wait_for_stats("it overflows", |stats| stats.datagrams_dropped > 0).datagrams_dropped;
        let kept = FLOOD - dropped as u32;
        assert!((100..300).contains(&kept), "{kept} of 10,000 bytes, each for more than 60");
        (0..100).for_each(|n| other.echo(format!("and I, {n}")));
        // It reads at last: what the kernel had, then what was kept, in order.
        let numbers: Vec<_> = (0..kept).map(|_| number(&slow)).collect();
        assert!(numbers.is_sorted(), "{numbers:?}");
        match policy {
            DropPolicy::Newest => assert_eq!(numbers, Vec::from_iter(0..kept)),
            _ => assert_eq!((numbers[0], *numbers.last().unwrap()), (0, FLOOD - 1)),
        }
        slow.echo("here I am again");
        let stats = running.stop();
        assert_eq!(stats.datagrams_dropped, u64::from(FLOOD - kept));
        assert_eq!(stats.datagrams_out, u64::from(kept) + 102);
    }
}

#[test]
fn a_peer_for_which_nothing_may_wait_is_heard_again_when_it_reads() {
    for max in [0, 60, 300] {
        for policy in [DropPolicy::Oldest, DropPolicy::Newest] {
            let running = counting(|limits| {
                limits.datagram_queue_bytes_max = max;
                limits.datagram_queue_overflow = policy;
            });
            let slow = running.mailbox();
            slow.send("1000");
            let kept =
                1_000 - running.wait_for_stats("it overflows", |stats| stats.datagrams_dropped > 0).datagrams_dropped;
            (0..kept).for_each(|_| _ = number(&slow));
            slow.echo("here I am again");
            // One that is longer than the whole queue: it sweeps that, and is dropped, and that is all.
            slow.send("1000");
            running.wait_for_stats("it overflows once more", |stats| stats.datagrams_dropped > 1_000);
            slow.send([b'x'; 5_000]);
            let stats = running.wait_for_stats("it is answered or not", |stats| stats.datagrams_in == 4);
            let left = 2_001 - stats.datagrams_dropped - kept; // Of two floods and the long one.
            for _ in 0..left {
                assert!(slow.receive().len() < 5_000, "at most {max}, {policy:?}");
            }
            slow.echo("and again");
            running.stop();
        }
    }
}

#[test]
fn datagrams_that_wait_for_a_peer_that_goes_are_given_up() {
    let running = counting(|_| {});
    let (slow, other) = (running.mailbox(), running.mailbox());
    slow.send("100");
    other.echo("me too");
    drop(slow);
    let stats =
        running.wait_for_stats("all of it is settled", |stats| stats.datagrams_out + stats.datagrams_failed == 101);
    assert!(stats.datagrams_failed > 50, "{stats:?}");
    other.echo("still here");
    let before = running.stats().turns;
    let turns = running.stats().turns - before;
    assert!(turns <= 2, "nothing is tried again any more");
    running.stop();
}

#[test]
fn a_peer_that_takes_the_whole_send_buffer_delays_others_until_it_goes_and_no_longer() {
    // The kernel charges the sender for what a peer does not read: see unix(7) on SO_SNDBUF.
    let mut server = server::<UnixDatagram, _>(|_| {
        probe(|call, request: &mut Request<'_>| {
            if let (Call::Handle, b"much") = (&call, request.input.unread()) {
                for _ in 0..200 {
                    let _ = request.send_to(&request.client_address(), &[0; 60_000]);
                }
            }
            echo(&call, request)
        })
    });
    limit(&mut server, |limits| limits.datagram_queue_bytes_max = 16 << 20);
    let running = serve(server);
    let (slow, others) = (running.mailbox(), [running.mailbox(), running.mailbox()]);
    slow.socket.connect(&crate::common::sock_addr(&running.address.clone().into())).unwrap();
    slow.send("much");
    others.iter().for_each(|other| other.send("one"));
    others.iter().for_each(|other| other.send("two"));
    running.wait_for_stats("all have asked", |stats| stats.datagrams_in == 5);
    drop(slow);
    for text in ["one", "two"] {
        others.iter().for_each(|other| other.expect(text));
    }
    running.stop();
}

#[test]
fn a_server_that_stops_waits_for_a_slow_peer_and_not_for_ever() {
    for reads in [true, false] {
        let mut server = server::<UnixDatagram, _>(|_| {
            probe(|call, request: &mut Request<'_>| {
                if let Call::Handle = call {
                    for number in 0..100u32 {
                        let _ = request.send_to(&request.client_address(), &number.to_le_bytes());
                    }
                }
                usual(&call, request)
            })
        });
        let mut config = server.config().clone();
        config.drain_grace = if reads { Duration::from_secs(3_600) } else { Duration::from_millis(50) };
        server.set_config(config);
        let running = serve(server);
        let slow = running.mailbox();
        slow.send("go");
        running.wait_for_stats("it is asked", |stats| stats.datagrams_in == 1);
        running.stop.shutdown();
        if reads {
            (0..100).for_each(|n| assert_eq!(number(&slow), n));
        }
        let (stats, ()) = running.join();
        assert_eq!(stats.datagrams_out == 100, reads, "{stats:?}");
    }
}

// ---- what comes beside the bytes ----

/// Serves on the reactor, or on threads. Either answers ten bytes, and only once all have come: a client that reads an
/// answer makes room, and the event for that says readable as well.
#[cfg(target_os = "linux")]
#[derive(Default)]
struct Ten {
    on_threads: bool,
}

#[cfg(target_os = "linux")]
impl BaseServer for Ten {
    fn process_request(&mut self, _: &Incoming<'_>, _: &Address) -> ServeOn<Self> {
        if !self.on_threads {
            return ServeOn::Reactor;
        }
        ServeOn::thread(StreamRequestHandler::new(|request| {
            let mut bytes = [0; 10];
            request.rfile.read_exact(&mut bytes)?;
            request.wfile.write_all(&bytes)?;
            request.wfile.flush()?;
            Ok(_ = request.rfile.read_to_end(&mut Vec::new())?)
        }))
    }
}

/// Linux ends a read at a message with a descriptor. What is sent behind it is read without a further event, and no copy
/// of the descriptor stays open.
#[test]
#[cfg(target_os = "linux")]
fn bytes_after_a_passed_descriptor_are_read_and_the_descriptor_is_closed() {
    use std::io::IoSlice;
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

    for on_threads in [false, true] {
        let server = server_with::<UnixStream, _, _>(Ten { on_threads }, |_, _| {
            probe(|call, request: &mut Request<'_, Ten>| {
                let Call::Handle = call else { return usual(&call, request) };
                request.output.write_all(request.input.read_exact(10)?.unwrap_or_default())?;
                Ok(Next::Wait)
            })
        });
        let (passed, kept) = std::os::unix::net::UnixStream::pair().unwrap();
        // All of it waits when the server first reads.
        let mut client = Peer::connect(address_of(&server));
        for byte in b"012345678" {
            let descriptors = [passed.as_raw_fd()];
            let beside = [ControlMessage::ScmRights(&descriptors)];
            let bytes = [IoSlice::new(std::slice::from_ref(byte))];
            sendmsg::<()>(client.socket.as_raw_fd(), &bytes, &beside, MsgFlags::empty(), None).unwrap();
        }
        client.send("9");
        drop(passed);
        let running = serve(server);
        client.expect("0123456789");
        Peer::of(kept).expect_eof();
        drop(client);
        running.stop();
    }
}

// ---- the credentials of a peer ----

#[cfg(feature = "credentials")]
mod credentials {
    use super::*;
    use socketserver::Credentials;

    /// Keeps what it is told of its clients.
    #[derive(Default)]
    struct Asking(Vec<std::io::Result<Credentials>>);

    impl BaseServer for Asking {
        fn verify_request(&mut self, request: &Incoming<'_>, _: &Address) -> bool {
            let Incoming::Stream(stream) = request else { return false };
            self.0.push(stream.peer_credentials());
            true
        }
    }

    fn asked<F: Kind>() -> std::io::Result<Credentials> {
        let server = server_with::<F, _, _>(Asking::default(), |_, _| {
            probe(|call, request: &mut Request<'_, Asking>| echo(&call, request))
        });
        let running = serve(server);
        running.connect().echo("who am I?");
        running.stop_with_state().1.0.remove(0)
    }

    #[test]
    fn a_unix_client_is_known_by_process_user_and_group() {
        let peer = asked::<UnixStream>().unwrap();
        let own = fs::metadata("/proc/self").unwrap();
        assert_eq!((peer.pid, peer.uid, peer.gid), (Some(std::process::id() as i32), own.uid(), own.gid()));
    }

    #[test]
    fn a_tcp_client_has_none() {
        assert_eq!(asked::<socketserver::family::Tcp>().unwrap_err().kind(), std::io::ErrorKind::Unsupported);
    }
}
