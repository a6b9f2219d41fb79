//! The number of orders that are tried.

/// Runs a model in every order with a bounded number of preemptions. The bound is large enough for the known faults,
/// and small enough to end within seconds. `LOOM_MAX_PREEMPTIONS` sets another bound.
pub(super) fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound.get_or_insert(3);
    model.check(run);
}
