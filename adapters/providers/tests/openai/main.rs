//! The openai provider against a server that misbehaves in every way that was seen in the field.
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests, too")]

mod dropping;
mod embeddings;
mod error_table;
mod streaming;
#[path = "../support/stub.rs"]
mod stub;
#[path = "../support/mod.rs"]
mod support;
mod timeouts;
