//! Builds the solve request: the attributes of the Dockerfile frontend, the exporters and the
//! caches. Pure.

use std::collections::BTreeMap;

use super::{inputs::BuildInputs, locate::Located};
use crate::{
    api::{Cache, OutputFormat},
    buildkit::CacheEntry,
    plan::{
        ImageReference,
        instructions::{ImageForm, Instructions},
    },
};

/// The frontend that every daemon has built in.
pub const FRONTEND: &str = "dockerfile.v0";
/// The names by which the frontend asks for the two directories.
pub const CONTEXT: &str = "context";
pub const DOCKERFILE: &str = "dockerfile";

/// A stage to build and its outputs.
pub struct Target<'a> {
    /// The stage; `None` is the last of the Dockerfile.
    pub stage: Option<&'a str>,
    /// Names of the image.
    pub references: &'a [ImageReference],
    /// Whether it is the build's own stage, not an additional one.
    pub is_main: bool,
    /// Whether it is pushed.
    pub is_pushed: bool,
    /// Whether its tar is written.
    pub has_tar: bool,
}

/// The request of one stage.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Request {
    /// Attributes of the frontend.
    pub attributes: BTreeMap<String, String>,
    pub outputs: Vec<Output>,
    #[serde(serialize_with = "entries")]
    pub cache_imports: Vec<CacheEntry>,
    #[serde(serialize_with = "entries")]
    pub cache_exports: Vec<CacheEntry>,
}

/// An exporter of BuildKit.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Output {
    pub destination: Destination,
    /// BuildKit's name of the exporter.
    pub kind: &'static str,
    pub attributes: BTreeMap<String, String>,
}

/// Where the result of an exporter goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Destination {
    /// The daemon pushes it to the registry.
    Registry,
    /// The runner writes it as `image.tar`.
    Tar,
    /// The runner unpacks it as `rootfs`.
    Rootfs,
}

fn entries<S: serde::Serializer>(entries: &[CacheEntry], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(entries.iter().map(|entry| (&entry.kind, &entry.attributes)))
}

/// Returns the request that builds one stage.
pub fn build_request(
    instructions: &Instructions,
    located: &Located,
    inputs: &BuildInputs,
    target: &Target<'_>,
) -> Request {
    Request {
        attributes: attributes(instructions, located, inputs, target),
        outputs: outputs(instructions, inputs, target),
        cache_imports: cache_imports(instructions.parameters.cache.as_ref()),
        cache_exports: cache_exports(instructions.parameters.cache.as_ref(), target),
    }
}

fn attributes(
    instructions: &Instructions,
    located: &Located,
    inputs: &BuildInputs,
    target: &Target<'_>,
) -> BTreeMap<String, String> {
    let parameters = &instructions.parameters;
    let mut attributes = BTreeMap::new();
    let mut set = |key: &str, value: String| attributes.insert(key.to_owned(), value);
    set("filename", located.dockerfile_name.clone());
    if let Some(stage) = target.stage {
        set("target", stage.to_owned());
    }
    if !parameters.platforms.is_empty() {
        set("platform", parameters.platforms.join(","));
    }
    if !parameters.add_hosts.is_empty() {
        let hosts = parameters.add_hosts.iter().map(|(host, address)| format!("{host}={address}"));
        set("add-hosts", hosts.collect::<Vec<_>>().join(","));
    }
    if parameters.no_cache {
        set("no-cache", String::new());
    }
    for (number, image) in inputs.images.iter().enumerate() {
        let name = image_name(number);
        set(&format!("context:{name}"), format!("oci-layout://{name}@{}", image.digest));
    }
    attributes.extend(prefixed("build-arg:", build_args(instructions, inputs)));
    attributes.extend(prefixed("label:", inputs.labels.clone()));
    attributes.extend(attestations(&instructions.image));
    attributes
}

fn prefixed(
    prefix: &str,
    values: BTreeMap<String, String>,
) -> impl Iterator<Item = (String, String)> {
    values.into_iter().map(move |(key, value)| (format!("{prefix}{key}"), value))
}

/// Returns the arguments of the Dockerfile, with those that BuildKit itself reads.
fn build_args(instructions: &Instructions, inputs: &BuildInputs) -> BTreeMap<String, String> {
    let parameters = &instructions.parameters;
    let mut arguments = BTreeMap::new();
    if let Some(proxy) = &parameters.proxy {
        let proxies = [
            ("HTTP_PROXY", &proxy.http_proxy),
            ("HTTPS_PROXY", &proxy.https_proxy),
            ("NO_PROXY", &proxy.no_proxy),
        ];
        let set = proxies.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
        arguments.extend(set.map(|(name, value)| (name.to_owned(), value)));
    }
    arguments.extend(inputs.build_args.clone());
    if let Some(epoch) = parameters.source_date_epoch {
        arguments.insert(SOURCE_DATE_EPOCH.to_owned(), epoch.to_string());
    }
    let images = inputs.images.iter().enumerate();
    arguments.extend(images.map(|(number, image)| (image.argument.clone(), image_name(number))));
    arguments
}

