//! The last touches to the generated OpenAPI document: what the generator cannot say.

use serde_json::{Value, json};

/// Schemas of answers: every property is always there, and those that may be empty are null.
const ANSWERS: &[&str] = &[
    "Task",
    "TaskList",
    "TaskStatus",
    "TaskProgress",
    "Attempt",
    "AttemptList",
    "Failures",
    "FailureGroup",
    "ManualTask",
    "Swept",
    "Refused",
    "Schedule",
    "ScheduledTask",
    "ScheduleList",
    "Firing",
    "FiringList",
    "Queue",
    "QueueSettings",
    "RecentRuns",
    "QueueList",
    "Purged",
    "TaskType",
    "TaskTypeList",
    "Dependency",
    "Worker",
    "ActiveTask",
    "WorkerRateLimit",
    "WorkerSetting",
    "WorkerList",
    "WorkerAnswer",
    "CommandAnswers",
    "Batch",
    "BatchList",
    "BatchRetried",
    "Articles",
    "Why",
    "Hold",
    "Runner",
    "ModelCall",
    "Usage",
    "UsageGroup",
    "UsageReport",
    "Budget",
    "BudgetList",
];

/// Schemas of bodies: null counts as absent, and there are no other fields.
const BODIES: &[&str] = &[
    "Submission",
    "TaskChange",
    "Retry",
    "Sweep",
    "SweepFilter",
    "ScheduleRequest",
    "ScheduledWork",
    "Concurrency",
    "QueueChoice",
    "RateLimit",
    "BatchRequest",
    "ArticlesRequest",
];

/// Operations that the state of a task, or of a worker, may not allow.
const STATE_MATTERS: &[&str] = &[
    "cancel_batch",
    "retry_batch",
    "cancel_task",
    "change_task",
    "delete_task",
    "retry_task",
    "retry_manual_task",
    "discard_manual_task",
    "ping_workers",
    "pause_workers",
    "resume_workers",
    "set_worker_concurrency",
    "add_worker_queue",
    "remove_worker_queue",
    "set_worker_rate_limit",
    "drain_workers",
    "shut_down_workers",
];

/// Operations that store new tasks.
const SUBMITS: &[&str] = &["submit_task", "submit_batch", "generate_articles", "trigger_schedule"];

