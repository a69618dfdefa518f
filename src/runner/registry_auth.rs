//! Merges registry credentials from the mounted Secrets and selects one per BuildKit request.
//! Values are never printed.

use std::{
    collections::BTreeMap,
    error::Error,
    fs, io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use oci_spec::distribution::Reference;
use serde_json::{Map, Value};

use super::{
    confidential, docker_config::DockerConfig, image_source, progress::SharedTracker,
    result::BuildFailure, source::authorities,
};
use crate::{
    api::FailureReason,
    buildkit::auth::{BasicError, Credential, CredentialSource, HttpClients},
    plan::instructions::{MountedSecret, RegistryInstructions},
};

/// A Secret may be 1 MiB large.
const MAX_SECRET_BYTES: u64 = 1 << 20;
/// Repositories of a registry that are remembered.
const MAX_REPOSITORIES: usize = 1000;
const KEY: &str = ".dockerconfigjson";

/// Merges the credentials of the Secrets; for one registry, the later Secret wins. Returns the
/// confidential values in them too.
pub fn merge_secrets(
    secrets: &[MountedSecret],
) -> Result<(DockerConfig, Vec<String>), BuildFailure> {
    let mut merged = Map::new();
    for secret in secrets {
        merged.extend(read(secret)?);
    }
    let confidential = merged.values().flat_map(confidential::of_credentials).collect();
    Ok((DockerConfig::new(&merged), confidential))
}

/// Returns the credentials of the user who runs this, those of credential helpers included.
pub fn of_user() -> (DockerConfig, Vec<String>) {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".docker");
    let folder = std::env::var_os("DOCKER_CONFIG").map_or_else(home, PathBuf::from);
    let config = fs::read(folder.join("config.json")).unwrap_or_default();
    let config: Value = serde_json::from_slice(&config).unwrap_or_default();
    let auths = config.get("auths").and_then(Value::as_object).cloned().unwrap_or_default();
    let confidential = auths.values().flat_map(confidential::of_credentials).collect();
    (DockerConfig::new(&auths).with_helpers(), confidential)
}

/// Selects the credential for each BuildKit request.
pub struct RegistryLogins {
    config: DockerConfig,
    registries: BTreeMap<String, RegistryInstructions>,
    hosts: Mutex<BTreeMap<String, Host>>,
    /// Redacts the tokens that are fetched.
    tracker: SharedTracker,
}

/// The answer to a request for Basic credentials.
#[derive(Default)]
enum HandedOut {
    #[default]
    Nothing,
    /// `None` is the answer that there is no credential.
    Answer(Option<Credential>),
}

/// Authentication state of a registry.
#[derive(Default)]
struct Host {
    /// Repositories of the build: the one that is pushed first, then as BuildKit uses them.
    repositories: Vec<String>,
    /// The answer to BuildKit's request for Basic credentials, which it caches.
    handed_out: HandedOut,
}

impl RegistryLogins {
    pub fn new(
        config: DockerConfig,
        registries: BTreeMap<String, RegistryInstructions>,
        tracker: SharedTracker,
    ) -> Self {
        Self { config, registries, hosts: Mutex::default(), tracker }
    }

    /// Registry settings by host.
    pub fn registries(&self) -> &BTreeMap<String, RegistryInstructions> {
        &self.registries
    }

    pub fn accepts_any_certificate(&self, host: &str) -> bool {
        self.registries.get(host).is_some_and(|registry| registry.insecure)
    }

    /// Records an image of the build, the pushed one first. Fails if BuildKit holds another
    /// credential for its registry.
    pub fn use_image(&self, reference: &str) -> Result<(), BasicError> {
        let Some((name, repository)) = repository_of(reference) else { return Ok(()) };
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let host = hosts.entry(name.clone()).or_default();
        if host.repositories.len() < MAX_REPOSITORIES && !host.repositories.contains(&repository) {
            host.repositories.push(repository.clone());
        }
        let HandedOut::Answer(handed_out) = &host.handed_out else { return Ok(()) };
        match self.config.credential(&name, Some(&repository)) {
            needed @ Some(_) if needed != *handed_out => Err(BasicError::Ambiguous {
                first: host.repositories[0].clone(),
                host: name,
                second: repository,
            }),
            _ => Ok(()),
        }
    }

    /// Takes the credential of the first repository that has one. Another repository with another
    /// one cannot be served: BuildKit uses one credential for the whole host.
    fn basic_of(&self, name: &str, host: &Host) -> Result<Option<Credential>, BasicError> {
        let credential = |repository: &str| self.config.credential(name, Some(repository));
        let known = host.repositories.iter();
        let mut found = known.filter_map(|repository| Some((repository, credential(repository)?)));
        let Some((first, chosen)) = found.next() else {
            return Ok(self.config.credential(name, None).or_else(|| self.only(name)));
        };
        match found.find(|(_, other)| *other != chosen) {
            Some((second, _)) => Err(BasicError::Ambiguous {
                host: name.to_owned(),
                first: first.clone(),
                second: second.clone(),
            }),
            None => Ok(Some(chosen)),
        }
    }

    /// Returns a host's credential if all its entries agree.
    fn only(&self, host: &str) -> Option<Credential> {
        let mut all = self.config.all(host);
        let first = all.pop()?;
        all.iter().all(|other| *other == first).then_some(first)
    }
}

