//! What the integration tests share: a server of whatever kind on a thread, clients with deadlines, a handler made of
//! one closure, and a journal of what was called. Every wait has a deadline, and no wait is a sleep.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod collector;
mod directory;
pub(crate) mod loopback;
pub(crate) mod tls;

use std::fmt::{Debug, Display};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use self::directory::Directory;
use self::loopback::loopback;
use socketserver::family::{Family, Tcp, Udp};
#[cfg(unix)]
use socketserver::family::{UnixDatagram, UnixStream};
use socketserver::{
    Address, BaseServer, EndReason, Error, Handle, Limits, Message, Next, Request, RequestHandler, Result, Server,
    ServerId, ShutdownHandle, Stats, Timeout, WorkersHandle,
};

/// Longer than anything here takes on a busy machine. Only a failing test waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Returns whether this process is one of a test's own. If not, the test, named by its path, is run in one. `prepare`:
/// what a shell does first; empty if nothing is to be prepared.
#[track_caller]
pub(crate) fn is_apart(test: &str, prepare: &str) -> bool {
    const APART: &str = "SOCKETSERVER_TEST_APART";
    if std::env::var_os(APART).is_some() {
        return true;
    }
    let program = std::env::current_exe().unwrap();
    let mut again = if prepare.is_empty() { Command::new(program) } else { prepared(prepare, program) };
    let output = again.args(["--exact", test, "--nocapture"]).env(APART, "").output().unwrap();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}{complained}");
    false
}

/// Returns whether no other test runs in this process. If one may, this test is run in a process of its own. This is for
/// tests that close a socket and need its address to be free at once: a program that another test starts has that socket
/// too, until it is executed, and another test may be given the port.
#[track_caller]
pub(crate) fn is_alone() -> bool {
    // Tests that run one after the other run on the main thread.
    match std::thread::current().name() {
        Some(test) if test != "main" && cfg!(unix) => is_apart(test, ""),
        _ => true,
    }
}

/// Waits until the sum of the statistics of all workers is as wanted.
#[track_caller]
pub(crate) fn wait_for_stats_of(workers: &WorkersHandle, wanted: impl Fn(&Stats) -> bool) -> Stats {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let stats = workers.stats().unwrap();
        if wanted(&stats) {
            return stats;
        }
        assert!(Instant::now() < deadline, "{stats:#?}");
        std::thread::yield_now();
    }
}

/// A shell that prepares something and becomes the program.
fn prepared(prepare: &str, program: PathBuf) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!(r#"{prepare}; exec "$0" "$@""#)]).arg(program);
    shell
}

/// A kind of server, and where there is room for one.
pub(crate) trait Kind: Family {
    /// A free place, and the directory it is in.
    fn place() -> (Self::Address, Option<Directory>);
    fn at(address: &Address) -> Self::Address;
}

macro_rules! kinds {
    ($($family:ty: $place:expr, $as:ident;)*) => {$(
        impl Kind for $family {
            fn place() -> (Self::Address, Option<Directory>) {
                $place
            }
            fn at(address: &Address) -> Self::Address {
                address.$as().expect("an address of its kind").to_owned()
            }
        }
    )*};
}

kinds! {
    Tcp: ((loopback(), 0).into(), None), as_inet;
    Udp: ((loopback(), 0).into(), None), as_inet;
}
#[cfg(unix)]
kinds! {
    UnixStream: place_in_a_directory(), as_unix;
    UnixDatagram: place_in_a_directory(), as_unix;
}

#[cfg(unix)]
fn place_in_a_directory() -> (socketserver::UnixAddress, Option<Directory>) {
    let directory = Directory::new();
    (socketserver::UnixAddress::from_path(directory.at("s")), Some(directory))
}

/// A server of some kind, bound where there is room.
#[track_caller]
pub(crate) fn server<F: Kind, H: RequestHandler>(
    mut handler: impl FnMut(&Address) -> H + Send + 'static,
) -> Server<F, (), H> {
    server_with((), move |(), address| handler(address))
}

