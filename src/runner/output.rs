//! The files that a build leaves on its output volume: `image.tar`, `digest`, `result.json`. Each appears whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path, PathBuf},
};

use rustix::fs::OFlags;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{
    buildctl::Sink,
    result::{BuildFailure, BuildResult, WrittenTar},
};
use crate::{
    api::FailureReason,
    plan::{Digest, instructions::OutputInstructions},
};

const TAR: &str = "image.tar";
const CHUNK: usize = 1 << 20;
/// A manifest is some kilobytes; the distribution specification asks registries to take 4 MiB.
const MANIFEST_LIMIT: u64 = 4 << 20;

/// A tar that is being written beside its final name.
pub struct TarWriter {
    folder: PathBuf,
    partial: PathBuf,
    shown: String,
    file: File,
    hash: Sha256,
    size: u64,
}

impl TarWriter {
    /// Makes the folder and the partial file. The name of the build keeps the partial files of others apart.
    pub fn create(output: &OutputInstructions, build: &str) -> Result<Self, BuildFailure> {
        let failed = |error: io::Error| {
            BuildFailure::new(storage_reason(&error), format!("the output folder {:?} cannot be written: {error}", output.path))
        };
        let folder = make_folder(&output.root, &output.path).map_err(failed)?;
        let partial = folder.join(format!(".{TAR}.partial-{}", build.replace('/', "-")));
        // What an attempt left that was killed; no other attempt of this build runs.
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let file = create_new(&partial).map_err(failed)?;
        let shown = Path::new(&output.path).join(TAR).to_string_lossy().into_owned();
        Ok(Self { folder, partial, shown, file, hash: Sha256::new(), size: 0 })
    }

    /// Gives the tar its name, now that the build has succeeded.
    pub fn finish(mut self) -> io::Result<(WrittenTar, Contents)> {
        self.file.sync_all()?;
        let contents = read_contents(&mut self.file);
        fs::rename(&self.partial, self.folder.join(TAR))?;
        let sha256 = hex::encode(std::mem::replace(&mut self.hash, Sha256::new()).finalize());
        let size = i64::try_from(self.size).map_err(io::Error::other)?;
        Ok((WrittenTar { path: self.shown.clone(), size, sha256, format: "docker".to_owned() }, contents))
    }
}

impl Sink for TarWriter {
    fn take(&mut self, mut output: File) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = match output.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.hash.update(&buffer[..read]);
            self.file.write_all(&buffer[..read])?;
            self.size += read as u64;
        }
    }
}

impl Drop for TarWriter {
    fn drop(&mut self) {
        // Renamed already where all went well.
        let _ = fs::remove_file(&self.partial);
    }
}

/// Whether an error is that of a full volume.
pub fn storage_reason(error: &io::Error) -> FailureReason {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FailureReason::StorageFull,
        _ => FailureReason::Internal,
    }
}

/// Writes the task's `digest` file, without a newline as the peer does, and `result.json`.
pub fn write_beside(folder: &Path, digest: &Digest, result: &BuildResult) -> io::Result<()> {
    write_whole(folder, "digest", digest.as_str().as_bytes())?;
    write_whole(folder, "result.json", &serde_json::to_vec_pretty(result)?)
}

fn write_whole(folder: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let partial = folder.join(format!(".{name}.partial"));
    let _ = fs::remove_file(&partial);
    create_new(&partial)?.write_all(content)?;
    fs::rename(partial, folder.join(name))
}

/// Never through a link that somebody left on the volume.
fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o644)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

/// Makes the folder below the volume's root; a link on the volume must not lead out of it.
fn make_folder(root: &Path, path: &str) -> io::Result<PathBuf> {
    let root = root.canonicalize()?;
    let mut folder = root.clone();
    for component in Path::new(path).components() {
        match component {
            Component::CurDir => {}
            Component::Normal(name) => {
                match fs::create_dir(folder.join(name)) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                    _ => {}
                }
                folder = folder.join(name).canonicalize()?;
                if !folder.starts_with(&root) {
                    return Err(io::Error::other("a link leads out of the volume"));
                }
            }
            _ => return Err(io::Error::other("the path leads out of the volume")),
        }
    }
    Ok(folder)
}

/// What the tar says about its image.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Bytes of configuration and layers, if the tar holds one manifest.
    pub size: Option<i64>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: Digest,
    size: i64,
}

/// Reads the index and its manifest; the layers are passed over, not read.
fn read_contents(tar: &mut File) -> Contents {
    let mut size = || -> Option<i64> {
        let index: Index = member(tar, "index.json")?;
        let [manifest] = index.manifests.as_slice() else { return None };
        let manifest: Manifest = member(tar, &format!("blobs/sha256/{}", manifest.digest.hex()))?;
        Some(manifest.config.size + manifest.layers.iter().map(|layer| layer.size).sum::<i64>())
    };
    Contents { size: size() }
}

fn member<T: serde::de::DeserializeOwned>(tar: &mut File, name: &str) -> Option<T> {
    tar.rewind().ok()?;
    let mut archive = tar::Archive::new(tar);
    let mut entries = archive.entries_with_seek().ok()?;
    let entry = entries.find_map(|entry| entry.ok().filter(|entry| entry.path().is_ok_and(|path| path == Path::new(name))))?;
    serde_json::from_reader(entry.take(MANIFEST_LIMIT)).ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::{OutputInstructions, TarWriter, make_folder};

    #[test]
    fn a_tar_that_is_not_finished_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let output = OutputInstructions { root: root.path().to_owned(), path: "a/b".to_owned() };
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        fs::write(root.path().join("a/b/.image.tar.partial-team-app"), "of a killed attempt").unwrap();
        fs::write(root.path().join("a/b/image.tar"), "of the generation before").unwrap();
        drop(TarWriter::create(&output, "team/app").unwrap());
        let left: Vec<_> = fs::read_dir(root.path().join("a/b")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["image.tar"]);
        assert_eq!(fs::read_to_string(root.path().join("a/b/image.tar")).unwrap(), "of the generation before");
    }

    #[test]
    fn links_on_the_volume_lead_nowhere_outside_it() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), root.path().join("out")).unwrap();
        assert!(make_folder(root.path(), "out/x").is_err() && make_folder(root.path(), "../x").is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        symlink(outside.path().join("stolen"), root.path().join(".image.tar.partial-team-app")).unwrap();
        let output = OutputInstructions { root: root.path().to_owned(), path: String::new() };
        TarWriter::create(&output, "team/app").unwrap();
        assert!(!outside.path().join("stolen").exists());
    }
}
