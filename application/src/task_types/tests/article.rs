//! `ai.article` over a generator that says what the test wants.

use domain::{Json, ai::text_of};
use serde_json::{Value, json};

use super::{FinishReason, chunk, finished, product_of, scripted};

#[tokio::test(start_paused = true)]
async fn an_article_is_written_to_its_title_and_category() {
    let said = vec![chunk("Once "), chunk("upon"), finished(FinishReason::Stop)];
    let (generator, asked) = scripted(vec![said]);
    let product = product_of(generator);
    let _worker = product.worker(1);
    let input = Json::parse(r#"{"title":"Rust","category":"tech","model":"m"}"#).expect("JSON");
    let id = product.submit("ai.article", |task| task.input = input).await;
    let task = product.end_of(id).await;
    let article: Value = task.result.expect("a result").to().expect("an object");
    assert_eq!(article, json!({ "title": "Rust", "category": "tech", "content": "Once upon" }));
    let details: Value = task.details.expect("details").to().expect("an object");
    assert_eq!((&details["model"], &details["usage"]["output_tokens"]), (&json!("m"), &json!(2)));
    let asked = asked.lock().expect("not poisoned");
    assert_eq!((asked.len(), asked[0].model.as_str()), (1, "m"));
    let prompt = text_of(&asked[0].messages[0].content);
    assert!(prompt.contains("\"Rust\" for the category \"tech\""), "{prompt}");
}
