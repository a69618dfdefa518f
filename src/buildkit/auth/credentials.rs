//! Credentials of registries, and which of them a request for a token uses.

use std::fmt;

use thiserror::Error;

/// A credential for a registry or for some of its repositories.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// User name and password.
    Password {
        user: String,
        /// Password, or a token that stands for it.
        password: String,
    },
    /// A refresh token, which only the registry's token server accepts.
    IdentityToken(String),
    /// A bearer token, which the registry itself accepts.
    RegistryToken(String),
}

impl Credential {
    /// Returns the kind and the parts of the credential.
    pub(super) fn parts(&self) -> [&str; 3] {
        match self {
            Self::Password { user, password } => ["password", user, password],
            Self::IdentityToken(token) => ["identity token", token, ""],
            Self::RegistryToken(token) => ["registry token", token, ""],
        }
    }

    /// Returns whether there is a secret. Docker's configuration files may have empty ones.
    pub(super) fn has_secret(&self) -> bool {
        match self {
            Self::Password { password: secret, .. }
            | Self::IdentityToken(secret)
            | Self::RegistryToken(secret) => !secret.is_empty(),
        }
    }
}

// Implemented by hand to keep the value out of logs.
impl fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Credential")
    }
}

/// User name and password for a registry with Basic authentication.
#[derive(Clone, PartialEq, Eq)]
pub struct BasicCredential {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for BasicCredential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("BasicCredential")
    }
}

/// Error of choosing a Basic credential.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BasicError {
    /// Repositories of the registry have different credentials.
    #[error(
        "registry {host} uses Basic authentication, for which BuildKit accepts one credential per \
         host, but {first:?} and {second:?} have different ones"
    )]
    Ambiguous {
        host: String,
        /// Two repositories of the build.
        first: String,
        second: String,
    },
}

/// Supplies the credentials of registries. Docker Hub's host is always `docker.io`.
pub trait CredentialSource: Send + Sync {
    /// Returns the most specific credential for a repository, which may be the one for the whole
    /// registry. Without a repository, returns the one for the whole registry.
    fn credential(&self, host: &str, repository: Option<&str>) -> Option<Credential>;

    /// Returns every credential that [`Self::credential`] can return for this host, always in the
    /// same order.
    fn all(&self, host: &str) -> Vec<Credential>;

    /// Returns the credential for a registry with Basic authentication, whose requests name no
    /// repository. BuildKit uses it for all repositories on the host.
    fn basic(&self, host: &str) -> Result<Option<Credential>, BasicError>;

    /// Called with each token that was fetched. A registry may echo it, so it has to be redacted.
    fn token_fetched(&self, _token: &str) {}
}

/// Returns the credentials of a host that have a secret.
pub(super) fn usable(source: &dyn CredentialSource, host: &str) -> Vec<Credential> {
    source.all(host).into_iter().filter(Credential::has_secret).collect()
}

/// Returns user name and password for a registry with Basic authentication. Returns `None` for a
/// token.
pub(super) fn basic(
    source: &dyn CredentialSource,
    host: &str,
) -> Result<Option<BasicCredential>, BasicError> {
    let credential = source.basic(host)?.filter(Credential::has_secret);
    Ok(credential.and_then(|credential| match credential {
        Credential::Password { user, password } => Some(BasicCredential { user, password }),
        Credential::IdentityToken(_) | Credential::RegistryToken(_) => None,
    }))
}

/// A repository in the scopes of a token request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repository<'a> {
    pub(super) name: &'a str,
    pub(super) pushes: bool,
}

/// Returns the repositories of scopes such as `repository:team/app:pull,push`.
pub(super) fn repositories(scopes: &[String]) -> Vec<Repository<'_>> {
    scopes
        .iter()
        // One string may hold several scopes.
        .flat_map(|scopes| scopes.split(' '))
        .filter_map(|scope| {
            let resource = scope.strip_prefix("repository:")?;
            let (name, actions) = resource.rsplit_once(':').unwrap_or((resource, ""));
            let pushes = actions.split(',').any(|action| action == "push");
            Some(Repository { name, pushes })
        })
        .collect()
}
