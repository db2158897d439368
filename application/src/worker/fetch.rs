//! Getting tasks to run: through the order where there is one, else from the store, with the same guards.

use std::collections::HashMap;

use domain::{QueueLimits, QueueName, Suspicion, TaskId, WorkerId, turns::Shares};

use crate::ports::{Claim, ClaimedTask, LimitedClaim, Order, Patience, StoreError, WorkStore};

/// What a worker could run now.
#[derive(Debug, Clone)]
pub(super) struct Want {
    /// Queues, each with the most that may be taken from it.
    pub(super) queues: Shares,
    /// How to ask for these, one request after the other: see [`domain::Turns::requests`].
    pub(super) requests: Vec<Shares>,
    /// The most in all.
    pub(super) limit: usize,
    /// Look at the store whatever the order says: repairs what the order has lost.
    pub(super) look_at_the_store: bool,
    /// How many suspects of which degree; they take their share of `limit`.
    pub(super) suspects: Vec<(Suspicion, usize)>,
    /// Further queues in which suspects are looked for, within the limits of each.
    pub(super) limited: Vec<(QueueName, QueueLimits)>,
    /// These and no others, which wait and of which the news came here alone: the order need not be asked.
    pub(super) named: Vec<TaskId>,
    /// Taken by name before: the order does not know, and hands these out once more.
    pub(super) already: Vec<TaskId>,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) tasks: Vec<ClaimedTask>,
    /// Whether it is worth asking again at once.
    pub(super) maybe_more: bool,
    /// Whether the order answered; without it, the worker asks the store more often.
    pub(super) order_works: bool,
    /// Queues whose window in the order is to be filled from the store again.
    pub(super) low: Vec<QueueName>,
    /// Which of the tasks were taken by name.
    pub(super) by_name: Vec<TaskId>,
}

impl Fetched {
    fn of(tasks: Vec<ClaimedTask>, maybe_more: bool) -> Self {
        Self { tasks, maybe_more, order_works: true, low: Vec::new(), by_name: Vec::new() }
    }

    /// What this request and those before it came to. Its tasks go to the others.
    fn after(mut self, before: Option<Self>, tasks: &mut Vec<ClaimedTask>) -> Self {
        tasks.append(&mut self.tasks);
        if let Some(before) = before {
            self.maybe_more |= before.maybe_more;
            self.order_works &= before.order_works;
            self.low.extend(before.low);
            self.by_name.extend(before.by_name);
        }
        self
    }
}

/// Claims at most what is wanted: suspects first, who are few, then the others in their order.
pub(super) async fn fetch(
    store: &dyn WorkStore,
    order: Option<&dyn Order>,
    worker: WorkerId,
    want: &Want,
) -> Result<Fetched, StoreError> {
    let mut tasks = suspects(store, worker, want).await?;
    let mut whole: Option<Fetched> = None;
    let mut taken: HashMap<QueueName, usize> = HashMap::new();
    // What the news name is all that there is.
    let requests = if want.named.is_empty() { want.requests.len() } else { 1 };
    for request in want.requests.iter().take(requests) {
        let limit = want.limit - tasks.len();
        if limit == 0 && whole.is_some() {
            break;
        }
        let left = |(queue, most): &(QueueName, usize)| {
            (queue.clone(), most.saturating_sub(taken.get(queue).copied().unwrap_or(0)))
        };
        let queues = request.iter().map(left).filter(|(_, most)| *most > 0).collect();
        let part = match in_order(store, order, worker, &Want { queues, limit, ..want.clone() }).await {
            Ok(part) => part,
            // These are in hand already: they are run, and the store is asked again for the others.
            Err(_) if !tasks.is_empty() => return Ok(Fetched::of(tasks, true)),
            Err(error) => return Err(error),
        };
        if want.requests.len() > 1 {
            part.tasks.iter().for_each(|task| *taken.entry(task.queue.clone()).or_default() += 1);
        }
        whole = Some(part.after(whole, &mut tasks));
    }
    Ok(Fetched { tasks, ..whole.unwrap_or_else(|| Fetched::of(Vec::new(), false)) })
}

