//! Registry credentials in the format of Docker's `config.json`, matched as Docker and the kubelet
//! match them. Pure, but for the credential helpers of the user who runs `ocibuild run -f`.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::buildkit::auth::Credential;

const DOCKER_HUB: &str = "docker.io";
/// The key under which `docker login` keeps Docker Hub's credentials.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// Credentials by registry, or by a part of its repositories.
#[derive(Default)]
pub struct DockerConfig {
    entries: Vec<Entry>,
    uses_helpers: bool,
}

/// The credentials of one key of `auths`.
struct Entry {
    host: String,
    /// The repository, or the beginning of its path, that the credential is for; empty for all of
    /// the registry.
    path: String,
    /// Whether the key is a bare host name, which takes precedence over a URL.
    is_bare: bool,
    credential: Credential,
}

// Implemented by hand to keep the value out of logs.
impl fmt::Debug for DockerConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("DockerConfig")
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Login {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl DockerConfig {
    /// Reads `auths`. An entry without a usable credential counts as absent.
    pub fn new(auths: &Map<String, Value>) -> Self {
        let entries = auths.iter().filter_map(|(key, login)| Entry::of(key, login)).collect();
        Self { entries, uses_helpers: false }
    }

    /// Also asks the credential helpers that the user's own `config.json` names.
    #[must_use]
    pub fn with_helpers(self) -> Self {
        Self { uses_helpers: true, ..self }
    }

    /// Returns the most specific credential for a repository; without a repository, the one for the
    /// whole registry.
    pub fn credential(&self, host: &str, repository: Option<&str>) -> Option<Credential> {
        let matching = self.entries.iter().filter(|entry| entry.matches(host, repository));
        let best = matching.max_by_key(|entry| (entry.path.len(), entry.is_bare));
        best.map(|entry| entry.credential.clone()).or_else(|| self.ask_helper(host))
    }

    /// Returns all credentials for repositories of a registry.
    pub fn all(&self, host: &str) -> Vec<Credential> {
        let of_host = self.entries.iter().filter(|entry| entry.host == host);
        of_host.map(|entry| entry.credential.clone()).chain(self.ask_helper(host)).collect()
    }

    fn ask_helper(&self, host: &str) -> Option<Credential> {
        use docker_credential::DockerCredential;
        if !self.uses_helpers {
            return None;
        }
        let key = if host == DOCKER_HUB { DOCKER_HUB_KEY } else { host };
        match docker_credential::get_credential(key).ok()? {
            DockerCredential::IdentityToken(token) => Some(Credential::IdentityToken(token)),
            DockerCredential::UsernamePassword(user, password) => {
                Some(Credential::Password { user, password })
            }
        }
    }
}

impl Entry {
    fn of(key: &str, login: &Value) -> Option<Self> {
        let address = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
        let place = address.unwrap_or(key);
        let (host, path) = place.split_once('/').unwrap_or((place, ""));
        let path = path.trim_end_matches('/');
        // The API's version in the address of a registry is not part of a repository.
        let path = if matches!(path, "v1" | "v2") { "" } else { path };
        let host = match host {
            "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
            host => host,
        };
        Some(Self {
            host: host.to_owned(),
            path: path.to_owned(),
            is_bare: address.is_none() || key == DOCKER_HUB_KEY,
            credential: credential(Login::deserialize(login).ok()?)?,
        })
    }

    fn matches(&self, host: &str, repository: Option<&str>) -> bool {
        let is_below = |repository: &str| {
            let rest = repository.strip_prefix(self.path.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.host == host && (self.path.is_empty() || repository.is_some_and(is_below))
    }
}

fn credential(login: Login) -> Option<Credential> {
    let set = |text: Option<String>| text.filter(|text| !text.is_empty());
    if let Some(token) = set(login.registrytoken) {
        return Some(Credential::RegistryToken(token));
    }
    if let Some(token) = set(login.identitytoken) {
        return Some(Credential::IdentityToken(token));
    }
    if let Some(auth) = set(login.auth) {
        let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        let password = password.trim_end_matches('\0').to_owned();
        return Some(Credential::Password { user: user.to_owned(), password });
    }
    Some(Credential::Password { user: login.username?, password: login.password? })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Credential, DockerConfig};

    fn config(auths: Value) -> DockerConfig {
        DockerConfig::new(auths.as_object().unwrap())
    }

    #[expect(clippy::unnecessary_wraps, reason = "the type that is compared")]
    fn login(user: &str, password: &str) -> Option<Credential> {
        Some(Credential::Password { user: user.to_owned(), password: password.to_owned() })
    }

    #[test]
    fn credentials_are_found_by_host_as_docker_finds_them() {
        // u:p, v:q
        let config = config(json!({
            "https://index.docker.io/v1/": { "auth": "dTpw" },
            "a.example": { "auth": "dTpw" },
            "https://a.example/v2/": { "auth": "djpx" },
            "http://b.example:5000/v1": { "username": "v", "password": "q" },
            "c.example": { "auth": "dTpw", "identitytoken": "t" },
            "broken.example": { "auth": "!" },
            "empty.example": {},
            "odd.example": "text",
        }));
        for (host, expected) in [
            ("docker.io", login("u", "p")),
            ("a.example", login("u", "p")),
            ("b.example:5000", login("v", "q")),
            ("b.example", None),
            ("c.example", Some(Credential::IdentityToken("t".to_owned()))),
            ("broken.example", None),
            ("empty.example", None),
            ("odd.example", None),
            ("example", None),
        ] {
            assert!(config.credential(host, Some("team/app")) == expected, "{host}");
            assert!(config.credential(host, None) == expected, "{host}");
        }
    }

    #[test]
    fn the_most_specific_path_of_a_registry_wins() {
        let config = config(json!({
            "r.example": { "username": "all", "password": "p" },
            "r.example/team": { "username": "team", "password": "p" },
            "https://r.example/team/app/": { "username": "app", "password": "p" },
            "only.example/team": { "username": "only", "password": "p" },
        }));
        for (host, repository, expected) in [
            ("r.example", Some("other/app"), login("all", "p")),
            ("r.example", Some("teamwork/app"), login("all", "p")),
            ("r.example", Some("team"), login("team", "p")),
            ("r.example", Some("team/web"), login("team", "p")),
            ("r.example", Some("team/app"), login("app", "p")),
            ("r.example", Some("team/app/debug"), login("app", "p")),
            ("r.example", None, login("all", "p")),
            ("only.example", Some("team/app"), login("only", "p")),
            ("only.example", Some("other/app"), None),
            ("only.example", None, None),
        ] {
            let found = config.credential(host, repository);
            assert!(found == expected, "{host} {repository:?}");
        }
        assert_eq!(config.all("r.example").len(), 3);
    }
}
