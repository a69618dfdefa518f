//! The documents of an OCI image layout (OCI image specification): index, manifest, configuration.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::image_tar::ImageTar;
use crate::plan::Digest;

/// Manifests that are looked at; an image has one for each platform and its attestations.
const MANIFESTS_LIMIT: usize = 256;
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Marks a manifest that holds statements about another (BuildKit, docs/attestations/attestation-storage.md).
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// An index, or a manifest list.
#[derive(Deserialize)]
pub struct Index {
    /// What it lists.
    pub manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// What points to a blob.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Its digest.
    pub digest: Digest,
    #[serde(default)]
    size: i64,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    annotations: std::collections::HashMap<String, String>,
}

impl Descriptor {
    fn is_index(&self) -> bool {
        self.media_type == INDEX || self.media_type == MANIFEST_LIST
    }
}

/// The image's configuration, as far as it is reported.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct ImageConfig {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    #[serde(default)]
    config: RunConfig,
}

#[derive(Deserialize, Clone, Debug, Default)]
struct RunConfig {
    #[serde(rename = "Env", default)]
    env: Option<Vec<String>>,
    #[serde(rename = "User", default)]
    user: Option<String>,
}

impl ImageConfig {
    /// `linux/arm64`, `linux/arm/v7`.
    fn platform(&self) -> Option<String> {
        let variant = self
            .variant
            .as_ref()
            .filter(|variant| !variant.is_empty())
            .map(|variant| format!("/{variant}"));
        Some(format!(
            "{}/{}{}",
            self.os.as_ref()?,
            self.architecture.as_ref()?,
            variant.unwrap_or_default()
        ))
    }

    /// The task's `metadata.json`: environment and user, with a newline as the peer writes it.
    pub fn metadata(&self) -> Vec<u8> {
        let metadata = serde_json::json!({
            "env": self.config.env.clone().unwrap_or_default(),
            "user": self.config.user.clone().unwrap_or_default(),
        });
        let mut text = metadata.to_string().into_bytes();
        text.push(b'\n');
        text
    }
}

/// What an image's tar holds.
#[derive(Default)]
pub struct Contents {
    /// The first entry of `index.json`.
    pub digest: Option<Digest>,
    /// Digest of the configuration, if there is one image.
    pub config_digest: Option<Digest>,
    /// Bytes of all configurations and layers as they are stored; each counts once.
    pub size: i64,
    /// Platforms of the images.
    pub platforms: Vec<String>,
    /// Configuration of the first image.
    pub config: ImageConfig,
}

/// Reads what a tar says about its images. Statements about them are left out.
pub fn contents(tar: &mut ImageTar) -> io::Result<Contents> {
    let index: Index = serde_json::from_slice(&tar.document("index.json")?)?;
    let mut contents = Contents {
        digest: index.manifests.first().map(|first| first.digest.clone()),
        ..Contents::default()
    };
    let mut seen = BTreeSet::new();
    let mut configs = Vec::new();
    let mut open: Vec<Descriptor> = index.manifests;
    open.reverse();
    let mut visited = 0;
    while let Some(descriptor) = open.pop() {
        visited += 1;
        if visited > MANIFESTS_LIMIT {
            return Err(io::Error::other(format!(
                "the image has more than {MANIFESTS_LIMIT} manifests"
            )));
        }
        if descriptor.annotations.contains_key(REFERENCE_TYPE)
            || !seen.insert(descriptor.digest.clone())
        {
            continue;
        }
        let document = tar.document(&blob(&descriptor.digest))?;
        if descriptor.is_index() {
            let nested: Index = serde_json::from_slice(&document)?;
            open.extend(nested.manifests.into_iter().rev());
            continue;
        }
        let manifest: Manifest = serde_json::from_slice(&document)?;
        for part in manifest.layers.iter().chain([&manifest.config]) {
            if seen.insert(part.digest.clone()) {
                contents.size = contents.size.saturating_add(part.size.max(0));
            }
        }
        let config: ImageConfig =
            serde_json::from_slice(&tar.document(&blob(&manifest.config.digest))?)?;
        contents.platforms.extend(config.platform());
        configs.push((manifest.config.digest, config));
    }
    if let [(digest, _)] = configs.as_slice() {
        contents.config_digest = Some(digest.clone());
    }
    if let Some((_, config)) = configs.into_iter().next() {
        contents.config = config;
    }
    Ok(contents)
}

/// Where a layout keeps a blob.
pub fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Unpacks the layout of a tar into a folder that does not exist yet. Each blob is checked against its digest.
pub fn unpack(tar: &mut ImageTar, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder.join("blobs/sha256"))?;
    fs::write(folder.join("oci-layout"), tar.document("oci-layout")?)?;
    fs::write(folder.join("index.json"), tar.document("index.json")?)?;
    let digests: Vec<Digest> = tar
        .names()
        .filter_map(|name| {
            Digest::try_from(format!("sha256:{}", name.strip_prefix("blobs/sha256/")?)).ok()
        })
        .collect();
    for digest in digests {
        let name = blob(&digest);
        let found = copy(&mut tar.reader(&name)?, &folder.join(&name))?;
        if found.0 != digest {
            return Err(io::Error::other(format!(
                "{name} of the archive has the digest {}",
                found.0
            )));
        }
    }
    Ok(())
}

/// Writes a stream to a new file; its digest and length.
pub fn copy(from: &mut impl Read, to: &Path) -> io::Result<(Digest, u64)> {
    let mut file = File::create_new(to)?;
    let mut hash = Sha256::new();
    let mut length = 0;
    let mut buffer = vec![0; 1 << 18];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok((Digest::from_sha256(hash.finalize()), length)),
            read => {
                hash.update(&buffer[..read]);
                file.write_all(&buffer[..read])?;
                length += read as u64;
            }
        }
    }
}
