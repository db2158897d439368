//! The bodies of batches.

use std::collections::BTreeMap;

use application::{
    task_types::Callback,
    tasks::{ArticlesSubmission, BatchSubmission, MOST_ARTICLES},
};
use domain::flow::MOST_ITEMS;
use poem_openapi::Object;
use serde_json::value::RawValue;

use crate::{
    body::AnyJson,
    callback,
    fields::{Fields, read_body},
    problem::ApiError,
    submission::{SubmissionBody, read_flow, read_item, read_metadata},
};

/// Many tasks that are followed as one. A field that is null counts as absent.
#[derive(Debug, Object)]
#[oai(rename = "BatchRequest", example)]
pub(crate) struct BatchBody {
    /// For people.
    #[oai(validator(min_length = 1, max_length = 200))]
    name: Option<String>,
    /// The tasks, of any types: 1 to 10000. They run side by side, but for what `after_items` says.
    #[oai(validator(min_items = 1, max_items = 10000))]
    items: Vec<SubmissionBody>,
    /// What items say that do not say otherwise, such as `type` or `queue`.
    defaults: Option<AnyJson>,
    /// Starts these when all items have ended, whatever they came to (unless `on_failure` is `cancel`).
    #[oai(validator(max_items = 100))]
    then: Option<Vec<SubmissionBody>>,
    /// Your own notes: a JSON object, at most 16 kB.
    metadata: Option<AnyJson>,
    /// Tell this URL of the batch's end, as for a task.
    #[oai(validator(min_length = 1, max_length = 2000))]
    callback_url: Option<String>,
    /// Which ends it is told of; all unless said otherwise.
    callback_events: Option<Vec<String>>,
}

impl poem_openapi::types::Example for BatchBody {
    fn example() -> Self {
        Self {
            name: Some("greetings".to_owned()),
            items: vec![SubmissionBody::example()],
            defaults: None,
            then: None,
            metadata: None,
            callback_url: None,
            callback_events: None,
        }
    }
}

/// Articles to be written, side by side.
#[derive(Debug, Object)]
#[oai(rename = "ArticlesRequest", example)]
pub(crate) struct ArticlesBody {
    /// What they are about: 1 to 1000 titles.
    #[oai(validator(min_items = 1, max_items = 1000))]
    titles: Vec<String>,
    /// Where they belong.
    #[oai(validator(max_length = 200))]
    category: Option<String>,
    /// Who writes them; `gpt-3.5-turbo` unless said otherwise.
    #[oai(validator(max_length = 200))]
    model: Option<String>,
}

impl poem_openapi::types::Example for ArticlesBody {
    fn example() -> Self {
        Self {
            titles: vec!["Rust in production".to_owned(), "Queues without tears".to_owned()],
            category: Some("technology".to_owned()),
            model: None,
        }
    }
}

/// A batch without its items, who is to be told of its end, and what its items say that do not say otherwise.
type Head = (BatchSubmission, Option<Callback>, BTreeMap<String, Box<RawValue>>);

/// What the first of a batch's lines says of the batch itself.
pub(crate) fn read_head(text: &str) -> Result<Head, ApiError> {
    read_body(text, |fields| {
        fields.object("batch", "batch.", |fields| {
            let name = read_name(fields);
            let defaults = fields.raw_object("defaults");
            let defaults = defaults.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
            let then = fields.objects("then", &Default::default(), read_flow).unwrap_or_default();
            let metadata = read_metadata(fields);
            let callback = callback::read(fields);
            Some((BatchSubmission { name, then, metadata, ..nameless() }, callback, defaults))
        })
    })
}

/// A batch of which nothing is said.
pub(crate) fn nameless() -> BatchSubmission {
    BatchSubmission { name: None, items: Vec::new(), then: Vec::new(), metadata: None, idempotency: None }
}

fn read_name(fields: &mut Fields<'_>) -> Option<String> {
    let name = fields.take::<String>("name", "a text");
    if name.as_ref().is_some_and(|name| name.is_empty() || name.chars().count() > 200) {
        fields.refuse("name", "it is not 1 to 200 characters long");
    }
    name
}

/// Reads a batch, and who is to be told of its end.
pub(crate) fn read(text: &str) -> Result<(BatchSubmission, Option<Callback>), ApiError> {
    read_body(text, |fields| {
        let name = read_name(fields);
        let defaults = fields.raw_object("defaults");
        let has_items = fields.has("items");
        let items = fields.objects("items", &defaults, read_item);
        if items.is_none() && (!has_items || fields.is_fine("items")) {
            fields.refuse("items", format!("it is missing: give 1 to {MOST_ITEMS} tasks"));
        }
        let then = fields.objects("then", &Default::default(), read_flow).unwrap_or_default();
        let metadata = read_metadata(fields);
        let callback = callback::read(fields);
        Some((BatchSubmission { name, items: items?, then, metadata, idempotency: None }, callback))
    })
}

/// Reads what articles are wanted.
pub(crate) fn read_articles(text: &str) -> Result<ArticlesSubmission, ApiError> {
    read_body(text, |fields| {
        let titles = fields.take::<Vec<String>>("titles", "a list of texts");
        match &titles {
            None if fields.is_fine("titles") => {
                fields.refuse("titles", format!("it is missing: give 1 to {MOST_ARTICLES} titles"));
            }
            _ => {}
        }
        let category = fields.take::<String>("category", "a text");
        let model = fields.take::<String>("model", "a text");
        Some(ArticlesSubmission { titles: titles?, category, model, idempotency: None })
    })
}
