//! News between processes over a real Redis.

mod support;

use std::time::Duration;

use application::ports::{ChunkRecord, Order, Signal, SignalStream, Signals};
use contract_tests::servers::RedisServer;
use domain::{Progress, Status, TaskId};
use redis_adapter::{RedisOptions, RedisOrder, RedisSignals};
use support::{open, options, queue, spy, tasks, until};
use tokio::time::{Instant, timeout};

fn state(task: i64, status: Status) -> Signal {
    Signal::State { task: TaskId(task), attempt: 1, status }
}

async fn next(stream: &mut SignalStream) -> Signal {
    timeout(Duration::from_secs(20), stream.recv()).await.expect("news in time").expect("an open stream")
}

async fn connected(bus: &RedisSignals) {
    until("the bus is connected", || async { bus.connected() }).await;
}

/// As two processes would have it.
async fn two(options: &RedisOptions) -> (RedisSignals, RedisSignals) {
    let buses = (RedisSignals::start(&open(options)), RedisSignals::start(&open(options)));
    connected(&buses.0).await;
    connected(&buses.1).await;
    buses
}

#[tokio::test]
async fn news_reach_every_process_once_and_in_order() {
    let (here, there) = two(&options(RedisServer::shared())).await;
    let (mut here_work, mut there_work) = (here.work(), there.work());
    connected(&here).await;
    connected(&there).await;
    let (mut here_task, mut there_task) = (here.task(TaskId(1)).await, there.task(TaskId(1)).await);
    let sent = [
        state(1, Status::Processing),
        Signal::Progress { task: TaskId(1), attempt: 1, progress: Progress::new(1, 2, Some("half")) },
        Signal::Chunk(ChunkRecord { task: TaskId(1), attempt: 1, seq: 1, text: "ä\n".into() }),
        state(2, Status::Completed),
        state(1, Status::Completed),
    ];
    let orders = [Signal::work(vec![queue("a")]), Signal::Cancel(vec![TaskId(1)])];
    here.publish(&sent).await;
    here.publish(&orders).await;
    here.flush().await;
    for stream in [&mut here_task, &mut there_task] {
        for expected in sent.iter().filter(|signal| **signal != sent[3]) {
            assert_eq!(next(stream).await, *expected);
        }
    }
    for stream in [&mut here_work, &mut there_work] {
        let mut got = [next(stream).await, next(stream).await];
        // Work is gathered, so it may be overtaken.
        got.sort_by_key(|signal| matches!(signal, Signal::Cancel(_)));
        assert_eq!(got, orders);
    }
    // The echo of all that comes back before this, so that a second delivery would be seen.
    let last = [state(1, Status::Failed), Signal::work(vec![queue("last")])];
    there.publish(&last).await;
    for stream in [&mut here_task, &mut there_task] {
        assert_eq!(next(stream).await, last[0]);
        assert!(stream.try_recv().is_err());
    }
    for stream in [&mut here_work, &mut there_work] {
        assert_eq!(next(stream).await, last[1]);
        assert!(stream.try_recv().is_err());
    }
}

#[tokio::test]
async fn a_push_names_its_tasks_to_a_single_worker() {
    let options = options(RedisServer::shared());
    let (one, other) = two(&options).await;
    let order = RedisOrder::new(&open(&options));
    let q = queue("q");
    let named = |ids: &[i64]| Signal::Work {
        queues: vec![queue("q")],
        tasks: ids.iter().map(|id| TaskId(*id)).collect(),
    };
    let mut stream = one.work();
    connected(&one).await;
    let push = async |ids: std::ops::Range<i64>| order.push(&tasks(&q, ids)).await.expect("a push");
    push(1..2).await;
    assert_eq!(next(&mut stream).await, named(&[]), "nobody knows yet how many listen");
    push(2..4).await;
    assert_eq!(next(&mut stream).await, named(&[2, 3]));
    push(4..40).await;
    assert_eq!(next(&mut stream).await, named(&[]), "so many are taken in their order");
    let mut other_stream = other.work();
    connected(&other).await;
    push(40..41).await;
    assert_eq!(next(&mut other_stream).await, named(&[40]), "the second listener is not known yet");
    push(41..42).await;
    assert_eq!(next(&mut other_stream).await, named(&[]));
}

