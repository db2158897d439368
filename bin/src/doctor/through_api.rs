//! What a running server says of itself, its workers and its queues.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Finding, ahead_of_here, doubtful, good, judge_clock, wrong};
use crate::client::{Api, items};

/// How long the first in a queue may have waited before that is worth a word, in seconds.
const LONG_WAIT: f64 = 300.0;
/// Of how many waiting tasks the types are compared.
const SAMPLE: usize = 200;

pub(super) async fn look(api: &Api) -> Vec<Finding> {
    let mut findings = match api.get_any_status("/health").await {
        Ok(health) => judge_health(&health),
        Err(error) => {
            let remedy = "start a server (`task-runner`, or `task-runner-api` beside workers), or name another with --url";
            return vec![wrong("api", format!("{error:#}"), remedy)];
        }
    };
    let workers = match api.get("/workers").await {
        Ok(workers) => workers,
        Err(error) => {
            findings.push(wrong("workers", format!("{error:#}"), "is the server of an older version?"));
            return findings;
        }
    };
    findings.extend(judge_workers(&workers));
    match api.get("/queues").await {
        Ok(queues) => findings.extend(judge_queues(&queues)),
        Err(_) => match api.get("/stats").await {
            Ok(stats) => findings.extend(judge_backlog(&stats, &workers)),
            Err(error) => findings.push(wrong("queues", format!("{error:#}"), "look into the server's log")),
        },
    }
    if let Ok(waiting) = api.get(&format!("/tasks?status=PENDING&limit={SAMPLE}")).await {
        findings.extend(judge_types(&waiting, &workers));
    }
    if let Ok(failed) = api.get("/tasks?error_code=unknown_task_type&limit=1").await
        && let Some(task) = items(&failed).next()
    {
        findings.push(doubtful(
            "types",
            format!(
                "tasks failed because their worker had no handler, such as {} ({})",
                task["id"],
                word(&task["type"])
            ),
            "start a worker that has the type, then run them again: `task-runner tasks retry ID`",
        ));
    }
    findings
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn words(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn judge_health(health: &Value) -> Vec<Finding> {
    let (status, version) = (word(&health["status"]), word(&health["version"]));
    let mut findings = Vec::new();
    match status {
        "healthy" | "degraded" => findings.push(good("api", format!("it is {status}, version {version}"))),
        status => findings.push(wrong(
            "api",
            format!("it is {status}"),
            "see what it says of its store below, and its log",
        )),
    }
    for one in
        health["dependencies"].as_array().into_iter().flatten().filter(|one| one["status"] != "healthy")
    {
        let found = format!("the server does not reach {}: {}", word(&one["name"]), word(&one["error"]));
        let remedy = "start it, or correct the server's configuration (`task-runner config` where it runs)";
        findings.push(if status == "unhealthy" {
            wrong("api", found, remedy)
        } else {
            doubtful("api", found, remedy)
        });
    }
    let here = env!("CARGO_PKG_VERSION");
    if version != here {
        findings.push(doubtful(
            "api",
            format!("the server is version {version}, this command {here}"),
            "use the same version",
        ));
    }
    if let Some(moment) = health["timestamp"].as_str().and_then(|text| text.parse().ok()) {
        findings.extend(judge_clock("api", "the server's", ahead_of_here(moment)));
    }
    findings
}

fn is_living(worker: &&Value) -> bool {
    matches!(worker["state"].as_str(), Some("alive" | "paused" | "draining"))
}

fn judge_workers(list: &Value) -> Vec<Finding> {
    let living: Vec<_> = items(list).filter(is_living).collect();
    let mut findings = Vec::new();
    match (living.len(), list["warning"].as_str()) {
        (0, _) => findings.push(wrong(
            "workers",
            "no worker is alive: tasks wait",
            "start `task-runner-worker` (or `task-runner` for all in one process)",
        )),
        (_, Some(warning)) => findings.push(wrong("workers", warning, "`task-runner control resume`")),
        (n, None) => {
            let slots: i64 = living.iter().filter_map(|worker| worker["concurrency"].as_i64()).sum();
            let active: i64 = living.iter().filter_map(|worker| worker["active_count"].as_i64()).sum();
            findings.push(good("workers", format!("{n} alive, {active} of {slots} slots in use")));
            if active >= slots {
                findings.push(doubtful(
                    "workers",
                    "every slot is in use",
                    "more slots (`task-runner control concurrency N`) or more workers",
                ));
            }
        }
    }
    for silent in items(list).filter(|worker| worker["state"] == "silent") {
        findings.push(doubtful(
            "workers",
            format!(
                "{} has not been heard of since {}",
                word(&silent["name"]),
                word(&silent["last_heartbeat_at"])
            ),
            "its tasks are taken over by themselves; see whether its process hangs, or its machine",
        ));
    }
    let versions: BTreeSet<_> = living.iter().filter_map(|worker| worker["version"].as_str()).collect();
    if versions.len() > 1 {
        let versions: Vec<_> = versions.into_iter().collect();
        findings.push(doubtful(
            "workers",
            format!("they are of several versions: {}", versions.join(", ")),
            "fine during an upgrade; finish it",
        ));
    }
    findings
}

fn judge_queues(list: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut waiting = 0;
    for queue in items(list) {
        let (name, pending) = (word(&queue["name"]), queue["tasks"]["pending"].as_i64().unwrap_or(0));
        waiting += pending;
        if pending > 0 && queue["paused"] == true {
            findings.push(doubtful(
                "queues",
                format!("{name} is paused, and {pending} tasks wait there"),
                format!("`task-runner queues resume {name}`"),
            ));
        } else if pending > 0 && queue["workers"] == 0 {
            findings.push(nobody_serves(name, pending));
        } else if let Some(seconds) = queue["oldest_waiting_seconds"].as_f64().filter(|age| *age > LONG_WAIT)
        {
            findings.push(doubtful(
                "queues",
                format!("the first of {pending} tasks in {name} has waited for {seconds:.0} s"),
                "more slots or more workers for it; `task-runner queues list` shows how fast it goes",
            ));
        }
    }
    findings.insert(0, good("queues", format!("{waiting} tasks wait")));
    findings
}

/// The same from the counts alone.
fn judge_backlog(stats: &Value, workers: &Value) -> Vec<Finding> {
    let living: Vec<_> = items(workers).filter(is_living).collect();
    let serves = |queue: &str| {
        living.iter().any(|worker| {
            let mut named = words(&worker["queues"]).peekable();
            let open = named.peek().is_none();
            if open {
                words(&worker["except_queues"]).all(|except| except != queue)
            } else {
                named.any(|name| name == queue)
            }
        })
    };
    let mut findings = vec![good("queues", format!("{} tasks wait", stats["tasks"]["pending"]))];
    for queue in stats["queues"].as_array().into_iter().flatten() {
        let (name, pending) = (word(&queue["queue"]), queue["tasks"]["pending"].as_i64().unwrap_or(0));
        if pending > 0 && !living.is_empty() && !serves(name) {
            findings.push(nobody_serves(name, pending));
        }
    }
    findings
}

fn nobody_serves(queue: &str, pending: i64) -> Finding {
    wrong(
        "queues",
        format!("{pending} tasks wait in {queue}, and nobody serves it"),
        format!("`task-runner control add-queue {queue}`, or start `task-runner-worker --queues={queue}`"),
    )
}

/// Types of waiting tasks that no living worker has.
fn judge_types(waiting: &Value, workers: &Value) -> Vec<Finding> {
    let known: BTreeSet<&str> =
        items(workers).filter(is_living).flat_map(|worker| words(&worker["types"])).collect();
    if known.is_empty() {
        return Vec::new();
    }
    let wanted: BTreeSet<&str> = items(waiting).filter_map(|task| task["type"].as_str()).collect();
    wanted
        .difference(&known)
        .map(|task_type| {
            wrong(
                "types",
                format!("tasks of the type {task_type} wait, and no living worker has it"),
                "start a worker of the program that registers it",
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::Verdict, *};

    fn verdicts(findings: &[Finding]) -> Vec<Verdict> {
        findings.iter().map(|finding| finding.verdict).collect()
    }

    fn worker(state: &str, queues: &[&str]) -> Value {
        json!({ "name": "w@h", "state": state, "queues": queues, "except_queues": [], "concurrency": 2,
            "active_count": 1, "types": ["demo.noop"], "version": "1", "last_heartbeat_at": "2027-01-15T08:00:00Z" })
    }

    #[test]
    fn no_worker_alive_is_wrong_and_says_what_to_start() {
        let list = json!({ "items": [worker("dead", &[])], "living": 0, "warning": "no worker is alive" });
        let findings = judge_workers(&list);
        assert_eq!(verdicts(&findings), [Verdict::Wrong]);
        assert!(findings[0].remedy.contains("task-runner-worker"), "{findings:?}");
        let list =
            json!({ "items": [worker("alive", &[]), worker("silent", &[])], "living": 1, "warning": null });
        assert_eq!(verdicts(&judge_workers(&list)), [Verdict::Good, Verdict::Doubtful]);
    }

    #[test]
    fn queues_that_nobody_serves_though_tasks_wait_are_wrong() {
        let workers = json!({ "items": [worker("alive", &["a"])] });
        let queue = |name: &str, pending: i64| json!({ "queue": name, "tasks": { "pending": pending } });
        let stats =
            json!({ "tasks": { "pending": 3 }, "queues": [queue("a", 1), queue("b", 2), queue("c", 0)] });
        let findings = judge_backlog(&stats, &workers);
        assert_eq!(verdicts(&findings), [Verdict::Good, Verdict::Wrong]);
        assert!(findings[1].found.contains("2 tasks wait in b"), "{findings:?}");

        let queue = |name: &str, pending: i64, workers: i64, paused: bool, age: f64| {
            json!({ "name": name, "tasks": { "pending": pending }, "workers": workers, "paused": paused,
                "oldest_waiting_seconds": age })
        };
        let list = json!({ "items": [
            queue("fine", 1, 1, false, 2.0), queue("lonely", 1, 0, false, 2.0), queue("still", 1, 1, true, 2.0),
            queue("slow", 1, 1, false, 2_000.0), queue("empty", 0, 0, false, 0.0),
        ] });
        let findings = judge_queues(&list);
        assert_eq!(
            verdicts(&findings),
            [Verdict::Good, Verdict::Wrong, Verdict::Doubtful, Verdict::Doubtful]
        );
        assert!(findings[2].remedy.contains("queues resume still"), "{findings:?}");
    }

    #[test]
    fn types_that_nobody_registers_though_tasks_wait_are_wrong() {
        let workers = json!({ "items": [worker("alive", &[])] });
        let waiting =
            json!({ "items": [{ "type": "demo.noop" }, { "type": "own.type" }, { "type": "own.type" }] });
        let findings = judge_types(&waiting, &workers);
        assert_eq!(verdicts(&findings), [Verdict::Wrong]);
        assert!(findings[0].found.contains("own.type"), "{findings:?}");
    }

    #[test]
    fn what_the_server_does_not_reach_is_named() {
        let health = json!({ "status": "degraded", "version": env!("CARGO_PKG_VERSION"), "dependencies": [
            { "name": "postgresql", "status": "healthy" }, { "name": "redis", "status": "unhealthy", "error": "refused" },
        ] });
        let findings = judge_health(&health);
        assert_eq!(verdicts(&findings), [Verdict::Good, Verdict::Doubtful]);
        assert!(findings[1].found.contains("redis: refused"), "{findings:?}");
    }
}
