//! The examples as users meet them: started as programs, talked to over sockets, stopped with signals.
//!
//! `cargo test` builds the examples first; `cargo test --test examples` alone does not, and then the tests are skipped.

#![cfg(unix)]
#![allow(clippy::disallowed_methods, reason = "deadlines of tests are real time")]

#[path = "common/directory.rs"]
mod directory;
#[path = "common/loopback.rs"]
mod loopback;
#[path = "common/programs.rs"]
mod programs;

use std::io::{BufRead, BufReader, PipeReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use directory::Directory;
use loopback::loopback;
use programs::{DEADLINE, Lines, Program, connected, example, start, start_with};

// ---- echo ----

#[test]
fn echo_returns_any_number_of_bytes_and_the_end() {
    let Some(mut echo) = start("echo", &["127.0.0.1:0"]) else { return };
    for size in [0, 1, 2, 1_000, 65_535, 65_536, 65_537, 1 << 20, 8 << 20] {
        assert_same(&exchange(echo.connect(), &noise(size)), &noise(size));
    }
    echo.stops_in_good_order();
}

#[test]
fn echo_serves_many_at_once() {
    let Some(mut echo) = start("echo", &["127.0.0.1:0"]) else { return };
    let mut clients: Vec<_> = (0..200).map(|_| echo.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.write_all(format!("{number:03}").as_bytes()).unwrap();
    }
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(read_exact(client, 3), format!("{number:03}").as_bytes());
    }
    drop(clients);
    echo.stops_in_good_order();
}

#[test]
fn echo_closes_an_idle_connection() {
    let Some(echo) = start("echo", &["127.0.0.1:0", "--timeout", "0.2"]) else { return };
    let begun = Instant::now();
    assert_eq!(read_to_end(echo.connect()), b"");
    assert!(begun.elapsed() >= Duration::from_millis(200));
}

#[test]
fn echo_makes_clients_wait_above_the_maximum() {
    let Some(echo) = start("echo", &["127.0.0.1:0", "--max-connections", "1"]) else { return };
    let mut first = echo.connect();
    first.write_all(b"a").unwrap();
    assert_eq!(read_exact(&mut first, 1), b"a");
    let mut second = echo.connect();
    second.write_all(b"b").unwrap();
    second.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(second.read(&mut [0]).is_err(), "it is not its turn");
    drop(first);
    second.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(read_exact(&mut second, 1), b"b");
}

#[test]
fn echo_without_arguments_is_at_the_port_of_the_documentation() {
    let Some(mut command) = example("echo") else { return };
    let mut echo = Program::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    // Another process may have the port.
    let said = echo.output.lines().next().or_else(|| echo.log.lines().next()).unwrap();
    match said.strip_prefix("listening on ") {
        Some(address) => {
            assert_eq!(address, "127.0.0.1:9999");
            echo.stops_in_good_order();
        }
        None => {
            // musl has "address in use" where others have "address already in use".
            let use_of_it = said.strip_prefix("error: cannot bind 127.0.0.1:9999: address ");
            assert!(use_of_it.is_some_and(|said| said.ends_with("in use")), "{said}");
            assert_eq!(echo.exit().code(), Some(1));
        }
    }
}

#[test]
fn echo_returns_datagrams_of_any_size() {
    let Some(mut echo) = start("echo", &["--udp", "127.0.0.1:0"]) else { return };
    let client = datagrams_to(echo.listening[0].strip_prefix("udp ").unwrap());
    for size in [0, 1, 2, 511, 1_472, 1_473, 8_191, 8_192, 8_193, 16_384, 65_506, 65_507, 0, 1] {
        assert_same(&ask(&client, &noise(size)), &noise(size));
    }
    echo.stops_in_good_order();
}

#[test]
fn echo_returns_every_datagram_to_its_sender() {
    let Some(mut echo) = start("echo", &["--udp", "127.0.0.1:0"]) else { return };
    let address = echo.listening[0].strip_prefix("udp ").unwrap();
    let clients: Vec<_> = (0..100).map(|_| datagrams_to(address)).collect();
    for round in 0..5 {
        for (number, client) in clients.iter().enumerate() {
            client.send(format!("{round} {number}").as_bytes()).unwrap();
        }
        for (number, client) in clients.iter().enumerate() {
            assert_eq!(text(received(|buffer| client.recv(buffer))), format!("{round} {number}"));
        }
    }
    echo.stops_in_good_order();
}

#[test]
fn echo_returns_the_longest_datagram_of_ipv6() {
    if let Err(error) = UdpSocket::bind("[::1]:0") {
        return eprintln!("skipped: no IPv6: {error}");
    }
    let Some(mut echo) = start("echo", &["--udp", "[::1]:0"]) else { return };
    let client = datagrams_to(echo.listening[0].strip_prefix("udp ").unwrap());
    for size in [65_507, 65_508, 65_527] {
        assert_same(&ask(&client, &noise(size)), &noise(size));
    }
    echo.stops_in_good_order();
}

#[test]
fn echo_serves_a_path_and_removes_it() {
    let scratch = Directory::new();
    let path = scratch.path("echo");
    let Some(mut echo) = start("echo", &["--unix", &path, "--mode", "600"]) else { return };
    assert_eq!(echo.listening[0], format!("unix stream {path}"));
    let found = std::fs::symlink_metadata(&path).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    for size in [0, 1, 2, 65_535, 65_536, 65_537, 8 << 20] {
        assert_same(&exchange(connect_path(&path), &noise(size)), &noise(size));
    }
    echo.stops_in_good_order();
    assert!(!Path::new(&path).exists());
}

#[test]
fn echo_serves_a_path_of_datagrams_and_removes_it() {
    let scratch = Directory::new();
    let path = scratch.path("echo");
    let Some(mut echo) = start("echo", &["--unix-datagram", &path]) else { return };
    assert_eq!(echo.listening[0], format!("unix datagram {path}"));
    let client = UnixDatagram::bind(scratch.path("client")).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.connect(&path).unwrap();
    // The one that is too long is not answered, nor is one without a sender.
    UnixDatagram::unbound().unwrap().send_to(b"whom to answer?", &path).unwrap();
    for size in [0, 1, 8_192, 8_193, 65_507, 65_508, 65_535, 65_536, 3] {
        client.send(&noise(size)).unwrap();
        if size <= 65_535 {
            assert_same(&received(|buffer| client.recv(buffer)), &noise(size));
        }
    }
    echo.stops_in_good_order();
    assert!(!Path::new(&path).exists());
}

#[test]
#[cfg(target_os = "linux")]
fn echo_serves_abstract_names() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    let name = format!("examples-{}", std::process::id());
    let (stream, datagram) = (format!("{name} stream"), format!("{name} datagram"));
    let arguments = ["--unix", &format!("@{stream}"), "--unix-datagram", &format!("@{datagram}")];
    let Some(mut echo) = start_with("echo", &arguments, 2) else { return };
    assert_eq!(echo.listening, [format!("unix stream @{stream}"), format!("unix datagram @{datagram}")]);

    let address = SocketAddr::from_abstract_name(&stream).unwrap();
    let client = UnixStream::connect_addr(&address).unwrap();
    assert_same(&exchange(connected_path(client), &noise(100_000)), &noise(100_000));

    let client = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(format!("{name} client")).unwrap()).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.connect_addr(&SocketAddr::from_abstract_name(&datagram).unwrap()).unwrap();
    client.send(b"hello").unwrap();
    assert_eq!(received(|buffer| client.recv(buffer)), b"hello");

    // The name is taken, and free again when no process has it.
    refuses("echo", &["--unix", &format!("@{stream}")], &format!("@{stream}"));
    echo.stops_in_good_order();
    start("echo", &["--unix", &format!("@{stream}")]).unwrap().stops_in_good_order();
}

#[test]
fn echo_serves_all_kinds_at_once() {
    let scratch = Directory::new();
    let (stream, datagram) = (scratch.path("stream"), scratch.path("datagram"));
    let arguments = ["127.0.0.1:0", "--udp", "127.0.0.1:0", "--unix", &stream, "--unix-datagram", &datagram];
    let Some(mut echo) = start_with("echo", &arguments, 4) else { return };
    let mut tcp = echo.connect();
    let udp = datagrams_to(echo.other("udp "));
    let mut unix = connect_path(echo.other("unix stream "));
    let unix_datagram = UnixDatagram::bind(scratch.path("client")).unwrap();
    unix_datagram.set_read_timeout(Some(DEADLINE)).unwrap();
    unix_datagram.connect(echo.other("unix datagram ")).unwrap();
    for round in 0..100 {
        let data = noise(round * 10 + 1);
        tcp.write_all(&data).unwrap();
        udp.send(&data).unwrap();
        unix.write_all(&data).unwrap();
        unix_datagram.send(&data).unwrap();
        assert_same(&read_exact(&mut tcp, data.len()), &data);
        assert_same(&received(|buffer| udp.recv(buffer)), &data);
        assert_same(&read_exact(&mut unix, data.len()), &data);
        assert_same(&received(|buffer| unix_datagram.recv(buffer)), &data);
    }
    // They all end in good order, with connections open.
    echo.stops_in_good_order();
    assert_eq!(echo.output.lines().count(), 0, "one line for each socket");
    assert_eq!(read_to_end(tcp), b"");
    assert_eq!(read_to_end(unix), b"");
    assert!(!Path::new(&stream).exists() && !Path::new(&datagram).exists());
}

