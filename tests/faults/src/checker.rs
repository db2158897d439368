//! One pure function over the three sources: what the clients saw, what the handlers did, what the database wrote.
//!
//! | promise | how it is broken |
//! |---|---|
//! | I1 | a submission answered 2xx is not stored, or has not ended once the backlog has drained |
//! | I2 | a task ends twice, vanishes without an outcome, lives again, or its outcome changes |
//! | I3 | a task passes from one holder to another without having been given up; a worker is declared dead, or its tasks are taken for crashed, while its lease runs; an attempt number does not rise; an attempt starts twice |
//! | I4 | what ended an attempt was not the attempt that the worker held then; a result that its attempt did not return |
//! | I5 | two tasks, or two answers, under one idempotency key |
//! | I6 | (waits for schedules) |
//! | I7 | a reader of a task's live events does not learn how it ended |
//! | I8 | the backlog does not drain in time |
//!
//! The bound on repeats: a handler is called again only for an attempt that was lost with its worker, was given back by
//! a drain, or failed; so all calls beyond the first are at most what workers held when they died, plus what they gave
//! back, plus failed attempts.

mod lives;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    time::Duration,
};

use crate::history::{Call, ClientEvent, HandlerEvent};

/// What the triggers wrote a row about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The place of a task that has not ended.
    Live,
    /// How a task ended.
    Outcome,
    /// How an attempt ended that did not end its task.
    Attempt,
    /// The end of a worker.
    Worker,
}

/// One row that the triggers wrote. What came to be has no `was_…`, what went has nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// When, by the database's clock, in microseconds since 1970.
    pub at: i64,
    /// About what.
    pub kind: Kind,
    /// About whom; none where it is about a worker.
    pub task: Option<i64>,
    /// State (or outcome) before.
    pub was_state: Option<String>,
    /// Holder before.
    pub was_worker: Option<i64>,
    /// Attempt before.
    pub was_attempt: Option<u32>,
    /// State (or outcome) after; `DEAD` or `RETIRED` of a worker.
    pub state: Option<String>,
    /// Holder after.
    pub worker: Option<i64>,
    /// Attempt after.
    pub attempt: Option<u32>,
    /// What a worker held when it died or retired.
    pub held: Option<u64>,
    /// How much of its lease was left when it was declared dead, in microseconds.
    pub lease_left: Option<i64>,
}

/// A stored task, when all is over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fate {
    /// Its number.
    pub task: i64,
    /// The key it was submitted under.
    pub key: Option<String>,
    /// How it ended, if it has.
    pub status: Option<String>,
    /// Its last attempt.
    pub attempt: Option<u32>,
    /// Attempts that failed.
    pub failures: u32,
    /// Attempts whose worker died.
    pub crashes: u32,
    /// What it came to.
    pub result: Option<String>,
    /// Why it did not.
    pub error: Option<String>,
}

/// How long the backlog took to drain once the faults had stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// So long; none where it had not when the limit was over.
    pub took: Option<Duration>,
    /// The stated time.
    pub limit: Duration,
    /// What had not ended then.
    pub left: i64,
}

/// All that is known of a run.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// What clients saw.
    pub clients: Vec<ClientEvent>,
    /// What handlers did.
    pub handlers: Vec<HandlerEvent>,
    /// What the database wrote.
    pub transitions: Vec<Transition>,
    /// What is stored in the end.
    pub fates: Vec<Fate>,
    /// How the backlog drained, where that was waited for.
    pub drain: Option<Drain>,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Such as `I2`.
    pub promise: &'static str,
    /// What was seen.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.text)
    }
}

