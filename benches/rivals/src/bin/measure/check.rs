//! Whether a server does its job: a few clients that compare every byte, and see how their connections end. A figure of
//! a server that fails here would mean nothing.

use crate::job::{Address, Job};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

/// For the whole of it, and so for each wait. Enough for a server that runs under a tool.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a client does not read, so that the server cannot send.
const SILENCE: Duration = Duration::from_millis(50);
/// More than the kernel's buffers take off a server's hands.
const LONG: usize = 8 << 20;

/// Whether the server at `address` does `job`. Without `half_close` it may drop what it has not sent yet when a client ends
/// its side, so that the client ends only when it has everything.
///
/// # Errors
///
/// What it did instead.
pub(crate) fn conforms(address: &Address, job: Job, half_close: bool) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    let connect = || Client::connect(address, deadline);
    match (address, job) {
        (Address::Udp(server), _) => datagrams(*server).map_err(|error| format!("datagrams: {error}")),
        (_, Job::Echo) => {
            connect().and_then(sizes)?;
            connect().and_then(|client| whole(client, half_close, Duration::ZERO, 1 << 20, 10_007))?;
            connect().and_then(|client| whole(client, half_close, SILENCE, LONG, LONG))
        }
        (_, Job::EchoOnce) => connect().and_then(closed_after_the_answer),
    }
}

/// Messages of several lengths over one connection.
fn sizes(mut client: Client) -> Result<(), String> {
    for length in [1, 64, 64 << 10] {
        let message = bytes(length);
        client.exchange(&message).map_err(|error| format!("echo of {length} bytes: {error}"))?;
    }
    Ok(())
}

/// A client that sends `length` bytes in pieces, and reads nothing before `silence` is over. It ends its side when it has
/// sent everything or, without `half_close`, when it has everything back. It is owed every byte, and then the end.
fn whole(client: Client, half_close: bool, silence: Duration, length: usize, piece: usize) -> Result<(), String> {
    let message = bytes(length);
    let result = thread::scope(|scope| {
        let sender = scope.spawn(|| -> Result<(), String> {
            for piece in message.chunks(piece) {
                client.send(piece)?;
            }
            if half_close { client.end() } else { Ok(()) }
        });
        thread::sleep(silence);
        let mut received = client.expect(&message);
        if !half_close {
            received = received.and_then(|()| client.end());
        }
        let received = received.and_then(|()| client.expect_end());
        if received.is_err() {
            // Otherwise the sender might wait until its deadline.
            let _ = client.socket.shutdown(Shutdown::Both);
        }
        let sent = sender.join().unwrap_or_else(|_| Err("the sender panicked".to_owned()));
        received.and(sent)
    });
    result.map_err(|error| format!("{length} bytes, then the end of input: {error}"))
}

/// A client that leaves it to the server to close.
fn closed_after_the_answer(mut client: Client) -> Result<(), String> {
    client
        .exchange(&bytes(64))
        .and_then(|()| client.expect_end())
        .map_err(|error| format!("one answer, then the end of output: {error}"))
}

/// Two clients, each of which gets its own back.
fn datagrams(server: SocketAddr) -> Result<(), String> {
    let client = || {
        let any = if server.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(PATIENCE / 6))?;
        std::io::Result::Ok(socket)
    };
    let error = |error: std::io::Error| format!("{server}: {error}");
    let clients = [client().map_err(error)?, client().map_err(error)?];
    let mut buffer = [0; 2_000];
    for length in [1, 1_400] {
        let messages = [bytes(length), bytes(length).into_iter().map(|byte| !byte).collect()];
        for (client, message) in clients.iter().zip(&messages) {
            client.send(message).map_err(error)?;
        }
        for (client, message) in clients.iter().zip(&messages) {
            let received = client.recv(&mut buffer).map_err(error)?;
            if buffer[..received] != message[..] {
                return Err(format!("{received} bytes came back that are not the {length} bytes sent"));
            }
        }
    }
    Ok(())
}

/// Bytes that do not repeat themselves at any power of two.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|place| (place % 251) as u8).collect()
}

struct Client {
    socket: Socket,
    deadline: Instant,
}

impl Client {
    fn connect(address: &Address, deadline: Instant) -> Result<Client, String> {
        let connect = || {
            let address = match address {
                Address::Tcp(address) | Address::Udp(address) => SockAddr::from(*address),
                Address::Unix(path) => SockAddr::unix(path)?,
            };
            let socket = Socket::new(Domain::from(i32::from(address.family())), Type::STREAM, None)?;
            socket.connect_timeout(&address, PATIENCE / 6)?;
            // A wait ends well before the whole, so that whoever waits looks at the deadline.
            socket.set_read_timeout(Some(PATIENCE / 6))?;
            socket.set_write_timeout(Some(PATIENCE / 6))?;
            Ok(socket)
        };
        let socket = connect().map_err(|error: std::io::Error| format!("connect to {address}: {error}"))?;
        Ok(Client { socket, deadline })
    }

