//! The credentials of config.json, as docker and BuildKit read them.

use std::{collections::BTreeMap, fmt, fs, io, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;

use crate::{api::FailureReason, runner::result::BuildFailure};

const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// The credentials for one registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// User name and password.
    Password {
        /// User name.
        user: String,
        /// Password, or a token that stands for it.
        password: String,
    },
    /// A token that only the registry's token server takes.
    IdentityToken(String),
}

// Written out, so that no log can show what is secret.
impl fmt::Debug for Login {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Login")
    }
}

/// The credentials for all registries.
#[derive(Default)]
pub struct Credentials(BTreeMap<String, Entry>);

#[derive(Deserialize)]
struct Configuration {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl Credentials {
    /// Reads `config.json` of a folder; without one there are no credentials.
    pub fn read(folder: &Path) -> Result<Self, BuildFailure> {
        let text = match fs::read(folder.join("config.json")) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(unreadable(&error.to_string())),
        };
        // The parser's own words may quote what is secret.
        let configuration = serde_json::from_slice::<Configuration>(&text);
        configuration
            .map(|configuration| Self(configuration.auths))
            .map_err(|_| unreadable("it is no JSON with \"auths\""))
    }

    /// Those for a host: by the host as key first, then by any address of that host.
    pub fn of(&self, host: &str) -> Option<Login> {
        let by_key = |key: &str| self.0.get(key);
        let by_host = |host: &str| {
            self.0.iter().find(|(key, _)| host_of(key) == host).map(|(_, entry)| entry)
        };
        let entry = match host {
            DOCKER_HUB => by_key(DOCKER_HUB_KEY)
                .or_else(|| by_key(DOCKER_HUB))
                .or_else(|| by_host("index.docker.io")),
            host => by_key(host).or_else(|| by_host(host)),
        };
        entry.and_then(Entry::login)
    }
}

fn unreadable(why: &str) -> BuildFailure {
    BuildFailure::new(
        FailureReason::Internal,
        format!("the registry credentials cannot be read: {why}"),
    )
}

fn host_of(key: &str) -> &str {
    let address =
        key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    address.split('/').next().unwrap_or(address)
}

impl Entry {
    fn login(&self) -> Option<Login> {
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.is_empty()) {
            return Some(Login::IdentityToken(token.clone()));
        }
        if let Some(auth) = self.auth.as_ref().filter(|auth| !auth.is_empty()) {
            let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
            let (user, password) = text.split_once(':')?;
            return Some(Login::Password {
                user: user.to_owned(),
                password: password.trim_end_matches('\0').to_owned(),
            });
        }
        Some(Login::Password { user: self.username.clone()?, password: self.password.clone()? })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Credentials, Login};

    fn credentials(text: &str) -> Credentials {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), text).unwrap();
        Credentials::read(folder.path()).unwrap()
    }

    #[test]
    fn credentials_are_found_by_host_as_docker_finds_them() {
        // u:p, v:q
        let credentials = credentials(
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"a.example":{"auth":"dTpw"},"https://a.example/v2/":{"auth":"djpx"},
                "http://b.example:5000/v1":{"username":"v","password":"q"},"c.example":{"auth":"dTpw","identitytoken":"t"},
                "broken.example":{"auth":"!"},"empty.example":{}}}"#,
        );
        let login = |user: &str, password: &str| {
            Some(Login::Password { user: user.to_owned(), password: password.to_owned() })
        };
        for (host, expected) in [
            ("docker.io", login("u", "p")),
            ("a.example", login("u", "p")),
            ("b.example:5000", login("v", "q")),
            ("b.example", None),
            ("c.example", Some(Login::IdentityToken("t".to_owned()))),
            ("broken.example", None),
            ("empty.example", None),
            ("example", None),
        ] {
            assert!(credentials.of(host) == expected, "{host}");
        }
    }

    #[test]
    fn credentials_are_never_shown() {
        let shown = format!(
            "{:?}",
            credentials(r#"{"auths":{"a":{"username":"user","password":"hunter2"}}}"#).of("a")
        );
        assert!(!shown.contains("hunter2") && !shown.contains("user"), "{shown}");
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), r#"{"auths":"hunter2"}"#).unwrap();
        assert!(!Credentials::read(folder.path()).err().unwrap().message.contains("hunter2"));
    }

    #[test]
    fn no_file_means_no_credentials() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Credentials::read(folder.path()).unwrap().of("a").is_none());
    }
}