/// What the evidence comes to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Every broken promise.
    pub violations: Vec<Violation>,
    /// Submissions that were answered 2xx.
    pub acknowledged: usize,
    /// Answers that never came; their calls were repeated.
    pub unknown: usize,
    /// Tasks that ended, by status.
    pub ended: BTreeMap<String, usize>,
    /// Calls of handlers.
    pub starts: usize,
    /// Of these, the ones beyond the first of each task.
    pub repeats: usize,
    /// The most repeats that the faults can explain.
    pub repeats_bound: usize,
    /// Workers that were declared dead.
    pub deaths: usize,
    /// What they held at that moment.
    pub held_at_deaths: usize,
    /// How long after the end of its lease the last found of them was declared dead.
    pub longest_unfound: Duration,
    /// Attempts that ended because their worker was gone.
    pub crashed: usize,
    /// Attempts that a drain gave back.
    pub released: usize,
}

impl Verdict {
    fn broken(&mut self, promise: &'static str, text: String) {
        self.violations.push(Violation { promise, text });
    }

    /// The violations as people read them, cut where there are many of one promise.
    pub fn texts(&self) -> Vec<String> {
        const SHOWN: usize = 10;
        let mut by_promise: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for violation in &self.violations {
            by_promise.entry(violation.promise).or_default().push(violation.to_string());
        }
        let shortened = by_promise.into_iter().flat_map(|(promise, mut texts)| {
            let more = texts.len().saturating_sub(SHOWN);
            texts.truncate(SHOWN);
            texts.extend((more > 0).then(|| format!("{promise}: … and {more} more")));
            texts
        });
        shortened.collect()
    }

    /// Whether this promise was broken.
    pub fn breaks(&self, promise: &str) -> bool {
        self.violations.iter().any(|violation| violation.promise == promise)
    }
}

/// Holds the evidence against the promises.
pub fn check(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::default();
    check_drain(evidence, &mut verdict);
    check_submissions(evidence, &mut verdict);
    let failed = lives::check(evidence, &mut verdict);
    check_handlers(evidence, &mut verdict, failed);
    check_readers(evidence, &mut verdict);
    for fate in &evidence.fates {
        if let Some(status) = &fate.status {
            *verdict.ended.entry(status.clone()).or_default() += 1;
        }
    }
    verdict
}

fn check_drain(evidence: &Evidence, verdict: &mut Verdict) {
    if let Some(Drain { took: None, limit, left }) = evidence.drain {
        verdict.broken("I8", format!("{left} tasks had not ended {limit:?} after the faults stopped"));
    }
}

/// I1 and I5.
fn check_submissions(evidence: &Evidence, verdict: &mut Verdict) {
    let fates: HashMap<i64, _> = evidence.fates.iter().map(|fate| (fate.task, fate)).collect();
    let mut keys: HashMap<u64, &str> = HashMap::new();
    let mut answers: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
    for event in &evidence.clients {
        match event {
            ClientEvent::Invoke { op, call: Call::Submit { key }, .. } => {
                keys.insert(*op, key);
            }
            ClientEvent::Ok { op, task, .. } => {
                let Some(key) = keys.get(op) else { continue };
                verdict.acknowledged += 1;
                answers.entry(key).or_default().insert(*task);
            }
            ClientEvent::Unknown { .. } => verdict.unknown += 1,
            ClientEvent::Invoke { .. } | ClientEvent::Refused { .. } => {}
        }
    }
    let drained = evidence.drain.is_some_and(|drain| drain.took.is_some());
    for (key, tasks) in &answers {
        if tasks.len() > 1 {
            verdict.broken("I5", format!("the key {key} was answered with several tasks: {tasks:?}"));
        }
        for task in tasks {
            match fates.get(task) {
                None => {
                    verdict
                        .broken("I1", format!("task {task} was acknowledged (key {key}) and is not stored"));
                }
                Some(fate) if fate.key.as_deref() != Some(*key) => {
                    let found = &fate.key;
                    verdict.broken(
                        "I1",
                        format!("task {task} was acknowledged for the key {key}, not {found:?}"),
                    );
                }
                Some(fate) if drained && fate.status.is_none() => {
                    verdict
                        .broken("I1", format!("task {task} was acknowledged (key {key}) and has not ended"));
                }
                Some(_) => {}
            }
        }
    }
    let mut stored: HashMap<&str, i64> = HashMap::new();
    for fate in &evidence.fates {
        let Some(key) = &fate.key else { continue };
        if let Some(first) = stored.insert(key, fate.task) {
            verdict
                .broken("I5", format!("the key {key} is stored twice: as task {first} and as {}", fate.task));
        }
    }
}

