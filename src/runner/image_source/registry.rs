//! One registry or mirror, as far as pulling goes (OCI distribution specification). Its answers are bounded: nothing that it
//! sends is held in memory but a manifest, a token or an error of limited size.

use std::{
    error::Error,
    fs, io, iter,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use reqwest::{
    Certificate, Client, ClientBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt;

use super::{
    failure::{invalid, not_written, of_status, of_token, of_transport},
    manifest::{ACCEPTED, Content, Layer},
};
use crate::{
    api::FailureReason,
    buildkit::auth::{Credential, CredentialSource, HttpClients, TokenAuthority, TokenRequest},
    plan::Digest,
    runner::{
        registry_auth::RegistryLogins, result::BuildFailure, retry_after, source::authorities,
    },
};

/// Registries themselves take no larger manifests.
const MANIFEST_LIMIT: usize = 4 << 20;
const ERROR_LIMIT: usize = 1 << 16;
const CONNECT: Duration = Duration::from_secs(10);
/// Longest silence of a registry. The whole of a large layer may take longer.
const SILENCE: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 60 });
/// Longest time for a manifest.
const SMALL_ANSWER: Duration = Duration::from_mins(2);
const CLIENT_ID: &str = "ocibuild";

/// One registry or mirror, and the repository that is pulled from it.
pub struct Registry<'a> {
    host: String,
    /// `https://host/v2/repository`
    base: String,
    login: Option<Credential>,
    client: Result<Client, BuildFailure>,
    authority: &'a TokenAuthority,
    /// What the last challenge was answered with.
    authorization: Option<HeaderValue>,
}

impl<'a> Registry<'a> {
    /// `place` is a host, for a mirror also a host and a path that goes before the repository, as in buildkitd.toml.
    pub fn new(
        place: &str,
        repository: &str,
        logins: &RegistryLogins,
        authority: &'a TokenAuthority,
    ) -> Self {
        let (host, prefix) = place
            .split_once('/')
            .map_or((place, String::new()), |(host, path)| (host, format!("{path}/")));
        let scheme = if logins.is_plain_http(host) { "http" } else { "https" };
        let address = if host == "docker.io" { "registry-1.docker.io" } else { host };
        Self {
            host: host.to_owned(),
            base: format!("{scheme}://{address}/v2/{prefix}{repository}"),
            login: logins.credential(host, Some(repository)),
            client: client(&authorities(logins.registries()), logins.accepts_any_certificate(host)),
            authority,
            authorization: None,
        }
    }

    /// The manifest of a digest or else a tag, and its digest.
    pub async fn manifest(
        &mut self,
        tag: Option<&str>,
        digest: Option<&str>,
    ) -> Result<(Content, Digest), BuildFailure> {
        let name = digest.or(tag).unwrap_or("latest");
        let response = self.get(&format!("manifests/{name}"), Some(SMALL_ANSWER)).await?;
        let promised = response
            .headers()
            .get("docker-content-digest")
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let body = self.bounded(response, MANIFEST_LIMIT, "manifest").await?;
        let content = Content::of(&body, &self.host)?;
        let found = Digest::from_sha256(Sha256::digest(&body));
        // A digest of another kind than SHA-256 in the header says nothing.
        let promised = promised.filter(|promised| promised.starts_with("sha256:"));
        match digest.map(str::to_owned).or(promised) {
            Some(expected) if expected != found.as_str() => {
                Err(self.mismatch("the manifest", &expected, found.as_str()))
            }
            _ => Ok((content, found)),
        }
    }

    /// Downloads a layer into a file and checks its digest.
    pub async fn blob(&mut self, layer: &Layer, file: &Path) -> Result<(), BuildFailure> {
        let mut response = self.get(&format!("blobs/{}", layer.digest), None).await?;
        let mut options = tokio::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(file)
            .await
            .map_err(not_written)?;
        let mut hash = Sha256::new();
        let mut size = 0;
        while let Some(chunk) =
            response.chunk().await.map_err(|error| of_transport(&self.host, &error))?
        {
            size += chunk.len() as u64;
            if size > layer.size {
                let found = format!("more than the {} bytes that its manifest says", layer.size);
                return Err(self.mismatch("a layer", layer.digest.as_str(), &found));
            }
            hash.update(&chunk);
            file.write_all(&chunk).await.map_err(not_written)?;
        }
        file.flush().await.map_err(not_written)?;
        let found = Digest::from_sha256(hash.finalize());
        if found == layer.digest {
            Ok(())
        } else {
            Err(self.mismatch("a layer", layer.digest.as_str(), found.as_str()))
        }
    }

    fn mismatch(&self, what: &str, expected: &str, found: &str) -> BuildFailure {
        let words = format!(
            "{} sent another content for {what} {expected}: {found}; repair the registry or mirror, or push the source again",
            self.host
        );
        BuildFailure::new(FailureReason::SourceChecksumMismatch, words)
    }

    /// The answer to a request, if it is a good one; a challenge is answered once.
    async fn get(&mut self, path: &str, limit: Option<Duration>) -> Result<Response, BuildFailure> {
        let url = format!("{}/{path}", self.base);
        let mut response = self.send(&url, limit).await?;
        // Only the registry's own challenge counts, not that of a host that it redirects to.
        let is_own = Url::parse(&url).is_ok_and(|url| url.origin() == response.url().origin());
        if response.status() == StatusCode::UNAUTHORIZED
            && is_own
            && let Some(authorization) = self.authorize(response.headers()).await?
        {
            self.authorization = Some(authorization);
            response = self.send(&url, limit).await?;
        }
        if response.status() == StatusCode::OK {
            Ok(response)
        } else {
            Err(self.refusal(response).await)
        }
    }

