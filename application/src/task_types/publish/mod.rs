//! `publish.single` and `publish.batch`: messages to HTTP endpoints of users', signed as in Standard Webhooks.
//!
//! Publishing twice is worse than not at all. So by default a message is sent again only while nothing of it was sent;
//! all else waits in manual handling with a precise code. An attempt that a crash or a drain broke off may have sent its
//! message, and nobody knows: the next attempt sees that in the task's history and leaves it to a person as well.

mod batch;
mod history;
mod single;

use std::{collections::BTreeMap, sync::Arc};

use domain::{
    Failure, Json, RetryPolicy,
    outbound::{RetryMode, check_headers},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    ports::{NotDelivered, Order, Outbound, Signals, Store},
    registry::TaskTypeSpec,
};

/// What the types that publish stand on.
#[derive(Clone)]
pub struct Publishing {
    /// The way out.
    pub outbound: Arc<dyn Outbound>,
    /// Where the history of tasks is read and the items of batches are submitted.
    pub store: Arc<dyn Store>,
    /// Where the items of batches are announced.
    pub order: Option<Arc<dyn Order>>,
    /// Where they are announced, too.
    pub signals: Arc<dyn Signals>,
    /// Where they wait.
    pub routes: Arc<domain::Routes>,
}

/// The types that publish.
pub(super) fn specs(publishing: &Publishing) -> [TaskTypeSpec; 2] {
    [single::spec(publishing), batch::spec(publishing)]
}

/// One message, as a user asks for it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    /// Where it goes.
    url: String,
    /// What is sent: any JSON, byte for byte.
    body: Box<RawValue>,
    /// Further headers.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Which unsuccessful tries are repeated.
    #[serde(default)]
    retry: RetryMode,
}

impl Message {
    fn check(&self, outbound: &dyn Outbound) -> Result<(), String> {
        outbound.target(&self.url).map_err(|error| format!("url: {error}"))?;
        check_headers(&self.headers)
    }
}

/// A task that ran into a time limit, or whose handler panicked, may have sent something.
fn policy() -> RetryPolicy {
    RetryPolicy {
        never: vec![domain::ErrorClass::TimedOut, domain::ErrorClass::Panicked],
        ..RetryPolicy::default()
    }
}

/// What a message that did not arrive makes of its task; `kind` is the first part of the code.
pub(crate) fn failure(kind: &str, error: &NotDelivered, mode: RetryMode) -> Failure {
    let code = format!("{kind}.{}", error.missed.code());
    Failure::new(error.missed.class(mode), code, &error.message).retry_after(error.retry_after)
}

/// A JSON text, byte for byte.
fn exact(raw: &RawValue) -> Result<Json, Failure> {
    Json::parse(raw.get())
        .map_err(|error| Failure::permanent("invalid_input", format!("the body is {error}")))
}

#[cfg(test)]
pub(super) mod tests;