#[test]
#[cfg(target_os = "linux")]
fn echo_opens_no_tcp_port_that_was_not_requested() {
    let scratch = Directory::new();
    let path = scratch.path("echo");
    for (arguments, tcp) in [
        (vec!["127.0.0.1:0"], 1),
        (vec!["127.0.0.1:0", "--udp", "127.0.0.1:0"], 1),
        (vec!["--udp", "127.0.0.1:0"], 0),
        (vec!["--unix", &path], 0),
        (vec!["--unix-datagram", &path], 0),
    ] {
        let Some(mut echo) = start_with("echo", &arguments, arguments.len().div_ceil(2)) else { return };
        assert_eq!(listening_tcp_sockets(echo.pid), tcp, "{arguments:?}");
        echo.stops_in_good_order();
        assert_eq!(echo.output.lines().count(), 0);
    }
}

/// As proc(5) tells.
#[cfg(target_os = "linux")]
fn listening_tcp_sockets(pid: u32) -> usize {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = links.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    let sockets: Vec<_> = links.map(|link| link.to_string_lossy().into_owned()).collect();
    let tables = ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("/proc/{pid}/net/{table}")));
    let rows = tables.iter().flatten().flat_map(|table| table.lines().skip(1));
    let inodes = rows.filter_map(|row| {
        let columns: Vec<_> = row.split_whitespace().collect();
        (columns[3] == "0A").then(|| format!("socket:[{}]", columns[9]))
    });
    inodes.filter(|inode| sockets.contains(inode)).count()
}

#[test]
fn echo_takes_over_the_path_of_a_server_that_was_killed() {
    let scratch = Directory::new();
    for option in ["--unix", "--unix-datagram"] {
        let path = scratch.path("echo");
        let Some(mut killed) = start("echo", &[option, &path]) else { return };
        killed.signal("KILL");
        killed.exit();
        assert!(Path::new(&path).exists(), "a killed process cannot remove it");
        let mut heir = start("echo", &[option, &path]).unwrap();
        if option == "--unix" {
            assert_eq!(exchange(connect_path(&path), b"hello"), b"hello");
        }
        refuses("echo", &[option, &path], &path);
        heir.stops_in_good_order();
        assert!(!Path::new(&path).exists());
    }
}

// ---- the admin port ----

