//! The contenders: which servers are here, how each is started, and why the others are absent.

use crate::job::Job;
use crate::options::Benchmark;
use crate::process::output;
use crate::scenario::REFERENCES;
use clap::ValueEnum;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// A server that can be started.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    /// As in `--only` and in the tables.
    pub(crate) name: String,
    /// Of its library and of what that runs on.
    pub(crate) version: String,
    pub(crate) thread_per_client: bool,
    /// Machine code, whose instructions callgrind counts in reasonable time.
    pub(crate) native: bool,
    pub(crate) jobs: Vec<Job>,
    /// That serve clients.
    pub(crate) threads: usize,
    /// The program and its arguments, with `{job}` and `{addr}` in them.
    words: Vec<String>,
}

/// The name of a server that cannot be started here, what is missing, and what brings it.
pub(crate) type Absent = (String, String);

/// All that are known, in the order of the tables.
const KNOWN: [&str; 11] = [
    "epoll",
    "mio",
    "socketserver",
    "calloop",
    "tokio",
    "libuv",
    "threads",
    "python-threading",
    "asyncio",
    "node",
    "recv_from",
];

/// Finds those of `only` (all, if it is empty), the references that they are compared with, and then the `guests` from
/// the command line.
///
/// # Errors
///
/// A name in `only` that no contender has; a guest whose name is taken, or without `{addr}`.
pub(crate) fn find(
    benchmark: Benchmark,
    only: &[String],
    guests: &[(String, String)],
) -> Result<(Vec<Contender>, Vec<Absent>), String> {
    let known_names = names(benchmark);
    let has_name = |name: &String| known_names.contains(name) || guests.iter().any(|guest| guest.0 == *name);
    if let Some(name) = only.iter().find(|&name| !has_name(name)) {
        return Err(format!("no contender is called {name}; there are {}", known_names.join(", ")));
    }
    let wanted = |name: &str| only.is_empty() || only.iter().any(|wanted| wanted == name) || REFERENCES.contains(&name);
    let (mut contenders, mut absent) = (Vec::new(), Vec::new());
    for name in known_names.iter().filter(|name| wanted(name)) {
        match known(name) {
            Ok(contender) => contenders.push(contender),
            Err(reason) => absent.push((name.clone(), reason)),
        }
    }
    for (name, command) in guests {
        if contenders.iter().any(|other| other.name == *name) || known_names.contains(name) {
            return Err(format!("--server {name}: the name is taken"));
        }
        contenders.push(guest(name, command)?);
    }
    Ok((contenders, absent))
}

impl Contender {
    /// The program that serves `job` at `address`, and its arguments.
    pub(crate) fn command(&self, job: Job, address: SocketAddr) -> Vec<String> {
        let fill = |word: &String| word.replace(JOB, &job.to_string()).replace(ADDRESS, &address.to_string());
        self.words.iter().map(fill).collect()
    }
}

/// All of a benchmark. Those with several threads are there with 1, 2, and as many as there are CPUs.
fn names(benchmark: Benchmark) -> Vec<String> {
    if benchmark != Benchmark::Cores {
        return KNOWN.map(str::to_owned).to_vec();
    }
    let cpus = std::thread::available_parallelism().map_or(2, usize::from);
    let numbers = [1, 2].into_iter().chain((cpus > 2).then_some(cpus));
    let threaded = numbers.flat_map(|number| THREADED.map(|name| format!("{name}-{number}")));
    [REFERENCES[0].to_owned()].into_iter().chain(threaded).collect()
}

/// Those of several threads.
const THREADED: [&str; 3] = ["workers", "handed", "tokio-threads"];

const ADDRESS: &str = "{addr}";
const JOB: &str = "{job}";

