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
    ("SET e 1 EX 0\r\n", "-ERR invalid expire time in 'set' command\r\n"),
    ("SET e 1 EX a\r\n", "-ERR value is not an integer or out of range\r\n"),
    ("SET e 1 EX 9223372036854775807\r\n", "-ERR value is not an integer or out of range\r\n"),
    ("SET e 1 SOON\r\n", "-ERR syntax error\r\n"),
    ("MSET b 1 c 2\r\nDEL a b none\r\nEXISTS a b c\r\n", "+OK\r\n:2\r\n:1\r\n"),
    ("INCR n\r\nINCRBY n 41\r\nDECR n\r\nGET n\r\n", ":1\r\n:42\r\n:41\r\n$2\r\n41\r\n"),
    ("SET n 9223372036854775807\r\nINCR n\r\n", "+OK\r\n-ERR increment or decrement would overflow\r\n"),
    ("SET n +1\r\nINCR n\r\nGET n\r\n", "+OK\r\n-ERR value is not an integer or out of range\r\n$2\r\n+1\r\n"),
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
];

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
    kv.stops_in_good_order();
}

#[test]
fn kv_names_protocol_errors_like_redis_and_closes() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0"]) else { return };
    for (request, error) in [
        ("*x\r\n", "invalid multibulk length"),
        ("*1048577\r\n", "invalid multibulk length"),
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
fn kv_stores_no_more_than_it_may_and_counts_what_goes() {
    let Some(mut kv) = start("kv", &["127.0.0.1:0", "--data", "100000"]) else { return };
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
    let item = "x".repeat(1_000);
    let mut stored = 0;
    loop {
        write(&mut client, format!("RPUSH l {item}\r\n"));
        match reply_line(&mut client) {
            error if error.starts_with('-') => {
                assert_eq!(error, "-OOM command not allowed when used memory > 'maxmemory'.");
                break;
            }
            _ => stored += 1,
        }
    }
    assert!((90..110).contains(&stored), "{stored}");
    write(&mut client, "SET a b\r\nLPOP l\r\nLLEN l\r\n");
    assert!(reply_line(&mut client).starts_with("-OOM"));
    expect(&mut client, format!("$1000\r\n{item}\r\n:{}\r\n", stored - 1));
    write(&mut client, "DEL l\r\n");
    expect(&mut client, ":1\r\n");
    assert_eq!(used(&mut client), 0);
    // Whatever is done to values, nothing of them is counted in the end.
    let commands = "SET a 1\nSET a 22\nINCR a\nINCR n\nSET e x EX 100\nMSET a 1 b 2 a 3\nHSET h a 1 b 2\nHSET h a 333\nHDEL h b z\n\
        SADD s a b c a\nSREM s a z\nSPOP s\nLPUSH l a b c\nRPOP l\nLPOP l\nSET l x\nHSET h2 a 1\nHDEL h2 a\nSET s text\nSPOP none\n\
        HGETALL none\nEXISTS none\nEXISTS h2";
    let count = commands.lines().count();
    write(&mut client, commands.replace('\n', "\r\n") + "\r\nDBSIZE\r\n");
    let mut replies = String::new();
    while !replies.ends_with(":7\r\n") {
        replies += &(reply_line(&mut client) + "\r\n");
    }
    assert!(replies.lines().count() >= count && !replies.contains("-ERR"), "{replies}");
    assert!(used(&mut client) > 0);
    write(&mut client, "DEL a n e b h s l h2\r\n");
    reply_line(&mut client);
    assert_eq!(used(&mut client), 0);
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
    write(&mut one, format!("CLIENT KILL {}\r\n", addresses[0]));
    assert_eq!(rest(&mut one), b"+OK\r\n", "it kills itself");
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
