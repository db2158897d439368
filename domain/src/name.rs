//! Names that people choose: queues, task types, tenants, workers. A name that exists is a valid name.

/// Why a text is not a name; reads as a sentence after the field's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a valid {kind}: {rule}")]
pub struct InvalidName {
    /// What the text was meant to be, such as "queue name".
    pub kind: &'static str,
    /// The text as it was given, cut to 80 characters.
    pub value: String,
    /// What a valid one looks like.
    pub rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, max $max:literal, $allowed:expr, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The longest name that is accepted, in bytes.
            pub const MAX_LENGTH: usize = $max;

            /// Checks the rule: see the type's documentation.
            pub fn new(value: impl AsRef<str>) -> Result<Self, $crate::InvalidName> {
                let value = value.as_ref();
                let allowed: fn(char) -> bool = $allowed;
                if value.is_empty() || value.len() > $max || !value.chars().all(allowed) {
                    let value = value.chars().take(80).collect();
                    return Err($crate::InvalidName { kind: $kind, value, rule: $rule });
                }
                Ok(Self(value.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::InvalidName;
            fn from_str(value: &str) -> Result<Self, $crate::InvalidName> {
                Self::new(value)
            }
        }
    };
}

pub(crate) use name;

fn plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

name!(
    /// A queue: 1–64 ASCII letters, digits, `_`, `-`, `.`.
    QueueName, "queue name", max 64, plain, "1 to 64 letters, digits, '_', '-' or '.'"
);
name!(
    /// A task type, such as `ai.text_generation`: 1–128 ASCII letters, digits, `_`, `-`, `.`.
    TaskType, "task type", max 128, plain, "1 to 128 letters, digits, '_', '-' or '.'"
);
name!(
    /// Who owns a task: 1–64 ASCII letters, digits, `_`, `-`, `.`. Taken from the caller's key, never from a body.
    Tenant, "tenant", max 64, plain, "1 to 64 letters, digits, '_', '-' or '.'"
);
name!(
    /// What people call a worker process, such as `urgent-worker@host`: 1–128 printable ASCII characters, no spaces.
    WorkerName, "worker name", max 128, |c| c.is_ascii_graphic(), "1 to 128 printable ASCII characters without spaces"
);

impl QueueName {
    /// The queue of every task that no route claims.
    pub fn default_queue() -> Self {
        Self("default".into())
    }
}

impl WorkerName {
    /// Of a worker that nobody has named.
    pub fn unnamed() -> Self {
        Self("worker".into())
    }
}

impl Default for Tenant {
    /// The one tenant of an installation that has no keys.
    fn default() -> Self {
        Self("default".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_limits() {
        assert!(QueueName::new("ai_processing").is_ok());
        assert!(QueueName::new("a".repeat(64)).is_ok());
        for bad in ["", " ", "a b", "ä", "a/b", "a\0", &"a".repeat(65)] {
            assert!(QueueName::new(bad).is_err(), "{bad:?}");
        }
        assert!(WorkerName::new("urgent-worker@host.example").is_ok());
        assert!(WorkerName::new("two words").is_err());
    }

    #[test]
    fn a_refusal_names_the_value_and_the_rule() {
        let refusal = TaskType::new("no spaces").expect_err("a space is not allowed").to_string();
        assert!(refusal.contains("no spaces") && refusal.contains("1 to 128"), "{refusal}");
    }
}
