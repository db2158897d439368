//! Vectors of texts: what is asked, and what goes wrong.

use application::ports::{Embedder, EmbeddingRequest, Embeddings, GeneratorError, Usage};
use domain::ErrorClass::{Permanent, RateLimited, Transient};
use serde_json::json;

use crate::stub::{KEY, Noticed, Stub, answer};

const VECTORS: &str = r#"{"model":"e-1","data":[{"index":0,"embedding":[0.5]},{"index":1,"embedding":[1]}],"usage":{"prompt_tokens":3,"total_tokens":3}}"#;

async fn embed(stub: &Stub) -> Result<Embeddings, GeneratorError> {
    let texts = vec!["a".to_owned(), "b".to_owned()];
    stub.generator()
        .embed(EmbeddingRequest {
            model: "e".into(),
            texts,
            dimensions: Some(1),
            task: 17,
            ..EmbeddingRequest::default()
        })
        .await
}

#[tokio::test]
async fn the_texts_are_sent_and_their_vectors_come_back() {
    let mut stub = Stub::answering(answer("200 OK", "", VECTORS)).await;
    let embeddings = embed(&stub).await.unwrap();
    assert_eq!(embeddings.vectors, [[0.5], [1.0]]);
    assert_eq!(embeddings.usage, Usage { input_tokens: 3, output_tokens: 0, estimated: false });
    let Noticed::Request { head, body } = stub.noticed().await else { panic!("a request comes first") };
    assert!(head.starts_with("post /v1/embeddings http/1.1\r\n"), "{head}");
    for header in
        [&format!("authorization: bearer {KEY}"), "accept: application/json", "x-client-request-id: task-17"]
    {
        assert!(head.lines().any(|line| line == header), "{header} is not in {head}");
    }
    let sent = json!({ "model": "e", "input": ["a", "b"], "dimensions": 1, "encoding_format": "float" });
    assert_eq!(body, sent);
}

#[tokio::test]
async fn errors_are_judged_by_the_same_table() {
    let body = |code: &str| json!({ "error": { "message": "m", "code": code } }).to_string();
    for (response, class, code) in [
        (answer("503 x", "", "{}"), Transient, "http_503"),
        (
            answer("429 x", "retry-after: 2\r\n", &body("rate_limit_exceeded")),
            RateLimited,
            "rate_limit_exceeded",
        ),
        (answer("429 x", "", &body("insufficient_quota")), Permanent, "insufficient_quota"),
        (answer("200 OK", "", ""), Transient, "truncated"),
        (answer("200 OK", "", &VECTORS[..60]), Transient, "truncated"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{\"data\":".to_owned(), Transient, "truncated"),
    ] {
        let error = embed(&Stub::answering(response.clone()).await).await.unwrap_err();
        assert_eq!((error.class, error.code.as_str()), (class, code), "{response}");
    }
}
