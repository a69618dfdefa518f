//! When a registry that had too much to do may be asked again. BuildKit does not quote what the registry says of it, so the runner
//! asks that registry once more itself: without credentials, for the header alone.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::jiff::{Timestamp, fmt::rfc2822};
use reqwest::{
    StatusCode, Url,
    header::{HeaderMap, RETRY_AFTER},
};

use super::{
    image_source,
    result::{BuildFailure, LONGEST_RETRY_AFTER},
    source::authorities,
};
use crate::{api::FailureReason, plan::instructions::RegistryInstructions};

/// The build has failed already; it does not wait long to hear more.
const PATIENCE: Duration = Duration::from_secs(5);

/// The failure, with what the registry says about when to try again, if it says so.
pub async fn of(
    failure: BuildFailure,
    registries: &BTreeMap<String, RegistryInstructions>,
) -> BuildFailure {
    let is_of_load = matches!(
        failure.reason,
        FailureReason::RegistryRateLimited | FailureReason::RegistryUnavailable
    );
    if !is_of_load || failure.retry_after.is_some() {
        return failure;
    }
    match ask(&failure.message, registries).await {
        Some(seconds) => failure.with_retry_after(seconds),
        None => failure,
    }
}

async fn ask(words: &str, registries: &BTreeMap<String, RegistryInstructions>) -> Option<u32> {
    let address = address(words).or_else(|| registry(words, registries))?;
    let host = address.port().map_or_else(
        || address.host_str().map(str::to_owned),
        |port| Some(format!("{}:{port}", address.host_str()?)),
    )?;
    let accepts_any_certificate = registries.get(&host).is_some_and(|registry| registry.insecure);
    let client = image_source::client(&authorities(registries), accepts_any_certificate).ok()?;
    let answer = client.head(address).timeout(PATIENCE).send().await.ok()?;
    let is_of_load =
        [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&answer.status());
    is_of_load.then(|| said(answer.headers(), Timestamp::now())).flatten()
}

/// The address that BuildKit asked: `unexpected status from HEAD request to https://…: 429 Too Many Requests`. What would change
/// something is not asked again, but the registry's root.
fn address(words: &str) -> Option<Url> {
    let (before, after) = words.split_once(" request to ")?;
    let method = before.rsplit(' ').next()?;
    let text = after.split_whitespace().next()?.trim_end_matches(':');
    let mut url = Url::parse(text).ok().filter(|url| ["http", "https"].contains(&url.scheme()))?;
    let _ = url.set_username("");
    let _ = url.set_password(None);
    if !["HEAD", "GET"].contains(&method) {
        url.set_path("/v2/");
        url.set_query(None);
    }
    Some(url)
}

/// The root of the registry that a push failed at, where BuildKit quotes only its words.
fn registry(words: &str, registries: &BTreeMap<String, RegistryInstructions>) -> Option<Url> {
    let (_, reference) = words.split_once("failed to push ")?;
    let (host, _) = reference.split_once('/')?;
    let scheme =
        if registries.get(host).is_some_and(|registry| registry.http) { "http" } else { "https" };
    Url::parse(&format!("{scheme}://{host}/v2/")).ok()
}

/// Seconds that `Retry-After` says: a number, or a date (RFC 9110, section 10.2.3).
pub fn said(headers: &HeaderMap, now: Timestamp) -> Option<u32> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<u32>() {
        return Some(seconds.min(LONGEST_RETRY_AFTER));
    }
    let date = rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    let left = date.duration_since(now).as_secs().max(0);
    Some(u32::try_from(left).unwrap_or(LONGEST_RETRY_AFTER).min(LONGEST_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderMap, RETRY_AFTER};

    use super::{BTreeMap, RegistryInstructions, Timestamp, address, registry, said};

    #[test]
    fn the_address_is_that_of_the_registry_that_answered() {
        for (words, expected) in [
            (
                "r/x: failed to resolve source metadata for r/x:latest: unexpected status from HEAD request to https://r/v2/x/manifests/latest?ns=docker.io: 429 Too Many Requests",
                Some("https://r/v2/x/manifests/latest?ns=docker.io"),
            ),
            (
                "failed to push r:5000/x/y:z: unexpected status from POST request to http://r:5000/v2/x/y/blobs/uploads/: 503 Service Unavailable",
                Some("http://r:5000/v2/"),
            ),
            (
                "unexpected status from GET request to https://me:hunter2@r/v2/x/blobs/sha256:e7: 429 Too Many Requests",
                Some("https://r/v2/x/blobs/sha256:e7"),
            ),
            ("toomanyrequests: You have reached your pull rate limit", None),
            ("unexpected status from HEAD request to file:///etc/passwd: 429", None),
            ("unexpected status from HEAD request to", None),
        ] {
            assert_eq!(address(words).map(String::from).as_deref(), expected, "{words}");
        }
    }

    #[test]
    fn the_registry_of_a_push_is_known_by_its_name() {
        let http = RegistryInstructions { http: true, ..RegistryInstructions::default() };
        let registries = BTreeMap::from([("r:5000".to_owned(), http)]);
        for (words, expected) in [
            ("failed to push r:5000/x/y:z: toomanyrequests: slow down", Some("http://r:5000/v2/")),
            (
                "failed to push r.example/x/y:z: toomanyrequests: slow down",
                Some("https://r.example/v2/"),
            ),
            ("toomanyrequests: slow down", None),
        ] {
            assert_eq!(
                registry(words, &registries).map(String::from).as_deref(),
                expected,
                "{words}"
            );
        }
    }

    #[test]
    fn retry_after_is_a_number_or_a_date_and_has_a_limit() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (value, expected) in [
            ("37", Some(37)),
            (" 0 ", Some(0)),
            ("Thu, 01 Jan 2026 00:01:30 GMT", Some(90)),
            ("Wed, 31 Dec 2025 23:59:00 GMT", Some(0)),
            ("4000000000", Some(3600)),
            ("Fri, 01 Jan 2027 00:00:00 GMT", Some(3600)),
            ("-1", None),
            ("soon", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            assert_eq!(said(&headers, now), expected, "{value}");
        }
        assert_eq!(said(&HeaderMap::new(), now), None);
    }
}
