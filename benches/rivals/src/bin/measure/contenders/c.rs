//! The rivals written in C. They are compiled here, with whatever libraries this machine has.

use super::{Absent, Contender, Program, Threads, Wanted};
use crate::tools;
use std::fs;
use std::process::Command;
use std::time::Duration;

/// A server made with a library that `pkg-config` knows by the contender's name.
struct Library {
    name: &'static str,
    source: &'static str,
    /// The package of Debian with its headers.
    package: &'static str,
}

const LIBRARIES: [Library; 2] = [
    Library { name: "libuv", source: "uv.c", package: "libuv1-dev" },
    Library { name: "libevent", source: "event.c", package: "libevent-dev" },
];

pub(super) fn find(wanted: &Wanted<'_>) -> Vec<Result<Contender, Absent>> {
    let wanted = LIBRARIES.iter().filter(|library| wanted.name(library.name));
    wanted.map(|library| library.contender().map_err(|reason| Absent::new(library.name, reason))).collect()
}

impl Library {
    fn contender(&self) -> Result<Contender, String> {
        if let Err(error) = tools::first_line(Command::new("pkg-config").arg("--version")) {
            return Err(format!("{error}; Debian: pkg-config {}", self.package));
        }
        let version = tools::first_line(Command::new("pkg-config").args(["--modversion", self.name]))
            .map_err(|_| format!("pkg-config knows no header of {}; Debian: {}", self.name, self.package))?;
        Ok(Contender {
            name: self.name.to_owned(),
            version: format!("{} {version}", self.name),
            threads: Threads::One,
            native: true,
            serves: super::everything(),
            half_close: true,
            program: Program::Ours(vec![self.compile()?]),
        })
    }

    /// Into cargo's target directory. It takes less than a second, so this is done each time.
    fn compile(&self) -> Result<String, String> {
        let flags = tools::first_line(Command::new("pkg-config").args(["--cflags", "--libs", self.name]))?;
        let directory = crate::target_directory()?.join("servers");
        fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let program = directory.join(self.name);
        let mut command = Command::new("cc");
        command.arg("-O2").arg("-o").arg(&program).arg(super::source(self.source)).args(flags.split_whitespace());
        tools::output(&command, Duration::from_secs(60))?;
        program.into_os_string().into_string().map_err(|path| format!("{} is no text", path.display()))
    }
}
