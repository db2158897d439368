//! The table of provider errors (docs/ai.md), each row from the call to the attempt budget: how often the provider is
//! asked, how the task ends, and how many attempts are charged.

use e2e_tests::{Base, Product, Provider, Reply, api, on_both_bases};
use serde_json::{Value, json};

on_both_bases!(each_class_of_error_costs_the_calls_and_attempts_that_the_table_says);

/// A row, by the prompt that brings it about.
struct Row {
    prompt: &'static str,
    replies: Vec<Reply>,
    /// How many attempts may fail.
    attempts: i64,
    status: &'static str,
    code: Option<&'static str>,
    calls: usize,
    charged: usize,
}

fn status(status: &'static str, code: &str, message: &str) -> Reply {
    limited(status, vec![], code, message)
}

fn limited(
    status: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    code: &str,
    message: &str,
) -> Reply {
    let body = json!({ "error": { "message": message, "type": null, "code": code } }).to_string();
    Reply::Plain { status, headers, body }
}

fn ending(words: &[&'static str], events: &[&str]) -> Reply {
    Reply::Ending(words.to_vec(), events.iter().map(|event| (*event).to_owned()).collect())
}

fn fails(prompt: &'static str, reply: Reply, code: &'static str) -> Row {
    let (status, code) = ("FAILED", Some(code));
    Row { prompt, replies: vec![reply], attempts: 2, status, code, calls: 1, charged: 1 }
}

fn is_retried(prompt: &'static str, reply: Reply, code: &'static str) -> Row {
    Row { calls: 2, charged: 2, ..fails(prompt, reply, code) }
}

fn passes(prompt: &'static str, replies: Vec<Reply>) -> Row {
    let calls = replies.len();
    Row { prompt, replies, attempts: 1, status: "COMPLETED", code: None, calls, charged: 0 }
}

fn table() -> Vec<Row> {
    const STOP: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    const RATE: &str = r#"{"error":{"message":"slow down","code":"rate_limit_exceeded"}}"#;
    const SERVER: &str = r#"{"error":{"message":"broken","code":"server_error"}}"#;
    const LENGTH: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}"#;
    const FILTER: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"content_filter"}]}"#;
    const REFUSAL: &str = r#"{"choices":[{"index":0,"delta":{"refusal":"No."}}]}"#;
    let words = || Reply::Words(vec!["at ", "last"]);
    let phrase = "This model's maximum context length is 4096 tokens";
    let wait = || vec![("retry-after", "1")];
    vec![
        is_retried("408", status("408 Request Timeout", "", "x"), "http_408"),
        is_retried("409", status("409 Conflict", "", "x"), "http_409"),
        is_retried("500", status("500 Internal Server Error", "", "x"), "http_500"),
        is_retried("529", status("529 Overloaded", "", "x"), "http_529"),
        passes("429 rate limit", vec![limited("429 x", wait(), "rate_limit_exceeded", "slow down"), words()]),
        fails("429 quota", limited("429 x", wait(), "insufficient_quota", "pay"), "insufficient_quota"),
        fails(
            "429 credit",
            limited("429 x", wait(), "credit_balance_exhausted", "pay"),
            "credit_balance_exhausted",
        ),
        fails(
            "400 context",
            status("400 Bad Request", "context_length_exceeded", "x"),
            "context_length_exceeded",
        ),
        fails("400 phrase", status("400 Bad Request", "400", phrase), "context_length_exceeded"),
        fails("413", status("413 x", "", "x"), "http_413"),
        fails("400", status("400 Bad Request", "", "x"), "http_400"),
        fails("401", status("401 Unauthorized", "invalid_api_key", "x"), "invalid_api_key"),
        fails("403", status("403 Forbidden", "", "x"), "http_403"),
        fails("404", status("404 Not Found", "model_not_found", "x"), "model_not_found"),
        passes("length", vec![ending(&["cut"], &[LENGTH, "[DONE]"])]),
        fails("filter", ending(&["so"], &[FILTER, "[DONE]"]), "content_filter"),
        fails("refusal", ending(&[], &[REFUSAL, STOP, "[DONE]"]), "refusal"),
        passes("200, then a rate limit", vec![ending(&["so"], &[RATE]), words()]),
        is_retried("200, then an error", ending(&["so"], &[SERVER]), "server_error"),
        is_retried("cut", Reply::Cut(vec!["so "]), "truncated"),
        is_retried("no finish reason", ending(&["so"], &["[DONE]"]), "truncated"),
        is_retried(
            "empty",
            Reply::Plain { status: "200 OK", headers: vec![], body: String::new() },
            "truncated",
        ),
    ]
}

async fn each_class_of_error_costs_the_calls_and_attempts_that_the_table_says(base: Base) {
    let rows = table();
    let replies = rows.iter().map(|row| (row.prompt, row.replies.clone())).collect();
    let mut provider = Provider::by_prompt(replies).await;
    let product = base.setup().set("OPENAI_BASE_URL", &provider.base_url()).start().await;
    let api = product.api();
    let mut tasks = Vec::new();
    for row in rows {
        // A model for each row: a rate limit holds for its model.
        let body = json!({ "prompt": row.prompt, "model": row.prompt, "max_attempts": row.attempts });
        let id = api::id(&api.submit(body).await);
        tasks.push((row, id));
    }
    let mut seen = Vec::new();
    for (row, id) in &tasks {
        check(&product, row, *id).await;
        seen.extend(provider.prompts());
    }
    for (row, _) in &tasks {
        let calls = seen.iter().filter(|prompt| *prompt == row.prompt).count();
        assert_eq!(calls, row.calls, "{}: calls of the provider", row.prompt);
    }
}

async fn check(product: &Product, row: &Row, id: i64) {
    let api = product.api();
    let task = api.ended(id).await;
    assert_eq!(task["status"], row.status, "{}: {task}", row.prompt);
    let code = row.code.map_or(Value::Null, |code| json!(code));
    assert_eq!(task["error"]["code"], code, "{}: {task}", row.prompt);
    let charged = api.outcomes(id).await.iter().filter(|outcome| *outcome == "FAILED").count();
    assert_eq!(charged, row.charged, "{}: attempts that are charged", row.prompt);
    if row.prompt == "length" {
        assert_eq!(
            (&task["details"]["incomplete"], &task["result"]),
            (&json!(true), &json!("cut")),
            "{task}"
        );
    }
}