/// I3, I4 and the bound on repeats.
fn check_handlers(evidence: &Evidence, verdict: &mut Verdict, failed: usize) {
    let (mut starts, mut ends) = (HashSet::new(), HashSet::new());
    let mut tasks = HashSet::new();
    for event in &evidence.handlers {
        match *event {
            HandlerEvent::Start { task, attempt, .. } => {
                verdict.starts += 1;
                tasks.insert(task);
                if !starts.insert((task, attempt)) {
                    verdict.broken("I3", format!("attempt {attempt} of task {task} was started twice"));
                }
            }
            HandlerEvent::End { task, attempt, .. } => {
                ends.insert((task, attempt));
            }
        }
    }
    verdict.repeats = verdict.starts - tasks.len();
    verdict.repeats_bound = verdict.held_at_deaths + verdict.released + failed;
    if verdict.repeats > verdict.repeats_bound {
        let (repeats, bound) = (verdict.repeats, verdict.repeats_bound);
        verdict.broken(
            "I3",
            format!("handlers were called {repeats} times again, and only {bound} attempts were lost or given back"),
        );
    }
    for fate in evidence.fates.iter().filter(|fate| fate.status.as_deref() == Some("COMPLETED")) {
        let (task, attempt) = (fate.task, fate.attempt.unwrap_or_default());
        if !ends.contains(&(task, attempt)) {
            verdict.broken(
                "I4",
                format!("task {task} completed as attempt {attempt}, whose handler never ended"),
            );
            continue;
        }
        let result: serde_json::Value =
            fate.result.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        if result["attempt"] != attempt || result["task"] != task {
            let result = fate.result.as_deref().unwrap_or("nothing");
            verdict
                .broken("I4", format!("attempt {attempt} of task {task} completed with the result {result}"));
        }
    }
}

/// I7, and what clients were told against what is stored.
fn check_readers(evidence: &Evidence, verdict: &mut Verdict) {
    let fates: HashMap<i64, _> =
        evidence.fates.iter().map(|fate| (fate.task, fate.status.as_deref())).collect();
    let mut calls = HashMap::new();
    for event in &evidence.clients {
        match event {
            ClientEvent::Invoke { op, call: call @ (Call::Watch { .. } | Call::Cancel { .. }), .. } => {
                calls.insert(*op, call);
            }
            ClientEvent::Ok { op, code, status, .. } => match calls.get(op) {
                Some(Call::Watch { task }) => {
                    // Of a task that has not ended there is nothing to tell.
                    let stored = fates.get(task).copied().flatten();
                    if let Some(stored) = stored.filter(|stored| status != stored) {
                        let text =
                            format!("the events of task {task} end with {status:?}, and {stored} is stored");
                        verdict.broken("I7", text);
                    }
                }
                Some(Call::Cancel { task }) => {
                    let stored = fates.get(task).copied().flatten().unwrap_or("nothing");
                    // 200: it ended by this; 409: it had ended so. 202 promises nothing but the attempt.
                    if matches!(code, 200 | 409) && status != stored {
                        let text = format!(
                            "cancelling task {task} was answered {code} {status}, and {stored} is stored"
                        );
                        verdict.broken("I2", text);
                    }
                }
                Some(Call::Submit { .. }) | None => {}
            },
            ClientEvent::Invoke { .. } | ClientEvent::Unknown { .. } | ClientEvent::Refused { .. } => {}
        }
    }
}
