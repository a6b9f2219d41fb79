//! A service that is replaced by its next version, with its sockets.

use std::fs;
use std::io::{BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::directory::Directory;
use crate::programs::{DEADLINE, Program, connected, kill};
use crate::service::{Client, Leftovers, command};
use crate::supervisor::Supervisor;

/// The service with all kinds of sockets, under a supervisor, in all its generations.
pub(crate) struct Fleet {
    leftovers: Option<Leftovers>,
    pub(crate) directory: Directory,
    pub(crate) supervisor: Supervisor,
    pub(crate) first: Program,
    /// The process that serves now.
    pub(crate) pid: u32,
    udp: SocketAddr,
}

impl Fleet {
    #[track_caller]
    pub(crate) fn start(variables: &[(&str, &str)]) -> Self {
        Fleet::start_by("", variables)
    }

    /// Starts the service in its directory, by a shell that first does something.
    #[track_caller]
    pub(crate) fn start_by(prepare: &str, variables: &[(&str, &str)]) -> Self {
        let directory = Directory::new();
        let leftovers = Some(Leftovers::of(&directory));
        symlink(std::env::current_exe().unwrap(), directory.at("service")).unwrap();
        let supervisor = Supervisor::at(directory.at("notify"));
        let (notify, version, sockets) = (directory.path("notify"), directory.path("version"), directory.path(""));
        let own = [("NOTIFY_SOCKET", &*notify), ("VERSION", &*version), ("SOCKETS", &*sockets)];
        let service = command("reactor", &[&own, variables].concat());
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!(r#"{prepare} exec "$0" "$@""#), "./service"]).args(service.get_args());
        for (name, value) in service.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let (null, pipe) = (std::process::Stdio::null, std::process::Stdio::piped);
        let mut first = Program::spawn(shell.current_dir(directory.at("")).stdin(null()).stdout(null()).stderr(pipe()));
        let bound = || first.log.until("listening on 127.0.0.1:").rsplit(' ').next().unwrap().parse().unwrap();
        let (tcp, udp) = (bound(), bound());
        first.address = Some(tcp);
        supervisor.expect(first.pid, "READY=1");
        let pid = first.pid;
        Fleet { leftovers, directory, supervisor, first, pid, udp }
    }

    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        Client::of(&self.first)
    }

    #[track_caller]
    pub(crate) fn unix_client(&self) -> Client<UnixStream> {
        let stream = UnixStream::connect(self.directory.at("stream")).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Client(BufReader::new(stream))
    }

    pub(crate) fn datagram_client(&self) -> impl FnMut(&str) -> std::io::Result<String> + use<> {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(self.udp).unwrap();
        asking(socket)
    }

    pub(crate) fn unix_datagram_client(&self, name: &str) -> impl FnMut(&str) -> std::io::Result<String> + use<> {
        let socket = UnixDatagram::bind(self.directory.at(name)).unwrap();
        socket.connect(self.directory.at("datagram")).unwrap();
        asking(socket)
    }

    /// The next version will do this at its start.
    pub(crate) fn next_version(&self, does: &str) {
        fs::write(self.directory.at("version"), does).unwrap();
    }

    #[track_caller]
    pub(crate) fn signal(&self, signal: &str) {
        assert!(kill(signal, self.pid), "kill -{signal} {}", self.pid);
    }

    /// Sends SIGUSR2, and waits until the next process serves, as the supervisor sees it.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.signal("USR2");
        self.succeeded();
    }

    /// The next process serves. Nothing else was said to the supervisor.
    #[track_caller]
    pub(crate) fn succeeded(&mut self) {
        let told = self.supervisor.hear();
        assert_eq!(told.pid, self.pid, "{told:?}");
        let next = told.text.strip_prefix("MAINPID=").and_then(|pid| pid.trim_end().parse().ok());
        self.pid = next.unwrap_or_else(|| panic!("{told:?}"));
        self.supervisor.expect(self.pid, "READY=1");
    }

    /// Stops the last process. Its sockets are gone then, and all processes.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.signal("TERM");
        self.supervisor.expect(self.pid, "STOPPING=1");
        self.first_ends();
        let left: Vec<_> = self.first.log.lines().filter(|line| line.contains("ERROR")).collect();
        assert!(left.is_empty(), "{left:?}");
        for name in ["stream", "datagram"] {
            assert!(!self.directory.at(name).exists(), "the last process removes the file {name}");
        }
    }

    #[track_caller]
    pub(crate) fn first_ends(&mut self) {
        if self.first.status.is_none() {
            assert!(self.first.exit().success());
        }
    }

    /// The number of a process that hangs at its start.
    #[track_caller]
    fn hanging(&self) -> u32 {
        let begun = Instant::now();
        loop {
            match fs::read_to_string(self.directory.at("hangs")) {
                Ok(pid) => return pid.parse().unwrap(),
                Err(error) => assert!(error.kind() == ErrorKind::NotFound && begun.elapsed() < DEADLINE, "{error}"),
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        drop(self.leftovers.take());
        if std::thread::panicking() {
            self.first.log.lines().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// A client of a connected datagram socket, which asks one question each.
fn asking(socket: impl Into<OwnedFd>) -> impl FnMut(&str) -> std::io::Result<String> {
    let mut socket = socket2::Socket::from(socket.into());
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    move |line| {
        let mut answer = [0; 256];
        socket.write_all(line.as_bytes())?;
        let length = socket.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).trim_end().to_owned())
    }
}

/// Returns whether the process is there, and is the service.
fn is_service(pid: u32) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&arguments).contains("service::service")
}

