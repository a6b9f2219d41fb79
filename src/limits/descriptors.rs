//! How many connections the descriptors of the process allow.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// The descriptors of the process, which the reactors of [`Workers`](crate::Workers) share.
pub(crate) struct Descriptors {
    reactors: usize,
    /// How many are not for connections: counted when the first client comes.
    taken: OnceLock<usize>,
    /// A reactor has paused because accept(2) has failed, perhaps because none was left.
    has_pause: AtomicBool,
}

impl Descriptors {
    pub(crate) fn of(reactors: usize) -> Arc<Self> {
        Arc::new(Descriptors { reactors, taken: OnceLock::new(), has_pause: AtomicBool::new(false) })
    }

    /// The default number of connections of each reactor. `None` if the limit is unknown.
    ///
    /// `connections`: those of a reactor, which are open. `sockets`: those that it serves, which a restart duplicates.
    pub(crate) fn for_connections(&self, connections: usize, sockets: usize) -> Option<usize> {
        let for_restart = if cfg!(feature = "restart") { sockets * self.reactors } else { 0 };
        let taken = *self.taken.get_or_init(|| open_descriptors().saturating_sub(connections) + for_restart);
        connections_from_descriptors(taken).map(|all| (all / self.reactors).max(1))
    }

    /// A reactor pauses because accept(2) has failed.
    pub(crate) fn note_pause(&self) {
        self.has_pause.store(true, Ordering::Relaxed);
    }

    /// Returns whether one has, since the last call.
    pub(crate) fn take_pause(&self) -> bool {
        self.has_pause.load(Ordering::Relaxed) && self.has_pause.swap(false, Ordering::Relaxed)
    }

    /// The number of connections if the limit is unknown: `last`, the number until now, unless that is 0.
    pub(crate) fn known_or_default(&self, last: usize) -> usize {
        if last == 0 { CONNECTIONS_MAX / self.reactors } else { last }
    }
}

/// For a process whose limit of descriptors cannot be read.
const CONNECTIONS_MAX: usize = 10_000;

/// The default number of connections: the descriptors of the process minus those that are taken and a reserve. `None` if
/// the limit is unknown.
fn connections_from_descriptors(taken: usize) -> Option<usize> {
    descriptor_limit().map(|limit| limit.saturating_sub((limit / 16).clamp(16, 256)).saturating_sub(taken))
}

/// The number of open descriptors. 0 if it is unknown, as without proc(5).
fn open_descriptors() -> usize {
    const DIRECTORY: &str = "/proc/self/fd";
    // Since Linux 6.2 it is the length of the directory.
    match std::fs::metadata(DIRECTORY).map_or(0, |directory| directory.len()) {
        0 => std::fs::read_dir(DIRECTORY).map_or(0, Iterator::count),
        count => count as usize,
    }
}

/// The soft limit of RLIMIT_NOFILE: getrlimit(2).
#[cfg(all(unix, feature = "descriptor-limit"))]
fn descriptor_limit() -> Option<usize> {
    use nix::sys::resource::{Resource, getrlimit};
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    Some(usize::try_from(soft).unwrap_or(usize::MAX))
}

/// The soft limit of RLIMIT_NOFILE, read without an unsafe call from proc(5), which exists only on Linux.
#[cfg(not(all(unix, feature = "descriptor-limit")))]
fn descriptor_limit() -> Option<usize> {
    use std::io::Read as _;
    // One read returns all of it. As bytes it needs less code than as text.
    let mut limits = [0; 4_096];
    let length = std::fs::File::open("/proc/self/limits").and_then(|mut file| file.read(&mut limits)).ok()?;
    let values = limits[..length].split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"Max open files"))?;
    let soft = values.split(u8::is_ascii_whitespace).find(|word| !word.is_empty())?;
    std::str::from_utf8(soft).ok()?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_limit_is_read_and_a_reserve_kept() {
        let limit = descriptor_limit().expect("proc(5) names it");
        let connections = connections_from_descriptors(0).expect("the same");
        assert!(connections < limit);
        assert!(connections >= limit.saturating_sub(256));
        assert_eq!(connections_from_descriptors(7), Some(connections - 7));
    }

    #[test]
    fn open_descriptors_are_counted() {
        // Others are opened and closed by other tests meanwhile.
        let files: Vec<_> = (0..300).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        assert!((303..2_000).contains(&open_descriptors()), "{}", open_descriptors());
        let descriptors = Descriptors::of(4);
        let few = descriptors.for_connections(0, 0);
        drop(files);
        assert_eq!(descriptors.for_connections(0, 0), few, "they are counted once");
        assert!(Descriptors::of(4).for_connections(300, 0) >= few);
    }
}
