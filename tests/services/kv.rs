//! The key-value store: `redis-cli`, `redis-benchmark`, Python's `redis`, and hostile clients.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::programs::{DEADLINE, Program, start, start_with};
use crate::{Directory, Random, certificate, expect, resets, rest, said_by, said_by_python, tool, trickle, write};

#[test]
fn kv_speaks_the_protocol() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0"]) else { return };
    let mut client = kv.connect();
    for (request, reply) in DIALOGUE {
        write(&mut client, request);
        expect(&mut client, reply);
    }
    kv.stops_in_good_order();
}

#[test]
fn kv_does_not_depend_on_how_requests_are_split() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0"]) else { return };
    let requests: String = DIALOGUE.iter().map(|(request, _)| *request).collect();
    let replies: String = DIALOGUE.iter().map(|(_, reply)| *reply).collect();
    for size in [1, 2, 3, 7, 64, usize::MAX] {
        let mut client = kv.connect();
        write(&mut client, "FLUSHALL\r\n");
        expect(&mut client, "+OK\r\n");
        client.set_nodelay(true).unwrap();
        requests.as_bytes().chunks(size.min(requests.len())).for_each(|chunk| write(&mut client, chunk));
        expect(&mut client, &replies);
    }
    kv.stops_in_good_order();
}

/// Requests with their replies, beginning with no keys.
const DIALOGUE: &[(&str, &str)] = &[
    ("*1\r\n$4\r\nPING\r\n", "+PONG\r\n"),
    ("PING\r\nping hello\n", "+PONG\r\n$5\r\nhello\r\n"),
    ("\r\n*0\r\n*-1\r\n  ECHO   a  \r\n", "$1\r\na\r\n"),
    ("*2\r\n$3\r\nGET\r\n$1\r\na\r\n", "$-1\r\n"),
    ("*3\r\n$3\r\nSET\r\n$1\r\na\r\n$4\r\n\r\n\0*\r\n", "+OK\r\n"),
    ("*2\r\n$3\r\nget\r\n$1\r\na\r\n", "$4\r\n\r\n\0*\r\n"),
    ("SET e 1 EX 100\r\nTTL e\r\nSET e 1 px 100000\r\nTTL e\r\n", "+OK\r\n:100\r\n+OK\r\n:100\r\n"),
    ("EXPIRE e 7\r\nTTL e\r\nSET e 1\r\nTTL e\r\nTTL none\r\n", ":1\r\n:7\r\n+OK\r\n:-1\r\n:-2\r\n"),
    ("EXPIRE e 0\r\nEXISTS e\r\nEXPIRE e 9\r\n", ":1\r\n:0\r\n:0\r\n"),
    // One that has expired is not seen, also before it is removed.
    ("SET e 1\r\nEXPIRE e 0\r\nKEYS e\r\nSCAN 0 MATCH e\r\n", "+OK\r\n:1\r\n*0\r\n*2\r\n$1\r\n0\r\n*0\r\n"),
    ("SET e 1 XX\r\nGET e\r\nTTL e\r\n", "$-1\r\n$-1\r\n:-2\r\n"),
    ("SET e 1 EX 0\r\n", "-ERR invalid expire time in 'set' command\r\n"),
    ("SET e 1 EX a\r\n", "-ERR value is not an integer or out of range\r\n"),
    ("SET e 1 EX 9223372036854775808\r\n", "-ERR value is not an integer or out of range\r\n"),
    ("SET e 1 EX 9223372036854775807\r\n", "-ERR invalid expire time in 'set' command\r\n"),
    ("SET e 1 EX 9223372036854775\r\n", "-ERR invalid expire time in 'set' command\r\n"),
    ("SET e 1 PX 9223372036854775807\r\n", "-ERR invalid expire time in 'set' command\r\n"),
    ("EXPIRE e 9223372036854775\r\n", "-ERR invalid expire time in 'expire' command\r\n"),
    ("PEXPIRE e 9223372036854775807\r\n", "-ERR invalid expire time in 'pexpire' command\r\n"),
    ("SET e 1 SOON\r\n", "-ERR syntax error\r\n"),
    ("MSET b 1 c 2\r\nDEL a b none\r\nEXISTS a b c\r\n", "+OK\r\n:2\r\n:1\r\n"),
    ("INCR n\r\nINCRBY n 41\r\nDECR n\r\nGET n\r\n", ":1\r\n:42\r\n:41\r\n$2\r\n41\r\n"),
    ("SET n 9223372036854775807\r\nINCR n\r\n", "+OK\r\n-ERR increment or decrement would overflow\r\n"),
    ("SET n +1\r\nINCR n\r\nGET n\r\n", "+OK\r\n-ERR value is not an integer or out of range\r\n$2\r\n+1\r\n"),
    ("SET n 05\r\nINCR n\r\n", "+OK\r\n-ERR value is not an integer or out of range\r\n"),
    ("SET n -0\r\nDECR n\r\n", "+OK\r\n-ERR value is not an integer or out of range\r\n"),
    ("SET n -01\r\nINCR n\r\n", "+OK\r\n-ERR value is not an integer or out of range\r\n"),
    ("SET n -\r\nINCR n\r\n", "+OK\r\n-ERR value is not an integer or out of range\r\n"),
    ("INCRBY m 00\r\nINCRBY m 0\r\n", "-ERR value is not an integer or out of range\r\n:0\r\n"),
    ("INCRBY m -9223372036854775808\r\n", ":-9223372036854775808\r\n"),
    ("INCRBY m -9223372036854775809\r\n", "-ERR value is not an integer or out of range\r\n"),
    ("LPUSH l b a\r\nRPUSH l c\r\nLLEN l\r\n", ":2\r\n:3\r\n:3\r\n"),
    ("LRANGE l 0 -1\r\nLRANGE l -2 1\r\n", "*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n*1\r\n$1\r\nb\r\n"),
    ("LRANGE l 5 9\r\nLRANGE l 2 1\r\nLRANGE l -9 -9\r\nLRANGE none 0 1\r\n", "*0\r\n*0\r\n*0\r\n*0\r\n"),
    ("LRANGE l 0 9223372036854775807\r\n", "*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n"),
    ("LRANGE l -9223372036854775808 0\r\n", "*1\r\n$1\r\na\r\n"),
    ("LPOP l\r\nRPOP l\r\nRPOP l\r\nRPOP l\r\nEXISTS l\r\n", "$1\r\na\r\n$1\r\nc\r\n$1\r\nb\r\n$-1\r\n:0\r\n"),
    ("HSET h f 1 g 2\r\nHSET h f 3\r\nHGET h f\r\nHGET h x\r\n", ":2\r\n:0\r\n$1\r\n3\r\n$-1\r\n"),
    ("HGETALL h\r\nHDEL h g x\r\nHGETALL none\r\n", "*4\r\n$1\r\nf\r\n$1\r\n3\r\n$1\r\ng\r\n$1\r\n2\r\n:1\r\n*0\r\n"),
    ("SADD s x y x\r\nSREM s y z\r\nSMEMBERS s\r\n", ":2\r\n:1\r\n*1\r\n$1\r\nx\r\n"),
    ("SPOP s\r\nSPOP s\r\nSMEMBERS s\r\nEXISTS s\r\n", "$1\r\nx\r\n$-1\r\n*0\r\n:0\r\n"),
    ("GET h\r\n", "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"),
    ("SADD h a\r\n", "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"),
    ("NOSUCH a\r\n", "-ERR unknown command 'NOSUCH', with args beginning with: 'a' \r\n"),
    (
        "Get\r\nSET a\r\n",
        "-ERR wrong number of arguments for 'get' command\r\n-ERR wrong number of arguments for 'set' command\r\n",
    ),
    (
        "SET nx 1 NX\r\nSET nx 2 NX\r\nSET xx 1 XX\r\nSET nx 3 xx PX 100000\r\nGET nx\r\n",
        "+OK\r\n$-1\r\n$-1\r\n+OK\r\n$1\r\n3\r\n",
    ),
    (
        "SET nx 1 NX XX\r\nSET nx 1 EX\r\nSET nx 1 EX 0\r\n",
        "-ERR syntax error\r\n-ERR syntax error\r\n-ERR invalid expire time in 'set' command\r\n",
    ),
    ("SET 'with space' \"it's\"\r\nGET \"with space\"\r\n", "+OK\r\n$4\r\nit's\r\n"),
    (
        "KEYS with*\r\nKEYS 'w?th[ -]s[^a]ace'\r\nKEYS with\r\n",
        "*1\r\n$10\r\nwith space\r\n*1\r\n$10\r\nwith space\r\n*0\r\n",
    ),
    ("SCAN x\r\nSCAN 0 COUNT\r\n", "-ERR invalid cursor\r\n-ERR syntax error\r\n"),
    ("HELLO 4\r\n", "-NOPROTO unsupported protocol version\r\n"),
    ("HELLO 3 SETNAME x\r\n", "-ERR Syntax error in HELLO option\r\n"),
    ("SELECT 0\r\nSELECT 1\r\n", "+OK\r\n-ERR DB index is out of range\r\n"),
    ("CONFIG Get save\r\nCLIENT kill Id 0\r\n", "*2\r\n$4\r\nsave\r\n$0\r\n\r\n:0\r\n"),
    ("FLUSHALL\r\nSADD s x\r\nSREM s x\r\nSADD t x\r\nSPOP t\r\n", "+OK\r\n:1\r\n:1\r\n:1\r\n$1\r\nx\r\n"),
    ("HSET h f 1\r\nHDEL h f\r\nRPUSH l x\r\nLPOP l\r\nDBSIZE\r\n", ":1\r\n:1\r\n:1\r\n$1\r\nx\r\n:0\r\n"),
];

