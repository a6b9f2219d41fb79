//! Files from memory over HTTP/1.1, with hyper on tokio's runtime of one thread.

use super::Served;
use super::listen;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// Serves the files `small` and `large` of a directory as `/files/NAME`.
pub(crate) fn files(at: SocketAddr, directory: &Path) -> Served {
    let read =
        |name: &str| std::io::Result::Ok((format!("/files/{name}"), Bytes::from(std::fs::read(directory.join(name))?)));
    let files = Arc::new(HashMap::from([read("small")?, read("large")?]));
    let listener = listen::streams(at)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let Ok((socket, _)) = listener.accept().await else { continue };
            socket.set_nodelay(true)?;
            let files = Arc::clone(&files);
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let response = answer(&files, &request);
                    async { Ok::<_, Infallible>(response) }
                });
                let mut http = hyper::server::conn::http1::Builder::new();
                // An error is the end of one connection.
                let _ = http.pipeline_flush(true).serve_connection(TokioIo::new(socket), service).await;
            });
        }
    })
}

fn answer(files: &HashMap<String, Bytes>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    match files.get(request.uri().path()) {
        Some(file) => Response::new(Full::new(file.clone())),
        None => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}