    fn exchange(&mut self, message: &[u8]) -> Result<(), String> {
        self.send(message)?;
        self.expect(message)
    }

    fn send(&self, mut message: &[u8]) -> Result<(), String> {
        while !message.is_empty() {
            self.check_deadline()?;
            match (&self.socket).write(message) {
                Ok(sent) => message = &message[sent..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("send: {error}")),
            }
        }
        Ok(())
    }

    fn end(&self) -> Result<(), String> {
        self.socket.shutdown(Shutdown::Write).map_err(|error| format!("shutdown: {error}"))
    }

    /// Reads as many bytes as `message` has.
    fn expect(&self, message: &[u8]) -> Result<(), String> {
        let mut buffer = vec![0; 64 << 10];
        let mut received = 0;
        while received < message.len() {
            let room = buffer.len().min(message.len() - received);
            let length = self.receive(&mut buffer[..room])?;
            if length == 0 {
                return Err(format!("closed after {received} of {} bytes", message.len()));
            }
            if buffer[..length] != message[received..received + length] {
                return Err(format!("wrong bytes after {received}"));
            }
            received += length;
        }
        Ok(())
    }

    fn expect_end(&self) -> Result<(), String> {
        match self.receive(&mut [0; 64])? {
            0 => Ok(()),
            length => Err(format!("{length} bytes more than were sent")),
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<usize, String> {
        loop {
            self.check_deadline()?;
            match (&self.socket).read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(format!("no answer within {} s", (PATIENCE / 6).as_secs()));
                }
                result => return result.map_err(|error| format!("receive: {error}")),
            }
        }
    }

    fn check_deadline(&self) -> Result<(), String> {
        if Instant::now() < self.deadline {
            return Ok(());
        }
        Err(format!("not done within {} s", PATIENCE.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc;

    /// A server that hands each connection to `serve`, one after the other, until nobody comes any more.
    fn server(serve: fn(TcpStream)) -> Address {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || listener.incoming().take(3).flatten().for_each(serve));
        Address::Tcp(address)
    }

    fn echo(mut stream: TcpStream) {
        let mut buffer = [0; 4_096];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
    }

    #[test]
    fn an_echo_server_conforms() {
        assert_eq!(conforms(&server(echo), Job::Echo, true), Ok(()));
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let address = server(|mut stream| {
            let mut buffer = [0; 4_096];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                buffer[length - 1] ^= u8::from(length > 1);
                let _ = stream.write_all(&buffer[..length]);
            }
        });
        let error = conforms(&address, Job::Echo, true).unwrap_err();
        assert!(error.contains("64 bytes") && error.contains("wrong bytes"), "{error}");
    }

    #[test]
    fn closing_without_sending_the_rest_is_noticed() {
        let address = server(|mut stream| {
            let mut buffer = [0; 4_096];
            let mut total = 0;
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                total += length;
                if total <= 1 << 19 {
                    let _ = stream.write_all(&buffer[..length]);
                }
            }
        });
        let error = conforms(&address, Job::Echo, true).unwrap_err();
        assert!(error.contains("closed after"), "{error}");
    }

    #[test]
    fn a_server_that_drops_the_rest_conforms_without_half_close() {
        let address = server(|stream| {
            // Some bytes of the input are always on their way through here when its end is seen.
            let (sender, receiver) = mpsc::channel::<Vec<u8>>();
            let mut output = stream.try_clone().unwrap();
            let writer = thread::spawn(move || {
                for bytes in receiver {
                    thread::sleep(Duration::from_micros(100));
                    if output.write_all(&bytes).is_err() {
                        return;
                    }
                }
            });
            let mut buffer = vec![0; 64 << 10];
            while let Ok(length @ 1..) = (&stream).read(&mut buffer) {
                let _ = sender.send(buffer[..length].to_vec());
            }
            let _ = stream.shutdown(Shutdown::Both);
            drop(sender);
            let _ = writer.join();
        });
        assert_eq!(conforms(&address, Job::Echo, false), Ok(()));
    }

    #[test]
    fn echo_once_has_to_close() {
        let once = server(|mut stream| {
            let mut buffer = [0; 64];
            if let Ok(length) = stream.read(&mut buffer) {
                let _ = stream.write_all(&buffer[..length]);
            }
        });
        assert_eq!(conforms(&once, Job::EchoOnce, true), Ok(()));
    }

    #[test]
    fn nobody_there_is_an_error_with_the_address() {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let error = conforms(&Address::Tcp(address), Job::Echo, true).unwrap_err();
        assert!(error.contains(&address.to_string()), "{error}");
    }
}
