//! `demo.crash`: panics, or takes its whole worker process down where that is allowed, for trying out what happens then.

use domain::Failure;
use serde::Deserialize;

use crate::registry::TaskTypeSpec;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    /// Whether the process goes down, and not the attempt alone.
    #[serde(default)]
    abort: bool,
}

/// `demo.crash`. `may_abort` says whether a task may take the process down: whoever can submit could do so.
pub fn crash(may_abort: bool) -> TaskTypeSpec {
    let not_allowed = || {
        "abort is not allowed here: it would end the worker process with all that it runs; \
         set demo_crash_aborts = true where that is wanted"
            .to_owned()
    };
    TaskTypeSpec::new(
        "demo.crash",
        "Panics; with `abort`, where the configuration allows it, takes its worker process down.",
        move |context, input: Option<Input>| async move {
            if input.unwrap_or_default().abort {
                if !may_abort {
                    return Err(Failure::permanent("not_allowed", not_allowed()));
                }
                tracing::error!(
                    task_id = context.task().id.0,
                    "demo.crash ends this process, as it was asked to"
                );
                std::process::abort();
            }
            panic!("demo.crash panics, as it was asked to");
        },
    )
    .checked(move |input: &Option<Input>| {
        let abort = input.as_ref().is_some_and(|input| input.abort);
        if abort && !may_abort { Err(not_allowed()) } else { Ok(()) }
    })
    .example("{}")
}