#[test]
fn kv_shows_the_beginning_of_an_unknown_command() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0"]) else { return };
    let mut client = kv.connect();
    let request = |words: &[&[u8]]| {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend(format!("${}\r\n", word.len()).bytes().chain(word.iter().copied()).chain(*b"\r\n"));
        }
        request
    };
    let long = vec![0; 14 << 20];
    for words in [&[&b"FOO"[..], &long, b"x"], &[&long, b"x", b"y"], &[b"FOO", b"a\r\n+OK", &long]] {
        write(&mut client, request(words));
        let reply = reply_line(&mut client);
        assert!(reply.starts_with("-ERR unknown command '") && reply.len() < 700, "{} bytes", reply.len());
    }
    write(&mut client, request(&[&b""[..]; 1_000]));
    assert!(reply_line(&mut client).len() < 700);
    still_serves(&mut kv);
}

#[test]
fn kv_reads_a_request_of_very_many_words_as_it_trickles() {
    const WORDS: usize = 1024 * 1024;
    let Some(mut kv) = start("kv", &["127.0.0.1:0"]) else { return };
    let (mut slow, mut other, begun) = (kv.connect(), kv.connect(), Instant::now());
    write(&mut slow, format!("*{WORDS}\r\n$3\r\nDEL\r\n{}", "$1\r\na\r\n".repeat(WORDS - 2)));
    write(&mut slow, "$300\r\n");
    for _ in 0..300 {
        // Each byte arrives by itself.
        write(&mut slow, "x");
        write(&mut other, "PING\r\n");
        expect(&mut other, "+PONG\r\n");
    }
    write(&mut slow, "\r\nPING\r\n");
    expect(&mut slow, ":0\r\n+PONG\r\n");
    assert!(begun.elapsed() < DEADLINE, "it is parsed again for each byte");
    kv.stops_in_good_order();
}

#[test]
fn kv_closes_a_connection_on_which_a_browser_sends_http() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0"]) else { return };
    for request in ["POST / HTTP/1.1\r\n", "post\r\n", "GET /a\r\nHost: a\r\n"] {
        let mut client = kv.connect();
        write(&mut client, format!("{request}\r\nSET attacked yes\r\n"));
        rest(&mut client);
        kv.log.until("a browser may have been made to send it");
    }
    let mut client = kv.connect();
    write(&mut client, "GET attacked\r\n");
    expect(&mut client, "$-1\r\n");
    kv.stops_in_good_order();
}

