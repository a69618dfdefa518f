//! Images of the source that FROM can use. Whatever form they come in, BuildKit gets an OCI layout:
//! the daemon is in another container, so it asks the runner for the blobs by their digests.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::symlink,
    path::Path,
};

use serde::Deserialize;
use serde_json::json;

use super::{
    image_tar::{DOCUMENT_LIMIT, ImageTar},
    inputs::InputImage,
    locate::below,
    oci_layout::{self, Index, blob, copy},
    result::BuildFailure,
};
use crate::{api::FailureReason, plan::Digest};

const BLOBS_LIMIT: usize = 100_000;
const BLOBS: &str = "blobs/sha256";

/// One image of the `manifest.json` of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    layers: Vec<String>,
}

/// Makes the OCI layout of an image argument in a folder that does not exist yet. `found` is a
/// docker tar, an OCI tar or the folder of an OCI layout; `shown` is its path as the user wrote it.
pub fn prepare(
    argument: &str,
    shown: &str,
    found: &Path,
    layout: &Path,
) -> Result<InputImage, BuildFailure> {
    let made = fs::create_dir_all(layout.join(BLOBS)).and_then(|()| {
        if found.is_dir() { from_folder(found, layout) } else { from_tar(found, layout) }
    });
    match made {
        Ok(digest) => {
            Ok(InputImage { argument: argument.to_owned(), layout: layout.to_owned(), digest })
        }
        Err(error) => {
            let reason = match super::output::storage_reason(&error) {
                FailureReason::StorageFull => FailureReason::StorageFull,
                _ => FailureReason::FileInvalid,
            };
            let message = format!(
                "imageArgs.{argument}: {shown:?} is no image (docker tar, OCI tar or OCI layout): {error}"
            );
            Err(BuildFailure::new(reason, message))
        }
    }
}

/// The blobs stay where they are: links lead to them.
fn from_folder(folder: &Path, layout: &Path) -> io::Result<Digest> {
    let mut document = Vec::new();
    // Not a pipe: whoever opens one may wait for ever.
    let file = below(folder, Path::new("index.json"))
        .filter(|file| file.is_file())
        .ok_or_else(|| io::Error::other("the folder has no index.json"))
        .and_then(fs::File::open)?;
    file.take(DOCUMENT_LIMIT).read_to_end(&mut document)?;
    for (number, entry) in fs::read_dir(folder.join(BLOBS))?.enumerate() {
        if number > BLOBS_LIMIT {
            return Err(io::Error::other(format!("it has more than {BLOBS_LIMIT} blobs")));
        }
        let name = entry?.file_name();
        let is_digest =
            name.to_str().is_some_and(|name| Digest::try_from(format!("sha256:{name}")).is_ok());
        // A link out of the source is not an image's blob.
        let Some(real) =
            below(folder, &Path::new(BLOBS).join(&name)).filter(|real| is_digest && real.is_file())
        else {
            continue;
        };
        symlink(real, layout.join(BLOBS).join(&name))?;
    }
    root(&document, layout)
}

fn from_tar(file: &Path, layout: &Path) -> io::Result<Digest> {
    let mut tar = ImageTar::open(fs::File::open(file)?)?;
    if tar.names().any(|name| name == "index.json") {
        let document = tar.document("index.json")?;
        fs::remove_dir_all(layout)?;
        oci_layout::unpack(&mut tar, layout)?;
        return root(&document, layout);
    }
    let images: Vec<SavedImage> = serde_json::from_slice(&tar.document("manifest.json")?)?;
    let [image] = images.as_slice() else {
        return Err(io::Error::other(format!("it holds {} images; save one alone", images.len())));
    };
    let config = keep(layout, &mut tar.document(&image.config)?.as_slice())?;
    let mut layers = Vec::new();
    for layer in &image.layers {
        let mut magic = [0; 4];
        let length = tar.reader(layer)?.read(&mut magic)?;
        let media_type = match &magic[..length] {
            [0x1f, 0x8b, ..] => "application/vnd.oci.image.layer.v1.tar+gzip",
            [0x28, 0xb5, 0x2f, 0xfd] => "application/vnd.oci.image.layer.v1.tar+zstd",
            _ => "application/vnd.oci.image.layer.v1.tar",
        };
        let (digest, size) = keep(layout, &mut tar.reader(layer)?)?;
        layers.push(json!({ "mediaType": media_type, "digest": digest, "size": size }));
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.0, "size": config.1 },
        "layers": layers,
    });
    Ok(keep(layout, &mut manifest.to_string().as_bytes())?.0)
}

/// The one manifest of an index, or the index itself as a blob: then BuildKit picks by platform.
fn root(index: &[u8], layout: &Path) -> io::Result<Digest> {
    let manifests = serde_json::from_slice::<Index>(index)?.manifests;
    let Some(first) = manifests.first() else {
        return Err(io::Error::other("its index.json lists no manifest"));
    };
    let digest = if manifests.iter().all(|manifest| manifest.digest == first.digest) {
        first.digest.clone()
    } else {
        keep(layout, &mut &*index)?.0
    };
    if layout.join(blob(&digest)).exists() {
        return Ok(digest);
    }
    Err(io::Error::other(format!("it has no blob {digest}, which its index.json lists")))
}

