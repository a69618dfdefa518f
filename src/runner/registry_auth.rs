//! Merges the registry credentials of the mounted Secrets into the one file that buildctl reads. Nothing of their content is
//! ever printed.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use serde_json::{Map, Value};

use super::{confidential, result::BuildFailure};
use crate::{api::FailureReason, plan::instructions::MountedSecret};

/// A Secret may be 1 MiB large.
const SIZE_LIMIT: u64 = 1 << 20;
const KEY: &str = ".dockerconfigjson";

/// Writes `config.json` with the credentials of all Secrets to a folder; for one registry the later Secret wins. The values in it
/// that are confidential come back.
pub fn write_docker_config(
    secrets: &[MountedSecret],
    folder: &Path,
) -> Result<Vec<String>, BuildFailure> {
    let mut merged = Map::new();
    for secret in secrets {
        for (registry, credentials) in read(secret)? {
            merged.insert(registry, credentials);
        }
    }
    let confidential = merged.values().flat_map(confidential::of_credentials).collect();
    let file = serde_json::json!({ "auths": merged }).to_string();
    let write = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(folder.join("config.json"))?
            .write_all(file.as_bytes())
    };
    write().map(|()| confidential).map_err(|error| {
        BuildFailure::new(
            FailureReason::Internal,
            format!("the registry credentials could not be written: {error}"),
        )
    })
}

/// Adds whose credentials a registry did not take, by the names of the Secrets: what is in them is not said.
pub fn whose_credentials(failure: BuildFailure, secrets: &[MountedSecret]) -> BuildFailure {
    if !matches!(
        failure.reason,
        FailureReason::RegistryUnauthorized | FailureReason::RegistryForbidden
    ) {
        return failure;
    }
    let is_for_it = |secret: &&MountedSecret| {
        let registries = read(secret).unwrap_or_default();
        registries.keys().any(|registry| failure.message.contains(host(registry)))
    };
    let names: Vec<_> = secrets.iter().map(|secret| secret.name.as_str()).collect();
    // For one registry the later Secret wins.
    let whose = match secrets.iter().rev().find(is_for_it) {
        Some(secret) => format!("its credentials are those of Secret {}", secret.name),
        None if names.is_empty() => "the build has no registrySecrets".to_owned(),
        None => format!(
            "none of the registrySecrets ({}) has credentials for this registry",
            names.join(", ")
        ),
    };
    BuildFailure { message: format!("{}; {whose}", failure.message), ..failure }
}

/// The host of a key of `auths`, which may be an address; Docker Hub answers under several names.
fn host(registry: &str) -> &str {
    let address = registry.split_once("://").map_or(registry, |(_, address)| address);
    let host = address.split('/').next().unwrap_or_default();
    if host.is_empty() {
        registry
    } else {
        host.strip_prefix("index.").filter(|host| *host == "docker.io").unwrap_or(host)
    }
}

