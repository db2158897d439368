//! The order on a real Redis: what goes first, what is kept, and what is asked for again.

mod support;

use std::collections::BTreeSet;

use application::ports::{Order, StoreError};
use contract_tests::servers::RedisServer;
use domain::TaskId;
use redis_adapter::RedisOrder;
use support::{NONE, fill, ids, open, options, order, pop, queue, spy, tasks, waiting};

#[tokio::test]
async fn priority_goes_first_and_then_age() {
    let (order, q) = (order(100), queue("q"));
    fill(&order, &q, &[]).await;
    let far = (1 << 49) - 1;
    order.push(&[waiting(&q, 9, 1), waiting(&q, 5, far), waiting(&q, 5, 11)]).await.expect("a push");
    order.push(&[waiting(&q, 0, far - 1), waiting(&q, 5, 9), waiting(&q, 5, 100)]).await.expect("a push");
    assert_eq!(ids(&pop(&order, &q, 4).await), [far - 1, 9, 11, 100]);
    assert_eq!(ids(&pop(&order, &q, 4).await), [far, 1]);
    assert_eq!(ids(&pop(&order, &q, 4).await), NONE);
}

#[tokio::test]
async fn a_push_is_idempotent() {
    let (order, q) = (order(100), queue("q"));
    fill(&order, &q, &[]).await;
    for _ in 0..3 {
        order.push(&tasks(&q, [1, 2])).await.expect("a push");
    }
    assert_eq!(ids(&pop(&order, &q, 10).await), [1, 2]);
}

#[tokio::test]
async fn queues_take_turns_within_a_priority_and_the_start_rotates() {
    let order = order(100);
    let [a, b, c] = ["a", "b", "c"].map(queue);
    let push = [
        tasks(&a, 1..=4),
        tasks(&b, 11..=14),
        vec![waiting(&c, 9, 21), waiting(&c, 0, 22), waiting(&c, 5, 23), waiting(&c, 5, 24)],
    ];
    order.push(&push.concat()).await.expect("a push");
    for queue in [&a, &b, &c] {
        // Nothing was known of these queues, so the push was left to the refill.
        let all = push.concat().into_iter().filter(|task| task.queue == *queue).collect::<Vec<_>>();
        fill(&order, queue, &all).await;
    }
    let queues = [(a.clone(), 9), (b.clone(), 2), (c.clone(), 9)];
    let first = order.pop(&queues, 6).await.expect("a pop");
    assert_eq!(ids(&first), [22, 1, 11, 23, 2, 12], "the urgent one, then a, b, c in turn");
    let second = order.pop(&queues, 4).await.expect("a pop");
    assert_eq!(ids(&second), [13, 24, 3, 14], "b begins this time");
    let third = order.pop(&queues, 9).await.expect("a pop");
    assert_eq!(ids(&third), [4, 21], "what is left, the last priority at the end");
    assert_eq!(third.low, []);
}

#[tokio::test]
async fn no_queue_gives_more_than_its_allowance() {
    let order = order(100);
    let [a, b] = ["a", "b"].map(queue);
    fill(&order, &a, &tasks(&a, 1..=50)).await;
    fill(&order, &b, &tasks(&b, 51..=99)).await;
    let popped = order.pop(&[(a.clone(), 40), (b.clone(), 3)], 60).await.expect("a pop");
    assert_eq!(popped.ids.iter().filter(|id| id.0 <= 50).count(), 40);
    assert_eq!(popped.ids.iter().filter(|id| id.0 > 50).count(), 3);
    assert_eq!(ids(&order.pop(&[(a.clone(), 0), (b.clone(), 0)], 60).await.expect("a pop")), NONE);
    assert_eq!(ids(&order.pop(&[(a.clone(), 5), (b, 5)], 0).await.expect("a pop")), NONE);
    let twice = order.pop(&[(a.clone(), 1), (a, 2)], 9).await.expect("a pop");
    assert_eq!(ids(&twice), [41, 42], "a queue that is named twice is one queue");
    assert_eq!(order.pop(&[], 9).await.expect("a pop"), Default::default());
}

