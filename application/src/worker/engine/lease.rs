//! The worker's registration, its heartbeats, and the questions that go with them.

use std::sync::Arc;

use domain::WorkerId;
use tokio::time::Instant;

use super::{ASK_FOR_CANCELLATIONS, Engine, Message, PAUSE_AFTER_ERROR, describe};
use crate::{
    fleet::written,
    ports::{StoreError, WorkerProfile},
    worker::Shutdown,
};

impl Engine {
    /// Registers, however long the store takes to come up.
    pub(super) async fn register(&mut self, shutdown: &Shutdown) -> Option<WorkerId> {
        let profile = WorkerProfile {
            name: self.config.name.clone(),
            queues: self.serving.only().to_vec(),
            except: self.serving.except().to_vec(),
            concurrency: self.config.concurrency,
            lease: self.config.lease.length(),
            about: written(&self.about()),
        };
        let asked = Instant::now();
        // What stands still is known before the first claim.
        let registered = match self.crew.ports.store.paused_queues().await {
            Ok(paused) => {
                self.pauses.set(paused);
                self.crew.ports.store.register(&profile).await
            }
            Err(error) => Err(error),
        };
        match registered {
            Ok(worker) => {
                (self.last_beat, self.next_beat) = (asked, asked + self.config.lease.heartbeat_every());
                self.next_look = asked;
                self.reports.start_anew(asked);
                let queues = describe(&self.serving);
                let types: Vec<_> =
                    self.crew.ports.registry.iter().map(|spec| spec.name().as_str()).collect();
                let (name, concurrency) = (&self.config.name, self.config.concurrency);
                tracing::info!(%worker, %name, %queues, concurrency, types = types.join(" "), "worker ready");
                Some(worker)
            }
            Err(error) => {
                tracing::warn!(%error, "the worker cannot register yet; trying again");
                tokio::select! {
                    () = tokio::time::sleep(PAUSE_AFTER_ERROR * 2) => {}
                    () = shutdown.halt.cancelled() => {}
                }
                None
            }
        }
    }

    pub(super) fn lease_is_lost(&self) -> bool {
        self.last_beat.elapsed() >= self.config.lease.give_up_after()
    }

    pub(super) fn beat(&mut self, worker: WorkerId) {
        let now = Instant::now();
        if self.beating || now < self.next_beat {
            return;
        }
        self.beating = true;
        self.next_beat = now + self.config.lease.heartbeat_every();
        let (store, outbox) = (Arc::clone(&self.crew.ports.store), self.crew.outbox.clone());
        // One that hangs must not keep the next from being tried, on another connection, while the lease still holds.
        let patience = self.config.lease.heartbeat_every() / 2;
        tokio::spawn(async move {
            let heartbeat = store.heartbeat(worker);
            tokio::pin!(heartbeat);
            let answer = match tokio::time::timeout(patience, &mut heartbeat).await {
                Ok(answer) => answer,
                Err(_) => {
                    let late = StoreError::Unavailable(format!("no answer within {patience:?}"));
                    let _ = outbox.send(Message::Heartbeat(worker, now, Err(late)));
                    // A late answer counts as well.
                    heartbeat.await
                }
            };
            let _ = outbox.send(Message::Heartbeat(worker, now, answer));
        });
    }

    pub(super) fn ask_for_cancellations(&mut self, worker: WorkerId) {
        let now = Instant::now();
        if self.asking_for_cancellations || now < self.next_ask || self.running.is_empty() {
            return;
        }
        self.asking_for_cancellations = true;
        self.next_ask = now + ASK_FOR_CANCELLATIONS;
        let (store, outbox) = (Arc::clone(&self.crew.ports.store), self.crew.outbox.clone());
        tokio::spawn(async move {
            let _ = outbox.send(Message::Cancellations(store.cancel_requests(worker).await));
        });
    }
}
