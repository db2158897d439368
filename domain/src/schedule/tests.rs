use chrono::{TimeDelta, TimeZone};
use proptest::prelude::*;

use super::*;

fn utc(text: &str) -> Timestamp {
    chrono::DateTime::parse_from_rfc3339(text).expect("a moment").to_utc()
}

fn start() -> Timestamp {
    utc("2026-11-23T12:00:00Z")
}

fn seconds(n: i64) -> TimeDelta {
    TimeDelta::seconds(n)
}

fn schedule(catch_up: CatchUp, overlap: Overlap, every: u64) -> Schedule {
    let cadence = Cadence::every(Duration::from_secs(every), start()).expect("a cadence");
    let template = Template {
        task_type: TaskType::new("demo.noop").expect("a type"),
        queue: QueueName::default_queue(),
        priority: Priority::default(),
        input: Json::parse("{}").expect("JSON"),
        metadata: None,
        limits: Limits::default(),
        own: OwnTerms::default(),
    };
    let name = ScheduleName::new("clean-up").expect("a name");
    let tenant = Tenant::default();
    let jitter = Duration::ZERO;
    let spec = NewSchedule {
        tenant,
        name,
        cadence,
        catch_up,
        overlap,
        jitter,
        template,
        paused: false,
        configured: false,
    };
    Schedule {
        id: ScheduleId(1),
        spec,
        revision: 1,
        next_tick: Some(start()),
        last_tick: None,
        last_task: None,
        created_at: start(),
        updated_at: start(),
    }
}

fn ticks(cadence: &Cadence, after: &str, count: usize) -> Vec<String> {
    std::iter::successors(cadence.next_after(utc(after)), |tick| cadence.next_after(*tick))
        .take(count)
        .map(|tick| tick.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
        .collect()
}

#[test]
fn a_fixed_time_that_daylight_saving_skips_comes_right_after_the_gap() {
    let cadence = Cadence::cron("30 2 * * *", "Europe/Berlin").expect("a cadence");
    assert_eq!(
        ticks(&cadence, "2026-03-28T00:00:00Z", 3),
        ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
    );
}

#[test]
fn a_fixed_time_that_comes_twice_counts_once() {
    let cadence = Cadence::cron("30 2 * * *", "Europe/Berlin").expect("a cadence");
    assert_eq!(
        ticks(&cadence, "2026-10-24T12:00:00Z", 2),
        ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
        "the first 02:30 of the 25th, in summer time"
    );
}

#[test]
fn what_repeats_goes_on_through_both_changes() {
    let cadence = Cadence::cron("*/30 * * * *", "Europe/Berlin").expect("a cadence");
    for day in ["2026-03-29T00:00:00Z", "2026-10-25T00:00:00Z"] {
        let around = std::iter::successors(cadence.next_after(utc(day)), |tick| cadence.next_after(*tick));
        let gaps: Vec<_> =
            around.take(10).collect::<Vec<_>>().windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| *gap == TimeDelta::minutes(30)), "{day}: {gaps:?}");
    }
}

#[test]
fn intervals_do_not_drift() {
    let cadence = Cadence::every(Duration::from_millis(1_500), start()).expect("a cadence");
    assert_eq!(cadence.next_after(start() - seconds(9)), Some(start()));
    assert_eq!(cadence.next_after(start()), Some(start() + TimeDelta::milliseconds(1_500)));
    assert_eq!(cadence.next_after(start() + seconds(4)), Some(start() + TimeDelta::milliseconds(4_500)));
}

#[test]
fn a_date_that_never_comes_is_never_due() {
    let cadence = Cadence::cron("0 0 31 2 *", "UTC").expect("it reads well");
    assert_eq!(cadence.next_after(start()), None);
}

#[test]
fn a_refusal_names_the_value_and_an_example() {
    for text in ["", "every day", "99 * * * *", "* * * *", &"*".repeat(500)] {
        let refusal = CronExpression::new(text).expect_err("no cron expression").to_string();
        assert!(refusal.len() < 400, "{refusal}");
    }
    let refusal = Cadence::cron("0 2 * * *", "Berlin").expect_err("no zone").to_string();
    assert!(refusal.contains("\"Berlin\"") && refusal.contains("Europe/Berlin"), "{refusal}");
    assert!(Cadence::every(Duration::from_millis(10), start()).is_err());
}