#[tokio::test]
async fn a_window_never_grows_beyond_its_size_and_keeps_the_first() {
    let options = options(RedisServer::shared());
    let order = RedisOrder::new(&open(&options)).with_window(5);
    let q = queue("q");
    fill(&order, &q, &tasks(&q, 10..=12)).await;
    order.push(&tasks(&q, 13..=17)).await.expect("a push");
    let mut spy = spy(&options.url).await;
    let window = format!("{{{}}}:v1:window:q", options.prefix);
    let held: Vec<i64> =
        redis::cmd("ZRANGE").arg(&window).arg(0).arg(-1).query_async(&mut spy).await.expect("a list");
    assert_eq!(held, [10, 11, 12, 13, 14]);
    // Full and incomplete: what sorts before the last pushes it out, what sorts behind it stays out.
    order.push(&[waiting(&q, 0, 30), waiting(&q, 5, 31)]).await.expect("a push");
    let first = pop(&order, &q, 2).await;
    assert_eq!((ids(&first), first.low), (vec![30, 10], vec![]));
    // There is room again, but task 14 waits in the store before 32.
    order.push(&tasks(&q, [32])).await.expect("a push");
    let rest = pop(&order, &q, 9).await;
    assert_eq!((ids(&rest), rest.low), (vec![11, 12, 13], vec![q.clone()]));
    fill(&order, &q, &tasks(&q, [14, 15, 16, 17, 31, 32])).await;
    let refilled = pop(&order, &q, 9).await;
    assert_eq!((ids(&refilled), refilled.low), (vec![14, 15, 16, 17, 31], vec![q.clone()]), "a window of 5");
    fill(&order, &q, &tasks(&q, [32])).await;
    let last = pop(&order, &q, 9).await;
    assert_eq!((ids(&last), last.low), (vec![32], vec![]));
}

#[tokio::test]
async fn only_what_may_hide_more_is_low() {
    let (order, q) = (order(8), queue("q"));
    assert!(pop(&order, &q, 1).await.low.contains(&q), "unknown");
    fill(&order, &q, &[]).await;
    assert_eq!(pop(&order, &q, 1).await.low, [], "known to be empty");
    order.push(&tasks(&q, 1..=20)).await.expect("a push");
    assert_eq!(pop(&order, &q, 5).await.low, [], "3 of 8 are left");
    let popped = pop(&order, &q, 1).await;
    assert_eq!((ids(&popped), popped.low), (vec![6], vec![]), "2 of 8 are a quarter");
    let popped = pop(&order, &q, 1).await;
    assert_eq!((ids(&popped), popped.low), (vec![7], vec![q.clone()]), "1 of 8");
    let mark = order.mark(&q).await.expect("a mark");
    order.refill(&q, mark, &tasks(&q, 8..=15), false).await.expect("a refill");
    assert_eq!(pop(&order, &q, 1).await.low, [], "plenty, though there is more in the store");
}

#[tokio::test]
async fn what_is_pushed_while_the_store_is_read_is_kept() {
    let (order, q) = (order(8), queue("q"));
    order.push(&tasks(&q, [1, 2])).await.expect("a push");
    let mark = order.mark(&q).await.expect("a mark");
    let read = tasks(&q, [1, 2]);
    order.push(&[waiting(&q, 0, 3), waiting(&q, 9, 4)]).await.expect("a push");
    order.refill(&q, mark, &read, true).await.expect("a refill");
    let popped = pop(&order, &q, 9).await;
    assert_eq!((ids(&popped), popped.low), (vec![3, 1, 2, 4], vec![]));
}

#[tokio::test]
async fn several_refills_at_once_lose_nothing() {
    let (order, q) = (order(8), queue("q"));
    let first = order.mark(&q).await.expect("a mark");
    order.push(&tasks(&q, [1])).await.expect("a push");
    let second = order.mark(&q).await.expect("a mark");
    order.push(&tasks(&q, [2])).await.expect("a push");
    order.refill(&q, second, &tasks(&q, [1]), true).await.expect("a refill");
    order.push(&tasks(&q, [3])).await.expect("a push");
    order.refill(&q, first, &[], true).await.expect("a refill");
    let popped = pop(&order, &q, 9).await;
    assert_eq!((ids(&popped), popped.low), (vec![1, 2, 3], vec![]));
}

