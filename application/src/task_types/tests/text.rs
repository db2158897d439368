//! `ai.text_generation` over a generator that says what the test wants.

use domain::{ErrorClass, Json, Status, TaskId, ai::Role, ai::Trouble};
use serde_json::{Value, json};

use super::{
    super::text_generation::DEFAULT_MODEL, Event, FinishReason, GenerationEvent, GeneratorError, Product,
    answers, chunk, finished, product_of, scripted,
};
use crate::{ports::TaskStore, tasks::Submission};

/// Submits a text task with this input; `change` may change more.
async fn submit(product: &Product, input: Value, change: impl FnOnce(&mut Submission)) -> TaskId {
    let input = Json::from_value(&input).expect("JSON");
    product
        .submit("ai.text_generation", |task| {
            task.input = input;
            change(task);
        })
        .await
}

/// The output that the store has of an attempt.
async fn output_of(product: &Product, id: TaskId, attempt: u32) -> String {
    let chunks = product.store.chunks_after(id, (0, 0), 1_000).await.expect("readable");
    chunks.into_iter().filter(|chunk| chunk.attempt == attempt).map(|chunk| chunk.text).collect()
}

fn broken(code: &str, class: ErrorClass) -> Event {
    Err(GeneratorError {
        class,
        trouble: Trouble::Overloaded,
        code: code.to_owned(),
        message: "the test says so".to_owned(),
        retry_after: None,
        billed: true,
    })
}

fn person() -> Value {
    json!({ "prompt": "Name somebody", "response_format": { "type": "json_schema", "json_schema": {
        "name": "person",
        "schema": { "type": "object", "required": ["name"], "properties": { "name": { "type": "string" } } },
    } } })
}

