//! What the process holds in memory. A worker that has grown too large drains itself: a supervisor starts a fresh one, and no attempt is spent.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How often the process looks at itself.
const LOOK: Duration = Duration::from_secs(1);

/// How many bytes the process holds in memory, where the system says so.
pub(crate) fn used() -> Option<u64> {
    memory_stats::memory_stats().map(|stats| stats.physical_mem as u64)
}

/// Cancels `drain` once the process holds more than `most` bytes in memory.
pub(crate) async fn drain_above(most: u64, drain: CancellationToken) {
    while !drain.is_cancelled() {
        let Some(used) = used() else {
            tracing::warn!(
                "this system does not say how much memory a process uses; WORKER_MAX_MEMORY is ignored"
            );
            return;
        };
        if used > most {
            tracing::warn!(used, most, "more memory than this worker may use: it drains");
            drain.cancel();
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}
