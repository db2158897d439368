//! Tasks that were submitted in SQL, inside somebody's own transaction: checked, routed and taken in by every process.

use std::{collections::HashMap, sync::Arc, time::Duration};

use domain::{
    Failure, FairnessKey, Json, NewTask, OwnTerms, Priority, QueueName, RetryTerms, Start, Status, Suspicion,
    TaskId, TaskType, Timestamp,
};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::{
    ports::{Accepted, InboxStore, Letter, Signal, StoreError, TakenIn, Waiting},
    tasks::{Submission, Tasks},
};

/// How many are taken in at once.
const STEP: usize = 500;
/// How often the inbox is looked at when nobody knocks.
const LOOK: Duration = Duration::from_secs(1);
/// How long a letter of a type that this process does not know is left to one that does.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest of all times in options, in seconds: ten years.
const LONGEST: f64 = 315_360_000.0;

/// The inbox of one process.
pub struct Inbox {
    store: Arc<dyn InboxStore>,
    tasks: Tasks,
    known: Vec<TaskType>,
}

impl Inbox {
    /// Takes in by the rules of these use cases.
    pub fn new(store: Arc<dyn InboxStore>, tasks: Tasks) -> Self {
        let known = tasks.registry().iter().map(|spec| spec.name().clone()).collect();
        Self { store, tasks, known }
    }

