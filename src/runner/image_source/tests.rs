//! Pulling, against registries of the tests' own.

mod server;

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener as Socket,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    body::Body,
    http::{StatusCode, header},
    response::IntoResponse,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use self::server::{Content, REPOSITORY, Registry, digest};
use super::{BuildFailure, FailureReason, RegistryLogins, Resolved, TokenAuthority, resolve};
use crate::{
    plan::instructions::{MountedAuthority, RegistryInstructions},
    runner::{docker_config::DockerConfig, progress::SharedTracker},
};

const EMPTY: &str = "application/vnd.oci.empty.v1+json";

fn archive(path: &str, content: &str) -> Vec<u8> {
    let mut builder =
        tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, path, content.as_bytes()).unwrap();
    builder.into_inner().unwrap().finish().unwrap()
}

fn title(title: &str) -> Value {
    json!({ "org.opencontainers.image.title": title })
}

/// A folder for the source and what is known of registries.
struct Client {
    work: tempfile::TempDir,
    registries: BTreeMap<String, RegistryInstructions>,
    auths: Value,
}

impl Client {
    fn of(registries: &[&Registry]) -> Self {
        let mut client = Self {
            work: tempfile::tempdir().unwrap(),
            registries: BTreeMap::new(),
            auths: json!({}),
        };
        for registry in registries {
            client.registry(&registry.host).http = true;
        }
        client
    }

    fn registry(&mut self, host: &str) -> &mut RegistryInstructions {
        self.registries.entry(host.to_owned()).or_default()
    }

    fn mirror(mut self, registry: &str, mirrors: &[&str]) -> Self {
        self.registry(registry).mirrors = mirrors.iter().map(|&mirror| mirror.to_owned()).collect();
        self
    }

    fn login(self, host: &str, credentials: Value) -> Self {
        Self { auths: json!({ host: credentials }), ..self }
    }

    async fn resolve(&self, reference: &str) -> Result<Resolved, BuildFailure> {
        let config = DockerConfig::new(self.auths.as_object().unwrap());
        let logins = Arc::new(RegistryLogins::new(
            config,
            self.registries.clone(),
            SharedTracker::default(),
        ));
        let authority = TokenAuthority::new(logins.clone(), logins.clone()).unwrap();
        resolve(reference, &logins, &authority, &self.root()).await
    }

    fn root(&self) -> PathBuf {
        self.work.path().join("source")
    }

