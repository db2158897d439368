//! Vectors of texts: one call, one JSON answer.

use application::ports::{Embedder, EmbeddingRequest, Embeddings, GeneratorError, Left, Usage};
use async_trait::async_trait;
use domain::ai::{Operation, estimate_tokens};
use reqwest::header::{ACCEPT, HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::{
    Call, MESSAGE_LIMIT, OpenAiGenerator, Shared,
    answer::{after_acceptance, too_large},
    error_text, rates,
    refusal::Complaint,
    timed_out,
};

/// The longest answer, in bytes.
const BODY_LIMIT: usize = 64 << 20;

#[derive(Deserialize)]
struct Answer {
    data: Vec<Item>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    usage: Option<Count>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    index: Option<usize>,
    embedding: Vec<f32>,
}

#[derive(Deserialize)]
struct Count {
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    total_tokens: Option<u64>,
}

#[async_trait]
impl Embedder for OpenAiGenerator {
    async fn embed(&self, request: EmbeddingRequest) -> Result<Embeddings, GeneratorError> {
        self.shared.embed(&request).await.map_err(|error| self.shared.seal(error, MESSAGE_LIMIT))
    }
}

impl Shared {
    async fn embed(&self, request: &EmbeddingRequest) -> Result<Embeddings, GeneratorError> {
        let started = Instant::now();
        let total = started + self.timeouts.total;
        let mut body = json!({ "model": request.model, "input": request.texts, "encoding_format": "float" });
        if let Some(dimensions) = request.dimensions {
            body["dimensions"] = json!(dimensions);
        }
        let mut headers = self.headers.clone();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let url = self.endpoint.embeddings(&request.model);
        let call = Call { operation: Operation::Embeddings, model: &request.model, task: request.task, url };
        let until = total.min(started + self.timeouts.first_token);
        let mut response = self.send(call, headers, body, started, until).await?;
        let left = rates::left(response.headers());
        let mut bytes = Vec::new();
        loop {
            let idle = Instant::now() + self.timeouts.idle;
            match timeout_at(idle.min(total), response.chunk()).await {
                Ok(Ok(Some(more))) => bytes.extend_from_slice(&more),
                Ok(Ok(None)) => break,
                Ok(Err(error)) => {
                    let message =
                        format!("the answer is truncated: the connection was cut ({})", error_text(error));
                    return Err(after_acceptance("truncated", message));
                }
                Err(_) if total <= idle => return Err(timed_out(&self.timeouts, "total_timeout")),
                Err(_) => return Err(timed_out(&self.timeouts, "idle_timeout")),
            }
            if bytes.len() > BODY_LIMIT {
                return Err(too_large(format!("the answer is longer than {BODY_LIMIT} bytes")));
            }
        }
        Ok(Embeddings { left, ..read(&bytes, request)? })
    }
}

fn read(bytes: &[u8], request: &EmbeddingRequest) -> Result<Embeddings, GeneratorError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(after_acceptance("truncated", "the answer is truncated: the body was empty".to_owned()));
    }
    let answer: Answer = match serde_json::from_slice(bytes) {
        Ok(answer) => answer,
        Err(error) if error.is_eof() => {
            return Err(after_acceptance(
                "truncated",
                "the answer is truncated: the JSON broke off".to_owned(),
            ));
        }
        Err(error) => {
            let value = serde_json::from_slice(bytes).unwrap_or(Value::Null);
            if let Some(complaint) = Complaint::in_stream(&value) {
                return Err(complaint.judge(None, false));
            }
            let start: String = String::from_utf8_lossy(bytes).chars().take(200).collect();
            return Err(invalid(&format!("it is no list of embeddings: {error} in {start:?}")));
        }
    };
    let asked = request.texts.len();
    let mut vectors: Vec<Option<Vec<f32>>> = vec![None; asked];
    for (place, item) in answer.data.into_iter().enumerate() {
        let Some(vector) = vectors.get_mut(item.index.unwrap_or(place)) else { continue };
        if item.embedding.is_empty() || item.embedding.iter().any(|number| !number.is_finite()) {
            return Err(invalid(&format!("embedding {place} is empty, or not made of numbers")));
        }
        *vector = Some(item.embedding);
    }
    let vectors: Option<Vec<Vec<f32>>> = vectors.into_iter().collect();
    let Some(vectors) = vectors else {
        return Err(invalid(&format!("it has fewer embeddings than the {asked} texts that were sent")));
    };
    let counted = answer.usage.and_then(|usage| usage.prompt_tokens.or(usage.total_tokens));
    let chars: u64 = request.texts.iter().map(|text| text.chars().count() as u64).sum();
    let usage = Usage {
        input_tokens: counted.unwrap_or_else(|| estimate_tokens(chars)),
        output_tokens: 0,
        estimated: counted.is_none(),
    };
    Ok(Embeddings { vectors, usage, model: answer.model, by: None, left: Left::default() })
}

fn invalid(why: &str) -> GeneratorError {
    let message = format!(
        "the provider's answer cannot be read: {why}; check that the base URL leads to an OpenAI-compatible server"
    );
    after_acceptance("invalid_response", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(texts: &[&str]) -> EmbeddingRequest {
        EmbeddingRequest {
            model: "m".into(),
            texts: texts.iter().map(|text| (*text).to_owned()).collect(),
            ..EmbeddingRequest::default()
        }
    }

    #[test]
    fn vectors_come_in_the_order_of_their_texts() {
        let answer = br#"{"object":"list","model":"m-1","data":[{"index":1,"embedding":[0.25,-1]},{"index":0,"embedding":[1,2]}],"usage":{"prompt_tokens":5,"total_tokens":5}}"#;
        let embeddings = read(answer, &request(&["a", "b"])).expect("an answer");
        assert_eq!(embeddings.vectors, [[1.0, 2.0], [0.25, -1.0]]);
        assert_eq!(embeddings.usage, Usage { input_tokens: 5, output_tokens: 0, estimated: false });
        assert_eq!(embeddings.model.as_deref(), Some("m-1"));
        let bare = read(br#"{"data":[{"embedding":[1]}]}"#, &request(&["12345"])).expect("an answer");
        assert_eq!(bare.usage, Usage { input_tokens: 2, output_tokens: 0, estimated: true });
    }

    #[test]
    fn what_is_no_answer_is_an_error_with_its_code() {
        for (bytes, code) in [
            (&b""[..], "truncated"),
            (br#"{"data":[{"embedd"#, "truncated"),
            (b"<html>", "invalid_response"),
            (br#"{"data":[]}"#, "invalid_response"),
            (br#"{"data":[{"embedding":[]}]}"#, "invalid_response"),
            (br#"{"data":[{"embedding":["x"]}]}"#, "invalid_response"),
            (br#"{"data":[{"index":9,"embedding":[1]}]}"#, "invalid_response"),
            (br#"{"error":{"message":"m","code":"insufficient_quota"}}"#, "insufficient_quota"),
        ] {
            let error = read(bytes, &request(&["a"])).expect_err("no answer");
            assert_eq!(error.code, code, "{}", String::from_utf8_lossy(bytes));
        }
    }
}
