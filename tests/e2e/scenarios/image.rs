//! Reads an image from its tar or its OCI layout, bit by bit: each blob has the digest that is its name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read,
    path::Path,
};

use serde_json::Value;
use sha2::{Digest, Sha256};

pub struct Image {
    index: Value,
    blobs: BTreeMap<String, Vec<u8>>,
}

/// One file of a layer.
pub struct Entry {
    pub path: String,
    pub kind: tar::EntryType,
    pub mtime: u64,
    pub content: Vec<u8>,
}

impl Image {
    /// Reads a docker tar of BuildKit or an OCI tar; both hold an OCI layout.
    pub fn of_tar(path: &Path) -> Self {
        let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(file).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(name, content);
        }
        Self::of_files(&files)
    }

    /// Reads the folder of an OCI layout.
    pub fn of_layout(folder: &Path) -> Self {
        let layout =
            serde_json::from_slice::<Value>(&fs::read(folder.join("oci-layout")).unwrap()).unwrap();
        assert_eq!(layout["imageLayoutVersion"], "1.0.0", "{layout}");
        let mut files = BTreeMap::from([(
            "index.json".to_owned(),
            fs::read(folder.join("index.json")).unwrap(),
        )]);
        for entry in fs::read_dir(folder.join("blobs/sha256")).unwrap() {
            let entry = entry.unwrap();
            files.insert(
                format!("blobs/sha256/{}", entry.file_name().to_str().unwrap()),
                fs::read(entry.path()).unwrap(),
            );
        }
        Self::of_files(&files)
    }

    fn of_files(files: &BTreeMap<String, Vec<u8>>) -> Self {
        let index = serde_json::from_slice(&files["index.json"]).unwrap();
        let blobs: BTreeMap<_, _> = files
            .iter()
            .filter_map(|(path, content)| {
                let hex = path.strip_prefix("blobs/sha256/").filter(|hex| !hex.is_empty())?;
                Some((format!("sha256:{hex}"), content.clone()))
            })
            .collect();
        for (digest, content) in &blobs {
            assert_eq!(*digest, digest_of(content), "a blob has the digest that is its name");
        }
        Self { index, blobs }
    }

    /// The first descriptor of index.json.
    pub fn descriptor(&self) -> &Value {
        &self.index["manifests"][0]
    }

    /// A document among the blobs.
    pub fn document(&self, digest: &Value) -> Value {
        serde_json::from_slice(self.blob(digest)).unwrap()
    }

    /// What index.json lists first: a manifest, or the index of several.
    pub fn root(&self) -> Value {
        self.document(&self.descriptor()["digest"])
    }

    /// The manifest of the one image.
    pub fn manifest(&self) -> Value {
        let root = self.root();
        assert!(root["config"].is_object(), "a manifest, no index: {root}");
        root
    }

    /// The configuration of the one image.
    pub fn config(&self) -> Value {
        self.document(&self.manifest()["config"]["digest"])
    }

    pub fn labels(&self) -> BTreeMap<String, String> {
        serde_json::from_value(self.config()["config"]["Labels"].clone()).unwrap_or_default()
    }

    pub fn layer_digests(&self) -> Vec<String> {
        digests(&self.manifest()["layers"])
    }

    pub fn layer_media_types(&self) -> BTreeSet<String> {
        let layers = self.manifest()["layers"].clone();
        layers
            .as_array()
            .unwrap()
            .iter()
            .map(|layer| layer["mediaType"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The files of each layer, the lowest first.
    pub fn layers(&self) -> Vec<Vec<Entry>> {
        digests(&self.manifest()["layers"])
            .iter()
            .map(|digest| entries(&decompressed(&self.blobs[digest])))
            .collect()
    }

    /// A file as the topmost layer that has it holds it.
    pub fn file(&self, path: &str) -> String {
        let layers = self.layers();
        let entry = layers.iter().rev().flatten().find(|entry| entry.path == path);
        String::from_utf8(entry.unwrap_or_else(|| panic!("{path} is in no layer")).content.clone())
            .unwrap()
    }

    /// All blobs, decompressed where they are compressed.
    pub fn everything(&self) -> Vec<u8> {
        let mut all = self.index.to_string().into_bytes();
        self.blobs.values().for_each(|blob| all.extend(decompressed(blob)));
        all
    }

    pub fn blob_digests(&self) -> BTreeSet<String> {
        self.blobs.keys().cloned().collect()
    }

    fn blob(&self, digest: &Value) -> &[u8] {
        let digest = digest.as_str().unwrap();
        self.blobs.get(digest).unwrap_or_else(|| panic!("there is no blob {digest}"))
    }
}

/// Digests of a list of descriptors.
pub fn digests(descriptors: &Value) -> Vec<String> {
    let descriptors =
        descriptors.as_array().unwrap_or_else(|| panic!("{descriptors} is no list of descriptors"));
    descriptors.iter().map(|descriptor| descriptor["digest"].as_str().unwrap().to_owned()).collect()
}

pub fn digest_of(content: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(content)))
}

fn decompressed(blob: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    match blob {
        [0x1f, 0x8b, ..] => {
            flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut content).unwrap();
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => content = zstd::decode_all(blob).unwrap(),
        _ => content.extend_from_slice(blob),
    }
    content
}

fn entries(layer: &[u8]) -> Vec<Entry> {
    let mut archive = tar::Archive::new(layer);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let header = entry.header();
        Entry {
            path: String::from_utf8_lossy(&entry.path_bytes()).trim_end_matches('/').to_owned(),
            kind: header.entry_type(),
            mtime: header.mtime().unwrap(),
            content,
        }
    });
    entries.collect()
}

/// A tar as `docker save` makes it, of layers that no Dockerfile would make: folders are paths that end in '/'.
pub fn docker_tar(layers: &[&[(&str, &str)]]) -> Vec<u8> {
    let layers: Vec<_> = layers
        .iter()
        .map(|files| tar_of(files.iter().map(|(path, text)| (*path, text.as_bytes()))))
        .collect();
    let diff_ids: Vec<_> = layers.iter().map(|layer| digest_of(layer)).collect();
    let config = serde_json::json!({
        "os": "linux", "architecture": "amd64", "config": {}, "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let names: Vec<_> = (0..layers.len()).map(|number| format!("{number}/layer.tar")).collect();
    let manifest = serde_json::json!([{ "Config": "config.json", "RepoTags": ["made:latest"], "Layers": names }]);
    let (config, manifest) = (config.to_string(), manifest.to_string());
    let documents = [("config.json", config.as_bytes()), ("manifest.json", manifest.as_bytes())];
    tar_of(
        documents
            .into_iter()
            .chain(names.iter().map(String::as_str).zip(layers.iter().map(Vec::as_slice))),
    )
}

fn tar_of<'a>(files: impl Iterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(if path.ends_with('/') {
            tar::EntryType::Directory
        } else {
            tar::EntryType::Regular
        });
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, content).unwrap();
    }
    builder.into_inner().unwrap()
}