/// The one of that name in [`KNOWN`], or why it is absent.
fn known(name: &str) -> Result<Contender, String> {
    let (version, words) = match name {
        "libuv" => libuv()?,
        "python-threading" => python("threading_tcp.py")?,
        "asyncio" => python("asyncio_echo.py")?,
        "node" => node()?,
        _ => rust(name)?,
    };
    let threads = threads(name).map_or(1, |(_, threads)| threads);
    let mut arguments = [JOB, ADDRESS].map(str::to_owned).to_vec();
    if threads > 1 {
        arguments.push(format!("--threads={threads}"));
    }
    Ok(Contender {
        name: name.to_owned(),
        version,
        thread_per_client: matches!(name, "threads" | "python-threading"),
        native: !matches!(name, "python-threading" | "asyncio" | "node"),
        jobs: match name {
            "epoll" | "threads" => vec![Job::Echo, Job::EchoOnce],
            "recv_from" => vec![Job::Datagrams],
            name if self::threads(name).is_some() => vec![Job::Echo],
            _ => Job::value_variants().to_vec(),
        },
        threads,
        words: [words, arguments].concat(),
    })
}

/// What a name with a number of threads consists of: `workers-2`.
fn threads(name: &str) -> Option<(&str, usize)> {
    let (name, number) = name.rsplit_once('-')?;
    Some((name, number.parse().ok()?)).filter(|(name, _)| THREADED.contains(name))
}

/// From `--server NAME='COMMAND'`. The shell becomes the server, so that the process that is measured is the server's.
fn guest(name: &str, command: &str) -> Result<Contender, String> {
    if !command.contains(ADDRESS) {
        return Err(format!("--server {name}: there is no {ADDRESS} in {command:?}"));
    }
    Ok(Contender {
        name: name.to_owned(),
        version: command.to_owned(),
        thread_per_client: false,
        // It may be, but that is unknown.
        native: false,
        threads: 1,
        jobs: if command.contains(JOB) { Job::value_variants().to_vec() } else { vec![Job::Echo] },
        words: ["sh", "-c", &format!("exec {command}")].map(str::to_owned).to_vec(),
    })
}

/// A version, and the words that the command begins with.
type Start = (String, Vec<String>);

/// A server of this very program.
fn rust(name: &str) -> Result<Start, String> {
    let this = std::env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
    let name = threads(name).map_or(name, |(name, _)| name);
    let version = match name {
        "workers" | "handed" => locked_version("socketserver"),
        "tokio-threads" => locked_version("tokio"),
        "epoll" => locked_version("rustix"),
        "threads" | "recv_from" => "the standard library".to_owned(),
        library => locked_version(library),
    };
    Ok((version, vec![text(this)?, "serve".to_owned(), name.to_owned()]))
}

/// The version of a library as the workspace's `Cargo.lock` had it when this program was built.
pub(crate) fn locked_version(library: &str) -> String {
    let lock_file: toml::Table = include_str!("../../../Cargo.lock").parse().unwrap_or_default();
    let packages = lock_file.get("package").and_then(|packages| packages.as_array().cloned()).unwrap_or_default();
    let text = |package: &toml::Value, key| package.get(key).and_then(|value| value.as_str().map(str::to_owned));
    // Of a library with several versions in the file, this package says which one it depends on.
    let this = packages.iter().find(|package| text(package, "name").as_deref() == Some(env!("CARGO_PKG_NAME")));
    let own = this.and_then(|this| this.get("dependencies")?.as_array()).into_iter().flatten();
    let own = own.filter_map(|dependency| dependency.as_str()?.split_once(' ')).find(|(name, _)| *name == library);
    let only = packages.iter().find(|package| text(package, "name").as_deref() == Some(library));
    let version = own.map(|(_, version)| version.to_owned()).or_else(|| only.and_then(|only| text(only, "version")));
    version.map_or_else(|| library.to_owned(), |version| format!("{library} {version}"))
}

