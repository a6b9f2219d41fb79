//! Where code of the user's is called, a panic ends here and becomes an error.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, Result};

/// Runs something of the user's. Whatever state it leaves behind is the user's own, or is about to be dropped.
///
/// # Errors
/// [`Error::Panicked`].
#[inline(always)]
pub(crate) fn catch<T>(run: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(run)).map_err(caught)
}

#[cold]
fn caught(panic: Box<dyn Any + Send>) -> Error {
    let error = Error::from_panic(&*panic);
    // What a panic carries may panic itself when it is dropped; then it is not dropped.
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(another);
    }
    error
}

/// The text of an error that may be of the user's making.
pub(crate) fn text_of(error: &impl std::fmt::Display) -> String {
    catch(|| format!("{error:#}")).unwrap_or_else(|panic| panic.to_string())
}

/// Drops something of the user's. Says whether that went without a panic.
pub(crate) fn drop_caught<T>(value: T) -> bool {
    catch(|| drop(value)).is_ok()
}