#[test]
fn kv_speaks_version_3_to_those_who_ask_for_it() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0"]) else { return };
    let (mut new, mut old) = (kv.connect(), kv.connect());
    let hello = "$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$5\r\nproto\r\n";
    for (request, reply) in [
        ("HELLO\r\n", &format!("*6\r\n{hello}:2\r\n")[..]),
        ("HELLO 3\r\n", &format!("%3\r\n{hello}:3\r\n")),
        ("GET a\r\nHGETALL a\r\nSMEMBERS a\r\n", "_\r\n%0\r\n~0\r\n"),
        ("HSET h f 1\r\nHGETALL h\r\n", ":1\r\n%1\r\n$1\r\nf\r\n$1\r\n1\r\n"),
        ("LRANGE a 0 1\r\nCONFIG GET save\r\n", "*0\r\n%1\r\n$4\r\nsave\r\n$0\r\n\r\n"),
        ("SUBSCRIBE a\r\n", ">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"),
        // Other commands are allowed, also to publish to itself.
        ("PING\r\nGET a\r\n", "+PONG\r\n_\r\n"),
        ("PUBLISH a x\r\n", ">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n:1\r\n"),
    ] {
        write(&mut new, request);
        expect(&mut new, reply);
    }
    write(&mut old, "SUBSCRIBE a\r\n");
    expect(&mut old, "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
    write(&mut new, "PUBLISH a y\r\n");
    expect(&mut new, ">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\ny\r\n:2\r\n");
    expect(&mut old, "*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\ny\r\n");
    // One that speaks version 2 again gets its messages in that version.
    write(&mut new, "HELLO 2\r\n");
    expect(&mut new, format!("*6\r\n{hello}:2\r\n"));
    let mut sender = kv.connect();
    write(&mut sender, "PUBLISH a z\r\n");
    expect(&mut new, "*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nz\r\n");
    kv.stops_in_good_order();
}

#[test]
fn kv_names_protocol_errors_like_redis_and_closes() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0"]) else { return };
    for (request, error) in [
        ("*x\r\n", "invalid multibulk length"),
        ("*1048577\r\n", "invalid multibulk length"),
        ("*01\r\n$4\r\nPING\r\n", "invalid multibulk length"),
        ("*-0\r\n", "invalid multibulk length"),
        ("*1\r\n$04\r\nPING\r\n", "invalid bulk length"),
        ("*99999999999999999999\r\n", "invalid multibulk length"),
        ("*1\r\nPING\r\n", "expected '$', got 'P'"),
        ("*1\r\n\r\n\r\n", "expected '$', got '\\r'"),
        ("*1\r\n$-1\r\n", "invalid bulk length"),
        ("*1\r\n$+4\r\nPING\r\n", "invalid bulk length"),
        ("*1\r\n$536870913\r\n", "invalid bulk length"),
        (&format!("*{}", "1".repeat(100)), "too big mbulk count string"),
        (&format!("*1\r\n${}", "1".repeat(100)), "too big bulk count string"),
        (&"x".repeat(100_000), "too big inline request"),
        ("GET 'a\r\n", "unbalanced quotes in request"),
        ("GET 'a'b\r\n", "unbalanced quotes in request"),
    ] {
        let mut client = kv.connect();
        write(&mut client, "PING\r\n");
        expect(&mut client, "+PONG\r\n");
        write(&mut client, request);
        assert_eq!(String::from_utf8_lossy(&rest(&mut client)), format!("-ERR Protocol error: {error}\r\n"));
    }
    kv.stops_in_good_order();
}

#[test]
fn kv_answers_a_long_pipeline_in_order() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0"]) else { return };
    let mut client = kv.connect();
    let mut writer = client.try_clone().unwrap();
    let writing = std::thread::spawn(move || (0..20_000).for_each(|_| write(&mut writer, "INCR n\r\nGET n\r\n")));
    for n in 1..=20_000 {
        expect(&mut client, format!(":{n}\r\n${}\r\n{n}\r\n", n.to_string().len()));
    }
    writing.join().unwrap();
    kv.stops_in_good_order();
}

#[test]
fn kv_keeps_large_values() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0"]) else { return };
    let mut client = kv.connect();
    let value = "v".repeat(10 << 20);
    write(&mut client, format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n{value}\r\nGET k\r\n", value.len()));
    expect(&mut client, format!("+OK\r\n${}\r\n{value}\r\n", value.len()));
    kv.stops_in_good_order();
}

#[test]
fn kv_removes_expired_keys_that_nobody_asks_for() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0"]) else { return };
    let mut client = kv.connect();
    (0..1_000).for_each(|n| write(&mut client, format!("SET {n} x PX 1\r\n")));
    expect(&mut client, "+OK\r\n".repeat(1_000));
    let begun = Instant::now();
    loop {
        write(&mut client, "DBSIZE\r\n");
        let mut reply = [0; 100];
        let n = client.read(&mut reply).unwrap();
        if reply[..n] == *b":0\r\n" {
            break;
        }
        assert!(begun.elapsed() < DEADLINE);
    }
    kv.stops_in_good_order();
}

#[test]
fn kv_removes_many_expired_keys_in_many_steps() {
    const KEYS: usize = 50_000;
    let Some(mut kv) = start("kv", &["127.0.0.1:0"]) else { return };
    let mut client = kv.connect();
    let expire_at = Instant::now() + Duration::from_secs(2);
    for from in (0..KEYS).step_by(1_000) {
        let left = expire_at.saturating_duration_since(Instant::now()).as_millis().max(1);
        write(&mut client, (from..from + 1_000).map(|n| format!("SET {n} x PX {left}\r\n")).collect::<String>());
        expect(&mut client, "+OK\r\n".repeat(1_000));
    }
    let (mut sizes, begun) = (std::collections::BTreeSet::new(), Instant::now());
    while !sizes.contains(":0") {
        write(&mut client, "DBSIZE\r\n");
        sizes.insert(reply_line(&mut client));
        assert!(begun.elapsed() < DEADLINE, "{sizes:?}");
    }
    // Each step is short. Most of the fifty are seen between two of them.
    assert!(sizes.len() > 10, "{sizes:?}");
    kv.stops_in_good_order();
}

