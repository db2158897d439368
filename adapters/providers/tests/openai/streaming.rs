//! What is asked, and how answers of every form are read.

use application::ports::{FinishReason, GenerationEvent, TextGenerator, Usage};
use domain::ErrorClass::{Permanent, Transient};
use providers_adapter::ProviderTimeouts;
use std::time::Duration;

use crate::stub::{
    CHUNKED, DONE, KEY, Noticed, ROLE, SSE, STOP, Stub, USAGE, answer, ask, endless, generator, http_chunk,
    patient, request, token,
};

#[tokio::test]
async fn the_request_is_streamed_authorised_and_named() {
    let mut stub = Stub::answering([SSE, &token("Hi"), STOP, USAGE, DONE].concat()).await;
    stub.ask().await.end.unwrap();
    let Noticed::Request { head, body } = stub.noticed().await else { panic!("a request comes first") };
    assert!(head.starts_with("post /v1/chat/completions http/1.1\r\n"), "{head}");
    for header in [
        &format!("authorization: bearer {KEY}"),
        "content-type: application/json",
        "accept: text/event-stream",
        "x-client-request-id: task-17",
    ] {
        assert!(head.lines().any(|line| line == header), "{header} is not in {head}");
    }
    let expected = serde_json::json!({
        "model": "gpt-test",
        "messages": [{ "role": "user", "content": "Say hello" }],
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn chunks_come_as_they_were_sent_and_the_usage_is_the_providers() {
    let stub = Stub::answering([SSE, ROLE, &token("Hel"), &token("lo"), STOP, USAGE, DONE].concat()).await;
    let outcome = stub.ask().await;
    assert_eq!(outcome.chunks, ["Hel", "lo"]);
    let expected = GenerationEvent::Finished {
        reason: FinishReason::Stop,
        usage: Usage { input_tokens: 9, output_tokens: 3, estimated: false },
        model: Some("gpt-test".to_owned()),
    };
    assert_eq!(outcome.end, Ok(expected));
}

#[tokio::test]
async fn tool_calls_come_whole_before_the_end() {
    let piece = |calls: serde_json::Value| {
        let chunk = serde_json::json!({ "choices": [{ "index": 0, "delta": { "tool_calls": calls } }] });
        format!("data: {chunk}\n\n")
    };
    let stream = [
        SSE,
        &piece(
            serde_json::json!([{ "index": 0, "id": "c1", "type": "function", "function": { "name": "f", "arguments": "{\"a\"" } }]),
        ),
        &piece(
            serde_json::json!([{ "index": 0, "function": { "arguments": ":1}" } }, { "index": 1, "id": "c2", "function": { "name": "g", "arguments": "{}" } }]),
        ),
        &STOP.replace("stop", "tool_calls"),
        USAGE,
        DONE,
    ];
    let outcome = Stub::answering(stream.concat()).await.ask().await;
    let expected = serde_json::json!([
        { "id": "c1", "type": "function", "function": { "name": "f", "arguments": "{\"a\":1}" } },
        { "id": "c2", "type": "function", "function": { "name": "g", "arguments": "{}" } },
    ]);
    assert_eq!(serde_json::Value::Array(outcome.tool_calls), expected);
    let end = outcome.end.unwrap();
    assert!(
        matches!(&end, GenerationEvent::Finished { reason: FinishReason::Other(why), .. } if why == "tool_calls"),
        "{end:?}"
    );
}

#[tokio::test]
async fn a_missing_usage_is_estimated_and_said_so() {
    let outcome = Stub::answering([SSE, &token("Hello"), STOP, DONE].concat()).await.ask().await;
    let GenerationEvent::Finished { usage, .. } = outcome.end.unwrap() else { panic!("it finished") };
    assert_eq!(usage, Usage { input_tokens: 3, output_tokens: 2, estimated: true });
}

#[tokio::test]
async fn characters_split_between_packets_are_whole() {
    let stream = [&token("Grüße 🦀"), STOP, DONE].concat().into_bytes();
    let stub = Stub::start(move |mut connection| {
        let stream = stream.clone();
        async move {
            connection.request().await?;
            connection.send(CHUNKED).await?;
            // Each byte in a chunk of its own: whatever the kernel joins, the client sees every cut.
            for byte in stream {
                connection.send(&[&b"1\r\n"[..], &[byte], b"\r\n"].concat()).await?;
            }
            connection.send("0\r\n\r\n").await?;
            connection.finish().await
        }
    })
    .await;
    let outcome = stub.ask().await;
    assert_eq!(outcome.text(), "Grüße 🦀");
    assert!(outcome.end.is_ok());
}

#[tokio::test]
async fn comments_carriage_returns_and_a_byte_order_mark_do_no_harm() {
    let stream =
        ["\u{feff}: hello\n\n", ROLE, ": ping\n\n", &token("Hi"), "event: ping\ndata: {}\n\n", STOP, DONE];
    let stream = stream.concat().replace('\n', "\r\n");
    let outcome = Stub::answering([SSE, &stream].concat()).await.ask().await;
    assert_eq!(outcome.text(), "Hi");
    assert!(outcome.end.is_ok(), "{:?}", outcome.end);
}

#[tokio::test]
async fn a_server_that_does_not_stream_is_understood() {
    let body = r#"{"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#;
    for content_type in ["application/json", "text/event-stream"] {
        let headers = format!("content-type: {content_type}\r\n");
        let outcome = Stub::answering(answer("200 OK", &headers, body)).await.ask().await;
        assert_eq!(outcome.chunks, ["Hi"]);
        let GenerationEvent::Finished { usage, .. } = outcome.end.unwrap() else { panic!("it finished") };
        assert_eq!(usage, Usage { input_tokens: 9, output_tokens: 3, estimated: false });
    }
    let cut = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}", &body[..60]);
    assert_eq!(Stub::answering(cut).await.ask().await.error().code, "truncated");
    let error = answer("200 OK", "", r#"{"error":{"message":"m","code":"insufficient_quota"}}"#);
    assert_eq!(Stub::answering(error).await.ask().await.error().code, "insufficient_quota");
}

#[tokio::test]
async fn a_page_is_no_answer() {
    let stub = Stub::answering(answer("200 OK", "content-type: text/html\r\n", "<html>Log in</html>")).await;
    let error = stub.ask().await.error();
    assert_eq!((error.class, error.code.as_str()), (Transient, "invalid_response"));
    assert!(
        error.message.contains("Log in") && error.message.contains("check the base URL"),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let target = Stub::answering([SSE, &token("Hi"), STOP, DONE].concat()).await;
    let headers = format!("location: http://{}/v1/chat/completions\r\n", target.address);
    let stub = Stub::answering(answer("307 x", &headers, "")).await;
    let error = stub.ask().await.error();
    assert_eq!((error.class, error.code.as_str()), (Permanent, "http_307"));
    assert!(error.message.contains(&target.address.to_string()), "{}", error.message);
}

#[tokio::test]
async fn an_endless_error_body_is_read_in_part() {
    let mut stub = Stub::start(|mut connection| async move {
        connection.request().await?;
        connection.send("HTTP/1.1 500 x\r\nconnection: close\r\n\r\n").await?;
        while connection.send([b'x'; 8192]).await.is_ok() {}
        connection.closed().await
    })
    .await;
    // It is the size that ends the reading, and no time-out.
    let error = ask(&stub.generator_with(endless())).await.error();
    assert_eq!((error.class, error.code.as_str()), (Transient, "http_500"));
    stub.until(Noticed::Closed).await;
}

#[tokio::test]
async fn an_endless_line_is_refused() {
    let mut stub = Stub::start(|mut connection| async move {
        connection.request().await?;
        connection.send([SSE, &token("Hi"), "data: "].concat()).await?;
        while connection.send([b'x'; 8192]).await.is_ok() {}
        connection.closed().await
    })
    .await;
    let outcome = stub.ask().await;
    assert_eq!(outcome.text(), "Hi");
    let error = outcome.error();
    assert_eq!((error.class, error.code.as_str(), error.billed), (Permanent, "response_too_large", true));
    stub.until(Noticed::Closed).await;
}

#[tokio::test]
async fn the_key_is_in_no_message() {
    // Nor may its beginning remain where a message was cut: the cut goes through the key for some of these.
    for padding in [0, 780, 790, 800, 810, 820, 990] {
        let message = format!("{}{KEY}", "x".repeat(padding));
        let body = format!(r#"{{"error":{{"message":"{message}","code":"{KEY}"}}}}"#);
        let answered = answer("401 x", "x-request-id: req_7\r\n", &body);
        let error = Stub::answering(answered).await.ask().await.error();
        assert!(!error.code.contains(KEY), "{}", error.code);
        assert!(!error.message.contains("sk-test"), "{}", error.message);
        assert!(error.message.ends_with("[request req_7]"), "{}", error.message);
    }
    let event = format!("data: {{\"error\":{{\"message\":\"bad key {KEY}\"}}}}\n\n");
    let error = Stub::answering([SSE, &event].concat()).await.ask().await.error();
    assert!(error.message.contains("bad key [redacted]"), "{}", error.message);
    let generator = generator("http://localhost:1/v1?key=hidden", patient());
    assert_eq!(generator.describe(), "openai (http://localhost:1/v1)");
    assert!(!format!("{generator:?}").contains(KEY), "{generator:?}");
}

#[tokio::test]
async fn what_is_complete_stays_so_whatever_follows() {
    for rest in ["data: {\"error\":{\"message\":\"late\"}}\n\n", "data: {\"cho\n\n", "data: {\"cut"] {
        let outcome = Stub::answering([SSE, &token("Hi"), STOP, rest].concat()).await.ask().await;
        assert_eq!(outcome.text(), "Hi");
        assert!(outcome.end.is_ok(), "{rest}: {:?}", outcome.end);
    }
    let cut = [CHUNKED, &http_chunk(&[&token("Hi"), STOP].concat())].concat();
    assert!(Stub::answering(cut).await.ask().await.end.is_ok(), "a cut behind the finish reason");
}

#[tokio::test]
async fn a_usage_that_never_comes_does_not_hold_the_answer_back() {
    let stub = Stub::start(|mut connection| async move {
        connection.request().await?;
        connection.send([SSE, &token("Hi"), STOP].concat()).await?;
        connection.closed().await
    })
    .await;
    let short = ProviderTimeouts { idle: Duration::from_millis(50), ..patient() };
    for timeouts in [short, endless()] {
        let end = ask(&stub.generator_with(timeouts)).await.end;
        let usage = Usage { input_tokens: 3, output_tokens: 1, estimated: true };
        assert!(
            matches!(&end, Ok(GenerationEvent::Finished { usage: used, .. }) if *used == usage),
            "{end:?}"
        );
    }
}

#[tokio::test]
async fn connections_are_used_again_after_a_whole_answer() {
    let stream = [&token("Hi"), STOP, DONE].concat();
    let response = [CHUNKED, &http_chunk(&stream), "0\r\n\r\n"].concat();
    let mut stub = Stub::start(move |mut connection| {
        let response = response.clone();
        async move {
            connection.say("connected");
            loop {
                connection.request().await?;
                connection.send(&response).await?;
            }
        }
    })
    .await;
    let generator = stub.generator();
    for _ in 0..3 {
        assert!(ask(&generator).await.end.is_ok());
    }
    let mut connections = 0;
    let mut requests = 0;
    while requests < 3 {
        match stub.noticed().await {
            Noticed::Request { .. } => requests += 1,
            Noticed::Said("connected") => connections += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(connections < 3, "{connections} connections for 3 calls");
}

#[tokio::test]
async fn azure_is_asked_in_its_own_form() {
    let mut stub = Stub::answering([SSE, &token("Hi"), STOP, DONE].concat()).await;
    let base_url = format!("http://{}?api-version=2024-10-21", stub.address);
    let generation = generator(&base_url, patient()).generate(request()).await;
    assert!(generation.is_ok());
    let Noticed::Request { head, .. } = stub.noticed().await else { panic!("a request comes first") };
    let path = "post /openai/deployments/gpt-test/chat/completions?api-version=2024-10-21 http/1.1";
    assert_eq!(head.lines().next(), Some(path));
    assert!(head.lines().any(|line| line == format!("api-key: {KEY}")), "{head}");
    assert!(!head.contains("authorization"), "{head}");
}
