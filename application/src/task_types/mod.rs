//! The task types that come with the runner. Adding one is one file here, or in a program of your own: a name, an
//! input type, a handler, and a line in [`built_in`]. `docs/adding-a-task-type.md` walks through it.

mod article;
mod calculation;
mod clean_up;
mod crash;
mod debug;
mod echo;
mod embedding;
mod flaky;
mod noop;
mod publish;
mod sleep;
mod text_generation;
mod webhook;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use article::{ARTICLE_TYPE, ArticleInput};
pub use clean_up::{CLEAN_UP_TYPE, clean_up};
pub use crash::crash;
pub use embedding::EmbeddingInput;
pub use publish::Publishing;
pub use text_generation::{DEFAULT_MODEL, TextGenerationInput};
pub(crate) use webhook::WebhookInput;
pub use webhook::{Callback, WEBHOOK_TYPE};

use crate::{
    ports::{Embedder, TaskStore, TextGenerator},
    registry::TaskTypeSpec,
};

/// The name of the type that a submission has when it names none.
pub const DEFAULT_TYPE: &str = text_generation::NAME;

/// What the types stand on that ask models.
#[derive(Clone)]
pub struct Models {
    /// Answers messages.
    pub generator: Arc<dyn TextGenerator>,
    /// Makes vectors.
    pub embedder: Arc<dyn Embedder>,
    /// Has what an interrupted attempt has written.
    pub store: Arc<dyn TaskStore>,
    /// The largest result that a worker keeps, in bytes: more is not asked for.
    pub largest_result: usize,
}

/// A text or a list of texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "neither a text nor a list of texts")]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    /// Each of them.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let texts = match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        };
        texts.iter().map(String::as_str)
    }

    /// As a list in any case.
    pub fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

/// Every built-in type.
pub fn built_in(models: &Models) -> Vec<TaskTypeSpec> {
    vec![
        text_generation::spec(models),
        article::spec(models),
        embedding::spec(models),
        calculation::spec(),
        debug::spec(),
        echo::spec(),
        flaky::spec(),
        noop::spec(),
        sleep::spec(),
    ]
}

/// The types that send messages out.
pub fn publishing(publishing: &Publishing) -> Vec<TaskTypeSpec> {
    publish::specs(publishing).into_iter().chain([webhook::spec(publishing)]).collect()
}

#[cfg(test)]
mod tests;