    async fn send(&self, url: &str, limit: Option<Duration>) -> Result<Response, BuildFailure> {
        let mut request =
            self.client.as_ref().map_err(Clone::clone)?.get(url).header(ACCEPT, ACCEPTED);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(limit) = limit {
            request = request.timeout(limit);
        }
        request.send().await.map_err(|error| of_transport(&self.host, &error))
    }

    async fn refusal(&self, response: Response) -> BuildFailure {
        #[derive(Deserialize)]
        struct Errors {
            errors: Vec<Code>,
        }
        #[derive(Deserialize)]
        struct Code {
            code: String,
        }
        let status = response.status();
        let retry_after = retry_after::said(response.headers(), Timestamp::now());
        let body = self.bounded(response, ERROR_LIMIT, "error").await.unwrap_or_default();
        let code = serde_json::from_slice::<Errors>(&body)
            .ok()
            .and_then(|body| body.errors.into_iter().next());
        // The code alone: a message could repeat what was sent, credentials among it.
        let is_code = |code: &String| {
            code.len() <= 40 && code.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
        };
        let code = code.map(|code| code.code).filter(is_code);
        let failure = of_status(&self.host, status, code.as_deref(), self.login.is_some());
        let is_of_load = matches!(
            failure.reason,
            FailureReason::RegistryRateLimited | FailureReason::RegistryUnavailable
        );
        match retry_after.filter(|_| is_of_load) {
            Some(seconds) => failure.with_retry_after(seconds),
            None => failure,
        }
    }

    /// What a challenge is answered with, if there is anything to answer it with.
    async fn authorize(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, BuildFailure> {
        let headers =
            headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let challenges: Vec<_> =
            headers.flat_map(http_auth::ChallengeParser::new).filter_map(Result::ok).collect();
        let is = |scheme: &str| {
            challenges.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case(scheme))
        };
        if let Some(challenge) = is("bearer") {
            let parameter = |name: &str| {
                let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            let realm = parameter("realm").ok_or_else(|| {
                invalid(format!(
                    "{} asks for a token, but names no server that gives it; check the reference",
                    self.host
                ))
            })?;
            return self.token(realm, parameter("service"), parameter("scope")).await.map(Some);
        }
        match (is("basic"), &self.login) {
            (Some(_), Some(Credential::Password { user, password })) => {
                let request = self
                    .client
                    .as_ref()
                    .map_err(Clone::clone)?
                    .get(&self.base)
                    .basic_auth(user, Some(password))
                    .build();
                let mut request = request.map_err(|error| of_transport(&self.host, &error))?;
                Ok(request.headers_mut().remove(AUTHORIZATION))
            }
            _ => Ok(None),
        }
    }

    /// Fetches a token for the repository from the server that the registry names (the distribution
    /// project's token authentication).
    async fn token(
        &self,
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    ) -> Result<HeaderValue, BuildFailure> {
        let request = TokenRequest {
            client_id: CLIENT_ID.to_owned(),
            host: self.host.clone(),
            realm,
            service: service.unwrap_or_default(),
            scopes: scope.into_iter().collect(),
        };
        let token = self.authority.fetch_token_with(&request, self.login.as_ref()).await;
        let token = token.map_err(|error| of_token(&self.host, self.login.is_some(), &error))?;
        let mut value = HeaderValue::try_from(format!("Bearer {}", token.token))
            .map_err(|_| invalid(format!("the token server of {} gives no token", self.host)))?;
        value.set_sensitive(true);
        Ok(value)
    }

    async fn bounded(
        &self,
        mut response: Response,
        limit: usize,
        what: &str,
    ) -> Result<Vec<u8>, BuildFailure> {
        let mut body = Vec::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|error| of_transport(&self.host, &error))?
        {
            if body.len() + chunk.len() > limit {
                return Err(invalid(format!(
                    "{} sent more than {limit} bytes as {what}; check the reference",
                    self.host
                )));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// A client that trusts these authorities beside those of the system.
pub fn client(trusted: &[PathBuf], accepts_any_certificate: bool) -> Result<Client, BuildFailure> {
    client_builder(trusted, accepts_any_certificate)?.build().map_err(|error| {
        let cause = iter::successors(error.source(), |&error| error.source())
            .last()
            .map_or_else(String::new, ToString::to_string);
        BuildFailure::new(
            FailureReason::TlsFailure,
            format!(
                "https cannot be set up: {cause}; give the runner's image or registries.ca certificates of authorities"
            ),
        )
    })
}

/// The settings of such a client.
pub fn client_builder(
    trusted: &[PathBuf],
    accepts_any_certificate: bool,
) -> Result<ClientBuilder, BuildFailure> {
    // An error means that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let failure = |words: String| BuildFailure::new(FailureReason::TlsFailure, words);
    let mut authorities = Vec::new();
    for file in trusted {
        let shown = file.display();
        let pem = fs::read(file).map_err(|error: io::Error| {
            failure(format!("the authorities in {shown} cannot be read: {error}"))
        })?;
        let read = Certificate::from_pem_bundle(&pem).unwrap_or_default();
        if read.is_empty() {
            return Err(failure(format!(
                "{shown} is no PEM file of certificates; correct the ConfigMap of the authority"
            )));
        }
        authorities.extend(read);
    }
    Ok(Client::builder()
        .user_agent(concat!("ocibuild/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .referer(false)
        .tls_danger_accept_invalid_certs(accepts_any_certificate)
        .tls_certs_merge(authorities))
}
