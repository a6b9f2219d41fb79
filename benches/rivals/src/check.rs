//! Whether a server does its job at all: before it is measured, some clients look at all that it sends back, and at how
//! their connections end. A figure of a server that fails here would mean nothing.

use crate::job::Job;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

/// For each wait.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a client does not read, so that the server cannot send.
const SILENCE: Duration = Duration::from_millis(50);
/// More than the kernel's buffers hold.
const LONG: usize = 8 << 20;

/// Checks whether the server at `address` does `job`.
///
/// # Errors
///
/// What it did instead.
pub(crate) fn conforms(address: SocketAddr, job: Job) -> Result<(), String> {
    let result = match job {
        Job::Echo => connect(address)
            .and_then(|client| sizes(&client))
            .and_then(|()| whole(&connect(address)?, Duration::ZERO, 1 << 20, 10_007))
            .and_then(|()| whole(&connect(address)?, SILENCE, LONG, LONG)),
        Job::EchoOnce => connect(address).and_then(|client| closed_after_the_answer(&client)),
        Job::Datagrams => datagrams(address),
    };
    result.map_err(|error| format!("{address} does not do the job {job}: {error}"))
}

/// Messages of several lengths over one connection.
fn sizes(mut client: &TcpStream) -> io::Result<()> {
    [1, 64, 64 << 10].into_iter().try_for_each(|length| {
        client.write_all(&bytes(length))?;
        expect(client, &bytes(length))
    })
}

/// A client that sends `length` bytes in pieces, ends its side, and reads nothing before `silence` is over. It is owed
/// every byte, and then the end.
fn whole(client: &TcpStream, silence: Duration, length: usize, piece: usize) -> io::Result<()> {
    let message = bytes(length);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            message.chunks(piece).try_for_each(|piece| { client }.write_all(piece))?;
            client.shutdown(Shutdown::Write)
        });
        thread::sleep(silence);
        let received = expect(client, &message).and_then(|()| expect_end(client));
        if received.is_err() {
            // Otherwise the sender might wait for long.
            let _ = client.shutdown(Shutdown::Both);
        }
        let sent = sender.join().unwrap_or_else(|_| Err(io::Error::other("the sender panicked")));
        received.and(sent)
    })
}

/// A client that leaves closing to the server.
fn closed_after_the_answer(mut client: &TcpStream) -> io::Result<()> {
    client.write_all(&bytes(64))?;
    expect(client, &bytes(64))?;
    expect_end(client)
}

/// Two clients, each of which gets its own back.
fn datagrams(server: SocketAddr) -> io::Result<()> {
    let client = || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        io::Result::Ok(socket)
    };
    let clients = [client()?, client()?];
    for length in [1, 1_400] {
        let messages = [bytes(length), bytes(length).into_iter().map(|byte| !byte).collect()];
        for (client, message) in clients.iter().zip(&messages) {
            client.send(message)?;
        }
        for (client, message) in clients.iter().zip(&messages) {
            let mut buffer = [0; 2_000];
            let received = client.recv(&mut buffer)?;
            if buffer[..received] != message[..] {
                return Err(io::Error::other(format!("wrong bytes in a datagram of {length}")));
            }
        }
    }
    Ok(())
}

/// They do not repeat themselves at any power of two.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|place| (place % 251) as u8).collect()
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let client = TcpStream::connect_timeout(&address, PATIENCE)?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    Ok(client)
}

/// Reads as many bytes as `message` has.
fn expect(mut client: &TcpStream, message: &[u8]) -> io::Result<()> {
    let mut received = vec![0; message.len()];
    client.read_exact(&mut received).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => io::Error::other("closed too early"),
        _ => error,
    })?;
    if received == message { Ok(()) } else { Err(io::Error::other("wrong bytes")) }
}

fn expect_end(mut client: &TcpStream) -> io::Result<()> {
    match client.read(&mut [0; 64])? {
        0 => Ok(()),
        length => Err(io::Error::other(format!("{length} bytes more than were sent"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::testing::{Behaviour, nobody, server};

    #[test]
    fn servers_that_do_their_job_conform() {
        assert_eq!(conforms(server(Behaviour::EchoOnce), Job::EchoOnce), Ok(()));
        assert_eq!(conforms(server(Behaviour::Echo), Job::Echo), Ok(()));
    }

    #[test]
    fn each_fault_is_noticed() {
        let faults = [
            (Behaviour::Corrupt(30), Job::Echo, "wrong bytes"),
            (Behaviour::CloseAfter(63), Job::EchoOnce, "closed too early"),
            (Behaviour::EchoOnceAndMore, Job::EchoOnce, "1 bytes more"),
            (Behaviour::Echo, Job::EchoOnce, "the job echo-once"),
        ];
        for (behaviour, job, what) in faults {
            let error = conforms(server(behaviour), job).expect_err(what);
            assert!(error.contains(what), "{error}");
        }
        let error = conforms(nobody(), Job::Echo).expect_err("nothing listens");
        assert!(error.contains("refused"), "{error}");
    }
}
