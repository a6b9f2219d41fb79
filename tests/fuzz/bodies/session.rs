//! One connection from its begin to its end: what the client does, how the network cuts it up, and what the handler does
//! and returns each time it is called.

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use socketserver::testing::{Client, Script};
use socketserver::{EndReason, Error, Limits, Message, Next, Overflow, Request, RequestHandler, Result, Timeout};

#[derive(Debug, Arbitrary)]
struct Session {
    limits: Small,
    /// What the handler does, call by call. Afterwards it sends back all it reads.
    turns: Vec<Turn>,
    steps: Vec<Step>,
}

/// Limits that a few bytes reach.
#[derive(Debug, Arbitrary)]
struct Small {
    output_high_water: u8,
    output_low_water: u8,
    output_bytes_max: u16,
    refuse: bool,
    input_bytes_max: u16,
    line_bytes_max: u8,
    read_bytes_per_turn: u8,
    write_bytes_per_turn: u8,
    callbacks_per_turn: u8,
}

/// What the client or the network does.
#[derive(Debug, Arbitrary)]
enum Step {
    Feed(Vec<u8>),
    Play(Vec<Happening>),
    Window(u8),
    Wait(u16),
    FeedAfter(u16, Vec<u8>),
    Message,
    Shutdown,
    Eof,
    Reset,
}

#[derive(Debug, Arbitrary)]
enum Happening {
    Read(Vec<u8>),
    WouldBlock,
    ShortWrite(u8),
}

#[derive(Clone, Debug, Arbitrary)]
struct Turn {
    actions: Vec<Action>,
    returns: Return,
}

#[derive(Clone, Debug, Arbitrary)]
enum Action {
    EchoAll,
    Echo(u8),
    EchoLines,
    EchoFrames,
    Consume(u8),
    Write(u8),
    WriteShared(u8),
    WriteLong(u16),
    SendToItself(u8),
    Pause,
    Resume,
    FullDuplex(bool),
    SetTimer(u8, u16),
    CancelTimer(u8),
    SetTimeout(u8, Option<u16>),
    ShutdownWrite,
    Close,
    Abort,
    Replace,
}

#[derive(Clone, Debug, Arbitrary)]
enum Return {
    Wait,
    Close,
    Abort,
    Error,
    Panic,
}

/// What the handlers of the connection have done, one after the other.
#[derive(Default)]
struct Log {
    written: Vec<u8>,
    /// Bytes consumed, and bytes that were seen and left.
    consumed: Vec<u8>,
    left: usize,
    handlers: usize,
    dropped: usize,
    panics: u64,
    paused: bool,
    /// It was asked to end, or to send no more.
    ending: bool,
    calls: Vec<&'static str>,
    /// `setup` of the last handler succeeded.
    set_up: bool,
    finished: Option<EndReason>,
}

struct Handler {
    turns: std::vec::IntoIter<Turn>,
    overflow: Overflow,
    log: Arc<Mutex<Log>>,
}

impl Handler {
    fn new(turns: Vec<Turn>, overflow: Overflow, log: &Arc<Mutex<Log>>) -> Self {
        lock(log).handlers += 1;
        Handler { turns: turns.into_iter(), overflow, log: Arc::clone(log) }
    }

    fn call(&mut self, name: &'static str, request: &mut Request<'_>) -> Result<Next> {
        lock(&self.log).calls.push(name);
        let unread = request.input.unread();
        let turn = self.turns.next().unwrap_or(Turn { actions: vec![Action::EchoAll], returns: Return::Wait });
        // A write that fails ends what is done, as it would with `?`.
        let done = turn.actions.into_iter().try_for_each(|action| self.act(action, request));
        let mut log = lock(&self.log);
        let left = request.input.len();
        log.left = left;
        log.consumed.extend(&unread[..unread.len() - left]);
        log.ending |= done.is_err() || !matches!(turn.returns, Return::Wait);
        done?;
        match turn.returns {
            Return::Wait => Ok(Next::Wait),
            Return::Close => Ok(Next::Close),
            Return::Abort => Ok(Next::Abort),
            Return::Error => Err("as the fuzzer has it".into()),
            Return::Panic => {
                log.panics += 1;
                // Without the hook, which is there for panics that are not intended.
                std::panic::resume_unwind(Box::new("as the fuzzer has it"))
            }
        }
    }

