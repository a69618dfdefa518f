//! Tests with a token server in the same process.

mod authority;
mod fetch;

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use tokio::net::TcpListener;

use super::{
    Credential, CredentialSource, HttpClients, TokenAuthority, TokenRequest,
    credentials::BasicError, token_client::Limits,
};

/// Credentials by `host` or `host/repository`.
#[derive(Default)]
struct Credentials(BTreeMap<&'static str, Credential>);

impl CredentialSource for Credentials {
    fn credential(&self, host: &str, repository: Option<&str>) -> Option<Credential> {
        let repository = repository.map(|repository| format!("{host}/{repository}"));
        let by_repository = repository.and_then(|key| self.0.get(key.as_str()));
        by_repository.or_else(|| self.0.get(host)).cloned()
    }

    fn all(&self, host: &str) -> Vec<Credential> {
        let of_host = |key: &&&str| key.split('/').next() == Some(host);
        self.0.keys().filter(of_host).map(|key| self.0[key].clone()).collect()
    }

    fn basic(&self, host: &str) -> Result<Option<Credential>, BasicError> {
        Ok(self.credential(host, None))
    }
}

struct Clients {
    is_plain_http: bool,
}

impl HttpClients for Clients {
    fn builder(&self, _: &str) -> Result<reqwest::ClientBuilder, Box<dyn Error + Send + Sync>> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(reqwest::Client::builder().no_proxy())
    }

    fn is_plain_http(&self, _: &str) -> bool {
        self.is_plain_http
    }
}

fn password(user: &str) -> Credential {
    Credential::Password { user: user.to_owned(), password: format!("{user}-hunter2") }
}

fn limits() -> Limits {
    Limits {
        timeout: Duration::from_secs(5),
        retry_delays: vec![Duration::from_millis(10); 2],
        max_response_bytes: 1000,
    }
}

fn authority_with(
    credentials: &[(&'static str, Credential)],
    is_plain_http: bool,
    limits: Limits,
) -> TokenAuthority {
    let credentials = Arc::new(Credentials(credentials.iter().cloned().collect()));
    TokenAuthority::with_limits(credentials, Arc::new(Clients { is_plain_http }), limits).unwrap()
}

fn authority(credentials: &[(&'static str, Credential)]) -> TokenAuthority {
    authority_with(credentials, true, limits())
}

/// A token server. It records requests as `METHOD path?query authorization body`.
#[derive(Clone, Default)]
struct Server {
    requests: Arc<Mutex<Vec<String>>>,
    /// Responses by method, one after the other; the last one again and again.
    responses: Arc<Mutex<HashMap<Method, Vec<Answer>>>>,
}

#[derive(Clone)]
enum Answer {
    Status(u16),
    Body(String),
    Redirect(u16, String),
    Hang,
}

const TOKEN: &str = r#"{"token":"t0","expires_in":300,"issued_at":"2026-11-26T10:00:00Z"}"#;

impl Server {
    async fn start(responses: &[(Method, Answer)]) -> (Self, String) {
        let server = Self::default();
        for (method, answer) in responses {
            let mut responses = server.responses.lock().unwrap();
            responses.entry(method.clone()).or_default().push(answer.clone());
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let realm = format!("http://{}/token?a=b", listener.local_addr().unwrap());
        let router = Router::new().fallback(Self::answer).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (server, realm)
    }

    async fn answer(
        State(server): State<Self>,
        method: Method,
        uri: Uri,
        headers: HeaderMap,
        body: Bytes,
    ) -> Response {
        let mut line = format!("{method} {uri}");
        if let Some(authorization) = headers.get(header::AUTHORIZATION) {
            write!(line, " {}", authorization.to_str().unwrap()).unwrap();
        }
        if !body.is_empty() {
            write!(line, " {}", str::from_utf8(&body).unwrap()).unwrap();
        }
        server.requests.lock().unwrap().push(line);
        let answer = {
            let mut responses = server.responses.lock().unwrap();
            let answers = responses.get_mut(&method).expect("an answer for the method");
            if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() }
        };
        match answer {
            Answer::Status(status) => {
                (StatusCode::from_u16(status).unwrap(), "hunter2").into_response()
            }
            Answer::Body(body) => body.into_response(),
            Answer::Redirect(status, to) => {
                (StatusCode::from_u16(status).unwrap(), [(header::LOCATION, to)]).into_response()
            }
            Answer::Hang => std::future::pending().await,
        }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().drain(..).collect()
    }
}

fn request(realm: &str, scopes: &[&str]) -> TokenRequest {
    TokenRequest {
        client_id: "buildkit-client".to_owned(),
        host: "registry.example".to_owned(),
        realm: realm.to_owned(),
        service: "a service".to_owned(),
        scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
    }
}

fn body(body: &str) -> Answer {
    Answer::Body(body.to_owned())
}
