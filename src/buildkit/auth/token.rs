//! Token requests, tokens and token errors.

use std::fmt;

use jiff::Timestamp;
use serde::Deserialize;
use thiserror::Error;

/// Lifetime of a token without `expires_in`, as the distribution specification and BuildKit assume.
const DEFAULT_EXPIRES_IN_SECONDS: i64 = 60;

/// A request of BuildKit for a token.
#[derive(Clone, Debug, Default)]
pub struct TokenRequest {
    /// The name under which BuildKit wants the client to ask.
    pub client_id: String,
    /// The registry's host as in the requests to it: `registry-1.docker.io` for Docker Hub.
    pub host: String,
    /// The address of the token server, which the registry names.
    pub realm: String,
    /// The registry's name at the token server. May be empty.
    pub service: String,
    /// The requested access, such as `repository:team/app:pull,push`.
    pub scopes: Vec<String>,
}

/// A bearer token for a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pub token: String,
    /// Seconds from the issue to the expiry.
    pub expires_in: i64,
    /// Time of the issue in seconds since 1970, if the response has it.
    pub issued_at: Option<i64>,
}

impl Token {
    /// Creates a token with the default lifetime.
    pub(super) fn new(token: String) -> Self {
        Self { token, expires_in: DEFAULT_EXPIRES_IN_SECONDS, issued_at: None }
    }

    /// Reads the response of a token server. The error does not quote the response.
    pub(super) fn from_response(body: &[u8]) -> Result<Self, &'static str> {
        #[derive(Deserialize)]
        struct Response {
            access_token: Option<String>,
            token: Option<String>,
            expires_in: Option<i64>,
            issued_at: Option<String>,
        }
        let response: Response = serde_json::from_slice(body)
            .map_err(|_| "the response is not a JSON object with a token")?;
        let given = [response.access_token, response.token].into_iter().flatten();
        let token = given.into_iter().find(|token| !token.is_empty());
        let token = token.ok_or("the response contains no token")?;
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the token contains characters that no header can carry");
        }
        let expires_in = response.expires_in.filter(|&seconds| seconds > 0);
        let issued_at = response
            .issued_at
            .and_then(|time| time.parse::<Timestamp>().ok())
            .map(Timestamp::as_second)
            .filter(|&seconds| seconds > 0);
        Ok(Self { token, expires_in: expires_in.unwrap_or(DEFAULT_EXPIRES_IN_SECONDS), issued_at })
    }
}

// Implemented by hand to keep the value out of logs.
impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Token")
            .field("expires_in", &self.expires_in)
            .field("issued_at", &self.issued_at)
            .finish_non_exhaustive()
    }
}

/// Error of fetching a token. Messages contain neither credentials nor response bodies.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// The token server refused the request.
    #[error(
        "fetching a token for {host} failed: unexpected status from the token server: {status} to {}",
        if *.with_credential { "the credential" } else { "a request without a credential" }
    )]
    Unauthorized {
        host: String,
        /// The HTTP status: 401 or 403.
        status: u16,
        /// Whether the request carried a credential.
        with_credential: bool,
    },
    /// The token server answered with another status that is not a success.
    #[error(
        "fetching a token for {host} failed: unexpected status from the token server: {status}"
    )]
    Status {
        host: String,
        /// The HTTP status.
        status: u16,
    },
    /// The token server could not be reached, or the connection broke.
    #[error("fetching a token for {host} failed: the token server {server}: {reason}")]
    Transport {
        host: String,
        /// The token server's host.
        server: String,
        /// The error of the connection.
        reason: String,
    },
    /// The token server took too long.
    #[error("fetching a token for {host} failed: no answer of the token server within {seconds}s")]
    TimedOut {
        host: String,
        /// The limit for all requests together.
        seconds: u64,
    },
    /// The response holds no token.
    #[error("fetching a token for {host} failed: {reason}")]
    Malformed {
        host: String,
        /// What is wrong with the response.
        reason: String,
    },
    /// The registry names a token server that is not an HTTP address.
    #[error(
        "fetching a token for {host} failed: the registry names a token server whose address is \
         not an http or https URL"
    )]
    InvalidRealm { host: String },
    /// The registry wants its credentials sent without TLS.
    #[error(
        "fetching a token for {host} failed: the registry names a token server without TLS; the \
         credential was not sent"
    )]
    InsecureRealm { host: String },
    /// No HTTP client could be created for the registry.
    #[error("fetching a token for {host} failed: cannot create an HTTP client: {reason}")]
    Client {
        host: String,
        /// The error of the client.
        reason: String,
    },
}
