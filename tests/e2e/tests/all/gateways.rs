//! One configuration for every server that speaks OpenAI's API: only the URL differs.

use std::{path::PathBuf, process::Stdio, time::Duration};

use e2e_tests::{Base, Product, free_port};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep},
};

/// A LiteLLM proxy takes its time to start.
const START: Duration = Duration::from_secs(120);
const HELLO: &str = "Grüße from a real server, in several chunks. 🦀";

/// LiteLLM wants its callers to have one; aimock does not look at it.
const KEY: &str = "sk-of-this-test-alone-0123456789abcdef0123456789abcdef";

/// A server of `tests/clients`; killed when dropped.
struct Gateway {
    url: String,
    _server: Child,
}

impl Gateway {
    /// # Panics
    ///
    /// When it does not answer in time.
    async fn start(mut command: Command, port: u16) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let server = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let url = format!("http://127.0.0.1:{port}");
        let deadline = Instant::now() + START;
        // Both listen when they are ready.
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(Instant::now() < deadline, "{command:?} does not listen at {url}");
            sleep(Duration::from_millis(200)).await;
        }
        Self { url, _server: server }
    }

    async fn aimock() -> Self {
        let port = free_port();
        let mut command = program("TASK_RUNNER_AIMOCK");
        command.args(["--port", &port.to_string(), "--fixtures"]).arg(clients().join("aimock/fixtures.json"));
        Self::start(command, port).await
    }

    async fn litellm() -> Self {
        let port = free_port();
        let mut command = program("TASK_RUNNER_LITELLM");
        command.args(["--host", "127.0.0.1", "--port", &port.to_string(), "--config"]);
        command.arg(clients().join("litellm/config.yaml"));
        command.env("LITELLM_MASTER_KEY", KEY);
        // It would fetch a list of prices.
        command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
        Self::start(command, port).await
    }

    /// The product with nothing but its URL and the key.
    async fn product(&self) -> Product {
        let base_url = format!("{}/v1", self.url);
        Base::Sqlite.setup().set("OPENAI_BASE_URL", &base_url).set("OPENAI_API_KEY", KEY).start().await
    }
}

fn clients() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../clients")
}

#[allow(clippy::disallowed_methods, reason = "finds the server where the test command put it")]
fn program(variable: &str) -> Command {
    let path = std::env::var_os(variable);
    Command::new(path.unwrap_or_else(|| panic!("{variable} is not set: run `cargo xtask test --all`")))
}

async fn hello(product: &Product) -> Value {
    let api = product.api();
    api.completed(e2e_tests::api::id(&api.submit(json!({ "prompt": "Please say hello" })).await)).await
}

#[tokio::test]
#[ignore = "fetches 0.7 GB of LiteLLM: `cargo xtask test --all` does"]
async fn the_same_text_task_runs_against_aimock_and_a_litellm_proxy() {
    let (aimock, litellm) = (Gateway::aimock().await, Gateway::litellm().await);
    for gateway in [&aimock, &litellm] {
        let product = gateway.product().await;
        let task = hello(&product).await;
        assert_eq!(
            (&task["result"], &task["details"]["incomplete"]),
            (&json!(HELLO), &json!(false)),
            "{task}"
        );
        assert!(
            task["details"]["usage"]["output_tokens"].as_u64().is_some_and(|tokens| tokens > 0),
            "{task}"
        );
    }
    // What goes wrong there is told apart here as it is with others.
    let product = litellm.product().await;
    let api = product.api();
    for (model, code) in [("too-long", "context_length_exceeded"), ("broken", "internal_server_error")] {
        let body = json!({ "prompt": "Hi", "model": model, "max_attempts": 1 });
        let task = api.ended(e2e_tests::api::id(&api.submit(body).await)).await;
        assert_eq!((&task["status"], &task["error"]["code"]), (&json!("FAILED"), &json!(code)), "{task}");
    }
    let body = json!({ "prompt": "Hi", "model": "too-much", "max_attempts": 1 });
    let limited = e2e_tests::api::id(&api.submit(body).await);
    let waits = api.becomes(limited, "put off", |task| task["status"] == "SCHEDULED").await;
    assert_eq!(waits["attempt"], 1, "a rate costs no attempt: {waits}");
}
