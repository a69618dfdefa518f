//! Why buildctl failed: its words in, a named failure out. Pure. BuildKit has no error codes, so its texts are matched; the
//! tests hold the texts as BuildKit v0.34.2 wrote them.

use super::{arguments::IMAGE_NAME, progress::FailedStep, result::BuildFailure};
use crate::api::FailureReason as Reason;

/// What buildctl left behind.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The step that failed, if one did.
    pub step: Option<&'a FailedStep>,
    /// The lines that were no progress, the final `error: …` among them.
    pub remarks: &'a [&'a str],
    /// What was being done.
    pub activity: Activity,
}

/// What buildctl was run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Fetching the source.
    FetchSource,
    /// Building.
    Build,
}

/// Names the failure.
pub fn diagnose(evidence: &Evidence<'_>) -> BuildFailure {
    let last = last_words(evidence.remarks);
    let step_error = evidence.step.map(|step| step.error.as_str());
    let words = last.as_deref().or(step_error).unwrap_or("buildctl ended without saying why");
    let words = words.strip_prefix("failed to solve: ").unwrap_or(words);
    let answer = evidence.step.and_then(answer_before).unwrap_or_default();
    let everything = format!("{words}\n{}\n{answer}", step_error.unwrap_or_default());
    let reason = match evidence.activity {
        Activity::FetchSource => of_source(&everything),
        Activity::Build => of_build(&everything),
    };
    // A step's own words are worth more than those of the steps that ended with it.
    let is_of_step = evidence
        .step
        .filter(|step| step.name.starts_with('[') && !step.name.starts_with("[internal]"));
    let mut message = message(words, evidence.remarks);
    if !answer.is_empty() {
        message = format!("{message}; before: {answer}");
    }
    BuildFailure {
        reason,
        message,
        step: is_of_step.map(|step| step.name.clone()),
        exit_code: exit_code(&everything),
        log_excerpt: is_of_step
            .map(|step| step.tail.join("\n"))
            .filter(|excerpt| !excerpt.is_empty()),
        retry_after: None,
    }
}

/// What a registry answered to a push that BuildKit tried again. Its last words are only those of the registry's error document.
fn answer_before(export: &FailedStep) -> Option<&str> {
    let is_answer = |line: &&String| line.contains("unexpected status from");
    let answer = export
        .tail
        .iter()
        .rev()
        .find(is_answer)
        .filter(|_| export.name.starts_with("exporting "))?;
    Some(answer.strip_prefix("error: ").unwrap_or(answer))
}

/// The final `error: …`, which can go on over several lines, as git's own words do.
fn last_words(remarks: &[&str]) -> Option<String> {
    let begin = remarks.iter().rposition(|line| line.starts_with("error: "))?;
    let joined = remarks[begin..].join(" ");
    joined.strip_prefix("error: ").map(str::to_owned)
}

