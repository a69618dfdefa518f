use std::{io, path::PathBuf};

use super::{
    Activity, Evidence, FailedStep, Reason, SendError, SolveError, SolveFailure, diagnose,
};
use crate::buildkit::{FailedVertex, Location};

fn failed(message: &str) -> SolveFailure {
    SolveFailure {
        code: tonic::Code::Unknown,
        message: message.to_owned(),
        vertex: None,
        location: None,
        excerpt: Vec::new(),
        exit_code: None,
        is_frontend: false,
        source_identifier: None,
    }
}

fn reason_of(activity: Activity, failure: SolveFailure) -> Reason {
    let error = SolveError::Failed(Box::new(failure));
    diagnose(&Evidence { error: &error, step: None, activity }).reason
}

fn reason(activity: Activity, message: &str) -> Reason {
    reason_of(activity, failed(message))
}

#[expect(clippy::unnecessary_wraps, reason = "the type of the field")]
fn dockerfile(line: u32) -> Option<Location> {
    let file = "Dockerfile".to_owned();
    Some(Location { file, first_line: line, last_line: line })
}

#[expect(clippy::unnecessary_wraps, reason = "the type of the field")]
fn vertex(name: &str) -> Option<FailedVertex> {
    Some(FailedVertex { digest: "sha256:1".to_owned(), name: Some(name.to_owned()) })
}

#[test]
fn a_failing_step_has_its_name_exit_code_and_last_lines() {
    let error = "process \"/bin/busybox sh -c echo last words; exit 42\" did not complete successfully: exit code: 42";
    let step = FailedStep {
        name: "[2/2] RUN exit 42".to_owned(),
        error: error.to_owned(),
        tail: vec!["last words".to_owned()],
    };
    let failure = SolveFailure {
        exit_code: Some(42),
        location: dockerfile(3),
        vertex: vertex("[2/2] RUN exit 42"),
        ..failed(error)
    };
    let failure = SolveError::Failed(Box::new(failure));
    let failure =
        diagnose(&Evidence { error: &failure, step: Some(&step), activity: Activity::Build });
    assert_eq!((failure.reason, failure.exit_code), (Reason::StepFailed, Some(42)));
    assert_eq!(failure.step.as_deref(), Some("[2/2] RUN exit 42"));
    assert_eq!(failure.log_excerpt.as_deref(), Some("last words"));
    assert_eq!(failure.message, format!("{error} (Dockerfile:3)"));
}

#[test]
fn a_lost_daemon_and_files_that_cannot_be_sent_have_names() {
    let unreadable = SendError::Unreadable {
        path: PathBuf::from("secret.txt"),
        mode: 0o600,
        uid: 0,
        gid: 0,
        source: io::ErrorKind::PermissionDenied.into(),
    };
    let send = |source| SolveError::Send { directory: "context".to_owned(), source };
    let export = |kind: io::ErrorKind| SolveError::Export { exporter: 0, source: kind.into() };
    for (error, expected, words) in [
        (send(unreadable), Reason::SourceUnreadable, "cannot read \"secret.txt\" (mode 0600"),
        (
            send(SendError::Removed { path: PathBuf::from("a") }),
            Reason::SourceUnreadable,
            "removed during the transfer",
        ),
        (send(SendError::Pattern("[a".to_owned())), Reason::FileInvalid, "[a"),
        (SolveError::SessionLost("gone".to_owned()), Reason::DaemonDied, "gone"),
        (export(io::ErrorKind::StorageFull), Reason::StorageFull, "could not be written"),
        (SolveError::Cancelled, Reason::Cancelled, "cancelled"),
    ] {
        let evidence = Evidence { error: &error, step: None, activity: Activity::Build };
        let failure = diagnose(&evidence);
        assert_eq!(failure.reason, expected, "{error}");
        assert!(failure.message.contains(words), "{}", failure.message);
    }
}

