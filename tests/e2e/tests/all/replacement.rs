//! Workers that make way for fresh ones by themselves.

use e2e_tests::{Base, PATIENCE, Program};
use serde_json::json;

/// `--max-tasks` and `--max-memory`: the worker drains and ends well, no attempt is spent, and the next one goes on.
#[tokio::test]
async fn a_worker_drains_itself_after_so_many_tasks_or_so_much_memory() {
    let product = Base::PostgresAndRedis.setup().workers(0).start().await;
    let api = product.api();
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(api.submit_type("demo.noop", json!({})).await);
    }
    let start = |arguments: &[&str]| {
        Program::start("task-runner-worker", arguments, &product.settings, product.folder.path())
    };
    let mut short = start(&["--max-tasks", "3"]);
    assert!(short.ends_within(PATIENCE).await.success(), "{}", short.log());
    let mut large = start(&["--max-memory", "1MB"]);
    assert!(large.ends_within(PATIENCE).await.success(), "{}", large.log());
    assert!(large.log().contains("more memory than this worker may use"), "{}", large.log());
    let _last = start(&[]);
    for id in ids {
        let task = api.completed(id).await;
        assert!(task["attempt"].as_i64().is_some_and(|attempt| attempt <= 2), "{task}");
        let outcomes = api.outcomes(id).await;
        assert!(
            outcomes.iter().all(|outcome| outcome == "COMPLETED" || outcome == "RELEASED"),
            "{outcomes:?}"
        );
    }
}
