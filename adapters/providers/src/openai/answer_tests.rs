use proptest::prelude::*;

use super::*;

fn event(data: &str) -> SseEvent {
    SseEvent { name: String::new(), data: data.to_owned() }
}

/// The text and the outcome after these events and the end of the stream.
fn run(events: &[&str]) -> (String, Result<GenerationEvent, GeneratorError>) {
    let mut answer = Answer::new(5);
    let mut text = String::new();
    for data in events {
        match answer.read(&event(data)) {
            Ok(Seen::Text(more)) => text.push_str(&more),
            Ok(Seen::Done) => return (text, answer.end("[DONE] came")),
            Ok(_) => {}
            Err(error) => return (text, Err(error)),
        }
    }
    (text, answer.end("the stream ended"))
}

fn finished(events: &[&str]) -> (String, FinishReason, Usage) {
    match run(events) {
        (text, Ok(GenerationEvent::Finished { reason, usage, .. })) => (text, reason, usage),
        (_, other) => panic!("{other:?}"),
    }
}

fn failed(events: &[&str]) -> GeneratorError {
    run(events).1.expect_err("this answer is no success")
}

const ROLE: &str =
    r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
const HELLO: &str = r#"{"model":"m-1","choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":null}],"usage":null}"#;
const STOP: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}}"#;
const COUNTED: Usage = Usage { input_tokens: 9, output_tokens: 3, estimated: false };
const ESTIMATED: Usage = Usage { input_tokens: 2, output_tokens: 2, estimated: true };

#[test]
fn a_stream_as_openai_sends_it() {
    let (text, outcome) = run(&[ROLE, HELLO, STOP, USAGE, "[DONE]"]);
    assert_eq!(text, "Hello");
    let expected = GenerationEvent::Finished {
        reason: FinishReason::Stop,
        usage: COUNTED,
        model: Some("m-1".to_owned()),
    };
    assert_eq!(outcome, Ok(expected));
}

#[test]
fn done_only_ends_the_stream() {
    let error = failed(&[HELLO, "[DONE]"]);
    assert_eq!((error.code.as_str(), error.class, error.billed), ("truncated", ErrorClass::Transient, true));
    assert_eq!(finished(&[HELLO, STOP]).1, FinishReason::Stop, "and is not needed");
}

#[test]
fn an_end_without_a_finish_reason_is_truncated() {
    for events in [&[][..], &[ROLE], &[HELLO], &[HELLO, USAGE], &["[DONE]"]] {
        assert_eq!(failed(events).code, "truncated", "{events:?}");
    }
    let message = failed(&[HELLO]).message;
    assert_eq!(
        message,
        "the answer is truncated: the stream ended after 5 characters, without a finish reason"
    );
}

#[test]
fn every_choice_must_finish() {
    let other = r#"{"choices":[{"index":1,"delta":{"content":"Other"}}]}"#;
    let other_stop = r#"{"choices":[{"index":1,"finish_reason":"length"}]}"#;
    assert_eq!(failed(&[HELLO, other, STOP]).code, "truncated");
    let (text, reason, _) = finished(&[HELLO, other, other_stop, STOP]);
    assert_eq!((text.as_str(), reason), ("Hello", FinishReason::Stop), "the first choice is the answer");
}

#[test]
fn a_finish_reason_may_be_absent_null_empty_or_repeated() {
    let absent = r#"{"choices":[{"delta":{"content":"a"}}]}"#;
    let null = r#"{"choices":[{"delta":{"content":"b"},"finish_reason":null}]}"#;
    let empty = r#"{"choices":[{"delta":{"content":"c"},"finish_reason":""}]}"#;
    assert_eq!(failed(&[absent, null, empty]).code, "truncated");
    let after = r#"{"choices":[{"index":0,"delta":{},"finish_reason":null}]}"#;
    assert_eq!(finished(&[absent, null, empty, STOP, after]).0, "abc");
}

#[test]
fn finish_reasons_have_their_meaning() {
    let stop = |reason: &str| STOP.replace("stop", reason);
    assert_eq!(finished(&[HELLO, &stop("length")]).1, FinishReason::Length);
    assert_eq!(finished(&[HELLO, &stop("max_tokens")]).1, FinishReason::Length);
    assert_eq!(finished(&[HELLO, &stop("length"), STOP]).1, FinishReason::Length, "the first one counts");
    assert_eq!(finished(&[HELLO, &stop("end_turn")]).1, FinishReason::Stop);
    assert_eq!(finished(&[HELLO, &stop("tool_calls")]).1, FinishReason::Other("tool_calls".to_owned()));
    assert_eq!(failed(&[HELLO, &stop("error")]).code, "provider_error");
    let error = failed(&[HELLO, &stop("content_filter")]);
    assert_eq!(
        (error.code.as_str(), error.class, error.billed),
        ("content_filter", ErrorClass::Permanent, true)
    );
}

