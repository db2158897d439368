//! What quotas let through, and when.

use proptest::prelude::*;

use super::*;

fn at(millis: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + TimeDelta::milliseconds(millis)
}

fn quota(requests: u64, tokens: u64, burst: u64) -> Quota {
    let burst = Duration::from_secs(burst);
    Quota { requests: PerMinute::new(requests), tokens: PerMinute::new(tokens), burst }
}

fn reserve(meter: &mut Meter, quota: &Quota, tokens: u64, millis: i64) -> Verdict {
    meter.step(quota, &Step::Reserve { tokens, again: false }, at(millis))
}

fn wait(verdict: Verdict) -> (Duration, &'static str) {
    match verdict {
        Verdict::Refused(Refusal::ComeBack { after, limit }) => (after, limit.0),
        other => panic!("not {other:?}"),
    }
}

#[test]
fn a_burst_passes_and_then_what_the_rate_lets_through() {
    let (quota, mut meter) = (quota(60, 0, 2), Meter::default());
    assert_eq!(reserve(&mut meter, &quota, 9, 0), Verdict::Pass);
    assert_eq!(reserve(&mut meter, &quota, 9, 0), Verdict::Pass);
    assert_eq!(wait(reserve(&mut meter, &quota, 9, 0)), (Duration::from_secs(1), "requests"));
    // The next in the line comes nine tenths of a second behind that, and who comes back too early is not sent behind it.
    assert_eq!(wait(reserve(&mut meter, &quota, 9, 0)), (Duration::from_millis(1_900), "requests"));
    let again = Step::Reserve { tokens: 9, again: true };
    assert_eq!(wait(meter.step(&quota, &again, at(900))), (Duration::from_millis(100), "requests"));
    assert_eq!(reserve(&mut meter, &quota, 9, 1_000), Verdict::Pass);
}

#[test]
fn the_dimension_that_opens_last_decides_and_neither_is_charged_before() {
    let (quota, mut meter) = (quota(60, 600, 10), Meter::default());
    assert_eq!(reserve(&mut meter, &quota, 100, 0), Verdict::Pass);
    assert_eq!(wait(reserve(&mut meter, &quota, 50, 0)), (Duration::from_secs(5), "tokens"));
    for _ in 0..9 {
        assert_eq!(reserve(&mut meter, &quota, 0, 0), Verdict::Pass);
    }
    assert_eq!(wait(reserve(&mut meter, &quota, 0, 0)).1, "requests");
}

#[test]
fn what_is_larger_than_a_burst_never_passes() {
    let mut meter = Meter::default();
    let too_large = Verdict::Refused(Refusal::TooLarge { tokens: 101, most: 100 });
    assert_eq!(reserve(&mut meter, &quota(60, 600, 10), 101, 0), too_large);
    assert_eq!(reserve(&mut meter, &quota(60, 600, 10), 100, 0), Verdict::Pass);
    assert_eq!(reserve(&mut Meter::default(), &Quota::NONE, u64::MAX, 0), Verdict::Pass);
}

#[test]
fn what_was_not_used_is_given_back_and_what_was_used_beyond_is_charged() {
    let (quota, mut meter) = (quota(0, 600, 10), Meter::default());
    let settle = |reserved, used| Step::Settle { reserved, used };
    assert_eq!(reserve(&mut meter, &quota, 100, 0), Verdict::Pass);
    meter.step(&quota, &settle(100, Some(25)), at(0));
    assert_eq!(reserve(&mut meter, &quota, 75, 0), Verdict::Pass);
    meter.step(&quota, &settle(75, Some(85)), at(0));
    assert_eq!(wait(reserve(&mut meter, &quota, 10, 0)).0, Duration::from_secs(1) + Duration::from_secs(1));
    // A call that was not made gives all of it back.
    meter.step(&quota, &settle(85, None), at(0));
    assert_eq!(reserve(&mut meter, &quota, 70, 0), Verdict::Pass);
}

#[test]
fn those_in_the_line_stand_as_close_as_calls_have_cost_lately() {
    let (quota, mut meter) = (quota(0, 600, 10), Meter::default());
    for _ in 0..200 {
        meter.step(&quota, &Step::Settle { reserved: 100, used: Some(20) }, at(0));
    }
    assert_eq!(reserve(&mut meter, &quota, 100, 0), Verdict::Pass);
    let first = wait(reserve(&mut meter, &quota, 100, 0)).0;
    let second = wait(reserve(&mut meter, &quota, 100, 0)).0;
    let apart = (second - first).as_secs_f64();
    assert!((1.7..=2.0).contains(&apart), "ten seconds of estimate, two of use: {apart}");
    for _ in 0..1_000 {
        assert!(wait(reserve(&mut meter, &quota, 100, 0)).0 <= Quota::LONGEST_WAIT);
    }
}

