//! The directory whose files are sent. Every path is resolved beneath its descriptor.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, Statx, openat, openat2, readlinkat};
use rustix::io::Errno;

use super::error::SendError;
use super::metadata::{permissions, stat_child, stat_open};

/// Longest path that the kernel takes, with its NUL.
const PATH_MAX: usize = 4096;

const NO_FOLLOW: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW);
/// `O_NONBLOCK` keeps a FIFO from blocking the thread that opens it.
const READ_FILE: OFlags =
    NO_FOLLOW.union(OFlags::RDONLY).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
const READ_DIRECTORY: OFlags = NO_FOLLOW.union(OFlags::RDONLY).union(OFlags::DIRECTORY);
/// Opens a directory for lookups only, which requires no read permission.
const SEARCH_DIRECTORY: OFlags = NO_FOLLOW.union(OFlags::PATH).union(OFlags::DIRECTORY);

/// A directory whose files a build can request.
///
/// The descriptor is opened once. Later changes to the path of the directory have no effect, and
/// symlinks in the directory are never followed.
#[derive(Debug)]
pub struct Directory {
    root: OwnedFd,
    overrides: BTreeMap<Vec<u8>, Override>,
    /// Cleared when the kernel or a seccomp profile refuses `openat2`.
    pub(super) has_openat2: AtomicBool,
}

/// Mode and owner that are sent instead of those of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// Permission bits with set-user-ID, set-group-ID and sticky bit, as in `st_mode`.
    pub mode: u32,
    /// User ID of the owner.
    pub uid: u32,
    /// Group ID of the owner.
    pub gid: u32,
}

impl Directory {
    /// Opens a directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty())?;
        Ok(Self { root, overrides: BTreeMap::new(), has_openat2: AtomicBool::new(true) })
    }

    /// Opens a directory beneath this one. No part of the path may be a symlink or lead outside.
    pub fn open_below(&self, path: &Path) -> io::Result<Self> {
        let root = self.open_directory(path.as_os_str().as_bytes())?;
        let has_openat2 = AtomicBool::new(self.has_openat2.load(Ordering::Relaxed));
        Ok(Self { root, overrides: BTreeMap::new(), has_openat2 })
    }

    /// Sets mode and owner of entries, by path relative to the directory, as they are sent.
    ///
    /// This preserves modes such as 0000 of files that were unpacked by an unprivileged user.
    #[must_use]
    pub fn with_overrides(self, overrides: BTreeMap<Vec<u8>, Override>) -> Self {
        Self { overrides, ..self }
    }

    pub(super) fn override_of(&self, path: &[u8]) -> Option<Override> {
        self.overrides.get(path).copied()
    }

    /// Opens a file beneath the directory for reading, without following symlinks.
    pub(super) fn open_file(&self, path: &[u8]) -> io::Result<OwnedFd> {
        self.open_beneath(path, READ_FILE)
    }

    /// Opens a directory beneath the directory, or the directory itself for an empty path.
    pub(super) fn open_directory(&self, path: &[u8]) -> io::Result<OwnedFd> {
        self.open_beneath(if path.is_empty() { b"." } else { path }, READ_DIRECTORY)
    }

    /// Returns the target of a symlink, or `None` if the path is not a symlink.
    pub(super) fn link_target(&self, path: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let (parent, name) = self.open_parent(path)?;
        match readlinkat(&parent, &name, Vec::new()) {
            Ok(target) => Ok(Some(target.into_bytes())),
            Err(Errno::INVAL) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the error for an entry that cannot be read, with the entry's mode and owner.
    pub(super) fn unreadable(&self, path: &[u8], source: io::Error) -> SendError {
        let stat = self.stat(path);
        let path = if path.is_empty() { PathBuf::from(".") } else { to_path(path) };
        match (source.raw_os_error().map(Errno::from_raw_os_error), stat) {
            (Some(Errno::NOENT), _) => SendError::Removed { path },
            (Some(Errno::LOOP | Errno::NOTDIR | Errno::NXIO), _) => SendError::Replaced { path },
            (_, Ok(stat)) => SendError::Unreadable {
                path,
                mode: permissions(&stat),
                uid: stat.stx_uid,
                gid: stat.stx_gid,
                source,
            },
            (_, Err(_)) => SendError::Inaccessible { path, source },
        }
    }

    fn stat(&self, path: &[u8]) -> io::Result<Statx> {
        if path.is_empty() || path == b"." {
            return stat_open(self.root.as_fd());
        }
        let (parent, name) = self.open_parent(path)?;
        stat_child(parent.as_fd(), &name)
    }

    /// Opens the directory that holds an entry, which need not be readable, and returns the
    /// entry's name in it.
    fn open_parent(&self, path: &[u8]) -> io::Result<(OwnedFd, CString)> {
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b"."[..], path),
        };
        let name = CString::new(name).map_err(|_| io::Error::from(Errno::NOENT))?;
        Ok((self.open_beneath(parent, SEARCH_DIRECTORY)?, name))
    }

    fn open_beneath(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        if path.len() < PATH_MAX && self.has_openat2.load(Ordering::Relaxed) {
            let resolve =
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            let opened = retry_on_intr(|| openat2(&self.root, path, flags, Mode::empty(), resolve));
            match opened {
                Err(Errno::NOSYS | Errno::PERM) => {
                    self.has_openat2.store(false, Ordering::Relaxed);
                }
                // The kernel reports EAGAIN if a rename elsewhere raced with the lookup.
                Err(Errno::AGAIN) => {}
                opened => return Ok(opened?),
            }
        }
        Ok(self.open_by_component(path, flags)?)
    }

    /// Opens a path one component at a time, with the same guarantees as `openat2`.
    fn open_by_component(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let mut parent: Option<OwnedFd> = None;
        let mut components = path.split(|byte| *byte == b'/').peekable();
        while let Some(component) = components.next() {
            if component == b".." || component.is_empty() {
                return Err(Errno::XDEV);
            }
            let directory = parent.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
            let is_last = components.peek().is_none();
            let flags = if is_last { flags } else { SEARCH_DIRECTORY };
            let opened = retry_on_intr(|| openat(directory, component, flags, Mode::empty()))?;
            if is_last {
                return Ok(opened);
            }
            parent = Some(opened);
        }
        Err(Errno::NOENT)
    }
}

/// Opens a directory by its name in the parent directory, without following a symlink.
pub(super) fn open_child(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    Ok(retry_on_intr(|| openat(parent, name, READ_DIRECTORY, Mode::empty()))?)
}

/// Repeats a system call that a signal interrupted.
pub(super) fn retry_on_intr<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Converts a path of the protocol.
pub(super) fn to_path(path: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(path))
}
