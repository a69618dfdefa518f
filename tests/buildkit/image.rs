//! What exports contain: files and images.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    ops::Deref,
    path::Path,
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Archive, Builder, EntryType, Header};

/// An entry of a tar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: EntryType,
    /// The permission bits with set-user-ID, set-group-ID and sticky bit.
    pub mode: u32,
    pub owner: (u64, u64),
    pub mtime: u64,
    /// The target of a symlink or hard link.
    pub link: Vec<u8>,
    pub device: Option<(u32, u32)>,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    pub content: Vec<u8>,
}

impl Entry {
    fn regular(content: Vec<u8>) -> Self {
        Self {
            kind: EntryType::Regular,
            mode: 0o644,
            owner: (0, 0),
            mtime: 0,
            link: Vec::new(),
            device: None,
            xattrs: BTreeMap::new(),
            content,
        }
    }
}

/// The entries of a tar by their paths.
#[derive(Debug, PartialEq, Eq)]
pub struct Tree(BTreeMap<Vec<u8>, Entry>);

impl Deref for Tree {
    type Target = BTreeMap<Vec<u8>, Entry>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Tree {
    pub fn read(tar: &[u8]) -> Self {
        let mut archive = Archive::new(tar);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut path = entry.path_bytes().into_owned();
            if path.ends_with(b"/") {
                path.pop();
            }
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let xattrs = entry.pax_extensions().unwrap().into_iter().flatten();
            let xattrs = xattrs.filter_map(|extension| {
                let extension = extension.unwrap();
                let name = extension.key().unwrap().strip_prefix("SCHILY.xattr.")?;
                Some((name.to_owned(), extension.value_bytes().to_owned()))
            });
            let xattrs = xattrs.collect();
            let header = entry.header();
            let kind = header.entry_type();
            let is_device = matches!(kind, EntryType::Char | EntryType::Block);
            let device = is_device.then(|| {
                let (major, minor) =
                    (header.device_major().unwrap(), header.device_minor().unwrap());
                (major.unwrap(), minor.unwrap())
            });
            let found = Entry {
                kind,
                mode: header.mode().unwrap() & 0o7777,
                owner: (header.uid().unwrap(), header.gid().unwrap()),
                mtime: header.mtime().unwrap(),
                link: entry.link_name_bytes().unwrap_or_default().into_owned(),
                device,
                xattrs,
                content,
            };
            (path, found)
        });
        Self(entries.collect())
    }

    pub fn names(&self) -> Vec<String> {
        self.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    #[track_caller]
    pub fn file(&self, name: impl AsRef<[u8]>) -> &Entry {
        let name = name.as_ref();
        self.get(name).unwrap_or_else(|| {
            panic!("{} is not in {:?}", String::from_utf8_lossy(name), self.names())
        })
    }

    #[track_caller]
    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.file(name).content.clone()).unwrap()
    }
}

/// An image in the form of an OCI layout.
pub struct Image {
    pub digest: String,
    pub manifest: Value,
    pub config: Value,
    pub files: Tree,
}

impl Image {
    /// Reads a tar that holds one image.
    pub fn read(tar: &[u8]) -> Self {
        let files = Tree::read(tar);
        let index: Value = serde_json::from_slice(&files.file("index.json").content).unwrap();
        let [descriptor] = index["manifests"].as_array().unwrap().as_slice() else {
            panic!("not exactly one image: {index}")
        };
        let digest = descriptor["digest"].as_str().unwrap().to_owned();
        let manifest: Value = serde_json::from_slice(blob(&files, &digest)).unwrap();
        let config = blob(&files, manifest["config"]["digest"].as_str().unwrap());
        let config = serde_json::from_slice(config).unwrap();
        Self { digest, manifest, config, files }
    }

    /// Makes an image of one file without the help of BuildKit.
    pub fn with_file(name: &str, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        let mut layer = Builder::new(Vec::new());
        layer.append_data(&mut header, name, content).unwrap();
        let layer = layer.into_inner().unwrap();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&layer).unwrap();
        let diff_id = digest(&layer);
        let layer = encoder.finish().unwrap();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        });
        let config_bytes = config.to_string().into_bytes();
        let descriptor = |kind: &str, bytes: &[u8]| {
            let media_type = format!("application/vnd.oci.image.{kind}");
            json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("config.v1+json", &config_bytes),
            "layers": [descriptor("layer.v1.tar+gzip", &layer)],
        });
        let manifest_bytes = manifest.to_string().into_bytes();
        let manifest_digest = digest(&manifest_bytes);
        let blobs = [layer, config_bytes, manifest_bytes].map(|bytes| {
            let path = format!("blobs/{}", digest(&bytes).replace(':', "/"));
            (path.into_bytes(), Entry::regular(bytes))
        });
        Self { digest: manifest_digest, manifest, config, files: Tree(blobs.into()) }
    }

    pub fn layers(&self) -> Vec<String> {
        // Go writes an empty list as null.
        let layers = self.manifest["layers"].as_array().into_iter().flatten();
        layers.map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
    }

    pub fn blob(&self, digest: &str) -> &[u8] {
        blob(&self.files, digest)
    }

    /// Returns the entries of a layer.
    pub fn layer(&self, number: usize) -> Tree {
        let compressed = self.blob(&self.layers()[number]).to_vec();
        let mut tar = Vec::new();
        GzDecoder::new(compressed.as_slice()).read_to_end(&mut tar).unwrap();
        Tree::read(&tar)
    }

    /// Writes the image as an OCI layout.
    pub fn write_layout(&self, folder: &Path) {
        for (name, entry) in self.files.iter().filter(|(_, entry)| entry.kind == EntryType::Regular)
        {
            let path = folder.join(std::str::from_utf8(name).unwrap());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, &entry.content).unwrap();
        }
    }
}

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn blob<'a>(files: &'a Tree, digest: &str) -> &'a [u8] {
    &files.file(format!("blobs/{}", digest.replace(':', "/"))).content
}
