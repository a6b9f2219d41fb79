//! The raw loop: mio and rustls' unbuffered API, with buffers that it keeps, and nothing else. It serves one connection
//! after the other.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, InsufficientSizeError, UnbufferedStatus};

pub(crate) fn serve(address: SocketAddr, config: &Arc<ServerConfig>) {
    let mut listener = TcpListener::bind(address).expect("the port is free");
    let (mut poll, mut events) = (Poll::new().expect("a selector"), Events::with_capacity(16));
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE).expect("it can be registered");
    let (mut current, mut buffers) = (None, Buffers::default());
    loop {
        poll.poll(&mut events, None).expect("it polls");
        for event in &events {
            if event.token() == LISTENER {
                while let Some(mut connection) = Connection::accept(&listener, config) {
                    let registered = poll.registry().register(&mut connection.socket, CONNECTION, Interest::READABLE);
                    registered.expect("it can be registered");
                    current = Some(connection);
                }
            } else if let Some(connection) = &mut current {
                // Until nothing is left to read, or the connection has ended.
                let ended = loop {
                    match connection.echo(&mut buffers) {
                        Some(true) => {}
                        Some(false) => break true,
                        None => break false,
                    }
                };
                if ended {
                    current = None;
                }
            }
        }
    }
}

pub(crate) struct Connection {
    socket: TcpStream,
    session: UnbufferedServerConnection,
    /// Bytes of a record that is not complete, at the front of the input.
    carried: usize,
}

/// They are shared by all connections.
pub(crate) struct Buffers {
    input: Vec<u8>,
    plain: Vec<u8>,
    output: Vec<u8>,
}

impl Default for Buffers {
    fn default() -> Self {
        Buffers { input: vec![0; 256 << 10], plain: Vec::new(), output: vec![0; 256 << 10] }
    }
}

impl Connection {
    /// `None`: no client waits.
    pub(crate) fn accept(listener: &TcpListener, config: &Arc<ServerConfig>) -> Option<Self> {
        let (socket, _) = listener.accept().ok()?;
        socket.set_nodelay(true).expect("it is a TCP socket");
        let session = UnbufferedServerConnection::new(Arc::clone(config)).expect("the configuration fits");
        Some(Connection { socket, session, carried: 0 })
    }

    /// Reads once, and answers. Returns whether the connection goes on, and `None` if there is nothing to read.
    pub(crate) fn echo(&mut self, buffers: &mut Buffers) -> Option<bool> {
        let Buffers { input, plain, output } = buffers;
        let filled = match self.socket.read(&mut input[self.carried..self.carried + (64 << 10)]) {
            Ok(0) => return Some(false),
            Ok(n) => self.carried + n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(_) => return Some(false),
        };
        let (mut used, mut sealed, mut is_closed) = (0, 0, false);
        plain.clear();
        loop {
            let UnbufferedStatus { discard, state } = self.session.process_tls_records(&mut input[used..filled]);
            let mut is_done = false;
            match state.expect("the client keeps to the protocol") {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        plain.extend_from_slice(record.expect("it can be decrypted").payload);
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => loop {
                    match data.encode(&mut output[sealed..]) {
                        Ok(n) => break sealed += n,
                        Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
                            output.resize(sealed + required_size, 0);
                        }
                        Err(error) => panic!("{error}"),
                    }
                },
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::WriteTraffic(mut traffic) => {
                    if !plain.is_empty() {
                        sealed += traffic.encrypt(plain, &mut output[sealed..]).expect("there is room");
                    }
                    if is_closed {
                        sealed += traffic.queue_close_notify(&mut output[sealed..]).expect("there is room");
                    }
                    is_done = true;
                }
                ConnectionState::PeerClosed => is_closed = true,
                _ => is_done = true,
            }
            used += discard;
            if is_done {
                break;
            }
        }
        input.copy_within(used..filled, 0);
        self.carried = filled - used;
        send(&mut self.socket, &output[..sealed]);
        Some(!is_closed)
    }
}

/// Tries again at once if there is no room: the client reads.
fn send(socket: &mut TcpStream, mut rest: &[u8]) {
    while !rest.is_empty() {
        match socket.write(rest) {
            Ok(n) => rest = &rest[n..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

const LISTENER: Token = Token(0);
const CONNECTION: Token = Token(1);