    fn file(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    async fn failure(&self, reference: &str) -> (FailureReason, String) {
        let failure = self.resolve(reference).await.unwrap_err();
        assert!(failure.message.contains(REPOSITORY), "no reference in {:?}", failure.message);
        (failure.reason, failure.message)
    }
}

#[tokio::test]
async fn an_artifact_of_flux_is_unpacked_by_tag_and_by_digest() {
    let bytes = archive("app/Dockerfile", "FROM scratch");
    let layers = [("application/vnd.cncf.flux.content.v1.tar+gzip", bytes.as_slice(), Value::Null)];
    let content = Content::of("application/vnd.cncf.flux.config.v1+json", &layers);
    let pinned = content.digest();
    let registry = Registry::with(content).await;
    for reference in [registry.address.clone(), format!("{}@{pinned}", registry.address)] {
        let client = Client::of(&[&registry]);
        assert_eq!(client.resolve(&reference).await.unwrap(), Resolved::Artifact);
        assert_eq!(client.file("app/Dockerfile"), "FROM scratch");
        assert_eq!(
            fs::read_dir(client.work.path()).unwrap().count(),
            1,
            "a download was left behind"
        );
    }
}

#[tokio::test]
async fn an_artifact_of_oras_has_files_by_title_and_folders_to_unpack() {
    let folder = archive("src/main.c", "int main;");
    let mut unpack = title("src");
    unpack["io.deis.oras.content.unpack"] = json!("true");
    let registry = Registry::with(Content::artifact(&[
        ("application/vnd.oci.image.layer.v1.tar", b"FROM scratch", title("build/Dockerfile")),
        ("application/vnd.oci.image.layer.v1.tar+gzip", &folder, unpack),
        ("application/vnd.oci.image.layer.v1.tar+gzip", &folder, title("kept.tar.gz")),
        (EMPTY, b"{}", Value::Null),
    ]))
    .await;
    let client = Client::of(&[&registry]);
    assert_eq!(client.resolve(&registry.address).await.unwrap(), Resolved::Artifact);
    assert_eq!(client.file("build/Dockerfile"), "FROM scratch");
    assert_eq!(client.file("src/main.c"), "int main;");
    assert_eq!(fs::read(client.root().join("kept.tar.gz")).unwrap(), folder);
    assert_eq!(fs::read_dir(client.root()).unwrap().count(), 3);
}

#[tokio::test]
async fn an_image_is_left_to_buildkit_by_its_digest() {
    for content in [
        Content::of("application/vnd.oci.image.config.v1+json", &[]),
        Content::of("application/vnd.docker.container.image.v1+json", &[]),
        Content::default().manifest(&json!({ "schemaVersion": 2, "manifests": [] })),
    ] {
        let digest = content.digest();
        let registry = Registry::with(content).await;
        let client = Client::of(&[&registry]);
        let pinned = format!("{}/{REPOSITORY}@{digest}", registry.host);
        assert_eq!(client.resolve(&registry.address).await.unwrap(), Resolved::Image { pinned });
        assert!(!client.root().exists());
    }
}

#[tokio::test]
async fn layers_that_lead_out_of_the_source_or_hold_nothing_for_it_are_refused() {
    let file: &[u8] = b"content";
    for (layers, words) in [
        (
            vec![("text/plain", file, title("../x"))],
            "\"../x\" is not a path below the source's root",
        ),
        (vec![("text/plain", file, title("/x"))], "\"/x\" is not a path"),
        (
            vec![("text/plain", file, title("a")), ("text/plain", file, title("a/b"))],
            "a/b leads through what is no folder",
        ),
        (vec![("application/vnd.example.tar", file, Value::Null)], "cannot be unpacked"),
        (vec![("text/plain", file, Value::Null)], "its layers are \"text/plain\""),
        (vec![], "it has no layers"),
    ] {
        let registry = Registry::with(Content::artifact(&layers)).await;
        let client = Client::of(&[&registry]);
        let (reason, message) = client.failure(&registry.address).await;
        assert_eq!(reason, FailureReason::SourceInvalid, "{message}");
        assert!(message.contains(words), "{message}");
        assert!(!client.work.path().join("x").exists() && !Path::new("/x").exists());
    }
}

#[tokio::test]
async fn an_untitled_layer_is_unpacked_if_its_bytes_are_an_archive() {
    let bytes = archive("Dockerfile", "FROM scratch");
    let plain = {
        use std::io::Read;
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut plain).unwrap();
        plain
    };
    for bytes in [&bytes, &plain, &zstd::encode_all(plain.as_slice(), 1).unwrap()] {
        let registry =
            Registry::with(Content::artifact(&[("application/octet-stream", bytes, Value::Null)]))
                .await;
        let client = Client::of(&[&registry]);
        client.resolve(&registry.address).await.unwrap();
        assert_eq!(client.file("Dockerfile"), "FROM scratch");
    }
}

#[tokio::test]
async fn content_of_another_digest_or_size_is_not_used() {
    let good = Content::artifact(&[("text/plain", b"content", title("a"))]);
    let blob = format!("/v2/{REPOSITORY}/blobs/{}", digest(b"content"));
    let by_digest = format!("@{}", digest(b"another manifest"));
    let manifest = format!("/v2/{REPOSITORY}/manifests/{}", digest(b"another manifest"));
    for (path, body, suffix) in [
        (blob.clone(), b"CONTENT".to_vec(), ""),
        (blob.clone(), b"content and more".to_vec(), ""),
        (blob, Vec::new(), ""),
        (manifest, good.0[&format!("/v2/{REPOSITORY}/manifests/v1")].clone(), by_digest.as_str()),
    ] {
        let mut content = good.clone();
        content.0.insert(path.clone(), body);
        let registry = Registry::with(content).await;
        let client = Client::of(&[&registry]);
        let (reason, message) = client.failure(&format!("{}{suffix}", registry.address)).await;
        assert_eq!(reason, FailureReason::SourceChecksumMismatch, "{path}: {message}");
        assert!(!client.root().join("a").exists());
    }
}

