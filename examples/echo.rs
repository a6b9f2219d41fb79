//! tmp
use socketserver::{Next, Request, RequestHandler, Result, TcpServer};
use std::io::Write;
struct Echo;
impl RequestHandler for Echo {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        request.output.write_all(request.input.take_all())?;
        Ok(Next::Wait)
    }
}
fn main() -> Result<()> {
    let mut s = TcpServer::new(std::env::args().nth(1).unwrap_or("127.0.0.1:9999".into()).as_str(), |_| Echo)?;
    s.shutdown_on_signals()?;
    s.serve_forever()
}
