//! The example page of docs/examples, in a real browser: progress, streamed text, cancelling, and nothing lost on the way.

use e2e_tests::{Base, Browser, Product, on_both_bases};

on_both_bases!(
    the_page_shows_progress_and_the_text_as_it_is_written,
    the_cancel_button_stops_the_task,
    a_reload_and_a_killed_worker_lose_nothing,
);

async fn page(product: &Product) -> Browser {
    Browser::open(&format!("{}/examples", product.api().server)).await
}

fn ended(status: &str) -> bool {
    ["COMPLETED", "FAILED", "CANCELLED"].contains(&status)
}

async fn the_page_shows_progress_and_the_text_as_it_is_written(base: Base) {
    let product = base.setup().set("SIMULATED_LATENCY", "3s").set("API_PREFIX", "/api/v1").start().await;
    let page = page(&product).await;
    page.click("submit").await;
    let early = page.text_becomes("text", |text| text.len() > 10).await;
    let status = page.text("status").await;
    assert_eq!(status, "PROCESSING", "the text is there before the task has ended");
    let progress = page.property("progress", "value").await;
    assert!(progress.as_f64().is_some_and(|progress| progress < 100.0), "{progress}");
    assert_eq!(page.text_becomes("status", ended).await, "COMPLETED");
    page.text_becomes("summary", |summary| summary.contains("attempt 1")).await;
    let task = product.api().task(page.text("id").await.parse().expect("a number")).await;
    assert_eq!(page.text("text").await, task["result"], "what is shown is the result");
    assert!(task["result"].as_str().is_some_and(|result| result.starts_with(&early)), "{early}");
    assert_eq!(page.property("progress", "value").await, 100);
    assert_eq!(page.failed_requests().await, Vec::<String>::new());
}

async fn the_cancel_button_stops_the_task(base: Base) {
    let product = base.setup().set("SIMULATED_LATENCY", "60s").start().await;
    let page = page(&product).await;
    page.click("submit").await;
    page.text_becomes("text", |text| !text.is_empty()).await;
    page.click("cancel").await;
    assert_eq!(page.text_becomes("status", ended).await, "CANCELLED");
    let task = product.api().task(page.text("id").await.parse().expect("a number")).await;
    assert_eq!(task["status"], "CANCELLED");
}

async fn a_reload_and_a_killed_worker_lose_nothing(base: Base) {
    let settings = base.setup().set("SIMULATED_LATENCY", "4s").set("LEASE_SECONDS", "2");
    let mut product = settings.start().await;
    let page = page(&product).await;
    page.click("submit").await;
    page.text_becomes("text", |text| text.len() > 10).await;
    page.reload().await;
    page.text_becomes("text", |text| text.len() > 20).await;
    let id = page.text("id").await;
    if base == Base::Sqlite {
        // The one process has another address afterwards.
        product.kill();
        product.start_again().await;
        page.goto(&format!("{}/examples/#{id}", product.api().server)).await;
    } else {
        product.worker().kill();
        product.add_worker().await;
    }
    let summary = page.text_becomes("summary", |summary| summary.contains("attempt")).await;
    assert!(summary.contains("attempt 2"), "it was begun anew: {summary}");
    assert_eq!(page.text("status").await, "COMPLETED");
    let task = product.api().task(id.parse().expect("a number")).await;
    assert_eq!(page.text("text").await, task["result"], "texts of two attempts are not mixed");
}
