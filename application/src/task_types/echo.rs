//! `demo.echo`: the result is the input.

use serde_json::value::RawValue;

use crate::registry::{Output, TaskTypeSpec};

pub(super) fn spec() -> TaskTypeSpec {
    TaskTypeSpec::new("demo.echo", "Completes with its own input.", |_, input: Box<RawValue>| async move {
        Output::of(&input)
    })
    .example(r#"{"hello":"world"}"#)
}
