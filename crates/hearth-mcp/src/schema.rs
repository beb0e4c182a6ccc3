//! What a tool's input schema says of values is held to here: the ranges in it are the rules, not a description of them.

use hearth_client::api::ErrorBody;
use hearth_client::api::OwnCode;
use rmcp::model::JsonObject;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

/// Checks arguments, whose types are right, against the ranges of their fields.
///
/// # Errors
/// [`OwnCode::InvalidValue`], naming the field and the range.
pub(crate) fn check(schema: &JsonObject, arguments: &JsonObject) -> Result<(), ErrorBody> {
    let Some(rules) = schema.get("properties").and_then(Value::as_object) else { return Ok(()) };
    arguments.iter().filter_map(|(field, value)| Some((field, value, rules.get(field)?))).try_for_each(
        |(field, value, rule)| {
            let (what, least, most, size) = match value {
                Value::Number(number) => ("", "minimum", "maximum", number.as_f64()),
                Value::String(text) => ("the length of ", "minLength", "maxLength", Some(text.chars().count() as f64)),
                Value::Array(items) => ("the number of ", "minItems", "maxItems", Some(items.len() as f64)),
                _ => return Ok(()),
            };
            let (least, most) = (rule.get(least).and_then(Value::as_f64), rule.get(most).and_then(Value::as_f64));
            let fits = size
                .is_some_and(|size| least.is_none_or(|least| size >= least) && most.is_none_or(|most| size <= most));
            if fits {
                return Ok(());
            }
            let range = match (least, most) {
                (least, Some(most)) => format!("{} to {most}", least.unwrap_or(0.0)),
                (least, None) => format!("at least {}", least.unwrap_or(0.0)),
            };
            Err(ErrorBody::new(OwnCode::InvalidValue, format!("{what}{field} must be {range}")).with_field(field))
        },
    )
}

/// Takes out of a schema what strict validators stumble over: Rust's own names of number formats, and defaults that are the absence of a value.
pub(crate) fn plain(schema: &JsonObject) -> JsonObject {
    let fields = schema.iter().filter(|(key, value)| match key.as_str() {
        "format" => !value.as_str().is_some_and(|format| format.contains("int")),
        "default" => !value.is_null(),
        _ => true,
    });
    fields.map(|(key, value)| (key.clone(), plain_value(value))).collect()
}

fn plain_value(value: &Value) -> Value {
    match value {
        Value::Object(schema) => plain(schema).into(),
        Value::Array(items) => items.iter().map(plain_value).collect(),
        value => value.clone(),
    }
}

/// A string of the guest's system: text, or `{"hex": "…"}` for bytes that are none.
pub(crate) fn raw(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "anyOf": [
            { "type": "string" },
            { "type": "object", "properties": { "hex": { "type": "string" } }, "required": ["hex"], "additionalProperties": false },
        ],
    })
}

/// A command: text for a shell, or a program and its arguments.
pub(crate) fn command(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "anyOf": [
            { "type": "string", "minLength": 1 },
            { "type": "array", "items": { "type": "string" }, "minItems": 1 },
        ],
    })
}

/// Which root a path is beneath.
pub(crate) fn root(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["workspace", "home", "system"] })
}

/// How bytes stand in a string.
pub(crate) fn encoding(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["utf-8", "base64"] })
}

/// Any schema that says only a type.
pub(crate) fn text(generator: &mut SchemaGenerator) -> Schema {
    String::json_schema(generator)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check_it(arguments: Value, field: Option<&str>) {
        let schema = json!({ "properties": {
            "size": { "type": ["integer", "null"], "minimum": 1, "maximum": 64 },
            "name": { "type": "string", "minLength": 1, "maxLength": 3 },
            "parts": { "type": "array", "minItems": 1 },
        } });
        let (Value::Object(schema), Value::Object(arguments)) = (schema, arguments) else { unreachable!("objects") };
        let refused = check(&schema, &arguments).err();
        assert_eq!(refused.as_ref().and_then(|body| body.field.as_deref()), field, "{refused:?}");
    }

    #[test]
    fn a_plain_schema_has_no_words_of_rusts() {
        let schema =
            json!({ "properties": { "a": { "anyOf": [{ "type": "integer", "format": "uint64" }], "default": null } } });
        let Value::Object(schema) = schema else { unreachable!("an object") };
        let expected = json!({ "properties": { "a": { "anyOf": [{ "type": "integer" }] } } });
        assert_eq!(Value::Object(plain(&schema)), expected);
    }

    #[test]
    fn ranges_of_a_schema_are_rules() {
        check_it(json!({ "size": 1, "name": "äöü", "parts": [1] }), None);
        check_it(json!({ "size": null, "unheard": 5 }), None);
        check_it(json!({ "size": 0 }), Some("size"));
        check_it(json!({ "size": 65 }), Some("size"));
        check_it(json!({ "name": "" }), Some("name"));
        check_it(json!({ "name": "four" }), Some("name"));
        check_it(json!({ "parts": [] }), Some("parts"));
    }
}
