//! What it costs to cut 64 KiB of input into messages, all of it in one callback.
//!
//!     cargo bench --bench framing              # measures
//!     cargo bench --bench framing -- --test    # runs each once, to see that it works
//!
//! - `nothing`: the same input is thrown away; what is left of the others above this is the cutting.
//! - `read_line`, `read_until`, `read_frame`: messages of the given size, delimiter or prefix included, until none is
//!   left. Bytes per second.
//! - `read_line_in_pieces`: one line of 64 KiB that arrives in pieces of the given size. If unread bytes were searched
//!   again with every piece, the time would grow with the square of the number of pieces.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use socketserver::testing::Client;
use socketserver::{Next, Prefix, Request, RequestHandler, Result};

fn main() {
    divan::main();
}

const TOTAL: usize = 64 * 1024;

struct Nothing;

impl RequestHandler for Nothing {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        black_box(request.input.take_all());
        Ok(Next::Wait)
    }
}

struct Lines;

impl RequestHandler for Lines {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        while let Some(line) = request.input.read_line()? {
            black_box(line);
        }
        Ok(Next::Wait)
    }
}

struct Blocks;

impl RequestHandler for Blocks {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        while let Some(block) = request.input.read_until(b"\r\n\r\n")? {
            black_box(block);
        }
        Ok(Next::Wait)
    }
}

struct Frames;

impl RequestHandler for Frames {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        while let Some(payload) = request.input.read_frame(Prefix::U32Be)? {
            black_box(payload);
        }
        Ok(Next::Wait)
    }
}

/// Feeds `input` in pieces of so many bytes, all of them once in each round.
fn feed(bencher: Bencher<'_, '_>, handler: impl RequestHandler, input: &[u8], piece: usize) {
    let mut client = Client::new(handler);
    bencher.counter(BytesCount::new(input.len())).bench_local(|| {
        input.chunks(piece).for_each(|piece| client.feed(piece));
    });
    assert!(!client.is_closed(), "no limit may be passed");
}

/// Messages of `size` bytes that end with `end`, 64 KiB of them.
fn delimited(size: usize, end: &[u8]) -> Vec<u8> {
    let mut message = vec![b'x'; size];
    message[size - end.len()..].copy_from_slice(end);
    message.repeat(TOTAL / size)
}

#[divan::bench]
fn nothing(bencher: Bencher<'_, '_>) {
    feed(bencher, Nothing, &vec![b'x'; TOTAL], TOTAL);
}

#[divan::bench(args = [16, 256, 4_096])]
fn read_line(bencher: Bencher<'_, '_>, size: usize) {
    feed(bencher, Lines, &delimited(size, b"\n"), TOTAL);
}

#[divan::bench(args = [16, 256, 4_096])]
fn read_until(bencher: Bencher<'_, '_>, size: usize) {
    feed(bencher, Blocks, &delimited(size, b"\r\n\r\n"), TOTAL);
}

#[divan::bench(args = [16, 256, 4_096])]
fn read_frame(bencher: Bencher<'_, '_>, size: usize) {
    let mut message = vec![b'x'; size];
    message[..4].copy_from_slice(&(size as u32 - 4).to_be_bytes());
    feed(bencher, Frames, &message.repeat(TOTAL / size), TOTAL);
}

#[divan::bench(args = [512, 4_096, 65_536])]
fn read_line_in_pieces(bencher: Bencher<'_, '_>, piece: usize) {
    feed(bencher, Lines, &delimited(TOTAL, b"\n"), piece);
}
