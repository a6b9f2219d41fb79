//! What a socket owns besides its descriptor.

use std::fmt::Debug;

/// The file of a socket. Dropping this removes it.
pub(super) trait OwnedFile: Debug + Send + Sync {
    #[cfg_attr(not(unix), allow(dead_code, reason = "there are no files"))]
    /// Another process owns the file from now on. Dropping this leaves it.
    fn leave(&mut self);
}
