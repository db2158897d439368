//! The openai provider, unmodified, against a real OpenAI-compatible server: aimock (npm, `tests/clients/aimock`).
//! Its answers and faults stand in that folder's `fixtures.json`.
#![allow(clippy::disallowed_methods, reason = "finds the server where the test command put it")]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests, too")]

mod support;

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, bail};
use application::ports::{FinishReason, GenerationEvent, TextGenerator, Usage};
use domain::ErrorClass::{Permanent, RateLimited, Transient};
use futures_util::StreamExt;
use providers_adapter::ProviderTimeouts;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::support::{Outcome, PATIENCE, ask, generator, patient, request};

struct Aimock {
    url: String,
    /// Killed when dropped.
    _server: Child,
}

impl Aimock {
    async fn start() -> Self {
        Self::try_start().await.unwrap_or_else(|error| panic!("{error:#}"))
    }

    async fn try_start() -> anyhow::Result<Self> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients/aimock");
        let llmock = match std::env::var("TASK_RUNNER_AIMOCK") {
            Ok(path) => PathBuf::from(path),
            Err(_) => folder.join("node_modules/.bin/llmock"),
        };
        if !llmock.exists() {
            bail!(
                "this test needs aimock, and there is none at {}: run `cargo xtask test`, which installs it, or \
                 `npm ci` in tests/clients/aimock, or set TASK_RUNNER_AIMOCK to the llmock executable",
                llmock.display()
            );
        }
        let mut server = Command::new(&llmock)
            .args(["--port", "0", "--strict", "--validate-on-load", "--fixtures"])
            .arg(folder.join("fixtures.json"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} does not start; is Node.js installed?", llmock.display()))?;
        let output = server.stdout.take().context("the output is piped")?;
        let mut lines = BufReader::new(output).lines();
        let listening = async {
            while let Some(line) = lines.next_line().await? {
                if let Some((_, url)) = line.split_once("listening on ") {
                    return Ok(url.trim().to_owned());
                }
            }
            bail!("aimock ended before it listened; its error is above")
        };
        let url = timeout(PATIENCE, listening).await.context("aimock should say where it listens")??;
        // Read on, so that its log never blocks it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { url, _server: server })
    }

    async fn ask(&self, prompt: &str) -> Outcome {
        self.ask_with(prompt, patient()).await
    }

    async fn ask_with(&self, prompt: &str, timeouts: ProviderTimeouts) -> Outcome {
        ask(&generator(&format!("{}/v1", self.url), timeouts), prompt).await
    }
}

const HELLO: &str = "Grüße from a real server, in several chunks. 🦀";

#[tokio::test]
async fn an_answer_is_streamed_with_its_usage() {
    let outcome = Aimock::start().await.ask("say hello").await;
    assert_eq!(outcome.text(), HELLO);
    assert!(outcome.chunks.len() > 1, "{:?}", outcome.chunks);
    let expected = GenerationEvent::Finished {
        reason: FinishReason::Stop,
        usage: Usage { input_tokens: 9, output_tokens: 12, estimated: false },
        model: Some("gpt-test".to_owned()),
    };
    assert_eq!(outcome.end, Ok(expected));
}

#[tokio::test]
async fn azures_paths_work() {
    let aimock = Aimock::start().await;
    let azure = generator(&format!("{}?api-version=2024-10-21", aimock.url), patient());
    let outcome = ask(&azure, "say hello").await;
    assert_eq!(outcome.text(), HELLO);
    assert!(outcome.end.is_ok(), "{:?}", outcome.end);
}

#[tokio::test]
async fn errors_have_their_class_code_and_wait() {
    let aimock = Aimock::start().await;
    for (prompt, class, code, wait) in [
        ("rate limit", RateLimited, "rate_limit_exceeded", Some(7)),
        ("no credit", Permanent, "insufficient_quota", None),
        ("too long", Permanent, "context_length_exceeded", None),
        ("break down", Transient, "server_error", None),
    ] {
        let error = aimock.ask(prompt).await.error();
        assert_eq!((error.class, error.code.as_str()), (class, code), "{prompt}: {}", error.message);
        assert_eq!(error.retry_after, wait.map(Duration::from_secs), "{prompt}");
    }
}

#[tokio::test]
async fn a_cut_answer_is_truncated() {
    let outcome = Aimock::start().await.ask("be cut").await;
    assert!("This answer is much longer".starts_with(&outcome.text()), "{:?}", outcome.chunks);
    let error = outcome.error();
    assert_eq!((error.class, error.code.as_str(), error.billed), (Transient, "truncated", true));
}

#[tokio::test]
async fn a_length_limit_is_a_success_marked_incomplete() {
    let end = Aimock::start().await.ask("reach the limit").await.end;
    assert!(matches!(end, Ok(GenerationEvent::Finished { reason: FinishReason::Length, .. })), "{end:?}");
}

#[tokio::test]
async fn a_slow_answer_can_be_timed_out_and_dropped() {
    let aimock = Aimock::start().await;
    let timeouts = ProviderTimeouts { idle: Duration::from_millis(100), ..patient() };
    let error = aimock.ask_with("take your time", timeouts).await.error();
    assert_eq!(error.code, "idle_timeout");

    let patient = generator(&format!("{}/v1", aimock.url), patient());
    let mut generation = patient.generate(request("take your time")).await.expect("it starts");
    let first = generation.next().await.expect("it streams");
    assert!(matches!(first, Ok(GenerationEvent::Chunk(_))), "{first:?}");
    drop(generation);
    assert_eq!(ask(&patient, "say hello").await.text(), HELLO, "the provider serves on");
}
