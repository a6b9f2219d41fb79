//! Several reactors on several threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fastrand::Rng;
use socketserver::family::{Tcp, UnixStream};
use socketserver::{Error, InheritedSockets, Limits, Request, Server, Spread, Workers, WorkersConfig, WorkersHandle};
use socketserver::{Result, TcpOptions, UnixOptions, Worker};

use crate::clients::Crowd;
use crate::common::{Kind as _, echo, probe};
use crate::ledger::Ledger;
use crate::methods::call;
use crate::watchdog::step;

/// Workers from their start to their end, with clients that do anything.
pub(crate) fn play(rng: &mut Rng, ledger: &Arc<Ledger>) {
    step("workers");
    let mut config = WorkersConfig::default();
    config.reactor.drain_grace = std::time::Duration::from_millis(rng.u64(..100));
    (config.spread, config.replace_failed) = (if rng.bool() { Spread::Kernel } else { Spread::Handed }, rng.bool());
    let ((path, directory), mut seeds) = (UnixStream::place(), Rng::with_seed(rng.u64(..)));
    let make = move |worker: &mut Worker| make(worker, &mut seeds, &path);
    let count = rng.usize(1..4);
    let started = match rng.bool() {
        true => call!(Workers::new(count, make)),
        false => call!(Workers::with_config(count, config, make)),
    };
    let Some(mut workers) = ledger.only("Workers::new", started, |_| false) else { return };
    ledger.only("shutdown_on_signals", call!(Workers::shutdown_on_signals(&mut workers)), |_| false);
    let handle = call!(Workers::handle(&workers));
    ledger.only("reload_on_signal", call!(Workers::reload_on_signal(&mut workers)), |_| false);
    ledger.only("restart_on_signal", call!(Workers::restart_on_signal(&mut workers)), |_| false);
    ledger.only("notify_supervisor", call!(Workers::notify_supervisor(&mut workers)).map(drop), |_| false);
    if rng.u32(..4) == 0 {
        return; // They never serve.
    }
    let serving = std::thread::spawn(move || call!(Workers::serve_forever(workers)));
    let mut crowd = Crowd::default();
    for _ in 0..rng.u32(..20) {
        let address = rng.choice(call!(WorkersHandle::server_addresses(&handle))).expect("it has some");
        crowd.come(rng, &address);
        crowd.act(rng);
    }
    let full = |error: &Error| matches!(error, Error::Full { .. });
    ledger.only("broadcast", call!(WorkersHandle::broadcast(&handle, "to all")), full);
    let ran = Arc::new(AtomicBool::new(false));
    let runs = Arc::clone(&ran);
    ledger.only("run", call!(WorkersHandle::run(&handle, move |_| runs.store(true, Ordering::Relaxed))), full);
    ledger.only("stats", call!(WorkersHandle::stats(&handle)), full);
    let inspected = ledger.only("inspect", call!(WorkersHandle::inspect(&handle)), full).unwrap_or_default();
    let _: Vec<String> = inspected.iter().map(ToString::to_string).collect();
    for server in inspected.iter().flat_map(|worker| &worker.servers) {
        let sent = call!(WorkersHandle::send_to_counterparts(&handle, server.id, 7_u8));
        ledger.only("send_to_counterparts", sent, full);
    }
    ledger.expect(ran.load(Ordering::Relaxed), "what was submitted first is run first");
    ledger.expect(call!(WorkersHandle::handles(&handle)).len() == count, "each worker has a handle");
    match rng.bool() {
        true => call!(WorkersHandle::shutdown(&handle)),
        false => call!(WorkersHandle::shutdown_now(&handle)),
    }
    // Its process has no sockets with names, or it stops.
    let _ = call!(WorkersHandle::restart(&handle));
    ledger.only("serve_forever", serving.join().expect("it does not panic"), |_| false);
    drop(directory);
}

fn make(worker: &mut Worker, rng: &mut Rng, path: &socketserver::UnixAddress) -> Result<()> {
    let handler = |_: &_| probe(|call, request: &mut Request<'_>| echo(&call, request));
    let mut server = Server::<Tcp, (), _>::unbound(handler);
    server.limits = Limits::default();
    server.limits.connections_max = Some(rng.usize(1..10));
    call!(Worker::server_bind(worker, &mut server, "127.0.0.1:0"))?;
    call!(Worker::server_bind_with(worker, &mut server, "127.0.0.1:0", TcpOptions::default()))?;
    call!(Worker::server_bind_as::<UnixStream>(worker, &mut server, path.clone(), UnixOptions::default()))?;
    let mut none = InheritedSockets::default();
    call!(Worker::inherit_or_bind(worker, &mut server, &mut none, 0, "127.0.0.1:0"))?;
    let options = TcpOptions::default();
    call!(Worker::inherit_or_bind_with(worker, &mut server, &mut none, "a", "127.0.0.1:0", options.clone()))?;
    call!(Worker::inherit_or_bind_as::<Tcp>(worker, &mut server, &mut none, "a", "127.0.0.1:0", options))?;
    let (number, _all) = (call!(Worker::number(worker)), call!(Worker::workers(worker)));
    if number == 0 {
        let reactor = call!(Worker::reactor(worker));
        reactor.add(Server::<Tcp, (), _>::new("127.0.0.1:0", handler)?)?;
    }
    call!(Worker::add(worker, server)).map(drop)
}
