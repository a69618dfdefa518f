//! Whether what took the image is a registry at all. A web server that answers every path with its page makes BuildKit believe
//! that all layers and the manifest are there already: nothing is sent, and the push succeeds.

use std::{collections::BTreeMap, time::Duration};

use reqwest::header::CONTENT_TYPE;

use super::{image_source, result::BuildFailure, source::authorities};
use crate::{
    api::FailureReason,
    plan::{ImageReference, instructions::RegistryInstructions},
};

/// Nothing is lost where no answer comes: BuildKit had one.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks for the manifest, without credentials: a registry answers whatever it likes, but with no web page.
pub async fn check(
    reference: &ImageReference,
    registries: &BTreeMap<String, RegistryInstructions>,
) -> Result<(), BuildFailure> {
    let text = reference.to_string();
    let Some((host, rest)) = text.split_once('/') else { return Ok(()) };
    let Some((repository, tag)) = rest.rsplit_once(':') else { return Ok(()) };
    let known = registries.get(host).cloned().unwrap_or_default();
    let scheme = if known.http { "http" } else { "https" };
    let address = format!("{scheme}://{host}/v2/{repository}/manifests/{tag}");
    let Ok(client) = image_source::client(&authorities(registries), known.insecure) else {
        return Ok(());
    };
    let Ok(answer) = client.head(address).timeout(PATIENCE).send().await else { return Ok(()) };
    let kind =
        answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if answer.status().is_success() && kind.starts_with("text/html") {
        let words = format!(
            "{host} answers with a web page where the manifest of {text} should be: nothing was pushed"
        );
        return Err(BuildFailure::new(FailureReason::RegistryNotV2, words));
    }
    Ok(())
}
