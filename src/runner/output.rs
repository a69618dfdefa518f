//! The files that a build leaves on its output volume: `image.tar` and `digest`, the OCI layout `image`, `rootfs` and
//! `metadata.json`, the same for each further target below `targets`, and `result.json`. They are made in a folder beside and
//! appear when all of them are whole.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, BufReader, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Component, Path, PathBuf},
};

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use super::{
    result::{BuildFailure, BuildResult},
    unpack::{Devices, unpack_stream},
};
use crate::{
    api::{FailureReason, OutputFormat},
    plan::instructions::{ImageForm, OutputInstructions},
};

/// The image's tar.
pub const TAR: &str = "image.tar";
/// The task's digest file.
pub const DIGEST: &str = "digest";
/// The OCI layout.
pub const LAYOUT: &str = "image";
/// The image's files.
pub const ROOTFS: &str = "rootfs";
/// Environment and user of the image.
pub const METADATA: &str = "metadata.json";
/// The further targets, a folder each.
pub const TARGETS: &str = "targets";
const CHUNK: usize = 1 << 20;

/// The output folder, and the folder beside where its files are made.
pub struct Staging {
    folder: PathBuf,
    partial: PathBuf,
    shown: PathBuf,
}

impl Staging {
    /// Makes both folders. The name of the build keeps its unfinished files apart from those of others. What is in the place
    /// of a folder that will be written, and that no build has made, is somebody's: then nothing is built.
    pub fn create(
        output: &OutputInstructions,
        build: &str,
        image: &ImageForm,
        stages: &[String],
    ) -> Result<Self, BuildFailure> {
        let failed = |error: io::Error| {
            let message = format!("the output folder {:?} cannot be written: {error}", output.path);
            let reason = match error.kind() {
                // A link that leads nowhere or out of the volume, a file in the place of a folder, a folder of somebody else's.
                io::ErrorKind::InvalidInput
                | io::ErrorKind::NotFound
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::PermissionDenied
                | io::ErrorKind::ReadOnlyFilesystem => FailureReason::OutputInvalid,
                _ => storage_reason(&error),
            };
            BuildFailure::new(reason, message)
        };
        let folder = make_folder(&output.root, &output.path).map_err(failed)?;
        if let Some(obstacle) = obstacle(&folder, image, stages) {
            let message = format!(
                "the output folder {:?} {obstacle}; choose another output path or move it away",
                output.path
            );
            return Err(BuildFailure::new(FailureReason::OutputInvalid, message));
        }
        let partial = folder.join(format!(".ocibuild-partial-{}", build.replace('/', "-")));
        // What an attempt left that was killed; no other attempt of this build runs.
        remove(&partial).map_err(failed)?;
        fs::create_dir(&partial).map_err(failed)?;
        Ok(Self { folder, partial, shown: PathBuf::from(&output.path) })
    }

    /// The folder of a target's unfinished files, and where they will be, as status shows it.
    pub fn target(&self, stage: Option<&str>) -> io::Result<(PathBuf, PathBuf)> {
        let Some(stage) = stage else { return Ok((self.partial.clone(), self.shown.clone())) };
        let below = Path::new(TARGETS).join(stage);
        let folder = self.partial.join(&below);
        fs::create_dir_all(&folder)?;
        Ok((folder, self.shown.join(below)))
    }

    /// Puts everything in its place, and takes away what an earlier build left and this one has not made.
    pub fn publish(self) -> io::Result<()> {
        let published = self.put_in_place();
        if published.is_err() {
            self.put_back();
        }
        published
    }

    /// The folders of the build before, where this one's have not taken their places.
    fn put_back(&self) {
        for name in [METADATA, ROOTFS, LAYOUT] {
            let (old, place) = (self.partial.join(format!("old-{name}")), self.folder.join(name));
            if place.symlink_metadata().is_err() {
                let _ = fs::rename(old, place);
            }
        }
    }

    fn put_in_place(&self) -> io::Result<()> {
        // Builds that share a folder put their files there one after the other. A volume without locks does without.
        let lock = File::open(&self.folder)?;
        let _ = rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive);
        for name in [LAYOUT, ROOTFS] {
            if is_of_a_build(&self.folder, name) {
                // Away from the place first: a folder cannot be renamed over one that has files.
                move_folder(&self.folder.join(name), &self.partial.join(format!("old-{name}")))?;
                if name == ROOTFS {
                    fs::rename(
                        self.folder.join(METADATA),
                        self.partial.join(format!("old-{METADATA}")),
                    )?;
                }
            }
        }
        let targets = self.partial.join(TARGETS);
        if targets.is_dir() {
            let there = self.folder.join(TARGETS);
            fs::create_dir_all(&there)?;
            for entry in fs::read_dir(&targets)? {
                let name = entry?.file_name();
                let old = there.join(&name);
                if is_target(&old) {
                    fs::rename(&old, self.partial.join("old-target"))?;
                    remove(&self.partial.join("old-target"))?;
                }
                fs::rename(targets.join(&name), old)?;
            }
        }
        // By metadata.json a later build knows that rootfs is a build's: it comes first.
        for name in [METADATA, ROOTFS, LAYOUT, TAR, DIGEST] {
            let (made, place) = (self.partial.join(name), self.folder.join(name));
            if made.is_dir() {
                move_folder(&made, &place)?;
            } else if made.is_file() {
                fs::rename(made, place)?;
            }
        }
        File::open(&self.folder)?.sync_all()
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = remove(&self.partial);
    }
}