#[tokio::test]
async fn refills_that_overlap_need_no_third_one() {
    let (order, q) = (order(4), queue("q"));
    let first = order.mark(&q).await.expect("a mark");
    order.push(&tasks(&q, [8])).await.expect("a push");
    let second = order.mark(&q).await.expect("a mark");
    order.push(&tasks(&q, [9])).await.expect("a push");
    order.refill(&q, first, &tasks(&q, [1, 2]), false).await.expect("a refill");
    assert_eq!(pop(&order, &q, 0).await.low, [], "what was skipped since the first mark was kept");
    order.push(&tasks(&q, [10])).await.expect("a push");
    order.refill(&q, second, &tasks(&q, [1, 2, 3, 4]), false).await.expect("a refill");
    let popped = pop(&order, &q, 3).await;
    assert_eq!((ids(&popped), popped.low), (vec![1, 2, 3], vec![]), "and since the second");
}

#[tokio::test]
async fn what_one_refill_drops_another_does_not_forget() {
    let (order, q) = (order(4), queue("q"));
    fill(&order, &q, &tasks(&q, [1, 2, 3])).await;
    let slow = order.mark(&q).await.expect("a mark");
    order.push(&tasks(&q, [4])).await.expect("a push");
    // Two urgent tasks were submitted and their push was lost; another worker has swept the store.
    let quick = order.mark(&q).await.expect("a mark");
    let urgent = [waiting(&q, 0, 5), waiting(&q, 0, 6)];
    order.refill(&q, quick, &[&urgent[..], &tasks(&q, [1, 2])].concat(), false).await.expect("a refill");
    assert_eq!(ids(&pop(&order, &q, 2).await), [5, 6]);
    order.refill(&q, slow, &tasks(&q, [1, 2, 3]), true).await.expect("a refill");
    let popped = pop(&order, &q, 9).await;
    assert_eq!((ids(&popped), popped.low), (vec![1, 2, 3, 4], vec![]));
}

#[tokio::test]
async fn a_sweep_finds_what_a_dead_worker_popped() {
    let (order, q) = (order(4), queue("q"));
    fill(&order, &q, &tasks(&q, [1, 2])).await;
    assert_eq!(ids(&pop(&order, &q, 2).await), [1, 2]);
    order.push(&tasks(&q, [3, 4, 5])).await.expect("a push");
    let mark = order.mark(&q).await.expect("a mark");
    order.refill(&q, mark, &[tasks(&q, [1]), tasks(&q, 3..=5)].concat(), false).await.expect("a refill");
    let popped = pop(&order, &q, 9).await;
    assert_eq!(
        (ids(&popped), popped.low),
        (vec![1, 3, 4, 5], vec![q.clone()]),
        "the store said that there is more"
    );
}

#[tokio::test]
async fn a_window_that_may_lack_a_task_is_not_called_complete() {
    let (order, q) = (order(4), queue("q"));
    let mark = order.mark(&q).await.expect("a mark");
    // More than is kept of what comes in between.
    order.push(&[tasks(&q, 11..=15), vec![waiting(&q, 0, 16)]].concat()).await.expect("a push");
    order.refill(&q, mark, &tasks(&q, [1, 2, 3]), true).await.expect("a refill");
    let popped = pop(&order, &q, 1).await;
    assert_eq!(
        (ids(&popped), popped.low),
        (vec![1], vec![q.clone()]),
        "half full, but 16 should have been first"
    );
    let mark = order.mark(&q).await.expect("a mark");
    let first_four = [vec![waiting(&q, 0, 16)], tasks(&q, [2, 3, 11])].concat();
    order.refill(&q, mark, &first_four, false).await.expect("a refill");
    let popped = pop(&order, &q, 2).await;
    assert_eq!((ids(&popped), popped.low), (vec![16, 2], vec![]), "mended");

    let mark = order.mark(&q).await.expect("a mark");
    order.push(&tasks(&q, 21..=26)).await.expect("a push");
    order.refill(&q, mark, &tasks(&q, [3, 11, 12]), true).await.expect("a refill");
    assert!(pop(&order, &q, 0).await.low.contains(&q), "again");
    pop(&order, &q, 4).await;
    fill(&order, &q, &tasks(&q, [21])).await;
    order.push(&tasks(&q, 31..=36)).await.expect("a push");
    assert_eq!(pop(&order, &q, 1).await.low, [], "a complete window lacked nothing when it overflowed");
}