    /// Until `stop`, through outages.
    pub async fn run(self, stop: CancellationToken) {
        let mut complained = false;
        let mut knock = self.store.knock();
        loop {
            match self.round().await {
                Ok(0) => complained = false,
                // There may be more.
                Ok(_) if !stop.is_cancelled() => continue,
                Ok(_) => {}
                Err(error) if !std::mem::replace(&mut complained, true) => {
                    tracing::warn!(%error, "tasks that were submitted in SQL have to wait");
                }
                Err(_) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = &mut knock => knock = self.store.knock(),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Takes in what is there, at most a step; answers how many became tasks here.
    pub async fn round(&self) -> Result<usize, StoreError> {
        let letters = self.store.letters(&self.known, PATIENCE, STEP).await?;
        if letters.is_empty() {
            return Ok(0);
        }
        let accepted: Vec<Accepted> = letters.into_iter().map(|letter| self.read(letter)).collect();
        let taken = self.store.take_in(&accepted).await?;
        self.announce(&accepted, &taken).await;
        Ok(taken.len())
    }

    fn read(&self, letter: Letter) -> Accepted {
        let Letter { id, tenant, task_type, input, options, submitted_at } = letter;
        let plain = Submission::new(task_type, input);
        let checked = submission(plain.clone(), &options)
            .and_then(|submission| self.tasks.check(&tenant, submission).map_err(|error| error.to_string()));
        let (task, refusal) = match checked {
            Ok(task) => (task, None),
            Err(why) => {
                tracing::warn!(task_id = id.0, %why, "a task that was submitted in SQL fails");
                (self.tasks.unchecked(&tenant, plain), Some(Failure::permanent("invalid_submission", why)))
            }
        };
        Accepted { id, submitted_at, task, refusal }
    }

    async fn announce(&self, accepted: &[Accepted], taken: &[TakenIn]) {
        let ours: HashMap<TaskId, &TakenIn> = taken.iter().map(|task| (task.id, task)).collect();
        let (mut waiting, mut news) = (Vec::new(), Vec::new());
        for Accepted { id, task, refusal, .. } in accepted {
            let Some(TakenIn { run_at, rank, .. }) = ours.get(id).copied() else { continue };
            let NewTask { queue, priority, .. } = task;
            if refusal.is_some() {
                news.push(Signal::State { task: *id, attempt: 0, status: Status::Failed });
            } else if run_at.is_none() {
                let (queue, priority, suspicion) = (queue.clone(), *priority, Suspicion::None);
                waiting.push(Waiting { id: *id, queue, priority, rank: *rank, suspicion });
            }
        }
        self.tasks.tell(waiting, &news).await;
    }
}

/// What a sender may say besides type and input: the fields of a submission over HTTP, under the same names.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    queue: Option<String>,
    priority: Option<i64>,
    run_at: Option<Timestamp>,
    delay_seconds: Option<f64>,
    expires_at: Option<Timestamp>,
    max_attempts: Option<u32>,
    soft_time_limit_seconds: Option<f64>,
    time_limit_seconds: Option<f64>,
    retry: Option<RetryTerms>,
    retention_seconds: Option<f64>,
    fairness_key: Option<String>,
    metadata: Option<serde_json::Map<String, serde_json::Value>>,
}

/// The submission with these options, or what is wrong with them.
fn submission(plain: Submission, options: &str) -> Result<Submission, String> {
    let options: Options = serde_json::from_str(options).map_err(|error| format!("options: {error}"))?;
    let seconds = |name: &str, value: Option<f64>| match value {
        None => Ok(None),
        Some(seconds) if (0.0..=LONGEST).contains(&seconds) => Ok(Some(Duration::from_secs_f64(seconds))),
        Some(seconds) => Err(format!("options.{name}: {seconds} is not between 0 and {LONGEST}")),
    };
    let queue = options.queue.map(QueueName::new).transpose().map_err(|error| format!("options: {error}"))?;
    let priority = match options.priority {
        None => None,
        Some(level) => Some(
            Priority::new(level)
                .ok_or_else(|| format!("options.priority: {level} is not between 0 and 9"))?,
        ),
    };
    let start = match (options.run_at, seconds("delay_seconds", options.delay_seconds)?) {
        (Some(_), Some(_)) => return Err("options: give run_at or delay_seconds, not both".into()),
        (Some(moment), None) => Start::At(moment),
        (None, Some(delay)) => Start::After(delay),
        (None, None) => Start::Now,
    };
    let retry = options.retry.map(|terms| terms.policy()).transpose().map_err(|wrong| {
        let wrong: Vec<_> = wrong.iter().map(|wrong| format!("options.retry.{wrong}")).collect();
        wrong.join("; ")
    })?;
    let own = OwnTerms { retry, keep_for: seconds("retention_seconds", options.retention_seconds)? };
    let fairness_key = options.fairness_key.map(FairnessKey::new).transpose();
    let fairness_key = fairness_key.map_err(|error| format!("options: {error}"))?;
    let metadata = options.metadata.map(|notes| Json::from_value(&notes)).transpose();
    Ok(Submission {
        own,
        queue,
        priority,
        start,
        expires_at: options.expires_at,
        max_attempts: options.max_attempts,
        soft_time_limit: seconds("soft_time_limit_seconds", options.soft_time_limit_seconds)?,
        time_limit: seconds("time_limit_seconds", options.time_limit_seconds)?,
        metadata: metadata.map_err(|error| format!("options.metadata: {error}"))?,
        fairness_key,
        ..plain
    })
}

#[cfg(test)]
mod tests {
    use domain::{Json, Rank, Routes, Tenant};

    use super::*;
    use crate::{
        in_process::InProcessSignals,
        ports::{MockInboxStore, MockTaskStore, Signals as _},
        registry::{Output, Registry, TaskTypeSpec},
    };

    #[derive(Deserialize)]
    struct Sum {
        a: i64,
        b: i64,
    }

    fn inbox(store: MockInboxStore) -> (Inbox, Arc<InProcessSignals>) {
        let signals = Arc::new(InProcessSignals::new());
        let sum = |_, Sum { a, b }| async move { Output::of(&(a + b)) };
        let registry = Registry::new([TaskTypeSpec::new("demo.sum", "Adds.", sum)]).expect("one type");
        let (registry, routes) = (Arc::new(registry), Arc::new(Routes::default()));
        let tasks =
            Tasks::new(Arc::new(MockTaskStore::new()), None, Arc::clone(&signals) as _, registry, routes);
        (Inbox::new(Arc::new(store), tasks), signals)
    }

    fn letter(id: i64, task_type: &str, input: &str, options: &str) -> Letter {
        Letter {
            id: TaskId(id),
            tenant: Tenant::default(),
            task_type: TaskType::new(task_type).expect("a type"),
            input: Json::parse(input).expect("JSON"),
            options: options.into(),
            submitted_at: Timestamp::UNIX_EPOCH,
        }
    }

    const ADD: &str = r#"{"a":1,"b":2}"#;

    #[test]
    fn letters_are_checked_and_routed_or_refused_with_the_reason() {
        let (inbox, _) = inbox(MockInboxStore::new());
        let good =
            inbox.read(letter(1, "demo.sum", ADD, r#"{"priority":2,"delay_seconds":1.5,"max_attempts":7}"#));
        assert_eq!((good.id, good.refusal), (TaskId(1), None));
        assert_eq!(good.task.queue.as_str(), "demo_tasks");
        assert_eq!(Some(good.task.priority), Priority::new(2));
        assert_eq!(good.task.start, Start::After(Duration::from_millis(1500)));
        assert_eq!(good.task.limits.max_attempts, 7);
        for (task_type, input, options, says) in [
            ("demo.sum", r#"{"a":1}"#, "{}", "input: "),
            ("demo.sum", ADD, r#"{"prority":1}"#, "prority"),
            ("demo.sum", ADD, r#"{"priority":10}"#, "10 is not between 0 and 9"),
            ("demo.sum", ADD, r#"{"queue":"a b"}"#, "queue name"),
            ("demo.sum", ADD, r#"{"delay_seconds":-1}"#, "options.delay_seconds: -1"),
            ("demo.sum", ADD, r#"{"delay_seconds":1,"run_at":"2030-01-01T00:00:00Z"}"#, "not both"),
            ("demo.sum", ADD, r#"{"max_attempts":0}"#, "max_attempts: 0"),
            ("demo.sum", ADD, "[]", "options"),
            ("nobody.knows", "1", "{}", "nobody.knows"),
        ] {
            let bad = inbox.read(letter(2, task_type, input, options));
            let refusal = bad.refusal.expect(says);
            assert_eq!(refusal.code, "invalid_submission");
            assert!(refusal.message.contains(says), "{options}: {}", refusal.message);
            assert_eq!(bad.task.input.as_str(), input, "it is kept for whoever looks into it");
        }
    }

    #[tokio::test]
    async fn what_was_taken_in_here_is_announced_and_nothing_else() {
        let mut store = MockInboxStore::new();
        store.expect_letters().returning(|known, _, _| {
            assert_eq!(known.len(), 1);
            let bad = letter(3, "demo.sum", "null", "{}");
            let later = letter(4, "demo.sum", ADD, r#"{"delay_seconds":9}"#);
            let [ours, theirs] = [1, 2].map(|id| letter(id, "demo.sum", ADD, "{}"));
            Ok(vec![ours, theirs, bad, later])
        });
        store.expect_take_in().returning(|letters| {
            assert_eq!(letters.iter().filter(|letter| letter.refusal.is_some()).count(), 1);
            let taken = |id, run_at| TakenIn { id: TaskId(id), run_at, rank: Rank(id) };
            Ok(vec![taken(1, None), taken(3, None), taken(4, Some(Timestamp::UNIX_EPOCH))])
        });
        let (inbox, signals) = inbox(store);
        let (mut work, mut bad, mut other) =
            (signals.work(), signals.task(TaskId(3)).await, signals.task(TaskId(2)).await);
        assert_eq!(inbox.round().await, Ok(3));
        let demo = QueueName::new("demo_tasks").expect("a name");
        assert_eq!(work.recv().await, Ok(Signal::Work { queues: vec![demo], tasks: Vec::new() }));
        assert_eq!(
            bad.recv().await,
            Ok(Signal::State { task: TaskId(3), attempt: 0, status: Status::Failed })
        );
        assert!(other.try_recv().is_err(), "somebody else took that in, and tells of it");
    }
}
