//! Registries that fail: as the place of a base image, as a mirror, and as the place that the image is pushed to.

use serde_json::json;

use super::{
    Case, apply, case, check,
    registry::{At, Fault, FaultyRegistry},
};
use crate::cluster::Namespace;

/// What a registry does wrong when a base image is pulled from it.
const PULLS: &[(Case, At, Fault)] = &[
    (
        case("p401", "RegistryUnauthorized", &["401"]),
        At::Manifest,
        Fault::Status(401, "UNAUTHORIZED", None),
    ),
    (
        case("p402", "RegistryPaymentRequired", &["402"]),
        At::Manifest,
        Fault::Status(402, "PAYMENT", None),
    ),
    (case("p403", "RegistryForbidden", &["403"]), At::Manifest, Fault::Status(403, "DENIED", None)),
    (
        case("p404", "BaseImageNotFound", &["not found"]),
        At::Manifest,
        Fault::Status(404, "MANIFEST_UNKNOWN", None),
    ),
    (
        case("p429", "RegistryRateLimited", &["429", "after 37s"]),
        At::Manifest,
        Fault::Status(429, "TOOMANYREQUESTS", Some("37")),
    ),
    (
        case("p500", "RegistryUnavailable", &["500"]),
        At::Manifest,
        Fault::Status(500, "UNKNOWN", None),
    ),
    (
        case("p503", "RegistryUnavailable", &["503", "after 41s"]),
        At::Manifest,
        Fault::Status(503, "UNAVAILABLE", Some("41")),
    ),
    (case("pcut", "RegistryUnavailable", &["EOF"]), At::Manifest, Fault::Cut),
    (case("ppage", "RegistryNotV2", &["text/html"]), At::Manifest, Fault::Page),
    (case("pstall", "Timeout", &["deadlines.build"]), At::Manifest, Fault::Stall),
    (
        case("plie", "RegistryContentMismatch", &["unexpected commit digest"]),
        At::Manifest,
        Fault::Lie,
    ),
    (case("b403", "RegistryForbidden", &["403"]), At::Blob, Fault::Status(403, "DENIED", None)),
    (
        case("b404", "BaseImageNotFound", &["not found"]),
        At::Blob,
        Fault::Status(404, "BLOB_UNKNOWN", None),
    ),
    (
        case("b429", "RegistryRateLimited", &["429"]),
        At::Blob,
        Fault::Status(429, "TOOMANYREQUESTS", Some("37")),
    ),
    (case("b500", "RegistryUnavailable", &["500"]), At::Blob, Fault::Status(500, "UNKNOWN", None)),
    (case("bcut", "RegistryUnavailable", &["EOF"]), At::Blob, Fault::Cut),
    (case("bhalf", "RegistryUnavailable", &["EOF"]), At::Blob, Fault::CutHalfWay),
    (case("btrunc", "RegistryUnavailable", &["short read"]), At::Blob, Fault::Truncate),
    (case("blie", "RegistryContentMismatch", &["unexpected commit digest"]), At::Blob, Fault::Lie),
    (case("bpage", "RegistryUnavailable", &["short read"]), At::Blob, Fault::Page),
    (case("bstall", "Timeout", &["deadlines.build"]), At::Blob, Fault::StallHalfWay),
];

#[test]
fn a_registry_that_fails_a_base_image_has_a_name() {
    let namespace = Namespace::new("pull-faults");
    let faults: Vec<_> = PULLS.iter().map(|(case, at, fault)| (case.name, *at, *fault)).collect();
    let registry = FaultyRegistry::start(&faults);
    for (case, ..) in PULLS {
        let from = format!("FROM {}/{}/base\nCOPY Dockerfile /\n", registry.host, case.name);
        let http = json!({ &registry.host: { "http": true } });
        apply(
            &namespace,
            case.name,
            &from,
            &json!({ "registries": http, "deadlines": { "build": "20s" } }),
        );
    }
    let cases: Vec<_> = PULLS.iter().map(|(case, ..)| Case { ..*case }).collect();
    check(&namespace, &cases);
}