/// Host and repository of a reference; Docker Hub's host is `docker.io`.
fn repository_of(reference: &str) -> Option<(String, String)> {
    let reference = reference.parse::<Reference>().ok()?;
    Some((reference.registry().to_owned(), reference.repository().to_owned()))
}

impl CredentialSource for RegistryLogins {
    fn credential(&self, host: &str, repository: Option<&str>) -> Option<Credential> {
        self.config.credential(host, repository)
    }

    fn all(&self, host: &str) -> Vec<Credential> {
        self.config.all(host)
    }

    fn basic(&self, host: &str) -> Result<Option<Credential>, BasicError> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let known = hosts.entry(host.to_owned()).or_default();
        let chosen = self.basic_of(host, known)?;
        known.handed_out = HandedOut::Answer(chosen.clone());
        Ok(chosen)
    }

    fn token_fetched(&self, token: &str) {
        self.tracker.with(|tracker| tracker.keep_back([token.to_owned()]));
    }
}

impl HttpClients for RegistryLogins {
    fn builder(&self, host: &str) -> Result<reqwest::ClientBuilder, Box<dyn Error + Send + Sync>> {
        let trusted = authorities(&self.registries);
        image_source::client_builder(&trusted, self.accepts_any_certificate(host))
            .map_err(|failure| failure.message.into())
    }

    fn is_plain_http(&self, host: &str) -> bool {
        self.registries.get(host).is_some_and(|registry| registry.http)
    }
}

/// Adds whose credentials a registry did not take, by the names of the Secrets: what is in them is
/// not said.
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
        > MAX_SECRET_BYTES;
    let text = if is_large { None } else { fs::read_to_string(&path).ok() };
    let parsed = text.and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let auths = parsed.as_ref().and_then(|config| config.get("auths")).and_then(Value::as_object);
    auths.cloned().ok_or_else(|| {
        failed(FailureReason::SecretInvalid, "holds no JSON with \"auths\" in .dockerconfigjson")
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    use serde_json::{Value, json};

    use super::{
        BuildFailure, Credential, CredentialSource, DockerConfig, FailureReason, MountedSecret,
        RegistryLogins, SharedTracker, merge_secrets, whose_credentials,
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
    fn the_later_secret_wins_for_a_registry() {
        let root = tempfile::tempdir().unwrap();
        // u:first, u:second
        let (one, two) = (r#"{"auth":"dTpmaXJzdA=="}"#, r#"{"auth":"dTpzZWNvbmQ="}"#);
        let first = format!(r#"{{"auths":{{"a":{one},"b":{one}}},"credsStore":"desktop"}}"#);
        let second = format!(r#"{{"auths":{{"b":{two}}}}}"#);
        let first = secret(root.path(), "first", Some(&first));
        let second = secret(root.path(), "second", Some(&second));
        let (config, confidential) = merge_secrets(&[first, second]).unwrap();
        for (host, expected) in [("a", "first"), ("b", "second")] {
            let (user, password) = ("u".to_owned(), expected.to_owned());
            let login = Some(Credential::Password { user, password });
            assert!(config.credential(host, None) == login, "{host}");
            assert!(confidential.contains(&expected.to_owned()), "{host}");
        }
    }

    fn logins(auths: &Value, pushed: &str) -> RegistryLogins {
        let config = DockerConfig::new(auths.as_object().unwrap());
        let logins = RegistryLogins::new(config, BTreeMap::new(), SharedTracker::default());
        logins.use_image(pushed).unwrap();
        logins
    }

    /// BuildKit asks by host alone, and uses the answer for all repositories on it.
    #[test]
    fn basic_authentication_gets_the_credential_of_the_pushed_repository() {
        let login = |user: &str| json!({ "username": user, "password": "hunter2" });
        let auths = json!({
            "r.example/team": login("team"), "r.example/base": login("base"),
            "r.example/same": login("team"), "one.example/any": login("any"),
        });
        let user = |logins: &RegistryLogins, host: &str| match logins.basic(host) {
            Ok(Some(Credential::Password { user, .. })) => user,
            Ok(other) => format!("{other:?}"),
            Err(error) => error.to_string(),
        };
        let pushes = logins(&auths, "r.example/team/app:v1");
        assert_eq!(user(&pushes, "r.example"), "team");
        for public in ["r.example/public/x:1", "r.example/same/y"] {
            pushes.use_image(public).unwrap();
            assert_eq!(user(&pushes, "r.example"), "team", "{public} needs no other one");
        }
        let ambiguous = pushes.use_image("r.example/base/debian:13").unwrap_err().to_string();
        assert_eq!(user(&pushes, "r.example"), ambiguous);
        assert!(ambiguous.contains(r#""team/app" and "base/debian" have different ones"#));

        let pulls = logins(&auths, "other.example/team/app:v1");
        assert_eq!(user(&pulls, "one.example"), "any", "there is one alone");
        pulls.use_image("r.example/base/debian:13").unwrap();
        assert_eq!(user(&pulls, "r.example"), "base");
        assert_eq!(user(&pulls, "none.example"), "None");

        // BuildKit may ask before it reports which image it needs.
        let early = logins(&auths, "other.example/team/app:v1");
        assert_eq!(user(&early, "r.example"), "None");
        early.use_image("r.example/base/debian:13").unwrap_err();
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
            let failure = merge_secrets(&[secret]).unwrap_err();
            assert_eq!(failure.reason, reason);
            assert!(
                failure.message.contains(words) && !failure.message.contains("hunter2"),
                "{}",
                failure.message
            );
        }
    }
}
