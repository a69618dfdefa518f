//! The CustomResourceDefinition as a file.

use kube::CustomResourceExt;
use serde_json::Value;

use super::OciBuild;

/// The CustomResourceDefinition as YAML, as it stands in `crds/`.
#[allow(clippy::missing_panics_doc)] // It cannot: the messages say why.
pub fn crd_yaml() -> String {
    let mut crd = serde_json::to_value(OciBuild::crd())
        .expect("the definition is made of types that JSON can hold");
    tidy(&mut crd);
    serde_saphyr::to_string(&crd).expect("what JSON can hold YAML can hold")
}

/// Descriptions lose the line breaks of the source, which `kubectl explain` would show; bounds such as `10.0` become the integers
/// that the API server gives back, so that GitOps tools see no difference.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(text) if name == "description" => *text = unwrapped(text),
                    _ => tidy(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Number(number) => {
            if let Some(bound) = number.as_f64().filter(|_| number.is_f64())
                && bound.fract() == 0.0
                && bound.abs() < 1e15
            {
                #[allow(clippy::cast_possible_truncation)]
                // Whole and below 2^53: nothing is cut off.
                let bound = bound as i64;
                *number = bound.into();
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// One line a paragraph.
fn unwrapped(text: &str) -> String {
    text.split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join("\n\n")
}
