//! What the use case of a submission costs without HTTP and without a database:
//! `cargo bench -p task-runner-application --features memory-store`.

use std::sync::Arc;

use application::{
    in_process::InProcessSignals,
    memory::MemoryStore,
    registry::{Output, Registry, TaskTypeSpec},
    task_types::TextGenerationInput,
    tasks::{Submission, Tasks},
};
use divan::{Bencher, black_box};
use domain::{Json, Routes, TaskType, Tenant};

const TYPE: &str = "ai.text_generation";
const INPUT: &str = r#"{"prompt":"Explain quantum computing","model":"gpt-3.5-turbo"}"#;

fn main() {
    divan::main();
}

fn spec() -> TaskTypeSpec {
    TaskTypeSpec::new(TYPE, "Generates nothing.", |_, _: TextGenerationInput| async { Output::of(&()) })
}

fn tasks() -> Tasks {
    let epoch = domain::Timestamp::default();
    let registry = Registry::new([spec()]).unwrap_or_else(|error| panic!("{error}"));
    Tasks::new(
        Arc::new(MemoryStore::new(epoch)),
        None,
        Arc::new(InProcessSignals::new()),
        Arc::new(registry),
        Arc::new(Routes::default()),
    )
}

fn submissions(count: usize) -> Vec<Submission> {
    let task_type = TaskType::new(TYPE).unwrap_or_else(|error| panic!("{error}"));
    let input = Json::parse(INPUT).unwrap_or_else(|error| panic!("{error}"));
    vec![Submission::new(task_type, input); count]
}

#[divan::bench]
fn check_an_input(bencher: Bencher) {
    let (spec, input) = (spec(), Json::parse(INPUT).unwrap_or_else(|error| panic!("{error}")));
    bencher.bench(|| spec.check_input(black_box(&input)));
}

/// So many at once: checked, routed, kept in memory and announced. The store in memory is part of the figure.
#[divan::bench(args = [1, 500])]
fn submit(bencher: Bencher, count: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap_or_else(|error| panic!("{error}"));
    let tenant = Tenant::default();
    bencher
        .counter(divan::counter::ItemsCount::new(count))
        .with_inputs(|| (tasks(), submissions(count)))
        .bench_values(|(tasks, submissions)| runtime.block_on(tasks.submit(&tenant, submissions)));
}
