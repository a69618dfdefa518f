//! A registry of the tests' own.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::Request,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    serve::Listener,
};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

const MAX_FORM_BYTES: usize = 4096;

pub const REPOSITORY: &str = "team/sources";

/// A registry, and what it answers to a path below its address.
pub struct Registry {
    /// Its host and port.
    pub host: String,
    /// Of the artifact or image that it has.
    pub address: String,
}

impl Registry {
    /// Starts a registry with this answer to a path. A form that is sent comes after the path, on a
    /// line of its own.
    pub async fn start(
        answer: impl Fn(&str, &HeaderMap) -> Response + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::listen(listener.local_addr().unwrap(), listener, answer)
    }

    /// It speaks https, with a certificate that is its own authority; that is returned too, as PEM.
    pub async fn with_tls(
        answer: impl Fn(&str) -> Response + Send + Sync + 'static,
    ) -> (Self, String) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der()).into();
        let configuration =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![cert.der().clone()], key)
                .unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let listener = TlsListener { tcp, acceptor: TlsAcceptor::from(Arc::new(configuration)) };
        (Self::listen(address, listener, move |path, _| answer(path)), cert.pem())
    }

    fn listen<L: Listener<Addr = SocketAddr>>(
        address: SocketAddr,
        listener: L,
        answer: impl Fn(&str, &HeaderMap) -> Response + Send + Sync + 'static,
    ) -> Self {
        let answer = Arc::new(answer);
        let router = Router::new().fallback(move |request: Request| {
            let answer = answer.clone();
            async move {
                let (parts, body) = request.into_parts();
                let form = axum::body::to_bytes(body, MAX_FORM_BYTES).await.unwrap();
                let form = String::from_utf8(form.to_vec()).unwrap();
                let form = if form.is_empty() { form } else { format!("\n{form}") };
                answer(&format!("{}{form}", parts.uri), &parts.headers)
            }
        });
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { host: address.to_string(), address: format!("{address}/{REPOSITORY}:v1") }
    }

    /// It has one artifact or image.
    pub async fn with(content: Content) -> Self {
        Self::start(move |path, _| content.answer(path)).await
    }

    pub async fn saying(status: u16, media_type: &'static str, body: &'static str) -> Self {
        let status = StatusCode::from_u16(status).unwrap();
        Self::start(move |_, _| {
            (status, [(header::CONTENT_TYPE, media_type)], body).into_response()
        })
        .await
    }
}

/// What a registry has below `/v2/`: path to body.
#[derive(Clone, Default)]
pub struct Content(pub BTreeMap<String, Vec<u8>>);

impl Content {
    pub fn artifact(layers: &[(&str, &[u8], Value)]) -> Self {
        Self::of("application/vnd.unknown.config.v1+json", layers)
    }

    pub fn of(configuration: &str, layers: &[(&str, &[u8], Value)]) -> Self {
        let mut content = Self::default();
        let mut descriptors = Vec::new();
        for (media_type, bytes, annotations) in layers {
            let digest = digest(bytes);
            content.0.insert(format!("/v2/{REPOSITORY}/blobs/{digest}"), bytes.to_vec());
            descriptors
                .push(json!({ "mediaType": media_type, "digest": digest, "size": bytes.len(), "annotations": annotations }));
        }
        let config = json!({ "mediaType": configuration, "digest": digest(b"{}"), "size": 2 });
        content.manifest(&json!({ "schemaVersion": 2, "config": config, "layers": descriptors }))
    }

    pub fn manifest(mut self, manifest: &Value) -> Self {
        let body = manifest.to_string().into_bytes();
        self.0.insert(format!("/v2/{REPOSITORY}/manifests/{}", digest(&body)), body.clone());
        self.0.insert(format!("/v2/{REPOSITORY}/manifests/v1"), body);
        self
    }

    /// Digest of the manifest.
    pub fn digest(&self) -> String {
        digest(&self.0[&format!("/v2/{REPOSITORY}/manifests/v1")])
    }

    pub fn answer(&self, path: &str) -> Response {
        let missing = || {
            (StatusCode::NOT_FOUND, r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#).into_response()
        };
        self.0.get(path).map_or_else(missing, |body| body.clone().into_response())
    }
}

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, address) = self.tcp.accept().await.unwrap();
            // A client that does not trust the certificate ends the handshake.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}
