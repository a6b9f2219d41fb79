//! What is the user's: the value of a server, handlers on the reactor and on threads, closures, messages; and the ledger
//! that says what became of each.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use socketserver::{
    Address, BaseServer, DatagramRequestHandler, EndReason, Error, Incoming, Listener, Message, Next, Others, Request,
    RequestHandler, Result, ServeOn, Socket, Stream, StreamRequestHandler,
};

/// Everything that is the user's holds it: when all of that is dropped, nothing else holds it.
#[derive(Default)]
pub(crate) struct Ledger {
    violations: Mutex<Vec<String>>,
    /// Handlers that were set up, less those that were told of their end.
    owed: AtomicI64,
    /// Values whose sockets were bound, less those that were told of the close.
    open: AtomicI64,
}

impl Ledger {
    pub(crate) fn violation(&self, what: &str) {
        self.violations.lock().unwrap().push(what.to_owned());
    }

    pub(crate) fn check(&self, fail: impl FnOnce(&str)) {
        if let Some(what) = self.violations.lock().unwrap().first() {
            fail(what);
        }
    }

    pub(crate) fn check_end(&self, fail: impl Fn(&str)) {
        let (owed, open) = (self.owed.load(Ordering::SeqCst), self.open.load(Ordering::SeqCst));
        if owed != 0 {
            fail(&format!("{owed} times `finish` is missing"));
        }
        if open != 0 {
            fail(&format!("{open} times `server_close` is missing"));
        }
    }
}

/// Panics when it is dropped, if it is armed.
pub(crate) struct Bomb {
    pub(crate) ledger: Arc<Ledger>,
    armed: bool,
}

impl Bomb {
    pub(crate) fn new(ledger: &Arc<Ledger>, armed: bool) -> Self {
        Bomb { ledger: Arc::clone(ledger), armed }
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        // Two panics at once end the process, and that is what Rust promises.
        if self.armed && !std::thread::panicking() {
            panic_quietly();
        }
    }
}

/// A panic without the hook's output.
pub(crate) fn panic_quietly() -> ! {
    resume_unwind(Box::new("scripted"))
}

/// An error that panics when it is dropped, or shown.
struct BadError {
    _bomb: Bomb,
    shown: bool,
}

impl std::fmt::Debug for BadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BadError")
    }
}

impl std::fmt::Display for BadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.shown {
            panic_quietly();
        }
        f.write_str("scripted")
    }
}

impl std::error::Error for BadError {}

fn bad_error(ledger: &Arc<Ledger>, rng: &mut Rng) -> BadError {
    BadError { _bomb: Bomb::new(ledger, rng.bool()), shown: rng.bool() }
}

/// The value of a server.
pub(crate) struct Value {
    pub(crate) ledger: Arc<Ledger>,
    _bomb: Bomb,
    rng: Rng,
    /// Where outbound connections go.
    far: SocketAddr,
    /// Out of a hundred hooks so many panic.
    rage: u32,
    /// Of its requests so many out of a hundred are served by threads, and by programs.
    threads: u32,
    programs: u32,
    bound: bool,
    closed: bool,
}

impl Value {
    pub(crate) fn new(ledger: &Arc<Ledger>, rng: &mut Rng, far: SocketAddr) -> Self {
        Value {
            ledger: Arc::clone(ledger),
            _bomb: Bomb::new(ledger, rng.u32(..4) == 0),
            rng: rng.fork(),
            far,
            rage: if rng.u32(..3) == 0 { 20 } else { 0 },
            threads: if rng.u32(..3) == 0 { 80 } else { 0 },
            programs: if rng.u32(..20) == 0 { 30 } else { 0 },
            bound: false,
            closed: false,
        }
    }

    /// It serves by a socket that no hook of its own has bound.
    pub(crate) fn adopted(&mut self) {
        self.opened();
    }

    fn opened(&mut self) {
        if !std::mem::replace(&mut self.bound, true) {
            self.ledger.open.fetch_add(1, Ordering::SeqCst);
        }
        self.closed = false;
    }

    fn hook(&mut self, name: &str) {
        if self.closed {
            self.ledger.violation(&format!("{name} of a server that is closed"));
        }
        if self.rng.u32(..100) < self.rage {
            panic_quietly();
        }
    }
}