#[track_caller]
fn wait_for_end(pid: u32) {
    let begun = Instant::now();
    while is_service(pid) {
        assert!(begun.elapsed() < DEADLINE, "process {pid} does not end");
        std::thread::yield_now();
    }
}

#[test]
fn the_next_version_serves_on_all_sockets_while_the_old_one_drains() {
    let mut fleet = Fleet::start(&[]);
    let old = fleet.pid.to_string();
    let (mut client, mut unix) = (fleet.client(), fleet.unix_client());
    client.ask("hold");
    unix.ask("hold");
    fleet.restart();
    assert_ne!(fleet.pid.to_string(), old);
    assert_eq!(fleet.client().ask("pid"), fleet.pid.to_string());
    assert_eq!(fleet.unix_client().ask("pid"), fleet.pid.to_string());
    assert_eq!(client.ask("pid"), old, "it is served to the end");
    assert_eq!(unix.ask("pid"), old);
    drop((client, unix));
    assert!(fleet.first.exit().success());
    let new = fleet.pid.to_string();
    assert_eq!(fleet.datagram_client()("pid\n").unwrap(), new);
    assert_eq!(fleet.unix_datagram_client("d")("pid\n").unwrap(), new);
    fleet.stop();
}

#[test]
fn each_version_can_be_replaced_and_the_last_one_removes_the_files() {
    let mut fleet = Fleet::start(&[]);
    for _ in 0..3 {
        assert_eq!(fleet.client().ask("restart"), "done");
        fleet.succeeded();
        assert_eq!(fleet.unix_client().ask("pid"), fleet.pid.to_string());
    }
    fleet.stop();
}

/// Waits until nothing listens. A program that another test starts may have the socket for a moment.
fn wait_for_refusal(path: &Path) {
    let begun = Instant::now();
    while UnixStream::connect(path).is_ok() {
        assert!(begun.elapsed() < DEADLINE, "something listens at {}", path.display());
    }
}

#[test]
fn a_file_that_was_deleted_is_bound_again_by_the_next_version() {
    let mut fleet = Fleet::start(&[]);
    let (stream, datagram) = (fleet.directory.at("stream"), fleet.directory.at("datagram"));
    fs::remove_file(&stream).unwrap();
    fs::remove_file(&datagram).unwrap();
    // The file of a dead server is no better than none.
    drop(UnixListener::bind(&stream).unwrap());
    wait_for_refusal(&stream);
    for _ in 0..2 {
        fleet.restart();
        let new = fleet.pid.to_string();
        assert_eq!(fleet.unix_client().ask("pid"), new);
        assert_eq!(fleet.unix_datagram_client(&format!("d{new}"))("pid\n").unwrap(), new);
    }
    fleet.stop();
}

