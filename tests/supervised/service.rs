//! The service: this program, started again as its own child. It answers lines, over every kind of socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use socketserver::family::{Udp, UnixDatagram, UnixStream};
use socketserver::{
    BaseServer, InheritedSockets, Message, Next, NoHandler, Others, Reactor, ReactorConfig, Request, RequestHandler,
    Result, Supervisor, TcpServer, UdpOptions, UnixOptions, Workers, WorkersConfig, WorkersHandle,
};

use crate::directory::Directory;
use crate::programs::{DEADLINE, Program, connected, kill};

/// The variable that turns the program into the service. Its value is what kind of service.
const SERVICE: &str = "SOCKETSERVER_TEST_SERVICE";

/// Starts the service, with these variables, and waits until it listens.
#[track_caller]
pub(crate) fn start(kind: &str, variables: &[(&str, &str)]) -> Program {
    let mut program = Program::spawn(&mut command(kind, variables));
    program.address = program.log.until("listening on 127.0.0.1:").rsplit(' ').next().unwrap().parse().ok();
    program
}

/// The service, not started yet.
pub(crate) fn command(kind: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        command.env_remove(name);
    }
    command.args(["--exact", "service::service", "--nocapture"]).env(SERVICE, kind).envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Ends all processes of a service when the test ends, however it ends: those whose environment names its directory, also
/// one of which the test does not know yet.
pub(crate) struct Leftovers(String);

impl Leftovers {
    pub(crate) fn of(directory: &Directory) -> Self {
        Leftovers(directory.path(""))
    }

    fn pids(&self) -> Vec<u32> {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
        pids.filter(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            String::from_utf8_lossy(&environment).contains(&self.0)
        })
        .collect()
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        let begun = Instant::now();
        loop {
            // One that is killed may have started another before.
            let left = self.pids();
            if left.is_empty() || begun.elapsed() > DEADLINE {
                return;
            }
            left.into_iter().for_each(|pid| _ = kill("KILL", pid));
        }
    }
}

/// A client of the service.
pub(crate) struct Client<S = TcpStream>(pub(crate) BufReader<S>);

impl Client {
    #[track_caller]
    pub(crate) fn of(program: &Program) -> Self {
        Client(BufReader::new(connected(program.connect())))
    }
}

impl<S: Read + Write> Client<S> {
    pub(crate) fn new(stream: S) -> Self {
        Client(BufReader::new(stream))
    }

    /// Sends a line. Returns the line that answers it.
    #[track_caller]
    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.try_ask(line).unwrap()
    }

    pub(crate) fn try_ask(&mut self, line: &str) -> std::io::Result<String> {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        self.0.read_line(&mut answer)?;
        Ok(answer.trim_end().to_owned())
    }

    /// The answer to a line that was sent before.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> String {
        let mut answer = String::new();
        self.0.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }
}

/// Not a test, unless the variable is set.
#[test]
fn service() {
    let Ok(kind) = std::env::var(SERVICE) else { return };
    if let Ok(version) = std::env::var("VERSION") {
        let directory = Path::new(&version).parent().unwrap();
        match next_version().as_str() {
            "crashes" => std::process::exit(3),
            "hangs" => {
                std::fs::write(directory.join("new"), std::process::id().to_string()).unwrap();
                std::fs::rename(directory.join("new"), directory.join("hangs")).unwrap();
                while !directory.join("go").exists() {
                    std::thread::yield_now();
                }
            }
            _ => {}
        }
    }
    simple_logger::SimpleLogger::new().with_level(log::LevelFilter::Info).init().unwrap();
    let served = match kind.as_str() {
        "reactor" => reactor(),
        "server" => server(),
        "moved" => moved(),
        "workers" => workers(),
        "reloading" => reloading(),
        kind => panic!("there is no service {kind:?}"),
    };
    served.unwrap_or_else(|error| panic!("{error:#}"));
}

/// What the next version does. This is in a file, because it has the environment of the one before.
fn next_version() -> String {
    std::env::var("VERSION").ok().and_then(|version| std::fs::read_to_string(version).ok()).unwrap_or_default()
}

/// Does what the next version does when it has its sockets.
fn prepare() -> Result<()> {
    match next_version().as_str() {
        "fails with its sockets" => return Err("its certificate is missing".into()),
        "is told to stop" => nix::sys::signal::raise(nix::sys::signal::SIGTERM).unwrap(),
        _ => {}
    }
    Ok(())
}