#[tokio::test(start_paused = true)]
async fn the_answer_is_the_result_and_its_usage_is_kept() {
    let product = answers(vec![chunk("Hello, "), chunk("world"), finished(FinishReason::Length)]);
    let _worker = product.worker(1);
    let prompt = Json::parse(r#"{"prompt":"Hi","model":null}"#).expect("JSON");
    let id = product.submit("ai.text_generation", |task| task.input = prompt).await;
    let task = product.end_of(id).await;
    assert_eq!(task.result.expect("a result").as_str(), "\"Hello, world\"");
    let details: serde_json::Value = task.details.expect("details").to().expect("an object");
    assert_eq!(details["incomplete"], true);
    assert_eq!(details["usage"]["output_tokens"], 2);
    assert_eq!(details["model"], DEFAULT_MODEL);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_just_ends_is_no_answer() {
    let product = answers(vec![chunk("Hello, ")]);
    let _worker = product.worker(1);
    let prompt = Json::parse(r#"{"prompt":"Hi"}"#).expect("JSON");
    let id = product
        .submit("ai.text_generation", |task| {
            task.input = prompt;
            task.max_attempts = Some(1);
        })
        .await;
    let task = product.end_of(id).await;
    assert_eq!((task.status, task.error.expect("an error").code), (Status::Failed, "truncated".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_conversation_is_sent_as_it_was_given() {
    let (generator, asked) = scripted(vec![vec![chunk("Hi"), finished(FinishReason::Stop)]]);
    let product = product_of(generator);
    let _worker = product.worker(1);
    let input = json!({
        "system": "Be brief",
        "messages": [{ "role": "user", "content": "Hello" }, { "role": "assistant", "content": "Hi" }, { "role": "user", "content": [{ "type": "text", "text": "Again" }] }],
        "model": "m", "temperature": 0.5, "top_p": 1, "max_tokens": 9, "seed": 3, "stop": "END",
    });
    let id = submit(&product, input, |_| {}).await;
    assert_eq!(product.end_of(id).await.status, Status::Completed);
    let request = asked.lock().expect("not poisoned").remove(0);
    let roles: Vec<Role> = request.messages.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::User]);
    assert_eq!(request.messages[3].content, json!([{ "type": "text", "text": "Again" }]));
    assert_eq!((request.sampling.temperature, request.sampling.seed), (Some(0.5), Some(3)));
    assert_eq!((request.sampling.stop, request.model), (vec!["END".to_owned()], "m".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_fit_is_repaired_by_its_model() {
    let (generator, asked) = scripted(vec![
        vec![chunk("{\"nam"), chunk("e\": 7}"), finished(FinishReason::Stop)],
        vec![chunk("```json\n{\"name\": \"Ada\"}\n```"), finished(FinishReason::Stop)],
    ]);
    let product = product_of(generator);
    let _worker = product.worker(1);
    let id = submit(&product, person(), |_| {}).await;
    let task = product.end_of(id).await;
    assert_eq!((task.status, task.attempt), (Status::Completed, 1), "{:?}", task.error);
    let result = task.result.expect("a result");
    assert_eq!(result.as_str(), "{\"name\": \"Ada\"}");
    assert_eq!(output_of(&product, id, 1).await, result.as_str(), "readers see what the task comes to");
    let details: Value = task.details.expect("details").to().expect("an object");
    assert_eq!((&details["repairs"], &details["usage"]["output_tokens"]), (&json!(1), &json!(4)));
    let asked = asked.lock().expect("not poisoned");
    let told: Vec<&str> = asked[1].messages.iter().filter_map(|message| message.content.as_str()).collect();
    assert_eq!((asked[1].messages.len(), told[1]), (3, "{\"name\": 7}"));
    assert!(told[2].contains("/name"), "the model is told what is wrong: {}", told[2]);
}

#[tokio::test(start_paused = true)]
async fn repairs_have_a_budget_of_their_own() {
    for (max_repairs, calls) in [(json!(null), 3), (json!(0), 1), (json!(1), 2)] {
        let (generator, asked) = scripted(vec![vec![chunk("no JSON"), finished(FinishReason::Stop)]; 4]);
        let product = product_of(generator);
        let _worker = product.worker(1);
        let mut input = person();
        input["max_repairs"] = max_repairs;
        let id = submit(&product, input, |_| {}).await;
        let task = product.end_of(id).await;
        assert_eq!(task.error.expect("an error").code, "output_invalid");
        // No further attempt: it would end the same way.
        assert_eq!((task.status, task.attempt), (Status::Failed, 1));
        assert_eq!(asked.lock().expect("not poisoned").len(), calls);
        assert_eq!((task.result, output_of(&product, id, 1).await.as_str()), (None, "no JSON"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_cut_is_not_asked_for_again() {
    let (generator, asked) = scripted(vec![vec![chunk("{\"name\": \"A"), finished(FinishReason::Length)]]);
    let product = product_of(generator);
    let _worker = product.worker(1);
    let id = submit(&product, person(), |_| {}).await;
    let error = product.end_of(id).await.error.expect("an error");
    assert_eq!(error.code, "output_invalid");
    assert!(error.message.contains("max_tokens"), "{}", error.message);
    assert_eq!(asked.lock().expect("not poisoned").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn tools_that_the_model_calls_are_in_the_result() {
    let call = json!({ "id": "c1", "type": "function", "function": { "name": "f", "arguments": "{}" } });
    let events = vec![
        Ok(GenerationEvent::ToolCalls(vec![call.clone()])),
        finished(FinishReason::Other("tool_calls".into())),
    ];
    let product = answers(events);
    let _worker = product.worker(1);
    let tool = json!({ "type": "function", "function": { "name": "f" } });
    let id = submit(&product, json!({ "prompt": "Hi", "tools": [tool] }), |_| {}).await;
    let task = product.end_of(id).await;
    let result: Value = task.result.expect("a result").to().expect("an object");
    assert_eq!(result, json!({ "content": null, "tool_calls": [call] }));
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_answer_is_continued_where_the_caller_allows_it() {
    let (generator, asked) = scripted(vec![
        vec![chunk("Once upon"), broken("truncated", ErrorClass::Transient)],
        vec![chunk(" a time"), finished(FinishReason::Stop)],
    ]);
    let product = product_of(generator);
    // It brings what waits for another try into the order.
    tokio::spawn(product.upkeep().run(Default::default()));
    let _worker = product.worker(1);
    let id = submit(&product, json!({ "prompt": "A tale", "continue_partial": true }), |_| {}).await;
    let task = product.end_of(id).await;
    assert_eq!((task.status, task.attempt), (Status::Completed, 2), "{:?}", task.error);
    assert_eq!(task.result.expect("a result").as_str(), "\"Once upon a time\"");
    assert_eq!(output_of(&product, id, 2).await, "Once upon a time", "an attempt's output is whole");
    let asked = asked.lock().expect("not poisoned");
    let last = asked[1].messages.last().expect("a message");
    assert_eq!((last.role, last.content.as_str()), (Role::Assistant, Some("Once upon")));
}

#[tokio::test(start_paused = true)]
async fn without_leave_an_answer_begins_anew() {
    let (generator, asked) = scripted(vec![
        vec![chunk("Once upon"), broken("truncated", ErrorClass::Transient)],
        vec![chunk("A tale"), finished(FinishReason::Stop)],
    ]);
    let product = product_of(generator);
    // It brings what waits for another try into the order.
    tokio::spawn(product.upkeep().run(Default::default()));
    let _worker = product.worker(1);
    let id = submit(&product, json!({ "prompt": "A tale" }), |_| {}).await;
    let task = product.end_of(id).await;
    assert_eq!(task.result.expect("a result").as_str(), "\"A tale\"");
    assert_eq!(asked.lock().expect("not poisoned")[1].messages.len(), 1);
}
