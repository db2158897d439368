//! The worker against the memory store, on a paused clock: waits cost nothing and nothing sleeps for real.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use domain::{AttemptOutcome, ErrorClass, Failure, Status, Tenant};
use serde::de::IgnoredAny;
use tokio::sync::Notify;

use crate::{
    ports::{Claim, MockOrder, Patience, Popped, Signal, TaskStore, WorkStore},
    registry::{Output, TaskTypeSpec},
    tasks::TaskEvent,
    testing::{Product, profile, queue},
    worker::Shutdown,
};
use futures_util::StreamExt;

mod queues;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn quick(name: &str) -> TaskTypeSpec {
    TaskTypeSpec::new(name, "Completes at once.", |_, _: IgnoredAny| async { Output::of("done") })
}

fn forever(name: &str) -> TaskTypeSpec {
    TaskTypeSpec::new(name, "Never ends by itself.", |_, _: IgnoredAny| std::future::pending())
}

#[tokio::test(start_paused = true)]
async fn a_task_runs_to_its_result() {
    let product = Product::new([quick("demo.quick")]);
    let _worker = product.worker(4);
    let id = product.submit("demo.quick", |_| {}).await;
    let task = product.end_of(id).await;
    assert_eq!((task.status, task.attempt), (Status::Completed, 1));
    assert_eq!(task.result.expect("a result").as_str(), "\"done\"");
    assert!(task.started_at.is_some() && task.completed_at.is_some());
}

/// An order that takes tasks and never hands one out, nor tells of it.
fn mute_order() -> MockOrder {
    let mut order = MockOrder::new();
    order.expect_push().returning(|_| Ok(()));
    order.expect_pop().returning(|_, _| Ok(Popped::default()));
    order.expect_window().returning(|| 100);
    order
}

/// How long the second of two tasks waited, where the news of it said this. The first shows that the worker is up.
async fn waited_after(news: impl FnOnce(Vec<domain::QueueName>, domain::TaskId) -> Signal) -> Duration {
    let product = Product::new([quick("demo.quick")]).with_order(mute_order());
    let first = product.submit("demo.quick", |_| {}).await;
    let _worker = product.worker(4);
    let queues = vec![product.end_of(first).await.queue];
    let second = product.submit("demo.quick", |_| {}).await;
    product.publish(news(queues, second)).await;
    let task = product.end_of(second).await;
    (task.started_at.expect("started") - task.created_at).to_std().expect("not negative")
}