fn reactor() -> Result<()> {
    let mut config = ReactorConfig::default();
    let number = |name| std::env::var(name).ok().map(|value| value.parse().unwrap());
    config.drain_grace = Duration::from_secs(3_600);
    config.drain_quiet = Duration::from_millis(200);
    config.restart_timeout = Duration::from_millis(number("RESTART_TIMEOUT").unwrap_or(30_000));
    config.drain_delay = Duration::from_millis(number("DRAIN_DELAY").unwrap_or(0));
    if let Some(limit) = number("LIMIT") {
        lower_limit(limit);
    }
    let mut sockets = InheritedSockets::from_env()?;
    let began_in = std::env::current_dir()?;
    if let Some(directory) = std::env::var_os("LEAVES_FOR") {
        std::env::set_current_dir(directory)?;
    }
    let mut reactor = Reactor::with_config(config)?;
    reactor.shutdown_on_signals()?;
    reactor.reload_on_signal()?;
    reactor.restart_on_signal()?;
    let service = Service { supervisor: reactor.notify_supervisor()?, began_in, ticks: 0 };
    let mut server = TcpServer::unbound_with_server(service, |_, _| Answer { holds: false });
    server.limits.connections_max = number("CONNECTIONS_MAX").map(|max| max as usize);
    server.limits.serve_while_draining = std::env::var_os("SERVES_WHILE_DRAINING").is_some();
    server.inherit_or_bind(&mut sockets, "tcp", "127.0.0.1:0")?;
    if let Some(directory) = std::env::var_os("SOCKETS") {
        let directory = Path::new(&directory);
        let options = UnixOptions::default();
        server.inherit_or_bind_as::<Udp>(&mut sockets, 1, "127.0.0.1:0", UdpOptions::default())?;
        server.inherit_or_bind_as::<UnixStream>(&mut sockets, "unix", directory.join("stream"), options.clone())?;
        server.inherit_or_bind_as::<UnixDatagram>(&mut sockets, "unix", directory.join("datagram"), options)?;
    }
    let mut page = TcpServer::unbound(|_| Pid);
    if std::env::var_os("PAGE").is_some() {
        page.limits.connections_max = Some(4);
        page.inherit_or_bind(&mut sockets, "page", "127.0.0.1:0")?;
    }
    sockets.all_taken()?;
    let files = (0..number("FILES").unwrap_or(0)).map(|_| std::fs::File::open("/dev/null"));
    let _files: Vec<_> = files.collect::<std::io::Result<_>>()?;
    reactor.add(server.server_activate()?)?;
    reactor.add_unbound(page)?;
    prepare()?;
    reactor.serve_forever()
}

/// Lowers the limit of descriptors. One that was open before stays, and is above it then.
fn lower_limit(limit: u64) {
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if soft > limit {
        fcntl(std::io::stdin(), FcntlArg::F_DUPFD(limit as i32)).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
    }
}

/// Tells which process it is.
struct Pid;
impl RequestHandler for Pid {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        request.input.take_all();
        writeln!(request.output, "{}", std::process::id())?;
        Ok(Next::Wait)
    }
}

/// A server with a reactor of its own, which serves twice.
fn server() -> Result<()> {
    let mut server = TcpServer::new("127.0.0.1:0", |_| End)?;
    server.notify_supervisor()?;
    server.restart_on_signal()?;
    server.serve_forever()?;
    server.serve_forever()
}

/// A server that takes its supervisor to another reactor, and its name.
fn moved() -> Result<()> {
    let mut sockets = InheritedSockets::from_env()?;
    let mut server = TcpServer::unbound(|_| End);
    server.inherit_or_bind(&mut sockets, "tcp", "127.0.0.1:0")?;
    sockets.all_taken()?;
    let mut server = server.server_activate()?;
    server.notify_supervisor()?;
    server.restart_on_signal()?;
    if std::env::var_os("SERVES_BEFORE").is_some() {
        server.timeout = Some(Duration::ZERO);
        server.handle_request()?;
    }
    let mut reactor = Reactor::new()?;
    if std::env::var_os("MOVES_LATE").is_some() {
        reactor.handle().run(move |reactor| _ = reactor.add(server).unwrap())?;
    } else {
        reactor.add(server)?;
    }
    reactor.serve_forever()
}

/// Two workers, whose clients stay during a drain. One of them has a page as well.
fn workers() -> Result<()> {
    let mut config = WorkersConfig::default();
    config.reactor.drain_grace = Duration::from_secs(3_600);
    if std::env::var_os("DRAIN_DELAY").is_some() {
        config.reactor.drain_delay = config.reactor.drain_grace; // It is for load balancers, not for restarts.
    }
    let mut sockets = InheritedSockets::from_env()?;
    let mut workers = Workers::with_config(2, config, move |worker| {
        let mut server = TcpServer::unbound(|_| Hold);
        worker.inherit_or_bind(&mut server, &mut sockets, "tcp", "127.0.0.1:0")?;
        worker.add(server)?;
        if worker.number() == 0 {
            let workers = worker.workers();
            let mut page = TcpServer::unbound(move |_| Page(workers.clone()));
            page.limits.serve_while_draining = true;
            worker.inherit_or_bind(&mut page, &mut sockets, "page", "127.0.0.1:0")?;
            worker.add(page)?;
        }
        Ok(())
    })?;
    workers.shutdown_on_signals()?;
    workers.restart_on_signal()?;
    prepare()?;
    workers.serve_forever()
}

