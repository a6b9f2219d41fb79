//! Servers on threads that echo, or do wrong in one way, for the tests of loads.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use super::Watch;
use crate::job::{Address, Transport};

/// What a server does for each client.
#[derive(Clone, Copy, Debug)]
pub(super) enum Behaviour {
    Echo,
    /// Sends back what came first, and closes.
    EchoOnce,
    /// As `EchoOnce`, with a byte too many.
    EchoOnceAndMore,
    /// Changes one byte.
    Corrupt {
        at: usize,
    },
    /// Sends back so many bytes and closes.
    CloseAfter {
        bytes: usize,
    },
    /// Sends back so many bytes, and then reads on in silence.
    MuteAfter {
        bytes: usize,
    },
    /// Sends back so many bytes, and the others when released.
    Stall {
        at: usize,
    },
}

/// A server, whose threads last as long as the tests.
pub(super) struct Server {
    address: Address,
    gate: Arc<Gate>,
}

/// Opened once, for all that wait or will.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    /// Longer than any test would be an error of the test.
    fn pass(&self) {
        let open = self.open.lock().unwrap();
        let _ = self.opened.wait_timeout_while(open, Duration::from_secs(60), |open| !*open).unwrap();
    }
}

impl Server {
    pub(super) fn start(transport: Transport, behaviour: Behaviour) -> Self {
        let gate = Arc::new(Gate::default());
        let address = match transport {
            Transport::Tcp => {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let address = listener.local_addr().unwrap();
                let gate = gate.clone();
                thread::spawn(move || {
                    for client in listener.incoming() {
                        let client = client.unwrap();
                        client.set_nodelay(true).unwrap();
                        let gate = gate.clone();
                        thread::spawn(move || behaviour.serve(client, &gate));
                    }
                });
                Address::Tcp(address)
            }
            Transport::Unix => {
                let path = socket_path();
                let listener = UnixListener::bind(&path).unwrap();
                let gate = gate.clone();
                thread::spawn(move || {
                    for client in listener.incoming() {
                        let client = client.unwrap();
                        let gate = gate.clone();
                        thread::spawn(move || behaviour.serve(client, &gate));
                    }
                });
                Address::Unix(path)
            }
            Transport::Udp => unreachable!("datagrams have servers of their own"),
        };
        Server { address, gate }
    }

    /// Datagrams are answered by what `answers` makes of them.
    pub(super) fn datagrams(mut answers: impl FnMut(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = Address::Udp(socket.local_addr().unwrap());
        thread::spawn(move || {
            let mut buffer = [0; 65_536];
            loop {
                let (length, sender) = socket.recv_from(&mut buffer).unwrap();
                for answer in answers(&buffer[..length]) {
                    // The load may have ended.
                    let _ = socket.send_to(&answer, sender);
                }
            }
        });
        Server { address, gate: Arc::default() }
    }

    /// Where nobody listens.
    pub(super) fn nobody() -> Address {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Address::Tcp(listener.local_addr().unwrap())
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.gate.open();
        if let Address::Unix(path) = &self.address {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn socket_path() -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("measure-{}-{number}", std::process::id()))
}

impl Behaviour {
    fn serve(self, mut client: impl Read + Write, gate: &Gate) {
        let mut buffer = vec![0; 65_536];
        let mut position = 0;
        loop {
            let length = match client.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            let bytes = &mut buffer[..length];
            // How many of them come before the place where something happens.
            let before = |place: usize| place.saturating_sub(position).min(length);
            let sent = match self {
                Behaviour::Echo | Behaviour::EchoOnce => client.write_all(bytes),
                Behaviour::EchoOnceAndMore => client.write_all(bytes).and_then(|()| client.write_all(b"!")),
                Behaviour::Corrupt { at } => {
                    if (position..position + length).contains(&at) {
                        bytes[at - position] ^= 1;
                    }
                    client.write_all(bytes)
                }
                Behaviour::CloseAfter { bytes: place } | Behaviour::MuteAfter { bytes: place } => {
                    client.write_all(&bytes[..before(place)])
                }
                Behaviour::Stall { at } => {
                    let (now, later) = bytes.split_at(before(at));
                    client.write_all(now).and_then(|()| {
                        if !later.is_empty() {
                            gate.pass();
                        }
                        client.write_all(later)
                    })
                }
            };
            position += length;
            let close = match self {
                Behaviour::EchoOnce | Behaviour::EchoOnceAndMore => true,
                Behaviour::CloseAfter { bytes } => position >= bytes,
                _ => false,
            };
            if close || sent.is_err() {
                return;
            }
        }
    }
}

/// A watch that remembers, and perhaps releases a server that stalls.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) begun: usize,
    pub(super) ended: usize,
    pub(super) shares: Vec<f64>,
    release: Option<(Arc<Gate>, f64)>,
}

impl Seen {
    /// Releases `server` when `share` of the load is done.
    pub(super) fn releasing(server: &Server, share: f64) -> Self {
        Seen { release: Some((server.gate.clone(), share)), ..Seen::default() }
    }
}

impl Watch for Seen {
    fn begun(&mut self) {
        self.begun += 1;
    }

    fn progress(&mut self, share: f64) {
        assert!(self.begun == 1 && self.ended == 0);
        self.shares.push(share);
        if let Some((gate, after)) = &self.release
            && share >= *after
        {
            gate.open();
        }
    }

    fn ended(&mut self) {
        self.ended += 1;
    }
}
