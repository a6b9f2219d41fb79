//! CPU of the server's processes for a handshake and for a MiB, in rounds in which each server has its turn.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use crate::certificate::Certificate;
use crate::client;
use crate::contenders::{Contender, Server};
use crate::table::table;

pub(crate) fn measure(contenders: &[Contender], quick: bool, certificate: &Certificate, failures: &mut Vec<String>) {
    let (rounds, handshakes, mebibytes) = if quick { (1, 100, 20) } else { (9, 2_000, 500) };
    let mut servers = Vec::new();
    for contender in contenders {
        match contender.start(certificate) {
            Ok(server) => servers.push((*contender, server)),
            Err(why) => failures.push(why),
        }
    }
    let config = certificate.client();
    // The time of each server in each round.
    let mut times = [const { Vec::<Vec<f64>>::new() }; 2];
    for round in 1..=rounds {
        for (task, times) in [Task::Handshakes(handshakes), Task::Mebibytes(mebibytes)].into_iter().zip(&mut times) {
            eprintln!("cpu: round {round} of {rounds}, {task:?}");
            let of_server = |(contender, server): &(Contender, Server)| {
                task.time(server, &config).unwrap_or_else(|error| {
                    failures.push(format!("{contender}: {error}"));
                    f64::NAN
                })
            };
            times.push(servers.iter().map(of_server).collect());
        }
    }
    let names = ["", "µs for a handshake", "ratio", "µs for 1 MiB in each direction", "ratio"];
    let raw = servers.iter().position(|(contender, _)| *contender == Contender::Raw).expect("it is built in");
    let mut table = table(names.map(str::to_owned));
    for (index, (contender, _)) in servers.iter().enumerate() {
        let mut row = vec![contender.to_string()];
        for times in &times {
            row.push(format!("{:.0}", median(times.iter().map(|round| round[index]))));
            // To the raw loop in the same round.
            row.push(format!("{:.2}", median(times.iter().map(|round| round[index] / round[raw]))));
        }
        table.add_row(row);
    }
    println!("\nCPU of the server, and its ratio to the raw loop's: the medians of {rounds} rounds:\n\n{table}");
}

#[derive(Clone, Copy, Debug)]
enum Task {
    Handshakes(u32),
    Mebibytes(u32),
}

impl Task {
    /// In microseconds, for one of them.
    fn time(self, server: &Server, config: &Arc<ClientConfig>) -> io::Result<f64> {
        let connect = || client::connect(server.address, config);
        let begun = server.process.cpu();
        let number = match self {
            Task::Handshakes(number) => {
                // The server has done the handshake when it has echoed a byte. Both ends say that they close.
                (0..number).try_for_each(|_| {
                    let mut stream = connect()?;
                    client::exchange(&mut stream, 1)?;
                    client::close(stream)
                })?;
                number
            }
            Task::Mebibytes(number) => {
                let mut stream = connect()?;
                client::exchange_many(&mut stream, 16 * number)?;
                number
            }
        };
        Ok(micros(server.process.cpu() - begun) / f64::from(number))
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
