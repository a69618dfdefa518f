//! Packs what a build can use of a folder: the context without what its `.dockerignore` leaves out, the Dockerfile, and the files
//! that the spec names. One tar, compressed by zstd, checked by its SHA-256 where it arrives.

use std::{
    collections::HashSet,
    fs::{File, Metadata},
    io::{self, BufWriter, Read, Write},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Component, Path, PathBuf},
};

use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use crate::ignore::{
    Filter, IgnoreFile, IgnoreFileError, InvalidPattern, MAX_IGNORE_FILE_BYTES, Walk,
    parse_ignore_file,
};

/// Level of zstd: quicker than any network that leads to a cluster, and a third of the bytes of a source tree.
const LEVEL: i32 = 1;
const BUFFER: usize = 1 << 17;
/// Bytes of a block as `stat` counts them.
const BLOCK: u64 = 512;

/// Which files a build can use. Paths are relative to the folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Build context.
    pub context: String,
    /// Dockerfile, if one is named: below the folder, else below the context.
    pub dockerfile: Option<String>,
    /// Further files and folders that the spec names.
    pub files: Vec<String>,
}

/// A packed archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Bytes of the archive.
    pub size: u64,
    /// Its SHA-256 in hexadecimal digits.
    pub sha256: String,
    /// Files, folders and links in it.
    pub entries: u64,
    /// Sockets, pipes and devices that were passed over.
    pub left_out: u64,
}

/// Why a folder cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A path that leaves the folder.
    #[error("{0:?} is outside the task's folder; name inputs by their relative paths")]
    Outside(String),
    /// No folder where the context should be.
    #[error("CONTEXT: there is no folder {0:?} in the task's folder")]
    NoContext(String),
    /// No Dockerfile in any of the places where it may be.
    #[error("there is no Dockerfile: {0} a file of the task's folder")]
    NoDockerfile(String),
    /// A `.dockerignore` that cannot be read.
    #[error("{path}: {error}")]
    Ignore {
        /// The file.
        path: String,
        /// What is wrong with it.
        error: IgnoreFileError,
    },
    /// A file that cannot be read.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// A file that has another length than it had when its turn came.
    #[error(
        "{path}: its length changed while it was packed; let the inputs be while the task runs"
    )]
    Changed {
        /// The file.
        path: String,
    },
    /// The archive cannot be written.
    #[error("the archive of the source cannot be written to TMPDIR: {0}")]
    Write(io::Error),
}

/// Whether the context and the Dockerfile of a selection are there.
pub fn check(folder: &Path, selection: &Selection) -> Result<(), PackError> {
    context_and_dockerfile(folder, selection).map(drop)
}

fn context_and_dockerfile(
    folder: &Path,
    selection: &Selection,
) -> Result<(PathBuf, PathBuf), PackError> {
    let context = inside(&selection.context)?;
    if !folder.join(&context).is_dir() {
        return Err(PackError::NoContext(selection.context.clone()));
    }
    let dockerfile = dockerfile(folder, &context, selection.dockerfile.as_deref())?;
    Ok((context, dockerfile))
}

/// Packs the selection of a folder.
pub fn pack(folder: &Path, selection: &Selection, to: impl Write) -> Result<Archive, PackError> {
    let mut packer = Packer {
        folder,
        builder: tar::Builder::new(
            zstd::Encoder::new(Counted::new(BufWriter::with_capacity(BUFFER, to)), LEVEL)
                .map_err(PackError::Write)?,
        ),
        seen: HashSet::new(),
        left_out: HashSet::new(),
    };
    packer.builder.follow_symlinks(false);
    let (context, dockerfile) = context_and_dockerfile(folder, selection)?;
    // An empty context is one too.
    packer.folder(&context)?;
    let ignored = read_ignore_file(folder, &context, &dockerfile)?;
    packer.context(&context, &ignored)?;
    let beside = PathBuf::from(format!("{}.dockerignore", dockerfile.display()));
    for path in [dockerfile, beside, context.join(".dockerignore")] {
        packer.file(&path)?;
    }
    for path in &selection.files {
        packer.tree(&inside(path)?)?;
    }
    packer.finish()
}

/// A relative path in its shortest form.
fn inside(path: &str) -> Result<PathBuf, PackError> {
    let mut shortest = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(part) => shortest.push(part),
            Component::CurDir => {}
            Component::ParentDir if shortest.pop() => {}
            _ => return Err(PackError::Outside(path.to_owned())),
        }
    }
    Ok(shortest)
}