#[test]
fn servers_answer_at_their_admin_port_also_while_they_stop() {
    let words = ["127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain-delay", "30"];
    for name in ["echo", "timestamp", "chat", "mail", "web"] {
        let Some(mut server) = start_with(name, &words, 2) else { return };
        let admin = server.listening[1].clone();
        let get = |path: &str| {
            let mut client = connected(TcpStream::connect(&admin).unwrap());
            write!(client, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            String::from_utf8(read_to_end(client)).unwrap()
        };
        assert!(get("/ready").starts_with("HTTP/1.1 200 OK\r\n"), "{name}");
        let metrics = get("/metrics");
        for metric in ["accepted_total", "buffer_limits_total", "busy", "waiting"] {
            assert!(metrics.contains(&format!("\nsocketserver_{metric} ")), "{name}: {metric}");
        }
        assert!(get("/").contains("Serving: "), "{name}");
        assert!(get("/none").starts_with("HTTP/1.1 404 "), "{name}");
        server.signal("TERM");
        server.log.until("stopping in 30s");
        assert!(get("/ready").starts_with("HTTP/1.1 503 "), "{name}");
        server.stops_in_good_order(); // A second signal.
    }
}

/// They connect and say nothing, or one byte after the other.
#[test]
fn silent_clients_of_the_admin_port_keep_nobody_out() {
    let Some(mut server) = start_with("echo", &["127.0.0.1:0", "--admin", "127.0.0.1:0"], 2) else { return };
    let admin = server.listening[1].clone();
    let mut silent: Vec<_> = (0..100).map(|_| connected(TcpStream::connect(&admin).unwrap())).collect();
    for path in ["/ready", "/metrics", "/"] {
        let begun = Instant::now();
        let mut probe = connected(TcpStream::connect(&admin).unwrap());
        write!(probe, "GET {path} HTTP/1.1\r\n\r\n").unwrap();
        assert!(read_to_end(probe).starts_with(b"HTTP/1.1 200 OK\r\n"), "{path}");
        assert!(begun.elapsed() < Duration::from_millis(1_500), "{path}: {:?}", begun.elapsed());
    }
    // A slow one has two seconds for its request.
    let begun = Instant::now();
    let mut last = silent.pop().unwrap();
    while last.write_all(b"x").is_ok() {
        std::thread::sleep(Duration::from_millis(50));
        assert!(begun.elapsed() < DEADLINE, "it waits for ever");
    }
    server.stops_in_good_order();
}

#[test]
#[cfg(target_os = "linux")]
fn the_admin_port_answers_when_clients_have_all_descriptors() {
    let Some(echo) = example("echo") else { return };
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"ulimit -n 64; exec "$0" "$@""#]).arg(echo.get_program()).args(echo.get_args());
    shell.args(["127.0.0.1:0", "--admin", "127.0.0.1:0"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut echo = Program::spawn(&mut shell);
    echo.listens(2);
    let _clients: Vec<_> = (0..64).map(|_| echo.connect()).collect();
    echo.log.until("RLIMIT_NOFILE");
    let mut admin = connected(TcpStream::connect(&echo.listening[1]).unwrap());
    admin.write_all(b"GET /ready HTTP/1.1\r\n\r\n").unwrap();
    assert!(read_to_end(admin).starts_with(b"HTTP/1.1 200 OK\r\n"));
}

// ---- starting ----

#[test]
fn an_unavailable_address_is_one_line_and_status_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for name in ["echo", "timestamp", "chat", "daytime", "control", "blocking", "kv", "web", "mail"] {
        for address in [&taken, "127.0.0.1:99999", "nonsense", "", "no-such-host.invalid:1"] {
            refuses(name, &[address], address);
        }
    }
    for bad in [&taken, "127.0.0.1:99999", "nonsense"] {
        refuses("proxy", &[bad, "127.0.0.1:1"], bad);
    }
    for bad in ["127.0.0.1:99999", "nonsense", "no-such-host.invalid:1"] {
        refuses("proxy", &["127.0.0.1:0", bad], bad);
        refuses("client", &[bad], bad);
        refuses("echo", &["--udp", bad], bad);
        refuses("inetd", &[bad, "cat"], bad);
        refuses("inetd", &["--udp", bad, "cat"], bad);
        refuses("blocking", &["127.0.0.1:0", bad], bad);
    }
    let zone = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/dns/example.zone");
    for bad in [&taken, "127.0.0.1:99999", "nonsense"] {
        refuses("dns", &[zone, bad], bad);
    }
    for name in ["kv", "mail"] {
        refuses(name, &["127.0.0.1:0", "--tls", "/no/such/cert", "/no/such/key"], "/no/such/cert");
    }
    refuses("dns", &["/no/such/zone"], "cannot read the zone /no/such/zone");
    refuses("web", &["127.0.0.1:0", "--root", "/no/such/folder"], "/no/such/folder");
    for (name, arguments) in [("client", &["nonsense"][..]), ("proxy", &["127.0.0.1:0", "127.0.0.1:99999"])] {
        refuses(name, arguments, "not a host and a port, as in localhost:80");
    }
}

#[test]
fn a_busy_udp_port_is_one_line_and_status_1() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    refuses("echo", &["--udp", &taken], &taken);
    refuses("echo", &["127.0.0.1:0", "--udp", &taken], &taken);
    refuses("inetd", &["--udp", &taken, "cat"], &taken);
    // TCP would be free there.
    refuses("daytime", &[&taken], &taken);
}

#[test]
fn an_unavailable_path_is_one_line_and_status_1() {
    let scratch = Directory::new();
    let stream = scratch.path("stream");
    let _stream = UnixListener::bind(&stream).unwrap();
    let datagram = scratch.path("datagram");
    let _datagram = UnixDatagram::bind(&datagram).unwrap();
    let file = scratch.path("file");
    std::fs::write(&file, "precious").unwrap();
    let directory = scratch.path("directory");
    std::fs::create_dir(&directory).unwrap();
    let long = scratch.path(&"x".repeat(108));
    let nowhere = scratch.path("no/such/directory");
    for path in [&stream, &datagram, &file, &directory, &long, &nowhere] {
        refuses("echo", &["--unix", path], path);
        refuses("echo", &["--unix-datagram", path], path);
        refuses("control", &["127.0.0.1:0", "--control", path], path);
        // An address that was bound before the failure is released.
        let free = scratch.path("free");
        refuses("echo", &["127.0.0.1:0", "--unix", &free, "--unix-datagram", path], path);
        assert!(!Path::new(&free).exists());
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    refuses("echo", &["--unix", ""], "the path is empty");
    if cfg!(target_os = "linux") {
        let long = format!("@{}", "x".repeat(108));
        refuses("echo", &["--unix-datagram", &long], &long);
    }
}

#[track_caller]
fn refuses(name: &str, arguments: &[&str], names: &str) {
    let Some(mut command) = example(name) else { return };
    let mut program = Program::spawn(command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()));
    assert_eq!(program.exit().code(), Some(1), "{name} {arguments:?}");
    let lines: Vec<String> = program.log.lines().collect();
    assert_eq!(lines.len(), 1, "{name} {arguments:?}: {lines:?}");
    assert!(lines[0].contains(names), "{name} {arguments:?}: {lines:?}");
    assert_eq!(program.output.lines().count(), 0);
}

#[test]
fn usage_is_status_2_and_help_status_0() {
    let services = ["kv", "web", "dns", "mail"];
    let others = ["echo", "timestamp", "chat", "proxy", "client", "daytime", "control", "inetd", "blocking"];
    for name in others.into_iter().chain(services) {
        for (argument, status) in [("--no-such-option", 2), ("--help", 0)] {
            let Some(mut command) = example(name) else { return };
            let mut program = Program::spawn(command.arg(argument).stdout(Stdio::piped()).stderr(Stdio::piped()));
            assert_eq!(program.exit().code(), Some(status), "{name} {argument}");
            let said = if status == 0 { &program.output } else { &program.log };
            assert!(said.lines().any(|line| line.contains("Usage: ")), "{name} {argument}");
        }
    }
    let (seconds, count) = ("not a number of seconds, 0 or more", "not a whole number, 1 or more");
    for (name, wrong, said) in [
        ("echo", &["--timeout", "soon"][..], seconds),
        ("echo", &["--timeout", "-1"], seconds),
        ("echo", &["--timeout", "1e30"], "too many seconds"),
        ("echo", &["--grace", "nan"], seconds),
        ("echo", &["--max-connections", "0"], count),
        ("echo", &["--max-connections", "-1"], count),
        ("echo", &["--log-level", "loud"], "none of off, error, warn, info, debug and trace"),
        ("echo", &["--unix", "echo", "--mode", "8"], "not an octal number"),
        ("echo", &["--unix", "echo", "--mode", "1777"], "more than 777"),
        ("echo", &["--udp"], "a value is required"),
        ("inetd", &[], "<COMMAND>"),
        ("inetd", &["127.0.0.1:0"], "<COMMAND>"),
        ("inetd", &["--max-children", "0", "127.0.0.1:0", "cat"], count),
        ("inetd", &["--child-timeout", "soon", "127.0.0.1:0", "cat"], seconds),
        ("blocking", &["127.0.0.1:0", "127.0.0.1:0", "--max-threads", "0"], count),
        ("client", &["--timeout", "-1"], seconds),
    ] {
        let Some(mut command) = example(name) else { return };
        let mut program = Program::spawn(command.args(wrong).stderr(Stdio::piped()));
        assert_eq!(program.exit().code(), Some(2), "{name} {wrong:?}");
        assert!(program.log.lines().any(|line| line.contains(said)), "{name} {wrong:?}: {said}");
    }
}

/// On a terminal both outputs are one, and nothing keeps two lines apart that are written at the same time.
#[test]
fn where_a_server_listens_is_not_in_its_log() {
    let Some(mut command) = example("echo") else { return };
    command.args(["127.0.0.1:0", "--log-level", "trace"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut echo = Program::spawn(&mut command);
    let address = echo.output.until("").strip_prefix("listening on ").unwrap().to_owned();
    echo.signal("TERM");
    assert_eq!(echo.exit().code(), Some(0));
    assert!(echo.log.lines().all(|line| !line.contains(&address)), "{address}");
}

// ---- stopping ----

#[test]
fn a_signal_lets_data_in_flight_arrive() {
    for signal in ["TERM", "INT"] {
        let Some(mut echo) = start("echo", &["127.0.0.1:0"]) else { return };
        let mut client = echo.connect();
        // As much as the kernel takes while it is not read, so that all of it is on the way when the signal comes.
        let data = noise(1 << 20);
        client.write_all(&data).unwrap();
        echo.signal(signal);
        echo.log.until("stopping");
        assert_same(&read_to_end(client), &data);
        assert_eq!(echo.exit().code(), Some(0));
    }
}

#[test]
fn a_second_signal_cuts_it_short() {
    let Some(mut echo) = start("echo", &["127.0.0.1:0", "--grace", "600"]) else { return };
    let mut client = echo.connect();
    // It writes until no more is taken: the server then holds bytes that it cannot get rid of.
    client.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    while client.write_all(&[0; 65_536]).is_ok() {}
    echo.signal("TERM");
    echo.log.until("stopping");
    echo.signal("TERM");
    assert_eq!(echo.exit().code(), Some(0));
}

#[test]
fn a_grace_ends() {
    let Some(mut echo) = start("echo", &["127.0.0.1:0", "--grace", "0.2"]) else { return };
    let mut client = echo.connect();
    client.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    while client.write_all(&[0; 65_536]).is_ok() {}
    echo.signal("INT");
    assert_eq!(echo.exit().code(), Some(0));
}

#[test]
fn a_stopped_and_continued_server_still_serves() {
    let Some(mut echo) = start("echo", &["127.0.0.1:0", "--timeout", "0.5"]) else { return };
    let mut client = echo.connect();
    client.write_all(b"before").unwrap();
    assert_eq!(read_exact(&mut client, 6), b"before");
    echo.signal("STOP");
    client.write_all(b"meanwhile").unwrap();
    client.set_read_timeout(Some(Duration::from_millis(800))).unwrap();
    assert!(client.read(&mut [0]).is_err(), "it does not answer while it is stopped");
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    echo.signal("CONT");
    // Longer than the idle timeout has passed, but what came meanwhile counts first.
    assert_eq!(read_exact(&mut client, 9), b"meanwhile");
    drop(client);
    echo.stops_in_good_order();
}

#[test]
fn every_server_ends_in_good_order_on_either_signal() {
    let scratch = Directory::new();
    let path = scratch.path("socket");
    for signal in ["TERM", "INT"] {
        for (name, arguments, sockets) in [
            ("echo", vec!["127.0.0.1:0", "--udp", "127.0.0.1:0", "--unix", &path], 3),
            ("echo", vec!["--unix-datagram", &path], 1),
            ("timestamp", vec!["127.0.0.1:0"], 1),
            ("chat", vec!["127.0.0.1:0"], 1),
            ("proxy", vec!["127.0.0.1:0", "127.0.0.1:1"], 1),
            ("daytime", vec!["127.0.0.1:0"], 2),
            ("control", vec!["127.0.0.1:0", "--control", &path], 2),
            ("inetd", vec!["127.0.0.1:0", "cat"], 1),
            ("inetd", vec!["--udp", "127.0.0.1:0", "cat"], 1),
            ("blocking", vec!["127.0.0.1:0", "127.0.0.1:0"], 2),
        ] {
            let Some(mut server) = start_with(name, &arguments, sockets) else { return };
            server.signal(signal);
            assert_eq!(server.exit().code(), Some(0), "{name} {signal}");
            assert!(!Path::new(&path).exists(), "{name}");
        }
    }
}

// ---- standard output and error ----

#[test]
fn servers_do_without_standard_output_and_error() {
    let scratch = Directory::new();
    for (name, options) in [
        ("echo", format!("--udp 127.0.0.1:0 --unix {}", scratch.path("echo"))),
        ("daytime", String::new()),
        ("control", format!("--control {}", scratch.path("control"))),
        ("inetd", "cat".to_owned()),
        ("blocking", "127.0.0.1:0".to_owned()),
    ] {
        let Some(example) = example(name) else { return };
        for redirection in [">&- 2>&-", ">/dev/full 2>/dev/full", "<&- >&- 2>&-"] {
            let address = free_address();
            let mut shell = Command::new("sh");
            let program = example.get_program().display();
            // Programs that serve clients inherit what there is.
            let script = match name {
                "inetd" => format!("exec '{program}' --log-level trace {address} {options} {redirection}"),
                _ => format!("exec '{program}' {address} {options} --log-level trace {redirection}"),
            };
            let mut program = Program::spawn(shell.args(["-c", &script]));
            program.address = Some(address);
            let client = program.connect_when_up();
            match name {
                "daytime" => assert_is_daytime(&text(read_to_end(client))),
                "blocking" => assert_eq!(exchange(client, b"1\n"), b"1 (sum number 1)\n", "{redirection}"),
                _ => assert_eq!(exchange(client, b"hello"), b"hello", "{name} {redirection}"),
            }
            program.stops_in_good_order();
        }
    }
}

#[test]
fn echo_does_with_a_pipe_that_is_full_and_never_read() {
    let Some(mut echo) = example("echo") else { return };
    let (unread, full) = full_pipe();
    let address = free_address();
    let command = echo.args([&address.to_string(), "--log-level", "trace"]);
    let mut program = Program::spawn(command.stdout(full.try_clone().unwrap()).stderr(full));
    program.address = Some(address);
    assert_eq!(exchange(program.connect_when_up(), b"hello"), b"hello");
    let begun = Instant::now();
    program.stops_in_good_order();
    assert!(begun.elapsed() < Duration::from_secs(5), "it does not wait for its last words to be read");
    drop(unread);
}

#[test]
fn standard_error_that_nothing_reads_does_not_block() {
    let Some(mut echo) = example("echo") else { return };
    let (unread, full) = full_pipe();
    let mut program = Program::spawn(echo.arg("nonsense").stderr(full.try_clone().unwrap()));
    assert_eq!(program.exit().code(), Some(1));
    let Some(mut echo) = example("echo") else { return };
    let mut program = Program::spawn(echo.arg("--help").stdout(full));
    assert_eq!(program.exit().code(), Some(0));
    drop(unread);
}

#[test]
fn a_reader_that_goes_away_does_no_harm() {
    let Some(mut echo) = start("echo", &["127.0.0.1:0", "--log-level", "trace"]) else { return };
    // From here on its output and its log are broken pipes.
    echo.output = Lines::none();
    echo.log = Lines::none();
    for _ in 0..3 {
        assert_eq!(exchange(echo.connect(), b"hello"), b"hello");
    }
    echo.stops_in_good_order();
}

/// A pipe whose writing end takes nothing more, as long as the reading end is kept.
fn full_pipe() -> (PipeReader, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut filler = writer.try_clone().unwrap();
    let (progress, filling) = channel();
    std::thread::spawn(move || while filler.write_all(&[b'.'; 512]).is_ok() && progress.send(()).is_ok() {});
    while filling.recv_timeout(Duration::from_millis(300)) != Err(RecvTimeoutError::Timeout) {}
    (reader, writer)
}

// ---- under a supervisor ----

/// An echo server under systemd-socket-activate(1), whose one socket has this path.
fn activated(options: &[&str], path: &str, arguments: &[&str]) -> Option<Program> {
    if !has("systemd-socket-activate", "--version") {
        return None;
    }
    let echo = example("echo")?;
    let mut command = Command::new("systemd-socket-activate");
    command.args(options).args(["-l", path]).arg(echo.get_program()).args(echo.get_args()).args(arguments);
    Some(Program::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped())))
}

#[track_caller]
fn connect_path_when_up(path: &str) -> UnixStream {
    connected_path(when_up(|| UnixStream::connect(path)))
}

/// What an attempt returns that fails until a program has opened its socket.
#[track_caller]
fn when_up<T>(attempt: impl Fn() -> std::io::Result<T>) -> T {
    let begun = Instant::now();
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(error) => assert!(begun.elapsed() < DEADLINE, "{error}"),
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_supervisor_opens_the_socket_of_echo() {
    let directory = Directory::new();
    let path = directory.path("s");
    let arguments = ["--unix", &directory.path("not-used")];
    let Some(mut echo) = activated(&["--fdname=echo"], &path, &arguments) else { return };
    // The first client starts the program, and waits in the backlog for it.
    let first = connect_path_when_up(&path);
    assert_eq!(exchange(first, b"first"), b"first");
    echo.listens(1);
    assert_eq!(echo.listening, [format!("unix stream {path}")]);
    assert_eq!(exchange(connect_path(&path), b"second"), b"second");
    echo.stops_in_good_order();
    assert!(Path::new(&path).exists() && !directory.at("not-used").exists());
}

#[test]
fn a_supervisor_opens_the_datagram_socket_of_echo() {
    let directory = Directory::new();
    let path = directory.path("s");
    let arguments = ["--unix-datagram", &directory.path("not-used")];
    let Some(mut echo) = activated(&["-d", "--fdname=echo"], &path, &arguments) else { return };
    let client = UnixDatagram::bind(directory.at("client")).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    when_up(|| client.send_to(b"hello", &path));
    assert_eq!(received(|buffer| client.recv(buffer)), b"hello");
    echo.stops_in_good_order();
}

#[test]
fn a_supervisor_opens_the_ports_of_echo() {
    let (tcp, udp) = (format!("{}:9999", loopback()), format!("{}:9999", loopback()));
    let Some(mut echo) = activated(&["--fdname=echo"], &tcp, &[]) else { return };
    let first = when_up(|| TcpStream::connect(&tcp));
    assert_eq!(exchange(connected(first), b"first"), b"first");
    echo.listens(1);
    assert_eq!(echo.listening, [tcp]);
    echo.stops_in_good_order();

    let mut echo = activated(&["-d", "--fdname=echo"], &udp, &["--udp", "127.0.0.1:0"]).expect("it was there before");
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.connect(&udp).unwrap();
    // Until the socket is open, the system refuses what was sent.
    when_up(|| client.send(b"hello").and_then(|_| client.take_error()?.map_or(Ok(()), Err)));
    assert_eq!(received(|buffer| client.recv(buffer)), b"hello");
    echo.stops_in_good_order();
}

#[test]
fn systemd_accepts_the_units_of_the_page() {
    let directory = Directory::new();
    let blocks = include_str!("../docs/production.md").split("```").filter_map(|block| block.strip_prefix("ini\n# "));
    let units: Vec<_> = blocks.map(|block| block.split_once('\n').unwrap()).collect();
    let files: Vec<_> = units.iter().map(|(name, text)| directory.file(name, text)).collect();
    assert!(files.len() >= 2);
    if !has("systemd-analyze", "--version") {
        return;
    }
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(files).output().unwrap();
    let complaints = text(verified.stderr);
    assert!(verified.status.success() && complaints.is_empty(), "{complaints}");
}

#[test]
fn a_supervisor_starts_echo_once_for_each_client() {
    let directory = Directory::new();
    let path = directory.path("s");
    let Some(_supervisor) = activated(&["-a"], &path, &[]) else { return };
    let clients: Vec<_> = (0..3).map(|_| connect_path_when_up(&path)).collect();
    for client in clients {
        assert_eq!(exchange(client, b"one process each"), b"one process each");
    }
}

#[test]
fn a_socket_of_the_supervisor_that_echo_does_not_serve_is_one_line_and_status_1() {
    let directory = Directory::new();
    let path = directory.path("s");
    let arguments = ["--unix", &directory.path("bound")];
    let Some(mut echo) = activated(&["--fdname=admin"], &path, &arguments) else { return };
    let _client = connect_path_when_up(&path);
    let why = "no server takes it, so its clients would wait forever";
    let line = echo.log.until("error: ");
    assert_eq!(line, format!("error: cannot inherit socket 0 \"admin\" (Unix stream {path}): {why}"));
    assert_eq!(echo.exit().code(), Some(1));
}

// ---- timestamp and its clients ----

#[test]
fn timestamp_answers_with_the_time_of_day() {
    let Some(mut timestamp) = start("timestamp", &["127.0.0.1:0", "--log-level", "debug"]) else { return };
    assert_is_timestamp(&text(exchange(timestamp.connect(), b"hello")), "hello");
    assert_is_timestamp(&text(exchange(timestamp.connect(), b"\x1b[2J\n")), "\x1b[2J\n");
    assert!(timestamp.log.until("\\u{1b}[2J\\n").is_ascii(), "what a peer sends is not logged raw");
    timestamp.stops_in_good_order();
}

#[test]
fn client_prints_an_answer_to_each_line() {
    let Some(mut timestamp) = start("timestamp", &["127.0.0.1:0"]) else { return };
    for input in ["hello\n grüezi \n\nnot sent\n", "hello\r\n grüezi\r\n", "hello\n grüezi"] {
        let Some(mut command) = example("client") else { return };
        let lines = talk(command.arg(timestamp.address.unwrap().to_string()), input);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert_is_timestamp(lines[0].strip_prefix("server: ").unwrap(), "hello");
        assert_is_timestamp(lines[1].strip_prefix("server: ").unwrap(), " grüezi");
    }
    timestamp.stops_in_good_order();
}

#[test]
fn client_tells_that_the_server_is_gone() {
    let Some(mut command) = example("client") else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let command = command.arg(&address).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program = Program::spawn(command);
    let (mut server, _) = listener.accept().unwrap();
    program.input.take().unwrap().write_all(b"hello\n").unwrap();
    assert_eq!(read_exact(&mut server, 5), b"hello");
    drop(server);
    assert_eq!(program.exit().code(), Some(1));
    assert!(program.log.until("closed the connection").contains(&address));
}

/// As a tutorial on Python's socketserver writes it.
const PYTHON_CLIENT: &str = "
import socket
client = socket.socket()
client.connect(('localhost', 9999))
while True:
    data = input()
    if not data:
        break
    client.send(data.encode('utf-8'))
    server_data = client.recv(1024)
    print('server:', server_data.decode())
client.close()
";

#[test]
fn a_client_in_python_is_answered() {
    let Some(mut timestamp) = start("timestamp", &["127.0.0.1:0"]) else { return };
    if !has("python3", "--version") {
        return;
    }
    let script = PYTHON_CLIENT.replace("9999", &timestamp.address.unwrap().port().to_string());
    let lines = talk(Command::new("python3").args(["-c", &script]), "hello\nworld\n\n");
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_is_timestamp(lines[0].strip_prefix("server: ").unwrap(), "hello");
    assert_is_timestamp(lines[1].strip_prefix("server: ").unwrap(), "world");
    timestamp.stops_in_good_order();
}

/// Runs a client, gives it its input, and returns what it printed.
#[track_caller]
fn talk(command: &mut Command, input: &str) -> Vec<String> {
    let mut client = Program::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    client.input.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert_eq!(client.exit().code(), Some(0));
    client.output.lines().collect()
}

/// `[sent] Mon Nov 23 03:16:05 2026`
#[track_caller]
fn assert_is_timestamp(reply: &str, sent: &str) {
    let time = reply.strip_prefix(&format!("[{sent}] ")).unwrap_or_else(|| panic!("{reply:?}"));
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    assert_eq!(time.len(), 24, "{reply:?}");
    assert!(["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].contains(&&time[..3]), "{reply:?}");
    assert!(shape[7..].replace("  9 ", " 99 ") == " 99 99:99:99 9999", "{reply:?}");
}

// ---- chat ----

#[test]
fn chat_tells_the_others() {
    let Some(mut chat) = start("chat", &["127.0.0.1:0"]) else { return };
    let mut ann = Chatter::enter(&chat, "ann");
    let mut bob = Chatter::enter(&chat, "  Bob \r");
    ann.hears("* Bob joined");
    let mut visitor = Chatter::connect(&chat);

    ann.says("hello");
    bob.hears("ann: hello");
    bob.says("\x1b[2Jgr\u{fc}ezi\u{7}\u{202e}");
    ann.hears("Bob: \\u{1b}[2Jgr\u{fc}ezi\\u{7}\\u{202e}");
    bob.says("/who");
    bob.hears("* here: Bob, ann");
    bob.says("/no");
    bob.hears("* no such command: try /help");

    for name in ["", "bob", "a\x1b[2J", "a: b", "* a", "/quit", &"x".repeat(33)] {
        visitor.says(name);
        assert!(visitor.line().ends_with("; what is your name?"), "{name:?}");
    }
    visitor.says("claire");
    // The first line for it: what was said before it had a name was not for it.
    visitor.hears("* welcome, claire; 3 here");
    ann.hears("* claire joined");
    bob.hears("* claire joined");

    bob.says("/quit");
    bob.hears_the_end();
    ann.hears("* Bob left");
    visitor.hears("* Bob left");
    drop(visitor);
    ann.hears("* claire left");

    chat.signal("TERM");
    ann.hears("* the room closes");
    ann.hears_the_end();
    assert_eq!(chat.exit().code(), Some(0));
}

#[test]
fn chat_drops_a_slow_member_and_no_other() {
    let Some(mut chat) = start("chat", &["127.0.0.1:0"]) else { return };
    let mut ann = Chatter::enter(&chat, "ann");
    let mut bob = Chatter::enter(&chat, "bob");
    ann.hears("* bob joined");
    let slow = Chatter::enter(&chat, "slow");
    ann.hears("* slow joined");
    bob.hears("* slow joined");
    // Ann talks no faster than Bob listens. The kernel holds some megabytes for the slow one, the room 256 KiB.
    let text = "x".repeat(4_000);
    let dropped = (0..20_000).any(|_| {
        ann.says(&text);
        match bob.line() {
            line if line == format!("ann: {text}") => false,
            line => line == "* slow left (too slow)" || panic!("{line:?}"),
        }
    });
    assert!(dropped, "80 MB did not fill the buffers of one that does not read");
    ann.hears("* slow left (too slow)");
    drop(slow);
    drop((ann, bob));
    chat.stops_in_good_order();
}

#[test]
fn chat_is_one_room_for_a_path_and_a_port() {
    let scratch = Directory::new();
    let path = scratch.path("room");
    let Some(mut chat) = start_with("chat", &["127.0.0.1:0", "--unix", &path], 2) else { return };
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut ann = Chatter::enter(&chat, "ann");
    let mut bob = Chatter::over(connect_path(chat.other("unix stream "))).named("bob");
    ann.hears("* bob joined");
    bob.says("hello from here");
    ann.hears("bob: hello from here");
    ann.says("/who");
    ann.hears("* here: ann, bob");
    drop((ann, bob));
    chat.stops_in_good_order();
}

struct Chatter(BufReader<socket2::Socket>);

impl Chatter {
    #[track_caller]
    fn connect(chat: &Program) -> Self {
        Chatter::over(chat.connect())
    }

    #[track_caller]
    fn over(socket: impl Into<socket2::Socket>) -> Self {
        let mut chatter = Chatter(BufReader::new(socket.into()));
        chatter.hears("* what is your name?");
        chatter
    }

    #[track_caller]
    fn enter(chat: &Program, name: &str) -> Self {
        Chatter::connect(chat).named(name)
    }

    #[track_caller]
    fn named(self, name: &str) -> Self {
        let mut chatter = self;
        chatter.says(name);
        assert!(chatter.line().starts_with(&format!("* welcome, {}; ", name.trim())));
        chatter
    }

    #[track_caller]
    fn says(&mut self, text: &str) {
        self.0.get_mut().write_all(format!("{text}\n").as_bytes()).unwrap();
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.strip_suffix('\n').expect("a whole line").to_owned()
    }

    #[track_caller]
    fn hears(&mut self, line: &str) {
        assert_eq!(self.line(), line);
    }

    #[track_caller]
    fn hears_the_end(&mut self) {
        assert_eq!(self.0.read(&mut [0]).unwrap(), 0);
    }
}

// ---- proxy ----

#[test]
fn proxy_carries_both_directions_and_their_ends() {
    let Some((mut echo, mut proxy)) = echo_behind_proxy(&[]) else { return };
    for size in [0, 1, 100_000, 4 << 20] {
        assert_same(&exchange(proxy.connect(), &noise(size)), &noise(size));
    }
    proxy.stops_in_good_order();
    echo.stops_in_good_order();
}

#[test]
fn proxy_tries_every_address_of_a_name() {
    let Some(echo) = start("echo", &["127.0.0.1:0"]) else { return };
    // localhost may be ::1 first, where nothing listens.
    let upstream = format!("localhost:{}", echo.address.unwrap().port());
    let Some(proxy) = start("proxy", &["127.0.0.1:0", &upstream]) else { return };
    assert_eq!(exchange(proxy.connect(), b"hello"), b"hello");
}

#[test]
fn proxy_carries_half_closes() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap().to_string();
    let Some(mut proxy) = start("proxy", &["127.0.0.1:0", &address]) else { return };

    // The upstream server ends first, and still gets what the client sends after that.
    let mut client = proxy.connect();
    let mut server = accept(&upstream);
    server.write_all(b"bye").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(client.try_clone().unwrap()), b"bye");
    client.write_all(b"after the end").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(server), b"after the end");
    drop(client);
    proxy.stops_in_good_order();
}

#[test]
fn proxy_carries_each_direction_by_itself() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap().to_string();
    let Some(mut proxy) = start("proxy", &["127.0.0.1:0", &address]) else { return };
    let mut client = proxy.connect();
    let server = accept(&upstream);
    let down = noise(16 << 20);
    let up: Vec<u8> = down.iter().rev().copied().collect();
    // The upstream server reads and writes at once; the client sends everything before it reads.
    let expected = down.clone();
    let serving = std::thread::spawn(move || exchange(server, &down));
    client.write_all(&up).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_same(&read_to_end(client), &expected);
    assert_same(&serving.join().unwrap(), &up);
    proxy.stops_in_good_order();
}

