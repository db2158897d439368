//! What is sent for a completion.

use application::ports::GenerationRequest;
use domain::ai::Sampling;
use serde_json::{Map, Value, json};

/// Models that know the limit of tokens by its newer name alone.
const NEWER_NAME: [&str; 4] = ["o1", "o3", "o4", "gpt-5"];

/// The body: what the caller left open is left open, too.
pub(super) fn body(request: &GenerationRequest) -> Value {
    let mut body = Map::new();
    body.insert("model".into(), json!(request.model));
    body.insert("messages".into(), json!(request.messages));
    body.insert("stream".into(), json!(true));
    body.insert("stream_options".into(), json!({ "include_usage": true }));
    let Sampling { temperature, top_p, max_tokens, seed, stop, tools, tool_choice } = &request.sampling;
    let newer = NEWER_NAME.iter().any(|name| request.model.starts_with(name));
    let limit = if newer { "max_completion_tokens" } else { "max_tokens" };
    let stop = Some(stop).filter(|stop| !stop.is_empty());
    let tools = Some(tools).filter(|tools| !tools.is_empty());
    for (name, value) in [
        ("temperature", temperature.map(Value::from)),
        ("top_p", top_p.map(Value::from)),
        (limit, max_tokens.map(Value::from)),
        ("seed", seed.map(Value::from)),
        ("stop", stop.map(|stop| json!(stop))),
        ("tools", tools.map(|tools| json!(tools))),
        ("tool_choice", tool_choice.clone()),
        ("response_format", request.format.as_ref().map(|format| json!(format))),
    ] {
        if let Some(value) = value {
            body.insert(name.into(), value);
        }
    }
    Value::Object(body)
}

#[cfg(test)]
mod tests {
    use domain::ai::{Message, ResponseFormat, Role};

    use super::*;

    #[test]
    fn what_is_asked_for_is_sent_and_nothing_else() {
        let plain = GenerationRequest {
            model: "gpt-4o".into(),
            messages: vec![Message::text(Role::System, "Be brief"), Message::text(Role::User, "Hi")],
            ..GenerationRequest::default()
        };
        let expected = json!({
            "model": "gpt-4o",
            "messages": [{ "role": "system", "content": "Be brief" }, { "role": "user", "content": "Hi" }],
            "stream": true,
            "stream_options": { "include_usage": true },
        });
        assert_eq!(body(&plain), expected);
        let tool = json!({ "type": "function", "function": { "name": "look_up" } });
        let sampling = Sampling {
            temperature: Some(0.5),
            top_p: Some(1.0),
            max_tokens: Some(9),
            seed: Some(-3),
            stop: vec!["END".into()],
            tools: vec![tool.clone()],
            tool_choice: Some(json!("auto")),
        };
        let full = GenerationRequest { sampling, format: Some(ResponseFormat::JsonObject), ..plain };
        let sent = body(&full);
        for (field, value) in [
            ("temperature", json!(0.5)),
            ("top_p", json!(1.0)),
            ("max_tokens", json!(9)),
            ("seed", json!(-3)),
            ("stop", json!(["END"])),
            ("tools", json!([tool])),
            ("tool_choice", json!("auto")),
            ("response_format", json!({ "type": "json_object" })),
        ] {
            assert_eq!(sent[field], value, "{field}");
        }
        let newer = body(&GenerationRequest { model: "o3-mini".into(), ..full });
        assert_eq!((&newer["max_completion_tokens"], newer.get("max_tokens")), (&json!(9), None));
    }
}