/// Below the folder, else below the context; what is in neither place is not waited for.
fn dockerfile(folder: &Path, context: &Path, named: Option<&str>) -> Result<PathBuf, PackError> {
    let candidates = match named {
        None => vec![context.join("Dockerfile")],
        Some(named) => {
            let named = inside(named)?;
            let mut candidates = vec![named.clone(), context.join(named)];
            candidates.dedup();
            candidates
        }
    };
    let found = candidates.iter().find(|path| folder.join(path).is_file());
    let shown = || match candidates.as_slice() {
        [one] => format!("{:?} is not", one.display().to_string()),
        all => format!(
            "neither {} is",
            all.iter()
                .map(|path| format!("{:?}", path.display().to_string()))
                .collect::<Vec<_>>()
                .join(" nor ")
        ),
    };
    found.cloned().ok_or_else(|| PackError::NoDockerfile(shown()))
}

/// The `.dockerignore` of a build.
struct Ignored {
    /// Path as errors show it.
    path: String,
    file: IgnoreFile,
}

impl Ignored {
    fn filter(&self) -> Result<Filter, PackError> {
        Filter::new(&[], self.file.patterns.as_slice()).map_err(|error| self.invalid(error))
    }

    fn invalid(&self, error: InvalidPattern) -> PackError {
        PackError::Ignore { path: self.path.clone(), error: self.file.locate(error) }
    }
}

/// Reads `<Dockerfile>.dockerignore`, or else the `.dockerignore` of the context, as BuildKit does.
fn read_ignore_file(
    folder: &Path,
    context: &Path,
    dockerfile: &Path,
) -> Result<Ignored, PackError> {
    let candidates = [
        PathBuf::from(format!("{}.dockerignore", dockerfile.display())),
        context.join(".dockerignore"),
    ];
    for path in candidates {
        let full = folder.join(&path);
        let path = path.display().to_string();
        match full.metadata() {
            // Opening a named pipe would wait until another process writes to it.
            Ok(metadata) if !metadata.is_file() => continue,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                continue;
            }
            Err(error) => return Err(PackError::Read { path, error }),
            Ok(_) => {}
        }
        let mut content = Vec::new();
        File::open(full)
            .and_then(|file| file.take(MAX_IGNORE_FILE_BYTES + 1).read_to_end(&mut content))
            .map_err(|error| PackError::Read { path: path.clone(), error })?;
        return match parse_ignore_file(&content) {
            Ok(file) => Ok(Ignored { path, file }),
            Err(error) => Err(PackError::Ignore { path, error }),
        };
    }
    Ok(Ignored { path: String::new(), file: IgnoreFile::default() })
}

struct Packer<'a, W: Write> {
    folder: &'a Path,
    builder: tar::Builder<zstd::Encoder<'static, Counted<W>>>,
    seen: HashSet<PathBuf>,
    left_out: HashSet<PathBuf>,
}

