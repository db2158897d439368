//! The small counts of the fault rig, as ordinary tests.

use faults_tests::{Scale, runs};

const SEED: u64 = 1;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t01_killed_workers() {
    runs::t01::workers(&Scale::small(SEED)).await.expect("the run ends").expect_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t01_killed_standalone() {
    runs::t01::standalone(&Scale::small(SEED)).await.expect("the run ends").expect_none();
}
