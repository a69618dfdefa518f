//! How registries are reached: the operator's configuration, and what a build says otherwise.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    OperatorConfig,
    instructions::{MountedAuthority, RegistryInstructions},
    layout,
};
use crate::api::{ConfigMapKey, OciBuildSpec};

/// The registries of a build, by host, and the ConfigMaps that hold their authorities, in the order of their mounts.
pub fn registries(
    spec: &OciBuildSpec,
    config: &OperatorConfig,
) -> (BTreeMap<String, RegistryInstructions>, Vec<ConfigMapKey>) {
    let of_operator = config.registries.iter().map(|(host, registry)| {
        let registry = RegistryInstructions {
            mirrors: registry.mirrors.clone(),
            http: registry.http,
            insecure: registry.insecure,
            ca: None,
        };
        (host.clone(), registry)
    });
    let mut registries: BTreeMap<String, RegistryInstructions> = of_operator.collect();
    for (host, mirrors) in &spec.registry_mirrors {
        registries.entry(host.clone()).or_default().mirrors.clone_from(mirrors);
    }
    let mut authorities: Vec<ConfigMapKey> = Vec::new();
    for (host, connection) in &spec.registries {
        let registry = registries.entry(host.clone()).or_default();
        registry.http = connection.http;
        registry.insecure = connection.insecure;
        registry.ca = connection.ca.as_ref().map(|ca| {
            let number = authorities.iter().position(|other| other == ca).unwrap_or_else(|| {
                authorities.push(ca.clone());
                authorities.len() - 1
            });
            MountedAuthority {
                config_map: ca.name.clone(),
                key: ca.key.clone(),
                path: authority_file(number),
            }
        });
    }
    (registries, authorities)
}

fn authority_file(number: usize) -> PathBuf {
    Path::new(layout::REGISTRY_AUTHORITIES_DIRECTORY)
        .join(number.to_string())
        .join(layout::KEY_FILE)
}
