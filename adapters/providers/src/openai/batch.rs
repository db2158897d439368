//! The Batch API: a file of requests goes there, a file of answers comes back, within a day and for half the price.
//! Source: <https://platform.openai.com/docs/api-reference/batch>.

use application::ports::{
    BatchAnswer, BatchApi, BatchState, GenerationEvent, GenerationRequest, GeneratorError,
};
use async_trait::async_trait;
use domain::TaskId;
use reqwest::{
    RequestBuilder, Response,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue},
    multipart::{Form, Part},
};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::{
    MESSAGE_LIMIT, OpenAiGenerator, Shared,
    answer::{Answer, Seen, after_acceptance, too_large},
    error_text,
    refusal::Complaint,
    request, timed_out, unreached,
};

/// The longest description of a file or a batch, in bytes.
const OBJECT_LIMIT: usize = 1 << 20;
/// The longest file of answers.
const FILE_LIMIT: usize = 512 << 20;
/// How many of the latest batches are looked through for a mark.
const LATEST: &str = "100";
/// Under which key of a batch's metadata its mark stands.
const MARK: &str = "task_runner_batch";
/// What requests are called begins with this.
const TASK: &str = "task-";

#[async_trait]
impl BatchApi for OpenAiGenerator {
    fn body(&self, request: &GenerationRequest) -> String {
        let mut body = request::body(request);
        if let Some(fields) = body.as_object_mut() {
            fields.remove("stream");
            fields.remove("stream_options");
        }
        body.to_string()
    }

    async fn upload(&self, name: &str, requests: &[(TaskId, String)]) -> Result<String, GeneratorError> {
        let mut lines = String::new();
        for (task, body) in requests {
            lines.push_str(&format!(
                "{{\"custom_id\":\"{TASK}{task}\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{body}}}\n"
            ));
        }
        let file = Part::bytes(lines.into_bytes()).file_name(name.to_owned());
        let form = Form::new().text("purpose", "batch").part("file", file);
        let shared = &self.shared;
        let call = shared.client.post(shared.endpoint.files(&[])).headers(shared.plain()).multipart(form);
        shared.named(call, "id").await
    }

    async fn begin(&self, file: &str, mark: &str) -> Result<String, GeneratorError> {
        let body = json!({
            "input_file_id": file,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": { MARK: mark },
        });
        let shared = &self.shared;
        let call = shared.client.post(shared.endpoint.batches(&[])).headers(shared.plain());
        let call = call.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        shared.named(call.body(body.to_string()), "id").await
    }

    async fn find(&self, mark: &str) -> Result<Option<String>, GeneratorError> {
        let shared = &self.shared;
        let mut url = shared.endpoint.batches(&[]);
        url.query_pairs_mut().append_pair("limit", LATEST);
        let list = shared.object(shared.client.get(url).headers(shared.plain())).await?;
        let batches = list["data"].as_array().into_iter().flatten();
        let found = batches.into_iter().find(|batch| batch["metadata"][MARK] == mark);
        Ok(found.and_then(|batch| batch["id"].as_str()).map(str::to_owned))
    }

    async fn look(&self, remote: &str) -> Result<BatchState, GeneratorError> {
        let shared = &self.shared;
        let call = shared.client.get(shared.endpoint.batches(&[remote])).headers(shared.plain());
        let batch = shared.object(call).await?;
        Ok(match batch["status"].as_str().unwrap_or_default() {
            // What was answered before it ended in one of these ways stands in its files.
            "completed" | "expired" | "cancelled" | "failed" => {
                let file = |name: &str| batch[name].as_str().map(str::to_owned);
                BatchState::Over(["output_file_id", "error_file_id"].into_iter().filter_map(file).collect())
            }
            _ => BatchState::UnderWay,
        })
    }

    async fn fetch(&self, file: &str) -> Result<Vec<(TaskId, String)>, GeneratorError> {
        let shared = &self.shared;
        let url = shared.endpoint.files(&[file, "content"]);
        let text = shared.bytes(shared.client.get(url).headers(shared.plain()), FILE_LIMIT).await?;
        let text = String::from_utf8_lossy(&text);
        let task = |line: &str| {
            let value: Value = serde_json::from_str(line).ok()?;
            value["custom_id"].as_str()?.strip_prefix(TASK)?.parse().ok().map(TaskId)
        };
        Ok(text.lines().filter_map(|line| Some((task(line)?, line.to_owned()))).collect())
    }

    fn read(&self, answer: &str) -> BatchAnswer {
        read(answer).unwrap_or_else(|error| BatchAnswer::Refused(self.shared.seal(error, MESSAGE_LIMIT)))
    }
}

