//! buildkitd.toml of one build: its registries and what the spec adds, merged into one file.

use serde::Serialize;
use toml::{Table, Value};
use toml_parser::{Source, lexer::TokenKind};

use super::{InvalidSpec, Validated, instructions::RegistryInstructions};

/// Settings that the pod depends on: where the daemon listens and where its state is.
const RESERVED: [&str; 2] = ["grpc", "root"];

/// Tables in tables, and parts of a key; BuildKit's own files need four.
const NESTING_LIMIT: usize = 16;

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
    if is_deep(text) {
        return Err(InvalidSpec::BuildkitConfig(format!(
            "tables and arrays are nested more than {NESTING_LIMIT} deep, or a key has more than {NESTING_LIMIT} parts"
        )));
    }
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        InvalidSpec::BuildkitConfig(error.to_string().trim().to_owned())
    })?;
    match RESERVED.iter().find(|key| table.contains_key(**key)) {
        Some(key) => Err(InvalidSpec::BuildkitConfig(format!(
            "{key} is set by the operator and cannot be set here"
        ))),
        None => Ok(table),
    }
}

/// Whether brackets or the parts of a key go deeper than any configuration of BuildKit's. Each limit of the TOML crate's own allows
/// more than the stack can take when both are used up together.
fn is_deep(text: &str) -> bool {
    let (mut brackets, mut parts) = (0_usize, 0_usize);
    Source::new(text).lex().any(|token| {
        match token.kind() {
            TokenKind::LeftCurlyBracket | TokenKind::LeftSquareBracket => {
                (brackets, parts) = (brackets + 1, 0);
            }
            TokenKind::RightCurlyBracket | TokenKind::RightSquareBracket => {
                (brackets, parts) = (brackets.saturating_sub(1), 0);
            }
            TokenKind::Dot => parts += 1,
            TokenKind::Equals | TokenKind::Comma | TokenKind::Newline => parts = 0,
            _ => {}
        }
        brackets > NESTING_LIMIT || parts > NESTING_LIMIT
    })
}

/// buildkitd.toml of a build, or nothing where its defaults serve.
#[allow(clippy::missing_panics_doc)] // It cannot: the messages say why.
pub fn daemon_config(build: &Validated) -> Option<String> {
    let mut file = Table::new();
    let registries = &build.instructions.registries;
    if !registries.is_empty() {
        let registries =
            registries.iter().map(|(host, registry)| (host.clone(), Value::Table(table(registry))));
        file.insert("registry".to_owned(), Value::Table(registries.collect()));
    }
    merge(&mut file, &build.buildkit_config);
    (!file.is_empty())
        .then(|| toml::to_string(&file).expect("a TOML table can always be written as TOML"))
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

#[cfg(test)]
mod tests {
    use super::{NESTING_LIMIT, parse};

    #[test]
    fn what_is_nested_deeper_than_the_stack_can_take_is_refused_before_it_is_read() {
        let key = vec!["a"; 78].join(".");
        let deep = format!("x={}1{}", format!("{{{key}=").repeat(75), "}".repeat(75));
        let array = format!("x={}{}", "[".repeat(NESTING_LIMIT + 1), "]".repeat(NESTING_LIMIT + 1));
        for text in [deep, array, format!("{key} = 1"), format!("[{key}]")] {
            let error = parse(&text).unwrap_err().to_string();
            assert!(
                error.starts_with("buildkitConfig: tables and arrays are nested more than 16 deep"),
                "{error}"
            );
        }
        let dots = ".".repeat(1000);
        let table = parse(&format!(
            "debug = true # {dots}\n[worker.oci]\ngcpolicy = [{{ filters = [\"{dots}\"] }}]\nfree = 1.5\n"
        ));
        assert!(table.unwrap().contains_key("worker"));
    }
}
