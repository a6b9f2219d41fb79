//! How many sockets this process may have.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Left for what is not a connection: standard streams, epoll, pipes to the server, files of the report.
const RESERVE: u64 = 64;

/// How many connections the limit of descriptors allows, after raising it as far as it goes. Programs started later
/// inherit what was raised.
pub(crate) fn connections_possible() -> Result<usize, String> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|errno| format!("limit of descriptors: {errno}"))?;
    // If raising it is forbidden, the soft limit is the limit.
    let limit = if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    Ok(usize::try_from(limit.saturating_sub(RESERVE)).unwrap_or(usize::MAX))
}

/// Says so if there are not enough descriptors for so many connections.
pub(super) fn check(connections: usize) -> Result<(), String> {
    let possible = connections_possible()?;
    if connections <= possible {
        return Ok(());
    }
    Err(format!("{connections} connections are more than the {possible} that the limit of descriptors allows"))
}
