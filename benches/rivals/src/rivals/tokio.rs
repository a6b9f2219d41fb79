//! tokio, as its documentation writes an echo server: a task for each connection, with a buffer of its own. All tasks
//! run on one thread, unless several are asked for.

use super::Served;
use super::listen::PAUSE;
use crate::job::Job;
use std::io;
use std::net;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::{Builder, Runtime};

pub(crate) fn streams(listener: net::TcpListener, job: Job) -> Served {
    accept(&runtime()?, listener, job)
}

/// On its multi-threaded runtime.
pub(crate) fn echo_on_threads(listener: net::TcpListener, threads: usize) -> Served {
    accept(&Builder::new_multi_thread().worker_threads(threads).enable_all().build()?, listener, Job::Echo)
}

fn accept(runtime: &Runtime, listener: net::TcpListener, job: Job) -> Served {
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(echo(stream, job))),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    })
}

pub(crate) fn datagrams(socket: net::UdpSocket) -> Served {
    runtime()?.block_on(async {
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

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// The result is ignored: a connection that fails is closed.
async fn echo(mut stream: TcpStream, job: Job) -> io::Result<()> {
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
