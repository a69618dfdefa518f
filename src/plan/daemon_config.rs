//! buildkitd.toml of one build.

use std::collections::BTreeMap;

use serde::Serialize;

use super::operator_config::{OperatorConfig, RegistryConfig};

#[derive(Serialize)]
struct DaemonConfig<'a> {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    registry: &'a BTreeMap<String, RegistryConfig>,
}

/// The daemon's configuration file, or nothing where its defaults serve.
pub fn daemon_config(config: &OperatorConfig) -> Option<String> {
    if config.registries.is_empty() {
        return None;
    }
    let file = DaemonConfig { registry: &config.registries };
    Some(toml::to_string(&file).expect("maps of strings and booleans can always be written as TOML"))
}

#[cfg(test)]
mod tests {
    use super::{OperatorConfig, daemon_config};

    #[test]
    fn without_registries_there_is_no_file() {
        assert_eq!(daemon_config(&OperatorConfig::default()), None);
    }

    #[test]
    fn registries_are_written_as_buildkit_reads_them() {
        let config: OperatorConfig = serde_json::from_value(serde_json::json!({
            "registries": {
                "docker.io": { "mirrors": ["mirror.example.com:5000"] },
                "mirror.example.com:5000": { "http": true },
            }
        }))
        .unwrap();
        insta::assert_snapshot!(daemon_config(&config).unwrap(), @r#"
        [registry."docker.io"]
        mirrors = ["mirror.example.com:5000"]

        [registry."mirror.example.com:5000"]
        http = true
        "#);
    }
}
