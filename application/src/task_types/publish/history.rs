//! What earlier attempts may have sent.

use domain::{Attempt, AttemptOutcome, Failure};

use crate::{handler::TaskContext, ports::TaskStore};

/// An attempt that could not learn what earlier ones did; it has sent nothing.
const UNREAD: &str = "publish.history_unread";

/// Fails where an earlier attempt was broken off, so that it may have sent its message: a person decides. A retry by a
/// person is that decision.
pub(super) async fn nothing_broken_off(store: &dyn TaskStore, context: &TaskContext) -> Result<(), Failure> {
    let task = context.task();
    if task.attempt <= 1 {
        return Ok(());
    }
    let attempts = store.attempts(&task.tenant, task.id).await.map_err(|error| {
        Failure::transient(
            UNREAD,
            format!("whether an earlier attempt sent the message is not known: {error}"),
        )
    })?;
    match broken_off(&attempts.unwrap_or_default(), task.attempt) {
        None => Ok(()),
        Some((attempt, outcome)) => Err(Failure::permanent(
            "publish.maybe_sent",
            format!(
                "attempt {attempt} was broken off ({}) and may have sent the message; find out at the receiver, then \
                 retry or discard the task",
                outcome.as_str()
            ),
        )),
    }
}

/// The attempt before `current` that nobody knows the end of, unless something was decided since.
fn broken_off(attempts: &[Attempt], current: u32) -> Option<(u32, AttemptOutcome)> {
    let sent_nothing = |attempt: &Attempt| {
        let code = attempt.error.as_ref().map_or("", |error| error.code.as_str());
        attempt.outcome == Some(AttemptOutcome::Failed) && matches!(code, UNREAD | "unknown_task_type")
    };
    let last =
        attempts.iter().rev().filter(|attempt| attempt.attempt < current).find(|a| !sent_nothing(a))?;
    match last.outcome? {
        outcome @ (AttemptOutcome::Crashed | AttemptOutcome::Released) => Some((last.attempt, outcome)),
        AttemptOutcome::Completed
        | AttemptOutcome::Failed
        | AttemptOutcome::Cancelled
        | AttemptOutcome::TimedOut => None,
    }
}

#[cfg(test)]
mod tests {
    use domain::Timestamp;

    use super::*;

    #[test]
    fn what_was_broken_off_last_is_found() {
        let attempt = |number: usize, outcome, code: &str| Attempt {
            calls: Vec::new(),
            attempt: u32::try_from(number).expect("small"),
            worker: None,
            started_at: Timestamp::UNIX_EPOCH,
            ended_at: None,
            outcome,
            error: (!code.is_empty()).then(|| Failure::transient(code, "")),
        };
        let (crashed, failed, released) = (
            (Some(AttemptOutcome::Crashed), "worker_lost"),
            (Some(AttemptOutcome::Failed), "publish.not_sent"),
            (Some(AttemptOutcome::Released), ""),
        );
        let decided = (Some(AttemptOutcome::Failed), "publish.maybe_sent");
        let unread = (Some(AttemptOutcome::Failed), UNREAD);
        let unknown = (Some(AttemptOutcome::Failed), "unknown_task_type");
        for (history, found) in [
            (vec![], None),
            (vec![failed], None),
            (vec![crashed], Some(1)),
            (vec![released], Some(1)),
            (vec![failed, crashed], Some(2)),
            (vec![crashed, unread, unknown, unread], Some(1)),
            (vec![crashed, decided], None),
            (vec![crashed, decided, failed], None),
            (vec![crashed, decided, crashed], Some(3)),
            (vec![(Some(AttemptOutcome::TimedOut), "time_limit")], None),
        ] {
            let mut attempts: Vec<Attempt> = (1..)
                .zip(&history)
                .map(|(number, (outcome, code))| attempt(number, *outcome, code))
                .collect();
            let current = attempts.len() + 1;
            attempts.push(attempt(current, None, ""));
            let current = u32::try_from(current).expect("small");
            assert_eq!(broken_off(&attempts, current).map(|(number, _)| number), found, "{history:?}");
        }
    }
}