#[test]
fn proxy_carries_a_reset() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap().to_string();
    let Some(mut proxy) = start("proxy", &["127.0.0.1:0", &address]) else { return };
    let mut client = proxy.connect();
    client.write_all(b"unread").unwrap();
    let server = accept(&upstream);
    server.peek(&mut [0]).unwrap();
    drop(server); // With unread input: that is a reset.
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    proxy.stops_in_good_order();
}

#[test]
fn proxy_passes_half_an_answer_on_as_no_whole_one() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap().to_string();
    for resets in [true, false] {
        // One breaks in the middle of its answer, one falls silent there.
        let Some(mut proxy) = start("proxy", &["127.0.0.1:0", &address, "--timeout", "1"]) else { return };
        let mut client = proxy.connect();
        client.write_all(b"request").unwrap();
        let mut server = accept(&upstream);
        server.peek(&mut [0]).unwrap();
        server.write_all(b"half an ans").unwrap();
        assert_eq!(read_exact(&mut client, 11), b"half an ans");
        let _silent = (!resets).then_some(server); // Dropped with unread input: that is a reset.
        let error = client.read(&mut [0]).expect_err("no end in good order");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        proxy.stops_in_good_order();
    }
}

#[test]
fn proxy_tells_that_the_upstream_server_is_unreachable() {
    let nobody = free_address().to_string();
    let Some(mut proxy) = start("proxy", &["127.0.0.1:0", &nobody]) else { return };
    let mut client = proxy.connect();
    // It may be closed before this arrives, but never by a reset that hides the end.
    let _ = client.write_all(b"hello");
    assert_eq!(read_to_end(client), b"");
    assert!(proxy.log.until("cannot connect").contains(&nobody));
    proxy.stops_in_good_order();
}