/// The same with a value of its own.
#[track_caller]
pub(crate) fn server_with<F: Kind, S: BaseServer, H: RequestHandler<S>>(
    state: S,
    mut handler: impl FnMut(&mut S, &Address) -> H + Send + 'static,
) -> Server<F, S, H> {
    let (place, directory) = F::place();
    let make = move |state: &mut S, address: &Address| {
        let _kept = &directory; // As long as the server.
        handler(state, address)
    };
    Server::with_server(place, state, make).expect("there is room")
}

/// Options that are not all as they are by default.
pub(crate) fn options<O: Default>(change: impl FnOnce(&mut O)) -> O {
    let mut options = O::default();
    change(&mut options);
    options
}

/// Changes some limits of a server.
#[track_caller]
pub(crate) fn limit<F: Family, S: BaseServer, H: RequestHandler<S>>(
    server: &mut Server<F, S, H>,
    change: impl FnOnce(&mut Limits),
) {
    let mut limits = server.limits().clone();
    change(&mut limits);
    server.set_limits(limits).expect("they do not contradict each other");
}

/// Lets no callback of a server be interrupted because the machine was slow: for tests that assert what would be so then.
pub(crate) fn never_interrupt<F: Family, S: BaseServer, H: RequestHandler<S>>(server: &mut Server<F, S, H>) {
    let mut config = server.config().clone();
    config.turn_length = Duration::from_secs(3_600);
    server.set_config(config);
}

/// A server that sends back what comes.
#[track_caller]
pub(crate) fn echoing<F: Kind>() -> Server<F, (), impl RequestHandler> {
    server(|_| probe(|call, request: &mut Request<'_>| echo(&call, request)))
}

/// Where it is bound.
#[track_caller]
pub(crate) fn address_of<F: Kind, S: BaseServer, H: RequestHandler<S>>(server: &Server<F, S, H>) -> F::Address {
    server.server_address()
}

/// A server that serves on a thread of its own. Dropping it stops it.
pub(crate) struct Running<S, F: Kind = Tcp> {
    pub(crate) address: F::Address,
    pub(crate) stop: ShutdownHandle,
    pub(crate) handle: Handle,
    pub(crate) id: ServerId,
    done: Receiver<(Result<()>, Stats, S)>,
}

/// Serves on a thread until stopped, then hands the server's own value out.
#[track_caller]
pub(crate) fn serve<F: Kind, S: BaseServer + Default, H: RequestHandler<S>>(
    mut server: Server<F, S, H>,
) -> Running<S, F> {
    // A stop waits as long as this for clients that stay, and many tests keep theirs.
    if server.limits().linger_timeout == Limits::default().linger_timeout {
        limit(&mut server, |limits| limits.linger_timeout = Duration::from_millis(500));
    }
    let address = address_of(&server);
    let (stop, handle, id) = (server.shutdown_handle(), server.handle(), server.id());
    let (tell, done) = channel();
    std::thread::spawn(move || {
        let result = server.serve_forever();
        let stats = server.stats();
        let state = std::mem::take(server.server_mut());
        drop(server);
        let _ = tell.send((result, stats, state));
    });
    Running { address, stop, handle, id, done }
}

impl<S, F: Kind> Running<S, F> {
    #[track_caller]
    pub(crate) fn connect(&self) -> Peer {
        Peer::connect(self.address.clone())
    }

    /// A client of a datagram server.
    #[track_caller]
    pub(crate) fn mailbox(&self) -> Mailbox {
        Mailbox::to(self.address.clone())
    }

    /// The counters as they are now, between two turns.
    #[track_caller]
    pub(crate) fn stats(&self) -> Stats {
        let (tell, hear) = channel();
        self.handle.run(move |reactor| drop(tell.send(reactor.stats()))).expect("the reactor takes a closure");
        hear.recv_timeout(PATIENCE).expect("the reactor runs a closure")
    }

    /// Asks for the counters, turn after turn, until they are as wanted.
    #[track_caller]
    pub(crate) fn wait_for_stats(&self, what: &str, mut wanted: impl FnMut(&Stats) -> bool) -> Stats {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let stats = self.stats();
            if wanted(&stats) {
                return stats;
            }
            assert!(Instant::now() < deadline, "{what}: {stats:#?}");
            std::thread::yield_now();
        }
    }

    /// Watches the loop for a while: it has no turn but those that the asking itself costs. These are one for each
    /// question, or two if the wake-up comes when the question has been taken already. A spin would add many times that.
    #[track_caller]
    pub(crate) fn expect_rest(&self, time: Duration) {
        let before = self.stats().turns;
        let until = Instant::now() + time;
        let mut asked = 0;
        while Instant::now() < until {
            self.stats();
            asked += 1;
        }
        let turns = self.stats().turns - before;
        assert!(turns <= 2 * asked + 2, "{turns} turns for {asked} questions");
    }

    /// Stops in good order and returns the last counters.
    #[track_caller]
    pub(crate) fn stop(self) -> Stats {
        self.stop_with_state().0
    }

    #[track_caller]
    pub(crate) fn stop_with_state(self) -> (Stats, S) {
        self.stop.shutdown();
        self.join()
    }

    /// Waits for a stop that was asked for elsewhere.
    #[track_caller]
    pub(crate) fn join(self) -> (Stats, S) {
        match self.done.recv_timeout(PATIENCE + Duration::from_secs(10)) {
            Ok((result, stats, state)) => {
                result.expect("serve_forever ends without error");
                (stats, state)
            }
            Err(RecvTimeoutError::Timeout) => panic!("serve_forever does not return"),
            Err(RecvTimeoutError::Disconnected) => panic!("the loop panicked"),
        }
    }
}

impl<S, F: Kind> Drop for Running<S, F> {
    fn drop(&mut self) {
        self.stop.shutdown_now();
    }
}

/// A client that never waits for ever.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) socket: socket2::Socket,
}

