//! Bad input is the caller's, is named precisely, and never the server's failure.

use e2e_tests::{Answer, Base, on_both_bases};
use reqwest::Method;
use serde_json::{Value, json};

on_both_bases!(
    every_bad_submission_is_a_precise_problem,
    every_bad_request_is_a_precise_problem,
    numbers_and_texts_at_the_edge_are_kept_exactly,
);

/// Checks the shape of a failure; the fields that it blames.
fn blamed(what: &str, answer: &Answer, status: u16) -> Vec<String> {
    assert_eq!(answer.status, status, "{what}: {}", answer.body);
    assert_eq!(answer.header("content-type"), "application/problem+json", "{what}");
    let problem = &answer.body;
    assert_eq!(problem["status"], status, "{what}: {problem}");
    for field in ["type", "title", "detail"] {
        assert!(
            problem[field].as_str().is_some_and(|text| !text.is_empty()),
            "{what}: no {field} in {problem}"
        );
    }
    let errors = problem["errors"].as_array().unwrap_or_else(|| panic!("{what}: no errors in {problem}"));
    errors.iter().map(|error| error["field"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn every_bad_submission_is_a_precise_problem(base: Base) {
    let product = base.start().await;
    let api = product.api();
    for (body, fields) in [
        ("{}", vec!["prompt"]),
        (r#"{"prompt":""}"#, vec!["prompt"]),
        (r#"{"prompt":7}"#, vec!["prompt"]),
        (r#"{"prompt":"a\u0000b"}"#, vec!["prompt"]),
        (r#"{"prompt":"x","priority":10}"#, vec!["priority"]),
        (r#"{"prompt":"x","priority":-1}"#, vec!["priority"]),
        (r#"{"prompt":"x","priority":"high"}"#, vec!["priority"]),
        (r#"{"prompt":"x","priority":1e99}"#, vec!["priority"]),
        (
            r#"{"prompt":"x","priority":10,"qeue":"a","max_attempts":0}"#,
            vec!["priority", "max_attempts", "qeue"],
        ),
        (r#"{"prompt":"x","model":""}"#, vec!["model"]),
        (r#"{"prompt":"x","queue":"no spaces"}"#, vec!["queue"]),
        (r#"{"prompt":"x","queue":""}"#, vec!["queue"]),
        (r#"{"prompt":"x","run_at":"tomorrow"}"#, vec!["run_at"]),
        (r#"{"prompt":"x","run_at":"+12345-01-01T00:00:00Z"}"#, vec!["run_at"]),
        (r#"{"prompt":"x","delay_seconds":-1}"#, vec!["delay_seconds"]),
        (r#"{"prompt":"x","delay_seconds":1e300}"#, vec!["delay_seconds"]),
        (r#"{"prompt":"x","expires_at":3}"#, vec!["expires_at"]),
        (r#"{"prompt":"x","max_attempts":101}"#, vec!["max_attempts"]),
        (r#"{"prompt":"x","time_limit_seconds":0}"#, vec!["time_limit_seconds"]),
        (
            r#"{"prompt":"x","time_limit_seconds":1,"soft_time_limit_seconds":2}"#,
            vec!["soft_time_limit_seconds"],
        ),
        (r#"{"prompt":"x","metadata":[1]}"#, vec!["metadata"]),
        (r#"{"prompt":"x","metadata":{"a":"\u0000"}}"#, vec!["metadata"]),
        (r#"{"type":"demo.nothing"}"#, vec!["type"]),
        (r#"{"type":"demo.echo","input":"\u0000"}"#, vec!["input"]),
        (r#"{"type":"demo.sleep","input":{"seconds":"long"}}"#, vec!["input"]),
        (r#"{"type":"demo.sleep","input":{"second":1}}"#, vec!["input"]),
        (r#"{"type":"demo.simple_calculation","input":{"x":1,"y":2,"operation":"guess"}}"#, vec!["input"]),
        (r#"{"prompt":"x","type":"demo.echo"}"#, vec!["prompt"]),
        ("[]", vec!["body"]),
        ("7", vec!["body"]),
        ("null", vec!["body"]),
    ] {
        let answer = api
            .send_raw(Method::POST, "/tasks", &[("content-type", "application/json")], body.as_bytes())
            .await;
        assert_eq!(blamed(body, &answer, 422), fields, "{body}: {}", answer.body);
    }
    let deep = "[".repeat(100_000);
    for body in [
        &b""[..],
        b"{",
        b"{\"prompt\":\"x\"} trailing",
        b"\xff\xfe",
        b"{\"prompt\":\"\xc3\x28\"}",
        deep.as_bytes(),
    ] {
        let answer =
            api.send_raw(Method::POST, "/tasks", &[("content-type", "application/json")], body).await;
        let what = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        assert!(matches!(answer.status.as_u16(), 400 | 422), "{what:?}: {} {}", answer.status, answer.body);
        blamed(&what, &answer, answer.status.as_u16());
    }
    let stats = api.get("/stats").await;
    assert_eq!(stats["queues"], json!([]), "nothing was submitted");
}

async fn every_bad_request_is_a_precise_problem(base: Base) {
    let product = base.start().await;
    let api = product.api();
    for (method, path, status, fields) in [
        ("GET", "/tasks/999999", 404, vec![]),
        ("GET", "/tasks/0", 404, vec![]),
        ("GET", "/tasks/-1", 404, vec![]),
        ("GET", "/tasks/99999999999999999999", 422, vec!["id"]),
        ("GET", "/tasks/abc", 422, vec!["id"]),
        ("GET", "/tasks/1%00", 422, vec!["id"]),
        ("GET", "/tasks?limit=0", 422, vec!["limit"]),
        ("GET", "/tasks?limit=501", 422, vec!["limit"]),
        ("GET", "/tasks?limit=many", 422, vec!["limit"]),
        ("GET", "/tasks?status=happy", 422, vec!["status"]),
        ("GET", "/tasks?cursor=abc", 422, vec!["cursor"]),
        ("GET", "/tasks?type=no%20spaces", 422, vec!["type"]),
        ("GET", "/tasks?queue=%00", 422, vec!["queue"]),
        ("GET", "/tasks/1?wait=forever", 422, vec!["wait"]),
        ("GET", "/tasks/1?wait=61s", 422, vec!["wait"]),
        ("GET", "/tasks/1/events?starting_after=x", 422, vec!["starting_after"]),
        ("GET", "/tasks/999999/events", 404, vec![]),
        ("GET", "/tasks/999999/attempts", 404, vec![]),
        ("POST", "/tasks/999999/cancel", 404, vec![]),
        ("DELETE", "/tasks/999999", 404, vec![]),
        ("GET", "/nothing/here", 404, vec![]),
        ("PUT", "/tasks", 405, vec![]),
        ("DELETE", "/health", 405, vec![]),
    ] {
        let answer = api.send(method.parse().expect("a method"), path, None).await;
        assert_eq!(
            blamed(&format!("{method} {path}"), &answer, status),
            fields,
            "{method} {path}: {}",
            answer.body
        );
    }
    let answer = api.send(Method::PUT, "/tasks", None).await;
    assert!(answer.header("allow").contains("POST"), "Allow is {:?}", answer.header("allow"));

    let answer = api.send_raw(Method::GET, "/health", &[("host", "rebound.example")], b"").await;
    blamed("another host", &answer, 403);
    // Last, because the server closes the connection of a body that it does not read.
    let huge = json!({ "prompt": "x".repeat(2_000_000) });
    let answer = api.send(Method::POST, "/tasks", Some(&huge)).await;
    blamed("2 MB", &answer, 413);
}

async fn numbers_and_texts_at_the_edge_are_kept_exactly(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let input = r#"{"big":12345678901234567890123,"small":1e-400,"text":"\ud83d\ude00 \u2028","dup":1, "spaces" : [ ] }"#;
    let body = format!(r#"{{"type":"demo.echo","input":{input},"metadata":{{"mine":true}}}}"#);
    let answer = api.send_raw(Method::POST, "/tasks", &[], body.as_bytes()).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    api.completed(1).await;
    let text = reqwest::Client::new().get(format!("{}/tasks/1", api.url)).send().await.expect("an answer");
    let text = text.text().await.expect("text");
    assert!(text.contains(&format!("\"result\":{input}")), "{text}");
    assert!(text.contains(&format!("\"input\":{input}")), "{text}");
    let nulls: Value = json!({
        "prompt": "x", "model": null, "priority": null, "queue": null, "run_at": null, "delay_seconds": null,
        "expires_at": null, "max_attempts": null, "soft_time_limit_seconds": null, "time_limit_seconds": null,
        "metadata": null, "type": null, "input": null,
    });
    let task = api.submit(nulls).await;
    assert_eq!(
        (&task["model"], &task["priority"]),
        (&json!("gpt-3.5-turbo"), &json!(5)),
        "null counts as absent"
    );
    assert_eq!(task["max_attempts"], 4);
}
