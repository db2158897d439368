use serde_json::json;

use super::*;

fn refused(schema: Value) -> String {
    Schema::new(&schema).expect_err("refused").to_string()
}

/// Every keyword, with documents that fit and others that do not. After the cases of the JSON Schema Test Suite.
#[test]
fn each_keyword_means_what_the_specification_says() {
    for (schema, good, bad) in [
        (json!(true), vec![json!(null), json!({ "a": 1 })], vec![]),
        (json!(false), vec![], vec![json!(null)]),
        (json!({}), vec![json!(1)], vec![]),
        (
            json!({ "type": "integer" }),
            vec![json!(1), json!(1.0), json!(-3e2)],
            vec![json!(1.1), json!("1"), json!(true)],
        ),
        (json!({ "type": "number" }), vec![json!(1), json!(1.1)], vec![json!("1"), json!(null)]),
        (json!({ "type": ["string", "null"] }), vec![json!("a"), json!(null)], vec![json!(1), json!([])]),
        (json!({ "type": "object" }), vec![json!({})], vec![json!([]), json!(false)]),
        (
            json!({ "enum": [1, "a", { "b": [2] }] }),
            vec![json!(1.0), json!("a"), json!({ "b": [2] })],
            vec![json!("1"), json!({ "b": [2, 3] })],
        ),
        (json!({ "const": { "a": false } }), vec![json!({ "a": false })], vec![json!({ "a": 0 }), json!({})]),
        (
            json!({ "minimum": 1.1, "maximum": 3 }),
            vec![json!(1.1), json!(3), json!("x")],
            vec![json!(1), json!(3.5)],
        ),
        (json!({ "exclusiveMinimum": 1, "exclusiveMaximum": 3 }), vec![json!(2)], vec![json!(1), json!(3)]),
        (json!({ "multipleOf": 2 }), vec![json!(-4), json!("x")], vec![json!(7)]),
        (json!({ "multipleOf": 0.1 }), vec![json!(0.3), json!(12)], vec![json!(0.35)]),
        (
            json!({ "minLength": 2, "maxLength": 3 }),
            vec![json!("ab"), json!("äöü"), json!(1)],
            vec![json!("💩"), json!("abcd")],
        ),
        (json!({ "pattern": "^a+$" }), vec![json!("aaa"), json!(1)], vec![json!("ab")]),
        (json!({ "pattern": "a+" }), vec![json!("xaay")], vec![json!("xy")]),
        (
            json!({ "items": { "type": "integer" } }),
            vec![json!([1, 2]), json!([]), json!({ "0": "x" })],
            vec![json!([1, "x"])],
        ),
        (
            json!({ "prefixItems": [{ "const": 1 }], "items": false }),
            vec![json!([1]), json!([])],
            vec![json!([1, 2]), json!([2])],
        ),
        (json!({ "minItems": 1, "maxItems": 2 }), vec![json!([1])], vec![json!([]), json!([1, 2, 3])]),
        (
            json!({ "uniqueItems": true }),
            vec![json!([1, true, "1"]), json!([[1], [2]])],
            vec![json!([1, 1.0]), json!([{ "a": 1 }, { "a": 1 }])],
        ),
        (json!({ "contains": { "const": 5 } }), vec![json!([3, 5])], vec![json!([]), json!([3])]),
        (
            json!({ "contains": { "const": 5 }, "minContains": 0, "maxContains": 1 }),
            vec![json!([]), json!([5])],
            vec![json!([5, 5])],
        ),
        (
            json!({ "properties": { "a": { "type": "integer" } } }),
            vec![json!({ "a": 1, "b": "x" }), json!([])],
            vec![json!({ "a": "x" })],
        ),
        (
            json!({ "required": ["a", "b"] }),
            vec![json!({ "a": null, "b": 1 }), json!("x")],
            vec![json!({ "a": 1 })],
        ),
        (
            json!({ "properties": { "a": true }, "patternProperties": { "^x": { "type": "integer" } }, "additionalProperties": false }),
            vec![json!({ "a": 1, "x1": 2 })],
            vec![json!({ "b": 1 }), json!({ "x1": "y" })],
        ),
        (
            json!({ "additionalProperties": { "type": "integer" } }),
            vec![json!({ "a": 1 })],
            vec![json!({ "a": "x" })],
        ),
        (json!({ "propertyNames": { "maxLength": 2 } }), vec![json!({ "ab": 1 })], vec![json!({ "abc": 1 })]),
        (
            json!({ "minProperties": 1, "maxProperties": 2 }),
            vec![json!({ "a": 1 })],
            vec![json!({}), json!({ "a": 1, "b": 1, "c": 1 })],
        ),
        (
            json!({ "dependentRequired": { "a": ["b"] } }),
            vec![json!({ "a": 1, "b": 1 }), json!({ "c": 1 })],
            vec![json!({ "a": 1 })],
        ),
        (
            json!({ "dependentSchemas": { "a": { "required": ["b"] } } }),
            vec![json!({ "a": 1, "b": 1 }), json!({})],
            vec![json!({ "a": 1 })],
        ),
        (json!({ "allOf": [{ "minimum": 1 }, { "maximum": 2 }] }), vec![json!(1)], vec![json!(0), json!(3)]),
        (
            json!({ "anyOf": [{ "type": "integer" }, { "minimum": 2 }] }),
            vec![json!(1), json!(2.5), json!("x")],
            vec![json!(1.5)],
        ),
        (
            json!({ "oneOf": [{ "type": "integer" }, { "minimum": 2 }] }),
            vec![json!(1), json!(2.5)],
            vec![json!(3), json!(1.5)],
        ),
        (json!({ "not": { "type": "integer" } }), vec![json!("x")], vec![json!(1)]),
        (
            json!({ "if": { "exclusiveMaximum": 0 }, "then": { "minimum": -10 }, "else": { "multipleOf": 2 } }),
            vec![json!(-1), json!(4)],
            vec![json!(-100), json!(3)],
        ),
        (
            json!({ "$defs": { "a~b/c": { "type": "integer" } }, "$ref": "#/$defs/a~0b~1c" }),
            vec![json!(1)],
            vec![json!("x")],
        ),
        (
            json!({ "definitions": { "a": { "type": "integer" } }, "properties": { "x": { "$ref": "#/definitions/a", "minimum": 3 } } }),
            vec![json!({ "x": 3 })],
            vec![json!({ "x": 2 }), json!({ "x": "y" })],
        ),
        (
            json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://a.example/b", "title": "t", "format": "date", "x-order": 1 }),
            vec![json!("no date")],
            vec![],
        ),
    ] {
        let compiled = Schema::new(&schema).unwrap_or_else(|error| panic!("{schema}: {error}"));
        for document in good {
            assert_eq!(compiled.check(&document), Ok(()), "{schema}: {document}");
        }
        for document in bad {
            assert!(compiled.check(&document).is_err(), "{schema}: {document}");
        }
    }
}