impl BaseServer for Value {
    fn server_bind(&mut self, socket: &Socket, address: &Address) -> io::Result<()> {
        if self.rng.u32(..100) < self.rage {
            panic_quietly();
        }
        socket.bind(address)?;
        self.opened();
        Ok(())
    }

    fn get_request(&mut self, listener: &mut Listener) -> io::Result<(Stream, Address)> {
        self.hook("get_request");
        let request = listener.accept()?;
        match self.rng.u32(..100) < self.rage {
            true => Err(io::Error::other(bad_error(&self.ledger, &mut self.rng))),
            false => Ok(request),
        }
    }

    fn verify_request(&mut self, _: &Incoming<'_>, _: &Address) -> bool {
        self.hook("verify_request");
        self.rng.u32(..20) > 0
    }

    fn process_request(&mut self, request: &Incoming<'_>, _: &Address) -> ServeOn<Self> {
        let bomb = Bomb::new(&self.ledger, self.rng.u32(..5) == 0);
        let (kind, work) = (self.rng.u32(..100), Duration::from_micros(self.rng.u64(..20_000)));
        if kind < self.programs {
            return ServeOn::program(std::process::Command::new("true"));
        }
        if kind >= self.threads {
            return ServeOn::Reactor;
        }
        let fails = self.rng.u32(..10);
        let blocking = move |request: &mut socketserver::BlockingRequest<Self>| -> Result<()> {
            let _bomb = &bomb;
            let mut bytes = [0; 100];
            let _ = request.rfile.read(&mut bytes);
            std::thread::sleep(work);
            match fails {
                0 => panic_quietly(),
                1 => return Err(Error::other("scripted")),
                2 => _ = request.server(|value| value.hook("a thread's closure")),
                3 => _ = request.handle().run(|reactor| drop(reactor.poll(Some(Duration::ZERO)))),
                4 => {
                    let id = request.server_id();
                    let _ = request.handle().run(move |reactor| reactor.server_close(id));
                }
                _ => {}
            }
            let _ = request.wfile.write_all(b"done");
            Ok(())
        };
        match request {
            Incoming::Stream(_) => {
                let mut handler = StreamRequestHandler::new(blocking);
                handler.timeout = Some(Duration::from_millis(20));
                ServeOn::thread(handler)
            }
            _ => ServeOn::thread(DatagramRequestHandler::new(blocking)),
        }
    }

    fn close_request(&mut self, _: &Address, _: EndReason) {
        if self.rng.u32(..100) < self.rage {
            panic_quietly();
        }
    }

    fn handle_error(&mut self, _: &Address, _: &Error) {
        if self.rng.u32(..100) < self.rage {
            panic_quietly();
        }
    }

    fn service_actions(&mut self, others: &mut Others<'_, Self>) {
        self.hook("service_actions");
        if self.rng.u32(..40) == 0 {
            let handler = Handler::new(&self.ledger, &mut self.rng, self.far);
            let _ = others.connect(self.far, handler);
        }
        if self.rng.u32(..20) == 0 {
            for id in others.connections() {
                let _ = others.send(id, b"hello");
            }
        }
    }

    fn timer(&mut self, others: &mut Others<'_, Self>, tag: u64) {
        self.hook("timer");
        match tag {
            0 => others.connections().into_iter().for_each(|id| others.close(id)),
            1 => others.set_server_timer(1, Duration::from_millis(1)),
            _ => {}
        }
    }

    fn message(&mut self, _: &mut Others<'_, Self>, message: Message) {
        self.hook("message");
        drop(message);
    }

    fn server_close(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            self.ledger.violation("server_close twice");
        }
        if std::mem::take(&mut self.bound) {
            self.ledger.open.fetch_sub(1, Ordering::SeqCst);
        }
        if self.rng.u32(..100) < self.rage {
            panic_quietly();
        }
    }
}

/// What happened to the messages of one connection.
#[derive(Default)]
struct Post {
    lost: AtomicBool,
}

struct Note {
    post: Arc<Post>,
    delivered: bool,
    _bomb: Bomb,
}

impl Drop for Note {
    fn drop(&mut self) {
        self.post.lost.fetch_or(!self.delivered, Ordering::SeqCst);
    }
}

