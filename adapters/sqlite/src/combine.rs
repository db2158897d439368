//! Submissions that arrive while one is being stored are stored together in the next statement: under load, most of
//! the cost of a submission is the way to the database and back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use application::ports::{StoreError, Submitted};
use domain::NewTask;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    submit::Submit,
    writer::{Writer, closed},
};

/// So many submissions may wait; callers beyond that wait for a place.
const QUEUE: usize = 1_024;
/// So many are stored together at most.
const TOGETHER: usize = 256;

/// One call's tasks, and where its answer goes.
struct Submission {
    tasks: Vec<NewTask>,
    reply: oneshot::Sender<Result<Vec<Submitted>, StoreError>>,
}

/// Takes submissions on their way to the writer.
#[derive(Debug)]
pub(crate) struct Combiner {
    queue: Mutex<Option<mpsc::Sender<Submission>>>,
    running: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Combiner {
    pub(crate) fn start(writer: Arc<Writer>) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE);
        let running = tokio::spawn(run(writer, queue));
        Self { queue: Mutex::new(Some(sender)), running: tokio::sync::Mutex::new(Some(running)) }
    }

    pub(crate) async fn submit(&self, tasks: Vec<NewTask>) -> Result<Vec<Submitted>, StoreError> {
        let (reply, answer) = oneshot::channel();
        let sender = self.lock_queue().clone().ok_or_else(closed)?;
        sender.send(Submission { tasks, reply }).await.map_err(|_| closed())?;
        drop(sender);
        answer.await.map_err(|_| closed())?
    }

    /// Takes no more submissions and waits until those that were made are stored.
    pub(crate) async fn close(&self) {
        drop(self.lock_queue().take());
        if let Some(running) = self.running.lock().await.take()
            && let Err(stopped) = running.await
        {
            tracing::error!(error = %stopped, "the way of submissions to the database had broken off");
        }
    }

    fn lock_queue(&self) -> MutexGuard<'_, Option<mpsc::Sender<Submission>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(writer: Arc<Writer>, mut queue: mpsc::Receiver<Submission>) {
    let mut waiting = Vec::with_capacity(TOGETHER);
    while queue.recv_many(&mut waiting, TOGETHER).await > 0 {
        store(&writer, std::mem::take(&mut waiting)).await;
    }
}

async fn store(writer: &Writer, submissions: Vec<Submission>) {
    let sizes: Vec<usize> = submissions.iter().map(|submission| submission.tasks.len()).collect();
    let (tasks, replies): (Vec<_>, Vec<_>) =
        submissions.into_iter().map(|submission| (submission.tasks, submission.reply)).unzip();
    let all = Arc::new(tasks.into_iter().flatten().collect::<Vec<_>>());
    let stored = writer.submit(Submit { tasks: all.clone() }).await;
    let mut from = 0;
    let alone = replies.len() == 1;
    for (size, reply) in sizes.into_iter().zip(replies) {
        let own = from..from + size;
        from += size;
        let answer = match &stored {
            Ok(outcomes) => Ok(outcomes[own].to_vec()),
            // Whatever was wrong with one of them is that one's own affair.
            Err(StoreError::Corrupt(_)) if !alone => {
                writer.submit(Submit { tasks: Arc::new(all[own].to_vec()) }).await
            }
            Err(error) => Err(error.clone()),
        };
        // A caller that went away does not need the answer.
        let _ = reply.send(answer);
    }
}