#[tokio::test]
async fn no_answer_fills_the_memory_or_the_volume() {
    let endless = Registry::start(|_, _| {
        let chunks = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 1 << 16]));
        Body::from_stream(chunks).into_response()
    })
    .await;
    let layer =
        |size: u64| json!({ "mediaType": "text/plain", "digest": digest(b""), "size": size });
    let large = Content::default()
        .manifest(&json!({ "schemaVersion": 2, "layers": [layer(1 << 35), layer(1 << 36)] }));
    let many =
        Content::default().manifest(&json!({ "schemaVersion": 2, "layers": vec![layer(0); 1001] }));
    for (registry, words) in [
        (endless, "sent more than 4194304 bytes as manifest"),
        (Registry::with(large).await, "has 103079215104 bytes, more than"),
        (Registry::with(many).await, "has 1001 layers, more than"),
    ] {
        let client = Client::of(&[&registry]);
        let (reason, message) = client.failure(&registry.address).await;
        assert_eq!(reason, FailureReason::SourceInvalid, "{message}");
        assert!(message.contains(words), "{message}");
    }
}

#[tokio::test]
async fn what_a_registry_refuses_has_a_name() {
    for (status, media_type, body, expected, words) in [
        (402, "text/plain", "pay", FailureReason::RegistryPaymentRequired, "asks for payment"),
        (
            402,
            "application/json",
            r#"{"errors":[{"code":"DENIED"}]}"#,
            FailureReason::RegistryPaymentRequired,
            "(402, DENIED)",
        ),
        (
            403,
            "application/json",
            r#"{"errors":[{"code":"DENIED"}]}"#,
            FailureReason::SourceUnauthorized,
            "(403, DENIED)",
        ),
        (
            404,
            "application/json",
            r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#,
            FailureReason::SourceNotFound,
            "(404, NAME_UNKNOWN)",
        ),
        (404, "text/html", "<html>", FailureReason::SourceNotFound, "correct the reference"),
        (429, "text/plain", "slowly", FailureReason::RegistryRateLimited, "use a mirror"),
        (500, "text/plain", "", FailureReason::RegistryUnavailable, "(500)"),
        (503, "text/plain", "", FailureReason::RegistryUnavailable, "try again"),
        (
            200,
            "text/html",
            "<html>hello</html>",
            FailureReason::RegistryNotV2,
            "not as an image registry",
        ),
        (
            200,
            "application/json",
            r#"{"schemaVersion":1}"#,
            FailureReason::SourceInvalid,
            "schema version 1",
        ),
        (
            418,
            "text/plain",
            r#"{"errors":[{"code":"say hunter2"}]}"#,
            FailureReason::SourceInvalid,
            "(418)",
        ),
    ] {
        let registry = Registry::saying(status, media_type, body).await;
        let client = Client::of(&[&registry]);
        let (reason, message) = client.failure(&registry.address).await;
        assert_eq!(reason, expected, "{status} {body}: {message}");
        assert!(
            message.contains(words) && message.contains(&registry.host),
            "{status} {body}: {message}"
        );
    }
}

#[tokio::test]
async fn a_registry_that_cannot_be_reached_has_a_name() {
    let closed = Socket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let no_tls = Registry::with(Content::default()).await;
    let silent = Registry::start(|_, _| {
        Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>())
            .into_response()
    })
    .await;
    let mut client = Client::of(&[&silent]);
    for host in [&closed.to_string(), "registry.invalid"] {
        client.registry(host).http = true;
    }
    for (host, expected) in [
        (closed.to_string(), FailureReason::RegistryUnavailable),
        ("registry.invalid".to_owned(), FailureReason::NameResolution),
        (no_tls.host, FailureReason::TlsFailure),
        (silent.host, FailureReason::RegistryUnavailable),
    ] {
        let (reason, message) = client.failure(&format!("{host}/{REPOSITORY}:v1")).await;
        assert_eq!(reason, expected, "{message}");
        assert!(message.contains(&host), "{message}");
    }
}

/// Asks for user name and password, `u` and `hunter2`, by the scheme Basic.
async fn with_password() -> Registry {
    let content = Content::artifact(&[("text/plain", b"content", title("a"))]);
    Registry::start(move |path, headers| {
        let expected = format!("Basic {}", STANDARD.encode("u:hunter2"));
        if headers.get(header::AUTHORIZATION).is_some_and(|sent| *sent == *expected) {
            return content.answer(path);
        }
        (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic realm=\"r\"")])
            .into_response()
    })
    .await
}