async fn suspects(
    store: &dyn WorkStore,
    worker: WorkerId,
    want: &Want,
) -> Result<Vec<ClaimedTask>, StoreError> {
    let mut tasks = Vec::new();
    for (suspicion, room) in &want.suspects {
        let queues = want.queues.iter().map(|(queue, _)| queue.clone()).collect();
        let limit = (*room).min(want.limit - tasks.len());
        let claim = Claim::Suspects { queues, suspicion: *suspicion, limit };
        match store.claim(worker, &claim).await {
            Ok(found) => tasks.extend(found),
            Err(_) if !tasks.is_empty() => break,
            Err(error) => return Err(error),
        }
        let of_degree = |tasks: &[ClaimedTask]| {
            tasks.iter().filter(|task| task.counters.suspicion() == *suspicion).count()
        };
        for (queue, limits) in &want.limited {
            let limit = room.saturating_sub(of_degree(&tasks)).min(want.limit - tasks.len());
            if limit == 0 {
                break;
            }
            let (queue, limits, suspicion) = (queue.clone(), *limits, *suspicion);
            match store.claim_limited(worker, &LimitedClaim { queue, limits, suspicion, limit }).await {
                Ok(found) => tasks.extend(found.tasks),
                Err(_) if !tasks.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(tasks)
}

async fn in_order(
    store: &dyn WorkStore,
    order: Option<&dyn Order>,
    worker: WorkerId,
    want: &Want,
) -> Result<Fetched, StoreError> {
    if want.limit == 0 {
        return Ok(Fetched::of(Vec::new(), true));
    }
    let Some(order) = order else {
        return from_the_store(store, worker, want, Patience::Any).await;
    };
    if !want.named.is_empty() {
        let tasks = store.claim(worker, &Claim::Ids(want.named.clone())).await?;
        let by_name = tasks.iter().map(|task| task.id).collect();
        return Ok(Fetched { by_name, ..Fetched::of(tasks, true) });
    }
    let mut popped = match order.pop(&want.queues, want.limit).await {
        Ok(popped) => popped,
        Err(error) => {
            tracing::debug!(%error, "the order does not answer; claiming from the store");
            let fetched = from_the_store(store, worker, want, Patience::Any).await?;
            return Ok(Fetched { order_works: false, ..fetched });
        }
    };
    let maybe_more = !popped.ids.is_empty();
    popped.ids.retain(|id| !want.already.contains(id));
    let mut tasks = Vec::new();
    if !popped.ids.is_empty() {
        tasks = store.claim(worker, &Claim::Ids(popped.ids)).await?;
    }
    if want.look_at_the_store && tasks.len() < want.limit {
        let limit = want.limit - tasks.len();
        // What is in hand waits for this look, and the sweep finds what it passes over.
        let want = Want { limit, ..want.clone() };
        match from_the_store(store, worker, &want, Patience::Little).await {
            Ok(more) => tasks.extend(more.tasks),
            // What is in hand already has to run: nobody else would, while this worker lives.
            Err(error) if !tasks.is_empty() => {
                tracing::warn!(%error, "no further tasks can be claimed; trying again");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Fetched { low: popped.low, ..Fetched::of(tasks, maybe_more) })
}

async fn from_the_store(
    store: &dyn WorkStore,
    worker: WorkerId,
    want: &Want,
    patience: Patience,
) -> Result<Fetched, StoreError> {
    let claim = Claim::Next { queues: want.queues.clone(), limit: want.limit, patience };
    let tasks = store.claim(worker, &claim).await?;
    let maybe_more = !tasks.is_empty();
    Ok(Fetched::of(tasks, maybe_more))
}

#[cfg(test)]
mod tests {
    use domain::{Counters, Json, Limits, Priority, Rank, TaskId, TaskType, Tenant, Timestamp};

    use super::*;
    use crate::ports::{MockOrder, MockWorkStore, Popped};

    /// Numbers of the tasks that each kind of claim finds; `None` for a store that is away just then.
    struct Finds {
        shared: Option<&'static [i64]>,
        alone: Option<&'static [i64]>,
        ids: Option<&'static [i64]>,
        next: Option<&'static [i64]>,
    }

    fn task(id: i64) -> ClaimedTask {
        ClaimedTask {
            id: TaskId(id),
            tenant: Tenant::default(),
            task_type: TaskType::new("demo.noop").expect("a type"),
            queue: QueueName::default_queue(),
            priority: Priority::default(),
            rank: Rank(id),
            fairness_key: None,
            input: Json::parse("{}").expect("JSON"),
            limits: Limits::default(),
            retry: None,
            counters: Counters::default(),
            created_at: Timestamp::UNIX_EPOCH,
            started_at: Timestamp::UNIX_EPOCH,
        }
    }

    /// A fetch of suspects, of what the order hands out, and of what the store has besides.
    async fn fetched(finds: Finds) -> Result<Vec<i64>, StoreError> {
        let mut store = MockWorkStore::new();
        store.expect_claim().returning(move |_, claim| {
            let found = match claim {
                Claim::Suspects { suspicion: Suspicion::Shared, .. } => finds.shared,
                Claim::Suspects { .. } => finds.alone,
                Claim::Ids(_) => finds.ids,
                Claim::Next { patience, .. } => {
                    assert_eq!(*patience, Patience::Little, "tasks are in hand meanwhile");
                    finds.next
                }
            };
            let away = || StoreError::Unavailable("connection reset".into());
            Ok(found.ok_or_else(away)?.iter().copied().map(task).collect())
        });
        let mut order = MockOrder::new();
        order.expect_pop().returning(|_, _| Ok(Popped { ids: vec![TaskId(5), TaskId(6)], low: Vec::new() }));
        let want = Want {
            queues: vec![(QueueName::default_queue(), 10)],
            requests: vec![vec![(QueueName::default_queue(), 10)]],
            limit: 10,
            look_at_the_store: true,
            suspects: vec![(Suspicion::Shared, 2), (Suspicion::Alone, 1)],
            limited: Vec::new(),
            named: Vec::new(),
            already: Vec::new(),
        };
        let fetched = fetch(&store, Some(&order), WorkerId(1), &want).await?;
        Ok(fetched.tasks.iter().map(|task| task.id.0).collect())
    }

    #[tokio::test]
    async fn what_was_taken_is_kept_though_a_later_claim_fails() {
        for (finds, kept) in [
            (Finds { shared: Some(&[1]), alone: None, ids: Some(&[5]), next: Some(&[]) }, &[1, 5][..]),
            (Finds { shared: Some(&[1]), alone: Some(&[2]), ids: None, next: None }, &[1, 2]),
            (Finds { shared: Some(&[]), alone: Some(&[]), ids: Some(&[5, 6]), next: None }, &[5, 6]),
            (Finds { shared: Some(&[1]), alone: Some(&[]), ids: Some(&[5]), next: Some(&[7]) }, &[1, 5, 7]),
        ] {
            assert_eq!(fetched(finds).await, Ok(kept.to_vec()));
        }
    }

    #[tokio::test]
    async fn a_fetch_with_empty_hands_says_what_went_wrong() {
        for finds in [
            Finds { shared: None, alone: Some(&[2]), ids: Some(&[5]), next: Some(&[]) },
            Finds { shared: Some(&[]), alone: None, ids: Some(&[5]), next: Some(&[]) },
            Finds { shared: Some(&[]), alone: Some(&[]), ids: None, next: Some(&[7]) },
            Finds { shared: Some(&[]), alone: Some(&[]), ids: Some(&[]), next: None },
        ] {
            assert!(fetched(finds).await.is_err());
        }
    }

    fn plain_want() -> Want {
        Want {
            queues: vec![(QueueName::default_queue(), 10)],
            requests: vec![vec![(QueueName::default_queue(), 10)]],
            limit: 10,
            look_at_the_store: false,
            suspects: Vec::new(),
            limited: Vec::new(),
            named: Vec::new(),
            already: Vec::new(),
        }
    }

    #[tokio::test]
    async fn each_request_gets_what_those_before_it_have_left() {
        let (urgent, normal) =
            (QueueName::new("urgent").expect("valid"), QueueName::new("normal").expect("valid"));
        let mut store = MockWorkStore::new();
        let (first, second) = (urgent.clone(), normal.clone());
        store.expect_claim().returning(move |_, claim| {
            let Claim::Next { queues, limit, patience: Patience::Any } = claim else {
                panic!("by order: {claim:?}")
            };
            let of = |id: i64, queue: &QueueName| ClaimedTask { queue: queue.clone(), ..task(id) };
            Ok(match (queues.as_slice(), limit) {
                ([(queue, 3)], 4) if *queue == first => vec![of(1, queue), of(2, queue)],
                ([(one, 1), (other, 4)], 2) if *one == first && *other == second => {
                    vec![of(3, other), of(4, other)]
                }
                other => panic!("{other:?}"),
            })
        });
        let all = vec![(urgent.clone(), 3), (normal, 4)];
        let requests = vec![vec![(urgent, 3)], all.clone(), all.clone()];
        let want = Want { queues: all, requests, limit: 4, ..plain_want() };
        let fetched = fetch(&store, None, WorkerId(1), &want).await.expect("fetched");
        assert_eq!(fetched.tasks.iter().map(|task| task.id.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
    }

    #[tokio::test]
    async fn what_is_named_is_claimed_without_the_order() {
        let mut store = MockWorkStore::new();
        let named = Claim::Ids(vec![TaskId(5), TaskId(6)]);
        // Somebody else was quicker with 6.
        store
            .expect_claim()
            .withf(move |_, claim| *claim == named)
            .times(1)
            .returning(|_, _| Ok(vec![task(5)]));
        let want = Want { named: vec![TaskId(5), TaskId(6)], ..plain_want() };
        let fetched = fetch(&store, Some(&MockOrder::new()), WorkerId(1), &want).await.expect("fetched");
        assert_eq!(fetched.by_name, [TaskId(5)]);
        assert!(fetched.maybe_more, "the order is asked next");
    }

    #[tokio::test]
    async fn what_was_taken_by_name_is_not_asked_for_again() {
        let mut order = MockOrder::new();
        order.expect_pop().returning(|_, _| Ok(Popped { ids: vec![TaskId(5), TaskId(6)], low: Vec::new() }));
        let mut store = MockWorkStore::new();
        let rest = Claim::Ids(vec![TaskId(6)]);
        store
            .expect_claim()
            .withf(move |_, claim| *claim == rest)
            .times(1)
            .returning(|_, _| Ok(vec![task(6)]));
        let want = Want { already: vec![TaskId(5)], ..plain_want() };
        let fetched = fetch(&store, Some(&order), WorkerId(1), &want).await.expect("fetched");
        assert_eq!((fetched.tasks.len(), fetched.by_name), (1, vec![]));
    }
}
