//! Any server that speaks OpenAI's chat completions. Always streamed, even though the caller wants the whole: only
//! then does dropping the connection stop the bill. Never repeated here: there is no idempotency key upstream, so
//! whether to try again is for the retry policy to decide, which knows what may have been billed.

mod answer;
mod batch;
mod config;
mod embeddings;
mod endpoint;
mod rates;
mod refusal;
mod request;
mod sse;
mod stream;

use std::{error::Error, sync::Arc, time::Duration};

use application::ports::{
    Generation, GenerationEvent, GenerationRequest, GeneratorError, Left, TextGenerator,
};
use async_trait::async_trait;
use domain::ai::{Operation, Trouble};
use futures_util::stream::try_unfold;
use reqwest::{
    Client,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION},
    redirect::Policy,
};
use tokio::time::{Instant, timeout_at};

pub use self::config::{OpenAiConfig, OpenAiConfigError, ProviderTimeouts, Secret};
use self::{
    answer::after_acceptance,
    endpoint::Endpoint,
    refusal::Complaint,
    stream::{Deadlines, Reading},
};

/// Asks an OpenAI-compatible server.
///
/// Proxies are taken from the conventional variables (`HTTPS_PROXY`, …), except for servers on this machine.
#[derive(Debug, Clone)]
pub struct OpenAiGenerator {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    endpoint: Endpoint,
    headers: HeaderMap,
    key: Option<Secret>,
    timeouts: ProviderTimeouts,
}

/// What is asked, and where.
struct Call<'a> {
    operation: Operation,
    model: &'a str,
    task: i64,
    url: reqwest::Url,
}

/// Bytes of an error's body that are read; the rest is of no use.
const ERROR_BODY_LIMIT: usize = 64 * 1024;
/// Characters of a message that are kept.
const MESSAGE_LIMIT: usize = 1_000;
/// Longer request ids are left out of messages.
const LONGEST_ID: usize = 80;
/// Names the task in the provider's logs. Source: <https://platform.openai.com/docs/api-reference/debugging-requests>.
const REQUEST_NAME: HeaderName = HeaderName::from_static("x-client-request-id");

