//! Fair queues: lanes take turns, whatever they hold.

use std::num::NonZeroU32;

use application::ports::{Claim, Patience, Retry, RetryOutcome, Store};
use domain::{
    Event, Failure, FairnessKey, NewTask, Rank, Share, Start, Tenant,
    ai::{ModelCall, Operation, ProviderName, Usage},
};

use crate::{
    Harness,
    fixtures::*,
    flows::{flow, follow_up, named, node},
};

const COST: u32 = 1_000;

fn share(key: &str) -> Option<Share> {
    let key = Some(key).filter(|key| !key.is_empty()).map(|key| FairnessKey::new(key).expect("a key"));
    Some(Share { key, cost: NonZeroU32::new(COST).expect("not zero") })
}

/// A task of a lane of the queue `q`.
fn fair(key: &str) -> NewTask {
    NewTask { share: share(key), ..task() }
}

/// The ranks of new tasks.
async fn ranks(store: &dyn Store, tasks: &[NewTask]) -> Vec<i64> {
    receipts(store, tasks).await.into_iter().map(|receipt| receipt.rank.0).collect()
}

/// The keys of those that wait, in their order.
async fn line(store: &dyn Store) -> Vec<String> {
    let mut keys = Vec::new();
    for place in store.waiting(&queue("q"), 100).await.expect("waiting") {
        keys.push(read(store, place.id).await.fairness_key.map_or(String::new(), |key| key.to_string()));
    }
    keys
}

/// A rank for each lane's task, as far apart as they cost; a place in a line is a place there for everybody.
pub async fn lanes_take_turns(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let plain = submit_one(store, task()).await;
    assert_eq!(store.waiting(&queue("q"), 10).await.expect("waiting")[0].rank, Rank(plain.0));
    let many = ranks(store, &vec![fair("many — é"); 6]).await;
    let few = ranks(store, &[fair("few"), fair("few")]).await;
    let other = ranks(store, &[NewTask { tenant: tenant("acme"), ..fair("few") }, fair("")]).await;
    assert!(many[0] >= plain.0, "behind what waits by its number");
    assert_eq!(many.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>(), [i64::from(COST); 5]);
    assert_eq!(few, many[..2], "turn and turn about");
    assert_eq!(other, [many[0]; 2], "lanes of their own");
    // The task of another tenant has a name too, which this one may not read.
    store.cancel(&tenant("acme"), &ids_of(store, &tenant("acme")).await).await.expect("cancelled");
    let line = line(store).await;
    let before = |n: usize| line[..n].iter().filter(|key| *key == "few").count();
    assert_eq!((line.len(), before(4), before(6)), (10, 1, 2), "{line:?}");
    let claim = Claim::Next { queues: vec![(queue("q"), 100)], limit: 6, patience: Patience::Any };
    let taken = store.claim(worker, &claim).await.expect("claimed");
    let taken: Vec<i64> = taken.iter().map(|task| task.rank.0).collect();
    assert_eq!(taken, [plain.0, many[0], many[0], many[0], many[1], many[1]]);
}

async fn ids_of(store: &dyn Store, tenant: &Tenant) -> Vec<domain::TaskId> {
    let page = application::ports::ListPage { before: None, limit: 100 };
    let tasks = store.list(tenant, &Default::default(), page).await.expect("listed");
    tasks.into_iter().map(|task| task.id).collect()
}

