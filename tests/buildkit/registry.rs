//! Registries of the tests' own: one that wants tokens, and one that wants passwords.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use tempfile::TempDir;

use crate::image::Image;

pub const USER: &str = "user";
pub const PASSWORD: &str = "hunter2";
pub const REPOSITORY: &str = "team/app";
const TOKEN: &str = "the-token";
/// `htpasswd -Bbn -C 4 user hunter2`
const HTPASSWD: &str = "user:$2y$04$WlKKzsZL6MjtwNFqBQOHwe6yrJM3UVEf7tWkOi3M32V6MVb6LEyeK\n";
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A request that a registry got.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub user_agent: String,
    pub authorization: String,
    pub body: String,
}

struct Served {
    host: String,
    image: Image,
    accepts_oauth: bool,
    seen: Mutex<Vec<Seen>>,
}

/// A registry with one image in one repository, and its token server.
pub struct TokenRegistry(Arc<Served>);

impl TokenRegistry {
    pub async fn start(image: Image, accepts_oauth: bool) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let served = Arc::new(Served { host, image, accepts_oauth, seen: Mutex::default() });
        let router = Router::new().fallback(answer).with_state(served.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self(served)
    }

    pub fn host(&self) -> &str {
        &self.0.host
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.0.seen.lock().unwrap().clone()
    }
}

async fn answer(State(served): State<Arc<Served>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let text = |name| {
        let value = parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        value.unwrap_or_default()
    };
    let seen = Seen {
        path: parts.uri.path().to_owned(),
        user_agent: text(header::USER_AGENT),
        authorization: text(header::AUTHORIZATION),
        body: String::from_utf8(body.to_vec()).unwrap(),
    };
    served.seen.lock().unwrap().push(seen.clone());
    if seen.path == "/token" { token(&served, &seen) } else { content(&served, &seen) }
}

fn token(served: &Served, seen: &Seen) -> Response {
    let is_form = !seen.body.is_empty();
    if is_form && !served.accepts_oauth {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let basic = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    let is_known = if is_form {
        seen.body.contains(&format!("username={USER}"))
            && seen.body.contains(&format!("password={PASSWORD}"))
    } else {
        seen.authorization == basic
    };
    if is_known {
        Json(json!({ "access_token": TOKEN, "token": TOKEN, "expires_in": 300 })).into_response()
    } else {
        StatusCode::UNAUTHORIZED.into_response()
    }
}

fn content(served: &Served, seen: &Seen) -> Response {
    if seen.authorization != format!("Bearer {TOKEN}") {
        let host = &served.host;
        let challenge = format!(
            "Bearer realm=\"http://{host}/token\",service=\"tests\",\
             scope=\"repository:{REPOSITORY}:pull\""
        );
        let headers = [(header::WWW_AUTHENTICATE, challenge)];
        return (StatusCode::UNAUTHORIZED, headers).into_response();
    }
    let prefix = format!("/v2/{REPOSITORY}/");
    let image = &served.image;
    let digest = match seen.path.strip_prefix(&prefix).and_then(|path| path.split_once('/')) {
        Some(("manifests", "v1")) => &image.digest,
        Some(("manifests" | "blobs", digest)) => digest,
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let mut headers = HeaderMap::new();
    let media_type = if digest == image.digest {
        image.manifest["mediaType"].as_str().unwrap()
    } else {
        "application/octet-stream"
    };
    headers.insert(header::CONTENT_TYPE, media_type.parse().unwrap());
    headers.insert("docker-content-digest", digest.parse().unwrap());
    (headers, Bytes::copy_from_slice(image.blob(digest))).into_response()
}

/// The distribution project's registry, which takes Basic authentication.
pub struct BasicRegistry {
    pub host: String,
    child: Child,
    _folder: TempDir,
}

impl BasicRegistry {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let passwords = folder.path().join("htpasswd");
        fs::write(&passwords, HTPASSWD).unwrap();
        let configuration = json!({
            "version": 0.1,
            "log": { "level": "error" },
            "storage": { "filesystem": { "rootdirectory": folder.path().join("blobs") } },
            "http": { "addr": host },
            "auth": { "htpasswd": { "realm": "tests", "path": passwords } },
        });
        let file = folder.path().join("registry.yaml");
        fs::write(&file, configuration.to_string()).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new("registry")
            .arg("serve")
            .arg(&file)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let start = Instant::now();
        while TcpStream::connect(&host).is_err() {
            let log = fs::read_to_string(folder.path().join("log")).unwrap();
            assert!(start.elapsed() < START_TIMEOUT, "the registry does not listen: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { host, child, _folder: folder }
    }
}

impl Drop for BasicRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