#[tokio::test]
async fn a_process_without_a_worker_is_sent_no_news_of_work() {
    let options = options(RedisServer::shared());
    let (_bus, _other) = two(&options).await;
    let channel = format!("{{{}}}:v1:work", options.prefix);
    let mut spy = spy(&options.url).await;
    let (_, listeners): (String, u64) =
        redis::cmd("PUBSUB").arg("NUMSUB").arg(channel).query_async(&mut spy).await.expect("an answer");
    assert_eq!(listeners, 0);
}

#[tokio::test]
async fn installations_on_one_server_keep_apart() {
    let (here, _) = two(&options(RedisServer::shared())).await;
    let (there, also_there) = two(&options(RedisServer::shared())).await;
    let mut stream = there.work();
    connected(&there).await;
    here.publish(&[Signal::work(vec![queue("other")])]).await;
    here.flush().await;
    also_there.publish(&[Signal::work(vec![queue("own")])]).await;
    assert_eq!(next(&mut stream).await, Signal::work(vec![queue("own")]));
}

#[tokio::test]
async fn a_task_costs_one_subscription_and_none_when_nobody_listens() {
    let options = options(RedisServer::shared());
    let (bus, other) = two(&options).await;
    let spy = spy(&options.url).await;
    let channel = format!("{{{}}}:v1:task:1", options.prefix);
    let subscriptions = || {
        let (mut spy, channel) = (spy.clone(), channel.clone());
        async move {
            let (_, count): (String, u64) =
                redis::cmd("PUBSUB").arg("NUMSUB").arg(channel).query_async(&mut spy).await.expect("a count");
            count
        }
    };
    let listeners = [bus.task(TaskId(1)).await, bus.task(TaskId(1)).await];
    assert_eq!(subscriptions().await, 1, "confirmed before the listener is handed out");
    drop(listeners);
    until("the subscription is given up", || async { subscriptions().await == 0 }).await;

    let mut again = bus.task(TaskId(1)).await;
    assert_eq!(subscriptions().await, 1);
    other.publish(&[state(1, Status::Completed)]).await;
    assert_eq!(next(&mut again).await, state(1, Status::Completed));
    drop(bus);
    until("a dropped bus leaves", || async { subscriptions().await == 0 }).await;
}

#[tokio::test]
async fn after_a_restart_everybody_is_subscribed_again() {
    let server = RedisServer::start().expect("a server");
    let (here, there) = two(&options(&server)).await;
    let (mut work, mut task) = (there.work(), there.task(TaskId(1)).await);
    server.stop().expect("a stop");
    until("the loss is noticed", || async { !there.connected() && !here.connected() }).await;
    let mut listener_of_the_outage = there.task(TaskId(2)).await;
    server.resume().expect("a start");
    connected(&there).await;
    connected(&here).await;

    here.publish(&[state(1, Status::Completed), state(2, Status::Completed), Signal::Cancel(vec![])]).await;
    assert_eq!(next(&mut task).await, state(1, Status::Completed));
    assert_eq!(next(&mut listener_of_the_outage).await, state(2, Status::Completed));
    assert_eq!(next(&mut work).await, Signal::Cancel(vec![]));
}

#[tokio::test]
async fn without_redis_a_process_still_hears_itself_and_nothing_waits() {
    let server = RedisServer::start().expect("a server");
    server.stop().expect("a stop");
    let bus = RedisSignals::start(&open(&options(&server)));
    let start = Instant::now();
    let (mut work, mut task) = (bus.work(), bus.task(TaskId(1)).await);
    for _ in 0..100 {
        bus.publish(&[Signal::work(vec![queue("q")]), state(1, Status::Completed)]).await;
    }
    assert!(start.elapsed() < Duration::from_millis(300), "{:?}", start.elapsed());
    assert!(!bus.connected());
    for _ in 0..100 {
        assert_eq!(next(&mut work).await, Signal::work(vec![queue("q")]));
        assert_eq!(next(&mut task).await, state(1, Status::Completed));
    }
    bus.flush().await;
}

#[tokio::test]
async fn a_connection_that_has_gone_mute_is_replaced() {
    let server = RedisServer::start().expect("a server");
    let ping_every = Duration::from_millis(100);
    let (here, there) = two(&RedisOptions { ping_every, ..options(&server) }).await;
    let mut work = there.work();
    connected(&there).await;
    server.pause().expect("a pause");
    until("silence is noticed", || async { !there.connected() }).await;
    server.unpause().expect("an end of it");
    connected(&there).await;
    connected(&here).await;
    here.publish(&[Signal::Cancel(vec![TaskId(3)])]).await;
    assert_eq!(next(&mut work).await, Signal::Cancel(vec![TaskId(3)]));
}