impl Peer {
    #[track_caller]
    pub(crate) fn connect(address: impl Into<Address>) -> Self {
        Peer::try_connect(address).expect("connect")
    }

    pub(crate) fn try_connect(address: impl Into<Address>) -> io::Result<Self> {
        match address.into() {
            Address::Inet(address) => TcpStream::connect_timeout(&address, PATIENCE).map(Peer::of),
            #[cfg(unix)]
            address => {
                let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
                socket.connect(&sock_addr(&address)).map(|()| Peer::of(socket))
            }
            #[cfg(not(unix))]
            _ => Err(ErrorKind::Unsupported.into()),
        }
    }

    /// Waits until nothing listens at an address. A program that another test starts may have the socket for a moment.
    #[track_caller]
    pub(crate) fn wait_for_refusal(address: impl Into<Address>) {
        let (address, deadline) = (address.into(), Instant::now() + PATIENCE);
        while Peer::try_connect(address.clone()).is_ok() {
            assert!(Instant::now() < deadline, "{address} is still served");
            std::thread::yield_now();
        }
    }

    #[track_caller]
    pub(crate) fn of(socket: impl Into<socket2::Socket>) -> Self {
        let socket = with_deadlines(socket.into());
        Peer { socket }
    }

    pub(crate) fn port(&self) -> u16 {
        let address = self.socket.local_addr().expect("a connected socket has an address");
        address.as_socket().expect("an internet socket").port()
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).expect("send");
    }

    /// Reads exactly what is expected.
    #[track_caller]
    pub(crate) fn expect(&mut self, expected: impl AsRef<[u8]>) {
        let expected = expected.as_ref();
        let mut got = vec![0; expected.len()];
        let mut filled = 0;
        while filled < got.len() {
            match self.socket.read(&mut got[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    panic!(
                        "waiting for {:?}, got {:?}, then: {error}",
                        String::from_utf8_lossy(expected),
                        String::from_utf8_lossy(&got[..filled])
                    )
                }
            }
        }
        assert!(
            got[..filled] == *expected,
            "expected {:?}, got {:?}",
            String::from_utf8_lossy(expected),
            String::from_utf8_lossy(&got[..filled])
        );
    }

    /// Reads up to and including the next `\n`.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        while line.last() != Some(&b'\n') {
            self.socket.read_exact(&mut byte).expect("a whole line");
            line.push(byte[0]);
        }
        String::from_utf8(line).expect("text").trim_end().to_owned()
    }

    #[track_caller]
    pub(crate) fn echo(&mut self, bytes: impl AsRef<[u8]>) {
        self.send(bytes.as_ref());
        self.expect(bytes.as_ref());
    }

    /// Ends our direction.
    #[track_caller]
    pub(crate) fn half_close(&mut self) {
        self.socket.shutdown(Shutdown::Write).expect("shutdown");
    }

    /// Reads to the end; fails if that is not FIN.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let (bytes, end) = self.read_to_the_end();
        end.expect("a FIN");
        bytes
    }

    /// Reads to the end, however it ends: `Err` is a reset.
    #[track_caller]
    pub(crate) fn read_to_the_end(&mut self) -> (Vec<u8>, io::Result<()>) {
        let mut bytes = Vec::new();
        let end = self.socket.read_to_end(&mut bytes).map(drop);
        if let Err(error) = &end {
            assert!(
                !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                "the connection does not end; {} bytes so far",
                bytes.len()
            );
        }
        (bytes, end)
    }

    #[track_caller]
    pub(crate) fn expect_eof(&mut self) {
        assert_eq!(String::from_utf8_lossy(&self.rest()), "", "nothing but a FIN");
    }

    #[track_caller]
    pub(crate) fn expect_reset(&mut self) {
        let (_, end) = self.read_to_the_end();
        assert_eq!(end.expect_err("an RST, not a FIN").kind(), ErrorKind::ConnectionReset);
    }

    /// The server has aborted: a reset over TCP. The peer of a Unix socket sees the end, or a reset if it had sent
    /// something that was not read.
    #[track_caller]
    pub(crate) fn expect_abort<F: Kind>(&mut self) -> Vec<u8> {
        let (bytes, end) = self.read_to_the_end();
        match end {
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            Ok(()) => assert_ne!(F::NAME, Tcp::NAME, "an RST, not a FIN"),
        }
        bytes
    }

    /// Sends RST instead of FIN.
    pub(crate) fn reset(self) {
        self.socket.set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }
}

