//! The web server: `curl`, `wrk`, a browser, and hostile clients.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use crate::browser::Browser;
use crate::programs::{DEADLINE, Program, example, start};
use crate::{Directory, Random, certificate, expect, resets, rest, said_by, tool, trickle, write};

/// A server of the files of a folder.
fn web(root: &Directory, arguments: &[&str]) -> Option<Program> {
    let root = root.path("");
    start("web", &[&["127.0.0.1:0", "--root", &root], arguments].concat())
}

/// The next answer: its head without the date, and its body.
#[track_caller]
fn answer(client: &mut TcpStream) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client
            .read_exact(&mut byte)
            .unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&head)));
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let lines: Vec<_> = head.lines().filter(|line| !line.starts_with("Date: ")).collect();
    let length = lines.iter().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap_or("0").parse().unwrap();
    let mut body = vec![0; length];
    client.read_exact(&mut body).unwrap();
    (lines.join("\n"), body)
}

#[track_caller]
fn ask(client: &mut TcpStream, request: &str) -> (String, Vec<u8>) {
    write(client, request);
    answer(client)
}

/// The first line of everything that a new connection gets for these bytes, and how many answers there are.
#[track_caller]
fn verdict(web: &Program, bytes: &[u8]) -> (String, usize) {
    let mut client = web.connect();
    // It may be closed in the middle.
    let _ = client.write_all(bytes).and_then(|()| client.shutdown(std::net::Shutdown::Write));
    let said = String::from_utf8_lossy(&rest(&mut client)).into_owned();
    (said.lines().next().unwrap_or_default().to_owned(), said.matches("HTTP/1.1 ").count())
}

// ---- requests that two programs could understand in two ways ----

#[test]
fn web_refuses_what_could_smuggle_a_request() {
    let root = Directory::new();
    let Some(mut web) = web(&root, &[]) else { return };
    // The second request must never be answered.
    let second = "GET /stats HTTP/1.1\r\nHost: a\r\n\r\n";
    for head in [
        // Two lengths, lengths that are no numbers.
        "Content-Length: 0\r\nContent-Length: 0\r\n",
        "Content-Length: 0\r\nContent-Length: 34\r\n",
        "Content-Length: 0, 0\r\n",
        "Content-Length: +0\r\n",
        "Content-Length: -0\r\n",
        "Content-Length: 0x0\r\n",
        "Content-Length: 0 0\r\n",
        "Content-Length: \r\n",
        "Content-Length: 99999999999999999999999\r\n",
        "Content-Length : 0\r\n",
        "Content-Length\t: 0\r\n",
        "Content-Length\r\n",
        "Content-Length: \x0b0\r\n",
        // A length and chunks, in either order.
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        // Chunked in disguise.
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: identity, chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked;a=b\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding\r\n: chunked\r\n",
        "Transfer-Encoding: cow\r\n",
        // Lines that are folded, that end differently, or that are no headers.
        "A: b\r\n c\r\n",
        "A: b\r\n\tc\r\n",
        " A: b\r\n",
        "A: b\n",
        "A: b\nContent-Length: 0\r\n",
        "A: b\rContent-Length: 0\r\n",
        "A: b\r\r\n",
        "A: b\0c\r\n",
        "A\0: b\r\n",
        ": b\r\n",
        "A b\r\n",
        "(A): b\r\n",
        "Host: b\r\n",
        "\r\r\n",
    ] {
        let request = format!("POST /upload HTTP/1.1\r\nHost: a\r\n{head}\r\n{second}");
        let (status, answers) = verdict(&web, request.as_bytes());
        let is_refused = ["HTTP/1.1 400 ", "HTTP/1.1 501 "].iter().any(|start| status.starts_with(start));
        assert!(is_refused && answers == 1, "{head:?}: {answers} answers, {status}");
    }
    for chunks in [
        "\r\n\r\n",
        "g\r\n\r\n",
        "-1\r\n\r\n",
        "+1\r\na\r\n0\r\n\r\n",
        "0x1\r\na\r\n0\r\n\r\n",
        " 1\r\na\r\n0\r\n\r\n",
        "1 \r\na\r\n0\r\n\r\n",
        "1\na\r\n0\r\n\r\n",
        "1\r\na\n0\r\n\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        "1\r\na0\r\n\r\n",
        "1;a\nb\r\na\r\n0\r\n\r\n",
        "1;a\rb\r\na\r\n0\r\n\r\n",
        "1\r\ra\r\n0\r\n\r\n",
        "11111111111111111\r\n",
        "ffffffffffffffffff\r\n",
        "0\r\n\n",
        "0\r\nA: b\n\r\n",
        "0\n\r\n",
        ";\r\n\r\n",
        // Trailers that are no headers.
        "0\r\nGET /x HTTP/1.1\r\n\r\n",
        "0\r\n: x\r\n\r\n",
        "0\r\n x\r\n\r\n",
        "0\r\nA: b\r\n c\r\n\r\n",
        "0\r\nno-colon\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\nX: y\0\r\n\r\n",
    ] {
        let head = "POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (status, answers) = verdict(&web, format!("{head}{chunks}{second}").as_bytes());
        assert!(status.starts_with("HTTP/1.1 400 ") && answers == 1, "{chunks:?}: {answers} answers, {status}");
    }
    for (line, refused) in [
        ("GET / HTTP/1.1\r\n", "400"), // no host
        ("GET  / HTTP/1.1\r\nHost: a\r\n", "400"),
        ("GET /  HTTP/1.1\r\nHost: a\r\n", "400"),
        ("GET\t/ HTTP/1.1\r\nHost: a\r\n", "400"),
        ("GET / HTTP/1.1 \r\nHost: a\r\n", "400"),
        ("GET / http/1.1\r\nHost: a\r\n", "400"),
        ("GET /\r\n", "400"),
        ("GET a HTTP/1.1\r\nHost: a\r\n", "400"),
        ("GET HTTP/1.1\r\nHost: a\r\n", "400"),
        ("GE(T / HTTP/1.1\r\nHost: a\r\n", "400"),
        (" GET / HTTP/1.1\r\nHost: a\r\n", "400"),
        ("GET / HTTP/2.0\r\nHost: a\r\n", "505"),
        ("GET / HTTP/1.1\nHost: a\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n", "400"), // a body that nothing takes
        ("POST /upload HTTP/1.0\r\nTransfer-Encoding: chunked\r\n", "400"),
        ("BREW / HTTP/1.1\r\nHost: a\r\n", "501"),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n", "501"),
        ("DELETE / HTTP/1.1\r\nHost: a\r\n", "405"),
        ("POST /upload HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n", "417"),
    ] {
        let (status, answers) = verdict(&web, format!("{line}\r\n{second}").as_bytes());
        // Where the version should be there is something else.
        let is_refused = status.starts_with(&format!("HTTP/1.1 {refused} ")) || status.starts_with("HTTP/1.1 505 ");
        assert!(is_refused && answers == 1, "{line:?}: {answers} answers, {status}");
    }
    web.stops_in_good_order();
}