/// The author's mistakes that no list of texts can name: the place decides.
#[test]
fn what_no_text_names_is_named_by_its_place() {
    for (failure, expected) in [
        (
            SolveFailure { is_frontend: true, ..failed("unterminated heredoc") },
            Reason::DockerfileInvalid,
        ),
        (
            SolveFailure { is_frontend: true, ..failed("invalid stage index 7") },
            Reason::DockerfileInvalid,
        ),
        (
            SolveFailure {
                location: dockerfile(2),
                ..failed("granting entitlement network.host is not allowed")
            },
            Reason::DockerfileInvalid,
        ),
        (
            SolveFailure {
                vertex: vertex("[2/2] WORKDIR /bin/busybox/x"),
                location: dockerfile(3),
                ..failed("mkdir /bin/busybox: not a directory")
            },
            Reason::StepFailed,
        ),
        (
            SolveFailure {
                vertex: vertex("[2/2] RUN --mount=type=secret,id=npm,required=true true"),
                location: dockerfile(2),
                ..failed("secret npm: not found")
            },
            Reason::SecretMissing,
        ),
        (
            SolveFailure {
                vertex: vertex("[2/2] RUN --mount=type=ssh,required=true true"),
                ..failed("no SSH key \"\" forwarded from the client")
            },
            Reason::SecretMissing,
        ),
        (SolveFailure { location: dockerfile(2), ..failed("odd") }, Reason::DockerfileInvalid),
        (
            SolveFailure {
                is_frontend: true,
                location: dockerfile(1),
                ..failed(
                    "r/x: failed to resolve source metadata for r/x:latest: r/x:latest: not found",
                )
            },
            Reason::BaseImageNotFound,
        ),
        (failed("odd"), Reason::Internal),
    ] {
        let message = failure.message.clone();
        assert_eq!(reason_of(Activity::Build, failure), expected, "{message}");
    }
}