#[tokio::test]
async fn a_wiped_server_is_filled_again_and_an_older_mark_proves_nothing() {
    let server = RedisServer::start().expect("a server");
    let order = RedisOrder::new(&open(&options(&server))).with_window(8);
    let q = queue("q");
    fill(&order, &q, &tasks(&q, [1, 2])).await;
    let before = order.mark(&q).await.expect("a mark");
    let mut spy = spy(server.url()).await;
    let () = redis::cmd("FLUSHALL").query_async(&mut spy).await.expect("a flush");
    let () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut spy).await.expect("a flush");

    let popped = pop(&order, &q, 9).await;
    assert_eq!((ids(&popped), popped.low), (NONE.to_vec(), vec![q.clone()]));
    order.push(&tasks(&q, [3])).await.expect("a push");
    order.mark(&q).await.expect("a mark of another worker");
    order.refill(&q, before, &tasks(&q, [1, 2]), true).await.expect("a refill");
    let popped = pop(&order, &q, 1).await;
    assert_eq!((ids(&popped), popped.low), (vec![1], vec![q.clone()]), "3 may be missing");
    fill(&order, &q, &tasks(&q, [2, 3])).await;
    let popped = pop(&order, &q, 9).await;
    assert_eq!((ids(&popped), popped.low), (vec![2, 3], vec![]));

    // The push itself is wiped, and the counter that could tell of it.
    let other = queue("other");
    let before = order.mark(&other).await.expect("a mark");
    order.push(&tasks(&other, [4])).await.expect("a push");
    let () = redis::cmd("FLUSHALL").query_async(&mut spy).await.expect("a flush");
    order.mark(&other).await.expect("a mark of another worker");
    order.refill(&other, before, &[], true).await.expect("a refill");
    assert!(pop(&order, &other, 1).await.low.contains(&other));
}

#[tokio::test]
async fn what_another_server_process_left_is_not_trusted() {
    let options = options(RedisServer::shared());
    let q = queue("q");
    let order = RedisOrder::new(&open(&options));
    fill(&order, &q, &tasks(&q, [1])).await;
    let same = RedisOrder::new(&open(&options));
    assert_eq!(ids(&pop(&same, &q, 9).await), [1], "another client of the same process");

    fill(&order, &q, &tasks(&q, [1])).await;
    let mut spy = spy(&options.url).await;
    let server = format!("{{{}}}:v1:server", options.prefix);
    let () =
        redis::cmd("SET").arg(server).arg("its-run-before").query_async(&mut spy).await.expect("a write");
    let restarted = RedisOrder::new(&open(&options));
    let popped = pop(&restarted, &q, 9).await;
    assert_eq!((ids(&popped), popped.low), (NONE.to_vec(), vec![q.clone()]));
    assert_eq!(restarted.queues().await.expect("a list"), [q], "where to look is still known");
}

#[tokio::test]
async fn queues_are_known_once_they_held_something() {
    let order = order(8);
    let [a, b, c] = ["a", "b", "c"].map(queue);
    assert_eq!(order.queues().await.expect("a list"), []);
    fill(&order, &c, &[]).await;
    fill(&order, &b, &tasks(&b, [1])).await;
    order.push(&tasks(&a, [2])).await.expect("a push");
    pop(&order, &b, 1).await;
    assert_eq!(order.queues().await.expect("a list"), [a, b]);
}

