//! What the schema of the definition says of a field, and what stands in the sentences of its description.

use serde_json::Value;

/// One field of the OciBuild.
pub struct Field {
    /// Dotted; `[]` is an item of a list, `*` a name of a map that the user chooses.
    pub path: String,
    pub schema: Value,
    pub required: bool,
}

/// An object and its fields, each a section of the reference.
pub struct Section {
    pub path: String,
    pub description: String,
    pub fields: Vec<Field>,
}

/// Types of Kubernetes itself. They are described where a Pod is.
const AS_IN_A_POD: &[&str] = &["spec.pod.affinity", "spec.pod.tolerations"];

/// All objects of `spec` and `status`, each before those inside it.
pub fn sections() -> Vec<Section> {
    let definition: Value = serde_saphyr::from_str(&ocibuild::api::crd_yaml()).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut sections = Vec::new();
    for part in ["spec", "status"] {
        add_section(&mut sections, part, &schema["properties"][part]);
    }
    sections
}

fn add_section(sections: &mut Vec<Section>, path: &str, schema: &Value) {
    let fields: Vec<_> = schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, field)| Field {
            path: format!("{path}.{name}"),
            schema: field.clone(),
            required: schema["required"]
                .as_array()
                .is_some_and(|required| required.iter().any(|field| field == name.as_str())),
        })
        .collect();
    let inner: Vec<_> = fields
        .iter()
        .filter_map(|field| Some((field.section()?, field.object().clone())))
        .collect();
    let description = schema["description"].as_str().unwrap_or_default().to_owned();
    sections.push(Section { path: path.to_owned(), description, fields });
    for (path, schema) in inner {
        add_section(sections, &path, &schema);
    }
}

impl Field {
    pub fn is_as_in_a_pod(&self) -> bool {
        AS_IN_A_POD.contains(&self.path.as_str())
    }

    /// The object that the field is, or is a list or map of.
    fn object(&self) -> &Value {
        ["items", "additionalProperties"]
            .iter()
            .map(|inner| &self.schema[*inner])
            .find(|inner| inner.is_object())
            .unwrap_or(&self.schema)
    }

    /// Path of the section that describes the fields of this one.
    pub fn section(&self) -> Option<String> {
        let has_fields =
            self.object()["properties"].as_object().is_some_and(|fields| !fields.is_empty());
        (has_fields && !self.is_as_in_a_pod()).then(|| {
            let inside = match () {
                () if self.schema["items"].is_object() => "[]",
                () if self.schema["additionalProperties"].is_object() => ".*",
                () => "",
            };
            format!("{}{inside}", self.path)
        })
    }

    pub fn example(&self) -> Option<Value> {
        let given = self.schema.get("example").cloned();
        let by_type = || match self.schema["enum"].get(0) {
            Some(first) => Some(first.clone()),
            None => (self.schema["type"] == "boolean").then(|| true.into()),
        };
        given.or_else(by_type)
    }

    pub fn sentences(&self) -> Sentences {
        Sentences::of(self.schema["description"].as_str().unwrap_or_default())
    }

    /// What holds when the field is left out; empty if that is nothing.
    pub fn default(&self) -> String {
        match (&self.schema["default"], self.sentences().default) {
            (Value::Null, Some(words)) => words,
            (Value::Null, None)
                if self.schema["type"] == "boolean" && self.schema["nullable"] != true =>
            {
                "`false`".to_owned()
            }
            (Value::Null, None) => String::new(),
            (default, _) => format!("`{}`", yaml(default)),
        }
    }
}

/// A description taken apart: some of its sentences have a column of their own.
#[derive(Debug, Default, PartialEq)]
pub struct Sentences {
    /// All other sentences.
    pub description: String,
    /// From "Default: …" or "… if left out".
    pub default: Option<String>,
    /// From "Task parameter …", with the names as code.
    pub parameter: Option<String>,
}

impl Sentences {
    pub fn of(description: &str) -> Self {
        let mut taken_apart = Self::default();
        let mut rest = Vec::new();
        for sentence in split(description) {
            let sentence = sentence.trim_end_matches('.');
            if let Some(default) = sentence.strip_prefix("Default: ") {
                taken_apart.default = Some(default.to_owned());
            } else if let Some(parameter) = sentence
                .strip_prefix("Task parameters ")
                .or(sentence.strip_prefix("Task parameter "))
            {
                taken_apart.parameter = Some(parameter_names_as_code(parameter));
            } else if let Some(before) = sentence.strip_suffix(" if left out") {
                let (kept, default) = before.rsplit_once("; ").unwrap_or(("", before));
                taken_apart.default = Some(default.to_owned());
                rest.extend((!kept.is_empty()).then(|| format!("{kept}.")));
            } else {
                rest.push(format!("{sentence}."));
            }
        }
        taken_apart.description = rest.join(" ");
        taken_apart
    }
}

/// A sentence ends with a full stop and white space, or with the text.
fn split(description: &str) -> Vec<String> {
    let words: Vec<_> = description.split_whitespace().collect();
    words.split_inclusive(|word| word.ends_with('.')).map(|sentence| sentence.join(" ")).collect()
}

fn parameter_names_as_code(text: &str) -> String {
    let as_code = |word: &str| {
        let name = word.trim_end_matches(',');
        if is_parameter_name(name) {
            word.replace(name, &format!("`{name}`"))
        } else {
            word.to_owned()
        }
    };
    text.split(' ').map(as_code).collect::<Vec<_>>().join(" ")
}

/// `CONTEXT`, or `LABEL_*` for parameters whose names begin so.
pub fn is_parameter_name(word: &str) -> bool {
    let name = word.strip_suffix('*').unwrap_or(word);
    name.len() > 1
        && name.chars().all(|character| character.is_ascii_uppercase() || character == '_')
}

/// A value as it is written in a manifest, in one line.
pub fn yaml(value: &Value) -> String {
    match value {
        Value::String(text)
            if serde_saphyr::from_str::<Value>(text).is_ok_and(|read| read == *value)
                && !text.contains('\n') =>
        {
            text.clone()
        }
        _ => flow(value),
    }
}

fn flow(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, value)| format!("{}: {}", flow_text(name), flow(value)))
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::String(text) => flow_text(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// Without quotation marks where YAML reads the same.
fn flow_text(text: &str) -> String {
    let as_item: Option<Vec<Value>> = serde_saphyr::from_str(&format!("[{text}]")).ok();
    let as_name: Option<Value> = serde_saphyr::from_str(&format!("{{{text}: 1}}")).ok();
    let plain = !text.contains('\n')
        && as_item == Some(vec![text.into()])
        && as_name == Some(serde_json::json!({ text: 1 }));
    if plain { text.to_owned() } else { Value::from(text).to_string() }
}
