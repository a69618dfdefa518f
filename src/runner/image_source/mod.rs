//! The source `image`: an OCI image, which BuildKit pulls, or an OCI artifact, whose files are put into a folder here. BuildKit
//! cannot read an artifact, since it has no image configuration.
//!
//! ```text
//! reference ─► registry (credentials, failure) ─► manifest ─┬─► image: the reference with its digest
//!             mirrors first                                 └─► layers ─► artifact: files below the root
//! ```

mod artifact;
mod failure;
mod manifest;
mod registry;
#[cfg(test)]
mod tests;

use std::path::Path;

use oci_spec::distribution::Reference;

pub use self::registry::{client, client_builder};
use self::{
    artifact::Placed,
    failure::{invalid, not_written},
    manifest::{Content, Layer},
    registry::Registry,
};
use super::{registry_auth::RegistryLogins, result::BuildFailure};
use crate::{api::FailureReason, buildkit::auth::TokenAuthority, plan::Digest};

/// Most that the layers of an artifact may hold together, as packed. The volume's own limit is usually lower.
const BYTES_LIMIT: u64 = 64 << 30;
/// More than any artifact has; each is a request of its own.
const LAYERS_LIMIT: usize = 1000;

/// What a reference turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Resolved {
    /// An image, for BuildKit to pull.
    Image {
        /// The reference with its digest.
        pinned: String,
    },
    /// An artifact; its files are in the folder now.
    Artifact,
}

/// Finds out what a reference is, and puts the files of an artifact into the folder `root`.
pub async fn resolve(
    reference: &str,
    logins: &RegistryLogins,
    authority: &TokenAuthority,
    root: &Path,
) -> Result<Resolved, BuildFailure> {
    let pull = async {
        let parsed = reference.parse::<Reference>().map_err(|error| {
            invalid(format!(
                "{error}; write registry, repository and tag or digest, such as registry.example.com/team/sources:v1"
            ))
        })?;
        Pull::new(&parsed, logins, authority).run(&parsed, root).await
    };
    pull.await.map_err(|failure| BuildFailure {
        message: format!("{reference}: {}", failure.message),
        ..failure
    })
}

/// The mirrors and, last, the registry itself.
struct Pull<'a> {
    registries: Vec<Registry<'a>>,
}

impl<'a> Pull<'a> {
    fn new(reference: &Reference, logins: &RegistryLogins, authority: &'a TokenAuthority) -> Self {
        let host = reference.registry();
        let registry = logins.registries().get(host);
        let mirrors = registry.into_iter().flat_map(|registry| &registry.mirrors);
        let registries = mirrors
            .map(String::as_str)
            .chain([host])
            .map(|place| Registry::new(place, reference.repository(), logins, authority))
            .collect();
        Self { registries }
    }

    async fn run(&mut self, reference: &Reference, root: &Path) -> Result<Resolved, BuildFailure> {
        let (content, digest) = self.manifest(reference).await?;
        match content {
            Content::Image => Ok(Resolved::Image {
                pinned: format!("{}/{}@{digest}", reference.registry(), reference.repository()),
            }),
            Content::Artifact(layers) => {
                self.artifact(layers, root).await?;
                Ok(Resolved::Artifact)
            }
        }
    }

    async fn manifest(&mut self, reference: &Reference) -> Result<(Content, Digest), BuildFailure> {
        let mut passed_over = Vec::new();
        for registry in &mut self.registries {
            match registry.manifest(reference.tag(), reference.digest()).await {
                Ok(found) => return Ok(found),
                Err(failure) => passed_over.push(failure),
            }
        }
        Err(last_of(passed_over))
    }

    async fn artifact(&mut self, layers: Vec<Layer>, root: &Path) -> Result<(), BuildFailure> {
        if layers.len() > LAYERS_LIMIT {
            return Err(invalid(format!(
                "the artifact has {} layers, more than the {LAYERS_LIMIT} that a source may have",
                layers.len()
            )));
        }
        let declared = layers.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.size));
        if declared > BYTES_LIMIT {
            return Err(invalid(format!(
                "the artifact has {declared} bytes, more than the {BYTES_LIMIT} that a source may have"
            )));
        }
        tokio::fs::create_dir_all(root).await.map_err(not_written)?;
        let download = root.with_extension("layer");
        let is_any_placed = self.layers(&layers, &download, root).await;
        // Gone already if the last layer was a file, which was moved to its place.
        let _ = tokio::fs::remove_file(&download).await;
        if is_any_placed? { Ok(()) } else { Err(artifact::nothing_usable(&layers)) }
    }

    async fn layers(
        &mut self,
        layers: &[Layer],
        download: &Path,
        root: &Path,
    ) -> Result<bool, BuildFailure> {
        let mut is_any_placed = false;
        for layer in layers {
            self.blob(layer, download).await?;
            let placed =
                artifact::place(layer.clone(), download.to_owned(), root.to_owned()).await?;
            is_any_placed |= placed == Placed::Yes;
        }
        Ok(is_any_placed)
    }

    async fn blob(&mut self, layer: &Layer, file: &Path) -> Result<(), BuildFailure> {
        let mut passed_over = Vec::new();
        for registry in &mut self.registries {
            match registry.blob(layer, file).await {
                Ok(()) => return Ok(()),
                Err(failure) => passed_over.push(failure),
            }
        }
        Err(last_of(passed_over))
    }
}

/// The registry's own failure is what counts; what its mirrors said comes after it, since it may be the mirror that should have
/// answered.
fn last_of(mut failures: Vec<BuildFailure>) -> BuildFailure {
    let Some(mut last) = failures.pop() else {
        return BuildFailure::new(FailureReason::Internal, "no registry was asked");
    };
    for mirror in failures {
        last.message = format!("{} (before it a mirror: {})", last.message, mirror.message);
    }
    last
}
