//! What a text task may ask of its answer: a form, limits, tools; and what becomes of one that is interrupted.

use e2e_tests::{Base, Provider, Reply, api, on_both_bases};
use reqwest::Method;
use serde_json::{Value, json};

on_both_bases!(
    an_answer_that_does_not_fit_its_schema_is_repaired,
    an_answer_that_cannot_be_repaired_fails_as_output_invalid,
    the_simulated_provider_keeps_to_schemas_limits_and_tools,
    texts_become_vectors,
    an_interrupted_answer_goes_on_after_a_kill,
    a_request_that_cannot_be_sent_is_refused_by_field,
);

fn city() -> Value {
    json!({
        "type": "object",
        "properties": { "name": { "type": "string" }, "people": { "type": "integer", "minimum": 0 } },
        "required": ["name", "people"],
        "additionalProperties": false,
    })
}

fn format(schema: Value) -> Value {
    json!({ "type": "json_schema", "json_schema": { "name": "city", "schema": schema } })
}

async fn an_answer_that_does_not_fit_its_schema_is_repaired(base: Base) {
    let replies = vec![
        Reply::Words(vec!["{\"name\":", "7}"]),
        Reply::Words(vec!["{\"name\":\"Köln\",", "\"people\":1}"]),
    ];
    let mut provider = Provider::start(replies).await;
    let product = base.setup().set("OPENAI_BASE_URL", &provider.base_url()).start().await;
    let api = product.api();
    let id = api
        .submit_type(
            "ai.text_generation",
            json!({ "prompt": "Name a city", "response_format": format(city()) }),
        )
        .await;
    let watching = api.events(id, None).await;
    let task = api.completed(id).await;
    assert_eq!(task["result"], json!({ "name": "Köln", "people": 1 }), "{task}");
    assert_eq!((&task["details"]["repairs"], &task["attempt"]), (&json!(1), &json!(1)), "{task}");
    let text: String = watching.rest().await.iter().map(|event| event.text().to_owned()).collect();
    assert_eq!(text, "{\"name\":\"Köln\",\"people\":1}", "readers see only what fits");
    let e2e_tests::Noticed::Request { body, .. } = provider.notices().await else { panic!("a request") };
    assert_eq!(body["response_format"], format(city()), "the provider may keep to it as well");
    let e2e_tests::Noticed::Request { body, .. } = provider.notices().await else { panic!("a request") };
    let told = body["messages"][2]["content"].as_str().expect("a message").to_owned();
    assert!(told.contains("people"), "{told}");
}

async fn an_answer_that_cannot_be_repaired_fails_as_output_invalid(base: Base) {
    let mut provider = Provider::start(vec![Reply::Words(vec!["no ", "JSON"])]).await;
    let product = base.setup().set("OPENAI_BASE_URL", &provider.base_url()).start().await;
    let api = product.api();
    let id = api
        .submit_type(
            "ai.text_generation",
            json!({ "prompt": "Name a city", "response_format": format(city()) }),
        )
        .await;
    let task = api.ended(id).await;
    assert_eq!(
        (&task["status"], &task["error"]["code"]),
        (&json!("FAILED"), &json!("output_invalid")),
        "{task}"
    );
    assert_eq!((&task["result"], &task["partial_result"]), (&Value::Null, &json!("no JSON")), "{task}");
    assert_eq!(task["attempt"], 1, "{task}");
    assert_eq!(provider.prompts().len(), 3, "one answer and two repairs");
}

async fn the_simulated_provider_keeps_to_schemas_limits_and_tools(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let ask = async |input: Value| api.completed(api.submit_type("ai.text_generation", input).await).await;
    let task = ask(json!({ "prompt": "Name a city", "response_format": format(city()) })).await;
    assert!(task["result"]["name"].is_string() && task["result"]["people"].is_u64(), "{task}");
    let task = ask(json!({ "messages": [{ "role": "user", "content": "Hi" }], "max_tokens": 5 })).await;
    assert_eq!(
        (&task["result"], &task["details"]["incomplete"]),
        (&json!("This is a simulated answer"), &json!(true))
    );
    assert_eq!(task["prompt"], Value::Null, "{task}");
    let tool = json!({ "type": "function", "function": { "name": "look_up" } });
    let task = ask(json!({ "prompt": "Hi", "tools": [tool], "tool_choice": "required" })).await;
    assert_eq!(task["result"]["tool_calls"][0]["function"]["name"], "look_up", "{task}");
}