#[expect(clippy::too_many_lines, reason = "a row for each text")]
#[test]
fn buildkits_words_have_names() {
    for (words, expected) in [
        (
            "dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)",
            Reason::DockerfileInvalid,
        ),
        (
            "dockerfile parse error on line 2: ARG requires at least one argument",
            Reason::DockerfileInvalid,
        ),
        ("the Dockerfile cannot be empty", Reason::DockerfileInvalid),
        ("target stage \"final\" could not be found", Reason::DockerfileInvalid),
        (
            "failed to compute cache key: failed to calculate checksum of ref npdr::pvzr: \"/nothere\": not found",
            Reason::FileNotFound,
        ),
        (
            "no-such-host.invalid/x: failed to resolve source metadata for no-such-host.invalid/x:latest: failed to do request: Head \"https://no-such-host.invalid/v2/x/manifests/latest\": dial tcp: lookup no-such-host.invalid on 10.255.255.53:53: no such host",
            Reason::NameResolution,
        ),
        (
            "10.0.0.1:5000/no/such:image: failed to resolve source metadata for 10.0.0.1:5000/no/such:image: failed to do request: Head \"https://10.0.0.1:5000/v2/no/such/manifests/image\": http: server gave HTTP response to HTTPS client",
            Reason::TlsFailure,
        ),
        (
            "r.example/no/such:image: failed to resolve source metadata for r.example/no/such:image: r.example/no/such:image: not found",
            Reason::BaseImageNotFound,
        ),
        (
            "docker.io/x/y: failed to resolve source metadata for docker.io/x/y:latest: pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed",
            Reason::BaseImageNotFound,
        ),
        (
            "failed to push 127.0.0.1:1/x:y: failed to do request: Head \"http://127.0.0.1:1/v2/x/blobs/sha256:e7\": dial tcp 127.0.0.1:1: connect: connection refused",
            Reason::RegistryUnavailable,
        ),
        (
            "failed to push r:5000/x/y:z: unexpected status from HEAD request to http://r:5000/v2/x/y/blobs/sha256:e7: 401 Unauthorized",
            Reason::RegistryUnauthorized,
        ),
        (
            "failed to push r/x/y:z: unexpected status from HEAD request to https://r/v2/x/y/blobs/sha256:e7: 402 Payment Required",
            Reason::RegistryPaymentRequired,
        ),
        (
            "failed to push r/x/y:z: unexpected status from HEAD request to https://r/v2/x/y/blobs/sha256:f2: 403 Forbidden: {\"kind\":\"Status\"",
            Reason::RegistryForbidden,
        ),
        (
            "failed to push r/x/y:z: unexpected status from POST request to https://r/v2/x/y/blobs/uploads/: 404 Not Found",
            Reason::RegistryNotFound,
        ),
        (
            "r/x: failed to resolve source metadata for r/x:latest: unexpected status from HEAD request to https://r/v2/x/manifests/latest: 429 Too Many Requests",
            Reason::RegistryRateLimited,
        ),
        (
            "r/x: failed to resolve source metadata for r/x:latest: unexpected status from HEAD request to https://r/v2/x/manifests/latest: 503 Service Unavailable",
            Reason::RegistryUnavailable,
        ),
        (
            "r/x: failed to resolve source metadata for r/x:latest: failed to authorize: Unavailable: fetching a token for r failed: unexpected status from the token server: 503",
            Reason::RegistryUnavailable,
        ),
        (
            "r/x: failed to authorize: Unauthenticated: fetching a token for r failed: unexpected status from the token server: 401 to the credential",
            Reason::RegistryUnauthorized,
        ),
        (
            "r/x: failed to authorize: Unavailable: fetching a token for r failed: no answer of the token server within 50s",
            Reason::RegistryUnavailable,
        ),
        (
            "r/x: failed to authorize: Unavailable: fetching a token for r failed: the token server t: error sending request: tcp connect error: Connection refused (os error 111)",
            Reason::RegistryUnavailable,
        ),
        (
            "r/x: failed to authorize: Unavailable: fetching a token for r failed: the token server t: error sending request: invalid peer certificate: UnknownIssuer",
            Reason::TlsFailure,
        ),
        ("failed to push r/x:y: something else", Reason::PushRefused),
        ("failed to push r/x:y: unsupported: the registry is read-only", Reason::PushRefused),
        ("failed to push r/x:y: unknown: the manifest is invalid", Reason::PushRefused),
        (
            "failed to push r/x:y: unauthorized: authentication required",
            Reason::RegistryUnauthorized,
        ),
        (
            "failed to push r/x:y: denied: requested access to the resource is denied",
            Reason::RegistryForbidden,
        ),
        ("failed to push r/x:y: toomanyrequests: slow down", Reason::RegistryRateLimited),
        ("failed to push r/x:y: unavailable: come back later", Reason::RegistryUnavailable),
        (
            "r/x: failed to resolve source metadata for r/x:latest: failed to copy: httpReadSeeker: failed open: could not fetch content descriptor sha256:16 (text/html) from remote: not found",
            Reason::RegistryNotV2,
        ),
        (
            "failed to copy: httpReadSeeker: failed open: could not fetch content descriptor sha256:99 (application/vnd.oci.image.config.v1+json) from remote: not found",
            Reason::BaseImageNotFound,
        ),
        (
            "r/x: failed to resolve source metadata for r/x:latest: short read: expected 87 bytes but got 0: unexpected EOF",
            Reason::RegistryUnavailable,
        ),
        (
            "r/x: failed to resolve source metadata for r/x:latest: failed commit on ref \"config-sha256:99\": unexpected commit digest sha256:53, expected sha256:99: failed precondition",
            Reason::RegistryContentMismatch,
        ),
        (
            "r/x: tls: failed to verify certificate: x509: certificate signed by unknown authority",
            Reason::TlsFailure,
        ),
        ("write /var/lib/buildkit/x: no space left on device", Reason::StorageFull),
        ("Unavailable: error reading from server: EOF", Reason::DaemonDied),
        (
            "failed to resolve source metadata for docker.io/library/ocibuild-image-arg-0@sha256:61: short read: expected 69 bytes but got 0: unexpected EOF",
            Reason::FileInvalid,
        ),
        ("something nobody has seen", Reason::Internal),
    ] {
        assert_eq!(reason(Activity::Build, words), expected, "{words}");
    }
}