fn read(line: &str) -> Result<BatchAnswer, GeneratorError> {
    let line: Value = serde_json::from_str(line).unwrap_or(Value::Null);
    let response = &line["response"];
    let status = response["status_code"].as_u64().and_then(|status| u16::try_from(status).ok());
    if let (Some(200), body @ Value::Object(_)) = (status, &response["body"]) {
        let mut answer = Answer::new(0);
        let seen = answer.read_whole(body.to_string().as_bytes())?;
        let GenerationEvent::Finished { reason, usage, model } = answer.end("the batch's answer ended")?
        else {
            return Err(after_acceptance("invalid_response", "the batch's answer has no end".to_owned()));
        };
        let text = if let Seen::Text(text) = seen { text } else { String::new() };
        let tool_calls = answer.take_tool_calls();
        return Ok(BatchAnswer::Said { text, tool_calls, reason, usage, model });
    }
    let said = if line["error"].is_null() { &response["body"] } else { &line };
    // Without a status it was not asked at all, as when the batch's time was over.
    let complaint = Complaint::from_body(status.unwrap_or(503), said.to_string().as_bytes());
    Err(GeneratorError { billed: false, ..complaint.judge(None, false) })
}

impl Shared {
    /// What every call carries; the key.
    fn plain(&self) -> HeaderMap {
        let mut headers = self.headers.clone();
        headers.remove(CONTENT_TYPE);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers
    }

    /// One text of the answer's object.
    async fn named(&self, call: RequestBuilder, field: &str) -> Result<String, GeneratorError> {
        let object = self.object(call).await?;
        object[field].as_str().map(str::to_owned).ok_or_else(|| {
            let message = format!("the provider's answer cannot be read: it has no {field}");
            self.seal(after_acceptance("invalid_response", message), MESSAGE_LIMIT)
        })
    }

    async fn object(&self, call: RequestBuilder) -> Result<Value, GeneratorError> {
        let bytes = self.bytes(call, OBJECT_LIMIT).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            let message = format!("the provider's answer cannot be read: {error}");
            self.seal(after_acceptance("invalid_response", message), MESSAGE_LIMIT)
        })
    }

    async fn bytes(&self, call: RequestBuilder, limit: usize) -> Result<Vec<u8>, GeneratorError> {
        self.ask(call, limit).await.map_err(|error| self.seal(error, MESSAGE_LIMIT))
    }

    async fn ask(&self, call: RequestBuilder, limit: usize) -> Result<Vec<u8>, GeneratorError> {
        let total = Instant::now() + self.timeouts.total;
        let response = match timeout_at(total, call.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(unreached(&self.timeouts, error)),
            Err(_) => return Err(timed_out(&self.timeouts, "total_timeout")),
        };
        if !response.status().is_success() {
            return Err(self.refused(response, total).await);
        }
        self.whole(response, limit, total).await
    }

    async fn whole(
        &self,
        mut response: Response,
        limit: usize,
        total: Instant,
    ) -> Result<Vec<u8>, GeneratorError> {
        let mut bytes = Vec::new();
        loop {
            match timeout_at(total, response.chunk()).await {
                Ok(Ok(Some(more))) if bytes.len() + more.len() <= limit => bytes.extend_from_slice(&more),
                Ok(Ok(Some(_))) => return Err(too_large(format!("the answer is longer than {limit} bytes"))),
                Ok(Ok(None)) => return Ok(bytes),
                Ok(Err(error)) => {
                    let message =
                        format!("the answer is truncated: the connection was cut ({})", error_text(error));
                    return Err(after_acceptance("truncated", message));
                }
                Err(_) => return Err(timed_out(&self.timeouts, "total_timeout")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use application::ports::FinishReason;
    use domain::ErrorClass;

    use super::*;

    #[test]
    fn each_line_is_read_by_itself() {
        let said = json!({ "custom_id": "task-1", "error": null, "response": { "status_code": 200, "body": {
            "model": "m-1", "usage": { "prompt_tokens": 3, "completion_tokens": 2 },
            "choices": [{ "index": 0, "finish_reason": "length", "message": { "content": "Hi — é" } }],
        } } });
        match read(&said.to_string()).expect("an answer") {
            BatchAnswer::Said { text, tool_calls, reason, usage, model } => {
                assert_eq!((text.as_str(), tool_calls.len(), reason), ("Hi — é", 0, FinishReason::Length));
                assert_eq!((usage.input_tokens, usage.output_tokens, usage.estimated), (3, 2, false));
                assert_eq!(model.as_deref(), Some("m-1"));
            }
            other => panic!("{other:?}"),
        }
        let filtered = said.to_string().replace("\"length\"", "\"content_filter\"");
        let too_long = json!({ "response": { "status_code": 400, "body": { "error": {
            "code": "context_length_exceeded", "message": "too long" } } } });
        let busy = json!({ "response": { "status_code": 500, "body": { "error": { "message": "busy" } } } });
        let expired =
            json!({ "response": null, "error": { "code": "batch_expired", "message": "too late" } });
        for (line, code, class) in [
            (filtered, "content_filter", ErrorClass::Permanent),
            (too_long.to_string(), "context_length_exceeded", ErrorClass::Permanent),
            (busy.to_string(), "http_500", ErrorClass::Transient),
            (expired.to_string(), "batch_expired", ErrorClass::Transient),
            ("no JSON".to_owned(), "http_503", ErrorClass::Transient),
        ] {
            let error = read(&line).expect_err("an error");
            assert_eq!((error.code.as_str(), error.class), (code, class), "{line}: {error:?}");
        }
    }
}
