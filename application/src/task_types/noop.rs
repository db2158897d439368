//! `demo.noop`: does nothing, for measuring what the runner itself costs.

use crate::registry::{Output, TaskTypeSpec};

pub(super) fn spec() -> TaskTypeSpec {
    TaskTypeSpec::new(
        "demo.noop",
        "Does nothing and completes with null.",
        |_, _: serde::de::IgnoredAny| async { Output::of(&()) },
    )
}
