//! calloop: a callback for each source of events, and sources made of other sources: a connection is one around its
//! socket. Level-triggered, as in calloop's documentation, so one read for each event is enough.

use super::{Served, listen};
use crate::job::Job;
use calloop::generic::Generic;
use calloop::{EventLoop, EventSource, Interest, Mode, Poll, PostAction, Readiness, Token, TokenFactory};
use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::rc::Rc;

/// One for all connections.
type Buffer = Rc<RefCell<Vec<u8>>>;

const BUFFER_BYTES: usize = 64 << 10;

pub(crate) fn datagrams(socket: UdpSocket) -> Served {
    let mut event_loop = EventLoop::try_new()?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let source = Generic::new(socket, Interest::READ, Mode::Level);
    event_loop.handle().insert_source(source, move |_, socket, ()| {
        // An error is about one peer, not about the socket.
        if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], peer);
        }
        Ok(PostAction::Continue)
    })?;
    event_loop.run(None, &mut (), |()| {})?;
    Ok(())
}

pub(crate) fn streams(listener: TcpListener, job: Job) -> Served {
    let mut event_loop = EventLoop::try_new()?;
    let handle = event_loop.handle();
    let buffer = Buffer::new(RefCell::new(vec![0; BUFFER_BYTES]));
    let source = Generic::new(listener, Interest::READ, Mode::Level);
    event_loop.handle().insert_source(source, move |_, listener, ()| {
        let accepted = listener.accept().and_then(|(stream, _)| {
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        match accepted {
            Ok(stream) => {
                let socket = Generic::new(stream, Interest::READ, Mode::Level);
                let connection = Connection { socket, job, buffer: buffer.clone(), unsent: Vec::new() };
                // A connection that cannot be registered is dropped, and so closed.
                let _ = handle.insert_source(connection, |(), (), ()| {});
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => listen::wait_after(&error),
        }
        Ok(PostAction::Continue)
    })?;
    event_loop.run(None, &mut (), |()| {})?;
    Ok(())
}

struct Connection {
    socket: Generic<TcpStream>,
    job: Job,
    buffer: Buffer,
    /// What the socket did not take. While there is some, nothing is read.
    unsent: Vec<u8>,
}

impl EventSource for Connection {
    /// It does all its work itself and reports nothing.
    type Event = ();
    type Metadata = ();
    type Ret = ();
    type Error = io::Error;

    fn process_events<F>(&mut self, readiness: Readiness, token: Token, _: F) -> io::Result<PostAction>
    where
        F: FnMut((), &mut ()),
    {
        let Connection { socket, job, buffer, unsent } = self;
        let action = socket.process_events(readiness, token, |_, stream| {
            // The loop would end with an error; it is only this connection that does.
            Ok(echo(&**stream, *job, &mut buffer.borrow_mut(), unsent).unwrap_or(PostAction::Remove))
        })?;
        let interest = if unsent.is_empty() { Interest::READ } else { Interest::WRITE };
        if action == PostAction::Continue && interest.writable != socket.interest.writable {
            socket.interest = interest;
            return Ok(PostAction::Reregister);
        }
        Ok(action)
    }

    fn register(&mut self, poll: &mut Poll, tokens: &mut TokenFactory) -> calloop::Result<()> {
        self.socket.register(poll, tokens)
    }

    fn reregister(&mut self, poll: &mut Poll, tokens: &mut TokenFactory) -> calloop::Result<()> {
        self.socket.reregister(poll, tokens)
    }

    fn unregister(&mut self, poll: &mut Poll) -> calloop::Result<()> {
        self.socket.unregister(poll)
    }
}

/// Sends what is unsent; if nothing is, reads once and sends that.
fn echo(mut stream: impl Read + Write, job: Job, buffer: &mut [u8], unsent: &mut Vec<u8>) -> io::Result<PostAction> {
    if unsent.is_empty() {
        let Some(length) = now(stream.read(buffer))? else { return Ok(PostAction::Continue) };
        if length == 0 {
            return Ok(PostAction::Remove);
        }
        let sent = now(stream.write(&buffer[..length]))?.unwrap_or(0);
        unsent.extend_from_slice(&buffer[sent..length]);
    } else {
        let sent = now(stream.write(unsent))?.unwrap_or(0);
        unsent.drain(..sent);
        if unsent.is_empty() {
            *unsent = Vec::new();
        }
    }
    Ok(if job == Job::EchoOnce && unsent.is_empty() { PostAction::Remove } else { PostAction::Continue })
}

/// `None` if it has to wait for the next event.
fn now(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        result => result.map(Some),
    }
}
