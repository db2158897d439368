//! Signals as they travel: `<version> <origin> <JSON list>`.
//!
//! A message of another version, and a piece of news of an unknown kind, are skipped: versions N and N-1 of the product
//! run side by side during an upgrade.

use std::collections::HashMap;

use application::ports::{ChunkRecord, Signal};
use domain::{Progress, QueueName, Status, TaskId};
use serde::{Deserialize, Serialize};

use crate::keys::Keys;

const VERSION: &str = "1";

/// Which process sent a message; drawn at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin(String);

impl Origin {
    pub(super) fn new(number: u64) -> Self {
        Self(format!("{number:016x}"))
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum News {
    Work {
        queues: Vec<String>,
    },
    Cancel {
        tasks: Vec<i64>,
    },
    State {
        task: i64,
        attempt: u32,
        status: String,
    },
    Progress {
        task: i64,
        attempt: u32,
        current: u64,
        total: u64,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        message: Option<String>,
    },
    Chunk {
        task: i64,
        attempt: u32,
        seq: u64,
        text: String,
    },
    #[serde(other)]
    Unknown,
}

/// One message per channel, with its signals in order.
pub(super) fn encode(keys: &Keys, origin: &Origin, signals: Vec<Signal>) -> Vec<(String, String)> {
    let mut channels: Vec<(Option<TaskId>, Vec<News>)> = Vec::new();
    let mut place: HashMap<Option<TaskId>, usize> = HashMap::new();
    for signal in signals {
        let (task, news) = News::of(signal);
        let at = *place.entry(task).or_insert_with(|| {
            channels.push((task, Vec::new()));
            channels.len() - 1
        });
        channels[at].1.push(news);
    }
    channels
        .into_iter()
        .filter_map(|(task, news)| {
            let channel = task.map_or_else(|| keys.work_channel(), |task| keys.task_channel(task));
            // Numbers and texts always have a JSON form; should that change, it is news, not the truth.
            let news = serde_json::to_string(&news).ok()?;
            Some((channel, format!("{VERSION} {} {news}", origin.0)))
        })
        .collect()
}

/// The signals of a message from another process; none of our own, and none that we do not understand.
pub(super) fn decode(message: &[u8], own: &Origin) -> Vec<Signal> {
    let Some((origin, news)) = split(message) else {
        tracing::debug!("skipped a message of another version");
        return Vec::new();
    };
    if origin == own.0 {
        return Vec::new();
    }
    match serde_json::from_str::<Vec<News>>(news) {
        Ok(news) => news.into_iter().filter_map(News::into_signal).collect(),
        Err(error) => {
            tracing::debug!(%error, "skipped a message that cannot be read");
            Vec::new()
        }
    }
}

fn split(message: &[u8]) -> Option<(&str, &str)> {
    let (version, rest) = std::str::from_utf8(message).ok()?.split_once(' ')?;
    if version == VERSION { rest.split_once(' ') } else { None }
}

impl News {
    /// With the task whose listeners it is for; `None` is for workers.
    fn of(signal: Signal) -> (Option<TaskId>, Self) {
        match signal {
            Signal::Work(queues) => {
                (None, Self::Work { queues: queues.iter().map(|queue| queue.as_str().to_owned()).collect() })
            }
            Signal::Cancel(tasks) => {
                (None, Self::Cancel { tasks: tasks.into_iter().map(|task| task.0).collect() })
            }
            Signal::State { task, attempt, status } => {
                (Some(task), Self::State { task: task.0, attempt, status: status.as_str().to_owned() })
            }
            Signal::Progress { task, attempt, progress: Progress { current, total, message } } => {
                (Some(task), Self::Progress { task: task.0, attempt, current, total, message })
            }
            Signal::Chunk(ChunkRecord { task, attempt, seq, text }) => {
                (Some(task), Self::Chunk { task: task.0, attempt, seq, text })
            }
        }
    }

    fn into_signal(self) -> Option<Signal> {
        match self {
            Self::Work { queues } => {
                Some(Signal::Work(queues.iter().filter_map(|queue| QueueName::new(queue).ok()).collect()))
            }
            Self::Cancel { tasks } => Some(Signal::Cancel(tasks.into_iter().map(TaskId).collect())),
            Self::State { task, attempt, status } => {
                Some(Signal::State { task: TaskId(task), attempt, status: Status::parse(&status)? })
            }
            Self::Progress { task, attempt, current, total, message } => {
                let progress = Progress::new(current, total, message.as_deref());
                Some(Signal::Progress { task: TaskId(task), attempt, progress })
            }
            Self::Chunk { task, attempt, seq, text } => {
                Some(Signal::Chunk(ChunkRecord { task: TaskId(task), attempt, seq, text }))
            }
            Self::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_kind() -> Vec<Signal> {
        let task = TaskId(7);
        vec![
            Signal::Work(vec![QueueName::default_queue()]),
            Signal::Cancel(vec![task, TaskId(8)]),
            Signal::State { task, attempt: 2, status: Status::Completed },
            Signal::Progress { task, attempt: 2, progress: Progress::new(1, 3, Some("a \"third\"\n")) },
            Signal::Progress { task: TaskId(8), attempt: 1, progress: Progress::new(u64::MAX, 0, None) },
            Signal::Chunk(ChunkRecord { task, attempt: 2, seq: 9, text: "ä € 🦀\u{0}".into() }),
        ]
    }

    #[test]
    fn every_kind_comes_back_in_order_from_its_channel() {
        let (keys, sender, receiver) = (Keys::new("p"), Origin::new(1), Origin::new(2));
        let messages = encode(&keys, &sender, every_kind());
        let channels: Vec<_> = messages.iter().map(|(channel, _)| channel.as_str()).collect();
        assert_eq!(channels, ["{p}:v1:work", "{p}:v1:task:7", "{p}:v1:task:8"]);
        let mut got: Vec<_> =
            messages.iter().flat_map(|(_, message)| decode(message.as_bytes(), &receiver)).collect();
        let mut sent = every_kind();
        let other_task = sent.remove(4);
        assert_eq!(got.pop(), Some(other_task));
        assert_eq!(got, sent);
        for (_, message) in messages {
            assert!(decode(message.as_bytes(), &sender).is_empty(), "own news were delivered already");
        }
    }

    #[test]
    fn what_is_not_understood_is_skipped() {
        let own = Origin::new(1);
        for message in [&b"2 x []"[..], b"", b"1", b"1 x", b"1 x {}", b"1 x nonsense", b"\xff 1 []"] {
            assert!(decode(message, &own).is_empty(), "{message:?}");
        }
        let mixed = br#"1 x [{"kind":"later","a":[1]},{"kind":"cancel","tasks":[3],"why":"new field"}]"#;
        assert_eq!(decode(mixed, &own), [Signal::Cancel(vec![TaskId(3)])]);
    }
}