#[test]
fn web_refuses_targets_and_hosts_that_are_none() {
    let root = Directory::new();
    let Some(mut web) = web(&root, &[]) else { return };
    for (target, wanted) in [
        ("/ready?a://b", "ready"),
        ("http://other/ready", "ready"),
        ("http://other:80/ready?x", "ready"),
        ("http://[::1]:80/ready", "ready"),
        ("HTTP://a/ready", "ready"),
        ("https://a/ready", "ready"),
        ("http://a", "doctype"),
        ("http://a?/ready", "doctype"),
        ("http://a#/ready", "doctype"),
        ("http:///ready", "400 Bad Request"),
        ("http://:80/ready", "400 Bad Request"),
        ("http://u:p@a/ready", "400 Bad Request"),
        ("http://a\\b/ready", "400 Bad Request"),
        ("http:/ready", "400 Bad Request"),
        ("ftp://a/ready", "400 Bad Request"),
        ("a:80", "400 Bad Request"),
        ("ready", "400 Bad Request"),
        ("*", "400 Bad Request"),
    ] {
        let mut client = web.connect();
        let (head, body) = ask(&mut client, &format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(String::from_utf8_lossy(&body).contains(wanted), "{target}: {head}");
    }
    let with_host = |host: &[u8]| [b"GET /ready HTTP/1.0\r\nHost: ", host, b"\r\n\r\n"].concat();
    for host in ["", "a", "a:", "a:65535", "A-1.b_c.", "127.0.0.1:1", "[::1]", "[::ffff:1.2.3.4]:80", "%41"] {
        assert_eq!(verdict(&web, &with_host(host.as_bytes())), ("HTTP/1.1 200 OK".to_owned(), 1), "{host}");
    }
    for host in [
        "a b", "a,b", "a/b", "a@b", "a#b", "a?b", "<x>", "\u{fc}", "a:99999", "a:b", "a:+1", "a:1:2", ":80", "::1",
        "[::1", "::1]", "[]", "[a]", "[::1]a", "[::1]:a", "a[::1]",
    ] {
        let (status, _) = verdict(&web, &with_host(host.as_bytes()));
        assert_eq!(status, "HTTP/1.1 400 Bad Request", "{host}");
    }
    assert_eq!(verdict(&web, &with_host(b"\xff")).0, "HTTP/1.1 400 Bad Request");
    web.stops_in_good_order();
}

#[test]
fn web_names_the_methods_that_a_path_has() {
    let root = Directory::new();
    let Some(mut web) = web(&root, &[]) else { return };
    let body = "Content-Length: 1\r\n\r\nx";
    for (request, allowed) in [
        ("DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", "GET, HEAD"),
        (&format!("POST / HTTP/1.1\r\nHost: a\r\n{body}"), "GET, HEAD"),
        (&format!("PUT /upload/x HTTP/1.1\r\nHost: a\r\n{body}"), "GET, HEAD"),
        (&format!("PATCH /upload HTTP/1.1\r\nHost: a\r\n{body}"), "POST, PUT"),
        ("GET /upload HTTP/1.1\r\nHost: a\r\n\r\n", "POST, PUT"),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "GET, HEAD"),
    ] {
        let (head, _) = ask(&mut web.connect(), request);
        assert!(head.starts_with("HTTP/1.1 405 Method Not Allowed\n"), "{request:?}: {head}");
        assert!(head.contains(&format!("\nAllow: {allowed}\n")), "{request:?}: {head}");
    }
    // No answer to HEAD has a body, not even a refusal.
    for request in [
        "HEAD /upload HTTP/1.1\r\nHost: a\r\n\r\n",
        "HEAD /none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
        "HEAD / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "\r\nHEAD none HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let mut client = web.connect();
        write(&mut client, request);
        let said = String::from_utf8(rest(&mut client)).unwrap();
        assert!(said.starts_with("HTTP/1.1 40") && said.ends_with("\r\n\r\n"), "{request:?}: {said}");
    }
    web.stops_in_good_order();
}