#[test]
fn kv_publishes() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0"]) else { return };
    let (mut one, mut two, mut sender) = (kv.connect(), kv.connect(), kv.connect());
    write(&mut one, "SUBSCRIBE a b\r\n");
    expect(&mut one, "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n");
    write(&mut two, "SUBSCRIBE a\r\n");
    expect(&mut two, "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
    write(&mut sender, "PUBLISH a hi\r\nPUBLISH b ho\r\nPUBLISH c ha\r\n");
    expect(&mut sender, ":2\r\n:1\r\n:0\r\n");
    let hi = "*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n";
    expect(&mut two, hi);
    expect(&mut one, format!("{hi}*3\r\n$7\r\nmessage\r\n$1\r\nb\r\n$2\r\nho\r\n"));
    write(&mut one, "GET a\r\nPING\r\n");
    expect(&mut one, "-ERR only (P|UN|PUN)SUBSCRIBE, PING and QUIT are allowed here\r\n*2\r\n$4\r\npong\r\n$0\r\n\r\n");
    write(&mut one, "PING hello\r\n");
    expect(&mut one, "*2\r\n$4\r\npong\r\n$5\r\nhello\r\n");
    write(&mut one, "UNSUBSCRIBE a\r\nUNSUBSCRIBE\r\nUNSUBSCRIBE\r\nGET a\r\n");
    let left =
        ["$1\r\na\r\n:1", "$1\r\nb\r\n:0", "$-1\r\n:0"].map(|end| format!("*3\r\n$11\r\nunsubscribe\r\n{end}\r\n"));
    expect(&mut one, left.concat() + "$-1\r\n");
    // One that goes leaves its channels.
    write(&mut two, "QUIT\r\n");
    expect(&mut two, "+OK\r\n");
    assert_eq!(rest(&mut two), b"");
    write(&mut sender, "PUBLISH a hi\r\nPUBLISH b hi\r\n");
    expect(&mut sender, ":0\r\n:0\r\n");
    kv.stops_in_good_order();
}

#[test]
fn kv_publishes_the_longest_message() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0"]) else { return };
    let (mut subscriber, mut sender) = (kv.connect(), kv.connect());
    write(&mut subscriber, "SUBSCRIBE a\r\n");
    expect(&mut subscriber, "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
    let text = format!("${}\r\n{}\r\n", 16 << 20, "x".repeat(16 << 20));
    write(&mut sender, format!("*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n{text}"));
    expect(&mut sender, ":1\r\n");
    expect(&mut subscriber, format!("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n{text}"));
    kv.stops_in_good_order();
}

#[test]
fn kv_publishes_to_patterns() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0"]) else { return };
    let (mut one, mut sender) = (kv.connect(), kv.connect());
    write(&mut one, "PSUBSCRIBE news.* *\r\nSUBSCRIBE news.a\r\n");
    for (kind, name, count) in [("psubscribe", "news.*", 1), ("psubscribe", "*", 2), ("subscribe", "news.a", 3)] {
        expect(&mut one, format!("*3\r\n${}\r\n{kind}\r\n${}\r\n{name}\r\n:{count}\r\n", kind.len(), name.len()));
    }
    write(&mut sender, "PUBLISH news.a x\r\nPUBLISH other y\r\n");
    expect(&mut sender, ":3\r\n:1\r\n");
    expect(&mut one, "*3\r\n$7\r\nmessage\r\n$6\r\nnews.a\r\n$1\r\nx\r\n");
    let mut patterns = [(); 2].map(|()| (0..9).map(|_| reply_line(&mut one)).collect::<Vec<_>>().join(" "));
    patterns.sort();
    assert_eq!(patterns, ["*4 $8 pmessage $1 * $6 news.a $1 x", "*4 $8 pmessage $6 news.* $6 news.a $1 x"]);
    expect(&mut one, "*4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$5\r\nother\r\n$1\r\ny\r\n");
    write(&mut one, "PUNSUBSCRIBE\r\nUNSUBSCRIBE news.a\r\nPING\r\n");
    (0..18).for_each(|_| _ = reply_line(&mut one));
    expect(&mut one, "+PONG\r\n");
    write(&mut sender, "PUBLISH news.a x\r\n");
    expect(&mut sender, ":0\r\n");
    kv.stops_in_good_order();
}

#[test]
fn kv_scans_all_keys_while_others_are_removed() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0"]) else { return };
    let mut client = kv.connect();
    (0..1_000).for_each(|n| write(&mut client, format!("SET key:{n} x\r\nSET other:{n} x\r\n")));
    expect(&mut client, "+OK\r\n".repeat(2_000));
    let (mut found, mut cursor) = (std::collections::HashSet::new(), "0".to_owned());
    for round in 0.. {
        write(&mut client, format!("SCAN {cursor} MATCH key:* COUNT 50\r\nDEL other:{round}\r\n"));
        assert_eq!(reply_line(&mut client), "*2");
        reply_line(&mut client);
        cursor = reply_line(&mut client);
        let count: usize = reply_line(&mut client)[1..].parse().unwrap();
        for _ in 0..count {
            reply_line(&mut client);
            found.insert(reply_line(&mut client));
        }
        assert_eq!(reply_line(&mut client), ":1");
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(found.len(), 1_000);
    kv.stops_in_good_order();
}

