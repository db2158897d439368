use proptest::prelude::*;

use super::*;
use crate::ErrorClass;

const STATES: [State; 8] = [
    State::Scheduled,
    State::Pending,
    State::Processing { cancel_requested: false },
    State::Processing { cancel_requested: true },
    State::Ended(End::Completed),
    State::Ended(End::Failed),
    State::Ended(End::Cancelled),
    State::Ended(End::Expired),
];

/// The whole machine as a table: rows are events, columns the states above. `-` is a refusal.
const TABLE: [(&str, [&str; 8]); 15] = [
    // event            Scheduled    Pending      Processing   ..cancelled  Completed Failed      Cancelled   Expired
    ("due", ["pending", "-", "-", "-", "-", "-", "-", "-"]),
    ("claim", ["-", "start", "-", "-", "-", "-", "-", "-"]),
    ("succeed", ["-", "-", "completed", "completed", "-", "-", "-", "-"]),
    ("fail transient", ["-", "-", "wait", "cancelled", "-", "-", "-", "-"]),
    ("fail permanent", ["-", "-", "failed", "cancelled", "-", "-", "-", "-"]),
    ("release", ["-", "-", "wait", "cancelled", "-", "-", "-", "-"]),
    ("put off", ["-", "-", "wait", "cancelled", "-", "-", "-", "-"]),
    ("lose worker", ["-", "-", "wait", "cancelled", "-", "-", "-", "-"]),
    ("cancel", ["cancelled", "cancelled", "request cancel", "request cancel", "-", "-", "-", "-"]),
    ("stop cancelled", ["-", "-", "-", "cancelled", "-", "-", "-", "-"]),
    ("expire", ["expired", "expired", "-", "-", "-", "-", "-", "-"]),
    ("give up", ["cancelled", "-", "-", "-", "-", "-", "-", "-"]),
    ("conclude", ["completed", "-", "-", "-", "-", "-", "-", "-"]),
    ("conclude badly", ["failed", "-", "-", "-", "-", "-", "-", "-"]),
    ("retry", ["-", "-", "-", "-", "-", "reopen", "reopen", "reopen"]),
];

struct Fixture {
    transient: Failure,
    permanent: Failure,
    policy: RetryPolicy,
    limits: Limits,
}

impl Fixture {
    fn new() -> Self {
        Self {
            transient: Failure::transient("busy", "the server is busy"),
            permanent: Failure::permanent("bad", "the input is bad"),
            policy: RetryPolicy::default(),
            limits: Limits::default(),
        }
    }

    fn event(&self, name: &str) -> Event<'_> {
        let fail = |failure| Event::Fail { failure, policy: &self.policy, limits: &self.limits, chance: 0.5 };
        match name {
            "due" => Event::Due,
            "claim" => Event::Claim,
            "succeed" => Event::Succeed,
            "fail transient" => fail(&self.transient),
            "fail permanent" => fail(&self.permanent),
            "release" => Event::Release,
            "put off" => Event::PutOff { after: Duration::from_secs(3) },
            "lose worker" => Event::LoseWorker { charged: true },
            "cancel" => Event::Cancel,
            "stop cancelled" => Event::StopCancelled,
            "expire" => Event::Expire,
            "give up" => Event::GiveUp { failure: &self.permanent },
            "conclude" => Event::Conclude { failure: None },
            "conclude badly" => Event::Conclude { failure: Some(&self.permanent) },
            "retry" => Event::Retry,
            other => panic!("no event is called {other}"),
        }
    }
}

fn name(decision: &Result<Change, Refusal>) -> &'static str {
    match decision {
        Err(_) => "-",
        Ok(Change::BecomePending) => "pending",
        Ok(Change::Start) => "start",
        Ok(Change::Wait { .. }) => "wait",
        Ok(Change::RequestCancel) => "request cancel",
        Ok(Change::Reopen { .. }) => "reopen",
        Ok(Change::Finish { end, .. }) => match end {
            End::Completed => "completed",
            End::Failed => "failed",
            End::Cancelled => "cancelled",
            End::Expired => "expired",
        },
    }
}

