//! `ai.embedding` over an embedder that says what the test wants.

use std::sync::Arc;

use domain::{Json, Status, TaskType, Tenant};
use serde_json::{Value, json};

use super::{Models, Product, built_in, silent};
use crate::{
    ports::{Embeddings, Left, MockEmbedder, Usage},
    tasks::Submission,
};

fn product(vectors: Vec<Vec<f32>>) -> Product {
    let mut embedder = MockEmbedder::new();
    embedder.expect_embed().returning(move |request| {
        let usage = Usage { input_tokens: request.texts.len() as u64, ..Usage::default() };
        let model = Some(format!("{}-1", request.model));
        Ok(Embeddings { vectors: vectors.clone(), usage, model, by: None, left: Left::default() })
    });
    let embedder = Arc::new(embedder);
    Product::with(|store, _| built_in(&Models { embedder, ..silent(store) }))
}

#[tokio::test(start_paused = true)]
async fn each_text_has_its_vector() {
    let product = product(vec![vec![0.25, -1.0], vec![0.1, 2.0]]);
    let _worker = product.worker(1);
    let input = json!({ "input": ["one", "two"], "model": "m", "dimensions": 2 });
    let id =
        product.submit("ai.embedding", |task| task.input = Json::from_value(&input).expect("JSON")).await;
    let task = product.end_of(id).await;
    assert_eq!(task.result.expect("a result").as_str(), "[[0.25,-1.0],[0.1,2.0]]");
    let details: Value = task.details.expect("details").to().expect("an object");
    assert_eq!((&details["model"], &details["dimensions"]), (&json!("m-1"), &json!(2)));
    assert_eq!(details["usage"]["input_tokens"], 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_another_length_is_none() {
    let product = product(vec![vec![0.5]]);
    let _worker = product.worker(1);
    let id = product
        .submit("ai.embedding", |task| {
            task.input = Json::parse(r#"{"input":["one","two"]}"#).expect("JSON");
            task.max_attempts = Some(1);
        })
        .await;
    let task = product.end_of(id).await;
    assert_eq!(
        (task.status, task.error.expect("an error").code.as_str()),
        (Status::Failed, "invalid_response")
    );
}

#[tokio::test(start_paused = true)]
async fn vectors_that_could_not_be_kept_are_refused_before_anybody_is_paid() {
    // The embedder would fail the test if it were asked.
    let product = Product::with(|store, _| built_in(&Models { largest_result: 1_000, ..silent(store) }));
    let submit = async |texts: usize, dimensions: u32| {
        let input = json!({ "input": vec!["x"; texts], "model": "m", "dimensions": dimensions });
        let (name, input) = (TaskType::new("ai.embedding"), Json::from_value(&input));
        let submission = Submission::new(name.expect("a type"), input.expect("JSON"));
        product.tasks.submit(&Tenant::default(), vec![submission]).await.map_err(|error| error.to_string())
    };
    assert!(submit(8, 8).await.is_ok());
    let refusal = submit(9, 8).await.expect_err("too many");
    assert!(refusal.starts_with("input: ") && refusal.contains("at most 8 texts"), "{refusal}");
    let refusal = submit(1, 100).await.expect_err("too wide");
    assert!(refusal.contains("may have: ask for fewer dimensions"), "{refusal}");
}