#[tokio::test]
async fn a_private_registry_gets_the_credentials_of_its_host_and_no_message_shows_them() {
    let registry = with_password().await;
    let auth = |text: &str| json!({ "auth": STANDARD.encode(text) });
    for (host, credentials, words) in [
        (registry.host.as_str(), auth("u:hunter2"), None),
        (registry.host.as_str(), json!({ "username": "u", "password": "hunter2" }), None),
        (registry.host.as_str(), auth("u:hunter3"), Some("refuses the credentials")),
        ("other.example", auth("u:hunter2"), Some("registrySecrets has none for it")),
    ] {
        let client = Client::of(&[&registry]).login(host, credentials);
        let Some(words) = words else {
            assert_eq!(client.resolve(&registry.address).await.unwrap(), Resolved::Artifact);
            assert_eq!(client.file("a"), "content");
            continue;
        };
        let (reason, message) = client.failure(&registry.address).await;
        assert_eq!(reason, FailureReason::SourceUnauthorized, "{message}");
        assert!(
            message.contains(words) && !message.contains("hunter") && !message.contains("aHVudGVy"),
            "{message}"
        );
    }
}

/// A registry and its token server in one; only a token of this server opens the repository.
async fn with_tokens() -> Registry {
    let content = Content::artifact(&[("text/plain", b"content", title("a"))]);
    Registry::start(move |path, headers| {
        let sent = |expected: &str| {
            headers.get(header::AUTHORIZATION).is_some_and(|sent| *sent == *expected)
        };
        let host = headers[header::HOST].to_str().unwrap();
        if let Some(query) = path.strip_prefix("/token") {
            let is_right = query.contains("service=s")
                && query.contains("scope=repository%3Ateam%2Fsources%3Apull");
            let is_known = ["username=u&password=hunter2", "refresh_token=long"]
                .iter()
                .any(|login| query.contains(login));
            return if is_right && is_known {
                r#"{"access_token":"good"}"#.into_response()
            } else {
                (StatusCode::FORBIDDEN, "no").into_response()
            };
        }
        if sent("Bearer good") {
            return content.answer(path);
        }
        let challenge = format!(
            r#"Bearer realm="http://{host}/token",service="s",scope="repository:{REPOSITORY}:pull""#
        );
        (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response()
    })
    .await
}

#[tokio::test]
async fn a_token_is_asked_of_the_server_that_the_registry_names() {
    let registry = with_tokens().await;
    for (credentials, is_known) in [
        (json!({ "username": "u", "password": "hunter2" }), true),
        (json!({ "identitytoken": "long" }), true),
        (json!({ "username": "u", "password": "hunter3" }), false),
        (json!({}), false),
    ] {
        let client = Client::of(&[&registry]).login(&registry.host, credentials.clone());
        if is_known {
            assert_eq!(
                client.resolve(&registry.address).await.unwrap(),
                Resolved::Artifact,
                "{credentials}"
            );
        } else {
            let (reason, message) = client.failure(&registry.address).await;
            assert_eq!(reason, FailureReason::SourceUnauthorized, "{message}");
            assert!(!message.contains("hunter"), "{message}");
        }
    }
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirect_to_another_host() {
    let storage = Registry::start(|_, headers| {
        if headers.contains_key(header::AUTHORIZATION) {
            StatusCode::IM_A_TEAPOT.into_response()
        } else {
            "content".into_response()
        }
    })
    .await;
    let content = Content::artifact(&[("text/plain", b"content", title("a"))]);
    let place = format!("http://{}/signed?signature=hunter2", storage.host);
    let registry = Registry::start(move |path, headers| {
        if !headers.contains_key(header::AUTHORIZATION) {
            return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic realm=\"r\"")])
                .into_response();
        }
        if path.contains("/blobs/") {
            return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, place.clone())])
                .into_response();
        }
        content.answer(path)
    })
    .await;
    let client =
        Client::of(&[&registry]).login(&registry.host, json!({ "username": "u", "password": "p" }));
    client.resolve(&registry.address).await.unwrap();
    assert_eq!(client.file("a"), "content");
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_passed_over_if_it_fails() {
    let content = Content::artifact(&[("text/plain", b"content", title("a"))]);
    let mut broken = content.clone();
    broken.0.insert(format!("/v2/{REPOSITORY}/blobs/{}", digest(b"content")), b"rotten".to_vec());
    let mut below_path = Content::default();
    below_path.0.extend(
        content.0.iter().map(|(path, body)| (path.replace("/v2/", "/v2/proxy/hub/"), body.clone())),
    );
    let good = Registry::with(content).await;
    let nothing = Registry::saying(503, "text/plain", "").await;
    for (origin, mirror, suffix) in [
        (&good, &Registry::saying(402, "text/plain", "").await, ""),
        (&good, &Registry::saying(200, "text/html", "<html>").await, ""),
        (&good, &Registry::with(broken).await, ""),
        (&nothing, &good, ""),
        (&nothing, &Registry::with(below_path).await, "/proxy/hub"),
    ] {
        let place = format!("{}{suffix}", mirror.host);
        let client = Client::of(&[origin, mirror]).mirror(&origin.host, &[&place]);
        client.resolve(&origin.address).await.unwrap();
        assert_eq!(client.file("a"), "content");
    }
}

