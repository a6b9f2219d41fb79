//! Records the callbacks of a handler.

use std::sync::{Arc, Mutex};

use super::world::lock;
use crate::error::{Error, Result};
use crate::handler::RequestHandler;
use crate::handler::others::Order;
use crate::handler::request::Request;
use crate::lifecycle::{EndReason, Next, Timeout};
use crate::reactor::handle::Message;

#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) lines: Vec<String>,
    pub(crate) finished: Option<EndReason>,
}

/// Records each callback and passes it on.
pub(crate) struct Recorder<H> {
    pub(crate) handler: H,
    pub(crate) record: Arc<Mutex<Record>>,
}

impl<H> Recorder<H> {
    /// Calls the handler. If the handler is replaced, the callbacks of its successor are recorded as well.
    fn call<S: 'static, T>(
        &mut self,
        line: impl Into<String>,
        request: &mut Request<'_, S>,
        callback: impl FnOnce(&mut H, &mut Request<'_, S>) -> T,
    ) -> T {
        lock(&self.record).lines.push(line.into());
        let earlier = request.others.pending.orders.len();
        let result = callback(&mut self.handler, request);
        let own = request.slot.key;
        let orders = &mut request.others.pending.orders;
        let new = orders.split_off(earlier);
        orders.extend(new.into_iter().map(|(key, order)| match order {
            Order::Serve(handler) if key == own => {
                (key, Order::Serve(Box::new(Recorder { handler, record: Arc::clone(&self.record) })))
            }
            order => (key, order),
        }));
        result
    }
}

impl<S: 'static, H: RequestHandler<S>> RequestHandler<S> for Recorder<H> {
    fn setup(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        self.call("setup", request, H::setup)
    }
    fn handle(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        self.call(format!("handle {}", request.input.len()), request, H::handle)
    }
    fn finish(&mut self, request: &mut Request<'_, S>, why: EndReason) {
        let before = lock(&self.record).finished.replace(why);
        assert!(before.is_none(), "finish was called twice");
        self.call(format!("finish {why}"), request, |handler, request| handler.finish(request, why));
    }
    fn writable(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        self.call("writable", request, H::writable)
    }
    fn eof(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        self.call("eof", request, H::eof)
    }
    fn timed_out(&mut self, request: &mut Request<'_, S>, timeout: Timeout) -> Result<Next> {
        self.call(format!("timeout {timeout:?}"), request, |handler, request| handler.timed_out(request, timeout))
    }
    fn timer(&mut self, request: &mut Request<'_, S>, tag: u64) -> Result<Next> {
        self.call(format!("timer {tag}"), request, |handler, request| handler.timer(request, tag))
    }
    fn message(&mut self, request: &mut Request<'_, S>, message: Message) -> Result<Next> {
        self.call("message", request, |handler, request| handler.message(request, message))
    }
    fn drain(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        self.call("drain", request, H::drain)
    }
    fn connect_failed(&mut self, request: &mut Request<'_, S>, error: &Error) {
        self.call(format!("connect_failed {error:#}"), request, |handler, request| {
            handler.connect_failed(request, error);
        });
    }
}
