//! The listeners of this process.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use application::ports::{Signal, SignalStream};
use domain::TaskId;
use tokio::sync::{Notify, broadcast, watch};

use crate::connection::lock;

/// Signals that a slow listener may lag behind; the memory is taken when it begins to listen.
const WORK_BUFFER: usize = 1_024;
const TASK_BUFFER: usize = 128;

/// Who listens to what, and what Redis has confirmed of it.
#[derive(Debug)]
pub(super) struct Hub {
    work: broadcast::Sender<Signal>,
    listeners: Mutex<Listeners>,
    connected: AtomicBool,
    /// Somebody has asked for news of work, and since when Redis sends them.
    work_wanted: AtomicBool,
    work_subscribed: AtomicBool,
    /// Told when a task, or work, gets its first listener.
    pub(super) wanted: Notify,
}

#[derive(Debug, Default)]
struct Listeners {
    by_task: HashMap<TaskId, Channel>,
    /// Not yet taken up by the connection.
    wanted: Vec<TaskId>,
}

#[derive(Debug)]
struct Channel {
    listeners: broadcast::Sender<Signal>,
    subscribed: watch::Sender<bool>,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            work: broadcast::Sender::new(WORK_BUFFER),
            listeners: Mutex::default(),
            connected: AtomicBool::new(false),
            work_wanted: AtomicBool::new(false),
            work_subscribed: AtomicBool::new(false),
            wanted: Notify::new(),
        }
    }
}

impl Hub {
    /// Hands signals to those who listen; nobody is fine.
    pub(super) fn deliver(&self, signals: impl IntoIterator<Item = Signal>) {
        let listeners = lock(&self.listeners);
        for signal in signals {
            let sender = match &signal {
                Signal::Work { .. } | Signal::Cancel(_) | Signal::Command(_) => Some(&self.work),
                Signal::State { task, .. } | Signal::Progress { task, .. } => {
                    listeners.by_task.get(task).map(|channel| &channel.listeners)
                }
                Signal::Chunk(chunk) => listeners.by_task.get(&chunk.task).map(|channel| &channel.listeners),
            };
            if let Some(sender) = sender {
                // An error means that nobody listens any more.
                let _ = sender.send(signal);
            }
        }
    }

    /// Begins to listen to news of work. A process without a worker never does, and is sent none.
    pub(super) fn work(&self) -> SignalStream {
        if !self.work_wanted.swap(true, Ordering::AcqRel) {
            self.wanted.notify_one();
        }
        self.work.subscribe()
    }

    /// Whether the connection is to subscribe to news of work.
    pub(super) fn lacks_work(&self) -> bool {
        self.work_wanted.load(Ordering::Acquire) && !self.work_subscribed.load(Ordering::Acquire)
    }

    /// Redis has confirmed it.
    pub(super) fn subscribed_to_work(&self) {
        self.work_subscribed.store(true, Ordering::Release);
    }

    /// Begins to listen to a task; the second part turns true when other processes' news arrive too.
    pub(super) fn task(&self, id: TaskId) -> (SignalStream, watch::Receiver<bool>) {
        let mut listeners = lock(&self.listeners);
        if let Some(channel) = listeners.by_task.get(&id) {
            return (channel.listeners.subscribe(), channel.subscribed.subscribe());
        }
        let (sender, stream) = broadcast::channel(TASK_BUFFER);
        let (subscribed, confirmed) = watch::channel(false);
        listeners.by_task.insert(id, Channel { listeners: sender, subscribed });
        listeners.wanted.push(id);
        drop(listeners);
        self.wanted.notify_one();
        (stream, confirmed)
    }

    /// Tasks that got their first listener since the last call.
    pub(super) fn take_wanted(&self) -> Vec<TaskId> {
        std::mem::take(&mut lock(&self.listeners).wanted)
    }

    /// Every task that somebody listens to, for a new connection.
    pub(super) fn take_all(&self) -> Vec<TaskId> {
        let mut listeners = lock(&self.listeners);
        listeners.wanted.clear();
        listeners.by_task.keys().copied().collect()
    }

    /// Redis has confirmed these.
    pub(super) fn subscribed(&self, tasks: &[TaskId]) {
        let listeners = lock(&self.listeners);
        for channel in tasks.iter().filter_map(|task| listeners.by_task.get(task)) {
            channel.subscribed.send_replace(true);
        }
    }

    /// Forgets tasks to which nobody listens any more, and answers them.
    pub(super) fn sweep(&self) -> Vec<TaskId> {
        let mut listeners = lock(&self.listeners);
        let deserted = |channel: &mut Channel| channel.listeners.receiver_count() == 0;
        let gone: Vec<_> =
            listeners.by_task.extract_if(|_, channel| deserted(channel)).map(|(task, _)| task).collect();
        if !gone.is_empty() {
            let Listeners { by_task, wanted } = &mut *listeners;
            wanted.retain(|task| by_task.contains_key(task));
        }
        gone
    }

    /// Whether nobody listens to any task.
    pub(super) fn has_no_readers(&self) -> bool {
        lock(&self.listeners).by_task.is_empty()
    }

    /// Whether all arrives that is listened to.
    pub(super) fn connected(&self) -> bool {
        self.connected.load(Ordering::Acquire) && !self.lacks_work()
    }

    /// The connection stands, or is gone and with it every subscription.
    pub(super) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Release);
        if !connected {
            self.work_subscribed.store(false, Ordering::Release);
            for channel in lock(&self.listeners).by_task.values() {
                channel.subscribed.send_replace(false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::Status;

    use super::*;

    fn state(task: i64) -> Signal {
        Signal::State { task: TaskId(task), attempt: 1, status: Status::Processing }
    }

    #[test]
    fn a_task_without_listeners_costs_nothing() {
        let hub = Hub::default();
        let (first, _) = hub.task(TaskId(1));
        let (second, _) = hub.task(TaskId(1));
        assert_eq!(hub.take_wanted(), [TaskId(1)], "one subscription, however many listen");
        drop(first);
        assert!(hub.sweep().is_empty(), "somebody still listens");
        drop(second);
        let (unconfirmed, _) = hub.task(TaskId(2));
        drop(unconfirmed);
        let mut gone = hub.sweep();
        gone.sort_unstable();
        assert_eq!(gone, [TaskId(1), TaskId(2)]);
        assert!(hub.take_all().is_empty() && hub.take_wanted().is_empty());
    }

    #[test]
    fn signals_reach_only_their_listeners() {
        let hub = Hub::default();
        let (mut one, _) = hub.task(TaskId(1));
        let mut work = hub.work();
        hub.deliver([state(1), state(2), Signal::Cancel(vec![TaskId(2)])]);
        assert_eq!(one.try_recv(), Ok(state(1)));
        assert!(one.try_recv().is_err());
        assert_eq!(work.try_recv(), Ok(Signal::Cancel(vec![TaskId(2)])));
        assert!(work.try_recv().is_err());
    }

    #[test]
    fn a_lost_connection_takes_back_every_confirmation() {
        let hub = Hub::default();
        let (_stream, confirmed) = hub.task(TaskId(1));
        hub.set_connected(true);
        hub.subscribed(&[TaskId(1)]);
        assert!(*confirmed.borrow());
        hub.set_connected(false);
        assert!(!*confirmed.borrow() && !hub.connected());
    }
}
