use std::time::Duration;

use ErrorClass::{Permanent, RateLimited, Transient};
use proptest::prelude::*;

use super::*;

fn answered(status: u16, body: &str) -> GeneratorError {
    Complaint::from_body(status, body.as_bytes()).judge(Some(Duration::from_secs(9)), false)
}

fn in_stream(data: &str) -> GeneratorError {
    let value = serde_json::from_str(data).unwrap();
    Complaint::in_stream(&value).unwrap().judge(None, false)
}

#[test]
fn errors_of_every_shape_are_read() {
    for (status, body, class, code) in [
        // OpenAI.
        (
            429,
            r#"{"error":{"message":"m","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#,
            RateLimited,
            "rate_limit_exceeded",
        ),
        (
            429,
            r#"{"error":{"message":"m","type":"insufficient_quota","code":"insufficient_quota"}}"#,
            Permanent,
            "insufficient_quota",
        ),
        (500, r#"{"error":{"message":"m","type":"server_error","code":null}}"#, Transient, "server_error"),
        (
            401,
            r#"{"error":{"message":"m","type":"invalid_request_error","code":"invalid_api_key"}}"#,
            Permanent,
            "invalid_api_key",
        ),
        // Azure.
        (
            400,
            r#"{"error":{"message":"m","code":"content_filter","innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#,
            Permanent,
            "content_filter",
        ),
        (
            400,
            r#"{"error":{"message":"m","code":null,"innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#,
            Permanent,
            "content_filter",
        ),
        (
            429,
            r#"{"error":{"code":"429","message":"Rate limit is exceeded."}}"#,
            RateLimited,
            "rate_limit_exceeded",
        ),
        // LiteLLM: names that are statuses or "None".
        (
            400,
            r#"{"error":{"message":"litellm.ContextWindowExceededError: m","type":"None","param":"None","code":"400"}}"#,
            Permanent,
            "context_length_exceeded",
        ),
        (
            429,
            r#"{"error":{"message":"litellm.RateLimitError: m","type":"throttling_error","code":"429"}}"#,
            RateLimited,
            "rate_limit_exceeded",
        ),
        (
            429,
            r#"{"error":{"message":"OpenAIException - {'code': 'insufficient_quota'}","type":"None","code":"429"}}"#,
            Permanent,
            "insufficient_quota",
        ),
        (503, r#"{"error":{"message":"m","type":"None","code":"503"}}"#, Transient, "http_503"),
        // vLLM, old and new; llama.cpp; Ollama; Gemini; FastAPI; a proxy's page; nothing.
        (
            400,
            r#"{"object":"error","message":"This model's maximum context length is 4096 tokens.","type":"BadRequestError","param":null,"code":400}"#,
            Permanent,
            "context_length_exceeded",
        ),
        (
            404,
            r#"{"object":"error","message":"The model `x` does not exist.","type":"NotFoundError","code":404}"#,
            Permanent,
            "NotFoundError",
        ),
        (
            400,
            r#"{"error":{"code":400,"message":"request exceeds the available context size","type":"exceed_context_size_error"}}"#,
            Permanent,
            "context_length_exceeded",
        ),
        (404, r#"{"error":"model 'x' not found"}"#, Permanent, "http_404"),
        (
            429,
            r#"[{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED"}}]"#,
            RateLimited,
            "RESOURCE_EXHAUSTED",
        ),
        (422, r#"{"detail":[{"loc":["body"],"msg":"field required"}]}"#, Permanent, "http_422"),
        (502, "<html><body>Bad gateway</body></html>", Transient, "http_502"),
        (500, "", Transient, "http_500"),
    ] {
        let error = answered(status, body);
        assert_eq!((error.class, error.code.as_str()), (class, code), "{status} {body}");
    }
}

#[test]
fn errors_in_a_stream_go_by_their_code() {
    for (data, class, code) in [
        (r#"{"error":{"message":"m","type":"server_error"}}"#, Transient, "server_error"),
        (r#"{"error":{"message":"m","code":"rate_limit_exceeded"}}"#, RateLimited, "rate_limit_exceeded"),
        (r#"{"error":{"message":"m","code":"insufficient_quota"}}"#, Permanent, "insufficient_quota"),
        (
            r#"{"error":{"message":"m","code":"context_length_exceeded"}}"#,
            Permanent,
            "context_length_exceeded",
        ),
        (r#"{"error":{"message":"m","type":"invalid_request_error"}}"#, Permanent, "invalid_request_error"),
        (r#"{"error":{"message":"m","code":502}}"#, Transient, "http_502"),
        (r#"{"error":{"message":"m","code":"429"}}"#, RateLimited, "rate_limit_exceeded"),
        (
            r#"{"object":"error","message":"m","type":"BadRequestError","code":400}"#,
            Permanent,
            "BadRequestError",
        ),
        (
            r#"{"choices":[{"error":{"code":502,"message":"m"},"finish_reason":"error"}]}"#,
            Transient,
            "http_502",
        ),
        (
            r#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#,
            Transient,
            "overloaded_error",
        ),
        (r#"{"error":"it broke"}"#, Transient, "provider_error"),
        (r#"{"error":{}}"#, Transient, "provider_error"),
    ] {
        let error = in_stream(data);
        assert_eq!((error.class, error.code.as_str()), (class, code), "{data}");
    }
}

#[test]
fn what_is_no_error_is_not_taken_for_one() {
    for data in [
        r#"{"choices":[{"delta":{"content":"error"}}]}"#,
        r#"{"error":null,"choices":[]}"#,
        r#"{"type":"ping"}"#,
        r#"{"choices":[{"error":null}]}"#,
        "[]",
        "3",
    ] {
        assert_eq!(Complaint::in_stream(&serde_json::from_str(data).unwrap()), None, "{data}");
    }
}

#[test]
fn a_request_above_the_whole_limit_never_passes_it() {
    let body = r#"{"error":{"message":"Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 30518.","type":"tokens","code":"rate_limit_exceeded"}}"#;
    let error = answered(429, body);
    assert_eq!((error.class, error.code.as_str(), error.retry_after), (Permanent, "request_too_large", None));
}

#[test]
fn a_rate_limit_code_does_not_overrule_a_final_status() {
    let body = r#"{"error":{"message":"m","type":"tokens","code":"rate_limit_exceeded"}}"#;
    assert_eq!(answered(413, body).class, Permanent);
}

#[test]
fn a_final_error_has_no_wait() {
    assert_eq!(answered(429, r#"{"error":{"code":"insufficient_quota"}}"#).retry_after, None);
    assert_eq!(answered(429, "{}").retry_after, Some(Duration::from_secs(9)));
    assert_eq!(answered(503, "{}").retry_after, Some(Duration::from_secs(9)));
}

#[test]
fn what_may_be_billed_is_said() {
    for (status, body, billed) in [
        (429, "{}", false),
        (400, "{}", false),
        (401, "{}", false),
        (400, r#"{"error":{"code":"content_filter"}}"#, true),
        (408, "{}", true),
        (500, "{}", true),
        (504, "{}", true),
        (409, "{}", false),
        (503, "{}", false),
        (529, "{}", false),
    ] {
        assert_eq!(answered(status, body).billed, billed, "{status} {body}");
    }
    assert!(Complaint::from_body(429, b"{}").judge(None, true).billed, "tokens had come");
}

#[test]
fn messages_say_what_was_answered_and_what_to_do() {
    let error =
        answered(401, r#"{"error":{"message":"Incorrect API key provided","code":"invalid_api_key"}}"#);
    assert_eq!(
        error.message,
        "the provider answered 401 Unauthorized: Incorrect API key provided (check the API key)"
    );
    assert_eq!(answered(529, "").message, "the provider answered 529 without a word");
    assert_eq!(in_stream(r#"{"error":"it broke"}"#).message, "the provider broke off: it broke");
}

#[test]
fn an_event_named_error_is_one_whatever_it_holds() {
    let judged = |data: &str| Complaint::from_error_event(data).judge(None, false);
    assert_eq!(judged(r#"{"message":"m","code":"invalid_api_key"}"#).code, "invalid_api_key");
    assert_eq!(judged("it broke").message, "the provider broke off: it broke");
    assert_eq!(judged(r#"{"error":{"code":429}}"#).class, RateLimited);
}

#[test]
fn sentences_are_no_codes() {
    let body = r#"{"error":{"message":"m","code":"Something went wrong, sorry","type":"none of this"}}"#;
    assert_eq!(answered(400, body).code, "http_400");
}

proptest! {
    #[test]
    fn any_body_gets_a_verdict(status in 300_u16..1000, body in ".{0,200}") {
        let error = answered(status, &body);
        prop_assert!(!error.code.is_empty() && error.code.len() <= LONGEST_NAME);
        prop_assert!(!error.message.is_empty());
    }

    #[test]
    fn four_hundreds_without_a_known_name_follow_the_status(status in 400_u16..500) {
        let class = match status {
            408 | 409 => Transient,
            429 => RateLimited,
            _ => Permanent,
        };
        prop_assert_eq!(answered(status, "{}").class, class);
    }
}
