//! The folders that a task declares as outputs. Concourse keeps them even when the task fails: half an image is none.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    api::OutputFormat,
    client::transfer::{Transfer, TransferError, partial_name},
    plan::Digest,
    runner::{
        image_tar::ImageTar,
        oci_layout,
        output::{DIGEST, LAYOUT, METADATA, ROOTFS, TAR, TARGETS, is_of_a_build, remove},
        result::{BuiltImage, WrittenTar},
    },
};

/// Folder of the main target's files.
const OUTPUT: &str = "image";
/// How often what is left is looked for: a file that is being unpacked may come while others go.
const SWEEPS: u32 = 50;

/// The declared outputs: they are there before the task runs.
pub struct Outputs {
    main: Option<PathBuf>,
    targets: BTreeMap<String, PathBuf>,
}

/// What is known of the files of one target.
struct Files<'a> {
    tar: Option<&'a WrittenTar>,
    digest: &'a Digest,
    config_digest: Option<&'a Digest>,
}

impl Outputs {
    /// Looks for the folders that are there.
    pub fn find(folder: &Path, targets: &[String]) -> Self {
        let declared = |name: &str| Some(folder.join(name)).filter(|path| path.is_dir());
        Self {
            main: declared(OUTPUT),
            targets: targets
                .iter()
                .filter_map(|target| Some((target.clone(), declared(target)?)))
                .collect(),
        }
    }

    /// Whether there is no folder for any file.
    pub fn is_empty(&self) -> bool {
        self.main.is_none() && self.targets.is_empty()
    }

    /// Brings the files of an image and of its additional targets, as far as there are folders for them.
    pub async fn fetch(
        &self,
        transfer: &mut Transfer,
        image: &BuiltImage,
        rootfs: bool,
    ) -> Result<(), TransferError> {
        // What an earlier run left must not be taken for this one's.
        self.clear();
        if let Some(folder) = &self.main {
            let files = Files {
                tar: image.tar.as_ref(),
                digest: &image.digest,
                config_digest: image.config_digest.as_ref(),
            };
            fetch(transfer, Path::new(""), folder, &files, rootfs).await?;
        }
        for additional in &image.additional {
            if let Some(folder) = self.targets.get(&additional.target) {
                let below = Path::new(TARGETS).join(&additional.target);
                let (tar, config_digest) =
                    (additional.tar.as_ref(), additional.config_digest.as_ref());
                let files = Files { tar, digest: &additional.digest, config_digest };
                fetch(transfer, &below, folder, &files, rootfs).await?;
            }
        }
        Ok(())
    }

    /// Takes away what the task has written, and what an earlier run left: a task that failed leaves no image.
    pub fn clear(&self) {
        for folder in self.main.iter().chain(self.targets.values()) {
            let is_ours = |name: &&str| match *name {
                LAYOUT | ROOTFS => is_of_a_build(folder, name),
                METADATA => is_of_a_build(folder, ROOTFS),
                _ => true,
            };
            let names = [TAR, DIGEST, LAYOUT, METADATA, ROOTFS];
            let ours: Vec<&str> = names.into_iter().filter(is_ours).collect();
            let partial = names.into_iter().map(|name| partial_name(&folder.join(name)));
            for path in partial.chain(ours.into_iter().map(|name| folder.join(name))) {
                for _ in 0..SWEEPS {
                    let Ok(found) = path.symlink_metadata() else { break };
                    let removed =
                        if found.is_dir() { remove(&path) } else { fs::remove_file(&path) };
                    if removed.is_err() {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                }
            }
        }
    }
}

/// Brings the files of one target, the digest last.
async fn fetch(
    transfer: &mut Transfer,
    below: &Path,
    folder: &Path,
    files: &Files<'_>,
    rootfs: bool,
) -> Result<(), TransferError> {
    let Some(tar) = files.tar else { return Ok(()) };
    let remote = |name: &str| below.join(name).to_string_lossy().into_owned();
    let here = |error: io::Error| TransferError::File { path: folder.to_owned(), error };
    transfer
        .download(&remote(TAR), &folder.join(TAR), tar.size.unsigned_abs(), &tar.sha256)
        .await?;
    if tar.format == OutputFormat::Oci {
        let (file, layout) = (folder.join(TAR), folder.join(LAYOUT));
        let unpacking = tokio::task::spawn_blocking(move || {
            let partial = partial_name(&layout);
            oci_layout::unpack(&mut ImageTar::open(fs::File::open(file)?)?, &partial)?;
            fs::rename(partial, layout)
        });
        unpacking.await.map_err(io::Error::other).flatten().map_err(here)?;
    }
    if rootfs {
        let metadata = transfer.document(&remote(METADATA)).await?;
        transfer.folder(&remote(ROOTFS), &folder.join(ROOTFS)).await?;
        fs::write(folder.join(METADATA), metadata).map_err(here)?;
    }
    let of_task =
        files.config_digest.filter(|_| tar.format == OutputFormat::Docker).unwrap_or(files.digest);
    fs::write(folder.join(DIGEST), of_task.as_str()).map_err(here)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::Outputs;

    fn left(files: &[&str]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join("image").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        Outputs::find(folder.path(), &[]).clear();
        let entries = fs::read_dir(folder.path().join("image")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_a_build_left_is_taken_away_and_a_folder_of_somebody_elses_is_not() {
        let of_a_build = [
            "image.tar",
            "digest",
            "metadata.json",
            "rootfs/bin/sh",
            "image/oci-layout",
            ".image.tar.partial",
        ];
        assert_eq!(left(&of_a_build), [""; 0]);
        assert_eq!(
            left(&["Dockerfile", "rootfs/mine", "image/logo.png"]),
            ["Dockerfile", "image", "rootfs"]
        );
        assert_eq!(left(&["metadata.json", "image.tar"]), ["metadata.json"]);
    }
}
