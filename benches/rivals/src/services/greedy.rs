//! How long a polite client waits for its answers beside clients that ask for as much as they can.

use super::Service;
use super::loads::percentiles;
use crate::process::check_interrupt;
use serde::Serialize;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Of one polite client. Times in microseconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Wait {
    pub(super) program: String,
    pub(super) service: Service,
    /// How many clients were greedy.
    pub(super) beside: usize,
    /// 50, 99 and 99.9 % of the answers took at most this long.
    pub(super) latencies: [f64; 3],
}

/// How many greedy clients there are.
pub(super) const NUMBERS: [usize; 3] = [1, 10, 50];

/// Requests that a greedy client sends at once. It sends more as soon as the socket takes them.
const BATCH_BYTES: usize = 32 << 10;
/// Between an answer to the polite client and its next request.
const PAUSE: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn wait(service: Service, address: SocketAddr, greedy: usize, length: Duration) -> Result<Wait, String> {
    let request = service.polite_request();
    let is_over = AtomicBool::new(false);
    let batch = request.repeat(BATCH_BYTES / request.len());
    let times = thread::scope(|scope| {
        let crowd = scope.spawn(|| crowd(address, greedy, &batch, &is_over));
        let times = polite(address, &request, length);
        is_over.store(true, Ordering::Relaxed);
        let crowd = crowd.join().map_err(|_| io::Error::other("the greedy clients panicked"));
        crowd.and_then(|result| result).map_err(|error| format!("a greedy client: {error}"))?;
        times.map_err(|error| format!("the polite client: {error}"))
    });
    let mut times: Vec<f64> = times?.iter().map(|time| time.as_secs_f64() * 1e6).collect();
    let latencies = percentiles(&mut times).ok_or("the polite client had no answer")?;
    check_interrupt()?;
    Ok(Wait { program: String::new(), service, beside: greedy, latencies })
}

fn polite(address: SocketAddr, request: &[u8], length: Duration) -> io::Result<Vec<Duration>> {
    let mut client = TcpStream::connect(address)?;
    client.set_nodelay(true)?;
    client.set_read_timeout(Some(PATIENCE))?;
    let (begun, mut times) = (Instant::now(), Vec::new());
    while begun.elapsed() < length || times.is_empty() {
        thread::sleep(PAUSE);
        let asked = Instant::now();
        client.write_all(request)?;
        // Its answers are small, and come in one piece.
        if client.read(&mut [0; 4_096])? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        times.push(asked.elapsed());
    }
    Ok(times)
}

/// Clients that write whenever they can and read whatever comes, until it is over.
fn crowd(address: SocketAddr, number: usize, batch: &[u8], is_over: &AtomicBool) -> io::Result<()> {
    let connect = |_| {
        let client = TcpStream::connect(address)?;
        client.set_nonblocking(true)?;
        Ok((client, 0))
    };
    let mut clients: Vec<(TcpStream, usize)> = (0..number).map(connect).collect::<io::Result<_>>()?;
    let mut answers = vec![0; 256 << 10];
    let moved = |result: io::Result<usize>| match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        result => result,
    };
    while !is_over.load(Ordering::Relaxed) {
        let mut is_idle = true;
        for (client, sent) in &mut clients {
            let written = moved(client.write(&batch[*sent..]))?;
            *sent = (*sent + written) % batch.len();
            is_idle &= written + moved(client.read(&mut answers))? == 0;
        }
        if is_idle {
            thread::sleep(Duration::from_micros(100));
        }
    }
    Ok(())
}