async fn texts_become_vectors(base: Base) {
    let body = json!({
        "model": "stub-embedder", "usage": { "prompt_tokens": 4, "total_tokens": 4 },
        "data": [{ "index": 1, "embedding": [0.5, 1] }, { "index": 0, "embedding": [0.25, -1] }],
    });
    let reply = Reply::Plain { status: "200 OK", headers: vec![], body: body.to_string() };
    let mut provider = Provider::start(vec![reply]).await;
    let product = base.setup().set("OPENAI_BASE_URL", &provider.base_url()).start().await;
    let api = product.api();
    let id = api
        .submit_type("ai.embedding", json!({ "input": ["one", "two"], "model": "m", "dimensions": 2 }))
        .await;
    let task = api.completed(id).await;
    assert_eq!(task["result"], json!([[0.25, -1.0], [0.5, 1.0]]), "{task}");
    assert_eq!(
        (&task["details"]["model"], &task["details"]["usage"]["input_tokens"]),
        (&json!("stub-embedder"), &json!(4))
    );
    let e2e_tests::Noticed::Request { body, .. } = provider.notices().await else { panic!("a request") };
    assert_eq!((&body["input"], &body["dimensions"]), (&json!(["one", "two"]), &json!(2)));
}

async fn an_interrupted_answer_goes_on_after_a_kill(base: Base) {
    let setup = base.setup().set("SIMULATED_LATENCY", "5s").set("LEASE_SECONDS", "3");
    let mut product = setup.start().await;
    let api = product.api();
    let input = json!({ "prompt": "A long tale", "continue_partial": true });
    let id = api.submit_type("ai.text_generation", input).await;
    let mut events = api.events(id, None).await;
    // Enough that the store has some of it: it takes output every second.
    for _ in 0..8 {
        events.next_of("chunk").await;
    }
    product.kill();
    product.start_again().await;
    let api = product.api();
    let task = api.completed(id).await;
    assert_eq!(task["attempt"], 2, "{task}");
    let result = task["result"].as_str().expect("a text").to_owned();
    let events = api.events(id, None).await.rest().await;
    let text = |attempt: i64| -> String {
        events.iter().filter(|event| event.data["attempt"] == attempt).map(|event| event.text()).collect()
    };
    let kept = text(1);
    assert!(
        !kept.is_empty() && result.starts_with(&kept),
        "what was written is where the answer goes on: {kept:?}"
    );
    assert_eq!(text(2), result, "an attempt's stream is its result");
    assert!(
        result.starts_with("This is a simulated answer of gpt-3.5-turbo to \"A long tale\"."),
        "{result}"
    );
    assert_eq!(result.matches("A long tale").count(), 1, "nothing is said twice: {result}");
    let resets: Vec<_> = events.iter().filter(|event| event.name == "attempt_reset").collect();
    assert_eq!(resets.len(), 1, "a reader is told where a new attempt begins");
    assert_eq!(resets[0].data["attempt"], 2);
}

async fn a_request_that_cannot_be_sent_is_refused_by_field(base: Base) {
    let product = base.start().await;
    let api = product.api();
    for (input, part) in [
        (json!({}), "prompt: it is missing"),
        (json!({ "prompt": "x", "temperature": 2.5 }), "temperature: 2.5"),
        (
            json!({ "prompt": "x", "response_format": format(json!({ "type": "strin" })) }),
            "response_format: ",
        ),
        (
            json!({ "prompt": "x", "response_format": format(json!({ "$ref": "file:///etc/passwd" })) }),
            "does not refer to a part of it",
        ),
        (json!({ "messages": [{ "role": "user" }] }), "messages[0]: content is missing"),
    ] {
        let body = json!({ "type": "ai.text_generation", "input": input });
        let answer = api.send(Method::POST, "/tasks", Some(&body)).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body["errors"][0]["field"]),
            (422, &json!("input")),
            "{}",
            answer.body
        );
        let message = answer.body["errors"][0]["message"].as_str().unwrap_or_default();
        assert!(message.contains(part), "{input}: {message}");
    }
    let long = json!({ "type": "ai.embedding", "input": { "input": vec!["x"; 257] } });
    assert_eq!(api.send(Method::POST, "/tasks", Some(&long)).await.status, 422);
    assert_eq!(api::id(&api.submit(json!({ "prompt": "x" })).await), 1, "nothing was stored before");
}
