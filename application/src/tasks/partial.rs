//! The text of a task that did not get to its end: what was written costs money and is worth reading.

use domain::{Status, Task};

use super::Tasks;
use crate::ports::StoreError;

/// How many bytes of text are read back at the most.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// Chunks read from the store at once.
const PAGE: usize = 500;

impl Tasks {
    /// What the last attempt of a task wrote that was stopped or failed, as far as it is kept; `None` for any other task,
    /// and where there is nothing.
    pub async fn partial_text(&self, task: &Task) -> Result<Option<String>, StoreError> {
        match task.status {
            Status::Failed | Status::Cancelled if task.attempt > 0 && task.result.is_none() => {}
            Status::Scheduled
            | Status::Pending
            | Status::Processing
            | Status::Completed
            | Status::Failed
            | Status::Cancelled
            | Status::Expired => return Ok(None),
        }
        let (mut text, mut after) = (String::new(), (task.attempt, 0));
        loop {
            let chunks = self.store.chunks_after(task.id, after, PAGE).await?;
            let last = chunks.len() < PAGE;
            for chunk in chunks {
                after = (chunk.attempt, chunk.seq);
                text.push_str(&chunk.text);
            }
            if last || text.len() >= MOST_BYTES {
                break;
            }
        }
        let end = text.floor_char_boundary(MOST_BYTES);
        text.truncate(end);
        Ok(Some(text).filter(|text| !text.is_empty()))
    }
}
