//! HTTP requests to token servers (the distribution project's token and OAuth 2 authentication).

use std::{
    collections::HashMap,
    error::Error,
    io, iter,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reqwest::{Client, ClientBuilder, RequestBuilder, Response, StatusCode, Url, redirect::Policy};

use super::{
    credentials::Credential,
    token::{Token, TokenError, TokenRequest},
};

const MAX_REDIRECTS: usize = 5;

/// Supplies how registries are reached. Docker Hub's host is always `docker.io`.
pub trait HttpClients: Send + Sync {
    /// Returns the settings for requests to a registry and its token server: certificate
    /// authorities, proxies, user agent. The redirect policy is replaced.
    fn builder(&self, host: &str) -> Result<ClientBuilder, Box<dyn Error + Send + Sync>>;

    /// Returns whether the registry itself is reached without TLS. Only then is a credential sent
    /// to a token server without TLS.
    fn is_plain_http(&self, host: &str) -> bool;
}

/// Bounds of a request for a token.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// For all requests and retries together. BuildKit waits 60 s.
    pub(super) timeout: Duration,
    /// The pauses before retries.
    pub(super) retry_delays: Vec<Duration>,
    /// The longest body of a response.
    pub(super) max_response_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(50),
            retry_delays: [1, 2, 4].map(Duration::from_secs).to_vec(),
            max_response_bytes: 1 << 20,
        }
    }
}

/// Fetches tokens.
pub(super) struct TokenClient {
    clients: Arc<dyn HttpClients>,
    limits: Limits,
    /// By registry, and whether requests carry a credential.
    built: Mutex<HashMap<(String, bool), Client>>,
}

/// How a request presents the credential.
#[derive(Clone, Copy)]
enum Method {
    /// OAuth 2: a form.
    Post,
    /// The older protocol: a query, and the credential as Basic authentication.
    Get,
}

impl TokenClient {
    pub(super) fn new(clients: Arc<dyn HttpClients>, limits: Limits) -> Self {
        Self { clients, limits, built: Mutex::default() }
    }

    /// Fetches a token. With a credential it tries OAuth 2 first and then the older protocol, as
    /// BuildKit's own client does.
    pub(super) async fn fetch(
        &self,
        host: &str,
        request: &TokenRequest,
        credential: Option<&Credential>,
    ) -> Result<Token, TokenError> {
        let timed_out = || TokenError::TimedOut {
            host: host.to_owned(),
            seconds: self.limits.timeout.as_secs(),
        };
        tokio::time::timeout(self.limits.timeout, self.fetch_untimed(host, request, credential))
            .await
            .unwrap_or_else(|_| Err(timed_out()))
    }

    async fn fetch_untimed(
        &self,
        host: &str,
        request: &TokenRequest,
        credential: Option<&Credential>,
    ) -> Result<Token, TokenError> {
        let attempt = Attempt {
            host,
            realm: self.realm(host, &request.realm, credential.is_some())?,
            request,
            credential,
            client: self.client(host, credential.is_some())?,
            max_response_bytes: self.limits.max_response_bytes,
        };
        if credential.is_none() {
            return self.with_retries(&attempt, Method::Get).await;
        }
        match self.with_retries(&attempt, Method::Post).await {
            Err(error) if attempt.is_without_oauth(&error) => {
                self.with_retries(&attempt, Method::Get).await
            }
            result => result,
        }
    }

    fn realm(&self, host: &str, realm: &str, with_credential: bool) -> Result<Url, TokenError> {
        let host_name = || host.to_owned();
        match Url::parse(realm) {
            Ok(url) if url.scheme() == "https" => Ok(url),
            Ok(url) if url.scheme() == "http" => {
                if with_credential && !self.clients.is_plain_http(host) {
                    return Err(TokenError::InsecureRealm { host: host_name() });
                }
                Ok(url)
            }
            _ => Err(TokenError::InvalidRealm { host: host_name() }),
        }
    }

    /// Returns the HTTP client of a registry. A request with a credential follows redirects within
    /// its origin only, since a redirected form would carry the credential along.
    fn client(&self, host: &str, with_credential: bool) -> Result<Client, TokenError> {
        let key = (host.to_owned(), with_credential);
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = built.get(&key) {
            return Ok(client.clone());
        }
        let failure = |reason: String| TokenError::Client { host: host.to_owned(), reason };
        let builder = self.clients.builder(host).map_err(|error| failure(causes(&*error)))?;
        let policy = if with_credential {
            Policy::custom(|attempt| {
                let stays = attempt.previous().len() <= MAX_REDIRECTS
                    && attempt.previous().iter().all(|url| url.origin() == attempt.url().origin());
                if stays { attempt.follow() } else { attempt.stop() }
            })
        } else {
            Policy::limited(MAX_REDIRECTS)
        };
        let client = builder.redirect(policy).referer(false).build();
        let client = client.map_err(|error| failure(causes(&error)))?;
        built.insert(key, client.clone());
        Ok(client)
    }

