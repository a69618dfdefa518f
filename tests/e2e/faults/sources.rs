//! Servers that fail the source: of archives, of repositories and of artifacts.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    Case, apply, case, check,
    registry::{At, Fault, FaultyRegistry},
};
use crate::cluster::Namespace;

/// Which kind of source is asked for.
#[derive(Clone, Copy)]
enum Kind {
    Archive,
    Repository,
    Artifact,
}

const SOURCES: &[(Case, Kind, Fault)] = &[
    (case("h401", "SourceUnauthorized", &["401"]), Kind::Archive, Fault::Status(401, "", None)),
    (case("h403", "SourceUnauthorized", &["403"]), Kind::Archive, Fault::Status(403, "", None)),
    (case("h404", "SourceNotFound", &["404"]), Kind::Archive, Fault::Status(404, "", None)),
    (case("h429", "SourceUnavailable", &["429"]), Kind::Archive, Fault::Status(429, "", None)),
    (case("h503", "SourceUnavailable", &["503"]), Kind::Archive, Fault::Status(503, "", None)),
    (case("hcut", "SourceUnavailable", &["EOF"]), Kind::Archive, Fault::Cut),
    (case("hhalf", "SourceUnavailable", &["EOF"]), Kind::Archive, Fault::CutHalfWay),
    (case("hpage", "SourceChecksumMismatch", &["SHA-256"]), Kind::Archive, Fault::Page),
    (case("hstall", "Timeout", &["deadlines.source"]), Kind::Archive, Fault::Stall),
    (
        case("g401", "SourceUnauthorized", &["could not read Username"]),
        Kind::Repository,
        Fault::Status(401, "", None),
    ),
    (case("g403", "SourceUnauthorized", &["403"]), Kind::Repository, Fault::Status(403, "", None)),
    (
        case("g404", "SourceNotFound", &["not found"]),
        Kind::Repository,
        Fault::Status(404, "", None),
    ),
    (case("g503", "SourceUnavailable", &["503"]), Kind::Repository, Fault::Status(503, "", None)),
    (case("gcut", "SourceUnavailable", &["Empty reply"]), Kind::Repository, Fault::Cut),
    (case("gstall", "Timeout", &["deadlines.source"]), Kind::Repository, Fault::Stall),
    (
        case("i401", "SourceUnauthorized", &["401"]),
        Kind::Artifact,
        Fault::Status(401, "UNAUTHORIZED", None),
    ),
    (
        case("i402", "RegistryPaymentRequired", &["402"]),
        Kind::Artifact,
        Fault::Status(402, "PAYMENT", None),
    ),
    (
        case("i429", "RegistryRateLimited", &["429", "after 37s"]),
        Kind::Artifact,
        Fault::Status(429, "TOOMANYREQUESTS", Some("37")),
    ),
    (
        case("i503", "RegistryUnavailable", &["503", "after 41s"]),
        Kind::Artifact,
        Fault::Status(503, "UNAVAILABLE", Some("41")),
    ),
    (case("icut", "RegistryUnavailable", &["connection"]), Kind::Artifact, Fault::Cut),
    (case("ilie", "RegistryNotV2", &["no JSON"]), Kind::Artifact, Fault::Lie),
    (case("istall", "Timeout", &["deadlines.source"]), Kind::Artifact, Fault::Stall),
];

#[test]
fn a_server_that_fails_a_source_has_a_name() {
    let namespace = Namespace::new("source-faults");
    let faults: Vec<_> =
        SOURCES.iter().map(|(case, _, fault)| (case.name, At::Anything, *fault)).collect();
    let registry = FaultyRegistry::start(&faults);
    for (case, kind, _) in SOURCES {
        let address = format!("http://{}/v2/{}", registry.host, case.name);
        let source: Value = match kind {
            Kind::Archive => {
                json!({ "http": { "url": format!("{address}/a.tar?token=planted-token"), "sha256": "0".repeat(64) } })
            }
            Kind::Repository => {
                json!({ "git": { "url": format!("{address}/app.git"), "revision": "main" } })
            }
            Kind::Artifact => {
                json!({ "image": { "reference": format!("{}/{}/base:latest", registry.host, case.name) } })
            }
        };
        let http = json!({ &registry.host: { "http": true } });
        apply(
            &namespace,
            case.name,
            "",
            &json!({ "source": source, "registries": http, "deadlines": { "source": "15s" } }),
        );
    }
    let cases: Vec<_> = SOURCES.iter().map(|(case, ..)| Case { ..*case }).collect();
    check(&namespace, &cases);
    let shown = namespace.kubectl(&["get", "ocib", "-o", "jsonpath={.items[*].status}"]).ok();
    assert!(!shown.contains("planted-token"), "a query may be secret: {shown}");
}

/// A server gives what was asked for, and it is no archive, or one that leads out of its root.
#[test]
fn an_archive_that_is_none_has_a_name() {
    let namespace = Namespace::new("archives");
    let mut climbing = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    header.as_old_mut().name[..10].copy_from_slice(b"../climbed");
    header.set_cksum();
    climbing.append(&header, &b"x"[..]).unwrap();
    let archives =
        [("page", b"<html>not found</html>".to_vec()), ("climbs", climbing.into_inner().unwrap())];
    let registry = FaultyRegistry::with(&archives);
    for (name, archive) in &archives {
        let url = format!("http://{}/v2/{name}/base/blobs/{name}", registry.host);
        let http = json!({ "url": url, "sha256": hex::encode(Sha256::digest(archive)) });
        apply(&namespace, name, "", &json!({ "source": { "http": http } }));
    }
    check(
        &namespace,
        &[
            case("page", "SourceInvalid", &["cannot be unpacked"]),
            case("climbs", "SourceInvalid", &["../climbed", "leads out of the archive's root"]),
        ],
    );
}