#[test]
fn kv_stores_no_more_than_it_may_and_stores_again_when_something_goes() {
    const MAX: usize = 20_000_000;
    let Some(mut kv) = start("kv", &["127.0.0.1:0", "--data", &MAX.to_string()]) else { return };
    let mut client = kv.connect();
    let used = |client: &mut TcpStream| {
        write(client, "INFO\r\n");
        loop {
            if let Some(used) = reply_line(client).strip_prefix("used_memory:") {
                let used = used.parse::<usize>().unwrap();
                while !reply_line(client).starts_with("db0:") {}
                reply_line(client);
                return used;
            }
        }
    };
    let (item, before) = ("x".repeat(100_000), used(&mut client));
    let mut stored = 0;
    loop {
        write(&mut client, format!("*3\r\n$5\r\nRPUSH\r\n$1\r\nl\r\n$100000\r\n{item}\r\n"));
        match reply_line(&mut client) {
            error if error.starts_with('-') => {
                assert_eq!(error, "-OOM command not allowed when used memory > 'maxmemory'.");
                break;
            }
            _ => stored += 1,
        }
    }
    // A request needs memory as well while it arrives.
    assert!((MAX - 1_000_000..MAX + 200_000).contains(&(before + stored * 100_000)), "{before}, {stored}");
    write(&mut client, "LPOP l\r\nLLEN l\r\n");
    expect(&mut client, format!("$100000\r\n{item}\r\n:{}\r\n", stored - 1));
    write(&mut client, "DEL l\r\nSET a b\r\n");
    expect(&mut client, ":1\r\n+OK\r\n");
    assert!(used(&mut client) < before + 500_000);
    kv.stops_in_good_order();
}

#[test]
fn kv_gives_back_the_memory_of_keys_that_are_gone() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0", "--data", "8000000"]) else { return };
    let mut client = kv.connect();
    let mut run = |command: &str, keys: std::ops::Range<usize>| {
        let requests: String =
            keys.clone().map(|key| format!("{command}\r\n").replace("KEY", &key.to_string())).collect();
        write(&mut client, requests);
        keys.map(|_| reply_line(&mut client)).filter(|reply| reply.starts_with("-OOM")).count()
    };
    let mut stored = 0;
    while run("SET KEY x", stored..stored + 1_000) == 0 {
        stored += 1_000;
    }
    // The table of the keys has the larger part, and only becomes smaller after a while.
    (0..stored + 1_000).step_by(1_000).for_each(|from| _ = run("DEL KEY", from..from + 1_000));
    let begun = Instant::now();
    while run("SET KEY x", 0..1) > 0 {
        assert!(begun.elapsed() < DEADLINE, "nothing can be stored any more");
    }
    kv.stops_in_good_order();
}

#[test]
fn kv_counts_the_names_of_channels_as_data() {
    for command in ["SUBSCRIBE", "PSUBSCRIBE"] {
        let Some(mut kv) = start("kv", &["127.0.0.1:0", "--data", "20000000"]) else { return };
        let mut client = kv.connect();
        let refused = (0..50).find(|n| {
            let name = format!("{n:02}{}", "x".repeat(999_998));
            write(&mut client, format!("*2\r\n${}\r\n{command}\r\n$1000000\r\n{name}\r\n", command.len()));
            let reply = reply_line(&mut client);
            (0..5).for_each(|_| _ = (!reply.starts_with('-')).then(|| reply_line(&mut client)));
            reply.starts_with("-OOM ")
        });
        assert!((5..20).contains(&refused.expect("it is refused")), "{refused:?}");
        kv.stops_in_good_order();
    }
}

