//! The number and the size of proptest's cases.

/// Writes nothing into the source tree. A failing case is printed in full, and becomes a test of its own.
pub(crate) fn cases() -> proptest::test_runner::Config {
    proptest::test_runner::Config { failure_persistence: None, ..Default::default() }
}

/// A short list, because nested lists become long.
pub(crate) fn few<T: proptest::arbitrary::Arbitrary>() -> impl proptest::strategy::Strategy<Value = Vec<T>> {
    proptest::collection::vec(proptest::arbitrary::any::<T>(), 0..12)
}