/// The words, and where in the Dockerfile, as BuildKit marks it: `Dockerfile:3` before the excerpt.
fn message(words: &str, remarks: &[&str]) -> String {
    let is_place = |line: &&&str| {
        line.rsplit_once(':').is_some_and(|(file, number)| {
            !file.contains(' ')
                && !number.is_empty()
                && number.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    match remarks.iter().find(is_place) {
        Some(place) => format!("{words} ({place})"),
        None => words.to_owned(),
    }
}

fn exit_code(words: &str) -> Option<i32> {
    let (_, after) = words.split_once("did not complete successfully: exit code: ")?;
    after.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

fn of_build(words: &str) -> Reason {
    let has = |text: &str| words.contains(text);
    if exit_code(words).is_some() {
        return Reason::StepFailed;
    }
    if let Some(reason) = of_daemon(words) {
        return reason;
    }
    if has("failed to convert agent config") {
        return Reason::SecretInvalid;
    }
    // No registry has it: its layout lacks a blob, or holds another than it says.
    if has(IMAGE_NAME) {
        return Reason::FileInvalid;
    }
    let dockerfile = [
        "dockerfile parse error",
        "the Dockerfile cannot be empty",
        "target stage",
        "failed to parse stage name",
        "circular dependency",
        "invalid reference format",
        "failed to parse platform",
        "base name (",
        "from requires",
    ];
    if dockerfile.iter().any(|text| has(text)) {
        return Reason::DockerfileInvalid;
    }
    if (has("failed to calculate checksum") || has("failed to compute cache key"))
        && has("not found")
        || has("no such file or directory")
    {
        return Reason::FileNotFound;
    }
    of_registry(words)
}

fn of_daemon(words: &str) -> Option<Reason> {
    let has = |text: &str| words.contains(text);
    if has("no space left on device") || has("disk quota exceeded") {
        return Some(Reason::StorageFull);
    }
    let broken = [
        "error reading from server",
        "transport is closing",
        "connection error: desc",
        "listing workers for Build",
        "the client connection is closing",
        "rpc error: code = Unavailable",
        "Unavailable: closing",
    ];
    broken.iter().any(|text| has(text)).then_some(Reason::DaemonDied)
}

fn of_network(words: &str) -> Option<Reason> {
    let has = |text: &str| words.contains(text);
    if [
        "no such host",
        "server misbehaving",
        "Temporary failure in name resolution",
        "Could not resolve host",
    ]
    .iter()
    .any(|text| has(text))
    {
        Some(Reason::NameResolution)
    } else if [
        "x509:",
        "tls: ",
        "SSL certificate",
        "server gave HTTP response to HTTPS client",
        "certificate verif",
    ]
    .iter()
    .any(|text| has(text))
    {
        Some(Reason::TlsFailure)
    } else {
        None
    }
}

fn of_registry(words: &str) -> Reason {
    let has = |text: &str| words.contains(text);
    if let Some(reason) = of_network(words) {
        return reason;
    }
    if ["unexpected commit digest", "failed size validation"].iter().any(|text| has(text)) {
        return Reason::RegistryContentMismatch;
    }
    let is_push = has("failed to push");
    match http_status(words) {
        Some(401) => return Reason::RegistryUnauthorized,
        Some(402) => return Reason::RegistryPaymentRequired,
        Some(403) => return Reason::RegistryForbidden,
        Some(404) if is_push => return Reason::RegistryNotFound,
        Some(404) => return Reason::BaseImageNotFound,
        Some(429) => return Reason::RegistryRateLimited,
        Some(500..=599) => return Reason::RegistryUnavailable,
        _ => {}
    }
    if has("toomanyrequests") {
        Reason::RegistryRateLimited
    } else if has("invalid character '<'")
        || has("unexpected media type")
        || has("unknown media type")
        || has("unsupported manifest media type")
        || has("(text/html")
    {
        Reason::RegistryNotV2
    } else if has("pull access denied") {
        Reason::BaseImageNotFound
    } else if [
        "authorization failed",
        "no basic auth credentials",
        "authentication required",
        "failed to authorize",
        "insufficient_scope",
        ": unauthorized: ",
    ]
    .iter()
    .any(|text| has(text))
    {
        Reason::RegistryUnauthorized
    } else if has("denied:") {
        Reason::RegistryForbidden
    } else if [
        "connection refused",
        "i/o timeout",
        "connection reset by peer",
        "no route to host",
        "unexpected EOF",
        "TLS handshake timeout",
        ": EOF",
        ": unavailable: ",
    ]
    .iter()
    .any(|text| has(text))
    {
        Reason::RegistryUnavailable
    } else if is_push {
        Reason::PushRefused
    } else if (has("failed to resolve source metadata")
        || has("could not fetch content descriptor"))
        && has("not found")
        || has("manifest unknown")
    {
        Reason::BaseImageNotFound
    } else {
        Reason::Internal
    }
}

fn of_source(words: &str) -> Reason {
    let has = |text: &str| words.contains(text);
    if let Some(reason) = of_daemon(words).or_else(|| of_network(words)) {
        return reason;
    }
    if matches!(http_status(words), Some(401 | 403))
        || [
            "could not read Username",
            "Authentication failed",
            "terminal prompts disabled",
            "HTTP Basic: Access denied",
            "error: 403",
        ]
        .iter()
        .any(|text| has(text))
    {
        return Reason::SourceUnauthorized;
    }
    let absent = [
        "not found",
        "does not contain ref",
        "couldn't find remote ref",
        "does not exist",
        "does not appear to be a git repository",
        "unable to find",
        "error: 404",
        "not our ref",
        "no such remote ref",
        "unknown revision",
        "repository contains no",
    ];
    if matches!(http_status(words), Some(404 | 410)) || absent.iter().any(|text| has(text)) {
        return Reason::SourceNotFound;
    }
    let unavailable = [
        "connection refused",
        "Connection refused",
        "connection reset",
        "Connection reset",
        "i/o timeout",
        "timed out",
        "Failed to connect",
        "no route to host",
        "unexpected EOF",
        ": EOF",
        "returned error: 429",
        "returned error: 5",
        "unexpected disconnect",
        "early EOF",
        "Empty reply from server",
    ];
    if matches!(http_status(words), Some(429 | 500..=599))
        || unavailable.iter().any(|text| has(text))
    {
        return Reason::SourceUnavailable;
    }
    Reason::SourceInvalid
}

/// The status that a server answered, as BuildKit quotes it: `unexpected status from HEAD request to …: 401 Unauthorized`,
/// `invalid response status 404`.
fn http_status(words: &str) -> Option<u16> {
    let number = |text: &str| {
        text.trim_start()
            .get(..3)
            .and_then(|digits| digits.parse::<u16>().ok())
            .filter(|status| (400..600).contains(status))
    };
    if let Some((_, after)) = words.split_once("unexpected status") {
        return after
            .match_indices(": ")
            .find_map(|(at, separator)| number(&after[at + separator.len()..]));
    }
    words.split_once("invalid response status ").and_then(|(_, after)| number(after))
}

#[cfg(test)]
mod tests {
    use super::{Activity, Evidence, FailedStep, Reason, diagnose};

    fn reason(activity: Activity, error: &str) -> Reason {
        diagnose(&Evidence {
            step: None,
            remarks: &[&format!("error: failed to solve: {error}")],
            activity,
        })
        .reason
    }

    #[test]
    fn a_failing_step_has_its_name_exit_code_and_last_lines() {
        let error = "process \"/bin/busybox sh -c echo last words; exit 42\" did not complete successfully: exit code: 42";
        let step = FailedStep {
            name: "[2/2] RUN exit 42".to_owned(),
            error: error.to_owned(),
            tail: vec!["last words".to_owned()],
        };
        let remarks =
            ["Dockerfile:3", "--------------------", &format!("error: failed to solve: {error}")];
        let failure =
            diagnose(&Evidence { step: Some(&step), remarks: &remarks, activity: Activity::Build });
        assert_eq!((failure.reason, failure.exit_code), (Reason::StepFailed, Some(42)));
        assert_eq!(failure.step.as_deref(), Some("[2/2] RUN exit 42"));
        assert_eq!(failure.log_excerpt.as_deref(), Some("last words"));
        assert_eq!(failure.message, format!("{error} (Dockerfile:3)"));
    }

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
                "failed to convert agent config {default [/ssh-keys/0/value] false}: failed to parse /ssh-keys/0/value: ssh: no key found",
                Reason::SecretInvalid,
            ),
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
        let remarks = ["error: failed to solve: failed to push r/x:y: unknown: out of order"];
        let failure =
            diagnose(&Evidence { step: Some(&step), remarks: &remarks, activity: Activity::Build });
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
        let remarks = [
            "error: failed to solve: failed to fetch remote http://g/x.git: git stderr:",
            "fatal: repository 'http://g/x.git/' not found",
            ": exit status 128",
        ];
        let failure =
            diagnose(&Evidence { step: None, remarks: &remarks, activity: Activity::FetchSource });
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
        let remarks = [
            "error: failed to solve: failed to push r/x:y: unexpected status from HEAD request to https://r/v2/: 401 Unauthorized",
        ];
        assert_eq!(
            diagnose(&Evidence { step: Some(&step), remarks: &remarks, activity: Activity::Build })
                .step,
            None
        );
    }
}