/// A connected client that makes the server wait soon: its receive buffer is small. A Unix socket's is the sender's send
/// buffer, which is small enough.
#[track_caller]
pub(crate) fn connect_with_small_window(address: impl Into<Address>) -> Peer {
    let address = address.into();
    let Some(address) = address.as_inet() else { return Peer::connect(address) };
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.connect_timeout(&address.into(), PATIENCE).expect("connect");
    Peer::of(socket)
}

#[track_caller]
fn with_deadlines(socket: socket2::Socket) -> socket2::Socket {
    socket.set_read_timeout(Some(PATIENCE)).expect("set a deadline");
    socket.set_write_timeout(Some(PATIENCE)).expect("set a deadline");
    socket
}

/// The address as the system calls take it.
pub(crate) fn sock_addr(address: &Address) -> socket2::SockAddr {
    match address {
        Address::Inet(address) => (*address).into(),
        #[cfg(unix)]
        Address::Unix(address) => {
            use std::os::unix::ffi::OsStrExt as _;
            let abstracted = address.as_abstract_name().map(|name| [b"\0", name].concat());
            let path = abstracted.as_deref().map(std::ffi::OsStr::from_bytes);
            let path = path.or(address.as_path().map(|path| path.as_os_str())).unwrap_or_default();
            socket2::SockAddr::unix(path).expect("an address that fits")
        }
        _ => unreachable!("another kind of address"),
    }
}

