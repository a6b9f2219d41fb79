//! Servers that all workers close, at moments at which the control reactor does something else.

use super::ending::{is_refused, wait_until};
use super::*;

#[test]
fn an_acceptor_that_is_closed_before_it_has_begun_accepts_nobody() {
    let (go, wait) = channel::<()>();
    let mut wait = Some(wait);
    let workers = Workers::with_config(1, config(Spread::Handed, true), move |worker| {
        let wait = wait.take().expect("one worker is made");
        worker.workers().crew().control.run(move |_| _ = wait.recv_timeout(PATIENCE))?; // Before it accepts.
        let mut server = TcpServer::unbound(|_| Numbered(0));
        worker.server_bind(&mut server, "127.0.0.1:0")?;
        worker.add(server)
    });
    let (workers, address) = run(workers.unwrap());
    let close = |reactor: &mut crate::reactor::Reactor| {
        let server = reactor.inspect().servers[0].id;
        reactor.server_close(server);
    };
    workers.handles()[0].run(close).unwrap();
    wait_until(|| workers.server_addresses().is_empty());
    drop(go);
    wait_until(|| is_refused(address));
    workers.shutdown();
    join(workers).unwrap();
}