/// The beginning of a request with a word of 16 MB.
fn half_a_request(kv: &Program) -> TcpStream {
    let mut client = kv.connect();
    let _ = client.write_all(&[b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$16000000\r\n", &vec![b'x'; 15_000_000][..]].concat());
    client
}

#[test]
fn kv_bounds_what_half_requests_hold() {
    let arguments = ["127.0.0.1:0", "--buffers", "40000000", "--log-level", "debug"];
    let Some(mut kv) = start("kv", &arguments) else { return };
    let mut halves: Vec<_> = (0..4).map(|_| half_a_request(&kv)).collect();
    kv.log.until("(buffered_bytes_max = 40000000)");
    let closed = halves.iter_mut().filter_map(|half| {
        half.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        half.read(&mut [0]).map_or_else(|error| error.kind() != std::io::ErrorKind::WouldBlock, |_| true).then_some(())
    });
    assert!((1..3).contains(&closed.count()));
    still_serves(&mut kv);
}

#[test]
fn kv_stores_data_while_others_send_half_requests() {
    let arguments = ["127.0.0.1:0", "--data", "25000000", "--buffers", "100000000", "--workers", "2"];
    let Some(mut kv) = start("kv", &arguments) else { return };
    let _halves: Vec<_> = (0..3).map(|_| half_a_request(&kv)).collect();
    let (mut client, begun) = (kv.connect(), Instant::now());
    // What they hold is known after a moment.
    let mut stored = 0;
    while stored < 20 {
        write(&mut client, "SET b x\r\n");
        stored += u32::from(reply_line(&mut client) == "+OK");
        assert!(begun.elapsed() < DEADLINE, "half requests are counted as data");
    }
    kv.stops_in_good_order();
}

#[test]
fn kv_drops_a_subscriber_that_never_reads_and_no_other() {
    let arguments = ["127.0.0.1:0", "--subscriber-output", "100000", "--log-level", "debug"];
    let Some(mut kv) = start("kv", &arguments) else { return };
    let (mut deaf, mut sender) = (kv.connect(), kv.connect());
    write(&mut deaf, "SUBSCRIBE a\r\n");
    expect(&mut deaf, "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
    let text = "x".repeat(10_000);
    let begun = Instant::now();
    loop {
        write(&mut sender, format!("PUBLISH a {text}\r\n"));
        let mut reply = [0; 4];
        sender.read_exact(&mut reply).unwrap();
        if &reply == b":0\r\n" {
            break;
        }
        assert!(begun.elapsed() < DEADLINE, "it is never dropped");
    }
    kv.log.until("output limit (output_bytes_max = 100000)");
    write(&mut sender, "PING\r\n");
    expect(&mut sender, "+PONG\r\n");
    kv.stops_in_good_order();
}

#[test]
fn kv_gives_a_client_its_limits_back_when_it_leaves_its_last_channel() {
    let arguments = ["127.0.0.1:0", "--timeout", "2", "--subscriber-output", "100000"];
    let Some(mut kv) = start("kv", &arguments) else { return };
    let (mut subscriber, mut client) = (kv.connect(), kv.connect());
    for client in [&mut subscriber, &mut client] {
        write(client, "SUBSCRIBE a b\r\nUNSUBSCRIBE a\r\n");
        (0..18).for_each(|_| _ = reply_line(client));
    }
    write(&mut client, "UNSUBSCRIBE b\r\n");
    (0..6).for_each(|_| _ = reply_line(&mut client));
    // More than sockets take.
    let value = format!("$10000000\r\n{}\r\n", "x".repeat(10_000_000));
    write(&mut client, format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n{value}GET a\r\n"));
    expect(&mut client, format!("+OK\r\n{value}"));
    assert_eq!(rest(&mut client), b"", "it is idle");
    write(&mut subscriber, "PING\r\n");
    expect(&mut subscriber, "*2\r\n$4\r\npong\r\n$0\r\n\r\n");
    kv.stops_in_good_order();
}

#[test]
fn kv_lists_and_kills_clients() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0"]) else { return };
    let (mut one, mut two) = (kv.connect(), kv.connect());
    write(&mut one, "CLIENT ID\r\n");
    write(&mut two, "CLIENT ID\r\n");
    let [first, second] = [&mut one, &mut two].map(|client| reply_line(client).trim_start_matches(':').to_owned());
    write(&mut one, "CLIENT LIST\r\n");
    reply_line(&mut one);
    let mut lines = [reply_line(&mut one), reply_line(&mut one)];
    reply_line(&mut one);
    lines.sort();
    let addresses = [&one, &two].map(|client| client.local_addr().unwrap());
    let mut wanted = [(first, addresses[0]), (second.clone(), addresses[1])]
        .map(|(id, address)| format!("id={id} addr={address} omem=0"));
    wanted.sort();
    assert_eq!(lines, wanted);
    write(&mut one, "CLIENT KILL 127.0.0.1:1\r\nCLIENT KILL ID 0\r\n");
    expect(&mut one, "-ERR No such client\r\n:0\r\n");
    write(&mut one, format!("CLIENT KILL ID {second}\r\n"));
    expect(&mut one, ":1\r\n");
    assert_eq!(rest(&mut two), b"");
    write(&mut one, format!("CLIENT KILL {}\r\nSET after x\r\n", addresses[0]));
    assert_eq!(rest(&mut one), b"+OK\r\n", "it kills itself");
    let mut three = kv.connect();
    write(&mut three, "EXISTS after\r\n");
    expect(&mut three, ":0\r\n");
    kv.stops_in_good_order();
}

fn reply_line(client: &mut TcpStream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        line.extend(byte);
    }
    String::from_utf8(line).unwrap().trim_end().to_owned()
}

#[test]
fn kv_serves_a_path_with_the_same_data() {
    let scratch = Directory::new();
    let path = scratch.path("socket");
    let Some(mut kv) = start_with("kv", &["127.0.0.1:0", "--unix", &path], 2) else { return };
    write(&mut kv.connect(), "SET a 1\r\nQUIT\r\n");
    let begun = Instant::now();
    let mut reply = String::new();
    while reply != "$1\r\n1\r\n+OK\r\n" {
        assert!(begun.elapsed() < DEADLINE, "{reply}");
        let mut client = UnixStream::connect(&path).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.write_all(b"GET a\r\nQUIT\r\n").unwrap();
        reply.clear();
        client.read_to_string(&mut reply).unwrap();
    }
    kv.stops_in_good_order();
}

// ---- hostile clients ----

#[test]
fn kv_survives_garbage() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0"]) else { return };
    let mut random = Random::new();
    let requests: Vec<u8> = DIALOGUE.iter().flat_map(|(request, _)| request.bytes()).collect();
    for round in 0..300 {
        let garbage: Vec<u8> = match round % 3 {
            0 => (0..random.below(2_000)).map(|_| random.below(256) as u8).collect(),
            1 => (0..random.below(500)).map(|_| b"*$:\r\n0123456789-+ GETSET"[random.below(23)]).collect(),
            _ => random.spoil(&requests),
        };
        let mut client = kv.connect();
        // It may be closed in the middle.
        let _ = client.write_all(&garbage).and_then(|()| client.shutdown(std::net::Shutdown::Write));
        rest(&mut client);
    }
    still_serves(&mut kv);
}

#[test]
fn kv_survives_resets() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0"]) else { return };
    resets(&kv, &b"SET a 1\r\nGET a\r\nSUBSCRIBE a\r\n*3\r\n$3\r\n".repeat(100));
    still_serves(&mut kv);
}

#[test]
fn kv_closes_a_client_whose_request_trickles() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0", "--message-timeout", "0.3"]) else { return };
    for request in [&b"*2\r\n$3\r\nGET\r\n$9999\r\nx"[..], b"x"] {
        let begun = Instant::now();
        assert_eq!(trickle(&mut kv.connect(), request), b"");
        assert!(begun.elapsed() >= Duration::from_millis(300));
    }
    still_serves(&mut kv);
}

#[test]
fn kv_bounds_what_it_keeps_for_a_client_that_never_reads() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0"]) else { return };
    let mut setter = kv.connect();
    write(&mut setter, format!("SET k {}\r\n", "v".repeat(50_000)));
    expect(&mut setter, "+OK\r\n");
    let mut deaf = kv.connect();
    deaf.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    // It is not read above the high-water mark, so at some point it can write no more.
    let mut sent = 0;
    while deaf.write_all(b"GET k\r\n").is_ok() {
        sent += 1;
        assert!(sent < 10_000_000, "the server reads on");
    }
    write(&mut setter, "CLIENT LIST\r\n");
    reply_line(&mut setter);
    let lines = [reply_line(&mut setter), reply_line(&mut setter)];
    let unsent = lines.iter().filter_map(|line| line.rsplit_once("omem=")?.1.parse::<usize>().ok()).max();
    assert!((1..1 << 20).contains(&unsent.unwrap()), "{lines:?}");
    still_serves(&mut kv);
}