/// Bodies of submissions, by what they are an example of.
const SUBMISSIONS: &[(&str, &str, &str)] = &[
    ("prompt", "A prompt", r#"{"prompt":"Explain quantum computing","model":"gpt-3.5-turbo","priority":5}"#),
    (
        "messages",
        "A conversation, with limits",
        r#"{"type":"ai.text_generation","input":{"model":"gpt-4o-mini","system":"Be brief.","messages":[{"role":"user","content":"Why is the sky blue?"}],"temperature":0.2,"max_tokens":200,"seed":7,"stop":["END"]}}"#,
    ),
    (
        "json_schema",
        "JSON that fits a schema",
        r#"{"type":"ai.text_generation","input":{"prompt":"Name a city","response_format":{"type":"json_schema","json_schema":{"name":"city","schema":{"type":"object","properties":{"name":{"type":"string"},"people":{"type":"integer"}},"required":["name","people"],"additionalProperties":false}}},"max_repairs":2}}"#,
    ),
    (
        "tools",
        "Tools that the model may call",
        r#"{"type":"ai.text_generation","input":{"prompt":"What is the weather in Rome?","tools":[{"type":"function","function":{"name":"weather","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}}],"tool_choice":"auto"}}"#,
    ),
    (
        "embedding",
        "Vectors of texts",
        r#"{"type":"ai.embedding","input":{"input":["first text","second text"],"model":"text-embedding-3-small","dimensions":256}}"#,
    ),
];

/// Finishes the generator's document; the result is indented and stable.
pub(crate) fn finish(generated: &str) -> String {
    let mut document: Value = serde_json::from_str(generated).unwrap_or_else(|_| json!({}));
    // The routes carry the prefix; the server is whoever serves the document.
    document["servers"] = json!([{ "url": "/" }]);
    let named = document["components"]["schemas"].clone();
    let schemas = &mut document["components"]["schemas"];
    let properties =
        schemas.as_object_mut().into_iter().flatten().filter_map(|(_, s)| s.get_mut("properties"));
    properties.filter_map(Value::as_object_mut).flat_map(|all| all.values_mut()).for_each(refer_plainly);
    for name in ANSWERS {
        let Some(schema) = schemas.get_mut(*name) else { continue };
        let required: Vec<Value> = schema["required"].as_array().cloned().unwrap_or_default();
        let Some(properties) = schema["properties"].as_object_mut() else { continue };
        let all: Vec<Value> = properties.keys().cloned().map(Value::String).collect();
        for (property, schema) in properties.iter_mut() {
            if !required.contains(&Value::String(property.clone())) {
                make_nullable(schema, &named);
            }
        }
        schema["required"] = Value::Array(all);
    }
    for name in BODIES {
        let Some(schema) = schemas.get_mut(*name) else { continue };
        let required: Vec<Value> = schema["required"].as_array().cloned().unwrap_or_default();
        for (property, schema) in schema["properties"].as_object_mut().into_iter().flatten() {
            if !required.contains(&Value::String(property.clone())) {
                make_nullable(schema, &named);
            }
        }
        schema["additionalProperties"] = json!(false);
    }
    document["info"]["license"] =
        json!({ "name": "Apache-2.0 OR MIT", "url": "https://spdx.org/licenses/Apache-2.0.html" });
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    for (_, operations) in paths {
        for (method, operation) in operations.as_object_mut().into_iter().flatten() {
            finish_operation(method, operation);
        }
    }
    serde_json::to_string_pretty(&document).unwrap_or_default()
}

/// A described reference comes as `allOf` of the reference and a description, which some generators cannot read.
fn refer_plainly(schema: &mut Value) {
    if let Some(reference) = schema.pointer("/allOf/0/$ref").cloned() {
        *schema = json!({ "$ref": reference });
    }
}

/// OpenAPI 3.0 has no type null: `nullable` says it, and has to stand beside a `type`. No form of "this reference or
/// null" is read by all generators, so what a nullable reference means is written out.
fn make_nullable(schema: &mut Value, named: &Value) {
    let reference = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
    if let Some(target) = reference.and_then(|name| named.get(name)) {
        *schema = target.clone();
        schema.as_object_mut().and_then(|schema| schema.remove("title"));
    }
    if schema.get("type").is_some() {
        schema["nullable"] = json!(true);
    }
}

fn finish_operation(method: &str, operation: &mut Value) {
    for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
        if parameter["in"] == "path" && parameter["name"] == "id" {
            parameter["schema"]["minimum"] = json!(1);
            parameter["example"] = json!(1);
        }
    }
    if operation["operationId"] == "submit_task" {
        let example = |(name, summary, body): &(&str, &str, &str)| {
            let value: Value = serde_json::from_str(body).unwrap_or_default();
            ((*name).to_owned(), json!({ "summary": summary, "value": value }))
        };
        let examples: serde_json::Map<_, _> = SUBMISSIONS.iter().map(example).collect();
        if let Some(body) = operation.pointer_mut("/requestBody/content/application~1json") {
            body["examples"] = Value::Object(examples);
        }
    }
    // Each operation answers those failures that can happen to it.
    let has_path =
        operation["parameters"].as_array().is_some_and(|all| all.iter().any(|one| one["in"] == "path"));
    let name = operation["operationId"].as_str().unwrap_or_default().to_owned();
    if let Some(responses) = operation["responses"].as_object_mut() {
        if !has_path {
            responses.remove("404");
        }
        if !STATE_MATTERS.contains(&name.as_str()) {
            responses.remove("409");
        }
        if !SUBMITS.contains(&name.as_str()) {
            responses.remove("429");
        }
        if !matches!(method, "post" | "put" | "patch") {
            ["408", "413", "415"].iter().for_each(|status| drop(responses.remove(*status)));
        }
    }
}
