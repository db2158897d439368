//! What can go wrong, and what the caller does next.

use application::ports::StoreError;

/// Why the store could not be opened or migrated. No text here holds the URL's password.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// The URL names another kind of database.
    #[error("the database URL is not a PostgreSQL one: it must start with postgres:// or postgresql://")]
    NotPostgres,
    /// The URL cannot be read.
    #[error("the database URL cannot be read: {0}")]
    InvalidUrl(String),
    /// The server cannot be reached, or refuses.
    #[error("PostgreSQL at {place} cannot be used: {reason}")]
    Unavailable {
        /// Host, port and database.
        place: String,
        /// What was said.
        reason: String,
    },
    /// The database has no schema of ours.
    #[error("the database at {place} has no task-runner schema yet: run `task-runner migrate` once")]
    NoSchema {
        /// Host, port and database.
        place: String,
    },
    /// The database's schema is older than this program.
    #[error(
        "the schema of the database at {place} is older than this program ({missing} migrations are missing): \
         run `task-runner migrate`"
    )]
    OldSchema {
        /// Host, port and database.
        place: String,
        /// How many steps behind.
        missing: usize,
    },
    /// Another process migrates, and did not end in time.
    #[error(
        "another process has been migrating the database at {place} for {seconds} s: wait for it, or see what blocks it"
    )]
    Locked {
        /// Host, port and database.
        place: String,
        /// How long we waited.
        seconds: u64,
    },
    /// A migration could not be applied; it left nothing behind.
    #[error("the database at {place} cannot be migrated: {reason}")]
    Migration {
        /// Host, port and database.
        place: String,
        /// What was said.
        reason: String,
    },
}

/// What went wrong inside one call.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The driver's or the server's complaint.
    Driver(sqlx::Error),
    /// Something in the database is not what this program writes.
    Unreadable(String),
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Driver(error)
    }
}

impl Fault {
    fn code(&self) -> Option<String> {
        match self {
            Self::Driver(sqlx::Error::Database(error)) => error.code().map(|code| code.into_owned()),
            Self::Driver(_) | Self::Unreadable(_) => None,
        }
    }

    /// Whether two transactions were in each other's way: nothing was applied, and another try may well succeed.
    pub(crate) fn is_collision(&self) -> bool {
        self.code().is_some_and(|code| matches!(&*code, "40001" | "40P01"))
    }

    /// Whether the statement's values were refused, so that a smaller batch may do better.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::Driver(sqlx::Error::Encode(_)) => true,
            Self::Driver(_) => self.code().is_some_and(|code| matches!(&code[..2], "22" | "23" | "54")),
            Self::Unreadable(_) => false,
        }
    }

    /// Whether the connection can be used again.
    pub(crate) fn spares_connection(&self) -> bool {
        match self {
            Self::Unreadable(_) => true,
            Self::Driver(sqlx::Error::Database(_)) => self
                .code()
                .is_some_and(|code| !matches!(&*code, "57P01" | "57P02" | "57P03") && &code[..2] != "08"),
            Self::Driver(
                sqlx::Error::ColumnDecode { .. }
                | sqlx::Error::ColumnNotFound(_)
                | sqlx::Error::Decode(_)
                | sqlx::Error::Encode(_)
                | sqlx::Error::RowNotFound,
            ) => true,
            Self::Driver(_) => false,
        }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        let code = fault.code();
        match fault {
            Fault::Unreadable(what) => Self::Corrupt(what),
            Fault::Driver(sqlx::Error::Database(error)) => {
                let code = code.unwrap_or_default();
                let text = format!("{} (PostgreSQL error {code})", error.message());
                match code.get(..2) {
                    // Values that do not fit, broken promises of the schema, too much for one statement.
                    Some("22" | "23" | "54") => Self::Corrupt(text),
                    // Tables or columns that are not there.
                    Some("42") => Self::Corrupt(format!(
                        "{text}; the schema may be older than this program: run `task-runner migrate`"
                    )),
                    _ => Self::Unavailable(text),
                }
            }
            Fault::Driver(
                error @ (sqlx::Error::ColumnDecode { .. }
                | sqlx::Error::ColumnNotFound(_)
                | sqlx::Error::Decode(_)
                | sqlx::Error::Encode(_)
                | sqlx::Error::RowNotFound),
            ) => Self::Corrupt(error.to_string()),
            Fault::Driver(error) => Self::Unavailable(error.to_string()),
        }
    }
}