/// What of the output folder is in the way of an image's files: what no build has made, and what this one cannot move.
fn obstacle(folder: &Path, image: &ImageForm, stages: &[String]) -> Option<String> {
    let metadata = |path: &Path| path.symlink_metadata().ok();
    for name in [TAR, DIGEST, METADATA] {
        if metadata(&folder.join(name)).is_some_and(|found| found.is_dir()) {
            return Some(format!("holds a folder {name:?} in the place of a file"));
        }
    }
    let user = rustix::process::geteuid();
    for (name, is_wanted) in
        [(LAYOUT, image.format == OutputFormat::Oci), (ROOTFS, image.unpack_rootfs)]
    {
        let Some(found) = metadata(&folder.join(name)) else { continue };
        match is_of_a_build(folder, name) {
            true if found.uid() != user.as_raw() && !user.is_root() => {
                return Some(format!(
                    "holds {name:?} of another user, which user {} cannot replace",
                    user.as_raw()
                ));
            }
            false if is_wanted => return Some(format!("holds {name:?}, which no build has made")),
            _ => {}
        }
    }
    let targets = folder.join(TARGETS);
    if !stages.is_empty() && metadata(&targets).is_some_and(|found| !found.is_dir()) {
        return Some(format!("holds {TARGETS:?}, which is no folder"));
    }
    let in_the_way = |stage: &&String| {
        metadata(&targets.join(stage)).is_some() && !is_target(&targets.join(stage))
    };
    let found = stages.iter().find(in_the_way)?;
    Some(format!("holds {:?}, which no build has made", format!("{TARGETS}/{found}")))
}

/// A folder can be moved only by who may write to it.
fn move_folder(from: &Path, to: &Path) -> io::Result<()> {
    let mode = fs::metadata(from)?.permissions().mode();
    fs::set_permissions(from, Permissions::from_mode(mode | 0o700))?;
    fs::rename(from, to)
}

/// Whether a folder was made by a build: an OCI layout says so itself, `rootfs` by the file that is written with it.
pub fn is_of_a_build(folder: &Path, name: &str) -> bool {
    let is_folder = folder.join(name).symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
    is_folder
        && if name == LAYOUT {
            folder.join(name).join("oci-layout").is_file()
        } else {
            folder.join(METADATA).is_file()
        }
}

fn is_target(folder: &Path) -> bool {
    folder.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
        && folder.join(DIGEST).is_file()
}

/// Removes a folder with all that is in it, folders among it that may not be written to: those of an image can be.
pub fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            make_writable(folder)?;
            fs::remove_dir_all(folder)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn make_writable(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_writable(&entry.path())?;
        }
    }
    Ok(())
}

/// A tar that was written.
pub struct TarFile {
    /// The file, open for reading.
    pub file: File,
    /// Bytes.
    pub size: u64,
    /// SHA-256 in hexadecimal digits.
    pub sha256: String,
}

/// Writes `image.tar` as it comes; what it was written for syncs it.
pub fn write_tar(folder: &Path, mut stream: impl Read) -> io::Result<TarFile> {
    let mut file = create_new(&folder.join(TAR))?;
    let mut hash = Sha256::new();
    let mut size = 0;
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hash.update(&buffer[..read]);
        file.write_all(&buffer[..read])?;
        size += read as u64;
    }
    Ok(TarFile { file, size, sha256: hex::encode(hash.finalize()) })
}

/// Writes `rootfs` as its tar comes; how many devices were left out.
pub fn write_rootfs(folder: &Path, stream: impl Read) -> io::Result<u64> {
    let root = folder.join(ROOTFS);
    fs::create_dir(&root)?;
    // Without the setgid bit of the volume, which what is unpacked would inherit.
    fs::set_permissions(&root, Permissions::from_mode(0o755))?;
    let mut stream = BufReader::with_capacity(CHUNK, stream);
    let left_out = unpack_stream(&mut stream, &root, Devices::LeaveOut)?;
    // What follows the archive's end must be taken, or BuildKit could not end.
    io::copy(&mut stream, &mut io::sink())?;
    Ok(left_out)
}

/// Whether an error is that of a full volume.
pub fn storage_reason(error: &io::Error) -> FailureReason {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FailureReason::StorageFull,
        _ => FailureReason::Internal,
    }
}

/// Writes `result.json` beside the tar.
pub fn write_result(folder: &Path, result: &BuildResult) -> io::Result<()> {
    let partial = folder.join(".result.json.partial");
    let _ = fs::remove_file(&partial);
    create_new(&partial)?.write_all(&serde_json::to_vec_pretty(result)?)?;
    fs::rename(partial, folder.join("result.json"))
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
    let leads_out = |what| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{what} leads out of the volume"))
    };
    let root = root.canonicalize()?;
    let mut folder = root.clone();
    for component in Path::new(path).components() {
        match component {
            Component::CurDir => {}
            Component::Normal(name) => {
                match fs::create_dir(folder.join(name)) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(error);
                    }
                    _ => {}
                }
                folder = folder.join(name).canonicalize()?;
                if !folder.starts_with(&root) {
                    return Err(leads_out("a link"));
                }
            }
            _ => return Err(leads_out("the path")),
        }
    }
    Ok(folder)
}

#[cfg(test)]
mod tests;