/// A lane that comes late begins where the queue is: it is not owed what others have had, and does not wait for it.
pub async fn a_lane_begins_at_the_queues_clock(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let many = receipts(store, &vec![fair("many"); 10]).await;
    let taken: Vec<_> = many[..5].iter().map(|receipt| receipt.id).collect();
    assert_eq!(claim(store, worker, &taken).await.len(), 5);
    // The clock may be moved beside the claim.
    let mut lane = 0;
    let late = loop {
        lane += 1;
        let late = ranks(store, &[fair(&format!("late {lane}"))]).await[0];
        if late >= many[4].rank.0 || lane == 500 {
            break late;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(late, many[4].rank.0, "beside the last that was started");
}

/// A task that has to wait before it can begin to wait for a worker gets its rank then; one that waits again keeps it; one
/// that a person runs again gets a new one.
pub async fn ranks_are_given_when_tasks_begin_to_wait(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let later = submit_one(store, NewTask { start: Start::After(SECOND), ..fair("a") }).await;
    let first = ranks(store, &[fair("a")]).await[0];
    harness.advance(SECOND).await;
    let due = store.promote(10).await.expect("promoted");
    assert_eq!((due[0].id, due[0].rank), (later, Rank(first + i64::from(COST))));
    let claimed = start(store, worker, later).await;
    assert_eq!(claimed.rank, due[0].rank);
    assert_eq!(claimed.fairness_key.as_ref().map(FairnessKey::as_str), Some("a"));
    settled(store, worker, release(&claimed)).await;
    let place = |places: Vec<application::ports::Waiting>| places.into_iter().find(|place| place.id == later);
    let waiting = store.waiting(&queue("q"), 10).await.expect("waiting");
    assert_eq!(place(waiting).map(|place| place.rank), Some(claimed.rank), "as before");
    let claimed = start(store, worker, later).await;
    settled(store, worker, failure(&claimed, Failure::permanent("no", "no"))).await;
    match &store.retry(&Tenant::default(), &[Retry { id: later, input: None }]).await.expect("back")[..] {
        [RetryOutcome::Waiting(place, _)] => assert!(place.rank > claimed.rank, "{place:?}"),
        other => panic!("{other:?}"),
    }
    // A chain: the second waits for the first.
    let of_lane = |mut node: application::ports::NewNode| {
        node.task = fair("chain");
        node
    };
    let nodes =
        [of_lane(node(vec![])), of_lane(node(vec![named(application::ports::Needed::Node(0), "one")]))];
    let ids = flow(store, &nodes).await;
    let claimed = start(store, worker, ids[0]).await;
    settled(store, worker, success(&claimed, "1")).await;
    let released = follow_up(store).await.released;
    assert_eq!(released.len(), 1);
    assert!(released[0].rank > claimed.rank, "{released:?}");
}

/// What tasks have used decides how far apart those that come later stand.
pub async fn lanes_learn_what_their_tasks_use(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let id = submit_one(store, fair("a")).await;
    let claimed = start(store, worker, id).await;
    let provider = ProviderName::new("main").expect("a name");
    let mut call = ModelCall::new(Operation::Chat, provider, "m");
    call.charge(Usage { input_tokens: 40, output_tokens: 60, estimated: false }, None);
    let settlement = by_event(&claimed, false, Event::Succeed);
    let settlement =
        application::ports::Settlement { result: Some(json("1")), calls: vec![call], ..settlement };
    settled(store, worker, settlement).await;
    let ranks = ranks(store, &[fair("a"), fair("a"), fair("b"), fair("b")]).await;
    assert_eq!(ranks[1] - ranks[0], 100, "a tenth of what was expected");
    assert_eq!(ranks[3] - ranks[2], i64::from(COST), "nobody knows");
}

/// Lanes whose turn has passed are forgotten; they would begin at the clock in any case.
pub async fn lanes_are_forgotten_when_their_turn_has_passed(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    submit(store, &[fair("a"), fair("a")]).await;
    let other = receipts(store, &vec![fair("b"); 4]).await;
    harness.advance(61 * SECOND).await;
    assert_eq!(store.forget_lanes(60 * SECOND, 10).await.expect("forgotten"), 0, "both may be first");
    let ids: Vec<_> = other.iter().map(|receipt| receipt.id).collect();
    claim(store, worker, &ids).await;
    let mut forgotten = 0;
    for _ in 0..500 {
        forgotten += store.forget_lanes(60 * SECOND, 10).await.expect("forgotten");
        if forgotten > 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(forgotten, 1, "a is; the turn of b is still to come");
    assert_eq!(ranks(store, &[fair("a")]).await, [other[3].rank.0]);
}
