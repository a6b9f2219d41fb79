//! tokio, as its documentation writes an echo server: a task for each connection, with a buffer of its own.

use crate::Served;
use crate::job::Job;
use crate::listen::{self, PAUSE};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket, UnixListener};
use tokio::runtime::{Builder, Runtime};

pub(crate) fn current_thread() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// As many threads as there are CPUs that the process may use, which is tokio's default.
pub(crate) fn multi_thread() -> io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().build()
}

pub(crate) fn tcp(runtime: Runtime, at: SocketAddr, job: Job) -> Served {
    let listener = listen::tcp(at)?;
    listener.set_nonblocking(true)?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            spawn(listener.accept().await, job).await;
        }
    })
}

pub(crate) fn unix(runtime: Runtime, at: &Path, job: Job) -> Served {
    let listener = listen::unix(at)?;
    listener.set_nonblocking(true)?;
    runtime.block_on(async {
        let listener = UnixListener::from_std(listener)?;
        loop {
            spawn(listener.accept().await, job).await;
        }
    })
}

pub(crate) fn udp(at: SocketAddr) -> Served {
    let socket = listen::udp(at)?;
    socket.set_nonblocking(true)?;
    current_thread()?.block_on(async {
        let socket = UdpSocket::from_std(socket)?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            // An error is about one peer, not about the socket.
            if let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
                let _ = socket.send_to(&buffer[..length], peer).await;
            }
        }
    })
}

/// Starts the task of a connection; if there is none, waits a little before the next accept.
async fn spawn<S, A>(accepted: io::Result<(S, A)>, job: Job)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match accepted {
        Ok((stream, _)) => drop(tokio::spawn(echo(stream, job))),
        Err(_) => tokio::time::sleep(PAUSE).await,
    }
}

/// Its result is nobody's: a connection that fails is closed.
async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin, job: Job) -> io::Result<()> {
    let mut buffer = vec![0; 8 << 10];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length]).await?;
        if job == Job::EchoOnce {
            return Ok(());
        }
    }
}