pub(crate) struct Handler {
    bomb: Bomb,
    rng: Rng,
    far: SocketAddr,
    post: Arc<Post>,
    /// Handlers that take over from it in its `setup`, one after the other.
    chain: u32,
    owes: bool,
}

impl Handler {
    pub(crate) fn new(ledger: &Arc<Ledger>, rng: &mut Rng, far: SocketAddr) -> Self {
        let bomb = Bomb::new(ledger, rng.u32(..10) == 0);
        Handler { bomb, rng: rng.fork(), far, post: Arc::default(), chain: 0, owes: false }
    }

    fn successor(&mut self, chain: u32) -> Self {
        let post = Arc::clone(&self.post);
        Handler { post, chain, ..Handler::new(&self.bomb.ledger, &mut self.rng, self.far) }
    }

    fn called(&self) {
        if self.post.lost.load(Ordering::SeqCst) {
            self.bomb.ledger.violation("a message to a living connection was lost");
        }
    }

    fn forget(&mut self) {
        if std::mem::take(&mut self.owes) {
            self.bomb.ledger.owed.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn replace(&mut self, request: &mut Request<'_, Value>, chain: u32) {
        let successor = self.successor(chain);
        request.replace_handler(successor);
        // Unless it ends meanwhile, it is told no more.
        self.forget();
    }

    fn note(&mut self, request: &mut Request<'_, Value>) {
        let bomb = Bomb::new(&self.bomb.ledger, self.rng.u32(..10) == 0);
        let note = Note { post: Arc::clone(&self.post), delivered: false, _bomb: bomb };
        if let Err(Error::Full { .. } | Error::Gone) = request.others.handle().send(request.id(), note) {
            self.post.lost.store(false, Ordering::SeqCst);
        }
    }
}

impl RequestHandler<Value> for Handler {
    fn setup(&mut self, request: &mut Request<'_, Value>) -> Result<Next> {
        if self.rng.u32(..30) == 0 {
            panic_quietly();
        }
        self.owes = true;
        self.bomb.ledger.owed.fetch_add(1, Ordering::SeqCst);
        if let Some(chain) = self.chain.checked_sub(1) {
            self.replace(request, chain);
        }
        Ok(Next::Wait)
    }

    fn handle(&mut self, request: &mut Request<'_, Value>) -> Result<Next> {
        self.called();
        for byte in request.input.take_all() {
            match byte {
                b'p' => panic_quietly(),
                b'e' => return Err(Error::other(bad_error(&self.bomb.ledger, &mut self.rng))),
                b'c' => return Ok(Next::Close),
                b'a' => return Ok(Next::Abort),
                b'r' => {
                    let chain = self.rng.u32(..4);
                    self.replace(request, chain);
                    return Ok(Next::Wait);
                }
                b'm' => {
                    (0..3).for_each(|_| self.note(request));
                }
                b'o' => {
                    let (work, fails) = (Duration::from_micros(self.rng.u64(..2_000)), self.rng.u32(..4) == 0);
                    let bomb = Bomb::new(&self.bomb.ledger, false);
                    let _ = request.offload(move || {
                        std::thread::sleep(work);
                        if fails {
                            panic_quietly();
                        }
                        drop(bomb);
                    });
                }
                b'x' => {
                    let handler = Handler::new(&self.bomb.ledger, &mut self.rng, self.far);
                    let _ = request.others.connect(self.far, handler);
                }
                b't' => request.set_timer(7, Duration::from_micros(self.rng.u64(..3_000))),
                b's' => request.others.request_shutdown(),
                b'B' => _ = request.output.write_all(&[b'x'; 300_000]),
                _ => _ = request.output.write_all(&[*byte]),
            }
        }
        Ok(Next::Wait)
    }

    fn message(&mut self, request: &mut Request<'_, Value>, message: Message) -> Result<Next> {
        if let Ok(mut note) = message.downcast::<Note>() {
            note.delivered = true;
            self.called();
            let chain = self.rng.u32(..3);
            if self.rng.bool() {
                self.replace(request, chain);
            }
        }
        Ok(Next::Wait)
    }

    fn finish(&mut self, _: &mut Request<'_, Value>, _: EndReason) {
        self.forget();
        if self.rng.u32(..20) == 0 {
            panic_quietly();
        }
    }
}