#[test]
fn web_names_the_limit_that_a_request_exceeds() {
    let root = Directory::new();
    let Some(mut web) = web(&root, &["--upload-bytes-max", "1000"]) else { return };
    let many: String = (0..100).map(|n| format!("A{n}: b\r\n")).collect();
    let upload = "POST /upload HTTP/1.1\r\nHost: a\r\n";
    for (request, refused) in [
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(20_000)), "414 URI Too Long"),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", "x".repeat(20_000)),
            "431 Request Header Fields Too Large",
        ),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), "431 Request Header Fields Too Large"),
        (format!("{upload}Content-Length: 1001\r\nExpect: 100-continue\r\n\r\n"), "413 Content Too Large"),
        (format!("{upload}Transfer-Encoding: chunked\r\n\r\n3e9\r\n{}", "x".repeat(1_001)), "413 Content Too Large"),
        (format!("{upload}Transfer-Encoding: chunked\r\n\r\n1;{}", "x".repeat(5_000)), "400 Bad Request"),
        (format!("{upload}Transfer-Encoding: chunked\r\n\r\n0\r\n{}", "A: b\r\n".repeat(2_000)), "400 Bad Request"),
    ] {
        let (status, answers) = verdict(&web, request.as_bytes());
        assert_eq!((status, answers), (format!("HTTP/1.1 {refused}"), 1), "{:?}", &request[..request.len().min(90)]);
    }
    web.stops_in_good_order();
}

// ---- ordinary requests ----

#[test]
fn web_keeps_connections_and_answers_pipelines_in_order() {
    let root = Directory::new();
    (0..10).for_each(|n| _ = root.file(&format!("{n}"), format!("file {n}")));
    let Some(mut web) = web(&root, &[]) else { return };
    let requests: String = (0..1_000).map(|n| format!("GET /files/{} HTTP/1.1\r\nHost: a\r\n\r\n", n % 10)).collect();
    for size in [1, 7, 1_000, usize::MAX] {
        let mut client = web.connect();
        let (mut writer, requests) = (client.try_clone().unwrap(), requests.clone());
        let count = if size == 1 { 20 } else { 1_000 };
        let writing = std::thread::spawn(move || {
            let bytes = &requests.as_bytes()[..requests.len() / 1_000 * count];
            bytes.chunks(size.min(bytes.len())).for_each(|chunk| write(&mut writer, chunk));
        });
        for n in 0..count {
            let (head, body) = answer(&mut client);
            assert!(head.starts_with("HTTP/1.1 200 OK\n") && !head.contains("Connection: close"), "{head}");
            assert_eq!(body, format!("file {}", n % 10).as_bytes());
        }
        writing.join().unwrap();
    }
    let mut client = web.connect();
    for (request, closes) in [
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", false),
        ("\r\nGET http://a/?b#c HTTP/1.1\r\nHost: a\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n", true),
    ] {
        let (head, body) = ask(&mut client, request);
        let connection = if closes { "close" } else { "keep-alive" };
        assert!(head.contains(&format!("\nConnection: {connection}\n")), "{request:?}: {head}");
        assert!(head.starts_with("HTTP/1.1 200 OK") && body.starts_with(b"<!doctype html>"));
    }
    assert_eq!(rest(&mut client), b"");
    let mut old = web.connect();
    assert!(ask(&mut old, "GET / HTTP/1.0\r\n\r\n").0.contains("Connection: close"));
    assert_eq!(rest(&mut old), b"");
    web.stops_in_good_order();
}

