//! The servers that are compared: each echoes under TLS, or terminates TLS in front of a plain echo.

use std::fmt::{self, Display};
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::certificate::Certificate;
use crate::process::Process;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// This crate.
    Socketserver,
    /// Nothing but mio and rustls' unbuffered API.
    Raw,
    TokioRustls,
    Nginx,
    Haproxy,
    Asyncio,
}

impl Contender {
    pub(crate) const ALL: [Contender; 6] = [
        Contender::Socketserver,
        Contender::Raw,
        Contender::TokioRustls,
        Contender::Nginx,
        Contender::Haproxy,
        Contender::Asyncio,
    ];

    /// Whether it needs a connection to the plain echo for each of its own.
    pub(crate) fn is_proxy(self) -> bool {
        matches!(self, Contender::Nginx | Contender::Haproxy)
    }

    /// The program, how it tells its version, and Debian's packages.
    fn program(self) -> Option<(&'static str, &'static str, &'static str)> {
        match self {
            Contender::Nginx => Some(("nginx", "-v", "nginx and libnginx-mod-stream")),
            Contender::Haproxy => Some(("haproxy", "-v", "haproxy")),
            Contender::Asyncio => Some(("python3", "--version", "python3")),
            _ => None,
        }
    }

    /// Starts it once. Returns its version, or why it cannot be measured.
    pub(crate) fn try_out(self, certificate: &Certificate) -> Result<String, String> {
        let Some((program, option, packages)) = self.program() else {
            return Ok("built with this benchmark".to_owned());
        };
        let missing = |why| format!("{why}; Debian has it in {packages}");
        let said = Command::new(program).arg(option).output();
        let said = said.map_err(|error| missing(format!("{program}: {error}")))?;
        self.start(certificate).map_err(missing)?;
        let text =
            String::from_utf8_lossy(if said.stdout.is_empty() { &said.stderr } else { &said.stdout }).into_owned();
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    pub(crate) fn start(self, certificate: &Certificate) -> Result<Server, String> {
        let backend = if self.is_proxy() { Some(Server::own("plain", certificate)?) } else { None };
        let echo = backend.as_ref().map(|echo| echo.address);
        let server =
            Server::listening(&self.to_string(), certificate, |address| self.words(address, echo, certificate))?;
        Ok(Server { _backend: backend.map(Box::new), ..server })
    }

    fn words(
        self,
        address: SocketAddr,
        echo: Option<SocketAddr>,
        certificate: &Certificate,
    ) -> io::Result<Vec<String>> {
        let text = |path: &Path| path.display().to_string();
        let configured = |template: &str| {
            let path = certificate.directory().join(format!("{self}.conf"));
            let filled = template
                .replace("@address@", &address.to_string())
                .replace("@echo@", &echo.expect("a proxy has one").to_string())
                .replace("@directory@", &text(certificate.directory()));
            fs::write(&path, filled).map(|()| text(&path))
        };
        Ok(match self {
            Contender::Nginx => {
                let path = configured(include_str!("servers/nginx.conf"))?;
                ["nginx", "-e", "stderr", "-c", &path].map(str::to_owned).to_vec()
            }
            Contender::Haproxy => {
                let path = configured(include_str!("servers/haproxy.cfg"))?;
                ["haproxy", "-db", "-f", &path].map(str::to_owned).to_vec()
            }
            Contender::Asyncio => vec![
                "python3".to_owned(),
                concat!(env!("CARGO_MANIFEST_DIR"), "/servers/asyncio_tls.py").to_owned(),
                address.to_string(),
                text(&certificate.chain()),
                text(&certificate.key()),
            ],
            own => own_words(&own.to_string(), address, certificate),
        })
    }
}

impl Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Contender::Socketserver => "socketserver",
            Contender::Raw => "raw",
            Contender::TokioRustls => "tokio-rustls",
            Contender::Nginx => "nginx",
            Contender::Haproxy => "haproxy",
            Contender::Asyncio => "asyncio",
        })
    }
}

/// A server that listens. It ends when this is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) process: Process,
    /// The plain echo behind a proxy, which is not measured.
    _backend: Option<Box<Server>>,
}

impl Server {
    /// A server that is part of this program: see `serve`.
    pub(crate) fn own(kind: &str, certificate: &Certificate) -> Result<Self, String> {
        Server::listening(kind, certificate, |address| Ok(own_words(kind, address, certificate)))
    }

    /// Starts a program at a port that is free now, and waits until it listens.
    fn listening(
        name: &str,
        certificate: &Certificate,
        words: impl FnOnce(SocketAddr) -> io::Result<Vec<String>>,
    ) -> Result<Self, String> {
        let failed = |error: io::Error| format!("{name}: {error}");
        let log = certificate.directory().join(format!("{name}.log"));
        let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).map_err(failed)?;
        let words = words(address).map_err(failed)?;
        let process = fs::File::create(&log).and_then(|log| Process::start(&words, log)).map_err(failed)?;
        let mut server = Server { address, process, _backend: None };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = server.process.ended().map_err(failed)?;
            if ended.is_some() || begun.elapsed() > PATIENCE {
                let said = fs::read_to_string(&log).unwrap_or_default();
                return Err(format!("{name} does not listen: {}", said.trim()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }
}

fn own_words(kind: &str, address: SocketAddr, certificate: &Certificate) -> Vec<String> {
    let program = std::env::current_exe().expect("it is this program").display().to_string();
    let directory = certificate.directory().display().to_string();
    vec![program, "serve".to_owned(), kind.to_owned(), address.to_string(), directory]
}

const PATIENCE: Duration = Duration::from_secs(10);