#[test]
fn kv_answers_beside_idle_clients() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0"]) else { return };
    let _idle: Vec<_> = (0..1_000).map(|_| kv.connect()).collect();
    still_serves(&mut kv);
}

#[track_caller]
fn still_serves(kv: &mut Program) {
    let mut client = kv.connect();
    write(&mut client, "PING\r\nQUIT\r\n");
    expect(&mut client, "+PONG\r\n+OK\r\n");
    assert_eq!(rest(&mut client), b"");
    kv.stops_in_good_order();
}

// ---- the clients that people use ----

#[test]
fn kv_serves_redis_cli() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0"]) else { return };
    let port = kv.address.unwrap().port().to_string();
    for (arguments, said) in [
        (&["ping"][..], "PONG"),
        (&["set", "greeting", "hello world", "ex", "60"], "OK"),
        (&["get", "greeting"], "hello world"),
        (&["rpush", "l", "1", "2"], "2"),
        (&["lrange", "l", "0", "-1"], "1\n2"),
        (&["hset", "h", "a", "1", "b", "2"], "2"),
        (&["hgetall", "h"], "a\n1\nb\n2"),
        (&["config", "get", "save"], "save\n"),
    ] {
        let Some(mut cli) = tool("redis-cli", &["-p", &port]) else { return };
        assert_eq!(said_by(cli.args(arguments)), said, "{arguments:?}");
    }
    let Some(mut cli) = tool("redis-cli", &["-p", &port, "info"]) else { return };
    let info = said_by(&mut cli);
    assert!(info.contains("connected_clients:1") && info.contains("db0:keys=3"), "{info}");
    kv.stops_in_good_order();
}

#[test]
fn kv_serves_redis_cli_over_tls() {
    let scratch = Directory::new();
    let [cert, key] = certificate(&scratch);
    let arguments = ["127.0.0.1:0", "--tls-address", "127.0.0.1:0", "--tls", &cert, &key];
    let Some(mut kv) = start_with("kv", &arguments, 2) else { return };
    write(&mut kv.connect(), "SET a 1\r\n");
    let port = kv.listening[1].rsplit_once(':').unwrap().1.to_owned();
    let arguments = ["-h", "localhost", "-p", &port, "--tls", "--sni", "localhost", "--cacert", &cert, "get", "a"];
    let Some(mut cli) = tool("redis-cli", &arguments) else { return };
    let begun = Instant::now();
    while said_by(&mut cli) != "1" {
        assert!(begun.elapsed() < DEADLINE);
    }
    // Somebody who does not speak TLS there harms nobody.
    let mut plain = TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap();
    write(&mut plain, "PING\r\n");
    plain.set_read_timeout(Some(DEADLINE)).unwrap();
    assert!(!rest(&mut plain).starts_with(b"+PONG"));
    assert_eq!(said_by(&mut cli), "1");
    kv.stops_in_good_order();
}

#[test]
fn kv_serves_redis_benchmark() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0"]) else { return };
    let port = kv.address.unwrap().port().to_string();
    let tests = "ping,set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,lrange,mset";
    for pipeline in ["1", "16"] {
        let arguments = ["-p", &port, "-n", "2000", "-c", "20", "-P", pipeline, "--csv", "-t", tests];
        let Some(mut benchmark) = tool("redis-benchmark", &arguments) else { return };
        let said = said_by(&mut benchmark);
        for test in ["PING_INLINE", "PING_MBULK", "SET", "SPOP", "LRANGE_600 (first 600 elements)", "MSET (10 keys)"] {
            assert!(said.lines().any(|line| line.starts_with(&format!("\"{test}\""))), "{test}: {said}");
        }
        assert!(!said.to_lowercase().contains("error"), "{said}");
    }
    kv.stops_in_good_order();
}

#[test]
fn kv_serves_python_s_redis() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0"]) else { return };
    let port = kv.address.unwrap().port().to_string();
    let script = r#"
import sys, redis
protocol = {"protocol": int(sys.argv[2])} if sys.argv[2] else {}
r = redis.Redis(port=int(sys.argv[1]), decode_responses=True, **protocol)
assert r.ping() and r.set("a", "1", ex=100) and r.get("a") == "1" and 0 < r.ttl("a") <= 100
assert r.incr("n", 5) == 5 and r.delete("n") == 1 and r.exists("n") == 0
assert r.rpush("l", "x", "y") == 2 and r.lrange("l", 0, -1) == ["x", "y"] and r.lpop("l") == "x"
assert r.hset("h", mapping={"f": 1, "g": 2}) == 2 and r.hgetall("h") == {"f": "1", "g": "2"}
assert r.sadd("s", "x", "y") == 2 and r.smembers("s") == {"x", "y"} and r.spop("s") in ("x", "y")
assert r.mset({f"many{i}": i for i in range(5000)}) and r.delete(*(f"many{i}" for i in range(5000))) == 5000
assert r.mset({"b": 1, "c": 2}) and r.config_get("appendonly") == {"appendonly": "no"}
assert r.info()["db0"]["keys"] == 6 and r.dbsize() == 6
try:
    r.incr("h")
    assert False
except redis.ResponseError as error:
    assert "WRONGTYPE" in str(error)
with r.pipeline(transaction=False) as p:
    for _ in range(1000): p.incr("n")
    assert p.execute() == list(range(1, 1001))
s = r.pubsub(ignore_subscribe_messages=True)
s.subscribe("news")
assert s.get_message(timeout=10) is None and r.publish("news", "hi") == 1
assert s.get_message(timeout=10)["data"] == "hi"
if sys.argv[2] == "2":
    s.ping("health")
    assert s.get_message(timeout=10)["data"] == "health"
