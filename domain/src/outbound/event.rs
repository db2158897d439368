//! What completion webhooks tell of.

use sha2::{Digest, Sha256};

use crate::{Status, TaskId};

/// The end of a task, as a webhook names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum CallbackEvent {
    /// It ended with a result.
    #[serde(rename = "task.completed")]
    Completed,
    /// It ended with an error.
    #[serde(rename = "task.failed")]
    Failed,
    /// Someone stopped it.
    #[serde(rename = "task.cancelled")]
    Cancelled,
    /// It was not started in time.
    #[serde(rename = "task.expired")]
    Expired,
}

impl CallbackEvent {
    /// Every event.
    pub const ALL: [Self; 4] = [Self::Completed, Self::Failed, Self::Cancelled, Self::Expired];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "task.completed",
            Self::Failed => "task.failed",
            Self::Cancelled => "task.cancelled",
            Self::Expired => "task.expired",
        }
    }

    /// Reads a name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.as_str() == text)
    }

    /// The event of a task that stands here; `None` while it has not ended.
    pub fn of(status: Status) -> Option<Self> {
        match status {
            Status::Scheduled | Status::Pending | Status::Processing => None,
            Status::Completed => Some(Self::Completed),
            Status::Failed => Some(Self::Failed),
            Status::Cancelled => Some(Self::Cancelled),
            Status::Expired => Some(Self::Expired),
        }
    }
}

/// What the webhooks of one task, URL and list of events share, so that there is one of them.
pub fn callback_key(task: TaskId, url: &str, events: &[CallbackEvent]) -> String {
    let mut digest = Sha256::new();
    digest.update(url.as_bytes());
    for event in CallbackEvent::ALL.iter().filter(|event| events.is_empty() || events.contains(event)) {
        digest.update([0]);
        digest.update(event.as_str().as_bytes());
    }
    let digest: String = digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("webhook {task} {digest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_callback_has_one_key() {
        use CallbackEvent::{Completed, Failed};
        let key = |task, url, events: &[_]| callback_key(TaskId(task), url, events);
        let one = key(1, "https://example.org/a", &[Completed, Failed]);
        assert_eq!(one, key(1, "https://example.org/a", &[Failed, Completed]));
        for other in [
            key(2, "https://example.org/a", &[Completed, Failed]),
            key(1, "https://example.org/b", &[Completed, Failed]),
            key(1, "https://example.org/a", &[Completed]),
            key(1, "https://example.org/a", &[]),
        ] {
            assert_ne!(one, other);
        }
        assert_eq!(key(1, "x", &[]), key(1, "x", &CallbackEvent::ALL));
        assert!(crate::UniqueKey::new(one).is_ok());
    }

    #[test]
    fn each_end_has_its_event_under_one_name() {
        for event in CallbackEvent::ALL {
            assert_eq!(CallbackEvent::parse(event.as_str()), Some(event));
            let json = serde_json::to_string(&event).expect("JSON");
            assert_eq!(json, format!("{:?}", event.as_str()));
        }
        for status in Status::ALL {
            let event = CallbackEvent::of(status);
            assert_eq!(event.is_some(), status.is_terminal(), "{status:?}");
            let name = event.map(|event| event.as_str().to_uppercase());
            assert!(name.is_none_or(|name| name == format!("TASK.{}", status.as_str())), "{status:?}");
        }
        assert_eq!(CallbackEvent::parse("completed"), None);
    }
}