/// A datagram client that never waits for ever. One of UDP hears its server only: its port may have been another's
/// before, for which something is still under way. One of Unix is not connected: how much may wait for one that is, is
/// bounded by the server's send buffer alone.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) socket: socket2::Socket,
    pub(crate) address: Address,
    /// Where it sends to, if it is not connected.
    to: Option<socket2::SockAddr>,
    _directory: Option<Directory>,
}

impl Mailbox {
    /// One with a name of its own.
    #[track_caller]
    pub(crate) fn to(server: impl Into<Address>) -> Self {
        let server = server.into();
        let (address, directory) = match &server {
            Address::Inet(server) if server.is_ipv4() => (SocketAddr::from(([127, 0, 0, 1], 0)).into(), None),
            Address::Inet(_) => (SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 0)).into(), None),
            #[cfg(unix)]
            _ => {
                let (place, directory) = place_in_a_directory();
                (place.into(), directory)
            }
            #[cfg(not(unix))]
            _ => unreachable!("another kind of address"),
        };
        let mut this = Mailbox::named(&address, &server);
        this._directory = directory;
        this
    }

    /// One of this name.
    #[track_caller]
    pub(crate) fn named(address: &Address, server: &Address) -> Self {
        let to = sock_addr(server);
        let socket = with_deadlines(socket2::Socket::new(to.domain(), socket2::Type::DGRAM, None).unwrap());
        socket.bind(&sock_addr(address)).expect("bind");
        let to = if to.is_unix() {
            Some(to)
        } else {
            socket.connect(&to).expect("connect");
            None
        };
        let bound = socket.local_addr().unwrap().as_socket();
        Mailbox { socket, address: bound.map_or_else(|| address.clone(), Address::from), to, _directory: None }
    }

    #[track_caller]
    pub(crate) fn send(&self, packet: impl AsRef<[u8]>) {
        let packet = packet.as_ref();
        let sent = match &self.to {
            Some(to) => self.socket.send_to(packet, to),
            None => self.socket.send(packet),
        };
        assert_eq!(sent.expect("send"), packet.len());
    }

    /// The next datagram.
    #[track_caller]
    pub(crate) fn receive(&self) -> Vec<u8> {
        let mut packet = vec![0; 1 << 17];
        let n = (&self.socket).read(&mut packet).expect("a datagram");
        packet.truncate(n);
        packet
    }

    #[track_caller]
    pub(crate) fn expect(&self, expected: impl AsRef<[u8]>) {
        let (expected, got) = (expected.as_ref(), self.receive());
        let shown = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        assert!(got == expected, "expected {:?}, got {:?}", shown(expected), shown(&got));
    }

    #[track_caller]
    pub(crate) fn ask(&self, packet: impl AsRef<[u8]>) -> String {
        self.send(packet);
        String::from_utf8(self.receive()).expect("text")
    }

    #[track_caller]
    pub(crate) fn echo(&self, packet: impl AsRef<[u8]>) {
        self.send(packet.as_ref());
        self.expect(packet.as_ref());
    }
}

/// Which callback a [`probe`] was called for.
#[derive(Debug)]
pub(crate) enum Call {
    Setup,
    Handle,
    Writable,
    Eof,
    Timeout(Timeout),
    Timer(u64),
    Message(Message),
    Drain,
    Finish(EndReason),
    ConnectFailed(String),
}

impl Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Call::Setup => f.write_str("setup"),
            Call::Handle => f.write_str("handle"),
            Call::Writable => f.write_str("writable"),
            Call::Eof => f.write_str("eof"),
            Call::Timeout(timeout) => write!(f, "timeout {timeout:?}"),
            Call::Timer(tag) => write!(f, "timer {tag}"),
            Call::Message(_) => f.write_str("message"),
            Call::Drain => f.write_str("drain"),
            Call::Finish(why) => write!(f, "finish {why}"),
            Call::ConnectFailed(error) => write!(f, "connect_failed {error}"),
        }
    }
}

/// A handler that is one closure for all callbacks. It is one type, because the reactor is compiled again for each.
pub(crate) struct Probe<S = ()>(Act<S>);