const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Returns the image name that replaces an image argument: a name that BuildKit resolves from the
/// layout, not from a registry.
pub fn image_name(number: usize) -> String {
    format!("{IMAGE_NAME}{number}")
}

/// The beginning of these names, by which BuildKit's messages about them are recognised.
pub const IMAGE_NAME: &str = "ocibuild-image-arg-";

/// The cache is read for every stage.
fn cache_imports(cache: Option<&Cache>) -> Vec<CacheEntry> {
    cache.into_iter().map(|cache| registry_cache(cache, [])).collect()
}

/// The cache is written for the main stage alone: a second export would replace the first.
fn cache_exports(cache: Option<&Cache>, target: &Target<'_>) -> Vec<CacheEntry> {
    let cache = cache.filter(|_| target.is_main);
    let export = cache.and_then(|cache| Some((cache, cache.registry.export?)));
    let entry = export.map(|(cache, mode)| {
        registry_cache(cache, [("mode", mode.as_str()), ("ignore-error", "true")])
    });
    entry.into_iter().collect()
}

fn registry_cache<const N: usize>(cache: &Cache, more: [(&str, &str); N]) -> CacheEntry {
    let reference = ("ref", cache.registry.reference.as_str());
    let attributes = more.into_iter().chain([reference]);
    CacheEntry {
        kind: "registry".to_owned(),
        attributes: attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
    }
}

fn attestations(image: &ImageForm) -> Vec<(String, String)> {
    let Some(attestations) = &image.attestations else { return Vec::new() };
    let provenance = attestations.provenance.map(|provenance| {
        ("attest:provenance".to_owned(), format!("mode={}", provenance.as_str()))
    });
    let sbom = attestations.sbom.as_ref().map(|sbom| {
        let generator = sbom.generator.as_ref().map(|generator| format!("generator={generator}"));
        ("attest:sbom".to_owned(), generator.unwrap_or_default())
    });
    provenance.into_iter().chain(sbom).collect()
}

fn outputs(instructions: &Instructions, inputs: &BuildInputs, target: &Target<'_>) -> Vec<Output> {
    let image = &instructions.image;
    // All of them describe the same manifest: with the same attributes they have the same digest.
    let same = image_attributes(instructions, inputs, target);
    let output = |destination, kind, attributes| Output { destination, kind, attributes };
    let mut outputs = Vec::new();
    if target.is_pushed {
        let mut attributes = same.clone();
        attributes.insert("push".to_owned(), "true".to_owned());
        outputs.push(output(Destination::Registry, "image", attributes));
    }
    if target.has_tar {
        let kind = match image.format {
            OutputFormat::Docker => "docker",
            OutputFormat::Oci => "oci",
        };
        outputs.push(output(Destination::Tar, kind, same));
    }
    if target.has_tar && image.unpack_rootfs {
        outputs.push(output(Destination::Rootfs, "tar", BTreeMap::new()));
    }
    outputs
}

fn image_attributes(
    instructions: &Instructions,
    inputs: &BuildInputs,
    target: &Target<'_>,
) -> BTreeMap<String, String> {
    let image = &instructions.image;
    let names: Vec<_> = target.references.iter().map(ToString::to_string).collect();
    let mut attributes = BTreeMap::new();
    let mut set = |key: &str, value: &str| attributes.insert(key.to_owned(), value.to_owned());
    set("name", &names.join(","));
    set("oci-mediatypes", "true");
    if let Some(compression) = image.compression {
        set("compression", compression.as_str());
    }
    if let Some(level) = image.compression_level {
        set("compression-level", &level.to_string());
    }
    if instructions.parameters.source_date_epoch.is_some()
        || inputs.build_args.contains_key(SOURCE_DATE_EPOCH)
    {
        set("rewrite-timestamp", "true");
    }
    let is_index = instructions.parameters.platforms.len() > 1 || image.attestations.is_some();
    for (name, value) in &image.annotations {
        set(&format!("annotation.{name}"), value);
        if is_index {
            set(&format!("annotation-index.{name}"), value);
        }
    }
    attributes
}

#[cfg(test)]
mod tests;