#[test]
fn a_registry_that_repeats_the_credentials_is_not_repeated() {
    let namespace = Namespace::new("echo");
    let registry = FaultyRegistry::start(&[
        ("pull", At::Anything, Fault::Echo),
        ("push", At::Anything, Fault::Echo),
    ]);
    let server = format!("--docker-server={}", registry.host);
    let (user, password) =
        ("--docker-username=planted-user", "--docker-password=planted-password-4711");
    namespace
        .kubectl(&["create", "secret", "docker-registry", "planted", &server, user, password])
        .ok();
    let known = json!({ "registries": { &registry.host: { "http": true } }, "registrySecrets": ["planted"] });
    let with = |more: serde_json::Value| {
        let mut fields = known.clone();
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fields
    };
    apply(
        &namespace,
        "pull",
        &format!("FROM {}/pull/base\nCOPY Dockerfile /\n", registry.host),
        &known,
    );
    let pushed = json!({ "push": true, "registry": format!("{}/push", registry.host) });
    apply(&namespace, "push", "FROM scratch\nCOPY Dockerfile /\n", &with(pushed));
    for name in ["pull", "push"] {
        let status = namespace.failed(name, "RegistryForbidden");
        let message = status["failure"]["message"].as_str().unwrap();
        assert!(
            message.contains("I do not like") && message.contains("of Secret planted"),
            "{message}"
        );
        let pod = status["pod"]["name"].as_str().unwrap();
        let said = [
            status.to_string(),
            namespace.kubectl(&["get", "events", "-o", "yaml"]).ok(),
            // The last lines of the daemon's own log are in the status of its container, which is none of these.
            namespace
                .kubectl(&["get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses}"])
                .ok(),
            namespace.kubectl(&["logs", pod, "-c", "build"]).ok(),
        ];
        for (place, said) in said.iter().enumerate() {
            for planted in ["planted-password", "cGxhbnRlZC11c2Vy"] {
                assert!(
                    !said.contains(planted),
                    "{planted} is in place {place} of {name}:\n{said}"
                );
            }
        }
    }
}

/// What a mirror does wrong. The registry behind it does not exist.
const MIRRORS: &[(Case, At, Fault)] = &[
    (
        case("r402", "RegistryPaymentRequired", &["402", "r402"]),
        At::Manifest,
        Fault::Status(402, "PAYMENT", None),
    ),
    (
        case("r403", "RegistryForbidden", &["403", "r403"]),
        At::Manifest,
        Fault::Status(403, "DENIED", None),
    ),
    (
        case("r429", "RegistryRateLimited", &["429", "after 37s"]),
        At::Manifest,
        Fault::Status(429, "TOOMANYREQUESTS", Some("37")),
    ),
    (case("rcut", "RegistryUnavailable", &["EOF"]), At::Manifest, Fault::Cut),
    (
        case("rstall", "Timeout", &["deadlines.build", "registry.invalid"]),
        At::Manifest,
        Fault::Stall,
    ),
];

#[test]
fn a_mirror_that_fails_has_a_name_and_is_passed_over_where_the_registry_answers() {
    let namespace = Namespace::new("mirror-faults");
    let faults = MIRRORS.iter().map(|(case, at, fault)| (case.name, *at, *fault));
    let registry = FaultyRegistry::start(&faults.collect::<Vec<_>>());
    let mirrored = |name: &str, from: &str, registries: serde_json::Value| {
        let more = json!({
            "registryMirrors": registries,
            "registries": { &registry.host: { "http": true } },
            "deadlines": { "build": "20s" },
            "output": { "claimTemplate": {} },
        });
        apply(&namespace, name, &format!("FROM {from}\nCOPY Dockerfile /\n"), &more);
    };
    for (case, ..) in MIRRORS {
        let mirrors = json!({ "registry.invalid": [format!("{}/{}", registry.host, case.name)] });
        mirrored(case.name, "registry.invalid/library/base", mirrors);
    }
    let host = &registry.host;
    mirrored(
        "passed-over",
        &format!("{host}/library/base"),
        json!({ host: [format!("{host}/r402"), format!("{host}/rcut")] }),
    );
    let cases: Vec<_> = MIRRORS.iter().map(|(case, ..)| Case { ..*case }).collect();
    check(&namespace, &cases);
    namespace.succeeded("passed-over");
    assert!(!registry.asked("r402").is_empty(), "the mirror was asked first");
}