#[tokio::test]
async fn when_all_fail_the_registrys_own_failure_counts_and_the_mirrors_are_told() {
    let origin = Registry::saying(404, "text/plain", "").await;
    let mirror = Registry::saying(402, "text/plain", "").await;
    let client = Client::of(&[&origin, &mirror]).mirror(&origin.host, &[&mirror.host]);
    let (reason, message) = client.failure(&origin.address).await;
    assert_eq!(reason, FailureReason::SourceNotFound);
    assert!(
        message.contains(&format!("(before it a mirror: {} asks for payment", mirror.host)),
        "{message}"
    );
}

#[tokio::test]
async fn docker_hub_is_meant_where_no_registry_is_named() {
    let paths = |repository: &str| {
        let body = json!({ "schemaVersion": 2, "manifests": [] }).to_string().into_bytes();
        (
            digest(&body),
            Content(BTreeMap::from([(format!("/v2/{repository}/manifests/latest"), body)])),
        )
    };
    for (reference, repository) in [
        ("busybox", "library/busybox"),
        ("docker.io/busybox", "library/busybox"),
        ("team/busybox:latest", "team/busybox"),
    ] {
        let (digest, content) = paths(repository);
        let mirror = Registry::with(content).await;
        let client = Client::of(&[&mirror]).mirror("docker.io", &[&mirror.host]);
        let pinned = format!("docker.io/{repository}@{digest}");
        assert_eq!(client.resolve(reference).await.unwrap(), Resolved::Image { pinned });
    }
}

#[tokio::test]
async fn a_certificate_is_checked_against_the_authorities_that_are_named_unless_any_is_accepted() {
    let (registry, authority) = {
        let content = Content::artifact(&[("text/plain", b"content", title("a"))]);
        Registry::with_tls(move |path| content.answer(path)).await
    };
    let foreign = Registry::with_tls(|_| StatusCode::NOT_FOUND.into_response()).await.1;
    for (authorities, insecure, words) in [
        (vec![], None, Some("UnknownIssuer")),
        (vec![foreign.as_str()], None, Some("invalid peer certificate")),
        (vec!["no certificate"], None, Some("is no PEM file of certificates")),
        (vec![], Some("other.example"), Some("trust its authority")),
        (vec![foreign.as_str(), authority.as_str()], None, None),
        (vec![&*format!("{foreign}{authority}")], None, None),
        (vec![], Some(registry.host.as_str()), None),
    ] {
        let mut client = Client::of(&[]);
        if let Some(host) = insecure {
            client.registry(host).insecure = true;
        }
        for (number, pem) in authorities.iter().enumerate() {
            let file = client.work.path().join(number.to_string());
            fs::write(&file, pem).unwrap();
            let ca = MountedAuthority {
                config_map: "authorities".to_owned(),
                key: number.to_string(),
                path: file,
            };
            client.registry(&format!("registry-{number}.example")).ca = Some(ca);
        }
        let Some(words) = words else {
            assert_eq!(client.resolve(&registry.address).await.unwrap(), Resolved::Artifact);
            continue;
        };
        let (reason, message) = client.failure(&registry.address).await;
        assert_eq!(reason, FailureReason::TlsFailure, "{message}");
        assert!(message.contains(words), "{message}");
    }
}

#[tokio::test]
async fn credentials_are_not_sent_to_a_token_server_without_https() {
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer realm=\"http://127.0.0.1:1/token\"")];
    let registry =
        Registry::with_tls(move |_| (StatusCode::UNAUTHORIZED, challenge.clone()).into_response())
            .await
            .0;
    let mut client =
        Client::of(&[]).login(&registry.host, json!({ "username": "u", "password": "hunter2" }));
    client.registry(&registry.host).insecure = true;
    let (reason, message) = client.failure(&registry.address).await;
    assert_eq!(reason, FailureReason::SourceInvalid, "{message}");
    assert!(message.contains("they were not sent"), "{message}");
}