#[test]
fn web_serves_parts_of_files() {
    let root = Directory::new();
    root.file("ten.txt", "0123456789");
    root.file("empty", "");
    // Such a date cannot be told.
    let old = std::fs::File::create(root.path("old")).unwrap();
    old.set_modified(SystemTime::UNIX_EPOCH - Duration::from_secs(1)).unwrap();
    let Some(mut web) = web(&root, &[]) else { return };
    let mut client = web.connect();
    let get = |name: &str, header: &str| format!("GET /files/{name} HTTP/1.1\r\nHost: a\r\n{header}\r\n");
    for (range, status, body) in [
        ("", "200 OK", "0123456789"),
        ("Range: bytes=0-0\r\n", "206 Partial Content", "0"),
        ("Range: bytes=2-4\r\n", "206 Partial Content", "234"),
        ("Range: bytes=8-99\r\n", "206 Partial Content", "89"),
        ("Range: bytes=8-\r\n", "206 Partial Content", "89"),
        ("Range: bytes=-3\r\n", "206 Partial Content", "789"),
        ("Range: bytes=-99\r\n", "206 Partial Content", "0123456789"),
        ("Range: bytes=10-\r\n", "416 Range Not Satisfiable", ""),
        ("Range: bytes=-0\r\n", "416 Range Not Satisfiable", ""),
        ("Range: bytes=0-18446744073709551615\r\n", "206 Partial Content", "0123456789"),
        ("Range: bytes=4-2\r\n", "200 OK", "0123456789"),
        ("Range: bytes=+1-2\r\n", "200 OK", "0123456789"),
        ("Range: bytes=1-2,4-5\r\n", "200 OK", "0123456789"),
        ("Range: lines=1-2\r\n", "200 OK", "0123456789"),
        ("Range: bytes=1-2\r\nIf-Range: \"x\"\r\n", "200 OK", "0123456789"),
    ] {
        let (head, got) = ask(&mut client, &get("ten.txt", range));
        assert_eq!(head.lines().next(), Some(&*format!("HTTP/1.1 {status}")), "{range}");
        assert_eq!(String::from_utf8(got).unwrap(), body, "{range}");
        if status.starts_with("416") {
            assert!(head.contains("Content-Range: bytes */10"), "{head}");
        }
    }
    let (head, _) = ask(&mut client, &get("ten.txt", "Range: bytes=2-4\r\n"));
    assert!(head.contains("Content-Range: bytes 2-4/10") && head.contains("Content-Type: text/plain"), "{head}");
    assert_eq!(
        ask(&mut client, &get("empty", "Range: bytes=0-\r\n")).0.lines().next(),
        Some("HTTP/1.1 416 Range Not Satisfiable")
    );

    let (old, _) = ask(&mut client, &get("old", ""));
    assert!(old.contains("Last-Modified: Thu, 01 Jan 1970 00:00:00 GMT"), "{old}");

    // Changed since, another version, HEAD.
    let date = head.lines().find_map(|line| line.strip_prefix("Last-Modified: ")).unwrap();
    write(&mut client, get("ten.txt", &format!("If-Modified-Since: {date}\r\n")));
    let (head, _) = answer(&mut client);
    assert!(head.starts_with("HTTP/1.1 304 Not Modified") && !head.contains("Content-Length"), "{head}");
    let (head, _) = ask(&mut client, &get("ten.txt", "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n"));
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    let (head, got) = ask(&mut client, &get("ten.txt", &format!("Range: bytes=1-2\r\nIf-Range: {date}\r\n")));
    assert!(head.starts_with("HTTP/1.1 206") && got == b"12", "{head}");
    let (head, _) =
        ask(&mut client, &get("ten.txt", &format!("If-Modified-Since: {date}\r\nIf-None-Match: \"x\"\r\n")));
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    write(
        &mut client,
        "HEAD /files/ten.txt HTTP/1.1\r\nHost: a\r\nRange: bytes=1-2\r\n\r\nHEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    let said = String::from_utf8(rest(&mut client)).unwrap();
    assert!(said.starts_with("HTTP/1.1 200 OK") && said.contains("Content-Length: 10\r\n"), "{said}");
    assert!(said.contains("\r\n\r\nHTTP/1.1 200 OK") && said.ends_with("\r\n\r\n"), "{said}");
    web.stops_in_good_order();
}

#[test]
fn web_serves_nothing_outside_of_its_folder() {
    let outside = Directory::new();
    outside.file("secret", "secret");
    let root = Directory::new();
    root.file("a b", "inside");
    std::fs::create_dir(root.path("pages")).unwrap();
    root.file("pages/index.html", "inside");
    std::os::unix::fs::symlink(outside.path("secret"), root.path("link")).unwrap();
    std::os::unix::fs::symlink(outside.path(""), root.path("folder")).unwrap();
    std::os::unix::fs::symlink(root.path("a b"), root.path("good")).unwrap();
    let Some(mut web) = web(&root, &[]) else { return };
    let mut client = web.connect();
    let path = outside.at("");
    let name = path.file_name().unwrap().to_str().unwrap();
    for path in [
        &format!("../{name}/secret"),
        &format!("%2e%2e/{name}/secret"),
        &format!("..%2f{name}%2fsecret"),
        &format!("x/../../{name}/secret"),
        &format!("./../{name}/secret"),
        &outside.path("secret"),
        &format!("%2f{}", outside.path("secret")),
        "link",
        "folder/secret",
        "folder/",
        "..",
        "../",
        "%00",
        "a%20b%00",
        "%ff",
        "a%20b/",
        "a%20b/..",
        "",
        "/",
        "none",
        // The links of its index would lead elsewhere.
        "pages",
        "pages/index.html/",
        &"x".repeat(1_000),
    ] {
        let (head, body) = ask(&mut client, &format!("GET /files/{path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(head.starts_with("HTTP/1.1 404 Not Found"), "{path}: {head}: {}", String::from_utf8_lossy(&body));
    }
    for path in ["a%20b", "good", "%61%20b?x=y", "pages/", "pages/index.html"] {
        let (_, body) = ask(&mut client, &format!("GET /files/{path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(body, b"inside", "{path}");
    }
    web.stops_in_good_order();
}

#[test]
fn web_takes_uploads_of_either_kind() {
    let root = Directory::new();
    let Some(mut web) = web(&root, &[]) else { return };
    let mut random = Random::new();
    let data: Vec<u8> = (0..300_000).map(|_| random.below(256) as u8).collect();
    let hash = data
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    let wanted = format!("{{\"bytes\":300000,\"fnv1a\":\"{hash:016x}\"}}\n");
    let mut client = web.connect();
    for round in 0..20 {
        let mut body = b"POST /upload HTTP/1.1\r\nHost: a\r\n".to_vec();
        if round % 2 == 0 {
            write!(body, "Content-Length: {}\r\n\r\n", data.len()).unwrap();
            body.extend(&data);
        } else {
            body.extend(b"transfer-encoding: Chunked\r\n\r\n");
            let mut rest = &data[..];
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(rest.len().min(1 + random.below(1 << (4 + round / 2))));
                write!(body, "{:x}{}\r\n", chunk.len(), ["", ";a=b", ";\"c\"", ";\ta=\"\tb\""][random.below(4)])
                    .unwrap();
                body.extend(chunk);
                body.extend(b"\r\n");
                rest = after;
            }
            body.extend(b"000\r\nTrailer: x\r\nX: \ty\tz\r\n\r\n");
        }
        let mut rest = &body[..];
        while !rest.is_empty() {
            let (part, after) = rest.split_at(rest.len().min(1 + random.below(40_000)));
            write(&mut client, part);
            rest = after;
        }
        let (head, body) = answer(&mut client);
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        assert_eq!(String::from_utf8(body).unwrap(), wanted, "round {round}");
    }
    // Told to continue, and only then sent.
    write(&mut client, "PUT /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-Continue\r\n\r\n");
    expect(&mut client, "HTTP/1.1 100 Continue\r\n\r\n");
    assert!(ask(&mut client, "x").0.starts_with("HTTP/1.1 200 OK"));
    web.stops_in_good_order();
}

#[test]
fn web_tells_clients_that_it_stops() {
    let root = Directory::new();
    let Some(mut web) = web(&root, &["--grace", "30"]) else { return };
    let (mut client, mut idle) = (web.connect(), web.connect());
    ask(&mut idle, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    ask(&mut client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    write(&mut client, "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    expect(&mut client, "HTTP/1.1 100 Continue\r\n\r\n");
    web.signal("TERM");
    web.log.until("stopping");
    assert_eq!(rest(&mut idle), b"", "an idle connection is closed");
    let (head, body) = ask(&mut client, "ab");
    assert!(head.contains("200 OK") && head.contains("Connection: close"), "{head}");
    assert!(body.starts_with(b"{\"bytes\":2,"));
    assert_eq!(rest(&mut client), b"");
    assert_eq!(web.exit().code(), Some(0));
}

// ---- hostile clients ----

#[test]
fn web_answers_a_request_that_trickles_with_408() {
    let root = Directory::new();
    let Some(mut web) = web(&root, &["--message-timeout", "0.4"]) else { return };
    let body = "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
    let chunks = "POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (begin, more) in
        [("GET /", &b"x"[..]), ("GET / HTTP/1.1\r\n", b"A: b\r\n"), (body, b"x"), (chunks, b"1\r\nx\r\n")]
    {
        let mut client = web.connect();
        let begun = Instant::now();
        write(&mut client, begin);
        let said = String::from_utf8(trickle(&mut client, more)).unwrap();
        assert!(said.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{begin:?}: {said}");
        assert!(begun.elapsed() >= Duration::from_millis(400));
    }
    still_serves(&mut web);
}

#[test]
fn web_survives_garbage_and_resets() {
    let root = Directory::new();
    root.file("a", "a");
    let Some(mut web) = web(&root, &[]) else { return };
    let mut random = Random::new();
    let good = "GET /files/a HTTP/1.1\r\nHost: a\r\nRange: bytes=0-0\r\n\r\n\
        POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
        POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    for round in 0..300 {
        let garbage = match round % 2 {
            0 => (0..random.below(3_000)).map(|_| random.below(256) as u8).collect(),
            _ => random.spoil(good.as_bytes()),
        };
        let (_, answers) = verdict(&web, &garbage);
        assert!(answers <= 5);
    }
    resets(&web, good.repeat(100).as_bytes());
    still_serves(&mut web);
}

#[test]
fn web_keeps_little_for_clients_that_never_read() {
    let root = Directory::new();
    root.file("large", vec![b'x'; 64 << 20]);
    let Some(mut web) = web(&root, &[]) else { return };
    let deaf: Vec<_> = (0..20)
        .map(|_| {
            let mut client = web.connect();
            write(&mut client, "GET /files/large HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100));
            client
        })
        .collect();
    // Another client gets all of it meanwhile.
    let (_, body) = ask(&mut web.connect(), "GET /files/large HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(body.len() == 64 << 20 && body.iter().all(|byte| *byte == b'x'));
    #[cfg(target_os = "linux")]
    {
        let status = std::fs::read_to_string(format!("/proc/{}/status", web.pid)).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim();
        let resident: usize = resident.trim_end_matches(" kB").parse().unwrap();
        assert!(resident < 40 * 1024, "{resident} KiB for {} clients", deaf.len());
    }
    drop(deaf);
    still_serves(&mut web);
}

#[test]
fn web_sends_all_of_a_file_to_a_slow_client_whose_next_request_waits() {
    let root = Directory::new();
    root.file("large", vec![b'x'; 32 << 20]);
    let Some(mut web) = web(&root, &["--message-timeout", "0.2"]) else { return };
    let mut client = web.connect();
    let request = "GET /files/large HTTP/1.1\r\nHost: a\r\n\r\n";
    write(&mut client, request.repeat(2));
    // It reads nothing for several times the limit. Another connection that breaks it tells how the time passes.
    for _ in 0..4 {
        assert!(trickle(&mut web.connect(), b"x").starts_with(b"HTTP/1.1 408 "));
    }
    for _ in 0..2 {
        let (head, body) = answer(&mut client);
        assert!(head.starts_with("HTTP/1.1 200 OK") && body == vec![b'x'; 32 << 20], "{head}");
    }
    still_serves(&mut web);
}

#[test]
fn web_resets_when_a_file_becomes_shorter() {
    let root = Directory::new();
    let path = root.file("large", vec![b'x'; 64 << 20]);
    let Some(mut web) = web(&root, &[]) else { return };
    let mut client = web.connect();
    write(&mut client, "GET /files/large HTTP/1.1\r\nHost: a\r\n\r\n");
    client.read_exact(&mut [0; 1_000]).unwrap();
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(10).unwrap();
    assert!(client.read_to_end(&mut Vec::new()).is_err(), "it must not look complete");
    still_serves(&mut web);
}

#[test]
fn web_says_that_it_has_no_descriptor_left() {
    let root = Directory::new();
    for n in 0..80 {
        root.file(&format!("{n}"), "");
        std::fs::OpenOptions::new().write(true).open(root.path(&format!("{n}"))).unwrap().set_len(64 << 20).unwrap();
    }
    let Some(example) = example("web") else { return };
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "ulimit -n 128; exec \"$0\" 127.0.0.1:0 --root \"$1\""]).arg(example.get_program());
    let mut web = Program::spawn(shell.arg(root.path("")).stdout(Stdio::piped()).stderr(Stdio::piped()));
    web.listens(1);
    // The default limit of connections leaves room for all of them. They are accepted before the first asks for a file.
    let mut clients: Vec<_> = (0..80).map(|_| web.connect()).collect();
    for client in &mut clients {
        write(client, "GET /files/missing HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(answer(client).0.starts_with("HTTP/1.1 404 "));
    }
    // An open file takes a descriptor until it is read.
    let lines: Vec<_> = (0..)
        .zip(&mut clients)
        .map(|(n, client): (usize, _)| {
            write(client, format!("GET /files/{n} HTTP/1.1\r\nHost: a\r\n\r\n"));
            let mut line = [0; 12];
            client.read_exact(&mut line).unwrap();
            String::from_utf8_lossy(&line).into_owned()
        })
        .collect();
    assert!(lines.iter().all(|line| line == "HTTP/1.1 200" || line == "HTTP/1.1 503"), "{lines:?}");
    assert!(lines[0] == "HTTP/1.1 200" && lines[79] == "HTTP/1.1 503", "{lines:?}");
    drop(clients);
    still_serves(&mut web);
}

#[test]
fn web_requires_a_folder() {
    let root = Directory::new();
    let Some(mut command) = example("web") else { return };
    let command = command.args(["127.0.0.1:0", "--root", &root.file("a", "a")]);
    let mut web = Program::spawn(command.stderr(Stdio::piped()));
    web.log.until("error: cannot open ");
    assert_eq!(web.exit().code(), Some(1));
}

#[track_caller]
fn still_serves(web: &mut Program) {
    let mut client = web.connect();
    assert!(
        ask(&mut client, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").0.starts_with("HTTP/1.1 200 OK")
    );
    assert_eq!(rest(&mut client), b"");
    web.stops_in_good_order();
}

// ---- the reactor at work ----

#[test]
fn web_sends_samples_to_any_number_of_viewers() {
    let root = Directory::new();
    let Some(mut web) = web(&root, &[]) else { return };
    let mut viewers: Vec<_> = (0..100).map(|_| web.connect()).collect();
    for (viewer, option) in viewers.iter_mut().zip(["keep-alive", "close"].into_iter().cycle()) {
        write(viewer, format!("GET /events HTTP/1.1\r\nHost: a\r\nConnection: {option}\r\n\r\n"));
    }
    for viewer in &mut viewers {
        assert!(answer(viewer).0.contains("Content-Type: text/event-stream"));
        expect(viewer, "event: history\ndata: [");
    }
    for viewer in &mut viewers {
        let begun = Instant::now();
        let mut said = String::new();
        while said.matches("event: sample\ndata: {").count() < 2 {
            assert!(begun.elapsed() < DEADLINE, "{said}");
            let mut buffer = [0; 10_000];
            let n = viewer.read(&mut buffer).unwrap();
            said += std::str::from_utf8(&buffer[..n]).unwrap();
        }
        assert!(said.contains("\"connections\":100,"), "{said}");
    }
    let (_, metrics) = ask(&mut web.connect(), "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    let metrics = String::from_utf8(metrics).unwrap();
    assert!(
        metrics.contains("\nsocketserver_connections 101\n") && metrics.contains("\nsocketserver_requests_total 101\n")
    );
    web.stops_in_good_order();
}

#[test]
fn web_shows_moving_charts_in_a_browser() {
    let root = Directory::new();
    let Some(mut web) = web(&root, &[]) else { return };
    let Some(mut browser) = Browser::start(&root) else { return };
    let address = web.address.unwrap();
    let curve = "(document.querySelectorAll('section')[1]?.querySelector('path')?.getAttribute('d') ?? '')";
    let count = format!("{curve}.split('L').length");

    browser.size(1280, 900);
    browser.open(&format!("http://{address}/"));
    browser.until("document.querySelectorAll('section').length === 8");
    browser.until("document.getElementById('state').textContent === 'live'");
    // The curve moves, and shows requests.
    browser.until(&format!("{count} >= 2"));
    let before = browser.evaluate(curve);
    (0..200).for_each(|_| _ = ask(&mut web.connect(), "GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    browser.until(&format!("{curve} !== '{before}'"));
    browser.until("document.querySelectorAll('section')[7].textContent.includes('peer closed')");
    browser.screenshot("light");

    // A page that is loaded again has all samples again.
    let samples: usize = browser.evaluate(&count).parse().unwrap();
    browser.open(&format!("http://{address}/"));
    browser.until("document.getElementById('state')?.textContent === 'live'");
    browser.until(&format!("{count} >= {samples}"));

    browser.dark(true);
    browser.until("getComputedStyle(document.body).backgroundColor === 'rgb(16, 20, 24)'");
    browser.screenshot("dark");
    browser.dark(false);
    browser.until("getComputedStyle(document.body).backgroundColor === 'rgb(245, 246, 248)'");

    // On a phone nothing is cut off at the side.
    browser.size(360, 740);
    browser.until("innerWidth === 360 && document.documentElement.scrollWidth <= 360");
    browser.until("[...document.querySelectorAll('section')].every(s => s.getBoundingClientRect().right <= 360)");
    browser.screenshot("phone");

    // Nothing comes from elsewhere, and nothing went wrong.
    let elsewhere =
        format!("performance.getEntriesByType('resource').filter(r => !r.name.startsWith('http://{address}/')).length");
    assert_eq!(browser.evaluate(&elsewhere), "0");
    assert_eq!(browser.complaints(), Vec::<String>::new());

    // When the server goes, the page says so.
    web.signal("KILL");
    web.exit();
    browser.until("document.getElementById('state').className === 'lost'");
}

// ---- the clients that people use ----

#[test]
fn web_serves_curl() {
    let root = Directory::new();
    let large: Vec<u8> = (0..4 << 20).map(|n: u32| (n / 7) as u8).collect();
    let path = root.file("large", &large);
    let Some(mut web) = web(&root, &[]) else { return };
    let url = |path: &str| format!("http://{}/{path}", web.address.unwrap());
    let (got, part) = (root.path("got"), root.path("part"));
    for (arguments, said) in [
        (&["-o", &got, "-w", "%{http_code}", &url("files/large")][..], "200"),
        (&["-o", &part, "-w", "%{http_code}", "-r", "1000-1999", &url("files/large")], "206"),
        (&["-o", &part, "-w", "%{http_code}", "-C", "-", &url("files/large")], "206"),
        (&["-I", "-o", "/dev/null", "-w", "%{http_code}", &url("files/large")], "200"),
        (&["-T", &path, &url("upload")], "{\"bytes\":4194304,"),
        (&["-H", "Transfer-Encoding: chunked", "-T", &path, &url("upload")], "{\"bytes\":4194304,"),
        (&["-z", &path, "-o", "/dev/null", "-w", "%{http_code}", &url("files/large")], "304"),
        (&["-o", "/dev/null", "-w", "%{http_code}", "--path-as-is", &url("files/../../../../etc/passwd")], "404"),
    ] {
        let Some(mut curl) = tool("curl", &["-sS"]) else { return };
        let got = said_by(curl.args(arguments));
        assert!(got.starts_with(said), "{arguments:?}: {got}");
    }
    assert!(std::fs::read(got).unwrap() == large);
    web.stops_in_good_order();
}

#[test]
fn web_serves_curl_under_tls() {
    let root = Directory::new();
    let large: Vec<u8> = (0..4 << 20).map(|n: u32| (n / 7) as u8).collect();
    let path = root.file("large", &large);
    let [chain, key] = certificate(&root);
    let Some(mut web) = web(&root, &["--tls", &chain, &key]) else { return };
    let port = web.address.unwrap().port();
    let url = |path: &str| format!("https://localhost:{port}/{path}");
    let got = root.path("got");
    for (arguments, said) in [
        (&["-o", &got, "-w", "%{http_code}", &url("files/large")][..], "200"),
        (&["-o", "/dev/null", "-w", "%{http_code}", "-r", "1000-1999", &url("files/large")], "206"),
        (&["-H", "Transfer-Encoding: chunked", "-T", &path, &url("upload")], "{\"bytes\":4194304,"),
        (&["-H", "Connection: close", &url("ready")], "ready"),
    ] {
        let Some(mut curl) = tool("curl", &["-sS", "--ipv4", "--cacert", &chain]) else { return };
        let got = said_by(curl.args(arguments));
        assert!(got.starts_with(said), "{arguments:?}: {got}");
    }
    assert!(std::fs::read(got).unwrap() == large);
    web.stops_in_good_order();
}

#[test]
fn web_makes_another_certificate_on_sighup() {
    let root = Directory::new();
    let Some(mut web) = web(&root, &["--self-signed"]) else { return };
    web.signal("HUP");
    web.log.until("the certificates were replaced");
    if let Some(mut curl) = tool("curl", &["-sS", "-k"]) {
        assert_eq!(said_by(curl.arg(format!("https://{}/ready", web.address.unwrap()))), "ready");
    }
    web.stops_in_good_order();
}

#[test]
fn web_serves_ab() {
    let root = Directory::new();
    let Some(mut web) = web(&root, &[]) else { return };
    let url = format!("http://{}/ready", web.address.unwrap());
    let Some(mut ab) = tool("ab", &["-q", "-k", "-n", "1000", "-c", "10", &url]) else { return };
    let said = said_by(&mut ab);
    assert!(said.contains("Keep-Alive requests:    1000\n"), "{said}");
    web.stops_in_good_order();
}

#[test]
fn web_serves_wrk() {
    let root = Directory::new();
    root.file("a", "a");
    let Some(mut web) = web(&root, &[]) else { return };
    let url = format!("http://{}/files/a", web.address.unwrap());
    let Some(mut wrk) = tool("wrk", &["-t", "1", "-c", "50", "-d", "1s", &url]) else { return };
    let said = said_by(&mut wrk);
    assert!(said.contains("Requests/sec:"), "{said}");
    assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
    web.stops_in_good_order();
}