s.close()
other = redis.Redis(port=int(sys.argv[1]), single_connection_client=True, **protocol)
addresses = [client["addr"] for client in r.client_list()]
assert len(addresses) >= 2, addresses
assert r.client_kill_filter(_id=other.client_id()) == 1
print("done")
"#;
    // The default of the client, which depends on its version, and both versions of the protocol.
    for protocol in ["", "2", "3"] {
        let mut client = kv.connect();
        write(&mut client, "FLUSHALL\r\n");
        expect(&mut client, "+OK\r\n");
        if let Some(said) = said_by_python("redis", script, &[&port, protocol]) {
            assert_eq!(said, "done");
        }
    }
    kv.stops_in_good_order();
}

// ---- in production ----

#[test]
fn kv_answers_at_its_admin_port_for_all_workers() {
    let words = ["127.0.0.1:0", "--workers", "2", "--admin", "127.0.0.1:0", "--drain-delay", "30"];
    let Some(mut kv) = start_with("kv", &words, 2) else { return };
    let mut clients: Vec<_> = (0..8).map(|_| kv.connect()).collect();
    for client in &mut clients {
        write(client, "PING\r\n");
        expect(client, "+PONG\r\n");
    }
    let admin = kv.listening[1].clone();
    let get = |path: &str| {
        let mut client = crate::connected(TcpStream::connect(&admin).unwrap());
        write(&mut client, format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        String::from_utf8(rest(&mut client)).unwrap()
    };
    let until = |path: &str, is_seen: fn(&str) -> bool| {
        let begun = Instant::now();
        while !is_seen(&get(path)) {
            assert!(begun.elapsed() < DEADLINE, "{path}: {}", get(path));
        }
    };
    assert!(get("/ready").starts_with("HTTP/1.1 200 OK\r\n"));
    // The eight clients, and the one that asks. The one before it may be on its thread for a moment longer.
    until("/metrics", |page| page.contains("\nsocketserver_connections 9\n"));
    assert_eq!(get("/").matches(": Serving: ").count(), 2);
    assert!(get("/none").starts_with("HTTP/1.1 404 "));
    assert!(get("\0").starts_with("HTTP/1.1 400 "));
    kv.signal("TERM");
    kv.log.until("stopping in 30s");
    until("/ready", |page| page.starts_with("HTTP/1.1 503 "));
    kv.stops_in_good_order(); // A second signal.
}

#[test]
fn kv_reads_its_limits_again_on_sighup_and_keeps_them_if_it_cannot() {
    let scratch = Directory::new();
    let file = scratch.file("options", "--data=1000\n");
    let arguments = ["127.0.0.1:0", "--options-file", &file, "--log-level", "debug"];
    let Some(mut kv) = start("kv", &arguments) else { return };
    let mut client = kv.connect();
    let mut limit = |kv: &mut Program, options: &str, log: &str, limit: &str| {
        scratch.file("options", options);
        kv.signal("HUP");
        kv.log.until(log);
        write(&mut client, "CONFIG GET maxmemory\r\n");
        expect(&mut client, format!("*2\r\n$9\r\nmaxmemory\r\n${}\r\n{limit}\r\n", limit.len()));
    };
    limit(&mut kv, "--data=2000\n", "has read its limits again", "2000");
    limit(&mut kv, "--data=much\n", "the limits stay as they were: ", "2000");
    // The number of workers stays, so that one still has all buffers.
    limit(&mut kv, "--data=3000\n--buffers=8000000\n--workers=4\n", "has read its limits again", "3000");
    let half = half_a_request(&kv);
    kv.log.until("(buffered_bytes_max = 8000000)");
    drop(half);
    kv.stops_in_good_order();
}

#[test]
fn kv_tells_a_publisher_if_a_worker_does_not_take_its_message() {
    const PATTERNS: usize = 9_000;
    let Some(mut kv) = start("kv", &["127.0.0.1:0", "--workers", "2", "--grace", "0"]) else { return };
    // Each message keeps the worker of this client busy with its patterns.
    let mut busy = kv.connect();
    let patterns: Vec<_> = (0..PATTERNS).map(|n| format!("*a*a*a*{n}")).collect();
    write(&mut busy, "SUBSCRIBE a\r\n");
    patterns.chunks(1_000).for_each(|some| write(&mut busy, format!("PSUBSCRIBE {}\r\n", some.join(" "))));
    (0..6 * (PATTERNS + 1)).for_each(|_| _ = reply_line(&mut busy));
    let begun = Instant::now();
    let mut publisher = loop {
        let mut client = kv.connect();
        write(&mut client, "PUBLISH a x\r\n");
        if reply_line(&mut client) == ":0" {
            break client;
        }
        assert!(begun.elapsed() < DEADLINE, "all clients have the same worker");
    };
    let name = "a".repeat(100);
    let requests = format!("PUBLISH {name} x\r\n").repeat(1_000);
    let reply = loop {
        write(&mut publisher, &requests);
        let replies: Vec<_> = (0..1_000).map(|_| reply_line(&mut publisher)).collect();
        if let Some(error) = replies.into_iter().find(|reply| reply != ":0") {
            break error;
        }
        assert!(begun.elapsed() < DEADLINE, "the queue is never full");
    };
    assert_eq!(reply, "-ERR a worker is too busy for more messages");
    kv.stops_in_good_order();
}

#[test]
fn kv_publishes_to_the_clients_of_all_workers() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0", "--workers", "3"]) else { return };
    let mut clients: Vec<_> = (0..24).map(|_| kv.connect()).collect();
    for client in &mut clients {
        write(client, "SUBSCRIBE news\r\n");
        expect(client, "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    }
    let mut publisher = kv.connect();
    write(&mut publisher, "SET key value\r\nPUBLISH news hello\r\n");
    expect(&mut publisher, "+OK\r\n:");
    clients.iter_mut().for_each(|client| expect(client, "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n"));
    // The data is that of all workers.
    for _ in 0..8 {
        let mut client = kv.connect();
        write(&mut client, "GET key\r\n");
        expect(&mut client, "$5\r\nvalue\r\n");
    }
    kv.stops_in_good_order();
}
