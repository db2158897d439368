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
    "TaskType",
    "TaskTypeList",
    "Dependency",
];

/// Finishes the generator's document; the result is indented and stable.
pub(crate) fn finish(generated: &str) -> String {
    let mut document: Value = serde_json::from_str(generated).unwrap_or_else(|_| json!({}));
    let schemas = &mut document["components"]["schemas"];
    for name in ANSWERS {
        let required: Vec<Value> = schemas[*name]["required"].as_array().cloned().unwrap_or_default();
        let Some(properties) = schemas[*name]["properties"].as_object_mut() else { continue };
        let all: Vec<Value> = properties.keys().cloned().map(Value::String).collect();
        for (property, schema) in properties.iter_mut() {
            if !required.contains(&Value::String(property.clone())) {
                make_nullable(schema);
            }
        }
        schemas[*name]["required"] = Value::Array(all);
    }
    // In a submission null counts as absent, and there are no other fields.
    if let Some(properties) = schemas["Submission"]["properties"].as_object_mut() {
        properties.values_mut().for_each(make_nullable);
    }
    schemas["Submission"]["additionalProperties"] = json!(false);
    document["info"]["license"] =
        json!({ "name": "Apache-2.0 OR MIT", "url": "https://spdx.org/licenses/Apache-2.0.html" });
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    for (_, operations) in paths {
        for (_, operation) in operations.as_object_mut().into_iter().flatten() {
            finish_operation(operation);
        }
    }
    serde_json::to_string_pretty(&document).unwrap_or_default()
}

/// OpenAPI 3.0 has no type null.
fn make_nullable(schema: &mut Value) {
    if let Some(reference) = schema.get("$ref").cloned() {
        *schema = json!({ "allOf": [{ "$ref": reference }], "nullable": true });
    } else if schema.get("type").is_some() || schema.get("allOf").is_some() {
        schema["nullable"] = json!(true);
    }
}

fn finish_operation(operation: &mut Value) {
    for parameter in operation["parameters"].as_array_mut().into_iter().flatten() {
        if parameter["in"] == "path" && parameter["name"] == "id" {
            parameter["schema"]["minimum"] = json!(1);
            parameter["example"] = json!(1);
        }
    }
    // Each operation answers those failures that can happen to it.
    let (has_path, has_body) = (
        operation["parameters"].as_array().is_some_and(|all| all.iter().any(|one| one["in"] == "path")),
        operation.get("requestBody").is_some(),
    );
    let changes_state = matches!(operation["operationId"].as_str(), Some("cancel_task" | "delete_task"));
    let takes_post = matches!(operation["operationId"].as_str(), Some("cancel_task" | "submit_task"));
    if let Some(responses) = operation["responses"].as_object_mut() {
        if !has_path {
            responses.remove("404");
        }
        if !changes_state {
            responses.remove("409");
        }
        if !has_body && !takes_post {
            ["408", "413", "415"].iter().for_each(|status| drop(responses.remove(*status)));
        }
    }
}