/// What a registry does wrong when an image is pushed to it.
const PUSHES: &[(Case, At, Fault)] = &[
    (
        case("u401", "RegistryUnauthorized", &["unauthorized: the registry says"]),
        At::Upload,
        Fault::Status(401, "UNAUTHORIZED", None),
    ),
    (case("u402", "RegistryPaymentRequired", &["402"]), At::Upload, Fault::Status(402, "", None)),
    (
        case("u403", "RegistryForbidden", &["denied: the registry says"]),
        At::Upload,
        Fault::Status(403, "DENIED", None),
    ),
    (case("u404", "RegistryNotFound", &["404"]), At::Upload, Fault::Status(404, "", None)),
    (
        case("u429", "RegistryRateLimited", &["toomanyrequests", "after 37s"]),
        At::Upload,
        Fault::Status(429, "TOOMANYREQUESTS", Some("37")),
    ),
    (
        case("u503", "RegistryUnavailable", &["unavailable: the registry says"]),
        At::Upload,
        Fault::Status(503, "UNAVAILABLE", Some("41")),
    ),
    (
        case("u405", "PushRefused", &["unsupported: the registry says"]),
        At::Upload,
        Fault::Status(405, "UNSUPPORTED", None),
    ),
    (case("ucut", "RegistryUnavailable", &["EOF"]), At::Upload, Fault::Cut),
    (case("ustall", "Timeout", &["deadlines.push"]), At::Upload, Fault::Stall),
    (case("upage", "RegistryNotV2", &["web page"]), At::Anything, Fault::Page),
    (
        case("c413", "PushRefused", &["the registry says SIZE_INVALID"]),
        At::Commit,
        Fault::Status(413, "SIZE_INVALID", None),
    ),
    (
        case("c500", "RegistryUnavailable", &["500"]),
        At::Commit,
        Fault::Status(500, "UNKNOWN", None),
    ),
    (case("ccut", "RegistryUnavailable", &["EOF"]), At::Commit, Fault::Cut),
    (
        case("m400", "PushRefused", &["the registry says MANIFEST_INVALID"]),
        At::Publish,
        Fault::Status(400, "MANIFEST_INVALID", None),
    ),
    (
        case("m429", "RegistryRateLimited", &["toomanyrequests", "after 37s"]),
        At::Publish,
        Fault::Status(429, "TOOMANYREQUESTS", Some("37")),
    ),
    (case("mstall", "Timeout", &["deadlines.push"]), At::Publish, Fault::Stall),
];

#[test]
fn a_registry_that_fails_a_push_has_a_name() {
    let namespace = Namespace::new("push-faults");
    // BuildKit does not say what was asked; then it is the root of the registry that tells when to try again.
    let root = [("", At::Anything, Fault::Status(429, "TOOMANYREQUESTS", Some("37")))];
    let faults: Vec<_> =
        PUSHES.iter().map(|(case, at, fault)| (case.name, *at, *fault)).chain(root).collect();
    let registry = FaultyRegistry::start(&faults);
    for (case, ..) in PUSHES {
        let push = json!({
            "push": true,
            "registry": format!("{}/{}", registry.host, case.name),
            "output": { "none": {} },
            "registries": { &registry.host: { "http": true } },
            "deadlines": { "push": "20s" },
        });
        apply(&namespace, case.name, "FROM scratch\nCOPY Dockerfile /\n", &push);
    }
    let cases: Vec<_> = PUSHES.iter().map(|(case, ..)| Case { ..*case }).collect();
    check(&namespace, &cases);
    let shown = namespace.kubectl(&["get", "ocib", "-o", "jsonpath={.items[*].status}"]).ok();
    assert!(!shown.contains("planted-upload-state"), "a query may be secret: {shown}");
}
