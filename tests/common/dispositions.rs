//! Programs that begin with the default actions of SIGINT and SIGTERM.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

/// The program, with both signals at their default actions even if they are ignored here: a shell without job control
/// ignores SIGINT for what it starts in the background. Needs env(1) of GNU; elsewhere the program inherits what is here.
pub(crate) fn with_default_signals(program: impl AsRef<OsStr>) -> Command {
    let env = || {
        let mut env = Command::new("env");
        env.arg("--default-signal=INT,TERM");
        env
    };
    if env().arg("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        let mut command = env();
        command.arg(program);
        command
    } else {
        Command::new(program)
    }
}