#[tokio::test(start_paused = true)]
async fn a_worker_with_nothing_to_do_takes_what_the_news_name() {
    let waited = waited_after(|queues, id| Signal::Work { queues, tasks: vec![id] }).await;
    assert!(waited < seconds(1), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn what_no_news_name_is_found_in_the_store() {
    let waited = waited_after(|queues, _| Signal::work(queues)).await;
    assert!(waited > seconds(1), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure_of_that_task_alone() {
    let panics = TaskTypeSpec::new("demo.panics", "Panics.", |_, _: IgnoredAny| async {
        panic!("a bug in the handler")
    });
    let product = Product::new([panics, quick("demo.quick")]);
    let _worker = product.worker(4);
    let bad = product.submit("demo.panics", |task| task.max_attempts = Some(1)).await;
    let good = product.submit("demo.quick", |_| {}).await;
    let bad = product.end_of(bad).await;
    assert_eq!(bad.status, Status::Failed);
    let error = bad.error.expect("an error");
    assert_eq!(error.code, "panic");
    assert!(error.message.contains("a bug in the handler"), "{}", error.message);
    assert_eq!(product.end_of(good).await.status, Status::Completed);
}

#[tokio::test]
async fn a_blocking_handler_stalls_nobody() {
    let (enter, leave) = std::sync::mpsc::channel::<()>();
    let leave = Arc::new(std::sync::Mutex::new(leave));
    let blocks = TaskTypeSpec::blocking("demo.blocks", "Blocks its thread.", move |_, _: IgnoredAny| {
        leave
            .lock()
            .expect("not poisoned")
            .recv()
            .map_err(|error| Failure::permanent("lost", error.to_string()))?;
        Output::of("unblocked")
    });
    let product = Product::new([blocks, quick("demo.quick")]);
    let _worker = product.worker(4);
    let blocked = product.submit("demo.blocks", |_| {}).await;
    let neighbour = product.submit("demo.quick", |_| {}).await;
    assert_eq!(product.end_of(neighbour).await.status, Status::Completed, "on the one thread of this test");
    enter.send(()).expect("the handler waits");
    assert_eq!(product.end_of(blocked).await.result.expect("a result").as_str(), "\"unblocked\"");
}

#[tokio::test(start_paused = true)]
async fn the_hard_limit_stops_a_handler_that_hangs() {
    let product = Product::new([forever("demo.hangs")]);
    let _worker = product.worker(4);
    tokio::spawn(product.upkeep().run(Default::default()));
    let id = product
        .submit("demo.hangs", |task| {
            task.time_limit = Some(seconds(30));
            task.max_attempts = Some(2);
        })
        .await;
    let task = product.end_of(id).await;
    assert_eq!((task.status, task.attempt), (Status::Failed, 2));
    assert_eq!(task.error.expect("an error").code, "time_limit");
    let attempts = product.tasks.attempts(&Tenant::default(), id).await.expect("readable").expect("known");
    assert_eq!(attempts.iter().map(|a| a.outcome).collect::<Vec<_>>(), [Some(AttemptOutcome::TimedOut); 2]);
    let took = attempts[0].ended_at.expect("ended") - attempts[0].started_at;
    assert!((30..32).contains(&took.num_seconds()), "{took}");
}

#[tokio::test(start_paused = true)]
async fn the_soft_limit_lets_a_handler_return_what_it_has() {
    let polite = TaskTypeSpec::new("demo.polite", "Stops when asked.", |context, _: IgnoredAny| async move {
        context.soft_limit_passed().await;
        Output::of("as far as I came")
    });
    let product = Product::new([polite]);
    let _worker = product.worker(4);
    let id = product.submit("demo.polite", |task| task.soft_time_limit = Some(seconds(5))).await;
    let task = product.end_of(id).await;
    assert_eq!(task.status, Status::Completed);
    assert!((5.0..6.0).contains(&task.processing_time().expect("ended").as_secs_f64()));
}

#[tokio::test(start_paused = true)]
async fn without_a_soft_limit_nobody_is_asked_to_stop() {
    let polite = TaskTypeSpec::new("demo.polite", "Stops when asked.", |context, _: IgnoredAny| async move {
        context.soft_limit_passed().await;
        Output::of("asked")
    });
    let product = Product::new([polite]);
    let _worker = product.worker(4);
    let id = product
        .submit("demo.polite", |task| {
            (task.time_limit, task.max_attempts) = (Some(seconds(30)), Some(1));
        })
        .await;
    let task = product.end_of(id).await;
    assert_eq!((task.status, task.error.expect("an error").code.as_str()), (Status::Failed, "time_limit"));
}

#[tokio::test(start_paused = true)]
async fn failures_are_tried_again_until_the_budget_is_used_up() {
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let flaky = TaskTypeSpec::new("demo.flaky", "Succeeds the third time.", move |_, _: IgnoredAny| {
        let run = counted.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            if run < 3 { Err(Failure::transient("busy", format!("run {run}"))) } else { Output::of(&run) }
        }
    });
    let product = Product::new([flaky]);
    let _worker = product.worker(4);
    tokio::spawn(product.upkeep().run(Default::default()));
    let id = product.submit("demo.flaky", |_| {}).await;
    let task = product.end_of(id).await;
    assert_eq!((task.status, task.attempt, runs.load(Ordering::SeqCst)), (Status::Completed, 3, 3));

    runs.store(0, Ordering::SeqCst);
    let id = product.submit("demo.flaky", |task| task.max_attempts = Some(2)).await;
    let task = product.end_of(id).await;
    assert_eq!((task.status, task.attempt), (Status::Failed, 2));
    assert_eq!(task.error.expect("an error").message, "run 2");
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_costs_no_attempt_of_the_budget() {
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let limited = TaskTypeSpec::new("demo.limited", "Is limited five times.", move |_, _: IgnoredAny| {
        let run = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            if run < 5 {
                let slow_down = Failure::new(ErrorClass::RateLimited, "rate_limit_exceeded", "slow down");
                return Err(slow_down.retry_after(Some(seconds(7))));
            }
            Output::of("through")
        }
    });
    let product = Product::new([limited]);
    let _worker = product.worker(4);
    tokio::spawn(product.upkeep().run(Default::default()));
    let id = product.submit("demo.limited", |task| task.max_attempts = Some(1)).await;
    let task = product.end_of(id).await;
    assert_eq!((task.status, task.attempt), (Status::Completed, 6));
    let waited = task.completed_at.expect("ended") - task.created_at;
    assert!(waited.num_seconds() >= 35, "five times seven seconds: {waited}");
}

#[tokio::test(start_paused = true)]
async fn a_running_task_stops_within_a_second_of_its_cancellation() {
    let product = Product::new([forever("demo.hangs")]);
    let _worker = product.worker(4);
    let id = product.submit("demo.hangs", |_| {}).await;
    let mut signals =
        Box::pin(product.tasks.watch(&Tenant::default(), id, (0, 0)).await.expect("ok").expect("known"));
    while !matches!(signals.next().await, Some(TaskEvent::State(task)) if task.status == Status::Processing) {
    }
    let asked = tokio::time::Instant::now();
    product.tasks.cancel(&Tenant::default(), id).await.expect("asked");
    assert_eq!(product.end_of(id).await.status, Status::Cancelled);
    assert!(asked.elapsed() <= seconds(1), "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_drain_finishes_what_it_can_and_gives_back_the_rest_without_a_charge() {
    let slow = TaskTypeSpec::new("demo.slow", "Takes five seconds.", |_, _: IgnoredAny| async {
        tokio::time::sleep(seconds(5)).await;
        Output::of("done")
    });
    let product = Product::new([slow, forever("demo.hangs")]);
    let (shutdown, worker) = product.worker(2);
    let (short, long) =
        (product.submit("demo.slow", |_| {}).await, product.submit("demo.hangs", |_| {}).await);
    while product.read(long).await.status != Status::Processing
        || product.read(short).await.status != Status::Processing
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    shutdown.drain.cancel();
    let late = product.submit("demo.slow", |_| {}).await;
    worker.await.expect("no panic");
    assert_eq!(product.read(short).await.status, Status::Completed);
    let given_back = product.read(long).await;
    assert_eq!((given_back.status, given_back.error), (Status::Pending, None));
    assert_eq!((product.read(late).await.status, product.read(late).await.attempt), (Status::Pending, 0));
    let attempts = product.tasks.attempts(&Tenant::default(), long).await.expect("readable").expect("known");
    assert_eq!(attempts[0].outcome, Some(AttemptOutcome::Released));
}

#[tokio::test(start_paused = true)]
async fn the_stream_is_the_result_and_can_be_taken_up_anywhere() {
    let writes = TaskTypeSpec::new("demo.writes", "Writes a text.", |context, _: IgnoredAny| async move {
        let mut text = String::new();
        for n in 0..200 {
            let piece = format!("word {n} ");
            context.chunk(&piece);
            text.push_str(&piece);
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        Output::of(&text)
    });
    let product = Product::new([writes]);
    let _worker = product.worker(4);
    let id = product.submit("demo.writes", |_| {}).await;

    let live = product.tasks.watch(&Tenant::default(), id, (0, 0)).await.expect("ok").expect("known");
    let (mut text, mut seen) = (String::new(), Vec::new());
    let mut live = Box::pin(live);
    while let Some(event) = live.next().await {
        if let TaskEvent::Chunk(chunk) = event {
            text.push_str(&chunk.text);
            seen.push((chunk.attempt, chunk.seq));
        }
    }
    let result: String = product.read(id).await.result.expect("a result").to().expect("a text");
    assert_eq!(text, result);
    assert!(seen.len() > 10, "it was live: {seen:?}");
    assert!(
        seen.iter().enumerate().all(|(i, place)| *place == (1, i as u64 + 1)),
        "no gap, no repeat: {seen:?}"
    );

    let middle = seen[seen.len() / 2];
    let rest = product.tasks.watch(&Tenant::default(), id, middle).await.expect("ok").expect("known");
    let rest: Vec<_> =
        rest.filter_map(async |event| {
            if let TaskEvent::Chunk(chunk) = event { Some((chunk.attempt, chunk.seq)) } else { None }
        })
        .collect()
        .await;
    assert_eq!(rest, seen[seen.len() / 2 + 1..]);
}

#[tokio::test(start_paused = true)]
async fn another_attempt_begins_the_text_anew_and_says_so() {
    let writes = TaskTypeSpec::new("demo.writes", "Fails once.", |context, _: IgnoredAny| async move {
        context.chunk(&format!("attempt {}", context.task().attempt));
        tokio::time::sleep(Duration::from_millis(200)).await;
        if context.task().attempt == 1 {
            return Err(Failure::transient("unlucky", "the first attempt fails"));
        }
        Output::of("attempt 2")
    });
    let product = Product::new([writes]);
    let _worker = product.worker(4);
    tokio::spawn(product.upkeep().run(Default::default()));
    let id = product.submit("demo.writes", |_| {}).await;
    // A reader who is there from the beginning, one who comes when all is over, and one who comes back in between.
    for after in [(0, 0), (0, 0), (1, 1), (2, 0)] {
        let events = product.tasks.watch(&Tenant::default(), id, after).await.expect("ok").expect("known");
        let mut heard = Vec::new();
        let mut events = Box::pin(events);
        while let Some(event) = events.next().await {
            match event {
                TaskEvent::Chunk(chunk) => heard.push(chunk.text),
                TaskEvent::AttemptReset { attempt } => heard.push(format!("reset to {attempt}")),
                TaskEvent::State(_) | TaskEvent::Progress { .. } | TaskEvent::Interrupted(_) => {}
            }
        }
        let all = ["attempt 1", "reset to 2", "attempt 2"];
        let missed = match after {
            (0, 0) => 0,
            (1, 1) => 1,
            _ => 2,
        };
        assert_eq!(heard, all[missed..], "after {after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_stopped_task_had_written_is_kept() {
    let writes = TaskTypeSpec::new("demo.writes", "Never ends.", |context, _: IgnoredAny| async move {
        context.chunk("half a sen");
        std::future::pending::<()>().await;
        Output::of(&())
    });
    let product = Product::new([writes]);
    let _worker = product.worker(4);
    let id = product.submit("demo.writes", |_| {}).await;
    let mut events =
        Box::pin(product.tasks.watch(&Tenant::default(), id, (0, 0)).await.expect("ok").expect("known"));
    while !matches!(events.next().await.expect("an event"), TaskEvent::Chunk(_)) {}
    let running = product.read(id).await;
    assert_eq!(product.tasks.partial_text(&running).await, Ok(None), "it may still complete");
    product.tasks.cancel(&Tenant::default(), id).await.expect("asked");
    while events.next().await.is_some() {}
    let stopped = product.read(id).await;
    assert_eq!(stopped.status, Status::Cancelled);
    assert_eq!(product.tasks.partial_text(&stopped).await, Ok(Some("half a sen".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_dead_workers_task_is_taken_over_and_a_late_answer_changes_nothing() {
    let product = Product::new([quick("demo.quick")]);
    let id = product.submit("demo.quick", |_| {}).await;
    let doomed = product.store.register(&profile("doomed@host")).await.expect("registered");
    let claim = Claim::Next { queues: vec![(queue("demo_tasks"), 1)], limit: 1, patience: Patience::Any };
    let claimed = product.store.claim(doomed, &claim).await.expect("claimed");
    assert_eq!(claimed[0].id, id);

    let _worker = product.worker(4);
    tokio::spawn(product.upkeep().run(Default::default()));
    let died = tokio::time::Instant::now();
    let task = product.end_of(id).await;
    assert_eq!((task.status, task.attempt), (Status::Completed, 2));
    assert!(died.elapsed() <= seconds(20), "{:?}", died.elapsed());
    assert!(!product.store.heartbeat(doomed).await.expect("answered"), "it is told that it is dead");
    let attempts = product.store.attempts(&Tenant::default(), id).await.expect("readable").expect("known");
    assert_eq!(attempts[0].outcome, Some(AttemptOutcome::Crashed));
}

#[tokio::test(start_paused = true)]
async fn a_flood_in_one_queue_does_not_block_another() {
    let product = Product::new([forever("demo.hangs"), quick("urgent.quick")]);
    let _worker = product.worker(20);
    for _ in 0..100 {
        product.submit("demo.hangs", |_| {}).await;
    }
    while product
        .store
        .counts(&Tenant::default())
        .await
        .expect("counted")
        .iter()
        .all(|c| c.status != Status::Processing)
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let submitted = tokio::time::Instant::now();
    let id = product.submit("urgent.quick", |_| {}).await;
    assert_eq!(product.end_of(id).await.status, Status::Completed);
    assert!(submitted.elapsed() <= seconds(1), "{:?}", submitted.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_later_queue_is_served_too() {
    let product = Product::new([quick("demo.quick")]);
    let _worker = product.worker(4);
    let id = product.submit("demo.quick", |task| task.queue = Some(queue("brand_new"))).await;
    assert_eq!(product.end_of(id).await.status, Status::Completed);
}

#[tokio::test(start_paused = true)]
async fn progress_is_visible_while_it_runs() {
    let go_on = Arc::new(Notify::new());
    let gate = Arc::clone(&go_on);
    let half = TaskTypeSpec::new("demo.half", "Stops half way.", move |context, _: IgnoredAny| {
        let gate = Arc::clone(&gate);
        async move {
            context.progress(1, 2, Some("half way"));
            gate.notified().await;
            Output::of(&())
        }
    });
    let product = Product::new([half]);
    let _worker = product.worker(4);
    let id = product.submit("demo.half", |_| {}).await;
    let mut events =
        Box::pin(product.tasks.watch(&Tenant::default(), id, (0, 0)).await.expect("ok").expect("known"));
    let progress = loop {
        if let TaskEvent::Progress { progress, .. } = events.next().await.expect("an event") {
            break progress;
        }
    };
    assert_eq!((progress.percent(), progress.message.as_deref()), (50, Some("half way")));
    tokio::time::sleep(seconds(2)).await;
    assert_eq!(product.read(id).await.progress.expect("stored").progress, progress);
    go_on.notify_one();
    assert_eq!(product.end_of(id).await.status, Status::Completed);
}

/// Each crash of a worker charges the heaviest suspects that it ran, so the third finds the cause.
#[tokio::test(start_paused = true)]
async fn a_task_that_kills_its_worker_is_found_and_its_neighbours_are_spared() {
    let running = Arc::new(std::sync::Mutex::new(Shutdown::default()));
    let process = Arc::clone(&running);
    let poison = TaskTypeSpec::new("demo.poison", "Kills its worker.", move |_, _: IgnoredAny| {
        process.lock().expect("not poisoned").halt.cancel();
        std::future::pending()
    });
    let slow = TaskTypeSpec::new("demo.slow", "Takes a second.", |_, _: IgnoredAny| async {
        tokio::time::sleep(seconds(1)).await;
        Output::of("done")
    });
    let product = Arc::new(Product::new([poison, slow]));
    let mut innocent = Vec::new();
    for _ in 0..150 {
        innocent.push(product.submit("demo.slow", |_| {}).await);
    }
    let guilty = product.submit("demo.poison", |_| {}).await;
    for _ in 0..150 {
        innocent.push(product.submit("demo.slow", |_| {}).await);
    }
    tokio::spawn(product.upkeep().run(Default::default()));
    let crashes = Arc::new(AtomicU32::new(0));
    let supervisor = {
        let (product, crashes) = (Arc::clone(&product), Arc::clone(&crashes));
        tokio::spawn(async move {
            loop {
                let (shutdown, worker) = product.worker(1000);
                *running.lock().expect("not poisoned") = shutdown;
                worker.await.expect("no panic");
                crashes.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let task = product.end_of(guilty).await;
    assert_eq!((task.status, task.error.expect("an error").code.as_str()), (Status::Failed, "poison"));
    for id in innocent {
        assert_eq!(product.end_of(id).await.status, Status::Completed);
    }
    assert_eq!(crashes.load(Ordering::Relaxed), 3);
    supervisor.abort();
}

#[tokio::test(start_paused = true)]
async fn a_worker_drains_after_as_many_tasks_as_it_may_run() {
    let product = Product::new([quick("demo.quick")]);
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(product.submit("demo.quick", |_| {}).await);
    }
    let (_shutdown, worker) = product.worker_with(2, |config| config.max_tasks = Some(3));
    worker.await.expect("it ends by itself");
    let mut ended = 0;
    for id in &ids {
        let task = product.read(*id).await;
        ended += u32::from(task.status == Status::Completed);
        assert!(task.status == Status::Completed || task.attempt == 0, "no attempt is spent: {task:?}");
    }
    assert_eq!(ended, 3);
    let _next = product.worker(2);
    for id in ids {
        assert_eq!(product.end_of(id).await.status, Status::Completed);
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_its_living_worker_never_ends_is_ended_from_outside() {
    let product = Product::new([quick("demo.quick")]);
    let id = product.submit("demo.quick", |task| task.time_limit = Some(seconds(30))).await;
    let stuck = product.store.register(&profile("stuck@host")).await.expect("registered");
    let claim = Claim::Next { queues: vec![(queue("demo_tasks"), 1)], limit: 1, patience: Patience::Any };
    assert_eq!(product.store.claim(stuck, &claim).await.expect("claimed")[0].id, id);
    let store = Arc::clone(&product.store);
    let beating = tokio::spawn(async move {
        while store.heartbeat(stuck).await.expect("answered") {
            tokio::time::sleep(seconds(3)).await;
        }
    });
    tokio::spawn(product.upkeep().run(Default::default()));
    let _worker = product.worker(4);
    let task = product.end_of(id).await;
    assert_eq!((task.status, task.attempt), (Status::Completed, 2), "another worker runs it");
    let attempts = product.tasks.attempts(&Tenant::default(), id).await.expect("readable").expect("known");
    assert_eq!(attempts[0].outcome, Some(AttemptOutcome::TimedOut));
    assert_eq!(attempts[0].error.as_ref().expect("an error").code, "time_limit");
    let took = attempts[0].ended_at.expect("it ended") - attempts[0].started_at;
    assert!(took.num_seconds() < 90, "twice its limit, a lease, and a moment: {took}");
    assert!(!beating.is_finished(), "the worker itself was left alone");
    beating.abort();
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_ends_no_attempt() {
    let slow = TaskTypeSpec::new("demo.slow", "Takes 20 seconds.", |_, _: IgnoredAny| async {
        tokio::time::sleep(seconds(20)).await;
        Output::of("done")
    });
    let product = Product::new([slow]);
    let id = product.submit("demo.slow", |task| task.time_limit = Some(seconds(30))).await;
    let _worker = product.worker(4);
    tokio::spawn(product.upkeep().run(Default::default()));
    tokio::time::sleep(seconds(1)).await;
    product.jump(seconds(24 * 3600));
    let task = product.end_of(id).await;
    assert_eq!((task.status, task.attempt), (Status::Completed, 1));
}

#[tokio::test(start_paused = true)]
async fn a_result_that_is_too_large_fails_for_good_and_says_how_large_it_is() {
    let product = Product::new([TaskTypeSpec::new("demo.big", "Returns much.", |_, _: IgnoredAny| async {
        Output::of(&"x".repeat(1_000))
    })]);
    let _worker = product.worker_with(4, |config| config.largest_result = 1_000);
    let task = product.end_of(product.submit("demo.big", |_| {}).await).await;
    let error = task.error.expect("an error");
    assert_eq!((task.status, task.attempt, error.code.as_str()), (Status::Failed, 1, "result_too_large"));
    assert!(error.message.contains("1002 bytes") && error.message.contains("1000"), "{}", error.message);
}

#[tokio::test(start_paused = true)]
async fn a_tasks_own_retry_policy_goes_before_its_types() {
    let failing = || {
        TaskTypeSpec::new("demo.failing", "Fails.", |_, _: IgnoredAny| async {
            Err(Failure::new(ErrorClass::Transient, "busy", "the server is busy"))
        })
    };
    let product = Product::new([failing()]);
    let _worker = product.worker(4);
    let _upkeep = tokio::spawn(product.upkeep().run(Default::default()));
    let fixed = domain::RetryTerms {
        backoff: Some("fixed".to_owned()),
        delay_seconds: Some(60.0),
        ..Default::default()
    };
    let policy = fixed.policy().expect("a policy");
    let begun = tokio::time::Instant::now();
    let id = product
        .submit("demo.failing", |submission| {
            submission.max_attempts = Some(4);
            submission.own.retry = Some(policy);
        })
        .await;
    let task = product.end_of(id).await;
    assert_eq!((task.status, task.attempt), (Status::Failed, 4));
    assert!(begun.elapsed() >= seconds(180), "three waits of a minute: {:?}", begun.elapsed());
    let never = domain::RetryTerms { on: Some(vec!["timed_out".to_owned()]), ..Default::default() };
    let never = never.policy().expect("a policy");
    let id = product.submit("demo.failing", |submission| submission.own.retry = Some(never)).await;
    assert_eq!(product.end_of(id).await.attempt, 1, "its class is not among those that are tried again");
}
