//! What the worker does with what it is told.

use std::time::Duration;

use domain::{Command, QueueName, TaskType, Throttle};
use tokio::time::Instant;

use super::{Engine, describe};
use crate::ports::{CommandAnswer, GivenCommand};

impl Engine {
    pub(super) fn obey(&mut self, given: GivenCommand) -> CommandAnswer {
        let done = match given.command.parse::<Command>() {
            Ok(command) => self.carry_out(command),
            Err(error) => Err(error.to_string()),
        };
        match &done {
            Ok(message) => tracing::info!(command = given.command, "told from outside: {message}"),
            Err(why) => tracing::warn!(command = given.command, "told from outside, and not done: {why}"),
        }
        let (done, message) = done.map_or_else(|why| (false, why), |message| (true, message));
        CommandAnswer { id: given.id, done, message }
    }

    /// In words, what it did, or why it did not. To be told the same again changes nothing.
    fn carry_out(&mut self, command: Command) -> Result<String, String> {
        match command {
            Command::Ping => Ok("pong".to_owned()),
            Command::Pause => {
                self.paused = true;
                Ok(format!("takes no tasks; {} run", self.running.len()))
            }
            Command::Resume if self.finishing || self.drain.is_cancelled() => {
                Err("it drains and takes no tasks any more; start another worker".to_owned())
            }
            Command::Resume => {
                self.paused = false;
                self.look_at_once();
                Ok("takes tasks".to_owned())
            }
            Command::Concurrency(slots) => {
                self.config.concurrency = slots;
                self.slots.resize(slots);
                self.look_at_once();
                Ok(format!("{slots} slots, {} in use", self.slots.in_use()))
            }
            Command::AddQueue(queue) => self.add_queue(&queue),
            Command::RemoveQueue(queue) => self.remove_queue(&queue),
            Command::RateLimit(task_type, _) if self.crew.ports.registry.get(&task_type).is_none() => {
                Err(format!("this worker has no task type {task_type}"))
            }
            Command::RateLimit(task_type, Some(pace)) => {
                let message = format!("starts {task_type} at {pace} at most");
                self.throttles.insert(task_type, Throttle::new(pace));
                Ok(message)
            }
            Command::RateLimit(task_type, None) => {
                self.throttles.remove(&task_type);
                Ok(format!("starts {task_type} without a limit"))
            }
            Command::Drain => {
                self.finishing = true;
                Ok(format!("takes no tasks any more, and ends when the {} that run have", self.running.len()))
            }
            Command::Shutdown => {
                self.drain.cancel();
                Ok(format!(
                    "ends; what is left of the {} that run after {:?} is given back",
                    self.running.len(),
                    self.config.grace
                ))
            }
        }
    }

    fn add_queue(&mut self, queue: &QueueName) -> Result<String, String> {
        let new = self.serving.add(queue);
        self.learn_queue(queue);
        self.look_at_once();
        let serving = describe(&self.serving);
        Ok(if new { format!("serves {serving}") } else { format!("served it already: {serving}") })
    }

    fn remove_queue(&mut self, queue: &QueueName) -> Result<String, String> {
        let was_served = self.serving.remove(queue).map_err(|error| error.to_string())?;
        self.queues.retain(|other| other != queue);
        let serving = describe(&self.serving);
        Ok(if was_served { format!("serves {serving}") } else { format!("did not serve it: {serving}") })
    }

    fn look_at_once(&mut self) {
        self.news_of_work = true;
        self.next_look = Instant::now();
    }

    /// How long a task of this type is to wait; `None` where it may start. Nothing is looked up where nothing is limited.
    pub(super) fn wait_for_pace(&mut self, task_type: &TaskType) -> Option<Duration> {
        if self.throttles.is_empty() {
            return None;
        }
        let now = self.began.elapsed();
        self.throttles.get_mut(task_type)?.admit(now).err()
    }
}