#[test]
fn proxy_finishes_a_transfer_when_it_stops() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap().to_string();
    // On a busy machine the reply may take any time.
    let patient = ["--grace", "600", "--silence", "600"];
    let Some(mut proxy) = start("proxy", &[&["127.0.0.1:0", &address], &patient[..]].concat()) else { return };
    let mut client = proxy.connect();
    let mut server = accept(&upstream);
    client.write_all(b"request").unwrap();
    assert_eq!(read_exact(&mut server, 7), b"request");
    proxy.signal("TERM");
    proxy.log.until("stopping");
    // The reply takes longer than a connection may be silent before it is asked to end.
    client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    assert!(client.read(&mut [0]).is_err(), "there is no reply yet, and no end");
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let reply = noise(4 << 20);
    let expected = reply.clone();
    let writer = std::thread::spawn(move || server.write_all(&reply).unwrap());
    client.shutdown(Shutdown::Write).unwrap();
    assert_same(&read_to_end(client), &expected);
    writer.join().unwrap();
    assert_eq!(proxy.exit().code(), Some(0));
}

#[test]
fn proxy_ends_idle_pairs_when_it_stops() {
    let Some((_echo, mut proxy)) = echo_behind_proxy(&["--grace", "600"]) else { return };
    let mut client = proxy.connect();
    client.write_all(b"hello").unwrap();
    assert_eq!(read_exact(&mut client, 5), b"hello");
    proxy.signal("TERM");
    assert_eq!(read_to_end(client), b"");
    assert_eq!(proxy.exit().code(), Some(0));
}