#[test]
fn a_push_that_was_tried_again_is_named_by_the_answers_before() {
    let tail = [
        "error: unexpected status from PUT request to https://r/v2/x/blobs/uploads/1: 500 Internal Server Error",
        "unknown: out of order",
    ];
    let error = "failed to push r/x:y: unknown: out of order".to_owned();
    let step = FailedStep {
        name: "exporting to image".to_owned(),
        error,
        tail: tail.map(str::to_owned).to_vec(),
    };
    let error = failed("failed to push r/x:y: unknown: out of order");
    let error = SolveError::Failed(Box::new(error));
    let failure =
        diagnose(&Evidence { error: &error, step: Some(&step), activity: Activity::Build });
    assert_eq!(failure.reason, Reason::RegistryUnavailable);
    assert!(
        failure.message.contains("out of order; before: ") && failure.message.contains("500"),
        "{}",
        failure.message
    );
    assert_eq!(failure.step, None);
}

#[test]
fn words_about_the_source_have_names_of_their_own() {
    for (words, expected) in [
        (
            "failed to load cache key: failed to fetch remote http://g/app.git: git stderr:\nfatal: couldn't find remote ref no-such-branch",
            Reason::SourceNotFound,
        ),
        (
            "failed to fetch remote http://g/x.git: git stderr:\nfatal: repository 'http://g/x.git/' not found",
            Reason::SourceNotFound,
        ),
        (
            "failed to fetch remote https://g/x.git: fatal: could not read Username for 'https://g': terminal prompts disabled",
            Reason::SourceUnauthorized,
        ),
        ("invalid response status 404", Reason::SourceNotFound),
        ("invalid response status 401", Reason::SourceUnauthorized),
        ("invalid response status 429", Reason::SourceUnavailable),
        ("invalid response status 503", Reason::SourceUnavailable),
        (
            "Get \"http://g/a\": dial tcp 10.0.0.1:80: connect: connection refused",
            Reason::SourceUnavailable,
        ),
        (
            "failed to fetch remote http://g/x.git: fatal: unable to access 'http://g/x.git/': The requested URL returned error: 503",
            Reason::SourceUnavailable,
        ),
        (
            "failed to load cache key: repository does not contain ref no-such-branch, output: \"\"",
            Reason::SourceNotFound,
        ),
        (
            "Get \"http://no-such.invalid/a\": dial tcp: lookup no-such.invalid: no such host",
            Reason::NameResolution,
        ),
    ] {
        assert_eq!(reason(Activity::FetchSource, words), expected, "{words}");
    }
}

#[test]
fn an_error_of_several_lines_is_told_whole() {
    let error = failed(
        "failed to fetch remote http://g/x.git: git stderr:\nfatal: repository 'http://g/x.git/' not found\n: exit status 128",
    );
    let error = SolveError::Failed(Box::new(error));
    let failure =
        diagnose(&Evidence { error: &error, step: None, activity: Activity::FetchSource });
    assert_eq!(failure.reason, Reason::SourceNotFound);
    assert_eq!(
        failure.message,
        "failed to fetch remote http://g/x.git: git stderr: fatal: repository 'http://g/x.git/' not found : exit status 128"
    );
}

#[test]
fn a_push_that_is_refused_is_no_failure_of_a_step() {
    let step = FailedStep {
        name: "exporting to image".to_owned(),
        error: "401".to_owned(),
        tail: Vec::new(),
    };
    let error = failed(
        "failed to push r/x:y: unexpected status from HEAD request to https://r/v2/: 401 Unauthorized",
    );
    let error = SolveError::Failed(Box::new(error));
    let evidence = Evidence { error: &error, step: Some(&step), activity: Activity::Build };
    assert_eq!(diagnose(&evidence).step, None);
}