#[test]
fn what_does_not_fit_is_told_with_its_place() {
    let schema = Schema::new(&json!({
        "type": "object", "required": ["name", "age"], "additionalProperties": false,
        "properties": { "name": { "type": "string" }, "age": { "anyOf": [{ "type": "null" }, { "type": "integer", "minimum": 0 }] }, "tags": { "items": { "enum": ["a", "b"] } } },
    }))
    .expect("a schema");
    for (document, parts) in [
        (
            json!({ "name": 7 }),
            &["at the top: the field \"age\" is missing", "at /name: 7 is not of type \"string\""][..],
        ),
        (json!({ "name": "x", "age": -1 }), &["at /age: -1 is not at least 0"]),
        (
            json!({ "name": "x", "age": 1, "tags": ["a", "c"] }),
            &["at /tags/1: \"c\" is none of [\"a\",\"b\"]"],
        ),
        (json!({ "name": "x", "age": 1, "mayor": 1 }), &["at /mayor: there is no such field"]),
        (json!([1]), &["at the top: [1] is not of type \"object\""]),
    ] {
        let misfit = schema.check(&document).expect_err("it does not fit").to_string();
        assert!(parts.iter().all(|part| misfit.contains(part)), "{document}: {misfit}");
    }
    let many = Schema::new(&json!({ "items": { "type": "string" } })).expect("a schema");
    let misfit = many.check(&json!((0..50).collect::<Vec<_>>())).expect_err("numbers").to_string();
    assert!(misfit.matches("is not of type").count() == 5 && misfit.len() < 1_000, "{misfit}");
}

#[test]
fn schemas_that_refer_to_themselves_work() {
    let tree = Schema::new(&json!({
        "$defs": { "node": {
            "type": "object", "required": ["v"],
            "properties": { "v": { "type": "integer" }, "l": { "$ref": "#/$defs/node" }, "r": { "anyOf": [{ "type": "null" }, { "$ref": "#/$defs/node" }] } },
        } },
        "$ref": "#/$defs/node",
    }))
    .expect("a schema");
    assert_eq!(tree.check(&json!({ "v": 1, "l": { "v": 2 }, "r": null })), Ok(()));
    let misfit = tree.check(&json!({ "v": 1, "r": { "v": "x" } })).expect_err("a text").to_string();
    assert!(misfit.contains("/r/v"), "{misfit}");
}

