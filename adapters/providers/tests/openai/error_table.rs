//! One test for each row of the table of errors (see the guide to providers): the signal, and what it means.

use std::time::Duration;

use application::ports::{FinishReason, GenerationEvent};
use domain::ErrorClass::{Permanent, RateLimited, Transient};

use crate::stub::{CHUNKED, DONE, ROLE, SSE, STOP, Stub, answer, ask, generator, http_chunk, patient, token};

fn error_body(code: &str) -> String {
    format!(r#"{{"error":{{"message":"the reason","type":"some_type","param":null,"code":"{code}"}}}}"#)
}

#[tokio::test]
async fn connect_errors_are_retried_and_bill_nothing() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = ask(&generator(&format!("http://{free}/v1"), patient())).await.error();
    assert_eq!((error.class, error.code.as_str(), error.billed), (Transient, "connect_failed", false));
    assert!(error.message.starts_with("the provider cannot be reached: "), "{}", error.message);
    assert!(error.message.contains("refused"), "the cause is told: {}", error.message);
}

#[tokio::test]
async fn a_connection_cut_before_the_answer_is_retried() {
    let stub = Stub::answering("").await;
    let error = stub.ask().await.error();
    assert_eq!((error.class, error.code.as_str(), error.billed), (Transient, "connection_lost", true));
}

#[tokio::test]
async fn status_408_409_5xx_and_529_are_retried() {
    for status in [408, 409, 500, 501, 502, 503, 504, 520, 524, 529, 599] {
        let error = Stub::answering(answer(&format!("{status} x"), "", "{}")).await.ask().await.error();
        assert_eq!((error.class, error.code), (Transient, format!("http_{status}")));
    }
}

#[tokio::test]
async fn a_503_may_say_when() {
    let stub = Stub::answering(answer("503 x", "retry-after: 3\r\n", &error_body("overloaded"))).await;
    let error = stub.ask().await.error();
    assert_eq!((error.class, error.code.as_str()), (Transient, "overloaded"));
    assert_eq!(error.retry_after, Some(Duration::from_secs(3)));
}

#[tokio::test]
async fn status_429_rate_limit_exceeded_waits_for_retry_after() {
    let date = "date: Wed, 21 Oct 2015 07:28:00 GMT\r\nretry-after: Wed, 21 Oct 2015 07:28:20 GMT\r\n";
    for (headers, wait) in [
        ("retry-after-ms: 1500\r\nretry-after: 2\r\n", Some(1_500)),
        ("retry-after: 2\r\n", Some(2_000)),
        ("Retry-After: 0.5\r\n", Some(500)),
        (date, Some(20_000)),
        ("", None),
    ] {
        let stub = Stub::answering(answer("429 x", headers, &error_body("rate_limit_exceeded"))).await;
        let error = stub.ask().await.error();
        assert_eq!(
            (error.class, error.code.as_str(), error.billed),
            (RateLimited, "rate_limit_exceeded", false)
        );
        assert_eq!(error.retry_after, wait.map(Duration::from_millis), "{headers}");
    }
}

#[tokio::test]
async fn status_429_without_credit_is_final_even_with_a_retry_after() {
    for code in ["insufficient_quota", "credit_balance_exhausted"] {
        let stub = Stub::answering(answer("429 x", "retry-after: 2\r\n", &error_body(code))).await;
        let error = stub.ask().await.error();
        assert_eq!((error.class, error.code.as_str(), error.retry_after), (Permanent, code, None));
        assert!(!error.billed);
    }
}

#[tokio::test]
async fn status_400_context_length_exceeded_is_final_with_the_code_or_only_the_phrase() {
    let phrase = r#"{"error":{"message":"This model's maximum context length is 4096 tokens","type":null,"code":"400"}}"#;
    for body in [&error_body("context_length_exceeded"), phrase] {
        let error = Stub::answering(answer("400 x", "", body)).await.ask().await.error();
        assert_eq!((error.class, error.code.as_str()), (Permanent, "context_length_exceeded"));
    }
}

