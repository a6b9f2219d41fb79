//! They stand here because they bind sockets of any kind through a hook of their own, and because no program may be
//! started while one of them looks at what is stale.

use std::any::Any;
use std::io::{BufRead, BufReader, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, PoisonError, RwLock};

use socket2::{Domain, SockAddr, Socket, Type};

use super::*;

/// A directory of the test's own, which goes with it; and a guard of [`FORKS`].
struct Scratch(PathBuf, #[expect(dead_code, reason = "held")] Box<dyn Any>);

/// A child shares our descriptors from fork to exec, and a socket that a test has closed stays open for that time: a
/// test that starts programs does so while no other test runs here.
static FORKS: RwLock<()> = RwLock::new(());

impl Scratch {
    fn new() -> Self {
        Scratch::with(FORKS.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// For a test that starts programs.
    fn of_programs() -> Self {
        Scratch::with(FORKS.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn with(guard: impl Any) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("socketserver-path-{}-{count}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Scratch(path, Box::new(guard))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn is_empty(&self) -> bool {
        fs::read_dir(&self.0).unwrap().next().is_none()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn socket(kind: Type) -> Socket {
    let socket = Socket::new(Domain::UNIX, kind, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn bind(socket: &Socket, path: &Path) -> io::Result<()> {
    socket.bind(&SockAddr::unix(path)?)
}

fn bound(socket: &Socket, path: &Path, mode: Option<u32>) -> io::Result<BoundPath> {
    bind_path(path, mode, socket.as_fd(), || bind(socket, path))
}

fn leave_stale(kind: Type, path: &Path) {
    bind(&socket(kind), path).unwrap();
}

fn identity(path: &Path) -> (u64, u64, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.dev(), found.ino(), found.mode())
}

fn permissions(path: &Path) -> u32 {
    identity(path).2 & 0o7777
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Read without being changed, which would meet the other tests.
#[cfg(target_os = "linux")]
fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap();
    u32::from_str_radix(umask.trim(), 8).unwrap()
}

/// This program once more, with `test` only, under a shell that first runs `prelude`.
fn again(prelude: &str, test: &str, role: &str) -> Command {
    let module = module_path!().split_once("::").unwrap().1;
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{prelude}; exec \"$0\" \"$@\"")]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("{module}::{test}"), "--nocapture"]).env(ROLE, role);
    command
}

const ROLE: &str = "SOCKETSERVER_PATH_TEST";
/// Not every system has the second for Unix sockets.
const CONNECTED: &[Type] = if cfg!(target_os = "linux") { &[Type::STREAM, Type::SEQPACKET] } else { &[Type::STREAM] };
const RACERS: usize = 16;
const ROUNDS: usize = 200;

#[test]
#[cfg(target_os = "linux")]
fn the_mode_is_never_wider_than_requested() {
    for kind in [Type::STREAM, Type::DGRAM, Type::SEQPACKET] {
        for mode in [0o000, 0o200, 0o600, 0o660, 0o666, 0o755, 0o777] {
            let scratch = Scratch::new();
            let path = scratch.at("s");
            let socket = socket(kind);
            let hook = || {
                bind(&socket, &path)?;
                assert_eq!(permissions(&path), mode & !umask(), "{kind:?} {mode:o} when bind(2) returns");
                Ok(())
            };
            let _bound = bind_path(&path, Some(mode), socket.as_fd(), hook).unwrap();
            assert_eq!(permissions(&path), mode, "{kind:?} {mode:o} in the end");
        }
    }
}

#[test]
fn a_mode_in_decimal_is_refused() {
    let scratch = Scratch::new();
    let error = bound(&socket(Type::STREAM), &scratch.at("s"), Some(660)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(error.to_string(), "the mode 0o1224 is more than 0o777");
    assert!(scratch.is_empty());
}

/// Gives the directory a mode. Returns whether this system can hold a file in it that others may rename.
fn open_to_others(scratch: &Scratch, mode: u32) -> bool {
    fs::set_permissions(&scratch.0, Permissions::from_mode(mode)).unwrap();
    cfg!(all(target_os = "linux", not(target_env = "musl"))) && Path::new("/proc/self/fd").exists()
}

#[test]
fn the_mode_of_another_file_is_not_changed() {
    for directory_mode in [0o755, 0o777] {
        let scratch = Scratch::new();
        open_to_others(&scratch, directory_mode);
        let (path, victim) = (scratch.at("s"), scratch.at("victim"));
        fs::write(&victim, "").unwrap();
        fs::set_permissions(&victim, Permissions::from_mode(0o600)).unwrap();
        let owner = fs::metadata(&victim).unwrap().uid();

        let ours = socket(Type::STREAM);
        let bound_path = bound(&ours, &path, None).unwrap();
        fs::remove_file(&path).unwrap();
        let replacements: [fn(&Path, &Path) -> io::Result<()>; 2] =
            [|victim, path| symlink(victim, path), |victim, path| fs::hard_link(victim, path)];
        for replace in replacements {
            replace(&victim, &path).unwrap();
            assert!(bound_path.widen(0o666, owner).is_err());
            assert_eq!(permissions(&victim), 0o600);
            fs::remove_file(&path).unwrap();
        }
        drop(bound_path);

        // The same between bind(2) and the first look at the file.
        let ours = socket(Type::STREAM);
        let hook = || {
            bind(&ours, &path)?;
            fs::remove_file(&path)?;
            symlink(&victim, &path)
        };
        let error = bind_path(&path, Some(0o666), ours.as_fd(), hook).unwrap_err();
        assert_eq!(error.to_string(), "its file was replaced by another");
        assert_eq!(permissions(&victim), 0o600);
        assert!(path.is_symlink());
    }
}

#[test]
#[cfg(target_os = "linux")]
fn where_others_may_rename_the_mode_is_set_only_if_the_file_can_be_held() {
    let scratch = Scratch::new();
    let path = scratch.at("s");
    // 0o777 is more than a umask leaves, 0o600 is not, and nothing has to be changed for that.
    for mode in [0o777, 0o600] {
        let can_be_held = open_to_others(&scratch, 0o777);
        let result = bound(&socket(Type::STREAM), &path, Some(mode)).map(|_bound| permissions(&path));
        match result {
            Ok(found) => assert_eq!(found, mode),
            Err(error) => {
                assert!(!can_be_held && error.to_string().contains("others may rename in "), "{error}");
                assert!(scratch.is_empty());
            }
        }
    }
    for (mode, guarded) in [(0o755, true), (0o1777, true), (0o775, false), (0o702, false)] {
        open_to_others(&scratch, mode);
        let owner = fs::metadata(&scratch.0).unwrap().uid();
        assert_eq!(is_guarded(&scratch.0, owner).unwrap(), guarded, "{mode:o}");
        assert_eq!(is_guarded(&scratch.0, owner + 1).unwrap(), guarded && owner == 0, "{mode:o}, of another user");
    }
}

/// In a mount namespace of its own, where nothing is at /proc, and the umask takes what it can.
#[test]
#[cfg(target_os = "linux")]
fn a_mode_needs_no_proc() {
    if std::env::var_os(ROLE).is_some() {
        assert!(!Path::new("/proc/self").exists());
        for kind in [Type::STREAM, Type::DGRAM, Type::SEQPACKET] {
            let scratch = Scratch::new();
            let path = scratch.at("s");
            let hook = |socket: &Socket| {
                bind(socket, &path)?;
                assert_eq!(permissions(&path), 0o600, "what the umask leaves of it");
                Ok(())
            };
            let socket = socket(kind);
            let _bound = bind_path(&path, Some(0o666), socket.as_fd(), || hook(&socket)).unwrap();
            assert_eq!(permissions(&path), 0o666, "{kind:?}");
        }
        return eprintln!("as expected");
    }
    let _alone = Scratch::of_programs();
    let inside = r#"mount -t tmpfs none /proc && echo inside >&2 && umask 077 && exec "$0" "$@""#;
    let prelude = format!("exec unshare --mount sh -c '{inside}' \"$0\" \"$@\"");
    let output = again(&prelude, "a_mode_needs_no_proc", "inside").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    if !said.contains("inside") {
        return println!("skipped: no mount namespace: {said}");
    }
    assert!(output.status.success() && said.contains("as expected"), "{said}");
}

#[test]
fn a_stale_path_is_taken_over() {
    for (before, after) in [(Type::STREAM, Type::STREAM), (Type::DGRAM, Type::STREAM), (Type::STREAM, Type::DGRAM)] {
        let scratch = Scratch::new();
        let path = scratch.at("s");
        leave_stale(before, &path);
        let socket = socket(after);
        let _bound = bound(&socket, &path, None).unwrap();
        match after {
            Type::STREAM => {
                socket.listen(1).unwrap();
                UnixStream::connect(&path).unwrap();
            }
            _ => UnixDatagram::unbound().unwrap().connect(&path).unwrap(),
        }
    }
}

#[test]
fn a_live_path_is_refused_and_untouched() {
    let scratch = Scratch::new();
    let refused = |live: &Socket, path: &Path| {
        let before = identity(path);
        for kind in [Type::STREAM, Type::DGRAM] {
            let error = bound(&socket(kind), path, Some(0o600)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddrInUse);
            assert!(error.raw_os_error().is_some(), "the words are those of bind(2): {error}");
            assert_eq!(identity(path), before);
        }
        // Neither a phantom connection nor a message.
        assert!(live.accept().is_err() && live.recv(&mut [MaybeUninit::uninit()]).is_err());
    };
    for &kind in CONNECTED {
        let (live, path) = (socket(kind), scratch.at("stream"));
        let _bound = bound(&live, &path, None).unwrap();
        refused(&live, &path);
        live.listen(1).unwrap();
        refused(&live, &path);
        let client = socket(kind);
        client.connect(&SockAddr::unix(&path).unwrap()).unwrap();
        // The backlog is full, which would make a stream client wait.
        let _ = socket(kind).connect(&SockAddr::unix(&path).unwrap());
        let before = identity(&path);
        assert_eq!(bound(&socket(kind), &path, None).unwrap_err().kind(), ErrorKind::AddrInUse);
        assert_eq!(identity(&path), before);
    }
    let (live, path) = (socket(Type::DGRAM), scratch.at("datagram"));
    let _bound = bound(&live, &path, None).unwrap();
    refused(&live, &path);
    // One with a peer of its own takes nothing from others.
    let (peer, address) = (socket(Type::DGRAM), SockAddr::unix(scratch.at("peer")).unwrap());
    peer.bind(&address).unwrap();
    live.connect(&address).unwrap();
    refused(&live, &path);
}

#[test]
fn a_path_that_may_not_be_probed_is_reported_and_untouched() {
    let scratch = Scratch::new();
    let path = scratch.at("s");
    leave_stale(Type::STREAM, &path);
    fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
    let before = identity(&path);
    match bound(&socket(Type::STREAM), &path, None) {
        // Root may.
        Ok(_) => {}
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EACCES));
            assert_eq!(identity(&path), before);
        }
    }
}

#[test]
fn a_file_that_is_not_a_socket_is_refused_and_untouched() {
    let scratch = Scratch::of_programs();
    let live = socket(Type::STREAM);
    bind(&live, &scratch.at("live")).unwrap();
    live.listen(1).unwrap();
    leave_stale(Type::STREAM, &scratch.at("stale"));
    fs::write(scratch.at("file"), "precious").unwrap();
    fs::create_dir(scratch.at("directory")).unwrap();
    symlink("nowhere", scratch.at("dangling")).unwrap();
    symlink("live", scratch.at("link-to-live")).unwrap();
    symlink("stale", scratch.at("link-to-stale")).unwrap();
    assert!(Command::new("mkfifo").arg(scratch.at("fifo")).status().unwrap().success());

    for (name, what) in [
        ("file", "a regular file"),
        ("directory", "a directory"),
        ("dangling", "a symbolic link"),
        ("link-to-live", "a symbolic link"),
        ("link-to-stale", "a symbolic link"),
        ("fifo", "a fifo or a device"),
    ] {
        let path = scratch.at(name);
        let before = identity(&path);
        let hook = || unreachable!("nothing to bind at {name}");
        let error = bind_path(&path, Some(0o600), socket(Type::STREAM).as_fd(), hook).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{name}");
        assert_eq!(error.to_string(), format!("it exists and is {what}, not a socket"), "{name}");
        assert_eq!(identity(&path), before, "{name}");
    }
    assert_eq!(fs::read(scratch.at("file")).unwrap(), b"precious");
    assert!(exists(&scratch.at("stale")) && !exists(&scratch.at("nowhere")));
    // What is no directory is not waited for either.
    let error = bound(&socket(Type::STREAM), &scratch.at("fifo/s"), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotADirectory);
}

/// One racer's part of a round.
fn race(path: &Path) -> Option<(BoundPath, Socket)> {
    let socket = socket(Type::STREAM);
    match bound(&socket, path, Some(0o666)) {
        Ok(bound) => {
            socket.listen(RACERS as i32).unwrap();
            Some((bound, socket))
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
            None
        }
    }
}

#[test]
fn one_of_many_racing_threads_wins() {
    let scratch = Scratch::new();
    let path = Arc::new(scratch.at("s"));
    for round in 0..ROUNDS {
        if round % 2 == 0 {
            leave_stale(Type::STREAM, &path);
        }
        let start = Arc::new(Barrier::new(RACERS));
        let racer = |_| {
            let (path, start) = (Arc::clone(&path), Arc::clone(&start));
            thread::spawn(move || {
                start.wait();
                race(&path)
            })
        };
        let racers: Vec<_> = (0..RACERS).map(racer).collect();
        let winners: Vec<_> = racers.into_iter().filter_map(|racer| racer.join().unwrap()).collect();
        assert_eq!(winners.len(), 1, "round {round}");
        UnixStream::connect(&*path).unwrap();
        winners[0].1.accept().unwrap();
        drop(winners);
        assert!(scratch.is_empty());
    }
}

#[test]
fn one_of_many_racing_processes_wins() {
    if let Ok(path) = std::env::var(ROLE) {
        // Each line begins a round or ends it.
        let mut lines = io::stdin().lines();
        while lines.next().is_some() {
            let won = race(path.as_ref());
            eprintln!("{}", if won.is_some() { "won" } else { "lost" });
            lines.next();
            drop(won);
            eprintln!("done");
        }
        return;
    }
    let scratch = Scratch::of_programs();
    let path = scratch.at("s");
    let racer = |_| {
        let mut command = again(":", "one_of_many_racing_processes_wins", path.to_str().unwrap());
        let command = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let answers = BufReader::new(child.stderr.take().unwrap()).lines();
        (child, answers)
    };
    let mut racers: Vec<_> = (0..RACERS / 2).map(racer).collect();
    for round in 0..ROUNDS {
        if round % 2 == 0 {
            leave_stale(Type::STREAM, &path);
        }
        let mut say = |expected: [&str; 2]| {
            let say = |(child, _): &mut (Child, _)| child.stdin.as_ref().unwrap().write_all(b"\n").unwrap();
            racers.iter_mut().for_each(say);
            let heard = racers.iter_mut().map(|(_, answers)| answers.next().unwrap().unwrap());
            let heard: Vec<_> = heard.collect();
            assert!(heard.iter().all(|word| expected.contains(&&**word)), "round {round}: {heard:?}");
            heard.iter().filter(|word| *word == expected[0]).count()
        };
        assert_eq!(say(["won", "lost"]), 1, "round {round}");
        UnixStream::connect(&path).unwrap();
        say(["done", "done"]);
        assert!(scratch.is_empty());
    }
    for (mut child, _) in racers {
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn a_directory_that_stays_locked_is_an_error() {
    let scratch = Scratch::new();
    let path = scratch.at("s");
    leave_stale(Type::STREAM, &path);
    let before = identity(&path);
    let other = File::open(&scratch.0).unwrap();
    other.lock().unwrap();
    let hook = || unreachable!("nothing is bound without the lock");
    let error = bind_path(&path, None, socket(Type::STREAM).as_fd(), hook).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceBusy);
    assert_eq!(error.to_string(), "the directory is locked by another process");
    assert_eq!(identity(&path), before);
}

#[test]
fn a_directory_that_is_unlocked_in_time_is_waited_for() {
    let scratch = Scratch::new();
    let path = scratch.at("s");
    let other = File::open(&scratch.0).unwrap();
    other.lock().unwrap();
    let unlocking = thread::spawn(move || {
        thread::park_timeout(Duration::from_millis(50));
        drop(other);
    });
    let socket = socket(Type::STREAM);
    let bound = bound(&socket, &path, None).unwrap();
    unlocking.join().unwrap();
    // The directory is unlocked afterwards, and a lock that another takes now does not keep us from cleaning up. (Tests
    // elsewhere start programs as well, which share the lock for a moment.)
    let _other = lock_directory(&path).unwrap().unwrap();
    drop(bound);
    assert!(scratch.is_empty());
}

#[test]
fn a_directory_that_cannot_be_read_needs_no_lock() {
    let scratch = Scratch::new();
    let directory = scratch.at("d");
    fs::create_dir(&directory).unwrap();
    leave_stale(Type::STREAM, &directory.join("s"));
    fs::set_permissions(&directory, Permissions::from_mode(0o311)).unwrap();
    let socket = socket(Type::STREAM);
    let bound = bound(&socket, &directory.join("s"), Some(0o600)).map(drop);
    fs::set_permissions(&directory, Permissions::from_mode(0o700)).unwrap();
    bound.unwrap();
    assert!(fs::read_dir(&directory).unwrap().next().is_none());
}

#[test]
fn an_invalid_address_is_an_error_before_anything_is_touched() {
    let scratch = Scratch::new();
    let refusal = |path: &Path| {
        let hook = || unreachable!("nothing to bind at {path:?}");
        let error = bind_path(path, Some(0o600), socket(Type::STREAM).as_fd(), hook).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        error.to_string()
    };
    let room = 130 - scratch.at("").as_os_str().len();
    let text = refusal(&scratch.at(&"x".repeat(room)));
    let (before, after) = ("the path is 130 bytes long, at most ", " fit a socket address");
    let most = text.strip_prefix(before).and_then(|text| text.strip_suffix(after)).unwrap();
    assert!(if cfg!(target_os = "linux") { most == "107" } else { most.parse::<u32>().is_ok() }, "{text}");
    assert_eq!(refusal(Path::new("")), "the path is empty");
    assert_eq!(refusal(&scratch.at("a\0b")), "the path contains a NUL byte");
    assert_eq!(refusal(Path::new("\0abstract")), "the path contains a NUL byte");
    assert!(scratch.is_empty());

    // The longest one is none of them.
    let most: usize = most.parse().unwrap();
    let path = scratch.at(&"x".repeat(most + room - 130));
    let socket = socket(Type::STREAM);
    drop(bound(&socket, &path, Some(0o666)).unwrap());
    assert!(scratch.is_empty());
}

#[test]
fn closing_removes_our_file_and_no_other() {
    let scratch = Scratch::new();
    let path = scratch.at("s");
    let ours = socket(Type::DGRAM);
    drop(bound(&ours, &path, None).unwrap());
    assert!(scratch.is_empty(), "ours");

    let ours = socket(Type::DGRAM);
    let bound_path = bound(&ours, &path, None).unwrap();
    fs::remove_file(&path).unwrap();
    drop(bound_path);
    assert!(scratch.is_empty(), "gone");

    let ours = socket(Type::DGRAM);
    let bound_path = bound(&ours, &path, None).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "").unwrap();
    drop(bound_path);
    assert!(path.is_file(), "another file");
    fs::remove_file(&path).unwrap();

    let (ours, theirs) = (socket(Type::STREAM), socket(Type::STREAM));
    let bound_path = bound(&ours, &path, None).unwrap();
    fs::remove_file(&path).unwrap();
    let their_path = bound(&theirs, &path, None).unwrap();
    drop(bound_path);
    theirs.listen(1).unwrap();
    UnixStream::connect(&path).unwrap();
    drop(their_path);
    assert!(scratch.is_empty(), "another server's");
}

#[test]
fn a_relative_path_is_found_again_from_anywhere() {
    let scratch = Scratch::new();
    let up = "../".repeat(std::env::current_dir().unwrap().components().count() - 1);
    let relative = Path::new(&up).join(scratch.at("s").strip_prefix("/").unwrap());
    let socket = socket(Type::STREAM);
    let bound = bound(&socket, &relative, Some(0o666)).unwrap();
    assert!(relative.is_relative() && bound.path.is_absolute() && exists(&scratch.at("s")));
    drop(bound);
    assert!(scratch.is_empty());
}

#[test]
#[cfg(target_os = "linux")]
fn the_umask_is_respected() {
    if let Ok(expected) = std::env::var(ROLE) {
        let expected = u32::from_str_radix(&expected, 8).unwrap();
        let scratch = Scratch::new();
        for kind in [Type::STREAM, Type::DGRAM] {
            let path = scratch.at("s");
            let socket = socket(kind);
            let bound_path = bound(&socket, &path, None).unwrap();
            assert_eq!(permissions(&path), expected);
            drop(bound_path);
            // And a mode of one's own is not held back by it.
            let socket = self::socket(kind);
            let _bound = bound(&socket, &path, Some(0o666)).unwrap();
            assert_eq!(permissions(&path), 0o666);
        }
        eprintln!("as expected");
        return;
    }
    let _alone = Scratch::of_programs();
    for (umask, expected) in [("000", "777"), ("022", "755"), ("027", "750"), ("077", "700")] {
        let output = again(&format!("umask {umask}"), "the_umask_is_respected", expected).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && said.contains("as expected"), "umask {umask}: {said}");
    }
}

#[test]
fn a_failed_bind_leaves_nothing_behind() {
    let scratch = Scratch::new();
    let path = scratch.at("s");
    for stale in [false, true] {
        for after_bind in [false, true] {
            if stale {
                leave_stale(Type::STREAM, &path);
            }
            let socket = socket(Type::STREAM);
            let hook = || {
                if after_bind {
                    bind(&socket, &path)?;
                }
                Err(io::Error::other("the hook failed"))
            };
            let error = bind_path(&path, Some(0o666), socket.as_fd(), hook).unwrap_err();
            assert_eq!(error.to_string(), "the hook failed");
            assert!(scratch.is_empty());
        }
    }
    let error = bind_path(&path, None, socket(Type::STREAM).as_fd(), || Ok(())).unwrap_err();
    assert_eq!(error.to_string(), "the socket was not bound to it");
    assert!(scratch.is_empty());
    let error = bound(&socket(Type::STREAM), &scratch.at("missing/s"), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
