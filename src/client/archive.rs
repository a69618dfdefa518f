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

use super::ignore::{IgnorePatterns, InvalidPattern, MOST_BYTES};

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
        error: InvalidPattern,
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
    let patterns = ignore_patterns(folder, &context, &dockerfile)?;
    packer.context(&context, &patterns)?;
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

/// `<Dockerfile>.dockerignore` counts before that of the context, as BuildKit reads them.
fn ignore_patterns(
    folder: &Path,
    context: &Path,
    dockerfile: &Path,
) -> Result<IgnorePatterns, PackError> {
    let candidates = [
        PathBuf::from(format!("{}.dockerignore", dockerfile.display())),
        context.join(".dockerignore"),
    ];
    for path in candidates {
        let shown = || path.display().to_string();
        let mut text = Vec::new();
        let full = folder.join(&path);
        // Whoever opens a pipe waits until somebody writes to it.
        if !full.is_file() {
            continue;
        }
        match File::open(full) {
            Ok(file) => file
                .take(MOST_BYTES)
                .read_to_end(&mut text)
                .map_err(|error| PackError::Read { path: shown(), error })?,
            Err(_) => continue,
        };
        let text = String::from_utf8_lossy(&text);
        return IgnorePatterns::parse(&text)
            .map_err(|error| PackError::Ignore { path: shown(), error });
    }
    Ok(IgnorePatterns::default())
}

struct Packer<'a, W: Write> {
    folder: &'a Path,
    builder: tar::Builder<zstd::Encoder<'static, Counted<W>>>,
    seen: HashSet<PathBuf>,
    left_out: HashSet<PathBuf>,
}

