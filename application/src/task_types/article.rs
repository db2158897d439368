//! `ai.article`: an article with a title, for a category.

use domain::Failure;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Models,
    text_generation::{DEFAULT_MODEL, check_model, write},
};
use crate::{
    handler::TaskContext,
    ports::TextGenerator,
    registry::{Output, TaskTypeSpec},
};

/// What the type is called.
pub const ARTICLE_TYPE: &str = "ai.article";
/// The longest title and category, in characters.
const LONGEST: usize = 500;

/// What the type takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArticleInput {
    /// What it is about.
    pub title: String,
    /// Where it belongs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// Who writes it; [`DEFAULT_MODEL`] when absent or null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

impl ArticleInput {
    fn check(&self) -> Result<(), String> {
        let long = |text: &str| text.chars().count() > LONGEST;
        if self.title.trim().is_empty() || long(&self.title) {
            return Err(format!("the title is not 1 to {LONGEST} characters long"));
        }
        if self.category.as_deref().is_some_and(long) {
            return Err(format!("the category is longer than {LONGEST} characters"));
        }
        check_model(self.model.as_deref()).map_err(|error| error.to_string())
    }

    fn prompt(&self) -> String {
        match self.category.as_deref().filter(|category| !category.trim().is_empty()) {
            Some(category) => {
                format!("Write an article with the title \"{}\" for the category \"{category}\".", self.title)
            }
            None => format!("Write an article with the title \"{}\".", self.title),
        }
    }
}

pub(super) fn spec(models: &Models) -> TaskTypeSpec {
    let models = models.clone();
    TaskTypeSpec::new(
        ARTICLE_TYPE,
        "Writes an article; its text streams live.",
        move |context, input: ArticleInput| {
            let models = models.clone();
            async move { article(models.generator.as_ref(), context, input).await }
        },
    )
    .example(r#"{"title":"Rust in production","category":"technology"}"#)
    .checked(ArticleInput::check)
}

async fn article(
    generator: &dyn TextGenerator,
    context: TaskContext,
    input: ArticleInput,
) -> Result<Output, Failure> {
    let model = input.model.clone().unwrap_or_else(|| DEFAULT_MODEL.to_owned());
    let written = write(generator, &context, model, input.prompt()).await?;
    let article = json!({ "title": input.title, "category": input.category, "content": written.text });
    Output::of(&article)?.with_details(&written.details)
}