#[test]
fn a_refusal_is_final_with_its_own_code() {
    let refusal = |text: &str| format!(r#"{{"choices":[{{"delta":{{"refusal":"{text}"}}}}]}}"#);
    let error = failed(&[&refusal("I can"), &refusal("not."), STOP]);
    assert_eq!((error.code.as_str(), error.class, error.billed), ("refusal", ErrorClass::Permanent, true));
    assert_eq!(error.message, "the model refused: I cannot.");
}

#[test]
fn every_form_of_the_usage_is_read() {
    let with = |usage: &str| format!(r#"{{"choices":[],"usage":{usage}}}"#);
    let one_empty =
        r#"{"choices":[{"index":0,"delta":{}}],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#;
    let in_finish =
        r#"{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#;
    let early =
        r#"{"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":9,"completion_tokens":1}}"#;
    for events in [
        vec![HELLO, STOP, USAGE],
        vec![HELLO, STOP, one_empty],
        vec![HELLO, in_finish],
        vec![early, STOP, USAGE],
        vec![HELLO, STOP, &with(r#"{"input_tokens":9,"output_tokens":3}"#)],
        vec![HELLO, STOP, &with(r#"{"prompt_tokens":9.0,"completion_tokens":3.0}"#)],
        vec![HELLO, STOP, &with(r#"{"prompt_tokens":9,"total_tokens":12}"#)],
        vec![HELLO, STOP, USAGE, &with("{}")],
    ] {
        assert_eq!(finished(&events).2, COUNTED, "{events:?}");
    }
    for usage in ["{}", "null", "7", r#"{"prompt_tokens":null}"#, r#"{"prompt_tokens":"9"}"#] {
        assert_eq!(finished(&[HELLO, STOP, &with(usage)]).2, ESTIMATED, "{usage}");
    }
    assert_eq!(finished(&[HELLO, STOP]).2, ESTIMATED);
    let zeros = finished(&[HELLO, STOP, &with(r#"{"prompt_tokens":9,"completion_tokens":0}"#)]).2;
    assert_eq!(zeros, Usage { input_tokens: 9, output_tokens: 2, estimated: true });
}

#[test]
fn an_error_inside_the_stream_fails_by_its_code() {
    let error = failed(&[HELLO, r#"{"error":{"message":"slow down","code":"rate_limit_exceeded"}}"#]);
    assert_eq!((error.class, error.billed), (ErrorClass::RateLimited, true));
    let error = failed(&[r#"{"error":{"message":"slow down","code":"rate_limit_exceeded"}}"#]);
    assert!(!error.billed, "nothing had come");
    let mut answer = Answer::new(0);
    let named = SseEvent { name: "error".to_owned(), data: "no more".to_owned() };
    assert_eq!(answer.read(&named).unwrap_err().message, "the provider broke off: no more");
}

#[test]
fn pings_annotations_and_unknown_fields_are_passed_over() {
    let mut answer = Answer::new(0);
    for data in [
        "",
        "{}",
        r#"{"type":"ping"}"#,
        r#"{"choices":null}"#,
        r#"{"choices":[null,3,{}]}"#,
        r#"{"choices":[],"prompt_filter_results":[{"content_filter_results":{}}]}"#,
        ROLE,
        "[1]",
    ] {
        assert_eq!(answer.read(&event(data)), Ok(Seen::Nothing), "{data}");
    }
    assert!(!answer.started());
}

#[test]
fn reasoning_and_tool_calls_are_progress_but_no_text() {
    for field in [r#""reasoning_content":"hm""#, r#""reasoning":"hm""#, r#""tool_calls":[{"index":0}]"#] {
        let mut answer = Answer::new(0);
        let data = format!(r#"{{"choices":[{{"delta":{{{field}}}}}]}}"#);
        assert_eq!(answer.read(&event(&data)), Ok(Seen::Progress), "{field}");
        assert!(answer.started());
    }
}

#[test]
fn parts_of_content_are_joined() {
    let parts = r#"{"choices":[{"delta":{"content":[{"type":"text","text":"a"},{"type":"thinking"},{"text":"b"}]}}]}"#;
    assert_eq!(finished(&[parts, STOP]).0, "ab");
}

#[test]
fn lost_text_is_an_error_and_not_passed_over() {
    let error = failed(&[HELLO, r#"{"choices":[{"delta":{"con"#]);
    assert_eq!((error.code.as_str(), error.class), ("invalid_response", ErrorClass::Transient));
    assert!(error.message.contains("check that the base URL"), "{}", error.message);
}

#[test]
fn a_whole_completion_is_read() {
    let mut answer = Answer::new(0);
    let body = br#"{"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hi","refusal":null},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#;
    assert_eq!(answer.read_whole(body), Ok(Seen::Text("Hi".to_owned())));
    assert!(matches!(answer.end("x"), Ok(GenerationEvent::Finished { usage: COUNTED, .. })));
    assert_eq!(Answer::new(0).read_whole(&body[..40]).unwrap_err().code, "truncated");
    assert_eq!(Answer::new(0).read_whole(b"{]").unwrap_err().code, "invalid_response");
    let error = br#"{"error":{"message":"m","code":"insufficient_quota"}}"#;
    assert_eq!(Answer::new(0).read_whole(error).unwrap_err().code, "insufficient_quota");
}

#[test]
fn endless_text_is_refused() {
    let mut answer = Answer::new(0);
    let megabyte = format!(r#"{{"choices":[{{"delta":{{"content":"{}"}}}}]}}"#, "x".repeat(1 << 20));
    for _ in 0..16 {
        assert!(answer.read(&event(&megabyte)).is_ok());
    }
    let error = answer.read(&event(&megabyte)).unwrap_err();
    assert_eq!((error.code.as_str(), error.class), ("response_too_large", ErrorClass::Permanent));
}

proptest! {
    #[test]
    fn any_data_is_read_or_refused(data in ".{0,120}") {
        let _ = Answer::new(0).read(&event(&data));
    }

    #[test]
    fn the_text_is_the_deltas_in_order(pieces in proptest::collection::vec(".{0,10}", 0..20)) {
        let chunks: Vec<String> = pieces
            .iter()
            .map(|piece| serde_json::json!({"choices": [{"delta": {"content": piece}}]}).to_string())
            .collect();
        let mut events: Vec<&str> = chunks.iter().map(String::as_str).collect();
        events.push(STOP);
        let (text, _, usage) = finished(&events);
        prop_assert_eq!(&text, &pieces.concat());
        prop_assert_eq!(usage.output_tokens, (text.chars().count() as u64).div_ceil(4));
    }
}
