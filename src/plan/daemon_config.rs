//! buildkitd.toml of one build: its registries and what the spec adds, merged into one file.

use serde::Serialize;
use toml::{Table, Value};

use super::{InvalidSpec, Validated, instructions::RegistryInstructions};

/// Settings that the pod depends on: where the daemon listens and where its state is.
const RESERVED: [&str; 2] = ["grpc", "root"];

/// One registry as BuildKit reads it (docs/buildkitd.toml.md of BuildKit).
#[derive(Serialize)]
struct Registry<'a> {
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    mirrors: &'a [String],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    http: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    insecure: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ca: Vec<&'a std::path::Path>,
}

/// Reads `buildkitConfig`.
pub fn parse(text: &str) -> Result<Table, InvalidSpec> {
    let table: Table =
        text.parse().map_err(|error: toml::de::Error| InvalidSpec::BuildkitConfig(error.to_string().trim().to_owned()))?;
    match RESERVED.iter().find(|key| table.contains_key(**key)) {
        Some(key) => Err(InvalidSpec::BuildkitConfig(format!("{key} is set by the operator and cannot be set here"))),
        None => Ok(table),
    }
}

/// buildkitd.toml of a build, or nothing where its defaults serve.
#[allow(clippy::missing_panics_doc)] // It cannot: the messages say why.
pub fn daemon_config(build: &Validated) -> Option<String> {
    let mut file = Table::new();
    let registries = &build.instructions.registries;
    if !registries.is_empty() {
        let registries = registries.iter().map(|(host, registry)| (host.clone(), Value::Table(table(registry))));
        file.insert("registry".to_owned(), Value::Table(registries.collect()));
    }
    merge(&mut file, &build.buildkit_config);
    (!file.is_empty()).then(|| toml::to_string(&file).expect("a TOML table can always be written as TOML"))
}

fn table(registry: &RegistryInstructions) -> Table {
    let registry = Registry {
        mirrors: &registry.mirrors,
        http: registry.http,
        insecure: registry.insecure,
        ca: registry.ca.iter().map(|ca| ca.path.as_path()).collect(),
    };
    Table::try_from(registry).expect("texts and booleans can always be a TOML table")
}

/// Tables are merged key by key; of anything else the addition wins.
fn merge(base: &mut Table, addition: &Table) {
    for (key, value) in addition {
        match (base.get_mut(key), value) {
            (Some(Value::Table(base)), Value::Table(addition)) => merge(base, addition),
            _ => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}
