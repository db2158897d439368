use super::*;

fn json(text: &str) -> Json {
    Json::parse(text).expect("JSON")
}

fn need(task: i64, name: Option<&str>, on_failure: OnFailure) -> Need {
    Need { task: TaskId(task), name: name.map(|name| NodeName::new(name).expect("a name")), on_failure }
}

fn needs(all: &[Need]) -> Needs {
    Needs { after: all.to_vec(), ..Needs::default() }
}

fn completed(result: &str) -> NeedState {
    NeedState::Ended { end: End::Completed, error: None, result: Some(json(result)) }
}

fn failed() -> NeedState {
    let error = Some(Failure::permanent("bad_input", "it is bad"));
    NeedState::Ended { end: End::Failed, error, result: None }
}

#[test]
fn a_task_starts_when_all_that_it_needs_have_completed() {
    let needs = needs(&[need(1, None, OnFailure::Cancel), need(2, None, OnFailure::Cancel)]);
    let input = json("{}");
    assert_eq!(judge(&needs, &input, &[NeedState::Open, completed("1")]), Verdict::Wait);
    assert_eq!(judge(&needs, &input, &[completed("1"), completed("1")]), Verdict::Start(None));
}

#[test]
fn one_that_cannot_do_without_gives_up_at_once_and_names_who_failed() {
    let needs = needs(&[need(1, None, OnFailure::Cancel), need(2, Some("fetch"), OnFailure::Cancel)]);
    let told = |state| match judge(&needs, &json("{}"), &[NeedState::Open, state]) {
        Verdict::GiveUp(failure) => (failure.code, failure.message),
        other => panic!("{other:?}"),
    };
    let (code, message) = told(failed());
    assert_eq!(code, "dependency_failed");
    assert_eq!(message, "task 2 (fetch), which this task waits for, ended as FAILED: bad_input: it is bad");
    assert!(told(NeedState::Gone).1.ends_with("was deleted"));
    let cancelled = NeedState::Ended { end: End::Cancelled, error: None, result: None };
    assert!(told(cancelled).1.ends_with("ended as CANCELLED"));
}

#[test]
fn one_that_runs_anyway_waits_for_every_end() {
    let needs = needs(&[need(1, None, OnFailure::Run), need(2, None, OnFailure::Run)]);
    assert_eq!(judge(&needs, &json("{}"), &[failed(), NeedState::Open]), Verdict::Wait);
    assert_eq!(judge(&needs, &json("{}"), &[failed(), NeedState::Gone]), Verdict::Start(None));
}

