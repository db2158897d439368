//! What the rules themselves cost: `cargo bench -p task-runner-domain`. All of it runs once or a few times per task, so a
//! microsecond here is a microsecond of the budget in `docs/performance.md`.

use divan::{Bencher, black_box};
use domain::{Counters, Event, Failure, Json, Limits, RetryPolicy, Routes, State, TaskType, decide};

fn main() {
    divan::main();
}

const RUNNING: State = State::Processing { cancel_requested: false };

#[divan::bench]
fn decide_a_claim() -> bool {
    decide(black_box(State::Pending), black_box(Counters::default()), Event::Claim).is_ok()
}

#[divan::bench]
fn decide_a_success() -> bool {
    decide(black_box(RUNNING), black_box(Counters::default()), Event::Succeed).is_ok()
}

#[divan::bench]
fn decide_a_failure(bencher: Bencher) {
    let (failure, policy) = (Failure::transient("busy", "the server is busy"), RetryPolicy::default());
    let limits = Limits::default();
    bencher.bench(|| {
        let event =
            Event::Fail { failure: &failure, policy: &policy, limits: &limits, chance: black_box(0.5) };
        decide(black_box(RUNNING), black_box(Counters::default()), event)
    });
}

/// The first rule that matches, the last one, and none.
#[divan::bench(args = ["ai.text_generation", "emails.send", "something.else"])]
fn route(bencher: Bencher, name: &str) {
    let routes = Routes::default();
    let task_type = TaskType::new(name).unwrap_or_else(|error| panic!("{error}"));
    bencher.bench(|| routes.queue_for(black_box(&task_type)).as_str().len());
}

/// A prompt of so many characters.
#[divan::bench(args = [16, 1_024, 65_536])]
fn check_json(bencher: Bencher, length: usize) {
    let text = format!(r#"{{"prompt":"{}","model":"gpt-3.5-turbo"}}"#, "x".repeat(length));
    bencher.counter(divan::counter::BytesCount::new(text.len())).bench(|| Json::parse(black_box(&text)));
}

/// A result of so many characters.
#[divan::bench(args = [16, 1_024, 65_536])]
fn write_json(bencher: Bencher, length: usize) {
    let value = "x".repeat(length);
    bencher.counter(divan::counter::BytesCount::new(length)).bench(|| Json::from_value(black_box(&value)));
}
