//! A registry that does one thing wrong, in this process: pods reach it by the address of the node that the tests run on. Which
//! thing, the name of the repository says.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures::StreamExt;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::cluster::kubectl;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A status, the registry's own code for it, if it has an error document, and when to try again.
    Status(u16, &'static str, Option<&'static str>),
    /// The connection ends without an answer.
    Cut,
    /// The connection ends in the middle of the answer.
    CutHalfWay,
    /// No answer ever comes.
    Stall,
    /// The answer never ends.
    StallHalfWay,
    /// The answer is shorter than it should be, and says so.
    Truncate,
    /// The answer has the right length and another content.
    Lie,
    /// A web page, as a server that is no registry gives.
    Page,
    /// A refusal that repeats the credentials.
    Echo,
}

/// Where it goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// A manifest is asked for.
    Manifest,
    /// A configuration or a layer is fetched.
    Blob,
    /// An upload begins.
    Upload,
    /// A blob is sent.
    Commit,
    /// The manifest is sent.
    Publish,
    /// Whatever is asked.
    Anything,
}

pub struct FaultyRegistry {
    /// Its host and port, as pods reach it.
    pub host: String,
    asked: Arc<Mutex<Vec<String>>>,
}

struct State {
    faults: BTreeMap<String, (At, Fault)>,
    content: Content,
    asked: Arc<Mutex<Vec<String>>>,
}

/// By the last part of the path: media type and bytes.
type Content = BTreeMap<String, (&'static str, Vec<u8>)>;

type Answer = Response<BoxBody<Bytes, io::Error>>;

impl FaultyRegistry {
    /// Listens until the tests end. Each repository `<name>/…` has the fault of its name; `<name>/base` is an image with one layer.
    pub fn start(faults: &[(&str, At, Fault)]) -> Self {
        Self::listen(faults, image())
    }

    /// One without faults, where `<name>/base/blobs/<name>` is what was given.
    pub fn with(blobs: &[(&str, Vec<u8>)]) -> Self {
        let blobs = blobs
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), ("application/octet-stream", bytes.clone())));
        Self::listen(&[], blobs.collect())
    }

    fn listen(faults: &[(&str, At, Fault)], content: Content) -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let host =
            SocketAddr::new(node_address().parse().unwrap(), listener.local_addr().unwrap().port())
                .to_string();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let state = Arc::new(State {
            faults: faults
                .iter()
                .map(|(name, at, fault)| ((*name).to_owned(), (*at, *fault)))
                .collect(),
            content,
            asked: asked.clone(),
        });
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                serve(tokio::net::TcpListener::from_std(listener).unwrap(), state).await;
            });
        });
        Self { host, asked }
    }

    /// Method and path of what a repository was asked.
    pub fn asked(&self, name: &str) -> Vec<String> {
        let begin = format!("/v2/{name}/");
        self.asked.lock().unwrap().iter().filter(|line| line.contains(&begin)).cloned().collect()
    }
}

/// The address of the cluster's node: on the development cluster that is this machine.
fn node_address() -> String {
    std::env::var("OCIBUILD_TESTS_ADDRESS").unwrap_or_else(|_| {
        let path = "jsonpath={.items[0].status.addresses[?(@.type=='InternalIP')].address}";
        kubectl(&["get", "nodes", "-o", path]).ok()
    })
}

async fn serve(listener: tokio::net::TcpListener, state: Arc<State>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = state.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, state.clone()));
            // A cut is an error of the service, after which the connection ends.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Answer, io::Error> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    state.asked.lock().unwrap().push(format!("{method} {path}"));
    let rest = path.strip_prefix("/v2/").unwrap_or_default();
    let (name, _) = rest.split_once('/').unwrap_or_default();
    let at = at(&method, rest);
    let healthy = healthy(&method, rest, &state.content);
    let credentials = request
        .headers()
        .get("authorization")
        .and_then(|value| Some(value.to_str().ok()?.to_owned()));
    // A client that is refused while it sends would see a broken connection.
    let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    let Some((_, fault)) = state
        .faults
        .get(name)
        .filter(|(wrong_at, _)| *wrong_at == At::Anything || Some(*wrong_at) == at)
    else {
        return Ok(healthy.map_or_else(|| status(404, "NOT_FOUND", None), |healthy| healthy(&body)));
    };
    let whole = healthy.map_or_else(|| status(404, "NOT_FOUND", None), |healthy| healthy(&body));
    match *fault {
        Fault::Status(code, word, retry_after) => Ok(status(code, word, retry_after)),
        Fault::Cut => Err(io::ErrorKind::ConnectionAborted.into()),
        Fault::Stall => std::future::pending().await,
        Fault::Page => Ok(page()),
        Fault::Echo => Ok(echo(credentials.as_deref())),
        Fault::CutHalfWay | Fault::StallHalfWay | Fault::Truncate | Fault::Lie => {
            let (mut parts, body) = whole.into_parts();
            let mut bytes = body.collect().await?.to_bytes().to_vec();
            let body = match *fault {
                Fault::Truncate => {
                    bytes.truncate(bytes.len() / 2);
                    parts.headers.remove("content-length");
                    full(bytes)
                }
                Fault::Lie => {
                    for byte in &mut bytes {
                        *byte = byte.wrapping_add(1);
                    }
                    full(bytes)
                }
                _ => {
                    parts.headers.insert("content-length", bytes.len().into());
                    bytes.truncate(bytes.len() / 2);
                    let half = futures::stream::once(async { Ok(Frame::data(Bytes::from(bytes))) });
                    let fault = *fault;
                    let end = futures::stream::once(async move {
                        if fault == Fault::StallHalfWay {
                            std::future::pending::<()>().await;
                        }
                        Err(io::Error::from(io::ErrorKind::ConnectionAborted))
                    });
                    BodyExt::boxed(StreamBody::new(half.chain(end)))
                }
            };
            Ok(Response::from_parts(parts, body))
        }
    }
}