#[test]
fn references_become_what_they_refer_to() {
    let needs = needs(&[need(7, Some("fetch"), OnFailure::Cancel), need(8, None, OnFailure::Cancel)]);
    let input = json(
        r#"{"a":{"$result":"fetch","path":"/pages/1"},"b":[{"$result":8}],"c":{"$result":"8","path":""},
            "d":{"$text":["Sum up: ",{"$result":"fetch","path":"/pages/0"}," (",{"$result":8},")"]},"e":1}"#,
    );
    let states = [completed(r#"{"pages":["one","two"]}"#), completed("42")];
    let Verdict::Start(Some(resolved)) = judge(&needs, &input, &states) else { panic!("it starts") };
    assert_eq!(resolved.as_str(), r#"{"a":"two","b":[42],"c":42,"d":"Sum up: one (42)","e":1}"#);
    // What came from a result is not looked into again.
    let sly = [completed(r#"{"pages":["",{"$result":8}]}"#), completed("42")];
    let Verdict::Start(Some(resolved)) = judge(&needs, &json(r#"{"$result":7,"path":"/pages/1"}"#), &sly)
    else {
        panic!("it starts")
    };
    assert_eq!(resolved.as_str(), r#"{"$result":8}"#);
    let again = Needs { resolved: true, ..needs };
    assert_eq!(judge(&again, &resolved, &sly), Verdict::Start(None));
}

#[test]
fn a_reference_to_nothing_fails_the_task_and_says_where() {
    let needs = needs(&[need(7, Some("fetch"), OnFailure::Run)]);
    for (input, state, expected) in [
        (
            r#"{"$result":"fetch","path":"/a/b"}"#,
            completed(r#"{"a":1}"#),
            "the result of task 7 (fetch) has nothing at \"/a/b\"",
        ),
        (r#"{"$result":"fetch"}"#, failed(), "task 7 (fetch) has no result"),
        (r#"{"$result":"fetch"}"#, NeedState::Gone, "task 7 (fetch) was deleted"),
        (r#"{"$result":"else"}"#, completed("1"), "which the task does not wait for"),
    ] {
        match judge(&needs, &json(input), &[state]) {
            Verdict::Fail(failure) => {
                assert_eq!(failure.code, "input_reference");
                assert!(failure.message.contains(expected), "{}", failure.message);
            }
            other => panic!("{input}: {other:?}"),
        }
    }
    let big = json(&format!("\"{}\"", "x".repeat(3 << 20)));
    let state = NeedState::Ended { end: End::Completed, error: None, result: Some(big) };
    let Verdict::Fail(failure) = judge(&needs, &json(r#"[{"$result":7},{"$result":7}]"#), &[state]) else {
        panic!("too long")
    };
    assert!(failure.message.contains("longer than 4194304 bytes"), "{}", failure.message);
}

#[test]
fn what_is_wrong_with_a_reference_is_told_before_it_is_stored() {
    let needs = needs(&[need(7, Some("fetch"), OnFailure::Cancel)]);
    assert_eq!(reference::check(&json(r#"[{"$result":"fetch"},{"$result":7}]"#), &needs), Ok(()));
    for (input, expected) in [
        (r#"{"$result":"fetsch"}"#, "\"fetsch\", and the task waits for task 7 (fetch)"),
        (r#"{"$result":["fetch"]}"#, "neither a name nor a number"),
        (r#"{"$result":"fetch","path":"a"}"#, "no JSON pointer"),
        (r#"{"$result":"fetch","pth":"/a"}"#, "no \"pth\""),
        (r#"{"$text":"fetch"}"#, "not a list"),
    ] {
        let told = reference::check(&json(input), &needs).expect_err(input);
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn needs_are_read_as_they_were_kept() {
    let needs = needs(&[need(7, Some("fetch"), OnFailure::Run), need(8, None, OnFailure::Cancel)]);
    let text = needs.to_text();
    assert_eq!(
        text,
        r#"{"after":[{"task":7,"name":"fetch","on_failure":"run"},{"task":8,"on_failure":"cancel"}]}"#
    );
    assert_eq!(Needs::from_text(&text).expect("readable"), needs);
}

#[test]
fn a_batch_has_completed_when_all_its_items_have() {
    let mut counts = BatchCounts::default();
    counts.add(Status::Completed, 3);
    assert_eq!(counts.conclude().1, None);
    counts.add(Status::Failed, 1);
    counts.add(Status::Cancelled, 1);
    let (result, error) = counts.conclude();
    assert_eq!(result.as_str(), r#"{"total":5,"completed":3,"failed":1,"cancelled":1,"expired":0}"#);
    let error = error.expect("not all completed");
    assert_eq!(error.code, "batch_incomplete");
    assert_eq!(error.message, "2 of 5 items did not complete (1 failed, 1 cancelled, 0 expired)");
}

#[test]
fn a_task_that_never_ran_looks_at_its_needs_again() {
    let (echo, batch) =
        (TaskType::new("demo.echo").expect("a type"), TaskType::new(BATCH_TYPE).expect("a type"));
    let needs = needs(&[need(7, None, OnFailure::Cancel)]);
    let ran = Counters { attempt: 1, ..Counters::default() };
    assert!(waits_again(&echo, Some(&needs), Counters::default()));
    assert!(!waits_again(&echo, Some(&needs), ran));
    assert!(!waits_again(&echo, None, Counters::default()));
    assert!(waits_again(&batch, None, ran));
}