#[tokio::test]
async fn workers_that_pop_at_once_get_each_task_once() {
    let options = options(RedisServer::shared());
    let q = queue("q");
    let order = RedisOrder::new(&open(&options));
    fill(&order, &q, &[]).await;
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let (order, q) = (RedisOrder::new(&open(&options)), q.clone());
            tokio::spawn(async move {
                let mut got = Vec::new();
                while got.last() != Some(&i64::MAX) {
                    let ids = ids(&pop(&order, &q, 7).await);
                    // The tasks of the last priority are the end mark: everything else was pushed before.
                    let end = ids.iter().any(|id| *id > 5_000);
                    got.extend(ids.into_iter().filter(|id| *id <= 5_000));
                    if end {
                        got.push(i64::MAX);
                    }
                }
                got.pop();
                got
            })
        })
        .collect();
    for from in (1..=5_000).step_by(50) {
        order.push(&tasks(&q, from..from + 50)).await.expect("a push");
    }
    let ends: Vec<_> = (6_000..6_100).map(|id| waiting(&q, 9, id)).collect();
    order.push(&ends).await.expect("a push");
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await.expect("a worker"));
    }
    assert_eq!(all.len(), 5_000);
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>().len(), 5_000);
}

#[tokio::test]
async fn a_full_window_takes_the_memory_that_is_promised() {
    let options = options(RedisServer::shared());
    let order = RedisOrder::new(&open(&options));
    let q = queue("q");
    fill(&order, &q, &[]).await;
    let far = 1 << 40;
    order.push(&tasks(&q, far..far + 25_000)).await.expect("a push");
    let mut spy = spy(&options.url).await;
    let window = format!("{{{}}}:v1:window:q", options.prefix);
    let held: usize = redis::cmd("ZCARD").arg(&window).query_async(&mut spy).await.expect("a count");
    let bytes: usize = redis::cmd("MEMORY")
        .arg("USAGE")
        .arg(&window)
        .arg("SAMPLES")
        .arg(0)
        .query_async(&mut spy)
        .await
        .expect("a size");
    assert_eq!(held, order.window());
    assert!(bytes < 1_300_000, "{bytes} bytes");
}

#[tokio::test]
async fn foreign_data_is_told_from_an_outage() {
    let options = options(RedisServer::shared());
    let order = RedisOrder::new(&open(&options));
    let mut spy = spy(&options.url).await;
    let window = format!("{{{}}}:v1:window:q", options.prefix);
    let () = redis::cmd("SET").arg(window).arg("not ours").query_async(&mut spy).await.expect("a write");
    let error = order.pop(&[(queue("q"), 1)], 1).await.expect_err("a string is no window");
    assert!(matches!(&error, StoreError::Corrupt(why) if why.contains("WRONGTYPE")), "{error:?}");
    assert!(order.ping().await.is_ok(), "everything else goes on");
}

#[tokio::test]
async fn a_task_moves_to_its_new_place_also_beyond_the_window() {
    let (order, q) = (order(3), queue("q"));
    fill(&order, &q, &tasks(&q, [1, 2, 3])).await;
    order.push(&tasks(&q, [4])).await.expect("a push");
    // Forwards, by itself; backwards, behind what the window holds: then it is the store's again.
    order.push(&[waiting(&q, 0, 3)]).await.expect("a push");
    order.withdraw(&q, &[TaskId(1), TaskId(77)]).await.expect("withdrawn");
    order.push(&[waiting(&q, 9, 1)]).await.expect("a push");
    let popped = pop(&order, &q, 10).await;
    assert_eq!((ids(&popped), popped.low.len()), (vec![3, 2], 1), "the rest is to be read from the store");
    fill(&order, &q, &[waiting(&q, 9, 1), waiting(&q, 5, 4)]).await;
    assert_eq!(ids(&pop(&order, &q, 10).await), [4, 1]);
    order.withdraw(&q, &[]).await.expect("nothing to withdraw");
}
