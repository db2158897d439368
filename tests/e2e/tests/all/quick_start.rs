//! What a newcomer does, with the README in hand.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use e2e_tests::{Api, Base, PATIENCE, on_both_bases};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

on_both_bases!(
    the_lines_of_the_readme_do_what_they_say,
    json_without_a_json_content_type_is_read_when_it_is_not_cross_site,
    wait_answers_as_soon_as_the_task_has_ended,
    the_document_and_its_page_are_served,
);

/// The `curl` lines of the README's first steps, in order, pointed at this server.
fn readme_lines(api: &Api) -> Vec<String> {
    let readme = include_str!("../../../../README.md").replace("\\\n", " ");
    let server = api.server.replace("127.0.0.1", "localhost");
    readme
        .lines()
        .filter(|line| line.starts_with("curl "))
        .map(|line| line.replace("http://localhost:8000", &server))
        .collect()
}

/// Runs a line as a person would. Standard output of the line.
async fn shell(line: &str) -> String {
    let mut command = Command::new("sh");
    command.args(["-c", line]).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = tokio::process::Command::from(command).kill_on_drop(true).output();
    let output =
        tokio::time::timeout(PATIENCE, output).await.expect("the line ends").expect("there is a shell");
    assert!(output.status.success(), "{line}: {}; these tests need curl", output.status);
    String::from_utf8(output.stdout).expect("text")
}

async fn the_lines_of_the_readme_do_what_they_say(base: Base) {
    let product = base.setup().set("SIMULATED_LATENCY", "1s").start().await;
    let api = product.api();
    let lines = readme_lines(&api);
    let [submit, read, watch, health] = lines.as_slice() else {
        panic!("other lines than expected: {lines:?}")
    };

    let submitted: Value = serde_json::from_str(&shell(submit).await).expect("JSON");
    for (field, value) in [
        ("id", json!(1)),
        ("prompt", json!("Explain quantum computing")),
        ("model", json!("gpt-3.5-turbo")),
        ("priority", json!(5)),
        ("status", json!("PENDING")),
        ("result", Value::Null),
        ("updated_at", Value::Null),
    ] {
        assert_eq!(submitted[field], value, "{field} of {submitted}");
    }
    api.reaches(1, "PROCESSING").await;
    let read_so_far: Value = serde_json::from_str(&shell(read).await).expect("JSON");
    assert_eq!((&read_so_far["status"], &read_so_far["id"]), (&json!("PROCESSING"), &json!(1)));

    let watched = shell(watch).await;
    assert!(watched.contains("event: chunk") && watched.trim_end().ends_with('}'), "{watched}");
    assert!(watched.contains(r#""status":"COMPLETED""#), "{watched}");

    let task: Value = serde_json::from_str(&shell(read).await).expect("JSON");
    assert_eq!(task["status"], "COMPLETED", "{task}");
    assert!(task["result"].as_str().is_some_and(|text| text.contains("quantum computing")), "{task}");
    assert!(task["processing_time"].as_f64().is_some_and(|seconds| (0.9..10.0).contains(&seconds)), "{task}");
    for field in ["created_at", "updated_at", "started_at", "completed_at"] {
        assert!(task[field].as_str().is_some_and(|time| time.ends_with('Z')), "{field} of {task}");
    }

    let health: Value = serde_json::from_str(&shell(health).await).expect("JSON");
    assert_eq!(health["status"], "healthy", "{health}");
    assert_eq!(health["app_name"], "Async AI Task Runner");
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    assert!(health["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{health}");
    let dependencies = match base {
        Base::Sqlite => json!([{ "name": "sqlite", "status": "healthy", "error": null }]),
        Base::PostgresAndRedis => json!([
            { "name": "postgresql", "status": "healthy", "error": null },
            { "name": "redis", "status": "healthy", "error": null },
        ]),
    };
    assert_eq!(health["dependencies"], dependencies);
}

async fn json_without_a_json_content_type_is_read_when_it_is_not_cross_site(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let body = br#"{"prompt": "Hi"}"#;
    let plain = shell(&format!("curl -s -d '{{\"prompt\": \"Hi\"}}' {}/tasks", api.url)).await;
    assert!(plain.contains(r#""id":1"#), "{plain}");

    let own = api.server.clone();
    for headers in [
        vec![],
        vec![("content-type", "text/plain;charset=UTF-8")],
        vec![("content-type", "text/plain"), ("origin", &*own)],
        vec![("content-type", "text/plain"), ("sec-fetch-site", "same-origin"), ("origin", &*own)],
    ] {
        let answer = api.send_raw(Method::POST, "/tasks", &headers, body).await;
        assert_eq!(answer.status, 201, "{headers:?}: {}", answer.body);
    }
    for headers in [
        vec![("content-type", "text/plain"), ("origin", "http://elsewhere.example")],
        vec![("content-type", "text/plain"), ("origin", "null")],
        vec![("content-type", "text/plain"), ("sec-fetch-site", "cross-site")],
        vec![("content-type", "application/xml")],
    ] {
        let answer = api.send_raw(Method::POST, "/tasks", &headers, body).await;
        assert_eq!(answer.status, 415, "{headers:?}: {}", answer.body);
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert!(answer.body["detail"].as_str().is_some_and(|text| text.contains("Content-Type")));
    }
}

async fn wait_answers_as_soon_as_the_task_has_ended(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let id = api.submit_type("demo.sleep", json!({ "seconds": 0.7 })).await;
    let asked = Instant::now();
    let early = api.get(&format!("/tasks/{id}?wait=100ms")).await;
    assert!(matches!(early["status"].as_str(), Some("PENDING" | "PROCESSING")), "{early}");
    assert!(asked.elapsed() >= Duration::from_millis(100), "it waited for {:?}", asked.elapsed());

    let task = api.get(&format!("/tasks/{id}?wait=10s")).await;
    assert_eq!(task["status"], "COMPLETED", "{task}");
    assert!(asked.elapsed() < Duration::from_secs(4), "it took {:?}", asked.elapsed());
    let asked = Instant::now();
    api.get(&format!("/tasks/{id}?wait=10s")).await;
    assert!(asked.elapsed() < Duration::from_secs(2), "an ended task is not waited for");
}

async fn the_document_and_its_page_are_served(base: Base) {
    let product = base.start().await;
    let root = product.api().root();
    let document = root.get("/openapi.json").await;
    let checked_in: Value = serde_json::from_str(include_str!("../../../../docs/openapi.json"))
        .expect("docs/openapi.json is JSON");
    assert_eq!(document, checked_in, "docs/openapi.json is stale: cargo xtask openapi");
    let page = shell(&format!("curl -s {}/docs", root.server)).await;
    assert!(page.contains("swagger-ui") && page.contains("submit_task"), "{} bytes", page.len());
    // Served without the internet.
    assert!(!page.contains("src=\"http") && !page.contains("href=\"http"), "the page reaches outside");
}