    fn act(&mut self, action: Action, request: &mut Request<'_>) -> Result<()> {
        let id = request.id();
        match action {
            Action::EchoAll => {
                let bytes = request.input.take_all();
                self.write(bytes, |bytes| Ok(request.output.write_all(bytes)?))
            }
            Action::Echo(n) => {
                let bytes = request.input.unread();
                let bytes = &bytes[..bytes.len().min(n.into())];
                request.input.consume(n.into());
                self.write(bytes, |bytes| Ok(request.output.write_all(bytes)?))
            }
            Action::EchoLines => {
                while let Some(line) = request.input.read_line()? {
                    self.write(line, |bytes| Ok(request.output.write_all(bytes)?))?;
                }
                Ok(())
            }
            Action::EchoFrames => {
                while let Some(payload) = request.input.read_frame(socketserver::Prefix::U8)? {
                    let frame = [&[payload.len() as u8], payload].concat();
                    self.write(&frame, |_| request.output.write_frame(socketserver::Prefix::U8, payload))?;
                }
                Ok(())
            }
            Action::Consume(n) => {
                request.input.consume(n.into());
                Ok(())
            }
            Action::Write(n) => self.write(&vec![n; n.into()], |bytes| Ok(request.output.write_all(bytes)?)),
            Action::WriteShared(n) => {
                self.write(&vec![n; n.into()], |bytes| request.output.write_shared(bytes.to_vec()))
            }
            Action::WriteLong(n) => {
                self.write(&vec![n as u8; n.into()], |bytes| Ok(request.output.write_all(bytes)?))
            }
            Action::SendToItself(n) => {
                assert_eq!(request.others.send(id, &vec![n; n.into()]), socketserver::Delivery::Refused);
                Ok(())
            }
            Action::Pause => {
                lock(&self.log).paused = true;
                request.pause_reading();
                Ok(())
            }
            Action::Resume => {
                lock(&self.log).paused = false;
                request.resume_reading();
                Ok(())
            }
            Action::FullDuplex(on) => {
                request.set_full_duplex(on);
                Ok(())
            }
            Action::SetTimer(tag, after) => {
                request.set_timer(tag.into(), Duration::from_millis(after.into()));
                Ok(())
            }
            Action::CancelTimer(tag) => {
                request.cancel_timer(tag.into());
                Ok(())
            }
            Action::SetTimeout(which, time) => {
                let which = [Timeout::Idle, Timeout::Read, Timeout::Write][usize::from(which) % 3];
                request.set_timeout(which, time.map(|time| Duration::from_millis(time.into())));
                Ok(())
            }
            Action::ShutdownWrite => {
                lock(&self.log).ending = true;
                request.shutdown_write();
                Ok(())
            }
            Action::Close => {
                lock(&self.log).ending = true;
                request.close();
                Ok(())
            }
            Action::Abort => {
                lock(&self.log).ending = true;
                request.abort();
                Ok(())
            }
            Action::Replace => {
                request.replace_handler(Handler::new(self.turns.as_slice().to_vec(), self.overflow, &self.log));
                Ok(())
            }
        }
    }

    /// Notes what is written, if it is.
    fn write(&self, bytes: &[u8], write: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        let result = write(bytes);
        // A connection that is lost over a write may have sent the beginning of it.
        let lost = self.overflow == Overflow::Close && matches!(result, Err(Error::OutputLimit { .. }));
        if result.is_ok() || lost {
            lock(&self.log).written.extend(bytes);
        }
        result
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        lock(&self.log).dropped += 1;
    }
}

impl RequestHandler for Handler {
    fn setup(&mut self, request: &mut Request<'_>) -> Result<Next> {
        lock(&self.log).set_up = false;
        let next = self.call("setup", request);
        lock(&self.log).set_up = next.is_ok();
        next
    }
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        self.call("handle", request)
    }
    fn finish(&mut self, request: &mut Request<'_>, why: EndReason) {
        lock(&self.log).finished = Some(why);
        let _ = self.call("finish", request);
    }
    fn writable(&mut self, request: &mut Request<'_>) -> Result<Next> {
        self.call("writable", request)
    }
    fn eof(&mut self, request: &mut Request<'_>) -> Result<Next> {
        self.call("eof", request)?;
        Ok(Next::Close)
    }
    fn timed_out(&mut self, request: &mut Request<'_>, timeout: Timeout) -> Result<Next> {
        self.call("timeout", request)?;
        Ok(if timeout == Timeout::Write { Next::Abort } else { Next::Close })
    }
    fn timer(&mut self, request: &mut Request<'_>, _: u64) -> Result<Next> {
        self.call("timer", request)
    }
    fn message(&mut self, request: &mut Request<'_>, _: Message) -> Result<Next> {
        self.call("message", request)
    }
    fn drain(&mut self, request: &mut Request<'_>) -> Result<Next> {
        self.call("drain", request)?;
        Ok(Next::Close)
    }
}