fn echo_behind_proxy(options: &[&str]) -> Option<(Program, Program)> {
    let echo = start("echo", &["127.0.0.1:0"])?;
    let upstream = echo.address?.to_string();
    let proxy = start("proxy", &[&["127.0.0.1:0", &upstream], options].concat())?;
    Some((echo, proxy))
}

// ---- daytime ----

#[test]
fn daytime_tells_the_time_over_tcp_and_udp_on_one_port() {
    let Some(mut daytime) = start_with("daytime", &["127.0.0.1:0"], 2) else { return };
    assert_eq!(daytime.other("udp "), daytime.listening[0]);
    for _ in 0..100 {
        assert_is_daytime(&text(read_to_end(daytime.connect())));
    }
    // What a client says is thrown away, and does not destroy the answer.
    let mut talker = daytime.connect();
    let _ = talker.write_all(&noise(100_000));
    assert_is_daytime(&text(read_to_end(talker)));
    let client = datagrams_to(daytime.other("udp "));
    for size in [0, 1, 8_192] {
        assert_is_daytime(&text(ask(&client, &noise(size))));
    }
    daytime.stops_in_good_order();
    assert_eq!(daytime.output.lines().count(), 0);
}

#[test]
fn daytime_answers_nc() {
    let Some(mut daytime) = start_with("daytime", &["127.0.0.1:0"], 2) else { return };
    if !has("nc", "-h") {
        return;
    }
    let port = daytime.address.unwrap().port().to_string();
    for options in [&[][..], &["-u", "-w1"]] {
        let lines = talk(Command::new("nc").args(options).args(["127.0.0.1", &port]), "\n");
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_is_daytime(&format!("{}\r\n", lines[0]));
    }
    daytime.stops_in_good_order();
}

/// `Tuesday, November 24, 2026 22:30:00+00:00`, CR and LF
#[track_caller]
fn assert_is_daytime(line: &str) {
    let time = line.strip_suffix("\r\n").unwrap_or_else(|| panic!("{line:?}"));
    let words: Vec<_> = time.split(' ').collect();
    let [day, month, number, year, time] = words[..] else { panic!("{line:?}") };
    let shape = |text: &str| text.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect::<String>();
    assert!(day.ends_with("day,") && month.len() >= 3, "{line:?}");
    assert!(["9,", "99,"].contains(&&*shape(number)) && shape(year) == "9999", "{line:?}");
    assert_eq!(shape(time).replace('-', "+"), "99:99:99+99:99", "{line:?}");
}

// ---- control ----

#[test]
fn control_obeys_its_commands() {
    let scratch = Directory::new();
    let path = scratch.path("control");
    let Some(mut control) = start_with("control", &["127.0.0.1:0", "--control", &path], 2) else { return };
    assert_eq!(control.other("unix stream "), path);
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);

    let mut commander = Commander::connect(&path);
    assert_eq!(commander.asks("list", 1), ["0 clients"]);
    let mut clients: Vec<_> = (0..3).map(|_| control.connect()).collect();
    for client in &mut clients {
        client.write_all(b"hello").unwrap();
        assert_eq!(read_exact(client, 5), b"hello");
    }
    let listed = commander.asks("list", 4);
    assert_eq!(listed[0], "3 clients");
    let number_of = |client: &TcpStream| {
        let address = client.local_addr().unwrap().to_string();
        let mut rows = listed[1..].iter().map(|row| row.split_once(' ').unwrap());
        rows.find(|row| row.1 == address).unwrap_or_else(|| panic!("{address} in {listed:?}")).0.to_owned()
    };
    let stats = commander.asks("stats", 5);
    // The commander was accepted, too.
    assert_eq!(stats[..3], ["clients 3", "accepted 4", "refused 0"]);
    assert!(stats[3].starts_with("bytes in ") && stats[4].starts_with("bytes out "), "{stats:?}");

    let kicked = clients.remove(1);
    let (number, address) = (number_of(&kicked), kicked.local_addr().unwrap());
    assert_eq!(commander.asks(&format!("kick {number}"), 1), [format!("kicked {address}")]);
    assert!(matches!((&kicked).read(&mut [0]), Ok(0) | Err(_)), "it is closed");
    assert_eq!(kicked.take_error().unwrap().map(|error| error.kind()), None);
    assert_eq!(commander.asks("list", 3)[0], "2 clients");
    for nobody in [&*number, "0", "-1", "x", "4294967295", "99999999999999999999"] {
        assert_eq!(commander.asks(&format!("kick {nobody}"), 1), ["no such client"]);
    }
    for client in &mut clients {
        client.write_all(b"still here").unwrap();
        assert_eq!(read_exact(client, 10), b"still here");
    }

    for wrong in ["kick", "kick 1 2", "list all", "LIST", "\u{1b}[2J", "stop it"] {
        assert_eq!(commander.asks(wrong, 1), ["no such command: try help"], "{wrong:?}");
    }
    assert_eq!(commander.asks("help", 4).len(), 4);
    assert_eq!(commander.asks("\n  \n  list \r", 3)[0], "2 clients");
    // The last line need not have an end.
    assert!(exchange(connect_path(&path), b"list").starts_with(b"2 clients\n"));

    assert_eq!(commander.asks("stop", 1), ["stopping"]);
    for client in clients {
        assert_eq!(read_to_end(client), b"");
    }
    assert_eq!(control.exit().code(), Some(0));
    assert!(!Path::new(&path).exists());
}

