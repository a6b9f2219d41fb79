//! What a socket owns besides its descriptor.

use std::fmt::Debug;

/// The device and the inode of a file.
pub(crate) type FileId = (u64, u64);

/// The file of a socket. Dropping this removes it.
pub(super) trait OwnedFile: Debug + Send + Sync {
    #[cfg_attr(not(unix), allow(dead_code, reason = "there are no files"))]
    /// Another process owns the file from now on. Dropping this leaves it.
    fn leave(&mut self);

    #[cfg_attr(not(all(unix, feature = "restart")), allow(dead_code, reason = "there is no successor"))]
    fn id(&self) -> FileId;
}