/// Compiled here into cargo's target directory, which takes less than a second.
fn libuv() -> Result<Start, String> {
    let asked = |option| last_line(&["pkg-config", option, "libuv"]);
    let version = asked("--modversion").map_err(|error| format!("{error}; Debian: pkg-config libuv1-dev"))?;
    let program = text(target_directory()?.join("libuv-echo"))?;
    let flags = [asked("--cflags")?, asked("--libs")?].join(" ");
    let source = source("uv.c")?;
    let mut words = vec!["cc", "-O2", "-o", &program, &source];
    words.extend(flags.split_whitespace());
    output(&words)?;
    Ok((format!("libuv {version}"), vec![program]))
}

fn python(file: &str) -> Result<Start, String> {
    // The interpreter itself, rather than a script of that name in the search path.
    let script = "import platform, sys; print(platform.python_version(), sys.executable)";
    let line = last_line(&["python3", "-c", script]).map_err(|error| format!("{error}; Debian: python3"))?;
    let (version, program) = line.split_once(' ').ok_or("python3 does not know where it is")?;
    Ok((format!("Python {version}"), vec![program.to_owned(), source(file)?]))
}

fn node() -> Result<Start, String> {
    let version = last_line(&["node", "--version"]).map_err(|error| format!("{error}; Debian: nodejs"))?;
    Ok((format!("Node.js {version}"), vec!["node".to_owned(), source("node_echo.js")?]))
}

/// The last line that a program writes; warnings may come before it.
fn last_line(words: &[&str]) -> Result<String, String> {
    Ok(output(words)?.trim().lines().last().unwrap_or_default().to_owned())
}

/// A server in another language.
fn source(file: &str) -> Result<String, String> {
    text(Path::new(env!("CARGO_MANIFEST_DIR")).join("servers").join(file))
}

/// Cargo's, which this program is in: target/release/rivals.
pub(crate) fn target_directory() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
    Ok(program.ancestors().nth(2).unwrap_or(Path::new("target")).to_owned())
}

fn text(path: PathBuf) -> Result<String, String> {
    path.into_os_string().into_string().map_err(|path| format!("{} is no text", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_braces_are_replaced() {
        let command = |text| guest("mine", text).expect("a guest").command(Job::EchoOnce, ([127, 0, 0, 1], 7).into());
        assert_eq!(command("run --at={addr} {job} {else}")[2], "exec run --at=127.0.0.1:7 echo-once {else}");
    }

    #[test]
    fn a_guest_does_other_jobs_if_it_is_told_which() {
        let jobs = |command| guest("mine", command).expect("a guest").jobs;
        assert_eq!(jobs("run {addr}"), [Job::Echo]);
        assert_eq!(jobs("run {job} {addr}"), [Job::Echo, Job::EchoOnce, Job::Datagrams]);
    }

    #[test]
    fn a_name_can_have_a_number_of_threads() {
        assert_eq!(threads("tokio-threads-12"), Some(("tokio-threads", 12)));
        assert_eq!([threads("tokio-threads"), threads("python-threading"), threads("epoll-2")], [None; 3]);
        let command = known("workers-2").expect("it is of this program").command(Job::Echo, ([127, 0, 0, 1], 7).into());
        assert_eq!(command[1..], ["serve", "workers", "echo", "127.0.0.1:7", "--threads=2"]);
    }

    #[test]
    fn wrong_names_and_commands_are_refused() {
        let refused = |only: &[&str], guests: &[(&str, &str)]| {
            let only: Vec<String> = only.iter().map(|&name| name.to_owned()).collect();
            let guests: Vec<_> = guests.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect();
            find(Benchmark::Echo, &only, &guests).expect_err("refused")
        };
        assert!(refused(&["epol"], &[]).contains("epol;"));
        assert!(refused(&["epoll"], &[("mine", "run {address}")]).contains("no {addr}"));
        assert!(refused(&["epoll"], &[("tokio", "run {addr}")]).contains("taken"));
        assert!(refused(&["epoll"], &[("mine", "run {addr}"), ("mine", "run {addr}")]).contains("taken"));
    }
}