/// Keeps a blob under its digest.
fn keep(layout: &Path, content: &mut impl Read) -> io::Result<(Digest, u64)> {
    let partial = layout.join("partial");
    let (digest, size) = copy(content, &partial)?;
    fs::rename(&partial, layout.join(blob(&digest)))?;
    Ok((digest, size))
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write, os::unix::fs::symlink, path::Path};

    use serde_json::{Value, json};

    use super::{Digest, FailureReason, keep, prepare};
    use crate::runner::oci_layout::blob;

    fn tar(folder: &Path, members: &[(&str, &[u8])], links: &[(&str, &str)]) -> std::path::PathBuf {
        let path = folder.join("image.tar");
        let mut builder = tar::Builder::new(fs::File::create(&path).unwrap());
        for (name, content) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        for (name, target) in links {
            let mut header = tar::Header::new_gnu();
            header.set_size(0);
            header.set_entry_type(tar::EntryType::Symlink);
            builder.append_link(&mut header, name, target).unwrap();
        }
        builder.into_inner().unwrap().flush().unwrap();
        path
    }

    fn manifest(layout: &Path, digest: &Digest) -> Value {
        serde_json::from_slice(&fs::read(layout.join(blob(digest))).unwrap()).unwrap()
    }

    #[test]
    fn what_docker_saves_becomes_a_layout_with_layers_as_they_are_stored() {
        let folder = tempfile::tempdir().unwrap();
        let saved = json!([{ "Config": "abc.json", "RepoTags": null, "Layers": ["one/layer.tar", "two.tar.gz", "three/layer.tar"] }]);
        let file = tar(
            folder.path(),
            &[
                ("manifest.json", saved.to_string().as_bytes()),
                ("abc.json", b"{\"os\":\"linux\"}"),
                ("one/layer.tar", b"first"),
                ("two.tar.gz", b"\x1f\x8bsecond"),
            ],
            &[("three/layer.tar", "../one/layer.tar")],
        );
        let layout = folder.path().join("layout");
        let image = prepare("base", "image.tar", &file, &layout).unwrap();
        let manifest = manifest(&layout, &image.digest);
        let types: Vec<_> = manifest["layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|layer| layer["mediaType"].as_str().unwrap())
            .collect();
        let plain = "application/vnd.oci.image.layer.v1.tar";
        assert_eq!(types, [plain, "application/vnd.oci.image.layer.v1.tar+gzip", plain]);
        assert_eq!(manifest["layers"][0]["digest"], manifest["layers"][2]["digest"]);
        for part in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
            let digest = Digest::try_from(part["digest"].as_str().unwrap().to_owned()).unwrap();
            assert_eq!(
                fs::metadata(layout.join(blob(&digest))).unwrap().len(),
                part["size"].as_u64().unwrap()
            );
        }
    }

    #[test]
    fn a_layout_is_linked_to_and_several_manifests_stay_an_index() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let source = root.join("source");
        fs::create_dir_all(source.join("blobs/sha256")).unwrap();
        let (first, _) = keep(&source, &mut &b"{}"[..]).unwrap();
        let (second, _) = keep(&source, &mut &b"{ }"[..]).unwrap();
        fs::write(root.join("outside"), "credentials").unwrap();
        symlink(root.join("outside"), source.join("blobs/sha256").join("0".repeat(64))).unwrap();

        let one = json!({ "manifests": [{ "digest": first }] }).to_string();
        fs::write(source.join("index.json"), &one).unwrap();
        let image = prepare("base", "source", &source, &root.join("one")).unwrap();
        assert_eq!(image.digest, first);
        assert!(
            !root.join("one/blobs/sha256").join("0".repeat(64)).exists(),
            "a link out of the source is left out"
        );

        let two = json!({ "manifests": [{ "digest": first }, { "digest": second }] }).to_string();
        fs::write(source.join("index.json"), &two).unwrap();
        let image = prepare("base", "source", &source, &root.join("two")).unwrap();
        assert_eq!(fs::read_to_string(root.join("two").join(blob(&image.digest))).unwrap(), two);
    }

    #[test]
    fn what_is_no_image_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("empty")).unwrap();
        fs::write(folder.path().join("text"), "hello").unwrap();
        let two = tar(
            folder.path(),
            &[(
                "manifest.json",
                b"[{\"Config\":\"a\",\"Layers\":[]},{\"Config\":\"a\",\"Layers\":[]}]",
            )],
            &[],
        );
        for (number, (found, words)) in [
            (folder.path().join("empty"), "the folder has no index.json"),
            (folder.path().join("text"), "is no image"),
            (two, "it holds 2 images; save one alone"),
        ]
        .into_iter()
        .enumerate()
        {
            let failure =
                prepare("base", "x", &found, &folder.path().join(format!("layout-{number}")))
                    .unwrap_err();
            assert_eq!(failure.reason, FailureReason::FileInvalid);
            assert!(
                failure.message.contains(words) && failure.message.contains("imageArgs.base"),
                "{}",
                failure.message
            );
        }
    }
}