#[test]
fn what_would_take_for_ever_is_refused_or_given_up() {
    for endless in [
        json!({ "$ref": "#" }),
        json!({ "allOf": [{ "$ref": "#" }] }),
        json!({ "$defs": { "a": { "not": { "$ref": "#/$defs/b" } }, "b": { "$ref": "#/$defs/a" } }, "items": { "$ref": "#/$defs/a" } }),
    ] {
        assert!(refused(endless.clone()).contains("without an end"), "{endless}");
    }
    // Each level looks twice at the next: 2^19 looks at one number, and as many parts.
    let mut definitions = serde_json::Map::new();
    for level in 0..19 {
        let next = json!({ "$ref": format!("#/$defs/a{}", level + 1) });
        definitions.insert(format!("a{level}"), json!({ "allOf": [next, next] }));
    }
    definitions.insert("a19".into(), json!({ "type": "string" }));
    let bomb = Schema::new(&json!({ "$defs": definitions, "$ref": "#/$defs/a0" })).expect("small as it is");
    assert!(bomb.check(&json!("x")).expect_err("given up").to_string().contains("too long"));
    // The same, level by level of a document.
    let twice = json!({ "properties": { "x": { "$ref": "#" } } });
    let deep = Schema::new(&json!({ "allOf": [twice, twice] })).expect("a schema");
    let mut document = json!({});
    for _ in 0..100 {
        document = json!({ "x": document });
    }
    assert!(deep.check(&document).expect_err("given up").to_string().contains("too long"));
    let unique = Schema::new(&json!({ "uniqueItems": true })).expect("a schema");
    let numbers: Vec<u32> = (0..5_000).collect();
    assert!(unique.check(&json!(numbers)).expect_err("given up").to_string().contains("too long"));

    let mut nested = json!({});
    for _ in 0..100 {
        nested = json!({ "items": nested });
    }
    assert!(refused(nested).contains("deep"));
    let mut chain = serde_json::Map::new();
    for level in 0..200 {
        chain.insert(format!("a{level}"), json!({ "$ref": format!("#/$defs/a{}", level + 1) }));
    }
    chain.insert("a200".into(), json!(true));
    assert!(refused(json!({ "$defs": chain, "$ref": "#/$defs/a0" })).contains("steps"));
    assert!(refused(json!({ "enum": ["x".repeat(70_000)] })).contains("bytes"));
    let patterns: Vec<_> = (0..200).map(|n| json!({ "pattern": format!("a{n}") })).collect();
    assert!(refused(json!({ "anyOf": patterns })).contains("patterns"));
    assert!(refused(json!({ "pattern": "(a{1000}){1000}" })).contains("pattern"));
}

#[test]
fn what_is_no_schema_is_refused_with_the_reason() {
    for (schema, part) in [
        (json!(7), "7 is no schema"),
        (json!({ "type": "strin" }), "strin"),
        (json!({ "type": [] }), "type"),
        (json!({ "properties": { "a": { "type": 7 } } }), "properties/a: type"),
        (json!({ "properties": [] }), "properties"),
        (json!({ "items": [{}] }), "items"),
        (json!({ "required": "name" }), "required"),
        (json!({ "enum": [] }), "enum"),
        (json!({ "anyOf": [] }), "anyOf"),
        (json!({ "minimum": "1" }), "minimum"),
        (json!({ "exclusiveMinimum": true }), "exclusiveMinimum"),
        (json!({ "multipleOf": 0 }), "multipleOf"),
        (json!({ "minLength": -1 }), "minLength"),
        (json!({ "$ref": "https://example.com/schema.json" }), "does not refer to a part of it"),
        (json!({ "$ref": "file:///etc/passwd" }), "does not refer to a part of it"),
        (json!({ "$ref": "#/$defs/nothing" }), "refers to nothing"),
        (json!({ "title": "x", "$ref": "#/title" }), "no schema"),
        (json!({ "properties": { "a": { "$id": "https://example.com/a" } } }), "$id"),
        (json!({ "$dynamicRef": "#a" }), "$dynamicRef"),
        (json!({ "unevaluatedProperties": false }), "unevaluatedProperties"),
        (json!({ "nullable": true }), "nullable"),
        (json!({ "pattern": "(" }), "pattern"),
        (json!({ "pattern": "(?=a)b" }), "pattern"),
    ] {
        let error = refused(schema.clone());
        assert!(error.contains(part), "{schema}: {error}");
    }
}

#[test]
fn properties_may_be_called_like_keywords() {
    let schema = Schema::new(&json!({
        "properties": { "$ref": { "type": "string" }, "$id": { "type": "string" }, "pattern": { "type": "integer" }, "nullable": true },
    }))
    .expect("a schema");
    assert!(schema.check(&json!({ "$ref": "x", "pattern": 1 })).is_ok());
    assert!(schema.check(&json!({ "pattern": "x" })).is_err());
}