impl<W: Write> Packer<'_, W> {
    fn context(&mut self, context: &Path, patterns: &IgnorePatterns) -> Result<(), PackError> {
        let root = self.folder.join(context);
        let can_skip = patterns.takes_nothing_back();
        let mut walk = WalkDir::new(&root).min_depth(1).sort_by_file_name().into_iter();
        while let Some(entry) = walk.next() {
            let entry = entry.map_err(|error| {
                let path = error.path().unwrap_or(&root).display().to_string();
                PackError::Read { path, error: error.into() }
            })?;
            let Ok(in_context) = entry.path().strip_prefix(&root) else { continue };
            if patterns.leaves_out(in_context.as_os_str().as_bytes()) {
                if entry.file_type().is_dir() && can_skip {
                    walk.skip_current_dir();
                }
                continue;
            }
            self.entry(&context.join(in_context))?;
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
mod tests {
    use std::{
        fs::{self, File},
        os::unix::{
            ffi::OsStringExt,
            fs::{MetadataExt, PermissionsExt, symlink},
        },
        path::Path,
    };

    use super::{Archive, PackError, Selection, append_file, append_open, pack};
    use crate::runner::unpack::unpack;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        folder
    }

    fn packed(folder: &Path, selection: &Selection) -> Result<(Archive, Vec<String>), PackError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let archive = pack(folder, selection, file.reopen().unwrap())?;
        assert_eq!(fs::metadata(file.path()).unwrap().len(), archive.size);
        let mut tar =
            tar::Archive::new(zstd::Decoder::new(File::open(file.path()).unwrap()).unwrap());
        let names = tar
            .entries()
            .unwrap()
            .map(|entry| String::from_utf8_lossy(&entry.unwrap().path_bytes()).into_owned());
        Ok((archive, names.collect()))
    }

    fn selection(context: &str, dockerfile: Option<&str>, files: &[&str]) -> Selection {
        Selection {
            context: context.to_owned(),
            dockerfile: dockerfile.map(str::to_owned),
            files: files.iter().map(|file| (*file).to_owned()).collect(),
        }
    }

    #[test]
    fn only_what_the_build_can_use_is_packed() {
        let files = [
            ("source/Dockerfile", ""),
            ("source/.dockerignore", "target\n*.log\nDockerfile\n"),
            ("source/main.rs", ""),
            ("source/build.log", ""),
            ("source/target/huge", ""),
            ("ci/Dockerfile", ""),
            ("ci/Dockerfile.dockerignore", "main.rs\n"),
            ("ci/args.yml", ""),
            ("base/blobs/one", ""),
            ("other/secret", ""),
        ];
        let folder = tree(&files);
        fs::create_dir(folder.path().join("empty")).unwrap();
        for (selection, expected) in [
            (
                selection("source", None, &[]),
                vec!["source", "source/main.rs", "source/Dockerfile", "source/.dockerignore"],
            ),
            (
                selection("empty", Some("ci/Dockerfile"), &[]),
                vec!["empty", "ci/Dockerfile", "ci/Dockerfile.dockerignore"],
            ),
            (
                selection("./source/", Some("ci/Dockerfile"), &["ci/args.yml", "base"]),
                vec![
                    "source",
                    "source/.dockerignore",
                    "source/Dockerfile",
                    "source/build.log",
                    "source/target",
                    "source/target/huge",
                    "ci/Dockerfile",
                    "ci/Dockerfile.dockerignore",
                    "ci/args.yml",
                    "base",
                    "base/blobs",
                    "base/blobs/one",
                ],
            ),
        ] {
            let (mut names, mut expected) =
                (packed(folder.path(), &selection).unwrap().1, expected);
            for name in &mut names {
                *name = name.trim_end_matches('/').to_owned();
            }
            names.sort();
            expected.sort_unstable();
            assert_eq!(names, expected, "{selection:?}");
        }
    }

    #[test]
    fn a_link_to_a_folder_is_a_context_and_an_image_too() {
        let folder =
            tree(&[("real/Dockerfile", ""), ("real/sub/main.rs", ""), ("layout/oci-layout", "")]);
        symlink("real", folder.path().join("link")).unwrap();
        symlink("layout", folder.path().join("base")).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        pack(folder.path(), &selection("link", None, &["base"]), file.reopen().unwrap()).unwrap();
        let root = tempfile::tempdir().unwrap();
        unpack(file.path(), root.path()).unwrap();
        for path in ["link/Dockerfile", "link/sub/main.rs", "base/oci-layout"] {
            assert!(root.path().join(path).is_file(), "{path}");
        }
    }

    #[test]
    fn modes_links_and_strange_names_are_kept_and_sockets_passed_over() {
        let folder = tree(&[("Dockerfile", ""), ("run.sh", ""), ("a b", ""), ("new\nline", "")]);
        let root = folder.path();
        fs::set_permissions(root.join("run.sh"), fs::Permissions::from_mode(0o4751)).unwrap();
        symlink("/etc/passwd", root.join("absolute")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        fs::write(root.join(std::ffi::OsString::from_vec(b"\xff\xfe".to_vec())), "").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let archive = pack(root, &selection(".", None, &[]), file.reopen().unwrap()).unwrap();
        assert_eq!((archive.entries, archive.left_out), (7, 1));
        let mut tar =
            tar::Archive::new(zstd::Decoder::new(File::open(file.path()).unwrap()).unwrap());
        let mut seen = 0;
        for entry in tar.entries().unwrap() {
            let entry = entry.unwrap();
            match entry.path_bytes().as_ref() {
                b"run.sh" => assert_eq!(entry.header().mode().unwrap() & 0o7777, 0o4751),
                b"absolute" => {
                    assert_eq!(entry.link_name_bytes().unwrap().as_ref(), b"/etc/passwd")
                }
                b"dangling" => assert_eq!(entry.link_name_bytes().unwrap().as_ref(), b"nowhere"),
                b"\xff\xfe" | b"new\nline" | b"a b" => {}
                _ => continue,
            }
            seen += 1;
        }
        assert_eq!(seen, 6);
    }

    #[test]
    fn a_pipe_in_the_place_of_a_file_is_not_waited_for() {
        let folder = tree(&[("Dockerfile", ""), ("kept", "")]);
        for name in [".dockerignore", "Dockerfile.dockerignore"] {
            assert!(
                std::process::Command::new("mkfifo")
                    .arg(folder.path().join(name))
                    .status()
                    .unwrap()
                    .success()
            );
        }
        let (archive, mut names) =
            packed(folder.path(), &selection(".", None, &[".dockerignore"])).unwrap();
        names.sort();
        assert_eq!(
            (names, archive.left_out),
            (vec!["Dockerfile".to_owned(), "kept".to_owned()], 2)
        );
    }

    #[test]
    fn a_file_that_grows_is_packed_with_its_length_and_one_that_shrinks_is_named() {
        let folder = tree(&[("log", "four")]);
        let path = folder.path().join("log");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4751)).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        append_file(&mut builder, Path::new("grown"), &metadata, &b"four and more"[..]).unwrap();
        let error = append_file(
            &mut tar::Builder::new(Vec::new()),
            Path::new("a/shrunk"),
            &metadata,
            &b"fo"[..],
        )
        .unwrap_err();
        assert!(error.to_string().starts_with("a/shrunk: its length changed"), "{error}");
        append_open(&mut builder, Path::new("open"), File::open(&path).unwrap()).unwrap();
        // What the tar crate makes of it.
        builder.append_path_with_name(&path, "tars").unwrap();
        let bytes = builder.into_inner().unwrap();
        let mut names = Vec::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let header = entry.header().clone();
            assert_eq!(header.mode().unwrap() & 0o7777, 0o4751);
            assert_eq!(header.mtime().unwrap(), metadata.mtime().unsigned_abs());
            assert_eq!(
                (header.uid().unwrap(), header.gid().unwrap()),
                (metadata.uid().into(), metadata.gid().into())
            );
            names.push(entry.path().unwrap().display().to_string());
            assert_eq!(std::io::read_to_string(&mut entry).unwrap(), "four");
        }
        assert_eq!(names, ["grown", "open", "tars"]);
        let header_of = |name: &str| {
            let mut header = tar::Archive::new(bytes.as_slice())
                .entries()
                .unwrap()
                .map(|entry| entry.unwrap().header().clone())
                .find(|header| *header.path_bytes() == *name.as_bytes())
                .unwrap();
            header.set_path("same").unwrap();
            header.set_cksum();
            header.as_bytes().to_vec()
        };
        assert!(header_of("open") == header_of("tars"), "the same header");
    }

    #[test]
    fn holes_are_left_out() {
        let folder = tree(&[("Dockerfile", "")]);
        File::create(folder.path().join("sparse")).unwrap().set_len(64 << 20).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        pack(folder.path(), &selection(".", None, &[]), file.reopen().unwrap()).unwrap();
        let root = tempfile::tempdir().unwrap();
        unpack(file.path(), root.path()).unwrap();
        assert_eq!(fs::metadata(root.path().join("sparse")).unwrap().len(), 64 << 20);
    }

    #[test]
    fn paths_out_of_the_folder_and_bad_patterns_are_named() {
        let folder =
            tree(&[("Dockerfile", ""), ("bad/Dockerfile", ""), ("bad/.dockerignore", "a\n[b\n")]);
        fs::create_dir(folder.path().join("empty")).unwrap();
        for (selection, words) in [
            (selection("..", None, &[]), "\"..\" is outside"),
            (selection("/etc", None, &[]), "\"/etc\" is outside"),
            (selection(".", Some("a/../../x"), &[]), "\"a/../../x\" is outside"),
            (selection("bad", None, &[]), "bad/.dockerignore: line 2: \"[b\""),
            (
                selection("empty", None, &[]),
                "there is no Dockerfile: \"empty/Dockerfile\" is not a file",
            ),
            (selection("emtpy", None, &[]), "CONTEXT: there is no folder \"emtpy\""),
            (selection("Dockerfile", None, &[]), "CONTEXT: there is no folder \"Dockerfile\""),
            (
                selection("empty", Some("x/D"), &[]),
                "there is no Dockerfile: neither \"x/D\" nor \"empty/x/D\" is a file of the task's folder",
            ),
        ] {
            let error = packed(folder.path(), &selection).unwrap_err().to_string();
            assert!(error.starts_with(words), "{error}");
        }
    }
}