    async fn with_retries(
        &self,
        attempt: &Attempt<'_>,
        method: Method,
    ) -> Result<Token, TokenError> {
        let mut delays = self.limits.retry_delays.iter();
        loop {
            match attempt.send(method).await {
                Err(Failure { error, is_transient: true }) => match delays.next() {
                    Some(&delay) => tokio::time::sleep(delay).await,
                    None => return Err(error),
                },
                Err(Failure { error, is_transient: false }) => return Err(error),
                Ok(token) => return Ok(token),
            }
        }
    }
}

/// One request to a token server.
struct Attempt<'a> {
    host: &'a str,
    realm: Url,
    request: &'a TokenRequest,
    credential: Option<&'a Credential>,
    client: Client,
    max_response_bytes: usize,
}

struct Failure {
    error: TokenError,
    /// Whether a retry may succeed.
    is_transient: bool,
}

impl Attempt<'_> {
    async fn send(&self, method: Method) -> Result<Token, Failure> {
        let request = match method {
            Method::Post => self.post(),
            Method::Get => self.get(),
        };
        let response = request.send().await.map_err(|error| self.transport(error))?;
        let status = response.status();
        if !status.is_success() {
            return Err(Failure {
                error: self.refusal(status),
                is_transient: status.is_server_error(),
            });
        }
        let body = self.body(response).await?;
        Token::from_response(&body).map_err(|reason| self.malformed(reason.to_owned()))
    }

    fn post(&self) -> RequestBuilder {
        let scope = self.request.scopes.join(" ");
        let mut form = vec![
            ("service", self.request.service.as_str()),
            ("client_id", &self.request.client_id),
        ];
        if !scope.is_empty() {
            form.push(("scope", &scope));
        }
        match self.credential {
            Some(Credential::Password { user, password }) => form.extend([
                ("grant_type", "password"),
                ("username", user.as_str()),
                ("password", password.as_str()),
            ]),
            Some(Credential::IdentityToken(token)) => {
                form.extend([("grant_type", "refresh_token"), ("refresh_token", token.as_str())]);
            }
            // A registry token needs no token server.
            Some(Credential::RegistryToken(_)) | None => {}
        }
        self.client.post(self.realm.clone()).form(&form)
    }

    fn get(&self) -> RequestBuilder {
        let mut url = self.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if !self.request.service.is_empty() {
                query.append_pair("service", &self.request.service);
            }
            query.extend_pairs(self.request.scopes.iter().map(|scope| ("scope", scope)));
        }
        let request = self.client.get(url);
        match self.credential {
            Some(Credential::Password { user, password }) => {
                request.basic_auth(user, Some(password))
            }
            Some(Credential::IdentityToken(token)) => request.basic_auth("", Some(token)),
            Some(Credential::RegistryToken(_)) | None => request,
        }
    }

    /// Returns whether an error of OAuth 2 may mean that the server does not know OAuth 2: Google's
    /// old registry answers 404, Artifactory 401.
    fn is_without_oauth(&self, error: &TokenError) -> bool {
        match error {
            TokenError::Unauthorized { status: 401, .. }
            | TokenError::Status { status: 404, .. } => true,
            TokenError::Status { status: 405, .. } => {
                matches!(self.credential, Some(Credential::Password { .. }))
            }
            _ => false,
        }
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.transport(error))? {
            if body.len() + chunk.len() > self.max_response_bytes {
                let limit = self.max_response_bytes;
                return Err(self.malformed(format!("the response is longer than {limit} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn refusal(&self, status: StatusCode) -> TokenError {
        let host = self.host.to_owned();
        let with_credential = self.credential.is_some();
        match status.as_u16() {
            status @ (401 | 403) => TokenError::Unauthorized { host, status, with_credential },
            status => TokenError::Status { host, status },
        }
    }

    fn transport(&self, error: reqwest::Error) -> Failure {
        // The URL may hold credentials of its own.
        let error = error.without_url();
        let is_transient = !error.is_builder()
            && !error.is_redirect()
            && !sources(&error)
                .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(is_invalid_data));
        let error = TokenError::Transport {
            host: self.host.to_owned(),
            server: self.realm.host_str().unwrap_or_default().to_owned(),
            reason: causes(&error),
        };
        Failure { error, is_transient }
    }

    fn malformed(&self, reason: String) -> Failure {
        let error = TokenError::Malformed { host: self.host.to_owned(), reason };
        Failure { error, is_transient: false }
    }
}

/// Returns whether an error is or wraps one about invalid data: TLS reports a certificate that is
/// not trusted, and a server without TLS, in this way. A retry would not help.
fn is_invalid_data(error: &io::Error) -> bool {
    let wrapped = || error.get_ref().and_then(|inner| inner.downcast_ref::<io::Error>());
    error.kind() == io::ErrorKind::InvalidData || wrapped().is_some_and(is_invalid_data)
}

fn sources<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&error| error.source())
}

/// Returns the texts of an error and its sources.
fn causes(error: &(dyn Error + 'static)) -> String {
    sources(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