impl<W: Write> Packer<'_, W> {
    /// Packs the files of the context that the `.dockerignore` does not exclude.
    fn context(&mut self, context: &Path, ignored: &Ignored) -> Result<(), PackError> {
        let root = self.folder.join(context);
        let filter = ignored.filter()?;
        let mut filtered = filter.walk();
        let mut walk = WalkDir::new(&root).min_depth(1).sort_by_file_name().into_iter();
        while let Some(entry) = walk.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    check_read_error(&root, &mut filtered, ignored, error)?;
                    continue;
                }
            };
            let Ok(in_context) = entry.path().strip_prefix(&root) else { continue };
            let is_dir = entry.file_type().is_dir();
            let step = filtered
                .visit(in_context.as_os_str().as_bytes(), is_dir, context.join(in_context))
                .map_err(|error| ignored.invalid(error))?;
            for path in step.send {
                self.entry(&path)?;
            }
            if is_dir && !step.descend {
                walk.skip_current_dir();
            }
        }
        Ok(())
    }

    /// A file that may not be there; of a link, what it leads to as well.
    fn file(&mut self, path: &Path) -> Result<(), PackError> {
        let full = self.folder.join(path);
        if full.symlink_metadata().is_err() {
            return Ok(());
        }
        self.entry(path)?;
        let target = self.folder.canonicalize().ok().zip(full.canonicalize().ok());
        if let Some(target) =
            target.and_then(|(folder, target)| target.strip_prefix(folder).map(Path::to_owned).ok())
        {
            self.entry(&target)?;
        }
        Ok(())
    }

    /// A file, or a folder with all that is in it.
    fn tree(&mut self, path: &Path) -> Result<(), PackError> {
        let full = self.folder.join(path);
        if !full.is_dir() {
            return self.file(path);
        }
        for entry in WalkDir::new(&full).sort_by_file_name() {
            let entry = entry.map_err(|error| PackError::Read {
                path: path.display().to_string(),
                error: error.into(),
            })?;
            if entry.depth() == 0 {
                self.folder(path)?;
            } else if let Ok(below) = entry.path().strip_prefix(self.folder) {
                self.entry(below)?;
            }
        }
        Ok(())
    }

    /// A folder without its files; where a link leads to one, that one in the link's place.
    fn folder(&mut self, path: &Path) -> Result<(), PackError> {
        if path.as_os_str().is_empty() || self.seen.contains(path) {
            return Ok(());
        }
        let appended = self.builder.append_dir(path, self.folder.join(path));
        appended.map_err(|error| not_appended(path, error))?;
        self.seen.insert(path.to_owned());
        Ok(())
    }

    fn entry(&mut self, path: &Path) -> Result<(), PackError> {
        let full = self.folder.join(path);
        if path.as_os_str().is_empty() || self.seen.contains(path) {
            return Ok(());
        }
        let kind = full.symlink_metadata().map_err(|error| not_appended(path, error))?.file_type();
        if !kind.is_file() && !kind.is_dir() && !kind.is_symlink() {
            self.left_out.insert(path.to_owned());
            return Ok(());
        }
        if kind.is_file() {
            let file = File::open(&full).map_err(|error| not_appended(path, error))?;
            append_open(&mut self.builder, path, file)?;
        } else {
            self.builder
                .append_path_with_name(&full, path)
                .map_err(|error| not_appended(path, error))?;
        }
        self.seen.insert(path.to_owned());
        Ok(())
    }

    fn finish(self) -> Result<Archive, PackError> {
        let (entries, left_out) = (self.seen.len() as u64, self.left_out.len() as u64);
        let encoder = self.builder.into_inner().map_err(PackError::Write)?;
        let mut counted = encoder.finish().map_err(PackError::Write)?;
        counted.flush().map_err(PackError::Write)?;
        let sha256 = hex::encode(counted.hash.finalize());
        Ok(Archive { size: counted.size, sha256, entries, left_out })
    }
}

/// Returns an error that a walk over the context met, unless the walk can go on without the file.
fn check_read_error(
    root: &Path,
    walk: &mut Walk<'_, PathBuf>,
    ignored: &Ignored,
    error: walkdir::Error,
) -> Result<(), PackError> {
    let path = error.path().unwrap_or(root).to_owned();
    let error = io::Error::from(error);
    let in_context = path.strip_prefix(root).unwrap_or(&path).as_os_str().as_bytes();
    let can_go_on = !in_context.is_empty()
        && walk.ignores(in_context, true, &error).map_err(|error| ignored.invalid(error))?
        && (error.kind() != io::ErrorKind::PermissionDenied || !walk.may_send_below(in_context));
    if can_go_on {
        Ok(())
    } else {
        Err(PackError::Read { path: path.display().to_string(), error })
    }
}

/// A file that has fewer blocks than its length needs may have holes, which the tar crate knows how to leave out.
fn append_open<W: Write>(
    builder: &mut tar::Builder<W>,
    path: &Path,
    mut file: File,
) -> Result<(), PackError> {
    let unread = |error| not_appended(path, error);
    let metadata = file.metadata().map_err(unread)?;
    if metadata.blocks() * BLOCK >= metadata.len() {
        return append_file(builder, path, &metadata, file);
    }
    builder.append_file(path, &mut file).map_err(unread)?;
    // The tar crate reads up to the end, wherever that has come to be.
    if file.metadata().map_err(unread)?.len() == metadata.len() {
        Ok(())
    } else {
        Err(changed(path))
    }
}

/// A file with the length that its metadata tells: what has been written to it since then would be taken for the next entry.
fn append_file<W: Write>(
    builder: &mut tar::Builder<W>,
    path: &Path,
    metadata: &Metadata,
    content: impl Read,
) -> Result<(), PackError> {
    let mut header = tar::Header::new_gnu();
    header.set_metadata(metadata);
    let mut content = content.take(metadata.len());
    builder
        .append_data(&mut header, path, &mut content)
        .map_err(|error| not_appended(path, error))?;
    // A shorter one would swallow the entry behind it.
    if content.limit() == 0 { Ok(()) } else { Err(changed(path)) }
}

fn changed(path: &Path) -> PackError {
    PackError::Changed { path: path.display().to_string() }
}

fn not_appended(path: &Path, error: io::Error) -> PackError {
    match error.kind() {
        // Reading needs no room.
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => PackError::Write(error),
        _ => PackError::Read { path: path.display().to_string(), error },
    }
}

/// Counts and sums what is written.
struct Counted<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W> Counted<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), size: 0 }
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests;
