//! Over the memory store, on a paused clock.

use std::{collections::BTreeMap, time::Duration};

use domain::{Priority, QueueSettings, Routes};
use serde::de::IgnoredAny;

use crate::{
    ports::UpkeepStore,
    registry::{Output, TaskTypeSpec},
    testing::{Product, queue},
    upkeep::Round,
};

#[tokio::test(start_paused = true)]
async fn the_upkeep_raises_what_has_waited_for_long_where_a_queue_asks_for_it() {
    let noop = TaskTypeSpec::new("demo.noop", "Nothing.", |_, _: IgnoredAny| async { Output::of(&()) });
    let ageing = QueueSettings { ageing: Some(Duration::from_secs(60)), ..QueueSettings::default() };
    let settings = BTreeMap::from([(queue("demo_tasks"), ageing)]);
    let product = Product::new([noop]).with_routes(Routes::default().with_settings(settings));
    let last = |task: &mut crate::tasks::Submission| task.priority = Priority::new(9);
    product.submit("demo.noop", last).await;
    product
        .submit("demo.noop", |task| {
            last(task);
            task.queue = Some(queue("plain"));
        })
        .await;
    let mut upkeep = product.upkeep();
    assert_eq!(upkeep.round().await, Ok(Round::default()));
    tokio::time::advance(Duration::from_secs(200)).await;
    assert_eq!(upkeep.round().await.map(|round| round.raised), Ok(1));
    let priority_in = async |name: &str| {
        let waiting = product.store.waiting(&queue(name), 1).await.expect("waiting");
        waiting[0].priority.get()
    };
    assert_eq!((priority_in("demo_tasks").await, priority_in("plain").await), (6, 9));
    assert_eq!(upkeep.round().await.map(|round| round.raised), Ok(0), "nothing more to do for now");
}