#[test]
fn control_kicks_a_client_that_does_not_read() {
    let scratch = Directory::new();
    let path = scratch.path("control");
    let Some(mut control) = start_with("control", &["127.0.0.1:0", "--control", &path], 2) else { return };
    let mut stuck = control.connect();
    stuck.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    while stuck.write_all(&[0; 65_536]).is_ok() {}
    let mut commander = Commander::connect(&path);
    let number = commander.asks("list", 2)[1].split_once(' ').unwrap().0.to_owned();
    assert_eq!(commander.asks(&format!("kick {number}\nlist"), 2)[1], "0 clients", "at once");
    let mut buffer = vec![0; 65_536];
    let error = loop {
        match stuck.read(&mut buffer) {
            Ok(0) => panic!("an end in good order"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    control.stops_in_good_order();
}

#[test]
#[cfg(target_os = "linux")]
fn control_admits_its_own_user_only() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    const NOBODY: u32 = 65_534;
    let Some(example) = example("control") else { return };
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return eprintln!("skipped: only root can be two users");
    }
    let nobody = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command
    };
    let can_run = nobody().args(["test", "-x"]).arg(example.get_program()).status();
    if !can_run.is_ok_and(|status| status.success()) {
        return eprintln!("skipped: there is no setpriv(1), or nobody cannot run {}", example.get_program().display());
    }
    // The server is nobody and we are root: the permissions of the file do not stop us, and a name has none.
    let scratch = Directory::new();
    std::os::unix::fs::chown(scratch.at(""), Some(NOBODY), Some(NOBODY)).unwrap();
    let name = format!("examples-control-{}", std::process::id());
    for at in [scratch.path("control"), format!("@{name}")] {
        let mut command = nobody();
        let command = command.arg(example.get_program()).args(["127.0.0.1:0", "--control", &at]);
        let mut control = Program::spawn(command.env_remove("RUST_LOG").stdout(Stdio::piped()).stderr(Stdio::piped()));
        control.listens(2);
        for _ in 0..3 {
            let mut root = connected_path(match at.strip_prefix('@') {
                Some(name) => UnixStream::connect_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap(),
                None => UnixStream::connect(&at).unwrap(),
            });
            // It may be closed before this arrives.
            let _ = root.write_all(b"stop\n");
            assert!(matches!(root.read(&mut [0]), Ok(0) | Err(_)), "not a word");
            assert!(control.log.until("refused to be controlled").contains("user 0 "), "{at}");
        }
        assert_eq!(exchange(control.connect(), b"still here"), b"still here");
        control.stops_in_good_order();
    }
}

struct Commander(BufReader<UnixStream>);

impl Commander {
    #[track_caller]
    fn connect(path: &str) -> Self {
        Commander(BufReader::new(connect_path(path)))
    }

    #[track_caller]
    fn asks(&mut self, command: &str, lines: usize) -> Vec<String> {
        self.0.get_mut().write_all(format!("{command}\n").as_bytes()).unwrap();
        let line = |_| {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            line.strip_suffix('\n').expect("a whole line").to_owned()
        };
        (0..lines).map(line).collect()
    }
}

// ---- inetd ----

#[test]
fn inetd_serves_many_with_cat() {
    let Some(mut inetd) = start("inetd", &["--max-children", "8", "127.0.0.1:0", "cat"]) else { return };
    let clients: Vec<_> = (0..60).map(|_| inetd.connect()).collect();
    let exchanges: Vec<_> = clients
        .into_iter()
        .map(|client| std::thread::spawn(move || assert_same(&exchange(client, &noise(200_000)), &noise(200_000))))
        .collect();
    exchanges.into_iter().for_each(|exchange| exchange.join().unwrap());
    inetd.stops_in_good_order();
}

#[test]
fn inetd_gives_a_script_the_address_of_its_client() {
    let script = "echo \"$PROTO $TCPREMOTEIP $TCPREMOTEPORT $1\"; read line; echo \"so $line\"";
    let Some(mut inetd) = start("inetd", &["127.0.0.1:0", "sh", "-c", script, "--help", "--udp"]) else { return };
    let mut clients: Vec<_> = (0..20).map(|_| BufReader::new(inetd.connect())).collect();
    for client in &mut clients {
        let mut line = String::new();
        client.read_line(&mut line).unwrap();
        let port = client.get_ref().local_addr().unwrap().port();
        assert_eq!(line, format!("TCP 127.0.0.1 {port} --udp\n"));
    }
    for mut client in clients {
        client.get_mut().write_all(b"be it\n").unwrap();
        assert_eq!(read_to_end(client), b"so be it\n");
    }
    inetd.stops_in_good_order();
}

#[test]
fn inetd_serves_datagrams() {
    let Some(mut inetd) = start("inetd", &["--udp", "127.0.0.1:0", "cat"]) else { return };
    let client = datagrams_to(inetd.listening[0].strip_prefix("udp ").unwrap());
    for size in [1, 8_192, 8_193, 65_507] {
        assert_same(&ask(&client, &noise(size)), &noise(size));
    }
    inetd.stops_in_good_order();

    let script = "echo \"$PROTO $UDPREMOTEIP $UDPREMOTEPORT\"";
    let mut inetd = start("inetd", &["--udp", "127.0.0.1:0", "sh", "-c", script]).unwrap();
    let client = datagrams_to(inetd.listening[0].strip_prefix("udp ").unwrap());
    let port = client.local_addr().unwrap().port();
    assert_eq!(text(ask(&client, b"")), format!("UDP 127.0.0.1 {port}\n"));
    inetd.stops_in_good_order();
}

#[test]
fn inetd_makes_clients_wait_for_a_program_and_forgets_those_that_vanish() {
    let Some(mut inetd) = start("inetd", &["--max-children", "1", "127.0.0.1:0", "cat"]) else { return };
    let mut first = inetd.connect();
    first.write_all(b"a").unwrap();
    assert_eq!(read_exact(&mut first, 1), b"a");
    let mut second = inetd.connect();
    second.write_all(b"b").unwrap();
    second.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(second.read(&mut [0]).is_err(), "it is not its turn");
    // One client leaves without sending more, with its echo unread; the next one before its turn.
    first.write_all(b"unread").unwrap();
    first.peek(&mut [0]).unwrap();
    drop(first);
    second.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(read_exact(&mut second, 1), b"b");
    let third = inetd.connect();
    drop(third);
    let fourth = inetd.connect();
    drop(second);
    assert_eq!(exchange(fourth, b"d"), b"d");
    inetd.log.until("max_children (1) is reached");
    inetd.stops_in_good_order();
}

#[test]
fn inetd_kills_a_program_that_takes_too_long() {
    let arguments = ["--child-timeout", "0.3", "127.0.0.1:0", "sh", "-c", "echo begun; exec sleep 600"];
    let Some(mut inetd) = start("inetd", &arguments) else { return };
    let begun = Instant::now();
    assert_eq!(read_to_end(inetd.connect()), b"begun\n");
    assert!(begun.elapsed() >= Duration::from_millis(300));
    inetd.stops_in_good_order();
}

#[test]
fn inetd_tells_that_there_is_no_such_program() {
    let Some(mut inetd) = start("inetd", &["127.0.0.1:0", "no-such-program-at-all"]) else { return };
    for _ in 0..2 {
        assert_eq!(read_to_end(inetd.connect()), b"");
        assert!(inetd.log.until("cannot run").contains("no-such-program-at-all"));
    }
    inetd.stops_in_good_order();
}

#[test]
fn inetd_lets_programs_continue_when_it_stops() {
    let Some(mut inetd) = start("inetd", &["127.0.0.1:0", "cat"]) else { return };
    let mut client = inetd.connect();
    client.write_all(b"before").unwrap();
    assert_eq!(read_exact(&mut client, 6), b"before");
    inetd.signal("TERM");
    inetd.log.until("stopping");
    client.write_all(b"after").unwrap();
    assert_eq!(read_exact(&mut client, 5), b"after");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(client), b"");
    assert_eq!(inetd.exit().code(), Some(0));
}

