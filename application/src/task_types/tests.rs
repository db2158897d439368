use std::sync::Arc;

use domain::{Json, Status, Tenant};
use futures_util::stream;

use super::built_in;
use crate::{
    ports::{Chunk, FinishReason, GenerationEvent, GeneratorError, MockTextGenerator, Usage},
    testing::Product,
};

fn answers(events: Vec<Result<GenerationEvent, GeneratorError>>) -> Product {
    let mut generator = MockTextGenerator::new();
    generator.expect_generate().returning(move |_| Ok(Box::pin(stream::iter(events.clone()))));
    Product::new(built_in(Arc::new(generator)))
}

fn chunk(text: &str) -> Result<GenerationEvent, GeneratorError> {
    Ok(GenerationEvent::Chunk(Chunk { text: text.into(), fraction: None }))
}

fn finished(reason: FinishReason) -> Result<GenerationEvent, GeneratorError> {
    Ok(GenerationEvent::Finished {
        reason,
        usage: Usage { input_tokens: 3, output_tokens: 2, estimated: false },
        model: None,
    })
}

#[test]
fn each_types_example_is_an_input_that_it_takes() {
    for spec in built_in(Arc::new(MockTextGenerator::new())) {
        let example = Json::parse(spec.example_input()).expect("the example is JSON");
        assert_eq!(spec.check_input(&example), Ok(()), "{}", spec.name());
    }
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
    assert_eq!(details["model"], super::DEFAULT_MODEL);
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
async fn inputs_are_refused_before_anything_is_stored() {
    let product = answers(vec![]);
    for (task_type, input) in [
        ("ai.text_generation", r#"{"promt":"a typo"}"#),
        ("ai.text_generation", r#"{"prompt":7}"#),
        ("demo.simple_calculation", r#"{"x":1,"y":2,"operation":"power"}"#),
        ("demo.sleep", r#"{}"#),
    ] {
        let submission = crate::tasks::Submission::new(
            domain::TaskType::new(task_type).expect("a type"),
            Json::parse(input).expect("JSON"),
        );
        let refusal = product
            .tasks
            .submit(&Tenant::default(), vec![submission])
            .await
            .expect_err("refused")
            .to_string();
        assert!(refusal.starts_with("input: "), "{task_type} {input}: {refusal}");
    }
    assert!(product.tasks.counts(&Tenant::default()).await.expect("counted").is_empty());
}
