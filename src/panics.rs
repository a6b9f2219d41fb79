//! Calls user code. A panic ends here and becomes an error.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, Result};

/// Runs user code. State that a panic leaves inconsistent belongs to the user, or is about to be dropped.
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
    // The payload of a panic may panic when it is dropped. Then it is leaked.
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(another);
    }
    error
}

/// The text of an error, whose `Display` may be user code.
pub(crate) fn text_of(error: &impl std::fmt::Display) -> String {
    catch(|| format!("{error:#}")).unwrap_or_else(|panic| panic.to_string())
}

/// Drops a user value. Returns `false` if its destructor panicked.
pub(crate) fn drop_caught<T>(value: T) -> bool {
    catch(|| drop(value)).is_ok()
}

/// Drops user values one by one, because dropping one may run any code.
pub(crate) fn drop_each<T>(mut values: VecDeque<T>) {
    while let Some(value) = values.pop_front() {
        drop_caught(value);
    }
}