pub(crate) fn session(data: &[u8]) {
    let Ok(session) = Session::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let log = Arc::new(Mutex::new(Log::default()));
    let limits = limits(&session.limits);
    let handler = Handler::new(session.turns, limits.output_overflow, &log);
    let mut client = Client::with_limits((), handler, limits);
    let mut peer = Peer::default();
    for step in session.steps {
        peer.step(step, &mut client);
        check(&client, &lock(&log), &peer);
    }
    // The client takes everything and says no more.
    client.set_window(usize::MAX / 2);
    check(&client, &lock(&log), &peer);
    if !peer.ended {
        client.feed_eof();
        peer.ended = true;
        check(&client, &lock(&log), &peer);
    }
    for _ in 0..4 {
        client.advance(Duration::from_secs(3_600));
    }
    client.shutdown();
    client.advance(Duration::from_secs(3_600));
    over(&client, &lock(&log), &peer);
}

/// The client's side.
#[derive(Default)]
struct Peer {
    fed: Vec<u8>,
    ended: bool,
    /// It broke the connection, the server is stopping, or a time limit may have passed.
    disturbed: bool,
}

impl Peer {
    fn step(&mut self, step: Step, client: &mut Client) {
        match step {
            Step::Feed(bytes) if !self.ended => {
                self.fed.extend(&bytes);
                client.feed(&bytes);
            }
            Step::Play(happenings) if !self.ended => {
                let play = happenings.into_iter().fold(Script::new(), |script, happening| match happening {
                    Happening::Read(bytes) => {
                        self.fed.extend(&bytes);
                        script.read(&bytes)
                    }
                    Happening::WouldBlock => script.would_block(),
                    Happening::ShortWrite(bytes) => script.short_write(bytes.into()),
                });
                client.play(play);
            }
            Step::FeedAfter(time, bytes) if !self.ended => {
                self.fed.extend(&bytes);
                self.disturbed = true;
                client.feed_after(Duration::from_millis(time.into()), &bytes);
            }
            Step::Window(bytes) => client.set_window(bytes.into()),
            Step::Wait(time) => {
                self.disturbed = true;
                client.advance(Duration::from_millis(time.into()));
            }
            Step::Message => drop(client.message(())),
            Step::Shutdown => {
                self.disturbed = true;
                client.shutdown();
            }
            Step::Eof if !self.ended => {
                self.ended = true;
                client.feed_eof();
            }
            Step::Reset => {
                (self.ended, self.disturbed) = (true, true);
                client.feed_reset();
            }
            _ => {}
        }
    }
}

/// What holds at any time.
fn check(client: &Client, log: &Log, peer: &Peer) {
    let sent = client.sent();
    assert!(log.written.starts_with(&sent), "what arrives is not what was written: {:?}", log.calls);
    assert!(peer.fed.starts_with(&log.consumed), "what is read is not what was fed: {:?}", log.calls);
    assert!(log.consumed.len() + log.left <= peer.fed.len());
    assert_eq!(client.stats().panics, log.panics, "a panic that is not the handler's: {:?}", log.calls);
    let quiet = !peer.disturbed && !log.ending && log.finished.is_none();
    if quiet && sent.len() == log.written.len() && !log.paused {
        assert_eq!(log.consumed.len() + log.left, peer.fed.len(), "stranded input: {:?}", log.calls);
    }
}

/// What holds when it is over.
fn over(client: &Client, log: &Log, peer: &Peer) {
    let calls = &log.calls;
    assert_eq!(client.stats().active, 0, "{calls:?}");
    assert_eq!(log.dropped, log.handlers, "a handler was not dropped: {calls:?}");
    assert_eq!(calls[0], "setup");
    let finishes = calls.iter().filter(|&&call| call == "finish").count();
    assert_eq!(finishes, usize::from(log.set_up), "{calls:?}");
    assert!(finishes == 0 || calls.last() == Some(&"finish"), "{calls:?}");
    // Nothing went wrong: the client has what was written.
    if log.finished == Some(EndReason::PeerClosed) && log.panics == 0 && !log.ending {
        assert_eq!(client.sent(), log.written, "{calls:?}");
        assert!(log.paused || log.consumed.len() + log.left == peer.fed.len(), "{calls:?}");
    }
}

fn limits(small: &Small) -> Limits {
    let mut limits = Limits::default();
    // Contradictions are refused, and are not what is tried here.
    limits.output_bytes_max = small.output_bytes_max.into();
    limits.output_high_water = usize::from(small.output_high_water).min(limits.output_bytes_max);
    limits.output_low_water = usize::from(small.output_low_water).min(limits.output_high_water);
    limits.output_overflow = if small.refuse { Overflow::Refuse } else { Overflow::Close };
    limits.line_bytes_max = usize::from(small.line_bytes_max).max(1);
    limits.input_bytes_max = usize::from(small.input_bytes_max).max(limits.line_bytes_max);
    limits.read_bytes_per_turn = usize::from(small.read_bytes_per_turn).max(1);
    limits.write_bytes_per_turn = usize::from(small.write_bytes_per_turn).max(1);
    limits.callbacks_per_turn = usize::from(small.callbacks_per_turn).max(1);
    limits
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}
