//! Sends news to other processes.

use std::collections::BTreeSet;

use application::ports::{Signal, StoreError};
use domain::QueueName;
use tokio::sync::{mpsc, oneshot};

use super::wire::{Origin, encode};
use crate::{Redis, connection::Ask};

/// Signals that are sent in one round trip, more or less.
const BATCH: usize = 512;

/// What the sender is given.
pub(super) enum Outgoing {
    News(Vec<Signal>),
    /// Answered when all before it is sent.
    Flush(oneshot::Sender<()>),
}

/// Sends what has gathered, in order, until the bus is dropped. What cannot be sent is dropped: it is news, and news
/// grow old.
pub(super) async fn publish(redis: Redis, mut queue: mpsc::Receiver<Outgoing>, origin: Origin) {
    let mut failing = false;
    while let Some(first) = queue.recv().await {
        let mut batch = Batch::default();
        batch.add(first);
        while batch.signals.len() < BATCH
            && let Ok(next) = queue.try_recv()
        {
            batch.add(next);
        }
        let sent = send(&redis, &origin, batch.signals()).await;
        match sent {
            Ok(()) => failing = false,
            Err(error) => {
                // Once, and not at all where the outage was told of already.
                if !std::mem::replace(&mut failing, true) && !redis.is_down() {
                    tracing::warn!(%error, "news do not reach other processes at the moment; they look at the store");
                }
            }
        }
        for done in batch.flushes {
            // An error means that nobody waits any more.
            let _ = done.send(());
        }
    }
}

async fn send(redis: &Redis, origin: &Origin, signals: Vec<Signal>) -> Result<(), StoreError> {
    if signals.is_empty() {
        return Ok(());
    }
    let mut pipeline = redis::pipe();
    for (channel, message) in encode(redis.keys(), origin, signals) {
        pipeline.cmd("PUBLISH").arg(channel).arg(message).ignore();
    }
    redis.query(Ask::Pipeline(&pipeline)).await
}

#[derive(Default)]
struct Batch {
    signals: Vec<Signal>,
    /// A thousand submissions to one queue wake its workers once.
    queues: BTreeSet<QueueName>,
    flushes: Vec<oneshot::Sender<()>>,
}

impl Batch {
    fn add(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Flush(done) => self.flushes.push(done),
            Outgoing::News(signals) => {
                for signal in signals {
                    match signal {
                        // Names go by the order only.
                        Signal::Work { queues, tasks: _ } => self.queues.extend(queues),
                        signal @ (Signal::Cancel(_)
                        | Signal::Command(_)
                        | Signal::State { .. }
                        | Signal::Progress { .. }
                        | Signal::Chunk(_)) => self.signals.push(signal),
                    }
                }
            }
        }
    }

    fn signals(&mut self) -> Vec<Signal> {
        let mut signals = std::mem::take(&mut self.signals);
        if !self.queues.is_empty() {
            signals.push(Signal::work(std::mem::take(&mut self.queues).into_iter().collect()));
        }
        signals
    }
}
