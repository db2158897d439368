//! `ai.embedding`: vectors of texts.

use domain::{
    Failure, Json,
    ai::{EmbeddingLimits, InvalidRequest, estimate_tokens},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Models, OneOrMany,
    text_generation::{check_model, soft_limit},
};
use crate::{
    handler::TaskContext,
    ports::{Books, EmbeddingRequest, Embeddings},
    providers::log_call,
    registry::{Output, TaskTypeSpec},
};

const NAME: &str = "ai.embedding";
/// The model of tasks that name none.
const DEFAULT_MODEL: &str = "text-embedding-3-small";

/// What the type takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingInput {
    /// A text, or a list of at most 256.
    pub input: OneOrMany,
    /// The model; `text-embedding-3-small` when absent or null.
    #[serde(default)]
    pub model: Option<String>,
    /// How many numbers a vector is to have; the model's own number when absent or null.
    #[serde(default)]
    pub dimensions: Option<u32>,
}

impl EmbeddingInput {
    fn model(&self) -> &str {
        self.model.as_deref().unwrap_or(DEFAULT_MODEL)
    }

    fn check(&self, limits: EmbeddingLimits) -> Result<(), InvalidRequest> {
        check_model(self.model.as_deref())?;
        limits.check(&self.input.clone().into_vec(), self.model(), self.dimensions)
    }
}

pub(super) fn spec(models: &Models) -> TaskTypeSpec {
    let (models, limits) = (models.clone(), limits(models));
    TaskTypeSpec::new(
        NAME,
        "Makes a vector of each text; the result is the list of vectors.",
        move |context, input| embed(models.clone(), context, input),
    )
    .checked(move |input: &EmbeddingInput| input.check(limits).map_err(|error| error.to_string()))
    .costing(|input: &EmbeddingInput| {
        estimate_tokens(input.input.texts().map(|text| text.chars().count() as u64).sum())
    })
    .example(r#"{"input":["first text","second text"],"model":"text-embedding-3-small","dimensions":256}"#)
}

fn limits(models: &Models) -> EmbeddingLimits {
    EmbeddingLimits { largest_result: models.largest_result }
}

async fn embed(models: Models, context: TaskContext, input: EmbeddingInput) -> Result<Output, Failure> {
    // A worker may keep less than the process that took the task in.
    input
        .check(limits(&models))
        .map_err(|error| Failure::permanent("invalid_input", format!("the input is not valid: {error}")))?;
    let model = input.model().to_owned();
    let texts = input.input.into_vec();
    let asked = texts.len();
    let request = EmbeddingRequest {
        model: model.clone(),
        texts,
        dimensions: input.dimensions,
        task: context.task().id.0,
        attempt: context.task().attempt,
        books: Books::kept_by(context.clone()),
    };
    let answered = tokio::select! {
        answered = models.embedder.embed(request) => answered,
        () = context.soft_limit_passed() => return Err(soft_limit("before the model answered")),
    };
    let embeddings = match answered {
        Ok(embeddings) => embeddings,
        Err(error) => return Err(error.into()),
    };
    let Embeddings { vectors, usage, model: answering, by, .. } = embeddings;
    let mut details = json!({
        "model": answering.as_ref().unwrap_or(&model),
        "dimensions": vectors.first().map_or(0, Vec::len),
        "usage": {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "estimated": usage.estimated,
        },
    });
    if let Some(by) = by {
        details["provider"] = json!(by.provider);
        if let Some(price) = by.price {
            details["cost_micros"] = json!(price.of(usage));
        }
        context.update_call(|call| {
            call.response_model = answering.clone();
            call.charge(usage, by.price);
            log_call(call);
        });
    }
    if vectors.len() != asked {
        let message = format!("the provider answered {} vectors for {asked} texts", vectors.len());
        return Err(Failure::transient("invalid_response", message));
    }
    let result = Json::from_value(&vectors)
        .map_err(|error| Failure::permanent("invalid_result", format!("the result {error}")))?;
    Output { result, details: None }.with_details(&details)
}
