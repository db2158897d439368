//! The names of keys and channels, version 1.

use domain::{QueueName, TaskId};

/// Names all that one installation keeps on a server.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// Ends in a colon.
    pub(crate) base: String,
}

impl Keys {
    /// The braces are a hash tag: all keys of one prefix live in one slot of a cluster.
    pub(crate) fn new(prefix: &str) -> Self {
        Self { base: format!("{{{prefix}}}:v1:") }
    }

    /// A string: which server process the windows were written to.
    pub(crate) fn server(&self) -> String {
        format!("{}server", self.base)
    }

    /// A set: every queue that holds or held something.
    pub(crate) fn queues(&self) -> String {
        format!("{}queues", self.base)
    }

    /// A sorted set: the first waiting ids of a queue.
    pub(crate) fn window(&self, queue: &QueueName) -> String {
        format!("{}window:{queue}", self.base)
    }

    /// A hash: what is known about a window.
    pub(crate) fn meta(&self, queue: &QueueName) -> String {
        format!("{}meta:{queue}", self.base)
    }

    /// A sorted set: ids that found no place in the window while somebody reads the store to refill it.
    pub(crate) fn late(&self, queue: &QueueName) -> String {
        format!("{}late:{queue}", self.base)
    }

    /// The channel that all workers listen to.
    pub(crate) fn work_channel(&self) -> String {
        format!("{}work", self.base)
    }

    /// The channel of whoever listens to a task, whichever.
    pub(crate) fn states_channel(&self) -> String {
        format!("{}states", self.base)
    }

    /// The channel of one task's listeners.
    pub(crate) fn task_channel(&self, task: TaskId) -> String {
        format!("{}task:{task}", self.base)
    }
}
