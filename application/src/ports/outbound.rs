//! Messages to HTTP endpoints of users': the port that the outbound adapter implements.

use std::time::Duration;

use async_trait::async_trait;
use domain::{
    Json, Tenant, Timestamp,
    outbound::{InvalidTarget, MessageId, Missed, Target},
};

/// One message, as in Standard Webhooks.
#[derive(Debug, Clone, PartialEq)]
pub struct Post {
    /// Whose it is: decides about the secrets that sign it.
    pub tenant: Tenant,
    /// Where it goes.
    pub target: Target,
    /// The same for every try of one message.
    pub id: MessageId,
    /// When this try is made.
    pub timestamp: Timestamp,
    /// Further headers, checked by [`domain::outbound::check_headers`].
    pub headers: Vec<(String, String)>,
    /// What is sent, byte for byte.
    pub body: Json,
}

/// A receiver's success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// 200 to 299.
    pub status: u16,
    /// The beginning of what it said.
    pub text: String,
    /// Whether the message was signed.
    pub signed: bool,
}

/// A message that did not get there, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NotDelivered {
    /// How far it came: decides about another try.
    pub missed: Missed,
    /// What happened, without secrets: of the URL only scheme, host and port.
    pub message: String,
    /// How long the receiver asked us to wait.
    pub retry_after: Option<Duration>,
}

/// The way out. It follows no redirects, asks no proxy, reads a bounded answer in a bounded time, and connects to no
/// address that its rules forbid, whatever name led there.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait Outbound: Send + Sync {
    /// Reads a URL under the rules. A host name is judged again by what it resolves to, at each connection.
    fn target(&self, url: &str) -> Result<Target, InvalidTarget>;

    /// The largest message that is sent, in bytes.
    fn largest(&self) -> usize;

    /// Sends one message once. Never repeated here: that is for the task's policy to decide, by [`Missed`].
    async fn post(&self, post: &Post) -> Result<Delivered, NotDelivered>;

    /// One line for people, such as `signed with 2 secrets`; no secrets.
    fn describe(&self) -> String;
}
