mod article;
mod embedding;
mod text;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use domain::{Json, Tenant};
use futures_util::stream;

use super::{Models, built_in};
use crate::{
    ports::{
        Chunk, FinishReason, Generation, GenerationEvent, GenerationRequest, GeneratorError, MockEmbedder,
        MockTextGenerator, Store, TextGenerator, Usage,
    },
    testing::Product,
    worker::LARGEST_RESULT,
};

type Event = Result<GenerationEvent, GeneratorError>;

/// Types whose models are not asked.
pub(super) fn silent(store: Arc<dyn Store>) -> Models {
    let (generator, embedder) = (Arc::new(MockTextGenerator::new()), Arc::new(MockEmbedder::new()));
    Models { generator, embedder, store, largest_result: LARGEST_RESULT }
}

/// A generator that answers with these in turn, and what it was asked.
fn scripted(answers: Vec<Vec<Event>>) -> (MockTextGenerator, Arc<Mutex<Vec<GenerationRequest>>>) {
    let (answers, asked) = (Mutex::new(VecDeque::from(answers)), Arc::<Mutex<Vec<_>>>::default());
    let asking = Arc::clone(&asked);
    let mut generator = MockTextGenerator::new();
    generator.expect_generate().returning(move |request| {
        asking.lock().expect("not poisoned").push(request);
        let events = answers.lock().expect("not poisoned").pop_front().expect("an answer for each call");
        Ok(Generation::new(stream::iter(events)))
    });
    generator.expect_describe().returning(|| "scripted".to_owned());
    (generator, asked)
}

/// A product whose text comes from this generator.
fn product_of(generator: impl TextGenerator + 'static) -> Product {
    let generator = Arc::new(generator);
    Product::with(|store, _| built_in(&Models { generator, ..silent(store) }))
}

fn answers(events: Vec<Event>) -> Product {
    let mut generator = MockTextGenerator::new();
    generator.expect_generate().returning(move |_| Ok(Generation::new(stream::iter(events.clone()))));
    product_of(generator)
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
    let product = answers(vec![]);
    for spec in product.tasks.registry().iter() {
        let example = Json::parse(spec.example_input()).expect("the example is JSON");
        assert_eq!(spec.check_input(&example), Ok(()), "{}", spec.name());
    }
}

#[tokio::test(start_paused = true)]
async fn inputs_are_refused_before_anything_is_stored() {
    let product = answers(vec![]);
    for (task_type, input) in [
        ("ai.text_generation", r#"{"promt":"a typo"}"#),
        ("ai.text_generation", r#"{"prompt":7}"#),
        ("ai.text_generation", r#"{}"#),
        ("ai.text_generation", r#"{"prompt":" "}"#),
        ("ai.text_generation", r#"{"prompt":"x","messages":[{"role":"user","content":"y"}]}"#),
        ("ai.text_generation", r#"{"messages":[]}"#),
        ("ai.text_generation", r#"{"messages":[{"role":"boss","content":"y"}]}"#),
        ("ai.text_generation", r#"{"prompt":"x","model":""}"#),
        ("ai.text_generation", r#"{"prompt":"x","temperature":3}"#),
        ("ai.text_generation", r#"{"prompt":"x","max_tokens":0}"#),
        ("ai.text_generation", r#"{"prompt":"x","stop":7}"#),
        ("ai.text_generation", r#"{"prompt":"x","max_repairs":6}"#),
        ("ai.text_generation", r#"{"prompt":"x","tool_choice":"auto"}"#),
        ("ai.text_generation", r#"{"prompt":"x","response_format":{"type":"xml"}}"#),
        (
            "ai.text_generation",
            r#"{"prompt":"x","response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{"type":"strin"}}}}"#,
        ),
        (
            "ai.text_generation",
            r#"{"prompt":"x","response_format":{"type":"json_object"},"continue_partial":true}"#,
        ),
        ("ai.article", r#"{"title":" "}"#),
        ("ai.article", r#"{"title":"x","model":""}"#),
        ("ai.embedding", r#"{"input":[]}"#),
        ("ai.embedding", r#"{"input":7}"#),
        ("ai.embedding", r#"{"input":"x","dimensions":0}"#),
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
