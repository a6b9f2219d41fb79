//! How this process was started: read at its start, because the program may be replaced later.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::{env, fs};

pub(crate) struct Origin {
    /// Absolute, with its symbolic links: one of them may lead to the next version.
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) directory: PathBuf,
    /// The signals that were ignored, as in proc(5): bit 0 is signal 1. 0 if they are unknown.
    pub(crate) ignored: u64,
}

static ORIGIN: LazyLock<io::Result<Origin>> = LazyLock::new(Origin::read);

/// Reads it if this is the first call.
///
/// # Errors
/// If the program or the working directory cannot be found.
pub(crate) fn origin() -> io::Result<&'static Origin> {
    ORIGIN.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))
}

impl Origin {
    fn read() -> io::Result<Self> {
        let directory = env::current_dir()?;
        let mut arguments = env::args_os();
        let name = arguments.next().unwrap_or_default();
        let program = program(Path::new(&name), &directory, &env::current_exe()?);
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
        Ok(Origin { program, arguments: arguments.collect(), directory, ignored })
    }
}

/// The path under which the file `found` was started as `name`, as far as this can be told, or else `found`.
fn program(name: &Path, directory: &Path, found: &Path) -> PathBuf {
    let file = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    let wanted = file(found);
    let path = env::var_os("PATH").unwrap_or_default();
    let places = match name.components().count() {
        2.. => vec![PathBuf::new()],
        _ => env::split_paths(&path).collect(),
    };
    let mut places = places.into_iter().map(|place| directory.join(place).join(name));
    let place = places.find(|place| wanted.is_some() && file(place) == wanted);
    place.unwrap_or_else(|| found.to_owned())
}