#[test]
fn a_path_that_another_server_has_bound_stays_with_it() {
    let mut fleet = Fleet::start(&[]);
    let stream = fleet.directory.at("stream");
    fs::remove_file(&stream).unwrap();
    let other = UnixListener::bind(&stream).unwrap();
    fleet.signal("USR2");
    fleet.first.log.until("address already in use");
    fleet.first.log.until("the restart has failed: process ");
    fleet.supervisor.hear();
    let _client = UnixStream::connect(&stream).unwrap();
    other.accept().unwrap(); // It does not block.
    assert_eq!(fleet.client().ask("pid"), fleet.pid.to_string());
    drop(other);
    wait_for_refusal(&stream);
    fleet.restart();
    assert_eq!(fleet.unix_client().ask("pid"), fleet.pid.to_string());
    fleet.stop_after_errors();
}

#[test]
fn a_server_that_serves_while_others_drain_leaves_its_clients_to_the_next_version() {
    // The delay is for load balancers, which need not notice a restart.
    let mut fleet = Fleet::start(&[("SERVES_WHILE_DRAINING", ""), ("DRAIN_DELAY", "3600000")]);
    let (old, mut client) = (fleet.pid.to_string(), fleet.client());
    client.ask("hold");
    fleet.restart();
    for _ in 0..50 {
        assert_eq!(fleet.client().ask("pid"), fleet.pid.to_string());
    }
    assert_eq!(client.ask("pid"), old);
    drop(client);
    fleet.first_ends();
}

#[test]
fn workers_that_are_replaced_leave_the_clients_of_an_admin_page_to_the_next_version() {
    let directory = Directory::new();
    let _leftovers = Leftovers::of(&directory);
    let variables = [("DIRECTORY", &*directory.path("")), ("DRAIN_DELAY", "")];
    let mut service = crate::service::start("workers", &variables);
    let page = service.log.until("listening on 127.0.0.1:").rsplit(' ').next().unwrap().parse::<SocketAddr>().unwrap();
    let mut leaving = 0;
    let mut ask = || {
        let answer = Client::new(connected(TcpStream::connect(page).unwrap())).ask("who");
        let (pid, is_stopping) = answer.split_once(' ').unwrap();
        leaving += usize::from(is_stopping == "true");
        assert!(leaving <= 1, "one may be accepted before and ask afterwards");
        pid.parse::<u32>().unwrap()
    };
    let old = service.pid;
    assert_eq!(ask(), old);
    let mut staying = Client::of(&service);
    staying.ask("before");
    service.signal("USR2");
    let begun = Instant::now();
    while ask() == old {
        assert!(begun.elapsed() < DEADLINE);
    }
    service.log.until("serves from now on");
    // Each worker leaves in a turn of its own. Afterwards the old process answers nobody.
    while ask() == old {
        assert!(begun.elapsed() < DEADLINE);
    }
    (0..50).for_each(|_| assert_ne!(ask(), old));
    assert_eq!(staying.ask("it still serves"), "it still serves");
    drop(staying);
    assert!(service.exit().success(), "nothing else is waited for");
}

/// systemd stops a service with a signal to each of its processes.
#[test]
fn the_first_signal_to_a_version_that_was_replaced_does_not_end_its_clients_and_the_second_does() {
    let mut fleet = Fleet::start(&[]);
    let (old, mut client) = (fleet.pid.to_string(), fleet.client());
    client.ask("hold");
    fleet.restart();
    fleet.first.signal("TERM");
    fleet.first.log.until("told to stop; the drain goes on");
    assert_eq!(client.ask("pid"), old);
    fleet.first.signal("TERM");
    assert!(fleet.first.exit().success());
    assert!(client.try_ask("pid").map_or(true, |answer| answer.is_empty()));
    fleet.stop();
}

#[test]
fn the_first_signal_to_workers_that_were_replaced_does_not_end_their_clients_and_the_second_does() {
    let directory = Directory::new();
    let _leftovers = Leftovers::of(&directory);
    let mut service = crate::service::start("workers", &[("DIRECTORY", &*directory.path(""))]);
    let mut client = Client::of(&service);
    assert_eq!(client.ask("before"), "before");
    service.signal("USR2");
    service.log.until("serves from now on");
    service.signal("TERM");
    service.log.until("told to stop; the drain goes on");
    assert_eq!(client.ask("during the drain"), "during the drain");
    service.signal("TERM");
    assert!(service.exit().success());
    assert!(client.try_ask("after").map_or(true, |answer| answer.is_empty()));
}

