//! End-to-end tests against the built binaries, from outside: processes, signals, HTTP, the command line.
//!
//! [`product`] starts the product on either base, [`program`] is one of its processes, [`api`] talks to it as a client
//! would, [`browser`] as a person, [`events`] reads its live events, [`provider`] stands in for an OpenAI-compatible
//! server, [`receiver`] for an endpoint of a user's. All of it panics
//! with what was seen where something is not as it should be; the logs of every process of a failed test are shown.
#![allow(clippy::disallowed_methods)] // tests may read the environment and wait for other processes

pub mod api;
pub mod batch_api;
mod browser;
pub mod events;
pub mod product;
pub mod program;
pub mod provider;
pub mod receiver;

use std::time::Duration;

pub use api::{Answer, Api};
pub use batch_api::BatchProvider;
pub use browser::Browser;
pub use events::{Event, Events, Joined};
pub use product::{Base, Product, Setup, free_port};
pub use program::Program;
pub use provider::{MostAtOnce, Noticed, Provider, Reply};
pub use receiver::{Message, Receiver, Taken};

/// How long a test waits for what should take moments: only a failure, or a very busy machine, needs more.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How often a test looks at another process.
const LOOK: Duration = Duration::from_millis(10);

/// Makes two tests of each function `async fn name(base: Base)`: one on SQLite, one on PostgreSQL and Redis.
#[macro_export]
macro_rules! on_both_bases {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            #[tokio::test]
            async fn on_sqlite() {
                super::$name($crate::Base::Sqlite).await;
            }

            #[tokio::test]
            async fn on_postgres_and_redis() {
                super::$name($crate::Base::PostgresAndRedis).await;
            }
        }
    )+};
}
