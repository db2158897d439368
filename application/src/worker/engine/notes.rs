//! Telling the store how attempts ran: one small call now and then, however many they were.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::Engine;

/// How often.
const NOTE: Duration = Duration::from_secs(2);
/// How long the end of a worker may be held up by it.
const PATIENCE: Duration = Duration::from_secs(2);

impl Engine {
    pub(super) fn note_runs(&mut self) {
        let now = Instant::now();
        if now < self.next_note {
            return;
        }
        self.next_note = now + NOTE;
        let runs = self.crew.runs.take();
        if runs.is_empty() {
            return;
        }
        let store = Arc::clone(&self.crew.ports.store);
        tokio::spawn(async move {
            // Numbers to look at: what is lost of them is not counted again.
            if let Err(error) = store.note_runs(&runs).await {
                tracing::debug!(%error, "the store does not know how some attempts ran");
            }
        });
    }

    /// What is left of them, before the worker is gone.
    pub(super) async fn note_the_last_runs(&self) {
        let runs = self.crew.runs.take();
        if !runs.is_empty() {
            let _ = tokio::time::timeout(PATIENCE, self.crew.ports.store.note_runs(&runs)).await;
        }
    }
}