#[test]
fn inetd_kills_programs_when_its_grace_is_over_or_cut_short() {
    for (grace, cut_short) in [("0.3", false), ("600", true)] {
        let Some(mut inetd) = start("inetd", &["--grace", grace, "127.0.0.1:0", "cat"]) else { return };
        let mut clients: Vec<_> = (0..50).map(|_| inetd.connect()).collect();
        for client in &mut clients[..40] {
            client.write_all(b"x").unwrap();
            assert_eq!(read_exact(client, 1), b"x");
        }
        inetd.signal("TERM");
        if cut_short {
            inetd.log.until("stopping");
            inetd.signal("INT");
        }
        assert_eq!(inetd.exit().code(), Some(0), "{grace}");
        // Their ends are closed, so the programs are gone.
        for mut client in clients {
            assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
        }
    }
}

// ---- blocking ----

#[test]
fn blocking_adds_up_for_many() {
    let arguments = ["127.0.0.1:0", "127.0.0.1:0", "--max-threads", "4"];
    let Some(mut blocking) = start_with("blocking", &arguments, 2) else { return };
    let summary = blocking.listening[1].clone();
    assert_eq!(summary_of(&summary), "0 sums, the largest none; 0 clients\n");
    let mut clients: Vec<_> = (0..100).map(|_| blocking.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.write_all(format!("{number}\n -{number} \r\n{number}").as_bytes()).unwrap();
    }
    for (number, client) in clients.into_iter().enumerate() {
        let reply = text(exchange(client, b"\n\n"));
        assert!(reply.starts_with(&format!("{number} (sum number ")), "{reply:?}");
    }
    assert!(summary_of(&summary).starts_with("100 sums, the largest 99; "));
    blocking.stops_in_good_order();
}

#[test]
fn blocking_reports_wrong_input() {
    let Some(mut blocking) = start_with("blocking", &["127.0.0.1:0", "127.0.0.1:0"], 2) else { return };
    let wrong = |sum| format!("not a number, or too large; the sum is still {sum}\n");
    for (sent, reply) in [
        ("x\n1\n", wrong(0) + "1 (sum number 1)\n"),
        ("9223372036854775807\n1\n\n", wrong(i64::MAX) + "9223372036854775807 (sum number 2)\n"),
        ("1e3\n", wrong(0) + "0 (sum number 3)\n"),
        ("", "0 (sum number 4)\n".to_owned()),
    ] {
        assert_eq!(text(exchange(blocking.connect(), sent.as_bytes())), reply);
    }
    assert_eq!(exchange(blocking.connect(), b"\xff\n"), (wrong(0) + "0 (sum number 5)\n").as_bytes());
    // A line without an end is cut, and does not fill the memory.
    let reply = text(exchange(blocking.connect(), &[b'x'; 1_000]));
    assert_eq!(reply, wrong(0).repeat(10) + "0 (sum number 6)\n");
    blocking.stops_in_good_order();
}

#[test]
fn blocking_tells_how_it_goes_while_all_threads_wait() {
    let arguments = ["127.0.0.1:0", "127.0.0.1:0", "--max-threads", "1"];
    let Some(mut blocking) = start_with("blocking", &arguments, 2) else { return };
    let summary = blocking.listening[1].clone();
    let (mut first, mut second) = (blocking.connect(), blocking.connect());
    first.write_all(b"1\nx\n").unwrap();
    let wrong = b"not a number, or too large; the sum is still 1\n";
    assert_eq!(read_exact(&mut first, wrong.len()), wrong);
    second.write_all(b"2\n\n").unwrap();
    second.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(second.read(&mut [0]).is_err(), "it is not its turn");
    assert_eq!(summary_of(&summary), "0 sums, the largest none; 2 clients\n");
    drop(first);
    second.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(read_to_end(second), b"2 (sum number 2)\n", "a client that leaves has a sum, too");
    blocking.stops_in_good_order();
}

#[test]
fn blocking_waits_for_a_line_only_so_long() {
    let Some(mut blocking) = start_with("blocking", &["127.0.0.1:0", "127.0.0.1:0", "--timeout", "0.2"], 2) else {
        return;
    };
    let begun = Instant::now();
    let mut client = blocking.connect();
    client.write_all(b"1\n2").unwrap();
    assert_eq!(read_to_end(client), b"too slow\n");
    assert!(begun.elapsed() >= Duration::from_millis(200));
    blocking.stops_in_good_order();
}

#[test]
fn blocking_lets_clients_finish_when_it_stops() {
    let arguments = ["127.0.0.1:0", "127.0.0.1:0", "--grace", "1"];
    let Some(mut blocking) = start_with("blocking", &arguments, 2) else { return };
    let (mut quick, mut silent) = (blocking.connect(), blocking.connect());
    for client in [&mut quick, &mut silent] {
        client.write_all(b"1\nx\n").unwrap();
        read_exact(client, 40);
    }
    blocking.signal("TERM");
    blocking.log.until("stopping");
    quick.write_all(b"2\n\n").unwrap();
    assert!(text(read_to_end(quick)).ends_with("\n3 (sum number 1)\n"));
    // In the middle of the grace there is no more input for the other.
    assert!(text(read_to_end(silent)).ends_with("\n1 (sum number 2)\n"));
    assert_eq!(blocking.exit().code(), Some(0));
}

#[test]
fn blocking_is_cut_short_by_a_second_signal() {
    let arguments = ["127.0.0.1:0", "127.0.0.1:0", "--grace", "600"];
    let Some(mut blocking) = start_with("blocking", &arguments, 2) else { return };
    let mut client = blocking.connect();
    client.write_all(b"1\nx\n").unwrap();
    read_exact(&mut client, 40);
    blocking.signal("INT");
    blocking.log.until("stopping");
    blocking.signal("TERM");
    assert_eq!(blocking.exit().code(), Some(0));
}

#[track_caller]
fn summary_of(address: &str) -> String {
    text(read_to_end(connected(TcpStream::connect(address).unwrap())))
}

// ---- clients ----

/// A connection of either family.
trait Connected: Read + Write + Send + 'static {
    fn again(&self) -> Self;
    fn end(&self);
}

impl Connected for TcpStream {
    fn again(&self) -> Self {
        self.try_clone().unwrap()
    }
    fn end(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

impl Connected for UnixStream {
    fn again(&self) -> Self {
        self.try_clone().unwrap()
    }
    fn end(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

#[track_caller]
fn connect_path(path: &str) -> UnixStream {
    connected_path(UnixStream::connect(path).unwrap())
}

fn connected_path(client: UnixStream) -> UnixStream {
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.set_write_timeout(Some(DEADLINE)).unwrap();
    client
}

/// A UDP client of this server.
#[track_caller]
fn datagrams_to(server: &str) -> UdpSocket {
    let server: SocketAddr = server.parse().unwrap();
    let client = UdpSocket::bind((server.ip(), 0)).unwrap();
    client.connect(server).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client
}

/// Sends a datagram and returns the answer.
#[track_caller]
fn ask(client: &UdpSocket, data: &[u8]) -> Vec<u8> {
    client.send(data).unwrap();
    received(|buffer| client.recv(buffer))
}

#[track_caller]
fn received(receive: impl FnOnce(&mut [u8]) -> std::io::Result<usize>) -> Vec<u8> {
    let mut buffer = vec![0; 100_000];
    let n = receive(&mut buffer).unwrap();
    buffer.truncate(n);
    buffer
}

/// Returns whether a program that a test needs is there. Prints that the test is skipped if not.
fn has(program: &str, argument: &str) -> bool {
    let mut command = Command::new(program);
    let found = command.arg(argument).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok() || {
        eprintln!("skipped: there is no {program}");
        false
    }
}

#[track_caller]
fn accept(listener: &TcpListener) -> TcpStream {
    let listener = listener.try_clone().unwrap();
    let (accepted, client) = channel();
    std::thread::spawn(move || accepted.send(listener.accept().unwrap().0));
    connected(client.recv_timeout(DEADLINE).expect("a connection comes"))
}

/// Sends everything and the end while it receives everything until the end.
#[track_caller]
fn exchange<S: Connected>(client: S, data: &[u8]) -> Vec<u8> {
    let (mut writer, data) = (client.again(), data.to_vec());
    let writing = std::thread::spawn(move || {
        writer.write_all(&data).unwrap();
        writer.end();
    });
    let received = read_to_end(client);
    writing.join().unwrap();
    received
}

#[track_caller]
fn read_to_end(mut client: impl Read) -> Vec<u8> {
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    received
}

#[track_caller]
fn read_exact(client: &mut impl Read, n: usize) -> Vec<u8> {
    let mut received = vec![0; n];
    client.read_exact(&mut received).unwrap();
    received
}

/// An address where nothing listens, as far as the test can tell.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Bytes without a pattern that a lost or doubled block could hide in.
fn noise(n: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..n).map(step).collect()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// As `assert_eq`, without printing megabytes.
#[track_caller]
fn assert_same(one: &[u8], other: &[u8]) {
    assert_eq!(one.len(), other.len());
    assert!(one == other, "same length, other bytes");
}