#[tokio::test]
async fn status_400_401_403_404_and_413_are_final() {
    for status in [400, 401, 403, 404, 413] {
        let stub = Stub::answering(answer(&format!("{status} x"), "", &error_body("its_own_code"))).await;
        let error = stub.ask().await.error();
        assert_eq!((error.class, error.code.as_str(), error.billed), (Permanent, "its_own_code", false));
        assert!(error.message.contains("the reason"), "{}", error.message);
    }
}

#[tokio::test]
async fn finish_reason_length_is_a_success_marked_incomplete() {
    let stub = Stub::answering([SSE, &token("cut"), &STOP.replace("stop", "length"), DONE].concat()).await;
    let outcome = stub.ask().await;
    assert_eq!(outcome.text(), "cut");
    let end = outcome.end.unwrap();
    assert!(matches!(end, GenerationEvent::Finished { reason: FinishReason::Length, .. }), "{end:?}");
}

#[tokio::test]
async fn content_filter_and_refusal_are_final_with_their_own_codes() {
    let filtered = [SSE, &token("so"), &STOP.replace("stop", "content_filter"), DONE].concat();
    let error = Stub::answering(filtered).await.ask().await.error();
    assert_eq!((error.class, error.code.as_str(), error.billed), (Permanent, "content_filter", true));

    let refusal = "data: {\"choices\":[{\"delta\":{\"refusal\":\"No.\"}}]}\n\n";
    let error = Stub::answering([SSE, refusal, STOP, DONE].concat()).await.ask().await.error();
    assert_eq!((error.class, error.code.as_str(), error.billed), (Permanent, "refusal", true));
    assert!(error.message.contains("No."), "{}", error.message);

    let error = Stub::answering(answer("400 x", "", &error_body("content_filter"))).await.ask().await.error();
    assert_eq!((error.class, error.code.as_str(), error.billed), (Permanent, "content_filter", true));
}

#[tokio::test]
async fn an_error_inside_a_200_stream_goes_by_its_code() {
    for (code, class) in [
        ("rate_limit_exceeded", RateLimited),
        ("insufficient_quota", Permanent),
        ("context_length_exceeded", Permanent),
        ("server_error", Transient),
    ] {
        let event = format!("data: {}\n\n", error_body(code));
        let outcome = Stub::answering([SSE, &token("Hel"), &event, DONE].concat()).await.ask().await;
        assert_eq!(outcome.text(), "Hel", "what came before is kept");
        let error = outcome.error();
        assert_eq!((error.class, error.code.as_str(), error.billed), (class, code, true));
    }
}

#[tokio::test]
async fn an_end_without_a_finish_reason_is_truncated_and_retried() {
    let cut_inside_an_event = &token("lo")[..30];
    for stream in [
        [SSE, &token("Hel")].concat(),
        [SSE, &token("Hel"), DONE].concat(),
        [SSE, &token("Hel"), cut_inside_an_event].concat(),
        // Without the last chunk of length zero: cut, and not ended.
        [CHUNKED, &http_chunk(&token("Hel"))].concat(),
        [CHUNKED, &http_chunk(&token("Hel")), "ff\r\ndata: {"].concat(),
    ] {
        let outcome = Stub::answering(stream.clone()).await.ask().await;
        assert_eq!(outcome.text(), "Hel", "{stream}");
        let error = outcome.error();
        assert_eq!(
            (error.class, error.code.as_str(), error.billed),
            (Transient, "truncated", true),
            "{stream}"
        );
    }
}

#[tokio::test]
async fn a_200_with_an_empty_body_is_truncated_and_retried() {
    for response in [
        SSE.to_owned(),
        answer("200 OK", "", ""),
        answer("200 OK", "", " \r\n"),
        answer("204 No Content", "", ""),
        [SSE, ROLE].concat(),
        [SSE, ": ping\n\n"].concat(),
    ] {
        let error = Stub::answering(response.clone()).await.ask().await.error();
        assert_eq!(
            (error.class, error.code.as_str(), error.billed),
            (Transient, "truncated", true),
            "{response}"
        );
    }
}