#[test]
fn every_state_and_event_pair_is_as_the_table_says() {
    let fixture = Fixture::new();
    let counters = Counters { attempt: 1, ..Counters::default() };
    for (event, row) in TABLE {
        for (state, expected) in STATES.into_iter().zip(row) {
            let decision = decide(state, counters, fixture.event(event));
            assert_eq!(name(&decision), expected, "{event} in {state:?}");
        }
    }
}

/// The document shows the table that the test above holds the code to.
#[test]
fn the_documented_table_is_this_one() {
    let document = include_str!("../../../docs/state-machine.md");
    let names = [
        "SCHEDULED",
        "PENDING",
        "PROCESSING",
        "PROCESSING, cancel requested",
        "COMPLETED",
        "FAILED",
        "CANCELLED",
        "EXPIRED",
    ];
    let mut table = format!("| event | {} |\n|---{}|\n", names.join(" | "), "|---".repeat(names.len()));
    for (event, row) in TABLE {
        let cells = row.map(|cell| if cell == "-" { "" } else { cell });
        table.push_str(&format!("| {event} | {} |\n", cells.join(" | ")));
    }
    assert!(document.contains(&table), "docs/state-machine.md should contain this table:\n\n{table}");
}

/// So does the picture: an arrow per edge of the table.
#[test]
fn the_documented_picture_is_this_one() {
    let document = include_str!("../../../docs/state-machine.md");
    let names =
        ["SCHEDULED", "PENDING", "PROCESSING", "PROCESSING", "COMPLETED", "FAILED", "CANCELLED", "EXPIRED"];
    let mut edges = std::collections::BTreeMap::<(&str, &str), Vec<&str>>::new();
    for (event, row) in TABLE {
        for (from, cell) in names.into_iter().zip(row) {
            let to: &[&str] = match cell {
                "pending" | "reopen" => &["PENDING"],
                "start" => &["PROCESSING"],
                "wait" if matches!(event, "fail transient" | "put off") => &["SCHEDULED"],
                "wait" => &["PENDING"],
                "completed" => &["COMPLETED"],
                "failed" => &["FAILED"],
                "cancelled" => &["CANCELLED"],
                "expired" => &["EXPIRED"],
                _ => &[],
            };
            for to in to {
                let events = edges.entry((from, to)).or_default();
                if !events.contains(&event) {
                    events.push(event);
                }
            }
        }
    }
    let mut picture = String::from(
        "stateDiagram-v2\n    [*] --> PENDING: submit\n    [*] --> SCHEDULED: submit for later\n",
    );
    for ((from, to), events) in edges {
        picture.push_str(&format!("    {from} --> {to}: {}\n", events.join(", ")));
    }
    assert!(document.contains(&picture), "docs/state-machine.md should contain this picture:\n\n{picture}");
}

#[test]
fn the_failure_budget_ends_the_task() {
    let fixture = Fixture::new();
    let limits = Limits { max_attempts: 3, ..Limits::default() };
    for (failures, expected) in [(0, "wait"), (1, "wait"), (2, "failed"), (7, "failed")] {
        let counters = Counters { attempt: 9, failures, crashes: 2, ..Counters::default() };
        let event = Event::Fail {
            failure: &fixture.transient,
            policy: &fixture.policy,
            limits: &limits,
            chance: 0.0,
        };
        let decision = decide(State::Processing { cancel_requested: false }, counters, event);
        assert_eq!(name(&decision), expected, "after {failures} failures");
    }
}