type Act<S> = Box<dyn FnMut(Call, &mut Request<'_, S>) -> Result<Next> + Send>;

pub(crate) fn probe<S>(act: impl FnMut(Call, &mut Request<'_, S>) -> Result<Next> + Send + 'static) -> Probe<S> {
    Probe(Box::new(act))
}

/// What a handler does that overrides nothing and reads what comes.
pub(crate) fn usual<S>(call: &Call, request: &mut Request<'_, S>) -> Result<Next> {
    match call {
        Call::Handle => {
            request.input.take_all();
            Ok(Next::Wait)
        }
        Call::Eof | Call::Drain => Ok(Next::Close),
        Call::Timeout(Timeout::Write) => Ok(Next::Abort),
        Call::Timeout(_) => Ok(Next::Close),
        _ => Ok(Next::Wait),
    }
}

/// The same, and what comes goes back.
pub(crate) fn echo<S>(call: &Call, request: &mut Request<'_, S>) -> Result<Next> {
    if let Call::Handle = call {
        request.output.write_all(request.input.take_all())?;
    }
    usual(call, request)
}

impl<S: 'static> RequestHandler<S> for Probe<S> {
    fn setup(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        (self.0)(Call::Setup, request)
    }
    fn handle(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        (self.0)(Call::Handle, request)
    }
    fn finish(&mut self, request: &mut Request<'_, S>, why: EndReason) {
        let _ = (self.0)(Call::Finish(why), request);
    }
    fn writable(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        (self.0)(Call::Writable, request)
    }
    fn eof(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        (self.0)(Call::Eof, request)
    }
    fn timed_out(&mut self, request: &mut Request<'_, S>, timeout: Timeout) -> Result<Next> {
        (self.0)(Call::Timeout(timeout), request)
    }
    fn timer(&mut self, request: &mut Request<'_, S>, tag: u64) -> Result<Next> {
        (self.0)(Call::Timer(tag), request)
    }
    fn message(&mut self, request: &mut Request<'_, S>, message: Message) -> Result<Next> {
        (self.0)(Call::Message(message), request)
    }
    fn drain(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        (self.0)(Call::Drain, request)
    }
    fn connect_failed(&mut self, request: &mut Request<'_, S>, error: &Error) {
        let _ = (self.0)(Call::ConnectFailed(format!("{error:#}")), request);
    }
}

/// What was called, in order, as seen from any thread.
#[derive(Clone, Default)]
pub(crate) struct Journal {
    lines: Arc<(Mutex<Vec<String>>, Condvar)>,
}

impl Journal {
    pub(crate) fn new() -> Self {
        Journal::default()
    }

    pub(crate) fn note(&self, line: impl Display) {
        self.lines.0.lock().unwrap_or_else(PoisonError::into_inner).push(line.to_string());
        self.lines.1.notify_all();
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn count(&self, wanted: &str) -> usize {
        self.lines().iter().filter(|line| line.starts_with(wanted)).count()
    }

    /// Waits until a line that begins so is there, and returns it.
    #[track_caller]
    pub(crate) fn wait(&self, wanted: &str) -> String {
        self.wait_for(wanted, 1)
    }

    /// Waits until so many lines begin so, and returns the last of them.
    #[track_caller]
    pub(crate) fn wait_for(&self, wanted: &str, times: usize) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.lines.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(line) = lines.iter().filter(|line| line.starts_with(wanted)).nth(times - 1) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{wanted:?} was not called {times} times: {lines:?}");
            lines = self.lines.1.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Keeps expected panics out of the test's output.
pub(crate) fn silence_scripted_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let payload = info.payload();
            let text = payload.downcast_ref::<&str>().copied();
            let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            let scripted = text.is_some_and(|text| text == SCRIPTED);
            if !scripted {
                loud(info);
            }
        }));
    });
}

/// The text of every panic that a test causes on purpose.
pub(crate) const SCRIPTED: &str = "scripted";

/// xorshift64: a test that uses it prints its seed.
pub(crate) fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
