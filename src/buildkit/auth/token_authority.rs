//! Implements the session's Auth methods.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use ring::{
    hmac::{self, HMAC_SHA256},
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use thiserror::Error;

use super::{
    credentials::{self, BasicCredential, BasicError, Credential, CredentialSource},
    token::{Token, TokenError, TokenRequest},
    token_client::{HttpClients, Limits, TokenClient},
};

/// The operating system supplies no random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("creating a secret for the session failed: the system supplies no random numbers")]
pub struct RandomError;

/// Registries whose requests are remembered.
const MAX_REGISTRIES: usize = 1000;

/// Implements the session's `Auth` methods. One authority serves all solves of a build.
///
/// BuildKit keeps the tokens of a registry and uses them for every session that proves to hold the
/// same key. The key of a registry with credentials depends on all of them and on a secret of this
/// authority, so no session of another build can use its tokens. Sessions without credentials share
/// theirs.
pub struct TokenAuthority {
    secret: hmac::Key,
    credentials: Arc<dyn CredentialSource>,
    client: TokenClient,
    /// The repositories that all requests for a token had in common so far, by registry.
    common_repositories: Mutex<HashMap<String, BTreeSet<String>>>,
}

impl TokenAuthority {
    /// Creates the authority for all solves of a build, with a secret of its own.
    pub fn new(
        credentials: Arc<dyn CredentialSource>,
        clients: Arc<dyn HttpClients>,
    ) -> Result<Self, RandomError> {
        Self::with_limits(credentials, clients, Limits::default())
    }

    pub(super) fn with_limits(
        credentials: Arc<dyn CredentialSource>,
        clients: Arc<dyn HttpClients>,
        limits: Limits,
    ) -> Result<Self, RandomError> {
        let secret =
            hmac::Key::generate(HMAC_SHA256, &SystemRandom::new()).map_err(|_| RandomError)?;
        let client = TokenClient::new(clients, limits);
        Ok(Self { secret, credentials, client, common_repositories: Mutex::default() })
    }

    /// Answers `GetTokenAuthority` with an Ed25519 public key.
    ///
    /// There is always a key: a registry without credentials has one that anyone can derive from
    /// the salt, and BuildKit asks for its anonymous tokens here too.
    pub fn public_key(&self, host: &str, salt: &[u8]) -> Vec<u8> {
        self.key_pair(host, salt).public_key().as_ref().to_vec()
    }

    /// Answers `VerifyTokenAuthority` with the signature followed by the payload.
    pub fn sign(&self, host: &str, salt: &[u8], payload: &[u8]) -> Vec<u8> {
        [self.key_pair(host, salt).sign(payload).as_ref(), payload].concat()
    }

    /// Answers `FetchToken`.
    pub async fn fetch_token(&self, request: &TokenRequest) -> Result<Token, TokenError> {
        let host = registry_host(&request.host);
        match self.credential(host, &request.scopes) {
            Some(Credential::RegistryToken(token)) => Ok(Token::new(token)),
            credential => self.fetch(host, request, credential.as_ref()).await,
        }
    }

    async fn fetch(
        &self,
        host: &str,
        request: &TokenRequest,
        credential: Option<&Credential>,
    ) -> Result<Token, TokenError> {
        let token = self.client.fetch(host, request, credential).await?;
        self.credentials.token_fetched(&token.token);
        Ok(token)
    }

    /// Fetches a token with a given credential, for a pull of the client's own.
    pub async fn fetch_token_with(
        &self,
        request: &TokenRequest,
        credential: Option<&Credential>,
    ) -> Result<Token, TokenError> {
        let credential = credential.filter(|credential| credential.has_secret());
        match credential {
            Some(Credential::RegistryToken(token)) => Ok(Token::new(token.clone())),
            credential => self.fetch(registry_host(&request.host), request, credential).await,
        }
    }

    /// Answers `Credentials`, which BuildKit asks for if a registry uses Basic authentication. For
    /// a registry without a password the answer is an empty user name and an empty secret.
    pub fn basic(&self, host: &str) -> Result<Option<BasicCredential>, BasicError> {
        credentials::basic(&*self.credentials, registry_host(host))
    }

    fn key_pair(&self, host: &str, salt: &[u8]) -> Ed25519KeyPair {
        let host = registry_host(host);
        let credentials = credentials::usable(&*self.credentials, host);
        let seed = if credentials.is_empty() {
            hmac::sign(&hmac::Key::new(HMAC_SHA256, salt), b"")
        } else {
            let mut seed = hmac::Context::with_key(&self.secret);
            let parts = credentials.iter().flat_map(Credential::parts).map(str::as_bytes);
            for part in [salt, host.as_bytes()].into_iter().chain(parts) {
                // The lengths keep different parts from having the same concatenation.
                seed.update(&(part.len() as u64).to_be_bytes());
                seed.update(part);
            }
            seed.sign()
        };
        Ed25519KeyPair::from_seed_unchecked(seed.as_ref())
            .expect("an HMAC-SHA256 tag has the 32 bytes of an Ed25519 seed")
    }

    /// Returns the credential for a request.
    ///
    /// BuildKit adds the repositories of its first request for a registry to each later one. A later
    /// request therefore needs a repository that not all requests name. A repository with `push`
    /// takes precedence.
    fn credential(&self, host: &str, scopes: &[String]) -> Option<Credential> {
        let mut repositories = credentials::repositories(scopes);
        if repositories.is_empty() {
            return self.credentials.credential(host, None).filter(Credential::has_secret);
        }
        {
            let named: BTreeSet<String> =
                repositories.iter().map(|repository| repository.name.to_owned()).collect();
            let mut known = self.common_repositories.lock().unwrap_or_else(PoisonError::into_inner);
            // A daemon that asks for ever more registries gets the repositories in their own order.
            if known.len() < MAX_REGISTRIES || known.contains_key(host) {
                let common = known.entry(host.to_owned()).or_insert_with(|| named.clone());
                common.retain(|name| named.contains(name));
                repositories.sort_by_key(|repository| {
                    (!repository.pushes, common.contains(repository.name))
                });
            }
        }
        repositories.iter().find_map(|repository| {
            let credential = self.credentials.credential(host, Some(repository.name));
            credential.filter(Credential::has_secret)
        })
    }
}

/// Returns the name under which credentials of a registry are kept. BuildKit asks for Docker Hub
/// by the host of its API.
pub fn registry_host(host: &str) -> &str {
    match host {
        "registry-1.docker.io" | "index.docker.io" => "docker.io",
        host => host,
    }
}
