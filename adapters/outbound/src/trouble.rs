//! How far a call came that did not succeed, and what may be told of it.

use std::{error::Error, time::Duration};

use application::ports::{NotDelivered, Post};
use domain::outbound::Missed;

use crate::resolve::Forbidden;

/// Characters of a receiver's refusal that are kept.
const EXCERPT: usize = 300;
/// Shorter values are too common to be cut out of a text.
const SHORTEST_SECRET: usize = 6;

pub(crate) fn missed(missed: Missed, message: String) -> NotDelivered {
    NotDelivered { missed, message, retry_after: None }
}

/// The client's error: before the connection stood, or after.
pub(crate) fn broken(post: &Post, error: reqwest::Error, connect_timeout: Duration) -> NotDelivered {
    let host = post.target.shown();
    if let Some(Forbidden(refusal)) = cause(&error) {
        return missed(Missed::KeptBack, format!("url: {refusal}"));
    }
    if error.is_builder() {
        return missed(Missed::KeptBack, format!("the request to {host} cannot be made: {}", chain(error)));
    }
    if error.is_connect() {
        let why = if error.is_timeout() {
            format!("no connection came about within {} s", connect_timeout.as_secs_f64())
        } else {
            chain(error)
        };
        let message = format!("{host} cannot be reached, nothing was sent: {why}");
        return missed(Missed::NothingSent, message);
    }
    let message = format!(
        "the connection to {host} was lost before it had answered, so it may have got the message: {}; find out there, \
         then retry or discard the task",
        chain(error)
    );
    missed(Missed::MaybeSent, message)
}

/// An answer that is no success.
pub(crate) fn refused(post: &Post, status: reqwest::StatusCode, location: &str, body: &str) -> NotDelivered {
    let mut message = format!("{} answered {status}", post.target.shown());
    if status.is_redirection() {
        let to = reqwest::Url::parse(location).map(|to| to.origin().ascii_serialization());
        let to = to.map_or(String::new(), |to| format!(" to {to}"));
        message.push_str(&format!("; redirects{to} are not followed, give the final URL"));
    } else if !body.trim().is_empty() {
        message.push_str(&format!(": {}", excerpt(post, body, EXCERPT)));
    }
    missed(Missed::Refused(status.as_u16()), message)
}

/// The beginning of what a receiver said, without what it may have repeated of the request: the path and the query of the
/// URL, and the values of headers.
pub(crate) fn excerpt(post: &Post, text: &str, characters: usize) -> String {
    let url = post.target.url();
    let secrets = post.headers.iter().map(|(_, value)| value.as_str()).chain(url.query()).chain([url.path()]);
    let mut text = text.replace('\0', "");
    for secret in secrets.filter(|secret| secret.len() >= SHORTEST_SECRET) {
        text = text.replace(secret, "[redacted]");
        // Such as the token of `Bearer token`.
        if let Some((_, token)) = secret.split_once(' ').filter(|(_, token)| token.len() >= SHORTEST_SECRET) {
            text = text.replace(token, "[redacted]");
        }
    }
    text.trim().chars().take(characters).collect()
}

fn cause(error: &reqwest::Error) -> Option<&Forbidden> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<Forbidden>() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// The causes, without the URL.
fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&more);
        }
        cause = error.source();
    }
    if text.is_empty() { error.to_string() } else { text }
}
