//! The small counts of the fault rig, as ordinary tests.

use faults_tests::{Scale, mutants::Mutant, runs};

const SEED: u64 = 1;

/// Tests of these runs.
macro_rules! small {
    ($($test:ident: $($run:ident)::+),+ $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            runs::$($run)::+(&Scale::small(SEED)).await.expect("the run ends").expect_none();
        }
    )+};
}

small! {
    random_histories: histories::run,
    t01_killed_workers: t01::workers,
    t01_killed_standalone: t01::standalone,
    t02_frozen_workers: t02::run,
    t03_killed_api: t03::api,
    t03_killed_standalone: t03::standalone,
    t04_killed_postgres: t04::run,
    t06_redis_faults: t06::faults,
    t06_redis_rebuilt: t06::rebuild,
    t07_black_holes: t07::run,
    t08_dropped_requests: t08::run,
    t09_jumping_clocks: t09::run,
    t10_full_disk: t10::run,
    t12_schedules: t12::run,
    t13_cancel_complete_and_take_over: t13::run,
    t14_poison: t14::run,
    t15_rolling_restarts: t15::run,
    t17_stalled_readers: t17::run,
    t18_many_in_flight: t18::run,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; `cargo xtask faults --mutants` shows more"]
async fn every_mutant_is_caught() {
    for mutant in Mutant::all() {
        let hunt = runs::hunt(*mutant, SEED).await.expect("its run is there");
        assert!(hunt.caught, "{} was not caught: {}", mutant.name(), hunt.proof);
    }
}
