//! What was called of a handler.

use std::sync::{Arc, Mutex};

use super::world::lock;
use crate::error::{Error, Result};
use crate::handler::RequestHandler;
use crate::handler::request::Request;
use crate::lifecycle::{Finish, Next, Timeout};
use crate::reactor::handle::Message;

#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) lines: Vec<String>,
    pub(crate) finished: Option<Finish>,
}

/// Writes down what is called, and passes it on.
pub(crate) struct Recorder<H> {
    pub(crate) handler: H,
    pub(crate) record: Arc<Mutex<Record>>,
}

impl<H> Recorder<H> {
    fn note(&self, line: impl Into<String>) {
        lock(&self.record).lines.push(line.into());
    }
}

impl<S: 'static, H: RequestHandler<S>> RequestHandler<S> for Recorder<H> {
    fn setup(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        self.note("setup");
        self.handler.setup(request)
    }
    fn handle(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        self.note(format!("handle {}", request.input.len()));
        self.handler.handle(request)
    }
    fn finish(&mut self, request: &mut Request<'_, S>, why: Finish) {
        self.note(format!("finish {why}"));
        let before = lock(&self.record).finished.replace(why);
        assert!(before.is_none(), "finish was called twice");
        self.handler.finish(request, why);
    }
    fn writable(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        self.note("writable");
        self.handler.writable(request)
    }
    fn eof(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        self.note("eof");
        self.handler.eof(request)
    }
    fn timeout(&mut self, request: &mut Request<'_, S>, timeout: Timeout) -> Result<Next> {
        self.note(format!("timeout {timeout:?}"));
        self.handler.timeout(request, timeout)
    }
    fn timer(&mut self, request: &mut Request<'_, S>, tag: u64) -> Result<Next> {
        self.note(format!("timer {tag}"));
        self.handler.timer(request, tag)
    }
    fn message(&mut self, request: &mut Request<'_, S>, message: Message) -> Result<Next> {
        self.note("message");
        self.handler.message(request, message)
    }
    fn drain(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        self.note("drain");
        self.handler.drain(request)
    }
    fn connect_failed(&mut self, request: &mut Request<'_, S>, error: &Error) {
        self.note(format!("connect_failed {error}"));
        self.handler.connect_failed(request, error);
    }
}