#[test]
fn a_test_that_fails_leaves_no_process_behind() {
    let mut pids = Vec::new();
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let fleet = Fleet::start(&[]);
        pids.push(fleet.pid);
        fleet.next_version("hangs");
        fleet.signal("USR2");
        pids.push(fleet.hanging());
        std::panic::resume_unwind(Box::new("scripted"));
    }));
    assert!(failed.is_err());
    assert!(pids.len() == 2 && !pids.into_iter().any(is_service));
}

/// The service still serves with all sockets, and can be replaced by a version that works.
#[track_caller]
fn goes_on(mut fleet: Fleet) {
    let pid = fleet.pid.to_string();
    assert_eq!(fleet.client().ask("pid"), pid);
    assert_eq!(fleet.unix_client().ask("pid"), pid);
    assert_eq!(fleet.datagram_client()("pid\n").unwrap(), pid);
    assert_eq!(fleet.unix_datagram_client("d")("pid\n").unwrap(), pid);
    fleet.next_version("works");
    fleet.restart();
    fleet.stop_after_errors();
}

impl Fleet {
    fn stop_after_errors(mut self) {
        self.signal("TERM");
        self.supervisor.expect(self.pid, "STOPPING=1");
        self.first_ends();
        self.first.log.lines().for_each(drop);
        assert!(!self.directory.at("stream").exists());
    }
}

#[test]
fn a_version_that_crashes_replaces_nothing() {
    let fleet = Fleet::start(&[]);
    fleet.next_version("crashes");
    fleet.signal("USR2");
    let why = fleet.first.log.until("the restart has failed: process ");
    assert!(why.ends_with(" has ended before it was ready: exit status 3; this process continues to serve"), "{why}");
    let told = fleet.supervisor.hear();
    assert_eq!(told.pid, fleet.pid);
    assert!(
        told.text.starts_with("STATUS=restart failed: process ") && told.text.ends_with("exit status 3\n"),
        "{told:?}"
    );
    assert_eq!(fleet.client().ask("failures"), "1");
    goes_on(fleet);
}

/// The files of Unix sockets stay with the process that serves.
#[test]
fn a_version_that_fails_when_it_has_the_sockets_replaces_nothing() {
    for does in ["fails with its sockets", "is told to stop"] {
        let fleet = Fleet::start(&[]);
        fleet.next_version(does);
        fleet.signal("USR2");
        let why = fleet.first.log.until("the restart has failed: process ");
        assert!(why.contains(" has ended before it was ready: exit status 101;"), "{why}");
        fleet.supervisor.hear();
        goes_on(fleet);
    }
}

#[test]
fn a_version_that_is_missing_replaces_nothing() {
    let fleet = Fleet::start(&[]);
    fs::rename(fleet.directory.at("service"), fleet.directory.at("elsewhere")).unwrap();
    fleet.signal("USR2");
    let why = fleet.first.log.until("the restart has failed: ");
    let path = fleet.directory.path("./service");
    assert!(why.contains(&format!("cannot run {path}: no such file or directory")), "{why}");
    assert!(fleet.supervisor.hear().text.starts_with("STATUS=restart failed: cannot run "));
    fs::rename(fleet.directory.at("elsewhere"), fleet.directory.at("service")).unwrap();
    goes_on(fleet);
}

impl Fleet {
    /// The next version is a script, in which `"$program" "$@"` is the program.
    fn next_version_is_a_script(&self, text: &str) {
        // A file that this process has open for writing could not be run, if a test starts a program at this moment.
        let program = std::env::current_exe().unwrap();
        let text = format!("#!/bin/sh\nprogram='{}'\n{text}\n", program.display());
        let write = r#"printf %s "$1" >script && chmod +x script && mv script service"#;
        let mut shell = Command::new("sh");
        shell.args(["-c", write, "sh", &text]).current_dir(self.directory.at(""));
        assert!(shell.status().unwrap().success());
    }
}