impl OpenAiGenerator {
    /// Checks the configuration; no connection is made.
    pub fn new(config: OpenAiConfig) -> Result<Self, OpenAiConfigError> {
        config.timeouts.check()?;
        let endpoint = Endpoint::new(&config.base_url, config.azure)?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(key) = &config.api_key {
            let (name, value) = endpoint.authorization(key)?;
            headers.insert(name, value);
        }
        // Fails only where another provider was installed before, which does as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = Client::builder()
            .user_agent(concat!("task-runner/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(config.timeouts.connect)
            .redirect(Policy::none())
            .retry(reqwest::retry::never());
        if !endpoint.is_https() {
            // Needs no root certificates, and so runs where none are installed.
            client = client.tls_certs_only([]);
        }
        if endpoint.is_local() {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| OpenAiConfigError::Client(error_text(error)))?;
        let (key, timeouts) = (config.api_key, config.timeouts);
        Ok(Self { shared: Arc::new(Shared { client, endpoint, headers, key, timeouts }) })
    }
}

#[async_trait]
impl TextGenerator for OpenAiGenerator {
    async fn generate(&self, request: GenerationRequest) -> Result<Generation, GeneratorError> {
        let (reading, left) =
            self.shared.start(&request).await.map_err(|error| self.shared.seal(error, MESSAGE_LIMIT))?;
        let events = try_unfold(Some(reading), |reading| async move {
            let Some(mut reading) = reading else { return Ok(None) };
            let event = reading.next().await.map_err(|error| reading.shared.seal(error, MESSAGE_LIMIT))?;
            // With the end, the connection is let go.
            let over = matches!(event, GenerationEvent::Finished { .. });
            Ok(Some((event, (!over).then_some(reading))))
        });
        Ok(Generation::new(events).with_left(left))
    }

    fn describe(&self) -> String {
        format!("openai ({})", self.shared.endpoint.shown())
    }
}

impl Shared {
    async fn start(self: &Arc<Self>, request: &GenerationRequest) -> Result<(Reading, Left), GeneratorError> {
        let started = Instant::now();
        let deadlines = Deadlines {
            first_token: started + self.timeouts.first_token,
            total: started + self.timeouts.total,
        };
        let until = deadlines.first_token.min(deadlines.total);
        let url = self.endpoint.completions(&request.model);
        let call = Call { operation: Operation::Chat, model: &request.model, task: request.task, url };
        let response = self.send(call, self.headers.clone(), request::body(request), started, until).await?;
        let left = rates::left(response.headers());
        Ok((Reading::new(response, request.chars(), deadlines, Arc::clone(self)), left))
    }

    /// Sends a call; answers its response where that is a success.
    async fn send(
        &self,
        call: Call<'_>,
        headers: HeaderMap,
        body: serde_json::Value,
        started: Instant,
        until: Instant,
    ) -> Result<reqwest::Response, GeneratorError> {
        let request = self
            .client
            .post(call.url)
            .headers(headers)
            .header(REQUEST_NAME, format!("task-{}", call.task))
            .body(body.to_string());
        let total = started + self.timeouts.total;
        let response = match timeout_at(until, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(unreached(&self.timeouts, error)),
            Err(_) if total <= until => return Err(timed_out(&self.timeouts, "total_timeout")),
            Err(_) => return Err(timed_out(&self.timeouts, "first_token_timeout")),
        };
        tracing::debug!(
            task = call.task,
            gen_ai.operation.name = call.operation.as_str(),
            gen_ai.request.model = %call.model,
            status = response.status().as_u16(),
            elapsed_ms = started.elapsed().as_millis() as u64,
            "the provider answers"
        );
        if response.status().is_success() { Ok(response) } else { Err(self.refused(response, until).await) }
    }

    /// An answer with an error status, judged by its body as far as that arrives in time.
    async fn refused(&self, mut response: reqwest::Response, until: Instant) -> GeneratorError {
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let mut body = Vec::new();
        while let Ok(Ok(Some(bytes))) = timeout_at(until, response.chunk()).await {
            let room = ERROR_BODY_LIMIT - body.len();
            body.extend_from_slice(&bytes[..bytes.len().min(room)]);
            if bytes.len() >= room {
                break;
            }
        }
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut complaint = Complaint::from_body(status, &body);
        if (300..400).contains(&status) {
            complaint.message = format!("it is elsewhere, at {:?}", text(LOCATION.as_str()));
        }
        let error = complaint.judge(rates::retry_after(&headers), false);
        let mut error = self.seal(error, MESSAGE_LIMIT - 2 * LONGEST_ID);
        let id = text("x-request-id");
        if !id.is_empty() && id.len() <= LONGEST_ID {
            error.message.push_str(&format!(" [request {id}]"));
        }
        error
    }

    /// Every error leaves through here: without the key, and cut only after that.
    fn seal(&self, mut error: GeneratorError, limit: usize) -> GeneratorError {
        if let Some(key) = &self.key {
            error.message = key.redact(&error.message);
            error.code = key.redact(&error.code);
        }
        if error.message.chars().nth(limit).is_some() {
            error.message = error.message.chars().take(limit - 1).chain(['…']).collect();
        }
        error
    }
}

/// The request did not get an answer.
fn unreached(timeouts: &ProviderTimeouts, error: reqwest::Error) -> GeneratorError {
    let connecting = error.is_connect();
    if connecting && error.is_timeout() {
        return timed_out(timeouts, "connect_timeout");
    }
    let text = error_text(error);
    let (code, message) = if connecting {
        ("connect_failed", format!("the provider cannot be reached: {text}; check the base URL"))
    } else {
        ("connection_lost", format!("the connection to the provider broke before an answer came: {text}"))
    };
    let trouble = if connecting { Trouble::Unreachable } else { Trouble::Overloaded };
    // What was sent may have been worked on.
    GeneratorError { billed: !connecting, trouble, ..after_acceptance(code, message) }
}

fn timed_out(timeouts: &ProviderTimeouts, code: &'static str) -> GeneratorError {
    let (message, limit) = match code {
        "connect_timeout" => ("no connection to the provider came about", timeouts.connect),
        "first_token_timeout" => ("the provider sent no first token", timeouts.first_token),
        "idle_timeout" => ("the provider sent no further token", timeouts.idle),
        _ => ("the provider did not finish", timeouts.total),
    };
    let message = format!("{message} within {}", seconds(limit));
    let connecting = code == "connect_timeout";
    let trouble = if connecting { Trouble::Unreachable } else { Trouble::TimedOut };
    GeneratorError { billed: !connecting, trouble, ..after_acceptance(code, message) }
}

fn seconds(limit: Duration) -> String {
    format!("{} s", limit.as_secs_f64())
}

/// The whole chain, without the URL: its query may be secret.
fn error_text(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