#[test]
fn a_provider_that_wants_to_be_left_alone_is_by_everybody_until_then() {
    let mut meter = Meter::default();
    let close = |seconds, code: &str| Step::Close {
        time: Duration::from_secs(seconds),
        code: code.to_owned(),
        message: "slow down".to_owned(),
        by_rate: true,
    };
    meter.step(&Quota::NONE, &close(5, "rate_limit_exceeded"), at(0));
    meter.step(&Quota::NONE, &close(1, "shorter"), at(0));
    match reserve(&mut meter, &Quota::NONE, 1, 4_999) {
        Verdict::Refused(Refusal::Closed { left, code, .. }) => {
            assert_eq!((left, code.as_str()), (Duration::from_millis(1), "rate_limit_exceeded"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(reserve(&mut meter, &Quota::NONE, 1, 5_000), Verdict::Pass);
    assert_eq!(meter, Meter::default(), "nothing is left of it");
}

#[test]
fn what_a_provider_says_is_left_holds_and_gives_nothing_back() {
    let (quota, mut meter) = (quota(60, 600, 60), Meter::default());
    let left = |requests, tokens| Step::Left { requests, tokens };
    meter.step(&quota, &left(Some(1), Some(600)), at(0));
    assert_eq!(reserve(&mut meter, &quota, 1, 0), Verdict::Pass);
    meter.step(&quota, &left(Some(60), None), at(0));
    assert_eq!(wait(reserve(&mut meter, &quota, 1, 0)), (Duration::from_secs(1), "requests"));
}

#[test]
fn a_meter_is_kept_as_text_and_an_unknown_field_is_no_obstacle() {
    let (quota, mut meter) = (quota(60, 600, 1), Meter::default());
    reserve(&mut meter, &quota, 1, 0);
    reserve(&mut meter, &quota, 1, 0);
    let text = serde_json::to_string(&meter).expect("JSON");
    assert_eq!(serde_json::from_str::<Meter>(&text).expect("a meter"), meter);
    assert_eq!(
        serde_json::from_str::<Meter>(r#"{"of_a_later_version":1}"#).expect("a meter"),
        Meter::default()
    );
}

proptest! {
    /// In any window, no more passes than a burst and what the rate lets through, however calls settle.
    #[test]
    fn no_more_passes_than_a_burst_and_the_rate(
        steps in prop::collection::vec((0_i64..3_000, 1_u64..60, 0_u64..=100), 1..200),
    ) {
        let (quota, mut meter) = (quota(120, 1_200, 10), Meter::default());
        let (mut now, mut passed) = (0, Vec::new());
        for (pause, tokens, used) in steps {
            now += pause;
            if reserve(&mut meter, &quota, tokens, now) == Verdict::Pass {
                let used = tokens * used / 100;
                meter.step(&quota, &Step::Settle { reserved: tokens, used: Some(used) }, at(now));
                passed.push((now, used));
            }
        }
        for (place, (from, _)) in passed.iter().enumerate() {
            let mut sum = 0;
            for (count, (until, used)) in passed[place..].iter().enumerate() {
                sum += used;
                let seconds = (until - from) as f64 / 1_000.0;
                prop_assert!(sum as f64 <= 200.0 + 20.0 * seconds + 1.0, "{sum} tokens in {seconds} s");
                prop_assert!((count + 1) as f64 <= 20.0 + 2.0 * seconds + 1.0);
            }
        }
    }

    /// Who comes back when told so is let through sooner or later, and the rate is used.
    #[test]
    fn those_who_come_back_use_the_rate(tokens in 1_u64..200) {
        let (quota, mut meter) = (quota(0, 1_200, 10), Meter::default());
        // When each comes, and whether it did before.
        let mut waiting = vec![(0, false); 200];
        let (mut passed, mut asked) = (0, 0);
        while let Some(next) = waiting.iter().map(|(at, _)| *at).min().filter(|next| *next < 60_000) {
            let place = waiting.iter().position(|(at, _)| *at == next).unwrap_or_default();
            let again = waiting[place].1;
            asked += 1;
            match meter.step(&quota, &Step::Reserve { tokens, again }, at(next)) {
                Verdict::Pass => {
                    passed += 1;
                    meter.step(&quota, &Step::Settle { reserved: tokens, used: Some(tokens) }, at(next));
                    waiting[place] = (next + 1, false); // another one
                }
                verdict => {
                    let after = wait(verdict).0.as_micros().div_ceil(1_000);
                    waiting[place] = (next + i64::try_from(after).unwrap_or(1), true);
                }
            }
        }
        let passed_tokens = passed * tokens;
        let most = 200.0 + 20.0 * 60.0;
        prop_assert!(passed_tokens as f64 <= most + 1.0);
        prop_assert!(passed_tokens as f64 >= 0.9 * most - tokens as f64, "{passed_tokens} of {most}");
        // All come once; apart from that they seldom come in vain.
        prop_assert!(asked <= 200 + 4 * passed, "{asked} asked, {passed} passed");
    }
}
