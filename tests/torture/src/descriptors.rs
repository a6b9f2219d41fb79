//! How many descriptors there are.

/// So many connections can be open at once, and some descriptors are left for everything else.
#[cfg(unix)]
pub(crate) fn connections_possible() -> usize {
    use nix::sys::resource::{Resource, getrlimit};
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(256, |(soft, _)| soft);
    usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(RESERVED)
}

#[cfg(not(unix))]
pub(crate) fn connections_possible() -> usize {
    usize::MAX
}

#[cfg(unix)]
const RESERVED: usize = 64;
