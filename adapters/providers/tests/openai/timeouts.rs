//! The four time-outs, each with a server that stalls in its phase. The waits are real, and short; a test fails when
//! another time-out fires or when the connection is not closed.

use std::time::Duration;

use domain::ErrorClass::Transient;
use providers_adapter::ProviderTimeouts;
use tokio::time::sleep;

use crate::stub::{Noticed, ROLE, SSE, STOP, Stub, ask, generator, patient, token};

const SHORT: Duration = Duration::from_millis(300);
/// The pace of a server that says nothing useful, or little.
const TICK: Duration = Duration::from_millis(20);

async fn expect(stub: &mut Stub, timeouts: ProviderTimeouts, code: &str, text: &str) {
    let outcome = ask(&stub.generator_with(timeouts)).await;
    assert!(outcome.text().starts_with(text), "{outcome:?}");
    let error = outcome.error();
    assert_eq!(
        (error.class, error.code.as_str(), error.billed),
        (Transient, code, true),
        "{}",
        error.message
    );
    assert!(error.message.ends_with("within 0.3 s"), "{}", error.message);
    stub.until(Noticed::Closed).await;
}

/// Sends `first`, then `again` at every tick, until the client leaves.
async fn trickle(first: String, again: String) -> Stub {
    Stub::start(move |mut connection| {
        let (first, again) = (first.clone(), again.clone());
        async move {
            connection.request().await?;
            connection.send(&first).await?;
            loop {
                sleep(TICK).await;
                if !again.is_empty() && connection.send(&again).await.is_err() {
                    return connection.closed().await;
                }
                if again.is_empty() {
                    return connection.closed().await;
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_server_that_accepts_and_does_not_shake_hands_is_a_connect_timeout() {
    let mut stub = Stub::start(|mut connection| async move { connection.closed().await }).await;
    let timeouts = ProviderTimeouts { connect: SHORT, ..patient() };
    let error = ask(&generator(&format!("https://{}/v1", stub.address), timeouts)).await.error();
    assert_eq!((error.class, error.code.as_str(), error.billed), (Transient, "connect_timeout", false));
    assert_eq!(error.message, "no connection to the provider came about within 0.3 s");
    stub.until(Noticed::Closed).await;
}

#[tokio::test]
async fn no_answer_at_all_is_a_first_token_timeout() {
    let mut stub = trickle(String::new(), String::new()).await;
    let timeouts = ProviderTimeouts { first_token: SHORT, ..patient() };
    expect(&mut stub, timeouts, "first_token_timeout", "").await;
}

#[tokio::test]
async fn a_head_without_a_token_is_a_first_token_timeout() {
    let mut stub = trickle([SSE, ROLE].concat(), String::new()).await;
    let timeouts = ProviderTimeouts { first_token: SHORT, ..patient() };
    expect(&mut stub, timeouts, "first_token_timeout", "").await;
}

#[tokio::test]
async fn pings_are_no_first_token() {
    let mut stub = trickle(SSE.to_owned(), ": ping\n\n".to_owned()).await;
    let timeouts = ProviderTimeouts { first_token: SHORT, ..patient() };
    expect(&mut stub, timeouts, "first_token_timeout", "").await;
}

#[tokio::test]
async fn silence_after_a_token_is_an_idle_timeout() {
    let mut stub = trickle([SSE, &token("Hel")].concat(), String::new()).await;
    let timeouts = ProviderTimeouts { idle: SHORT, ..patient() };
    expect(&mut stub, timeouts, "idle_timeout", "Hel").await;
}

#[tokio::test]
async fn pings_are_no_tokens() {
    let mut stub = trickle([SSE, &token("Hel")].concat(), ": ping\n\ndata: {}\n\n".to_owned()).await;
    let timeouts = ProviderTimeouts { idle: SHORT, ..patient() };
    expect(&mut stub, timeouts, "idle_timeout", "Hel").await;
}

#[tokio::test]
async fn tokens_without_end_are_a_total_timeout() {
    let mut stub = trickle(SSE.to_owned(), token("Hel")).await;
    let timeouts = ProviderTimeouts { total: SHORT, ..patient() };
    expect(&mut stub, timeouts, "total_timeout", "Hel").await;
}

#[tokio::test]
async fn the_total_also_holds_before_the_answer() {
    let mut stub = trickle(String::new(), String::new()).await;
    let timeouts = ProviderTimeouts { total: SHORT, ..patient() };
    expect(&mut stub, timeouts, "total_timeout", "").await;
}

#[tokio::test]
async fn an_error_whose_body_stalls_is_judged_by_its_status() {
    let head = "HTTP/1.1 429 x\r\nretry-after: 2\r\nconnection: close\r\n\r\n{\"error\":";
    let mut stub = trickle(head.to_owned(), String::new()).await;
    let timeouts = ProviderTimeouts { first_token: SHORT, ..patient() };
    let error = ask(&stub.generator_with(timeouts)).await.error();
    assert_eq!(
        (error.code.as_str(), error.retry_after),
        ("rate_limit_exceeded", Some(Duration::from_secs(2)))
    );
    stub.until(Noticed::Closed).await;
}

#[tokio::test]
async fn thinking_keeps_the_call_alive() {
    let thought = "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n";
    let stub = Stub::start(move |mut connection| async move {
        connection.request().await?;
        connection.send(SSE).await?;
        // Together longer than either time-out.
        for _ in 0..50 {
            connection.send(thought).await?;
            sleep(TICK).await;
        }
        connection.send([&token("Hi"), STOP].concat()).await?;
        connection.finish().await
    })
    .await;
    let timeouts = ProviderTimeouts { first_token: 2 * SHORT, idle: 2 * SHORT, ..patient() };
    let outcome = ask(&stub.generator_with(timeouts)).await;
    assert_eq!(outcome.text(), "Hi");
    assert!(outcome.end.is_ok(), "{:?}", outcome.end);
}

#[tokio::test]
async fn a_slow_reader_is_not_the_servers_fault() {
    use application::ports::TextGenerator;
    use futures_util::StreamExt;

    let mut stub = Stub::start(|mut connection| async move {
        connection.request().await?;
        connection.send([SSE, &token("Hel")].concat()).await?;
        sleep(2 * SHORT).await;
        connection.say("read on");
        sleep(TICK).await;
        connection.send([&token("lo"), STOP].concat()).await?;
        connection.finish().await
    })
    .await;
    let timeouts = ProviderTimeouts { idle: SHORT, ..patient() };
    let mut generation = stub.generator_with(timeouts).generate(crate::stub::request()).await.unwrap();
    generation.next().await.unwrap().unwrap();
    stub.until(Noticed::Said("read on")).await;
    let outcome = crate::stub::read(generation).await;
    assert_eq!(outcome.text(), "lo");
    assert!(outcome.end.is_ok(), "{:?}", outcome.end);
}
