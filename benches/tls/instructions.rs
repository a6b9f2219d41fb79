//! Instructions of the turns of this crate's loop and of the raw one, counted by callgrind.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpListener;
use rustls::ServerConfig;
use socketserver::{Reactor, ReactorConfig};

use crate::certificate::Certificate;
use crate::drive::{self, Work};
use crate::raw::{Buffers, Connection};
use crate::serve::add_echo;
use crate::table::table;

pub(crate) fn measure(certificate: &Certificate) {
    let columns = ["instructions, each", "without TLS", "this crate", "raw loop", "ratio"];
    let mut table = table(columns.map(str::to_owned));
    for (work, number) in [(Work::Crowd, 640), (Work::Messages, 100), (Work::Handshakes, 20), (Work::Mebibytes, 2)] {
        eprintln!("instructions: {}", work.describe());
        let each = |server| each(server, work, number, certificate);
        let Some(ours) = each(Counted::Ours) else {
            println!("\nInstructions: skipped, there is no valgrind (Debian's package: valgrind)");
            return;
        };
        let plain = if matches!(work, Work::Crowd | Work::Messages) { each(Counted::Plain) } else { None };
        // The raw loop has one client.
        let raw = if work == Work::Crowd { None } else { each(Counted::Raw) };
        let text = |figure: Option<f64>, digits| figure.map(|figure| format!("{figure:.digits$}")).unwrap_or_default();
        let ratio = raw.map(|raw| ours / raw);
        table.add_row([work.describe().to_owned(), text(plain, 0), text(Some(ours), 0), text(raw, 0), text(ratio, 3)]);
    }
    println!("\nInstructions of the server, by callgrind:\n\n{table}");
}

/// The servers that are counted.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Counted {
    Plain,
    Ours,
    Raw,
}

/// `None`: there is no valgrind.
fn each(server: Counted, work: Work, number: usize, certificate: &Certificate) -> Option<f64> {
    // The difference of two runs, so that what happens once does not count.
    let counted = |number| callgrind(server, work, number, certificate);
    Some((counted(2 * number)? - counted(number)?) / number as f64)
}

fn callgrind(server: Counted, work: Work, number: usize, certificate: &Certificate) -> Option<f64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    valgrind.args(["--toggle-collect=*instructions::turn*", "--toggle-collect=*instructions::raw_turn*"]);
    // callgrind counts each byte of `rep movsb` as an instruction.
    valgrind.env(
        "GLIBC_TUNABLES",
        "glibc.cpu.x86_rep_movsb_threshold=1073741824:glibc.cpu.x86_rep_stosb_threshold=1073741824",
    );
    valgrind.arg(std::env::current_exe().expect("it is this program")).arg("count");
    valgrind.args([value(server), value(work), number.to_string()]).arg(certificate.directory());
    let output = valgrind.stdout(Stdio::null()).stderr(Stdio::piped()).output().ok()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let line = said.lines().find(|line| line.contains("Collected"))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn value(value: impl clap::ValueEnum) -> String {
    value.to_possible_value().expect("all of them are possible").get_name().to_owned()
}

/// What callgrind runs: a server and its client in one thread.
pub(crate) fn count(server: Counted, work: Work, number: usize, certificate: &Certificate) {
    let (client, config) = (certificate.client(), certificate.server());
    match server {
        Counted::Plain => ours(None, |address, go_on| drive::drive(work, number, address, None, go_on)),
        Counted::Ours => ours(Some(config), |address, go_on| drive::drive(work, number, address, Some(&client), go_on)),
        Counted::Raw => {
            let listener = TcpListener::bind(([127, 0, 0, 1], 0).into()).expect("there is a port");
            let address = listener.local_addr().expect("it is bound");
            let (mut current, mut buffers) = (None, Buffers::default());
            drive::drive(work, number, address, Some(&client), &mut || {
                raw_turn(&listener, &config, &mut current, &mut buffers);
            });
        }
    }
}

fn ours(tls: Option<Arc<ServerConfig>>, drive: impl FnOnce(std::net::SocketAddr, &mut dyn FnMut())) {
    let mut config = ReactorConfig::default();
    // Under callgrind, time passes fifty times as fast.
    config.turn_length = Duration::from_secs(10);
    let mut reactor = Reactor::with_config(config).expect("a reactor");
    let id = add_echo(&mut reactor, ([127, 0, 0, 1], 0).into(), tls);
    let address = reactor.server_addresses(id)[0].as_inet().expect("it is of TCP");
    drive(address, &mut || turn(&mut reactor));
}

#[inline(never)]
fn turn(reactor: &mut Reactor) {
    reactor.poll(Some(Duration::ZERO)).expect("it polls");
}

#[inline(never)]
fn raw_turn(
    listener: &TcpListener,
    config: &Arc<ServerConfig>,
    current: &mut Option<Connection>,
    buffers: &mut Buffers,
) {
    if let Some(connection) = Connection::accept(listener, config) {
        *current = Some(connection);
    }
    if let Some(connection) = current {
        connection.echo(buffers);
    }
}
