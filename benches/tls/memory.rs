//! Memory of an idle connection: the growth of the private pages of the server's processes, divided by the connections.

use clap::ValueEnum;

use crate::certificate::Certificate;
use crate::clients::{Clients, Situation};
use crate::contenders::{Contender, Server};
use crate::table::table;

pub(crate) fn measure(
    contenders: &[Contender],
    connections: usize,
    descriptors: u64,
    certificate: &Certificate,
    failures: &mut Vec<String>,
) {
    // The raw loop keeps one connection at a time.
    let contenders: Vec<_> = contenders.iter().copied().filter(|contender| *contender != Contender::Raw).collect();
    // A proxy has two descriptors for a connection, and some of its own.
    let of_proxy = connections.min(usize::try_from(descriptors).unwrap_or(usize::MAX).saturating_sub(1_000) / 2);
    let names = contenders.iter().map(ToString::to_string);
    let mut table = table(std::iter::once("bytes of an idle connection".to_owned()).chain(names));

    eprintln!("memory: socketserver without TLS");
    let plain = Server::own("plain", certificate);
    let plain = plain.and_then(|server| growth(&server, connections, Situation::Silent, certificate));
    let mut row = vec!["without TLS, silent".to_owned(), or_failure("socketserver without TLS", plain, failures)];
    row.resize(1 + contenders.len(), String::new());
    table.add_row(row);

    for &situation in Situation::value_variants() {
        let mut row = vec![situation.describe().to_owned()];
        for contender in &contenders {
            eprintln!("memory: {contender}, {}", situation.describe());
            let number = if contender.is_proxy() { of_proxy } else { connections };
            // A process of its own for each, so that nothing is left of the one before.
            let server = contender.start(certificate);
            let bytes = server.and_then(|server| growth(&server, number, situation, certificate));
            row.push(or_failure(&contender.to_string(), bytes, failures));
        }
        table.add_row(row);
    }
    println!("\nMemory, with {connections} connections, and {of_proxy} of nginx and HAProxy:\n\n{table}");
}

fn growth(server: &Server, number: usize, situation: Situation, certificate: &Certificate) -> Result<f64, String> {
    // A few that come and go, for everything that is made only once.
    drop(Clients::start(server.address, 50, situation, certificate)?);
    let before = server.process.private_bytes();
    let _clients = Clients::start(server.address, number, situation, certificate)?;
    Ok((server.process.private_bytes() as f64 - before as f64) / number as f64)
}

fn or_failure(name: &str, bytes: Result<f64, String>, failures: &mut Vec<String>) -> String {
    bytes.map(|bytes| format!("{bytes:.0}")).unwrap_or_else(|why| {
        failures.push(format!("{name}: {why}"));
        "-".to_owned()
    })
}
