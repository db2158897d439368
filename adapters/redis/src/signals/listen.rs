//! Receives news from other processes, over one connection of its own.

use std::{future::Future, sync::Arc, time::Duration};

use domain::TaskId;
use futures_util::StreamExt;
use redis::{RedisResult, aio::PubSubSink};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::{
    hub::Hub,
    wire::{Origin, decode},
};
use crate::Redis;

/// Between attempts to connect: doubles from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How often subscriptions without listeners are given up.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Channels in one SUBSCRIBE.
const SUBSCRIBE_AT_ONCE: usize = 500;

/// Why a connection is no more.
struct Lost(String);

/// Keeps a connection up until the task is aborted.
pub(super) async fn listen(redis: Redis, hub: Arc<Hub>, origin: Origin) {
    let mut pause = FIRST_PAUSE;
    let mut told = false;
    loop {
        // Also while there is no connection.
        hub.sweep();
        let Err(Lost(reason)) = session(&redis, &hub, &origin, &mut told).await;
        let was_connected = hub.connected();
        hub.set_connected(false);
        if was_connected {
            pause = FIRST_PAUSE;
        }
        if std::mem::replace(&mut told, true) {
            tracing::debug!(address = redis.address(), reason, "still no news from other processes");
        } else {
            tracing::warn!(
                address = redis.address(),
                reason,
                "no news from other processes until Redis is back; listeners look at the store instead"
            );
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One connection's life.
async fn session(
    redis: &Redis,
    hub: &Hub,
    origin: &Origin,
    told: &mut bool,
) -> Result<std::convert::Infallible, Lost> {
    let options = redis.options();
    let connection = in_time(options.connect_timeout, "connect", redis.client().get_async_pubsub()).await?;
    let (sink, mut news) = connection.split();
    let mut channels = Channels { redis, sink, hears_states: false };
    channels.subscribe_work(hub).await?;
    channels.subscribe(hub, &hub.take_all()).await?;
    hub.set_connected(true);
    if std::mem::take(told) {
        tracing::info!(address = redis.address(), "news from other processes arrive again");
    }

    let mut ping = ticks(options.ping_every);
    let mut sweep = ticks(SWEEP_EVERY);
    loop {
        tokio::select! {
            message = news.next() => match message {
                Some(message) => hub.deliver(decode(message.get_payload_bytes(), origin)),
                None => return Err(Lost("the connection was closed".into())),
            },
            () = hub.wanted.notified() => {
                channels.subscribe_work(hub).await?;
                channels.subscribe(hub, &hub.take_wanted()).await?;
            }
            _ = ping.tick() => {
                in_time(options.ping_every, "PING", channels.sink.ping::<redis::Value>()).await?;
            }
            _ = sweep.tick() => channels.unsubscribe(hub, &hub.sweep()).await?,
        }
    }
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

struct Channels<'a> {
    redis: &'a Redis,
    sink: PubSubSink,
    /// Only while somebody listens to a task: they are many.
    hears_states: bool,
}

impl Channels<'_> {
    async fn subscribe_work(&mut self, hub: &Hub) -> Result<(), Lost> {
        if hub.lacks_work() {
            let channel = self.redis.keys().work_channel();
            in_time(self.redis.options().response_timeout, "SUBSCRIBE", self.sink.subscribe(channel)).await?;
            hub.subscribed_to_work();
        }
        Ok(())
    }

    async fn subscribe(&mut self, hub: &Hub, tasks: &[TaskId]) -> Result<(), Lost> {
        if !tasks.is_empty() && !self.hears_states {
            let channel = self.redis.keys().states_channel();
            in_time(self.redis.options().response_timeout, "SUBSCRIBE", self.sink.subscribe(channel)).await?;
            self.hears_states = true;
        }
        for tasks in tasks.chunks(SUBSCRIBE_AT_ONCE) {
            let channels = self.names(tasks);
            in_time(self.redis.options().response_timeout, "SUBSCRIBE", self.sink.subscribe(channels))
                .await?;
            hub.subscribed(tasks);
        }
        Ok(())
    }

    async fn unsubscribe(&mut self, hub: &Hub, tasks: &[TaskId]) -> Result<(), Lost> {
        if self.hears_states && hub.has_no_readers() {
            let channel = self.redis.keys().states_channel();
            in_time(self.redis.options().response_timeout, "UNSUBSCRIBE", self.sink.unsubscribe(channel))
                .await?;
            self.hears_states = false;
        }
        for tasks in tasks.chunks(SUBSCRIBE_AT_ONCE) {
            let channels = self.names(tasks);
            in_time(self.redis.options().response_timeout, "UNSUBSCRIBE", self.sink.unsubscribe(channels))
                .await?;
        }
        Ok(())
    }

    fn names(&self, tasks: &[TaskId]) -> Vec<String> {
        tasks.iter().map(|task| self.redis.keys().task_channel(*task)).collect()
    }
}

async fn in_time<T>(
    limit: Duration,
    what: &str,
    call: impl Future<Output = RedisResult<T>>,
) -> Result<T, Lost> {
    match timeout(limit, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Lost(format!("{what}: {error}"))),
        Err(_) => Err(Lost(format!("{what}: no answer within {limit:?}"))),
    }
}