/// Two workers whose hooks for a reload end when a file is there.
fn reloading() -> Result<()> {
    let supervisor = Arc::new(OnceLock::new());
    let told = Arc::clone(&supervisor);
    let mut workers = Workers::new(2, move |worker| {
        let server = Reloads(Arc::clone(&told));
        let mut server = TcpServer::unbound_with_server(server, |_, _| NoHandler);
        worker.server_bind(&mut server, "127.0.0.1:0")?;
        worker.add(server)
    })?;
    let _ = supervisor.set(workers.notify_supervisor()?);
    workers.shutdown_on_signals()?;
    workers.reload_on_signal()?;
    workers.serve_forever()
}

struct Reloads(Arc<OnceLock<Supervisor>>);
impl BaseServer for Reloads {
    fn reload(&mut self, _: &mut Others<'_, Self>) {
        let supervisor = self.0.get().unwrap();
        supervisor.status("reloads");
        let file = std::env::var("RELOADED").unwrap();
        while !Path::new(&file).exists() {
            std::thread::yield_now();
        }
        supervisor.status("has reloaded");
    }
}

/// Answers with what it is sent, until the client ends.
struct Hold;
impl RequestHandler for Hold {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        request.output.write_all(request.input.take_all())?;
        Ok(Next::Wait)
    }

    fn drain(&mut self, _: &mut Request<'_>) -> Result<Next> {
        Ok(Next::Wait)
    }
}

/// Tells which process it is, and whether that stops. Or, if that is asked, how many restarts have failed, or why.
struct Page(WorkersHandle);
impl RequestHandler for Page {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        match request.input.take_all() {
            b"failure\n" => {
                let failed = request.others.inspect().failed_restart;
                writeln!(request.output, "{}", failed.map_or("none".to_owned(), |failed| failed.reason))?;
            }
            b"failures\n" => {
                let workers = self.0.clone();
                request.offload(move || workers.stats().map(|stats| stats.restarts_failed))?;
            }
            _ => writeln!(request.output, "{} {}", std::process::id(), request.is_stopping())?,
        }
        Ok(Next::Wait)
    }

    fn message(&mut self, request: &mut Request<'_>, message: Message) -> Result<Next> {
        writeln!(request.output, "{}", message.downcast::<Result<u64>>().unwrap()?)?;
        Ok(Next::Wait)
    }
}

/// Stops the service when a client comes.
struct End;
impl RequestHandler for End {
    fn setup(&mut self, request: &mut Request<'_>) -> Result<Next> {
        request.others.request_shutdown();
        Ok(Next::Close)
    }

    fn handle(&mut self, _: &mut Request<'_>) -> Result<Next> {
        Ok(Next::Close)
    }
}

struct Service {
    supervisor: Supervisor,
    began_in: PathBuf,
    ticks: u32,
}

impl BaseServer for Service {
    fn timer(&mut self, _: &mut Others<'_, Self>, _: u64) {
        self.ticks += 1;
        self.supervisor.status(&format!("tick {}", self.ticks));
    }
}

struct Answer {
    /// No stop ends it, only the client.
    holds: bool,
}

impl RequestHandler<Service> for Answer {
    fn handle(&mut self, request: &mut Request<'_, Service>) -> Result<Next> {
        while let Some(line) = request.input.read_line()? {
            let line = String::from_utf8_lossy(line).trim_end().to_owned();
            let answer = self.answer(&line, request);
            writeln!(request.output, "{answer}")?;
        }
        Ok(Next::Wait)
    }

    fn drain(&mut self, _: &mut Request<'_, Service>) -> Result<Next> {
        Ok(if self.holds { Next::Wait } else { Next::Close })
    }
}

impl Answer {
    fn answer(&mut self, line: &str, request: &mut Request<'_, Service>) -> String {
        let supervisor = &request.server.supervisor;
        match line.split_once(' ').unwrap_or((line, "")) {
            ("status", text) => supervisor.status(&text.replace('|', "\n")),
            ("flood", _) => (0..1_000).for_each(|_| supervisor.status("flood")),
            ("reload", _) => {
                supervisor.reloading();
                supervisor.ready();
            }
            ("tick", milliseconds) => {
                request.others.set_server_interval(0, Duration::from_millis(milliseconds.parse().unwrap()));
            }
            ("hangup", _) => signal_hook::low_level::raise(signal_hook::consts::SIGHUP).unwrap(),
            ("hold", _) => self.holds = true,
            ("restart", _) => {
                return request.others.restart().map_or_else(|error| format!("{error:#}"), |()| "done".to_owned());
            }
            ("directory", _) => return request.server.began_in.display().to_string(),
            ("failures", _) => return request.others.stats().restarts_failed.to_string(),
            ("pid", _) => return std::process::id().to_string(),
            ("variable", name) => return std::env::var(name).unwrap_or_else(|_| "none".to_owned()),
            _ => return line.to_owned(),
        }
        "done".to_owned()
    }
}