#[test]
fn the_third_charged_crash_is_poison() {
    let running = State::Processing { cancel_requested: false };
    for (crashes, poisoned) in [(0, false), (1, false), (2, true)] {
        let counters = Counters { attempt: 5, crashes, ..Counters::default() };
        match decide(running, counters, Event::LoseWorker { charged: true }) {
            Ok(Change::Wait { counters, outcome: AttemptOutcome::Crashed, .. }) => {
                assert!(!poisoned);
                assert_eq!(counters.crashes, crashes + 1);
                assert_ne!(counters.suspicion(), Suspicion::None);
            }
            Ok(Change::Finish { end: End::Failed, error: Some(error), .. }) => {
                assert!(poisoned);
                assert_eq!(error.code, "poison");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_crash_that_another_task_answers_for_is_not_charged() {
    let running = State::Processing { cancel_requested: false };
    let before = Counters { attempt: 5, failures: 1, crashes: 2, ..Counters::default() };
    match decide(running, before, Event::LoseWorker { charged: false }) {
        Ok(Change::Wait { counters, outcome: AttemptOutcome::Crashed, .. }) => assert_eq!(counters, before),
        other => panic!("{other:?}"),
    }
}

#[test]
fn another_run_starts_with_whole_budgets() {
    let fixture = Fixture::new();
    let limits = Limits { max_attempts: 2, ..Limits::default() };
    let spent = Counters { attempt: 5, failures: 2, crashes: 3, ..Counters::default() };
    let Ok(Change::Reopen { counters }) = decide(State::Ended(End::Failed), spent, Event::Retry) else {
        panic!("a failed task can run again")
    };
    assert_eq!((counters.attempt, counters.failures, counters.crashes), (5, 2, 3), "nothing falls");
    assert_eq!(counters.suspicion(), Suspicion::None);
    let running = State::Processing { cancel_requested: false };
    let fail =
        Event::Fail { failure: &fixture.transient, policy: &fixture.policy, limits: &limits, chance: 0.0 };
    assert_eq!(name(&decide(running, counters, fail)), "wait", "one failure of two");
    assert_eq!(name(&decide(running, counters, Event::LoseWorker { charged: true })), "wait");
}

#[test]
fn a_rate_limit_here_or_there_and_a_drain_cost_no_budget() {
    let fixture = Fixture::new();
    let limited = Failure::new(ErrorClass::RateLimited, "rate_limit_exceeded", "slow down");
    let before = Counters { attempt: 4, failures: 3, crashes: 2, ..Counters::default() };
    let fail =
        Event::Fail { failure: &limited, policy: &fixture.policy, limits: &fixture.limits, chance: 0.1 };
    for event in [fail, Event::Release, Event::PutOff { after: Duration::from_secs(9) }] {
        match decide(State::Processing { cancel_requested: false }, before, event) {
            Ok(Change::Wait { counters, outcome: AttemptOutcome::Released, .. }) => {
                assert_eq!(counters, before);
            }
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    /// Random histories: however events come, the counters never fall, a task ends once, and only a retry that a
    /// person asks for brings it back.
    #[test]
    fn histories_keep_the_promises(events in proptest::collection::vec(0_usize..TABLE.len(), 1..80)) {
        let fixture = Fixture::new();
        let (mut state, mut counters) = (State::Pending, Counters::default());
        for pick in events {
            let event = TABLE[pick].0;
            let Ok(change) = decide(state, counters, fixture.event(event)) else { continue };
            let before = counters;
            if let State::Ended(_) = state {
                prop_assert_eq!(event, "retry");
            }
            match change {
                Change::BecomePending => state = State::Pending,
                Change::Reopen { counters: now } => (state, counters) = (State::Pending, now),
                Change::Start => {
                    state = State::Processing { cancel_requested: false };
                    counters.attempt += 1;
                }
                Change::RequestCancel => state = State::Processing { cancel_requested: true },
                Change::Wait { after, counters: now, .. } => {
                    counters = now;
                    state = if after.is_zero() { State::Pending } else { State::Scheduled };
                }
                Change::Finish { end, counters: now, .. } => {
                    counters = now;
                    state = State::Ended(end);
                }
            }
            prop_assert!(counters.attempt >= before.attempt);
            prop_assert!(counters.failures >= before.failures && counters.crashes >= before.crashes);
            prop_assert!(counters.failures + counters.crashes <= counters.attempt);
        }
    }
}
