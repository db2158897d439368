//! What many readers of a process ask for again and again is read once a second and shared among them, so that many cost
//! the store no more than one.

use std::time::Duration;

use tokio::{sync::Mutex, time::Instant};

/// So long an answer is good for the next who asks.
pub(crate) const FRESH: Duration = Duration::from_secs(1);

/// The answers of the last second, by what was asked for.
#[derive(Debug)]
pub(crate) struct Board<K, V>(Mutex<Vec<(K, Instant, V)>>);

impl<K, V> Default for Board<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: PartialEq, V: Clone> Board<K, V> {
    /// What is known of this, or else what `read` answers. Whoever comes meanwhile waits for that answer.
    pub(crate) async fn look<E>(
        &self,
        key: K,
        read: impl Future<Output = Result<V, E>> + Send,
    ) -> Result<V, E> {
        let mut board = self.0.lock().await;
        board.retain(|(_, read_at, _)| read_at.elapsed() < FRESH);
        if let Some((.., known)) = board.iter().find(|(of, ..)| *of == key) {
            return Ok(known.clone());
        }
        let found = read.await?;
        board.push((key, Instant::now(), found.clone()));
        Ok(found)
    }
}
