//! What a manifest says: an image or an artifact. Pure.

use std::{
    collections::HashMap,
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, de::IgnoredAny};

use super::failure::invalid;
use crate::{api::FailureReason, plan::Digest, runner::result::BuildFailure};

/// Asked for by Accept: registries convert or refuse what is not named.
pub const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

const IMAGE_CONFIGURATIONS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
const TITLE: &str = "org.opencontainers.image.title";
const UNPACK: &str = "io.deis.oras.content.unpack";

/// What a manifest describes.
#[derive(Debug, PartialEq)]
pub enum Content {
    /// An image, for one platform or several.
    Image,
    /// Anything else that has layers.
    Artifact(Vec<Layer>),
}

/// A layer of an artifact.
#[derive(Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Layer {
    /// Its media type.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes, as packed.
    pub size: u64,
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
}

/// What becomes of a layer.
#[derive(Debug, PartialEq, Eq)]
pub enum Use {
    /// It is an archive.
    Unpack,
    /// It is a file.
    File(PathBuf),
    /// Its first bytes tell whether it is an archive.
    Look,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    manifests: Option<IgnoredAny>,
    config: Option<Configuration>,
    layers: Option<Vec<Layer>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Configuration {
    media_type: String,
}

impl Content {
    /// Reads a manifest.
    pub fn of(body: &[u8], host: &str) -> Result<Self, BuildFailure> {
        if serde_json::from_slice::<IgnoredAny>(body).is_err() {
            let words = format!(
                "{host} answers, but not as an image registry: it sent no JSON; correct the reference's registry"
            );
            return Err(BuildFailure::new(FailureReason::RegistryNotV2, words));
        }
        let manifest: Manifest = serde_json::from_slice(body).map_err(|error| {
            invalid(format!(
                "the manifest cannot be read: {error}; push the image or artifact again"
            ))
        })?;
        if manifest.schema_version != 2 {
            let version = manifest.schema_version;
            return Err(invalid(format!(
                "its manifest is of schema version {version}, not 2; push it again with a newer tool"
            )));
        }
        let is_image = manifest
            .config
            .is_some_and(|config| IMAGE_CONFIGURATIONS.contains(&config.media_type.as_str()));
        if is_image || manifest.manifests.is_some() {
            return Ok(Self::Image);
        }
        Ok(Self::Artifact(manifest.layers.unwrap_or_default()))
    }
}

impl Layer {
    /// What becomes of it. ORAS gives plain files the media type of a tar, so the annotations say more than the type.
    pub fn purpose(&self) -> Result<Use, BuildFailure> {
        let annotation = |key| {
            self.annotations
                .as_ref()
                .and_then(|annotations| annotations.get(key))
                .map(String::as_str)
        };
        match (annotation(UNPACK), annotation(TITLE)) {
            (Some("true"), _) => Ok(Use::Unpack),
            (_, Some(title)) => plain(title).map(Use::File).ok_or_else(|| {
                invalid(format!("a layer's title {title:?} is not a path below the source's root; push it under a relative path"))
            }),
            _ if self.media_type.split(['.', '+', '/', '-']).any(|part| matches!(part, "tar" | "tgz")) => Ok(Use::Unpack),
            _ => Ok(Use::Look),
        }
    }
}

/// The path, if it is relative, names a file and has no `..`.
fn plain(title: &str) -> Option<PathBuf> {
    let is_plain =
        |component: &Component<'_>| matches!(component, Component::Normal(_) | Component::CurDir);
    let path = Path::new(title);
    let is_file = !title.ends_with('/') && path.file_name().is_some();
    (is_file && path.components().all(|component| is_plain(&component)))
        .then(|| path.components().filter(|component| *component != Component::CurDir).collect())
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, path::PathBuf};

    use super::{Content, FailureReason, Layer, TITLE, UNPACK, Use};
    use crate::plan::Digest;

    fn layer(media_type: &str, annotations: &[(&str, &str)]) -> Layer {
        let annotations: HashMap<_, _> = annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Layer {
            media_type: media_type.to_owned(),
            digest: Digest::from_sha256([0; 32]),
            size: 1,
            annotations: Some(annotations),
        }
    }

    #[test]
    fn annotations_say_more_of_a_layer_than_its_media_type() {
        let file = |path: &str| Some(Use::File(PathBuf::from(path)));
        for (media_type, annotations, expected) in [
            ("application/vnd.cncf.flux.content.v1.tar+gzip", vec![], Some(Use::Unpack)),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", vec![], Some(Use::Unpack)),
            ("application/x-tar", vec![], Some(Use::Unpack)),
            ("application/vnd.example.target+json", vec![], Some(Use::Look)),
            ("application/octet-stream", vec![], Some(Use::Look)),
            (
                "application/vnd.oci.image.layer.v1.tar",
                vec![(TITLE, "Dockerfile")],
                file("Dockerfile"),
            ),
            (
                "application/vnd.oci.image.layer.v1.tar",
                vec![(TITLE, "a.tar"), (UNPACK, "false")],
                file("a.tar"),
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+gzip",
                vec![(TITLE, "src"), (UNPACK, "true")],
                Some(Use::Unpack),
            ),
            ("text/plain", vec![(TITLE, "./a/./b..txt")], file("a/b..txt")),
            ("text/plain", vec![(TITLE, "../x")], None),
            ("text/plain", vec![(TITLE, "a/../../x")], None),
            ("text/plain", vec![(TITLE, "/etc/x")], None),
            ("text/plain", vec![(TITLE, "a/")], None),
            ("text/plain", vec![(TITLE, ".")], None),
            ("text/plain", vec![(TITLE, "")], None),
        ] {
            assert_eq!(
                layer(media_type, &annotations).purpose().ok(),
                expected,
                "{media_type} {annotations:?}"
            );
        }
    }

    #[test]
    fn an_image_is_known_by_its_configuration_or_its_list_of_manifests() {
        let manifest = |config: &str| {
            format!(r#"{{"schemaVersion":2,"config":{{"mediaType":"{config}"}},"layers":[]}}"#)
        };
        for (body, expected) in [
            (manifest("application/vnd.oci.image.config.v1+json"), Ok(Content::Image)),
            (manifest("application/vnd.docker.container.image.v1+json"), Ok(Content::Image)),
            (r#"{"schemaVersion":2,"manifests":[]}"#.to_owned(), Ok(Content::Image)),
            (manifest("application/vnd.oci.empty.v1+json"), Ok(Content::Artifact(Vec::new()))),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(), Err(FailureReason::SourceInvalid)),
            (
                r#"{"schemaVersion":2,"layers":[{"mediaType":"x","digest":"md5:0","size":1}]}"#
                    .to_owned(),
                Err(FailureReason::SourceInvalid),
            ),
            (
                r#"{"schemaVersion":2,"layers":[{"mediaType":"x","digest":"sha256:0","size":-1}]}"#
                    .to_owned(),
                Err(FailureReason::SourceInvalid),
            ),
            ("[]".to_owned(), Err(FailureReason::SourceInvalid)),
            ("<html>".to_owned(), Err(FailureReason::RegistryNotV2)),
            (String::new(), Err(FailureReason::RegistryNotV2)),
        ] {
            assert_eq!(
                Content::of(body.as_bytes(), "r.example").map_err(|failure| failure.reason),
                expected,
                "{body}"
            );
        }
    }
}
