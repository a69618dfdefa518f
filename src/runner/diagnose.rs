//! Maps a solve's error to a `FailureReason`. Pure.
//!
//! Exit code, vertex and Dockerfile location are used first. BuildKit has none of them for failures
//! of registries and networks, so its texts are matched for these; the tests hold the texts as
//! BuildKit v0.34.2 writes them.

use super::{
    output::storage_reason, progress::FailedStep, request::IMAGE_NAME, result::BuildFailure,
};
use crate::{
    api::FailureReason as Reason,
    buildkit::{SolveError, SolveFailure, VertexKind, sender::SendError},
};

/// What is known of a failed solve.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    pub error: &'a SolveError,
    /// The step that failed, if one did.
    pub step: Option<&'a FailedStep>,
    /// What was being done.
    pub activity: Activity,
}

/// What a solve was run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Fetching the source.
    FetchSource,
    /// Building.
    Build,
}

/// Names the failure.
pub fn diagnose(evidence: &Evidence<'_>) -> BuildFailure {
    let reason = match evidence.error {
        SolveError::Failed(failure) => return of_failure(failure, evidence),
        SolveError::Cancelled => Reason::Cancelled,
        SolveError::Connect(_) | SolveError::ConnectionLost(_) | SolveError::SessionLost(_) => {
            Reason::DaemonDied
        }
        SolveError::Send { source, .. } => of_sender(source),
        SolveError::Export { source, .. } => storage_reason(source),
        SolveError::Credentials(_) => Reason::SecretInvalid,
        SolveError::Random(_) => Reason::Internal,
    };
    let message = match evidence.error {
        SolveError::Export { source, .. } => format!("the image could not be written: {source}"),
        SolveError::Credentials(error) => format!("registrySecrets: {error}"),
        error => error.to_string(),
    };
    BuildFailure::new(reason, message)
}

fn of_sender(error: &SendError) -> Reason {
    match error {
        SendError::Unreadable { .. }
        | SendError::Inaccessible { .. }
        | SendError::Removed { .. }
        | SendError::LengthChanged { .. }
        | SendError::Modified { .. }
        | SendError::Replaced { .. } => Reason::SourceUnreadable,
        SendError::Pattern(_) => Reason::FileInvalid,
        SendError::Disconnected(_) => Reason::DaemonDied,
        SendError::Protocol(_) | SendError::Rejected(_) | SendError::Panicked(_) => {
            Reason::Internal
        }
    }
}

fn of_failure(failure: &SolveFailure, evidence: &Evidence<'_>) -> BuildFailure {
    let step_error = evidence.step.map(|step| step.error.as_str());
    let answer = evidence.step.and_then(answer_before).unwrap_or_default();
    let everything = format!("{}\n{}\n{answer}", failure.message, step_error.unwrap_or_default());
    let reason = match evidence.activity {
        Activity::FetchSource => of_source(&everything),
        Activity::Build => of_build(failure, &everything),
    };
    // A step's own words are worth more than those of the steps that ended with it.
    let is_of_step = evidence.step.filter(|step| VertexKind::of(&step.name) == VertexKind::Step);
    let mut message = message(failure);
    if !answer.is_empty() {
        message = format!("{message}; before: {answer}");
    }
    BuildFailure {
        step: is_of_step.map(|step| step.name.clone()),
        exit_code: failure.exit_code,
        log_excerpt: is_of_step
            .map(|step| step.tail.join("\n"))
            .filter(|excerpt| !excerpt.is_empty()),
        ..BuildFailure::new(reason, message)
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

/// Returns the message on one line, with its Dockerfile location.
fn message(failure: &SolveFailure) -> String {
    let words = failure.message.split_whitespace().collect::<Vec<_>>().join(" ");
    match &failure.location {
        Some(location) => format!("{words} ({}:{})", location.file, location.first_line),
        None => words,
    }
}

fn of_build(failure: &SolveFailure, words: &str) -> Reason {
    let has = |text: &str| words.contains(text);
    if failure.exit_code.is_some() && failure.vertex.is_some() {
        return Reason::StepFailed;
    }
    if let Some(reason) = of_daemon(words) {
        return reason;
    }
    // A mount of a step that needs a secret or a key which the spec does not name.
    if has("no SSH key ") || has("unset ssh forward key") || is_missing_secret(words) {
        return Reason::SecretMissing;
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
    match of_registry(words) {
        Reason::Internal => of_place(failure, words),
        reason => reason,
    }
}

/// `secret NAME: not found`
fn is_missing_secret(words: &str) -> bool {
    let after = words.split_once("secret ").map(|(_, after)| after);
    after.is_some_and(|after| {
        after.split_once(": not found").is_some_and(|(name, _)| !name.contains(' '))
    })
}

/// Falls back to the failure's location if no text matches: a step, the Dockerfile, or neither.
fn of_place(failure: &SolveFailure, words: &str) -> Reason {
    let kind = failure.vertex.as_ref().and_then(crate::buildkit::FailedVertex::kind);
    if failure.is_frontend || words.contains("granting entitlement") {
        return Reason::DockerfileInvalid;
    }
    match kind {
        Some(VertexKind::Step) => Reason::StepFailed,
        _ if failure.location.is_some() => Reason::DockerfileInvalid,
        _ => Reason::Internal,
    }
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
        "no active session for",
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
        "invalid peer certificate",
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
        "Connection refused",
        "Connection reset",
        "no answer of the token server",
    ]
    .iter()
    .any(|text| has(text))
    {
        Reason::RegistryUnavailable
    } else if has("failed to authorize") {
        Reason::RegistryUnauthorized
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
mod tests;
