//! How many orders are tried.

/// Runs a model in every order in which no more than so many times a thread is taken off that could have gone on:
/// enough for the faults that there are, and an end within seconds. `LOOM_MAX_PREEMPTIONS` sets another bound.
pub(super) fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound.get_or_insert(3);
    model.check(run);
}
