//! The servers: how each is started, and what it is given. All are told to use one thread, and to write no log of requests.

use super::{Service, version};
use crate::contenders::{locked_version, target_directory};
use crate::cpus::Cpus;
use crate::process::Process;
use crate::server::{Server, free_address};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// A server that can be started.
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) version: String,
    address: SocketAddr,
    words: Vec<String>,
}

impl Program {
    pub(super) fn start(&self, cpus: Cpus) -> Result<Server, String> {
        let answers = |address| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok();
        Server::spawn(self.name, &self.words, self.address, cpus, answers)
    }
}

/// The programs of each service. The first one is what the others are compared with.
const KNOWN: [(Service, &[&str]); 3] = [
    (Service::Kv, &["redis", "socketserver"]),
    (Service::Web, &["nginx", "socketserver", "hyper"]),
    (Service::Dns, &["unbound", "socketserver"]),
];

/// The name of the program that the others are compared with.
pub(super) fn reference(service: Service) -> &'static str {
    KNOWN.iter().find(|(one, _)| *one == service).map_or("", |(_, names)| names[0])
}

/// The programs of a service that are here, and why the others are not.
pub(super) fn find(service: Service, only: &[String], files: &TempDir) -> (Vec<Program>, Vec<(String, String)>) {
    let (mut programs, mut absent) = (Vec::new(), Vec::new());
    let names = KNOWN.iter().filter(|(one, _)| *one == service).flat_map(|(_, names)| names.iter());
    let wanted = |name: &str| only.is_empty() || only.iter().any(|one| one == name) || name == reference(service);
    for &name in names.filter(|name| wanted(name)) {
        match known(service, name, files.path()) {
            Ok(program) => programs.push(program),
            Err(reason) => absent.push((name.to_owned(), reason)),
        }
    }
    (programs, absent)
}

fn known(service: Service, name: &'static str, files: &Path) -> Result<Program, String> {
    let address = free_address(false).map_err(|error| format!("no free port: {error}"))?;
    let (directory, at, port) = (files.display().to_string(), address.to_string(), address.port().to_string());
    let configured = |text: &str| {
        let file = files.join(format!("{name}.conf"));
        let text = text.replace("{dir}", &directory).replace("{addr}", &at).replace("{port}", &port);
        std::fs::write(&file, text).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        Ok::<_, String>(file.display().to_string())
    };
    let (version, words): (String, Vec<String>) = match (name, service) {
        ("redis", _) => (
            version(&["redis-server", "--version"], "redis-server")?,
            words(&["redis-server", "--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]),
        ),
        ("nginx", _) => (
            version(&["/usr/sbin/nginx", "-v"], "nginx-light")?,
            words(&["/usr/sbin/nginx", "-p", &directory, "-c", &configured(NGINX)?]),
        ),
        ("unbound", _) => (
            version(&["/usr/sbin/unbound", "-V"], "unbound")?,
            words(&["/usr/sbin/unbound", "-d", "-c", &configured(UNBOUND)?]),
        ),
        ("hyper", _) => {
            let this = std::env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
            (locked_version("hyper"), words(&[&this.display().to_string(), "serve-files", &at, &directory]))
        }
        (_, service) => {
            let example = service.to_string();
            let program = target_directory()?.join("release/examples").join(&example).display().to_string();
            let words = match service {
                Service::Kv => words(&[&program, &at]),
                Service::Web => words(&[&program, &at, "--root", &directory]),
                Service::Dns => words(&[&program, &format!("{directory}/zone"), &at]),
            };
            (format!("the example {example}"), words)
        }
    };
    Ok(Program { name, version, address, words })
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// What the servers are given: two files to serve, a zone, and queries for it.
pub(super) fn files() -> Result<TempDir, String> {
    let make = || {
        let files = tempfile::tempdir()?;
        // A server may drop its privileges and has to read these all the same.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(files.path(), open)?;
        for (name, content) in [
            ("small", vec![b'x'; SMALL]),
            ("large", vec![b'x'; LARGE]),
            ("zone", include_str!("../../../../examples/dns/example.zone").into()),
            ("queries", QUERIES.into()),
        ] {
            std::fs::write(files.path().join(name), content)?;
        }
        std::io::Result::Ok(files)
    };
    make().map_err(|error| format!("no temporary directory: {error}"))
}

/// Bytes of the files.
pub(super) const SMALL: usize = 128;
pub(super) const LARGE: usize = 4 << 20;

/// As users build them: with the options of the workspace's release profile.
pub(super) fn build_examples() -> Result<(), String> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
    let target = target_directory()?.display().to_string();
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let words = [
        &cargo,
        "build",
        "--release",
        "--manifest-path",
        manifest,
        "--target-dir",
        &target,
        "--example=kv",
        "--example=web",
    ];
    let mut build =
        Process::start("cargo", &[words.map(str::to_owned).as_slice(), &["--example=dns".to_owned()]].concat())?;
    match build.wait(Duration::from_secs(1_800))? {
        Some(status) if status.success() => Ok(()),
        _ => Err(format!("cannot build the examples:\n{}", build.output())),
    }
}

const NGINX: &str = "daemon off; master_process off; worker_processes 1; pid {dir}/nginx.pid; error_log stderr;
events { worker_connections 16000; }
http {
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; open_file_cache max=100;
    client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
    server { listen {addr} backlog=4096; location /files/ { alias {dir}/; } }
}
";

const UNBOUND: &str = r#"server:
    interface: 127.0.0.1@{port}
    do-daemonize: no
    num-threads: 1
    username: ""
    chroot: ""
    directory: "{dir}"
    pidfile: ""
    use-syslog: no
    do-ip6: no
    incoming-num-tcp: 200
    local-zone: "example.com." static
    local-data: "www.example.com. 3600 IN A 192.0.2.80"
    local-data: "www.example.com. 3600 IN AAAA 2001:db8::80"
    local-data: "mail.example.com. 3600 IN A 192.0.2.25"
    local-data: "example.com. 3600 IN MX 10 mail.example.com."
"#;

const QUERIES: &str = "www.example.com A
www.example.com AAAA
mail.example.com A
example.com MX
";
