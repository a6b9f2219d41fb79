//! What a turn of the loop costs: event in, callback, bytes out, and what stands around it.
//!
//!     cargo bench --bench turn              # measures
//!     cargo bench --bench turn -- --test    # runs each once, to see that it works
//!
//! The socket is the testing kit's, so there is no system call in these figures, but a lock and a copy of the script's
//! own. They are good for comparing two versions of the crate; what a server does over the network is measured with
//! sockets. Instructions over loopback are counted by `dispatch`.
//!
//! - `echo`: one message of so many bytes arrives, is handled, and its answer leaves. Time per message.
//! - `lines`: a block of 64-byte lines arrives at once and each is answered. Time and lines per second of the block.
//! - `connect_and_close`: a reactor is made, one client is served from `setup` to `finish`, and all is dropped. Mostly the
//!   making: the read buffer is allocated, and the limit of descriptors is read from the system.
//! - `message_from_outside`: `Handle::send` to a connection and its `message` callback. Time per message.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use socketserver::testing::Client;
use socketserver::{Message, Next, Request, RequestHandler, Result};
use std::io::Write;

fn main() {
    divan::main();
}

struct Echo;

impl RequestHandler for Echo {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        request.output.write_all(request.input.take_all())?;
        Ok(Next::Wait)
    }

    fn message(&mut self, _request: &mut Request<'_>, message: Message) -> Result<Next> {
        black_box(message.is::<u64>());
        Ok(Next::Wait)
    }
}

struct EchoLines;

impl RequestHandler for EchoLines {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        while let Some(line) = request.input.read_line()? {
            request.output.write_all(line)?;
        }
        Ok(Next::Wait)
    }
}

#[divan::bench(args = [16, 1_024, 65_536])]
fn echo(bencher: Bencher<'_, '_>, bytes: usize) {
    let message = vec![b'x'; bytes];
    let mut client = Client::new(Echo);
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        client.feed(&message);
        black_box(client.take_sent())
    });
}

#[divan::bench(args = [1, 16, 256])]
fn lines(bencher: Bencher<'_, '_>, lines: usize) {
    let mut line = [b'x'; 64];
    line[63] = b'\n';
    let block = line.repeat(lines);
    let mut client = Client::new(EchoLines);
    bencher.counter(ItemsCount::new(lines)).bench_local(|| {
        client.feed(&block);
        black_box(client.take_sent())
    });
}

#[divan::bench]
fn connect_and_close(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| {
        let mut client = Client::new(Echo);
        client.feed_eof();
        black_box(client.finished())
    });
}

#[divan::bench]
fn message_from_outside(bencher: Bencher<'_, '_>) {
    let mut client = Client::new(Echo);
    bencher.bench_local(|| client.message(black_box(7u64)));
}
