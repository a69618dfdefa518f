//! Names for what goes wrong between here and a registry.

use std::{error::Error, io, iter};

use reqwest::StatusCode;

use crate::{
    api::FailureReason as Reason, buildkit::auth::TokenError, runner::result::BuildFailure,
};

/// The source is not what it should be.
pub fn invalid(words: impl Into<String>) -> BuildFailure {
    BuildFailure::new(Reason::SourceInvalid, words)
}

/// A file here could not be written.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub fn not_written(error: io::Error) -> BuildFailure {
    let reason = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Reason::StorageFull,
        _ => Reason::Internal,
    };
    BuildFailure::new(reason, format!("its files cannot be written: {error}"))
}

/// A registry's answer that is not what was asked for. `code` is the registry's own word for it.
pub fn of_status(
    host: &str,
    status: StatusCode,
    code: Option<&str>,
    has_login: bool,
) -> BuildFailure {
    let (reason, words) = match (status.as_u16(), has_login) {
        (401, false) => (
            Reason::SourceUnauthorized,
            "asks for credentials, and registrySecrets has none for it; add a Secret of type kubernetes.io/dockerconfigjson",
        ),
        (401, true) => (
            Reason::SourceUnauthorized,
            "refuses the credentials that registrySecrets has for it; correct user name and password in the Secret",
        ),
        (403, _) => (
            Reason::SourceUnauthorized,
            "does not allow this to be read; grant the user of registrySecrets access to the repository",
        ),
        (404, _) => {
            (Reason::SourceNotFound, "has no such repository, tag or digest; correct the reference")
        }
        (402, _) => (
            Reason::RegistryPaymentRequired,
            "asks for payment: its traffic is used up; wait for its next period, pay, or use another mirror",
        ),
        (429, _) => (
            Reason::RegistryRateLimited,
            "had too many requests; add credentials for a higher limit, use a mirror, or try again later",
        ),
        (500..=599, _) => {
            (Reason::RegistryUnavailable, "cannot answer; try again when it is healthy")
        }
        _ => (
            Reason::SourceInvalid,
            "gives an answer that a registry should not give; check the reference",
        ),
    };
    let code = code.map(|code| format!(", {code}")).unwrap_or_default();
    BuildFailure::new(reason, format!("{host} {words} ({}{code})", status.as_u16()))
}

/// No answer at all, or half of one. The addresses in the error are left out: after a redirect they can be signed.
pub fn of_transport(host: &str, error: &reqwest::Error) -> BuildFailure {
    let causes: Vec<&(dyn Error + 'static)> =
        iter::successors(error.source(), |&error| error.source()).collect();
    let says = |words: &str| causes.iter().any(|cause| cause.to_string().contains(words));
    let last = causes.last().map_or_else(String::new, |cause| format!(": {cause}"));
    let (reason, words) = if causes.iter().any(|cause| is_tls(*cause)) || says("tls handshake eof")
    {
        (
            Reason::TlsFailure,
            format!(
                "no secure connection to {host}{last}; trust its authority, or allow plain http or any certificate for it"
            ),
        )
    } else if says("dns error") {
        (
            Reason::NameResolution,
            format!("the name of {host} cannot be resolved{last}; check the reference and the DNS"),
        )
    } else if error.is_timeout() {
        (
            Reason::RegistryUnavailable,
            format!(
                "{host} does not answer in time; check that it can be reached from the build's pod"
            ),
        )
    } else if error.is_builder() || error.is_redirect() {
        (
            Reason::SourceInvalid,
            format!("{host} cannot be asked or redirects without end{last}; check the reference"),
        )
    } else {
        (
            Reason::RegistryUnavailable,
            format!(
                "the connection to {host} fails{last}; check that it can be reached from the build's pod"
            ),
        )
    };
    BuildFailure::new(reason, words)
}

/// Maps a token error. Token servers report an unknown user with various statuses.
pub fn of_token(host: &str, has_login: bool, error: &TokenError) -> BuildFailure {
    match error {
        TokenError::Unauthorized { .. } | TokenError::Status { status: 400 | 404, .. } => {
            of_status(host, StatusCode::UNAUTHORIZED, None, has_login)
        }
        TokenError::Status { status, .. } => {
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_GATEWAY);
            of_status(host, status, None, has_login)
        }
        TokenError::Transport { reason, .. } => {
            let named =
                [("dns error", Reason::NameResolution), ("certificate", Reason::TlsFailure)];
            let found = named.into_iter().find(|(words, _)| reason.contains(words));
            let reason = found.map_or(Reason::RegistryUnavailable, |(_, reason)| reason);
            BuildFailure::new(reason, error.to_string())
        }
        TokenError::TimedOut { .. } => {
            BuildFailure::new(Reason::RegistryUnavailable, error.to_string())
        }
        TokenError::InsecureRealm { .. } => invalid(format!(
            "{host} wants its credentials sent to a token server without https; they were not sent; repair the registry"
        )),
        TokenError::Malformed { .. }
        | TokenError::InvalidRealm { .. }
        | TokenError::Client { .. } => {
            invalid(format!("{error}; check the reference, or repair the registry"))
        }
    }
}

/// An I/O error hides the error that it was made of from `source`.
fn is_tls(error: &(dyn Error + 'static)) -> bool {
    error.is::<rustls::Error>()
        || error.downcast_ref::<io::Error>().and_then(io::Error::get_ref).is_some_and(|inner| {
            inner.is::<rustls::Error>()
                || inner.downcast_ref::<io::Error>().is_some_and(|inner| is_tls(inner))
        })
}