fn at(method: &Method, path: &str) -> Option<At> {
    let reads = [Method::GET, Method::HEAD].contains(method);
    Some(match path {
        path if path.contains("/manifests/") && reads => At::Manifest,
        path if path.contains("/manifests/") => At::Publish,
        path if path.contains("/blobs/uploads/") && method == Method::POST => At::Upload,
        path if path.contains("/blobs/uploads/") => At::Commit,
        path if path.contains("/blobs/") => At::Blob,
        _ => return None,
    })
}

type Healthy = Box<dyn FnOnce(&Bytes) -> Answer + Send>;

/// What a registry in order answers; nothing where it has nothing.
fn healthy(method: &Method, path: &str, content: &Content) -> Option<Healthy> {
    if path.is_empty() {
        return Some(Box::new(|_| Response::new(full(Vec::new()))));
    }
    let (repository, rest) = ["/manifests/", "/blobs/uploads/", "/blobs/"]
        .iter()
        .find_map(|part| path.split_once(part))
        .unwrap_or_default();
    let created = |location: String| {
        let answer = Response::builder().header("location", location);
        answer.header("docker-upload-uuid", "1").body(full(Vec::new())).unwrap()
    };
    let repository = repository.to_owned();
    match at(method, path)? {
        At::Upload => Some(Box::new(move |_| {
            let mut answer =
                created(format!("/v2/{repository}/blobs/uploads/1?_state=planted-upload-state"));
            *answer.status_mut() = StatusCode::ACCEPTED;
            answer
        })),
        At::Commit => Some(Box::new(move |_| {
            let mut answer = created(format!("/v2/{repository}/blobs/1"));
            *answer.status_mut() = StatusCode::CREATED;
            answer
        })),
        At::Publish => Some(Box::new(move |body| {
            let mut answer = created(format!("/v2/{repository}/manifests/1"));
            *answer.status_mut() = StatusCode::CREATED;
            answer.headers_mut().insert("docker-content-digest", digest(body).parse().unwrap());
            answer
        })),
        _ => {
            let is_head = method == Method::HEAD;
            let (kind, bytes) =
                content.get(rest).filter(|_| repository.ends_with("/base"))?.clone();
            Some(Box::new(move |_| {
                let answer = Response::builder()
                    .header("content-type", kind)
                    .header("content-length", bytes.len())
                    .header("docker-content-digest", digest(&bytes));
                answer.body(full(if is_head { Vec::new() } else { bytes })).unwrap()
            }))
        }
    }
}

fn status(status: u16, code: &str, retry_after: Option<&str>) -> Answer {
    let error =
        json!({ "errors": [{ "code": code, "message": format!("the registry says {code}") }] });
    let body = if code.is_empty() { "no error document".to_owned() } else { error.to_string() };
    let mut answer = Response::builder().status(status).header("content-type", "application/json");
    if let Some(retry_after) = retry_after {
        answer = answer.header("retry-after", retry_after);
    }
    answer.body(full(body.into_bytes())).unwrap()
}

/// As it was sent, and what it says.
fn echo(credentials: Option<&str>) -> Answer {
    let Some(sent) = credentials else {
        let answer =
            Response::builder().status(401).header("www-authenticate", "Basic realm=\"all\"");
        return answer.body(full(Vec::new())).unwrap();
    };
    let said = STANDARD.decode(sent.trim_start_matches("Basic ")).unwrap_or_default();
    let message = format!("I do not like {sent}, that is {}", String::from_utf8_lossy(&said));
    let error = json!({ "errors": [{ "code": "DENIED", "message": message }] });
    let answer = Response::builder().status(403).header("content-type", "application/json");
    answer.body(full(error.to_string().into_bytes())).unwrap()
}

fn page() -> Answer {
    let answer = Response::builder().header("content-type", "text/html");
    answer.body(full(b"<!DOCTYPE html><html><body>Welcome!</body></html>".to_vec())).unwrap()
}

fn full(bytes: Vec<u8>) -> BoxBody<Bytes, io::Error> {
    Full::new(Bytes::from(bytes)).map_err(|never: Infallible| match never {}).boxed()
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// An image with one file, by what its parts are asked for.
fn image() -> Content {
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    // Large enough to come in several pieces, and not compressible.
    let file: Vec<u8> =
        (0..32_768_u32).flat_map(|number| Sha256::digest(number.to_be_bytes())).collect();
    header.set_size(file.len() as u64);
    header.set_mode(0o644);
    layer.append_data(&mut header, "file", file.as_slice()).unwrap();
    let layer = layer.into_inner().unwrap();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    });
    let config = config.to_string().into_bytes();
    let descriptor = |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    BTreeMap::from([
        ("latest".to_owned(), (kind, manifest.clone())),
        (digest(&manifest), (kind, manifest)),
        (digest(&config), ("application/octet-stream", config)),
        (digest(&layer), ("application/octet-stream", layer)),
    ])
}
