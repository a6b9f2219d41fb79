//! How many cases proptest tries, and how long they are.

/// Nothing is written into the source tree: what fails is printed in full, and becomes a test of its own.
pub(crate) fn cases() -> proptest::test_runner::Config {
    proptest::test_runner::Config { failure_persistence: None, ..Default::default() }
}

/// A few of them: lists in lists grow long soon.
pub(crate) fn few<T: proptest::arbitrary::Arbitrary>() -> impl proptest::strategy::Strategy<Value = Vec<T>> {
    proptest::collection::vec(proptest::arbitrary::any::<T>(), 0..12)
}