/// Policies, seconds after the first of ticks every 30 s, and whether the last task runs; then which ticks are fired, how
/// many were missed, how many came too early, and what comes next, as seconds after the first tick.
type Row = (CatchUp, Overlap, i64, bool, &'static [i64], u32, u32, Option<i64>);

#[test]
fn the_policies_are_as_the_table_says() {
    use CatchUp::{All, Latest, Skip};
    #[rustfmt::skip]
    let table: &[Row] = &[
        // in time
        (Skip, Overlap::Allow, 0, false, &[0], 0, 0, Some(30)),
        (Skip, Overlap::Allow, 59, true, &[0, 30], 0, 0, Some(60)),
        // late: 0..=120 are missed, 150 and 180 are in time
        (Skip, Overlap::Allow, 185, false, &[150, 180], 5, 0, Some(210)),
        (Latest, Overlap::Allow, 185, false, &[150, 180], 5, 0, Some(210)),
        (All, Overlap::Allow, 185, false, &[0, 30, 60, 90, 120, 150, 180], 0, 0, Some(210)),
        // while the last one runs
        (Skip, Overlap::Skip, 35, true, &[], 0, 2, Some(60)),
        (Skip, Overlap::Skip, 35, false, &[0], 0, 1, Some(60)),
        (Skip, Overlap::Queue, 35, true, &[], 0, 1, Some(30)),
        (Skip, Overlap::Queue, 35, false, &[0], 0, 0, Some(30)),
        (Skip, Overlap::CancelRunning, 35, true, &[30], 0, 1, Some(60)),
        (Skip, Overlap::CancelRunning, 185, false, &[180], 5, 1, Some(210)),
    ];
    for (catch_up, overlap, at, running, fired, missed, overlapped, next) in table {
        let plan = plan(&schedule(*catch_up, *overlap, 30), start() + seconds(*at), *running);
        let plan = plan.unwrap_or_else(|| panic!("{catch_up:?} {overlap:?} {at}: nothing to do"));
        let context = format!("{catch_up:?} {overlap:?} {at} {running}: {plan:?}");
        let expected: Vec<_> = fired.iter().map(|n| start() + seconds(*n)).collect();
        assert_eq!(plan.fire, expected, "{context}");
        let count = |reason| -> u32 {
            plan.skipped.iter().filter(|run| run.reason == reason).map(|run| run.count).sum()
        };
        assert_eq!(
            (count(SkipReason::Missed), count(SkipReason::Overlap)),
            (*missed, *overlapped),
            "{context}"
        );
        assert_eq!(plan.next_tick, next.map(|n| start() + seconds(n)), "{context}");
        assert_eq!(plan.cancel_running, *overlap == Overlap::CancelRunning && *running, "{context}");
    }
}

#[test]
fn the_latest_missed_tick_is_caught_up() {
    let daily = Schedule { next_tick: Some(start()), ..schedule(CatchUp::Latest, Overlap::Allow, 3600) };
    let plan = plan(&daily, start() + TimeDelta::minutes(200), false).expect("due");
    assert_eq!(plan.fire, [start() + TimeDelta::hours(3)]);
    assert_eq!(plan.skipped.iter().map(|run| run.count).sum::<u32>(), 3);
}

#[test]
fn a_queued_tick_is_fired_late_and_only_when_the_last_task_has_ended() {
    let waiting = Schedule {
        last_task: Some(TaskId(1)),
        next_tick: Some(start()),
        ..schedule(CatchUp::Skip, Overlap::Queue, 86_400)
    };
    let later = start() + seconds(900);
    assert_eq!(plan(&waiting, later, true), None, "it waits");
    assert_eq!(plan(&waiting, later, false).expect("its turn").fire, [start()]);
}

#[test]
fn what_stands_still_or_lies_ahead_is_left_alone() {
    let ahead = schedule(CatchUp::All, Overlap::Allow, 30);
    assert_eq!(plan(&ahead, start() - seconds(1), false), None);
    let mut paused = ahead;
    paused.spec.paused = true;
    assert_eq!(plan(&paused, start() + seconds(100), false), None);
}

proptest! {
    /// However late a look comes, whatever the policies: each tick up to now is fired once, declared skipped once, or
    /// still to come.
    #[test]
    fn no_tick_is_lost_or_fired_twice(
        looks in proptest::collection::vec((0_i64..400, any::<bool>()), 1..30),
        every in 1_u64..90, catch_up in 0_usize..3, overlap in 0_usize..4,
    ) {
        let mut schedule = schedule(CatchUp::ALL[catch_up], Overlap::ALL[overlap], every);
        let (mut now, mut fired, mut skipped) = (start(), Vec::new(), 0_u64);
        for (passes, running) in looks {
            now += seconds(passes);
            while let Some(plan) = plan(&schedule, now, running) {
                skipped += plan.skipped.iter().map(|run| u64::from(run.count)).sum::<u64>();
                schedule.last_task = plan.fire.last().map(|_| TaskId(1)).or(schedule.last_task);
                fired.extend(plan.fire);
                schedule.next_tick = plan.next_tick;
            }
        }
        let before = fired.len();
        fired.sort();
        fired.dedup();
        prop_assert_eq!(fired.len(), before, "a tick was fired twice");
        let next = schedule.next_tick.expect("an interval goes on");
        let done = u64::try_from((next - start()).num_seconds()).expect("forward") / every;
        prop_assert_eq!(fired.len() as u64 + skipped, done);
    }

    #[test]
    fn ticks_rise(after in 0_i64..4_000_000_000, zone in 0_usize..4, pattern in 0_usize..4) {
        let zone = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"][zone];
        let pattern = ["* * * * *", "0 2 * * *", "15,45 1-3 * * 0", "0 0 29 2 *"][pattern];
        let cadence = Cadence::cron(pattern, zone).expect("a cadence");
        let after = chrono::Utc.timestamp_opt(after, 0).single().expect("a moment");
        let first = cadence.next_after(after).expect("there is always another");
        prop_assert!(first > after);
        let second = cadence.next_after(first).expect("there is always another");
        prop_assert!(second > first);
        prop_assert_eq!(cadence.next_after(second - seconds(1)), Some(second));
    }
}

#[test]
fn jitter_spreads_ticks_and_is_the_same_for_everybody() {
    let plain = schedule(CatchUp::Skip, Overlap::Allow, 60).spec;
    assert_eq!(plain.start_of(start()), crate::Start::Now);
    let jitter = Duration::from_secs(30);
    let spread = NewSchedule { jitter, ..plain };
    let other = NewSchedule { name: ScheduleName::new("other").expect("a name"), ..spread.clone() };
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..200 {
        let tick = start() + seconds(60 * n);
        let crate::Start::At(at) = spread.start_of(tick) else { panic!("no moment") };
        assert!(at >= tick && at < tick + jitter, "{at} of {tick}");
        assert_eq!(spread.clone().start_of(tick), crate::Start::At(at), "whoever asks");
        assert_ne!(other.start_of(tick), crate::Start::At(at), "another schedule starts at another moment");
        seen.insert(at - tick);
    }
    assert!(seen.len() > 150, "{} different moments", seen.len());
}
