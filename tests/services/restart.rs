//! kv with two workers, replaced by itself again and again under load: no request fails.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::programs::{DEADLINE, Program, example, kill, start_with};
use crate::{Directory, End};

#[test]
fn kv_with_workers_loses_no_request_while_it_is_replaced() {
    let scratch = Directory::new();
    let path = scratch.path("kv");
    let words = ["127.0.0.1:0", "--unix", &path, "--workers", "2", "--admin", "127.0.0.1:0", "--grace", "5"];
    let Some(mut kv) = start_with("kv", &words, 3) else { return };
    let (address, mut serving) = (kv.address.unwrap(), Serving(kv.pid));
    let (is_over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let over = End(&is_over);
        let mut clients = Vec::new();
        for _ in 0..4 {
            clients.push(scope.spawn(|| requests(|| tcp(address), &is_over, &answered)));
            clients.push(scope.spawn(|| requests(|| unix(Path::new(&path)), &is_over, &answered)));
        }
        for _ in 0..RESTARTS {
            let before = answered.load(Ordering::Relaxed);
            assert!(kill("USR2", serving.0));
            let line = kv.log.until("serves from now on");
            let words: Vec<_> = line.split_whitespace().collect();
            let at = words.iter().position(|word| *word == "process").expect("it has a number");
            serving.0 = words[at + 1].parse().unwrap();
            // The next one is asked when this one has served, so each of them does.
            while answered.load(Ordering::Relaxed) < before + 100 {
                assert!(clients.iter().all(|client| !client.is_finished()), "a client has failed");
                std::thread::yield_now();
            }
        }
        drop(over);
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
    assert_eq!(kv.exit().code(), Some(0));
    eprintln!("{} requests", answered.load(Ordering::Relaxed));
    assert!(kill("TERM", serving.0));
    let last: Vec<_> = kv.log.lines().collect(); // Until the last process has ended.
    assert!(!last.iter().any(|line| line.contains("ERROR")), "{last:?}");
    assert!(!Path::new(&path).exists());
}

#[test]
fn a_stop_of_kv_is_told_to_the_supervisor_once_and_refuses_a_restart() {
    let Some(mut command) = example("kv") else { return };
    let scratch = Directory::new();
    let supervisor = UnixDatagram::bind(scratch.at("notify")).unwrap();
    supervisor.set_read_timeout(Some(DEADLINE)).unwrap();
    command.args(["127.0.0.1:0", "--workers", "3", "--drain-delay", "2"]).env("NOTIFY_SOCKET", scratch.at("notify"));
    let mut kv = Program::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let told = || {
        let mut words = [0; 200];
        let length = supervisor.recv(&mut words).unwrap();
        String::from_utf8_lossy(&words[..length]).into_owned()
    };
    assert!(told().starts_with("READY=1"));
    kv.listens(1);
    kv.signal("HUP");
    assert!(told().starts_with("RELOADING=1"));
    assert!(told().starts_with("READY=1"));
    kv.signal("TERM");
    assert!(told().starts_with("STOPPING=1"));
    kv.signal("USR2");
    kv.log.until("cannot restart: the reactor is stopping");
    assert_eq!(kv.exit().code(), Some(0));
    supervisor.set_nonblocking(true).unwrap();
    assert!(supervisor.recv(&mut [0]).is_err(), "it was told more");
}

/// Each on a connection of its own, answered at the first attempt.
fn requests<C: Read + Write>(connect: impl Fn() -> std::io::Result<C>, is_over: &AtomicBool, answered: &AtomicUsize) {
    while !is_over.load(Ordering::Relaxed) {
        let mut reply = Vec::new();
        let asked = connect().and_then(|mut client| {
            client.write_all(b"ECHO hello\r\nQUIT\r\n")?;
            client.read_to_end(&mut reply)
        });
        let said = String::from_utf8_lossy(&reply);
        assert!(asked.is_ok() && said == "$5\r\nhello\r\n+OK\r\n", "{asked:?}, {said:?}");
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

fn tcp(address: SocketAddr) -> std::io::Result<TcpStream> {
    let client = TcpStream::connect(address)?;
    client.set_read_timeout(Some(DEADLINE))?;
    Ok(client)
}

fn unix(path: &Path) -> std::io::Result<UnixStream> {
    let client = UnixStream::connect(path)?;
    client.set_read_timeout(Some(DEADLINE))?;
    Ok(client)
}

/// The process that serves. It is killed if the test fails.
struct Serving(u32);

impl Drop for Serving {
    fn drop(&mut self) {
        if std::thread::panicking() {
            kill("KILL", self.0);
        }
    }
}

const RESTARTS: usize = 20;
