//! The schema of the CustomResourceDefinition, as far as the API server would refuse a status by it: a status that is refused is
//! a build that never ends.

use std::sync::LazyLock;

use ocibuild::api::{OciBuildStatus, crd_yaml};
use serde_json::Value;

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let definition: Value = serde_saphyr::from_str(&crd_yaml()).unwrap();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"].clone()
});

/// What the API server would refuse.
pub fn refusal(status: &OciBuildStatus) -> Option<String> {
    refused(&SCHEMA, &serde_json::to_value(status).unwrap(), "status")
}

fn refused(schema: &Value, value: &Value, path: &str) -> Option<String> {
    let type_ = schema["type"].as_str().unwrap_or_default();
    let is_of_type = match type_ {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        _ => true,
    };
    if !(is_of_type || value.is_null() && schema["nullable"] == true) {
        return Some(format!("{path}: {value} is no {type_}"));
    }
    if let (Some(minimum), Some(number)) = (schema["minimum"].as_f64(), value.as_f64())
        && number < minimum
    {
        return Some(format!("{path}: {number} is less than {minimum}"));
    }
    if let (Some(names), true) = (schema["enum"].as_array(), value.is_string())
        && !names.contains(value)
    {
        return Some(format!("{path}: {value} is none of {names:?}"));
    }
    if let (Some(limit), Some(text)) = (schema["maxLength"].as_u64(), value.as_str())
        && text.chars().count() as u64 > limit
    {
        return Some(format!("{path}: longer than {limit}"));
    }
    let fields = value.as_object().into_iter().flatten();
    let of_field = |(name, value): (&String, &Value)| {
        refused(&schema["properties"][name], value, &format!("{path}.{name}"))
    };
    let items = value.as_array().into_iter().flatten();
    fields.map(of_field).find_map(|refusal| refusal).or_else(|| {
        items.map(|item| refused(&schema["items"], item, path)).find_map(|refusal| refusal)
    })
}
