//! News between processes, over Redis publish/subscribe.
//!
//! A signal reaches the listeners of its own process at once, without Redis; the copy that comes back is known by its
//! origin and dropped. Other processes get it through a background task that sends what has gathered in one pipeline,
//! and one dedicated connection per process that listens. That connection is tested all the time, since a proxy can
//! cut it without a sign, and is made anew, with all its subscriptions, when it does not answer.

mod hub;
mod listen;
mod publish;
mod wire;

use std::{sync::Arc, time::Duration};

use application::ports::{Signal, SignalStream, Signals};
use async_trait::async_trait;
use domain::TaskId;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

pub(crate) use self::wire::{Origin, encode};
use self::{hub::Hub, publish::Outgoing};
use crate::Redis;

/// Calls to publish that may wait for Redis; what comes on top is not sent to other processes.
const BACKLOG: usize = 4_096;

/// How long a new listener waits until Redis has confirmed its subscription.
const SUBSCRIBE_WAIT: Duration = Duration::from_millis(500);

/// The bus over Redis. Dropping it ends its background tasks.
#[derive(Debug)]
pub struct RedisSignals {
    redis: Redis,
    hub: Arc<Hub>,
    outgoing: mpsc::Sender<Outgoing>,
    tasks: [JoinHandle<()>; 2],
}

impl RedisSignals {
    /// Starts to listen and to publish in the background; Redis may be down. Must be called inside a tokio runtime.
    pub fn start(redis: &Redis) -> Self {
        let hub = Arc::new(Hub::default());
        let origin = Origin::new(rand::random());
        let (outgoing, queue) = mpsc::channel(BACKLOG);
        let tasks = [
            tokio::spawn(listen::listen(redis.clone(), Arc::clone(&hub), origin.clone())),
            tokio::spawn(publish::publish(redis.clone(), queue, origin)),
        ];
        Self { redis: redis.clone(), hub, outgoing, tasks }
    }

    /// Waits until what was published so far has been sent, or could not be. For the end of a process.
    pub async fn flush(&self) {
        let (done, sent) = oneshot::channel();
        if self.outgoing.send(Outgoing::Flush(done)).await.is_ok() {
            // An error means that the sender is gone: there is nothing left to wait for.
            let _ = sent.await;
        }
    }
}

#[async_trait]
impl Signals for RedisSignals {
    async fn publish(&self, signals: &[Signal]) {
        if signals.is_empty() {
            return;
        }
        self.hub.deliver(signals.iter().cloned());
        if let Err(mpsc::error::TrySendError::Full(_)) =
            self.outgoing.try_send(Outgoing::News(signals.to_vec()))
        {
            tracing::debug!("news are published faster than Redis takes them; other processes miss some");
        }
    }

    fn work(&self) -> SignalStream {
        self.hub.work()
    }

    async fn task(&self, id: TaskId) -> SignalStream {
        let (stream, mut subscribed) = self.hub.task(id);
        if self.connected() {
            // Whoever listens looks at the store next: nothing may fall between the two. Not in time: the listener
            // looks at the store again anyway.
            let _ = timeout(SUBSCRIBE_WAIT, subscribed.wait_for(|subscribed| *subscribed)).await;
        }
        stream
    }

    fn connected(&self) -> bool {
        self.hub.connected() && !self.redis.is_down()
    }
}

impl Drop for RedisSignals {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
