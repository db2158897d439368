//! Append-only histories: JSON lines that are on the disk before their writer goes on.
//!
//! Each process writes a file of its own, so a line that a kill has cut is the last one of its file; nobody had gone on
//! from it, and it is left out.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    sync::mpsc,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::oneshot;

/// Names the folder of the histories to a `faults-node`.
pub const FOLDER_VARIABLE: &str = "FAULTS_HISTORY";

/// What files of clients are called.
pub const CLIENTS: &str = "client";
/// What files of handlers are called.
pub const HANDLERS: &str = "handler";

/// Microseconds since 1970 by this machine's clock, which PostgreSQL on this machine shares.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub enum Call {
    /// A submission under this idempotency key, which is also in the task's metadata.
    Submit {
        /// The key.
        key: String,
    },
    /// A cancellation.
    Cancel {
        /// Which task.
        task: i64,
    },
    /// Reading the live events of a task to their end.
    Watch {
        /// Which task.
        task: i64,
    },
}

/// One line of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum ClientEvent {
    /// It begins to ask.
    Invoke {
        /// Number of the call; retries of one call bear the same.
        op: u64,
        /// When.
        at: i64,
        /// What for.
        #[serde(flatten)]
        call: Call,
    },
    /// It has a good answer.
    Ok {
        /// Of which call.
        op: u64,
        /// When.
        at: i64,
        /// The answer's HTTP status.
        code: u16,
        /// Which task.
        task: i64,
        /// Where the answer says that it stands.
        status: String,
        /// Whether the answer says that it is an earlier one, told again.
        replayed: bool,
    },
    /// No answer: it may or may not have been done.
    Unknown {
        /// Of which call.
        op: u64,
        /// When.
        at: i64,
        /// What was seen instead.
        why: String,
    },
    /// A refusal: it was not done.
    Refused {
        /// Of which call.
        op: u64,
        /// When.
        at: i64,
        /// The answer's HTTP status.
        code: u16,
        /// What it said.
        why: String,
    },
}

/// One line of a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum HandlerEvent {
    /// The handler has been called, and has done nothing yet.
    Start {
        /// Which task.
        task: i64,
        /// Which attempt.
        attempt: u32,
        /// The process.
        pid: u32,
        /// When.
        at: i64,
    },
    /// The handler is about to return its result.
    End {
        /// Which task.
        task: i64,
        /// Which attempt.
        attempt: u32,
        /// The process.
        pid: u32,
        /// When.
        at: i64,
    },
}

/// A history file that is being written. Lines that come together share one fsync. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Journal {
    lines: mpsc::Sender<(Vec<u8>, oneshot::Sender<()>)>,
}

impl Journal {
    /// A new file of this kind in the folder.
    pub fn create(folder: &Path, kind: &str) -> Result<Self> {
        let path = folder.join(format!("{kind}-{}-{}.jsonl", std::process::id(), now()));
        let mut file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(&path)
            .with_context(|| format!("cannot write a history to {}", path.display()))?;
        let (lines, inbox) = mpsc::channel::<(Vec<u8>, oneshot::Sender<()>)>();
        std::thread::Builder::new()
            .name("history".into())
            .spawn(move || {
                while let Ok(first) = inbox.recv() {
                    let (mut bytes, mut waiting) = (first.0, vec![first.1]);
                    while let Ok((line, done)) = inbox.try_recv() {
                        bytes.extend(line);
                        waiting.push(done);
                    }
                    // Without its history a run says nothing: those who wait see their sender dropped.
                    if file.write_all(&bytes).and_then(|()| file.sync_data()).is_err() {
                        return;
                    }
                    for done in waiting {
                        let _ = done.send(());
                    }
                }
            })
            .context("no thread for the history")?;
        Ok(Self { lines })
    }

    /// Adds a line; returns once it is on the disk.
    pub async fn append<E: Serialize>(&self, event: &E) -> Result<()> {
        let mut line = serde_json::to_vec(event).context("an event is JSON")?;
        line.push(b'\n');
        let (done, written) = oneshot::channel();
        self.lines.send((line, done)).ok().context("the history cannot be written")?;
        written.await.context("the history cannot be written")
    }
}

/// All lines of this kind in the folder, file by file.
pub fn read<E: DeserializeOwned>(folder: &Path, kind: &str) -> Result<Vec<E>> {
    let listed = fs::read_dir(folder).with_context(|| format!("no histories in {}", folder.display()))?;
    let mut files: Vec<PathBuf> = listed.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(kind)));
    files.sort();
    let mut events = Vec::new();
    for path in files {
        let mut reader = BufReader::new(File::open(&path)?);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            if line.last() == Some(&b'\n') {
                match serde_json::from_slice(&line) {
                    Ok(event) => events.push(event),
                    Err(error) => bail!("{}: {error}: {}", path.display(), String::from_utf8_lossy(&line)),
                }
            }
            line.clear();
        }
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_appended_is_read_and_a_cut_line_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = Journal::create(folder.path(), HANDLERS).expect("a journal");
        let events: Vec<_> =
            (1..=3).map(|task| HandlerEvent::Start { task, attempt: 1, pid: 7, at: now() }).collect();
        for event in &events {
            journal.append(event).await.expect("written");
        }
        let path = fs::read_dir(folder.path()).expect("listed").next().expect("a file").expect("read").path();
        let mut file = OpenOptions::new().append(true).open(path).expect("opened");
        file.write_all(br#"{"what":"start","task":4,"#).expect("cut");
        assert_eq!(read::<HandlerEvent>(folder.path(), HANDLERS).expect("read"), events);
        assert!(read::<ClientEvent>(folder.path(), CLIENTS).expect("read").is_empty());
    }

    #[test]
    fn a_line_in_the_middle_that_is_no_event_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("handler-1.jsonl"), "{\"what\":\"sta\n").expect("written");
        assert!(read::<HandlerEvent>(folder.path(), HANDLERS).is_err());
    }
}
