//! Signals as they travel: `<version> <origin> <JSON list>`.
//!
//! A message of another version, and a piece of news of an unknown kind, are skipped: versions N and N-1 of the product
//! run side by side during an upgrade.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
};

use application::ports::{ChunkRecord, Signal};
use domain::{Progress, QueueName, Status, TaskId, WorkerId};
use serde::{Deserialize, Serialize};

use crate::keys::Keys;

const VERSION: &str = "1";

/// Which process sent a message; drawn at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin(String);

impl Origin {
    pub(crate) fn new(number: u64) -> Self {
        Self(format!("{number:016x}"))
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum News {
    Work {
        queues: Vec<String>,
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        tasks: Vec<i64>,
    },
    Cancel {
        tasks: Vec<i64>,
    },
    Command {
        workers: Vec<i64>,
    },
    State {
        task: i64,
        attempt: u32,
        status: Cow<'static, str>,
    },
    /// Task, attempt and status of each.
    States {
        tasks: Vec<(i64, u32, Cow<'static, str>)>,
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

/// Who a piece of news is for.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Audience {
    Workers,
    /// Whoever listens to any task: states come by the thousand, and nearly all of them are of tasks that nobody watches.
    AllReaders,
    Readers(TaskId),
}

/// One message per channel. The signals of one task are in order, and on one channel; all of them but its states are on
/// its own.
pub(crate) fn encode(keys: &Keys, origin: &Origin, signals: Vec<Signal>) -> Vec<(String, String)> {
    let told: HashSet<TaskId> = signals.iter().filter_map(talkative).collect();
    let mut states = Vec::new();
    let mut channels: BTreeMap<Audience, Vec<News>> = BTreeMap::new();
    for signal in signals {
        if let Signal::State { task, attempt, status } = signal
            && !told.contains(&task)
        {
            states.push((task.0, attempt, Cow::Borrowed(status.as_str())));
            continue;
        }
        let (audience, news) = News::of(signal);
        channels.entry(audience).or_default().push(news);
    }
    if !states.is_empty() {
        channels.insert(Audience::AllReaders, vec![News::States { tasks: states }]);
    }
    channels
        .into_iter()
        .filter_map(|(audience, news)| {
            let channel = match audience {
                Audience::Workers => keys.work_channel(),
                Audience::AllReaders => keys.states_channel(),
                Audience::Readers(task) => keys.task_channel(task),
            };
            // Numbers and texts always have a JSON form; should that change, it is news, not the truth.
            let news = serde_json::to_string(&news).ok()?;
            Some((channel, format!("{VERSION} {} {news}", origin.0)))
        })
        .collect()
}

/// The task, where it has more to tell than its state.
fn talkative(signal: &Signal) -> Option<TaskId> {
    match signal {
        Signal::Progress { task, .. } => Some(*task),
        Signal::Chunk(chunk) => Some(chunk.task),
        Signal::Work { .. } | Signal::Cancel(_) | Signal::Command(_) | Signal::State { .. } => None,
    }
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
        Ok(news) => news.into_iter().flat_map(News::into_signals).collect(),
        Err(error) => {
            tracing::debug!(%error, "skipped a message that cannot be read");
            Vec::new()
        }
    }
}

fn numbers(tasks: Vec<TaskId>) -> Vec<i64> {
    tasks.into_iter().map(|task| task.0).collect()
}

fn split(message: &[u8]) -> Option<(&str, &str)> {
    let (version, rest) = std::str::from_utf8(message).ok()?.split_once(' ')?;
    if version == VERSION { rest.split_once(' ') } else { None }
}

impl News {
    fn of(signal: Signal) -> (Audience, Self) {
        match signal {
            Signal::Work { queues, tasks } => {
                let queues = queues.iter().map(|queue| queue.as_str().to_owned()).collect();
                (Audience::Workers, Self::Work { queues, tasks: numbers(tasks) })
            }
            Signal::Cancel(tasks) => (Audience::Workers, Self::Cancel { tasks: numbers(tasks) }),
            Signal::Command(workers) => {
                let workers = workers.into_iter().map(|worker| worker.0).collect();
                (Audience::Workers, Self::Command { workers })
            }
            Signal::State { task, attempt, status } => {
                let status = Cow::Borrowed(status.as_str());
                (Audience::Readers(task), Self::State { task: task.0, attempt, status })
            }
            Signal::Progress { task, attempt, progress: Progress { current, total, message } } => {
                (Audience::Readers(task), Self::Progress { task: task.0, attempt, current, total, message })
            }
            Signal::Chunk(ChunkRecord { task, attempt, seq, text }) => {
                (Audience::Readers(task), Self::Chunk { task: task.0, attempt, seq, text })
            }
        }
    }

    fn into_signals(self) -> Vec<Signal> {
        let state = |(task, attempt, status): (i64, u32, Cow<'static, str>)| {
            Some(Signal::State { task: TaskId(task), attempt, status: Status::parse(&status)? })
        };
        match self {
            Self::Work { queues, tasks } => {
                let queues = queues.iter().filter_map(|queue| QueueName::new(queue).ok()).collect();
                vec![Signal::Work { queues, tasks: tasks.into_iter().map(TaskId).collect() }]
            }
            Self::Cancel { tasks } => vec![Signal::Cancel(tasks.into_iter().map(TaskId).collect())],
            Self::Command { workers } => {
                vec![Signal::Command(workers.into_iter().map(WorkerId).collect())]
            }
            Self::State { task, attempt, status } => state((task, attempt, status)).into_iter().collect(),
            Self::States { tasks } => tasks.into_iter().filter_map(state).collect(),
            Self::Progress { task, attempt, current, total, message } => {
                let progress = Progress::new(current, total, message.as_deref());
                vec![Signal::Progress { task: TaskId(task), attempt, progress }]
            }
            Self::Chunk { task, attempt, seq, text } => {
                vec![Signal::Chunk(ChunkRecord { task: TaskId(task), attempt, seq, text })]
            }
            Self::Unknown => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_kind() -> Vec<Signal> {
        let task = TaskId(7);
        vec![
            Signal::work(vec![QueueName::default_queue()]),
            Signal::Work { queues: vec![QueueName::default_queue()], tasks: vec![task] },
            Signal::Cancel(vec![task, TaskId(8)]),
            Signal::Command(vec![WorkerId(3)]),
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
        let other_task = sent.remove(6);
        assert_eq!(got.pop(), Some(other_task));
        assert_eq!(got, sent);
        for (_, message) in messages {
            assert!(decode(message.as_bytes(), &sender).is_empty(), "own news were delivered already");
        }
    }

    #[test]
    fn states_of_tasks_that_tell_nothing_else_share_a_channel() {
        let (keys, sender, receiver) = (Keys::new("p"), Origin::new(1), Origin::new(2));
        let state = |task, status| Signal::State { task: TaskId(task), attempt: 1, status };
        let chunk = Signal::Chunk(ChunkRecord { task: TaskId(8), attempt: 1, seq: 1, text: "a".into() });
        let signals = vec![
            state(7, Status::Processing),
            chunk.clone(),
            state(7, Status::Completed),
            state(8, Status::Completed),
        ];
        let messages = encode(&keys, &sender, signals);
        let channels: Vec<_> = messages.iter().map(|(channel, _)| channel.as_str()).collect();
        assert_eq!(channels, ["{p}:v1:states", "{p}:v1:task:8"]);
        let got: Vec<_> = messages.iter().map(|(_, message)| decode(message.as_bytes(), &receiver)).collect();
        assert_eq!(got[0], [state(7, Status::Processing), state(7, Status::Completed)]);
        assert_eq!(got[1], [chunk, state(8, Status::Completed)], "the end comes after what it ends");
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
