//! tokio-rustls: a task for each connection, with a buffer of 8 KiB, and one thread.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

pub(crate) fn serve(address: SocketAddr, config: Arc<ServerConfig>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let acceptor = TlsAcceptor::from(config);
        let listener = TcpListener::bind(address).await.expect("the port is free");
        loop {
            let (socket, _) = listener.accept().await.expect("there are descriptors");
            tokio::spawn(echo(socket, acceptor.clone()));
        }
    });
}

/// The result is ignored: a connection that fails is closed.
async fn echo(socket: TcpStream, acceptor: TlsAcceptor) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut stream = acceptor.accept(socket).await?;
    let mut buffer = vec![0; 8 << 10];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..length]).await?;
        stream.flush().await?;
    }
}
