//! A client that waits: rustls' own.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

pub(crate) fn session(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("localhost").expect("it is a name");
    ClientConnection::new(Arc::clone(config), name).expect("the configuration fits")
}

/// Connects, and does the handshake.
pub(crate) fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Stream> {
    let mut stream = StreamOwned::new(session(config), socket(address)?);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

pub(crate) fn socket(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Sends so many bytes, and reads as many.
pub(crate) fn exchange(stream: &mut (impl Read + Write), bytes: usize) -> io::Result<()> {
    let bytes = vec![b'x'; bytes];
    stream.write_all(&bytes)?;
    read(stream, &bytes)
}

/// 64 KiB in each direction, so many times, with two of them on their way, so that the server has always something to
/// do. They have room in the buffers of the sockets.
pub(crate) fn exchange_many(stream: &mut (impl Read + Write), times: u32) -> io::Result<()> {
    let bytes = vec![b'x'; 64 << 10];
    stream.write_all(&bytes)?;
    for _ in 1..times {
        stream.write_all(&bytes)?;
        read(stream, &bytes)?;
    }
    read(stream, &bytes)
}

fn read(stream: &mut impl Read, expected: &[u8]) -> io::Result<()> {
    let mut back = vec![0; expected.len()];
    stream.read_exact(&mut back)?;
    if back == expected { Ok(()) } else { Err(io::Error::other("the echo has other bytes")) }
}

/// Sends close_notify, and waits for the end. Not every server sends its own close_notify, as RFC 8446 demands.
pub(crate) fn close(mut stream: Stream) -> io::Result<()> {
    stream.conn.send_close_notify();
    stream.conn.complete_io(&mut stream.sock)?;
    match stream.read_to_end(&mut Vec::new()) {
        Err(error) if error.kind() != ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(()),
    }
}

const PATIENCE: Duration = Duration::from_secs(30);