#[test]
fn a_script_that_executes_the_program_is_the_next_version() {
    let mut fleet = Fleet::start(&[]);
    fleet.next_version_is_a_script(r#"exec "$program" "$@""#);
    fleet.restart();
    assert_eq!(fleet.client().ask("pid"), fleet.pid.to_string());
    fleet.stop();
}

/// The supervisor would take the shell for the service, and signals would reach the shell.
#[test]
fn a_script_that_starts_the_program_as_its_child_replaces_nothing() {
    let fleet = Fleet::start(&[]);
    fleet.next_version_is_a_script(r#""$program" "$@""#);
    fleet.signal("USR2");
    fleet.first.log.until("a script must start the program with `exec`");
    let why = fleet.first.log.until("the restart has failed: ");
    assert!(why.contains("has ended before it was ready: exit status"), "{why}");
    assert!(fleet.supervisor.hear().text.starts_with("STATUS=restart failed: process "));
    fs::remove_file(fleet.directory.at("service")).unwrap();
    symlink(std::env::current_exe().unwrap(), fleet.directory.at("service")).unwrap();
    goes_on(fleet);
}

#[test]
fn a_version_that_hangs_is_killed_and_replaces_nothing() {
    let fleet = Fleet::start(&[("RESTART_TIMEOUT", "300")]);
    fleet.next_version("hangs");
    fleet.signal("USR2");
    let hanging = fleet.hanging();
    let why = fleet.first.log.until("the restart has failed: ");
    assert!(why.contains("was not ready after 300ms (restart_timeout), and is killed"), "{why}");
    assert!(!is_service(hanging));
    drop(fleet);
}

#[test]
fn a_second_request_is_refused_and_a_stop_ends_the_first() {
    let mut fleet = Fleet::start(&[]);
    fleet.next_version("hangs");
    assert_eq!(fleet.client().ask("restart"), "done");
    assert_eq!(fleet.client().ask("restart"), "cannot restart: a restart is under way");
    fleet.signal("USR2");
    fleet.first.log.until("cannot restart: a restart is under way");
    let hanging = fleet.hanging();
    let mut client = fleet.client();
    client.ask("hold");
    fleet.signal("TERM");
    fleet.supervisor.expect(fleet.pid, "STOPPING=1");
    fleet.first.log.until("the restart is given up, because a stop was requested");
    wait_for_end(hanging);
    assert_eq!(client.ask("restart"), "cannot restart: the reactor is stopping");
    drop(client);
    assert!(fleet.first.exit().success());
    assert!(!fleet.directory.at("stream").exists());
}

/// Ctrl-C, and systemd, signal all processes of a service.
#[test]
fn a_signal_that_ends_the_next_version_too_gives_the_restart_up() {
    let mut fleet = Fleet::start(&[]);
    fleet.next_version("hangs");
    fleet.signal("USR2");
    let hanging = fleet.hanging();
    let mut client = fleet.client();
    client.ask("hold");
    fleet.signal("STOP");
    assert!(kill("TERM", hanging));
    wait_for_end(hanging);
    fleet.signal("TERM");
    fleet.signal("CONT");
    fleet.first.log.until("the restart is given up, because a stop was requested");
    fleet.supervisor.expect(fleet.pid, "STOPPING=1");
    drop(client);
    assert!(fleet.first.exit().success());
    let wrong: Vec<_> = fleet.first.log.lines().filter(|line| line.contains("restart has failed")).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn workers_know_that_a_restart_has_failed() {
    let directory = Directory::new();
    let _leftovers = Leftovers::of(&directory);
    let version = directory.path("version");
    let service = crate::service::start("workers", &[("VERSION", &*version)]);
    let page = service.log.until("listening on 127.0.0.1:").rsplit(' ').next().unwrap().parse::<SocketAddr>().unwrap();
    let mut client = Client::new(connected(TcpStream::connect(page).unwrap()));
    assert_eq!(client.ask("failures"), "0"); // It serves, so it has the handler of the signal.
    fs::write(version, "crashes").unwrap();
    service.signal("USR2");
    let logged = service.log.until("the restart has failed: process ");
    let begun = Instant::now();
    let told = loop {
        // Each worker is told in a turn of its own.
        match client.ask("failure").as_str() {
            "none" => assert!(begun.elapsed() < DEADLINE),
            told => break told.to_owned(),
        }
    };
    assert!(told.ends_with("exit status 3") && logged.contains(&told), "{told}");
    assert_eq!(client.ask("failures"), "1");
}

#[test]
fn a_new_version_serves_if_the_old_one_is_killed_meanwhile() {
    let mut fleet = Fleet::start(&[]);
    fleet.next_version("hangs");
    fleet.signal("USR2");
    fleet.pid = fleet.hanging();
    fleet.first.signal("KILL");
    fleet.first.exit();
    let mut waiting = fleet.client(); // The sockets are still open.
    fs::write(fleet.directory.at("go"), "").unwrap();
    assert_eq!(waiting.ask("pid"), fleet.pid.to_string());
    fleet.supervisor.expect(fleet.pid, "READY=1");
    fleet.first.log.until("the predecessor has ended during the restart: this process serves");
    fleet.signal("TERM");
    wait_for_end(fleet.pid);
    assert!(!fleet.directory.at("stream").exists());
}

#[test]
fn a_new_version_begins_as_the_first_one_did() {
    let prepare = r#"exec 9<version; WATCHDOG_PID=$$; export WATCHDOG_PID; exec env --block-signal=USR1,WINCH \
        --ignore-signal=HUP,40 "$0" "$@"; "#;
    let prepare = format!("echo > version; {prepare}");
    let mut fleet = Fleet::start_by(&prepare, &[("LEAVES_FOR", "/"), ("WATCHDOG_USEC", "10000000")]);
    let look = |pid: u32, what: &str| PathBuf::from(format!("/proc/{pid}/{what}"));
    let mask = |pid: u32, name: &str| {
        let status = fs::read_to_string(look(pid, "status")).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        u64::from_str_radix(&mask, 16).unwrap()
    };
    let file = fs::canonicalize(fleet.directory.at("version")).unwrap();
    let has_file = |pid| {
        fs::read_dir(look(pid, "fd")).unwrap().any(|fd| fs::read_link(fd.unwrap().path()).ok() == Some(file.clone()))
    };
    // Without 32 and 33, which are the C library's own.
    const SIGNALS: u64 = !(3 << 31);
    const HUP: u64 = 1 << 0;
    const REALTIME: u64 = 1 << 39;
    const USR1: u64 = 1 << 9;
    const PIPE: u64 = 1 << 12;
    let old = fleet.pid;
    assert!(has_file(old));
    assert_eq!(fs::read_link(look(old, "cwd")).unwrap().to_str(), Some("/"));
    assert_ne!(mask(old, "SigBlk:") & USR1, 0);
    let mut kept = fleet.client();
    kept.ask("hold");
    fleet.restart();
    let new = fleet.pid;
    assert!(!has_file(new));
    for fd in fs::read_dir(look(new, "fd")).unwrap() {
        let fd = fd.unwrap().path();
        let number: u32 = fd.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let flags = fs::read_to_string(look(new, "fdinfo").join(number.to_string())).unwrap_or_default();
        let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).map(|flags| flags.trim().to_owned());
        let is_kept = flags.is_some_and(|flags| u32::from_str_radix(&flags, 8).unwrap() & 0o2000000 == 0);
        assert!(!is_kept || number < 3, "{:?} is left to programs that it starts", fs::read_link(fd));
    }
    let begun = Instant::now();
    while mask(new, "SigBlk:") != 0 {
        // While it starts a thread, it blocks all of them for a moment.
        assert!(begun.elapsed() < DEADLINE, "{:x}", mask(new, "SigBlk:"));
    }
    assert_eq!(mask(new, "SigIgn:") & SIGNALS, HUP | REALTIME | PIPE, "as nohup(1) wants it, and as Rust does");
    let (old_line, new_line) = (fs::read(look(old, "cmdline")), fs::read(look(new, "cmdline")));
    let arguments = |line: std::io::Result<Vec<u8>>| {
        let line = line.unwrap();
        line.split(|&byte| byte == 0).skip(1).map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    assert_eq!(arguments(old_line), arguments(new_line));
    drop(kept);
    let mut client = fleet.client();
    let first = fs::canonicalize(fleet.directory.at("")).unwrap();
    assert_eq!(fs::canonicalize(client.ask("directory")).unwrap(), first);
    for name in ["WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS"] {
        assert_eq!(client.ask(&format!("variable {name}")), "none", "{name}");
    }
    drop(client);
    fleet.restart();
    assert_eq!(fs::canonicalize(fleet.client().ask("directory")).unwrap(), first, "and so does the one after it");
    fleet.stop();
}

#[test]
fn the_watchdog_is_told_by_the_process_that_serves() {
    // No more often: on a busy machine this socket could be full when the old process has to tell MAINPID.
    let mut fleet = Fleet::start_by("export WATCHDOG_PID=$$; ", &[("WATCHDOG_USEC", "200000")]);
    let mut client = fleet.client();
    client.ask("hold");
    fleet.supervisor.expect(fleet.pid, "WATCHDOG=1");
    fleet.signal("USR2");
    let old = fleet.pid;
    let mut senders = Vec::new();
    ["MAINPID=", "READY=1"].into_iter().for_each(|wanted| fleet.supervisor.until(wanted));
    for _ in 0..6 {
        let told = fleet.supervisor.hear();
        assert_eq!(told.text, "WATCHDOG=1\n");
        senders.push(told.pid);
    }
    fleet.pid = senders[0];
    assert!(senders.iter().all(|&pid| pid == senders[0] && pid != old), "{senders:?}");
    client.ask("status the old process says nothing any more");
    assert_eq!(fleet.supervisor.hear().text, "WATCHDOG=1\n");
    drop(client);
    assert!(fleet.first.exit().success());
    fleet.signal("TERM");
    fleet.supervisor.until("STOPPING=1");
    wait_for_end(fleet.pid);
}

#[test]
fn a_restart_that_the_supervisor_cannot_learn_of_replaces_nothing() {
    let fleet = Fleet::start(&[]);
    fleet.client().ask("flood"); // Its queue is full.
    fleet.signal("USR2");
    fleet.first.log.until("the restart has failed: the supervisor is not told of it: ");
    assert_eq!(fleet.client().ask("pid"), fleet.pid.to_string());
    fleet.client().ask("status end");
    drop(fleet);
}

#[test]
fn a_program_of_another_version_is_found_behind_a_symbolic_link() {
    let mut fleet = Fleet::start(&[]);
    let next = fleet.directory.at("next");
    let program = std::env::current_exe().unwrap();
    fs::hard_link(&program, &next).or_else(|_| fs::copy(&program, &next).map(drop)).unwrap();
    fs::remove_file(fleet.directory.at("service")).unwrap();
    symlink(&next, fleet.directory.at("service")).unwrap();
    fleet.restart();
    assert_eq!(fs::read_link(format!("/proc/{}/exe", fleet.pid)).unwrap(), next);
    fleet.stop();
}

#[test]
fn sockets_without_a_name_are_not_passed_on() {
    let service = crate::service::start("server", &[]);
    // It serves, so it has the handler of the signal. It serves again after this client.
    let mut client = connected(TcpStream::connect(service.address.unwrap()).unwrap());
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    service.signal("USR2");
    service.log.until("cannot restart: no socket was taken with `inherit_or_bind`");
}

#[test]
fn a_server_takes_its_names_to_another_reactor() {
    let directory = Directory::new();
    let path = directory.path("notify");
    let supervisor = Supervisor::at(&path);
    let _leftovers = Leftovers::of(&directory);
    let mut service = crate::service::start("moved", &[("NOTIFY_SOCKET", &*path)]);
    supervisor.expect(service.pid, "READY=1");
    service.signal("USR2");
    let told = supervisor.hear().text;
    let next: u32 = told.strip_prefix("MAINPID=").unwrap_or_else(|| panic!("{told:?}")).trim_end().parse().unwrap();
    supervisor.expect(next, "READY=1");
    assert!(service.exit().success());
    service.connect();
    supervisor.expect(next, "STOPPING=1");
    wait_for_end(next);
}