fn read(secret: &MountedSecret) -> Result<Map<String, Value>, BuildFailure> {
    let failed = |reason, what: &str| {
        BuildFailure::new(reason, format!("registrySecrets: Secret {:?} {what}", secret.name))
    };
    let path = secret.path.join(KEY);
    let is_large = fs::metadata(&path)
        .map_err(|_| {
            // The kubelet leaves `..data` in an empty mount too.
            let is_key = |entry: io::Result<fs::DirEntry>| {
                entry.is_ok_and(|entry| !entry.file_name().as_encoded_bytes().starts_with(b".."))
            };
            let is_mounted =
                fs::read_dir(&secret.path).is_ok_and(|mut entries| entries.any(is_key));
            let words = if is_mounted {
                "has no key .dockerconfigjson; its type must be kubernetes.io/dockerconfigjson"
            } else {
                "does not exist"
            };
            failed(FailureReason::SecretMissing, words)
        })?
        .len()
        > SIZE_LIMIT;
    let text = if is_large { None } else { fs::read_to_string(&path).ok() };
    let parsed = text.and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let auths = parsed.as_ref().and_then(|config| config.get("auths")).and_then(Value::as_object);
    auths.cloned().ok_or_else(|| {
        failed(FailureReason::SecretInvalid, "holds no JSON with \"auths\" in .dockerconfigjson")
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::Path};

    use serde_json::{Value, json};

    use super::{
        BuildFailure, FailureReason, MountedSecret, whose_credentials, write_docker_config,
    };

    fn secret(root: &Path, name: &str, content: Option<&str>) -> MountedSecret {
        let path = root.join(name);
        fs::create_dir_all(&path).unwrap();
        if let Some(content) = content {
            fs::write(path.join(".dockerconfigjson"), content).unwrap();
        }
        MountedSecret { name: name.to_owned(), path }
    }

    #[test]
    fn the_later_secret_wins_for_a_registry_and_the_file_is_private() {
        let root = tempfile::tempdir().unwrap();
        let first = secret(
            root.path(),
            "first",
            Some(r#"{"auths":{"a":{"auth":"1"},"b":{"auth":"1"}},"credsStore":"desktop"}"#),
        );
        let second = secret(root.path(), "second", Some(r#"{"auths":{"b":{"auth":"2"}}}"#));
        let folder = root.path().join("merged");
        write_docker_config(&[first, second], &folder).unwrap();
        let file = folder.join("config.json");
        let merged: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(merged, json!({ "auths": { "a": { "auth": "1" }, "b": { "auth": "2" } } }));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_refusal_says_whose_credentials_were_refused() {
        let root = tempfile::tempdir().unwrap();
        let hub = secret(
            root.path(),
            "hub",
            Some(r#"{"auths":{"https://index.docker.io/v1/":{"auth":"hunter2"}}}"#),
        );
        let own = secret(
            root.path(),
            "own",
            Some(r#"{"auths":{"r.example.com:5000":{"auth":"hunter2"}}}"#),
        );
        let (of_own, of_hub) = (
            "push to https://r.example.com:5000/v2/: 401",
            "pull from https://registry-1.docker.io/v2/x: 401 Unauthorized",
        );
        for (secrets, message, expected) in [
            (vec![], of_own, "; the build has no registrySecrets"),
            (
                vec![hub.clone()],
                of_own,
                "; none of the registrySecrets (hub) has credentials for this registry",
            ),
            (vec![hub.clone(), own.clone()], of_own, "; its credentials are those of Secret own"),
            (vec![hub, own], of_hub, "; its credentials are those of Secret hub"),
        ] {
            let failure = whose_credentials(
                BuildFailure::new(FailureReason::RegistryUnauthorized, message),
                &secrets,
            );
            assert_eq!(failure.message, format!("{message}{expected}"));
        }
        let other = BuildFailure::new(FailureReason::NameResolution, of_own);
        assert_eq!(whose_credentials(other.clone(), &[]), other);
    }

    #[test]
    fn a_missing_or_unreadable_secret_is_named_without_its_content() {
        let root = tempfile::tempdir().unwrap();
        let other = secret(root.path(), "other", None);
        fs::write(root.path().join("other/password"), "hunter2").unwrap();
        let none = secret(root.path(), "none", None);
        fs::create_dir(root.path().join("none/..data")).unwrap();
        let bad = secret(root.path(), "bad", Some("hunter2"));
        let odd = secret(root.path(), "odd", Some(r#"{"auths":"hunter2"}"#));
        for (secret, reason, words) in [
            (none, FailureReason::SecretMissing, "Secret \"none\" does not exist"),
            (other, FailureReason::SecretMissing, "Secret \"other\" has no key .dockerconfigjson"),
            (bad, FailureReason::SecretInvalid, "Secret \"bad\" holds no JSON"),
            (odd, FailureReason::SecretInvalid, "Secret \"odd\" holds no JSON"),
        ] {
            let failure = write_docker_config(&[secret], &root.path().join("merged")).unwrap_err();
            assert_eq!(failure.reason, reason);
            assert!(
                failure.message.contains(words) && !failure.message.contains("hunter2"),
                "{}",
                failure.message
            );
        }
    }
}
