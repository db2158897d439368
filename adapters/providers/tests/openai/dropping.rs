//! Letting go closes the connection, and so stops the bill: the server sees it.

use application::ports::TextGenerator;
use futures_util::StreamExt;

use crate::stub::{Noticed, SSE, Stub, request, token};

#[tokio::test]
async fn dropping_the_stream_closes_the_connection() {
    let mut stub = Stub::start(|mut connection| async move {
        connection.request().await?;
        connection.send([SSE, &token("Hel")].concat()).await?;
        connection.closed().await
    })
    .await;
    // Kept beyond the drop: it must be the stream that lets go, and not the client and its pool.
    let generator = stub.generator();
    let mut generation = generator.generate(request()).await.unwrap();
    generation.next().await.unwrap().unwrap();
    drop(generation);
    stub.until(Noticed::Closed).await;
    drop(generator);
}

#[tokio::test]
async fn dropping_a_stream_that_nobody_read_closes_the_connection() {
    let mut stub = Stub::start(|mut connection| async move {
        connection.request().await?;
        connection.send(SSE).await?;
        connection.closed().await
    })
    .await;
    let generator = stub.generator();
    drop(generator.generate(request()).await.unwrap());
    stub.until(Noticed::Closed).await;
    drop(generator);
}

#[tokio::test]
async fn dropping_a_call_that_waits_for_its_answer_closes_the_connection() {
    let mut stub = Stub::start(|mut connection| async move {
        connection.request().await?;
        connection.closed().await
    })
    .await;
    let generator = stub.generator();
    let calling = tokio::spawn({
        let generator = generator.clone();
        async move { generator.generate(request()).await.is_ok() }
    });
    assert!(matches!(stub.noticed().await, Noticed::Request { .. }));
    calling.abort();
    stub.until(Noticed::Closed).await;
    drop(generator);
}

#[tokio::test]
async fn an_error_in_the_stream_closes_the_connection() {
    let mut stub = Stub::start(|mut connection| async move {
        connection.request().await?;
        connection.send([SSE, "data: {\"error\":{\"message\":\"m\"}}\n\n"].concat()).await?;
        connection.closed().await
    })
    .await;
    let generator = stub.generator();
    let mut generation = generator.generate(request()).await.unwrap();
    assert!(generation.next().await.unwrap().is_err());
    stub.until(Noticed::Closed).await;
    // Held until here: the error alone let go.
    drop((generation, generator));
}
